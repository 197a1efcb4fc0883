//! Lines of files and of stdin, plain or compressed, with the position of any error.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::domain::call::Rejection;
use crate::file_kind::{FileKind, START_BYTES, lines_look_like};
use crate::pipeline::shard::Outcome;

/// The longest line kept whole. What follows is skipped: the line is too large for a call event anyway.
pub const MAX_LINE_BYTES: usize = 16 << 20;
const BUFFER_BYTES: usize = 256 << 10;
/// Characters of a line that a complaint shows.
const SHOWN: usize = 60;
const UTF8_BOM: &[u8] = b"\xef\xbb\xbf";

/// Why a file cannot be read, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub struct InputError {
    /// The file as it was named; `stdin` for `-`.
    pub file: String,
    /// The line that could not be read whole, from 1; 0 when the file could not be opened.
    pub line: u64,
    kind: Kind,
    /// Bytes of the file read by then; for compressed ones the damage is before this.
    offset: u64,
    error: io::Error,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Open,
    Plain,
    Gzip,
    Zstd,
    /// It is not text, possibly only after decompression.
    Foreign {
        kind: FileKind,
        packed: bool,
    },
}

impl Kind {
    /// By the first bytes. The name is used only if they are neither text nor known: then the data is damaged.
    fn of(start: &[u8], extension: Option<&str>) -> Self {
        let text = start.first().is_some_and(|b| b.is_ascii_graphic() || b.is_ascii_whitespace());
        match (FileKind::of(start), extension) {
            (Some(FileKind::Gzip), _) => Self::Gzip,
            (Some(FileKind::Zstd), _) => Self::Zstd,
            (Some(kind), _) => Self::Foreign { kind, packed: false },
            (None, Some("gz")) if !text && !start.starts_with(UTF8_BOM) => Self::Gzip,
            (None, Some("zst")) if !text && !start.starts_with(UTF8_BOM) => Self::Zstd,
            (None, _) => Self::Plain,
        }
    }
}

