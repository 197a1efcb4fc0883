//! Scrapes: one rendering at a time, off the async threads, in buffers that are used again.
//!
//! An exposition of 100k tenants is tens of megabytes, so what bounds memory is how many renderings are alive: being
//! made (one at most) or being sent. A scrape never gets figures older than its own request, with one exception: when
//! `MAX_LIVE` renderings are held by clients that do not read, the newest of them is shared.

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use axum::body::Bytes;
use flate2::write::DeflateEncoder;
use flate2::{Compression, Crc};

use super::{Render, accept};
use crate::metrics::Format;

/// Renderings alive at once. Reached only when clients are slow; connections have a time limit for that.
const MAX_LIVE: usize = 4;
/// A free buffer above this size in bytes is dropped when it was used to less than a quarter.
const KEEP_BYTES: usize = 1 << 20;
/// Most threads that compress one exposition.
const MAX_PIECES: usize = 4;
/// Texts are not cut into pieces shorter than this.
const MIN_PIECE_BYTES: usize = 4 << 20;

/// Renders the metrics for those who ask.
pub struct Scrapes {
    render: Arc<Render>,
    turn: Arc<tokio::sync::Mutex<Newest>>,
    pool: Arc<Pool>,
}

/// How the exposition is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// As it is.
    Identity,
    /// Compressed, at the fastest level.
    Gzip,
}

/// The newest rendering for each way to send one.
#[derive(Debug, Default)]
struct Newest(Vec<((Format, Encoding), Made)>);

#[derive(Debug, Clone)]
struct Made {
    began: Instant,
    body: Weak<Pooled>,
}

#[derive(Debug, Default)]
struct Pool {
    /// One free buffer for a text and one for a compressed text, which is a tenth as long.
    text: Mutex<Vec<u8>>,
    packed: Mutex<Vec<u8>>,
    live: AtomicUsize,
}

/// A buffer that goes back to its pool once the last client has read it.
#[derive(Debug)]
struct Pooled {
    bytes: Vec<u8>,
    encoding: Encoding,
    pool: Arc<Pool>,
}

/// The rendering failed: it panicked, or the runtime is ending.
#[derive(Debug, thiserror::Error)]
#[error("the metrics could not be rendered")]
pub struct RenderFailed;

impl Scrapes {
    /// Scrapes of what `render` writes.
    pub fn new(render: Arc<Render>) -> Self {
        Self { render, turn: Arc::default(), pool: Arc::default() }
    }

    /// The exposition as of now.
    ///
    /// # Errors
    /// When the rendering panicked.
    pub async fn scrape(&self, format: Format, encoding: Encoding) -> Result<Bytes, RenderFailed> {
        let asked = Instant::now();
        let mut newest = self.turn.clone().lock_owned().await;
        if let Some(made) = newest.of(format, encoding)
            && (made.began >= asked || self.pool.live.load(Ordering::Relaxed) >= MAX_LIVE)
            && let Some(body) = made.body.upgrade()
        {
            return Ok(Bytes::from_owner(Shared(body)));
        }
        let (render, pool) = (self.render.clone(), self.pool.clone());
        // The turn goes with the work, so that a client that leaves does not let the next one render beside it.
        let made = tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            let body = Arc::new(make(&*render, &pool, format, encoding));
            newest.put(format, encoding, Made { began, body: Arc::downgrade(&body) });
            body
        });
        made.await.map(|body| Bytes::from_owner(Shared(body))).map_err(|_| RenderFailed)
    }
}

fn make(render: &Render, pool: &Arc<Pool>, format: Format, encoding: Encoding) -> Pooled {
    let mut text = pool.take(Encoding::Identity);
    render(format, &mut text);
    let bytes = match encoding {
        Encoding::Identity => text,
        Encoding::Gzip => {
            let bytes = gzip(&text, pool.take(Encoding::Gzip));
            pool.give(Encoding::Identity, text);
            bytes
        }
    };
    pool.live.fetch_add(1, Ordering::Relaxed);
    Pooled { bytes, encoding, pool: pool.clone() }
}

