//! Local days and months in the ledger's time zone. Intervals are half-open: a call at local midnight belongs to
//! the new day (clause 1.2).

use std::fmt;

use chrono::{DateTime, Datelike, FixedOffset, NaiveDate, Offset, TimeDelta, TimeZone, Timelike};
use chrono_tz::Tz;

const DAY_MS: i64 = 86_400_000;
/// Instants further from 1970 than this (about 200,000 years) are clamped to it: chrono has no days beyond.
const FARTHEST_MS: i64 = 6_300_000_000_000_000;

/// Reads an RFC 3339 instant with its offset. All instants in all inputs are read by this function.
///
/// A leap second (23:59:60 UTC at the end of a month, written with any offset) is read as the second before it, so that it
/// belongs to the month that it ends (clause 1.4). `:60` at any other instant is not an instant.
pub fn instant(text: &str) -> Option<DateTime<FixedOffset>> {
    const SECOND_NS: u32 = 1_000_000_000;
    let read = DateTime::parse_from_rfc3339(text).ok()?;
    // chrono accepts second 60 of any minute, as a second 59 of up to 2 s.
    if read.nanosecond() < SECOND_NS {
        return Some(read);
    }
    let before = read.with_nanosecond(read.nanosecond() - SECOND_NS)?;
    let last = before.naive_utc();
    let month_ends = (last + TimeDelta::seconds(1)).month() != last.month();
    month_ends.then_some(before)
}

/// A calendar day in the ledger's time zone, as days since 1970-01-01.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LocalDay(pub i32);

/// A calendar month in the ledger's time zone, as months since January of year 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Month(pub i32);

impl LocalDay {
    /// The day as a date; days chrono cannot represent become its first or last date.
    pub fn date(self) -> NaiveDate {
        NaiveDate::from_epoch_days(self.0).unwrap_or(if self.0 < 0 { NaiveDate::MIN } else { NaiveDate::MAX })
    }

    /// The month that contains the day.
    pub fn month(self) -> Month {
        let date = self.date();
        Month(date.year() * 12 + date.month0() as i32)
    }

    /// Day of the month, 1–31.
    pub fn day_of_month(self) -> u32 {
        self.date().day()
    }
}

impl From<NaiveDate> for LocalDay {
    fn from(date: NaiveDate) -> Self {
        Self(date.to_epoch_days())
    }
}

impl fmt::Display for LocalDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.date())
    }
}

impl std::str::FromStr for LocalDay {
    type Err = chrono::ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // As written in the ledger's keys: parsed once per record.
        if let [y0, y1, y2, y3, b'-', m0, m1, b'-', d0, d1] = text.as_bytes() {
            let number = |digits: &[&u8]| {
                digits
                    .iter()
                    .try_fold(0u32, |n, digit| digit.is_ascii_digit().then(|| n * 10 + u32::from(**digit - b'0')))
            };
            let date = (number(&[y0, y1, y2, y3]), number(&[m0, m1]), number(&[d0, d1]));
            if let (Some(year), Some(month), Some(day)) = date
                && let Some(date) = NaiveDate::from_ymd_opt(year as i32, month, day)
            {
                return Ok(date.into());
            }
        }
        Ok(NaiveDate::parse_from_str(text, "%Y-%m-%d")?.into())
    }
}

impl Month {
    /// The month's first day.
    pub fn first_day(self) -> LocalDay {
        NaiveDate::from_ymd_opt(self.0.div_euclid(12), self.0.rem_euclid(12) as u32 + 1, 1)
            .unwrap_or(NaiveDate::MIN)
            .into()
    }

    /// The month's last day.
    pub fn last_day(self) -> LocalDay {
        LocalDay(self.next().first_day().0 - 1)
    }

    /// The month after this one.
    pub fn next(self) -> Month {
        Month(self.0 + 1)
    }

    /// The local day with this number (1–31) in the month.
    pub fn day(self, day_of_month: u32) -> LocalDay {
        LocalDay(self.first_day().0 + day_of_month as i32 - 1)
    }
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.0.div_euclid(12), self.0.rem_euclid(12) + 1)
    }
}

impl std::str::FromStr for Month {
    type Err = chrono::ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(LocalDay::from_str(&format!("{text}-01"))?.month())
    }
}

/// Turns instants into local days; caches the last day, since calls come nearly in order of time.
#[derive(Debug, Clone)]
pub struct LocalClock {
    zone: Tz,
    day: LocalDay,
    from_ms: i64,
    to_ms: i64,
}

