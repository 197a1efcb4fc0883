//! What a file is if it is not the expected text: compressed, in another encoding, a workbook. Detected from its first
//! bytes, whatever its name. Pure: nothing is opened here.

use std::fmt;

/// The maximum number of bytes of a file's beginning that [`FileKind::of`] inspects.
pub const START_BYTES: usize = 512;

/// A kind of file that is not a text in UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
    /// xz.
    Xz,
    /// bzip2.
    Bzip2,
    /// LZ4's frames.
    Lz4,
    /// Snappy's frames.
    Snappy,
    /// 7-Zip.
    SevenZip,
    /// ZIP; so are the workbooks of Excel and LibreOffice.
    Zip,
    /// tar.
    Tar,
    /// Apache Parquet.
    Parquet,
    /// An Avro container.
    Avro,
    /// Apache ORC.
    Orc,
    /// SQLite.
    Sqlite,
    /// PDF.
    Pdf,
    /// A workbook of Excel before 2007.
    OldExcel,
    /// Text in UTF-16, with or without a byte order mark.
    Utf16,
    /// Text in UTF-32.
    Utf32,
}

/// What files begin with.
const MAGIC: [(&[u8], FileKind); 19] = [
    (b"\x1f\x8b", FileKind::Gzip),
    (b"\x28\xb5\x2f\xfd", FileKind::Zstd),
    (b"\xfd7zXZ\0", FileKind::Xz),
    (b"\x04\x22\x4d\x18", FileKind::Lz4),
    (b"\xff\x06\0\0sNaPpY", FileKind::Snappy),
    (b"7z\xbc\xaf\x27\x1c", FileKind::SevenZip),
    (b"PK\x03\x04", FileKind::Zip),
    (b"PK\x05\x06", FileKind::Zip),
    (b"PAR1", FileKind::Parquet),
    (b"Obj\x01", FileKind::Avro),
    (b"ORC\x0a", FileKind::Orc),
    (b"ORC\x08", FileKind::Orc),
    (b"SQLite format 3\0", FileKind::Sqlite),
    (b"%PDF-", FileKind::Pdf),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", FileKind::OldExcel),
    // Before UTF-16, whose mark it begins with.
    (b"\xff\xfe\0\0", FileKind::Utf32),
    (b"\0\0\xfe\xff", FileKind::Utf32),
    (b"\xff\xfe", FileKind::Utf16),
    (b"\xfe\xff", FileKind::Utf16),
];

impl FileKind {
    /// The kind of a file that begins with these bytes; `None` for text and unknown kinds.
    pub fn of(start: &[u8]) -> Option<Self> {
        let magic = || MAGIC.iter().find(|(magic, _)| start.starts_with(magic)).map(|(_, kind)| *kind);
        match start {
            // A skippable frame of zstd.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Self::Zstd),
            [b'B', b'Z', b'h', b'1'..=b'9', b'1', b'A', b'Y', b'&', b'S', b'Y', ..] => Some(Self::Bzip2),
            _ if start.get(257..262) == Some(b"ustar") => Some(Self::Tar),
            _ => magic().or_else(|| wide_text(start)),
        }
    }

    /// How to convert such a file, named `file`, to lines or text in UTF-8.
    pub fn help(self, file: &str) -> String {
        match self {
            Self::Gzip => format!("unpack it: `gzip -dc {file}`"),
            Self::Zstd => format!("unpack it: `zstd -dc {file}`"),
            Self::Xz => format!("unpack it: `xz -dc {file}`"),
            Self::Bzip2 => format!("unpack it: `bzip2 -dc {file}`"),
            Self::Lz4 => format!("unpack it: `lz4 -dc {file}`"),
            Self::Snappy => format!("unpack it: `snzip -dc {file}`"),
            Self::SevenZip => format!("unpack it: `7z x -so {file}`"),
            Self::Zip => format!("unpack it: `unzip -p {file}`; if it is a workbook, save the sheet as CSV in UTF-8"),
            Self::Tar => format!("unpack it: `tar -xOf {file}`"),
            Self::Parquet | Self::Avro | Self::Orc => "export it as JSON, one object a line".into(),
            Self::Sqlite => "export what is wanted as text, e.g. with `sqlite3 -json` or `-csv`".into(),
            Self::Pdf => "take the data it was made from".into(),
            Self::OldExcel => "save the sheet as CSV in UTF-8".into(),
            Self::Utf16 => format!(
                "save it as UTF-8: `iconv -f UTF-16 -t UTF-8 {file}`, in PowerShell `| Out-File -Encoding utf8` instead of `>`"
            ),
            Self::Utf32 => format!("save it as UTF-8: `iconv -f UTF-32 -t UTF-8 {file}`"),
        }
    }
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip => "gzip data",
            Self::Zstd => "zstd data",
            Self::Xz => "xz data",
            Self::Bzip2 => "bzip2 data",
            Self::Lz4 => "lz4 data",
            Self::Snappy => "snappy data",
            Self::SevenZip => "a 7-Zip archive",
            Self::Zip => "a ZIP archive or a workbook",
            Self::Tar => "a tar archive",
            Self::Parquet => "a Parquet file",
            Self::Avro => "an Avro file",
            Self::Orc => "an ORC file",
            Self::Sqlite => "an SQLite database",
            Self::Pdf => "a PDF",
            Self::OldExcel => "an old Excel workbook",
            Self::Utf16 => "text in UTF-16",
            Self::Utf32 => "text in UTF-32",
        })
    }
}

