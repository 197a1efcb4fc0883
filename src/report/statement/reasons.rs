//! Why figures are not complete, and what has no effect on them: the ledger's sentences, as a statement presents them.
//!
//! A statement holds the sentences in English, as every output does. The Chinese ones are made from them, so that a
//! statement of another version can be shown too: an unknown sentence stays unchanged.

use std::collections::BTreeSet;

use super::words::Lang;
use crate::domain::standing::{AGE_LIMIT, EVIDENCE_LIMIT, ROW_LIMIT, RUNNING, TENANT_LIMIT};
use crate::pipeline::book::STILL_RUNNING;

/// Why a month is not complete, a phrase each: the partitions with the same reason share one. Reasons that are not known
/// here stay as they are.
pub fn incomplete(reasons: &[String], lang: Lang) -> Vec<String> {
    let (shards, others) = by_partition(reasons);
    let others = others.into_iter().map(|reason| other_reason(reason, lang));
    shards.into_iter().map(|(what, shards)| partitions(what, &shards, lang)).chain(others).collect()
}

/// How far the partitions were counted: all of them to the end, or the exceptions.
pub fn counted(counted: impl Iterator<Item = i32>, reasons: &[String], lang: Lang) -> String {
    let (exceptions, _) = by_partition(reasons);
    let all: BTreeSet<i32> = exceptions.iter().flat_map(|(_, shards)| shards.iter().copied()).chain(counted).collect();
    let number = all.len();
    let one = if number == 1 { "partition" } else { "partitions" };
    if exceptions.is_empty() {
        return lang.pick(
            match reasons.iter().any(|reason| reason == RUNNING) {
                true => format!("{number} {one}, counted so far: the service month is running"),
                false if number == 1 => format!("{number} {one}, counted to the end"),
                false => format!("{number} {one}, all counted to the end"),
            },
            match reasons.iter().any(|reason| reason == RUNNING) {
                true => format!("共 {number} 个分区，核算至今：服务月度尚未结束"),
                false => format!("共 {number} 个分区，均已核算至服务月度结束"),
            },
        );
    }
    let list: Vec<_> = exceptions.iter().map(|(what, shards)| partitions(what, shards, lang)).collect();
    let list = list.join(lang.pick("; ", "；"));
    lang.pick(format!("{number} {one}; {list}"), format!("共 {number} 个分区；{list}"))
}

/// The reasons that name a shard, by what they say of it, in the order of their first; and the others.
fn by_partition(reasons: &[String]) -> (Vec<(&str, Vec<i32>)>, Vec<&str>) {
    let (mut by_what, mut others) = (Vec::<(&str, Vec<i32>)>::new(), Vec::new());
    for reason in reasons {
        let named = reason.strip_prefix("shard ").and_then(|rest| rest.split_once(' '));
        let Some((shard, what)) = named.and_then(|(shard, what)| Some((shard.parse().ok()?, what))) else {
            others.push(&**reason);
            continue;
        };
        match by_what.iter_mut().find(|(known, _)| *known == what) {
            Some((_, shards)) => shards.push(shard),
            None => by_what.push((what, vec![shard])),
        }
    }
    (by_what, others)
}

/// What keeps partitions from being complete: as the ledger says it of one, of several, in Chinese.
const EXCEPTIONS: [(&str, &str, &str); 5] = [
    ("was never counted", "were never counted", "从未核算"),
    (STILL_RUNNING, "have not passed the end of the month", "尚未核算至服务月度结束"),
    (
        "was first counted after the month had begun",
        "were first counted after the month had begun",
        "在服务月度开始之后才首次核算",
    ),
    ("has a gap", "have a gap", "存在数据缺口"),
    ("is stopped", "are stopped", "已停止核算"),
];

fn partitions(what: &str, shards: &[i32], lang: Lang) -> String {
    let known = EXCEPTIONS.iter().find(|(one, ..)| *one == what);
    let list = ranges(shards, lang);
    if lang == Lang::En {
        return match (shards.len(), known) {
            (1, _) => format!("partition {list} {what}"),
            (_, Some((_, several, _))) => format!("partitions {list} {several}"),
            (_, None) => format!("partitions {list} each {what}"),
        };
    }
    let refused = what.strip_prefix("did not count ").and_then(|rest| rest.split_once(' '));
    let zh = match (known, refused) {
        (Some((.., zh)), _) => (*zh).to_owned(),
        (None, Some((calls, _))) => format!("有 {calls} 次调用未计入：{}", why_zh(TENANT_LIMIT)),
        (None, None) => what.to_owned(),
    };
    format!("分区 {list} {zh}")
}

/// Numbers in ascending order, those that follow each other as a range: `0–3, 5`.
fn ranges(numbers: &[i32], lang: Lang) -> String {
    let mut ranges: Vec<(i32, i32)> = Vec::new();
    for &number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if number.checked_sub(1) == Some(*last) => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    let shown = |(first, last): (i32, i32)| match last.abs_diff(first) {
        0 => first.to_string(),
        1 => format!("{first}{}{last}", lang.comma()),
        _ => format!("{first}–{last}"),
    };
    ranges.into_iter().map(shown).collect::<Vec<_>>().join(lang.comma())
}

