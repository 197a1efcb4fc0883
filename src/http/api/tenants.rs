//! All tenants, riskiest first, page by page.

use std::cmp::Ordering;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::domain::availability::Level;
use crate::domain::calendar::Month;
use crate::domain::contract::Contract;
use crate::domain::standing::{Figures, ServiceMonth, Uncounted, Unreached};
use crate::domain::term::{Period, Terms};
use crate::http::answer::ask::{Asked, Problem};
use crate::http::answer::{Reading, horizon};
use crate::pipeline::standings::Standings;
use crate::report::standing::Standing;
use crate::view::Published;

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
}

impl Row {
    pub fn of(standing: Standing) -> Self {
        let next = standing.next.as_ref();
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
        }
    }
}

/// A share of the error budget, exactly. Nothing of nothing (no traffic) is below all others, something of nothing (a
/// failure where none is allowed) above.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Consumed(u128, u128);

impl Consumed {
    fn of(month: &ServiceMonth) -> Self {
        let (numerator, denominator) = month.availability().consumed(month.policy.target());
        Self(numerator, denominator)
    }

    const NO_TRAFFIC: Self = Self(0, 0);

    fn compare(self, other: Self) -> Ordering {
        let kind = |share| match share {
            Self(0, 0) => 0,
            Self(_, 0) => 2,
            _ => 1,
        };
        match (kind(self), kind(other)) {
            (1, 1) => match self.crosswise(other) {
                Some((a, b)) => a.cmp(&b),
                None => compare_fractions((self.0, self.1), (other.0, other.1)),
            },
            (a, b) => a.cmp(&b),
        }
    }

    /// Both numerators over the common denominator, where 128 bits hold them: up to 10^14 calls.
    fn crosswise(self, other: Self) -> Option<(u128, u128)> {
        Some((self.0.checked_mul(other.1)?, other.0.checked_mul(self.1)?))
    }
}

/// Compares fractions of any size digit by digit of their continued fractions; the denominators are not 0.
fn compare_fractions((mut a, mut b): (u128, u128), (mut c, mut d): (u128, u128)) -> Ordering {
    loop {
        let whole = (a / b).cmp(&(c / d));
        let (left, right) = (a % b, c % d);
        match (whole, left == 0, right == 0) {
            (Ordering::Equal, false, false) => {}
            (Ordering::Equal, left, right) => return right.cmp(&left),
            (unequal, ..) => return unequal,
        }
        // left / b < right / d where d / right < b / left.
        (a, b, c, d) = (d, right, b, left);
    }
}

/// A place in the list: share of the budget consumed (most first), tenant, first day of the service month.
///
/// A page begins behind such a place, whatever is there now. So a walk always moves on and ends, and a row whose share
/// does not change in the meantime comes exactly once. One whose share does change may come twice, or be passed over in
/// this walk; what was passed over has become riskier and stands near the front of the next one.
#[derive(Debug, Serialize, Deserialize)]
struct Position<N>(Consumed, N, i32);

impl<N: AsRef<str>> Position<N> {
    fn compare<M: AsRef<str>>(&self, other: &Position<M>) -> Ordering {
        let (a, b) = (self.1.as_ref(), other.1.as_ref());
        other.0.compare(self.0).then_with(|| (a, self.2).cmp(&(b, other.2)))
    }
}

/// A row before it is written.
struct Found<M> {
    position: Position<Arc<str>>,
    period: Period,
    /// `None`: without calls.
    month: Option<M>,
}

/// What is looked for.
struct Filter<'a> {
    month: Month,
    level: Option<&'static str>,
    tier: Option<&'a str>,
    /// In lower case.
    text: String,
}

