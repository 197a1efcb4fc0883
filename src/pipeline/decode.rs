//! Bytes to a [`Call`]: one validating pass over the JSON text that looks only at the mapped fields.
//!
//! The scanner accepts what RFC 8259 (and `serde_json`, against which the tests compare it) accepts, borrows from the
//! payload, and unescapes a string only when it is wanted. It exists because decoding is most of the cost of an event.
//! `decode` is the only entry point, so another parser can replace it.
//!
//! Where it differs from `serde_json` on purpose:
//! - Numbers have no range: `1e999` is a number, and an integer used as a name or a code is its literal text (`-0`, 30
//!   digits).
//! - A lone surrogate (`"\ud800"`) is refused in keys and in mapped fields, and nowhere else.
//! - A mapped field, or an object on the way to one, that occurs twice is `repeated_field`; elsewhere repeats are
//!   ignored.
//!
//! Where the format leaves a choice:
//! - The payload is judged as a whole first (`too_large`, `empty`, `not_json`, `wrong_type` when it is not an object,
//!   `repeated_field`), then its fields in the order tenant, request id, timestamp, action, code, system_error.
//! - A null action is not an action. A null tenant, request id or timestamp is of the wrong type.
//! - Instants whose day might be outside the years 0–9999 in some zone are bad timestamps.
//! - An epoch is a JSON number or the text of a decimal number; it is read exactly and floored to milliseconds.
//! - A CloudEvent in structured mode is an object with a text `specversion`. Pointers go into its `data`, if that is an
//!   object and no mapped path itself begins with `/data`, else into the whole. Where the data lacks the tenant, the request
//!   id or the timestamp, these three are looked up in the envelope first, then in the data; the other fields in the data
//!   first, then in the envelope. So events whose identity is in the envelope are found by plain pointers too.
//! - `$ce:` attributes are members of the envelope in structured mode. A record is in binary mode, with attributes in headers,
//!   when it is not structured, or has a header `ce_specversion` and a content type that is not `application/cloudevents`.
//! - Values of keys and headers are text; an epoch there is a decimal number, a flag `true`, `false` or empty.

mod keys;
mod special;

use std::borrow::Cow;
use std::fmt;

use foldhash::fast::FixedState;
use hashbrown::HashSet;

use self::keys::Keys;
use self::special::{BLOCK, special, utf8};
use crate::domain::calendar::instant;
use crate::domain::call::{Call, Flag, Malformed};
use crate::domain::codes::longest_prefix;
use crate::pipeline::settings::{CountingSettings, FieldPath, TimestampFormat};

/// Longest tenant, request id and action, in bytes.
pub const MAX_NAME_BYTES: usize = 128;
/// Longest error code, in bytes.
pub const MAX_CODE_BYTES: usize = 256;
/// Deepest nesting of objects and arrays.
const MAX_DEPTH: u32 = 128;
/// Most steps the mapped paths may have together; one bit of `Scan::seen` each.
const MAX_NODES: usize = 64;
/// Number of mapped fields.
const FIELDS: usize = 6;
const NAMES: [&str; FIELDS] = ["tenant", "request_id", "timestamp", "action", "code", "system_error"];
const TENANT: usize = 0;
const REQUEST_ID: usize = 1;
const TIMESTAMP: usize = 2;
const ACTION: usize = 3;
const CODE: usize = 4;
const SYSTEM_ERROR: usize = 5;
/// The header of a payload's media type.
const CONTENT_TYPE: &str = "content-type";
const REQUIRED: [usize; 3] = [TENANT, REQUEST_ID, TIMESTAMP];

/// One record of the calls topic, as the consumer delivers it.
#[derive(Debug, Clone, Copy)]
pub struct SourceRecord<'a> {
    /// Offset in the source partition.
    pub offset: i64,
    /// Arrival: the record's timestamp in milliseconds since 1970-01-01T00:00:00Z, if it has one.
    pub timestamp_ms: Option<i64>,
    /// The record's key.
    pub key: Option<&'a [u8]>,
    /// The record's value; `None` for a tombstone.
    pub payload: Option<&'a [u8]>,
    /// The record's headers.
    pub headers: Headers<'a>,
}

/// A header: its name and value.
pub type Header<'a> = (&'a str, &'a [u8]);

