//! `issuer.yaml`: who issues statements, with the logo beside it.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::values::{Kind, LINE, accuse, line, of};
use super::{DocumentFile, DocumentKind, hex};
use crate::domain::party::{BadFormat, Bilingual, Issuer, NumberFormat, Party};
use crate::file_kind::FileKind;
use crate::yaml::FileErrors;
use crate::yaml::form::Parser;
use crate::yaml::read::{Parsed, Reader, Section, items, shown, shown_text, text, written, wrong};
use crate::yaml::tree::{Node, Value};

/// The largest logo, in bytes: it is part of every statement.
const MAX_LOGO: u64 = 256 * 1024;

/// Who issues statements, and how they are numbered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letterhead {
    /// Who.
    pub issuer: Issuer,
    /// How they are numbered; `None`: not at all.
    pub number: Option<NumberFormat>,
}

/// What was read; without a name there was a mistake.
pub(super) struct Read {
    party: Option<Party>,
    contact: Option<Bilingual<Vec<String>>>,
    logo: Option<Logo>,
    number: Option<NumberFormat>,
}

/// A logo that was read.
struct Logo {
    path: PathBuf,
    bytes: Vec<u8>,
    media: &'static str,
}

/// Reads `issuer.yaml`; the logo's path is relative to `directory`. The logo becomes one of `files`.
pub(super) fn letterhead(
    name: &str,
    text: &str,
    directory: &Path,
    files: &mut Vec<DocumentFile>,
) -> Result<Option<Letterhead>, FileErrors> {
    let read = |section: &mut Section| issuer(section, directory);
    let Read { party, contact, logo, number } = Reader::read(name, text, "the issuer", false, None, read)?;
    // Without a mistake there is a name.
    let Some(party) = party else { return Ok(None) };
    if let Some(Logo { path, bytes, .. }) = &logo {
        files.push(DocumentFile::new(DocumentKind::Logo, directory, path, hex(&Sha256::digest(bytes)), bytes.len()));
    }
    let logo = logo.map(|logo| format!("data:{};base64,{}", logo.media, STANDARD.encode(&logo.bytes)));
    Ok(Some(Letterhead { issuer: Issuer { party, contact, logo }, number }))
}

/// The keys of `issuer.yaml`.
pub(super) fn issuer(section: &mut Section, directory: &Path) -> Read {
    const NAME: &str = "text, or {en: …, zh: …} with one for each language";
    const LINES: &str = "text, a list of lines, or {en: …, zh: …} with one for each language";
    let line = |node: &Node| of(LINE).parse(node);
    let name = section.key("name", "The legal name.").needed("Example Cloud Ltd.", bilingual(NAME, line));
    let address = section.key("address", "The address.").optional(bilingual(LINES, lines));
    let contact =
        section.key("contact", "Whom to ask: mail addresses, telephone numbers.").optional(bilingual(LINES, lines));
    let picture = written("path of a PNG or SVG file of at most 256 KiB", |node: &Node| logo(node, directory));
    let logo = section
        .key("logo", "The logo, relative to the contract's directory. It becomes part of each statement.")
        .optional(picture);
    let words = "text with {tenant} and {month}, or with {year} and {sequence}";
    let number = section
        .key("number", "How statements are numbered. A sequence is counted in the archive. Absent: without numbers.")
        .optional(of(Kind { words, judge: number }));
    Read { party: name.map(|name| Party { name, address }), contact, logo, number }
}

/// One value for both languages, or a mapping from `en` and `zh`.
fn bilingual<T: Clone>(
    words: &'static str,
    item: impl Fn(&Node) -> Parsed<T>,
) -> Parser<impl Fn(&Node) -> Parsed<Bilingual<T>>> {
    written(words, move |node: &Node| {
        let Value::Map(entries) = &node.value else {
            let value = item(node)?;
            return Ok(Bilingual { en: value.clone(), zh: value });
        };
        let (mut en, mut zh) = (None, None);
        for (key, value) in entries {
            let language = match &key.value {
                Value::Text(name) if name == "en" => &mut en,
                Value::Text(name) if name == "zh" => &mut zh,
                _ => return wrong(key, format!("names an unknown language: {}", shown(key)), "write `en` or `zh`"),
            };
            if language.is_some() {
                return wrong(key, "names a language twice", "keep one of them");
            }
            *language = Some(item(value)?);
        }
        match Bilingual::of(en, zh) {
            Some(both) => Ok(both),
            None => wrong(node, "names no language", "write `{en: …, zh: …}`, or one value for both"),
        }
    })
}

/// A line, or a list of lines.
fn lines(node: &Node) -> Parsed<Vec<String>> {
    match node.value {
        Value::List(_) => items(|node: &Node| of(LINE).parse(node))(node),
        _ => Ok(vec![of(LINE).parse(node)?]),
    }
}

fn number(text: &str) -> super::values::Judged<NumberFormat> {
    let text = line(text)?;
    NumberFormat::new(&text).or_else(|error| {
        let help = match error {
            BadFormat::Placeholder(_) => "the placeholders are {tenant}, {month}, {year} and {sequence}",
            BadFormat::Ambiguous => {
                "write {tenant} and {month}, e.g. \"SLA-{tenant}-{month}\", or {year} and {sequence}, e.g. \
                 \"SLA-{year}-{sequence}\""
            }
        };
        accuse(format!("{error}: {}", shown_text(&text)), help)
    })
}

