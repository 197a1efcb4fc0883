//! The work behind answers: how much of it goes on at once, how much memory waits for clients, and when it ends.
//!
//! Requests take turns in two lanes, so that statements of large months cannot hold up small answers, and neither can take
//! the processors from counting and scrapes. A lane has few turns and a bounded queue; who does not get a turn in time is
//! told to come again. Work ends when its client has gone, when it takes too long, and when the service ends: it looks for
//! that itself, between two pieces of its work, because a thread cannot be stopped from outside.
//!
//! Long answers are sent while they are made, a piece at a time. A client that does not read its pieces keeps a turn, so it
//! gives way as soon as somebody else waits.

use std::io::{self, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::ask::Problem;

/// Statements and lists of failing calls at work at once: they look at every failing call of a month.
const LONG_TURNS: usize = 2;
/// Those that wait for a turn.
const LONG_QUEUE: usize = 32;
/// All other requests at work at once.
const SHORT_TURNS: usize = 4;
/// Those that wait for a turn.
const SHORT_QUEUE: usize = 128;
/// How long one waits.
const MOST_WAIT: Duration = Duration::from_secs(10);
/// How long one works, its answer taken included.
const MOST_WORK: Duration = Duration::from_secs(60);
/// Bytes of all answers that were made whole and wait for their clients to take them.
const UNSENT_BYTES: usize = 64 << 20;
/// Bytes of a piece of a long answer, and the pieces that may wait for the client.
const PIECE_BYTES: usize = 64 << 10;
const PIECES: usize = 2;
/// How long a client may let a long answer wait, all its pauses together, while somebody else waits for a turn.
const MOST_PAUSES: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// What the requests share.
pub struct Desks {
    long: Arc<Lane>,
    short: Arc<Lane>,
    unsent: Arc<Semaphore>,
}

/// How much work an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// Grows with the failing calls of a month.
    Long,
    /// All others.
    Short,
}

/// Requests that take turns.
struct Lane {
    turns: Arc<Semaphore>,
    most_turns: usize,
    /// Turns and places in the queue.
    places: Arc<Semaphore>,
    most_places: usize,
}

/// The right to work; given back when dropped.
pub struct Turn {
    lane: Arc<Lane>,
    _turn: OwnedSemaphorePermit,
    _place: OwnedSemaphorePermit,
}

impl Desks {
    pub fn new() -> Self {
        let lane = |turns: usize, queue: usize| {
            Arc::new(Lane {
                turns: Arc::new(Semaphore::new(turns)),
                most_turns: turns,
                places: Arc::new(Semaphore::new(turns + queue)),
                most_places: turns + queue,
            })
        };
        Self {
            long: lane(LONG_TURNS, LONG_QUEUE),
            short: lane(SHORT_TURNS, SHORT_QUEUE),
            unsent: Arc::new(Semaphore::new(UNSENT_BYTES)),
        }
    }

    /// Waits for a turn.
    ///
    /// # Errors
    /// Too many wait, or it takes too long, or the service ends.
    pub async fn turn(&self, weight: Weight, work: &Work) -> Result<Turn, Problem> {
        let lane = match weight {
            Weight::Long => &self.long,
            Weight::Short => &self.short,
        };
        let busy = || Problem::unavailable("too many requests of this kind are at work; ask again".into());
        let place = lane.places.clone().try_acquire_owned().map_err(|_| busy())?;
        tokio::select! {
            turn = tokio::time::timeout(MOST_WAIT, lane.turns.clone().acquire_owned()) => match turn {
                Ok(Ok(turn)) => Ok(Turn { lane: lane.clone(), _turn: turn, _place: place }),
                _ => Err(busy()),
            },
            () = work.ended() => Err(work.why_ended()),
        }
    }

    /// These bytes as the body of an answer, counted until they are sent.
    ///
    /// # Errors
    /// Clients leave too many answers unread.
    pub fn body(&self, bytes: Vec<u8>) -> Result<Bytes, Problem> {
        let all = u32::try_from(bytes.len().min(UNSENT_BYTES)).unwrap_or(u32::MAX);
        match self.unsent.clone().try_acquire_many_owned(all) {
            Ok(permit) => Ok(Bytes::from_owner(Unsent { bytes, _permit: permit })),
            Err(_) => {
                Err(Problem::unavailable("too many answers wait for their clients to read them; ask again".into()))
            }
        }
    }
}

