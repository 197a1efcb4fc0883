//! When events arrive: busy in the day and quiet at night, by the clock of Asia/Shanghai, weekdays more than weekends.

/// Asia/Shanghai is UTC+8 all year since 1991.
pub(super) const ZONE_OFFSET_MS: i64 = 8 * 3_600_000;
pub(super) const DAY_MS: i64 = 86_400_000;

/// The rate changes at most this often.
const SLOT_MS: i64 = 600_000;
const WEEKEND: f64 = 0.6;
/// Relative rate by local hour, as call centres work.
const HOURS: [f64; 24] = [
    0.12, 0.08, 0.06, 0.05, 0.06, 0.10, 0.20, 0.45, 0.80, 1.20, 1.50, 1.50, 1.10, 1.00, 1.40, 1.60, 1.60, 1.50, 1.20,
    0.90, 0.80, 0.60, 0.40, 0.20,
];

/// Spreads a number of events over an interval. Asked in ascending order only.
#[derive(Debug, Clone)]
pub(super) struct Schedule {
    start_ms: i64,
    end_ms: i64,
    /// Events before each slot's start, and all of them at the end.
    before: Vec<f64>,
    slot: usize,
}

impl Schedule {
    pub(super) fn new(start_ms: i64, duration_ms: i64, events: u64, diurnal: bool) -> Self {
        let end_ms = start_ms + duration_ms.max(1);
        let mut before = vec![0.0];
        let mut total = 0.0;
        let mut slot_start = start_ms;
        while slot_start < end_ms {
            let length = SLOT_MS.min(end_ms - slot_start);
            total += length as f64 * if diurnal { relative_rate(slot_start) } else { 1.0 };
            before.push(total);
            slot_start += length;
        }
        let scale = events as f64 / total;
        before.iter_mut().for_each(|sum| *sum *= scale);
        Self { start_ms, end_ms, before, slot: 0 }
    }

    /// The instant at which `position` events have arrived.
    pub(super) fn at(&mut self, position: f64) -> i64 {
        while self.slot + 2 < self.before.len() && self.before[self.slot + 1] <= position {
            self.slot += 1;
        }
        let (low, high) = (self.before[self.slot], self.before[self.slot + 1]);
        let slot_start = self.start_ms + self.slot as i64 * SLOT_MS;
        let length = SLOT_MS.min(self.end_ms - slot_start);
        let within = ((position - low) / (high - low)).clamp(0.0, 1.0);
        (slot_start + (within * length as f64) as i64).min(self.end_ms - 1)
    }
}

fn relative_rate(at_ms: i64) -> f64 {
    let local = at_ms + ZONE_OFFSET_MS;
    let hour = local.rem_euclid(DAY_MS) / 3_600_000;
    // 1970-01-01 was a Thursday: Saturday is day 2, Sunday day 3.
    let weekend = matches!(local.div_euclid(DAY_MS).rem_euclid(7), 2 | 3);
    HOURS[hour as usize] * if weekend { WEEKEND } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-03-16 is a Monday; the instant is its local midnight.
    const MONDAY_MS: i64 = 1_773_590_400_000;

    #[test]
    fn monotone_and_inside() {
        for (days, diurnal) in [(1, true), (7, true), (3, false)] {
            let mut schedule = Schedule::new(MONDAY_MS, days * DAY_MS, 10_000, diurnal);
            let mut last = MONDAY_MS;
            for index in 0..10_000 {
                let at = schedule.at(f64::from(index) + 0.5);
                assert!(at >= last && at < MONDAY_MS + days * DAY_MS);
                last = at;
            }
        }
    }

    #[test]
    fn afternoons_and_weekdays_are_busier() {
        assert!(relative_rate(MONDAY_MS + 15 * 3_600_000) > 20.0 * relative_rate(MONDAY_MS + 3 * 3_600_000));
        assert!(relative_rate(MONDAY_MS + 15 * 3_600_000) > relative_rate(MONDAY_MS + 5 * DAY_MS + 15 * 3_600_000));
        assert_eq!(relative_rate(MONDAY_MS + 15 * 3_600_000), relative_rate(MONDAY_MS + 4 * DAY_MS + 15 * 3_600_000));
    }
}
