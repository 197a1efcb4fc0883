//! When an alert is published: levels, tiers, hysteresis, few calls, months that end, tiers that cannot change, burn
//! rate, forecast, claims. One line per change: status, alert and detail, severity, reason.

#[path = "support/sample.rs"]
mod sample;

use std::collections::BTreeMap;

use proptest::prelude::*;
use sample::{Figures, standings};
use sla_ledger::domain::alert::{AlertKey, AlertName, AlertState, Status, Watched, Windows, judge};
use sla_ledger::domain::availability::Availability;
use sla_ledger::domain::calendar::{LocalDay, Month, day_start_ms};
use sla_ledger::domain::forecast::{Outlook, Remaining};
use sla_ledger::domain::standing::{Completeness, ServiceMonth};
use sla_ledger::domain::workdays::{ClaimState, ClaimWindow};
use sla_ledger::report::alert::{Encoding, Issuer, Subject};
use sla_ledger::report::standing::Standing;

const ZONE: chrono_tz::Tz = chrono_tz::Asia::Shanghai;
const MARCH: Month = Month(2026 * 12 + 2);
const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;

/// A service month with these figures, unregistered.
fn month(total: u64, failed: u64) -> ServiceMonth {
    let standings = standings([Figures { tenant: "acme", month: MARCH, total, failed, unanswered: 0 }]);
    standings.months("acme")[0].clone()
}

/// The beginning of a day of March, in ms.
fn day(day: i32) -> i64 {
    day_start_ms(ZONE, LocalDay(MARCH.first_day().0 + day - 1))
}

/// A month in which everything can still happen.
fn open() -> Outlook {
    Outlook {
        calls: Remaining { low: 500_000, expected: 1_000_000, high: 2_000_000 },
        allowed: [5000, 10_000, 50_000].into_iter().collect(),
        settled: false,
        at_end: Availability { total: 1_000_000, failed: 0 },
        reached_at_ms: [None, None, None].into_iter().collect(),
        sustainable: Some(0.005),
    }
}

/// The alerts of one tenant over time.
#[derive(Default)]
struct Story {
    told: BTreeMap<(AlertName, String), AlertState>,
    windows: Windows,
    outlook: Option<Outlook>,
    claim: Option<(ClaimState, ClaimWindow)>,
}

impl Story {
    fn new() -> Self {
        Self { outlook: Some(open()), ..Self::default() }
    }

    /// What is published at this time with these figures.
    fn at(&mut self, now_ms: i64, total: u64, failed: u64) -> Vec<String> {
        let month = month(total, failed);
        self.at_month(now_ms, &month)
    }

    fn at_month(&mut self, now_ms: i64, month: &ServiceMonth) -> Vec<String> {
        let ended = now_ms >= day(32);
        let watched = Watched {
            month,
            windows: self.windows,
            outlook: self.outlook.as_ref().filter(|_| !ended),
            claim: self.claim.map_or(if ended { ClaimState::Ended } else { ClaimState::Running }, |(state, _)| state),
            claim_window: self.claim.map(|(_, window)| window),
            now_ms,
        };
        let changes = judge(&watched, |alert, detail| self.told.get(&(alert, detail.to_owned())).copied());
        let mut lines = Vec::new();
        for change in changes {
            let state = change.state;
            assert_eq!(state.ends_at_ms.is_some(), state.status == Status::Resolved);
            if change.told {
                let detail = if change.detail.is_empty() { String::new() } else { format!(" {}", change.detail) };
                lines.push(format!(
                    "{} {}{detail} {} {} {}",
                    state.status, change.alert, state.severity, state.reason, state.generation
                ));
            }
            self.told.insert((change.alert, change.detail.to_string()), state);
        }
        lines
    }
}

