//! How many calls the rest of a month will bring, and what that makes of its failures: a forecast from the tenant's
//! own days.
//!
//! An estimate, so `f64` is allowed here. It never judges money: [`Outlook::allowed`] and [`Outlook::settled`] are
//! decided in integers once the number of calls is estimated, and what is owed never depends on this module.
//!
//! The model: calls of a day = level × factor of the weekday; a holiday counts as a Sunday, a weekend day that is
//! worked as a Friday. The factors come from the last [`WINDOW`] days. While there are few days to learn from, they are
//! shrunk towards those of working days or weekends, and these towards 1. The level weighs recent days more. A trend is
//! not extrapolated: on the benchmark's tenants that made the forecast worse. The interval comes from the scatter of
//! the days and the level's changes from week to week, which weigh more the longer the horizon.
//!
//! Not here: the course within a day. The ledger keeps days, so calls are spread evenly over the hours of a day; an
//! instant given here can be off by some hours, but not by a day.

use smallvec::SmallVec;

use super::availability::{Availability, Ppm};
use super::calendar::{LocalClock, LocalDay, day_start_ms};
use super::policy::{Policy, Tier};
use super::term::Period;
use super::workdays::Workdays;

/// Days of history that count: whole weeks.
pub const WINDOW: usize = 42;

/// Below this part of its first day a tenant is not forecast.
const ENOUGH_OF_FIRST_DAY: f64 = 0.25;
/// The weight of a day relative to the day after it: half after five days.
const DECAY: f64 = 0.870_6;
/// A day counts as at most this many times a usual busy one, unless its neighbours are as busy.
const SPIKE: f64 = 3.0;
/// The share of a working day assumed for a weekend day before there was one.
const WEEKEND: f64 = 0.6;
/// How far the factor of working days or weekends can be off before there was one (relative, squared), and how much
/// each one that came takes of that.
const GROUP_VARIANCE: f64 = 0.3;
const GROUP_LEARNED: f64 = 10.0;
/// A weekday starts with its group's factor, weighted as this many days.
const PRIOR_DAYS: f64 = 1.0;
/// How far the level of a tenant's first day can be off (relative, squared), and in how many days most of that is gone.
const BEGINNER_VARIANCE: f64 = 0.4;
const BEGINNER_DAYS: f64 = 3.0;
/// Scatter of a day around its expectation (relative, squared) before there is history, and the days this counts for.
const DAY_VARIANCE: f64 = 0.06;
const DAY_VARIANCE_DAYS: f64 = 5.0;
/// Change of the level within a week (relative, squared) before there is history, and the weeks this counts for.
const WEEK_VARIANCE: f64 = 0.008;
const WEEK_VARIANCE_WEEKS: f64 = 4.0;
/// The average age of the level, in weeks.
const LEVEL_AGE_WEEKS: f64 = 0.7;
/// Over a horizon of n days the mean of a wandering level is off by this part of a week's change, times n.
const DRIFT_PER_DAY: f64 = 1.0 / 21.0;
/// No interval is wider than this relative variance makes it.
const MOST_VARIANCE: f64 = 4.0;
/// A normal variable is within this many standard deviations of its mean four times out of five.
const Z80: f64 = 1.281_55;

/// Calls expected from now to the end of a period, with an 80 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Remaining {
    /// One time in ten it is less.
    pub low: u64,
    /// Never outside of `low..=high`.
    pub expected: u64,
    /// One time in ten it is more.
    pub high: u64,
}

impl Remaining {
    /// The same on top of calls that have come already.
    pub fn after(self, so_far: u64) -> Self {
        let add = |calls: u64| calls.saturating_add(so_far);
        Self { low: add(self.low), expected: add(self.expected), high: add(self.high) }
    }
}

/// Where in a local day now is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moment {
    /// The day.
    pub day: LocalDay,
    /// The part of it that has passed, 0–1.
    pub passed: f64,
}

