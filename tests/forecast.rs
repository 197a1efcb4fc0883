//! The forecast: readable cases, what must hold of any input, and its integers against brute force and the vectors.
//! How good it is is measured, not tested: `cargo bench --bench forecast`.

use proptest::prelude::*;
use sla_ledger::domain::availability::Availability;
use sla_ledger::domain::calendar::{LocalClock, LocalDay, day_start_ms};
use sla_ledger::domain::forecast::{Moment, Outlook, Remaining, burn_rate, outlook, remaining_calls};
use sla_ledger::domain::policy::Policy;
use sla_ledger::domain::term::Period;
use sla_ledger::domain::workdays::Workdays;

#[path = "support/rows.rs"]
mod support;

use support::{rows, shown};

fn day(text: &str) -> LocalDay {
    text.parse().unwrap_or_else(|e| panic!("`{text}`: {e}"))
}

fn march() -> Period {
    Period { first: day("2026-03-01"), last: day("2026-03-31") }
}

/// `length` days before `today` with these calls on working days and on weekends, and today's.
fn history(today: LocalDay, length: i32, working: u64, weekend: u64, so_far: u64) -> Vec<(LocalDay, u64)> {
    let calls = |day: LocalDay| if matches!(day.0.rem_euclid(7), 2 | 3) { weekend } else { working };
    let past = (1..=length).rev().map(|ago| LocalDay(today.0 - ago)).map(|day| (day, calls(day)));
    past.chain([(today, so_far)]).collect()
}

fn ask(days: &[(LocalDay, u64)], now: (&str, f64), last: &str) -> Option<Remaining> {
    remaining_calls(days, day(last), Moment { day: day(now.0), passed: now.1 }, &Workdays::default())
}

/// 12 March 2026 is a Thursday; noon. What is left of March has 13 working days and a half, and 6 weekend days.
const NOON: (&str, f64) = ("2026-03-12", 0.5);

fn from_noon(days: &[(LocalDay, u64)]) -> Remaining {
    ask(days, NOON, "2026-03-31").expect("a forecast")
}

fn about(found: u64, expected: u64, percent: u64) -> bool {
    found.abs_diff(expected) * 100 <= expected * percent
}

#[test]
fn calls_to_come() {
    let today = day(NOON.0);
    let spiked = |mut days: Vec<(LocalDay, u64)>, ago: usize, calls: u64| {
        let at = days.len() - 1 - ago;
        days[at].1 = calls;
        days
    };
    let with_gap = |days: Vec<(LocalDay, u64)>, gap: std::ops::Range<i32>| -> Vec<(LocalDay, u64)> {
        days.into_iter().filter(|(day, _)| !gap.contains(&(today.0 - day.0))).collect()
    };
    let even = || history(today, 42, 1000, 1000, 500);
    let cases = [
        ("every day the same", even(), 19_500, 2),
        ("working days only", history(today, 42, 1000, 0, 500), 13_500, 2),
        ("weekends only", history(today, 42, 0, 1000, 0), 6_000, 2),
        ("weekends at half", history(today, 42, 1000, 500, 500), 16_500, 2),
        (
            "ten times as many before the window",
            [history(LocalDay(today.0 - 42), 42, 9_000, 9_000, 9_000), even()].concat(),
            19_500,
            2,
        ),
        ("one huge day, long ago", spiked(even(), 30, 1_000_000), 19_500, 10),
        ("one huge day, the day before", spiked(even(), 1, 1_000_000), 19_500, 50),
        ("one day without a call", spiked(even(), 8, 0), 19_500, 10),
        ("three days missing", with_gap(even(), 10..13), 19_500, 15),
        ("a week of history", history(today, 7, 1000, 500, 500), 16_500, 10),
        ("a day of history: weekends are guessed at 0.6", history(today, 1, 1000, 0, 500), 17_100, 10),
        ("began this morning: weekends are taken for working days", history(today, 0, 0, 0, 500), 19_500, 1),
        ("a holiday today: half of it shows", history(today, 42, 1000, 1000, 0), 19_750, 3),
    ];
    for (what, days, expected, percent) in cases {
        let found = from_noon(&days);
        assert!(about(found.expected, expected, percent), "{what}: {found:?}, expected {expected} +- {percent} %");
        assert!(found.low < found.expected && found.expected < found.high, "{what}: {found:?}");
    }
}

