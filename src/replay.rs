//! Replay: the service without Kafka. Lines of call events go through the shard, the ledger records and the book, as in
//! `run`; what comes out is what the service would show once its source is drained.
//!
//! A line is a record of one source partition: the line's bytes are the payload, its place in the input is the offset, and
//! its `arrival` (by default the event's own time) is the record's timestamp. The input is the whole source: there is no
//! earlier record and no gap.
//!
//! Deliberately not here: a second way to count. Only the transport is missing.

pub mod input;
pub mod report;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use crate::domain::calendar::{LocalClock, LocalDay, Month};
use crate::domain::call::Rejection;
use crate::domain::contract::Contract;
use crate::domain::standing::ServiceMonth;
use crate::pipeline::book::{Book, Event, Trouble};
use crate::pipeline::clock::HoldBound;
use crate::pipeline::decode::{Decoder, OutermostText, SourceRecord, rfc3339_ms};
use crate::pipeline::record::Totals;
use crate::pipeline::settings::{CountingSettings, FieldPath};
use crate::pipeline::shard::{Outcome, Owner, Shard, ShardError, ShardState};
use crate::pipeline::standings::Standings;

use report::DayFacts;

/// Records between two flushes into the book.
const FLUSH_RECORDS: u64 = 250_000;
/// Bytes of dead letters that wait for a flush, at most (and one more).
const DEAD_LETTER_BYTES: usize = 16 << 20;
/// The one partition.
const SHARD: u32 = 0;

/// Why a replay cannot go on.
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
    /// The standings do not hold every call counted: a defect.
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

/// What a replay came to.
#[derive(Debug)]
pub struct Result {
    /// What became of the lines.
    pub totals: Totals,
    /// Lines not counted, by reason, in the order of [`Rejection::ALL`].
    pub rejected: [u64; Rejection::ALL.len()],
    /// Every tenant's service months with calls, by first day.
    pub months: BTreeMap<(Arc<str>, LocalDay), ServiceMonth>,
    /// Calls on days that no registered term holds, by tenant.
    pub out_of_term: BTreeMap<Arc<str>, u64>,
    /// The facts of every tenant and day, if they were asked for.
    pub facts: Option<BTreeMap<(Arc<str>, LocalDay), DayFacts>>,
    /// The greatest arrival, in ms.
    pub watermark_ms: Option<i64>,
}

/// A replay under way.
#[derive(Debug)]
pub struct Replay {
    shard: Shard,
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
    horizon: Horizon,
    rejected: [u64; Rejection::ALL.len()],
    months: BTreeMap<(Arc<str>, LocalDay), ServiceMonth>,
    out_of_term: BTreeMap<(Arc<str>, Month), u64>,
    facts: Option<BTreeMap<(Arc<str>, LocalDay), DayFacts>>,
}

/// The month below which the shard closes months, as the watermark moves. A replay has no later reader: it must look at
/// a month just before it is closed.
#[derive(Debug)]
struct Horizon {
    clock: LocalClock,
    keep_ms: i64,
    watermark_ms: i64,
    month: Month,
}

impl Replay {
    /// Nothing read yet. A line whose arrival lies after `now_ms` is a dead letter (`clock`) and moves nothing: what is in a
    /// file has arrived, so no broker's bound is added to the five minutes by which clocks may differ. `facts`: keep the facts
    /// of every day for the result, and not only the standings.
    ///
    /// # Errors
    /// Settings that cannot be used.
    pub fn new(
        settings: &CountingSettings,
        contract: Arc<Contract>,
        now_ms: i64,
        facts: bool,
    ) -> std::result::Result<Self, ReplayError> {
        // Fixed keys: the same input gives the same result. There is nobody here to choose request ids that collide.
        let owner = Owner::new(SHARD, "replay", (0, 0));
        let shard = Shard::take_over(owner, settings, ShardState::default(), 0)?;
        Ok(Self {
            shard,
            book: Book::new(1),
            standings: Standings::new(contract),
            ledger_offset: 0,
            decoder: Decoder::new(settings).map_err(ShardError::Settings)?,
            arrival: OutermostText::new("arrival"),
            arrival_hint: memchr::memmem::Finder::new("arrival"),
            now_ms,
            flush_records: FLUSH_RECORDS,
            unflushed: 0,
            published: HashSet::new(),
            horizon: Horizon::new(settings),
            rejected: [0; Rejection::ALL.len()],
            months: BTreeMap::new(),
            out_of_term: BTreeMap::new(),
            facts: facts.then(BTreeMap::new),
        })
    }

