//! When an alert is published (semantics: Alerts). In: the last published state, the standing, the policy and an
//! instant. Out: nothing, or what to publish now and why. This is the only place that decides it.
//!
//! Every alert is a state that fires and resolves, once per tenant × service month × rule × direction. A rule is an
//! [`AlertName`] and its detail: the level, the tier, the days before a claim closes. The last published state is an
//! [`AlertState`]. The ledger keeps it, so that a crash or a takeover neither repeats nor loses an alert.
//!
//! - A level that was crossed resolves when the use of the budget has fallen below nine tenths of it (policy), so that
//!   a tenant at the edge does not flap. Once the month is over only a document or a late call changes it, and this
//!   hysteresis no longer applies.
//! - Below `min_calls` everything is information, until the month's end: then a breach notifies.
//! - A tenant whose tier cannot change any more stops paging: see [`Reason::TierSettled`].
//!
//! Not here: who is notified, the text of the alert, and whether a shard lags too far behind to be judged.

use std::fmt;
use std::sync::Arc;

use super::availability::{Availability, Ppm};
use super::calendar::{LocalDay, day_start_ms};
use super::forecast::{Outlook, burn_rate};
use super::policy::Policy;
use super::standing::ServiceMonth;
use super::workdays::{ClaimState, ClaimWindow};

/// Fast burn: the long window and the short one must both be this many times above what the rest of the month can bear;
/// 14.4 uses up 2 % of a 30-day budget in an hour (Google's SRE workbook, chapter 5).
pub const FAST_BURN: f64 = 14.4;
/// Slow burn: 6 uses up 5 % of a 30-day budget in six hours.
pub const SLOW_BURN: f64 = 6.0;
/// With fewer failures than this in the long window the burn rate is not judged, whatever the ratio: the guard for low
/// traffic.
pub const LEAST_FAILURES: u64 = 10;
/// A forecast of a tier further ahead than this raises no warning, in ms: an hour says little about a month
/// (`make bench` measures how little).
pub const FORECAST_WITHIN_MS: i64 = 86_400_000;
/// How long a tier that is settled, or was found after the month's end, keeps paging, in ms.
pub const SETTLED_AFTER_MS: i64 = 3_600_000;
/// How long after the month's end a reached tier keeps paging, in ms. After that the claim's alerts follow.
pub const ENDED_AFTER_MS: i64 = 86_400_000;

