//! The generated calls: hot request ids, duplicates with equal and with different content, calls at the edges of
//! seconds, windows, skew, days and months, and records that are not calls.

use chrono::TimeZone;
use sla_ledger::domain::call::{Flag, Malformed};
use sla_ledger::pipeline::clock::HoldBound;
use sla_ledger::pipeline::settings::{CountingSettings, TimestampFormat};

use crate::kafka::{SourceEntry, SourceLog};

/// SplitMix64: a seed is a run.
#[derive(Debug, Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 ≤ n < `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// `from` ≤ n ≤ `to`.
    pub fn range(&mut self, from: i64, to: i64) -> i64 {
        from + self.below((to - from + 1) as u64) as i64
    }

    /// True `n` times in a thousand.
    pub fn mille(&mut self, n: u64) -> bool {
        self.below(1000) < n
    }

    pub fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize].clone()
    }
}

/// What a payload says.
#[derive(Debug, Clone, PartialEq)]
pub enum Meaning {
    Malformed(Malformed),
    Call(PlainCall),
}

/// A call in plain words.
#[derive(Debug, Clone, PartialEq)]
pub struct PlainCall {
    pub tenant: &'static str,
    pub request_id: String,
    pub time_ms: i64,
    pub action: &'static str,
    /// As sent; `OK` is a success under some settings.
    pub code: Option<&'static str>,
    pub flag: Flag,
}

