//! Terms, fees, payouts and claims: every row of their vectors is a case, and general properties are tested on random
//! ones. Availability and its budget are in `vectors.rs`.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};

use proptest::prelude::*;
use sla_ledger::domain::availability::Ppm;
use sla_ledger::domain::calendar::{LocalDay, day_start_ms};
use sla_ledger::domain::money::{Currency, FeeItem, Fees, MonthFee, allocate, cap_left, payout};
use sla_ledger::domain::policy::{Allocation, ClaimOpens, ClaimRule, FeeBase, MonthEnd, Policy, Rounding};
use sla_ledger::domain::term::{Order, OrderEnd, Period, Terms};
use sla_ledger::domain::workdays::{ClaimWindow, Workdays, claim_state};
use sla_ledger::pipeline::decode::rfc3339_ms;

#[path = "support/rows.rs"]
mod support;

use support::{Row, rows, shown};

fn order(start: LocalDay, end: OrderEnd) -> Order {
    let (order_id, recorded_at_ms) = (start.to_string().into(), 0);
    Order { order_id, start, end, terminated_on: None, policy: None, customer: None, recorded_at_ms }
}

fn bill(id: &str, (first, last): (LocalDay, LocalDay), gross_minor: i64, voucher_minor: i64) -> FeeItem {
    FeeItem {
        bill_id: id.into(),
        period_start: first,
        period_end: last,
        currency: Currency::CNY,
        gross_minor,
        voucher_minor,
        charged_on: first,
        recorded_at_ms: 0,
    }
}

// ---- clause 1.2 ----

#[test]
fn service_months() {
    rows("service_months.csv", "case", |row| {
        let month_end = if row.text("month_end_rule") == "clamp" { MonthEnd::Clamp } else { MonthEnd::MonthEnd };
        let start: LocalDay = row.number("start");
        let terms = Terms::of(&[order(start, OrderEnd::Months(row.number("months")))], None, |_| month_end);
        let last = terms.terms().last().and_then(|term| term.last).expect("it ends");
        let months: Vec<_> = terms.periods(LocalDay(0), row.number("end_inclusive")).collect();
        let month = months.get(row.number::<usize>("seq") - 1);
        let by_day = |day: LocalDay| shown(terms.period_of(day).map(|p| format!("{}..{}", p.first, p.last)));
        let expected = format!("{}..{}", row.text("sm_start"), row.text("sm_end"));
        vec![
            ("end", last.to_string(), row.text("end_inclusive").into()),
            ("count", months.len().to_string(), row.text("count").into()),
            ("first day", shown(month.map(|m| m.first)), row.text("sm_start").into()),
            ("last day", shown(month.map(|m| m.last)), row.text("sm_end").into()),
            ("days", shown(month.map(|m| m.days())), row.text("days").into()),
            ("month of its first day", by_day(row.number("sm_start")), expected.clone()),
            ("month of its last day", by_day(row.number("sm_end")), expected),
        ]
    });
}

// ---- clause 1.3 ----

const ALLOCATIONS: [(&str, Allocation); 3] = [
    ("accrual_by_day", Allocation::AccrualByDay),
    ("cash_date", Allocation::CashDate),
    ("equal_per_service_month", Allocation::EqualPerServiceMonth),
];

#[test]
fn fee_allocation() {
    rows("fee_allocation.csv", "id", |row| {
        let mode = ALLOCATIONS.iter().find(|(name, _)| *name == row.text("mode"));
        let (_, mode) = mode.unwrap_or_else(|| panic!("no mode {}", row.text("mode")));
        let days: (LocalDay, LocalDay) = (row.number("term_start"), row.number("term_end"));
        let (gross, net): (i64, i64) = (row.number("gross_fen"), row.number("net_cash_fen"));
        let terms = Terms::of(&[order(days.0, OrderEnd::LastDay(days.1))], None, |_| MonthEnd::MonthEnd);
        // The difference is a voucher, or it was paid back.
        let refund = FeeItem { charged_on: days.1, ..bill("b", days, net - gross, 0) };
        let ways = [vec![bill("a", days, gross, gross - net)], vec![bill("a", days, gross, 0), refund]];
        let fees = ways.map(|items| allocate(&items, None, &terms, *mode));
        let month = |fees: &Fees| fees.month(row.number("sm_start")).copied();
        let months: Vec<_> = terms.periods(days.0, days.1).map(|p| p.first).collect();
        let firsts = |fees: &Fees| fees.months().iter().map(|(first, _)| *first).collect::<Vec<_>>();
        let all_gross = fees[0].months().iter().map(|(_, fee)| fee.gross_minor).sum::<i64>();
        vec![
            ("cash", shown(month(&fees[0]).map(|m| m.cash_minor)), row.text("allocated_cash_fen").into()),
            ("cash, refunded", shown(month(&fees[1]).map(|m| m.cash_minor)), row.text("allocated_cash_fen").into()),
            ("gross, refunded", shown(month(&fees[1]).map(|m| m.gross_minor)), row.text("allocated_cash_fen").into()),
            ("all gross", all_gross.to_string(), row.text("gross_fen").into()),
            ("paid", fees[0].paid_total_minor.to_string(), row.text("net_cash_fen").into()),
            ("months", format!("{:?}", firsts(&fees[0])), format!("{months:?}")),
        ]
    });
}

