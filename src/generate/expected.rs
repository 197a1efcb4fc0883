//! What a counter must find in a stream, tallied while it is generated from what each event was meant to be.
//! Nothing here decodes, dedupes or knows the pipeline.

use std::collections::BTreeMap;
use std::io::{self, Write};

use hashbrown::HashMap;
use serde::{Deserialize, Serialize};

use super::catalog::{Catalog, CodeIndex};
use super::encode::{Flag, civil};
use super::plan::{Plan, Trouble};
use super::schedule::{DAY_MS, ZONE_OFFSET_MS};

/// The schema of the file.
pub const SCHEMA: &str = "sla-ledger/expected/v1";

/// Why an event cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Malformed {
    /// No bytes, or a tombstone.
    Empty,
    /// Not JSON, or not UTF-8.
    NotJson,
    /// No tenant, request id or timestamp.
    MissingField,
    /// A field of another type than it must have.
    WrongType,
    /// A timestamp that is not an RFC 3339 instant.
    BadTimestamp,
    /// A text above 128 bytes.
    TooLong,
    /// A mapped field twice.
    RepeatedField,
    /// A payload above 1 MiB.
    TooLarge,
}

impl Malformed {
    /// All reasons.
    pub const ALL: [Self; 8] = [
        Self::Empty,
        Self::NotJson,
        Self::MissingField,
        Self::WrongType,
        Self::BadTimestamp,
        Self::TooLong,
        Self::RepeatedField,
        Self::TooLarge,
    ];

    /// The reason's name in dead letters and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::NotJson => "not_json",
            Self::MissingField => "missing_field",
            Self::WrongType => "wrong_type",
            Self::BadTimestamp => "bad_timestamp",
            Self::TooLong => "too_long",
            Self::RepeatedField => "repeated_field",
            Self::TooLarge => "too_large",
        }
    }
}

/// Why an event is kept but not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Quarantined {
    /// More than 300 s after its arrival.
    Future,
    /// Older than the age limit at its arrival.
    TooOld,
}

impl Quarantined {
    /// All reasons a stream can contain.
    pub const ALL: [Self; 2] = [Self::Future, Self::TooOld];

    /// The reason's name in dead letters and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Future => "future",
            Self::TooOld => "too_old",
        }
    }
}

/// What an event was meant to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Meant {
    /// A call that counts.
    Call,
    /// A repeat of a call within the dedupe window.
    Duplicate {
        /// Its content differs from the first occurrence.
        conflict: bool,
    },
    /// Cannot be decoded.
    Malformed(Malformed),
    /// Is never counted.
    Quarantined(Quarantined),
}

/// Numbers of events by outcome. `seen` is the sum of the others (`duplicate_conflicts` is a part of `duplicate`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Records {
    /// All events.
    pub seen: u64,
    /// Calls that count.
    pub counted: u64,
    /// Repeats within the dedupe window.
    pub duplicate: u64,
    /// Those of them with different content.
    pub duplicate_conflicts: u64,
    /// By reason; every reason is present.
    pub malformed: BTreeMap<String, u64>,
    /// By reason; every reason is present.
    pub quarantined: BTreeMap<String, u64>,
}

/// Unsuccessful calls of one tenant: those of one action, code and flag, on one day.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NonOk {
    /// The API action, `""` if missing.
    pub action: String,
    /// The error code, `""` if missing.
    pub code: String,
    /// The event's flag.
    pub system_error: Option<bool>,
    /// How many.
    pub calls: u64,
}

/// One tenant's local day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Day {
    /// The tenant.
    pub tenant: String,
    /// The date in Asia/Shanghai, `2026-03-17`.
    pub day: String,
    /// Calls per action, whatever their outcome.
    pub calls: BTreeMap<String, u64>,
    /// Unsuccessful calls, sorted.
    pub non_ok: Vec<NonOk>,
    /// Calls with the flag true, or with a code other than a caller's fault (`caller_fault`, `throttled`).
    pub itemised: u64,
}

/// One tenant's calendar month.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Month {
    /// The tenant.
    pub tenant: String,
    /// The month in Asia/Shanghai, `2026-03`.
    pub month: String,
    /// Calls.
    pub total: u64,
    /// Flag true, or flag absent and a code of class `system_error`.
    pub failed: u64,
}

/// A tenant steered into trouble.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InTrouble {
    /// The tenant.
    pub tenant: String,
    /// Where it is steered to.
    pub trouble: Trouble,
}

/// The expected result of a stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Expected {
    /// [`SCHEMA`].
    pub schema: String,
    /// What was generated.
    pub plan: Plan,
    /// Events by outcome.
    pub records: Records,
    /// The tenants in trouble.
    pub in_trouble: Vec<InTrouble>,
    /// Sorted by tenant, then month.
    pub months: Vec<Month>,
    /// Sorted by tenant, then day.
    pub days: Vec<Day>,
}

impl Expected {
    /// Writes it as JSON, one tenant's day or month per line.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(b"{\"schema\":")?;
        serde_json::to_writer(&mut *out, &self.schema)?;
        out.write_all(b",\n\"plan\":")?;
        serde_json::to_writer(&mut *out, &self.plan)?;
        out.write_all(b",\n\"records\":")?;
        serde_json::to_writer(&mut *out, &self.records)?;
        lines(out, "in_trouble", &self.in_trouble)?;
        lines(out, "months", &self.months)?;
        lines(out, "days", &self.days)?;
        out.write_all(b"}\n")
    }
}

