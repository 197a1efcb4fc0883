//! `notices.yaml`, `declarations.yaml`, `claims.yaml`: lists whose entries have an id; an id that comes again is a
//! later version.

use super::values::{self, MAX_NAME, accuse, instant, of, owned};
use super::{judge_range, money};
use crate::domain::calendar::LocalDay;
use crate::domain::documents::{ClaimEvent, ClaimEventKind, Declaration, Notice};
use crate::domain::money::Currency;
use crate::domain::policy::Clause;
use crate::yaml::FileErrors;
use crate::yaml::read::{self, Reader, Section, shown_text, wrong};

pub(super) const INSTANT: &str = "2026-03-17T09:00:00+08:00";

/// Reads `notices.yaml`.
pub(super) fn notices(name: &str, text: &str) -> Result<Vec<Notice>, FileErrors> {
    Reader::read_list(name, text, "a notice", notice, |_, _| ())
}

fn notice(section: &mut Section) -> Notice {
    let id = section.required("id", "n1", of(owned));
    let clause = section.needed(
        "clause",
        "\"5.12\"",
        of(|text| match values::clause(text)? {
            clause @ (Clause::MAINTENANCE | Clause::EVENT) => Ok(clause),
            other => accuse(
                format!("{other} is decided by no notice"),
                "write \"5.12\" for maintenance or \"5.11\" for an event; for any other clause write a ruling",
            ),
        }),
    );
    let announced_at_ms = section.required("announced_at", INSTANT, of(instant));
    let start = section.needed("start", INSTANT, of(instant));
    let end = section.needed("end", INSTANT, of(instant));
    judge_range(section, "start", start, "end", end);
    Notice {
        id,
        clause: clause.unwrap_or(Clause::MAINTENANCE),
        announced_at_ms,
        start_ms: start.unwrap_or_default(),
        end_ms: end.unwrap_or_default(),
        tenants: section.or("tenants", Vec::new(), read::list(of(owned))),
        actions: section.or("actions", Vec::new(), read::list(of(owned))),
        recorded_at_ms: section.required("recorded_at", INSTANT, of(instant)),
    }
}

/// Reads `declarations.yaml`.
pub(super) fn declarations(name: &str, text: &str) -> Result<Vec<Declaration>, FileErrors> {
    Reader::read_list(name, text, "a declaration", declaration, |_, _| ())
}

fn declaration(section: &mut Section) -> Declaration {
    let id = section.required("id", "d1", of(owned));
    let tenant = section.required("tenant", "acme", of(owned));
    let qps = section.required("qps", "10", read::integer(1..=1_000_000_000)) as u32;
    let told_at_ms = section.required("told_at", INSTANT, of(instant));
    let from = section.needed("from", INSTANT, of(instant));
    let to = section.needed("to", INSTANT, of(instant));
    judge_range(section, "from", from, "to", to);
    Declaration {
        id,
        tenant,
        qps,
        told_at_ms,
        from_ms: from.unwrap_or_default(),
        to_ms: to.unwrap_or_default(),
        recorded_at_ms: section.required("recorded_at", INSTANT, of(instant)),
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

fn claim(section: &mut Section, currency: Option<&dyn Fn(&str) -> Currency>) -> ClaimEvent {
    const EVENTS: [(&str, ClaimEventKind); 5] = [
        ("filed", ClaimEventKind::Filed),
        ("paid", ClaimEventKind::Paid),
        ("rejected", ClaimEventKind::Rejected),
        ("withdrawn", ClaimEventKind::Withdrawn),
        ("other_damages", ClaimEventKind::OtherDamages),
    ];
    let id = section.required("id", "c1", of(owned));
    let tenant = section.required("tenant", "acme", of(owned));
    let period_start = section.needed("period_start", "2026-03-17", of(values::day));
    let event = section.needed("event", "filed", read::choice(&EVENTS));
    let at_ms = section.required("at", INSTANT, of(instant));
    let amount_minor = section.optional("amount", |node| {
        let text = read::text(node)?;
        let Some(currency) = currency else { return Ok(0) };
        match money::minor(&text, currency(&tenant)) {
            Ok(minor) if minor < 0 => wrong(node, format!("is negative: {}", shown_text(&text)), "write what was paid"),
            Ok(minor) => Ok(minor),
            Err((message, help)) => wrong(node, message, help),
        }
    });
    let pays = matches!(event, Some(ClaimEventKind::Paid | ClaimEventKind::OtherDamages));
    if pays && !section.has("amount") {
        section.mistake("amount", "`amount` is missing", "add what was paid, e.g. `amount: \"73.37\"`");
    }
    ClaimEvent {
        id,
        tenant,
        // Fillers: without a mistake these are there.
        period_start: period_start.unwrap_or(LocalDay(0)),
        event: event.unwrap_or(ClaimEventKind::Filed),
        at_ms,
        amount_minor,
        ticket: section.optional("ticket", of(free_text)),
        recorded_at_ms: section.required("recorded_at", INSTANT, of(instant)),
    }
}

/// Text for people: an actor, a reason, a link.
pub(super) fn free_text(text: &str) -> values::Judged<String> {
    const MOST: usize = 64 * MAX_NAME;
    if text.len() > MOST {
        return accuse(format!("is too long: {} bytes", text.len()), format!("{MOST} bytes are the most"));
    }
    Ok(text.into())
}
