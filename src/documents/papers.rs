//! `notices.yaml`, `declarations.yaml`, `claims.yaml`: lists whose entries have an id; an id that comes again is a
//! later version.

use super::values::{self, INSTANT, Kind, MAX_NAME, OWNED, accuse, of};
use super::{judge_range, money};
use crate::domain::calendar::LocalDay;
use crate::domain::documents::{ClaimEvent, ClaimEventKind, Declaration, Notice};
use crate::domain::money::Currency;
use crate::domain::policy::Clause;
use crate::yaml::FileErrors;
use crate::yaml::read::{self, Reader, Section, shown_text, wrong};
use crate::yaml::tree::Node;

pub(super) const SOME_INSTANT: &str = "2026-03-17T09:00:00+08:00";

/// When an entry was written down.
const RECORDED_AT: &str = "When this was written down. Reports \"as of\" an earlier instant do not see it.";

/// The id of an entry.
const ID: &str = "Its id. An id that comes again is a later version.";

pub(super) fn recorded_at(section: &mut Section) -> i64 {
    section.key("recorded_at", RECORDED_AT).required(SOME_INSTANT, of(INSTANT))
}

/// Reads `notices.yaml`.
pub(super) fn notices(name: &str, text: &str) -> Result<Vec<Notice>, FileErrors> {
    Reader::read_list(name, text, "a notice", notice, |_, _| ())
}

pub(super) fn notice(section: &mut Section) -> Notice {
    let id = section.key("id", ID).required("n1", of(OWNED));
    let announced = Kind {
        words: "\"5.12\" or \"5.11\"",
        judge: |text: &str| match values::clause(text)? {
            clause @ (Clause::MAINTENANCE | Clause::EVENT) => Ok(clause),
            other => accuse(
                format!("{other} is decided by no notice"),
                "write \"5.12\" for maintenance or \"5.11\" for an event; for any other clause write a ruling",
            ),
        },
    };
    let clause = section.key("clause", "5.12: maintenance. 5.11: an event.").needed("\"5.12\"", of(announced));
    let announced_at_ms = section
        .key("announced_at", "When customers were informed; the notice applies only if this is before `start`.")
        .required(SOME_INSTANT, of(INSTANT));
    let start =
        section.key("start", "Failures from this instant on are not the provider's.").needed(SOME_INSTANT, of(INSTANT));
    let end = section.key("end", "The first instant after them.").needed(SOME_INSTANT, of(INSTANT));
    judge_range(section, "start", start, "end", end);
    Notice {
        id,
        clause: clause.unwrap_or(Clause::MAINTENANCE),
        announced_at_ms,
        start_ms: start.unwrap_or_default(),
        end_ms: end.unwrap_or_default(),
        tenants: section
            .key("tenants", "Whom it is about; empty or absent: all.")
            .or(Vec::new(), read::list(of(OWNED))),
        actions: section
            .key("actions", "Which API actions it is about; empty or absent: all.")
            .or(Vec::new(), read::list(of(OWNED))),
        recorded_at_ms: recorded_at(section),
    }
}

/// Reads `declarations.yaml`.
pub(super) fn declarations(name: &str, text: &str) -> Result<Vec<Declaration>, FileErrors> {
    Reader::read_list(name, text, "a declaration", declaration, |_, _| ())
}

pub(super) fn declaration(section: &mut Section) -> Declaration {
    let id = section.key("id", ID).required("d1", of(OWNED));
    let tenant = section.key("tenant", "Who announced it.").required("acme", of(OWNED));
    let qps = section
        .key("qps", "Up to so many calls per second are covered; of several declarations in force the highest counts.")
        .required("10", read::integer(1..=1_000_000_000)) as u32;
    let told_at_ms = section
        .key("told_at", "When the provider was informed; only later calls are covered.")
        .required(SOME_INSTANT, of(INSTANT));
    let from = section.key("from", "The first instant covered.").needed(SOME_INSTANT, of(INSTANT));
    let to = section.key("to", "The first instant after it.").needed(SOME_INSTANT, of(INSTANT));
    judge_range(section, "from", from, "to", to);
    Declaration {
        id,
        tenant,
        qps,
        told_at_ms,
        from_ms: from.unwrap_or_default(),
        to_ms: to.unwrap_or_default(),
        recorded_at_ms: recorded_at(section),
    }
}

/// Reads `claims.yaml`. `currency` is the one of a tenant's bills; without it (the bills have mistakes of their own)
/// amounts are not judged.
pub(super) fn claims(
    name: &str,
    text: &str,
    currency: Option<&dyn Fn(&str) -> Currency>,
) -> Result<Vec<ClaimEvent>, FileErrors> {
    Reader::read_list(name, text, "a claim", |section| claim(section, currency), |_, _| ())
}

pub(super) fn claim(section: &mut Section, currency: Option<&dyn Fn(&str) -> Currency>) -> ClaimEvent {
    const EVENTS: [(&str, ClaimEventKind); 5] = [
        ("filed", ClaimEventKind::Filed),
        ("paid", ClaimEventKind::Paid),
        ("rejected", ClaimEventKind::Rejected),
        ("withdrawn", ClaimEventKind::Withdrawn),
        ("other_damages", ClaimEventKind::OtherDamages),
    ];
    let id = section.key("id", ID).required("c1", of(OWNED));
    let tenant = section.key("tenant", "Whose claim it is.").required("acme", of(OWNED));
    let period_start =
        section.key("period_start", "The first day of the service month.").needed("2026-03-17", of(values::DAY));
    let event = section
        .key("event", "What happened; other_damages is a payment that the cap of clause 6.1 counts.")
        .needed("filed", read::choice(&EVENTS));
    let at_ms = section.key("at", "When it happened.").required(SOME_INSTANT, of(INSTANT));
    let amount = read::written(money::AMOUNT.words, |node: &Node| {
        let text = read::text(node)?;
        let Some(currency) = currency else { return Ok(0) };
        match money::minor(&text, currency(&tenant)) {
            Ok(minor) if minor < 0 => wrong(node, format!("is negative: {}", shown_text(&text)), "write what was paid"),
            Ok(minor) => Ok(minor),
            Err((message, help)) => wrong(node, message, help),
        }
    });
    let amount_minor = section
        .key("amount", "What was paid, in the currency of the tenant's bills. Required with paid and other_damages.")
        .optional(amount);
    let pays = matches!(event, Some(ClaimEventKind::Paid | ClaimEventKind::OtherDamages));
    if pays && !section.has("amount") {
        section.mistake("amount", "`amount` is missing", "add what was paid, e.g. `amount: \"73.37\"`");
    }
    let ticket = section.key("ticket", "A link or number, for people.").optional(of(FREE_TEXT));
    ClaimEvent {
        id,
        // Fillers: without a mistake these are there.
        period_start: period_start.unwrap_or(LocalDay(0)),
        event: event.unwrap_or(ClaimEventKind::Filed),
        at_ms,
        amount_minor,
        ticket,
        recorded_at_ms: recorded_at(section),
        tenant,
    }
}

/// Text for people: an actor, a reason, a link.
pub(super) const FREE_TEXT: Kind<fn(&str) -> values::Judged<String>> =
    Kind { words: "text, at most 8192 bytes", judge: free_text };

fn free_text(text: &str) -> values::Judged<String> {
    const MOST: usize = 64 * MAX_NAME;
    if text.len() > MOST {
        return accuse(format!("is too long: {} bytes", text.len()), format!("{MOST} bytes are the most"));
    }
    Ok(text.into())
}
