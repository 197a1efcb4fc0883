//! Variables in values: `${NAME}` is replaced by the environment's value, `${NAME:-default}` by the default where the variable
//! is unset or empty, and `$$` by a dollar sign. What somebody forgot to fill in otherwise (`$(NAME)`, `$NAME`, `{{ … }}`) is a
//! mistake: it would be taken as it is, every instance with one name, a topic called `$TOPIC`.

use std::ops::Range;

use super::read::{cut, shown_text};
use super::tree::{self, Node, Value};

/// Keys whose values name a JSON member, which may begin with a dollar sign.
const FIELDS: &str = "source.fields.";

/// The value of an environment variable.
pub(crate) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Message, help, place.
type Mistake = (String, String, Range<usize>);

/// Replaces the variables in every value below `root`; without an environment they are mistakes, for a file that must say the
/// same everywhere. Returns a mistake for each variable that is unset, and for every template that is not one of ours. `text` is
/// the file, `secrets` are its bytes never to be shown.
pub(super) fn expand(
    root: &mut Node,
    text: &str,
    secrets: &[Range<usize>],
    environment: Option<Environment<'_>>,
) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    walk(root, "", &mut |key, node| {
        let Value::Text(value) = &node.value else { return };
        let secret = secrets.iter().any(|secret| secret.contains(&node.at.start));
        // A hash or a password may look like `$NAME`.
        let may_be_bare = secret || key.starts_with(FIELDS);
        let ours = environment.is_some();
        let is_foreign = |found: &str| match found.ends_with([')', '}']) {
            true => !(ours && found.starts_with("${")),
            false => !may_be_bare,
        };
        let found = match placeholders(value).find(|found| is_foreign(found)) {
            Some(found) => Err(Fault::Foreign { text: found.to_owned(), ours }),
            None => environment.map_or(Ok(None), |environment| replaced(value, environment)),
        };
        match found {
            Ok(None) => {}
            Ok(Some(value)) => {
                let quoted = text[node.at.clone()].starts_with(['"', '\'', '|', '>']);
                node.value = if quoted { Value::Text(value) } else { scalar(value) };
            }
            Err(fault) => mistakes.push(fault.told(key, secret, node.at.clone())),
        }
    });
    mistakes
}

/// What is wrong with a value.
enum Fault {
    /// The variable is unset.
    Unset(String),
    /// A `${…}` without a valid name.
    Name(String),
    /// Another tool's template, or one of ours in a file without variables.
    Foreign { text: String, ours: bool },
}

impl Fault {
    fn told(self, key: &str, secret: bool, at: Range<usize>) -> Mistake {
        let shown = |text: &str| if secret { "a variable".into() } else { shown_text(text) };
        let key = key.escape_debug().to_string();
        let (message, help) = match &self {
            Self::Unset(name) => (
                format!("`{key}`: the environment variable {} is not set", shown(name)),
                match &*key {
                    "kafka.instance_id" => {
                        "set it for each instance, or remove the key and set SLA_LEDGER_INSTANCE_ID \
                                            (default: host name and port)"
                            .into()
                    }
                    _ if secret => "set it, or write the value itself".into(),
                    _ => format!("set it, write a default (`${{{}:-value}}`), or write the value itself", cut(name)),
                },
            ),
            Self::Name(text) => (
                format!("`{key}` has {}, which is not a variable", shown(text)),
                "write `${NAME}` or `${NAME:-default}`; `$$` is a dollar sign".into(),
            ),
            Self::Foreign { text, ours } => (
                format!("`{key}` has {}, which is not expanded", shown(text)),
                match ours {
                    _ if key.ends_with("_env") => "write the variable's name alone, without `$` and brackets",
                    true => "write `${NAME}` for an environment variable; `$$` is a dollar sign",
                    false => "write the value itself: this file has no variables",
                }
                .into(),
            ),
        };
        (message, help, at)
    }
}

/// `value` with its variables replaced; `None` if it has none.
fn replaced(value: &str, environment: Environment<'_>) -> Result<Option<String>, Fault> {
    if !value.contains("${") && !value.contains("$$") {
        return Ok(None);
    }
    let (mut out, mut rest) = (String::with_capacity(value.len()), value);
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let from = &rest[at..];
        if let Some(after) = from.strip_prefix("$$") {
            out.push('$');
            rest = after;
        } else if let Some((inner, after)) = from.strip_prefix("${").and_then(|inner| inner.split_once('}')) {
            let (name, default) = match inner.split_once(":-") {
                Some((name, default)) => (name, Some(default)),
                None => (inner, None),
            };
            if !is_name(name) {
                return Err(Fault::Name(from[..inner.len() + 3].into()));
            }
            match (environment(name), default) {
                (Some(value), None) => out.push_str(&value),
                (Some(value), Some(_)) if !value.is_empty() => out.push_str(&value),
                (_, Some(default)) => out.push_str(default),
                (None, None) => return Err(Fault::Unset(name.into())),
            }
            rest = after;
        } else {
            out.push('$');
            rest = &from[1..];
        }
    }
    out.push_str(rest);
    Ok(Some(out))
}

