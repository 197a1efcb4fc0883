//! Limits on connections: how many, and how long each may take over a header, a request and a response.
//!
//! A connection that is slow costs a socket and nothing else. When there are too many, the one that has kept us waiting
//! longest gives way to the new one, so that clients that are stuck on purpose cannot keep a scrape out.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Request};
use axum::middleware::Next;
use axum::response::Response;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::limits::Limits;

/// Accepts connections within the limits.
pub struct Guard<L> {
    listener: L,
    connections: Arc<Connections>,
}

/// The open connections.
#[derive(Debug)]
pub struct Connections {
    limits: Limits,
    open: Mutex<HashMap<usize, Arc<Connection>>>,
    /// A connection has left its handler, or is gone.
    left: Notify,
}

/// What one connection is about.
#[derive(Debug)]
pub struct Connection {
    state: Mutex<State>,
    close: CancellationToken,
}

#[derive(Debug, Clone, Copy)]
struct State {
    phase: Phase,
    since: Instant,
    until: Instant,
}

/// Ordered by who gives way first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// Between two requests.
    Idle,
    /// A new connection, or one whose next request has begun: the header is not complete.
    Header,
    /// The response is being sent.
    Sending,
    /// A handler is at work.
    Handling,
}

/// The stream of a guarded connection.
pub struct GuardedStream<S> {
    stream: S,
    id: usize,
    connection: Arc<Connection>,
    connections: Arc<Connections>,
    timer: Pin<Box<Sleep>>,
    close: Pin<Box<WaitForCancellationFutureOwned>>,
}

/// Lets the handlers' side tell the connection where it stands.
#[derive(Clone)]
pub struct Handle {
    connection: Arc<Connection>,
    connections: Arc<Connections>,
    peer: IpAddr,
}

impl Handle {
    /// Where the connection comes from.
    pub fn peer(&self) -> IpAddr {
        self.peer
    }
}

impl<L> Guard<L> {
    /// Guards what the listener accepts.
    pub fn new(listener: L, limits: Limits) -> Self {
        Self { listener, connections: Arc::new(Connections { limits, open: Mutex::default(), left: Notify::new() }) }
    }

    /// The open connections.
    pub fn connections(&self) -> Arc<Connections> {
        self.connections.clone()
    }
}

impl<L: Listener> Listener for Guard<L> {
    type Io = GuardedStream<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (stream, address) = self.listener.accept().await;
        // Where every connection has a handler at work, the new one waits for the first that has done its work.
        let (id, connection) = loop {
            match self.connections.admit() {
                Some(admitted) => break admitted,
                None => self.connections.left.notified().await,
            }
        };
        let stream = GuardedStream {
            stream,
            id,
            timer: Box::pin(tokio::time::sleep_until(connection.state().until)),
            close: Box::pin(connection.close.clone().cancelled_owned()),
            connection,
            connections: self.connections.clone(),
        };
        (stream, address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

impl Connections {
    fn admit(&self) -> Option<(usize, Arc<Connection>)> {
        let now = Instant::now();
        let mut open = self.open();
        if open.len() >= self.limits.connections {
            let waiting =
                open.iter().map(|(id, c)| (c.state(), *id)).filter(|(state, _)| state.phase != Phase::Handling);
            let (_, id) = waiting.min_by_key(|(state, id)| (state.phase, state.since, *id))?;
            open.remove(&id)?.close.cancel();
        }
        let state = State { phase: Phase::Header, since: now, until: now + self.limits.header_timeout };
        let connection = Arc::new(Connection { state: Mutex::new(state), close: CancellationToken::new() });
        // The address is as good as a number: it is not given out again while the stream lives.
        let id = Arc::as_ptr(&connection) as usize;
        open.insert(id, connection.clone());
        Some((id, connection))
    }

    /// Closes them all.
    pub fn close_all(&self) {
        self.open().drain().for_each(|(_, connection)| connection.close.cancel());
    }

    /// Number of open connections.
    pub fn len(&self) -> usize {
        self.open().len()
    }

    /// No connections?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn open(&self) -> MutexGuard<'_, HashMap<usize, Arc<Connection>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    fn state(&self) -> State {
        *self.lock()
    }

    fn enter(&self, phase: Phase, time: Duration) {
        let now = Instant::now();
        *self.lock() = State { phase, since: now, until: now + time };
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> GuardedStream<S> {
    /// Is the connection to be closed, or its time over? If not, the task is woken when it is.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.close.as_mut().poll(cx).is_ready() {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "closed to make room, or at the end"));
        }
        let until = self.connection.state().until;
        if self.timer.deadline() != until {
            self.timer.as_mut().reset(until);
        }
        match self.timer.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::Error::new(io::ErrorKind::TimedOut, "the client took too long")),
            Poll::Pending => Ok(()),
        }
    }

    fn limits(&self) -> &Limits {
        &self.connections.limits
    }

    fn writes(&self) {
        if self.connection.state().phase == Phase::Idle {
            self.connection.enter(Phase::Sending, self.limits().response_timeout);
        }
    }
}

impl<S> Drop for GuardedStream<S> {
    fn drop(&mut self) {
        self.connections.open().remove(&self.id);
        self.connections.left.notify_one();
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for GuardedStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if buf.filled().len() > before && self.connection.state().phase == Phase::Idle {
            self.connection.enter(Phase::Header, self.limits().header_timeout);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for GuardedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.writes();
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.writes();
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        // The server flushes when it has nothing more to write.
        if self.connection.state().phase == Phase::Sending {
            self.connection.enter(Phase::Idle, self.limits().idle_timeout);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<L: Listener<Addr = SocketAddr>> Connected<IncomingStream<'_, Guard<L>>> for Handle {
    fn connect_info(stream: IncomingStream<'_, Guard<L>>) -> Self {
        let peer = stream.remote_addr().ip();
        let stream = stream.io();
        Self { connection: stream.connection.clone(), connections: stream.connections.clone(), peer }
    }
}

/// Middleware: tells the connection when a request is complete and when its response begins.
pub async fn track(ConnectInfo(handle): ConnectInfo<Handle>, request: Request, next: Next) -> Response {
    let limits = &handle.connections.limits;
    // The handlers have a time limit of their own; this one is for a body that does not come.
    handle.connection.enter(Phase::Handling, limits.request_timeout + limits.response_timeout);
    let response = next.run(request).await;
    handle.connection.enter(Phase::Sending, limits.response_timeout);
    handle.connections.left.notify_one();
    response
}
