//! One tenant: who it is, and its service months.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::board::without_traffic;
use super::tenants::Row;
use crate::documents::DocumentSet;
use crate::domain::calendar::{LocalDay, Month};
use crate::domain::contract::Contract;
use crate::domain::documents::{Documents, Scope};
use crate::domain::standing::ServiceMonth;
use crate::domain::term::{Period, Terms};
use crate::http::answer::ask::{self, Asked, Problem, cut};
use crate::http::answer::{Reading, horizon};
use crate::pipeline::standings::{Evaluation, TenantStanding};
use crate::pipeline::trend::Trend;
use crate::report::standing::Standing;

/// Most service months without calls that are listed: those of a hundred years. Any other is found by its name.
const MOST_MONTHS: usize = 1200;
/// Months that an error lists.
const LISTED: usize = 24;

/// One tenant under one contract.
pub struct Tenant {
    pub name: Arc<str>,
    pub contract: Arc<Contract>,
    terms: Terms,
    /// With calls, in order of time.
    counted: Vec<ServiceMonth>,
    out_of_term: BTreeMap<Month, u64>,
    split: bool,
    horizon: Month,
    today: LocalDay,
}

/// A service month's name in a path.
#[derive(Debug, Clone, Copy)]
struct Name {
    month: Month,
    /// Its first day; without, the service month that begins first in the calendar month.
    day: Option<LocalDay>,
}

impl Name {
    /// `YYYY-MM` or `YYYY-MM-DD`
    fn of(text: &str) -> Option<Self> {
        let day = ask::day(text);
        let month = ask::month(text).or_else(|| day.map(LocalDay::month))?;
        Some(Self { month, day })
    }

    fn names(self, period: Period) -> bool {
        self.day.map_or(period.month() == self.month, |day| period.first == day)
    }
}

impl Tenant {
    /// Of the request's path, under the contract in force or as of an instant.
    ///
    /// # Errors
    /// The ledger is not read yet, or nobody knows the tenant.
    pub fn find(api: &Reading, asked: &Asked, as_of_ms: Option<i64>) -> Result<Self, Problem> {
        let value = api.published()?;
        let name: Arc<str> = asked.capture(0).into();
        let parts = |standing: &TenantStanding| (standing.months.clone(), standing.out_of_term.clone(), standing.split);
        let (horizon, today) = (horizon(&value.book), api.today());
        let known = |contract: &Contract| {
            let registry = &contract.registry;
            !(registry.orders(&name).is_empty() && registry.fees(&name).is_empty())
        };
        let (contract, found) = match as_of_ms {
            None => {
                let standings = &value.standings;
                (standings.contract().clone(), standings.tenant(&name).map(parts))
            }
            Some(as_of_ms) => {
                let contract = Arc::new(contract_of(&api.documents.load(), &name, Some(as_of_ms)));
                let waits = || asked.work.goes_on();
                let found = Evaluation::new(&contract, &value.book, &name).while_awaited(&waits).whole();
                asked.work.check()?;
                let found = found.as_ref().map(parts);
                (contract, found)
            }
        };
        if found.is_none() && !known(&contract) {
            let detail =
                format!("unknown tenant `{}`: it has no calls in the ledger, no order and no bill", cut(&name));
            return Err(Problem::not_found(detail));
        }
        let terms = contract.terms(&name);
        let (counted, out_of_term, split) = found.unwrap_or_default();
        Ok(Self { name, contract, terms, counted, out_of_term, split, horizon, today })
    }

    fn is_registered(&self) -> bool {
        !self.terms.is_empty()
    }

    /// The service months with calls, and the registered ones of these days without, in order of time and priced.
    fn months(&self, from: LocalDay, to: LocalDay) -> Vec<ServiceMonth> {
        let mut months = self.counted.clone();
        let counted = |period: &Period| self.counted.iter().any(|month| month.period.first == period.first);
        let dropped = |period: &Period| period.month() < self.horizon;
        let quiet = self.terms.periods(from, to).filter(|period| !counted(period) && !dropped(period));
        months.extend(quiet.map(|period| without_traffic(&self.contract, &self.terms, period)));
        months.sort_by_key(|month| month.period.first);
        self.contract.price(&self.name, &self.terms, &mut months);
        months
    }

    /// The service months up to today, or to the last one with calls, newest first.
    pub fn months_so_far(&self) -> Vec<ServiceMonth> {
        let earliest = Month(self.today.month().0.saturating_sub(MOST_MONTHS as i32)).first_day();
        let mut months = self.months(earliest, self.today);
        months.reverse();
        months
    }

    /// The service month of the request's path.
    ///
    /// # Errors
    /// No name of a month, or no such month: which ones there are.
    pub fn month(&self, asked: &Asked) -> Result<ServiceMonth, Problem> {
        let text = asked.capture(1);
        let name = Name::of(text).ok_or_else(|| {
            let detail = format!("`{}` is not a service month: write YYYY-MM, or its first day, YYYY-MM-DD", cut(text));
            Problem::bad(detail)
        })?;
        let months = self.months(name.month.first_day(), name.month.last_day());
        months.into_iter().find(|month| name.names(month.period)).ok_or_else(|| self.no_month(name, text))
    }

