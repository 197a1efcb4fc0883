//! Alerts with real parts: an incident takes a tenant through the levels of its budget, into the first tier and back,
//! while instances are killed; at each step the alerts topic, a webhook and an Alertmanager get each alert once.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sla_ledger::generate::live::wall_clock_ms;

use crate::notify::{Alertmanager, Receiver, WELL};
use crate::read::Reader;
use crate::service::{Instance, LIMIT, Names};
use crate::support::kafka::shared;
use crate::support::{poll_for, wait_until};
use crate::write::{self, Sent};

/// From a flush that crosses a level to the alert in the topic.
const PROMPT: Duration = Duration::from_secs(5);
/// The next owner first waits for the group to notice that its predecessor has left.
const TAKEOVER: Duration = Duration::from_secs(30);

/// All receivers.
struct Told {
    reader: Reader,
    webhook: Receiver,
    alertmanager: Alertmanager,
    brokers: String,
    names: Names,
    /// In the order of the topic.
    events: Vec<Value>,
    /// The offset after the last event.
    next_offset: i64,
}

impl Told {
    fn new(brokers: &str, names: &Names, webhook: Receiver, alertmanager: Alertmanager) -> Told {
        let (reader, names, brokers) = (Reader::new(brokers, &names.alerts), names.clone(), brokers.to_owned());
        Told { reader, webhook, alertmanager, brokers, names, events: Vec::new(), next_offset: 0 }
    }

    /// Has the webhook's consumer group committed everything that was sent?
    fn is_committed(&self) -> bool {
        let group = format!("{}-notify-ops", self.names.group);
        write::committed(&self.brokers, &group, &self.names.alerts, 1)[0] >= Some(self.next_offset)
    }

    fn read(&mut self, time: Duration) {
        let (events, next_offset) = (&mut self.events, &mut self.next_offset);
        self.reader.read(time, |read| {
            if let Ok(record) = read {
                let payload = record.payload.as_deref().expect("an event");
                let event: Value = serde_json::from_slice(payload).expect("JSON");
                let tenant = event["data"]["tenant"].as_str().map(|tenant| tenant.as_bytes().to_vec());
                assert_eq!(record.key, tenant, "the key is the tenant");
                assert_eq!(record.header("content-type"), Some("application/cloudevents+json; charset=UTF-8"));
                events.push(event);
                *next_offset = record.offset + 1;
            }
        });
    }

    /// One line per event: status, alert and detail.
    fn lines(&self) -> Vec<String> {
        let line = |event: &Value| {
            let data = &event["data"];
            let detail = data["level"].as_str().or(data["tier"].as_str());
            let detail = detail.map_or(String::new(), |detail| format!(" {detail}"));
            format!("{} {}{detail}", data["status"].as_str().unwrap_or("?"), data["alert"].as_str().unwrap_or("?"))
        };
        self.events.iter().map(line).collect()
    }

    /// Waits until there are as many events as `lines` after the first `before`, and compares those; then until the
    /// webhook got the same, each once, and the Alertmanager has what fires.
    #[track_caller]
    fn expect(&mut self, before: usize, lines: &[&str], within: Duration) {
        let begin = Instant::now();
        while self.events.len() < before + lines.len() && begin.elapsed() < within {
            self.read(Duration::from_millis(200));
        }
        let found = &self.lines()[before..];
        assert_eq!(found, lines, "after {:?}", begin.elapsed());

        let ids: Vec<&str> = self.events.iter().map(|event| event["id"].as_str().expect("an id")).collect();
        let requests = self.webhook.wait(self.events.len(), PROMPT);
        assert_eq!(requests.iter().map(|request| request.id()).collect::<Vec<_>>(), ids, "the webhook, in order");
        let statuses = requests.iter().map(|request| request.json()["status"].clone());
        let expected = self.events.iter().map(|event| event["data"]["status"].clone());
        assert!(statuses.eq(expected), "the webhook's statuses");
        let mut firing: Vec<String> = Vec::new();
        for line in self.lines() {
            match line.split_once(' ') {
                Some(("firing", alert)) => firing.push(alert.to_owned()),
                Some((_, alert)) => firing.retain(|known| known != alert),
                None => {}
            }
        }
        firing.sort();
        wait_until(&format!("{firing:?} in Alertmanager"), PROMPT, || self.in_alertmanager() == firing);
        // What was delivered and not committed would come again, under the same id, if its instance were killed now:
        // `notify` shows that. Here each receiver gets each alert once.
        wait_until("the webhook's offsets", PROMPT, || self.is_committed());
    }

    /// Alert and detail of what is active in Alertmanager, sorted.
    fn in_alertmanager(&self) -> Vec<String> {
        let label = |alert: &Value, name: &str| alert["labels"][name].as_str().map(str::to_owned);
        let mut active: Vec<String> = self
            .alertmanager
            .active()
            .iter()
            .map(|alert| {
                let detail = label(alert, "level").or_else(|| label(alert, "tier"));
                let detail = detail.map_or(String::new(), |detail| format!(" {detail}"));
                format!("{}{detail}", label(alert, "alertname").unwrap_or_default())
            })
            .collect();
        active.sort();
        active
    }
}

/// The service months begin with a calendar month: this must not happen in the middle of the test.
fn away_from_the_months_end() {
    let next = chrono_tz::Asia::Shanghai;
    let month_of = |ms: i64| {
        let instant = chrono::DateTime::from_timestamp_millis(ms).expect("an instant").with_timezone(&next);
        instant.format("%Y-%m").to_string()
    };
    let ahead_ms = 5 * 60_000;
    let same = || (month_of(wall_clock_ms()) == month_of(wall_clock_ms() + ahead_ms)).then_some(());
    poll_for(Duration::from_millis(ahead_ms as u64) + LIMIT, same).expect("another month");
}

