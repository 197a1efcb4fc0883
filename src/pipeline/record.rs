//! The records of the ledger topic: keys readable in any Kafka tool, values as one version byte and a protobuf
//! message (`ledger.proto` is the same schema in words).
//!
//! | key | value |
//! |---|---|
//! | `C <shard>` | [`Checkpoint`] |
//! | `N <shard> <number of the first>` | [`NewNames`] |
//! | `D <shard> <YYYY-MM-DD> <tenant>` | [`Tally`] of that day, which is not folded yet |
//! | `T <shard> <YYYY-MM> <tenant>` | [`Tally`] of the month's folded days |
//! | `F <shard> <YYYY-MM-DD> <first offset>` | [`Evidence`] |
//! | `R <shard> <ruling id>` | [`AppliedRuling`] |
//! | `A <shard> <YYYY-MM-DD> <alert> <length of detail> <detail> <tenant>` | [`AlertRecord`] |
//!
//! An older version may not know the alert, detail, severity, status or reason of an `A` record. The record is kept
//! unchanged, vouched for and closed like the others, and the alert is left alone ([`Key::ForeignAlert`],
//! [`AlertRecord::state`]). Any other unknown kind of key may hold counts, so it stops the shard.
//!
//! `T` owns a day if it has an entry for it, otherwise its `D` does. A `D` whose day `T` owns is void: from the
//! checkpoint that applies that `T` on, it is in no total and no digest, and a later flush writes its tombstone. So a
//! flush writes the days with new calls, never the month.
//!
//! A tombstone removes a key. The tenant, or a ruling's id, comes last, so it may contain any character. An alert's
//! detail (a level, a tier, a code) may too, since its length in bytes precedes it.

use std::fmt;
use std::sync::Arc;

use chrono::Datelike;
use prost::Message;
use sha2::{Digest as _, Sha256};

use super::dictionary::Dictionary;
use crate::domain::alert::{AlertKey, AlertName, AlertState, Reason, Severity, Status};
use crate::domain::calendar::{LocalDay, Month};

/// The shard that all rulings belong to: its owner records them.
pub const RULINGS_SHARD: u32 = 0;
/// The version byte of every value.
pub const VALUE_VERSION: u8 = 3;
/// Actions and codes of a shard that its `N` records number, in order of their first use. A tally carries further names
/// itself, so that made-up names are not kept forever.
pub const DICTIONARY_NAMES: u32 = 4096;

/// The number of a name that is in no `N` record, among those that a record carries itself: a new one if needed.
pub fn own_number(own: &mut Vec<String>, name: &str) -> u32 {
    let at = own.iter().position(|known| known == name).unwrap_or_else(|| {
        own.push(name.to_owned());
        own.len() - 1
    });
    DICTIONARY_NAMES + at as u32
}

/// The key of a ledger record, without its shard (which is its partition).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// `C`: the shard's checkpoint.
    Checkpoint,
    /// `N`: names that are numbered from here on.
    Names {
        /// Number of the first one.
        first: u32,
    },
    /// `D`: the calls of one tenant on one day, until they are folded into the month's tally.
    Day {
        /// The local day.
        day: LocalDay,
        /// The tenant.
        tenant: Arc<str>,
    },
    /// `T`: the calls of one tenant on the folded days of one month.
    Tally {
        /// The month.
        month: Month,
        /// The tenant.
        tenant: Arc<str>,
    },
    /// `F`: failing calls of one day, one by one.
    Evidence {
        /// The local day.
        day: LocalDay,
        /// The first source offset it covers.
        first: i64,
    },
    /// `R`: a ruling that was applied once. It is never removed.
    Ruling {
        /// Its id.
        id: Arc<str>,
    },
    /// `A`: the last published state of an alert.
    Alert(AlertKey),
    /// `A`: of an alert that a newer version knows.
    ForeignAlert {
        /// First day of the service month, if that can be read; `None` else, and for the fleet.
        period_start: Option<LocalDay>,
        /// The key after its shard.
        rest: Arc<str>,
    },
}

impl Key {
    /// The key's bytes in the ledger topic.
    pub fn encode(&self, shard: u32) -> String {
        match self {
            Self::Checkpoint => format!("C {shard}"),
            Self::Names { first } => format!("N {shard} {first}"),
            Self::Day { day, tenant } => day_key(shard, *day, tenant),
            Self::Tally { month, tenant } => format!("T {shard} {month} {tenant}"),
            Self::Evidence { day, first } => format!("F {shard} {day} {first}"),
            Self::Ruling { id } => format!("R {shard} {id}"),
            Self::Alert(AlertKey { tenant, period_start, alert, detail }) => {
                let day = period_start.map_or_else(|| "-".to_owned(), |day| day.to_string());
                format!("A {shard} {day} {alert} {} {detail} {tenant}", detail.len())
            }
            Self::ForeignAlert { rest, .. } => format!("A {shard} {rest}"),
        }
    }

