//! `sla-ledger demo`: an embedded broker, generated traffic, the service itself, and a table of the riskiest tenants.

mod contract;

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio_util::sync::CancellationToken;

use crate::app::{Options, Service, Signals};
use crate::config::Config;
use crate::domain::availability::Level;
use crate::domain::standing::ServiceMonth;
use crate::generate::kafka::{KafkaOptions, KafkaSink};
use crate::generate::live::{self, Live};
use crate::http::Access;
use crate::kafka::embedded::{EmbeddedBroker, SHARDS};
use crate::logging;
use crate::logging::{LogFormat, LoggingConfig};
use crate::view::{Published, View};
use crate::visible::visible;
use contract::DemoContract;

/// Lines of the table on a terminal, and of each report elsewhere.
const ROWS: usize = 16;
const PLAIN_ROWS: usize = 6;

/// See a live ledger within a minute: broker, traffic of 200 tenants, service and table in one process.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  sla-ledger demo                        until Ctrl-C
  sla-ledger demo --for 30s | cat        plain lines, for 30 seconds
  sla-ledger demo --listen 127.0.0.1:0   on any free port")]
pub struct Args {
    /// Where /metrics, /livez and /readyz listen; a free port is taken if this one is not
    #[arg(long, default_value = "127.0.0.1:8464")]
    listen: SocketAddr,

    /// End after this long, e.g. 30s [default: until Ctrl-C]
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    lasting: Option<Duration>,

    /// Log level of the service: error, warn, info, debug
    #[arg(long, default_value = "error")]
    log_level: String,
}

/// Runs the demo; 0 when it was ended, 1 when it failed.
pub fn run(args: &Args) -> ExitCode {
    super::finish(super::runtime().and_then(|runtime| {
        let result = runtime.block_on(demo(args));
        runtime.shutdown_background();
        result
    }))
}

async fn demo(args: &Args) -> Result<()> {
    let logging = LoggingConfig { level: args.log_level.clone(), format: LogFormat::Text };
    logging::init(&logging).map_err(anyhow::Error::msg)?;
    let broker = EmbeddedBroker::start().context("the embedded broker does not start")?;
    let mut config = Config::new("api-calls", vec![broker.address()]);
    config.logging = logging;
    config.http.listen = free_address(args.listen);
    config.metrics.tenants = crate::config::ExportedTenants::All;
    broker.create_topics(&config).context("the embedded broker's topics cannot be created")?;
    let contract = DemoContract::write(&config, live::wall_clock_ms())?;
    let documents = contract.load(&config)?;
    let options = Options {
        config,
        documents,
        access: Access::default(),
        config_file: None,
        logging: None,
        embedded_shards: Some(SHARDS),
    };
    let service = Service::start(options).await?;
    let sent = Arc::new(AtomicU64::new(0));
    let failure = Arc::new(Mutex::new(None));
    let generator = spawn_generator(broker.address(), service.stop_token(), sent.clone(), failure.clone())?;
    let screen = Screen::new(&service, sent);
    screen.greet(contract.directory());
    if let Some(lasting) = args.lasting {
        let stop = service.stop_token();
        tokio::spawn(async move {
            tokio::time::sleep(lasting).await;
            stop.cancel();
        });
    }
    let drawing = tokio::spawn(screen.draw_until(service.stop_token()));
    let result = service.run(&mut Signals::listen()?).await.map(drop);
    _ = drawing.await;
    _ = generator.join();
    drop(broker);
    drop(contract);
    if let Some(error) = failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return result.and(Err(anyhow::anyhow!("the traffic generator failed: {error}")));
    }
    result
}

/// The address asked for, or a free port beside it when it is taken.
fn free_address(wanted: SocketAddr) -> SocketAddr {
    match std::net::TcpListener::bind(wanted) {
        Ok(_) => wanted,
        Err(_) => SocketAddr::new(wanted.ip(), 0),
    }
}

fn spawn_generator(
    brokers: String,
    stop: CancellationToken,
    sent: Arc<AtomicU64>,
    failure: Arc<Mutex<Option<String>>>,
) -> Result<std::thread::JoinHandle<()>> {
    let body = move || {
        // zstd, so that the embedded broker's few megabytes hold more than the service can be behind.
        let librdkafka = vec![("compression.type".to_owned(), "zstd".to_owned())];
        let options = KafkaOptions { brokers, topic: "api-calls".into(), no_key: false, librdkafka };
        let result = KafkaSink::connect(&options).map_err(|e| e.to_string()).and_then(|mut sink| {
            let live = Live::demo(live::wall_clock_ms());
            let report = |progress: live::Progress| sent.store(progress.sent, Ordering::Relaxed);
            live::run(&live, &mut sink, || stop.is_cancelled(), report).map_err(|e| e.to_string())
        });
        if let Err(error) = result
            && !stop.is_cancelled()
        {
            *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            stop.cancel();
        }
    };
    Ok(std::thread::Builder::new().name("generator".into()).spawn(body)?)
}

/// Draws the table: in place on a terminal, as plain lines elsewhere.
struct Screen {
    view: Arc<View>,
    address: SocketAddr,
    sent: Arc<AtomicU64>,
    terminal: bool,
}

