//! Callers under load: several clients, each with one request after the other, GET and POST in turn. Every answer
//! is judged: status, cause and body.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::client::{Answer, Client, get, post};
use crate::{Sidecar, eventually};

/// Failures that are kept word for word.
const FAILURES_MAX: usize = 10;

/// Clients at work. Dropped, they are gone.
pub struct Load {
    stop: CancellationToken,
    answered: Arc<AtomicUsize>,
    clients: JoinSet<Tally>,
}

#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub answered: usize,
    pub failed: usize,
    /// The first of them.
    pub failures: Vec<String>,
}

impl Load {
    /// `http://cart/path` through that sidecar, by so many clients at once.
    pub fn start(sidecar: &Sidecar, url: &str, clients: usize) -> Self {
        Self::through(sidecar.outbound_http(), url, clients)
    }

    /// The same through whatever proxy listens there.
    pub fn through(proxy: SocketAddr, url: &str, clients: usize) -> Self {
        let (stop, answered) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
        let mut all = JoinSet::new();
        for number in 0..clients {
            let caller = Caller { client: Client::new(proxy), url: url.to_owned(), number, asked: 0 };
            all.spawn(caller.call(stop.clone(), answered.clone()));
        }
        Self { stop, answered, clients: all }
    }

    /// Answers so far.
    pub fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    /// Waits for so many more answers.
    pub async fn goes_on(&self, more: usize) {
        let until = self.answered() + more;
        eventually(&format!("{more} more answers"), async || self.answered() >= until).await;
    }

    /// Lets every client finish its request, and adds up.
    ///
    /// # Panics
    /// If a client did.
    pub async fn stop(self) -> Tally {
        self.stop.cancel();
        let mut sum = Tally::default();
        for tally in self.clients.join_all().await {
            sum.answered += tally.answered;
            sum.failed += tally.failed;
            sum.failures.extend(tally.failures);
        }
        sum.failures.truncate(FAILURES_MAX);
        sum
    }
}

struct Caller {
    client: Client,
    url: String,
    number: usize,
    asked: usize,
}

impl Caller {
    async fn call(mut self, stop: CancellationToken, answered: Arc<AtomicUsize>) -> Tally {
        let mut tally = Tally::default();
        while !stop.is_cancelled() {
            match self.once().await {
                Ok(()) => tally.answered += 1,
                Err(failure) => {
                    tally.failed += 1;
                    if tally.failures.len() < FAILURES_MAX {
                        tally.failures.push(failure);
                    }
                }
            }
            answered.fetch_add(1, Ordering::Relaxed);
        }
        tally
    }

    async fn once(&mut self) -> Result<(), String> {
        self.asked += 1;
        let mark = format!("caller {} request {}", self.number, self.asked);
        let (request, expect) = match self.asked % 2 {
            0 => (get(&self.url), ""),
            _ => (post(&self.url, &mark), mark.as_str()),
        };
        let answer = self.client.send(request).await.map_err(|error| format!("{mark}: {error}"))?;
        judge(&answer, expect).map_err(|failure| format!("{mark}: {failure}"))
    }
}

fn judge(answer: &Answer, expect: &str) -> Result<(), String> {
    if answer.status != 200 || answer.cause().is_some() {
        return Err(format!("{} {:?}: {}", answer.status, answer.cause(), answer.text()));
    }
    if answer.text() != expect {
        return Err(format!("the body of another request: {:?}", answer.text()));
    }
    Ok(())
}
