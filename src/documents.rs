//! The contract's documents: files in, checked values out, or every mistake of every file with its line and what to do.
//!
//! ```text
//!  policies/*.yaml (+ code tables, calendars)  ──> Policies
//!  tenants.csv, fees.csv                       ──> Registry
//!  notices, declarations, rulings, claims.yaml ──> Documents
//!  issuer.yaml (+ logo)                        ──> Letterhead
//! ```
//!
//! A file that is not there is empty; a directory without policies has the one that is compiled in. Documents with one
//! id are versions: all are kept, the domain says which one holds at which instant.
//!
//! [`registry_topic`] is the registry from a Kafka topic, in the same columns.
//!
//! Not here: what a document does to a call (`domain`), when files are read again, and who reads the topic (`kafka`).

mod code_table;
mod issuer;
mod money;
mod papers;
mod policies;
mod registry;
pub mod registry_topic;
pub mod rulings;
mod table;
mod values;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use chrono_tz::Tz;
use sha2::{Digest, Sha256};

pub use issuer::Letterhead;
pub use registry::{FEE_COLUMNS, ORDER_COLUMNS};

use crate::domain::contract::Contract;
use crate::domain::documents::Documents;
use crate::domain::money::Currency;
use crate::domain::policy::{Policies, Policy};
use crate::domain::registry::Registry;
use crate::domain::workdays;
use crate::file_kind::FileKind;
use crate::yaml::read::{Reader, Section};
use crate::yaml::{FileErrors, Form, Key, Need};

/// All documents of one contract directory, checked. Plain data: share it in an `Arc`.
#[derive(Debug, Clone)]
pub struct DocumentSet {
    /// The versions of the contract.
    pub policies: Policies,
    /// Orders and bills.
    pub registry: Arc<Registry>,
    /// Notices, declarations, rulings, claims.
    pub documents: Documents,
    /// Who issues statements; `None`: nobody by name.
    pub letterhead: Option<Arc<Letterhead>>,
    /// The files all of this was read from, in the order of their kinds, then names.
    pub files: Vec<DocumentFile>,
    /// When a service loaded the files, in ms since 1970-01-01T00:00:00Z; `None`: no service did.
    pub loaded_at_ms: Option<i64>,
}

/// What the ledger is like that the documents are for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedLedger {
    /// The zone of its days.
    pub zone: Tz,
    /// Whether the source's topic is keyed by tenant; without it calls per second (clause 5.7) cannot be known.
    pub keyed_by_tenant: bool,
    /// The id of the policy that holds where none is named.
    pub default_policy: String,
}

impl Default for ExpectedLedger {
    fn default() -> Self {
        let Policy { id, time_zone, .. } = Policy::tencent_ccc();
        Self { zone: time_zone, keyed_by_tenant: true, default_policy: id }
    }
}

/// A file that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentFile {
    /// What it is.
    pub kind: DocumentKind,
    /// Its path, below the contract's directory.
    pub name: String,
    /// Over its bytes, in hex.
    pub sha256: String,
    /// Its rows or entries; a policy's tiers, a logo's bytes.
    pub rows: usize,
}

/// What a document is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DocumentKind {
    /// A version of the contract.
    Policy,
    /// Codes and their classes.
    CodeTable,
    /// Working days.
    Calendar,
    /// `tenants.csv`
    Tenants,
    /// `fees.csv`
    Fees,
    /// `notices.yaml`
    Notices,
    /// `declarations.yaml`
    Declarations,
    /// `rulings.yaml`
    Rulings,
    /// `claims.yaml`
    Claims,
    /// `issuer.yaml`
    Issuer,
    /// The picture that `issuer.yaml` names.
    Logo,
}

