//! What a client accepts: the headers `Accept` and `Accept-Encoding` (RFC 9110, 12.5), and what follows for an answer.

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use crate::metrics::Format;
use crate::report::statement::Lang;

/// One entry of such a header.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'a> {
    name: &'a str,
    parameters: &'a str,
    /// How much it is wanted, 0 (not at all) to 1.
    pub quality: f32,
}

/// All lines of a header as one.
pub(super) fn header(headers: &HeaderMap, name: HeaderName) -> String {
    headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect::<Vec<_>>().join(",")
}

/// The entries of a header, in its order.
pub(super) fn entries(header: &str) -> impl Iterator<Item = Entry<'_>> {
    header.split(',').map(|entry| {
        let (name, parameters) = entry.split_once(';').unwrap_or((entry, ""));
        let entry = Entry { name: name.trim(), parameters, quality: 1.0 };
        let quality = entry.parameter("q").and_then(|quality| quality.parse().ok());
        Entry { quality: quality.unwrap_or(1.0), ..entry }
    })
}

impl<'a> Entry<'a> {
    /// Whether it has this name.
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }

    fn parameter(&self, name: &str) -> Option<&'a str> {
        let mut parameters = self.parameters.split(';').filter_map(|parameter| parameter.split_once('='));
        let (_, value) = parameters.find(|(given, _)| given.trim().eq_ignore_ascii_case(name))?;
        Some(value.trim().trim_matches('"'))
    }
}

/// An exposition as it is sent: the format, and the version that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exposition {
    /// Prometheus' text format 0.0.4.
    Text,
    /// OpenMetrics 1.0.0.
    OpenMetrics1,
    /// OpenMetrics 0.0.1, the same bytes under the older name.
    OpenMetrics0,
}

impl Exposition {
    /// What an `Accept` header wants most; of equals the first. The text format where it wants nothing that there is.
    pub fn accepted(header: &str) -> Self {
        let known = |entry: Entry<'_>| {
            let openmetrics = entry.is("application/openmetrics-text");
            let exposition = match entry.parameter("version") {
                Some("1.0.0") if openmetrics => Self::OpenMetrics1,
                None | Some("0.0.1") if openmetrics => Self::OpenMetrics0,
                None | Some("0.0.4") if entry.is("text/plain") => Self::Text,
                _ if entry.is("text/*") || entry.is("*/*") => Self::Text,
                _ => return None,
            };
            Some((exposition, entry.quality))
        };
        let mut best = (Self::Text, 0.0);
        for (exposition, quality) in entries(header).filter_map(known) {
            if quality > best.1 {
                best = (exposition, quality);
            }
        }
        best.0
    }

    /// How it is written.
    pub fn format(self) -> Format {
        match self {
            Self::Text => Format::Text,
            Self::OpenMetrics1 | Self::OpenMetrics0 => Format::OpenMetrics,
        }
    }

    /// Its `Content-Type`.
    pub fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Text => "text/plain; version=0.0.4",
            Self::OpenMetrics1 => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::OpenMetrics0 => "application/openmetrics-text; version=0.0.1; charset=utf-8",
        })
    }
}

/// The language of a page that an `Accept-Language` header wants most; English where it wants neither.
pub(super) fn language(header: &str) -> Lang {
    let mut best = (Lang::En, 0.0);
    for entry in entries(header) {
        let lang = match entry.name.split('-').next().unwrap_or_default().to_ascii_lowercase().as_str() {
            "en" => Lang::En,
            "zh" => Lang::Zh,
            _ => continue,
        };
        if entry.quality > best.1 {
            best = (lang, entry.quality);
        }
    }
    best.0
}

/// How much JSON and plain text are wanted by name; `*/*` names neither.
fn wanted(header: &str) -> (f32, f32) {
    let (mut json, mut text) = (0.0_f32, 0.0_f32);
    for entry in entries(header) {
        if entry.is("application/json") || entry.is("application/problem+json") || entry.is("application/*") {
            json = json.max(entry.quality);
        } else if entry.is("text/plain") || entry.is("text/*") {
            text = text.max(entry.quality);
        }
    }
    (json, text)
}

/// Whether a client asks for JSON by name, and not rather for text.
pub(super) fn asks_for_json(header: &str) -> bool {
    let (json, text) = wanted(header);
    json > 0.0 && json >= text
}

/// Whether a client asks for plain text by name, and not as much for JSON.
pub(super) fn prefers_text(header: &str) -> bool {
    let (json, text) = wanted(header);
    text > json
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exposition_is_what_is_wanted_most() {
        use Exposition::{OpenMetrics0, OpenMetrics1, Text};
        for (header, expected) in [
            ("", Text),
            ("*/*", Text),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", Text),
            // Prometheus 2, and 3.
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                 text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                OpenMetrics1,
            ),
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
                 application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,\
                 text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
                OpenMetrics1,
            ),
            // With `scrape_protocols` that have the text format first.
            ("text/plain;version=0.0.4;q=0.6,application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.2", Text),
            (
                "application/vnd.google.protobuf;q=0.7,application/openmetrics-text; version=\"0.0.1\"; q=0.6",
                OpenMetrics0,
            ),
            ("application/openmetrics-text", OpenMetrics0),
            ("Application/OpenMetrics-Text; Version=1.0.0", OpenMetrics1),
            ("application/openmetrics-text;version=2.0.0", Text),
            ("application/openmetrics-text;version=1.0.0;q=0", Text),
            ("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.5", OpenMetrics1),
        ] {
            assert_eq!(Exposition::accepted(header), expected, "{header}");
        }
    }

    #[test]
    fn json_and_text_are_asked_for_by_name() {
        for (header, json, text) in [
            ("", false, false),
            ("*/*", false, false),
            ("application/json", true, false),
            ("application/problem+json, */*;q=0.1", true, false),
            ("text/plain", false, true),
            ("text/plain, application/json;q=0.9", false, true),
            ("text/plain;q=0.5, application/json", true, false),
            ("application/json;q=0", false, false),
            ("text/html,application/xhtml+xml,*/*;q=0.8", false, false),
        ] {
            assert_eq!((asks_for_json(header), prefers_text(header)), (json, text), "{header}");
        }
    }
}
