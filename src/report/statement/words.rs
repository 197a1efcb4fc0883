//! The words of a statement in English and in Chinese. The Chinese terms are the contract's own; where the contract has
//! no term, the usual one of the industry is used. Other texts are next to the code that uses them, both languages side
//! by side.

use std::borrow::Cow;

use super::reasons;
use crate::domain::money::Currency;
use crate::domain::party::Bilingual;
use crate::visible::visible;

/// The language of a statement for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Lang {
    /// English.
    #[default]
    En,
    /// Chinese, simplified.
    Zh,
}

impl Lang {
    /// The one or the other.
    pub fn pick<T>(self, en: T, zh: T) -> T {
        match self {
            Self::En => en,
            Self::Zh => zh,
        }
    }

    /// The value of this language.
    pub fn of<T>(self, value: &Bilingual<T>) -> &T {
        self.pick(&value.en, &value.zh)
    }

    /// For HTML.
    pub fn tag(self) -> &'static str {
        self.pick("en", "zh-CN")
    }

    /// The separator between the items of a list in a sentence.
    pub fn comma(self) -> &'static str {
        self.pick(", ", "、")
    }
}

/// The wording of a clause of article 5 in short; `None` for any other.
pub fn clause_title(clause: &str, lang: Lang) -> Option<&'static str> {
    let (_, en, zh) = CLAUSES.iter().find(|(number, ..)| *number == clause)?;
    Some(lang.pick(en, zh))
}

const CLAUSES: [(&str, &str, &str); 18] = [
    (
        "5.1",
        "Faults of the customer's own network, system, software or equipment",
        "客户自身网络、系统、软件或设备等故障",
    ),
    (
        "5.2",
        "Data, passwords or keys lost or leaked through poor upkeep or secrecy",
        "维护不当或保密不当致使数据、口令、密码等丢失或泄露",
    ),
    ("5.3", "Attack on the customer's application or data", "应用程序或数据信息受到黑客攻击"),
    ("5.4", "Use against the product's documentation or advice", "未遵循本服务的产品使用文档或使用建议"),
    ("5.5", "Negligence of the customer, or acts it authorised", "客户的疏忽或由客户授权的操作"),
    ("5.6", "Illegal content (pornography, gambling, drugs, fraud)", "涉及黄赌毒、诈骗等非法信息"),
    (
        "5.7",
        "High concurrency not announced beforehand (5.0 QPS or more)",
        "未提前告知的业务大并发需求（并发量达到5.0QPS及以上）",
    ),
    ("5.8", "Trial products, functions or permissions not public", "使用非腾讯云官网公开的试运营产品、功能及权限"),
    ("5.9", "Control by regulators or carriers", "国家监管部门和运营商等管控"),
    ("5.10", "Illegal numbers passed in by the customer", "传入非法号码引发的请求失败"),
    ("5.11", "Major events or promotions, announced beforehand", "提前告知的重大活动或者促销"),
    (
        "5.12",
        "System maintenance, announced beforehand (cutover, repair, upgrade, drill)",
        "预先通知后的系统维护（割接、维修、升级和模拟故障演练）",
    ),
    (
        "5.13",
        "Faults or changes of networks and equipment other than the provider's",
        "腾讯云网络、设备以外的网络、设备故障或配置调整",
    ),
    ("5.14", "Force majeure and accidents", "不可抗力以及意外事件"),
    ("5.15", "Causes other than the provider's", "非腾讯云原因造成的服务不可用或服务不达标"),
    (
        "5.16",
        "Exemption by law, by related agreements or by the provider's rules",
        "相关法律法规、协议、规则或服务条款等规定可以免责、免除赔偿责任的情况",
    ),
    (
        "5.17",
        "Improper use against law or the telephone access rules",
        "违反法律、法规或《电话业务接入准则》的规定，不当使用云呼叫中心服务",
    ),
    ("5.18", "Numbers unusable for breach of the outbound call rules", "未遵守《电话号码外呼规则》导致电话号码不可用"),
];

