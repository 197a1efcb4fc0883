//! The tenants' series as text, straight from the standings into a reused buffer.
//!
//! Two steps, so that the standings are needed only for the first: [`Exporter::collect`] chooses the tenants and copies
//! their counts, [`Exporter::write`] renders them. A tenant's labels are escaped once and copied into each line.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use chrono_tz::Tz;

use super::format::{Format, write_header};
use super::names::{self, Metric};
use crate::domain::alert::Windows;
use crate::domain::availability::{Level, Ppm};
use crate::domain::calendar::{LocalDay, Month, day_start_ms};
use crate::domain::forecast::burn_rate;
use crate::domain::money::Currency;
use crate::domain::policy::Policy;
use crate::domain::standing::{Figures, ServiceMonth};
use crate::domain::workdays::ClaimWindow;
use crate::pipeline::standings::{Fleet, Standings};
use crate::pipeline::trend::Trend;
use crate::visible::visible_name;

/// Months before the current one that are exported: a claim can be open for 60 days after its month.
pub const PAST_MONTHS: i32 = 3;
/// How long the fleet's forecast is cached, in ms: it evaluates every tenant.
const FLEET_FORECAST_MS: i64 = 60_000;

/// Which tenants get series of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CardinalityPlan {
    /// The rule.
    pub tenants: Exported,
    /// How many tenants are exported for most money at stake in the exported months; without fees, for most calls.
    pub top: usize,
    /// Tenants exported whatever their state.
    pub allow: Vec<String>,
    /// Maximum number of tenants this instance exports; beyond it, those at risk come first, the riskiest at the front.
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

/// How the standings are viewed.
#[derive(Debug, Clone, Copy)]
pub struct TenantView<'a, H, C, W> {
    /// Does this instance export the tenant?
    pub is_home: H,
    /// Is every call of the tenant's service month known to be counted?
    pub complete: C,
    /// The tenant's last hours.
    pub windows: W,
    /// Today.
    pub today: LocalDay,
    /// Now, in ms.
    pub now_ms: i64,
    /// The zone the months are in.
    pub zone: Tz,
    /// Which tenants get series of their own.
    pub plan: &'a CardinalityPlan,
}

/// What an exposition contains and what it omits.
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
    /// Something was collected.
    collected: bool,
    /// The rows' labels, escaped: `tenant="acme",month="2026-03"`.
    labels: String,
    rows: Vec<Row>,
    /// First instants after days, in seconds since 1970.
    ends: HashMap<LocalDay, i64>,
    fleet: Vec<(Month, Fleet)>,
    /// By how much, in minor units, the fleet will owe more than now if the last hour continues; and when that was
    /// computed.
    fleet_forecast: BTreeMap<(Month, Currency), i64>,
    fleet_forecast_ms: Option<i64>,
    states: [u64; Level::ALL.len()],
    /// Policies and the calendar years whose working days they miss.
    calendar_missing: BTreeSet<(String, i32)>,
    stats: ExportStats,
}

#[derive(Debug)]
struct Row {
    labels: std::ops::Range<usize>,
    end_s: i64,
    complete: bool,
    month: ServiceMonth,
    trend: Trend,
    /// Begin and end of the claim window in seconds, where something is owed to a registered tenant; no begin while the
    /// working days are not known.
    claim_s: Option<(Option<i64>, i64)>,
}

/// Series of a running service month's burn rate and forecast, as [`Exporter::write`] writes them.
fn trend_series(month: &ServiceMonth, trend: &Trend) -> u64 {
    let Some(outlook) = &trend.outlook else { return 0 };
    let burning = trend.windows.all().into_iter().filter_map(|window| burn_rate(window, outlook.sustainable)).count();
    let reached = outlook.reached_at_ms.iter().flatten().count();
    let ends = usize::from(outlook.at_end.total > 0) + usize::from(month.money.is_some());
    (burning + 3 + outlook.allowed.len() + reached + ends) as u64
}

