//! Walks the tree key by key, collecting every mistake on the way. A key that is asked for is a key that is known, so
//! the code that reads a section is also its schema: what nobody asked for is unknown.

use std::collections::HashMap;
use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::errors::FileErrors;
use super::form::{self, Form, Key, Need, Parser};
use super::tree::{self, Node, Value};
use super::variables::{self, Environment};
use crate::domain::calendar;

/// A name at least this similar (Jaro-Winkler, 0 to 1) is suggested for an unknown key.
const SIMILAR: f64 = 0.8;

/// A value longer than this many characters is cut in messages.
const SHOWN: usize = 40;

/// The kind of file that the configuration is.
pub(crate) const CONFIG: &str = "sla-ledger";

/// What one value is accused of: `message` continues a sentence that begins with the key.
#[derive(Debug)]
pub(crate) struct Wrong {
    message: String,
    help: String,
    at: Range<usize>,
}

/// A parsed value, or everything that is wrong with it.
pub(crate) type Parsed<T> = Result<T, Vec<Wrong>>;

/// One accusation against `node`.
pub(crate) fn wrong<T>(node: &Node, message: impl Display, help: impl Display) -> Parsed<T> {
    Err(vec![Wrong { message: message.to_string(), help: help.to_string(), at: node.at.clone() }])
}

/// Collects the mistakes of one file.
pub(crate) struct Reader {
    mistakes: Vec<(String, String, Range<usize>)>,
    /// Section, key, place.
    unknown: Vec<(String, String, Range<usize>)>,
    /// Bytes never to be shown.
    secrets: Vec<Range<usize>>,
    /// All keys asked for.
    known: Vec<Key>,
    /// Only the keys are asked for: each list of sections has one, without entries.
    listing: bool,
    /// Where the keys that are present have their values.
    places: HashMap<String, Range<usize>>,
    /// What the file is: "no key of `kind`".
    kind: &'static str,
    /// Whether the files and variables that the configuration names must be there.
    pub check_files: bool,
}

impl Reader {
    /// Reads `text`, one section of keys, with `read`; fails when anything at all was wrong. `kind` is what the keys belong to in messages; `environment` has the variables, where the file may have some.
    pub fn read<T>(
        name: &str,
        text: &str,
        kind: &'static str,
        check_files: bool,
        environment: Option<Environment<'_>>,
        read: impl FnOnce(&mut Section) -> T,
    ) -> Result<T, FileErrors> {
        let (mut root, mut reader) = Self::open(name, text, kind, check_files)?;
        let place = root.at.clone();
        let unexpanded = variables::expand(&mut root, text, &reader.secrets, environment);
        let value = Section::enter(&mut reader, String::new(), Some((place, root)), read);
        reader.judge_unknown_keys();
        // What else is wrong with such a value is wrong because of it.
        reader.mistakes.retain(|(_, _, at)| !unexpanded.iter().any(|(_, _, other)| other == at));
        reader.mistakes.extend(unexpanded);
        reader.close(name, text, value)
    }

    /// All keys that `read` asks for, in this order.
    pub fn keys<T>(read: impl FnOnce(&mut Section) -> T) -> Vec<Key> {
        let mut reader = Self::new("", false, Vec::new());
        reader.listing = true;
        Section::enter(&mut reader, String::new(), None, read);
        reader.known
    }

    /// Reads `text`, a list of sections, each with `read`, and then judges all of them together: `judge` gets what was
    /// read, with the places of the entries. An empty file is an empty list.
    pub fn read_list<T>(
        name: &str,
        text: &str,
        kind: &'static str,
        mut read: impl FnMut(&mut Section) -> T,
        judge: impl FnOnce(&mut Self, &[(T, Range<usize>)]),
    ) -> Result<Vec<T>, FileErrors> {
        let (root, mut reader) = Self::open(name, text, kind, false)?;
        let mut values = Vec::new();
        match root.value {
            Value::List(items) => {
                for item in items {
                    let at = item.at.clone();
                    reader.places.clear();
                    let value = Section::enter(&mut reader, String::new(), Some((at.clone(), item)), &mut read);
                    values.push((value, at));
                }
            }
            Value::Null => {}
            _ => {
                let help = "write a `- ` before each entry, e.g. `- {id: …}`";
                reader.complain(root.at.clone(), format!("the file must be a list, not {}", shown(&root)), help);
            }
        }
        reader.judge_unknown_keys();
        judge(&mut reader, &values);
        reader.close(name, text, values.into_iter().map(|(value, _)| value).collect())
    }

