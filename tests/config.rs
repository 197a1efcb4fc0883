//! The configuration file from outside: what is reported about errors, what is never printed, and what a reload may
//! change.

use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use sla_ledger::config::{Config, Start};

const SAMPLE: &str = include_str!("../config/sla-ledger.yaml");
const LEAST: &str = "source: {topic: api-calls}\nkafka: {brokers: 'localhost:9092'}\n";

/// The errors in `text`, one per line; or in the smallest valid file with `text` appended, if `text` names neither
/// source nor brokers.
fn mistakes(text: &str) -> String {
    let with_source = if text.contains("source:") { "" } else { "source: {topic: api-calls}\n" };
    let with_brokers = if text.contains("kafka:") { "" } else { "kafka: {brokers: ['localhost:9092']}\n" };
    match Config::parse("f", &format!("{text}\n{with_source}{with_brokers}")) {
        Ok(_) => "fine".into(),
        Err(errors) => errors.to_string(),
    }
}

#[test]
fn every_mistake_at_once() {
    let errors = Config::parse("sla-ledger.yaml", include_str!("config/mistakes.yaml")).expect_err("mistakes");
    insta::assert_snapshot!(errors.render(false));
}

#[test]
fn one_mistake_a_line() {
    let secrets = "kafka: {brokers: 'a:1', security: {protocol: sasl_ssl, sasl_mechanism: PLAIN, username: u, ";
    for (text, expected) in [
        ("", "fine"),
        ("# only a comment", "fine"),
        ("flush:", "fine"),
        ("flush: {interval: 100ms}", "fine"),
        ("flush: {interval: }", "fine"),
        (
            "flush: {interval: 99ms}",
            "f:1:19: `flush.interval` is out of range: `99ms`; the least is 100ms, the most 1m",
        ),
        (
            "flush: {interval: 1 sec ond}",
            "f:1:19: `flush.interval` must be a duration, not `1 sec ond` (expected number at 6); \
             write a number with its unit, from \"100ms\" to \"1m\", e.g. \"100ms\"",
        ),
        ("flush: {interval: 100ms 5us}", "f:1:19: `flush.interval` is too fine: `100ms 5us`; write a multiple of 1ms"),
        (
            "flush: [1s]",
            "f:1:8: `flush` must be a section of keys, not a list; write `key: value` lines, indented below it",
        ),
        ("counting: {ignore_timestamps: [{partition: 3, from: 5, to: 6}, {partition: 0, from: 0, to: 9}]}", "fine"),
        (
            "counting: {ignore_timestamps: [{partition: 3, from: 5, to: 5}]}",
            "f:1:60: `counting.ignore_timestamps[1].to` is 5, not above `from`, which is 5: the range holds no offset; \
             `to` is the first offset after the range: write 6 for one record",
        ),
        (
            "counting: {ignore_timestamps: [{partition: 3, from: 5, to: 6}, {partition: -1, from: 5, to: 6}]}",
            "f:1:76: `counting.ignore_timestamps[2].partition` is out of range: the number `-1`; the least is 0, the most 2147483647",
        ),
        (
            "counting: {ignore_timestamps: [{partition: 3, from: 5}]}",
            "f:1:32: `counting.ignore_timestamps[1].to` is missing; add it, e.g. `to: 4712` in section `counting.ignore_timestamps[1]`",
        ),
        ("ledger: {max_write_rate: 20mb}", "fine"),
        ("ledger: {max_write_rate: 30000}", "fine"),
        (
            "ledger: {max_write_rate: 99999999999999999999GB}",
            "f:1:26: `ledger.max_write_rate` must be a size, not `99999999999999999999GB`; \
             write bytes as an integer, or with a unit: \"512KiB\", \"1MiB\", \"20MB\", \"1GB\"",
        ),
        (
            "ledger: {create_topics: yes}",
            "f:1:25: `ledger.create_topics` must be true or false, not `yes`; write `true` or `false`, without quotes",
        ),
        (
            "ledger: {replication_factor: 0}",
            "f:1:30: `ledger.replication_factor` must not be 0; write -1 for the broker's default, or 1 to 100",
        ),
        ("ledgre: {name: a}", "f:1:1: unknown key `ledgre`; did you mean `ledger`?"),
        (
            "interval: 1s",
            "f:1:1: unknown key `interval`; did you mean `flush.interval`? it is indented or placed wrongly here",
        ),
        (
            "http: {qqq: 1}",
            "f:1:8: unknown key `http.qqq`; remove it; known here: listen, web_config_file, api_token_file",
        ),
        ("http: {7: 1}", "f:1:8: a key must be a word; quote it if it is one"),
        ("flush: {interval: 1s, interval: 2s}", "f:1:23: `flush.interval` is given twice; keep one of them"),
        (
            "http: {listen: ':8464'}",
            "f:1:16: `http.listen` is wrong: `:8464` is not an address with a port; \
             write an address and a port, e.g. \"127.0.0.1:8464\", \"0.0.0.0:8464\" or \"[::]:8464\"",
        ),
        (
            "logging: {format: JSON}",
            "f:1:19: `logging.format` must be one of `text`, `json`, not `JSON`; did you mean `json`?",
        ),
        ("source: {topic: 5}\n", "f:1:17: `source.topic` must be text, not the number `5`; put it in quotes"),
        ("source: {topic: ''}\n", "f:1:17: `source.topic` must not be empty; write a value, or remove the key"),
        (
            "source: {topic: }\n",
            "f:1:10: `source.topic` is missing; add it, e.g. `topic: api-calls` in section `source`",
        ),
        (
            "source: {topic: sla-ledger}",
            "f:1:17: `ledger.topic` and `source.topic` are the same topic, `sla-ledger`; name two topics",
        ),
        ("source: {topic: a, start: '2026-03-01T00:00:00+08:00'}", "fine"),
        (
            "source: {topic: a, start: 2026-03-01}",
            "f:1:27: `source.start` must be a place to start, not `2026-03-01`; \
             write `earliest`, `latest`, or an instant with its offset, e.g. \"2026-03-01T00:00:00+08:00\"",
        ),
        ("source: {topic: a, success_codes: [0, OK]}", "fine"),
        ("source: {topic: a, keyed_by_tenant: false}", "fine"),
        ("source: {topic: a, timestamps: unbounded, accept_topic_id: MkQ0uKj6T4SUvXp1nS3r7A}", "fine"),
        (
            "source: {topic: a, timestamps: any}",
            "f:1:32: `source.timestamps` must be one of `bounded`, `unbounded`, not `any`; write one of `bounded`, `unbounded`",
        ),
        (
            "source: {topic: a, keyed_by_tenant: maybe}",
            "f:1:37: `source.keyed_by_tenant` must be true or false, not `maybe`; write `true` or `false`, without quotes",
        ),
        ("contract: {directory: documents, default_policy: sms, registry_topic: sla-registry}", "fine"),
        (
            "contract: {directory: ''}",
            "f:1:23: `contract.directory` must not be empty; write a value, or remove the key",
        ),
        (
            "contract: {registry_topic: a b}",
            "f:1:28: `contract.registry_topic` must be the name of a Kafka topic, not `a b`; \
             a topic's name has at most 249 characters of a–z, A–Z, 0–9, `.`, `_` and `-`",
        ),
        (
            "contract: {registry_topic: sla-ledger}",
            "f:1:28: `contract.registry_topic` and `ledger.topic` are the same topic, `sla-ledger`; name two topics",
        ),
        ("kafka: {brokers: 'a:1,[::1]:2'}", "fine"),
        (
            "kafka: {brokers: ['a:1', 'http://b:2']}",
            "f:1:18: `kafka.brokers` holds `http://b:2`, which is not a broker's address; \
             write `host:port` for each, e.g. [\"kafka-1:9092\", \"kafka-2:9092\"]",
        ),
        (
            "kafka: {brokers: 'a:1', security: {ca_file: /ca.pem}}",
            "f:1:45: `kafka.security.ca_file` has no effect with this protocol; set `protocol` to `ssl` or `sasl_ssl`, or remove the key",
        ),
        (
            "kafka: {brokers: 'a:1', librdkafka: {security.protocol: SSL}, security: {protocol: ssl}}",
            "f:1:38: `kafka.librdkafka.security.protocol` and `kafka.security.protocol` are the same; keep one of them",
        ),
        ("kafka: {brokers: 'a:1', librdkafka: {security.protocol: SSL, ssl.ca.location: /ca.pem}}", "fine"),
        (
            &format!("{secrets} password_env: PATH, password_file: /p}}}}"),
            "f:1:107: `kafka.security.password_file` and `password_env` are both given; keep one of them",
        ),
        (&format!("{secrets} password_file: /run/secrets/p}}}}"), "fine"),
        (
            "a: &a {b: *a}",
            "f:1:11: not valid YAML: recursive references require weak recursion types; fix this line or the one before: indentation, brackets, quotes; quote values that hold `: ` or `#`",
        ),
    ] {
        assert_eq!(mistakes(text), expected, "{text}");
    }
}

