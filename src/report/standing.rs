//! A standing as JSON, as every output shows it: replay, statement, API, alerts.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use crate::domain::codes::Class;
use crate::domain::documents::ClaimEvent;
use crate::domain::standing::{Completeness, ServiceMonth};

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
    /// Calls of the tenant's month that are in no figure, by reason; only reasons with a count. They make it incomplete.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub uncounted: BTreeMap<String, u64>,
    /// Records that were rejected while the month ran, by reason; their tenants are unknown. Only reasons with a count.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub rejected: BTreeMap<String, u64>,
    /// Documents about the tenant that do nothing in the month, calls that no order covers, and why. Only if there are any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
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
    /// Failures that the ledger does not itemise: no window, call rate or request id can touch them.
    pub unitemised: u64,
    /// Calls that are not itemised, of days that a ruling's interval cuts: the ruling does not reach them. Only if
    /// there are any.
    #[serde(skip_serializing_if = "is_zero")]
    pub unreached: u64,
    /// Request ids named by rulings that no itemised call has: the rulings do not reach them. Only if there are any.
    #[serde(skip_serializing_if = "is_zero")]
    pub unknown_request_ids: u64,
    /// The tenant's calls are in several partitions, so clause 5.7 can only be suspected.
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
    /// The same with every doubtful call counted as a failure.
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
    /// The next tier down; null = no lower tier, or no traffic.
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
    pub failures_left: Vec<(String, i64)>,
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
    /// Failures left before it applies.
    pub failures_left: i64,
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
    /// Null: the compiled-in one.
    pub sha256: Option<String>,
}

impl Standing {
    /// A service month as of `now_ms`. `known`: of the calls that its figures do not hold. `claims`: the tenant's, in the
    /// order they were recorded.
    pub fn of(
        tenant: &str,
        month: &ServiceMonth,
        now_ms: i64,
        known: Completeness,
        claims: &[std::sync::Arc<ClaimEvent>],
    ) -> Self {
        let (figures, policy) = (&month.figures, &month.policy);
        let availability = month.availability();
        let tier = month.tier();
        let percent = |a: crate::domain::availability::Availability| a.percent().map(|p| p.to_string());
        let (state, window) = month.claim(claims, now_ms);
        let tiers = policy.tiers.iter();
        let Completeness { reasons: mut incomplete, rejected, remarks } = known;
        incomplete.extend(month.uncounted.reasons());
        let uncounted = [("limit", month.uncounted.limit), ("too_old", month.uncounted.too_old)];
        let uncounted = uncounted.into_iter().filter(|(_, calls)| *calls > 0);
        Self {
            tenant: tenant.to_owned(),
            month: month.label(),
            period_start: month.period.first.to_string(),
            last_day: month.period.last.to_string(),
            registration: if month.registered { "registered" } else { "unregistered" },
            state: state.as_str(),
            complete: incomplete.is_empty(),
            incomplete_reasons: incomplete,
            uncounted: uncounted.map(|(reason, calls)| (reason.to_owned(), calls)).collect(),
            rejected,
            remarks,
            total: figures.total(),
            denominator: availability.total,
            system_error_raw: figures.failed_raw(),
            excluded: figures.excluded().iter().map(|(clause, calls)| (clause.to_string(), *calls)).collect(),
            failed: figures.failed(),
            suspect_5_7: figures.suspect,
            unitemised: figures.unitemised,
            unreached: month.unreached.calls,
            unknown_request_ids: month.unreached.request_ids,
            split: month.split,
            unbound: figures.unbound,
            classes: Class::ALL.iter().map(|c| (c.as_str(), figures.of(*c))).filter(|(_, n)| *n > 0).collect(),
            availability_pct: percent(availability),
            availability_pct_raw: percent(figures.availability_raw()),
            availability_pct_worst_case: percent(month.worst_case()),
            tier: match tier {
                _ if availability.total == 0 => "no_traffic".into(),
                Some(tier) => tier.name.clone(),
                None => "none".into(),
            },
            rate_pct: tier.map_or_else(|| "0".into(), |t| t.rate.to_string()),
            budget: Budget {
                consumed_pct: availability.consumed_percent(policy.target()).map(|p| p.to_string()),
                level: month.level().as_str(),
                failures_left: tiers.clone().map(|t| (t.name.clone(), availability.failures_left(t.below))).collect(),
                calls_to_recover: tiers.map(|t| (t.name.clone(), availability.calls_to_recover(t.below))).collect(),
            },
            fee: month.money.map(|money| Fee {
                currency: money.currency().to_string(),
                gross_minor: money.fee.gross_minor,
                cash_minor: money.fee.cash_minor,
            }),
            compensation: month.money.map(|money| Compensation {
                raw_minor: money.payout.raw_minor,
                cap_left_minor: money.payout.cap_left_minor,
                payout_minor: money.payout.payout_minor,
            }),
            next: month.next_tier().map(|next| NextTier {
                tier: next.name.clone(),
                rate_pct: next.rate.to_string(),
                failures_left: availability.failures_left(next.below),
                payout_minor: month.money.and_then(|m| m.next_payout).map(|p| p.payout_minor),
            }),
            claim: window.map(|window| Claim {
                opens: window.opens.map(|day| day.to_string()),
                last_day: window.last_day.to_string(),
                calendar: if window.opens.is_some() { "final" } else { "provisional" },
            }),
            policy: PolicyRef {
                id: policy.id.clone(),
                effective_from: policy.effective_from.to_string(),
                revision: policy.revision,
                sha256: policy.sha256.clone(),
            },
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks like this")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Pairs as a JSON object, in their order.
fn in_order<K: Serialize, V: Serialize, S: Serializer>(pairs: &[(K, V)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().map(|(key, value)| (key, value)))
}
