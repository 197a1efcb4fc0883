//! An alert as an event: CloudEvents 1.0, structured or binary, and its texts.
//!
//! The id is derived only from fingerprint, status and generation, so that an event that is written again after a crash
//! is recognized as a duplicate, whatever its standing says by then.

use chrono::{DateTime, SecondsFormat};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::standing::Standing;
use super::statement::canonical::hex;
use crate::domain::alert::{AlertKey, AlertName, AlertState, Reason, Status};
use crate::domain::calendar::LocalDay;
use crate::domain::money::{Currency, MonthFee, payout};
use crate::domain::policy::{Policy, Tier};
use crate::pipeline::book::STILL_RUNNING;
use crate::pipeline::shard::AlertMessage;
use crate::visible::visible;

/// The type of every event.
pub const TYPE: &str = "sla-ledger.alert.v1";
/// `subject` of an alert that is about no tenant.
const FLEET: &str = "fleet";
/// Where the runbook is, unless the configuration says otherwise: a file of this repository.
pub const RUNBOOK: &str = "deploy/runbook.md";

/// How an event is laid out in its Kafka record (CloudEvents, Kafka protocol binding).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// Everything in the value.
    #[default]
    Structured,
    /// The attributes in headers, `data` as the value.
    Binary,
}

/// Whose alerts these are, and how they are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    /// The ledger's name.
    pub ledger: String,
    /// Where the runbook is; the alert's name in lower case is appended as its anchor.
    pub runbook_url: String,
    /// How events are laid out.
    pub encoding: Encoding,
}

/// A service month as an alert shows it.
#[derive(Debug, Clone)]
pub struct Subject<'a> {
    /// What the figures are.
    pub standing: Standing,
    /// What they are judged by.
    pub policy: &'a Policy,
    /// When the tier of an [`AlertName::ForecastBreach`] is reached if the last hour goes on, in ms.
    pub reached_at_ms: Option<i64>,
}

impl Issuer {
    /// Identifies an alert: the same for all its events.
    pub fn fingerprint(&self, key: &AlertKey) -> String {
        let period = key.period_start.map(|day| day.to_string()).unwrap_or_default();
        let fields = [&*self.ledger, &*key.tenant, &*period, key.alert.as_str(), &*key.detail];
        hex(&Sha256::digest(joined(fields)))
    }

    /// The event's id.
    pub fn id(&self, key: &AlertKey, state: &AlertState) -> String {
        let fingerprint = self.fingerprint(key);
        hex(&Sha256::digest(format!("{fingerprint}|{}|{}", state.status, state.generation)))
    }

    /// The event, as it goes to the topic. `subject`: the service month; `None` for the fleet, and for a month that is
    /// no longer in the ledger. `now_ms`: when it is published.
    pub fn message(
        &self,
        key: &AlertKey,
        state: &AlertState,
        subject: Option<&Subject<'_>>,
        now_ms: i64,
    ) -> AlertMessage {
        let id = self.id(key, state);
        let (source, time) = (format!("/sla-ledger/{}", self.ledger), instant(now_ms));
        let about = match key.period_start {
            Some(day) => format!("{}/{day}", key.tenant),
            None => FLEET.to_owned(),
        };
        let data = self.data(key, state, subject);
        let bytes = |text: &str| text.as_bytes().to_vec();
        let header = |name: &str, value: &str| (name.to_owned(), bytes(value));
        let (headers, payload) = match self.encoding {
            Encoding::Structured => {
                let event = json!({
                    "specversion": "1.0", "id": id, "source": source, "type": TYPE, "subject": about, "time": time,
                    "datacontenttype": "application/json", "data": data,
                });
                (vec![header("content-type", "application/cloudevents+json; charset=UTF-8")], event.to_string())
            }
            Encoding::Binary => {
                let headers = vec![
                    header("ce_specversion", "1.0"),
                    header("ce_id", &id),
                    header("ce_source", &source),
                    header("ce_type", TYPE),
                    header("ce_subject", &about),
                    header("ce_time", &time),
                    header("content-type", "application/json"),
                ];
                (headers, data.to_string())
            }
        };
        let record_key = key.period_start.map(|_| bytes(&key.tenant));
        AlertMessage { key: record_key, payload: payload.into_bytes(), headers }
    }

    fn data(&self, key: &AlertKey, state: &AlertState, subject: Option<&Subject<'_>>) -> Value {
        let mut data = self.alert(key, state, subject);
        data["standing"] = json!(subject.map(|subject| &subject.standing));
        data
    }

