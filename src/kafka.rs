//! The plain I/O shell around the pipeline: consumers, the transactional producer, topics. All decisions are in
//! [`crate::pipeline`].

pub mod batch;
pub mod embedded;
pub mod flusher;
pub mod hold;
pub mod identity;
pub mod lag;
pub mod ledger_log;
pub mod letter;
pub mod membership;
pub mod progress;
pub mod registry;
pub mod tail;
pub mod topics;
pub mod verify;
pub mod watch;
pub mod worker;

use rdkafka::ClientConfig;

/// Properties of consumers alone, which a user may pass through.
const CONSUMERS_ALONE: [&str; 16] = [
    "check.crcs",
    "coordinator.query.interval.ms",
    "fetch.error.backoff.ms",
    "fetch.max.bytes",
    "fetch.message.max.bytes",
    "fetch.min.bytes",
    "fetch.queue.backoff.ms",
    "fetch.wait.max.ms",
    "heartbeat.interval.ms",
    "max.partition.fetch.bytes",
    "max.poll.interval.ms",
    "queued.max.messages.kbytes",
    "queued.min.messages",
    "session.timeout.ms",
    "consume.callback.max.messages",
    "allow.auto.create.topics",
];

/// The base of a producer's or an admin client's configuration: librdkafka warns of each property that is for consumers.
pub fn without_consumers_keys(base: &ClientConfig) -> ClientConfig {
    let mut config = base.clone();
    CONSUMERS_ALONE.iter().for_each(|key| _ = config.remove(key));
    config
}

/// Drops a client on a thread of its own. Dropping it joins librdkafka's own threads, and these may be waiting for a
/// broker that does not answer; no other work may block on that.
pub fn discard(name: &'static str, client: impl Send + 'static) {
    let thread = std::thread::Builder::new().name(format!("end-{name}"));
    if let Err(error) = thread.spawn(move || drop(client)) {
        tracing::warn!(%error, client = name, "ended on the spot, for want of a thread");
    }
}