#[test]
fn an_empty_file_lacks_what_has_no_default() {
    let errors = Config::parse("f", "").expect_err("nothing in it");
    let lines: Vec<_> = errors.mistakes().iter().map(|mistake| mistake.message.as_str()).collect();
    assert_eq!(lines, ["`source.topic` is missing", "`kafka.brokers` is missing"]);
    assert!(errors.render(false).contains("add it, e.g. `topic: api-calls` in section `source`"));
}

#[test]
fn broken_yaml_is_shown_at_its_place() {
    for (text, place) in [
        ("flush: {interval: 1s", "f:2:"),
        ("flush:\n  interval: 1s\n   x: 2", "f:3:"),
        ("flush: 'abc", "f:"),
        ("flush:\n\tinterval: 1s", "f:2:"),
    ] {
        let found = mistakes(text);
        assert!(found.starts_with(place) && found.contains("not valid YAML"), "{text}: {found}");
        assert_eq!(found.lines().count(), 1, "{found}");
    }
}

#[test]
fn yaml_that_is_not_supported_is_named() {
    let one = "the file has more than one YAML document; keep one; remove the `---` lines between them";
    let merge = "merge keys (`<<`) are not supported; write the merged keys out here";
    for (text, expected) in [
        ("a: 1\n---\nb: 2", format!("f:3:1: {one}")),
        ("<<: {a: 1}", format!("f:1:1: {merge}")),
        ("a: &a {interval: 1s}\nflush:\n  <<: *a", format!("f:3:3: {merge}")),
        ("a: {<<: 1}", format!("f:1:5: {merge}")),
    ] {
        assert_eq!(mistakes(text).trim_end(), expected, "{text}");
    }
}

