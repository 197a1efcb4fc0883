//! How the API and the pages answer: from one reading of what is published, when it is their turn, under an entity tag.
//!
//! Every answer names its body by a strong entity tag, so that asking again costs a line, and carries the instant the
//! figures reach to (`Ledger-As-Of`: the least watermark over the shards).
//!
//! Deliberately not here: a figure of its own. All of them come from [`View`], judged by the contract in force, or,
//! asked "as of" an instant, by what the documents said then.

pub(super) mod ask;
mod recent;
pub(super) mod work;

use std::cell::OnceCell;
use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use chrono::{DateTime, SecondsFormat};
use chrono_tz::Tz;
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::documents::DocumentSet;
use crate::domain::calendar::{LocalClock, LocalDay, Month};
use crate::domain::contract::Contract;
use crate::domain::standing::{Completeness, ServiceMonth};
use crate::domain::term::Period;
use crate::health::Health;
use crate::http::Reloads;
use crate::http::api::board::{self, Board, Boards, Registered};
use crate::metrics::process::ProcessMetrics;
use crate::pipeline::book::Book;
use crate::report::alert::Issuer;
use crate::report::standing::Standing;
use crate::report::statement::Lang;
use crate::report::statement::canonical::hex;
use crate::view::{Published, View};
use ask::{Asked, Problem, Query};
use recent::Recent;
use work::{Desks, Pieces, Weight, pieces};

/// The instant the figures reach to.
pub const LEDGER_AS_OF: HeaderName = HeaderName::from_static("ledger-as-of");

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
    /// Whose alerts these are.
    pub issuer: Arc<Issuer>,
    /// This process.
    pub process: ProcessState,
    /// Now, in ms.
    pub clock: Arc<dyn Fn() -> i64 + Send + Sync>,
    /// Cancelled when the service begins to end: then the work behind answers ends too.
    pub stop: CancellationToken,
}

/// What is known of the process that answers, beside the ledger. Cheap to clone.
#[derive(Clone)]
pub struct ProcessState {
    /// When it started, in ms.
    pub started_at_ms: i64,
    /// Whether it is ready.
    pub health: Arc<Health>,
    /// What it has counted itself.
    pub metrics: Arc<ProcessMetrics>,
    /// What its last reload said.
    pub reloads: Reloads,
}

/// What the handlers need. Cheap to clone.
#[derive(Clone)]
pub struct Room {
    api: ApiState,
    desks: Arc<Desks>,
    shared: Arc<Shared>,
}

/// What answers share, because it takes long to make.
#[derive(Default)]
pub struct Shared {
    pub boards: Boards,
    pub registered: Registered,
    recent: Recent,
}

impl Room {
    /// A room whose requests take turns with one another.
    pub fn new(api: ApiState) -> Self {
        Self { api, desks: Arc::new(Desks::new()), shared: Arc::default() }
    }
}

/// The body of an answer.
pub struct Body {
    pub kind: HeaderValue,
    pub content: Content,
    /// Under which name it is saved; `None`: it is to be looked at.
    pub file: Option<HeaderValue>,
}

impl Body {
    /// To be looked at, or read by a program.
    pub fn new(kind: HeaderValue, content: Content) -> Self {
        Self { kind, content, file: None }
    }

    /// To be saved as a file of this name, which has no quotes in it.
    pub fn named(self, file: &str) -> Self {
        Self { file: HeaderValue::try_from(format!("attachment; filename=\"{file}\"")).ok(), ..self }
    }
}

