//! What a ruling about a tenant's calls would change, and the command that adds it. Nothing is written here.

use serde::Serialize;

use super::days::tier;
use super::months::Tenant;
use crate::documents::rulings::{NewRuling, check_among};
use crate::domain::calendar::LocalDay;
use crate::domain::documents::{Scope, Verdict};
use crate::domain::policy::Clause;
use crate::domain::standing::ServiceMonth;
use crate::http::answer::Reading;
use crate::http::answer::ask::{Asked, Problem, Query, cut};
use crate::report::ruling::{RuledMonth, RulingEffect, known};

/// The decisions that a ruling can be.
pub const DECISIONS: [&str; 4] = ["exclude", "reinstate", "count_as_failure", "revoke"];
/// The parameters that say about which calls it is; one that revokes another has none.
const SCOPE: [&str; 7] = ["clause", "from", "to", "day", "request_id", "action", "code"];
/// The query's parameters.
pub const PARAMETERS: [&str; 12] = [
    "decision",
    "clause",
    "from",
    "to",
    "day",
    "request_id",
    "action",
    "code",
    "revokes",
    "actor",
    "reason",
    "evidence",
];

#[derive(Debug, Serialize)]
pub struct WhatIf {
    pub tenant: String,
    pub ledger_as_of: Option<String>,
    /// The service months whose figures change.
    pub changes: Vec<Change>,
    /// What the ruling names and does not reach.
    pub unreached: Vec<Missed>,
    /// Adds the ruling, when it is run where `rulings.yaml` is. Words in capitals are still to be filled in.
    pub command: String,
}

#[derive(Debug, Serialize)]
pub struct Change {
    pub tenant: String,
    pub month: String,
    pub period_start: String,
    pub currency: Option<String>,
    pub before: Side,
    pub after: Side,
}

/// A service month on one side of a change.
#[derive(Debug, Serialize)]
pub struct Side {
    pub failed: u64,
    pub excluded: u64,
    pub availability_pct: Option<String>,
    pub tier: String,
    /// Null: no bill is known.
    pub owed_minor: Option<i64>,
}

#[derive(Debug, Serialize)]
pub struct Missed {
    pub tenant: String,
    pub month: Option<String>,
    /// Calls that are not held one by one; only an interval of whole local days reaches them.
    pub calls: u64,
    /// Request ids that no call held one by one has.
    pub request_ids: u64,
}

impl Side {
    fn of(month: &ServiceMonth) -> Self {
        let availability = month.availability();
        Self {
            failed: month.figures.failed(),
            excluded: month.figures.excluded_total(),
            availability_pct: availability.percent().map(|percent| percent.to_string()),
            tier: tier(month, availability),
            owed_minor: month.money.map(|money| money.payout.payout_minor),
        }
    }
}

impl Change {
    fn of(RuledMonth { tenant, before, after }: &RuledMonth) -> Self {
        Self {
            tenant: tenant.to_string(),
            month: after.label(),
            period_start: after.period.first.to_string(),
            currency: after.money.map(|money| money.currency().to_string()),
            before: Side::of(before),
            after: Side::of(after),
        }
    }
}

/// `/tenants/{tenant}/what-if`
pub fn one(api: &Reading, asked: &Asked) -> Result<WhatIf, Problem> {
    let query = asked.query(&PARAMETERS)?;
    let tenant = Tenant::find(api, asked, None)?.name;
    let asked_for = Wanted::of(query, &tenant)?;
    let (value, documents, now_ms) = (api.published()?, api.documents.load_full(), api.now_ms());
    let verdict = &asked_for.ruling.verdict;
    known(verdict, &documents, &value.book).map_err(|unknown| Problem::bad(unknown.to_string()))?;
    check_among(&documents.documents.rulings, &asked_for.ruling, now_ms)
        .map_err(|wrong| Problem::bad(wrong.to_string()))?;
    let effect = RulingEffect::of(&documents, verdict, now_ms, &value.book, &|| asked.work.goes_on());
    asked.work.check()?;
    let missed = effect.months.iter().filter_map(|month| {
        let unreached = month.unreached();
        let (tenant, label) = (month.tenant.to_string(), Some(month.after.label()));
        let missed = Missed { tenant, month: label, calls: unreached.calls, request_ids: unreached.request_ids };
        (missed.calls + missed.request_ids > 0).then_some(missed)
    });
    let unknown = effect.without_calls.iter().map(|(tenant, _, ids)| Missed {
        tenant: tenant.clone(),
        month: None,
        calls: 0,
        request_ids: *ids as u64,
    });
    Ok(WhatIf {
        tenant: tenant.to_string(),
        ledger_as_of: api.ledger_as_of(),
        unreached: missed.chain(unknown).collect(),
        changes: effect.changes().map(Change::of).collect(),
        command: asked_for.command(&tenant),
    })
}

/// The ruling that is asked about.
struct Wanted<'a> {
    query: Query<'a>,
    ruling: NewRuling,
}

