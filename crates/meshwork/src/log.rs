//! Where log lines go: standard error, as text or JSON, with a filter that can be exchanged at run time.

use std::io::IsTerminal as _;

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use crate::cli::{LogArgs, LogFormat};

#[derive(Debug, thiserror::Error)]
#[error(
    "{filter:?} is no log filter: {reason}; give a level (error, warn, info, debug, trace) or module=level,…"
)]
pub(crate) struct InvalidFilter {
    filter: String,
    reason: String,
}

/// Exchanges the filter of a running process.
#[derive(Clone, Debug)]
pub(crate) struct LogLevel(reload::Handle<EnvFilter, Registry>);

impl LogLevel {
    pub(crate) fn set(&self, filter: &str) -> Result<(), InvalidFilter> {
        let parsed = parse(filter)?;
        let invalid =
            |error: reload::Error| InvalidFilter { filter: filter.to_owned(), reason: error.to_string() };
        self.0.reload(parsed).map_err(invalid)
    }
}

pub(crate) fn start(args: &LogArgs) -> Result<LogLevel, InvalidFilter> {
    let (filter, handle) = reload::Layer::new(parse(&args.log)?);
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let registry = tracing_subscriber::registry().with(filter);
    let started = match args.log_format {
        LogFormat::Text => registry.with(lines).try_init(),
        LogFormat::Json => registry.with(lines.json()).try_init(),
    };
    started.map_err(|error| InvalidFilter { filter: args.log.clone(), reason: error.to_string() })?;
    Ok(LogLevel(handle))
}

fn parse(filter: &str) -> Result<EnvFilter, InvalidFilter> {
    let invalid = |error: &dyn std::fmt::Display| InvalidFilter {
        filter: filter.to_owned(),
        reason: error.to_string(),
    };
    if filter.trim().is_empty() {
        return Err(invalid(&"it is empty"));
    }
    EnvFilter::try_new(filter).map_err(|error| invalid(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_a_level_or_levels_by_module() {
        for filter in ["info", "warn,meshwork_proxy=debug", "off"] {
            assert!(parse(filter).is_ok(), "{filter}");
        }
        for filter in ["", "x=y=z", "meshwork=loud"] {
            assert!(parse(filter).is_err(), "{filter}");
        }
    }
}
