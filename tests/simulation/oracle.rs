//! A plain recount of the source, written from `semantics.md` and the dedupe rule alone, and the comparison with what
//! the ledger, the book and the dead letters say.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

use chrono::TimeZone;
use sla_ledger::domain::alert::Verdict;
use sla_ledger::domain::call::{Call, Flag, Rejection};
use sla_ledger::pipeline::book::{Book, ShardBook};
use sla_ledger::pipeline::record::{AlertRecord, AppliedRuling, Checkpoint, Key, RULINGS_SHARD, Totals};
use sla_ledger::pipeline::settings::{CountingSettings, IgnoredRange};
use sla_ledger::pipeline::shard::{Flush, Owner, Shard, ShardState};
use sla_ledger::pipeline::standings::Standings;
use sla_ledger::pipeline::window::{GenerationContents, GenerationStart, Window, WindowContents};
use sla_ledger::view::home_shard;

use crate::instance::{alert_id, contract, verdict, watched};
use crate::kafka::{Broker, LogEntry, SourceEntry, SourceLog};
use crate::workload::{Meaning, PlainCall};

/// Keys of the request-id fingerprints in every run.
pub const FINGERPRINT_KEYS: (u64, u64) = (1, 2);

/// (month, day of the month) in the ledger's zone; months since January of year 0.
type Day = (i32, u32);
/// Tenant, day, action, and for a non-ok call its code and flag.
type Row = (String, Day, String, Option<(Option<String>, u8)>);

#[derive(Debug, Clone, Copy)]
struct Item {
    second: i64,
    hash: u64,
}

/// An occurrence of a request id that was entered into the window.
#[derive(Debug, Clone)]
struct Occurrence {
    generation: u32,
    identity: (String, String),
    /// With its code as the settings of its offset take it.
    call: PlainCall,
    /// Its call was refused afterwards.
    refused: bool,
}

/// Where a generation begins: its first offset, and the watermark there.
#[derive(Debug, Clone, Copy, Default)]
struct Start {
    offset: i64,
    clock_ms: Option<i64>,
}

