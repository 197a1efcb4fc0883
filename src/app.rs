//! All the wiring: start, reload, drain, stop.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use arc_swap::ArcSwap;
use rdkafka::ClientConfig;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use self::office::{Office, watch_rulings};
use self::reload::Reloader;
use self::render::render;
use crate::config::Config;
use crate::documents::DocumentSet;
use crate::domain::contract::Contract;
use crate::health::{Beating, FaultKind, Health};
use crate::http::{self, Access, AppState, Door, Reloads};
use crate::kafka::tail::{TailNews, now_ms};
use crate::kafka::topics::Unreachable;
use crate::kafka::{lag, registry, tail, topics, watch, worker};
use crate::logging;
use crate::metrics::process::ProcessMetrics;
use crate::notify;
use crate::pipeline::clock::HoldBound;
use crate::supervisor::Supervisor;
use crate::view::{Editor, View};

mod office;
mod reload;
mod render;

/// How long a stop may take before the process ends anyway.
const DRAIN: Duration = Duration::from_secs(9);

/// How often the worker and the tail are checked.
const PULSE: Duration = Duration::from_secs(1);
/// After this many checks without a loop iteration the worker or the tail is considered hung: longer than anything that
/// they wait for.
const MISSED_LOOKS: u32 = 90;

/// Are worker and tail alive? A hung one ends the process: the service manager restarts it, and the other instances
/// take its shards.
#[derive(Debug, Default)]
struct Pulse {
    rounds: [u64; Beating::ALL.len()],
    missed: [u32; Beating::ALL.len()],
}

impl Pulse {
    /// The hung thread, if any.
    fn look(&mut self, rounds: [u64; Beating::ALL.len()]) -> Option<Beating> {
        for (missed, (before, now)) in self.missed.iter_mut().zip(self.rounds.iter().zip(rounds)) {
            *missed = if now == *before { *missed + 1 } else { 0 };
        }
        self.rounds = rounds;
        Beating::ALL.into_iter().find(|thread| self.missed[*thread as usize] >= MISSED_LOOKS)
    }
}

/// A thread and what it is called in errors.
type NamedThread = (&'static str, std::thread::JoinHandle<Result<()>>);

/// What a running service consists of.
pub struct Service {
    /// The published figures.
    pub view: Arc<View>,
    /// The active configuration.
    pub config: Arc<ArcSwap<Config>>,
    /// The contract's active documents.
    pub documents: Arc<ArcSwap<DocumentSet>>,
    /// Process metrics.
    pub metrics: Arc<ProcessMetrics>,
    /// Readiness.
    pub health: Arc<Health>,
    /// Where HTTP listens.
    pub address: std::net::SocketAddr,
    supervisor: Arc<Supervisor>,
    office: Arc<Office>,
    reloads: Reloads,
    watching: tokio::task::JoinHandle<()>,
    door: Arc<Door>,
    config_file: Option<PathBuf>,
    logging: Option<logging::Handle>,
    /// Cancelled when the service must restart within this process.
    again: CancellationToken,
    stop: CancellationToken,
    http_stop: CancellationToken,
    threads: Vec<NamedThread>,
    http: tokio::task::JoinHandle<std::io::Result<()>>,
}

/// The signals that the process handles.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    /// Starts listening for these signals; they are queued until they are asked for.
    ///
    /// # Errors
    /// The system refuses.
    pub fn listen() -> Result<Self> {
        let [terminate, interrupt, hang_up] =
            [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
        Ok(Self { terminate: terminate?, interrupt: interrupt?, hang_up: hang_up? })
    }

    /// Waits for SIGTERM or SIGINT.
    pub async fn told_to_end(&mut self) {
        let signal = tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal, "ending before the start was complete");
    }
}

/// How a service ended.
pub enum Ending {
    /// It was asked to stop.
    Stopped,
    /// It must restart with these options, to count added partitions.
    Again(Box<Options>),
}

