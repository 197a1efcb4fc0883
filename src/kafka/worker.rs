//! The worker: one thread that consumes, counts, takes snapshots and takes shards over. The flush thread ([`Flusher`])
//! runs their transactions, one at a time, while counting goes on. No rebalance is answered, and no shard given up,
//! before the flush in flight has ended and its result has been handled.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use smallvec::SmallVec;
use tokio_util::sync::CancellationToken;

use super::batch::{self, BatchQueue, Fetched, Place};
use super::flusher::{Done, Flushed, Flusher, Gone, Job};
use super::hold::Holds;
use super::identity::Identity;
use super::ledger_log::{Fence, LedgerLog, Topics, flush_error};
use super::membership::{Membership, Notes, Rebalanced};
use super::progress::{FlushError, Progress};
use super::tail::{TailNews, now_ms, reader_config};
use super::topics::MessageBytes;
use crate::alerting::Desk;
use crate::config::{Config, Start};
use crate::domain::call::Rejection;
use crate::health::{Beating, FaultKind, Health};
use crate::metrics::process::ProcessMetrics;
use crate::pipeline::book::{Book, ShardBook, Trouble};
use crate::pipeline::clock::HoldBound;
use crate::pipeline::decode::{Headers, SourceRecord};
use crate::pipeline::limits::{LimitUse, LimitWatch};
use crate::pipeline::parking::{Discarded, ParkedShards, ParkingLimits, Source};
use crate::pipeline::protocol::{Need, SourceBounds, Takeover, same_source};
use crate::pipeline::record::RecordError;
use crate::pipeline::settings::CountingSettings;
use crate::pipeline::shard::{Flush, Outcome, Owner, Shard};
use crate::view::View;

/// Longest wait for records in one round, so that rebalances, stops and reloads are seen soon.
const ROUND: Duration = Duration::from_millis(50);
/// Longest wait for one answer of the brokers within a round; asked again in the next.
const ANSWER: Duration = Duration::from_secs(2);
/// How long a round of a takeover waits for the tail.
const TAIL_WAIT: Duration = Duration::from_millis(5);
/// Dead letters that wait for a flush, in bytes, before it comes early.
const EARLY_LETTERS: usize = 8 << 20;
/// Facts that wait for a flush, in bytes, before it comes early.
const EARLY_FACTS: usize = 32 << 20;
/// Dead letters that wait for a flush, in bytes, before reading pauses until one has committed.
const MOST_LETTERS: usize = 32 << 20;
/// Facts that wait for a flush, in bytes, before reading pauses until one has committed.
const MOST_FACTS: usize = 64 << 20;
/// Every this many records one arrival is kept for the freshness figure.
const FRESHNESS_SAMPLE: i64 = 64;
/// How often lag and readiness are checked.
const LAG_INTERVAL: Duration = Duration::from_millis(500);
/// How often to check whether a flush has ended while no records come in; then the next one may begin.
const LOOK: Duration = Duration::from_millis(10);
/// How long a rebalance or a stop waits for a new producer, which the last flush needs.
const LAST_PRODUCER: Duration = Duration::from_secs(2);
/// Silence after which the group gives a member's partitions away, unless the user says otherwise.
const SESSION: Duration = Duration::from_secs(15);
/// How often the log says what a takeover waits for.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(5);

/// What a worker needs.
pub struct Setup {
    /// Brokers, security, passed-through keys.
    pub base: ClientConfig,
    /// The configuration; `flush.interval` and `ready.max_lag` are read from here in every round.
    pub config: Arc<ArcSwap<Config>>,
    /// This instance's name, stable over restarts: its transactional id.
    pub instance: String,
    /// What the tail publishes.
    pub view: Arc<View>,
    /// Process metrics.
    pub metrics: Arc<ProcessMetrics>,
    /// Readiness.
    pub health: Arc<Health>,
    /// The topics' message size limits.
    pub message_bytes: MessageBytes,
    /// How far ahead of the wall clock the timestamp of a call may be.
    pub bound: HoldBound,
    /// Can the brokers describe their topics? The demo's embedded one cannot: its topics have no id.
    pub topics_have_ids: bool,
    /// News from the tail.
    pub news: Receiver<TailNews>,
    /// Ends the worker.
    pub stop: CancellationToken,
}

