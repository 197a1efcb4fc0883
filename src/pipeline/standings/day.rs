//! The result of one day of one shard under the contract.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use smallvec::SmallVec;

use crate::domain::calendar::{LocalDay, day_start_ms};
use crate::domain::call::Flag;
use crate::domain::codes::{Class, CodeMap};
use crate::domain::decision::{FailingCall, Judge, Outcome, Unitemised};
use crate::domain::policy::Policy;
use crate::domain::standing::{FailingCalls, Figures, Uncounted};
use crate::pipeline::book::{News, Seen, ShardBook};
use crate::pipeline::dictionary::Dictionary;
use crate::pipeline::record::{DICTIONARY_NAMES, Item, TallyDay};

/// The result of a day's items is cached once they take this many bytes, so that a call during an incident does not
/// cause the whole incident to be judged again.
const REMEMBER_FROM_BYTES: usize = 2048;
/// Actions and codes of a service month whose failures are kept apart, the most frequent ones.
const TOP_FAILING: usize = 5;
/// Maximum number of unclassified codes kept per tenant.
pub(super) const UNKNOWN_CODES: usize = 8;

/// The results of the days that are not folded, by shard and day.
pub(super) type DayParts = SmallVec<[((u32, LocalDay), Arc<DayPart>); 1]>;

/// The result of one day of one shard.
#[derive(Debug, Clone, Default)]
pub(super) struct DayPart {
    pub(super) figures: Figures,
    pub(super) failing: Vec<FailingCalls>,
    pub(super) uncounted: Uncounted,
    /// Calls that a ruling covers but cannot reach.
    pub(super) unreached: u64,
    pub(super) unknown_codes: Vec<Arc<str>>,
}

/// The classes of codes, by shard, policy and number: looked up once, not once per tenant.
#[derive(Debug, Clone, Default)]
pub(super) struct Classes(Vec<SmallVec<[PolicyClasses; 1]>>);

/// A policy and the classes of numbered codes under it, as far as they were looked up.
pub(super) type PolicyClasses = (Arc<Policy>, Vec<Option<Class>>);

impl Classes {
    /// Those of a shard under a policy.
    pub(super) fn of(&mut self, shard: u32, policy: &Arc<Policy>) -> &mut Vec<Option<Class>> {
        let shard = shard as usize;
        if self.0.len() <= shard {
            self.0.resize_with(shard + 1, SmallVec::new);
        }
        let known = &mut self.0[shard];
        // Kept alive here, so that no other policy can be allocated at the same address.
        let at = known.iter().position(|(known, _)| Arc::ptr_eq(known, policy)).unwrap_or_else(|| {
            known.push((policy.clone(), Vec::new()));
            known.len() - 1
        });
        &mut known[at].1
    }
}

/// The results of days' items, by shard and day, as far as they were judged.
pub(super) type Days = HashMap<(u32, LocalDay), (Seen, Arc<ItemSums>)>;

/// The sums of the items of one day and shard.
#[derive(Debug, Clone, Default)]
pub(super) struct ItemSums {
    pub(super) figures: Figures,
    pub(super) rows: Vec<ItemRow>,
    /// Request ids that rulings name and that are among the items.
    pub(super) named: Vec<String>,
}

/// Items of one row of the tally.
#[derive(Debug, Clone)]
pub(super) struct ItemRow {
    pub(super) action: String,
    pub(super) code: Option<String>,
    pub(super) flag: Flag,
    pub(super) items: u64,
    /// Those that are failures, before exclusions.
    pub(super) raw: u64,
    /// Those that count as failures.
    pub(super) failures: u64,
}