/// How the service is started.
pub struct Options {
    /// The configuration.
    pub config: Config,
    /// The contract's documents.
    pub documents: DocumentSet,
    /// Access control.
    pub access: Access,
    /// Reloads the configuration; `None` where there is no file (the demo).
    pub config_file: Option<PathBuf>,
    /// For changes of the level.
    pub logging: Option<logging::Handle>,
    /// Number of shards, for brokers that can neither report nor create partitions (the demo's embedded broker).
    pub embedded_shards: Option<u32>,
}

impl Service {
    /// Connects, checks the topics, and starts counting and serving.
    ///
    /// # Errors
    /// The first problem that prevents the start.
    pub async fn start(mut options: Options) -> Result<Self> {
        let started_at_ms = now_ms();
        // After a restart within the process the documents are those of before.
        options.documents.loaded_at_ms.get_or_insert(started_at_ms);
        let config = options.config;
        let base = config.kafka.client().context("the Kafka client cannot be configured")?;
        config.warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
        let listener = http::bind(config.http.listen).await?;
        let door = Arc::new(Door::new(options.access));
        warn_of_access(&door, &config);
        let address = listener.local_addr()?;
        let health = Arc::new(Health::new(config.ready.max_lag));
        // The probes answer before Kafka does, and until the drain is over.
        let http_stop = CancellationToken::new();
        let front = http::Front::new(health.clone());
        let http = serve(listener, &front, &door, &http_stop);
        let (shards, message_bytes, bound) = look_at_topics(&base, &config, options.embedded_shards, &health).await?;
        let instance = config.kafka.instance_id(&address.port().to_string());
        tracing::info!(version = crate::build_info::full(), instance, shards, %address, topic = config.source.topic, ledger = config.ledger.topic, "starting");
        let contract = options.documents.contract(None);
        warn_of_documents(&config, &contract);
        let (view, editor) = View::new(shards, Arc::new(contract));
        let view = Arc::new(view);
        let metrics = Arc::new(ProcessMetrics::new());
        metrics.reload(Some(now_ms()));
        metrics.set_documents(&options.documents.files);
        let documents = Arc::new(ArcSwap::from_pointee(options.documents));
        let config = Arc::new(ArcSwap::from_pointee(config));
        let stop = CancellationToken::new();
        let office = Arc::new(Office {
            file_registry: ArcSwap::new(documents.load().registry.clone()),
            documents: documents.clone(),
            view: view.clone(),
            metrics: metrics.clone(),
            turn: Mutex::new(()),
        });
        let reload = Arc::new(Reloader {
            file: options.config_file.clone(),
            config: config.clone(),
            office: office.clone(),
            door: door.clone(),
            logging: options.logging.clone(),
            metrics: metrics.clone(),
            health: health.clone(),
        });
        let supervisor = Arc::new(Supervisor::new(health.clone()));
        let state = AppState::new(render(view.clone(), config.clone(), metrics.clone()), health.clone(), {
            let supervisor = supervisor.clone();
            move || supervisor.reload(|| reload.reload())
        });
        let reloads = state.reloads();
        let api = http::ApiState {
            view: view.clone(),
            documents: documents.clone(),
            topic: config.load().source.topic.as_str().into(),
            zone: config.load().counting.time_zone,
            issuer: Arc::new(config.load().issuer()),
            clock: Arc::new(now_ms),
            process: http::ProcessState {
                started_at_ms,
                health: health.clone(),
                metrics: metrics.clone(),
                reloads: reloads.clone(),
            },
            stop: stop.clone(),
        };
        front.open(http::router(state).merge(http::figures(api)));
        // Before the first flush, so that a new receiver's place is before the first alert.
        let notifiers = notify::prepare(&base, &config.load_full(), &instance, &metrics, &stop).await?;
        let (news, received) = mpsc::channel();
        let mut threads = start_threads(
            worker::Setup {
                base: base.clone(),
                config: config.clone(),
                instance,
                view: view.clone(),
                metrics: metrics.clone(),
                health: health.clone(),
                message_bytes,
                bound,
                topics_have_ids: options.embedded_shards.is_none(),
                news: received,
                stop: stop.clone(),
            },
            editor,
            news,
        )?;
        for notifier in notifiers {
            threads.push(("notify", spawn("notify", stop.clone(), notifier)?));
        }
        let again = CancellationToken::new();
        if options.embedded_shards.is_none() {
            let body = watch_topics(base.clone(), &config, &view, &metrics, &health, &again, &stop);
            threads.push(("watch", spawn("watch", stop.clone(), body)?));
        }
        if let Some(topic) = config.load().contract.registry_topic.clone() {
            let body = read_registry(base, topic, &office, &metrics, &stop);
            threads.push(("registry", spawn("registry", stop.clone(), body)?));
        }
        let watching = tokio::spawn({
            let supervisor = supervisor.clone();
            async move { supervisor.watch().await }
        });
        Ok(Self {
            view,
            config,
            documents,
            metrics,
            health,
            address,
            supervisor,
            office,
            reloads,
            watching,
            door,
            config_file: options.config_file,
            logging: options.logging,
            again,
            stop,
            http_stop,
            threads,
            http,
        })
    }

