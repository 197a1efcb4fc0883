//! `rulings.yaml`: people's decisions, append-only; and how one is added safely.
//!
//! The digest of a ruling is SHA-256 over its canonical JSON: the keys that are given (a null one is not), sorted,
//! without spaces; every instant in UTC with milliseconds, as `"2026-03-17T01:00:00.000Z"`; `scope` an object of its
//! own. So the layout, comments and the offset in which an instant is written may change, and nothing else.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, SecondsFormat};
use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};

use super::papers::{FREE_TEXT, recorded_at};
use super::values::{self, INSTANT, OWNED, of};
use super::{check_text, judge_range};
use crate::domain::calendar::LocalDay;
use crate::domain::documents::{Ruling, Scope, Verdict};
use crate::domain::policy::Clause;
use crate::yaml::FileErrors;
use crate::yaml::read::{self, Reader, Section, shown_text};
use crate::yaml::tree;

/// Longest canonical JSON of a ruling, in bytes: the ledger keeps it in one record. Some 7,000 request ids.
const MAX_CANONICAL_BYTES: usize = 256 << 10;
/// How long another process may hold the file.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// A ruling to be added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRuling {
    /// Its id; `None`: `r-<day>-<n>`, the day in UTC.
    pub id: Option<String>,
    /// Who decided.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// On what grounds. Only a revocation may do without.
    pub evidence: Option<String>,
    /// What was decided.
    pub verdict: Verdict,
}

/// Why no ruling was added; the file is as it was.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The file has mistakes already.
    #[error("the file has mistakes, fix them first:\n{0}")]
    File(FileErrors),
    /// With the new ruling the file would have mistakes.
    #[error("the ruling is rejected:\n{0}")]
    Ruling(FileErrors),
    /// A ruling of the file was recorded later than this one would be.
    #[error("the file holds a ruling recorded at {0}, which is later than this one: check the machine's clock")]
    ClockBehind(String),
    /// The new entry cannot be put below the others.
    #[error("the entry does not fit below the others: write the file as a list with a `- ` line for each ruling")]
    Layout,
    /// Somebody else holds the file.
    #[error("{} is locked by another process", .0.display())]
    Locked(PathBuf),
    /// The file system refused.
    #[error("{path}: {error}", path = path.display())]
    Io {
        /// What was read or written.
        path: PathBuf,
        /// What it said.
        error: std::io::Error,
    },
}

/// Reads `rulings.yaml`.
///
/// # Errors
/// With everything that is wrong.
pub fn parse(name: &str, text: &str) -> Result<Vec<Ruling>, FileErrors> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let read = Reader::read_list(name, text, "a ruling", ruling, judge)?;
    Ok(read.into_iter().map(|entry| entry.ruling).collect())
}

/// Rulings as the ledger keeps them, in the order of their file, as `rulings.yaml`: a list, a line each. What comes out is
/// what went in, but for layout and comments; the digests agree.
///
/// # Errors
/// A text that is not a ruling, or rulings that do not go together: by no means what this program has written.
pub fn file_of(canonical: &[&str]) -> Result<String, FileErrors> {
    let list: String = canonical.iter().map(|text| format!("- {}\n", yaml_of(text))).collect();
    let rulings = parse("the ledger", &list)?;
    let entry = |ruling: &Ruling| {
        let Ruling { id, recorded_at_ms, actor, reason, evidence, verdict, .. } = ruling.clone();
        render(&id, &NewRuling { id: None, actor, reason, evidence, verdict }, recorded_at_ms)
    };
    Ok(rulings.iter().map(|ruling| format!("- {}\n", entry(ruling))).collect())
}

/// JSON is YAML, but for the characters that YAML wants escaped.
fn yaml_of(json: &str) -> String {
    let escaped = |c: char| match c {
        c if is_special(c) => format!("\\u{:04x}", u32::from(c)),
        c => c.into(),
    };
    json.chars().map(escaped).collect()
}

/// What YAML takes for a line's end, cannot hold, or drops.
fn is_special(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}

