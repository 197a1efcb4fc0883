//! One instance of the service, step by step: joins, takes over, counts, flushes. Every step is one request or one
//! decision, so that the scheduler can freeze or kill it between any two. The decisions are the core's own.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sha2::Digest as _;
use sla_ledger::domain::alert::{AlertKey, AlertName, AlertState, Reason, Severity, Verdict, step};
use sla_ledger::domain::contract::Contract;
use sla_ledger::domain::documents::{Ruling, Verdict as RulingVerdict};
use sla_ledger::domain::policy::Policy;
use sla_ledger::pipeline::book::{Book, Event};
use sla_ledger::pipeline::clock::Hold;
use sla_ledger::pipeline::mutation::{Mutation, mutated};
use sla_ledger::pipeline::parking::{ParkedShards, ParkingLimits, Source};
use sla_ledger::pipeline::protocol::{Need, SourceBounds, Takeover, TransactionEnd, after_transaction};
use sla_ledger::pipeline::publisher::{Published, Publisher, Unjudged};
use sla_ledger::pipeline::record::{Key, RULINGS_SHARD};
use sla_ledger::pipeline::rulings::{NotedRuling, RefusedKind, RefusedRuling, refused_rulings};
use sla_ledger::pipeline::settings::CountingSettings;
use sla_ledger::pipeline::shard::{AlertMessage, Flush, Outcome, Owner, Shard};
use sla_ledger::pipeline::standings::Standings;
use sla_ledger::view::home_shard;

use crate::kafka::{Broker, LateEnd, Produce, Refused};
use crate::oracle::{FINGERPRINT_KEYS, Oracle, letter_key};
use crate::workload::{Rng, bound};

/// A violated promise, in words.
pub type Check<T = ()> = Result<T, String>;

/// How often things go wrong, per thousand chances.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// A flush is torn at some step of its production.
    pub torn: u64,
    /// The end of a transaction is repeated, its answer lost, or slow.
    pub end: u64,
    /// Production fails and the transaction is aborted.
    pub abort: u64,
    /// Calls are counted between snapshot and commit.
    pub count_in_flush: u64,
}

/// The world outside the instances.
#[derive(Debug)]
pub struct Env {
    pub broker: Broker,
    pub oracle: Oracle,
    pub rng: Rng,
    pub faults: Faults,
    pub evidence_bytes: usize,
    /// What a flush may fold.
    pub fold_bytes: usize,
    pub stats: BTreeMap<&'static str, u64>,
    /// Print every step.
    pub trace: bool,
    pub steps: u64,
    /// `rulings.yaml`, as people write it.
    pub rulings: Vec<Arc<Ruling>>,
    /// Chooses what happens to rulings, so that schedules without any stay as they are.
    pub papers: Rng,
    /// Which end the next transaction of an instance has; for directed schedules.
    pub next_end: Option<End>,
}

/// How the request to end a transaction fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Fine,
    /// Done and confirmed, and a copy is still on its way.
    Retried,
    /// Done and confirmed after more than a second, and a copy is still on its way.
    Slow,
    /// Done, the answer is lost.
    AnswerLost,
    /// Not done, no answer.
    RequestLost,
    /// Not done yet, no answer.
    RequestLate,
}

/// Writes one line of the trace.
#[macro_export]
macro_rules! trace {
    ($env:expr, $($words:tt)*) => {
        if $env.trace {
            $crate::say(&format!($($words)*));
        }
    };
}

impl Env {
    pub fn hit(&mut self, what: &'static str) {
        *self.stats.entry(what).or_default() += 1;
    }

    /// Restores altered rulings to what the ledger has.
    pub fn restore_rulings(&mut self) {
        for ruling in &mut self.rulings {
            if let Some(sha256) = self.oracle.rulings.get(&ruling.id).filter(|written| **written != ruling.sha256) {
                *ruling = Arc::new(Ruling { sha256: *sha256, ..(**ruling).clone() });
            }
        }
    }

    /// Lets the oracle see what a marker made visible.
    pub fn seen(&mut self, visible: impl IntoIterator<Item = crate::kafka::Visible>) -> Check {
        for (partition, torn, entries) in visible {
            self.oracle.visible(&self.broker.source, partition, torn, &entries)?;
        }
        Ok(())
    }