#[test]
fn a_tenant_that_stopped_fades() {
    let today = day(NOON.0);
    let stopped = |ago: i32| {
        let mut days = history(today, 42, 1000, 1000, 0);
        days.retain(|(day, _)| today.0 - day.0 > ago);
        from_noon(&days).expected
    };
    assert!(stopped(7) < 9_750 && stopped(14) < 3_900 && stopped(28) < 1_000, "{:?}", [7, 14, 28].map(stopped));
    assert_eq!(from_noon(&history(LocalDay(today.0 - 50), 30, 1000, 1000, 0)), Remaining::default());
}

#[test]
fn the_end_of_the_period_is_the_end() {
    let evening = |passed: f64, so_far: u64| {
        let days = history(day("2026-03-31"), 42, 1000, 1000, so_far);
        ask(&days, ("2026-03-31", passed), "2026-03-31").expect("a forecast").expected
    };
    assert!((500..=600).contains(&evening(0.5, 450)), "{}", evening(0.5, 450));
    assert!((20..=110).contains(&evening(0.9, 950)), "{}", evening(0.9, 950));
    assert_eq!(evening(1.0, 990), 0);
    let days = history(day("2026-04-01"), 42, 1000, 1000, 500);
    assert_eq!(ask(&days, ("2026-04-01", 0.5), "2026-03-31"), Some(Remaining::default()));
}

#[test]
fn nothing_to_go_by() {
    let today = day(NOON.0);
    for (what, days, passed) in [
        ("no calls ever", vec![], 0.9),
        ("none today either", vec![(today, 0)], 0.9),
        ("the first hours of the first day", vec![(today, 80)], 0.2),
        ("days to come only", vec![(LocalDay(today.0 + 1), 80)], 0.9),
    ] {
        assert_eq!(ask(&days, (NOON.0, passed), "2026-03-31"), None, "{what}");
    }
    let policy = Policy::tencent_ccc();
    let before = day_start_ms(policy.time_zone, march().first) - 1;
    let days = history(day("2026-02-28"), 42, 1000, 1000, 500);
    assert_eq!(outlook(&policy, march(), Availability::default(), &days, None, before), None);
}

#[test]
fn less_is_known_of_a_beginner() {
    let width = |length: i32| {
        let found = from_noon(&history(day(NOON.0), length, 1000, 1000, 500));
        (found.high - found.low) as f64 / found.expected as f64
    };
    let widths = [0, 1, 3, 7, 14, 42].map(width);
    assert!(widths.is_sorted_by(|a, b| a > b), "{widths:?}");
    assert!(widths[0] > 1.0 && widths[5] < 0.3, "{widths:?}");
}

#[test]
fn holidays_are_known_ahead() {
    // 1 to 5 May 2026 are off, Saturday 9 May is worked: two working days fewer in May.
    let mut days = history(day("2026-04-30"), 42, 1000, 1000, 1000);
    days.retain(|(day, _)| Workdays::china().is_working_day(*day) == Some(true));
    let from_may = |workdays: &Workdays| {
        let now = Moment { day: day("2026-04-30"), passed: 1.0 };
        remaining_calls(&days, day("2026-05-31"), now, workdays).expect("a forecast").expected
    };
    let (without, with) = (from_may(&Workdays::default()), from_may(&Workdays::china()));
    // By weekdays there are 21 working days in May.
    assert!(about(with, 19_000, 2) && about(without, 21_000, 5) && without > 20_000, "{with} {without}");
}

// ---- the outlook ----

/// Noon of 12 March 2026 in Shanghai, with 1,000 calls every day.
fn outlook_at_noon(total: u64, failed: u64, last_hour: (u64, u64)) -> Outlook {
    let policy = Policy::tencent_ccc();
    let days = history(day(NOON.0), 42, 1000, 1000, 500);
    let last_hour = Some(Availability { total: last_hour.0, failed: last_hour.1 });
    outlook(&policy, march(), Availability { total, failed }, &days, last_hour, noon_ms()).expect("a forecast")
}

