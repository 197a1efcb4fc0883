//! From facts and documents to a statement: what the command and the API have in common, so that both give the same
//! bytes for the same inputs.
//!
//! Deliberately not here: where the book comes from, the archive, and the clock.

use std::collections::BTreeMap;
use std::io::Write;

use chrono::{DateTime, TimeZone, Utc};
use chrono_tz::Tz;

use super::standing::Standing;
use super::statement::evidence::{self, Decision, EvidenceRow, EvidenceTime};
use super::statement::{DocumentRef, Facts, Gap, Inputs, Issue, IssueError, Statement};
use crate::documents::{DocumentFile, Letterhead};
use crate::domain::calendar::day_start_ms;
use crate::domain::call::Flag;
use crate::domain::codes::Class;
use crate::domain::contract::Contract;
use crate::domain::decision::Outcome;
use crate::domain::documents::Scope;
use crate::domain::party::NumberFormat;
use crate::domain::policy::Clause;
use crate::domain::standing::{Completeness, ServiceMonth};
use crate::pipeline::book::Book;
use crate::pipeline::record;
use crate::pipeline::standings::{self, Evaluation, UnitemisedEvidence};

/// The inputs of statements: one state of the facts, and what they are judged by.
#[derive(Debug, Clone, Copy)]
pub struct Desk<'a> {
    /// The facts.
    pub book: &'a Book,
    /// The source they come from.
    pub topic: &'a str,
    /// What they are judged by.
    pub contract: &'a Contract,
    /// The files the contract was read from.
    pub files: &'a [DocumentFile],
    /// Who issues statements, and how they are numbered.
    pub letterhead: Option<&'a Letterhead>,
    /// The zone of the ledger's days.
    pub zone: Tz,
}

impl Desk<'_> {
    /// Does a statement's number include its place in the archive?
    pub fn needs_sequence(&self) -> bool {
        self.letterhead.and_then(|letterhead| letterhead.number.as_ref()).is_some_and(NumberFormat::needs_sequence)
    }
}

/// When a statement is issued, and from which data.
#[derive(Debug, Clone)]
pub struct Hour {
    /// The hour of issue.
    pub issued_at: DateTime<Utc>,
    /// Documents recorded later were ignored; `None` = all were used. The same value as the contract's, repeated here
    /// to be shown.
    pub as_of: Option<DateTime<Utc>>,
    /// The statement's place in the archive, counted by the year of its service month; `None` = it is not archived.
    pub sequence: Option<u32>,
    /// What is known about calls that the month's figures do not include, for any tenant.
    pub known: Completeness,
}

