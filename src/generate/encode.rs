//! Call events as bytes: the ordinary form, its permitted variants, CloudEvents, and everything that is not a call event.

use super::catalog::Code;
use super::expected::Malformed;
use super::random::mix;
use super::schedule::{DAY_MS, ZONE_OFFSET_MS};

/// The value of `system_error`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Flag {
    Absent,
    False,
    True,
}

/// One call, as the encoder needs it.
pub(super) struct Fields<'a> {
    pub(super) tenant: &'a str,
    pub(super) request_id: &'a str,
    pub(super) at_ms: i64,
    pub(super) action: &'a str,
    pub(super) code: &'a Code,
    pub(super) flag: Flag,
    /// Decides the variant and the fields the counter ignores.
    pub(super) noise: u64,
    /// 1 for the first delivery.
    pub(super) delivery: u32,
}

/// A payload above the counter's limit of 1 MiB.
const TOO_LARGE_BYTES: usize = (1 << 20) + 1;

const REGIONS: [&str; 5] = ["ap-guangzhou", "ap-shanghai", "ap-beijing", "ap-singapore", "ap-hongkong"];
const AGENTS: [&str; 4] = ["sdk-go/3.0.1177", "sdk-python/3.0.1177", "sdk-java/3.1.1102", "console/2.40.0"];
/// The forms of success: the field omitted, null, and the success codes.
const OK_FORMS: [&str; 8] =
    ["", "", "", ",\"code\":null", ",\"code\":\"\"", ",\"code\":\"OK\"", ",\"code\":\"0\"", ",\"code\":0"];

/// Writes the sequence number's request id, a UUID in looks and as unique.
pub(super) fn request_id(number: u64, salt: u64, out: &mut String) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    // The first half is a bijection of the number.
    let halves = [mix(number ^ salt), mix(number.rotate_left(32) ^ mix(salt))];
    out.clear();
    for (index, byte) in halves.iter().flat_map(|half| half.to_be_bytes()).enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            out.push('-');
        }
        out.push(char::from(HEX[usize::from(byte >> 4)]));
        out.push(char::from(HEX[usize::from(byte & 15)]));
    }
}

/// RFC 3339 text; caches the last day's date.
#[derive(Debug, Clone)]
pub(super) struct Timestamps {
    day: i64,
    date: [u8; 11],
}

impl Timestamps {
    pub(super) fn new() -> Self {
        Self { day: i64::MIN, date: *b"0000-00-00T" }
    }

    /// Local time with `+08:00`, to the millisecond.
    pub(super) fn local(&mut self, at_ms: i64, out: &mut Vec<u8>) {
        self.clock(at_ms + ZONE_OFFSET_MS, out);
        millis(at_ms, out);
        out.extend_from_slice(b"+08:00");
    }

    /// One of the forms a call's timestamp may have; all floor to `at_ms`.
    fn varied(&mut self, at_ms: i64, noise: u64, out: &mut Vec<u8>) {
        match noise & 7 {
            0..=4 => self.local(at_ms, out),
            5 => {
                self.clock(at_ms, out);
                millis(at_ms, out);
                out.push(b'Z');
            }
            6 => {
                self.clock(at_ms, out);
                millis(at_ms, out);
                digits((noise >> 8) % 1_000_000, 6, out);
                out.push(b'Z');
            }
            _ => {
                // Another offset: half past, west of Greenwich.
                self.clock(at_ms - (3 * 60 + 30) * 60_000, out);
                if at_ms.rem_euclid(1_000) != 0 {
                    millis(at_ms, out);
                }
                out.extend_from_slice(b"-03:30");
            }
        }
    }

