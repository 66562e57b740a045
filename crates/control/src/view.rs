//! What the mesh is now, for everyone who reads: one immutable version at a time.

use std::sync::Arc;

use meshwork_core::model::MeshConfig;
use tokio::sync::watch;

/// One version of everything.
#[derive(Debug, Default)]
pub(crate) struct View {
    pub(crate) settings: MeshConfig,
}

/// Where readers get the current version.
#[derive(Clone)]
pub(crate) struct Views(watch::Receiver<Arc<View>>);

impl Views {
    pub(crate) fn new() -> (watch::Sender<Arc<View>>, Self) {
        let (sender, receiver) = watch::channel(Arc::default());
        (sender, Self(receiver))
    }

    pub(crate) fn current(&self) -> Arc<View> {
        Arc::clone(&self.0.borrow())
    }
}