/// ASCII in UTF-16 without a mark: every second byte is zero.
fn wide_text(start: &[u8]) -> Option<FileKind> {
    let pairs = start.get(..start.len().min(16) & !1)?;
    let wide = |zero: usize| pairs.chunks_exact(2).all(|pair| pair[zero] == 0 && pair[1 - zero] != 0);
    (pairs.len() >= 4 && (wide(0) || wide(1))).then_some(FileKind::Utf16)
}

/// The text of a file called `name`.
///
/// # Errors
/// It is not UTF-8: what it is instead and what to do.
pub fn text(name: &str, bytes: Vec<u8>) -> Result<String, (String, String)> {
    if let Some(kind) = FileKind::of(&bytes) {
        return Err((format!("the file is {kind}"), kind.help(name)));
    }
    String::from_utf8(bytes).map_err(|error| {
        let from = error.utf8_error().valid_up_to();
        (format!("the file is not UTF-8 (from byte {from} on)"), "save it as UTF-8".into())
    })
}

/// What a file of lines looks like by its first line, if no line of it is a JSON object with the required fields; and
/// what to do. `None`: it looks like such objects, or like nothing known.
pub fn lines_look_like(line: &[u8], file: &str) -> Option<(String, String)> {
    if let Some(kind) = FileKind::of(line) {
        return Some((kind.to_string(), kind.help(file)));
    }
    let said = |what: &str, help: String| Some((what.to_owned(), help));
    let Ok(text) = std::str::from_utf8(line) else {
        return said("not UTF-8 text", "give JSONL in UTF-8, plain, gzip or zstd".into());
    };
    let text = text.trim();
    let whole = serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok();
    match text.as_bytes().first()? {
        b'[' => said("a JSON array", format!("write one object a line: `jq -c '.[]' {file}`")),
        b'{' if whole => None,
        b'{' if text.len() < 3 || text.ends_with([',', '{', '[', ':']) => {
            said("JSON over several lines", format!("write one object a line: `jq -c . {file}`"))
        }
        b'{' => None,
        b'<' => said("HTML or XML", "give JSON, one object a line".into()),
        _ if text.starts_with("---") || text.ends_with(':') => said("YAML", "give JSON, one object a line".into()),
        _ if whole => said("JSON values that are not objects", "give JSON, one object a line".into()),
        _ if text.contains([',', ';', '\t']) => {
            said("CSV", "give JSON, one object a line, e.g. by `mlr --icsv --ojsonl cat`".into())
        }
        _ => said("not JSON", "give JSON, one object a line".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_by_their_first_bytes() {
        for (start, kind) in [
            (&b"\x1f\x8b\x08"[..], Some(FileKind::Gzip)),
            (b"\x52\x2a\x4d\x18\x04", Some(FileKind::Zstd)),
            (b"\xfd7zXZ\0\0", Some(FileKind::Xz)),
            (b"BZh91AY&SY", Some(FileKind::Bzip2)),
            (b"BZh, a tenant", None),
            (b"\xff\xfe{\0", Some(FileKind::Utf16)),
            (b"\xff\xfe\0\0{\0\0\0", Some(FileKind::Utf32)),
            (b"{\0\"\0t\0", Some(FileKind::Utf16)),
            (b"\0{\0\"", Some(FileKind::Utf16)),
            (b"{\0", None),
            (b"{\"tenant\":\"acme\"}", None),
            (b"\xef\xbb\xbf{}", None),
            (b"", None),
        ] {
            assert_eq!(FileKind::of(start), kind, "{start:?}");
        }
        let mut tar = vec![b'a'; 512];
        tar[257..262].copy_from_slice(b"ustar");
        assert_eq!(FileKind::of(&tar), Some(FileKind::Tar));
    }

    #[test]
    fn lines_of_other_formats() {
        for (line, expected) in [
            ("[", Some("a JSON array")),
            ("[{\"tenant\":\"acme\"},", Some("a JSON array")),
            ("{", Some("JSON over several lines")),
            ("{\"tenant\": \"acme\",", Some("JSON over several lines")),
            ("{\"tenant\":\"acme\"}", None),
            ("{\"tenant\":\"ac", None),
            ("tenant,request_id", Some("CSV")),
            ("a;b", Some("CSV")),
            ("<html>", Some("HTML or XML")),
            ("calls:", Some("YAML")),
            ("\"text\"", Some("JSON values that are not objects")),
            ("hello", Some("not JSON")),
            ("", None),
        ] {
            assert_eq!(lines_look_like(line.as_bytes(), "f").map(|(what, _)| what).as_deref(), expected, "{line}");
        }
    }
}