    /// Flushes after so many records instead of the usual number; the result is the same.
    pub fn flush_every(mut self, records: u64) -> Self {
        self.flush_records = records.max(1);
        self
    }

    /// Takes one line, without its line end. A line that is no call event is counted by its reason; an empty one is an
    /// empty payload.
    ///
    /// # Errors
    /// An `arrival` that cannot be read, or a ledger that does not add up.
    pub fn line(&mut self, line: &[u8]) -> std::result::Result<Outcome, ReplayError> {
        let mut record = SourceRecord {
            offset: self.shard.position(),
            timestamp_ms: None,
            key: None,
            payload: Some(line),
            headers: &[],
        };
        record.timestamp_ms = self.arrival_ms(&record)?;
        let from_the_future = record.timestamp_ms.is_some_and(|ms| HoldBound::new(0).is_exceeded(ms, self.now_ms));
        if let Some(arrival_ms) = record.timestamp_ms
            && !from_the_future
            && self.horizon.advance(arrival_ms)
        {
            // This record closes months: look at them first.
            self.flush()?;
            self.collect(Some(self.horizon.month));
        }
        let outcome = if from_the_future { self.shard.refuse(&record) } else { self.shard.ingest(&record) };
        if let Outcome::Rejected(reason) = outcome {
            self.rejected[reason.index()] += 1;
        }
        self.unflushed += 1;
        if self.unflushed >= self.flush_records || self.shard.dead_letter_bytes() >= DEAD_LETTER_BYTES {
            self.flush()?;
        }
        Ok(outcome)
    }

    fn arrival_ms(&self, record: &SourceRecord<'_>) -> std::result::Result<Option<i64>, ReplayError> {
        let line = record.payload.unwrap_or_default();
        // An escape might spell the name differently.
        if self.arrival_hint.find(line).is_some() || memchr::memchr(b'\\', line).is_some() {
            let text = self
                .arrival
                .read(line)
                .map_err(|reason| ReplayError::Arrival(format!("no text ({})", Rejection::from(reason))))?;
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
            last = self.book.apply(SHARD, self.ledger_offset, key.as_bytes(), value);
            self.ledger_offset += 1;
        }
        if let Some(Event::Trouble(trouble)) = last {
            return Err(trouble.into());
        }
        self.shard.committed();
        match self.book.reached_end(SHARD, self.ledger_offset) {
            Some(Event::Published(tenants)) => self.published.extend(tenants),
            Some(Event::Trouble(trouble)) => return Err(trouble.into()),
            Some(Event::Checkpoint { .. }) | None => {
                if let Some(trouble) = self.book.shard(SHARD).and_then(|s| s.trouble()) {
                    return Err(trouble.clone().into());
                }
            }
        }
        Ok(())
    }

    /// Takes down the standings (and facts) of the months before `horizon`, or of all.
    fn collect(&mut self, horizon: Option<Month>) {
        let wanted = |month: Month| horizon.is_none_or(|h| month < h);
        self.standings.refresh(&self.book, &std::mem::take(&mut self.published));
        for (tenant, months) in self.standings.iter() {
            for month in months.iter().filter(|month| wanted(month.period.month())) {
                self.months.insert((tenant.clone(), month.period.first), month.clone());
            }
            let out_of_term = self.standings.tenant(tenant).into_iter().flat_map(|standing| &standing.out_of_term);
            for (month, calls) in out_of_term.filter(|(month, _)| wanted(**month)) {
                self.out_of_term.insert((tenant.clone(), *month), *calls);
            }
        }
        let (Some(facts), Some(shard)) = (&mut self.facts, self.book.shard(SHARD)) else { return };
        for tenant in shard.tenants() {
            for (month, tally) in shard.tallies(tenant).filter(|(month, _)| wanted(*month)) {
                for day in &tally.days {
                    facts.insert(
                        (tenant.clone(), month.day(day.day)),
                        DayFacts::of(tenant, month.day(day.day), &tally.names, day),
                    );
                }
            }
            for (day, chunk) in shard.chunks(tenant).filter(|(day, _)| wanted(day.month())) {
                if let Some(facts) = facts.get_mut(&(tenant.clone(), day)) {
                    facts.itemised += chunk.items.len() as u64;
                }
            }
        }
    }

