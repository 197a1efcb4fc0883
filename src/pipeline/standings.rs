//! Standings of all tenants: the facts of the book under the contract, kept current tenant by tenant.
//!
//! A tenant is evaluated from its facts alone, so a policy, term, fee, notice or ruling that comes late needs no
//! replay: [`Standings::refresh`] evaluates the tenants whose facts changed. A standing keeps the result of each day
//! that is not folded, so that a call costs only its day ([`Standings::update`]): the day's part is removed and the new
//! one added. Any change that could reach beyond the day causes a full evaluation of the tenant. Both ways give exactly
//! the same result.
//!
//! A copy of the standings shares what has not changed since: that is what is published.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use smallvec::SmallVec;

pub use self::day::{Breakdown, FailureCounts};
use self::day::{Classes, DayPart, DayParts, Days, UNKNOWN_CODES, add_failing, most_frequent};
pub use self::evaluation::Evaluation;
pub use self::evidence::{Evidence, UnitemisedEvidence};
use super::book::{Book, ChangedFacts};
use super::pace::Pace;
use super::tenants::TenantMap;
use crate::domain::alert::Windows;
use crate::domain::availability::Availability;
use crate::domain::calendar::{LocalClock, LocalDay, Month};
use crate::domain::contract::Contract;
use crate::domain::money::Currency;
use crate::domain::standing::{FailingCalls, Figures, ServiceMonth};
use crate::domain::workdays::ClaimWindow;

mod day;
mod evaluation;
mod evidence;

/// The service months of every tenant.
#[derive(Debug, Clone)]
pub struct Standings {
    contract: Arc<Contract>,
    tenants: TenantMap<Arc<TenantStanding>>,
    fleet: BTreeMap<Month, Fleet>,
    split: usize,
    /// Unclassified codes, with the number of tenants that have them.
    unknown_codes: BTreeMap<Arc<str>, usize>,
    /// Tenants with as many unclassified codes as are listed per tenant; they may have more.
    many_unknown: usize,
    /// Only needed for evaluation.
    classes: Classes,
    /// Changes so far: the last one's revision.
    revisions: u64,
}

/// One tenant.
#[derive(Debug, Clone, Default)]
pub struct TenantStanding {
    /// The service months with calls, in order of time.
    pub months: Vec<ServiceMonth>,
    /// Calls on days that no registered term holds, by calendar month; empty for an unregistered tenant.
    pub out_of_term: BTreeMap<Month, u64>,
    /// Its calls are in several shards: counts are exact, but duplicates across shards are not detected.
    pub split: bool,
    /// The shards that hold facts of it.
    pub shards: SmallVec<[u32; 2]>,
    /// Calls of the last days with calls, in order of time: the basis of a forecast.
    pub calls_by_day: Vec<(LocalDay, u64)>,
    /// Some of the codes of its calls that no policy of its service months classifies.
    pub unknown_codes: Vec<Arc<str>>,
    days: Days,
    /// All failures of each service month.
    failing: Vec<Arc<[FailingCalls]>>,
    /// The results of the days that are not folded, by shard and day.
    parts: DayParts,
    /// The last hours, as this instance has seen them.
    pace: Pace,
    revision: u64,
}

impl TenantStanding {
    /// The last hours before `now_ms`.
    pub fn windows(&self, now_ms: i64) -> Windows {
        self.pace.windows(now_ms)
    }

    /// Grows with every change of the tenant's standing.
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    fn has_failures(&self) -> bool {
        self.months.iter().any(|month| month.figures.failed() > 0)
    }

    /// The first day and the availability of the service month that holds this day.
    fn current(&self, day: LocalDay) -> Option<(LocalDay, Availability)> {
        let month = self.months.iter().rfind(|month| month.period.contains(day))?;
        Some((month.period.first, month.availability()))
    }

