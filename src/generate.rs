//! Traffic to try the ledger with: call events that are the same for the same [`Plan`], and beside them what a counter
//! must find ([`Expected`]).
//!
//! - [`Generator`] makes events; it is pure: no clock, no I/O. Its iterator spreads the plan's events over the plan's
//!   time; [`Generator::fill_at`] is for callers with a clock of their own.
//! - [`sink`] and [`kafka`] take events to a JSONL file or a topic; [`live`] generates at the wall clock.
//!
//! The expected result does not come from decoding and counting the events again: the generator knows what each event
//! is meant to be ([`Meant`]) and adds that up. So that there is only one right answer for every event:
//! - arrivals never decrease, so the watermark is the arrival of the event itself, also in each partition;
//! - request ids are unique, except for duplicates; those arrive with the content's own event time, at least
//!   [`plan::DEDUPE_MARGIN_MS`] before the first occurrence leaves the dedupe window; calls later than that are never repeated;
//! - a call that was repeated with another content is not repeated again;
//! - a malformed event has exactly one mistake.
//!
//! Not here: the pipeline. None of its code is used, so that the same bug cannot be in both.

pub mod expected;
pub mod kafka;
pub mod live;
pub mod plan;
pub mod sink;

mod catalog;
mod encode;
mod incidents;
mod random;
mod recent;
mod schedule;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

pub use expected::{Expected, Malformed, Meant, Quarantined};
pub use plan::{Incident, Plan, PlanError, Shares, Trouble};

use catalog::Catalog;
pub use catalog::tenant_name;
use encode::{Encoder, Fields, Flag};
use expected::{Outcome, Tally};
use incidents::{Incidents, Window};
use random::{Random, Weighted, mix};
use recent::{Recent, Remembered};
use schedule::{DAY_MS, Schedule};

/// One record for the calls topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The tenant; a random key if a malformed event has no tenant.
    pub key: Option<Vec<u8>>,
    /// `None` is a tombstone.
    pub payload: Option<Vec<u8>>,
    /// Record headers (binary CloudEvents).
    pub headers: Vec<(String, Vec<u8>)>,
    /// The record's timestamp, milliseconds since 1970-01-01T00:00:00Z.
    pub arrival_ms: i64,
    /// For topics not keyed by tenant: the same for all occurrences of a call, otherwise random.
    pub partition_hint: u64,
    /// What it was meant to be.
    pub meant: Meant,
    /// Whether the payload is a JSON object, to which a JSONL file can add the arrival.
    pub object: bool,
}

impl Default for Event {
    fn default() -> Self {
        Self {
            key: None,
            payload: None,
            headers: Vec::new(),
            arrival_ms: 0,
            partition_hint: 0,
            meant: Meant::Call,
            object: false,
        }
    }
}

/// Makes a plan's events, and knows what it made.
#[derive(Debug, Clone)]
pub struct Generator {
    plan: Plan,
    catalog: Catalog,
    random: Random,
    /// By rank: the name, and the level it is steered to.
    tenants: Vec<(String, Option<Trouble>)>,
    /// Calls and failures so far of the tenants in trouble.
    steered: HashMap<u32, (u64, u64)>,
    by_tenant: Weighted,
    by_action: Weighted,
    schedule: Schedule,
    incidents: Incidents,
    burst: Option<Burst>,
    recent: Recent,
    encoder: Encoder,
    request_id: String,
    /// Distinct request ids used.
    ids: u64,
    malformed: u64,
    quarantined: u64,
    large: u32,
    last_ms: i64,
    tally: Tally,
}

/// What the next event will be.
enum Next {
    Call,
    Duplicate(Remembered),
    Malformed(Malformed),
    Quarantined,
}

#[derive(Debug, Clone, Copy)]
struct Burst {
    tenant: u32,
    second_ms: i64,
    left: u32,
}

