//! Both ends of the engine, connected by queues of bytes, in drawn orders: what is delivered when and in what pieces, who
//! goes on next, who is slow, who gives up, who goes away, and where the connection is lost.
//!
//! A seed is the whole input. After each connection that was not lost nothing may be left open, every exchange must have an
//! outcome that both ends agree on, and `judge.rs` has looked at every frame.

use std::rc::Rc;
use std::time::Duration;

use meshwork_http::Instant;
use meshwork_http::h2::{Certainty, Limits};

use crate::end::{End, Outcome, Progress, Side, Tally, Wire};
use crate::exchange::{Exchange, Trouble, Troubles};
use crate::judge::Judge;
use crate::random::Random;

/// What happens to the connection as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Kept,
    /// At some step nothing is delivered any more.
    Lost,
    /// An end goes away, and the other one learns it while requests are under way.
    Drained(Side),
    /// One byte of the client's is another one.
    Corrupted,
}

struct World {
    client: End,
    server: End,
    to_client: Vec<u8>,
    to_server: Vec<u8>,
    judges: Option<[Judge; 2]>,
    now: Instant,
    exchanges: Rc<[Exchange]>,
}

impl World {
    fn new(random: &mut Random, troubles: Troubles, fate: Fate) -> Self {
        let count = 1 + random.below(25);
        let mut exchanges = Exchange::list(random, count, troubles);
        exchanges
            .iter_mut()
            .filter(|exchange| exchange.path.len() % 11 == 0)
            .for_each(|exchange| exchange.dig(random));
        let exchanges: Rc<[Exchange]> = exchanges.into();
        let (client, server) = (limits(random), limits(random));
        Self {
            client: End::new(Side::Client, client, exchanges.clone()),
            server: End::new(Side::Server, server, exchanges.clone()),
            to_client: Vec::new(),
            to_server: Vec::new(),
            judges: (fate != Fate::Corrupted).then(|| [Judge::new(Side::Client), Judge::new(Side::Server)]),
            now: Instant::from_millis(1_000),
            exchanges,
        }
    }

    /// One small thing, anywhere.
    fn step(&mut self, random: &mut Random) {
        match random.below(16) {
            0..3 => self.deliver(Side::Server, 1 + random.below(2_000)),
            3..6 => self.deliver(Side::Client, 1 + random.below(2_000)),
            6 => self.deliver(Side::Server, 1 + random.below(12)),
            7 => self.deliver(Side::Client, 1 + random.below(12)),
            8..11 => _ = self.client.act(random, self.now),
            11..14 => _ = self.server.act(random, self.now),
            14 => self.now += Duration::from_micros(random.below(3_000) as u64),
            _ if random.once_in(4) => {
                let end = if random.once_in(2) { &mut self.client } else { &mut self.server };
                end.engine.ping(self.now, &mut end.out);
            }
            _ => {}
        }
        self.collect();
    }

    /// What was written gets on its way.
    fn collect(&mut self) {
        if let Some([client, server]) = &mut self.judges {
            client.wrote(&self.client.out);
            server.wrote(&self.server.out);
        }
        self.to_server.append(&mut self.client.out);
        self.to_client.append(&mut self.server.out);
    }

    fn deliver(&mut self, to: Side, length: usize) {
        let (end, queue, place) = match to {
            Side::Client => (&mut self.client, &mut self.to_client, 0),
            Side::Server => (&mut self.server, &mut self.to_server, 1),
        };
        let length = length.min(queue.len());
        if let Some(judges) = &mut self.judges {
            judges[place].received(&queue[..length]);
        }
        let result = end.receive(&queue[..length], self.now);
        queue.drain(..length);
        assert!(result.is_ok() || end.wire == Wire::Corrupt, "{to:?}: {result:?}");
    }

    /// All that can still happen without anybody's giving up.
    fn settle(&mut self, random: &mut Random) {
        loop {
            self.collect();
            let on_way = self.to_server.len() + self.to_client.len();
            self.deliver(Side::Server, usize::MAX);
            self.deliver(Side::Client, usize::MAX);
            self.now += Duration::from_micros(50);
            let acted = self.client.act_all(random, self.now) | self.server.act_all(random, self.now);
            self.collect();
            if on_way == 0 && !acted && self.to_server.is_empty() && self.to_client.is_empty() {
                return;
            }
        }
    }

    /// Nobody may have acted on what is said not to have been processed.
    fn check_certainty(&self) {
        let acted_on = self.client.not_processed.intersection(&self.server.told).collect::<Vec<_>>();
        assert!(acted_on.is_empty(), "said not to be processed, and told to the driver: {acted_on:?}");
    }

    fn tally(&self) -> Tally {
        let mut tally = self.client.tally;
        tally += self.server.tally;
        tally
    }

    fn check_settled(&self, fate: Fate) {
        self.check_certainty();
        assert!(self.server.is_idle());
        assert!(
            self.client.is_idle() || self.client.engine.is_draining(),
            "requests wait though streams are free"
        );
        self.client.assert_clean();
        self.server.assert_clean();
        for (number, exchange) in self.exchanges.iter().enumerate() {
            let (client, server) = (self.client.outcomes[number], self.server.outcomes[number]);
            check_outcome(exchange, client, server, fate);
        }
    }
}

