//! Registered service months, those without calls included.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::domain::calendar::Month;
use crate::domain::contract::Contract;
use crate::domain::standing::{Figures, ServiceMonth, Uncounted, Unreached};
use crate::domain::term::{Period, Terms};

/// Calendar months that are kept: what readers look at.
const KEPT: usize = 12;

/// The registered service months of calendar months. To find them, every tenant's orders are read, so they are kept while the
/// contract is the same.
#[derive(Debug, Default)]
pub struct Registered(Mutex<Option<Kept>>);

/// Places of tenants in the registry, and their service months.
type Months = Arc<[(usize, Period)]>;

#[derive(Debug)]
struct Kept {
    contract: Arc<Contract>,
    months: HashMap<Month, Months>,
}

impl Registered {
    /// Those that begin in a month.
    pub(super) fn of(&self, contract: &Arc<Contract>, month: Month) -> Months {
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = |kept: &&mut Kept| Arc::ptr_eq(&kept.contract, contract);
        if let Some(known) = lock().as_mut().filter(is_same).and_then(|kept| kept.months.get(&month).cloned()) {
            return known;
        }
        let found = registered(contract, month);
        let mut kept = lock();
        match kept.as_mut().filter(|kept| is_same(kept) && kept.months.len() < KEPT) {
            Some(kept) => _ = kept.months.insert(month, found.clone()),
            None => {
                *kept = Some(Kept { contract: contract.clone(), months: HashMap::from([(month, found.clone())]) });
            }
        }
        found
    }
}

fn registered(contract: &Contract, month: Month) -> Months {
    let (from, to) = (month.first_day(), month.last_day());
    let tenants = contract.registry.tenants().iter().enumerate();
    let periods = tenants.flat_map(|(place, tenant)| {
        let terms = contract.terms(tenant);
        terms.periods(from, to).map(|period| (place, period)).collect::<Vec<_>>()
    });
    periods.collect()
}

/// A registered service month without calls. Nothing is owed for it.
pub fn quiet_month(contract: &Contract, tenant: &str, period: Period) -> ServiceMonth {
    let terms = contract.terms(tenant);
    let mut month = [without_traffic(contract, &terms, period)];
    contract.price(tenant, &terms, &mut month);
    let [month] = month;
    month
}

/// A registered service month without calls, before its fee is added.
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
