//! Is the service ready? The worker and the tail report their state, and `/readyz` answers from it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A thread without a loop iteration for this long makes the service not ready. Longer than one answer of the brokers
/// may take, much shorter than the watchdog's timeout.
const STALLED_AFTER: Duration = Duration::from_secs(15);

/// The state reported by the worker and the tail. Ready means: joined the group, read the ledger, lag under the limit,
/// both threads alive, no fault, and not shutting down. A member without partitions is a standby and as ready as any.
#[derive(Debug)]
pub struct Health {
    joined: AtomicBool,
    ledger_loaded: AtomicBool,
    draining: AtomicBool,
    began: Instant,
    rounds: [Rounds; Beating::ALL.len()],
    lag_ms: AtomicU64,
    max_lag_ms: AtomicU64,
    faults: Mutex<BTreeMap<FaultKind, String>>,
}

/// A kind of fault that keeps calls from being counted and needs an operator. Each kind has one detail at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// No broker can be reached since the start.
    KafkaUnreachable,
    /// Something waits for the ledger, and no transaction has committed for too long.
    NotCommitting,
    /// Shards of this instance are not counted.
    ShardsStopped,
    /// Shards of this instance wait behind a record from the future.
    ShardsHeld,
    /// The calls topic was deleted or recreated, or has partitions that are not counted.
    CallsTopic,
    /// The ledger topic was deleted or recreated, or has too few partitions.
    LedgerTopic,
    /// The calls topic accepts timestamps from the future.
    Timestamps,
}

impl FaultKind {
    /// Its name in `/readyz`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::KafkaUnreachable => "kafka_unreachable",
            Self::NotCommitting => "not_committing",
            Self::ShardsStopped => "shards_stopped",
            Self::ShardsHeld => "shards_held",
            Self::CallsTopic => "calls_topic",
            Self::LedgerTopic => "ledger_topic",
            Self::Timestamps => "timestamps",
        }
    }
}

/// A thread without which nothing is counted, or nothing is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beating {
    /// Counts and flushes.
    Worker,
    /// Reads the ledger and publishes it.
    Tail,
}

impl Beating {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::Worker, Self::Tail];
}

impl fmt::Display for Beating {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Worker => "worker",
            Self::Tail => "tail",
        })
    }
}

/// The loop iterations of a thread so far, and when the last one began, in ms since this value was created.
#[derive(Debug, Default)]
struct Rounds {
    made: AtomicU64,
    last_ms: AtomicU64,
}

/// A reason for which the service is not ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotReady {
    /// No assignment from the consumer group yet.
    NotJoined,
    /// The ledger is still being read, or the shards are still being taken over.
    LedgerLoading,
    /// The ledger is too far behind the source.
    Lagging {
        /// Age of the oldest record that is not in the ledger.
        lag: Duration,
        /// The highest lag that counts as ready.
        limit: Duration,
    },
    /// A thread is stuck in a call that does not return.
    Stalled {
        /// The thread.
        thread: Beating,
        /// Time since its last loop iteration, in whole seconds.
        since: Duration,
    },
    /// A fault that needs an operator.
    Fault {
        /// The kind.
        kind: FaultKind,
        /// What, where, and what to do.
        detail: String,
    },
    /// The service is ending.
    Draining,
}

impl Health {
    /// Not joined, nothing loaded; ready needs a lag of at most `max_lag`.
    pub fn new(max_lag: Duration) -> Self {
        Self {
            joined: AtomicBool::new(false),
            ledger_loaded: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            began: Instant::now(),
            rounds: Default::default(),
            lag_ms: AtomicU64::new(0),
            max_lag_ms: AtomicU64::new(millis(max_lag)),
            faults: Mutex::default(),
        }
    }

    /// Sets or clears the fault of this kind.
    pub fn set_fault(&self, kind: FaultKind, detail: Option<String>) {
        match detail {
            Some(detail) => _ = self.faults().insert(kind, detail),
            None => _ = self.faults().remove(&kind),
        }
    }

    fn faults(&self) -> MutexGuard<'_, BTreeMap<FaultKind, String>> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The consumer group gave an assignment (possibly empty), or revoked it.
    pub fn set_joined(&self, joined: bool) {
        self.joined.store(joined, Ordering::Relaxed);
    }

    /// Whether the whole ledger was read and every assigned shard taken over.
    pub fn set_ledger_loaded(&self, loaded: bool) {
        self.ledger_loaded.store(loaded, Ordering::Relaxed);
    }

    /// The greatest lag of the owned partitions: the age of the oldest record not in the ledger; zero without any.
    pub fn set_lag(&self, lag: Duration) {
        self.lag_ms.store(millis(lag), Ordering::Relaxed);
    }

    /// Changes the highest lag that counts as ready.
    pub fn set_max_lag(&self, max_lag: Duration) {
        self.max_lag_ms.store(millis(max_lag), Ordering::Relaxed);
    }

    /// The service is ending; it will not be ready again.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// The thread begins a loop iteration: a liveness signal.
    pub fn count_round(&self, thread: Beating) {
        let rounds = &self.rounds[thread as usize];
        rounds.last_ms.store(millis(self.began.elapsed()), Ordering::Relaxed);
        rounds.made.fetch_add(1, Ordering::Relaxed);
    }