impl DocumentKind {
    /// Its name in outputs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::CodeTable => "code_table",
            Self::Calendar => "calendar",
            Self::Tenants => "tenants",
            Self::Fees => "fees",
            Self::Notices => "notices",
            Self::Declarations => "declarations",
            Self::Rulings => "rulings",
            Self::Claims => "claims",
            Self::Issuer => "issuer",
            Self::Logo => "logo",
        }
    }

    /// Where it is, below the contract's directory.
    pub fn pattern(self) -> &'static str {
        match self {
            Self::Policy => "policies/*.yaml",
            Self::CodeTable => "policies/*.csv",
            Self::Calendar => "calendars/*.csv",
            Self::Tenants => "tenants.csv",
            Self::Fees => "fees.csv",
            Self::Notices => "notices.yaml",
            Self::Declarations => "declarations.yaml",
            Self::Rulings => "rulings.yaml",
            Self::Claims => "claims.yaml",
            Self::Issuer => "issuer.yaml",
            Self::Logo => "*.png, *.svg",
        }
    }

    /// What it is for: sentences.
    pub fn doc(self) -> &'static str {
        match self {
            Self::Policy => {
                "The terms: target, tiers, exclusions, claim window, alerts. Each file is a version of a policy. \
                 Without a file the policy is config/policies/tencent-ccc-2022-08-22.yaml, which has every key with \
                 its default."
            }
            Self::CodeTable => {
                "Whose fault an error code is, for the key `codes.file` of a policy. Other columns are ignored."
            }
            Self::Calendar => {
                "Working days, for the key `claim.calendar` of a policy. The file has no header; lines that begin \
                 with # are comments. A claim window in a year without coverage is provisional."
            }
            Self::Tenants => {
                "Orders: who is served, from when to when. One row an order. Comments begin with # and are above the \
                 header."
            }
            Self::Fees => "Bills: what was paid. One row a bill. Comments begin with # and are above the header.",
            Self::Notices => "A list of announced maintenance (clause 5.12) and events (clause 5.11).",
            Self::Declarations => "A list of call rates above clause 5.7's that customers announced.",
            Self::Rulings => {
                "A list of decisions about calls by a person. It is append-only: a file that drops or alters a \
                 ruling that was applied is rejected. `sla-ledger ruling add` adds entries safely."
            }
            Self::Claims => "A list of what became of claims.",
            Self::Issuer => {
                "Who issues statements: name, address, contact, logo, numbers. Without it they have no letterhead."
            }
            Self::Logo => "The picture that issuer.yaml names.",
        }
    }

    /// What its rows are called.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Policy => "tiers",
            Self::CodeTable => "codes",
            Self::Notices | Self::Declarations | Self::Rulings | Self::Claims | Self::Issuer => "entries",
            Self::Logo => "bytes",
            _ => "rows",
        }
    }
}

impl DocumentFile {
    fn new(kind: DocumentKind, root: &Path, path: &Path, sha256: String, rows: usize) -> Self {
        let name = path.strip_prefix(root).unwrap_or(path).display().to_string();
        Self { kind, name, sha256, rows }
    }
}

/// The mistakes of all files; at least one.
///
/// `Display` gives one line a mistake, for logs; [`render`](Self::render) gives the report for people.
#[derive(Debug)]
pub struct DocumentErrors {
    files: Vec<FileErrors>,
}

impl DocumentErrors {
    /// The files with mistakes.
    pub fn files(&self) -> &[FileErrors] {
        &self.files
    }

    /// A report with the lines in question, for a terminal (`color`) or for plain text.
    pub fn render(&self, color: bool) -> String {
        self.files.iter().map(|file| file.render(color)).collect::<Vec<_>>().join("\n")
    }
}

impl fmt::Display for DocumentErrors {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for (i, file) in self.files.iter().enumerate() {
            write!(f, "{}{file}", if i > 0 { "\n" } else { "" })?;
        }
        Ok(())
    }
}

impl std::error::Error for DocumentErrors {}

/// The policy that is compiled in, and nothing else.
impl Default for DocumentSet {
    fn default() -> Self {
        let policy = Policy::tencent_ccc();
        let policies = Policies::single(policy);
        Self {
            policies,
            registry: Arc::default(),
            documents: Documents::default(),
            letterhead: None,
            files: Vec::new(),
            loaded_at_ms: None,
        }
    }
}

