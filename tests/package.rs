//! The Debian package: what `scripts/package` makes of this binary, and what installing, upgrading, removing and
//! purging it does to a minimal Debian.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use tools::{BINARY, ROOT, read, run};

#[path = "support/tools.rs"]
mod tools;

/// Set by those who cannot be root: the tests that need it then say that they were left out.
const WITHOUT_ROOT: &str = "SLA_LEDGER_TEST_WITHOUT_ROOT";

/// The packages of this binary, made once for all tests.
struct Packages {
    directory: tempfile::TempDir,
}

impl Packages {
    fn path(&self, suffix: &str) -> PathBuf {
        let files = fs::read_dir(self.directory.path()).expect("the packages").map(|file| file.expect("a file").path());
        let mut found = files.filter(|path| path.to_str().is_some_and(|path| path.ends_with(suffix)));
        let first = found.next().unwrap_or_else(|| panic!("no file ends in {suffix}"));
        assert_eq!(found.next(), None, "one file ends in {suffix}");
        first
    }

    /// The package itself.
    fn deb(&self) -> PathBuf {
        self.path(".deb")
    }

    /// Its content, unpacked.
    fn unpack(&self, suffix: &str) -> tempfile::TempDir {
        let to = tempfile::tempdir().expect("a directory");
        run(Command::new("dpkg-deb").arg("--extract").arg(self.path(suffix)).arg(to.path()));
        to
    }
}

static PACKAGES: LazyLock<Packages> = LazyLock::new(|| {
    let directory = tempfile::tempdir().expect("a directory");
    run(Command::new("scripts/package").args(["--binary", BINARY, "--output"]).arg(directory.path()));
    Packages { directory }
});

/// What `package-files` writes.
fn package_files() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    run(Command::new(BINARY).arg("package-files").arg(directory.path()));
    directory
}

/// What `--help` of a command says.
fn help(command: &[String]) -> String {
    run(Command::new(BINARY).args(command).arg("--help")).0
}

/// A command and all below it, as their arguments; `help` is left out.
fn commands_below(command: &[String]) -> Vec<Vec<String>> {
    let mut commands = vec![command.to_vec()];
    let help = help(command);
    let list = help.split_once("\nCommands:\n").map_or("", |(_, rest)| rest);
    let list = list.split_once("\n\n").map_or(list, |(list, _)| list);
    // What is indented further continues a description.
    for name in list.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next()) {
        if !["", "help"].contains(&name) {
            commands.extend(commands_below(&[command, &[name.to_owned()]].concat()));
        }
    }
    commands
}

fn commands() -> Vec<Vec<String>> {
    let commands = commands_below(&[]);
    assert!(commands.len() > 10, "{commands:?}");
    commands
}

/// The name of a command's page.
fn page_of(command: &[String]) -> String {
    std::iter::once("sla-ledger").chain(command.iter().map(String::as_str)).collect::<Vec<_>>().join("-")
}

#[test]
fn every_command_has_a_man_page_with_all_its_flags() {
    let directory = package_files();
    let pages = directory.path().join("man");
    let expected: BTreeSet<_> = commands().iter().map(|command| page_of(command) + ".1").collect();
    let found: BTreeSet<_> = fs::read_dir(&pages)
        .expect("the pages")
        .map(|page| page.expect("a page").file_name().into_string().expect("a name"))
        .collect();
    assert_eq!(found, expected);
    for command in commands() {
        let name = page_of(&command);
        // As lintian asks man: every warning of groff, and the output of a terminal.
        let (text, warnings) = run(Command::new("man")
            .env("LC_ALL", "C.UTF-8")
            .env("MANWIDTH", "120")
            .args(["--warnings", "--encoding=UTF-8", "--local-file"])
            .arg(pages.join(format!("{name}.1"))));
        assert_eq!(warnings, "", "{name}");
        let help = help(&command);
        for flag in help.lines().filter_map(|line| line.trim_start().strip_prefix("--")?.split([' ', ',']).next()) {
            assert!(text.contains(flag), "{name} lacks {flag}:\n{text}");
        }
        assert!(text.contains(&format!("sla-ledger {}", env!("CARGO_PKG_VERSION"))), "{name}: {text}");
    }
}

