//! The scanner against an independent reading of the same bytes by `serde_json`, the RFC 3339 fast path against chrono,
//! and every rule of the event format by name.
//!
//! `SLA_LEDGER_FUZZ_CASES` sets the number of random cases (20,000; a million with `SLA_LEDGER_SOAK=1`).

use std::borrow::Cow;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::value::RawValue;
use sla_ledger::domain::call::{Call, Flag, Malformed, Rejection};
use sla_ledger::pipeline::decode::{Decoder, Headers, OutermostText, SourceRecord, rfc3339_ms};
use sla_ledger::pipeline::settings::{CountingSettings, FieldMapping, FieldPath, TimestampFormat};

// ---- the reference ----

/// A JSON value with every member of an object, repeats included, and numbers and strings as written.
enum Json<'a> {
    Null,
    Bool(bool),
    Number(&'a str),
    /// With its quotes and escapes.
    Text(&'a str),
    Array(Vec<Json<'a>>),
    Object(Vec<(String, Json<'a>)>),
}

struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> serde::Deserialize<'de> for Members<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Visitor).map(Members)
    }
}

/// `None` when it is not a JSON, or nested 128 levels deep. Numbers of any size and lone surrogates outside keys pass.
fn read(text: &str, depth: u32) -> Option<Json<'_>> {
    let raw: &RawValue = serde_json::from_str(text).ok()?;
    expand(raw, depth)
}

fn expand(raw: &RawValue, depth: u32) -> Option<Json<'_>> {
    let text = raw.get();
    Some(match text.as_bytes()[0] {
        b'{' | b'[' if depth + 1 >= 128 => return None,
        b'{' => {
            let Members(members) = serde_json::from_str(text).ok()?;
            Json::Object(
                members
                    .into_iter()
                    .map(|(key, value)| Some((key, expand(value, depth + 1)?)))
                    .collect::<Option<_>>()?,
            )
        }
        b'[' => {
            let elements: Vec<&RawValue> = serde_json::from_str(text).ok()?;
            Json::Array(elements.into_iter().map(|value| expand(value, depth + 1)).collect::<Option<_>>()?)
        }
        b'"' => Json::Text(text),
        b't' => Json::Bool(true),
        b'f' => Json::Bool(false),
        b'n' => Json::Null,
        _ => Json::Number(text),
    })
}

/// All values at a path, in order; more than one only where members repeat.
fn at<'j, 'a>(root: &'j Json<'a>, path: &[String]) -> Vec<&'j Json<'a>> {
    let Some((step, rest)) = path.split_first() else { return vec![root] };
    match root {
        Json::Object(members) => {
            members.iter().filter(|(key, _)| key == step).flat_map(|(_, value)| at(value, rest)).collect()
        }
        Json::Array(elements) => {
            let index = step.parse::<usize>().ok().filter(|i| i.to_string() == *step);
            index.and_then(|i| elements.get(i)).map_or_else(Vec::new, |value| at(value, rest))
        }
        _ => Vec::new(),
    }
}

/// A mapped value, wherever it came from.
enum Value<'j, 'a> {
    Absent,
    Json(&'j Json<'a>),
    Bytes(&'a [u8]),
}

impl Value<'_, '_> {
    /// As a name or a code: an integer is its text.
    fn text_or_integer(&self) -> Result<Option<String>, Malformed> {
        match self {
            Self::Json(Json::Number(raw)) if raw.bytes().all(|b| b.is_ascii_digit() || b == b'-') => {
                Ok(Some((*raw).to_owned()))
            }
            _ => self.text(),
        }
    }

