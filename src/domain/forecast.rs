//! Where a service month is going: the calls that are still to come, the failures they leave room for, and when a tier is
//! reached if the last hour goes on.
//!
//! A forecast is an estimate and says so: it warns, and never judges money, so doubles are allowed here. It goes by the
//! tenant's own days, which are all that the ledger keeps: there is no profile of the hours of a day in it, so calls are
//! spread evenly over what is left of one.
//!
//! The model is small on purpose: a level (recent days weigh more), a factor for each weekday (shrunk towards 1 while there
//! are few of them), and an interval from the days' own scatter, the level's uncertainty and some drift. `make bench` says
//! how often the interval holds the truth.

use smallvec::SmallVec;

use super::availability::{Availability, Ppm};
use super::calendar::{LocalClock, LocalDay, day_start_ms};
use super::policy::Policy;
use super::term::Period;

/// Days of the past that are looked at.
const PAST_DAYS: i32 = 42;
/// Days after which a day weighs half.
const HALF_LIFE_DAYS: f64 = 10.0;
/// Imagined days of factor 1 that every weekday begins with.
const WEEKDAY_PRIOR: f64 = 0.5;
/// Imagined days that scatter by [`SCATTER`] which every tenant begins with.
const SCATTER_PRIOR: f64 = 2.0;
const SCATTER: f64 = 0.35;
/// The least scatter of a day, whatever the past says.
const LEAST_SCATTER: f64 = 0.05;
/// By how much the level drifts in a day, as a part of itself.
const DRIFT: f64 = 0.012;
/// A day above so many times the usual one counts as so much: an outlier is no level.
const OUTLIER: f64 = 4.0;
/// Standard deviations that bound 80 % of the cases.
const Z80: f64 = 1.2816;
/// The part of a first day that must have passed before it says anything.
const LEAST_PASSED: f64 = 1.0 / 24.0;

/// Calls to come, with an interval that holds 80 % of the cases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Remaining {
    /// Its lower bound.
    pub low: u64,
    /// The best guess.
    pub expected: u64,
    /// Its upper bound.
    pub high: u64,
}

/// A place in a local day.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moment {
    /// The day.
    pub day: LocalDay,
    /// The part of it that has passed, 0–1.
    pub passed: f64,
}

/// What a service month comes to.
#[derive(Debug, Clone, PartialEq)]
pub struct Outlook {
    /// Its calls at its end.
    pub calls: Remaining,
    /// Tier by tier: failures that can still happen before it applies at the end, at the expected calls; negative: clean
    /// calls cannot climb back.
    pub allowed: SmallVec<[i64; 4]>,
    /// Neither can the next tier be reached, if everything failed, nor the present one be left, if nothing did.
    pub settled: bool,
    /// Its availability at its end if the last hour goes on.
    pub at_end: Availability,
    /// Tier by tier: when it is reached if the last hour goes on, in ms; `None`: not before the end, or already.
    pub reached_at_ms: SmallVec<[Option<i64>; 4]>,
    /// Failures per call that would just use up the target's budget by the end; `None`: nothing is left of it, or no call
    /// is to come.
    pub sustainable: Option<f64>,
}

/// A tenant's days as the model sees them.
#[derive(Debug, Clone, Copy)]
struct Model {
    /// Calls of a day of factor 1.
    level: f64,
    /// Monday first.
    weekdays: [f64; 7],
    /// Of a day around its expectation, as a part of it.
    scatter: f64,
    /// Of the level, as a part of it, squared.
    level_variance: f64,
}

/// Monday is 0.
fn weekday(day: LocalDay) -> usize {
    (day.0 + 3).rem_euclid(7) as usize
}

