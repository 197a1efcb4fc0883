//! What a ruling would change, before it is written: the service months under the contract without it and with it.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::documents::DocumentSet;
use crate::domain::calendar::LocalDay;
use crate::domain::documents::{Ruling, Scope, Verdict};
use crate::domain::policy::Clause;
use crate::domain::standing::{ServiceMonth, Unreached};
use crate::pipeline::book::Book;
use crate::pipeline::standings::{Evaluation, TenantStanding};
use crate::report::statement::{Lang, clause_title};
use crate::visible::visible;
use crate::yaml::read::similar;

/// What a ruling does and what it does not.
#[derive(Debug)]
pub struct RulingEffect {
    /// The service months of the tenants it is about, changed or not.
    pub months: Vec<RuledMonth>,
    /// It names request ids (so many) of a tenant and day, and the ledger has no calls of the tenant.
    pub without_calls: Option<(String, LocalDay, usize)>,
}

/// A service month without and with a ruling.
#[derive(Debug)]
pub struct RuledMonth {
    /// Whose.
    pub tenant: Arc<str>,
    /// Without it.
    pub before: ServiceMonth,
    /// With it.
    pub after: ServiceMonth,
}

impl RuledMonth {
    /// Does the ruling change its figures?
    pub fn is_changed(&self) -> bool {
        self.before.figures != self.after.figures
    }

    /// What the ruling names in the month and cannot reach.
    pub fn unreached(&self) -> Unreached {
        let (before, after) = (self.before.unreached, self.after.unreached);
        Unreached {
            calls: after.calls.saturating_sub(before.calls),
            request_ids: after.request_ids.saturating_sub(before.request_ids),
        }
    }
}

impl RulingEffect {
    /// Of a ruling recorded at `now_ms`. Once `somebody_waits` returns false it ends early; what is returned then is
    /// meaningless.
    pub fn of(
        documents: &DocumentSet,
        verdict: &Verdict,
        now_ms: i64,
        book: &Book,
        somebody_waits: &dyn Fn() -> bool,
    ) -> Self {
        let named: Vec<Arc<str>> = match concerned(documents, verdict) {
            Some(tenants) if !tenants.is_empty() => tenants.iter().map(|tenant| tenant.as_str().into()).collect(),
            _ => book.tenants().cloned().collect::<BTreeSet<_>>().into_iter().collect(),
        };
        let mut with = documents.clone();
        with.documents.rulings.push(Arc::new(Ruling {
            id: "(new)".into(),
            recorded_at_ms: now_ms,
            actor: String::new(),
            reason: String::new(),
            evidence: None,
            verdict: verdict.clone(),
            canonical: "".into(),
            sha256: [0; 32],
        }));
        let contracts = [documents, &with].map(|documents| documents.contract(None));
        let mut months = Vec::new();
        for tenant in named.iter().take_while(|_| somebody_waits()) {
            let [before, after] = contracts.each_ref().map(|contract| {
                let whole = Evaluation::new(contract, book, tenant).while_awaited(somebody_waits).whole();
                whole.map(|TenantStanding { months, .. }| months).unwrap_or_default()
            });
            let both = before.into_iter().zip(after);
            months.extend(both.map(|(before, after)| RuledMonth { tenant: tenant.clone(), before, after }));
        }
        Self { months, without_calls: without_calls(verdict, book) }
    }

    /// The service months whose figures it changes.
    pub fn changes(&self) -> impl Iterator<Item = &RuledMonth> {
        self.months.iter().filter(|month| month.is_changed())
    }
}

fn without_calls(verdict: &Verdict, book: &Book) -> Option<(String, LocalDay, usize)> {
    let Scope::Calls { tenant, day, request_ids } = verdict.scope()? else { return None };
    let is_known = book.shards().iter().any(|shard| shard.has_tenant(tenant));
    (!is_known).then(|| (tenant.clone(), *day, request_ids.len()))
}

/// The tenants a ruling names; those of the ruling it takes back.
fn concerned<'a>(documents: &'a DocumentSet, verdict: &'a Verdict) -> Option<Vec<&'a String>> {
    let verdict = match verdict {
        Verdict::Revoke(id) => &documents.documents.rulings.iter().find(|ruling| ruling.id == *id)?.verdict,
        verdict => verdict,
    };
    match verdict.scope()? {
        Scope::Calls { tenant, .. } => Some(vec![tenant]),
        Scope::Range { tenants, .. } => Some(tenants.iter().collect()),
    }
}

/// What a ruling names that nobody knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// No clause of the contract excludes calls, or makes failures, under this number.
    #[error(
        "unknown clause {0}: calls are excluded by the contract's clauses 5.1 to 5.18 (and counted as failures by article 1 \
         too)"
    )]
    Clause(Clause),
    /// A tenant without calls and orders.
    #[error("unknown tenant `{}`: it has no calls and no order{}", visible(tenant), hint(similar.as_deref()))]
    Tenant {
        /// Its name.
        tenant: String,
        /// A known one whose name is like it.
        similar: Option<String>,
    },
}

fn hint(similar: Option<&str>) -> String {
    similar.map_or_else(String::new, |similar| format!("; did you mean `{}`?", visible(similar)))
}

/// Are the tenants and the clause of the ruling known?
///
/// # Errors
/// The first of them that is not.
pub fn known(verdict: &Verdict, documents: &DocumentSet, book: &Book) -> Result<(), Unknown> {
    let is_exclusion = |clause: &Clause| clause_title(&clause.to_string(), Lang::En).is_some();
    // What a failure is, is defined in article 1.
    let is_definition = |clause: &Clause| matches!(verdict, Verdict::CountAsFailure(..)) && clause.article == 1;
    if let Some(clause) = verdict.clause().filter(|clause| !is_exclusion(clause) && !is_definition(clause)) {
        return Err(Unknown::Clause(clause));
    }
    let tenants: &[String] = match verdict.scope() {
        Some(Scope::Calls { tenant, .. }) => std::slice::from_ref(tenant),
        Some(Scope::Range { tenants, .. }) => tenants,
        None => &[],
    };
    let is_known = |tenant: &str| {
        !documents.registry.orders(tenant).is_empty() || book.shards().iter().any(|shard| shard.has_tenant(tenant))
    };
    let Some(unknown) = tenants.iter().find(|tenant| !is_known(tenant)) else { return Ok(()) };
    let names = book.tenants().chain(documents.registry.tenants());
    let similar = similar(unknown, names.map(|name| &**name)).map(str::to_owned);
    Err(Unknown::Tenant { tenant: unknown.clone(), similar })
}
