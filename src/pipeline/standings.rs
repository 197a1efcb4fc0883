//! Standings of all tenants: the facts of the book under the contract, kept current tenant by tenant.
//!
//! A tenant is evaluated from its facts alone, so a policy, term, fee, notice or ruling that comes late needs no replay:
//! [`Standings::rebuild`] evaluates everybody, [`Standings::refresh`] those whose facts changed.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use smallvec::SmallVec;

use super::book::{Book, ShardBook};
use super::record::{Digest, Item, TallyDay};
use crate::domain::availability::Availability;
use crate::domain::calendar::{LocalDay, Month, day_start_ms};
use crate::domain::call::Flag;
use crate::domain::codes::{Class, CodeMap};
use crate::domain::contract::Contract;
use crate::domain::decision::{Decision, FailingCall, Judge, Outcome, Unitemised};
use crate::domain::money::Currency;
use crate::domain::policy::Policy;
use crate::domain::rulebook::TenantRules;
use crate::domain::standing::{Figures, ServiceMonth};
use crate::domain::term::{Period, Terms};

/// A tenant with more chunks of items than this keeps what its days came to, so that a call in the middle of an incident
/// does not look at the whole incident again.
const REMEMBER_FROM_CHUNKS: usize = 32;

/// The service months of every tenant.
#[derive(Debug)]
pub struct Standings {
    contract: Arc<Contract>,
    tenants: HashMap<Arc<str>, TenantStanding>,
    fleet: BTreeMap<Month, Fleet>,
    split: usize,
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
        Self { contract, tenants: HashMap::new(), fleet: BTreeMap::new(), split: 0 }
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

    /// All tenants together, by the calendar month their service months begin in.
    pub fn fleet(&self) -> &BTreeMap<Month, Fleet> {
        &self.fleet
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
    /// Items by row of the tally.
    rows: Vec<(String, Option<String>, Flag, u64)>,
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
        for item in shard.day_chunks(judge.tenant, day).flat_map(|chunk| chunk.items) {
            let call = call_of(&item);
            let decision = judge.call(&call);
            if decision.outcome == Outcome::Unbound {
                continue;
            }
            sums.figures.add(&decision, 1);
            let row = sums.rows.iter_mut().find(|(action, code, flag, _)| {
                action == call.action && code.as_deref() == call.code && *flag == call.flag
            });
            match row {
                Some((.., items)) => *items += 1,
                None => sums.rows.push((item.action.clone(), item.code.clone(), call.flag, 1)),
            }
        }
        sums
    }

    fn itemised(&self, action: &str, code: Option<&str>, flag: Flag) -> u64 {
        let row = self.rows.iter().find(|(a, c, f, _)| a == action && c.as_deref() == code && *f == flag);
        row.map_or(0, |(.., items)| *items)
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
}

/// A service month under evaluation.
struct Draft {
    period: Period,
    policy: Arc<Policy>,
    figures: Figures,
}

impl<'a> Evaluation<'a> {
    /// Of this tenant.
    pub fn new(contract: &'a Contract, book: &'a Book, tenant: &'a str) -> Self {
        let terms = contract.terms(tenant);
        let rules = contract.rulebook.tenant(tenant);
        let split = book.shards().iter().filter(|shard| shard.has_tenant(tenant)).nth(1).is_some();
        Self { contract, book, tenant, terms, rules, split }
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
        let (mut drafts, _) = self.drafts(&mut HashMap::new());
        drafts.entry(first_day).or_insert_with(|| self.draft(period));
        self.finish(drafts).into_iter().find(|month| month.period == period)
    }

    /// All service months with calls. `days`: what days came to at the last evaluation under the same contract, if the
    /// tenant was not split since.
    fn standing(&self, mut days: Days) -> TenantStanding {
        let (drafts, out_of_term) = self.drafts(&mut days);
        TenantStanding { months: self.finish(drafts), out_of_term, split: self.split, days }
    }

    fn draft(&self, period: Period) -> Draft {
        let policy = self.contract.policy(&self.terms, period.first).clone();
        Draft { period, policy, figures: Figures::default() }
    }

    fn drafts(&self, days: &mut Days) -> (BTreeMap<LocalDay, Draft>, BTreeMap<Month, u64>) {
        let mut drafts: BTreeMap<LocalDay, Draft> = BTreeMap::new();
        let mut out_of_term = BTreeMap::new();
        let mut scratch = TallyDay::default();
        for (number, shard) in self.book.shards().iter().enumerate() {
            for (month, tally) in shard.tally_views(self.tenant) {
                let mut names = Names::new(tally.names());
                tally.for_each_day(&mut scratch, |row| {
                    let day = month.day(row.day);
                    let Some(period) = self.period_of(day) else {
                        *out_of_term.entry(month).or_insert(0) += row.calls.iter().sum::<u64>();
                        return;
                    };
                    let draft = drafts.entry(period.first).or_insert_with(|| self.draft(period));
                    let facts = DayFacts { shard, number: number as u32, day, row };
                    self.add_day(&draft.policy, &facts, &mut names, days, &mut draft.figures);
                });
            }
        }
        (drafts, out_of_term)
    }

