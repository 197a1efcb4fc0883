//! What a replay prints: `sla-ledger/replay/v1`, or a table for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;

use crate::domain::calendar::{LocalDay, day_start_ms};
use crate::domain::call::{Flag, Rejection};
use crate::domain::contract::Contract;
use crate::domain::standing::{RUNNING, ServiceMonth};
use crate::pipeline::dictionary::Dictionary;
use crate::pipeline::record::TallyDay;
use crate::report::standing::Standing;
use crate::visible::visible;

/// The schema of the JSON output.
pub const SCHEMA: &str = "sla-ledger/replay/v1";

/// The whole result.
#[derive(Debug, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// Documents recorded later are ignored; null = all are used.
    pub as_of: Option<String>,
    /// The instant the states are judged at.
    pub now: String,
    /// The outcomes of the lines.
    pub records: Records,
    /// Calls outside every registered term, by tenant.
    pub out_of_term: BTreeMap<String, u64>,
    /// By tenant, then first day.
    pub standings: Vec<Standing>,
    /// By tenant, then day; only if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub facts: Option<Vec<DayFacts>>,
}

/// The outcomes of the lines; `seen` is the sum of counted, duplicate, malformed and quarantined.
#[derive(Debug, Serialize)]
pub struct Records {
    /// Lines read.
    pub seen: u64,
    /// Calls counted.
    pub counted: u64,
    /// Calls seen before.
    pub duplicate: u64,
    /// Those of them whose content differs from the first.
    pub duplicate_conflicts: u64,
    /// Lines that are not call events.
    pub malformed: u64,
    /// Calls that must not be counted.
    pub quarantined: u64,
    /// Malformed lines, by reason; only reasons that occurred.
    pub malformed_reasons: BTreeMap<&'static str, u64>,
    /// Quarantined calls, by reason; only reasons that occurred.
    pub quarantined_reasons: BTreeMap<&'static str, u64>,
}

/// The facts of one tenant and local day, in the shape of the file `generate` writes beside its events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DayFacts {
    /// The tenant.
    pub tenant: String,
    /// The date.
    pub day: String,
    /// Calls per action, whatever their outcome.
    pub calls: BTreeMap<String, u64>,
    /// Unsuccessful calls.
    pub non_ok: Vec<NonOk>,
    /// Itemised calls.
    pub itemised: u64,
}

/// Unsuccessful calls of one action, code and flag.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct NonOk {
    /// The API action.
    pub action: String,
    /// The error code; `""` if missing.
    pub code: String,
    /// The event's flag.
    pub system_error: Option<bool>,
    /// How many.
    pub calls: u64,
}

impl DayFacts {
    /// One day of a tally.
    pub fn of(tenant: &str, day: LocalDay, names: &Dictionary, tally: &TallyDay) -> Self {
        let name = |number: u32| names.name(tally, number).to_owned();
        let rows =
            tally.outcome_actions.iter().zip(&tally.outcome_codes).zip(&tally.outcome_flags).zip(&tally.outcome_calls);
        let mut non_ok: Vec<_> = rows
            .map(|(((action, code), flag), calls)| NonOk {
                action: name(*action),
                code: code.checked_sub(1).map(name).unwrap_or_default(),
                system_error: match Flag::from_number(*flag) {
                    Some(Flag::True) => Some(true),
                    Some(Flag::False) => Some(false),
                    Some(Flag::Absent) | None => None,
                },
                calls: *calls,
            })
            .collect();
        non_ok.sort_unstable();
        let calls = tally.actions.iter().map(|a| name(*a)).zip(tally.calls.iter().copied()).collect();
        Self { tenant: tenant.to_string(), day: day.to_string(), calls, non_ok, itemised: 0 }
    }
}

impl DayFacts {
    /// Adds the facts of the same tenant and day in another partition.
    pub fn add(&mut self, more: Self) {
        for (action, calls) in more.calls {
            *self.calls.entry(action).or_default() += calls;
        }
        for row in more.non_ok {
            let is = |known: &&mut NonOk| {
                (&known.action, &known.code, known.system_error) == (&row.action, &row.code, row.system_error)
            };
            match self.non_ok.iter_mut().find(is) {
                Some(known) => known.calls += row.calls,
                None => self.non_ok.push(row),
            }
        }
        self.non_ok.sort_unstable();
        self.itemised += more.itemised;
    }
}

