//! `config/sla-ledger.yaml`: every key with its default, as a file to copy.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value as Json;
use textwrap::{Options, WordSeparator, WordSplitter};

use crate::config::{Config, Key};
use crate::yaml::form::{duration, size};
use crate::yaml::tree::{Node, Value, parse};
use crate::yaml::{Form, Need};

/// Columns of a comment.
const WIDTH: usize = 125;

const HEAD: &str = "# sla-ledger: every key, with its default. docs/configuration.md has the same as a table.
#
#   sla-ledger check-config --config config    lists everything that is wrong, before anything runs
#
# Only `source.topic` and `kafka.brokers` have no default. Unknown keys are rejected. Durations are text with a unit
# (\"100ms\", \"30s\", \"15m\", \"2h\", \"100d\"), sizes an integer of bytes or text (\"512KiB\", \"20MB\"). Secrets are never written in
# this file: name the file or the environment variable that has them. In every value `${NAME}` is replaced by the
# environment variable, `${NAME:-default}` by the default where it is unset or empty; `$$` is a dollar sign.
#
# [reload] takes effect on SIGHUP or POST /-/reload; every other key with the next start.
";

/// The text of `config/sla-ledger.yaml`.
pub fn sample() -> String {
    let defaults = Defaults::of_config();
    let keys = Config::all_keys();
    let mut out = String::from(HEAD);
    for key in &keys {
        let depth = key.path.matches('.').count();
        if key.path.contains("[]") {
            continue;
        }
        if depth == 0 {
            out.push('\n');
        }
        let indent = "  ".repeat(depth);
        let name = key.path.rsplit('.').next().unwrap_or_default();
        comment(&mut out, &format!("{indent}# "), &format!("{indent}# "), &explained(key));
        for item in keys.iter().filter(|item| item.path.strip_prefix(&key.path).is_some_and(|r| r.starts_with("[]."))) {
            let name = item.path.rsplit('.').next().unwrap_or_default();
            comment(
                &mut out,
                &format!("{indent}#   "),
                &format!("{indent}#     "),
                &format!("{name}: {}", explained(item)),
            );
        }
        let line = match (&key.form, defaults.of(key), key.example) {
            (Form::Section, ..) => format!("{name}:"),
            (_, Some(default), Some(example)) if default.len() <= 2 => {
                comment(&mut out, &format!("{indent}# "), &format!("{indent}# "), &format!("e.g. {example}"));
                format!("{name}: {default}")
            }
            (_, Some(default), None) => format!("{name}: {default}"),
            (_, _, Some(example)) if key.need == Need::Required => format!("{name}: {example}"),
            (_, _, example) => format!("# {name}: {}", example.unwrap_or_default()),
        };
        out.push_str(&format!("{indent}{line}\n"));
    }
    out
}

/// What a comment says of a key: what it does, and how it is written where its default does not show that.
fn explained(key: &Key) -> String {
    let reload = if key.reload { "[reload] " } else { "" };
    let form = match &key.form {
        Form::Integer(_) | Form::Duration(..) | Form::Bytes(_) | Form::Choice(_) => {
            let form = key.form.to_string();
            let first = form.chars().next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
            // Words of a choice are written as they are.
            if matches!(key.form, Form::Choice(_)) {
                format!(" One of {form}.")
            } else {
                format!(" {first}{}.", &form[1..])
            }
        }
        _ => String::new(),
    };
    let required = if key.need == Need::Required { " Required." } else { "" };
    format!("{reload}{}{form}{required}", key.doc)
}

/// Words behind `first` and, from the second line on, behind `next`.
fn comment(out: &mut String, first: &str, next: &str, text: &str) {
    let options = Options::new(WIDTH)
        .initial_indent(first)
        .subsequent_indent(next)
        .word_separator(WordSeparator::AsciiSpace)
        .word_splitter(WordSplitter::NoHyphenation)
        .break_words(false);
    for line in textwrap::wrap(text, options) {
        out.push_str(&line);
        out.push('\n');
    }
}

/// The defaults of keys, as a file says them.
pub(super) struct Defaults(BTreeMap<String, Json>);

impl Defaults {
    /// Those of [`Config::new`].
    pub fn of_config() -> Self {
        let keys = Config::new("", Vec::new()).keys();
        Self(keys.into_iter().filter_map(|(key, json)| Some((key, serde_json::from_str(&json).ok()?))).collect())
    }

    /// Those that a file gives.
    pub fn of_file(text: &str) -> Self {
        let mut found = BTreeMap::new();
        // A file that is compiled in: a test reads it.
        if let Ok(root) = parse(text) {
            leaves("", &root, &mut found);
        }
        Self(found)
    }

    /// That of a key, if it has one.
    pub fn of(&self, key: &Key) -> Option<String> {
        if key.need != Need::Default || key.path.contains("[]") {
            return None;
        }
        match (&key.form, self.0.get(&key.path)) {
            (Form::Free(_), _) => Some("{}".into()),
            (form, Some(json)) => written(form, json),
            (Form::Sections, None) => Some("[]".into()),
            (_, None) => None,
        }
    }
}

/// A value as the file says it.
fn written(form: &Form, json: &Json) -> Option<String> {
    match (form, json) {
        (Form::Duration(..), Json::Number(seconds)) => Some(duration(Duration::from_secs(seconds.as_u64()?))),
        (Form::Bytes(_), Json::Number(bytes)) => Some(size(bytes.as_u64()?)),
        (_, Json::Array(items)) => {
            let item = match form {
                Form::List(item) => item,
                other => other,
            };
            let items: Option<Vec<_>> = items.iter().map(|value| written(item, value)).collect();
            Some(format!("[{}]", items?.join(", ")))
        }
        (_, Json::String(text)) => Some(scalar(text)),
        (_, Json::Null) => None,
        (_, other) => Some(other.to_string()),
    }
}

/// A text as YAML: plain where it is read back as it is, also in a list.
fn scalar(text: &str) -> String {
    let plain = !text.contains([',', '[', ']', '{', '}', '"'])
        && parse(text).is_ok_and(|node| matches!(node.value, Value::Text(read) if read == text));
    if plain { text.to_owned() } else { Json::from(text).to_string() }
}

fn leaves(path: &str, node: &Node, found: &mut BTreeMap<String, Json>) {
    let Value::Map(entries) = &node.value else {
        found.insert(path.to_owned(), json(node));
        return;
    };
    for (key, value) in entries {
        if let Value::Text(name) = &key.value {
            leaves(&if path.is_empty() { name.clone() } else { format!("{path}.{name}") }, value, found);
        }
    }
}

fn json(node: &Node) -> Json {
    match &node.value {
        Value::Null => Json::Null,
        Value::Bool(value) => Json::from(*value),
        Value::Int(value) => Json::from(i64::try_from(*value).unwrap_or(i64::MAX)),
        Value::Float(value) => Json::from(*value),
        Value::Text(text) => Json::from(text.as_str()),
        Value::List(items) => items.iter().map(json).collect(),
        Value::Map(entries) => {
            let entry = |(key, value): &(Node, Node)| match &key.value {
                Value::Text(name) => Some((name.clone(), json(value))),
                _ => None,
            };
            Json::Object(entries.iter().filter_map(entry).collect())
        }
    }
}
