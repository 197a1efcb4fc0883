//! The single values that several documents have: days, instants, names, percentages, clauses. One judgement each, for
//! YAML and for CSV.

use chrono::{Datelike, NaiveDate};

use crate::domain::availability::Ppm;
use crate::domain::calendar::{self, LocalDay};
use crate::domain::policy::Clause;
use crate::yaml::form::Parser;
use crate::yaml::read::{self, Parsed, shown_text, wrong};
use crate::yaml::tree::Node;

/// Bytes of a tenant's name, an id, an action, a code, a request id.
pub(super) const MAX_NAME: usize = 128;

/// Bytes of a line of a letter.
const MAX_LINE: usize = 256;

/// Days outside these years are slips of the keyboard.
const YEARS: std::ops::RangeInclusive<i32> = 1990..=2200;

/// A value; or what is wrong with it, continuing a sentence that begins with its key, and what to do.
pub(super) type Judged<T> = Result<T, (String, String)>;

/// What is wrong.
pub(super) fn accuse<T>(message: impl Into<String>, help: impl Into<String>) -> Judged<T> {
    Err((message.into(), help.into()))
}

/// A kind of value: how it is written, and what judges it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind<J> {
    /// In words, for the reference.
    pub words: &'static str,
    /// What is wrong with a text, or its value.
    pub judge: J,
}

impl<J> Kind<J> {
    /// The same way to write it, with more to judge.
    pub fn with<K>(self, judge: K) -> Kind<K> {
        Kind { words: self.words, judge }
    }
}

/// A judge of texts that keeps nothing of them.
type Owned<T> = fn(&str) -> Judged<T>;

/// [`day`].
pub(super) const DAY: Kind<Owned<LocalDay>> = Kind { words: "date, e.g. 2026-03-17", judge: day };

/// [`instant`].
pub(super) const INSTANT: Kind<Owned<i64>> =
    Kind { words: "instant with offset, e.g. 2026-03-17T09:00:00+08:00", judge: instant };

/// [`name`].
pub(super) const NAME: Kind<for<'a> fn(&'a str) -> Judged<&'a str>> =
    Kind { words: "text, 1 to 128 bytes", judge: name };

/// [`name`], owned.
pub(super) const OWNED: Kind<Owned<String>> = Kind { words: NAME.words, judge: owned };

/// [`percent`].
pub(super) const PERCENT: Kind<Owned<Ppm>> =
    Kind { words: "percentage in quotes, at most four decimals", judge: percent };

/// [`part`].
pub(super) const PART: Kind<Owned<Ppm>> = Kind { words: "\"0\" to \"1\" in quotes, at most six decimals", judge: part };

/// [`clause`].
pub(super) const CLAUSE: Kind<Owned<Clause>> = Kind { words: "clause in quotes, e.g. \"5.12\"", judge: clause };

/// A kind of value as a parser of the YAML reader. The value must be text.
pub(super) fn of<T, J: Fn(&str) -> Judged<T>>(kind: Kind<J>) -> Parser<impl Fn(&Node) -> Parsed<T>> {
    let Kind { words, judge } = kind;
    read::written(words, move |node: &Node| {
        judge(&read::text(node)?).or_else(|(message, help)| wrong(node, message, help))
    })
}

/// A day, exactly as `2026-03-17`.
fn day(text: &str) -> Judged<LocalDay> {
    let number = |from: usize, to: usize| {
        let digits = text.get(from..to).filter(|part| part.bytes().all(|b| b.is_ascii_digit()))?;
        digits.parse::<u32>().ok()
    };
    let dashes = text.len() == 10 && [4, 7].iter().all(|&i| text.as_bytes()[i] == b'-');
    let date = || NaiveDate::from_ymd_opt(i32::try_from(number(0, 4)?).ok()?, number(5, 7)?, number(8, 10)?);
    match dashes.then(date).flatten() {
        Some(date) if YEARS.contains(&date.year()) => Ok(date.into()),
        Some(_) => out_of_years(text),
        None => accuse(
            format!("must be a date, not {}", shown_text(text)),
            "write a day that exists as year-month-day, e.g. 2026-03-17",
        ),
    }
}

/// An instant with its offset, floored to milliseconds.
fn instant(text: &str) -> Judged<i64> {
    match calendar::instant(text) {
        Some(at) if YEARS.contains(&at.year()) => Ok(at.timestamp_millis()),
        Some(_) => out_of_years(text),
        None => accuse(
            format!("must be an instant with its offset, not {}", shown_text(text)),
            "write it as RFC 3339, e.g. 2026-03-17T09:00:00+08:00",
        ),
    }
}

fn out_of_years<T>(text: &str) -> Judged<T> {
    let help = format!("correct the year; {} to {} are taken", YEARS.start(), YEARS.end());
    accuse(format!("is out of range: {}", shown_text(text)), help)
}

/// A tenant, an id, an action, a code: 1 to [`MAX_NAME`] bytes that look the same to everybody.
pub(super) fn name(text: &str) -> Judged<&str> {
    one_line(text, MAX_NAME)
}

/// [`line`].
pub(super) const LINE: Kind<Owned<String>> = Kind { words: "text on one line, 1 to 256 bytes", judge: line };

/// A line of a letter: a legal name, a line of an address.
pub(super) fn line(text: &str) -> Judged<String> {
    one_line(text, MAX_LINE).map(str::to_owned)
}

fn one_line(text: &str, most: usize) -> Judged<&str> {
    if text.is_empty() {
        return accuse("must not be empty", "write a value");
    }
    if text.len() > most {
        let message = format!("is too long: {} has {} bytes", shown_text(text), text.len());
        return accuse(message, format!("{most} bytes are the most"));
    }
    if text.trim().len() != text.len() || text.chars().any(char::is_control) {
        let message = format!("holds a space at its edge, or a control character: {}", shown_text(text));
        return accuse(message, "remove it");
    }
    Ok(text)
}

/// [`name`], owned.
fn owned(text: &str) -> Judged<String> {
    name(text).map(str::to_owned)
}

/// A percentage in quotes.
fn percent(text: &str) -> Judged<Ppm> {
    Ppm::from_percent(text).map_or_else(
        || {
            accuse(
                format!("must be a percentage, not {}", shown_text(text)),
                "write \"0\" to \"100\" with at most four decimals, without a sign, e.g. \"99.50\"",
            )
        },
        Ok,
    )
}

/// A part of one in quotes.
fn part(text: &str) -> Judged<Ppm> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |s: &str| (1..=6).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_digit());
    let parts = || Some(whole.parse::<u32>().ok()? * 1_000_000 + format!("{fraction:0<6}").parse::<u32>().ok()?);
    match (whole.len() == 1 && digits(whole) && digits(fraction)).then(parts).flatten().and_then(Ppm::new) {
        Some(part) => Ok(part),
        None => accuse(
            format!("must be a part of one, not {}", shown_text(text)),
            "write \"0\" to \"1\" with at most six decimals, e.g. \"0.9\"",
        ),
    }
}

/// A clause, as `5.12`.
pub(super) fn clause(text: &str) -> Judged<Clause> {
    text.parse().or_else(|_| {
        accuse(
            format!("must be a clause, not {}", shown_text(text)),
            "write article and paragraph in quotes, e.g. \"5.12\"",
        )
    })
}
