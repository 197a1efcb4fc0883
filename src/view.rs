//! What the tail publishes and everything else reads: the book, the standings, and which tenants are this instance's
//! to export.
//!
//! Its locks have one order, that of [`Rank`]: a scrape's buffers, `publishing`, the book, the standings, the last hours,
//! then the small ones. Whoever needs two takes them in this order and none twice; debug builds check it
//! ([`crate::locks`]). What the shards' checkpoints say (lag, completeness, how far the figures reach) needs no lock:
//! [`View::outline`] is a value, replaced whenever the book was written.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use arc_swap::ArcSwap;
use chrono_tz::Tz;

use crate::domain::alert::Windows;
use crate::domain::availability::Availability;
use crate::domain::calendar::{LocalClock, LocalDay};
use crate::domain::contract::Contract;
use crate::domain::standing::{Completeness, ServiceMonth};
use crate::domain::term::Period;
use crate::locks::{Rank, RankedGuard, RankedMutex, RankedRwLock, ReadGuard, WriteGuard};
use crate::pipeline::book::Book;
use crate::pipeline::lag::{ShardLag, SourceEnd};
use crate::pipeline::pace::Pace;
use crate::pipeline::rulings::{NotedRuling, RULINGS_REJECTED, RefusedRuling};
use crate::pipeline::standings::Standings;

/// Arrivals (ms) of some records of flushes that are not visible yet, by shard and sequence number.
type Arrivals = HashMap<u32, Vec<(u64, Vec<i64>)>>;

/// The shard whose owner speaks for the fleet.
pub const FLEET_SHARD: u32 = 0;
/// Tenants that are judged anew between two releases of the book, so that the tail need not wait.
const TENANTS_AT_ONCE: usize = 64;
/// How often those whose facts changed in the meantime are judged beside the standings in use; what is left then is judged
/// while readers wait.
const CATCH_UPS: usize = 8;

/// The published state of one instance.
pub struct View {
    book: RankedRwLock<Book>,
    /// The book without its tenants, as of the last time it was written.
    outline: ArcSwap<Book>,
    standings: RankedRwLock<Standings>,
    /// The last hours of every tenant, as this instance has seen them.
    pace: RankedRwLock<Pace>,
    /// Tenants whose standing may have changed since their alerts were judged.
    unjudged: RankedMutex<Unjudged>,
    home: ArcSwap<Home>,
    /// Until when the home holds, unless the worker says so again.
    home_until: RankedMutex<Instant>,
    /// Held by the tail from reading a batch until the standings show it.
    publishing: RankedMutex<()>,
    arrivals: RankedMutex<Arrivals>,
    /// Tenants whose facts changed while everybody is judged anew; `None` at other times.
    missed: RankedMutex<Option<HashSet<Arc<str>>>>,
    /// Held while everybody is judged anew.
    adopting: RankedMutex<()>,
    /// The service is ending: nobody is judged anew any more.
    closing: AtomicBool,
    rulings: ArcSwap<Vec<NotedRuling>>,
    /// Rulings of the ledger that the documents in force drop or alter.
    rejected_rulings: ArcSwap<Vec<RefusedRuling>>,
    source_ends: ArcSwap<Vec<Option<SourceEnd>>>,
    /// Where owned shards begin that have no checkpoint yet.
    begins: ArcSwap<BTreeMap<u32, i64>>,
    /// Why shards of this instance are not counted.
    stopped: ArcSwap<BTreeMap<u32, String>>,
    /// Why shards of this instance wait.
    held: ArcSwap<BTreeMap<u32, String>>,
    shards: u32,
}

/// The book while it is written. When dropped, everybody sees the shards' new outline.
pub struct BookWriter<'a> {
    book: WriteGuard<'a, Book>,
    outline: &'a ArcSwap<Book>,
}

impl Deref for BookWriter<'_> {
    type Target = Book;

    fn deref(&self) -> &Book {
        &self.book
    }
}

impl DerefMut for BookWriter<'_> {
    fn deref_mut(&mut self) -> &mut Book {
        &mut self.book
    }
}

