//! What to generate: every choice, validated.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::catalog;
use super::schedule::DAY_MS;

/// A duplicate arrives at least this long before the first occurrence leaves the dedupe window, so that rounding inside
/// the counter cannot change its outcome.
pub const DEDUPE_MARGIN_MS: i64 = 60_000;
/// Events further in the future of their arrival than this are quarantined by the counter.
pub const FUTURE_LIMIT_MS: i64 = 300_000;
/// Tenants a plan may name.
pub const MAX_TENANTS: u32 = 10_000_000;

/// The mix of the stream. Each is a share (0–1) of the events it is drawn for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Shares {
    /// Of all events: repeats of an earlier call, within the dedupe window.
    pub duplicates: f64,
    /// Of the duplicates: those whose content differs from the first occurrence.
    pub conflicts: f64,
    /// Of the calls: minutes to days older than their arrival.
    pub late: f64,
    /// Of the calls: up to half a minute older than their arrival, or a few seconds ahead of it.
    pub out_of_order: f64,
    /// Of all events: malformed, every reason in turn.
    pub malformed: f64,
    /// Of all events: too far in the future or too old.
    pub quarantined: f64,
    /// Of the calls: wrapped as CloudEvents, half structured, half binary.
    pub cloudevents: f64,
    /// Of the calls: those that begin a burst of 5 to 12 calls of one tenant in one second.
    pub bursts: f64,
    /// Of the calls: faults of the caller (wrong numbers, throttled, not signed ...).
    pub caller_faults: f64,
    /// Of the calls: codes that only a person can judge.
    pub ambiguous: f64,
    /// Of the calls: `NoResponse`.
    pub no_response: f64,
    /// Of the calls: codes in no table.
    pub unknown: f64,
    /// Of the calls: a system error's code with `system_error: false`.
    pub cleared: f64,
    /// Of the calls: failures outside any incident.
    pub system_errors: f64,
}

impl Default for Shares {
    fn default() -> Self {
        Self {
            duplicates: 0.01,
            conflicts: 0.1,
            late: 0.01,
            out_of_order: 0.05,
            malformed: 0.001,
            quarantined: 0.001,
            cloudevents: 0.1,
            bursts: 0.002,
            caller_faults: 0.02,
            ambiguous: 0.002,
            no_response: 0.0005,
            unknown: 0.0001,
            cleared: 0.0002,
            system_errors: 0.0001,
        }
    }
}

impl Shares {
    fn named(&self) -> [(&'static str, f64); 14] {
        [
            ("duplicates", self.duplicates),
            ("conflicts", self.conflicts),
            ("late", self.late),
            ("out-of-order", self.out_of_order),
            ("malformed", self.malformed),
            ("quarantined", self.quarantined),
            ("cloudevents", self.cloudevents),
            ("bursts", self.bursts),
            ("caller-faults", self.caller_faults),
            ("ambiguous", self.ambiguous),
            ("no-response", self.no_response),
            ("unknown", self.unknown),
            ("cleared", self.cleared),
            ("system-errors", self.system_errors),
        ]
    }
}

/// A time in which calls fail with system errors.
///
/// As text `TENANT@START+DURATION=SHARE`, `*` for all tenants, START counted from the plan's start:
/// `acme@2h+30m=0.2` fails a fifth of acme's calls for half an hour.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Incident {
    /// Whose calls; `None` = all tenants'.
    pub tenant: Option<String>,
    /// From the start of the plan (of the live part, where there is one).
    pub starts_after_ms: i64,
    /// How long.
    pub lasts_ms: i64,
    /// Share of the calls that fail, 0–1.
    pub share: f64,
}