fn noon_ms() -> i64 {
    day_start_ms(Policy::tencent_ccc().time_zone, day(NOON.0)) + 43_200_000
}

#[test]
fn what_the_month_can_bear() {
    // 11,500 so far and about 19,500 to come: 31,000, of which 155, 310 and 1,550 may fail.
    let clean = outlook_at_noon(11_500, 0, (40, 0));
    assert!(clean.allowed.iter().zip([155, 310, 1550]).all(|(a, b)| a.abs_diff(b) < 40), "{clean:?}");
    assert_eq!((&clean.reached_at_ms[..], clean.settled), (&[None; 3][..], false));
    assert_eq!((clean.at_end.total, clean.at_end.failed), (clean.calls.expected, 0));
    // Below the target now, but clean traffic climbs back; and too far below for that.
    assert!(outlook_at_noon(11_500, 100, (40, 0)).allowed[0] > 0);
    assert!(outlook_at_noon(11_500, 200, (40, 0)).allowed[0] < 0);
    assert_eq!(outlook_at_noon(11_500, 200, (40, 0)).sustainable, None);
    // All of it failed: nothing changes the highest tier any more.
    assert!(outlook_at_noon(100_000, 100_000, (40, 40)).settled);
}

#[test]
fn when_a_tier_is_reached() {
    // The 58th failure of 11,500 calls and some more reaches the first tier.
    let hours = |outlook: &Outlook| {
        outlook.reached_at_ms.iter().map(|at| at.map(|at| (at - noon_ms()) / 3_600_000)).collect::<Vec<_>>()
    };
    // Everything fails: 57.5 / 0.995 calls, at 1,000 a day; then 115 / 0.99 and 575 / 0.95.
    assert_eq!(hours(&outlook_at_noon(11_500, 0, (40, 40))), [Some(1), Some(2), Some(14)]);
    // One in a hundred fails: 57.5 / 0.005 calls. And that is the second tier's limit, which is never crossed by it.
    assert_eq!(hours(&outlook_at_noon(11_500, 0, (100, 1))), [Some(276), None, None]);
    // Reached already.
    assert_eq!(hours(&outlook_at_noon(11_500, 70, (40, 40))), [None, Some(1), Some(12)]);
    assert_eq!(hours(&outlook_at_noon(11_500, 0, (0, 0))), [None, None, None]);
}

#[test]
fn after_the_end_nothing_is_open() {
    let policy = Policy::tencent_ccc();
    let end_ms = day_start_ms(policy.time_zone, march().next_day());
    let so_far = Availability { total: 2000, failed: 11 };
    let outlook = outlook(&policy, march(), so_far, &[], Some(so_far), end_ms).expect("an outlook");
    assert_eq!((outlook.at_end, outlook.settled, outlook.sustainable), (so_far, true, None));
    assert_eq!((&outlook.allowed[..], &outlook.reached_at_ms[..]), (&[-1, 9, 89][..], &[None; 3][..]));
}

#[test]
fn burn_rates() {
    for (total, failed, sustainable, expected) in [
        (1000, 72, Some(0.005), Some(14.4)),
        (1000, 5, Some(0.005), Some(1.0)),
        (1000, 0, Some(0.005), Some(0.0)),
        (10, 10, Some(2.0), Some(0.5)),
        (0, 0, Some(0.005), None),
        (1000, 5, None, None),
        (1000, 5, Some(0.0), None),
    ] {
        assert_eq!(
            burn_rate(Availability { total, failed }, sustainable),
            expected,
            "{failed}/{total} {sustainable:?}"
        );
    }
    // Without failures so far the whole budget is left for the calls to come and those that were: 0.5 % of 31,000.
    let sustainable = outlook_at_noon(11_500, 0, (40, 0)).sustainable.expect("budget is left");
    assert!((0.0075..0.0085).contains(&sustainable), "{sustainable}");
}

/// The outlook of a month that is over has the month's own figures.
fn at_the_end(total: u64, failed: u64) -> Outlook {
    let policy = Policy::tencent_ccc();
    let end_ms = day_start_ms(policy.time_zone, march().next_day());
    outlook(&policy, march(), Availability { total, failed }, &[], None, end_ms).expect("an outlook")
}

