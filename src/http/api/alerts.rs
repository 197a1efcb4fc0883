//! The alerts, as the ledger has them: what fires now, and what has ended lately.

use std::cmp::Reverse;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ask::{Asked, Problem};
use super::{Answer, Judge, Reading, json};
use crate::domain::alert::{AlertKey, AlertName, AlertState, Severity, Status};
use crate::domain::calendar::LocalDay;
use crate::pipeline::standings::Standings;
use crate::pipeline::trend::Trend;
use crate::report::alert::Subject;

const STATUSES: [Status; 2] = [Status::Firing, Status::Resolved];
const SEVERITIES: [Severity; 3] = [Severity::Critical, Severity::Warning, Severity::Info];

/// A place in the list: the most severe first, then the latest, then by what they are about.
type Place<T> = (Reverse<Severity>, Reverse<i64>, T, Option<LocalDay>, AlertName, T);

/// The same as a cursor has it: severity, since when, tenant, first day, alert, detail.
#[derive(Debug, Serialize, Deserialize)]
struct Position(String, i64, String, Option<i32>, String, String);

#[derive(Debug, Serialize)]
struct Page {
    ledger_as_of: Option<String>,
    /// Alerts on all pages.
    matching: usize,
    alerts: Vec<Value>,
    next: Option<String>,
}

/// `/alerts`
pub(super) fn list(api: &Reading, asked: &Asked) -> Answer {
    let query = asked.query(&["limit", "cursor", "status", "severity", "alert", "tenant"])?;
    let limit = query.limit()?;
    let after: Option<Position> = query.cursor()?;
    let wrong = || Problem::bad("`cursor` must be taken from `next` of the page before".into());
    let after = after.as_ref().map(|after| place_of(after).ok_or_else(wrong)).transpose()?;
    let status = query.one_of("status", &STATUSES.map(Status::as_str))?.unwrap_or(Status::Firing.as_str());
    let severity = query.one_of("severity", &SEVERITIES.map(Severity::as_str))?;
    let names: Vec<_> = AlertName::ALL.iter().map(|name| name.as_str()).collect();
    let alert = query.one_of("alert", &names)?;
    let tenant = query.get("tenant");
    let value = api.published()?;
    let mut found: Vec<(&AlertKey, &AlertState)> = value
        .book
        .alerts()
        .filter(|(key, state)| {
            state.status.as_str() == status
                && severity.is_none_or(|wanted| state.severity.as_str() == wanted)
                && alert.is_none_or(|wanted| key.alert.as_str() == wanted)
                && tenant.is_none_or(|wanted| &*key.tenant == wanted)
        })
        .collect();
    let matching = found.len();
    found.sort_unstable_by(|a, b| place(a).cmp(&place(b)));
    let first = found.partition_point(|found| after.as_ref().is_some_and(|after| place(found) <= *after));
    let rest = &found[first..];
    let page = &rest[..rest.len().min(limit)];
    let next = match page.last() {
        Some(last) if rest.len() > limit => Some(query.next(&position(last), None)?),
        _ => None,
    };
    let mut judge = api.judge(value.standings.contract())?;
    let rows = page.iter().map(|(key, state)| {
        let subject = subject(&mut judge, &value.standings, key);
        api.issuer.alert(key, state, subject.as_ref())
    });
    let alerts = rows.collect();
    json(&Page { ledger_as_of: api.ledger_as_of(), matching, alerts, next })
}

fn place<'a>((key, state): &(&'a AlertKey, &AlertState)) -> Place<&'a str> {
    let AlertKey { tenant, period_start, alert, detail } = key;
    (Reverse(state.severity), Reverse(state.starts_at_ms), tenant, *period_start, *alert, detail)
}

fn position((key, state): &(&AlertKey, &AlertState)) -> Position {
    Position(
        state.severity.as_str().into(),
        state.starts_at_ms,
        (*key.tenant).into(),
        key.period_start.map(|day| day.0),
        key.alert.as_str().into(),
        (*key.detail).into(),
    )
}

/// `None`: there is no such severity or alert.
fn place_of(position: &Position) -> Option<Place<&str>> {
    let Position(severity, starts_at_ms, tenant, first, alert, detail) = position;
    let severity = SEVERITIES.into_iter().find(|known| known.as_str() == severity)?;
    let alert = AlertName::ALL.iter().find(|known| known.as_str() == alert)?;
    Some((Reverse(severity), Reverse(*starts_at_ms), tenant, first.map(LocalDay), *alert, detail))
}

/// The service month of an alert as it is now; `None` for the fleet, and for a month that the ledger does not have.
fn subject<'a>(judge: &mut Judge<'_>, standings: &'a Standings, key: &AlertKey) -> Option<Subject<'a>> {
    let standing = standings.tenant(&key.tenant)?;
    let month = standing.months.iter().find(|month| Some(month.period.first) == key.period_start)?;
    let trend = Trend::of(standing, month, standing.windows(judge.now_ms), judge.now_ms);
    Some(Subject {
        reached_at_ms: trend.reached_at_ms(&month.policy, &key.detail),
        standing: judge.standing(&key.tenant, month),
        policy: &month.policy,
    })
}