/// The forecast result of the month if the last hour continues.
#[derive(Debug, Clone, PartialEq)]
pub struct Outlook {
    /// Calls of the month at its end.
    pub calls: Remaining,
    /// Per tier of the policy, in its order: failures that can still happen before the tier applies, at the expected
    /// calls. It can be more than the calls to come: then they cannot reach the tier. Negative: clean traffic cannot
    /// climb back.
    pub allowed: SmallVec<[i64; 4]>,
    /// The rest of the month cannot change the tier, whether all its calls fail or none does: neither with up to
    /// `calls.high` calls, nor if every day is as busy as the busiest known one. A tenant whose tier is reported as
    /// settled must not be surprised by a day as busy as an earlier one.
    pub settled: bool,
    /// Availability at the end if the last hour's ratio continues.
    pub at_end: Availability,
    /// Per tier: when it is reached if the last hour continues, in ms since 1970; later than now, and not after the
    /// period's end. `None`: not before the end, or reached already.
    pub reached_at_ms: SmallVec<[Option<i64>; 4]>,
    /// Failures per call that would just use up by the end what is left of the target's budget; above 1 if even an
    /// outage would not. `None` if nothing is left, or no more calls are expected.
    pub sustainable: Option<f64>,
}

/// Calls from `now` to the end of the day `last`. `days`: calls of the tenant's own past days in order of time; days
/// without calls may be absent, and today may be among them, as far as counted. `None`: not enough data (no day has
/// passed, and too little of today).
pub fn remaining_calls(
    days: &[(LocalDay, u64)],
    last: LocalDay,
    now: Moment,
    workdays: &Workdays,
) -> Option<Remaining> {
    Some(Forecast::of(days, now, workdays)?.remaining(last))
}

/// Forecasts a service month with its calls and failures `so_far`, if calls keep failing at the rate of `last_hour`.
/// Without calls in that hour the rest is assumed to be free of failures. `days` as in [`remaining_calls`]. `None`: not
/// enough data, or the period has not begun.
pub fn outlook(
    policy: &Policy,
    period: Period,
    so_far: Availability,
    days: &[(LocalDay, u64)],
    last_hour: Option<Availability>,
    now_ms: i64,
) -> Option<Outlook> {
    let zone = policy.time_zone;
    let today = LocalClock::new(zone).day(now_ms);
    if today < period.first {
        return None;
    }
    if today > period.last {
        return Some(Outlook::new(policy, so_far, Remaining::default(), 0, so_far, |_| now_ms));
    }
    let (from_ms, to_ms) = (day_start_ms(zone, today), day_start_ms(zone, LocalDay(today.0.saturating_add(1))));
    let passed = now_ms.saturating_sub(from_ms) as f64 / to_ms.saturating_sub(from_ms).max(1) as f64;
    let forecast = Forecast::of(days, Moment { day: today, passed }, &policy.workdays)?;
    let remaining = forecast.remaining(period.last);

    let last_hour = last_hour.filter(|hour| hour.total > 0).unwrap_or(Availability { total: 1, failed: 0 });
    let hour_failed = last_hour.failed.min(last_hour.total);
    let (expected, total) = (u128::from(remaining.expected), u128::from(last_hour.total));
    // At most `expected`, so it fits.
    let failing = ((expected * u128::from(hour_failed) + total / 2) / total) as u64;
    let at_end = Availability {
        total: so_far.total.saturating_add(remaining.expected),
        failed: so_far.failed.saturating_add(failing),
    };
    let ratio = hour_failed as f64 / last_hour.total as f64;
    let reached_at_ms = |tier: Ppm| {
        let budget = f64::from(tier.complement().parts()) / 1e6;
        // U + ratio × calls = budget × (T + calls), and one more failure than that.
        let margin = budget * so_far.total as f64 - so_far.failed as f64;
        let calls = if ratio > budget { (margin / (ratio - budget)).max(1.0 / ratio) } else { f64::INFINITY };
        let (day, part) = forecast.position(calls, period.last);
        let start_ms = if day == today { now_ms } else { day_start_ms(zone, day) };
        let end_ms = day_start_ms(zone, LocalDay(day.0.saturating_add(1)));
        let at_ms = start_ms + (end_ms.saturating_sub(start_ms) as f64 * part) as i64;
        at_ms.clamp(now_ms.saturating_add(1), end_ms.max(now_ms.saturating_add(1)))
    };
    let busiest = days.iter().map(|(_, calls)| *calls).max().unwrap_or(0);
    let days_left = f64::from(period.last.0 - today.0) + 1.0 - passed;
    let most = remaining.high.max((busiest as f64 * days_left).ceil() as u64);
    Some(Outlook::new(policy, so_far, remaining, most, at_end, reached_at_ms))
}

