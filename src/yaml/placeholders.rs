//! Variables and templates that somebody forgot to fill in: `${NAME}`, `$(NAME)`, `$NAME`, `{{ … }}`. Nothing is expanded
//! here, so they would be taken as they stand: every instance with one name, a topic called `${TOPIC}`.

use std::ops::Range;

use super::tree::{Node, Value};

/// Keys whose values name a JSON member, which may begin with a dollar sign.
const FIELDS: &str = "source.fields.";
/// Characters of a placeholder that a message shows.
const SHOWN: usize = 40;

/// A mistake for every value below `root` that holds a placeholder: message, help, place.
pub(super) fn find(root: &Node, secrets: &[Range<usize>]) -> Vec<(String, String, Range<usize>)> {
    let mut found = Vec::new();
    walk(root, "", &mut |key, text, at| {
        let secret = secrets.iter().any(|secret| secret.contains(&at.start));
        let Some(placeholder) = placeholder(text) else { return };
        let bare = !placeholder.ends_with([')', '}']);
        // A hash or a password may look like `$NAME`.
        if bare && (secret || key.starts_with(FIELDS)) {
            return;
        }
        let shown: String = if secret { "a variable".into() } else { format!("`{}`", cut(placeholder)) };
        let message = format!("`{}` holds {shown}, and variables are not expanded", key.escape_debug());
        found.push((message, help(key), at));
    });
    found
}

fn help(key: &str) -> String {
    match key {
        "kafka.instance_id" => {
            "remove the key, and set SLA_LEDGER_INSTANCE_ID in each instance's environment (default: host name and port)".into()
        }
        _ if key.ends_with("_env") => "write the variable's name alone, without `$` and brackets".into(),
        _ => "write the value itself, or fill the file in before the start, e.g. with `envsubst`".into(),
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", text[..end].escape_debug()),
        None => text.escape_debug().to_string(),
    }
}

fn walk(node: &Node, path: &str, found: &mut impl FnMut(&str, &str, Range<usize>)) {
    match &node.value {
        Value::Text(text) => found(path, text, node.at.clone()),
        Value::List(items) => items.iter().for_each(|item| walk(item, path, &mut *found)),
        Value::Map(entries) => {
            for (key, value) in entries {
                let Value::Text(name) = &key.value else { continue };
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                walk(value, &path, &mut *found);
            }
        }
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) => {}
    }
}

/// The first placeholder in a text.
pub(crate) fn placeholder(text: &str) -> Option<&str> {
    text.char_indices().filter(|(_, c)| matches!(c, '$' | '{')).find_map(|(start, _)| {
        let rest = &text[start..];
        let closed = |open: &str, close: &str| {
            let end = rest.strip_prefix(open)?.find(close)?;
            Some(&rest[..open.len() + end + close.len()])
        };
        closed("${", "}").or_else(|| closed("$(", ")")).or_else(|| closed("{{", "}}")).or_else(|| variable(rest))
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
            ("${", None),
            ("$5", None),
            ("{x}", None),
        ] {
            assert_eq!(placeholder(text), expected, "{text}");
        }
    }
}