    /// A marker of this transactional id lands.
    pub fn land(&mut self, id: usize, which: usize) -> Check {
        trace!(self, "    marker of {id}: {:?}", self.broker.transactions[id].markers[which]);
        let visible = self.broker.deliver_marker(id, which);
        self.seen(visible)
    }
}

/// A parked shard is kept for this many steps.
const PARKING: ParkingLimits = ParkingLimits { max_bytes: u64::MAX, keep: Duration::from_secs(20_000) };

/// What an instance is doing.
#[derive(Debug)]
pub enum Phase {
    /// No member of the group.
    Out,
    /// Waits for its assignment.
    Joining,
    /// Initialises its producer; then it takes over or, if it still has its shards, continues counting.
    Init,
    TakingOver(Takeover),
    Counting,
    Flushing(Box<Flushing>),
}

/// A record to be produced: partition, key, value.
type Outgoing = (usize, Rc<[u8]>, Option<Rc<[u8]>>);

/// A flush under way.
#[derive(Debug)]
pub struct Flushing {
    pub flushes: Vec<Flush>,
    queue: VecDeque<Outgoing>,
    added: BTreeSet<usize>,
    pub stage: Stage,
    /// Give the shards up and join again afterwards.
    leave: bool,
    /// Rulings that were active at the snapshot of their shard.
    noted: Vec<NotedRuling>,
}

/// The steps of a flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Produce,
    Acks,
    Offsets,
    /// Commit or abort; `fatal`: give up afterwards.
    End {
        commit: bool,
        fatal: bool,
    },
}

/// One instance.
#[derive(Debug)]
pub struct Instance {
    pub id: usize,
    pub up: bool,
    pub frozen: bool,
    pub incarnation: u32,
    pub settings: CountingSettings,
    pub publisher: Publisher,
    /// What was published last.
    value: Option<Published>,
    unjudged: Unjudged,
    pub member: Option<u64>,
    generation: i32,
    assigned: Vec<u32>,
    pub producer: Option<u32>,
    pub phase: Phase,
    pub shards: BTreeMap<u32, Shard>,
    /// Shards that the group has taken away.
    parked: ParkedShards,
    /// Shards that wait before a record from the future.
    pub holds: BTreeMap<u32, Hold>,
    /// How far its wall clock is ahead.
    pub skew_ms: i64,
    published: Vec<i64>,
    /// The rulings it goes by.
    rulings: Vec<NotedRuling>,
    /// What it took over last: until the tail has passed that, it judges no tenant.
    taken_over: Option<Takeover>,
}

impl Instance {
    pub fn new(id: usize, shards: usize, settings: CountingSettings) -> Self {
        Self {
            id,
            up: true,
            frozen: false,
            incarnation: 0,
            settings,
            publisher: Publisher::new(shards as u32, contract()),
            value: None,
            unjudged: Unjudged::All,
            member: None,
            generation: -1,
            assigned: Vec::new(),
            producer: None,
            phase: Phase::Out,
            shards: BTreeMap::new(),
            parked: ParkedShards::default(),
            holds: BTreeMap::new(),
            skew_ms: 0,
            published: vec![i64::MIN; shards],
            rulings: Vec::new(),
            taken_over: None,
        }
    }

    /// All that its tail has read.
    pub fn book(&self) -> &Book {
        self.publisher.read()
    }

    /// The group generation it was assigned in.
    pub fn generation(&self) -> i32 {
        self.generation
    }

    fn writer(&self) -> String {
        format!("i{}.{}", self.id, self.incarnation)
    }

    pub fn crash(&mut self) {
        self.up = false;
        self.frozen = false;
    }

    /// Starts again with nothing but the ledger. The member it was stays in the group until it is expelled.
    pub fn restart(&mut self, settings: CountingSettings) {
        *self = Self { incarnation: self.incarnation + 1, ..Self::new(self.id, self.published.len(), settings) };
    }