#[test]
fn levels_and_tiers_of_the_vectors() {
    let rows = csv::Reader::from_path("tests/vectors/alert_levels.csv").unwrap().into_records();
    for row in rows.map(Result::unwrap) {
        let number = |column: usize| row[column].parse::<u64>().unwrap();
        let (total, failed, level, tier) = (number(0), number(1), &row[5], &row[6]);
        let lines = if total == 0 { Vec::new() } else { Story::new().at(day(15), total, failed) };
        let fires = |what: &str| lines.iter().any(|line| line.starts_with(&format!("firing {what} ")));
        let levels = ["warn_50", "warn_80", "exhausted_100", "breach"];
        let reached = levels.iter().position(|one| *one == level);
        for (index, percent) in ["50", "80", "100"].into_iter().enumerate() {
            let expected = reached.is_some_and(|reached| reached >= index);
            assert_eq!(fires(&format!("SlaBudgetConsumed {percent}")), expected, "{row:?} {percent} {lines:?}");
        }
        let tiers = ["T1", "T2", "T3"];
        let reached = tiers.iter().position(|one| *one == tier);
        for (index, name) in tiers.into_iter().enumerate() {
            let expected = reached.is_some_and(|reached| reached >= index);
            assert_eq!(fires(&format!("SlaTierReached {name}")), expected, "{row:?} {name} {lines:?}");
        }
        // Below min_calls it is information only.
        let urgent = lines.iter().any(|line| !line.contains(" info "));
        assert_eq!(urgent, total >= 1000 && !lines.is_empty(), "{row:?} {lines:?}");
    }
}

#[test]
fn a_tenant_goes_through_the_levels_into_the_tier_and_back() {
    let mut story = Story::new();
    let now = day(15);
    for (minute, total, failed, expected) in [
        (0, 2000, 4, vec![]),
        (1, 2000, 5, vec!["firing SlaBudgetConsumed 50 warning level_crossed 1"]),
        (2, 2000, 5, vec![]),
        (3, 2000, 8, vec!["firing SlaBudgetConsumed 80 warning level_crossed 1"]),
        (4, 2000, 10, vec!["firing SlaBudgetConsumed 100 critical level_crossed 1"]),
        (5, 2000, 11, vec!["firing SlaTierReached T1 critical tier_reached 1"]),
        (6, 2000, 21, vec!["firing SlaTierReached T2 critical tier_reached 1"]),
        // Nothing flaps at the edge: a level resolves at nine tenths of its value.
        (7, 2200, 21, vec![]),
        (8, 2400, 21, vec!["resolved SlaTierReached T2 critical fell_below 1"]),
        (9, 4200, 21, vec![]),
        (
            10,
            4700,
            21,
            vec![
                "resolved SlaBudgetConsumed 100 critical fell_below 1",
                "resolved SlaTierReached T1 critical fell_below 1",
                "firing SlaRecovered info target_met_again 1",
            ],
        ),
        (11, 4700, 21, vec![]),
        (
            12,
            4700,
            24,
            vec![
                "firing SlaBudgetConsumed 100 critical level_crossed 2",
                "firing SlaTierReached T1 critical tier_reached 2",
                "resolved SlaRecovered info target_missed_again 1",
            ],
        ),
        (
            13,
            40_000,
            24,
            vec![
                "resolved SlaBudgetConsumed 50 warning fell_below 1",
                "resolved SlaBudgetConsumed 80 warning fell_below 1",
                "resolved SlaBudgetConsumed 100 critical fell_below 2",
                "resolved SlaTierReached T1 critical fell_below 2",
                "firing SlaRecovered info target_met_again 2",
            ],
        ),
    ] {
        assert_eq!(
            story.at(now + minute * MINUTE, total, failed),
            expected,
            "minute {minute}: {total} calls, {failed}"
        );
    }
    assert_eq!(story.at(day(32), 40_000, 24), ["resolved SlaRecovered info month_ended 2"]);
}

