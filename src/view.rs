//! What the tail publishes and everything else reads: the book, the standings, and which tenants are this instance's
//! to export.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use arc_swap::ArcSwap;
use chrono_tz::Tz;

use crate::domain::alert::Windows;
use crate::domain::availability::Availability;
use crate::domain::calendar::{LocalClock, LocalDay};
use crate::domain::contract::Contract;
use crate::domain::term::Period;
use crate::pipeline::book::Book;
use crate::pipeline::lag::{ShardLag, SourceEnd};
use crate::pipeline::pace::Pace;
use crate::pipeline::rulings::NotedRuling;
use crate::pipeline::standings::Standings;

/// Arrivals (ms) of some records of flushes that are not visible yet, by shard and sequence number.
type Arrivals = HashMap<u32, Vec<(u64, Vec<i64>)>>;

/// The shard whose owner speaks for the fleet.
pub const FLEET_SHARD: u32 = 0;
/// Tenants that are judged anew between two releases of the book, so that the tail need not wait.
const TENANTS_AT_ONCE: usize = 64;

/// The published state of one instance.
pub struct View {
    book: RwLock<Book>,
    standings: RwLock<Standings>,
    /// The last hours of every tenant, as this instance has seen them.
    pace: RwLock<Pace>,
    /// Tenants whose standing may have changed since their alerts were judged.
    unjudged: Mutex<Unjudged>,
    home: ArcSwap<Home>,
    /// Until when the home holds, unless the worker says so again.
    home_until: Mutex<Instant>,
    /// Held by the tail from reading a batch until the standings show it.
    publishing: Mutex<()>,
    arrivals: Mutex<Arrivals>,
    /// Tenants whose facts changed while everybody is judged anew; `None` at other times.
    missed: Mutex<Option<HashSet<Arc<str>>>>,
    /// Held while everybody is judged anew.
    adopting: Mutex<()>,
    rulings: ArcSwap<Vec<NotedRuling>>,
    source_ends: ArcSwap<Vec<Option<SourceEnd>>>,
    shards: u32,
}

/// A tenant before its figures are refreshed.
struct Before {
    /// Of the shards with its calls.
    watermark_ms: i64,
    /// The day of that.
    day: LocalDay,
    /// The service month of that day, by its first one, and what it came to; `None`: the tenant was not known.
    counted: Option<(LocalDay, Availability)>,
}

/// Whose alerts are to be judged.
#[derive(Debug)]
pub enum Unjudged {
    /// Everybody's.
    All,
    /// Those of these tenants.
    Some(HashSet<Arc<str>>),
}

/// The shards this instance speaks for.
#[derive(Debug, Clone, Default)]
pub struct Home {
    /// Shards owned, and judged on a view as new as any predecessor's.
    shards: Vec<u32>,
    /// Number of all shards.
    of: u32,
}

impl Default for Unjudged {
    fn default() -> Self {
        Self::Some(HashSet::new())
    }
}

impl Unjudged {
    fn extend(&mut self, tenants: &[Arc<str>]) {
        if let Self::Some(some) = self {
            some.extend(tenants.iter().cloned());
        }
    }
}

impl Home {
    /// Does it speak for anybody?
    pub fn is_empty(&self) -> bool {
        self.shards.is_empty()
    }

    /// Does it speak for the fleet? The owner of shard 0 does.
    pub fn speaks_for_fleet(&self) -> bool {
        self.shards.contains(&FLEET_SHARD)
    }

    /// Does this instance export the tenant's gauges? Exactly one does: the owner of shard hash(tenant) mod shards.
    pub fn speaks_for(&self, tenant: &str) -> bool {
        self.shards.contains(&home_shard(tenant, self.of))
    }
}

impl View {
    /// An empty view of this many shards.
    pub fn new(shards: u32, contract: Arc<Contract>) -> Self {
        Self {
            book: RwLock::new(Book::new(shards)),
            standings: RwLock::new(Standings::new(contract)),
            pace: RwLock::default(),
            unjudged: Mutex::new(Unjudged::All),
            home: ArcSwap::default(),
            home_until: Mutex::new(Instant::now()),
            publishing: Mutex::default(),
            arrivals: Mutex::default(),
            missed: Mutex::default(),
            adopting: Mutex::default(),
            rulings: ArcSwap::default(),
            source_ends: ArcSwap::default(),
            shards,
        }
    }