/// How fast a window of calls uses up what is left of the budget: its failures per call over the
/// [sustainable](Outlook::sustainable) ones; 1 uses it up just at the end. `None` without calls in it or without budget
/// left.
pub fn burn_rate(window: Availability, sustainable: Option<f64>) -> Option<f64> {
    let sustainable = sustainable.filter(|rate| *rate > 0.0)?;
    (window.total > 0).then(|| window.failed as f64 / (window.total as f64 * sustainable))
}

impl Outlook {
    fn new(
        policy: &Policy,
        so_far: Availability,
        remaining: Remaining,
        most: u64,
        at_end: Availability,
        reached_at_ms: impl Fn(Ppm) -> i64,
    ) -> Self {
        let calls = remaining.after(so_far.total);
        let expected = Availability { total: calls.expected, failed: so_far.failed };
        let reached = |tier: &Tier| {
            (so_far.at_least(tier.below) && !at_end.at_least(tier.below)).then(|| reached_at_ms(tier.below))
        };
        let left = expected.failures_left(policy.target());
        Self {
            calls,
            allowed: policy.tiers.iter().map(|tier| expected.failures_left(tier.below)).collect(),
            settled: settled(policy, so_far, most),
            at_end,
            reached_at_ms: policy.tiers.iter().map(reached).collect(),
            sustainable: (left > 0 && remaining.expected > 0).then(|| left as f64 / remaining.expected as f64),
        }
    }
}

/// Is the tier the same whatever happens to up to `most` more calls? The extremes are: all fail, or none does.
fn settled(policy: &Policy, so_far: Availability, most: u64) -> bool {
    let total = so_far.total.saturating_add(most);
    let ends = |failed: u64| policy.tier(Availability { total, failed });
    let now = policy.tier(so_far);
    ends(so_far.failed) == now && ends(so_far.failed.saturating_add(most)) == now
}

/// The model of coming days, learned from the tenant's days.
#[derive(Debug, Clone, Copy)]
struct Forecast<'w> {
    workdays: &'w Workdays,
    today: LocalDay,
    /// Calls of a day whose factor is 1.
    level: f64,
    /// By the [`kind`] of day.
    factors: [f64; 7],
    /// Calls expected in the rest of today.
    rest_of_today: f64,
    /// Relative variance of a day around its expectation.
    day_variance: f64,
    /// Relative variance of the level as it is now.
    level_variance: f64,
    /// Relative variance of the level's change in a week.
    week_variance: f64,
    /// Relative variance of the factors of working days and of weekends.
    group_variance: [f64; 2],
}

/// 1970-01-01 was a Thursday, and that is 0.
const FRIDAY: usize = 1;
const SATURDAY: usize = 2;
const SUNDAY: usize = 3;

fn weekday(day: LocalDay) -> usize {
    day.0.rem_euclid(7) as usize
}

fn is_weekend(weekday: usize) -> bool {
    matches!(weekday, SATURDAY | SUNDAY)
}

