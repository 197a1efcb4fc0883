//! Events at the wall clock: the month's past days first if requested, then at a fixed rate.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::encode::civil;
use super::plan::{Incident, Plan, PlanError, Shares};
use super::schedule::{DAY_MS, ZONE_OFFSET_MS};
use super::sink::{Sink, SinkError};
use super::{Event, Expected, Generator};

/// What to generate now.
#[derive(Debug, Clone)]
pub struct Live {
    /// Tenants, shares, seed. Its time is the past of the backfill, its events those of the backfill, its incidents
    /// count from the start of the live part.
    pub plan: Plan,
    /// Events per second of the backfill; `None` = at full speed.
    pub backfill_rate: Option<f64>,
    /// Events per second after it.
    pub rate: f64,
    /// Ends after this many live events; `None` = when stopped.
    pub events: Option<u64>,
}

/// Events on a day of [`Live::demo_past`].
const DEMO_DAY_EVENTS: u64 = 1_500;

/// Milliseconds since 1970-01-01T00:00:00Z.
pub fn wall_clock_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

impl Live {
    /// A plan for now: `backfill` events spread from the local month's start until `now_ms`, then `rate` a second.
    ///
    /// No event is exactly on a limit or more than an hour late, and no request id is reused after a restart.
    pub fn at(now_ms: i64, plan: Plan, backfill: u64, rate: f64) -> Self {
        let (_, _, date) = civil((now_ms + ZONE_OFFSET_MS).div_euclid(DAY_MS));
        let today = (now_ms + ZONE_OFFSET_MS).div_euclid(DAY_MS) * DAY_MS - ZONE_OFFSET_MS;
        let month_ms = today - (date as i64 - 1) * DAY_MS;
        let start_ms = month_ms.min(now_ms - 60_000);
        let plan = Plan {
            id_salt: now_ms.unsigned_abs(),
            events: backfill,
            start_ms,
            duration_ms: now_ms - start_ms,
            late_max_ms: 3_600_000,
            edges: false,
            ..plan
        };
        Self { plan, backfill_rate: None, rate, events: None }
    }

    /// What the demo shows: 200 tenants of which five are in trouble from the start, and one that runs through all
    /// levels and tiers within its first minutes.
    pub fn demo(now_ms: i64) -> Self {
        let plan = Plan {
            zipf: 0.8,
            random_incidents: 0,
            incidents: vec![Incident {
                tenant: Some("hooli".to_owned()),
                starts_after_ms: 10_000,
                lasts_ms: 120_000,
                share: 0.25,
            }],
            shares: Shares { system_errors: 0.000_02, ..Shares::default() },
            ..Plan::default()
        };
        // Slow enough for an embedded broker, which drops what is not read soon.
        Self { backfill_rate: Some(40_000.0), ..Self::at(now_ms, plan, 200_000, 1_000.0) }
    }

    /// The demo's traffic from `from_ms` (milliseconds since 1970-01-01T00:00:00Z) until the backfill begins: the same tenants
    /// in the same trouble, and this outage, which counts from `from_ms`.
    pub fn demo_past(&self, from_ms: i64, outage: Incident) -> Plan {
        let duration_ms = self.plan.start_ms - from_ms;
        Plan {
            id_salt: self.plan.id_salt.wrapping_add(1),
            events: (duration_ms / DAY_MS).unsigned_abs() * DEMO_DAY_EVENTS,
            start_ms: from_ms,
            duration_ms,
            incidents: vec![outage],
            ..self.plan.clone()
        }
    }
}

/// Why a live run ended early.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// The plan is not valid.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Events did not arrive.
    #[error(transparent)]
    Sink(#[from] SinkError),
}

/// The progress of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Events sent.
    pub sent: u64,
    /// The last one's arrival.
    pub arrival_ms: i64,
    /// Still in the past.
    pub backfill: bool,
}

/// Runs until `stop` is set or the events are sent, waits until all have arrived, and returns what a counter must find.
/// Meant for a thread of its own; `report` is called at least ten times a second.
///
/// # Errors
/// If the plan is not valid, or events did not arrive.
pub fn run(
    live: &Live,
    sink: &mut impl Sink,
    stop: impl Fn() -> bool,
    mut report: impl FnMut(Progress),
) -> Result<Expected, LiveError> {
    let mut plan = live.plan.clone();
    let incidents = std::mem::take(&mut plan.incidents);
    let mut generator = Generator::new(plan)?;
    send_all(&mut generator, live.backfill_rate, sink, &stop, |progress| {
        report(Progress { backfill: true, ..progress })
    })?;

    let start_ms = wall_clock_ms();
    for incident in &incidents {
        generator.add_incident(incident, start_ms)?;
    }
    generator.expect_rate(live.rate);
    let mut event = Event::default();
    let mut pace = Pace::new(Some(live.rate));
    let mut sent = 0;
    while !stop() && live.events.is_none_or(|events| sent < events) {
        let due = pace.due().min(live.events.map_or(u64::MAX, |events| events - sent));
        for _ in 0..due {
            generator.fill_at(wall_clock_ms(), &mut event);
            sink.send(&event)?;
        }
        sent += due;
        report(Progress { sent: generator.sent(), arrival_ms: event.arrival_ms, backfill: false });
        sink.idle();
        std::thread::sleep(TICK);
    }
    sink.finish()?;
    Ok(generator.expected())
}

/// Sends the rest of the generator's plan, at full speed or at a rate, until `stop` is set. Does not wait for the
/// arrival of what was sent.
///
/// # Errors
/// If the sink accepts no more.
pub fn send_all(
    generator: &mut Generator,
    rate: Option<f64>,
    sink: &mut impl Sink,
    stop: impl Fn() -> bool,
    mut report: impl FnMut(Progress),
) -> Result<(), SinkError> {
    let mut event = Event::default();
    let mut pace = Pace::new(rate);
    'sending: while !stop() {
        for _ in 0..pace.due() {
            if !generator.fill(&mut event) {
                break 'sending;
            }
            sink.send(&event)?;
        }
        report(Progress { sent: generator.sent(), arrival_ms: event.arrival_ms, backfill: false });
        if rate.is_some() {
            sink.idle();
            std::thread::sleep(TICK);
        }
    }
    report(Progress { sent: generator.sent(), arrival_ms: event.arrival_ms, backfill: false });
    Ok(())
}

/// How often a paced run checks the clock.
const TICK: Duration = Duration::from_millis(5);
/// Events between two checks of `stop` at full speed, and at most between two ticks.
const BATCH: u64 = 4_096;

/// Events due at a rate. After a slow sink, at most one second's worth of events is caught up.
struct Pace {
    rate: Option<f64>,
    since: Instant,
    /// Events due that are not sent yet; fractions are carried.
    owed: f64,
}

impl Pace {
    fn new(rate: Option<f64>) -> Self {
        Self { rate, since: Instant::now(), owed: 0.0 }
    }

    fn due(&mut self) -> u64 {
        let Some(rate) = self.rate else { return BATCH };
        let now = Instant::now();
        self.owed = (self.owed + now.duration_since(self.since).as_secs_f64() * rate).min(rate.max(1.0));
        self.since = now;
        let due = (self.owed as u64).min(BATCH);
        self.owed -= due as f64;
        due
    }
}
