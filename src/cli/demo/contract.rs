//! The demo's contract: files as an operator writes them, in a directory that lives as long as the demo.

use std::fmt::Write as _;
use std::fs;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::config::Config;
use crate::documents::DocumentSet;
use crate::domain::calendar::{LocalClock, LocalDay, Month, day_start_ms};
use crate::domain::policy::Policy;
use crate::domain::workdays::{ClaimWindow, Workdays};
use crate::generate::tenant_name;

/// Tenants of the demo's traffic.
const TENANTS: u32 = 200;
/// This busy tenant announces no call rate: clause 5.7 excludes the failures of its busy seconds.
const UNDECLARED: &str = "acme";
/// This tenant can claim the compensation of [`ClosedMonth::month`].
pub(super) const CLAIMANT: &str = "acme";

const POLICY: &str = include_str!("../../../config/policies/tencent-ccc-2022-08-22.yaml");
const CODES: &str = include_str!("../../../config/policies/error_codes.csv");
const CALENDAR: &str = include_str!("../../../config/calendars/cn.csv");

const HOUR_MS: i64 = 3_600_000;

/// Terms, fees, a maintenance window, declared rates and rulings around this instant.
pub(super) struct DemoContract {
    directory: TempDir,
    closed: ClosedMonth,
}

/// A service month that is over and can be claimed today, and what a late ruling changed in it. Instants in milliseconds since
/// 1970-01-01T00:00:00Z.
#[derive(Debug, Clone)]
pub(super) struct ClosedMonth {
    pub month: Month,
    /// Its first instant.
    pub start_ms: i64,
    /// Most calls of [`CLAIMANT`] failed then; the ruling excludes them.
    pub outage_ms: Range<i64>,
    /// When its first statement was issued: after its end, before the ruling.
    pub issued_ms: i64,
    /// When the ruling was recorded.
    ruled_ms: i64,
}

impl ClosedMonth {
    /// The last month whose claim window is open.
    fn at(today: LocalDay, workdays: &Workdays, zone: chrono_tz::Tz) -> Self {
        let rule = Policy::tencent_ccc().claim;
        let claimable = |month: &Month| {
            let window = ClaimWindow::of(month.last_day(), &rule, workdays);
            window.opens.is_some_and(|opens| (opens..=window.last_day).contains(&today))
        };
        let before = |months: i32| Month(today.month().0 - months);
        let month = [1, 2].map(before).into_iter().find(claimable).unwrap_or(before(2));
        let at = |day: LocalDay, hours: i64| day_start_ms(zone, day) + hours * HOUR_MS;
        let next = month.next();
        Self {
            month,
            start_ms: at(month.first_day(), 0),
            outage_ms: at(month.day(10), 0)..at(month.day(11), 0),
            issued_ms: at(next.day(2), 9),
            ruled_ms: at(next.day(4), 11),
        }
    }
}

impl DemoContract {
    pub(super) fn write(config: &Config, now_ms: i64) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("sla-ledger-demo-").tempdir()?;
        let zone = config.counting.time_zone;
        let today = LocalClock::new(zone).day(now_ms);
        let calendar = calendar(today.month());
        let workdays = Workdays::from_csv(&calendar).map_err(anyhow::Error::msg)?;
        let closed = ClosedMonth::at(today, &workdays, zone);
        let papers = Papers { zone, now_ms, today, closed: &closed };
        for (name, text) in [
            ("policies/tencent-ccc-2022-08-22.yaml", POLICY.to_owned()),
            ("policies/error_codes.csv", CODES.to_owned()),
            ("calendars/cn.csv", calendar),
            ("tenants.csv", papers.tenants()),
            ("fees.csv", papers.fees()),
            ("declarations.yaml", papers.declarations()),
            ("notices.yaml", papers.notices()),
            ("rulings.yaml", papers.rulings()),
        ] {
            let path = directory.path().join(name);
            let written = fs::create_dir_all(path.parent().unwrap_or(&path)).and_then(|()| fs::write(&path, text));
            written.with_context(|| format!("cannot write the demo's contract to {}", path.display()))?;
        }
        Ok(Self { directory, closed })
    }

    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(super) fn closed(&self) -> &ClosedMonth {
        &self.closed
    }

    pub(super) fn load(&self, config: &Config) -> Result<DocumentSet> {
        Ok(DocumentSet::load(self.directory(), &config.expected_ledger())?)
    }
}

/// China's working days. Of years whose holidays are not announced yet, Monday to Friday work.
fn calendar(month: Month) -> String {
    let known = Workdays::china();
    let year = |month: Month| month.0.div_euclid(12);
    let mut text = CALENDAR.to_owned();
    for year in year(Month(month.0 - 2))..=year(Month(month.0 + 3)) {
        if known.is_working_day(Month(year * 12).first_day()).is_none() {
            _ = writeln!(text, "coverage,{year}-01-01,{year}-12-31,{year},the demo's: without holidays");
        }
    }
    text
}

/// The documents' texts.
struct Papers<'a> {
    zone: chrono_tz::Tz,
    now_ms: i64,
    today: LocalDay,
    closed: &'a ClosedMonth,
}

