//! `sla-ledger demo`: an embedded broker, generated traffic, the service itself, and a table of the riskiest tenants.

mod closed;
mod contract;
mod screen;
mod table;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio_util::sync::CancellationToken;

use crate::app::{Options, Service, Signals};
use crate::config::Config;
use crate::generate::kafka::{KafkaOptions, KafkaSink};
use crate::generate::live::{self, Live, LiveError};
use crate::generate::sink::Sink;
use crate::generate::{Generator, Incident};
use crate::http::Access;
use crate::kafka::embedded::{EmbeddedBroker, SHARDS};
use crate::logging;
use crate::logging::{LogFormat, LoggingConfig};
use crate::report::archive::Archive;
use closed::Revisions;
use contract::{CLAIMANT, ClosedMonth, DemoContract};
use screen::Screen;

/// Maximum width of the table and the greeting, in terminal columns.
const WIDTH: usize = 80;

/// See a live ledger within a minute: broker, traffic of 200 tenants, service and table in one process.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  sla-ledger demo                        until Ctrl-C
  sla-ledger demo --for 30s | cat        plain lines, for 30 seconds (also with NO_COLOR=1)
  sla-ledger demo --listen 127.0.0.1:0   on any free port

Exit codes: 0 ended, 1 it failed, 2 invalid usage.")]
pub struct Args {
    /// Where /metrics, /livez and /readyz listen; a free port is taken if this one is not
    #[arg(long, default_value = "127.0.0.1:8464")]
    listen: SocketAddr,

    /// End after this long, e.g. 30s [default: until Ctrl-C]
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    lasting: Option<Duration>,

    /// Log level of the service: error, warn, info, debug; the screen hides the log of its own terminal, so send it
    /// elsewhere: 2> demo.log
    #[arg(long, default_value = "error")]
    log_level: String,
}

/// Runs the demo; 0 when it was stopped, 1 when it failed.
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
    // From here on a signal causes an orderly shutdown.
    let mut signals = Signals::listen()?;
    let broker = EmbeddedBroker::start().context("the embedded broker does not start")?;
    let mut config = Config::new("api-calls", vec![broker.address()]);
    config.logging = logging;
    config.http.listen = free_address(args.listen);
    config.metrics.tenants = crate::config::ExportedTenants::All;
    broker.create_topics(&config).context("the embedded broker's topics cannot be created")?;
    let contract = DemoContract::write(&config, live::wall_clock_ms())?;
    let documents = contract.load(&config)?;
    let (topic, zone) = (config.source.topic.clone(), config.counting.time_zone);
    let options = Options {
        config,
        documents: documents.clone(),
        access: Access::default(),
        config_file: None,
        logging: None,
        embedded_shards: Some(SHARDS),
    };
    let service = Service::start(options).await?;
    let address = service.address;
    let closed = contract.closed().clone();
    let traffic = Traffic { closed: closed.clone(), sent: Arc::default(), failure: Arc::default() };
    let generator = traffic.clone().spawn(broker.address(), service.stop_token())?;
    let month = closed.month;
    let revisions = Revisions {
        closed,
        documents,
        topic,
        zone,
        archive: Archive::open(contract.directory().join("statements"))?,
        url: format!("http://{address}/api/v1/tenants/{CLAIMANT}/months/{month}/statement?format=html"),
    };
    let screen = Screen::new(service.view.clone(), address, traffic.sent, revisions, contract.directory());
    if let Some(lasting) = args.lasting {
        let stop = service.stop_token();
        tokio::spawn(async move {
            tokio::time::sleep(lasting).await;
            stop.cancel();
        });
    }
    let drawing = tokio::spawn(screen.draw_until(service.stop_token()));
    let result = service.run(&mut signals).await.map(drop);
    let drawn = drawing.await.context("the screen's task panicked").and_then(|drawn| drawn);
    _ = generator.join();
    drop(contract);
    // It ends with the process: clients that are still being dropped on their own threads must not lose it and log
    // errors.
    std::mem::forget(broker);
    if let Some(error) = traffic.failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return result.and(Err(anyhow::anyhow!("the traffic generator failed: {error}")));
    }
    result.and(drawn)
}

/// The address asked for, or a free port beside it when it is taken.
fn free_address(wanted: SocketAddr) -> SocketAddr {
    match std::net::TcpListener::bind(wanted) {
        Ok(_) => wanted,
        Err(_) => SocketAddr::new(wanted.ip(), 0),
    }
}

/// The generated traffic and its progress.
#[derive(Clone)]
struct Traffic {
    closed: ClosedMonth,
    /// Events sent so far.
    sent: Arc<AtomicU64>,
    /// Why it ended early.
    failure: Arc<Mutex<Option<String>>>,
}

impl Traffic {
    fn spawn(self, brokers: String, stop: CancellationToken) -> Result<std::thread::JoinHandle<()>> {
        let body = move || {
            // zstd, so that the embedded broker's few megabytes hold more than the service can be behind.
            let librdkafka = vec![("compression.type".to_owned(), "zstd".to_owned())];
            let options = KafkaOptions { brokers, topic: "api-calls".into(), no_key: false, librdkafka };
            let result = KafkaSink::connect(&options)
                .map_err(LiveError::from)
                .and_then(|mut sink| self.send(&mut sink, || stop.is_cancelled()));
            if let Err(error) = result
                && !stop.is_cancelled()
            {
                *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
                stop.cancel();
            }
        };
        Ok(std::thread::Builder::new().name("generator".into()).spawn(body)?)
    }

    /// The closed month and what follows it, then this month and live calls.
    fn send(&self, sink: &mut impl Sink, stop: impl Fn() -> bool) -> Result<(), LiveError> {
        let live = Live::demo(live::wall_clock_ms());
        let ClosedMonth { start_ms, outage_ms, .. } = &self.closed;
        let outage = Incident {
            tenant: Some(CLAIMANT.to_owned()),
            starts_after_ms: outage_ms.start - start_ms,
            lasts_ms: outage_ms.end - outage_ms.start,
            share: 0.6,
        };
        let mut past = Generator::new(live.demo_past(*start_ms, outage))?;
        let report = |sent| self.sent.store(sent, Ordering::Relaxed);
        live::send_all(&mut past, live.backfill_rate, sink, &stop, |progress| report(progress.sent))?;
        let before = past.sent();
        live::run(&live, sink, stop, |progress| report(before + progress.sent)).map(drop)
    }
}
