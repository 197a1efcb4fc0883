//! Apache Kafka itself, from its jars: one or three combined broker and controller nodes on free loopback ports.
//!
//! [`shared`] gives the one-broker cluster of the test binary; a test that kills brokers starts a cluster of
//! its own with [`Cluster::start`]. `SLA_LEDGER_TEST_BROKERS=host:port` uses an existing cluster instead; a
//! test that then asks for something only a cluster of its own can do fails and says so.
//!
//! Settings are Kafka's own where a test could depend on them; the exceptions, all for speed, are in
//! [`Node::properties`].

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::metadata::Metadata;

use super::{Program, Signal, at_exit, free_port, log_tail, poll_for, report};

/// How long a broker may take to start. It takes 1 to 2 s on an idle machine.
const START_TIMEOUT: Duration = Duration::from_secs(90);

/// How long a broker may take to end after SIGTERM.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a change of topics or replicas may take to reach every broker.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long one request of the harness may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// For how long a controller takes a silent broker for alive. A broker that was killed cannot register again
/// before that, so it bounds the time of [`Cluster::restart`] after [`Cluster::kill`]; Kafka's default is 9 s.
const BROKER_SESSION_TIMEOUT: Duration = Duration::from_secs(3);

/// Cluster id of every test cluster: any 16 bytes in URL-safe base64.
const CLUSTER_ID: &str = "4L6g3nShT-eMCtK--X86sw";

/// JVM flags for a quick start on few cores: no second compiler, no concurrent collector.
const JVM_FLAGS: [&str; 3] = ["-XX:TieredStopAtLevel=1", "-Xshare:auto", "-XX:+UseSerialGC"];

/// File with the classes a broker loads, next to the jars, see [`record_classes`].
const CLASS_ARCHIVE: &str = "broker-classes.jsa";

/// A running Kafka cluster, ended when dropped.
pub struct Cluster {
    bootstrap: String,
    /// Empty for an existing cluster.
    nodes: Vec<Node>,
    home: Option<Home>,
}

/// How to start a [`Cluster`], where the defaults do not do.
#[derive(Debug, Clone)]
pub struct Options {
    /// 1 or 3.
    pub brokers: usize,
    /// Kafka's own settings, in place of the harness's.
    pub properties: Vec<(String, String)>,
    /// Heap of each broker in MiB.
    pub heap_mib: u32,
    /// The broker whose data are on a disk of its own, see [`Cluster::fill_disk`].
    pub own_disk: Option<usize>,
}

impl Options {
    /// `brokers` nodes with the harness's settings.
    pub fn new(brokers: usize) -> Options {
        Options { brokers, properties: Vec::new(), heap_mib: 384, own_disk: None }
    }

    /// Puts the data of a broker (from 0) on a disk of its own, if this user may mount one.
    pub fn own_disk(mut self, broker: usize) -> Options {
        self.own_disk = Some(broker);
        self
    }

    /// Sets one of Kafka's own settings. `{broker}` and `{controller}` in the value are replaced by the node's ports.
    pub fn property(mut self, key: &str, value: impl ToString) -> Options {
        self.properties.push((key.to_owned(), value.to_string()));
        self
    }

    /// Sets the heap of each broker.
    pub fn heap_mib(mut self, heap_mib: u32) -> Options {
        self.heap_mib = heap_mib;
        self
    }
}

/// The one-broker cluster that the tests of this binary share. Give topics and groups [`super::unique`] names.
pub fn shared() -> &'static Cluster {
    static SHARED: OnceLock<Cluster> = OnceLock::new();
    extern "C" fn end_shared() {
        if let Some(cluster) = SHARED.get() {
            cluster.clean_up_at_exit();
        }
    }
    SHARED.get_or_init(|| {
        let cluster = Cluster::start(1);
        at_exit(end_shared);
        cluster
    })
}

/// Whether the tests run against an existing cluster, on which brokers cannot be killed.
pub fn is_external() -> bool {
    external_brokers().is_some()
}

fn external_brokers() -> Option<String> {
    std::env::var("SLA_LEDGER_TEST_BROKERS").ok().filter(|brokers| !brokers.is_empty())
}

