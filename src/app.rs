//! The only wiring: start, reload, drain, stop.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use arc_swap::ArcSwap;
use rdkafka::ClientConfig;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::config::{Config, ExportedTenants};
use crate::documents::DocumentSet;
use crate::domain::calendar::LocalClock;
use crate::domain::contract::Contract;
use crate::domain::registry::Registry;
use crate::domain::standing::ServiceMonth;
use crate::http::{self, Access, AppState, Beating, Door, Health, ReloadError, Reloads};
use crate::kafka::tail::{TailNews, now_ms};
use crate::kafka::{lag, registry, tail, topics, watch, worker};
use crate::logging;
use crate::metrics::exporter::{CardinalityPlan, Exported, Exporter, TenantView};
use crate::metrics::process::ProcessMetrics;
use crate::notify;
use crate::pipeline::clock::HoldBound;
use crate::pipeline::rulings::{NotedRuling, refusal, refused_rulings};
use crate::supervisor::Supervisor;
use crate::view::{Editor, View};
use crate::visible::visible;

/// How long a stop may take before the process ends anyway.
const DRAIN: Duration = Duration::from_secs(9);

/// How often the rulings in force are compared with the ledger's.
const RULINGS_LOOK: Duration = Duration::from_millis(500);

/// How often the worker and the tail are looked at.
const PULSE: Duration = Duration::from_secs(1);
/// Looks without a round of the worker or of the tail after which it is taken for hung: longer than anything that they wait
/// for.
const MISSED_LOOKS: u32 = 90;

/// Are worker and tail alive? A hung one ends the process: whoever runs it starts it again, and the others have its shards.
#[derive(Debug, Default)]
struct Pulse {
    rounds: [u64; Beating::ALL.len()],
    missed: [u32; Beating::ALL.len()],
}

impl Pulse {
    /// The thread that hangs, if one does.
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
    /// The configuration in force.
    pub config: Arc<ArcSwap<Config>>,
    /// The contract's documents in force.
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
    /// Cancelled when the service must start again, in this process.
    again: CancellationToken,
    stop: CancellationToken,
    http_stop: CancellationToken,
    threads: Vec<NamedThread>,
    http: tokio::task::JoinHandle<std::io::Result<()>>,
}

/// The signals that a process heeds.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    /// From now on these signals are heard, and wait for whoever asks.
    ///
    /// # Errors
    /// The system refuses.
    pub fn listen() -> Result<Self> {
        let [terminate, interrupt, hang_up] =
            [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
        Ok(Self { terminate: terminate?, interrupt: interrupt?, hang_up: hang_up? })
    }
}

/// How a service ended.
pub enum Ending {
    /// It was told to.
    Stopped,
    /// It must start again with these options, to count partitions that were added.
    Again(Box<Options>),
}

/// How the service is started.
pub struct Options {
    /// The configuration.
    pub config: Config,
    /// The contract's documents.
    pub documents: DocumentSet,
    /// Who may look.
    pub access: Access,
    /// Reloads the configuration; `None` where there is no file (the demo).
    pub config_file: Option<PathBuf>,
    /// For changes of the level.
    pub logging: Option<logging::Handle>,
    /// Number of shards, where the brokers cannot tell or create (the demo's embedded broker).
    pub embedded_shards: Option<u32>,
}

