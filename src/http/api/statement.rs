//! The statement of a service month, as `sla-ledger statement` writes it, byte for byte. A preview: the archive with its
//! numbered revisions is a directory of the machine that issues statements, so this one is always the first.

use std::io::Write;

use axum::http::HeaderValue;
use chrono::{DateTime, Utc};

use super::JSON;
use super::months::{Tenant, contract_of};

use crate::domain::calendar::day_start_ms;
use crate::http::answer::ask::{Asked, Problem, Query, cut};
use crate::http::answer::work::{Measure, Pieces};
use crate::http::answer::{Answer, Body, Content, Reading};
use crate::pipeline::book::Book;
use crate::pipeline::rulings::refusal;
use crate::pipeline::standings::Evaluation;
use crate::report::issue::{Desk, Hour, rows};
use crate::report::statement::evidence::BOM;
use crate::report::statement::{Format, Issue, Lang, render};

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const CSV: HeaderValue = HeaderValue::from_static("text/csv; charset=utf-8");
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");

/// `/tenants/{tenant}/months/{month}/statement`
pub fn one(api: &Reading, asked: &Asked) -> Answer {
    let query = asked.query(&["as_of", "now", "format", "lang", "bom"])?;
    let [as_of, now] = [query.instant("as_of")?, query.instant("now")?].map(|ms| ms.and_then(utc));
    let (format, kind, lang, bom) = wanted(query)?;
    let rejected = api.view.rejected_rulings();
    if !rejected.is_empty() {
        let detail = format!("no statement is issued until a corrected rulings.yaml is loaded: {}", refusal(&rejected));
        return Err(Problem::unavailable(detail));
    }
    let as_of_ms = as_of.map(|as_of| as_of.timestamp_millis());
    let tenant = Tenant::find(api, asked, as_of_ms)?;
    let first = tenant.month(asked)?.period.first;
    // From here on, one reading of documents and facts: all that the statement says must belong together.
    let documents = api.documents.load_full();
    let contract = contract_of(&documents, &tenant.name, as_of_ms);
    let value = api.published()?.clone();
    let book = &value.book;
    check(book)?;
    let (work, name) = (asked.work.clone(), tenant.name.clone());
    let waits = || work.goes_on();
    let evaluation = Evaluation::new(&contract, book, &name).while_awaited(&waits);
    let month = evaluation.month(first);
    work.check()?;
    let month = month.ok_or_else(|| {
        let detail = format!("the terms of `{}` have changed just now: ask again", cut(&tenant.name));
        Problem::unavailable(detail)
    })?;
    let claims = contract.rulebook.claims(&tenant.name).iter().map(|claim| claim.at_ms);
    let issued_at = now.or_else(|| utc(hour_of_issue(api, book, claims)));
    let issued_at = issued_at.ok_or_else(|| Problem::internal("the ledger's watermark is not an instant"))?;
    let hour = Hour { issued_at, as_of, sequence: None, known: book.completeness(month.period, api.zone) };
    let (files, letterhead) = (&*documents.files, documents.letterhead.as_deref());
    let desk = Desk { book, topic: &api.topic, contract: &contract, files, letterhead, zone: api.zone };
    let mut csv = Measure::new(&work);
    let issued = desk.issue(&name, &month, &evaluation, hour, None, &mut csv);
    let length = csv.length + bom.len() as u64;
    work.check()?;
    let broken = |error: &dyn std::fmt::Display| {
        let (tenant, month) = (&tenant.name, month.label());
        tracing::error!(%tenant, month, %error, "no statement can be issued");
        Problem::internal(&format!("no statement can be issued: {error}"))
    };
    let Issue::Issued(statement) = issued.map_err(|error| broken(&error))? else {
        return Err(broken(&"there is no earlier one that could still hold"));
    };
    if format != Format::Csv {
        let mut bytes = Vec::new();
        let rendered = render(&statement, rows(&month, &evaluation), format, lang, &mut bytes);
        work.check()?;
        rendered.map_err(|error| broken(&error))?;
        return Ok(Body::new(kind, Content::Whole(bytes)));
    }
    let sha256 = &statement.evidence.sha256;
    let sha256 = if bom.is_empty() { sha256.clone() } else { format!("bom-{sha256}") };
    // The same rows once more, from the same facts.
    let write = Box::new(move |pieces: &mut Pieces<'_>| {
        let waits = || work.goes_on();
        let evaluation = Evaluation::new(&contract, &value.book, &name).while_awaited(&waits);
        pieces.write_all(bom)?;
        render(&statement, rows(&month, &evaluation), format, lang, pieces)
    });
    Ok(Body::new(kind, Content::Pieces { sha256, length, write }))
}

/// In which form: the format with its content type, the language, and what stands in front of CSV.
fn wanted(query: Query<'_>) -> Result<(Format, HeaderValue, Lang, &'static [u8]), Problem> {
    let (format, kind) = match query.one_of("format", &["json", "text", "csv", "html"])? {
        Some("text") => (Format::Text, TEXT),
        Some("csv") => (Format::Csv, CSV),
        Some("html") => (Format::Html, HTML),
        _ => (Format::Json, JSON),
    };
    let lang = match query.one_of("lang", &["en", "zh"])? {
        Some("zh") => Lang::Zh,
        _ => Lang::En,
    };
    let bom: &[u8] = match query.one_of("bom", &["true", "false"])? {
        Some("true") => BOM,
        _ => &[],
    };
    Ok((format, kind, lang, bom))
}

fn utc(ms: i64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_millis(ms)
}

/// No statement is issued from a ledger that is damaged.
fn check(book: &Book) -> Result<(), Problem> {
    let Some((shard, trouble)) = (0..).zip(book.shards()).find_map(|(n, s)| Some((n, s.trouble()?))) else {
        return Ok(());
    };
    let detail = format!("the ledger of shard {shard} does not add up ({trouble}): no statement is issued from it");
    Err(Problem::unavailable(detail))
}

/// The hour of issue where nobody names one: the latest of the last record that was counted, the beginning of today, and
/// the tenant's last claim. What a statement says changes with the clock at the beginning of a day only, so the same
/// ledger and documents give the same bytes all day.
fn hour_of_issue(api: &Reading, book: &Book, claims: impl Iterator<Item = i64>) -> i64 {
    let now_ms = api.now_ms();
    let counted = book.shards().iter().filter_map(|shard| shard.checkpoint()?.watermark_ms);
    // A producer's clock may be ahead.
    let happened = counted.chain(claims).filter(|ms| *ms <= now_ms).max();
    happened.unwrap_or(i64::MIN).max(day_start_ms(api.zone, api.today()))
}
