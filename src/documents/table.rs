//! CSV files with a header: a row at a time, every mistake with its place. Quotes, CRLF and a byte order mark are taken.
//!
//! Lines that begin with `#` are comments before the header. Behind it a bill, an order or a tenant may begin with `#`, so a
//! line is a comment only if it is `#`, or begins with `#` and a space, and has no comma: no row looks like that.

use std::ops::Range;

use csv::{ReaderBuilder, StringRecord};

use super::values::{Judged, Kind};
use crate::yaml::Key;
use crate::yaml::form::{Form, Need};
use crate::yaml::read::similar;

/// (message, help, bytes of the file).
pub(super) type Found = (String, String, Range<usize>);

/// A column of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Column {
    /// As in the header.
    pub name: &'static str,
    /// What it says: sentences.
    pub doc: &'static str,
}

/// The names of columns.
pub(super) const fn names<const N: usize>(columns: &[Column; N]) -> [&'static str; N] {
    let mut names = [""; N];
    let mut i = 0;
    while i < N {
        names[i] = columns[i].name;
        i += 1;
    }
    names
}

/// Every column with what `read` asks of it.
pub(super) fn columns<const N: usize, T>(columns: &[Column; N], read: impl FnOnce(&mut Row<N>) -> T) -> Vec<Key> {
    let (names, places) = (names(columns), std::array::from_fn(|column| column));
    let record: StringRecord = names.iter().map(|_| "").collect();
    let (mut found, mut asked) = (Vec::new(), Vec::new());
    read(&mut Row {
        text: "",
        record: &record,
        names: &names,
        columns: &places,
        at: 0,
        found: &mut found,
        asked: Some(&mut asked),
    });
    asked.sort_by_key(|(column, ..)| *column);
    let key = |(column, words, need): (usize, &'static str, Need)| Key {
        path: columns[column].name.into(),
        doc: columns[column].doc,
        form: Form::Words(words),
        need,
        example: None,
        reload: false,
    };
    asked.into_iter().map(key).collect()
}

/// One row of a table, its fields in the order of the columns asked for.
pub(super) struct Row<'a, const N: usize> {
    text: &'a str,
    record: &'a StringRecord,
    names: &'a [&'static str; N],
    /// Where each column stands in the file.
    columns: &'a [usize; N],
    /// Where the row begins.
    at: usize,
    found: &'a mut Vec<Found>,
    /// Column, how it is written, whether it must have a value: noted for the reference.
    asked: Option<&'a mut Vec<(usize, &'static str, Need)>>,
}

