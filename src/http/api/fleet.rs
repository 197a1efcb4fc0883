//! A month of all tenants together: the sums over the list of tenants.

mod forecasts;

use std::collections::BTreeMap;

use serde::Serialize;

use super::tenants;
use crate::domain::availability::Level;
use crate::domain::standing::ServiceMonth;
use crate::http::answer::ask::{Asked, Problem};
use crate::http::answer::{Reading, instant};
use crate::pipeline::standings::Fleet;
pub use forecasts::Forecasts;

/// Tenths of the error budget that have a bar of their own; what is used beyond the whole has one more.
const BARS: usize = 10;

#[derive(Debug, Serialize)]
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
    /// When the forecasts were made: they may be some seconds older than the other figures.
    pub forecast_at: Option<String>,
    /// Service months for which something is owed at their end, if the last hour goes on.
    pub forecast_service_months: usize,
}

#[derive(Debug, Serialize)]
pub struct State {
    pub state: &'static str,
    pub service_months: usize,
}

#[derive(Debug, Serialize)]
pub struct Tier {
    pub tier: String,
    pub service_months: usize,
}

#[derive(Debug, Serialize)]
pub struct Bar {
    /// Used at least so much.
    pub from_pct: usize,
    /// And less than this; null: whatever above.
    pub to_pct: Option<usize>,
    pub service_months: usize,
}

#[derive(Debug, Serialize)]
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
    let month = asked.query(&["month"])?.month("month")?.unwrap_or_else(|| api.today().month());
    let value = api.published()?;
    let fleet = value.standings.fleet();
    let forecast = api.forecasts.of(value, month, api.now_ms());
    let rows = tenants::all(value, month);
    let (mut states, mut tiers, mut bars) = (BTreeMap::new(), BTreeMap::new(), [0; BARS + 1]);
    for row in &rows {
        let level = row.map_or(Level::NoTraffic, ServiceMonth::level);
        *states.entry(level.as_str()).or_insert(0) += 1;
        if let Some(tier) = row.and_then(ServiceMonth::tier) {
            *tiers.entry(tier.name.clone()).or_insert(0) += 1;
        }
        if let Some(bar) = row.and_then(bar) {
            bars[bar] += 1;
        }
    }
    let sums = fleet.get(&month);
    let none = Fleet::default();
    let Fleet { figures, money, .. } = sums.unwrap_or(&none);
    let state = |level: Level| State {
        state: level.as_str(),
        service_months: states.get(level.as_str()).copied().unwrap_or_default(),
    };
    Ok(FleetMonth {
        month: month.to_string(),
        ledger_as_of: api.ledger_as_of(),
        months: fleet.keys().map(ToString::to_string).collect(),
        service_months: rows.len(),
        total: figures.total(),
        failed: figures.failed(),
        excluded: figures.excluded_total(),
        availability_pct: sums.and_then(|fleet| fleet.availability().percent()).map(|percent| percent.to_string()),
        states: Level::ALL.map(state).into(),
        tiers: tiers.into_iter().map(|(tier, service_months)| Tier { tier, service_months }).collect(),
        budget_used: bars.into_iter().enumerate().map(|(place, service_months)| shown(place, service_months)).collect(),
        money: money
            .iter()
            .map(|(currency, sum)| Money {
                currency: currency.to_string(),
                owed_minor: sum.owed,
                next_payout_minor: sum.next,
                forecast_minor: forecast.owed.get(currency).copied().unwrap_or_default(),
            })
            .collect(),
        forecast_at: instant(forecast.at_ms),
        forecast_service_months: forecast.service_months,
    })
}

/// The bar of a service month; `None` without calls.
fn bar(month: &ServiceMonth) -> Option<usize> {
    match month.availability().consumed(month.policy.target()) {
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
