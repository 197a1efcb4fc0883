//! Standings of all tenants: the facts of the book under the contract, kept current tenant by tenant.
//!
//! A tenant is evaluated from its facts alone, so a policy, term, fee, notice or ruling that comes late needs no replay:
//! [`Standings::refresh`] evaluates those whose facts changed. A standing keeps what each day that is not folded came to, so
//! that a call costs its day ([`Standings::update`]): the day's part is taken out and put in anew. Whatever could reach
//! beyond the day has the tenant evaluated whole, and both ways come to the same, bit by bit.
//!
//! A copy of the standings shares what has not changed since: that is what is published.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::sync::Arc;

use smallvec::SmallVec;

use super::book::{Book, ChangedFacts, DayChunks, DaySeconds, MonthFacts, News, Seen, ShardBook};
use super::dictionary::Dictionary;
use super::pace::Pace;
use super::record::{DICTIONARY_NAMES, Item, TallyDay};
use super::tenants::TenantMap;
use crate::domain::alert::Windows;
use crate::domain::availability::Availability;
use crate::domain::calendar::{LocalClock, LocalDay, Month, day_start_ms};
use crate::domain::call::Flag;
use crate::domain::codes::{Class, CodeMap};
use crate::domain::contract::Contract;
use crate::domain::decision::{Decision, FailingCall, Judge, Outcome, Unitemised};
use crate::domain::documents::Scope;
use crate::domain::money::Currency;
use crate::domain::policy::Policy;
use crate::domain::rulebook::TenantRules;
use crate::domain::standing::{FailingCalls, Figures, ServiceMonth, Uncounted, Unreached};
use crate::domain::term::{Period, Terms};
use crate::domain::workdays::ClaimWindow;

/// What a day's items came to is kept from so many bytes of them on, so that a call in the middle of an incident does not look
/// at the whole incident again.
const REMEMBER_FROM_BYTES: usize = 2048;

/// Days of a tenant's own past that a forecast looks at.
const FORECAST_DAYS: usize = 42;
/// Actions and codes of a service month whose failures are kept apart, the most frequent ones.
const TOP_FAILING: usize = 5;
/// Codes without a class that are kept of one tenant.
const UNKNOWN_CODES: usize = 8;

/// The service months of every tenant.
#[derive(Debug, Clone)]
pub struct Standings {
    contract: Arc<Contract>,
    tenants: TenantMap<Arc<TenantStanding>>,
    fleet: BTreeMap<Month, Fleet>,
    split: usize,
    /// Codes without a class, with the number of tenants they were seen of.
    unknown_codes: BTreeMap<Arc<str>, usize>,
    /// Tenants with as many codes without a class as are named of one; they may have more.
    many_unknown: usize,
    classes: Arc<Classes>,
    /// Changes so far: the last one's revision.
    revisions: u64,
}

/// One tenant.
#[derive(Debug, Clone, Default)]
pub struct TenantStanding {
    /// The service months with calls, in order of time.
    pub months: Vec<ServiceMonth>,
    /// Calls on days that no registered term holds, by calendar month; none for a tenant that nobody registered.
    pub out_of_term: BTreeMap<Month, u64>,
    /// Its calls lie in several shards: counts are exact, but duplicates across shards are not seen.
    pub split: bool,
    /// The shards that hold facts of it.
    pub shards: SmallVec<[u32; 2]>,
    /// Calls of the last days with calls, in order of time: what a forecast goes by.
    pub calls_by_day: Vec<(LocalDay, u64)>,
    /// Some of the codes of its calls that no policy of its service months classifies.
    pub unknown_codes: Vec<Arc<str>>,
    days: Days,
    /// All failures of each service month.
    failing: Vec<Arc<[FailingCalls]>>,
    /// What the days came to that are not folded, by shard and day.
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

/// What days came to that are not folded, by shard and day.
type DayParts = SmallVec<[((u32, LocalDay), Arc<DayPart>); 1]>;

/// What one day of one shard comes to.
#[derive(Debug, Clone, Default)]
struct DayPart {
    figures: Figures,
    /// Some of its calls were counted.
    counted: bool,
    failing: Vec<FailingCalls>,
    uncounted: Uncounted,
    /// Calls that a ruling means and cannot reach.
    unreached: u64,
    unknown_codes: Vec<Arc<str>>,
}

/// The classes of codes, by shard, policy and number: looked up once, not once a tenant.
#[derive(Debug, Clone, Default)]
struct Classes(Vec<SmallVec<[PolicyClasses; 1]>>);

/// A policy and the classes of numbered codes under it, as far as they were looked up.
type PolicyClasses = (Arc<Policy>, Vec<Option<Class>>);

impl Classes {
    /// Those of a shard under a policy.
    fn of(&mut self, shard: u32, policy: &Arc<Policy>) -> &mut Vec<Option<Class>> {
        let shard = shard as usize;
        if self.0.len() <= shard {
            self.0.resize_with(shard + 1, SmallVec::new);
        }
        let known = &mut self.0[shard];
        // It is held here, so that no other policy can come to lie in its place.
        let at = known.iter().position(|(known, _)| Arc::ptr_eq(known, policy)).unwrap_or_else(|| {
            known.push((policy.clone(), Vec::new()));
            known.len() - 1
        });
        &mut known[at].1
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
            classes: Arc::default(),
            revisions: 0,
        }
    }