/// What the report is judged by.
#[derive(Debug)]
pub struct Judgement<'a> {
    /// What the standings are judged by.
    pub contract: &'a Contract,
    /// The instant the states are judged at.
    pub now: DateTime<Utc>,
    /// Documents recorded later are ignored.
    pub as_of: Option<DateTime<Utc>>,
}

impl Report {
    /// The report of a replay.
    pub fn new(result: super::Result, judgement: &Judgement<'_>) -> Self {
        let rejected = Rejection::ALL.into_iter().zip(result.rejected).filter(|(_, lines)| *lines > 0);
        let (malformed, quarantined): (Vec<_>, Vec<_>) =
            rejected.partition(|(reason, _)| matches!(reason, Rejection::Malformed(_)));
        let by_reason =
            |list: Vec<(Rejection, u64)>| list.into_iter().map(|(reason, lines)| (reason.as_str(), lines)).collect();
        let totals = result.totals;
        Self {
            schema: SCHEMA,
            as_of: judgement.as_of.map(instant),
            now: instant(judgement.now),
            records: Records {
                seen: totals.seen,
                counted: totals.counted,
                duplicate: totals.duplicate,
                duplicate_conflicts: totals.duplicate_conflicts,
                malformed: totals.malformed,
                quarantined: totals.quarantined,
                malformed_reasons: by_reason(malformed),
                quarantined_reasons: by_reason(quarantined),
            },
            out_of_term: result.out_of_term.iter().map(|(tenant, calls)| (tenant.to_string(), *calls)).collect(),
            standings: result
                .months
                .iter()
                .map(|((tenant, first), month)| {
                    let mut reasons = incomplete(month, result.watermark_ms, judgement.now);
                    let unadmitted = result.unadmitted.get(&(tenant.clone(), *first));
                    reasons.extend(unadmitted.into_iter().flatten().cloned());
                    let mut known = result.rejected_lines.complete(tenant, month.period.month(), reasons);
                    known.remarks = judgement.contract.remarks(tenant, month);
                    let claims = judgement.contract.rulebook.claims(tenant);
                    Standing::of(tenant, month, judgement.now.timestamp_millis(), known, claims)
                })
                .collect(),
            facts: result.facts.map(|facts| facts.into_values().collect()),
        }
    }