impl PlainCall {
    pub fn payload(&self) -> Vec<u8> {
        let code = self.code.map_or(String::new(), |c| format!(r#","code":"{c}""#));
        let flag = match self.flag {
            Flag::Absent => "",
            Flag::False => r#","system_error":false"#,
            Flag::True => r#","system_error":true"#,
        };
        let Self { tenant, request_id, time_ms, action, .. } = self;
        format!(r#"{{"tenant":"{tenant}","request_id":"{request_id}","timestamp":{time_ms},"action":"{action}"{code}{flag}}}"#).into_bytes()
    }
}

/// The bound of every source here.
pub fn bound() -> HoldBound {
    HoldBound::new(0)
}

/// How far a wrong clock is ahead: around the bound, a while, a month, a life.
const AHEAD_MS: [i64; 8] =
    [299_999, 300_000, 300_001, 320_000, 500_000, 1_500_000, 40 * 86_400_000, 80 * 365 * 86_400_000];

/// A code that is itemised under no settings here.
pub const NOT_ITEMISED: &str = "Caller";

/// Counting settings with windows short enough for their edges to be hit.
pub fn settings(rng: &mut Rng, limit: u32) -> CountingSettings {
    let dedupe_window_s = rng.range(2, 10) as u32;
    CountingSettings {
        timestamp_format: TimestampFormat::EpochMs,
        success_codes: if rng.mille(700) { vec!["OK".into()] } else { Vec::new() },
        not_itemised: if rng.mille(700) { vec![NOT_ITEMISED.into()] } else { vec![NOT_ITEMISED.into(), "Soft".into()] },
        dedupe_window_s,
        max_age_s: rng.pick(&[86_400, 40 * 86_400, 100 * 86_400]),
        rows_per_tenant_month: limit,
        // There are three tenants.
        tenants_per_month: [1, 2, 200_000][dedupe_window_s as usize % 3],
        max_event_bytes: 400,
        evidence_bytes_per_month: [150, 1 << 28, 1 << 28][dedupe_window_s as usize / 2 % 3],
        ..CountingSettings::default()
    }
}

/// Shape of one partition's traffic.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub records: usize,
    pub window_s: i64,
    /// Do months pass?
    pub months: bool,
    /// Do record timestamps go back by more than a moment?
    pub disorder: bool,
    /// Are there producers whose clock is ahead?
    pub clocks: bool,
}

/// All records one partition will ever hold.
pub fn source(rng: &mut Rng, partition: usize, shape: Shape) -> SourceLog {
    // Ten seconds before midnight of the last day of a month, in the ledger's zone.
    let month = chrono_tz::Asia::Shanghai.with_ymd_and_hms(2026, 1 + rng.below(12) as u32, 1, 0, 0, 0).unwrap();
    let mut now = month.timestamp_millis() - 10_000;
    let mut offset = rng.range(0, 3);
    let mut watermark = now;
    let mut calls: Vec<PlainCall> = Vec::new();
    let mut entries = Vec::new();
    let hot = format!("hot-{partition}");
    for n in 0..shape.records {
        now += match rng.below(100) {
            0..=54 => rng.range(0, 1500),
            55..=74 => rng.range(0, 2 * shape.window_s * 1000),
            75..=84 => 1000 - now.rem_euclid(1000) + rng.range(-1, 1),
            85..=92 => rng.range(30_000, 320_000),
            93..=95 => rng.range(300_000, 1_300_000),
            96 => rng.range(0, 3) * 86_400_000,
            _ if shape.months => rng.range(10, 90) * 86_400_000,
            _ => rng.range(0, 1000),
        };
        let timestamp_ms = match rng.below(100) {
            0..=5 => Some(now - rng.range(0, 3000)),
            6..=8 if shape.disorder => Some(now - rng.range(0, 700_000)),
            9 => None,
            _ => Some(now),
        };
        let ahead = shape.clocks && rng.mille(70);
        let timestamp_ms = if ahead { Some(now + rng.pick(&AHEAD_MS)) } else { timestamp_ms };
        if !ahead {
            watermark = watermark.max(timestamp_ms.unwrap_or(watermark));
        }
        // Its producer's clock may say the same of the call itself.
        let arrival = timestamp_ms.filter(|_| !ahead || rng.mille(500)).unwrap_or(watermark);
        let meaning = if rng.mille(60) {
            Meaning::Malformed(rng.pick(&[
                Malformed::Empty,
                Malformed::NotJson,
                Malformed::MissingField,
                Malformed::WrongType,
                Malformed::TooLarge,
            ]))
        } else {
            Meaning::Call(call(rng, &mut calls, &hot, n, arrival, watermark, shape.window_s))
        };
        let payload = match &meaning {
            Meaning::Call(call) => Some(call.payload()),
            Meaning::Malformed(Malformed::Empty) => rng.mille(500).then(Vec::new),
            Meaning::Malformed(Malformed::NotJson) => Some(b"{\"tenant\":".to_vec()),
            Meaning::Malformed(Malformed::MissingField) => Some(b"{\"tenant\":\"a\"}".to_vec()),
            Meaning::Malformed(Malformed::WrongType) => Some(b"[1]".to_vec()),
            Meaning::Malformed(_) => Some(vec![b' '; 401]),
        };
        entries.push(SourceEntry { offset, timestamp_ms, written_ms: now, payload, meaning });
        offset += if rng.mille(150) { rng.range(2, 4) } else { 1 };
    }
    SourceLog { entries, revealed: 0, deleted: 0 }
}

fn call(
    rng: &mut Rng,
    calls: &mut Vec<PlainCall>,
    hot: &str,
    n: usize,
    arrival: i64,
    watermark: i64,
    window_s: i64,
) -> PlainCall {
    let edge = (watermark.div_euclid(1000) - window_s) * 1000;
    let time_ms = match rng.below(100) {
        0..=44 => arrival - rng.range(0, 1500),
        45..=54 => arrival.div_euclid(1000) * 1000 + rng.pick(&[0, 999]),
        55..=59 => edge + rng.pick(&[-1, 0, 1, 999, 1000]),
        60..=64 => arrival - rng.range(0, 4 * window_s) * 1000,
        65..=74 => arrival + rng.range(0, 300_000),
        75..=78 => arrival + 300_000 + rng.range(-1, 1),
        79..=81 => arrival - rng.range(0, 70) * 86_400_000,
        82 => arrival - 86_400_000 * rng.pick(&[1, 40, 100]) + rng.range(-1, 1),
        // In a second that holds calls already, often one that has left the window.
        _ if !calls.is_empty() => rng.pick(calls).time_ms.div_euclid(1000) * 1000 + rng.range(0, 999),
        _ => arrival,
    };
    let fresh = PlainCall {
        tenant: if n.is_multiple_of(7) { "c" } else { rng.pick(&["a", "a", "a", "b b"]) },
        request_id: format!("r{n}"),
        time_ms,
        action: rng.pick(&["", "Call", "Call"]),
        code: rng.pick(&[
            None,
            None,
            Some("OK"),
            Some("InternalError"),
            Some("InternalError"),
            Some("Soft"),
            Some(NOT_ITEMISED),
        ]),
        flag: rng.pick(&[Flag::Absent, Flag::Absent, Flag::Absent, Flag::False, Flag::True]),
    };
    let call = match rng.below(100) {
        0..=19 => PlainCall { tenant: "a", request_id: hot.into(), ..fresh },
        20..=31 if !calls.is_empty() => {
            let recent = calls.len() - 1 - rng.below(calls.len().min(6) as u64) as usize;
            calls[recent].clone()
        }
        32..=37 if !calls.is_empty() => {
            let earlier = rng.pick(calls);
            PlainCall { tenant: earlier.tenant, request_id: earlier.request_id.clone(), ..fresh }
        }
        38..=40 if !calls.is_empty() => {
            let earlier = rng.pick(calls).clone();
            PlainCall { code: Some("InternalError"), ..earlier }
        }
        _ => fresh,
    };
    calls.push(call.clone());
    call
}
