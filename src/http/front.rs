//! What is answered from the first moment on: the probes, while the service still waits for Kafka; then everything.

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use tower::ServiceExt;

use super::page;
use super::server::{probes, problem};
use crate::health::Health;

/// The routes of a service that may still be starting.
#[derive(Debug, Clone)]
pub struct Front {
    before: Router,
    after: Arc<OnceLock<Router>>,
}

impl Front {
    /// Only the probes answer; everything else is 503, the pages in a way that a browser comes again.
    pub fn new(health: Arc<Health>) -> Self {
        let before = probes(health).merge(page::starting()).fallback(not_yet);
        Self { before, after: Arc::default() }
    }

    /// From now on these routes answer.
    pub fn open(&self, routes: Router) {
        // A service starts once.
        _ = self.after.set(routes);
    }

    /// To be served from the beginning.
    pub fn routes(&self) -> Router {
        Router::new().fallback(forward).with_state(self.clone())
    }
}

async fn forward(State(front): State<Front>, request: Request) -> Response {
    let routes = front.after.get().unwrap_or(&front.before).clone();
    routes.oneshot(request).await.unwrap_or_else(|never| match never {})
}

async fn not_yet() -> Response {
    problem(StatusCode::SERVICE_UNAVAILABLE, "the service is starting; /readyz says what it waits for")
}
