//! The policy: one version of the contract, every choice of it a field. Applied when a number is read, never when calls
//! are counted.

use std::fmt;
use std::sync::Arc;

use chrono_tz::Tz;

use super::availability::{Availability, Ppm};
use super::calendar::LocalDay;
use super::codes::CodeMap;
use super::workdays::Workdays;

/// A clause of the contract, as `5.12`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Clause {
    /// The number before the dot.
    pub article: u16,
    /// The number after the dot.
    pub paragraph: u16,
}

impl Clause {
    /// Calls above 5 per second that were not declared.
    pub const CALL_RATE: Self = Self::new(5, 7);
    /// Products and functions on trial.
    pub const TRIAL: Self = Self::new(5, 8);
    /// Illegal numbers.
    pub const ILLEGAL_NUMBER: Self = Self::new(5, 10);
    /// Announced events.
    pub const EVENT: Self = Self::new(5, 11);
    /// Announced maintenance.
    pub const MAINTENANCE: Self = Self::new(5, 12);
    /// The clauses that are applied automatically, in the default order of their application.
    pub const AUTOMATIC: [Self; 5] =
        [Self::MAINTENANCE, Self::EVENT, Self::TRIAL, Self::ILLEGAL_NUMBER, Self::CALL_RATE];

    /// A clause by its numbers.
    pub const fn new(article: u16, paragraph: u16) -> Self {
        Self { article, paragraph }
    }
}

impl fmt::Display for Clause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}.{}", self.article, self.paragraph))
    }
}

impl std::str::FromStr for Clause {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |s: &str| {
            let digits = (1..=3).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| s.parse().ok()).flatten()
        };
        text.split_once('.')
            .and_then(|(article, paragraph)| Some(Self { article: number(article)?, paragraph: number(paragraph)? }))
            .ok_or_else(|| format!("`{}` is not a clause; write it as \"5.12\"", text.escape_debug()))
    }
}

/// One step of compensation (clause 3.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tier {
    /// Its name in outputs: `T1` …
    pub name: String,
    /// It applies below this availability.
    pub below: Ppm,
    /// The part of the month's fee that is paid back.
    pub rate: Ppm,
}

/// Where a term of whole months ends when its day number does not exist (clause 1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MonthEnd {
    /// The month's last day is the term's last: 31 January + 1 month ends with 28 February.
    #[default]
    MonthEnd,
    /// The month's last day replaces the missing one: 31 January + 1 month ends before 28 February.
    Clamp,
}

/// The base of the rate (clause 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FeeBase {
    /// What was paid, without vouchers.
    #[default]
    Cash,
    /// The price before vouchers; the payout is still capped by the cash.
    Gross,
}

/// How a prepaid fee is allocated to service months (clause 1.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Allocation {
    /// By days of service; largest remainder, ties to the earlier month.
    #[default]
    AccrualByDay,
    /// To the service month in which it was charged.
    CashDate,
    /// The same for every service month.
    EqualPerServiceMonth,
}

/// How a payout is rounded to minor units (clause 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rounding {
    /// Half a unit goes up.
    #[default]
    HalfUp,
    /// Half a unit goes to the even neighbour.
    HalfEven,
    /// Down.
    Floor,
    /// Up.
    Ceil,
}

/// How compensation is paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Remedy {
    /// Money back to the account (clause 3.1 (1)).
    #[default]
    Cash,
    /// A credit for later bills.
    Credit,
}

/// When a claim can be filed first (clause 3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClaimOpens {
    /// The day after the n-th working day.
    #[default]
    DayAfter,
    /// On the n-th working day.
    OnNth,
    /// On the first working day after the n-th.
    NextWorkday,
}

/// The claim window (clause 3.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimRule {
    /// n: the working day of the calendar month after the period's end.
    pub working_day: u32,
    /// How the opening follows from it.
    pub opens: ClaimOpens,
    /// Days from the period's end to the last day of the window.
    pub last_day_after: u32,
}

/// Whether an excluded failure stays in the number of calls (clause 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Denominator {
    /// It stays.
    #[default]
    Keep,
    /// It leaves.
    Drop,
}

/// What clause 5.7 does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CallRateMode {
    /// Excludes.
    #[default]
    Exclude,
    /// Only marks; a person decides.
    Suspect,
    /// Nothing.
    Off,
}

/// An action that is not generally available (clause 5.8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrialAction {
    /// The API action.
    pub action: String,
    /// Whose; empty = all tenants'.
    pub tenants: Vec<String>,
    /// From this instant, in ms; `None` = always.
    pub from_ms: Option<i64>,
    /// Until before this instant, in ms; `None` = forever.
    pub to_ms: Option<i64>,
}

