//! The facts of a service month evaluated under a policy.

use std::collections::BTreeMap;
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

/// Calls of one tenant, by how they were judged.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Figures {
    classes: [u64; Class::ALL.len()],
    /// Failures excluded, by clause; sorted, no zeros.
    excluded: SmallVec<[(Clause, u64); 2]>,
    /// Failures that clause 5.7 might exclude; they count.
    pub suspect: u64,
    /// Failures that the ledger does not itemise.
    pub unitemised: u64,
    /// Calls of actions that are not bound to the service; in no other figure.
    pub unbound: u64,
}

impl Figures {
    /// Adds calls that were judged the same.
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

    /// Subtracts another's calls; they must have been merged before.
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

    /// The same with every doubtful call counted as a failure: ambiguous, unknown, no response.
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
    /// Another service month of the tenant begins earlier in the calendar month, so this one is named by its first day.
    pub by_day: bool,
    /// Is it part of a registered term? Otherwise it is a calendar month, without fee and claim.
    pub registered: bool,
    /// The version of the policy that is effective on its first day.
    pub policy: Arc<Policy>,
    /// Its calls.
    pub figures: Figures,
    /// The most frequent of the failures that count, those first.
    pub top_failing: Box<[FailingCalls]>,
    /// The tenant's calls are in several partitions.
    pub split: bool,
    /// Its fee and what is owed; `None`: no bill is known.
    pub money: Option<Money>,
    /// Calls of it that are in no figure.
    pub uncounted: Uncounted,
    /// What rulings name in it but cannot reach.
    pub unreached: Unreached,
    /// Calls of its calendar month on days outside every registered term: in no service month.
    pub out_of_term: u64,
    /// The shards that have counted calls of the tenant in its calendar month.
    pub shards: SmallVec<[u32; 1]>,
}

/// What rulings name but cannot reach, because it is not itemised. It is judged as without them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unreached {
    /// Calls that are not itemised, of days that a ruling's interval cuts; how many of them it covers is unknown.
    pub calls: u64,
    /// Request ids that no itemised call has.
    pub request_ids: u64,
}

/// Calls of a service month that were not counted, or not judged one by one, so that its figures cannot be complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Uncounted {
    /// Refused because the tenant's month had `limits.rows_per_tenant_month` rows.
    pub limit: u64,
    /// Older than `limits.max_age` at their arrival.
    pub too_old: u64,
    /// The unsuccessful ones of both.
    pub not_ok: u64,
    /// Failing calls that are counted and not itemised, for `limits.evidence_per_month`.
    pub unheld: u64,
    /// The tenant was refused earlier in the month, for `limits.tenants_per_month`, or may have been.
    pub admitted_late: bool,
}

impl Uncounted {
    /// Those of a further day or shard.
    pub fn add(&mut self, other: Self) {
        self.limit += other.limit;
        self.too_old += other.too_old;
        self.not_ok += other.not_ok;
        self.unheld += other.unheld;
        self.admitted_late |= other.admitted_late;
    }

    /// Subtracts another's calls; they must have been added before. `admitted_late` stays set.
    pub fn remove(&mut self, other: Self) {
        self.limit -= other.limit;
        self.too_old -= other.too_old;
        self.not_ok -= other.not_ok;
        self.unheld -= other.unheld;
    }

    /// Are the figures known to include every call of the tenant that arrived?
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Why the month is not complete.
    pub fn reasons(&self) -> impl Iterator<Item = String> + use<> {
        let calls = |calls: u64, why: &str| {
            let were = if calls == 1 { "call of this month was" } else { "calls of this month were" };
            (calls > 0).then(|| format!("{calls} {were} not counted: {why}"))
        };
        let failing =
            (self.not_ok > 0).then(|| format!("{} of the calls that were not counted did not go well", self.not_ok));
        let late = self.admitted_late.then(|| format!("earlier calls of this month may be missing: {TENANT_LIMIT}"));
        let unheld = (self.unheld > 0).then(|| {
            let are =
                if self.unheld == 1 { "failing call of this month is" } else { "failing calls of this month are" };
            format!("{} {are} not held one by one: {EVIDENCE_LIMIT}", self.unheld)
        });
        [calls(self.limit, ROW_LIMIT), calls(self.too_old, AGE_LIMIT), failing, unheld, late].into_iter().flatten()
    }
}

/// Why a month that has not ended is not complete.
pub const RUNNING: &str = "running";

/// Why calls are not counted; follows their number in the text.
pub const ROW_LIMIT: &str = "limits.rows_per_tenant_month reached";
/// The same, for calls that came too late.
pub const AGE_LIMIT: &str = "older than limits.max_age when they arrived";
/// The same, for the calls of further tenants.
pub const TENANT_LIMIT: &str = "limits.tenants_per_month reached";

/// Why failing calls are not itemised.
pub const EVIDENCE_LIMIT: &str = "limits.evidence_per_month reached";

/// What is known about calls that a service month's figures do not include, beyond the month's own [`Uncounted`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Completeness {
    /// Why not all calls of the month are known to be counted; empty = they are.
    pub reasons: Vec<String>,
    /// Records that were rejected while the month ran, by reason. They cannot be read, or their times cannot be
    /// trusted, so their tenants are unknown: they are shown beside every tenant's figures.
    pub rejected: BTreeMap<String, u64>,
    /// Documents about the tenant that have no effect in the month.
    pub remarks: Vec<String>,
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

impl FailingCalls {
    /// Are these failures of the same action and code?
    pub fn is_same(&self, other: &Self) -> bool {
        self.action == other.action && self.code == other.code
    }
}

/// The money of a service month, in minor units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Money {
    /// The fee.
    pub fee: MonthFee,
    /// What is owed now.
    pub payout: Payout,
    /// What would be owed one tier further down; `None`: there is no lower tier.
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

    /// With every doubtful call counted as a failure.
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

    /// Is it over at `now_ms`, by its policy's zone?
    pub fn is_over(&self, now_ms: i64) -> bool {
        now_ms >= day_start_ms(self.policy.time_zone, self.period.next_day())
    }

    /// The state of its claim at `now_ms`, and the window; no window without a registered term. `claims`: the tenant's,
    /// in the order they were recorded.
    pub fn claim(&self, claims: &[Arc<ClaimEvent>], now_ms: i64) -> (ClaimState, Option<ClaimWindow>) {
        let (zone, period) = (self.policy.time_zone, self.period);
        if !self.registered {
            return (if self.is_over(now_ms) { ClaimState::Ended } else { ClaimState::Running }, None);
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

    /// Its name: `YYYY-MM`, or `YYYY-MM-DD` where that would be ambiguous.
    pub fn label(&self) -> String {
        if self.by_day { self.period.first.to_string() } else { self.period.first.month().to_string() }
    }
}
