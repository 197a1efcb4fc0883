//! Replay: the service without Kafka. Lines of call events go through the shard, the ledger records and the book, as in
//! `run`; what comes out is what the service would show once its source is drained.
//!
//! A file is a source partition, and a line one of its records: the line's bytes are the payload, its place in the file
//! is the offset, and its `arrival` (by default the event's own time) is the record's timestamp. The input is the whole
//! source: there is no earlier record and no gap. Each file has a window of its own, so the order of files does not
//! matter; duplicates and calls per second across files are not detected, as across partitions.
//!
//! Deliberately not here: a second way to count. Only the transport is missing.

pub mod input;
pub mod rejected;
pub mod report;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use crate::domain::calendar::LocalDay;
use crate::domain::call::{Quarantined, Rejection};
use crate::domain::contract::Contract;
use crate::domain::standing::ServiceMonth;
use crate::pipeline::book::{Book, Event, Trouble};
use crate::pipeline::clock::HoldBound;
use crate::pipeline::decode::{Decoder, Headers, OutermostText, SourceRecord, rfc3339_ms};
use crate::pipeline::record::Totals;
use crate::pipeline::settings::{CountingSettings, FieldPath};
use crate::pipeline::shard::{Outcome, Owner, Shard, ShardError, ShardState};
use crate::pipeline::standings::Standings;

use rejected::RejectedLines;
use report::DayFacts;

/// Records between two flushes into the book.
const FLUSH_RECORDS: u64 = 250_000;
/// Maximum bytes of dead letters that wait for a flush (plus one letter).
const DEAD_LETTER_BYTES: usize = 16 << 20;

/// Why a replay cannot continue.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The line's `arrival` cannot be read.
    #[error(
        "`arrival` is {0}; it must be an RFC 3339 instant with an offset, e.g. \"2026-03-20T10:00:00.000+08:00\": correct \
             it, or leave it out to take the event's own time"
    )]
    Arrival(String),
    /// The counting settings cannot be used.
    #[error(transparent)]
    Shard(#[from] ShardError),
    /// The records written do not read back: a defect.
    #[error("the ledger does not add up ({0}): this is a defect of sla-ledger, please report it with the input")]
    Book(#[from] Trouble),
    /// The standings do not include every counted call: a defect.
    #[error(
        "the standings hold {standings} calls, {counted} were counted: this is a defect of sla-ledger, please report it \
             with the input"
    )]
    Total {
        /// Calls in all standings.
        standings: u64,
        /// Calls counted.
        counted: u64,
    },
}

/// The result of a replay.
#[derive(Debug)]
pub struct Result {
    /// The outcomes of the lines.
    pub totals: Totals,
    /// Lines not counted, by reason, in the order of [`Rejection::ALL`].
    pub rejected: [u64; Rejection::ALL.len()],
    /// Every tenant's service months with calls, by first day.
    pub months: BTreeMap<(Arc<str>, LocalDay), ServiceMonth>,
    /// Calls on days that no registered term holds, by tenant.
    pub out_of_term: BTreeMap<Arc<str>, u64>,
    /// The facts of every tenant and day, if they were asked for.
    pub facts: Option<BTreeMap<(Arc<str>, LocalDay), DayFacts>>,
    /// The greatest arrival over all partitions, in ms.
    pub watermark_ms: Option<i64>,
    /// The lines that were not counted, and where they are missing.
    pub rejected_lines: RejectedLines,
    /// Why service months are not complete by the ledger of the input, by tenant and first day.
    pub unadmitted: BTreeMap<(Arc<str>, LocalDay), Vec<String>>,
}

/// The options of a replay.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How many partitions (files) there are.
    pub partitions: u32,
    /// The instant of the replay, in ms. A line whose arrival is after it is a dead letter (`clock`) and does not
    /// advance the watermark: what is in a file has arrived, so no broker's bound is added to the five minutes of
    /// tolerated clock skew.
    pub now_ms: i64,
    /// Keep the facts of every day for the result, and not only the standings.
    pub facts: bool,
}

