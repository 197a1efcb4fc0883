//! The contract's figures: every row of the vectors is a case, and the exact arithmetic holds over all boundaries.
//! Terms, fees and claims are in `contract_vectors.rs`.

use proptest::prelude::*;
use sla_ledger::domain::availability::{Availability, Level, Ppm};
use sla_ledger::domain::calendar::LocalClock;
use sla_ledger::domain::policy::{MonthEnd, Policy};
use sla_ledger::domain::term::{Order, OrderEnd, Terms};
use sla_ledger::pipeline::decode::rfc3339_ms;

#[path = "support/rows.rs"]
mod support;

use support::{rows, shown};

fn tier_name(contract: &Policy, availability: Availability) -> String {
    match contract.tier(availability) {
        _ if availability.total == 0 => "no_traffic".into(),
        Some(tier) => tier.name.clone(),
        None => "none".into(),
    }
}

#[test]
fn tiers() {
    let contract = Policy::tencent_ccc();
    rows("tier_vectors.csv", "id", |row| {
        let (total, excluded): (u64, u64) = (row.number("total"), row.number("excluded"));
        let total = if row.text("excluded_in_denominator") == "drop" { total - excluded } else { total };
        let a = Availability { total, failed: row.number::<u64>("failed_raw") - excluded };
        let fraction = if a.total == 0 { String::new() } else { format!("{}/{}", a.good(), a.total) };
        vec![
            ("T", a.total.to_string(), row.text("T").into()),
            ("U", a.failed.to_string(), row.text("U").into()),
            ("availability", fraction, row.text("availability_fraction").into()),
            ("percent", shown(a.percent()), row.text("availability_pct_floor4").into()),
            ("tier", tier_name(&contract, a), row.text("tier").into()),
            ("rate", contract.tier(a).map_or("0".into(), |t| t.rate.to_string()), row.text("rate_pct").into()),
        ]
    });
}

#[test]
fn error_budgets() {
    let contract = Policy::tencent_ccc();
    rows("error_budget.csv", "", |row| {
        let total: u64 = row.number("total");
        let mut found = Vec::new();
        let columns = [
            ("max_failed_no_compensation", "first_failed_10pct"),
            ("max_failed_tier1_10pct", "first_failed_above_10pct"),
            ("max_failed_tier2_30pct", "first_failed_50pct"),
        ];
        for (tier, (most, first)) in contract.tiers.iter().zip(columns) {
            let left = Availability { total, failed: 0 }.failures_left(tier.below);
            found.push((most, left.to_string(), row.text(most).into()));
            let above = (total > 0).then_some(left + 1);
            found.push((first, shown(above), row.text(first).into()));
            // The figures are exact: this many failures do not reach the tier, one more does.
            for (column, reached) in [(most, false), (first, true)] {
                if !row.text(column).is_empty() {
                    let failed: u64 = row.number(column);
                    let below = !Availability { total, failed }.at_least(tier.below);
                    found.push(("reached", format!("{below} at {failed}"), format!("{reached} at {failed}")));
                }
            }
        }
        found
    });
}

#[test]
fn event_times() {
    let order = Order {
        order_id: "o-1".into(),
        start: "2026-03-17".parse().expect("a day"),
        end: OrderEnd::Months(3),
        terminated_on: None,
        policy: None,
        customer: None,
        recorded_at_ms: 0,
    };
    let terms = Terms::of(&[order], None, |_| MonthEnd::MonthEnd);
    rows("event_time.csv", "id", |row| {
        let ms = rfc3339_ms(row.text("event_time"));
        let day = ms.map(|ms| LocalClock::new(chrono_tz::Asia::Shanghai).day(ms));
        let period = day.and_then(|day| terms.period_of(day));
        let month = period.map_or("out_of_term".into(), |period| terms.label(period));
        vec![
            ("instant", shown(ms), row.text("epoch_ms_floor").into()),
            ("local date", shown(day), row.text("local_date").into()),
            ("month", month, row.text("expected_service_month_for_term_2026-03-17..2026-06-16").into()),
        ]
    });
}

