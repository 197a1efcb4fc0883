//! How good the forecast is, on 10,000 generated tenant-months: `cargo bench --bench forecast`. One line per figure:
//! `bench <name> <value> <unit>`. Reproducible: every draw follows from the seed.
//!
//! The traffic is made by other rules than the forecast's: tenants of 10 to a million calls a day with a course of the
//! day and the week of their own, holidays and worked weekends by China's calendar, growth, ramps, steps, quiet and hot
//! days whose neighbours are alike, beginners and leavers; incidents of minutes to days, sudden or creeping, and months
//! that are bad all along. A month is played in slots of five minutes, and warnings are judged at the end of each.
//!
//! - *breach*: the month ends below the target with at least 1,000 calls. Its *crossing* is the last time it falls below.
//! - *warned*: a rule holds in the slot before the crossing, or held within the hour before. The *lead time* reaches
//!   from the crossing back to the rule's first slot without an hour of silence since.
//! - *false*: a month with a warning that was never below the target. One that was, but climbed back, is *recovered*.

#![allow(missing_docs, clippy::print_stdout, clippy::expect_used, reason = "a program of measurements")]

#[path = "../src/generate/random.rs"]
#[allow(dead_code, unused_imports, reason = "only its draws are needed, and its tests run elsewhere")]
mod random;

use std::f64::consts::TAU;
use std::hint::black_box;
use std::time::Instant;

use random::Random;
use sla_ledger::domain::availability::{Availability, Level};
use sla_ledger::domain::calendar::{LocalDay, Month, day_start_ms};
use sla_ledger::domain::forecast::{Moment, Outlook, burn_rate, outlook, remaining_calls};
use sla_ledger::domain::policy::Policy;
use sla_ledger::domain::term::Period;

const SEED: u64 = 4;
const TENANT_MONTHS: usize = 10_000;
/// Days before the month.
const HISTORY: i32 = 60;
const SLOT_MS: i64 = 300_000;
const SLOTS_OF_DAY: usize = 288;
/// Days of the month on which its calls are forecast.
const ASKED: [u32; 4] = [3, 10, 20, 27];
const MIN_CALLS: u64 = 1000;
const MIN_FAILURES: u64 = 10;
/// In slots: 5 minutes, 30 minutes, 1 hour, 6 hours.
const WINDOWS: [usize; 4] = [1, 6, 12, 72];
const RULES: [&str; 6] = ["forecast", "forecast_24h", "fast_burn", "slow_burn", "fast_or_slow_burn", "budget_80"];

fn main() {
    if !std::env::args().any(|a| a == "--bench") {
        // `cargo test --all-targets` starts benchmarks too.
        return;
    }
    let policy = Policy::tencent_ccc();
    let months = play(&policy);
    intervals(&months);
    groups(&months);
    warnings(&months);
    cost(&policy);
}

fn bench(name: &str, value: f64, unit: &str) {
    println!("bench {name} {value:.1} {unit}");
}

// ---- a tenant's traffic ----

/// A tenant and how it calls. Its days count from `HISTORY` days before the month.
struct Tenant {
    period: Period,
    /// Mean calls by day.
    days: Vec<f64>,
    /// Share of a day's calls by slot.
    course: Vec<f64>,
    /// Share of the calls that fail, outside of incidents.
    background: f64,
    incidents: Vec<Incident>,
}

/// In slots of the month.
struct Incident {
    from: f64,
    length: f64,
    share: f64,
    creeps: bool,
}

impl Incident {
    fn share(&self, slot: usize) -> f64 {
        let since = slot as f64 - self.from;
        match since >= 0.0 && since < self.length {
            true if self.creeps => self.share * ((since + 1.0) / (self.length / 3.0)).min(1.0),
            true => self.share,
            false => 0.0,
        }
    }
}

/// Standard normal.
fn normal(random: &mut Random) -> f64 {
    (-2.0 * (1.0 - random.fraction()).ln()).sqrt() * (TAU * random.fraction()).cos()
}

fn within(random: &mut Random, low: f64, high: f64) -> f64 {
    low + (high - low) * random.fraction()
}