    /// The threads' rounds so far, in the order of [`Beating::ALL`]. A hung thread makes no more of them.
    pub fn rounds(&self) -> [u64; Beating::ALL.len()] {
        Beating::ALL.map(|thread| self.rounds[thread as usize].made.load(Ordering::Relaxed))
    }

    /// The threads that are stuck at this instant. A thread that has not started is not included: what it has not done
    /// yet is another reason.
    fn stalled(&self, now_ms: u64) -> impl Iterator<Item = NotReady> {
        Beating::ALL.into_iter().filter_map(move |thread| {
            let rounds = &self.rounds[thread as usize];
            let since = Duration::from_millis(now_ms.saturating_sub(rounds.last_ms.load(Ordering::Relaxed)));
            let stalled = rounds.made.load(Ordering::Relaxed) > 0 && since > STALLED_AFTER;
            stalled.then(|| NotReady::Stalled { thread, since: Duration::from_secs(since.as_secs()) })
        })
    }

    /// The reasons why the service is not ready; empty if it is.
    pub fn not_ready_reasons(&self) -> Vec<NotReady> {
        let lag = Duration::from_millis(self.lag_ms.load(Ordering::Relaxed));
        let limit = Duration::from_millis(self.max_lag_ms.load(Ordering::Relaxed));
        let reasons = [
            (self.draining.load(Ordering::Relaxed), NotReady::Draining),
            (!self.joined.load(Ordering::Relaxed), NotReady::NotJoined),
            (!self.ledger_loaded.load(Ordering::Relaxed), NotReady::LedgerLoading),
            (lag > limit, NotReady::Lagging { lag, limit }),
        ];
        let reasons = reasons.into_iter().filter_map(|(holds, reason)| holds.then_some(reason));
        let stalled = self.stalled(millis(self.began.elapsed()));
        let faults = self.faults();
        let faults = faults.iter().map(|(kind, detail)| NotReady::Fault { kind: *kind, detail: detail.clone() });
        reasons.chain(stalled).chain(faults).collect()
    }

    /// Is it ready?
    pub fn is_ready(&self) -> bool {
        self.not_ready_reasons().is_empty()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl NotReady {
    /// The reason's name.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::NotJoined => "not_joined",
            Self::LedgerLoading => "ledger_loading",
            Self::Lagging { .. } => "lagging",
            Self::Stalled { .. } => "stalled",
            Self::Fault { kind, .. } => kind.as_str(),
            Self::Draining => "draining",
        }
    }
}

impl fmt::Display for NotReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotJoined => f.write_str("no assignment from the consumer group yet"),
            Self::LedgerLoading => f.write_str("the ledger is still being read"),
            Self::Lagging { lag, .. } if millis(*lag) == u64::MAX => f.write_str(
                "how far the ledger is behind is unknown: the brokers have not said where the calls topic ends",
            ),
            Self::Fault { detail, .. } => f.write_str(detail),
            Self::Lagging { lag, limit } => {
                write!(
                    f,
                    "the ledger is {:.1} s behind the source, more than {} s",
                    lag.as_secs_f64(),
                    limit.as_secs_f64()
                )
            }
            Self::Stalled { thread, since } => {
                write!(f, "the {thread} thread has made no round for {} s", since.as_secs())
            }
            Self::Draining => f.write_str("the service is ending"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_once_joined_loaded_and_close_behind() {
        let health = Health::new(Duration::from_secs(30));
        let names = |health: &Health| health.not_ready_reasons().into_iter().map(|r| r.as_str()).collect::<Vec<_>>();
        assert_eq!(names(&health), ["not_joined", "ledger_loading"]);
        health.set_joined(true);
        assert_eq!(names(&health), ["ledger_loading"]);
        health.set_ledger_loaded(true);
        assert!(health.is_ready());
        health.set_lag(Duration::from_millis(30_500));
        assert_eq!(health.not_ready_reasons()[0].to_string(), "the ledger is 30.5 s behind the source, more than 30 s");
        health.set_lag(Duration::MAX);
        assert!(health.not_ready_reasons()[0].to_string().starts_with("how far the ledger is behind is unknown"));
        health.set_lag(Duration::from_secs(30));
        assert!(health.is_ready());
        health.set_fault(FaultKind::CallsTopic, Some("gone".into()));
        health.set_fault(FaultKind::NotCommitting, Some("nothing was committed for 31 s".into()));
        assert_eq!(names(&health), ["not_committing", "calls_topic"]);
        assert_eq!(health.not_ready_reasons()[0].to_string(), "nothing was committed for 31 s");
        health.set_fault(FaultKind::NotCommitting, None);
        health.set_fault(FaultKind::CallsTopic, None);
        assert!(health.is_ready());
        health.set_draining();
        assert_eq!(names(&health), ["draining"]);
    }

    #[test]
    fn a_thread_that_makes_no_round_is_named() {
        let health = Health::new(Duration::from_secs(30));
        let at = |s: u64| health.stalled(s * 1000).map(|reason| reason.to_string()).collect::<Vec<_>>();
        // Neither has started.
        assert_eq!(at(3600), [""; 0]);
        health.count_round(Beating::Tail);
        assert_eq!(at(15), [""; 0]);
        assert_eq!(at(17), ["the tail thread has made no round for 17 s"]);
        health.count_round(Beating::Worker);
        assert_eq!(at(16).len(), 2);
        assert_eq!(health.rounds(), [1, 1]);
    }
}
