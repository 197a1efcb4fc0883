//! Reference documents made from the code: what the parsers ask for, what the metrics are.
//!
//! Each function gives the whole text of a file of the repository; `tests/reference.rs` compares them and, on request,
//! writes them. Nothing is described here that is known elsewhere: a key's words are where it is read, a metric's in
//! [`crate::metrics::names`].

mod configuration;
mod metrics;
mod sample;

pub use configuration::configuration;
pub use metrics::metrics;
pub use sample::sample;

/// The first line of each document.
const MADE: &str = "<!-- Made from the code by `UPDATE_REFERENCE=1 cargo test --test reference`. -->\n\n";

/// A row of a Markdown table.
fn row(out: &mut String, cells: &[&str]) {
    for cell in cells {
        out.push_str("| ");
        out.push_str(&cell.replace('|', "\\|"));
        out.push(' ');
    }
    out.push_str("|\n");
}

/// The head of a Markdown table.
fn head(out: &mut String, cells: &[&str]) {
    row(out, cells);
    out.push_str(&"|---".repeat(cells.len()));
    out.push_str("|\n");
}

/// As code, if it is anything.
fn code(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("`{text}`") }
}
