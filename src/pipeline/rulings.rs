//! Rulings are append-only: the ledger keeps every one that was ever applied, with its digest and its text, and documents
//! that drop or alter one are refused.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use super::book::Book;
use super::record::AppliedRuling;
use crate::domain::documents::Ruling;

/// Why a figure is not complete while the documents drop or alter a ruling of the ledger.
pub const RULINGS_REJECTED: &str = "rulings.yaml is rejected: the ledger has applied other rulings";
/// Refused rulings that a sentence names.
const NAMED: usize = 3;

/// What the ledger must record of an active ruling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotedRuling {
    /// Its id.
    pub id: Arc<str>,
    /// Over its canonical JSON.
    pub sha256: [u8; 32],
    /// When it was recorded, as the ruling states it.
    pub recorded_at_ms: i64,
    /// Its canonical JSON.
    pub canonical: Arc<str>,
    /// Its index among the active rulings, from 0.
    pub position: u32,
}

impl NotedRuling {
    /// What the ledger must record of these rulings, which are in the order of their file.
    pub fn all(rulings: &[Arc<Ruling>]) -> Vec<Self> {
        let noted = |(ruling, position): (&Arc<Ruling>, u32)| Self {
            id: ruling.id.as_str().into(),
            sha256: ruling.sha256,
            recorded_at_ms: ruling.recorded_at_ms,
            canonical: ruling.canonical.clone(),
            position,
        };
        rulings.iter().zip(0..).map(noted).collect()
    }

    /// The ledger's value.
    pub fn record(&self) -> AppliedRuling {
        AppliedRuling {
            sha256: self.sha256.to_vec(),
            recorded_at_ms: self.recorded_at_ms,
            canonical: (*self.canonical).into(),
            position: self.position,
        }
    }
}

/// Why documents must not take effect.
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
    /// It is missing.
    Dropped,
    /// Its content differs.
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
            "ruling `{id}` {what}: rulings are never removed or edited; restore it, and revoke it with a new ruling"
        )
    }
}

/// The rulings that these documents drop or alter, by id; documents that do so are refused. Valid only for a book that
/// has been read to its end: it cannot miss rulings that it has not read.
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

/// A ruling of the ledger or of given documents, and whether both have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComparedRuling {
    /// Its id.
    pub id: Arc<str>,
    /// What the ledger has of it, or, if that has nothing yet, what it will record.
    pub ruling: AppliedRuling,
    /// Whether both have it.
    pub state: RulingState,
}

/// Whether the ledger and the documents have a ruling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RulingState {
    /// Both have the same.
    Same,
    /// The documents have another one under its id.
    Altered,
    /// Only the ledger has it.
    Missing,
    /// Only the documents have it: the ledger has not applied it yet.
    NotApplied,
    /// The ledger has it, and the documents cannot be read.
    Unknown,
}

impl RulingState {
    /// All states of a comparison with documents that can be read.
    pub const COMPARED: [Self; 4] = [Self::Same, Self::Altered, Self::Missing, Self::NotApplied];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Altered => "altered",
            Self::Missing => "missing",
            Self::NotApplied => "not applied",
            Self::Unknown => "unknown",
        }
    }
}

/// The ledger's rulings, compared with those of documents (`None`: they cannot be read), and then those that it does not
/// have, in the order of their file.
pub fn compared_rulings(book: &Book, rulings: Option<&[Arc<Ruling>]>) -> Vec<ComparedRuling> {
    let refused = rulings.map(|rulings| refused_rulings(book, rulings));
    let refused: Option<HashMap<&str, RefusedKind>> =
        refused.as_ref().map(|refused| refused.iter().map(|ruling| (ruling.id.as_str(), ruling.kind)).collect());
    let state = |id: &str| match &refused {
        None => RulingState::Unknown,
        Some(refused) => match refused.get(id) {
            None => RulingState::Same,
            Some(RefusedKind::Dropped) => RulingState::Missing,
            Some(RefusedKind::Altered) => RulingState::Altered,
        },
    };
    let applied = book.rulings().into_iter().map(|(id, ruling)| ComparedRuling { state: state(&id), id, ruling });
    let mut all: Vec<_> = applied.collect();
    let known: HashSet<Arc<str>> = all.iter().map(|ruling| ruling.id.clone()).collect();
    let new = NotedRuling::all(rulings.unwrap_or_default()).into_iter().filter(|ruling| !known.contains(&ruling.id));
    all.extend(new.map(|new| {
        let ruling = new.record();
        ComparedRuling { id: new.id, ruling, state: RulingState::NotApplied }
    }));
    all
}

