//! What is still to be sent to a webhook, and when. Decisions only: the time is passed in, and there is no I/O.
//!
//! - Of one alert (one fingerprint) only the newest state is sent. A state that waits is *superseded* by the next one;
//!   a receiver that was down for an hour gets the current state, not the whole history.
//! - A failed alert is retried on its own schedule while the others go on, so that one message that a receiver cannot
//!   handle does not block the rest. Its pauses double up to a minute, with jitter. As soon as anything is delivered,
//!   the receiver is considered up again, and all alerts are due.
//! - `Retry-After` applies to the receiver: nothing is sent before it.
//! - An alert that fails is given up if it was written longer ago than `give_up_after`.
//! - The offset that may be committed is the first one not done: after a crash everything from there on is sent again,
//!   with the same ids.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use chrono::{DateTime, Utc};

use super::alert::Alert;

/// Maximum number of alerts that wait for one receiver; the topic keeps the others.
pub const MAX_WAITING: usize = 5_000;
/// The first pause after a failure, and the longest (before jitter, which at most doubles it).
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The longest `Retry-After` that is honoured.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3_600);

/// The pauses between the attempts for one alert, unlimited in number.
pub fn pauses() -> ExponentialBuilder {
    ExponentialBuilder::new()
        .with_min_delay(FIRST_PAUSE)
        .with_max_delay(LONGEST_PAUSE)
        .with_factor(2.0)
        .with_jitter()
        .without_max_times()
}

/// Identifies a waiting alert.
pub type Ticket = u64;

#[derive(Debug)]
struct Waiting {
    partition: i32,
    offset: i64,
    alert: Arc<Alert>,
    due: Instant,
    pauses: ExponentialBackoff,
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Send this to the receiver.
    Send(Ticket, Arc<Alert>),
    /// Nothing before this instant.
    Wait(Instant),
    /// Nothing, until the topic has something new.
    Idle,
}

/// The result for an alert that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failed {
    /// It will be tried again.
    Again,
    /// It is given up because of its age.
    GivenUp,
    /// A newer state had replaced it meanwhile.
    Superseded,
}

/// The alerts that wait for one receiver.
#[derive(Debug)]
pub struct Queue {
    give_up_after: Duration,
    waiting: BTreeMap<Ticket, Waiting>,
    newest: HashMap<String, Ticket>,
    /// The next offset to be read, and whether the end was seen, of each partition that is ours.
    positions: BTreeMap<i32, (i64, bool)>,
    next_ticket: Ticket,
    /// What [`next`](Self::next) said to send, until its result is reported.
    in_flight: Option<Ticket>,
    /// The receiver asked for no requests until then.
    not_before: Option<Instant>,
}

impl Queue {
    /// An empty queue without partitions.
    pub fn new(give_up_after: Duration) -> Self {
        Self {
            give_up_after,
            waiting: BTreeMap::new(),
            newest: HashMap::new(),
            positions: BTreeMap::new(),
            next_ticket: 0,
            in_flight: None,
            not_before: None,
        }
    }

    /// All partitions were revoked: another instance sends what waits.
    pub fn revoke(&mut self) {
        self.waiting.clear();
        self.newest.clear();
        self.positions.clear();
    }

    /// A record was read: an alert to be sent, or one that only replaces an older state (`tell` false), or no alert.
    /// Returns the alert that will no longer be sent, unless it is in flight; see [`Failed::Superseded`].
    pub fn read(
        &mut self,
        partition: i32,
        offset: i64,
        alert: Option<Arc<Alert>>,
        tell: bool,
        now: Instant,
    ) -> Option<Arc<Alert>> {
        self.positions.get_mut(&partition)?.0 = offset + 1;
        let alert = alert?;
        let older = self.newest.remove(&alert.data.fingerprint);
        let superseded = older.and_then(|ticket| self.waiting.remove(&ticket)).map(|older| older.alert);
        if tell {
            let ticket = self.next_ticket;
            self.next_ticket += 1;
            self.newest.insert(alert.data.fingerprint.clone(), ticket);
            self.waiting.insert(ticket, Waiting { partition, offset, alert, due: now, pauses: pauses().build() });
        }
        superseded.filter(|_| older != self.in_flight)
    }

    /// These partitions are ours from now on. Nothing is sent before each was read to its end, or the queue is full: of
    /// changes during an outage only the final state is sent.
    pub fn assign(&mut self, partitions: impl Iterator<Item = i32>) {
        self.revoke();
        self.positions = partitions.map(|partition| (partition, (-1, false))).collect();
    }

