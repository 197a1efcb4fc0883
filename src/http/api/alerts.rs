//! The alerts, as the ledger has them: what fires now, and what has ended lately.

use std::cmp::Reverse;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::service::uncounted;
use crate::alerting;
use crate::domain::alert::{AlertKey, AlertName, AlertState, Held, Severity, Status};
use crate::domain::calendar::LocalDay;
use crate::http::answer::ask::{Asked, Problem, page};
use crate::http::answer::{Judge, Reading};
use crate::pipeline::book::Book;
use crate::pipeline::standings::Standings;
use crate::pipeline::trend::Trend;
use crate::report::alert::Subject;

/// A place in the list: the most severe first, then the latest, then by what they are about.
type Place<T> = (Reverse<Severity>, Reverse<i64>, T, Option<LocalDay>, AlertName, T);

/// The same as a cursor has it: severity, since when, tenant, first day, alert, detail.
#[derive(Debug, Serialize, Deserialize)]
pub struct Position(String, i64, String, Option<i32>, String, String);

#[derive(Debug, Serialize)]
pub struct Page {
    pub ledger_as_of: Option<String>,
    /// Alerts on all pages.
    pub matching: usize,
    pub alerts: Vec<Value>,
    pub next: Option<String>,
    /// Shards whose tenants' alerts are not judged now.
    pub unjudged: Vec<Unjudged>,
}

#[derive(Debug, Serialize)]
pub struct Unjudged {
    pub shard: u32,
    /// As the label of `sla_ledger_alerts_held`.
    pub reason: &'static str,
    /// The reason in words.
    pub why: String,
}

impl Unjudged {
    /// `None`: the shard's tenants are judged.
    fn of(api: &Reading, book: &Book, shard: u32) -> Option<Self> {
        let lag = api.view.lag(shard, api.now_ms()).map(|lag| lag.behind);
        let held = alerting::hold(book, shard, lag)?;
        let why =
            book.shard(shard).and_then(|book| uncounted(&api.view, shard, book)).unwrap_or_else(|| match (held, lag) {
                (Held::Lag, Some(lag)) => format!("its ledger is {} s behind the calls topic", lag.as_secs()),
                (Held::Lag, None) => "how far its ledger is behind the calls topic is unknown".into(),
                (Held::Gap, _) => "calls were lost, and none that came after them has been counted yet".into(),
                (Held::Stopped, _) => "it is stopped".into(),
            });
        Some(Self { shard, reason: held.as_str(), why })
    }
}

/// `/alerts`
pub fn list(api: &Reading, asked: &Asked) -> Result<Page, Problem> {
    let query = asked.query(&["limit", "cursor", "status", "severity", "alert", "tenant"])?;
    let limit = query.limit()?;
    let after: Option<Position> = query.cursor()?;
    let wrong = || Problem::bad("`cursor` must be taken from `next` of the page before".into());
    let after = after.as_ref().map(|after| place_of(after).ok_or_else(wrong)).transpose()?;
    let statuses: Vec<_> = Status::ALL.iter().map(|status| status.as_str()).collect();
    let severities: Vec<_> = Severity::ALL.iter().rev().map(|severity| severity.as_str()).collect();
    let names: Vec<_> = AlertName::ALL.iter().map(|name| name.as_str()).collect();
    let status = query.one_of("status", &statuses)?.unwrap_or(Status::Firing.as_str());
    let severity = query.one_of("severity", &severities)?;
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
    let (page, more) = page(&found, limit, |found| after.as_ref().is_some_and(|after| place(found) <= *after));
    let last = page.last().filter(|_| more);
    let next = last.map(|last| query.next(&position(last), None)).transpose()?;
    let mut judge = api.judge(value.standings.contract())?;
    let rows = page.iter().map(|(key, state)| {
        let subject = subject(&mut judge, &value.standings, key);
        api.issuer.alert(key, state, subject.as_ref())
    });
    let alerts = rows.collect();
    let unjudged = (0..api.view.shards()).filter_map(|shard| Unjudged::of(api, &value.book, shard)).collect();
    Ok(Page { ledger_as_of: api.ledger_as_of(), matching, alerts, next, unjudged })
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
    let (severity, alert) = (Severity::from_name(severity)?, AlertName::from_name(alert)?);
    Some((Reverse(severity), Reverse(*starts_at_ms), tenant, first.map(LocalDay), alert, detail))
}

/// The service month of an alert as it is now; `None` for the fleet, and for a month that the ledger does not have.
fn subject<'a>(judge: &mut Judge<'_>, standings: &'a Standings, key: &AlertKey) -> Option<Subject<'a>> {
    let standing = standings.tenant(&key.tenant)?;
    let month = standing.months.iter().find(|month| Some(month.period.first) == key.period_start)?;
    let trend = Trend::as_seen(standing, month, judge.now_ms);
    Some(Subject {
        reached_at_ms: trend.reached_at_ms(&month.policy, &key.detail),
        standing: judge.standing(&key.tenant, month),
        policy: &month.policy,
    })
}
