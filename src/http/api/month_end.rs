//! A calendar month's end as a list: which service months have ended, which are complete, which statements can be issued.

use serde::{Deserialize, Serialize};

use super::tenants;
use crate::domain::calendar::{Month, day_start_ms};
use crate::domain::standing::ServiceMonth;
use crate::http::answer::Reading;
use crate::http::answer::ask::{Asked, Problem};
use crate::report::standing::Standing;

#[derive(Debug, Serialize)]
pub struct MonthEnd {
    pub month: String,
    pub ledger_as_of: Option<String>,
    /// Service months that begin in the calendar month.
    pub service_months: usize,
    /// Of them, those that are over.
    pub ended: usize,
    /// Of these, those whose calls are all counted.
    pub complete: usize,
    /// Of these, those for which something is owed.
    pub owed: usize,
    /// One for each, by tenant.
    pub months: Vec<Row>,
    pub next: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct Row {
    pub tenant: String,
    pub month: String,
    pub period_start: String,
    pub last_day: String,
    pub claim_state: &'static str,
    pub complete: bool,
    pub incomplete_reasons: Vec<String>,
    pub tier: String,
    pub currency: Option<String>,
    pub owed_minor: Option<i64>,
    /// It is over and complete: its statement can be archived.
    pub can_be_issued: bool,
}

impl Row {
    fn of(standing: Standing, ended: bool) -> Self {
        Self {
            can_be_issued: ended && standing.complete,
            tenant: standing.tenant,
            month: standing.month,
            period_start: standing.period_start,
            last_day: standing.last_day,
            claim_state: standing.state,
            complete: standing.complete,
            incomplete_reasons: standing.incomplete_reasons,
            tier: standing.tier,
            currency: standing.fee.map(|fee| fee.currency),
            owed_minor: standing.compensation.map(|compensation| compensation.payout_minor),
        }
    }
}

/// A place in the list: tenant, first day of the service month.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
struct Position<T>(T, i32);

/// `/month-end`
pub fn list(api: &Reading, asked: &Asked) -> Result<MonthEnd, Problem> {
    let query = asked.query(&["month", "limit", "cursor"])?;
    let limit = query.limit()?;
    let after: Option<Position<String>> = query.cursor()?;
    let month = query.month("month")?.unwrap_or_else(|| Month(api.today().month().0 - 1));
    let value = api.published()?;
    let mut judge = api.judge(value.standings.contract())?;
    let now_ms = judge.now_ms;
    let ended = |month: &ServiceMonth| now_ms >= day_start_ms(month.policy.time_zone, month.period.next_day());
    let (mut service_months, mut sums) = (0, [0_usize; 3]);
    // One more than a page.
    let mut rows: Vec<(Position<String>, ServiceMonth)> = Vec::new();
    tenants::each_of(api, month, |tenant, month| {
        let is_over = ended(month);
        let complete = is_over && judge.is_complete(month);
        let owed = complete && month.money.is_some_and(|money| money.payout.payout_minor > 0);
        service_months += 1;
        sums.iter_mut().zip([is_over, complete, owed]).for_each(|(sum, is)| *sum += usize::from(is));
        let place = Position(tenant, month.period.first.0);
        let passed = after.as_ref().is_some_and(|Position(tenant, first)| place <= Position(tenant.as_str(), *first));
        if !passed && rows.len() <= limit {
            rows.push((Position(tenant.to_owned(), place.1), month.clone()));
        }
    })?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let pinned = month.to_string();
    let last = rows.last().filter(|_| more);
    let next = last.map(|(place, _)| query.next(place, Some(("month", &pinned)))).transpose()?;
    let row = |(Position(tenant, _), month): &(Position<String>, ServiceMonth)| {
        Row::of(judge.standing(tenant, month), ended(month))
    };
    let months = rows.iter().map(row).collect();
    let [ended, complete, owed] = sums;
    let ledger_as_of = api.ledger_as_of();
    Ok(MonthEnd { month: pinned, ledger_as_of, service_months, ended, complete, owed, months, next })
}