/// A ruling with the places that cross-checks show.
pub(super) struct Entry {
    ruling: Ruling,
    id_at: Option<Range<usize>>,
    revokes_at: Option<Range<usize>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Decision {
    Exclude,
    Reinstate,
    CountAsFailure,
    Revoke,
}

const DECISIONS: [(&str, Decision); 4] = [
    ("exclude", Decision::Exclude),
    ("reinstate", Decision::Reinstate),
    ("count_as_failure", Decision::CountAsFailure),
    ("revoke", Decision::Revoke),
];

pub(super) fn ruling(section: &mut Section) -> Entry {
    let id = section.key("id", "Its id, which no other ruling has.").required("r-20260320-1", of(OWNED));
    let recorded_at_ms = recorded_at(section);
    let actor = section.key("actor", "Who decided.").required("\"jane@example.com\"", of(FREE_TEXT));
    let decision = section
        .key(
            "decision",
            "exclude: the calls are not the provider's failures by this clause. reinstate: they are after all. \
             count_as_failure: they are failures whatever their code says. revoke: an earlier ruling is taken back.",
        )
        .needed("exclude", read::choice(&DECISIONS));
    let clause =
        section.key("clause", "The contract's clause. Required, but not with revoke.").optional(of(values::CLAUSE));
    let reason = section.key("reason", "Why.").required("\"why\"", of(FREE_TEXT));
    let evidence =
        section.key("evidence", "On what grounds, e.g. a link. Required, but not with revoke.").optional(of(FREE_TEXT));
    let revokes = section.key("revokes", "The id of the ruling that revoke takes back.").optional(of(OWNED));
    let mut canonical = BTreeMap::from([
        ("id", json!(id)),
        ("recorded_at", json!(utc(recorded_at_ms))),
        ("actor", json!(actor)),
        ("reason", json!(reason)),
    ]);
    let word = DECISIONS.iter().find(|(_, known)| Some(*known) == decision).map(|(word, _)| json!(word));
    let clause_text = clause.map(|clause| json!(clause.to_string()));
    for (key, value) in [
        ("decision", word),
        ("clause", clause_text),
        ("evidence", evidence.as_ref().map(|text| json!(text))),
        ("revokes", revokes.as_ref().map(|id| json!(id))),
    ] {
        canonical.extend(value.map(|value| (key, value)));
    }
    let mut scope = None;
    if decision == Some(Decision::Revoke) {
        revocation(section);
    } else {
        scope = section.key("scope", SCOPE).section(|section| read_scope(section, decision.is_some(), &mut canonical));
        decides(section, decision);
    }
    let revokes_at = section.place("revokes");
    let id_at = section.place("id");
    let filler = || Verdict::Revoke(String::new());
    let verdict = match (decision, clause, scope) {
        (Some(Decision::Exclude), Some(clause), Some(scope)) => Verdict::Exclude(clause, scope),
        (Some(Decision::Reinstate), Some(clause), Some(scope)) => Verdict::Reinstate(clause, scope),
        (Some(Decision::CountAsFailure), Some(clause), Some(scope)) => Verdict::CountAsFailure(clause, scope),
        (Some(Decision::Revoke), ..) => revokes.map_or_else(filler, Verdict::Revoke),
        _ => filler(),
    };
    // A map of text, lists and one object cannot fail to be written.
    let canonical: Arc<str> = serde_json::to_string(&canonical).unwrap_or_default().into();
    if canonical.len() > MAX_CANONICAL_BYTES {
        let message = format!("the ruling is too long: {} bytes", canonical.len());
        let help = format!("{MAX_CANONICAL_BYTES} bytes are the most (about 7,000 request ids); write several rulings");
        section.complain(section.at(), message, &help);
    }
    let sha256 = Sha256::digest(&*canonical).into();
    let ruling = Ruling { id, recorded_at_ms, actor, reason, evidence, verdict, canonical, sha256 };
    Entry { ruling, id_at, revokes_at }
}

/// What a revocation must and must not say.
fn revocation(section: &mut Section) {
    if !section.has("revokes") {
        let help = "name the ruling that is taken back, e.g. `revokes: r-20260320-1`";
        section.mistake("decision", "`revokes` is missing", help);
    }
    let (why, help) = ("says nothing in a revocation", "remove it; the whole ruling is taken back");
    if section.has("clause") {
        section.mistake("clause", format!("`clause` {why}"), help);
    }
    section.refuse("scope", why, help);
}

/// What any other ruling must and must not say.
fn decides(section: &mut Section, decision: Option<Decision>) {
    if decision.is_none() {
        return;
    }
    for (key, example) in [("clause", "\"5.14\""), ("evidence", "\"https://…\"")] {
        if !section.has(key) {
            section.mistake("decision", format!("`{key}` is missing"), format!("add it, e.g. `{key}: {example}`"));
        }
    }
    if section.has("revokes") {
        let help = "write `decision: revoke`, or remove it; to replace a ruling, write a revocation and a new one";
        section.mistake("revokes", "`revokes` goes with `decision: revoke` only", help);
    }
}

/// What a scope is.
const SCOPE: &str = "Which calls: any of `tenants`, `from`, `to`, `actions` and `codes`, at least one; or `tenant`, \
                     `day` and `request_ids`. Required, but not with revoke.";

/// Reads a scope; puts what is given into `canonical`. `None` after a mistake.
fn read_scope(section: &mut Section, judged: bool, canonical: &mut BTreeMap<&str, Json>) -> Option<Scope> {
    const EMPTY_HELP: &str = "say which calls: `{tenants: […], from: …, to: …, actions: […], codes: […]}`, any of \
                              them, or `{tenant: …, day: …, request_ids: […]}`";
    let names = || read::list(of(OWNED));
    let tenants = section.key("tenants", "These tenants' calls.").optional(names());
    let from_ms = section.key("from", "Calls from this instant on.").optional(of(INSTANT));
    let to_ms = section.key("to", "Calls before this instant.").optional(of(INSTANT));
    let actions = section.key("actions", "Calls of these API actions.").optional(names());
    let codes = section.key("codes", "Calls with these codes.").optional(names());
    let tenant = section.key("tenant", "With `request_ids`: whose calls.").optional(of(OWNED));
    let day: Option<LocalDay> = section.key("day", "With `request_ids`: their day.").optional(of(values::DAY));
    let request_ids = section.key("request_ids", "Single calls.").optional(names());
    let given: BTreeMap<&str, Json> = [
        ("tenants", tenants.as_ref().map(|list| json!(list))),
        ("from", from_ms.map(|at| json!(utc(at)))),
        ("to", to_ms.map(|at| json!(utc(at)))),
        ("actions", actions.as_ref().map(|list| json!(list))),
        ("codes", codes.as_ref().map(|list| json!(list))),
        ("tenant", tenant.as_ref().map(|text| json!(text))),
        ("day", day.map(|day| json!(day.to_string()))),
        ("request_ids", request_ids.as_ref().map(|list| json!(list))),
    ]
    .into_iter()
    .filter_map(|(key, value)| Some((key, value?)))
    .collect();
    canonical.insert("scope", json!(given));
    judge_range(section, "from", from_ms, "to", to_ms);

    const SINGLE: [&str; 3] = ["tenant", "day", "request_ids"];
    const RANGE: [&str; 5] = ["tenants", "from", "to", "actions", "codes"];
    if SINGLE.iter().any(|key| section.has(key)) {
        let mut whole = true;
        for key in SINGLE.into_iter().filter(|key| !section.has(key)).collect::<Vec<_>>() {
            let help = "a ruling by request ids names `tenant`, `day` and `request_ids`; for others write `tenants`";
            section.mistake(SINGLE[2], format!("`scope.{key}` is missing"), help);
            whole = false;
        }
        for key in RANGE.into_iter().filter(|key| section.has(key)).collect::<Vec<_>>() {
            let message = format!("`scope.{key}` does not go with a ruling by request ids");
            section.mistake(key, message, "remove it, or write two rulings");
            whole = false;
        }
        if request_ids.as_ref().is_some_and(Vec::is_empty) {
            section.mistake("request_ids", "`scope.request_ids` must not be empty", "name the calls");
            whole = false;
        }
        return match (tenant, day, request_ids) {
            (Some(tenant), Some(day), Some(request_ids)) if whole => Some(Scope::Calls { tenant, day, request_ids }),
            _ => None,
        };
    }
    let scope = Scope::Range {
        tenants: tenants.unwrap_or_default(),
        from_ms,
        to_ms,
        actions: actions.unwrap_or_default(),
        codes: codes.unwrap_or_default(),
    };
    let nothing = matches!(&scope, Scope::Range { tenants, from_ms: None, to_ms: None, actions, codes }
        if tenants.is_empty() && actions.is_empty() && codes.is_empty());
    if !nothing {
        return Some(scope);
    }
    // A key that is given and wrong has been complained about.
    let only_empty = RANGE.iter().all(|key| !section.has(key) || given.contains_key(key));
    if judged && only_empty && !section.is_broken() {
        section.complain(section.at(), "`scope` is empty: the ruling would be about every call there is", EMPTY_HELP);
    }
    None
}

/// Checks the rulings against each other.
fn judge(reader: &mut Reader, entries: &[(Entry, Range<usize>)]) {
    let mut first: HashMap<&str, usize> = HashMap::new();
    for (index, (Entry { ruling, id_at, .. }, at)) in entries.iter().enumerate() {
        if first.contains_key(ruling.id.as_str()) && !ruling.id.is_empty() {
            let message = format!("`id` {} is an earlier ruling's", shown_text(&ruling.id));
            let help =
                "rulings are append-only: give this one an id of its own; to change one, revoke it and write a new one";
            reader.complain(id_at.clone().unwrap_or_else(|| at.clone()), message, help);
        } else {
            first.insert(&ruling.id, index);
        }
    }
    for (index, (Entry { ruling, revokes_at, .. }, at)) in entries.iter().enumerate() {
        let Verdict::Revoke(revoked) = &ruling.verdict else { continue };
        // Fillers of what was wrong already.
        if revoked.is_empty() || ruling.recorded_at_ms == 0 {
            continue;
        }
        let mut complain = |message: String, help: &str| {
            reader.complain(revokes_at.clone().unwrap_or_else(|| at.clone()), message, help);
        };
        let shown = shown_text(revoked);
        if *revoked == ruling.id {
            complain(format!("`revokes` names the ruling itself, {shown}"), "name the one that is taken back");
            continue;
        }
        let Some(&target) = first.get(revoked.as_str()) else {
            complain(format!("`revokes` names no ruling of this file: {shown}"), "correct the id");
            continue;
        };
        let other = &entries[target].0.ruling;
        if matches!(&other.verdict, Verdict::Revoke(id) if !id.is_empty()) {
            let help = "a revocation stays: write a new ruling that says what holds now";
            complain(format!("`revokes` names a revocation: {shown}"), help);
        } else if (other.recorded_at_ms, target) > (ruling.recorded_at_ms, index) {
            let help = "correct `recorded_at`; of two recorded at the same instant the upper one is the earlier";
            complain(format!("`revokes` names a ruling that was recorded later: {shown}"), help);
        }
    }
}

fn utc(ms: i64) -> String {
    DateTime::from_timestamp_millis(ms).unwrap_or_default().to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Adds a ruling at the end of the file, which need not exist.
///
/// The file is locked against other writers, checked, and replaced as a whole, so that a reader sees the old or the new
/// one; what was in it stays byte for byte. After a return without error the ruling is on disk.
///
/// # Errors
/// See [`AppendError`]; the file is as it was.
pub fn append(path: &Path, new: &NewRuling, recorded_at_ms: i64) -> Result<Ruling, AppendError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |error| AppendError::Io { path, error }
    };
    let (path, mut file) = open_locked(path)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(io(&path))?;
    let (text, added) = with_ruling(&path, bytes, new, recorded_at_ms)?;
    replace(&path, &file, text.as_bytes())?;
    Ok(added)
}