    /// Number of shards.
    pub fn shards(&self) -> u32 {
        self.shards
    }

    /// The rulings of the documents in force, for the worker to write down.
    pub fn rulings(&self) -> Arc<Vec<NotedRuling>> {
        self.rulings.load_full()
    }

    /// These documents' rulings are in force from now on: the owner of shard 0 writes down those that are new with its
    /// next flush. To be called when [`refused_rulings`](crate::pipeline::rulings::refused_rulings) has found nothing.
    pub fn set_rulings(&self, rulings: Vec<NotedRuling>) {
        self.rulings.store(Arc::new(rulings));
    }

    /// The book.
    pub fn book(&self) -> RwLockReadGuard<'_, Book> {
        self.book.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The book, to be written by the tail.
    pub fn book_mut(&self) -> RwLockWriteGuard<'_, Book> {
        self.book.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The standings.
    pub fn standings(&self) -> RwLockReadGuard<'_, Standings> {
        self.standings.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Evaluates these tenants anew. What that adds to their current service months belongs to their last hours.
    pub fn refresh(&self, tenants: &[Arc<str>]) {
        let book = self.book();
        let mut standings = self.standings.write().unwrap_or_else(PoisonError::into_inner);
        let mut clock = LocalClock::new(standings.contract().policies.versions()[0].time_zone);
        let watermark = |tenant: &Arc<str>| {
            let shards = book.shards().iter().filter(|shard| shard.has_tenant(tenant));
            shards.filter_map(|shard| shard.checkpoint()?.watermark_ms).max()
        };
        let mut before: Vec<Before> = Vec::with_capacity(tenants.len());
        for tenant in tenants {
            let watermark_ms = watermark(tenant).unwrap_or(i64::MIN);
            let day = clock.day(watermark_ms.max(0));
            // A tenant that was not known is a reading of the ledger's past, not of the last minute.
            let known = standings.tenant(tenant).is_some();
            let counted = || standings.current(tenant, day).unwrap_or((day, Availability::default()));
            before.push(Before { watermark_ms, day, counted: known.then(counted) });
        }
        standings.refresh(&book, tenants);
        let mut pace = self.pace.write().unwrap_or_else(PoisonError::into_inner);
        for (tenant, Before { watermark_ms, day, counted }) in tenants.iter().zip(before) {
            let (Some((first, before)), Some((now_first, now))) = (counted, standings.current(tenant, day)) else {
                continue;
            };
            let before = if first == now_first { before } else { Availability::default() };
            let (total, failed) = (now.total.saturating_sub(before.total), now.failed.saturating_sub(before.failed));
            pace.add(tenant, watermark_ms, Availability { total, failed });
        }
        drop(pace);
        self.unjudged().extend(tenants);
        if let Some(missed) = &mut *self.missed.lock().unwrap_or_else(PoisonError::into_inner) {
            missed.extend(tenants.iter().cloned());
        }
    }