macro_rules! names {
    ($(#[$meta:meta])* $type:ident { $($(#[doc = $doc:literal])+ $name:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        pub enum $type { $($(#[doc = $doc])+ $name,)+ }

        impl $type {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// As it is written in records, events and labels.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// The one of this name.
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|one| one.as_str() == name)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

names! {
    /// Which alert.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
    AlertName {
        /// A level of the error budget is used up; the detail is the level in percent.
        BudgetConsumed = "SlaBudgetConsumed",
        /// A tier applies: money is owed; the detail is the tier.
        TierReached = "SlaTierReached",
        /// The target is met again, after a tier had been reached.
        Recovered = "SlaRecovered",
        /// The budget is being used up too fast; the detail is `fast` or `slow`.
        BurnRateHigh = "SlaBurnRateHigh",
        /// A tier will be reached before the month's end if the last hour continues; the detail is the tier.
        ForecastBreach = "SlaForecastBreach",
        /// The claim window is open.
        ClaimOpens = "SlaClaimOpens",
        /// The claim window is about to close; the detail is the maximum number of days left.
        ClaimCloses = "SlaClaimCloses",
        /// Fleet: calls carry a code that the policy does not classify; the detail is the code.
        UnknownCode = "SlaUnknownCode",
        /// Fleet: the working days of a year are missing; the detail is `policy/year`.
        CalendarMissing = "SlaCalendarMissing",
        /// Fleet: many tenants alert at once.
        ManyTenantsAtRisk = "SlaManyTenantsAtRisk",
        /// Fleet: calls of a shard were lost before they were counted; the detail is the shard.
        LedgerGap = "SlaLedgerGap",
    }
}

names! {
    /// How urgent, mildest first.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
    Severity {
        /// Good to know.
        Info = "info",
        /// To be handled within the day.
        Warning = "warning",
        /// To be handled now.
        Critical = "critical",
    }
}

names! {
    /// Firing or resolved.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
    Status {
        /// It holds.
        Firing = "firing",
        /// It no longer holds.
        Resolved = "resolved",
    }
}

names! {
    /// Why it is published.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
    Reason {
        /// The use of the budget has reached the level.
        LevelCrossed = "level_crossed",
        /// The availability has fallen below the tier's threshold.
        TierReached = "tier_reached",
        /// An alert that was information only now has enough calls.
        MinCallsReached = "min_calls_reached",
        /// The service month is over.
        MonthEnded = "month_ended",
        /// The rest of the month can neither worsen nor improve the tier.
        TierSettled = "tier_settled",
        /// It has fallen a tenth (policy) below the watched level.
        FellBelow = "fell_below",
        /// After the month's end a late call or a document has changed the result.
        Corrected = "corrected",
        /// The target is met again.
        TargetMetAgain = "target_met_again",
        /// The target is missed again.
        TargetMissedAgain = "target_missed_again",
        /// Both windows burn too fast.
        BurningFast = "burning_fast",
        /// Nothing is left of the budget for the rest of the month.
        BudgetGone = "budget_gone",
        /// If the last hour continues, the tier is reached before the month's end.
        ForecastCrosses = "forecast_crosses",
        /// The claim window has opened.
        ClaimOpened = "claim_opened",
        /// The claim window closes soon.
        ClaimClosesSoon = "claim_closes_soon",
        /// The claim was filed, paid or rejected.
        ClaimSettled = "claim_settled",
        /// The claim window has closed.
        ClaimClosed = "claim_closed",
        /// Nothing is owed any more.
        NothingOwed = "nothing_owed",
        /// A code without a class was seen.
        CodeUnknown = "code_unknown",
        /// The code has a class now, or is no longer seen.
        CodeKnown = "code_known",
        /// A claim window needs working days that the calendar does not have.
        YearMissing = "year_missing",
        /// The calendar has them now, or no claim window needs them.
        YearKnown = "year_known",
        /// More than a hundred tenants alerted within five minutes.
        ManyTenants = "many_tenants",
        /// Fewer do.
        FewTenants = "few_tenants",
        /// The source no longer held calls that were not counted yet.
        CallsLost = "calls_lost",
        /// A week has passed since; the months concerned stay marked incomplete.
        GapIsOld = "gap_is_old",
        /// The policy has no such level, tier or days any more, or the tenant no such service month.
        NoLongerWatched = "no_longer_watched",
    }
}

names! {
    /// Why a tenant is currently not judged, mildest first.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
    Held {
        /// A shard with its calls lags.
        Lag = "lag",
        /// A shard with its calls has lost some and has not counted any since.
        Gap = "gap",
        /// A shard with its calls is stopped.
        Stopped = "stopped",
    }
}

/// What an alert is about; its place in the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AlertKey {
    /// The tenant; empty for the fleet.
    pub tenant: Arc<str>,
    /// First day of the service month; `None` for the fleet.
    pub period_start: Option<LocalDay>,
    /// Which alert.
    pub alert: AlertName,
    /// Level, tier, days, code, year or shard; may be empty.
    pub detail: Arc<str>,
}

impl AlertName {
    /// Is it about the fleet, not about a tenant's service month?
    pub fn is_fleet(self) -> bool {
        matches!(self, Self::UnknownCode | Self::CalendarMissing | Self::ManyTenantsAtRisk | Self::LedgerGap)
    }

    /// Could this version have written this detail? A newer one may know others.
    fn has_detail(self, detail: &str) -> bool {
        match self {
            Self::BudgetConsumed => Ppm::from_percent(detail).is_some(),
            Self::TierReached | Self::ForecastBreach => !detail.is_empty(),
            Self::BurnRateHigh => matches!(detail, "fast" | "slow"),
            Self::ClaimCloses => detail.parse::<u32>().is_ok(),
            Self::Recovered | Self::ClaimOpens | Self::ManyTenantsAtRisk => detail.is_empty(),
            Self::UnknownCode => true,
            Self::CalendarMissing => detail.rsplit_once('/').is_some_and(|(_, year)| year.parse::<i32>().is_ok()),
            Self::LedgerGap => detail.parse::<u32>().is_ok(),
        }
    }
}

impl AlertKey {
    /// Could this version have written it? What a newer one writes is left unchanged.
    pub fn is_known(&self) -> bool {
        let fleet = self.period_start.is_none();
        fleet == self.alert.is_fleet() && (!fleet || self.tenant.is_empty()) && self.alert.has_detail(&self.detail)
    }

    /// Does the policy still watch it? Levels, tiers or days that were removed from the policy are no longer judged.
    pub fn is_watched(&self, policy: &Policy) -> bool {
        let alerts = &policy.alerts;
        match self.alert {
            AlertName::BudgetConsumed => alerts.levels.iter().any(|level| *level.to_string() == *self.detail),
            AlertName::TierReached | AlertName::ForecastBreach => {
                policy.tiers.iter().any(|tier| *tier.name == *self.detail)
            }
            AlertName::ClaimCloses => alerts.claim_days.iter().any(|days| *days.to_string() == *self.detail),
            _ => true,
        }
    }

    /// An alert of the fleet.
    pub fn fleet(alert: AlertName, detail: &str) -> Self {
        Self { tenant: "".into(), period_start: None, alert, detail: detail.into() }
    }
}

/// The last published state of an alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AlertState {
    /// Firing or resolved.
    pub status: Status,
    /// Counts firings, from 1. One that becomes more urgent is a new one.
    pub generation: u64,
    /// As last published.
    pub severity: Severity,
    /// As last published.
    pub reason: Reason,
    /// When it began to fire, in ms.
    pub starts_at_ms: i64,
    /// When it was resolved, in ms.
    pub ends_at_ms: Option<i64>,
    /// It was resolved although what it watches holds; it fires again only after that has passed.
    pub settled: bool,
    /// Published to the topic only, since many tenants alerted at once.
    pub grouped: bool,
}

impl AlertState {
    /// Does it fire?
    pub fn is_firing(&self) -> bool {
        self.status == Status::Firing
    }
}

/// A new state of an alert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Which alert.
    pub alert: AlertName,
    /// Level, tier, days; may be empty.
    pub detail: Arc<str>,
    /// The new state.
    pub state: AlertState,
    /// Whether it is published; `false`: it is only remembered.
    pub told: bool,
}

