//! The evaluation of one tenant: its service months, from its facts.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use smallvec::SmallVec;

use super::TenantStanding;
use super::day::{
    Breakdown, Classes, DayFacts, DayPart, DayParts, Days, ItemSums, Names, Row, add_failing, add_unknown,
    most_frequent, uncounted_of,
};
use crate::domain::calendar::{LocalDay, Month};
use crate::domain::codes::Class;
use crate::domain::contract::Contract;
use crate::domain::decision::Judge;
use crate::domain::documents::Scope;
use crate::domain::policy::Policy;
use crate::domain::rulebook::TenantRules;
use crate::domain::standing::{FailingCalls, Figures, ServiceMonth, Uncounted, Unreached};
use crate::domain::term::{Period, Terms};
use crate::pipeline::book::{Book, MonthFacts};
use crate::pipeline::pace::Pace;
use crate::pipeline::record::TallyDay;

/// Days of a tenant's own past that a forecast uses.
const FORECAST_DAYS: usize = 42;

/// The evaluation of one tenant.
#[derive(Debug)]
pub struct Evaluation<'a> {
    pub(super) contract: &'a Contract,
    pub(super) book: &'a Book,
    pub(super) tenant: &'a str,
    pub(super) terms: Terms,
    pub(super) rules: TenantRules,
    /// Those with facts of the tenant.
    pub(super) shards: SmallVec<[u32; 2]>,
    pub(super) split: bool,
    pub(super) patience: Patience<'a>,
}

/// Called repeatedly during an evaluation: is the caller still waiting for it?
#[derive(Clone, Copy)]
pub(super) struct Patience<'a>(&'a dyn Fn() -> bool);

impl std::fmt::Debug for Patience<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Patience")
    }
}

/// A service month under evaluation.
pub(super) struct Draft {
    pub(super) period: Period,
    pub(super) policy: Arc<Policy>,
    pub(super) figures: Figures,
    pub(super) failing: Vec<FailingCalls>,
    pub(super) uncounted: Uncounted,
    pub(super) unreached: Unreached,
}

/// All service months under evaluation, and what is outside of them.
#[derive(Default)]
pub(super) struct Drafts {
    pub(super) months: BTreeMap<LocalDay, Draft>,
    pub(super) calls_by_day: BTreeMap<LocalDay, u64>,
    pub(super) unknown_codes: Vec<Arc<str>>,
    pub(super) beside: Beside,
    pub(super) parts: DayParts,
}

/// Counts outside the service months, by calendar month.
#[derive(Default)]
pub(super) struct Beside {
    /// Calls on days that no registered term holds.
    pub(super) out_of_term: BTreeMap<Month, u64>,
    /// The shards with a tally.
    pub(super) shards: BTreeMap<Month, SmallVec<[u32; 1]>>,
}