impl FromStr for Incident {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{text}` is not an incident: write TENANT@START+DURATION=SHARE, e.g. `acme@2h+30m=0.2`");
        let (tenant, rest) = text.rsplit_once('@').ok_or_else(wrong)?;
        let (start, rest) = rest.split_once('+').ok_or_else(wrong)?;
        let (length, share) = rest.split_once('=').ok_or_else(wrong)?;
        let span = |text: &str| -> Option<i64> {
            let span: Duration = if text == "0" { Duration::ZERO } else { humantime::parse_duration(text).ok()? };
            i64::try_from(span.as_millis()).ok()
        };
        let share: f64 = share.parse().map_err(|_| wrong())?;
        if tenant.is_empty() || !(0.0..=1.0).contains(&share) {
            return Err(wrong());
        }
        Ok(Self {
            tenant: (tenant != "*").then(|| tenant.to_owned()),
            starts_after_ms: span(start).ok_or_else(wrong)?,
            lasts_ms: span(length).ok_or_else(wrong)?,
            share,
        })
    }
}

impl TryFrom<String> for Incident {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for Incident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let span =
            |ms: i64| humantime::format_duration(Duration::from_millis(ms.unsigned_abs())).to_string().replace(' ', "");
        let tenant = self.tenant.as_deref().unwrap_or("*");
        write!(f, "{tenant}@{}+{}={}", span(self.starts_after_ms), span(self.lasts_ms), self.share)
    }
}

impl From<Incident> for String {
    fn from(incident: Incident) -> Self {
        incident.to_string()
    }
}

/// Where a tenant in trouble ends up, as far as its number of calls allows (from about 2,000 on).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trouble {
    /// More than half of the error budget used, less than 80 %.
    Above50,
    /// More than 80 % of the error budget used, less than all.
    Above80,
    /// Availability below 99.50 %: 10 %.
    Tier10,
    /// Availability below 99.00 %: 30 %.
    Tier30,
    /// Availability below 95.00 %: 50 %.
    Tier50,
}

impl Trouble {
    /// The order in which they are assigned to tenants in trouble.
    pub const ALL: [Self; 5] = [Self::Tier10, Self::Above80, Self::Tier30, Self::Above50, Self::Tier50];

    /// Failures per million calls it is steered to.
    pub fn failures_per_million(self) -> u64 {
        match self {
            Self::Above50 => 3_200,
            Self::Above80 => 4_500,
            Self::Tier10 => 7_500,
            Self::Tier30 => 25_000,
            Self::Tier50 => 70_000,
        }
    }
}

/// Everything a stream depends on: the same plan gives the same bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Plan {
    /// The seed of every draw.
    pub seed: u64,
    /// Makes request ids differ between streams of the same seed (live streams: their start).
    pub id_salt: u64,
    /// How many tenants call, 1–10,000,000.
    pub tenants: u32,
    /// The exponent of Zipf's law by which they call: 0 = all alike.
    pub zipf: f64,
    /// How many events the iterator gives.
    pub events: u64,
    /// First arrival, milliseconds since 1970-01-01T00:00:00Z.
    pub start_ms: i64,
    /// Events are spread over this long, milliseconds.
    pub duration_ms: i64,
    /// Busy days and quiet nights (Asia/Shanghai); otherwise an even rate.
    pub diurnal: bool,
    /// The mix of the stream.
    pub shares: Shares,
    /// Tenants steered to a level or tier of [`Trouble`]: the 2nd, 4th, 6th ... by rank, in the order of [`Trouble::ALL`].
    pub in_trouble: u32,
    /// Incidents at random times, on tenants not in trouble.
    pub random_incidents: u32,
    /// Further incidents.
    pub incidents: Vec<Incident>,
    /// The counter's dedupe window, milliseconds.
    pub dedupe_window_ms: i64,
    /// The counter's age limit, milliseconds.
    pub max_age_ms: i64,
    /// No call is later than this, milliseconds.
    pub late_max_ms: i64,
    /// Also events exactly at the limits of quarantine. Only where arrivals are the record timestamps to the millisecond.
    pub edges: bool,
    /// Events above 1 MiB, evenly spread. A topic's default limit refuses them.
    pub too_large: u32,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            seed: 1,
            id_salt: 0,
            tenants: 200,
            zipf: 1.0,
            events: 100_000,
            // 2026-03-01T00:00:00+08:00
            start_ms: 1_772_294_400_000,
            duration_ms: 31 * DAY_MS,
            diurnal: true,
            shares: Shares::default(),
            in_trouble: 5,
            random_incidents: 3,
            incidents: Vec::new(),
            dedupe_window_ms: 15 * 60_000,
            max_age_ms: 100 * DAY_MS,
            late_max_ms: 30 * DAY_MS,
            edges: true,
            too_large: 0,
        }
    }
}

/// What is wrong with a plan: every mistake at once.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct PlanError(pub Vec<String>);

impl Plan {
    /// Checks the ranges.
    ///
    /// # Errors
    /// Names every value that is out of range.
    pub fn validate(&self) -> Result<(), PlanError> {
        let mut wrong = Vec::new();
        for (name, share) in self.shares.named() {
            if !(0.0..=1.0).contains(&share) {
                wrong.push(format!("{name} is {share}, must be a share from 0 to 1"));
            }
        }
        let shares = &self.shares;
        if shares.duplicates + shares.malformed + shares.quarantined > 0.9 {
            wrong.push("duplicates, malformed and quarantined together must leave a tenth for calls".into());
        }
        if shares.late + shares.out_of_order > 1.0 {
            wrong.push("late and out-of-order together must not be above 1".into());
        }
        let kinds = [
            shares.caller_faults,
            shares.ambiguous,
            shares.no_response,
            shares.unknown,
            shares.cleared,
            shares.system_errors,
        ];
        if kinds.iter().sum::<f64>() > 1.0 {
            wrong.push("the shares of calls that do not go well must not be above 1 together".into());
        }
        let mut range = |name: &str, value: i64, low: i64, high: i64, unit: &str| {
            if !(low..=high).contains(&value) {
                wrong.push(format!("{name} is {value}{unit}, must be from {low} to {high}"));
            }
        };
        range("tenants", i64::from(self.tenants), 1, i64::from(MAX_TENANTS), "");
        // From 1992 on Asia/Shanghai is UTC+8; four-digit years have a fixed width.
        range("start", self.start_ms, 694_224_000_000, 200_000_000_000_000, " ms");
        range("duration", self.duration_ms, 1_000, 3_660 * DAY_MS, " ms");
        range("dedupe-window", self.dedupe_window_ms, 2 * DEDUPE_MARGIN_MS, 7 * DAY_MS, " ms");
        range("max-age", self.max_age_ms, DAY_MS, 3_660 * DAY_MS, " ms");
        range("late-max", self.late_max_ms, 60_000, self.max_age_ms, " ms");
        range("in-trouble", i64::from(self.in_trouble), 0, i64::from(self.tenants), "");
        if !(0.0..=10.0).contains(&self.zipf) {
            wrong.push(format!("zipf is {}, must be from 0 to 10", self.zipf));
        }
        for incident in &self.incidents {
            let known = incident
                .tenant
                .as_ref()
                .is_none_or(|name| (0..self.tenants).any(|rank| catalog::tenant_name(rank) == *name));
            if !known {
                wrong.push(format!("the incident `{incident}` names a tenant that is not generated"));
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(PlanError(wrong)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn incidents_read_back() {
        for text in ["acme@2h+30m=0.2", "*@0s+45s=1", "tenant-0040@1day+1h30m=0.05"] {
            let incident: Incident = text.parse().expect(text);
            assert_eq!(incident.to_string(), text);
        }
        for text in
            ["", "acme", "acme@2h", "acme@2h+30m", "acme@2h+30m=2", "@2h+30m=0.1", "acme@x+30m=0.1", "acme@2h+30m=NaN"]
        {
            assert!(text.parse::<Incident>().is_err(), "{text}");
        }
    }

    #[test]
    fn every_mistake_at_once() {
        let mut plan = Plan { tenants: 0, in_trouble: 0, ..Plan::default() };
        plan.shares.late = f64::NAN;
        plan.incidents = vec!["nobody@0+1h=0.1".parse().expect("incident")];
        let PlanError(wrong) = plan.validate().expect_err("plan");
        assert_eq!(wrong.len(), 3, "{wrong:?}");
        Plan::default().validate().expect("default plan");
    }
}
