//! The statement as one HTML file: no script, nothing from elsewhere, made for A4. Everything that comes from data goes
//! through [`esc`].

use std::borrow::{Borrow, Cow};
use std::io::{self, Write};

use super::Statement;
use super::evidence::EvidenceRow;
use super::render::SHOWN;
use super::sheet::{Block, Cells, Column, Row, Section, Sheet};
use super::words::{self, Lang, grouped};
use crate::visible::visible;

const STYLE: &str = include_str!("statement.css");

pub(super) fn write<R: Borrow<EvidenceRow>>(
    statement: &Statement,
    sheet: &Sheet,
    evidence: &[R],
    lang: Lang,
    out: &mut impl Write,
) -> io::Result<()> {
    let title = format!("{} · {}", sheet.title, sheet.subject);
    writeln!(
        out,
        "<!doctype html>\n<html lang=\"{}\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{}</title>\n<style>\n{STYLE}{}</style>\n</head>\n<body>\n<main>",
        lang.tag(),
        esc(&title),
        margins(statement, sheet, lang)
    )?;
    letterhead(sheet, out)?;
    writeln!(
        out,
        "<header>\n<h1>{}</h1>\n<p class=\"subject\">{}</p>\n</header>",
        esc(&sheet.title),
        esc(&sheet.subject)
    )?;
    block("customer", &sheet.customer, out)?;
    writeln!(out, "<dl class=\"key\">")?;
    for key in &sheet.key {
        writeln!(
            out,
            "<div><dt>{}</dt><dd><strong>{}</strong> <span>{}</span></dd></div>",
            esc(&key.label),
            esc(&key.value),
            esc(&key.detail)
        )?;
    }
    writeln!(out, "</dl>")?;
    for warning in &sheet.warnings {
        writeln!(out, "<p class=\"warning\" role=\"note\">{}</p>", esc(warning))?;
    }
    for section in &sheet.sections {
        self::section(section, out)?;
    }
    self::evidence(statement, evidence, lang, out)?;
    writeln!(
        out,
        "<footer>\n<p>{} <code>{}</code></p>\n<p>{}</p>\n</footer>\n</main>\n</body>\n</html>",
        esc(&sheet.digest.0),
        esc(&sheet.digest.1),
        esc(&sheet.check)
    )
}

/// The issuer, as letters begin.
fn letterhead(sheet: &Sheet, out: &mut impl Write) -> io::Result<()> {
    if let Some(logo) = &sheet.logo {
        let name = sheet.issuer.first().map_or("", |name| name);
        writeln!(out, "<img class=\"logo\" src=\"{}\" alt=\"{}\">", esc(logo), esc(name))?;
    }
    block("issuer", &sheet.issuer, out)
}

/// Lines of a letter.
fn block(class: &str, lines: &[String], out: &mut impl Write) -> io::Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let lines: Vec<_> = lines.iter().map(|line| esc(line)).collect();
    writeln!(out, "<p class=\"{class}\">{}</p>", lines.join("<br>\n"))
}

/// What every printed page says in its margins: whose month it is, which page of how many, and of which statement.
fn margins(statement: &Statement, sheet: &Sheet, lang: Lang) -> String {
    let page = lang.pick(
        r#""page " counter(page) " of " counter(pages)"#,
        r#""第 " counter(page) " 页，共 " counter(pages) " 页""#,
    );
    let heading = match &sheet.number {
        Some(number) => format!("{} {number}", sheet.title),
        None => sheet.title.clone(),
    };
    let short: String = statement.sha256.chars().take(16).collect();
    let boxes = [
        ("top-left", css_string(&sheet.subject)),
        ("top-right", css_string(&heading)),
        ("bottom-left", css_string(&format!("SHA-256 {short}…"))),
        ("bottom-right", page.to_owned()),
    ];
    let boxes = boxes.map(|(name, content)| {
        format!("  @{name} {{ content: {content}; color: #57606a; font: 8pt sans-serif; overflow-wrap: anywhere; }}\n")
    });
    format!("@page {{\n{} }}\n", boxes.concat())
}

/// A string of CSS. Whatever could end it, or the style sheet, is written by its number.
fn css_string(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::from("\"");
    for c in text.chars() {
        if c.is_alphanumeric() || matches!(c, ' ' | '-' | '_' | '.' | '·' | '…' | '（' | '）') {
            out.push(c);
        } else {
            _ = write!(out, "\\{:x} ", u32::from(c));
        }
    }
    out.push('"');
    out
}

fn section(section: &Section, out: &mut impl Write) -> io::Result<()> {
    let (id, title) = (section.id, esc(&section.title));
    writeln!(out, "<section aria-labelledby=\"{id}\">\n<h2 id=\"{id}\">{title}</h2>")?;
    for block in &section.blocks {
        match block {
            Block::Pairs(pairs) => {
                writeln!(out, "<dl>")?;
                for (label, value) in pairs {
                    let digest = value.len() == 64 && value.bytes().all(|b| b.is_ascii_hexdigit());
                    let (open, close) = if digest { ("<code>", "</code>") } else { ("", "") };
                    writeln!(out, "<div><dt>{}</dt><dd>{open}{}{close}</dd></div>", esc(label), esc(value))?;
                }
                writeln!(out, "</dl>")?;
            }
            Block::Table { columns, rows } => table(columns, rows, "", out)?,
            Block::Folded { summary, columns, rows } => {
                writeln!(out, "<details>\n<summary>{}</summary>", esc(summary))?;
                table(columns, rows, " class=\"offsets\"", out)?;
                writeln!(out, "</details>")?;
            }
            Block::Note(text) => writeln!(out, "<p class=\"note\">{}</p>", esc(text))?,
        }
    }
    writeln!(out, "</section>")
}

