//! The days of a service month: what was counted on each, how the month stood at its end, which notices and rulings
//! apply, and where the month is heading.

use std::collections::BTreeMap;

use serde::Serialize;

use super::course::Course;
use crate::domain::availability::{Availability, FlooredPercent};
use crate::domain::calendar::{LocalClock, LocalDay, day_start_ms};
use crate::domain::documents::{Notice, Ruling, Scope};
use crate::domain::forecast::{Outlook, burn_rate};
use crate::domain::rulebook::TenantRules;
use crate::domain::standing::{Figures, ServiceMonth};
use crate::http::answer::ask::{Asked, Problem};
use crate::http::answer::{Reading, instant};
use crate::pipeline::trend::Trend;

#[derive(Debug, Serialize)]
pub struct DaysOfMonth {
    pub tenant: String,
    pub month: String,
    pub period_start: String,
    pub last_day: String,
    pub ledger_as_of: Option<String>,
    pub target_pct: String,
    pub tiers: Vec<TierLine>,
    /// From the first day to today, or to the last one.
    pub days: Vec<Day>,
    /// Notices and rulings that apply to the tenant on days of the month.
    pub marks: Vec<Mark>,
    /// Null: the month is over, or there is too little data.
    pub forecast: Option<Forecast>,
}

#[derive(Debug, Serialize)]
pub struct TierLine {
    pub tier: String,
    pub below_pct: String,
    pub rate_pct: String,
}

