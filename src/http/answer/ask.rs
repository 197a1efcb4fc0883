//! What a request asks for, read strictly, and what it is told when that makes no sense.

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Room;
use super::work::Work;
use crate::domain::calendar::{self, LocalDay, Month};
use crate::http::accept;
use crate::http::server::problem;
use crate::report::statement::Lang;

/// Rows of a page where `limit` does not say.
const DEFAULT_LIMIT: usize = 100;
/// Most rows of a page.
const MAX_LIMIT: usize = 1000;
/// Bytes of a wrong value that an error repeats.
const SHOWN: usize = 64;

/// Why there is no answer.
#[derive(Debug)]
pub struct Problem {
    pub status: StatusCode,
    pub detail: String,
}

impl Problem {
    /// The request is wrong: what is, and what is allowed.
    pub fn bad(detail: String) -> Self {
        Self { status: StatusCode::BAD_REQUEST, detail }
    }

    /// There is no such thing.
    pub fn not_found(detail: String) -> Self {
        Self { status: StatusCode::NOT_FOUND, detail }
    }

    /// There will be an answer later.
    pub fn unavailable(detail: String) -> Self {
        Self { status: StatusCode::SERVICE_UNAVAILABLE, detail }
    }

    /// Something of ours broke.
    pub fn internal(detail: &str) -> Self {
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, detail: detail.into() }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        problem(self.status, &self.detail)
    }
}

/// What is asked for, decoded.
#[derive(Debug)]
pub struct Asked {
    /// Path and query, as they were given.
    pub address: String,
    /// What stands at the variable places of the path.
    captures: Vec<String>,
    query: Vec<(String, String)>,
    if_none_match: Vec<String>,
    /// What the browser asks for.
    accepted: Lang,
    /// Is the answer still waited for?
    pub work: Work,
}

impl FromRequestParts<Room> for Asked {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, room: &Room) -> Result<Self, Problem> {
        let captures = RawPathParams::from_request_parts(parts, room).await;
        let captures = captures.map_err(|_| Problem::bad("the path is not UTF-8, percent-encoded".into()))?;
        let query = form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes());
        Ok(Self {
            address: parts.uri.path_and_query().map_or_else(String::new, ToString::to_string),
            captures: captures.iter().map(|(_, value)| value.to_owned()).collect(),
            query: query.into_owned().collect(),
            if_none_match: tags(&parts.headers),
            accepted: accept::language(&accept::header(&parts.headers, header::ACCEPT_LANGUAGE)),
            work: Work::new(&room.api.stop),
        })
    }
}

/// The entity tags of `If-None-Match`, without the mark of weak ones: the comparison is the weak one.
pub fn tags(headers: &HeaderMap) -> Vec<String> {
    let lists = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    lists.flat_map(|list| list.split(',')).map(|tag| tag.trim().trim_start_matches("W/").to_owned()).collect()
}

/// Is an entity tag among those of `If-None-Match`?
pub fn has(tags: &[String], etag: &str) -> bool {
    tags.iter().any(|tag| tag == etag || tag == "*")
}

impl Asked {
    /// Does the client have the answer with this entity tag already?
    pub fn has(&self, etag: &str) -> bool {
        has(&self.if_none_match, etag)
    }

    /// Is it asked what the documents said at an instant?
    pub fn is_as_of(&self) -> bool {
        self.query.iter().any(|(name, _)| name == "as_of")
    }

    /// The language of a page: of the query, else the browser's.
    pub fn lang(&self) -> Lang {
        match self.query.iter().find(|(name, _)| name == "lang").map(|(_, value)| value.as_str()) {
            Some("en") => Lang::En,
            Some("zh") => Lang::Zh,
            _ => self.accepted,
        }
    }

    /// The parameters, as they were given.
    pub fn pairs(&self) -> &[(String, String)] {
        &self.query
    }

    /// The value of a parameter; `None` where it is missing or empty, as a form sends a field that was left empty.
    pub fn field(&self, name: &str) -> Option<&str> {
        let (_, value) = self.query.iter().find(|(other, value)| other == name && !value.is_empty())?;
        Some(value)
    }

    /// What a page asks of the API: the values at the variable places of its path, and those of the page's own
    /// parameters that the endpoint takes.
    pub fn of_api(&self, captures: &[&str], names: &[&str]) -> Self {
        let query = self.query.iter().filter(|(name, value)| names.contains(&name.as_str()) && !value.is_empty());
        Self {
            address: self.address.clone(),
            captures: captures.iter().map(|&value| value.to_owned()).collect(),
            query: query.cloned().collect(),
            if_none_match: Vec::new(),
            accepted: self.accepted,
            work: self.work.clone(),
        }
    }

