//! The instance that answers, and the ledger as it sees it: what someone looks at first when something is wrong.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::build_info;
use crate::domain::call::{Quarantined, Rejection};
use crate::health::NotReady;
use crate::http::answer::ask::{Asked, Problem};
use crate::http::answer::{Reading, instant};
use crate::metrics::process::FlushStats;
use crate::pipeline::book::Book;
use crate::pipeline::record::Checkpoint;
use crate::view::View;

#[derive(Debug, Serialize)]
pub struct Instance {
    pub ledger_as_of: Option<String>,
    pub version: &'static str,
    pub commit: &'static str,
    pub started_at: Option<String>,
    pub uptime_seconds: u64,
    /// As `/readyz` says it.
    pub ready: bool,
    /// Empty: it is ready.
    pub not_ready: Vec<Reason>,
    /// The last reload since the start; null: there was none.
    pub reload: Option<Reload>,
    pub documents_loaded_at: Option<String>,
    /// What counting depends on, the settings in force last.
    pub settings: Vec<SettingsEpoch>,
    pub dead_letters: DeadLetters,
    /// Of this instance.
    pub flushes: Flushes,
    /// By number.
    pub shards: Vec<ShardFlush>,
}

#[derive(Debug, Serialize)]
pub struct Reason {
    pub reason: &'static str,
    pub detail: String,
}

#[derive(Debug, Serialize)]
pub struct Reload {
    pub at: Option<String>,
    /// False: the previous configuration and documents are still in force.
    pub successful: bool,
    /// What it changed, or every mistake it found.
    pub text: String,
}

/// Counting settings, and since where they apply.
#[derive(Debug, Serialize)]
pub struct SettingsEpoch {
    pub settings: Value,
    /// By shard.
    pub since: Vec<Since>,
}

#[derive(Debug, Serialize)]
pub struct Since {
    pub shard: usize,
    /// The first source offset counted with them.
    pub from_offset: i64,
    /// The shard counts with them now.
    pub in_force: bool,
}

#[derive(Debug, Serialize)]
pub struct DeadLetters {
    /// All that the ledger has.
    pub ledger: u64,
    /// Of them by reason, most first; without those that it no longer has by reason.
    pub ledger_by_reason: Vec<ByReason>,
    /// Of the ledger, those whose reason it no longer has: of months that were dropped, and calls of one tenant beyond
    /// its limit.
    pub ledger_others: u64,
    /// All that this instance has committed since its start.
    pub instance: u64,
    /// Of them by reason, most first.
    pub instance_by_reason: Vec<ByReason>,
}

#[derive(Debug, Serialize)]
pub struct ByReason {
    pub reason: String,
    pub records: u64,
}

/// The flushes of an instance since its start, by their ends.
#[derive(Debug, Serialize)]
pub struct Flushes {
    pub committed: u64,
    pub aborted: u64,
    pub fatal: u64,
    pub unknown: u64,
    /// Null: none has ended.
    pub mean_seconds: Option<f64>,
    /// 99 % took at most this long; null: none has ended, or more took longer than is measured.
    pub p99_seconds: Option<f64>,
}

/// The last flush of a shard.
#[derive(Debug, Serialize)]
pub struct ShardFlush {
    pub shard: u32,
    /// Its number; null: none yet, as the following.
    pub seq: Option<u64>,
    pub flushed_at: Option<String>,
    pub age_seconds: Option<u64>,
    /// Does this instance own the shard?
    pub owned_here: bool,
}

/// `/service`
pub fn one(api: &Reading, asked: &Asked) -> Result<Instance, Problem> {
    asked.query(&[])?;
    let now_ms = api.now_ms();
    let process = &api.process;
    let reasons = process.health.not_ready_reasons();
    // Before anything is published nothing is known of a shard.
    let unread = Book::new(api.view.shards());
    let book = api.value.as_ref().map_or(&unread, |value| &value.book);
    let checkpoints: Vec<_> = book.shards().iter().map(|shard| shard.checkpoint()).collect();
    let reload = process.reloads.last().map(|last| Reload {
        at: instant(last.at_ms),
        successful: last.result.is_ok(),
        text: last.result.clone().unwrap_or_else(|error| error.to_string()),
    });
    let flushes = checkpoints.iter().zip(0..);
    Ok(Instance {
        ledger_as_of: api.ledger_as_of(),
        version: build_info::VERSION,
        commit: build_info::REVISION,
        started_at: instant(process.started_at_ms),
        uptime_seconds: seconds(now_ms - process.started_at_ms),
        ready: reasons.is_empty(),
        not_ready: reasons.iter().map(Reason::of).collect(),
        reload,
        documents_loaded_at: api.documents.load().loaded_at_ms.and_then(instant),
        settings: settings(&checkpoints),
        dead_letters: DeadLetters::of(&checkpoints, process.metrics.dead_letters()),
        flushes: Flushes::of(process.metrics.flush_stats()),
        shards: flushes.map(|(last, shard)| ShardFlush::of(shard, *last, &api.view, now_ms)).collect(),
    })
}

