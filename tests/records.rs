//! The ledger's record format: values of every released version stay readable, and the schema file matches what the
//! code writes. A fixture is never changed; a new version gets a new directory.

#![expect(clippy::unwrap_used, reason = "tests")]

use sha2::{Digest, Sha256};
use sla_ledger::domain::alert::{AlertKey, AlertName, AlertState, Reason, Severity, Status};
use sla_ledger::pipeline::dictionary::Dictionary;
use sla_ledger::pipeline::record::{
    AlertRecord, AppliedRuling, Checkpoint, DICTIONARY_NAMES, Evidence, EvidenceGroups, Gap, Item, Key, NewNames,
    SettingsEpoch, Tally, TallyDay, TallyView, TenantEvidence, Totals, UnadmittedCalls,
};

fn tally() -> Tally {
    Tally {
        seq: 7,
        cov: 4711,
        first_offset: 17,
        days: vec![
            TallyDay {
                day: 1,
                actions: vec![0, 2],
                calls: vec![300, 1],
                too_old: 3,
                not_ok: 1,
                unheld: 2,
                ..TallyDay::default()
            },
            TallyDay {
                day: 31,
                actions: vec![0],
                calls: vec![u64::MAX],
                outcome_actions: vec![0, DICTIONARY_NAMES],
                outcome_codes: vec![2, 0],
                outcome_flags: vec![0, 2],
                outcome_calls: vec![5, 1],
                names: vec!["通话".into()],
                limit: 2,
                ..TallyDay::default()
            },
        ],
    }
}

fn day() -> Tally {
    Tally { days: tally().days.split_off(1), ..tally() }
}

fn names() -> NewNames {
    NewNames { seq: 7, names: ["DescribeTelCdr", "InternalError", "通话"].map(String::from).to_vec() }
}

fn items() -> Vec<Item> {
    let item = |offset, code: Option<&str>, flag| Item {
        offset,
        time_ms: 1_774_972_799_999,
        action: "CreateCallOutSession".into(),
        code: code.map(String::from),
        flag,
        request_id: format!("r-{offset}"),
        calls_in_second: 5,
    };
    vec![item(1024, Some("InternalError"), 0), item(1030, None, 2)]
}

fn evidence() -> Evidence {
    let mut acme = TenantEvidence::of_items("acme", 1020, &items());
    (acme.raised_seconds, acme.raised_calls) = (vec![1_774_972_700, 3], vec![9, 2]);
    Evidence { cov: 4711, tenants: vec![acme, TenantEvidence::of_items("通话", 1020, &items()[1..])] }
}

fn checkpoint() -> Checkpoint {
    Checkpoint {
        seq: 8,
        next_offset: 4711,
        from: 4700,
        floor_offset: 100,
        floor_watermark_ms: Some(-1),
        watermark_ms: Some(1_774_972_800_000),
        epochs: vec![SettingsEpoch { from_offset: 0, settings: "{}".into() }],
        totals: Totals { seen: 10, counted: 5, duplicate: 2, duplicate_conflicts: 1, malformed: 2, quarantined: 1 },
        closed: 3,
        items: 2,
        digest: (0..16).collect(),
        horizon: 24_312,
        gaps: vec![Gap { from_offset: 1, to_offset: 2, calls: true, watermark_ms: None, until_ms: None }],
        start_offset: 0,
        start_timestamp_ms: Some(1_774_000_000_000),
        writer: "host-9464/0badcafe".into(),
        source_id: String::new(),
        unadmitted: vec![UnadmittedCalls { month: 24_314, calls: 3, first_offset: 4702 }],
        ..Checkpoint::default()
    }
}

fn ruling() -> AppliedRuling {
    AppliedRuling { sha256: (100..132).collect(), recorded_at_ms: 1_774_972_800_000, ..AppliedRuling::default() }
}

/// As it is written since the ledger keeps whole texts.
fn whole_ruling() -> AppliedRuling {
    let canonical = r#"{"actor":"jane","decision":"revoke","id":"b"}"#.to_owned();
    AppliedRuling { sha256: Sha256::digest(&canonical).to_vec(), canonical, position: 3, ..ruling() }
}

fn alert() -> AlertState {
    AlertState {
        status: Status::Resolved,
        generation: 2,
        severity: Severity::Critical,
        reason: Reason::FellBelow,
        starts_at_ms: 1_774_972_800_000,
        ends_at_ms: Some(1_774_976_400_000),
        settled: true,
        grouped: true,
    }
}