/// The verdict of a rule for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It holds, at this severity. The second reason is used if the severity is higher than the last published one.
    Holds(Severity, Reason, Reason),
    /// Neither: the last published state remains.
    Stands,
    /// It does not hold.
    Over(Reason),
    /// It holds, but nothing can be done about it any more.
    Settled(Reason),
}

/// The next state, if there is one, and whether it is published.
pub fn step(previous: Option<AlertState>, verdict: Verdict, now_ms: i64) -> Option<(AlertState, bool)> {
    let resolve = |old: AlertState, reason: Reason, settled: bool| {
        (AlertState { status: Status::Resolved, reason, ends_at_ms: Some(now_ms), settled, ..old }, true)
    };
    let fire = |severity: Severity, reason: Reason| AlertState {
        status: Status::Firing,
        generation: previous.map_or(0, |old| old.generation) + 1,
        severity,
        reason,
        starts_at_ms: now_ms,
        ends_at_ms: None,
        settled: false,
        grouped: false,
    };
    match (previous, verdict) {
        (Some(old), Verdict::Holds(severity, _, more)) if old.is_firing() || old.settled => {
            (severity > old.severity).then(|| (fire(severity, more), true))
        }
        (_, Verdict::Holds(severity, reason, _)) => Some((fire(severity, reason), true)),
        (Some(old), Verdict::Over(reason)) if old.is_firing() => Some(resolve(old, reason, false)),
        (Some(old), Verdict::Settled(reason)) if old.is_firing() => Some(resolve(old, reason, true)),
        // What it watched has passed: it may fire again.
        (Some(old), Verdict::Over(_)) if old.settled => Some((AlertState { settled: false, ..old }, false)),
        _ => None,
    }
}

