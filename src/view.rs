//! What is published and read by everything else, and which tenants this instance exports.
//!
//! Only the tail owns ledger and standings ([`Editor`]). It publishes one immutable value ([`Published`]): a reader
//! loads it once and makes the whole answer from it, however long that takes. No thread blocks another: a new contract
//! or a takeover's query reaches the tail as a message. The locks here are held only briefly, and never two at a time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use chrono_tz::Tz;

use crate::domain::contract::Contract;
use crate::domain::standing::Completeness;
use crate::domain::term::Period;
use crate::pipeline::book::{Book, Event};
use crate::pipeline::lag::{ShardLag, SourceEnd};
use crate::pipeline::protocol::Takeover;
use crate::pipeline::publisher::Publisher;
pub use crate::pipeline::publisher::{Published, Unjudged};
use crate::pipeline::rulings::{NotedRuling, RULINGS_REJECTED, RefusedRuling};
use crate::pipeline::standings::Standings;

/// Arrivals (ms) of some records of flushes that are not visible yet, by shard and sequence number.
type Arrivals = HashMap<u32, Vec<(u64, Vec<i64>)>>;

/// The shard whose owner exports the fleet's figures and alerts.
pub const FLEET_SHARD: u32 = 0;
/// Tenants that are re-evaluated between two checks whether the service is ending.
const TENANTS_AT_ONCE: usize = 64;
/// Minimum interval between published values: a copy for readers has its cost.
const INTERVAL: Duration = Duration::from_millis(25);
/// How often a thread that waits for the tail checks whether the service is ending.
const LOOK: Duration = Duration::from_millis(50);

/// What this instance knows and shows.
pub struct View {
    published: ArcSwapOption<Published>,
    to_editor: Sender<Message>,
    /// Tenants whose standing may have changed since their alerts were judged.
    unjudged: Mutex<Unjudged>,
    home: ArcSwap<Home>,
    /// Until when the home is valid, unless the worker renews it.
    home_until: Mutex<Instant>,
    arrivals: Mutex<Arrivals>,
    /// Held while all tenants are re-evaluated.
    adopting: Mutex<()>,
    /// The service is ending: no more tenants are re-evaluated.
    closing: AtomicBool,
    rulings: ArcSwap<Vec<NotedRuling>>,
    /// Rulings in the ledger that the active documents drop or alter.
    rejected_rulings: ArcSwap<Vec<RefusedRuling>>,
    source_ends: ArcSwap<Vec<Option<SourceEnd>>>,
    /// Where owned shards begin that have no checkpoint yet.
    begins: ArcSwap<BTreeMap<u32, i64>>,
    /// Why shards of this instance are not counted.
    stopped: ArcSwap<BTreeMap<u32, String>>,
    /// Why shards of this instance wait.
    held: ArcSwap<BTreeMap<u32, String>>,
    /// When each shard's last checkpoint was written, in ms; `i64::MIN`: unknown.
    flushed_at_ms: Vec<AtomicI64>,
    shards: u32,
}

/// Messages to the tail.
enum Message {
    /// Use this contract from now on, given the standings under it and the value they were evaluated from.
    Contract { contract: Arc<Contract>, evaluated: Option<(Arc<Published>, Standings)>, done: Sender<Former> },
    /// Request everything read, as soon as that is enough for this takeover.
    Takeover { takeover: Takeover, reply: Sender<Book> },
}

/// What a new contract has replaced. Dropping it takes a while: the caller does that, not the tail.
type Former = (Standings, [Option<Arc<Published>>; 2]);

/// Owns ledger and standings, and publishes them. The tail has the only one.
pub struct Editor {
    publisher: Publisher,
    inbox: Receiver<Message>,
    /// Takeovers that wait until enough was read.
    takeovers: Vec<(Takeover, Sender<Book>)>,
    last: Option<Instant>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The shards this instance is responsible for.
#[derive(Debug, Clone, Default)]
pub struct Home {
    /// Shards owned, and judged on a view as new as any predecessor's.
    shards: Vec<u32>,
    /// Number of all shards.
    of: u32,
}

impl Home {
    /// Is it responsible for no tenant?
    pub fn is_empty(&self) -> bool {
        self.shards.is_empty()
    }