fn poisson(random: &mut Random, mean: f64) -> u64 {
    if mean > 40.0 {
        return (mean + mean.sqrt() * normal(random)).round().max(0.0) as u64;
    }
    let (limit, mut product, mut count) = ((-mean).exp(), random.fraction(), 0);
    while product > limit {
        product *= random.fraction();
        count += 1;
    }
    count
}

fn binomial(random: &mut Random, calls: u64, share: f64) -> u64 {
    let mean = calls as f64 * share;
    match () {
        () if calls == 0 || share <= 0.0 => 0,
        () if share >= 1.0 => calls,
        () if calls <= 40 => (0..calls).filter(|_| random.chance(share)).count() as u64,
        () if mean <= 20.0 => poisson(random, mean).min(calls),
        () if calls as f64 - mean <= 20.0 => calls - poisson(random, calls as f64 - mean).min(calls),
        () => ((mean + (mean * (1.0 - share)).sqrt() * normal(random)).round().max(0.0) as u64).min(calls),
    }
}

impl Tenant {
    fn new(policy: &Policy, random: &mut Random) -> Self {
        let months: Month = "2025-01".parse().expect("a month");
        let period = Period::calendar_month(Month(months.0 + random.below(24) as i32));
        let length = HISTORY + period.days() as i32;
        let size = 10f64.powf(within(random, 1.0, 6.0));

        // The week: shares of a weekend day and of a holiday.
        let (weekend, holiday) = match random.below(100) {
            0..35 => (within(random, 0.02, 0.4), within(random, 0.0, 0.3)),
            35..45 => (0.0, 0.0),
            45..75 => (within(random, 0.5, 0.8), within(random, 0.4, 0.8)),
            75..92 => (within(random, 0.9, 1.3), within(random, 0.8, 1.5)),
            92..97 => (within(random, 1.5, 4.0), within(random, 1.0, 3.0)),
            _ => (100.0, 50.0),
        };
        let weekdays: Vec<f64> = (0..7).map(|_| 1.0 + 0.08 * normal(random)).collect();

        // Growth over a month, and what happens to few.
        let growth = 0.02 + 0.12 * normal(random);
        let ramp = random.chance(0.06).then(|| (within(random, 0.0, f64::from(length)), within(random, 2.0, 10.0)));
        let step = random.chance(0.06).then(|| (within(random, 20.0, f64::from(length)), (0.6 * normal(random)).exp()));
        let leaves = if random.chance(0.02) { within(random, 40.0, f64::from(length)) } else { f64::INFINITY };
        let begins = if random.chance(0.12) { within(random, 15.0, 80.0).floor() } else { f64::NEG_INFINITY };
        let (noise, memory) = (10f64.powf(within(random, -1.5, -0.5)), within(random, 0.0, 0.8));
        let hot_days = if random.chance(0.3) { within(random, 0.005, 0.03) } else { 0.0 };
        let idle_days = if random.chance(0.1) { within(random, 0.005, 0.05) } else { 0.0 };

        let mut mood = noise * normal(random);
        let mut days = Vec::new();
        for n in 0..length {
            let day = LocalDay(period.first.0 - HISTORY + n);
            let at = f64::from(n);
            let (weekday, works) = (day.0.rem_euclid(7), policy.workdays.is_working_day(day).expect("a known year"));
            let free = matches!(weekday, 2 | 3);
            let week = match (works, free) {
                (true, _) => 1.0,
                (false, true) => weekend,
                (false, false) => holiday,
            };
            mood = memory * mood + (1.0 - memory * memory).sqrt() * noise * normal(random);
            let mut mean = size * week * weekdays[weekday as usize].max(0.5) * (mood + growth * at / 30.0).exp();
            if let Some((middle, factor)) = ramp {
                mean *= 1.0 + (factor - 1.0) / (1.0 + ((middle - at) / 6.0).exp());
            }
            if let Some((_, factor)) = step.filter(|(from, _)| at >= *from) {
                mean *= factor;
            }
            if random.chance(hot_days) {
                mean *= within(random, 2.0, 8.0);
            }
            if at < begins || at >= leaves || random.chance(idle_days) {
                mean = 0.0;
            }
            days.push(mean);
        }

        let peaks: &[(f64, f64, f64)] = match random.below(10) {
            0..5 => &[(10.5, 1.5, 1.0), (15.5, 2.0, 1.1)],
            5..7 => &[(12.5, 2.0, 0.6), (20.5, 2.5, 1.0)],
            7..9 => &[],
            _ => &[(2.5, 0.7, 2.0)],
        };
        let floor = if peaks.is_empty() { 1.0 } else { 0.05 };
        let mut course: Vec<f64> = (0..SLOTS_OF_DAY)
            .map(|slot| {
                let hour = slot as f64 / 12.0;
                let bump =
                    |&(at, width, height): &(f64, f64, f64)| height * (-0.5 * ((hour - at) / width).powi(2)).exp();
                floor + peaks.iter().map(bump).sum::<f64>()
            })
            .collect();
        let whole: f64 = course.iter().sum();
        course.iter_mut().for_each(|share| *share /= whole);

        let slots = f64::from(period.days()) * SLOTS_OF_DAY as f64;
        let mut incidents = Vec::new();
        for _ in 0..poisson(random, 1.0) {
            incidents.push(Incident {
                from: within(random, 0.0, slots),
                length: (4.0 * (1.6 * normal(random)).exp()).max(0.5),
                share: 10f64.powf(within(random, -2.3, 0.15)).min(1.0),
                creeps: random.chance(0.4),
            });
        }
        if random.chance(0.05) {
            incidents.push(Incident {
                from: within(random, 0.0, slots),
                length: within(random, 1.0, 10.0) * SLOTS_OF_DAY as f64,
                share: within(random, 0.003, 0.03),
                creeps: random.chance(0.5),
            });
        }
        let chronic = random.chance(0.03);
        let background = 10f64.powf(if chronic { within(random, -2.6, -2.25) } else { within(random, -5.0, -2.9) });
        Self { period, days, course, background, incidents }
    }
}

