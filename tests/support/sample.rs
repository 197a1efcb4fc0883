//! Standings with given figures, for tests and benchmarks. They come through the book, as all do.

#![allow(dead_code, reason = "each test binary uses its own part of this module")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use sla_ledger::domain::alert::Windows;
use sla_ledger::domain::availability::Availability;
use sla_ledger::domain::calendar::{Month, day_start_ms};
use sla_ledger::domain::contract::Contract;
use sla_ledger::domain::documents::{Documents, Notice};
use sla_ledger::domain::money::{Currency, FeeItem};
use sla_ledger::domain::policy::{Clause, Policies, Policy};
use sla_ledger::domain::registry::Registry;
use sla_ledger::domain::standing::ServiceMonth;
use sla_ledger::domain::term::{Order, OrderEnd};
use sla_ledger::metrics::Format;
use sla_ledger::metrics::exporter::{CardinalityPlan, Exported, Exporter, TenantView};
use sla_ledger::pipeline::book::{Book, Event};
use sla_ledger::pipeline::record::{Checkpoint, Digest, Evidence, Item, Key, Tally, TallyDay, TenantEvidence, Totals};
use sla_ledger::pipeline::standings::Standings;
use sla_ledger::view::View;

/// The intended result of a tenant's month.
#[derive(Debug, Clone, Copy)]
pub struct Figures<'a> {
    /// Who called.
    pub tenant: &'a str,
    /// When.
    pub month: Month,
    /// All calls.
    pub total: u64,
    /// Of them, those that failed.
    pub failed: u64,
    /// Of them, those that got no answer.
    pub unanswered: u64,
}

/// The standings of these figures, one for each tenant and month, under the cloud call center's contract.
///
/// # Panics
/// When a tenant and month come twice, or failures exceed the calls.
pub fn standings<'a>(figures: impl IntoIterator<Item = Figures<'a>>) -> Standings {
    standings_under(Contract::of_policy(Policy::tencent_ccc()), figures)
}

/// The same under another contract.
///
/// # Panics
/// When a tenant and month come twice, or failures exceed the calls.
pub fn standings_under<'a>(contract: Contract, figures: impl IntoIterator<Item = Figures<'a>>) -> Standings {
    let mut book = Book::new(1);
    let (mut digest, mut totals, mut offset) = (Digest::default(), Totals::default(), 0);
    let mut apply = |key: &Key, value: &[u8]| {
        let key = key.encode(0);
        digest.add(Digest::of(key.as_bytes(), value));
        assert_eq!(book.apply(0, offset, key.as_bytes(), Some(value)), None, "a sound record is read");
        offset += 1;
    };
    for figures in figures {
        assert!(figures.failed + figures.unanswered <= figures.total, "{figures:?}");
        let key = Key::Tally { month: figures.month, tenant: figures.tenant.into() };
        let day = TallyDay {
            day: 1,
            actions: vec![0],
            calls: vec![figures.total],
            outcome_actions: vec![0, 0],
            outcome_codes: vec![2, 3],
            outcome_flags: vec![0, 0],
            outcome_calls: vec![figures.failed, figures.unanswered],
            ..TallyDay::default()
        };
        let day = day.with_names(["", "InternalError", sla_ledger::domain::codes::NO_RESPONSE]);
        apply(&key, &Tally { days: vec![day], ..Tally::default() }.encode_value());
        totals.counted += figures.total;
        totals.seen += figures.total;
    }
    let checkpoint = Checkpoint { seq: 1, totals, digest: digest.to_bytes(), ..Checkpoint::default() };
    book.apply(0, offset, Key::Checkpoint.encode(0).as_bytes(), Some(&checkpoint.encode_value()));
    let Some(Event::Published(changed)) = book.reached_end(0, offset + 1) else {
        panic!("a sound ledger is published")
    };
    let mut standings = Standings::new(Arc::new(contract));
    standings.refresh(&book, changed.iter().map(|(tenant, _)| tenant));
    standings
}

/// What re-evaluating all tenants takes.
#[derive(Debug, Clone, Copy)]
pub struct Rejudged {
    /// From the new documents until all standings follow them.
    pub adopt: Duration,
    /// The longest that the tail did not read meanwhile.
    pub longest_wait: Duration,
    /// Evaluating one tenant.
    pub one_tenant: Duration,
}