    /// What they are judged by.
    pub fn contract(&self) -> &Arc<Contract> {
        &self.contract
    }

    /// Evaluates these tenants anew.
    pub fn refresh<'a>(&mut self, book: &Book, tenants: impl IntoIterator<Item = &'a Arc<str>>) {
        for tenant in tenants {
            let old = self.tenants.remove(tenant).unwrap_or_default();
            self.account(&old, -1);
            let evaluation = Evaluation::new(&self.contract, book, tenant);
            if evaluation.shards.is_empty() {
                continue;
            }
            // A tenant that comes to be split is judged otherwise.
            let days = if old.split == evaluation.split { old.days.clone() } else { Days::new() };
            let mut new = evaluation.standing(days, Arc::make_mut(&mut self.classes));
            new.pace = old.pace.clone();
            self.revisions += 1;
            new.revision = self.revisions;
            self.account(&new, 1);
            self.tenants.insert(tenant.clone(), Arc::new(new));
        }
        self.fleet.retain(|_, fleet| fleet.months > 0);
    }

    /// Takes in what has changed of a tenant in one shard. What that adds to the current service month belongs to the
    /// tenant's last hours. `false`: no call of it has failed, neither before nor now, and nothing but calls came, so that
    /// no alert begins or ends.
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
        // A tenant that was not known is a reading of the ledger's past, not of the last minute.
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

    /// Puts what a day comes to now in the place of what it came to. `false`: the tenant has to be evaluated whole, and
    /// nothing was done.
    fn replace_day(&mut self, book: &Book, shard: u32, day: LocalDay, tenant: &Arc<str>) -> bool {
        let Some(standing) = self.tenants.get(tenant) else { return false };
        let Some(at) = standing.parts.iter().position(|(place, _)| *place == (shard, day)) else { return false };
        let Some(index) = standing.months.iter().position(|month| month.period.contains(day)) else { return false };
        let evaluation = Evaluation::of_shards(&self.contract, book, tenant, standing.shards.clone());
        let old = &standing.parts[at].1;
        let mut days = standing.days.clone();
        let classes = Arc::make_mut(&mut self.classes);
        let policy = &standing.months[index].policy;
        let Some(new) = evaluation.live_part(shard, day, policy, classes, &mut days) else { return false };
        let is_known = |code: &Arc<str>| standing.unknown_codes.contains(code);
        let is_left = |code: &Arc<str>| new.unknown_codes.contains(code);
        if new.counted != old.counted
            || !new.unknown_codes.iter().all(is_known)
            || !old.unknown_codes.iter().all(is_left)
        {
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

    /// Takes over what only this instance knows of the tenants, from the standings that these take the place of.
    pub fn inherit(&mut self, old: &Self) {
        let tenants: Vec<Arc<str>> = self.tenants.keys().cloned().collect();
        for tenant in tenants {
            if let Some(new) = self.tenants.get_mut(&tenant).map(Arc::make_mut) {
                new.pace = old.tenants.get(&tenant).map(|old| old.pace.clone()).unwrap_or_default();
                new.revision += old.revisions;
            }
        }
        self.revisions += old.revisions;
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

    /// Takes in the tenants of another part of the same rebuild; no tenant may be in both.
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

    /// Are all codes among [`Standings::unknown_codes`] that no policy classifies? Of one tenant only some are named.
    pub fn names_all_unknown_codes(&self) -> bool {
        self.many_unknown == 0
    }

    /// Codes that no policy classifies, with the number of tenants they were seen of.
    pub fn unknown_codes(&self) -> &BTreeMap<Arc<str>, usize> {
        &self.unknown_codes
    }

    /// Tenants whose calls lie in several shards.
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
    month.uncounted.limit = month.uncounted.limit + new.uncounted.limit - old.uncounted.limit;
    month.uncounted.too_old = month.uncounted.too_old + new.uncounted.too_old - old.uncounted.too_old;
    month.uncounted.not_ok = month.uncounted.not_ok + new.uncounted.not_ok - old.uncounted.not_ok;
    month.uncounted.unheld = month.uncounted.unheld + new.uncounted.unheld - old.uncounted.unheld;
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

fn add_failing(all: &mut Vec<FailingCalls>, more: &FailingCalls) {
    match all.iter_mut().find(|known| known.is_same(more)) {
        Some(known) => known.failures += more.failures,
        None => all.push(more.clone()),
    }
}

/// Sorts failures, the most frequent first; those come back.
fn most_frequent(all: &mut [FailingCalls]) -> Box<[FailingCalls]> {
    all.sort_unstable_by(|a, b| b.failures.cmp(&a.failures).then_with(|| a.cmp(b)));
    all.iter().take(TOP_FAILING).cloned().collect()
}

/// Adds codes without a class; the first ones of the alphabet are kept, so that the order in which they come is nothing.
fn add_unknown(all: &mut Vec<Arc<str>>, code: &str) {
    if let Err(at) = all.binary_search_by(|known| (**known).cmp(code))
        && at < UNKNOWN_CODES
    {
        all.insert(at, code.into());
        all.truncate(UNKNOWN_CODES);
    }
}

/// What the items of days came to, by shard and day, as far as they were looked at.
type Days = HashMap<(u32, LocalDay), (Seen, Arc<ItemSums>)>;

/// What the items of one day and shard come to.
#[derive(Debug, Clone, Default)]
struct ItemSums {
    figures: Figures,
    rows: Vec<ItemRow>,
    /// Request ids that rulings name and that are among the items.
    named: Vec<String>,
}

/// Items of one row of the tally.
#[derive(Debug, Clone)]
struct ItemRow {
    action: String,
    code: Option<String>,
    flag: Flag,
    items: u64,
    /// Those that count as failures.
    failures: u64,
}

impl ItemSums {
    /// As remembered, with what is new since, or from all items. What is remembered was decided under the same contract.
    fn at(judge: &Judge<'_>, facts: &DayFacts<'_>, days: &mut Days) -> Arc<Self> {
        let Some(chunks) = facts.shard.day_chunks(judge.tenant, facts.day) else { return Arc::default() };
        if chunks.bytes() < REMEMBER_FROM_BYTES {
            return Arc::new(Self::of_day(judge, facts.shard, facts.day));
        }
        let (place, seen) = ((facts.number, facts.day), chunks.seen());
        let sums = match days.get(&place) {
            Some((known, sums)) if *known == seen => return sums.clone(),
            Some((known, sums)) => {
                chunks.since(*known, facts.shard.names()).map(|news| sums.with(judge, facts.day, news))
            }
            None => None,
        };
        let sums = Arc::new(sums.unwrap_or_else(|| Self::of_day(judge, facts.shard, facts.day)));
        days.insert(place, (seen, sums.clone()));
        sums
    }

    fn of_day(judge: &Judge<'_>, shard: &ShardBook, day: LocalDay) -> Self {
        let Some(chunks) = shard.day_chunks(judge.tenant, day) else { return Self::default() };
        Self::of(judge, day, chunks.items(shard.names(), chunks.seconds()).flatten())
    }

    fn of(judge: &Judge<'_>, day: LocalDay, items: impl IntoIterator<Item = Item>) -> Self {
        let mut sums = Self::default();
        let named = judge.named_on(day);
        for item in items {
            let call = call_of(&item);
            if named.contains(call.request_id) {
                sums.named.push(call.request_id.to_owned());
            }
            let decision = judge.call(&call);
            if decision.outcome == Outcome::Unbound {
                continue;
            }
            sums.figures.add(&decision, 1);
            let failures = u64::from(decision.counts());
            let row = sums.row(call.action, call.code, call.flag);
            row.items += 1;
            row.failures += failures;
        }
        sums
    }

    /// The same with what is new.
    fn with(&self, judge: &Judge<'_>, day: LocalDay, news: News) -> Self {
        let (before, after) = (Self::of(judge, day, news.before), Self::of(judge, day, news.after));
        let mut sums = self.clone();
        sums.figures.unmerge(&before.figures);
        sums.figures.merge(&after.figures);
        for gone in &before.rows {
            let row = sums.row(&gone.action, gone.code.as_deref(), gone.flag);
            row.items -= gone.items;
            row.failures -= gone.failures;
        }
        for more in &after.rows {
            let row = sums.row(&more.action, more.code.as_deref(), more.flag);
            row.items += more.items;
            row.failures += more.failures;
        }
        // What was among the items before is among them now.
        sums.named.retain(|id| !before.named.contains(id));
        sums.named.extend(after.named);
        sums
    }

    fn row(&mut self, action: &str, code: Option<&str>, flag: Flag) -> &mut ItemRow {
        let at = self.rows.iter().position(|row| row.is(action, code, flag)).unwrap_or_else(|| {
            let (action, code) = (action.to_owned(), code.map(str::to_owned));
            self.rows.push(ItemRow { action, code, flag, items: 0, failures: 0 });
            self.rows.len() - 1
        });
        &mut self.rows[at]
    }

    fn itemised(&self, action: &str, code: Option<&str>, flag: Flag) -> u64 {
        self.rows.iter().find(|row| row.is(action, code, flag)).map_or(0, |row| row.items)
    }
}

impl ItemRow {
    fn is(&self, action: &str, code: Option<&str>, flag: Flag) -> bool {
        self.action == action && self.code.as_deref() == code && self.flag == flag
    }
}

fn call_of(item: &Item) -> FailingCall<'_> {
    FailingCall {
        time_ms: item.time_ms,
        action: &item.action,
        code: item.code.as_deref(),
        flag: Flag::from_number(item.flag).unwrap_or(Flag::Absent),
        request_id: &item.request_id,
        calls_in_second: item.calls_in_second,
    }
}

/// One failing call of a service month and what became of it.
#[derive(Debug, Clone)]
pub struct Evidence {
    /// Source partition.
    pub partition: u32,
    /// The call.
    pub item: Item,
    /// Whose fault it is.
    pub class: Class,
    /// What became of it.
    pub outcome: Outcome,
    /// The notice or ruling that decided.
    pub document: Option<String>,
}

/// The evaluation of one tenant.
#[derive(Debug)]
pub struct Evaluation<'a> {
    contract: &'a Contract,
    book: &'a Book,
    tenant: &'a str,
    terms: Terms,
    rules: TenantRules,
    /// Those with facts of the tenant.
    shards: SmallVec<[u32; 2]>,
    split: bool,
    patience: Patience<'a>,
}

/// Asked again and again in the middle of an evaluation: does anybody still wait for it?
#[derive(Clone, Copy)]
struct Patience<'a>(&'a dyn Fn() -> bool);

