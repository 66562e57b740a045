//! Writes down what two sidecars of this version say to each other: `make record-wire`, at each release. The next version's test
//! (`tests/h2/skew/mod.rs`) holds itself to it.
//!
//! Hexadecimal digits: `>` what the one that asks says, `<` what the other one answers.

#[path = "../tests/h2/skew/story.rs"]
mod story;

fn main() {
    let (mut asked, mut answered) = (Vec::new(), Vec::new());
    story::ask(&mut asked);
    story::answer(&asked, &mut answered);
    for (direction, bytes) in [('>', asked), ('<', answered)] {
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        println!("{direction} {digits}");
    }
}
