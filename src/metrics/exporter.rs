//! The tenants' series as text, straight from the standings into a reused buffer.
//!
//! Two steps, so that the standings need to be locked only for the first: [`Exporter::collect`] chooses the tenants and
//! copies their counts, [`Exporter::write`] renders them. A tenant's labels are escaped once and copied into each line.

use std::collections::HashSet;
use std::sync::Arc;

use chrono_tz::Tz;

use super::names::{self, Metric};
use crate::domain::availability::{Availability, Level, Ppm};
use crate::domain::calendar::{Month, day_start_ms};
use crate::domain::policy::Policy;
use crate::domain::standing::Counts;
use crate::pipeline::standings::Standings;

/// Months before the current one that are exported: a claim can be open for 60 days after its month.
pub const PAST_MONTHS: i32 = 3;

/// Which tenants get series of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CardinalityPlan {
    /// The rule.
    pub tenants: Exported,
    /// How many tenants are exported for having most calls in the exported months.
    pub top: usize,
    /// Tenants exported whatever their state.
    pub allow: Vec<String>,
    /// Most tenants this instance exports; beyond, those at risk come first, the riskiest at the front.
    pub max_tenants: usize,
}

impl Default for CardinalityPlan {
    fn default() -> Self {
        Self { tenants: Exported::AtRisk, top: 100, allow: Vec::new(), max_tenants: 10_000 }
    }
}

/// The rule of a [`CardinalityPlan`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Exported {
    /// Tenants at risk or in breach in an exported month ([`Level::Warn50`] and above), the top, and the allow list.
    #[default]
    AtRisk,
    /// All of them.
    All,
}

/// How the standings are looked at.
#[derive(Debug, Clone, Copy)]
pub struct TenantView<'a, H, C> {
    /// Does this instance export the tenant?
    pub is_home: H,
    /// Is every call of the tenant's month known to be counted?
    pub complete: C,
    /// The month that is running.
    pub current: Month,
    /// The zone the months are in.
    pub zone: Tz,
    /// Which tenants get series of their own.
    pub plan: &'a CardinalityPlan,
}

/// What an exposition holds and what it leaves out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ExportStats {
    /// Tenants with series.
    pub tenants: u64,
    /// Series with a tenant label.
    pub series: u64,
    /// Series of this instance's tenants that the plan does not choose.
    pub suppressed_by_plan: u64,
    /// Series of tenants that the plan chooses and the limit leaves out.
    pub suppressed_by_limit: u64,
    /// The limit: tenants.
    pub limit: u64,
}

/// Renders the tenants' series. Keeps its buffers between scrapes.
#[derive(Debug, Default)]
pub struct Exporter {
    contract: Option<Arc<Policy>>,
    /// The rows' labels, escaped: `tenant="acme",month="2026-03"`.
    labels: String,
    rows: Vec<Row>,
    /// Every month's name and end, in seconds since 1970.
    months: Vec<(Month, String, i64)>,
    fleet: Vec<(Month, Figures)>,
    states: [u64; Level::ALL.len()],
    stats: ExportStats,
}

/// One tenant's month, or all tenants' month.
#[derive(Debug, Clone, Copy)]
struct Figures {
    availability: Availability,
    worst_case: Availability,
    /// Failures that an exclusion took out of the failures; none until there are exclusions.
    excluded: u64,
}

#[derive(Debug)]
struct Row {
    labels: std::ops::Range<usize>,
    end_s: i64,
    complete: bool,
    figures: Figures,
}

impl From<&Counts> for Figures {
    fn from(counts: &Counts) -> Self {
        Self { availability: counts.availability(), worst_case: counts.worst_case(), excluded: 0 }
    }
}

impl Figures {
    /// Series of a row, as [`Exporter::write`] writes them.
    fn series(&self, contract: &Policy) -> u64 {
        let ratios = if self.availability.total > 0 { 2 } else { 0 };
        let consumed = u64::from(self.availability.consumed(contract.target()).1 > 0);
        let tiers = contract.tiers.iter();
        let recover = tiers.filter(|t| t.below.complement().parts() > 0 || self.availability.at_least(t.below)).count();
        // Calls by result, compensation, the month's end, complete or not.
        ratios + consumed + contract.tiers.len() as u64 + recover as u64 + 3 + 1 + 1 + 1
    }
}