impl<'a> Wanted<'a> {
    fn of(query: Query<'a>, tenant: &str) -> Result<Self, Problem> {
        let decision = query
            .one_of("decision", &DECISIONS)?
            .ok_or_else(|| Problem::bad(format!("`decision` is missing; it is one of: {}", DECISIONS.join(", "))))?;
        let foreign: &[&str] = if decision == "revoke" { &SCOPE } else { &["revokes"] };
        if let Some(name) = foreign.iter().find(|name| query.get(name).is_some()) {
            return Err(Problem::bad(format!(
                "`{name}` does not go with `decision={decision}`: leave out one of them"
            )));
        }
        let verdict = match decision {
            "revoke" => Verdict::Revoke(required(query, "revokes")?.to_owned()),
            _ => {
                let text = required(query, "clause")?;
                let clause: Clause = text.parse().map_err(|_| {
                    Problem::bad(format!("`clause` must be a clause of the contract, e.g. 5.14, not `{}`", cut(text)))
                })?;
                let scope = scope(query, tenant)?;
                match decision {
                    "exclude" => Verdict::Exclude(clause, scope),
                    "reinstate" => Verdict::Reinstate(clause, scope),
                    _ => Verdict::CountAsFailure(clause, scope),
                }
            }
        };
        let text = |name: &str, missing: &str| query.get(name).unwrap_or(missing).to_owned();
        let evidence = query.get("evidence").or((decision != "revoke").then_some("EVIDENCE"));
        let ruling = NewRuling {
            id: None,
            actor: text("actor", "NAME"),
            reason: text("reason", "REASON"),
            evidence: evidence.map(str::to_owned),
            verdict,
        };
        Ok(Self { query, ruling })
    }

    /// `sla-ledger ruling add …`, for a shell.
    fn command(&self, tenant: &str) -> String {
        let NewRuling { actor, reason, evidence, verdict, .. } = &self.ruling;
        let mut command = format!("sla-ledger ruling add --decision {}", verdict.as_str());
        let mut add = |option: &str, value: &str| {
            // With `=`, a value that begins with a dash is no option.
            command.push_str(&format!(" {option}={}", quoted(value)));
        };
        if let Some(clause) = verdict.clause() {
            add("--clause", &clause.to_string());
            add("--tenant", tenant);
        }
        for (name, option) in [("from", "--from"), ("to", "--to"), ("day", "--day"), ("revokes", "--revokes")] {
            if let Some(value) = self.query.get(name) {
                add(option, value);
            }
        }
        for (name, option) in [("request_id", "--request-id"), ("action", "--action"), ("code", "--code")] {
            self.query.get(name).map(lines).into_iter().flatten().for_each(|value| add(option, value));
        }
        add("--actor", actor);
        add("--reason", reason);
        evidence.iter().for_each(|evidence| add("--evidence", evidence));
        command
    }
}

fn required<'a>(query: Query<'a>, name: &str) -> Result<&'a str, Problem> {
    query.get(name).ok_or_else(|| Problem::bad(format!("`{name}` is missing")))
}

/// The calls it is about: by request ids of a day, or by what they have in common.
fn scope(query: Query<'_>, tenant: &str) -> Result<Scope, Problem> {
    let list = |name: &str| query.get(name).map(lines).into_iter().flatten().map(str::to_owned).collect::<Vec<_>>();
    let request_ids = list("request_id");
    if !request_ids.is_empty() {
        let day: LocalDay = query.day("day")?.ok_or_else(|| {
            Problem::bad("`day` is missing: the local day of the calls that `request_id` names".into())
        })?;
        if let Some(name) = ["from", "to", "action", "code"].into_iter().find(|name| query.get(name).is_some()) {
            return Err(Problem::bad(format!("`{name}` does not go with `request_id`: leave out one of them")));
        }
        return Ok(Scope::Calls { tenant: tenant.to_owned(), day, request_ids });
    }
    if query.get("day").is_some() {
        return Err(Problem::bad("`day` goes with `request_id`; for all calls of a day, give `from` and `to`".into()));
    }
    Ok(Scope::Range {
        tenants: vec![tenant.to_owned()],
        from_ms: query.instant("from")?,
        to_ms: query.instant("to")?,
        actions: list("action"),
        codes: list("code"),
    })
}

/// Values, one a line.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty())
}

/// A word of a shell's command, whatever is in it.
fn quoted(value: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':' | '/' | '+' | '@' | '%');
    if !value.is_empty() && value.chars().all(is_plain) {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn a_shell_takes_quoted_words_for_what_they_are() {
        for value in ["acme", "a b", "it's", "$(reboot)", "`x`", "-n", "\"", "\\", "租户", "a\nb", "", "*", "!!", "~"]
        {
            let output =
                std::process::Command::new("sh").arg("-c").arg(format!("printf %s {}", quoted(value))).output();
            assert_eq!(String::from_utf8_lossy(&output.expect("there is a shell").stdout), value);
        }
    }
}
