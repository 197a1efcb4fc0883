//! All tenants, riskiest first or by another column, page by page.

mod sort;

use serde::Serialize;

use super::board::{Board, Line};
use super::days::tier;
use crate::domain::availability::Level;
use crate::domain::calendar::LocalClock;
use crate::domain::standing::ServiceMonth;
use crate::http::answer::ask::{Asked, Problem, Query};
use crate::http::answer::{Judge, Reading};
use crate::pipeline::standings::Evaluation;
use crate::pipeline::trend::Trend;
use crate::report::standing::Standing;
use crate::view::Published;
use sort::{Position, Sort, SortKey};

/// Days of a row's failures by day.
const DAYS: usize = 30;

/// A service month in short.
#[derive(Debug, Serialize)]
pub struct Row {
    pub tenant: String,
    pub month: String,
    pub period_start: String,
    pub last_day: String,
    pub registration: &'static str,
    pub complete: bool,
    /// Of the error budget.
    pub level: &'static str,
    pub consumed_pct: Option<String>,
    pub tier: String,
    pub availability_pct: Option<String>,
    pub failed: u64,
    pub total: u64,
    pub next_tier: Option<String>,
    /// Failures left before the next tier.
    pub failures_left: Option<i64>,
    pub currency: Option<String>,
    pub owed_minor: Option<i64>,
    pub next_payout_minor: Option<i64>,
    pub claim_state: &'static str,
    /// Failures left before any tier.
    pub failures_left_to_target: i64,
    /// How many times faster than the rest of the month bears the last hour used up the budget; null: unknown.
    pub burn_rate: Option<String>,
    /// If the last hour goes on; null: the month is over, or there is too little data.
    pub forecast: Option<AtEnd>,
    /// Failures that count of the last 30 days up to today, or up to the month's end, oldest first; only if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failures_by_day: Option<Vec<u64>>,
}

/// A month at its end.
#[derive(Debug, Serialize)]
pub struct AtEnd {
    pub tier: String,
    /// Null: no bill is known.
    pub owed_minor: Option<i64>,
}

impl Row {
    pub fn of(standing: Standing, month: &ServiceMonth, trend: Option<&Trend>) -> Self {
        let next = standing.next.as_ref();
        let outlook = trend.and_then(|trend| trend.outlook.as_ref());
        Self {
            level: standing.budget.level,
            failures_left: next.map(|next| next.failures_left),
            next_payout_minor: next.and_then(|next| next.payout_minor),
            next_tier: standing.next.map(|next| next.tier),
            tenant: standing.tenant,
            month: standing.month,
            period_start: standing.period_start,
            last_day: standing.last_day,
            registration: standing.registration,
            complete: standing.complete,
            consumed_pct: standing.budget.consumed_pct,
            tier: standing.tier,
            availability_pct: standing.availability_pct,
            failed: standing.failed,
            total: standing.total,
            currency: standing.fee.map(|fee| fee.currency),
            owed_minor: standing.compensation.map(|compensation| compensation.payout_minor),
            claim_state: standing.state,
            failures_left_to_target: month.availability().failures_left(month.policy.target()),
            burn_rate: trend.and_then(Trend::burn_rate_of_last_hour).map(|rate| format!("{rate:.2}")),
            forecast: outlook.map(|outlook| AtEnd {
                tier: tier(month, outlook.at_end),
                owed_minor: month.payout_at(outlook.at_end),
            }),
            failures_by_day: None,
        }
    }
}

/// What is looked for.
struct Filter<'a> {
    level: Option<&'static str>,
    tier: Option<&'a str>,
    /// In lower case.
    text: String,
}

impl<'a> Filter<'a> {
    fn asked(query: Query<'a>) -> Result<Self, Problem> {
        Ok(Self {
            level: query.one_of("state", &Level::ALL.map(Level::as_str))?,
            tier: query.get("tier"),
            text: query.get("q").unwrap_or_default().to_lowercase(),
        })
    }

    fn wants(&self, line: &Line, tiers: &[String]) -> bool {
        let tier = || match line.tier {
            _ if line.availability.total == 0 => "no_traffic",
            Some(tier) => &tiers[tier],
            None => "none",
        };
        self.level.is_none_or(|wanted| wanted == line.level.as_str())
            && self.tier.is_none_or(|wanted| wanted == tier())
            && self.names(&line.tenant)
    }

    fn names(&self, tenant: &str) -> bool {
        let text = self.text.as_bytes();
        match () {
            () if text.is_empty() => true,
            () if tenant.is_ascii() => {
                tenant.as_bytes().windows(text.len()).any(|part| part.eq_ignore_ascii_case(text))
            }
            () => tenant.to_lowercase().contains(&self.text),
        }
    }
}