// ---- a month of it ----

/// The result of one tenant-month.
#[derive(Default)]
struct Played {
    calls: u64,
    /// Days from the tenant's first call to the month.
    known_days: i32,
    /// Per day asked: the interval, the expected number and a straight line through the month so far.
    asked: [Option<([u64; 3], f64)>; 4],
    /// Was it ever below the target?
    below: bool,
    breach: bool,
    /// Was the crossing there as soon as there were enough calls? Nothing can warn of that.
    at_once: bool,
    /// Per rule: did it ever warn, and the lead time in minutes.
    warned: [bool; RULES.len()],
    lead_minutes: [Option<f64>; RULES.len()],
}

fn play(policy: &Policy) -> Vec<Played> {
    let workers = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|scope| {
        let parts: Vec<_> = (0..workers)
            .map(|worker| (worker * TENANT_MONTHS / workers)..((worker + 1) * TENANT_MONTHS / workers))
            .map(|part| scope.spawn(move || part.map(|nth| play_month(policy, nth as u64)).collect::<Vec<_>>()))
            .collect();
        parts.into_iter().flat_map(|part| part.join().expect("a worker")).collect()
    })
}

fn play_month(policy: &Policy, nth: u64) -> Played {
    let mut random = Random::new(SEED << 32 | nth);
    let tenant = Tenant::new(policy, &mut random);
    let period = tenant.period;
    let start_ms = day_start_ms(policy.time_zone, period.first);
    let (history, month) = tenant.days.split_at(HISTORY as usize);
    let mut days: Vec<(LocalDay, u64)> = Vec::new();
    for (ago, &mean) in (1..=HISTORY).rev().zip(history) {
        days.push((LocalDay(period.first.0 - ago), poisson(&mut random, mean)));
    }
    days.retain(|(_, calls)| *calls > 0);

    let known_days = days.first().map_or(0, |(first, _)| period.first.0 - first.0);
    let mut played = Played { known_days, ..Played::default() };
    // Before each slot.
    let mut sums = vec![Availability::default()];
    let mut now = Availability::default();
    let mut rules = [Rule::default(); RULES.len()];
    let mut crossing = None;
    let mut rough = Rough::default();
    for (nth_day, &mean) in month.iter().enumerate() {
        let day = LocalDay(period.first.0 + nth_day as i32);
        let before = now.total;
        let mut hot = 1.0;
        for (slot_of_day, share) in tenant.course.iter().enumerate() {
            let slot = nth_day * SLOTS_OF_DAY + slot_of_day;
            if slot_of_day % 12 == 0 {
                hot = within(&mut random, 0.7, 1.3);
                let asked = ASKED.iter().position(|asked| *asked as usize == nth_day + 1);
                // Every hour of the day is asked at.
                if let Some(asked) = asked.filter(|_| slot_of_day / 12 == (nth % 24) as usize) {
                    days.push((day, now.total - before));
                    let moment = Moment { day, passed: slot_of_day as f64 / SLOTS_OF_DAY as f64 };
                    let remaining = remaining_calls(&days, period.last, moment, &policy.workdays).map(|remaining| {
                        let calls = remaining.after(now.total);
                        let line = now.total as f64 * (month.len() * SLOTS_OF_DAY) as f64 / slot as f64;
                        ([calls.low, calls.expected, calls.high], line)
                    });
                    played.asked[asked] = remaining;
                    days.pop();
                }
            }
            let calls = poisson(&mut random, mean * share * hot);
            let failing = tenant.incidents.iter().map(|i| i.share(slot)).fold(tenant.background, f64::max);
            now.total += calls;
            now.failed += binomial(&mut random, calls, failing);
            sums.push(now);

            let was_below = crossing.is_some();
            let is_below = now.total >= MIN_CALLS && !now.at_least(policy.target());
            if is_below {
                played.below = true;
                if !was_below {
                    crossing = Some(slot);
                    played.at_once = sums[slot].total < MIN_CALLS;
                    for (rule, lead) in rules.iter().zip(&mut played.lead_minutes) {
                        *lead = rule.lead(slot).map(|slots| slots as f64 * SLOT_MS as f64 / 60_000.0);
                    }
                }
                continue;
            }
            crossing = None;
            if now.total >= MIN_CALLS && now.level(policy.target()) >= Level::Warn80 {
                let last = RULES.len() - 1;
                rules[last].held(slot);
                played.warned[last] = true;
            }
            let windows = WINDOWS.map(|length| {
                let from = sums[sums.len() - 1 - length.min(slot + 1)];
                Availability { total: now.total - from.total, failed: now.failed - from.failed }
            });
            if now.total < MIN_CALLS || windows[3].failed < MIN_FAILURES || !rough.is_near(policy, now, &windows, slot)
            {
                continue;
            }
            days.push((day, now.total - before));
            let now_ms = start_ms + (slot as i64 + 1) * SLOT_MS;
            let outlook = outlook(policy, period, now, &days, Some(windows[2]), now_ms);
            days.pop();
            let Some(outlook) = outlook else { continue };
            rough.learn(&outlook, slot);
            for (nth_rule, held) in judge(&outlook, &windows, now_ms).into_iter().enumerate() {
                if held {
                    rules[nth_rule].held(slot);
                    played.warned[nth_rule] = true;
                }
            }
        }
        if now.total > before {
            days.push((day, now.total - before));
        }
    }
    played.calls = now.total;
    played.breach = crossing.is_some();
    played
}

