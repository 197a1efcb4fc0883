//! What people record about the contract: notices, declarations, rulings, claims. Plain values: [`crate::documents`]
//! reads them from files, [`super::decision`] applies them to calls.
//!
//! Instants are milliseconds since 1970-01-01T00:00:00Z, ranges half-open, an empty list means all. Of several
//! documents with one id the one recorded last applies, then the one further down in its file. "As of" an instant,
//! documents recorded later are ignored.

use std::sync::Arc;

use super::calendar::LocalDay;
use super::policy::Clause;

/// An announced window (clauses 5.11, 5.12).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Its id.
    pub id: String,
    /// [`Clause::EVENT`] or [`Clause::MAINTENANCE`].
    pub clause: Clause,
    /// When customers were notified; the notice counts only if that was before `start_ms`.
    pub announced_at_ms: i64,
    /// Begin of the window.
    pub start_ms: i64,
    /// First instant after it.
    pub end_ms: i64,
    /// Whose calls; empty = all tenants'.
    pub tenants: Vec<String>,
    /// Which actions; empty = all.
    pub actions: Vec<String>,
    /// When it was recorded.
    pub recorded_at_ms: i64,
}

/// A customer's declaration of a higher call rate, made beforehand (clause 5.7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declaration {
    /// Its id.
    pub id: String,
    /// Whose.
    pub tenant: String,
    /// Calls per second.
    pub qps: u32,
    /// When it was declared; it covers only later calls.
    pub told_at_ms: i64,
    /// It holds from here …
    pub from_ms: i64,
    /// … until before here.
    pub to_ms: i64,
    /// When it was recorded.
    pub recorded_at_ms: i64,
}

/// A person's decision about calls (clauses 1.5 and 5). Append-only: revoked by another ruling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruling {
    /// Its id.
    pub id: String,
    /// When it was recorded; a later one overrides an earlier one.
    pub recorded_at_ms: i64,
    /// Who decided.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// On what grounds: a link, a ticket. Optional for a revocation.
    pub evidence: Option<String>,
    /// What was decided.
    pub verdict: Verdict,
    /// Its canonical JSON, as the ledger keeps and exports it.
    pub canonical: Arc<str>,
    /// SHA-256 over the canonical JSON.
    pub sha256: [u8; 32],
}

/// What a ruling does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The calls are not the provider's failures, by this clause.
    Exclude(Clause, Scope),
    /// The calls count as failures after all, whatever excluded them.
    Reinstate(Clause, Scope),
    /// The calls are failures, whatever their class.
    CountAsFailure(Clause, Scope),
    /// The ruling of this id no longer has an effect.
    Revoke(String),
}

impl Verdict {
    /// The calls it is about; `None` for a revocation.
    pub fn scope(&self) -> Option<&Scope> {
        match self {
            Self::Exclude(_, scope) | Self::Reinstate(_, scope) | Self::CountAsFailure(_, scope) => Some(scope),
            Self::Revoke(_) => None,
        }
    }

    /// The clause it rests on; `None` for a revocation.
    pub fn clause(&self) -> Option<Clause> {
        match self {
            Self::Exclude(clause, _) | Self::Reinstate(clause, _) | Self::CountAsFailure(clause, _) => Some(*clause),
            Self::Revoke(_) => None,
        }
    }

    /// Its name in the file.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Exclude(..) => "exclude",
            Self::Reinstate(..) => "reinstate",
            Self::CountAsFailure(..) => "count_as_failure",
            Self::Revoke(_) => "revoke",
        }
    }
}

/// The calls a ruling is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Calls by their request ids, of one tenant and local day.
    Calls {
        /// The tenant.
        tenant: String,
        /// The local day of the calls.
        day: LocalDay,
        /// The ids; never empty.
        request_ids: Vec<String>,
    },
    /// Calls by what they have in common; at least one of the fields is set.
    Range {
        /// Whose; empty = all tenants'.
        tenants: Vec<String>,
        /// From this instant.
        from_ms: Option<i64>,
        /// Until before this instant.
        to_ms: Option<i64>,
        /// Which actions; empty = all.
        actions: Vec<String>,
        /// Which codes, each exactly; empty = all.
        codes: Vec<String>,
    },
}

/// Something that happened to a claim, or a payment that clause 6.1 counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimEvent {
    /// Its id.
    pub id: String,
    /// Whose.
    pub tenant: String,
    /// First day of the service month.
    pub period_start: LocalDay,
    /// What happened.
    pub event: ClaimEventKind,
    /// When.
    pub at_ms: i64,
    /// Money that was paid, in minor units.
    pub amount_minor: Option<i64>,
    /// The ticket.
    pub ticket: Option<String>,
    /// When it was recorded.
    pub recorded_at_ms: i64,
}

/// What happened to a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClaimEventKind {
    /// The customer claimed.
    Filed,
    /// The compensation was paid.
    Paid,
    /// The claim was refused.
    Rejected,
    /// The customer withdrew it.
    Withdrawn,
    /// Other damages were paid (clause 6.1).
    OtherDamages,
}

/// All documents of these kinds, in the order of their files.
#[derive(Debug, Clone, Default)]
pub struct Documents {
    /// `notices.yaml`
    pub notices: Vec<Arc<Notice>>,
    /// `declarations.yaml`
    pub declarations: Vec<Arc<Declaration>>,
    /// `rulings.yaml`
    pub rulings: Vec<Arc<Ruling>>,
    /// `claims.yaml`
    pub claims: Vec<Arc<ClaimEvent>>,
}