    /// Waits for a signal or a thread's failure; reloads on SIGHUP; drains on SIGTERM and SIGINT, and when it must
    /// restart.
    ///
    /// # Errors
    /// What made a thread end.
    pub async fn run(self, signals: &mut Signals) -> Result<Ending> {
        let Signals { terminate, interrupt, hang_up } = signals;
        tokio::spawn(watch_rulings(self.office.clone(), self.stop.clone()));
        let mut pulse = Pulse::default();
        let mut looks = tokio::time::interval(PULSE);
        // A process that was stopped and continued is not hung: the time it was stopped counts as one check.
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let hung = loop {
            tokio::select! {
                _ = terminate.recv() => tracing::info!(signal = "SIGTERM", "draining"),
                _ = interrupt.recv() => tracing::info!(signal = "SIGINT", "draining"),
                _ = hang_up.recv() => {
                    let reloads = self.reloads.clone();
                    // In a separate task, because this loop must go on. The outcome is in the log and in the metrics.
                    tokio::spawn(async move { _ = reloads.reload().await });
                    continue;
                }
                _ = looks.tick() => match pulse.look(self.health.rounds()) {
                    None => continue,
                    Some(thread) => break Err(anyhow!(
                        "the {thread} thread has made no round for {} s: what it waits for does not come back; ending, to \
                         be started again",
                        PULSE.as_secs() * u64::from(MISSED_LOOKS)
                    )),
                },
                () = self.again.cancelled() => return self.end_to_start_again().await,
                () = self.stop.cancelled() => {}
            }
            break Ok(());
        };
        let stopped = self.stop().await;
        hung.and(stopped).map(|()| Ending::Stopped)
    }

    /// Drains as for a shutdown, and returns what to restart with: the active configuration and documents, not the
    /// current files. The only error is a thread that does not end; then the service manager restarts the process.
    async fn end_to_start_again(self) -> Result<Ending> {
        let mut config = Config::clone(&self.config.load());
        // Port 0 has become an actual port that clients know.
        config.http.listen = self.address;
        let options = Options {
            config,
            documents: DocumentSet::clone(&self.documents.load()),
            access: Access::clone(&self.door.access()),
            config_file: self.config_file.clone(),
            logging: self.logging.clone(),
            embedded_shards: None,
        };
        self.drain().await?;
        Ok(Ending::Again(Box::new(options)))
    }