/// Which failures do not count (clause 5), as far as it can be decided automatically.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExclusionRules {
    /// Whether they stay in the number of calls.
    pub denominator: Denominator,
    /// Clauses in the order of their application; from [`Clause::AUTOMATIC`], without duplicates.
    pub order: Vec<Clause>,
    /// Clause 5.7.
    pub call_rate_mode: CallRateMode,
    /// Clause 5.7 applies to a second with at least this many calls.
    pub calls_per_second: u32,
    /// Clause 5.8.
    pub trial_actions: Vec<TrialAction>,
    /// Clause 5.10.
    pub illegal_number_codes: Vec<String>,
}

/// When to warn (semantics: alerts).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlertRules {
    /// Parts of the error budget.
    pub levels: Vec<Ppm>,
    /// Below this many calls it is information only.
    pub min_calls: u64,
    /// A level resolves below this part of itself.
    pub resolve_factor: Ppm,
    /// Days before a claim closes.
    pub claim_days: Vec<u32>,
}

/// One version of the contract.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Its name: `tccc`.
    pub id: String,
    /// It applies to service months that begin on this day or later.
    pub effective_from: LocalDay,
    /// Of versions with the same first day, the highest applies.
    pub revision: u32,
    /// When it was recorded, in ms; `None`: the compiled-in one.
    pub recorded_at_ms: Option<i64>,
    /// Of the file, and of the code table it names; `None`: the compiled-in one.
    pub sha256: Option<String>,
    /// The zone of its days.
    pub time_zone: Tz,
    /// Where a term of whole months ends.
    pub month_end: MonthEnd,
    /// The actions bound to the service (clause 1.4); `None` = all.
    pub bound_actions: Option<Vec<String>>,
    /// Actions that are not bound; overrides `bound_actions`.
    pub unbound_actions: Vec<String>,
    /// Whose fault a code is.
    pub codes: CodeMap,
    /// Highest threshold first; never empty. The first threshold is the target (clause 2.2).
    pub tiers: Vec<Tier>,
    /// How compensation is paid.
    pub remedy: Remedy,
    /// The base of the rate.
    pub fee_base: FeeBase,
    /// How fees are allocated to service months.
    pub allocation: Allocation,
    /// How payouts are rounded.
    pub rounding: Rounding,
    /// Does clause 6.1 cap what is paid over all months by the fees paid?
    pub total_cap: bool,
    /// The claim window.
    pub claim: ClaimRule,
    /// The working days that the claim window counts.
    pub workdays: Arc<Workdays>,
    /// What does not count.
    pub exclusions: ExclusionRules,
    /// When to warn.
    pub alerts: AlertRules,
}

impl Policy {
    /// The cloud call center's SLA of 2022-08-22 with its published error codes.
    pub fn tencent_ccc() -> Self {
        let tier = |name: &str, below, rate| Tier { name: name.into(), below: Ppm(below), rate: Ppm(rate) };
        let illegal = [
            "InvalidParameter.IllegalPhoneNumber",
            "InvalidParameter.InvalidPhoneNumber",
            "InvalidParameterValue.PhoneNumInvalid",
            "FailedOperation.CalleeIsLimited",
            "FailedOperation.CalleeIsBlackUser",
            "FailedOperation.NoCallOutNumber",
        ];
        Self {
            id: "tccc".into(),
            // 2022-08-22
            effective_from: LocalDay(19_226),
            revision: 1,
            recorded_at_ms: None,
            sha256: None,
            time_zone: chrono_tz::Asia::Shanghai,
            month_end: MonthEnd::default(),
            bound_actions: None,
            unbound_actions: Vec::new(),
            codes: CodeMap::tencent_ccc(),
            tiers: vec![tier("T1", 995_000, 100_000), tier("T2", 990_000, 300_000), tier("T3", 950_000, 500_000)],
            remedy: Remedy::default(),
            fee_base: FeeBase::default(),
            allocation: Allocation::default(),
            rounding: Rounding::default(),
            total_cap: true,
            claim: ClaimRule { working_day: 5, opens: ClaimOpens::default(), last_day_after: 60 },
            workdays: Workdays::china(),
            exclusions: ExclusionRules {
                denominator: Denominator::default(),
                order: Clause::AUTOMATIC.to_vec(),
                call_rate_mode: CallRateMode::default(),
                calls_per_second: 5,
                trial_actions: Vec::new(),
                illegal_number_codes: illegal.map(String::from).to_vec(),
            },
            alerts: AlertRules {
                levels: vec![Ppm(500_000), Ppm(800_000), Ppm(1_000_000)],
                min_calls: 1000,
                resolve_factor: Ppm(900_000),
                claim_days: vec![14, 7, 1],
            },
        }
    }

    /// The promised availability (clause 2.2).
    pub fn target(&self) -> Ppm {
        self.tiers[0].below
    }

    /// The tier that applies; `None` if nothing is owed or there were no calls.
    pub fn tier(&self, availability: Availability) -> Option<&Tier> {
        self.tiers.iter().rev().find(|tier| !availability.at_least(tier.below))
    }

    /// Is a call of this action one of the service's (clause 1.4)?
    pub fn is_bound(&self, action: &str) -> bool {
        self.bound_actions.as_ref().is_none_or(|bound| bound.iter().any(|b| b == action))
            && !self.unbound_actions.iter().any(|u| u == action)
    }
}

