//! The HTTP API, `/api/v1`: every tenant's figures, and what they rest on, answered by any instance from its own copy
//! of the ledger. `openapi.json` says it all; a test holds it against the routes here.
//!
//! Every answer names its body by a strong entity tag, so that asking again costs a line, and carries the instant the
//! figures reach to (`Ledger-As-Of`: the least watermark over the shards). That instant stands in a header, and only
//! lists repeat it, because a body that changes with each flush is never the one the client has already. Errors are
//! problems (RFC 9457) and say what is allowed.
//!
//! Deliberately not here: a figure of its own. All of them come from [`View`], judged by the contract in force, or,
//! asked "as of" an instant, by what the documents said then.

mod ask;
mod calls;
mod months;
mod service;
mod statement;
mod tenants;

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use chrono::{DateTime, SecondsFormat};
use chrono_tz::Tz;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::documents::DocumentSet;
use crate::domain::calendar::{LocalClock, LocalDay, Month};
use crate::domain::contract::Contract;
use crate::domain::standing::ServiceMonth;
use crate::domain::term::Period;
use crate::http::server::problem;
use crate::report::standing::Standing;
use crate::view::View;
use ask::{Asked, Problem};

/// The description of the API, OpenAPI 3.1.
pub const OPENAPI: &str = include_str!("openapi.json");

/// The instant the figures reach to.
pub const LEDGER_AS_OF: HeaderName = HeaderName::from_static("ledger-as-of");

const ALLOWED: HeaderValue = HeaderValue::from_static("GET,HEAD");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const NO_CACHE: HeaderValue = HeaderValue::from_static("no-cache");

/// What the API answers from. Cheap to clone.
#[derive(Clone)]
pub struct ApiState {
    /// The figures.
    pub view: Arc<View>,
    /// The documents they are judged by.
    pub documents: Arc<ArcSwap<DocumentSet>>,
    /// The calls topic.
    pub topic: Arc<str>,
    /// The zone of the ledger's days.
    pub zone: Tz,
    /// Now, in ms.
    pub clock: Arc<dyn Fn() -> i64 + Send + Sync>,
}

/// The API's routes.
pub fn router(state: ApiState) -> Router {
    let router = routes().into_iter().fold(Router::new(), |router, (path, method)| router.route(path, method));
    router.method_not_allowed_fallback(method_not_allowed).with_state(state)
}

/// The API's paths, as `openapi.json` writes them.
pub fn paths() -> impl Iterator<Item = &'static str> {
    routes().into_iter().map(|(path, _)| path)
}

