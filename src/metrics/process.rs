//! The process's own metrics, for operators. Counters start at 0 with the process.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram as Hdr;
use prometheus::core::Collector;
use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
};
use prometheus::{Opts, Registry, TextEncoder};

use super::exporter::ExportStats;
use super::format::{Format, write_families, write_header};
use super::names::{self, Metric};
use crate::build_info;
use crate::documents::DocumentFile;
use crate::domain::alert::{AlertName, Held, Status};
use crate::domain::call::Rejection;
use crate::pipeline::limits::LimitUse;
use crate::pipeline::parking::Discarded;
use crate::pipeline::protocol::{FlushFailure, TopicFault, TransactionEnd};
use crate::pipeline::record::Gap;
use crate::pipeline::shard::Outcome;
use crate::visible::visible_name;

/// Upper bounds of the flush histogram, in seconds: from an idle flush to Kafka's transaction timeout.
const FLUSH_BUCKETS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// The result for a parked shard that resumes.
const RESUMED: &str = "resumed";
/// Upper bounds of the standstill histogram, in seconds: from an idle snapshot to a wait for a whole transaction.
const STANDSTILL_BUCKETS: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 1.0, 10.0];

/// The metrics of the process. Shared by all its threads; every method is cheap and does not block for long.
#[derive(Debug)]
pub struct ProcessMetrics {
    registry: Registry,
    counted: IntCounter,
    duplicate: IntCounter,
    malformed: IntCounter,
    quarantined: IntCounter,
    duplicate_conflicts: IntCounter,
    dead_letters: [IntCounter; Rejection::ALL.len()],
    alerts: IntCounterVec,
    alerts_held: IntGaugeVec,
    alerts_foreign: IntGauge,
    registry_rejected: IntCounter,
    /// Limit and use, of tenants and of rows.
    limits: [[IntGauge; 2]; 3],
    new_tenants: IntCounter,
    lag_records: IntGaugeVec,
    lag_seconds: GaugeVec,
    flush_duration: Histogram,
    standstill: Histogram,
    flushes: IntCounterVec,
    unflushed: IntGaugeVec,
    reading_paused: IntGauge,
    flush_failures: [IntCounter; FlushFailure::ALL.len()],
    last_commit: Gauge,
    commit_overdue: Gauge,
    freshness: Mutex<Freshness>,
    ledger_bytes: IntGaugeVec,
    takeovers: IntCounter,
    parked_bytes: IntGauge,
    parked: IntCounterVec,
    fenced: IntCounter,
    mismatches: IntCounter,
    gaps: IntCounterVec,
    series: IntGauge,
    series_suppressed_plan: IntGauge,
    series_suppressed_limit: IntGauge,
    series_limit: IntGauge,
    tenants_exported: IntGauge,
    reload_successful: IntGauge,
    reload_timestamp: Gauge,
    ready: IntGauge,
    shards_owned: IntGauge,
    shards_stopped: IntGauge,
    shards_held: IntGauge,
    topic_faults: IntGaugeVec,
    offset_differs: IntCounter,
    split_tenants: IntGauge,
    rulings_rejected: IntGauge,
    documents: IntGaugeVec,
    notifications: IntCounterVec,
    notifications_pending: IntGaugeVec,
}

/// The result of an attempt to send an alert to a receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notification {
    /// The receiver has it.
    Delivered,
    /// The attempt failed; there will be another.
    Retried,
    /// The receiver does not want it.
    Rejected,
    /// It will not be sent: a newer state is known, or it was given up.
    Dropped,
}

impl Notification {
    const ALL: [Self; 4] = [Self::Delivered, Self::Retried, Self::Rejected, Self::Dropped];

    /// The label.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Retried => "retried",
            Self::Rejected => "rejected",
            Self::Dropped => "dropped",
        }
    }
}

