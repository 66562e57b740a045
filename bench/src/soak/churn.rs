//! What comes, goes and changes: an instance each second, and routes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::application::Application;
use super::sidecar::Ground;
use crate::control::plane::Operators;
use crate::failure::{Doing as _, Result};

/// Instances that may be there at a time: those that serve, and those that take their leave.
pub(super) const SLOTS: usize = 10;

/// Instances that serve at a time, beside the one that stays.
const SERVING: usize = 3;

const EACH: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct Churn {
    stopped: AtomicBool,
    instances: AtomicU64,
    routes: AtomicU64,
}

impl Churn {
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    fn goes_on(&self) -> bool {
        !self.stopped.load(Ordering::Relaxed)
    }

    /// Instances that came and went, routes that were written.
    pub(super) fn totals(&self) -> (u64, u64) {
        (self.instances.load(Ordering::Relaxed), self.routes.load(Ordering::Relaxed))
    }
}

/// One comes each second, and the oldest goes.
pub(super) async fn instances(
    ground: Ground,
    token: String,
    applications: Vec<Application>,
    churn: Arc<Churn>,
) -> Result<()> {
    let (mut serving, mut leaving) = (VecDeque::new(), JoinSet::new());
    let mut free: VecDeque<usize> = (0..applications.len()).collect();
    let mut seconds = interval(EACH);
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while churn.goes_on() {
        tokio::select! {
            _ = seconds.tick() => {}
            Some(left) = leaving.join_next() => {
                let slot: Result<usize> = left.doing(|| "an instance's leave".to_owned())?;
                free.push_back(slot?);
                continue;
            }
        }
        let Some(slot) = free.pop_front() else { continue };
        // Its identity is on its disk from the second time on, as on any machine that was there before.
        let instance = ground.serve(&format!("instance-{slot}"), &token, &applications[slot]).await?;
        serving.push_back((slot, instance));
        if serving.len() > SERVING
            && let Some((slot, oldest)) = serving.pop_front()
        {
            churn.instances.fetch_add(1, Ordering::Relaxed);
            leaving.spawn(async move { oldest.leave().await.map(|()| slot) });
        }
    }
    for (_, instance) in serving {
        instance.leave().await?;
    }
    while let Some(left) = leaving.join_next().await {
        left.doing(|| "an instance's leave".to_owned())??;
    }
    Ok(())
}

/// Another time-out for one path, and a route that comes and is replaced.
pub(super) async fn routes(operators: Operators, churn: Arc<Churn>) -> Result<()> {
    let begun = Instant::now();
    while churn.goes_on() {
        let number = churn.routes.fetch_add(1, Ordering::Relaxed);
        let (span, value) = (20 + number % 10, begun.elapsed().as_millis());
        operators
            .apply(format!(
                r#"{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: echo}}, spec: {{
  parentRefs: [{{group: "", kind: Service, name: echo, port: 80}}],
  rules: [{{matches: [{{path: {{type: PathPrefix, value: /slow}}}}], timeouts: {{request: {span}s}}, backendRefs: [{{name: echo, port: 80}}]}},
    {{filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: x-route, value: "{value}"}}]}}}}], backendRefs: [{{name: echo, port: 80}}]}}]}}}}
"#
            ))
            .await?;
        tokio::time::sleep(EACH).await;
    }
    Ok(())
}