impl Cluster {
    /// Starts `brokers` nodes (1 or 3) and returns when each of them knows them all.
    ///
    /// Panics with the brokers' logs if that fails: a test without its broker must not pass.
    pub fn start(brokers: usize) -> Cluster {
        Cluster::start_with(&Options::new(brokers))
    }

    /// Starts a cluster as `options` say. An existing cluster keeps its own settings.
    pub fn start_with(options: &Options) -> Cluster {
        assert!(matches!(options.brokers, 1 | 3), "1 or 3 brokers, not {}", options.brokers);
        if let Some(bootstrap) = external_brokers() {
            return Cluster::existing(bootstrap, options);
        }

        let home = Home::new().expect("a temporary directory");
        let jars = jars();
        let archive = jars.join(CLASS_ARCHIVE);
        if !archive.exists() {
            record_classes(&jars);
        }
        let flag = archive.exists().then(|| format!("-XX:SharedArchiveFile={}", archive.display()));
        Cluster::start_own(options, home, &jars, flag.as_deref())
    }

    fn start_own(options: &Options, home: Home, jars: &Path, flag: Option<&str>) -> Cluster {
        let ports: Vec<Ports> = (0..options.brokers).map(|_| Ports::free()).collect();
        let nodes: Vec<Node> =
            (0..options.brokers).map(|index| Node::new(index, &ports, options, home.path(), jars, flag)).collect();
        let bootstrap: Vec<String> = nodes.iter().map(Node::address).collect();
        let mut cluster = Cluster { bootstrap: bootstrap.join(","), nodes, home: Some(home) };
        let mut formats: Vec<Program> = cluster.nodes.iter().map(Node::format).collect();
        for format in &mut formats {
            let status = format.wait_exit(START_TIMEOUT);
            assert!(status.success(), "{} ended with {status}{}", format.name(), format.log_tail());
        }
        for node in &mut cluster.nodes {
            node.start();
        }
        cluster.wait_ready();
        cluster
    }

    fn existing(bootstrap: String, options: &Options) -> Cluster {
        if !options.properties.is_empty() {
            report(&format!(
                "note: the cluster at {bootstrap} keeps its own settings instead of {:?}",
                options.properties
            ));
        }
        let brokers = poll_for(START_TIMEOUT, || Some(metadata_from(&bootstrap).ok()?.brokers().len()))
            .unwrap_or_else(|| panic!("no answer from SLA_LEDGER_TEST_BROKERS={bootstrap}"));
        assert!(
            brokers >= options.brokers,
            "this test needs {} brokers, SLA_LEDGER_TEST_BROKERS={bootstrap} has {brokers}",
            options.brokers
        );
        Cluster { bootstrap, nodes: Vec::new(), home: None }
    }

    /// The brokers' addresses, for `bootstrap.servers`.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// How many brokers this cluster has of its own; 0 for an existing cluster.
    pub fn own_brokers(&self) -> usize {
        self.nodes.len()
    }