#[test]
fn examples_of_man_pages_keep_their_lines() {
    let directory = package_files();
    let (text, _) = run(Command::new("man")
        .env("LC_ALL", "C.UTF-8")
        .args(["--local-file"])
        .arg(directory.path().join("man/sla-ledger-check-config.1")));
    let (_, examples) = text.split_once("EXAMPLES\n").expect("the section");
    let lines: Vec<_> = examples.lines().map(str::trim).take(2).collect();
    assert_eq!(lines, ["sla-ledger check-config", "sla-ledger check-config --config ./config --rate 20000"]);
}

#[test]
fn completions_know_the_commands() {
    let directory = package_files();
    let completions = directory.path().join("completions");
    // What bash offers for `sla-ledger ch`, and for `sla-ledger statement --form`.
    for (words, expected) in [("ch", "check-config"), ("statement --form", "--format")] {
        let script = format!(
            "source {}/sla-ledger.bash\nCOMP_WORDS=(sla-ledger {words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))\n\
             _sla__ledger sla-ledger \"${{COMP_WORDS[-1]}}\" \"${{COMP_WORDS[-2]}}\"; echo \"${{COMPREPLY[*]}}\"",
            completions.display()
        );
        assert_eq!(run(Command::new("bash").args(["-c", &script])).0.trim(), expected);
    }
    for file in ["_sla-ledger", "sla-ledger.fish"] {
        let text = fs::read_to_string(completions.join(file)).expect(file);
        for command in commands().into_iter().flatten() {
            assert!(text.contains(&command), "{file} lacks {command}");
        }
        assert!(!text.contains("package-files"), "{file} offers what is hidden");
    }
}

#[test]
fn lintian_finds_no_mistake_in_the_package() {
    run(Command::new("lintian").args(["--allow-root", "--fail-on=error,warning"]).arg(PACKAGES.deb()));
}

#[test]
fn the_packages_version_is_the_programs() {
    let first = read("deploy/debian/changelog").lines().next().map(str::to_owned).expect("an entry");
    assert!(first.starts_with(&format!("sla-ledger ({}-", env!("CARGO_PKG_VERSION"))), "{first}");
    let (field, _) = run(Command::new("dpkg-deb").arg("--field").arg(PACKAGES.deb()).arg("Version"));
    assert!(first.contains(&format!("({})", field.trim())), "{first}: {field}");
}

/// A binary's build id, as in the path of its debug symbols.
fn build_id(binary: &Path) -> String {
    let (notes, _) = run(Command::new("readelf").arg("--notes").arg(binary));
    let id = notes.split_once("Build ID: ").unwrap_or_else(|| panic!("no build id: {notes}")).1;
    let id = id.split_whitespace().next().expect("an id");
    format!("{}/{}.debug", &id[..2], &id[2..])
}

/// What a panic's backtrace needs: the symbols of the very binary, where debuggers and the program itself look for them.
#[test]
fn line_numbers_are_in_the_package_of_debug_symbols() {
    let (package, symbols) = (PACKAGES.unpack(".deb"), PACKAGES.unpack(".ddeb"));
    let binary = package.path().join("usr/bin/sla-ledger");
    let (sections, _) = run(Command::new("readelf").args(["--section-headers", "--wide"]).arg(&binary));
    assert!(!sections.contains(".debug_line") && !sections.contains(".symtab"), "not stripped: {sections}");
    let debug = symbols.path().join("usr/lib/debug/.build-id").join(build_id(&binary));
    let (names, _) = run(Command::new("nm").args(["--demangle", "--defined-only"]).arg(&debug));
    let main = names.lines().find(|line| line.ends_with(" sla_ledger::cli::main")).expect("the function");
    let address = main.split_whitespace().next().expect("an address");
    let (line, _) = run(Command::new("addr2line").arg("--exe").arg(&debug).arg(address));
    assert!(line.contains("src/cli.rs:"), "{line}");
}

/// A bare Debian that is thrown away at the end.
struct Chroot(tempfile::TempDir);

