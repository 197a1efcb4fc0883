//! The evidence: failing calls one by one, and what became of each.

use serde::Serialize;

use super::months::Tenant;
use crate::domain::calendar::LocalDay;
use crate::domain::call::Flag;
use crate::domain::decision::Outcome;
use crate::domain::standing::ServiceMonth;
use crate::http::answer::ask::{Asked, Problem};
use crate::http::answer::{Reading, instant};
use crate::pipeline::standings::{Evaluation, Evidence};

/// What `decision` can ask for: one decision, or `all` of them. Without it: the failures.
pub const DECISIONS: [&str; 6] = ["counted", "suspect", "excluded", "no_failure", "unbound", "all"];

#[derive(Debug, Serialize)]
pub struct Call {
    pub time: Option<String>,
    pub request_id: String,
    pub action: String,
    pub code: Option<String>,
    /// The event's `system_error`.
    pub flag: Option<bool>,
    pub class: &'static str,
    pub decision: &'static str,
    pub clause: Option<String>,
    pub document: Option<String>,
    pub calls_in_second: u32,
    pub partition: u32,
    pub offset: i64,
}

impl Call {
    fn of(evidence: Evidence) -> Self {
        let item = evidence.item;
        Self {
            time: instant(item.time_ms),
            request_id: item.request_id,
            action: item.action,
            code: item.code,
            flag: match Flag::from_number(item.flag) {
                Some(Flag::True) => Some(true),
                Some(Flag::False) => Some(false),
                Some(Flag::Absent) | None => None,
            },
            class: evidence.class.as_str(),
            decision: evidence.outcome.as_str(),
            clause: match evidence.outcome {
                Outcome::Excluded(clause) => Some(clause.to_string()),
                _ => None,
            },
            document: evidence.document,
            calls_in_second: item.calls_in_second,
            partition: evidence.partition,
            offset: item.offset,
        }
    }
}

/// A call's place in the source. It never changes, so a walk misses nothing that was there when it began, and shows
/// nothing twice.
type Place = (u32, i64);

#[derive(Debug, Serialize)]
pub struct Page {
    pub tenant: String,
    pub month: String,
    pub period_start: String,
    pub ledger_as_of: Option<String>,
    pub calls: Vec<Call>,
    pub next: Option<String>,
}

/// `/tenants/{tenant}/months/{month}/failing-calls`
pub fn list(api: &Reading, asked: &Asked) -> Result<Page, Problem> {
    let query = asked.query(&["limit", "cursor", "decision", "day", "action", "code"])?;
    let limit = query.limit()?;
    let after: Option<Place> = query.cursor()?;
    let decision = query.one_of("decision", &DECISIONS)?;
    let tenant = Tenant::find(api, asked, None)?;
    let month = tenant.month(asked)?;
    let (day, action, code) = (query.day("day")?, query.get("action"), query.get("code"));
    let wanted = Wanted { decision, day, action, code, after };
    let mut found = evidence(api, asked, &tenant, &month, &wanted, limit)?;
    let next = match found.len() > limit {
        true => {
            found.truncate(limit);
            found.last().map(|last| query.next(&place(last), None)).transpose()?
        }
        false => None,
    };
    Ok(Page {
        tenant: tenant.name.to_string(),
        month: month.label(),
        period_start: month.period.first.to_string(),
        ledger_as_of: api.ledger_as_of(),
        calls: found.into_iter().map(Call::of).collect(),
        next,
    })
}

fn place(evidence: &Evidence) -> Place {
    (evidence.partition, evidence.item.offset)
}

/// What is asked for.
struct Wanted<'a> {
    decision: Option<&'static str>,
    day: Option<LocalDay>,
    action: Option<&'a str>,
    code: Option<&'a str>,
    after: Option<Place>,
}

impl Wanted<'_> {
    fn takes(&self, call: &Evidence) -> bool {
        self.decision.is_none_or(|decision| decision == "all" || decision == call.outcome.as_str())
            && self.action.is_none_or(|action| action == call.item.action)
            && self.code.is_none_or(|code| Some(code) == call.item.code.as_deref())
            && self.after.is_none_or(|after| place(call) > after)
    }
}

/// The calls behind a place, in order: one more than a page, if there are so many. No more than two pages of calls are
/// kept, and the book is free meanwhile.
fn evidence(
    api: &Reading,
    asked: &Asked,
    tenant: &Tenant,
    month: &ServiceMonth,
    wanted: &Wanted<'_>,
    limit: usize,
) -> Result<Vec<Evidence>, Problem> {
    let all = matches!(wanted.decision, Some("no_failure" | "unbound" | "all"));
    let days = wanted.day.map_or(month.period.first..=month.period.last, |day| day..=day);
    let mut found: Vec<Evidence> = Vec::new();
    let keep = |found: &mut Vec<Evidence>| {
        found.sort_unstable_by_key(place);
        found.truncate(limit + 1);
    };
    let book = &api.published()?.book;
    let waits = || asked.work.goes_on();
    let evaluation = Evaluation::new(&tenant.contract, book, &tenant.name).while_awaited(&waits);
    for call in evaluation.evidence(month, days, all).filter(|call| wanted.takes(call)) {
        found.push(call);
        if found.len() > 2 * (limit + 1) {
            keep(&mut found);
        }
    }
    asked.work.check()?;
    keep(&mut found);
    Ok(found)
}
