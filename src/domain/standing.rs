//! What the facts of a service month come to under a contract.

use super::availability::{Availability, Level};
use super::codes::Class;
use super::policy::{Policy, Tier};

/// Calls of one tenant and service month, by class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    classes: [u64; Class::ALL.len()],
}

impl Counts {
    /// Adds calls of a class.
    pub fn add(&mut self, class: Class, calls: u64) {
        self.classes[class.index()] += calls;
    }

    /// Calls of a class.
    pub fn of(&self, class: Class) -> u64 {
        self.classes[class.index()]
    }

    /// All calls (clause 1.4).
    pub fn total(&self) -> u64 {
        self.classes.iter().sum()
    }

    /// Calls that failed (clause 1.5).
    pub fn failed(&self) -> u64 {
        self.of(Class::SystemError)
    }

    /// A = (T − U) / T (clause 2.1).
    pub fn availability(&self) -> Availability {
        Availability { total: self.total(), failed: self.failed() }
    }

    /// The same with every doubtful call taken for a failure: ambiguous, unknown, no response.
    pub fn worst_case(&self) -> Availability {
        let doubtful = Class::ALL.into_iter().filter(|c| c.fails_in_worst_case());
        Availability { total: self.total(), failed: doubtful.map(|c| self.of(c)).sum() }
    }

    /// The sum of two.
    pub fn merge(&mut self, other: &Self) {
        self.classes.iter_mut().zip(other.classes).for_each(|(a, b)| *a += b);
    }

    /// Takes another's calls away again.
    pub fn unmerge(&mut self, other: &Self) {
        self.classes.iter_mut().zip(other.classes).for_each(|(a, b)| *a = a.saturating_sub(b));
    }

    /// The tier that applies, if any (clause 3.1).
    pub fn tier<'c>(&self, contract: &'c Policy) -> Option<&'c Tier> {
        contract.tier(self.availability())
    }

    /// How far the error budget is used up.
    pub fn level(&self, contract: &Policy) -> Level {
        self.availability().level(contract.target())
    }
}