/// What is in it.
pub enum Content {
    /// All of it, made.
    Whole(Vec<u8>),
    /// The same for everybody and for good.
    Fixed(&'static str),
    /// Written while it is sent, because it may be long.
    Pieces {
        /// What makes it another one than others; of the whole in hex, or with something in front.
        sha256: String,
        /// Bytes of the whole.
        length: u64,
        /// Writes it.
        write: Writes,
    },
}

/// Writes a long answer.
pub type Writes = Box<dyn FnOnce(&mut Pieces<'_>) -> io::Result<()>>;

pub type Answer = Result<Body, Problem>;

/// A route whose answer is made on a blocking thread, when it is its turn.
pub fn endpoint(
    weight: Weight,
    work: impl Fn(&Reading, &Asked) -> Answer + Clone + Send + Sync + 'static,
) -> MethodRouter<Room> {
    endpoint_as(weight, work, |problem, _| problem.into_response())
}

/// How a problem is told to somebody who reads this language.
pub type Tell = fn(Problem, Lang) -> Response;

/// The same, telling problems its own way.
pub fn endpoint_as(
    weight: Weight,
    work: impl Fn(&Reading, &Asked) -> Answer + Clone + Send + Sync + 'static,
    tell: Tell,
) -> MethodRouter<Room> {
    get(async move |State(room): State<Room>, asked: Result<Asked, Problem>| {
        let mut response = match asked {
            Ok(asked) => {
                let lang = asked.lang();
                made(room, weight, asked, work.clone(), tell).await.unwrap_or_else(|problem| tell(problem, lang))
            }
            Err(problem) => tell(problem, Lang::default()),
        };
        response.headers_mut().insert(header::CACHE_CONTROL, NO_CACHE);
        response
    })
}

/// The answer, or its beginning: what follows is sent while it is made.
async fn made(
    room: Room,
    weight: Weight,
    asked: Asked,
    work: impl Fn(&Reading, &Asked) -> Answer + Send + 'static,
    tell: Tell,
) -> Result<Response, Problem> {
    // What the documents said at an instant is judged from all of a tenant's facts.
    let weight = if asked.is_as_of() { Weight::Long } else { weight };
    let turn = room.desks.turn(weight, &asked.work).await?;
    // A client that leaves before its answer begins takes this with it.
    let waits = asked.work.guard();
    let (begin, begun) = oneshot::channel();
    tokio::task::spawn_blocking(move || {
        let reading = Reading::new(room.api.clone(), room.shared.clone());
        let send = |mut response: Response| {
            let as_of = reading.ledger_as_of().and_then(|as_of| HeaderValue::try_from(as_of).ok());
            response.headers_mut().extend(as_of.map(|as_of| (LEDGER_AS_OF, as_of)));
            // Nobody is there to take it: then nobody misses it.
            _ = begin.send(response);
        };
        match shared(&reading, &asked, work).and_then(|body| tagged(&room, &asked, body)) {
            Err(problem) => send(tell(problem, asked.lang())),
            Ok(Tagged::Whole(response)) => send(response),
            Ok(Tagged::Pieces(mut response, length, write)) => {
                let (mut pieces, unread) = pieces(&turn, &asked.work, length);
                *response.body_mut() = axum::body::Body::new(unread);
                send(response);
                if let Err(error) = write(&mut pieces).and_then(|()| pieces.flush()) {
                    tracing::debug!(%error, "an answer broke off");
                }
            }
        }
    });
    let response = begun.await;
    // What goes on from here ends with the body.
    waits.disarm();
    response.map_err(|_| Problem::internal("the answer broke off; the log says more"))
}

/// The answer, or one of a moment ago if readers share it.
fn shared(reading: &Reading, asked: &Asked, work: impl Fn(&Reading, &Asked) -> Answer) -> Answer {
    let (recent, now_ms) = (&reading.shared.recent, reading.now_ms());
    if let Some((body, as_of)) = recent.find(asked, now_ms) {
        reading.board_as_of.get_or_init(|| as_of);
        return Ok(body);
    }
    let body = work(reading, asked)?;
    if let Some(as_of) = reading.board_as_of.get()
        && reading.published().is_ok_and(|value| board::is_shared(value))
    {
        recent.keep(asked, &body, as_of.clone(), now_ms);
    }
    Ok(body)
}

/// An answer under its entity tag.
enum Tagged {
    Whole(Response),
    /// Without its body, which has so many bytes and is written by this.
    Pieces(Response, u64, Writes),
}

/// The entity tag of a body with this digest, in hex.
pub fn etag(sha256: &str) -> String {
    format!("\"{}\"", sha256.get(..32).unwrap_or(sha256))
}

/// The body under its entity tag, unless the client has it.
fn tagged(room: &Room, asked: &Asked, Body { kind, content, file }: Body) -> Result<Tagged, Problem> {
    let sha256 = match &content {
        Content::Whole(bytes) => hex(&Sha256::digest(bytes)),
        Content::Fixed(text) => hex(&Sha256::digest(text)),
        Content::Pieces { sha256, .. } => sha256.clone(),
    };
    let etag = etag(&sha256);
    let under = |mut response: Response| {
        response.headers_mut().extend(HeaderValue::try_from(&etag).ok().map(|etag| (header::ETAG, etag)));
        response.headers_mut().extend(file.clone().map(|file| (header::CONTENT_DISPOSITION, file)));
        response
    };
    if asked.has(&etag) {
        return Ok(Tagged::Whole(under(StatusCode::NOT_MODIFIED.into_response())));
    }
    let kind = [(header::CONTENT_TYPE, kind)];
    Ok(match content {
        Content::Whole(bytes) => Tagged::Whole(under((kind, room.desks.body(bytes)?).into_response())),
        Content::Fixed(text) => Tagged::Whole(under((kind, Bytes::from_static(text.as_bytes())).into_response())),
        Content::Pieces { length, write, .. } => Tagged::Pieces(under((kind, ()).into_response()), length, write),
    })
}

/// An instant as every output shows it.
pub fn instant(ms: i64) -> Option<String> {
    DateTime::from_timestamp_millis(ms).map(|t| t.to_rfc3339_opts(SecondsFormat::AutoSi, true))
}

impl ApiState {
    pub(super) fn now_ms(&self) -> i64 {
        (self.clock)()
    }

    pub(super) fn today(&self) -> LocalDay {
        LocalClock::new(self.zone).day(self.now_ms())
    }
}

/// One answer's reading of what is published: all of the answer comes from it.
pub struct Reading {
    state: ApiState,
    pub value: Option<Arc<Published>>,
    /// With the other answers.
    pub shared: Arc<Shared>,
    /// The instant that the board reaches to which the answer rests on, if it does.
    board_as_of: OnceCell<Option<String>>,
}

impl std::ops::Deref for Reading {
    type Target = ApiState;

    fn deref(&self) -> &ApiState {
        &self.state
    }
}

impl Reading {
    fn new(state: ApiState, shared: Arc<Shared>) -> Self {
        let value = state.view.published();
        Self { state, value, shared, board_as_of: OnceCell::new() }
    }

    /// Another one, for what goes on behind the answer.
    pub fn again(&self) -> Self {
        Self::new(self.state.clone(), self.shared.clone())
    }

    /// The board of the month that is asked for, or of the running one. All of the answer is said to reach as far as it does.
    ///
    /// # Errors
    /// No month, or nothing is published yet.
    pub fn board(&self, query: Query<'_>) -> Result<Arc<Board>, Problem> {
        self.board_of(query.month("month")?.unwrap_or_else(|| self.today().month()))
    }

    /// The same, of this month.
    ///
    /// # Errors
    /// Nothing is published yet.
    pub fn board_of(&self, month: Month) -> Result<Arc<Board>, Problem> {
        let board = self.shared.boards.of(self, month)?;
        self.board_as_of.get_or_init(|| board.as_of.clone());
        Ok(board)
    }

    /// The least watermark over the shards; `None` when one of them has counted nothing yet. Of a board, if the answer rests
    /// on one.
    pub fn ledger_as_of(&self) -> Option<String> {
        if let Some(as_of) = self.board_as_of.get() {
            return as_of.clone();
        }
        let shards = self.value.as_ref()?.book.shards();
        let watermarks = shards.iter().map(|shard| shard.checkpoint().and_then(|c| c.watermark_ms));
        watermarks.min().flatten().and_then(instant)
    }

    /// What is published.
    ///
    /// # Errors
    /// Nothing yet.
    pub fn published(&self) -> Result<&Arc<Published>, Problem> {
        let why = "not all of the ledger has been read yet; /readyz says when it has";
        self.value.as_ref().ok_or_else(|| Problem::unavailable(why.into()))
    }

    /// Turns service months of what is published into what is shown of them.
    ///
    /// # Errors
    /// Nothing is published yet.
    pub fn judge<'a>(&'a self, contract: &'a Contract) -> Result<Judge<'a>, Problem> {
        let book = &self.published()?.book;
        Ok(Judge { api: self, book, contract, now_ms: self.now_ms(), known: HashMap::new() })
    }
}

/// The calls of months before this one are no longer in the ledger.
pub fn horizon(book: &Book) -> Month {
    let horizons = book.shards().iter().filter_map(|shard| shard.checkpoint().map(|c| c.horizon)).max();
    Month(horizons.unwrap_or_default())
}

/// Turns service months into what is shown of them.
pub struct Judge<'a> {
    api: &'a Reading,
    book: &'a Book,
    contract: &'a Contract,
    pub now_ms: i64,
    known: HashMap<Period, Completeness>,
}

impl Judge<'_> {
    /// What is known of the calls of a period, looked up once.
    fn known(&mut self, period: Period) -> &Completeness {
        let (view, book, zone) = (&self.api.view, self.book, self.api.zone);
        self.known.entry(period).or_insert_with(|| view.completeness(book, period, zone))
    }

    /// Are all calls of the month known to be counted? As [`standing`](Self::standing) says, at less cost.
    pub fn is_complete(&mut self, month: &ServiceMonth) -> bool {
        self.known(month.period).reasons.is_empty()
            && self.book.unadmitted(month).is_empty()
            && month.uncounted.reasons().next().is_none()
    }

    pub fn standing(&mut self, tenant: &str, month: &ServiceMonth) -> Standing {
        let mut known = self.known(month.period).clone();
        known.reasons.extend(self.book.unadmitted(month));
        known.remarks = self.contract.remarks(tenant, month);
        Standing::of(tenant, month, self.now_ms, known, self.contract.rulebook.claims(tenant))
    }
}