/// The headers of a record, in order. Parsed on demand, because they are rarely needed: by a mapping that uses them,
/// and for dead letters.
#[derive(Debug, Clone, Copy)]
pub enum Headers<'a> {
    /// Parsed already.
    Known(&'a [Header<'a>]),
    /// Not parsed yet.
    Unread(&'a dyn UnreadHeaders),
}

/// Headers that are parsed on demand.
pub trait UnreadHeaders: fmt::Debug {
    /// All of them, in order.
    fn read(&self) -> Vec<Header<'_>>;
}

impl<'a> Headers<'a> {
    /// A record without headers.
    pub const NONE: Self = Self::Known(&[]);

    /// All of them, in order.
    pub fn read(self) -> Cow<'a, [Header<'a>]> {
        match self {
            Self::Known(headers) => Cow::Borrowed(headers),
            Self::Unread(headers) => Cow::Owned(headers.read()),
        }
    }
}

/// Decodes the events of one source under one field mapping.
#[derive(Debug, Clone)]
pub struct Decoder {
    /// The mapping as a tree over JSON object keys; node 0 is the root.
    nodes: Vec<Node>,
    /// Fields that come from the key or a header.
    outside: Vec<(usize, FieldPath)>,
    /// Fields that are attributes of a CloudEvent.
    attributes: Vec<Attribute>,
    /// Required fields that are found by a pointer.
    required: Vec<usize>,
    format: TimestampFormat,
    success_codes: Vec<Box<str>>,
    not_itemised: HashSet<Box<str>, FixedState>,
    max_bytes: usize,
    /// Structured CloudEvents are opened, unless the mapping names their envelope.
    opens_events: bool,
    /// Some field may be in a header.
    reads_headers: bool,
}

/// A CloudEvent's attribute that a field is mapped to; in the envelope it is a [`Member`] of the outermost object.
#[derive(Debug, Clone)]
struct Attribute {
    field: usize,
    /// The header in binary mode.
    header: Box<str>,
}

/// A place in an event that a mapping refers to.
#[derive(Debug, Clone, Default)]
struct Node {
    /// The members looked for in an object here.
    members: Keys<Member>,
    field: Option<usize>,
}

/// What a member of an object means.
#[derive(Debug, Clone, Copy, Default)]
struct Member {
    /// The mapping continues inside it.
    node: Option<u32>,
    /// Part of a CloudEvent's envelope, in the outermost object.
    envelope: Option<Envelope>,
    /// One bit a field: it is mapped to the attribute of this name.
    attributes: u8,
}

/// The members by which a CloudEvent is recognized.
#[derive(Debug, Clone, Copy)]
enum Envelope {
    SpecVersion,
    Data,
}