    /// A client configuration with nothing but `bootstrap.servers`.
    pub fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap);
        config
    }

    /// SIGKILL to broker `index` (from 0), as a crash would.
    pub fn kill(&mut self, index: usize) {
        let node = self.own_node("kill", index);
        assert!(node.process.is_some(), "broker {index} is down already");
        node.process = None;
    }

    /// SIGTERM to broker `index` (from 0), and waits for its orderly end.
    pub fn stop(&mut self, index: usize) {
        let node = self.own_node("stop", index);
        let mut process = node.process.take().unwrap_or_else(|| panic!("broker {index} is down already"));
        process.terminate();
        process.wait_exit(STOP_TIMEOUT);
    }

    /// SIGSTOP to broker `index` (from 0): it holds its connections and answers nothing.
    pub fn pause(&mut self, index: usize) {
        self.signal(index, Signal::Stop);
    }

    /// SIGCONT to broker `index` (from 0).
    pub fn resume(&mut self, index: usize) {
        self.signal(index, Signal::Continue);
    }

    fn signal(&mut self, index: usize, signal: Signal) {
        let node = self.own_node("stop or continue", index);
        node.process.as_mut().unwrap_or_else(|| panic!("broker {index} is down")).signal(signal);
    }

    /// SIGCONT to broker `index` (from 0); returns when it is in sync again, as after [`Cluster::restart`].
    pub fn resume_in_sync(&mut self, index: usize) {
        self.resume(index);
        self.wait_ready();
    }

    /// The broker with a disk of its own; `None` if it was not requested or could not be mounted.
    pub fn own_disk(&self) -> Option<usize> {
        self.nodes.iter().position(|node| node.disk.is_some())
    }

    /// Leaves no room on the disk of broker `index` (from 0) and waits until it has noticed.
    pub fn fill_disk(&mut self, index: usize) {
        let node = self.own_node("fill the disk of", index);
        let noticed = |log: &str| ["No space left on device", "a fault occurred"].map(|text| log.matches(text).count());
        let before = noticed(&fs::read_to_string(&node.log).unwrap_or_default());
        node.disk.as_ref().expect("a disk of its own").fill();
        super::wait_until(&format!("broker {index} to miss its disk"), SETTLE_TIMEOUT, || {
            let ended = node.process.as_mut().is_none_or(|process| process.exited().is_some());
            ended || noticed(&fs::read_to_string(&node.log).unwrap_or_default()) != before
        });
    }

    /// Frees the disk of broker `index` (from 0). The broker does not recover from a full disk by itself: it is killed,
    /// unless it has ended, and restarted.
    pub fn free_disk(&mut self, index: usize) {
        let node = self.own_node("free the disk of", index);
        node.disk.as_ref().expect("a disk of its own").free();
        node.process = None;
        self.restart(index);
    }

    /// Starts broker `index` (from 0) again on its port and data, and returns when every broker that should
    /// be up knows all of them and every partition has all their replicas in sync.
    pub fn restart(&mut self, index: usize) {
        let node = self.own_node("restart", index);
        assert!(node.process.is_none(), "broker {index} is still up");
        node.start();
        self.wait_ready();
    }

    /// Whether broker `index` (from 0) was started and has not ended.
    pub fn is_up(&mut self, index: usize) -> bool {
        let node = self.own_node("ask about", index);
        node.process.as_mut().is_some_and(|process| process.exited().is_none())
    }

    fn own_node(&mut self, what: &str, index: usize) -> &mut Node {
        assert!(
            !self.nodes.is_empty(),
            "this test wants to {what} a broker, which it may not on an existing cluster: \
             unset SLA_LEDGER_TEST_BROKERS to run it"
        );
        &mut self.nodes[index]
    }

    /// Waits until every broker that is up answers, knows all that are up, and no partition lacks a replica of them.
    fn wait_ready(&mut self) {
        let mut seen = String::new();
        let ready = poll_for(START_TIMEOUT, || {
            let up: Vec<String> = self.nodes.iter().filter(|node| node.process.is_some()).map(Node::address).collect();
            for node in &mut self.nodes {
                if let Some(process) = &mut node.process
                    && let Some(status) = process.exited()
                {
                    panic!("{} ended ({status}) while starting{}", process.name(), process.log_tail());
                }
            }
            for address in &up {
                match metadata_from(address) {
                    Ok(metadata) => match unready(&metadata, up.len()) {
                        None => {}
                        Some(reason) => {
                            seen = format!("{address} says: {reason}");
                            return None;
                        }
                    },
                    Err(error) => {
                        seen = format!("{address} does not answer: {error}");
                        return None;
                    }
                }
            }
            Some(())
        });
        if ready.is_none() {
            panic!("the cluster is not ready after {START_TIMEOUT:?}: {seen}{}", self.logs());
        }
    }

    /// Creates a topic, replicated to every broker, and returns when every broker knows the leader of each partition.
    pub fn create_topic(&self, name: &str, partitions: i32, config: &[(&str, &str)]) {
        let brokers = if self.nodes.is_empty() { 1 } else { self.nodes.len() };
        let replication = i32::try_from(brokers).expect("few brokers");
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(replication));
        for (key, value) in config {
            topic = topic.set(key, value);
        }
        let admin: AdminClient<DefaultClientContext> = self.client().create().expect("an admin client");
        let options = AdminOptions::new().operation_timeout(Some(REQUEST_TIMEOUT));
        let created = block_on(admin.create_topics([&topic], &options))
            .unwrap_or_else(|error| panic!("cannot create topic {name}: {error}{}", self.logs()));
        for result in created {
            if let Err((_, code)) = result
                && code != RDKafkaErrorCode::TopicAlreadyExists
            {
                panic!("cannot create topic {name}: {code}{}", self.logs());
            }
        }
        let mut addresses: Vec<String> =
            self.nodes.iter().filter(|node| node.process.is_some()).map(Node::address).collect();
        if addresses.is_empty() {
            addresses.push(self.bootstrap.clone());
        }
        let partitions = usize::try_from(partitions).expect("a count");
        super::wait_until(&format!("a leader for each partition of {name}"), SETTLE_TIMEOUT, || {
            addresses.iter().all(|address| {
                metadata_from(address).is_ok_and(|metadata| {
                    metadata.topics().iter().find(|topic| topic.name() == name).is_some_and(|topic| {
                        topic.error().is_none()
                            && topic.partitions().len() == partitions
                            && topic.partitions().iter().all(|partition| partition.leader() >= 0)
                    })
                })
            })
        });
    }

    /// The tails of the brokers' logs, made to be put behind a panic's message.
    pub fn logs(&self) -> String {
        self.nodes.iter().fold(String::new(), |mut all, node| {
            let _ = write!(all, "{}", log_tail(&node.name, &node.log));
            all
        })
    }

    /// Ends what a cluster in a static leaves behind: such a one is never dropped.
    fn clean_up_at_exit(&self) {
        for pid in self.nodes.iter().filter_map(|node| Some(node.process.as_ref()?.pid())) {
            super::end_by_pid(pid);
        }
        if let Some(home) = &self.home {
            let _ = fs::remove_dir_all(home.path());
        }
    }
}