impl DocumentSet {
    /// What standings are judged by: all documents, or those recorded by an instant.
    pub fn contract(&self, as_of_ms: Option<i64>) -> Contract {
        Contract::new(self.policies.clone(), self.registry.clone(), &self.documents, as_of_ms)
    }

    /// Reads and checks all documents of a directory.
    ///
    /// # Errors
    /// With everything that is wrong with any of the files.
    pub fn load(directory: &Path, expected: &ExpectedLedger) -> Result<Self, DocumentErrors> {
        if let Err(error) = std::fs::read_dir(directory) {
            let help = "correct `contract.directory`, or create it; sla-ledger's user must be able to read it";
            let name = directory.display().to_string();
            let error = FileErrors::whole(&name, format!("the contract's directory cannot be read ({error})"), help);
            return Err(DocumentErrors { files: vec![error] });
        }
        let mut load = Load { directory, files: Vec::new(), errors: Vec::new() };
        let policies = policies::load(directory, expected, &mut load.files, &mut load.errors);
        let orders = load.file(DocumentKind::Tenants, |name, text| {
            let orders = registry::orders(name, text, policies.as_ref())?;
            Ok((orders.len(), orders))
        });
        let fees = load.file(DocumentKind::Fees, |name, text| {
            let fees = registry::fees(name, text)?;
            Ok((fees.len(), fees))
        });
        let fees_read = fees.is_some();
        let registry = Registry::new(orders.unwrap_or_default(), fees.unwrap_or_default());
        let default = money::currency(money::DEFAULT).ok();
        let currency = |tenant: &str| registry.currency(tenant).or(default);
        let documents = load.documents(
            default.filter(|_| fees_read).map(|default| move |tenant: &str| currency(tenant).unwrap_or(default)),
        );
        let mut logo = Vec::new();
        let letterhead = load.file(DocumentKind::Issuer, |name, text| {
            Ok((1, issuer::letterhead(name, text, directory, &mut logo)?.map(Arc::new)))
        });
        load.files.append(&mut logo);
        load.files.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
        match policies {
            Some(policies) if load.errors.is_empty() => {
                let (letterhead, registry) = (letterhead.flatten(), Arc::new(registry));
                Ok(Self { policies, registry, documents, letterhead, files: load.files, loaded_at_ms: None })
            }
            _ => Err(DocumentErrors { files: load.errors }),
        }
    }
}

/// Collects what was read and what was wrong.
struct Load<'a> {
    directory: &'a Path,
    files: Vec<DocumentFile>,
    errors: Vec<FileErrors>,
}

impl Load<'_> {
    /// Reads the file of this kind; empty when it is not there, `None` when it has mistakes. `parse` returns the number
    /// of rows besides.
    fn file<T: Default>(
        &mut self,
        kind: DocumentKind,
        parse: impl FnOnce(&str, &str) -> Result<(usize, T), FileErrors>,
    ) -> Option<T> {
        let path = self.directory.join(kind.pattern());
        let text = match read_text(&path) {
            Ok(Some(text)) => text,
            Ok(None) => return Some(T::default()),
            Err(error) => {
                self.errors.push(error);
                return None;
            }
        };
        let bare = text.strip_prefix('\u{feff}').unwrap_or(&text);
        match parse(&path.display().to_string(), bare) {
            Ok((rows, value)) => {
                let sha256 = hex(&Sha256::digest(text.as_bytes()));
                self.files.push(DocumentFile::new(kind, self.directory, &path, sha256, rows));
                Some(value)
            }
            Err(error) => {
                self.errors.push(error);
                None
            }
        }
    }

    fn list<T>(
        &mut self,
        kind: DocumentKind,
        parse: impl FnOnce(&str, &str) -> Result<Vec<T>, FileErrors>,
    ) -> Vec<Arc<T>> {
        let read = |name: &str, text: &str| {
            let entries: Vec<_> = parse(name, text)?.into_iter().map(Arc::new).collect();
            Ok((entries.len(), entries))
        };
        self.file(kind, read).unwrap_or_default()
    }

    fn documents(&mut self, currency: Option<impl Fn(&str) -> Currency>) -> Documents {
        let currency = currency.as_ref().map(|currency| currency as &dyn Fn(&str) -> Currency);
        Documents {
            notices: self.list(DocumentKind::Notices, papers::notices),
            declarations: self.list(DocumentKind::Declarations, papers::declarations),
            rulings: self.list(DocumentKind::Rulings, rulings::parse),
            claims: self.list(DocumentKind::Claims, |name, text| papers::claims(name, text, currency)),
        }
    }
}

