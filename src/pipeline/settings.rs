//! What counting itself depends on. Recorded in every checkpoint, so that a recount can repeat it; a change takes
//! effect from an offset. The contract's policy is *not* here: policy is applied when a number is read.

use serde::{Deserialize, Serialize};

/// Where one field of a call event is found.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum FieldPath {
    /// A JSON Pointer (RFC 6901) into the payload, as its unescaped segments: `/Response/Error/Code`.
    Pointer(Vec<String>),
    /// The record's key: `$key`.
    Key,
    /// The first record header of this name: `$header:NAME`.
    Header(String),
    /// A CloudEvent's attribute: `$ce:NAME`. In structured mode a member of the envelope, in binary mode the header
    /// `ce_NAME`.
    Attribute(String),
}

impl TryFrom<String> for FieldPath {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text == "$key" {
            return Ok(Self::Key);
        }
        if let Some(name) = text.strip_prefix("$header:") {
            return match name {
                "" => Err("`$header:` needs a header name: write e.g. `$header:tenant`".into()),
                _ if name.trim() != name => {
                    Err(format!("`{text}` has a space around the header's name: write `$header:{}`", name.trim()))
                }
                _ => Ok(Self::Header(name.into())),
            };
        }
        if let Some(name) = text.strip_prefix("$ce:") {
            return attribute(name).map(Self::Attribute);
        }
        match text.strip_prefix('/') {
            Some(rest) => rest.split('/').map(unescape).collect::<Result<_, _>>().map(Self::Pointer),
            None => Err(format!(
                "`{text}` is not a valid field path: write a JSON Pointer such as `/tenant`, `$key`, `$header:NAME` or \
                 `$ce:ATTRIBUTE`"
            )),
        }
    }
}

/// A CloudEvent's attribute by its name: lowercase letters and digits. `data` is not one.
fn attribute(name: &str) -> Result<String, String> {
    const EXAMPLES: &str = "id, source, type, subject, time, or an extension's name";
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    match name {
        "" => Err(format!("`$ce:` needs an attribute: write {EXAMPLES}")),
        "data" => Err("`$ce:data` is not an attribute: write a JSON Pointer into the data, e.g. `/tenant`".into()),
        _ if name.chars().all(legal) => Ok(name.into()),
        _ if name.to_ascii_lowercase().chars().all(legal) => Err(format!(
            "`$ce:{name}` is not an attribute, their names are lowercase: write `$ce:{}`",
            name.to_ascii_lowercase()
        )),
        _ => Err(format!(
            "`$ce:{name}` is not an attribute, their names have only lowercase letters and digits: write {EXAMPLES}"
        )),
    }
}

/// A segment of a JSON Pointer as the key it means.
fn unescape(segment: &str) -> Result<String, String> {
    let escaped = segment.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
    if !escaped {
        return Err(format!("`{segment}` has a `~` without 0 or 1 behind it: write `~0` for `~`, `~1` for `/`"));
    }
    Ok(segment.replace("~1", "/").replace("~0", "~"))
}

impl From<FieldPath> for String {
    fn from(path: FieldPath) -> Self {
        match path {
            FieldPath::Key => "$key".into(),
            FieldPath::Header(name) => format!("$header:{name}"),
            FieldPath::Attribute(name) => format!("$ce:{name}"),
            FieldPath::Pointer(segments) => {
                segments.iter().map(|s| format!("/{}", s.replace('~', "~0").replace('/', "~1"))).collect()
            }
        }
    }
}

/// Where the fields of a call event are found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FieldMapping {
    /// Required. String of 1–128 bytes, or an integer: its digits are the name.
    pub tenant: FieldPath,
    /// Required. String of 1–128 bytes or an integer, unique per call of the tenant.
    pub request_id: FieldPath,
    /// Required. When the request was received.
    pub timestamp: FieldPath,
    /// The API action; absent = `""`.
    pub action: FieldPath,
    /// The error code; absent, null or a success code = the call succeeded.
    pub code: FieldPath,
    /// The provider's own verdict; overrides the code map.
    pub system_error: FieldPath,
}