/// Why the cluster that `metadata` describes is not ready, if it is not.
fn unready(metadata: &Metadata, brokers: usize) -> Option<String> {
    if metadata.brokers().len() != brokers {
        return Some(format!("{} of {brokers} brokers", metadata.brokers().len()));
    }
    metadata.topics().iter().find_map(|topic| {
        topic.partitions().iter().find_map(|partition| {
            let wanted = partition.replicas().len().min(brokers);
            (partition.leader() < 0 || partition.isr().len() < wanted).then(|| {
                format!(
                    "{}[{}] has leader {} and {} of {wanted} replicas in sync",
                    topic.name(),
                    partition.id(),
                    partition.leader(),
                    partition.isr().len()
                )
            })
        })
    })
}

/// The cluster as the broker at `address` sees it. A new client each time: one with a memory would answer for
/// another broker.
fn metadata_from(address: &str) -> Result<Metadata, String> {
    // A client for a port without a listener logs each failure; try the port first.
    let first = address.split(',').next().unwrap_or(address);
    std::net::TcpStream::connect(first).map_err(|error| error.to_string())?;
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", address)
        .set("log_level", "2")
        .create()
        .map_err(|error| error.to_string())?;
    consumer.fetch_metadata(None, REQUEST_TIMEOUT).map_err(|error| error.to_string())
}

/// Runs one future of the admin client to its end.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime").block_on(future)
}

/// The two ports of a node.
#[derive(Debug, Clone, Copy)]
struct Ports {
    broker: u16,
    controller: u16,
}

impl Ports {
    fn free() -> Ports {
        Ports { broker: free_port(), controller: free_port() }
    }
}

/// One broker and controller.
struct Node {
    name: String,
    port: u16,
    directory: PathBuf,
    log: PathBuf,
    jars: PathBuf,
    heap_mib: u32,
    /// A flag for the JVM that runs the broker.
    flag: Option<String>,
    process: Option<Program>,
    /// Behind the process: it must have ended when this goes.
    disk: Option<Disk>,
}