/// The weekday that a day is like, whatever the calendar makes of it.
fn kind(workdays: &Workdays, day: LocalDay) -> usize {
    let weekday = weekday(day);
    match workdays.is_working_day(day) {
        Some(false) if !is_weekend(weekday) => SUNDAY,
        Some(true) if is_weekend(weekday) => FRIDAY,
        _ => weekday,
    }
}

impl<'w> Forecast<'w> {
    fn of(days: &[(LocalDay, u64)], now: Moment, workdays: &'w Workdays) -> Option<Self> {
        let passed = if now.passed > 0.0 { now.passed.min(1.0) } else { 0.0 };
        let mut history = [0.0; WINDOW];
        let (known, so_far) = read(days, now.day, &mut history);
        // In order of time, the last is yesterday.
        let history = &mut history[WINDOW - known..];
        if history.is_empty() {
            return (passed >= ENOUGH_OF_FIRST_DAY && so_far > 0)
                .then(|| Self::first_day(workdays, now.day, passed, so_far));
        }
        flatten_spikes(history);
        let mut kinds = [0; WINDOW];
        let kinds = &mut kinds[..known];
        for (kind_of, ago) in kinds.iter_mut().zip((1..=known as i32).rev()) {
            *kind_of = kind(workdays, LocalDay(now.day.0.saturating_sub(ago)));
        }
        let (factors, learned) = weekday_factors(history, kinds);

        // Sums over the days, weighed by their age: calls, factors, ones and squares of the weights.
        let (mut calls, mut weight, mut ones, mut squares) = (0.0, 0.0, 0.0, 0.0);
        for (&count, &kind) in history.iter().zip(&*kinds) {
            calls = calls * DECAY + count;
            weight = weight * DECAY + factors[kind];
            ones = ones * DECAY + 1.0;
            squares = squares * DECAY * DECAY + 1.0;
        }
        // The pace of a morning says little, because most tenants are idle at night.
        let trust = passed * passed * passed;
        calls += so_far as f64 * trust;
        let usual = factors[kind(workdays, now.day)];
        weight += usual * passed * trust;
        let level = if weight > 0.0 { calls / weight } else { 0.0 };

        let (mut errors, mut scale) = (0.0, 0.0);
        for (&count, &kind) in history.iter().zip(&*kinds) {
            let expected = level * factors[kind];
            errors += (count - expected) * (count - expected);
            scale += expected * expected;
        }
        let own = if scale > 0.0 { (errors / scale).min(MOST_VARIANCE) } else { 0.0 };
        let days = known as f64;
        let day_variance = (DAY_VARIANCE * DAY_VARIANCE_DAYS + own * days) / (DAY_VARIANCE_DAYS + days);
        let week_variance = week_variance(history, kinds, &factors, day_variance);
        let level_variance = day_variance * squares / (ones * ones)
            + week_variance * LEVEL_AGE_WEEKS
            + BEGINNER_VARIANCE / (days * (1.0 + days / BEGINNER_DAYS));
        let group_variance = learned.map(|days| GROUP_VARIANCE / (1.0 + GROUP_LEARNED * days));
        let rest_of_today = rest_of_today(level * usual, so_far as f64, passed);
        Some(Self {
            workdays,
            today: now.day,
            level,
            factors,
            rest_of_today,
            day_variance,
            level_variance,
            week_variance,
            group_variance,
        })
    }

    /// A tenant that began today.
    fn first_day(workdays: &'w Workdays, today: LocalDay, passed: f64, so_far: u64) -> Self {
        let level = so_far as f64 / passed;
        Self {
            workdays,
            today,
            level,
            factors: [1.0; 7],
            rest_of_today: level * (1.0 - passed),
            day_variance: DAY_VARIANCE,
            // The less of a day has passed, the less is known about it.
            level_variance: (0.5 / passed).min(MOST_VARIANCE),
            week_variance: WEEK_VARIANCE,
            group_variance: [GROUP_VARIANCE; 2],
        }
    }