    /// Answers the group: was it expelled, must it join again?
    pub fn poll_group(&mut self, env: &mut Env) -> Check {
        let Some(member) = self.member else { return Ok(()) };
        if matches!(self.phase, Phase::Flushing(_) | Phase::Out) {
            return Ok(());
        }
        if !env.broker.group.members.contains_key(&member) {
            trace!(env, "i{} was expelled", self.id);
            self.park(env);
            self.member = None;
            self.phase = Phase::Out;
        } else if env.broker.group.wants_rejoin(member) {
            let wants = matches!(self.phase, Phase::Counting) && self.shards.values().any(Shard::wants_flush);
            trace!(env, "i{} must join again{}", self.id, if wants { ", flushes first" } else { "" });
            if wants {
                self.begin_flush(env, true)?;
            } else {
                self.release(env);
            }
        }
        Ok(())
    }

    fn park(&mut self, env: &Env) {
        for (_, shard) in std::mem::take(&mut self.shards) {
            trace!(env, "i{} parks {} at {}", self.id, shard.id(), shard.position());
            self.parked.park(shard, 0, PARKING, Duration::from_secs(env.steps)).expect("room for all");
        }
    }

    fn release(&mut self, env: &mut Env) {
        self.park(env);
        self.member = Some(env.broker.group.join(self.member));
        self.phase = Phase::Joining;
    }

    fn give_up(&mut self, env: &mut Env, leave: bool) {
        env.hit("given_up");
        trace!(env, "i{} gives up", self.id);
        self.shards.clear();
        self.producer = None;
        if leave {
            self.release(env);
        } else {
            self.phase = Phase::Init;
        }
    }

    /// One step of whatever it is doing except counting. `false`: it waits for another instance.
    pub fn advance(&mut self, env: &mut Env) -> Check<bool> {
        match &mut self.phase {
            Phase::Out => {
                self.member = Some(env.broker.group.join(None));
                trace!(env, "i{} joins as member {:?}", self.id, self.member);
                self.phase = Phase::Joining;
            }
            Phase::Joining => {
                let Some((generation, assigned)) = self.member.and_then(|m| env.broker.group.assigned(m)) else {
                    return Ok(false);
                };
                trace!(env, "i{} is given {assigned:?} in generation {generation}", self.id);
                (self.generation, self.assigned) = (generation, assigned);
                self.phase = Phase::Init;
            }
            Phase::Init => {
                if self.producer.is_none() {
                    self.producer = env.broker.init(self.id);
                    if self.producer.is_none() {
                        return Ok(false);
                    }
                    env.broker.wire_errors[self.id] = None;
                    trace!(env, "i{} has producer epoch {:?}", self.id, self.producer);
                }
                self.phase = if self.shards.is_empty() {
                    Phase::TakingOver(Takeover::new(self.assigned.iter().copied()))
                } else {
                    Phase::Counting
                };
            }
            Phase::TakingOver(takeover) => match takeover.need(self.publisher.read()) {
                Need::Committed => {
                    let stable = !mutated(Mutation::AcksNotAwaited);
                    for shard in takeover.shards().collect::<Vec<_>>() {
                        match env.broker.committed(shard, stable) {
                            Ok(offset) => takeover.committed(shard, offset),
                            Err(_) => {
                                env.hit("committed_offset_pending");
                                return Ok(false);
                            }
                        }
                    }
                }
                Need::Ends => {
                    let end = |log: &crate::kafka::Log| {
                        if mutated(Mutation::EndFromReadCommitted) { log.stable() } else { log.high() }
                    };
                    let ledger = &env.broker.logs[..env.broker.source.len()];
                    if ledger.iter().any(|log| log.stable() < log.high()) {
                        *env.stats.entry("ends_above_stable").or_default() += 1;
                    }
                    takeover.ends(ledger.iter().map(end).collect());
                }
                Need::Tail => return Ok(false),
                Need::Nothing => {
                    let takeover = takeover.clone();
                    self.begin(env, &takeover)?;
                }
            },
            Phase::Counting => return Ok(false),
            Phase::Flushing(_) => return self.flush_step(env),
        }
        Ok(true)
    }

