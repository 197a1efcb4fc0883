//! The ledger itself: is everything counted, by whom, what was refused, and what it is judged by.

use maud::{Markup, html};

use super::frame::{Place, Shown};
use super::visit::{Visit, number};
use crate::http::answer::ask::Problem;
use crate::http::api::service::{self, Documents, Shard, Shards};
use crate::report::statement::words;
use crate::visible::visible;

/// `/ledger`
pub(super) fn show(visit: &Visit<'_>) -> Result<Shown, Problem> {
    let (api, asked) = (visit.api, visit.asked.of_api(&[], &[]));
    let (shards, documents) = (service::shards(api, &asked)?, service::documents(api, &asked)?);
    let title = visit.say("Ledger", "账本").to_owned();
    let content = html! {
        h1 { (title) }
        (troubles(visit, &shards))
        (totals(visit, &shards))
        (self::shards(visit, &shards))
        (self::documents(visit, &documents))
        p.links {
            a href="readyz" { "/readyz" } a href="metrics" { "/metrics" } a href="api/v1/openapi.json" { "/api/v1/openapi.json" }
        }
    };
    Ok(Shown { place: Place::Ledger, title, content, is_live: true })
}

/// What needs somebody's eyes, before everything else.
fn troubles(visit: &Visit<'_>, shards: &Shards) -> Markup {
    let troubled: Vec<_> =
        shards.shards.iter().filter(|s| s.stopped.is_some() || s.held.is_some() || !s.gaps.is_empty()).collect();
    html! {
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

fn shards(visit: &Visit<'_>, shards: &Shards) -> Markup {
    html! {
        section aria-labelledby="shards" {
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
                    th scope="col" { (visit.say("Last written by", "最后写入实例")) }
                    th.n scope="col" { (visit.say("Failing calls held", "失败调用明细")) }
                } }
                tbody { @for shard in &shards.shards { (row(visit, shard)) } }
            } }
        }
    }
}

fn row(visit: &Visit<'_>, shard: &Shard) -> Markup {
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
            td.code { (shard.writer.as_deref().map_or("–".into(), visible)) }
            td.n { (number(shard.items)) }
        }
    }
}

fn documents(visit: &Visit<'_>, documents: &Documents) -> Markup {
    html! {
        section aria-labelledby="documents" {
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