/// A line that arrived before lines above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfOrder {
    /// The line in its file, from 1.
    pub line: u64,
    /// How much earlier than the last of those above it, in ms.
    pub behind_ms: i64,
}

/// A running replay.
#[derive(Debug)]
pub struct Replay {
    settings: CountingSettings,
    shard: Shard,
    /// Of the partitions before.
    totals: Totals,
    watermark_ms: Option<i64>,
    out_of_order: Option<OutOfOrder>,
    book: Book,
    standings: Standings,
    /// Position in the ledger that is not kept.
    ledger_offset: i64,
    decoder: Decoder,
    arrival: OutermostText,
    arrival_hint: memchr::memmem::Finder<'static>,
    now_ms: i64,
    flush_records: u64,
    unflushed: u64,
    published: HashSet<Arc<str>>,
    rejected: [u64; Rejection::ALL.len()],
    rejected_lines: RejectedLines,
    facts: bool,
}

impl Replay {
    /// Nothing read yet; the first partition's lines come first.
    ///
    /// # Errors
    /// Settings that cannot be used.
    pub fn new(
        settings: &CountingSettings,
        contract: Arc<Contract>,
        options: Options,
    ) -> std::result::Result<Self, ReplayError> {
        Ok(Self {
            settings: settings.clone(),
            shard: shard(0, settings)?,
            totals: Totals::default(),
            watermark_ms: None,
            out_of_order: None,
            book: Book::new(options.partitions.max(1)),
            standings: Standings::new(contract),
            ledger_offset: 0,
            decoder: Decoder::new(settings).map_err(ShardError::Settings)?,
            arrival: OutermostText::new("arrival"),
            arrival_hint: memchr::memmem::Finder::new("arrival"),
            now_ms: options.now_ms,
            flush_records: FLUSH_RECORDS,
            unflushed: 0,
            published: HashSet::new(),
            rejected: [0; Rejection::ALL.len()],
            rejected_lines: RejectedLines::new(settings.time_zone, options.partitions),
            facts: options.facts,
        })
    }

    /// The lines that follow are the next partition's.
    ///
    /// # Errors
    /// An inconsistent ledger.
    pub fn next_partition(&mut self) -> std::result::Result<(), ReplayError> {
        self.end_partition()?;
        self.shard = shard(self.shard.id() + 1, &self.settings)?;
        self.ledger_offset = 0;
        self.out_of_order = None;
        Ok(())
    }

    fn end_partition(&mut self) -> std::result::Result<(), ReplayError> {
        self.flush()?;
        self.rejected_lines.end_of_file();
        let of = self.shard.totals();
        self.totals = Totals {
            seen: self.totals.seen + of.seen,
            counted: self.totals.counted + of.counted,
            duplicate: self.totals.duplicate + of.duplicate,
            duplicate_conflicts: self.totals.duplicate_conflicts + of.duplicate_conflicts,
            malformed: self.totals.malformed + of.malformed,
            quarantined: self.totals.quarantined + of.quarantined,
        };
        self.watermark_ms = self.watermark_ms.max(self.shard.watermark_ms());
        Ok(())
    }

    /// The first line of this partition that arrived before lines above it, by so much that the dedupe memory no longer
    /// matches the time between arrivals.
    pub fn out_of_order(&self) -> Option<OutOfOrder> {
        self.out_of_order
    }

    /// Flushes after this many records instead of the usual number; the result is the same.
    pub fn flush_every(mut self, records: u64) -> Self {
        self.flush_records = records.max(1);
        self
    }

