//! The archive of issued statements, a directory: `DIR/<tenant>/<period_start>/r1.json`, beside it `r1.<rendering>`.
//!
//! A statement's JSON is written last and by a rename, so a revision is in the archive completely or not at all, and it
//! is never rewritten. Reading verifies the whole chain of revisions first: a statement that was altered on disk must
//! not become the basis of the next one.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::issue::{Desk, Hour, rows};
use super::statement::{Format, Issue, IssueError, Lang, Statement, VerifyError, canonical, render, verify};
use crate::domain::calendar::LocalDay;
use crate::domain::standing::ServiceMonth;
use crate::pipeline::standings::Evaluation;

/// Longest directory name made of a tenant; file systems allow 255 bytes.
const MAX_NAME: usize = 200;

/// A directory of issued statements.
#[derive(Debug, Clone)]
pub struct Archive {
    dir: PathBuf,
}

/// A file to be kept beside a statement's JSON.
pub struct Rendering<'a> {
    /// Behind `r1.`: `en.html`, `evidence.csv`. ASCII letters, digits, `.`, `-`, `_`.
    pub name: &'a str,
    /// Writes it.
    #[allow(clippy::type_complexity)]
    pub write: Box<dyn FnOnce(&mut dyn Write) -> io::Result<()> + 'a>,
}

/// The result of [`Archive::issue`].
#[derive(Debug)]
pub struct Archived {
    /// The statement that is valid now.
    pub statement: Statement,
    /// Where its JSON was stored; `None`: it is the archive's latest one, and nothing has changed since.
    pub stored: Option<PathBuf>,
}

/// Why the archive cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The file system.
    #[error("{}: {source}", .path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What.
        source: io::Error,
    },
    /// An archived statement is not what was issued.
    #[error(
        "the archived statement {} is damaged or was altered: {what}; restore the file from a backup: its recipients \
         hold the same bytes, and no new revision is issued on top of it",
        .path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The statement is not the next one: another process has issued it meanwhile, or it was not made from the latest.
    #[error("revision {revision} cannot be stored, the archive holds {held}: issue it again from the latest one")]
    NotNext {
        /// The revision to be stored.
        revision: u32,
        /// The latest one held; 0 = no revision.
        held: u32,
    },
    /// A file of the numbering does not contain a number.
    #[error(
        "{} does not hold a number: restore it from a backup, or write the highest number that was given",
        .path.display()
    )]
    Sequence {
        /// The file.
        path: PathBuf,
    },
    /// A statement that is not valid, or an invalid name of a rendering.
    #[error("it cannot be archived: {0}")]
    Refused(String),
    /// There is no statement to store.
    #[error(transparent)]
    Issue(#[from] IssueError),
}

pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> ArchiveError {
    let path = path.to_owned();
    |source| ArchiveError::Io { path, source }
}