impl std::fmt::Debug for Patience<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Patience")
    }
}

/// A service month under evaluation.
struct Draft {
    period: Period,
    policy: Arc<Policy>,
    figures: Figures,
    failing: Vec<FailingCalls>,
    uncounted: Uncounted,
    unreached: Unreached,
}

/// All service months under evaluation, and what lies beside them.
#[derive(Default)]
struct Drafts {
    months: BTreeMap<LocalDay, Draft>,
    calls_by_day: BTreeMap<LocalDay, u64>,
    unknown_codes: Vec<Arc<str>>,
    beside: Beside,
    parts: DayParts,
}

/// What stands beside the service months, by calendar month.
#[derive(Default)]
struct Beside {
    /// Calls on days that no registered term holds.
    out_of_term: BTreeMap<Month, u64>,
    /// The shards with a tally.
    shards: BTreeMap<Month, SmallVec<[u32; 1]>>,
}

impl Draft {
    fn add(&mut self, part: &DayPart) {
        self.figures.merge(&part.figures);
        self.unreached.calls += part.unreached;
        part.failing.iter().for_each(|more| add_failing(&mut self.failing, more));
    }
}

impl<'a> Evaluation<'a> {
    /// Of this tenant.
    pub fn new(contract: &'a Contract, book: &'a Book, tenant: &'a str) -> Self {
        let shards = (0..).zip(book.shards()).filter(|(_, shard)| shard.has_tenant(tenant)).map(|(shard, _)| shard);
        Self::of_shards(contract, book, tenant, shards.collect())
    }