    /// The end of a partition was seen.
    pub fn reached_end(&mut self, partition: i32) {
        if let Some((_, ended)) = self.positions.get_mut(&partition) {
            *ended = true;
        }
    }

    /// No more alerts should be read.
    pub fn is_full(&self) -> bool {
        self.waiting.len() >= MAX_WAITING
    }

    /// Alerts that wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// What to do now.
    pub fn next(&mut self, now: Instant) -> Next {
        let caught_up = self.positions.values().all(|(_, ended)| *ended);
        let first = self.waiting.iter().min_by_key(|(ticket, waiting)| (waiting.due, **ticket));
        let Some((ticket, first)) = first.filter(|_| caught_up || self.is_full()) else { return Next::Idle };
        let due = self.not_before.map_or(first.due, |not_before| not_before.max(first.due));
        if due > now {
            return Next::Wait(due);
        }
        self.in_flight = Some(*ticket);
        Next::Send(*ticket, first.alert.clone())
    }

    /// The receiver has it, or has permanently refused it (`delivered` false): it will not be sent again.
    pub fn done(&mut self, ticket: Ticket, delivered: bool, now: Instant) {
        self.in_flight = None;
        if let Some(done) = self.waiting.remove(&ticket) {
            self.newest.remove(&done.alert.data.fingerprint);
        }
        if delivered {
            self.not_before = None;
            self.waiting.values_mut().for_each(|waiting| waiting.due = waiting.due.min(now));
        }
    }

    /// An attempt failed.
    pub fn failed(
        &mut self,
        ticket: Ticket,
        retry_after: Option<Duration>,
        now: Instant,
        clock: DateTime<Utc>,
    ) -> Failed {
        self.in_flight = None;
        self.not_before = retry_after.map(|pause| now + pause.min(LONGEST_RETRY_AFTER));
        let Some(waiting) = self.waiting.get_mut(&ticket) else { return Failed::Superseded };
        let age = (clock - waiting.alert.time).to_std().unwrap_or_default();
        if age > self.give_up_after {
            self.done(ticket, false, now);
            return Failed::GivenUp;
        }
        waiting.due = now + waiting.pauses.next().unwrap_or(LONGEST_PAUSE);
        Failed::Again
    }

