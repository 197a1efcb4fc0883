//! One alert as it is in the topic: a CloudEvent, structured or binary.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, Utc};
use reqwest::Url;
use serde::Deserialize;

use crate::config::Severity;
use crate::domain::alert::AlertName;
use crate::visible::visible_name;

/// The type of the events this module knows.
const TYPE: &str = "sla-ledger.alert.v1";
/// The prefix of the ledger's name in an event's source.
const SOURCE: &str = "/sla-ledger/";
/// The beginning of the content type of structured mode.
const STRUCTURED: &str = "application/cloudevents+json";

/// Labels or annotations: name to text. What an alert does not have is not in it.
pub type Texts = BTreeMap<&'static str, String>;

/// The part of an alert that is sent to receivers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alert {
    /// The CloudEvent's id: the same for every repetition of this state.
    pub id: String,
    /// When it was decided.
    pub time: DateTime<Utc>,
    /// The ledger it is about.
    pub ledger: String,
    /// What is sent; the underlying figures are not.
    pub data: Data,
}

/// The part of the event's data that is sent to receivers.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Data {
    /// The alert's name.
    pub alert: String,
    /// Whether it fires or is resolved.
    pub status: Status,
    /// Its severity.
    pub severity: Severity,
    /// What makes it the same alert over its states: ledger, tenant, period, alert, level or tier.
    pub fingerprint: String,
    /// Since when it fires.
    pub starts_at: DateTime<Utc>,
    /// When it ended; `None` while it fires.
    #[serde(default)]
    pub ends_at: Option<DateTime<Utc>>,
    /// Another alert represents it and many others: it is not sent to receivers.
    #[serde(default)]
    pub grouped: bool,
    /// `None`: the whole fleet.
    #[serde(default)]
    pub tenant: Option<String>,
    /// The service month, as in the metrics.
    #[serde(default)]
    pub month: Option<String>,
    /// The level of the budget that was crossed.
    #[serde(default)]
    pub level: Option<String>,
    /// The tier that was reached.
    #[serde(default)]
    pub tier: Option<String>,
    /// One line.
    pub summary: String,
    /// Some lines.
    pub description: String,
    /// What to do about it.
    #[serde(default)]
    pub runbook_url: Option<String>,
}

/// Whether an alert fires or is resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It fires.
    Firing,
    /// It is resolved.
    Resolved,
}

impl Status {
    /// As sent to receivers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Firing => "firing",
            Self::Resolved => "resolved",
        }
    }
}

/// A record that is not an alert.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no alert: {0}")]
pub struct NoAlert(String);

#[derive(Deserialize)]
struct Structured {
    #[serde(flatten)]
    attributes: Attributes,
    data: Data,
}

#[derive(Deserialize)]
struct Attributes {
    specversion: String,
    id: String,
    source: String,
    r#type: String,
    time: DateTime<Utc>,
}