/// What [`append`] would add, checked the same way; writes nothing.
///
/// # Errors
/// See [`AppendError`].
pub fn check(path: &Path, new: &NewRuling, recorded_at_ms: i64) -> Result<Ruling, AppendError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(AppendError::Io { path: path.to_owned(), error }),
    };
    with_ruling(path, bytes, new, recorded_at_ms).map(|(_, ruling)| ruling)
}

/// What [`append`] would add to a file with these rulings, checked the same way.
///
/// # Errors
/// See [`AppendError`].
pub fn check_among(rulings: &[Arc<Ruling>], new: &NewRuling, recorded_at_ms: i64) -> Result<Ruling, AppendError> {
    let texts: Vec<&str> = rulings.iter().map(|ruling| &*ruling.canonical).collect();
    let text = file_of(&texts).map_err(AppendError::File)?;
    with_ruling(Path::new("rulings.yaml"), text.into_bytes(), new, recorded_at_ms).map(|(_, ruling)| ruling)
}

/// The file's text with the new ruling at its end, and that ruling.
fn with_ruling(
    path: &Path,
    bytes: Vec<u8>,
    new: &NewRuling,
    recorded_at_ms: i64,
) -> Result<(String, Ruling), AppendError> {
    let name = path.display().to_string();
    let old_text = check_text(&name, bytes).map_err(AppendError::File)?;
    let old = parse(&name, &old_text).map_err(AppendError::File)?;
    if let Some(last) = old.iter().map(|ruling| ruling.recorded_at_ms).max().filter(|last| *last > recorded_at_ms) {
        return Err(AppendError::ClockBehind(utc(last)));
    }
    let id = new.id.clone().unwrap_or_else(|| fresh_id(&old, recorded_at_ms));
    let text = with_entry(&old_text, &render(&id, new, recorded_at_ms));
    let mut rulings = match parse(&name, &text) {
        Ok(rulings) => rulings,
        // Text was put where no entry can be.
        Err(_) if tree::parse(&text).is_err() => return Err(AppendError::Layout),
        Err(errors) => return Err(AppendError::Ruling(errors)),
    };
    let kept = rulings.len() == old.len() + 1 && rulings.iter().zip(&old).all(|(now, before)| now == before);
    let Some(added) = rulings.pop().filter(|_| kept) else { return Err(AppendError::Layout) };
    let NewRuling { actor, reason, evidence, verdict, .. } = new;
    let as_meant = (&added.id, &added.actor, &added.reason, &added.evidence, &added.verdict, added.recorded_at_ms)
        == (&id, actor, reason, evidence, verdict, recorded_at_ms);
    if !as_meant {
        return Err(AppendError::Layout);
    }
    Ok((text, added))
}

