//! What is published: the ledger as it was read, its standings under the contract, and when readers may see it.
//!
//! One thread owns a [`Publisher`]: the tail gives it the ledger's records, and the caller that changes the contract
//! gives it standings that were evaluated separately. It produces a [`Published`], an immutable value that shares with
//! the next one what has not changed. All answers made from one value are consistent.
//!
//! A shard is shown as of the last time the tail was at its partition's end, with nothing waiting and its totals
//! checked: a tail that lags behind compaction sees new values beside old checkpoints. Nothing is shown before every
//! shard has reached that point. A takeover needs something newer ([`Publisher::read`]): it includes the values that
//! wait for a checkpoint.

use std::collections::HashSet;
use std::sync::Arc;

use super::book::{Book, ChangedFacts, Event};
use super::mutation::{Mutation, mutated};
use super::protocol::{Need, Takeover};
use super::standings::Standings;
use crate::domain::calendar::LocalClock;
use crate::domain::contract::Contract;

/// Tenants that are evaluated between two liveness signals.
const AT_ONCE: usize = 1024;

/// What all readers see: one state of ledger, contract and standings. A copy shares it.
#[derive(Debug, Clone)]
pub struct Published {
    /// The ledger, every shard as of its last good end.
    pub book: Book,
    /// Its standings.
    pub standings: Standings,
}

/// The tenants whose alerts have to be judged.
#[derive(Debug)]
pub enum Unjudged {
    /// All tenants'.
    All,
    /// Those of these tenants.
    Some(HashSet<Arc<str>>),
}

impl Default for Unjudged {
    fn default() -> Self {
        Self::Some(HashSet::new())
    }
}

impl Unjudged {
    /// Adds more. Readers skip values, so changes accumulate until they are taken.
    pub fn extend(&mut self, more: Self) {
        match (&mut *self, more) {
            (Self::All, _) => {}
            (Self::Some(_), Self::All) => *self = Self::All,
            (Self::Some(some), Self::Some(more)) if mutated(Mutation::ChangedOverwritten) => *some = more,
            (Self::Some(some), Self::Some(more)) => some.extend(more),
        }
    }
}

/// Owns what was read and what is published of it.
#[derive(Debug)]
pub struct Publisher {
    read: Book,
    shown: Book,
    standings: Standings,
    /// The tenants' changes since they were evaluated, and in which shards.
    due: Vec<(u32, Arc<str>, ChangedFacts)>,
    /// The tenants whose standing has changed since the last value.
    changed: Unjudged,
    /// There is something to publish that the last value does not have.
    is_news: bool,
    clock: LocalClock,
}

impl Publisher {
    /// Nothing read yet.
    pub fn new(shards: u32, contract: Arc<Contract>) -> Self {
        Self {
            read: Book::new(shards),
            shown: Book::new(shards),
            clock: clock(&contract),
            standings: Standings::new(contract),
            due: Vec::new(),
            changed: Unjudged::All,
            is_news: false,
        }
    }

    /// Everything read, up to the last record.
    pub fn read(&self) -> &Book {
        &self.read
    }

    /// Reads one record of a ledger partition; see [`Book::apply`].
    pub fn apply(&mut self, partition: u32, offset: i64, key: &[u8], value: Option<&[u8]>) -> Option<Event> {
        let event = self.read.apply(partition, offset, key, value);
        if mutated(Mutation::PublishWhileLagging) && matches!(event, Some(Event::Checkpoint { .. })) {
            self.shown.show(partition, &self.read);
            self.is_news = true;
        }
        self.note_trouble(partition, event.as_ref());
        event
    }

    /// The tail is at a partition's end; see [`Book::reached_end`].
    pub fn reached_end(&mut self, partition: u32, position: i64) -> Option<Event> {
        let event = self.read.reached_end(partition, position);
        if let Some(Event::Published(changed)) = &event {
            self.shown.show(partition, &self.read);
            self.is_news = true;
            self.due.extend(changed.iter().map(|(tenant, facts)| (partition, tenant.clone(), facts.clone())));
        }
        self.note_trouble(partition, event.as_ref());
        event
    }

    fn note_trouble(&mut self, partition: u32, event: Option<&Event>) {
        if let Some(Event::Trouble(trouble)) = event {
            self.shown.mark_stale(partition, trouble.clone());
            self.is_news = true;
        }
    }

    /// Is there something to publish?
    pub fn is_due(&self) -> bool {
        self.is_news && (self.shown.is_loaded() || mutated(Mutation::PublishWhileLagging))
    }

    /// The next value, and the tenants whose standing differs from the previous value. `None`: nothing has changed, or
    /// not all of the ledger was read yet. `alive` is called periodically while tenants are evaluated.
    pub fn publish(&mut self, alive: impl FnMut()) -> Option<(Published, Unjudged)> {
        if !self.is_due() {
            return None;
        }
        self.evaluate(alive);
        self.is_news = false;
        let value = Published { book: self.shown.clone(), standings: self.standings.shown() };
        Some((value, std::mem::take(&mut self.changed)))
    }

    fn evaluate(&mut self, mut alive: impl FnMut()) {
        for (index, (shard, tenant, facts)) in self.due.drain(..).enumerate() {
            let judged = self.standings.update(&self.shown, shard, &tenant, &facts, &mut self.clock);
            if let Unjudged::Some(changed) = &mut self.changed
                && judged
            {
                changed.insert(tenant);
            }
            if index % AT_ONCE == AT_ONCE - 1 {
                alive();
            }
        }
    }

    /// Adopts another contract for all tenants. `evaluated`: the standings under it, and the value they were evaluated
    /// from; tenants whose facts have changed since are evaluated here. Without it, all tenants are. Returns the former
    /// standings, because dropping those of all tenants takes a while.
    pub fn adopt(
        &mut self,
        contract: &Arc<Contract>,
        evaluated: Option<(&Published, Standings)>,
        alive: impl FnMut(),
    ) -> Standings {
        let (tenants, mut new) = match evaluated {
            Some((from, standings)) => (self.shown.changed_since(&from.book), standings),
            None => (self.shown.tenants().cloned().collect(), Standings::new(contract.clone())),
        };
        // Otherwise what is due would count as news of the last minute twice.
        self.evaluate(alive);
        new.refresh(&self.shown, &tenants);
        new.inherit(&self.standings, &tenants);
        self.clock = clock(contract);
        self.changed = Unjudged::All;
        self.is_news = true;
        std::mem::replace(&mut self.standings, new)
    }

    /// Everything read, for a new owner. `None`: the tail has not read enough yet.
    pub fn read_for(&self, takeover: &Takeover) -> Option<Book> {
        (takeover.need(&self.read) == Need::Nothing).then(|| self.read.clone())
    }
}

/// The days of the first policy's zone. Which one does not matter for telling months apart.
fn clock(contract: &Contract) -> LocalClock {
    LocalClock::new(contract.policies.versions()[0].time_zone)
}