fn other_reason(reason: &str, lang: Lang) -> String {
    match (lang, reason) {
        (Lang::En, RUNNING) => "the service month is running".into(),
        (Lang::En, _) => reason.into(),
        (Lang::Zh, RUNNING) => "服务月度尚未结束".into(),
        (Lang::Zh, _) => uncounted_zh(reason).unwrap_or_else(|| reason.into()),
    }
}

/// Why a call or a line was not counted, or is not itemised.
fn why_zh(why: &str) -> &str {
    match why {
        AGE_LIMIT => "到达时已超过允许的最长时限",
        ROW_LIMIT => "该客户当月的记录数已达上限",
        TENANT_LIMIT => "当月的客户数已达上限",
        EVIDENCE_LIMIT => "当月的失败明细数已达上限",
        reason => rejected(reason, Lang::Zh),
    }
}

/// Why records were rejected.
pub fn rejected(reason: &str, lang: Lang) -> &str {
    let zh = match reason {
        "empty" => "内容为空",
        "not_json" => "内容无法解析",
        "missing_field" => "缺少字段",
        "wrong_type" => "字段类型错误",
        "bad_timestamp" => "时间无法识别",
        "too_long" => "字段过长",
        "repeated_field" => "字段重复",
        "too_large" => "记录过大",
        "future" => "时间晚于到达时间",
        "too_old" => "到达过晚",
        "limit" => "已达数量上限",
        "clock" => "时钟异常",
        other => other,
    };
    lang.pick(reason, zh)
}

/// Calls or lines that were not counted, and why.
fn uncounted_zh(reason: &str) -> Option<String> {
    if let Some(why) = reason.strip_prefix("earlier calls of this month may be missing: ") {
        return Some(format!("本月较早的调用可能缺失：{}", why_zh(why)));
    }
    let (number, rest) = reason.split_once(' ')?;
    number.parse::<u64>().ok()?;
    if rest == "of the calls that were not counted did not go well" {
        return Some(format!("未计入的调用中有 {number} 次未成功"));
    }
    let (what, rest) = rest.split_once(": ")?;
    match what {
        "call of this month was not counted" | "calls of this month were not counted" => {
            Some(format!("本月有 {number} 次调用未计入：{}", why_zh(rest)))
        }
        "failing call of this month is not held one by one" | "failing calls of this month are not held one by one" => {
            Some(format!("本月有 {number} 次失败调用未逐条留存：{}", why_zh(rest)))
        }
        "line of the input was rejected" | "lines of the input were rejected" => {
            let lines: Option<Vec<_>> = rest.split(", ").map(lines_zh).collect();
            Some(format!("输入中有 {number} 行被拒收：{}", lines?.join(Lang::Zh.comma())))
        }
        _ => None,
    }
}

/// `not_json 1 (first: file 2 line 3)`
fn lines_zh(lines: &str) -> Option<String> {
    let (what, first) = lines.strip_suffix(')')?.split_once(" (first: ")?;
    let (reason, number) = what.split_once(' ')?;
    let first = match first.strip_prefix("file ").and_then(|rest| rest.split_once(" line ")) {
        Some((file, line)) => format!("第 {file} 个文件第 {line} 行"),
        None => format!("第 {} 行", first.strip_prefix("line ")?),
    };
    Some(format!("{} {number} 行（首见于{first}）", rejected(reason, Lang::Zh)))
}

/// What of the documents, or of the calls, is in no figure.
pub fn remark(remark: &str, lang: Lang) -> String {
    match lang {
        Lang::En => remark.to_owned(),
        Lang::Zh => remark_zh(remark).unwrap_or_else(|| remark.to_owned()),
    }
}

fn remark_zh(remark: &str) -> Option<String> {
    if let Some(rest) = remark.strip_prefix("registry topic, ") {
        let (key, _) = rest.split_once(": ")?;
        return Some(format!("登记主题中键为 {} 的消息未被采用，沿用较早版本", key.trim_matches('`')));
    }
    if let Some(rest) = remark.strip_suffix(" in no service month: no order covers those days") {
        let (calls, month) = rest.split_once(" calls of ").or_else(|| rest.split_once(" call of "))?;
        return Some(format!("{month} 有 {calls} 次调用不属于任何服务月度：没有订单覆盖这些日期"));
    }
    let (what, why) = remark.rsplit_once(" has no effect: ")?;
    let (kind, id) = what.split_once(' ')?;
    let kind = match kind {
        "notice" => "通知",
        "declaration" => "并发报备",
        "claim" => "赔偿申请记录",
        "bill" => "账单",
        _ => return None,
    };
    let policy = || why.strip_prefix("policy ")?.split_once(" excludes nothing by ");
    let why = match (why, policy()) {
        (_, Some((policy, clause))) => format!("协议 {policy} 未约定第{clause}条免责"),
        ("it was announced at its start or later", _) => "公告时间不早于其开始时间".into(),
        ("it was announced when its time was over", _) => "报备时其时段已经结束".into(),
        ("no service month begins on its `period_start`", _) => "没有服务月度自其所列日期开始".into(),
        ("the tenant has no order", _) => "该客户没有订单".into(),
        _ => return None,
    };
    Some(format!("{kind} {id} 不生效：{why}"))
}