    /// Parses `text`.
    fn open(name: &str, text: &str, kind: &'static str, check_files: bool) -> Result<(Node, Self), FileErrors> {
        let mut secrets = Vec::new();
        let root = tree::parse(text).map_err(|tree::Unreadable { message, help, at }| {
            tree::secrets_in_broken(text, &mut |hidden| secrets.push(hidden));
            let hidden = secrets.iter().any(|secret| secret.contains(&at.start));
            let message = if hidden { "not valid YAML in or near a secret".into() } else { message };
            FileErrors::new(name, text, vec![(message, help.into(), at)], &secrets)
        })?;
        root.secrets(&mut |hidden| secrets.push(hidden));
        Ok((root, Self::new(kind, check_files, secrets)))
    }

    fn new(kind: &'static str, check_files: bool, secrets: Vec<Range<usize>>) -> Self {
        Self {
            mistakes: Vec::new(),
            unknown: Vec::new(),
            secrets,
            known: Vec::new(),
            listing: false,
            places: HashMap::new(),
            kind,
            check_files,
        }
    }

    /// `value`, if nothing was wrong.
    fn close<T>(self, name: &str, text: &str, value: T) -> Result<T, FileErrors> {
        if self.mistakes.is_empty() {
            Ok(value)
        } else {
            Err(FileErrors::new(name, text, self.mistakes, &self.secrets))
        }
    }

    /// A mistake at a place.
    pub fn complain(&mut self, at: Range<usize>, message: impl Display, help: impl Display) {
        self.mistakes.push((message.to_string(), help.to_string(), at));
    }

    /// Where `key` (its full name) has its value, if it is given.
    pub fn place(&self, key: &str) -> Option<Range<usize>> {
        self.places.get(key).cloned()
    }

    /// A mistake that is seen only by looking at several keys; `key` is where it is shown, if present.
    pub fn mistake(&mut self, key: &str, message: impl Display, help: impl Display) {
        let at = self.places.get(key).cloned().unwrap_or(0..0);
        self.mistakes.push((message.to_string(), help.to_string(), at));
    }

    /// Whether `key` (its full name) is given.
    pub fn has(&self, key: &str) -> bool {
        self.places.contains_key(key)
    }

    fn judge_unknown_keys(&mut self) {
        for (section, key, at) in std::mem::take(&mut self.unknown) {
            let siblings = || {
                self.known.iter().filter_map(|known| {
                    let (parent, leaf) = known.path.rsplit_once('.').unwrap_or(("", &known.path));
                    (parent == section).then_some(leaf)
                })
            };
            let mut paths = self.known.iter().map(|known| &known.path);
            let mut elsewhere = || paths.find(|known| known.rsplit('.').next() == Some(&key) && known.contains('.'));
            let help = match (elsewhere(), similar(&key, siblings())) {
                (Some(full), _) => format!("did you mean `{full}`? it is indented or placed wrongly here"),
                (None, Some(near)) => format!("did you mean `{near}`?"),
                (None, None) => format!("remove it; known here: {}", siblings().collect::<Vec<_>>().join(", ")),
            };
            let place = if self.kind == CONFIG { String::new() } else { format!(" in {}", self.kind) };
            let message = format!("unknown key `{}`{place}", join(&section, &key));
            self.mistakes.push((message, help, at));
        }
    }
}

/// One mapping of the file. Closed by [`Section::enter`], which counts what nobody asked for as unknown.
pub(crate) struct Section<'r> {
    pub reader: &'r mut Reader,
    path: String,
    at: Range<usize>,
    entries: Vec<(String, Range<usize>, Node)>,
    /// The section itself is of a wrong type: its missing keys are no further mistakes.
    broken: bool,
}

