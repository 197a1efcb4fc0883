//! One webhook: a reader of the topic in a consumer group of its own, and a task that sends to the receiver.
//!
//! The reader is a thread that polls Kafka, fills the [`Queue`], and commits what is done; the task sends, one message
//! at a time. They share only the queue, so a receiver that does not answer blocks neither the group nor another
//! receiver.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::Utc;
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use reqwest::Url;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::alert::Alert;
use super::client::{Answer, Client};
use super::queue::{Failed, Next, Queue, Ticket};
use super::{Complaints, payload, read_record, signature};
use crate::config::{SigningKeys, WebhookConfig};
use crate::kafka::batch::{self, Place};
use crate::metrics::process::{Notification, ProcessMetrics};

/// Longest wait for a record.
const WAIT: Duration = Duration::from_millis(100);
/// Minimum interval between offset commits.
const COMMIT_INTERVAL: Duration = Duration::from_millis(100);
/// How long a message in flight may take when the service ends.
const LAST_MESSAGE: Duration = Duration::from_secs(4);
/// Longest wait for one answer of the brokers at the start, for all of them together, and the pause before another attempt.
const ANSWER: Duration = Duration::from_secs(10);
const PLACE_WITHIN: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(200);

/// One webhook, ready to run.
#[derive(Debug)]
pub struct Webhook {
    pub(super) config: WebhookConfig,
    pub(super) client: Client,
    pub(super) external: Option<Url>,
    pub(super) topic: String,
    pub(super) group: String,
    /// With static membership, this instance's name.
    pub(super) instance: Option<String>,
    pub(super) metrics: Arc<ProcessMetrics>,
    pub(super) stop: CancellationToken,
}

/// What reader and sender share.
#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    /// The queue has something new for the sender.
    changed: Notify,
    topic: String,
    /// What was committed last, by partition.
    committed: Mutex<BTreeMap<i32, i64>>,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Commits what is done and was not committed yet. One that fails is repeated: see [`Membership::commit_callback`].
    fn commit<C: ConsumerContext>(&self, consumer: &BaseConsumer<C>) {
        let offsets = self.queue().committable();
        let mut committed = self.committed.lock().unwrap_or_else(PoisonError::into_inner);
        let mut list = TopicPartitionList::new();
        for (partition, offset) in offsets {
            if committed.insert(partition, offset) != Some(offset)
                && let Err(error) = list.add_partition_offset(&self.topic, partition, Offset::Offset(offset))
            {
                tracing::debug!(partition, offset, %error, "an offset that cannot be committed");
            }
        }
        if list.count() > 0
            && let Err(error) = consumer.commit(&list, CommitMode::Async)
        {
            tracing::debug!(%error, "offsets of a webhook were not committed");
        }
    }
}

/// The consumer's context: answers rebalances.
struct Membership(Arc<Shared>);

impl ClientContext for Membership {}

impl ConsumerContext for Membership {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(list) => {
                let partitions: Vec<i32> = list.elements().iter().map(|element| element.partition()).collect();
                tracing::debug!(topic = self.0.topic, ?partitions, "a webhook's share of the topic");
                self.0.committed.lock().unwrap_or_else(PoisonError::into_inner).clear();
                self.0.queue().assign(partitions.into_iter());
            }
            Rebalance::Revoke(_) => {
                if !consumer.assignment_lost() {
                    self.0.commit(consumer);
                }
                self.0.queue().revoke();
            }
            Rebalance::Error(error) => tracing::warn!(%error, "a webhook's consumer group does not come together"),
        }
    }

    fn commit_callback(&self, result: Result<(), KafkaError>, _offsets: &TopicPartitionList) {
        if let Err(error) = result {
            tracing::debug!(topic = self.0.topic, %error, "offsets of a webhook were not committed; trying again");
            self.0.committed.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }
}

/// The client configuration of a member of a webhook's group.
fn consumer_config(base: &ClientConfig, group: &str) -> ClientConfig {
    let mut config = base.clone();
    config
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true")
        // If retention has overtaken the group, or partitions were added.
        .set("auto.offset.reset", "earliest")
        .set("fetch.wait.max.ms", "100");
    config
}

/// Whether the brokers would give the same answer again.
fn is_refusal(error: &KafkaError) -> bool {
    let code = error.rdkafka_error_code();
    matches!(code, Some(RDKafkaErrorCode::GroupAuthorizationFailed | RDKafkaErrorCode::TopicAuthorizationFailed))
}