/// Judges this many tenants, with three months of calls each, by a contract with an order, a bill and a window for each.
///
/// # Panics
/// When the standings do not follow the new contract.
pub fn measure_adoption(tenants: usize) -> Rejudged {
    let months = [1, 2, 3].map(|month| Month(2026 * 12 + month));
    let names: Vec<Arc<str>> = (0..tenants).map(|i| format!("tenant-{i:06}").into()).collect();
    let (view, mut editor) = View::new(1, Arc::new(Contract::of_policy(Policy::tencent_ccc())));
    let (mut digest, mut totals, mut items, mut offset) = (Digest::default(), Totals::default(), 0, 0);
    let words = ["CreateCallOutSession", "DescribeTelCdr", "InternalError", "InvalidParameter"].map(String::from);
    {
        let mut apply = |key: &Key, value: &[u8]| {
            let key = key.encode(0);
            digest.add(Digest::of(key.as_bytes(), value));
            editor.apply(0, offset, key.as_bytes(), Some(value));
            offset += 1;
        };
        for (tenant, month) in names.iter().flat_map(|tenant| months.map(|month| (tenant, month))) {
            let day = |day| TallyDay {
                day,
                actions: vec![0, 1],
                calls: vec![100, 20],
                outcome_actions: vec![0, 1],
                outcome_codes: if day == 9 { vec![3, 4] } else { vec![4, 4] },
                outcome_flags: vec![0, 0],
                outcome_calls: vec![2, 3],
                ..TallyDay::default()
            };
            let days = (1..=28).map(|of_month| day(of_month).with_names(words.iter().map(String::as_str))).collect();
            let tally = Tally { days, ..Tally::default() };
            totals.counted += tally.total_calls();
            apply(&Key::Tally { month, tenant: tenant.clone() }, &tally.encode_value());
            let first = items as i64;
            let item = |i: i64| Item {
                offset: first + i,
                time_ms: day_start_ms(chrono_tz::Asia::Shanghai, month.day(9)) + 36_000_000 + i,
                action: words[0].clone(),
                code: Some(words[2].clone()),
                request_id: format!("r{i}"),
                calls_in_second: 2,
                ..Item::default()
            };
            let tenants = vec![TenantEvidence::of_items(tenant, first, &[item(0), item(1)])];
            items += 2;
            apply(&Key::Evidence { day: month.day(9), first }, &Evidence { cov: first + 2, tenants }.encode_value());
        }
        totals.seen = totals.counted;
        let checkpoint = Checkpoint { seq: 1, totals, items, digest: digest.to_bytes(), ..Checkpoint::default() };
        editor.apply(0, offset, Key::Checkpoint.encode(0).as_bytes(), Some(&checkpoint.encode_value()));
        assert!(matches!(editor.reached_end(0, offset + 1), Some(Event::Published(_))), "a sound ledger is published");
    }
    editor.publish(&view, || ());
    let new = Arc::new(contract_for(&names, months));
    let (mut longest_wait, began) = (Duration::ZERO, Instant::now());
    let adopt = std::thread::scope(|scope| {
        let adopted = scope.spawn(|| view.adopt(&new));
        // The tail goes round meanwhile.
        while !adopted.is_finished() {
            let asked = Instant::now();
            editor.serve(&view, || ());
            longest_wait = longest_wait.max(asked.elapsed());
            std::thread::sleep(Duration::from_millis(1));
        }
        began.elapsed()
    });
    let value = view.published().expect("a value was published");
    let all = value.standings.iter().flat_map(|(_, months)| months);
    let judged = all.filter(|m| m.registered && m.money.is_some() && m.figures.excluded_total() == 2).count();
    assert_eq!(judged, tenants * months.len(), "every service month has its fee and its excluded failures");
    let mut standings = value.standings.clone();
    let began = Instant::now();
    standings.refresh(&value.book, &names[..1]);
    Rejudged { adopt, longest_wait, one_tenant: began.elapsed() }
}