    /// Reads a key.
    ///
    /// # Errors
    /// The bytes are not a key that this version knows.
    pub fn decode(bytes: &[u8]) -> Result<(u32, Self), RecordError> {
        let bad = || RecordError::Key(String::from_utf8_lossy(bytes).into_owned());
        let text = std::str::from_utf8(bytes).map_err(|_| bad())?;
        let (kind, rest) = text.split_once(' ').ok_or_else(bad)?;
        let number = |s: &str| s.parse::<u32>().map_err(|_| bad());
        match kind {
            "C" => Ok((number(rest)?, Self::Checkpoint)),
            "N" => {
                let (shard, first) = rest.split_once(' ').ok_or_else(bad)?;
                Ok((number(shard)?, Self::Names { first: number(first)? }))
            }
            "D" => {
                let mut parts = rest.splitn(3, ' ');
                let mut next = || parts.next().ok_or_else(bad);
                let (shard, day, tenant) = (number(next()?)?, next()?, next()?);
                Ok((shard, Self::Day { day: day.parse().map_err(|_| bad())?, tenant: tenant.into() }))
            }
            "T" => {
                let mut parts = rest.splitn(3, ' ');
                let mut next = || parts.next().ok_or_else(bad);
                let (shard, month, tenant) = (number(next()?)?, next()?, next()?);
                Ok((shard, Self::Tally { month: month.parse().map_err(|_| bad())?, tenant: tenant.into() }))
            }
            "F" => {
                let mut parts = rest.splitn(3, ' ');
                let mut next = || parts.next().ok_or_else(bad);
                let (shard, day, first) = (number(next()?)?, next()?, next()?);
                let (day, first) = (day.parse().map_err(|_| bad())?, first.parse().map_err(|_| bad())?);
                Ok((shard, Self::Evidence { day, first }))
            }
            "R" => {
                let (shard, id) = rest.split_once(' ').ok_or_else(bad)?;
                Ok((number(shard)?, Self::Ruling { id: id.into() }))
            }
            "A" => {
                let (shard, rest) = rest.split_once(' ').ok_or_else(bad)?;
                let foreign = || {
                    let day = rest.split(' ').next().unwrap_or_default();
                    Self::ForeignAlert { period_start: day.parse().ok(), rest: rest.into() }
                };
                let known = alert_key(rest).filter(AlertKey::is_known);
                Ok((number(shard)?, known.map_or_else(foreign, Self::Alert)))
            }
            _ => Err(bad()),
        }
    }

    /// The month the record belongs to; `None` for a checkpoint, names, a ruling, and an alert of the fleet.
    pub fn month(&self) -> Option<Month> {
        match self {
            Self::Checkpoint | Self::Names { .. } | Self::Ruling { .. } => None,
            Self::Alert(AlertKey { period_start, .. }) | Self::ForeignAlert { period_start, .. } => {
                period_start.map(LocalDay::month)
            }
            Self::Tally { month, .. } => Some(*month),
            Self::Day { day, .. } | Self::Evidence { day, .. } => Some(day.month()),
        }
    }
}

/// The most frequent key: assembled without the formatting machinery.
fn day_key(shard: u32, day: LocalDay, tenant: &str) -> String {
    let date = day.date();
    let mut number = itoa::Buffer::new();
    let mut key = String::with_capacity(tenant.len() + 24);
    key.push_str("D ");
    key.push_str(number.format(shard));
    match u32::try_from(date.year()) {
        Ok(year) if year <= 9999 => {
            for (before, part, width) in [(' ', year, 4), ('-', date.month(), 2), ('-', date.day(), 2)] {
                let digits = number.format(part);
                key.push(before);
                (digits.len()..width).for_each(|_| key.push('0'));
                key.push_str(digits);
            }
        }
        _ => key.push_str(&format!(" {day}")),
    }
    key.push(' ');
    key.push_str(tenant);
    key
}

/// An alert's key after its shard, as this version writes it.
fn alert_key(rest: &str) -> Option<AlertKey> {
    let mut parts = rest.splitn(4, ' ');
    let (day, alert, length, rest) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let period_start = if day == "-" { None } else { Some(day.parse().ok()?) };
    let length: usize = length.parse().ok()?;
    let tenant = rest.get(length..)?.strip_prefix(' ')?;
    let (alert, detail) = (AlertName::from_name(alert)?, rest[..length].into());
    Some(AlertKey { tenant: tenant.into(), period_start, alert, detail })
}

/// The month below which an alert's record is closed: that of its service month, and of the fleet's that in which it was
/// resolved (in UTC, whatever the ledger's zone). `None`: it is not closed while it fires. All versions must agree on this.
pub fn alert_closes(period_start: Option<LocalDay>, ends_at_ms: Option<i64>) -> Option<Month> {
    let resolved = || i32::try_from(ends_at_ms?.div_euclid(86_400_000)).ok().map(LocalDay);
    period_start.or_else(resolved).map(LocalDay::month)
}

/// Why bytes in the ledger topic cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The key is unknown.
    #[error("the ledger holds a key this version does not know: `{0}`")]
    Key(String),
    /// The value has a later version byte.
    #[error("a ledger value has format version {0}; this version reads {VALUE_VERSION}: upgrade every instance")]
    Version(u8),
    /// The value has an earlier version byte, of a format that was never released.
    #[error(
        "the ledger is written in record format {0}, this version reads format {VALUE_VERSION} only: count into a new ledger \
         topic (give `ledger.topic` and `kafka.group` new names)"
    )]
    Outdated(u8),
    /// The value cannot be decoded.
    #[error("a ledger value is damaged: {0}")]
    Value(String),
    /// The record is in a partition that is not its shard's.
    #[error("a record of shard {key} is in ledger partition {partition}")]
    Partition {
        /// Shard in the key.
        key: u32,
        /// Partition read from.
        partition: u32,
    },
}

fn encode_value(message: &impl Message) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + message.encoded_len());
    bytes.push(VALUE_VERSION);
    message.encode_raw(&mut bytes);
    bytes
}

fn decode_value<M: Message + Default>(bytes: &[u8]) -> Result<M, RecordError> {
    M::decode(after_version(bytes)?).map_err(|e| RecordError::Value(e.to_string()))
}

/// The bytes after the version byte.
fn after_version(bytes: &[u8]) -> Result<&[u8], RecordError> {
    match bytes.split_first() {
        Some((&VALUE_VERSION, rest)) => Ok(rest),
        Some((&version, _)) if (1..VALUE_VERSION).contains(&version) => Err(RecordError::Outdated(version)),
        Some((&version, _)) => Err(RecordError::Version(version)),
        None => Err(RecordError::Value("empty".into())),
    }
}

/// `N`: actions and codes, numbered from the key's number on. Never changed and never removed.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct NewNames {
    /// Sequence number of the flush that wrote it.
    #[prost(uint64, tag = "1")]
    pub seq: u64,
    /// The names, at least one.
    #[prost(string, repeated, tag = "2")]
    pub names: Vec<String>,
}

impl NewNames {
    /// The value's bytes.
    pub fn encode_value(&self) -> Vec<u8> {
        encode_value(self)
    }

    /// Reads a value.
    ///
    /// # Errors
    /// Another version, or damage.
    pub fn decode_value(bytes: &[u8]) -> Result<Self, RecordError> {
        decode_value(bytes)
    }
}

