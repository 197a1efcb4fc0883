//! A pseudo-terminal for our own program, and what it shows.

use std::fs::File;
use std::io::{self, Read, Write};
use std::num::NonZeroU16;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Program;

/// A terminal; sizes are rows and columns.
pub struct Terminal {
    control: File,
    shown: Arc<Mutex<Shown>>,
}

struct Shown {
    parser: vt100::Parser,
    /// All that was written to it.
    bytes: Vec<u8>,
}

impl Terminal {
    /// Starts our own binary on a terminal of this size. The program's log is what it writes to standard error.
    pub fn start(name: &str, arguments: &[&str], environment: &[(&str, &str)], size: [u16; 2]) -> (Terminal, Program) {
        let (control, line) = open(size);
        // With the terminal as its controlling one, so that it is notified of a resize and Ctrl-C reaches it.
        let mut command = Command::new("setsid");
        command.arg("--ctty").arg(Program::command().get_program()).args(arguments);
        command.env_remove("NO_COLOR").env("TERM", "xterm-256color").envs(environment.iter().copied());
        let program = Program::spawn_on_terminal(name, command, line);
        let [rows, columns] = size.map(nonzero);
        let parser = vt100::Parser::new(rows, columns, 0);
        let terminal = Terminal { control, shown: Arc::new(Mutex::new(Shown { parser, bytes: Vec::new() })) };
        terminal.listen();
        (terminal, program)
    }

    /// Collects what is written, on a thread that ends with the program: a terminal whose other end is closed cannot be
    /// read.
    fn listen(&self) {
        let mut reading = self.control.try_clone().expect("a second handle of the terminal");
        let shown = self.shown.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4_096];
            while let Ok(read @ 1..) = reading.read(&mut buffer) {
                let mut shown = lock(&shown);
                shown.bytes.extend_from_slice(&buffer[..read]);
                shown.parser.process(&buffer[..read]);
            }
        });
    }

    /// Gives it another size. What it shows is cut, not reflowed.
    pub fn resize(&self, size: [u16; 2]) {
        // Before the program is notified: what it writes then is meant for the new size.
        let [rows, columns] = size.map(nonzero);
        lock(&self.shown).parser.screen_mut().set_size(rows, columns);
        let size = winsize(size);
        #[expect(unsafe_code, reason = "std knows no terminals")]
        // SAFETY: the request reads one `winsize`, which lives until it returns.
        let result = unsafe { libc::ioctl(self.control.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
        assert_eq!(result, 0, "the terminal's size: {}", io::Error::last_os_error());
    }

    /// Types, as on a keyboard: `"\x03"` is Ctrl-C.
    pub fn type_in(&mut self, keys: &str) {
        self.control.write_all(keys.as_bytes()).expect("a terminal that takes keys");
    }

    /// What is on it now.
    pub fn screen(&self) -> vt100::Screen {
        lock(&self.shown).parser.screen().clone()
    }

    /// All that was written to it.
    pub fn written(&self) -> String {
        String::from_utf8_lossy(&lock(&self.shown).bytes).into_owned()
    }
}

fn lock(shown: &Mutex<Shown>) -> MutexGuard<'_, Shown> {
    shown.lock().unwrap_or_else(PoisonError::into_inner)
}

fn nonzero(length: u16) -> NonZeroU16 {
    NonZeroU16::new(length).expect("a size")
}

fn winsize([ws_row, ws_col]: [u16; 2]) -> libc::winsize {
    libc::winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 }
}

/// A pseudo terminal: its controlling side, and the line that programs are on.
fn open(size: [u16; 2]) -> (File, OwnedFd) {
    let (mut control, mut line) = (-1, -1);
    let size = winsize(size);
    #[expect(unsafe_code, reason = "std knows no terminals")]
    // SAFETY: openpty writes the two descriptors and reads the size; all live until it returns. On success both
    // descriptors are open and not owned elsewhere.
    unsafe {
        let result = libc::openpty(&mut control, &mut line, ptr::null_mut(), ptr::null(), &size);
        assert_eq!(result, 0, "no terminal: {}", io::Error::last_os_error());
        for descriptor in [control, line] {
            // Otherwise the children of other tests keep it open.
            libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC);
        }
        (File::from_raw_fd(control), OwnedFd::from_raw_fd(line))
    }
}