    fn of_shards(contract: &'a Contract, book: &'a Book, tenant: &'a str, shards: SmallVec<[u32; 2]>) -> Self {
        let terms = contract.terms(tenant);
        let rules = contract.rulebook.tenant(tenant);
        let split = shards.len() > 1;
        Self { contract, book, tenant, terms, rules, shards, split, patience: Patience(&|| true) }
    }

    /// The same, as long as somebody waits for it: once `somebody_waits` says no, whatever is asked for ends early. What came
    /// of it is then worth nothing, so the one who says no must look at nothing more.
    pub fn while_awaited(self, somebody_waits: &'a dyn Fn() -> bool) -> Self {
        Self { patience: Patience(somebody_waits), ..self }
    }

    fn goes_on(&self) -> bool {
        (self.patience.0)()
    }

    /// The tenant's terms.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// The service month a day lies in; `None`: out of every registered term.
    pub fn period_of(&self, day: LocalDay) -> Option<Period> {
        if self.terms.is_empty() { Some(Period::calendar_month(day.month())) } else { self.terms.period_of(day) }
    }

    fn judge<'j>(&'j self, policy: &'j Policy) -> Judge<'j> {
        Judge { policy, rules: &self.rules, tenant: self.tenant, split: self.split }
    }

    /// The service month of this first day, with or without calls; `None`: there is no such service month.
    pub fn month(&self, first_day: LocalDay) -> Option<ServiceMonth> {
        let period = self.period_of(first_day).filter(|period| period.first == first_day)?;
        let Drafts { mut months, beside, .. } = self.drafts(&mut Days::new(), &mut Classes::default());
        months.entry(first_day).or_insert_with(|| self.draft(period));
        self.finish(months, &beside).0.into_iter().find(|month| month.period == period)
    }

    /// All service months with calls; `None`: the tenant is not in the book.
    pub fn whole(&self) -> Option<TenantStanding> {
        (!self.shards.is_empty()).then(|| self.standing(Days::new(), &mut Classes::default()))
    }