/// A mapped value as found, not yet judged.
#[derive(Debug, Clone, Copy)]
enum Found<'a> {
    Absent,
    /// A JSON string without its quotes; `escaped` when it holds a backslash.
    Text {
        raw: &'a str,
        escaped: bool,
    },
    Number(&'a str),
    Bool(bool),
    Null,
    Nested,
    /// Bytes of a key or header.
    Outside(&'a [u8]),
}

impl Decoder {
    /// A decoder for these settings.
    ///
    /// # Errors
    /// Two fields mapped to the same place, or one inside the other.
    pub fn new(settings: &CountingSettings) -> Result<Self, String> {
        let fields = &settings.fields;
        let paths =
            [&fields.tenant, &fields.request_id, &fields.timestamp, &fields.action, &fields.code, &fields.system_error];
        let mut decoder = Self {
            nodes: vec![root()],
            outside: Vec::new(),
            attributes: Vec::new(),
            required: Vec::new(),
            format: settings.timestamp_format,
            success_codes: settings.success_codes.iter().map(|c| c.as_str().into()).collect(),
            not_itemised: settings.not_itemised.iter().map(|c| c.as_str().into()).collect(),
            max_bytes: settings.max_event_bytes as usize,
            opens_events: !paths
                .iter()
                .any(|p| matches!(p, FieldPath::Pointer(s) if s.first().is_some_and(|s| s == "data"))),
            reads_headers: paths.iter().any(|p| matches!(p, FieldPath::Header(_) | FieldPath::Attribute(_))),
        };
        for (field, path) in paths.into_iter().enumerate() {
            let segments = match path {
                FieldPath::Pointer(segments) => segments,
                FieldPath::Attribute(name) => {
                    let members = &mut decoder.nodes[0].members;
                    members.get_or_insert(name.as_bytes(), Member::default()).attributes |= 1 << field;
                    decoder.attributes.push(Attribute::new(field, name));
                    continue;
                }
                FieldPath::Key | FieldPath::Header(_) => {
                    decoder.outside.push((field, path.clone()));
                    continue;
                }
            };
            decoder.required.extend(REQUIRED.contains(&field).then_some(field));
            let mut at = 0;
            for segment in segments {
                if let Some(other) = decoder.nodes[at].field {
                    return Err(format!("`{}` is mapped inside `{}`", NAMES[field], NAMES[other]));
                }
                at = decoder.child_or_new(at, segment);
            }
            let node = &mut decoder.nodes[at];
            if let Some(other) = node.field {
                return Err(format!("`{}` and `{}` are mapped to the same place", NAMES[other], NAMES[field]));
            }
            if node.is_step() {
                return Err(format!("another field is mapped inside `{}`", NAMES[field]));
            }
            node.field = Some(field);
        }
        if decoder.nodes.len() > MAX_NODES {
            return Err(format!(
                "the mapped paths have more than {MAX_NODES} steps in all: map fields nearer to the event's root"
            ));
        }
        Ok(decoder)
    }

    fn child_or_new(&mut self, at: usize, segment: &str) -> usize {
        let new = self.nodes.len();
        let member = self.nodes[at].members.get_or_insert(segment.as_bytes(), Member::default());
        let child = *member.node.get_or_insert(new as u32) as usize;
        if child == new {
            self.nodes.push(Node::default());
        }
        child
    }

    /// Reads one event.
    ///
    /// # Errors
    /// Why the payload is not a call event.
    pub fn decode<'a>(&self, record: &SourceRecord<'a>) -> Result<Call<'a>, Malformed> {
        let payload = record.payload.unwrap_or_default();
        if payload.len() > self.max_bytes {
            return Err(Malformed::TooLarge);
        }
        if payload.is_empty() {
            return Err(Malformed::Empty);
        }
        let text = utf8(payload).ok_or(Malformed::NotJson)?;
        let mut scan = Scan::new(self, text);
        scan.document()?;
        let (mut found, mut repeated) = (scan.found, scan.repeated);
        if let (Some(data), true) = (scan.data, scan.spec_version) {
            // A CloudEvent in structured mode: the mapping applies to its data.
            let mut inner = Scan::new(self, data);
            inner.document()?;
            repeated = inner.repeated || scan.spec_versions > 1 || scan.data_members > 1;
            found = inner.found;
            if self.required.iter().any(|&field| matches!(found[field], Found::Absent)) {
                repeated |= scan.repeated;
                found = with_envelope(scan.found, found);
            }
        }
        let headers = if self.reads_headers { record.headers.read() } else { Cow::Borrowed(&[][..]) };
        if !self.attributes.is_empty() {
            let structured = scan.spec_version && !in_binary_mode(&headers);
            repeated |= structured && (scan.attribute_repeated || scan.spec_versions > 1);
            for Attribute { field, header: name } in &self.attributes {
                found[*field] = match structured {
                    true => scan.attributes[*field],
                    false => header(&headers, name).map_or(Found::Absent, Found::Outside),
                };
            }
        }
        if repeated {
            return Err(Malformed::RepeatedField);
        }
        for (field, path) in &self.outside {
            found[*field] = outside_value(path, record.key, &headers).map_or(Found::Absent, Found::Outside);
        }
        let tenant = name(found[TENANT], true)?;
        let request_id = name(found[REQUEST_ID], true)?;
        let time_ms = self.timestamp(found[TIMESTAMP])?;
        let action = name(found[ACTION], false)?;
        let code = self.code(found[CODE])?;
        let system_error = flag(found[SYSTEM_ERROR])?;
        Ok(Call { tenant, request_id, time_ms, action, code, system_error })
    }

    /// Is this outcome recorded call by call (and not only counted)? Flag true, or a non-ok code that is not in
    /// `counting.not_itemised`.
    pub fn itemised(&self, call: &Call<'_>) -> bool {
        call.system_error == Flag::True
            || call
                .code
                .as_deref()
                .is_some_and(|code| longest_prefix(code, |c| self.not_itemised.contains(c).then_some(())).is_none())
    }

    fn timestamp(&self, found: Found<'_>) -> Result<i64, Malformed> {
        let power = match self.format {
            TimestampFormat::Rfc3339 => {
                let text = text(found)?.ok_or(Malformed::MissingField)?;
                return rfc3339_ms(&text).ok_or(Malformed::BadTimestamp);
            }
            TimestampFormat::EpochS => 3,
            TimestampFormat::EpochMs => 0,
            TimestampFormat::EpochUs => -3,
            TimestampFormat::EpochNs => -6,
        };
        let digits = match found {
            Found::Number(raw) => Cow::Borrowed(raw),
            Found::Outside(bytes) => std::str::from_utf8(bytes).map_err(|_| Malformed::BadTimestamp)?.into(),
            _ => text(found)?.ok_or(Malformed::MissingField)?,
        };
        floored(&digits, power).filter(in_range).ok_or(Malformed::BadTimestamp)
    }

    fn code<'a>(&self, found: Found<'a>) -> Result<Option<Cow<'a, str>>, Malformed> {
        let code = match found {
            Found::Null => None,
            _ => text_or_integer(found)?,
        };
        match code {
            Some(code) if self.success_codes.iter().any(|s| **s == *code) => Ok(None),
            Some(code) if code.len() > MAX_CODE_BYTES => Err(Malformed::TooLong),
            code => Ok(code),
        }
    }
}

