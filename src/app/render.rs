//! The whole exposition: the tenants this instance exports, then the process.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use crate::config::{Config, ExportedTenants};
use crate::domain::calendar::LocalClock;
use crate::domain::standing::ServiceMonth;
use crate::kafka::tail::now_ms;
use crate::metrics::Format;
use crate::metrics::exporter::{CardinalityPlan, Exported, Exporter, TenantView};
use crate::metrics::process::ProcessMetrics;
use crate::view::View;

/// Writes one exposition: the tenants this instance exports, then the process.
pub(super) fn render(
    view: Arc<View>,
    config: Arc<ArcSwap<Config>>,
    metrics: Arc<ProcessMetrics>,
) -> impl Fn(Format, &mut Vec<u8>) + Send + Sync {
    let exporter = Mutex::new(Exporter::new());
    move |format, out| {
        let config = config.load_full();
        let zone = config.counting.time_zone;
        let mut exporter = exporter.lock().unwrap_or_else(PoisonError::into_inner);
        let now_ms = now_ms();
        let today = LocalClock::new(zone).day(now_ms);
        // The home first: then the value is as new as the home requires.
        let (home, value) = (view.home(), view.published());
        let plan = plan(&config);
        let known = RefCell::new(HashMap::new());
        let Some(value) = value else {
            crate::metrics::write(&Exporter::new(), &metrics, format, out);
            return;
        };
        let look = TenantView {
            is_home: |tenant: &str| home.speaks_for(tenant),
            complete: |_: &str, month: &ServiceMonth| {
                let period = month.period;
                *known
                    .borrow_mut()
                    .entry(period)
                    .or_insert_with(|| view.incomplete(&value.book, period, zone).is_empty())
                    && value.book.unadmitted(month).is_empty()
            },
            windows: |tenant: &str| value.standings.windows(tenant, now_ms),
            today,
            now_ms,
            zone,
            plan: &plan,
        };
        metrics.set_split_tenants(value.standings.split_tenants());
        exporter.collect(&value.standings, &look);
        crate::metrics::write(&exporter, &metrics, format, out);
    }
}

fn plan(config: &Config) -> CardinalityPlan {
    let metrics = &config.metrics;
    let tenants = match metrics.tenants {
        ExportedTenants::AtRisk => Exported::AtRisk,
        ExportedTenants::All => Exported::All,
    };
    CardinalityPlan { tenants, top: metrics.top, allow: metrics.allow.clone(), max_tenants: metrics.max_tenants }
}