impl Model {
    /// `None`: nothing to go by.
    fn of(days: &[(LocalDay, u64)], now: Moment) -> Option<Self> {
        let (today, first) = (now.day, days.first()?.0);
        let from = LocalDay(first.0.max(today.0.saturating_sub(PAST_DAYS)));
        if from >= today {
            let so_far = days.iter().rfind(|(day, _)| *day == today)?.1 as f64;
            if now.passed < LEAST_PASSED {
                return None;
            }
            // A day that is not over: its rate, and little trust in it.
            let level_variance = 4.0 * SCATTER * SCATTER / now.passed.min(1.0);
            return Some(Self {
                level: so_far / now.passed.min(1.0),
                weekdays: [1.0; 7],
                scatter: SCATTER,
                level_variance,
            });
        }
        let mut calls = [0.0_f64; PAST_DAYS as usize];
        let past = &mut calls[..(today.0 - from.0) as usize];
        for (day, calls) in days.iter().filter(|(day, _)| (from..today).contains(day)) {
            past[(day.0 - from.0) as usize] = *calls as f64;
        }
        let mut sorted: SmallVec<[f64; PAST_DAYS as usize]> =
            past.iter().copied().filter(|calls| *calls > 0.0).collect();
        sorted.sort_unstable_by(f64::total_cmp);
        if let Some(usual) = sorted.get(sorted.len() / 2) {
            past.iter_mut().for_each(|calls| *calls = calls.min(usual * OUTLIER));
        }
        let mean = past.iter().sum::<f64>() / past.len() as f64;
        let day_of = |index: usize| LocalDay(from.0 + index as i32);
        let mut weekdays = [1.0; 7];
        if past.len() >= 7 && mean > 0.0 {
            let (mut sums, mut counts) = ([0.0; 7], [0.0; 7]);
            for (index, calls) in past.iter().enumerate() {
                sums[weekday(day_of(index))] += calls / mean;
                counts[weekday(day_of(index))] += 1.0;
            }
            for (factor, (sum, count)) in weekdays.iter_mut().zip(sums.iter().zip(counts)) {
                *factor = (sum + WEEKDAY_PRIOR) / (count + WEEKDAY_PRIOR);
            }
        }
        let weight = |index: usize| 0.5_f64.powf((past.len() - index) as f64 / HALF_LIFE_DAYS);
        let (mut calls, mut expected, mut weights) = (0.0, 0.0, 0.0);
        for (index, of_day) in past.iter().enumerate() {
            calls += weight(index) * of_day;
            expected += weight(index) * weekdays[weekday(day_of(index))];
            weights += weight(index);
        }
        let level = calls / expected;
        let mut squares = SCATTER_PRIOR * SCATTER * SCATTER;
        if level > 0.0 {
            for (index, of_day) in past.iter().enumerate() {
                let expected = weekdays[weekday(day_of(index))].max(0.05);
                // By its share of an average day: an idle Sunday's noise is not a Monday's.
                squares += (of_day / level - expected).powi(2);
            }
        }
        let scatter = (squares / (past.len() as f64 + SCATTER_PRIOR)).sqrt();
        let scatter = scatter.max(LEAST_SCATTER).max(1.0 / level.max(1.0).sqrt());
        Some(Self { level, weekdays, scatter, level_variance: scatter * scatter / weights.max(1.0) })
    }

    fn day(&self, day: LocalDay) -> f64 {
        self.level * self.weekdays[weekday(day)]
    }

    /// What is left of today. Calls that came already are part of what the day brings; on a day that brings more than
    /// usual, the rest of it still comes.
    fn rest_of_today(&self, days: &[(LocalDay, u64)], now: Moment) -> f64 {
        let left = 1.0 - now.passed.clamp(0.0, 1.0);
        let so_far = days.iter().rfind(|(day, _)| *day == now.day).map_or(0.0, |(_, calls)| *calls as f64);
        let usual = self.day(now.day);
        (usual - so_far).min(usual * (left + 0.3)).max(usual * left * 0.5).max(0.0) * f64::from(u8::from(left > 0.0))
    }
}

fn count(calls: f64) -> u64 {
    // The cast saturates, and NaN becomes 0.
    calls.round() as u64
}

/// Calls from now to the end of `last`. `days`: the tenant's calls by local day, in order of time; days without calls may
/// be absent, today may be among them, as far as counted. `None`: there is nothing to go by.
pub fn remaining_calls(days: &[(LocalDay, u64)], last: LocalDay, now: Moment) -> Option<Remaining> {
    let model = Model::of(days, now)?;
    Some(expect(&model, days, last, now))
}

fn expect(model: &Model, days: &[(LocalDay, u64)], last: LocalDay, now: Moment) -> Remaining {
    let today = model.rest_of_today(days, now);
    let coming = last.0.saturating_sub(now.day.0).max(0);
    let (mut sum, mut squares) = (today, today * today);
    // Whole weeks are all alike.
    let (weeks, rest) = (coming / 7, coming % 7);
    for day in 1..=7 {
        let calls = model.day(LocalDay(now.day.0.saturating_add(day)));
        let times = f64::from(weeks + i32::from(day <= rest));
        sum += calls * times;
        squares += times
            * model.level
            * model.level
            * model.weekdays[weekday(LocalDay(now.day.0.saturating_add(day)))].min(1.0);
    }
    let drift = DRIFT * DRIFT * f64::from(coming);
    let variance = squares * model.scatter * model.scatter + sum * sum * (model.level_variance + drift);
    let width = Z80 * variance.sqrt();
    let expected = count(sum);
    Remaining { low: count((sum - width).max(0.0)).min(expected), expected, high: count(sum + width).max(expected) }
}

