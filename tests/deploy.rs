//! The files of `deploy/`, as far as they can be checked without a container engine, a cluster or a booted systemd: by the
//! tools of their kinds, and against this very binary: its flags, its configuration, its routes.

#[path = "support/tools.rs"]
mod tools;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args as _;
use serde_json::Value;
use tools::{BINARY, ROOT, read, run, run_with, tool};

/// Where HTTP listens in a container.
const PORT: u64 = 8464;
/// The drain's 9 s and the end of the process.
const DRAIN_SECONDS: u64 = 10;

/// Every file below a directory of the repository, by its path from the root.
fn files(directory: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(Path::new(ROOT).join(directory)).expect(directory) {
        let path = format!("{directory}/{}", entry.expect(directory).file_name().to_str().expect("a name"));
        if Path::new(ROOT).join(&path).is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

/// The strings of a list; empty for any other value.
fn strings(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

#[track_caller]
fn check_config(path: &Path) {
    run(Command::new(BINARY).arg("check-config").arg(path));
}

#[test]
fn the_image_is_built_as_hadolint_advises() {
    run(tool("hadolint").arg("deploy/Dockerfile"));
}

#[test]
fn the_image_gets_all_that_the_build_reads() {
    let ignore = read(".dockerignore");
    let mut rules = ignore.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    assert_eq!(rules.next(), Some("*"), "nothing but what is named");
    let context = tempfile::tempdir().expect("a directory");
    for rule in rules {
        let path = rule.strip_prefix('!').unwrap_or_else(|| panic!("{rule} takes away what `*` took"));
        let of = if Path::new(ROOT).join(path).is_dir() { files(path) } else { vec![path.to_owned()] };
        for file in of {
            let to = context.path().join(&file);
            fs::create_dir_all(to.parent().expect("a parent")).expect("a directory");
            fs::copy(Path::new(ROOT).join(&file), to).unwrap_or_else(|error| panic!("{file}: {error}"));
        }
    }
    let manifest = context.path().join("Cargo.toml");
    let cargo = ["metadata", "--no-deps", "--offline", "--locked", "--format-version", "1", "--manifest-path"];
    let (metadata, _) = run(Command::new(env!("CARGO")).args(cargo).arg(manifest));
    let metadata: Value = serde_json::from_str(&metadata).expect("JSON");
    // A target that Cargo.toml names is left out of the list when its file is not there; a build would fail.
    let targets = metadata["packages"][0]["targets"].as_array().expect("targets").len();
    assert_eq!(
        targets,
        2 + read("Cargo.toml").matches("\n[[").count(),
        "the library, its build script, and all that is named"
    );
    let mut included = 0;
    for file in files("src").iter().filter(|file| file.ends_with(".rs")) {
        let text = read(file);
        for part in text.split("include_str!(\"").skip(1) {
            let name = part.split('"').next().expect("a name");
            let path = context.path().join(file).parent().expect("a parent").join(name);
            assert!(path.exists(), "{file} includes {name}, which .dockerignore keeps out");
            included += 1;
        }
    }
    assert!(included > 5, "{included} files are included by the sources: is this test still looking?");
    assert!(read("deploy/Dockerfile").contains(&format!("ARG SLA_LEDGER_VERSION={}\n", env!("CARGO_PKG_VERSION"))));
}

/// The compose file as Compose itself understands it, by the schema and beyond.
fn compose() -> Value {
    let (text, warnings) = run(tool("docker-compose")
        .args(["--file", "deploy/compose/compose.yaml", "config"])
        .args(["--format", "json", "--no-path-resolution"]));
    assert_eq!(warnings, "");
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn compose_starts_in_order_what_exists() {
    let compose = compose();
    let services = compose["services"].as_object().expect("services");
    for (name, service) in services {
        let image = service["image"].as_str().expect("an image");
        let tag = image.rsplit_once(':').map(|(_, tag)| tag);
        assert!(tag.is_some_and(|tag| tag != "latest"), "{name}: {image} is not pinned");
        for (other, dependency) in service["depends_on"].as_object().into_iter().flatten() {
            let other =
                services.get(other).unwrap_or_else(|| panic!("{name} waits for {other}, which is not a service"));
            if dependency["condition"] == "service_healthy" {
                assert!(other["healthcheck"]["test"].is_array(), "{name} waits for the health of what has no check");
            }
        }
        for port in service["ports"].as_array().into_iter().flatten() {
            assert_eq!(port["host_ip"], "127.0.0.1", "{name} is open to other machines");
        }
        for mount in service["volumes"].as_array().into_iter().flatten().filter(|mount| mount["type"] == "bind") {
            let source = mount["source"].as_str().expect("a source");
            let from_root = match source.strip_prefix("../") {
                Some(path) => format!("deploy/{path}"),
                None => format!("deploy/compose/{}", source.trim_start_matches("./")),
            };
            assert!(Path::new(ROOT).join(&from_root).is_dir(), "{name} mounts {from_root}, which is not there");
        }
    }
    let grace: Vec<_> = services.values().filter_map(|service| service["stop_grace_period"].as_str()).collect();
    assert_eq!(grace, ["15s"; 2], "longer than the drain");
}

/// A file of a folder that compose.yaml mounts.
fn document(path: &str) -> Value {
    serde_saphyr::from_str(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn prometheus_and_grafana_find_each_other_and_the_instances() {
    let compose = compose();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let prometheus = document("deploy/prometheus/prometheus.yml");
    let targets = |of: &Value| -> Vec<String> {
        let configs = list(&of["static_configs"]);
        configs.iter().flat_map(|config| strings(&config["targets"])).map(str::to_owned).collect()
    };
    let scraped: Vec<_> = list(&prometheus["scrape_configs"]).iter().flat_map(targets).collect();
    for instance in ["sla-ledger-1", "sla-ledger-2"] {
        assert!(scraped.contains(&format!("{instance}:{PORT}")), "{scraped:?}");
    }
    let told: Vec<_> = list(&prometheus["alerting"]["alertmanagers"]).iter().flat_map(targets).collect();
    assert_eq!(told, ["alertmanager:9093"]);
    let sources = document("deploy/grafana/provisioning/datasources/prometheus.yaml");
    assert_eq!(sources["datasources"][0]["url"], "http://prometheus:9090");
    let dashboards = document("deploy/grafana/provisioning/dashboards/sla-ledger.yaml");
    let mounts = list(&compose["services"]["grafana"]["volumes"]);
    let path = &dashboards["providers"][0]["options"]["path"];
    assert!(mounts.iter().any(|mount| mount["target"] == *path), "dashboards are expected in {path}");
}

#[test]
fn compose_speaks_our_command_line_and_configuration() {
    let compose = compose();
    let generate = strings(&compose["services"]["generator"]["command"]);
    assert_eq!(generate[0], "generate");
    let flags = sla_ledger::cli::generate::Args::augment_args(clap::Command::new("generate"));
    let generate = flags.try_get_matches_from(generate).unwrap_or_else(|error| panic!("{error}"));

    let run = strings(&compose["services"]["sla-ledger-1"]["command"]);
    let mount = &compose["services"]["sla-ledger-1"]["volumes"][0];
    assert_eq!(run, ["run", &format!("{}/sla-ledger.yaml", mount["target"].as_str().expect("a target"))]);
    let path = Path::new(ROOT).join("deploy/compose/sla-ledger/sla-ledger.yaml");
    check_config(&path);
    let config = sla_ledger::config::Config::load(&path).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(u64::from(config.http.listen.port()), PORT);
    assert!(config.http.listen.ip().is_unspecified());
    assert_eq!(Some(&config.source.topic), generate.get_one::<String>("topic"));
    let topics = strings(&compose["services"]["topics"]["command"]);
    assert!(topics.contains(&&*format!("--topic={}", config.source.topic)), "{topics:?}");
    assert!(topics.contains(&"--config=message.timestamp.type=LogAppendTime"), "{topics:?}");
    let brokers = config.kafka.brokers.join(",");
    assert_eq!(Some(&brokers), generate.get_one::<String>("brokers"));
    let advertised = compose["services"]["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"].as_str();
    assert!(advertised.is_some_and(|listeners| listeners.contains(&format!("INTERNAL://{brokers},"))));

    let ids = ["sla-ledger-1", "sla-ledger-2"]
        .map(|name| compose["services"][name]["environment"]["SLA_LEDGER_INSTANCE_ID"].as_str().expect("an id"));
    assert_ne!(ids[0], ids[1]);
}

/// The output of a kustomization, as text and as objects. A warning, as of a deprecated field, is an error.
fn kustomize(directory: &str) -> (String, Vec<Value>) {
    let (text, warnings) = run(tool("kustomize").args(["build", directory]));
    assert_eq!(warnings, "", "{directory}");
    let objects: Vec<Value> = serde_saphyr::from_multiple(&text).expect("YAML");
    (text, objects)
}

const KUSTOMIZATIONS: [&str; 2] = ["deploy/kubernetes/base", "deploy/kubernetes/overlays/production"];

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    let mut found = objects.iter().filter(|object| object["kind"] == kind);
    let first = found.next().unwrap_or_else(|| panic!("no {kind}"));
    assert!(found.next().is_none(), "more than one {kind}");
    first
}

/// The template of the pods, of whatever kind their owner is.
fn pod_template(objects: &[Value]) -> &Value {
    let owner = objects.iter().find(|object| object["kind"] == "Deployment" || object["kind"] == "StatefulSet");
    &owner.expect("a Deployment or a StatefulSet")["spec"]["template"]
}

/// Reads objects of the operator by its own models, and compares what was understood.
const OPERATOR: &str = r#"
import sys, yaml
from cloudcoil.models.prometheus_operator import v1
found = [o for o in yaml.safe_load_all(sys.stdin) if o and o["apiVersion"] == "monitoring.coreos.com/v1"]
for item in found:
    known = getattr(v1, item["kind"]).model_validate(item).model_dump(mode="json", by_alias=True, exclude_unset=True)
    if known != item:
        sys.exit(f"{item}\nis understood as\n{known}")
print(len(found))
"#;

/// What the validators say of rendered objects: how many passed, and the line about each that Kubernetes does not know. Those
/// are the operator's; how many of them its models understand as they are written.
fn validated(text: &str) -> (usize, Vec<String>, usize) {
    let scratch = tempfile::tempdir().expect("a directory");
    let path = scratch.path().join("rendered.yaml");
    fs::write(&path, text).expect("a file");
    let (out, err) = run(tool("kubernetes-validate").arg("--strict").arg(&path));
    let said = out + &err;
    let passed = said.lines().filter(|line| line.contains(" passed for resource ")).count();
    let unknown = said.lines().filter(|line| line.starts_with("WARN")).map(str::to_owned).collect();
    let (understood, _) = run_with(tool("python").args(["-c", OPERATOR]), text);
    (passed, unknown, understood.trim().parse().expect("a number"))
}

#[test]
fn kubernetes_knows_every_field() {
    for directory in KUSTOMIZATIONS {
        let (text, objects) = kustomize(directory);
        let (passed, unknown, understood) = validated(&text);
        assert!(matches!(&unknown[..], [line] if line.contains("PodMonitor")), "{unknown:?}");
        assert_eq!(passed + unknown.len(), objects.len(), "{unknown:?}");
        assert_eq!(understood, 1);
    }
}

#[test]
fn kubernetes_objects_fit_each_other_and_the_service() {
    for directory in KUSTOMIZATIONS {
        let (_, objects) = kustomize(directory);
        let deployment = &of_kind(&objects, "Deployment")["spec"];
        let labels = deployment["template"]["metadata"]["labels"].as_object().expect("labels");
        for (kind, selector) in [
            ("Deployment", "/spec/selector/matchLabels"),
            ("Service", "/spec/selector"),
            ("PodDisruptionBudget", "/spec/selector/matchLabels"),
            ("PodMonitor", "/spec/selector/matchLabels"),
            ("NetworkPolicy", "/spec/podSelector/matchLabels"),
        ] {
            let selector = of_kind(&objects, kind).pointer(selector).and_then(Value::as_object).expect(kind);
            assert!(!selector.is_empty(), "{directory}: {kind} selects everything");
            assert!(selector.iter().all(|(key, value)| labels.get(key) == Some(value)), "{directory}: {kind}");
        }
        let pod = &deployment["template"]["spec"];
        assert!(pod["terminationGracePeriodSeconds"].as_u64().is_some_and(|seconds| seconds > DRAIN_SECONDS));
        assert_eq!(pod["automountServiceAccountToken"], false);
        let container = &pod["containers"][0];
        let port = &container["ports"][0];
        assert_eq!((&port["name"], port["containerPort"].as_u64()), (&"http".into(), Some(PORT)));
        for (probe, path) in [("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")] {
            let get = &container[probe]["httpGet"];
            assert_eq!((&get["path"], &get["port"]), (&path.into(), &port["name"]), "{directory}: {probe}");
        }
        let monitor = &of_kind(&objects, "PodMonitor")["spec"]["podMetricsEndpoints"][0];
        assert_eq!((&monitor["port"], &monitor["path"]), (&port["name"], &"/metrics".into()));
        let env = &container["env"][0];
        assert_eq!(env["name"], "SLA_LEDGER_INSTANCE_ID");
        assert_eq!(env["valueFrom"]["fieldRef"]["fieldPath"], "metadata.name", "one name a pod");
    }
}

/// The file system that a pod sees at its mounts, by path, from the ConfigMaps and Secrets that were rendered.
fn mounted(objects: &[Value]) -> BTreeMap<PathBuf, String> {
    let pod = &pod_template(objects)["spec"];
    let data = |kind: &str, name: &Value| -> BTreeMap<String, String> {
        let holds = |object: &&Value| object["kind"] == kind && object["metadata"]["name"] == *name;
        let object = objects.iter().find(holds).unwrap_or_else(|| panic!("no {kind} {name}"));
        let text = |value: &Value| {
            let text = value.as_str().expect("text");
            if kind == "ConfigMap" {
                return text.to_owned();
            }
            use base64::Engine as _;
            let bytes = base64::engine::general_purpose::STANDARD.decode(text.replace('\n', "")).expect("base64");
            String::from_utf8(bytes).expect("text")
        };
        object["data"].as_object().expect("data").iter().map(|(key, value)| (key.clone(), text(value))).collect()
    };
    let mut found = BTreeMap::new();
    for mount in pod["containers"][0]["volumeMounts"].as_array().expect("mounts") {
        let volume = pod["volumes"].as_array().expect("volumes").iter().find(|v| v["name"] == mount["name"]);
        let volume = volume.unwrap_or_else(|| panic!("no volume {}", mount["name"]));
        let at = Path::new(mount["mountPath"].as_str().expect("a path"));
        if let Some(name) = volume["secret"].get("secretName") {
            found.extend(data("Secret", name).into_iter().map(|(key, text)| (at.join(key), text)));
        }
        for source in volume["projected"]["sources"].as_array().into_iter().flatten() {
            let mut data = data("ConfigMap", &source["configMap"]["name"]);
            match source["configMap"]["items"].as_array() {
                None => found.extend(data.into_iter().map(|(key, text)| (at.join(key), text))),
                Some(items) => {
                    for item in items {
                        let (key, path) =
                            (item["key"].as_str().expect("a key"), item["path"].as_str().expect("a path"));
                        let text = data.remove(key).unwrap_or_else(|| panic!("no {key} in the ConfigMap"));
                        found.insert(at.join(path), text);
                    }
                    assert!(data.is_empty(), "not mounted: {:?}", data.keys());
                }
            }
        }
    }
    found
}

/// `check-config` accepts what a pod would see, and HTTP listens where the probes ask.
#[track_caller]
fn check_pod_config(objects: &[Value]) {
    let files = mounted(objects);
    let root = tempfile::tempdir().expect("a directory");
    let moved = |path: &Path| root.path().join(path.strip_prefix("/").expect("an absolute path"));
    for (path, text) in &files {
        let to = moved(path);
        fs::create_dir_all(to.parent().expect("a parent")).expect("a directory");
        // The paths that the configuration names are below the new root as well.
        let text = ["/etc/sla-ledger", "/run/secrets"]
            .iter()
            .fold(text.clone(), |text, from| text.replace(from, &moved(Path::new(from)).display().to_string()));
        fs::write(to, text).expect("a file");
    }
    let args = &pod_template(objects)["spec"]["containers"][0]["args"];
    let ["run", config] = strings(args)[..] else { panic!("{args}") };
    check_config(&moved(Path::new(config)));
    let config = sla_ledger::config::Config::load(&moved(Path::new(config))).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(u64::from(config.http.listen.port()), PORT);
    assert!(config.http.listen.ip().is_unspecified(), "the kubelet and Prometheus come from elsewhere");
}

#[test]
fn kubernetes_pods_find_a_configuration_without_mistakes() {
    for directory in KUSTOMIZATIONS {
        check_pod_config(&kustomize(directory).1);
    }
}

const CHART: &str = "deploy/helm/sla-ledger";
/// Values that turn everything on.
const ALL_ON: &str = "tests/helm/all.yaml";
/// Oldest that the chart supports. A helm built from source would assume 1.20.
const KUBERNETES: &str = "1.31.0";

/// What the chart renders to, with further arguments of `helm template`.
fn helm(arguments: &[&str]) -> (String, Vec<Value>) {
    // On stderr helm says that it follows the links to the rules and the dashboards.
    let (text, _) = run(tool("helm")
        .args(["template", "sla-ledger", CHART, "--namespace", "sla-ledger", "--kube-version", KUBERNETES])
        .args(arguments));
    let objects: Vec<Value> = serde_saphyr::from_multiple(&text).expect("YAML");
    (text, objects)
}

/// The chart as installed by default, with everything on, and with the other kind of monitor.
fn charts() -> [(String, Vec<Value>); 3] {
    [helm(&[]), helm(&["--values", ALL_ON]), helm(&["--values", ALL_ON, "--set", "monitor.kind=ServiceMonitor"])]
}

#[test]
fn helm_finds_no_mistake_in_the_chart() {
    run(tool("helm").args(["lint", "--strict", "--kube-version", KUBERNETES, CHART]));
    run(tool("helm").args(["lint", "--strict", "--kube-version", KUBERNETES, CHART, "--values", ALL_ON]));
    let chart = document(&format!("{CHART}/Chart.yaml"));
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn kubernetes_knows_every_field_of_the_chart() {
    for ((text, objects), monitoring) in charts().into_iter().zip([0, 4, 4]) {
        let (passed, unknown, understood) = validated(&text);
        assert!(unknown.iter().all(|l| l.contains("Monitor") || l.contains("PrometheusRule")), "{unknown:?}");
        assert_eq!((passed, unknown.len()), (objects.len() - monitoring, monitoring), "{unknown:?}");
        assert_eq!(understood, monitoring);
    }
}

#[test]
fn the_chart_runs_pods_as_the_kustomize_base_does() {
    let (_, base) = kustomize(KUSTOMIZATIONS[0]);
    let base = &pod_template(&base)["spec"];
    for (_, objects) in charts() {
        let template = pod_template(&objects);
        let pod = &template["spec"];
        for key in ["terminationGracePeriodSeconds", "securityContext", "automountServiceAccountToken"] {
            assert_eq!(pod[key], base[key], "{key}");
        }
        let (container, like) = (&pod["containers"][0], &base["containers"][0]);
        for key in ["args", "ports", "securityContext", "resources"] {
            assert_eq!(container[key], like[key], "{key}");
        }
        assert_eq!(container["env"][0], like["env"][0], "one name a pod");
        for key in ["startupProbe", "livenessProbe", "readinessProbe"] {
            let mut probe = container[key].clone();
            // Kubernetes' default, written out.
            assert_eq!(probe["httpGet"].as_object_mut().and_then(|get| get.remove("scheme")), Some("HTTP".into()));
            assert_eq!(probe, like[key], "{key}");
        }
        let labels = template["metadata"]["labels"].as_object().expect("labels");
        for (kind, selector) in [
            ("StatefulSet", "/spec/selector/matchLabels"),
            ("Service", "/spec/selector"),
            ("PodDisruptionBudget", "/spec/selector/matchLabels"),
            ("PodMonitor", "/spec/selector/matchLabels"),
            ("ServiceMonitor", "/spec/selector/matchLabels"),
            ("NetworkPolicy", "/spec/podSelector/matchLabels"),
        ] {
            for object in objects.iter().filter(|object| object["kind"] == kind) {
                let selector = object.pointer(selector).and_then(Value::as_object).expect(kind);
                assert!(!selector.is_empty(), "{kind} selects everything");
                assert!(selector.iter().all(|(key, value)| labels.get(key) == Some(value)), "{kind}");
            }
        }
        assert_eq!(
            of_kind(&objects, "StatefulSet")["spec"]["serviceName"],
            of_kind(&objects, "Service")["metadata"]["name"]
        );
        assert_eq!(of_kind(&objects, "ServiceAccount")["metadata"]["name"], pod["serviceAccountName"]);
    }
}

/// The same endpoint by either kind of monitor, and never both.
#[test]
fn the_chart_has_the_monitor_that_was_chosen() {
    let [(_, default), pods, services] = charts();
    assert!(default.iter().all(|object| !object["kind"].as_str().is_some_and(|kind| kind.ends_with("Monitor"))));
    for ((_, objects), kind, other) in
        [(&pods, "PodMonitor", "ServiceMonitor"), (&services, "ServiceMonitor", "PodMonitor")]
    {
        assert!(objects.iter().all(|object| object["kind"] != other), "{kind} and {other}");
        let key = if kind == "PodMonitor" { "podMetricsEndpoints" } else { "endpoints" };
        let endpoint = &of_kind(objects, kind)["spec"][key][0];
        let port = endpoint["port"].as_str().expect("a port");
        let named =
            |ports: &Value| ports.as_array().is_some_and(|ports| ports.iter().any(|known| known["name"] == port));
        assert!(named(&pod_template(objects)["spec"]["containers"][0]["ports"]), "{kind}: {port}");
        assert!(named(&of_kind(objects, "Service")["spec"]["ports"]), "{kind}: {port}");
        assert_eq!((&endpoint["path"], &endpoint["scheme"]), (&"/metrics".into(), &"http".into()));
        // A ServiceMonitor selects Services by their labels.
        let labels = of_kind(objects, "Service")["metadata"]["labels"].as_object().expect("labels");
        let selector = of_kind(objects, kind)["spec"]["selector"]["matchLabels"].as_object().expect("a selector");
        assert!(selector.iter().all(|(key, value)| labels.get(key) == Some(value)), "{kind}");
    }
}

#[test]
fn the_charts_pods_find_a_configuration_without_mistakes() {
    for (_, mut objects) in charts() {
        // The Secret exists already; the chart only mounts it.
        objects.push(serde_json::json!({
            "kind": "Secret", "metadata": {"name": "sla-ledger-kafka"},
            "data": {"password": "Y2hhbmdlLW1l", "ca.pem": "UEVN"},
        }));
        check_pod_config(&objects);
    }
}

#[test]
fn the_chart_brings_the_very_rules_and_dashboards() {
    let (_, objects) = helm(&["--values", ALL_ON]);
    let mut rules: Vec<_> =
        files("deploy/prometheus").into_iter().filter(|f| !f.ends_with("/prometheus.yml")).collect();
    rules.sort();
    let scratch = tempfile::tempdir().expect("a directory");
    let mut rendered = objects.iter().filter(|object| object["kind"] == "PrometheusRule");
    for file in &rules {
        let rule = rendered.next().unwrap_or_else(|| panic!("no PrometheusRule for {file}"));
        let name = Path::new(file).file_stem().and_then(|stem| stem.to_str()).expect("a name");
        assert_eq!(rule["metadata"]["name"], format!("sla-ledger-{name}"));
        assert_eq!(rule["spec"], document(file), "{file}");
        let path = scratch.path().join(format!("{name}.yml"));
        fs::write(&path, serde_json::to_string(&rule["spec"]).expect("JSON")).expect("a file");
        run(Command::new("promtool").args(["check", "rules"]).arg(&path));
    }
    assert!(rendered.next().is_none());

    let dashboards: BTreeMap<_, _> = objects
        .iter()
        .filter(|object| object["metadata"]["labels"]["grafana_dashboard"] == "1")
        .flat_map(|object| object["data"].as_object().expect("data"))
        .map(|(key, text)| (key.clone(), text.as_str().expect("text").to_owned()))
        .collect();
    let there: BTreeMap<_, _> = files("deploy/grafana/dashboards")
        .iter()
        .map(|file| (format!("sla-ledger-{}", file.rsplit('/').next().expect("a name")), read(file)))
        .collect();
    assert!(dashboards == there, "{:?} are not {:?}, byte for byte", dashboards.keys(), there.keys());
}

#[test]
fn the_chart_refuses_wrong_values() {
    for wrong in [
        "replicas=-1",
        "replica=3",
        "config.kafka.brokers=",
        "config.contract.directory=/elsewhere",
        "terminationGracePeriodSeconds=10",
        "probes.scheme=http",
        "monitor.interval=soon",
        "monitor.kind=Both",
    ] {
        let output = tool("helm")
            .current_dir(ROOT)
            .args(["template", CHART, "--kube-version", KUBERNETES, "--set", wrong])
            .output()
            .expect("helm");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && said.contains("don't meet the specifications of the schema"),
            "{wrong}: {said}"
        );
    }
}

#[test]
fn no_configuration_is_left_out() {
    let found: Vec<_> = files("deploy")
        .into_iter()
        .filter(|path| path.ends_with("/sla-ledger.yaml") && !path.starts_with("deploy/grafana"))
        .collect();
    let mut checked: Vec<_> = KUSTOMIZATIONS.iter().map(|directory| format!("{directory}/sla-ledger.yaml")).collect();
    checked.push("deploy/compose/sla-ledger/sla-ledger.yaml".into());
    assert_eq!(found.iter().collect::<std::collections::BTreeSet<_>>(), checked.iter().collect());
}

/// The unit, with this binary in the place of the installed one.
fn unit() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("sla-ledger.service");
    let text = read("deploy/systemd/sla-ledger.service");
    assert!(text.contains("ExecStart=sla-ledger run --config /etc/sla-ledger\n"));
    fs::write(&path, text.replace("=sla-ledger ", &format!("={BINARY} "))).expect("the unit");
    (directory, path)
}

#[test]
fn systemd_finds_no_mistake_in_the_unit() {
    let (_directory, path) = unit();
    let (out, err) = run(Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&path));
    // A key that it does not know is only a warning; other units of the machine may have theirs.
    let mut ours = String::new();
    for line in (out + &err).lines().filter(|line| line.contains("sla-ledger")) {
        let _ = writeln!(ours, "{line}");
    }
    assert_eq!(ours, "");
}

#[test]
fn the_unit_is_hardened() {
    let (_directory, path) = unit();
    // In tenths: 1.1 of 10. What is left is the network, which it is for.
    run(Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--threshold=11", "--no-pager"])
        .arg(&path));
}

#[test]
fn the_unit_leaves_time_for_the_drain() {
    let unit = read("deploy/systemd/sla-ledger.service");
    let seconds = unit.lines().find_map(|line| line.strip_prefix("TimeoutStopSec=")?.strip_suffix('s')?.parse().ok());
    assert!(seconds.is_some_and(|seconds: u64| seconds > DRAIN_SECONDS), "{seconds:?}");
}