/// `T` and `D`: what one tenant called on days of one month, as counted by one shard. A `D` has one day.
#[derive(Clone, PartialEq, Message)]
pub struct Tally {
    /// Sequence number of the flush that wrote it.
    #[prost(uint64, tag = "1")]
    pub seq: u64,
    /// First source offset not covered by these figures.
    #[prost(int64, tag = "2")]
    pub cov: i64,
    /// Source offset of the first call in it, counted or not.
    #[prost(int64, tag = "3")]
    pub first_offset: i64,
    /// One entry per local day, in order.
    #[prost(message, repeated, tag = "4")]
    pub days: Vec<TallyDay>,
}

/// One local day of a [`Tally`], in columns. A name is the number that an `N` record gave it, or [`DICTIONARY_NAMES`] and its
/// position in `names`.
#[derive(Clone, PartialEq, Message)]
pub struct TallyDay {
    /// Day of the month, 1–31.
    #[prost(uint32, tag = "1")]
    pub day: u32,
    /// Action of each row of `calls`.
    #[prost(uint32, repeated, tag = "2")]
    pub actions: Vec<u32>,
    /// All calls of the action, whatever their outcome.
    #[prost(uint64, repeated, tag = "3")]
    pub calls: Vec<u64>,
    /// Action of each row of `outcome_calls`.
    #[prost(uint32, repeated, tag = "4")]
    pub outcome_actions: Vec<u32>,
    /// Code of the row plus one; 0 = no code.
    #[prost(uint32, repeated, tag = "5")]
    pub outcome_codes: Vec<u32>,
    /// The event's `system_error`: 0 absent, 1 false, 2 true.
    #[prost(uint32, repeated, tag = "6")]
    pub outcome_flags: Vec<u32>,
    /// Non-ok calls of (action, code, flag).
    #[prost(uint64, repeated, tag = "7")]
    pub outcome_calls: Vec<u64>,
    /// Actions and codes without a number.
    #[prost(string, repeated, tag = "8")]
    pub names: Vec<String>,
    /// Calls in no other figure: refused because the month had `limits.rows_per_tenant_month` rows.
    #[prost(uint64, tag = "9")]
    pub limit: u64,
    /// Calls in no other figure: older than `limits.max_age` at their arrival.
    #[prost(uint64, tag = "10")]
    pub too_old: u64,
    /// The unsuccessful ones of both.
    #[prost(uint64, tag = "11")]
    pub not_ok: u64,
    /// Failing calls of the rows that are not itemised, for `limits.evidence_per_month`.
    #[prost(uint64, tag = "12")]
    pub unheld: u64,
}

impl TallyDay {
    /// The same day, its names counted from the first of these on: as a writer without a dictionary writes it.
    #[must_use]
    pub fn with_names<'a>(mut self, names: impl IntoIterator<Item = &'a str>) -> Self {
        self.actions.iter_mut().chain(&mut self.outcome_actions).for_each(|name| *name += DICTIONARY_NAMES);
        self.outcome_codes.iter_mut().filter(|code| **code > 0).for_each(|code| *code += DICTIONARY_NAMES);
        self.names = names.into_iter().map(String::from).collect();
        self
    }

    /// All calls counted.
    pub fn total_calls(&self) -> u64 {
        self.calls.iter().sum()
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.calls.len() + self.outcome_calls.len()
    }

    /// Do the columns fit together?
    fn is_sound(&self) -> bool {
        let rows = self.outcome_calls.len();
        let names = DICTIONARY_NAMES + self.names.len() as u32;
        (1..=31).contains(&self.day)
            && self.actions.len() == self.calls.len()
            && [self.outcome_actions.len(), self.outcome_codes.len(), self.outcome_flags.len()] == [rows; 3]
            && self.actions.iter().chain(&self.outcome_actions).all(|a| *a < names)
            && self.outcome_codes.iter().all(|c| *c <= names)
            && self.outcome_flags.iter().all(|f| *f <= 2)
    }

    /// Every name must have a number below this, or be in the day itself.
    fn names_needed(&self) -> u32 {
        let codes = self.outcome_codes.iter().filter_map(|code| code.checked_sub(1));
        let all = self.actions.iter().chain(&self.outcome_actions).copied().chain(codes);
        all.filter(|name| *name < DICTIONARY_NAMES).map(|name| name + 1).max().unwrap_or_default()
    }
}

impl Tally {
    /// The value's bytes.
    pub fn encode_value(&self) -> Vec<u8> {
        encode_value(self)
    }

    /// Reads a value and checks that its columns fit together.
    ///
    /// # Errors
    /// Another version, or damage.
    pub fn decode_value(bytes: &[u8]) -> Result<Self, RecordError> {
        let tally: Self = decode_value(bytes)?;
        let in_order = tally.days.is_sorted_by(|a, b| a.day < b.day);
        let sound = in_order && tally.days.iter().all(TallyDay::is_sound);
        if sound { Ok(tally) } else { Err(RecordError::Value("the columns of a tally do not fit together".into())) }
    }

    /// All calls counted in it.
    pub fn total_calls(&self) -> u64 {
        self.days.iter().map(TallyDay::total_calls).sum()
    }
}

/// A [`Tally`] whose days are still encoded: checking or judging one reads all of it and keeps nothing.
#[derive(Debug)]
pub struct TallyView<'a> {
    /// See [`Tally::cov`].
    pub cov: i64,
    /// See [`Tally::first_offset`].
    pub first_offset: i64,
    days: EncodedDays<'a>,
}

