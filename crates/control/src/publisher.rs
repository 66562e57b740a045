//! Puts the next version of the mesh where everybody reads it, and tells those whom it concerns.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::metrics::Metrics;
use crate::push::Memo;
use crate::sessions::Sessions;
use crate::view::View;

/// Where the next version is put, and who hears of it.
pub(crate) struct Publisher {
    views: watch::Sender<Arc<View>>,
    memo: Arc<Memo>,
    sessions: Arc<Sessions>,
    metrics: Arc<Metrics>,
}

impl Publisher {
    pub(crate) fn new(
        views: watch::Sender<Arc<View>>,
        memo: Arc<Memo>,
        sessions: Arc<Sessions>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { views, memo, sessions, metrics }
    }

    pub(crate) fn current(&self) -> Arc<View> {
        Arc::clone(&self.views.borrow())
    }

    /// In this order: nobody who sees it is given what was made for the one before, and who is told of it can see it.
    /// `begun`: when the first of its changes became known.
    pub(crate) fn publish(&self, view: View, begun: Instant) {
        let view = Arc::new(view);
        self.memo.advance(&view);
        self.views.send_replace(Arc::clone(&view));
        self.sessions.tell(&view, &self.metrics.push(begun));
    }
}