    /// An alert in short: the event's data without the standing.
    pub fn alert(&self, key: &AlertKey, state: &AlertState, subject: Option<&Subject<'_>>) -> Value {
        let detail = Some(&*key.detail).filter(|detail| !detail.is_empty());
        let is_tier = matches!(key.alert, AlertName::TierReached | AlertName::ForecastBreach);
        let fleet = key.period_start.is_none();
        json!({
            "alert": key.alert.as_str(),
            "status": state.status.as_str(),
            "severity": state.severity.as_str(),
            "fingerprint": self.fingerprint(key),
            "generation": state.generation,
            "starts_at": instant(state.starts_at_ms),
            "ends_at": state.ends_at_ms.map(instant),
            "reason": state.reason.as_str(),
            "level": detail.filter(|_| !is_tier),
            "tier": detail.filter(|_| is_tier),
            "tenant": (!fleet).then_some(&*key.tenant),
            "month": subject.map(|subject| &subject.standing.month),
            "period_start": key.period_start.map(|day| day.to_string()),
            "grouped": state.grouped,
            "summary": visible(&summary(key, state, subject)),
            "description": visible(&description(key, state, subject)),
            "runbook_url": format!("{}#{}", self.runbook_url, key.alert.as_str().to_lowercase()),
        })
    }
}

/// The fields joined by bars; different fields never give the same text. If any field contains a bar, each is preceded
/// by its length in bytes and a space; as there are then more than four bars, it cannot be a join of plain fields.
fn joined(fields: [&str; 5]) -> String {
    match fields.iter().any(|field| field.contains('|')) {
        true => fields.map(|field| format!("{} {field}", field.len())).join("|"),
        false => fields.join("|"),
    }
}