impl Alert {
    /// Reads a record of the topic.
    ///
    /// # Errors
    /// Why it is not an alert.
    pub fn read<'a>(
        headers: impl Iterator<Item = (&'a str, &'a [u8])>,
        payload: Option<&[u8]>,
    ) -> Result<Self, NoAlert> {
        let headers: BTreeMap<String, String> =
            headers.map(|(name, value)| (name.to_lowercase(), String::from_utf8_lossy(value).into_owned())).collect();
        let payload = payload.ok_or_else(|| NoAlert("the record has no value".into()))?;
        let json = |error: serde_json::Error| NoAlert(error.to_string());
        let structured = headers.get("content-type").is_some_and(|value| value.starts_with(STRUCTURED));
        if structured || !headers.contains_key("ce_specversion") {
            let Structured { attributes, data } = serde_json::from_slice(payload).map_err(json)?;
            return Self::of(attributes, data);
        }
        let get = |name: &str| {
            headers
                .get(&format!("ce_{name}"))
                .cloned()
                .ok_or_else(|| NoAlert(format!("the header ce_{name} is missing")))
        };
        let attributes = Attributes {
            specversion: get("specversion")?,
            id: get("id")?,
            source: get("source")?,
            r#type: get("type")?,
            time: get("time")?.parse().map_err(|error| NoAlert(format!("ce_time: {error}")))?,
        };
        Self::of(attributes, serde_json::from_slice(payload).map_err(json)?)
    }

    fn of(attributes: Attributes, data: Data) -> Result<Self, NoAlert> {
        let Attributes { specversion, id, source, r#type, time } = attributes;
        if specversion != "1.0" || r#type != TYPE {
            return Err(NoAlert(format!("an event of type {type} and CloudEvents version {specversion}")));
        }
        let ledger = source.strip_prefix(SOURCE).unwrap_or(&source).to_owned();
        Ok(Self { id, time, ledger, data })
    }

    /// Whether it fires.
    pub fn is_firing(&self) -> bool {
        self.data.status == Status::Firing
    }

    /// When it ended or, if that is missing, when that was decided.
    pub fn ended(&self) -> DateTime<Utc> {
        self.data.ends_at.unwrap_or(self.time)
    }

    /// The labels that identify it.
    pub fn identity(&self) -> Texts {
        let Data { alert, tenant, month, level, tier, .. } = &self.data;
        let mut labels = Texts::from([("alertname", alert.clone()), ("ledger", self.ledger.clone())]);
        // As in the metrics: routes, silences and inhibitions are about both.
        for (name, value) in [("tenant", tenant), ("month", month), ("level", level), ("tier", tier)] {
            labels.extend(value.as_deref().map(|value| (name, visible_name(value).into_owned())));
        }
        labels
    }

    /// What receivers route by: its identity and its severity.
    pub fn labels(&self) -> Texts {
        let mut labels = self.identity();
        labels.insert("severity", self.data.severity.as_str().into());
        labels
    }

    /// What people read. `external`: `notify.external_url`.
    pub fn annotations(&self, external: Option<&Url>) -> Texts {
        let Data { summary, description, runbook_url, .. } = &self.data;
        let mut annotations = Texts::from([("summary", summary.clone()), ("description", description.clone())]);
        annotations.extend(runbook_url.clone().map(|url| ("runbook_url", url)));
        annotations.extend(external.map(|base| ("page_url", self.url(base))));
        annotations
    }

    /// The page that explains it: the tenant's month; the fleet, where many tenants are at risk; or else the ledger.
    /// `base` is `notify.external_url`.
    pub fn url(&self, base: &Url) -> String {
        let Data { alert, tenant, month, .. } = &self.data;
        let page = match tenant {
            Some(_) => "tenant",
            None if *alert == AlertName::ManyTenantsAtRisk.as_str() => "",
            None => "ledger",
        };
        let mut url = base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().push(page);
        }
        let asked = [("tenant", tenant), ("month", month)].map(|(name, value)| Some((name, value.as_deref()?)));
        if tenant.is_some() {
            url.query_pairs_mut().clear().extend_pairs(asked.into_iter().flatten());
        }
        url.into()
    }
}

