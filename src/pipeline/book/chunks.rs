//! The failing calls of one tenant on one local day: its part of each `F` record, in the order of their first offsets.
//!
//! During an incident a tenant gets one part per flush. Parts are stored in blocks, so that a copy of the day shares
//! all blocks but the one that changes, and a reader that has seen the day reads only the new parts.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use prost::Message;

use super::Stored;
use crate::domain::calendar::LocalDay;
use crate::pipeline::dictionary::Dictionary;
use crate::pipeline::record::{Item, TenantEvidence};

/// Parts of a block.
const BLOCK: usize = 128;

/// One tenant's failing calls in one record.
#[derive(Debug, Clone)]
pub(super) struct Chunk {
    /// First offset of the record.
    first: i64,
    record: Arc<Stored>,
    /// Where its part of the record is.
    at: (u32, u32),
    /// The first and the last second that it covers, in s since 1970.
    seconds: (i64, i64),
}

impl Chunk {
    /// The part at this place of a record.
    pub(super) fn new(first: i64, record: Arc<Stored>, at: (u32, u32)) -> Self {
        let mut chunk = Self { first, record, at, seconds: (i64::MAX, i64::MIN) };
        let (mut from, mut to) = chunk.seconds;
        chunk.read().for_each_second(|second, _| (from, to) = (from.min(second), to.max(second)));
        chunk.seconds = (from, to);
        chunk
    }

    fn bytes(&self) -> &[u8] {
        &self.record.bytes[self.at.0 as usize..self.at.1 as usize]
    }

    fn read(&self) -> TenantEvidence {
        // Values were checked when they were read.
        TenantEvidence::decode(self.bytes()).unwrap_or_default()
    }

    fn items(&self, names: &Dictionary, seconds: &DaySeconds) -> Vec<Item> {
        let mut items = self.read().items(self.first, names);
        for item in &mut items {
            let known = seconds.0.get(&item.time_ms.div_euclid(1000)).copied();
            item.calls_in_second = known.unwrap_or(item.calls_in_second);
        }
        items
    }
}

/// The calls of every second of a tenant's day with failing calls in one shard: of all figures the greatest.
#[derive(Debug, Clone, Default)]
pub struct DaySeconds(HashMap<i64, u32, foldhash::fast::FixedState>);

impl DaySeconds {
    fn raise(&mut self, second: i64, calls: u32) {
        let known = self.0.entry(second).or_default();
        *known = calls.max(*known);
    }
}

/// A tenant's day.
#[derive(Debug, Clone)]
pub struct DayChunks {
    pub(super) day: LocalDay,
    /// Changes when a part is removed or inserted before another; unique within a book.
    edited: u64,
    bytes: usize,
    /// None is empty.
    blocks: Vec<Arc<Vec<Chunk>>>,
}

/// How much of a day a reader has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    edited: u64,
    chunks: usize,
}

/// Items with new information.
#[derive(Debug, Default)]
pub struct News {
    /// Items seen before, as they were then.
    pub before: Vec<Item>,
    /// The same, and the new ones, as they are now.
    pub after: Vec<Item>,
}

