//! All mistakes of a file at once, each with its place, and what to do. Secrets are blotted out of the text shown.

use std::fmt;
use std::ops::Range;

use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceCode};

use crate::visible::{is_hidden, visible};

/// Columns of a rendered report.
const WIDTH: usize = 110;

/// The mistakes of one file that are written out; the others are only counted.
pub const MOST_SHOWN: usize = 20;

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// What is wrong, in one sentence that begins with the key.
    pub message: String,
    /// What to do.
    pub help: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    at: Range<usize>,
}

/// Everything that is wrong with a file; at least one mistake, in the order of the file.
///
/// The first [`MOST_SHOWN`] are written out, the others counted.
/// `Display` gives one line a mistake, for logs; [`render`](Self::render) gives the report for people.
pub struct FileErrors {
    name: String,
    source: NamedSource<String>,
    mistakes: Vec<Mistake>,
}

impl FileErrors {
    /// `found` holds (message, help, place); `secrets` the bytes that must not be shown.
    pub(crate) fn new(
        name: &str,
        text: &str,
        mut found: Vec<(String, String, Range<usize>)>,
        secrets: &[Range<usize>],
    ) -> Self {
        found.sort_by_key(|(_, _, at)| at.start);
        let (mut counted_to, mut line, mut line_start) = (0, 1, 0);
        let mistakes = found
            .into_iter()
            .map(|(message, help, at)| {
                let at = floor(text, at.start)..floor(text, at.end.max(at.start));
                for (newline, _) in text[counted_to..at.start].match_indices('\n') {
                    (line, line_start) = (line + 1, counted_to + newline + 1);
                }
                counted_to = at.start;
                let column = 1 + text[line_start..at.start].chars().count();
                Mistake { message: one_line(&message), help: one_line(&help), line, column, at }
            })
            .collect();
        let name = visible(name);
        Self { source: NamedSource::new(&name, blot(text, secrets)), name: name.into_owned(), mistakes }
    }

    /// A file that cannot be taken at all: the mistake stands at its beginning.
    pub(crate) fn whole(name: &str, message: impl fmt::Display, help: impl fmt::Display) -> Self {
        Self::new(name, "", vec![(message.to_string(), help.to_string(), 0..0)], &[])
    }

    /// How the file is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The mistakes, in the order of the file.
    pub fn mistakes(&self) -> &[Mistake] {
        &self.mistakes
    }

    /// A report with the lines in question, for a terminal (`color`) or for plain text.
    pub fn render(&self, color: bool) -> String {
        let theme = if color { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
        let handler = GraphicalReportHandler::new_themed(theme).with_width(WIDTH).with_wrap_lines(false);
        let mut out = String::new();
        for mistake in self.shown() {
            let report = Report { mistake, source: &self.source };
            // Writing to a String cannot fail; a span outside of the text would, and then the line alone must do.
            if handler.render_report(&mut out, &report).is_err() {
                out.push_str(&self.line(mistake));
            }
            out.push('\n');
        }
        let (n, s) = (self.mistakes.len(), if self.mistakes.len() == 1 { "" } else { "s" });
        let first = if n > MOST_SHOWN { format!(", of which the first {MOST_SHOWN} are shown") } else { String::new() };
        out.push_str(&format!("{}: {n} mistake{s}{first}\n", self.name));
        out
    }

    fn shown(&self) -> &[Mistake] {
        &self.mistakes[..self.mistakes.len().min(MOST_SHOWN)]
    }

    fn line(&self, mistake: &Mistake) -> String {
        let Mistake { message, help, line, column, .. } = mistake;
        format!("{}:{line}:{column}: {message}; {help}", self.name)
    }
}

impl fmt::Display for FileErrors {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for (i, mistake) in self.shown().iter().enumerate() {
            write!(f, "{}{}", if i > 0 { "\n" } else { "" }, self.line(mistake))?;
        }
        match self.mistakes.len().saturating_sub(MOST_SHOWN) {
            0 => Ok(()),
            more => write!(f, "\n{}: and {more} more", self.name),
        }
    }
}

impl fmt::Debug for FileErrors {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for FileErrors {}

/// A mistake with the text it is in.
#[derive(Debug)]
struct Report<'a> {
    mistake: &'a Mistake,
    source: &'a NamedSource<String>,
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.mistake.message)
    }
}

impl std::error::Error for Report<'_> {}

impl Diagnostic for Report<'_> {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(&self.mistake.help))
    }
    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(self.source)
    }
    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        Some(Box::new(std::iter::once(LabeledSpan::underline(self.mistake.at.clone()))))
    }
}

/// Safe to look at: a key can hold anything, and must not break a line of the log or steer a terminal. Line ends and tabs,
/// which a value may well hold, are shown as they are written.
fn one_line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' | '\t' => out.extend(c.escape_default()),
            c if is_hidden(c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}

/// The character boundary at or before `at`.
fn floor(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0)
}

/// `text` with every character inside `secrets` replaced by as many `*` as it has bytes, so that places stay true;
/// what is not safe to look at likewise by `?`, so that no file can steer a terminal.
fn blot(text: &str, secrets: &[Range<usize>]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut secrets = secrets.to_vec();
    secrets.sort_by_key(|secret| secret.start);
    let mut secrets = secrets.into_iter().peekable();
    let mut hidden_to = 0;
    let ends_line = |at: usize| text[at..].starts_with("\r\n");
    for (at, c) in text.char_indices() {
        while let Some(secret) = secrets.next_if(|secret| secret.start <= at) {
            hidden_to = hidden_to.max(secret.end);
        }
        if !c.is_whitespace() && at < hidden_to {
            out.extend(std::iter::repeat_n('*', c.len_utf8()));
        } else if is_hidden(c) && !matches!(c, '\n' | '\t') && !ends_line(at) {
            out.extend(std::iter::repeat_n('?', c.len_utf8()));
        } else {
            out.push(c);
        }
    }
    out
}