    /// The input has ended: the ledger as an instance reads it, without the months it has closed already.
    ///
    /// # Errors
    /// A ledger that does not add up.
    pub fn into_book(mut self) -> std::result::Result<Book, ReplayError> {
        self.flush()?;
        Ok(self.book)
    }

    /// The input has ended.
    ///
    /// # Errors
    /// A ledger that does not add up.
    pub fn finish(mut self) -> std::result::Result<Result, ReplayError> {
        self.flush()?;
        self.collect(None);
        let totals = *self.shard.totals();
        let in_terms: u64 = self.months.values().map(|m| m.figures.total() + m.figures.unbound).sum();
        let standings = in_terms + self.out_of_term.values().sum::<u64>();
        if standings != totals.counted {
            return Err(ReplayError::Total { standings, counted: totals.counted });
        }
        let mut out_of_term = BTreeMap::new();
        for ((tenant, _), calls) in self.out_of_term {
            *out_of_term.entry(tenant).or_insert(0) += calls;
        }
        Ok(Result {
            totals,
            rejected: self.rejected,
            months: priced(self.standings.contract(), self.months),
            out_of_term,
            facts: self.facts,
            watermark_ms: self.shard.watermark_ms(),
        })
    }
}

/// The months with their money. Months that were closed on the way count for the cap of later ones (clause 6.1), so money
/// is computed when all are there.
fn priced(
    contract: &Contract,
    months: BTreeMap<(Arc<str>, LocalDay), ServiceMonth>,
) -> BTreeMap<(Arc<str>, LocalDay), ServiceMonth> {
    let mut all: Vec<_> = months.into_iter().collect();
    for same_tenant in all.chunk_by_mut(|((a, _), _), ((b, _), _)| a == b) {
        let tenant = same_tenant[0].0.0.clone();
        let mut months: Vec<_> = same_tenant.iter().map(|(_, month)| month.clone()).collect();
        contract.price(&tenant, &contract.terms(&tenant), &mut months);
        same_tenant.iter_mut().zip(months).for_each(|((_, to), from)| *to = from);
    }
    all.into_iter().collect()
}

impl Horizon {
    fn new(settings: &CountingSettings) -> Self {
        // The shard keeps months for 90 days after their end, or as long as a call may still come in.
        let days = (i64::from(settings.max_age_s).div_euclid(86_400) + 1).max(90);
        Self {
            clock: LocalClock::new(settings.time_zone),
            keep_ms: days * 86_400_000,
            watermark_ms: i64::MIN,
            month: Month(0),
        }
    }

    /// Moves the watermark; true when a month falls below the horizon.
    fn advance(&mut self, arrival_ms: i64) -> bool {
        if arrival_ms <= self.watermark_ms {
            return false;
        }
        self.watermark_ms = arrival_ms;
        let month = self.clock.day(arrival_ms.saturating_sub(self.keep_ms)).month();
        let moves = month > self.month;
        self.month = self.month.max(month);
        moves
    }
}

/// The mapped fields that no line of a file can have: those taken from the record's key or a header.
pub fn fields_without_source(settings: &CountingSettings) -> Vec<(&'static str, String)> {
    let fields = &settings.fields;
    [
        ("tenant", &fields.tenant),
        ("request_id", &fields.request_id),
        ("timestamp", &fields.timestamp),
        ("action", &fields.action),
        ("code", &fields.code),
        ("system_error", &fields.system_error),
    ]
    .into_iter()
    .filter(|(_, path)| !matches!(path, FieldPath::Pointer(_)))
    .map(|(name, path)| (name, String::from(path.clone())))
    .collect()
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