impl ItemSums {
    /// The cached sums plus what is new since, or the sums of all items. What is cached was decided under the same
    /// contract.
    pub(super) fn at(judge: &Judge<'_>, facts: &DayFacts<'_>, days: &mut Days) -> Arc<Self> {
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

    pub(super) fn of_day(judge: &Judge<'_>, shard: &ShardBook, day: LocalDay) -> Self {
        let Some(chunks) = shard.day_chunks(judge.tenant, day) else { return Self::default() };
        Self::of(judge, day, chunks.items(shard.names(), chunks.seconds()).flatten())
    }

    pub(super) fn of(judge: &Judge<'_>, day: LocalDay, items: impl IntoIterator<Item = Item>) -> Self {
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
            let (raw, failures) = (u64::from(decision.class == Class::SystemError), u64::from(decision.counts()));
            let row = sums.row(call.action, call.code, call.flag);
            row.items += 1;
            row.raw += raw;
            row.failures += failures;
        }
        sums
    }

    /// The same with what is new.
    pub(super) fn with(&self, judge: &Judge<'_>, day: LocalDay, news: News) -> Self {
        let (before, after) = (Self::of(judge, day, news.before), Self::of(judge, day, news.after));
        let mut sums = self.clone();
        sums.figures.unmerge(&before.figures);
        sums.figures.merge(&after.figures);
        for gone in &before.rows {
            let row = sums.row(&gone.action, gone.code.as_deref(), gone.flag);
            row.items -= gone.items;
            row.raw -= gone.raw;
            row.failures -= gone.failures;
        }
        for more in &after.rows {
            let row = sums.row(&more.action, more.code.as_deref(), more.flag);
            row.items += more.items;
            row.raw += more.raw;
            row.failures += more.failures;
        }
        // What was among the items before still is.
        sums.named.retain(|id| !before.named.contains(id));
        sums.named.extend(after.named);
        sums
    }

    pub(super) fn row(&mut self, action: &str, code: Option<&str>, flag: Flag) -> &mut ItemRow {
        let at = self.rows.iter().position(|row| row.is(action, code, flag)).unwrap_or_else(|| {
            let (action, code) = (action.to_owned(), code.map(str::to_owned));
            self.rows.push(ItemRow { action, code, flag, items: 0, raw: 0, failures: 0 });
            self.rows.len() - 1
        });
        &mut self.rows[at]
    }

    pub(super) fn itemised(&self, action: &str, code: Option<&str>, flag: Flag) -> u64 {
        self.rows.iter().find(|row| row.is(action, code, flag)).map_or(0, |row| row.items)
    }
}

impl ItemRow {
    pub(super) fn is(&self, action: &str, code: Option<&str>, flag: Flag) -> bool {
        self.action == action && self.code.as_deref() == code && self.flag == flag
    }
}

pub(super) fn call_of(item: &Item) -> FailingCall<'_> {
    FailingCall {
        time_ms: item.time_ms,
        action: &item.action,
        code: item.code.as_deref(),
        flag: Flag::from_number(item.flag).unwrap_or(Flag::Absent),
        request_id: &item.request_id,
        calls_in_second: item.calls_in_second,
    }
}

/// One day of a tally, and where its items are.
pub(super) struct DayFacts<'a> {
    pub(super) shard: &'a ShardBook,
    pub(super) number: u32,
    pub(super) day: LocalDay,
    pub(super) row: &'a TallyDay,
}

/// Unsuccessful calls of one action, code and flag; names by their number.
#[derive(Clone, Copy)]
pub(super) struct Row {
    pub(super) action: u32,
    pub(super) code: Option<u32>,
    pub(super) flag: Flag,
    pub(super) calls: u64,
}

impl Row {
    pub(super) fn of(day: &TallyDay, index: usize) -> Self {
        Self {
            action: day.outcome_actions[index],
            code: day.outcome_codes[index].checked_sub(1),
            flag: Flag::from_number(day.outcome_flags[index]).unwrap_or(Flag::Absent),
            calls: day.outcome_calls[index],
        }
    }
}