impl Service {
    /// Connects, checks the topics, and starts to count and to serve.
    ///
    /// # Errors
    /// The first thing that keeps it from starting.
    pub async fn start(options: Options) -> Result<Self> {
        let config = options.config;
        let base = config.kafka.client().context("the Kafka client cannot be configured")?;
        config.warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
        let listener = http::bind(config.http.listen).await?;
        let door = Arc::new(Door::new(options.access));
        warn_of_access(&door, &config);
        let address = listener.local_addr()?;
        let (shards, message_bytes, bound) = match options.embedded_shards {
            Some(shards) => (shards, topics::MessageBytes::default(), HoldBound::default()),
            None => {
                let checked = topics::prepare(&base, &config).await?;
                checked.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
                (checked.shards, checked.message_bytes, checked.bound)
            }
        };
        let instance = config.kafka.instance_id(&address.port().to_string());
        tracing::info!(version = env!("CARGO_PKG_VERSION"), instance, shards, %address, topic = config.source.topic, ledger = config.ledger.topic, "starting");
        let contract = options.documents.contract(None);
        warn_of_documents(&config, &contract);
        let (view, editor) = View::new(shards, Arc::new(contract));
        let view = Arc::new(view);
        let metrics = Arc::new(ProcessMetrics::new());
        metrics.reload(Some(now_ms()));
        metrics.set_documents(&options.documents.files);
        let documents = Arc::new(ArcSwap::from_pointee(options.documents));
        let health = Arc::new(Health::new(config.ready.max_lag));
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
        let papers = office.clone();
        let state = AppState::new(render(view.clone(), config.clone(), metrics.clone()), health.clone(), {
            let supervisor = supervisor.clone();
            move || supervisor.reload(|| reload.reload())
        });
        let reloads = state.reloads();
        // The probes answer until the drain is over.
        let http_stop = CancellationToken::new();
        let api = http::api::ApiState {
            view: view.clone(),
            documents: documents.clone(),
            topic: config.load().source.topic.as_str().into(),
            zone: config.load().counting.time_zone,
            clock: Arc::new(now_ms),
            stop: stop.clone(),
        };
        let routes = http::guarded(http::router(state).merge(http::api::router(api)), door.clone());
        let listener = http::WebListener::new(listener, door.clone());
        let http = tokio::spawn(http::serve_router(listener, routes, http::Limits::default(), http_stop.clone()));
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
            let (office, metrics, stop, service_stop) = (office.clone(), metrics.clone(), stop.clone(), stop.clone());
            let read = move || {
                let adopt = |registry| office.adopt_registry(registry);
                Ok(registry::run(&base, &topic, &office.file_registry, adopt, &metrics, &stop)?)
            };
            threads.push(("registry", spawn("registry", service_stop, read)?));
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
            office: papers,
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

    /// Waits for a signal or a thread's failure; reloads on SIGHUP; drains on SIGTERM and SIGINT, and when it must start
    /// again.
    ///
    /// # Errors
    /// What made a thread end.
    pub async fn run(self, signals: &mut Signals) -> Result<Ending> {
        let Signals { terminate, interrupt, hang_up } = signals;
        tokio::spawn(watch_rulings(self.office.clone(), self.stop.clone()));
        let mut pulse = Pulse::default();
        let mut looks = tokio::time::interval(PULSE);
        // A process that was stopped and goes on has not stood still by its own fault: the time away is one look.
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let hung = loop {
            tokio::select! {
                _ = terminate.recv() => tracing::info!(signal = "SIGTERM", "draining"),
                _ = interrupt.recv() => tracing::info!(signal = "SIGINT", "draining"),
                _ = hang_up.recv() => {
                    let reloads = self.reloads.clone();
                    // Beside this loop, which must go on. The outcome is in the log and in the metrics.
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

    /// Drains as for an end, and says with what to start again: what is in force now, not what the files say. Only a thread
    /// that does not come back makes it an error; then whoever runs the process starts it again.
    async fn end_to_start_again(self) -> Result<Ending> {
        let mut config = Config::clone(&self.config.load());
        // Port 0 has become a port that others know.
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
        // The port is free for a start within this process once its task is gone; open requests have had their grace then.
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

/// What the thread does that watches the topics.
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
        // Its end would end the service; a start within the process comes first.
        if again.is_cancelled() {
            while !stop.is_cancelled() {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        Ok(())
    }
}

/// The worker, and what it needs beside it. `news`: to the worker from the tail, whose is the `editor`.
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

/// Writes one exposition: the tenants this instance speaks for, then the process.
fn render(
    view: Arc<View>,
    config: Arc<ArcSwap<Config>>,
    metrics: Arc<ProcessMetrics>,
) -> impl Fn(&mut Vec<u8>) + Send + Sync {
    let exporter = Mutex::new(Exporter::new());
    move |out| {
        let config = config.load_full();
        let zone = config.counting.time_zone;
        let mut exporter = exporter.lock().unwrap_or_else(PoisonError::into_inner);
        let now_ms = now_ms();
        let today = LocalClock::new(zone).day(now_ms);
        // The home first: the value is then as new as it asks for.
        let (home, value) = (view.home(), view.published());
        let plan = plan(&config);
        let known = RefCell::new(HashMap::new());
        let Some(value) = value else {
            crate::metrics::write(&Exporter::new(), &metrics, out);
            return;
        };
        let look = TenantView {
            is_home: |tenant: &str| home.speaks_for(tenant),
            complete: |_: &str, month: &ServiceMonth| {
                let period = month.period;
                *known
                    .borrow_mut()
                    .entry(period)
                    .or_insert_with(|| view.incomplete(&value.book, period, zone).is_empty())
                    && value.book.unadmitted(month).is_empty()
            },
            windows: |tenant: &str| value.standings.windows(tenant, now_ms),
            today,
            now_ms,
            zone,
            plan: &plan,
        };
        metrics.set_split_tenants(value.standings.split_tenants());
        exporter.collect(&value.standings, &look);
        crate::metrics::write(&exporter, &metrics, out);
    }
}

fn plan(config: &Config) -> CardinalityPlan {
    let metrics = &config.metrics;
    let tenants = match metrics.tenants {
        ExportedTenants::AtRisk => Exported::AtRisk,
        ExportedTenants::All => Exported::All,
    };
    CardinalityPlan { tenants, top: metrics.top, allow: metrics.allow.clone(), max_tenants: metrics.max_tenants }
}

/// Lines of the log for documents that do nothing, at most.
const MOST_REMARKS: usize = 20;

/// Says which documents do nothing, where they are all there: orders that a topic brings come later. Each is also said
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

/// Compares the rulings in force with the ledger's again and again: the documents of the start were read before the ledger,
/// and another instance may have applied what this one does not have.
async fn watch_rulings(office: Arc<Office>, stop: CancellationToken) {
    let mut looks = tokio::time::interval(RULINGS_LOOK);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(looks.tick()).await.is_some() {
        let office = office.clone();
        // It waits for documents that are being adopted.
        _ = tokio::task::spawn_blocking(move || office.compare_rulings()).await;
    }
}

/// Reads the configuration and the contract's documents again, takes over what can be, and says what cannot. A mistake in
/// any file keeps everything as it was.
struct Reloader {
    file: Option<PathBuf>,
    config: Arc<ArcSwap<Config>>,
    office: Arc<Office>,
    door: Arc<Door>,
    logging: Option<logging::Handle>,
    metrics: Arc<ProcessMetrics>,
    health: Arc<Health>,
}

impl Reloader {
    fn reload(&self) -> Result<String, ReloadError> {
        let Some(file) = &self.file else {
            return Err(ReloadError::Invalid("there is no configuration file to reload".into()));
        };
        let (config, documents, access) = match self.load(file) {
            Ok(loaded) => loaded,
            Err(error) => {
                self.metrics.reload(None);
                tracing::error!(file = %file.display(), error, "nothing reloaded; what was in force stays");
                return Err(ReloadError::Invalid(error));
            }
        };
        let old = self.config.load_full();
        let left = Config::reload_diff(&old, &config);
        let config = old.reloaded(&config);
        self.health.set_max_lag(config.ready.max_lag);
        self.door.replace(access);
        warn_of_access(&self.door, &config);
        self.config.store(Arc::new(config));
        let mut answer = String::from("configuration reloaded\n");
        for key in left {
            let (name, old, new) = (&key.key, &key.old, &key.new);
            tracing::warn!(key = name, old, new, "this change needs a restart; the old value stays");
            answer.push_str(&format!("{name} needs a restart; the old value stays\n"));
        }
        let from_topic = self.config.load().contract.registry_topic.is_some();
        answer.push_str(&self.office.adopt(documents, from_topic));
        self.metrics.reload(Some(now_ms()));
        warn_of_documents(&self.config.load(), &self.office.documents.load().contract(None));
        tracing::info!(file = %file.display(), "configuration and documents reloaded");
        Ok(answer)
    }

    fn load(&self, file: &Path) -> Result<(Config, DocumentSet, Access), String> {
        let config = Config::load(file).map_err(|e| e.to_string())?;
        let [web_config, api_tokens] = config.http.files(file);
        let access = Access::load(web_config.as_deref(), api_tokens.as_deref())
            .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
        let expected = self.config.load().expected_ledger();
        let documents = DocumentSet::load(&config.contract.directory(file), &expected).map_err(|e| e.to_string())?;
        let published = self.office.view.published();
        let refused = published.map(|value| refused_rulings(&value.book, &documents.documents.rulings));
        let refused = refused.unwrap_or_default();
        if !refused.is_empty() {
            return Err(refusal(&refused));
        }
        let level = &config.logging.level;
        self.logging.as_ref().map_or(Ok(()), |logging| logging.set_level(level))?;
        Ok((config, documents, access))
    }
}

/// Brings documents into force.
struct Office {
    documents: Arc<ArcSwap<DocumentSet>>,
    /// Orders and bills of the files, without those of the topic.
    file_registry: ArcSwap<Registry>,
    view: Arc<View>,
    metrics: Arc<ProcessMetrics>,
    /// Held while documents come into force.
    turn: Mutex<()>,
}

impl Office {
    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Judges by these documents, if they are others. Counting and flushing go on meanwhile. `from_topic`: orders and bills
    /// come from a topic as well; its thread tells when the files' new ones have joined them.
    fn adopt(&self, mut documents: DocumentSet, from_topic: bool) -> String {
        let _turn = self.turn();
        let old = self.documents.load_full();
        let changed: Vec<_> = documents.files.iter().filter(|file| !old.files.contains(file)).collect();
        let gone = old.files.iter().filter(|file| !documents.files.iter().any(|new| new.name == file.name));
        let mut answer = String::new();
        for (name, what) in changed.iter().map(|f| (&f.name, "read")).chain(gone.map(|f| (&f.name, "gone"))) {
            tracing::info!(document = name, what, "document changed");
            answer.push_str(&format!("{} {what}\n", visible(name)));
        }
        if answer.is_empty() {
            return "no document changed\n".into();
        }
        self.file_registry.store(documents.registry.clone());
        if from_topic {
            documents.registry = old.registry.clone();
        }
        self.bring_into_force(documents);
        answer
    }

    /// Orders and bills of the topic have changed.
    fn adopt_registry(&self, registry: Arc<Registry>) {
        let _turn = self.turn();
        self.bring_into_force(DocumentSet { registry, ..DocumentSet::clone(&self.documents.load()) });
    }

    /// See [`Office::judge_rulings`]; waits until no documents are coming into force.
    fn compare_rulings(&self) {
        let _turn = self.turn();
        self.judge_rulings();
    }

    /// Are the rulings in force those that the ledger has applied? Counting needs no ruling and goes on either way; what
    /// rests on the papers says so. Nothing is said, and no ruling written down, before the ledger has been read.
    fn judge_rulings(&self) {
        let rulings = &self.documents.load().documents.rulings;
        let Some(value) = self.view.published() else { return };
        let rejected = refused_rulings(&value.book, rulings);
        match (self.view.rejected_rulings().is_empty(), rejected.is_empty()) {
            (_, false) if *self.view.rejected_rulings() != rejected => {
                let error = refusal(&rejected);
                tracing::error!(error, "no statement is issued until a corrected rulings.yaml is loaded");
            }
            (false, true) => tracing::info!("rulings.yaml agrees with the ledger again"),
            _ => {}
        }
        self.metrics.set_rulings_rejected(rejected.len());
        self.view.set_rulings(rulings.iter().map(|ruling| NotedRuling::from(&**ruling)).collect(), rejected);
    }

    fn bring_into_force(&self, documents: DocumentSet) {
        let began = std::time::Instant::now();
        if !self.view.adopt(&Arc::new(documents.contract(None))) {
            return;
        }
        self.metrics.set_documents(&documents.files);
        self.documents.store(Arc::new(documents));
        self.judge_rulings();
        let (tenants, took) = (self.view.published().map_or(0, |value| value.standings.len()), began.elapsed());
        tracing::info!(tenants, seconds = took.as_secs_f64(), "judged by the new documents");
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