/// All policies, by id and version.
#[derive(Debug, Clone)]
pub struct Policies {
    /// Sorted by id, first day, revision; never empty.
    versions: Vec<Arc<Policy>>,
    /// The id for tenants that name no policy, and for unregistered ones.
    default_id: String,
}

impl Policies {
    /// These versions. `default_id` applies where no policy is named.
    ///
    /// # Errors
    /// No version of the default policy, or two with the same id, first day and revision.
    pub fn new(mut versions: Vec<Arc<Policy>>, default_id: &str) -> Result<Self, String> {
        versions.sort_by(|a, b| key(a).cmp(&key(b)));
        if let Some(pair) = versions.windows(2).find(|pair| key(&pair[0]) == key(&pair[1])) {
            let Policy { id, effective_from, revision, .. } = &*pair[0];
            return Err(format!("policy `{id}` from {effective_from}, revision {revision}, is there twice"));
        }
        if !versions.iter().any(|p| p.id == default_id) {
            return Err(format!("there is no policy `{default_id}`"));
        }
        Ok(Self { versions, default_id: default_id.into() })
    }

    /// One policy for all tenants.
    pub fn single(policy: Policy) -> Self {
        Self { default_id: policy.id.clone(), versions: vec![Arc::new(policy)] }
    }

    /// All versions, by id, first day and revision.
    pub fn versions(&self) -> &[Arc<Policy>] {
        &self.versions
    }

    /// The id that applies where no policy is named.
    pub fn default_id(&self) -> &str {
        &self.default_id
    }

    /// Is there a version of this policy?
    pub fn has(&self, id: &str) -> bool {
        self.versions.iter().any(|p| p.id == id)
    }

    /// The version of a policy that applies to a service month beginning on `first_day`: the last one effective by
    /// then, in its highest revision; a month before all versions takes the first. With `as_of_ms`, as known then (if
    /// any version was).
    pub fn in_force(&self, id: Option<&str>, first_day: LocalDay, as_of_ms: Option<i64>) -> &Arc<Policy> {
        let id = id.filter(|id| self.has(id)).unwrap_or(&self.default_id);
        let versions = || self.versions.iter().filter(move |p| p.id == id);
        let known =
            |p: &&Arc<Policy>| as_of_ms.is_none_or(|as_of| p.recorded_at_ms.is_none_or(|recorded| recorded <= as_of));
        let last = versions().filter(known).rfind(|p| p.effective_from <= first_day);
        last.or_else(|| versions().find(known)).or_else(|| versions().next()).unwrap_or(&self.versions[0])
    }
}

fn key(policy: &Policy) -> (&str, LocalDay, u32) {
    (&policy.id, policy.effective_from, policy.revision)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_in_force_on_the_first_day_judges_the_month() {
        let version = |day: &str, revision: u32, recorded_at_ms: i64| {
            let effective_from = day.parse().expect("a day");
            Arc::new(Policy { effective_from, revision, recorded_at_ms: Some(recorded_at_ms), ..Policy::tencent_ccc() })
        };
        let all = vec![version("2026-04-01", 1, 20), version("2022-08-22", 1, 10), version("2022-08-22", 2, 30)];
        let policies = Policies::new(all, "tccc").expect("sound");
        for (day, as_of, expected) in [
            ("2026-03-31", None, ("2022-08-22", 2)),
            ("2026-04-01", None, ("2026-04-01", 1)),
            ("2026-04-01", Some(19), ("2022-08-22", 1)),
            ("2026-03-31", Some(29), ("2022-08-22", 1)),
            ("2020-01-01", None, ("2022-08-22", 1)),
            ("2026-03-31", Some(0), ("2022-08-22", 1)),
        ] {
            let found = policies.in_force(None, day.parse().expect("a day"), as_of);
            assert_eq!((&*found.effective_from.to_string(), found.revision), expected, "{day} {as_of:?}");
        }
        assert!(Policies::new(vec![version("2026-04-01", 1, 0), version("2026-04-01", 1, 9)], "tccc").is_err());
        assert!(Policies::new(vec![version("2026-04-01", 1, 0)], "other").is_err());
    }

    #[test]
    fn clauses_are_read_and_written() {
        for text in ["5.12", "1.5", "6.1"] {
            assert_eq!(text.parse::<Clause>().map(|c| c.to_string()).as_deref(), Ok(text));
        }
        for text in ["", "5", "5.", ".7", "5.7.1", "five", "5.-1", "5.1234", "+5.7"] {
            assert!(text.parse::<Clause>().is_err(), "{text}");
        }
        assert!(Clause::CALL_RATE < Clause::MAINTENANCE);
    }

    #[test]
    fn the_compiled_in_policy_is_that_of_22_august_2022() {
        assert_eq!(Policy::tencent_ccc().effective_from.to_string(), "2022-08-22");
    }
}
