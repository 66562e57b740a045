//! Both sessions against each other, in every order that chance finds: streams that are lost, answers that come
//! late, damaged resources, names asked for again, services that come and go, sidecars that restart, and two
//! namespaces that ask for `cart:80`. After each step the invariants hold (`link.rs`); once it is quiet, every
//! sidecar holds exactly what its Listeners need of the truth. A failure names its seed.

mod dice;
mod link;
mod sotw;
mod wildcard;
mod world;

use std::panic::{catch_unwind, resume_unwind};
use std::thread;

use dice::Dice;
use link::Link;
use world::{NAMESPACES, World, destination, namespace};

const SEEDS: u64 = 2_000;
const STEPS: usize = 120;
/// Rounds in which all that is under way is delivered. Listener, Route, Cluster and Endpoints each ask once.
const ROUNDS_MAX: usize = 64;
/// Seeds are independent of each other.
const THREADS: u64 = 2;

#[test]
fn every_interleaving_keeps_the_rules_and_ends_in_the_truth() {
    thread::scope(|scope| {
        for part in 0..THREADS {
            scope.spawn(move || (part..SEEDS).step_by(THREADS as usize).for_each(run_named));
        }
    });
}

fn run_named(seed: u64) {
    catch_unwind(|| run(seed)).unwrap_or_else(|panic| {
        eprintln!("the seed was {seed}");
        resume_unwind(panic)
    });
}

fn run(seed: u64) {
    let dice = &mut Dice::new(seed);
    let mut world = World::new();
    let mut links: Vec<_> = (0..3).map(|number| Link::new(NAMESPACES[number % 2], number)).collect();
    for _ in 0..20 {
        world.change(dice);
    }
    for link in &mut links {
        link.connect(&world);
    }
    for _ in 0..STEPS {
        let number = dice.below(links.len());
        step(&mut links[number], &mut world, dice);
        links[number].check(&world);
    }
    world.now.damaged.clear();
    settle(&mut links, &mut world);
    for link in &links {
        link.check_settled(&world);
    }
}

fn step(link: &mut Link, world: &mut World, dice: &mut Dice) {
    match dice.below(26) {
        0..=5 => drop((0..1 + dice.below(4)).all(|_| link.deliver_up(world))),
        6..=12 => drop((0..1 + dice.below(4)).all(|_| link.deliver_down())),
        13 | 14 => link.want(&destination(dice)),
        15 => link.drop(&destination(dice)),
        16 | 17 => world.change(dice),
        18..=20 => link.notify(world),
        21 => damage_or_heal(link, world, dice),
        22 => link.resubscribe(dice),
        23 => link.want_names(&namespace(dice)),
        24 => link.drop_names(&namespace(dice)),
        _ if !link.is_connected() => link.connect(world),
        _ => match dice.below(4) {
            0 => link.restart(),
            1 => link.lose(),
            _ => {}
        },
    }
}

fn damage_or_heal(link: &Link, world: &mut World, dice: &mut Dice) {
    let held: Vec<_> = link.client.held().map(|(reference, _)| reference.clone()).collect();
    if dice.below(2) == 0 {
        world.now.damaged.pop_first();
    } else if !held.is_empty() {
        world.now.damaged.insert(dice.pick(&held).clone());
    }
}

/// Connects everyone and delivers until nothing is under way.
fn settle(links: &mut [Link], world: &mut World) {
    for link in links.iter_mut() {
        if !link.is_connected() {
            link.connect(world);
        }
        link.notify(world);
    }
    for _ in 0..ROUNDS_MAX {
        let mut moved = false;
        for link in links.iter_mut() {
            while link.deliver_up(world) {
                moved = true;
            }
            while link.deliver_down() {
                moved = true;
            }
            link.check(world);
        }
        if !moved {
            return;
        }
    }
    panic!("it never gets quiet");
}