    /// Is it responsible for the fleet? The owner of shard 0 is.
    pub fn speaks_for_fleet(&self) -> bool {
        self.shards.contains(&FLEET_SHARD)
    }

    /// Does this instance own the shard, and judge it on a view as new as any predecessor's?
    pub fn has(&self, shard: u32) -> bool {
        self.shards.contains(&shard)
    }

    /// Does this instance export the tenant's gauges? Exactly one does: the owner of shard hash(tenant) mod shards.
    pub fn speaks_for(&self, tenant: &str) -> bool {
        self.shards.contains(&home_shard(tenant, self.of))
    }
}

impl Editor {
    /// Reads one record of a ledger partition; see [`Book::apply`].
    pub fn apply(&mut self, partition: u32, offset: i64, key: &[u8], value: Option<&[u8]>) -> Option<Event> {
        self.publisher.apply(partition, offset, key, value)
    }

    /// The tail is at a partition's end; see [`Book::reached_end`].
    pub fn reached_end(&mut self, partition: u32, position: i64) -> Option<Event> {
        self.publisher.reached_end(partition, position)
    }

    /// Everything read, up to the last record.
    pub fn read(&self) -> &Book {
        self.publisher.read()
    }

    /// Answers pending messages, and publishes if there is news and the last value is old enough. Returns how long the
    /// caller may wait before the next call; `None`: as long as it likes. `alive` is called periodically meanwhile.
    pub fn serve(&mut self, view: &View, mut alive: impl FnMut()) -> Option<Duration> {
        while let Ok(message) = self.inbox.try_recv() {
            match message {
                Message::Contract { contract, evaluated, done } => {
                    let (from, standings) = evaluated.unzip();
                    let former = self.publisher.adopt(&contract, from.as_deref().zip(standings), &mut alive);
                    let published = view.published();
                    self.publish(view, &mut alive);
                    // The waiting caller may have given up.
                    _ = done.send((former, [from, published]));
                }
                Message::Takeover { takeover, reply } => self.takeovers.push((takeover, reply)),
            }
        }
        let rest = self.last.map_or(Duration::ZERO, |last| INTERVAL.saturating_sub(last.elapsed()));
        let due = self.publisher.is_due();
        if due && rest.is_zero() {
            self.publish(view, alive);
        }
        // A new owner publishes the alerts of a torn flush again, and needs the figures for that.
        if view.published().is_some() {
            let publisher = &self.publisher;
            self.takeovers.retain(|(takeover, reply)| match publisher.read_for(takeover) {
                Some(read) => {
                    // The caller may have lost the shards meanwhile.
                    _ = reply.send(read);
                    false
                }
                None => true,
            });
        }
        (due && !rest.is_zero()).then_some(rest)
    }

    /// Publishes any news.
    pub fn publish(&mut self, view: &View, alive: impl FnMut()) {
        if let Some((value, changed)) = self.publisher.publish(alive) {
            self.last = Some(Instant::now());
            view.published.store(Some(Arc::new(value)));
            // After the value is stored: the thread that takes these tenants finds their new figures.
            lock(&view.unjudged).extend(changed);
        }
    }
}

impl View {
    /// An empty view of this many shards, and what publishes into it.
    pub fn new(shards: u32, contract: Arc<Contract>) -> (Self, Editor) {
        let (to_editor, inbox) = mpsc::channel();
        let publisher = Publisher::new(shards, contract);
        let editor = Editor { publisher, inbox, takeovers: Vec::new(), last: None };
        let view = Self {
            published: ArcSwapOption::empty(),
            to_editor,
            unjudged: Mutex::new(Unjudged::All),
            home: ArcSwap::default(),
            home_until: Mutex::new(Instant::now()),
            arrivals: Mutex::default(),
            adopting: Mutex::new(()),
            closing: AtomicBool::new(false),
            rulings: ArcSwap::default(),
            rejected_rulings: ArcSwap::default(),
            source_ends: ArcSwap::default(),
            begins: ArcSwap::default(),
            stopped: ArcSwap::default(),
            held: ArcSwap::default(),
            flushed_at_ms: (0..shards).map(|_| AtomicI64::new(i64::MIN)).collect(),
            shards,
        };
        (view, editor)
    }

    /// The value published last. Load it once per answer. `None`: not all of the ledger has been read yet.
    pub fn published(&self) -> Option<Arc<Published>> {
        self.published.load_full()
    }