    /// All service months with calls. `days`: what days came to at the last evaluation under the same contract, if the
    /// tenant was not split since.
    fn standing(&self, mut days: Days, classes: &mut Classes) -> TenantStanding {
        let Drafts { months, calls_by_day, unknown_codes, beside, parts } = self.drafts(&mut days, classes);
        let older = calls_by_day.len().saturating_sub(FORECAST_DAYS);
        let (months, failing) = self.finish(months, &beside);
        TenantStanding {
            months,
            failing,
            parts,
            pace: Pace::default(),
            revision: 0,
            out_of_term: beside.out_of_term,
            split: self.split,
            shards: self.shards.clone(),
            calls_by_day: calls_by_day.into_iter().skip(older).collect(),
            unknown_codes,
            days,
        }
    }

    fn draft(&self, period: Period) -> Draft {
        let policy = self.contract.policy(&self.terms, period.first).clone();
        Draft {
            period,
            policy,
            figures: Figures::default(),
            failing: Vec::new(),
            uncounted: Uncounted::default(),
            unreached: Unreached::default(),
        }
    }

    fn drafts(&self, days: &mut Days, classes: &mut Classes) -> Drafts {
        let mut drafts = Drafts::default();
        let mut found = HashSet::new();
        let mut uncounted = Vec::new();
        let mut scratch = TallyDay::default();
        for (number, shard) in (0u32..).zip(self.book.shards()) {
            for facts in shard.months(self.tenant) {
                let month = facts.month;
                drafts.beside.shards.entry(month).or_default().push(number);
                facts.for_each_day(&mut scratch, |day, row, is_live| {
                    let Some(period) = self.period_of(day) else {
                        if !row.calls.is_empty() {
                            *drafts.beside.out_of_term.entry(month).or_insert(0) += row.calls.iter().sum::<u64>();
                        }
                        return;
                    };
                    if !self.goes_on() || row.calls.is_empty() {
                        return;
                    }
                    let draft = drafts.months.entry(period.first).or_insert_with(|| self.draft(period));
                    let facts = DayFacts { shard, number, day, row };
                    let part = self.part(&facts, &draft.policy, classes, days, &mut found);
                    draft.add(&part);
                    *drafts.calls_by_day.entry(day).or_insert(0) += part.figures.total();
                    part.unknown_codes.iter().for_each(|code| add_unknown(&mut drafts.unknown_codes, code));
                    if is_live {
                        drafts.parts.push(((number, day), Arc::new(part)));
                    }
                });
                uncounted.push(facts);
            }
        }
        uncounted.iter().for_each(|facts| self.add_uncounted(facts, &mut drafts));
        self.add_unknown_ids(&found, &mut drafts);
        drafts
    }

    /// What a day comes to that is not folded. `None`: it cannot be looked at without the others.
    fn live_part(
        &self,
        number: u32,
        day: LocalDay,
        policy: &Arc<Policy>,
        classes: &mut Classes,
        days: &mut Days,
    ) -> Option<DayPart> {
        // Whether a ruling's request id is found anywhere is said of all days together.
        let names_calls = |scope: &Scope| matches!(scope, Scope::Calls { .. });
        if self.rules.rulings.iter().any(|ruling| ruling.verdict.scope().is_some_and(names_calls)) {
            return None;
        }
        let shard = self.book.shard(number)?;
        let mut row = TallyDay::default();
        let is_live = shard.live_day(self.tenant, day, &mut row);
        let facts = DayFacts { shard, number, day, row: &row };
        is_live.then(|| self.part(&facts, policy, classes, days, &mut HashSet::new()))
    }

    /// Counts the request ids that rulings name and no item has. `found`: those that items have.
    fn add_unknown_ids(&self, found: &HashSet<(LocalDay, String)>, drafts: &mut Drafts) {
        let mut named = BTreeSet::new();
        for ruling in &self.rules.rulings {
            if let Some(Scope::Calls { tenant, day, request_ids }) = ruling.verdict.scope()
                && tenant == self.tenant
            {
                named.extend(request_ids.iter().map(|id| (*day, id.clone())));
            }
        }
        for id in named.into_iter().filter(|id| !found.contains(id)) {
            let Some(period) = self.period_of(id.0) else { continue };
            if let Some(draft) = drafts.months.get_mut(&period.first) {
                draft.unreached.request_ids += 1;
            }
        }
    }

    /// Adds the calls that a tally does not count. One that was admitted late is late in each of its service months. Calls
    /// that were not counted make no service month of a tenant that nobody registered.
    fn add_uncounted(&self, facts: &MonthFacts<'_>, drafts: &mut Drafts) {
        let mut add = |day: LocalDay, uncounted: Uncounted| {
            let Some(period) = self.period_of(day) else { return };
            if !self.terms.is_empty() {
                drafts.months.entry(period.first).or_insert_with(|| self.draft(period));
            }
            if let Some(draft) = drafts.months.get_mut(&period.first) {
                draft.uncounted.add(uncounted);
            }
        };
        facts.for_each_day(&mut TallyDay::default(), |at, day, _| {
            let uncounted = uncounted_of(day);
            if !uncounted.is_none() {
                add(at, uncounted);
            }
        });
        let month = facts.month;
        if facts.admitted_late {
            let late = Uncounted { admitted_late: true, ..Uncounted::default() };
            (month.first_day().0..=month.last_day().0).for_each(|day| add(LocalDay(day), late));
        }
    }

