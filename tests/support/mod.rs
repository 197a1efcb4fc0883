//! What the tests that run real processes share: waiting for conditions, and processes that never outlive the test.
//!
//! [`kafka`] runs Apache Kafka itself; [`Program`] runs our own binary. No test relies on sleeping: [`wait_until`]
//! waits for a condition and reports it if it did not occur in time.

#![allow(dead_code, reason = "each test binary uses its own part of this module")]

pub mod browser;
pub mod dashboards;
pub mod kafka;
pub mod prometheus;
pub mod terminal;
pub mod web;

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{LazyLock, Mutex, OnceLock, mpsc};
use std::time::{Duration, Instant};

/// How often a condition is checked.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// How many of a log's last lines a failure shows.
const LOG_TAIL_LINES: usize = 25;

/// How many characters of such a line it shows.
const LOG_TAIL_WIDTH: usize = 300;

/// A directory with the files of one test.
pub struct Files(tempfile::TempDir);

impl Files {
    /// An empty one.
    pub fn new() -> Files {
        Files(tempfile::tempdir().expect("a directory"))
    }

    /// Writes a file and returns its path.
    pub fn put(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        let path = self.0.path().join(name);
        fs::write(&path, bytes).expect("a file");
        path.display().to_string()
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

/// Waits until `condition` holds, and panics with `what` if it does not within `timeout`.
#[track_caller]
pub fn wait_until(what: &str, timeout: Duration, mut condition: impl FnMut() -> bool) {
    wait_for(what, timeout, || condition().then_some(()));
}

/// Waits until `probe` gives a value, and panics with `what` if that takes longer than `timeout`.
#[track_caller]
pub fn wait_for<T>(what: &str, timeout: Duration, probe: impl FnMut() -> Option<T>) -> T {
    match poll_for(timeout, probe) {
        Some(value) => value,
        None => panic!("waited {timeout:?} in vain for: {what}"),
    }
}

/// Calls `probe` until it gives a value or `timeout` is over. It is called at least once.
pub fn poll_for<T>(timeout: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(value) = probe() {
            return Some(value);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Where `scripts/test-deps.sh` keeps what is not the system's.
pub fn cache() -> PathBuf {
    let given = std::env::var_os("SLA_LEDGER_CACHE").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache/sla-ledger"));
    given.or_else(home).expect("HOME or SLA_LEDGER_CACHE")
}

/// A name no other test uses, not even in another run against the same cluster: `<stem>-<process>-<time>-<n>`.
pub fn unique(stem: &str) -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    static RUN: LazyLock<u64> = LazyLock::new(|| {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |now| now.as_secs())
    });
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{stem}-{}-{}-{n}", std::process::id(), *RUN)
}

/// A loopback port without a listener, which this process does not hand out again.
///
/// It is below the kernel's ephemeral ports: a broker that was down must find its port free when it comes back, so no
/// outgoing connection (not even a client's connection to that same port) may take it.
pub fn free_port() -> u16 {
    static GIVEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);
    let first_ephemeral = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|range| range.split_whitespace().next()?.parse().ok())
        .unwrap_or(32_768_u16);
    let candidates = 10_000..first_ephemeral.max(10_100);
    let mut given = GIVEN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    for _ in 0..10_000 {
        let port = rand::random_range(candidates.clone());
        if !given.contains(&port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            given.insert(port);
            return port;
        }
    }
    panic!("no free port among {candidates:?}");
}

/// What [`Program::signal`] sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// End at once; cannot be caught.
    Kill,
    /// Ask to end.
    Terminate,
    /// Ctrl-C.
    Interrupt,
    /// Reload.
    HangUp,
    /// Stand still; cannot be caught.
    Stop,
    /// Go on after `Stop`.
    Continue,
}

impl Signal {
    fn number(self) -> libc::c_int {
        match self {
            Signal::Kill => libc::SIGKILL,
            Signal::Terminate => libc::SIGTERM,
            Signal::Interrupt => libc::SIGINT,
            Signal::HangUp => libc::SIGHUP,
            Signal::Stop => libc::SIGSTOP,
            Signal::Continue => libc::SIGCONT,
        }
    }
}

/// A process with its output in a file. It is killed when this is dropped, and by the kernel when the test
/// process ends in any other way. `SLA_LEDGER_TEST_LOGS` names a directory that the log is then copied to.
pub struct Program {
    name: String,
    child: Child,
    log: PathBuf,
    /// Kept so that the log lives as long as the process.
    _directory: Option<tempfile::TempDir>,
}

