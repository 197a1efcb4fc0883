//! Where a tenant's running service month is heading, from its last hours and its own days.

use super::standings::TenantStanding;
use crate::domain::alert::Windows;
use crate::domain::calendar::day_start_ms;
use crate::domain::forecast::{Outlook, burn_rate, outlook};
use crate::domain::policy::Policy;
use crate::domain::standing::ServiceMonth;

/// Last hours and outlook of a service month.
#[derive(Debug, Clone, Default)]
pub struct Trend {
    /// The last hours; empty once the month is over.
    pub windows: Windows,
    /// `None`: the month is over, has not begun, or there is not enough data.
    pub outlook: Option<Outlook>,
}

impl Trend {
    /// Of one of the tenant's service months.
    pub fn of(tenant: &TenantStanding, month: &ServiceMonth, windows: Windows, now_ms: i64) -> Self {
        let (policy, period) = (&month.policy, month.period);
        let begun = now_ms >= day_start_ms(policy.time_zone, period.first);
        if !begun || month.is_over(now_ms) {
            return Self { windows: Windows::default(), outlook: None };
        }
        let hour = Some(windows.hour).filter(|hour| hour.total > 0);
        let outlook = outlook(policy, period, month.availability(), &tenant.calls_by_day, hour, now_ms);
        Self { windows, outlook }
    }

    /// The same, from the last hours as this instance has seen them.
    pub fn as_seen(tenant: &TenantStanding, month: &ServiceMonth, now_ms: i64) -> Self {
        Self::of(tenant, month, tenant.windows(now_ms), now_ms)
    }

    /// How many times faster than the rest of the month bears the last hour used up the budget; `None`: it had no calls,
    /// or nothing is left of the budget.
    pub fn burn_rate_of_last_hour(&self) -> Option<f64> {
        burn_rate(self.windows.hour, self.outlook.as_ref()?.sustainable)
    }

    /// When this tier is reached if the last hour goes on, in ms; `None`: not before the month's end.
    pub fn reached_at_ms(&self, policy: &Policy, tier: &str) -> Option<i64> {
        let place = policy.tiers.iter().position(|known| known.name == tier)?;
        self.outlook.as_ref()?.reached_at_ms.get(place).copied().flatten()
    }
}
