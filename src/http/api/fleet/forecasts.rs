//! What a month of all tenants is expected to cost. It takes each tenant's forecast, so with many tenants it takes long: the
//! answers share one, the older the longer it takes, and none but the first waits for it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::domain::calendar::Month;
use crate::domain::money::Currency;
use crate::pipeline::trend::Trend;
use crate::view::Published;

/// How old it may be before it is made anew: at least so long, and so many times what it took. So readers that never
/// stop cost a twentieth of a core at most.
const FRESH: Duration = Duration::from_secs(1);
const TIMES_ITS_COST: u32 = 20;
/// Months of which one is kept: what readers look at.
const KEPT: usize = 12;

/// What is owed at a month's end, if the last hour goes on for every tenant.
#[derive(Debug, Clone, Default)]
pub struct FleetForecast {
    /// When it was made, in ms.
    pub at_ms: i64,
    /// How long that took.
    took: Duration,
    /// By currency, in minor units. What is owed now counts for months that are over, and for tenants with too little
    /// data.
    pub owed: BTreeMap<Currency, i64>,
    /// Service months for which something will be owed.
    pub service_months: usize,
}

/// The forecasts that answers share.
#[derive(Debug, Default)]
pub struct Forecasts(Mutex<HashMap<Month, Kept>>);

#[derive(Debug)]
struct Kept {
    forecast: Arc<FleetForecast>,
    is_being_made: bool,
}

impl Forecasts {
    /// A month's forecast. If it is old, another one is made meanwhile for those who ask next.
    pub fn of(self: &Arc<Self>, value: &Arc<Published>, month: Month, now_ms: i64) -> Arc<FleetForecast> {
        let known = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.get_mut(&month).map(|kept| {
                let is_old = kept.forecast.is_old(now_ms);
                let is_mine = is_old && !kept.is_being_made;
                kept.is_being_made |= is_mine;
                (kept.forecast.clone(), is_mine)
            })
        };
        let make = |value: &Published| Arc::new(FleetForecast::of(value, month, now_ms));
        match known {
            None => {
                let made = make(value);
                self.keep(month, &made);
                made
            }
            Some((forecast, false)) => forecast,
            Some((forecast, true)) => {
                let (all, value) = (self.clone(), value.clone());
                tokio::task::spawn_blocking(move || {
                    all.keep(month, &Arc::new(FleetForecast::of(&value, month, now_ms)));
                });
                forecast
            }
        }
    }

    fn keep(&self, month: Month, forecast: &Arc<FleetForecast>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= KEPT && !all.contains_key(&month) {
            let oldest = all.iter().min_by_key(|(_, kept)| kept.forecast.at_ms).map(|(month, _)| *month);
            oldest.map(|oldest| all.remove(&oldest));
        }
        all.insert(month, Kept { forecast: forecast.clone(), is_being_made: false });
    }
}

impl FleetForecast {
    fn is_old(&self, now_ms: i64) -> bool {
        Duration::from_millis(now_ms.abs_diff(self.at_ms)) > FRESH.max(self.took * TIMES_ITS_COST)
    }

    fn of(value: &Published, month: Month, now_ms: i64) -> Self {
        let begin = Instant::now();
        let mut sum = Self { at_ms: now_ms, ..Self::default() };
        for (_, standing) in value.standings.all() {
            for month in standing.months.iter().filter(|each| each.period.month() == month) {
                let Some(money) = &month.money else { continue };
                let trend = Trend::of(standing, month, standing.windows(now_ms), now_ms);
                let at_end = trend.outlook.and_then(|outlook| month.payout_at(outlook.at_end));
                let owed = at_end.unwrap_or(money.payout.payout_minor);
                *sum.owed.entry(money.currency()).or_default() += owed;
                sum.service_months += usize::from(owed > 0);
            }
        }
        sum.took = begin.elapsed();
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::contract::Contract;
    use crate::domain::policy::Policy;
    use crate::pipeline::book::Book;
    use crate::pipeline::standings::Standings;

    #[tokio::test]
    async fn an_old_forecast_is_served_while_another_one_is_made() {
        let standings = Standings::new(Arc::new(Contract::of_policy(Policy::tencent_ccc())));
        let value = Arc::new(Published { book: Book::new(1), standings });
        let (all, month) = (Arc::new(Forecasts::default()), Month(600));
        assert_eq!(all.of(&value, month, 1_000).at_ms, 1_000);
        // Longer than it can have taken twenty times.
        let old = 1_000 + 3_600_000;
        assert_eq!(all.of(&value, month, 1_001).at_ms, 1_000, "fresh");
        assert_eq!(all.of(&value, month, old).at_ms, 1_000, "nobody waits");
        while all.of(&value, month, old).at_ms != old {
            tokio::task::yield_now().await;
        }
    }
}
