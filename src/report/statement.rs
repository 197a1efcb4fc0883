//! The statement: what finance sends for one service month, and what an auditor recomputes from it.
//!
//! Pure: the standing, the evidence's digest, the facts' offsets, the documents and the hour of issue come in as
//! arguments, so the same inputs give the same bytes. A statement is a number with its grounds: the digest is over the
//! canonical JSON ([`canonical`]), the evidence and every document are named by theirs, and a revision says which
//! figure changed and why.
//!
//! The standing inside is kept as the JSON it was issued as: a later version of this program must read, check and show
//! statements of today, whatever has been added since.
//!
//! Deliberately not here: signatures (the digest proves that nothing was altered *by accident or unnoticed*, not who
//! issued it), and I/O: see [`super::archive`].

use std::collections::BTreeMap;
use std::io::{self, Read};

use chrono::{DateTime, NaiveDate, SecondsFormat, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::domain::party::{Issuer, Party};
use crate::domain::policy::Policy;
use crate::report::standing::Standing;

pub mod canonical;
pub mod evidence;
mod figures;
mod html;
mod index;
pub mod reasons;
mod render;
mod sheet;
mod terms;
mod text;
pub mod words;

pub use self::canonical::BadNumber;
pub use self::evidence::{Decision, Evidence, EvidenceRow, EvidenceTime};
pub use self::index::{IndexFormat, render_index};
pub use self::render::{Format, render};
pub use self::terms::{Terms, TierTerms};
pub use self::words::{Lang, clause_title};

use self::figures::Figures;

/// The schema of a statement.
pub const SCHEMA: &str = "sla-ledger/statement/v1";

/// One service month's statement. A changed field breaks the digest: valid ones come from [`Statement::issue`] and
/// [`verify`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// [`SCHEMA`].
    pub schema: String,
    /// When it was issued, RFC 3339 in the policy's zone.
    pub issued_at: String,
    /// Documents recorded later were ignored; null = all were used.
    pub as_of: Option<String>,
    /// 1, 2, …
    pub revision: u32,
    /// The revision it replaces.
    pub supersedes: Option<Supersedes>,
    /// The figures that are no longer what the superseded revision said.
    pub changes: Vec<Change>,
    /// Why they changed.
    pub because: Vec<Cause>,
    /// The claim window had closed before this revision was issued.
    pub after_close: bool,
    /// What it is filed under; a revision keeps the first one's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<String>,
    /// Who issues it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<Issuer>,
    /// The tenant by its legal name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub customer: Option<Party>,
    /// The standing, as in every other output.
    pub standing: Value,
    /// The terms of the policy that turn its counts into money.
    pub terms: Terms,
    /// The failing calls.
    pub evidence: Evidence,
    /// What of the source was counted.
    pub facts: Facts,
    /// All documents the figures depend on, by kind and id.
    pub documents: Vec<DocumentRef>,
    /// SHA-256 over the canonical JSON of all other members, in hex.
    pub sha256: String,
}

/// A superseded revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Supersedes {
    pub revision: u32,
    pub sha256: String,
    pub issued_at: String,
}

/// A figure that changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Its path in the standing: `failed`, `excluded.5.14`, `compensation.payout_minor`.
    pub field: String,
    /// What the superseded revision said.
    pub before: Value,
    /// What this one says.
    pub after: Value,
}

/// A reason why figures changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Cause {
    /// A document that the superseded revision did not depend on.
    DocumentAdded { kind: String, id: String, sha256: String },
    /// A document whose content changed.
    DocumentChanged { kind: String, id: String, before: String, after: String },
    /// A document that was removed.
    DocumentRemoved { kind: String, id: String, sha256: String },
    /// More of the source was counted: `facts: late calls`, or `facts: further calls` where the month was not complete.
    Facts { detail: String, offsets: Vec<OffsetMove> },
    /// The gaps in the source changed.
    Gaps { before: Vec<Gap>, after: Vec<Gap> },
    /// Nothing above: the calls and the documents are the same, so the program or its terms changed, or only
    /// time passed.
    Other,
}

/// How far a partition was counted, before and after; null = not at all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct OffsetMove {
    pub partition: i32,
    pub before: Option<i64>,
    pub after: Option<i64>,
}

/// What of the source was counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The source topic.
    pub topic: String,
    /// The next offset to be counted, by partition.
    pub offsets: BTreeMap<i32, i64>,
    /// Offsets that could not be read.
    pub gaps: Vec<Gap>,
}

/// Offsets that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Gap {
    /// The partition.
    pub partition: i32,
    /// First offset missing.
    pub from: i64,
    /// First offset present again.
    pub to: i64,
    /// `calls`: calls are missing; `window`: only the memory of duplicates.
    pub kind: String,
}

