//! Standings of all tenants: the facts of the book under the contract, kept current tenant by tenant.
//!
//! A tenant is evaluated from its facts alone, so a policy, term, fee, notice or ruling that comes late needs no replay:
//! [`Standings::refresh`] evaluates those whose facts changed.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::sync::Arc;

use smallvec::SmallVec;

use super::book::{Book, DaySeconds, MonthFacts, ShardBook};
use super::dictionary::Dictionary;
use super::record::{DICTIONARY_NAMES, Digest, Item, TallyDay};
use crate::domain::availability::Availability;
use crate::domain::calendar::{LocalDay, Month, day_start_ms};
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

/// A tenant with more chunks of items than this keeps what its days came to, so that a call in the middle of an incident
/// does not look at the whole incident again.
const REMEMBER_FROM_CHUNKS: usize = 32;

/// Days of a tenant's own past that a forecast looks at.
const FORECAST_DAYS: usize = 42;
/// Actions and codes of a service month whose failures are kept apart, the most frequent ones.
const TOP_FAILING: usize = 5;
/// Codes without a class that are kept of one tenant.
const UNKNOWN_CODES: usize = 8;

/// The service months of every tenant.
#[derive(Debug)]
pub struct Standings {
    contract: Arc<Contract>,
    tenants: HashMap<Arc<str>, TenantStanding>,
    fleet: BTreeMap<Month, Fleet>,
    split: usize,
    /// Codes without a class, with the number of tenants they were seen of.
    unknown_codes: BTreeMap<Arc<str>, usize>,
    /// Tenants with as many codes without a class as are named of one; they may have more.
    many_unknown: usize,
}

