//! The statement as text, at 100 columns. Chinese characters are two columns wide.

use std::io::{self, Write};

use textwrap::core::display_width;

use super::sheet::{Block, Cells, Column, Row, Section, Sheet};

/// Columns of a line.
const WIDTH: usize = 100;

/// Columns of `sha256 ` and a digest.
const DIGEST: usize = 71;

pub(super) fn write(sheet: &Sheet, out: &mut impl Write) -> io::Result<()> {
    for line in &sheet.issuer {
        hanging("", "", line, out)?;
    }
    if !sheet.issuer.is_empty() {
        writeln!(out)?;
    }
    let gap = WIDTH.saturating_sub(display_width(&sheet.title) + display_width(&sheet.subject));
    if gap >= 2 {
        writeln!(out, "{}{}{}", sheet.title, " ".repeat(gap), sheet.subject)?;
    } else {
        writeln!(out, "{}\n{}", sheet.title, wrapped(&sheet.subject, WIDTH).join("\n"))?;
    }
    writeln!(out, "{}", "=".repeat(WIDTH))?;
    for line in &sheet.customer {
        hanging("  ", "  ", line, out)?;
    }
    if !sheet.customer.is_empty() {
        writeln!(out)?;
    }
    let keys: Vec<_> = sheet.key.iter().map(|k| (k.label.clone(), format!("{} · {}", k.value, k.detail))).collect();
    pairs(&keys, out)?;
    for warning in &sheet.warnings {
        writeln!(out)?;
        hanging("! ", "  ", warning, out)?;
    }
    for section in &sheet.sections {
        self::section(section, out)?;
    }
    writeln!(out, "\n{}", "-".repeat(WIDTH))?;
    writeln!(out, "{}  {}", sheet.digest.0, sheet.digest.1)?;
    hanging("", "", &sheet.check, out)
}

fn section(section: &Section, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "\n{}\n{}", section.title, "-".repeat(display_width(&section.title)))?;
    for (index, block) in section.blocks.iter().enumerate() {
        if index > 0 && !matches!(block, Block::Note(_)) {
            writeln!(out)?;
        }
        match block {
            Block::Pairs(list) => pairs(list, out)?,
            Block::Table { columns, rows } | Block::Folded { columns, rows, .. } => table(columns, rows, out)?,
            Block::Note(text) => hanging("  ", "  ", text, out)?,
        }
    }
    Ok(())
}

fn pairs(list: &[(String, String)], out: &mut impl Write) -> io::Result<()> {
    let width = list.iter().map(|(label, _)| display_width(label)).max().unwrap_or(0);
    for (label, value) in list {
        let pad = " ".repeat(width - display_width(label));
        hanging(&format!("  {label}{pad}  "), &" ".repeat(width + 4), value, out)?;
    }
    Ok(())
}

fn table(columns: &[Column], rows: &[Row], out: &mut impl Write) -> io::Result<()> {
    let cell = |row: &Row, column: usize| row.cells.get(column).map_or(0, |c| display_width(c));
    let mut widths: Vec<usize> = (0..columns.len())
        .map(|i| rows.iter().map(|r| cell(r, i)).chain([display_width(&columns[i].title)]).max().unwrap_or(0))
        .collect();
    // What is too wide gives way: first digests to one a line, then the widest words, at last digests again.
    let room = WIDTH.saturating_sub(2 * columns.len());
    while widths.iter().sum::<usize>() > room {
        let widest = |digest: bool, least: usize| {
            let at = (0..widths.len()).filter(|i| (columns[*i].cells == Cells::Digest) == digest);
            at.max_by_key(|i| widths[*i]).filter(|i| widths[*i] > least)
        };
        let Some(widest) = widest(true, DIGEST).or_else(|| widest(false, 12)).or_else(|| widest(true, 12)) else {
            break;
        };
        widths[widest] -= 1;
    }
    let titles = Row { cells: columns.iter().map(|c| c.title.clone()).collect(), strong: false };
    line(columns, &widths, &titles, out)?;
    writeln!(out, "  {}", widths.iter().map(|w| "-".repeat(*w)).collect::<Vec<_>>().join("  "))?;
    rows.iter().try_for_each(|row| line(columns, &widths, row, out))
}

fn line(columns: &[Column], widths: &[usize], row: &Row, out: &mut impl Write) -> io::Result<()> {
    let cells: Vec<Vec<String>> = row.cells.iter().zip(widths).map(|(cell, width)| wrapped(cell, *width)).collect();
    let height = cells.iter().map(Vec::len).max().unwrap_or(0);
    for level in 0..height {
        let mut text = String::new();
        for ((lines, width), column) in cells.iter().zip(widths).zip(columns) {
            let part = lines.get(level).map_or("", |l| l);
            let pad = " ".repeat(width.saturating_sub(display_width(part)));
            text.push_str("  ");
            if column.cells == Cells::Numbers {
                text.extend([&*pad, part]);
            } else {
                text.extend([part, &*pad]);
            }
        }
        writeln!(out, "{}", text.trim_end())?;
    }
    Ok(())
}

fn hanging(first: &str, rest: &str, text: &str, out: &mut impl Write) -> io::Result<()> {
    let room = WIDTH.saturating_sub(display_width(first)).max(20);
    for (index, part) in wrapped(text, room).iter().enumerate() {
        writeln!(out, "{}", format!("{}{part}", if index == 0 { first } else { rest }).trim_end())?;
    }
    Ok(())
}

fn wrapped(text: &str, width: usize) -> Vec<String> {
    let options = textwrap::Options::new(width).word_splitter(textwrap::WordSplitter::NoHyphenation);
    textwrap::wrap(text, options).into_iter().map(String::from).collect()
}