/// A document by its digest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DocumentRef {
    /// `policy`, `notice`, `declaration`, `ruling`, `claim`, `tenant`, `fee`, `calendar`, …
    pub kind: String,
    /// Its id, unique within the kind.
    pub id: String,
    /// SHA-256 in hex.
    pub sha256: String,
}

/// All that a statement is made of.
#[derive(Debug, Clone)]
pub struct Inputs<'a> {
    /// The standing.
    pub standing: &'a Standing,
    /// The policy it was judged by.
    pub policy: &'a Policy,
    /// The hour of issue.
    pub issued_at: DateTime<Utc>,
    /// Documents recorded later were ignored.
    pub as_of: Option<DateTime<Utc>>,
    /// What it is filed under, if the previous statement has no number.
    pub number: Option<String>,
    /// Who issues it.
    pub issuer: Option<Issuer>,
    /// The tenant by its legal name.
    pub customer: Option<Party>,
    /// Of [`evidence::write`] or [`evidence::digest`].
    pub evidence: Evidence,
    /// What of the source was counted.
    pub facts: Facts,
    /// What the figures depend on, in any order.
    pub documents: Vec<DocumentRef>,
}

/// The result of issuing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Issue {
    /// A new statement.
    Issued(Box<Statement>),
    /// The previous one says the same: it stays valid, bytes and all.
    Unchanged,
}

/// Why no statement can be issued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// The previous statement is another tenant's or another month's.
    #[error("the previous statement is about {previous}, not about {this}")]
    Subject {
        /// Its tenant and first day.
        previous: String,
        /// The tenant and first day asked for.
        this: String,
    },
    /// The hour of issue is before the previous statement's.
    #[error("the previous statement was issued at {previous}, later than {this}")]
    Backwards {
        /// The previous statement's hour.
        previous: String,
        /// The hour given.
        this: String,
    },
    /// Figures that do not agree with each other or with the evidence; such a statement must not be issued.
    #[error("the figures contradict each other: {}", .0.join("; "))]
    Contradictions(Vec<String>),
    /// The standing is not as this program knows it.
    #[error("the standing cannot be read: {0}")]
    Standing(String),
    /// The evidence cannot be written, so that it has no digest.
    #[error("the evidence cannot be written: {0}")]
    Evidence(String),
    /// A number that readers of JSON do not agree on.
    #[error(transparent)]
    Number(#[from] BadNumber),
}

impl Statement {
    /// Makes the statement of a service month, or reports that the previous one is still valid.
    ///
    /// The result that is compared: calls, failures, exclusions by clause, tier, rate, fee, compensation, completeness,
    /// last day and claim window. Not the state, which changes with time, and not what is left under clause 6.1, which
    /// changes with other months: once that cap binds, the payout changes as well.
    ///
    /// # Errors
    /// A previous statement of another subject or of a later hour; figures that contradict each other or the evidence.
    pub fn issue(inputs: Inputs<'_>, previous: Option<&Self>) -> Result<Issue, IssueError> {
        let zone = inputs.policy.time_zone;
        let standing = serde_json::to_value(inputs.standing).map_err(|e| IssueError::Standing(e.to_string()))?;
        let mut statement = Self {
            schema: SCHEMA.into(),
            issued_at: instant(inputs.issued_at, zone),
            as_of: inputs.as_of.map(|at| instant(at, zone)),
            revision: 1,
            supersedes: None,
            changes: Vec::new(),
            because: Vec::new(),
            after_close: false,
            number: previous.and_then(|previous| previous.number.clone()).or(inputs.number),
            issuer: inputs.issuer,
            customer: inputs.customer,
            standing,
            terms: Terms::of(inputs.policy),
            evidence: inputs.evidence,
            facts: inputs.facts,
            documents: inputs.documents,
            sha256: String::new(),
        };
        statement.facts.gaps.sort_unstable();
        statement.documents.sort_unstable();
        statement.documents.dedup();
        let figures = statement.figures().map_err(IssueError::Standing)?;
        let contradictions = figures.contradictions(&statement.terms, &statement.evidence);
        if !contradictions.is_empty() {
            return Err(IssueError::Contradictions(contradictions));
        }
        if let Some(previous) = previous {
            let before = previous.figures().map_err(IssueError::Standing)?;
            if before.subject() != figures.subject() {
                return Err(IssueError::Subject { previous: before.subject(), this: figures.subject() });
            }
            if DateTime::parse_from_rfc3339(&previous.issued_at).is_ok_and(|at| at > inputs.issued_at) {
                return Err(IssueError::Backwards {
                    previous: previous.issued_at.clone(),
                    this: statement.issued_at.clone(),
                });
            }
            statement.changes = changes(&before, &figures);
            if statement.changes.is_empty() {
                return Ok(Issue::Unchanged);
            }
            statement.because = causes(previous, &statement, before.complete);
            statement.revision = previous.revision + 1;
            statement.supersedes = Some(Supersedes {
                revision: previous.revision,
                sha256: previous.sha256.clone(),
                issued_at: previous.issued_at.clone(),
            });
            let window = figures.claim.as_ref().or(before.claim.as_ref());
            let today = inputs.issued_at.with_timezone(&zone).date_naive();
            statement.after_close =
                window.and_then(|w| w.last_day.parse::<NaiveDate>().ok()).is_some_and(|last| today > last);
        }
        statement.sha256 = canonical::sha256(&statement.undigested())?;
        Ok(Issue::Issued(Box::new(statement)))
    }

