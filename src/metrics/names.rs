//! Every metric: its name, its type and its help text, in one place.
//!
//! `sla_*` is what the contract says, `sla_ledger_*` what the process does. Base units, `_total` on counters only, ratios
//! between 0 and 1. A month that begins again is a gauge.

/// A metric family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// The family's name.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Its labels, in the order in which they are written; `le` and `quantile` of histograms and summaries too.
    pub labels: &'static [&'static str],
    /// Its help text: one line without backslashes and double quotes.
    pub help: &'static str,
}

impl Metric {
    /// The unit that its name ends with, if it has one.
    pub fn unit(&self) -> Option<&'static str> {
        let last = self.name.trim_end_matches("_total").rsplit('_').next();
        last.and_then(|last| ["seconds", "bytes", "ratio"].into_iter().find(|unit| *unit == last))
    }
}

/// The type of a metric family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, from 0 at the start of the process.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Cumulative buckets.
    Histogram,
    /// Quantiles computed here.
    Summary,
}

impl Kind {
    /// As in a `# TYPE` line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Summary => "summary",
        }
    }
}

macro_rules! metrics {
    ($($constant:ident $kind:ident $name:literal [$($label:ident)*] $help:literal)+) => {
        $(#[doc = concat!("`", $name, "`: ", $help)]
        pub const $constant: Metric =
            Metric { name: $name, kind: Kind::$kind, labels: &[$(stringify!($label)),*], help: $help };)+

        /// Every metric family but the standard `process_*` ones.
        pub const ALL: &[Metric] = &[$($constant),+];
    };
}