    fn begin(&mut self, env: &mut Env, takeover: &Takeover) -> Check {
        self.unjudged = Unjudged::All;
        for shard in takeover.shards() {
            let source = &env.broker.source[shard as usize];
            let bounds = SourceBounds { low: source.low(), high: source.high(), start: 0 };
            let source = Source { bounds, id: None };
            let book = self.publisher.read().shard(shard).ok_or("no such shard")?;
            match self.parked.resume(shard, book, source, PARKING, Duration::from_secs(env.steps)) {
                Some(Ok(counter)) => {
                    trace!(env, "i{} resumes {shard} at {}", self.id, counter.position());
                    env.hit("resumed");
                    self.shards.insert(shard, counter);
                    continue;
                }
                Some(Err(why)) => {
                    trace!(env, "i{} discards its copy of {shard}: {}", self.id, why.as_str());
                    env.hit("copies_discarded");
                }
                None => {}
            }
            let begin =
                takeover.begin(shard, self.publisher.read(), bounds).map_err(|stop| format!("i{}: {stop}", self.id))?;
            env.hit("takeovers");
            if begin.offset_differs.is_some() {
                env.hit("offset_differs");
            }
            let torn = begin
                .state
                .values
                .iter()
                .any(|v| begin.state.checkpoint.as_ref().is_none_or(|c| v.cov > c.next_offset));
            if torn {
                env.hit("torn_takeovers");
            }
            let (evidence_bytes, fold_bytes) = (env.evidence_bytes, env.fold_bytes);
            let owner = Owner {
                evidence_bytes,
                fold_bytes,
                merge_from: 2,
                ..Owner::new(shard, self.writer(), FINGERPRINT_KEYS)
            };
            let counter =
                Shard::take_over(owner, &self.settings, begin.state, begin.first_offset).map_err(|e| e.to_string())?;
            if counter.checkpoint().gaps.len() < counter.gaps().len() {
                env.hit("gaps");
                env.oracle.gap(shard);
            }
            if counter.must_flush() && counter.checkpoint().seq > 0 {
                env.hit("settings_changed");
            }
            trace!(
                env,
                "i{} takes {shard} over at {}, counts from {}, after checkpoint {}{}",
                self.id,
                counter.position(),
                counter.counted_from(),
                counter.checkpoint().seq,
                if torn { " and a torn flush" } else { "" }
            );
            let mut counter = counter;
            counter.tell_again(|key, state| {
                *env.stats.entry("alerts_told_again").or_default() += 1;
                alert_message(key, state)
            });
            self.shards.insert(shard, counter);
        }
        self.holds.clear();
        self.taken_over = Some(takeover.clone());
        self.phase = Phase::Counting;
        Ok(())
    }

    /// Judges the tenants of its home shards by what it has read; alerts go out with the next flush.
    pub fn judge(&mut self, env: &mut Env) {
        let Some(value) = &self.value else { return };
        if !self.taken_over.as_ref().is_some_and(|takeover| takeover.may_judge(&value.book)) {
            return;
        }
        let due = std::mem::take(&mut self.unjudged);
        let is_due = |tenant: &Arc<str>| match &due {
            Unjudged::All => true,
            Unjudged::Some(some) => some.contains(tenant),
        };
        let mut again = HashSet::new();
        for (key, calls) in watched(&value.standings).into_iter().filter(|(key, _)| is_due(&key.tenant)) {
            let home = home_shard(&key.tenant, env.broker.source.len() as u32);
            let Some(shard) = self.shards.get_mut(&home) else { continue };
            if shard.is_telling(&key) {
                again.insert(key.tenant);
                continue;
            }
            let old = shard.alert(&key).or_else(|| value.book.alert(&key));
            let Some((state, told)) = step(old, verdict(calls), env.steps as i64) else { continue };
            trace!(env, "i{} tells {} {} of {key:?}", self.id, state.status, state.generation);
            let message = told.then(|| alert_message(&key, &state));
            shard.tell(key, state, message);
        }
        self.unjudged.extend(Unjudged::Some(again));
    }

