//! What was meant, against what arrived: no request reaches an application that a strict parser would have split
//! otherwise.

use crate::recorder::Recorder;
use crate::second;
use crate::strict::{Request, Rest};

#[derive(Default)]
pub(crate) struct Ledger {
    cases: usize,
    /// Requests that strict parsers find in what clients sent, each of which may arrive once.
    meant: Vec<Request>,
}

impl Ledger {
    pub(crate) fn case(&mut self, meant: impl IntoIterator<Item = Request>) {
        self.cases += 1;
        self.meant.extend(meant);
    }

    /// The application may have got fewer, as a proxy may be stricter, but no other ones.
    #[track_caller]
    pub(crate) fn settle(mut self, what: &str, recorder: &Recorder) {
        let (requests, rests) = recorder.received();
        let refused: Vec<_> = rests.iter().filter(|rest| matches!(rest, Rest::Refused(_))).collect();
        assert!(
            refused.is_empty(),
            "{what}: the application got what it may split otherwise: {refused:?}\n{}",
            recorder.transcript()
        );
        let arrived = requests.len();
        for request in requests.into_iter().filter(|request| request.path != "/ready") {
            let meant = self.meant.iter().position(|meant| *meant == request);
            let meant = meant.unwrap_or_else(|| panic!("{what}: nobody meant to send {request:?}"));
            self.meant.swap_remove(meant);
        }
        println!("{what}: {} cases, {arrived} requests arrived, 0 of them split otherwise", self.cases);
        if let Some(mut second) = second::Judge::start() {
            let alike: usize = recorder.connections().iter().map(|bytes| second.agrees(bytes)).sum();
            assert!(alike >= arrived, "{what}: Node was asked of {alike} requests only");
            println!("{what}: {alike} requests, and Node splits each alike");
        }
    }
}