/// Series of a service month, as [`Exporter::write`] writes them, without those of [`trend_series`].
fn series(month: &ServiceMonth) -> u64 {
    let availability = month.availability();
    let ratios = if availability.total > 0 { 2 } else { 0 };
    let consumed = u64::from(availability.consumed(month.policy.target()).1 > 0);
    let tiers = &month.policy.tiers;
    let recover = tiers.iter().filter(|t| availability.calls_to_recover(t.below).is_some()).count();
    let money = month.money.map_or(0, |money| 1 + u64::from(money.next_payout.is_some()));
    let claim = claim_window(month).map_or(0, |window| 1 + u64::from(window.opens.is_some()));
    let excluded = (month.figures.excluded().len() + month.top_failing.len()) as u64;
    // Failures left and threshold of each tier; calls by result, compensation, the month's end, complete or not.
    ratios + consumed + (2 * tiers.len() + recover) as u64 + money + claim + excluded + 3 + 1 + 1 + 1
}

/// The claim window, where there is something to claim.
fn claim_window(month: &ServiceMonth) -> Option<ClaimWindow> {
    let owed = month.registered && month.tier().is_some();
    owed.then(|| ClaimWindow::of(month.period.last, &month.policy.claim, &month.policy.workdays))
}

/// A tenant and its export priority; the greatest rank first.
struct Candidate<'a> {
    tenant: &'a Arc<str>,
    months: &'a [ServiceMonth],
    rank: Rank,
}

/// In this order: tenants that get money back, by its part of the fee; those at risk, by level; the allow list; the top;
/// the rest. Within each, by the money at stake, then by calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    rate: u32,
    at_risk: Option<Level>,
    allowed: bool,
    top: bool,
    /// What is owed, and what one tier further down would be, in minor units.
    at_stake: i64,
    calls: u64,
}

