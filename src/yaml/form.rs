//! How a value is written, as data: what a parser takes is what its messages and the reference say.

use std::fmt::{self, Display};
use std::ops::RangeInclusive;
use std::time::Duration;

use super::read::Parsed;
use super::tree::Node;

/// Units of durations and sizes, the largest first.
const DURATIONS: [(u128, &str); 5] = [
    (86_400_000_000_000, "d"),
    (3_600_000_000_000, "h"),
    (60_000_000_000, "m"),
    (1_000_000_000, "s"),
    (1_000_000, "ms"),
];
pub(super) const SIZES: [(u64, &str); 8] = [
    (1 << 40, "TiB"),
    (1_000_000_000_000, "TB"),
    (1 << 30, "GiB"),
    (1_000_000_000, "GB"),
    (1 << 20, "MiB"),
    (1_000_000, "MB"),
    (1 << 10, "KiB"),
    (1_000, "kB"),
];

/// How a value is written.
#[derive(Debug, Clone, PartialEq)]
pub enum Form {
    /// In words: what it is, and its bounds if it has some.
    Words(&'static str),
    /// `true` or `false`.
    Boolean,
    /// An integer within a range.
    Integer(RangeInclusive<i64>),
    /// Text with a unit, within a range; a multiple of the second.
    Duration(RangeInclusive<Duration>, Duration),
    /// Bytes within a range: an integer, or text with a unit.
    Bytes(RangeInclusive<u64>),
    /// One of these words.
    Choice(Vec<&'static str>),
    /// A list, each item of this form.
    List(Box<Form>),
    /// A section with keys of its own.
    Section,
    /// A section whose keys are names of the user's own, each with a value of this form.
    Free(&'static str),
    /// A list of sections.
    Sections,
}

impl Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Words(words) => f.write_str(words),
            Self::Boolean => f.write_str("true or false"),
            Self::Integer(range) if *range.end() == i64::MAX => write!(f, "integer from {}", range.start()),
            Self::Integer(range) => write!(f, "integer, {} to {}", range.start(), range.end()),
            Self::Duration(range, granule) => {
                write!(f, "duration, {} to {}", duration(*range.start()), duration(*range.end()))?;
                // What is finer than a millisecond would be a slip.
                if *granule > Duration::from_millis(1) {
                    write!(f, ", a multiple of {}", duration(*granule))
                } else {
                    Ok(())
                }
            }
            Self::Bytes(range) => write!(f, "size, {} to {}", size(*range.start()), size(*range.end())),
            Self::Choice(words) => f.write_str(&words.join(", ")),
            Self::List(item) => write!(f, "list, each {item}"),
            Self::Section => f.write_str("section"),
            Self::Free(each) => write!(f, "section, each value {each}"),
            Self::Sections => f.write_str("list of sections"),
        }
    }
}

/// A duration in the largest unit that divides it: `15m`, `100d`.
pub(crate) fn duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    match DURATIONS.iter().find(|(unit, _)| nanos > 0 && nanos.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", nanos / unit),
        None => humantime::format_duration(duration).to_string(),
    }
}

/// Bytes in the largest unit that divides them: `20MB`, `512MiB`.
pub(crate) fn size(bytes: u64) -> String {
    match SIZES.iter().find(|(unit, _)| bytes > 0 && bytes.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", bytes / unit),
        None => bytes.to_string(),
    }
}

/// A parser of one value that says how the value is written.
#[derive(Debug, Clone)]
pub(crate) struct Parser<P> {
    pub form: Form,
    parse: P,
}

impl<P> Parser<P> {
    /// `parse` takes what `form` says.
    pub const fn new(form: Form, parse: P) -> Self {
        Self { form, parse }
    }

    /// The value of a node.
    pub fn parse<T>(self, node: &Node) -> Parsed<T>
    where
        P: FnOnce(&Node) -> Parsed<T>,
    {
        (self.parse)(node)
    }

    /// The parser alone.
    pub fn split(self) -> (Form, P) {
        (self.form, self.parse)
    }
}

/// A key that a reader asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    /// Its full name: `flush.interval`; `[]` follows a list whose items have keys.
    pub path: String,
    /// What it does: sentences.
    pub doc: &'static str,
    /// How its value is written.
    pub form: Form,
    /// Whether it must be there.
    pub need: Need,
    /// A value that it may have, as the file says it, where there is no default.
    pub example: Option<&'static str>,
    /// Whether a reload applies it.
    pub reload: bool,
}

/// Whether a key must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// It must.
    Required,
    /// It has a default.
    Default,
    /// It may be left out.
    Optional,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_in_the_largest_unit() {
        for (seconds, expected) in [(1, "1s"), (60, "1m"), (90, "90s"), (86_400, "1d"), (8_640_000, "100d")] {
            assert_eq!(duration(Duration::from_secs(seconds)), expected);
            assert_eq!(humantime::parse_duration(expected), Ok(Duration::from_secs(seconds)));
        }
        assert_eq!(duration(Duration::from_millis(100)), "100ms");
        for (bytes, expected) in
            [(0, "0"), (1_000, "1kB"), (20_000_000, "20MB"), (1 << 20, "1MiB"), (1 << 40, "1TiB"), (1_025, "1025")]
        {
            assert_eq!(size(bytes), expected);
        }
    }
}