    /// What was added to the current service month since `before`, at a watermark, belongs to the last hours.
    fn add_pace(&mut self, before: Option<(LocalDay, Availability)>, day: LocalDay, watermark_ms: i64) {
        let Some((now_first, now)) = self.current(day) else { return };
        let before = before.filter(|(first, _)| *first == now_first).map_or_else(Availability::default, |(_, a)| a);
        let (total, failed) = (now.total.saturating_sub(before.total), now.failed.saturating_sub(before.failed));
        self.pace.add(watermark_ms, Availability { total, failed });
    }
}

/// All tenants together, over the service months that begin in one calendar month.
#[derive(Debug, Clone, Default)]
pub struct Fleet {
    /// Service months.
    pub months: u64,
    /// Their calls.
    pub figures: Figures,
    /// T of their availabilities.
    pub denominator: u64,
    /// Money by currency, in minor units.
    pub money: BTreeMap<Currency, FleetMoney>,
}

/// Money of all tenants, in minor units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FleetMoney {
    /// Owed now.
    pub owed: i64,
    /// Owed if every tenant fell by one tier.
    pub next: i64,
}

impl Fleet {
    /// A over all calls.
    pub fn availability(&self) -> Availability {
        Availability { total: self.denominator, failed: self.figures.failed() }
    }

    fn add(&mut self, month: &ServiceMonth, sign: i64) {
        if sign > 0 {
            self.months += 1;
            self.figures.merge(&month.figures);
            self.denominator += month.availability().total;
        } else {
            self.months -= 1;
            self.figures.unmerge(&month.figures);
            self.denominator -= month.availability().total;
        }
        if let Some(money) = &month.money {
            let sum = self.money.entry(money.currency()).or_default();
            sum.owed += sign * money.payout.payout_minor;
            sum.next += sign * money.next_payout.unwrap_or(money.payout).payout_minor;
        }
    }
}

impl Standings {
    /// No tenants yet.
    pub fn new(contract: Arc<Contract>) -> Self {
        Self {
            contract,
            tenants: TenantMap::default(),
            fleet: BTreeMap::new(),
            split: 0,
            unknown_codes: BTreeMap::new(),
            many_unknown: 0,
            classes: Classes::default(),
            revisions: 0,
        }
    }

    /// What they are judged by.
    pub fn contract(&self) -> &Arc<Contract> {
        &self.contract
    }

    /// A copy for readers, without what only evaluation needs.
    pub fn shown(&self) -> Self {
        Self {
            contract: self.contract.clone(),
            tenants: self.tenants.clone(),
            fleet: self.fleet.clone(),
            split: self.split,
            unknown_codes: self.unknown_codes.clone(),
            many_unknown: self.many_unknown,
            classes: Classes::default(),
            revisions: self.revisions,
        }
    }

