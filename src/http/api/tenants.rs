//! All tenants, riskiest first or by another column, page by page.

use std::cmp::Ordering;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::days::tier;
use crate::domain::availability::Level;
use crate::domain::calendar::{LocalClock, Month};
use crate::domain::contract::Contract;
use crate::domain::standing::{Figures, ServiceMonth, Uncounted, Unreached};
use crate::domain::term::{Period, Terms};
use crate::domain::workdays::ClaimState;
use crate::http::answer::ask::{Asked, Problem, Query};
use crate::http::answer::{Judge, Reading, horizon};
use crate::pipeline::standings::Evaluation;
use crate::pipeline::trend::Trend;
use crate::report::standing::Standing;
use crate::view::Published;

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

/// A share of the error budget, exactly. Nothing of nothing (no traffic) is below all others, something of nothing (a
/// failure where none is allowed) above.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Consumed(u128, u128);

impl Consumed {
    fn of(month: &ServiceMonth) -> Self {
        let (numerator, denominator) = month.availability().consumed(month.policy.target());
        Self(numerator, denominator)
    }

    /// Nothing of nothing.
    fn is_nothing(self) -> bool {
        self.1 == 0 && self.0 == 0
    }

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

/// What the list is sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sort {
    by: SortBy,
    descending: bool,
}

/// The columns to sort by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SortBy {
    BudgetUsed,
    Tenant,
    Calls,
    Failures,
    Availability,
    FailuresLeft,
    Owed,
    NextPayout,
    BurnRate,
    ClaimState,
    Forecast,
}

impl SortBy {
    /// Their names in a query, and whether the greatest come first unless the query says otherwise.
    const ALL: [(&'static str, Self, bool); 11] = [
        ("budget_used", Self::BudgetUsed, true),
        ("tenant", Self::Tenant, false),
        ("calls", Self::Calls, true),
        ("failures", Self::Failures, true),
        ("availability", Self::Availability, false),
        ("failures_left", Self::FailuresLeft, false),
        ("owed", Self::Owed, true),
        ("next_payout", Self::NextPayout, true),
        ("burn_rate", Self::BurnRate, true),
        ("claim_state", Self::ClaimState, false),
        ("forecast", Self::Forecast, true),
    ];
}

impl Sort {
    fn asked(query: Query<'_>) -> Result<Self, Problem> {
        let name = query.one_of("sort", &SortBy::ALL.map(|(name, ..)| name))?.unwrap_or(SortBy::ALL[0].0);
        let (_, by, first) = *SortBy::ALL.iter().find(|(known, ..)| *known == name).unwrap_or(&SortBy::ALL[0]);
        let descending = query.one_of("order", &["asc", "desc"])?.map_or(first, |order| order == "desc");
        Ok(Self { by, descending })
    }

    /// Does the key take a forecast of the month?
    fn needs_trend(self) -> bool {
        matches!(self.by, SortBy::BurnRate | SortBy::Forecast)
    }

    /// The value of this column.
    fn key(self, month: &ServiceMonth, trend: Option<&Trend>, claim: impl FnOnce() -> ClaimState) -> SortKey {
        let availability = month.availability();
        let number = |number: Option<i64>| number.map_or(SortKey::Nothing, SortKey::Number);
        let calls = |calls: u64| SortKey::Number(i64::try_from(calls).unwrap_or(i64::MAX));
        match self.by {
            SortBy::BudgetUsed => SortKey::Share(Consumed::of(month)),
            SortBy::Tenant => SortKey::Nothing,
            SortBy::Calls => calls(month.figures.total()),
            SortBy::Failures => calls(month.figures.failed()),
            SortBy::Availability => SortKey::Share(Consumed(availability.good().into(), availability.total.into())),
            SortBy::FailuresLeft => {
                number((availability.total > 0).then(|| availability.failures_left(month.policy.target())))
            }
            SortBy::Owed => number(month.money.map(|money| money.payout.payout_minor)),
            SortBy::NextPayout => number(month.money.and_then(|money| money.next_payout).map(|next| next.payout_minor)),
            // Millionths are finer than what is shown.
            SortBy::BurnRate => number(trend.and_then(Trend::burn_rate_of_last_hour).map(|rate| (rate * 1e6) as i64)),
            SortBy::ClaimState => {
                let state = claim();
                number(ClaimState::ALL.iter().position(|known| *known == state).map(|place| place as i64))
            }
            SortBy::Forecast => number(
                trend.and_then(|trend| trend.outlook.as_ref()).and_then(|outlook| month.payout_at(outlook.at_end)),
            ),
        }
    }
}

/// The value that a row is sorted by.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum SortKey {
    /// It has none, and comes last in either order.
    Nothing,
    Number(i64),
    Share(Consumed),
}