metrics! {
    AVAILABILITY Gauge "sla_availability_ratio" [tenant month]
        "Availability of the service month so far, (T - U) / T; absent without traffic."
    AVAILABILITY_WORST_CASE Gauge "sla_availability_worst_case_ratio" [tenant month]
        "Availability if every ambiguous, unknown or unanswered call were a failure; absent without traffic."
    CALLS Gauge "sla_calls" [tenant month result]
        "Calls of the service month by result; the sum over results is T."
    FAILURES_EXCLUDED Gauge "sla_failures_excluded" [tenant month clause]
        "Failures of the service month that a clause excludes; each failure is counted once."
    FAILURES_LEFT Gauge "sla_failures_left" [tenant month tier]
        "Failures left before the tier is reached; negative once there are too many."
    TIER_THRESHOLD Gauge "sla_tier_threshold_ratio" [tenant month tier]
        "Availability below which the tier of the service month's policy applies."
    BUDGET_CONSUMED Gauge "sla_error_budget_consumed_ratio" [tenant month]
        "Part of the service month's error budget that is used; above 1 the target is missed. Absent without traffic."
    COMPENSATION Gauge "sla_compensation_ratio" [tenant month]
        "Part of the month's fee that is owed as of now; 0 when the target is met."
    COMPENSATION_AMOUNT Gauge "sla_compensation_amount" [tenant month currency]
        "Money owed for the service month as of now, in the currency's unit; absent without a bill."
    COMPENSATION_NEXT Gauge "sla_compensation_next_amount" [tenant month currency]
        "Money that would be owed one tier further down; absent in the last tier and without a bill."
    CLAIM_OPENS Gauge "sla_claim_opens_timestamp_seconds" [tenant month]
        "Start of the claim window, in seconds since 1970; only where something is owed and the working days are known."
    CLAIM_CLOSES Gauge "sla_claim_closes_timestamp_seconds" [tenant month]
        "End of the claim window (the first instant after it), in seconds since 1970; only where something is owed."
    CALLS_TO_RECOVER Gauge "sla_calls_to_recover" [tenant month tier]
        "Calls without a failure needed to leave the tier; 0 when it is not reached."
    FAILURES Gauge "sla_failures" [tenant month action code]
        "Failures of the service month that count, by action and code: the five most frequent; sla_calls has all."
    BURN_RATE Gauge "sla_burn_rate" [tenant month window]
        "Failures per call in the window, as a multiple of the rate that would use up the budget at the month's end."
    FORECAST_CALLS Gauge "sla_forecast_calls" [tenant month bound]
        "Calls of the service month at its end, from the tenant's own days; low and high bound 80 % of the cases."
    FORECAST_ALLOWED Gauge "sla_forecast_failures_allowed" [tenant month tier]
        "Failures that may still happen before the tier applies at the month's end; negative: calls without failures cannot recover it."
    FORECAST_AVAILABILITY Gauge "sla_forecast_availability_ratio" [tenant month]
        "Availability at the month's end if the last hour continues."
    FORECAST_AMOUNT Gauge "sla_forecast_compensation_amount" [tenant month currency]
        "Money owed at the month's end if the last hour continues, in the currency's unit; absent without a bill."
    FORECAST_TIER Gauge "sla_forecast_tier_timestamp_seconds" [tenant month tier]
        "When the tier is reached if the last hour continues, in seconds since 1970; absent if not before the month's end."
    MONTH_END Gauge "sla_month_end_timestamp_seconds" [tenant month]
        "End of the service month (the first instant after it), in seconds since 1970."
    MONTH_COMPLETE Gauge "sla_month_complete" [tenant month]
        "1 when every call of the service month is known to be counted, else 0."
    TENANTS Gauge "sla_tenants" [state]
        "Tenants by use of the current month's error budget, exported or not; the same on every instance."
    FLEET_CALLS Gauge "sla_fleet_calls" [month result]
        "Calls of all tenants by result, exported or not; the same on every instance."
    FLEET_EXCLUDED Gauge "sla_fleet_failures_excluded" [month clause]
        "Failures of all tenants that a clause excludes; the same on every instance."
    FLEET_COMPENSATION Gauge "sla_fleet_compensation_amount" [month currency]
        "Money owed to all tenants as of now, in the currency's unit; the same on every instance."
    FLEET_COMPENSATION_NEXT Gauge "sla_fleet_compensation_next_amount" [month currency]
        "Money that would be owed if every tenant fell by one tier; the same on every instance."
    FLEET_FORECAST_AMOUNT Gauge "sla_fleet_forecast_compensation_amount" [month currency]
        "Money owed to all tenants at the month's end if the last hour continues; the same on every instance."
    FLEET_AVAILABILITY Gauge "sla_fleet_availability_ratio" [month]
        "Availability over the calls of all tenants; the same on every instance. Absent without traffic."

    RECORDS Counter "sla_ledger_records_total" [outcome]
        "Source records that this process has read, by outcome, committed or not."
    DUPLICATE_CONFLICTS Counter "sla_ledger_duplicate_conflicts_total" []
        "Duplicates that differ from the first call with their request id."
    DEAD_LETTERS Counter "sla_ledger_dead_letters_total" [reason]
        "Dead letters written, by reason."
    LIMIT Gauge "sla_ledger_limit" [limit]
        "A limit of counting (`limits` in the configuration), for one partition and month."
    LIMIT_USED Gauge "sla_ledger_limit_used" [limit]
        "Use of the limit in the owned partition that is nearest to it; at the limit, calls are quarantined."
    NEW_TENANTS Counter "sla_ledger_new_tenants_total" []
        "Tenants that were not in the ledger before."
    ALERTS Counter "sla_ledger_alerts_total" [alert status]
        "Alerts that this process has published in the alerts topic."
    ALERTS_HELD Gauge "sla_ledger_alerts_held" [reason]
        "Tenants of this instance that are not evaluated now, because a shard with their calls lags or is incomplete."
    ALERTS_FOREIGN Gauge "sla_ledger_alerts_foreign" []
        "Alerts in the ledger that a newer version has published; this version leaves them unchanged."
    REGISTRY_REJECTED Counter "sla_ledger_registry_rejected_total" []
        "Rejected messages of the registry topic; the earlier version of the order or bill is kept."
    LAG_RECORDS Gauge "sla_ledger_consumer_lag_records" [partition]
        "Records of an assigned source partition that are not in the ledger yet, counted or not."
    LAG_SECONDS Gauge "sla_ledger_consumer_lag_seconds" [partition]
        "Age of the oldest record of an assigned source partition that is not in the ledger yet, counted or not."
    FLUSH_DURATION Histogram "sla_ledger_flush_duration_seconds" [le]
        "Time from the snapshot of a flush to the end of its transaction."
    STANDSTILL Histogram "sla_ledger_standstill_seconds" [le]
        "Time that counting waited for one flush: its snapshot, its completion, and waits for it."
    FLUSHES Counter "sla_ledger_flushes_total" [result]
        "Flushes by the outcome of their transaction."
    UNFLUSHED Gauge "sla_ledger_unflushed_bytes" [kind]
        "Approximate size of what no committed flush has written yet: dead letters and facts."
    READING_PAUSED Gauge "sla_ledger_reading_paused" []
        "1 while reading is paused because too much waits for a commit, else 0."
    FLUSH_FAILURES Counter "sla_ledger_flush_failures_total" [reason]
        "Flushes that did not commit, by reason; the next one writes the same again."
    LAST_COMMIT Gauge "sla_ledger_last_commit_timestamp_seconds" []
        "Time of this process's last committed flush, in seconds since 1970; its start before the first."
    COMMIT_OVERDUE Gauge "sla_ledger_commit_overdue_seconds" []
        "How long something has been waiting for a commit; 0 when nothing waits."
    FRESHNESS Summary "sla_ledger_freshness_seconds" [quantile]
        "Time from a call's arrival in Kafka until it is visible here; quantiles over the last minute, NaN without calls."
    LEDGER_BYTES Gauge "sla_ledger_ledger_bytes" [kind]
        "Size of the values in the ledger topic: live, the last of each key; start, all that was read at the start. The difference was not compacted."
    TAKEOVERS Counter "sla_ledger_takeovers_total" []
        "Shards taken over."
    PARKED_BYTES Gauge "sla_ledger_parked_bytes" []
        "Approximate memory of parked shards, kept in case the group gives them back (`parking` in the configuration)."
    PARKED Counter "sla_ledger_parked_shards_total" [result]
        "Parked shards by result: resumed, or why they were discarded and read back."
    FENCED Counter "sla_ledger_fenced_total" []
        "Times this process was fenced and lost its shards."
    MISMATCHES Counter "sla_ledger_control_total_mismatches_total" []
        "Ledger partitions whose control totals do not match; the shard stops."
    GAPS Counter "sla_ledger_gaps_total" [kind]
        "Gaps in the source. calls: calls are lost. window: only the search for duplicates is weakened."
    SERIES Gauge "sla_ledger_series" []
        "Series with a tenant label in this exposition."
    SERIES_SUPPRESSED Gauge "sla_ledger_series_suppressed" [reason]
        "Series with a tenant label that are left out: by the plan (the tenant is not at risk), or by the limit."
    SERIES_LIMIT Gauge "sla_ledger_series_limit" []
        "The most tenants this instance exports (`metrics.max_tenants`)."
    TENANTS_EXPORTED Gauge "sla_ledger_tenants_exported" []
        "Tenants with series in this exposition."
    RELOAD_SUCCESSFUL Gauge "sla_ledger_config_last_reload_successful" []
        "1 when the last load of the configuration succeeded, else 0."
    RELOAD_TIMESTAMP Gauge "sla_ledger_config_last_reload_success_timestamp_seconds" []
        "Time at which the current configuration was loaded, in seconds since 1970."
    RULINGS_REJECTED Gauge "sla_ledger_rulings_rejected" []
        "Applied rulings that rulings.yaml drops or alters; above 0 no statement is issued."
    DOCUMENTS_INFO Gauge "sla_ledger_document_info" [kind name sha256]
        "Always 1; one series for each of the contract's documents, with the digest of its bytes."
    CALENDAR_MISSING Gauge "sla_calendar_missing" [policy year]
        "1 for each calendar year that a claim window needs and the policy's calendar does not have."
    READY Gauge "sla_ledger_ready" []
        "1 when /readyz answers 200, else 0."
    SHARDS_OWNED Gauge "sla_ledger_shards_owned" []
        "Source partitions that this process counts."
    SHARDS_STOPPED Gauge "sla_ledger_shards_stopped" []
        "Shards of this process that are not counted because their ledger needs a repair."
    SHARDS_HELD Gauge "sla_ledger_shards_held" []
        "Shards of this process that wait behind a record with a timestamp in the future."
    TOPIC_FAULTS Gauge "sla_ledger_topic_faults" [fault]
        "1 while the calls topic or the ledger topic has this fault, else 0; /readyz says what to do."
    OFFSET_DIFFERS Counter "sla_ledger_offset_differs_total" []
        "Takeovers at which the group's committed offset differed from the ledger's; the ledger's was used."
    SPLIT_TENANTS Gauge "sla_ledger_split_tenants" []
        "Tenants with calls in several partitions; duplicates across partitions are not detected."
    NOTIFICATIONS Counter "sla_ledger_notifications_total" [receiver outcome]
        "Notifications of receivers by outcome: delivered, retried (an attempt failed), rejected, dropped (superseded or given up)."
    NOTIFICATIONS_PENDING Gauge "sla_ledger_notifications_pending" [receiver]
        "Alerts read from the topic and not yet delivered to the receiver."
    BUILD_INFO Gauge "sla_ledger_build_info" [version revision]
        "Always 1; build information in labels."
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_conventions() {
        for (i, metric) in ALL.iter().enumerate() {
            let Metric { name, kind, help, .. } = metric;
            assert!(name.starts_with("sla_") && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
            assert!(help.ends_with('.') && !help.contains(['\\', '\n', '"']), "{name}");
            assert!(ALL[..i].iter().all(|m| m.name != *name), "{name} is there twice");
        }
    }
}
