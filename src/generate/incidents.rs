//! Periods in which calls fail.

/// All incidents of a stream, and which of them are on.
#[derive(Debug, Clone, Default)]
pub(super) struct Incidents {
    all: Vec<Window>,
    active: Vec<usize>,
    /// When `active` has to be recomputed.
    next_change_ms: Option<i64>,
}

/// One incident at its instants, half-open.
#[derive(Debug, Clone)]
pub(super) struct Window {
    /// By rank; `None` = all tenants.
    pub(super) tenant: Option<u32>,
    pub(super) from_ms: i64,
    pub(super) to_ms: i64,
    /// Of the calls.
    pub(super) share: f64,
    /// Tenants steered to a level stay where they are.
    pub(super) spares_troubled: bool,
}

impl Incidents {
    pub(super) fn add(&mut self, window: Window) {
        self.all.push(window);
        self.next_change_ms = Some(i64::MIN);
    }

    /// The share of a tenant's calls that fail at an instant; of several incidents the worst. Instants ascend.
    pub(super) fn share(&mut self, tenant: u32, troubled: bool, at_ms: i64) -> f64 {
        if self.next_change_ms.is_some_and(|change| at_ms >= change) {
            let on = |window: &Window| (window.from_ms..window.to_ms).contains(&at_ms);
            self.active = (0..self.all.len()).filter(|&index| on(&self.all[index])).collect();
            let edges = self.all.iter().flat_map(|window| [window.from_ms, window.to_ms]);
            self.next_change_ms = edges.filter(|&edge| edge > at_ms).min();
        }
        let windows = self.active.iter().map(|&index| &self.all[index]);
        windows
            .filter(|window| window.tenant.is_none_or(|only| only == tenant) && !(troubled && window.spares_troubled))
            .fold(0.0, |worst, window| window.share.max(worst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_incident_counts_while_it_lasts() {
        let window =
            |tenant, from_ms, to_ms, share| Window { tenant, from_ms, to_ms, share, spares_troubled: tenant.is_none() };
        let mut incidents = Incidents::default();
        incidents.add(window(Some(1), 10, 20, 0.5));
        incidents.add(window(None, 15, 30, 0.1));
        let cases = [
            (9, 0.0, 0.0),
            (10, 0.5, 0.0),
            (15, 0.5, 0.1),
            (19, 0.5, 0.1),
            (20, 0.1, 0.1),
            (29, 0.1, 0.1),
            (30, 0.0, 0.0),
        ];
        for (at_ms, first, second) in cases {
            assert_eq!(
                (incidents.share(1, false, at_ms), incidents.share(2, false, at_ms)),
                (first, second),
                "{at_ms}"
            );
            assert_eq!(incidents.share(2, true, at_ms), 0.0);
        }
    }
}