/// The policy that is shipped: every key with its default.
pub const SHIPPED_POLICY: &str = include_str!("../config/policies/tencent-ccc-2022-08-22.yaml");

/// What the parsers of the documents ask for, document by document: its files, what they are, and their keys or columns.
pub fn reference() -> Vec<(DocumentKind, Vec<Key>)> {
    use DocumentKind::{Calendar, Claims, CodeTable, Declarations, Fees, Issuer, Notices, Policy, Rulings, Tenants};
    let [.., [last, ..]] = workdays::COLUMNS;
    let calendar = workdays::COLUMNS.map(|[name, words, doc]| Key {
        path: name.into(),
        doc,
        form: Form::Words(words),
        need: if name == last { Need::Optional } else { Need::Required },
        example: None,
        reload: false,
    });
    vec![
        (Policy, policies::keys()),
        (CodeTable, table::columns(&code_table::COLUMNS, |row| _ = code_table::row(row))),
        (Calendar, calendar.into()),
        (Tenants, registry::order_keys()),
        (Fees, registry::fee_keys()),
        (Notices, Reader::keys(papers::notice)),
        (Declarations, Reader::keys(papers::declaration)),
        (Rulings, Reader::keys(rulings::ruling)),
        (Claims, Reader::keys(|section| papers::claim(section, None))),
        (Issuer, Reader::keys(|section| issuer::issuer(section, Path::new("")))),
    ]
}

/// The text of a file; `None` when there is none. A link that leads nowhere is a mistake, not an empty file.
fn read_text(path: &Path) -> Result<Option<String>, FileErrors> {
    let name = path.display().to_string();
    let help = "check that it is a file that sla-ledger's user may read";
    let unreadable = |error: &dyn fmt::Display| FileErrors::whole(&name, format!("cannot be read ({error})"), help);
    match path.metadata() {
        Ok(metadata) if metadata.is_file() => {}
        Ok(_) => return Err(unreadable(&"not a regular file")),
        Err(_) if path.symlink_metadata().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) => {
            return Ok(None);
        }
        Err(error) => return Err(unreadable(&error)),
    }
    let bytes = std::fs::read(path).map_err(|error| unreadable(&error))?;
    check_text(&name, bytes).map(Some)
}

/// Bytes as text.
fn check_text(name: &str, bytes: Vec<u8>) -> Result<String, FileErrors> {
    if let Some(kind) = FileKind::of(&bytes) {
        return Err(FileErrors::whole(name, format!("the file is {kind}"), kind.help(name)));
    }
    String::from_utf8(bytes).map_err(|error| {
        let end = error.utf8_error().valid_up_to();
        let text = String::from_utf8_lossy(&error.as_bytes()[..end]).into_owned();
        let found = vec![("the file is not UTF-8 from here on".into(), "save it as UTF-8".into(), end..end)];
        FileErrors::new(name, &text, found, &[])
    })
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A half-open range of instants must not be empty.
fn judge_range(section: &mut Section, first: &str, from: Option<i64>, last: &str, to: Option<i64>) {
    if let (Some(from), Some(to)) = (from, to)
        && to <= from
    {
        let message = format!("`{}` is not after `{}`", section.full(last), section.full(first));
        section.mistake(last, message, format!("`{first}` is included, `{last}` is not: correct one of them"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_can_be_shared() {
        fn shared<T: Send + Sync + 'static>(_: T) {}
        shared(Arc::new(DocumentSet::default()));
    }
}