    /// Over the days after today up to `last`: the factors of working days and of weekends, and the squares of all.
    fn ahead(&self, last: LocalDay) -> ([f64; 2], f64) {
        let (mut sums, mut squares) = ([0.0; 2], 0.0);
        let mut add = |kind: usize, times: f64| {
            let factor = self.factors[kind];
            sums[usize::from(is_weekend(kind))] += times * factor;
            squares += times * factor * factor;
        };
        let near = last.0.min(self.today.0.saturating_add(WINDOW as i32));
        (self.today.0..near).for_each(|before| add(kind(self.workdays, LocalDay(before + 1)), 1.0));
        // Service months are shorter than this. Anything further ahead is given in weeks.
        let weeks = f64::from(last.0.abs_diff(near)) / 7.0;
        (0..7).for_each(|kind| add(kind, weeks));
        (sums, squares)
    }

    fn factor(&self, day: LocalDay) -> f64 {
        self.factors[kind(self.workdays, day)]
    }

    fn remaining(&self, last: LocalDay) -> Remaining {
        if last < self.today {
            return Remaining::default();
        }
        let (sums, squares) = self.ahead(last);
        let groups = sums.map(|sum| self.level * sum);
        let expected = groups[0] + groups[1] + self.rest_of_today;
        if expected <= 0.0 {
            return Remaining::default();
        }
        let days = last.0.abs_diff(self.today.0);
        let drift = self.level_variance + self.week_variance * f64::from(days) * DRIFT_PER_DAY;
        let noise = self.day_variance * (self.level * self.level * squares + self.rest_of_today * self.rest_of_today)
            + self.group_variance[0] * groups[0] * groups[0]
            + self.group_variance[1] * groups[1] * groups[1];
        // The last term is the scatter of counting itself.
        let variance = (drift + noise / (expected * expected)).min(MOST_VARIANCE) + 1.0 / expected;
        let spread = (Z80 * variance.ln_1p().sqrt()).exp();
        Remaining {
            low: (expected / spread).floor() as u64,
            expected: expected.round() as u64,
            high: (expected * spread).ceil() as u64,
        }
    }

    /// The day, and the part of it from now or its start, at which so many more calls have come; the end of `last` if
    /// fewer are expected.
    fn position(&self, mut calls: f64, last: LocalDay) -> (LocalDay, f64) {
        if !calls.is_finite() {
            return (last, 1.0);
        }
        let mut day = self.today;
        let mut ahead = self.rest_of_today;
        while calls > ahead {
            if day >= last {
                return (day, 1.0);
            }
            calls -= ahead;
            day = LocalDay(day.0 + 1);
            ahead = self.level * self.factor(day);
        }
        (day, if ahead > 0.0 { calls / ahead } else { 1.0 })
    }
}

/// Fills in the calls of the days before today, yesterday last; how many of them there are since the tenant's first
/// one, and the calls of today.
fn read(days: &[(LocalDay, u64)], today: LocalDay, history: &mut [f64; WINDOW]) -> (usize, u64) {
    let end = days.partition_point(|(day, _)| *day <= today);
    let (mut known, mut so_far) = (0, 0u64);
    for &(day, calls) in days[..end].iter().rev() {
        let ago = i64::from(today.0) - i64::from(day.0);
        match usize::try_from(ago) {
            Ok(0) => so_far = so_far.saturating_add(calls),
            Ok(ago) if ago <= WINDOW => {
                history[WINDOW - ago] += calls as f64;
                known = known.max(ago);
            }
            Ok(_) => return (WINDOW, so_far),
            Err(_) => {}
        }
    }
    (known, so_far)
}

