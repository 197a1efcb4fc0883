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
    /// Its help text: one line without backslashes.
    pub help: &'static str,
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
    ($($constant:ident $kind:ident $name:literal $help:literal)+) => {
        $(#[doc = concat!("`", $name, "`: ", $help)]
        pub const $constant: Metric = Metric { name: $name, kind: Kind::$kind, help: $help };)+

        /// Every metric family but the standard `process_*` ones.
        pub const ALL: &[Metric] = &[$($constant),+];
    };
}

metrics! {
    AVAILABILITY Gauge "sla_availability_ratio"
        "Availability of the service month so far, (T - U) / T; absent without traffic."
    AVAILABILITY_WORST_CASE Gauge "sla_availability_worst_case_ratio"
        "Availability if every ambiguous, unknown or unanswered call were a failure; absent without traffic."
    CALLS Gauge "sla_calls"
        "Calls of the service month by result; the sum over results is T."
    FAILURES_EXCLUDED Gauge "sla_failures_excluded"
        "Failures of the service month that a clause excludes; each failure once."
    FAILURES_LEFT Gauge "sla_failures_left"
        "Failures left before the tier applies; negative once there are too many."
    TIER_THRESHOLD Gauge "sla_tier_threshold_ratio"
        "Availability below which the tier of the service month's policy applies."
    BUDGET_CONSUMED Gauge "sla_error_budget_consumed_ratio"
        "Part of the service month's error budget that is used up; above 1 the target is missed. Absent without traffic."
    COMPENSATION Gauge "sla_compensation_ratio"
        "Part of the month's fee that would be owed as of now; 0 when the target is met."
    COMPENSATION_AMOUNT Gauge "sla_compensation_amount"
        "Money owed for the service month as of now, in the currency's unit; absent where no bill is known."
    COMPENSATION_NEXT Gauge "sla_compensation_next_amount"
        "Money that would be owed one tier further down; absent in the last tier and where no bill is known."
    CLAIM_OPENS Gauge "sla_claim_opens_timestamp_seconds"
        "First instant of the claim window, in seconds since 1970; only where something is owed and working days are known."
    CLAIM_CLOSES Gauge "sla_claim_closes_timestamp_seconds"
        "First instant after the claim window, in seconds since 1970; only where something is owed."
    CALLS_TO_RECOVER Gauge "sla_calls_to_recover"
        "Calls without a failure needed to leave the tier again; 0 when it does not apply."
    FAILURES Gauge "sla_failures"
        "Failures of the service month that count, by action and code: the five most frequent; sla_calls has all."
    BURN_RATE Gauge "sla_burn_rate"
        "Failures per call in the window, as a multiple of what the rest of the month can bear; 1 just uses up the budget."
    FORECAST_CALLS Gauge "sla_forecast_calls"
        "Calls of the service month at its end, from the tenant's own days; low and high bound 80 % of the cases."
    FORECAST_ALLOWED Gauge "sla_forecast_failures_allowed"
        "Failures that can still happen before the tier applies at the month's end; negative: clean calls cannot climb back."
    FORECAST_AVAILABILITY Gauge "sla_forecast_availability_ratio"
        "Availability at the month's end if the last hour goes on."
    FORECAST_AMOUNT Gauge "sla_forecast_compensation_amount"
        "Money owed at the month's end if the last hour goes on, in the currency's unit; absent where no bill is known."
    FORECAST_TIER Gauge "sla_forecast_tier_timestamp_seconds"
        "When the tier is reached if the last hour goes on, in seconds since 1970; absent if not before the month's end."
    MONTH_END Gauge "sla_month_end_timestamp_seconds"
        "First instant after the service month, in seconds since 1970."
    MONTH_COMPLETE Gauge "sla_month_complete"
        "1 when every call of the service month is known to be counted, else 0."
    TENANTS Gauge "sla_tenants"
        "Tenants by use of the current month's error budget, exported or not; the same on every instance."
    FLEET_CALLS Gauge "sla_fleet_calls"
        "Calls of all tenants by result, exported or not; the same on every instance."
    FLEET_EXCLUDED Gauge "sla_fleet_failures_excluded"
        "Failures of all tenants that a clause excludes; the same on every instance."
    FLEET_COMPENSATION Gauge "sla_fleet_compensation_amount"
        "Money owed to all tenants as of now, in the currency's unit; the same on every instance."
    FLEET_COMPENSATION_NEXT Gauge "sla_fleet_compensation_next_amount"
        "Money that would be owed if every tenant fell by one tier; the same on every instance."
    FLEET_FORECAST_AMOUNT Gauge "sla_fleet_forecast_compensation_amount"
        "Money owed to all tenants at the month's end if the last hour goes on; the same on every instance."
    FLEET_AVAILABILITY Gauge "sla_fleet_availability_ratio"
        "Availability over the calls of all tenants; the same on every instance. Absent without traffic."

    RECORDS Counter "sla_ledger_records_total"
        "Source records this process has read, by what became of them; committed or not."
    DUPLICATE_CONFLICTS Counter "sla_ledger_duplicate_conflicts_total"
        "Duplicates that said something else than the first call of that request id."
    DEAD_LETTERS Counter "sla_ledger_dead_letters_total"
        "Dead letters written, by reason."
    LIMIT Gauge "sla_ledger_limit"
        "A limit of counting, `limits` of the configuration: rows a tenant may have in a month, tenants a month may have; each in one partition."
    LIMIT_USED Gauge "sla_ledger_limit_used"
        "How far the limit is used up, in the owned partition that is nearest to it; at the limit, calls become dead letters."
    NEW_TENANTS Counter "sla_ledger_new_tenants_total"
        "Tenants that were neither in the ledger nor counted before."
    ALERTS Counter "sla_ledger_alerts_total"
        "Alerts that this process has told to the alerts topic."
    ALERTS_HELD Gauge "sla_ledger_alerts_held"
        "Tenants of this instance that are not judged at present, because a shard with their calls lags or is not whole."
    ALERTS_FOREIGN Gauge "sla_ledger_alerts_foreign"
        "Alerts in the ledger that a newer version has told: this one leaves them as they are until it is upgraded."
    REGISTRY_REJECTED Counter "sla_ledger_registry_rejected_total"
        "Messages of the registry topic that are no valid order or bill; the earlier version stays."
    LAG_RECORDS Gauge "sla_ledger_consumer_lag_records"
        "Records of an assigned source partition that are not in the ledger yet, counted or not."
    LAG_SECONDS Gauge "sla_ledger_consumer_lag_seconds"
        "Age of the oldest record of an assigned source partition that is not in the ledger yet, counted or not."
    FLUSH_DURATION Histogram "sla_ledger_flush_duration_seconds"
        "Time from the snapshot of a flush to the end of its transaction."
    STANDSTILL Histogram "sla_ledger_standstill_seconds"
        "Time for which counting stood still for one flush: its snapshot, what follows from its end, and waits for that end."
    FLUSHES Counter "sla_ledger_flushes_total"
        "Flushes by how their transaction ended."
    UNFLUSHED Gauge "sla_ledger_unflushed_bytes"
        "About what this process holds that no committed flush has written: dead letters and facts."
    READING_PAUSED Gauge "sla_ledger_reading_paused"
        "1 while no calls are read, because too much waits for a flush to commit; else 0."
    FLUSH_FAILURES Counter "sla_ledger_flush_failures_total"
        "Flushes that did not commit, by reason; what they held goes out with the next one."
    LAST_COMMIT Gauge "sla_ledger_last_commit_timestamp_seconds"
        "When this process last committed a flush, in seconds since 1970; its start before the first."
    COMMIT_OVERDUE Gauge "sla_ledger_commit_overdue_seconds"
        "For how long something has been waiting to be committed; 0 when nothing waits."
    FRESHNESS Summary "sla_ledger_freshness_seconds"
        "Time from a call's arrival in Kafka until it shows here; quantiles over the last minute, NaN without calls."
    LEDGER_BYTES Gauge "sla_ledger_ledger_bytes"
        "Bytes of values in the ledger topic, by kind: live (the last of each key), start (all that this process read when it started; what is above the live ones was not compacted)."
    TAKEOVERS Counter "sla_ledger_takeovers_total"
        "Shards taken over."
    PARKED_BYTES Gauge "sla_ledger_parked_bytes"
        "About what is kept of shards that the group has taken from this process, in case it gets them back (`parking`)."
    PARKED Counter "sla_ledger_parked_shards_total"
        "Shards that were parked, by what became of them: resumed where they were, or discarded and why (then read back)."
    FENCED Counter "sla_ledger_fenced_total"
        "Times this process was fenced and gave up its shards."
    MISMATCHES Counter "sla_ledger_control_total_mismatches_total"
        "Ledger partitions found not to add up; the shard stops."
    GAPS Counter "sla_ledger_gaps_total"
        "Gaps found in the source: kind calls are calls lost for good, kind window only weakens the search for duplicates."
    SERIES Gauge "sla_ledger_series"
        "Series with a tenant label in this exposition."
    SERIES_SUPPRESSED Gauge "sla_ledger_series_suppressed"
        "Series with a tenant label left out: by the plan (no reason to show the tenant), or by the limit."
    SERIES_LIMIT Gauge "sla_ledger_series_limit"
        "Most tenants this instance exports (metrics.max_tenants); sla_ledger_tenants_exported never exceeds it."
    TENANTS_EXPORTED Gauge "sla_ledger_tenants_exported"
        "Tenants with series in this exposition."
    RELOAD_SUCCESSFUL Gauge "sla_ledger_config_last_reload_successful"
        "1 when the last load of the configuration succeeded, else 0."
    RELOAD_TIMESTAMP Gauge "sla_ledger_config_last_reload_success_timestamp_seconds"
        "When the configuration in force was loaded, in seconds since 1970."
    RULINGS_REJECTED Gauge "sla_ledger_rulings_rejected"
        "Rulings that the ledger has applied and rulings.yaml drops or alters; above 0 no statement is issued."
    DOCUMENTS_INFO Gauge "sla_ledger_document_info"
        "Always 1; one series for each document of the contract in force, with the digest of its bytes."
    CALENDAR_MISSING Gauge "sla_calendar_missing"
        "1 for each calendar year whose working days a claim window needs and the policy's calendar does not have."
    READY Gauge "sla_ledger_ready"
        "1 when /readyz says ready, else 0."
    SHARDS_OWNED Gauge "sla_ledger_shards_owned"
        "Source partitions this process counts."
    SHARDS_STOPPED Gauge "sla_ledger_shards_stopped"
        "Shards this process owns but does not count, because their ledger needs a repair."
    SHARDS_HELD Gauge "sla_ledger_shards_held"
        "Shards of this process that wait behind a record whose timestamp lies in the future."
    TOPIC_FAULTS Gauge "sla_ledger_topic_faults"
        "1 while this is wrong with the calls topic or the ledger topic, else 0; /readyz says what to do."
    OFFSET_DIFFERS Counter "sla_ledger_offset_differs_total"
        "Takeovers at which the consumer group's offset was not the ledger's; the ledger's was used."
    SPLIT_TENANTS Gauge "sla_ledger_split_tenants"
        "Tenants whose calls lie in several partitions, where duplicates across partitions cannot be found."
    NOTIFICATIONS Counter "sla_ledger_notifications_total"
        "Alerts told to receivers, by what became of them: delivered, retried (an attempt failed), rejected, dropped (superseded or given up)."
    NOTIFICATIONS_PENDING Gauge "sla_ledger_notifications_pending"
        "Alerts read from the topic and not yet told to the receiver."
    BUILD_INFO Gauge "sla_ledger_build_info"
        "Always 1; the labels tell the build."
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_conventions() {
        for (i, metric) in ALL.iter().enumerate() {
            let Metric { name, kind, help } = metric;
            assert!(name.starts_with("sla_") && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
            assert!(help.ends_with('.') && !help.contains(['\\', '\n']), "{name}");
            assert!(ALL[..i].iter().all(|m| m.name != *name), "{name} stands twice");
        }
    }
}