impl<'a> TallyView<'a> {
    /// Finds the days in a value. Their contents are not checked.
    ///
    /// # Errors
    /// Another version, or damage.
    pub fn read(bytes: &'a [u8]) -> Result<Self, RecordError> {
        use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
        let damaged = |e: prost::DecodeError| RecordError::Value(e.to_string());
        let mut rest = after_version(bytes)?;
        let mut view = Self { cov: 0, first_offset: 0, days: EncodedDays(&[]) };
        while !rest.is_empty() {
            let at = rest;
            match decode_key(&mut rest).map_err(damaged)? {
                (2, WireType::Varint) => view.cov = decode_varint(&mut rest).map_err(damaged)? as i64,
                (3, WireType::Varint) => view.first_offset = decode_varint(&mut rest).map_err(damaged)? as i64,
                // The days come last.
                (DAYS_TAG, WireType::LengthDelimited) => {
                    view.days = EncodedDays(at);
                    let whole = view.days.clone().all(|day| day.is_some());
                    return if whole { Ok(view) } else { Err(RecordError::Value("a tally ends early".into())) };
                }
                (tag, kind) => skip_field(kind, tag, &mut rest, DecodeContext::default()).map_err(damaged)?,
            }
        }
        Ok(view)
    }

    /// The days' bytes as they are in the value, field by field.
    pub fn days_bytes(&self) -> &'a [u8] {
        self.days.0
    }

    /// Checks the days and sums them up. `scratch` is written over.
    ///
    /// # Errors
    /// Damage.
    pub fn sum(&self, scratch: &mut TallyDay) -> Result<TallySum, RecordError> {
        let mut sum = TallySum::default();
        for bytes in self.days.clone().flatten() {
            scratch.clear();
            scratch.merge(bytes).map_err(|e| RecordError::Value(e.to_string()))?;
            if !scratch.is_sound() || sum.days >> scratch.day != 0 {
                return Err(RecordError::Value("the columns of a tally do not fit together".into()));
            }
            sum.days |= 1 << scratch.day;
            sum.calls += scratch.total_calls();
            sum.rows += scratch.rows();
            sum.names_needed = sum.names_needed.max(scratch.names_needed());
        }
        Ok(sum)
    }

    /// Every local day, in order. `day` is written over and over.
    pub fn for_each_day(&self, day: &mut TallyDay, mut each: impl FnMut(&TallyDay)) {
        for bytes in self.days.clone().flatten() {
            day.clear();
            // Values were checked when they came in.
            if day.merge(bytes).is_ok() {
                each(day);
            }
        }
    }
}

/// The sums of a [`Tally`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TallySum {
    /// The days it has, one bit each: bit 1 is the first of the month.
    pub days: u32,
    /// All calls counted.
    pub calls: u64,
    /// Number of rows.
    pub rows: usize,
    /// Every name has a number below this, or is in the tally itself.
    pub names_needed: u32,
}

const DAYS_TAG: u32 = 4;

/// Encoded days, one after another, each as a field of its [`Tally`].
#[derive(Debug, Clone)]
pub struct EncodedDays<'a>(pub &'a [u8]);

impl<'a> Iterator for EncodedDays<'a> {
    /// `None`: what follows is not a day.
    type Item = Option<&'a [u8]>;

    fn next(&mut self) -> Option<Self::Item> {
        use prost::encoding::{WireType, decode_key, decode_varint};
        if self.0.is_empty() {
            return None;
        }
        let mut rest = self.0;
        let mut day = || {
            let (DAYS_TAG, WireType::LengthDelimited) = decode_key(&mut rest).ok()? else { return None };
            let length = usize::try_from(decode_varint(&mut rest).ok()?).ok()?;
            let (day, after) = rest.split_at_checked(length)?;
            rest = after;
            Some(day)
        };
        let day = day();
        self.0 = if day.is_some() { rest } else { &[] };
        Some(day)
    }
}

/// The day of the month of an encoded day. Only that is read: it is the first field, as it is written.
pub fn day_of_month(day: &[u8]) -> u32 {
    use prost::encoding::{WireType, decode_key, decode_varint};
    let mut rest = day;
    let mut first = || match decode_key(&mut rest) {
        Ok((1, WireType::Varint)) => decode_varint(&mut rest).ok()?.try_into().ok(),
        _ => None,
    };
    first().unwrap_or_else(|| TallyDay::decode(day).map_or(0, |day| day.day))
}

/// Appends a day as a field of its [`Tally`].
pub fn put_day(day: &TallyDay, bytes: &mut Vec<u8>) {
    prost::encoding::message::encode(DAYS_TAG, day, bytes);
}

/// The value of a tally whose days are encoded already ([`put_day`]).
pub fn encode_tally(seq: u64, cov: i64, first_offset: i64, days: &[u8]) -> Vec<u8> {
    let head = Tally { seq, cov, first_offset, days: Vec::new() };
    let mut bytes = Vec::with_capacity(1 + head.encoded_len() + days.len());
    bytes.push(VALUE_VERSION);
    head.encode_raw(&mut bytes);
    bytes.extend_from_slice(days);
    bytes
}

/// `F`: failing calls of one local day, one by one, in a range of source offsets.
#[derive(Clone, PartialEq, Message)]
pub struct Evidence {
    /// First source offset it does not cover; it begins at its key's.
    #[prost(int64, tag = "1")]
    pub cov: i64,
    /// One entry per tenant.
    #[prost(message, repeated, tag = "2")]
    pub tenants: Vec<TenantEvidence>,
}

/// One tenant's part of an [`Evidence`] record, in columns, in order of the source offsets. Names are numbered as in a
/// [`TallyDay`].
#[derive(Clone, PartialEq, Message)]
pub struct TenantEvidence {
    /// The tenant.
    #[prost(string, tag = "1")]
    pub tenant: String,
    /// Source offset of each call, less that of the one before; the first less the key's.
    #[prost(sint64, repeated, tag = "2")]
    pub offsets: Vec<i64>,
    /// Event time of each in milliseconds since 1970-01-01T00:00:00Z, less that of the one before.
    #[prost(sint64, repeated, tag = "3")]
    pub times_ms: Vec<i64>,
    /// The API action of each.
    #[prost(uint32, repeated, tag = "4")]
    pub actions: Vec<u32>,
    /// The error code of each plus one; 0 = no code.
    #[prost(uint32, repeated, tag = "5")]
    pub codes: Vec<u32>,
    /// The event's `system_error`: 0 absent, 1 false, 2 true.
    #[prost(uint32, repeated, tag = "6")]
    pub flags: Vec<u32>,
    /// The tenant's calls in the aligned second of each (clause 5.7), at the end of the range.
    #[prost(uint32, repeated, tag = "7")]
    pub calls_in_second: Vec<u32>,
    /// Length of each request id, in bytes.
    #[prost(uint32, repeated, tag = "8")]
    pub request_id_bytes: Vec<u32>,
    /// The request ids, one after another.
    #[prost(string, tag = "9")]
    pub request_ids: String,
    /// Actions and codes without a number.
    #[prost(string, repeated, tag = "10")]
    pub names: Vec<String>,
    /// Seconds (of 1970-01-01T00:00:00Z) of calls in earlier records that had more calls in this range, each less the one
    /// before.
    #[prost(sint64, repeated, tag = "11")]
    pub raised_seconds: Vec<i64>,
    /// The tenant's calls in each of them, at the end of the range. Of all figures of a second the greatest is valid.
    #[prost(uint32, repeated, tag = "12")]
    pub raised_calls: Vec<u32>,
}