fn logo(node: &Node, directory: &Path) -> Parsed<Logo> {
    let path = directory.join(text(node)?);
    let readable = "check that it is a file that sla-ledger's user may read; its path is relative to issuer.yaml";
    let size = match path.metadata() {
        Ok(metadata) if metadata.is_file() => metadata.len(),
        Ok(_) => return wrong(node, format!("is not a regular file: {}", shown(node)), readable),
        Err(error) => return wrong(node, format!("cannot be read: {} ({error})", shown(node)), readable),
    };
    if size > MAX_LOGO {
        let message = format!("is too large: {} has {} KiB", shown(node), size.div_ceil(1024));
        return wrong(node, message, format!("{} KiB are the most: scale it down, or save it as SVG", MAX_LOGO / 1024));
    }
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) => return wrong(node, format!("cannot be read: {} ({error})", shown(node)), readable),
    };
    match media(&bytes) {
        Ok(media) => Ok(Logo { path, bytes, media }),
        Err(what) => wrong(node, format!("{what}: {}", shown(node)), "save it again as PNG or as plain SVG"),
    }
}

/// The media type of a picture; or what is wrong with it.
fn media(bytes: &[u8]) -> Result<&'static str, String> {
    if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        let whole = bytes.ends_with(b"IEND\xaeB\x60\x82");
        return if whole { Ok("image/png") } else { Err("is a PNG that is cut off".into()) };
    }
    if let Some(kind) = FileKind::of(bytes) {
        return Err(format!("is {kind}, not PNG or SVG"));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| "is not PNG or SVG".to_owned())?;
    match (text.contains("<svg"), text.trim_end().ends_with('>')) {
        (true, true) => Ok("image/svg+xml"),
        (true, false) => Err("is an SVG that is cut off".into()),
        (false, _) => Err("is not PNG or SVG".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n....IEND\xaeB\x60\x82";
    const SVG: &str = "<?xml version=\"1.0\"?>\n<svg xmlns=\"http://www.w3.org/2000/svg\"></svg>\n";

    fn read(text: &str) -> Result<(Letterhead, Vec<DocumentFile>), String> {
        let dir = tempfile::tempdir().expect("a directory");
        let put = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).expect("written");
        put("logo.png", PNG);
        put("logo.svg", SVG.as_bytes());
        put("cut.png", &PNG[..12]);
        put("cut.svg", &SVG.as_bytes()[..40]);
        put("logo.gif", b"GIF89a\xff");
        put("logo.svgz", b"\x1f\x8b\x08");
        put("big.png", &vec![0; MAX_LOGO as usize + 1]);
        let mut files = Vec::new();
        match letterhead("issuer.yaml", text, dir.path(), &mut files) {
            Ok(Some(letterhead)) => Ok((letterhead, files)),
            Ok(None) => Err("nothing".into()),
            Err(errors) => Err(errors.to_string()),
        }
    }

    #[test]
    fn an_issuer_has_names_in_both_languages_a_logo_and_a_number() {
        let (plain, files) = read("name: Example Ltd.\naddress: 1 Example Road\n").expect("read");
        let both = |text: &str| Bilingual { en: text.to_owned(), zh: text.to_owned() };
        assert_eq!((&plain.issuer.party.name, &plain.number, files), (&both("Example Ltd."), &None, vec![]));
        assert_eq!(plain.issuer.party.address.expect("an address").zh, ["1 Example Road"]);
        let text = "name: {en: Example Ltd., zh: 示例公司}\naddress: {zh: [深圳, 一号]}\ncontact: [a, b]\nlogo: logo.svg\n\
                    number: \"SLA-{year}-{sequence}\"\n";
        let (full, files) = read(text).expect("read");
        assert_eq!(full.issuer.party.name, Bilingual { en: "Example Ltd.".into(), zh: "示例公司".into() });
        assert_eq!(full.issuer.party.address.expect("an address").en, ["深圳", "一号"]);
        let logo = full.issuer.logo.expect("a logo");
        assert_eq!(logo, format!("data:image/svg+xml;base64,{}", STANDARD.encode(SVG)));
        assert_eq!(
            (files.len(), files[0].kind, &*files[0].name, files[0].rows),
            (1, DocumentKind::Logo, "logo.svg", SVG.len())
        );
        assert!(full.number.is_some_and(|number| number.needs_sequence()));
        let (png, _) = read("name: a\nlogo: logo.png\n").expect("read");
        assert!(png.issuer.logo.is_some_and(|logo| logo.starts_with("data:image/png;base64,")));
    }

    #[test]
    fn mistakes_say_what_where_and_what_to_do() {
        for (text, words) in [
            ("", &["`name` is missing", "Example Cloud Ltd."][..]),
            ("name: {fr: x}", &["unknown language: `fr`", "`en` or `zh`"]),
            ("name: {}", &["names no language"]),
            ("name: 3", &["must be text"]),
            ("name: a\nlogo: none.png", &["`logo` cannot be read", "none.png", "relative to issuer.yaml"]),
            ("name: a\nlogo: .", &["not a regular file"]),
            ("name: a\nlogo: big.png", &["`logo` is too large", "257 KiB", "256 KiB are the most"]),
            ("name: a\nlogo: logo.gif", &["is not PNG or SVG", "save it again"]),
            ("name: a\nlogo: cut.png", &["PNG that is cut off"]),
            ("name: a\nlogo: cut.svg", &["SVG that is cut off"]),
            ("name: a\nlogo: logo.svgz", &["gzip", "not PNG or SVG"]),
            ("name: a\nnumber: \"SLA-{nr}\"", &["unknown placeholder: `{nr}`", "{sequence}"]),
            ("name: a\nnumber: SLA", &["same number", "{tenant} and {month}"]),
            ("name: a\nphone: 1", &["unknown key `phone`"]),
        ] {
            let error = read(text).expect_err(text);
            words.iter().for_each(|word| assert!(error.contains(word), "{text}: no `{word}` in {error}"));
        }
    }
}