#[derive(Debug, Serialize)]
pub struct Day {
    pub day: String,
    pub calls: u64,
    /// Before exclusions.
    pub failed_raw: u64,
    pub excluded: BTreeMap<String, u64>,
    /// Failures that count.
    pub failed: u64,
    pub suspect_5_7: u64,
    /// Of the day alone; null: without calls.
    pub availability_pct: Option<String>,
    pub calls_so_far: u64,
    pub failed_so_far: u64,
    /// Of the month up to the end of the day.
    pub availability_so_far_pct: Option<String>,
    /// Of the error budget of the calls so far.
    pub consumed_so_far_pct: Option<String>,
    /// Of the error budget that the whole month is expected to have; null: unknown.
    pub month_budget_used_pct: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct Mark {
    /// `notice` or `ruling`
    pub kind: &'static str,
    pub id: String,
    pub clause: Option<String>,
    /// Of a ruling.
    pub decision: Option<&'static str>,
    /// Of a ruling.
    pub reason: Option<String>,
    /// Days of the month.
    pub from_day: String,
    pub to_day: String,
}

/// The month at its end, if calls keep failing at the rate of the last hour.
#[derive(Debug, Serialize)]
pub struct Forecast {
    /// Calls of the month, one time in ten less.
    pub calls_low: u64,
    pub calls_expected: u64,
    /// One time in ten more.
    pub calls_high: u64,
    /// Failures that the target allows at the expected calls.
    pub allowed: u64,
    pub failed_at_end: u64,
    pub availability_at_end_pct: Option<String>,
    pub tier_at_end: String,
    /// Null: no bill is known.
    pub owed_at_end_minor: Option<i64>,
    /// The share of the month's budget used at its end, with any number of calls from `calls_low` to `calls_high`: the
    /// least. The failures to come are in proportion to the calls to come.
    pub used_low_pct: Option<String>,
    pub used_expected_pct: Option<String>,
    /// The greatest.
    pub used_high_pct: Option<String>,
    /// When each tier is reached; only those that are.
    pub reached_at: BTreeMap<String, String>,
    /// How many times faster than the rest of the month bears; null: unknown.
    pub burn_rate_1h: Option<String>,
    pub burn_rate_6h: Option<String>,
}

/// `/tenants/{tenant}/months/{month}/days`
pub fn list(api: &Reading, asked: &Asked) -> Result<DaysOfMonth, Problem> {
    Ok(of(api, &Course::find(api, asked)?))
}

/// The days of a month.
pub fn of(api: &Reading, course: &Course) -> DaysOfMonth {
    let Course { tenant, month, by_day, trend, .. } = course;
    let outlook = trend.as_ref().and_then(|trend| trend.outlook.as_ref());
    let zone = month.policy.time_zone;
    let today = LocalClock::new(zone).day(api.now_ms());
    let is_over = today > month.period.last;
    // The calls that the month's budget is a share of.
    let calls = if is_over { Some(month.availability().total) } else { outlook.map(|outlook| outlook.calls.expected) };
    let counted_to = by_day.keys().next_back().copied().unwrap_or(today);
    let to = today.max(counted_to).min(month.period.last);
    let rules = tenant.contract.rulebook.tenant(&tenant.name);
    let tiers = month.policy.tiers.iter();
    DaysOfMonth {
        tenant: tenant.name.to_string(),
        month: month.label(),
        period_start: month.period.first.to_string(),
        last_day: month.period.last.to_string(),
        ledger_as_of: api.ledger_as_of(),
        target_pct: month.policy.target().to_string(),
        tiers: tiers
            .map(|tier| TierLine {
                tier: tier.name.clone(),
                below_pct: tier.below.to_string(),
                rate_pct: tier.rate.to_string(),
            })
            .collect(),
        days: days(month, to, by_day, calls),
        marks: marks(month, &rules),
        forecast: trend.as_ref().zip(outlook).map(|(trend, outlook)| Forecast::of(month, trend, outlook)),
    }
}

/// The days from the first one up to `to`, those without calls included.
fn days(month: &ServiceMonth, to: LocalDay, by_day: &BTreeMap<LocalDay, Figures>, calls: Option<u64>) -> Vec<Day> {
    let policy = &month.policy;
    let rule = policy.exclusions.denominator;
    let percent = |availability: Availability| availability.percent().map(|percent| percent.to_string());
    let mut so_far = Figures::default();
    let none = Figures::default();
    let day = |day: LocalDay| {
        let figures = by_day.get(&day).unwrap_or(&none);
        so_far.merge(figures);
        let availability = so_far.availability(rule);
        Day {
            day: day.to_string(),
            calls: figures.total(),
            failed_raw: figures.failed_raw(),
            excluded: figures.excluded().iter().map(|(clause, calls)| (clause.to_string(), *calls)).collect(),
            failed: figures.failed(),
            suspect_5_7: figures.suspect,
            availability_pct: percent(figures.availability(rule)),
            calls_so_far: so_far.total(),
            failed_so_far: so_far.failed(),
            availability_so_far_pct: percent(availability),
            consumed_so_far_pct: consumed(availability, month),
            month_budget_used_pct: calls
                .and_then(|calls| consumed(Availability { total: calls, failed: so_far.failed() }, month)),
        }
    };
    (month.period.first.0..=to.0).map(LocalDay).map(day).collect()
}

fn consumed(availability: Availability, month: &ServiceMonth) -> Option<String> {
    availability.consumed_percent(month.policy.target()).map(|percent| percent.to_string())
}

/// What applies on days of the month.
fn marks(month: &ServiceMonth, rules: &TenantRules) -> Vec<Mark> {
    let notices = rules.notices.iter().filter_map(|notice| {
        let Notice { id, clause, start_ms, end_ms, .. } = &**notice;
        let (from_day, to_day) = within(month, Some(*start_ms), Some(*end_ms))?;
        let (id, clause) = (id.clone(), Some(clause.to_string()));
        Some(Mark { kind: "notice", id, clause, decision: None, reason: None, from_day, to_day })
    });
    let rulings = rules.rulings.iter().filter_map(|ruling| {
        let Ruling { id, reason, verdict, .. } = &**ruling;
        let (from_day, to_day) = match verdict.scope()? {
            Scope::Calls { day, .. } if month.period.contains(*day) => (day.to_string(), day.to_string()),
            Scope::Calls { .. } => return None,
            Scope::Range { from_ms, to_ms, .. } => within(month, *from_ms, *to_ms)?,
        };
        Some(Mark {
            kind: "ruling",
            id: id.clone(),
            clause: verdict.clause().map(|clause| clause.to_string()),
            decision: Some(verdict.as_str()),
            reason: Some(reason.clone()),
            from_day,
            to_day,
        })
    });
    notices.chain(rulings).collect()
}

/// The first and the last day of the month that an interval touches; `None`: it touches none.
fn within(month: &ServiceMonth, from_ms: Option<i64>, to_ms: Option<i64>) -> Option<(String, String)> {
    let zone = month.policy.time_zone;
    let mut clock = LocalClock::new(zone);
    let (first, last) = (month.period.first, month.period.last);
    let begins = from_ms.unwrap_or(i64::MIN).max(day_start_ms(zone, first));
    let ends = to_ms.unwrap_or(i64::MAX).min(day_start_ms(zone, month.period.next_day()));
    (begins < ends).then(|| (clock.day(begins).max(first).to_string(), clock.day(ends - 1).min(last).to_string()))
}

impl Forecast {
    fn of(month: &ServiceMonth, trend: &Trend, outlook: &Outlook) -> Self {
        let so_far = month.availability();
        let at_end = outlook.at_end;
        let target = month.policy.target();
        let end_with = |calls: u64| {
            // The failures to come, in proportion to the calls to come.
            let (coming, expected) = (calls.saturating_sub(so_far.total), at_end.total.saturating_sub(so_far.total));
            let failing = u128::from(at_end.failed.saturating_sub(so_far.failed)) * u128::from(coming);
            let failing = failing.checked_div(u128::from(expected)).and_then(|failing| u64::try_from(failing).ok());
            Availability { total: calls, failed: so_far.failed.saturating_add(failing.unwrap_or_default()) }
        };
        let burn = |window| burn_rate(window, outlook.sustainable).map(|rate| format!("{rate:.2}"));
        let tiers = month.policy.tiers.iter().zip(&outlook.reached_at_ms);
        // More calls dilute earlier failures, but make the month worse if they fail more often. The share only rises or
        // only falls with the calls, so its extremes are at the ends.
        let ends = [end_with(outlook.calls.low), at_end, end_with(outlook.calls.high)];
        let used = ends.map(|end| end.consumed_percent(target));
        let shown = |share: Option<FlooredPercent>| share.map(|percent| percent.to_string());
        Self {
            calls_low: outlook.calls.low,
            calls_expected: outlook.calls.expected,
            calls_high: outlook.calls.high,
            allowed: Availability { total: outlook.calls.expected, failed: 0 }.failures_left(target).unsigned_abs(),
            failed_at_end: at_end.failed,
            availability_at_end_pct: at_end.percent().map(|percent| percent.to_string()),
            tier_at_end: tier(month, at_end),
            owed_at_end_minor: month.payout_at(at_end),
            used_low_pct: shown(used.into_iter().min().flatten()),
            used_expected_pct: shown(used[1]),
            used_high_pct: shown(used.into_iter().max().flatten()),
            reached_at: tiers.filter_map(|(tier, at)| Some((tier.name.clone(), instant((*at)?)?))).collect(),
            burn_rate_1h: burn(trend.windows.hour),
            burn_rate_6h: burn(trend.windows.six_hours),
        }
    }
}

/// The name of the tier that an availability is in; `none`, or `no_traffic`.
pub fn tier(month: &ServiceMonth, availability: Availability) -> String {
    match month.policy.tier(availability) {
        _ if availability.total == 0 => "no_traffic".into(),
        Some(tier) => tier.name.clone(),
        None => "none".into(),
    }
}