impl<'r> Section<'r> {
    pub fn enter<T>(
        reader: &mut Reader,
        path: String,
        found: Option<(Range<usize>, Node)>,
        read: impl FnOnce(&mut Section) -> T,
    ) -> T {
        let at = found.as_ref().map_or(0..0, |(key_at, _)| key_at.clone());
        let mut section = Section { reader, path, at, entries: Vec::new(), broken: false };
        if let Some((_, node)) = found {
            section.fill(node);
        }
        let value = read(&mut section);
        let Section { reader, path, entries, .. } = section;
        for (key, at, node) in entries {
            node.scalars(&mut |hidden| reader.secrets.push(hidden));
            reader.unknown.push((path.clone(), key, at));
        }
        value
    }

    fn fill(&mut self, node: Node) {
        match node.value {
            Value::Map(entries) => {
                for (key, value) in entries {
                    let Value::Text(name) = key.value else {
                        self.complain(key.at, "a key must be a word", "quote it if it is one");
                        continue;
                    };
                    if self.entries.iter().any(|(known, ..)| *known == name) {
                        let full = join(&self.path, &name);
                        self.complain(key.at, format!("`{full}` is given twice"), "keep one of them");
                        continue;
                    }
                    self.entries.push((name, key.at, value));
                }
            }
            Value::Null => {}
            _ => {
                self.broken = true;
                let what = match (self.path.as_str(), self.reader.kind) {
                    ("", CONFIG) => "the file".into(),
                    ("", kind) => kind.into(),
                    (path, _) => format!("`{path}`"),
                };
                let help = "write `key: value` lines, indented below it";
                self.complain(node.at.clone(), format!("{what} must be a section of keys, not {}", shown(&node)), help);
            }
        }
    }

    /// A mistake at a place.
    pub fn complain(&mut self, at: Range<usize>, message: impl Display, help: impl Display) {
        self.reader.complain(at, message, help);
    }

    /// Where the section stands.
    pub fn at(&self) -> Range<usize> {
        self.at.clone()
    }

    /// A mistake that is seen only by looking at several keys: shown at `key` (its name in this section) if it is
    /// given, else where the section stands.
    pub fn mistake(&mut self, key: &str, message: impl Display, help: impl Display) {
        let at = self.reader.place(&self.full(key)).unwrap_or_else(|| self.at());
        self.complain(at, message, help);
    }

    /// Where `key` of this section has its value; asked after it was read.
    pub fn place(&self, key: &str) -> Option<Range<usize>> {
        self.reader.place(&self.full(key))
    }

    /// Whether the section is of a wrong type.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Whether `key` of this section is given; asked after it was read.
    pub fn has(&self, key: &str) -> bool {
        self.reader.has(&self.full(key))
    }

    /// The full name of a key of this section.
    pub fn full(&self, key: &str) -> String {
        join(&self.path, key)
    }

    /// A key, with what the reference says of it. It is documented here and nowhere else.
    pub fn key(&mut self, name: &'static str, doc: &'static str) -> Asked<'_, 'r> {
        Asked { section: self, name, doc, example: None, reload: false }
    }

    /// This key is asked for; what was noted first stays.
    fn note(&mut self, key: Key) {
        if !self.reader.known.iter().any(|known| known.path == key.path) {
            self.reader.known.push(key);
        }
    }

    /// Takes a key out; a null value is as good as none.
    fn take(&mut self, key: &str) -> Option<(Range<usize>, Node)> {
        let full = self.full(key);
        let unexplained = Form::Words("");
        self.note(Key {
            path: full.clone(),
            doc: "",
            form: unexplained,
            need: Need::Optional,
            example: None,
            reload: false,
        });
        let index = self.entries.iter().position(|(name, ..)| name == key)?;
        let (_, at, node) = self.entries.remove(index);
        if matches!(node.value, Value::Null) {
            return None;
        }
        self.reader.places.insert(full, node.at.clone());
        Some((at, node))
    }

