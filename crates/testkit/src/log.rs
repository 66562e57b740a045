//! What the whole process logs, for tests that ask whether something was said. Tests of one binary share it: look
//! for words that only this test can have caused.

use std::io;
use std::sync::{Mutex, Once, PoisonError};

use tracing_subscriber::filter::LevelFilter;

/// Bytes that are kept; what comes later is dropped. A scenario logs some KiB.
const BYTES_MAX: usize = 8 << 20;

static TEXT: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// The process's log, from the first `start` on.
pub struct Log;

impl Log {
    pub fn start() -> Self {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            // Another subscriber can be there only if a test set one itself; then this log stays empty.
            let _ = tracing_subscriber::fmt()
                .with_max_level(LevelFilter::INFO)
                .with_ansi(false)
                .with_writer(|| Writer)
                .try_init();
        });
        Self
    }

    /// Whether one line holds all of these.
    pub fn says(&self, parts: &[&str]) -> bool {
        let text = TEXT.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&text).lines().any(|line| parts.iter().all(|part| line.contains(part)))
    }
}

struct Writer;

impl io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut text = TEXT.lock().unwrap_or_else(PoisonError::into_inner);
        if text.len() + bytes.len() <= BYTES_MAX {
            text.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
