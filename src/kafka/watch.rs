//! Watches the topics while the service runs: do they still exist, are they the same, were partitions added, are the
//! calls' timestamps still bounded? Every instance does so, whether it owns a shard or not.
//!
//! The worker decides what stops a shard, and checks before each flush. This module covers what can be wrong while
//! there is no traffic, and what the worker cannot do: added partitions are counted after the service has restarted
//! within the process.

use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::KafkaError;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::batch::{self, TopicDescription};
use super::tail::reader_config;
use super::topics::{self, Unreachable};
use crate::config::Config;
use crate::health::{FaultKind, Health};
use crate::metrics::process::ProcessMetrics;
use crate::pipeline::protocol::{TopicFault, same_source};
use crate::view::View;

/// How often the topics are checked.
const INTERVAL: Duration = Duration::from_secs(5);
/// How often the settings of the calls topic are read.
const SETTINGS_INTERVAL: Duration = Duration::from_secs(60);
/// Longest wait for one answer of the brokers.
const ANSWER: Duration = Duration::from_secs(2);
/// Longest single wait, so that a stop is noticed soon.
const WAIT: Duration = Duration::from_millis(200);
/// Consecutive checks in which a topic must be missing: a broker that has just started may not know it yet.
const MISSED: u32 = 2;

/// What the watch needs.
#[derive(Debug)]
pub struct Setup<'a> {
    /// Brokers, security, passed-through keys.
    pub base: &'a ClientConfig,
    /// Names of the topics, and their required settings.
    pub config: &'a Config,
    /// For asynchronous requests.
    pub runtime: &'a Handle,
    /// Readiness.
    pub health: &'a Health,
    /// Metrics.
    pub metrics: &'a ProcessMetrics,
    /// Cancelled when the service must restart to count added partitions.
    pub again: &'a CancellationToken,
    /// Ends the watch.
    pub stop: &'a CancellationToken,
}

/// Watches until `stop`. Runs on a thread of its own.
///
/// # Errors
/// The client cannot be made.
pub fn run(setup: &Setup<'_>, view: &View) -> Result<(), KafkaError> {
    let consumer: BaseConsumer = reader_config(setup.base, "read_uncommitted").create()?;
    let mut watch = Watch { shards: view.shards(), ..Watch::default() };
    let mut next_settings = Instant::now() + SETTINGS_INTERVAL;
    let mut timestamps = None;
    while !setup.stop.is_cancelled() {
        let next = Instant::now() + INTERVAL;
        let topics = [setup.config.source.topic.as_str(), setup.config.ledger.topic.as_str()];
        match batch::describe_topics(&consumer, &topics, ANSWER) {
            Ok(found) => {
                let [calls, ledger] = [0, 1].map(|place| found.get(place).cloned().flatten());
                let recorded = view.source_ids();
                let mut faults = watch.look(setup.config, calls, ledger, &recorded);
                if let Some(added) = faults.iter_mut().find(|fault| fault.kind == TopicFault::PartitionsAdded) {
                    match ready_to_grow(setup) {
                        Ok(()) => {
                            tracing::warn!("{}; starting again within the process to count them", added.detail);
                            setup.again.cancel();
                            break;
                        }
                        Err(why) => added.detail.push_str(&format!(" and cannot be counted yet: {why}")),
                    }
                }
                if Instant::now() >= next_settings {
                    next_settings = Instant::now() + SETTINGS_INTERVAL;
                    timestamps = ask(setup, topics::timestamp_mistake(setup.base, setup.config)).unwrap_or(timestamps);
                }
                faults.extend(timestamps.clone().map(|detail| Fault { kind: TopicFault::Timestamps, detail }));
                watch.report(setup, &faults);
            }
            Err(error) => tracing::debug!(%error, "the topics cannot be described at present"),
        }
        while Instant::now() < next && !setup.stop.is_cancelled() {
            batch::serve(&consumer, |error| tracing::debug!(%error, "describing the topics"));
            std::thread::sleep(WAIT);
        }
    }
    super::discard("watch", consumer);
    Ok(())
}