#[test]
fn few_calls_are_information_until_there_are_enough_or_the_month_ends() {
    let mut story = Story::new();
    let lines = story.at(day(2), 100, 1);
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert!(lines.iter().all(|line| line.contains(" info ")), "{lines:?}");
    assert_eq!(
        story.at(day(3), 1000, 6),
        [
            "firing SlaBudgetConsumed 50 warning min_calls_reached 2",
            "firing SlaBudgetConsumed 80 warning min_calls_reached 2",
            "firing SlaBudgetConsumed 100 critical min_calls_reached 2",
            "firing SlaTierReached T1 critical min_calls_reached 2",
        ]
    );

    // At the month's end a breach notifies, however few calls there were; a day later it has fired long enough.
    let mut story = Story::new();
    story.at(day(2), 100, 1);
    assert_eq!(
        story.at(day(32), 100, 1),
        [
            "resolved SlaBudgetConsumed 50 info month_ended 1",
            "resolved SlaBudgetConsumed 80 info month_ended 1",
            "resolved SlaBudgetConsumed 100 info month_ended 1",
            "firing SlaTierReached T1 critical month_ended 2",
        ]
    );
    assert_eq!(story.at(day(33) - 1, 100, 1), [""; 0]);
    assert_eq!(story.at(day(33), 100, 1), ["resolved SlaTierReached T1 critical month_ended 2"]);
    assert_eq!(story.at(day(40), 100, 1), [""; 0]);
}

#[test]
fn after_the_month_a_correction_is_told_at_once() {
    let mut story = Story::new();
    story.at(day(15), 2000, 11);
    story.at(day(32), 2000, 11);
    assert_eq!(story.at(day(33), 2000, 11), ["resolved SlaTierReached T1 critical month_ended 1"]);
    // Late calls worsen it: only the new tier is published.
    assert_eq!(story.at(day(35), 2000, 21), ["firing SlaTierReached T2 critical tier_reached 1"]);
    // A ruling takes it back to the edge: hysteresis no longer applies.
    assert_eq!(story.at(day(35) + HOUR, 2000, 20), ["resolved SlaTierReached T2 critical corrected 1"]);
    assert_eq!(story.at(day(35) + 2 * HOUR, 2000, 10), [""; 0]);
    // And it is breached again.
    assert_eq!(story.at(day(36), 2000, 11), ["firing SlaTierReached T1 critical tier_reached 2"]);
    assert_eq!(story.at(day(37), 2000, 11), ["resolved SlaTierReached T1 critical month_ended 2"]);
}

#[test]
fn a_tier_that_cannot_change_stops_paging() {
    let mut story = Story::new();
    story.at(day(15), 2000, 150);
    story.outlook = Some(Outlook { settled: true, ..open() });
    // Paging alerts resolve at once, but a tier fires for an hour.
    let lines = story.at(day(15) + MINUTE, 2000, 150);
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines.iter().all(|line| line.contains("SlaBudgetConsumed") && line.contains("tier_settled")), "{lines:?}");
    assert_eq!(
        story.at(day(15) + HOUR, 2000, 150),
        [
            "resolved SlaTierReached T1 critical tier_settled 1",
            "resolved SlaTierReached T2 critical tier_settled 1",
            "resolved SlaTierReached T3 critical tier_settled 1",
        ]
    );
    assert_eq!(story.at(day(16), 3000, 300), [""; 0]);

    // One that is reached when nothing can change any more is still published.
    let mut story = Story { outlook: Some(Outlook { settled: true, ..open() }), ..Story::new() };
    assert_eq!(story.at(day(31), 2000, 11), ["firing SlaTierReached T1 critical tier_reached 1"],);
}

#[test]
fn burning_fast_needs_both_windows_and_enough_failures() {
    let calls = |total: u64, failed: u64| Availability { total, failed };
    // With 0.005 sustainable, 14.4 times is a failure in 14 calls.
    let burning = Windows {
        five_minutes: calls(100, 8),
        half_hour: calls(600, 48),
        hour: calls(1200, 96),
        six_hours: calls(7200, 576),
    };
    let mut story = Story { windows: burning, ..Story::new() };
    assert_eq!(
        story.at(day(15), 1_000_000, 600),
        ["firing SlaBurnRateHigh fast critical burning_fast 1", "firing SlaBurnRateHigh slow warning burning_fast 1"]
    );
    // The short window is clean: over, though the long one still burns.
    story.windows = Windows { five_minutes: calls(100, 0), half_hour: calls(600, 10), ..burning };
    assert_eq!(
        story.at(day(15) + MINUTE, 1_000_000, 600),
        ["resolved SlaBurnRateHigh fast critical fell_below 1", "resolved SlaBurnRateHigh slow warning fell_below 1"]
    );
    for (why, windows, outlook) in [
        ("few failures", Windows { hour: calls(90, 9), six_hours: calls(90, 9), ..burning }, open()),
        ("only now", Windows { hour: calls(1200, 20), six_hours: calls(7200, 20), ..burning }, open()),
        ("only before", Windows { five_minutes: calls(100, 0), half_hour: calls(600, 0), ..burning }, open()),
        ("nothing left to burn", burning, Outlook { sustainable: None, ..open() }),
        ("settled", burning, Outlook { settled: true, ..open() }),
    ] {
        let mut story = Story { windows, outlook: Some(outlook), ..Story::new() };
        assert_eq!(story.at(day(15), 1_000_000, 600), [""; 0], "{why}");
    }
    let mut few = Story { windows: burning, ..Story::new() };
    assert!(!few.at(day(15), 999, 1).iter().any(|line| line.contains("Burn")), "below min_calls");
}