/// One source partition, counted naively.
#[derive(Debug, Default)]
struct Recount {
    /// Records counted.
    at: usize,
    epochs: Vec<(i64, CountingSettings)>,
    watermark: Option<i64>,
    horizon: i32,
    totals: Totals,
    closed: u64,
    rows: BTreeMap<Row, u64>,
    items: BTreeMap<(String, Day, i64), Vec<Item>>,
    item_calls: HashMap<(String, i64), u32>,
    generation: u32,
    /// Of the younger and the older generation.
    starts: [Start; 2],
    occurrences: Vec<Occurrence>,
    dead: BTreeSet<i64>,
    last: Option<Checkpoint>,
    facts: u64,
    item_count: u64,
    /// Facts at every checkpoint, by its `next_offset`.
    facts_at: HashMap<i64, u64>,
    late_items: u64,
    limited: u64,
    ignored: u64,
    duplicates_of_prev: u64,
    duplicates_late: u64,
    duplicates_of_refused: u64,
    /// Calls that are not counted: over the limit of rows, too old, and the unsuccessful ones of both; and failing ones
    /// that are not itemised.
    uncounted: BTreeMap<(String, Day), [u64; 4]>,
    /// Tenants by month, and those that came when the month had refused others.
    admitted: BTreeSet<(String, i32)>,
    late_tenants: BTreeSet<(String, i32)>,
    /// Calls of tenants that the month had no room for.
    unadmitted: BTreeMap<i32, u64>,
    /// Other dead letters, by month of arrival and reason.
    rejected: BTreeMap<(Option<i32>, &'static str), u64>,
    refused_tenants: u64,
    /// What failing calls count for the limit of evidence, by month.
    evidence_bytes: BTreeMap<i32, u64>,
    unheld: u64,
    /// Retention took records away before they were counted: the recount cannot follow.
    gap: bool,
}

/// All partitions and the dead letters.
#[derive(Debug)]
pub struct Oracle {
    shards: Vec<Recount>,
    /// Copies of each dead letter that became visible: all, and those of torn flushes.
    letters: BTreeMap<(u32, i64), (u32, u32)>,
    /// Do instances start with other settings?
    pub settings_change: bool,
    /// Rulings that became visible, with the digest that was written first.
    pub rulings: BTreeMap<String, [u8; 32]>,
    /// The same at every checkpoint of the rulings' shard, by its sequence number.
    rulings_at: HashMap<u64, BTreeMap<String, [u8; 32]>>,
    /// Rulings that were active at a flush that committed.
    pub promised: BTreeSet<String>,
    /// Rulings that a torn flush left behind.
    pub torn_rulings: u64,
    /// Alerts by key and id: how often a torn flush published them.
    torn_alerts: HashMap<(Vec<u8>, Vec<u8>), u32>,
    /// Alerts that became visible in the ledger, by key and id.
    alerts_written: BTreeSet<(Vec<u8>, Vec<u8>)>,
}

fn day_of(time_ms: i64) -> Day {
    // The zone of the simulated ledger has had one offset all along.
    let days = (time_ms + 8 * 3_600_000).div_euclid(86_400_000);
    let date = chrono::NaiveDate::from_epoch_days(days as i32).unwrap();
    use chrono::Datelike;
    (date.year() * 12 + date.month0() as i32, date.day())
}

fn hash(of: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

fn second(ms: i64) -> i64 {
    ms.div_euclid(1000)
}

impl Recount {
    fn settings(&self, offset: i64) -> &CountingSettings {
        let at = self.epochs.iter().rposition(|(from, _)| *from <= offset).unwrap_or(0);
        &self.epochs[at].1
    }

    /// The occurrences that the window holds.
    fn held(&self) -> impl DoubleEndedIterator<Item = &Occurrence> {
        self.occurrences.iter().filter(|o| o.generation + 1 >= self.generation)
    }

    /// The rule of generations, at every record that is not ignored.
    fn rotate(&mut self, offset: i64, window_s: u32) {
        let Some(watermark) = self.watermark else { return };
        match self.starts[0].clock_ms {
            // The older generation of the very first one begins with it, and never gets a clock.
            None => self.starts[0].clock_ms = Some(watermark),
            Some(clock) if watermark >= clock + i64::from(window_s) * 1000 => {
                self.generation += 1;
                self.starts = [Start { offset, clock_ms: Some(watermark) }, self.starts[0]];
            }
            Some(_) => {}
        }
    }

    fn count(&mut self, partition: usize, entry: &SourceEntry) {
        let settings = self.settings(entry.offset).clone();
        self.totals.seen += 1;
        let ignored = |range: &IgnoredRange| range.partition as usize == partition && range.holds(entry.offset);
        if settings.ignore_timestamps.iter().any(ignored) {
            self.ignored += 1;
            self.reject(self.watermark.map(|ms| day_of(ms).0), "clock");
            return self.quarantine(entry.offset);
        }
        if let Some(timestamp) = entry.timestamp_ms
            && self.watermark.is_none_or(|w| timestamp > w)
        {
            let new_second = self.watermark.is_none_or(|w| second(w) != second(timestamp));
            self.watermark = Some(timestamp);
            if new_second {
                let keep = (i64::from(settings.max_age_s) / 86_400 + 1).max(90);
                self.close(day_of(timestamp - keep * 86_400_000).0);
            }
        }
        self.rotate(entry.offset, settings.dedupe_window_s);
        let month_of_arrival = entry.timestamp_ms.or(self.watermark).map(|ms| day_of(ms).0);
        let call = match &entry.meaning {
            Meaning::Call(call) => call,
            Meaning::Malformed(reason) => {
                self.totals.malformed += 1;
                self.dead.insert(entry.offset);
                self.reject(month_of_arrival, Rejection::Malformed(*reason).as_str());
                return;
            }
        };
        let arrival = entry.timestamp_ms.or(self.watermark).unwrap_or(call.time_ms);
        let day = day_of(call.time_ms);
        if call.time_ms > arrival + 300_000 {
            self.reject(month_of_arrival, "future");
            return self.quarantine(entry.offset);
        }
        if call.time_ms < arrival - i64::from(settings.max_age_s) * 1000 {
            if day.0 < self.horizon {
                self.reject(month_of_arrival, "too_old");
            } else {
                let code = call.code.filter(|c| !settings.success_codes.iter().any(|s| s == c));
                self.uncount(&PlainCall { code, ..call.clone() }, day, 1, &settings);
            }
            return self.quarantine(entry.offset);
        }
        let code = call.code.filter(|c| !settings.success_codes.iter().any(|s| s == c));
        let call = PlainCall { code, ..call.clone() };
        let identity = (call.tenant.to_string(), call.request_id.clone());
        let last = self.held().rfind(|o| o.identity == identity).cloned();
        let refused = last.as_ref().is_some_and(|last| last.refused);
        let occurrence = Occurrence { generation: self.generation, identity, call: call.clone(), refused };
        self.occurrences.push(occurrence);
        if let Some(last) = last {
            self.totals.duplicate += 1;
            self.totals.duplicate_conflicts += u64::from(last.call != call);
            self.duplicates_of_prev += u64::from(last.generation < self.generation);
            self.duplicates_of_refused += u64::from(refused);
            let late = self.watermark.is_some_and(|w| w - call.time_ms > i64::from(settings.dedupe_window_s) * 1000);
            self.duplicates_late += u64::from(late);
            return;
        }
        if day.0 < self.horizon {
            self.reject(month_of_arrival, "too_old");
            return self.refuse(entry.offset);
        }
        let all = (call.tenant.to_string(), day, call.action.to_string(), None);
        let not_ok = call.code.is_some() || call.flag == Flag::True;
        let outcome = (
            call.tenant.to_string(),
            day,
            call.action.to_string(),
            Some((call.code.map(String::from), call.flag as u8)),
        );
        let month_rows = self.rows.keys().filter(|(t, d, _, _)| *t == call.tenant && d.0 == day.0).count();
        let missing =
            usize::from(!self.rows.contains_key(&all)) + usize::from(not_ok && !self.rows.contains_key(&outcome));
        if !self.has_room(&call, day, &settings) {
            self.uncount(&call, day, 0, &settings);
            return self.refuse(entry.offset);
        }
        if missing > 0 && month_rows + missing > settings.rows_per_tenant_month as usize {
            self.limited += 1;
            self.uncount(&call, day, 0, &settings);
            return self.refuse(entry.offset);
        }
        self.totals.counted += 1;
        self.admit(&call, day);
        let in_window = self.calls_in_second(&call);
        self.add_row(all);
        if not_ok {
            self.add_row(outcome);
        }
        self.itemise(entry.offset, &call, day, in_window, &settings);
    }

    /// Is there room for the call's tenant in the month?
    fn has_room(&self, call: &PlainCall, day: Day, settings: &CountingSettings) -> bool {
        let tenants = self.admitted.iter().filter(|(_, month)| *month == day.0).count();
        self.admitted.contains(&(call.tenant.to_string(), day.0)) || tenants < settings.tenants_per_month as usize
    }

    fn admit(&mut self, call: &PlainCall, day: Day) {
        let key = (call.tenant.to_string(), day.0);
        if self.admitted.insert(key.clone()) && self.unadmitted.contains_key(&day.0) {
            self.facts = self.facts.wrapping_add(hash((&key, "late")));
            self.late_tenants.insert(key);
        }
    }

    /// A call that is not counted, for the limits (0) or its age (1).
    fn uncount(&mut self, call: &PlainCall, day: Day, why: usize, settings: &CountingSettings) {
        if !self.has_room(call, day, settings) {
            *self.unadmitted.entry(day.0).or_default() += 1;
            self.refused_tenants += 1;
            return;
        }
        self.admit(call, day);
        self.note_uncounted((call.tenant.to_string(), day), |calls| {
            calls[why] += 1;
            calls[2] += u64::from(call.code.is_some() || call.flag == Flag::True);
        });
    }

    fn note_uncounted(&mut self, key: (String, Day), change: impl FnOnce(&mut [u64; 4])) {
        let calls = self.uncounted.entry(key.clone()).or_default();
        self.facts = self.facts.wrapping_sub(if *calls == [0; 4] { 0 } else { hash((&key, *calls)) });
        change(calls);
        self.facts = self.facts.wrapping_add(hash((&key, *calls)));
    }

    /// What came in a month that is closed by now is not reported.
    fn reject(&mut self, month: Option<i32>, reason: &'static str) {
        if month.is_some_and(|month| month < self.horizon) {
            return;
        }
        *self.rejected.entry((month, reason)).or_default() += 1;
    }

    fn quarantine(&mut self, offset: i64) {
        self.totals.quarantined += 1;
        self.dead.insert(offset);
    }

    /// A call that was entered and is not counted.
    fn refuse(&mut self, offset: i64) {
        if let Some(last) = self.occurrences.last_mut() {
            last.refused = true;
        }
        self.quarantine(offset);
    }

    /// The distinct ids held whose earliest held occurrence is in the call's second.
    fn calls_in_second(&self, call: &PlainCall) -> u32 {
        let mut earliest: BTreeMap<&(String, String), i64> = BTreeMap::new();
        for occurrence in self.held().filter(|o| o.call.tenant == call.tenant) {
            earliest.entry(&occurrence.identity).or_insert(second(occurrence.call.time_ms));
        }
        earliest.values().filter(|at| **at == second(call.time_ms)).count() as u32
    }

    fn itemise(&mut self, offset: i64, call: &PlainCall, day: Day, in_window: u32, settings: &CountingSettings) {
        let listed = |c: &str| settings.not_itemised.iter().any(|n| n == c);
        let itemised = call.flag == Flag::True || call.code.is_some_and(|c| !listed(c));
        let bytes = self.evidence_bytes.entry(day.0).or_default();
        let more = *bytes + 32 + call.request_id.len() as u64;
        let held = itemised && more <= settings.evidence_bytes_per_month;
        *bytes = if held { more } else { *bytes };
        if itemised && !held {
            self.unheld += 1;
            self.note_uncounted((call.tenant.to_string(), day), |calls| calls[3] += 1);
        }
        let itemised = held;
        let key = (call.tenant.to_string(), second(call.time_ms));
        let known = self.item_calls.get(&key).copied();
        self.late_items += u64::from(known.is_some_and(|known| known >= in_window));
        let calls = known.map_or(in_window, |known| in_window.max(known + 1));
        if known.is_some() || itemised {
            let day_key = (key.0.clone(), day, 0);
            let items = self.items.entry(day_key).or_default();
            for item in items.iter().filter(|i| i.second == key.1) {
                self.facts =
                    self.facts.wrapping_sub(hash((item.hash, known))).wrapping_add(hash((item.hash, Some(calls))));
            }
            self.item_calls.insert(key.clone(), calls);
            if itemised {
                let content = (offset, call.time_ms, call.action, call.code, call.flag as u32, &call.request_id);
                let item = Item { second: key.1, hash: hash((call.tenant, content)) };
                self.facts = self.facts.wrapping_add(hash((item.hash, Some(calls))));
                self.item_count += 1;
                items.push(item);
            }
        }
    }

    fn add_row(&mut self, row: Row) {
        let base = hash(&row);
        let calls = self.rows.entry(row).or_default();
        if *calls > 0 {
            self.facts = self.facts.wrapping_sub(hash((base, *calls)));
        }
        *calls += 1;
        self.facts = self.facts.wrapping_add(hash((base, *calls)));
    }

    /// Months below the horizon are dropped; their calls stay counted.
    fn close(&mut self, horizon: i32) {
        if horizon <= self.horizon {
            return;
        }
        self.horizon = horizon;
        let (mut facts, mut closed, mut gone) = (self.facts, 0, 0);
        self.rows.retain(|row, calls| {
            let keep = row.1.0 >= horizon;
            if !keep {
                facts = facts.wrapping_sub(hash((hash(row), *calls)));
                closed += if row.3.is_none() { *calls } else { 0 };
            }
            keep
        });
        self.uncounted.retain(|key, calls| {
            let keep = key.1.0 >= horizon;
            facts = facts.wrapping_sub(if keep { 0 } else { hash((key, *calls)) });
            keep
        });
        self.late_tenants.retain(|key| {
            let keep = key.1 >= horizon;
            facts = facts.wrapping_sub(if keep { 0 } else { hash((key, "late")) });
            keep
        });
        self.admitted.retain(|(_, month)| *month >= horizon);
        self.unadmitted.retain(|month, _| *month >= horizon);
        self.rejected.retain(|(month, _), _| month.is_none_or(|month| month >= horizon));
        let item_calls = &mut self.item_calls;
        self.items.retain(|(tenant, day, _), items| {
            let keep = day.0 >= horizon;
            if !keep {
                for item in &*items {
                    let calls = item_calls.get(&(tenant.clone(), item.second)).copied();
                    facts = facts.wrapping_sub(hash((item.hash, calls)));
                    gone += 1;
                }
                for item in items {
                    item_calls.remove(&(tenant.clone(), item.second));
                }
            }
            keep
        });
        self.facts = facts;
        self.closed += closed;
        self.item_count -= gone;
    }

    fn window(&self) -> WindowContents {
        let [cur, prev] = self.starts;
        let older = self.generation.checked_sub(1);
        WindowContents {
            watermark_ms: self.watermark,
            cur: self.contents(Some(self.generation), cur, Some(older)),
            prev: self.contents(older, prev, None),
        }
    }

    /// The contents of one generation; `before`: what is not fresh is held in this one, if fresh ids count still.
    fn contents(&self, generation: Option<u32>, start: Start, before: Option<Option<u32>>) -> GenerationContents {
        let scratch = Window::new(GenerationStart { offset: 0, watermark_ms: None }, FINGERPRINT_KEYS);
        let of = |generation: Option<u32>| self.occurrences.iter().filter(move |o| Some(o.generation) == generation);
        let fingerprint = |o: &Occurrence| {
            scratch.fingerprint(&Call {
                tenant: o.call.tenant.into(),
                request_id: o.call.request_id.as_str().into(),
                time_ms: o.call.time_ms,
                action: o.call.action.into(),
                code: o.call.code.map(Into::into),
                system_error: o.call.flag,
            })
        };
        let mut ids: BTreeMap<u128, u32> = BTreeMap::new();
        let mut seconds: BTreeMap<(u64, i64), (u32, u32)> = BTreeMap::new();
        for occurrence in of(generation) {
            let fingerprint = fingerprint(occurrence);
            if ids.insert(fingerprint.identity(), fingerprint.content()).is_none() {
                let known = before.is_none_or(|before| of(before).any(|o| o.identity == occurrence.identity));
                let at = (fingerprint.tenant(), second(occurrence.call.time_ms));
                let (all, fresh) = seconds.entry(at).or_default();
                (*all, *fresh) = (*all + 1, *fresh + u32::from(!known));
            }
        }
        GenerationContents {
            offset: start.offset,
            clock_ms: start.clock_ms,
            ids: ids.into_iter().collect(),
            seconds: seconds.into_iter().map(|((tenant, s), (all, n))| (tenant, s, all, n)).collect(),
        }
    }
}

impl Oracle {
    pub fn new(shards: usize, settings_change: bool) -> Self {
        Self {
            shards: (0..shards).map(|_| Recount::default()).collect(),
            letters: BTreeMap::new(),
            settings_change,
            rulings: BTreeMap::new(),
            rulings_at: HashMap::new(),
            promised: BTreeSet::new(),
            torn_rulings: 0,
            torn_alerts: HashMap::new(),
            alerts_written: BTreeSet::new(),
        }
    }

    /// Records were lost before they were counted (or before a window could be rebuilt).
    pub fn gap(&mut self, shard: u32) {
        self.shards[shard as usize].gap = true;
    }

    /// Records became visible to a `read_committed` reader.
    pub fn visible(
        &mut self,
        source: &[SourceLog],
        partition: usize,
        torn: bool,
        entries: &[LogEntry],
    ) -> Result<(), String> {
        for entry in entries {
            if partition > source.len() {
                let told = (entry.key.to_vec(), entry.value.as_deref().unwrap_or_default().to_vec());
                *self.torn_alerts.entry(told).or_default() += u32::from(torn);
            } else if partition == source.len() {
                let (shard, offset) = letter_id(&entry.key);
                let letter = self.letters.entry((shard, offset)).or_default();
                letter.0 += 1;
                letter.1 += u32::from(torn);
                let payload =
                    source[shard as usize].entries.iter().find(|e| e.offset == offset).map(|e| e.payload.as_deref());
                if payload != Some(entry.value.as_deref()) {
                    return Err(format!("dead letter {shard}/{offset} has other bytes than the record"));
                }
            } else if entry.key.starts_with(b"C ") {
                let value = entry.value.as_deref().unwrap_or_default();
                let checkpoint = Checkpoint::decode_value(value).map_err(|e| e.to_string())?;
                if partition as u32 == RULINGS_SHARD {
                    self.rulings_at.insert(checkpoint.seq, self.rulings.clone());
                }
                self.checkpoint(&source[partition], partition, checkpoint)?;
            } else if entry.key.starts_with(b"A ") {
                self.alert(&entry.key, entry.value.as_deref())?;
            } else if entry.key.starts_with(b"R ") {
                self.torn_rulings += u64::from(torn);
                self.ruling(partition as u32, &entry.key, entry.value.as_deref())?;
            }
        }
        Ok(())
    }

    /// A ruling is written by the owner of its shard, never taken away, and never changed.
    fn ruling(&mut self, partition: u32, key: &[u8], value: Option<&[u8]>) -> Result<(), String> {
        let Ok((RULINGS_SHARD, Key::Ruling { id })) = Key::decode(key) else {
            return Err(format!("a ruling under {}", String::from_utf8_lossy(key)));
        };
        let value = value.ok_or_else(|| format!("ruling {id} is taken away"))?;
        let sha256 = AppliedRuling::decode_value(value).map_err(|e| e.to_string())?.sha256();
        let first = *self.rulings.entry(id.to_string()).or_insert(sha256);
        if partition != RULINGS_SHARD || first != sha256 {
            return Err(format!("ruling {id} is altered, or stands in partition {partition}"));
        }
        Ok(())
    }

    /// What the ledger says of an alert must have been published by the end.
    fn alert(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), String> {
        let (_, key) = Key::decode(key).map_err(|e| e.to_string())?;
        let Some(value) = value else { return Ok(()) };
        let record = AlertRecord::decode_value(value).map_err(|e| e.to_string())?;
        let state = record.state().ok_or("an alert that this version does not know")?;
        self.alerts_written.insert((key.encode(0).into_bytes(), alert_id(&state).into_bytes()));
        Ok(())
    }

    /// All instances have read everything: was each alert published, once except for torn flushes, in order, and is the
    /// last published state the valid one?
    pub fn alerts_told(&self, broker: &Broker, book: &Book) -> Result<u64, String> {
        let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (told, _, _) = broker.logs[broker.alerts()].read(0, usize::MAX);
        let mut copies: HashMap<(Vec<u8>, Vec<u8>), u32> = HashMap::new();
        let mut last: BTreeMap<Vec<u8>, (bool, u64)> = BTreeMap::new();
        let mut ids = 0;
        for entry in told {
            let (key, id) = (entry.key.to_vec(), entry.value.as_deref().unwrap_or_default().to_vec());
            let copy = copies.entry((key.clone(), id.clone())).or_default();
            *copy += 1;
            let torn = self.torn_alerts.get(&(key.clone(), id.clone())).copied().unwrap_or_default();
            if *copy > torn + 1 {
                return Err(format!("{} `{}` is told {copy} times, {torn} times torn", shown(&key), shown(&id)));
            }
            if *copy > 1 {
                continue;
            }
            ids += 1;
            let text = shown(&id);
            let (status, generation) = text.split_once(' ').ok_or("no id")?;
            let now = (status == "firing", generation.parse::<u64>().map_err(|e| e.to_string())?);
            let before = last.insert(key.clone(), now).unwrap_or((false, 0));
            let follows = if now.0 { !before.0 && now.1 == before.1 + 1 } else { before.0 && now.1 == before.1 };
            if !follows {
                return Err(format!("{} tells {now:?} after {before:?}", shown(&key)));
            }
        }
        if let Some((key, id)) = self.alerts_written.iter().find(|told| !copies.contains_key(*told)) {
            return Err(format!("{} `{}` stands in the ledger and was never told", shown(key), shown(id)));
        }
        let mut standings = Standings::new(contract());
        standings.refresh(book, &book.tenants().cloned().collect::<Vec<_>>());
        for (key, calls) in watched(&standings) {
            let home = book.shard(home_shard(&key.tenant, broker.source.len() as u32));
            let horizon = home.and_then(|home| home.checkpoint()).map_or(0, |c| c.horizon);
            if key.period_start.is_some_and(|day| day.month().0 < horizon) {
                continue;
            }
            let told = last.get(&Key::Alert(key.clone()).encode(0).into_bytes()).is_some_and(|(firing, _)| *firing);
            let right = match verdict(calls) {
                Verdict::Holds(..) => told,
                Verdict::Over(_) => !told,
                _ => true,
            };
            if !right {
                return Err(format!("{key:?} with {calls} calls: firing is {told}"));
            }
        }
        Ok(ids)
    }

    fn checkpoint(&mut self, source: &SourceLog, shard: usize, new: Checkpoint) -> Result<(), String> {
        let recount = &mut self.shards[shard];
        let (seq, from) = recount.last.as_ref().map_or((0, new.from), |c| (c.seq, c.next_offset));
        if new.seq != seq + 1 || new.from != from || new.next_offset < from {
            return Err(format!(
                "shard {shard}: checkpoint {} ({} → {}) after {seq} ({from})",
                new.seq, new.from, new.next_offset
            ));
        }
        if recount.last.is_none() {
            recount.at = source.entries.partition_point(|e| e.offset < new.start_offset);
            recount.starts = [Start { offset: new.start_offset, clock_ms: None }; 2];
        }
        recount.epochs.retain(|(at, _)| *at < from);
        for epoch in new.epochs.iter().filter(|e| e.from_offset >= from) {
            let settings = serde_json::from_str(&epoch.settings).map_err(|e| e.to_string())?;
            recount.epochs.push((epoch.from_offset, settings));
        }
        if recount.gap {
            recount.last = Some(new);
            return Ok(());
        }
        while let Some(entry) = source.entries.get(recount.at).filter(|e| e.offset < new.next_offset) {
            recount.count(shard, entry);
            recount.at += 1;
        }
        if source.low() <= new.floor_offset {
            let (rebuilt, window) = (rebuilt(source, shard as u32, &new)?, recount.window());
            if rebuilt != window {
                return Err(format!(
                    "shard {shard}: from checkpoint {} a new owner holds\n  {rebuilt:?}, a recount\n  {window:?}",
                    new.seq
                ));
            }
        }
        let held = (new.totals, new.closed, new.items, new.horizon, new.watermark_ms);
        let counted = (recount.totals, recount.closed, recount.item_count, recount.horizon, recount.watermark);
        if held != counted {
            return Err(format!(
                "shard {shard}: checkpoint {} says\n  {held:?}, a recount up to {}\n  {counted:?}",
                new.seq, new.next_offset
            ));
        }
        let rejected: BTreeMap<_, _> = new.rejected.iter().map(|r| ((r.month, r.reason.as_str()), r.records)).collect();
        let unadmitted: BTreeMap<_, _> = new.unadmitted.iter().map(|u| (u.month, u.calls)).collect();
        if (&rejected, &unadmitted) != (&recount.rejected, &recount.unadmitted) {
            return Err(format!(
                "shard {shard}: checkpoint {} says that it rejected\n  {rejected:?} {unadmitted:?}, a recount\n  {:?} {:?}",
                new.seq, recount.rejected, recount.unadmitted
            ));
        }
        recount.facts_at.insert(new.next_offset, recount.facts);
        recount.last = Some(new);
        Ok(())
    }

    /// Does a new owner that begins at this flush's checkpoint hold the window that its owner holds? `false`: the source no
    /// longer has what it would read.
    pub fn rebuild(&self, source: &SourceLog, flush: &Flush, owner: &WindowContents) -> Result<bool, String> {
        let checkpoint = Checkpoint::decode_value(&flush.checkpoint.1).map_err(|e| e.to_string())?;
        if source.low() > checkpoint.floor_offset {
            return Ok(false);
        }
        let rebuilt = rebuilt(source, flush.shard, &checkpoint)?;
        if rebuilt != *owner {
            let (shard, seq) = (flush.shard, flush.seq);
            return Err(format!(
                "shard {shard}: from checkpoint {seq} a new owner holds\n  {rebuilt:?}, its owner\n  {owner:?}"
            ));
        }
        Ok(true)
    }

    /// A book has published a shard: its facts must be those of the checkpoint's prefix.
    pub fn published(&self, shard: u32, book: &ShardBook) -> Result<(), String> {
        let recount = &self.shards[shard as usize];
        let rulings: BTreeMap<String, [u8; 32]> =
            book.applied_rulings().map(|(id, sha)| (id.to_owned(), sha)).collect();
        let none = BTreeMap::new();
        let expected = book.checkpoint().filter(|_| shard == RULINGS_SHARD).and_then(|c| self.rulings_at.get(&c.seq));
        if rulings != *expected.unwrap_or(&none) {
            return Err(format!("shard {shard}: the rulings published are {rulings:?}, written were {expected:?}"));
        }
        let Some(checkpoint) = book.checkpoint().filter(|_| !recount.gap) else { return Ok(()) };
        let expected = recount.facts_at.get(&checkpoint.next_offset);
        let found = facts(book);
        if expected != Some(&found) {
            let next = checkpoint.next_offset;
            return Err(format!(
                "shard {shard}: the figures published at {next} are not those of a recount\n  {:?}\n  {:?}",
                rows(book),
                recount.rows
            ));
        }
        Ok(())
    }

    /// Everything is counted: is it all there?
    pub fn finished(&self, broker: &Broker, shard: &Shard, book: &ShardBook) -> Result<(), String> {
        let id = shard.id();
        let recount = &self.shards[id as usize];
        let end = broker.source[id as usize].high();
        let checkpoint = book.checkpoint().ok_or_else(|| format!("shard {id} has no checkpoint"))?;
        if checkpoint.next_offset < end {
            return Err(format!("shard {id} ends at {} of {end}", checkpoint.next_offset));
        }
        if id == RULINGS_SHARD {
            let held: BTreeMap<String, [u8; 32]> =
                book.applied_rulings().map(|(id, sha)| (id.to_owned(), sha)).collect();
            let lost = self.promised.iter().find(|id| !held.contains_key(*id));
            if held != self.rulings || lost.is_some() {
                return Err(format!(
                    "the book's rulings are {held:?}, written were {:?}; lost: {lost:?}",
                    self.rulings
                ));
            }
        }
        if recount.gap {
            return Ok(());
        }
        self.published(id, book)?;
        let window = recount.window();
        if shard.window() != window {
            return Err(format!("shard {id}: the windows differ\n  {:?}\n  {window:?}", shard.window()));
        }
        for offset in &recount.dead {
            let (all, torn) = self.letters.get(&(id, *offset)).copied().unwrap_or_default();
            if all == 0 || all > torn + 1 {
                return Err(format!("dead letter {id}/{offset} is there {all} times, {torn} times torn"));
            }
        }
        // A dead letter of a torn flush remains, although with settings changed afterwards its record may have been
        // counted.
        let excused = |copies: (u32, u32)| copies.0 == copies.1 && self.settings_change;
        match self.letters.iter().find(|((s, o), copies)| *s == id && !recount.dead.contains(o) && !excused(**copies)) {
            Some(((_, offset), _)) => Err(format!("dead letter {id}/{offset} was none")),
            None => Ok(()),
        }
    }

    /// Interesting things in the traffic: late items, calls over the limit, duplicates, conflicts, quarantined, closed calls.
    pub fn coverage(&self) -> [(&'static str, u64); 18] {
        let sum = |of: fn(&Recount) -> u64| self.shards.iter().map(of).sum();
        [
            ("late_items", sum(|r| r.late_items)),
            ("limited", sum(|r| r.limited)),
            ("unheld", sum(|r| r.unheld)),
            ("ignored", sum(|r| r.ignored)),
            ("rotations", sum(|r| r.generation.into())),
            ("duplicates_of_prev", sum(|r| r.duplicates_of_prev)),
            ("duplicates_late", sum(|r| r.duplicates_late)),
            ("duplicates_of_refused", sum(|r| r.duplicates_of_refused)),
            ("refused_tenants", sum(|r| r.refused_tenants)),
            ("late_tenants", sum(|r| r.late_tenants.len() as u64)),
            ("uncounted", sum(|r| r.uncounted.values().map(|calls| calls[0] + calls[1]).sum())),
            ("duplicates", sum(|r| r.totals.duplicate)),
            ("conflicts", sum(|r| r.totals.duplicate_conflicts)),
            ("quarantined", sum(|r| r.totals.quarantined)),
            ("closed_calls", sum(|r| r.closed)),
            ("items", sum(|r| r.item_count)),
            ("rulings", self.rulings.len() as u64),
            ("torn_rulings", self.torn_rulings),
        ]
    }
}

/// The window of a new owner that takes over from a checkpoint and has read up to it.
fn rebuilt(source: &SourceLog, shard: u32, checkpoint: &Checkpoint) -> Result<WindowContents, String> {
    let epoch = checkpoint.epochs.last().ok_or("a checkpoint without settings")?;
    let settings: CountingSettings = serde_json::from_str(&epoch.settings).map_err(|e| e.to_string())?;
    let state = ShardState { checkpoint: Some(checkpoint.clone()), ..ShardState::default() };
    let owner = Owner::new(shard, "next", FINGERPRINT_KEYS);
    let mut next = Shard::take_over(owner, &settings, state, source.low()).map_err(|e| e.to_string())?;
    while let Some(entry) = source.at(next.position()).filter(|e| e.offset < checkpoint.next_offset) {
        next.ingest(&entry.record());
    }
    Ok(next.window())
}

/// The id of a dead letter: shard and source offset.
pub fn letter_key(shard: u32, offset: i64) -> String {
    format!("{shard}/{offset}")
}

fn letter_id(key: &[u8]) -> (u32, i64) {
    let text = std::str::from_utf8(key).unwrap();
    let (shard, offset) = text.split_once('/').unwrap();
    (shard.parse().unwrap(), offset.parse().unwrap())
}

fn rows(book: &ShardBook) -> BTreeMap<Row, u64> {
    let mut rows = BTreeMap::new();
    for tenant in book.tenants() {
        for month in book.months(tenant) {
            for (_, day) in &month.days() {
                let name = |number: u32| book.names().name(day, number).to_owned();
                let at = (month.month.0, day.day);
                for (action, calls) in day.actions.iter().zip(&day.calls) {
                    *rows.entry((tenant.to_string(), at, name(*action), None)).or_default() += calls;
                }
                for (i, calls) in day.outcome_calls.iter().enumerate() {
                    let code = day.outcome_codes[i].checked_sub(1).map(name);
                    let row = (
                        tenant.to_string(),
                        at,
                        name(day.outcome_actions[i]),
                        Some((code, day.outcome_flags[i] as u8)),
                    );
                    *rows.entry(row).or_default() += calls;
                }
            }
        }
    }
    rows
}

/// The same sum over the book's facts that the recount keeps.
fn facts(book: &ShardBook) -> u64 {
    let mut sum = 0u64;
    for (row, calls) in rows(book) {
        sum = sum.wrapping_add(hash((hash(&row), calls)));
    }
    for tenant in book.tenants() {
        for month in book.months(tenant) {
            if month.admitted_late {
                sum = sum.wrapping_add(hash(((tenant.to_string(), month.month.0), "late")));
            }
            for (_, day) in month.days() {
                let (key, calls) =
                    ((tenant.to_string(), (month.month.0, day.day)), [day.limit, day.too_old, day.not_ok, day.unheld]);
                sum = sum.wrapping_add(if calls == [0; 4] { 0 } else { hash((key, calls)) });
            }
        }
        for (day, chunk) in book.chunks(tenant) {
            for item in chunk {
                let at = day_of(item.time_ms);
                if (day.month().0, day.day_of_month()) != at {
                    return 0;
                }
                let content = (
                    item.offset,
                    item.time_ms,
                    item.action.as_str(),
                    item.code.as_deref(),
                    item.flag,
                    &item.request_id,
                );
                let item_hash = hash((&**tenant, content));
                sum = sum.wrapping_add(hash((item_hash, Some(item.calls_in_second))));
            }
        }
    }
    sum
}

#[test]
fn the_zone_has_one_offset() {
    for month in 1..=12 {
        let midnight = chrono_tz::Asia::Shanghai.with_ymd_and_hms(2026, month, 1, 0, 0, 0).unwrap().timestamp_millis();
        assert_eq!(day_of(midnight), (2026 * 12 + month as i32 - 1, 1));
    }
}