#[test]
fn other_names_of_chinas_time_suggest_its_zone() {
    for given in ["Asia/Beijing", "Beijing", "CST", "GMT+8", "UTC+8", "UTC+08:00", "+08:00", "China Standard Time"] {
        let found =
            mistakes(&format!("source: {{topic: a}}\nkafka: {{brokers: b:1}}\ncounting: {{time_zone: \"{given}\"}}\n"));
        let expected = format!("must be a time zone, not `{given}`; did you mean `Asia/Shanghai`?");
        assert!(found.contains(&expected) && found.trim_end().lines().count() == 1, "{found}");
    }
}

#[test]
fn files_and_variables_must_be_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("c.yaml");
    let check = |security: &str| {
        let text = format!("source: {{topic: a}}\nkafka:\n  brokers: b:1\n  security: {{{security}}}\n");
        std::fs::write(&file, text).expect("written");
        match Config::load(&file) {
            Ok(config) => {
                format!("{:?}", config.kafka.client().map(|client| client.get("sasl.password").map(str::to_owned)))
            }
            Err(errors) => {
                errors.mistakes().iter().map(|m| format!("{}:{} {}\n", m.line, m.column, m.message)).collect()
            }
        }
    };
    let sasl = "protocol: sasl_ssl, sasl_mechanism: SCRAM-SHA-512, username: u";
    std::fs::write(folder.path().join("p"), "hunter2\r\n").expect("written");
    let found = folder.path().join("p").display().to_string();
    assert_eq!(check(&format!("{sasl}, password_file: {found}")), "Ok(Some(\"hunter2\"))");
    assert_eq!(
        check(&format!("{sasl}, password_file: /no/such/file")),
        "4:93 `kafka.security.password_file` cannot be read: `/no/such/file` (No such file or directory (os error 2))\n"
    );
    assert_eq!(
        check(&format!("{sasl}, password_env: SLA_LEDGER_NO_SUCH")),
        "4:92 `kafka.security.password_env` names an environment variable that is not set\n"
    );
    assert!(check(&format!("{sasl}, password_env: PATH")).starts_with("Ok(Some("));
    assert_eq!(Config::load(Path::new("/no/such")).expect_err("no file").mistakes().len(), 1);
    for (bytes, expected) in [(&b"\xff"[..], "not UTF-8 (from byte 0 on)"), (b"\xff\xfe", "the file is text in UTF-16")]
    {
        std::fs::write(&file, bytes).expect("written");
        assert!(Config::load(&file).expect_err("no text").to_string().contains(expected), "{expected}");
    }
}

