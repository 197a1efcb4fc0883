//! A calendar month of all tenants, in short: what the lists of tenants and the fleet's sums are read from.
//!
//! With 100,000 tenants it takes some tenths of a second to make, nearly all of it waiting for memory. So answers share it: the
//! longer it takes, the older it gets, and only who comes after a pause waits for it. What a list shows of a tenant on its page is
//! what is published; which tenants are on it, and the sums, are the board's. With few tenants every answer makes its own.

mod registered;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::fleet::FleetMonth;
use super::month_end::Ended;
use crate::domain::availability::{Availability, Level, Ppm};
use crate::domain::calendar::Month;
use crate::domain::contract::Contract;
use crate::domain::money::Currency;
use crate::domain::policy::Policy;
use crate::domain::standing::ServiceMonth;
use crate::domain::term::Period;
use crate::domain::workdays::ClaimState;
use crate::http::answer::ask::Problem;
use crate::http::answer::{Judge, Reading, horizon};
use crate::pipeline::standings::TenantStanding;
use crate::pipeline::trend::Trend;
use crate::view::Published;
pub use registered::{Registered, quiet_month, without_traffic};

/// How old it may be before it is made anew: at least so long, and so many times what it took. So readers that never stop cost
/// a tenth of a core at most.
const FRESH: Duration = Duration::from_secs(1);
const TIMES_ITS_COST: u32 = 10;
/// A reader who comes after a pause waits for another one rather than see one that is older than twice as much and this.
const STALE: Duration = Duration::from_secs(5);
/// With fewer tenants it is not worth sharing: every answer makes its own, of what it shows.
const FEW: usize = 1_000;
/// Months of which one is kept: what readers look at.
const KEPT: usize = 4;

/// A calendar month's service months.
pub struct Board {
    pub month: Month,
    /// When it was made, in ms.
    at_ms: i64,
    /// How long that took.
    took: Duration,
    /// The instant its figures reach to.
    pub as_of: Option<String>,
    /// By tenant and first day.
    pub lines: Vec<Line>,
    /// Names of the tiers that apply to some of them.
    pub tiers: Vec<String>,
    pub fleet: FleetMonth,
    pub ended: Ended,
}

/// A service month in short.
pub struct Line {
    pub tenant: Arc<str>,
    pub period: Period,
    /// `false`: registered, but without calls.
    pub has_calls: bool,
    pub level: Level,
    /// Its place among the board's tiers.
    pub tier: Option<usize>,
    pub availability: Availability,
    pub target: Ppm,
    pub calls: u64,
    pub failures: u64,
    pub claim: ClaimState,
    /// In minor units; `None`: no bill is known.
    pub owed_minor: Option<i64>,
    /// One tier down.
    pub next_minor: Option<i64>,
    /// At its end, if the last hour goes on; `None`: it is over, or there is too little data.
    pub forecast_minor: Option<i64>,
    /// The last hour's burn rate; `None`: unknown. Millionths are finer than what is shown.
    pub burn_rate_millionths: Option<i64>,
}

impl Line {
    /// The service month itself, as it is now.
    pub fn service_month(&self, value: &Published) -> ServiceMonth {
        let months = value.standings.months(&self.tenant);
        let counted = months.iter().find(|month| month.period.first == self.period.first);
        counted.cloned().unwrap_or_else(|| quiet_month(value.standings.contract(), &self.tenant, self.period))
    }
}

/// Sums of what is expected at the end of the service months.
#[derive(Debug, Default)]
pub struct Forecast {
    /// By currency, in minor units. What is owed now counts for months that are over, and for tenants with too little data.
    pub owed: BTreeMap<Currency, i64>,
    /// Service months for which something will be owed.
    pub service_months: usize,
}

impl Forecast {
    fn add(&mut self, line: &Line, month: &ServiceMonth) {
        if let Some(money) = &month.money {
            let owed = line.forecast_minor.unwrap_or(money.payout.payout_minor);
            *self.owed.entry(money.currency()).or_default() += owed;
            self.service_months += usize::from(owed > 0);
        }
    }
}

impl Board {
    fn of(api: &Reading, value: &Published, month: Month) -> Result<Self, Problem> {
        let begin = Instant::now();
        let contract = value.standings.contract();
        let mut maker = Maker {
            value,
            now_ms: api.now_ms(),
            judge: api.judge(contract)?,
            claims: HashMap::new(),
            lines: Vec::with_capacity(value.standings.len()),
            tiers: Vec::new(),
            forecast: Forecast::default(),
            ended: Ended::default(),
        };
        maker.counted(month);
        // Which older months had calls, the ledger does not know any more.
        if month >= horizon(&value.book) {
            maker.without_calls(&api.shared.registered.of(contract, month));
        }
        let Maker { mut lines, tiers, forecast, ended, now_ms, .. } = maker;
        lines.sort_unstable_by(|a, b| a.tenant.cmp(&b.tenant).then(a.period.first.cmp(&b.period.first)));
        let as_of = api.ledger_as_of();
        let fleet = FleetMonth::of(value, month, &lines, &tiers, &forecast, as_of.clone(), now_ms);
        Ok(Self { month, at_ms: now_ms, took: begin.elapsed(), as_of, lines, tiers, fleet, ended })
    }

    fn age(&self, now_ms: i64) -> Age {
        let (age, fresh) = (Duration::from_millis(now_ms.abs_diff(self.at_ms)), FRESH.max(self.took * TIMES_ITS_COST));
        match () {
            () if age <= fresh => Age::Fresh,
            () if age <= fresh * 2 + STALE => Age::Old,
            () => Age::Stale,
        }
    }
}