#[test]
fn alert_levels() {
    let contract = Policy::tencent_ccc();
    rows("alert_levels.csv", "", |row| {
        let a = Availability { total: row.number("total"), failed: row.number("failed") };
        let target = contract.target();
        let allowed = Availability { failed: 0, ..a }.failures_left(target);
        let recover = |percent: &str| shown(a.calls_to_recover(Ppm::from_percent(percent).expect("a percentage")));
        vec![
            ("budget", allowed.to_string(), row.text("budget_failed").into()),
            ("failures_left", a.failures_left(target).to_string(), row.text("remaining_failed").into()),
            ("consumed", shown(a.consumed_percent(target)), row.text("budget_consumed_pct_floor2").into()),
            ("level", a.level(target).as_str().into(), row.text("level").into()),
            ("tier", tier_name(&contract, a), row.text("tier").into()),
            ("recover 99.50", recover("99.50"), row.text("good_calls_to_recover_99.50").into()),
            ("recover 99.00", recover("99.00"), row.text("good_calls_to_recover_99.00").into()),
            ("recover 95.00", recover("95.00"), row.text("good_calls_to_recover_95.00").into()),
        ]
    });
}

#[test]
fn percentages_are_read_and_written() {
    for (text, parts) in [
        ("99.50", 995_000),
        ("99.5", 995_000),
        ("10", 100_000),
        ("0", 0),
        ("100", 1_000_000),
        ("0.0001", 1),
        ("99.9999", 999_999),
    ] {
        let ppm = Ppm::from_percent(text).expect(text);
        assert_eq!(ppm.parts(), parts, "{text}");
        assert_eq!(Ppm::from_percent(&ppm.to_string()), Some(ppm), "{text} written as {ppm}");
    }
    for text in ["", ".5", "5.", "100.0001", "101", "-1", "+1", "1e1", "99,5", " 1", "0.00001", "１"] {
        assert_eq!(Ppm::from_percent(text), None, "{text}");
    }
    for (parts, text) in [(995_000, "99.5"), (100_000, "10"), (1, "0.0001"), (0, "0"), (1_000_000, "100")] {
        assert_eq!(Ppm::new(parts).expect("in range").to_string(), text);
    }
}

// ---- the same figures by definition ----

/// Big non-negative integers, little endian in base 2^32: slow, and obviously right.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Big(Vec<u32>);

impl Big {
    fn of(value: u64) -> Self {
        Self(vec![value as u32, (value >> 32) as u32]).trimmed()
    }

    fn trimmed(mut self) -> Self {
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
        self
    }

    fn times(&self, other: &Self) -> Self {
        let mut digits = vec![0u32; self.0.len() + other.0.len() + 1];
        for (i, a) in self.0.iter().enumerate() {
            let mut carry = 0u64;
            for (j, b) in other.0.iter().chain(&[0]).enumerate() {
                let sum = u64::from(digits[i + j]) + u64::from(*a) * u64::from(*b) + carry;
                (digits[i + j], carry) = (sum as u32, sum >> 32);
            }
        }
        Self(digits).trimmed()
    }

    fn plus(&self, other: &Self) -> Self {
        let mut carry = 0u64;
        let digit = |big: &Self, i: usize| u64::from(big.0.get(i).copied().unwrap_or(0));
        let digits = (0..=self.0.len().max(other.0.len())).map(|i| {
            let sum = digit(self, i) + digit(other, i) + carry;
            carry = sum >> 32;
            sum as u32
        });
        Self(digits.collect()).trimmed()
    }
}

impl PartialOrd for Big {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Big {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.len().cmp(&other.0.len()).then_with(|| self.0.iter().rev().cmp(other.0.iter().rev()))
    }
}

/// (T − U) / T ≥ p / 1,000,000, cross-multiplied in big integers. T may exceed u64.
fn at_least(good: &Big, total: &Big, parts: u32) -> bool {
    good.times(&Big::of(1_000_000)) >= total.times(&Big::of(parts.into()))
}