/// Waits for an answer, but not longer than for a stop.
fn ask<T, E>(setup: &Setup<'_>, answer: impl Future<Output = Result<T, E>>) -> Option<T> {
    setup.runtime.block_on(async {
        tokio::select! {
            () = setup.stop.cancelled() => None,
            answer = answer => answer.ok(),
        }
    })
}

/// Are the topics ready for a restart that counts the added partitions? Adds those of the ledger topic.
fn ready_to_grow(setup: &Setup<'_>) -> Result<(), String> {
    setup.runtime.block_on(async {
        tokio::select! {
            () = setup.stop.cancelled() => Err("the service is ending".to_owned()),
            prepared = topics::prepare(setup.base, setup.config, Unreachable::Fails) => prepared.map(drop).map_err(|error| error.to_string()),
        }
    })
}

/// Something that is wrong with a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Fault {
    kind: TopicFault,
    detail: String,
}

/// The state seen so far.
#[derive(Debug, Default)]
struct Watch {
    shards: u32,
    calls_id: Option<String>,
    ledger_id: Option<String>,
    calls_missed: u32,
    ledger_missed: u32,
    said: Vec<Fault>,
}

impl Watch {
    /// What is wrong. `recorded`: the ids of calls topics that the ledger's shards count.
    fn look(
        &mut self,
        config: &Config,
        calls: Option<TopicDescription>,
        ledger: Option<TopicDescription>,
        recorded: &[String],
    ) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut fault = |kind, detail: String| faults.push(Fault { kind, detail });
        let (source, topic) = (&config.source.topic, &config.ledger.topic);
        self.calls_missed = if calls.is_none() { self.calls_missed + 1 } else { 0 };
        self.ledger_missed = if ledger.is_none() { self.ledger_missed + 1 } else { 0 };
        if self.calls_missed >= MISSED {
            fault(
                TopicFault::CallsMissing,
                format!("the calls topic `{source}` (source.topic) does not exist any more"),
            );
        }
        if self.ledger_missed >= MISSED {
            let detail = format!(
                "the ledger topic `{topic}` (ledger.topic) does not exist any more: nothing can be counted. Restore it, or \
                 count anew: set a new `ledger.topic` and a new `kafka.group`"
            );
            fault(TopicFault::LedgerMissing, detail);
        }
        if let Some(calls) = &calls {
            let accepted = config.source.accept_topic_id.as_deref();
            let mut counted = recorded.iter().map(String::as_str).chain(self.calls_id.as_deref());
            if let Err(stop) = counted.try_for_each(|id| same_source(id, calls.id.as_deref(), accepted)) {
                fault(TopicFault::CallsRemade, stop.to_string());
            }
            if calls.partitions > self.shards {
                let (known, found) = (self.shards, calls.partitions);
                let detail = format!(
                    "partitions were added to the calls topic `{source}`: {known} were known, there are {found}"
                );
                fault(TopicFault::PartitionsAdded, detail);
            }
            self.calls_id = self.calls_id.take().or_else(|| calls.id.clone());
        }
        if let Some(ledger) = &ledger {
            let (known, found) = (self.shards, ledger.partitions);
            if self.ledger_id.is_some() && ledger.id.is_some() && self.ledger_id != ledger.id {
                let detail = format!(
                    "the ledger topic `{topic}` was deleted and recreated: what it held is gone. Restore it, or count anew: \
                     set a new `ledger.topic` and a new `kafka.group`"
                );
                fault(TopicFault::LedgerRemade, detail);
            } else if found < known {
                let detail = format!("the ledger topic `{topic}` has {found} partitions, {known} are needed");
                fault(TopicFault::LedgerPartitions, detail);
            }
            self.ledger_id = self.ledger_id.take().or_else(|| ledger.id.clone());
        }
        faults
    }

    /// Reports what is wrong: in readiness, in metrics, and in the log when it is new.
    fn report(&mut self, setup: &Setup<'_>, faults: &[Fault]) {
        for fault in faults.iter().filter(|fault| !self.said.contains(fault)) {
            tracing::error!(fault = fault.kind.as_str(), "{}", fault.detail);
        }
        for fault in self.said.iter().filter(|said| faults.iter().all(|fault| fault.kind != said.kind)) {
            tracing::info!(fault = fault.kind.as_str(), "no longer");
        }
        for kind in TopicFault::ALL {
            setup.metrics.set_topic_fault(kind, faults.iter().any(|fault| fault.kind == kind));
        }
        for (kind, of) in [
            (
                FaultKind::CallsTopic,
                &[TopicFault::CallsMissing, TopicFault::CallsRemade, TopicFault::PartitionsAdded][..],
            ),
            (
                FaultKind::LedgerTopic,
                &[TopicFault::LedgerMissing, TopicFault::LedgerRemade, TopicFault::LedgerPartitions],
            ),
            (FaultKind::Timestamps, &[TopicFault::Timestamps]),
        ] {
            let of = faults.iter().filter(|fault| of.contains(&fault.kind));
            let details: Vec<_> = of.map(|fault| fault.detail.clone()).collect();
            setup.health.set_fault(kind, (!details.is_empty()).then(|| details.join("; ")));
        }
        self.said = faults.to_vec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(id: &str, partitions: u32) -> Option<TopicDescription> {
        Some(TopicDescription { id: Some(id.to_owned()).filter(|id| !id.is_empty()), partitions })
    }

    fn kinds(faults: &[Fault]) -> Vec<&'static str> {
        faults.iter().map(|fault| fault.kind.as_str()).collect()
    }

    #[test]
    fn what_is_wrong_with_the_topics_of_two_shards() {
        let mut config = Config::new("calls", Vec::new());
        let counted = |id: &str| vec![id.to_owned()];
        let look =
            |config: &Config, looks: &[(Option<TopicDescription>, Option<TopicDescription>)], recorded: &[String]| {
                let mut watch = Watch { shards: 2, ..Watch::default() };
                let faults =
                    looks.iter().map(|(calls, ledger)| watch.look(config, calls.clone(), ledger.clone(), recorded));
                let last = faults.last().unwrap_or_default();
                kinds(&last)
            };
        let well = (topic("a", 2), topic("l", 2));
        assert!(look(&config, &[well.clone(), well.clone()], &counted("a")).is_empty());
        let once = [well.clone()];
        assert!(look(&config, &once, &counted("")).is_empty(), "a ledger of old brokers");
        assert!(look(&config, &[(topic("", 2), topic("", 2))], &counted("a")).is_empty(), "old brokers");
        // Another topic since the ledger was written, or since the last check.
        assert_eq!(look(&config, &once, &counted("z")), ["calls_remade"]);
        assert_eq!(look(&config, &[well.clone(), (topic("b", 2), topic("l", 2))], &[]), ["calls_remade"]);
        assert_eq!(look(&config, &[well.clone(), (topic("a", 2), topic("m", 2))], &counted("a")), ["ledger_remade"]);
        // Gone, twice in a row.
        assert!(look(&config, &[well.clone(), (None, None)], &counted("a")).is_empty());
        assert_eq!(look(&config, &[(None, None), (None, None)], &[]), ["calls_missing", "ledger_missing"]);
        assert!(look(&config, &[(None, None), well.clone(), (None, None)], &[]).is_empty());
        // Partitions.
        assert_eq!(look(&config, &[(topic("a", 4), topic("l", 2))], &[]), ["partitions_added"]);
        assert_eq!(look(&config, &[(topic("a", 2), topic("l", 1))], &[]), ["ledger_partitions"]);
        config.source.accept_topic_id = Some("a".into());
        assert!(look(&config, &once, &counted("z")).is_empty(), "accepted");
    }
}
