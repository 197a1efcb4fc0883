//! Rulings are append-only: the ledger remembers the digest of every one that was ever applied, and documents that drop
//! or alter one are refused.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use super::book::Book;
use super::record::AppliedRuling;
use crate::domain::documents::Ruling;

/// What the ledger must remember of a ruling in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotedRuling {
    /// Its id.
    pub id: Arc<str>,
    /// Over its canonical JSON.
    pub sha256: [u8; 32],
    /// When it was written down, by its own word.
    pub recorded_at_ms: i64,
}

impl From<&Ruling> for NotedRuling {
    fn from(ruling: &Ruling) -> Self {
        Self { id: ruling.id.as_str().into(), sha256: ruling.sha256, recorded_at_ms: ruling.recorded_at_ms }
    }
}

impl NotedRuling {
    /// The ledger's value.
    pub fn record(&self) -> AppliedRuling {
        AppliedRuling { sha256: self.sha256.to_vec(), recorded_at_ms: self.recorded_at_ms }
    }
}

/// Why documents must not come into force.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RefusedRuling {
    /// The ruling's id.
    pub id: String,
    /// What happened to it.
    pub kind: RefusedKind,
}

/// What happened to a ruling that was applied once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RefusedKind {
    /// It is not there any more.
    Dropped,
    /// It says something else.
    Altered,
}

impl fmt::Display for RefusedRuling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            RefusedKind::Dropped => "is missing, but the ledger has applied it",
            RefusedKind::Altered => "is not what it was when the ledger applied it",
        };
        let id = self.id.escape_debug();
        write!(
            f,
            "ruling `{id}` {what}: rulings are never removed or edited: restore it and revoke it with a new ruling"
        )
    }
}

/// The rulings that these documents drop or alter, by id; documents with any are refused. Sound only of a book that has
/// been read to its end: what it has not read it cannot miss.
pub fn refused_rulings(book: &Book, rulings: &[Arc<Ruling>]) -> Vec<RefusedRuling> {
    let given: HashMap<&str, &[u8; 32]> = rulings.iter().map(|r| (r.id.as_str(), &r.sha256)).collect();
    let refused = book.applied_rulings().filter_map(|(id, sha256)| {
        let kind = match given.get(id) {
            None => RefusedKind::Dropped,
            Some(now) if **now != sha256 => RefusedKind::Altered,
            Some(_) => return None,
        };
        Some(RefusedRuling { id: id.to_owned(), kind })
    });
    let mut refused: Vec<_> = refused.collect();
    refused.sort();
    refused
}