#[derive(Debug, Serialize)]
pub struct Page {
    pub month: String,
    pub ledger_as_of: Option<String>,
    /// Rows on all pages.
    pub matching: usize,
    pub tenants: Vec<Row>,
    pub next: Option<String>,
}

/// The parameters of [`list`].
pub const LIST: [&str; 9] = ["limit", "cursor", "state", "tier", "q", "month", "sort", "order", "days"];

/// `/tenants`
pub fn list(api: &Reading, asked: &Asked) -> Result<Page, Problem> {
    let query = asked.query(&LIST)?;
    of(api, query, &*api.board(query)?)
}

/// The list of a board's month. `query` has the parameters of [`list`].
pub fn of(api: &Reading, query: Query<'_>, board: &Board) -> Result<Page, Problem> {
    let limit = query.limit()?;
    let with_days = query.one_of("days", &["true", "false"])? == Some("true");
    let after: Option<Position<String>> = query.cursor()?;
    let sort = Sort::asked(query)?;
    let (matching, mut lines) = select(board, &Filter::asked(query)?, sort, after.as_ref(), limit + 1);
    let month = board.month.to_string();
    let mut next = None;
    if lines.len() > limit {
        lines.truncate(limit);
        // The walk stays in its month when another one begins.
        if let Some(line) = lines.last() {
            let place = Position(sort.key(line), &*line.tenant, line.period.first.0);
            next = Some(query.next(&place, Some(("month", &month)))?);
        }
    }
    let mut rows = Rows::of(api)?;
    let tenants = lines.into_iter().map(|line| rows.row(line, with_days)).collect();
    Ok(Page { month, ledger_as_of: api.ledger_as_of(), matching, tenants, next })
}

/// All rows that a query of [`list`] asks for, in its order; the limit does not apply.
pub fn all_rows(api: &Reading, asked: &Asked, mut each: impl FnMut(Row)) -> Result<(), Problem> {
    let query = asked.query(&["state", "tier", "q", "month", "sort", "order"])?;
    let board = api.board(query)?;
    let mut rows = Rows::of(api)?;
    for line in select(&board, &Filter::asked(query)?, Sort::asked(query)?, None, usize::MAX).1 {
        asked.work.check()?;
        each(rows.row(line, false));
    }
    Ok(())
}

/// How many lines are wanted, and the first so many of them behind a position, in order.
fn select<'a>(
    board: &'a Board,
    filter: &Filter<'_>,
    sort: Sort,
    after: Option<&Position<String>>,
    most: usize,
) -> (usize, Vec<&'a Line>) {
    let wanted = board.lines.iter().filter(|line| filter.wants(line, &board.tiers));
    let mut found: Vec<(SortKey, usize, &Line)> =
        wanted.enumerate().map(|(place, line)| (sort.key(line), place, line)).collect();
    let matching = found.len();
    found.retain(|(key, _, line)| after.is_none_or(|after| after.is_before(*key, line, sort)));
    // Lines are sorted by name, so their places compare as their names do.
    let compare = |(a, x, _): &(SortKey, usize, &Line), (b, y, _): &(SortKey, usize, &Line)| {
        a.compare(*b, sort.descending).then_with(|| sort.turned(x.cmp(y)))
    };
    if found.len() > most {
        found.select_nth_unstable_by(most, compare);
        found.truncate(most);
    }
    found.sort_unstable_by(compare);
    (matching, found.into_iter().map(|(.., line)| line).collect())
}

/// Writes lines as rows.
struct Rows<'a> {
    value: &'a Published,
    judge: Judge<'a>,
}

impl<'a> Rows<'a> {
    fn of(api: &'a Reading) -> Result<Self, Problem> {
        let value = api.published()?;
        Ok(Self { value, judge: api.judge(value.standings.contract())? })
    }

    fn row(&mut self, line: &Line, with_days: bool) -> Row {
        let (month, now_ms) = (line.service_month(self.value), self.judge.now_ms);
        let standing = self.value.standings.tenant(&line.tenant);
        let trend = standing.map(|standing| Trend::as_seen(standing, &month, now_ms));
        let mut row = Row::of(self.judge.standing(&line.tenant, &month), &month, trend.as_ref());
        if with_days {
            // The last days up to today, or up to the end of a month that is over.
            let to = LocalClock::new(month.policy.time_zone).day(now_ms).min(month.period.last);
            let evaluation = Evaluation::new(self.value.standings.contract(), &self.value.book, &line.tenant);
            row.failures_by_day = Some(evaluation.failures_by_day(DAYS, to, standing));
        }
        row
    }
}
