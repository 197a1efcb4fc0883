//! Where events go, and the JSONL file.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use super::Event;
use super::encode::Timestamps;

/// A destination of events.
pub trait Sink {
    /// Takes one event; may wait for room.
    ///
    /// # Errors
    /// If it cannot be accepted.
    fn send(&mut self, event: &Event) -> Result<(), SinkError>;

    /// Called periodically while there is nothing to send.
    fn idle(&mut self) {}

    /// Returns when everything has arrived.
    ///
    /// # Errors
    /// If anything has not.
    fn finish(&mut self) -> Result<(), SinkError>;
}

/// Why events did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The file cannot be written.
    #[error("cannot write {0}")]
    File(String, #[source] io::Error),
    /// Kafka cannot be reached, or refuses an event.
    #[error("{0}")]
    Kafka(String),
    /// Events were not acknowledged.
    #[error("{failed} events were not delivered, the first because: {first}")]
    Undelivered {
        /// How many.
        failed: u64,
        /// Kafka's answer to the first.
        first: String,
    },
}

/// One event a line, as `sla-ledger replay` reads them.
///
/// A JSON object gets a field `arrival` at its end, the record's timestamp, on the outermost level also of a structured
/// CloudEvent. Anything else is written as it is. One line is one record: an empty payload and a tombstone are empty
/// lines, and no payload holds a line feed. Keys and headers are lost; no event needs them to be read.
pub struct JsonLines<W: Write> {
    out: W,
    name: String,
    times: Timestamps,
    line: Vec<u8>,
}

/// A file, compressed as its name says, or stdout.
pub enum Output {
    /// As it is.
    Plain(BufWriter<Box<dyn Write + Send>>),
    /// `.gz`
    Gzip(flate2::write::GzEncoder<BufWriter<Box<dyn Write + Send>>>),
    /// `.zst`
    Zstd(zstd::Encoder<'static, BufWriter<Box<dyn Write + Send>>>),
}

const ZSTD_LEVEL: i32 = 1;
const BUFFER_BYTES: usize = 1 << 18;

impl Output {
    /// Opens a file, compressing for `.gz` and `.zst`; `-` is stdout.
    ///
    /// # Errors
    /// If the file cannot be created.
    pub fn open(path: &Path) -> io::Result<Self> {
        let inner: Box<dyn Write + Send> =
            if path == Path::new("-") { Box::new(io::stdout()) } else { Box::new(File::create(path)?) };
        let buffer = BufWriter::with_capacity(BUFFER_BYTES, inner);
        Ok(match path.extension().and_then(OsStr::to_str) {
            Some("gz") => Self::Gzip(flate2::write::GzEncoder::new(buffer, flate2::Compression::fast())),
            Some("zst") => Self::Zstd(zstd::Encoder::new(buffer, ZSTD_LEVEL)?),
            _ => Self::Plain(buffer),
        })
    }

    /// Writes what the compressor has buffered at the end.
    fn close(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(out) => out.flush(),
            Self::Gzip(out) => {
                out.try_finish()?;
                out.get_mut().flush()
            }
            Self::Zstd(out) => {
                out.do_finish()?;
                out.get_mut().flush()
            }
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(out) => out.write(bytes),
            Self::Gzip(out) => out.write(bytes),
            Self::Zstd(out) => out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.close()
    }
}

impl<W: Write> JsonLines<W> {
    /// Writes lines to `out`; `name` is for messages.
    pub fn new(out: W, name: impl Into<String>) -> Self {
        Self { out, name: name.into(), times: Timestamps::new(), line: Vec::new() }
    }
}

impl<W: Write> Sink for JsonLines<W> {
    fn send(&mut self, event: &Event) -> Result<(), SinkError> {
        self.line.clear();
        let payload = event.payload.as_deref().unwrap_or_default();
        debug_assert!(!payload.contains(&b'\n'));
        match payload.strip_suffix(b"}") {
            Some(open) if event.object => {
                self.line.extend_from_slice(open);
                self.line.extend_from_slice(b",\"arrival\":\"");
                self.times.local(event.arrival_ms, &mut self.line);
                self.line.extend_from_slice(b"\"}");
            }
            _ => self.line.extend_from_slice(payload),
        }
        self.line.push(b'\n');
        self.out.write_all(&self.line).map_err(|error| SinkError::File(self.name.clone(), error))
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        self.out.flush().map_err(|error| SinkError::File(self.name.clone(), error))
    }
}