impl Generator {
    /// Starts a stream.
    ///
    /// # Errors
    /// If the plan is not valid.
    pub fn new(plan: Plan) -> Result<Self, PlanError> {
        plan.validate()?;
        let catalog = Catalog::new();
        let mut tenants: Vec<(String, Option<Trouble>)> =
            (0..plan.tenants).map(|rank| (catalog::tenant_name(rank), None)).collect();
        let apart = if plan.in_trouble * 2 <= plan.tenants { 2 } else { 1 };
        for (index, trouble) in (0..plan.in_trouble).zip(Trouble::ALL.iter().cycle()) {
            let rank = index * apart + (apart - 1);
            tenants[rank as usize].1 = Some(*trouble);
        }
        let weights: Vec<f64> = (1..=plan.tenants).map(|rank| f64::from(rank).powf(-plan.zipf)).collect();
        let in_window = plan.events as f64 * plan.dedupe_window_ms as f64 / plan.duration_ms as f64;
        let mut generator = Self {
            random: Random::new(plan.seed),
            steered: HashMap::new(),
            by_tenant: Weighted::new(&weights),
            by_action: Weighted::new(&catalog.weights),
            schedule: Schedule::new(plan.start_ms, plan.duration_ms, plan.events, plan.diurnal),
            incidents: Incidents::default(),
            burst: None,
            recent: Recent::new(in_window),
            encoder: Encoder::new(),
            request_id: String::with_capacity(36),
            ids: 0,
            malformed: 0,
            quarantined: 0,
            large: 0,
            last_ms: plan.start_ms,
            tally: Tally::default(),
            tenants,
            catalog,
            plan,
        };
        generator.draw_incidents();
        for incident in generator.plan.incidents.clone() {
            generator.add_incident(&incident, generator.plan.start_ms)?;
        }
        Ok(generator)
    }

    /// Adds an incident, counted from `start_ms`.
    ///
    /// # Errors
    /// If it names a tenant that is not generated.
    pub fn add_incident(&mut self, incident: &Incident, start_ms: i64) -> Result<(), PlanError> {
        let tenant = match &incident.tenant {
            None => None,
            Some(name) => match self.tenants.iter().position(|(known, _)| known == name) {
                Some(rank) => Some(rank as u32),
                None => {
                    return Err(PlanError(vec![format!(
                        "the incident `{incident}` names a tenant that is not generated"
                    )]));
                }
            },
        };
        let from_ms = start_ms + incident.starts_after_ms;
        self.incidents.add(Window {
            tenant,
            from_ms,
            to_ms: from_ms + incident.lasts_ms,
            share: incident.share,
            spares_troubled: false,
        });
        Ok(())
    }