#[test]
fn a_forecast_is_told_until_the_tier_is_reached_or_averted() {
    let hour = Availability { total: 1000, failed: 20 };
    let crossing = Outlook {
        reached_at_ms: [Some(day(16)), Some(day(20)), None].into_iter().collect(),
        at_end: Availability { total: 1_000_000, failed: 6000 },
        ..open()
    };
    let mut story = Story { windows: Windows { hour, ..Windows::default() }, outlook: Some(crossing), ..Story::new() };
    assert_eq!(story.at(day(15), 100_000, 100), ["firing SlaForecastBreach T1 warning forecast_crosses 1"]);
    assert_eq!(story.at(day(15) + MINUTE, 100_000, 100), [""; 0]);
    let averted = Availability { total: 1_000_000, failed: 4400 };
    story.outlook = Some(Outlook { at_end: averted, ..open() });
    assert_eq!(story.at(day(15) + HOUR, 100_000, 100), ["resolved SlaForecastBreach T1 warning fell_below 1"]);
}

#[test]
fn a_claim_opens_and_is_about_to_close() {
    let window = ClaimWindow { opens: Some("2026-04-09".parse().unwrap()), last_day: "2026-05-30".parse().unwrap() };
    let at = |text: &str| day_start_ms(ZONE, text.parse().unwrap());
    let mut story = Story { claim: Some((ClaimState::Ended, window)), ..Story::new() };
    story.at(day(20), 2000, 11);
    story.at(day(32), 2000, 11);
    assert_eq!(story.at(at("2026-04-08"), 2000, 11), ["resolved SlaTierReached T1 critical month_ended 1"]);
    story.claim = Some((ClaimState::Claimable, window));
    assert_eq!(story.at(at("2026-04-09"), 2000, 11), ["firing SlaClaimOpens info claim_opened 1"]);
    assert_eq!(story.at(at("2026-05-16"), 2000, 11), [""; 0]);
    assert_eq!(story.at(at("2026-05-17"), 2000, 11), ["firing SlaClaimCloses 14 warning claim_closes_soon 1"]);
    assert_eq!(story.at(at("2026-05-24"), 2000, 11), ["firing SlaClaimCloses 7 warning claim_closes_soon 1"]);
    story.claim = Some((ClaimState::Filed, window));
    assert_eq!(
        story.at(at("2026-05-25"), 2000, 11),
        [
            "resolved SlaClaimOpens info claim_settled 1",
            "resolved SlaClaimCloses 14 warning claim_settled 1",
            "resolved SlaClaimCloses 7 warning claim_settled 1",
        ]
    );
    // Even without a known opening the end is known.
    let window = ClaimWindow { opens: None, ..window };
    let mut story = Story { claim: Some((ClaimState::Ended, window)), ..Story::new() };
    let lines = story.at(at("2026-05-30"), 2000, 11);
    assert!(lines.contains(&"firing SlaClaimCloses 1 warning claim_closes_soon 1".to_owned()), "{lines:?}");
}