impl Program {
    /// Starts our own binary with `arguments`; its output goes to a file in a temporary directory.
    ///
    /// For environment variables, make the command with [`Program::command`] and give it to [`Program::spawn`].
    pub fn start<A: AsRef<OsStr>>(name: &str, arguments: impl IntoIterator<Item = A>) -> Program {
        let mut command = Program::command();
        command.args(arguments);
        Program::spawn(name, command)
    }

    /// The command that runs our own binary, without arguments.
    pub fn command() -> Command {
        Command::new(env!("CARGO_BIN_EXE_sla-ledger"))
    }

    /// Starts `command`, with its output in a file in a temporary directory.
    pub fn spawn(name: &str, command: Command) -> Program {
        let (directory, log) = log_directory(name);
        Program::spawn_logging_to(name, command, log, Some(directory))
    }

    /// Starts `command` with a terminal's line as its input and output; its errors go to a file in a temporary directory.
    fn spawn_on_terminal(name: &str, mut command: Command, line: OwnedFd) -> Program {
        let (directory, log) = log_directory(name);
        let output = line.try_clone().expect("a second handle of the terminal");
        command.stdin(line).stdout(output).stderr(append_to(&log));
        Program::spawn_redirected(name, command, log, Some(directory))
    }

    /// Starts `command`, with its output appended to `log`.
    fn spawn_logging_to(
        name: &str,
        mut command: Command,
        log: PathBuf,
        directory: Option<tempfile::TempDir>,
    ) -> Program {
        let output = append_to(&log);
        let errors = output.try_clone().expect("a second handle of the log");
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        Program::spawn_redirected(name, command, log, directory)
    }

    /// Starts `command`, whose output goes where it should already.
    fn spawn_redirected(name: &str, command: Command, log: PathBuf, directory: Option<tempfile::TempDir>) -> Program {
        let shown = format!("{command:?}");
        let child = spawn_bound_to_this_process(command)
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}: {shown}"));
        Program { name: name.to_owned(), child, log, _directory: directory }
    }

    /// The name given at the start.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends `signal`. A process that has ended already is left alone.
    pub fn signal(&mut self, signal: Signal) {
        if self.exited().is_none() {
            send_signal(self.child.id(), signal.number());
        }
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGSTOP.
    pub fn pause(&mut self) {
        self.signal(Signal::Stop);
    }

    /// SIGCONT.
    pub fn resume(&mut self) {
        self.signal(Signal::Continue);
    }

    /// SIGTERM; returns at once, see [`Program::wait_exit`].
    pub fn terminate(&mut self) {
        self.signal(Signal::Terminate);
    }

    /// The exit status, if the process has ended.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the state of a child process")
    }

    /// Waits for the process to end, and panics with its log if it does not within `timeout`.
    #[track_caller]
    pub fn wait_exit(&mut self, timeout: Duration) -> ExitStatus {
        match poll_for(timeout, || self.exited()) {
            Some(status) => status,
            None => panic!("{} did not end within {timeout:?}{}", self.name, self.log_tail()),
        }
    }

    /// Waits until `condition` holds; panics with `what` and the log's tail if it does not within `timeout`,
    /// or as soon as the process ends before it does.
    #[track_caller]
    pub fn wait_until(&mut self, what: &str, timeout: Duration, mut condition: impl FnMut() -> bool) {
        let held = poll_for(timeout, || {
            // In this order: a condition that came true before the end counts.
            let ended = self.exited();
            match (condition(), ended) {
                (true, _) => Some(Ok(())),
                (false, Some(status)) => Some(Err(status)),
                (false, None) => None,
            }
        });
        match held {
            Some(Ok(())) => {}
            Some(Err(status)) => panic!("{} ended ({status}) before: {what}{}", self.name, self.log_tail()),
            None => panic!("{}: waited {timeout:?} in vain for: {what}{}", self.name, self.log_tail()),
        }
    }

    /// Waits until the process has written `text`.
    #[track_caller]
    pub fn wait_for_log(&mut self, text: &str, timeout: Duration) {
        let log = self.log.clone();
        self.wait_until(&format!("`{text}` in its log"), timeout, || read_lossy(&log).contains(text));
    }

    /// All that the process has written so far, standard output and error.
    pub fn log(&self) -> String {
        read_lossy(&self.log)
    }

    /// The file with what the process writes.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// The last lines of the log with a heading, made to be put behind a panic's message.
    pub fn log_tail(&self) -> String {
        log_tail(&self.name, &self.log)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if std::thread::panicking() {
            report(&self.log_tail());
        }
        self.kill();
        if let Some(directory) = std::env::var_os("SLA_LEDGER_TEST_LOGS") {
            let kept = Path::new(&directory).join(format!("{}-{}.log", self.name, self.pid()));
            if let Err(error) = fs::copy(&self.log, &kept) {
                report(&format!("cannot keep a log as {}: {error}", kept.display()));
            }
        }
    }
}