    /// Reads the section `key`, which need not be there.
    pub fn section<T>(&mut self, key: &str, read: impl FnOnce(&mut Section) -> T) -> T {
        let path = self.full(key);
        let found = self.take(key);
        Section::enter(self.reader, path, found, read)
    }

    /// Mistakes found by the parser of a single value, which is called `subject` in them.
    pub fn accuse(&mut self, subject: &str, accusations: Vec<Wrong>) {
        for Wrong { message, help, at } in accusations {
            self.complain(at, format!("{subject} {message}"), help);
        }
    }

    /// Reads the list `key` of sections, each with `read`; `None` when it is not given, or no list.
    pub fn sections<T>(&mut self, key: &str, mut read: impl FnMut(&mut Section) -> T) -> Option<Vec<T>> {
        let path = self.full(key);
        if self.reader.listing {
            self.take(key);
            Section::enter(self.reader, format!("{path}[]"), None, &mut read);
        }
        let (_, node) = self.take(key)?;
        let Value::List(items) = node.value else {
            let help = "write a `- ` line for each, or `[{…}, {…}]`";
            self.complain(node.at.clone(), format!("`{path}` must be a list, not {}", shown(&node)), help);
            return None;
        };
        let enter = |(i, item): (usize, Node)| {
            let at = item.at.clone();
            Section::enter(self.reader, format!("{path}[{}]", i + 1), Some((at, item)), &mut read)
        };
        Some(items.into_iter().enumerate().map(enter).collect())
    }

    // Keys that are documented elsewhere are read by these, all others by way of [`Section::key`].

    /// A key that may be missing. `None` after a mistake too, which then is recorded.
    pub fn optional<T>(&mut self, key: &str, parse: impl FnOnce(&Node) -> Parsed<T>) -> Option<T> {
        let (_, node) = self.take(key)?;
        let full = self.full(key);
        match parse(&node) {
            Ok(value) => Some(value),
            Err(accusations) => {
                self.accuse(&format!("`{full}`"), accusations);
                None
            }
        }
    }

    /// A key that may be missing, with its default.
    pub fn or<T>(&mut self, key: &str, default: T, parse: impl FnOnce(&Node) -> Parsed<T>) -> T {
        self.optional(key, parse).unwrap_or(default)
    }

    /// A key that must be there; `None` after a mistake.
    pub fn needed<T>(&mut self, key: &str, example: &str, parse: impl FnOnce(&Node) -> Parsed<T>) -> Option<T> {
        let given = self.entries.iter().any(|(name, _, node)| name == key && !matches!(node.value, Value::Null));
        if !given && !self.broken {
            let place = if self.path.is_empty() { String::new() } else { format!(" in section `{}`", self.path) };
            let help = format!("add it, e.g. `{key}: {example}`{place}");
            let at =
                self.entries.iter().find(|(name, ..)| name == key).map_or(self.at.clone(), |(_, at, _)| at.clone());
            self.complain(at, format!("`{}` is missing", self.full(key)), help);
        }
        self.optional(key, parse)
    }

    /// All entries of the free-form section `key`: name, place of the name, value.
    pub fn free_form(&mut self, key: &str) -> Vec<(String, Range<usize>, Node)> {
        self.section(key, |section| std::mem::take(&mut section.entries))
    }

    /// Puts an entry in, as if it had been written here. Fails with the name when it is there already.
    pub fn adopt(&mut self, key: &str, at: Range<usize>, node: Node) -> Result<(), Range<usize>> {
        if self.entries.iter().any(|(name, ..)| name == key) {
            return Err(at);
        }
        self.entries.push((key.into(), at, node));
        Ok(())
    }

    /// Refuses a key that people are likely to try.
    pub fn refuse(&mut self, key: &str, why: &str, help: &str) {
        if let Some(index) = self.entries.iter().position(|(name, ..)| name == key) {
            let (_, at, node) = self.entries.remove(index);
            self.reader.places.insert(self.full(key), at.clone());
            node.scalars(&mut |hidden| self.reader.secrets.push(hidden));
            self.complain(at, format!("`{}` {why}", self.full(key)), help);
        }
    }

