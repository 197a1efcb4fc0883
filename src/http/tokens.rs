//! The file of the API's bearer tokens, one a line: two lines while one replaces the other. Its text is never shown.

use std::path::Path;

use sha2::{Digest, Sha256};

use crate::yaml::{self, FileErrors};

/// A shorter token could be guessed.
const MIN_CHARS: usize = 16;

/// A longer one does not fit into a header that a client would send.
const MAX_CHARS: usize = 4_096;

/// The digests of the file's tokens.
pub(super) fn read(path: &Path) -> Result<Vec<[u8; 32]>, FileErrors> {
    let help = "correct `http.api_token_file`; sla-ledger's user must be able to read the file";
    let text = yaml::read_text(path, help)?;
    parse(&path.display().to_string(), &text)
}

fn parse(name: &str, text: &str) -> Result<Vec<[u8; 32]>, FileErrors> {
    let (mut tokens, mut found) = (Vec::new(), Vec::new());
    for line in text.split_inclusive('\n') {
        let token = line.trim();
        // What RFC 6750 lets a client send.
        let sendable = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
        let wrong = match token.len() {
            0 => continue,
            n if n < MIN_CHARS => format!("a token of {n} characters can be guessed"),
            n if n > MAX_CHARS => format!("a token of {n} characters is too long"),
            _ if !token.bytes().all(sendable) => "a token holds a character that cannot be sent".into(),
            _ => {
                tokens.push(Sha256::digest(token).into());
                continue;
            }
        };
        let at = token.as_ptr() as usize - text.as_ptr() as usize;
        let help = format!(
            "write one token a line, {MIN_CHARS} to {MAX_CHARS} of a–z, A–Z, 0–9 and -._~+/=, e.g. from `openssl rand -hex 32`"
        );
        found.push((wrong, help, at..at + token.len()));
    }
    if tokens.is_empty() && found.is_empty() {
        let help = "write one token a line, e.g. from `openssl rand -hex 32`, or remove `http.api_token_file`";
        return Err(FileErrors::whole(name, "the file holds no token", help));
    }
    let everything = 0..text.len();
    if found.is_empty() { Ok(tokens) } else { Err(FileErrors::new(name, text, found, &[everything])) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_token_a_line() {
        for (text, expected) in [
            ("0123456789abcdef\n", "1"),
            ("\n0123456789abcdef\r\n\n0123456789abcdeg", "2"),
            ("\n \n", "f:1:1: the file holds no token"),
            ("0123456789abcdef\n  hunter2\n", "f:2:3: a token of 7 characters can be guessed"),
            ("0123456789 hunter2", "f:1:1: a token holds a character that cannot be sent"),
            (&"x".repeat(4_097), "f:1:1: a token of 4097 characters is too long"),
        ] {
            let said = match parse("f", text) {
                Ok(tokens) => tokens.len().to_string(),
                Err(errors) => {
                    let all = format!("{errors} {errors:?}");
                    assert!(!all.contains("hunter2"), "{all}");
                    errors.to_string()
                }
            };
            assert!(said.starts_with(expected), "{text:?}: {said}");
        }
    }
}