/// The text as one gzip member at the fastest level, in this buffer. Long texts are compressed in pieces side by side:
/// at 100k tenants this is the longest step of a scrape.
pub fn gzip(text: &[u8], mut buffer: Vec<u8>) -> Vec<u8> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_PIECES);
    gzip_in_pieces(text, text.len().div_ceil(threads).max(MIN_PIECE_BYTES), &mut buffer);
    buffer
}

fn gzip_in_pieces(text: &[u8], piece_bytes: usize, out: &mut Vec<u8>) {
    out.clear();
    // Deflate, no name, no time, fastest level, unknown system.
    out.extend_from_slice(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 255]);
    let mut pieces: Vec<&[u8]> = text.chunks(piece_bytes).collect();
    let last = pieces.pop().unwrap_or_default();
    let mut crc = Crc::new();
    std::thread::scope(|scope| {
        let others: Vec<_> = pieces.iter().map(|piece| scope.spawn(|| deflate(piece, false))).collect();
        let end = deflate(last, true);
        for piece in others.into_iter().map(|thread| thread.join()).chain([Ok(end)]) {
            let (bytes, piece_crc) = piece.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            out.extend_from_slice(&bytes);
            crc.combine(&piece_crc);
        }
    });
    out.extend_from_slice(&crc.sum().to_le_bytes());
    out.extend_from_slice(&(text.len() as u32).to_le_bytes());
}

/// A piece of a deflate stream. All but the last end on a byte's border, so that the next can be put behind them.
fn deflate(piece: &[u8], last: bool) -> (Vec<u8>, Crc) {
    let mut crc = Crc::new();
    crc.update(piece);
    let mut encoder = DeflateEncoder::new(Vec::with_capacity(piece.len() / 8), Compression::fast());
    // Writing to a Vec cannot fail.
    let _ = encoder.write_all(piece);
    let bytes = if last {
        encoder.finish().unwrap_or_default()
    } else {
        let _ = encoder.flush();
        std::mem::take(encoder.get_mut())
    };
    (bytes, crc)
}

impl Newest {
    fn of(&self, format: Format, encoding: Encoding) -> Option<&Made> {
        self.0.iter().find(|(way, _)| *way == (format, encoding)).map(|(_, made)| made)
    }

    fn put(&mut self, format: Format, encoding: Encoding, made: Made) {
        self.0.retain(|(way, _)| *way != (format, encoding));
        self.0.push(((format, encoding), made));
    }
}

impl Pool {
    fn take(&self, encoding: Encoding) -> Vec<u8> {
        std::mem::take(&mut *self.slot(encoding))
    }

    fn give(&self, encoding: Encoding, mut buffer: Vec<u8>) {
        let too_large = buffer.capacity() > KEEP_BYTES && buffer.len() < buffer.capacity() / 4;
        let mut slot = self.slot(encoding);
        if !too_large && slot.capacity() < buffer.capacity() {
            buffer.clear();
            *slot = buffer;
        }
    }

    fn slot(&self, encoding: Encoding) -> MutexGuard<'_, Vec<u8>> {
        let slot = match encoding {
            Encoding::Identity => &self.text,
            Encoding::Gzip => &self.packed,
        };
        slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        self.pool.live.fetch_sub(1, Ordering::Relaxed);
        self.pool.give(self.encoding, std::mem::take(&mut self.bytes));
    }
}

struct Shared(Arc<Pooled>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0.bytes
    }
}