/// The file behind `path`, created if need be, exclusively locked, and still the one that `path` names.
fn open_locked(path: &Path) -> Result<(PathBuf, File), AppendError> {
    let io = |error| AppendError::Io { path: path.to_owned(), error };
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(io)?;
        // A link stays a link: its target is replaced.
        let real = path.canonicalize().map_err(io)?;
        match file.try_lock() {
            // Whoever held the lock may have put a new file in its place.
            Ok(()) if same_file(&file, &real).map_err(io)? => return Ok((real, file)),
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(20)),
            Err(TryLockError::Error(error)) => return Err(io(error)),
        }
        if Instant::now() > deadline {
            return Err(AppendError::Locked(real));
        }
    }
}

fn same_file(file: &File, path: &Path) -> std::io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let (ours, named) = (file.metadata()?, path.metadata()?);
    Ok((ours.dev(), ours.ino()) == (named.dev(), named.ino()))
}

/// Puts `bytes` in place of the file: on disk, or not at all.
fn replace(path: &Path, old: &File, bytes: &[u8]) -> Result<(), AppendError> {
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = directory.join(format!(".{name}.{}.tmp", std::process::id()));
    let write = || {
        // What a crash left behind; nobody else writes it while we hold the lock.
        _ = std::fs::remove_file(&temporary);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        let metadata = old.metadata()?;
        // Only root may give files away; for others the owner is the same as a rule.
        if (file.metadata()?.uid(), file.metadata()?.gid()) != (metadata.uid(), metadata.gid()) {
            _ = fchown(&file, Some(metadata.uid()), Some(metadata.gid()));
        }
        file.set_permissions(metadata.permissions())?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        File::open(directory)?.sync_all()
    };
    write().map_err(|error| {
        _ = std::fs::remove_file(&temporary);
        AppendError::Io { path: path.to_owned(), error }
    })
}

