//! A directory of statements to be sent: one file for each tenant and service month, `DIR/<tenant>.<month>.<suffix>`.
//!
//! A file is written whole or not at all, and an identical one is not touched. Deliberately not here: revisions, which
//! the [archive](super::archive) keeps.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use super::archive::{ArchiveError, at, file_name, safe_name, written};

/// Longest part of a file's name made of a tenant, in bytes; month, suffix and digest come on top, file systems take 255.
const MAX_NAME: usize = 150;

/// A directory of statements to be sent.
#[derive(Debug, Clone)]
pub struct Outbox {
    dir: PathBuf,
}

/// The result for a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It is new, or was replaced.
    Written,
    /// It was the same already.
    Unchanged,
}

impl Outbox {
    /// Opens a directory; creates it if it does not exist.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, ArchiveError> {
        let dir = dir.into();
        fs::create_dir_all(&dir).map_err(at(&dir))?;
        Ok(Self { dir })
    }

    /// Puts a tenant's file of a month there. `month` is its label, `suffix` like `zh.html`.
    ///
    /// # Errors
    /// Those of the file system and of `write`; a month or a suffix with other characters than ASCII letters, digits,
    /// `.`, `-`, `_`. Existing files are unchanged.
    pub fn put(
        &self,
        tenant: &str,
        month: &str,
        suffix: &str,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<Put, ArchiveError> {
        let end = format!("{month}.{suffix}");
        if !file_name(&end) {
            return Err(ArchiveError::Refused(format!("`{}` is not the end of a file's name", end.escape_debug())));
        }
        let name = format!("{}.{end}", safe_name(tenant, MAX_NAME));
        // Another process may write the same file.
        let temporary = self.dir.join(format!(".{name}.{}.tmp", std::process::id()));
        let path = self.dir.join(name);
        let result = written(&temporary, write).and_then(|file| {
            if same(&temporary, &path)? {
                return Ok(Put::Unchanged);
            }
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            Ok(Put::Written)
        });
        if !matches!(result, Ok(Put::Written)) {
            _ = fs::remove_file(&temporary);
        }
        result.map_err(at(&path))
    }
}

/// Do both files hold the same bytes? One that is not there does not.
fn same(new: &Path, old: &Path) -> io::Result<bool> {
    let old = match File::open(old) {
        Ok(old) => old,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let new = File::open(new)?;
    if new.metadata()?.len() != old.metadata()?.len() {
        return Ok(false);
    }
    let mut old = BufReader::new(old).bytes();
    for byte in BufReader::new(new).bytes() {
        if old.next().transpose()? != Some(byte?) {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry"));
        let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().expect("ASCII")).collect();
        names.sort();
        names
    }

    #[test]
    fn hostile_tenants_get_files_of_their_own_inside_the_directory() {
        let dir = tempfile::tempdir().expect("a directory");
        let outbox = Outbox::open(dir.path().join("out")).expect("opened");
        let emoji = "😀".repeat(32);
        let almost = format!("{}😁", "😀".repeat(31));
        for (number, tenant) in ["../../etc/passwd", "a\nb", "..", "", &emoji, &almost, "租户"].iter().enumerate() {
            let text = number.to_string();
            let put = outbox.put(tenant, "2026-03-17", "evidence.csv", |out| out.write_all(text.as_bytes()));
            assert_eq!(put.expect("written"), Put::Written, "{tenant:?}");
        }
        assert_eq!(files(dir.path()), ["out"]);
        let names = files(&dir.path().join("out"));
        assert_eq!(names.len(), 7, "{names:?}");
        for name in &names {
            let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'%' | b'~');
            assert!(name.bytes().all(plain) && name.len() < 230 && !name.starts_with('.'), "{name}");
        }
        assert!(names.contains(&"%2E%2E%2F%2E%2E%2Fetc%2Fpasswd.2026-03-17.evidence.csv".to_owned()), "{names:?}");
        for (month, suffix) in [("../x", "html"), ("2026-03", "a/b")] {
            assert!(matches!(outbox.put("a", month, suffix, |_| Ok(())), Err(ArchiveError::Refused(_))));
        }
    }

    #[test]
    fn a_file_is_there_whole_or_as_it_was() {
        let dir = tempfile::tempdir().expect("a directory");
        let outbox = Outbox::open(dir.path()).expect("opened");
        let put =
            |text: &str| outbox.put("acme", "2026-03", "json", |out| out.write_all(text.as_bytes())).expect("put");
        assert_eq!(
            [put("one"), put("one"), put("two"), put("2")],
            [Put::Written, Put::Unchanged, Put::Written, Put::Written]
        );
        let fails = outbox.put("acme", "2026-03", "json", |out| {
            out.write_all(b"half")?;
            Err(io::Error::other("the disk is full"))
        });
        let error = fails.expect_err("it failed").to_string();
        assert!(error.contains("acme.2026-03.json") && error.contains("the disk is full"), "{error}");
        assert_eq!(files(dir.path()), ["acme.2026-03.json"]);
        assert_eq!(fs::read_to_string(dir.path().join("acme.2026-03.json")).expect("read"), "2");
    }
}
