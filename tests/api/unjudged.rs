//! Shards by which the desk judges no tenant.

use sla_ledger::pipeline::record::Gap;

use super::*;

/// Shard, reason and words.
fn unjudged(service: &Service) -> Value {
    let shards = service.ok("/api/v1/alerts")["unjudged"].clone();
    shards.as_array().unwrap().iter().map(|one| json!([one["shard"], one["reason"], one["why"]])).collect()
}

#[test]
fn a_shard_that_lags_or_lost_calls_is_not_judged() {
    let service = Service::start(3, documents());
    let gap = Gap { from_offset: 5, to_offset: 900, calls: true, watermark_ms: Some(CALLED), until_ms: None };
    Writer::new(0, &service).flush(CALLED);
    Writer::new(1, &service).flush_as(Checkpoint { gaps: vec![gap], ..Checkpoint::default() });
    Writer::new(2, &service).flush(CALLED);
    let unknown = "how far its ledger is behind the calls topic is unknown";
    let lost = "calls were lost, and none that came after them has been counted yet";
    assert_eq!(unjudged(&service), json!([[0, "lag", unknown], [1, "gap", lost], [2, "lag", unknown]]));
    let mut watch = LagWatch::new(3);
    (0..2).for_each(|shard| _ = watch.seen(shard, 100, Some(100), NOW));
    watch.seen(2, 130, Some(100), NOW);
    watch.found(2, 100, Found::Record { offset: 110, timestamp_ms: Some(NOW - 121_000) });
    service.view.set_source_ends(watch.source_ends());
    let behind = "its ledger is 121 s behind the calls topic";
    assert_eq!(unjudged(&service), json!([[1, "gap", lost], [2, "lag", behind]]));
    // The instance knows more of a shard of its own.
    let stopped = "the brokers have other ids for the topic";
    service.view.set_stopped([(2, stopped.to_owned())].into());
    assert_eq!(unjudged(&service), json!([[1, "gap", lost], [2, "lag", stopped]]));
}