proptest! {
    /// Whatever the figures do: an alert fires and resolves in turn, generations count firings, nothing is published
    /// twice.
    #[test]
    fn an_alert_fires_and_resolves_in_turn(steps in prop::collection::vec((0_u64..5000, 0_u64..60, 1_i64..40_000_000, any::<bool>()), 1..60)) {
        let mut story = Story::new();
        let (mut now, mut last) = (day(1), BTreeMap::<String, (bool, u64)>::new());
        for (total, failed, passed, settled) in steps {
            now += passed;
            story.outlook = Some(Outlook { settled, ..open() });
            let failed = failed.min(total);
            for line in if total == 0 { Vec::new() } else { story.at(now, total, failed) } {
                let words: Vec<&str> = line.split(' ').collect();
                let (firing, generation) = (words[0] == "firing", words[words.len() - 1].parse::<u64>().unwrap());
                let what = words[1..words.len() - 3].join(" ");
                let (was, before) = last.insert(what, (firing, generation)).unwrap_or((false, 0));
                let upgrade = ["min_calls_reached", "month_ended"].contains(&words[words.len() - 2]);
                prop_assert!(if firing { generation == before + 1 && (!was || upgrade) } else { was && generation == before }, "{}", line);
            }
            // Judged again at the same time, nothing is new.
            let again = if total == 0 { Vec::new() } else { story.at(now, total, failed) };
            prop_assert!(again.is_empty(), "{:?}", again);
        }
    }
}

#[test]
fn an_event_has_the_form_that_others_rely_on() {
    let month = month(1000, 6);
    let now_ms = day(20) + 7_205_000;
    let subject = Subject {
        standing: Standing::of("acme", &month, now_ms, Completeness::default(), &[]),
        policy: &month.policy,
        reached_at_ms: None,
    };
    let key = AlertKey {
        tenant: "acme".into(),
        period_start: Some(month.period.first),
        alert: AlertName::TierReached,
        detail: "T1".into(),
    };
    let mut story = Story::new();
    story.at(now_ms, 1000, 6);
    let state = story.told[&(AlertName::TierReached, "T1".to_owned())];
    let issuer = |encoding| Issuer { ledger: "main".into(), runbook_url: "https://runbook.example".into(), encoding };
    let structured = issuer(Encoding::Structured).message(&key, &state, Some(&subject), now_ms);
    assert_eq!(structured.key.as_deref(), Some(&b"acme"[..]));
    assert_eq!(structured.headers.len(), 1);
    let event: serde_json::Value = serde_json::from_slice(&structured.payload).unwrap();
    insta::assert_snapshot!("event", serde_json::to_string_pretty(&event).unwrap());
    // The id and the fingerprint by hand: sha256sum agrees.
    let digest = |text: &str| {
        use sha2::Digest as _;
        sha2::Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let fingerprint = digest("main|acme|2026-03-01|SlaTierReached|T1");
    assert_eq!(event["data"]["fingerprint"], fingerprint);
    assert_eq!(event["id"], digest(&format!("{fingerprint}|firing|1")));

    let binary = issuer(Encoding::Binary).message(&key, &state, Some(&subject), now_ms);
    let data: serde_json::Value = serde_json::from_slice(&binary.payload).unwrap();
    assert_eq!(data, event["data"]);
    let header = |name: &str| {
        let found = binary.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| String::from_utf8(value.clone()).unwrap())
    };
    for attribute in ["specversion", "id", "source", "type", "subject", "time"] {
        assert_eq!(header(&format!("ce_{attribute}")).as_deref(), event[attribute].as_str(), "{attribute}");
    }
    assert_eq!(header("content-type").as_deref(), Some("application/json"));

    // The fleet's alerts have no tenant.
    let fleet = AlertKey::fleet(AlertName::UnknownCode, "Weird.Code");
    let message = issuer(Encoding::Structured).message(&fleet, &state, None, now_ms);
    let event: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
    assert_eq!(message.key, None);
    assert_eq!((event["subject"].as_str(), event["data"]["level"].as_str()), (Some("fleet"), Some("Weird.Code")));
    assert!(["tenant", "period_start", "standing", "month"].iter().all(|field| event["data"][field].is_null()));
}