/// One failing call.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Item {
    /// Its offset in the source partition.
    pub offset: i64,
    /// Event time in milliseconds since 1970-01-01T00:00:00Z.
    pub time_ms: i64,
    /// The API action.
    pub action: String,
    /// The error code, if any.
    pub code: Option<String>,
    /// The event's `system_error`: 0 absent, 1 false, 2 true.
    pub flag: u32,
    /// The request id.
    pub request_id: String,
    /// The tenant's calls in the aligned second of `time_ms` (clause 5.7).
    pub calls_in_second: u32,
}

impl Evidence {
    /// The value's bytes.
    pub fn encode_value(&self) -> Vec<u8> {
        encode_value(self)
    }

    /// Reads a value and checks that its columns fit together.
    ///
    /// # Errors
    /// Another version, or damage.
    pub fn decode_value(bytes: &[u8]) -> Result<Self, RecordError> {
        let evidence: Self = decode_value(bytes)?;
        let sound = evidence.tenants.iter().all(TenantEvidence::is_sound);
        if sound {
            Ok(evidence)
        } else {
            Err(RecordError::Value("the columns of failing calls do not fit together".into()))
        }
    }

    /// How many calls there are.
    pub fn items(&self) -> u64 {
        self.tenants.iter().map(|group| group.offsets.len() as u64).sum()
    }

    /// Every name has a number below this, or is in the record itself.
    pub fn names_needed(&self) -> u32 {
        let names = self.tenants.iter().flat_map(|group| {
            let codes = group.codes.iter().filter_map(|code| code.checked_sub(1));
            group.actions.iter().copied().chain(codes)
        });
        names.filter(|name| *name < DICTIONARY_NAMES).map(|name| name + 1).max().unwrap_or_default()
    }
}

impl TenantEvidence {
    fn is_sound(&self) -> bool {
        let (items, names) = (self.offsets.len(), DICTIONARY_NAMES + self.names.len() as u32);
        let columns = [
            self.times_ms.len(),
            self.actions.len(),
            self.codes.len(),
            self.flags.len(),
            self.calls_in_second.len(),
            self.request_id_bytes.len(),
        ];
        columns == [items; 6]
            && self.raised_seconds.len() == self.raised_calls.len()
            && self.actions.iter().all(|action| *action < names)
            && self.codes.iter().all(|code| *code <= names)
            && self.flags.iter().all(|flag| *flag <= 2)
            && self.split_request_ids().is_some()
    }

    /// The request ids, one a call.
    pub fn request_ids(&self) -> Vec<&str> {
        self.split_request_ids().unwrap_or_default()
    }

    /// `None`: their lengths do not fit.
    fn split_request_ids(&self) -> Option<Vec<&str>> {
        let mut rest = &*self.request_ids;
        let mut ids = Vec::with_capacity(self.request_id_bytes.len());
        for length in &self.request_id_bytes {
            let (id, after) = rest.split_at_checked(*length as usize)?;
            ids.push(id);
            rest = after;
        }
        rest.is_empty().then_some(ids)
    }

    /// Every second it has a figure of, some perhaps more than once: the second, its calls.
    pub fn for_each_second(&self, mut each: impl FnMut(i64, u32)) {
        let mut time_ms = 0;
        for (delta, calls) in self.times_ms.iter().zip(&self.calls_in_second) {
            time_ms += delta;
            each(i64::div_euclid(time_ms, 1000), *calls);
        }
        let mut second = 0;
        for (delta, calls) in self.raised_seconds.iter().zip(&self.raised_calls) {
            second += delta;
            each(second, *calls);
        }
    }

    /// Source offset of each call; `first` is the key's.
    pub fn absolute_offsets(&self, first: i64) -> impl Iterator<Item = i64> {
        self.offsets.iter().scan(first, |offset, delta| {
            *offset += delta;
            Some(*offset)
        })
    }

    /// The calls; `first` is the key's offset. Their seconds have the figures of the record's end.
    pub fn items(&self, first: i64, names: &Dictionary) -> Vec<Item> {
        let (mut offset, mut time_ms) = (first, 0);
        let ids = self.request_ids();
        let item = |(at, request_id): (usize, &str)| {
            offset += self.offsets[at];
            time_ms += self.times_ms[at];
            let name = |number| names.name_beside(&self.names, number).to_owned();
            Item {
                offset,
                time_ms,
                action: name(self.actions[at]),
                code: self.codes[at].checked_sub(1).map(name),
                flag: self.flags[at],
                request_id: request_id.to_owned(),
                calls_in_second: self.calls_in_second[at],
            }
        };
        ids.into_iter().enumerate().map(item).collect()
    }
}

/// The parts of an [`Evidence`] value, still encoded, each with its place in the value.
#[derive(Debug)]
pub struct EvidenceGroups<'a> {
    value: &'a [u8],
    at: usize,
}

/// One tenant's part of an [`Evidence`] value, still encoded.
#[derive(Debug, Clone, Copy)]
pub struct EvidenceGroup<'a>(&'a [u8]);

impl<'a> EvidenceGroups<'a> {
    /// Those of a value that [`Evidence::decode_value`] accepts.
    pub fn of(value: &'a [u8]) -> Self {
        Self { value, at: 1 }
    }
}