/// The flushes of a process since its start.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FlushStats {
    /// Their transactions were committed …
    pub committed: u64,
    /// … aborted, and everything is flushed again …
    pub aborted: u64,
    /// … failed for good, so that a new producer was needed …
    pub fatal: u64,
    /// … or may have been committed: the ledger shows it.
    pub unknown: u64,
    /// Mean duration, in seconds; `None`: none has ended.
    pub mean_s: Option<f64>,
    /// 99 % took at most this long, in seconds: the bound of a histogram's bucket. `None`: none has ended, or more than
    /// 1 % took longer than the last bound.
    pub p99_below_s: Option<f64>,
}

/// The limits that [`ProcessMetrics::set_limits`] knows, in its order.
const LIMITS: [&str; 3] = ["tenants_per_month", "rows_per_tenant_month", "evidence_per_month"];

impl Default for ProcessMetrics {
    fn default() -> Self {
        Self::new()
    }
}

impl ProcessMetrics {
    /// All counters at 0, every closed label value present from the start.
    pub fn new() -> Self {
        let registry = Registry::new();
        let r = &registry;
        #[cfg(target_os = "linux")]
        made(r.register(Box::new(prometheus::process_collector::ProcessCollector::for_self())));
        let build = int_gauges(r, names::BUILD_INFO);
        build.with_label_values(&[build_info::VERSION, build_info::REVISION]).set(1);
        let records = counters(r, names::RECORDS);
        let [counted, duplicate, malformed, quarantined] =
            ["counted", "duplicate", "malformed", "quarantined"].map(|outcome| records.with_label_values(&[outcome]));
        let dead_letters = counters(r, names::DEAD_LETTERS);
        let limit_gauges = int_gauges(r, names::LIMIT);
        let used_gauges = int_gauges(r, names::LIMIT_USED);
        let flushes = counters(r, names::FLUSHES);
        for end in [TransactionEnd::Committed, TransactionEnd::Aborted, TransactionEnd::Fatal, TransactionEnd::Unknown]
        {
            flushes.with_label_values(&[result(end)]);
        }
        let parked = counters(r, names::PARKED);
        parked.with_label_values(&[RESUMED]);
        Discarded::ALL.iter().for_each(|why| _ = parked.with_label_values(&[why.as_str()]));
        let flush_failures = counters(r, names::FLUSH_FAILURES);
        let topic_faults = int_gauges(r, names::TOPIC_FAULTS);
        TopicFault::ALL.iter().for_each(|fault| _ = topic_faults.with_label_values(&[fault.as_str()]));
        let gaps = counters(r, names::GAPS);
        for kind in ["calls", "window"] {
            gaps.with_label_values(&[kind]);
        }
        let alerts = counters(r, names::ALERTS);
        let alerts_held = int_gauges(r, names::ALERTS_HELD);
        for alert in AlertName::ALL {
            Status::ALL.iter().for_each(|s| _ = alerts.with_label_values(&[alert.as_str(), s.as_str()]));
        }
        Held::ALL.iter().for_each(|held| _ = alerts_held.with_label_values(&[held.as_str()]));
        let suppressed = int_gauges(r, names::SERIES_SUPPRESSED);
        let histogram = |metric: Metric, buckets: &[f64]| {
            let options = HistogramOpts::new(metric.name, metric.help);
            register(r, made(Histogram::with_opts(options.buckets(buckets.to_vec()))))
        };
        Self {
            counted,
            duplicate,
            malformed,
            quarantined,
            duplicate_conflicts: counter(r, names::DUPLICATE_CONFLICTS),
            dead_letters: Rejection::ALL.map(|reason| dead_letters.with_label_values(&[reason.as_str()])),
            alerts,
            alerts_held,
            alerts_foreign: int_gauge(r, names::ALERTS_FOREIGN),
            registry_rejected: counter(r, names::REGISTRY_REJECTED),
            limits: LIMITS.map(|limit| [&limit_gauges, &used_gauges].map(|gauges| gauges.with_label_values(&[limit]))),
            new_tenants: counter(r, names::NEW_TENANTS),
            lag_records: int_gauges(r, names::LAG_RECORDS),
            lag_seconds: register(r, made(GaugeVec::new(opts(names::LAG_SECONDS), names::LAG_SECONDS.labels))),
            flush_duration: histogram(names::FLUSH_DURATION, &FLUSH_BUCKETS),
            standstill: histogram(names::STANDSTILL, &STANDSTILL_BUCKETS),
            flushes,
            unflushed: int_gauges(r, names::UNFLUSHED),
            reading_paused: int_gauge(r, names::READING_PAUSED),
            flush_failures: FlushFailure::ALL.map(|reason| flush_failures.with_label_values(&[reason.as_str()])),
            last_commit: register(r, made(Gauge::with_opts(opts(names::LAST_COMMIT)))),
            commit_overdue: register(r, made(Gauge::with_opts(opts(names::COMMIT_OVERDUE)))),
            freshness: Mutex::new(Freshness::new(Instant::now())),
            ledger_bytes: int_gauges(r, names::LEDGER_BYTES),
            takeovers: counter(r, names::TAKEOVERS),
            parked_bytes: int_gauge(r, names::PARKED_BYTES),
            parked,
            fenced: counter(r, names::FENCED),
            mismatches: counter(r, names::MISMATCHES),
            gaps,
            series: int_gauge(r, names::SERIES),
            series_suppressed_plan: suppressed.with_label_values(&["plan"]),
            series_suppressed_limit: suppressed.with_label_values(&["limit"]),
            series_limit: int_gauge(r, names::SERIES_LIMIT),
            tenants_exported: int_gauge(r, names::TENANTS_EXPORTED),
            reload_successful: int_gauge(r, names::RELOAD_SUCCESSFUL),
            reload_timestamp: register(r, made(Gauge::with_opts(opts(names::RELOAD_TIMESTAMP)))),
            ready: int_gauge(r, names::READY),
            shards_owned: int_gauge(r, names::SHARDS_OWNED),
            shards_stopped: int_gauge(r, names::SHARDS_STOPPED),
            shards_held: int_gauge(r, names::SHARDS_HELD),
            topic_faults,
            offset_differs: counter(r, names::OFFSET_DIFFERS),
            split_tenants: int_gauge(r, names::SPLIT_TENANTS),
            rulings_rejected: int_gauge(r, names::RULINGS_REJECTED),
            documents: int_gauges(r, names::DOCUMENTS_INFO),
            notifications: counters(r, names::NOTIFICATIONS),
            notifications_pending: int_gauges(r, names::NOTIFICATIONS_PENDING),
            registry,
        }
    }

