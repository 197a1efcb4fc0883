//! Logs: lower-case messages with structured fields, as text or JSON lines, to stderr. The level can change while running.
//!
//! Nothing here redacts: secrets do not print in the first place (see `config::Secret`). But everything here is
//! [visible](crate::visible): whatever tenants, files and brokers put into a message or a field, an event is one line
//! without terminal control characters.

use std::fmt::{self as text, Write as _};
use std::io::{self, IsTerminal};
use std::str::FromStr;

use serde::Serialize;
use tracing::Subscriber;
use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};

use crate::visible::{VisibleWriter, is_hidden};

/// What is logged to stderr, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LoggingConfig {
    /// For people or for machines.
    pub format: LogFormat,
    /// A directive of `tracing`'s `EnvFilter`: `info`, or `info,sla_ledger::kafka=debug`.
    pub level: String,
}

impl Default for LoggingConfig {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: "info".into() }
    }
}

/// How a log line is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Changes the level of a running process.
#[derive(Debug, Clone)]
pub struct Handle(reload::Handle<EnvFilter, Registry>);

impl Handle {
    /// Logs at `level` from now on. librdkafka's own logging keeps the level it was started with.
    ///
    /// # Errors
    /// When `level` is not a directive; then the old one stays.
    pub fn set_level(&self, level: &str) -> Result<(), String> {
        let filter = filter(level)?;
        self.0.reload(filter).map_err(|error| error.to_string())
    }
}

/// Starts logging for the whole process.
///
/// # Errors
/// When logging was started before, or the level is not a directive.
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
    let lines = match config.format {
        LogFormat::Text => fmt::layer().with_writer(out).with_ansi(color).fmt_fields(VisibleFields).boxed(),
        LogFormat::Json => {
            let lines = fmt::layer().with_writer(EscapedJson(out)).json();
            lines.flatten_event(true).with_current_span(false).with_span_list(false).boxed()
        }
    };
    Ok((tracing_subscriber::registry().with(filter).with(lines), Handle(handle)))
}

/// An event's message and fields, as text that stays on its line.
struct VisibleFields;

impl<'writer> FormatFields<'writer> for VisibleFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> text::Result {
        let mut visitor = VisibleVisitor { writer, empty: true, result: Ok(()) };
        fields.record(&mut visitor);
        visitor.result
    }
}

struct VisibleVisitor<'writer> {
    writer: Writer<'writer>,
    empty: bool,
    result: text::Result,
}

impl VisibleVisitor<'_> {
    /// `message`, or `name=value`, with a space before all but the first.
    fn add(&mut self, field: &Field, value: text::Arguments<'_>) {
        let name = field.name();
        // The fields that the crate `log` adds to its records are already used.
        if self.result.is_err() || name.starts_with("log.") {
            return;
        }
        let space = if std::mem::take(&mut self.empty) { "" } else { " " };
        self.result = match (name, self.writer.has_ansi_escapes()) {
            ("message", _) => self.writer.write_str(space),
            (_, true) => write!(self.writer, "{space}\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m"),
            (_, false) => write!(self.writer, "{space}{name}="),
        };
        self.result = self.result.and_then(|()| VisibleWriter(&mut self.writer).write_fmt(value));
    }
}

impl Visit for VisibleVisitor<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.add(field, format_args!("{value}")),
            _ => self.add(field, format_args!("{value:?}")),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn text::Debug) {
        self.add(field, format_args!("{value:?}"));
    }
}

/// Writes lines of JSON with every hidden character escaped, such as `\u202e`: parsed, it is the same text.
struct EscapedJson<W>(W);

impl<'w, W: MakeWriter<'w>> MakeWriter<'w> for EscapedJson<W> {
    type Writer = EscapedJsonWriter<W::Writer>;

    fn make_writer(&'w self) -> Self::Writer {
        EscapedJsonWriter(self.0.make_writer())
    }

    fn make_writer_for(&'w self, meta: &tracing::Metadata<'_>) -> Self::Writer {
        EscapedJsonWriter(self.0.make_writer_for(meta))
    }
}