/// A tenant and what speaks for showing it; the greater, the more.
struct Candidate<'a> {
    tenant: &'a Arc<str>,
    months: &'a [(Month, Counts)],
    rank: Rank,
}

/// In this order: tenants that get money back, by its part of the fee; those at risk, by level; the allow list; the top;
/// the rest. Within each, by calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    rate: u32,
    at_risk: Option<Level>,
    allowed: bool,
    top: bool,
    calls: u64,
}

impl Exporter {
    /// Nothing collected yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Chooses the tenants and copies what their series say.
    pub fn collect<H, C>(&mut self, standings: &Standings, view: &TenantView<'_, H, C>)
    where
        H: Fn(&str) -> bool,
        C: Fn(&str, Month) -> bool,
    {
        let contract = standings.contract();
        self.contract = Some(contract.clone());
        self.labels.clear();
        self.rows.clear();
        self.months.clear();
        self.states = [0; Level::ALL.len()];
        self.stats = ExportStats { limit: view.plan.max_tenants as u64, ..ExportStats::default() };
        let first = Month(view.current.0 - PAST_MONTHS);
        self.fleet.clear();
        self.fleet.extend(standings.fleet().range(first..).map(|(month, counts)| (*month, counts.into())));

        let allow: HashSet<&str> = view.plan.allow.iter().map(String::as_str).collect();
        let mut candidates = Vec::with_capacity(standings.len());
        for (tenant, months) in standings.iter() {
            let months = &months[months.partition_point(|(month, _)| *month < first)..];
            let level =
                months.iter().find(|(m, _)| *m == view.current).map_or(Level::NoTraffic, |(_, c)| c.level(contract));
            self.states[level as usize] += 1;
            if !months.is_empty() && (view.is_home)(tenant) {
                let rank = Rank::new(months, contract, allow.contains(&**tenant));
                candidates.push(Candidate { tenant, months, rank });
            }
        }
        mark_top(&mut candidates, view.plan.top);
        candidates.sort_unstable_by(|a, b| b.rank.cmp(&a.rank).then_with(|| a.tenant.cmp(b.tenant)));
        let chosen = match view.plan.tenants {
            Exported::All => candidates.len(),
            Exported::AtRisk => {
                candidates.partition_point(|c| c.rank.at_risk.is_some() || c.rank.allowed || c.rank.top)
            }
        };
        let exported = chosen.min(view.plan.max_tenants);
        for candidate in &candidates[..exported] {
            self.add(candidate, contract, view);
        }
        let series = |left_out: &[Candidate<'_>]| -> u64 {
            left_out.iter().flat_map(|c| c.months).map(|(_, counts)| Figures::from(counts).series(contract)).sum()
        };
        self.stats.tenants = exported as u64;
        self.stats.suppressed_by_limit = series(&candidates[exported..chosen]);
        self.stats.suppressed_by_plan = series(&candidates[chosen..]);
    }

    fn add<H, C>(&mut self, candidate: &Candidate<'_>, contract: &Policy, view: &TenantView<'_, H, C>)
    where
        C: Fn(&str, Month) -> bool,
    {
        let tenant_from = self.labels.len();
        self.labels.push_str("tenant=\"");
        escape_label(&mut self.labels, candidate.tenant);
        self.labels.push_str("\",month=\"");
        let mut tenant = tenant_from..self.labels.len();
        for (index, (month, counts)) in candidate.months.iter().enumerate() {
            let from = if index == 0 { tenant_from } else { self.labels.len() };
            if index > 0 {
                self.labels.extend_from_within(tenant.clone());
                tenant = from..self.labels.len();
            }
            let known = match self.months.iter().position(|(m, ..)| m == month) {
                Some(known) => known,
                None => {
                    let end_s = day_start_ms(view.zone, month.next().first_day()).div_euclid(1000);
                    self.months.push((*month, month.to_string(), end_s));
                    self.months.len() - 1
                }
            };
            let (_, name, end_s) = &self.months[known];
            self.labels.push_str(name);
            self.labels.push('"');
            let figures = Figures::from(counts);
            self.stats.series += figures.series(contract);
            let complete = (view.complete)(candidate.tenant, *month);
            self.rows.push(Row { labels: from..self.labels.len(), end_s: *end_s, complete, figures });
        }
    }

    /// What was collected, as [`Exporter::write`] tells it.
    pub fn stats(&self) -> ExportStats {
        self.stats
    }

    /// Appends the series to `out` in the text exposition format. Writes nothing before the first
    /// [`Exporter::collect`].
    pub fn write(&self, out: &mut Vec<u8>) -> ExportStats {
        let Some(contract) = self.contract.as_deref() else { return self.stats };
        let mut text = Text { out, integer: itoa::Buffer::new(), float: ryu::Buffer::new() };
        self.write_tenants(contract, &mut text);
        self.write_fleet(&mut text);
        self.stats
    }

    fn write_tenants(&self, contract: &Policy, text: &mut Text<'_>) {
        let target = contract.target();
        let rate = |a: Availability| contract.tier(a).map_or(0.0, |tier| ratio(tier.rate));
        self.family(text, names::AVAILABILITY, |text, labels, row| {
            text.ratio(names::AVAILABILITY, labels, row.figures.availability.ratio());
        });
        self.family(text, names::AVAILABILITY_WORST_CASE, |text, labels, row| {
            text.ratio(names::AVAILABILITY_WORST_CASE, labels, row.figures.worst_case.ratio());
        });
        self.family(text, names::CALLS, |text, labels, row| text.calls(names::CALLS, labels, &row.figures));
        let tiers: Vec<_> = contract.tiers.iter().map(|tier| (tier.below, escaped(&tier.name))).collect();
        self.family(text, names::FAILURES_HEADROOM, |text, labels, row| {
            for (below, tier) in &tiers {
                text.signed(
                    names::FAILURES_HEADROOM,
                    labels,
                    &[",tier=\"", tier, "\""],
                    row.figures.availability.headroom(*below),
                );
            }
        });
        self.family(text, names::BUDGET_CONSUMED, |text, labels, row| {
            text.ratio(names::BUDGET_CONSUMED, labels, row.figures.availability.consumed_ratio(target));
        });
        self.family(text, names::COMPENSATION, |text, labels, row| {
            text.ratio(names::COMPENSATION, labels, Some(rate(row.figures.availability)));
        });
        self.family(text, names::CALLS_TO_RECOVER, |text, labels, row| {
            for (below, tier) in &tiers {
                if let Some(calls) = row.figures.availability.calls_to_recover(*below) {
                    text.unsigned(names::CALLS_TO_RECOVER, labels, &[",tier=\"", tier, "\""], calls);
                }
            }
        });
        self.family(text, names::MONTH_END, |text, labels, row| text.signed(names::MONTH_END, labels, &[], row.end_s));
        self.family(text, names::MONTH_COMPLETE, |text, labels, row| {
            text.unsigned(names::MONTH_COMPLETE, labels, &[], row.complete.into());
        });
    }

    /// One family: its header, then `line` for every row. No header without rows.
    fn family(&self, text: &mut Text<'_>, metric: Metric, mut line: impl FnMut(&mut Text<'_>, &str, &Row)) {
        if self.rows.is_empty() {
            return;
        }
        write_header(text.out, metric);
        for row in &self.rows {
            line(text, &self.labels[row.labels.clone()], row);
        }
    }