/// The state of the claim.
pub fn state(state: &str, lang: Lang) -> &str {
    let (en, zh) = match state {
        "running" => ("the service month is running", "服务月度尚未结束"),
        "ended" => {
            ("the service month has ended, the claim window is not open yet", "服务月度已结束，尚未到可申请赔偿之日")
        }
        "claimable" => ("compensation can be claimed", "可提出赔偿申请"),
        "expired" => ("the claim window has closed", "赔偿申请时限已过"),
        "filed" => ("compensation has been claimed", "已提出赔偿申请"),
        "paid" => ("compensation has been paid", "已完成赔偿"),
        "rejected" => ("the claim was rejected", "赔偿申请已被驳回"),
        other => return other,
    };
    lang.pick(en, zh)
}

/// A class of calls.
pub fn class(class: &str, lang: Lang) -> &str {
    let (en, zh) = match class {
        "success" => ("success", "成功"),
        "system_error" => ("system error", "系统错误"),
        "caller_fault" => ("caller's fault", "调用方原因"),
        "throttled" => ("throttled", "超出频率限制"),
        "ambiguous" => ("ambiguous", "责任待定"),
        "unknown" => ("unclassified code", "未分类错误码"),
        "no_response" => ("no response", "无响应"),
        other => return other,
    };
    lang.pick(en, zh)
}

/// What became of a failing call.
pub fn decision(decision: super::Decision, lang: Lang) -> &'static str {
    use super::Decision::{Counted, Excluded, Suspect, Unitemised};
    let (en, zh) = match decision {
        Counted => ("counted", "计入"),
        Excluded => ("excluded", "免责扣除"),
        Suspect => ("suspect, counted", "存疑（计入）"),
        Unitemised => ("not itemised, counted", "未逐条记录（计入）"),
    };
    lang.pick(en, zh)
}

/// A kind of document.
pub fn kind(kind: &str, lang: Lang) -> &str {
    let (en, zh) = match kind {
        "policy" => ("policy", "协议版本"),
        "codes" | "code_table" => ("code table", "错误码表"),
        "calendar" => ("calendar", "工作日历"),
        "tenant" => ("order", "订单"),
        "tenants" => ("orders", "订单"),
        "fee" => ("bill", "账单"),
        "fees" => ("bills", "账单"),
        "notice" => ("notice", "通知"),
        "notices" => ("notices", "通知"),
        "declaration" => ("declaration", "并发报备"),
        "declarations" => ("declarations", "并发报备"),
        "ruling" => ("ruling", "裁定"),
        "rulings" => ("rulings", "裁定"),
        "claim" => ("claim", "赔偿申请记录"),
        "claims" => ("claims", "赔偿申请记录"),
        "issuer" => ("issuer", "出具方"),
        "logo" => ("logo", "徽标"),
        other => return other,
    };
    lang.pick(en, zh)
}

/// What is missing where offsets could not be read.
pub fn gap(kind: &str, lang: Lang) -> &str {
    let zh = match kind {
        "calls" => "缺少调用",
        "window" => "仅影响去重",
        other => other,
    };
    lang.pick(kind, zh)
}

/// A time zone; one without a Chinese name here keeps its identifier.
pub fn zone(name: &str, lang: Lang) -> &str {
    let zh = match name {
        "Asia/Shanghai" | "PRC" => "北京时间",
        "Asia/Urumqi" => "乌鲁木齐时间",
        "Asia/Hong_Kong" => "香港时间",
        "Asia/Macau" => "澳门时间",
        "Asia/Taipei" => "台北时间",
        "Asia/Singapore" => "新加坡时间",
        "Asia/Tokyo" => "东京时间",
        "UTC" | "Etc/UTC" => "协调世界时",
        other => other,
    };
    lang.pick(name, zh)
}