    /// Number of shards.
    pub fn shards(&self) -> u32 {
        self.shards
    }

    /// The rulings of the active documents, for the worker to record.
    pub fn rulings(&self) -> Arc<Vec<NotedRuling>> {
        self.rulings.load_full()
    }

    /// Makes these documents' rulings the active ones: the owner of shard 0 records the new ones with its next flush.
    /// `rejected`: what [`refused_rulings`](crate::pipeline::rulings::refused_rulings) found. If there are any, nothing
    /// is recorded, every figure is marked, and no statement is issued.
    pub fn set_rulings(&self, rulings: Vec<NotedRuling>, rejected: Vec<RefusedRuling>) {
        self.rulings.store(Arc::new(if rejected.is_empty() { rulings } else { Vec::new() }));
        self.rejected_rulings.store(Arc::new(rejected));
    }

    /// Rulings that the ledger has applied and the active documents drop or alter.
    pub fn rejected_rulings(&self) -> Arc<Vec<RefusedRuling>> {
        self.rejected_rulings.load_full()
    }

    /// Everything the tail has read, as soon as that is enough for this takeover.
    pub fn read_for(&self, takeover: Takeover) -> Receiver<Book> {
        let (reply, read) = mpsc::channel();
        // Without a tail nothing arrives, and the receiver reports that.
        _ = self.to_editor.send(Message::Takeover { takeover, reply });
        read
    }

    /// Adopts another contract for all tenants. Counting and reading go on meanwhile: the standings are evaluated on
    /// this and other threads, from the currently published value. The tail then re-evaluates the tenants whose facts
    /// have changed since, and publishes. `false`: the service is ending, and the old standings stay.
    pub fn adopt(&self, contract: &Arc<Contract>) -> bool {
        let _turn = lock(&self.adopting);
        let evaluated = self.published().map(|from| {
            let standings = self.evaluate(contract, &from);
            (from, standings)
        });
        if self.is_closing() {
            return false;
        }
        let (done, is_done) = mpsc::channel();
        if self.to_editor.send(Message::Contract { contract: contract.clone(), evaluated, done }).is_err() {
            return false;
        }
        loop {
            match is_done.recv_timeout(LOOK) {
                Ok(_) => return true,
                Err(RecvTimeoutError::Timeout) if !self.is_closing() => {}
                Err(_) => return false,
            }
        }
    }