/// One huge day is not a log level: it is cut to a multiple of a usual busy one, unless the days around it are as busy.
fn flatten_spikes(history: &mut [f64]) {
    // The busiest weekday's middle day.
    let mut usual: f64 = 0.0;
    for offset in 0..history.len().min(7) {
        let mut of_weekday: SmallVec<[f64; WINDOW / 7]> = history[offset..].iter().copied().step_by(7).collect();
        of_weekday.sort_unstable_by(f64::total_cmp);
        usual = usual.max(of_weekday[(of_weekday.len() - 1) / 2]);
    }
    if usual == 0.0 {
        // For tenants with very few calls: the second busiest day.
        let mut busiest: f64 = 0.0;
        for &count in history.iter() {
            usual = usual.max(count.min(busiest));
            busiest = busiest.max(count);
        }
    }
    let most = SPIKE * usual;
    if most == 0.0 {
        return;
    }
    for at in 0..history.len() {
        if history[at] > most {
            let around = at.saturating_sub(2)..(at + 3).min(history.len());
            let others = around.filter(|&other| other != at).map(|other| history[other]).fold(0.0, f64::max);
            history[at] = history[at].min(most.max(2.0 * others));
        }
    }
}

/// The factors, and the number of working days and of weekend days they were learned from.
fn weekday_factors(history: &[f64], kinds: &[usize]) -> ([f64; 7], [f64; 2]) {
    let mean = history.iter().sum::<f64>() / history.len() as f64;
    if mean <= 0.0 {
        return ([1.0; 7], [0.0; 2]);
    }
    let (mut sums, mut counts) = ([0.0; 7], [0.0; 7]);
    for (&count, &kind) in history.iter().zip(kinds) {
        sums[kind] += count / mean;
        counts[kind] += 1.0;
    }
    let of = |weekend: bool, values: &[f64; 7]| {
        (0..7).filter(|&kind| is_weekend(kind) == weekend).map(|kind| values[kind]).sum::<f64>()
    };
    let days = [of(false, &counts), of(true, &counts)];
    let working = if days[0] > 0.0 { of(false, &sums) / days[0] } else { 1.0 / WEEKEND };
    let weekend = (of(true, &sums) + PRIOR_DAYS * WEEKEND * working) / (days[1] + PRIOR_DAYS);
    let factors = std::array::from_fn(|kind| {
        let group = if is_weekend(kind) { weekend } else { working };
        (sums[kind] + PRIOR_DAYS * group) / (counts[kind] + PRIOR_DAYS)
    });
    (factors, days)
}

/// How much the level of a week differs from that of the week before, relative and squared.
fn week_variance(history: &[f64], kinds: &[usize], factors: &[f64; 7], day_variance: f64) -> f64 {
    let (mut sum, mut count) = (WEEK_VARIANCE * WEEK_VARIANCE_WEEKS, WEEK_VARIANCE_WEEKS);
    let mut later: Option<f64> = None;
    for (week, kinds) in history.rchunks_exact(7).zip(kinds.rchunks_exact(7)) {
        let usual: f64 = kinds.iter().map(|&kind| factors[kind]).sum();
        let level = if usual > 0.0 { week.iter().sum::<f64>() / usual } else { 0.0 };
        if let Some(later) = later.filter(|later| later + level > 0.0) {
            let change = (later - level) / (0.5 * (later + level));
            // Part of it is the scatter of the days.
            sum += (change * change - day_variance / 7.0).clamp(0.0, 1.0);
            count += 1.0;
        }
        later = Some(level);
    }
    sum / count
}

/// Calls expected in the rest of a day that has `usual` calls in total and `so_far` until now. In the morning it is the
/// difference to a usual day, in the evening it follows from the pace so far.
fn rest_of_today(usual: f64, so_far: f64, passed: f64) -> f64 {
    if passed <= 0.0 {
        return usual;
    }
    let pace = so_far / passed;
    let whole = usual + (pace - usual) * passed * passed;
    (whole - so_far).max(pace.min(usual) * (1.0 - passed))
}