/// Wherever a secret was put by mistake, it is never printed.
#[test]
fn secrets_are_never_shown() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("c.yaml");
    for kafka in [
        "security: {password: hunter2, protocol: none}",
        "security: {pasword: hunter2}",
        "security: {password_env: hunter2}",
        "security: {passwort: [hunter2, {a: hunter2}]}",
        "security:\n    key: |\n      hunter2\n      hunter2",
        "security:\n    password: >-\n      hunter2\n\n      hunter2\n    protocol: none",
        "security:\n    password: hunter2\n    password: \"hunter2\"",
        "librdkafka: {sasl.password: hunter2, acks: 1}",
        "librdkafka: {\"sasl\\x2epassword\": hunter2, acks: 1}",
        "librdkafka: {sasl.pwd: hunter2}",
        "librdkafka: {ssl.key.pem: 'hunter2', ssl.keystore.password: hunter2}",
        "librdkafka: {no.such: hunter2}",
        "librdkafka: {sasl.oauthbearer.config: secret=hunter2}",
        "librdkafka: {sasl.password: {hunter2: hunter2}}",
        "secret: hunter2",
        // Not YAML:
        "security: {password: hunter2",
        "security:\n    password: hunter2: hunter2\n    username: x",
        "security:\n    password: *hunter2",
        "security:\n    password: @hunter2",
        "security:\n    password: !hunter2 hunter2\n    a: b: c",
        "security:\n    \"password\" : \"hunter2\n      hunter2\n    a: b: c",
        "librdkafka:\n    ssl.key.pem: |\n      hunter2\n      hunter2\n    a: [",
    ] {
        let text = format!("source: {{topic: a}}\nkafka:\n  brokers: b:1\n  {kafka}\n");
        std::fs::write(&file, &text).expect("written");
        for errors in [Config::parse("f", &text), Config::load(&file)].map(|config| config.expect_err(&text)) {
            let said = format!("{errors} {errors:?} {} {:?}", errors.render(true), errors.mistakes());
            assert!(!said.contains("hunter2"), "{kafka}: {said}");
        }
    }

    std::fs::write(folder.path().join("p"), "hunter2").expect("written");
    let security = format!(
        "{{protocol: sasl_ssl, sasl_mechanism: PLAIN, username: u, password_file: {0}, certificate_file: {0}, key_file: {0}, \
         key_password_file: {0}}}",
        folder.path().join("p").display()
    );
    let config =
        Config::parse("f", &format!("source: {{topic: a}}\nkafka: {{brokers: 'b:1', security: {security}}}\n"));
    let config = config.expect("valid");
    let client = config.kafka.client().expect("readable");
    assert_eq!(client.get("ssl.key.password"), Some("hunter2"));
    let secret = config.kafka.security.password.as_ref().map(|source| source.read());
    let said = format!("{config:?} {:?} {client:?} {secret:?} {:?}", config.keys(), client.config_map());
    assert!(!said.contains("hunter2"), "{said}");
}

