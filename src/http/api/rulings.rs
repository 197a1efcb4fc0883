//! The rulings: those of the ledger, which is append-only, compared with those of the documents in force.

use std::cmp::Reverse;
use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::http::answer::ask::{Asked, Problem, page};
use crate::http::answer::{Reading, instant};
use crate::pipeline::rulings::{ComparedRuling, RulingState, compared_rulings};
use crate::report::statement::canonical::hex;

/// Entries that each list of a scope has at most: a ruling may name thousands of calls.
const MAX_ENTRIES: usize = 100;

#[derive(Debug, Serialize)]
pub struct Page {
    pub ledger_as_of: Option<String>,
    /// Rulings on all pages.
    pub matching: usize,
    /// The latest first.
    pub rulings: Vec<Row>,
    pub next: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct Row {
    pub id: String,
    pub recorded_at: Option<String>,
    /// Whether the documents in force have it as the ledger has it.
    pub state: &'static str,
    /// Null: the ledger has the digest alone, as the following.
    pub decision: Option<String>,
    pub clause: Option<String>,
    /// Which calls; null for a revocation.
    pub scope: Option<Scope>,
    pub actor: Option<String>,
    pub reason: Option<String>,
    pub evidence: Option<String>,
    /// The ruling that it takes back.
    pub revokes: Option<String>,
    /// The ruling that takes it back.
    pub revoked_by: Option<String>,
    pub sha256: String,
}

/// The calls a ruling is about. An empty list: all there are.
#[derive(Debug, Serialize)]
pub struct Scope {
    pub tenants: Vec<String>,
    pub from: Option<String>,
    pub to: Option<String>,
    pub actions: Vec<String>,
    pub codes: Vec<String>,
    /// Of the calls that `request_ids` names.
    pub day: Option<String>,
    pub request_ids: Vec<String>,
    /// The longest list has so many entries; each shows the first 100.
    pub entries: usize,
}

/// A ruling as its canonical JSON has it.
#[derive(Debug, Clone, Default, Deserialize)]
struct Text {
    decision: Option<String>,
    clause: Option<String>,
    scope: Option<ScopeText>,
    actor: Option<String>,
    reason: Option<String>,
    evidence: Option<String>,
    revokes: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct ScopeText {
    tenants: Vec<String>,
    from: Option<String>,
    to: Option<String>,
    actions: Vec<String>,
    codes: Vec<String>,
    tenant: Option<String>,
    day: Option<String>,
    request_ids: Vec<String>,
}

impl ScopeText {
    fn names(&self, tenant: &str) -> bool {
        match &self.tenant {
            Some(only) => only == tenant,
            None => self.tenants.is_empty() || self.tenants.iter().any(|name| name == tenant),
        }
    }
}

impl Scope {
    fn of(text: ScopeText) -> Self {
        let ScopeText { mut tenants, from, to, mut actions, mut codes, tenant, day, mut request_ids } = text;
        tenants.extend(tenant);
        let lists = [&mut tenants, &mut actions, &mut codes, &mut request_ids];
        let entries = lists.iter().map(|list| list.len()).max().unwrap_or_default();
        lists.into_iter().for_each(|list| list.truncate(MAX_ENTRIES));
        Self { tenants, from, to, actions, codes, day, request_ids, entries }
    }
}

/// A ruling and what its text says.
struct Known {
    ruling: ComparedRuling,
    text: Text,
}

/// A place in the list: recorded when, id.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
struct Position<T>(Reverse<i64>, T);

/// `/rulings`
pub fn list(api: &Reading, asked: &Asked) -> Result<Page, Problem> {
    let query = asked.query(&["limit", "cursor", "tenant", "state"])?;
    let limit = query.limit()?;
    let after: Option<Position<String>> = query.cursor()?;
    let state = query.one_of("state", &RulingState::COMPARED.map(RulingState::as_str))?;
    let tenant = query.get("tenant");
    let documents = api.documents.load_full();
    let compared = compared_rulings(&api.published()?.book, Some(&documents.documents.rulings));
    let all: Vec<_> = compared.into_iter().map(Known::of).collect();
    let by_id: HashMap<&str, &Known> = all.iter().map(|known| (&*known.ruling.id, known)).collect();
    let revocations = all.iter().filter_map(|known| Some((known.text.revokes.as_deref()?, &*known.ruling.id)));
    let revoked_by: HashMap<&str, &str> = revocations.collect();
    let is_about = |known: &Known, tenant: &str| {
        // A revocation is about the calls of the ruling that it takes back.
        let about = known.text.revokes.as_deref().and_then(|id| by_id.get(id)).map_or(known, |revoked| revoked);
        about.text.scope.as_ref().is_some_and(|scope| scope.names(tenant))
    };
    let is_asked_for = |known: &&Known| {
        state.is_none_or(|wanted| known.ruling.state.as_str() == wanted)
            && tenant.is_none_or(|tenant| is_about(known, tenant))
    };
    let mut found: Vec<&Known> = all.iter().filter(is_asked_for).collect();
    found.sort_unstable_by_key(|known| known.place());
    let passed = |known: &&Known| {
        after.as_ref().is_some_and(|Position(at_ms, id)| known.place() <= Position(*at_ms, id.as_str()))
    };
    let (rows, more) = page(&found, limit, passed);
    let next = rows.last().filter(|_| more).map(|last| query.next(&last.place(), None)).transpose()?;
    let rulings = rows.iter().map(|known| Row::of(known, revoked_by.get(&*known.ruling.id).copied())).collect();
    Ok(Page { ledger_as_of: api.ledger_as_of(), matching: found.len(), rulings, next })
}

impl Known {
    fn of(ruling: ComparedRuling) -> Self {
        // Of a ruling that an early version has applied there is no text.
        let text = serde_json::from_str(&ruling.ruling.canonical).unwrap_or_default();
        Self { ruling, text }
    }

    fn place(&self) -> Position<&str> {
        Position(Reverse(self.ruling.ruling.recorded_at_ms), &self.ruling.id)
    }
}

impl Row {
    fn of(Known { ruling: ComparedRuling { id, ruling, state }, text }: &Known, revoked_by: Option<&str>) -> Self {
        let Text { decision, clause, scope, actor, reason, evidence, revokes } = text.clone();
        Self {
            id: id.to_string(),
            recorded_at: instant(ruling.recorded_at_ms),
            state: state.as_str(),
            decision,
            clause,
            scope: scope.map(Scope::of),
            actor,
            reason,
            evidence,
            revokes,
            revoked_by: revoked_by.map(str::to_owned),
            sha256: hex(&ruling.sha256()),
        }
    }
}
