//! What goes over the wire: Alertmanager's webhook payload, version 4, and the alerts of its API v2.

use chrono::{DateTime, Utc};
use reqwest::Url;
use serde::Serialize;

use super::alert::{Alert, Texts, instant};

/// The end of an alert that has not ended: Go's zero time, as Alertmanager writes it.
const NO_END: &str = "0001-01-01T00:00:00Z";

/// Alertmanager's webhook payload. One alert per message, so that the message's id is the alert's.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Webhook<'a> {
    version: &'a str,
    group_key: String,
    truncated_alerts: u64,
    status: &'a str,
    receiver: &'a str,
    group_labels: Texts,
    common_labels: Texts,
    common_annotations: Texts,
    #[serde(rename = "externalURL")]
    external_url: &'a str,
    alerts: [WebhookAlert<'a>; 1],
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct WebhookAlert<'a> {
    status: &'a str,
    labels: Texts,
    annotations: Texts,
    starts_at: String,
    ends_at: String,
    #[serde(rename = "generatorURL")]
    generator_url: String,
    fingerprint: &'a str,
}

/// The body of a webhook. `external`: `notify.external_url`.
pub fn webhook(receiver: &str, alert: &Alert, external: Option<&Url>) -> Vec<u8> {
    let (labels, annotations, identity) = (alert.labels(), alert.annotations(external), alert.identity());
    let status = alert.data.status.as_str();
    let message = Webhook {
        version: "4",
        // A key for each alert: receivers treat alerts with the same key as one incident.
        group_key: format!("{{}}:{{{}}}", matchers(&identity)),
        truncated_alerts: 0,
        status,
        receiver,
        group_labels: identity,
        common_labels: labels.clone(),
        common_annotations: annotations.clone(),
        external_url: external.map_or("", Url::as_str),
        alerts: [WebhookAlert {
            status,
            labels,
            annotations,
            starts_at: instant(alert.data.starts_at),
            ends_at: if alert.is_firing() { NO_END.into() } else { instant(alert.ended()) },
            generator_url: external.map_or_else(String::new, |base| alert.url(base)),
            fingerprint: &alert.data.fingerprint,
        }],
    };
    json(&message)
}

/// Labels as Alertmanager writes a group's.
fn matchers(labels: &Texts) -> String {
    // Rust and Go agree on the escapes of what labels hold: quotes, backslashes, line ends.
    labels.iter().map(|(name, value)| format!("{name}={value:?}")).collect::<Vec<_>>().join(", ")
}

/// An alert of `POST /api/v2/alerts`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PostableAlert {
    labels: Texts,
    annotations: Texts,
    starts_at: String,
    ends_at: String,
    #[serde(rename = "generatorURL", skip_serializing_if = "Option::is_none")]
    generator_url: Option<String>,
}

impl PostableAlert {
    /// The alert, active until `ends_at` unless it is sent again.
    pub fn new(alert: &Alert, ends_at: DateTime<Utc>, external: Option<&Url>) -> Self {
        Self {
            labels: alert.labels(),
            annotations: alert.annotations(external),
            starts_at: instant(alert.data.starts_at),
            ends_at: instant(ends_at),
            generator_url: external.map(|base| alert.url(base)),
        }
    }
}