/// What a running service month comes to. `so_far`: its calls and failures that count; `days`: see [`remaining_calls`];
/// `last_hour`: what goes on, clean if absent. `None`: the month does not run at `now_ms`, or there is nothing to go by.
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
    if !period.contains(today) {
        return None;
    }
    let (begin_ms, end_ms) = (day_start_ms(zone, today), day_start_ms(zone, LocalDay(today.0 + 1)));
    let passed = (now_ms - begin_ms) as f64 / (end_ms - begin_ms).max(1) as f64;
    let now = Moment { day: today, passed };
    let model = Model::of(days, now)?;
    let remaining = expect(&model, days, period.last, now);
    let at = |more: u64| so_far.total.saturating_add(more);
    let calls = Remaining { low: at(remaining.low), expected: at(remaining.expected), high: at(remaining.high) };
    let tiers = policy.tiers.iter().map(|tier| tier.below);
    let then = Availability { total: calls.expected, failed: so_far.failed };
    let allowed: SmallVec<[i64; 4]> = tiers.clone().map(|below| then.headroom(below)).collect();
    let left = allowed.first().copied().unwrap_or(0);
    let sustainable = (left > 0 && remaining.expected > 0).then(|| left as f64 / remaining.expected as f64);
    let ratio = last_hour.filter(|hour| hour.total > 0).map_or(0.0, |hour| hour.failed as f64 / hour.total as f64);
    let more = count(ratio * remaining.expected as f64).min(remaining.expected);
    let at_end = Availability { total: calls.expected, failed: so_far.failed.saturating_add(more) };
    let reached_at_ms = tiers.clone().map(|below| {
        let calls = calls_until(so_far, below, ratio)?;
        let at_ms = model.time_of(days, calls, period.last, now, |day| day_start_ms(zone, day))?;
        Some(at_ms.clamp(now_ms + 1, day_start_ms(zone, period.next_day())))
    });
    Some(Outlook {
        calls,
        settled: is_settled(policy, so_far, remaining.high.max(busiest_days(days, period.last, now))),
        at_end,
        reached_at_ms: reached_at_ms.collect(),
        allowed,
        sustainable,
    })
}

/// Calls at this ratio of failures until the tier applies; `None`: it does already, or never will.
fn calls_until(so_far: Availability, below: Ppm, ratio: f64) -> Option<f64> {
    let budget = f64::from(below.complement().parts()) / 1e6;
    if !so_far.at_least(below) || ratio <= budget {
        return None;
    }
    Some((budget * so_far.total as f64 - so_far.failed as f64).max(0.0) / (ratio - budget))
}

/// The calls to come if every day that is left were as busy as the busiest so far: whoever is told that nothing can change
/// any more must not be surprised by a day like one that was.
fn busiest_days(days: &[(LocalDay, u64)], last: LocalDay, now: Moment) -> u64 {
    let busiest = days.iter().map(|(_, calls)| *calls).max().unwrap_or(0);
    count(busiest as f64 * (f64::from(last.0 - now.day.0) + 1.0 - now.passed))
}

/// Could `calls` more, all failing, reach the next tier, or, all clean, leave the present one?
fn is_settled(policy: &Policy, so_far: Availability, calls: u64) -> bool {
    let total = so_far.total.saturating_add(calls);
    let reached = policy.tiers.iter().filter(|tier| !so_far.at_least(tier.below)).count();
    let worst = Availability { total, failed: so_far.failed.saturating_add(calls) };
    let can_worsen = policy.tiers.get(reached).is_some_and(|next| !worst.at_least(next.below));
    let best = Availability { total, failed: so_far.failed };
    let present = reached.checked_sub(1).and_then(|present| policy.tiers.get(present));
    let can_better = present.is_some_and(|present| best.at_least(present.below));
    !can_worsen && !can_better
}

