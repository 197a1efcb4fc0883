//! The routes, and serving them within limits.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::Listener;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_http::limit::RequestBodyLimitLayer;

use super::accept::{self, Exposition};
use super::connection::{Guard, Handle, track};
use super::limits::Limits;
use super::scrape::Encoding;
use super::{AppState, ReloadError};
use crate::health::Health;
use crate::visible::visible_lines;

const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
/// Seconds after which a request that could not be answered now may be sent again.
const ASK_AGAIN_AFTER: HeaderValue = HeaderValue::from_static("5");
/// The answer depends on the header `Accept`.
const BY_ACCEPT: HeaderValue = HeaderValue::from_static("accept");
const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {}", advice(source, *address))]
pub struct BindError {
    /// The address asked for.
    pub address: SocketAddr,
    /// What the system says.
    pub source: io::Error,
}

fn advice(error: &io::Error, address: SocketAddr) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!(
                "port {} is in use by another process: stop that one, or set `http.listen` to a free port",
                address.port()
            )
        }
        io::ErrorKind::AddrNotAvailable => {
            format!(
                "this machine has no address {}: set `http.listen` to one it has, or to 0.0.0.0 for all",
                address.ip()
            )
        }
        io::ErrorKind::PermissionDenied => {
            format!(
                "port {} needs more rights than this process has: set `http.listen` to a port from 1024 on",
                address.port()
            )
        }
        _ => format!("{error}; the address is `http.listen` in the configuration"),
    }
}

/// Listens on the address.
///
/// # Errors
/// Says what to change.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|source| BindError { address, source })
}

/// Serves until `shutdown` is cancelled, then lets open requests end for a short time. With the default [`Limits`].
///
/// # Errors
/// None in practice: errors of single connections end these alone.
pub async fn serve(listener: TcpListener, state: AppState, shutdown: CancellationToken) -> io::Result<()> {
    serve_router(listener, router(state), Limits::default(), shutdown).await
}

/// Serves any routes on any listener (one that speaks TLS, say) within these limits, until `shutdown` is cancelled.
///
/// # Errors
/// None in practice: errors of single connections end these alone.
pub async fn serve_router<L>(listener: L, router: Router, limits: Limits, shutdown: CancellationToken) -> io::Result<()>
where
    L: Listener<Addr = SocketAddr>,
{
    let listener = Guard::new(listener, limits);
    let connections = listener.connections();
    let service = router
        .layer(RequestBodyLimitLayer::new(limits.body_bytes))
        .layer(axum::middleware::from_fn_with_state(limits.request_timeout, in_time))
        .layer(axum::middleware::from_fn(track))
        .into_make_service_with_connect_info::<Handle>();
    let serving = axum::serve(listener, service).with_graceful_shutdown(shutdown.clone().cancelled_owned());
    let too_long = async {
        shutdown.cancelled().await;
        tokio::time::sleep(limits.grace).await;
        let open = connections.len();
        connections.close_all();
        tracing::info!(open, "http connections closed at the end");
        std::future::pending::<()>().await;
    };
    tokio::select! {
        served = async { serving.await } => served,
        () = too_long => Ok(()),
    }
}

/// Middleware: an answer that is not there in time is a problem; the work behind it ends with its handler.
async fn in_time(State(limit): State<Duration>, request: Request, next: Next) -> Response {
    let late = |_| {
        let detail = format!("there was no answer within {} s; ask again", limit.as_secs_f64());
        problem(StatusCode::SERVICE_UNAVAILABLE, &detail)
    };
    tokio::time::timeout(limit, next.run(request)).await.unwrap_or_else(late)
}

/// The routes of the service.
pub fn router(state: AppState) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/-/reload", post(reload).fallback(reload_with_another_method))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(state.clone())
        .merge(probes(state.health))
}

/// The probes alone: liveness and readiness, under Kubernetes' names and under Prometheus'.
pub(super) fn probes(health: Arc<Health>) -> Router {
    let (live, ready) = (get(livez), get(readyz));
    let of_kubernetes = Router::new().route("/livez", live.clone()).route("/readyz", ready.clone());
    of_kubernetes.route("/-/healthy", live).route("/-/ready", ready).with_state(health)
}