impl FieldMapping {
    /// Every field's name and place, in the order in which they are judged.
    pub fn all(&self) -> [(&'static str, &FieldPath); 6] {
        [
            ("tenant", &self.tenant),
            ("request_id", &self.request_id),
            ("timestamp", &self.timestamp),
            ("action", &self.action),
            ("code", &self.code),
            ("system_error", &self.system_error),
        ]
    }
}

impl Default for FieldMapping {
    fn default() -> Self {
        let at = |name: &str| FieldPath::Pointer(vec![name.into()]);
        Self {
            tenant: at("tenant"),
            request_id: at("request_id"),
            timestamp: at("timestamp"),
            action: at("action"),
            code: at("code"),
            system_error: at("system_error"),
        }
    }
}

/// How the event's timestamp is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimestampFormat {
    /// RFC 3339 text with an offset.
    #[default]
    Rfc3339,
    /// Seconds since 1970-01-01T00:00:00Z, a number or its text; a fraction is floored to ms.
    EpochS,
    /// Milliseconds since 1970-01-01T00:00:00Z, a number or its text; a fraction is floored to ms.
    EpochMs,
    /// Microseconds since 1970-01-01T00:00:00Z, a number or its text; a fraction is floored to ms.
    EpochUs,
    /// Nanoseconds since 1970-01-01T00:00:00Z, a number or its text; a fraction is floored to ms.
    EpochNs,
}

/// Records whose own timestamps are wrong: they are dead letters (`clock`), and their timestamps do not advance the
/// watermark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IgnoredRange {
    /// Partition of the calls topic.
    pub partition: u32,
    /// First offset.
    pub from: i64,
    /// First offset after the range.
    pub to: i64,
}

impl IgnoredRange {
    /// Does the range hold this offset of its partition?
    pub fn holds(&self, offset: i64) -> bool {
        (self.from..self.to).contains(&offset)
    }
}

/// What counting depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CountingSettings {
    /// The zone whose days and months calls are counted in. Never changes in the life of a ledger.
    pub time_zone: chrono_tz::Tz,
    /// Where the fields of an event are found.
    pub fields: FieldMapping,
    /// How the event's timestamp is written.
    pub timestamp_format: TimestampFormat,
    /// Codes that mean success.
    pub success_codes: Vec<String>,
    /// Codes (exact, or a dot-separated prefix) whose calls are counted but not itemised.
    pub not_itemised: Vec<String>,
    /// Minimum time, in seconds of log time, that a request id is remembered after its last occurrence.
    pub dedupe_window_s: u32,
    /// A call older than this at its arrival, in seconds, is quarantined (`too_old`).
    pub max_age_s: u32,
    /// Payloads longer than this many bytes are malformed (`too_large`).
    pub max_event_bytes: u32,
    /// Records that are dead letters (`clock`) because of their timestamps. Only offsets that were not counted before
    /// the setting took effect.
    pub ignore_timestamps: Vec<IgnoredRange>,
    /// Rows (day × action, day × action × code × flag) one tenant may have in one month and shard; beyond: quarantined (`limit`).
    pub rows_per_tenant_month: u32,
    /// Tenants that may have calls in one month and shard; calls of further ones: quarantined (`limit`).
    pub tenants_per_month: u32,
    /// Bytes of failing calls (each 32 and its request id) that one month and shard may itemise; further ones are only
    /// counted.
    pub evidence_bytes_per_month: u64,
}

impl Default for CountingSettings {
    fn default() -> Self {
        Self {
            time_zone: chrono_tz::Asia::Shanghai,
            fields: FieldMapping::default(),
            timestamp_format: TimestampFormat::default(),
            success_codes: ["", "OK", "0"].map(String::from).to_vec(),
            not_itemised: crate::domain::codes::default_not_itemised(),
            dedupe_window_s: 15 * 60,
            max_age_s: 100 * 86_400,
            max_event_bytes: 1 << 20,
            ignore_timestamps: Vec::new(),
            rows_per_tenant_month: 20_000,
            tenants_per_month: 200_000,
            evidence_bytes_per_month: 256 << 20,
        }
    }
}