    fn text(&self) -> Result<Option<String>, Malformed> {
        match self {
            Self::Absent => Ok(None),
            Self::Json(Json::Text(raw)) => serde_json::from_str(raw).map(Some).map_err(|_| Malformed::NotJson),
            Self::Json(_) => Err(Malformed::WrongType),
            Self::Bytes(bytes) => String::from_utf8(bytes.to_vec()).map(Some).map_err(|_| Malformed::WrongType),
        }
    }
}

/// Chrono's reading, with its second 60 taken back to the second before, and refused where no month ends.
fn instant_ms(text: &str) -> Option<i64> {
    let at = chrono::DateTime::parse_from_rfc3339(text).ok()?;
    if chrono::Timelike::nanosecond(&at) < 1_000_000_000 {
        return Some(at.timestamp_millis());
    }
    // Chrono's second 60 is 0 to 1 s after the end of the minute.
    let ms = at.timestamp_millis();
    let next = chrono::DateTime::from_timestamp_millis(ms)?.format("%dT%H:%M:%S").to_string();
    (next == "01T00:00:00").then_some(ms - 1000)
}

/// `text × 10^power`, floored, by moving the point within the text.
fn floored(text: &str, power: i64) -> Option<i128> {
    const ROOM: i64 = 2000;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let (negative, rest) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (mantissa, exponent) = rest.find(['e', 'E']).map_or((rest, "0"), |at| (&rest[..at], &rest[at + 1..]));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
    let unsigned = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    if !(digits(whole) && digits(fraction) && digits(unsigned)) {
        return None;
    }
    let zero = whole.bytes().chain(fraction.bytes()).all(|b| b == b'0');
    let far = || if exponent.starts_with('-') { -ROOM } else { ROOM };
    let shift = exponent.parse::<i64>().map_or_else(|_| far(), |e| e.clamp(-ROOM, ROOM)) + power;
    if shift.abs() > ROOM - 10 {
        return if zero { Some(0) } else { (shift < 0).then(|| -i128::from(negative)) };
    }
    let room = "0".repeat(ROOM as usize);
    let padded = format!("{room}{whole}{fraction}{room}");
    let (before, after) = padded.split_at(usize::try_from(ROOM + whole.len() as i64 + shift).ok()?);
    let value: i128 = match before.trim_start_matches('0') {
        "" => 0,
        digits => digits.parse().ok()?,
    };
    let rest = after.bytes().any(|b| b != b'0');
    Some(if negative { -value - i128::from(rest) } else { value })
}

/// What a decoder must say, evaluated rule by rule over the whole tree.
fn reference(settings: &CountingSettings, record: &SourceRecord<'_>) -> Result<Call<'static>, Malformed> {
    let payload = record.payload.unwrap_or(b"");
    if payload.len() > settings.max_event_bytes as usize {
        return Err(Malformed::TooLarge);
    }
    if payload.is_empty() {
        return Err(Malformed::Empty);
    }
    let text = std::str::from_utf8(payload).map_err(|_| Malformed::NotJson)?;
    let document = read(text, 0).ok_or(Malformed::NotJson)?;
    let Json::Object(members) = &document else { return Err(Malformed::WrongType) };

    let fields = &settings.fields;
    let paths =
        [&fields.tenant, &fields.request_id, &fields.timestamp, &fields.action, &fields.code, &fields.system_error];
    let pointers = || paths.iter().filter_map(|p| if let FieldPath::Pointer(steps) = p { Some(steps) } else { None });

    let count = |name: &str| members.iter().filter(|(key, _)| key == name).count();
    let is_event = members.iter().any(|(key, value)| key == "specversion" && matches!(value, Json::Text(_)));
    let data = members.iter().rfind(|(key, value)| key == "data" && matches!(value, Json::Object(_)));
    let envelope_is_mapped = pointers().any(|steps| steps[0] == "data");
    let opened = data.filter(|_| is_event && !envelope_is_mapped).map(|(_, data)| data);
    let root = opened.unwrap_or(&document);
    let repeats = |root: &Json<'_>| pointers().any(|steps| (1..=steps.len()).any(|n| at(root, &steps[..n]).len() > 1));
    let identity = [&fields.tenant, &fields.request_id, &fields.timestamp];
    // The data of an event lacks part of the identity: the envelope may have it.
    let lacking = opened.is_some()
        && identity.iter().any(|path| matches!(path, FieldPath::Pointer(steps) if at(root, steps).is_empty()));
    let headers = record.headers.read();
    let header = |name: &str| headers.iter().find(|(n, _)| *n == name).map(|(_, bytes)| *bytes);
    let says_structured = headers.iter().any(|(name, value)| {
        *name == "content-type"
            && String::from_utf8_lossy(value).to_ascii_lowercase().starts_with("application/cloudevents")
    });
    let structured = is_event && (header("ce_specversion").is_none() || says_structured);
    let attributes: Vec<&String> =
        paths.iter().filter_map(|p| if let FieldPath::Attribute(name) = p { Some(name) } else { None }).collect();
    let repeated = repeats(root)
        || lacking && repeats(&document)
        || opened.is_some() && (count("data") > 1 || count("specversion") > 1)
        || structured && !attributes.is_empty() && count("specversion") > 1
        || structured && attributes.iter().any(|name| count(name) > 1);
    if repeated {
        return Err(Malformed::RepeatedField);
    }
    let value = |path: &FieldPath| match path {
        FieldPath::Pointer(steps) => {
            let inner = at(root, steps).pop();
            let outer = if lacking { at(&document, steps).pop() } else { None };
            let found = if identity.contains(&path) { outer.or(inner) } else { inner.or(outer) };
            found.map_or(Value::Absent, Value::Json)
        }
        FieldPath::Key => record.key.map_or(Value::Absent, Value::Bytes),
        FieldPath::Header(name) => header(name).map_or(Value::Absent, Value::Bytes),
        FieldPath::Attribute(name) if structured => {
            at(&document, std::slice::from_ref(name)).pop().map_or(Value::Absent, Value::Json)
        }
        FieldPath::Attribute(name) if name == "datacontenttype" => {
            header("content-type").map_or(Value::Absent, Value::Bytes)
        }
        FieldPath::Attribute(name) => header(&format!("ce_{name}")).map_or(Value::Absent, Value::Bytes),
    };

    let required = |path: &FieldPath| {
        let name = value(path).text_or_integer()?.filter(|n| !n.is_empty()).ok_or(Malformed::MissingField)?;
        if name.len() > 128 { Err(Malformed::TooLong) } else { Ok(name) }
    };
    let tenant = required(&fields.tenant)?;
    let request_id = required(&fields.request_id)?;

    let timestamp = value(&fields.timestamp);
    let time_ms = match settings.timestamp_format {
        TimestampFormat::Rfc3339 => {
            let text = timestamp.text()?.ok_or(Malformed::MissingField)?;
            instant_ms(&text).map(i128::from)
        }
        format => {
            let digits = match timestamp {
                Value::Json(Json::Number(raw)) => (*raw).to_owned(),
                Value::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                other => other.text()?.ok_or(Malformed::MissingField)?,
            };
            let power = match format {
                TimestampFormat::EpochS => 3,
                TimestampFormat::EpochMs | TimestampFormat::Rfc3339 => 0,
                TimestampFormat::EpochUs => -3,
                TimestampFormat::EpochNs => -6,
            };
            floored(&digits, power)
        }
    };
    // A day in the years 0–9999, a day's grace for zones.
    let midnight = |year, month, day| {
        let date = chrono::NaiveDate::from_ymd_opt(year, month, day).expect("a date");
        date.and_time(chrono::NaiveTime::MIN).and_utc().timestamp_millis()
    };
    let (first, end) = (midnight(0, 1, 2), midnight(9999, 12, 31));
    let in_range = |ms: &i128| (i128::from(first)..i128::from(end)).contains(ms);
    let time_ms = time_ms.filter(in_range).ok_or(Malformed::BadTimestamp)? as i64;

    let action = match value(&fields.action) {
        Value::Json(Json::Null) => String::new(),
        value => value.text()?.unwrap_or_default(),
    };
    if action.len() > 128 {
        return Err(Malformed::TooLong);
    }
    let code = match value(&fields.code) {
        Value::Json(Json::Null) => None,
        value => value.text_or_integer()?,
    };
    let code = code.filter(|c| !settings.success_codes.contains(c));
    if code.as_ref().is_some_and(|c| c.len() > 256) {
        return Err(Malformed::TooLong);
    }
    let system_error = match value(&fields.system_error) {
        Value::Absent | Value::Json(Json::Null) | Value::Bytes(b"") => Flag::Absent,
        Value::Json(Json::Bool(true)) | Value::Bytes(b"true") => Flag::True,
        Value::Json(Json::Bool(false)) | Value::Bytes(b"false") => Flag::False,
        _ => return Err(Malformed::WrongType),
    };
    Ok(Call {
        tenant: tenant.into(),
        request_id: request_id.into(),
        time_ms,
        action: action.into(),
        code: code.map(Cow::Owned),
        system_error,
    })
}

// ---- random events ----

fn path(text: &str) -> FieldPath {
    FieldPath::try_from(text.to_owned()).expect(text)
}

/// The mappings every random payload is read under, one after the other.
fn mappings() -> Vec<CountingSettings> {
    let plain = CountingSettings::default();
    let with = |paths: [&str; 6], format| {
        let [tenant, request_id, timestamp, action, code, system_error] = paths.map(path);
        let fields = FieldMapping { tenant, request_id, timestamp, action, code, system_error };
        CountingSettings { fields, timestamp_format: format, success_codes: vec!["fine".into()], ..plain.clone() }
    };
    vec![
        plain.clone(),
        with(
            ["/tenant", "/a~1b/request_id", "/timestamp", "/list/1", "/Response/Error/Code", "/Response/system_error"],
            TimestampFormat::Rfc3339,
        ),
        with(
            ["/data/tenant", "/request_id", "/timestamp", "/action", "/data/code", "/system_error"],
            TimestampFormat::EpochMs,
        ),
        with(
            ["$key", "$header:id", "$header:time", "/action", "$header:code", "$header:flag"],
            TimestampFormat::EpochNs,
        ),
        with(["/list/0", "/list/1", "/timestamp", "/list/10", "/~0", "/"], TimestampFormat::EpochUs),
        with(["/tenant", "/request_id", "/timestamp", "/x/x/x", "/x/x/y", "/system_error"], TimestampFormat::EpochS),
        with(["/subject", "/id", "/time", "/type", "/code", "/system_error"], TimestampFormat::Rfc3339),
        with(["$ce:subject", "$ce:id", "$ce:time", "$ce:type", "/code", "$ce:failed"], TimestampFormat::Rfc3339),
        with(
            ["/tenant", "$ce:id", "$ce:time", "$ce:datacontenttype", "$ce:id", "/system_error"],
            TimestampFormat::EpochMs,
        ),
    ]
}

/// JSON as it is written.
#[derive(Debug, Clone)]
enum Written {
    Raw(String),
    Array(Vec<Written>),
    Object(Vec<(String, Written)>),
    Deep(u16, bool),
}

fn write(value: &Written, space: &str, out: &mut String) {
    match value {
        Written::Raw(text) => out.push_str(text),
        Written::Array(elements) => {
            out.push('[');
            for (i, element) in elements.iter().enumerate() {
                out.push_str(if i == 0 { "" } else { "," });
                out.push_str(space);
                write(element, space, out);
            }
            out.push_str(space);
            out.push(']');
        }
        Written::Object(members) => {
            out.push('{');
            for (i, (key, value)) in members.iter().enumerate() {
                out.push_str(if i == 0 { "" } else { "," });
                out.push_str(space);
                out.push_str(&format!("\"{key}\"{space}:{space}"));
                write(value, space, out);
            }
            out.push('}');
        }
        Written::Deep(levels, objects) => {
            let (open, close) = if *objects { ("{\"x\":", "}") } else { ("[", "]") };
            out.push_str(&open.repeat((*levels).into()));
            out.push_str("null");
            out.push_str(&close.repeat((*levels).into()));
        }
    }
}

fn numbers() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "-?(0|[1-9][0-9]{0,5})",
        2 => "-?(0|[1-9][0-9]{0,45})",
        2 => "177[0-9]{7}(000|[0-9]{3}|[0-9]{6}|[0-9]{9})?",
        2 => "-?(0|[1-9][0-9]{0,9})(\\.[0-9]{1,6})?([eE][+-]?[0-9]{1,4})?",
        1 => prop::sample::select(vec!["-", "01", "-01", "1.", ".5", "+1", "1e", "1e+", "1.e1", "0x1", "NaN", "Infinity", "1_000", "--1", "00", "-0", "1E400"])
            .prop_map(String::from),
        1 => any::<i64>().prop_map(|n| n.to_string()),
    ]
}

