//! Standings with given figures, for tests and for the benchmark of a scrape. They come through the book, as all do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::exporter::{CardinalityPlan, Exported, Exporter, TenantView};
use crate::domain::calendar::Month;
use crate::domain::contract::Contract;
use crate::domain::policy::Policy;
use crate::pipeline::book::{Book, Event};
use crate::pipeline::record::{Checkpoint, Digest, Key, Tally, TallyDay, Totals};
use crate::pipeline::standings::Standings;

/// What a tenant's month is to come to.
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
        };
        let names = ["", "InternalError", crate::domain::codes::NO_RESPONSE].map(String::from).to_vec();
        apply(&key, &Tally { names, days: vec![day], ..Tally::default() }.encode_value());
        totals.counted += figures.total;
        totals.seen += figures.total;
    }
    let checkpoint = Checkpoint { seq: 1, totals, digest: digest.to_bytes(), ..Checkpoint::default() };
    book.apply(0, offset, Key::Checkpoint.encode(0).as_bytes(), Some(&checkpoint.encode_value()));
    let Some(Event::Published(tenants)) = book.reached_end(0, offset + 1) else {
        panic!("a sound ledger is published")
    };
    let mut standings = Standings::new(Arc::new(Contract::of_policy(Policy::tencent_ccc())));
    standings.refresh(&book, &tenants);
    standings
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
        complete: |_: &str, _| true,
        today: month.first_day(),
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
        series = exporter.write(&mut text).series;
        write.push(began.elapsed().saturating_sub(collect[collect.len() - 1]));
        packed.clear();
        let began = Instant::now();
        packed = crate::http::scrape::gzip(&text, packed);
        gzip.push(began.elapsed());
    }
    let [collect, write, gzip] = [collect, write, gzip].map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2]
    });
    Measured { collect, write, bytes: text.len(), series, gzip, gzip_bytes: packed.len() }
}