/// Calls of a day that its tally does not count.
pub(super) fn uncounted_of(day: &TallyDay) -> Uncounted {
    let TallyDay { limit, too_old, not_ok, unheld, .. } = *day;
    if limit + too_old + unheld > 0 {
        Uncounted { limit, too_old, not_ok, unheld, admitted_late: false }
    } else {
        Uncounted::default()
    }
}

impl DayPart {
    pub(super) fn add_failing(&mut self, action: &str, code: Option<&str>, failures: u64) {
        if failures > 0 {
            add_failing(
                &mut self.failing,
                &FailingCalls { action: action.into(), code: code.map(Into::into), failures },
            );
        }
    }

    /// Adds the calls of a row that are not itemised.
    pub(super) fn add_unitemised(
        &mut self,
        judge: &Judge<'_>,
        facts: &DayFacts<'_>,
        names: &Names<'_>,
        row: &Row,
        items: &ItemSums,
        breakdown: Option<&mut Breakdown>,
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
        let failures = if decision.counts() { unitemised } else { 0 };
        self.add_failing(action, code, failures);
        if let Some(breakdown) = breakdown {
            breakdown.add(action, code, if decision.class == Class::SystemError { unitemised } else { 0 }, failures);
        }
    }
}

/// Failures by action and code, before exclusions and those that count.
#[derive(Debug, Clone, Default)]
pub struct Breakdown(BTreeMap<(String, Option<String>), FailureCounts>);

/// Failures of one action and code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FailureCounts {
    /// Before exclusions.
    pub raw: u64,
    /// Those that count.
    pub counted: u64,
}

impl Breakdown {
    pub(super) fn add(&mut self, action: &str, code: Option<&str>, raw: u64, counted: u64) {
        if raw > 0 {
            let counts = self.0.entry((action.into(), code.map(Into::into))).or_default();
            counts.raw += raw;
            counts.counted += counted;
        }
    }

    /// By action and code, the most failures before exclusions first.
    pub fn rows(self) -> Vec<((String, Option<String>), FailureCounts)> {
        let mut rows: Vec<_> = self.0.into_iter().collect();
        // Stable: equals stay in the order of their names.
        rows.sort_by_key(|(_, counts)| std::cmp::Reverse(counts.raw));
        rows
    }
}

/// A shard's names, and the classes of those that are codes under one policy.
pub(super) struct Names<'a> {
    pub(super) names: &'a Dictionary,
    pub(super) classes: &'a mut Vec<Option<Class>>,
}

impl<'a> Names<'a> {
    pub(super) fn name<'n>(&self, day: &'n TallyDay, number: u32) -> &'n str
    where
        'a: 'n,
    {
        self.names.name(day, number)
    }

    pub(super) fn class(&mut self, policy: &Policy, day: &TallyDay, row: &Row) -> Class {
        let Some(code) = row.code else { return policy.codes.classify(None, row.flag) };
        let look_up = |names: &Dictionary| policy.codes.class(names.name(day, code));
        // A name that a day carries itself has another number on another day.
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

pub(super) fn add_failing(all: &mut Vec<FailingCalls>, more: &FailingCalls) {
    match all.iter_mut().find(|known| known.is_same(more)) {
        Some(known) => known.failures += more.failures,
        None => all.push(more.clone()),
    }
}

/// Sorts failures by frequency, and returns the most frequent ones.
pub(super) fn most_frequent(all: &mut [FailingCalls]) -> Box<[FailingCalls]> {
    all.sort_unstable_by(|a, b| b.failures.cmp(&a.failures).then_with(|| a.cmp(b)));
    all.iter().take(TOP_FAILING).cloned().collect()
}

/// Adds codes without a class; the alphabetically first ones are kept, so that the order of arrival does not matter.
pub(super) fn add_unknown(all: &mut Vec<Arc<str>>, code: &str) {
    if let Err(at) = all.binary_search_by(|known| (**known).cmp(code))
        && at < UNKNOWN_CODES
    {
        all.insert(at, code.into());
        all.truncate(UNKNOWN_CODES);
    }
}
