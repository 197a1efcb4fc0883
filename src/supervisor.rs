//! Notifies the service manager that started the process: systemd's notification protocol (`Type=notify`).
//!
//! Without `NOTIFY_SOCKET` in the environment nothing is sent, at no cost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;

use crate::health::{Beating, Health, NotReady};
use crate::visible::visible;

/// How often the worker and the tail are checked, unless the watchdog requires it more often.
const LOOK: Duration = Duration::from_secs(1);
/// A start may take this much longer than the last sign of life of its threads. More than the longest wait of the worker for
/// one answer of the brokers.
const START_EXTENSION_US: u32 = 60_000_000;

/// Notifies the service manager.
///
/// *Ready* is sent once, when the group was joined and the ledger is loaded: from then on calls are counted, and a
/// rolling restart may go on to the next host. Unlike `/readyz` it does not wait for the lag: on a first start with
/// months of calls to read, the service is long at work before it has caught up. Until it is ready the start timeout is
/// extended while worker and tail are alive.
#[derive(Debug)]
pub struct Supervisor {
    health: Arc<Health>,
    ready: AtomicBool,
}

impl Supervisor {
    /// Reports the state of `health`.
    pub fn new(health: Arc<Health>) -> Self {
        Self { health, ready: AtomicBool::new(false) }
    }

    /// Reports when the service is ready, its status, and that worker and tail are alive, as long as both are. Ends
    /// with the runtime, or at once without a service manager.
    pub async fn watch(&self) {
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            return;
        }
        let watchdog = sd_notify::watchdog_enabled();
        let mut said = Said::default();
        let mut looks = tokio::time::interval(watchdog.map_or(LOOK, |limit| LOOK.min(limit / 4)));
        loop {
            looks.tick().await;
            let news = said.next(&self.health.not_ready_reasons(), self.health.rounds(), watchdog.is_some());
            if !news.is_empty() {
                tell(&news);
            }
            self.ready.store(said.ready, Ordering::Relaxed);
        }
    }

    /// Runs a reload between its announcement and its end. A start is over only when [`Supervisor::watch`] reports it,
    /// so a reload before that is not announced.
    pub fn reload<T>(&self, reload: impl FnOnce() -> T) -> T {
        let announced = self.ready.load(Ordering::Relaxed);
        if announced && let Ok(now) = NotifyState::monotonic_usec_now() {
            tell(&[NotifyState::Reloading, now]);
        }
        let result = reload();
        if announced {
            tell(&[NotifyState::Ready]);
        }
        result
    }

    /// Reports that the service is stopping.
    pub fn stopping(&self) {
        tell(&[NotifyState::Stopping]);
    }
}

/// What was sent so far.
#[derive(Debug, Default)]
struct Said {
    ready: bool,
    status: String,
    rounds: [u64; Beating::ALL.len()],
}

impl Said {
    /// What to send now. No watchdog signal if a thread made no loop iteration since the last check.
    fn next(&mut self, reasons: &[NotReady], rounds: [u64; 2], watchdog: bool) -> Vec<NotifyState<'_>> {
        let mut news = Vec::new();
        let before = std::mem::replace(&mut self.rounds, rounds);
        let alive = before.iter().zip(rounds).all(|(before, now)| *before != now);
        // Started means ready, apart from lag and from faults that need an operator.
        let started = |reason: &NotReady| matches!(reason, NotReady::Lagging { .. } | NotReady::Fault { .. });
        if !self.ready && reasons.iter().all(started) {
            self.ready = true;
            news.push(NotifyState::Ready);
        }
        if alive && !self.ready {
            news.push(NotifyState::ExtendTimeoutUsec(START_EXTENSION_US));
        }
        if alive && watchdog {
            news.push(NotifyState::Watchdog);
        }
        let status = match reasons {
            [] => "ready".to_owned(),
            reasons => reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
        };
        // A separate line would be a protocol command.
        let status = visible(&status).into_owned();
        if status != self.status {
            self.status = status;
            news.push(NotifyState::Status(&self.status));
        }
        news
    }
}

/// Counting goes on if the manager does not listen.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "cannot notify the service manager");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lagging(seconds: u64) -> NotReady {
        NotReady::Lagging { lag: Duration::from_secs(seconds), limit: Duration::from_secs(120) }
    }

    #[test]
    fn what_is_said_at_each_look() {
        let mut said = Said::default();
        let mut look = |reasons: &[NotReady], rounds| -> String {
            said.next(reasons, rounds, true).iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        let extended = "EXTEND_TIMEOUT_USEC=60000000";
        let joining = "STATUS=no assignment from the consumer group yet; the ledger is still being read";
        for (reasons, rounds, expected) in [
            (&[NotReady::NotJoined, NotReady::LedgerLoading][..], [0, 0], joining),
            (&[NotReady::NotJoined, NotReady::LedgerLoading], [7, 1], &format!("{extended} WATCHDOG=1")),
            (&[NotReady::NotJoined, NotReady::LedgerLoading], [7, 1], ""),
            (
                &[NotReady::LedgerLoading],
                [9, 2],
                &format!("{extended} WATCHDOG=1 STATUS=the ledger is still being read"),
            ),
            (
                &[lagging(3600)],
                [12, 3],
                "READY=1 WATCHDOG=1 STATUS=the ledger is 3600.0 s behind the source, more than 120 s",
            ),
            (&[], [14, 4], "WATCHDOG=1 STATUS=ready"),
            // One of the two is stuck.
            (&[], [14, 5], ""),
            (&[], [15, 5], ""),
            (&[NotReady::NotJoined], [16, 6], "WATCHDOG=1 STATUS=no assignment from the consumer group yet"),
            (&[], [16, 6], "STATUS=ready"),
        ] {
            assert_eq!(look(reasons, rounds), expected, "{reasons:?} {rounds:?}");
        }
    }

    #[test]
    fn without_a_watchdog_nobody_is_vouched_for() {
        assert_eq!(Said::default().next(&[], [5, 5], false).len(), 2, "ready and its status");
    }
}
