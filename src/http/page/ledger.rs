//! The ledger itself: is everything counted, by whom, what was refused, and what it is judged by.

use maud::{Markup, html};

use super::frame::{Place, Shown};
use super::visit::{Visit, number};
use crate::http::answer::ask::Problem;
use crate::http::api::service::instance::{self, Instance, ShardFlush};
use crate::http::api::service::{self, Documents, Shard, Shards};
use crate::report::statement::{reasons, words};
use crate::visible::{visible, visible_lines};

/// `/ledger`
pub(super) fn show(visit: &Visit<'_>) -> Result<Shown, Problem> {
    let (api, asked) = (visit.api, visit.asked.of_api(&[], &[]));
    let (shards, documents) = (service::shards(api, &asked)?, service::documents(api, &asked)?);
    let instance = instance::one(api, &asked)?;
    let title = visit.say("Ledger", "账本").to_owned();
    let content = html! {
        h1 { (title) }
        (troubles(visit, &shards, &instance))
        (totals(visit, &shards))
        (self::shards(visit, &shards, &instance))
        div.cards.pairs {
            (self::instance(visit, &instance))
            (dead_letters(visit, &instance))
            (settings(visit, &instance))
        }
        (self::documents(visit, &documents))
        p.links {
            a href="readyz" { "/readyz" } a href="metrics" { "/metrics" } a href="api/v1/openapi.json" { "/api/v1/openapi.json" }
        }
    };
    Ok(Shown { place: Place::Ledger, title, content, is_live: true })
}

/// What needs somebody's eyes, before everything else.
fn troubles(visit: &Visit<'_>, shards: &Shards, instance: &Instance) -> Markup {
    let troubled: Vec<_> =
        shards.shards.iter().filter(|s| s.stopped.is_some() || s.held.is_some() || !s.gaps.is_empty()).collect();
    html! {
        @for reason in &instance.not_ready { p.note.bad { (visit.say("This instance is not ready: ", "本实例未就绪：")) span lang="en" { (visible(&reason.detail)) } } }
        @if let Some(reload) = instance.reload.as_ref().filter(|reload| !reload.successful) {
            div.note.bad {
                (visit.say("The last reload failed; the previous configuration stays in force. ", "最近一次重新加载失败，沿用之前的配置。"))
                @if let Some(at) = &reload.at { (visit.time(at)) }
                pre lang="en" { (visible_lines(&reload.text)) }
            }
        }
        @if troubled.is_empty() { p { span.badge.ok { (visit.say("All shards are counted", "全部分片正常计数")) } } }
        @else {
            div.note.bad role="note" { ul { @for shard in troubled { li {
                strong { (visit.say("Shard ", "分片 ")) (shard.shard) ": " }
                @if let Some(why) = &shard.stopped { (visit.say("not counted: ", "已停止计数：")) span lang="en" { (visible(why)) } " " }
                @if let Some(why) = &shard.held { (visit.say("waits: ", "等待中：")) span lang="en" { (visible(why)) } " " }
                @for gap in &shard.gaps {
                    (visit.say("offsets ", "位点 ")) (gap.from_offset) "–" (gap.to_offset) " "
                    (if gap.calls { visit.say("were lost before they were counted. ", "在计数前丢失。") } else { visit.say("are missing for telling duplicates. ", "缺失，仅影响去重。") })
                }
            } } } }
        }
    }
}

/// Sums over the shards.
fn totals(visit: &Visit<'_>, shards: &Shards) -> Markup {
    let sum = |of: fn(&service::Totals) -> u64| {
        shards.shards.iter().filter_map(|shard| shard.totals.as_ref()).map(of).sum::<u64>()
    };
    let lag = shards.shards.iter().filter_map(|shard| shard.lag_seconds).max();
    let figure = |name: &str, much: u64| html! { div { dt { (name) } dd { strong { (number(much)) } } } };
    html! {
        dl.key {
            (figure(visit.say("Records seen", "已读取记录"), sum(|t| t.seen)))
            (figure(visit.say("Calls counted", "已计入调用"), sum(|t| t.counted)))
            (figure(visit.say("Duplicates", "重复"), sum(|t| t.duplicate)))
            (figure(visit.say("Malformed", "格式错误"), sum(|t| t.malformed)))
            (figure(visit.say("Quarantined", "隔离"), sum(|t| t.quarantined)))
            div { dt { (visit.say("Behind the source", "落后于数据源")) } dd { strong { (lag.map_or_else(|| "–".into(), |lag| visit.lasting(lag))) } } }
        }
    }
}