    /// A token that stops the service when cancelled.
    pub fn stop_token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Stops polling, flushes, leaves the group, ends the server.
    ///
    /// # Errors
    /// What made a thread end, or that the drain took too long.
    pub async fn stop(self) -> Result<()> {
        self.supervisor.stopping();
        self.drain().await
    }

    async fn drain(self) -> Result<()> {
        self.health.set_draining();
        self.view.close();
        self.stop.cancel();
        let threads = self.threads;
        let drained = tokio::task::spawn_blocking(move || {
            let mut first = Ok(());
            for (name, thread) in threads {
                let result = thread.join().unwrap_or_else(|_| Err(anyhow!("the {name} thread panicked")));
                first = first.and(result);
            }
            first
        });
        let result = tokio::time::timeout(DRAIN, drained).await;
        self.http_stop.cancel();
        self.watching.abort();
        // The port is free for a restart within this process once its task has ended; by then open requests have had
        // their grace period.
        let (abort, http) = (self.http.abort_handle(), self.http);
        if self.again.is_cancelled() {
            _ = tokio::time::timeout(http::Limits::default().grace * 2, http).await;
        }
        abort.abort();
        match result {
            Ok(joined) => joined?,
            Err(_) => Err(anyhow!(
                "the drain took longer than {} s; what was not flushed will be counted again",
                DRAIN.as_secs()
            )),
        }
    }
}

/// The number of shards, the message size limits, and how far timestamps may be ahead, as reported by the brokers.
async fn look_at_topics(
    base: &ClientConfig,
    config: &Config,
    embedded_shards: Option<u32>,
    health: &Health,
) -> Result<(u32, topics::MessageBytes, HoldBound)> {
    if let Some(shards) = embedded_shards {
        return Ok((shards, topics::MessageBytes::default(), HoldBound::default()));
    }
    let told = |why: Option<&str>| {
        let detail = why.map(|why| format!("cannot connect to {why}; retrying (kafka.brokers)"));
        health.set_fault(FaultKind::KafkaUnreachable, detail);
    };
    let checked = topics::prepare(base, config, Unreachable::IsTold(&told)).await?;
    checked.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    Ok((checked.shards, checked.message_bytes, checked.bound))
}

/// Answers on the listener until it is stopped.
fn serve(
    listener: tokio::net::TcpListener,
    front: &http::Front,
    door: &Arc<Door>,
    stop: &CancellationToken,
) -> tokio::task::JoinHandle<std::io::Result<()>> {
    let routes = http::guarded(front.routes(), door.clone());
    let listener = http::WebListener::new(listener, door.clone());
    tokio::spawn(http::serve_router(listener, routes, http::Limits::default(), stop.clone()))
}

/// The body of the thread that reads orders and bills from a topic.
fn read_registry(
    base: ClientConfig,
    topic: String,
    office: &Arc<Office>,
    metrics: &Arc<ProcessMetrics>,
    stop: &CancellationToken,
) -> impl FnOnce() -> Result<()> + Send + 'static {
    let (office, metrics, stop) = (office.clone(), metrics.clone(), stop.clone());
    move || {
        let adopt = |registry| office.adopt_registry(registry);
        Ok(registry::run(&base, &topic, &office.file_registry, adopt, &metrics, &stop)?)
    }
}