/// The fixture's bytes; writes it when it does not exist yet and `SLA_LEDGER_WRITE_FIXTURES` is set.
fn fixture(name: &str, current: &[u8]) -> Vec<u8> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/ledger").join(name);
    if !path.exists() && std::env::var_os("SLA_LEDGER_WRITE_FIXTURES").is_some() {
        std::fs::write(&path, current).unwrap();
    }
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn version_3_reads_and_writes_as_released() {
    for (name, tally) in [("v3/tally.bin", tally()), ("v3/day.bin", day())] {
        let bytes = fixture(name, &tally.encode_value());
        assert_eq!(Tally::decode_value(&bytes).unwrap(), tally);
        assert_eq!(tally.encode_value(), bytes);
    }

    let bytes = fixture("v3/names.bin", &names().encode_value());
    assert_eq!(NewNames::decode_value(&bytes).unwrap(), names());
    assert_eq!(names().encode_value(), bytes);

    let bytes = fixture("v3/evidence.bin", &evidence().encode_value());
    assert_eq!(Evidence::decode_value(&bytes).unwrap(), evidence());
    assert_eq!(evidence().encode_value(), bytes);
    assert_eq!(evidence().tenants[0].items(1020, &Dictionary::default()), items());
    let groups: Vec<_> = EvidenceGroups::of(&bytes).map(|(_, group)| group.tenant()).collect();
    assert_eq!(groups, ["acme", "通话"]);
    let mut seconds = Vec::new();
    evidence().tenants[0].for_each_second(|second, calls| seconds.push((second, calls)));
    assert_eq!(seconds[1..], [(1_774_972_799, 5), (1_774_972_700, 9), (1_774_972_703, 2)]);

    let bytes = fixture("v3/checkpoint.bin", &checkpoint().encode_value());
    assert_eq!(Checkpoint::decode_value(&bytes).unwrap(), checkpoint());
    assert_eq!(checkpoint().encode_value(), bytes);

    let known = Checkpoint { source_id: "MkQ0uKj6T4SUvXp1nS3r7A".into(), ..checkpoint() };
    assert_eq!(Checkpoint::decode_value(&known.encode_value()).unwrap(), known);

    let bytes = fixture("v3/ruling.bin", &ruling().encode_value());
    assert_eq!(AppliedRuling::decode_value(&bytes).unwrap(), ruling());
    assert_eq!(ruling().encode_value(), bytes);

    let bytes = fixture("v3/ruling_text.bin", &whole_ruling().encode_value());
    assert_eq!(AppliedRuling::decode_value(&bytes).unwrap(), whole_ruling());
    assert_eq!(whole_ruling().encode_value(), bytes);
    let other = AppliedRuling { canonical: "{}".into(), ..whole_ruling() };
    let error = AppliedRuling::decode_value(&other.encode_value()).unwrap_err().to_string();
    assert!(error.contains("a ruling's text does not match its digest"), "{error}");

    let bytes = fixture("v3/alert.bin", &AlertRecord::new(&alert(), 7).encode_value());
    let record = AlertRecord::decode_value(&bytes).unwrap();
    assert_eq!((record.state(), record.seq), (Some(alert()), 7));
    assert_eq!(AlertRecord::new(&alert(), 7).encode_value(), bytes);
}

/// Formats 1 and 2 were never released. Their ledgers are refused with what to do, whichever of their values is read first.
#[test]
fn earlier_versions_are_refused() {
    let read = |version: u32, name: &str| {
        let bytes = fixture(&format!("v{version}/{name}.bin"), &[]);
        match name {
            "tally" => TallyView::read(&bytes).err(),
            "chunk" => Evidence::decode_value(&bytes).err(),
            "checkpoint" => Checkpoint::decode_value(&bytes).err(),
            "ruling" => AppliedRuling::decode_value(&bytes).err(),
            _ => AlertRecord::decode_value(&bytes).err(),
        }
    };
    for version in [1, 2] {
        for name in ["tally", "chunk", "checkpoint", "ruling", "alert"] {
            let error = read(version, name).expect("an error").to_string();
            let says = error.contains(&format!("record format {version}")) && error.contains("`ledger.topic`");
            assert!(says, "{name}: {error}");
        }
    }
}

