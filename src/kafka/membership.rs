//! The consumer group's side: what was assigned, under which generation, and what was revoked.
//!
//! Callbacks only record what happened; the worker answers an assignment with an empty one (below), takes the shards
//! over, and assigns them with their exact start offsets when it is done. A revocation is answered when the worker has
//! flushed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rdkafka::TopicPartitionList;
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, ConsumerGroupMetadata};
use rdkafka::types::RDKafkaRespErr;

use super::batch;

/// A membership that fences a commit.
#[derive(Clone)]
pub struct Membership {
    /// For `send_offsets_to_transaction`; as it was at the assignment.
    pub metadata: Arc<ConsumerGroupMetadata>,
    /// The group's generation.
    pub generation: i32,
    /// The member id.
    pub member: String,
}

impl std::fmt::Debug for Membership {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Membership")
            .field("generation", &self.generation)
            .field("member", &self.member)
            .finish_non_exhaustive()
    }
}

/// A rebalance, as the worker must answer it.
#[derive(Debug)]
pub enum Rebalanced {
    /// These partitions are ours now. `None`: the membership could not fence a commit, so nothing may be counted.
    Assigned(Vec<i32>, Option<Membership>),
    /// All partitions are taken away. `lost`: another member may have them already.
    Revoked {
        /// A flush can no longer succeed.
        lost: bool,
    },
    /// The rebalance failed.
    Failed(String),
}

/// Records rebalances and errors.
#[derive(Debug, Default)]
pub struct Notes {
    rebalanced: Mutex<Vec<Rebalanced>>,
    /// The consumer is being closed: revocations are answered at once.
    closing: AtomicBool,
}

impl Notes {
    /// Rebalances since the last call.
    pub fn take(&self) -> Vec<Rebalanced> {
        std::mem::take(&mut *self.rebalanced.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// From now on revocations are answered at once.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Release);
    }

    fn note(&self, rebalanced: Rebalanced) {
        self.rebalanced.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(rebalanced);
    }
}

impl ClientContext for Notes {
    fn error(&self, error: rdkafka::error::KafkaError, reason: &str) {
        tracing::warn!(%error, reason, "kafka client error");
    }
}

impl ConsumerContext for Notes {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, error: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        match error {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                let (generation, member) = batch::generation_and_member(consumer);
                // The broker would accept a commit under a negative generation or without a member: refuse it here.
                let fences = generation >= 0 && !member.is_empty();
                let membership = consumer.group_metadata().filter(|_| fences);
                let membership =
                    membership.map(|metadata| Membership { metadata: Arc::new(metadata), generation, member });
                let shards = partitions.elements().iter().map(|p| p.partition()).collect();
                self.note(Rebalanced::Assigned(shards, membership));
                if let Err(error) = consumer.assign(&TopicPartitionList::new()) {
                    self.note(Rebalanced::Failed(error.to_string()));
                }
            }
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS => {
                self.note(Rebalanced::Revoked { lost: consumer.assignment_lost() });
                if self.closing.load(Ordering::Acquire) {
                    _ = consumer.unassign();
                }
            }
            other => {
                self.note(Rebalanced::Failed(rdkafka::error::RDKafkaErrorCode::from(other).to_string()));
                _ = consumer.unassign();
            }
        }
    }
}