impl SortKey {
    fn compare(self, other: Self, descending: bool) -> Ordering {
        let ordered = |ordering: Ordering| if descending { ordering.reverse() } else { ordering };
        match (self, other) {
            (Self::Number(a), Self::Number(b)) => ordered(a.cmp(&b)),
            (Self::Share(a), Self::Share(b)) => a.is_nothing().cmp(&b.is_nothing()).then_with(|| ordered(a.compare(b))),
            (a, b) => a.kind().cmp(&b.kind()),
        }
    }

    fn kind(self) -> u8 {
        match self {
            Self::Number(_) => 0,
            Self::Share(_) => 1,
            Self::Nothing => 2,
        }
    }
}

/// A place in the list: the value it is sorted by, tenant, first day of the service month.
///
/// A page begins behind such a place, whatever is there now. So a walk always moves on and ends, and a row whose value
/// does not change in the meantime comes exactly once. One whose value does change may come twice, or be passed over in
/// this walk; of the list by risk, what was passed over has become riskier and stands near the front of the next one.
#[derive(Debug, Serialize, Deserialize)]
struct Position<N>(SortKey, N, i32);

impl<N: AsRef<str>> Position<N> {
    fn compare<M: AsRef<str>>(&self, other: &Position<M>, sort: Sort) -> Ordering {
        let (a, b) = (self.1.as_ref(), other.1.as_ref());
        let names = if sort.by == SortBy::Tenant && sort.descending { b.cmp(a) } else { a.cmp(b) };
        self.0.compare(other.0, sort.descending).then(names).then_with(|| self.2.cmp(&other.2))
    }
}

/// A row before it is written.
struct Found<'a> {
    position: Position<Arc<str>>,
    period: Period,
    /// `None`: without calls.
    month: Option<&'a ServiceMonth>,
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
        if month.period.month() != self.month {
            return false;
        }
        // With many tenants, level and tier are not worked out for nothing.
        let tier = || match month.tier() {
            _ if month.availability().total == 0 => "no_traffic",
            Some(tier) => &tier.name,
            None => "none",
        };
        self.level.is_none_or(|wanted| wanted == month.level().as_str())
            && self.tier.is_none_or(|wanted| wanted == tier())
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
    let query = asked.query(&["limit", "cursor", "state", "tier", "q", "month", "sort", "order", "days"])?;
    let limit = query.limit()?;
    let with_days = query.one_of("days", &["true", "false"])? == Some("true");
    let list = List::asked(api, query)?;
    let after: Option<Position<String>> = query.cursor()?;
    let (matching, mut page) = list.select(after.as_ref(), limit + 1);
    let mut next = None;
    if page.len() > limit {
        page.truncate(limit);
        // The walk stays in its month when another one begins.
        let pinned = list.filter.month.to_string();
        if let Some(Position(key, tenant, first)) = page.last().map(|found| &found.position) {
            next = Some(query.next(&Position(*key, &**tenant, *first), Some(("month", &pinned)))?);
        }
    }
    let mut judge = api.judge(list.contract())?;
    let days = |row: &mut Row, period: Period| row.failures_by_day = Some(list.failures_by_day(&row.tenant, period));
    let rows = page.into_iter().map(|found| {
        let mut row = list.row(&mut judge, &found);
        if with_days {
            days(&mut row, found.period);
        }
        row
    });
    let tenants = rows.collect();
    Ok(Page { month: list.filter.month.to_string(), ledger_as_of: api.ledger_as_of(), matching, tenants, next })
}

/// All rows that a query of [`list`] asks for, in its order; the limit does not apply.
pub fn all_rows(api: &Reading, asked: &Asked, mut each: impl FnMut(Row)) -> Result<(), Problem> {
    let list = List::asked(api, asked.query(&["state", "tier", "q", "month", "sort", "order"])?)?;
    let mut judge = api.judge(list.contract())?;
    for found in list.select(None, usize::MAX).1 {
        asked.work.check()?;
        each(list.row(&mut judge, &found));
    }
    Ok(())
}

/// What is listed.
struct List<'a> {
    value: &'a Published,
    filter: Filter<'a>,
    sort: Sort,
    now_ms: i64,
}

impl<'a> List<'a> {
    fn asked(api: &'a Reading, query: Query<'a>) -> Result<Self, Problem> {
        let filter = Filter {
            month: query.month("month")?.unwrap_or_else(|| api.today().month()),
            level: query.one_of("state", &Level::ALL.map(Level::as_str))?,
            tier: query.get("tier"),
            text: query.get("q").unwrap_or_default().to_lowercase(),
        };
        Ok(Self { value: api.published()?, filter, sort: Sort::asked(query)?, now_ms: api.now_ms() })
    }