/// `digits × 10^power`, floored. `None` when it is not a decimal number (`-?D+(.D+)?([eE][+-]?D+)?`), or beyond 18 digits.
fn floored(digits: &str, power: i64) -> Option<i64> {
    /// Any instant in range has fewer.
    const MOST_DIGITS: i64 = 18;
    let (negative, rest) = digits.strip_prefix('-').map_or((false, digits), |rest| (true, rest));
    let (mantissa, exponent) = match rest.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent_of(exponent)?),
        None => (rest, 0),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((_, "")) => return None,
        Some(parts) => parts,
        None => (mantissa, ""),
    };
    if whole.is_empty() || !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit()) {
        return None;
    }
    // Digits before the point, once it has moved.
    let point = (whole.len() as i64).saturating_add(exponent).saturating_add(power);
    let (mut value, mut rest, mut place) = (0i64, false, 0i64);
    for digit in whole.bytes().chain(fraction.bytes()).map(|b| i64::from(b - b'0')) {
        if place < point {
            value = value.checked_mul(10)?.checked_add(digit)?;
        } else {
            rest |= digit != 0;
        }
        place += 1;
    }
    if value != 0 && place < point {
        let zeros = u32::try_from(point - place).ok().filter(|zeros| i64::from(*zeros) <= MOST_DIGITS)?;
        value = value.checked_mul(10i64.pow(zeros))?;
    }
    Some(if negative { -value - i64::from(rest) } else { value })
}

/// `[+-]?D+`; an exponent that is too large is clamped.
fn exponent_of(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix(['+', '-']) {
        Some(digits) => (text.starts_with('-'), digits),
        None => (false, text),
    };
    let add = |n: i64, b: u8| b.is_ascii_digit().then(|| n.saturating_mul(10).saturating_add(i64::from(b - b'0')));
    let exponent = digits.bytes().try_fold(0, add).filter(|_| !digits.is_empty())?;
    Some(if negative { -exponent } else { exponent })
}

/// Is the instant's day within the years 0–9999 in every zone? RFC 3339 and the ledger's keys allow four digits.
fn in_range(time_ms: &i64) -> bool {
    // From 0000-01-02T00:00:00Z to 9999-12-31T00:00:00Z.
    (-62_167_132_800_000..253_402_214_400_000).contains(time_ms)
}

/// Reads one text from the outermost object of a JSON payload, as [`Decoder`] would: `arrival` in a replay.
#[derive(Debug, Clone)]
pub struct OutermostText {
    decoder: Decoder,
}

impl OutermostText {
    /// A reader of this member.
    pub fn new(name: &str) -> Self {
        let mut root = root();
        root.members.get_or_insert(name.as_bytes(), Member::default()).node = Some(1);
        let member = Node { field: Some(0), ..Node::default() };
        Self {
            decoder: Decoder {
                nodes: vec![root, member],
                outside: Vec::new(),
                attributes: Vec::new(),
                required: Vec::new(),
                format: TimestampFormat::Rfc3339,
                success_codes: Vec::new(),
                not_itemised: HashSet::default(),
                max_bytes: usize::MAX,
                opens_events: false,
                reads_headers: false,
            },
        }
    }

