//! A broker inside the process, for the demo only: librdkafka's mock cluster. It keeps a few megabytes a partition,
//! does not compact, and does not fence, so it proves nothing about correctness.

use rdkafka::error::KafkaError;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use crate::config::Config;

/// Partitions of the calls topic; the mock keeps only 5 MiB of each.
pub const SHARDS: u32 = 16;

/// A running mock cluster.
pub struct EmbeddedBroker(MockCluster<'static, DefaultProducerContext>);

impl EmbeddedBroker {
    /// Starts one broker on a free loopback port.
    ///
    /// # Errors
    /// librdkafka cannot start it.
    pub fn start() -> Result<Self, KafkaError> {
        Ok(Self(MockCluster::new(1)?))
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        self.0.bootstrap_servers()
    }

    /// Creates the topics of a configuration.
    ///
    /// # Errors
    /// The mock refuses.
    pub fn create_topics(&self, config: &Config) -> Result<(), KafkaError> {
        for (topic, partitions) in [
            (&config.source.topic, SHARDS),
            (&config.ledger.topic, SHARDS),
            (&config.ledger.dead_letters_topic, 1),
            (&config.ledger.alerts_topic, 1),
        ] {
            self.0.create_topic(topic, partitions as i32, 1)?;
        }
        Ok(())
    }
}
