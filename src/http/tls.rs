//! A listener that speaks TLS when the access in force says so. The handshake is a part of the connection's life, not of
//! accepting it: a client that never ends its handshake keeps nobody out, and [`super::connection`] ends it as one whose
//! header does not come.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{Accept, TlsAcceptor};

use super::access::Door;

/// Accepts connections, encrypted or not as the access in force says at that moment.
pub struct WebListener<L> {
    listener: L,
    door: Arc<Door>,
}

/// A connection that may be encrypted.
pub struct WebStream<S>(State<S>);

enum State<S> {
    Plain(S),
    Handshake(Box<Accept<S>>),
    Encrypted(Box<TlsStream<S>>),
    Failed,
}

impl<L> WebListener<L> {
    /// Listens as `door` says.
    pub fn new(listener: L, door: Arc<Door>) -> Self {
        Self { listener, door }
    }
}

impl<L: Listener> Listener for WebListener<L> {
    type Io = WebStream<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (stream, address) = self.listener.accept().await;
        let state = match self.door.access().tls() {
            Some(tls) => State::Handshake(Box::new(TlsAcceptor::from(tls).accept(stream))),
            None => State::Plain(stream),
        };
        (WebStream(state), address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// What can be read from and written to.
trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

impl<S: AsyncRead + AsyncWrite + Unpin> WebStream<S> {
    /// The stream, once the handshake is over.
    fn poll_stream(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Pin<&mut dyn Stream>>> {
        if let State::Handshake(accept) = &mut self.0 {
            self.0 = match ready!(Pin::new(accept).poll(cx)) {
                Ok(stream) => State::Encrypted(Box::new(stream)),
                Err(error) => {
                    tracing::debug!(%error, "tls handshake failed");
                    self.0 = State::Failed;
                    return Poll::Ready(Err(error));
                }
            };
        }
        Poll::Ready(self.stream())
    }

    fn stream(&mut self) -> io::Result<Pin<&mut dyn Stream>> {
        match &mut self.0 {
            State::Plain(stream) => Ok(Pin::new(stream)),
            State::Encrypted(stream) => Ok(Pin::new(&mut **stream)),
            State::Handshake(_) | State::Failed => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn nothing_written(&self) -> bool {
        matches!(self.0, State::Handshake(_) | State::Failed)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_stream(cx))?.poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_stream(cx))?.poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_stream(cx))?.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.0 {
            State::Plain(stream) => stream.is_write_vectored(),
            // Whatever it becomes, it takes several pieces at once.
            State::Handshake(_) | State::Encrypted(_) | State::Failed => true,
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.nothing_written() {
            return Poll::Ready(Ok(()));
        }
        self.stream()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // An end does not wait for a handshake.
        if self.nothing_written() {
            return Poll::Ready(Ok(()));
        }
        self.stream()?.poll_shutdown(cx)
    }
}
