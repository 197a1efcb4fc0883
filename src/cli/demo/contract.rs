//! The demo's contract: files as an operator writes them, in a directory that lives as long as the demo.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::config::Config;
use crate::documents::DocumentSet;
use crate::domain::calendar::{LocalClock, LocalDay, Month, day_start_ms};
use crate::generate::tenant_name;

/// Tenants of the demo's traffic.
const TENANTS: u32 = 200;
/// This busy tenant announces no call rate: clause 5.7 takes away the failures of its busy seconds.
const UNDECLARED: &str = "acme";

/// Terms, fees, a maintenance window, declared rates and a ruling around this instant.
pub(super) struct DemoContract {
    directory: TempDir,
}

impl DemoContract {
    pub(super) fn write(config: &Config, now_ms: i64) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("sla-ledger-demo-").tempdir()?;
        let contract = Self { directory };
        contract.write_files(config, now_ms).context("the demo's contract cannot be written")?;
        Ok(contract)
    }

    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(super) fn load(&self, config: &Config) -> Result<DocumentSet> {
        Ok(DocumentSet::load(self.directory(), &config.expected_ledger())?)
    }

    fn write_files(&self, config: &Config, now_ms: i64) -> std::io::Result<()> {
        let zone = config.counting.time_zone;
        let today = LocalClock::new(zone).day(now_ms);
        let month = today.month();
        let first = Month(month.0 - 2);
        let instant = |day: LocalDay, hours: i64| {
            let ms = day_start_ms(zone, day) + hours * 3_600_000;
            chrono::DateTime::from_timestamp_millis(ms).unwrap_or_default().to_rfc3339()
        };
        let before = instant(LocalDay(first.first_day().0 - 1), 9);
        let mut tenants = String::from("tenant,order_id,start,months,last_day,terminated_on,policy,recorded_at\n");
        let mut fees =
            String::from("bill_id,tenant,period_start,period_end,currency,gross,voucher,charged_on,recorded_at\n");
        let mut declarations = String::new();
        for rank in 0..TENANTS {
            let (tenant, start) = (tenant_name(rank), first.first_day());
            _ = writeln!(tenants, "{tenant},o-{rank},{start},,,,,{before}");
            let gross = 30_000 / (rank + 1) + 300;
            let voucher = if rank % 7 == 3 { gross / 10 } else { 0 };
            for back in (0..3).rev() {
                let of = Month(month.0 - back);
                let (from, to) = (of.first_day(), of.last_day());
                _ = writeln!(fees, "b-{rank}-{of},{tenant},{from},{to},CNY,{gross}.00,{voucher}.00,{from},{before}");
            }
            if tenant != UNDECLARED {
                let to = instant(month.next().first_day(), 0);
                _ = writeln!(
                    declarations,
                    "- {{id: d-{rank}, tenant: {tenant}, qps: 500, told_at: \"{before}\", from: \"{before}\", to: \"{to}\", \
                     recorded_at: \"{before}\"}}"
                );
            }
        }
        let day = LocalDay((today.0 - 3).max(month.first_day().0));
        let (announced, from, to) = (instant(LocalDay(day.0 - 4), 10), instant(day, 2), instant(day, 4));
        let notices = format!(
            "- {{id: n-1, clause: \"5.12\", announced_at: \"{announced}\", start: \"{from}\", end: \"{to}\", \
             recorded_at: \"{announced}\"}}\n"
        );
        let (from, to) = (instant(month.first_day(), 0), instant(LocalDay(today.0.min(month.first_day().0 + 10)), 0));
        let ruling = format!(
            "- {{id: r-1, recorded_at: \"{to}\", actor: zhang.san, clause: \"5.9\", decision: exclude, reason: the carrier \
             blocked the numbers, evidence: \"https://tickets.example/4711\", scope: {{tenants: [soylent], \
             from: \"{from}\", to: \"{to}\"}}}}\n"
        );
        for (name, text) in [
            ("tenants.csv", tenants),
            ("fees.csv", fees),
            ("declarations.yaml", declarations),
            ("notices.yaml", notices),
            ("rulings.yaml", ruling),
        ] {
            std::fs::write(self.directory().join(name), text)?;
        }
        Ok(())
    }
}