/// The inside of a JSON string.
fn strings() -> impl Strategy<Value = String> {
    let pieces = prop_oneof![
        6 => "[a-z0-9-]{0,12}",
        1 => "\\PC{0,6}".prop_map(|s| s.replace(['"', '\\'], "")),
        1 => prop::sample::select(vec![
            "\\n", "\\\"", "\\\\", "\\/", "\\b", "\\f", "\\r", "\\t", "\\u0000", "\\u00e9", "\\uD83D\\uDE00", "\\ud800", "\\udc00",
            "\\ud800\\u0041", "\\x", "\\u12", "\\u123g", "\\", "\t", "\n", "\u{0}", "\u{1f}", "\u{7f}", "é", "租户", "😀", "\u{2028}",
        ]).prop_map(String::from),
        1 => (prop::sample::select(vec!["a", "租", "\\u0041", "é"]), prop::sample::select(vec![1usize, 7, 8, 42, 43, 63, 64, 127, 128, 129, 255, 256, 257]))
            .prop_map(|(piece, times)| piece.repeat(times)),
    ];
    prop::collection::vec(pieces, 0..3).prop_map(|pieces| pieces.concat())
}

fn instants() -> impl Strategy<Value = String> {
    let number = |width: usize, most: u32| prop_oneof![8 => (0..=most).prop_map(move |n| format!("{n:0width$}")), 1 => "[0-9]{1,5}", 1 => Just("-1".to_owned()), 1 => Just(String::new())];
    let year = prop_oneof![6 => Just("2026".to_owned()), 2 => (0..=9999u32).prop_map(|y| format!("{y:04}")), 1 => prop::sample::select(vec!["0000", "9999", "10000", "-001", "+2026", "1900", "2000", "2024"]).prop_map(String::from)];
    let date = (year, number(2, 13), number(2, 32)).prop_map(|(y, m, d)| format!("{y}-{m}-{d}"));
    let separator = prop::sample::select(vec!["T", "T", "T", "T", "t", " ", "", "_"]);
    let time = (number(2, 24), number(2, 60), number(2, 61)).prop_map(|(h, m, s)| format!("{h}:{m}:{s}"));
    let fraction = prop_oneof![3 => Just(String::new()), 3 => "\\.[0-9]{1,12}", 1 => Just(".".to_owned()), 1 => Just(",5".to_owned())];
    let offset = prop_oneof![3 => Just("Z".to_owned()), 3 => (number(2, 25), number(2, 60), any::<bool>()).prop_map(|(h, m, e)| format!("{}{h}:{m}", if e { '+' } else { '-' })),
        1 => prop::sample::select(vec!["", "z", "+08", "+0800", "+8:00", "Z ", "ZZ", "+08:00:00", "-00:00", "\u{2212}08:00", "UTC"]).prop_map(String::from)];
    let any = (date, separator, time, fraction, offset).prop_map(|(d, s, t, f, o)| format!("{d}{s}{t}{f}{o}"));
    prop_oneof![4 => any, 1 => leap_seconds()]
}

/// Second 60, most of them where a month ends in UTC.
fn leap_seconds() -> impl Strategy<Value = String> {
    let fraction = prop_oneof![1 => Just(String::new()), 1 => "\\.[0-9]{1,12}"];
    let off = prop_oneof![6 => Just(0i64), 1 => -1440..1440i64, 1 => Just(60), 1 => Just(-1440)];
    (1..2400i32, -23 * 60 - 59..24 * 60i64, off, fraction).prop_map(|(month, offset, off, fraction)| {
        let first =
            chrono::NaiveDate::from_ymd_opt(1900 + month / 12, month.unsigned_abs() % 12 + 1, 1).expect("a date");
        let end = first.and_time(chrono::NaiveTime::MIN) + chrono::TimeDelta::minutes(off - 1 + offset);
        let sign = if offset < 0 { '-' } else { '+' };
        let offset = offset.abs();
        format!("{}:60{fraction}{sign}{:02}:{:02}", end.format("%Y-%m-%dT%H:%M"), offset / 60, offset % 60)
    })
}

fn keys() -> impl Strategy<Value = String> {
    prop_oneof![
        12 => prop::sample::select(vec![
            "tenant", "request_id", "timestamp", "action", "code", "system_error", "data", "specversion", "Response", "Error", "Code",
            "subject", "id", "time", "type", "failed", "i\\u0064", "datacontenttype", "a/b", "list", "x", "y", "0", "1", "", "~", "arrival", "ten\\u0061nt", "\\u0064ata", "a\\/b", "\\ud800", "t", "tenant ",
        ]).prop_map(String::from),
        1 => strings(),
    ]
}

fn leaves() -> impl Strategy<Value = Written> {
    prop_oneof![
        3 => strings().prop_map(|s| format!("\"{s}\"")),
        2 => numbers(),
        2 => instants().prop_map(|s| format!("\"{s}\"")),
        2 => prop::sample::select(vec!["null", "true", "false", "{}", "[]", "\"1.0\"", "\"\"", "tru", "nul", "True", "", "\"OK\"", "\"NoResponse\""]).prop_map(String::from),
    ]
    .prop_map(Written::Raw)
}

fn values() -> impl Strategy<Value = Written> {
    leaves().prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            3 => prop::collection::vec((keys(), inner.clone()), 0..5).prop_map(Written::Object),
            2 => prop::collection::vec(inner, 0..4).prop_map(Written::Array),
            1 => (prop_oneof![Just(120u16), Just(125), Just(126), Just(127), Just(128), 0..300u16], any::<bool>()).prop_map(|(n, o)| Written::Deep(n, o)),
        ]
    })
}

/// Nearly a call event: each field usually valid, sometimes absent, odd or repeated; other members between them.
fn events() -> impl Strategy<Value = Written> {
    let text =
        |choices: &'static [&'static str]| prop::sample::select(choices).prop_map(|s| Written::Raw(s.to_owned()));
    let field = |name: &'static str, good: BoxedStrategy<Written>| {
        let value = prop_oneof![8 => good.clone(), 1 => values()];
        let copies = prop_oneof![20 => Just(1usize), 2 => Just(0), 1 => Just(2)];
        prop::collection::vec(value, 2).prop_flat_map(move |values| {
            copies
                .clone()
                .prop_map(move |n| values.iter().take(n).map(|v| (name.to_owned(), v.clone())).collect::<Vec<_>>())
        })
    };
    let instant = prop_oneof![
        text(&[
            "\"2026-03-20T10:00:00.000+08:00\"",
            "\"2026-02-29T00:00:00Z\"",
            "1773972000000",
            "-1",
            "1773972000",
            "\"2024-02-29T23:59:59.9999999Z\""
        ]),
        instants().prop_map(|s| Written::Raw(format!("\"{s}\""))),
    ];
    let code = text(&["\"InternalError\"", "\"OK\"", "\"\"", "0", "404", "null", "\"fine\"", "-0", "1.5", "1e3"]);
    let inner = (
        field("tenant", text(&["\"acme\"", "\"租户\"", "\"\\u0061cme\"", "\"a\""]).boxed()),
        field("request_id", strings().prop_map(|s| Written::Raw(format!("\"{s}\""))).boxed()),
        field("timestamp", instant.boxed()),
        field("action", text(&["\"CreateCallOutSession\"", "\"\"", "null"]).boxed()),
        field("code", code.boxed()),
        field("system_error", text(&["true", "false", "null"]).boxed()),
        prop::collection::vec((keys(), values()), 0..4),
        any::<u64>(),
    )
        .prop_map(|(a, b, c, d, e, f, others, order)| {
            let mut members: Vec<(String, Written)> = [a, b, c, d, e, f, others].concat();
            // A cheap shuffle that shrinks to the given order.
            let mut state = order;
            for i in (1..members.len()).rev() {
                if state == 0 {
                    break;
                }
                members.swap(i, (state % (i as u64 + 1)) as usize);
                state = state.wrapping_mul(6364136223846793005).rotate_left(17) >> 1;
            }
            Written::Object(members)
        })
        .boxed();
    let envelope = (inner.clone(), prop::collection::vec((keys(), leaves()), 0..3), any::<bool>()).prop_map(
        |(data, mut members, first)| {
            members.push(("specversion".into(), Written::Raw("\"1.0\"".into())));
            members.insert(if first { 0 } else { members.len() }, ("data".into(), data));
            Written::Object(members)
        },
    );
    prop_oneof![8 => inner, 2 => envelope, 2 => values()]
}

