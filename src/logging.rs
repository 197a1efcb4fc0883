//! Logs: lower-case messages with structured fields, as text or JSON lines, to stderr. The level can change while running.
//!
//! Nothing here redacts: secrets do not print in the first place (see [`crate::config::Secret`]).

use std::io::IsTerminal;
use std::str::FromStr;

use tracing::Subscriber;
use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::fmt::MakeWriter;
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
    let (subscriber, handle) = subscriber(config, std::io::stderr().is_terminal(), std::io::stderr)?;
    subscriber.try_init().map_err(|error| error.to_string())?;
    Ok(handle)
}

fn subscriber<W>(config: &LoggingConfig, color: bool, out: W) -> Result<(impl Subscriber, Handle), String>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(filter(&config.level)?);
    let lines = fmt::layer().with_writer(out).with_ansi(color);
    let lines = match config.format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed(),
    };
    Ok((tracing_subscriber::registry().with(filter).with(lines), Handle(handle)))
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
    use std::io::{Read, Seek};
    use std::sync::Arc;

    use super::*;

    /// What is written while `talk` runs.
    fn logged(format: LogFormat, talk: impl FnOnce(&Handle)) -> String {
        let lines = Arc::new(tempfile::tempfile().expect("a file"));
        let config = LoggingConfig { format, ..LoggingConfig::default() };
        let (subscriber, handle) = subscriber(&config, false, lines.clone()).expect("a valid level");
        tracing::subscriber::with_default(subscriber, || talk(&handle));
        let mut text = String::new();
        (&*lines).rewind().and_then(|()| (&*lines).read_to_string(&mut text)).expect("what was written");
        text
    }

    #[test]
    fn text_and_json() {
        let talk = |_: &Handle| tracing::warn!(topic = "calls", offset = 7, "a gap in the source");
        let text = logged(LogFormat::Text, talk);
        assert!(
            text.ends_with(" WARN sla_ledger::logging::tests: a gap in the source topic=\"calls\" offset=7\n"),
            "{text}"
        );
        let json: serde_json::Value = serde_json::from_str(&logged(LogFormat::Json, talk)).expect("one object");
        assert_eq!((&json["level"], &json["message"]), (&"WARN".into(), &"a gap in the source".into()));
        assert_eq!((&json["topic"], &json["offset"]), (&"calls".into(), &7.into()));
    }

    #[test]
    fn the_level_changes_while_running() {
        let text = logged(LogFormat::Text, |handle| {
            tracing::debug!("one");
            handle.set_level("debug").expect("a level");
            tracing::debug!("two");
            handle.set_level("nonsense").expect_err("no level");
            tracing::debug!("three");
        });
        assert!(!text.contains("one") && text.contains("two") && text.contains("three"), "{text}");
    }

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
