//! Alertmanagers, notified directly: firing alerts are sent at once and then repeatedly, to each of them, as Prometheus
//! does.
//!
//! Every instance replays the topic and sends the whole set; Alertmanager deduplicates alerts with the same labels. So
//! no leader election is needed, and the loss of an instance silences no alert. A peer that was down has the set again
//! after one interval. If Kafka does not answer, the last known set keeps being sent: an alert that lasts too long is
//! better than a missing one.
//!
//! The set goes back as far as the topic: an alert that has fired for longer than the topic's retention is lost at the
//! next start. `kafka::topics` creates the topic with a retention that is longer than any alert lives.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use backon::BackoffBuilder;
use chrono::{DateTime, Utc};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use reqwest::Url;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::active::{ActiveSet, Told};
use super::client::{Answer, Client};
use super::payload::{PostableAlert, json};
use super::queue::pauses;
use super::{Complaints, read_record};
use crate::config::AlertmanagersConfig;
use crate::kafka::tail::reader_config;
use crate::metrics::process::{Notification, ProcessMetrics};

/// Longest wait for a record, for an answer of the brokers, and between two checks for added partitions.
const WAIT: Duration = Duration::from_millis(100);
const ANSWER: Duration = Duration::from_secs(2);
const PARTITIONS_INTERVAL: Duration = Duration::from_secs(30);
/// Maximum number of alerts in one request.
const BATCH: usize = 256;
/// An alert stays active for this many intervals after it was last sent, as in Prometheus.
const HOLDS_INTERVALS: u32 = 4;
/// The receiver name for all of them together.
const ALL: &str = "alertmanager";

/// All Alertmanagers, ready to run.
#[derive(Debug)]
pub struct Alertmanagers {
    pub(super) config: AlertmanagersConfig,
    pub(super) peers: Vec<(String, Url)>,
    pub(super) client: Arc<Client>,
    pub(super) external: Option<Url>,
    pub(super) topic: String,
    pub(super) metrics: Arc<ProcessMetrics>,
    pub(super) stop: CancellationToken,
}

/// The name of a peer in metrics, and the URL for its alerts.
pub fn peer(url: &str) -> Result<(String, Url), String> {
    let mut url = Url::parse(url).map_err(|error| error.to_string())?;
    let (host, port) = (url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default());
    let name = format!("{ALL}:{host}:{port}{}", url.path().trim_end_matches('/'));
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(["api", "v2", "alerts"]);
    }
    Ok((name, url))
}

/// What the reader shares with the peers' tasks.
#[derive(Debug)]
struct Shared {
    set: Mutex<ActiveSet>,
    /// The newest change of the set; `None` until the topic was read to its end.
    newest: watch::Sender<Option<u64>>,
}

impl Shared {
    fn set(&self) -> MutexGuard<'_, ActiveSet> {
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self) {
        let change = self.set().change();
        self.newest.send_replace(Some(change));
    }
}

impl Alertmanagers {
    /// Reads and sends until the service stops. Runs on a thread of its own; each peer has a task on `runtime`.
    ///
    /// # Errors
    /// The client cannot be made.
    pub fn run(self, base: &ClientConfig, runtime: &tokio::runtime::Handle) -> Result<(), KafkaError> {
        let shared = Arc::new(Shared { set: Mutex::default(), newest: watch::Sender::new(None) });
        let this = Arc::new(self);
        let peers: Vec<_> = this
            .peers
            .iter()
            .map(|(name, url)| runtime.spawn(this.clone().tell(name.clone(), url.clone(), shared.clone())))
            .collect();
        let mut complaints = Complaints::default();
        while !this.stop.is_cancelled() {
            let consumer: BaseConsumer = reader_config(base, "read_committed").create()?;
            let read = super::partition_count(&consumer, &this.topic, ANSWER)
                .and_then(|partitions| this.read(&consumer, partitions, &shared));
            if let Err(error) = read {
                complaints.say(Instant::now(), || {
                    tracing::warn!(topic = this.topic, %error, "the alerts topic cannot be read yet; trying again");
                });
                std::thread::sleep(WAIT);
            }
            crate::kafka::discard(ALL, consumer);
        }
        peers.iter().for_each(tokio::task::JoinHandle::abort);
        Ok(())
    }