impl Archive {
    /// Opens an archive; creates the directory if it does not exist.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, ArchiveError> {
        let dir = dir.into();
        fs::create_dir_all(&dir).map_err(at(&dir))?;
        Ok(Self { dir })
    }

    /// The latest statement of a service month.
    ///
    /// # Errors
    /// Those of the file system; a statement that is damaged or missing.
    pub fn latest(&self, tenant: &str, period_start: LocalDay) -> Result<Option<Statement>, ArchiveError> {
        Ok(self.history(tenant, period_start)?.pop())
    }

    /// All statements of a service month, revision 1 first.
    ///
    /// # Errors
    /// Those of the file system; a statement that is damaged or missing.
    pub fn history(&self, tenant: &str, period_start: LocalDay) -> Result<Vec<Statement>, ArchiveError> {
        let dir = self.month_dir(tenant, period_start);
        let mut revisions = Vec::new();
        match fs::read_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(at(&dir)(error)),
            Ok(entries) => {
                for entry in entries {
                    let name = entry.map_err(at(&dir))?.file_name();
                    let revision =
                        name.to_str().and_then(|n| n.strip_prefix('r')?.strip_suffix(".json")?.parse::<u32>().ok());
                    revisions.extend(revision);
                }
            }
        }
        let last = revisions.into_iter().max().unwrap_or(0);
        let mut history: Vec<Statement> = Vec::new();
        for revision in 1..=last {
            let path = dir.join(format!("r{revision}.json"));
            let damaged = |what: String| ArchiveError::Damaged { path: path.clone(), what };
            let text = match fs::read(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(damaged(format!("it is missing, though revision {last} is there")));
                }
                Err(error) => return Err(at(&path)(error)),
                Ok(bytes) => String::from_utf8(bytes).map_err(|_| damaged("it is not UTF-8".into()))?,
            };
            let statement = verify(&text).map_err(|e: VerifyError| damaged(e.to_string()))?;
            if (statement.tenant(), statement.period_start()) != (tenant, &period_start.to_string()) {
                return Err(damaged(format!(
                    "it is about {} from {}",
                    statement.tenant().escape_debug(),
                    statement.period_start().escape_debug()
                )));
            }
            if statement.revision != revision {
                return Err(damaged(format!("it holds revision {}", statement.revision)));
            }
            let supersedes = statement.supersedes.as_ref().map(|s| &s.sha256);
            if supersedes != history.last().map(|s| &s.sha256) {
                return Err(damaged(format!("it does not supersede r{}.json as that is now", revision - 1)));
            }
            history.push(statement);
        }
        Ok(history)
    }

    /// The statement of a service month: the latest one where its result has not changed since, else the next revision, which
    /// is stored with its HTML pages and its evidence. The first one gets its number's `{sequence}` here, if it needs one.
    ///
    /// # Errors
    /// Those of [`Desk::issue`], [`Archive::latest`] and [`Archive::store`].
    pub fn issue(
        &self,
        desk: &Desk<'_>,
        tenant: &str,
        month: &ServiceMonth,
        evaluation: &Evaluation<'_>,
        hour: Hour,
    ) -> Result<Archived, ArchiveError> {
        let latest = self.latest(tenant, month.period.first)?;
        let numbered = latest.as_ref().is_some_and(|latest| latest.number.is_some());
        let needs_sequence = !numbered && desk.needs_sequence();
        let sequence = needs_sequence.then(|| self.sequence(tenant, month.period.first)).transpose()?;
        let hour = Hour { sequence, ..hour };
        let statement = match (desk.issue(tenant, month, evaluation, hour, latest.as_ref(), io::sink())?, latest) {
            (Issue::Issued(statement), _) => *statement,
            (Issue::Unchanged, Some(statement)) => return Ok(Archived { statement, stored: None }),
            (Issue::Unchanged, None) => return Err(ArchiveError::Refused("no earlier statement is archived".into())),
        };
        let next = &statement;
        let rendering = |name, format, lang| Rendering {
            name,
            write: Box::new(move |mut out| render(next, rows(month, evaluation), format, lang, &mut out)),
        };
        let renderings = vec![
            rendering("en.html", Format::Html, Lang::En),
            rendering("zh.html", Format::Html, Lang::Zh),
            rendering("evidence.csv", Format::Csv, Lang::En),
        ];
        let stored = Some(self.store(next, renderings)?);
        Ok(Archived { statement, stored })
    }

    /// Stores the next statement of a service month with its renderings; gives the path of its JSON.
    ///
    /// # Errors
    /// Those of the file system and of the renderings; another revision than the next one; a damaged archive.
    pub fn store(&self, statement: &Statement, renderings: Vec<Rendering<'_>>) -> Result<PathBuf, ArchiveError> {
        let json = statement.to_json();
        verify(&json).map_err(|e| ArchiveError::Refused(e.to_string()))?;
        let day: LocalDay = statement.period_start().parse().map_err(|_| {
            ArchiveError::Refused(format!("`{}` is not a day", statement.period_start().escape_debug()))
        })?;
        if let Some(bad) = renderings.iter().find(|r| !file_name(r.name)) {
            return Err(ArchiveError::Refused(format!("`{}` is not a name of a rendering", bad.name.escape_debug())));
        }
        let dir = self.month_dir(statement.tenant(), day);
        fs::create_dir_all(&dir).map_err(at(&dir))?;
        let lock = dir.join(".lock");
        let guard = File::create(&lock).map_err(at(&lock))?;
        guard.lock().map_err(at(&lock))?;
        let held = self.latest(statement.tenant(), day)?;
        let supersedes = statement.supersedes.as_ref().map(|s| &s.sha256);
        if supersedes != held.as_ref().map(|s| &s.sha256) {
            let held = held.map_or(0, |s| s.revision);
            return Err(ArchiveError::NotNext { revision: statement.revision, held });
        }
        let stem = format!("r{}", statement.revision);
        for Rendering { name, write } in renderings {
            replace(&dir, &format!("{stem}.{name}"), write)?;
        }
        let path = replace(&dir, &format!("{stem}.json"), |out| out.write_all(json.as_bytes()))?;
        for dir in [&*dir, dir.parent().unwrap_or(&dir), &self.dir] {
            File::open(dir).and_then(|d| d.sync_all()).map_err(at(dir))?;
        }
        Ok(path)
    }

    /// The place of a service month's statement among those of its year: 1, 2, … in the order of requests. It is
    /// stored, so that a repeated request gets the same one; a crash may skip one, but never assigns one twice.
    ///
    /// # Errors
    /// Those of the file system; a place that cannot be read.
    pub fn sequence(&self, tenant: &str, period_start: LocalDay) -> Result<u32, ArchiveError> {
        let dir = self.month_dir(tenant, period_start);
        let year = &period_start.to_string()[..4];
        let last = format!(".sequence-{year}");
        let lock = self.dir.join(format!("{last}.lock"));
        let guard = File::create(&lock).map_err(at(&lock))?;
        guard.lock().map_err(at(&lock))?;
        if let Some(own) = number_in(&dir.join("sequence"))? {
            return Ok(own);
        }
        let own = number_in(&self.dir.join(&last))?.unwrap_or(0) + 1;
        let write = |dir: &Path, name: &str| replace(dir, name, |out| writeln!(out, "{own}"));
        write(&self.dir, &last)?;
        fs::create_dir_all(&dir).map_err(at(&dir))?;
        write(&dir, "sequence")?;
        Ok(own)
    }

    /// Where the statements of a service month are.
    pub fn month_dir(&self, tenant: &str, period_start: LocalDay) -> PathBuf {
        self.dir.join(safe_name(tenant, MAX_NAME)).join(period_start.to_string())
    }
}