impl fmt::Display for InputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, offset, error, .. } = self;
        let cut = error.kind() == io::ErrorKind::UnexpectedEof || error.to_string().contains("incomplete frame");
        let (format, tool) = match self.kind {
            Kind::Open if error.kind() == io::ErrorKind::NotFound => return write!(f, "file not found: {file}"),
            Kind::Open if error.kind() == io::ErrorKind::IsADirectory => {
                return write!(f, "{file}: cannot be read (it is a directory): name its files, e.g. {file}/*.jsonl");
            }
            Kind::Open => {
                return write!(f, "{file}: cannot be read ({error}): give a readable JSONL file, or `-` for stdin");
            }
            Kind::Foreign { kind, packed } => {
                let unpacked = if packed { " once unpacked" } else { "" };
                return write!(f, "{file} is {kind}{unpacked}, not JSONL: {}", kind.help(file));
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
    /// The first read failed, which the reader of lines must report.
    failed: Option<io::Error>,
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
    /// first bytes, whatever the name.
    ///
    /// # Errors
    /// The file cannot be read, or holds no lines of text.
    pub fn open(path: &Path) -> Result<Self, InputError> {
        let stdin = path == Path::new("-");
        let file = if stdin { "stdin".to_owned() } else { path.display().to_string() };
        let failed = |kind, error| InputError { file: file.clone(), line: 0, kind, offset: 0, error };
        let source: Box<dyn Read + Send> = match stdin {
            true => Box::new(io::stdin()),
            false => Box::new(File::open(path).map_err(|error| failed(Kind::Open, error))?),
        };
        let lines = Self::new(file.clone(), path.extension().and_then(|e| e.to_str()), source);
        let lines = lines.map_err(|error| failed(Kind::Open, error))?;
        match lines.kind {
            Kind::Foreign { .. } => Err(failed(lines.kind, io::ErrorKind::InvalidData.into())),
            _ => Ok(lines),
        }
    }

    fn new(file: String, extension: Option<&str>, source: Box<dyn Read + Send>) -> io::Result<Self> {
        let read = Arc::new(AtomicU64::new(0));
        let mut source = Counting { inner: source, read: Arc::clone(&read) };
        let mut start = Vec::with_capacity(START_BYTES);
        source.by_ref().take(START_BYTES as u64).read_to_end(&mut start)?;
        let kind = Kind::of(&start, extension);
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
            Kind::Plain | Kind::Open | Kind::Foreign { .. } => Box::new(source),
        };
        let mut lines = Self { file, kind, reader, read, line: 0, failed: None };
        if matches!(kind, Kind::Gzip | Kind::Zstd) {
            lines.look_inside();
        }
        Ok(lines)
    }

    /// The decompressed content may not be text either.
    fn look_inside(&mut self) {
        match self.reader.fill_buf() {
            Ok(start) => {
                if let Some(kind) = FileKind::of(&start[..start.len().min(START_BYTES)]) {
                    self.kind = Kind::Foreign { kind, packed: true };
                }
            }
            Err(error) => self.failed = Some(error),
        }
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
    /// The file cannot be read any further.
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
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
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

/// The outcomes of a file's lines: detects a file that is not a JSONL of calls at all, which must not pass for one
/// without calls.
#[derive(Debug)]
pub struct Tried {
    file: String,
    lines: u64,
    /// Some line was a call event, counted or not.
    fits: bool,
    /// The first line that was not a call event: its number, why, and its beginning; an empty line only if there is no
    /// other.
    first: Option<(u64, Rejection, Vec<u8>)>,
}

impl Tried {
    /// Nothing read yet of this file.
    pub fn new(file: &str) -> Self {
        Self { file: file.to_owned(), lines: 0, fits: false, first: None }
    }

    /// Records a line.
    pub fn line(&mut self, number: u64, line: &[u8], outcome: Outcome) {
        self.lines += 1;
        let Outcome::Rejected(reason @ Rejection::Malformed(_)) = outcome else {
            self.fits = true;
            return;
        };
        let better = self.first.as_ref().is_none_or(|(_, _, earlier)| earlier.is_empty() && !line.is_empty());
        if !self.fits && better {
            self.first = Some((number, reason, line[..line.len().min(START_BYTES)].to_vec()));
        }
    }

    /// Was any line a call event?
    pub fn fits(&self) -> bool {
        self.fits
    }

    /// What is wrong with a file without any call event: its first line, what the file looks like, what to do.
    pub fn complaint(&self) -> Option<String> {
        let Self { file, lines, first, .. } = self;
        if self.fits {
            return None;
        }
        let Some((number, reason, line)) = first else {
            return Some(format!("{file} is empty: no call events in it"));
        };
        let advice = match lines_look_like(line, file) {
            Some((what, help)) => {
                let verb = if what.starts_with("not ") { "is" } else { "looks like" };
                format!("the file {verb} {what}: {help}")
            }
            None if line.is_empty() => "the lines are empty: give JSON, one object a line".into(),
            None => "check that the fields are where `source.fields` of the configuration says (--config)".into(),
        };
        let shown = String::from_utf8_lossy(line);
        let shown: String = shown.chars().take(SHOWN).flat_map(char::escape_debug).collect();
        let count = if *lines == 1 {
            "its one line is not a call event".into()
        } else {
            format!("none of its {lines} lines is a call event")
        };
        Some(format!("{file}: {count}; line {number} ({reason}) is `{shown}`; {advice}"))
    }
}

/// The bytes of all files together, for a progress bar; `None` when it cannot be known (stdin, pipes).
pub fn total_bytes(paths: &[PathBuf]) -> Option<u64> {
    paths
        .iter()
        .map(|path| std::fs::metadata(path).ok().filter(|m| path != Path::new("-") && m.is_file()).map(|m| m.len()))
        .sum()
}

/// Counts the bytes that are read.
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

/// A compressed file of zero bytes, which is invalid: even a compressed empty file has some.
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