    /// Re-evaluates these tenants.
    pub fn refresh<'a>(&mut self, book: &Book, tenants: impl IntoIterator<Item = &'a Arc<str>>) {
        for tenant in tenants {
            let old = self.tenants.remove(tenant).unwrap_or_default();
            self.account(&old, -1);
            let evaluation = Evaluation::new(&self.contract, book, tenant);
            if evaluation.shards.is_empty() {
                continue;
            }
            // A tenant whose split changes is judged differently.
            let days = if old.split == evaluation.split { old.days.clone() } else { Days::new() };
            let mut new = evaluation.standing(days, &mut self.classes);
            new.pace = old.pace.clone();
            self.revisions += 1;
            new.revision = self.revisions;
            self.account(&new, 1);
            self.tenants.insert(tenant.clone(), Arc::new(new));
        }
        self.fleet.retain(|_, fleet| fleet.months > 0);
    }

    /// Applies a tenant's changes in one shard. What they add to the current service month counts towards the tenant's
    /// last hours. `false`: none of its calls has failed, before or now, and there are only new calls, so that no alert
    /// begins or ends.
    pub fn update(
        &mut self,
        book: &Book,
        shard: u32,
        tenant: &Arc<str>,
        changed: &ChangedFacts,
        clock: &mut LocalClock,
    ) -> bool {
        let watermark_ms = book.shard(shard).and_then(|shard| shard.checkpoint()?.watermark_ms).unwrap_or(i64::MIN);
        let day = clock.day(watermark_ms.max(0));
        // A new tenant comes from reading the ledger's past, not from the last minute.
        let (before, had_failures) = match self.tenant(tenant) {
            Some(standing) => (Some(standing.current(day)), standing.has_failures()),
            None => (None, true),
        };
        let days_only = match changed {
            ChangedFacts::Days(days) => days.iter().all(|day| self.replace_day(book, shard, *day, tenant)),
            ChangedFacts::Any => false,
        };
        if !days_only {
            self.refresh(book, [tenant]);
        }
        if let Some((before, standing)) = before.zip(self.tenants.get_mut(tenant)) {
            let standing = Arc::make_mut(standing);
            standing.add_pace(before, day, watermark_ms);
            return !days_only || had_failures || standing.has_failures();
        }
        true
    }

    /// Replaces the result of a day with the current one. `false`: the tenant needs a full evaluation, and nothing was
    /// done.
    fn replace_day(&mut self, book: &Book, shard: u32, day: LocalDay, tenant: &Arc<str>) -> bool {
        let Some(standing) = self.tenants.get(tenant) else { return false };
        let Some(at) = standing.parts.iter().position(|(place, _)| *place == (shard, day)) else { return false };
        let Some(index) = standing.months.iter().position(|month| month.period.contains(day)) else { return false };
        let evaluation = Evaluation::of_shards(&self.contract, book, tenant, standing.shards.clone());
        let old = &standing.parts[at].1;
        let mut days = standing.days.clone();
        let policy = &standing.months[index].policy;
        let Some(new) = evaluation.live_part(shard, day, policy, &mut self.classes, &mut days) else { return false };
        let is_known = |code: &Arc<str>| standing.unknown_codes.contains(code);
        let is_left = |code: &Arc<str>| new.unknown_codes.contains(code);
        if !new.unknown_codes.iter().all(is_known) || !old.unknown_codes.iter().all(is_left) {
            return false;
        }
        let before = &standing.months[index];
        let Some((month, failing)) = replaced(before, &standing.failing[index], old, &new) else { return false };
        if let Some(fleet) = self.fleet.get_mut(&month.period.first.month()) {
            fleet.add(before, -1);
            fleet.add(&month, 1);
        }
        let Some(standing) = self.tenants.get_mut(tenant).map(Arc::make_mut) else { return false };
        if let Some((_, calls)) = standing.calls_by_day.iter_mut().rfind(|(known, _)| *known == day) {
            *calls = *calls + new.figures.total() - standing.parts[at].1.figures.total();
        }
        standing.months[index] = month;
        if let Some(failing) = failing {
            standing.failing[index] = failing;
        }
        standing.parts[at].1 = Arc::new(new);
        standing.days = days;
        self.revisions += 1;
        standing.revision = self.revisions;
        true
    }

    /// Takes over what only this instance knows of these tenants, from the standings that these replace.
    pub fn inherit<'a>(&mut self, old: &Self, tenants: impl IntoIterator<Item = &'a Arc<str>>) {
        // A tenant's revision only ever grows.
        self.revisions = self.revisions.max(old.revisions) + 1;
        for tenant in tenants {
            if let Some(new) = self.tenants.get_mut(tenant).map(Arc::make_mut) {
                new.pace = old.tenants.get(tenant).map(|old| old.pace.clone()).unwrap_or_default();
                new.revision = self.revisions;
            }
        }
    }

    fn account(&mut self, standing: &TenantStanding, sign: i64) {
        self.split =
            if sign > 0 { self.split + usize::from(standing.split) } else { self.split - usize::from(standing.split) };
        let many = usize::from(standing.unknown_codes.len() >= UNKNOWN_CODES);
        self.many_unknown = if sign > 0 { self.many_unknown + many } else { self.many_unknown - many };
        for code in &standing.unknown_codes {
            let tenants = self.unknown_codes.entry(code.clone()).or_default();
            *tenants = if sign > 0 { *tenants + 1 } else { *tenants - 1 };
            if *tenants == 0 {
                self.unknown_codes.remove(code);
            }
        }
        for month in &standing.months {
            self.fleet.entry(month.period.first.month()).or_default().add(month, sign);
        }
    }

    /// Adds the tenants of another part of the same rebuild; no tenant may be in both.
    pub fn absorb(&mut self, other: Self) {
        self.revisions = self.revisions.max(other.revisions);
        for (tenant, standing) in other.tenants.iter() {
            self.account(standing, 1);
            self.tenants.insert(tenant.clone(), standing.clone());
        }
    }

    /// Every tenant's service months, in order of time.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &[ServiceMonth])> {
        self.tenants.iter().map(|(tenant, standing)| (tenant, standing.months.as_slice()))
    }

    /// Every tenant's standing.
    pub fn all(&self) -> impl Iterator<Item = (&Arc<str>, &TenantStanding)> {
        self.tenants.iter().map(|(tenant, standing)| (tenant, &**standing))
    }

    /// One tenant.
    pub fn tenant(&self, tenant: &str) -> Option<&TenantStanding> {
        self.tenants.get(tenant).map(AsRef::as_ref)
    }

    /// A tenant's last hours before `now_ms`, as this instance has seen them.
    pub fn windows(&self, tenant: &str, now_ms: i64) -> Windows {
        self.tenant(tenant).map(|standing| standing.windows(now_ms)).unwrap_or_default()
    }

    /// One tenant's service months, in order of time.
    pub fn months(&self, tenant: &str) -> &[ServiceMonth] {
        self.tenants.get(tenant).map_or(&[], |standing| &standing.months)
    }

    /// All tenants together, by the calendar month their service months begin in.
    pub fn fleet(&self) -> &BTreeMap<Month, Fleet> {
        &self.fleet
    }

    /// Policies and the calendar years whose working days they lack for claims of service months that begin in or after
    /// this month.
    pub fn calendar_missing(&self, first: Month) -> BTreeSet<(String, i32)> {
        let mut all = BTreeSet::new();
        for policy in self.contract.policies.versions() {
            let ends = self.fleet.range(first..).map(|(month, _)| month.last_day());
            let missing = ends.filter_map(|end| ClaimWindow::missing_year(end, &policy.claim, &policy.workdays));
            all.extend(missing.map(|year| (policy.id.clone(), year)));
        }
        all
    }

    /// Are all codes among [`Standings::unknown_codes`] that no policy classifies? Only some are listed per tenant.
    pub fn names_all_unknown_codes(&self) -> bool {
        self.many_unknown == 0
    }

    /// Codes that no policy classifies, with the number of tenants that have them.
    pub fn unknown_codes(&self) -> &BTreeMap<Arc<str>, usize> {
        &self.unknown_codes
    }

    /// Tenants whose calls are in several shards.
    pub fn split_tenants(&self) -> usize {
        self.split
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

/// A service month with another part of a day, and its failures where they are others. `None`: another tier applies, so that
/// what is owed for it and for later ones changes.
fn replaced(
    before: &ServiceMonth,
    failing: &Arc<[FailingCalls]>,
    old: &DayPart,
    new: &DayPart,
) -> Option<(ServiceMonth, Option<Arc<[FailingCalls]>>)> {
    let mut month = before.clone();
    month.figures.unmerge(&old.figures);
    month.figures.merge(&new.figures);
    month.uncounted.add(new.uncounted);
    month.uncounted.remove(old.uncounted);
    month.unreached.calls = month.unreached.calls + new.unreached - old.unreached;
    let rates = |month: &ServiceMonth| [month.tier(), month.next_tier()].map(|tier| tier.map(|tier| tier.rate));
    if month.money.is_some() && rates(&month) != rates(before) {
        return None;
    }
    if old.failing == new.failing {
        return Some((month, None));
    }
    let mut all = failing.to_vec();
    for gone in &old.failing {
        if let Some(known) = all.iter_mut().find(|known| known.is_same(gone)) {
            known.failures -= gone.failures;
        }
    }
    all.retain(|known| known.failures > 0);
    new.failing.iter().for_each(|more| add_failing(&mut all, more));
    month.top_failing = most_frequent(&mut all);
    Some((month, Some(all.into())))
}
