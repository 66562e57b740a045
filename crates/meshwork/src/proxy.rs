//! `meshwork proxy`: the sidecar's process.

use crate::BoxError;
use crate::cli::ProxyArgs;
use crate::log::LogLevel;

/// Follows the sidecar's further thread, which has not landed yet.
pub(crate) async fn run(_args: ProxyArgs, _level: LogLevel) -> Result<(), BoxError> {
    Err("this build has no sidecar yet".into())
}