impl Model {
    /// When so many calls more will have come; `None`: not before the end of `last`.
    fn time_of(
        &self,
        days: &[(LocalDay, u64)],
        calls: f64,
        last: LocalDay,
        now: Moment,
        start_ms: impl Fn(LocalDay) -> i64,
    ) -> Option<i64> {
        let within = |day: LocalDay, from: f64, part: f64| {
            let (begin, end) = (start_ms(day), start_ms(LocalDay(day.0 + 1)));
            begin + ((from + (1.0 - from) * part) * (end - begin) as f64) as i64
        };
        let mut left = calls;
        let today = self.rest_of_today(days, now);
        if left <= today {
            return Some(within(now.day, now.passed, if today > 0.0 { left / today } else { 0.0 }));
        }
        left -= today;
        for day in (now.day.0 + 1..=last.0).map(LocalDay) {
            let calls = self.day(day);
            if left <= calls && calls > 0.0 {
                return Some(within(day, 0.0, left / calls));
            }
            left -= calls;
        }
        None
    }
}

/// A window's failures per call as a multiple of what the rest of the month can bear; `None` without calls in it, or
/// without budget left.
pub fn burn_rate(window: Availability, sustainable: Option<f64>) -> Option<f64> {
    let ratio = (window.total > 0).then(|| window.failed as f64 / window.total as f64)?;
    Some(ratio / sustainable.filter(|rate| *rate > 0.0)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::calendar::Month;

    const MARCH: Month = Month(2026 * 12 + 2);

    fn march(day: i32) -> LocalDay {
        LocalDay(MARCH.first_day().0 + day - 1)
    }

    /// 1000 calls on each of these days of March.
    fn steady(days: std::ops::Range<i32>) -> Vec<(LocalDay, u64)> {
        days.map(|day| (march(day), 1000)).collect()
    }

    #[test]
    fn days_to_come_are_like_those_that_were() {
        // 2 March 2026 is a Monday.
        let office: Vec<_> = (-25..16).map(|d| (march(d), if weekday(march(d)) < 5 { 2000 } else { 100 })).collect();
        let mut outlier = steady(-20..16);
        outlier[30].1 = 500_000;
        for (what, days, now, least, most) in [
            ("a steady tenant, at midnight", steady(-20..16), 0.0, 15_500, 16_500),
            (
                "at noon, half of today was there",
                [steady(-20..16), vec![(march(16), 500)]].concat(),
                0.5,
                15_000,
                16_000,
            ),
            ("weekdays", office, 0.0, 22_000, 26_000),
            ("one outlier", outlier, 0.0, 15_000, 20_000),
            ("one day of history", steady(15..16), 0.0, 14_000, 18_000),
            ("only today", vec![(march(16), 250)], 0.25, 13_000, 17_000),
            ("gone for good", steady(-20..-5), 0.0, 0, 9000),
        ] {
            let remaining = remaining_calls(&days, march(31), Moment { day: march(16), passed: now }).expect(what);
            let Remaining { low, expected, high } = remaining;
            assert!((least..=most).contains(&expected), "{what}: {remaining:?}");
            assert!(low <= expected && expected <= high, "{what}: {remaining:?}");
        }
        let nothing =
            |days: &[(LocalDay, u64)], passed| remaining_calls(days, march(31), Moment { day: march(16), passed });
        assert_eq!(nothing(&[], 0.5), None);
        assert_eq!(nothing(&[(march(16), 3)], 0.01), None);
        let at_the_end = remaining_calls(&steady(-20..32), march(31), Moment { day: march(31), passed: 1.0 });
        assert_eq!(at_the_end.expect("days").expected, 0);
    }

    fn look(days: &[(LocalDay, u64)], so_far: (u64, u64), hour: Option<(u64, u64)>, day: i32) -> Outlook {
        let policy = Policy::tencent_ccc();
        let of = |(total, failed)| Availability { total, failed };
        let now_ms = day_start_ms(policy.time_zone, march(day));
        outlook(&policy, Period::calendar_month(MARCH), of(so_far), days, hour.map(of), now_ms).expect("an outlook")
    }

    #[test]
    fn what_the_rest_of_the_month_leaves_room_for() {
        let days = steady(-20..16);
        // About 16,000 calls to come, 31,000 in all: 155 failures below 99.5 %.
        let clean = look(&days, (15_000, 20), None, 16);
        assert!((130..=140).contains(&clean.allowed[0]), "{clean:?}");
        assert_eq!(clean.at_end.failed, 20);
        assert_eq!(clean.reached_at_ms.as_slice(), [None; 3]);
        assert!(!clean.settled);
        let sustainable = clean.sustainable.expect("a budget");
        assert!((0.008..0.009).contains(&sustainable), "{sustainable}");
        let burning = burn_rate(Availability { total: 100, failed: 12 }, clean.sustainable).expect("calls");
        assert!((14.0..15.0).contains(&burning), "{burning}");
        assert_eq!(burn_rate(Availability::default(), clean.sustainable), None);

        // 2 % failing: 75 − 20 = 55 failures above what comes with new calls, 0.015 a call: 3,667 calls, 3.7 days.
        let failing = look(&days, (15_000, 20), Some((100, 2)), 16);
        let day = |ms: i64| (ms - day_start_ms(chrono_tz::Asia::Shanghai, march(1))) as f64 / 86_400_000.0 + 1.0;
        let reached: Vec<_> = failing.reached_at_ms.iter().map(|at| at.map(day)).collect();
        assert!(reached[0].is_some_and(|day| (19.5..20.0).contains(&day)), "{reached:?}");
        // 1 %: 150 − 20 = 130, at 0.01 a call: 13,000 calls.
        assert!(reached[1].is_some_and(|day| (28.5..29.5).contains(&day)), "{reached:?}");
        assert_eq!(reached[2], None);

        // Breached, with too few calls to come to climb back.
        let lost = look(&days, (15_000, 400), None, 16);
        assert!(lost.allowed[0] < 0 && lost.allowed[1] < 0 && lost.allowed[2] > 0, "{lost:?}");
        assert_eq!(lost.sustainable, None);
        assert!(!lost.settled, "T3 is still to be reached");
        // The last day, in the last tier: nothing changes any more.
        let done = look(&steady(-20..31), (30_000, 9000), None, 31);
        assert!(done.settled, "{done:?}");
        let safe = look(&steady(-20..31), (3_000_000, 0), None, 31);
        assert!(safe.settled, "{safe:?}");
    }

    #[test]
    fn outside_the_month_there_is_no_outlook() {
        let policy = Policy::tencent_ccc();
        for day in [0, 32] {
            let now_ms = day_start_ms(policy.time_zone, march(day));
            let period = Period::calendar_month(MARCH);
            assert_eq!(outlook(&policy, period, Availability::default(), &steady(1..31), None, now_ms), None);
        }
    }

    proptest! {
        #[test]
        fn bounds_are_in_order_whatever_the_days_are(
            days in prop::collection::btree_map(-60_i32..40, prop_oneof![0_u64..10_000, any::<u64>()], 0..60),
            day in 1_i32..32, passed in 0.0_f64..=1.0, last in 1_i32..32,
        ) {
            let days: Vec<_> = days.into_iter().map(|(d, calls)| (march(d), calls)).collect();
            if let Some(Remaining { low, expected, high }) = remaining_calls(&days, march(last), Moment { day: march(day), passed }) {
                prop_assert!(low <= expected && expected <= high);
            }
        }

        /// No number of the calls to come, with any number of failures among them, changes a tier that is settled.
        #[test]
        fn a_settled_tier_does_not_change(total in 0_u64..400, failed in 0_u64..400, calls in 0_u64..30) {
            let policy = Policy::tencent_ccc();
            let now = Availability { total, failed: failed.min(total) };
            let tier = |a: Availability| policy.tier(a).map(|tier| tier.name.clone());
            let changes = (0..=calls).any(|more| (0..=more).any(|failing| {
                tier(Availability { total: now.total + more, failed: now.failed + failing }) != tier(now)
            }));
            prop_assert_eq!(is_settled(&policy, now, calls), !changes);
        }

        #[test]
        fn an_outlook_is_sound(total in 0_u64..1_000_000, failed in 0_u64..50_000, hour in 0_u64..2000, failing in 0_u64..2000, day in 1_i32..32) {
            let failed = failed.min(total);
            let outlook = look(&steady(-20..day), (total, failed), Some((hour, failing.min(hour))), day);
            let more = look(&steady(-20..day), (total, (failed + 1).min(total)), None, day);
            prop_assert!(more.allowed.iter().zip(&outlook.allowed).all(|(more, less)| more <= less));
            let policy = Policy::tencent_ccc();
            let [now_ms, end_ms] = [day, 32].map(|day| day_start_ms(policy.time_zone, march(day)));
            for (tier, at) in policy.tiers.iter().zip(&outlook.reached_at_ms) {
                if let Some(at) = at {
                    prop_assert!((now_ms + 1..=end_ms).contains(at));
                    prop_assert!((Availability { total, failed }).at_least(tier.below), "reached already");
                }
            }
        }
    }
}