// ---- clauses 3.1, 6.1 ----

#[test]
fn payouts() {
    let days: (LocalDay, LocalDay) = ("2026-03-01".parse().expect("a day"), "2026-03-31".parse().expect("a day"));
    let terms = Terms::of(&[order(days.0, OrderEnd::Months(1))], None, |_| MonthEnd::MonthEnd);
    rows("compensation_vectors.csv", "id", |row| {
        let items = [bill("a", days, row.number("gross_fen"), row.number("voucher_fen"))];
        let fees = allocate(&items, None, &terms, Allocation::AccrualByDay);
        let fee = *fees.month(days.0).expect("a bill is about it");
        let base = if row.text("fee_base") == "gross" { FeeBase::Gross } else { FeeBase::Cash };
        let rate = Ppm::from_percent(row.text("rate_pct")).expect("a percentage");
        let cap = cap_left(fees.paid_total_minor, 0, 0);
        let paid = |rounding| payout(rate, &fee, base, rounding, cap);
        let (exact, whole) = row.text("raw_fen").split_once('/').unwrap_or((row.text("raw_fen"), "1"));
        let (exact, whole): (i128, i128) = (exact.parse().expect("a number"), whole.parse().expect("a number"));
        let mut found = vec![
            ("cash", fee.cash_minor.to_string(), row.text("cash_fen").into()),
            ("cap", fee.cash_minor.min(cap).to_string(), row.text("cap_fen").into()),
            ("raw, down", paid(Rounding::Floor).raw_minor.to_string(), (exact / whole).to_string()),
            ("raw, up", paid(Rounding::Ceil).raw_minor.to_string(), ((exact + whole - 1) / whole).to_string()),
        ];
        for (column, rounding) in [
            ("payout_half_up", Rounding::HalfUp),
            ("payout_floor", Rounding::Floor),
            ("payout_half_even", Rounding::HalfEven),
            ("payout_ceil", Rounding::Ceil),
        ] {
            found.push((column, paid(rounding).payout_minor.to_string(), row.text(column).into()));
        }
        found
    });
}

#[test]
fn the_cap_over_all_months() {
    let earlier = RefCell::new(BTreeMap::<String, i64>::new());
    rows("cap_6_1.csv", "case", |row| {
        let mut earlier = earlier.borrow_mut();
        let earlier = earlier.entry(row.text("case").into()).or_default();
        let left = cap_left(row.number("fees_paid_total_fen"), row.number("other_damages_already_paid_fen"), *earlier);
        let computed = row.number("computed_payout_fen");
        let fee = MonthFee { currency: Currency::CNY, gross_minor: computed, cash_minor: computed };
        let all = Ppm::new(1_000_000).expect("in range");
        let paid = payout(all, &fee, FeeBase::Cash, Rounding::HalfUp, left);
        *earlier += paid.payout_minor;
        vec![
            ("left", paid.cap_left_minor.to_string(), row.text("cap_left_fen").into()),
            ("granted", paid.payout_minor.to_string(), row.text("granted_fen").into()),
        ]
    });
}

// ---- clause 3.2 ----

/// The window under a rule that differs in when it opens.
fn window(period_last: LocalDay, opens: ClaimOpens, workdays: &Workdays) -> ClaimWindow {
    ClaimWindow::of(period_last, &ClaimRule { opens, ..Policy::tencent_ccc().claim }, workdays)
}

/// What both files of windows say, with the default rule.
fn window_columns(row: &Row) -> Vec<(&'static str, String, String)> {
    let policy = Policy::tencent_ccc();
    let period_last: LocalDay = row.number("period_end");
    let ClaimWindow { opens, last_day } = ClaimWindow::of(period_last, &policy.claim, &policy.workdays);
    let month = period_last.month().next();
    let start = |day| day_start_ms(policy.time_zone, day);
    let closes = start(LocalDay(last_day.0 + 1));
    vec![
        ("claim month", month.to_string(), row.text("claim_month").into()),
        ("5th working day", shown(policy.workdays.nth_working_day(month, 5)), row.text("wd5").into()),
        ("opens", shown(opens), row.text("claim_open_date").into()),
        ("last day", last_day.to_string(), row.text("last_claim_date").into()),
        ("closes", shown(Some(closes)), shown(rfc3339_ms(row.text("claim_close_exclusive_utc")))),
        ("days", shown(opens.map(|o| last_day.0 - o.0 + 1)), row.text("window_days_inclusive").into()),
        ("missing year", shown(ClaimWindow::missing_year(period_last, &policy.claim, &policy.workdays)), String::new()),
    ]
}