impl<'a> Iterator for EvidenceGroups<'a> {
    type Item = ((u32, u32), EvidenceGroup<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
        loop {
            let mut rest = self.value.get(self.at..).filter(|rest| !rest.is_empty())?;
            let (tag, kind) = decode_key(&mut rest).ok()?;
            if (tag, kind) == (2, WireType::LengthDelimited) {
                let length = usize::try_from(decode_varint(&mut rest).ok()?).ok()?;
                let begin = self.value.len() - rest.len();
                let group = rest.get(..length)?;
                self.at = begin + length;
                return Some(((begin as u32, self.at as u32), EvidenceGroup(group)));
            }
            skip_field(kind, tag, &mut rest, DecodeContext::default()).ok()?;
            self.at = self.value.len() - rest.len();
        }
    }
}

impl<'a> EvidenceGroup<'a> {
    /// Whose it is.
    pub fn tenant(&self) -> &'a str {
        use prost::encoding::{decode_key, decode_varint};
        let name = || {
            let mut rest = self.0;
            let (1, _) = decode_key(&mut rest).ok()? else { return None };
            let length = usize::try_from(decode_varint(&mut rest).ok()?).ok()?;
            std::str::from_utf8(rest.get(..length)?).ok()
        };
        name().unwrap_or_default()
    }
}

/// `R`: a ruling that was applied once, so that dropping or altering it is detected.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct AppliedRuling {
    /// SHA-256 over its canonical JSON; 32 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub sha256: Vec<u8>,
    /// When it was recorded, as the ruling states it, in ms.
    #[prost(sint64, tag = "2")]
    pub recorded_at_ms: i64,
    /// Its canonical JSON; empty where an earlier version wrote the digest alone.
    #[prost(string, tag = "3")]
    pub canonical: String,
    /// Its place in `rulings.yaml`, from 0: the order of those recorded at one instant.
    #[prost(uint32, tag = "4")]
    pub position: u32,
}

impl AppliedRuling {
    /// The value's bytes.
    pub fn encode_value(&self) -> Vec<u8> {
        encode_value(self)
    }

    /// Reads a value.
    ///
    /// # Errors
    /// Another version, or damage.
    pub fn decode_value(bytes: &[u8]) -> Result<Self, RecordError> {
        let ruling: Self = decode_value(bytes)?;
        if ruling.sha256.len() != 32 {
            return Err(RecordError::Value("a ruling's digest is not 32 bytes".into()));
        }
        if !ruling.canonical.is_empty() && Sha256::digest(&ruling.canonical)[..] != ruling.sha256[..] {
            return Err(RecordError::Value("a ruling's text does not match its digest".into()));
        }
        Ok(ruling)
    }

    /// The ruling's digest.
    pub fn sha256(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes.iter_mut().zip(&self.sha256).for_each(|(to, from)| *to = *from);
        bytes
    }
}

/// `A`: the last published state of an alert, so that it is neither published twice nor forgotten.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct AlertRecord {
    /// Sequence number of the flush that wrote it.
    #[prost(uint64, tag = "1")]
    pub seq: u64,
    /// `firing` or `resolved`.
    #[prost(string, tag = "2")]
    pub status: String,
    /// Counts firings, from 1.
    #[prost(uint64, tag = "3")]
    pub generation: u64,
    /// `critical`, `warning` or `info`.
    #[prost(string, tag = "4")]
    pub severity: String,
    /// Why it was published.
    #[prost(string, tag = "5")]
    pub reason: String,
    /// When it began to fire, in ms.
    #[prost(sint64, tag = "6")]
    pub starts_at_ms: i64,
    /// When it was resolved, in ms; absent while it fires.
    #[prost(sint64, optional, tag = "7")]
    pub ends_at_ms: Option<i64>,
    /// It was resolved although what it watches still holds.
    #[prost(bool, tag = "8")]
    pub settled: bool,
    /// Published to the topic only, since many tenants alerted at once.
    #[prost(bool, tag = "9")]
    pub grouped: bool,
}

impl AlertRecord {
    /// The record of a state, as flush `seq` writes it.
    pub fn new(state: &AlertState, seq: u64) -> Self {
        Self {
            seq,
            status: state.status.as_str().into(),
            generation: state.generation,
            severity: state.severity.as_str().into(),
            reason: state.reason.as_str().into(),
            starts_at_ms: state.starts_at_ms,
            ends_at_ms: state.ends_at_ms,
            settled: state.settled,
            grouped: state.grouped,
        }
    }

    /// The value's bytes.
    pub fn encode_value(&self) -> Vec<u8> {
        encode_value(self)
    }

    /// Reads a value.
    ///
    /// # Errors
    /// Another version, or damage.
    pub fn decode_value(bytes: &[u8]) -> Result<Self, RecordError> {
        decode_value(bytes)
    }

    /// The state; `None`: a newer version wrote it, with a value that this version does not know.
    pub fn state(&self) -> Option<AlertState> {
        Some(AlertState {
            status: Status::from_name(&self.status)?,
            generation: self.generation,
            severity: Severity::from_name(&self.severity)?,
            reason: Reason::from_name(&self.reason)?,
            starts_at_ms: self.starts_at_ms,
            ends_at_ms: self.ends_at_ms,
            settled: self.settled,
            grouped: self.grouped,
        })
    }
}

