//! Service months for which something is owed or claimed: whose claim closes soonest comes first.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::domain::calendar::LocalDay;
use crate::domain::standing::ServiceMonth;
use crate::domain::workdays::{ClaimState, ClaimWindow};
use crate::http::answer::Reading;
use crate::http::answer::ask::{Asked, Problem, page};
use crate::report::standing::{Claim, Standing};

#[derive(Debug, Serialize)]
pub struct Page {
    pub ledger_as_of: Option<String>,
    /// Every state in which there is a claim, or something to claim.
    pub states: Vec<State>,
    /// Rows on all pages.
    pub matching: usize,
    pub claims: Vec<Row>,
    pub next: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct State {
    pub state: &'static str,
    pub service_months: usize,
    /// By currency, in minor units.
    pub owed: BTreeMap<String, i64>,
}

#[derive(Debug, Serialize)]
pub struct Row {
    pub tenant: String,
    pub month: String,
    pub period_start: String,
    pub state: &'static str,
    pub tier: String,
    pub complete: bool,
    pub currency: Option<String>,
    pub owed_minor: Option<i64>,
    pub claim: Option<Claim>,
}

impl Row {
    fn of(standing: Standing) -> Self {
        Self {
            tenant: standing.tenant,
            month: standing.month,
            period_start: standing.period_start,
            state: standing.state,
            tier: standing.tier,
            complete: standing.complete,
            currency: standing.fee.map(|fee| fee.currency),
            owed_minor: standing.compensation.map(|compensation| compensation.payout_minor),
            claim: standing.claim,
        }
    }
}

/// A place in the list: the window's last day, tenant, first day of the service month.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position<T>(i32, T, i32);

/// A service month with a claim, or with something to claim.
pub struct Found<'a> {
    pub tenant: &'a str,
    pub month: &'a ServiceMonth,
    pub state: ClaimState,
    pub window: ClaimWindow,
}

impl<'a> Found<'a> {
    fn position(&self) -> Position<&'a str> {
        let LocalDay(last_day) = self.window.last_day;
        Position(last_day, self.tenant, self.month.period.first.0)
    }
}

/// `/claims`
pub fn list(api: &Reading, asked: &Asked) -> Result<Page, Problem> {
    let query = asked.query(&["limit", "cursor", "state"])?;
    let limit = query.limit()?;
    let after: Option<Position<String>> = query.cursor()?;
    let state = query.one_of("state", &ClaimState::ALL.map(ClaimState::as_str))?;
    let value = api.published()?;
    let contract = value.standings.contract();
    let now_ms = api.now_ms();
    let mut found = Vec::new();
    for (tenant, months) in value.standings.iter() {
        let events = contract.rulebook.claims(tenant);
        for month in months {
            let owed = month.money.is_some_and(|money| money.payout.payout_minor > 0);
            if !owed && !events.iter().any(|event| event.period_start == month.period.first) {
                continue;
            }
            if let (state, Some(window)) = month.claim(events, now_ms) {
                found.push(Found { tenant, month, state, window });
            }
        }
    }
    let states = states(&found);
    found.retain(|found| state.is_none_or(|wanted| found.state.as_str() == wanted));
    let matching = found.len();
    found.sort_unstable_by_key(Found::position);
    let after = after.as_ref().map(|Position(last_day, tenant, first)| Position(*last_day, tenant.as_str(), *first));
    let (page, more) = page(&found, limit, |found| after.as_ref().is_some_and(|after| found.position() <= *after));
    let last = page.last().filter(|_| more);
    let next = last.map(|last| query.next(&last.position(), None)).transpose()?;
    let mut judge = api.judge(contract)?;
    let claims = page.iter().map(|found| Row::of(judge.standing(found.tenant, found.month))).collect();
    Ok(Page { ledger_as_of: api.ledger_as_of(), states, matching, claims, next })
}

fn states(found: &[Found<'_>]) -> Vec<State> {
    let state = |state: ClaimState| State { state: state.as_str(), service_months: 0, owed: BTreeMap::new() };
    let mut states = ClaimState::ALL.map(state);
    for found in found {
        let sum = &mut states[found.state as usize];
        sum.service_months += 1;
        if let Some(money) = &found.month.money {
            *sum.owed.entry(money.currency().to_string()).or_default() += money.payout.payout_minor;
        }
    }
    states.into_iter().filter(|state| state.service_months > 0).collect()
}