/// Damage to the bytes in transit.
fn damage() -> impl Strategy<Value = Vec<(u8, u16, u8)>> {
    let byte =
        prop_oneof![prop::sample::select(b"{}[]\",:\\ \n\tu0n.-e+\x00\x1f\x7f\x80\xc3\xff".to_vec()), any::<u8>()];
    prop_oneof![2 => Just(Vec::new()), 1 => prop::collection::vec((0..6u8, any::<u16>(), byte), 1..4)]
}

fn damaged(mut bytes: Vec<u8>, damage: &[(u8, u16, u8)]) -> Vec<u8> {
    for &(kind, place, byte) in damage {
        let at = usize::from(place) % (bytes.len() + 1);
        match kind {
            0 => bytes.insert(at, byte),
            1 if at < bytes.len() => bytes[at] = byte,
            2 if at < bytes.len() => _ = bytes.remove(at),
            3 => bytes.truncate(at),
            4 => {
                let tail = bytes[at..].to_vec();
                bytes.extend_from_slice(&tail);
            }
            5 => bytes = bytes[at..].to_vec(),
            _ => {}
        }
    }
    bytes
}

fn cases(default: u32) -> u32 {
    let soak = std::env::var("SLA_LEDGER_SOAK").is_ok_and(|v| v == "1");
    let chosen =
        std::env::var("SLA_LEDGER_FUZZ_CASES").ok().map(|n| n.parse().expect("SLA_LEDGER_FUZZ_CASES is a number"));
    chosen.unwrap_or(if soak { 1_000_000 } else { default })
}

fn runner(default: u32) -> TestRunner {
    TestRunner::new(Config { cases: cases(default), failure_persistence: None, ..Config::default() })
}

