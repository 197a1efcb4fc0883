//! Which build this is.

use std::sync::LazyLock;

/// The version of the package.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The commit; `unknown` in builds for development.
pub const REVISION: &str = match option_env!("SLA_LEDGER_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};
/// The day of the commit, YYYY-MM-DD.
pub const REVISION_DATE: Option<&str> = option_env!("SLA_LEDGER_REVISION_DATE");

static FULL: LazyLock<String> = LazyLock::new(|| {
    let commit = REVISION.get(..12).unwrap_or(REVISION);
    match REVISION_DATE {
        Some(date) => format!("{VERSION} ({commit} {date})"),
        None => format!("{VERSION} ({commit})"),
    }
});

/// Version, commit and its day: `0.1.0 (3f2c9a1b0d4e 2026-03-01)`.
pub fn full() -> &'static str {
    &FULL
}