    /// Takes one line, without its line end. A line that is not a call event is counted by its reason; an empty one is an
    /// empty payload.
    ///
    /// # Errors
    /// An `arrival` that cannot be read, or an inconsistent ledger.
    pub fn line(&mut self, line: &[u8]) -> std::result::Result<Outcome, ReplayError> {
        let mut record = SourceRecord {
            offset: self.shard.position(),
            timestamp_ms: None,
            key: None,
            payload: Some(line),
            headers: Headers::NONE,
        };
        record.timestamp_ms = self.arrival_ms(&record)?;
        let from_the_future = record.timestamp_ms.is_some_and(|ms| HoldBound::new(0).is_exceeded(ms, self.now_ms));
        if self.out_of_order.is_none()
            && let (Some(arrival_ms), Some(last_ms)) = (record.timestamp_ms, self.shard.watermark_ms())
        {
            let behind_ms = last_ms.saturating_sub(arrival_ms);
            let known = behind_ms <= 2 * 1000 * i64::from(self.settings.dedupe_window_s);
            self.out_of_order = (!known).then_some(OutOfOrder { line: record.offset.unsigned_abs() + 1, behind_ms });
        }
        let outcome = if from_the_future { self.shard.refuse(&record) } else { self.shard.ingest(&record) };
        match outcome {
            Outcome::Rejected(reason) => {
                self.rejected[reason.index()] += 1;
                self.take_down(&record, reason);
            }
            _ => record.timestamp_ms.into_iter().for_each(|ms| self.rejected_lines.call(ms)),
        }
        self.unflushed += 1;
        if self.unflushed >= self.flush_records || self.shard.dead_letter_bytes() >= DEAD_LETTER_BYTES {
            self.flush()?;
        }
        Ok(outcome)
    }

    /// Records a rejected line, unless the tally of its month or the checkpoint has it; no month is closed here.
    fn take_down(&mut self, record: &SourceRecord<'_>, reason: Rejection) {
        if let Rejection::Quarantined(Quarantined::Limit | Quarantined::TooOld) = reason {
            return;
        }
        match self.decoder.decode(record) {
            Ok(call) => self.rejected_lines.refused(&call, reason),
            Err(_) => self.rejected_lines.unreadable(record.offset, reason),
        }
    }

    fn arrival_ms(&self, record: &SourceRecord<'_>) -> std::result::Result<Option<i64>, ReplayError> {
        let line = record.payload.unwrap_or_default();
        // An escape might spell the name differently.
        if self.arrival_hint.find(line).is_some() || memchr::memchr(b'\\', line).is_some() {
            let text = self
                .arrival
                .read(line)
                .map_err(|reason| ReplayError::Arrival(format!("not a text ({})", Rejection::from(reason))))?;
            if let Some(text) = text {
                return match rfc3339_ms(&text) {
                    Some(ms) => Ok(Some(ms)),
                    None => Err(ReplayError::Arrival(format!("`{}`", shortened(&text)))),
                };
            }
        }
        Ok(self.decoder.decode(record).ok().map(|call| call.time_ms))
    }

    /// Writes what the shard has counted into the book, as a committed flush would.
    fn flush(&mut self) -> std::result::Result<(), ReplayError> {
        self.unflushed = 0;
        if !self.shard.wants_flush() {
            return Ok(());
        }
        let flush = self.shard.snapshot();
        let records = flush.records.iter().map(|(key, value)| (key, value.as_deref()));
        let checkpoint = (&flush.checkpoint.0, Some(flush.checkpoint.1.as_slice()));
        let mut last = None;
        for (key, value) in records.chain([checkpoint]) {
            last = self.book.apply(self.shard.id(), self.ledger_offset, key.as_bytes(), value);
            self.ledger_offset += 1;
        }
        if let Some(Event::Trouble(trouble)) = last {
            return Err(trouble.into());
        }
        self.shard.committed();
        match self.book.reached_end(self.shard.id(), self.ledger_offset) {
            Some(Event::Published(changed)) => self.published.extend(changed.into_iter().map(|(tenant, _)| tenant)),
            Some(Event::Trouble(trouble)) => return Err(trouble.into()),
            Some(Event::Checkpoint { .. }) | None => {
                if let Some(trouble) = self.book.shard(self.shard.id()).and_then(|s| s.trouble()) {
                    return Err(trouble.clone().into());
                }
            }
        }
        Ok(())
    }