fn fresh_id(rulings: &[Ruling], recorded_at_ms: i64) -> String {
    let day = DateTime::from_timestamp_millis(recorded_at_ms).unwrap_or_default().format("%Y%m%d");
    let taken: std::collections::HashSet<_> = rulings.iter().map(|ruling| ruling.id.as_str()).collect();
    let mut number = 1;
    loop {
        let id = format!("r-{day}-{number}");
        if !taken.contains(id.as_str()) {
            return id;
        }
        number += 1;
    }
}

/// The file with one more line, in the style of the others.
fn with_entry(text: &str, entry: &str) -> String {
    let newline = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let dash = |line: &&str| line.trim_start().starts_with("- ") || line.trim() == "-";
    let indent = text.lines().find(dash).map_or("", |line| &line[..line.len() - line.trim_start().len()]);
    let between = if text.is_empty() || text.ends_with('\n') { "" } else { newline };
    format!("{text}{between}{indent}- {entry}{newline}")
}

/// The ruling as a flow mapping on one line.
fn render(id: &str, new: &NewRuling, recorded_at_ms: i64) -> String {
    let mut keys = vec![
        ("id", scalar(id)),
        ("recorded_at", scalar(&utc(recorded_at_ms))),
        ("actor", scalar(&new.actor)),
        ("decision", new.verdict.as_str().to_owned()),
    ];
    let mut decided = |clause: &Clause, scope: &Scope| {
        keys.push(("clause", format!("\"{clause}\"")));
        keys.push(("scope", mapping(&scope_keys(scope))));
    };
    match &new.verdict {
        Verdict::Exclude(clause, scope)
        | Verdict::Reinstate(clause, scope)
        | Verdict::CountAsFailure(clause, scope) => decided(clause, scope),
        Verdict::Revoke(id) => keys.push(("revokes", scalar(id))),
    }
    keys.push(("reason", scalar(&new.reason)));
    keys.extend(new.evidence.as_ref().map(|evidence| ("evidence", scalar(evidence))));
    mapping(&keys)
}