/// One tenant.
#[derive(Debug, Default)]
pub struct TenantStanding {
    /// The service months with calls, in order of time.
    pub months: Vec<ServiceMonth>,
    /// Calls on days that no registered term holds, by calendar month; none for a tenant that nobody registered.
    pub out_of_term: BTreeMap<Month, u64>,
    /// Its calls lie in several shards: counts are exact, but duplicates across shards are not seen.
    pub split: bool,
    /// Calls of the last days with calls, in order of time: what a forecast goes by.
    pub calls_by_day: Vec<(LocalDay, u64)>,
    /// Some of the codes of its calls that no policy of its service months classifies.
    pub unknown_codes: Vec<Arc<str>>,
    days: Days,
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
            tenants: HashMap::new(),
            fleet: BTreeMap::new(),
            split: 0,
            unknown_codes: BTreeMap::new(),
            many_unknown: 0,
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
            if !book.shards().iter().any(|shard| shard.has_tenant(tenant)) {
                continue;
            }
            let evaluation = Evaluation::new(&self.contract, book, tenant);
            // A tenant that comes to be split is judged otherwise.
            let days = if old.split == evaluation.split { old.days } else { Days::new() };
            let new = evaluation.standing(days);
            self.account(&new, 1);
            self.tenants.insert(tenant.clone(), new);
        }
        self.fleet.retain(|_, fleet| fleet.months > 0);
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
        for (tenant, standing) in other.tenants {
            self.account(&standing, 1);
            self.tenants.insert(tenant, standing);
        }
    }

    /// Every tenant's service months, in order of time.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &[ServiceMonth])> {
        self.tenants.iter().map(|(tenant, standing)| (tenant, standing.months.as_slice()))
    }

    /// One tenant.
    pub fn tenant(&self, tenant: &str) -> Option<&TenantStanding> {
        self.tenants.get(tenant)
    }

    /// One tenant's service months, in order of time.
    pub fn months(&self, tenant: &str) -> &[ServiceMonth] {
        self.tenants.get(tenant).map_or(&[], |standing| &standing.months)
    }

    /// The first day and the availability of a tenant's service month that holds this day.
    pub fn current(&self, tenant: &str, day: LocalDay) -> Option<(LocalDay, Availability)> {
        let month = self.months(tenant).iter().rfind(|month| month.period.contains(day))?;
        Some((month.period.first, month.availability()))
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

/// What the items of days came to, by shard and day, with the digest of the items.
type Days = HashMap<(u32, LocalDay), (Digest, Arc<ItemSums>)>;

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
    /// As remembered, or from the items. What is remembered was decided under the same contract.
    fn at(judge: &Judge<'_>, facts: &DayFacts<'_>, days: &mut Days) -> Arc<Self> {
        let remember = facts.shard.chunk_count(judge.tenant) > REMEMBER_FROM_CHUNKS;
        if !remember {
            return Arc::new(Self::of(judge, facts.shard, facts.day));
        }
        let digest = facts.shard.day_digest(judge.tenant, facts.day);
        match days.get(&(facts.number, facts.day)) {
            Some((known, sums)) if *known == digest => sums.clone(),
            _ => {
                let sums = Arc::new(Self::of(judge, facts.shard, facts.day));
                days.insert((facts.number, facts.day), (digest, sums.clone()));
                sums
            }
        }
    }

    fn of(judge: &Judge<'_>, shard: &ShardBook, day: LocalDay) -> Self {
        let mut sums = Self::default();
        let named = judge.named_on(day);
        for item in shard.day_chunks(judge.tenant, day).flatten() {
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
            match sums.rows.iter_mut().find(|row| row.is(call.action, call.code, call.flag)) {
                Some(row) => {
                    row.items += 1;
                    row.failures += failures;
                }
                None => {
                    let (action, code, flag) = (item.action.clone(), item.code.clone(), call.flag);
                    sums.rows.push(ItemRow { action, code, flag, items: 1, failures });
                }
            }
        }
        sums
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
    fn add_failing(&mut self, action: &str, code: Option<&str>, failures: u64) {
        if failures == 0 {
            return;
        }
        match self.failing.iter_mut().find(|known| &*known.action == action && known.code.as_deref() == code) {
            Some(known) => known.failures += failures,
            None => self.failing.push(FailingCalls { action: action.into(), code: code.map(Into::into), failures }),
        }
    }

    /// The most frequent ones, those first.
    fn top_failing(mut self) -> (Self, Box<[FailingCalls]>) {
        self.failing.sort_unstable_by(|a, b| b.failures.cmp(&a.failures).then_with(|| a.cmp(b)));
        self.failing.truncate(TOP_FAILING);
        let top = std::mem::take(&mut self.failing).into_boxed_slice();
        (self, top)
    }
}

impl<'a> Evaluation<'a> {
    /// Of this tenant.
    pub fn new(contract: &'a Contract, book: &'a Book, tenant: &'a str) -> Self {
        let terms = contract.terms(tenant);
        let rules = contract.rulebook.tenant(tenant);
        let split = book.shards().iter().filter(|shard| shard.has_tenant(tenant)).nth(1).is_some();
        Self { contract, book, tenant, terms, rules, split, patience: Patience(&|| true) }
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
        let Drafts { mut months, beside, .. } = self.drafts(&mut HashMap::new());
        months.entry(first_day).or_insert_with(|| self.draft(period));
        self.finish(months, &beside).into_iter().find(|month| month.period == period)
    }

    /// All service months with calls; `None`: the tenant is not in the book.
    pub fn whole(&self) -> Option<TenantStanding> {
        let known = self.book.shards().iter().any(|shard| shard.has_tenant(self.tenant));
        known.then(|| self.standing(Days::new()))
    }

    /// All service months with calls. `days`: what days came to at the last evaluation under the same contract, if the
    /// tenant was not split since.
    fn standing(&self, mut days: Days) -> TenantStanding {
        let Drafts { months, calls_by_day, unknown_codes, beside } = self.drafts(&mut days);
        let older = calls_by_day.len().saturating_sub(FORECAST_DAYS);
        TenantStanding {
            months: self.finish(months, &beside),
            out_of_term: beside.out_of_term,
            split: self.split,
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

    fn drafts(&self, days: &mut Days) -> Drafts {
        let mut drafts = Drafts::default();
        let mut found = HashSet::new();
        let mut uncounted = Vec::new();
        let mut scratch = TallyDay::default();
        for (number, shard) in self.book.shards().iter().enumerate() {
            let mut names = Names::new(shard.names());
            for facts in shard.months(self.tenant) {
                let month = facts.month;
                drafts.beside.shards.entry(month).or_default().push(number as u32);
                facts.for_each_day(&mut scratch, |day, row| {
                    if !self.goes_on() || row.calls.is_empty() {
                        return;
                    }
                    let Some(period) = self.period_of(day) else {
                        *drafts.beside.out_of_term.entry(month).or_insert(0) += row.calls.iter().sum::<u64>();
                        return;
                    };
                    let draft = drafts.months.entry(period.first).or_insert_with(|| self.draft(period));
                    let facts = DayFacts { shard, number: number as u32, day, row };
                    let before = draft.figures.total();
                    self.add_day(&facts, &mut names, days, draft, &mut drafts.unknown_codes, &mut found);
                    *drafts.calls_by_day.entry(day).or_insert(0) += draft.figures.total() - before;
                });
                uncounted.push(facts);
            }
        }
        uncounted.iter().for_each(|facts| self.add_uncounted(facts, &mut drafts));
        self.add_unknown_ids(&found, &mut drafts);
        drafts
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
        facts.for_each_day(&mut TallyDay::default(), |at, day| {
            let TallyDay { limit, too_old, not_ok, unheld, .. } = *day;
            if limit + too_old + unheld > 0 {
                add(at, Uncounted { limit, too_old, not_ok, unheld, admitted_late: false });
            }
        });
        let month = facts.month;
        if facts.admitted_late {
            let late = Uncounted { admitted_late: true, ..Uncounted::default() };
            (month.first_day().0..=month.last_day().0).for_each(|day| add(LocalDay(day), late));
        }
    }

    /// Adds one day of one shard. Items are looked at only where something could touch them: where there are failures, or
    /// rulings that make failures.
    fn add_day(
        &self,
        facts: &DayFacts<'_>,
        names: &mut Names<'_>,
        days: &mut Days,
        draft: &mut Draft,
        unknown_codes: &mut Vec<Arc<str>>,
        found: &mut HashSet<(LocalDay, String)>,
    ) {
        let policy = &*draft.policy.clone();
        let judge = self.judge(policy);
        let mut good = 0;
        for (action, calls) in facts.row.actions.iter().zip(&facts.row.calls) {
            if policy.is_bound(names.name(facts.row, *action)) {
                good += calls;
            } else {
                draft.figures.unbound += calls;
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
                && let Some(code) = row.code.map(|code| names.name(facts.row, code))
                && unknown_codes.len() < UNKNOWN_CODES
                && !unknown_codes.iter().any(|known| &**known == code)
            {
                unknown_codes.push(code.into());
            }
            let Some(items) = &items else {
                draft.figures.add_class(class, row.calls);
                continue;
            };
            let name = |number| names.name(facts.row, number);
            let (action, code) = (name(row.action), row.code.map(name));
            let unitemised = row.calls.saturating_sub(items.itemised(action, code, row.flag));
            if unitemised > 0 {
                let from_ms = day_start_ms(policy.time_zone, facts.day);
                let to_ms = day_start_ms(policy.time_zone, LocalDay(facts.day.0 + 1));
                let calls = Unitemised { from_ms, to_ms, action, code, flag: row.flag };
                let decision = judge.unitemised(&calls);
                draft.figures.add(&decision, unitemised);
                if judge.is_cut(&calls, &decision) {
                    draft.unreached.calls += unitemised;
                }
                if decision.class == Class::SystemError {
                    draft.figures.unitemised += unitemised;
                }
                draft.add_failing(action, code, if decision.counts() { unitemised } else { 0 });
            }
        }
        if let Some(items) = items {
            draft.figures.merge(&items.figures);
            for row in &items.rows {
                draft.add_failing(&row.action, row.code.as_deref(), row.failures);
            }
        }
        draft.figures.add_class(Class::Success, good);
    }

    /// The months with their money, in order of time.
    fn finish(&self, drafts: BTreeMap<LocalDay, Draft>, beside: &Beside) -> Vec<ServiceMonth> {
        let registered = !self.terms.is_empty();
        let mut months: Vec<ServiceMonth> = drafts
            .into_values()
            .map(|draft| {
                let (draft, top_failing) = draft.top_failing();
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
        months
    }

    /// Every failing call of a service month that is held one by one, by partition and offset, and what became of it. Calls
    /// that are no failures are left out unless `all`.
    pub fn evidence<'m>(&'m self, month: &'m ServiceMonth, all: bool) -> impl Iterator<Item = Evidence> + use<'a, 'm> {
        let judge = self.judge(&month.policy);
        let days = (month.period.first.0..=month.period.last.0).map(LocalDay);
        let places = days.flat_map(|day| self.book.shards().iter().zip(0u32..).map(move |place| (day, place)));
        let chunks = places.flat_map(move |(day, (shard, partition))| {
            let chunks = shard.day_chunks(self.tenant, day).take_while(|_| self.goes_on());
            chunks.map(move |chunk| (partition, chunk))
        });
        let items = chunks.flat_map(|(partition, chunk)| chunk.into_iter().map(move |item| (partition, item)));
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
        let (mut spans, mut seconds) = (Vec::new(), Vec::new());
        for (shard, partition) in self.book.shards().iter().zip(0u32..) {
            let mut chunks = Vec::new();
            let figures = shard.day_seconds(self.tenant, day);
            let all = shard.day_chunks_where(self.tenant, day, &figures, |_| true);
            for chunk in all.take_while(|_| self.goes_on()) {
                let times = || chunk.iter().map(|item| item.time_ms);
                chunks.push((times().min().unwrap_or_default(), times().max().unwrap_or_default()));
                places.extend(chunk.iter().map(|item| place_in_time(partition, item)));
            }
            spans.push(chunks);
            seconds.push(figures);
        }
        places.sort_unstable();
        let slices = places.chunks(CALLS_AT_ONCE).filter_map(|slice| Some(*slice.first()?..=*slice.last()?)).collect();
        CutDay { day, slices, spans, seconds }
    }

    /// The items of a slice, in order.
    fn slice(&self, cut: &CutDay, slice: usize) -> Vec<(u32, Item)> {
        let slice = &cut.slices[slice];
        let mut found = Vec::new();
        let shards = self.book.shards().iter().zip(0u32..).zip(&cut.spans).zip(&cut.seconds);
        for (((shard, partition), spans), seconds) in shards {
            let touches = |chunk: usize| {
                spans.get(chunk).is_some_and(|(first, last)| *first <= slice.end().0 && *last >= slice.start().0)
            };
            let touched = shard.day_chunks_where(self.tenant, cut.day, seconds, touches);
            for chunk in touched.take_while(|_| self.goes_on()) {
                let items = chunk.into_iter().map(|item| (partition, item));
                found.extend(items.filter(|(partition, item)| slice.contains(&place_in_time(*partition, item))));
            }
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
    /// The first and the last time in each chunk, by shard: which chunks a slice must look into.
    spans: Vec<Vec<(i64, i64)>>,
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
            let names = Names::new(shard.names());
            for facts in shard.months(self.tenant).filter(|facts| facts.month == month.period.month()) {
                facts.for_each_day(&mut scratch, |day, tally| {
                    if !month.period.contains(day) || !self.goes_on() {
                        return;
                    }
                    let items = ItemSums::of(&judge, shard, day);
                    for row in (0..tally.outcome_calls.len()).map(|index| Row::of(tally, index)) {
                        let name = |number| names.name(tally, number);
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

/// A shard's names, and the classes of those that are codes: looked up once a tenant, not once a day.
struct Names<'a> {
    names: &'a Dictionary,
    classes: SmallVec<[(u32, Class); 8]>,
    policy: *const Policy,
}

impl<'a> Names<'a> {
    fn new(names: &'a Dictionary) -> Self {
        Self { names, classes: SmallVec::new(), policy: std::ptr::null() }
    }

    fn name<'n>(&self, day: &'n TallyDay, number: u32) -> &'n str
    where
        'a: 'n,
    {
        self.names.name(day, number)
    }

    fn class(&mut self, policy: &Policy, day: &TallyDay, row: &Row) -> Class {
        let Some(code) = row.code else { return policy.codes.classify(None, row.flag) };
        if !std::ptr::eq(self.policy, policy) {
            self.policy = policy;
            self.classes.clear();
        }
        let known = self.classes.iter().find(|(known, _)| *known == code).map(|(_, class)| *class);
        let class = known.unwrap_or_else(|| policy.codes.class(self.name(day, code)));
        // What a day names itself has another number on another day.
        if known.is_none() && code < DICTIONARY_NAMES {
            self.classes.push((code, class));
        }
        CodeMap::with_flag(class, row.flag)
    }
}
