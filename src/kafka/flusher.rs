//! The flush thread: it owns the ledger's producer and writes one flush at a time, while the worker goes on counting.
//!
//! The worker hands over snapshots and polls for their result. One order at a time: a second one before the first has
//! ended is a bug in the caller.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use rdkafka::consumer::BaseConsumer;

use super::batch;
use super::identity::{IdCheck, TopicIds};
use super::ledger_log::{Fence, LedgerLog, Topics, flush_error};
use super::membership::Membership;
use super::progress::FlushError;
use crate::pipeline::protocol::{Aftermath, FlushFailure, TransactionEnd, after_transaction};
use crate::pipeline::shard::Flush;

/// How long to wait before a broken producer is replaced.
const RETRY_PRODUCER: Duration = Duration::from_secs(1);
/// How often an idle producer polls librdkafka's events.
const SERVE_INTERVAL: Duration = Duration::from_millis(500);
/// Longest wait for one answer of the brokers.
const ANSWER: Duration = Duration::from_secs(2);

/// Snapshots to be written in one transaction.
#[derive(Debug)]
pub struct Job {
    /// The snapshots; at least one.
    pub flushes: Vec<Flush>,
    /// Fences the commit: that of the assignment.
    pub membership: Membership,
    /// Of the topics that were read and are written.
    pub ids: TopicIds,
    /// When the first snapshot was begun.
    pub begin: Instant,
}

/// The result of an order.
#[derive(Debug)]
pub enum Done {
    /// A transaction has ended.
    Flushed(Box<Flushed>),
    /// No flush was made, because a topic was recreated; why, and what to do.
    Remade(String),
    /// A new producer was made, or making one failed.
    Renewed(Result<(), FlushError>),
}

/// A transaction that has ended.
#[derive(Debug)]
pub struct Flushed {
    /// Its snapshots.
    pub flushes: Vec<Flush>,
    /// When the first of them was begun.
    pub begin: Instant,
    /// From then until the transaction's end.
    pub took: Duration,
    /// How it ended.
    pub end: TransactionEnd,
    /// What follows from that.
    pub aftermath: Aftermath,
    /// What went wrong, if it did not commit.
    pub error: Option<FlushError>,
    /// Who refused us, if that is what happened.
    pub fence: Option<Fence>,
    /// The next transaction needs a new producer.
    new_producer: bool,
}

enum Order {
    Flush(Job),
    Renew,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Busy {
    No,
    Flushing,
    Renewing,
}

/// The thread has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the flush thread has ended")]
pub struct Gone;

/// The worker's end of the flush thread.
#[derive(Debug)]
pub struct Flusher {
    orders: Sender<Order>,
    done: Receiver<Done>,
    busy: Busy,
    /// The producer must not be used any more.
    broken: bool,
    /// No new producer is made before this time.
    next_renewal: Instant,
}

impl Flusher {
    /// Starts the thread. It ends, with its producer, some time after this is dropped; it is not joined.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn start(log: LedgerLog, reader: Arc<BaseConsumer>, topics: Topics) -> std::io::Result<Self> {
        let (orders, received) = channel();
        let (answers, done) = channel();
        let mut body = Body { log, reader, topics, check: IdCheck::default() };
        std::thread::Builder::new().name("flush".into()).spawn(move || body.run(&received, &answers))?;
        Ok(Self { orders, done, busy: Busy::No, broken: false, next_renewal: Instant::now() })
    }

    /// Is a transaction in flight?
    pub fn is_flushing(&self) -> bool {
        self.busy == Busy::Flushing
    }

    /// Can a flush begin? A producer that must not be used any more is replaced, which takes some time.
    ///
    /// # Errors
    /// [`Gone`].
    pub fn ready(&mut self) -> Result<bool, Gone> {
        if self.broken && self.busy == Busy::No && Instant::now() >= self.next_renewal {
            self.order(Order::Renew, Busy::Renewing)?;
        }
        Ok(!self.broken && self.busy == Busy::No)
    }

