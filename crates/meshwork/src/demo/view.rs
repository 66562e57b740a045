//! What the demo shows: a picture that is redrawn, or lines; and the story, one sentence at a time.
//!
//! Drawn with plain escape sequences (ECMA-48): home, clear to the line's end, clear below.

use std::collections::VecDeque;
use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use super::scrape::Sample;
use crate::output::Table;

/// Sentences under the picture.
const STORY_LINES: usize = 8;

/// In lines: seconds between two lines of figures.
const LINE_EVERY: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Screen {
    /// Redrawn in place.
    Picture,
    Lines,
}

/// One service in one second.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) service: &'static str,
    pub(super) instances: usize,
    pub(super) kind: RowKind,
    pub(super) delta: Sample,
    pub(super) seconds: f64,
    /// TLS handshakes that succeeded since the sidecars' start.
    pub(super) handshakes: u64,
    /// `v1 90 %, v2 10 %`; empty: nothing to tell.
    pub(super) versions: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RowKind {
    Http,
    /// Opaque: no requests to be counted.
    Tcp,
}

#[derive(Debug)]
pub(super) struct View {
    screen: Screen,
    started: Instant,
    story: VecDeque<String>,
    rows: Vec<Row>,
    drawn: bool,
    last_line: Option<Instant>,
}

impl View {
    pub(super) fn new(screen: Screen) -> Self {
        Self {
            screen,
            started: Instant::now(),
            story: VecDeque::new(),
            rows: vec![],
            drawn: false,
            last_line: None,
        }
    }

    /// Tells the next sentence of the story.
    pub(super) fn say(&mut self, sentence: &str) {
        let line = format!("{:>5.1}s  {sentence}", self.started.elapsed().as_secs_f64());
        match self.screen {
            Screen::Lines => print(&format!("{line}\n")),
            Screen::Picture => {
                self.story.push_back(line);
                if self.story.len() > STORY_LINES {
                    self.story.pop_front();
                }
                self.draw();
            }
        }
    }

    pub(super) fn show(&mut self, rows: Vec<Row>) {
        self.rows = rows;
        match self.screen {
            Screen::Picture => self.draw(),
            Screen::Lines if self.last_line.is_none_or(|last| last.elapsed() >= LINE_EVERY) => {
                self.last_line = Some(Instant::now());
                print(&format!("{}\n", self.line()));
            }
            Screen::Lines => {}
        }
    }

    fn draw(&mut self) {
        let mut frame = String::from(if self.drawn { "\x1b[H" } else { "\x1b[2J\x1b[H" });
        self.drawn = true;
        let elapsed = self.started.elapsed().as_secs();
        frame.push_str(&format!(
            "\x1b[1mmeshwork demo\x1b[0m  {elapsed} s   (Ctrl-C ends it)\x1b[K\n\x1b[K\n"
        ));
        for line in self.table().to_string().lines().chain([""]).chain(self.story.iter().map(|line| &**line))
        {
            frame.push_str(line);
            frame.push_str("\x1b[K\n");
        }
        frame.push_str("\x1b[J");
        print(&frame);
    }

    fn table(&self) -> Table {
        let mut table = Table::new(&[
            "SERVICE",
            "INSTANCES",
            "REQUESTS/S",
            "SUCCESS",
            "P50 MS",
            "P99 MS",
            "MTLS",
            "VERSIONS",
        ]);
        for row in &self.rows {
            let mut cells = vec![row.service.to_owned(), row.instances.to_string()];
            cells.extend(row.figures());
            cells.extend([row.mtls().to_owned(), row.versions.clone()]);
            table.row(cells);
        }
        table
    }

    fn line(&self) -> String {
        let elapsed = self.started.elapsed().as_secs_f64();
        let http = self.rows.iter().filter(|row| row.kind == RowKind::Http);
        let services = http.map(|row| {
            let [rate, success, p50, p99] = row.figures();
            let versions =
                if row.versions.is_empty() { String::new() } else { format!(" ({})", row.versions) };
            format!("{} {rate}/s {success} p50 {p50} p99 {p99} ms{versions}", row.service)
        });
        format!("{elapsed:>5.1}s  {}", services.collect::<Vec<_>>().join(" | "))
    }
}

impl Row {
    /// Rate, success, p50, p99.
    fn figures(&self) -> [String; 4] {
        let ms = |percent| {
            self.delta.percentile_ms(percent).map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1}"))
        };
        match self.kind {
            RowKind::Tcp => ["tcp", "-", "-", "-"].map(str::to_owned),
            RowKind::Http => {
                let (requests, failed) = (self.delta.requests as f64, self.delta.failed as f64);
                let success = if requests > 0.0 {
                    format!("{:.2}%", 100.0 * (1.0 - failed / requests))
                } else {
                    "-".to_owned()
                };
                [format!("{:.0}", requests / self.seconds.max(0.001)), success, ms(50), ms(99)]
            }
        }
    }

    /// Whether every request came from (or went to) a peer that its certificate names.
    fn mtls(&self) -> &'static str {
        match (self.kind, self.delta.requests, self.delta.verified) {
            // Opaque bytes are no requests; their connections are counted as they are made.
            (RowKind::Tcp, ..) if self.handshakes > 0 => "yes",
            (RowKind::Tcp, ..) => "-",
            (RowKind::Http, 0, _) => "-",
            (RowKind::Http, requests, verified) if requests == verified => "yes",
            (RowKind::Http, ..) => "NO",
        }
    }
}

/// A terminal that is gone must not end the demo before its children.
fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(kind: RowKind, requests: u64, failed: u64, verified: u64) -> Row {
        let delta = Sample { requests, failed, verified, ..Sample::default() };
        Row {
            service: "cart",
            instances: 1,
            kind,
            delta,
            seconds: 2.0,
            handshakes: 0,
            versions: String::new(),
        }
    }

    #[test]
    fn figures_are_those_of_the_last_look() {
        assert_eq!(row(RowKind::Http, 200, 1, 200).figures(), ["100", "99.50%", "-", "-"]);
        assert_eq!(row(RowKind::Http, 0, 0, 0).figures(), ["0", "-", "-", "-"]);
        assert_eq!(row(RowKind::Tcp, 0, 0, 0).figures()[0], "tcp");
    }

    #[test]
    fn one_request_without_a_verified_peer_is_shown() {
        assert_eq!(row(RowKind::Http, 200, 0, 200).mtls(), "yes");
        assert_eq!(row(RowKind::Http, 200, 0, 199).mtls(), "NO");
        assert_eq!(row(RowKind::Http, 0, 0, 0).mtls(), "-");
        assert_eq!(row(RowKind::Tcp, 0, 0, 0).mtls(), "-");
        assert_eq!(Row { handshakes: 1, ..row(RowKind::Tcp, 0, 0, 0) }.mtls(), "yes");
    }
}