    /// The text; `None` when it is absent or null, or the payload is not a JSON object.
    ///
    /// # Errors
    /// It has another type, or occurs twice.
    pub fn read<'a>(&self, payload: &'a [u8]) -> Result<Option<Cow<'a, str>>, Malformed> {
        let Some(json) = utf8(payload) else { return Ok(None) };
        let mut scan = Scan::new(&self.decoder, json);
        match scan.document() {
            Ok(()) if scan.repeated => Err(Malformed::RepeatedField),
            Ok(()) if matches!(scan.found[0], Found::Null) => Ok(None),
            Ok(()) => text(scan.found[0]),
            Err(_) => Ok(None),
        }
    }
}

impl Attribute {
    fn new(field: usize, name: &str) -> Self {
        // The one attribute with a header of its own in binary mode.
        let header = if name == "datacontenttype" { CONTENT_TYPE.into() } else { format!("ce_{name}") };
        Self { field, header: header.into() }
    }
}

/// What the mapping finds if the data lacks part of the identity; see the module documentation.
fn with_envelope<'a>(envelope: [Found<'a>; FIELDS], data: [Found<'a>; FIELDS]) -> [Found<'a>; FIELDS] {
    std::array::from_fn(|field| {
        let (first, second) =
            if REQUIRED.contains(&field) { (envelope[field], data[field]) } else { (data[field], envelope[field]) };
        if matches!(first, Found::Absent) { second } else { first }
    })
}

/// Does the record say that its CloudEvent's attributes are headers?
fn in_binary_mode(headers: &[Header<'_>]) -> bool {
    const STRUCTURED: &[u8] = b"application/cloudevents";
    let structured = |value: &[u8]| value.get(..STRUCTURED.len()).is_some_and(|v| v.eq_ignore_ascii_case(STRUCTURED));
    headers.iter().any(|(name, _)| *name == "ce_specversion")
        && !headers.iter().any(|(name, value)| name.eq_ignore_ascii_case(CONTENT_TYPE) && structured(value))
}

/// The outermost object.
fn root() -> Node {
    let mut node = Node::default();
    for (name, envelope) in [("specversion", Envelope::SpecVersion), ("data", Envelope::Data)] {
        node.members.get_or_insert(name.as_bytes(), Member::default()).envelope = Some(envelope);
    }
    node
}

impl Node {
    /// Is a field mapped to something inside it?
    fn is_step(&self) -> bool {
        self.members.values().any(|member| member.node.is_some())
    }
}

fn outside_value<'a>(path: &FieldPath, key: Option<&'a [u8]>, headers: &[Header<'a>]) -> Option<&'a [u8]> {
    match path {
        FieldPath::Key => key,
        FieldPath::Header(name) => header(headers, name),
        FieldPath::Pointer(_) | FieldPath::Attribute(_) => None,
    }
}

/// The first header of this name.
fn header<'a>(headers: &[Header<'a>], name: &str) -> Option<&'a [u8]> {
    headers.iter().find(|(n, _)| *n == name).map(|(_, value)| *value)
}