/// What becomes of a board.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Age {
    /// It is shown.
    Fresh,
    /// It is shown, and another one is made for those who ask next.
    Old,
    /// It is not shown any more.
    Stale,
}

/// A board in the making.
struct Maker<'a> {
    value: &'a Published,
    now_ms: i64,
    judge: Judge<'a>,
    /// Without a claim its state follows from period and policy, which many tenants have in common.
    claims: HashMap<(Period, bool, *const Policy), ClaimState>,
    lines: Vec<Line>,
    tiers: Vec<String>,
    forecast: Forecast,
    ended: Ended,
}

impl Maker<'_> {
    fn counted(&mut self, month: Month) {
        let days = month.first_day()..=month.last_day();
        for (tenant, standing) in self.value.standings.all() {
            for month in standing.months.iter().filter(|month| days.contains(&month.period.first)) {
                self.add(tenant, month, Some(standing));
            }
        }
    }

    fn without_calls(&mut self, registered: &[(usize, Period)]) {
        let standings = &self.value.standings;
        let tenants = standings.contract().registry.tenants();
        for (place, period) in registered {
            let Some(tenant) = tenants.get(*place) else { continue };
            if !standings.months(tenant).iter().any(|month| month.period.first == period.first) {
                self.add(tenant, &quiet_month(standings.contract(), tenant, *period), None);
            }
        }
    }

    /// `standing`: of a month with calls.
    fn add(&mut self, tenant: &Arc<str>, month: &ServiceMonth, standing: Option<&TenantStanding>) {
        let now_ms = self.now_ms;
        let trend = standing.map(|standing| Trend::as_seen(standing, month, now_ms));
        let outlook = trend.as_ref().and_then(|trend| trend.outlook.as_ref());
        let burn_rate = trend.as_ref().and_then(Trend::burn_rate_of_last_hour);
        let line = Line {
            tenant: tenant.clone(),
            period: month.period,
            has_calls: standing.is_some(),
            level: month.level(),
            tier: month.tier().map(|tier| self.tier(&tier.name)),
            availability: month.availability(),
            target: month.policy.target(),
            calls: month.figures.total(),
            failures: month.figures.failed(),
            claim: self.claim(tenant, month),
            owed_minor: month.money.map(|money| money.payout.payout_minor),
            next_minor: month.money.and_then(|money| money.next_payout).map(|next| next.payout_minor),
            forecast_minor: outlook.and_then(|outlook| month.payout_at(outlook.at_end)),
            burn_rate_millionths: burn_rate.map(|rate| (rate * 1e6) as i64),
        };
        self.forecast.add(&line, month);
        let is_over = month.is_over(now_ms);
        let is_complete = is_over && self.judge.is_complete(month);
        self.ended.add(is_over, is_complete, line.owed_minor.is_some_and(|owed| owed > 0));
        self.lines.push(line);
    }

    fn tier(&mut self, name: &str) -> usize {
        self.tiers.iter().position(|known| known == name).unwrap_or_else(|| {
            self.tiers.push(name.to_owned());
            self.tiers.len() - 1
        })
    }

    fn claim(&mut self, tenant: &str, month: &ServiceMonth) -> ClaimState {
        let contract: &Contract = self.value.standings.contract();
        let events = contract.rulebook.claims(tenant);
        if !events.is_empty() {
            return month.claim(events, self.now_ms).0;
        }
        let same = (month.period, month.registered, Arc::as_ptr(&month.policy));
        *self.claims.entry(same).or_insert_with(|| month.claim(&[], self.now_ms).0)
    }
}

/// Is the fleet so large that answers share boards?
pub fn is_shared(value: &Published) -> bool {
    value.standings.len() + value.standings.contract().registry.tenants().len() >= FEW
}

/// The boards that answers share.
#[derive(Default)]
pub struct Boards(Mutex<HashMap<Month, Kept>>);

struct Kept {
    board: Arc<Board>,
    is_being_made: bool,
}

impl Boards {
    /// A month's board. If it is old, another one is made meanwhile for those who ask next.
    ///
    /// # Errors
    /// Nothing is published yet.
    pub fn of(&self, api: &Reading, month: Month) -> Result<Arc<Board>, Problem> {
        let value = api.published()?;
        if !is_shared(value) {
            return Ok(Arc::new(Board::of(api, value, month)?));
        }
        let known = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.get_mut(&month).and_then(|kept| match kept.board.age(api.now_ms()) {
                Age::Fresh => Some((kept.board.clone(), false)),
                Age::Old => Some((kept.board.clone(), !std::mem::replace(&mut kept.is_being_made, true))),
                Age::Stale => None,
            })
        };
        let Some((board, is_mine)) = known else {
            let made = Arc::new(Board::of(api, value, month)?);
            self.keep(&made);
            return Ok(made);
        };
        if is_mine {
            let api = api.again();
            tokio::task::spawn_blocking(move || {
                let made = api.published().and_then(|value| Board::of(&api, value, month));
                // What was published once stays so.
                _ = made.map(|made| api.shared.boards.keep(&Arc::new(made)));
            });
        }
        Ok(board)
    }

    fn keep(&self, board: &Arc<Board>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= KEPT && !all.contains_key(&board.month) {
            let oldest = all.iter().min_by_key(|(_, kept)| kept.board.at_ms).map(|(month, _)| *month);
            oldest.map(|oldest| all.remove(&oldest));
        }
        all.insert(board.month, Kept { board: board.clone(), is_being_made: false });
    }
}