/// The refused rulings in one sentence: the first ones, and how many more there are.
pub fn refusal(refused: &[RefusedRuling]) -> String {
    let named: Vec<_> = refused.iter().take(NAMED).map(ToString::to_string).collect();
    let more = refused.len().saturating_sub(NAMED);
    let more = if more == 0 { String::new() } else { format!("; and {more} more") };
    format!(
        "rulings.yaml rejected: {}{more}. `sla-ledger ruling export` prints all rulings of the ledger",
        named.join("; ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::contract::Contract;
    use crate::domain::documents::Verdict;
    use crate::domain::policy::Policy;
    use crate::pipeline::book::{Event, Trouble};
    use crate::pipeline::publisher::Publisher;
    use crate::pipeline::record::{Key, RULINGS_SHARD};
    use crate::pipeline::settings::CountingSettings;
    use crate::pipeline::shard::{Flush, Owner, Shard, ShardState};

    fn ruling(id: &str, digest: u8) -> Arc<Ruling> {
        Arc::new(Ruling {
            id: id.into(),
            recorded_at_ms: 7,
            actor: "a".into(),
            reason: "r".into(),
            evidence: None,
            verdict: Verdict::Revoke("x".into()),
            canonical: "".into(),
            sha256: [digest; 32],
        })
    }

    fn owner(shard: u32, state: ShardState) -> Shard {
        let owner = Owner::new(shard, "w", (1, 2));
        Shard::take_over(owner, &CountingSettings::default(), state, 0).expect("settings")
    }

    /// Keys of the rulings in a flush.
    fn keys(flush: &Flush) -> Vec<&str> {
        flush.records.iter().map(|(key, _)| key.as_str()).filter(|key| key.starts_with("R ")).collect()
    }

    fn apply(book: &mut Book, at: &mut i64, flush: &Flush, torn: bool) -> Option<Event> {
        for (key, value) in &flush.records {
            book.apply(flush.shard, *at, key.as_bytes(), value.as_deref());
            *at += 1;
        }
        if !torn {
            let (key, value) = &flush.checkpoint;
            book.apply(flush.shard, *at, key.as_bytes(), Some(value));
            *at += 1;
        }
        book.reached_end(flush.shard, *at)
    }

    #[test]
    fn a_ruling_is_written_once_and_survives_takeovers() {
        let (mut book, mut at) = (Book::new(2), 0);
        let mut shard = owner(RULINGS_SHARD, ShardState::default());
        let rulings = [ruling("b", 2), ruling("a 1", 1)];
        shard.note_rulings(&NotedRuling::all(&rulings));
        // A snapshot that did not commit is repeated.
        assert_eq!(keys(&shard.snapshot()), ["R 0 b", "R 0 a 1"]);
        let flush = shard.snapshot();
        assert_eq!(keys(&flush), ["R 0 b", "R 0 a 1"]);
        // One more comes between the snapshot and its commit.
        shard.note_rulings(&NotedRuling::all(&[rulings[0].clone(), rulings[1].clone(), ruling("c", 3)]));
        shard.committed();
        assert!(matches!(apply(&mut book, &mut at, &flush, false), Some(Event::Published(_))));
        assert_eq!(book.applied_rulings().collect::<Vec<_>>(), [("a 1", [1; 32]), ("b", [2; 32])]);
        assert!(shard.wants_flush());
        let flush = shard.snapshot();
        assert_eq!(keys(&flush), ["R 0 c"]);
        shard.committed();
        assert!(!shard.wants_flush());
        assert!(matches!(apply(&mut book, &mut at, &flush, false), Some(Event::Published(_))));
        let state = book.shard(RULINGS_SHARD).expect("it is there").state().expect("sound");
        let mut next = owner(RULINGS_SHARD, state);
        assert!(!next.wants_flush());
        // The next owner's documents differ: what is written stays.
        next.note_rulings(&NotedRuling::all(&[ruling("a 1", 9), ruling("d", 4)]));
        let flush = next.snapshot();
        assert_eq!(keys(&flush), ["R 0 d"]);
        assert!(matches!(apply(&mut book, &mut at, &flush, false), Some(Event::Published(_))));
        assert_eq!(book.applied_rulings().count(), 4);
    }

    #[test]
    fn a_torn_ruling_is_vouched_for() {
        let (mut book, mut at) = (Book::new(1), 0);
        let mut shard = owner(RULINGS_SHARD, ShardState::default());
        let flush = shard.snapshot();
        shard.committed();
        assert!(matches!(apply(&mut book, &mut at, &flush, false), Some(Event::Published(_))));
        shard.note_rulings(&NotedRuling::all(&[ruling("a", 1)]));
        assert_eq!(apply(&mut book, &mut at, &shard.snapshot(), true), None);
        assert_eq!(book.applied_rulings().count(), 0);
        let mut next = owner(RULINGS_SHARD, book.shard(RULINGS_SHARD).expect("it is there").state().expect("sound"));
        assert!(next.wants_flush());
        let flush = next.snapshot();
        assert_eq!(keys(&flush), [""; 0]);
        next.committed();
        assert!(!next.wants_flush());
        assert!(matches!(apply(&mut book, &mut at, &flush, false), Some(Event::Published(_))));
        assert_eq!(book.applied_rulings().collect::<Vec<_>>(), [("a", [1; 32])]);
    }

    #[test]
    fn a_ruling_that_somebody_removes_from_the_topic_is_missed() {
        let (mut book, mut at) = (Book::new(1), 0);
        let mut shard = owner(RULINGS_SHARD, ShardState::default());
        shard.note_rulings(&NotedRuling::all(&[ruling("a", 1)]));
        let flush = shard.snapshot();
        shard.committed();
        apply(&mut book, &mut at, &flush, false);
        let key = Key::Ruling { id: "a".into() }.encode(RULINGS_SHARD);
        book.apply(RULINGS_SHARD, at, key.as_bytes(), None);
        at += 1;
        let trouble = apply(&mut book, &mut at, &shard.snapshot(), false);
        assert!(matches!(trouble, Some(Event::Trouble(Trouble::Digest { .. }))), "{trouble:?}");
    }

    /// Rulings are compared with what is published: that waits for every shard, but not for one that cannot be read.
    #[test]
    fn a_shard_in_trouble_does_not_hold_the_comparison_up() {
        let contract = Arc::new(Contract::of_policy(Policy::tencent_ccc()));
        let mut publisher = Publisher::new(2, contract);
        let mut shard = owner(RULINGS_SHARD, ShardState::default());
        shard.note_rulings(&NotedRuling::all(&[ruling("a", 1)]));
        let flush = shard.snapshot();
        let records = flush.records.iter().map(|(key, value)| (key, value.as_deref()));
        for (at, (key, value)) in (0..).zip(records.chain([(&flush.checkpoint.0, Some(&flush.checkpoint.1[..]))])) {
            publisher.apply(RULINGS_SHARD, at, key.as_bytes(), value);
        }
        publisher.reached_end(RULINGS_SHARD, 9);
        assert!(publisher.publish(|| ()).is_none(), "shard 1 was not read");
        publisher.apply(1, 0, b"C 1", Some(b"?"));
        let (value, _) = publisher.publish(|| ()).expect("all shards were read, or are in trouble");
        assert_eq!(refused_rulings(&value.book, &[]).len(), 1);
    }

    #[test]
    fn other_shards_write_no_rulings() {
        let mut shard = owner(1, ShardState::default());
        shard.snapshot();
        shard.committed();
        shard.note_rulings(&NotedRuling::all(&[ruling("a", 1)]));
        assert!(!shard.wants_flush());
    }

    #[test]
    fn documents_that_drop_or_alter_a_ruling_are_refused() {
        let (mut book, mut at) = (Book::new(1), 0);
        let mut shard = owner(RULINGS_SHARD, ShardState::default());
        let all = [ruling("a", 1), ruling("b", 2), ruling("c", 3)];
        assert_eq!(refused_rulings(&book, &[]), []);
        shard.note_rulings(&NotedRuling::all(&all));
        apply(&mut book, &mut at, &shard.snapshot(), false);
        assert_eq!(refused_rulings(&book, &all), []);
        let lines: Vec<String> = refused_rulings(&book, &[ruling("c", 9), ruling("b", 2), ruling("d", 4)])
            .iter()
            .map(ToString::to_string)
            .collect();
        let help = "rulings are never removed or edited; restore it, and revoke it with a new ruling";
        assert_eq!(
            lines,
            [
                format!("ruling `a` is missing, but the ledger has applied it: {help}"),
                format!("ruling `c` is not what it was when the ledger applied it: {help}"),
            ]
        );
    }
}