/// The rules of [`RULES`] that ask the forecast, in their order. The last one is the level of the budget itself.
fn judge(outlook: &Outlook, windows: &[Availability; 4], now_ms: i64) -> [bool; RULES.len() - 1] {
    let [five_minutes, half_hour, hour, six_hours] = *windows;
    let enough = |window: Availability| window.failed >= MIN_FAILURES;
    let burns = |window, rate: f64| burn_rate(window, outlook.sustainable).is_some_and(|burn| burn >= rate);
    let reached = outlook.reached_at_ms[0].filter(|_| enough(hour));
    let fast = enough(hour) && burns(hour, 14.4) && burns(five_minutes, 14.4);
    let slow = enough(six_hours) && burns(six_hours, 6.0) && burns(half_hour, 6.0);
    [reached.is_some(), reached.is_some_and(|at| at <= now_ms + 86_400_000), fast, slow, fast || slow]
}

/// Saves asking the forecast where no rule is near: what it last said, for an hour.
#[derive(Default)]
struct Rough {
    calls: Option<(u64, usize)>,
}

impl Rough {
    fn is_near(&self, policy: &Policy, now: Availability, windows: &[Availability; 4], slot: usize) -> bool {
        let Some((calls, _)) = self.calls.filter(|(_, at)| slot < at + 12) else { return true };
        let left = Availability { total: calls, ..now }.failures_left(policy.target());
        let sustainable = left as f64 / calls.saturating_sub(now.total).max(1) as f64;
        let ratio = |window: Availability| window.failed as f64 / window.total.max(1) as f64;
        !windows[2].at_least(policy.target()) || ratio(windows[2]).max(ratio(windows[3])) > 3.0 * sustainable
    }

