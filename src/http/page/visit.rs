//! One visit of a page: what is asked for, in which language, and links from here.

use chrono::{DateTime, Datelike, NaiveDate, SecondsFormat};
use maud::{Markup, html};

use crate::http::answer::Reading;
use crate::http::answer::ask::{Asked, Problem};
use crate::report::statement::Lang;
use crate::report::statement::words::{self, grouped};

/// One visit of a page.
pub(super) struct Visit<'a> {
    pub api: &'a Reading,
    pub asked: &'a Asked,
    pub lang: Lang,
}

/// A parameter of a link: its value; `None` takes it out.
pub(super) type Parameter<'a> = (&'a str, Option<&'a str>);

impl<'a> Visit<'a> {
    pub fn new(api: &'a Reading, asked: &'a Asked) -> Self {
        Self { api, asked, lang: asked.lang() }
    }

    /// The one or the other, by the language.
    pub fn say<T>(&self, en: T, zh: T) -> T {
        self.lang.pick(en, zh)
    }

    /// A parameter that is given and not empty.
    pub fn field(&self, name: &str) -> Option<&'a str> {
        self.asked.field(name)
    }

    /// The parameter `tenant`.
    ///
    /// # Errors
    /// It is missing.
    pub fn tenant(&self) -> Result<&'a str, Problem> {
        self.field("tenant").ok_or_else(|| Problem::bad("`tenant` is missing".into()))
    }

    /// A link to a page. The language is kept if the reader has chosen it.
    pub fn to(&self, page: &str, parameters: &[(&str, &str)]) -> String {
        let lang = self.field("lang").map(|lang| ("lang", lang));
        let mut query = form_urlencoded::Serializer::new(String::new());
        let query = query.extend_pairs(parameters.iter().copied().filter(|(_, v)| !v.is_empty()).chain(lang)).finish();
        match (page, query.is_empty()) {
            ("", true) => "./".into(),
            // A bare query would stay on the page that the reader is on.
            ("", false) => format!("./?{query}"),
            (page, true) => page.into(),
            (page, false) => format!("{page}?{query}"),
        }
    }

    /// A link to this page with other parameters.
    pub fn again(&self, changes: &[Parameter<'_>]) -> String {
        let kept = self
            .asked
            .pairs()
            .iter()
            .filter(|(name, value)| !value.is_empty() && !changes.iter().any(|(changed, _)| changed == name));
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(kept);
        query.extend_pairs(changes.iter().filter_map(|(name, value)| Some((name, (*value)?))));
        format!("?{}", query.finish())
    }

    /// A link to the page behind this one: the API's `next`, which begins at the same parameters.
    pub fn next(&self, next: &str) -> String {
        let pairs = form_urlencoded::parse(next.trim_start_matches('?').as_bytes());
        let cursor = pairs.into_iter().find(|(name, _)| name == "cursor").map(|(_, cursor)| cursor.into_owned());
        self.again(&[("cursor", cursor.as_deref())])
    }

    /// The parameters that a form passes on without showing them.
    pub fn hidden(&self, names: &[&str]) -> Markup {
        html! {
            @for name in names {
                @if let Some(value) = self.field(name) { input type="hidden" name=(name) value=(value); }
            }
        }
    }

    /// A calendar day: `27 Nov 2026`, `2026年11月27日`.
    pub fn day(&self, day: &str) -> String {
        let Ok(date) = day.parse::<NaiveDate>() else { return day.into() };
        let zh = format!("{}年{}月{}日", date.year(), date.month(), date.day());
        self.say(date.format("%-d %b %Y").to_string(), zh)
    }

    /// A service month by its name: `November 2026`, `2026年11月`; one that begins within a month by its day.
    pub fn month(&self, month: &str) -> String {
        let Ok(date) = format!("{month}-01").parse::<NaiveDate>() else {
            return self.say(format!("from {}", self.day(month)), format!("自{}", self.day(month)));
        };
        self.say(date.format("%B %Y").to_string(), format!("{}年{}月", date.year(), date.month()))
    }

    /// An instant in the ledger's time zone, to the second.
    pub fn time(&self, instant: &str) -> Markup {
        let Ok(time) = DateTime::parse_from_rfc3339(instant) else { return html! { (instant) } };
        let local = time.with_timezone(&self.api.zone);
        html! { time datetime=(time.to_rfc3339_opts(SecondsFormat::AutoSi, true)) { (local.format("%Y-%m-%d %H:%M:%S")) } }
    }

    /// The time zone's name.
    pub fn zone(&self) -> &'static str {
        words::zone(self.api.zone.name(), self.lang)
    }

    /// A duration in its two largest units.
    pub fn lasting(&self, seconds: u64) -> String {
        let units = [
            (86_400, self.say("d", "天")),
            (3_600, self.say("h", "小时")),
            (60, self.say("min", "分")),
            (1, self.say("s", "秒")),
        ];
        let first = units.iter().position(|(unit, _)| seconds >= *unit).unwrap_or(units.len() - 1);
        let mut rest = seconds;
        let parts: Vec<_> = units[first..]
            .iter()
            .take(2)
            .filter_map(|(unit, name)| {
                let number = rest / unit;
                rest %= unit;
                (number > 0 || (seconds == 0 && *unit == 1)).then(|| format!("{number} {name}"))
            })
            .collect();
        parts.join(" ")
    }
}

/// A number with its thousands apart; `–` for none.
pub(super) fn number(number: impl Into<Option<u64>>) -> String {
    number.into().map_or_else(|| "–".into(), grouped)
}

/// The same for one that may be negative.
pub(super) fn signed(number: Option<i64>) -> String {
    let minus = |n: i64| if n < 0 { "−" } else { "" };
    number.map_or_else(|| "–".into(), |n| format!("{}{}", minus(n), grouped(n.unsigned_abs())))
}

/// Percent; `–` for none.
pub(super) fn percent(percent: Option<&str>) -> String {
    percent.map_or_else(|| "–".into(), |percent| format!("{percent} %"))
}

/// Money; `–` where no bill is known.
pub(super) fn money(minor: Option<i64>, currency: Option<&str>) -> String {
    minor.zip(currency).map_or_else(|| "–".into(), |(minor, currency)| words::money(minor, currency))
}