fn shards(visit: &Visit<'_>, shards: &Shards, instance: &Instance) -> Markup {
    html! {
        section {
            h2 #shards { (visit.say("Shards", "分片")) }
            div.scroll tabindex="0" role="region" aria-labelledby="shards" { table {
                thead { tr {
                    th.n scope="col" { (visit.say("Shard", "分片")) }
                    th scope="col" { (visit.say("State", "状态")) }
                    th scope="col" { (visit.say("Counted to", "已计至")) }
                    th.n scope="col" { (visit.say("Records behind", "落后记录数")) }
                    th.n scope="col" { (visit.say("Time behind", "落后时间")) }
                    th.n scope="col" { (visit.say("Next offset", "下一位点")) }
                    th.n scope="col" { (visit.say("Flushes", "提交次数")) }
                    th.n scope="col" { (visit.say("Last flush", "最近提交")) }
                    th scope="col" { (visit.say("Written by", "写入实例")) }
                    th.n scope="col" { (visit.say("Failing calls held", "失败调用明细")) }
                } }
                tbody { @for (place, shard) in shards.shards.iter().enumerate() { (row(visit, shard, instance.shards.get(place))) } }
            } }
        }
    }
}

fn row(visit: &Visit<'_>, shard: &Shard, flush: Option<&ShardFlush>) -> Markup {
    let (class, state) = match shard {
        Shard { stopped: Some(_), .. } => ("breach", visit.say("stopped", "已停止")),
        Shard { held: Some(_), .. } => ("warn_80", visit.say("waits", "等待中")),
        Shard { published: false, .. } => ("no_traffic", visit.say("being read", "读取中")),
        Shard { seq: None, .. } => ("no_traffic", visit.say("empty", "空")),
        _ => ("ok", visit.say("counted", "正常")),
    };
    html! {
        tr data-key=(shard.shard) {
            th.n scope="row" { (shard.shard) }
            td { span class={"badge " (class)} { (state) } }
            td { @match &shard.as_of { Some(as_of) => (visit.time(as_of)), None => "–" } }
            td.n { (number(shard.lag_records)) }
            td.n { (shard.lag_seconds.map_or_else(|| "–".into(), |lag| visit.lasting(lag))) }
            td.n { (shard.next_offset.map_or_else(|| "–".into(), |offset| offset.to_string())) }
            td.n { (number(shard.seq)) }
            td.n { (flush.and_then(|flush| flush.age_seconds).map_or_else(|| "–".into(), |age| visit.lasting(age))) }
            td { span.code { (shard.writer.as_deref().map_or("–".into(), visible)) } @if flush.is_some_and(|flush| flush.owned_here) { " " (visit.say("(this instance)", "（本实例）")) } }
            td.n { (number(shard.items)) }
        }
    }
}

