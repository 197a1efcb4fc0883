//! Brokers that require authentication, and brokers that encrypt.

use std::path::Path;
use std::process::Command;

use serde_json::json;
use sla_ledger::generate::live::wall_clock_ms;

use crate::beside_others;
use crate::read::read_ledger;
use crate::service::{Instance, LIMIT, Names};
use crate::support::free_port;
use crate::support::kafka::{Cluster, Options};
use crate::write::{self, Sent};

const USER: &str = "ledger";
const PASSWORD: &str = "open-sesame-7391";

/// A cluster with two more listeners: one that authenticates, one that also encrypts.
struct Secured {
    cluster: Cluster,
    sasl: String,
    tls: String,
    directory: tempfile::TempDir,
}

impl Secured {
    fn start() -> Secured {
        let directory = tempfile::tempdir().expect("a temporary directory");
        make_certificate(directory.path());
        let (sasl, tls) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
        let listeners =
            format!("PLAINTEXT://127.0.0.1:{{broker}},SASL://{sasl},TLS://{tls},CONTROLLER://127.0.0.1:{{controller}}");
        let advertised = format!("PLAINTEXT://127.0.0.1:{{broker}},SASL://{sasl},TLS://{tls}");
        let login =
            format!("org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}=\"{PASSWORD}\";");
        let options = Options::new(1)
            .property("listeners", listeners)
            .property("advertised.listeners", advertised)
            .property(
                "listener.security.protocol.map",
                "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL:SASL_PLAINTEXT,TLS:SASL_SSL",
            )
            .property("sasl.enabled.mechanisms", "PLAIN")
            .property("listener.name.sasl.plain.sasl.jaas.config", &login)
            .property("listener.name.tls.plain.sasl.jaas.config", &login)
            .property("listener.name.tls.ssl.keystore.location", directory.path().join("broker.p12").display())
            .property("listener.name.tls.ssl.keystore.type", "PKCS12")
            .property("listener.name.tls.ssl.keystore.password", PASSWORD)
            .property("listener.name.tls.ssl.key.password", PASSWORD);
        Secured { cluster: Cluster::start_with(&options), sasl, tls, directory }
    }
}

/// `broker.p12` for the broker and `ca.pem` for its clients: a certificate that signs itself.
fn make_certificate(directory: &Path) {
    let keytool = |arguments: &[&str]| {
        let output =
            Command::new("keytool").args(arguments).current_dir(directory).output().expect("keytool of the JDK");
        assert!(output.status.success(), "keytool {arguments:?}: {}", String::from_utf8_lossy(&output.stdout));
    };
    let store = ["-keystore", "broker.p12", "-storetype", "PKCS12", "-storepass", PASSWORD, "-alias", "broker"];
    keytool(
        &[
            &["-genkeypair", "-keyalg", "EC", "-dname", "CN=broker", "-validity", "30"][..],
            &store,
            &["-ext", "san=ip:127.0.0.1", "-ext", "bc=ca:true"],
        ]
        .concat(),
    );
    keytool(&[&["-exportcert", "-rfc", "-file", "ca.pem"][..], &store].concat());
}

#[test]
fn the_service_authenticates_and_the_password_stays_out_of_the_log() {
    let _machine = beside_others();
    let secured = Secured::start();
    let cluster = &secured.cluster;
    let make = |stem: &str, broker: &str, protocol: &str, password: &str| {
        let names = Names::new(stem);
        names.create_calls(cluster, 1);
        let mut instance = Instance::new("a", cluster, &names);
        let file = instance.write_file("password", &format!("{password}\n"));
        let mut security = json!({
            "protocol": protocol, "sasl_mechanism": "PLAIN", "username": USER, "password_file": file,
        });
        if protocol == "sasl_ssl" {
            security["ca_file"] = json!(secured.directory.path().join("ca.pem"));
        }
        instance.set("/kafka/brokers", json!([broker])).set("/kafka/security", security);
        // Everything librdkafka has to say, too.
        instance.set("/logging/level", json!("trace")).set("/kafka/librdkafka/debug", json!("security,broker,conf"));
        (instance, names)
    };
    for (stem, broker, protocol) in [("sasl", &secured.sasl, "sasl_plaintext"), ("tls", &secured.tls, "sasl_ssl")] {
        let (mut instance, names) = make(stem, broker, protocol, PASSWORD);
        write::send(cluster.bootstrap(), &names.calls, [Sent::call(0, "acme", "r1", wall_clock_ms())]);
        instance.start_ready();
        read_ledger(cluster.bootstrap(), &names.ledger).wait_counted(&[1], LIMIT);
        instance.stop();
        let log = instance.log();
        assert!(log.contains(USER) || log.contains(broker), "{protocol}: nothing was logged: {log}");
        assert!(!log.contains(PASSWORD), "{protocol}: the password is in the log");
        // `check-config` shows the effective settings.
        let (status, output) = instance.command(&["check-config"], LIMIT);
        assert!(status.success() && !output.contains(PASSWORD), "{output}");
    }

    let wrong = "not-the-password-5512";
    let (mut instance, _) = make("wrong-password", &secured.sasl, "sasl_plaintext", wrong);
    let log = instance.start().wait_refusal();
    assert!(log.contains("uthentication"), "{log}");
    assert!(!log.contains(wrong), "the password is in the log");

    let (mut instance, _) = make("no-certificate", &secured.tls, "sasl_ssl", PASSWORD);
    let stranger = tempfile::tempdir().expect("a temporary directory");
    make_certificate(stranger.path());
    instance.set("/kafka/security/ca_file", json!(stranger.path().join("ca.pem")));
    let log = instance.start().wait_refusal();
    assert!(log.contains("certificate verify failed") || log.contains("ssl.ca.location"), "{log}");
    assert!(!log.contains(PASSWORD), "the password is in the log");
}