struct Unsent {
    bytes: Vec<u8>,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Unsent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Lane {
    /// Does somebody wait for a turn?
    fn is_wanted(&self) -> bool {
        let taken = |semaphore: &Semaphore, most: usize| most.saturating_sub(semaphore.available_permits());
        taken(&self.places, self.most_places) > taken(&self.turns, self.most_turns)
    }
}

/// The work for one request: does anybody still wait for it?
#[derive(Debug, Clone)]
pub struct Work {
    ended: CancellationToken,
    service: CancellationToken,
    until: Instant,
}

impl Work {
    /// Begins now; ends with the service at the latest.
    pub fn new(service: &CancellationToken) -> Self {
        Self { ended: service.child_token(), service: service.clone(), until: Instant::now() + MOST_WORK }
    }

    /// To be asked between two pieces of the work.
    pub fn goes_on(&self) -> bool {
        !self.ended.is_cancelled() && Instant::now() < self.until
    }

    /// The same, as an answer for the client, if there still is one.
    ///
    /// # Errors
    /// It ends.
    pub fn check(&self) -> Result<(), Problem> {
        if self.goes_on() { Ok(()) } else { Err(self.why_ended()) }
    }

    /// Nobody waits for it any more once the guard is dropped.
    pub fn guard(&self) -> DropGuard {
        self.ended.clone().drop_guard()
    }

    async fn ended(&self) {
        _ = tokio::time::timeout_at(self.until, self.ended.cancelled()).await;
    }

    fn why_ended(&self) -> Problem {
        Problem::unavailable(match self.service.is_cancelled() {
            true => "the service is ending; ask another instance".into(),
            false => "the answer takes too long; ask again when there is less to do".into(),
        })
    }
}

/// Counts what is written to it, and writes nothing; fails when the work has ended.
pub struct Measure<'a> {
    work: &'a Work,
    /// Bytes written.
    pub length: u64,
}

impl<'a> Measure<'a> {
    pub fn new(work: &'a Work) -> Self {
        Self { work, length: 0 }
    }
}

impl Write for Measure<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.flush()?;
        self.length += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.work.goes_on() { Ok(()) } else { Err(io::Error::other("the work has ended")) }
    }
}

/// The pieces of a long answer, from the thread that makes them to the connection.
pub fn pieces<'a>(turn: &'a Turn, work: &'a Work, length: u64) -> (Pieces<'a>, Unread) {
    let (to, pieces) = mpsc::channel(PIECES);
    let pieces = Unread { pieces, left: length, _work: work.guard() };
    (Pieces { piece: Vec::new(), to, turn, work, paused: Duration::ZERO }, pieces)
}

/// Takes a long answer while it is made. On a thread that may wait.
pub struct Pieces<'a> {
    piece: Vec<u8>,
    to: mpsc::Sender<Bytes>,
    turn: &'a Turn,
    work: &'a Work,
    /// How long the client let it wait.
    paused: Duration,
}

impl Pieces<'_> {
    fn send(&mut self) -> io::Result<()> {
        let gone = || io::Error::other("the client does not wait for the answer any more");
        if !self.work.goes_on() {
            return Err(gone());
        }
        let piece = Bytes::from(std::mem::take(&mut self.piece));
        let piece = match self.to.try_send(piece) {
            Ok(()) => return Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(gone()),
            Err(mpsc::error::TrySendError::Full(piece)) => piece,
        };
        let began = Instant::now();
        let sent = Handle::current().block_on(async {
            loop {
                tokio::select! {
                    place = self.to.reserve() => break place.map(|place| place.send(piece)).map_err(|_| gone()),
                    () = self.work.ended() => break Err(gone()),
                    () = tokio::time::sleep(LOOK_AGAIN) => {
                        if self.paused + began.elapsed() > MOST_PAUSES && self.turn.lane.is_wanted() {
                            break Err(io::Error::other("the client reads too slowly, and somebody else waits"));
                        }
                    }
                }
            }
        });
        self.paused += began.elapsed();
        sent
    }
}

impl Write for Pieces<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE_BYTES {
            self.send()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() { Ok(()) } else { self.send() }
    }
}

/// The body of a long answer. When it is dropped, nobody waits for the rest.
pub struct Unread {
    pieces: mpsc::Receiver<Bytes>,
    /// Bytes that are still to come.
    left: u64,
    _work: DropGuard,
}

impl Body for Unread {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Poll::Ready(match ready!(self.pieces.poll_recv(cx)) {
            Some(piece) => {
                self.left = self.left.saturating_sub(piece.len() as u64);
                Some(Ok(Frame::data(piece)))
            }
            // The client must not take what it has for the whole.
            None if std::mem::take(&mut self.left) > 0 => Some(Err(io::Error::other("the answer broke off"))),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