    /// A mistake about an entry that was taken by [`free_form`](Self::free_form); `hide` blots its value out.
    pub fn refuse_entry(
        &mut self,
        at: Range<usize>,
        node: &Node,
        hide: bool,
        message: impl Display,
        help: impl Display,
    ) {
        if hide {
            node.scalars(&mut |hidden| self.reader.secrets.push(hidden));
        }
        self.complain(at, message, help);
    }
}

/// A key that is about to be read: what the reference says of it, and the way to its value.
pub(crate) struct Asked<'s, 'r> {
    section: &'s mut Section<'r>,
    name: &'static str,
    doc: &'static str,
    example: Option<&'static str>,
    reload: bool,
}

impl<'r> Asked<'_, 'r> {
    /// A value that it may have, as the file says it, where there is no default to show.
    pub fn example(self, example: &'static str) -> Self {
        Self { example: Some(example), ..self }
    }

    /// A reload applies it.
    pub fn reload(self) -> Self {
        Self { reload: true, ..self }
    }

    fn note(&mut self, form: Form, need: Need) {
        let path = self.section.full(self.name);
        self.section.note(Key { path, doc: self.doc, form, need, example: self.example, reload: self.reload });
    }

    /// See [`Section::optional`].
    pub fn optional<T>(mut self, parser: Parser<impl FnOnce(&Node) -> Parsed<T>>) -> Option<T> {
        let (form, parse) = parser.split();
        self.note(form, Need::Optional);
        self.section.optional(self.name, parse)
    }

    /// See [`Section::or`].
    pub fn or<T>(mut self, default: T, parser: Parser<impl FnOnce(&Node) -> Parsed<T>>) -> T {
        let (form, parse) = parser.split();
        self.note(form, Need::Default);
        self.section.or(self.name, default, parse)
    }

    /// A key that must be there. After a mistake the value is a filler: the file is refused anyway.
    pub fn required<T: Default>(self, example: &'static str, parser: Parser<impl FnOnce(&Node) -> Parsed<T>>) -> T {
        self.needed(example, parser).unwrap_or_default()
    }

    /// See [`Section::needed`].
    pub fn needed<T>(mut self, example: &'static str, parser: Parser<impl FnOnce(&Node) -> Parsed<T>>) -> Option<T> {
        let (form, parse) = parser.split();
        self.example = self.example.or(Some(example));
        self.note(form, Need::Required);
        self.section.needed(self.name, example, parse)
    }

    /// See [`Section::section`].
    pub fn section<T>(mut self, read: impl FnOnce(&mut Section) -> T) -> T {
        self.note(Form::Section, Need::Optional);
        self.section.section(self.name, read)
    }

    /// See [`Section::sections`].
    pub fn sections<T>(mut self, read: impl FnMut(&mut Section) -> T) -> Option<Vec<T>> {
        self.note(Form::Sections, Need::Default);
        self.section.sections(self.name, read)
    }

    /// See [`Section::free_form`]; `each` is how a value of it is written.
    pub fn free_form(mut self, each: &'static str) -> Vec<(String, Range<usize>, Node)> {
        self.note(Form::Free(each), Need::Default);
        self.section.free_form(self.name)
    }
}

fn join(section: &str, key: &str) -> String {
    if section.is_empty() { key.into() } else { format!("{section}.{key}") }
}

/// The most similar of `names`, if one is similar enough.
pub(crate) fn similar<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    names
        .map(|name| (strsim::jaro_winkler(&word.to_lowercase(), &name.to_lowercase()), name))
        .filter(|(score, _)| *score >= SIMILAR)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

/// How a value is called in a message.
pub(crate) fn shown(node: &Node) -> String {
    match &node.value {
        Value::Null => "nothing".into(),
        Value::Bool(value) => format!("the boolean `{value}`"),
        Value::Int(value) => format!("the number `{value}`"),
        Value::Float(value) => format!("the number `{value}`"),
        Value::Text(text) => shown_text(text),
        Value::List(_) => "a list".into(),
        Value::Map(_) => "a section".into(),
    }
}