/// An instant as sent to receivers.
pub fn instant(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// An event as the topic holds it.
    pub fn event(status: &str) -> Value {
        json!({
            "specversion": "1.0", "id": format!("id-{status}"), "source": "/sla-ledger/main", "type": "sla-ledger.alert.v1",
            "subject": "acme/2026-03-17", "time": "2026-03-20T02:00:05Z", "datacontenttype": "application/json",
            "data": {
                "alert": "SlaBudgetConsumed", "status": status, "severity": "warning", "grouped": false,
                "fingerprint": "f-1", "generation": 1, "starts_at": "2026-03-20T10:00:05+08:00",
                "ends_at": (status == "resolved").then_some("2026-03-20T02:30:00Z"),
                "reason": "level_crossed", "level": "80", "tier": null, "tenant": "acme", "month": "2026-03",
                "period_start": "2026-03-17", "summary": "acme: 80 % of the budget", "description": "More words.",
                "runbook_url": "https://runbooks.example.com/budget", "standing": {"total": 10},
            },
        })
    }

    /// The alert of [`event`], changed.
    pub fn alert(status: &str, change: impl FnOnce(&mut Value)) -> Alert {
        let mut event = event(status);
        change(&mut event);
        Alert::read(std::iter::empty(), Some(event.to_string().as_bytes())).expect("an alert")
    }

    #[test]
    fn both_modes_say_the_same() {
        let event = event("firing");
        let text = event.to_string();
        let structured = [("content-type", &b"application/cloudevents+json; charset=UTF-8"[..])];
        let first = Alert::read(structured.into_iter(), Some(text.as_bytes())).expect("an alert");
        let names = ["specversion", "id", "source", "type", "time"];
        let mut headers: Vec<(String, String)> =
            names.iter().map(|name| (format!("ce_{name}"), event[name].as_str().unwrap().to_owned())).collect();
        headers.push(("content-type".into(), "application/json".into()));
        let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        let data = event["data"].to_string();
        assert_eq!(Alert::read(headers, Some(data.as_bytes())), Ok(first.clone()));
        assert_eq!((first.ledger.as_str(), first.id.as_str(), first.is_firing()), ("main", "id-firing", true));
        assert_eq!(instant(first.data.starts_at), "2026-03-20T02:00:05Z");
    }

    #[test]
    fn what_is_no_alert_says_why() {
        for (payload, why) in [
            (None, "the record has no value"),
            (Some("x"), "expected value"),
            (Some("{}"), "missing field"),
            (
                Some(&*event("firing").to_string().replace("alert.v1", "alert.v2")),
                "an event of type sla-ledger.alert.v2",
            ),
            (Some(&*event("burning").to_string()), "unknown variant `burning`"),
        ] {
            let error = Alert::read(std::iter::empty(), payload.map(str::as_bytes)).expect_err(why);
            assert!(error.to_string().contains(why), "{error}");
        }
    }

    #[test]
    fn labels_leave_out_what_is_not_there() {
        let fleet = alert("firing", |event| {
            event["data"]["tenant"] = Value::Null;
            event["data"]["level"] = Value::Null;
        });
        let labels: Vec<_> = fleet.labels().into_iter().collect();
        let expected =
            [("alertname", "SlaBudgetConsumed"), ("ledger", "main"), ("month", "2026-03"), ("severity", "warning")];
        assert_eq!(labels, expected.map(|(name, value)| (name, value.to_owned())));
    }

    #[test]
    fn the_url_leads_to_the_page_that_explains_it() {
        let of_tenant = |tenant: &str| alert("firing", |event| event["data"]["tenant"] = tenant.into());
        for (base, expected) in [
            ("https://sla.example.com", "https://sla.example.com/tenant?tenant=acme&month=2026-03"),
            ("https://sla.example.com/ledger", "https://sla.example.com/ledger/tenant?tenant=acme&month=2026-03"),
            ("https://sla.example.com/ledger/", "https://sla.example.com/ledger/tenant?tenant=acme&month=2026-03"),
        ] {
            assert_eq!(of_tenant("acme").url(&Url::parse(base).unwrap()), expected);
        }
        let base = Url::parse("https://sla.example.com/x/").unwrap();
        for tenant in ["a/b c", "&=+#?%", "../..", "<script>", "\u{202e}x", "a\nb", "租户"] {
            let link = Url::parse(&of_tenant(tenant).url(&base)).unwrap();
            let asked: Vec<_> = link.query_pairs().into_owned().collect();
            let expected = [("tenant", tenant), ("month", "2026-03")].map(|(name, value)| (name.into(), value.into()));
            assert_eq!((link.path(), &*asked), ("/x/tenant", &expected[..]), "{tenant:?}");
        }
        let fleet = |name: &str| {
            alert("firing", |event| {
                event["data"]["alert"] = name.into();
                event["data"]["tenant"] = Value::Null;
                event["data"]["month"] = Value::Null;
            })
        };
        assert_eq!(fleet("SlaManyTenantsAtRisk").url(&base), "https://sla.example.com/x/");
        assert_eq!(fleet("SlaUnknownCode").url(&base), "https://sla.example.com/x/ledger");
        // A month that the ledger no longer has.
        let old = alert("resolved", |event| event["data"]["month"] = Value::Null);
        assert_eq!(old.url(&base), "https://sla.example.com/x/tenant?tenant=acme");
        assert_eq!(old.annotations(Some(&base))["page_url"], "https://sla.example.com/x/tenant?tenant=acme");
        assert!(!old.annotations(None).contains_key("page_url"));
    }
}