/// Calls and failures of the last minutes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Windows {
    /// 5 minutes.
    pub five_minutes: Availability,
    /// 30 minutes.
    pub half_hour: Availability,
    /// 1 hour.
    pub hour: Availability,
    /// 6 hours.
    pub six_hours: Availability,
}

impl Windows {
    /// The windows' labels, shortest first.
    pub const LABELS: [&str; 4] = ["5m", "30m", "1h", "6h"];

    /// In the order of [`Windows::LABELS`].
    pub fn all(&self) -> [Availability; 4] {
        [self.five_minutes, self.half_hour, self.hour, self.six_hours]
    }
}

/// A tenant's service month, as it is judged.
#[derive(Debug, Clone, Copy)]
pub struct Watched<'a> {
    /// The standing.
    pub month: &'a ServiceMonth,
    /// The last hours.
    pub windows: Windows,
    /// Where the month is going; `None`: it is over, or there is not enough data.
    pub outlook: Option<&'a Outlook>,
    /// The state of the claim.
    pub claim: ClaimState,
    /// When it can be filed; `None`: the tenant is not registered.
    pub claim_window: Option<ClaimWindow>,
    /// Now.
    pub now_ms: i64,
}

/// All changes of a service month's alerts now. `previous` is the last published state of an alert and detail.
pub fn judge(watched: &Watched<'_>, previous: impl Fn(AlertName, &str) -> Option<AlertState>) -> Vec<Change> {
    let policy = &watched.month.policy;
    let judge = Judge::new(watched);
    let mut changes = Vec::new();
    // Returns the state that holds after the step.
    let mut apply = |alert: AlertName, detail: &str, rule: &dyn Fn(Option<AlertState>) -> Verdict| {
        let old = previous(alert, detail);
        let Some((state, told)) = step(old, rule(old), watched.now_ms) else { return old };
        changes.push(Change { alert, detail: detail.into(), state, told });
        Some(state)
    };
    for level in &policy.alerts.levels {
        apply(AlertName::BudgetConsumed, &level.to_string(), &|_| judge.level(*level));
    }
    let (mut left_one, mut in_one) = (false, false);
    for (index, tier) in policy.tiers.iter().enumerate() {
        let state = apply(AlertName::TierReached, &tier.name, &|old| judge.tier(tier.below, old));
        in_one |= state.is_some_and(|state| state.is_firing() || state.settled);
        left_one |= state.is_some_and(|state| !state.is_firing() && !state.settled);
        apply(AlertName::ForecastBreach, &tier.name, &|_| judge.forecast(index, tier.below));
    }
    apply(AlertName::Recovered, "", &|_| judge.recovered(left_one, in_one));
    let w = &watched.windows;
    apply(AlertName::BurnRateHigh, "fast", &|_| judge.burn(w.hour, w.five_minutes, FAST_BURN, Severity::Critical));
    apply(AlertName::BurnRateHigh, "slow", &|_| judge.burn(w.six_hours, w.half_hour, SLOW_BURN, Severity::Warning));
    apply(AlertName::ClaimOpens, "", &|_| judge.claim_opens());
    for days in &policy.alerts.claim_days {
        apply(AlertName::ClaimCloses, &days.to_string(), &|_| judge.claim_closes(*days));
    }
    changes
}

/// One service month under judgement.
struct Judge<'a> {
    watched: &'a Watched<'a>,
    policy: &'a Policy,
    availability: Availability,
    /// First instant after the month.
    end_ms: i64,
    ended: bool,
    enough_calls: bool,
    settled: bool,
}