    /// Records went through the shard and this became of them. Those that only warmed the windows or were read twice
    /// do not count.
    #[inline]
    pub fn records(&self, outcome: Outcome, records: u64) {
        match outcome {
            Outcome::Counted => self.counted.inc_by(records),
            Outcome::Duplicate { conflict } => {
                self.duplicate.inc_by(records);
                if conflict {
                    self.duplicate_conflicts.inc_by(records);
                }
            }
            Outcome::Rejected(Rejection::Malformed(_)) => self.malformed.inc_by(records),
            Outcome::Rejected(Rejection::Quarantined(_)) => self.quarantined.inc_by(records),
            Outcome::Warmed | Outcome::Repeated => {}
        }
    }

    /// A dead letter was committed.
    pub fn dead_letter(&self, reason: Rejection) {
        self.dead_letters[reason.index()].inc();
    }

    /// An alert was published.
    pub fn alert(&self, alert: AlertName, status: Status) {
        self.alerts.with_label_values(&[alert.as_str(), status.as_str()]).inc();
    }

    /// Tenants that are currently not judged.
    pub fn set_alerts_held(&self, tenants: &BTreeMap<Held, u64>) {
        for held in Held::ALL {
            let tenants = tenants.get(held).copied().unwrap_or(0);
            self.alerts_held.with_label_values(&[held.as_str()]).set(int(tenants));
        }
    }