    /// The statement as a JSON document, readable by people, with a newline at its end.
    pub fn to_json(&self) -> String {
        let mut text = format!("{:#}", json!(self));
        text.push('\n');
        text
    }

    /// The tenant; empty in a statement that [`verify`] would refuse.
    pub fn tenant(&self) -> &str {
        self.member("tenant")
    }

    /// The first day of service, `YYYY-MM-DD`.
    pub fn period_start(&self) -> &str {
        self.member("period_start")
    }

    fn member(&self, name: &str) -> &str {
        self.standing.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    fn figures(&self) -> Result<Figures, String> {
        Figures::deserialize(&self.standing).map_err(|e| e.to_string())
    }

    fn undigested(&self) -> Value {
        let mut value = json!(self);
        if let Some(members) = value.as_object_mut() {
            members.remove("sha256");
        }
        value
    }
}

/// What is wrong with a given statement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// Not JSON, or a member occurs twice.
    #[error("invalid JSON: {0}")]
    NotJson(String),
    /// Another schema.
    #[error("the schema is {found}, expected \"{SCHEMA}\"")]
    Schema {
        /// The member `schema`, as JSON.
        found: String,
    },
    /// Something that a statement has is missing or of another type.
    #[error("this is not a statement: {0}")]
    NotAStatement(String),
    /// A number that readers of JSON do not agree on.
    #[error(transparent)]
    Number(#[from] BadNumber),
    /// It was altered after it was issued.
    #[error(
        "digest mismatch: the statement says {stated}, its content gives {computed}; it was altered after it \
         was issued{}",
        hints(.contradictions)
    )]
    Digest {
        /// The member `sha256`.
        stated: String,
        /// What the content gives.
        computed: String,
        /// Figures that contradict each other: where to look first.
        contradictions: Vec<String>,
    },
    /// The digest matches, but the figures cannot be right: the digest was recomputed for altered figures.
    #[error("the digest fits, but the figures contradict each other: {}", .0.join("; "))]
    Contradictions(Vec<String>),
    /// The evidence is not the one the statement was issued with.
    #[error("the digest of the evidence does not fit: the statement says {stated}, the file gives {computed}")]
    Evidence {
        /// The member `evidence.sha256`.
        stated: String,
        /// What the file gives.
        computed: String,
    },
    /// The evidence could not be read.
    #[error("the evidence cannot be read: {0}")]
    Read(String),
}

fn hints(contradictions: &[String]) -> String {
    if contradictions.is_empty() { String::new() } else { format!(" (look at: {})", contradictions.join("; ")) }
}

/// Recomputes the digest of a statement in JSON and the figures that follow from others.
///
/// # Errors
/// What is wrong with it.
pub fn verify(text: &str) -> Result<Statement, VerifyError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut value = canonical::parse(text).map_err(|e| VerifyError::NotJson(e.to_string()))?;
    let members = value.as_object_mut().ok_or_else(|| VerifyError::NotAStatement("it is not an object".into()))?;
    if members.get("schema").and_then(Value::as_str) != Some(SCHEMA) {
        let found = members.get("schema").map_or_else(|| "missing".into(), Value::to_string);
        return Err(VerifyError::Schema { found });
    }
    let no_digest = || VerifyError::NotAStatement("the member `sha256` is missing or no string".into());
    let stated = members.remove("sha256").and_then(|v| v.as_str().map(String::from)).ok_or_else(no_digest)?;
    let computed = canonical::sha256(&value)?;
    let statement = read(value, &stated);
    if stated != computed {
        let contradictions = statement.ok().map(|(s, f)| f.contradictions(&s.terms, &s.evidence)).unwrap_or_default();
        return Err(VerifyError::Digest { stated, computed, contradictions });
    }
    let (statement, figures) = statement.map_err(VerifyError::NotAStatement)?;
    let mut contradictions = figures.contradictions(&statement.terms, &statement.evidence);
    if statement.revision != statement.supersedes.as_ref().map_or(0, |s| s.revision) + 1 {
        contradictions.push(format!("revision {} does not follow the one it supersedes", statement.revision));
    }
    if contradictions.is_empty() { Ok(statement) } else { Err(VerifyError::Contradictions(contradictions)) }
}

