//! YAML text as a tree of values with their places, so that checks can go on after a mistake.
//!
//! Typed deserialization stops at the first wrong type. Here only broken YAML stops; everything else is left to the
//! reader, which sees repeated keys too.

use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_saphyr::options::{DuplicateKeyPolicy, MergeKeyPolicy, NonFiniteFloatPolicy};
use serde_saphyr::{Location, Spanned};

/// No sensible file nests deeper, and the tree is walked recursively.
const MAX_DEPTH: usize = 32;

/// Values of one file: room for a few hundred thousand rulings.
const MAX_NODES: usize = 5_000_000;

/// A value and the bytes of the file it stands in.
#[derive(Debug)]
pub(crate) struct Node {
    pub at: Range<usize>,
    pub value: Value,
}

/// What YAML's core schema makes of a value. Booleans are `true` and `false` only.
#[derive(Debug)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
}

/// Why a text is not taken.
#[derive(Debug)]
pub(crate) struct Unreadable {
    /// What is wrong, without any text of the file.
    pub message: String,
    /// What to do.
    pub help: &'static str,
    /// Where.
    pub at: Range<usize>,
}

/// Parses one document.
pub(crate) fn parse(text: &str) -> Result<Node, Unreadable> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_depth: MAX_DEPTH, max_nodes: MAX_NODES, max_events: 3 * MAX_NODES },
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        merge_keys: MergeKeyPolicy::Error,
        non_finite_float_policy: NonFiniteFloatPolicy::AsString,
        strict_booleans: true,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let place = error.location().map_or(0..0, |location| match location.span().byte_offset() {
            Some(_) => range(&location),
            None => offset(text, location.line(), location.column()),
        });
        let (message, help) = explained(&error);
        Unreadable { message, help, at: place }
    })
}

/// What is wrong, and what to do: plain words for what is YAML but not taken, the library's for broken YAML.
fn explained(error: &serde_saphyr::Error) -> (String, &'static str) {
    use serde_saphyr::Error::{MergeKeyNotAllowed, MergeValueNotMapOrSeqOfMaps, MultipleDocuments};
    match error.without_snippet() {
        MergeKeyNotAllowed { .. } | MergeValueNotMapOrSeqOfMaps { .. } => {
            ("merge keys (`<<`) are not supported".into(), "write the merged keys out here")
        }
        MultipleDocuments { .. } => {
            ("the file has more than one YAML document".into(), "keep one; remove the `---` lines between them")
        }
        error => {
            let options = serde_saphyr::render_options! { snippets: serde_saphyr::SnippetMode::Off };
            let message = error.render_with_options(options);
            let end = message.rfind(" at line ").unwrap_or(message.len());
            let help =
                "fix this line or the one before: indentation, brackets, quotes; quote values that hold `: ` or `#`";
            (format!("not valid YAML: {}", &message[..end]), help)
        }
    }
}

impl Node {
    /// Calls `found` with the place of every scalar below.
    pub fn scalars(&self, found: &mut impl FnMut(Range<usize>)) {
        match &self.value {
            Value::List(items) => items.iter().for_each(|item| item.scalars(found)),
            Value::Map(entries) => entries.iter().for_each(|(key, value)| {
                key.scalars(found);
                value.scalars(found);
            }),
            _ => found(self.at.clone()),
        }
    }

    /// Calls `found` with the place of every scalar that stands under a key that sounds like a secret's.
    pub fn secrets(&self, found: &mut impl FnMut(Range<usize>)) {
        match &self.value {
            Value::List(items) => items.iter().for_each(|item| item.secrets(found)),
            Value::Map(entries) => entries.iter().for_each(|(key, value)| match &key.value {
                Value::Text(name) if sounds_secret(name) => value.scalars(found),
                _ => value.secrets(found),
            }),
            _ => {}
        }
    }
}

/// Whether a key's name sounds like a secret's: then its value is never shown. Keys that only say where the secret is
/// (`*_file`, `*.location`) do not; `*_env` does, because people paste the secret itself there.
pub(crate) fn sounds_secret(key: &str) -> bool {
    const SOUNDS: [&str; 10] =
        ["pass", "pasw", "pwd", "secret", "key.pem", "jaas", "token", "credential", "oauthbearer.config", "basic_auth"];
    const POINTERS: [&str; 2] = ["_file", ".location"];
    let key = key.to_ascii_lowercase();
    key == "key" || SOUNDS.iter().any(|sound| key.contains(sound)) && !POINTERS.iter().any(|end| key.ends_with(end))
}

/// The same as [`Node::secrets`] for a text that is not a YAML: everything after `key:` in the line, and the lines below that
/// are indented deeper. Hides too much rather than too little.
pub(crate) fn secrets_in_broken(text: &str, found: &mut impl FnMut(Range<usize>)) {
    let mut start = 0;
    let mut hidden_below: Option<usize> = None;
    for line in text.split_inclusive('\n') {
        let indent = line.len() - line.trim_start().len();
        let deeper = line.trim().is_empty() || hidden_below.is_some_and(|above| indent > above);
        if hidden_below.is_some() && deeper {
            found(start..start + line.len());
        } else {
            hidden_below = None;
            let mut from = 0;
            while let Some(colon) = line[from..].find(':').map(|at| from + at) {
                let word = |c: char| !(c.is_alphanumeric() || "._-\"'".contains(c));
                let key = line[..colon].trim_end().rsplit(word).next().unwrap_or_default().trim_matches(['"', '\'']);
                if sounds_secret(key) {
                    found(start + colon + 1..start + line.len());
                    hidden_below = Some(indent);
                    break;
                }
                from = colon + 1;
            }
        }
        start += line.len();
    }
}

/// The empty range at a line and column, both from 1.
fn offset(text: &str, line: u64, column: u64) -> Range<usize> {
    let lines = text.split_inclusive('\n').take(line.saturating_sub(1) as usize);
    let start = lines.map(str::len).sum::<usize>();
    let characters = text[start..].chars().take(column.saturating_sub(1) as usize);
    let at = start + characters.map(char::len_utf8).sum::<usize>();
    at..at
}

fn range(location: &Location) -> Range<usize> {
    let span = location.span();
    let start = span.byte_offset().unwrap_or(0) as usize;
    start..start + span.byte_len().unwrap_or(0) as usize
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self { at: range(&spanned.referenced), value: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("any value")
            }
            fn visit_unit<E: Error>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }
            fn visit_none<E: Error>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }
            fn visit_bool<E: Error>(self, v: bool) -> Result<Value, E> {
                Ok(Value::Bool(v))
            }
            fn visit_i64<E: Error>(self, v: i64) -> Result<Value, E> {
                Ok(Value::Int(v.into()))
            }
            fn visit_u64<E: Error>(self, v: u64) -> Result<Value, E> {
                Ok(Value::Int(v.into()))
            }
            fn visit_i128<E: Error>(self, v: i128) -> Result<Value, E> {
                Ok(Value::Int(v))
            }
            fn visit_u128<E: Error>(self, v: u128) -> Result<Value, E> {
                Ok(Value::Int(i128::try_from(v).unwrap_or(i128::MAX)))
            }
            fn visit_f64<E: Error>(self, v: f64) -> Result<Value, E> {
                Ok(Value::Float(v))
            }
            fn visit_str<E: Error>(self, v: &str) -> Result<Value, E> {
                Ok(Value::Text(v.to_owned()))
            }
            fn visit_string<E: Error>(self, v: String) -> Result<Value, E> {
                Ok(Value::Text(v))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Value::List(items))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Value::Map(entries))
            }
        }

        deserializer.deserialize_any(Any)
    }
}