#[test]
fn keys_of_version_3() {
    for (text, key) in [
        ("C 3", Key::Checkpoint),
        ("N 3 17", Key::Names { first: 17 }),
        ("D 3 2026-03-31 acme corp", Key::Day { day: "2026-03-31".parse().unwrap(), tenant: "acme corp".into() }),
        ("T 3 2026-03 acme corp", Key::Tally { month: "2026-03".parse().unwrap(), tenant: "acme corp".into() }),
        ("F 3 2026-03-31 17", Key::Evidence { day: "2026-03-31".parse().unwrap(), first: 17 }),
        ("R 3 r-20260320-1", Key::Ruling { id: "r-20260320-1".into() }),
        (
            "A 3 2026-03-17 SlaTierReached 2 T1 acme corp",
            Key::Alert(AlertKey {
                tenant: "acme corp".into(),
                period_start: Some("2026-03-17".parse().unwrap()),
                alert: AlertName::TierReached,
                detail: "T1".into(),
            }),
        ),
        ("A 3 - SlaUnknownCode 3 X Y ", Key::Alert(AlertKey::fleet(AlertName::UnknownCode, "X Y"))),
    ] {
        assert_eq!(key.encode(3), text);
        assert_eq!(Key::decode(text.as_bytes()), Ok((3, key)));
    }
}

/// Every field of the schema file is in `record.rs` with the same tag and kind, in the same message.
#[test]
fn the_schema_file_says_what_the_code_writes() {
    let schema = include_str!("../src/pipeline/ledger.proto");
    let code = include_str!("../src/pipeline/record.rs");
    let mut fields = 0;
    let mut message = "";
    for line in schema.lines().map(|l| l.split("//").next().unwrap_or("").trim()) {
        if let Some(rest) = line.strip_prefix("message ") {
            message = rest.trim_end_matches(" {");
        } else if let Some((declaration, tag)) = line.trim_end_matches(';').split_once(" = ")
            && line.ends_with(';')
            && !message.is_empty()
        {
            let name = declaration.rsplit(' ').next().unwrap();
            let body = code.split_once(&format!("pub struct {message} {{")).unwrap().1.split_once("\n}").unwrap().0;
            let before =
                body.split_once(&format!("pub {name}: ")).unwrap_or_else(|| panic!("{message}.{name} is missing")).0;
            let attribute = before.lines().rev().find(|l| l.contains("#[prost(")).unwrap();
            assert!(attribute.contains(&format!("tag = \"{tag}\"")), "{message}.{name}: {attribute}");
            for (word, wanted) in [
                ("repeated", "repeated"),
                ("optional", "optional"),
                ("sint64", "sint64"),
                ("uint64", "uint64"),
                ("string", "string"),
            ] {
                let says = |text: &str, word: &str| text.split(|c: char| !c.is_alphanumeric()).any(|w| w == word);
                assert_eq!(says(declaration, word), says(attribute, wanted), "{message}.{name}: {word}: {attribute}");
            }
            fields += 1;
        }
    }
    let in_code = code.matches("#[prost(").count();
    assert_eq!(fields, in_code, "fields in the schema and in the code");
}

#[test]
fn a_tally_read_without_copying_it_is_the_same() {
    let day = |day: u32| TallyDay {
        day,
        actions: vec![0, 1],
        calls: vec![u64::from(day), 1 << 40],
        outcome_actions: vec![1],
        outcome_codes: vec![2],
        outcome_flags: vec![day % 3],
        outcome_calls: vec![7],
        ..TallyDay::default()
    };
    let tally = Tally { seq: 9, cov: -1, first_offset: 3, days: (1..=31).map(day).collect() };
    let bytes = tally.encode_value();
    let view = TallyView::read(&bytes).expect("a tally");
    assert_eq!((view.cov, view.first_offset), (tally.cov, tally.first_offset));
    let mut days = Vec::new();
    view.for_each_day(&mut TallyDay::default(), |day| days.push(day.clone()));
    assert_eq!(days, tally.days);
    for end in 0..bytes.len() {
        // Cut anywhere: an error or fewer days, never a panic.
        if let Ok(view) = TallyView::read(&bytes[..end]) {
            view.for_each_day(&mut TallyDay::default(), |_| {});
            _ = view.sum(&mut TallyDay::default());
        }
    }
}