#[test]
fn failures_left_at_the_end() {
    rows("alert_levels.csv", "", |row| {
        let found = at_the_end(row.number("total"), row.number("failed"));
        vec![("allowed", shown(found.allowed.first()), row.text("remaining_failed").into())]
    });
    rows("error_budget.csv", "", |row| {
        let columns = ["max_failed_no_compensation", "max_failed_tier1_10pct", "max_failed_tier2_30pct"];
        let found = at_the_end(row.number("total"), 0);
        columns.iter().zip(found.allowed).map(|(&c, allowed)| (c, allowed.to_string(), row.text(c).into())).collect()
    });
}

// ---- what holds of any input ----

fn any_days(calls: impl Strategy<Value = u64>, length: usize) -> impl Strategy<Value = Vec<(LocalDay, u64)>> {
    prop::collection::vec((20_450..20_550i32, calls), 0..length).prop_map(|mut days| {
        days.sort_unstable();
        days.dedup_by_key(|(day, _)| *day);
        days.into_iter().map(|(day, calls)| (LocalDay(day), calls)).collect()
    })
}

fn any_calls() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), 0..10u64, 0..100_000u64, Just(u64::MAX), any::<u64>()]
}

/// An instant in March 2026, Shanghai, or a little around it.
fn in_march() -> impl Strategy<Value = i64> {
    let start = day_start_ms(Policy::tencent_ccc().time_zone, march().first);
    start - 86_400_000..start + 33 * 86_400_000
}

