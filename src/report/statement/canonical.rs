//! JSON as one sequence of bytes: RFC 8785 (JCS), restricted to integers.
//!
//! Own code instead of a crate on purpose. The crates write every number by way of a double, so two amounts above 2^53
//! could silently share a digest; a statement holds integers only, and one that a double cannot hold exactly is
//! refused. Strict reading belongs here too: an object that names a member twice shows one figure to a reader and
//! another one to the digest.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// The largest integer that all readers of JSON agree on (RFC 7493): 2^53 − 1.
pub const MAX_INTEGER: u64 = (1 << 53) - 1;

/// A number that has no canonical form here: a fraction, or an integer beyond [`MAX_INTEGER`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the number {0} is not an integer of at most 53 bits")]
pub struct BadNumber(pub String);

/// The canonical form: no space, members sorted by UTF-16 code units, only the escapes that must be.
///
/// # Errors
/// A number that is not an integer, or too large.
pub fn to_string(value: &Value) -> Result<String, BadNumber> {
    let mut out = String::new();
    write(value, &mut out)?;
    Ok(out)
}

/// SHA-256 of the canonical form, in lower-case hex.
///
/// # Errors
/// A number that is not an integer, or too large.
pub fn sha256(value: &Value) -> Result<String, BadNumber> {
    Ok(hex(&Sha256::digest(to_string(value)?)))
}

/// Bytes in lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        _ = write!(out, "{byte:02x}");
        out
    })
}

fn write(value: &Value, out: &mut String) -> Result<(), BadNumber> {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Value::Number(n) => {
            let size = n.as_u64().or_else(|| n.as_i64().map(i64::unsigned_abs));
            if size.is_none_or(|size| size > MAX_INTEGER) {
                return Err(BadNumber(n.to_string()));
            }
            out.push_str(&n.to_string());
        }
        Value::String(text) => string(text, out),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write(item, out)?;
            }
            out.push(']');
        }
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
            out.push('{');
            for (index, (name, member)) in members.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                string(name, out);
                out.push(':');
                write(member, out)?;
            }
            out.push('}');
        }
    }
    Ok(())
}

/// RFC 8785, 3.2.2.2: two-character escapes where JSON has them, `\u00xx` for other control characters, else as it is.
fn string(text: &str, out: &mut String) {
    use fmt::Write as _;
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\u{c}' => out.push_str("\\f"),
            '\r' => out.push_str("\\r"),
            c if c < ' ' => _ = write!(out, "\\u{:04x}", u32::from(c)),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Reads JSON in which no object names a member twice.
///
/// # Errors
/// Not JSON, trailing data, or a repeated name.
pub fn parse(text: &str) -> Result<Value, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = Strict.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(Strict)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(name) = access.next_key::<String>()? {
            let member = access.next_value_seed(Strict)?;
            if members.contains_key(&name) {
                return Err(A::Error::custom(format!("the member `{}` is there twice", name.escape_debug())));
            }
            members.insert(name, member);
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(input: &str, expected: &str) {
        let value = parse(input).unwrap_or_else(|e| panic!("{input}: {e}"));
        assert_eq!(to_string(&value).as_deref(), Ok(expected), "{input}");
    }

    #[test]
    fn canonical_forms_of_rfc_8785() {
        check(" { } ", "{}");
        check(r#"{"b":[ 1 , -2,null,true,false ],"a":"x"}"#, r#"{"a":"x","b":[1,-2,null,true,false]}"#);
        // 3.2.2.2, the string of the RFC's example.
        check(r#"["\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/"]"#, "[\"\u{20ac}$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"]");
        check(r#"["\b\t\f\r\u0000\u001f\u007f\u2028"]"#, "[\"\\b\\t\\f\\r\\u0000\\u001f\u{7f}\u{2028}\"]");
        // 3.2.3, the RFC's example of sorting: by UTF-16, so that U+1F600 comes before U+FB33.
        check(
            r#"{"\u20ac":1,"\r":2,"\ufb33":3,"1":4,"\ud83d\ude00":5,"\u0080":6,"\u00f6":7}"#,
            "{\"\\r\":2,\"1\":4,\"\u{80}\":6,\"\u{f6}\":7,\"\u{20ac}\":1,\"\u{1f600}\":5,\"\u{fb33}\":3}",
        );
        check("[9007199254740991,-9007199254740991,0]", "[9007199254740991,-9007199254740991,0]");
    }

    #[test]
    fn what_has_no_canonical_form_is_refused() {
        for number in ["1.5", "1e3", "-0", "9007199254740992", "-9007199254740992", "18446744073709551615"] {
            let value = parse(number).unwrap_or_else(|e| panic!("{number}: {e}"));
            assert!(to_string(&value).is_err(), "{number}");
        }
        for text in [r#"{"a":1,"a":1}"#, r#"{"b":[{"a":1,"\u0061":2}]}"#, "{} {}", "[1,]", r#""\ud83d""#, ""] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
