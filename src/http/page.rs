//! The pages at `/`: fleet, tenant, calls, what-if, alerts, claims, ledger. HTML made by the server, in English and Chinese.
//!
//! A page asks the [API's endpoints](super::api) for their values and shows these; it has no figure of its own. What is
//! filtered, sorted and paged stands in the address, under the API's own names. All pages are at the root level and their
//! links relative, so that they work behind any path prefix; names of tenants stand in the query, where no proxy takes
//! `..` or `/` for a path.
//!
//! Everything works without `page.js`: it only fetches the page again and replaces what changed. Nothing here writes, and
//! nothing is loaded from elsewhere: the headers forbid it.

mod alerts;
mod calls;
mod chart;
mod claims;
mod fleet;
mod frame;
mod ledger;
mod tenant;
mod visit;
mod what_if;
mod words;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use sha2::{Digest, Sha256};
use tower_http::CompressionLevel;
use tower_http::compression::CompressionLayer;

use super::accept;
use super::answer::ask::{Asked, Problem, has, tags};
use super::answer::work::Weight::{self, Long, Short};
use super::answer::{Answer, Body, Content, Reading, Room, endpoint_as, etag};
use super::api;
use crate::report::statement::Lang;
use crate::report::statement::canonical::hex;
use frame::Shown;
use visit::Visit;

const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");
const ICON: &str = include_str!("page/icon.svg");

/// Nothing inline, nothing from elsewhere, in no frame.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; \
     frame-ancestors 'none'; base-uri 'none'",
);
/// A statement is a file of its own, with its style in it.
const STATEMENT_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'; base-uri 'none'",
);
const POLICY_HEADER: HeaderName = header::CONTENT_SECURITY_POLICY;

/// The pages' paths.
const PAGES: [&str; 9] =
    ["/", "/tenant", "/calls", "/what-if", "/statement", "/alerts", "/claims", "/ledger", "/fleet.csv"];

/// The pages' routes.
pub(super) fn router(room: Room) -> Router {
    Router::new()
        .route("/", page(Short, fleet::show))
        .route("/fleet.csv", endpoint_as(Long, fleet::csv, tell))
        .route("/tenant", page(Long, tenant::show))
        .route("/calls", page(Long, calls::show))
        .route("/what-if", page(Long, what_if::show))
        .route("/statement", endpoint_as(Long, statement, tell))
        .route("/alerts", page(Short, alerts::show))
        .route("/claims", page(Short, claims::show))
        .route("/ledger", page(Short, ledger::show))
        .with_state(room)
        .merge(assets())
        .layer(CompressionLayer::new().quality(CompressionLevel::Fastest))
        .layer(from_fn(headers))
}

/// Style, script and icon.
fn assets() -> Router {
    Router::new()
        .route("/page.css", asset("text/css; charset=utf-8", STYLE))
        .route("/page.js", asset("text/javascript; charset=utf-8", SCRIPT))
        .route("/icon.svg", asset("image/svg+xml", ICON))
}

fn asset(kind: &'static str, text: &'static str) -> MethodRouter {
    let etag = etag(&hex(&Sha256::digest(text)));
    get(async move |headers: HeaderMap| {
        let fixed = [(header::CACHE_CONTROL, "no-cache"), (header::ETAG, etag.as_str())];
        if has(&tags(&headers), &etag) {
            return (StatusCode::NOT_MODIFIED, fixed).into_response();
        }
        (fixed, [(header::CONTENT_TYPE, kind)], text).into_response()
    })
}

/// What a browser sees of a service that is still starting: a page that loads itself again.
pub(super) fn starting() -> Router {
    let not_yet = async |headers: HeaderMap| {
        let lang = accept::language(&accept::header(&headers, header::ACCEPT_LANGUAGE));
        let detail = "the service is starting; /readyz says what it waits for".into();
        tell(Problem::unavailable(detail), lang)
    };
    let pages = PAGES.iter().fold(Router::new(), |router, path| router.route(path, get(not_yet)));
    pages.merge(assets()).layer(from_fn(headers))
}

fn page(weight: Weight, show: fn(&Visit<'_>) -> Result<Shown, Problem>) -> MethodRouter<Room> {
    let work = move |api: &Reading, asked: &Asked| {
        let visit = Visit::new(api, asked);
        let html = frame::page(&visit, &show(&visit)?);
        Ok(Body::new(HTML, Content::Whole(html.into_string().into_bytes())))
    };
    endpoint_as(weight, work, tell)
}

/// A problem as a page.
fn tell(problem: Problem, lang: Lang) -> Response {
    let html = frame::problem(&problem, lang).into_string();
    let mut response = (problem.status, Html(html)).into_response();
    if problem.status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
    }
    response
}

/// The statement to read and to print: the API's, with the tenant in the query.
fn statement(api: &Reading, asked: &Asked) -> Answer {
    let visit = Visit::new(api, asked);
    let (tenant, month) = (visit.tenant()?, visit.field("month").unwrap_or_default());
    let asked = asked.of_api(&[tenant, month], &["as_of", "now", "format", "lang", "bom"]);
    let lang = visit.lang.pick("en", "zh");
    api::statement::one(api, &asked.with("format", "html").with("lang", lang))
}

/// Middleware: the headers that keep a browser to what the pages need. An entity tag of a compressed body is a weak one.
async fn headers(request: Request, next: Next) -> Response {
    let is_statement = request.uri().path().ends_with("/statement");
    let mut response = next.run(request).await;
    // Why there is none is a page. A 304 has the headers of what the browser keeps.
    let status = response.status();
    let is_statement = is_statement && !status.is_client_error() && !status.is_server_error();
    let headers = response.headers_mut();
    if headers.contains_key(header::CONTENT_ENCODING)
        && let Some(etag) = headers.get(header::ETAG).and_then(|etag| etag.to_str().ok())
        && let Ok(weak) = HeaderValue::try_from(format!("W/{}", etag.trim_start_matches("W/")))
    {
        headers.insert(header::ETAG, weak);
    }
    headers.insert(POLICY_HEADER, if is_statement { STATEMENT_POLICY } else { POLICY });
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    headers.insert(header::VARY, HeaderValue::from_static("accept-language, accept-encoding"));
    response
}