impl<'a> Judge<'a> {
    fn new(watched: &'a Watched<'a>) -> Self {
        let (month, policy) = (watched.month, &*watched.month.policy);
        let end_ms = day_start_ms(policy.time_zone, month.period.next_day());
        Self {
            watched,
            policy,
            availability: month.availability(),
            end_ms,
            ended: watched.now_ms >= end_ms,
            enough_calls: month.figures.total() >= policy.alerts.min_calls,
            settled: watched.outlook.is_some_and(|outlook| outlook.settled),
        }
    }

    /// Below `min_calls` it is information only.
    fn severity(&self, severity: Severity) -> Severity {
        if self.enough_calls { severity } else { Severity::Info }
    }

    /// Has the use of the budget for `target` reached `part` of it?
    fn used(&self, availability: Availability, target: Ppm, part: Ppm) -> bool {
        let (numerator, denominator) = availability.consumed(target);
        availability.failed > 0 && numerator * 1_000_000 >= denominator * u128::from(part.parts())
    }

    /// Has it fallen below the part of `part` at which an alert resolves?
    fn fell_below(&self, availability: Availability, target: Ppm, part: Ppm) -> bool {
        let (numerator, denominator) = availability.consumed(target);
        let edge = u128::from(part.parts()) * u128::from(self.policy.alerts.resolve_factor.parts());
        availability.failed == 0 || numerator * 1_000_000_000_000 < denominator * edge
    }

    fn level(&self, level: Ppm) -> Verdict {
        let target = self.policy.target();
        match () {
            () if self.ended => Verdict::Settled(Reason::MonthEnded),
            () if self.fell_below(self.availability, target, level) => Verdict::Over(Reason::FellBelow),
            () if self.settled => Verdict::Settled(Reason::TierSettled),
            () if self.used(self.availability, target, level) => {
                let severity = if level.parts() >= 1_000_000 { Severity::Critical } else { Severity::Warning };
                Verdict::Holds(self.severity(severity), Reason::LevelCrossed, Reason::MinCallsReached)
            }
            () => Verdict::Stands,
        }
    }

    fn tier(&self, below: Ppm, old: Option<AlertState>) -> Verdict {
        let reached = !self.availability.at_least(below);
        // Has it fired at this severity or higher for this long?
        let told_for = |severity: Severity, since_ms: i64, long_ms: i64| {
            let old = old.filter(|old| old.is_firing() && old.severity >= severity);
            old.is_some_and(|old| self.watched.now_ms >= old.starts_at_ms.max(since_ms) + long_ms)
        };
        if self.ended {
            let closed = matches!(self.watched.claim, ClaimState::Expired | ClaimState::Paid | ClaimState::Rejected);
            return match () {
                () if !reached => Verdict::Over(Reason::Corrected),
                () if closed || told_for(Severity::Critical, self.end_ms, ENDED_AFTER_MS) => {
                    Verdict::Settled(Reason::MonthEnded)
                }
                () => Verdict::Holds(Severity::Critical, Reason::TierReached, Reason::MonthEnded),
            };
        }
        let severity = self.severity(Severity::Critical);
        match () {
            () if reached && self.settled && told_for(severity, i64::MIN, SETTLED_AFTER_MS) => {
                Verdict::Settled(Reason::TierSettled)
            }
            () if reached => Verdict::Holds(severity, Reason::TierReached, Reason::MinCallsReached),
            () if self.fell_below(self.availability, below, Ppm(1_000_000)) => Verdict::Over(Reason::FellBelow),
            () => Verdict::Stands,
        }
    }

    /// `left_one`: a tier was reached this month and left again; `in_one`: one is reached.
    fn recovered(&self, left_one: bool, in_one: bool) -> Verdict {
        match () {
            () if self.ended => Verdict::Over(Reason::MonthEnded),
            () if in_one => Verdict::Over(Reason::TargetMissedAgain),
            () if left_one => Verdict::Holds(Severity::Info, Reason::TargetMetAgain, Reason::TargetMetAgain),
            () => Verdict::Stands,
        }
    }

