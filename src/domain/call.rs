//! One API call as the contract sees it, and every reason for which an event is not counted.

use std::borrow::Cow;
use std::fmt;

/// A decoded call event. Borrows from the event's bytes where it can.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call<'a> {
    /// Who called; 1–128 bytes.
    pub tenant: Cow<'a, str>,
    /// Identifies the call within the tenant; 1–128 bytes.
    pub request_id: Cow<'a, str>,
    /// When the request was received: milliseconds since 1970-01-01T00:00:00Z, floored (clause 1.4: event time).
    pub time_ms: i64,
    /// The API action; may be empty.
    pub action: Cow<'a, str>,
    /// The error code; `None` if the call succeeded (absent, null or a success code).
    pub code: Option<Cow<'a, str>>,
    /// The provider's own verdict, if the event carries one.
    pub system_error: Flag,
}

/// The event's `system_error` field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Flag {
    /// Absent or null.
    Absent = 0,
    /// `false`: not the provider's fault, whatever the code says.
    False = 1,
    /// `true`: a failure (clause 1.5), whatever the code says.
    True = 2,
}

impl Flag {
    /// The flag of this number in a ledger record.
    pub fn from_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::Absent),
            1 => Some(Self::False),
            2 => Some(Self::True),
            _ => None,
        }
    }
}

/// Why a payload is not a call event. The event ends as a dead letter with this reason; also a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Malformed {
    /// No payload (a tombstone) or zero bytes.
    Empty,
    /// Not one JSON text in UTF-8.
    NotJson,
    /// A required field is absent or an empty string.
    MissingField,
    /// A field (or the event itself) has another JSON type than the format says.
    WrongType,
    /// The timestamp cannot be read in the configured format.
    BadTimestamp,
    /// A string is longer than its limit.
    TooLong,
    /// A mapped field occurs twice.
    RepeatedField,
    /// The payload exceeds `limits.max_event_bytes`.
    TooLarge,
}

/// Why a well-formed call is not counted. The event ends as a dead letter with this reason; also a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Quarantined {
    /// More than 300 s later than its arrival.
    Future,
    /// Older than `limits.max_age` at its arrival, or of a month that is closed.
    TooOld,
    /// The tenant's month has reached `limits.rows_per_tenant_month`, or the month `limits.tenants_per_month`.
    Limit,
    /// Its arrival (the record's own timestamp) is in the future: `counting.ignore_timestamps` names it, or, in a file,
    /// it is after the instant of the replay.
    Clock,
}

/// Why an event is not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rejection {
    /// It is not a call event.
    Malformed(Malformed),
    /// It is one that must not be counted.
    Quarantined(Quarantined),
}

impl Rejection {
    /// Every reason, for metrics that must exist from the start.
    pub const ALL: [Self; 12] = [
        Self::Malformed(Malformed::Empty),
        Self::Malformed(Malformed::NotJson),
        Self::Malformed(Malformed::MissingField),
        Self::Malformed(Malformed::WrongType),
        Self::Malformed(Malformed::BadTimestamp),
        Self::Malformed(Malformed::TooLong),
        Self::Malformed(Malformed::RepeatedField),
        Self::Malformed(Malformed::TooLarge),
        Self::Quarantined(Quarantined::Future),
        Self::Quarantined(Quarantined::TooOld),
        Self::Quarantined(Quarantined::Limit),
        Self::Quarantined(Quarantined::Clock),
    ];

    /// The reason's name in dead letters and metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed(Malformed::Empty) => "empty",
            Self::Malformed(Malformed::NotJson) => "not_json",
            Self::Malformed(Malformed::MissingField) => "missing_field",
            Self::Malformed(Malformed::WrongType) => "wrong_type",
            Self::Malformed(Malformed::BadTimestamp) => "bad_timestamp",
            Self::Malformed(Malformed::TooLong) => "too_long",
            Self::Malformed(Malformed::RepeatedField) => "repeated_field",
            Self::Malformed(Malformed::TooLarge) => "too_large",
            Self::Quarantined(Quarantined::Future) => "future",
            Self::Quarantined(Quarantined::TooOld) => "too_old",
            Self::Quarantined(Quarantined::Limit) => "limit",
            Self::Quarantined(Quarantined::Clock) => "clock",
        }
    }

    /// Position in [`Rejection::ALL`].
    pub fn index(self) -> usize {
        Self::ALL.iter().position(|r| *r == self).unwrap_or(0)
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