impl LocalClock {
    /// A clock for this zone.
    pub fn new(zone: Tz) -> Self {
        Self { zone, day: LocalDay(0), from_ms: 0, to_ms: 0 }
    }

    /// The local day of an instant given in milliseconds since 1970-01-01T00:00:00Z.
    #[inline]
    pub fn day(&mut self, time_ms: i64) -> LocalDay {
        if time_ms < self.from_ms || time_ms >= self.to_ms {
            self.look_up(time_ms);
        }
        self.day
    }

    fn look_up(&mut self, time_ms: i64) {
        let time_ms = time_ms.clamp(-FARTHEST_MS, FARTHEST_MS);
        let offset_ms = self.offset_ms(time_ms);
        let day = (time_ms + offset_ms).div_euclid(DAY_MS);
        let (from, to) = (day * DAY_MS - offset_ms, (day + 1) * DAY_MS - offset_ms);
        self.day = LocalDay(day as i32);
        // A day on which the zone's offset changes is not cached: it may be shorter, longer or in two pieces.
        let steady = self.offset_ms(from) == offset_ms && self.offset_ms(to - 1) == offset_ms;
        (self.from_ms, self.to_ms) = if steady { (from, to) } else { (0, 0) };
    }

    fn offset_ms(&self, time_ms: i64) -> i64 {
        DateTime::from_timestamp_millis(time_ms)
            .map_or(0, |t| i64::from(self.zone.offset_from_utc_datetime(&t.naive_utc()).fix().local_minus_utc()) * 1000)
    }
}

/// The instant a local day begins, in milliseconds since 1970-01-01T00:00:00Z.
pub fn day_start_ms(zone: Tz, day: LocalDay) -> i64 {
    let midnight = day.date().and_hms_opt(0, 0, 0).unwrap_or_default();
    match zone.from_local_datetime(&midnight) {
        chrono::LocalResult::Single(t) => t.timestamp_millis(),
        chrono::LocalResult::Ambiguous(first, _) => first.timestamp_millis(),
        // Midnight does not exist (a clock change): the day begins at the change.
        chrono::LocalResult::None => (1..=180)
            .find_map(|minute| zone.from_local_datetime(&(midnight + chrono::Duration::minutes(minute))).earliest())
            .map_or_else(|| midnight.and_utc().timestamp_millis(), |t| t.timestamp_millis()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn midnight_belongs_to_the_new_day() {
        let mut clock = LocalClock::new(chrono_tz::Asia::Shanghai);
        assert_eq!(clock.day(1774972799999).to_string(), "2026-03-31");
        assert_eq!(clock.day(1774972800000).to_string(), "2026-04-01");
        assert_eq!(clock.day(1774972800000).month().to_string(), "2026-04");
    }

    #[test]
    fn days_agree_with_chrono_in_zones_with_clock_changes() {
        for zone in [
            chrono_tz::Asia::Shanghai,
            chrono_tz::America::New_York,
            chrono_tz::Africa::Cairo,
            chrono_tz::Asia::Kathmandu,
            chrono_tz::Australia::Lord_Howe,
        ] {
            let mut clock = LocalClock::new(zone);
            let mut time = 1_700_000_000_123i64;
            while time < 1_760_000_000_000 {
                let expected = zone.timestamp_millis_opt(time).single().expect("valid").date_naive();
                assert_eq!(clock.day(time).date(), expected, "{zone} {time}");
                let start = day_start_ms(zone, expected.into());
                assert!(
                    start <= time && zone.timestamp_millis_opt(start).single().expect("valid").date_naive() == expected,
                    "{zone} {time}"
                );
                time += 1_234_567;
            }
        }
    }

    #[test]
    fn the_ends_of_time_have_a_day() {
        let mut clock = LocalClock::new(chrono_tz::Asia::Shanghai);
        assert!(clock.day(i64::MIN) < clock.day(0) && clock.day(0) < clock.day(i64::MAX));
        assert!(clock.day(i64::MIN).month() < clock.day(i64::MAX).month());
    }

    #[test]
    fn months_and_days_convert_both_ways() {
        for text in ["1969-12", "1970-01", "2024-02", "2026-03"] {
            let month: Month = text.parse().expect("valid");
            assert_eq!(month.to_string(), text);
            assert_eq!(month.first_day().month(), month);
            assert_eq!(month.day(28).day_of_month(), 28);
            assert_eq!(month.next().first_day().month(), month.next());
            assert_eq!((month.last_day().month(), month.last_day().0 + 1), (month, month.next().first_day().0));
        }
    }
}