#[test]
fn clients_get_brokers_security_and_properties() {
    let text = "source: {topic: a}\nkafka:\n  brokers: [b:1, c:2]\n  security: {protocol: ssl, ca_file: /ca.pem}\n  \
                librdkafka: {fetch.max.bytes: 1000000, socket.keepalive.enable: true, debug: 'broker,cgrp', client.id: me}\n";
    let client = Config::parse("f", text).expect("valid").kafka.client().expect("no secrets");
    let got: Vec<_> = client.config_map().into_iter().map(|(key, value)| format!("{key}={value}")).collect();
    assert_eq!(
        got.join(" "),
        "bootstrap.servers=b:1,c:2 client.id=me debug=broker,cgrp fetch.max.bytes=1000000 \
         security.protocol=ssl socket.keepalive.enable=true ssl.ca.location=/ca.pem"
    );
    client.create_native_config().expect("librdkafka takes all of it");
}

#[test]
fn a_reload_changes_what_it_may() {
    let old = Config::parse("f", LEAST).expect("valid");
    let text = "source: {topic: api-calls, fields: {code: /e}, start: '2026-03-01T00:00:00Z'}\n\
                kafka: {brokers: 'localhost:9092', librdkafka: {debug: all}}\nflush: {interval: 2s}\nmetrics: {top: 1}\n\
                logging: {level: debug, format: json}\nready: {max_lag: 1m}\n\
                http: {listen: '127.0.0.1:1', web_config_file: w.yml, api_token_file: t}\ncounting: {dedupe_window: 1m}\nlimits: {max_age: 99d}\n";
    let new = Config::parse("f", text).expect("valid");
    let lines: Vec<_> =
        Config::reload_diff(&old, &new).into_iter().map(|d| format!("{} {} -> {}", d.key, d.old, d.new)).collect();
    assert_eq!(
        lines,
        [
            "counting.dedupe_window 900 -> 60",
            "http.listen \"127.0.0.1:8464\" -> \"127.0.0.1:1\"",
            "kafka.librdkafka.debug null -> \"all\"",
            "limits.max_age 8640000 -> 8553600",
            "logging.format \"text\" -> \"json\"",
            "source.fields.code \"/code\" -> \"/e\"",
            "source.start \"earliest\" -> null",
            "source.start.at null -> \"2026-03-01T00:00:00Z\"",
        ]
    );
    let now = old.reloaded(&new);
    assert_eq!((&now.flush, &now.metrics, &now.ready), (&new.flush, &new.metrics, &new.ready));
    assert_eq!(
        (&now.http.web_config_file, &now.http.api_token_file),
        (&new.http.web_config_file, &new.http.api_token_file)
    );
    assert_eq!(now.http.listen, old.http.listen);
    assert_eq!((now.logging.level.as_str(), now.logging.format), ("debug", old.logging.format));
    assert_eq!((now.counting, now.source.start), (old.counting.clone(), Start::Earliest));
    assert_eq!(Config::reload_diff(&old, &old), []);
}

#[test]
fn instances_of_one_host_differ() {
    let mut kafka = Config::parse("f", LEAST).expect("valid").kafka;
    let (one, two) = (kafka.instance_id("8464"), kafka.instance_id("8465"));
    assert!(one != two && one.ends_with("-8464") && one.len() > "-8464".len(), "{one}");
    kafka.instance_id = Some("a".into());
    assert_eq!(kafka.instance_id("8464"), "a");
}