    /// Alerts in the ledger that a newer version wrote.
    pub fn set_alerts_foreign(&self, alerts: usize) {
        self.alerts_foreign.set(int(alerts as u64));
    }

    /// How far the limits of counting are used up, of the owned shards the greatest.
    pub fn set_limits(&self, used: &LimitUse) {
        let values = [
            [used.most_tenants as u64, used.tenants as u64],
            [used.most_rows as u64, used.rows as u64],
            [used.most_evidence, used.evidence],
        ];
        for (gauges, values) in self.limits.iter().zip(values) {
            gauges.iter().zip(values).for_each(|(gauge, value)| gauge.set(int(value)));
        }
    }

    /// Tenants were counted that were not known before.
    pub fn new_tenants(&self, tenants: u64) {
        self.new_tenants.inc_by(tenants);
    }

    /// A message of the registry topic was refused.
    pub fn registry_rejected(&self) {
        self.registry_rejected.inc();
    }

    /// How far an assigned partition's ledger is behind its source: records, and the age of the oldest of them.
    pub fn set_lag(&self, partition: u32, records: u64, age: Duration) {
        let partition = partition.to_string();
        self.lag_records.with_label_values(&[&partition]).set(int(records));
        self.lag_seconds.with_label_values(&[&partition]).set(age.as_secs_f64());
    }

    /// The partition is no longer assigned, or its lag is unknown: another instance reports it.
    pub fn remove_lag(&self, partition: u32) {
        let partition = partition.to_string();
        // Absent already is as good.
        let _ = self.lag_records.remove_label_values(&[&partition]);
        let _ = self.lag_seconds.remove_label_values(&[&partition]);
    }

    /// A flush ended, `took` after its snapshot.
    pub fn flush(&self, end: TransactionEnd, took: Duration) {
        self.flushes.with_label_values(&[result(end)]).inc();
        self.flush_duration.observe(took.as_secs_f64());
    }

    /// How the flushes of this process went so far.
    pub fn flush_stats(&self) -> FlushStats {
        let count = |end| self.flushes.with_label_values(&[result(end)]).get();
        let (sum, observed) = (self.flush_duration.get_sample_sum(), self.flush_duration.get_sample_count());
        FlushStats {
            committed: count(TransactionEnd::Committed),
            aborted: count(TransactionEnd::Aborted),
            fatal: count(TransactionEnd::Fatal),
            unknown: count(TransactionEnd::Unknown),
            mean_s: (observed > 0).then(|| sum / observed as f64),
            p99_below_s: quantile_bound(&self.flush_duration, 99),
        }
    }

    /// Dead letters that this process has committed, by reason, in the order of [`Rejection::ALL`].
    pub fn dead_letters(&self) -> impl Iterator<Item = (Rejection, u64)> {
        Rejection::ALL.into_iter().zip(self.dead_letters.iter().map(|letters| letters.get()))
    }

    /// So many parked shards are parked no longer: resumed, or discarded.
    pub fn parked(&self, result: Result<(), Discarded>, shards: usize) {
        let result = result.map_or_else(Discarded::as_str, |()| RESUMED);
        self.parked.with_label_values(&[result]).inc_by(shards as u64);
    }

    /// The approximate size of all parked shards.
    pub fn set_parked_bytes(&self, bytes: u64) {
        self.parked_bytes.set(int(bytes));
    }

    /// Counting was blocked this long by one flush.
    pub fn stood_still(&self, took: Duration) {
        self.standstill.observe(took.as_secs_f64());
    }

    /// Bytes of dead letters and of facts that wait for a flush, and whether reading has paused for them.
    pub fn set_unflushed(&self, letters: usize, facts: usize, paused: bool) {
        for (kind, bytes) in [("dead_letters", letters), ("facts", facts)] {
            self.unflushed.with_label_values(&[kind]).set(int(bytes as u64));
        }
        self.reading_paused.set(paused.into());
    }

