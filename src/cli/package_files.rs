//! `package-files`: what a package installs beside the binary. Man pages and shell completions are made from the command
//! line's own description, so they cannot differ from it.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Arg, ArgMatches, Command, value_parser};
use clap_complete::{Generator as _, Shell};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use crate::build_info;

/// The shells that Debian's packages have completions for.
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

/// Its name on the command line.
pub const NAME: &str = "package-files";

/// The command. It is not among the others, for completions offer hidden ones too.
pub fn command() -> Command {
    Command::new(NAME)
        .about("Write the man pages and the completion scripts into a directory: man/ and completions/")
        .hide(true)
        .arg(Arg::new("directory").required(true).value_parser(value_parser!(PathBuf)).help("Created if it is missing"))
}

/// Runs it for the command line that is to be described: 0 when all files are written, 1 when one cannot be.
pub fn run(matches: &ArgMatches, described: Command) -> ExitCode {
    let directory = matches.get_one::<PathBuf>("directory");
    super::finish(directory.context("no directory was given").and_then(|directory| write_all(described, directory)))
}

fn write_all(mut command: Command, directory: &Path) -> Result<()> {
    command = command.disable_help_subcommand(true);
    command.build();
    let created = |name: &str| {
        let path = directory.join(name);
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display())).map(|()| path)
    };
    write_pages(&command, &created("man")?)?;
    let completions = created("completions")?;
    for shell in SHELLS {
        let path = completions.join(shell.file_name("sla-ledger"));
        fs::write(&path, self::completions(shell, &mut command))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// The completion script for a shell.
pub fn completions(shell: Shell, command: &mut Command) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, command, "sla-ledger", &mut script);
    let script = String::from_utf8_lossy(&script);
    match shell {
        // The cases have another name for the program than the variable that is looked up in them, because of its hyphen, so
        // nothing would be completed after a subcommand: https://github.com/clap-rs/clap/issues/6421
        Shell::Bash => script.replace("sla__subcmd__ledger", "sla__ledger"),
        _ => script.into_owned(),
    }
}

/// A page for the command and for each of its subcommands, hidden ones left out.
fn write_pages(command: &Command, directory: &Path) -> Result<()> {
    for subcommand in command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()) {
        write_pages(subcommand, directory)?;
    }
    let man = Man::new(command.clone())
        .source(format!("sla-ledger {}", build_info::VERSION))
        .date(build_info::REVISION_DATE.unwrap_or_default())
        .manual("sla-ledger");
    let path = directory.join(man.get_filename());
    let mut page = Vec::new();
    render(command, &man, &mut page)
        .and_then(|()| fs::write(&path, page))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// The sections of [`Man::render`], but the examples keep their lines, and the version is in the footer alone.
fn render(command: &Command, man: &Man, page: &mut impl Write) -> io::Result<()> {
    man.render_title(page)?;
    man.render_name_section(page)?;
    man.render_synopsis_section(page)?;
    man.render_description_section(page)?;
    man.render_options_section(page)?;
    if command.get_subcommands().any(|subcommand| !subcommand.is_hide_set()) {
        man.render_subcommands_section(page)?;
    }
    match command.get_after_help() {
        Some(text) => examples(&text.to_string()).to_writer(page),
        None => Ok(()),
    }
}

/// Help's last part as a section: indented lines stay as they are, others are text.
fn examples(text: &str) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["EXAMPLES"]);
    let mut verbatim = false;
    let lines = text.lines().filter(|line| *line != "Examples:" && !line.is_empty());
    for line in lines {
        let indented = line.starts_with(' ');
        if indented != verbatim {
            roff.control(if indented { "nf" } else { "fi" }, []);
            if !indented {
                roff.control("PP", []);
            }
        }
        verbatim = indented;
        roff.text([roman(line)]);
    }
    if verbatim {
        roff.control("fi", []);
    }
    roff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_keep_their_lines_and_text_flows() {
        let rendered =
            examples("Examples:\n  sla-ledger run   now\n  sla-ledger verify\n\nExit codes: 0 fine,\n1 not.").to_roff();
        let expected = ".SH EXAMPLES\n.nf\n  sla\\-ledger run   now\n  sla\\-ledger verify\n.fi\n.PP\nExit codes: 0 fine,\n1 not.\n";
        assert_eq!(rendered, expected);
    }
}
