//! A standing as JSON, as every output shows it: replay, statement, API, alerts.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

/// One tenant's service month under the contract.
#[derive(Debug, Clone, Serialize)]
pub struct Standing {
    /// The tenant.
    pub tenant: String,
    /// `YYYY-MM` of the first day.
    pub month: String,
    /// First day of service.
    pub period_start: String,
    /// Last day of service.
    pub last_day: String,
    /// `registered` or `unregistered`.
    pub registration: &'static str,
    /// `running`, `ended`, and, once claims are known, what follows.
    pub state: &'static str,
    /// All its calls have been seen.
    pub complete: bool,
    /// Why not.
    pub incomplete_reasons: Vec<String>,
    /// T: all calls.
    pub total: u64,
    /// T as the policy has it after exclusions.
    pub denominator: u64,
    /// Failures before exclusions.
    pub system_error_raw: u64,
    /// Failures excluded, by clause; only clauses with a count.
    pub excluded: BTreeMap<String, u64>,
    /// U: failures that count.
    pub failed: u64,
    /// Failures that clause 5.7 might exclude; they count until a person decides.
    pub suspect_5_7: u64,
    /// Failures that the ledger does not hold one by one: no window, call rate or request id can touch them.
    pub unitemised: u64,
    /// The tenant's calls lie in several partitions: clause 5.7 can only suspect.
    pub split: bool,
    /// Calls of actions that are not bound.
    pub unbound: u64,
    /// Calls by class; only classes with a count.
    #[serde(serialize_with = "in_order")]
    pub classes: Vec<(&'static str, u64)>,
    /// A in percent, floored to four places; null without traffic.
    pub availability_pct: Option<String>,
    /// The same before exclusions.
    pub availability_pct_raw: Option<String>,
    /// The same with every doubtful call taken for a failure.
    pub availability_pct_worst_case: Option<String>,
    /// The tier's name, `none`, or `no_traffic`.
    pub tier: String,
    /// What the tier pays back, in percent of the fee.
    pub rate_pct: String,
    /// The error budget.
    pub budget: Budget,
    /// The month's fee; null = unknown.
    pub fee: Option<Fee>,
    /// What is owed; null = the fee is unknown.
    pub compensation: Option<Compensation>,
    /// The next tier down; null = there is none, or no traffic.
    pub next: Option<NextTier>,
    /// When it can be claimed; null = the tenant is not registered.
    pub claim: Option<Claim>,
    /// The policy it was judged by.
    pub policy: PolicyRef,
}

/// How much of the error budget is used.
#[derive(Debug, Clone, Serialize)]
pub struct Budget {
    /// U / (T × budget) in percent, floored to two places; null without traffic.
    pub consumed_pct: Option<String>,
    /// `no_traffic ok warn_50 warn_80 exhausted_100 breach`.
    pub level: &'static str,
    /// Failures left before each tier.
    #[serde(serialize_with = "in_order")]
    pub headroom: Vec<(String, i64)>,
    /// Clean calls needed to leave each tier; null = no number is enough.
    #[serde(serialize_with = "in_order")]
    pub calls_to_recover: Vec<(String, Option<u64>)>,
}

/// The month's fee, in minor units.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct Fee {
    pub currency: String,
    pub gross_minor: i64,
    pub cash_minor: i64,
}

/// What is owed, in minor units.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct Compensation {
    pub raw_minor: i64,
    pub cap_left_minor: i64,
    pub payout_minor: i64,
}

/// What one tier further down would mean.
#[derive(Debug, Clone, Serialize)]
pub struct NextTier {
    /// Its name.
    pub tier: String,
    /// What it pays back, in percent of the fee.
    pub rate_pct: String,
    /// Failures that can still happen before it applies.
    pub headroom: i64,
    /// What would be owed then, in minor units; null = the fee is unknown.
    pub payout_minor: Option<i64>,
}

/// When the compensation can be claimed.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct Claim {
    pub opens: Option<String>,
    pub last_day: String,
    pub calendar: &'static str,
}

/// The version of the policy.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct PolicyRef {
    pub id: String,
    pub effective_from: String,
    pub revision: u32,
    /// Null: the one compiled in.
    pub sha256: Option<String>,
}

/// Pairs as a JSON object, in their order.
fn in_order<K: Serialize, V: Serialize, S: Serializer>(pairs: &[(K, V)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().map(|(key, value)| (key, value)))
}