fn table(columns: &[Column], rows: &[Row], class: &str, out: &mut impl Write) -> io::Result<()> {
    let kind = |cells: Cells| match cells {
        Cells::Words => "",
        Cells::Numbers => " class=\"n\"",
        Cells::Digest => " class=\"d\"",
    };
    write!(out, "<table{class}>\n<thead><tr>")?;
    for column in columns {
        write!(out, "<th scope=\"col\"{}>{}</th>", kind(column.cells), esc(&column.title))?;
    }
    writeln!(out, "</tr></thead>\n<tbody>")?;
    for row in rows {
        write!(out, "<tr{}>", if row.strong { " class=\"strong\"" } else { "" })?;
        for (cell, column) in row.cells.iter().zip(columns) {
            write!(out, "<td{}>{}</td>", kind(column.cells), esc(cell))?;
        }
        writeln!(out, "</tr>")?;
    }
    writeln!(out, "</tbody>\n</table>")
}

fn evidence<R: Borrow<EvidenceRow>>(
    statement: &Statement,
    rows: &[R],
    lang: Lang,
    out: &mut impl Write,
) -> io::Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "<section aria-labelledby=\"evidence\">\n<h2 id=\"evidence\">{}</h2>",
        lang.pick("Failing calls", "失败调用明细")
    )?;
    let shown: u64 = rows.iter().map(|r| r.borrow().calls).sum();
    let all = statement.evidence.failing_calls;
    if shown < all {
        let text = lang.pick(
            format!(
                "The first {} of {} failing calls. All of them are in the evidence (CSV).",
                grouped(shown),
                grouped(all)
            ),
            format!("仅列示前 {} 次（共 {} 次），全部明细见证据文件（CSV）。", grouped(shown), grouped(all)),
        );
        writeln!(out, "<p class=\"note\">{}</p>", esc(&text))?;
    }
    let column = |en: &str, zh: &str, cells| Column { title: lang.pick(en, zh).into(), cells };
    let columns = [
        column("Time", "时间", Cells::Words),
        column("Request id", "请求编号", Cells::Words),
        column("Action", "接口", Cells::Words),
        column("Code", "错误码", Cells::Words),
        column("system_error", "系统错误标志", Cells::Words),
        column("Calls in its second", "当秒调用次数", Cells::Numbers),
        column("Class", "分类", Cells::Words),
        column("Decision", "处理", Cells::Words),
        column("Partition: offset", "分区：位点", Cells::Numbers),
    ];
    let rows: Vec<Row> = rows.iter().take(SHOWN).map(|r| row(r.borrow(), lang)).collect();
    table(&columns, &rows, " class=\"evidence\"", out)?;
    writeln!(out, "</section>")
}

fn row(row: &EvidenceRow, lang: Lang) -> Row {
    let mut decision = words::decision(row.decision, lang).to_owned();
    if let Some(clause) = row.clause {
        decision.push_str(&lang.pick(format!(", {clause}"), format!("，第{clause}条")));
    }
    if let Some(document) = &row.document {
        decision.push_str(&lang.pick(format!(" ({})", visible(document)), format!("（{}）", visible(document))));
    }
    let id = if row.calls == 1 {
        visible(&row.request_id).into_owned()
    } else {
        lang.pick(format!("{} calls", grouped(row.calls)), format!("共 {} 次", grouped(row.calls)))
    };
    let source = match (row.partition, row.offset) {
        (Some(partition), Some(offset)) => format!("{partition}: {offset}"),
        _ => "–".into(),
    };
    let cells = vec![
        // A break between date and time is welcome.
        row.time.to_string().replacen('T', " ", 1),
        id,
        visible(&row.action).into_owned(),
        visible(&row.code).into_owned(),
        row.flag.map_or("–", |flag| if flag { lang.pick("true", "是") } else { lang.pick("false", "否") }).into(),
        row.calls_in_second.map_or_else(|| "–".into(), |n| n.to_string()),
        words::class(row.class.as_str(), lang).into(),
        decision,
        source,
    ];
    Row { cells, strong: false }
}

/// Text that HTML takes for text, in elements and in quoted attributes.
fn esc(text: &str) -> Cow<'_, str> {
    if !text.contains(['&', '<', '>', '"', '\'']) {
        return text.into();
    }
    text.chars()
        .fold(String::with_capacity(text.len() + 16), |mut out, c| {
            match c {
                '&' => out.push_str("&amp;"),
                '<' => out.push_str("&lt;"),
                '>' => out.push_str("&gt;"),
                '"' => out.push_str("&quot;"),
                '\'' => out.push_str("&#39;"),
                c => out.push(c),
            }
            out
        })
        .into()
}