    /// The same with a parameter that the page's reader has not given.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        if !self.query.iter().any(|(other, _)| other == name) {
            self.query.push((name.into(), value.into()));
        }
        self
    }

    /// What stands at a variable place of the path, in order from 0.
    pub fn capture(&self, place: usize) -> &str {
        self.captures.get(place).map_or("", String::as_str)
    }

    /// The parameters, if there are no others than these and none twice.
    ///
    /// # Errors
    /// Says which ones there are.
    pub fn query(&self, allowed: &[&str]) -> Result<Query<'_>, Problem> {
        for (place, (name, _)) in self.query.iter().enumerate() {
            if !allowed.contains(&name.as_str()) {
                let there = if allowed.is_empty() { "there are none here".into() } else { listed("allowed", allowed) };
                return Err(Problem::bad(format!("unknown query parameter `{}`; {there}", cut(name))));
            }
            if self.query[..place].iter().any(|(other, _)| other == name) {
                return Err(Problem::bad(format!("the query parameter `{name}` is given twice; give it once")));
            }
        }
        Ok(Query { asked: self })
    }
}

/// Query parameters.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    asked: &'a Asked,
}

impl<'a> Query<'a> {
    /// The value of a parameter.
    pub fn get(self, name: &str) -> Option<&'a str> {
        self.asked.query.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    fn parsed<T>(self, name: &str, expected: &str, parse: impl Fn(&str) -> Option<T>) -> Result<Option<T>, Problem> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let wrong = || Problem::bad(format!("`{name}` must be {expected}, not `{}`", cut(value)));
        parse(value).ok_or_else(wrong).map(Some)
    }

    /// `limit`: rows of a page.
    pub fn limit(self) -> Result<usize, Problem> {
        let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten();
        let limit = |text: &str| number(text).filter(|limit| (1..=MAX_LIMIT).contains(limit));
        let expected = format!("a number from 1 to {MAX_LIMIT}");
        Ok(self.parsed("limit", &expected, limit)?.unwrap_or(DEFAULT_LIMIT))
    }

    /// `cursor`: the position behind which the page begins.
    pub fn cursor<T: DeserializeOwned>(self) -> Result<Option<T>, Problem> {
        let position = |text: &str| {
            let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
            serde_json::from_slice(&bytes).ok()
        };
        self.parsed("cursor", "taken from `next` of the page before", position)
    }

    /// A parameter with a few values.
    pub fn one_of(self, name: &str, values: &[&'static str]) -> Result<Option<&'static str>, Problem> {
        let expected = listed("one of", values);
        self.parsed(name, &expected, |text| values.iter().find(|value| **value == text).copied())
    }

    /// `YYYY-MM`
    pub fn month(self, name: &str) -> Result<Option<Month>, Problem> {
        self.parsed(name, "a month, YYYY-MM", month)
    }

    /// `YYYY-MM-DD`
    pub fn day(self, name: &str) -> Result<Option<LocalDay>, Problem> {
        self.parsed(name, "a date, YYYY-MM-DD", day)
    }

    /// RFC 3339, in ms.
    pub fn instant(self, name: &str) -> Result<Option<i64>, Problem> {
        let expected = "an instant with its offset, e.g. 2026-04-01T00:00:00Z (a `+` is written %2B)";
        self.parsed(name, expected, |text| calendar::instant(text).map(|t| t.timestamp_millis()))
    }

    /// A link to the same list behind this position, as a query alone: relative to the page (RFC 3986), so it leads to the
    /// same list under whatever prefix a proxy has put it. `pinned`: a parameter that the next page must have.
    pub fn next(self, position: &impl Serialize, pinned: Option<(&str, &str)>) -> Result<String, Problem> {
        let position = serde_json::to_vec(position).map_err(|_| Problem::internal("the cursor cannot be written"))?;
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(self.asked.query.iter().filter(|(name, _)| name != "cursor"));
        if let Some((name, value)) = pinned.filter(|(name, _)| self.get(name).is_none()) {
            query.append_pair(name, value);
        }
        query.append_pair("cursor", &BASE64_URL_SAFE_NO_PAD.encode(position));
        Ok(format!("?{}", query.finish()))
    }
}

/// A page of a sorted list: the first so many rows that are not `passed`, and whether more follow.
pub fn page<T>(sorted: &[T], limit: usize, passed: impl Fn(&T) -> bool) -> (&[T], bool) {
    let rest = &sorted[sorted.partition_point(passed)..];
    (&rest[..rest.len().min(limit)], rest.len() > limit)
}

/// A month, `YYYY-MM`.
pub fn month(text: &str) -> Option<Month> {
    (shaped(text) && text.len() == "YYYY-MM".len()).then(|| text.parse().ok()).flatten()
}

/// A day, `YYYY-MM-DD`.
pub fn day(text: &str) -> Option<LocalDay> {
    (shaped(text) && text.len() == "YYYY-MM-DD".len()).then(|| text.parse().ok()).flatten()
}

/// The parser of dates takes signs and blanks too.
fn shaped(text: &str) -> bool {
    text.bytes().enumerate().all(|(place, b)| if matches!(place, 4 | 7) { b == b'-' } else { b.is_ascii_digit() })
}

fn listed(before: &str, words: &[&str]) -> String {
    format!("{before}: {}", words.join(", "))
}

/// The value, or its beginning.
pub fn cut(value: &str) -> String {
    match value.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &value[..end]),
        None => value.to_owned(),
    }
}
