//! `source.fields`: where the fields of a call event are found, and what of it can never work.

use crate::pipeline::decode::Decoder;
use crate::pipeline::settings::{CountingSettings, FieldMapping, FieldPath, TimestampFormat};
use crate::yaml::read::{self, Parsed, Section, shown_text, wrong};
use crate::yaml::tree::Node;

/// A CloudEvent's own attributes.
const ATTRIBUTES: [&str; 5] = ["id", "source", "type", "subject", "time"];

pub(super) fn read(section: &mut Section) -> FieldMapping {
    let FieldMapping { tenant, request_id, timestamp, action, code, system_error } = FieldMapping::default();
    let path = || read::written("field path", field_path);
    FieldMapping {
        tenant: section
            .key("tenant", "Text of 1 to 128 bytes, or an integer. Required in every event.")
            .or(tenant, path()),
        request_id: section
            .key(
                "request_id",
                "Text of 1 to 128 bytes, or an integer; unique per call of the tenant. Required in every event.",
            )
            .or(request_id, path()),
        timestamp: section
            .key("timestamp", "When the request was received; see `timestamp_format`. Required in every event.")
            .or(timestamp, path()),
        action: section.key("action", "The API action, at most 128 bytes; absent is \"\".").or(action, path()),
        code: section
            .key("code", "The error code, text or integer; absent, null or one of `success_codes` is a success.")
            .or(code, path()),
        system_error: section
            .key(
                "system_error",
                "true or false is the provider's own verdict, which overrides the code; absent or null leaves it to \
                 the code.",
            )
            .or(system_error, path()),
    }
}

fn field_path(node: &Node) -> Parsed<FieldPath> {
    FieldPath::try_from(read::text(node)?).or_else(|error| {
        let (message, help) = error.split_once(": write ").unwrap_or((&error, "a field path"));
        wrong(node, format!("is wrong: {}", message.escape_debug()), format!("write {}", help.escape_debug()))
    })
}

/// A mapping that no event can fit is a mistake.
pub(super) fn judge(root: &mut Section, counting: &CountingSettings) {
    if let Err(error) = Decoder::new(counting) {
        let help = "give each field a place of its own, and map no field inside another";
        let at = if root.reader.has("source.fields") { "source.fields" } else { "source" };
        root.reader.mistake(at, format!("`source.fields` cannot work: {error}"), help);
    }
}

/// What is legal, and yet finds nothing, or not what it seems to.
pub(super) fn warn(counting: &CountingSettings, mut warn: impl FnMut(String)) {
    let fields = counting.fields.all();
    for (i, (name, path)) in fields.iter().enumerate() {
        let shown = shown_text(&String::from((*path).clone()));
        let mut warn = |what: &str| warn(format!("`source.fields.{name}` is {shown}: {what}"));
        // Pointers to the same place are mistakes.
        if let Some((other, _)) = fields[..i].iter().find(|(_, earlier)| earlier == path) {
            match (*other, *name) {
                ("tenant", "request_id") => {
                    warn("as `tenant` is, so all calls of a tenant are duplicates of its first")
                }
                _ => warn(&format!("as `{other}` is")),
            }
        }
        match path {
            FieldPath::Attribute(attribute) => {
                if let Some(what) = misused(name, attribute, counting.timestamp_format) {
                    warn(what);
                }
            }
            FieldPath::Header(header) => {
                if let Some(attribute) = header.strip_prefix("ce_") {
                    warn(&format!("only events in binary mode have it; `$ce:{attribute}` is found in both modes"));
                }
            }
            FieldPath::Pointer(segments) => {
                if segments.iter().any(|segment| segment.trim() != segment || segment.is_empty()) {
                    warn("a key in it is empty, or has a space at its edge, which few events have");
                }
            }
            FieldPath::Key => {}
        }
    }
    let attribute = |path: &FieldPath| match path {
        FieldPath::Pointer(segments) => segments.len() == 1 && ATTRIBUTES.contains(&segments[0].as_str()),
        _ => false,
    };
    if fields[..3].iter().all(|(_, path)| attribute(path)) {
        warn(
            "`source.fields` names a CloudEvent's attributes by pointers, which go into the event's data first, and \
             find nothing in binary mode: write e.g. `$ce:id` for the attribute itself"
                .into(),
        );
    }
    let in_data =
        fields.iter().find(|(_, path)| matches!(path, FieldPath::Pointer(s) if s.len() > 1 && s[0] == "data"));
    let any_attribute = fields.iter().any(|(_, path)| matches!(path, FieldPath::Attribute(_)));
    if let (Some((name, path)), true) = (in_data, any_attribute) {
        let path = String::from((*path).clone());
        let inner = path.strip_prefix("/data").unwrap_or(&path);
        warn(format!(
            "`source.fields.{name}` is {}: in binary mode the payload is the data; {} is found in both modes",
            shown_text(&path),
            shown_text(inner)
        ));
    }
}

/// Why an attribute cannot serve as this field.
fn misused(name: &str, attribute: &str, format: TimestampFormat) -> Option<&'static str> {
    match (name, attribute) {
        ("timestamp", "time") if format != TimestampFormat::Rfc3339 => {
            Some("a CloudEvent's time is RFC 3339, so with this `timestamp_format` every event is malformed")
        }
        ("timestamp", "id" | "source" | "type" | "subject" | "specversion" | "datacontenttype") => {
            Some("it is not a time, so every event is malformed")
        }
        ("tenant", "id") => Some("every event has another, so every call becomes a tenant of its own"),
        ("request_id", "type" | "source" | "specversion" | "datacontenttype") => {
            Some("many events share it, so most calls become duplicates")
        }
        _ => None,
    }
}
