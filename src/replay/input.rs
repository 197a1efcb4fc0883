//! Lines of files and of stdin, plain or compressed, with the place of whatever is wrong.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The longest line kept whole. What follows is skipped: the line is too large for a call event anyway.
pub const MAX_LINE_BYTES: usize = 16 << 20;
const BUFFER_BYTES: usize = 256 << 10;
const UTF8_BOM: &[u8] = b"\xef\xbb\xbf";

/// Why a file cannot be read, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub struct InputError {
    /// The file as it was named; `stdin` for `-`.
    pub file: String,
    /// The line that could not be read whole, from 1; 0 when the file could not be opened.
    pub line: u64,
    kind: Kind,
    /// Bytes of the file read by then; for compressed ones the damage lies before this.
    offset: u64,
    error: io::Error,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Open,
    Plain,
    Gzip,
    Zstd,
}

impl fmt::Display for InputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, offset, error, .. } = self;
        let cut = error.kind() == io::ErrorKind::UnexpectedEof || error.to_string().contains("incomplete frame");
        let (format, tool) = match self.kind {
            Kind::Open => {
                return write!(f, "{file}: cannot be read ({error}): give a readable JSONL file, or `-` for stdin");
            }
            Kind::Plain => return write!(f, "{file}, line {line}: cannot be read at byte {offset} ({error})"),
            Kind::Gzip => ("gzip", "gzip -t"),
            Kind::Zstd => ("zstd", "zstd -t"),
        };
        let what = if cut { "data ends in the middle" } else { "data is damaged" };
        write!(
            f,
            "{file}, line {line}: the {format} {what}, at or before byte {offset} ({error}): check it with `{tool}` and fetch \
             the file again, or unpack what is there and replay that"
        )
    }
}

/// The lines of one file.
pub struct Lines {
    file: String,
    kind: Kind,
    reader: Box<dyn BufRead + Send>,
    read: Arc<AtomicU64>,
    line: u64,
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines")
            .field("file", &self.file)
            .field("kind", &self.kind)
            .field("line", &self.line)
            .finish_non_exhaustive()
    }
}

impl Lines {
    /// Opens a file; `-` is stdin. gzip (any number of members) and zstd (any number of frames) are recognised by their
    /// first bytes, and expected of files whose name says so.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn open(path: &Path) -> Result<Self, InputError> {
        let stdin = path == Path::new("-");
        let file = if stdin { "stdin".to_owned() } else { path.display().to_string() };
        let failed = |error| InputError { file: file.clone(), line: 0, kind: Kind::Open, offset: 0, error };
        let source: Box<dyn Read + Send> =
            if stdin { Box::new(io::stdin()) } else { Box::new(File::open(path).map_err(failed)?) };
        Self::new(file.clone(), path.extension().and_then(|e| e.to_str()), source).map_err(failed)
    }

    fn new(file: String, extension: Option<&str>, source: Box<dyn Read + Send>) -> io::Result<Self> {
        let read = Arc::new(AtomicU64::new(0));
        let mut source = Counting { inner: source, read: Arc::clone(&read) };
        let mut start = Vec::with_capacity(4);
        source.by_ref().take(4).read_to_end(&mut start)?;
        let kind = match (start.as_slice(), extension) {
            ([0x1f, 0x8b, ..], _) | (_, Some("gz")) => Kind::Gzip,
            ([0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..], _) | (_, Some("zst")) => Kind::Zstd,
            _ => Kind::Plain,
        };
        let empty = start.is_empty();
        let source = BufReader::with_capacity(BUFFER_BYTES, io::Cursor::new(start).chain(source));
        let reader: Box<dyn BufRead + Send> = match kind {
            Kind::Gzip | Kind::Zstd if empty => Box::new(Truncated),
            Kind::Gzip => {
                Box::new(BufReader::with_capacity(BUFFER_BYTES, flate2::bufread::MultiGzDecoder::new(source)))
            }
            Kind::Zstd => {
                Box::new(BufReader::with_capacity(BUFFER_BYTES, zstd::stream::read::Decoder::with_buffer(source)?))
            }
            Kind::Plain | Kind::Open => Box::new(source),
        };
        Ok(Self { file, kind, reader, read, line: 0 })
    }

    /// The file as it was named; `stdin` for `-`.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The number of the line last read, from 1.
    pub fn line(&self) -> u64 {
        self.line
    }

    /// Bytes of the file read so far, before unpacking.
    pub fn bytes_read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Reads the next line into `line`, without its line end (LF or CRLF); false at the end of the file. The end of the last
    /// line begins no further one.
    ///
    /// # Errors
    /// The file cannot be read on.
    pub fn next_into(&mut self, line: &mut Vec<u8>) -> Result<bool, InputError> {
        line.clear();
        let ended = self.fill(line).map_err(|error| InputError {
            file: self.file.clone(),
            line: self.line + 1,
            kind: self.kind,
            offset: self.bytes_read(),
            error,
        })?;
        if !ended && line.is_empty() {
            return Ok(false);
        }
        self.line += 1;
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        if self.line == 1 && line.starts_with(UTF8_BOM) {
            line.drain(..UTF8_BOM.len());
        }
        Ok(true)
    }

    /// True when a line feed was found.
    fn fill(&mut self, line: &mut Vec<u8>) -> io::Result<bool> {
        loop {
            let chunk = match self.reader.fill_buf() {
                Ok(chunk) => chunk,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if chunk.is_empty() {
                return Ok(false);
            }
            let end = memchr::memchr(b'\n', chunk);
            let part = &chunk[..end.unwrap_or(chunk.len())];
            line.extend_from_slice(&part[..part.len().min(MAX_LINE_BYTES.saturating_sub(line.len()))]);
            let used = part.len() + usize::from(end.is_some());
            self.reader.consume(used);
            if end.is_some() {
                return Ok(true);
            }
        }
    }
}

/// The bytes of all files together, for a progress bar; `None` when it cannot be known (stdin, pipes).
pub fn total_bytes(paths: &[PathBuf]) -> Option<u64> {
    paths
        .iter()
        .map(|path| std::fs::metadata(path).ok().filter(|m| path != Path::new("-") && m.is_file()).map(|m| m.len()))
        .sum()
}

/// Counts the bytes that pass.
struct Counting<R> {
    inner: R,
    read: Arc<AtomicU64>,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// A compressed file without a byte: not even an empty one is.
struct Truncated;

impl Read for Truncated {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file is empty"))
    }
}

impl BufRead for Truncated {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file is empty"))
    }

    fn consume(&mut self, _: usize) {}
}
