//! Do flushes that are due commit? If not for half a minute, the service is not ready, however well it reads and
//! counts: what is not in the ledger is not visible.

use std::time::{Duration, Instant};

use crate::pipeline::protocol::FlushFailure;

/// How long something may wait to be committed before the service is no longer ready.
pub const STALLED_AFTER: Duration = Duration::from_secs(30);
/// How often the log repeats a failure that stays the same.
const REPEAT: Duration = Duration::from_secs(30);

/// Why a flush did not commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlushError {
    /// The kind of failure.
    pub reason: FlushFailure,
    /// The topic that refused, if known.
    pub topic: Option<String>,
    /// Kafka's message.
    pub text: String,
}

impl FlushError {
    /// What went wrong, where, and what to do.
    pub fn describe(&self) -> String {
        let topic = self.topic.as_deref().map_or_else(String::new, |topic| format!("topic `{topic}`: "));
        format!("{topic}{}; {}", self.text, self.advice())
    }

    fn advice(&self) -> String {
        let topic = self.topic.as_deref().unwrap_or("TOPIC");
        match self.reason {
            FlushFailure::MessageTooLarge => format!(
                "raise its limit: kafka-configs.sh --bootstrap-server BROKER --alter --entity-type topics --entity-name {topic} \
                 --add-config max.message.bytes={}",
                super::topics::MAX_MESSAGE_BYTES
            ),
            FlushFailure::TopicMissing => {
                "restore the topic, or restart to have a missing dead-letter or alerts topic created".into()
            }
            FlushFailure::NotAuthorized => {
                "allow this user to Write and Describe the topic, to Read the consumer group, and to Write its transactional id"
                    .into()
            }
            FlushFailure::NotEnoughReplicas => "bring the topic's replicas back in sync".into(),
            FlushFailure::Timeout => "see that the brokers answer".into(),
            FlushFailure::Fenced => "see that no two instances have the same `kafka.instance_id`".into(),
            FlushFailure::Other => "the log says more".into(),
        }
    }
}

/// Tracks flushes.
#[derive(Debug, Default)]
pub struct Progress {
    waiting_since: Option<Instant>,
    error: Option<FlushError>,
    /// A flush has failed, and no flush has committed since.
    failing: bool,
    logged: Option<Instant>,
}

impl Progress {
    /// Something is due to be committed.
    pub fn due(&mut self, now: Instant) {
        self.waiting_since.get_or_insert(now);
    }

    /// Everything is committed, or there is nothing to commit. Returns true if this ends a series of failures.
    pub fn settled(&mut self) -> bool {
        let failing = self.failing;
        *self = Self::default();
        failing
    }

    /// A flush has failed, and no flush has committed since: something that was read is not committed yet.
    pub fn is_failing(&self) -> bool {
        self.failing
    }

    /// A takeover cannot continue yet.
    pub fn takeover_waits(&mut self, error: FlushError) {
        if !self.failing {
            self.error = Some(error);
        }
    }

    /// A takeover is complete: what it waited for has arrived.
    pub fn taken_over(&mut self) {
        if !self.failing {
            self.settled();
        }
    }

    /// An attempt failed. True: it has not been logged lately.
    pub fn failed(&mut self, error: FlushError, now: Instant) -> bool {
        self.due(now);
        self.failing = true;
        let same = self.error.as_ref().is_some_and(|last| (last.reason, &last.topic) == (error.reason, &error.topic));
        let said = same && self.logged.is_some_and(|at| now.duration_since(at) < REPEAT);
        self.error = Some(error);
        if !said {
            self.logged = Some(now);
        }
        !said
    }

    /// For how long something has been waiting to be committed.
    pub fn overdue(&self, now: Instant) -> Duration {
        self.waiting_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// Why the service is not ready, once something has been waiting for too long.
    pub fn stalled(&self, now: Instant) -> Option<String> {
        let overdue = self.overdue(now);
        let last = match &self.error {
            Some(error) => format!("the last attempt failed: {}", error.describe()),
            None => "no attempt has ended: shards are being taken over, or the brokers do not answer".into(),
        };
        (overdue >= STALLED_AFTER)
            .then(|| format!("nothing was committed for {} s although calls wait; {last}", overdue.as_secs()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn too_large(topic: &str) -> FlushError {
        let text = "Broker: Message size too large".into();
        FlushError { reason: FlushFailure::MessageTooLarge, topic: Some(topic.into()), text }
    }

    #[test]
    fn half_a_minute_without_a_commit_is_a_standstill_only_while_something_waits() {
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let mut progress = Progress::default();
        assert_eq!(progress.stalled(at(1000)), None, "nothing waits");
        progress.due(at(1000));
        progress.due(at(1020));
        assert_eq!(progress.stalled(at(1029)), None);
        assert!(progress.stalled(at(1030)).expect("a standstill").starts_with("nothing was committed for 30 s"));
        assert!(progress.failed(too_large("ledger"), at(1031)));
        let said = progress.stalled(at(1031)).expect("a standstill");
        assert!(said.contains("topic `ledger`: Broker: Message size too large; raise its limit"), "{said}");
        assert!(said.ends_with("--entity-name ledger --add-config max.message.bytes=8388608"), "{said}");
        progress.takeover_waits(too_large("another"));
        progress.taken_over();
        assert_eq!(progress.stalled(at(1031)), Some(said), "a takeover in between is not a commit");
        assert!(progress.settled(), "failures have ended");
        assert_eq!((progress.stalled(at(1031)), progress.overdue(at(1031))), (None, Duration::ZERO));
        assert!(!progress.settled());
        progress.due(at(2000));
        progress.takeover_waits(too_large("ledger"));
        assert!(progress.stalled(at(2040)).is_some_and(|said| said.contains("topic `ledger`")));
        progress.taken_over();
        assert_eq!(progress.stalled(at(2040)), None);
    }

    #[test]
    fn the_log_says_a_failure_once_and_then_every_half_minute() {
        let start = Instant::now();
        let mut progress = Progress::default();
        let said: Vec<u64> =
            (0..95).filter(|s| progress.failed(too_large("a"), start + Duration::from_secs(*s))).collect();
        assert_eq!(said, [0, 30, 60, 90]);
        assert!(progress.failed(too_large("b"), start + Duration::from_secs(95)), "another topic is news");
    }
}