/// A figure that changed; the sheet names a clause's exclusions.
pub fn field(field: &str, lang: Lang) -> Cow<'_, str> {
    let (en, zh) = match field {
        "last_day" => ("last day of service", "服务月度最后一日"),
        "complete" => ("complete", "数据是否完整"),
        "total" => ("total calls", "服务月度总调用次数"),
        "denominator" => ("calls that availability is taken of", "计算服务可用性的调用次数"),
        "system_error_raw" => ("failures before exclusions", "免责扣除前不可用次数"),
        "failed" => ("failures that count", "服务月度不可用次数"),
        "tier" => ("tier", "赔偿档次"),
        "rate_pct" => ("rate of compensation, %", "赔偿比例（%）"),
        "fee.currency" => ("currency of the fee", "服务费币种"),
        "fee.gross_minor" => ("fee, gross", "服务月度费用（抵扣前）"),
        "fee.cash_minor" => ("fee, cash", "服务月度费用（实付）"),
        "compensation.raw_minor" => ("compensation before caps", "赔偿金额（上限前）"),
        "compensation.payout_minor" => ("compensation", "赔偿金额"),
        "claim.opens" => ("claim window opens", "可申请赔偿起始日"),
        "claim.last_day" => ("last day to claim", "最晚申请日"),
        "registration" => ("registration", "订单登记"),
        other => match (other.strip_prefix("excluded."), other.strip_prefix("uncounted.")) {
            (Some(clause), _) => {
                return lang.pick(format!("excluded by {clause}"), format!("第{clause}条免责扣除次数")).into();
            }
            (_, Some(reason)) => {
                return lang
                    .pick(
                        format!("calls not counted ({reason})"),
                        format!("未计入的调用次数（{}）", reasons::rejected(reason, lang)),
                    )
                    .into();
            }
            (None, None) => return other.into(),
        },
    };
    lang.pick(en, zh).into()
}

/// A number of calls with its thousands apart.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// An amount of money: `CNY 1,234.50`.
pub fn money(minor: i64, currency: &str) -> String {
    let places = exponent(currency);
    let scale = 10u64.pow(places);
    let (whole, fraction) = (minor.unsigned_abs() / scale, minor.unsigned_abs() % scale);
    let sign = if minor < 0 { "-" } else { "" };
    let fraction = if places > 0 { format!(".{fraction:0width$}", width = places as usize) } else { String::new() };
    format!("{} {sign}{}{fraction}", visible(currency), grouped(whole))
}

/// An amount of money without its currency and without groups, for machines: `1234.50`.
pub fn amount(minor: i64, currency: &str) -> String {
    let places = exponent(currency) as usize;
    let digits = format!("{:0width$}", minor.unsigned_abs(), width = places + 1);
    let (whole, fraction) = digits.split_at(digits.len() - places);
    let sign = if minor < 0 { "-" } else { "" };
    if places > 0 { format!("{sign}{whole}.{fraction}") } else { format!("{sign}{whole}") }
}

/// Decimal places of a currency; two for one that is not known.
fn exponent(currency: &str) -> u32 {
    currency.parse::<Currency>().map_or(2, |currency| currency.places() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_has_the_places_of_its_currency() {
        for (minor, currency, people, machines) in [
            (14674, "CNY", "CNY 146.74", "146.74"),
            (5, "USD", "USD 0.05", "0.05"),
            (0, "EUR", "EUR 0.00", "0.00"),
            (-123456789, "CNY", "CNY -1,234,567.89", "-1234567.89"),
            (1500, "JPY", "JPY 1,500", "1500"),
        ] {
            assert_eq!(money(minor, currency), people);
            assert_eq!(amount(minor, currency), machines);
        }
    }

    #[test]
    fn every_clause_has_both_wordings() {
        for paragraph in 1..=18 {
            let clause = format!("5.{paragraph}");
            assert!(clause_title(&clause, Lang::En).is_some() && clause_title(&clause, Lang::Zh).is_some(), "{clause}");
        }
        assert_eq!(clause_title("5.19", Lang::En), None);
    }
}