    fn learn(&mut self, outlook: &Outlook, slot: usize) {
        self.calls = Some((outlook.calls.expected, slot));
    }
}

/// When a rule held, in slots.
#[derive(Clone, Copy, Default)]
struct Rule {
    episode: Option<(usize, usize)>,
}

impl Rule {
    const SILENCE: usize = 12;

    fn held(&mut self, slot: usize) {
        self.episode = match self.episode {
            Some((since, last)) if slot <= last + Self::SILENCE => Some((since, slot)),
            _ => Some((slot, slot)),
        };
    }

    /// How long before this slot the warning began that is on, or was within the last hour.
    fn lead(&self, slot: usize) -> Option<usize> {
        let (since, last) = self.episode?;
        (slot <= last + Self::SILENCE).then(|| slot - since)
    }
}

// ---- figures ----

fn quantile(values: &mut [f64], part: f64) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(((values.len() as f64 - 1.0) * part).round() as usize).copied().unwrap_or(f64::NAN)
}

fn intervals(months: &[Played]) {
    for (nth, day) in ASKED.iter().enumerate() {
        let asked: Vec<_> = months
            .iter()
            .filter(|m| m.calls > 0)
            .filter_map(|m| m.asked[nth].map(|(interval, line)| (m.calls, interval, line)))
            .collect();
        let share = |holds: &dyn Fn(u64, [u64; 3]) -> bool| {
            100.0 * asked.iter().filter(|(calls, interval, _)| holds(*calls, *interval)).count() as f64
                / asked.len() as f64
        };
        let relative = |value: &dyn Fn(u64, [u64; 3], f64) -> f64| -> Vec<f64> {
            asked.iter().map(|&(calls, interval, line)| 100.0 * value(calls, interval, line) / calls as f64).collect()
        };
        let name = |what: &str| format!("forecast_day_{day:02}_{what}");
        bench(&name("interval_holds_the_truth"), share(&|calls, [low, _, high]| (low..=high).contains(&calls)), "%");
        bench(&name("truth_below_the_interval"), share(&|calls, [low, ..]| calls < low), "%");
        bench(&name("truth_above_the_interval"), share(&|calls, [_, _, high]| calls > high), "%");
        let mut width = relative(&|_, [low, _, high], _| (high - low) as f64);
        bench(&name("interval_width_p50"), quantile(&mut width, 0.5), "%_of_the_month's_calls");
        bench(&name("interval_width_p90"), quantile(&mut width, 0.9), "%_of_the_month's_calls");
        let mut error = relative(&|calls, [_, expected, _], _| expected.abs_diff(calls) as f64);
        bench(&name("error_p50"), quantile(&mut error, 0.5), "%_of_the_month's_calls");
        bench(&name("error_p90"), quantile(&mut error, 0.9), "%_of_the_month's_calls");
        let mut bias = relative(&|calls, [_, expected, _], _| expected as f64 - calls as f64);
        bench(&name("bias_p50"), quantile(&mut bias, 0.5), "%_of_the_month's_calls");
        let mut line = relative(&|calls, _, line| (line - calls as f64).abs());
        bench(&name("error_p50_of_a_straight_line"), quantile(&mut line, 0.5), "%_of_the_month's_calls");
        bench(&name("error_p90_of_a_straight_line"), quantile(&mut line, 0.9), "%_of_the_month's_calls");
    }
}