#[test]
fn a_tiers_alert_gives_its_own_failures_and_amount() {
    use sla_ledger::report::standing::{Compensation, Fee};
    // 1000 calls, 495 failures: all three tiers apply.
    let month = month(1000, 495);
    let mut standing = Standing::of("acme", &month, day(20), Completeness::default(), &[]);
    standing.fee = Some(Fee { currency: "CNY".into(), gross_minor: 90_000, cash_minor: 90_000 });
    standing.compensation = Some(Compensation { raw_minor: 45_000, cap_left_minor: i64::MAX, payout_minor: 45_000 });
    let subject = Subject { standing, policy: &month.policy, reached_at_ms: None };
    let mut story = Story::new();
    story.at(day(20), 1000, 495);
    let issuer = Issuer { ledger: "main".into(), runbook_url: String::new(), encoding: Encoding::Structured };
    for (tier, expected) in [
        ("T1", " 490 failures over the limit of T1. Owed in T1: CNY 90.00."),
        ("T2", " 485 failures over the limit of T2. Owed in T2: CNY 270.00."),
        ("T3", " 445 failures over the limit of T3. Owed in T3: CNY 450.00."),
    ] {
        let (tenant, period_start) = ("acme".into(), Some(month.period.first));
        let key = AlertKey { tenant, period_start, alert: AlertName::TierReached, detail: tier.into() };
        let state = story.told[&(AlertName::TierReached, tier.to_owned())];
        let message = issuer.message(&key, &state, Some(&subject), day(20));
        let event: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
        let text = event["data"]["description"].as_str().unwrap();
        assert!(text.contains(expected) && text.matches("Owed").count() == 1, "{text}");
    }
}

/// What an alert is about, in full: ledger, tenant, its day, alert, detail.
type About = (String, String, Option<i32>, usize, String);

fn fingerprint(about: &About) -> String {
    let (ledger, tenant, day, alert, detail) = about;
    let issuer = Issuer { ledger: ledger.clone(), runbook_url: String::new(), encoding: Encoding::Structured };
    issuer.fingerprint(&AlertKey {
        tenant: tenant.as_str().into(),
        period_start: day.map(LocalDay),
        alert: AlertName::ALL[*alert],
        detail: detail.as_str().into(),
    })
}

#[test]
fn no_tenant_can_take_the_fingerprint_of_another() {
    let tier = AlertName::ALL.iter().position(|name| *name == AlertName::TierReached).unwrap();
    let day: LocalDay = "2026-03-01".parse().unwrap();
    let about = |ledger: &str, tenant: &str, detail: &str| {
        fingerprint(&(ledger.into(), tenant.into(), Some(day.0), tier, detail.into()))
    };
    let middle = "2026-03-01|SlaTierReached";
    for (one, other) in [
        (("main", "a", &*format!("T1|{middle}|T2")), ("main", &*format!("a|{middle}|T1"), "T2")),
        (("main|a", "b", "T1"), ("main", "a|b", "T1")),
        (("main", "a|b", "T1"), ("4 main", "3 a|b", "2 T1")),
        (("main", "a", "T1"), ("4 main", "1 a", "2 T1")),
    ] {
        assert_ne!(about(one.0, one.1, one.2), about(other.0, other.1, other.2), "{one:?} {other:?}");
    }
    // As formats.md has it, where nothing holds a bar; by lengths where something does.
    use sha2::Digest as _;
    let digest = |text: &str| sha2::Sha256::digest(text).iter().map(|b| format!("{b:02x}")).collect::<String>();
    assert_eq!(about("main", "acme", "T1"), digest("main|acme|2026-03-01|SlaTierReached|T1"));
    assert_eq!(about("main", "a|b", "T1"), digest("4 main|3 a|b|10 2026-03-01|14 SlaTierReached|2 T1"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5000))]

    #[test]
    fn fingerprints_differ_where_anything_does(
        one in ("[|1 a]{0,3}", "[|1 a]{0,4}", proptest::option::of(0i32..2), 0usize..2, "[|1 a]{0,3}"),
        other in ("[|1 a]{0,3}", "[|1 a]{0,4}", proptest::option::of(0i32..2), 0usize..2, "[|1 a]{0,3}"),
    ) {
        prop_assert_eq!(fingerprint(&one) == fingerprint(&other), one == other);
    }
}