fn lines<T: Serialize>(out: &mut impl Write, name: &str, rows: &[T]) -> io::Result<()> {
    write!(out, ",\n\"{name}\":[")?;
    for (index, row) in rows.iter().enumerate() {
        out.write_all(if index == 0 { b"\n " } else { b",\n " })?;
        serde_json::to_writer(&mut *out, row)?;
    }
    out.write_all(b"]")
}

/// A call as the tally needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) tenant: u32,
    pub(super) at_ms: i64,
    pub(super) action: u16,
    pub(super) code: CodeIndex,
    pub(super) flag: Flag,
}

#[derive(Debug, Clone, Default)]
struct DayTally {
    /// In the order of first occurrence, so that common ones are found quickly.
    calls: Vec<(u16, u64)>,
    non_ok: Vec<((u16, CodeIndex, Flag), u64)>,
    itemised: u64,
    failed: u64,
}

/// Adds up what is generated. Bounded by tenants × days, not by events.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally {
    seen: u64,
    counted: u64,
    duplicates: u64,
    conflicts: u64,
    malformed: [u64; Malformed::ALL.len()],
    quarantined: [u64; Quarantined::ALL.len()],
    days: HashMap<(u32, i32), DayTally, foldhash::fast::FixedState>,
}

impl Tally {
    pub(super) fn add(&mut self, meant: Meant, outcome: &Outcome, catalog: &Catalog) {
        self.seen += 1;
        match meant {
            Meant::Duplicate { conflict } => {
                self.duplicates += 1;
                self.conflicts += u64::from(conflict);
            }
            Meant::Malformed(reason) => self.malformed[reason as usize] += 1,
            Meant::Quarantined(reason) => self.quarantined[reason as usize] += 1,
            Meant::Call => {
                self.counted += 1;
                let day = (outcome.at_ms + ZONE_OFFSET_MS).div_euclid(DAY_MS) as i32;
                self.days.entry((outcome.tenant, day)).or_default().add(outcome, catalog);
            }
        }
    }

    pub(super) fn seen(&self) -> u64 {
        self.seen
    }

    /// The result, with names.
    pub(super) fn expected(&self, plan: &Plan, tenants: &[(String, Option<Trouble>)], catalog: &Catalog) -> Expected {
        let mut keys: Vec<(&str, i32, u32)> =
            self.days.keys().map(|&(tenant, day)| (tenants[tenant as usize].0.as_str(), day, tenant)).collect();
        keys.sort_unstable();
        let mut months: Vec<Month> = Vec::new();
        let mut days = Vec::with_capacity(keys.len());
        for (name, number, tenant) in keys {
            let Some(tally) = self.days.get(&(tenant, number)) else { continue };
            let day = tally.named(name, number, catalog);
            let (total, month) = (tally.calls.iter().map(|(_, calls)| calls).sum::<u64>(), &day.day[..7]);
            match months.last_mut().filter(|last| last.tenant == name && last.month == month) {
                Some(last) => {
                    last.total += total;
                    last.failed += tally.failed;
                }
                None => {
                    months.push(Month { tenant: name.to_owned(), month: month.to_owned(), total, failed: tally.failed })
                }
            }
            days.push(day);
        }
        let trouble = |(name, trouble): &(String, Option<Trouble>)| {
            trouble.map(|trouble| InTrouble { tenant: name.clone(), trouble })
        };
        Expected {
            schema: SCHEMA.to_owned(),
            plan: plan.clone(),
            records: Records {
                seen: self.seen,
                counted: self.counted,
                duplicate: self.duplicates,
                duplicate_conflicts: self.conflicts,
                malformed: Malformed::ALL
                    .iter()
                    .map(|&reason| (reason.as_str().to_owned(), self.malformed[reason as usize]))
                    .collect(),
                quarantined: Quarantined::ALL
                    .iter()
                    .map(|&reason| (reason.as_str().to_owned(), self.quarantined[reason as usize]))
                    .collect(),
            },
            in_trouble: tenants.iter().filter_map(trouble).collect(),
            months,
            days,
        }
    }
}

impl DayTally {
    fn add(&mut self, outcome: &Outcome, catalog: &Catalog) {
        bump(&mut self.calls, outcome.action);
        let code = &catalog.codes[usize::from(outcome.code)];
        if code.name.is_empty() && outcome.flag != Flag::True {
            return;
        }
        bump(&mut self.non_ok, (outcome.action, outcome.code, outcome.flag));
        self.failed += u64::from(outcome.flag == Flag::True || outcome.flag == Flag::Absent && code.system_error);
        self.itemised += u64::from(outcome.flag == Flag::True || !code.caller_fault);
    }

    fn named(&self, tenant: &str, number: i32, catalog: &Catalog) -> Day {
        let action = |index: u16| catalog.actions[usize::from(index)].clone();
        let mut non_ok: Vec<NonOk> = self
            .non_ok
            .iter()
            .map(|&((of, code, flag), calls)| NonOk {
                action: action(of),
                code: catalog.codes[usize::from(code)].name.clone(),
                system_error: match flag {
                    Flag::Absent => None,
                    Flag::False => Some(false),
                    Flag::True => Some(true),
                },
                calls,
            })
            .collect();
        non_ok.sort_unstable();
        let (year, month, date) = civil(i64::from(number));
        Day {
            tenant: tenant.to_owned(),
            day: format!("{year:04}-{month:02}-{date:02}"),
            calls: self.calls.iter().map(|&(of, calls)| (action(of), calls)).collect(),
            non_ok,
            itemised: self.itemised,
        }
    }
}

fn bump<K: PartialEq>(counts: &mut Vec<(K, u64)>, key: K) {
    match counts.iter_mut().find(|(known, _)| *known == key) {
        Some((_, count)) => *count += 1,
        None => counts.push((key, 1)),
    }
}