fn contract_for(tenants: &[Arc<str>], months: [Month; 3]) -> Contract {
    let (first, last) = (months[0].first_day(), months[2].last_day());
    let order = |tenant: &Arc<str>| {
        let order = Order {
            order_id: "o".into(),
            start: first,
            end: OrderEnd::LastDay(last),
            terminated_on: None,
            policy: None,
            customer: None,
            recorded_at_ms: 0,
        };
        (tenant.clone(), order)
    };
    let fee = |tenant: &Arc<str>| {
        let fee = FeeItem {
            bill_id: tenant.clone(),
            period_start: first,
            period_end: last,
            currency: Currency::CNY,
            gross_minor: 90_000,
            voucher_minor: 0,
            charged_on: first,
            recorded_at_ms: 0,
        };
        (tenant.clone(), fee)
    };
    let registry = Registry::new(tenants.iter().map(order).collect(), tenants.iter().map(fee).collect());
    let window = |(id, month): (usize, Month)| {
        let start_ms = day_start_ms(chrono_tz::Asia::Shanghai, month.day(9));
        Arc::new(Notice {
            id: id.to_string(),
            clause: Clause::MAINTENANCE,
            announced_at_ms: start_ms - 1,
            start_ms,
            end_ms: start_ms + 86_400_000,
            tenants: Vec::new(),
            actions: Vec::new(),
            recorded_at_ms: 0,
        })
    };
    let notices = months.into_iter().enumerate().map(window).collect();
    let documents = Documents { notices, ..Documents::default() };
    Contract::new(Policies::single(Policy::tencent_ccc()), Arc::new(registry), &documents, None)
}

/// What exporting all tenants takes.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    /// Choosing tenants and copying their counts: the time the standings are locked. The median of the rounds.
    pub collect: Duration,
    /// Writing the text. The median of the rounds.
    pub write: Duration,
    /// The text.
    pub bytes: usize,
    /// Series with a tenant label in it.
    pub series: u64,
    /// Compressing the text at the fastest level. The median of the rounds.
    pub gzip: Duration,
    /// The compressed text.
    pub gzip_bytes: usize,
}

/// Measures scrapes that export all of this many tenants, each with one month of calls, in this many rounds.
///
/// # Panics
/// Without a round.
pub fn measure(tenants: usize, rounds: usize) -> Measured {
    let month = Month(2026 * 12 + 2);
    let names: Vec<_> = (0..tenants).map(|i| format!("tenant-{i:06}")).collect();
    let standings = standings(names.iter().enumerate().map(|(i, tenant)| {
        // One in ten at risk, the calls spread over five orders of magnitude.
        let total = 1000 + (i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) % 10u64.pow(4 + (i % 5) as u32);
        Figures {
            tenant,
            month,
            total,
            failed: if i % 10 == 0 { total / 150 } else { total / 10_000 },
            unanswered: total / 5000,
        }
    }));
    let plan = CardinalityPlan { tenants: Exported::All, max_tenants: usize::MAX, ..CardinalityPlan::default() };
    let zone = chrono_tz::Asia::Shanghai;
    let view = TenantView {
        is_home: |_: &str| true,
        complete: |_: &str, _: &ServiceMonth| true,
        // Mid-month, one call in a hundred failing: every series there is.
        windows: |_: &str| {
            let window = |total| Availability { total, failed: total / 100 };
            Windows { five_minutes: window(100), half_hour: window(600), hour: window(1200), six_hours: window(7200) }
        },
        today: month.day(15),
        now_ms: day_start_ms(zone, month.day(15)),
        zone,
        plan: &plan,
    };
    let (mut exporter, mut text, mut packed) = (Exporter::new(), Vec::new(), Vec::new());
    let (mut collect, mut write, mut gzip, mut series) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for _ in 0..rounds {
        text.clear();
        let began = Instant::now();
        exporter.collect(&standings, &view);
        collect.push(began.elapsed());
        series = exporter.write(Format::Text, &mut text).series;
        write.push(began.elapsed().saturating_sub(collect[collect.len() - 1]));
        packed.clear();
        let began = Instant::now();
        packed = sla_ledger::http::scrape::gzip(&text, packed);
        gzip.push(began.elapsed());
    }
    let [collect, write, gzip] = [collect, write, gzip].map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2]
    });
    Measured { collect, write, bytes: text.len(), series, gzip, gzip_bytes: packed.len() }
}
