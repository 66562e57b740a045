//! What the mesh is now, for everyone who reads: one immutable version at a time.

use std::sync::Arc;

use meshwork_core::mesh::{Changed, Mesh};
use tokio::sync::watch;

/// One version of everything.
#[derive(Debug, Default)]
pub(crate) struct View {
    /// Counts up with every version of this process; 0 is the first.
    pub(crate) number: u64,
    /// The store's, as of which this is. Health is not in the store, so several views may have one revision.
    pub(crate) revision: u64,
    pub(crate) mesh: Mesh,
    /// What differs from the view before.
    pub(crate) changed: Arc<Changed>,
}

/// Where readers get the current version.
#[derive(Clone)]
pub(crate) struct Views(watch::Receiver<Arc<View>>);

impl Views {
    pub(crate) fn new(first: View) -> (watch::Sender<Arc<View>>, Self) {
        let (sender, receiver) = watch::channel(Arc::new(first));
        (sender, Self(receiver))
    }

    pub(crate) fn current(&self) -> Arc<View> {
        Arc::clone(&self.0.borrow())
    }

    /// The current version; `next` goes on from it.
    fn newest(&mut self) -> Arc<View> {
        Arc::clone(&self.0.borrow_and_update())
    }

    /// The current version, unless this handle has given it before.
    pub(crate) fn if_changed(&mut self) -> Option<Arc<View>> {
        self.0.has_changed().unwrap_or(false).then(|| self.newest())
    }

    /// As if nothing had been given yet.
    pub(crate) fn forget(&mut self) {
        self.0.mark_changed();
    }

    /// The first version that knows the store's `revision`; `None` once the control plane ends.
    pub(crate) async fn at_least(&mut self, revision: u64) -> Option<Arc<View>> {
        let mut view = self.newest();
        while view.revision < revision {
            view = self.next().await?;
        }
        Some(view)
    }

    /// The next version that this handle has not given yet; `None` once the control plane ends.
    pub(crate) async fn next(&mut self) -> Option<Arc<View>> {
        self.0.changed().await.ok()?;
        Some(Arc::clone(&self.0.borrow_and_update()))
    }
}