impl Node {
    fn new(index: usize, ports: &[Ports], options: &Options, root: &Path, jars: &Path, flag: Option<&str>) -> Node {
        let name = format!("kafka-{index}");
        let directory = root.join(&name);
        fs::create_dir_all(&directory).expect("the node's directory");
        let directory_of_data = directory.join("data");
        let node = Node {
            log: directory.join("server.log"),
            name,
            port: ports[index].broker,
            directory,
            jars: jars.to_owned(),
            heap_mib: options.heap_mib,
            flag: flag.map(str::to_owned),
            process: None,
            disk: (options.own_disk == Some(index)).then(|| Disk::mount(&directory_of_data)).flatten(),
        };
        let properties = node.properties(index, ports, options);
        fs::write(node.directory.join("server.properties"), properties).expect("server.properties");
        fs::write(node.directory.join("log4j2.properties"), include_str!("kafka/log4j2.properties"))
            .expect("log4j2.properties");
        node
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The node's settings. Later lines win, so `options` come last.
    fn properties(&self, index: usize, ports: &[Ports], options: &Options) -> String {
        let brokers = ports.len();
        let own = ports[index];
        let voters: Vec<String> = ports
            .iter()
            .enumerate()
            .map(|(index, ports)| format!("{}@127.0.0.1:{}", index + 1, ports.controller))
            .collect();
        // With three, one may be down and writes continue.
        let min_in_sync = brokers.div_ceil(2);
        let session = BROKER_SESSION_TIMEOUT.as_millis();
        let mut text = format!(
            "\
process.roles=broker,controller
node.id={id}
controller.quorum.voters={voters}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
listeners=PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{broker}
log.dirs={data}

# As safe as the number of brokers allows.
default.replication.factor={brokers}
min.insync.replicas={min_in_sync}
offsets.topic.replication.factor={brokers}
transaction.state.log.replication.factor={brokers}
transaction.state.log.min.isr={min_in_sync}
share.coordinator.state.topic.replication.factor={brokers}
share.coordinator.state.topic.min.isr={min_in_sync}
unclean.leader.election.enable=false
auto.create.topics.enable=false

# Quick: little to create and to load, no waiting for members, short silences.
offsets.topic.num.partitions=5
transaction.state.log.num.partitions=5
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
transaction.abort.timed.out.transaction.cleanup.interval.ms=500
broker.session.timeout.ms={session}
broker.heartbeat.interval.ms=500

# Small: a test keeps all it writes, in a few hundred MiB of memory.
log.retention.ms=-1
log.retention.bytes=-1
log.cleaner.dedupe.buffer.size=8388608
num.network.threads=2
num.io.threads=4
background.threads=2
",
            id = index + 1,
            voters = voters.join(","),
            broker = own.broker,
            controller = own.controller,
            data = self.directory.join("data").display(),
        );
        text.push_str("\n# Of the test.\n");
        for (key, value) in &options.properties {
            let value =
                value.replace("{broker}", &own.broker.to_string()).replace("{controller}", &own.controller.to_string());
            let _ = writeln!(text, "{key}={value}");
        }
        text
    }

    fn java(&self) -> Command {
        let mut command = Command::new("java");
        command
            .args(JVM_FLAGS)
            .arg(format!("-Xmx{}m", self.heap_mib))
            .arg(format!("-Dlog4j2.configurationFile={}", self.directory.join("log4j2.properties").display()))
            .arg("-cp")
            .arg(self.jars.join("*"))
            .current_dir(&self.directory);
        command
    }

    /// Starts the formatting of the data directory, which a first start needs.
    fn format(&self) -> Program {
        let mut command = self.java();
        command
            .args(["kafka.tools.StorageTool", "format", "--cluster-id", CLUSTER_ID, "--config"])
            .arg(self.directory.join("server.properties"));
        let log = self.directory.join("format.log");
        Program::spawn_logging_to(&format!("{}-format", self.name), command, log, None)
    }

    fn start(&mut self) {
        let mut command = self.java();
        command.args(&self.flag).arg("kafka.Kafka").arg(self.directory.join("server.properties"));
        self.process = Some(Program::spawn_logging_to(&self.name, command, self.log.clone(), None));
    }
}

/// A disk in memory, as large as the test says. Unmounted when dropped.
struct Disk {
    path: PathBuf,
}

/// The default capacity of a disk: more than any test writes. Memory is taken only for what is written.
const ROOMY: &str = "16g";

impl Disk {
    /// `None`, with a note, where this user may not mount.
    fn mount(path: &Path) -> Option<Disk> {
        fs::create_dir_all(path).expect("the mount's directory");
        match run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={ROOMY}"), "sla-ledger-test"])
            .arg(path))
        {
            Ok(_) => Some(Disk { path: path.to_owned() }),
            Err(why) => {
                report(&format!("note: no disk of its own for {}: {why}", path.display()));
                None
            }
        }
    }