impl Encoding {
    /// The best encoding for an `Accept-Encoding` header.
    pub fn accepted(header: Option<&str>) -> Self {
        let gzip = ["gzip", "x-gzip"];
        let accepted =
            accept::entries(header.unwrap_or_default()).any(|e| gzip.iter().any(|name| e.is(name)) && e.quality > 0.0);
        if accepted { Self::Gzip } else { Self::Identity }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use super::*;

    #[test]
    fn gzip_only_when_accepted() {
        for (header, encoding) in [
            (None, Encoding::Identity),
            (Some(""), Encoding::Identity),
            (Some("identity"), Encoding::Identity),
            (Some("gzip"), Encoding::Gzip),
            (Some("deflate, GZIP;q=0.5, br"), Encoding::Gzip),
            (Some("gzip;q=0"), Encoding::Identity),
            (Some("gzip;q=0.0, br"), Encoding::Identity),
        ] {
            assert_eq!(Encoding::accepted(header), encoding, "{header:?}");
        }
    }

    #[test]
    fn pieces_make_one_gzip_member() {
        use std::io::Read;
        let text: Vec<u8> =
            (0..10_000).flat_map(|i| format!("sla_calls{{tenant=\"t{i}\"}} {i}\n").into_bytes()).collect();
        for (text, piece_bytes) in
            [(&text[..], 1 << 30), (&text, 1000), (&text, text.len() / 2), (&text[..1], 1), (&[], 10)]
        {
            let mut packed = vec![1, 2, 3];
            gzip_in_pieces(text, piece_bytes, &mut packed);
            let (mut unpacked, mut decoder) = (Vec::new(), flate2::bufread::GzDecoder::new(&packed[..]));
            decoder.read_to_end(&mut unpacked).unwrap();
            assert!(unpacked == text && decoder.into_inner().is_empty(), "{} in pieces of {piece_bytes}", text.len());
        }
    }

    /// Renders its own number, slowly; fails when two run at once.
    fn counting() -> (Arc<AtomicUsize>, Scrapes) {
        let count = Arc::new(AtomicUsize::new(0));
        let (inner, running) = (count.clone(), AtomicUsize::new(0));
        let scrapes = Scrapes::new(Arc::new(move |_: Format, out: &mut Vec<u8>| {
            assert_eq!(running.fetch_add(1, Ordering::SeqCst), 0, "two renderings at once");
            std::thread::sleep(Duration::from_millis(50));
            out.extend_from_slice((inner.fetch_add(1, Ordering::SeqCst) + 1).to_string().as_bytes());
            running.fetch_sub(1, Ordering::SeqCst);
        }));
        (count, scrapes)
    }

    #[tokio::test]
    async fn scrapes_that_wait_share_one_rendering() {
        let (count, scrapes) = counting();
        let scrapes = Arc::new(scrapes);
        let all: Vec<_> = (0..20)
            .map(|_| {
                let scrapes = scrapes.clone();
                tokio::spawn(async move { scrapes.scrape(Format::Text, Encoding::Identity).await.unwrap() })
            })
            .collect();
        let mut bodies = Vec::new();
        for scrape in all {
            bodies.push(scrape.await.unwrap());
        }
        // The first, and one for all that came while it was made.
        assert!(count.load(Ordering::SeqCst) <= 2, "{count:?}");
        assert_eq!(scrapes.pool.live.load(Ordering::SeqCst), count.load(Ordering::SeqCst));
        drop(bodies);
        assert_eq!(scrapes.pool.live.load(Ordering::SeqCst), 0);
        assert!(scrapes.pool.text.lock().unwrap().capacity() > 0);
    }

    #[tokio::test]
    async fn bodies_that_nobody_reads_do_not_pile_up() {
        let (count, scrapes) = counting();
        let mut held = Vec::new();
        for _ in 0..10 {
            held.push(scrapes.scrape(Format::Text, Encoding::Identity).await.unwrap());
        }
        assert_eq!(count.load(Ordering::SeqCst), MAX_LIVE);
        assert_eq!(held.last().unwrap().as_ref(), MAX_LIVE.to_string().as_bytes());
        held.clear();
        assert_eq!(scrapes.scrape(Format::Text, Encoding::Identity).await.unwrap().as_ref(), b"5");
    }

    #[tokio::test]
    async fn a_client_that_leaves_does_not_let_the_next_render_beside_it() {
        let (count, scrapes) = counting();
        let left = tokio::time::timeout(Duration::from_millis(10), scrapes.scrape(Format::Text, Encoding::Gzip)).await;
        assert!(left.is_err());
        scrapes.scrape(Format::Text, Encoding::Gzip).await.unwrap();
        assert_eq!(count.load(Ordering::SeqCst), 2);
    }
}