    fn burn(&self, long: Availability, short: Availability, threshold: f64, severity: Severity) -> Verdict {
        let Some(outlook) = self.watched.outlook.filter(|_| !self.ended) else {
            return Verdict::Over(if self.ended { Reason::MonthEnded } else { Reason::FellBelow });
        };
        let factor = f64::from(self.policy.alerts.resolve_factor.parts()) / 1e6;
        let rate = |window: Availability| burn_rate(window, outlook.sustainable).unwrap_or(0.0);
        match () {
            () if outlook.settled => Verdict::Over(Reason::TierSettled),
            () if outlook.sustainable.is_none() => Verdict::Over(Reason::BudgetGone),
            () if rate(short) < threshold * factor => Verdict::Over(Reason::FellBelow),
            () if rate(long) >= threshold
                && rate(short) >= threshold
                && long.failed >= LEAST_FAILURES
                && self.enough_calls =>
            {
                Verdict::Holds(severity, Reason::BurningFast, Reason::BurningFast)
            }
            () => Verdict::Stands,
        }
    }

    fn forecast(&self, tier: usize, below: Ppm) -> Verdict {
        let Some(outlook) = self.watched.outlook.filter(|_| !self.ended) else {
            return Verdict::Over(if self.ended { Reason::MonthEnded } else { Reason::FellBelow });
        };
        let horizon_ms = self.watched.now_ms + FORECAST_WITHIN_MS;
        let crosses = outlook.reached_at_ms.get(tier).copied().flatten().is_some_and(|at_ms| at_ms <= horizon_ms);
        match () {
            () if !self.availability.at_least(below) => Verdict::Over(Reason::TierReached),
            () if outlook.settled => Verdict::Over(Reason::TierSettled),
            () if crosses && self.watched.windows.hour.failed >= LEAST_FAILURES && self.enough_calls => {
                Verdict::Holds(Severity::Warning, Reason::ForecastCrosses, Reason::ForecastCrosses)
            }
            () if self.fell_below(outlook.at_end, below, Ppm(1_000_000)) => Verdict::Over(Reason::FellBelow),
            () => Verdict::Stands,
        }
    }

    /// Why a claim's alert does not hold, if it does not: nothing is owed, or the claim is settled or closed.
    fn no_claim(&self) -> Option<Reason> {
        match self.watched.claim {
            _ if self.watched.claim_window.is_none() || self.watched.month.tier().is_none() => {
                Some(Reason::NothingOwed)
            }
            ClaimState::Filed | ClaimState::Paid | ClaimState::Rejected => Some(Reason::ClaimSettled),
            ClaimState::Expired => Some(Reason::ClaimClosed),
            ClaimState::Running | ClaimState::Ended | ClaimState::Claimable => None,
        }
    }

    fn claim_opens(&self) -> Verdict {
        match self.no_claim() {
            Some(reason) => Verdict::Over(reason),
            None if self.watched.claim == ClaimState::Claimable => {
                Verdict::Holds(Severity::Info, Reason::ClaimOpened, Reason::ClaimOpened)
            }
            None => Verdict::Stands,
        }
    }

    fn claim_closes(&self, days: u32) -> Verdict {
        if let Some(reason) = self.no_claim() {
            return Verdict::Over(reason);
        }
        let Some(window) = self.watched.claim_window.filter(|_| self.watched.claim != ClaimState::Running) else {
            return Verdict::Stands;
        };
        let closes_ms = day_start_ms(self.policy.time_zone, LocalDay(window.last_day.0 + 1));
        if self.watched.now_ms >= closes_ms - i64::from(days) * 86_400_000 {
            Verdict::Holds(Severity::Warning, Reason::ClaimClosesSoon, Reason::ClaimClosesSoon)
        } else {
            Verdict::Stands
        }
    }
}