    /// `2026-03-01T00:00:00` of an instant shifted into its zone.
    fn clock(&mut self, shifted_ms: i64, out: &mut Vec<u8>) {
        let day = shifted_ms.div_euclid(DAY_MS);
        if day != self.day {
            self.day = day;
            let (year, month, date) = civil(day);
            let mut text = Vec::with_capacity(11);
            digits(year.unsigned_abs(), 4, &mut text);
            text.push(b'-');
            digits(month, 2, &mut text);
            text.push(b'-');
            digits(date, 2, &mut text);
            text.push(b'T');
            self.date.copy_from_slice(&text[..11]);
        }
        let second = shifted_ms.rem_euclid(DAY_MS).unsigned_abs() / 1_000;
        out.extend_from_slice(&self.date);
        digits(second / 3_600, 2, out);
        out.push(b':');
        digits(second / 60 % 60, 2, out);
        out.push(b':');
        digits(second % 60, 2, out);
    }
}

fn millis(at_ms: i64, out: &mut Vec<u8>) {
    out.push(b'.');
    digits(at_ms.rem_euclid(1_000).unsigned_abs(), 3, out);
}

/// `value` with leading zeros.
fn digits(mut value: u64, width: usize, out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + width, b'0');
    for place in out[start..].iter_mut().rev() {
        *place = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// Year, month, day of a day number since 1970-01-01 (the usual era arithmetic).
pub(super) fn civil(day: i64) -> (i64, u64, u64) {
    let shifted = day + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let date = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month.unsigned_abs(), date.unsigned_abs())
}

/// Writes payloads.
#[derive(Debug, Clone)]
pub(super) struct Encoder {
    times: Timestamps,
}

impl Encoder {
    pub(super) fn new() -> Self {
        Self { times: Timestamps::new() }
    }

    /// A call event.
    pub(super) fn call(&mut self, fields: &Fields<'_>, out: &mut Vec<u8>) {
        let noise = mix(fields.noise);
        out.push(b'{');
        // One in eight has its fields in another order.
        let tenant_last = noise & 7 == 7;
        if !tenant_last {
            tenant(fields.tenant, noise, out);
            out.push(b',');
        }
        out.extend_from_slice(b"\"request_id\":\"");
        out.extend_from_slice(fields.request_id.as_bytes());
        out.extend_from_slice(b"\",\"timestamp\":\"");
        self.times.varied(fields.at_ms, noise >> 3, out);
        out.push(b'"');
        if !fields.action.is_empty() {
            out.extend_from_slice(b",\"action\":\"");
            out.extend_from_slice(fields.action.as_bytes());
            out.push(b'"');
        }
        code(fields, noise, out);
        match fields.flag {
            Flag::Absent if noise >> 20 & 15 == 0 => out.extend_from_slice(b",\"system_error\":null"),
            Flag::Absent => {}
            Flag::False => out.extend_from_slice(b",\"system_error\":false"),
            Flag::True => out.extend_from_slice(b",\"system_error\":true"),
        }
        ignored(fields, noise, out);
        if tenant_last {
            out.push(b',');
            tenant(fields.tenant, noise, out);
        }
        out.push(b'}');
    }

