//! Lines of a replay that were not counted, and whose service months they may be missing from.
//!
//! A line that is not a call event has no trustworthy time, so it may belong to the month of the call before it or
//! after it, and to any tenant. A call that was refused names its tenant and its month.

use std::collections::{BTreeMap, BTreeSet};

use chrono_tz::Tz;

use crate::domain::calendar::{LocalClock, Month};
use crate::domain::call::{Call, Quarantined, Rejection};
use crate::domain::standing::{AGE_LIMIT, Completeness};

/// How many, and the first of them: its file and position.
#[derive(Debug, Clone, Copy)]
struct Lines {
    lines: u64,
    first: (u32, i64),
}

/// The rejected lines of an input.
#[derive(Debug)]
pub struct RejectedLines {
    clock: LocalClock,
    files: u32,
    /// The file being read, from 0.
    file: u32,
    /// Lines since the last call that are not call events.
    pending: BTreeMap<&'static str, Lines>,
    /// When the last call arrived, in ms.
    last_ms: Option<i64>,
    /// Lines that are not call events, by month; `None`: there was no call before or after them.
    unreadable: BTreeMap<(Option<Month>, &'static str), Lines>,
    /// Calls that were refused and are in no record of the ledger, by tenant and month.
    refused: BTreeMap<(String, Month, &'static str), u64>,
}

impl RejectedLines {
    /// No lines yet, of this many files; months are those of this zone.
    pub fn new(zone: Tz, files: u32) -> Self {
        Self {
            clock: LocalClock::new(zone),
            files,
            file: 0,
            pending: BTreeMap::new(),
            last_ms: None,
            unreadable: BTreeMap::new(),
            refused: BTreeMap::new(),
        }
    }

    /// A call that arrived then was counted, or was seen before.
    pub fn call(&mut self, arrival_ms: i64) {
        if !self.pending.is_empty() {
            self.settle(Some(arrival_ms));
        }
        self.last_ms = Some(arrival_ms);
    }

    /// The line at this place is not a call event.
    pub fn unreadable(&mut self, place: i64, reason: Rejection) {
        let first = (self.file, place);
        let lines = self.pending.entry(reason.as_str()).or_insert(Lines { lines: 0, first });
        lines.lines += 1;
    }

    /// A call was refused, and no record of the ledger shows it.
    pub fn refused(&mut self, call: &Call<'_>, reason: Rejection) {
        let key = (call.tenant.to_string(), self.clock.day(call.time_ms).month(), reason.as_str());
        *self.refused.entry(key).or_default() += 1;
    }

    /// The file has ended.
    pub fn end_of_file(&mut self) {
        self.settle(None);
        self.last_ms = None;
        self.file += 1;
    }

    /// What is pending belongs to the month of the call before it, or to that of the call after it.
    fn settle(&mut self, next_ms: Option<i64>) {
        let around = [self.last_ms, next_ms].into_iter().flatten();
        let mut months: BTreeSet<Option<Month>> = around.map(|ms| Some(self.clock.day(ms).month())).collect();
        if months.is_empty() || self.last_ms.is_none() {
            // Lines before the first call may belong to any month.
            months = [None].into();
        }
        for (reason, lines) in std::mem::take(&mut self.pending) {
            for month in &months {
                let all = self.unreadable.entry((*month, reason)).or_insert(Lines { lines: 0, first: lines.first });
                all.lines += lines.lines;
            }
        }
    }

    /// Why a tenant's service month of this calendar month is not complete.
    pub fn reasons(&self, tenant: &str, month: Month) -> Vec<String> {
        let mut by_reason: BTreeMap<&str, Lines> = BTreeMap::new();
        let concerned = self.unreadable.iter().filter(|((at, _), _)| at.is_none_or(|at| at == month));
        for ((_, reason), lines) in concerned {
            let all = by_reason.entry(reason).or_insert(Lines { lines: 0, first: lines.first });
            (all.lines, all.first) = (all.lines + lines.lines, all.first.min(lines.first));
        }
        let mut reasons = Vec::new();
        if !by_reason.is_empty() {
            let sum: u64 = by_reason.values().map(|lines| lines.lines).sum();
            let parts: Vec<_> = by_reason
                .iter()
                .map(|(reason, Lines { lines, first })| format!("{reason} {lines} (first: {})", self.place(*first)))
                .collect();
            let were = if sum == 1 { "line of the input was" } else { "lines of the input were" };
            reasons.push(format!("{sum} {were} rejected: {}", parts.join(", ")));
        }
        let from = (tenant.to_owned(), month, "");
        let own = self.refused.range(from..).take_while(|((t, m, _), _)| t == tenant && *m == month);
        reasons.extend(own.map(|((_, _, reason), calls)| {
            let were = if *calls == 1 { "call of this month was" } else { "calls of this month were" };
            let too_old = Rejection::Quarantined(Quarantined::TooOld).as_str();
            let why = if *reason == too_old { AGE_LIMIT } else { reason };
            format!("{calls} {were} not counted: {why}")
        }));
        reasons
    }

    /// The same, plus the reasons from the ledger of the input.
    pub fn complete(&self, tenant: &str, month: Month, mut reasons: Vec<String>) -> Completeness {
        reasons.extend(self.reasons(tenant, month));
        // The ledger's own count covers the same lines, without their positions.
        Completeness { reasons, ..Completeness::default() }
    }

    fn place(&self, (file, place): (u32, i64)) -> String {
        let line = place + 1;
        if self.files > 1 { format!("file {} line {line}", file + 1) } else { format!("line {line}") }
    }
}