fn seconds(ms: i64) -> u64 {
    u64::try_from(ms / 1000).unwrap_or_default()
}

impl Reason {
    fn of(reason: &NotReady) -> Self {
        Self { reason: reason.as_str(), detail: reason.to_string() }
    }
}

/// The settings of all shards, in the order in which a shard began to use them.
fn settings(checkpoints: &[Option<&Checkpoint>]) -> Vec<SettingsEpoch> {
    let mut all: Vec<(usize, &str, Vec<Since>)> = Vec::new();
    for (shard, checkpoint) in checkpoints.iter().enumerate() {
        let epochs = checkpoint.map_or(&[][..], |checkpoint| &checkpoint.epochs);
        for (place, epoch) in epochs.iter().enumerate() {
            let since = Since { shard, from_offset: epoch.from_offset, in_force: place + 1 == epochs.len() };
            match all.iter_mut().find(|(_, settings, _)| *settings == epoch.settings) {
                Some((last, _, of)) => {
                    *last = place.max(*last);
                    of.push(since);
                }
                None => all.push((place, &epoch.settings, vec![since])),
            }
        }
    }
    // Shards began at different times: what one of them still counts with comes last.
    all.sort_by_key(|(place, _, since)| (since.iter().any(|since| since.in_force), *place));
    let settings = |text: &str| serde_json::from_str(text).unwrap_or_default();
    all.into_iter().map(|(_, text, since)| SettingsEpoch { settings: settings(text), since }).collect()
}

impl DeadLetters {
    fn of(checkpoints: &[Option<&Checkpoint>], here: impl Iterator<Item = (Rejection, u64)>) -> Self {
        let mut reasons: BTreeMap<String, u64> = BTreeMap::new();
        let mut ledger = 0;
        for checkpoint in checkpoints.iter().flatten() {
            ledger += checkpoint.totals.malformed + checkpoint.totals.quarantined;
            let rejected = checkpoint.rejected.iter().map(|rejected| (rejected.reason.as_str(), rejected.records));
            let limit = Rejection::Quarantined(Quarantined::Limit).as_str();
            let unadmitted = checkpoint.unadmitted.iter().map(|unadmitted| (limit, unadmitted.calls));
            rejected.chain(unadmitted).for_each(|(reason, n)| *reasons.entry(reason.to_owned()).or_default() += n);
        }
        let ledger_by_reason = by_reason(reasons.into_iter());
        let instance_by_reason = by_reason(here.map(|(reason, records)| (reason.as_str().to_owned(), records)));
        Self {
            ledger,
            ledger_others: ledger.saturating_sub(sum(&ledger_by_reason)),
            ledger_by_reason,
            instance: sum(&instance_by_reason),
            instance_by_reason,
        }
    }
}

/// Those that there are, most first.
fn by_reason(all: impl Iterator<Item = (String, u64)>) -> Vec<ByReason> {
    let some = all.filter(|(_, records)| *records > 0);
    let mut rows: Vec<_> = some.map(|(reason, records)| ByReason { reason, records }).collect();
    rows.sort_by(|a, b| b.records.cmp(&a.records).then_with(|| a.reason.cmp(&b.reason)));
    rows
}

fn sum(rows: &[ByReason]) -> u64 {
    rows.iter().map(|row| row.records).sum()
}

impl Flushes {
    fn of(stats: FlushStats) -> Self {
        let FlushStats { committed, aborted, fatal, unknown, mean_s, p99_below_s } = stats;
        Self { committed, aborted, fatal, unknown, mean_seconds: mean_s, p99_seconds: p99_below_s }
    }
}

impl ShardFlush {
    fn of(shard: u32, last: Option<&Checkpoint>, view: &View, now_ms: i64) -> Self {
        let flushed_at_ms = last.and_then(|_| view.flushed_at_ms(shard));
        Self {
            shard,
            seq: last.map(|last| last.seq),
            flushed_at: flushed_at_ms.and_then(instant),
            age_seconds: flushed_at_ms.map(|at_ms| seconds(now_ms - at_ms)),
            owned_here: view.home().has(shard),
        }
    }
}
