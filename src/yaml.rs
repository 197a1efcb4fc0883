//! Strict files: a text in, values out, or every mistake at once, with line, column and what to do.
//!
//! `tree` parses YAML into values with their places, `read` walks them and collects what is wrong, `errors` shows
//! it. What a file means is not said here: the configuration and the documents of the contract do that. The mistakes of
//! CSV files are shown by the same [`FileErrors`].

mod errors;
pub(crate) mod form;
pub(crate) mod read;
pub(crate) mod tree;
pub(crate) mod variables;

use std::io::ErrorKind;
use std::path::Path;

use crate::file_kind;
pub use errors::{FileErrors, MOST_SHOWN, Mistake};
pub use form::{Form, Key, Need};

/// The text of a file; `help` says what to do when it cannot be read.
pub(crate) fn read_text(path: &Path, help: &str) -> Result<String, FileErrors> {
    let name = path.display().to_string();
    let bytes = std::fs::read(path).map_err(|error| match error.kind() {
        ErrorKind::IsADirectory => {
            FileErrors::whole(&name, "this is a directory, not a file", format!("name the file in it; {help}"))
        }
        ErrorKind::NotFound => FileErrors::whole(&name, "file not found", help),
        _ => FileErrors::whole(&name, format!("the file cannot be read ({error})"), help),
    })?;
    file_kind::text(&name, bytes).map_err(|(message, help)| FileErrors::whole(&name, message, help))
}