/// Sends calls of one tenant, some of which fail.
struct Traffic<'a> {
    brokers: &'a str,
    topic: &'a str,
    tenant: &'a str,
    sent: u64,
}

impl Traffic<'_> {
    fn send(&mut self, good: u64, failing: u64) {
        let now_ms = wall_clock_ms();
        let calls = (0..good + failing).map(|n| {
            let id = format!("{}-{}", self.tenant, self.sent + n);
            let code = if n < failing { "InternalError" } else { "" };
            Sent::failing_call(1, self.tenant, &id, now_ms, code)
        });
        write::send(self.brokers, self.topic, calls);
        self.sent += good + failing;
    }
}

/// The instance that is responsible for the tenant.
fn speaker(instances: &mut [Instance], tenant: &str) -> usize {
    let found = poll_for(LIMIT, || {
        instances.iter().position(|instance| {
            let metrics = instance.metrics().unwrap_or_default();
            metrics.lines().any(|line| line.starts_with("sla_calls{") && line.contains(&format!("tenant=\"{tenant}\"")))
        })
    });
    found.expect("somebody speaks for the tenant")
}

#[test]
fn an_incident_is_told_step_by_step_over_crashes() {
    let _machine = crate::beside_others();
    away_from_the_months_end();
    let cluster = shared();
    let brokers = cluster.bootstrap();
    let names = Names::new("alerts");
    names.create_calls(cluster, 4);
    let (webhook, alertmanager) = (Receiver::start(WELL), Alertmanager::start());
    let notify = json!({
        "webhooks": [{"name": "ops", "url": webhook.url()}],
        "alertmanagers": {"urls": [alertmanager.url()]},
    });
    let mut instances = ["a", "b"].map(|name| {
        let mut instance = Instance::new(&format!("{}-{name}", names.group), cluster, &names);
        // The default.
        instance.set("/flush/interval", "1s".into());
        instance.set("/notify", notify.clone());
        instance.start_ready();
        instance
    });
    let mut traffic = Traffic { brokers, topic: &names.calls, tenant: "acme", sent: 0 };
    let mut told = Told::new(brokers, &names, webhook, alertmanager);

    // 10 failures are the budget of 2000 calls; failing calls are calls too.
    traffic.send(1990, 4);
    let series = format!("sla_calls{{tenant=\"acme\",month=\"{}\",result=\"failed\"}}", this_month());
    let counted = |instances: &mut [Instance], failed: f64| {
        let found = poll_for(LIMIT, || instances.iter().find_map(|i| i.metric(&series)).filter(|n| *n == failed));
        assert_eq!(found, Some(failed), "failures counted");
    };
    counted(&mut instances, 4.0);
    told.read(Duration::from_millis(1500));
    assert_eq!(told.lines(), [""; 0], "nothing is told below the first level");

    let begin = Instant::now();
    traffic.send(0, 1);
    told.expect(0, &["firing SlaBudgetConsumed 50"], PROMPT + Duration::from_secs(2));
    println!("alerts: told {:?} after the call was sent", begin.elapsed());
    traffic.send(0, 3);
    told.expect(1, &["firing SlaBudgetConsumed 80"], PROMPT + Duration::from_secs(2));

    // The instance that is responsible for the tenant is killed; the calls that cross the next level come while no
    // instance is.
    let victim = speaker(&mut instances, "acme");
    instances[victim].kill();
    traffic.send(0, 3);
    told.expect(2, &["firing SlaBudgetConsumed 100", "firing SlaTierReached T1"], TAKEOVER);
    instances[victim].start_ready();

    // Killed again, and back below all levels.
    counted(&mut instances, 11.0);
    let victim = speaker(&mut instances, "acme");
    traffic.send(4000, 0);
    instances[victim].kill();
    told.expect(
        4,
        &[
            "resolved SlaBudgetConsumed 50",
            "resolved SlaBudgetConsumed 80",
            "resolved SlaBudgetConsumed 100",
            "resolved SlaTierReached T1",
            "firing SlaRecovered",
        ],
        TAKEOVER,
    );
    instances[victim].start_ready();
    counted(&mut instances, 11.0);

    // Nothing more, and every id once.
    traffic.send(100, 0);
    told.read(Duration::from_secs(3));
    let mut ids: BTreeMap<&str, u32> = BTreeMap::new();
    for event in &told.events {
        *ids.entry(event["id"].as_str().expect("an id")).or_default() += 1;
        assert_eq!(event["specversion"], "1.0");
        assert_eq!(event["data"]["generation"], 1, "{event}");
    }
    assert_eq!((told.events.len(), ids.len()), (9, 9), "{:?}", told.lines());
    assert_eq!(told.webhook.requests().len(), 9, "the webhook was told each once");
    let tier = &told.events[3]["data"];
    assert_eq!((&tier["severity"], &tier["tenant"], &tier["tier"]), (&"critical".into(), &"acme".into(), &"T1".into()));
    assert_eq!((&tier["standing"]["failed"], &tier["standing"]["tier"]), (&11.into(), &"T1".into()));
    instances.iter_mut().for_each(Instance::stop);
}

fn this_month() -> String {
    let now = chrono::DateTime::from_timestamp_millis(wall_clock_ms()).expect("an instant");
    now.with_timezone(&chrono_tz::Asia::Shanghai).format("%Y-%m").to_string()
}