fn is_name(name: &str) -> bool {
    let letters = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    letters && name.bytes().next().is_some_and(|b| !b.is_ascii_digit())
}

/// The value as YAML reads it without quotes, if it is a scalar: `8` is a number.
fn scalar(value: String) -> Value {
    match tree::parse(&value) {
        Ok(Node { value: scalar @ (Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Null), .. }) => scalar,
        _ => Value::Text(value),
    }
}

/// Calls `found` with the full key and each scalar below `node`.
fn walk(node: &mut Node, path: &str, found: &mut impl FnMut(&str, &mut Node)) {
    match &mut node.value {
        Value::List(items) => items.iter_mut().for_each(|item| walk(item, path, &mut *found)),
        Value::Map(entries) => {
            for (key, value) in entries {
                let Value::Text(name) = &key.value else { continue };
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                walk(value, &path, &mut *found);
            }
        }
        _ => found(path, node),
    }
}

/// The first template in a text.
pub(crate) fn placeholder(text: &str) -> Option<&str> {
    placeholders(text).next()
}

/// The templates in a text, but for what stands behind `$$`.
fn placeholders(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        loop {
            let from = &rest[rest.find(['$', '{'])?..];
            let closed = |open: &str, close: &str| {
                let end = from.strip_prefix(open)?.find(close)?;
                Some(&from[..open.len() + end + close.len()])
            };
            let found = closed("${", "}")
                .or_else(|| closed("$(", ")"))
                .or_else(|| closed("{{", "}}"))
                .or_else(|| variable(from));
            let passed = found.map_or(if from.starts_with("$$") { 2 } else { 1 }, str::len);
            rest = &from[passed..];
            if found.is_some() {
                return found;
            }
        }
    })
}

/// `$NAME` in capitals, at the beginning of `text`.
fn variable(text: &str) -> Option<&str> {
    let name = text.strip_prefix('$')?;
    let end = name.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(name.len());
    let name = &name[..end];
    let capitals = name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
    (name.len() > 1 && capitals && !name.as_bytes()[0].is_ascii_digit()).then(|| &text[..1 + end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_replaced() {
        let environment = |name: &str| match name {
            "HOST" => Some("node-1".to_owned()),
            "EMPTY" => Some(String::new()),
            "CODE" => Some("a${HOST}$$".to_owned()),
            _ => None,
        };
        for (value, expected) in [
            ("plain", None),
            ("$key", None),
            ("${HOST}", Some("node-1")),
            ("sla-${HOST}-${HOST}", Some("sla-node-1-node-1")),
            ("${EMPTY}", Some("")),
            ("${EMPTY:-x}", Some("x")),
            ("${MISSING:-}", Some("")),
            ("${HOST:-x}", Some("node-1")),
            ("a$$b", Some("a$b")),
            ("$${HOST}", Some("${HOST}")),
            ("/a/${b", Some("/a/${b")),
            // A value of the environment is not expanded again.
            ("${CODE}", Some("a${HOST}$$")),
        ] {
            let found = replaced(value, &environment).unwrap_or_else(|_| panic!("{value}"));
            assert_eq!(found.as_deref(), expected, "{value}");
        }
        for value in ["${MISSING}", "${}", "${1A}", "${a b}"] {
            assert!(replaced(value, &environment).is_err(), "{value}");
        }
    }

    #[test]
    fn what_a_placeholder_is() {
        for (text, expected) in [
            ("${HOSTNAME}", Some("${HOSTNAME}")),
            ("sla-${HOSTNAME:-x}-1", Some("${HOSTNAME:-x}")),
            ("$(POD_NAME)", Some("$(POD_NAME)")),
            ("https://{{ .Values.host }}/x", Some("{{ .Values.host }}")),
            ("$HOSTNAME", Some("$HOSTNAME")),
            ("a$POD_NAME-1", Some("$POD_NAME")),
            ("$key", None),
            ("$header:X-ID", None),
            ("/_id/$oid", None),
            ("$2b$10$ABcd", None),
            ("US$", None),
            ("US$$HOME", None),
            ("${", None),
            ("$5", None),
            ("{x}", None),
        ] {
            assert_eq!(placeholder(text), expected, "{text}");
        }
    }
}
