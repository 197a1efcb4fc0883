//! Code tables, such as `error_codes.csv`: which class a code has.

use std::collections::HashMap;

use super::table::{self, Column, Row};
use super::values::{Judged, Kind, NAME, accuse, name};
use crate::domain::codes::{Class, CodeMap};
use crate::yaml::FileErrors;
use crate::yaml::read::shown_text;

/// The columns that are read; a table may have others.
pub(super) const COLUMNS: [Column; 2] = [
    Column { name: "code", doc: "An error code, or a dot-separated prefix of some." },
    Column { name: "class", doc: "Whose fault it is." },
];

pub(super) fn row<'a>(row: &mut Row<'a, 2>) -> (Option<&'a str>, Option<Class>) {
    (row.required(0, NAME.with(code)), row.required(1, CLASS))
}

const CLASS: Kind<fn(&str) -> Judged<Class>> =
    Kind { words: "success, system_error, caller_fault, throttled, ambiguous, unknown or no_response", judge: class };

/// Reads a code table; returns the number of its codes besides.
pub(super) fn codes(file: &str, text: &str) -> Result<(usize, CodeMap), FileErrors> {
    let mut found = Vec::new();
    let mut classes = HashMap::new();
    table::rows_among_others(text, &table::names(&COLUMNS), &mut found, |row| {
        let (Some(code), Some(class)) = self::row(row) else { return };
        if classes.insert(code.to_owned(), class).is_some() {
            row.complain(0, format!("is given twice: {}", shown_text(code)), "remove one of the rows");
        }
    });
    if !found.is_empty() {
        return Err(FileErrors::new(file, text, found, &[]));
    }
    let mut map = CodeMap::default();
    let codes = classes.len();
    map.override_with(classes);
    Ok((codes, map))
}

fn code(text: &str) -> Judged<&str> {
    match text.strip_suffix(".*") {
        Some(prefix) => accuse(
            format!("is not a code: {}", shown_text(text)),
            format!("write {}: a code covers all that begin with it and a dot", shown_text(prefix)),
        ),
        None => name(text),
    }
}

fn class(text: &str) -> Judged<Class> {
    let found = Class::ALL.into_iter().find(|class| class.as_str() == text);
    found.map_or_else(
        || {
            let classes = Class::ALL.map(Class::as_str).join(", ");
            accuse(format!("is not a class of codes: {}", shown_text(text)), format!("write one of {classes}"))
        },
        Ok,
    )
}