#[test]
fn check_config_says_so() {
    let run = |args: &[&str]| {
        let out = Command::new(env!("CARGO_BIN_EXE_sla-ledger")).arg("check-config").args(args).output().expect("runs");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        (out.status.code(), text(out.stdout), text(out.stderr))
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sample = root.join("config/sla-ledger.yaml").display().to_string();
    let (code, out, err) = run(&[&sample, "--rate", "20000"]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(out.contains("about 1296 MB for a dedupe window of 15m at 20000 events/s"), "{out}");
    let (code, out, err) = run(&[&root.join("tests/config/mistakes.yaml").display().to_string()]);
    assert_eq!((code, out.as_str()), (Some(2), ""));
    assert!(!err.contains('\u{1b}') && !err.contains("hunter2"), "{err}");
    assert!(err.contains("did you mean `dedupe_window`?"), "{err}");
}

#[test]
fn check_config_reads_the_documents() {
    let folder = tempfile::tempdir().expect("a folder");
    let put = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        std::fs::write(path, text).expect("written");
    };
    let run = || {
        let file = folder.path().join("c.yaml");
        let out = Command::new(env!("CARGO_BIN_EXE_sla-ledger")).arg("check-config").arg(file).output().expect("runs");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        (out.status.code(), text(out.stdout), text(out.stderr))
    };
    put("c.yaml", LEAST);
    let (code, out, err) = run();
    assert_eq!((code, err.as_str()), (Some(0), ""));
    let end = "policy     tccc, compiled in: there is no file in policies/\nrulings    not compared with the ledger; --ledger does\n";
    assert!(out.ends_with(end), "{out}");

    put("notices.yaml", "- {id: n1}\n");
    assert_eq!(run().0, Some(2));
    put("c.yaml", &format!("{LEAST}contract: {{directory: docs}}\n"));
    let (code, _, err) = run();
    assert!(code == Some(2) && err.contains("correct `contract.directory`, or create it"), "{err}");
    put("docs/tenants.csv", "tenant\n");
    put("docs/rulings.yaml", "- {id: a1, idd: a2}\n");
    let (code, out, err) = run();
    assert_eq!((code, out.as_str()), (Some(2), ""));
    assert!(err.contains("tenants.csv: 7 mistakes") && err.contains("unknown key `idd` in a ruling"), "{err}");
}

#[test]
fn files_are_seen_from_the_configuration() {
    let http = "http: {web_config_file: web.yml, api_token_file: /run/tokens}";
    let config = Config::parse("f", &format!("{LEAST}{http}")).expect("valid");
    for (file, expected) in [("/etc/sla-ledger/c.yaml", "/etc/sla-ledger/web.yml"), ("c.yaml", "./web.yml")] {
        let [web_config, api_tokens] = config.http.files(Path::new(file)).map(|file| file.expect("given"));
        assert_eq!((web_config.as_path(), api_tokens.as_path()), (Path::new(expected), Path::new("/run/tokens")));
    }
    let directory = |contract: &str, file: &str| {
        let config = Config::parse("f", &format!("{LEAST}{contract}")).expect("valid");
        config.contract.directory(Path::new(file)).display().to_string()
    };
    for (contract, file, expected) in [
        ("", "/etc/sla-ledger/c.yaml", "/etc/sla-ledger"),
        ("", "c.yaml", "."),
        ("contract: {directory: docs}", "etc/c.yaml", "etc/docs"),
        ("contract: {directory: /srv/docs}", "etc/c.yaml", "/srv/docs"),
    ] {
        assert_eq!(directory(contract, file), expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, ..ProptestConfig::default() })]

    /// A damaged file is refused or accepted; it never crashes the process.
    #[test]
    fn damaged_files_never_panic(edits in prop::collection::vec((any::<prop::sample::Index>(), 0..4u8, any::<char>()), 1..8)) {
        let mut chars: Vec<char> = SAMPLE.chars().collect();
        for (index, kind, with) in edits {
            let at = index.index(chars.len().max(1));
            chars.resize(chars.len().max(1), ' ');
            match kind {
                0 => chars[at] = with,
                1 => chars.insert(at, b":\n[]{}\"'#&*!|>-%@`, "[with as usize % 20] as char),
                2 => _ = chars.remove(at),
                _ => chars.truncate(at.max(1)),
            }
        }
        let text: String = chars.into_iter().collect();
        if let Err(errors) = Config::parse("f", &text) {
            prop_assert!(!errors.mistakes().is_empty());
            prop_assert_eq!(errors.to_string().lines().count(), errors.mistakes().len());
            prop_assert!(!errors.render(true).is_empty() && !errors.to_string().is_empty());
        }
    }

    /// Any text at all.
    #[test]
    fn any_text_never_panics(text in "[a-z:{}\\[\\]&*!|>'\"\n\t -]{0,80}|\\PC{0,80}") {
        if let Err(errors) = Config::parse("f", &text) {
            prop_assert!(!errors.render(false).is_empty());
        }
    }
}