fn check_outcome(exchange: &Exchange, client: Option<Outcome>, server: Option<Outcome>, fate: Fate) {
    let Some(client) = client else {
        assert!(matches!(fate, Fate::Drained(_)) && server.is_none(), "an exchange without an outcome");
        return;
    };
    let unprocessed = client.reset.is_some_and(|reset| reset.certainty == Certainty::NotProcessed);
    let Some(server) = server else {
        // Cancelled before the server's driver heard of it, or told not to have reached it.
        let cancelled = matches!(exchange.trouble, Trouble::ClientCancels { .. });
        assert!(
            cancelled || (unprocessed && matches!(fate, Fate::Drained(_))),
            "the server never saw it: {client:?}"
        );
        return;
    };
    if exchange.trouble == Trouble::None {
        let whole = Outcome { sent: Progress::Whole, received: Progress::Whole, reset: None };
        assert_eq!((client, server), (whole, whole), "{exchange:?}");
    }
    if exchange.trouble == Trouble::ServerAnswersEarly {
        assert_eq!(
            client.received,
            Progress::Whole,
            "an early answer is an answer: {exchange:?} {client:?} {server:?}"
        );
    }
}

fn limits(random: &mut Random) -> Limits {
    let default = Limits::default();
    Limits {
        streams_max: random.pick(&[1, 2, 5, 256]),
        connection_window_bytes: random.pick(&[65_535, 100_000, default.connection_window_bytes]),
        header_table_bytes_max: random.pick(&[4_096, 4_096, 0, 200, 65_536]),
        ..default
    }
}

fn run(seed: u64, troubles: Troubles, fate: Fate) -> Tally {
    let mut random = Random::new(seed);
    let mut world = World::new(&mut random, troubles, fate);
    let steps = 50 + random.below(1_500);
    let turn = random.below(steps);
    for step in 0..steps {
        if step == turn {
            match fate {
                Fate::Kept => {}
                Fate::Lost => {
                    world.check_certainty();
                    return world.tally();
                }
                Fate::Drained(Side::Client) => world.client.engine.drain(&mut world.client.out),
                Fate::Drained(Side::Server) => world.server.engine.drain(&mut world.server.out),
                Fate::Corrupted => {
                    (world.client.wire, world.server.wire) = (Wire::Corrupt, Wire::Corrupt);
                    if let Some(at) = random.below(world.to_server.len() + 1).checked_sub(1) {
                        world.to_server[at] ^= 1 << random.below(8);
                    }
                }
            }
        }
        world.step(&mut random);
    }
    world.settle(&mut random);
    match fate {
        Fate::Kept | Fate::Lost | Fate::Drained(_) => world.check_settled(fate),
        Fate::Corrupted => world.check_certainty(),
    }
    world.tally()
}

/// Runs seeds, and names the one that fails.
fn run_all(seeds: std::ops::Range<u64>, troubles: Troubles, fate: Fate) -> Tally {
    let mut tally = Tally::default();
    for seed in seeds {
        let run = std::panic::AssertUnwindSafe(|| run(seed, troubles, fate));
        match std::panic::catch_unwind(run) {
            Ok(one) => tally += one,
            Err(panic) => {
                eprintln!("this was seed {seed} of {troubles:?}, {fate:?}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    eprintln!("{troubles:?}, {fate:?}: {tally:?}");
    tally
}

#[test]
fn every_exchange_arrives_whole() {
    let tally = run_all(0..800, Troubles::Never, Fate::Kept);
    assert!(tally.whole > 10_000 && tally.out_of_room > 500 && tally.index_again > 5_000, "{tally:?}");
    assert!(tally.refused > 10 && tally.refused == tally.resets, "refused ones were tried again: {tally:?}");
}

#[test]
fn whoever_gives_up_spoils_only_his_own_exchange() {
    let tally = run_all(10_000..11_000, Troubles::Sometimes, Fate::Kept);
    assert!(tally.whole > 10_000 && tally.resets > 300 && tally.out_of_room > 500, "{tally:?}");
}

#[test]
fn a_lost_connection_never_makes_a_processed_request_look_unprocessed() {
    let tally = run_all(20_000..20_600, Troubles::Sometimes, Fate::Lost);
    assert!(tally.not_processed > 10, "{tally:?}");
}

#[test]
fn a_server_that_goes_away_loses_no_request() {
    run_all(30_000..30_500, Troubles::Never, Fate::Drained(Side::Server));
    run_all(31_000..31_400, Troubles::Sometimes, Fate::Drained(Side::Server));
}

#[test]
fn a_client_that_goes_away_finishes_what_it_began() {
    run_all(40_000..40_400, Troubles::Sometimes, Fate::Drained(Side::Client));
}

#[test]
fn a_corrupted_connection_never_makes_a_processed_request_look_unprocessed() {
    let tally = run_all(50_000..50_800, Troubles::Sometimes, Fate::Corrupted);
    assert!(tally.errors > 300 && tally.not_processed > 20, "{tally:?}");
}
