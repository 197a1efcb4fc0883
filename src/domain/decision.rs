//! How an unsuccessful call is judged: its class, whether it is a failure, and what excludes it (clauses 1.5 and 5).
//!
//! A failure is excluded once, under the first clause of the policy's order that matches. A ruling overrides the
//! automatic rules, and a later ruling an earlier one: rulings are applied in their order, each to the result of the
//! ones before.

use std::collections::BTreeSet;

use super::calendar::LocalDay;
use super::call::Flag;
use super::codes::Class;
use super::documents::{Scope, Verdict};
use super::policy::{CallRateMode, Clause, Policy};
use super::rulebook::TenantRules;

/// An unsuccessful call, as the ledger holds it.
#[derive(Debug, Clone, Copy)]
pub struct FailingCall<'a> {
    /// Event time in ms.
    pub time_ms: i64,
    /// The API action.
    pub action: &'a str,
    /// The error code.
    pub code: Option<&'a str>,
    /// The event's `system_error`.
    pub flag: Flag,
    /// The request id.
    pub request_id: &'a str,
    /// The tenant's calls in the aligned second of `time_ms`.
    pub calls_in_second: u32,
}

/// Unsuccessful calls of one local day that are not itemised.
#[derive(Debug, Clone, Copy)]
pub struct Unitemised<'a> {
    /// First instant of the day, in ms.
    pub from_ms: i64,
    /// First instant after it.
    pub to_ms: i64,
    /// The API action.
    pub action: &'a str,
    /// The error code.
    pub code: Option<&'a str>,
    /// The events' `system_error`.
    pub flag: Flag,
}

/// How a call is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision<'a> {
    /// Whose fault it is. `SystemError`: a failure, raw.
    pub class: Class,
    /// The outcome for a failure.
    pub outcome: Outcome,
    /// Id of the notice or ruling that decided, if one did.
    pub document: Option<&'a str>,
}

impl Decision<'_> {
    /// Is it a failure that counts?
    pub fn counts(&self) -> bool {
        matches!(self.outcome, Outcome::Counted | Outcome::Suspect)
    }
}

/// The outcome for a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Its action is not bound to the service: neither a call nor a failure.
    Unbound,
    /// It is not a failure.
    NoFailure,
    /// It is a failure and counts.
    Counted,
    /// It counts, and clause 5.7 might exclude it: a person has to decide.
    Suspect,
    /// It is a failure and does not count, by this clause.
    Excluded(Clause),
}

impl Outcome {
    /// Its name in evidence.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unbound => "unbound",
            Self::NoFailure => "no_failure",
            Self::Counted => "counted",
            Self::Suspect => "suspect",
            Self::Excluded(_) => "excluded",
        }
    }
}

/// Judges one tenant's calls.
#[derive(Debug, Clone, Copy)]
pub struct Judge<'a> {
    /// The policy of the service month.
    pub policy: &'a Policy,
    /// The rules that concern the tenant.
    pub rules: &'a TenantRules,
    /// The tenant.
    pub tenant: &'a str,
    /// The tenant's calls are in several partitions: how many fell into a second is unknown, so clause 5.7 is only
    /// suspected.
    pub split: bool,
}