    /// What one day of one shard comes to. Items are looked at only where something could touch them: where there are
    /// failures, or rulings that make failures. `found`: request ids of its items that rulings name.
    fn part(
        &self,
        facts: &DayFacts<'_>,
        policy: &Arc<Policy>,
        classes: &mut Classes,
        days: &mut Days,
        found: &mut HashSet<(LocalDay, String)>,
    ) -> DayPart {
        let mut part =
            DayPart { counted: !facts.row.calls.is_empty(), uncounted: uncounted_of(facts.row), ..DayPart::default() };
        let mut names = Names { names: facts.shard.names(), classes: classes.of(facts.number, policy) };
        let judge = self.judge(policy);
        let mut good = 0;
        for (action, calls) in facts.row.actions.iter().zip(&facts.row.calls) {
            if policy.is_bound(names.name(facts.row, *action)) {
                good += calls;
            } else {
                part.figures.unbound += calls;
            }
        }
        let rows = (0..facts.row.outcome_calls.len()).map(|index| Row::of(facts.row, index));
        let rows = rows.filter(|row| policy.is_bound(names.name(facts.row, row.action)));
        let rows: SmallVec<[Row; 8]> = rows.collect();
        let wanted = judge.may_raise()
            || rows.iter().any(|row| names.class(policy, facts.row, row) == Class::SystemError)
            || !judge.named_on(facts.day).is_empty();
        let items = wanted.then(|| ItemSums::at(&judge, facts, days));
        items.iter().flat_map(|items| &items.named).for_each(|id| _ = found.insert((facts.day, id.clone())));
        for row in &rows {
            good -= row.calls.min(good);
            let class = names.class(policy, facts.row, row);
            if class == Class::Unknown
                && let Some(code) = row.code
            {
                add_unknown(&mut part.unknown_codes, names.name(facts.row, code));
            }
            match &items {
                Some(items) => part.add_unitemised(&judge, facts, &names, row, items),
                None => part.figures.add_class(class, row.calls),
            }
        }
        if let Some(items) = items {
            part.figures.merge(&items.figures);
            for row in &items.rows {
                part.add_failing(&row.action, row.code.as_deref(), row.failures);
            }
        }
        part.figures.add_class(Class::Success, good);
        part
    }

    /// The months with their money, in order of time.
    fn finish(
        &self,
        drafts: BTreeMap<LocalDay, Draft>,
        beside: &Beside,
    ) -> (Vec<ServiceMonth>, Vec<Arc<[FailingCalls]>>) {
        let registered = !self.terms.is_empty();
        let mut all_failing = Vec::with_capacity(drafts.len());
        let mut months: Vec<ServiceMonth> = drafts
            .into_values()
            .map(|mut draft| {
                let top_failing = most_frequent(&mut draft.failing);
                all_failing.push(draft.failing.into());
                ServiceMonth {
                    period: draft.period,
                    by_day: registered && self.terms.label(draft.period).len() > "YYYY-MM".len(),
                    registered,
                    policy: draft.policy,
                    figures: draft.figures,
                    top_failing,
                    split: self.split,
                    money: None,
                    uncounted: draft.uncounted,
                    unreached: draft.unreached,
                    out_of_term: beside.out_of_term.get(&draft.period.month()).copied().unwrap_or_default(),
                    shards: beside.shards.get(&draft.period.month()).cloned().unwrap_or_default(),
                }
            })
            .collect();
        self.contract.price(self.tenant, &self.terms, &mut months);
        (months, all_failing)
    }