    /// The report as JSON, one standing (and one day of facts) per line.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write_json(&self, out: &mut impl std::io::Write) -> std::io::Result<()> {
        fn member<T: Serialize>(out: &mut impl std::io::Write, name: &str, value: &T) -> std::io::Result<()> {
            write!(out, "\"{name}\":")?;
            Ok(serde_json::to_writer(out, value)?)
        }
        fn lines<T: Serialize>(out: &mut impl std::io::Write, name: &str, rows: &[T]) -> std::io::Result<()> {
            write!(out, ",\n\"{name}\":[")?;
            for (index, row) in rows.iter().enumerate() {
                out.write_all(if index == 0 { b"\n" } else { b",\n" })?;
                serde_json::to_writer(&mut *out, row)?;
            }
            out.write_all(b"]")
        }
        out.write_all(b"{")?;
        member(out, "schema", &self.schema)?;
        out.write_all(b",")?;
        member(out, "as_of", &self.as_of)?;
        out.write_all(b",")?;
        member(out, "now", &self.now)?;
        out.write_all(b",\n")?;
        member(out, "records", &self.records)?;
        out.write_all(b",\n")?;
        member(out, "out_of_term", &self.out_of_term)?;
        lines(out, "standings", &self.standings)?;
        if let Some(facts) = &self.facts {
            lines(out, "facts", facts)?;
        }
        out.write_all(b"}\n")
    }

    /// The service months that are not complete, with the reasons, except those that are merely still running.
    fn write_incomplete(&self, out: &mut String) {
        let reasons = |standing: &Standing| -> Vec<String> {
            standing.incomplete_reasons.iter().filter(|reason| *reason != RUNNING).cloned().collect()
        };
        let all: Vec<_> = self.standings.iter().map(|s| (s, reasons(s))).filter(|(_, r)| !r.is_empty()).collect();
        if all.is_empty() {
            return;
        }
        out.push_str("\nnot complete:\n");
        for (standing, reasons) in all.iter().take(INCOMPLETE_SHOWN) {
            _ = writeln!(out, "{} {}: {}", standing.tenant.escape_debug(), standing.month, reasons.join("; "));
        }
        if all.len() > INCOMPLETE_SHOWN {
            _ = writeln!(out, "and {} more; --output json names them", all.len() - INCOMPLETE_SHOWN);
        }
    }

    /// The report as a table for people.
    pub fn to_text(&self) -> String {
        let records = &self.records;
        let reasons = |reasons: &BTreeMap<&str, u64>| {
            let list: Vec<_> = reasons.iter().map(|(reason, lines)| format!("{reason} {lines}")).collect();
            if list.is_empty() { String::new() } else { format!(" ({})", list.join(", ")) }
        };
        let mut out = format!(
            "{} lines: {} calls counted, {} duplicates ({} conflicting), {} malformed{}, {} quarantined{}\n",
            records.seen,
            records.counted,
            records.duplicate,
            records.duplicate_conflicts,
            records.malformed,
            reasons(&records.malformed_reasons),
            records.quarantined,
            reasons(&records.quarantined_reasons),
        );
        let header = [
            "tenant",
            "month",
            "calls",
            "failed",
            "availability",
            "worst case",
            "tier",
            "budget used",
            "failures left",
            "level",
        ];
        let mut rows: Vec<Vec<String>> = vec![header.map(str::to_owned).to_vec()];
        let percent = |p: &Option<String>| p.as_ref().map_or_else(|| "-".to_owned(), |p| format!("{p} %"));
        rows.extend(self.standings.iter().map(|s| {
            vec![
                s.tenant.clone(),
                s.month.clone(),
                s.total.to_string(),
                s.failed.to_string(),
                percent(&s.availability_pct),
                percent(&s.availability_pct_worst_case),
                s.tier.clone(),
                percent(&s.budget.consumed_pct),
                s.budget.failures_left.first().map_or_else(String::new, |(_, left)| left.to_string()),
                s.budget.level.to_owned(),
            ]
        }));
        if !self.standings.is_empty() {
            out.push('\n');
            table(&mut out, &rows, &[0, 1, 6, 9]);
        }
        self.write_incomplete(&mut out);
        if let Some(facts) = &self.facts {
            let header = ["tenant", "day", "action", "code", "system_error", "calls"];
            let mut rows: Vec<Vec<String>> = vec![header.map(str::to_owned).to_vec()];
            for day in facts {
                let tenant = &day.tenant;
                for (action, calls) in &day.calls {
                    rows.push(vec![
                        tenant.clone(),
                        day.day.clone(),
                        action.clone(),
                        "(all)".into(),
                        String::new(),
                        calls.to_string(),
                    ]);
                }
                for row in &day.non_ok {
                    let flag = row.system_error.map(|f| f.to_string()).unwrap_or_default();
                    rows.push(vec![
                        tenant.clone(),
                        day.day.clone(),
                        row.action.clone(),
                        row.code.clone(),
                        flag,
                        row.calls.to_string(),
                    ]);
                }
            }
            out.push('\n');
            table(&mut out, &rows, &[0, 1, 2, 3, 4]);
        }
        out
    }
}

/// Maximum number of incomplete service months listed for people.
const INCOMPLETE_SHOWN: usize = 20;

/// The input is drained: nothing can follow if it was drained after the month's end, by the clock or by the arrivals.
fn incomplete(month: &ServiceMonth, watermark_ms: Option<i64>, now: DateTime<Utc>) -> Vec<String> {
    let end_ms = day_start_ms(month.policy.time_zone, month.period.next_day());
    let ended = now.timestamp_millis() >= end_ms || watermark_ms.is_some_and(|ms| ms >= end_ms);
    if ended { Vec::new() } else { vec![RUNNING.into()] }
}

fn instant(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// Columns, those in `left` aligned to the left; safe to print, whatever the cells contain.
fn table(out: &mut String, rows: &[Vec<String>], left: &[usize]) {
    let rows: Vec<Vec<_>> = rows.iter().map(|row| row.iter().map(|cell| visible(cell)).collect()).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| rows.iter().filter_map(|r| r.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in &rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let gap = if column == 0 { "" } else { "  " };
            _ = if left.contains(&column) {
                write!(line, "{gap}{cell:<width$}")
            } else {
                write!(line, "{gap}{cell:>width$}")
            };
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
}