fn routes() -> [(&'static str, MethodRouter<ApiState>); 11] {
    [
        ("/api/v1/tenants", endpoint(tenants::list)),
        ("/api/v1/tenants/{tenant}", endpoint(months::tenant)),
        ("/api/v1/tenants/{tenant}/months", endpoint(months::all)),
        ("/api/v1/tenants/{tenant}/months/{month}", endpoint(months::one)),
        ("/api/v1/tenants/{tenant}/months/{month}/failing-calls", endpoint(calls::list)),
        ("/api/v1/tenants/{tenant}/months/{month}/statement", endpoint(statement::one)),
        ("/api/v1/policy", endpoint(service::policy)),
        ("/api/v1/policies", endpoint(service::policies)),
        ("/api/v1/documents", endpoint(service::documents)),
        ("/api/v1/shards", endpoint(service::shards)),
        ("/api/v1/openapi.json", endpoint(service::openapi)),
    ]
}

async fn method_not_allowed(method: Method) -> Response {
    let detail = format!("{method} is not for this address: the API is read-only, ask with GET or HEAD");
    let mut response = problem(StatusCode::METHOD_NOT_ALLOWED, &detail);
    response.headers_mut().insert(header::ALLOW, ALLOWED);
    response
}

/// The body of an answer.
struct Body {
    kind: HeaderValue,
    bytes: Vec<u8>,
}

type Answer = Result<Body, Problem>;

/// A route whose answer is made on a blocking thread.
fn endpoint(work: fn(&ApiState, &Asked) -> Answer) -> MethodRouter<ApiState> {
    get(async move |State(api): State<ApiState>, asked: Result<Asked, Problem>| {
        let done = tokio::task::spawn_blocking(move || {
            let answer = asked.and_then(|asked| work(&api, &asked).map(|body| tagged(&asked, body)));
            let mut response = answer.unwrap_or_else(IntoResponse::into_response);
            let as_of = api.ledger_as_of().and_then(|as_of| HeaderValue::try_from(as_of).ok());
            response.headers_mut().extend(as_of.map(|as_of| (LEDGER_AS_OF, as_of)));
            response.headers_mut().insert(header::CACHE_CONTROL, NO_CACHE);
            response
        });
        done.await.unwrap_or_else(|_| Problem::internal("the answer broke off; the log says more").into_response())
    })
}

/// The body under its entity tag, unless the client has it.
fn tagged(asked: &Asked, Body { kind, bytes }: Body) -> Response {
    let digest = Sha256::digest(&bytes);
    let etag: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let etag = format!("\"{etag}\"");
    let mut response = match asked.has(&etag) {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => ([(header::CONTENT_TYPE, kind)], bytes).into_response(),
    };
    response.headers_mut().extend(HeaderValue::try_from(etag).ok().map(|etag| (header::ETAG, etag)));
    response
}

fn json(value: &impl Serialize) -> Answer {
    let bytes = serde_json::to_vec(value).map_err(|_| Problem::internal("the answer cannot be written as JSON"))?;
    Ok(Body { kind: JSON, bytes })
}

/// An instant as every output shows it.
fn instant(ms: i64) -> Option<String> {
    DateTime::from_timestamp_millis(ms).map(|t| t.to_rfc3339_opts(SecondsFormat::AutoSi, true))
}

impl ApiState {
    fn now_ms(&self) -> i64 {
        (self.clock)()
    }

    fn today(&self) -> LocalDay {
        LocalClock::new(self.zone).day(self.now_ms())
    }

    /// The least watermark over the shards; `None` when one of them has counted nothing yet.
    fn ledger_as_of(&self) -> Option<String> {
        let book = self.view.book();
        let watermarks = book.shards().iter().map(|shard| shard.checkpoint().and_then(|c| c.watermark_ms));
        watermarks.min().flatten().and_then(instant)
    }

    /// The figures are there: at least one shard was read to its end.
    ///
    /// # Errors
    /// Not yet.
    fn ready(&self) -> Result<(), Problem> {
        match self.view.book().shards().iter().any(|shard| shard.is_published()) {
            true => Ok(()),
            false => Err(Problem::unavailable("the ledger has not been read yet; /readyz says when it has".into())),
        }
    }

    /// The calls of months before this one are no longer in the ledger.
    fn horizon(&self) -> Month {
        let horizons = self.view.book().shards().iter().filter_map(|s| s.checkpoint().map(|c| c.horizon)).max();
        Month(horizons.unwrap_or_default())
    }

    fn contract(&self) -> Arc<Contract> {
        self.view.standings().contract().clone()
    }

    fn judge<'a>(&'a self, contract: &'a Contract) -> Judge<'a> {
        Judge { api: self, contract, now_ms: self.now_ms(), incomplete: HashMap::new() }
    }
}

/// Turns service months into what is shown of them.
struct Judge<'a> {
    api: &'a ApiState,
    contract: &'a Contract,
    now_ms: i64,
    incomplete: HashMap<Period, Vec<String>>,
}

impl Judge<'_> {
    fn standing(&mut self, tenant: &str, month: &ServiceMonth) -> Standing {
        let view = &self.api.view;
        let incomplete =
            self.incomplete.entry(month.period).or_insert_with(|| view.incomplete(month.period, self.api.zone));
        Standing::of(tenant, month, self.now_ms, incomplete.clone(), self.contract.rulebook.claims(tenant))
    }
}