/// The number in a file; `None` if the file does not exist.
fn number_in(path: &Path) -> Result<Option<u32>, ArchiveError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at(path)(error)),
    };
    let number = text.trim_end().parse().ok().filter(|number| (1..u32::MAX).contains(number));
    number.map(Some).ok_or_else(|| ArchiveError::Sequence { path: path.to_owned() })
}

/// Writes a temporary file and renames it.
fn replace(
    dir: &Path,
    name: &str,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<PathBuf, ArchiveError> {
    let (path, temporary) = (dir.join(name), dir.join(format!(".{name}.tmp")));
    let stored = written(&temporary, write).and_then(|file| file.sync_all());
    if let Err(error) = stored.and_then(|()| fs::rename(&temporary, &path)) {
        _ = fs::remove_file(&temporary);
        return Err(at(&path)(error));
    }
    Ok(path)
}

/// Writes a file, without syncing it to disk.
pub(super) fn written(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<File> {
    let mut out = BufWriter::new(File::create(path)?);
    write(&mut out)?;
    out.into_inner().map_err(io::IntoInnerError::into_error)
}

/// May it follow `r1.`? `json` is the statement itself.
pub(super) fn file_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    (1..=64).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with('.') && name != "json"
}

/// A tenant as a name of at most `most` bytes and a digest, for files: ASCII letters, digits, `-` and `_` as they are,
/// other bytes as `%2F`. A name that gets too long is cut and made unique by a digest after `~`, which no encoded name
/// contains.
pub(super) fn safe_name(tenant: &str, most: usize) -> String {
    let mut name = String::new();
    for byte in tenant.bytes() {
        let next = match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        };
        if name.len() + next.len() > most {
            return with_digest(&name, tenant);
        }
        name.push_str(&next);
    }
    if name.is_empty() { with_digest("", tenant) } else { name }
}

fn with_digest(prefix: &str, tenant: &str) -> String {
    let digest = canonical::hex(&Sha256::digest(tenant.as_bytes()));
    format!("{prefix}~{}", &digest[..32])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir_name(tenant: &str) -> String {
        safe_name(tenant, MAX_NAME)
    }

    #[test]
    fn every_tenant_has_a_safe_name_of_its_own() {
        for (tenant, name) in [
            ("acme", "acme"),
            ("a/b", "a%2Fb"),
            ("..", "%2E%2E"),
            (".", "%2E"),
            ("a%2Fb", "a%252Fb"),
            ("租户", "%E7%A7%9F%E6%88%B7"),
            ("~x", "%7Ex"),
            ("a b\0", "a%20b%00"),
        ] {
            assert_eq!(dir_name(tenant), name, "{tenant:?}");
        }
        let long = |end: &str| format!("{}{end}", "租".repeat(40));
        assert!(dir_name(&long("a")).len() < 255 && dir_name(&long("a")) != dir_name(&long("b")));
        assert!(dir_name("").starts_with('~'));
    }

    #[test]
    fn names_of_renderings_stay_in_their_directory() {
        for (name, sound) in
            [("en.html", true), ("evidence.csv", true), ("json", false), ("../x", false), ("", false), (".x", false)]
        {
            assert_eq!(file_name(name), sound, "{name}");
        }
    }
}
