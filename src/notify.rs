//! Notification: what happens after the alerts topic.
//!
//! The counter writes alerts to the topic inside the flush's transaction. Here they are read back, `read_committed`,
//! and sent to webhooks ([`webhook`]) and Alertmanagers ([`alertmanager`]). So every alert that is sent was committed
//! first, and a crash loses nothing.
//!
//! Guarantees:
//! - **At least once.** An offset is committed after the delivery. A message that is repeated has the same id.
//! - **The current state.** Of one alert only its newest state is sent; a state that could not be sent before the next
//!   one is dropped. The order is kept between the states of one alert, not between alerts.
//! - **Receivers are independent.** Each receiver has its own group, thread, task, queue and client.
//!
//! Alerts that another one represents (`grouped`) are in the topic only. An alert's end must have the severity of its
//! beginning, and must be grouped if the beginning was, so that both go to the same receivers.
//!
//! Decisions are in [`queue`] and [`active`], without I/O and clock. Deliberately not here: deciding what is an alert.

pub mod active;
pub mod alert;
pub mod alertmanager;
pub mod client;
pub mod payload;
pub mod queue;
pub mod signature;
pub mod webhook;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers};
use rdkafka::{ClientConfig, Message};
use reqwest::Url;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Severity};
use crate::metrics::process::{Notification, ProcessMetrics};
use alert::Alert;
use alertmanager::Alertmanagers;
use client::Client;
use webhook::Webhook;

/// Rate limit for the same complaint.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);

/// The body of a thread, which runs until the service stops.
pub type Body = Box<dyn FnOnce() -> Result<()> + Send>;

/// Prepares all receivers of the configuration: checks their files, commits the starting offset of new webhooks, and
/// returns a body for each thread they need. Await it before anything can write alerts.
///
/// # Errors
/// A file that cannot be used, or brokers that refuse a webhook's group.
pub async fn prepare(
    base: &ClientConfig,
    config: &Config,
    instance: &str,
    metrics: &Arc<ProcessMetrics>,
    stop: &CancellationToken,
) -> Result<Vec<Body>> {
    let notify = &config.notify;
    let external = notify.external_url.as_deref().map(Url::parse).transpose().context("notify.external_url")?;
    let runtime = tokio::runtime::Handle::current();
    let mut bodies: Vec<Body> = Vec::new();
    for receiver in &notify.webhooks {
        let name = &receiver.name;
        let client = Client::new(&receiver.access, receiver.timeout);
        let client = client.map_err(|error| anyhow!("notify.webhooks {name}: {error}"))?;
        metrics.add_receiver(name);
        let group = format!("{}-notify-{name}", config.kafka.group);
        let webhook = Webhook {
            config: receiver.clone(),
            client,
            external: external.clone(),
            topic: config.ledger.alerts_topic.clone(),
            instance: config.kafka.static_membership.then(|| instance.to_owned()),
            metrics: metrics.clone(),
            stop: stop.clone(),
            group: group.clone(),
        };
        let placed = tokio::task::spawn_blocking({
            let base = base.clone();
            move || webhook.take_place(&base).map(|()| webhook)
        });
        let webhook = placed.await.context("the task that prepares a webhook")?;
        let webhook = webhook.with_context(|| {
            format!(
                "notify.webhooks {name}: no place in the alerts topic; may this user use the consumer group {group}?"
            )
        })?;
        let (base, runtime) = (base.clone(), runtime.clone());
        bodies.push(Box::new(move || Ok(webhook.run(&base, &runtime)?)));
    }
    let alertmanagers = &notify.alertmanagers;
    if !alertmanagers.urls.is_empty() {
        let wrong = |error: String| anyhow!("notify.alertmanagers: {error}");
        let peers: Result<Vec<_>, String> = alertmanagers.urls.iter().map(|url| alertmanager::peer(url)).collect();
        let peers = peers.map_err(wrong)?;
        peers.iter().for_each(|(name, _)| metrics.add_receiver(name));
        let client = Client::new(&alertmanagers.access, alertmanagers.timeout).map_err(wrong)?;
        let alertmanagers = Alertmanagers {
            config: alertmanagers.clone(),
            peers,
            client: Arc::new(client),
            external,
            topic: config.ledger.alerts_topic.clone(),
            metrics: metrics.clone(),
            stop: stop.clone(),
        };
        let base = base.clone();
        bodies.push(Box::new(move || Ok(alertmanagers.run(&base, &runtime)?)));
    }
    Ok(bodies)
}

/// Whether it is sent to receivers.
fn concerns(alert: &Alert, min_severity: Severity) -> bool {
    !alert.data.grouped && alert.data.severity >= min_severity
}

/// The alert in a record. A record that is not an alert is counted, logged and skipped: it cannot be delivered.
fn read_record(record: &BorrowedMessage<'_>, receiver: &str, metrics: &ProcessMetrics) -> Option<Alert> {
    let headers = record.headers().map(|headers| headers.iter().collect::<Vec<_>>()).unwrap_or_default();
    let headers = headers.iter().filter_map(|header| Some((header.key, header.value?)));
    match Alert::read(headers, record.payload()) {
        Ok(alert) => Some(alert),
        Err(error) => {
            metrics.notification(receiver, Notification::Dropped, 1);
            let (partition, offset) = (record.partition(), record.offset());
            tracing::error!(receiver, partition, offset, %error, "a record of the alerts topic is skipped");
            None
        }
    }
}

/// Number of a topic's partitions.
fn partition_count<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    timeout: Duration,
) -> Result<i32, KafkaError> {
    let metadata = consumer.fetch_metadata(Some(topic), timeout)?;
    let found = metadata.topics().iter().find(|found| found.name() == topic && found.error().is_none());
    match found.map(|found| found.partitions().len()) {
        Some(count) if count > 0 => Ok(i32::try_from(count).unwrap_or(i32::MAX)),
        _ => Err(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition)),
    }
}

/// Logs a problem when it begins and periodically, and when it is over.
#[derive(Debug, Default)]
struct Complaints {
    next: Option<Instant>,
}

impl Complaints {
    fn say(&mut self, now: Instant, say: impl FnOnce()) {
        if self.next.is_none_or(|next| now >= next) {
            self.next = Some(now + COMPLAINT_INTERVAL);
            say();
        }
    }

    fn over(&mut self, say: impl FnOnce()) {
        if self.next.take().is_some() {
            say();
        }
    }
}