impl<'a> Judge<'a> {
    /// Judges an itemised call.
    pub fn call(&self, call: &FailingCall<'_>) -> Decision<'a> {
        if !self.policy.is_bound(call.action) {
            return Decision { class: Class::Unknown, outcome: Outcome::Unbound, document: None };
        }
        let automatic = |class| self.automatic(class, call);
        self.rule(self.policy.codes.classify(call.code, call.flag), automatic, |scope| match scope {
            Scope::Calls { tenant, day, request_ids } => {
                tenant == self.tenant
                    && super::calendar::LocalClock::new(self.policy.time_zone).day(call.time_ms) == *day
                    && request_ids.iter().any(|id| id == call.request_id)
            }
            Scope::Range { tenants, from_ms, to_ms, actions, codes } => {
                holds(tenants, self.tenant)
                    && from_ms.is_none_or(|from| from <= call.time_ms)
                    && to_ms.is_none_or(|to| call.time_ms < to)
                    && holds(actions, call.action)
                    && holds(codes, call.code.unwrap_or(""))
            }
        })
    }

    /// Judges calls that are not itemised, all of the same day, action, code and flag. No window, call rate or request
    /// id can apply to them; a range must cover the whole day.
    pub fn unitemised(&self, calls: &Unitemised<'_>) -> Decision<'a> {
        if !self.policy.is_bound(calls.action) {
            return Decision { class: Class::Unknown, outcome: Outcome::Unbound, document: None };
        }
        let covers = |from: Option<i64>, to: Option<i64>| {
            from.is_none_or(|from| from <= calls.from_ms) && to.is_none_or(|to| calls.to_ms <= to)
        };
        let automatic = |class: Class| {
            if class != Class::SystemError {
                return (Outcome::NoFailure, None);
            }
            let clause = self.policy.exclusions.order.iter().find(|clause| match **clause {
                Clause::TRIAL => self.is_trial(calls.action, covers),
                Clause::ILLEGAL_NUMBER => self.is_illegal_number(calls.code),
                _ => false,
            });
            (clause.map_or(Outcome::Counted, |c| Outcome::Excluded(*c)), None)
        };
        self.rule(self.policy.codes.classify(calls.code, calls.flag), automatic, |scope| match scope {
            Scope::Calls { .. } => false,
            Scope::Range { tenants, from_ms, to_ms, actions, codes } => {
                holds(tenants, self.tenant)
                    && covers(*from_ms, *to_ms)
                    && holds(actions, calls.action)
                    && holds(codes, calls.code.unwrap_or(""))
            }
        })
    }

    /// Would a ruling change the decision on these calls if its interval covered their whole day?
    pub fn is_cut(&self, calls: &Unitemised<'_>, decision: &Decision<'_>) -> bool {
        let failure = decision.class == Class::SystemError;
        self.rules.rulings.iter().any(|ruling| {
            let (wanted, scope) = match &ruling.verdict {
                Verdict::CountAsFailure(_, scope) => (!decision.counts(), scope),
                Verdict::Exclude(_, scope) => (failure && decision.counts(), scope),
                Verdict::Reinstate(_, scope) => (failure && !decision.counts(), scope),
                Verdict::Revoke(_) => return false,
            };
            let Scope::Range { tenants, from_ms, to_ms, actions, codes } = scope else { return false };
            let (from, to) = (from_ms.unwrap_or(i64::MIN), to_ms.unwrap_or(i64::MAX));
            let overlaps = from < calls.to_ms && calls.from_ms < to && from < to;
            let covers = from <= calls.from_ms && calls.to_ms <= to;
            wanted
                && overlaps
                && !covers
                && holds(tenants, self.tenant)
                && holds(actions, calls.action)
                && holds(codes, calls.code.unwrap_or(""))
        })
    }

    /// The request ids that rulings name on this day, without duplicates.
    pub fn named_on(&self, day: LocalDay) -> BTreeSet<&'a str> {
        let mut named = BTreeSet::new();
        for ruling in &self.rules.rulings {
            if let Some(Scope::Calls { tenant, day: on, request_ids }) = ruling.verdict.scope()
                && (tenant.as_str(), *on) == (self.tenant, day)
            {
                named.extend(request_ids.iter().map(String::as_str));
            }
        }
        named
    }

    /// Could a ruling make a failure of a call whose class is not a failure?
    pub fn may_raise(&self) -> bool {
        self.rules.rulings.iter().any(|ruling| matches!(ruling.verdict, Verdict::CountAsFailure(..)))
    }

    /// The automatic outcome, then every ruling that is about the calls, in order.
    fn rule(
        &self,
        class: Class,
        automatic: impl Fn(Class) -> (Outcome, Option<&'a str>),
        concerns: impl Fn(&Scope) -> bool,
    ) -> Decision<'a> {
        let (outcome, document) = automatic(class);
        let mut decision = Decision { class, outcome, document };
        for ruling in &self.rules.rulings {
            if !ruling.verdict.scope().is_some_and(&concerns) {
                continue;
            }
            let outcome = match ruling.verdict {
                Verdict::CountAsFailure(..) => {
                    decision.class = Class::SystemError;
                    Outcome::Counted
                }
                Verdict::Exclude(clause, _) if decision.class == Class::SystemError => Outcome::Excluded(clause),
                Verdict::Reinstate(..) if decision.class == Class::SystemError => Outcome::Counted,
                Verdict::Exclude(..) | Verdict::Reinstate(..) | Verdict::Revoke(_) => continue,
            };
            decision.outcome = outcome;
            decision.document = Some(&ruling.id);
        }
        decision
    }

    fn automatic(&self, class: Class, call: &FailingCall<'_>) -> (Outcome, Option<&'a str>) {
        if class != Class::SystemError {
            return (Outcome::NoFailure, None);
        }
        let mut outcome = Outcome::Counted;
        for clause in &self.policy.exclusions.order {
            match *clause {
                Clause::MAINTENANCE | Clause::EVENT => {
                    let window = self.rules.notices.iter().find(|n| {
                        n.clause == *clause
                            && (n.start_ms..n.end_ms).contains(&call.time_ms)
                            && holds(&n.actions, call.action)
                    });
                    if let Some(notice) = window {
                        return (Outcome::Excluded(*clause), Some(&notice.id));
                    }
                }
                Clause::TRIAL => {
                    let now = |from: Option<i64>, to: Option<i64>| {
                        from.is_none_or(|from| from <= call.time_ms) && to.is_none_or(|to| call.time_ms < to)
                    };
                    if self.is_trial(call.action, now) {
                        return (Outcome::Excluded(*clause), None);
                    }
                }
                Clause::ILLEGAL_NUMBER if self.is_illegal_number(call.code) => {
                    return (Outcome::Excluded(*clause), None);
                }
                Clause::CALL_RATE if self.is_above_rate(call) => match self.policy.exclusions.call_rate_mode {
                    CallRateMode::Exclude if !self.split => return (Outcome::Excluded(*clause), None),
                    CallRateMode::Exclude | CallRateMode::Suspect => outcome = Outcome::Suspect,
                    CallRateMode::Off => {}
                },
                _ => {}
            }
        }
        (outcome, None)
    }

    fn is_trial(&self, action: &str, holds_at: impl Fn(Option<i64>, Option<i64>) -> bool) -> bool {
        let mut trials = self.policy.exclusions.trial_actions.iter();
        trials.any(|t| t.action == action && holds(&t.tenants, self.tenant) && holds_at(t.from_ms, t.to_ms))
    }

    fn is_illegal_number(&self, code: Option<&str>) -> bool {
        code.is_some_and(|code| self.policy.exclusions.illegal_number_codes.iter().any(|c| c == code))
    }

    /// Clause 5.7: too many calls in the second, and no declaration made beforehand covers them.
    fn is_above_rate(&self, call: &FailingCall<'_>) -> bool {
        if call.calls_in_second < self.policy.exclusions.calls_per_second {
            return false;
        }
        let told = self
            .rules
            .declarations
            .iter()
            .filter(|d| d.told_at_ms < call.time_ms && (d.from_ms..d.to_ms).contains(&call.time_ms));
        told.map(|d| d.qps).max().is_none_or(|declared| call.calls_in_second > declared)
    }
}

/// Is it in the list? An empty list means all.
fn holds(list: &[String], word: &str) -> bool {
    list.is_empty() || list.iter().any(|entry| entry == word)
}
