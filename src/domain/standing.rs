//! What the facts of a service month come to under a policy.

use std::sync::Arc;

use smallvec::SmallVec;

use super::availability::{Availability, Level, Ppm};
use super::calendar::day_start_ms;
use super::codes::Class;
use super::decision::{Decision, Outcome};
use super::documents::ClaimEvent;
use super::money::{Currency, MonthFee, Payout, payout};
use super::policy::{Clause, Denominator, Policy, Tier};
use super::term::Period;
use super::workdays::{ClaimState, ClaimWindow, claim_state};

/// Calls of one tenant, by what they came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Figures {
    classes: [u64; Class::ALL.len()],
    /// Failures excluded, by clause; sorted, no zeros.
    excluded: SmallVec<[(Clause, u64); 2]>,
    /// Failures that clause 5.7 might exclude; they count.
    pub suspect: u64,
    /// Failures that the ledger does not hold one by one.
    pub unitemised: u64,
    /// Calls of actions that are not bound to the service; in no other figure.
    pub unbound: u64,
}

impl Figures {
    /// Adds calls that came to the same.
    pub fn add(&mut self, decision: &Decision<'_>, calls: u64) {
        if calls == 0 {
            return;
        }
        match decision.outcome {
            Outcome::Unbound => {
                self.unbound += calls;
                return;
            }
            Outcome::Suspect => self.suspect += calls,
            Outcome::Excluded(clause) => self.add_excluded(clause, calls),
            Outcome::NoFailure | Outcome::Counted => {}
        }
        self.classes[decision.class.index()] += calls;
    }

    /// Adds bound calls of a class that nothing excludes.
    pub fn add_class(&mut self, class: Class, calls: u64) {
        self.classes[class.index()] += calls;
    }

    fn add_excluded(&mut self, clause: Clause, calls: u64) {
        match self.excluded.binary_search_by_key(&clause, |(c, _)| *c) {
            Ok(at) => self.excluded[at].1 += calls,
            Err(at) => self.excluded.insert(at, (clause, calls)),
        }
    }

    /// The sum of two.
    pub fn merge(&mut self, other: &Self) {
        self.classes.iter_mut().zip(other.classes).for_each(|(a, b)| *a += b);
        for (clause, calls) in &other.excluded {
            self.add_excluded(*clause, *calls);
        }
        self.suspect += other.suspect;
        self.unitemised += other.unitemised;
        self.unbound += other.unbound;
    }

    /// Takes another's calls away again; they must have been merged before.
    pub fn unmerge(&mut self, other: &Self) {
        self.classes.iter_mut().zip(other.classes).for_each(|(a, b)| *a = a.saturating_sub(b));
        for (clause, calls) in &other.excluded {
            if let Ok(at) = self.excluded.binary_search_by_key(clause, |(c, _)| *c) {
                self.excluded[at].1 = self.excluded[at].1.saturating_sub(*calls);
            }
        }
        self.excluded.retain(|(_, calls)| *calls > 0);
        self.suspect = self.suspect.saturating_sub(other.suspect);
        self.unitemised = self.unitemised.saturating_sub(other.unitemised);
        self.unbound = self.unbound.saturating_sub(other.unbound);
    }

    /// Calls of a class, as ruled.
    pub fn of(&self, class: Class) -> u64 {
        self.classes[class.index()]
    }

    /// All calls of the service (clause 1.4).
    pub fn total(&self) -> u64 {
        self.classes.iter().sum()
    }

    /// Failures before exclusions (clause 1.5).
    pub fn failed_raw(&self) -> u64 {
        self.of(Class::SystemError)
    }

    /// Failures excluded, by clause.
    pub fn excluded(&self) -> &[(Clause, u64)] {
        &self.excluded
    }

    /// Failures excluded.
    pub fn excluded_total(&self) -> u64 {
        self.excluded.iter().map(|(_, calls)| calls).sum()
    }

    /// U: failures that count (clause 5).
    pub fn failed(&self) -> u64 {
        self.failed_raw() - self.excluded_total()
    }

    /// T of the availability.
    pub fn denominator(&self, rule: Denominator) -> u64 {
        match rule {
            Denominator::Keep => self.total(),
            Denominator::Drop => self.total() - self.excluded_total(),
        }
    }

    /// A = (T − U) / T (clause 2.1).
    pub fn availability(&self, rule: Denominator) -> Availability {
        Availability { total: self.denominator(rule), failed: self.failed() }
    }