impl Exporter {
    /// Nothing collected yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Chooses the tenants and copies the values of their series.
    pub fn collect<H, C, W>(&mut self, standings: &Standings, view: &TenantView<'_, H, C, W>)
    where
        H: Fn(&str) -> bool,
        C: Fn(&str, &ServiceMonth) -> bool,
        W: Fn(&str) -> Windows,
    {
        self.collected = true;
        self.labels.clear();
        self.rows.clear();
        self.ends.clear();
        self.states = [0; Level::ALL.len()];
        self.stats = ExportStats { limit: view.plan.max_tenants as u64, ..ExportStats::default() };
        let first = Month(view.today.month().0 - PAST_MONTHS);
        self.fleet.clear();
        self.fleet.extend(standings.fleet().range(first..).map(|(month, fleet)| (*month, fleet.clone())));

        self.calendar_missing = standings.calendar_missing(first);

        let allow: HashSet<&str> = view.plan.allow.iter().map(String::as_str).collect();
        let mut candidates = Vec::with_capacity(standings.len());
        for (tenant, months) in standings.iter() {
            let months = &months[months.partition_point(|month| month.period.last.month() < first)..];
            let current = months.iter().find(|month| month.period.contains(view.today));
            self.states[current.map_or(Level::NoTraffic, ServiceMonth::level) as usize] += 1;
            if !months.is_empty() && (view.is_home)(tenant) {
                let rank = Rank::new(months, allow.contains(&**tenant));
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
            self.add(standings, candidate, view);
        }
        self.forecast_fleet(standings, view);
        let left_out =
            |candidates: &[Candidate<'_>]| -> u64 { candidates.iter().flat_map(|c| c.months).map(series).sum() };
        self.stats.tenants = exported as u64;
        self.stats.suppressed_by_limit = left_out(&candidates[exported..chosen]);
        self.stats.suppressed_by_plan = left_out(&candidates[chosen..]);
    }

    /// What all tenants will owe, exported or not. Refreshed at intervals, because it evaluates all of them.
    fn forecast_fleet<H, C, W>(&mut self, standings: &Standings, view: &TenantView<'_, H, C, W>)
    where
        W: Fn(&str) -> Windows,
    {
        if self.fleet_forecast_ms.is_some_and(|found| (found..found + FLEET_FORECAST_MS).contains(&view.now_ms)) {
            return;
        }
        self.fleet_forecast_ms = Some(view.now_ms);
        self.fleet_forecast.clear();
        for (tenant, months) in standings.iter() {
            // What has not failed yet owes nothing then either.
            let current = months.iter().find(|m| m.period.contains(view.today) && m.figures.failed() > 0);
            let (Some(month), Some(standing)) = (current, standings.tenant(tenant)) else { continue };
            let Some(money) = month.money else { continue };
            let trend = Trend::of(standing, month, (view.windows)(tenant), view.now_ms);
            let then = trend.outlook.and_then(|outlook| month.payout_at(outlook.at_end));
            let more = then.map_or(0, |then| then - money.payout.payout_minor);
            if more != 0 {
                *self.fleet_forecast.entry((month.period.first.month(), money.currency())).or_insert(0) += more;
            }
        }
    }

    fn add<H, C, W>(&mut self, standings: &Standings, candidate: &Candidate<'_>, view: &TenantView<'_, H, C, W>)
    where
        C: Fn(&str, &ServiceMonth) -> bool,
        W: Fn(&str) -> Windows,
    {
        let windows = (view.windows)(candidate.tenant);
        let tenant_from = self.labels.len();
        self.labels.push_str("tenant=\"");
        escape_label(&mut self.labels, candidate.tenant);
        self.labels.push_str("\",month=\"");
        let mut tenant = tenant_from..self.labels.len();
        for (index, month) in candidate.months.iter().enumerate() {
            let from = if index == 0 { tenant_from } else { self.labels.len() };
            if index > 0 {
                self.labels.extend_from_within(tenant.clone());
                tenant = from..self.labels.len();
            }
            self.labels.push_str(&month.label());
            self.labels.push('"');
            let ends = &mut self.ends;
            let mut day_after = |day: LocalDay| {
                let next = LocalDay(day.0 + 1);
                *ends.entry(day).or_insert_with(|| day_start_ms(view.zone, next).div_euclid(1000))
            };
            let end_s = day_after(month.period.last);
            let claim_s = claim_window(month).map(|window| {
                let opens = window.opens.map(|day| day_after(LocalDay(day.0 - 1)));
                (opens, day_after(window.last_day))
            });
            let trend = standings.tenant(candidate.tenant).map(|t| Trend::of(t, month, windows, view.now_ms));
            let trend = trend.unwrap_or_default();
            self.stats.series += series(month) + trend_series(month, &trend);
            let complete = month.uncounted.is_none() && (view.complete)(candidate.tenant, month);
            let labels = from..self.labels.len();
            self.rows.push(Row { labels, end_s, complete, month: month.clone(), trend, claim_s });
        }
    }

    /// What was collected, as [`Exporter::write`] reports it.
    pub fn stats(&self) -> ExportStats {
        self.stats
    }

    /// Appends the series to `out`. Writes nothing before the first
    /// [`Exporter::collect`].
    pub fn write(&self, format: Format, out: &mut Vec<u8>) -> ExportStats {
        if self.collected {
            let mut text = Text { out, format, integer: itoa::Buffer::new(), float: ryu::Buffer::new() };
            self.write_tenants(&mut text);
            self.write_trends(&mut text);
            self.write_money(&mut text);
            self.write_fleet(&mut text);
        }
        self.stats
    }

    fn write_tenants(&self, text: &mut Text<'_>) {
        self.family(text, names::AVAILABILITY, |text, labels, row| {
            text.ratio(names::AVAILABILITY, labels, &[], row.month.availability().ratio());
        });
        self.family(text, names::AVAILABILITY_WORST_CASE, |text, labels, row| {
            text.ratio(names::AVAILABILITY_WORST_CASE, labels, &[], row.month.worst_case().ratio());
        });
        self.family(text, names::CALLS, |text, labels, row| text.calls(names::CALLS, labels, &row.month.figures));
        self.family(text, names::FAILURES_EXCLUDED, |text, labels, row| {
            for (clause, calls) in row.month.figures.excluded() {
                text.unsigned(names::FAILURES_EXCLUDED, labels, &[",clause=\"", &clause.to_string(), "\""], *calls);
            }
        });
        self.family(text, names::FAILURES, |text, labels, row| {
            for failing in &row.month.top_failing {
                let mut more = String::from(",action=\"");
                escape_label(&mut more, &failing.action);
                more.push_str("\",code=\"");
                escape_label(&mut more, failing.code.as_deref().unwrap_or(""));
                more.push('"');
                text.unsigned(names::FAILURES, labels, &[&more], failing.failures);
            }
        });
        let mut tiers = TierLabels::default();
        self.family(text, names::FAILURES_LEFT, |text, labels, row| {
            for (tier, label) in row.month.policy.tiers.iter().zip(tiers.of(&row.month.policy)) {
                let left = row.month.availability().failures_left(tier.below);
                text.signed(names::FAILURES_LEFT, labels, &[label], left);
            }
        });
        self.family(text, names::TIER_THRESHOLD, |text, labels, row| {
            for (tier, label) in row.month.policy.tiers.iter().zip(tiers.of(&row.month.policy)) {
                text.ratio(names::TIER_THRESHOLD, labels, &[label], Some(ratio(tier.below)));
            }
        });
        self.family(text, names::BUDGET_CONSUMED, |text, labels, row| {
            let consumed = row.month.availability().consumed_ratio(row.month.policy.target());
            text.ratio(names::BUDGET_CONSUMED, labels, &[], consumed);
        });
        self.family(text, names::COMPENSATION, |text, labels, row| {
            let rate = row.month.tier().map_or(0.0, |tier| ratio(tier.rate));
            text.ratio(names::COMPENSATION, labels, &[], Some(rate));
        });
        self.family(text, names::CALLS_TO_RECOVER, |text, labels, row| {
            for (tier, label) in row.month.policy.tiers.iter().zip(tiers.of(&row.month.policy)) {
                if let Some(calls) = row.month.availability().calls_to_recover(tier.below) {
                    text.unsigned(names::CALLS_TO_RECOVER, labels, &[label], calls);
                }
            }
        });
        self.family(text, names::MONTH_END, |text, labels, row| text.signed(names::MONTH_END, labels, &[], row.end_s));
        self.family(text, names::MONTH_COMPLETE, |text, labels, row| {
            text.unsigned(names::MONTH_COMPLETE, labels, &[], row.complete.into());
        });
    }

    fn write_trends(&self, text: &mut Text<'_>) {
        self.family(text, names::BURN_RATE, |text, labels, row| {
            let Some(outlook) = &row.trend.outlook else { return };
            for (label, window) in Windows::LABELS.iter().zip(row.trend.windows.all()) {
                let rate = burn_rate(window, outlook.sustainable);
                text.ratio(names::BURN_RATE, labels, &[",window=\"", label, "\""], rate);
            }
        });
        self.family(text, names::FORECAST_CALLS, |text, labels, row| {
            let Some(outlook) = &row.trend.outlook else { return };
            let calls = outlook.calls;
            for (bound, calls) in [("low", calls.low), ("expected", calls.expected), ("high", calls.high)] {
                text.unsigned(names::FORECAST_CALLS, labels, &[",bound=\"", bound, "\""], calls);
            }
        });
        let mut tiers = TierLabels::default();
        self.family(text, names::FORECAST_ALLOWED, |text, labels, row| {
            let Some(outlook) = &row.trend.outlook else { return };
            for (allowed, label) in outlook.allowed.iter().zip(tiers.of(&row.month.policy)) {
                text.signed(names::FORECAST_ALLOWED, labels, &[label], *allowed);
            }
        });
        self.family(text, names::FORECAST_AVAILABILITY, |text, labels, row| {
            let at_end = row.trend.outlook.as_ref().and_then(|outlook| outlook.at_end.ratio());
            text.ratio(names::FORECAST_AVAILABILITY, labels, &[], at_end);
        });
        self.family(text, names::FORECAST_TIER, |text, labels, row| {
            let Some(outlook) = &row.trend.outlook else { return };
            for (at_ms, label) in outlook.reached_at_ms.iter().zip(tiers.of(&row.month.policy)) {
                if let Some(at_ms) = at_ms {
                    text.signed(names::FORECAST_TIER, labels, &[label], at_ms.div_euclid(1000));
                }
            }
        });
        self.family(text, names::FORECAST_AMOUNT, |text, labels, row| {
            if let (Some(outlook), Some(money)) = (&row.trend.outlook, &row.month.money)
                && let Some(minor) = row.month.payout_at(outlook.at_end)
            {
                text.money(names::FORECAST_AMOUNT, labels, money.currency(), minor);
            }
        });
    }

    fn write_money(&self, text: &mut Text<'_>) {
        self.family(text, names::COMPENSATION_AMOUNT, |text, labels, row| {
            if let Some(money) = &row.month.money {
                text.money(names::COMPENSATION_AMOUNT, labels, money.currency(), money.payout.payout_minor);
            }
        });
        self.family(text, names::COMPENSATION_NEXT, |text, labels, row| {
            if let Some(money) = &row.month.money
                && let Some(next) = money.next_payout
            {
                text.money(names::COMPENSATION_NEXT, labels, money.currency(), next.payout_minor);
            }
        });
        self.family(text, names::CLAIM_OPENS, |text, labels, row| {
            if let Some((Some(opens), _)) = row.claim_s {
                text.signed(names::CLAIM_OPENS, labels, &[], opens);
            }
        });
        self.family(text, names::CLAIM_CLOSES, |text, labels, row| {
            if let Some((_, closes)) = row.claim_s {
                text.signed(names::CLAIM_CLOSES, labels, &[], closes);
            }
        });
    }

    /// One family: its header, then `line` for every row. No header without rows.
    fn family(&self, text: &mut Text<'_>, metric: Metric, mut line: impl FnMut(&mut Text<'_>, &str, &Row)) {
        text.family(metric, |text| {
            for row in &self.rows {
                line(text, &self.labels[row.labels.clone()], row);
            }
        });
    }

    fn write_fleet(&self, text: &mut Text<'_>) {
        write_header(text.out, names::TENANTS, text.format);
        for level in Level::ALL {
            text.unsigned(names::TENANTS, "", &["state=\"", level.as_str(), "\""], self.states[level as usize]);
        }
        text.family(names::CALENDAR_MISSING, |text| {
            for (policy, year) in &self.calendar_missing {
                let mut label = String::from("policy=\"");
                escape_label(&mut label, policy);
                text.unsigned(names::CALENDAR_MISSING, "", &[&label, "\",year=\"", &year.to_string(), "\""], 1);
            }
        });
        let months: Vec<_> = self.fleet.iter().map(|(month, fleet)| (format!("month=\"{month}\""), fleet)).collect();
        let mut each = |metric: Metric, line: &dyn Fn(&mut Text<'_>, &str, &Fleet)| {
            text.family(metric, |text| months.iter().for_each(|(labels, fleet)| line(text, labels, fleet)));
        };
        each(names::FLEET_CALLS, &|text, labels, fleet| text.calls(names::FLEET_CALLS, labels, &fleet.figures));
        each(names::FLEET_EXCLUDED, &|text, labels, fleet| {
            for (clause, calls) in fleet.figures.excluded() {
                text.unsigned(names::FLEET_EXCLUDED, labels, &[",clause=\"", &clause.to_string(), "\""], *calls);
            }
        });
        each(names::FLEET_AVAILABILITY, &|text, labels, fleet| {
            text.ratio(names::FLEET_AVAILABILITY, labels, &[], fleet.availability().ratio());
        });
        each(names::FLEET_COMPENSATION, &|text, labels, fleet| {
            for (currency, money) in &fleet.money {
                text.money(names::FLEET_COMPENSATION, labels, *currency, money.owed);
            }
        });
        let more = |month: Month, currency| self.fleet_forecast.get(&(month, currency)).copied().unwrap_or(0);
        text.family(names::FLEET_FORECAST_AMOUNT, |text| {
            for (month, fleet) in &self.fleet {
                let labels = format!("month=\"{month}\"");
                for (currency, money) in &fleet.money {
                    let then = money.owed + more(*month, *currency);
                    text.money(names::FLEET_FORECAST_AMOUNT, &labels, *currency, then);
                }
            }
        });
        let mut each = |metric: Metric, line: &dyn Fn(&mut Text<'_>, &str, &Fleet)| {
            text.family(metric, |text| months.iter().for_each(|(labels, fleet)| line(text, labels, fleet)));
        };
        each(names::FLEET_COMPENSATION_NEXT, &|text, labels, fleet| {
            for (currency, money) in &fleet.money {
                text.money(names::FLEET_COMPENSATION_NEXT, labels, *currency, money.next);
            }
        });
    }
}

/// The labels of a policy's tiers, escaped once.
#[derive(Default)]
struct TierLabels {
    policy: Option<Arc<Policy>>,
    labels: Vec<String>,
}

impl TierLabels {
    fn of(&mut self, policy: &Arc<Policy>) -> impl Iterator<Item = &str> {
        if !self.policy.as_ref().is_some_and(|known| Arc::ptr_eq(known, policy)) {
            self.policy = Some(policy.clone());
            let label = |name: &str| {
                let mut label = String::from(",tier=\"");
                escape_label(&mut label, name);
                label.push('"');
                label
            };
            self.labels = policy.tiers.iter().map(|tier| label(&tier.name)).collect();
        }
        self.labels.iter().map(String::as_str)
    }
}

impl Rank {
    fn new(months: &[ServiceMonth], allowed: bool) -> Self {
        let rates = months.iter().filter_map(ServiceMonth::tier).map(|tier| tier.rate.parts());
        let levels = months.iter().map(ServiceMonth::level).filter(|level| *level >= Level::Warn50);
        let at_stake = |month: &ServiceMonth| {
            month.money.map_or(0, |m| m.payout.payout_minor + m.next_payout.map_or(0, |next| next.payout_minor))
        };
        Self {
            rate: rates.max().unwrap_or(0),
            at_risk: levels.max(),
            allowed,
            top: false,
            at_stake: months.iter().map(at_stake).max().unwrap_or(0),
            calls: months.iter().map(|month| month.figures.total()).sum(),
        }
    }
}

/// Marks the tenants with most money at stake; among equals those with most calls, then by name.
fn mark_top(candidates: &mut [Candidate<'_>], top: usize) {
    let by_money = |a: &Candidate<'_>, b: &Candidate<'_>| {
        (b.rank.at_stake, b.rank.calls).cmp(&(a.rank.at_stake, a.rank.calls)).then_with(|| a.tenant.cmp(b.tenant))
    };
    let top = top.min(candidates.len());
    if let Some(last) = top.checked_sub(1) {
        candidates.select_nth_unstable_by(last, by_money);
    }
    candidates[..top].iter_mut().for_each(|c| c.rank.top = true);
}

fn ratio(parts: Ppm) -> f64 {
    f64::from(parts.parts()) / 1e6
}

/// The text being written. Lines go out as byte copies: formatting machinery would take most of the time.
struct Text<'a> {
    out: &'a mut Vec<u8>,
    format: Format,
    integer: itoa::Buffer,
    float: ryu::Buffer,
}

impl Text<'_> {
    /// One family: its header, then what `lines` writes; nothing at all without a line.
    fn family(&mut self, metric: Metric, lines: impl FnOnce(&mut Self)) {
        let begin = self.out.len();
        write_header(self.out, metric, self.format);
        let header = self.out.len();
        lines(self);
        if self.out.len() == header {
            self.out.truncate(begin);
        }
    }

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
    fn ratio(&mut self, metric: Metric, labels: &str, more: &[&str], value: Option<f64>) {
        let Some(value) = value else { return };
        self.line(metric, labels, more, |_, float, out| out.extend_from_slice(float.format(value).as_bytes()));
    }

    /// An amount in the currency's own unit: yuan, not fen.
    fn money(&mut self, metric: Metric, labels: &str, currency: Currency, minor: i64) {
        let code = currency.to_string();
        self.ratio(metric, labels, &[",currency=\"", &code, "\""], Some(currency.major(minor)));
    }

    fn calls(&mut self, metric: Metric, labels: &str, figures: &Figures) {
        let (failed, excluded) = (figures.failed(), figures.excluded_total());
        for (result, calls) in [
            (",result=\"good\"", figures.total() - failed - excluded),
            (",result=\"failed\"", failed),
            (",result=\"excluded\"", excluded),
        ] {
            self.unsigned(metric, labels, &[result], calls);
        }
    }
}

/// Appends a label's value, escaped as the text exposition format says: backslash, double quote and line feed. Other
/// characters that are unsafe for a terminal are escaped first, such as `\u{1b}` (see [`visible_name`]: different names
/// stay different).
pub fn escape_label(out: &mut String, value: &str) {
    let value = visible_name(value);
    let mut rest = &*value;
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