impl Webhook {
    /// Commits the topic's current end as a new group's starting offset, so that a first start does not send alerts
    /// from months ago. Call before anything can write alerts. A group that has committed offsets keeps them.
    ///
    /// # Errors
    /// The brokers do not answer in time, or refuse.
    pub fn take_place(&self, base: &ClientConfig) -> Result<(), KafkaError> {
        let consumer: BaseConsumer = consumer_config(base, &self.group).create()?;
        let deadline = Instant::now() + PLACE_WITHIN;
        loop {
            match self.try_take_place(&consumer) {
                // A cluster that is new, or that is just losing a broker, has no coordinator for the group yet.
                Err(error) if !is_refusal(&error) && Instant::now() < deadline && !self.stop.is_cancelled() => {
                    tracing::debug!(receiver = self.config.name, %error, "no place in the alerts topic yet; trying again");
                    std::thread::sleep(PAUSE);
                }
                result => return result,
            }
        }
    }

    fn try_take_place(&self, consumer: &BaseConsumer) -> Result<(), KafkaError> {
        let mut list = TopicPartitionList::new();
        for partition in 0..super::partition_count(consumer, &self.topic, ANSWER)? {
            list.add_partition(&self.topic, partition);
        }
        let committed = consumer.committed_offsets(list, ANSWER)?;
        let places = committed.elements();
        if places.iter().any(|element| matches!(element.offset(), Offset::Offset(_))) {
            return Ok(());
        }
        // An open transaction is after the last stable offset.
        let partitions = places.iter().map(|element| element.partition());
        let mut ends = TopicPartitionList::new();
        for (partition, end) in batch::offsets(consumer, &self.topic, partitions, Place::Stable, ANSWER)? {
            ends.add_partition_offset(&self.topic, partition, Offset::Offset(end))?;
        }
        match consumer.commit(&ends, CommitMode::Sync) {
            Ok(()) => {
                tracing::info!(
                    receiver = self.config.name,
                    group = self.group,
                    "new receiver: alerts are delivered from now on"
                )
            }
            // Another instance is already in the group, and has committed its starting offset.
            Err(KafkaError::ConsumerCommit(
                RDKafkaErrorCode::UnknownMemberId
                | RDKafkaErrorCode::IllegalGeneration
                | RDKafkaErrorCode::RebalanceInProgress,
            )) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Reads and sends until the service stops. Runs on a thread of its own; the messages are sent on `runtime`.
    ///
    /// # Errors
    /// The client cannot be made, or the group has permanently fenced it.
    pub fn run(self, base: &ClientConfig, runtime: &tokio::runtime::Handle) -> Result<(), KafkaError> {
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue::new(self.config.give_up_after)),
            changed: Notify::new(),
            topic: self.topic.clone(),
            committed: Mutex::default(),
        });
        let mut config = consumer_config(base, &self.group);
        if let Some(instance) = &self.instance {
            config.set("group.instance.id", instance);
        }
        let consumer: BaseConsumer<Membership> = config.create_with_context(Membership(shared.clone()))?;
        consumer.subscribe(&[&self.topic])?;
        let webhook = Arc::new(self);
        let sender = runtime.spawn(webhook.clone().tell(shared.clone()));
        let result = webhook.read(&consumer, &shared, || sender.is_finished());
        sender.abort();
        // Commits for the last time and leaves the group.
        drop(consumer);
        result
    }

    fn read(
        &self,
        consumer: &BaseConsumer<Membership>,
        shared: &Shared,
        sender_ended: impl Fn() -> bool,
    ) -> Result<(), KafkaError> {
        let (mut paused, mut next_commit, mut end) = (false, Instant::now(), None);
        loop {
            if self.stop.is_cancelled() {
                let end = *end.get_or_insert_with(|| Instant::now() + LAST_MESSAGE);
                if sender_ended() || Instant::now() >= end {
                    return Ok(());
                }
            }
            match consumer.poll(WAIT) {
                Some(Ok(record)) => {
                    let alert = read_record(&record, &self.config.name, &self.metrics).map(Arc::new);
                    let (partition, offset) = (record.partition(), record.offset());
                    let tell = alert.as_ref().is_some_and(|alert| super::concerns(alert, self.config.min_severity));
                    let superseded = shared.queue().read(partition, offset, alert, tell, Instant::now());
                    if let Some(older) = superseded {
                        self.drop_alert(&older, "something newer is known of it");
                    }
                    shared.changed.notify_one();
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    shared.queue().reached_end(partition);
                    shared.changed.notify_one();
                }
                Some(Err(error)) => {
                    if let Some((code, reason)) = consumer.client().fatal_error() {
                        tracing::error!(receiver = self.config.name, reason, "a webhook's consumer cannot go on");
                        return Err(KafkaError::MessageConsumption(code));
                    }
                    tracing::warn!(receiver = self.config.name, %error, "reading the alerts topic failed");
                }
                None => {}
            }
            let (full, waiting) = {
                let queue = shared.queue();
                (queue.is_full(), queue.len())
            };
            self.metrics.set_notifications_pending(&self.config.name, waiting);
            // Polling goes on, or the group would consider this member dead.
            if full || paused {
                let assigned = consumer.assignment()?;
                if full { consumer.pause(&assigned) } else { consumer.resume(&assigned) }?;
                paused = full;
            }
            if Instant::now() >= next_commit {
                next_commit = Instant::now() + COMMIT_INTERVAL;
                shared.commit(consumer);
            }
        }
    }

    /// Sends the queue's alerts to the receiver until the service stops.
    async fn tell(self: Arc<Self>, shared: Arc<Shared>) {
        let mut complaints = Complaints::default();
        while !self.stop.is_cancelled() {
            let next = shared.queue().next(Instant::now());
            let wake = match next {
                Next::Send(ticket, alert) => {
                    let answer = self.attempt(&alert).await;
                    self.settle(&shared, ticket, &alert, answer, &mut complaints);
                    continue;
                }
                Next::Wait(until) => Some(until),
                Next::Idle => None,
            };
            let sleep = async {
                match wake {
                    Some(until) => tokio::time::sleep_until(until.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = shared.changed.notified() => {}
                () = sleep => {}
            }
        }
    }

    async fn attempt(&self, alert: &Alert) -> Answer {
        let url = match self.config.url.read() {
            Ok(url) => url,
            Err(error) => return Answer::Failed(format!("its address cannot be read: {error}"), None),
        };
        let body = payload::webhook(&self.config.name, alert, self.external.as_ref());
        let timestamp = Utc::now().timestamp();
        let mut headers = vec![
            ("webhook-id", alert.id.clone()),
            ("webhook-timestamp", timestamp.to_string()),
            ("idempotency-key", alert.id.clone()),
        ];
        match self.config.secret_file.as_deref().map(SigningKeys::read).transpose() {
            Ok(Some(keys)) => {
                headers.push(("webhook-signature", signature::sign(&keys, &alert.id, timestamp, &body)));
            }
            Ok(None) => {}
            Err(error) => return Answer::Failed(format!("its signing keys cannot be read: {error}"), None),
        }
        self.client.post(url, &headers, body).await
    }

    fn settle(&self, shared: &Shared, ticket: Ticket, alert: &Alert, answer: Answer, complaints: &mut Complaints) {
        let (receiver, now) = (self.config.name.as_str(), Instant::now());
        let (id, name, tenant) = (&alert.id, &alert.data.alert, alert.data.tenant.as_deref());
        match answer {
            Answer::Accepted => {
                shared.queue().done(ticket, true, now);
                self.metrics.notification(receiver, Notification::Delivered, 1);
                tracing::info!(
                    receiver,
                    id,
                    alert = name,
                    tenant,
                    status = alert.data.status.as_str(),
                    "alert delivered"
                );
                complaints.over(|| tracing::info!(receiver, "the receiver takes alerts again"));
            }
            Answer::Refused(why) => {
                shared.queue().done(ticket, false, now);
                self.metrics.notification(receiver, Notification::Rejected, 1);
                tracing::error!(
                    receiver,
                    id,
                    alert = name,
                    tenant,
                    why,
                    "the receiver rejects an alert; it will not be sent again"
                );
            }
            Answer::Failed(why, retry_after) => {
                let failed = shared.queue().failed(ticket, retry_after, now, Utc::now());
                match failed {
                    Failed::Again => self.metrics.notification(receiver, Notification::Retried, 1),
                    Failed::GivenUp => self.drop_alert(alert, "it is older than give_up_after"),
                    Failed::Superseded => self.drop_alert(alert, "something newer is known of it"),
                }
                complaints.say(now, || {
                    tracing::warn!(
                        receiver,
                        id,
                        alert = name,
                        tenant,
                        why,
                        "an alert is not delivered yet; trying again"
                    );
                });
            }
        }
    }

    /// The alert will not be sent to this receiver.
    fn drop_alert(&self, alert: &Alert, why: &str) {
        self.metrics.notification(&self.config.name, Notification::Dropped, 1);
        let (receiver, id, tenant) = (&self.config.name, &alert.id, alert.data.tenant.as_deref());
        tracing::warn!(receiver, id, alert = alert.data.alert, tenant, why, "an alert is dropped");
    }
}