impl Chroot {
    /// `None`: this user may not have one and has said so; a note was printed.
    fn new() -> Option<Chroot> {
        let (user, _) = run(Command::new("id").arg("--user"));
        if user.trim() != "0" {
            assert!(
                std::env::var_os(WITHOUT_ROOT).is_some(),
                "installing the package is tried in a chroot, which only root may have: run the tests as root, or set \
                 {WITHOUT_ROOT}=1 to leave this test out"
            );
            let note = format!("note: {WITHOUT_ROOT} is set: installing the package was NOT tested\n");
            // Past the test harness, which keeps what passing tests print to itself.
            std::io::Write::write_all(&mut std::io::stderr(), note.as_bytes()).expect("stderr");
            return None;
        }
        let (path, _) = run(Command::new("scripts/debian-root").args(["package", "systemd", "man-db"]));
        let root = tempfile::tempdir().expect("a directory");
        let from = format!("{}/.", path.trim());
        run(Command::new("cp").args(["--archive", "--reflink=auto", &from]).arg(root.path()));
        fs::copy(PACKAGES.deb(), root.path().join("root/sla-ledger.deb")).expect("the package");
        Some(Chroot(root))
    }

    /// A shell command in it, with its own /proc and processes.
    fn shell(&self, script: &str) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child"]);
        command.arg(format!("--mount-proc={}/proc", self.0.path().display()));
        command.arg("chroot").arg(self.0.path()).args(["/bin/sh", "-ec", script]).env_clear();
        let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        command.envs([("PATH", path), ("LC_ALL", "C.UTF-8"), ("DEBIAN_FRONTEND", "noninteractive"), ("HOME", "/root")]);
        command
    }

    /// Runs it to success: what it wrote to stdout.
    #[track_caller]
    fn run(&self, script: &str) -> String {
        run(&mut self.shell(script)).0.trim_end().to_owned()
    }

    /// Whether it succeeds.
    fn succeeds(&self, script: &str) -> bool {
        self.shell(script).output().expect("unshare").status.success()
    }

    /// Every path with owner and mode, those left out that dpkg, apt and the man pages' index keep for themselves.
    fn files(&self) -> BTreeMap<String, String> {
        let listed = self.run("find / -xdev -path /proc -prune -o -printf '%p %u:%g %m\\n'");
        let own = ["/var/lib/dpkg", "/var/lib/apt", "/var/cache", "/var/log", "/tmp", "/root", "/run"];
        let of = |line: &str| line.split_once(' ').map(|(path, mode)| (path.to_owned(), mode.to_owned()));
        let files = listed.lines().filter_map(of);
        files.filter(|(path, _)| !own.iter().any(|own| path.starts_with(own))).collect()
    }

    /// The lines of the users' and groups' files that name the service's user.
    fn accounts(&self) -> String {
        self.run("grep --no-filename ^sla-ledger: /etc/passwd /etc/group /etc/shadow /etc/gshadow || true")
    }
}

const INSTALL: &str = "apt-get install --yes --no-install-recommends /root/sla-ledger.deb";

#[test]
fn the_package_installs_upgrades_and_goes() {
    let Some(debian) = Chroot::new() else { return };
    let before = debian.files();
    debian.run(INSTALL);
    the_installed_program_works(&debian);
    the_service_waits_for_its_configuration(&debian);
    only_the_service_may_read_the_configuration(&debian);

    let edited =
        "sed -i 's/topic: api-calls/topic: my-calls/' /etc/sla-ledger/sla-ledger.yaml\nchmod 700 /etc/sla-ledger";
    debian.run(edited);
    debian.run("dpkg --install /root/sla-ledger.deb");
    let kept = |debian: &Chroot| debian.run("sla-ledger check-config 2>&1 || cat /etc/sla-ledger/sla-ledger.yaml");
    assert!(kept(&debian).contains("my-calls"), "an upgrade keeps an edited file");
    assert_eq!(debian.run("stat --format=%a /etc/sla-ledger"), "700", "and a mode that was changed");

    debian.run("echo tenants > /etc/sla-ledger/own.csv && apt-get remove --yes sla-ledger");
    assert!(!debian.succeeds("command -v sla-ledger") && !debian.succeeds("systemctl cat sla-ledger"));
    assert!(kept(&debian).contains("my-calls"), "the configuration stays after a removal");
    assert_ne!(debian.accounts(), "", "and so does the owner's group");

    debian.run("apt-get purge --yes sla-ledger");
    assert_eq!(
        debian.run("find /etc/sla-ledger"),
        "/etc/sla-ledger\n/etc/sla-ledger/own.csv",
        "what was added by hand stays"
    );
    assert_eq!(debian.accounts(), "");
    debian.run("rm -r /etc/sla-ledger");
    let after = debian.files();
    let new: Vec<_> = after.iter().filter(|(path, mode)| before.get(*path) != Some(*mode)).collect();
    let gone: Vec<_> = before.keys().filter(|path| !after.contains_key(*path)).collect();
    assert!(new.is_empty() && gone.is_empty(), "left behind or changed: {new:?}; gone: {gone:?}");
}