    /// Bytes of the values that the ledger topic holds as the last of their keys, and of all that were read at the start.
    pub fn set_ledger_bytes(&self, live: u64, start: u64) {
        for (kind, bytes) in [("live", live), ("start", start)] {
            self.ledger_bytes.with_label_values(&[kind]).set(int(bytes));
        }
    }

    /// A flush did not commit.
    pub fn flush_failed(&self, reason: FlushFailure) {
        if let Some(place) = FlushFailure::ALL.iter().position(|known| *known == reason) {
            self.flush_failures[place].inc();
        }
    }

    /// A flush was committed at this many milliseconds since 1970, or the process began to wait for the first.
    pub fn set_last_commit(&self, at_ms: i64) {
        self.last_commit.set(at_ms as f64 / 1000.0);
    }

    /// How long something has been waiting to be committed.
    pub fn set_commit_overdue(&self, waits: Duration) {
        self.commit_overdue.set(waits.as_secs_f64());
    }

    /// A call became visible `ms` milliseconds after its arrival.
    pub fn record_freshness(&self, ms: u64) {
        self.record_freshness_of(ms, 1);
    }

    /// This many calls became visible, each `ms` milliseconds after its arrival.
    pub fn record_freshness_of(&self, ms: u64, calls: u64) {
        self.freshness().record(Instant::now(), ms, calls);
    }

    /// A shard was taken over. `offset_differs`: the group's offset was not the ledger's.
    pub fn takeover(&self, offset_differs: bool) {
        self.takeovers.inc();
        self.offset_differs.inc_by(offset_differs.into());
    }

    /// This process was fenced.
    pub fn fenced(&self) {
        self.fenced.inc();
    }

    /// A ledger partition is inconsistent.
    pub fn control_total_mismatch(&self) {
        self.mismatches.inc();
    }

    /// The source no longer holds what the shard needs.
    pub fn gap(&self, gap: &Gap) {
        self.gaps.with_label_values(&[if gap.calls { "calls" } else { "window" }]).inc();
    }

    /// The contents of the exposition being written.
    pub fn set_series(&self, stats: &ExportStats) {
        self.series.set(int(stats.series));
        self.series_suppressed_plan.set(int(stats.suppressed_by_plan));
        self.series_suppressed_limit.set(int(stats.suppressed_by_limit));
        self.series_limit.set(int(stats.limit));
        self.tenants_exported.set(int(stats.tenants));
    }

    /// The configuration was loaded, at this many milliseconds since 1970, or could not be.
    pub fn reload(&self, loaded_at_ms: Option<i64>) {
        self.reload_successful.set(loaded_at_ms.is_some().into());
        if let Some(ms) = loaded_at_ms {
            self.reload_timestamp.set(ms as f64 / 1000.0);
        }
    }

    /// The contract's active documents.
    pub fn set_documents(&self, documents: &[DocumentFile]) {
        self.documents.reset();
        for file in documents {
            self.documents.with_label_values(&[file.kind.as_str(), &visible_name(&file.name), &file.sha256]).set(1);
        }
    }

    /// Rulings in the ledger that the active documents drop or alter.
    pub fn set_rulings_rejected(&self, rulings: usize) {
        self.rulings_rejected.set(int(rulings as u64));
    }

    /// Ready as `/readyz` says it?
    pub fn set_ready(&self, ready: bool) {
        self.ready.set(ready.into());
    }

    /// Shards owned, and of them those that are not counted because their ledger needs a repair.
    pub fn set_shards(&self, owned: usize, stopped: usize) {
        self.shards_owned.set(int(owned as u64));
        self.shards_stopped.set(int(stopped as u64));
    }

    /// The number of shards that wait behind a record from the future.
    pub fn set_shards_held(&self, shards: usize) {
        self.shards_held.set(int(shards as u64));
    }