/// How a text is called in a message.
pub(crate) fn shown_text(text: &str) -> String {
    format!("`{}`", cut(text))
}

/// The beginning of a text as messages show it.
pub(crate) fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", text[..end].escape_debug()),
        None => text.escape_debug().to_string(),
    }
}

// The parsers of single values.

/// A parser by hand; `words` say how the value is written.
pub(crate) const fn written<P>(words: &'static str, parse: P) -> Parser<P> {
    Parser::new(Form::Words(words), parse)
}

/// A parser that needs nothing.
type Plain<T> = Parser<fn(&Node) -> Parsed<T>>;

/// [`text`].
pub(crate) const TEXT: Plain<String> = written("text", text);

/// [`boolean`].
pub(crate) const BOOLEAN: Plain<bool> = Parser::new(Form::Boolean, boolean);

/// [`topic`].
pub(crate) const TOPIC: Plain<String> = written("topic name", topic);

/// [`code`].
pub(crate) const CODE: Plain<String> = written("text or an integer", code);

/// [`time_zone`].
pub(crate) const TIME_ZONE: Plain<chrono_tz::Tz> = written(TIME_ZONE_WORDS, time_zone);

/// How a time zone is written.
pub(crate) const TIME_ZONE_WORDS: &str = "IANA time zone";

/// Text that is not empty. Numbers and booleans are refused: they would not come out as they were written.
pub(crate) fn text(node: &Node) -> Parsed<String> {
    match &node.value {
        Value::Text(text) if !text.trim().is_empty() => Ok(text.clone()),
        Value::Text(_) => wrong(node, "must not be empty", "write a value, or remove the key"),
        Value::Bool(_) | Value::Int(_) | Value::Float(_) => {
            wrong(node, format!("must be text, not {}", shown(node)), "put it in quotes")
        }
        _ => wrong(node, format!("must be text, not {}", shown(node)), "write one value"),
    }
}

/// Text that may be empty, or an integer, which becomes its decimal digits.
pub(crate) fn code(node: &Node) -> Parsed<String> {
    match &node.value {
        Value::Text(text) => Ok(text.clone()),
        Value::Int(number) => Ok(number.to_string()),
        _ => wrong(node, format!("must hold codes, not {}", shown(node)), "a code is text or an integer"),
    }
}

/// A list, every item by `item`.
pub(crate) fn list<T>(item: Parser<impl Fn(&Node) -> Parsed<T>>) -> Parser<impl Fn(&Node) -> Parsed<Vec<T>>> {
    let (form, item) = item.split();
    Parser::new(Form::List(form.into()), items(item))
}

/// [`list`], undocumented.
pub(crate) fn items<T>(item: impl Fn(&Node) -> Parsed<T>) -> impl Fn(&Node) -> Parsed<Vec<T>> {
    move |node| {
        let Value::List(items) = &node.value else {
            return wrong(
                node,
                format!("must be a list, not {}", shown(node)),
                "write `[one, two]`, or a `- ` line for each",
            );
        };
        let (mut values, mut accusations) = (Vec::new(), Vec::new());
        for parsed in items.iter().map(&item) {
            match parsed {
                Ok(value) => values.push(value),
                Err(more) => accusations.extend(more),
            }
        }
        if accusations.is_empty() { Ok(values) } else { Err(accusations) }
    }
}

/// `true` or `false`.
pub(crate) fn boolean(node: &Node) -> Parsed<bool> {
    match node.value {
        Value::Bool(value) => Ok(value),
        _ => wrong(
            node,
            format!("must be true or false, not {}", shown(node)),
            "write `true` or `false`, without quotes",
        ),
    }
}