fn naive_at_least(total: u64, failed: u64, parts: u32) -> bool {
    total == 0 || at_least(&Big::of(total - failed), &Big::of(total), parts)
}

/// A decimal text as (digits without the point, places).
fn decimal(text: &str) -> (u64, usize) {
    let (whole, fraction) = text.split_once('.').expect("a decimal point");
    (format!("{whole}{fraction}").parse().expect("digits"), fraction.len())
}

fn totals() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..=3000u64,
        any::<u64>(),
        (0u32..64, -2i64..=2).prop_map(|(bit, by)| (1u64 << bit).saturating_add_signed(by)),
        (0..=u64::MAX / 1000, 0..=1000u64).prop_map(|(k, by)| (k * 1000).saturating_add(by)),
        (0..=1000u64).prop_map(|below| u64::MAX - below),
    ]
}

fn thresholds() -> impl Strategy<Value = u32> {
    prop_oneof![
        Just(995_000u32),
        Just(990_000),
        Just(950_000),
        Just(0),
        Just(1_000_000),
        Just(999_999),
        Just(1),
        0..=1_000_000u32
    ]
}

/// T, a threshold, and U on, just below and just above what the threshold allows, or anywhere.
fn cases() -> impl Strategy<Value = (u64, u32, u64)> {
    (totals(), thresholds(), -2i64..=2, any::<u64>(), any::<bool>()).prop_map(
        |(total, parts, by, anywhere, at_boundary)| {
            let boundary = (u128::from(total) * u128::from(1_000_000 - parts) / 1_000_000) as u64;
            let failed = if at_boundary {
                boundary.saturating_add_signed(by).min(total)
            } else {
                anywhere % total.saturating_add(1).max(1)
            };
            (total, parts, failed.min(total))
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8_000))]

    #[test]
    fn a_threshold_is_met_by_definition((total, parts, failed) in cases()) {
        let (a, threshold) = (Availability { total, failed }, Ppm::new(parts).expect("in range"));
        prop_assert_eq!(a.at_least(threshold), naive_at_least(total, failed, parts));
    }

    #[test]
    fn the_tier_is_the_lowest_threshold_missed((total, _, failed) in cases()) {
        let contract = Policy::tencent_ccc();
        let naive = [(950_000, "T3"), (990_000, "T2"), (995_000, "T1")].into_iter().find(|(parts, _)| !naive_at_least(total, failed, *parts));
        let found = contract.tier(Availability { total, failed }).map(|t| t.name.as_str());
        prop_assert_eq!(found, naive.map(|(_, name)| name));
    }

    #[test]
    fn the_failures_left_are_exactly_the_edge((total, parts, failed) in cases()) {
        let (a, threshold) = (Availability { total, failed }, Ppm::new(parts).expect("in range"));
        let left = a.failures_left(threshold);
        if i128::from(left) + i128::from(failed) < 0 || left == i64::MAX || left == i64::MIN {
            return Ok(()); // beyond i64: clamped
        }
        let edge = (i128::from(failed) + i128::from(left)) as u64;
        prop_assert!(naive_at_least(total, edge, parts), "{} failures are allowed", edge);
        if edge < total {
            prop_assert!(!naive_at_least(total, edge + 1, parts), "{} failures are too many", edge + 1);
        }
        prop_assert_eq!(left >= 0, a.at_least(threshold));
    }

    #[test]
    fn the_calls_to_recover_are_exactly_enough((total, parts, failed) in cases()) {
        let (a, threshold) = (Availability { total, failed }, Ppm::new(parts).expect("in range"));
        let after = |calls: u64| {
            let good = Big::of(total - failed).plus(&Big::of(calls));
            at_least(&good, &Big::of(total).plus(&Big::of(calls)), parts)
        };
        match a.calls_to_recover(threshold) {
            Some(0) => prop_assert!(naive_at_least(total, failed, parts)),
            Some(calls) => {
                prop_assert!(after(calls), "{} calls are enough", calls);
                prop_assert!(!after(calls - 1), "{} calls are not enough", calls - 1);
            }
            None => prop_assert!(!after(u64::MAX), "no number below 2^64 is enough"),
        }
    }

    #[test]
    fn a_percentage_never_reads_higher_than_the_truth((total, parts, failed) in cases()) {
        let (a, target) = (Availability { total, failed }, Ppm::new(parts).expect("in range"));
        match a.percent() {
            None => prop_assert_eq!(total, 0),
            Some(percent) => {
                // text/10^(2+places) ≤ good/total < (text+1)/10^(2+places)
                let (digits, places) = decimal(&percent.to_string());
                prop_assert_eq!(places, 4);
                let truth = Big::of(total - failed).times(&Big::of(1_000_000));
                prop_assert!(Big::of(digits).times(&Big::of(total)) <= truth);
                prop_assert!(Big::of(digits + 1).times(&Big::of(total)) > truth);
            }
        }
        // consumed = U / (T × budget), in percent with two places
        let budget = u64::from(1_000_000 - parts);
        match a.consumed_percent(target) {
            None => prop_assert!(total == 0 || budget == 0),
            Some(percent) => {
                let (whole, fraction) = percent.to_string().split_once('.').map(|(w, f)| (w.to_owned(), f.to_owned())).expect("a point");
                prop_assert_eq!(fraction.len(), 2);
                let digits: u128 = format!("{whole}{fraction}").parse().expect("digits");
                let big = |value: u128| Big::of(value as u64).plus(&Big::of((value >> 64) as u64).times(&Big::of(1 << 32)).times(&Big::of(1 << 32)));
                let truth = Big::of(failed).times(&Big::of(1_000_000)).times(&Big::of(10_000));
                let unit = Big::of(total).times(&Big::of(budget));
                prop_assert!(big(digits).times(&unit) <= truth);
                prop_assert!(big(digits + 1).times(&unit) > truth);
            }
        }
    }

    #[test]
    fn the_level_follows_the_exact_share_of_the_budget((total, _, failed) in cases(), by in -1i64..=1, percent in prop_oneof![Just(50u128), Just(80), Just(100)], near in any::<bool>()) {
        let target = Policy::tencent_ccc().target();
        // U near 50, 80 and 100 % of the budget of T.
        let edge = (u128::from(total) * 5 * percent / 100_000) as u64;
        let failed = if near { edge.saturating_add_signed(by).min(total) } else { failed };
        let reached = |percent: u64| {
            Big::of(failed).times(&Big::of(100_000)) >= Big::of(total).times(&Big::of(5)).times(&Big::of(percent))
        };
        let expected = match () {
            () if total == 0 => Level::NoTraffic,
            () if !naive_at_least(total, failed, 995_000) => Level::Breach,
            () if failed > 0 && reached(100) => Level::Exhausted100,
            () if failed > 0 && reached(80) => Level::Warn80,
            () if failed > 0 && reached(50) => Level::Warn50,
            () => Level::Ok,
        };
        prop_assert_eq!(Availability { total, failed }.level(target), expected);
    }
}

/// All U for all small T: nothing between the vectors and the random cases is left out.
#[test]
fn small_months_by_definition() {
    let contract = Policy::tencent_ccc();
    for total in 0..=1100u64 {
        for failed in 0..=total {
            let a = Availability { total, failed };
            // The contract's own words: 1000(T−U) ≥ 995T none; 100(T−U) ≥ 99T 10 %; 100(T−U) ≥ 95T 30 %; else 50 %.
            let good = total - failed;
            let naive = match () {
                () if 1000 * good >= 995 * total => None,
                () if 100 * good >= 99 * total => Some("T1"),
                () if 100 * good >= 95 * total => Some("T2"),
                () => Some("T3"),
            };
            assert_eq!(contract.tier(a).map(|t| t.name.as_str()), naive, "T={total} U={failed}");
        }
    }
}