/// A temporary directory, and the log in it.
fn log_directory(name: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::Builder::new().prefix("sla-ledger-test-").tempdir().expect("a temporary directory");
    let log = directory.path().join(format!("{name}.log"));
    (directory, log)
}

fn append_to(log: &Path) -> File {
    let opened = File::options().create(true).append(true).open(log);
    opened.unwrap_or_else(|error| panic!("cannot open {}: {error}", log.display()))
}

fn read_lossy(path: &Path) -> String {
    fs::read(path).map_or_else(|_| String::new(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
}

fn log_tail(name: &str, path: &Path) -> String {
    let text = read_lossy(path);
    let lines: Vec<&str> = text.lines().collect();
    let first = lines.len().saturating_sub(LOG_TAIL_LINES);
    let mut tail = format!("\n--- {name}: the last {} of {} log lines ---\n", lines.len() - first, lines.len());
    for line in &lines[first..] {
        tail.extend(line.chars().take(LOG_TAIL_WIDTH).chain(['\n']));
    }
    tail + "---"
}

/// Writes to standard error, for a reader of a failed test.
pub fn report(text: &str) {
    eprintln!("{text}");
}

/// Starts `command` so that the kernel kills it when this process ends, however that happens.
///
/// The kernel's promise is bound to the *thread* that starts the child, and the thread of a test ends long
/// before the broker its binary shares; therefore one thread starts them all and lives to the end.
fn spawn_bound_to_this_process(mut command: Command) -> io::Result<Child> {
    type Order = (Command, mpsc::Sender<io::Result<Child>>);
    static SPAWNER: OnceLock<Mutex<mpsc::Sender<Order>>> = OnceLock::new();

    #[expect(unsafe_code, reason = "only a call between fork and exec can bind a child's life to ours")]
    // SAFETY: prctl is async-signal-safe and touches no memory of the parent.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }

    let spawner = SPAWNER.get_or_init(|| {
        let (orders, incoming) = mpsc::channel::<Order>();
        std::thread::Builder::new()
            .name("spawner".to_owned())
            .spawn(move || {
                for (mut command, reply) in incoming {
                    let _ = reply.send(command.spawn());
                }
            })
            .expect("the spawner thread");
        Mutex::new(orders)
    });
    let (reply, child) = mpsc::channel();
    spawner
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
        .send((command, reply))
        .expect("the spawner thread lives to the end");
    child.recv().expect("the spawner thread answers")
}

/// SIGKILL to a child that only its id is known of, and waits for its end.
#[expect(unsafe_code, reason = "a child in a static can be reached by its id only")]
fn end_by_pid(pid: u32) {
    let Ok(pid) = libc::pid_t::try_from(pid) else {
        return;
    };
    // SAFETY: neither call touches our memory (the status is not asked for); the pid is of a child not yet
    // waited for, so it is not reused.
    unsafe {
        libc::kill(pid, libc::SIGKILL);
        libc::waitpid(pid, std::ptr::null_mut(), 0);
    }
}

#[expect(unsafe_code, reason = "std sends SIGKILL only")]
fn send_signal(pid: u32, signal: libc::c_int) {
    let pid = libc::pid_t::try_from(pid).expect("a process id");
    // SAFETY: kill has no memory effects; the pid is of a child not yet waited for, so it is not reused.
    let result = unsafe { libc::kill(pid, signal) };
    assert_eq!(result, 0, "kill({pid}, {signal}): {}", io::Error::last_os_error());
}

/// Has `cleanup` called when the process exits: values in statics are never dropped.
fn at_exit(cleanup: extern "C" fn()) {
    #[expect(unsafe_code, reason = "std has no hook for the process's exit")]
    // SAFETY: `cleanup` is a plain function that lives as long as the program.
    let result = unsafe { libc::atexit(cleanup) };
    assert_eq!(result, 0, "atexit refused");
}
