//! Makes text from outside safe to print. Tenants, actions, codes, file names and what brokers say may contain
//! characters that break a line, control a terminal or change the writing direction. Wherever text is shown to people
//! (logs, tables, errors, statements, labels) they are escaped, such as `\u{1b}`.
//!
//! JSON and CSV are for machines and keep every character: JSON has escapes of its own, and a CSV cell its quotes.

use std::borrow::Cow;
use std::fmt::{self, Write};

/// Must this character be escaped? Control characters, invisible ones, and those that change the writing direction.
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{3164}' | '\u{feff}' | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}' | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}')
}

/// The text on one line, with every hidden character written as `\u{1b}`.
pub fn visible(text: &str) -> Cow<'_, str> {
    if is_plain(text) || !text.contains(is_hidden) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 16);
    push(&mut out, text, is_hidden);
    out.into()
}

/// Text of several lines: as [`visible`], but its line feeds stay.
pub fn visible_lines(text: &str) -> Cow<'_, str> {
    let hidden = |c| c != '\n' && is_hidden(c);
    if !text.contains(hidden) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 16);
    push(&mut out, text, hidden);
    out.into()
}

/// As [`visible_lines`], but different names stay different: for labels, which identify their owners. A backslash that
/// would begin an escape is escaped itself. To read it back, replace each `\u{…}` by its character. (Label formats
/// escape line feeds in their own way.)
pub fn visible_name(name: &str) -> Cow<'_, str> {
    if is_plain(name) {
        return name.into();
    }
    match name.contains("\\u{") {
        true => visible_lines(&name.replace("\\u{", "\\u{5c}u{")).into_owned().into(),
        false => visible_lines(name),
    }
}

/// Fast path for nearly all names: printable ASCII without a backslash.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'\\')
}

fn push(out: &mut String, text: &str, hidden: impl Fn(char) -> bool) {
    for c in text.chars() {
        if hidden(c) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
}

/// A writer that makes its text [`visible`].
#[derive(Debug)]
pub struct VisibleWriter<W>(pub W);

impl<W: Write> Write for VisibleWriter<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write_str(&visible(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_deceives_is_shown() {
        for (text, line, name) in [
            ("acme 租户 é 👍", "acme 租户 é 👍", "acme 租户 é 👍"),
            ("a\u{1b}[2J", "a\\u{1b}[2J", "a\\u{1b}[2J"),
            ("a\nb\t", "a\\u{a}b\\u{9}", "a\nb\\u{9}"),
            ("\u{202e}x\u{9b}\u{7f}", "\\u{202e}x\\u{9b}\\u{7f}", "\\u{202e}x\\u{9b}\\u{7f}"),
            ("\u{e0041}\u{200b}", "\\u{e0041}\\u{200b}", "\\u{e0041}\\u{200b}"),
            ("a\\b", "a\\b", "a\\b"),
            ("a\\u{1b}", "a\\u{1b}", "a\\u{5c}u{1b}"),
            ("\\\u{1b}", "\\\\u{1b}", "\\\\u{1b}"),
        ] {
            assert_eq!((&*visible(text), &*visible_name(text)), (line, name), "{text:?}");
        }
        assert_eq!(visible_lines("a\r\nb\u{1b}\n"), "a\\u{d}\nb\\u{1b}\n");
    }

    #[test]
    fn names_read_back() {
        let read = |shown: &str| {
            let mut parts = shown.split("\\u{");
            let first = parts.next().unwrap_or_default().to_owned();
            parts.fold(first, |mut name, part| {
                let (digits, rest) = part.split_once('}').expect("an escape");
                name.push(char::from_u32(u32::from_str_radix(digits, 16).expect("hex")).expect("a character"));
                name + rest
            })
        };
        for name in ["", "a", "\u{1b}", "\\u{1b}", "\\\u{1b}", "\\\\u{1b}\n", "\\u{5c}u{1b}", "\\u{", "\u{5c}u{5c}u{"] {
            assert_eq!(read(&visible_name(name)), name, "{name:?}");
        }
    }
}