    fn write_fleet(&self, text: &mut Text<'_>) {
        write_header(text.out, names::TENANTS);
        for level in Level::ALL {
            text.unsigned(names::TENANTS, "", &["state=\"", level.as_str(), "\""], self.states[level as usize]);
        }
        if self.fleet.is_empty() {
            return;
        }
        let months: Vec<_> =
            self.fleet.iter().map(|(month, figures)| (format!("month=\"{month}\""), figures)).collect();
        write_header(text.out, names::FLEET_CALLS);
        for (labels, figures) in &months {
            text.calls(names::FLEET_CALLS, labels, figures);
        }
        write_header(text.out, names::FLEET_AVAILABILITY);
        for (labels, figures) in &months {
            text.ratio(names::FLEET_AVAILABILITY, labels, figures.availability.ratio());
        }
    }
}

impl Rank {
    fn new(months: &[(Month, Counts)], contract: &Policy, allowed: bool) -> Self {
        let rates = months.iter().filter_map(|(_, counts)| counts.tier(contract)).map(|tier| tier.rate.parts());
        let levels = months.iter().map(|(_, counts)| counts.level(contract)).filter(|level| *level >= Level::Warn50);
        Self {
            rate: rates.max().unwrap_or(0),
            at_risk: levels.max(),
            allowed,
            top: false,
            calls: months.iter().map(|(_, counts)| counts.total()).sum(),
        }
    }
}