    /// Counts up to `max` records of one shard.
    pub fn ingest(&mut self, env: &mut Env, shard: u32, max: usize) {
        let Some(counter) = self.shards.get_mut(&shard) else { return };
        if counter.position() < env.broker.source[shard as usize].low() {
            // The consumer's error: its offset is out of range. The next takeover notes the gap.
            if matches!(self.phase, Phase::Counting) {
                self.give_up(env, false);
            }
            return;
        }
        for _ in 0..max {
            if counter.must_flush() {
                break;
            }
            let Some(entry) = env.broker.source[shard as usize].at(counter.position()) else { break };
            let record = entry.record();
            let wall_ms = env.broker.source[shard as usize].wall_ms() + self.skew_ms;
            if let Some(hold) = counter.must_hold(&record, wall_ms, bound()) {
                trace!(env, "i{} holds {shard} at {hold:?}", self.id);
                if self.holds.insert(shard, hold).is_none() {
                    *env.stats.entry("held").or_default() += 1;
                }
                return;
            }
            if self.holds.remove(&shard).is_some() {
                *env.stats.entry("holds_passed").or_default() += 1;
            }
            let outcome = counter.ingest(&record);
            let what = match outcome {
                Outcome::Warmed => "warmed",
                _ => "ingested",
            };
            *env.stats.entry(what).or_default() += 1;
            trace!(env, "i{} reads {shard}/{}: {outcome:?} {:?}", self.id, entry.offset, entry.meaning);
        }
    }

    /// Sets the active rulings of its shards.
    pub fn note_rulings(&mut self) {
        self.shards.values_mut().for_each(|shard| shard.note_rulings(&self.rulings));
    }

    /// Reads `rulings.yaml` again, sometimes an altered copy. A copy that contradicts the book is refused.
    pub fn reload_rulings(&mut self, env: &mut Env, spoil: bool) -> Check {
        let mut read = env.rulings.clone();
        let mut spoiled = None;
        if spoil && !read.is_empty() {
            let which = env.papers.below(read.len() as u64) as usize;
            let id = read[which].id.clone();
            if env.papers.mille(500) {
                read.remove(which);
                spoiled = Some(RefusedRuling { id, kind: RefusedKind::Dropped });
            } else {
                read[which] = written(&read[which], SPOILED);
                spoiled = Some(RefusedRuling { id, kind: RefusedKind::Altered });
            }
        }
        let refused = refused_rulings(self.publisher.read(), &read);
        let knows = |id: &str| {
            self.publisher.read().applied_rulings().find(|(known, _)| *known == id).map(|(_, sha256)| sha256)
        };
        if let Some(spoiled) = spoiled
            && knows(&spoiled.id)
                .is_some_and(|sha256| sha256 != digest_of(SPOILED) || spoiled.kind == RefusedKind::Dropped)
            && !refused.contains(&spoiled)
        {
            return Err(format!("i{}: {spoiled}, and nobody refuses it", self.id));
        }
        let hit = if refused.is_empty() { "rulings_reloaded" } else { "rulings_refused" };
        env.hit(hit);
        trace!(env, "i{} reads {} rulings anew: {hit}", self.id, read.len());
        if refused.is_empty() {
            self.rulings = NotedRuling::all(&read);
        }
        Ok(())
    }

    /// Snapshots every shard that has something to say.
    pub fn begin_flush(&mut self, env: &mut Env, leave: bool) -> Check {
        self.note_rulings();
        self.judge(env);
        let mut flushes = Vec::new();
        for counter in self.shards.values_mut().filter(|s| s.wants_flush()) {
            let flush = counter.snapshot();
            if env.oracle.rebuild(&env.broker.source[flush.shard as usize], &flush, &counter.window())? {
                *env.stats.entry("rebuilt").or_default() += 1;
            }
            flushes.push(flush);
        }
        let (letters, alerts) = (env.broker.dead_letters(), env.broker.alerts());
        let mut queue = VecDeque::new();
        for flush in &flushes {
            for letter in &flush.dead_letters {
                let key = letter_key(flush.shard, letter.offset);
                queue.push_back((letters, Rc::from(key.as_bytes()), letter.payload.as_deref().map(Rc::from)));
            }
        }
        for flush in &flushes {
            for (key, value) in &flush.records {
                if value.is_none() {
                    env.hit(match key.as_bytes() {
                        [b'D', ..] => "days_removed",
                        [b'F', ..] => "evidence_removed",
                        _ => "tombstones",
                    });
                } else if key.starts_with("T ") {
                    env.hit("tallies_written");
                }
                queue.push_back((flush.shard as usize, Rc::from(key.as_bytes()), value.as_deref().map(Rc::from)));
            }
        }
        for alert in flushes.iter().flat_map(|flush| &flush.alerts) {
            let key = alert.key.as_deref().unwrap_or_default();
            let told: Outgoing = (alerts, Rc::from(key), Some(Rc::from(&*alert.payload)));
            match mutated(Mutation::ToldBeforeWritten) {
                true => queue.push_front(told),
                false => queue.push_back(told),
            }
        }
        trace!(
            env,
            "i{} flushes {:?}",
            self.id,
            flushes.iter().map(|f| (f.shard, f.seq, f.next_offset)).collect::<Vec<_>>()
        );
        if flushes.is_empty() {
            if leave {
                self.release(env);
            }
            return Ok(());
        }
        env.hit("flushes");
        let rulings_too = flushes.iter().any(|f| f.shard == RULINGS_SHARD);
        let noted = if rulings_too { self.rulings.clone() } else { Vec::new() };
        // The checkpoints follow at the end; see `flush_step`.
        self.phase = Phase::Flushing(Box::new(Flushing {
            flushes,
            queue,
            added: BTreeSet::new(),
            stage: Stage::Produce,
            leave,
            noted,
        }));
        Ok(())
    }