/// Calls `each` with every row of `text`, whose header must name exactly `names`, in any order.
pub(super) fn rows<const N: usize>(
    text: &str,
    names: &[&'static str; N],
    found: &mut Vec<Found>,
    each: impl FnMut(&mut Row<N>),
) {
    read_rows(text, names, N, Others::Refused, found, each);
}

/// The same where the columns from `optional` on need not be there; their fields are empty then.
pub(super) fn rows_with_optional<const N: usize>(
    text: &str,
    names: &[&'static str; N],
    optional: usize,
    found: &mut Vec<Found>,
    each: impl FnMut(&mut Row<N>),
) {
    read_rows(text, names, optional, Others::Refused, found, each);
}

/// The same for a file that may have further columns, which are not looked at.
pub(super) fn rows_among_others<const N: usize>(
    text: &str,
    names: &[&'static str; N],
    found: &mut Vec<Found>,
    each: impl FnMut(&mut Row<N>),
) {
    read_rows(text, names, N, Others::Ignored, found, each);
}

/// Columns that nobody asked for.
#[derive(Clone, Copy, PartialEq)]
enum Others {
    Refused,
    Ignored,
}

fn read_rows<const N: usize>(
    text: &str,
    names: &[&'static str; N],
    optional: usize,
    others: Others,
    found: &mut Vec<Found>,
    mut each: impl FnMut(&mut Row<N>),
) {
    let mut width = N;
    let begin = after_comments(text);
    let mut reader = ReaderBuilder::new().has_headers(false).flexible(true).from_reader(&text.as_bytes()[begin..]);
    let mut record = StringRecord::new();
    let mut columns: Option<[usize; N]> = None;
    loop {
        match reader.read_record(&mut record) {
            Ok(true) => {}
            Ok(false) => break,
            // The text is UTF-8 and in memory: nothing is left to fail, but a future reader may find something.
            Err(error) => {
                found.push((format!("not valid CSV: {error}"), "fix the line".into(), 0..0));
                return;
            }
        }
        let at = skip_empty(text, begin + record.position().map_or(0, |position| position.byte() as usize));
        let Some(columns) = &columns else {
            width = record.len();
            match header(text, at, &record, names, optional, others, found) {
                Some(read) => columns = Some(read),
                None => return,
            }
            continue;
        };
        // Excel writes rows of commas below a table.
        let empty = record.iter().all(|field| field.trim().is_empty());
        if empty || record.len() == 1 && is_comment(&text[at..]) {
            continue;
        }
        if record.len() != width {
            let message = format!("the row has {} fields, the header {width}", record.len());
            let help = match text[at..].starts_with('#') {
                true => "below the header, a comment begins with `# ` and has no comma; put it above the header",
                false => "add or remove commas; quote a field that holds one",
            };
            found.push((message, help.into(), field(text, at, usize::MAX)));
            continue;
        }
        each(&mut Row { text, record: &record, names, columns, at, found, asked: None });
    }
    if columns.is_none() {
        let help = format!("begin the file with `{}`", names[..optional.min(N)].join(","));
        found.push(("the header is missing".into(), help, 0..0));
    }
}

fn header<const N: usize>(
    text: &str,
    at: usize,
    record: &StringRecord,
    names: &[&'static str; N],
    optional: usize,
    others: Others,
    found: &mut Vec<Found>,
) -> Option<[usize; N]> {
    let before = found.len();
    if let Some(separator) = record.get(0).and_then(|first| first.strip_prefix("sep=")).filter(|_| record.len() <= 2) {
        let place = field(text, at, usize::MAX);
        found.push(match separator {
            // `sep=,` is read as two fields.
            "" => (
                "the first line is Excel's `sep=,`, not the header".into(),
                "remove this line; commas need no declaration".into(),
                place,
            ),
            _ => (
                format!("the first line is Excel's `sep=`, which declares `{}` as separator", separator.escape_debug()),
                "save the file as CSV with commas (in Excel \"CSV UTF-8 (Comma delimited)\"), without this line".into(),
                place,
            ),
        });
        return None;
    }
    if let (1, Some(separator)) = (record.len(), separator(&record[0], names)) {
        let message = format!("the columns are separated by {separator}, not by commas");
        found.push((message, "save it as CSV with commas".into(), field(text, at, usize::MAX)));
        return None;
    }
    let mut columns = [usize::MAX; N];
    for (index, given) in record.iter().enumerate() {
        let place = field(text, at, index);
        match names.iter().position(|name| *name == given) {
            Some(column) if columns[column] == usize::MAX => columns[column] = index,
            Some(_) => found.push((format!("the column `{given}` is given twice"), "remove one".into(), place)),
            None if others == Others::Ignored => {}
            None => {
                let message = format!("`{}` is not a column of this file", given.escape_debug());
                found.push((message, no_column(given, names), place));
            }
        }
    }
    let needed = &names[..optional.min(N)];
    for (name, _) in needed.iter().zip(columns).filter(|(_, column)| *column == usize::MAX) {
        let help = format!("name all of {}; fields may be empty, columns not", needed.join(","));
        found.push((format!("the column `{name}` is missing"), help, field(text, at, usize::MAX)));
    }
    (found.len() == before).then_some(columns)
}

/// What separates the columns of a header line that has no comma, if one of `names` is in it.
fn separator(line: &str, names: &[&'static str]) -> Option<&'static str> {
    let known =
        |by: char| line.contains(by) && line.split(by).any(|name| names.contains(&name.trim_matches([' ', '"'])));
    [(';', "`;`"), ('\t', "tabs"), ('|', "`|`")].into_iter().find(|(by, _)| known(*by)).map(|(_, shown)| shown)
}

/// Reads one row that stands in no file: `text` gives the text of a column. Its mistakes have no place.
pub(super) fn single<'t, const N: usize, T>(
    names: &[&'static str; N],
    text: impl Fn(&str) -> &'t str,
    read: impl FnOnce(&mut Row<N>) -> Option<T>,
) -> Result<T, Vec<Found>> {
    let record: StringRecord = names.iter().map(|name| text(name)).collect();
    let columns: [usize; N] = std::array::from_fn(|column| column);
    let mut found = Vec::new();
    let row =
        read(&mut Row { text: "", record: &record, names, columns: &columns, at: 0, found: &mut found, asked: None });
    row.filter(|_| found.is_empty()).ok_or(found)
}

/// The help for a column that is none.
pub(super) fn no_column<const N: usize>(given: &str, names: &[&'static str; N]) -> String {
    match similar(given, names.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("remove it; the columns are {}", names.join(",")),
    }
}

impl<'a, const N: usize> Row<'a, N> {
    /// The text of a column.
    pub fn text(&self, column: usize) -> &'a str {
        self.record.get(self.columns[column]).unwrap_or_default()
    }

    /// A column that must have a value. `None` after a mistake, which then is recorded.
    pub fn required<T>(&mut self, column: usize, kind: Kind<impl FnOnce(&'a str) -> Judged<T>>) -> Option<T> {
        self.ask(column, kind.words, Need::Required);
        let text = self.text(column);
        if text.is_empty() {
            self.complain(column, "is missing", "write a value");
            return None;
        }
        (kind.judge)(text).map_err(|(message, help)| self.complain(column, message, help)).ok()
    }

    /// A column that may be empty. The outer `None` is a mistake.
    pub fn optional<T>(&mut self, column: usize, kind: Kind<impl FnOnce(&'a str) -> Judged<T>>) -> Option<Option<T>> {
        self.ask(column, kind.words, Need::Optional);
        if self.text(column).is_empty() { Some(None) } else { self.required(column, kind).map(Some) }
    }

    fn ask(&mut self, column: usize, words: &'static str, need: Need) {
        if let Some(asked) = &mut self.asked {
            asked.push((column, words, need));
        }
    }

    /// A mistake in a column; `message` continues a sentence that begins with its name.
    pub fn complain(&mut self, column: usize, message: impl std::fmt::Display, help: impl Into<String>) {
        let message = format!("`{}` {message}", self.names[column]);
        let place = self.place(column);
        self.found.push((message, help.into(), place));
    }

    /// Where a column's text is.
    pub fn place(&self, column: usize) -> Range<usize> {
        field(self.text, self.at, self.columns[column])
    }
}

/// The place of the field at a position of a row that begins at `row`; past the last one, of the whole row. Only asked
/// for when something is wrong.
pub(super) fn field(text: &str, row: usize, index: usize) -> Range<usize> {
    let bytes = text.as_bytes();
    let (mut start, mut at, mut quoted, mut column) = (row, row, false, 0);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => quoted = !quoted,
            b'\n' | b'\r' if !quoted => break,
            b',' if !quoted && column == index => break,
            b',' if !quoted => (column, start) = (column + 1, at + 1),
            _ => {}
        }
        at += 1;
    }
    if column == index { start..at } else { row..at }
}

/// The reader counts empty lines before a row as part of it.
fn skip_empty(text: &str, at: usize) -> usize {
    at + text.as_bytes()[at..].iter().take_while(|byte| matches!(byte, b'\n' | b'\r')).count()
}

/// Where the header begins: behind a byte order mark, empty lines and comments.
fn after_comments(text: &str) -> usize {
    let mut at = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
    loop {
        at = skip_empty(text, at);
        if !text[at..].starts_with('#') {
            return at;
        }
        at += text[at..].find('\n').unwrap_or(text.len() - at);
    }
}

/// Does a row of one field begin like a comment?
fn is_comment(row: &str) -> bool {
    let after = row.strip_prefix('#');
    after.is_some_and(|after| after.is_empty() || after.starts_with([' ', '\t', '\r', '\n']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_know_their_places() {
        let text = "# one\r\n\r\nb,a\r\n# two\n\"1,\n\"\"x\",2\n \n3,4\n5\n";
        let mut found = Vec::new();
        let mut seen = Vec::new();
        rows(text, &["a", "b"], &mut found, |row| {
            let places = [0, 1].map(|column| text[row.place(column)].to_owned());
            seen.push(format!("{:?} {:?} {places:?}", row.text(0), row.text(1)));
        });
        assert_eq!(seen, [r#""2" "1,\n\"x" ["2", "\"1,\n\"\"x\""]"#, r#""4" "3" ["4", "3"]"#],);
        assert_eq!(found.len(), 1);
        assert_eq!(&text[found[0].2.clone()], "5");
    }

    #[test]
    fn other_separators_are_named() {
        for (text, expected) in [
            ("a;b\n1;2\n", Some("the columns are separated by `;`, not by commas")),
            ("a;x;y\n", Some("the columns are separated by `;`, not by commas")),
            ("x\tb\n", Some("the columns are separated by tabs, not by commas")),
            ("\"a\"|x\n", Some("the columns are separated by `|`, not by commas")),
            ("sep=;\na;b\n", Some("the first line is Excel's `sep=`, which declares `;` as separator")),
            ("\u{feff}sep=\t\r\na\tb\r\n", Some("the first line is Excel's `sep=`, which declares `\\t` as separator")),
            ("sep=,\na,b\n", Some("the first line is Excel's `sep=,`, not the header")),
            ("a,b\n", None),
        ] {
            let mut found = Vec::new();
            rows(text, &["a", "b"], &mut found, |_| ());
            assert_eq!(found.first().map(|(message, ..)| message.as_str()), expected, "{text:?}");
            assert!(found.len() <= 1, "{found:?}");
        }
        let mut found = Vec::new();
        rows("x;y\n", &["a", "b"], &mut found, |_| ());
        assert_eq!(found[0].0, "`x;y` is not a column of this file");
    }

    #[test]
    fn a_row_may_begin_with_a_hash() {
        let text = "\u{feff}#1,2\n# one\na,b\n#1,2\n#\n# two\n# three,\n#four\n\"# 5\",6";
        let (mut found, mut seen) = (Vec::new(), Vec::new());
        rows(text, &["a", "b"], &mut found, |row| seen.push(format!("{} {}", row.text(0), row.text(1))));
        assert_eq!(seen, ["#1 2", "# three ", "# 5 6"]);
        let refused: Vec<_> = found.iter().map(|(_, _, place)| &text[place.clone()]).collect();
        assert_eq!(refused, ["#four"]);
    }
}