impl DayChunks {
    /// An empty day. `edited`: unique within the book.
    pub(super) const fn new(day: LocalDay, edited: u64) -> Self {
        Self { day, edited, bytes: 0, blocks: Vec::new() }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Adds a part. `edited`: a new number, in case it is not the last part.
    pub(super) fn insert(&mut self, chunk: Chunk, edited: u64) {
        self.bytes += chunk.bytes().len();
        let is_last = self.chunks().next_back().is_none_or(|last| last.first < chunk.first);
        if is_last {
            match self.blocks.last_mut().filter(|block| block.len() < BLOCK) {
                Some(block) => Arc::make_mut(block).push(chunk),
                None => self.blocks.push(Arc::new(vec![chunk])),
            }
            return;
        }
        self.edited = edited;
        let at = self.blocks.partition_point(|block| block.last().is_some_and(|last| last.first < chunk.first));
        let block = Arc::make_mut(&mut self.blocks[at]);
        block.insert(block.partition_point(|known| known.first < chunk.first), chunk);
        if block.len() > BLOCK {
            let rest = block.split_off(BLOCK / 2);
            self.blocks.insert(at + 1, Arc::new(rest));
        }
    }

    /// Removes the part of the record that begins there.
    pub(super) fn remove(&mut self, first: i64, edited: u64) {
        let at = self.blocks.partition_point(|block| block.last().is_some_and(|last| last.first < first));
        let Some(place) = self.blocks.get(at).and_then(|b| b.binary_search_by_key(&first, |c| c.first).ok()) else {
            return;
        };
        self.edited = edited;
        let block = Arc::make_mut(&mut self.blocks[at]);
        self.bytes -= block.remove(place).bytes().len();
        if block.is_empty() {
            self.blocks.remove(at);
        }
    }

    fn chunks(&self) -> impl DoubleEndedIterator<Item = &Chunk> {
        self.blocks.iter().flat_map(|block| block.iter())
    }

    /// All of it.
    pub fn seen(&self) -> Seen {
        Seen { edited: self.edited, chunks: self.blocks.iter().map(|block| block.len()).sum() }
    }

    /// The figures of the day's seconds, from all parts.
    pub fn seconds(&self) -> DaySeconds {
        let mut seconds = DaySeconds::default();
        self.chunks().for_each(|chunk| chunk.read().for_each_second(|second, calls| seconds.raise(second, calls)));
        seconds
    }

    /// The items, part by part. `seconds`: the parts' figures of the day's seconds.
    pub fn items<'a>(
        &'a self,
        names: &'a Dictionary,
        seconds: impl Borrow<DaySeconds> + 'a,
    ) -> impl Iterator<Item = Vec<Item>> + 'a {
        self.items_near(names, seconds, i64::MIN..=i64::MAX)
    }

    /// As [`DayChunks::items`], but only of parts that may have items between these seconds; the others are not read.
    pub fn items_near<'a>(
        &'a self,
        names: &'a Dictionary,
        seconds: impl Borrow<DaySeconds> + 'a,
        between: RangeInclusive<i64>,
    ) -> impl Iterator<Item = Vec<Item>> + 'a {
        let near = move |chunk: &&Chunk| chunk.seconds.0 <= *between.end() && *between.start() <= chunk.seconds.1;
        self.chunks().filter(near).map(move |chunk| chunk.items(names, seconds.borrow()))
    }

    /// Bytes of all parts.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What is new since `seen`: the items of the seconds that new parts affect. `None`: parts were removed or
    /// inserted, so all have to be read again.
    pub fn since(&self, seen: Seen, names: &Dictionary) -> Option<News> {
        if seen.edited != self.edited {
            return None;
        }
        let (mut before, mut now) = (DaySeconds::default(), DaySeconds::default());
        let new: Vec<&Chunk> = self.blocks_from(seen.chunks).collect();
        new.iter().for_each(|chunk| chunk.read().for_each_second(|second, calls| now.raise(second, calls)));
        let mut seconds: Vec<i64> = now.0.keys().copied().collect();
        seconds.sort_unstable();
        // A second is in few records: those of the flushes in which its calls came.
        let touched = |chunk: &&Chunk| {
            let at = seconds.partition_point(|second| *second < chunk.seconds.0);
            seconds.get(at).is_some_and(|second| *second <= chunk.seconds.1)
        };
        let old: Vec<&Chunk> = self.chunks().take(seen.chunks).filter(touched).collect();
        for chunk in &old {
            chunk.read().for_each_second(|second, calls| {
                if now.0.contains_key(&second) {
                    before.raise(second, calls);
                    now.raise(second, calls);
                }
            });
        }
        let items = |chunks: &[&Chunk], seconds: &DaySeconds| -> Vec<Item> {
            let items = chunks.iter().flat_map(|chunk| chunk.items(names, seconds));
            items.filter(|item| now.0.contains_key(&item.time_ms.div_euclid(1000))).collect()
        };
        let (before, mut after) = (items(&old, &before), items(&old, &now));
        after.extend(items(&new, &now));
        Some(News { before, after })
    }

    /// The parts from this index on; the blocks before it are not read.
    fn blocks_from(&self, mut place: usize) -> impl Iterator<Item = &Chunk> {
        let mut at = 0;
        while let Some(block) = self.blocks.get(at).filter(|block| block.len() <= place) {
            place -= block.len();
            at += 1;
        }
        self.blocks[at..].iter().flat_map(|block| block.iter()).skip(place)
    }
}