impl Desk<'_> {
    /// The statement of a service month, or that the previous one is still valid. Its evidence is [`rows`]; they are
    /// written to `csv` as CSV, so that the caller can measure the length or abort the work.
    ///
    /// # Errors
    /// Those of [`Statement::issue`], and of the writer.
    pub fn issue(
        &self,
        tenant: &str,
        month: &ServiceMonth,
        evaluation: &Evaluation<'_>,
        hour: Hour,
        previous: Option<&Statement>,
        csv: impl Write,
    ) -> Result<Issue, IssueError> {
        let mut known = hour.known;
        known.reasons.extend(self.book.unadmitted(month));
        known.remarks = self.contract.remarks(tenant, month);
        let claims = self.contract.rulebook.claims(tenant);
        let standing = Standing::of(tenant, month, hour.issued_at.timestamp_millis(), known, claims);
        let (terms, period) = (evaluation.terms(), month.period);
        let format = self.letterhead.and_then(|letterhead| letterhead.number.as_ref());
        let inputs = Inputs {
            number: format.and_then(|format| format.number(tenant, &month.label(), period, hour.sequence)),
            issuer: self.letterhead.map(|letterhead| letterhead.issuer.clone()),
            customer: terms.customer_on(period.first).cloned(),
            standing: &standing,
            policy: &month.policy,
            issued_at: hour.issued_at,
            as_of: hour.as_of,
            evidence: evidence::write(rows(month, evaluation), csv).map_err(|e| IssueError::Evidence(e.to_string()))?,
            facts: self.facts(),
            documents: self.documents(tenant, month),
        };
        Statement::issue(inputs, previous)
    }

    fn facts(&self) -> Facts {
        let checkpoints = || (0i32..).zip(self.book.shards()).filter_map(|(s, shard)| Some((s, shard.checkpoint()?)));
        let offsets: BTreeMap<i32, i64> = checkpoints().map(|(shard, c)| (shard, c.next_offset)).collect();
        let gap = |partition, gap: &record::Gap| Gap {
            partition,
            from: gap.from_offset,
            to: gap.to_offset,
            kind: if gap.calls { "calls" } else { "window" }.into(),
        };
        let gaps = checkpoints().flat_map(|(shard, c)| c.gaps.iter().map(move |g| gap(shard, g))).collect();
        Facts { topic: self.topic.to_owned(), offsets, gaps }
    }

    /// The active files, and the rulings about the tenant, one by one.
    fn documents(&self, tenant: &str, month: &ServiceMonth) -> Vec<DocumentRef> {
        let files = self.files.iter().map(|file| DocumentRef {
            kind: file.kind.as_str().into(),
            id: file.name.clone(),
            sha256: file.sha256.clone(),
        });
        let end_ms = day_start_ms(self.zone, month.period.next_day());
        let begin_ms = day_start_ms(self.zone, month.period.first);
        let concerns =
            |from: Option<i64>, to: Option<i64>| from.is_none_or(|f| f < end_ms) && to.is_none_or(|t| t > begin_ms);
        let rules = self.contract.rulebook.tenant(tenant);
        let rulings = rules.rulings.iter().filter(|ruling| match ruling.verdict.scope() {
            Some(Scope::Calls { day, .. }) => month.period.contains(*day),
            Some(Scope::Range { from_ms, to_ms, .. }) => concerns(*from_ms, *to_ms),
            None => false,
        });
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect();
        let rulings = rulings.map(|r| DocumentRef { kind: "ruling".into(), id: r.id.clone(), sha256: hex(&r.sha256) });
        files.chain(rulings).collect()
    }
}

/// All failing calls of the month, in order of time, then of the source; generated on demand, since there may be too
/// many to hold in memory.
pub fn rows<'a, 'm>(
    month: &'m ServiceMonth,
    evaluation: &'m Evaluation<'a>,
) -> impl Iterator<Item = EvidenceRow> + use<'a, 'm> {
    let zone = month.policy.time_zone;
    let flag = |flag: Flag| match flag {
        Flag::Absent => None,
        Flag::False => Some(false),
        Flag::True => Some(true),
    };
    let decided = |outcome: Outcome| -> (Decision, Option<Clause>) {
        match outcome {
            Outcome::Excluded(clause) => (Decision::Excluded, Some(clause)),
            Outcome::Suspect => (Decision::Suspect, Some(Clause::CALL_RATE)),
            Outcome::Counted | Outcome::NoFailure | Outcome::Unbound => (Decision::Counted, None),
        }
    };
    let one = move |e: standings::Evidence| {
        let (decision, clause) = decided(e.outcome);
        EvidenceRow {
            time: EvidenceTime::Instant(
                zone.timestamp_millis_opt(e.item.time_ms)
                    .single()
                    .unwrap_or_else(|| zone.from_utc_datetime(&DateTime::UNIX_EPOCH.naive_utc())),
            ),
            request_id: e.item.request_id,
            action: e.item.action,
            code: e.item.code.unwrap_or_default(),
            flag: flag(Flag::from_number(e.item.flag).unwrap_or(Flag::Absent)),
            calls: 1,
            calls_in_second: Some(e.item.calls_in_second),
            class: e.class,
            decision,
            clause,
            document: e.document,
            partition: Some(e.partition as i32),
            offset: Some(e.item.offset),
        }
    };
    let group = move |u: UnitemisedEvidence| {
        let (decision, clause) = decided(u.outcome);
        EvidenceRow {
            time: EvidenceTime::Day(u.day),
            request_id: String::new(),
            action: u.action,
            code: u.code.unwrap_or_default(),
            flag: flag(u.flag),
            calls: u.calls,
            calls_in_second: None,
            class: Class::SystemError,
            decision: if decision == Decision::Counted { Decision::Unitemised } else { decision },
            clause,
            document: u.document,
            partition: Some(u.partition as i32),
            offset: None,
        }
    };
    evaluation.evidence_by_time(month).map(one).chain(evaluation.unitemised(month).map(group))
}
