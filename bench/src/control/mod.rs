//! `make bench-control`: one control plane, and as many sidecars' sessions as a mesh has.
//!
//! The control plane is the real binary in a process of its own, with its store on the disk. This process is all the
//! sidecars: each with a key and a certificate of its own, its own TLS connection, its own config session
//! (`meshwork_xds::session::ClientSession`, as a sidecar's) and its own registration; without a data path.
//!
//! | file | what |
//! |---|---|
//! | `settings.rs` | which sizes, for how long |
//! | `population.rs` | the services, endpoints and callers of a mesh: pure |
//! | `plane.rs` | the control plane's process, and its operators' API |
//! | `member.rs`, `connection.rs` | one sidecar's session; its connection, of which each byte is counted |
//! | `fleet.rs` | all of them |
//! | `ledger.rs` | from what was written and what was acknowledged to how long it took: pure |
//! | `row.rs` | one measurement of one size |
//! | `table.rs` | what comes of it |

mod connection;
mod fleet;
mod ledger;
mod member;
pub(crate) mod plane;
mod population;
mod row;
mod settings;
mod table;

use std::path::PathBuf;

use crate::belongings;
use crate::failure::{Doing as _, Result, fail};
use settings::Settings;

pub(crate) fn run(root: PathBuf) -> Result<()> {
    let settings = Settings::read(root, |name| std::env::var(name).ok())?;
    if !settings.meshwork.exists() {
        return fail(format!("{} is not there: `make bench-control` builds it", settings.meshwork.display()));
    }
    crate::raise_descriptors()?;
    belongings::clean_up_on_signals()?;
    let folder = crate::make_folder(&settings.root)?;
    let mut rows = Vec::new();
    for size in &settings.sizes {
        println!("\n{size}");
        // A runtime for each, so that nothing of the one before is left. One thread: the control plane has the other core.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.doing(|| "a runtime for the sidecars".to_owned())?;
        let row = runtime.block_on(row::measure(&settings, *size, &folder));
        if row.is_err() {
            eprintln!("The control plane's log stays in {}.", folder.display());
        }
        rows.push(row?);
    }
    let _ = std::fs::remove_dir_all(&folder);
    table::publish(&settings, rows)
}
