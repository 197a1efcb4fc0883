//! Who issues a statement, for whom, and under which number: the letterhead data, in the statement's languages.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::term::Period;

/// A value in both languages of a statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bilingual<T> {
    /// English.
    pub en: T,
    /// Chinese, simplified.
    pub zh: T,
}

impl<T: Clone> Bilingual<T> {
    /// A language that is not given has the other's value; `None` without either.
    pub fn of(en: Option<T>, zh: Option<T>) -> Option<Self> {
        let either = en.clone().or_else(|| zh.clone())?;
        Some(Self { en: en.unwrap_or_else(|| either.clone()), zh: zh.unwrap_or(either) })
    }
}

/// A company by its legal name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Party {
    /// The legal name.
    pub name: Bilingual<String>,
    /// The lines of the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Bilingual<Vec<String>>>,
}

/// Who issues statements.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issuer {
    /// Name and address.
    #[serde(flatten)]
    pub party: Party,
    /// Contact details: telephone, mail, one line each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contact: Option<Bilingual<Vec<String>>>,
    /// The picture as a `data:` URI, PNG or SVG.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logo: Option<String>,
}

/// How statements are numbered: text with `{tenant}`, `{month}` (`2026-03`, or the first day where two service months begin in
/// one calendar month), `{year}` and `{sequence}` (counted in the archive, by the year of the service month).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NumberFormat(Box<str>);

/// The placeholders of a number.
const PLACEHOLDERS: [&str; 4] = ["{tenant}", "{month}", "{year}", "{sequence}"];

/// Digits of `{sequence}`, at least.
const SEQUENCE_DIGITS: usize = 5;

/// Why a format cannot number statements.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadFormat {
    /// A brace, and what follows it.
    #[error("has an unknown placeholder: `{}`", .0.escape_debug())]
    Placeholder(String),
    /// Two service months would have one number.
    #[error("gives several statements the same number")]
    Ambiguous,
}

impl NumberFormat {
    /// Reads a format.
    ///
    /// # Errors
    /// An unknown placeholder; a format without `{tenant}` and `{month}`, and without `{year}` and `{sequence}`.
    pub fn new(text: &str) -> Result<Self, BadFormat> {
        let fixed = PLACEHOLDERS.iter().fold(text.to_owned(), |text, name| text.replace(name, ""));
        if let Some(at) = fixed.find(['{', '}']) {
            let end = fixed[at..].find('}').map_or(fixed.len(), |length| at + length + 1);
            return Err(BadFormat::Placeholder(fixed[at..end].to_owned()));
        }
        let has = |name: &str| text.contains(name);
        if has("{tenant}") && has("{month}") || has("{year}") && has("{sequence}") {
            Ok(Self(text.into()))
        } else {
            Err(BadFormat::Ambiguous)
        }
    }

    /// Does a number need its place in the archive?
    pub fn needs_sequence(&self) -> bool {
        self.0.contains("{sequence}")
    }

    /// The number of a service month's statement; `month` is its label. `None`: the format needs a place in the
    /// archive, and the statement does not have one.
    pub fn number(&self, tenant: &str, month: &str, period: Period, sequence: Option<u32>) -> Option<String> {
        let mut rest = &*self.0;
        let mut number = String::new();
        while let Some(at) = rest.find('{') {
            number.push_str(&rest[..at]);
            let name = PLACEHOLDERS.into_iter().find(|name| rest[at..].starts_with(name))?;
            rest = &rest[at + name.len()..];
            match name {
                "{tenant}" => number.push_str(tenant),
                "{month}" => number.push_str(month),
                "{year}" => number.push_str(&period.first.to_string()[..4]),
                _ => _ = write!(number, "{:0SEQUENCE_DIGITS$}", sequence?),
            }
        }
        number.push_str(rest);
        Some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(format: &str, sequence: Option<u32>) -> Option<String> {
        let format = NumberFormat::new(format).expect("a format");
        let period = Period { first: "2026-03-17".parse().expect("a day"), last: "2026-03-31".parse().expect("a day") };
        format.number("{year}", "2026-03", period, sequence)
    }

    #[test]
    fn numbers_follow_their_format() {
        assert_eq!(number("SLA-{tenant}-{month}", None).as_deref(), Some("SLA-{year}-2026-03"));
        assert_eq!(number("{year}/{sequence}!", Some(42)).as_deref(), Some("2026/00042!"));
        assert_eq!(number("{year}/{sequence}", Some(1_234_567)).as_deref(), Some("2026/1234567"));
        assert_eq!(number("{year}/{sequence}", None), None);
    }

    #[test]
    fn a_format_that_repeats_numbers_is_refused() {
        for format in ["", "SLA", "{tenant}", "{month}", "{tenant}-{year}", "{sequence}", "{month}-{sequence}"] {
            assert_eq!(NumberFormat::new(format), Err(BadFormat::Ambiguous), "{format}");
        }
        for (format, part) in [("{tenant}-{month}-{day}", "{day}"), ("{year}-{sequence", "{sequence"), ("}{", "}")] {
            assert_eq!(NumberFormat::new(format), Err(BadFormat::Placeholder(part.into())), "{format}");
        }
    }

    #[test]
    fn a_language_that_is_missing_has_the_others_value() {
        let [one, two] = ["one", "two"].map(Some);
        assert_eq!(Bilingual::of(one, two), Some(Bilingual { en: "one", zh: "two" }));
        assert_eq!(Bilingual::of(None, two), Some(Bilingual { en: "two", zh: "two" }));
        assert_eq!(Bilingual::of(one, None), Some(Bilingual { en: "one", zh: "one" }));
        assert_eq!(Bilingual::<&str>::of(None, None), None);
    }
}