fn the_installed_program_works(debian: &Chroot) {
    let version = debian.run("sla-ledger --version");
    assert!(version.starts_with(concat!("sla-ledger ", env!("CARGO_PKG_VERSION"))), "{version}");
    let checked = debian.run("sla-ledger check-config");
    assert!(checked.contains("/etc/sla-ledger/sla-ledger.yaml: no mistakes"), "{checked}");
    for command in commands() {
        let page = page_of(&command);
        assert_eq!(debian.run(&format!("man -w {page}")), format!("/usr/share/man/man1/{page}.1.gz"));
    }
    // The examples as an administrator copies them.
    debian.run("cp -r /etc/sla-ledger /tmp/own && cp -r /usr/share/doc/sla-ledger/examples/. /tmp/own");
    debian.run("sla-ledger check-config /tmp/own");
}

fn the_service_waits_for_its_configuration(debian: &Chroot) {
    let (out, err) = run(&mut debian.shell("systemd-analyze verify sla-ledger.service"));
    assert_eq!(out + &err, "");
    // It exits with 1 where it says this.
    assert_eq!(debian.run("systemctl is-enabled sla-ledger || true"), "disabled");
    assert!(!debian.succeeds("find /etc/systemd -name 'sla-ledger*' | grep ."), "nothing starts it at the next boot");
}

fn only_the_service_may_read_the_configuration(debian: &Chroot) {
    let user = debian.run("getent passwd sla-ledger");
    assert!(user.ends_with(":/usr/sbin/nologin"), "{user}");
    let stat = |path: &str| debian.run(&format!("stat --format='%U:%G %a' {path}"));
    assert_eq!(stat("/etc/sla-ledger"), "root:sla-ledger 750");
    assert_eq!(stat("/etc/sla-ledger/sla-ledger.yaml"), "root:root 644");
    assert_eq!(stat("/usr/bin/sla-ledger"), "root:root 755");
    let of_root = debian.run("dpkg --listfiles sla-ledger | xargs stat --format='%n %U:%G'");
    let foreign: Vec<_> = of_root.lines().filter(|line| !line.ends_with(" root:root")).collect();
    assert_eq!(foreign, ["/etc/sla-ledger root:sla-ledger"]);
    let as_user = |user: &str, group: &str| {
        debian.succeeds(&format!("setpriv --reuid={user} --regid={group} --clear-groups sla-ledger check-config"))
    };
    assert!(as_user("sla-ledger", "sla-ledger"), "the service reads it");
    assert!(!as_user("nobody", "nogroup"), "others do not");
    let conffiles = debian.run("dpkg-query --showformat='${Conffiles}' --show sla-ledger");
    let conffiles: BTreeSet<_> = conffiles.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let config = run(Command::new("git").args(["ls-files", "config"])).0;
    let config: BTreeSet<_> = config.lines().map(|path| path.replacen("config/", "/etc/sla-ledger/", 1)).collect();
    assert_eq!(conffiles.iter().map(|path| (*path).to_owned()).collect::<BTreeSet<_>>(), config);
}

#[test]
fn the_script_refuses_what_it_does_not_know() {
    let output = Command::new("scripts/package").current_dir(ROOT).arg("--binaries").output().expect("the script");
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("unknown argument --binaries"));
}