#[test]
fn claim_windows() {
    let china = Workdays::china();
    let plain_weeks = Workdays::from_csv(
        "coverage,2023-01-01,2023-12-31,2023\ncoverage,2024-01-01,2024-12-31,2024\n\
        coverage,2025-01-01,2025-12-31,2025\ncoverage,2026-01-01,2026-12-31,2026\n",
    );
    let plain_weeks = plain_weeks.expect("a sound calendar");
    rows("claim_windows.csv", "service_month", |row| {
        let period_last: LocalDay = row.number("period_end");
        let month = period_last.month().next();
        let default = window(period_last, ClaimOpens::DayAfter, &china);
        let opens_ms = default.opens.map(|day| day_start_ms(chrono_tz::Asia::Shanghai, day));
        let alternative = |opens| shown(window(period_last, opens, &china).opens);
        let mut found = window_columns(row);
        for (n, column) in (1..).zip(["wd1", "wd2", "wd3", "wd4", "wd5"]) {
            found.push((column, shown(china.nth_working_day(month, n)), row.text(column).into()));
        }
        let kind = if default.opens.is_some() { "final" } else { "provisional" };
        found.extend([
            ("opens, instant", shown(opens_ms), shown(rfc3339_ms(row.text("claim_open_utc")))),
            ("opens on the 5th", alternative(ClaimOpens::OnNth), row.text("alt_open_on_wd5").into()),
            ("opens on the next", alternative(ClaimOpens::NextWorkday), row.text("alt_open_on_wd6").into()),
            (
                "5th, no calendar",
                shown(plain_weeks.nth_working_day(month, 5)),
                row.text("wd5_if_makeup_days_ignored").into(),
            ),
            ("status", kind.into(), row.text("status").into()),
        ]);
        found
    });
}

#[test]
fn claim_windows_of_months_cut_short() {
    rows("claim_windows_partial.csv", "period_end", |row| {
        let period_last: LocalDay = row.number("period_end");
        let whole_month = window(period_last.month().last_day(), ClaimOpens::DayAfter, &Workdays::china());
        let mut found = window_columns(row);
        let column = "alt_last_claim_date_from_calendar_month_end";
        found.push((column, whole_month.last_day.to_string(), row.text(column).into()));
        found
    });
}

#[test]
fn claim_states() {
    let policy = Policy::tencent_ccc();
    rows("claim_status.csv", "now", |row| {
        let last: LocalDay = row.number("period_end");
        let window = ClaimWindow::of(last, &policy.claim, &policy.workdays);
        let now_ms = rfc3339_ms(row.text("now")).expect("an instant");
        let period = Period { first: last.month().first_day(), last };
        let state = match claim_state(period, window, policy.time_zone, now_ms, &[]).as_str() {
            "running" | "ended" => "not_open",
            "claimable" => "open",
            state => state,
        };
        vec![("state", state.into(), row.text("status").into())]
    });
}

// ---- what must hold of all ----

/// 2023-01-01 and some years on, where month ends differ.
fn days() -> impl Strategy<Value = LocalDay> {
    (19_358i32..20_800).prop_map(LocalDay)
}

fn orders() -> impl Strategy<Value = Vec<Order>> {
    prop::collection::vec((days(), 0u32..15, prop::option::of(0i32..90), any::<bool>()), 0..5).prop_map(|all| {
        let order = |(start, months, short, open): (LocalDay, u32, Option<i32>, bool)| match short {
            Some(days) => order(start, OrderEnd::LastDay(LocalDay(start.0 + days - 1))),
            None if open && months == 0 => order(start, OrderEnd::Open),
            None => order(start, OrderEnd::Months(months)),
        };
        all.into_iter().map(order).collect()
    })
}