/// An error as `application/problem+json` (RFC 9457).
pub fn problem(status: StatusCode, detail: &str) -> Response {
    problem_with(status, detail, json!({}))
}

/// The same with further members.
fn problem_with(status: StatusCode, detail: &str, mut body: serde_json::Value) -> Response {
    let title = status.canonical_reason().unwrap_or("Error");
    body["type"] = "about:blank".into();
    body["title"] = title.into();
    body["status"] = status.as_u16().into();
    body["detail"] = detail.into();
    let mut response = (status, [(header::CONTENT_TYPE, PROBLEM)], body.to_string()).into_response();
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, ASK_AGAIN_AFTER);
    }
    response
}

async fn metrics(State(state): State<AppState>, headers: HeaderMap) -> Response {
    let encoding = Encoding::accepted(Some(&accept::header(&headers, header::ACCEPT_ENCODING)));
    let exposition = Exposition::accepted(&accept::header(&headers, header::ACCEPT));
    let Ok(body) = state.scrapes.scrape(exposition.format(), encoding).await else {
        return problem(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be rendered; the log says more");
    };
    let mut response = body.into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, exposition.content_type());
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept, accept-encoding"));
    if encoding == Encoding::Gzip {
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

async fn livez() -> &'static str {
    "ok\n"
}

/// Ready, or why not: JSON, in a 503 a problem with `ready` and `reasons`; lines for those who want text.
async fn readyz(State(health): State<Arc<Health>>, headers: HeaderMap) -> Response {
    let reasons = health.not_ready_reasons();
    let ready = reasons.is_empty();
    let wanted = accept::header(&headers, header::ACCEPT);
    let mut response = if accept::prefers_text(&wanted) {
        let lines: String = reasons.iter().map(|reason| format!("{}: {reason}\n", reason.as_str())).collect();
        let text = if ready { "ready\n".into() } else { visible_lines(&lines).into_owned() };
        let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        (status, [(header::CONTENT_TYPE, PLAIN)], text).into_response()
    } else {
        let listed: Vec<_> = reasons.iter().map(|r| json!({"reason": r.as_str(), "detail": r.to_string()})).collect();
        let body = json!({"ready": ready, "reasons": listed});
        match ready {
            true => axum::Json(body).into_response(),
            false => {
                let detail = reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
                problem_with(StatusCode::SERVICE_UNAVAILABLE, &detail, body)
            }
        }
    };
    response.headers_mut().insert(header::VARY, BY_ACCEPT);
    response
}

/// What came of a reload, in lines; a failure is a problem for those who want JSON.
async fn reload(State(state): State<AppState>, headers: HeaderMap) -> Response {
    let (status, text) = match state.reloads.reload().await {
        Ok(text) => (StatusCode::OK, text),
        Err(ReloadError::Invalid(text)) => (StatusCode::BAD_REQUEST, text),
        Err(ReloadError::Failed(text)) => (StatusCode::INTERNAL_SERVER_ERROR, text),
    };
    let text = visible_lines(text.trim_end_matches('\n')).into_owned();
    let mut response = if status != StatusCode::OK && accept::asks_for_json(&accept::header(&headers, header::ACCEPT)) {
        problem(status, &text)
    } else {
        (status, [(header::CONTENT_TYPE, PLAIN)], text + "\n").into_response()
    };
    response.headers_mut().insert(header::VARY, BY_ACCEPT);
    response
}

async fn reload_with_another_method() -> Response {
    let detail = "a reload is asked for with POST, e.g. curl -X POST http://127.0.0.1:8464/-/reload";
    let mut response = problem(StatusCode::METHOD_NOT_ALLOWED, detail);
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
    response
}

async fn method_not_allowed(method: Method) -> Response {
    problem(StatusCode::METHOD_NOT_ALLOWED, &format!("{method} is not for this address; the header Allow says what is"))
}

async fn not_found(request: Request) -> Response {
    let path = request.uri().path();
    problem(
        StatusCode::NOT_FOUND,
        &format!("no such path: {path}; the page is at /, and /api/v1/openapi.json lists the endpoints of the API"),
    )
}