    fn contract(&self) -> &'a Contract {
        self.value.standings.contract()
    }

    /// Where a service month with calls is heading.
    fn trend(&self, tenant: &str, month: &ServiceMonth) -> Option<Trend> {
        let standing = self.value.standings.tenant(tenant)?;
        Some(Trend::of(standing, month, standing.windows(self.now_ms), self.now_ms))
    }

    fn key(&self, tenant: &str, month: &ServiceMonth) -> SortKey {
        let trend = if self.sort.needs_trend() { self.trend(tenant, month) } else { None };
        let claim = || month.claim(self.contract().rulebook.claims(tenant), self.now_ms).0;
        self.sort.key(month, trend.as_ref(), claim)
    }

    /// All rows, in no order.
    fn rows(&self) -> Vec<Found<'a>> {
        let Self { value, filter, .. } = self;
        let mut found = Vec::new();
        for (tenant, months) in value.standings.iter() {
            for month in months.iter().filter(|month| filter.wants_month(month) && filter.names(tenant)) {
                let position = Position(self.key(tenant, month), tenant.clone(), month.period.first.0);
                found.push(Found { position, period: month.period, month: Some(month) });
            }
        }
        for (tenant, period) in quiet(value, filter) {
            if !value.standings.months(&tenant).iter().any(|counted| counted.period.first == period.first) {
                let key = match self.sort.by {
                    SortBy::ClaimState | SortBy::Owed => {
                        self.key(&tenant, &quiet_month(self.contract(), &tenant, period))
                    }
                    SortBy::Calls | SortBy::Failures => SortKey::Number(0),
                    _ => SortKey::Nothing,
                };
                let position = Position(key, tenant, period.first.0);
                found.push(Found { position, period, month: None });
            }
        }
        found
    }

    /// How many rows there are, and the first so many behind a position, in order.
    fn select(&self, after: Option<&Position<String>>, most: usize) -> (usize, Vec<Found<'a>>) {
        let mut rows = self.rows();
        let matching = rows.len();
        rows.retain(|found| after.is_none_or(|after| found.position.compare(after, self.sort).is_gt()));
        if rows.len() > most {
            rows.select_nth_unstable_by(most, |a, b| a.position.compare(&b.position, self.sort));
            rows.truncate(most);
        }
        rows.sort_unstable_by(|a, b| a.position.compare(&b.position, self.sort));
        (matching, rows)
    }

    fn row(&self, judge: &mut Judge<'_>, Found { position: Position(_, tenant, _), period, month }: &Found<'_>) -> Row {
        let quiet;
        let month = match month {
            Some(month) => *month,
            None => {
                quiet = quiet_month(self.contract(), tenant, *period);
                &quiet
            }
        };
        Row::of(judge.standing(tenant, month), month, self.trend(tenant, month).as_ref())
    }

    /// Of the last days up to today, or up to the end of a month that is over.
    fn failures_by_day(&self, tenant: &str, period: Period) -> Vec<u64> {
        let policy_zone = self.contract().policy(&self.contract().terms(tenant), period.first).time_zone;
        let to = LocalClock::new(policy_zone).day(self.now_ms).min(period.last);
        let evaluation = Evaluation::new(self.contract(), &self.value.book, tenant);
        evaluation.failures_by_day(DAYS, to, self.value.standings.tenant(tenant))
    }
}

/// The service months that begin in a calendar month, by tenant, those without calls included.
pub fn each_of(api: &Reading, month: Month, mut each: impl FnMut(&str, &ServiceMonth)) -> Result<(), Problem> {
    let filter = Filter { month, level: None, tier: None, text: String::new() };
    let sort = Sort { by: SortBy::Tenant, descending: false };
    let list = List { value: api.published()?, filter, sort, now_ms: api.now_ms() };
    for Found { position: Position(_, tenant, _), period, month } in list.select(None, usize::MAX).1 {
        match month {
            Some(month) => each(&tenant, month),
            None => each(&tenant, &quiet_month(list.contract(), &tenant, period)),
        }
    }
    Ok(())
}

/// A month of all tenants, for [`super::fleet`]: each service month of the list; `None`: without calls.
pub fn all(value: &Published, month: Month) -> Vec<Option<&ServiceMonth>> {
    let filter = Filter { month, level: None, tier: None, text: String::new() };
    let sort = Sort { by: SortBy::Tenant, descending: false };
    List { value, filter, sort, now_ms: 0 }.rows().into_iter().map(|found| found.month).collect()
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