    fn flush_step(&mut self, env: &mut Env) -> Check<bool> {
        let (id, Some(epoch)) = (self.id, self.producer) else { return Err("a flush without a producer".into()) };
        if env.rng.mille(env.faults.count_in_flush) {
            let shards: Vec<u32> = self.shards.keys().copied().collect();
            let shard = env.rng.pick(&shards);
            env.hit("counted_in_flush");
            self.ingest(env, shard, 2);
        }
        let Phase::Flushing(flushing) = &mut self.phase else { return Ok(false) };
        let member = (self.member.unwrap_or(0), self.generation);
        match flushing.stage {
            Stage::Produce => {
                let next = flushing.queue.pop_front().or_else(|| {
                    let written = |f: &&mut Flush| f.checkpoint.0.is_empty();
                    let flush = flushing.flushes.iter_mut().find(|f| !written(f))?;
                    let (key, value) = std::mem::take(&mut flush.checkpoint);
                    Some((flush.shard as usize, Rc::from(key.as_bytes()), Some(Rc::from(value))))
                });
                match next {
                    Some((partition, key, value)) => {
                        trace!(env, "i{id} produces {} to {partition}", String::from_utf8_lossy(&key));
                        let add = flushing.added.insert(partition);
                        env.broker.wires[id].push_back(Produce { epoch, partition, add, key, value });
                    }
                    None => {
                        flushing.stage = if mutated(Mutation::AcksNotAwaited) { Stage::Offsets } else { Stage::Acks }
                    }
                }
                if env.rng.mille(env.faults.abort) {
                    flushing.stage = Stage::End { commit: false, fatal: false };
                    env.broker.wires[id].clear();
                }
            }
            Stage::Acks => {
                if !env.broker.wires[id].is_empty() {
                    return Ok(false);
                }
                match env.broker.wire_errors[id].filter(|(e, _)| *e == epoch) {
                    None => flushing.stage = Stage::Offsets,
                    Some((_, refused)) => {
                        env.hit("produce_refused");
                        trace!(env, "i{id}: production was refused: {refused:?}");
                        let leave = flushing.leave;
                        self.ended(env, TransactionEnd::Fatal, false, Duration::ZERO, leave);
                    }
                }
            }
            Stage::Offsets => {
                let offsets: Vec<_> = flushing.flushes.iter().map(|f| (f.shard, f.next_offset)).collect();
                match env.broker.send_offsets(id, epoch, member, offsets, !mutated(Mutation::NoFence)) {
                    Ok(()) => flushing.stage = Stage::End { commit: true, fatal: false },
                    Err(Refused::Busy) => return Ok(false),
                    Err(Refused::Generation) => {
                        env.hit("zombies_refused");
                        trace!(env, "i{id} is refused: generation {} is over", self.generation);
                        flushing.stage = Stage::End { commit: false, fatal: true };
                    }
                    Err(refused) => {
                        env.hit("offsets_refused");
                        trace!(env, "i{id}: offsets refused: {refused:?}");
                        let leave = flushing.leave;
                        self.ended(env, TransactionEnd::Fatal, false, Duration::ZERO, leave);
                    }
                }
            }
            Stage::End { commit, fatal } => {
                let leave = flushing.leave;
                let (end, retried, took) = end_transaction(env, id, epoch, commit);
                let end = if fatal && end != TransactionEnd::Unknown { TransactionEnd::Fatal } else { end };
                self.ended(env, end, retried, took, leave);
            }
        }
        Ok(true)
    }

