//! What the demo shows: a screen that is redrawn on a terminal, plain lines elsewhere.

use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use console::{Term, truncate_str};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::closed::Revisions;
use super::contract::CLAIMANT;
use super::table::{FRAME, table};
use crate::kafka::tail::now_ms;
use crate::view::View;

/// Tenants of the table on a terminal, if it is high enough, and of each report elsewhere.
const ROWS: usize = 16;
const PLAIN_ROWS: usize = 6;
/// The greeting makes room for at least this many tenants.
const LEAST_ROWS: usize = 8;

/// xterm's alternate screen: what was on the terminal before comes back afterwards.
const ENTER_ALTERNATE: &str = "\x1b[?1049h";
const LEAVE_ALTERNATE: &str = "\x1b[?1049l";

/// Draws until the demo ends.
pub(super) struct Screen {
    view: Arc<View>,
    address: SocketAddr,
    /// Events sent so far.
    sent: Arc<AtomicU64>,
    revisions: Revisions,
    greeting: Vec<String>,
    /// Where the closed month's statements are, once they are issued.
    closed: Option<Vec<String>>,
}

impl Screen {
    pub(super) fn new(
        view: Arc<View>,
        address: SocketAddr,
        sent: Arc<AtomicU64>,
        revisions: Revisions,
        contract: &Path,
    ) -> Self {
        let greeting = greeting(address, contract, &revisions);
        Self { view, address, sent, revisions, greeting, closed: None }
    }

    /// Greets, and draws until `stop`.
    ///
    /// # Errors
    /// The system refuses to report changes of the terminal's size.
    pub(super) async fn draw_until(mut self, stop: CancellationToken) -> Result<()> {
        print(&self.greeting);
        if !redraws() {
            self.report_until(stop).await;
            return Ok(());
        }
        let mut resized: Signal = signal(SignalKind::window_change())?;
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        let terminal = Terminal::enter();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = resized.recv() => {}
                () = stop.cancelled() => break,
            }
            self.issue();
            let (height, _) = terminal.0.size();
            terminal.draw(&self.lines(height.into()));
        }
        drop(terminal);
        print(&self.table(ROWS));
        print(self.closed.as_deref().unwrap_or_default());
        Ok(())
    }

    /// A report every five seconds, and where the closed month is: once it is there, and at the end.
    async fn report_until(&mut self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(Duration::from_secs(5));
        loop {
            let ends = tokio::select! {
                _ = ticks.tick() => false,
                () = stop.cancelled() => true,
            };
            print(&self.table(PLAIN_ROWS));
            let issued = self.issue();
            if issued || ends {
                print(self.closed.as_deref().unwrap_or_default());
            }
            if ends {
                return;
            }
        }
    }

    /// Issues the closed month's statements if they can be issued now; were they?
    fn issue(&mut self) -> bool {
        let Some(value) = self.view.published().filter(|_| self.closed.is_none()) else { return false };
        self.closed = self.revisions.issue(&value, now_ms()).unwrap_or_else(|error| {
            Some(vec![format!("the statements of {} were not archived: {error:#}", self.revisions.closed.month)])
        });
        self.closed.is_some()
    }

    fn table(&self, rows: usize) -> Vec<String> {
        table(self.view.published().as_deref(), self.sent.load(Ordering::Relaxed), rows)
    }

    /// A screen of this height: what does not fit is left out, the greeting first, then tenants.
    fn lines(&self, height: usize) -> Vec<String> {
        let closed = self.closed.as_deref().unwrap_or_default();
        let hint = format!("http://{}/ is the page; /metrics, /readyz. Ctrl-C ends the demo.", self.address);
        let below = FRAME + closed.len();
        let above = match height >= self.greeting.len() + LEAST_ROWS + below {
            true => self.greeting.clone(),
            false => vec![hint],
        };
        let rows = height.saturating_sub(above.len() + below).clamp(1, ROWS);
        [above, self.table(rows), closed.to_vec()].concat()
    }
}

/// What there is to see, and where.
fn greeting(address: SocketAddr, contract: &Path, revisions: &Revisions) -> Vec<String> {
    let places = [
        (format!("http://{address}/"), "the page: open it in a browser"),
        (format!("http://{address}/metrics"), "gauges per tenant and month"),
        (format!("http://{address}/api/v1/tenants"), "all tenants as JSON, riskiest first"),
        (format!("http://{address}/readyz"), "readiness, with reasons"),
        (contract.display().to_string(), "the contract: orders, bills, rulings"),
    ];
    let width = places.iter().map(|(place, _)| place.len()).max().unwrap_or(0);
    let month = revisions.closed.month;
    let mut lines = vec!["sla-ledger demo: 200 tenants with a promised availability of 99.50 %.".into(), String::new()];
    lines.extend(places.iter().map(|(place, what)| format!("  {place:<width$}  {what}")));
    lines.extend([
        String::new(),
        "hooli    an incident starts after ten seconds and takes it through all tiers".into(),
        "acme     declared no call rate: clause 5.7 excludes failures of busy seconds".into(),
        "soylent  a ruling excludes some of its failures".into(),
        String::new(),
        format!("{month} is closed. {CLAIMANT} can claim compensation; a late ruling changed it:"),
        revisions.url.clone(),
        String::new(),
        "Past calls are counted first, so the table starts full. Ctrl-C ends the demo.".into(),
        String::new(),
    ]);
    lines
}

/// Is the output a terminal that redraws? `NO_COLOR` and `TERM=dumb` ask for plain lines.
fn redraws() -> bool {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    io::stdout().is_terminal() && set("NO_COLOR").is_none() && set("TERM").is_some_and(|term| term != "dumb")
}

fn print(lines: &[String]) {
    let mut out = io::stdout().lock();
    // A reader that went away has seen enough.
    _ = lines.iter().try_for_each(|line| writeln!(out, "{line}")).and_then(|()| out.flush());
}

/// The terminal's alternate screen; left when this is dropped.
struct Terminal(Term);

impl Terminal {
    fn enter() -> Self {
        let term = Term::buffered_stdout();
        // A terminal that went away needs no screen.
        _ = term.write_str(ENTER_ALTERNATE).and_then(|()| term.hide_cursor()).and_then(|()| term.flush());
        Self(term)
    }

    /// Redraws every line, cut to the terminal's current size, so that nothing wraps, and leftovers of a resize or of
    /// other output are cleared.
    fn draw(&self, lines: &[String]) {
        _ = self.try_draw(lines);
    }

    fn try_draw(&self, lines: &[String]) -> io::Result<()> {
        let (height, width) = self.0.size();
        for (row, line) in lines.iter().take(height.into()).enumerate() {
            self.0.move_cursor_to(0, row)?;
            self.0.clear_line()?;
            self.0.write_str(&truncate_str(line, width.into(), ""))?;
        }
        if lines.len() < usize::from(height) {
            self.0.move_cursor_to(0, lines.len())?;
            self.0.clear_to_end_of_screen()?;
        }
        self.0.flush()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let term = &self.0;
        _ = term.write_str(LEAVE_ALTERNATE).and_then(|()| term.show_cursor()).and_then(|()| term.flush());
    }
}