/// `C`: the position of a shard, and the proof that its records are complete.
#[derive(Clone, PartialEq, Message)]
pub struct Checkpoint {
    /// Grows by one with every flush of the shard.
    #[prost(uint64, tag = "1")]
    pub seq: u64,
    /// First source offset not counted.
    #[prost(int64, tag = "2")]
    pub next_offset: i64,
    /// The previous checkpoint's `next_offset`.
    #[prost(int64, tag = "3")]
    pub from: i64,
    /// Where a new owner starts reading to rebuild its window: the first offset of the window's older generation.
    #[prost(int64, tag = "4")]
    pub floor_offset: i64,
    /// The watermark just after that record, in ms; absent while that is the first generation of all.
    #[prost(sint64, optional, tag = "5")]
    pub floor_watermark_ms: Option<i64>,
    /// The greatest record timestamp before `next_offset`, in ms; absent before the first record.
    #[prost(sint64, optional, tag = "6")]
    pub watermark_ms: Option<i64>,
    /// The counting settings, by the offset from which they apply.
    #[prost(message, repeated, tag = "7")]
    pub epochs: Vec<SettingsEpoch>,
    /// What became of all records so far.
    #[prost(message, required, tag = "8")]
    pub totals: Totals,
    /// Calls counted in months below the horizon.
    #[prost(uint64, tag = "9")]
    pub closed: u64,
    /// Items: failing calls in the shard's live `F` records.
    #[prost(uint64, tag = "10")]
    pub items: u64,
    /// Sum, modulo 2^128, of the digests of the shard's live (key, value) pairs; 16 bytes, little endian.
    #[prost(bytes = "vec", tag = "11")]
    pub digest: Vec<u8>,
    /// Months before this one are closed and dropped; months since January of year 0.
    #[prost(sint32, tag = "12")]
    pub horizon: i32,
    /// Source offsets that could not be read.
    #[prost(message, repeated, tag = "13")]
    pub gaps: Vec<Gap>,
    /// First source offset ever read.
    #[prost(int64, tag = "14")]
    pub start_offset: i64,
    /// Timestamp of the first record ever read, in ms; where the log went on more than a day later, the first one then.
    #[prost(sint64, optional, tag = "15")]
    pub start_timestamp_ms: Option<i64>,
    /// Who wrote it: instance and incarnation.
    #[prost(string, tag = "16")]
    pub writer: String,
    /// The id of the calls topic that is counted, as Kafka's tools print it; empty: the brokers give topics no id.
    #[prost(string, tag = "17")]
    pub source_id: String,
    /// Records that became dead letters, by the month they arrived in and the reason; of months not below the horizon.
    /// Not those in a [`Tally`] or in `unadmitted`.
    #[prost(message, repeated, tag = "25")]
    pub rejected: Vec<RejectedRecords>,
    /// Calls of tenants that a month had no room for, by month.
    #[prost(message, repeated, tag = "26")]
    pub unadmitted: Vec<UnadmittedCalls>,
}

/// Records that became dead letters for one reason.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RejectedRecords {
    /// The month of the record's timestamp; absent: it came before any timestamp.
    #[prost(sint32, optional, tag = "1")]
    pub month: Option<i32>,
    /// The reason's name.
    #[prost(string, tag = "2")]
    pub reason: String,
    /// How many.
    #[prost(uint64, tag = "3")]
    pub records: u64,
}

/// Calls of one month that were refused because it had `limits.tenants_per_month` tenants already.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct UnadmittedCalls {
    /// The month of the calls.
    #[prost(sint32, tag = "1")]
    pub month: i32,
    /// How many.
    #[prost(uint64, tag = "2")]
    pub calls: u64,
    /// Source offset of the first one.
    #[prost(int64, tag = "3")]
    pub first_offset: i64,
}

/// Counting settings and the source offset from which they hold.
#[derive(Clone, PartialEq, Message)]
pub struct SettingsEpoch {
    /// First offset counted with them.
    #[prost(int64, tag = "1")]
    pub from_offset: i64,
    /// `CountingSettings` as JSON.
    #[prost(string, tag = "2")]
    pub settings: String,
}

/// What became of the records of one source partition; `seen` is the sum of the others but `duplicate_conflicts`.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Totals {
    /// Records read.
    #[prost(uint64, tag = "1")]
    pub seen: u64,
    /// Calls counted.
    #[prost(uint64, tag = "2")]
    pub counted: u64,
    /// Calls seen before.
    #[prost(uint64, tag = "3")]
    pub duplicate: u64,
    /// Duplicates that said something else than the first.
    #[prost(uint64, tag = "4")]
    pub duplicate_conflicts: u64,
    /// Records that are no call event.
    #[prost(uint64, tag = "5")]
    pub malformed: u64,
    /// Calls that must not be counted.
    #[prost(uint64, tag = "6")]
    pub quarantined: u64,
}

impl Totals {
    /// Do the outcomes add up to the records seen?
    pub fn add_up(&self) -> bool {
        self.counted + self.duplicate + self.malformed + self.quarantined == self.seen
    }
}

/// Source offsets the ledger could not read any more.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Gap {
    /// First offset missing.
    #[prost(int64, tag = "1")]
    pub from_offset: i64,
    /// First offset present again.
    #[prost(int64, tag = "2")]
    pub to_offset: i64,
    /// True: calls are missing. False: only the windows before `next_offset` could not be rebuilt.
    #[prost(bool, tag = "3")]
    pub calls: bool,
    /// The watermark when it was noticed, in ms: what is missing arrived later.
    #[prost(sint64, optional, tag = "4")]
    pub watermark_ms: Option<i64>,
    /// The first timestamp after it that moved the watermark, in ms: what is missing arrived earlier. Absent until then.
    #[prost(sint64, optional, tag = "5")]
    pub until_ms: Option<i64>,
}

impl Checkpoint {
    /// The value's bytes.
    pub fn encode_value(&self) -> Vec<u8> {
        encode_value(self)
    }

    /// Reads a value.
    ///
    /// # Errors
    /// Another version, or damage.
    pub fn decode_value(bytes: &[u8]) -> Result<Self, RecordError> {
        let checkpoint: Self = decode_value(bytes)?;
        if checkpoint.digest.len() != 16 {
            return Err(RecordError::Value("a checkpoint's digest is not 16 bytes".into()));
        }
        Ok(checkpoint)
    }

    /// The digest as a number.
    pub fn digest(&self) -> Digest {
        let mut bytes = [0; 16];
        bytes.iter_mut().zip(&self.digest).for_each(|(to, from)| *to = *from);
        Digest(u128::from_le_bytes(bytes))
    }
}

/// A commutative digest over (key, value) pairs: pairs can be added and removed in any order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Digest(pub u128);

impl Digest {
    /// The digest of one pair.
    pub fn of(key: &[u8], value: &[u8]) -> Self {
        let mut hasher = xxhash_rust::xxh3::Xxh3::new();
        hasher.update(&(key.len() as u64).to_le_bytes());
        hasher.update(key);
        hasher.update(value);
        Self(hasher.digest128())
    }