    /// Every failing call of a service month that is held one by one, by partition and offset, and what became of it. Calls
    /// that are no failures are left out unless `all`.
    pub fn evidence<'m>(&'m self, month: &'m ServiceMonth, all: bool) -> impl Iterator<Item = Evidence> + use<'a, 'm> {
        let judge = self.judge(&month.policy);
        let days = (month.period.first.0..=month.period.last.0).map(LocalDay);
        let places = days.flat_map(|day| self.book.shards().iter().zip(0u32..).map(move |place| (day, place)));
        let items = places.flat_map(move |(day, (shard, partition))| {
            let chunks = shard.day_chunks(self.tenant, day).filter(|_| self.goes_on());
            let items = chunks.into_iter().flat_map(|chunks| chunks.items(shard.names(), chunks.seconds()));
            items.take_while(|_| self.goes_on()).flatten().map(move |item| (partition, item))
        });
        items.filter_map(move |(partition, item)| decided(judge, partition, item, all))
    }

    /// The failures of a service month that are held one by one, in order of time, then of the source. So that a month of any
    /// size can be written down, no more than [`CALLS_AT_ONCE`] of them are in memory at once, and their places of one day.
    pub fn evidence_by_time<'m>(&'m self, month: &'m ServiceMonth) -> impl Iterator<Item = Evidence> + use<'a, 'm> {
        let judge = self.judge(&month.policy);
        let days = (month.period.first.0..=month.period.last.0).map(LocalDay);
        let slices = days.flat_map(move |day| {
            let cut = Rc::new(self.cut(day));
            (0..cut.slices.len()).map(move |slice| (cut.clone(), slice))
        });
        slices.flat_map(move |(cut, slice)| {
            let calls = self.slice(&cut, slice).into_iter();
            calls.filter_map(move |(partition, item)| decided(judge, partition, item, false))
        })
    }

    fn cut(&self, day: LocalDay) -> CutDay {
        let mut places: Vec<PlaceInTime> = Vec::new();
        let mut seconds = Vec::new();
        for (shard, partition) in self.book.shards().iter().zip(0u32..) {
            let chunks = shard.day_chunks(self.tenant, day);
            let figures = chunks.map(DayChunks::seconds).unwrap_or_default();
            let items = chunks.into_iter().flat_map(|chunks| chunks.items(shard.names(), &figures));
            let items = items.take_while(|_| self.goes_on()).flatten();
            places.extend(items.map(|item| place_in_time(partition, &item)));
            seconds.push(figures);
        }
        places.sort_unstable();
        let slices = places.chunks(CALLS_AT_ONCE).filter_map(|slice| Some(*slice.first()?..=*slice.last()?)).collect();
        CutDay { day, slices, seconds }
    }

    /// The items of a slice, in order.
    fn slice(&self, cut: &CutDay, slice: usize) -> Vec<(u32, Item)> {
        let slice = &cut.slices[slice];
        let mut found = Vec::new();
        let between = slice.start().0.div_euclid(1000)..=slice.end().0.div_euclid(1000);
        for ((shard, partition), seconds) in self.book.shards().iter().zip(0u32..).zip(&cut.seconds) {
            let chunks = shard.day_chunks(self.tenant, cut.day).into_iter();
            let items = chunks.flat_map(|chunks| chunks.items_near(shard.names(), seconds, between.clone()));
            let items = items.take_while(|_| self.goes_on()).flatten().map(|item| (partition, item));
            found.extend(items.filter(|(partition, item)| slice.contains(&place_in_time(*partition, item))));
        }
        found.sort_unstable_by_key(|(partition, item)| place_in_time(*partition, item));
        found
    }
}

/// Failing calls that are in memory at once while a service month is written down.
const CALLS_AT_ONCE: usize = 16_384;

/// Time, partition, offset: no two calls have the same.
type PlaceInTime = (i64, u32, i64);

/// The items of a day, cut into slices.
struct CutDay {
    day: LocalDay,
    /// From the first to the last item of each, in order of time.
    slices: Vec<RangeInclusive<PlaceInTime>>,
    /// What the day's records say of its seconds, by shard: read once, not once a slice.
    seconds: Vec<DaySeconds>,
}

fn place_in_time(partition: u32, item: &Item) -> PlaceInTime {
    (item.time_ms, partition, item.offset)
}

/// What became of an item. Calls that are no failures are left out unless `all`.
fn decided(judge: Judge<'_>, partition: u32, item: Item, all: bool) -> Option<Evidence> {
    let Decision { class, outcome, document } = judge.call(&call_of(&item));
    let wanted = all || !matches!(outcome, Outcome::NoFailure | Outcome::Unbound);
    let document = document.map(str::to_owned);
    wanted.then_some(Evidence { partition, item, class, outcome, document })
}

/// Failures of a service month that are not held one by one: one day, action, code and flag.
#[derive(Debug, Clone)]
pub struct UnitemisedEvidence {
    /// Source partition.
    pub partition: u32,
    /// The local day.
    pub day: LocalDay,
    /// The API action.
    pub action: String,
    /// The error code.
    pub code: Option<String>,
    /// The events' `system_error`.
    pub flag: Flag,
    /// How many.
    pub calls: u64,
    /// What became of them.
    pub outcome: Outcome,
    /// The ruling that decided.
    pub document: Option<String>,
}

