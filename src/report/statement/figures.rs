//! The figures of a standing as a statement holds them: read back from its JSON, which may be older or newer than this
//! program. What every statement has is required; later additions have a default.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::evidence::Evidence;
use super::terms::Terms;
use crate::domain::availability::Availability;
use crate::domain::policy::Clause;

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Figures {
    pub tenant: String,
    pub month: String,
    pub period_start: String,
    pub last_day: String,
    pub registration: String,
    pub state: String,
    pub complete: bool,
    pub incomplete_reasons: Vec<String>,
    #[serde(default)]
    pub uncounted: BTreeMap<String, u64>,
    #[serde(default)]
    pub rejected: BTreeMap<String, u64>,
    #[serde(default)]
    pub remarks: Vec<String>,
    pub total: u64,
    pub denominator: u64,
    pub system_error_raw: u64,
    pub excluded: BTreeMap<String, u64>,
    pub failed: u64,
    #[serde(default)]
    pub suspect_5_7: u64,
    #[serde(default)]
    pub unitemised: u64,
    #[serde(default)]
    pub unreached: u64,
    #[serde(default)]
    pub unknown_request_ids: u64,
    #[serde(default)]
    pub split: bool,
    #[serde(default)]
    pub unbound: u64,
    #[serde(default)]
    pub classes: BTreeMap<String, u64>,
    pub availability_pct: Option<String>,
    pub availability_pct_raw: Option<String>,
    pub availability_pct_worst_case: Option<String>,
    pub tier: String,
    pub rate_pct: String,
    pub fee: Option<Fee>,
    pub compensation: Option<Compensation>,
    pub claim: Option<Claim>,
    pub policy: PolicyRef,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Fee {
    pub currency: String,
    pub gross_minor: i64,
    pub cash_minor: i64,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Compensation {
    pub raw_minor: i64,
    pub cap_left_minor: i64,
    pub payout_minor: i64,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Claim {
    pub opens: Option<String>,
    pub last_day: String,
    pub calendar: String,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct PolicyRef {
    pub id: String,
    pub effective_from: String,
    pub revision: u32,
    pub sha256: Option<String>,
}

/// The order in which changed figures are listed; exclusions follow the failures they are taken from.
const ORDER: [&str; 17] = [
    "last_day",
    "complete",
    "total",
    "denominator",
    "system_error_raw",
    "excluded",
    "failed",
    "tier",
    "rate_pct",
    "fee.currency",
    "fee.gross_minor",
    "fee.cash_minor",
    "compensation.raw_minor",
    "compensation.payout_minor",
    "claim.opens",
    "claim.last_day",
    "registration",
];

/// The position of a changed figure in the list, exclusions among themselves by clause.
pub(super) fn rank(field: &str) -> (usize, Option<Clause>) {
    let clause = field.strip_prefix("excluded.");
    let name = if clause.is_some() { "excluded" } else { field };
    let place = ORDER.iter().position(|f| *f == name).unwrap_or(ORDER.len());
    (place, clause.and_then(|c| c.parse().ok()))
}

impl Figures {
    /// What the statement is about.
    pub fn subject(&self) -> String {
        format!("{} from {}", self.tenant.escape_debug(), self.period_start)
    }

    /// The figures that make the result: if they do not change, a statement stays valid.
    pub fn result(&self) -> Map<String, Value> {
        let mut result = Map::new();
        let mut put = |field: &str, value: Value| _ = result.insert(field.into(), value);
        put("last_day", json!(self.last_day));
        put("complete", json!(self.complete));
        put("total", json!(self.total));
        put("denominator", json!(self.denominator));
        put("system_error_raw", json!(self.system_error_raw));
        for (clause, calls) in &self.excluded {
            put(&format!("excluded.{clause}"), json!(calls));
        }
        put("failed", json!(self.failed));
        for (reason, calls) in &self.uncounted {
            put(&format!("uncounted.{reason}"), json!(calls));
        }
        put("tier", json!(self.tier));
        put("rate_pct", json!(self.rate_pct));
        put("registration", json!(self.registration));
        if let Some(fee) = &self.fee {
            put("fee.currency", json!(fee.currency));
            put("fee.gross_minor", json!(fee.gross_minor));
            put("fee.cash_minor", json!(fee.cash_minor));
        }
        if let Some(compensation) = &self.compensation {
            put("compensation.raw_minor", json!(compensation.raw_minor));
            put("compensation.payout_minor", json!(compensation.payout_minor));
        }
        if let Some(claim) = &self.claim {
            put("claim.opens", json!(claim.opens));
            put("claim.last_day", json!(claim.last_day));
        }
        result
    }

    /// Calls and failures that the tier is judged by.
    pub fn availability(&self) -> Availability {
        Availability { total: self.denominator, failed: self.failed }
    }

    /// The same if this clause excluded nothing.
    pub fn without_exclusion(&self, terms: &Terms, calls: u64) -> Availability {
        let back = if terms.denominator == "drop" { calls } else { 0 };
        Availability { total: self.denominator.saturating_add(back), failed: self.failed.saturating_add(calls) }
    }

    /// Exclusions in the order of the contract.
    pub fn exclusions(&self) -> Vec<(&str, u64)> {
        let mut list: Vec<_> = self.excluded.iter().map(|(clause, calls)| (&**clause, *calls)).collect();
        list.sort_by_key(|(clause, _)| (clause.parse::<Clause>().ok(), *clause));
        list
    }

    /// Figures that do not follow from those they should follow from.
    pub fn contradictions(&self, terms: &Terms, evidence: &Evidence) -> Vec<String> {
        let mut found = Vec::new();
        let mut must = |holds: bool, said: &dyn Fn() -> String| {
            if !holds {
                found.push(said());
            }
        };
        let excluded = self.excluded.values().fold(0u64, |sum, calls| sum.saturating_add(*calls));
        must(self.failed.saturating_add(excluded) == self.system_error_raw, &|| {
            format!("{} failures less {excluded} excluded are not {}", self.system_error_raw, self.failed)
        });
        let dropped = if terms.denominator == "drop" { excluded } else { 0 };
        must(self.denominator.saturating_add(dropped) == self.total, &|| {
            format!("the denominator {} does not follow from {} calls", self.denominator, self.total)
        });
        must(evidence.failing_calls == self.system_error_raw, &|| {
            format!("the evidence has {} failing calls, the standing {}", evidence.failing_calls, self.system_error_raw)
        });
        must(evidence.excluded == self.excluded, &|| {
            format!("the evidence excludes {:?}, the standing {:?}", evidence.excluded, self.excluded)
        });
        let availability = self.availability();
        let percent = availability.percent().map(|p| p.to_string());
        must(percent == self.availability_pct, &|| {
            let said = |p: &Option<String>| p.clone().unwrap_or_else(|| "null".into());
            format!("the availability is {}, not {}", said(&percent), said(&self.availability_pct))
        });
        let tier = terms.tier(availability);
        let name = match tier {
            _ if availability.total == 0 => "no_traffic",
            Some(tier) => &tier.name,
            None => "none",
        };
        must(name == self.tier, &|| format!("the tier is {name}, not {}", self.tier));
        let rate = tier.map_or("0", |t| &t.rate_pct);
        must(rate == self.rate_pct, &|| format!("the rate is {rate} %, not {} %", self.rate_pct));
        if let (Some(_), Some(said)) = (&self.fee, &self.compensation) {
            let raw = terms.compensation(self, availability);
            must(raw == Some(said.raw_minor), &|| {
                format!("the compensation before caps is {raw:?} minor units, not {}", said.raw_minor)
            });
            let payout = terms.payout(self, availability);
            must(payout == Some(said.payout_minor), &|| {
                format!("the payout is {payout:?} minor units, not {}", said.payout_minor)
            });
        }
        found
    }
}