    /// All standings under a contract, evaluated on all cores; not all of them when the service is ending.
    fn evaluate(&self, contract: &Arc<Contract>, from: &Published) -> Standings {
        let book = &from.book;
        let mut tenants: Vec<Arc<str>> = book.tenants().cloned().collect();
        tenants.sort_unstable();
        tenants.dedup();
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        let share = tenants.len().div_ceil(workers).max(1);
        let mut new = Standings::new(contract.clone());
        std::thread::scope(|scope| {
            let evaluate = |tenants: &[Arc<str>]| {
                let mut part = Standings::new(contract.clone());
                for batch in tenants.chunks(TENANTS_AT_ONCE).take_while(|_| !self.is_closing()) {
                    part.refresh(book, batch);
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
        new.inherit(&from.standings, &tenants);
        new
    }

    /// The service is ending: adopting a contract is cancelled.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// Takes the tenants whose alerts are to be judged, leaving none.
    pub fn take_unjudged(&self) -> Unjudged {
        std::mem::take(&mut *lock(&self.unjudged))
    }

    /// Sets the shards this instance is responsible for.
    pub fn set_home(&self, shards: Vec<u32>) {
        self.home.store(Arc::new(Home { shards, of: self.shards }));
    }

    /// The worker is alive: the home it set is valid until then. A process that was stopped finds itself without a
    /// home, because another instance may have shown newer figures meanwhile.
    pub fn keep_home(&self, until: Instant) {
        *lock(&self.home_until) = until;
    }

    /// The shards this instance is responsible for.
    pub fn home(&self) -> Arc<Home> {
        let until = *lock(&self.home_until);
        if Instant::now() < until { self.home.load_full() } else { Arc::default() }
    }

    /// Arrivals of a flush on its way to the ledger.
    pub fn sent(&self, shard: u32, seq: u64, arrivals: Vec<i64>) {
        let mut all = lock(&self.arrivals);
        let waiting = all.entry(shard).or_default();
        match waiting.last_mut().filter(|(last, _)| *last == seq) {
            // The previous flush did not commit; this one contains everything again, under the same number.
            Some((_, same)) => same.extend(arrivals),
            None => waiting.push((seq, arrivals)),
        }
    }

    /// Arrivals that became visible with this checkpoint.
    pub fn visible(&self, shard: u32, seq: u64) -> Vec<i64> {
        let mut all = lock(&self.arrivals);
        let Some(waiting) = all.get_mut(&shard) else { return Vec::new() };
        let (visible, later) = std::mem::take(waiting).into_iter().partition(|(s, _)| *s <= seq);
        *waiting = later;
        visible.into_iter().flat_map(|(_, arrivals)| arrivals).collect()
    }

    /// The source partitions' ends as the brokers reported them, by shard.
    pub fn set_source_ends(&self, ends: Vec<Option<SourceEnd>>) {
        self.source_ends.store(Arc::new(ends));
    }

    /// The ids of calls topics that the ledger's shards count, without duplicates; empty where brokers do not assign
    /// topic ids.
    pub fn source_ids(&self) -> Vec<String> {
        let published = self.published();
        let shards = published.iter().flat_map(|value| value.book.shards());
        let ids = shards.filter_map(|shard| shard.checkpoint()).map(|c| c.source_id.clone());
        let ids: BTreeSet<String> = ids.filter(|id| !id.is_empty()).collect();
        ids.into_iter().collect()
    }

    /// This instance begins counting the shard here, and the ledger has no checkpoint of it yet.
    pub fn set_begin(&self, shard: u32, offset: i64) {
        // Only the worker writes.
        let mut begins = BTreeMap::clone(&self.begins.load());
        begins.insert(shard, offset);
        self.begins.store(Arc::new(begins));
    }

    /// First source offset of the shard that is not in the ledger, and the watermark before it. `None`: never counted.
    pub fn counted_to(&self, shard: u32) -> Option<(i64, Option<i64>)> {
        match self.published()?.book.shard(shard)?.checkpoint() {
            Some(checkpoint) => Some((checkpoint.next_offset, checkpoint.watermark_ms)),
            None => self.begins.load().get(&shard).map(|offset| (*offset, None)),
        }
    }

    /// How far the ledger of a shard is behind its source, whichever instance owns it: what is not in the ledger yet,
    /// counted or not. The one definition of lag, for metrics, readiness, alerts and the API. `None`: unknown, because
    /// the brokers have not reported the source's end lately, or because the shard was never counted.
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

    /// The last checkpoint of the shard was written to the ledger at this instant, by whichever instance owns it.
    pub fn set_flushed(&self, shard: u32, at_ms: i64) {
        if let Some(flushed_at_ms) = self.flushed_at_ms.get(shard as usize) {
            flushed_at_ms.store(at_ms, Ordering::Relaxed);
        }
    }

    /// When the shard's last checkpoint was written, in ms; `None`: it has none, or its record has no timestamp.
    pub fn flushed_at_ms(&self, shard: u32) -> Option<i64> {
        let at_ms = self.flushed_at_ms.get(shard as usize)?.load(Ordering::Relaxed);
        (at_ms != i64::MIN).then_some(at_ms)
    }

    /// Why a service month is not complete; see [`Book::incomplete`]. If rulings differ from those in the ledger, no
    /// month is complete.
    pub fn incomplete(&self, book: &Book, period: Period, zone: Tz) -> Vec<String> {
        let mut reasons = book.incomplete(period, zone);
        reasons.extend((!self.rejected_rulings.load().is_empty()).then(|| RULINGS_REJECTED.to_owned()));
        reasons
    }

    /// What is known about calls that are in no tenant's figures of a service month.
    pub fn completeness(&self, book: &Book, period: Period, zone: Tz) -> Completeness {
        let (reasons, rejected) = (self.incomplete(book, period, zone), book.rejected(period.month()));
        Completeness { reasons, rejected, ..Completeness::default() }
    }
}

/// The shard whose owner exports a tenant.
pub fn home_shard(tenant: &str, shards: u32) -> u32 {
    (xxhash_rust::xxh3::xxh3_64(tenant.as_bytes()) % u64::from(shards.max(1))) as u32
}