    /// Unannounced incidents: mostly of one tenant, sometimes of all.
    fn draw_incidents(&mut self) {
        let mut random = Random::new(mix(self.plan.seed));
        for index in 0..self.plan.random_incidents {
            let longest = (self.plan.duration_ms / 8).clamp(1_000, 3_600_000);
            let lasts = random.between(longest / 12, longest);
            let from_ms = self.plan.start_ms + random.between(0, self.plan.duration_ms - lasts);
            let everybody = index % 4 == 3;
            let tenant = (!everybody).then(|| self.by_tenant.draw(&mut random));
            let share = if everybody { 0.002 + 0.02 * random.fraction() } else { 0.02 + 0.3 * random.fraction() };
            self.incidents.add(Window { tenant, from_ms, to_ms: from_ms + lasts, share, spares_troubled: true });
        }
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Events made so far.
    pub fn sent(&self) -> u64 {
        self.tally.seen()
    }

    /// What a counter must find in the events made so far.
    pub fn expected(&self) -> Expected {
        self.tally.expected(&self.plan, &self.tenants, &self.catalog)
    }

    /// Writes the plan's next event into `event`, reusing its buffers; `false` if no event is left.
    pub fn fill(&mut self, event: &mut Event) -> bool {
        let index = self.sent();
        if index >= self.plan.events {
            return false;
        }
        let jitter = self.random.fraction();
        let scheduled = self.schedule.at(index as f64 + jitter).max(self.last_ms);
        let mut arrival = if self.burst.is_some() {
            (self.last_ms + i64::from(self.random.below(50))).min(scheduled)
        } else {
            scheduled
        };
        let large_at = |count: u32| {
            u128::from(self.plan.events) * (u128::from(count) * 2 + 1) / (u128::from(self.plan.too_large) * 2)
        };
        let next = if self.large < self.plan.too_large && u128::from(index) >= large_at(self.large) {
            self.large += 1;
            Next::Malformed(Malformed::TooLarge)
        } else {
            self.choose(&mut arrival)
        };
        self.make(next, arrival, event);
        true
    }

    /// Makes an event that arrives at an instant of the caller's choice, beyond the plan's number of events. Instants
    /// that go back are clamped to the last one.
    pub fn fill_at(&mut self, arrival_ms: i64, event: &mut Event) {
        self.last_ms = self.last_ms.max(arrival_ms);
        let mut arrival = self.last_ms;
        let next = self.choose(&mut arrival);
        self.make(next, self.last_ms.max(arrival), event);
    }

    /// Sets the expected rate of [`Generator::fill_at`], in events per second, so that duplicates cover the whole
    /// window.
    pub fn expect_rate(&mut self, per_second: f64) {
        let in_window = per_second * self.plan.dedupe_window_ms as f64 / 1_000.0;
        self.recent.expect(in_window);
    }

    /// Draws what comes next. A duplicate with nothing to repeat at `arrival` comes earlier, right after the last
    /// event.
    fn choose(&mut self, arrival: &mut i64) -> Next {
        let shares = &self.plan.shares;
        let (malformed, quarantined, duplicates) = (shares.malformed, shares.quarantined, shares.duplicates);
        let drawn = self.random.fraction();
        if drawn < malformed {
            let reason = Malformed::ALL[(self.malformed % (Malformed::ALL.len() as u64 - 1)) as usize];
            self.malformed += 1;
            return Next::Malformed(reason);
        }
        if drawn < malformed + quarantined {
            return Next::Quarantined;
        }
        if drawn < malformed + quarantined + duplicates {
            if let Some(call) = self.repeatable(*arrival) {
                return Next::Duplicate(call);
            }
            let soon = (self.last_ms + i64::from(self.random.below(2_000))).min(*arrival);
            if let Some(call) = self.repeatable(soon) {
                *arrival = soon;
                return Next::Duplicate(call);
            }
        }
        Next::Call
    }

    /// A call whose repeat, arriving at this instant, is certainly a duplicate.
    fn repeatable(&mut self, arrival_ms: i64) -> Option<Remembered> {
        let oldest_ms = arrival_ms - (self.plan.dedupe_window_ms - plan::DEDUPE_MARGIN_MS);
        self.recent.draw(oldest_ms, &mut self.random)
    }

    fn make(&mut self, next: Next, arrival_ms: i64, event: &mut Event) {
        self.last_ms = arrival_ms;
        event.arrival_ms = arrival_ms;
        event.headers.clear();
        let (meant, outcome) = match next {
            Next::Call => self.make_call(arrival_ms, event),
            Next::Duplicate(call) => self.make_duplicate(call, event),
            Next::Malformed(reason) => self.make_malformed(reason, arrival_ms, event),
            Next::Quarantined => self.make_quarantined(arrival_ms, event),
        };
        event.meant = meant;
        self.tally.add(meant, &outcome, &self.catalog);
    }

    fn make_call(&mut self, arrival_ms: i64, event: &mut Event) -> (Meant, Outcome) {
        let (tenant, at_ms, late) = self.draw_tenant_and_time(arrival_ms);
        let action = self.by_action.draw(&mut self.random) as u16;
        let outcome = self.draw_outcome(tenant, at_ms, late, arrival_ms, action);
        let id = self.ids;
        self.ids += 1;
        self.write(id, &outcome, 1, event);
        if !late {
            self.recent.push(id, outcome, arrival_ms);
        }
        (Meant::Call, outcome)
    }

    fn draw_tenant_and_time(&mut self, arrival_ms: i64) -> (u32, i64, bool) {
        if let Some(mut burst) = self.burst.take() {
            burst.left -= 1;
            // A burst whose second is long past ends: its calls would be late.
            if arrival_ms - burst.second_ms < 30_000 {
                self.burst = (burst.left > 0).then_some(burst);
                return (burst.tenant, burst.second_ms + i64::from(self.random.below(1_000)), false);
            }
        }
        let tenant = self.by_tenant.draw(&mut self.random);
        let (late, out_of_order, bursts) =
            (self.plan.shares.late, self.plan.shares.out_of_order, self.plan.shares.bursts);
        let drawn = self.random.fraction();
        if drawn < late {
            return (tenant, arrival_ms - self.draw_lateness(), true);
        }
        let delay = if drawn < late + out_of_order {
            match self.random.below(20) {
                0 if self.plan.edges => -plan::FUTURE_LIMIT_MS,
                0..=2 => -i64::from(self.random.below(5_000)),
                _ => 500 + i64::from(self.random.below(29_500)),
            }
        } else {
            5 + i64::from(self.random.below(400))
        };
        let at_ms = arrival_ms - delay;
        // Not from an event ahead of its arrival: the rest of its second might be beyond the limit.
        if self.random.chance(bursts) && delay > 0 {
            let second_ms = at_ms - at_ms.rem_euclid(1_000);
            self.burst = Some(Burst { tenant, second_ms, left: 4 + self.random.below(8) });
        }
        (tenant, at_ms, false)
    }

    fn draw_lateness(&mut self) -> i64 {
        const MINUTE: i64 = 60_000;
        let longest = self.plan.late_max_ms;
        let (low, high) = match self.random.below(100) {
            0 if self.plan.edges && longest == self.plan.max_age_ms => (longest, longest),
            0..60 => (2 * MINUTE, 60 * MINUTE),
            60..85 => (60 * MINUTE, DAY_MS),
            _ => (DAY_MS, longest),
        };
        let high = high.min(longest);
        self.random.between(low.min(high), high)
    }

    fn draw_outcome(&mut self, tenant: u32, at_ms: i64, late: bool, arrival_ms: i64, action: u16) -> Outcome {
        let troubled = self.tenants[tenant as usize].1;
        let incident = self.incidents.share(tenant, troubled.is_some(), arrival_ms);
        let steered = match troubled {
            Some(trouble) if !late => {
                let (total, failed) = self.steered.entry(tenant).or_default();
                *total += 1;
                let fails = (*failed + 1) * 1_000_000 <= trouble.failures_per_million() * *total;
                *failed += u64::from(fails);
                fails
            }
            _ => false,
        };
        let drawn = self.random.fraction();
        let shares = &self.plan.shares;
        let background = if troubled.is_some() { 0.0 } else { shares.system_errors };
        let failing = action % catalog::FAILING_ACTIONS as u16;
        let outcome = |action, code, flag| Outcome { tenant, at_ms, action, code, flag };
        if steered || drawn < incident.max(background) {
            let (code, flag) = self.draw_failure();
            return outcome(failing, code, flag);
        }
        // Rescaled to 0–1, so that an incident does not change the other shares.
        let mut drawn = (drawn - incident.max(background)) / (1.0 - incident.max(background));
        let mut within = |share: f64| {
            let hit = drawn < share;
            drawn -= share;
            hit
        };
        let (faults, ambiguous, no_response) =
            (within(shares.caller_faults), within(shares.ambiguous), within(shares.no_response));
        let (unknown, cleared) = (within(shares.unknown), within(shares.cleared));
        let pick = self.random.below(1 << 16) as usize;
        if faults {
            let code = self.catalog.fault(failing, pick);
            outcome(failing, code, if code.is_multiple_of(5) { Flag::False } else { Flag::Absent })
        } else if ambiguous {
            outcome(failing, self.catalog.ambiguous[pick % self.catalog.ambiguous.len()], Flag::Absent)
        } else if no_response {
            outcome(failing, self.catalog.no_response, Flag::Absent)
        } else if unknown {
            outcome(failing, self.catalog.unknown[pick % self.catalog.unknown.len()], Flag::Absent)
        } else if cleared {
            outcome(failing, self.catalog.system[0], Flag::False)
        } else {
            outcome(action, catalog::OK, if pick.is_multiple_of(8) { Flag::False } else { Flag::Absent })
        }
    }

    /// Code and flag of a call that failed.
    fn draw_failure(&mut self) -> (u16, Flag) {
        let drawn = self.random.below(100);
        let flag = if self.random.below(10) < 3 { Flag::True } else { Flag::Absent };
        match drawn {
            0..8 => (catalog::OK, Flag::True),
            8..15 => (self.catalog.ambiguous[(drawn % 2) as usize], Flag::True),
            15..66 => (self.catalog.system[0], flag),
            66..88 => (self.catalog.system[1], flag),
            88..96 => (self.catalog.system[2], flag),
            _ => (self.catalog.system[3], flag),
        }
    }

    fn make_duplicate(&mut self, call: Remembered, event: &mut Event) -> (Meant, Outcome) {
        let conflict = self.random.chance(self.plan.shares.conflicts);
        let mut outcome = call.outcome;
        if conflict {
            if self.random.below(4) == 0 {
                outcome.action = (outcome.action + 1) % self.catalog.actions.len() as u16;
            } else if outcome.code == catalog::OK && outcome.flag != Flag::True {
                (outcome.code, outcome.flag) = (self.catalog.system[0], Flag::Absent);
            } else {
                (outcome.code, outcome.flag) = (catalog::OK, Flag::Absent);
            }
        }
        let deliveries = if conflict { self.recent.forget(&call) } else { self.recent.repeated(&call) };
        self.write(call.id, &outcome, deliveries, event);
        (Meant::Duplicate { conflict }, outcome)
    }

    fn make_quarantined(&mut self, arrival_ms: i64, event: &mut Event) -> (Meant, Outcome) {
        let exact = self.plan.edges && self.random.below(10) == 0;
        let (reason, at_ms) = if self.quarantined.is_multiple_of(2) {
            let ahead = if exact { 1 } else { self.random.between(60_000, 7_200_000) };
            (Quarantined::Future, arrival_ms + plan::FUTURE_LIMIT_MS + ahead)
        } else {
            let older = if exact { 1 } else { self.random.between(3_600_000, 200 * DAY_MS) };
            (Quarantined::TooOld, arrival_ms - self.plan.max_age_ms - older)
        };
        self.quarantined += 1;
        let tenant = self.by_tenant.draw(&mut self.random);
        let action = self.by_action.draw(&mut self.random) as u16;
        let outcome = Outcome { tenant, at_ms, action, code: catalog::OK, flag: Flag::Absent };
        let id = self.ids;
        self.ids += 1;
        self.write(id, &outcome, 1, event);
        (Meant::Quarantined(reason), outcome)
    }

    fn make_malformed(&mut self, reason: Malformed, arrival_ms: i64, event: &mut Event) -> (Meant, Outcome) {
        let tenant = self.by_tenant.draw(&mut self.random);
        let action = self.by_action.draw(&mut self.random) as u16;
        let at_ms = arrival_ms - 5 - i64::from(self.random.below(400));
        let outcome = Outcome {
            tenant,
            at_ms,
            action: action % catalog::FAILING_ACTIONS as u16,
            code: catalog::OK,
            flag: Flag::Absent,
        };
        // Its own numbering, so that every kind of error gets its turn.
        let variant = self.malformed / (Malformed::ALL.len() as u64 - 1);
        let noise = self.random.bits();
        let id = self.ids;
        self.ids += 1;
        encode::request_id(id, mix(self.plan.seed ^ self.plan.id_salt), &mut self.request_id);
        let name = &self.tenants[tenant as usize].0;
        let fields = Fields {
            tenant: name,
            request_id: &self.request_id,
            at_ms,
            action: &self.catalog.actions[usize::from(outcome.action)],
            code: &self.catalog.codes[usize::from(catalog::OK)],
            flag: Flag::Absent,
            noise,
            delivery: 1,
        };
        let payload = cleared(&mut event.payload);
        self.encoder.malformed(reason, variant, &fields, payload);
        event.object = !matches!(reason, Malformed::Empty | Malformed::NotJson);
        let key = cleared(&mut event.key);
        if matches!(reason, Malformed::MissingField | Malformed::WrongType | Malformed::TooLong | Malformed::NotJson) {
            key.extend_from_slice(format!("{noise:016x}").as_bytes());
        } else {
            key.extend_from_slice(name.as_bytes());
        }
        if reason == Malformed::Empty && variant % 2 == 1 {
            event.payload = None;
        }
        event.partition_hint = mix(noise);
        (Meant::Malformed(reason), outcome)
    }

    /// A call in one of its forms.
    fn write(&mut self, id: u64, outcome: &Outcome, delivery: u32, event: &mut Event) {
        encode::request_id(id, mix(self.plan.seed ^ self.plan.id_salt), &mut self.request_id);
        let name = &self.tenants[outcome.tenant as usize].0;
        let fields = Fields {
            tenant: name,
            request_id: &self.request_id,
            at_ms: outcome.at_ms,
            action: &self.catalog.actions[usize::from(outcome.action)],
            code: &self.catalog.codes[usize::from(outcome.code)],
            flag: outcome.flag,
            noise: self.plan.seed ^ id.wrapping_mul(64).wrapping_add(u64::from(delivery)),
            delivery,
        };
        let form = self.random.fraction();
        let payload = cleared(&mut event.payload);
        if form < self.plan.shares.cloudevents / 2.0 {
            self.encoder.structured(&fields, payload);
            event.headers.push(("content-type".to_owned(), b"application/cloudevents+json; charset=UTF-8".to_vec()));
        } else {
            self.encoder.call(&fields, payload);
            if form < self.plan.shares.cloudevents {
                event.headers = self.encoder.binary_headers(&fields);
            }
        }
        cleared(&mut event.key).extend_from_slice(name.as_bytes());
        event.object = true;
        event.partition_hint = mix(id);
    }
}

fn cleared(buffer: &mut Option<Vec<u8>>) -> &mut Vec<u8> {
    let buffer = buffer.get_or_insert_default();
    buffer.clear();
    buffer
}

impl Iterator for Generator {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        let mut event = Event::default();
        self.fill(&mut event).then_some(event)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = usize::try_from(self.plan.events.saturating_sub(self.sent())).unwrap_or(usize::MAX);
        (left, Some(left))
    }
}