impl Draft {
    pub(super) fn add(&mut self, part: &DayPart) {
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

    pub(super) fn of_shards(
        contract: &'a Contract,
        book: &'a Book,
        tenant: &'a str,
        shards: SmallVec<[u32; 2]>,
    ) -> Self {
        let terms = contract.terms(tenant);
        let rules = contract.rulebook.tenant(tenant);
        let split = shards.len() > 1;
        Self { contract, book, tenant, terms, rules, shards, split, patience: Patience(&|| true) }
    }

    /// The same, with cancellation: once `somebody_waits` returns false, the evaluation ends early. Its results are
    /// then meaningless, so the caller must discard them.
    pub fn while_awaited(self, somebody_waits: &'a dyn Fn() -> bool) -> Self {
        Self { patience: Patience(somebody_waits), ..self }
    }

    pub(super) fn goes_on(&self) -> bool {
        (self.patience.0)()
    }

    /// The tenant's terms.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// The service month that contains a day; `None`: outside every registered term.
    pub fn period_of(&self, day: LocalDay) -> Option<Period> {
        if self.terms.is_empty() { Some(Period::calendar_month(day.month())) } else { self.terms.period_of(day) }
    }

    pub(super) fn judge<'j>(&'j self, policy: &'j Policy) -> Judge<'j> {
        Judge { policy, rules: &self.rules, tenant: self.tenant, split: self.split }
    }

    /// The service month with this first day, with or without calls; `None`: no service month begins then.
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

    /// All service months with calls. `days`: the results of days at the last evaluation under the same contract, if
    /// the tenant was not split since.
    pub(super) fn standing(&self, mut days: Days, classes: &mut Classes) -> TenantStanding {
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

    /// The figures of each day of a service month that has counted calls, and its failures by action and code. Summed up
    /// they are the month's own. `known`: the tenant's standing under the same contract, from the same book; what it
    /// remembers of a day's items is not judged again.
    pub fn course(&self, period: Period, known: Option<&TenantStanding>) -> (BTreeMap<LocalDay, Figures>, Breakdown) {
        let (mut by_day, mut breakdown) = (BTreeMap::<LocalDay, Figures>::new(), Breakdown::default());
        self.for_each_part(period.first, period.last, known, Some(&mut breakdown), |day, part| {
            by_day.entry(day).or_default().merge(&part.figures);
        });
        (by_day, breakdown)
    }

    /// The failures that count of each day up to and including `to`, oldest first. `known` as in
    /// [`course`](Self::course).
    pub fn failures_by_day(&self, days: usize, to: LocalDay, known: Option<&TenantStanding>) -> Vec<u64> {
        let mut failures = vec![0; days];
        let from = LocalDay(to.0.saturating_sub(days as i32) + 1);
        self.for_each_part(from, to, known, None, |day, part| {
            let place = usize::try_from(day.0 - from.0).ok();
            if let Some(failures) = place.and_then(|place| failures.get_mut(place)) {
                *failures += part.figures.failed();
            }
        });
        failures
    }

    /// Evaluates each day of a range that has counted calls in a shard and is in a service month.
    fn for_each_part(
        &self,
        from: LocalDay,
        to: LocalDay,
        known: Option<&TenantStanding>,
        mut breakdown: Option<&mut Breakdown>,
        mut each: impl FnMut(LocalDay, DayPart),
    ) {
        let remembered = known.filter(|known| known.split == self.split).map(|known| known.days.clone());
        let mut remembered = remembered.unwrap_or_default();
        let (mut classes, mut scratch, mut found) = (Classes::default(), TallyDay::default(), HashSet::new());
        for (number, shard) in self.shards.iter().filter_map(|shard| Some((*shard, self.book.shard(*shard)?))) {
            let months = from.month()..=to.month();
            for facts in shard.months(self.tenant).filter(|facts| months.contains(&facts.month)) {
                facts.for_each_day(&mut scratch, |day, row, _| {
                    let period = self.period_of(day).filter(|_| (from..=to).contains(&day) && !row.calls.is_empty());
                    let Some(period) = period.filter(|_| self.goes_on()) else { return };
                    let policy = self.contract.policy(&self.terms, period.first).clone();
                    let facts = DayFacts { shard, number, day, row };
                    let breakdown = breakdown.as_deref_mut();
                    each(day, self.part(&facts, &policy, &mut classes, &mut remembered, &mut found, breakdown));
                });
            }
        }
    }

    pub(super) fn draft(&self, period: Period) -> Draft {
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

    pub(super) fn drafts(&self, days: &mut Days, classes: &mut Classes) -> Drafts {
        let mut drafts = Drafts::default();
        let mut found = HashSet::new();
        let mut uncounted = Vec::new();
        let mut scratch = TallyDay::default();
        for (number, shard) in self.shards.iter().filter_map(|shard| Some((*shard, self.book.shard(*shard)?))) {
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
                    let part = self.part(&facts, &draft.policy, classes, days, &mut found, None);
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

    /// The result of a day that is not folded and has counted calls. `None`: it cannot be judged without the others.
    pub(super) fn live_part(
        &self,
        number: u32,
        day: LocalDay,
        policy: &Arc<Policy>,
        classes: &mut Classes,
        days: &mut Days,
    ) -> Option<DayPart> {
        // Whether a ruling's request id is found is decided over all days together.
        let names_calls = |scope: &Scope| matches!(scope, Scope::Calls { .. });
        if self.rules.rulings.iter().any(|ruling| ruling.verdict.scope().is_some_and(names_calls)) {
            return None;
        }
        let shard = self.book.shard(number)?;
        let mut row = TallyDay::default();
        let is_live = shard.live_day(self.tenant, day, &mut row) && !row.calls.is_empty();
        let facts = DayFacts { shard, number, day, row: &row };
        is_live.then(|| self.part(&facts, policy, classes, days, &mut HashSet::new(), None))
    }

    /// Counts the request ids that rulings name and no item has. `found`: those that items have.
    pub(super) fn add_unknown_ids(&self, found: &HashSet<(LocalDay, String)>, drafts: &mut Drafts) {
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

    /// Adds the calls that a tally does not count. A tenant that was admitted late is late in each of its service
    /// months. Uncounted calls create no service month for an unregistered tenant.
    pub(super) fn add_uncounted(&self, facts: &MonthFacts<'_>, drafts: &mut Drafts) {
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

    /// The result of one day of one shard. Items are judged only where something could affect them: where there are
    /// failures, or rulings that make failures. `found`: request ids of its items that rulings name.
    pub(super) fn part(
        &self,
        facts: &DayFacts<'_>,
        policy: &Arc<Policy>,
        classes: &mut Classes,
        days: &mut Days,
        found: &mut HashSet<(LocalDay, String)>,
        mut breakdown: Option<&mut Breakdown>,
    ) -> DayPart {
        let mut part = DayPart { uncounted: uncounted_of(facts.row), ..DayPart::default() };
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
                Some(items) => part.add_unitemised(&judge, facts, &names, row, items, breakdown.as_deref_mut()),
                None => part.figures.add_class(class, row.calls),
            }
        }
        if let Some(items) = items {
            part.figures.merge(&items.figures);
            for row in &items.rows {
                part.add_failing(&row.action, row.code.as_deref(), row.failures);
                if let Some(breakdown) = breakdown.as_deref_mut() {
                    breakdown.add(&row.action, row.code.as_deref(), row.raw, row.failures);
                }
            }
        }
        part.figures.add_class(Class::Success, good);
        part
    }

    /// The months with their money, in order of time.
    pub(super) fn finish(
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
}