/// Does an order cover a day? By definition: days are counted from the month that many months later to the same day
/// number.
fn covers(order: &Order, day: LocalDay) -> bool {
    let last = match order.end {
        OrderEnd::Open => return order.start <= day,
        OrderEnd::LastDay(last) => last,
        OrderEnd::Months(months) => {
            let month = (0..months).fold(order.start.month(), |month, _| month.next());
            let mut last = LocalDay(month.first_day().0 - 1);
            while LocalDay(last.0 + 1).month() == month && last.0 + 1 < month.day(order.start.day_of_month()).0 {
                last.0 += 1;
            }
            last
        }
    };
    order.start <= day && day <= last
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn service_months_tile_the_terms(orders in orders()) {
        // Of one id, here the start, the later in the slice applies.
        let holding: BTreeMap<_, _> = orders.iter().map(|order| (order.start, order)).collect();
        let terms = Terms::of(&orders, None, |_| MonthEnd::MonthEnd);
        let (from, to) = (LocalDay(19_300), LocalDay(21_400));
        let months: Vec<Period> = terms.periods(from, to).collect();
        let mut labels = HashSet::new();
        for month in &months {
            prop_assert!(month.first <= month.last && month.first.month() == month.last.month());
            prop_assert!(labels.insert(terms.label(*month)), "{} twice", terms.label(*month));
        }
        for day in (from.0..=to.0).map(LocalDay) {
            let served = holding.values().any(|order| covers(order, day));
            let of_day: Vec<_> = months.iter().filter(|month| month.contains(day)).collect();
            prop_assert_eq!(of_day.len(), usize::from(served), "{}", day);
            prop_assert_eq!(terms.period_of(day), of_day.first().map(|month| **month), "{}", day);
            // Two days in a row, both served, and in one month: one service month.
            let before = LocalDay(day.0 - 1);
            if served && day > from && before.month() == day.month() && holding.values().any(|o| covers(o, before)) {
                prop_assert_eq!(terms.period_of(before), terms.period_of(day));
            }
        }
        prop_assert_eq!(months.is_empty(), terms.is_empty());
    }

    #[test]
    fn shares_sum_to_the_whole_and_are_within_a_unit(
        orders in orders(),
        (first, length) in (days(), 0i32..800),
        gross in prop_oneof![0..=100i64, any::<i64>().prop_map(|g| g.saturating_abs()), Just(i64::MAX)],
        voucher in 0..=100i64,
    ) {
        let terms = Terms::of(&orders, None, |_| MonthEnd::MonthEnd);
        let days = (first, LocalDay(first.0 + length));
        let cash = i128::from(gross - voucher).max(0);
        for (name, mode) in ALLOCATIONS {
            let fees = allocate(&[bill("a", days, gross, voucher)], None, &terms, mode);
            let months: Vec<Period> = terms.periods(days.0, days.1).collect();
            let share = |month: &Period| fees.month(month.first).map(|fee| i128::from(fee.cash_minor));
            prop_assert!(months.iter().all(|month| share(month).is_some()), "{}", name);
            prop_assert_eq!(fees.months().len(), months.len());
            let negative = gross < voucher;
            let all = fees.months().iter().map(|(_, fee)| i128::from(fee.cash_minor)).sum::<i128>();
            prop_assert_eq!(all, if months.is_empty() || negative { 0 } else { cash }, "{}", name);
            prop_assert_eq!(i128::from(fees.paid_total_minor), cash);
            if negative {
                continue;
            }
            let gross_all = fees.months().iter().map(|(_, fee)| i128::from(fee.gross_minor)).sum::<i128>();
            prop_assert_eq!(gross_all, if months.is_empty() { 0 } else { gross.into() }, "{}", name);
            let weight = |month: &Period| match mode {
                Allocation::AccrualByDay => (days.0.0..=days.1.0).filter(|day| month.contains(LocalDay(*day))).count(),
                Allocation::EqualPerServiceMonth => 1,
                Allocation::CashDate => 0,
            } as i128;
            let weights: i128 = months.iter().map(weight).sum();
            for month in months.iter().filter(|_| weights > 0) {
                let apart = (share(month).unwrap_or(0) * weights - cash * weight(month)).abs();
                prop_assert!(apart < weights, "{}: {} is a unit or more from its share", name, month.first);
            }
        }
    }

    #[test]
    fn a_payout_is_within_its_limits(
        (gross, cash, left) in (0..=i64::MAX, 0..=i64::MAX, 0..=i64::MAX),
        rate in 0..=1_000_000u32,
        half_even in any::<bool>(),
    ) {
        let fee = MonthFee { currency: Currency::CNY, gross_minor: gross, cash_minor: cash };
        let rounding = if half_even { Rounding::HalfEven } else { Rounding::HalfUp };
        for (base, amount) in [(FeeBase::Cash, cash), (FeeBase::Gross, gross)] {
            let paid = payout(Ppm::new(rate).expect("in range"), &fee, base, rounding, left);
            prop_assert_eq!(paid.payout_minor, paid.raw_minor.min(cash).min(left));
            let apart = (i128::from(paid.raw_minor) * 1_000_000 - i128::from(amount) * i128::from(rate)).abs();
            prop_assert!(2 * apart <= 1_000_000, "{} is more than half a unit away", paid.raw_minor);
        }
    }
}