/// Why a worker ends.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// Kafka refuses.
    #[error("{0}: {1}")]
    Kafka(&'static str, KafkaError),
    /// The consumer is no longer usable, for example because another process has its static id.
    #[error("the consumer cannot go on: {reason} ({code})")]
    Fatal {
        /// librdkafka's code.
        code: RDKafkaErrorCode,
        /// librdkafka's message.
        reason: String,
    },
    /// A bug in this program.
    #[error(transparent)]
    FlushThread(#[from] Gone),
    /// The system refuses a thread.
    #[error("no thread for flushes: {0}")]
    NoThread(std::io::Error),
    /// The ledger topic holds records that this version cannot continue from.
    #[error("`{topic}` cannot be used: {error}")]
    Outdated {
        /// The ledger topic.
        topic: String,
        /// Of the first such record.
        error: RecordError,
    },
}

enum State {
    /// No assignment, or one that must not be used any more.
    Waiting,
    /// Shards are assigned but not counted yet.
    TakingOver {
        takeover: Takeover,
        membership: Membership,
        since: Instant,
        /// The requested book, once the tail has read far enough.
        read: Option<mpsc::Receiver<Book>>,
    },
    /// Counting.
    Counting { takeover: Takeover, membership: Membership, judged: bool },
}

struct Worker {
    setup: Setup,
    settings: CountingSettings,
    writer: String,
    keys: (u64, u64),
    topics: Topics,
    consumer: Arc<BaseConsumer<Notes>>,
    reader: Arc<BaseConsumer>,
    flusher: Flusher,
    /// How long the flush in flight, or the last one, has kept the worker from counting.
    standstill: Duration,
    desk: Desk,
    state: State,
    shards: BTreeMap<u32, Shard>,
    /// Shards that the group has taken away.
    parked: ParkedShards,
    /// The start of the time used in `parked`.
    began: Instant,
    queue: Option<BatchQueue>,
    /// Records that were fetched after one that requires a checkpoint to be written first.
    deferred: Vec<Deferred>,
    arrivals: BTreeMap<u32, Vec<i64>>,
    /// Shards that wait behind a record from the future; they are not read meanwhile.
    holds: Holds,
    /// The assignment must be renewed, because the set of waiting shards has changed.
    unread: bool,
    /// Why assigned shards are not counted.
    stopped: BTreeMap<u32, String>,
    /// Partitions whose lag is exported.
    lag_exported: BTreeSet<u32>,
    /// Do flushes commit?
    progress: Progress,
    identity: Identity,
    next_flush: Instant,
    /// No flush begins earlier, however much waits: the last one failed, or used up the write budget of that time.
    earliest_flush: Instant,
    next_lag: Instant,
    next_complaint: Instant,
    limit_watch: LimitWatch,
    /// The group's session timeout: a worker that was stuck for longer may have been replaced.
    session: Duration,
    last_round: Instant,
    reread: bool,
    failure: Option<WorkerError>,
}

/// Counts until stopped. Runs on a thread of its own.
///
/// # Errors
/// Kafka cannot be used at all; transient errors are retried.
pub fn run(setup: Setup) -> Result<(), WorkerError> {
    let stop = setup.stop.clone();
    let mut worker = Worker::new(setup)?;
    while !stop.is_cancelled() && worker.failure.is_none() {
        worker.round();
    }
    let failure = worker.failure.take();
    worker.finish();
    failure.map_or(Ok(()), Err)
}

/// The client configuration of the calls' consumer.
fn consumer_config(base: &ClientConfig, config: &Config, instance: &str) -> ClientConfig {
    let mut client = base.clone();
    let defaults = [
        // The group's leader must see partitions that are added within a minute.
        ("topic.metadata.refresh.interval.ms", "20000"),
        ("fetch.queue.backoff.ms", "5"),
        ("queued.min.messages", "20000"),
        ("queued.max.messages.kbytes", "32768"),
        // The broker answers with what has come in during the wait, not with every few calls.
        ("fetch.min.bytes", "65536"),
        ("fetch.wait.max.ms", "40"),
    ];
    for (key, value) in defaults {
        if client.get(key).is_none() {
            client.set(key, value);
        }
    }
    if client.get("session.timeout.ms").is_none() {
        client.set("session.timeout.ms", SESSION.as_millis().to_string());
    }
    if config.kafka.static_membership {
        client.set("group.instance.id", instance);
    }
    client
        .set("group.id", &config.kafka.group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("isolation.level", "read_committed")
        .set("partition.assignment.strategy", "range");
    client
}

impl Worker {
    fn new(setup: Setup) -> Result<Self, WorkerError> {
        let config = setup.config.load_full();
        let topics = Topics {
            source: config.source.topic.clone(),
            ledger: config.ledger.topic.clone(),
            dead_letters: config.ledger.dead_letters_topic.clone(),
            alerts: config.ledger.alerts_topic.clone(),
        };
        let desk = Desk::new(config.issuer());
        let client = consumer_config(&setup.base, &config, &setup.instance);
        let consumer: BaseConsumer<Notes> = client
            .create_with_context(Notes::default())
            .map_err(|e| WorkerError::Kafka("cannot create the consumer", e))?;
        let consumer = Arc::new(consumer);
        // E must be the high watermark: a read_committed client gets the last stable offset instead.
        let reader = reader_config(&setup.base, "read_uncommitted").create();
        let reader: BaseConsumer = reader.map_err(|e| WorkerError::Kafka("cannot create the ledger reader", e))?;
        let id = format!("{}-{}", config.ledger.name, setup.instance);
        let log = LedgerLog::open(&setup.base, &id, topics.clone(), setup.message_bytes)
            .map_err(|e| WorkerError::Kafka("cannot open the transactional producer", e))?;
        let reader = Arc::new(reader);
        let flusher = Flusher::start(log, reader.clone(), topics.clone()).map_err(WorkerError::NoThread)?;
        consumer.subscribe(&[&topics.source]).map_err(|e| WorkerError::Kafka("cannot subscribe", e))?;
        let session =
            client.get("session.timeout.ms").and_then(|ms| ms.parse().ok()).map_or(SESSION, Duration::from_millis);
        let incarnation: u32 = rand::random();
        setup.metrics.set_last_commit(now_ms());
        Ok(Self {
            settings: config.counting.clone(),
            writer: format!("{}/{incarnation:08x}", setup.instance),
            keys: rand::random(),
            topics,
            consumer,
            reader,
            flusher,
            standstill: Duration::ZERO,
            desk,
            state: State::Waiting,
            shards: BTreeMap::new(),
            parked: ParkedShards::default(),
            began: Instant::now(),
            queue: None,
            deferred: Vec::new(),
            arrivals: BTreeMap::new(),
            holds: Holds::default(),
            unread: false,
            stopped: BTreeMap::new(),
            lag_exported: BTreeSet::new(),
            progress: Progress::default(),
            identity: Identity::default(),
            next_flush: Instant::now(),
            earliest_flush: Instant::now(),
            next_lag: Instant::now(),
            next_complaint: Instant::now(),
            limit_watch: LimitWatch::default(),
            session,
            last_round: Instant::now(),
            reread: false,
            failure: None,
            setup,
        })
    }

    fn round(&mut self) {
        self.setup.health.count_round(Beating::Worker);
        let mut errors: SmallVec<[KafkaError; 1]> = SmallVec::new();
        batch::serve(&self.consumer, |error| errors.push(error));
        for error in errors {
            self.source_error(-1, error.rdkafka_error_code(), &error.to_string());
        }
        self.look_at_flush(Duration::ZERO);
        for rebalanced in self.consumer.context().take() {
            self.rebalanced(rebalanced);
        }
        self.read_news();
        let pause = std::mem::replace(&mut self.last_round, Instant::now()).elapsed();
        let stood_still = pause > self.session;
        if stood_still && matches!(self.state, State::Counting { .. }) {
            self.take_over_again("this process stood still for longer than its session");
        }
        // The group counts from the last heartbeat, which may be older than the last round: half of the session is ours.
        if pause > self.session / 2 {
            self.setup.view.set_home(Vec::new());
            self.next_lag = Instant::now() + LAG_INTERVAL;
            if let State::Counting { judged, .. } = &mut self.state {
                *judged = false;
            }
        }
        self.setup.view.keep_home(self.last_round + self.session / 2);
        if std::mem::take(&mut self.reread) {
            self.take_over_again(
                "the source must be read again: it no longer holds what was wanted next, or a record was missed",
            );
        }
        match &self.state {
            State::Waiting => std::thread::sleep(ROUND.min(Duration::from_millis(10))),
            State::TakingOver { .. } => self.take_over(),
            State::Counting { .. } => self.count(),
        }
        if Instant::now() >= self.next_lag {
            self.next_lag = Instant::now() + LAG_INTERVAL;
            self.report();
        }
    }

    fn rebalanced(&mut self, rebalanced: Rebalanced) {
        self.await_flush();
        match rebalanced {
            Rebalanced::Assigned(shards, membership) => {
                let known = self.setup.view.shards();
                let shards = shards.into_iter().filter_map(|s| u32::try_from(s).ok());
                // Added partitions are counted after the restart that the topic watch requests.
                let (shards, added): (Vec<u32>, Vec<u32>) = shards.partition(|shard| *shard < known);
                if !added.is_empty() {
                    tracing::warn!(?added, known, "partitions were added to the calls topic; they are not counted yet");
                }
                let Some(membership) = membership else {
                    tracing::error!(
                        "assigned without a membership that could be fenced; waiting for the next rebalance"
                    );
                    return;
                };
                tracing::info!(
                    ?shards,
                    generation = membership.generation,
                    member = membership.member,
                    "partitions assigned"
                );
                self.begin_takeover(shards, membership);
            }
            Rebalanced::Revoked { lost } => {
                tracing::info!(lost, "partitions revoked");
                if !lost {
                    self.flush_last();
                }
                self.park();
                self.drop_shards();
                self.progress.settled();
                self.state = State::Waiting;
                self.setup.health.set_joined(false);
                if let Err(error) = self.consumer.unassign() {
                    tracing::warn!(%error, "cannot answer the revocation");
                }
            }
            Rebalanced::Failed(error) => {
                tracing::warn!(error, "rebalance failed");
                self.drop_shards();
                self.state = State::Waiting;
            }
        }
    }

    fn begin_takeover(&mut self, shards: Vec<u32>, membership: Membership) {
        self.drop_shards();
        self.state =
            State::TakingOver { takeover: Takeover::new(shards), membership, since: Instant::now(), read: None };
    }

    /// Gives the shards up and takes the same ones over again, under the same membership.
    fn take_over_again(&mut self, why: &str) {
        self.await_flush();
        let (State::TakingOver { takeover, membership, .. } | State::Counting { takeover, membership, .. }) =
            std::mem::replace(&mut self.state, State::Waiting)
        else {
            return;
        };
        let shards: Vec<u32> = takeover.shards().collect();
        tracing::warn!(?shards, why, "giving the shards up to take them over again");
        if let Err(error) = self.consumer.assign(&TopicPartitionList::new()) {
            tracing::warn!(%error, "cannot empty the assignment");
        }
        self.begin_takeover(shards, membership);
    }

    /// Keeps the shards that are about to be dropped, in case the group gives them back. Not after a flush that ended in an
    /// unknown way: their shards are dropped before.
    fn park(&mut self) {
        if self.shards.is_empty() {
            return;
        }
        let (limits, now) = (self.parking_limits(), self.began.elapsed());
        let published = self.setup.view.published();
        let book = published.as_ref().map(|published| &published.book);
        for (id, shard) in std::mem::take(&mut self.shards) {
            let ledger_bytes = book.and_then(|book| book.shard(id)).map_or(0, ShardBook::bytes);
            if let Err(why) = self.parked.park(shard, ledger_bytes, limits, now) {
                self.setup.metrics.parked(Err(why), 1);
            }
        }
        self.setup.metrics.set_parked_bytes(self.parked.bytes());
        tracing::info!(shards = self.parked.len(), bytes = self.parked.bytes(), "shards parked");
    }

    fn parking_limits(&self) -> ParkingLimits {
        let config = self.setup.config.load();
        ParkingLimits { max_bytes: config.parking.max_bytes, keep: config.parking.keep }
    }

    fn drop_shards(&mut self) {
        self.queue = None;
        self.deferred.clear();
        self.arrivals.clear();
        self.shards.clear();
        self.stopped.clear();
        self.holds = Holds::default();
        self.unread = false;
        self.setup.view.set_home(Vec::new());
        self.setup.metrics.set_shards(0, 0);
    }

    fn read_news(&mut self) {
        let news: Vec<TailNews> = self.setup.news.try_iter().collect();
        for item in news {
            match item {
                TailNews::Checkpoint { shard, writer, seq } => {
                    let owned = self.shards.get(&shard);
                    if writer != self.writer && owned.is_some_and(|s| seq > s.checkpoint().seq) {
                        // Legal while a rebalance is on its way to us; an alarm if our generation is still the group's.
                        tracing::error!(shard, writer, seq, "another writer's checkpoint in a shard of ours");
                        self.setup.metrics.fenced();
                        self.take_over_again("another writer's checkpoint was read");
                    }
                }
                TailNews::Trouble { trouble: Trouble::Record(error @ RecordError::Outdated(_)), .. } => {
                    self.failure = Some(WorkerError::Outdated { topic: self.topics.ledger.clone(), error });
                }
                TailNews::Trouble { shard, trouble } => {
                    if self.shards.remove(&shard).is_some() {
                        tracing::error!(shard, "counting of the shard is stopped");
                        self.stopped.insert(shard, format!("its ledger is damaged: {trouble}"));
                        self.report_shards();
                    }
                }
            }
        }
    }

    fn take_over(&mut self) {
        if !self.can_flush() {
            return self.look_at_flush(ROUND);
        }
        self.progress.due(Instant::now());
        let State::TakingOver { takeover, read, .. } = &mut self.state else { return };
        let need = takeover.to_fetch();
        let step = match need {
            Some(Need::Committed) => fetch_committed(&self.consumer, &self.topics.source, takeover),
            Some(_) => fetch_ends(&self.reader, &self.topics.ledger, self.setup.view.shards(), takeover),
            None => {
                let asked = read.get_or_insert_with(|| self.setup.view.read_for(takeover.clone()));
                // The consumer is polled in between.
                if let Ok(read) = asked.recv_timeout(TAIL_WAIT) {
                    self.begin_counting(&read);
                }
                return;
            }
        };
        if let (Some(need), Err(error)) = (need, step) {
            self.takeover_waits(&error, &format!("{need:?}"));
        }
    }

    /// Some errors return immediately, again and again, while a broker is down.
    fn takeover_waits(&mut self, error: &KafkaError, step: &str) {
        let mut why = flush_error(error);
        why.text = format!("a takeover waits ({step}): {}", why.text);
        self.progress.takeover_waits(why);
        if Instant::now() >= self.next_complaint {
            self.next_complaint = Instant::now() + COMPLAINT_INTERVAL;
            tracing::info!(%error, step, "takeover waits");
        }
        // librdkafka considers a partition that it once saw without a leader unknown until its metadata is minutes old,
        // unless it is asked to refresh it. The answer does not matter here.
        _ = self.reader.fetch_metadata(Some(&self.topics.ledger), ANSWER);
        _ = self.consumer.fetch_metadata(Some(&self.topics.source), ANSWER);
        std::thread::sleep(ROUND);
    }

    fn begin_counting(&mut self, read: &Book) {
        let State::TakingOver { takeover, membership, since, .. } = std::mem::replace(&mut self.state, State::Waiting)
        else {
            return;
        };
        match self.load(&takeover, read) {
            Ok(list) => {
                let partitions: Vec<i32> = list.elements().iter().map(|e| e.partition()).collect();
                self.queue = Some(BatchQueue::of_partitions(&self.consumer, &self.topics.source, &partitions));
                if let Err(error) = self.consumer.assign(&list) {
                    tracing::warn!(%error, "cannot assign the partitions; trying again");
                    self.drop_shards();
                    self.state = State::TakingOver { takeover, membership, since, read: None };
                    return;
                }
                tracing::info!(shards = ?partitions, took_ms = since.elapsed().as_millis() as u64, "takeover done, counting");
                self.progress.taken_over();
                self.next_flush = Instant::now();
                self.state = State::Counting { takeover, membership, judged: false };
                self.setup.health.set_joined(true);
                self.report_shards();
            }
            Err(error) => {
                self.state = State::TakingOver { takeover, membership, since, read: None };
                self.takeover_waits(&error, "Load");
            }
        }
    }

    /// Loads the shards of a takeover; the list says where each begins to read.
    fn load(&mut self, takeover: &Takeover, read: &Book) -> Result<TopicPartitionList, KafkaError> {
        let mut list = TopicPartitionList::new();
        let mut shards = BTreeMap::new();
        let mut stopped = BTreeMap::new();
        if self.setup.topics_have_ids {
            self.identity.find(&self.reader, &self.topics)?;
        }
        let config = self.setup.config.load_full();
        let mut same = Vec::new();
        for shard in takeover.shards() {
            let recorded = read.shard(shard).and_then(|shard| shard.checkpoint()).map_or("", |c| &c.source_id);
            match same_source(recorded, self.identity.source(), config.source.accept_topic_id.as_deref()) {
                Ok(()) => same.push(shard),
                Err(stop) => {
                    tracing::error!(shard, %stop, "the shard is not counted");
                    stopped.insert(shard, stop.to_string());
                }
            }
        }
        for (shard, bounds) in source_bounds(&self.consumer, &self.topics.source, &same, config.source.start)? {
            let taken = match self.resume(shard, read, bounds) {
                Some(counter) => Ok(counter),
                None => self.take_over_shard(shard, takeover, read, bounds),
            };
            match taken {
                Ok(counter) => {
                    list.add_partition_offset(&self.topics.source, shard as i32, Offset::Offset(counter.position()))?;
                    self.limit_watch.begin(shard, counter.limits(), counter.totals(), now_ms());
                    shards.insert(shard, counter);
                }
                Err(why) => {
                    tracing::error!(shard, %why, "the shard is not counted");
                    stopped.insert(shard, why);
                }
            }
        }
        self.shards = shards;
        self.stopped = stopped;
        Ok(list)
    }

    /// A shard loaded from the ledger.
    fn take_over_shard(
        &mut self,
        shard: u32,
        takeover: &Takeover,
        read: &Book,
        bounds: SourceBounds,
    ) -> Result<Shard, String> {
        let begin = takeover.begin(shard, read, bounds).map_err(|stop| stop.to_string())?;
        if let Some((committed, checkpoint)) = begin.offset_differs {
            tracing::warn!(shard, committed, checkpoint, "the group's offset is not the ledger's; the ledger's holds");
        }
        self.setup.metrics.takeover(begin.offset_differs.is_some());
        let source_id = self.identity.source().map(str::to_owned);
        let owner = Owner { source_id, ..Owner::new(shard, self.writer.clone(), self.keys) };
        if begin.state.checkpoint.is_none() {
            self.setup.view.set_begin(shard, begin.first_offset);
        }
        let known_gaps = begin.state.checkpoint.as_ref().map_or(0, |c| c.gaps.len());
        let mut counter = Shard::take_over(owner, &self.settings, begin.state, begin.first_offset)
            .map_err(|error| error.to_string())?;
        self.desk.tell_again(&self.setup.view, &mut counter, now_ms());
        for gap in counter.gaps().iter().skip(known_gaps) {
            let (from, to, calls) = (gap.from_offset, gap.to_offset, gap.calls);
            tracing::error!(shard, from, to, calls, "the source no longer holds these offsets");
            self.setup.metrics.gap(gap);
        }
        let (offset, counted_from) = (counter.position(), counter.counted_from());
        tracing::info!(shard, offset, counted_from, "shard taken over");
        Ok(counter)
    }

    /// The parked shard, if there is one and it may resume.
    fn resume(&mut self, shard: u32, read: &Book, bounds: SourceBounds) -> Option<Shard> {
        let (limits, now) = (self.parking_limits(), self.began.elapsed());
        let source = Source { bounds, id: self.identity.source() };
        let resumed = self.parked.resume(shard, read.shard(shard)?, source, limits, now)?;
        self.setup.metrics.parked(resumed.as_ref().map(|_| ()).map_err(|why| *why), 1);
        self.setup.metrics.set_parked_bytes(self.parked.bytes());
        match resumed {
            Ok(counter) => {
                tracing::info!(shard, offset = counter.position(), "shard resumed");
                self.setup.metrics.takeover(false);
                Some(counter)
            }
            Err(why) => {
                tracing::info!(shard, why = why.as_str(), "the parked shard is out of date");
                None
            }
        }
    }

    /// Forgets what was parked for too long.
    fn expire_parked(&mut self) {
        let expired = self.parked.expire(self.parking_limits(), self.began.elapsed());
        if expired > 0 {
            self.setup.metrics.parked(Err(Discarded::Expired), expired);
            self.setup.metrics.set_parked_bytes(self.parked.bytes());
        }
    }

    /// Stops counting all shards. It does not leave the group: no other instance could count them either.
    fn stop_all(&mut self, why: &str) {
        tracing::error!(why, "counting is stopped");
        let (State::TakingOver { takeover, .. } | State::Counting { takeover, .. }) = &self.state else { return };
        let shards: Vec<u32> = takeover.shards().collect();
        self.drop_shards();
        if let Err(error) = self.consumer.assign(&TopicPartitionList::new()) {
            tracing::warn!(%error, "cannot empty the assignment");
        }
        self.queue = Some(BatchQueue::of_partitions(&self.consumer, &self.topics.source, &[]));
        self.stopped = shards.into_iter().map(|shard| (shard, why.to_owned())).collect();
        self.progress.settled();
        self.report_shards();
    }

    fn count(&mut self) {
        if self.shards.values().any(Shard::must_flush) && !self.flush_first() {
            return;
        }
        self.count_deferred();
        if self.holds.let_go(now_ms()) {
            tracing::info!("the wall clock has passed a timestamp that was from the future; the shard goes on");
            self.unread = true;
        }
        if std::mem::take(&mut self.unread) {
            self.read_again();
        }
        let flushing = self.flusher.is_flushing();
        let wait = if flushing { LOOK } else { self.next_flush.saturating_duration_since(Instant::now()).min(ROUND) };
        if self.waiting().is_too_much() {
            if flushing { self.look_at_flush(ROUND) } else { std::thread::sleep(wait) }
        } else if let Some(mut queue) = self.queue.take() {
            self.consume(&mut queue, wait);
            self.queue = Some(queue);
        }
        if self.flusher.is_flushing() || !matches!(self.state, State::Counting { .. }) {
            return;
        }
        let (now, early) = (Instant::now(), self.waiting().is_much() && self.can_flush());
        if now >= self.next_flush || early && now >= self.earliest_flush {
            self.next_flush = now + self.setup.config.load().flush.interval;
            self.begin_flush();
        }
    }

    /// Writes a checkpoint before counting continues. `false`: it is not written yet.
    fn flush_first(&mut self) -> bool {
        if !self.flusher.is_flushing() {
            self.begin_flush();
        }
        if self.flusher.is_flushing() {
            self.look_at_flush(ROUND)
        } else {
            std::thread::sleep(ROUND)
        }
        !self.shards.values().any(Shard::must_flush)
    }

    /// What waits for a flush. A shard that may not flush yet is not included: it has to keep reading first.
    fn waiting(&self) -> Waiting {
        let mut all = Waiting::default();
        for shard in self.shards.values().filter(|shard| shard.may_flush()) {
            all.letters += shard.dead_letter_bytes();
            all.facts += shard.unflushed_bytes();
        }
        all
    }

    fn consume(&mut self, queue: &mut BatchQueue, wait: Duration) {
        let mut counts = OutcomeCounts::default();
        let mut errors = Vec::new();
        let mut by_partition: Vec<Option<(&mut Shard, bool)>> = Vec::new();
        for (partition, shard) in &mut self.shards {
            by_partition.resize_with(*partition as usize + 1, || None);
            // A shard that warms its windows may reach a change of its settings in the middle of a batch.
            let watched = !shard.may_flush();
            // What is still in the queues of a waiting shard is read again when it resumes.
            by_partition[*partition as usize] = Some((shard, watched)).filter(|_| !self.holds.holds(*partition));
        }
        let deferred = &mut self.deferred;
        let (now_ms, bound) = (now_ms(), self.setup.bound);
        let mut found = Holds::default();
        let arrivals = &mut self.arrivals;
        queue.consume(wait, |fetched| match fetched {
            Fetched::Record(partition, record) => {
                let Some(Some((shard, watched))) = by_partition.get_mut(partition as usize) else { return };
                if *watched && shard.must_flush() {
                    deferred.push(Deferred::new(partition as u32, &record));
                    return;
                }
                // Records after the one that waits are checked, so that all such records are named, but not counted.
                let hold = shard.must_hold(&record, now_ms, bound);
                if found.must_wait(partition as u32, hold) {
                    return;
                }
                let outcome = shard.ingest(&record);
                counts.add(outcome);
                let Some(ms) = record.timestamp_ms else { return };
                if outcome != Outcome::Warmed && record.offset % FRESHNESS_SAMPLE == 0 {
                    arrivals.entry(partition as u32).or_default().push(ms);
                }
            }
            Fetched::End(..) => {}
            Fetched::Error(partition, code, text) => errors.push((partition, code, text)),
        });
        counts.report(&self.setup.metrics);
        self.hold(found);
        for (partition, code, text) in errors {
            self.source_error(partition, Some(code), &text);
        }
    }

    /// These shards wait; the others continue.
    fn hold(&mut self, found: Holds) {
        if found.is_empty() {
            return;
        }
        for (shard, text) in found.texts() {
            tracing::error!(shard, "{text}");
        }
        self.holds.join(found);
        self.unread = true;
    }

    /// Reads each shard from its position, except those that wait. A pause and a seek would do the same more cheaply,
    /// if librdkafka kept the offset of a partition that is paused right after it was assigned.
    ///
    /// The stop of a partition, which librdkafka does on its own thread, takes the partition out of our queue; so our new
    /// queue must come after it. The second empty assignment is answered when the stops before it are under way.
    fn read_again(&mut self) {
        self.queue = None;
        self.deferred.clear();
        let mut list = TopicPartitionList::new();
        let mut partitions = Vec::new();
        for (shard, counter) in self.shards.iter().filter(|(shard, _)| !self.holds.holds(**shard)) {
            partitions.push(*shard as i32);
            let offset = Offset::Offset(counter.position());
            // A partition and an offset from 0 on are always accepted.
            _ = list.add_partition_offset(&self.topics.source, *shard as i32, offset);
        }
        let empty = TopicPartitionList::new();
        let emptied = self.consumer.assign(&empty).and_then(|()| self.consumer.assign(&empty));
        self.queue = Some(BatchQueue::of_partitions(&self.consumer, &self.topics.source, &partitions));
        if let Err(error) = emptied.and_then(|()| self.consumer.assign(&list)) {
            tracing::warn!(%error, "cannot assign the partitions anew");
            self.take_over_again("the partitions could not be assigned anew");
        }
    }

    /// Counts the records that were deferred for a checkpoint, which is written now.
    fn count_deferred(&mut self) {
        let mut counts = OutcomeCounts::default();
        let (now_ms, bound) = (now_ms(), self.setup.bound);
        let mut found = Holds::default();
        for deferred in std::mem::take(&mut self.deferred) {
            let Some(shard) = self.shards.get_mut(&deferred.shard) else { continue };
            deferred.with_record(|record| {
                let hold = shard.must_hold(record, now_ms, bound);
                if !found.must_wait(deferred.shard, hold) {
                    counts.add(shard.ingest(record));
                }
            });
        }
        counts.report(&self.setup.metrics);
        self.hold(found);
    }

    fn source_error(&mut self, partition: i32, code: Option<RDKafkaErrorCode>, text: &str) {
        tracing::warn!(partition, code = ?code, text, "reading the calls topic failed");
        // The last one: a record bypassed the queue that is read, and is lost to it.
        if matches!(
            code,
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange | RDKafkaErrorCode::State)
        ) {
            self.reread = true;
        }
    }

    /// Can a flush begin? A producer that must not be used any more is replaced meanwhile.
    fn can_flush(&mut self) -> bool {
        match self.flusher.ready() {
            Ok(ready) => ready,
            Err(gone) => {
                self.failure = Some(gone.into());
                false
            }
        }
    }

    /// Begins one transaction with the snapshots of all shards that have something to write, unless a flush is under
    /// way.
    fn begin_flush(&mut self) {
        let begin = Instant::now();
        self.judge();
        if self.shards.values().all(|s| !s.wants_flush()) {
            if self.nothing_waits() {
                self.progress.settled();
            }
            return;
        }
        self.progress.due(begin);
        if !self.can_flush() {
            return;
        }
        let State::Counting { membership, .. } = &self.state else { return };
        let membership = membership.clone();
        let flushes: Vec<Flush> = self.shards.values_mut().filter(|s| s.wants_flush()).map(Shard::snapshot).collect();
        for flush in &flushes {
            let arrivals = self.arrivals.remove(&flush.shard).unwrap_or_default();
            self.setup.view.sent(flush.shard, flush.seq, arrivals);
        }
        let job = Job { flushes, membership, ids: self.identity.ids().clone(), begin };
        if let Err(gone) = self.flusher.flush(job) {
            self.failure = Some(gone.into());
        }
        self.standstill += begin.elapsed();
    }

    /// Handles the end of a flush or of a producer's replacement, waiting up to `wait` for it.
    fn look_at_flush(&mut self, wait: Duration) {
        let begin = Instant::now();
        let done = self.flusher.done(wait);
        self.standstill += begin.elapsed();
        match done {
            Ok(None) | Ok(Some(Done::Renewed(Ok(())))) => {}
            Ok(Some(Done::Renewed(Err(error)))) => self.flush_failed(error),
            Ok(Some(Done::Remade(why))) => self.stop_all(&why),
            Ok(Some(Done::Flushed(flushed))) => self.flushed(*flushed),
            Err(gone) => self.failure = Some(gone.into()),
        }
    }

    /// Waits for the end of the flush in flight, and handles it. The flush thread gives up what takes too long.
    fn await_flush(&mut self) {
        while self.flusher.is_flushing() && self.failure.is_none() {
            self.look_at_flush(ROUND);
        }
    }

    /// The last flush of these shards, from beginning to end. Call only when no flush is under way.
    fn flush_last(&mut self) {
        if self.shards.values().all(|shard| !shard.wants_flush()) {
            return;
        }
        let begin = Instant::now();
        while !self.can_flush() && begin.elapsed() < LAST_PRODUCER && self.failure.is_none() {
            self.look_at_flush(ROUND);
        }
        self.begin_flush();
        self.await_flush();
    }

    /// A transaction has ended.
    fn flushed(&mut self, flushed: Flushed) {
        let begin = Instant::now();
        let aftermath = flushed.aftermath;
        self.setup.metrics.flush(flushed.end, flushed.took);
        if aftermath.committed {
            self.committed(&flushed);
        } else {
            // After a failure reading goes first, however long the attempt took.
            self.next_flush = Instant::now() + self.setup.config.load().flush.interval;
            self.earliest_flush = self.next_flush;
        }
        // If the producer must be replaced, it should be ready when the next flush is due.
        self.can_flush();
        self.setup.metrics.stood_still(std::mem::take(&mut self.standstill) + begin.elapsed());
        if let Some(error) = flushed.error {
            self.flush_failed(error);
        }
        if flushed.fence.is_some() {
            self.setup.metrics.fenced();
        }
        if flushed.fence == Some(Fence::Group) {
            // Another member has the shards, or will have them: wait for the group to report it.
            self.drop_shards();
            self.progress.settled();
            self.state = State::Waiting;
            self.setup.health.set_joined(false);
            if let Err(error) = self.consumer.assign(&TopicPartitionList::new()) {
                tracing::warn!(%error, "cannot empty the assignment");
            }
        } else if aftermath.give_up {
            self.take_over_again("a flush ended in a way that must be read back from the ledger");
        }
    }

    /// Judges alerts, so that they go out with the counts in one transaction. If there is no time to judge, they go out
    /// with the next.
    fn judge(&mut self) {
        let rulings = self.setup.view.rulings();
        self.shards.values_mut().for_each(|shard| shard.note_rulings(&rulings));
        if matches!(self.state, State::Counting { judged: true, .. }) {
            let (view, metrics, now_ms) = (&self.setup.view, &self.setup.metrics, now_ms());
            let lag = |shard| view.lag(shard, now_ms).map(|lag| lag.behind);
            self.desk.judge(view, &mut self.shards, lag, metrics, now_ms);
        }
    }

    /// These snapshots are in the ledger.
    fn committed(&mut self, flushed: &Flushed) {
        for flush in &flushed.flushes {
            if let Some(shard) = self.shards.get_mut(&flush.shard) {
                shard.committed();
            }
            for letter in &flush.dead_letters {
                self.setup.metrics.dead_letter(letter.reason);
            }
        }
        let bytes: usize = flushed.flushes.iter().map(Flush::ledger_bytes).sum();
        let rate = self.setup.config.load().ledger.max_write_rate.max(1);
        let pause = Duration::from_secs_f64(bytes as f64 / rate as f64);
        self.earliest_flush = flushed.begin + pause;
        self.next_flush = self.next_flush.max(self.earliest_flush);
        self.setup.metrics.set_last_commit(now_ms());
        if self.progress.settled() {
            tracing::info!("flushes commit again");
        }
    }

    /// Is everything in the source also in the ledger? After a failed flush, what was given up is read again first.
    fn nothing_waits(&self) -> bool {
        let now_ms = now_ms();
        let clear = |shard: &u32| self.setup.view.lag(*shard, now_ms).is_some_and(|lag| lag.records == 0);
        matches!(self.state, State::Counting { .. }) && (!self.progress.is_failing() || self.shards.keys().all(clear))
    }

    /// Logs it periodically, and remembers it for `/readyz`.
    fn flush_failed(&mut self, error: FlushError) {
        self.setup.metrics.flush_failed(error.reason);
        let text = error.describe();
        if self.progress.failed(error, Instant::now()) {
            tracing::warn!(error = text, "flush failed");
        }
    }

    /// Reports what counting keeps out of the figures, in the log and in the metrics.
    fn look_at_limits(&mut self, now_ms: i64) {
        let shards = &self.shards;
        self.limit_watch.keep(|shard| shards.contains_key(&shard));
        let mut all = LimitUse::default();
        for (shard, counter) in shards {
            let used = counter.limits();
            all.most_tenants = used.most_tenants;
            all.most_rows = used.most_rows;
            all.most_evidence = used.most_evidence;
            all.evidence = all.evidence.max(used.evidence);
            all.tenants = all.tenants.max(used.tenants);
            all.rows = all.rows.max(used.rows);
            let look = self.limit_watch.look(*shard, used, counter.totals(), now_ms);
            self.setup.metrics.new_tenants(look.new_tenants);
            for remark in look.remarks {
                let LimitUse { tenants, rows, evidence, .. } = used;
                tracing::warn!(shard, tenants, rows, evidence, new_tenants = look.new_tenants, "{remark}");
            }
        }
        self.setup.metrics.set_limits(&all);
    }

    /// Updates lag, readiness, and the tenants that this instance exports.
    fn report(&mut self) {
        if let Some((code, reason)) = self.consumer.client().fatal_error() {
            self.failure = Some(WorkerError::Fatal { code, reason });
            return;
        }
        // It is never polled otherwise, and what librdkafka logs would pile up in it.
        batch::serve(&self.reader, |_| {});
        self.report_lag();
        self.report_faults();
        self.expire_parked();
        self.look_at_limits(now_ms());
        let waiting = self.waiting();
        self.setup.metrics.set_unflushed(waiting.letters, waiting.facts, waiting.is_too_much());
        let published = self.setup.view.published();
        self.setup.health.set_ledger_loaded(published.is_some());
        if let State::Counting { takeover, judged, .. } = &mut self.state
            && !*judged
            && published.is_some_and(|value| takeover.may_judge(&value.book))
        {
            *judged = true;
            self.setup.view.set_home(takeover.shards().collect());
        }
        self.setup.metrics.set_ready(self.setup.health.is_ready());
    }

    /// The shards that the group has given to this instance, counted or not.
    fn assigned(&self) -> BTreeSet<u32> {
        match &self.state {
            State::Counting { takeover, .. } | State::TakingOver { takeover, .. } => takeover.shards().collect(),
            State::Waiting => BTreeSet::new(),
        }
    }

    /// How far the ledger of each assigned shard is behind, and the worst of them. Records that were only read are not
    /// in the ledger.
    fn report_lag(&mut self) {
        let mut worst = Duration::ZERO;
        let now_ms = now_ms();
        let assigned = self.assigned();
        for shard in &assigned {
            match self.setup.view.lag(*shard, now_ms) {
                Some(lag) => {
                    worst = worst.max(lag.behind);
                    self.setup.metrics.set_lag(*shard, lag.records, lag.behind);
                    self.lag_exported.insert(*shard);
                }
                // While its lag is unknown, it is not ready.
                None if self.shards.contains_key(shard) => worst = Duration::MAX,
                None => {}
            }
            // Nor before its first checkpoint is written: until then nothing is counted.
            if self.shards.get(shard).is_some_and(Shard::must_flush) {
                worst = Duration::MAX;
            }
        }
        for gone in self.lag_exported.difference(&assigned) {
            self.setup.metrics.remove_lag(*gone);
        }
        self.lag_exported.retain(|shard| assigned.contains(shard));
        self.setup.health.set_lag(worst);
    }

    fn report_faults(&self) {
        let now = Instant::now();
        self.setup.metrics.set_commit_overdue(self.progress.overdue(now));
        let health = &self.setup.health;
        health.set_fault(FaultKind::NotCommitting, self.progress.stalled(now));
        let mut by_reason: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (shard, why) in &self.stopped {
            by_reason.entry(why).or_default().push(shard.to_string());
        }
        let stopped =
            by_reason.iter().map(|(why, shards)| format!("shards {} are not counted: {why}", shards.join(", ")));
        let stopped: Vec<String> = stopped.collect();
        health.set_fault(FaultKind::ShardsStopped, (!stopped.is_empty()).then(|| stopped.join("; ")));
        self.setup.view.set_stopped(self.stopped.clone());
        let held: BTreeMap<u32, String> = self.holds.texts().collect();
        self.setup.metrics.set_shards_held(held.len());
        let texts = held.values().cloned().collect::<Vec<_>>();
        health.set_fault(FaultKind::ShardsHeld, (!texts.is_empty()).then(|| texts.join("; ")));
        self.setup.view.set_held(held);
    }

    fn report_shards(&self) {
        let (State::Counting { takeover, .. } | State::TakingOver { takeover, .. }) = &self.state else { return };
        let assigned = takeover.shards().count();
        self.setup.metrics.set_shards(assigned, assigned.saturating_sub(self.shards.len()));
    }

    /// Makes the last flush, then leaves the group, so that the next owner does not have to wait.
    fn finish(mut self) {
        self.setup.health.set_joined(false);
        self.await_flush();
        self.flush_last();
        self.drop_shards();
        self.consumer.context().close();
        let Self { consumer, reader, flusher, .. } = self;
        drop(flusher);
        // Leaves the group. The other clients are in no group.
        drop(consumer);
        super::discard("reader", reader);
        tracing::info!("worker stopped");
    }
}

/// About what waits for a flush, in bytes.
#[derive(Debug, Clone, Copy, Default)]
struct Waiting {
    letters: usize,
    facts: usize,
}

impl Waiting {
    /// A flush should not wait for its time.
    fn is_much(self) -> bool {
        self.letters > EARLY_LETTERS || self.facts > EARLY_FACTS
    }

    /// Nothing more is read before a flush has committed.
    fn is_too_much(self) -> bool {
        self.letters > MOST_LETTERS || self.facts > MOST_FACTS
    }
}

/// A copy of a record.
#[derive(Debug)]
struct Deferred {
    shard: u32,
    offset: i64,
    timestamp_ms: Option<i64>,
    key: Option<Vec<u8>>,
    payload: Option<Vec<u8>>,
    headers: Vec<(String, Vec<u8>)>,
}

impl Deferred {
    fn new(shard: u32, record: &SourceRecord<'_>) -> Self {
        Self {
            shard,
            offset: record.offset,
            timestamp_ms: record.timestamp_ms,
            key: record.key.map(<[u8]>::to_vec),
            payload: record.payload.map(<[u8]>::to_vec),
            headers: record.headers.read().iter().map(|(name, value)| ((*name).to_owned(), value.to_vec())).collect(),
        }
    }

    fn with_record(&self, each: impl FnOnce(&SourceRecord<'_>)) {
        let headers: Vec<(&str, &[u8])> =
            self.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
        each(&SourceRecord {
            offset: self.offset,
            timestamp_ms: self.timestamp_ms,
            key: self.key.as_deref(),
            payload: self.payload.as_deref(),
            headers: Headers::Known(&headers),
        });
    }
}

/// Outcomes of one batch, so that the counters are touched once a batch.
#[derive(Debug, Default)]
struct OutcomeCounts([(Option<Outcome>, u64); 5]);

impl OutcomeCounts {
    #[inline]
    fn add(&mut self, outcome: Outcome) {
        let slot = match outcome {
            Outcome::Counted => 0,
            Outcome::Duplicate { conflict: false } => 1,
            Outcome::Duplicate { conflict: true } => 2,
            Outcome::Rejected(Rejection::Malformed(_)) => 3,
            Outcome::Rejected(Rejection::Quarantined(_)) => 4,
            Outcome::Warmed | Outcome::Repeated => return,
        };
        self.0[slot].0 = Some(outcome);
        self.0[slot].1 += 1;
    }

    fn report(&self, metrics: &ProcessMetrics) {
        for (outcome, records) in &self.0 {
            if let Some(outcome) = outcome {
                metrics.records(*outcome, *records);
            }
        }
    }
}

fn fetch_committed(consumer: &BaseConsumer<Notes>, topic: &str, takeover: &mut Takeover) -> Result<(), KafkaError> {
    let mut list = TopicPartitionList::new();
    for shard in takeover.shards() {
        list.add_partition(topic, shard as i32);
    }
    if list.count() == 0 {
        return Ok(());
    }
    // With isolation.level=read_committed the answer waits until no transaction holds a pending offset.
    let committed = consumer.committed_offsets(list, ANSWER)?;
    for element in committed.elements() {
        element.error()?;
        let offset = match element.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        };
        takeover.committed(element.partition() as u32, offset);
    }
    Ok(())
}

fn fetch_ends(reader: &BaseConsumer, topic: &str, shards: u32, takeover: &mut Takeover) -> Result<(), KafkaError> {
    takeover.ends(batch::offsets(reader, topic, 0..shards as i32, Place::End, ANSWER)?.into_values().collect());
    Ok(())
}

/// What the source holds of these partitions, and `source.start` in each of them.
fn source_bounds(
    consumer: &BaseConsumer<Notes>,
    topic: &str,
    shards: &[u32],
    start: Start,
) -> Result<BTreeMap<u32, SourceBounds>, KafkaError> {
    let partitions = || shards.iter().map(|shard| *shard as i32);
    let first = batch::offsets(consumer, topic, partitions(), Place::First, ANSWER)?;
    // What an open transaction has written is not there yet.
    let ends = batch::offsets(consumer, topic, partitions(), Place::Stable, ANSWER)?;
    let mut starts = BTreeMap::new();
    if let Start::At(instant) = start
        && !shards.is_empty()
    {
        let mut list = TopicPartitionList::new();
        for partition in partitions() {
            list.add_partition_offset(topic, partition, Offset::Offset(instant.timestamp_millis()))?;
        }
        for element in consumer.offsets_for_times(list, ANSWER)?.elements() {
            element.error()?;
            if let Offset::Offset(offset) = element.offset() {
                starts.insert(element.partition(), offset);
            }
        }
    }
    let bounds = first.into_iter().zip(ends.into_values()).map(|((partition, low), high)| {
        let start = match start {
            Start::Earliest => low,
            Start::Latest => high,
            // The source has nothing that recent yet.
            Start::At(_) => starts.get(&partition).copied().unwrap_or(high),
        };
        (partition as u32, SourceBounds { low, high, start })
    });
    Ok(bounds.collect())
}