impl Filter<'_> {
    fn names(&self, tenant: &str) -> bool {
        self.text.is_empty() || tenant.to_lowercase().contains(&self.text)
    }

    fn wants(&self, level: Level, tier: &str) -> bool {
        self.level.is_none_or(|wanted| wanted == level.as_str()) && self.tier.is_none_or(|wanted| wanted == tier)
    }

    fn wants_month(&self, month: &ServiceMonth) -> bool {
        let tier = match month.tier() {
            _ if month.availability().total == 0 => "no_traffic",
            Some(tier) => &tier.name,
            None => "none",
        };
        month.period.month() == self.month && self.wants(month.level(), tier)
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

/// `/tenants`
pub fn list(api: &Reading, asked: &Asked) -> Result<Page, Problem> {
    let query = asked.query(&["limit", "cursor", "state", "tier", "q", "month"])?;
    let limit = query.limit()?;
    let after: Option<Position<String>> = query.cursor()?;
    let filter = Filter {
        month: query.month("month")?.unwrap_or_else(|| api.today().month()),
        level: query.one_of("state", &Level::ALL.map(Level::as_str))?,
        tier: query.get("tier"),
        text: query.get("q").unwrap_or_default().to_lowercase(),
    };
    let value = api.published()?;
    let contract = value.standings.contract();
    let quiet = quiet(value, &filter);
    let (matching, mut page) = select(&value.standings, &filter, quiet, after.as_ref(), limit + 1);
    let mut next = None;
    if page.len() > limit {
        page.truncate(limit);
        // The walk stays in its month when another one begins.
        let pinned = filter.month.to_string();
        if let Some(Position(consumed, tenant, first)) = page.last().map(|found| &found.position) {
            next = Some(query.next(&Position(*consumed, &**tenant, *first), Some(("month", &pinned)))?);
        }
    }
    let mut judge = api.judge(contract)?;
    let rows = page.into_iter().map(|Found { position: Position(_, tenant, _), period, month }| {
        let month = month.unwrap_or_else(|| quiet_month(contract, &tenant, period));
        Row::of(judge.standing(&tenant, &month))
    });
    let tenants = rows.collect();
    Ok(Page { month: filter.month.to_string(), ledger_as_of: api.ledger_as_of(), matching, tenants, next })
}

/// All rows, in no order.
fn rows<'a>(
    standings: &'a Standings,
    filter: &Filter<'_>,
    quiet: Vec<(Arc<str>, Period)>,
) -> Vec<Found<&'a ServiceMonth>> {
    let place = |consumed, tenant: &Arc<str>, period: Period| Position(consumed, tenant.clone(), period.first.0);
    let mut rows = Vec::new();
    for (tenant, months) in standings.iter() {
        for month in months.iter().filter(|month| filter.wants_month(month) && filter.names(tenant)) {
            let position = place(Consumed::of(month), tenant, month.period);
            rows.push(Found { position, period: month.period, month: Some(month) });
        }
    }
    for (tenant, period) in quiet {
        if !standings.months(&tenant).iter().any(|counted| counted.period.first == period.first) {
            rows.push(Found { position: place(Consumed::NO_TRAFFIC, &tenant, period), period, month: None });
        }
    }
    rows
}

/// How many rows there are, and the first so many behind a position, in order.
fn select(
    standings: &Standings,
    filter: &Filter<'_>,
    quiet: Vec<(Arc<str>, Period)>,
    after: Option<&Position<String>>,
    most: usize,
) -> (usize, Vec<Found<ServiceMonth>>) {
    let mut rows = rows(standings, filter, quiet);
    let matching = rows.len();
    rows.retain(|found| after.is_none_or(|after| found.position.compare(after).is_gt()));
    if rows.len() > most {
        rows.select_nth_unstable_by(most, |a, b| a.position.compare(&b.position));
        rows.truncate(most);
    }
    rows.sort_unstable_by(|a, b| a.position.compare(&b.position));
    let owned = |found: Found<&ServiceMonth>| Found {
        position: found.position,
        period: found.period,
        month: found.month.cloned(),
    };
    (matching, rows.into_iter().map(owned).collect())
}

/// A month of all tenants, for [`super::fleet`]: each service month of the list; `None`: without calls.
pub fn all(value: &Published, month: Month) -> Vec<Option<&ServiceMonth>> {
    let filter = Filter { month, level: None, tier: None, text: String::new() };
    rows(&value.standings, &filter, quiet(value, &filter)).into_iter().map(|found| found.month).collect()
}

/// Registered service months without calls; none where the ledger does not know any more which had some.
fn quiet(value: &Published, filter: &Filter<'_>) -> Vec<(Arc<str>, Period)> {
    let known = filter.month >= horizon(&value.book);
    if known { without_calls(value.standings.contract(), filter) } else { Vec::new() }
}

/// The registered service months that begin in this month, with calls or without.
fn without_calls(contract: &Contract, filter: &Filter<'_>) -> Vec<(Arc<str>, Period)> {
    if !filter.wants(Level::NoTraffic, "no_traffic") {
        return Vec::new();
    }
    let (from, to) = (filter.month.first_day(), filter.month.last_day());
    let named = contract.registry.tenants().iter().filter(|tenant| filter.names(tenant));
    let periods = |tenant: &Arc<str>| contract.terms(tenant).periods(from, to).collect::<Vec<_>>();
    named.flat_map(|tenant| periods(tenant).into_iter().map(|period| (tenant.clone(), period))).collect()
}

/// A registered service month without calls. Nothing is owed for it.
fn quiet_month(contract: &Contract, tenant: &str, period: Period) -> ServiceMonth {
    let terms = contract.terms(tenant);
    let mut month = [without_traffic(contract, &terms, period)];
    contract.price(tenant, &terms, &mut month);
    let [month] = month;
    month
}

/// The same, without its fee.
pub fn without_traffic(contract: &Contract, terms: &Terms, period: Period) -> ServiceMonth {
    ServiceMonth {
        period,
        by_day: terms.label(period).len() > "YYYY-MM".len(),
        registered: true,
        policy: contract.policy(terms, period.first).clone(),
        figures: Figures::default(),
        top_failing: Box::default(),
        split: false,
        money: None,
        uncounted: Uncounted::default(),
        unreached: Unreached::default(),
        out_of_term: 0,
        shards: smallvec::SmallVec::new(),
    }
}
