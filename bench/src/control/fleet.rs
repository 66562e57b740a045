//! All sidecars of a mesh, in this process.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::member::{Heard, Member, Told};
use super::plane::Operators;
use super::population::Population;
use crate::failure::{Doing as _, Failure, Result, fail};

/// Who enrols at a time: joining is not what is measured.
const ENROLLING_MAX: usize = 32;

/// Far above what anybody may take.
const STEADY_MAX: Duration = Duration::from_secs(180);

pub(super) struct Fleet {
    pub(super) members: Vec<Arc<Member>>,
    pub(super) told: Arc<Told>,
    living: JoinSet<()>,
}

impl Fleet {
    pub(super) async fn enrol(population: Population, operators: &Operators) -> Result<Self> {
        let mut tokens = Vec::new();
        for service in 0..population.0.services {
            tokens
                .push(operators.token(&Population::service(service), &Population::namespace(service)).await?);
        }
        let (tokens, next) = (Arc::new(tokens), Arc::new(AtomicUsize::new(0)));
        let mut enrolling = JoinSet::new();
        for _ in 0..ENROLLING_MAX {
            let (tokens, next) = (Arc::clone(&tokens), Arc::clone(&next));
            enrolling.spawn(async move {
                let mut members = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= population.0.sidecars {
                        return Ok::<_, Failure>(members);
                    }
                    let token = &tokens[population.service_of(number)];
                    members.push(Arc::new(Member::enrol(number, population, token).await?));
                }
            });
        }
        let mut members = Vec::new();
        while let Some(done) = enrolling.join_next().await {
            members.extend(done.doing(|| "enrolling".to_owned())??);
        }
        members.sort_unstable_by_key(|member| member.number);
        let told = Told { begun: Instant::now(), steady: watch::Sender::new(0), heard: Mutex::default() };
        Ok(Self { members, told: Arc::new(told), living: JoinSet::new() })
    }

    /// All at once, without a pause that would spread them. Gives how long it took until the last was steady.
    pub(super) async fn connect(&mut self) -> Result<Duration> {
        self.told.steady.send_replace(0);
        let begun = Instant::now();
        for member in &self.members {
            let (member, told) = (Arc::clone(member), Arc::clone(&self.told));
            self.living.spawn(async move {
                if let Err(failure) = member.live(&told).await {
                    told.hear(|heard| heard.failures.push(failure.to_string()));
                }
            });
        }
        let mut steady = self.told.steady.subscribe();
        let all = self.members.len();
        let reached = tokio::select! {
            reached = tokio::time::timeout(STEADY_MAX, steady.wait_for(|steady| *steady == all)) => reached.is_ok(),
            // A sidecar that ended will never be steady.
            Some(_) = self.living.join_next() => false,
        };
        if !reached {
            let failures = self.take().failures;
            let why = failures.first().map_or("no reason was given", String::as_str);
            return fail(format!("{} of {all} sidecars are steady: {why}", *self.told.steady.borrow()));
        }
        Ok(begun.elapsed())
    }

    pub(super) async fn disconnect(&mut self) {
        self.living.shutdown().await;
        self.take();
    }

    /// What was heard since the last time.
    pub(super) fn take(&self) -> Heard {
        std::mem::take(&mut self.told.heard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn received(&self) -> u64 {
        self.members.iter().map(|member| member.counts.received()).sum()
    }
}