    /// Adds one day of one shard. Items are looked at only where something could touch them: where there are failures, or
    /// rulings that make failures.
    fn add_day(
        &self,
        policy: &Policy,
        facts: &DayFacts<'_>,
        names: &mut Names<'_>,
        days: &mut Days,
        sum: &mut Figures,
    ) {
        let judge = self.judge(policy);
        let mut good = 0;
        for (action, calls) in facts.row.actions.iter().zip(&facts.row.calls) {
            if policy.is_bound(names.name(*action)) {
                good += calls;
            } else {
                sum.unbound += calls;
            }
        }
        let rows = (0..facts.row.outcome_calls.len()).map(|index| Row::of(facts.row, index));
        let rows = rows.filter(|row| policy.is_bound(names.name(row.action)));
        let rows: SmallVec<[Row; 8]> = rows.collect();
        let items = (judge.may_raise() || rows.iter().any(|row| names.class(policy, row) == Class::SystemError))
            .then(|| ItemSums::at(&judge, facts, days));
        for row in &rows {
            good -= row.calls.min(good);
            let class = names.class(policy, row);
            let Some(items) = &items else {
                sum.add_class(class, row.calls);
                continue;
            };
            let (action, code) = (names.name(row.action), row.code.map(|c| names.name(c)));
            let unitemised = row.calls.saturating_sub(items.itemised(action, code, row.flag));
            if unitemised > 0 {
                let from_ms = day_start_ms(policy.time_zone, facts.day);
                let to_ms = day_start_ms(policy.time_zone, LocalDay(facts.day.0 + 1));
                let decision = judge.unitemised(&Unitemised { from_ms, to_ms, action, code, flag: row.flag });
                sum.add(&decision, unitemised);
                if decision.class == Class::SystemError {
                    sum.unitemised += unitemised;
                }
            }
        }
        if let Some(items) = items {
            sum.merge(&items.figures);
        }
        sum.add_class(Class::Success, good);
    }

    /// The months with their money, in order of time.
    fn finish(&self, drafts: BTreeMap<LocalDay, Draft>) -> Vec<ServiceMonth> {
        let registered = !self.terms.is_empty();
        let mut months: Vec<ServiceMonth> = drafts
            .into_values()
            .map(|draft| ServiceMonth {
                period: draft.period,
                by_day: registered && self.terms.label(draft.period).len() > "YYYY-MM".len(),
                registered,
                policy: draft.policy,
                figures: draft.figures,
                split: self.split,
                money: None,
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
        places.flat_map(move |(day, (shard, partition))| {
            let items = shard.day_chunks(self.tenant, day).flat_map(|chunk| chunk.items);
            items
                .filter_map(|item| {
                    let Decision { class, outcome, document } = judge.call(&call_of(&item));
                    let wanted = all || !matches!(outcome, Outcome::NoFailure | Outcome::Unbound);
                    let document = document.map(str::to_owned);
                    wanted.then_some(Evidence { partition, item, class, outcome, document })
                })
                .collect::<Vec<_>>()
        })
    }
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

impl Evaluation<'_> {
    /// The failures of a service month that are not held one by one.
    pub fn unitemised(&self, month: &ServiceMonth) -> Vec<UnitemisedEvidence> {
        let policy = &month.policy;
        let judge = self.judge(policy);
        let mut found = Vec::new();
        let mut scratch = TallyDay::default();
        for (number, shard) in self.book.shards().iter().enumerate() {
            let partition = number as u32;
            for (calendar, tally) in shard.tally_views(self.tenant).filter(|(m, _)| *m == month.period.month()) {
                let names = Names::new(tally.names());
                tally.for_each_day(&mut scratch, |row| {
                    let day = calendar.day(row.day);
                    if !month.period.contains(day) {
                        return;
                    }
                    let items = ItemSums::of(&judge, shard, day);
                    for row in (0..row.outcome_calls.len()).map(|index| Row::of(row, index)) {
                        let (action, code) = (names.name(row.action), row.code.map(|c| names.name(c)));
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
        }
        found
    }
}

/// One day of a tally, and where its items are.
struct DayFacts<'a> {
    shard: &'a ShardBook,
    number: u32,
    day: LocalDay,
    row: &'a TallyDay,
}

/// Calls of one action, code and flag that did not go well; names by their place in the tally.
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

/// A tally's names, and the classes of those that are codes: looked up once a tally, not once a day.
struct Names<'a> {
    names: &'a [&'a str],
    classes: Vec<Option<Class>>,
    policy: *const Policy,
}

impl<'a> Names<'a> {
    fn new(names: &'a [&'a str]) -> Self {
        Self { names, classes: Vec::new(), policy: std::ptr::null() }
    }

    fn name(&self, index: u32) -> &'a str {
        self.names.get(index as usize).copied().unwrap_or("")
    }

    fn class(&mut self, policy: &Policy, row: &Row) -> Class {
        let Some(code) = row.code else { return policy.codes.classify(None, row.flag) };
        if !std::ptr::eq(self.policy, policy) {
            self.policy = policy;
            self.classes.clear();
            self.classes.resize(self.names.len(), None);
        }
        let name = self.name(code);
        let Some(known) = self.classes.get_mut(code as usize) else { return Class::Unknown };
        let class = *known.get_or_insert_with(|| policy.codes.class(name));
        CodeMap::with_flag(class, row.flag)
    }
}