fn read(mut value: Value, sha256: &str) -> Result<(Statement, Figures), String> {
    if let Some(members) = value.as_object_mut() {
        members.insert("sha256".into(), sha256.into());
    }
    let statement: Statement = serde_json::from_value(value).map_err(|e| e.to_string())?;
    let figures = statement.figures().map_err(|e| format!("its standing: {e}"))?;
    Ok((statement, figures))
}

/// Recomputes the digest of the evidence in CSV, byte by byte; a byte order mark in front is not part of it.
///
/// # Errors
/// It is different, or cannot be read.
pub fn verify_evidence(statement: &Statement, mut csv: impl Read) -> Result<(), VerifyError> {
    let mut hash = Sha256::new();
    let mut start = Vec::new();
    let read = csv.by_ref().take(evidence::BOM.len() as u64).read_to_end(&mut start);
    if start != evidence::BOM {
        hash.update(&start);
    }
    read.and_then(|_| io::copy(&mut csv, &mut hash)).map_err(|e| VerifyError::Read(e.to_string()))?;
    let computed = canonical::hex(&hash.finalize());
    let stated = statement.evidence.sha256.clone();
    if stated == computed { Ok(()) } else { Err(VerifyError::Evidence { stated, computed }) }
}

/// The figures that differ, in the order of [`Figures::result`].
fn changes(before: &Figures, after: &Figures) -> Vec<Change> {
    let (before, after): (Map<_, _>, Map<_, _>) = (before.result(), after.result());
    let zero_or_null = |field: &str| if field.starts_with("excluded.") { json!(0) } else { Value::Null };
    let mut fields: Vec<&String> = before.keys().chain(after.keys()).collect();
    fields.sort_unstable_by_key(|field| (figures::rank(field), *field));
    fields.dedup();
    let value =
        |side: &Map<String, Value>, field: &str| side.get(field).cloned().unwrap_or_else(|| zero_or_null(field));
    let change =
        |field: &String| Change { field: field.clone(), before: value(&before, field), after: value(&after, field) };
    fields.into_iter().map(change).filter(|c| c.before != c.after).collect()
}

fn causes(previous: &Statement, this: &Statement, was_complete: bool) -> Vec<Cause> {
    fn by_key(documents: &[DocumentRef]) -> BTreeMap<(&str, &str), &str> {
        documents.iter().map(|d| ((&*d.kind, &*d.id), &*d.sha256)).collect()
    }
    let (before, after) = (by_key(&previous.documents), by_key(&this.documents));
    let mut keys: Vec<_> = before.keys().chain(after.keys()).copied().collect();
    keys.sort_unstable();
    keys.dedup();
    let mut causes: Vec<Cause> = keys
        .into_iter()
        .filter_map(|key @ (kind, id)| {
            let (kind, id) = (kind.to_owned(), id.to_owned());
            match (before.get(&key).map(|s| (*s).to_owned()), after.get(&key).map(|s| (*s).to_owned())) {
                (None, Some(sha256)) => Some(Cause::DocumentAdded { kind, id, sha256 }),
                (Some(sha256), None) => Some(Cause::DocumentRemoved { kind, id, sha256 }),
                (Some(before), Some(after)) if before != after => {
                    Some(Cause::DocumentChanged { kind, id, before, after })
                }
                _ => None,
            }
        })
        .collect();
    let (before, after) = (&previous.facts, &this.facts);
    let mut partitions: Vec<i32> = before.offsets.keys().chain(after.offsets.keys()).copied().collect();
    partitions.sort_unstable();
    partitions.dedup();
    let offset = |facts: &Facts, partition| facts.offsets.get(&partition).copied();
    let offsets: Vec<_> = partitions
        .into_iter()
        .map(|partition| OffsetMove { partition, before: offset(before, partition), after: offset(after, partition) })
        .filter(|moved| moved.before != moved.after)
        .collect();
    if !offsets.is_empty() {
        let detail = if was_complete { "facts: late calls" } else { "facts: further calls" };
        causes.push(Cause::Facts { detail: detail.into(), offsets });
    }
    if before.gaps != after.gaps {
        causes.push(Cause::Gaps { before: before.gaps.clone(), after: after.gaps.clone() });
    }
    if causes.is_empty() {
        causes.push(Cause::Other);
    }
    causes
}

fn instant(at: DateTime<Utc>, zone: Tz) -> String {
    at.with_timezone(&zone).to_rfc3339_opts(SecondsFormat::AutoSi, false)
}