    /// Reads from the beginning until it has to start over.
    fn read(&self, consumer: &BaseConsumer, partitions: i32, shared: &Shared) -> Result<(), KafkaError> {
        let mut list = TopicPartitionList::new();
        for partition in 0..partitions {
            list.add_partition_offset(&self.topic, partition, Offset::Beginning)?;
        }
        consumer.assign(&list)?;
        let mut unread: Vec<i32> = (0..partitions).collect();
        // The set that is sent stays unchanged until the topic was read to its end.
        let mut replayed = Some(ActiveSet::default());
        let mut next_look = Instant::now() + PARTITIONS_INTERVAL;
        while !self.stop.is_cancelled() {
            match consumer.poll(WAIT) {
                Some(Ok(record)) => {
                    let Some(alert) = read_record(&record, ALL, &self.metrics) else { continue };
                    let tell = super::concerns(&alert, self.config.min_severity);
                    let written = record.timestamp().to_millis().and_then(DateTime::from_timestamp_millis);
                    let written = written.unwrap_or(alert.time);
                    match &mut replayed {
                        Some(set) => _ = set.apply(alert, tell, written),
                        None => {
                            if shared.set().apply(alert, tell, written) {
                                shared.publish();
                            }
                        }
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    unread.retain(|other| *other != partition);
                    if unread.is_empty()
                        && let Some(mut set) = replayed.take()
                    {
                        set.forget(Utc::now());
                        tracing::info!(
                            topic = self.topic,
                            alerts = set.since(0).count(),
                            "alerts read for the Alertmanagers"
                        );
                        shared.set().replace(set);
                        shared.publish();
                    }
                }
                Some(Err(error)) => {
                    tracing::warn!(topic = self.topic, %error, "reading the alerts topic failed");
                    // Retention has overtaken the reader.
                    if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AutoOffsetReset) {
                        return Ok(());
                    }
                }
                None => {}
            }
            if Instant::now() >= next_look {
                next_look = Instant::now() + PARTITIONS_INTERVAL;
                if super::partition_count(consumer, &self.topic, ANSWER).is_ok_and(|count| count > partitions) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Sends changes to one peer, and the whole set once per interval, until the service stops.
    async fn tell(self: Arc<Self>, name: String, url: Url, shared: Arc<Shared>) {
        let mut newest = shared.newest.subscribe();
        let (mut sent, mut everything_due) = (0, Instant::now());
        let mut pauses_left = pauses().build();
        let mut complaints = Complaints::default();
        loop {
            let known = *newest.borrow_and_update();
            let now = Instant::now();
            let everything = now >= everything_due;
            let wait = match known {
                None => Some(everything_due + self.config.resend_interval),
                Some(change) if !everything && change <= sent => Some(everything_due),
                Some(_) => None,
            };
            if let Some(until) = wait {
                tokio::select! {
                    () = self.stop.cancelled() => return,
                    _ = newest.changed() => {}
                    () = tokio::time::sleep_until(until.into()) => {}
                }
                continue;
            }
            let (alerts, fresh, change) = self.due(&shared, if everything { 0 } else { sent }, sent);
            self.metrics.set_notifications_pending(&name, fresh);
            let answer = self.post(&url, &alerts).await;
            let pause = match answer {
                Answer::Accepted => {
                    self.metrics.notification(&name, Notification::Delivered, fresh);
                    complaints.over(|| tracing::info!(receiver = name, "the Alertmanager takes alerts again"));
                    None
                }
                Answer::Refused(why) => {
                    self.metrics.notification(&name, Notification::Rejected, fresh.max(1));
                    tracing::error!(receiver = name, why, "the Alertmanager rejects alerts");
                    None
                }
                Answer::Failed(why, retry_after) => {
                    self.metrics.notification(&name, Notification::Retried, fresh.max(1));
                    complaints.say(now, || {
                        tracing::warn!(receiver = name, why, "the Alertmanager takes no alerts; trying again");
                    });
                    // At an interval's end everything is sent again anyway.
                    let pause = retry_after.or_else(|| pauses_left.next()).unwrap_or_default();
                    Some(pause.min(self.config.resend_interval))
                }
            };
            match pause {
                None => {
                    sent = change;
                    self.metrics.set_notifications_pending(&name, 0);
                    pauses_left = pauses().build();
                    if everything {
                        everything_due = now + self.config.resend_interval;
                    }
                }
                Some(pause) => tokio::select! {
                    () = self.stop.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                },
            }
        }
    }

    /// What changed after `since`, how much of it after `sent`, and the newest change.
    fn due(&self, shared: &Shared, since: u64, sent: u64) -> (Vec<PostableAlert>, usize, u64) {
        let now = Utc::now();
        let mut set = shared.set();
        set.forget(now);
        let fresh = set.since(sent).count();
        (set.since(since).map(|told| self.postable(told, now)).collect(), fresh, set.change())
    }

    fn postable(&self, told: &Told, now: DateTime<Utc>) -> PostableAlert {
        let ends_at = match told.ended {
            // An end in the future would not resolve it, and an end before the beginning is refused.
            Some(ended) => ended.min(now).max(told.alert.data.starts_at),
            None => now + self.config.resend_interval * HOLDS_INTERVALS,
        };
        PostableAlert::new(&told.alert, ends_at, self.external.as_ref())
    }

    /// Sends in batches; stops at the first failed attempt, but not at a refusal.
    async fn post(&self, url: &Url, alerts: &[PostableAlert]) -> Answer {
        let mut refused = None;
        for batch in alerts.chunks(BATCH) {
            match self.client.post(url.clone(), &[], json(&batch)).await {
                Answer::Accepted => {}
                // Alertmanager still accepts the valid ones of a batch, so the others are delivered.
                Answer::Refused(why) => refused = Some(Answer::Refused(why)),
                failed => return failed,
            }
        }
        refused.unwrap_or(Answer::Accepted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_alerts_go_and_what_the_peer_is_called() {
        for (given, name, url) in [
            ("http://127.0.0.1:9093", "alertmanager:127.0.0.1:9093", "http://127.0.0.1:9093/api/v2/alerts"),
            (
                "https://am.example.com/am/",
                "alertmanager:am.example.com:443/am",
                "https://am.example.com/am/api/v2/alerts",
            ),
        ] {
            let (found, at) = peer(given).expect("an address");
            assert_eq!((found.as_str(), at.as_str()), (name, url));
        }
    }
}