/// The value as a string; `None` when absent.
fn text(found: Found<'_>) -> Result<Option<Cow<'_, str>>, Malformed> {
    match found {
        Found::Absent => Ok(None),
        Found::Text { raw, escaped: false } => Ok(Some(Cow::Borrowed(raw))),
        Found::Text { raw, escaped: true } => unescape(raw).map(|s| Some(Cow::Owned(s))).ok_or(Malformed::NotJson),
        Found::Outside(bytes) => {
            std::str::from_utf8(bytes).map(|s| Some(Cow::Borrowed(s))).map_err(|_| Malformed::WrongType)
        }
        Found::Number(_) | Found::Bool(_) | Found::Null | Found::Nested => Err(Malformed::WrongType),
    }
}

/// The value as a string, an integer as it is written; `None` when absent.
fn text_or_integer(found: Found<'_>) -> Result<Option<Cow<'_, str>>, Malformed> {
    match found {
        Found::Number(raw) if !raw.contains(['.', 'e', 'E']) => Ok(Some(Cow::Borrowed(raw))),
        _ => text(found),
    }
}

/// A name: the tenant's and the call's are required, and may be integers.
fn name(found: Found<'_>, required: bool) -> Result<Cow<'_, str>, Malformed> {
    let value = match found {
        Found::Null if !required => None,
        _ if required => text_or_integer(found)?,
        _ => text(found)?,
    };
    match value {
        Some(name) if name.len() > MAX_NAME_BYTES => Err(Malformed::TooLong),
        Some(name) if !name.is_empty() || !required => Ok(name),
        _ if required => Err(Malformed::MissingField),
        _ => Ok(Cow::Borrowed("")),
    }
}

fn flag(found: Found<'_>) -> Result<Flag, Malformed> {
    match found {
        Found::Absent | Found::Null => Ok(Flag::Absent),
        Found::Bool(true) | Found::Outside(b"true") => Ok(Flag::True),
        Found::Bool(false) | Found::Outside(b"false") => Ok(Flag::False),
        Found::Outside(b"") => Ok(Flag::Absent),
        _ => Err(Malformed::WrongType),
    }
}

fn unescape(raw: &str) -> Option<String> {
    serde_json::from_str(&format!("\"{raw}\"")).ok()
}

/// Milliseconds since 1970-01-01T00:00:00Z of an RFC 3339 instant, floored; see [`instant`] for leap seconds.
pub fn rfc3339_ms(text: &str) -> Option<i64> {
    fast_rfc3339_ms(text.as_bytes()).or_else(|| instant(text).map(|t| t.timestamp_millis())).filter(in_range)
}

/// `YYYY-MM-DDTHH:MM:SS[.fraction](Z|±HH:MM)`; anything else (and anything unusual) is left to [`instant`].
fn fast_rfc3339_ms(b: &[u8]) -> Option<i64> {
    let number = |at: usize, len: usize| {
        b.get(at..at + len)?.iter().try_fold(0i64, |n, d| d.is_ascii_digit().then(|| n * 10 + i64::from(d - b'0')))
    };
    let is = |at: usize, byte: u8| b.get(at) == Some(&byte);
    if !(is(4, b'-') && is(7, b'-') && is(10, b'T') && is(13, b':') && is(16, b':')) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 2)?, number(8, 2)?);
    let (hour, minute, second) = (number(11, 2)?, number(14, 2)?, number(17, 2)?);
    // Day 29 of February and second 60 are rare; left to `instant`.
    let long =
        matches!(month, 1 | 3 | 5 | 7 | 8 | 10 | 12) && day <= 31 || matches!(month, 4 | 6 | 9 | 11) && day <= 30;
    if !(1..=12).contains(&month) || day < 1 || !(day <= 28 || long) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let mut at = 19;
    let mut millis = 0;
    if is(at, b'.') {
        at += 1;
        let start = at;
        while b.get(at).is_some_and(u8::is_ascii_digit) {
            if at - start < 3 {
                millis = millis * 10 + i64::from(b[at] - b'0');
            }
            at += 1;
        }
        match at - start {
            0 => return None,
            1 => millis *= 100,
            2 => millis *= 10,
            _ => {}
        }
    }
    let offset_minutes = match b.get(at)? {
        b'Z' if b.len() == at + 1 => 0,
        sign @ (b'+' | b'-') if b.len() == at + 6 && is(at + 3, b':') => {
            let (h, m) = (number(at + 1, 2)?, number(at + 4, 2)?);
            if h > 23 || m > 59 {
                return None;
            }
            (h * 60 + m) * if *sign == b'-' { -1 } else { 1 }
        }
        _ => return None,
    };
    // Days since 1970-01-01 (civil calendar, years counted from March).
    let y = year - i64::from(month <= 2);
    let (era, yoe) = (y.div_euclid(400), y.rem_euclid(400));
    let doy = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468;
    Some((days * 86_400 + hour * 3600 + minute * 60 + second - offset_minutes * 60) * 1000 + millis)
}

struct Scan<'a, 'd> {
    decoder: &'d Decoder,
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    /// The block classified last, and its special bytes.
    block: usize,
    specials: u64,
    depth: u32,
    found: [Found<'a>; FIELDS],
    /// One bit a node of the mapping: seen already.
    seen: u64,
    repeated: bool,
    /// CloudEvents: whether a top-level `specversion` is a string, where a top-level object `data` is, and how often
    /// the two names occur there.
    spec_version: bool,
    data: Option<&'a str>,
    spec_versions: u32,
    data_members: u32,
    /// The mapped attributes, as members of the outermost object.
    attributes: [Found<'a>; FIELDS],
    attribute_repeated: bool,
    /// One bit a field: its attribute was seen; the next value is its attribute.
    attributes_seen: u8,
    awaited: u8,
}

impl<'a, 'd> Scan<'a, 'd> {
    fn new(decoder: &'d Decoder, text: &'a str) -> Self {
        Self {
            decoder,
            text,
            bytes: text.as_bytes(),
            at: 0,
            block: usize::MAX,
            specials: 0,
            depth: 0,
            found: [Found::Absent; FIELDS],
            seen: 0,
            repeated: false,
            spec_version: false,
            data: None,
            spec_versions: 0,
            data_members: 0,
            attributes: [Found::Absent; FIELDS],
            attribute_repeated: false,
            attributes_seen: 0,
            awaited: 0,
        }
    }

    fn document(&mut self) -> Result<(), Malformed> {
        self.space();
        let object = self.peek() == Some(b'{');
        self.value(if object { Some(0) } else { None })?;
        self.space();
        if self.at != self.bytes.len() {
            return Err(Malformed::NotJson);
        }
        if object { Ok(()) } else { Err(Malformed::WrongType) }
    }

    #[inline]
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    #[inline]
    fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    #[inline]
    fn expect(&mut self, literal: &str) -> Result<(), Malformed> {
        if self.bytes[self.at..].starts_with(literal.as_bytes()) {
            self.at += literal.len();
            Ok(())
        } else {
            Err(Malformed::NotJson)
        }
    }

    /// Reads one value; looks for mapped fields inside it when `node` says so.
    #[inline(always)]
    fn value(&mut self, node: Option<usize>) -> Result<Found<'a>, Malformed> {
        match self.peek().ok_or(Malformed::NotJson)? {
            b'"' => {
                let (start, end, escaped) = self.string()?;
                Ok(Found::Text { raw: &self.text[start..end], escaped })
            }
            b'{' => self.nested(node, true),
            b'[' => self.nested(node, false),
            b't' => self.expect("true").map(|()| Found::Bool(true)),
            b'f' => self.expect("false").map(|()| Found::Bool(false)),
            b'n' => self.expect("null").map(|()| Found::Null),
            _ => self.number().map(Found::Number),
        }
    }

    fn nested(&mut self, node: Option<usize>, object: bool) -> Result<Found<'a>, Malformed> {
        self.depth += 1;
        if self.depth >= MAX_DEPTH {
            return Err(Malformed::NotJson);
        }
        let close = if object { b'}' } else { b']' };
        let top = self.depth == 1;
        self.at += 1;
        self.space();
        if self.peek() == Some(close) {
            self.at += 1;
            self.depth -= 1;
            return Ok(Found::Nested);
        }
        let mut index = 0usize;
        loop {
            let child = if object {
                if self.peek() != Some(b'"') {
                    return Err(Malformed::NotJson);
                }
                let (start, end, escaped) = self.string()?;
                self.space();
                if self.peek() != Some(b':') {
                    return Err(Malformed::NotJson);
                }
                self.at += 1;
                self.space();
                if escaped {
                    let key = unescape(&self.text[start..end]).ok_or(Malformed::NotJson)?;
                    self.member(node, key.as_bytes(), top)?
                } else {
                    self.member(node, &self.bytes[start..end], top)?
                }
            } else {
                let members = node.map(|n| &self.decoder.nodes[n].members).filter(|members| !members.is_empty());
                let member = members.and_then(|members| members.get(index.to_string().as_bytes()));
                index += 1;
                member.and_then(|member| member.node).map(|node| node as usize)
            };
            self.element(child)?;
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b) if b == close => {
                    self.at += 1;
                    self.depth -= 1;
                    return Ok(Found::Nested);
                }
                _ => return Err(Malformed::NotJson),
            }
            self.space();
        }
    }

    /// The mapping's node for the member of this key. Handles the CloudEvents envelope in the outermost object.
    #[inline]
    fn member(&mut self, node: Option<usize>, key: &[u8], top: bool) -> Result<Option<usize>, Malformed> {
        let decoder = self.decoder;
        let Some(member) = node.and_then(|node| decoder.nodes[node].members.get(key)) else { return Ok(None) };
        if top {
            self.awaited = member.attributes;
            match member.envelope {
                Some(Envelope::SpecVersion) => {
                    self.spec_version |= self.peek() == Some(b'"');
                    self.spec_versions += 1;
                }
                Some(Envelope::Data) => self.data_member()?,
                None => {}
            }
        }
        Ok(member.node.map(|node| node as usize))
    }

    fn data_member(&mut self) -> Result<(), Malformed> {
        self.data_members += 1;
        if self.decoder.opens_events && self.peek() == Some(b'{') {
            // Look ahead only for the extent; the caller reads the value as usual.
            let (at, depth) = (self.at, self.depth);
            self.value(None)?;
            self.data = Some(&self.text[at..self.at]);
            (self.at, self.depth) = (at, depth);
        }
        Ok(())
    }

    #[inline(always)]
    fn element(&mut self, child: Option<usize>) -> Result<(), Malformed> {
        if let Some(node) = child {
            let bit = 1u64 << (node & 63);
            self.repeated |= self.seen & bit != 0;
            self.seen |= bit;
        }
        let awaited = std::mem::take(&mut self.awaited);
        let value = self.value(child)?;
        if awaited != 0 {
            self.attribute_repeated |= self.attributes_seen & awaited != 0;
            self.attributes_seen |= awaited;
            let mapped = (0..FIELDS).filter(|field| awaited >> field & 1 == 1);
            mapped.for_each(|field| self.attributes[field] = value);
        }
        if let Some(field) = child.and_then(|node| self.decoder.nodes[node].field) {
            self.found[field] = value;
        }
        Ok(())
    }

    /// Reads a string: where it begins and ends between its quotes, and whether it holds a backslash. The position is at its
    /// opening quote.
    #[inline(always)]
    fn string(&mut self) -> Result<(usize, usize, bool), Malformed> {
        let start = self.at + 1;
        let at = self.special_from(start);
        if self.bytes.get(at) == Some(&b'"') {
            self.at = at + 1;
            return Ok((start, at, false));
        }
        self.escaped_string(start, at)
    }

    /// The rest of a string, from the first byte that is neither plain nor its end.
    #[cold]
    fn escaped_string(&mut self, start: usize, mut at: usize) -> Result<(usize, usize, bool), Malformed> {
        while self.bytes.get(at) == Some(&b'\\') {
            at = self.special_from(self.escape(at)?);
        }
        if self.bytes.get(at) != Some(&b'"') {
            return Err(Malformed::NotJson);
        }
        self.at = at + 1;
        Ok((start, at, true))
    }

    /// The position after the escape that begins here.
    fn escape(&self, at: usize) -> Result<usize, Malformed> {
        match self.bytes.get(at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(at + 2),
            Some(b'u') if self.bytes.get(at + 2..at + 6).is_some_and(|h| h.iter().all(u8::is_ascii_hexdigit)) => {
                Ok(at + 6)
            }
            _ => Err(Malformed::NotJson),
        }
    }

    /// The first quote, backslash or control character from here on, or the end.
    #[inline(always)]
    fn special_from(&mut self, at: usize) -> usize {
        let (block, specials) = (at / BLOCK * BLOCK, self.specials & u64::MAX << (at % BLOCK));
        if block == self.block && specials != 0 {
            return block + specials.trailing_zeros() as usize;
        }
        self.special_in_next(at, block)
    }

    #[inline(never)]
    fn special_in_next(&mut self, at: usize, mut block: usize) -> usize {
        if block != self.block {
            self.classify(block);
        }
        let mut specials = self.specials & u64::MAX << (at % BLOCK);
        while specials == 0 {
            block += BLOCK;
            if block >= self.bytes.len() {
                return self.bytes.len();
            }
            self.classify(block);
            specials = self.specials;
        }
        block + specials.trailing_zeros() as usize
    }

    #[inline]
    fn classify(&mut self, block: usize) {
        self.block = block;
        self.specials = match self.bytes.get(block..).and_then(<[u8]>::first_chunk) {
            Some(whole) => special(whole),
            None => self.last_specials(block),
        };
    }

    /// Those of the incomplete block at the end.
    fn last_specials(&self, block: usize) -> u64 {
        let rest = self.bytes.get(block..).unwrap_or_default();
        match self.bytes.last_chunk() {
            // Nothing of a block that begins after the end.
            Some(last) if !rest.is_empty() => special(last) >> (BLOCK - rest.len()),
            Some(_) => 0,
            None => {
                let mut padded = [b' '; BLOCK];
                padded[..rest.len()].copy_from_slice(rest);
                special(&padded)
            }
        }
    }

    fn number(&mut self) -> Result<&'a str, Malformed> {
        let start = self.at;
        let digits = |scan: &mut Self| {
            let from = scan.at;
            while scan.peek().is_some_and(|b| b.is_ascii_digit()) {
                scan.at += 1;
            }
            if scan.at > from { Ok(()) } else { Err(Malformed::NotJson) }
        };
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            digits(self)?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            digits(self)?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            digits(self)?;
        }
        Ok(&self.text[start..self.at])
    }
}
