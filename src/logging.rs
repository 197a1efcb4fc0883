//! Logs: lower-case messages with structured fields, as text or JSON lines, to stderr. The level can change while running.
//!
//! Nothing here redacts: secrets do not print in the first place (see [`crate::config::Secret`]).

use std::io::IsTerminal;
use std::str::FromStr;

use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};

use crate::config::{LogFormat, LoggingConfig};

/// Changes the level of a running process.
#[derive(Debug, Clone)]
pub struct Handle(reload::Handle<EnvFilter, Registry>);

impl Handle {
    /// Logs by `level` from now on. What librdkafka itself says keeps the level it was started with.
    ///
    /// # Errors
    /// When `level` is no directive; then the old one holds.
    pub fn set_level(&self, level: &str) -> Result<(), String> {
        let filter = filter(level)?;
        self.0.reload(filter).map_err(|error| error.to_string())
    }
}

/// Starts logging for the whole process.
///
/// # Errors
/// When logging was started before, or the level is no directive.
pub fn init(config: &LoggingConfig) -> Result<Handle, String> {
    let (filter, handle) = reload::Layer::new(filter(&config.level)?);
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let lines = match config.format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).boxed(),
    };
    let registry = tracing_subscriber::registry().with(filter).with(lines);
    registry.try_init().map_err(|error| error.to_string())?;
    Ok(Handle(handle))
}

/// The filter for a directive such as `info` or `info,sla_ledger::kafka=debug`.
///
/// # Errors
/// With what is wrong. A word that is no level is refused, where `EnvFilter` would take it for the name of a module and show
/// everything that module logs, and nothing else.
pub fn filter(directive: &str) -> Result<EnvFilter, String> {
    let parts: Vec<_> = directive.split(',').map(str::trim).collect();
    let level = |part: &str| !part.is_empty() && LevelFilter::from_str(part).is_ok();
    if let Some(word) = parts.iter().find(|part| !part.contains(['=', '[']) && !level(part)) {
        return Err(format!("`{}` is no level", word.escape_debug()));
    }
    EnvFilter::builder().parse(parts.join(",")).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives() {
        for (directive, fine) in [
            ("info", true),
            ("off", true),
            ("info,sla_ledger::kafka=debug", true),
            ("warn, sla_ledger=trace", true),
            ("inof", false),
            ("", false),
            ("info,", false),
            ("info,sla_ledger=loud", false),
            ("sla_ledger", false),
        ] {
            assert_eq!(filter(directive).is_ok(), fine, "{directive}");
        }
    }
}
