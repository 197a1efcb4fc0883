//! A calendar month's end as a list: which service months have ended, which are complete, which statements can be issued.

use serde::{Deserialize, Serialize};

use super::board::Line;
use crate::domain::calendar::Month;
use crate::http::answer::Reading;
use crate::http::answer::ask::{Asked, Problem, page};
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

/// How many of a calendar month's service months have come how far.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ended {
    pub ended: usize,
    pub complete: usize,
    pub owed: usize,
}

impl Ended {
    /// One more. `owed`: is something owed for it?
    pub fn add(&mut self, ended: bool, complete: bool, owed: bool) {
        self.ended += usize::from(ended);
        self.complete += usize::from(complete);
        self.owed += usize::from(complete && owed);
    }
}

/// A place in the list: tenant, first day of the service month.
#[derive(Debug, Serialize, Deserialize)]
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
    let board = api.board_of(month)?;
    let passed = |line: &Line| {
        let after = after.as_ref();
        after.is_some_and(|Position(tenant, first)| (&*line.tenant, line.period.first.0) <= (tenant.as_str(), *first))
    };
    let (lines, more) = page(&board.lines, limit, passed);
    let pinned = month.to_string();
    let last = lines.last().filter(|_| more);
    let next = last
        .map(|line| query.next(&Position(&*line.tenant, line.period.first.0), Some(("month", &pinned))))
        .transpose()?;
    let row = |line: &Line| {
        let month = line.service_month(value);
        Row::of(judge.standing(&line.tenant, &month), month.is_over(now_ms))
    };
    let months = lines.iter().map(row).collect();
    let Ended { ended, complete, owed } = board.ended;
    let (service_months, ledger_as_of) = (board.lines.len(), api.ledger_as_of());
    Ok(MonthEnd { month: pinned, ledger_as_of, service_months, ended, complete, owed, months, next })
}