/// The body of a request.
pub fn json(value: &impl Serialize) -> Vec<u8> {
    // Plain strings and numbers: it cannot fail.
    serde_json::to_vec(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notify::alert::tests::alert;

    fn pretty(body: &[u8]) -> String {
        serde_json::to_string_pretty(&serde_json::from_slice::<serde_json::Value>(body).unwrap()).unwrap()
    }

    #[test]
    fn webhook_of_an_alert_that_fires() {
        let base = Url::parse("https://sla.example.com").unwrap();
        let body = webhook("ops", &alert("firing", |_| {}), Some(&base));
        insta::assert_snapshot!(pretty(&body), @r#"
        {
          "alerts": [
            {
              "annotations": {
                "description": "More words.",
                "page_url": "https://sla.example.com/tenant?tenant=acme&month=2026-03",
                "runbook_url": "https://runbooks.example.com/budget",
                "summary": "acme: 80 % of the budget"
              },
              "endsAt": "0001-01-01T00:00:00Z",
              "fingerprint": "f-1",
              "generatorURL": "https://sla.example.com/tenant?tenant=acme&month=2026-03",
              "labels": {
                "alertname": "SlaBudgetConsumed",
                "ledger": "main",
                "level": "80",
                "month": "2026-03",
                "severity": "warning",
                "tenant": "acme"
              },
              "startsAt": "2026-03-20T02:00:05Z",
              "status": "firing"
            }
          ],
          "commonAnnotations": {
            "description": "More words.",
            "page_url": "https://sla.example.com/tenant?tenant=acme&month=2026-03",
            "runbook_url": "https://runbooks.example.com/budget",
            "summary": "acme: 80 % of the budget"
          },
          "commonLabels": {
            "alertname": "SlaBudgetConsumed",
            "ledger": "main",
            "level": "80",
            "month": "2026-03",
            "severity": "warning",
            "tenant": "acme"
          },
          "externalURL": "https://sla.example.com/",
          "groupKey": "{}:{alertname=\"SlaBudgetConsumed\", ledger=\"main\", level=\"80\", month=\"2026-03\", tenant=\"acme\"}",
          "groupLabels": {
            "alertname": "SlaBudgetConsumed",
            "ledger": "main",
            "level": "80",
            "month": "2026-03",
            "tenant": "acme"
          },
          "receiver": "ops",
          "status": "firing",
          "truncatedAlerts": 0,
          "version": "4"
        }
        "#);
    }

    #[test]
    fn webhook_of_an_alert_that_is_over() {
        let odd = alert("resolved", |event| {
            event["data"]["tenant"] = "a \"quoted\" one".into();
            event["data"]["runbook_url"] = serde_json::Value::Null;
        });
        insta::assert_snapshot!(pretty(&webhook("ops", &odd, None)), @r#"
        {
          "alerts": [
            {
              "annotations": {
                "description": "More words.",
                "summary": "acme: 80 % of the budget"
              },
              "endsAt": "2026-03-20T02:30:00Z",
              "fingerprint": "f-1",
              "generatorURL": "",
              "labels": {
                "alertname": "SlaBudgetConsumed",
                "ledger": "main",
                "level": "80",
                "month": "2026-03",
                "severity": "warning",
                "tenant": "a \"quoted\" one"
              },
              "startsAt": "2026-03-20T02:00:05Z",
              "status": "resolved"
            }
          ],
          "commonAnnotations": {
            "description": "More words.",
            "summary": "acme: 80 % of the budget"
          },
          "commonLabels": {
            "alertname": "SlaBudgetConsumed",
            "ledger": "main",
            "level": "80",
            "month": "2026-03",
            "severity": "warning",
            "tenant": "a \"quoted\" one"
          },
          "externalURL": "",
          "groupKey": "{}:{alertname=\"SlaBudgetConsumed\", ledger=\"main\", level=\"80\", month=\"2026-03\", tenant=\"a \\\"quoted\\\" one\"}",
          "groupLabels": {
            "alertname": "SlaBudgetConsumed",
            "ledger": "main",
            "level": "80",
            "month": "2026-03",
            "tenant": "a \"quoted\" one"
          },
          "receiver": "ops",
          "status": "resolved",
          "truncatedAlerts": 0,
          "version": "4"
        }
        "#);
    }

    #[test]
    fn alert_of_the_api() {
        let alert = alert("firing", |_| {});
        let until = alert.time + chrono::TimeDelta::minutes(4);
        insta::assert_snapshot!(pretty(&json(&[PostableAlert::new(&alert, until, None)])), @r#"
        [
          {
            "annotations": {
              "description": "More words.",
              "runbook_url": "https://runbooks.example.com/budget",
              "summary": "acme: 80 % of the budget"
            },
            "endsAt": "2026-03-20T02:04:05Z",
            "labels": {
              "alertname": "SlaBudgetConsumed",
              "ledger": "main",
              "level": "80",
              "month": "2026-03",
              "severity": "warning",
              "tenant": "acme"
            },
            "startsAt": "2026-03-20T02:00:05Z"
          }
        ]
        "#);
    }
}