impl Drop for BookWriter<'_> {
    fn drop(&mut self) {
        self.outline.store(Arc::new(self.book.outline()));
    }
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
            book: RankedRwLock::new(Rank::Book, Book::new(shards)),
            outline: ArcSwap::from_pointee(Book::new(shards)),
            standings: RankedRwLock::new(Rank::Standings, Standings::new(contract)),
            pace: RankedRwLock::new(Rank::Pace, Pace::default()),
            unjudged: RankedMutex::new(Rank::Unjudged, Unjudged::All),
            home: ArcSwap::default(),
            home_until: RankedMutex::new(Rank::HomeUntil, Instant::now()),
            publishing: RankedMutex::new(Rank::Publishing, ()),
            arrivals: RankedMutex::new(Rank::Arrivals, Arrivals::default()),
            missed: RankedMutex::new(Rank::Missed, None),
            adopting: RankedMutex::new(Rank::Adopting, ()),
            closing: AtomicBool::new(false),
            rulings: ArcSwap::default(),
            rejected_rulings: ArcSwap::default(),
            source_ends: ArcSwap::default(),
            begins: ArcSwap::default(),
            stopped: ArcSwap::default(),
            held: ArcSwap::default(),
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
    /// next flush. `rejected`: what [`refused_rulings`](crate::pipeline::rulings::refused_rulings) has found. With any,
    /// nothing is written down, every figure is marked, and no statement is issued.
    pub fn set_rulings(&self, rulings: Vec<NotedRuling>, rejected: Vec<RefusedRuling>) {
        self.rulings.store(Arc::new(if rejected.is_empty() { rulings } else { Vec::new() }));
        self.rejected_rulings.store(Arc::new(rejected));
    }

    /// Rulings that the ledger has applied and the documents in force drop or alter.
    pub fn rejected_rulings(&self) -> Arc<Vec<RefusedRuling>> {
        self.rejected_rulings.load_full()
    }

    /// The book.
    #[track_caller]
    pub fn book(&self) -> ReadGuard<'_, Book> {
        self.book.read()
    }

    /// The book, to be written by the tail.
    #[track_caller]
    pub fn book_mut(&self) -> BookWriter<'_> {
        BookWriter { book: self.book.write(), outline: &self.outline }
    }

    /// The book without its tenants, rulings and alerts, as it was when it was last written. Needs no lock.
    pub fn outline(&self) -> Arc<Book> {
        self.outline.load_full()
    }

    /// The standings.
    #[track_caller]
    pub fn standings(&self) -> ReadGuard<'_, Standings> {
        self.standings.read()
    }

    /// Evaluates these tenants anew. What that adds to their current service months belongs to their last hours.
    pub fn refresh(&self, tenants: &[Arc<str>]) {
        let book = self.book();
        let mut standings = self.standings.write();
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
        let mut pace = self.pace.write();
        for (tenant, Before { watermark_ms, day, counted }) in tenants.iter().zip(before) {
            let (Some((first, before)), Some((now_first, now))) = (counted, standings.current(tenant, day)) else {
                continue;
            };
            let before = if first == now_first { before } else { Availability::default() };
            let (total, failed) = (now.total.saturating_sub(before.total), now.failed.saturating_sub(before.failed));
            pace.add(tenant, watermark_ms, Availability { total, failed });
        }
        drop(pace);
        if let Some(missed) = &mut *self.missed.lock() {
            missed.extend(tenants.iter().cloned());
        }
        self.unjudged.lock().extend(tenants);
    }

    /// Judges everybody by another contract. Counting and reading go on meanwhile: the standings are evaluated beside
    /// the ones in use, a few tenants at a time, and take their place when they are whole. `false`: the service is ending,
    /// and the old ones stay.
    pub fn adopt(&self, contract: &Arc<Contract>) -> bool {
        let _turn = self.adopting.lock();
        *self.missed.lock() = Some(HashSet::new());
        let mut tenants: Vec<Arc<str>> = self.book().tenants().cloned().collect();
        tenants.sort_unstable();
        tenants.dedup();
        let mut new = self.evaluate(contract, &tenants);
        // Those whose facts changed meanwhile: beside the old standings for as long as there are many.
        for _ in 0..CATCH_UPS {
            let missed: Vec<_> = match &mut *self.missed.lock() {
                Some(missed) if missed.len() > TENANTS_AT_ONCE => missed.drain().collect(),
                _ => break,
            };
            for batch in missed.chunks(TENANTS_AT_ONCE).take_while(|_| !self.is_closing()) {
                new.refresh(&self.book(), batch);
            }
        }
        if self.is_closing() {
            *self.missed.lock() = None;
            return false;
        }
        let book = self.book();
        let mut standings = self.standings.write();
        let missed = self.missed.lock().take();
        new.refresh(&book, &missed.unwrap_or_default());
        let old = std::mem::replace(&mut *standings, new);
        *self.unjudged.lock() = Unjudged::All;
        drop((standings, book));
        drop(old);
        true
    }

    /// These tenants' standings under a contract, evaluated on all cores; not all of them when the service is ending.
    fn evaluate(&self, contract: &Arc<Contract>, tenants: &[Arc<str>]) -> Standings {
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        let share = tenants.len().div_ceil(workers).max(1);
        let mut new = Standings::new(contract.clone());
        std::thread::scope(|scope| {
            let evaluate = |tenants: &[Arc<str>]| {
                let mut part = Standings::new(contract.clone());
                for batch in tenants.chunks(TENANTS_AT_ONCE).take_while(|_| !self.is_closing()) {
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
        new
    }

    /// The service is ending: a contract that is being adopted is given up.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// The last hours of a tenant.
    pub fn windows(&self, tenant: &str, now_ms: i64) -> Windows {
        self.pace.read().windows(tenant, now_ms)
    }

    /// Forgets the last hours of tenants that were not called in them.
    pub fn forget_idle(&self, now_ms: i64) {
        self.pace.write().forget_idle(now_ms);
    }

    /// Whose alerts are to be judged; from now on, nobody's.
    pub fn take_unjudged(&self) -> Unjudged {
        std::mem::take(&mut *self.unjudged.lock())
    }

    /// Everybody's alerts are to be judged: of those shards, or of that time, nobody has judged any yet.
    pub fn judge_all(&self) {
        *self.unjudged.lock() = Unjudged::All;
    }

    /// Sets the shards this instance speaks for.
    pub fn set_home(&self, shards: Vec<u32>) {
        self.home.store(Arc::new(Home { shards, of: self.shards }));
    }

    /// The worker is alive: what it said of its home holds until then. A process that stood still finds itself
    /// without a home, for somebody else may have shown newer figures meanwhile.
    pub fn keep_home(&self, until: Instant) {
        *self.home_until.lock() = until;
    }

    /// The shards this instance speaks for.
    pub fn home(&self) -> Arc<Home> {
        let until = *self.home_until.lock();
        if Instant::now() < until { self.home.load_full() } else { Arc::default() }
    }

    /// To be held by the tail while the book may be ahead of the standings.
    pub fn publishing(&self) -> RankedGuard<'_, ()> {
        self.publishing.lock()
    }

    /// Do the standings show all that the book holds, as long as the guard lives? `None`: not now.
    pub fn settled(&self) -> Option<RankedGuard<'_, ()>> {
        self.publishing.try_lock()
    }

    /// Arrivals of a flush on its way to the ledger.
    pub fn sent(&self, shard: u32, seq: u64, arrivals: Vec<i64>) {
        let mut all = self.arrivals.lock();
        let waiting = all.entry(shard).or_default();
        match waiting.last_mut().filter(|(last, _)| *last == seq) {
            // The flush before did not commit; this one says it all again, under the same number.
            Some((_, same)) => same.extend(arrivals),
            None => waiting.push((seq, arrivals)),
        }
    }

    /// Arrivals that became visible with this checkpoint.
    pub fn visible(&self, shard: u32, seq: u64) -> Vec<i64> {
        let mut all = self.arrivals.lock();
        let Some(waiting) = all.get_mut(&shard) else { return Vec::new() };
        let (visible, later) = std::mem::take(waiting).into_iter().partition(|(s, _)| *s <= seq);
        *waiting = later;
        visible.into_iter().flat_map(|(_, arrivals)| arrivals).collect()
    }

    /// What the brokers said of the source partitions' ends, by shard.
    pub fn set_source_ends(&self, ends: Vec<Option<SourceEnd>>) {
        self.source_ends.store(Arc::new(ends));
    }

    /// The ids of calls topics that the ledger's shards count, each once; none where the brokers give topics no id.
    pub fn source_ids(&self) -> Vec<String> {
        let outline = self.outline.load();
        let ids = outline.shards().iter().filter_map(|shard| shard.checkpoint()).map(|c| c.source_id.clone());
        let ids: BTreeSet<String> = ids.filter(|id| !id.is_empty()).collect();
        ids.into_iter().collect()
    }

    /// This instance begins to count the shard here, and the ledger has no checkpoint of it yet.
    pub fn set_begin(&self, shard: u32, offset: i64) {
        // Only the worker writes.
        let mut begins = BTreeMap::clone(&self.begins.load());
        begins.insert(shard, offset);
        self.begins.store(Arc::new(begins));
    }

    /// First source offset of the shard that is not in the ledger, and the watermark before it. `None`: never counted.
    pub fn counted_to(&self, shard: u32) -> Option<(i64, Option<i64>)> {
        match self.outline.load().shard(shard)?.checkpoint() {
            Some(checkpoint) => Some((checkpoint.next_offset, checkpoint.watermark_ms)),
            None => self.begins.load().get(&shard).map(|offset| (*offset, None)),
        }
    }

    /// How far the ledger of a shard is behind its source, whoever owns it: what is not in the ledger yet, counted or not.
    /// The one definition of lag, for metrics, readiness, alerts and the API. `None`: nobody knows, because the brokers have
    /// not said lately where the source ends, or because the shard was never counted.
    pub fn lag(&self, shard: u32, now_ms: i64) -> Option<ShardLag> {
        let end = (*self.source_ends.load().get(shard as usize)?)?;
        let (next_offset, watermark_ms) = self.counted_to(shard)?;
        end.lag(next_offset, watermark_ms, now_ms)
    }

    /// Why shards of this instance are not counted, by shard.
    pub fn set_stopped(&self, stopped: BTreeMap<u32, String>) {
        self.stopped.store(Arc::new(stopped));
    }

    /// Why shards of this instance wait behind a record from the future, by shard.
    pub fn set_held(&self, held: BTreeMap<u32, String>) {
        self.held.store(Arc::new(held));
    }

    /// Why this instance's shard waits, if it does.
    pub fn held(&self, shard: u32) -> Option<String> {
        self.held.load().get(&shard).cloned()
    }

    /// Why this instance does not count the shard, if it is its own and stopped.
    pub fn stopped(&self, shard: u32) -> Option<String> {
        self.stopped.load().get(&shard).cloned()
    }

    /// Why a service month is not complete; see [`Book::incomplete`]. With rulings that the ledger knows otherwise, none is.
    pub fn incomplete(&self, period: Period, zone: Tz) -> Vec<String> {
        let mut reasons = self.outline.load().incomplete(period, zone);
        reasons.extend((!self.rejected_rulings.load().is_empty()).then(|| RULINGS_REJECTED.to_owned()));
        reasons
    }

    /// What is known of calls that nobody's figures of a service month hold.
    pub fn completeness(&self, period: Period, zone: Tz) -> Completeness {
        let rejected = self.outline.load().rejected(period.month());
        Completeness { reasons: self.incomplete(period, zone), rejected, ..Completeness::default() }
    }

    /// Why a tenant's service month is not complete beyond that; see [`Book::unadmitted`].
    pub fn unadmitted(&self, month: &ServiceMonth) -> Vec<String> {
        self.outline.load().unadmitted(month)
    }
}

/// The shard whose owner speaks for a tenant.
pub fn home_shard(tenant: &str, shards: u32) -> u32 {
    (xxhash_rust::xxh3::xxh3_64(tenant.as_bytes()) % u64::from(shards.max(1))) as u32
}
