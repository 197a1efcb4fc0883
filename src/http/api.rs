//! The HTTP API, `/api/v1`: every tenant's figures, and what they rest on, answered by any instance from its own copy
//! of the ledger. `openapi.json` says it all; a test holds it against the routes here.
//!
//! The instant the figures reach to stands in a header (`Ledger-As-Of`), and only lists repeat it, because a body that
//! changes with each flush is never the one the client has already. Errors are problems (RFC 9457) and say what is
//! allowed.
//!
//! An endpoint is a function from what is published to a value: as JSON it is the API's answer, as HTML it is a view of
//! the [pages](super::page). So both show the same figures.

pub(super) mod alerts;
pub(super) mod board;
pub(super) mod breakdown;
pub(super) mod calls;
pub(super) mod claims;
pub(super) mod course;
pub(super) mod days;
pub(super) mod fleet;
pub(super) mod month_end;
pub(super) mod months;
pub(super) mod rulings;
pub(super) mod service;
pub(super) mod statement;
pub(super) mod tenants;
pub(super) mod what_if;

use axum::Router;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use axum::routing::MethodRouter;
use serde::Serialize;

use super::answer::ask::{Asked, Problem};
use super::answer::work::Weight;
use super::answer::work::Weight::{Long, Short};
use super::answer::{Body, Content, Reading, Room, endpoint};
use crate::http::server::problem;

/// The description of the API, OpenAPI 3.1.
pub const OPENAPI: &str = include_str!("openapi.json");

const ALLOWED: HeaderValue = HeaderValue::from_static("GET,HEAD");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The API's routes.
pub(super) fn router(room: Room) -> Router {
    let router = routes().into_iter().fold(Router::new(), |router, (path, method)| router.route(path, method));
    router.method_not_allowed_fallback(method_not_allowed).with_state(room)
}

/// The API's paths, as `openapi.json` writes them.
pub fn paths() -> impl Iterator<Item = &'static str> {
    routes().into_iter().map(|(path, _)| path)
}

fn routes() -> [(&'static str, MethodRouter<Room>); 20] {
    [
        ("/api/v1/fleet", json(Short, fleet::month)),
        ("/api/v1/tenants", json(Short, tenants::list)),
        ("/api/v1/tenants/{tenant}", json(Short, months::tenant)),
        ("/api/v1/tenants/{tenant}/months", json(Short, months::all)),
        ("/api/v1/tenants/{tenant}/months/{month}", json(Short, months::one)),
        ("/api/v1/tenants/{tenant}/months/{month}/days", json(Long, days::list)),
        ("/api/v1/tenants/{tenant}/months/{month}/breakdown", json(Long, breakdown::one)),
        ("/api/v1/tenants/{tenant}/months/{month}/failing-calls", json(Long, calls::list)),
        ("/api/v1/tenants/{tenant}/months/{month}/statement", endpoint(Long, statement::one)),
        ("/api/v1/tenants/{tenant}/what-if", json(Long, what_if::one)),
        ("/api/v1/alerts", json(Short, alerts::list)),
        ("/api/v1/claims", json(Short, claims::list)),
        ("/api/v1/month-end", json(Short, month_end::list)),
        ("/api/v1/policy", json(Short, service::policy)),
        ("/api/v1/policies", json(Short, service::policies)),
        ("/api/v1/documents", json(Short, service::documents)),
        ("/api/v1/shards", json(Short, service::shards)),
        ("/api/v1/rulings", json(Short, rulings::list)),
        ("/api/v1/service", json(Short, service::instance::one)),
        ("/api/v1/openapi.json", endpoint(Short, service::openapi)),
    ]
}

async fn method_not_allowed(method: Method) -> Response {
    let detail = format!("{method} is not for this address: the API is read-only, ask with GET or HEAD");
    let mut response = problem(StatusCode::METHOD_NOT_ALLOWED, &detail);
    response.headers_mut().insert(header::ALLOW, ALLOWED);
    response
}

/// A route that answers with a value.
fn json<T: Serialize + 'static>(
    weight: Weight,
    work: fn(&Reading, &Asked) -> Result<T, Problem>,
) -> MethodRouter<Room> {
    endpoint(weight, move |reading, asked| {
        let bytes = serde_json::to_vec(&work(reading, asked)?);
        let bytes = bytes.map_err(|_| Problem::internal("the answer cannot be written as JSON"))?;
        Ok(Body::new(JSON, Content::Whole(bytes)))
    })
}
