//! Standings of all tenants: the facts of the book under the contract, kept current tenant by tenant.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::book::Book;
use super::record::Tally;
use crate::domain::calendar::Month;
use crate::domain::call::Flag;
use crate::domain::standing::Counts;
use crate::domain::{codes::Class, policy::Policy};

/// The calls of every tenant and service month, by class. Until terms are known, service months are calendar months.
#[derive(Debug)]
pub struct Standings {
    contract: Arc<Policy>,
    tenants: HashMap<Arc<str>, Vec<(Month, Counts)>>,
    fleet: BTreeMap<Month, Counts>,
    /// Tenants whose calls lie in several shards.
    split: HashSet<Arc<str>>,
}

impl Standings {
    /// No tenants yet.
    pub fn new(contract: Arc<Policy>) -> Self {
        Self { contract, tenants: HashMap::new(), fleet: BTreeMap::new(), split: HashSet::new() }
    }

    /// The contract they are judged by.
    pub fn contract(&self) -> &Arc<Policy> {
        &self.contract
    }

    /// Evaluates these tenants anew.
    pub fn refresh<'a>(&mut self, book: &Book, tenants: impl IntoIterator<Item = &'a Arc<str>>) {
        for tenant in tenants {
            let mut months: BTreeMap<Month, Counts> = BTreeMap::new();
            for (month, tally) in book.tallies(tenant) {
                months.entry(month).or_default().merge(&counts(&tally, &self.contract));
            }
            if book.shards().iter().filter(|s| s.has_tenant(tenant)).nth(1).is_some() {
                self.split.insert(tenant.clone());
            } else {
                self.split.remove(tenant);
            }
            let new: Vec<_> = months.into_iter().collect();
            for (month, counts) in &new {
                self.fleet.entry(*month).or_default().merge(counts);
            }
            let old =
                if new.is_empty() { self.tenants.remove(tenant) } else { self.tenants.insert(tenant.clone(), new) };
            for (month, counts) in old.iter().flatten() {
                if let Some(sum) = self.fleet.get_mut(month) {
                    sum.unmerge(counts);
                }
            }
        }
        self.fleet.retain(|_, counts| counts.total() > 0);
    }

    /// Every tenant's months, in order of time.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &[(Month, Counts)])> {
        self.tenants.iter().map(|(tenant, months)| (tenant, months.as_slice()))
    }

    /// One tenant's months, in order of time.
    pub fn tenant(&self, tenant: &str) -> &[(Month, Counts)] {
        self.tenants.get(tenant).map_or(&[], Vec::as_slice)
    }

    /// All tenants together, by month.
    pub fn fleet(&self) -> &BTreeMap<Month, Counts> {
        &self.fleet
    }

    /// Tenants whose calls lie in several shards: their counts are exact, but duplicates across shards are not seen.
    pub fn split_tenants(&self) -> usize {
        self.split.len()
    }

    /// Number of tenants.
    pub fn len(&self) -> usize {
        self.tenants.len()
    }

    /// No tenants?
    pub fn is_empty(&self) -> bool {
        self.tenants.is_empty()
    }
}

/// A tally's calls by class.
pub fn counts(tally: &Tally, contract: &Policy) -> Counts {
    let mut counts = Counts::default();
    let mut not_ok = 0;
    for day in &tally.days {
        for (i, calls) in day.outcome_calls.iter().enumerate() {
            let code = day.outcome_codes[i].checked_sub(1).map(|c| tally.names[c as usize].as_str());
            let flag = Flag::from_number(day.outcome_flags[i]).unwrap_or(Flag::Absent);
            counts.add(contract.codes.classify(code, flag), *calls);
            not_ok += calls;
        }
    }
    counts.add(Class::Success, tally.total_calls().saturating_sub(not_ok));
    counts
}
