//! The failing calls of a service month, itemised or by rows, and how each was judged.

use std::ops::RangeInclusive;
use std::rc::Rc;

use super::Evaluation;
use super::day::{ItemSums, Row, call_of};
use crate::domain::calendar::{LocalDay, day_start_ms};
use crate::domain::call::Flag;
use crate::domain::codes::Class;
use crate::domain::decision::{Decision, Judge, Outcome, Unitemised};
use crate::domain::standing::ServiceMonth;
use crate::pipeline::book::{DayChunks, DaySeconds};
use crate::pipeline::record::{Item, TallyDay};

/// One failing call of a service month and how it was judged.
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

impl<'a> Evaluation<'a> {
    /// Every itemised failing call on these days of a service month, by day, partition and offset, and how it was judged.
    /// Calls that are not failures are omitted unless `all`.
    pub fn evidence<'m>(
        &'m self,
        month: &'m ServiceMonth,
        days: RangeInclusive<LocalDay>,
        all: bool,
    ) -> impl Iterator<Item = Evidence> + use<'a, 'm> {
        let judge = self.judge(&month.policy);
        let days = days.start().max(&month.period.first).0..=days.end().min(&month.period.last).0;
        let days = days.map(LocalDay);
        let places = days.flat_map(|day| self.book.shards().iter().zip(0u32..).map(move |place| (day, place)));
        let items = places.flat_map(move |(day, (shard, partition))| {
            let chunks = shard.day_chunks(self.tenant, day).filter(|_| self.goes_on());
            let items = chunks.into_iter().flat_map(|chunks| chunks.items(shard.names(), chunks.seconds()));
            items.take_while(|_| self.goes_on()).flatten().map(move |item| (partition, item))
        });
        items.filter_map(move |(partition, item)| decided(judge, partition, item, all))
    }

    /// The failures of a service month that are itemised, in order of time, then of the source. So that a month of any
    /// size can be written, at most [`CALLS_AT_ONCE`] of them are in memory at once, plus the positions of one day.
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

/// Maximum number of failing calls in memory while a service month is written.
pub(super) const CALLS_AT_ONCE: usize = 16_384;

/// Time, partition, offset: no two calls have the same.
pub(super) type PlaceInTime = (i64, u32, i64);

/// The items of a day, cut into slices.
pub(super) struct CutDay {
    pub(super) day: LocalDay,
    /// From the first to the last item of each, in order of time.
    pub(super) slices: Vec<RangeInclusive<PlaceInTime>>,
    /// The figures of the day's seconds from its records, by shard: read once, not once per slice.
    pub(super) seconds: Vec<DaySeconds>,
}

pub(super) fn place_in_time(partition: u32, item: &Item) -> PlaceInTime {
    (item.time_ms, partition, item.offset)
}

/// What became of an item. Calls that are not failures are omitted unless `all`.
pub(super) fn decided(judge: Judge<'_>, partition: u32, item: Item, all: bool) -> Option<Evidence> {
    let Decision { class, outcome, document } = judge.call(&call_of(&item));
    let wanted = all || !matches!(outcome, Outcome::NoFailure | Outcome::Unbound);
    let document = document.map(str::to_owned);
    wanted.then_some(Evidence { partition, item, class, outcome, document })
}

/// Failures of a service month that are not itemised: one day, action, code and flag.
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
    /// The failures of a service month that are not itemised; those of one shard are in memory at once.
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