    fn ended(&mut self, env: &mut Env, end: TransactionEnd, retried: bool, took: Duration, leave: bool) {
        let aftermath = after_transaction(end, retried, took);
        trace!(env, "i{}: {end:?} → {aftermath:?}", self.id);
        let Phase::Flushing(flushing) = std::mem::replace(&mut self.phase, Phase::Counting) else { return };
        if aftermath.committed {
            env.oracle.promised.extend(flushing.noted.iter().map(|r| r.id.to_string()));
            for flush in &flushing.flushes {
                if let Some(counter) = self.shards.get_mut(&flush.shard) {
                    counter.committed();
                }
            }
        }
        if aftermath.new_producer {
            env.hit("new_producers");
            self.producer = None;
            self.phase = Phase::Init;
        }
        if aftermath.give_up {
            self.give_up(env, leave);
        } else if leave {
            self.release(env);
        }
    }

    /// The tail reads up to `max` records of one ledger partition.
    pub fn tail(&mut self, env: &mut Env, partition: usize, max: usize) -> Check<bool> {
        let shard = partition as u32;
        let position = self.publisher.read().shard(shard).map_or(0, |b| b.position());
        let (entries, next, at_end) = env.broker.logs[partition].read(position, max);
        let progress = next > position;
        for entry in entries {
            match self.publisher.apply(shard, entry.offset, &entry.key, entry.value.as_deref()) {
                Some(Event::Trouble(trouble)) => return Err(format!("i{}: shard {shard}: {trouble}", self.id)),
                Some(Event::Checkpoint { writer, seq }) => {
                    self.checkpoint_read(env, shard, &writer, seq)?;
                }
                _ => {}
            }
        }
        if at_end && let Some(Event::Trouble(trouble)) = self.publisher.reached_end(shard, next) {
            return Err(format!("i{}: shard {shard}: {trouble}", self.id));
        }
        self.publish(env)?;
        Ok(progress)
    }

    /// Publishes what is due. Published figures must be the checkpoints' own, and never go down.
    fn publish(&mut self, env: &mut Env) -> Check {
        let Some((value, changed)) = self.publisher.publish(|| ()) else { return Ok(()) };
        env.hit("published");
        for (partition, book) in value.book.shards().iter().enumerate() {
            let before = self.value.as_ref().and_then(|value| value.book.shards().get(partition));
            if before.is_some_and(|before| Arc::ptr_eq(before, book)) {
                continue;
            }
            let next = book.checkpoint().map_or(i64::MIN, |c| c.next_offset);
            if next < self.published[partition] {
                return Err(format!(
                    "i{}: shard {partition} was published at {} and is now at {next}",
                    self.id, self.published[partition]
                ));
            }
            self.published[partition] = next;
            env.oracle.published(partition as u32, book)?;
        }
        self.value = Some(value);
        self.unjudged.extend(changed);
        Ok(())
    }

    fn checkpoint_read(&mut self, env: &mut Env, shard: u32, writer: &str, seq: u64) -> Check {
        let Some(counter) = self.shards.get(&shard) else { return Ok(()) };
        let own = writer == self.writer();
        let pending = matches!(self.phase, Phase::Flushing(_)) && seq == counter.checkpoint().seq + 1;
        if own && (seq <= counter.checkpoint().seq || pending) || seq <= counter.checkpoint().seq {
            return Ok(());
        }
        if self.member.is_some_and(|m| env.broker.group.is_current(m, self.generation)) {
            return Err(format!(
                "i{} owns shard {shard} at checkpoint {} and reads {seq} of {writer}",
                self.id,
                counter.checkpoint().seq
            ));
        }
        env.hit("foreign_checkpoints");
        trace!(env, "i{} reads checkpoint {seq} of {writer} in its shard {shard}", self.id);
        if !matches!(self.phase, Phase::Flushing(_)) {
            self.give_up(env, false);
        }
        Ok(())
    }

    /// Has it counted and written everything there is?
    pub fn is_idle(&self, broker: &Broker) -> bool {
        let done =
            |s: &Shard| !s.wants_flush() && s.may_flush() && broker.source[s.id() as usize].at(s.position()).is_none();
        matches!(self.phase, Phase::Counting) && self.shards.values().all(done)
    }
}