    /// Makes it as large as what is on it, and a little more: the smallest that it may be.
    fn fill(&self) {
        let filled = poll_for(REQUEST_TIMEOUT, || {
            let used = run(Command::new("df").args(["--block-size=1", "--output=used"]).arg(&self.path)).ok()?;
            let used: u64 = used.lines().last()?.trim().parse().ok()?;
            self.resize(&(used + (64 << 10)).to_string()).ok()
        });
        assert!(filled.is_some(), "{} cannot be filled", self.path.display());
    }

    fn free(&self) {
        self.resize(ROOMY).unwrap_or_else(|why| panic!("{} cannot be freed: {why}", self.path.display()));
    }

    fn resize(&self, size: &str) -> Result<String, String> {
        run(Command::new("mount").args(["-o", &format!("remount,size={size}")]).arg(&self.path))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        unmount(&self.path);
    }
}

fn unmount(path: &Path) {
    if let Err(why) = run(Command::new("umount").arg("--lazy").arg(path)) {
        report(&format!("{} stays mounted: {why}", path.display()));
    }
}

/// Unmounts what a test process that was killed has left mounted below a directory.
fn unmount_below(directory: &Path) {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(Path::new);
    points.filter(|point| point.starts_with(directory)).for_each(unmount);
}

fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

/// The version of Kafka in the pom, which names the directory of the jars.
fn version() -> &'static str {
    let pom = include_str!("kafka/pom.xml");
    pom.split_once("<kafka.version>")
        .and_then(|(_, rest)| rest.split_once("</kafka.version>"))
        .map(|(version, _)| version)
        .expect("kafka.version in the pom")
}

/// The directory of one cluster. A process that holds the lock on its file `lock` still uses it.
struct Home {
    directory: tempfile::TempDir,
    _lock: fs::File,
}

/// Every [`Home`] is called so, followed by something random.
const HOME_PREFIX: &str = "sla-ledger-kafka-";

impl Home {
    /// A new directory. Removes those of test processes that were killed first: they hold all that a test wrote.
    fn new() -> std::io::Result<Home> {
        for entry in fs::read_dir(std::env::temp_dir())?.flatten() {
            let is_home = entry.file_name().to_string_lossy().starts_with(HOME_PREFIX);
            if is_home
                && let Ok(lock) = fs::File::open(entry.path().join("lock"))
                && lock.try_lock().is_ok()
            {
                unmount_below(&entry.path());
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let directory = tempfile::Builder::new().prefix(HOME_PREFIX).tempdir()?;
        // Locked before it has the name by which others look for it.
        let unnamed = directory.path().join("lock.new");
        let lock = fs::File::create(&unnamed)?;
        lock.lock()?;
        fs::rename(unnamed, directory.path().join("lock"))?;
        Ok(Home { directory, _lock: lock })
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }
}

/// Records the classes a broker loads into an archive, once a machine: later starts take half the time. It is only
/// for speed, so a failure is not one of the tests; an archive of another JVM is ignored by the JVM.
fn record_classes(jars: &Path) {
    let Ok(home) = Home::new() else {
        return;
    };
    let recorded = jars.join(format!("{CLASS_ARCHIVE}.{}", std::process::id()));
    let flag = format!("-XX:ArchiveClassesAtExit={}", recorded.display());
    let mut cluster = Cluster::start_own(&Options::new(1), home, jars, Some(&flag));
    cluster.stop(0);
    // In one step, for other test binaries may do the same at the same time.
    let _ = fs::rename(&recorded, jars.join(CLASS_ARCHIVE));
}

/// The directory with Kafka's jars; fetches them first if they are not there.
fn jars() -> PathBuf {
    let jars = super::cache().join(format!("kafka-{}", version()));
    if !jars.is_dir() {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/test-deps.sh");
        let output = Command::new("bash").arg(&script).arg("--jars").output().expect("bash");
        assert!(
            output.status.success() && jars.is_dir(),
            "{} could not fetch Kafka's jars:\n{}{}",
            script.display(),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    jars
}