    /// Begins a flush.
    ///
    /// # Errors
    /// [`Gone`].
    ///
    /// # Panics
    /// It was not [`Flusher::ready`].
    pub fn flush(&mut self, job: Job) -> Result<(), Gone> {
        assert!(!self.broken && self.busy == Busy::No, "a flush before the one before has ended");
        self.order(Order::Flush(job), Busy::Flushing)
    }

    fn order(&mut self, order: Order, busy: Busy) -> Result<(), Gone> {
        self.orders.send(order).map_err(|_| Gone)?;
        self.busy = busy;
        Ok(())
    }

    /// The result of the last order; waits up to `wait` for it, and not at all if no order is under way. `None`: it is
    /// still running.
    ///
    /// # Errors
    /// [`Gone`].
    pub fn done(&mut self, wait: Duration) -> Result<Option<Done>, Gone> {
        if self.busy == Busy::No {
            return Ok(None);
        }
        let done = match self.done.recv_timeout(wait) {
            Ok(done) => done,
            Err(RecvTimeoutError::Timeout) => return Ok(None),
            Err(RecvTimeoutError::Disconnected) => return Err(Gone),
        };
        self.busy = Busy::No;
        match &done {
            Done::Flushed(flushed) => self.broken |= flushed.new_producer,
            Done::Remade(_) => {}
            Done::Renewed(Ok(())) => self.broken = false,
            Done::Renewed(Err(_)) => self.next_renewal = Instant::now() + RETRY_PRODUCER,
        }
        Ok(Some(done))
    }
}

/// The thread's end.
struct Body {
    log: LedgerLog,
    reader: Arc<BaseConsumer>,
    topics: Topics,
    check: IdCheck,
}

impl Body {
    fn run(&mut self, orders: &Receiver<Order>, answers: &Sender<Done>) {
        loop {
            let done = match orders.recv_timeout(SERVE_INTERVAL) {
                Ok(Order::Flush(job)) => self.flush(job),
                Ok(Order::Renew) => Done::Renewed(self.renew()),
                Err(RecvTimeoutError::Timeout) => {
                    self.log.serve();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if answers.send(done).is_err() {
                return;
            }
        }
    }

    fn renew(&mut self) -> Result<(), FlushError> {
        self.log.renew().map_err(|error| {
            let mut why = flush_error(&error);
            why.text = format!("cannot make a new producer yet: {}", why.text);
            self.explained(why)
        })
    }

    fn flush(&mut self, job: Job) -> Done {
        let Job { flushes, membership, ids, begin } = job;
        if let Some(why) = self.check.remade(&ids, &self.reader, &self.topics) {
            return Done::Remade(why);
        }
        let result = self.log.write(&flushes, &membership);
        let took = begin.elapsed();
        let aftermath = after_transaction(result.end, result.retried, result.took);
        let adapted = result.refused.as_ref().is_some_and(|refused| self.log.adapt(refused));
        let grown = self.log.ask_again();
        let error = result.error.filter(|_| !aftermath.committed).map(|error| self.explained(error));
        let (end, fence, new_producer) = (result.end, result.fence, aftermath.new_producer || adapted || grown);
        Done::Flushed(Box::new(Flushed { flushes, begin, took, end, aftermath, error, fence, new_producer }))
    }

    /// A deleted topic shows up as a timeout: the brokers are asked which topic it is.
    fn explained(&self, error: FlushError) -> FlushError {
        if !matches!(error.reason, FlushFailure::Timeout | FlushFailure::Other) {
            return error;
        }
        let topics = [&*self.topics.ledger, &*self.topics.dead_letters, &*self.topics.alerts, &*self.topics.source];
        let Ok(found) = batch::describe_topics(&self.reader, &topics, ANSWER) else { return error };
        match found.iter().position(Option::is_none) {
            Some(gone) => FlushError {
                reason: FlushFailure::TopicMissing,
                topic: Some(topics[gone].to_owned()),
                text: format!("the topic does not exist ({})", error.text),
            },
            None => error,
        }
    }
}