    /// A call event as a structured CloudEvent.
    pub(super) fn structured(&mut self, fields: &Fields<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"specversion\":\"1.0\",\"id\":\"");
        out.extend_from_slice(fields.request_id.as_bytes());
        out.extend_from_slice(b"\",\"source\":\"/ccc/gateway\",\"type\":\"ccc.api.call.v1\",\"time\":\"");
        self.times.local(fields.at_ms, out);
        out.extend_from_slice(b"\",\"datacontenttype\":\"application/json\",\"data\":");
        self.call(fields, out);
        out.push(b'}');
    }

    /// The headers of a binary CloudEvent; its payload is the plain call event.
    pub(super) fn binary_headers(&mut self, fields: &Fields<'_>) -> Vec<(String, Vec<u8>)> {
        let mut time = Vec::with_capacity(29);
        self.times.local(fields.at_ms, &mut time);
        [
            ("ce_specversion", b"1.0".to_vec()),
            ("ce_id", fields.request_id.as_bytes().to_vec()),
            ("ce_source", b"/ccc/gateway".to_vec()),
            ("ce_type", b"ccc.api.call.v1".to_vec()),
            ("ce_time", time),
            ("content-type", b"application/json".to_vec()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }

    /// Not a call event: exactly one thing is wrong with it. `variant` selects the kind of error.
    pub(super) fn malformed(&mut self, reason: Malformed, variant: u64, fields: &Fields<'_>, out: &mut Vec<u8>) {
        let mut time = Vec::with_capacity(29);
        self.times.local(fields.at_ms, &mut time);
        let time = quoted(&String::from_utf8_lossy(&time));
        let (tenant, id, action) = (quoted(fields.tenant), quoted(fields.request_id), quoted(fields.action));
        let object = |pairs: &[(&str, &str)]| {
            let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
            format!("{{{}}}", pairs.join(",")).into_bytes()
        };
        // In the order tenant, request_id, timestamp, action; a value replaced or left out.
        let with = |name: &str, value: Option<&str>| {
            let mut pairs = vec![
                ("tenant", tenant.as_str()),
                ("request_id", &id),
                ("timestamp", &time),
                ("action", &action),
                ("region", "\"ap-guangzhou\""),
            ];
            match (pairs.iter().position(|pair| pair.0 == name), value) {
                (Some(index), Some(value)) => pairs[index].1 = value,
                (Some(index), None) => drop(pairs.remove(index)),
                (None, Some(value)) => pairs.push((name, value)),
                (None, None) => {}
            }
            object(&pairs)
        };
        let long = |piece: &str| quoted(&piece.repeat(129_usize.div_ceil(piece.len())));
        let payload = match reason {
            Malformed::Empty => Vec::new(),
            Malformed::NotJson => match variant % 4 {
                0 => {
                    let mut cut = with("version", Some("\"2020-02-10\""));
                    cut.truncate(cut.len() / 2);
                    cut
                }
                1 => b"<html><body>502 Bad Gateway</body></html>".to_vec(),
                2 => {
                    let mut bytes = with("version", Some("\"?\""));
                    // Not UTF-8, inside a string.
                    bytes.iter_mut().filter(|byte| **byte == b'?').for_each(|byte| *byte = 0xff);
                    bytes
                }
                _ => {
                    let mut bytes = with("version", Some("1"));
                    bytes.extend_from_slice(b" and more");
                    bytes
                }
            },
            Malformed::MissingField => with(["tenant", "request_id", "timestamp"][(variant % 3) as usize], None),
            Malformed::WrongType => match variant % 6 {
                0 => with("tenant", Some("12345.5")),
                1 => with("request_id", Some("{\"id\":\"r-1\"}")),
                2 => with("timestamp", Some("true")),
                3 => with("action", Some("7")),
                4 => with("code", Some("[\"InternalError\"]")),
                _ => with("system_error", Some("\"yes\"")),
            },
            Malformed::BadTimestamp => {
                let text = match variant % 5 {
                    0 => "\"yesterday\"",
                    1 => "\"2026-13-01T00:00:00Z\"",
                    2 => "\"2026-02-30T00:00:00+08:00\"",
                    3 => "\"2026-03-01T12:00:00\"",
                    _ => "\"2026-03-01T24:61:00Z\"",
                };
                with("timestamp", Some(text))
            }
            Malformed::TooLong => match variant % 4 {
                0 => with("tenant", Some(&long("t"))),
                1 => with("request_id", Some(&long("r"))),
                2 => with("action", Some(&long("a"))),
                // 43 characters of three bytes each.
                _ => with("tenant", Some(&long("租"))),
            },
            Malformed::RepeatedField => {
                let mut bytes = match variant % 3 {
                    0 => with("code", Some("null,\"code\":null")),
                    1 => with("request_id", Some(&format!("{id},\"request_id\":{id}"))),
                    _ => with("tenant", Some(&format!("{tenant},\"tenant\":\"someone-else\""))),
                };
                bytes.shrink_to_fit();
                bytes
            }
            Malformed::TooLarge => {
                let bytes = with("note", Some("\"\""));
                let padding = quoted(&"x".repeat(TOO_LARGE_BYTES - bytes.len()));
                with("note", Some(&padding))
            }
        };
        out.extend_from_slice(&payload);
    }
}

/// The tenant's field; one in 64 with its first character escaped.
fn tenant(name: &str, noise: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"\"tenant\":\"");
    let mut rest = name.as_bytes();
    if noise >> 40 & 63 == 0 && rest[0].is_ascii() {
        out.extend_from_slice(format!("\\u{:04x}", rest[0]).as_bytes());
        rest = &rest[1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

fn code(fields: &Fields<'_>, noise: u64, out: &mut Vec<u8>) {
    let code = fields.code;
    if code.name.is_empty() {
        // With the flag set there is no code: "OK, but failed" would be contradictory.
        if fields.flag != Flag::True {
            out.extend_from_slice(OK_FORMS[(noise >> 24 & 7) as usize].as_bytes());
        }
        return;
    }
    out.extend_from_slice(b",\"code\":");
    if code.number {
        out.extend_from_slice(code.name.as_bytes());
    } else {
        out.push(b'"');
        out.extend_from_slice(code.name.as_bytes());
        out.push(b'"');
    }
}

/// Fields that a gateway also sends and the counter ignores.
fn ignored(fields: &Fields<'_>, noise: u64, out: &mut Vec<u8>) {
    let mut number = itoa::Buffer::new();
    out.extend_from_slice(b",\"region\":\"");
    out.extend_from_slice(REGIONS[(noise >> 30) as usize % REGIONS.len()].as_bytes());
    out.extend_from_slice(b"\",\"version\":\"2020-02-10\",\"latency_ms\":");
    out.extend_from_slice(number.format(3 + (noise >> 32 & 0x1ff)).as_bytes());
    out.extend_from_slice(b",\"uin\":\"1000");
    digits((noise >> 10) % 100_000_000, 8, out);
    out.extend_from_slice(b"\",\"sdk_app_id\":1400");
    digits((noise >> 44) % 1_000_000, 6, out);
    out.extend_from_slice(b",\"user_agent\":\"");
    out.extend_from_slice(AGENTS[(noise >> 50 & 3) as usize].as_bytes());
    out.push(b'"');
    if fields.delivery > 1 {
        out.extend_from_slice(b",\"delivery\":");
        out.extend_from_slice(number.format(fields.delivery).as_bytes());
    }
    if noise >> 56 & 31 == 0 {
        // Looks like the real fields, one level down.
        out.extend_from_slice(
            b",\"context\":{\"tenant\":\"someone-else\",\"code\":\"InternalError\",\"system_error\":true,\"trace\":[\"a\\\"b\\\\c\",{\"x\":-1.5e-3}]}",
        );
    }
}

fn quoted(text: &str) -> String {
    format!("\"{text}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_floor_to_their_instant() {
        let mut times = Timestamps::new();
        // Leap day, year's end, local midnight, plain.
        for at_ms in [1_709_222_399_999, 1_767_225_599_999, 1_774_972_800_000, 1_772_294_400_123, 951_782_400_001] {
            for noise in 0..64 {
                let mut text = Vec::new();
                times.varied(at_ms, noise << 3 | noise & 7, &mut text);
                let text = String::from_utf8(text).expect("text");
                let parsed = chrono::DateTime::parse_from_rfc3339(&text).expect(&text);
                assert_eq!(parsed.timestamp_millis(), at_ms, "{text}");
            }
        }
    }

    #[test]
    fn civil_dates() {
        for day in (-10_000..100_000).step_by(17) {
            let expected = chrono::NaiveDate::from_num_days_from_ce_opt(day + 719_163).expect("date");
            let (year, month, date) = civil(i64::from(day));
            assert_eq!(format!("{year:04}-{month:02}-{date:02}"), expected.to_string());
        }
    }

    #[test]
    fn request_ids_are_unique() {
        let mut seen = std::collections::HashSet::new();
        let mut id = String::new();
        for number in 0..100_000 {
            request_id(number, 7, &mut id);
            assert_eq!(id.len(), 36);
            assert!(seen.insert(id.clone()));
        }
    }
}