    /// This is wrong with a topic, or not.
    pub fn set_topic_fault(&self, fault: TopicFault, wrong: bool) {
        self.topic_faults.with_label_values(&[fault.as_str()]).set(wrong.into());
    }

    /// Tenants whose calls are in several shards.
    pub fn set_split_tenants(&self, tenants: usize) {
        self.split_tenants.set(int(tenants as u64));
    }

    /// There is such a receiver: its counters begin at 0.
    pub fn add_receiver(&self, receiver: &str) {
        Notification::ALL.into_iter().for_each(|outcome| self.notification(receiver, outcome, 0));
        self.set_notifications_pending(receiver, 0);
    }

    /// The outcome of some alerts for a receiver.
    pub fn notification(&self, receiver: &str, outcome: Notification, alerts: usize) {
        self.notifications.with_label_values(&[&visible_name(receiver), outcome.as_str()]).inc_by(alerts as u64);
    }

    /// Alerts that are still to be sent to a receiver.
    pub fn set_notifications_pending(&self, receiver: &str, alerts: usize) {
        self.notifications_pending.with_label_values(&[&visible_name(receiver)]).set(int(alerts as u64));
    }

    /// Writes all of them.
    pub fn write(&self, format: Format, out: &mut Vec<u8>) {
        let families = self.registry.gather();
        match format {
            Format::OpenMetrics => write_families(out, &families),
            // Writing to a Vec cannot fail, and every family has a metric: empty ones are not gathered.
            Format::Text => {
                if let Err(error) = TextEncoder::new().encode(&families, out) {
                    tracing::debug!(%error, "the process metrics could not be encoded");
                }
            }
        }
        self.freshness().write(Instant::now(), format, out);
    }

    fn freshness(&self) -> MutexGuard<'_, Freshness> {
        self.freshness.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The least bound that so many per cent of the observations do not exceed.
fn quantile_bound(histogram: &Histogram, percent: u64) -> Option<f64> {
    let families = histogram.collect();
    let proto = families.first()?.get_metric().first()?.get_histogram();
    let needed = (proto.get_sample_count() * percent).div_ceil(100);
    let buckets = proto.get_bucket().iter();
    let mut reached = buckets.filter(|bucket| bucket.cumulative_count() >= needed);
    reached.next().map(|bucket| bucket.upper_bound()).filter(|bound| needed > 0 && bound.is_finite())
}

/// The label of a flush's result.
fn result(end: TransactionEnd) -> &'static str {
    match end {
        TransactionEnd::Committed => "committed",
        TransactionEnd::Aborted => "aborted",
        TransactionEnd::Fatal => "fatal",
        TransactionEnd::Unknown => "unknown",
    }
}

fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn opts(metric: Metric) -> Opts {
    Opts::new(metric.name, metric.help)
}

#[expect(clippy::expect_used, reason = "names and labels are constants; a test builds them all")]
fn made<T>(metric: prometheus::Result<T>) -> T {
    metric.expect("names and labels are valid")
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, metric: C) -> C {
    made(registry.register(Box::new(metric.clone())));
    metric
}

fn counter(registry: &Registry, metric: Metric) -> IntCounter {
    register(registry, made(IntCounter::with_opts(opts(metric))))
}

fn counters(registry: &Registry, metric: Metric) -> IntCounterVec {
    register(registry, made(IntCounterVec::new(opts(metric), metric.labels)))
}

fn int_gauge(registry: &Registry, metric: Metric) -> IntGauge {
    register(registry, made(IntGauge::with_opts(opts(metric))))
}

fn int_gauges(registry: &Registry, metric: Metric) -> IntGaugeVec {
    register(registry, made(IntGaugeVec::new(opts(metric), metric.labels)))
}

/// Times from arrival to visibility over a sliding window, in slots that fall out one by one.
#[derive(Debug)]
struct Freshness {
    slots: [Hdr<u64>; Freshness::SLOTS],
    /// The slot being filled, and when it began.
    now: usize,
    began: Instant,
    /// Since the start of the process.
    sum_ms: u64,
    count: u64,
}