/// An integer within `range`.
pub(crate) fn integer(range: RangeInclusive<i64>) -> Parser<impl Fn(&Node) -> Parsed<i64>> {
    Parser::new(Form::Integer(range.clone()), move |node: &Node| match node.value {
        Value::Int(value) => match i64::try_from(value) {
            Ok(value) if range.contains(&value) => Ok(value),
            _ => out_of_range(node, range.start(), range.end()),
        },
        _ => {
            let help = format!("write a number from {} to {}, without quotes", range.start(), range.end());
            wrong(node, format!("must be an integer, not {}", shown(node)), help)
        }
    })
}

fn out_of_range<T>(node: &Node, least: impl Display, most: impl Display) -> Parsed<T> {
    wrong(node, format!("is out of range: {}", shown(node)), format!("the least is {least}, the most {most}"))
}

/// A duration within `range`, as in `"1m 30s"`. `granule` is what it must be a multiple of.
pub(crate) fn duration(
    range: RangeInclusive<Duration>,
    granule: Duration,
) -> Parser<impl Fn(&Node) -> Parsed<Duration>> {
    Parser::new(Form::Duration(range.clone(), granule), move |node: &Node| {
        let (least, most) = (form::duration(*range.start()), form::duration(*range.end()));
        let help = format!("write a number with its unit, from \"{least}\" to \"{most}\", e.g. \"{least}\"");
        let Value::Text(text) = &node.value else {
            return wrong(node, format!("must be a duration, not {}", shown(node)), help);
        };
        match humantime::parse_duration(text) {
            Ok(value) if !range.contains(&value) => out_of_range(node, least, most),
            Ok(value) if value.as_nanos() % granule.as_nanos() != 0 => {
                let granule = form::duration(granule);
                wrong(node, format!("is too fine: {}", shown(node)), format!("write a multiple of {granule}"))
            }
            Ok(value) => Ok(value),
            Err(error) => wrong(node, format!("must be a duration, not {} ({error})", shown(node)), help),
        }
    })
}

/// Bytes within `range`: an integer, or text such as `"20MB"` (10⁶) or `"1MiB"` (2²⁰).
pub(crate) fn bytes(range: RangeInclusive<u64>) -> Parser<impl Fn(&Node) -> Parsed<u64>> {
    Parser::new(Form::Bytes(range.clone()), move |node: &Node| {
        let value = match &node.value {
            Value::Int(value) => u64::try_from(*value).ok(),
            Value::Text(text) => size(text),
            _ => None,
        };
        match value {
            Some(value) if range.contains(&value) => Ok(value),
            Some(_) => out_of_range(node, form::size(*range.start()), form::size(*range.end())),
            None => {
                let help = "write bytes as an integer, or with a unit: \"512KiB\", \"1MiB\", \"20MB\", \"1GB\"";
                wrong(node, format!("must be a size, not {}", shown(node)), help)
            }
        }
    })
}

fn size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let given = text[digits..].trim();
    let unit = match given {
        "" | "b" | "B" => 1,
        _ => form::SIZES.iter().find(|(_, name)| name.eq_ignore_ascii_case(given))?.0,
    };
    text[..digits].parse::<u64>().ok()?.checked_mul(unit)
}

/// One of a few words.
pub(crate) fn choice<T: Copy>(choices: &[(&'static str, T)]) -> Parser<impl Fn(&Node) -> Parsed<T>> {
    let words = choices.iter().map(|(word, _)| *word).collect();
    Parser::new(Form::Choice(words), move |node: &Node| {
        if let Value::Text(text) = &node.value
            && let Some((_, value)) = choices.iter().find(|(word, _)| word == text)
        {
            return Ok(*value);
        }
        let words: Vec<_> = choices.iter().map(|(word, _)| format!("`{word}`")).collect();
        let near = match &node.value {
            Value::Text(text) => similar(text, choices.iter().map(|(word, _)| *word)),
            _ => None,
        };
        let help = match near {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("write one of {}", words.join(", ")),
        };
        wrong(node, format!("must be one of {}, not {}", words.join(", "), shown(node)), help)
    })
}

/// A time zone of the IANA database.
pub(crate) fn time_zone(node: &Node) -> Parsed<chrono_tz::Tz> {
    let name = text(node)?;
    name.parse().or_else(|_| {
        let names = || chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name());
        let help = match china_time(&name).or_else(|| similar(&name, names())) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "write a name of the IANA database, e.g. `Asia/Shanghai`".into(),
        };
        wrong(node, format!("must be a time zone, not {}", shown(node)), help)
    })
}