    /// The same with nothing excluded.
    pub fn availability_raw(&self) -> Availability {
        Availability { total: self.total(), failed: self.failed_raw() }
    }

    /// The same with every doubtful call taken for a failure: ambiguous, unknown, no response.
    pub fn worst_case(&self, rule: Denominator) -> Availability {
        let doubtful = Class::ALL.into_iter().filter(|c| c.fails_in_worst_case() && *c != Class::SystemError);
        let failed = self.failed() + doubtful.map(|c| self.of(c)).sum::<u64>();
        Availability { total: self.denominator(rule), failed }
    }
}

/// One tenant's service month.
#[derive(Debug, Clone)]
pub struct ServiceMonth {
    /// Its days.
    pub period: Period,
    /// Another service month of the tenant begins earlier in the calendar month: it is called by its first day.
    pub by_day: bool,
    /// Does a registered term hold it? Otherwise it is a calendar month, without fee and claim.
    pub registered: bool,
    /// The version of the policy in force on its first day.
    pub policy: Arc<Policy>,
    /// Its calls.
    pub figures: Figures,
    /// The most frequent of the failures that count, those first.
    pub top_failing: Box<[FailingCalls]>,
    /// The tenant's calls lie in several partitions.
    pub split: bool,
    /// Its fee and what is owed; `None`: no bill is known.
    pub money: Option<Money>,
}

/// Failures that count of one action and code.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FailingCalls {
    /// The API action.
    pub action: Box<str>,
    /// The error code.
    pub code: Option<Box<str>>,
    /// How many.
    pub failures: u64,
}

/// The money of a service month, in minor units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Money {
    /// The fee.
    pub fee: MonthFee,
    /// What is owed now.
    pub payout: Payout,
    /// What would be owed one tier further down; `None`: there is none.
    pub next_payout: Option<Payout>,
}

impl Money {
    /// The currency.
    pub fn currency(&self) -> Currency {
        self.fee.currency
    }
}

impl ServiceMonth {
    /// A = (T − U) / T (clause 2.1).
    pub fn availability(&self) -> Availability {
        self.figures.availability(self.policy.exclusions.denominator)
    }

    /// With every doubtful call taken for a failure.
    pub fn worst_case(&self) -> Availability {
        self.figures.worst_case(self.policy.exclusions.denominator)
    }

    /// The tier that applies, if any (clause 3.1).
    pub fn tier(&self) -> Option<&Tier> {
        self.policy.tier(self.availability())
    }

    /// The next tier down; `None` in the last one, or without traffic.
    pub fn next_tier(&self) -> Option<&Tier> {
        let availability = self.availability();
        let reached = self.policy.tiers.iter().filter(|tier| !availability.at_least(tier.below)).count();
        if availability.total == 0 { None } else { self.policy.tiers.get(reached) }
    }

    /// How far the error budget is used up.
    pub fn level(&self) -> Level {
        self.availability().level(self.policy.target())
    }

    /// Where its claim stands at `now_ms`, and the window; none without a registered term. `claims`: the tenant's, in the
    /// order they were recorded.
    pub fn claim(&self, claims: &[Arc<ClaimEvent>], now_ms: i64) -> (ClaimState, Option<ClaimWindow>) {
        let (zone, period) = (self.policy.time_zone, self.period);
        if !self.registered {
            let ended = now_ms >= day_start_ms(zone, period.next_day());
            return (if ended { ClaimState::Ended } else { ClaimState::Running }, None);
        }
        let window = ClaimWindow::of(period.last, &self.policy.claim, &self.policy.workdays);
        let own = claims.iter().filter(|claim| claim.period_start == period.first);
        let own: SmallVec<[&ClaimEvent; 4]> = own.map(AsRef::as_ref).collect();
        (claim_state(period, window, zone, now_ms, &own), Some(window))
    }

    /// What would be owed, in minor units, if this were its availability; `None`: no bill is known.
    pub fn payout_at(&self, availability: Availability) -> Option<i64> {
        let Money { fee, payout: now, .. } = self.money.as_ref()?;
        let rate = self.policy.tier(availability).map_or(Ppm(0), |tier| tier.rate);
        let (base, rounding) = (self.policy.fee_base, self.policy.rounding);
        Some(payout(rate, fee, base, rounding, now.cap_left_minor).payout_minor)
    }

    /// What it is called: `YYYY-MM`, or `YYYY-MM-DD` where that would name two.
    pub fn label(&self) -> String {
        if self.by_day { self.period.first.to_string() } else { self.period.first.month().to_string() }
    }
}