impl Screen {
    fn new(service: &Service, sent: Arc<AtomicU64>) -> Self {
        Self { view: service.view.clone(), address: service.address, sent, terminal: std::io::stdout().is_terminal() }
    }

    fn greet(&self, contract: &Path) {
        let address = self.address;
        self.print(&format!(
            "sla-ledger demo: 200 tenants call a cloud call center; 99.50 % of their calls are promised to work.\n\
             \n\
             \x20 http://{address}/metrics          gauges per tenant and month (try: curl -s http://{address}/metrics | grep hooli)\n\
             \x20 http://{address}/api/v1/tenants   every tenant as JSON, riskiest first; /api/v1/openapi.json says what else there is\n\
             \x20 http://{address}/readyz           is it counting?\n\
             \x20 {}   the contract: terms, fees, notices, declarations, rulings\n\
             \n\
             Look at `hooli`: an incident begins ten seconds after the traffic does and takes it through every level\n\
             and tier. `acme` declared no call rate: clause 5.7 excludes failures of its busy seconds; some of `soylent`'s\n\
             are excluded by a ruling. The month's past is counted first, so the table starts full. Ctrl-C ends it.\n\n",
            contract.display()
        ));
    }

    async fn draw_until(self, stop: CancellationToken) {
        let every = Duration::from_secs(if self.terminal { 1 } else { 5 });
        let mut ticks = tokio::time::interval(every);
        let mut drawn = 0;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => {
                    self.draw(&mut drawn);
                    return;
                }
            }
            self.draw(&mut drawn);
        }
    }

    fn draw(&self, drawn: &mut usize) {
        let table = table(&self.view, self.sent.load(Ordering::Relaxed), if self.terminal { ROWS } else { PLAIN_ROWS });
        let mut out = String::new();
        if self.terminal && *drawn > 0 {
            _ = write!(out, "\x1b[{drawn}A\x1b[J");
        }
        *drawn = table.lines().count();
        out.push_str(&table);
        self.print(&out);
    }

    fn print(&self, text: &str) {
        let mut out = std::io::stdout();
        // A reader that went away has seen enough.
        _ = out.write_all(text.as_bytes());
        _ = out.flush();
    }
}

/// The riskiest tenants of the current month as a table.
fn table(view: &View, sent: u64, rows: usize) -> String {
    let Some(value) = view.published() else { return nothing_read(sent) };
    let standings = &value.standings;
    let Some(month) = standings.fleet().keys().next_back().copied() else {
        return nothing_read(sent);
    };
    let mut tenants: Vec<(&str, &ServiceMonth)> = standings
        .iter()
        .filter_map(|(tenant, months)| Some((&**tenant, months.iter().find(|m| m.period.month() == month)?)))
        .collect();
    let consumed = |m: &ServiceMonth| m.availability().consumed(m.policy.target());
    // The riskiest first: by the share of the budget consumed, without rounding.
    tenants.sort_by(|(a_name, a), (b_name, b)| {
        let ((an, ad), (bn, bd)) = (consumed(a), consumed(b));
        (bn * ad.max(1)).cmp(&(an * bd.max(1))).then_with(|| a_name.cmp(b_name))
    });
    let mut out = String::new();
    _ = writeln!(
        out,
        "{:<16} {:>9} {:>7} {:>9} {:>12} {:>5} {:>9} {:>12}  state",
        "tenant", "calls", "failed", "excluded", "availability", "tier", "left", "owed"
    );
    for (tenant, month) in tenants.iter().take(rows) {
        _ = writeln!(out, "{}", line(tenant, month));
    }
    let at_risk = tenants.iter().filter(|(_, m)| m.level() >= Level::Warn50).count();
    let breached = tenants.iter().filter(|(_, m)| m.level() == Level::Breach).count();
    let owed: Vec<_> = standings.fleet()[&month].money.iter().map(|(c, m)| c.format_amount(m.owed)).collect();
    let owed = if owed.is_empty() { String::new() } else { format!(", {} owed", owed.join(" + ")) };
    _ = writeln!(
        out,
        "{month}: {} tenants, {} of {sent} events read, {at_risk} at risk, {breached} of them below the target{owed}",
        tenants.len(),
        read(&value),
    );
    out
}

fn line(tenant: &str, month: &ServiceMonth) -> String {
    let (availability, figures) = (month.availability(), &month.figures);
    let shown = availability.percent().map_or("-".into(), |p| format!("{p} %"));
    let tier = month.tier().map_or("none", |t| t.name.as_str());
    let left = availability.failures_left(month.policy.target());
    let owed = month.money.map_or("-".into(), |m| m.currency().format_amount(m.payout.payout_minor));
    let (total, failed, excluded) = (figures.total(), figures.failed(), figures.excluded_total());
    let state = month.level().as_str();
    let tenant = visible(tenant);
    format!("{tenant:<16} {total:>9} {failed:>7} {excluded:>9} {shown:>12} {tier:>5} {left:>9} {owed:>12}  {state}")
}

fn nothing_read(sent: u64) -> String {
    format!("{sent} events sent, none read yet: the consumer group is forming\n")
}

fn read(value: &Published) -> u64 {
    value.book.shards().iter().filter_map(|s| s.checkpoint()).map(|c| c.totals.seen).sum()
}
