//! `meshwork version`: what this binary is.

use serde_json::json;

use crate::BoxError;
use crate::cli::VersionArgs;
use crate::output;

pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

pub(crate) fn print(args: &VersionArgs) -> Result<(), BoxError> {
    // Set by whoever builds a release; a build from a tarball knows no commit.
    let commit = option_env!("MESHWORK_COMMIT").unwrap_or("unknown");
    let (target, rustc) = (env!("MESHWORK_TARGET"), env!("MESHWORK_RUSTC"));
    let version = json!({ "version": VERSION, "commit": commit, "target": target, "rustc": rustc });
    let line = format!("meshwork {VERSION} (commit {commit}, {target}, rustc {rustc})");
    Ok(output::print(args.output.output, &version, |_| line)?)
}