impl Freshness {
    /// Slots of the window; one is always being filled, so the window is 50 to 60 s.
    const SLOTS: usize = 6;
    const SLOT: Duration = Duration::from_secs(10);
    /// Longer times count as this: an hour.
    const MAX_MS: u64 = 3_600_000;
    const QUANTILES: [(&'static str, f64); 4] = [("0.5", 0.5), ("0.9", 0.9), ("0.99", 0.99), ("0.999", 0.999)];

    fn new(now: Instant) -> Self {
        let slots = std::array::from_fn(|_| Self::histogram());
        Self { slots, now: 0, began: now, sum_ms: 0, count: 0 }
    }

    #[expect(clippy::expect_used, reason = "the bounds are constants")]
    fn histogram() -> Hdr<u64> {
        Hdr::new_with_bounds(1, Self::MAX_MS, 2).expect("the bounds are valid")
    }

    fn advance(&mut self, now: Instant) {
        let slots = now.saturating_duration_since(self.began).as_secs() / Self::SLOT.as_secs();
        for _ in 0..slots.min(Self::SLOTS as u64) {
            self.now = (self.now + 1) % Self::SLOTS;
            self.slots[self.now].reset();
        }
        self.began += Self::SLOT * u32::try_from(slots).unwrap_or(u32::MAX);
    }

    fn record(&mut self, now: Instant, ms: u64, calls: u64) {
        self.advance(now);
        self.slots[self.now].saturating_record_n(ms, calls);
        self.sum_ms = self.sum_ms.saturating_add(ms.saturating_mul(calls));
        self.count += calls;
    }

    fn write(&mut self, now: Instant, format: Format, out: &mut Vec<u8>) {
        self.advance(now);
        let mut window = Self::histogram();
        for slot in &self.slots {
            // The bounds are the same.
            let _ = window.add(slot);
        }
        let name = names::FRESHNESS.name;
        write_header(out, names::FRESHNESS, format);
        let mut text = String::new();
        for (label, quantile) in Self::QUANTILES {
            let value = if window.is_empty() { f64::NAN } else { window.value_at_quantile(quantile) as f64 / 1000.0 };
            text.push_str(&format!("{name}{{quantile=\"{label}\"}} {value}\n"));
        }
        text.push_str(&format!("{name}_sum {}\n{name}_count {}\n", self.sum_ms as f64 / 1000.0, self.count));
        out.extend_from_slice(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[track_caller]
    fn check(metrics: &ProcessMetrics, line: &str) {
        let text = text(|out| metrics.write(Format::Text, out));
        assert!(text.lines().any(|l| l == line), "no line `{line}` in:\n{text}");
    }

    #[test]
    fn closed_label_values_exist_from_the_start() {
        let metrics = ProcessMetrics::new();
        for outcome in ["counted", "duplicate", "malformed", "quarantined"] {
            check(&metrics, &format!("sla_ledger_records_total{{outcome=\"{outcome}\"}} 0"));
        }
        for reason in Rejection::ALL {
            check(&metrics, &format!("sla_ledger_dead_letters_total{{reason=\"{reason}\"}} 0"));
        }
        for result in ["committed", "aborted", "fatal", "unknown"] {
            check(&metrics, &format!("sla_ledger_flushes_total{{result=\"{result}\"}} 0"));
        }
        check(&metrics, "sla_ledger_gaps_total{kind=\"calls\"} 0");
        check(&metrics, "sla_ledger_gaps_total{kind=\"window\"} 0");
        check(
            &metrics,
            concat!("sla_ledger_build_info{revision=\"unknown\",version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        );
    }

    #[test]
    fn records_count_by_what_became_of_them() {
        use crate::domain::call::{Malformed, Quarantined};
        let metrics = ProcessMetrics::new();
        metrics.records(Outcome::Counted, 5);
        metrics.records(Outcome::Duplicate { conflict: false }, 2);
        metrics.records(Outcome::Duplicate { conflict: true }, 1);
        metrics.records(Outcome::Rejected(Malformed::NotJson.into()), 1);
        metrics.records(Outcome::Rejected(Rejection::Quarantined(Quarantined::Future)), 1);
        metrics.records(Outcome::Warmed, 9);
        metrics.records(Outcome::Repeated, 9);
        for (outcome, records) in [("counted", 5), ("duplicate", 3), ("malformed", 1), ("quarantined", 1)] {
            check(&metrics, &format!("sla_ledger_records_total{{outcome=\"{outcome}\"}} {records}"));
        }
        check(&metrics, "sla_ledger_duplicate_conflicts_total 1");
    }

    #[test]
    fn flushes_are_summed_up() {
        let metrics = ProcessMetrics::new();
        let FlushStats { mean_s, p99_below_s, .. } = metrics.flush_stats();
        assert_eq!((mean_s, p99_below_s), (None, None));
        (0..99).for_each(|_| metrics.flush(TransactionEnd::Committed, Duration::from_millis(8)));
        metrics.flush(TransactionEnd::Aborted, Duration::from_secs(2));
        let stats = metrics.flush_stats();
        assert_eq!((stats.committed, stats.aborted, stats.p99_below_s), (99, 1, Some(0.01)));
        assert!(stats.mean_s.is_some_and(|mean| (mean - 0.02792).abs() < 1e-9), "{stats:?}");
        metrics.flush(TransactionEnd::Unknown, Duration::from_secs(2));
        assert_eq!(metrics.flush_stats().p99_below_s, Some(2.5));
        (0..9).for_each(|_| metrics.flush(TransactionEnd::Fatal, Duration::from_secs(60)));
        assert_eq!(metrics.flush_stats().p99_below_s, None);
    }

    #[test]
    fn a_partitions_lag_goes_with_the_partition() {
        let metrics = ProcessMetrics::new();
        assert!(!text(|out| metrics.write(Format::Text, out)).contains("consumer_lag"));
        metrics.set_lag(3, 12, Duration::from_millis(1500));
        check(&metrics, "sla_ledger_consumer_lag_records{partition=\"3\"} 12");
        check(&metrics, "sla_ledger_consumer_lag_seconds{partition=\"3\"} 1.5");
        metrics.remove_lag(3);
        metrics.remove_lag(3);
        assert!(!text(|out| metrics.write(Format::Text, out)).contains("consumer_lag"));
    }

    #[test]
    fn a_failed_reload_keeps_the_time_of_the_last_good_one() {
        let metrics = ProcessMetrics::new();
        metrics.reload(Some(1_774_000_000_500));
        metrics.reload(None);
        check(&metrics, "sla_ledger_config_last_reload_successful 0");
        check(&metrics, "sla_ledger_config_last_reload_success_timestamp_seconds 1774000000.5");
    }

    #[test]
    fn freshness_forgets_after_a_minute_but_its_sums_do_not() {
        let start = Instant::now();
        let mut freshness = Freshness::new(start);
        for ms in 1..=100 {
            freshness.record(start, ms * 10, 1);
        }
        let early = text(|out| freshness.write(start + Duration::from_secs(49), Format::Text, out));
        for line in ["quantile=\"0.5\"} 0.5", "quantile=\"0.9\"} 0.9", "_sum 50.5", "_count 100"] {
            assert!(early.contains(line), "{line} not in {early}");
        }
        let late = text(|out| freshness.write(start + Duration::from_secs(60), Format::Text, out));
        for line in ["quantile=\"0.5\"} NaN", "_sum 50.5", "_count 100"] {
            assert!(late.contains(line), "{line} not in {late}");
        }
        freshness.record(start + Duration::from_secs(3600), u64::MAX, 2);
        let capped = text(|out| freshness.write(start + Duration::from_secs(3600), Format::Text, out));
        assert!(capped.contains("quantile=\"0.5\"} 36"), "{capped}");
    }
}
