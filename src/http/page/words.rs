//! The words of the pages beside those of the statement.

use crate::report::statement::Lang;

/// How far an error budget is used.
pub(super) fn level(level: &str, lang: Lang) -> &str {
    let (en, zh) = match level {
        "no_traffic" => ("no traffic", "无调用"),
        "ok" => ("OK", "正常"),
        "warn_50" => ("50 % used", "已用50%"),
        "warn_80" => ("80 % used", "已用80%"),
        "exhausted_100" => ("exhausted", "已用尽"),
        "breach" => ("below target", "低于承诺"),
        other => return other,
    };
    lang.pick(en, zh)
}

/// The state of the claim of a month, in a table: nothing can be claimed where nothing is owed.
pub(super) fn claim_of(state: &str, owed_minor: Option<i64>, lang: Lang) -> &str {
    match state {
        "claimable" | "expired" if owed_minor == Some(0) => lang.pick("nothing owed", "无应赔"),
        state => claim(state, lang),
    }
}

/// The state of a claim.
pub(super) fn claim(state: &str, lang: Lang) -> &str {
    let (en, zh) = match state {
        "running" => ("month runs", "月度进行中"),
        "ended" => ("not open yet", "尚未可申请"),
        "claimable" => ("claimable", "可申请"),
        "expired" => ("expired", "已过期"),
        "filed" => ("filed", "已申请"),
        "paid" => ("paid", "已赔付"),
        "rejected" => ("rejected", "已驳回"),
        other => return other,
    };
    lang.pick(en, zh)
}

/// A tier, where there may be none.
pub(super) fn tier(tier: &str, lang: Lang) -> &str {
    let (en, zh) = match tier {
        "none" => ("none", "无"),
        "no_traffic" => ("no traffic", "无调用"),
        other => return other,
    };
    lang.pick(en, zh)
}

/// The severity of an alert.
pub(super) fn severity(severity: &str, lang: Lang) -> &str {
    let (en, zh) = match severity {
        "critical" => ("critical", "严重"),
        "warning" => ("warning", "警告"),
        "info" => ("info", "提示"),
        other => return other,
    };
    lang.pick(en, zh)
}

/// What an alert is about, in Chinese; the summary says it in English.
pub(super) fn alert(name: &str) -> &str {
    match name {
        "SlaBudgetConsumed" => "错误预算已用达到警戒线",
        "SlaTierReached" => "已进入赔偿档次",
        "SlaRecovered" => "已恢复至承诺可用性",
        "SlaBurnRateHigh" => "错误预算消耗过快",
        "SlaForecastBreach" => "预计月内进入赔偿档次",
        "SlaClaimOpens" => "可以提出赔偿申请",
        "SlaClaimCloses" => "赔偿申请时限将至",
        "SlaUnknownCode" => "出现未分类错误码",
        "SlaCalendarMissing" => "缺少工作日历",
        "SlaManyTenantsAtRisk" => "大量租户同时告警",
        "SlaLedgerGap" => "账本缺少调用记录",
        other => other,
    }
}