/// Marks the tenants with most calls; among equals, by name.
fn mark_top(candidates: &mut [Candidate<'_>], top: usize) {
    let by_calls =
        |a: &Candidate<'_>, b: &Candidate<'_>| b.rank.calls.cmp(&a.rank.calls).then_with(|| a.tenant.cmp(b.tenant));
    let top = top.min(candidates.len());
    if let Some(last) = top.checked_sub(1) {
        candidates.select_nth_unstable_by(last, by_calls);
    }
    candidates[..top].iter_mut().for_each(|c| c.rank.top = true);
}

fn ratio(parts: Ppm) -> f64 {
    f64::from(parts.parts()) / 1e6
}

/// The text being written. Lines go out as byte copies: formatting machinery would take most of the time.
struct Text<'a> {
    out: &'a mut Vec<u8>,
    integer: itoa::Buffer,
    float: ryu::Buffer,
}

impl Text<'_> {
    fn line(
        &mut self,
        metric: Metric,
        labels: &str,
        more: &[&str],
        value: impl FnOnce(&mut itoa::Buffer, &mut ryu::Buffer, &mut Vec<u8>),
    ) {
        self.out.extend_from_slice(metric.name.as_bytes());
        self.out.push(b'{');
        self.out.extend_from_slice(labels.as_bytes());
        for part in more {
            self.out.extend_from_slice(part.as_bytes());
        }
        self.out.extend_from_slice(b"} ");
        value(&mut self.integer, &mut self.float, self.out);
        self.out.push(b'\n');
    }

    fn unsigned(&mut self, metric: Metric, labels: &str, more: &[&str], value: u64) {
        self.line(metric, labels, more, |integer, _, out| out.extend_from_slice(integer.format(value).as_bytes()));
    }

    fn signed(&mut self, metric: Metric, labels: &str, more: &[&str], value: i64) {
        self.line(metric, labels, more, |integer, _, out| out.extend_from_slice(integer.format(value).as_bytes()));
    }

    /// A double, or no line at all.
    fn ratio(&mut self, metric: Metric, labels: &str, value: Option<f64>) {
        let Some(value) = value else { return };
        self.line(metric, labels, &[], |_, float, out| out.extend_from_slice(float.format(value).as_bytes()));
    }

    fn calls(&mut self, metric: Metric, labels: &str, figures: &Figures) {
        let good = figures.availability.good().saturating_sub(figures.excluded);
        for (result, calls) in [
            (",result=\"good\"", good),
            (",result=\"failed\"", figures.availability.failed),
            (",result=\"excluded\"", figures.excluded),
        ] {
            self.unsigned(metric, labels, &[result], calls);
        }
    }
}

/// The `# HELP` and `# TYPE` lines of a family.
pub fn write_header(out: &mut Vec<u8>, metric: Metric) {
    for part in ["# HELP ", metric.name, " ", metric.help, "\n# TYPE ", metric.name, " ", metric.kind.as_str(), "\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}

/// Appends a label's value, escaped as the text exposition format says: backslash, double quote and line feed.
pub fn escape_label(out: &mut String, value: &str) {
    let mut rest = value;
    while let Some(at) = rest.find(['\\', '"', '\n']) {
        out.push_str(&rest[..at]);
        out.push_str(match rest.as_bytes()[at] {
            b'\\' => "\\\\",
            b'"' => "\\\"",
            _ => "\\n",
        });
        rest = &rest[at + 1..];
    }
    out.push_str(rest);
}

fn escaped(value: &str) -> String {
    let mut out = String::new();
    escape_label(&mut out, value);
    out
}
