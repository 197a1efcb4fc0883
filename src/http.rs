//! The HTTP side: metrics, the API, probes, reload, and who may look. Knows no Kafka: what it serves comes in through [`AppState`] and
//! [`api::ApiState`].

mod accept;
pub mod access;
mod answer;
pub mod api;
pub mod connection;
pub mod front;
mod limits;
mod page;
pub mod reloads;
pub mod scrape;
pub mod server;
pub mod tls;
mod tokens;
mod web_config;

use std::sync::Arc;

use axum::Router;

use crate::health::Health;
use crate::metrics::Format;
pub use access::{Access, Door, guarded};
use answer::Room;
pub use answer::{ApiState, LEDGER_AS_OF, ProcessState};
pub use front::Front;
pub use limits::Limits;
pub use reloads::{LastReload, Reloads};
use scrape::Scrapes;
pub use server::{bind, router, serve, serve_router};
pub use tls::WebListener;

/// The routes that answer with figures: the API and the pages.
pub fn figures(state: ApiState) -> Router {
    let room = Room::new(state);
    api::router(room.clone()).merge(page::router(room))
}

/// Appends the whole exposition to the buffer, in this format. Runs on a blocking thread, never twice at once.
pub type Render = dyn Fn(Format, &mut Vec<u8>) + Send + Sync;

/// Reloads what can be reloaded and says what changed, in a line or more. Runs on a blocking thread, never twice at once.
pub type Reload = dyn Fn() -> Result<String, ReloadError> + Send + Sync;

/// Why a reload failed. The old configuration stays in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReloadError {
    /// The new configuration has mistakes: all of them, rendered for people. Answered with 400.
    #[error("{0}")]
    Invalid(String),
    /// It could not be tried: a file that cannot be read, a service that is ending. Answered with 500.
    #[error("{0}")]
    Failed(String),
}

/// What the handlers serve. Cheap to clone.
#[derive(Clone)]
pub struct AppState {
    pub(crate) scrapes: Arc<Scrapes>,
    pub(crate) health: Arc<Health>,
    pub(crate) reloads: Reloads,
}

impl AppState {
    /// From what renders the metrics, what says whether the service is ready, and what reloads.
    pub fn new(
        render: impl Fn(Format, &mut Vec<u8>) + Send + Sync + 'static,
        health: Arc<Health>,
        reload: impl Fn() -> Result<String, ReloadError> + Send + Sync + 'static,
    ) -> Self {
        Self { scrapes: Arc::new(Scrapes::new(Arc::new(render))), health, reloads: Reloads::new(Arc::new(reload)) }
    }

    /// The queue of reloads, for those who ask by other ways than HTTP.
    pub fn reloads(&self) -> Reloads {
        self.reloads.clone()
    }
}