struct EscapedJsonWriter<W>(W);

impl<W: io::Write> io::Write for EscapedJsonWriter<W> {
    /// Takes all of the bytes: the subscriber gives a whole line at once.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        // In a line of JSON only a string can hold such a character; all others below a space were escaped already.
        if !text.contains(|c| c != '\n' && is_hidden(c)) {
            return self.0.write_all(line).map(|()| line.len());
        }
        let mut escaped = String::with_capacity(text.len() + 16);
        for c in text.chars() {
            match c != '\n' && is_hidden(c) {
                true => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| _ = write!(escaped, "\\u{unit:04x}")),
                false => escaped.push(c),
            }
        }
        self.0.write_all(escaped.as_bytes()).map(|()| line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// The filter for a directive such as `info` or `info,sla_ledger::kafka=debug`.
///
/// # Errors
/// The reason. A word that is not a log level is refused: `EnvFilter` would take it for the name of a module and show
/// everything that module logs, and nothing else.
pub fn filter(directive: &str) -> Result<EnvFilter, String> {
    let parts: Vec<_> = directive.split(',').map(str::trim).collect();
    let level = |part: &str| !part.is_empty() && LevelFilter::from_str(part).is_ok();
    if let Some(word) = parts.iter().find(|part| !part.contains(['=', '[']) && !level(part)) {
        return Err(format!("`{}` is not a log level", word.escape_debug()));
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

    /// Hostile text that tenants, files and brokers may put into an event.
    const HOSTILE: &str = "a\nERROR forged\r\u{1b}[2J\u{9b}1m\u{7f}\u{202e}\u{2028}\u{e0041}\u{7}z";

    #[test]
    fn no_event_breaks_its_line_or_steers_a_terminal() {
        let talk = |_: &Handle| {
            let error = std::io::Error::other(HOSTILE);
            tracing::error!(tenant = HOSTILE, file = %HOSTILE, ?error, %error, e = &error as &dyn std::error::Error, "{HOSTILE}");
            log_record();
        };
        let text = logged(LogFormat::Text, talk);
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(!text.contains(|c| c != '\n' && is_hidden(c)), "{text:?}");
        let shown = "a\\u{a}ERROR forged\\u{d}\\u{1b}[2J\\u{9b}1m\\u{7f}\\u{202e}\\u{2028}\\u{e0041}\\u{7}z";
        assert!(text.contains(&format!(": {shown} tenant=\"")) && text.contains(&format!(" file={shown} ")), "{text}");

        let json = logged(LogFormat::Json, talk);
        assert!(json.is_ascii() && !json.contains(|c| c != '\n' && is_hidden(c)), "{json:?}");
        let lines: Vec<serde_json::Value> =
            json.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let [first, second] = &lines[..] else { panic!("two lines: {json}") };
        for value in [&first["message"], &first["tenant"], &first["file"], &second["message"]] {
            assert_eq!(value, HOSTILE);
        }
    }

    /// In the way librdkafka's messages arrive.
    fn log_record() {
        tracing::info!("{HOSTILE}");
    }

    #[test]
    fn colours_are_ours_alone() {
        let lines = Arc::new(tempfile::tempfile().expect("a file"));
        let (subscriber, _handle) = subscriber(&LoggingConfig::default(), true, lines.clone()).expect("a valid level");
        tracing::subscriber::with_default(subscriber, || tracing::info!(tenant = %HOSTILE, "{HOSTILE}"));
        let mut text = String::new();
        (&*lines).rewind().and_then(|()| (&*lines).read_to_string(&mut text)).expect("what was written");
        let bare = ["\x1b[2m", "\x1b[3m", "\x1b[0m", "\x1b[32m"].iter().fold(text, |text, code| text.replace(code, ""));
        assert!(!bare.contains(|c| c != '\n' && is_hidden(c)), "{bare:?}");
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