/// Does the interval also hold for the hardest tenants?
fn groups(months: &[Played]) {
    type Group = (&'static str, fn(&Played) -> bool);
    let groups: [Group; 5] = [
        ("of_small_tenants", |m| m.calls < 3_000),
        ("of_middling_tenants", |m| (3_000..300_000).contains(&m.calls)),
        ("of_large_tenants", |m| m.calls >= 300_000),
        ("of_tenants_new_this_month", |m| m.known_days == 0),
        ("of_tenants_new_in_the_two_weeks_before", |m| (1..14).contains(&m.known_days)),
    ];
    for (group, belongs) in groups {
        let asked =
            || months.iter().filter(|m| m.calls > 0 && belongs(m)).filter_map(|m| Some((m.calls, m.asked[1]?.0)));
        let holds = asked().filter(|(calls, [low, _, high])| (low..=high).contains(&calls)).count() as f64;
        bench(&format!("forecast_day_10_interval_holds_{group}"), 100.0 * holds / asked().count() as f64, "%");
    }
}

fn warnings(months: &[Played]) {
    let count = |which: &dyn Fn(&Played) -> bool| months.iter().filter(|m| which(m)).count() as f64;
    bench("tenant_months", months.len() as f64, "tenant-months");
    bench("breaches", count(&|m| m.breach), "tenant-months");
    bench("breaches_as_soon_as_there_are_enough_calls", count(&|m| m.breach && m.at_once), "tenant-months");
    bench("recovered", count(&|m| m.below && !m.breach), "tenant-months");
    for (rule, name) in RULES.iter().enumerate() {
        let named = |what: &str| format!("{name}_{what}");
        let mut leads: Vec<f64> = months.iter().filter(|m| m.breach).filter_map(|m| m.lead_minutes[rule]).collect();
        for (part, label) in [(0.1, "p10"), (0.5, "p50"), (0.9, "p90")] {
            bench(&named(&format!("lead_time_{label}")), quantile(&mut leads, part), "min");
        }
        let unwarned = |m: &Played| m.breach && !m.at_once && m.lead_minutes[rule].is_none();
        bench(&named("breaches_without_warning"), count(&unwarned), "tenant-months");
        bench(&named("warned_months"), count(&|m| m.warned[rule]), "tenant-months");
        bench(&named("false_warnings"), count(&|m| m.warned[rule] && !m.below), "tenant-months");
        bench(&named("warned_and_recovered"), count(&|m| m.warned[rule] && m.below && !m.breach), "tenant-months");
    }
}

/// Of one tenant with six weeks behind it.
fn cost(policy: &Policy) {
    const ROUNDS: u32 = 200_000;
    let period = Period::calendar_month("2026-03".parse().expect("a month"));
    let days: Vec<_> =
        (-60..15).map(|n| (LocalDay(period.first.0 + n), 1000 + n.unsigned_abs() as u64 * 37 % 300)).collect();
    let now_ms = day_start_ms(policy.time_zone, LocalDay(period.first.0 + 14)) + 40_000_000;
    let so_far = Availability { total: 16_000, failed: 30 };
    let hour = Availability { total: 100, failed: 5 };
    let began = Instant::now();
    for _ in 0..ROUNDS {
        let now = Moment { day: LocalDay(period.first.0 + 14), passed: 0.46 };
        black_box(remaining_calls(black_box(&days), period.last, now, &policy.workdays));
    }
    bench("forecast_calls_of_one_tenant", began.elapsed().as_secs_f64() * 1e9 / f64::from(ROUNDS), "ns");
    let began = Instant::now();
    for _ in 0..ROUNDS {
        black_box(outlook(policy, period, so_far, black_box(&days), Some(hour), now_ms));
    }
    bench("forecast_outlook_of_one_tenant", began.elapsed().as_secs_f64() * 1e9 / f64::from(ROUNDS), "ns");
}