/// What the simulator's rule watches: the calls of a tenant's month, over all shards, once one has failed. The figures come
/// and go between two states, so that a run sees many firings.
pub fn watched(standings: &Standings) -> BTreeMap<AlertKey, u64> {
    let months = standings.iter().flat_map(|(tenant, months)| months.iter().map(move |month| (tenant, month)));
    let watched = months.map(|(tenant, month)| {
        let (alert, detail) = (AlertName::BudgetConsumed, "50".into());
        let key = AlertKey { tenant: tenant.clone(), period_start: Some(month.period.first), alert, detail };
        (key, if month.figures.failed() > 0 { month.figures.total() } else { 0 })
    });
    watched.collect()
}

/// The contract of all.
pub fn contract() -> Arc<Contract> {
    Arc::new(Contract::of_policy(Policy::tencent_ccc()))
}

/// Does the rule hold?
pub fn verdict(calls: u64) -> Verdict {
    match calls % 6 {
        0 | 1 => Verdict::Over(Reason::FellBelow),
        2 | 5 => Verdict::Stands,
        _ => Verdict::Holds(Severity::Warning, Reason::LevelCrossed, Reason::MinCallsReached),
    }
}

/// The alert as it is in the alerts topic: its ledger key, and its id.
fn alert_message(key: &AlertKey, state: &AlertState) -> AlertMessage {
    let key = Key::Alert(key.clone()).encode(0).into_bytes();
    AlertMessage { key: Some(key), payload: alert_id(state).into_bytes(), headers: Vec::new() }
}

/// Status and generation: with the key, the id.
pub fn alert_id(state: &AlertState) -> String {
    format!("{} {}", state.status, state.generation)
}

/// The text of an altered ruling.
const SPOILED: &str = "spoiled";

/// A ruling of this number, as it was first written.
pub fn ruling(n: usize) -> Arc<Ruling> {
    let ruling = Ruling {
        id: format!("r {n}"),
        recorded_at_ms: n as i64,
        actor: "a".into(),
        reason: "r".into(),
        evidence: None,
        verdict: RulingVerdict::Revoke("r 0".into()),
        canonical: "".into(),
        sha256: [0; 32],
    };
    written(&ruling, &format!("as written: {n}"))
}

/// The same ruling with this text.
fn written(ruling: &Ruling, text: &str) -> Arc<Ruling> {
    Arc::new(Ruling { canonical: text.into(), sha256: digest_of(text), ..ruling.clone() })
}

fn digest_of(text: &str) -> [u8; 32] {
    sha2::Sha256::digest(text).into()
}

/// Asks the coordinator to end the transaction: what the client learns, whether it asked twice, how long it took.
fn end_transaction(env: &mut Env, id: usize, epoch: u32, commit: bool) -> (TransactionEnd, bool, Duration) {
    let how = match env.next_end.take() {
        Some(how) => how,
        None if env.rng.mille(env.faults.end) => {
            env.rng.pick(&[End::Retried, End::Slow, End::AnswerLost, End::RequestLost, End::RequestLate])
        }
        None => End::Fine,
    };
    trace!(env, "i{id} ends its transaction, commit: {commit}, {how:?}");
    if how != End::Fine {
        env.hit("odd_ends");
    }
    if matches!(how, End::Retried | End::Slow | End::RequestLate) {
        env.broker.late_ends.push(LateEnd { id, epoch, commit });
    }
    if matches!(how, End::RequestLost | End::RequestLate) {
        env.hit("unknown_ends");
        return (TransactionEnd::Unknown, false, Duration::from_secs(60));
    }
    let answer = env.broker.end(id, epoch, commit);
    if how == End::AnswerLost {
        env.hit("unknown_ends");
        return (TransactionEnd::Unknown, true, Duration::from_secs(60));
    }
    let end = match answer {
        Ok(()) if commit => TransactionEnd::Committed,
        Ok(()) => TransactionEnd::Aborted,
        Err(_) => {
            env.hit("ends_refused");
            TransactionEnd::Fatal
        }
    };
    (end, how == End::Retried, if how == End::Slow { Duration::from_secs(2) } else { Duration::ZERO })
}