/// The process that answers.
fn instance(visit: &Visit<'_>, instance: &Instance) -> Markup {
    let flushes = &instance.flushes;
    let seconds = |seconds: Option<f64>| seconds.map_or_else(|| "–".into(), |s| format!("{:.1} ms", s * 1000.0));
    let pair = |name: &str, value: Markup| html! { div { dt { (name) } dd { (value) } } };
    let count = |number: u64| html! { (self::number(number)) };
    html! {
        section.card aria-labelledby="instance" {
            h2 #instance { (visit.say("This instance", "本实例")) }
            dl {
                (pair(visit.say("Version", "版本"), html! { (instance.version) " (" (instance.commit) ")" }))
                (pair(visit.say("Started", "启动时间"), html! { @if let Some(at) = &instance.started_at { (visit.time(at)) " · " } (visit.lasting(instance.uptime_seconds)) }))
                (pair(visit.say("Documents loaded", "文件加载时间"), html! { @match &instance.documents_loaded_at { Some(at) => (visit.time(at)), None => "–" } }))
                (pair(visit.say("Last reload", "最近重新加载"), html! { @match &instance.reload {
                    None => (visit.say("none since the start", "启动后未重新加载")),
                    Some(reload) => { @if let Some(at) = &reload.at { (visit.time(at)) " · " } (if reload.successful { visit.say("worked", "成功") } else { visit.say("failed", "失败") }) }
                } }))
                (pair(visit.say("Flushes committed", "已提交次数"), count(flushes.committed)))
                (pair(visit.say("Flushes aborted", "已中止次数"), count(flushes.aborted + flushes.fatal + flushes.unknown)))
                (pair(visit.say("Flush, mean", "提交平均耗时"), html! { (seconds(flushes.mean_seconds)) }))
                (pair(visit.say("Flush, 99th percentile", "提交耗时（P99）"), html! { (seconds(flushes.p99_seconds)) }))
            }
        }
    }
}

/// What was not counted, by reason.
fn dead_letters(visit: &Visit<'_>, instance: &Instance) -> Markup {
    let letters = &instance.dead_letters;
    html! {
        section.card {
            h2 #letters { (visit.say("Rejected records", "拒收记录")) " " span.count { (number(letters.ledger)) } }
            @if letters.ledger_by_reason.is_empty() && letters.ledger_others == 0 { p.quiet { (visit.say("None.", "无。")) } }
            @else { div.scroll tabindex="0" role="region" aria-labelledby="letters" { table.plain {
                thead { tr { th scope="col" { (visit.say("Reason", "原因")) } th.n scope="col" { (visit.say("Records", "记录数")) } } }
                tbody {
                    @for row in &letters.ledger_by_reason { tr { th scope="row" { (reasons::rejected(&row.reason, visit.lang)) } td.n { (number(row.records)) } } }
                    @if letters.ledger_others > 0 { tr { th scope="row" { (visit.say("of months that were dropped, or beyond a tenant's limit", "已清除月份或超出租户上限")) } td.n { (number(letters.ledger_others)) } } }
                }
            } } }
        }
    }
}

/// What counting depends on.
fn settings(visit: &Visit<'_>, instance: &Instance) -> Markup {
    html! {
        section.card.wide aria-labelledby="settings" {
            h2 #settings { (visit.say("Counting settings", "计数设置")) }
            @for epoch in &instance.settings {
                details {
                    summary {
                        @let since = epoch.since.iter().map(|since| since.from_offset).min().unwrap_or_default();
                        (visit.say("From offset ", "自位点 ")) (since) " · " (epoch.since.len()) " " (visit.say("shards", "个分片"))
                        @if epoch.since.iter().any(|since| since.in_force) { " · " (visit.say("in force", "生效中")) }
                    }
                    pre { (serde_json::to_string_pretty(&epoch.settings).unwrap_or_default()) }
                }
            }
        }
    }
}

fn documents(visit: &Visit<'_>, documents: &Documents) -> Markup {
    html! {
        section {
            h2 #documents { (visit.say("Documents in force", "生效文件")) }
            div.scroll tabindex="0" role="region" aria-labelledby="documents" { table {
                thead { tr {
                    th scope="col" { (visit.say("Document", "文件")) }
                    th scope="col" { (visit.say("Kind", "类型")) }
                    th.n scope="col" { (visit.say("Entries", "条目")) }
                    th scope="col" { "SHA-256" }
                } }
                tbody { @for file in &documents.documents { tr {
                    th scope="row" { (visible(&file.name)) }
                    td { (words::kind(file.kind, visit.lang)) }
                    td.n { (number(file.rows as u64)) }
                    td.code { (file.sha256) }
                } } }
            } }
        }
    }
}
