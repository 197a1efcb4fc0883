//! The evidence: every failing call and what became of it, as CSV. Its digest is in the statement, so its bytes depend
//! only on the rows, not on language or locale.
//!
//! RFC 4180: a header, CRLF, quotes where needed. Request ids, actions and codes come from tenants and may try to be
//! formulas; a cell that begins like one gets a leading apostrophe (as does one that begins with an apostrophe, so that
//! taking one apostrophe away always gives the original).

use std::borrow::{Borrow, Cow};
use std::collections::BTreeMap;
use std::io::{self, Write};

use chrono::{DateTime, SecondsFormat};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::canonical::hex;
use crate::domain::calendar::LocalDay;
use crate::domain::codes::Class;
use crate::domain::policy::Clause;

/// The byte order mark in UTF-8: with it in front, Excel reads a CSV as what it is. It is not part of the evidence.
pub const BOM: &[u8] = "\u{feff}".as_bytes();

/// The columns of the CSV, in order.
pub const COLUMNS: [&str; 13] = [
    "time",
    "request_id",
    "action",
    "code",
    "system_error",
    "calls",
    "calls_in_second",
    "class",
    "decision",
    "clause",
    "document",
    "partition",
    "offset",
];

/// One failing call, or a number of them that the ledger does not itemise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvidenceRow {
    /// When it was received.
    pub time: EvidenceTime,
    /// Its request id; empty if not itemised.
    pub request_id: String,
    /// The API action.
    pub action: String,
    /// The error code; empty = none.
    pub code: String,
    /// The event's `system_error`.
    pub flag: Option<bool>,
    /// How many calls the row represents: 1, unless they were not itemised.
    pub calls: u64,
    /// The tenant's calls in its second (clause 5.7).
    pub calls_in_second: Option<u32>,
    /// Its class under the policy.
    pub class: Class,
    /// What became of it.
    pub decision: Decision,
    /// The clause that decided.
    pub clause: Option<Clause>,
    /// The id of the ruling, notice or declaration that decided.
    pub document: Option<String>,
    /// The source partition it came from.
    pub partition: Option<i32>,
    /// Its offset there.
    pub offset: Option<i64>,
}

/// When a failing call was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EvidenceTime {
    /// The instant, in the policy's zone.
    Instant(DateTime<Tz>),
    /// Only the local day is known: the call was not itemised.
    Day(LocalDay),
}

/// What became of a failing call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Decision {
    /// It counts.
    Counted,
    /// A clause takes it out; it does not count.
    Excluded,
    /// Clause 5.7 might take it out; it counts until a person decides.
    Suspect,
    /// It counts; the ledger does not itemise it.
    Unitemised,
}

impl Decision {
    /// Its name in the CSV.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counted => "counted",
            Self::Excluded => "excluded",
            Self::Suspect => "suspect",
            Self::Unitemised => "unitemised",
        }
    }
}

/// What a statement says about its evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// Failing calls in it, counted and excluded.
    pub failing_calls: u64,
    /// Those of them that are excluded, by clause.
    pub excluded: BTreeMap<String, u64>,
    /// SHA-256 of the CSV, in hex.
    pub sha256: String,
}

/// Writes the CSV row by row and returns its summary.
///
/// # Errors
/// Those of the writer.
pub fn write<R: Borrow<EvidenceRow>>(rows: impl IntoIterator<Item = R>, out: impl Write) -> io::Result<Evidence> {
    let mut csv = Csv::new(out)?;
    for row in rows {
        csv.row(row.borrow())?;
    }
    csv.end()
}

/// What the CSV of these rows holds, without the CSV.
///
/// # Errors
/// None in practice: nothing is written.
pub fn digest<R: Borrow<EvidenceRow>>(rows: impl IntoIterator<Item = R>) -> io::Result<Evidence> {
    write(rows, io::sink())
}

/// The CSV while it is written.
pub(super) struct Csv<W: Write> {
    writer: csv::Writer<Hashing<W>>,
    failing_calls: u64,
    excluded: BTreeMap<String, u64>,
}

impl<W: Write> Csv<W> {
    pub(super) fn new(out: W) -> io::Result<Self> {
        let mut writer = writer(Hashing { out, hash: Sha256::new() });
        writer.write_record(COLUMNS)?;
        Ok(Self { writer, failing_calls: 0, excluded: BTreeMap::new() })
    }

    pub(super) fn row(&mut self, row: &EvidenceRow) -> io::Result<()> {
        self.failing_calls += row.calls;
        let clause = row.clause.map(|c| c.to_string()).unwrap_or_default();
        if row.decision == Decision::Excluded {
            *self.excluded.entry(clause.clone()).or_default() += row.calls;
        }
        let number = |n: Option<i64>| n.map(|n| n.to_string()).unwrap_or_default();
        self.writer.write_record([
            &*row.time.to_string(),
            &*guarded(&row.request_id),
            &*guarded(&row.action),
            &*guarded(&row.code),
            row.flag.map_or("", |flag| if flag { "true" } else { "false" }),
            &*row.calls.to_string(),
            &*number(row.calls_in_second.map(i64::from)),
            row.class.as_str(),
            row.decision.as_str(),
            &*clause,
            &*guarded(row.document.as_deref().unwrap_or_default()),
            &*number(row.partition.map(i64::from)),
            &*number(row.offset),
        ])?;
        Ok(())
    }

    pub(super) fn end(self) -> io::Result<Evidence> {
        let mut hashing = self.writer.into_inner().map_err(csv::IntoInnerError::into_error)?;
        hashing.flush()?;
        Ok(Evidence {
            failing_calls: self.failing_calls,
            excluded: self.excluded,
            sha256: hex(&hashing.hash.finalize()),
        })
    }
}

impl std::fmt::Display for EvidenceTime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Instant(at) => f.write_str(&at.to_rfc3339_opts(SecondsFormat::Millis, false)),
            Self::Day(day) => day.fmt(f),
        }
    }
}

/// A CSV writer as RFC 4180 has it.
pub(super) fn writer<W: Write>(out: W) -> csv::Writer<W> {
    csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(out)
}

/// A cell that no spreadsheet takes for a formula.
pub(super) fn guarded(cell: &str) -> Cow<'_, str> {
    if cell.starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '\'', '＝', '＋', '－', '＠']) {
        format!("'{cell}").into()
    } else {
        cell.into()
    }
}

struct Hashing<W> {
    out: W,
    hash: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_no_formulas() {
        for (cell, expected) in [
            ("r1", "r1"),
            ("", ""),
            ("=cmd()", "'=cmd()"),
            ("+1", "'+1"),
            ("-1", "'-1"),
            ("@x", "'@x"),
            ("\tx", "'\tx"),
            ("\rx", "'\rx"),
            ("'x", "''x"),
            ("a=b", "a=b"),
        ] {
            assert_eq!(guarded(cell), expected, "{cell:?}");
        }
    }
}