/// The zone's name for what people write for China's time instead: other cities of it, `CST`, its offset.
fn china_time(given: &str) -> Option<&'static str> {
    const OTHERS: [&str; 8] = ["beijing", "peking", "guangzhou", "shenzhen", "hangzhou", "chengdu", "china", "bjt"];
    let given = given.trim().to_ascii_lowercase();
    let city = given.strip_prefix("asia/").unwrap_or(&given);
    let offset = ["gmt", "utc"].iter().find_map(|zone| given.strip_prefix(zone)).unwrap_or(&given).trim();
    let is_offset = ["+8", "+08", "+8:00", "+08:00", "+800", "+0800"].contains(&offset);
    (OTHERS.contains(&city) || matches!(&*given, "cst" | "china standard time") || is_offset).then_some("Asia/Shanghai")
}

/// A Kafka topic's name.
pub(crate) fn topic(node: &Node) -> Parsed<String> {
    let name = text(node)?;
    let legal = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.len() <= 249 && name.chars().all(legal) && name != "." && name != ".." {
        return Ok(name);
    }
    let help = "a topic's name has at most 249 characters of a–z, A–Z, 0–9, `.`, `_` and `-`";
    wrong(node, format!("must be the name of a Kafka topic, not {}", shown(node)), help)
}

/// An instant with its offset.
pub(crate) fn instant(text: &str) -> Option<DateTime<Utc>> {
    calendar::instant(text).map(|at| at.to_utc())
}

/// A type that parses itself and says what is wrong in its error; `words` say how it is written.
pub(crate) fn parsed<T: FromText>(words: &'static str) -> Parser<impl Fn(&Node) -> Parsed<T>> {
    written(words, |node: &Node| {
        let given = text(node)?;
        T::from_text(given).or_else(|error| wrong(node, format!("is wrong: {error}"), T::HELP))
    })
}

/// See [`parsed`].
pub(crate) trait FromText: Sized {
    /// What to write.
    const HELP: &'static str;
    /// The value, or what is wrong.
    fn from_text(text: String) -> Result<Self, String>;
}

impl FromText for SocketAddr {
    const HELP: &'static str =
        "write an address and a port, e.g. \"127.0.0.1:8464\", \"0.0.0.0:8464\" or \"[::]:8464\"";
    fn from_text(text: String) -> Result<Self, String> {
        Self::from_str(&text).map_err(|_| format!("`{}` is not an address with a port", text.escape_debug()))
    }
}

/// A file, which must be readable when `check` is set.
pub(crate) fn file(check: bool) -> Parser<impl Fn(&Node) -> Parsed<PathBuf>> {
    written("path of a readable file", move |node: &Node| {
        let path = PathBuf::from(text(node)?);
        let read =
            || if path.is_dir() { Err(std::io::ErrorKind::IsADirectory.into()) } else { std::fs::File::open(&path) };
        match check.then(read) {
            Some(Err(error)) => {
                let help = "check that the path is right and that sla-ledger's user may read it";
                wrong(node, format!("cannot be read: {} ({error})", shown(node)), help)
            }
            _ => Ok(path),
        }
    })
}

/// The name of an environment variable, which must be set when `check` is. The value is never quoted: people paste secrets
/// here by mistake.
pub(crate) fn variable(check: bool) -> Parser<impl Fn(&Node) -> Parsed<String>> {
    written("name of an environment variable", move |node: &Node| {
        let name = text(node)?;
        if !name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_') {
            return wrong(
                node,
                "must be the name of an environment variable",
                "write its name (A–Z, 0–9, `_`), not its value",
            );
        }
        if check && std::env::var_os(&name).is_none_or(|value| value.is_empty()) {
            return wrong(
                node,
                "names an environment variable that is not set",
                format!("set {name} for this process"),
            );
        }
        Ok(name)
    })
}
