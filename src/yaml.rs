//! Strict files: a text in, values out, or every mistake at once, with line, column and what to do.
//!
//! `tree` parses YAML into values with their places, `read` walks them and collects what is wrong, `errors` shows
//! it. What a file means is not said here: the configuration and the documents of the contract do that. The mistakes of
//! CSV files are shown by the same [`FileErrors`].

mod errors;
pub(crate) mod read;
pub(crate) mod tree;

pub use errors::{FileErrors, MOST_SHOWN, Mistake};