    /// Adds a pair's digest.
    pub fn add(&mut self, other: Self) {
        self.0 = self.0.wrapping_add(other.0);
    }

    /// Takes a pair's digest away.
    pub fn remove(&mut self, other: Self) {
        self.0 = self.0.wrapping_sub(other.0);
    }

    /// The digest's bytes in a checkpoint.
    pub fn to_bytes(self) -> Vec<u8> {
        self.0.to_le_bytes().to_vec()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_back_whatever_the_tenant_is_called() {
        for tenant in ["acme", "a b  c", " ", "", "租户", "T 1 2026-03 x"] {
            for key in [
                Key::Checkpoint,
                Key::Names { first: 17 },
                Key::Day { day: "2026-03-31".parse().unwrap(), tenant: tenant.into() },
                Key::Tally { month: "2026-03".parse().unwrap(), tenant: tenant.into() },
                Key::Evidence { day: "2026-03-31".parse().unwrap(), first: 7 },
                Key::Ruling { id: tenant.into() },
                Key::Alert(AlertKey {
                    tenant: tenant.into(),
                    period_start: Some("2026-03-17".parse().unwrap()),
                    alert: AlertName::BudgetConsumed,
                    detail: "80".into(),
                }),
                Key::Alert(AlertKey {
                    tenant: "".into(),
                    period_start: None,
                    alert: AlertName::UnknownCode,
                    detail: tenant.into(),
                }),
            ] {
                assert_eq!(Key::decode(key.encode(12).as_bytes()), Ok((12, key)));
            }
        }
        for bytes in [
            &b""[..],
            b"X 1",
            b"T x 2026-03 a",
            b"T 1 2026-13 a",
            b"D 1 2026-03 a",
            b"N 1",
            b"N 1 -1",
            b"F 1 2026-03-01 a",
            b"F 1 2026-03-01 7 a",
            b"R 1",
            b"R x a",
            b"\xff",
            b"A 1",
            b"A x - SlaUnknownCode 1 a ",
        ] {
            assert!(Key::decode(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn alerts_of_a_newer_version_keep_their_keys() {
        let march: LocalDay = "2026-03-01".parse().unwrap();
        for (key, period_start) in [
            // Another alert, another detail, an alert of the fleet that is about a tenant, another shape.
            ("A 1 - SlaX 0  a", None),
            ("A 1 2026-03-01 SlaX 2 T1 acme", Some(march)),
            ("A 1 2026-03-01 SlaBurnRateHigh 6 medium acme", Some(march)),
            ("A 1 2026-03-01 SlaLedgerGap 1 3 acme", Some(march)),
            ("A 1 - SlaUnknownCode 9 a b", None),
            ("A 1 2026-03-01 SlaTierReached 2 T1", Some(march)),
            ("A 1 v2 2026-03-01 SlaTierReached", None),
        ] {
            let rest: Arc<str> = key.strip_prefix("A 1 ").unwrap().into();
            let expected = Key::ForeignAlert { period_start, rest };
            assert_eq!(Key::decode(key.as_bytes()), Ok((1, expected.clone())), "{key}");
            assert_eq!(expected.encode(1), key);
        }
    }

    #[test]
    fn an_alert_is_closed_with_its_month() {
        let (march, may) = ("2026-03-17".parse::<LocalDay>().unwrap(), "2026-05".parse::<Month>().unwrap());
        let ends_at_ms = i64::from(may.first_day().0 + 9) * 86_400_000;
        assert_eq!(alert_closes(Some(march), Some(ends_at_ms)), Some(march.month()));
        assert_eq!(alert_closes(None, Some(ends_at_ms)), Some(may));
        assert_eq!(alert_closes(None, None), None);
        assert_eq!(alert_closes(None, Some(i64::MAX)), None);
    }

    #[test]
    fn damaged_values_are_errors() {
        assert_eq!(Tally::decode_value(&[9, 1, 2]), Err(RecordError::Version(9)));
        assert_eq!(Tally::decode_value(&[1, 1, 2]), Err(RecordError::Outdated(1)));
        assert!(matches!(TallyView::read(&[2, 1, 2]), Err(RecordError::Outdated(2))));
        assert!(Tally::decode_value(&[]).is_err());
        let day = |day| TallyDay { day, actions: vec![0], calls: vec![1], ..Default::default() };
        for days in [
            vec![TallyDay { calls: Vec::new(), ..day(1) }],
            vec![TallyDay { actions: vec![DICTIONARY_NAMES], ..day(1) }],
            vec![day(0)],
            vec![day(32)],
            vec![day(2), day(1)],
            vec![day(2), day(2)],
        ] {
            let bytes = Tally { days, ..Default::default() }.encode_value();
            assert!(Tally::decode_value(&bytes).is_err());
            assert!(TallyView::read(&bytes).unwrap().sum(&mut TallyDay::default()).is_err());
        }
        assert!(Checkpoint::decode_value(&[VALUE_VERSION]).is_err());
        assert!(
            AppliedRuling::decode_value(&AppliedRuling { sha256: vec![7; 31], ..Default::default() }.encode_value())
                .is_err()
        );
    }

    #[test]
    fn a_tally_may_be_put_together_from_encoded_days() {
        let day = |day| TallyDay {
            day,
            actions: vec![3, DICTIONARY_NAMES],
            calls: vec![1, 2],
            names: vec!["x".into()],
            ..Default::default()
        };
        let tally = Tally { seq: 3, cov: 9, first_offset: 4, days: vec![day(1), day(31)] };
        let mut days = Vec::new();
        tally.days.iter().for_each(|day| put_day(day, &mut days));
        let bytes = encode_tally(3, 9, 4, &days);
        assert_eq!(bytes, tally.encode_value());
        let view = TallyView::read(&bytes).unwrap();
        assert_eq!((view.cov, view.first_offset, view.days_bytes()), (9, 4, &*days));
        let sum = view.sum(&mut TallyDay::default()).unwrap();
        assert_eq!(sum, TallySum { days: 1 << 1 | 1 << 31, calls: 6, rows: 4, names_needed: 4 });
    }
}