/// The body of the thread that watches the topics.
fn watch_topics(
    base: ClientConfig,
    config: &Arc<ArcSwap<Config>>,
    view: &Arc<View>,
    metrics: &Arc<ProcessMetrics>,
    health: &Arc<Health>,
    again: &CancellationToken,
    stop: &CancellationToken,
) -> impl FnOnce() -> Result<()> + Send + 'static {
    let (config, view, metrics, health) = (config.load_full(), view.clone(), metrics.clone(), health.clone());
    let (again, stop, runtime) = (again.clone(), stop.clone(), tokio::runtime::Handle::current());
    move || {
        let setup = watch::Setup {
            base: &base,
            config: &config,
            runtime: &runtime,
            health: &health,
            metrics: &metrics,
            again: &again,
            stop: &stop,
        };
        watch::run(&setup, &view)?;
        // Returning would end the service; a restart within the process comes first.
        if again.is_cancelled() {
            while !stop.is_cancelled() {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        Ok(())
    }
}

/// Starts the worker and the threads it needs. `news`: from the tail, which owns the `editor`, to the worker.
fn start_threads(setup: worker::Setup, editor: Editor, news: mpsc::Sender<TailNews>) -> Result<Vec<NamedThread>> {
    let config = setup.config.load_full();
    let tail = {
        let (base, view, metrics) = (setup.base.clone(), setup.view.clone(), setup.metrics.clone());
        let (topic, health, stop) = (config.ledger.topic.clone(), setup.health.clone(), setup.stop.clone());
        let body = move || {
            let (base, topic, view, metrics) = (&base, &*topic, &*view, &*metrics);
            let setup = tail::Setup { base, topic, view, metrics, health: &health, news: &news, stop: &stop };
            Ok(tail::run(&setup, editor)?)
        };
        spawn("tail", setup.stop.clone(), body)?
    };
    let lag = {
        let (base, view, stop) = (setup.base.clone(), setup.view.clone(), setup.stop.clone());
        let topic = config.source.topic.clone();
        spawn("lag", stop.clone(), move || Ok(lag::run(&base, &topic, &view, &stop)?))?
    };
    let worker = spawn("worker", setup.stop.clone(), move || Ok(worker::run(setup)?))?;
    Ok(vec![("worker", worker), ("tail", tail), ("lag", lag)])
}

/// A named thread that stops the service when it ends.
fn spawn(
    name: &'static str,
    stop: CancellationToken,
    body: impl FnOnce() -> Result<()> + Send + 'static,
) -> Result<std::thread::JoinHandle<Result<()>>> {
    let run = move || {
        let _guard = stop.drop_guard();
        let result = body();
        if let Err(error) = &result {
            tracing::error!(thread = name, error = format!("{error:#}"), "thread failed, stopping");
        }
        result
    };
    std::thread::Builder::new().name(name.into()).spawn(run).with_context(|| format!("cannot start the {name} thread"))
}

/// Maximum number of log lines about documents without effect.
const MOST_REMARKS: usize = 20;

/// Logs documents without effect, if all documents are known: orders from a topic arrive later. Each is also reported
/// beside the figures of its tenant.
fn warn_of_documents(config: &Config, contract: &Contract) {
    if config.contract.registry_topic.is_some() {
        return;
    }
    let all = contract.without_effect();
    all.iter().take(MOST_REMARKS).for_each(|remark| tracing::warn!(remark, "a document does nothing"));
    if all.len() > MOST_REMARKS {
        tracing::warn!(more = all.len() - MOST_REMARKS, "more documents do nothing; `check-config` lists them");
    }
}

fn warn_of_access(door: &Door, config: &Config) {
    if let Some(warning) = door.access().warning(config.http.listen) {
        tracing::warn!("{warning}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_makes_no_round_is_taken_for_hung() {
        let mut pulse = Pulse::default();
        assert!((0..MISSED_LOOKS - 1).all(|tail| pulse.look([0, tail.into()]).is_none()));
        // One round, however late, and it has all the time again.
        assert_eq!(pulse.look([1, 100]), None);
        assert!((1..MISSED_LOOKS).all(|tail| pulse.look([1, tail.into()]).is_none()));
        assert_eq!(pulse.look([1, 100]), Some(Beating::Worker));
    }

    #[test]
    fn a_tail_that_makes_no_round_is_taken_for_hung() {
        let mut pulse = Pulse::default();
        assert!((1..MISSED_LOOKS).all(|worker| pulse.look([worker.into(), 0]).is_none()));
        assert_eq!(pulse.look([100, 0]), Some(Beating::Tail));
    }
}
