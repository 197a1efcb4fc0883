//! Is the service ready? The worker says what it knows, `/readyz` answers from it.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// What the worker knows about its own state. Ready means: joined the group, read the ledger, lag under the limit, and
/// not on the way out. A member without partitions is a standby and as ready as any.
#[derive(Debug)]
pub struct Health {
    joined: AtomicBool,
    ledger_loaded: AtomicBool,
    draining: AtomicBool,
    rounds: AtomicU64,
    lag_ms: AtomicU64,
    max_lag_ms: AtomicU64,
}

/// A reason for which the service is not ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotReady {
    /// No assignment from the consumer group yet.
    NotJoined,
    /// The ledger is still being read, or the shards are still being taken over.
    LedgerLoading,
    /// The ledger is too far behind the source.
    Lagging {
        /// Age of the oldest record that is not in the ledger.
        lag: Duration,
        /// The most that is ready.
        limit: Duration,
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
            rounds: AtomicU64::new(0),
            lag_ms: AtomicU64::new(0),
            max_lag_ms: AtomicU64::new(millis(max_lag)),
        }
    }

    /// The consumer group gave an assignment (be it empty), or took it away.
    pub fn set_joined(&self, joined: bool) {
        self.joined.store(joined, Ordering::Relaxed);
    }

    /// The whole ledger was read and every shard of the assignment taken over, or is not any more.
    pub fn set_ledger_loaded(&self, loaded: bool) {
        self.ledger_loaded.store(loaded, Ordering::Relaxed);
    }

    /// The greatest lag of the owned partitions: the age of the oldest record not in the ledger; zero without any.
    pub fn set_lag(&self, lag: Duration) {
        self.lag_ms.store(millis(lag), Ordering::Relaxed);
    }

    /// Changes the greatest lag that is ready.
    pub fn set_max_lag(&self, max_lag: Duration) {
        self.max_lag_ms.store(millis(max_lag), Ordering::Relaxed);
    }

    /// The service is ending; it will not be ready again.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// The worker begins a round: a sign of life.
    pub fn count_round(&self) {
        self.rounds.fetch_add(1, Ordering::Relaxed);
    }

    /// The worker's rounds so far. A worker that hangs makes no more of them.
    pub fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Relaxed)
    }

    /// Everything that keeps the service from being ready; empty when it is.
    pub fn not_ready_reasons(&self) -> Vec<NotReady> {
        let lag = Duration::from_millis(self.lag_ms.load(Ordering::Relaxed));
        let limit = Duration::from_millis(self.max_lag_ms.load(Ordering::Relaxed));
        let reasons = [
            (self.draining.load(Ordering::Relaxed), NotReady::Draining),
            (!self.joined.load(Ordering::Relaxed), NotReady::NotJoined),
            (!self.ledger_loaded.load(Ordering::Relaxed), NotReady::LedgerLoading),
            (lag > limit, NotReady::Lagging { lag, limit }),
        ];
        reasons.into_iter().filter_map(|(holds, reason)| holds.then_some(reason)).collect()
    }

    /// Nothing keeps it from being ready.
    pub fn is_ready(&self) -> bool {
        self.not_ready_reasons().is_empty()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl NotReady {
    /// The reason's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotJoined => "not_joined",
            Self::LedgerLoading => "ledger_loading",
            Self::Lagging { .. } => "lagging",
            Self::Draining => "draining",
        }
    }
}

impl fmt::Display for NotReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotJoined => f.write_str("no assignment from the consumer group yet"),
            Self::LedgerLoading => f.write_str("the ledger is still being read"),
            Self::Lagging { lag, limit } => {
                write!(
                    f,
                    "the ledger is {:.1} s behind the source, more than {} s",
                    lag.as_secs_f64(),
                    limit.as_secs_f64()
                )
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
        let names = |health: &Health| health.not_ready_reasons().into_iter().map(NotReady::as_str).collect::<Vec<_>>();
        assert_eq!(names(&health), ["not_joined", "ledger_loading"]);
        health.set_joined(true);
        assert_eq!(names(&health), ["ledger_loading"]);
        health.set_ledger_loaded(true);
        assert!(health.is_ready());
        health.set_lag(Duration::from_millis(30_500));
        assert_eq!(health.not_ready_reasons()[0].to_string(), "the ledger is 30.5 s behind the source, more than 30 s");
        health.set_lag(Duration::from_secs(30));
        assert!(health.is_ready());
        health.set_draining();
        assert_eq!(names(&health), ["draining"]);
    }
}
