//! Everything a standing is judged by, as of an instant: policies, registry, documents.

use std::sync::Arc;

use smallvec::SmallVec;

use super::availability::Ppm;
use super::calendar::LocalDay;
use super::documents::Documents;
use super::money::{Fees, allocate, cap_left, payout};
use super::policy::{Allocation, Policies, Policy};
use super::registry::Registry;
use super::rulebook::Rulebook;
use super::standing::{Money, ServiceMonth};
use super::term::Terms;

/// Policies, registry and documents, as they were known at an instant.
#[derive(Debug, Clone)]
pub struct Contract {
    /// The policies.
    pub policies: Policies,
    /// Orders and bills.
    pub registry: Arc<Registry>,
    /// Notices, declarations, rulings, claims.
    pub rulebook: Rulebook,
    /// Registry records and policies recorded later are ignored; `None`: none are.
    pub as_of_ms: Option<i64>,
}

impl Contract {
    /// The contract as of an instant, or with all that is known.
    pub fn new(policies: Policies, registry: Arc<Registry>, documents: &Documents, as_of_ms: Option<i64>) -> Self {
        Self { policies, registry, rulebook: Rulebook::new(documents, as_of_ms), as_of_ms }
    }

    /// The compiled-in policy, without registered tenants.
    pub fn of_policy(policy: Policy) -> Self {
        let policies = Policies::single(policy);
        Self { policies, registry: Arc::default(), rulebook: Rulebook::default(), as_of_ms: None }
    }

    /// The tenant's terms.
    pub fn terms(&self, tenant: &str) -> Terms {
        let month_end = |id: Option<&str>| self.policies.in_force(id, LocalDay(i32::MAX), self.as_of_ms).month_end;
        Terms::of(self.registry.orders(tenant), self.as_of_ms, month_end)
    }

    /// The policy that applies to the tenant's service month beginning on this day.
    pub fn policy(&self, terms: &Terms, first_day: LocalDay) -> &Arc<Policy> {
        self.policies.in_force(terms.policy_on(first_day), first_day, self.as_of_ms)
    }

    /// Adds fee and payout to the tenant's service months, which must be in order of time. Each payout is capped by what
    /// the fees leave after those of the months before (clause 6.1): what was paid for them, or is owed.
    pub fn price(&self, tenant: &str, terms: &Terms, months: &mut [ServiceMonth]) {
        let items = self.registry.fees(tenant);
        if terms.is_empty() || items.is_empty() {
            return;
        }
        let mut allocated: SmallVec<[(Allocation, Fees); 1]> = SmallVec::new();
        let (other, mut used) = (self.rulebook.other_damages_minor(tenant), 0_i64);
        let settled = |first: LocalDay| self.rulebook.settled_minor(tenant, first);
        // Claims of months whose calls the ledger has dropped.
        let mut earlier: Vec<LocalDay> = self.rulebook.claimed_periods(tenant).collect();
        earlier.retain(|first| !months.iter().any(|month| month.period.first == *first));
        earlier.sort_unstable();
        earlier.dedup();
        let mut earlier = earlier.into_iter().peekable();
        for month in months {
            while let Some(first) = earlier.next_if(|first| *first < month.period.first) {
                used = used.saturating_add(settled(first).unwrap_or(0));
            }
            let mode = month.policy.allocation;
            if !allocated.iter().any(|(known, _)| *known == mode) {
                allocated.push((mode, allocate(items, self.as_of_ms, terms, mode)));
            }
            let Some((_, fees)) = allocated.iter().find(|(known, _)| *known == mode) else { continue };
            let Some(fee) = fees.month(month.period.first) else { continue };
            let policy = &month.policy;
            let left = if policy.total_cap { cap_left(fees.paid_total_minor, other, used) } else { i64::MAX };
            let pay = |rate: Ppm| payout(rate, fee, policy.fee_base, policy.rounding, left);
            let owed = pay(month.tier().map_or(Ppm(0), |tier| tier.rate));
            month.money =
                Some(Money { fee: *fee, payout: owed, next_payout: month.next_tier().map(|tier| pay(tier.rate)) });
            used = used.saturating_add(settled(month.period.first).unwrap_or(owed.payout_minor));
        }
    }
}