    /// For each partition the offset up to which everything is done; empty before anything was read.
    pub fn committable(&self) -> Vec<(i32, i64)> {
        let mut offsets: BTreeMap<i32, i64> =
            self.positions.iter().map(|(partition, (offset, _))| (*partition, *offset)).collect();
        for waiting in self.waiting.values() {
            if let Some(offset) = offsets.get_mut(&waiting.partition) {
                *offset = waiting.offset.min(*offset);
            }
        }
        offsets.into_iter().filter(|(_, offset)| *offset >= 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notify::alert::tests::alert;

    const DAY: Duration = Duration::from_secs(86_400);

    fn state(fingerprint: &str, id: &str) -> Arc<Alert> {
        Arc::new(alert("firing", |event| {
            event["id"] = id.into();
            event["data"]["fingerprint"] = fingerprint.into();
        }))
    }

    /// A queue of one partition that was read to its end: alerts at offsets 0, 1, ...
    fn queue(states: &[(&str, &str)], now: Instant) -> Queue {
        let mut queue = Queue::new(DAY);
        queue.assign([0].into_iter());
        for (offset, (fingerprint, id)) in states.iter().enumerate() {
            queue.read(0, offset as i64, Some(state(fingerprint, id)), true, now);
        }
        queue.reached_end(0);
        queue
    }

    #[track_caller]
    fn sends(queue: &mut Queue, id: &str, now: Instant) -> Ticket {
        match queue.next(now) {
            Next::Send(ticket, alert) if alert.id == id => ticket,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn in_order_and_the_offset_follows() {
        let now = Instant::now();
        let mut queue = queue(&[("f", "a"), ("g", "b")], now);
        assert_eq!(queue.committable(), [(0, 0)]);
        let first = sends(&mut queue, "a", now);
        queue.done(first, true, now);
        assert_eq!(queue.committable(), [(0, 1)]);
        let second = sends(&mut queue, "b", now);
        queue.done(second, false, now);
        assert_eq!((queue.committable(), queue.next(now)), (vec![(0, 2)], Next::Idle));
    }

    #[test]
    fn only_the_newest_state_of_an_alert_is_told() {
        let now = Instant::now();
        let mut queue = queue(&[("f", "a"), ("g", "b")], now);
        let in_flight = sends(&mut queue, "a", now);
        // The request in flight is not affected.
        assert_eq!(queue.read(0, 2, Some(state("f", "c")), true, now), None);
        assert_eq!(queue.failed(in_flight, None, now, Utc::now()), Failed::Superseded);
        assert_eq!(queue.committable(), [(0, 1)]);
        let second = sends(&mut queue, "b", now);
        queue.done(second, true, now);
        // One that is not for this receiver still replaces what waits.
        let ticket = sends(&mut queue, "c", now);
        queue.failed(ticket, None, now, state("", "").time);
        let older = queue.read(0, 3, Some(state("f", "d")), false, now);
        assert_eq!(older.map(|alert| alert.id.clone()).as_deref(), Some("c"));
        assert_eq!((queue.next(now), queue.committable()), (Next::Idle, vec![(0, 4)]));
    }

    #[test]
    fn nothing_is_sent_before_the_end_was_seen() {
        let now = Instant::now();
        let mut queue = Queue::new(DAY);
        queue.assign([0, 1].into_iter());
        assert_eq!(queue.committable(), []);
        queue.read(0, 7, Some(state("f", "a")), true, now);
        queue.reached_end(0);
        assert_eq!(queue.next(now), Next::Idle);
        queue.reached_end(1);
        sends(&mut queue, "a", now);
        assert_eq!(queue.committable(), [(0, 7)]);
        queue.revoke();
        assert_eq!((queue.next(now), queue.committable()), (Next::Idle, vec![]));
    }

    #[test]
    fn a_full_queue_sends_without_having_seen_the_end() {
        let now = Instant::now();
        let mut queue = Queue::new(DAY);
        queue.assign([0].into_iter());
        for offset in 0..MAX_WAITING as i64 {
            assert_eq!((queue.is_full(), queue.next(now)), (false, Next::Idle));
            queue.read(0, offset, Some(state(&offset.to_string(), "a")), true, now);
        }
        assert!(queue.is_full());
        sends(&mut queue, "a", now);
    }

    #[test]
    fn one_that_fails_holds_up_nobody_and_all_are_due_when_the_receiver_is_back() {
        let (now, clock) = (Instant::now(), state("", "").time);
        let mut queue = queue(&[("f", "a"), ("g", "b"), ("h", "c")], now);
        for id in ["a", "b"] {
            let ticket = sends(&mut queue, id, now);
            assert_eq!(queue.failed(ticket, None, now, clock), Failed::Again);
        }
        let ticket = sends(&mut queue, "c", now);
        assert_eq!(queue.committable(), [(0, 0)]);
        queue.done(ticket, true, now);
        sends(&mut queue, "a", now);
    }

    #[test]
    fn pauses_double_up_to_a_minute() {
        let (start, clock) = (Instant::now(), state("", "").time);
        let mut queue = queue(&[("f", "a")], start);
        let mut now = start;
        let mut expected = FIRST_PAUSE;
        for _ in 0..20 {
            let ticket = sends(&mut queue, "a", now);
            queue.failed(ticket, None, now, clock);
            let Next::Wait(due) = queue.next(now) else { panic!("no pause") };
            let pause = due - now;
            assert!((expected..=expected * 2).contains(&pause), "{pause:?} is not {expected:?} with jitter");
            expected = (expected * 2).min(LONGEST_PAUSE);
            now = due;
        }
    }

    #[test]
    fn retry_after_is_for_everything() {
        let (now, clock) = (Instant::now(), state("", "").time);
        let mut queue = queue(&[("f", "a"), ("g", "b")], now);
        let ticket = sends(&mut queue, "a", now);
        queue.failed(ticket, Some(Duration::from_secs(90)), now, clock);
        assert_eq!(queue.next(now), Next::Wait(now + Duration::from_secs(90)));
        let later = now + Duration::from_secs(90);
        sends(&mut queue, "b", later);
        // A `Retry-After` of a year is not honoured.
        let ticket = sends(&mut queue, "b", later);
        queue.failed(ticket, Some(365 * DAY), later, clock);
        assert_eq!(queue.next(later), Next::Wait(later + LONGEST_RETRY_AFTER));
    }

    #[test]
    fn an_old_one_gets_one_attempt() {
        let (now, written) = (Instant::now(), state("", "").time);
        let mut queue = queue(&[("f", "a")], now);
        let ticket = sends(&mut queue, "a", now);
        assert_eq!(queue.failed(ticket, None, now, written + DAY), Failed::Again);
        let clock = written + DAY + Duration::from_secs(1);
        assert_eq!(queue.failed(ticket, None, now, clock), Failed::GivenUp);
        assert_eq!((queue.next(now), queue.committable()), (Next::Idle, vec![(0, 1)]));
    }
}