fn instant(ms: i64) -> String {
    DateTime::from_timestamp_millis(ms).unwrap_or_default().to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// One sentence for a pager: who, what, how bad.
fn summary(key: &AlertKey, state: &AlertState, subject: Option<&Subject<'_>>) -> String {
    let resolved = state.status == Status::Resolved;
    let (tenant, detail) = (&key.tenant, &key.detail);
    let month = match (subject, key.period_start) {
        (Some(subject), _) => subject.standing.month.clone(),
        (None, Some(day)) => LocalDay::to_string(&day),
        (None, None) => String::new(),
    };
    let what = match key.alert {
        AlertName::BudgetConsumed => format!("{tenant} has used {detail} % of the error budget of {month}"),
        AlertName::TierReached => {
            let tier = subject.and_then(|subject| subject.policy.tiers.iter().find(|tier| tier.name == **detail));
            let terms = tier.map(|tier| format!(" ({} % of the fee, below {} %)", tier.rate, tier.below));
            format!("{tenant} is in tier {detail}{} in {month}", terms.unwrap_or_default())
        }
        AlertName::Recovered => format!("{tenant} meets the target of {month} again"),
        AlertName::BurnRateHigh => format!("{tenant} is using up the error budget of {month} too fast ({detail} burn)"),
        AlertName::ForecastBreach => {
            let when = subject.and_then(|subject| subject.reached_at_ms).map(|ms| format!(", at {}", instant(ms)));
            format!(
                "{tenant} will be in tier {detail} before {month} ends if the last hour goes on{}",
                when.unwrap_or_default()
            )
        }
        AlertName::ClaimOpens => format!("{tenant} can claim the compensation of {month}"),
        AlertName::ClaimCloses => format!("the claim of {tenant} for {month} closes within {detail} days"),
        AlertName::UnknownCode => format!("calls carry the code {detail:?}, which no policy classifies"),
        AlertName::CalendarMissing => format!("the calendar lacks the working days of {detail}"),
        AlertName::ManyTenantsAtRisk => "more than 100 tenants alert at once".to_owned(),
        AlertName::LedgerGap => format!("calls of shard {detail} were lost before they were counted"),
    };
    if resolved { format!("resolved: {what}") } else { what }
}

/// The cause, and what can be done.
fn description(key: &AlertKey, state: &AlertState, subject: Option<&Subject<'_>>) -> String {
    let why = match state.reason {
        Reason::LevelCrossed => "The use of the error budget has reached the level.",
        Reason::TierReached => "The availability is below the tier's threshold: money is owed.",
        Reason::MinCallsReached => "What was information so far has enough calls behind it now.",
        Reason::MonthEnded => "The service month is over.",
        Reason::TierSettled => "What is left of the month can neither worsen nor better the tier.",
        Reason::FellBelow => "It has fallen well below what is watched.",
        Reason::Corrected => "A late call or a document has changed the result.",
        Reason::TargetMetAgain => "The availability is at or above the target again.",
        Reason::TargetMissedAgain => "The availability is below the target again.",
        Reason::BurningFast => "Both windows fail far more often than the rest of the month can bear.",
        Reason::BudgetGone => "The budget is used up; from here on, see the tier's alert.",
        Reason::ForecastCrosses => "If the last hour goes on, the tier is reached before the month ends.",
        Reason::ClaimOpened => "The claim window is open.",
        Reason::ClaimClosesSoon => "The claim window closes soon and nothing was filed.",
        Reason::ClaimSettled => "The claim was filed, paid or rejected.",
        Reason::ClaimClosed => "The claim window has closed.",
        Reason::NothingOwed => "Nothing is owed any more.",
        Reason::CodeUnknown => {
            "Such calls count as no failure and lower the worst-case availability; give the code a class in the policy's \
             table."
        }
        Reason::CodeKnown => "The code has a class now, or is not seen any more.",
        Reason::YearMissing => {
            "Claim windows that need the year are provisional until it is added: sla-ledger calendar import."
        }
        Reason::YearKnown => "The calendar has the year now, or nothing needs it.",
        Reason::ManyTenants => {
            "Single alerts go to the alerts topic only while this lasts; look for a common cause, or lost telemetry."
        }
        Reason::FewTenants => "Fewer tenants alert; they are published one by one again.",
        Reason::CallsLost => {
            "The calls topic no longer held offsets that were not counted yet; the months concerned are marked incomplete."
        }
        Reason::GapIsOld => "A week has passed; the months concerned stay marked incomplete.",
        Reason::NoLongerWatched => {
            "The policy has no such level, tier or days any more, or the tenant no such service month."
        }
    };
    let Some(subject) = subject.filter(|_| key.period_start.is_some()) else { return why.to_owned() };
    let standing = &subject.standing;
    let availability = standing.availability_pct.as_deref().unwrap_or("no traffic");
    let mut text = format!(
        "{why} {} calls, {} failures that count ({} before exclusions), availability {availability} % (target {} %), \
         tier {}.",
        standing.total,
        standing.failed,
        standing.system_error_raw,
        subject.policy.target(),
        standing.tier,
    );
    let currency = standing.fee.as_ref().and_then(|fee| fee.currency.parse::<Currency>().ok());
    let money = |minor| currency.map(|currency| format!("{currency} {}", currency.format_minor(minor)));
    let tier = match key.alert {
        AlertName::TierReached | AlertName::ForecastBreach => {
            subject.policy.tiers.iter().find(|tier| tier.name == *key.detail)
        }
        _ => None,
    };
    if let Some(tier) = tier {
        // The alert is about this tier, whichever one the month is in.
        if let Some((name, left)) = standing.budget.failures_left.iter().find(|(name, _)| *name == tier.name) {
            text.push_str(&failures_left(name, *left));
        }
        if let Some(amount) = amount_in(tier, subject).and_then(money) {
            text.push_str(&format!(" Owed in {}: {amount}.", tier.name));
        }
    } else {
        if let Some(amount) = standing.compensation.as_ref().and_then(|owed| money(owed.payout_minor)) {
            text.push_str(&format!(" Owed now: {amount}."));
        }
        if let Some(next) = &standing.next {
            text.push_str(&failures_left(&next.tier, next.failures_left));
            if let Some(amount) = next.payout_minor.and_then(money) {
                text.push_str(&format!(" Owed in {}: {amount}.", next.tier));
            }
        }
    }
    let recover = standing.budget.calls_to_recover.iter().rfind(|(tier, _)| *tier == standing.tier);
    if let Some((tier, Some(calls))) = recover.filter(|(_, calls)| *calls != Some(0)) {
        text.push_str(&format!(" {calls} calls without a failure would leave {tier}."));
    }
    // That a running month is not over needs no words.
    let gaps = standing.incomplete_reasons.iter().filter(|reason| !reason.ends_with(STILL_RUNNING));
    let gaps: Vec<&str> = gaps.map(String::as_str).collect();
    if !gaps.is_empty() {
        text.push_str(&format!(" Incomplete: {}.", gaps.join(", ")));
    }
    text
}

/// How far a tier's limit is away, as a sentence.
fn failures_left(tier: &str, left: i64) -> String {
    let count = |failures: u64| if failures == 1 { "1 failure".to_owned() } else { format!("{failures} failures") };
    match left {
        0.. => format!(" {} left before {tier}.", count(left.unsigned_abs())),
        _ => format!(" {} over the limit of {tier}.", count(left.unsigned_abs())),
    }
}

/// What is owed in a tier, in minor units; `None`: no bill is known.
fn amount_in(tier: &Tier, subject: &Subject<'_>) -> Option<i64> {
    let (fee, owed) = (subject.standing.fee.as_ref()?, subject.standing.compensation.as_ref()?);
    let month =
        MonthFee { currency: fee.currency.parse().ok()?, gross_minor: fee.gross_minor, cash_minor: fee.cash_minor };
    let Policy { fee_base, rounding, .. } = subject.policy;
    Some(payout(tier.rate, &month, *fee_base, *rounding, owed.cap_left_minor).payout_minor)
}
