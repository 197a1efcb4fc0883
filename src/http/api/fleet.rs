//! A month of all tenants together: the sums over the list of tenants.

use serde::Serialize;

use super::board::{Forecast, Line};
use crate::domain::availability::Level;
use crate::domain::calendar::Month;
use crate::domain::money::Currency;
use crate::http::answer::ask::{Asked, Problem};
use crate::http::answer::{Reading, instant};
use crate::pipeline::standings::{Fleet, FleetMoney};
use crate::view::Published;

/// Tenths of the error budget that have a bar of their own; what is used beyond the whole has one more.
const BARS: usize = 10;

#[derive(Debug, Clone, Serialize)]
pub struct FleetMonth {
    pub month: String,
    pub ledger_as_of: Option<String>,
    /// Months with calls in the ledger, oldest first.
    pub months: Vec<String>,
    /// Service months, those without calls included.
    pub service_months: usize,
    pub total: u64,
    /// Failures that count.
    pub failed: u64,
    pub excluded: u64,
    /// Over the calls of all tenants; null: without calls.
    pub availability_pct: Option<String>,
    /// Every state, mildest first.
    pub states: Vec<State>,
    /// Tiers that apply to some tenant.
    pub tiers: Vec<Tier>,
    /// Service months by the share of the error budget used.
    pub budget_used: Vec<Bar>,
    pub money: Vec<Money>,
    /// When the sums were made: with many tenants, answers share them for some seconds.
    pub made_at: Option<String>,
    /// Service months for which something is owed at their end, if the last hour goes on.
    pub forecast_service_months: usize,
}

#[derive(Debug, Clone, Serialize)]
pub struct State {
    pub state: &'static str,
    pub service_months: usize,
}

#[derive(Debug, Clone, Serialize)]
pub struct Tier {
    pub tier: String,
    pub service_months: usize,
}

#[derive(Debug, Clone, Serialize)]
pub struct Bar {
    /// Used at least so much.
    pub from_pct: usize,
    /// And less than this; null: whatever above.
    pub to_pct: Option<usize>,
    pub service_months: usize,
}

#[derive(Debug, Clone, Serialize)]
pub struct Money {
    pub currency: String,
    pub owed_minor: i64,
    /// If every tenant fell by one tier.
    pub next_payout_minor: i64,
    /// At the end of the service months, if the last hour goes on.
    pub forecast_minor: i64,
}

/// `/fleet`
pub fn month(api: &Reading, asked: &Asked) -> Result<FleetMonth, Problem> {
    Ok(api.board(asked.query(&["month"])?)?.fleet.clone())
}

impl FleetMonth {
    /// The sums over a board's lines.
    pub fn of(
        value: &Published,
        month: Month,
        lines: &[Line],
        tiers: &[String],
        forecast: &Forecast,
        ledger_as_of: Option<String>,
        at_ms: i64,
    ) -> Self {
        let fleet = value.standings.fleet();
        let Counts { states, in_tier, bars } = Counts::of(lines, tiers.len());
        let sums = fleet.get(&month);
        let none = Fleet::default();
        let Fleet { figures, money: by_currency, .. } = sums.unwrap_or(&none);
        let state = |level: Level| State { state: level.as_str(), service_months: states[level as usize] };
        let tier = |(tier, service_months): (&String, usize)| Tier { tier: tier.clone(), service_months };
        let mut tiers: Vec<_> = tiers.iter().zip(in_tier).map(tier).collect();
        tiers.sort_by(|a, b| a.tier.cmp(&b.tier));
        let money = |(currency, sum): (&Currency, &FleetMoney)| Money {
            currency: currency.to_string(),
            owed_minor: sum.owed,
            next_payout_minor: sum.next,
            forecast_minor: forecast.owed.get(currency).copied().unwrap_or_default(),
        };
        Self {
            month: month.to_string(),
            ledger_as_of,
            months: fleet.keys().map(ToString::to_string).collect(),
            service_months: lines.len(),
            total: figures.total(),
            failed: figures.failed(),
            excluded: figures.excluded_total(),
            availability_pct: sums.and_then(|fleet| fleet.availability().percent()).map(|percent| percent.to_string()),
            states: Level::ALL.map(state).into(),
            tiers,
            budget_used: bars.into_iter().enumerate().map(|(place, months)| shown(place, months)).collect(),
            money: by_currency.iter().map(money).collect(),
            made_at: instant(at_ms),
            forecast_service_months: forecast.service_months,
        }
    }
}

/// Service months by what they have in common.
struct Counts {
    /// In the order of the levels.
    states: [usize; Level::ALL.len()],
    /// In the order of the board's tiers.
    in_tier: Vec<usize>,
    bars: [usize; BARS + 1],
}

impl Counts {
    fn of(lines: &[Line], tiers: usize) -> Self {
        let mut counts = Self { states: Default::default(), in_tier: vec![0; tiers], bars: Default::default() };
        for line in lines {
            counts.states[line.level as usize] += 1;
            if let Some(tier) = line.tier {
                counts.in_tier[tier] += 1;
            }
            if let Some(bar) = bar(line) {
                counts.bars[bar] += 1;
            }
        }
        counts
    }
}

/// The bar of a service month; `None` without calls.
fn bar(line: &Line) -> Option<usize> {
    match line.availability.consumed(line.target) {
        (0, 0) => None,
        // A failure where none is allowed.
        (_, 0) => Some(BARS),
        (used, whole) => {
            Some(usize::try_from(used.saturating_mul(BARS as u128) / whole).map_or(BARS, |bar| bar.min(BARS)))
        }
    }
}

fn shown(place: usize, service_months: usize) -> Bar {
    let percent = |place: usize| place * 100 / BARS;
    Bar { from_pct: percent(place), to_pct: (place < BARS).then(|| percent(place + 1)), service_months }
}