proptest! {
    #[test]
    fn any_input_has_an_ordered_answer(
        mut days in prop_oneof![
            any_days(any_calls(), 60),
            prop::collection::vec((any::<i32>().prop_map(LocalDay), any::<u64>()), 0..60),
        ],
        extremes in any::<bool>(),
        last in prop_oneof![20_500..20_600i32, any::<i32>()],
        today in prop_oneof![20_500..20_600i32, any::<i32>(), Just(i32::MIN), Just(i32::MAX)],
        passed in prop_oneof![0.0..=1.0, any::<f64>()],
    ) {
        if extremes {
            days.extend([(LocalDay(i32::MAX), u64::MAX), (LocalDay(i32::MIN), u64::MAX)]);
        }
        let now = Moment { day: LocalDay(today), passed };
        for workdays in [&*Workdays::china(), &Workdays::default()] {
            if let Some(found) = remaining_calls(&days, LocalDay(last), now, workdays) {
                prop_assert!(found.low <= found.expected && found.expected <= found.high, "{found:?}");
            }
        }
    }

    #[test]
    fn any_outlook_is_consistent(
        days in any_days(any_calls(), 60),
        total in any_calls(),
        failed in any_calls(),
        hour in prop::option::of((any_calls(), any_calls())),
        now_ms in prop_oneof![9 => in_march(), 1 => any::<i64>()],
        (first, last) in prop_oneof![4 => Just((march().first.0, march().last.0)), 1 => any::<(i32, i32)>()],
    ) {
        let policy = Policy::tencent_ccc();
        let period = Period { first: LocalDay(first.min(last)), last: LocalDay(first.max(last)) };
        let so_far = Availability { total, failed };
        let hour = hour.map(|(total, failed)| Availability { total, failed });
        let Some(found) = outlook(&policy, period, so_far, &days, hour, now_ms) else { return Ok(()) };
        let Remaining { low, expected, high } = found.calls;
        prop_assert!(total <= low && low <= expected && expected <= high);
        prop_assert!(found.at_end.total == expected && found.at_end.failed >= failed);
        prop_assert!(found.sustainable.is_none_or(|rate| rate > 0.0) && found.allowed.is_sorted());
        for (tier, reached) in policy.tiers.iter().zip(&found.reached_at_ms) {
            // A month without a call has no tier to leave, so it reaches one with its first failure.
            prop_assert_eq!(reached.is_some(), so_far.at_least(tier.below) && !found.at_end.at_least(tier.below));
            prop_assert!(reached.is_none_or(|at| at > now_ms));
            if period == march() {
                let end_ms = day_start_ms(policy.time_zone, march().next_day());
                prop_assert!(reached.is_none_or(|at| at <= end_ms), "{:?} {}", found, now_ms);
            }
        }
        // A tier is not reached before a milder one.
        let times: Vec<i64> = found.reached_at_ms.iter().flatten().copied().collect();
        prop_assert!(times.is_sorted(), "{times:?}");
    }

    #[test]
    fn more_failures_leave_less(
        days in any_days(0..100_000u64, 60),
        total in 0..10_000_000u64,
        (failed, more) in (0..100_000u64, 0..1000u64),
        hour in (0..1000u64, 0..1000u64),
        now_ms in in_march(),
    ) {
        let policy = Policy::tencent_ccc();
        let hour = Some(Availability { total: hour.0, failed: hour.1 });
        let of = |failed| outlook(&policy, march(), Availability { total, failed }, &days, hour, now_ms);
        let (Some(few), Some(many)) = (of(failed), of(failed + more)) else { return Ok(()) };
        for tier in 0..policy.tiers.len() {
            prop_assert_eq!(few.allowed[tier] - many.allowed[tier], more as i64);
            if let (Some(early), Some(late)) = (many.reached_at_ms[tier], few.reached_at_ms[tier]) {
                prop_assert!(early <= late);
            }
        }
        prop_assert!(many.sustainable.unwrap_or(0.0) <= few.sustainable.unwrap_or(f64::INFINITY));
    }

    #[test]
    fn a_worse_hour_reaches_a_tier_sooner(
        days in any_days(0..100_000u64, 60),
        total in 1..1_000_000u64,
        hour in (1..1000u64, 0..1000u64, 1..100u64),
        now_ms in in_march(),
    ) {
        let policy = Policy::tencent_ccc();
        let of = |failed: u64| {
            let hour = Some(Availability { total: hour.0, failed: failed.min(hour.0) });
            outlook(&policy, march(), Availability { total, failed: 0 }, &days, hour, now_ms)
        };
        let (Some(mild), Some(bad)) = (of(hour.1), of(hour.1 + hour.2)) else { return Ok(()) };
        for (mild, bad) in mild.reached_at_ms.iter().zip(&bad.reached_at_ms) {
            prop_assert!(mild.is_none_or(|mild| bad.is_some_and(|bad| bad <= mild)), "{mild:?} {bad:?}");
        }
    }

    #[test]
    fn small_months_agree_with_trying_everything(
        days in any_days(0..4u64, 30),
        total in 0..60u64,
        part in 0.0..1.0,
        now_ms in in_march(),
    ) {
        let policy = Policy::tencent_ccc();
        let failed = (total as f64 * part * part) as u64;
        let so_far = Availability { total, failed };
        let Some(found) = outlook(&policy, march(), so_far, &days, None, now_ms) else { return Ok(()) };
        let tier = |total, failed| policy.tier(Availability { total, failed });

        // Every remaining day like the busiest, or as many calls as the interval allows.
        let today = LocalClock::new(policy.time_zone).day(now_ms);
        let passed = (now_ms - day_start_ms(policy.time_zone, today)) as f64 / 86_400_000.0;
        let busiest = days.iter().map(|(_, calls)| *calls).max().unwrap_or(0) as f64;
        let left = f64::from(march().last.0 - today.0) + 1.0 - passed;
        let most = (found.calls.high - total).max((busiest * left).ceil() as u64);
        let mut ends = (0..=most).flat_map(|calls| (0..=calls).map(move |failing| (calls, failing)));
        let fixed = ends.all(|(calls, failing)| tier(total + calls, failed + failing) == tier(total, failed));
        prop_assert_eq!(found.settled, fixed);

        let end = found.calls.expected;
        for (tier, allowed) in policy.tiers.iter().zip(&found.allowed) {
            let bearable = (0..=end).filter(|&failed| Availability { total: end, failed }.at_least(tier.below)).max();
            prop_assert_eq!(*allowed, bearable.expect("none failing is bearable") as i64 - failed as i64);
        }
        // At the sustainable rate the target is just met.
        if let Some(rate) = found.sustainable {
            let spent = (rate * (end - total) as f64).round() as u64;
            prop_assert_eq!(spent as i64, found.allowed[0]);
        }
    }
}