    /// Judges everybody by another contract. Counting and reading go on meanwhile: the standings are evaluated beside
    /// the ones in use, a few tenants at a time, and take their place when they are whole.
    pub fn adopt(&self, contract: &Arc<Contract>) {
        let _turn = self.adopting.lock().unwrap_or_else(PoisonError::into_inner);
        *self.missed.lock().unwrap_or_else(PoisonError::into_inner) = Some(HashSet::new());
        let mut tenants: Vec<Arc<str>> = self.book().tenants().cloned().collect();
        tenants.sort_unstable();
        tenants.dedup();
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        let share = tenants.len().div_ceil(workers).max(1);
        let mut new = Standings::new(contract.clone());
        std::thread::scope(|scope| {
            let evaluate = |tenants: &[Arc<str>]| {
                let mut part = Standings::new(contract.clone());
                for batch in tenants.chunks(TENANTS_AT_ONCE) {
                    part.refresh(&self.book(), batch);
                }
                part
            };
            let parts: Vec<_> = tenants.chunks(share).map(|share| scope.spawn(move || evaluate(share))).collect();
            for part in parts {
                match part.join() {
                    Ok(part) => new.absorb(part),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
        });
        let book = self.book();
        let mut standings = self.standings.write().unwrap_or_else(PoisonError::into_inner);
        let missed = self.missed.lock().unwrap_or_else(PoisonError::into_inner).take();
        new.refresh(&book, &missed.unwrap_or_default());
        let old = std::mem::replace(&mut *standings, new);
        *self.unjudged() = Unjudged::All;
        drop((standings, book));
        drop(old);
    }

    /// The last hours of a tenant.
    pub fn windows(&self, tenant: &str, now_ms: i64) -> Windows {
        self.pace.read().unwrap_or_else(PoisonError::into_inner).windows(tenant, now_ms)
    }

    /// Forgets the last hours of tenants that were not called in them.
    pub fn forget_idle(&self, now_ms: i64) {
        self.pace.write().unwrap_or_else(PoisonError::into_inner).forget_idle(now_ms);
    }

    /// Whose alerts are to be judged; from now on, nobody's.
    pub fn take_unjudged(&self) -> Unjudged {
        std::mem::take(&mut *self.unjudged())
    }

    /// Everybody's alerts are to be judged: of those shards, or of that time, nobody has judged any yet.
    pub fn judge_all(&self) {
        *self.unjudged() = Unjudged::All;
    }

    fn unjudged(&self) -> MutexGuard<'_, Unjudged> {
        self.unjudged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the shards this instance speaks for.
    pub fn set_home(&self, shards: Vec<u32>) {
        self.home.store(Arc::new(Home { shards, of: self.shards }));
    }

    /// The worker is alive: what it said of its home holds until then. A process that stood still finds itself
    /// without a home, for somebody else may have shown newer figures meanwhile.
    pub fn keep_home(&self, until: Instant) {
        *self.home_until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    /// The shards this instance speaks for.
    pub fn home(&self) -> Arc<Home> {
        let until = *self.home_until.lock().unwrap_or_else(PoisonError::into_inner);
        if Instant::now() < until { self.home.load_full() } else { Arc::default() }
    }

    /// To be held by the tail while the book may be ahead of the standings.
    pub fn publishing(&self) -> MutexGuard<'_, ()> {
        self.publishing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Do the standings show all that the book holds, as long as the guard lives? `None`: not now.
    pub fn settled(&self) -> Option<MutexGuard<'_, ()>> {
        self.publishing.try_lock().ok()
    }

    /// Arrivals of a flush on its way to the ledger.
    pub fn sent(&self, shard: u32, seq: u64, arrivals: Vec<i64>) {
        self.arrivals().entry(shard).or_default().push((seq, arrivals));
    }

    /// Arrivals that became visible with this checkpoint.
    pub fn visible(&self, shard: u32, seq: u64) -> Vec<i64> {
        let mut all = self.arrivals();
        let Some(waiting) = all.get_mut(&shard) else { return Vec::new() };
        let (visible, later) = std::mem::take(waiting).into_iter().partition(|(s, _)| *s <= seq);
        *waiting = later;
        visible.into_iter().flat_map(|(_, arrivals)| arrivals).collect()
    }

    fn arrivals(&self) -> MutexGuard<'_, Arrivals> {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the brokers said of the source partitions' ends, by shard.
    pub fn set_source_ends(&self, ends: Vec<Option<SourceEnd>>) {
        self.source_ends.store(Arc::new(ends));
    }

    /// How far a shard is behind its source, whoever owns it. `None`: nobody knows, because the brokers have not said
    /// lately where the source ends, or because the shard was never counted. Locks the book.
    pub fn lag(&self, shard: u32, now_ms: i64) -> Option<ShardLag> {
        let end = (*self.source_ends.load().get(shard as usize)?)?;
        let book = self.book();
        let checkpoint = book.shard(shard)?.checkpoint()?;
        end.lag(checkpoint.next_offset, checkpoint.watermark_ms, now_ms)
    }

    /// Why a service month is not complete; see [`Book::incomplete`].
    pub fn incomplete(&self, period: Period, zone: Tz) -> Vec<String> {
        self.book().incomplete(period, zone)
    }
}

/// The shard whose owner speaks for a tenant.
pub fn home_shard(tenant: &str, shards: u32) -> u32 {
    (xxhash_rust::xxh3::xxh3_64(tenant.as_bytes()) % u64::from(shards.max(1))) as u32
}