impl Papers<'_> {
    /// The month in which all orders begin.
    fn first(&self) -> Month {
        Month(self.today.month().0 - 2)
    }

    /// When orders, bills and declarations were recorded.
    fn before(&self) -> String {
        self.instant(LocalDay(self.first().first_day().0 - 1), 9)
    }

    fn instant(&self, day: LocalDay, hours: i64) -> String {
        rfc3339(day_start_ms(self.zone, day) + hours * HOUR_MS)
    }

    fn tenants(&self) -> String {
        let (start, before) = (self.first().first_day(), self.before());
        let mut text = String::from("tenant,order_id,start,months,last_day,terminated_on,policy,recorded_at\n");
        for rank in 0..TENANTS {
            _ = writeln!(text, "{},o-{rank},{start},,,,,{before}", tenant_name(rank));
        }
        text
    }

    fn fees(&self) -> String {
        let before = self.before();
        let mut text =
            String::from("bill_id,tenant,period_start,period_end,currency,gross,voucher,charged_on,recorded_at\n");
        for rank in 0..TENANTS {
            let tenant = tenant_name(rank);
            let gross = 30_000 / (rank + 1) + 300;
            let voucher = if rank % 7 == 3 { gross / 10 } else { 0 };
            for month in (self.first().0..=self.today.month().0).map(Month) {
                let (from, to) = (month.first_day(), month.last_day());
                _ = writeln!(text, "b-{rank}-{month},{tenant},{from},{to},CNY,{gross}.00,{voucher}.00,{from},{before}");
            }
        }
        text
    }

    fn declarations(&self) -> String {
        let (before, to) = (self.before(), self.instant(self.today.month().next().first_day(), 0));
        let mut text = String::new();
        for (rank, tenant) in (0..TENANTS).map(|rank| (rank, tenant_name(rank))).filter(|(_, name)| name != UNDECLARED)
        {
            _ = writeln!(
                text,
                "- {{id: d-{rank}, tenant: {tenant}, qps: 500, told_at: \"{before}\", from: \"{before}\", to: \"{to}\", \
                 recorded_at: \"{before}\"}}"
            );
        }
        text
    }

    fn notices(&self) -> String {
        let day = LocalDay((self.today.0 - 3).max(self.today.month().first_day().0));
        let announced = self.instant(LocalDay(day.0 - 4), 10);
        let (from, to) = (self.instant(day, 2), self.instant(day, 4));
        format!(
            "- {{id: n-1, clause: \"5.12\", announced_at: \"{announced}\", start: \"{from}\", end: \"{to}\", \
             recorded_at: \"{announced}\"}}\n"
        )
    }

    fn rulings(&self) -> String {
        let ClosedMonth { outage_ms, ruled_ms, .. } = self.closed;
        let late = format!(
            "- {{id: r-1, recorded_at: \"{}\", actor: zhang.san, clause: \"5.14\", decision: exclude, reason: power failure \
             in the carrier's data centre, evidence: \"https://tickets.example/4702\", scope: {{tenants: [{CLAIMANT}], \
             from: \"{}\", to: \"{}\"}}}}\n",
            rfc3339(*ruled_ms),
            rfc3339(outage_ms.start),
            rfc3339(outage_ms.end),
        );
        let first = self.today.month().first_day();
        let from_ms = day_start_ms(self.zone, first);
        // On the first of a month, its first hour.
        let to_ms = day_start_ms(self.zone, LocalDay(self.today.0.min(first.0 + 10))).max(from_ms + HOUR_MS);
        let (from, to, recorded) = (rfc3339(from_ms), rfc3339(to_ms), rfc3339(to_ms.min(self.now_ms)));
        format!(
            "{late}- {{id: r-2, recorded_at: \"{recorded}\", actor: zhang.san, clause: \"5.9\", decision: exclude, reason: \
             the carrier blocked the numbers, evidence: \"https://tickets.example/4711\", scope: {{tenants: [soylent], \
             from: \"{from}\", to: \"{to}\"}}}}\n"
        )
    }
}

fn rfc3339(ms: i64) -> String {
    chrono::DateTime::from_timestamp_millis(ms).unwrap_or_default().to_rfc3339()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::workdays::{ClaimState, claim_state};

    /// The documents of every day load, and the closed month can be claimed: on the first of a month, on a leap day, and in
    /// years whose holidays are not announced.
    #[test]
    fn demo_has_a_claimable_month_on_every_day() {
        let config = Config::new("api-calls", Vec::new());
        let zone = config.counting.time_zone;
        let first: LocalDay = "2026-09-01".parse().expect("a day");
        for day in (first.0..first.0 + 560).map(LocalDay) {
            // Its first instant or its last second.
            let now_ms =
                if day.0 % 2 == 0 { day_start_ms(zone, day) } else { day_start_ms(zone, LocalDay(day.0 + 1)) - 1_000 };
            let demo = DemoContract::write(&config, now_ms).expect("the documents");
            let documents = demo.load(&config).unwrap_or_else(|error| panic!("{day}: {error:#}"));
            let contract = documents.contract(None);
            assert_eq!(contract.without_effect(), Vec::<String>::new(), "{day}");
            let ClosedMonth { month, issued_ms, ruled_ms, .. } = *demo.closed();
            assert!(issued_ms < ruled_ms && ruled_ms < now_ms, "{day}");
            let terms = contract.terms(CLAIMANT);
            let period = terms.periods(month.first_day(), month.last_day()).next().expect("a service month");
            let policy = contract.policy(&terms, period.first);
            let window = ClaimWindow::of(period.last, &policy.claim, &policy.workdays);
            assert_eq!(claim_state(period, window, zone, now_ms, &[]), ClaimState::Claimable, "{day}");
        }
    }
}
