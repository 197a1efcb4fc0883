//! Calls that can still be repeated: the last ones, and some from all over the dedupe window, in bounded memory.

use super::expected::Outcome;
use super::random::Random;

/// Most recent calls, to repeat them soon after.
const NEAR_CALLS: usize = 256;
/// Calls remembered across the dedupe window.
const SPREAD_CALLS: usize = 16_384;

/// A call that may be repeated.
#[derive(Debug, Clone, Copy)]
pub(super) struct Remembered {
    /// Number of its request id.
    pub(super) id: u64,
    /// The content of the first occurrence.
    pub(super) outcome: Outcome,
    deliveries: u32,
    place: Place,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    Near(usize),
    Spread(usize),
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    id: u64,
    outcome: Outcome,
    /// Of its first occurrence.
    arrival_ms: i64,
    deliveries: u32,
}

/// The calls that may be repeated. Each is in one place only, so that forgetting it is final.
#[derive(Debug, Clone)]
pub(super) struct Recent {
    near: Ring,
    spread: Ring,
    /// One in this many calls that leave `near` moves to `spread`.
    spread_every: u64,
}

impl Recent {
    /// Nothing yet, of about `in_window` calls in a dedupe window.
    pub(super) fn new(in_window: f64) -> Self {
        let mut recent = Self { near: Ring::new(NEAR_CALLS), spread: Ring::new(SPREAD_CALLS), spread_every: 1 };
        recent.expect(in_window);
        recent
    }

    /// The rate has changed.
    pub(super) fn expect(&mut self, in_window: f64) {
        self.spread_every = ((in_window / SPREAD_CALLS as f64) as u64).max(1);
    }

    pub(super) fn push(&mut self, id: u64, outcome: Outcome, arrival_ms: i64) {
        let leaving = self.near.push(Entry { id, outcome, arrival_ms, deliveries: 1 });
        if let Some(leaving) = leaving.filter(|entry| entry.id.is_multiple_of(self.spread_every)) {
            self.spread.push(leaving);
        }
    }

    /// A call that neither happened nor arrived before `oldest_ms`: any, if the draw finds one, otherwise the last.
    pub(super) fn draw(&mut self, oldest_ms: i64, random: &mut Random) -> Option<Remembered> {
        let mut places = [None; 2];
        if !self.spread.entries.is_empty() && random.below(2) == 0 {
            places[0] = Some(Place::Spread(random.below(self.spread.entries.len() as u32) as usize));
        } else if !self.near.entries.is_empty() {
            places[0] = Some(Place::Near(random.below(self.near.entries.len() as u32) as usize));
        }
        if !self.near.entries.is_empty() {
            places[1] = Some(Place::Near(self.near.newest()));
        }
        places.into_iter().flatten().find_map(|place| {
            let Entry { id, outcome, arrival_ms, deliveries } = (*self.slot(place))?;
            (outcome.at_ms.min(arrival_ms) >= oldest_ms).then_some(Remembered { id, outcome, deliveries, place })
        })
    }

    /// It is repeated as it was; returns which delivery that is.
    pub(super) fn repeated(&mut self, call: &Remembered) -> u32 {
        let deliveries = call.deliveries + 1;
        if let Some(entry) = self.slot(call.place) {
            entry.deliveries = deliveries;
        }
        deliveries
    }

    /// It is repeated for the last time; returns which delivery that is.
    pub(super) fn forget(&mut self, call: &Remembered) -> u32 {
        *self.slot(call.place) = None;
        call.deliveries + 1
    }

    fn slot(&mut self, place: Place) -> &mut Option<Entry> {
        match place {
            Place::Near(index) => &mut self.near.entries[index],
            Place::Spread(index) => &mut self.spread.entries[index],
        }
    }
}

/// The last calls, overwritten in turn. `None`: not to be repeated.
#[derive(Debug, Clone)]
struct Ring {
    entries: Vec<Option<Entry>>,
    next: usize,
    capacity: usize,
}

impl Ring {
    fn new(capacity: usize) -> Self {
        Self { entries: Vec::new(), next: 0, capacity }
    }

    /// Remembers a call, and returns the one that makes room for it.
    fn push(&mut self, entry: Entry) -> Option<Entry> {
        if self.entries.len() < self.capacity {
            self.entries.push(Some(entry));
            return None;
        }
        let old = self.entries[self.next].replace(entry);
        self.next = (self.next + 1) % self.capacity;
        old
    }

    fn newest(&self) -> usize {
        let count = self.entries.len();
        if count < self.capacity { count.saturating_sub(1) } else { (self.next + count - 1) % count }
    }
}