    fn no_month(&self, name: Name, text: &str) -> Problem {
        if name.month < self.horizon {
            let detail = format!("the ledger no longer holds the calls of {text}: it begins with {}", self.horizon);
            return Problem::not_found(detail);
        }
        let all = self.months_so_far();
        let mut labels: Vec<_> = all.iter().take(LISTED).map(ServiceMonth::label).collect();
        if all.len() > LISTED {
            labels.push(format!("and {} earlier ones", all.len() - LISTED));
        }
        let there =
            if labels.is_empty() { "it has none yet".into() } else { format!("there are {}", labels.join(", ")) };
        Problem::not_found(format!("`{}` has no service month {text}: {there}", cut(&self.name)))
    }
}

/// What the documents say of this tenant, or said at an instant. Documents about others are left out, so that it costs what
/// the tenant's own documents cost.
pub fn contract_of(set: &DocumentSet, tenant: &str, as_of_ms: Option<i64>) -> Contract {
    let among = |tenants: &[String]| tenants.is_empty() || tenants.iter().any(|other| other == tenant);
    let all = &set.documents;
    let documents = Documents {
        notices: all.notices.iter().filter(|notice| among(&notice.tenants)).cloned().collect(),
        declarations: all.declarations.iter().filter(|declaration| declaration.tenant == tenant).cloned().collect(),
        rulings: {
            let about = |scope: &Scope| match scope {
                Scope::Calls { tenant: other, .. } => other == tenant,
                Scope::Range { tenants, .. } => among(tenants),
            };
            all.rulings.iter().filter(|ruling| ruling.verdict.scope().is_none_or(about)).cloned().collect()
        },
        claims: all.claims.iter().filter(|claim| claim.tenant == tenant).cloned().collect(),
    };
    Contract::new(set.policies.clone(), set.registry.clone(), &documents, as_of_ms)
}

#[derive(Debug, Serialize)]
pub struct TenantBody {
    pub tenant: String,
    pub registration: &'static str,
    /// Its calls lie in several partitions.
    pub split: bool,
    pub terms: Vec<TermBody>,
    /// Newest first.
    pub months: Vec<Row>,
    /// Calls outside of every term, by calendar month.
    pub out_of_term: BTreeMap<String, u64>,
}

/// A tenant's service months, newest first.
#[derive(Debug, Serialize)]
pub struct Months {
    pub tenant: String,
    pub months: Vec<Standing>,
}

#[derive(Debug, Serialize)]
pub struct TermBody {
    pub first_day: String,
    /// Null: open-ended.
    pub last_day: Option<String>,
}

/// `/tenants/{tenant}`
pub fn tenant(api: &Reading, asked: &Asked) -> Result<TenantBody, Problem> {
    asked.query(&[])?;
    let tenant = Tenant::find(api, asked, None)?;
    let mut judge = api.judge(&tenant.contract)?;
    let months = tenant.months_so_far();
    let terms = tenant.terms.terms().iter();
    let (standing, now_ms) = (api.published()?.standings.tenant(&tenant.name), api.now_ms());
    Ok(TenantBody {
        tenant: tenant.name.to_string(),
        registration: if tenant.is_registered() { "registered" } else { "unregistered" },
        split: tenant.split,
        terms: terms
            .map(|term| TermBody { first_day: term.first.to_string(), last_day: term.last.map(|day| day.to_string()) })
            .collect(),
        months: months
            .iter()
            .map(|month| {
                let trend = standing.map(|standing| Trend::as_seen(standing, month, now_ms));
                Row::of(judge.standing(&tenant.name, month), month, trend.as_ref())
            })
            .collect(),
        out_of_term: tenant.out_of_term.iter().map(|(month, calls)| (month.to_string(), *calls)).collect(),
    })
}

/// `/tenants/{tenant}/months`
pub fn all(api: &Reading, asked: &Asked) -> Result<Months, Problem> {
    asked.query(&[])?;
    let tenant = Tenant::find(api, asked, None)?;
    let mut judge = api.judge(&tenant.contract)?;
    let months: Vec<Standing> =
        tenant.months_so_far().iter().map(|month| judge.standing(&tenant.name, month)).collect();
    Ok(Months { tenant: tenant.name.to_string(), months })
}

/// `/tenants/{tenant}/months/{month}`
pub fn one(api: &Reading, asked: &Asked) -> Result<Standing, Problem> {
    let as_of_ms = asked.query(&["as_of"])?.instant("as_of")?;
    let tenant = Tenant::find(api, asked, as_of_ms)?;
    let month = tenant.month(asked)?;
    Ok(api.judge(&tenant.contract)?.standing(&tenant.name, &month))
}