fn scope_keys(scope: &Scope) -> Vec<(&'static str, String)> {
    let list = |items: &[String]| {
        let items: Vec<_> = items.iter().map(|item| scalar(item)).collect();
        format!("[{}]", items.join(", "))
    };
    match scope {
        Scope::Calls { tenant, day, request_ids } => {
            vec![("tenant", scalar(tenant)), ("day", day.to_string()), ("request_ids", list(request_ids))]
        }
        Scope::Range { tenants, from_ms, to_ms, actions, codes } => {
            let lists = |key, items: &[String]| (!items.is_empty()).then(|| (key, list(items)));
            let instants = |key, at: &Option<i64>| at.map(|at| (key, scalar(&utc(at))));
            [
                lists("tenants", tenants),
                instants("from", from_ms),
                instants("to", to_ms),
                lists("actions", actions),
                lists("codes", codes),
            ]
            .into_iter()
            .flatten()
            .collect()
        }
    }
}

fn mapping(keys: &[(&str, String)]) -> String {
    let keys: Vec<_> = keys.iter().map(|(key, value)| format!("{key}: {value}")).collect();
    format!("{{{}}}", keys.join(", "))
}

/// A text as YAML: plain where nothing can take it for something else, else in double quotes.
fn scalar(text: &str) -> String {
    const WORDS: [&str; 8] = ["true", "false", "null", "yes", "no", "on", "off", "nan"];
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.len() > 1
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        && !WORDS.contains(&text.to_ascii_lowercase().as_str());
    if plain {
        return text.into();
    }
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if is_special(c) => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