    /// The facts of every tenant and day, over all partitions.
    fn day_facts(&self) -> BTreeMap<(Arc<str>, LocalDay), DayFacts> {
        let mut facts: BTreeMap<(Arc<str>, LocalDay), DayFacts> = BTreeMap::new();
        for shard in self.book.shards() {
            for tenant in shard.tenants() {
                for month in shard.months(tenant) {
                    for (at, day) in month.days().into_iter().filter(|(_, day)| !day.calls.is_empty()) {
                        let more = DayFacts::of(tenant, at, shard.names(), &day);
                        match facts.entry((tenant.clone(), at)) {
                            Entry::Vacant(empty) => _ = empty.insert(more),
                            Entry::Occupied(mut known) => known.get_mut().add(more),
                        }
                    }
                }
                for (day, chunk) in shard.chunks(tenant) {
                    if let Some(facts) = facts.get_mut(&(tenant.clone(), day)) {
                        facts.itemised += chunk.len() as u64;
                    }
                }
            }
        }
        facts
    }

    /// The input has ended: the ledger as an instance reads it, except that no month is closed, and the lines that are
    /// not in it.
    ///
    /// # Errors
    /// An inconsistent ledger.
    pub fn into_book(mut self) -> std::result::Result<(Book, RejectedLines), ReplayError> {
        self.end_partition()?;
        Ok((self.book, self.rejected_lines))
    }

    /// The input has ended.
    ///
    /// # Errors
    /// An inconsistent ledger.
    pub fn finish(mut self) -> std::result::Result<Result, ReplayError> {
        self.end_partition()?;
        self.standings.refresh(&self.book, &std::mem::take(&mut self.published));
        let (mut months, mut out_of_term) = (BTreeMap::new(), BTreeMap::new());
        let mut unadmitted = BTreeMap::new();
        for (tenant, standing) in self.standings.iter() {
            for month in standing {
                unadmitted.insert((tenant.clone(), month.period.first), self.book.unadmitted(month));
                months.insert((tenant.clone(), month.period.first), month.clone());
            }
            let calls: u64 =
                self.standings.tenant(tenant).into_iter().flat_map(|standing| standing.out_of_term.values()).sum();
            if calls > 0 {
                out_of_term.insert(tenant.clone(), calls);
            }
        }
        let in_terms: u64 = months.values().map(|m| m.figures.total() + m.figures.unbound).sum();
        let standings = in_terms + out_of_term.values().sum::<u64>();
        if standings != self.totals.counted {
            return Err(ReplayError::Total { standings, counted: self.totals.counted });
        }
        Ok(Result {
            totals: self.totals,
            rejected: self.rejected,
            facts: self.facts.then(|| self.day_facts()),
            months,
            out_of_term,
            watermark_ms: self.watermark_ms,
            rejected_lines: self.rejected_lines,
            unadmitted,
        })
    }
}

/// The counter of one partition. Its hash keys are fixed, so the same input gives the same result; no attacker chooses
/// colliding request ids here. It closes no months: partitions are read one after the other, and evaluated together.
fn shard(partition: u32, settings: &CountingSettings) -> std::result::Result<Shard, ShardError> {
    let owner = Owner { closes_months: false, ..Owner::new(partition, "replay", (0, 0)) };
    Shard::take_over(owner, settings, ShardState::default(), 0)
}

/// The mapped fields that no line of a file can have: those taken from the record's key or a header.
pub fn fields_without_source(settings: &CountingSettings) -> Vec<(&'static str, String)> {
    let outside = |path: &FieldPath| matches!(path, FieldPath::Key | FieldPath::Header(_));
    let mapped = settings.fields.all().into_iter();
    mapped.filter(|(_, path)| outside(path)).map(|(name, path)| (name, String::from(path.clone()))).collect()
}

/// The beginning of a text that may be long.
fn shortened(text: &str) -> String {
    const SHOWN: usize = 60;
    let mut shown: String = text.chars().take(SHOWN).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}