impl<'a> Evaluation<'a> {
    /// The failures of a service month that are not held one by one; those of one shard are in memory at once.
    pub fn unitemised<'m>(&'m self, month: &'m ServiceMonth) -> impl Iterator<Item = UnitemisedEvidence> + use<'a, 'm> {
        self.book.shards().iter().zip(0u32..).flat_map(move |(shard, partition)| {
            let policy = &month.policy;
            let judge = self.judge(policy);
            let mut found = Vec::new();
            let mut scratch = TallyDay::default();
            let dictionary = shard.names();
            for facts in shard.months(self.tenant).filter(|facts| facts.month == month.period.month()) {
                facts.for_each_day(&mut scratch, |day, tally, _| {
                    if !month.period.contains(day) || !self.goes_on() {
                        return;
                    }
                    let items = ItemSums::of_day(&judge, shard, day);
                    for row in (0..tally.outcome_calls.len()).map(|index| Row::of(tally, index)) {
                        let name = |number| dictionary.name(tally, number);
                        let (action, code) = (name(row.action), row.code.map(name));
                        let calls = row.calls.saturating_sub(items.itemised(action, code, row.flag));
                        let from_ms = day_start_ms(policy.time_zone, day);
                        let to_ms = day_start_ms(policy.time_zone, LocalDay(day.0 + 1));
                        let flag = row.flag;
                        let decision = judge.unitemised(&Unitemised { from_ms, to_ms, action, code, flag });
                        if calls == 0 || decision.class != Class::SystemError || decision.outcome == Outcome::Unbound {
                            continue;
                        }
                        found.push(UnitemisedEvidence {
                            partition,
                            day,
                            action: action.to_owned(),
                            code: code.map(str::to_owned),
                            flag,
                            calls,
                            outcome: decision.outcome,
                            document: decision.document.map(str::to_owned),
                        });
                    }
                });
            }
            found
        })
    }
}

/// One day of a tally, and where its items are.
struct DayFacts<'a> {
    shard: &'a ShardBook,
    number: u32,
    day: LocalDay,
    row: &'a TallyDay,
}

/// Calls of one action, code and flag that did not go well; names by their number.
#[derive(Clone, Copy)]
struct Row {
    action: u32,
    code: Option<u32>,
    flag: Flag,
    calls: u64,
}

impl Row {
    fn of(day: &TallyDay, index: usize) -> Self {
        Self {
            action: day.outcome_actions[index],
            code: day.outcome_codes[index].checked_sub(1),
            flag: Flag::from_number(day.outcome_flags[index]).unwrap_or(Flag::Absent),
            calls: day.outcome_calls[index],
        }
    }
}

/// Calls of a day that its tally does not count.
fn uncounted_of(day: &TallyDay) -> Uncounted {
    let TallyDay { limit, too_old, not_ok, unheld, .. } = *day;
    if limit + too_old + unheld > 0 {
        Uncounted { limit, too_old, not_ok, unheld, admitted_late: false }
    } else {
        Uncounted::default()
    }
}

impl DayPart {
    fn add_failing(&mut self, action: &str, code: Option<&str>, failures: u64) {
        if failures > 0 {
            add_failing(
                &mut self.failing,
                &FailingCalls { action: action.into(), code: code.map(Into::into), failures },
            );
        }
    }

    /// Adds the calls of a row that are not held one by one.
    fn add_unitemised(
        &mut self,
        judge: &Judge<'_>,
        facts: &DayFacts<'_>,
        names: &Names<'_>,
        row: &Row,
        items: &ItemSums,
    ) {
        let name = |number| names.name(facts.row, number);
        let (action, code) = (name(row.action), row.code.map(name));
        let unitemised = row.calls.saturating_sub(items.itemised(action, code, row.flag));
        if unitemised == 0 {
            return;
        }
        let zone = judge.policy.time_zone;
        let (from_ms, to_ms) = (day_start_ms(zone, facts.day), day_start_ms(zone, LocalDay(facts.day.0 + 1)));
        let calls = Unitemised { from_ms, to_ms, action, code, flag: row.flag };
        let decision = judge.unitemised(&calls);
        self.figures.add(&decision, unitemised);
        if judge.is_cut(&calls, &decision) {
            self.unreached += unitemised;
        }
        if decision.class == Class::SystemError {
            self.figures.unitemised += unitemised;
        }
        self.add_failing(action, code, if decision.counts() { unitemised } else { 0 });
    }
}

/// A shard's names, and the classes of those that are codes under one policy.
struct Names<'a> {
    names: &'a Dictionary,
    classes: &'a mut Vec<Option<Class>>,
}

impl<'a> Names<'a> {
    fn name<'n>(&self, day: &'n TallyDay, number: u32) -> &'n str
    where
        'a: 'n,
    {
        self.names.name(day, number)
    }

    fn class(&mut self, policy: &Policy, day: &TallyDay, row: &Row) -> Class {
        let Some(code) = row.code else { return policy.codes.classify(None, row.flag) };
        let look_up = |names: &Dictionary| policy.codes.class(names.name(day, code));
        // What a day names itself has another number on another day.
        if code >= DICTIONARY_NAMES {
            return CodeMap::with_flag(look_up(self.names), row.flag);
        }
        let at = code as usize;
        if self.classes.len() <= at {
            self.classes.resize(at + 1, None);
        }
        let class = *self.classes[at].get_or_insert_with(|| look_up(self.names));
        CodeMap::with_flag(class, row.flag)
    }
}
