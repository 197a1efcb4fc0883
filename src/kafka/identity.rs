//! Are the topics still those that are counted and written? A topic that is deleted and recreated has the same name and
//! other offsets, and librdkafka keeps reading in it as if nothing had happened. Only its id shows the difference.

use std::time::{Duration, Instant};

use rdkafka::consumer::BaseConsumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::batch;
use super::ledger_log::Topics;
use crate::pipeline::protocol::same_source;

/// Longest wait of a takeover for the topics' ids; asked again in the next round.
const ANSWER: Duration = Duration::from_secs(2);
/// Longest wait of a flush.
const FLUSH_ANSWER: Duration = Duration::from_millis(500);
/// After brokers failed to report the ids, flushes go on without asking for this long.
const AGAIN: Duration = Duration::from_secs(5);
/// Why nothing is counted into another ledger topic than that of the takeover.
const LEDGER_REMADE: &str = "the ledger topic was deleted and recreated while this instance was counting: what it held is gone. \
     Restore it, or count anew: set a new `ledger.topic` and a new `kafka.group`";

/// The ids of the topics that are counted and written, where the brokers give topics one.
#[derive(Debug, Clone, Default)]
pub struct TopicIds {
    source: Option<String>,
    ledger: Option<String>,
}

/// Which topics are counted and written, as of the last takeover.
#[derive(Debug, Default)]
pub struct Identity {
    ids: TopicIds,
    told_of_none: bool,
}

/// Asks whether the topics are still those of a takeover.
#[derive(Debug, Default)]
pub struct IdCheck {
    /// Not asked before.
    quiet_until: Option<Instant>,
}

impl Identity {
    /// The id of the calls topic.
    pub fn source(&self) -> Option<&str> {
        self.ids.source.as_deref()
    }

    /// The ids of both topics.
    pub fn ids(&self) -> &TopicIds {
        &self.ids
    }

    /// Fetches the topics' ids. Old brokers answer without ids: then only offsets can be compared.
    ///
    /// # Errors
    /// No answer in time, or one of them does not exist.
    pub fn find(&mut self, reader: &BaseConsumer, topics: &Topics) -> Result<(), KafkaError> {
        let found = batch::describe_topics(reader, &[&topics.source, &topics.ledger], ANSWER)?;
        let missing = || KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition);
        let [source, ledger] = [0, 1].map(|place| found.get(place).cloned().flatten().ok_or_else(missing));
        let (source, ledger) = (source?, ledger?);
        if source.id.is_none() && !std::mem::replace(&mut self.told_of_none, true) {
            tracing::warn!(
                topic = topics.source,
                "the brokers give topics no id: a topic that is deleted and recreated is detected by its offsets alone"
            );
        }
        self.ids.source = source.id;
        self.ids.ledger = self.ids.ledger.take().or(ledger.id);
        Ok(())
    }
}

impl IdCheck {
    /// Why nothing may be committed: a topic was recreated. Call between a snapshot and its transaction: an id is never
    /// reused, so what was read before this moment is of the topics that the ids name, and nothing of a recreated topic
    /// is committed. Does not wait for brokers that do not answer at once.
    pub fn remade(&mut self, ids: &TopicIds, reader: &BaseConsumer, topics: &Topics) -> Option<String> {
        let recorded = ids.source.as_deref()?;
        if self.quiet_until.is_some_and(|until| Instant::now() < until) {
            return None;
        }
        let Ok(found) = batch::describe_topics(reader, &[&topics.source, &topics.ledger], FLUSH_ANSWER) else {
            self.quiet_until = Some(Instant::now() + AGAIN);
            return None;
        };
        let id = |place: usize| found.get(place)?.as_ref()?.id.as_deref();
        if let Err(stop) = same_source(recorded, id(0), None) {
            return Some(stop.to_string());
        }
        let (known, now) = (ids.ledger.as_deref()?, id(1)?);
        (known != now).then(|| LEDGER_REMADE.to_owned())
    }
}
