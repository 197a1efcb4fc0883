//! The path of the configuration, given the same way in every command.

use std::path::{Path, PathBuf};

/// The variable that names the configuration where no argument does.
pub(super) const VARIABLE: &str = "SLA_LEDGER_CONFIG";
/// Where packages install it.
const INSTALLED: &str = "/etc/sla-ledger";
/// Its name in a directory.
const FILE_NAME: &str = "sla-ledger.yaml";

/// The arguments that name the configuration.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ConfigPath {
    /// The configuration: its file, or the directory with sla-ledger.yaml [default: $SLA_LEDGER_CONFIG, or /etc/sla-ledger]
    #[arg(value_name = "CONFIG", conflicts_with = "config")]
    path: Option<PathBuf>,

    /// The same, by name
    #[arg(long, value_name = "FILE|DIRECTORY")]
    config: Option<PathBuf>,
}

impl ConfigPath {
    /// The configuration as the arguments or the environment name it.
    pub fn named(&self) -> Option<PathBuf> {
        self.path.clone().or_else(|| self.config.clone()).or_else(from_environment)
    }

    /// The configuration as it is named, by default the installed one.
    pub fn path(&self) -> PathBuf {
        self.named().unwrap_or_else(|| INSTALLED.into())
    }

    /// The configuration's file.
    pub fn file(&self) -> PathBuf {
        file(&self.path())
    }
}

/// The configuration's file where `path` names it, or its directory.
pub fn file(path: &Path) -> PathBuf {
    if path.is_dir() { path.join(FILE_NAME) } else { path.to_owned() }
}

/// The directory of the configuration that no argument names.
pub fn default_directory() -> PathBuf {
    let file = ConfigPath::default().file();
    file.parent().unwrap_or(Path::new(".")).to_owned()
}

fn from_environment() -> Option<PathBuf> {
    std::env::var_os(VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from)
}