#[test]
fn the_scanner_reads_what_serde_json_reads() {
    let mappings: Vec<_> = mappings().into_iter().map(|s| (Decoder::new(&s).expect("a sound mapping"), s)).collect();
    let outside = prop_oneof![
        prop::sample::select(vec![
            "",
            "acme",
            "r-1",
            "true",
            "false",
            "1773972000000000000",
            "-1",
            "+1",
            "1.5",
            "2026-03-20T10:00:00Z",
            "application/json",
            "Application/CloudEvents+json",
            "abc",
            "fine",
            "é"
        ])
        .prop_map(|s| s.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..4),
        Just(b"a".repeat(129)),
    ];
    let headers = prop::collection::vec(
        (
            prop::sample::select(vec![
                "id",
                "time",
                "code",
                "flag",
                "other",
                "ce_specversion",
                "ce_id",
                "ce_time",
                "ce_subject",
                "ce_failed",
                "content-type",
                "ce_datacontenttype",
            ]),
            outside.clone(),
        ),
        0..8,
    );
    let space = prop::sample::select(vec!["", "", "", " ", "\n", "\t \r\n"]);
    let strategy = (events(), damage(), space, prop::option::of(outside), headers);
    let result = runner(20_000).run(&strategy, |(event, damage, space, key, headers)| {
        let mut text = String::new();
        write(&event, space, &mut text);
        let payload = damaged(text.into_bytes(), &damage);
        let headers: Vec<(&str, &[u8])> = headers.iter().map(|(name, value)| (*name, value.as_slice())).collect();
        let record = SourceRecord {
            offset: 0,
            timestamp_ms: None,
            key: key.as_deref(),
            payload: Some(&payload),
            headers: Headers::Known(&headers),
        };
        for (decoder, settings) in &mappings {
            let (found, expected) = (decoder.decode(&record), reference(settings, &record));
            prop_assert_eq!(found, expected, "payload {}", String::from_utf8_lossy(&payload));
        }
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

/// The share of random events that are accepted, so that the test above does not only compare refusals.
#[test]
fn random_events_are_neither_all_good_nor_all_bad() {
    use proptest::strategy::ValueTree;
    let mut runner = TestRunner::deterministic();
    let decoder = Decoder::new(&CountingSettings::default()).expect("the defaults");
    let mut seen = std::collections::BTreeMap::new();
    for _ in 0..3000 {
        let mut text = String::new();
        write(&events().new_tree(&mut runner).expect("a value").current(), "", &mut text);
        let record = SourceRecord {
            offset: 0,
            timestamp_ms: None,
            key: None,
            payload: Some(text.as_bytes()),
            headers: Headers::NONE,
        };
        let outcome = decoder.decode(&record).map_or_else(|reason| Rejection::from(reason).as_str(), |_| "good");
        *seen.entry(outcome).or_insert(0) += 1;
    }
    for outcome in ["good", "not_json", "missing_field", "wrong_type", "bad_timestamp", "repeated_field", "too_long"] {
        assert!(seen.get(outcome).is_some_and(|n| *n >= 20), "{outcome} is too rare: {seen:?}");
    }
}

#[test]
fn the_fast_path_reads_instants_as_chrono_does() {
    let strategy = (instants(), damage());
    let result = runner(20_000).run(&strategy, |(text, damage)| {
        let Ok(text) = String::from_utf8(damaged(text.into_bytes(), &damage)) else { return Ok(()) };
        let expected = instant_ms(&text).filter(|ms| (-62_167_132_800_000..253_402_214_400_000).contains(ms));
        prop_assert_eq!(rfc3339_ms(&text), expected, "{}", text);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

#[test]
fn every_day_of_four_centuries_is_read_as_chrono_reads_it() {
    let mut day = chrono::NaiveDate::from_ymd_opt(1899, 12, 25).expect("a date");
    while day < chrono::NaiveDate::from_ymd_opt(2301, 1, 10).expect("a date") {
        let text = format!("{day}T23:59:59.999+08:00");
        let expected = chrono::DateTime::parse_from_rfc3339(&text).expect("an instant").timestamp_millis();
        assert_eq!(rfc3339_ms(&text), Some(expected), "{text}");
        day = day.succ_opt().expect("a next day");
    }
}

#[test]
fn one_text_of_the_outermost_object_is_read_whatever_else_is_there() {
    let arrival = OutermostText::new("arrival");
    for (payload, expected) in [
        (r#"{"tenant":"a","arrival":"now"}"#, Ok(Some("now"))),
        (r#"{"\u0061rrival":"n\u006fw"}"#, Ok(Some("now"))),
        (r#"{"specversion":"1.0","data":{"arrival":"inner"},"arrival":"outer"}"#, Ok(Some("outer"))),
        (r#"{"data":{"arrival":"inner"}}"#, Ok(None)),
        (r#"{"arrival":null}"#, Ok(None)),
        ("{}", Ok(None)),
        (r#"["arrival"]"#, Ok(None)),
        (r#"{"arrival":"now""#, Ok(None)),
        (r#"{"arrival":5}"#, Err(Malformed::WrongType)),
        (r#"{"arrival":"a","arrival":"a"}"#, Err(Malformed::RepeatedField)),
    ] {
        assert_eq!(arrival.read(payload.as_bytes()), expected.map(|t| t.map(Cow::Borrowed)), "{payload}");
    }
}

// ---- every rule by name ----

const GOOD: [(&str, &str); 3] =
    [("tenant", r#""acme""#), ("request_id", r#""r1""#), ("timestamp", r#""2026-03-20T10:00:00+08:00""#)];

/// A good event with members replaced, added, or (with an empty value) left out.
fn event(changes: &[(&str, &str)]) -> String {
    let mut members: Vec<(String, String)> = GOOD.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    for (key, value) in changes {
        match members.iter_mut().find(|(k, _)| k == key) {
            Some(member) => member.1 = (*value).to_owned(),
            None => members.push(((*key).to_owned(), (*value).to_owned())),
        }
    }
    let members = members.iter().filter(|(_, v)| !v.is_empty()).map(|(k, v)| format!("\"{k}\":{v}"));
    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
}

fn quoted(piece: &str, times: usize) -> String {
    format!("\"{}\"", piece.repeat(times))
}

/// `tenant action code flag` of a call, or the reason it was rejected.
fn said(result: Result<Call<'_>, Malformed>) -> String {
    match result {
        Err(reason) => Rejection::from(reason).as_str().to_owned(),
        Ok(call) => {
            let flag = match call.system_error {
                Flag::Absent => "-",
                Flag::True => "failed",
                Flag::False => "not failed",
            };
            format!(
                "tenant={} action={} code={} flag={flag}",
                call.tenant,
                call.action,
                call.code.as_deref().unwrap_or("ok")
            )
        }
    }
}

fn payload(bytes: &[u8]) -> SourceRecord<'_> {
    SourceRecord { offset: 0, timestamp_ms: None, key: None, payload: Some(bytes), headers: Headers::NONE }
}

/// Every case is `payload -> what it is`.
fn check(settings: &CountingSettings, cases: &[(String, &str)]) {
    let decoder = Decoder::new(settings).expect("sound settings");
    for (text, expected) in cases {
        let record = payload(text.as_bytes());
        let shown: String = text.chars().take(200).collect();
        assert_eq!(said(decoder.decode(&record)), *expected, "{shown}");
        assert_eq!(said(reference(settings, &record)), *expected, "the reference, {shown}");
    }
}

const OK: &str = "tenant=acme action= code=ok flag=-";

#[test]
fn malformed_payloads_by_reason() {
    let cases = [
        (event(&[]), OK),
        (String::new(), "empty"),
        (" ".into(), "not_json"),
        ("\n".into(), "not_json"),
        ("<html>502</html>".into(), "not_json"),
        (event(&[]) + "x", "not_json"),
        (event(&[]) + " \n", OK),
        (event(&[]).repeat(2), "not_json"),
        ("\u{feff}".to_owned() + &event(&[]), "not_json"),
        (event(&[("x", "01")]), "not_json"),
        (event(&[("x", "\"\t\"")]), "not_json"),
        (event(&[("x", "\"\\u12\"")]), "not_json"),
        (event(&[("x", "\"\\ud800\"")]), OK),
        (event(&[("tenant", "\"\\ud800\"")]), "not_json"),
        (event(&[("\\ud800", "1")]), "not_json"),
        (event(&[("x", "1e999")]), OK),
        (event(&[("x", &("[".repeat(126) + &"]".repeat(126)))]), OK),
        (event(&[("x", &("[".repeat(127) + &"]".repeat(127)))]), "not_json"),
        ("null".into(), "wrong_type"),
        ("[]".into(), "wrong_type"),
        (format!("[{}]", event(&[])), "wrong_type"),
        ("\"acme\"".into(), "wrong_type"),
        ("5".into(), "wrong_type"),
        ("{}".into(), "missing_field"),
        (event(&[("tenant", "")]), "missing_field"),
        (event(&[("tenant", "\"\"")]), "missing_field"),
        (event(&[("request_id", "")]), "missing_field"),
        (event(&[("request_id", "\"\"")]), "missing_field"),
        (event(&[("timestamp", "")]), "missing_field"),
        (event(&[("tenant", "null")]), "wrong_type"),
        (event(&[("tenant", "5")]), "tenant=5 action= code=ok flag=-"),
        (event(&[("tenant", "-5")]), "tenant=-5 action= code=ok flag=-"),
        (
            event(&[("tenant", "123456789012345678901234567890")]),
            "tenant=123456789012345678901234567890 action= code=ok flag=-",
        ),
        (event(&[("tenant", "5.0")]), "wrong_type"),
        (event(&[("tenant", "5e3")]), "wrong_type"),
        (event(&[("tenant", "true")]), "wrong_type"),
        (event(&[("tenant", &"1".repeat(129))]), "too_long"),
        (event(&[("request_id", "0")]), OK),
        (event(&[("request_id", "18446744073709551616")]), OK),
        (event(&[("request_id", "1.5")]), "wrong_type"),
        (event(&[("request_id", "1E2")]), "wrong_type"),
        (event(&[("request_id", "{}")]), "wrong_type"),
        (event(&[("timestamp", "null")]), "wrong_type"),
        (event(&[("timestamp", "1773972000000")]), "wrong_type"),
        (event(&[("timestamp", "true")]), "wrong_type"),
        (event(&[("action", "7")]), "wrong_type"),
        (event(&[("code", "[]")]), "wrong_type"),
        (event(&[("code", "true")]), "wrong_type"),
        (event(&[("code", "1.0")]), "wrong_type"),
        (event(&[("code", "1e2")]), "wrong_type"),
        (event(&[("system_error", "\"true\"")]), "wrong_type"),
        (event(&[("system_error", "1")]), "wrong_type"),
        (event(&[("timestamp", "\"\"")]), "bad_timestamp"),
        (event(&[("timestamp", "\"yesterday\"")]), "bad_timestamp"),
        (event(&[("timestamp", "\"2026-03-20T10:00:00\"")]), "bad_timestamp"),
        (event(&[("timestamp", "\"2026-13-01T00:00:00Z\"")]), "bad_timestamp"),
        (event(&[("timestamp", "\"2026-02-29T00:00:00Z\"")]), "bad_timestamp"),
        (event(&[("timestamp", "\"2026-03-20T24:00:00Z\"")]), "bad_timestamp"),
        (event(&[("timestamp", "\"2026-03-20T10:00:00+24:00\"")]), "bad_timestamp"),
        (event(&[("timestamp", "\"1773972000000\"")]), "bad_timestamp"),
        (event(&[("timestamp", "\"0000-01-01T00:00:00Z\"")]), "bad_timestamp"),
        (event(&[("timestamp", "\"9999-12-31T12:00:00Z\"")]), "bad_timestamp"),
        (
            event(&[("tenant", &quoted("t", 128))]),
            &("tenant=".to_owned() + &"t".repeat(128) + " action= code=ok flag=-"),
        ),
        (event(&[("tenant", &quoted("t", 129))]), "too_long"),
        (event(&[("tenant", &quoted("租", 43))]), "too_long"),
        (event(&[("tenant", &quoted("\\u79df", 43))]), "too_long"),
        (
            event(&[("tenant", &quoted("\\u0061", 128))]),
            &("tenant=".to_owned() + &"a".repeat(128) + " action= code=ok flag=-"),
        ),
        (event(&[("request_id", &quoted("r", 128))]), OK),
        (event(&[("request_id", &quoted("r", 129))]), "too_long"),
        (event(&[("action", &quoted("a", 129))]), "too_long"),
        (
            event(&[("code", &quoted("c", 256))]),
            &("tenant=acme action= code=".to_owned() + &"c".repeat(256) + " flag=-"),
        ),
        (event(&[("code", &quoted("c", 257))]), "too_long"),
        (event(&[("code", &"1".repeat(257))]), "too_long"),
        (r#"{"tenant":"acme","tenant":"acme"}"#.into(), "repeated_field"),
        (format!(r#"{{"code":null,"code":null,{}"#, &event(&[])[1..]), "repeated_field"),
        (format!(r#"{{"c\u006fde":null,"code":null,{}"#, &event(&[])[1..]), "repeated_field"),
        (format!(r#"{{"x":null,"x":null,{}"#, &event(&[])[1..]), OK),
        (event(&[("x", r#"{"tenant":"else","code":"InternalError","system_error":true}"#)]), OK),
        (event(&[("x", &quoted("x", 1 << 20))]), "too_large"),
    ];
    check(&CountingSettings::default(), &cases);
    let decoder = Decoder::new(&CountingSettings::default()).expect("the defaults");
    assert_eq!(said(decoder.decode(&SourceRecord { payload: None, ..payload(b"") })), "empty", "a tombstone");
    assert_eq!(said(decoder.decode(&payload(b"{\"tenant\":\"\xff\"}"))), "not_json", "no UTF-8");
    let most = event(&[("x", &quoted("x", (1 << 20) - event(&[("x", "\"\"")]).len()))]);
    assert_eq!(
        (most.len(), said(decoder.decode(&payload(most.as_bytes())))),
        (1 << 20, OK.into()),
        "1 MiB is not too large"
    );
}

#[test]
fn codes_actions_and_flags() {
    let is = |code: &str, flag: &str| format!("tenant=acme action= code={code} flag={flag}");
    let mut cases = vec![(event(&[("action", "\"Dial\"")]), "tenant=acme action=Dial code=ok flag=-".to_owned())];
    for (code, expected) in [
        ("null", "ok"),
        ("\"\"", "ok"),
        ("\"OK\"", "ok"),
        ("\"0\"", "ok"),
        ("0", "ok"),
        ("\"\\u0030\"", "ok"),
        ("-0", "-0"),
        ("404", "404"),
        ("-7", "-7"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ("\"InternalError.DBError\"", "InternalError.DBError"),
        ("\"NoResponse\"", "NoResponse"),
        ("\"a\\nb\"", "a\nb"),
    ] {
        cases.push((event(&[("code", code)]), is(expected, "-")));
    }
    for (flag, expected) in [("true", "failed"), ("false", "not failed"), ("null", "-")] {
        cases.push((event(&[("system_error", flag)]), is("ok", expected)));
        cases.push((event(&[("system_error", flag), ("code", "\"X\"")]), is("X", expected)));
    }
    for action in ["\"\"", "null"] {
        cases.push((event(&[("action", action)]), OK.to_owned()));
    }
    let cases: Vec<(String, &str)> = cases.iter().map(|(text, expected)| (text.clone(), expected.as_str())).collect();
    check(&CountingSettings::default(), &cases);
    let strict = CountingSettings { success_codes: vec!["200".into()], ..CountingSettings::default() };
    check(
        &strict,
        &[
            (event(&[("code", "200")]), OK),
            (event(&[("code", "\"OK\"")]), &is("OK", "-")),
            (event(&[("code", "\"\"")]), &is("", "-")),
            (event(&[]), OK),
        ],
    );
}

#[test]
fn instants_in_every_format() {
    let time = |format, text: &str| {
        let settings = CountingSettings { timestamp_format: format, ..CountingSettings::default() };
        let decoder = Decoder::new(&settings).expect("sound settings");
        let event = event(&[("timestamp", text)]);
        decoder
            .decode(&payload(event.as_bytes()))
            .map(|call| call.time_ms)
            .map_err(|reason| Rejection::from(reason).as_str())
    };
    use TimestampFormat::{EpochMs, EpochNs, EpochS, EpochUs, Rfc3339};
    for (format, text, expected) in [
        (Rfc3339, "\"2026-03-31T15:59:59.9999999Z\"", Ok(1_774_972_799_999)),
        (Rfc3339, "\"2026-03-31t15:59:59.999z\"", Ok(1_774_972_799_999)),
        (Rfc3339, "\"1969-12-31T23:59:59.9999Z\"", Ok(-1)),
        (Rfc3339, "\"2016-12-31T23:59:60Z\"", Ok(1_483_228_799_000)),
        (Rfc3339, "\"2016-12-31T23:59:60.5Z\"", Ok(1_483_228_799_500)),
        (Rfc3339, "\"2016-12-31T23:59:60.9999999Z\"", Ok(1_483_228_799_999)),
        (Rfc3339, "\"2017-01-01T07:59:60+08:00\"", Ok(1_483_228_799_000)),
        (Rfc3339, "\"2016-12-31T18:29:60-05:30\"", Ok(1_483_228_799_000)),
        (Rfc3339, "\"2024-02-29T23:59:60Z\"", Ok(1_709_251_199_000)),
        (Rfc3339, "\"2024-02-28T23:59:60Z\"", Err("bad_timestamp")),
        (Rfc3339, "\"2026-03-30T23:59:60Z\"", Err("bad_timestamp")),
        (Rfc3339, "\"2026-03-31T23:59:60+08:00\"", Err("bad_timestamp")),
        (Rfc3339, "\"2016-12-31T23:59:60+00:01\"", Err("bad_timestamp")),
        (Rfc3339, "\"2017-01-01T10:00:60Z\"", Err("bad_timestamp")),
        (Rfc3339, "\"2016-12-31T23:59:61Z\"", Err("bad_timestamp")),
        (Rfc3339, "\"\\u0032026-03-31T16:00:00Z\"", Ok(1_774_972_800_000)),
        (EpochS, "1774972800", Ok(1_774_972_800_000)),
        (EpochS, "-1", Ok(-1000)),
        (EpochS, "1774972800.5", Ok(1_774_972_800_500)),
        (EpochS, "1774972800.1239", Ok(1_774_972_800_123)),
        (EpochS, "\"1774972800\"", Ok(1_774_972_800_000)),
        (EpochS, "\"1774972800.123\"", Ok(1_774_972_800_123)),
        (EpochS, "\"177497280\\u0030.5\"", Ok(1_774_972_800_500)),
        (EpochS, "1.774e9", Ok(1_774_000_000_000)),
        (EpochS, "1.7749728001234E+9", Ok(1_774_972_800_123)),
        (EpochS, "17749728001239e-4", Ok(1_774_972_800_123)),
        (EpochS, "-0.0001", Ok(-1)),
        (EpochS, "-1.0010", Ok(-1001)),
        (EpochS, "0e999999999999999999999", Ok(0)),
        (EpochS, "1e999999999999999999999", Err("bad_timestamp")),
        (EpochS, "-1e-999999999999999999999", Ok(-1)),
        (EpochS, "\"\"", Err("bad_timestamp")),
        (EpochS, "\"+1\"", Err("bad_timestamp")),
        (EpochS, "\" 1\"", Err("bad_timestamp")),
        (EpochS, "\"1.\"", Err("bad_timestamp")),
        (EpochS, "\".5\"", Err("bad_timestamp")),
        (EpochS, "\"1e\"", Err("bad_timestamp")),
        (EpochS, "\"1_000\"", Err("bad_timestamp")),
        (EpochS, "\"2026-03-20T10:00:00Z\"", Err("bad_timestamp")),
        (EpochS, "true", Err("wrong_type")),
        (EpochS, "[1]", Err("wrong_type")),
        (EpochS, "null", Err("wrong_type")),
        (EpochS, "1774972800000000", Err("bad_timestamp")),
        (EpochMs, "1774972799999", Ok(1_774_972_799_999)),
        (EpochMs, "0", Ok(0)),
        (EpochMs, "-0", Ok(0)),
        (EpochMs, "1e12", Ok(1_000_000_000_000)),
        (EpochMs, "1774972799999.9", Ok(1_774_972_799_999)),
        (EpochMs, "\"1774972799999.9\"", Ok(1_774_972_799_999)),
        (EpochMs, "-0.5", Ok(-1)),
        (EpochUs, "1774972799999999", Ok(1_774_972_799_999)),
        (EpochUs, "-1", Ok(-1)),
        (EpochUs, "-1000", Ok(-1)),
        (EpochUs, "-1001", Ok(-2)),
        (EpochUs, "1774972799999999.9", Ok(1_774_972_799_999)),
        (EpochNs, "1774972799999999999", Ok(1_774_972_799_999)),
        (EpochNs, "-1", Ok(-1)),
        (EpochNs, "-1000001", Ok(-2)),
        (EpochNs, "\"1.774972799999999999e18\"", Ok(1_774_972_799_999)),
        (EpochNs, "1774972799999999999000000000000000000000000", Err("bad_timestamp")),
        (EpochMs, "253402214399999", Ok(253_402_214_399_999)),
        (EpochMs, "253402214400000", Err("bad_timestamp")),
        (EpochMs, "-62167132800000", Ok(-62_167_132_800_000)),
        (EpochMs, "-62167132800001", Err("bad_timestamp")),
    ] {
        assert_eq!(time(format, text), expected, "{format:?} {text}");
    }
}

#[test]
fn fields_are_found_where_the_mapping_says() {
    let mapped = |paths: [&str; 6]| {
        let [tenant, request_id, timestamp, action, code, system_error] = paths.map(path);
        CountingSettings {
            fields: FieldMapping { tenant, request_id, timestamp, action, code, system_error },
            ..CountingSettings::default()
        }
    };
    let nested = mapped(["/tenant", "/request_id", "/timestamp", "/a~1b/m~0n", "/Response/Error/Code", "/list/1"]);
    let is = |action: &str, code: &str, flag: &str| format!("tenant=acme action={action} code={code} flag={flag}");
    check(
        &nested,
        &[
            (event(&[("Response", r#"{"Error":{"Code":"X"},"Code":"Y"}"#)]), &is("", "X", "-")),
            (event(&[("Response", r#"{"Error":"none"}"#)]), OK),
            (event(&[("Response", "null")]), OK),
            (event(&[("code", "\"Y\"")]), OK),
            (event(&[("a/b", r#"{"m~n":"Dial"}"#)]), &is("Dial", "ok", "-")),
            (event(&[("a\\/b", r#"{"m~n":"Dial"}"#)]), &is("Dial", "ok", "-")),
            (event(&[("list", "[false,true,false]")]), &is("", "ok", "failed")),
            (event(&[("list", r#"{"1":true}"#)]), &is("", "ok", "failed")),
            (event(&[("list", "[true]")]), OK),
            (event(&[("Response", r#"{"Error":{"Code":"X"},"Error":{}}"#)]), "repeated_field"),
            (event(&[("Response", r#"{"Error":{"Code":"X","Code":"X"}}"#)]), "repeated_field"),
            (event(&[("Response", r#"{"Error":{"Code":{"deep":1}}}"#)]), "wrong_type"),
        ],
    );

    let outside = mapped(["$key", "$header:request-id", "/timestamp", "/action", "$header:code", "$header:failed"]);
    let decoder = Decoder::new(&outside).expect("sound settings");
    let body = event(&[("tenant", "\"else\"")]);
    for (key, headers, expected) in [
        (Some("acme"), vec![("request-id", "r1")], OK),
        (
            Some("acme"),
            vec![("request-id", "r1"), ("code", "X"), ("failed", "true")],
            "tenant=acme action= code=X flag=failed",
        ),
        (Some("acme"), vec![("request-id", "r1"), ("code", "X"), ("code", "Y")], "tenant=acme action= code=X flag=-"),
        (Some("acme"), vec![("request-id", "r1"), ("code", ""), ("failed", "")], OK),
        (Some("acme"), vec![("request-id", "r1"), ("failed", "false")], "tenant=acme action= code=ok flag=not failed"),
        (Some("acme"), vec![("request-id", "r1"), ("failed", "yes")], "wrong_type"),
        (Some("acme"), vec![("Request-Id", "r1")], "missing_field"),
        (Some(""), vec![("request-id", "r1")], "missing_field"),
        (None, vec![("request-id", "r1")], "missing_field"),
    ] {
        let headers: Vec<(&str, &[u8])> = headers.into_iter().map(|(name, value)| (name, value.as_bytes())).collect();
        let record =
            SourceRecord { key: key.map(str::as_bytes), headers: Headers::Known(&headers), ..payload(body.as_bytes()) };
        assert_eq!(said(decoder.decode(&record)), expected, "key {key:?} headers {headers:?}");
        assert_eq!(said(reference(&outside, &record)), expected, "the reference, key {key:?} headers {headers:?}");
    }
    let record = SourceRecord {
        key: Some(b"\xff"),
        headers: Headers::Known(&[("request-id", b"r1")]),
        ..payload(body.as_bytes())
    };
    assert_eq!(said(decoder.decode(&record)), "wrong_type", "a key that is not a text");
}

#[test]
fn cloud_events_are_opened() {
    let envelope = |data: &str| {
        format!(r#"{{"specversion":"1.0","id":"e1","source":"/x","type":"call","tenant":"envelope","data":{data}}}"#)
    };
    let call = event(&[("code", "\"X\"")]);
    let good = "tenant=acme action= code=X flag=-";
    check(
        &CountingSettings::default(),
        &[
            (envelope(&call), good),
            (format!(r#"{{"data":{call},"specversion":"1.0"}}"#), good),
            (format!(r#"{{"d\u0061ta":{call},"specv\u0065rsion":"1.0"}}"#), good),
            (envelope(r#"{"tenant":"acme"}"#), "missing_field"),
            (envelope(r#"{"tenant":"acme","tenant":"acme"}"#), "repeated_field"),
            (format!(r#"{{"specversion":"1.0","data":{call},"data":{call}}}"#), "repeated_field"),
            (format!(r#"{{"specversion":"1.0","specversion":"1.0","data":{call}}}"#), "repeated_field"),
            // Not an event: the mapping applies to the whole.
            (event(&[("specversion", "1"), ("data", &call)]), OK),
            (event(&[("specversion", "\"1.0\""), ("data", "\"text\"")]), OK),
            (event(&[("data", &call)]), OK),
            (envelope("null"), "missing_field"),
            // One level only.
            (envelope(&envelope(&call)), "missing_field"),
        ],
    );
    // A mapping that names the envelope is used literally.
    let fields = FieldMapping {
        tenant: path("/data/tenant"),
        request_id: path("/id"),
        timestamp: path("/data/timestamp"),
        action: path("/type"),
        code: path("/data/code"),
        system_error: path("/data/system_error"),
    };
    let whole = CountingSettings { fields, ..CountingSettings::default() };
    check(&whole, &[(envelope(&call), "tenant=acme action=call code=X flag=-")]);
}

#[test]
fn identity_in_the_envelope_is_found_by_pointers_and_by_attributes() {
    let mapped = |paths: [&str; 5]| {
        let [tenant, request_id, timestamp, action, code] = paths.map(path);
        let system_error = path("/system_error");
        let fields = FieldMapping { tenant, request_id, timestamp, action, code, system_error };
        CountingSettings { fields, ..CountingSettings::default() }
    };
    let event = |more: &str| {
        format!(
            r#"{{"specversion":"1.0","type":"api.call","source":"/gw","id":"e1","time":"2026-03-20T02:00:00Z","subject":"acme"{more}}}"#
        )
    };
    let pointers = mapped(["/subject", "/id", "/time", "/type", "/code"]);
    let is = |action: &str, code: &str| format!("tenant=acme action={action} code={code} flag=-");
    check(
        &pointers,
        &[
            (event(""), &is("api.call", "ok")),
            (event(r#","data":"x""#), &is("api.call", "ok")),
            (event(r#","data":null"#), &is("api.call", "ok")),
            (event(r#","data_base64":"e30=""#), &is("api.call", "ok")),
            (event(r#","data":{"method":"GET"}"#), &is("api.call", "ok")),
            // Other fields of the data are not lost.
            (event(r#","data":{"code":"InternalError","type":"Dial"}"#), &is("Dial", "InternalError")),
            (event(r#","data":{"code":"InternalError","code":"X"}"#), "repeated_field"),
            // An id in the data belongs to something else if the rest of the identity is in the envelope.
            (event(r#","data":{"id":7}"#), &is("api.call", "ok")),
            (event(r#","subject":"other","data":{}"#), "repeated_field"),
            // Complete in the data: unchanged.
            (
                event(r#","data":{"subject":"else","id":"1","time":"2026-03-20T02:00:00Z"}"#),
                "tenant=else action= code=ok flag=-",
            ),
            (event(r#","data":{"subject":null,"id":"1","time":"2026-03-20T02:00:00Z"}"#), "wrong_type"),
            (
                r#"{"specversion":"1.0","id":"e1","data":{"subject":"acme","time":"2026-03-20T02:00:00Z"}}"#.into(),
                &is("", "ok"),
            ),
            (r#"{"specversion":"1.0","id":"e1","data":{"time":"2026-03-20T02:00:00Z"}}"#.into(), "missing_field"),
        ],
    );

    let attributes = mapped(["$ce:subject", "$ce:id", "$ce:time", "$ce:kind", "/code"]);
    check(
        &attributes,
        &[
            (event(""), OK),
            (event(r#","data":"x""#), OK),
            (event(r#","data_base64":"e30=""#), OK),
            (event(r#","data":[1]"#), OK),
            (event(r#","kind":"Dial","data":{"code":"InternalError","subject":"else"}"#), &is("Dial", "InternalError")),
            (event(r#","k\u0069nd":"Dial","code":"X","data":{"method":"GET"}"#), &is("Dial", "ok")),
            (event(r#","kind":"Dial","kind":"Dial""#), "repeated_field"),
            (event(r#","specversion":"1.0""#), "repeated_field"),
            (event(r#","kind":7"#), "wrong_type"),
            (
                r#"{"specversion":"1.0","subject":7,"id":8,"time":"2026-03-20T02:00:00Z"}"#.into(),
                "tenant=7 action= code=ok flag=-",
            ),
            (
                r#"{"specversion":"1.0","id":"e1","time":"2026-03-20T02:00:00Z","data":{"subject":"acme"}}"#.into(),
                "missing_field",
            ),
            // Not an event.
            (r#"{"subject":"acme","id":"e1","time":"2026-03-20T02:00:00Z"}"#.into(), "missing_field"),
        ],
    );
    check(
        &mapped(["/customer", "$ce:id", "$ce:time", "/action", "/code"]),
        &[
            (event(r#","data":{"customer":12,"code":"X"}"#), "tenant=12 action= code=X flag=-"),
            (event(r#","customer":"acme","data":{"code":"X"}"#), &is("", "X")),
        ],
    );
}

#[test]
fn attributes_in_binary_mode_are_headers() {
    let fields = FieldMapping {
        tenant: path("$ce:subject"),
        request_id: path("$ce:id"),
        timestamp: path("$ce:time"),
        action: path("$ce:kind"),
        system_error: path("$ce:failed"),
        ..FieldMapping::default()
    };
    let settings = CountingSettings { fields, ..CountingSettings::default() };
    let decoder = Decoder::new(&settings).expect("a sound mapping");
    let binary: [(&str, &[u8]); 7] = [
        ("ce_specversion", b"1.0"),
        ("ce_id", b"e1"),
        ("ce_time", b"2026-03-20T02:00:00Z"),
        ("ce_subject", b"acme"),
        ("ce_kind", b"Dial"),
        ("ce_failed", b"true"),
        ("content-type", b"application/json"),
    ];
    let envelope =
        r#"{"specversion":"1.0","id":"e1","time":"2026-03-20T02:00:00Z","subject":"inner","data":{"code":"Y"}}"#;
    let all = "tenant=acme action=Dial code=X flag=failed";
    let structured: [(&str, &[u8]); 2] =
        [("ce_specversion", b"1.0"), ("content-type", b"Application/CloudEvents+json; charset=UTF-8")];
    let without = |name: &str| binary.iter().filter(|(n, _)| *n != name).copied().collect::<Vec<_>>();
    for (payload, headers, expected) in [
        (r#"{"code":"X"}"#, binary.to_vec(), all),
        (r#"{"code":"X"}"#, without("ce_specversion"), all),
        (r#"{"code":"X"}"#, without("content-type"), all),
        (r#"{"code":"X","subject":"else"}"#, without("ce_subject"), "missing_field"),
        // The data may be an event itself.
        (envelope, binary.to_vec(), "tenant=acme action=Dial code=Y flag=failed"),
        (envelope, structured.to_vec(), "tenant=inner action= code=Y flag=-"),
        (envelope, vec![], "tenant=inner action= code=Y flag=-"),
    ] {
        let record = SourceRecord { headers: Headers::Known(&headers), ..self::payload(payload.as_bytes()) };
        assert_eq!(said(decoder.decode(&record)), expected, "{payload} {headers:?}");
        assert_eq!(said(reference(&settings, &record)), expected, "the reference, {payload} {headers:?}");
    }
}

#[test]
fn mappings_that_cannot_work_are_refused() {
    let mapped = |change: fn(&mut FieldMapping)| {
        let mut settings = CountingSettings::default();
        change(&mut settings.fields);
        Decoder::new(&settings).expect_err("a mapping that cannot work")
    };
    assert_eq!(mapped(|f| f.code = path("/action")), "`action` and `code` are mapped to the same place");
    assert_eq!(mapped(|f| f.code = path("/action/code")), "`code` is mapped inside `action`");
    assert_eq!(mapped(|f| f.tenant = path("/code/tenant")), "another field is mapped inside `code`");
    let deep = |f: &mut FieldMapping| f.code = path(&"/x".repeat(70));
    assert!(mapped(deep).contains("more than 64 steps"), "{}", mapped(deep));
    for text in [
        "",
        "tenant",
        "$Key",
        "$header:",
        "$header: x",
        "$header:x ",
        "$ce:",
        "$ce:ID",
        "$ce:sub_ject",
        "$ce:data",
        "$ce: id",
        "$ce",
        "$ce.id",
        "/a~",
        "/a~2b",
    ] {
        assert!(FieldPath::try_from(text.to_owned()).is_err(), "{text}");
    }
    for text in ["/a~1b", "/m~0n", "/~01", "/", "$key", "$header:x", "$header:x y", "$ce:id", "$ce:tenant2"] {
        assert_eq!(String::from(path(text)), text);
    }
}

#[test]
fn what_is_itemised() {
    let decoder = Decoder::new(&CountingSettings::default()).expect("the defaults");
    for (changes, itemised) in [
        (vec![], false),
        (vec![("code", "\"InternalError\"")], true),
        (vec![("code", "\"InternalError\""), ("system_error", "false")], true),
        (vec![("system_error", "true")], true),
        (vec![("system_error", "false")], false),
        (vec![("code", "\"RequestLimitExceeded\"")], false),
        (vec![("code", "\"RequestLimitExceeded.Sub.Code\"")], false),
        (vec![("code", "\"RequestLimitExceeded\""), ("system_error", "true")], true),
        (vec![("code", "\"RequestLimitExceededX\"")], true),
        (vec![("code", "\"FailedOperation\"")], true),
        (vec![("code", "\"FailedOperation.SeatStatusBusy\"")], false),
        (vec![("code", "\"NoResponse\"")], true),
        (vec![("code", "404")], true),
    ] {
        let event = event(&changes);
        let call = decoder.decode(&payload(event.as_bytes())).expect("an event");
        assert_eq!(decoder.itemised(&call), itemised, "{event}");
    }
}
