//! A statement's content for people, in order, before it is rendered as text or HTML: both show the same.

use std::iter;

use serde_json::Value;

use super::figures::Figures;
use super::reasons;
use super::words::{self, Lang, grouped, money};
use super::{Cause, Gap, Statement, clause_title};
use crate::domain::party::Party;
use crate::visible::visible;

/// Partitions in a row of the table of offsets.
const ABREAST: usize = 4;

/// The whole sheet.
pub(super) struct Sheet {
    pub title: String,
    /// Tenant and month.
    pub subject: String,
    /// What it is filed under.
    pub number: Option<String>,
    /// The issuer's name, address and contact, a line each.
    pub issuer: Vec<String>,
    /// The issuer's picture, a `data:` URI.
    pub logo: Option<String>,
    /// The customer's name and address, a line each.
    pub customer: Vec<String>,
    /// The figures that people look for.
    pub key: Vec<KeyFigure>,
    /// What must not be overlooked.
    pub warnings: Vec<String>,
    pub sections: Vec<Section>,
    /// The digest with its label.
    pub digest: (String, String),
    /// How to check it.
    pub check: String,
}

pub(super) struct KeyFigure {
    pub label: String,
    pub value: String,
    pub detail: String,
}

pub(super) struct Section {
    pub id: &'static str,
    pub title: String,
    pub blocks: Vec<Block>,
}

pub(super) enum Block {
    Pairs(Vec<(String, String)>),
    Table {
        columns: Vec<Column>,
        rows: Vec<Row>,
    },
    /// A table for auditors, which may be folded away under its summary.
    Folded {
        summary: String,
        columns: Vec<Column>,
        rows: Vec<Row>,
    },
    Note(String),
}

#[derive(Clone)]
pub(super) struct Column {
    pub title: String,
    pub cells: Cells,
}

/// How the cells of a column are set.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Cells {
    Words,
    Numbers,
    Digest,
}

pub(super) struct Row {
    pub cells: Vec<String>,
    /// A sum, or the row that applies.
    pub strong: bool,
}

fn row<const N: usize>(cells: [String; N]) -> Row {
    Row { cells: cells.into(), strong: false }
}

fn strong<const N: usize>(cells: [String; N]) -> Row {
    Row { cells: cells.into(), strong: true }
}

fn column(title: &str, cells: Cells) -> Column {
    Column { title: title.into(), cells }
}

impl Sheet {
    pub fn new(statement: &Statement, lang: Lang) -> Result<Self, String> {
        let figures = statement.figures()?;
        let page = Page { s: statement, f: &figures, lang };
        let mut sections = vec![page.head(), page.calls(), page.availability(), page.compensation(), page.claim()];
        sections.extend((statement.revision > 1).then(|| page.changes()));
        sections.extend([page.documents(), page.facts()]);
        Ok(Self {
            title: lang.pick("SLA Statement", "服务等级协议（SLA）对账单").into(),
            subject: format!("{} · {}", visible(&figures.tenant), visible(&figures.month)),
            number: statement.number.as_deref().map(|number| visible(number).into_owned()),
            issuer: page.issuer(),
            logo: statement.issuer.as_ref().and_then(|issuer| issuer.logo.clone()),
            customer: statement.customer.as_ref().map(|party| page.party(party)).unwrap_or_default(),
            key: page.key(),
            warnings: page.warnings(),
            sections,
            digest: (lang.pick("SHA-256 of this statement", "本对账单 SHA-256 摘要").into(), statement.sha256.clone()),
            check: lang
                .pick(
                    "The digest is taken over the canonical form (RFC 8785) of the statement in JSON without its \
                     member sha256; sla-ledger statement --check FILE recomputes it.",
                    "摘要按 JSON 格式对账单除 sha256 字段外内容的规范形式（RFC 8785）计算，可用 \
                     sla-ledger statement --check 文件名 复核。",
                )
                .into(),
        })
    }
}

struct Page<'a> {
    s: &'a Statement,
    f: &'a Figures,
    lang: Lang,
}

impl Page<'_> {
    fn t(&self, en: &str, zh: &str) -> String {
        self.lang.pick(en, zh).to_owned()
    }

    fn pair(&self, en: &str, zh: &str, value: impl Into<String>) -> (String, String) {
        (self.t(en, zh), value.into())
    }

    /// Name and address, a line each.
    fn party(&self, party: &Party) -> Vec<String> {
        let name = self.lang.of(&party.name);
        let address = party.address.iter().flat_map(|address| self.lang.of(address));
        [name].into_iter().chain(address).map(|line| visible(line).into_owned()).collect()
    }

    fn issuer(&self) -> Vec<String> {
        let Some(issuer) = &self.s.issuer else { return Vec::new() };
        let contact = issuer.contact.iter().flat_map(|contact| self.lang.of(contact));
        let contact = contact.map(|line| visible(line).into_owned());
        self.party(&issuer.party).into_iter().chain(contact).collect()
    }

    fn percent(&self, percent: Option<&String>) -> String {
        percent.map_or_else(|| self.t("no traffic", "无调用"), |p| format!("{}%", visible(p)))
    }

    fn money(&self, minor: i64) -> String {
        money(minor, self.f.fee.as_ref().map_or("", |fee| &fee.currency))
    }

    fn days(&self, from: &str, to: &str) -> String {
        format!("{} {} {}", visible(from), self.lang.pick("to", "至"), visible(to))
    }

    /// An instant; RFC 3339 has a letter between date and time.
    fn instant(&self, at: &str) -> String {
        let at = visible(at);
        self.lang.pick(at.to_string(), at.replacen('T', " ", 1))
    }

    fn unknown_fee(&self) -> String {
        self.t("unknown: no bill is recorded", "无法确定：未登记账单")
    }

    fn tier(&self) -> String {
        match &*self.f.tier {
            "none" if !self.f.complete => {
                self.t("none so far: the calls counted meet the target", "暂无：已计入的调用达到服务可用性标准")
            }
            "none" => self.t("none: the target is met", "无：已达到服务可用性标准"),
            "no_traffic" => self.t("none: no calls", "无：服务月度内无调用"),
            tier => visible(tier).into_owned(),
        }
    }

    fn payout(&self) -> String {
        let Some(compensation) = &self.f.compensation else { return self.t("unknown", "无法确定") };
        let payout = self.money(compensation.payout_minor);
        match self.f.complete {
            true => payout,
            false => self.lang.pick(format!("{payout}, provisional"), format!("{payout}（暂计）")),
        }
    }

    fn key(&self) -> Vec<KeyFigure> {
        let key =
            |en: &str, zh: &str, value: String, detail: String| KeyFigure { label: self.t(en, zh), value, detail };
        let target = &self.s.terms.target_pct;
        let claim = self.f.claim.as_ref();
        let short_tier = match &*self.f.tier {
            "none" | "no_traffic" => self.t("none", "无"),
            tier => visible(tier).into_owned(),
        };
        vec![
            key(
                "Availability",
                "服务可用性",
                self.percent(self.f.availability_pct.as_ref()),
                self.lang.pick(format!("target {target}%"), format!("标准：不低于 {target}%")),
            ),
            key(
                "Tier",
                "赔偿档次",
                short_tier,
                self.lang.pick(
                    format!("{}% of the monthly fee", visible(&self.f.rate_pct)),
                    format!("月度服务费的 {}%", visible(&self.f.rate_pct)),
                ),
            ),
            key(
                "Compensation",
                "赔偿金额",
                self.payout(),
                self.base().map_or_else(
                    || self.unknown_fee(),
                    |(_, base)| self.lang.pick(format!("of {base}"), format!("基数：{base}")),
                ),
            ),
            key(
                "Claim by",
                "最晚申请日",
                claim.map_or_else(|| "–".to_owned(), |c| visible(&c.last_day).into_owned()),
                claim.map_or_else(
                    || self.t("no registered term", "未登记服务期限"),
                    |c| match &c.opens {
                        Some(opens) => {
                            self.lang.pick(format!("from {}", visible(opens)), format!("自 {} 起", visible(opens)))
                        }
                        None => self.t("first day not known yet", "起始日待定"),
                    },
                ),
            ),
        ]
    }

    /// The name and the amount of what the rate is taken of.
    fn base(&self) -> Option<(String, String)> {
        let name = if self.s.terms.fee_base == "gross" {
            self.t("gross fee", "抵扣前费用")
        } else {
            self.t("cash fee", "实付费用")
        };
        Some((name, self.money(self.s.terms.base(self.f)?)))
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if !self.f.complete {
            let reasons = reasons::incomplete(&self.f.incomplete_reasons, self.lang);
            let reasons: Vec<_> = reasons.iter().map(|reason| visible(reason)).collect();
            let reasons = reasons.join(self.lang.pick("; ", "；"));
            warnings.push(self.lang.pick(
                format!("Not complete, figures are provisional: {reasons}."),
                format!("数据不完整，所列数值为暂计：{reasons}。"),
            ));
        }
        if !self.f.rejected.is_empty() {
            let sum = grouped(self.f.rejected.values().sum());
            let reasons = self.rejected();
            warnings.push(self.lang.pick(
                format!("While the month ran, {sum} records of the source were rejected ({reasons}): they are in no tenant's figures."),
                format!("服务月度期间，数据来源中有 {sum} 条记录被拒收（{reasons}），未计入任何客户的数值。"),
            ));
        }
        if !self.f.remarks.is_empty() {
            let remarks = self.f.remarks.iter().map(|remark| reasons::remark(remark, self.lang));
            let remarks: Vec<_> = remarks.map(|remark| visible(&remark).into_owned()).collect();
            let remarks = remarks.join(self.lang.pick("; ", "；"));
            warnings
                .push(self.lang.pick(format!("In no figure: {remarks}."), format!("未计入数值的事项：{remarks}。")));
        }
        if self.f.unreached > 0 {
            let calls = grouped(self.f.unreached);
            warnings.push(self.lang.pick(
                format!(
                    "Rulings do not reach {calls} calls: their intervals cut days whose calls are not held one by one."
                ),
                format!("裁定未能适用于 {calls} 次调用：裁定的时间范围未覆盖整日，而这些调用未逐条记录。"),
            ));
        }
        if self.f.unknown_request_ids > 0 {
            let ids = grouped(self.f.unknown_request_ids);
            warnings.push(self.lang.pick(
                format!(
                    "Rulings name {ids} request ids that no failing call held one by one has: they change nothing."
                ),
                format!("裁定所列的 {ids} 个请求编号不在逐条记录的失败调用中，对数值没有影响。"),
            ));
        }
        if self.s.after_close {
            warnings.push(self.t(
                "This revision was issued after the claim window had closed.",
                "本版对账单出具时，赔偿申请时限已过。",
            ));
        }
        if self.f.registration == "unregistered" {
            warnings.push(self.t(
                "The tenant has no registered term: counted by calendar month, without fee and compensation.",
                "该客户未登记服务期限：按自然月核算，不涉及费用与赔偿。",
            ));
        }
        if self.f.split {
            warnings.push(self.t(
                "The tenant's calls lie in several partitions: clause 5.7 can only be suspected, not applied.",
                "该客户的调用分布于多个分区：第5.7条仅能标记存疑，不能直接适用。",
            ));
        }
        warnings
    }

    fn rejected(&self) -> String {
        let reasons = self.f.rejected.iter();
        let all: Vec<_> = reasons.map(|(reason, records)| self.rejected_for(reason, *records)).collect();
        all.join(self.lang.comma())
    }

    fn rejected_for(&self, reason: &str, records: u64) -> String {
        let (reason, records) = (visible(reasons::rejected(reason, self.lang)), grouped(records));
        self.lang.pick(format!("{reason} {records}"), format!("{reason} {records} 条"))
    }

    fn data(&self) -> String {
        match (self.f.complete, self.f.rejected.is_empty()) {
            (true, true) => self.t("complete", "完整"),
            (true, false) => self.t("complete but for the rejected records", "除被拒收的记录外完整"),
            (false, _) => self.t("not complete", "不完整"),
        }
    }

    fn head(&self) -> Section {
        let (s, f) = (self.s, self.f);
        let policy = &f.policy;
        let (period, zone) =
            (self.days(&f.period_start, &f.last_day), visible(words::zone(&s.terms.time_zone, self.lang)));
        let revision = match &s.supersedes {
            None => self.lang.pick(s.revision.to_string(), format!("第 {} 版", s.revision)),
            Some(p) => self.lang.pick(
                format!("{}, supersedes revision {} of {}", s.revision, p.revision, self.instant(&p.issued_at)),
                format!("第 {} 版，取代 {} 出具的第 {} 版", s.revision, self.instant(&p.issued_at), p.revision),
            ),
        };
        let mut pairs = Vec::new();
        pairs.extend(s.number.as_ref().map(|number| self.pair("Number", "编号", visible(number))));
        if let Some(customer) = &s.customer {
            pairs.push(self.pair("Customer", "客户名称", visible(self.lang.of(&customer.name).as_str())));
        }
        pairs.extend([
            self.pair("Tenant", "客户", visible(&f.tenant)),
            self.pair(
                "Service month (1.2)",
                "服务月度（1.2）",
                self.lang.pick(format!("{period} (time zone {zone})"), format!("{period}（时区 {zone}）")),
            ),
            self.pair(
                "Contract",
                "适用协议",
                self.lang.pick(
                    format!(
                        "{}, in force from {}, revision {}",
                        visible(&policy.id),
                        visible(&policy.effective_from),
                        policy.revision
                    ),
                    format!(
                        "{}，自 {} 起生效，修订号 {}",
                        visible(&policy.id),
                        visible(&policy.effective_from),
                        policy.revision
                    ),
                ),
            ),
        ]);
        if let Some(sha256) = &policy.sha256 {
            pairs.push(self.pair("Contract SHA-256", "协议文件 SHA-256", visible(sha256)));
        }
        pairs.push(self.pair("Issued", "出具时间", self.instant(&s.issued_at)));
        let as_of = s.as_of.as_ref().map_or_else(
            || self.t("all recorded until issue", "出具前登记的全部文件"),
            |at| {
                self.lang.pick(
                    format!("recorded until {}", self.instant(at)),
                    format!("截至 {} 登记的文件", self.instant(at)),
                )
            },
        );
        pairs.push(self.pair("Documents as of", "文件截止", as_of));
        pairs.push(self.pair("Revision", "版次", revision));
        pairs.push(self.pair("Data", "数据完整性", self.data()));
        Section { id: "statement", title: self.t("Statement", "基本信息"), blocks: vec![Block::Pairs(pairs)] }
    }

    fn calls(&self) -> Section {
        let (f, lang) = (self.f, self.lang);
        let payout = |availability| self.s.terms.payout(f, availability);
        let now = payout(f.availability());
        let total = self.t("Total calls (1.4)", "服务月度总调用次数（1.4）");
        let raw = self.t("Failures before exclusions (1.5)", "免责扣除前的不可用次数（1.5）");
        let mut rows =
            vec![row([total, grouped(f.total), String::new()]), row([raw, grouped(f.system_error_raw), String::new()])];
        for (clause, calls) in f.exclusions() {
            let title = clause_title(clause, lang).unwrap_or_default();
            let without = payout(f.without_exclusion(&self.s.terms, calls));
            let effect =
                without.zip(now).map_or_else(|| "–".into(), |(without, now)| self.money(now.saturating_sub(without)));
            let label = lang.pick(
                format!("excluded by {}: {title}", visible(clause)),
                format!("减：第{}条 {title}", visible(clause)),
            );
            rows.push(row([label, format!("-{}", grouped(calls)), effect]));
        }
        rows.push(strong([
            self.t("Failures that count", "服务月度不可用次数（扣除后）"),
            grouped(f.failed),
            String::new(),
        ]));
        let columns = vec![
            column(lang.pick("Calls", "项目"), Cells::Words),
            column(lang.pick("Number", "次数"), Cells::Numbers),
            column(lang.pick("Effect on payout", "对赔偿金额的影响"), Cells::Numbers),
        ];
        let mut notes = Vec::new();
        if f.denominator != f.total {
            notes.push(lang.pick(
                format!(
                    "Excluded failures leave the calls as well: availability is taken of {}.",
                    grouped(f.denominator)
                ),
                format!("免责扣除的次数同时自总调用次数中扣除：服务可用性按 {} 次计算。", grouped(f.denominator)),
            ));
        }
        if f.suspect_5_7 > 0 {
            notes.push(lang.pick(
                format!(
                    "{} of the failures that count may fall under clause 5.7; no decision yet.",
                    grouped(f.suspect_5_7)
                ),
                format!("其中 {} 次可能适用第5.7条，尚未裁定，仍予计入。", grouped(f.suspect_5_7)),
            ));
        }
        if f.unitemised > 0 {
            notes.push(lang.pick(
                format!(
                    "{} failures are not held one by one: no window or call rate can be applied to them.",
                    grouped(f.unitemised)
                ),
                format!("其中 {} 次未逐条记录，无法适用时间窗口或并发量条款。", grouped(f.unitemised)),
            ));
        }
        if f.unbound > 0 {
            notes.push(lang.pick(
                format!("{} calls of actions that are not bound to the service are not counted.", grouped(f.unbound)),
                format!("另有 {} 次调用的接口不属于绑定接口，不予计算。", grouped(f.unbound)),
            ));
        }
        if !f.classes.is_empty() {
            let list: Vec<_> = f
                .classes
                .iter()
                .map(|(class, calls)| {
                    let (class, calls) = (visible(words::class(class, lang)), grouped(*calls));
                    lang.pick(format!("{class} {calls}"), format!("{class} {calls} 次"))
                })
                .collect();
            let list = list.join(lang.comma());
            notes.push(lang.pick(format!("Calls by class: {list}."), format!("调用分类：{list}。")));
        }
        let mut blocks = vec![Block::Table { columns, rows }];
        blocks.extend(notes.into_iter().map(Block::Note));
        Section { id: "calls", title: self.t("Calls and failures", "调用次数与不可用次数"), blocks }
    }

    fn availability(&self) -> Section {
        let f = self.f;
        let pairs = vec![
            self.pair(
                "After exclusions (decisive)",
                "免责扣除后（据以核算）",
                self.percent(f.availability_pct.as_ref()),
            ),
            self.pair("Before exclusions", "免责扣除前", self.percent(f.availability_pct_raw.as_ref())),
            self.pair(
                "Worst case",
                "最不利情形",
                match &f.availability_pct_worst_case {
                    Some(p) => self.lang.pick(
                        format!("{}% (every doubtful call taken for a failure)", visible(p)),
                        format!("{}%（责任存疑的调用均视为不可用）", visible(p)),
                    ),
                    None => self.percent(None),
                },
            ),
            self.pair(
                "Target (2.2)",
                "服务可用性标准（2.2）",
                self.lang.pick(
                    format!("not below {}%", visible(&self.s.terms.target_pct)),
                    format!("不低于 {}%", visible(&self.s.terms.target_pct)),
                ),
            ),
        ];
        Section {
            id: "availability",
            title: self.t("Availability (2.1)", "服务可用性（2.1）"),
            blocks: vec![Block::Pairs(pairs)],
        }
    }

    fn compensation(&self) -> Section {
        let (f, lang) = (self.f, self.lang);
        let mut pairs = Vec::new();
        match &f.fee {
            Some(fee) => {
                pairs.push(self.pair("Fee, gross (1.3)", "服务月度费用，抵扣前（1.3）", self.money(fee.gross_minor)));
                let cash = self.money(fee.cash_minor);
                pairs.push(self.pair(
                    "Fee, cash (1.3)",
                    "服务月度费用，实付（1.3）",
                    lang.pick(
                        format!("{cash} (without vouchers, coupons, waivers)"),
                        format!("{cash}（不含代金券、优惠券、服务费减免等抵扣的费用）"),
                    ),
                ));
            }
            None => pairs.push(self.pair("Fee (1.3)", "服务月度费用（1.3）", self.unknown_fee())),
        }
        pairs.push(self.pair("Tier (3.1)", "赔偿档次（3.1）", self.tier()));
        pairs.push(self.pair("Rate", "赔偿比例", format!("{}%", visible(&f.rate_pct))));
        match (&f.compensation, self.base(), &f.fee) {
            (Some(c), Some((name, base)), Some(fee)) => {
                let raw = self.money(c.raw_minor);
                pairs.push(self.pair(
                    "Rate × base",
                    "赔偿比例 × 计算基数",
                    lang.pick(
                        format!("{}% × {base} ({name}) = {raw}", visible(&f.rate_pct)),
                        format!("{}% × {base}（{name}）= {raw}", visible(&f.rate_pct)),
                    ),
                ));
                let binds = |cap: i64| {
                    if c.payout_minor < c.raw_minor && c.payout_minor == cap.max(0) {
                        self.t(" – binds", "（据此封顶）")
                    } else {
                        String::new()
                    }
                };
                pairs.push(self.pair(
                    "Cap of 3.1: the cash fee",
                    "上限（3.1）：实付月度服务费",
                    format!("{}{}", self.money(fee.cash_minor), binds(fee.cash_minor)),
                ));
                pairs.push(self.pair(
                    "Cap of 6.1: what is left",
                    "上限（6.1）：赔偿总额余额",
                    format!("{}{}", self.money(c.cap_left_minor), binds(c.cap_left_minor)),
                ));
                let how = if self.s.terms.remedy == "credit" {
                    self.t("credited to later bills", "抵扣后续账单")
                } else {
                    self.t("cash to the account", "以账户返回现金的形式")
                };
                pairs.push(self.pair(
                    "Compensation",
                    "赔偿金额",
                    lang.pick(format!("{} ({how})", self.payout()), format!("{}（{how}）", self.payout())),
                ));
            }
            _ => pairs.push(self.pair("Compensation", "赔偿金额", self.payout())),
        }
        let columns = vec![
            column(lang.pick("Tier", "档次"), Cells::Words),
            column(lang.pick("Availability below", "服务可用性低于"), Cells::Numbers),
            column(lang.pick("Compensation, of the monthly fee", "赔偿比例（月度服务费）"), Cells::Numbers),
        ];
        let rows = self
            .s
            .terms
            .tiers
            .iter()
            .map(|tier| {
                let applies = tier.name == f.tier;
                let mark = if applies { self.t(" (applies)", "（适用）") } else { String::new() };
                Row {
                    cells: vec![
                        format!("{}{mark}", visible(&tier.name)),
                        format!("{}%", visible(&tier.below_pct)),
                        format!("{}%", visible(&tier.rate_pct)),
                    ],
                    strong: applies,
                }
            })
            .collect();
        let blocks = vec![Block::Pairs(pairs), Block::Table { columns, rows }];
        Section {
            id: "compensation", title: self.t("Fee and compensation (3.1)", "服务费与赔偿（3.1）"), blocks
        }
    }

    fn claim(&self) -> Section {
        let state = visible(words::state(&self.f.state, self.lang)).into_owned();
        let mut pairs = Vec::new();
        if let Some(claim) = &self.f.claim {
            let opens = claim.opens.as_ref().map_or_else(
                || self.t("not known: the calendar does not reach so far", "待定：工作日历尚未覆盖该日期"),
                |day| visible(day).into_owned(),
            );
            pairs.push(self.pair("First day", "可申请起始日", opens));
            pairs.push(self.pair("Last day", "最晚申请日", visible(&claim.last_day)));
            if claim.calendar == "provisional" {
                pairs.push(self.pair("Calendar", "工作日历", self.t("provisional", "暂定")));
            }
        } else {
            pairs.push(self.pair("Window", "申请时限", self.t("none: no registered term", "无：未登记服务期限")));
        }
        pairs.push(self.pair("State at issue", "出具时状态", state));
        Section {
            id: "claim", title: self.t("Claim (3.2)", "赔偿申请时限（3.2）"), blocks: vec![Block::Pairs(pairs)]
        }
    }

    fn figure(&self, field: &str, value: &Value) -> String {
        match value {
            Value::Null => "–".into(),
            Value::Bool(true) => self.t("yes", "是"),
            Value::Bool(false) => self.t("no", "否"),
            Value::Number(n) if field.ends_with("_minor") => {
                n.as_i64().map_or_else(|| n.to_string(), |n| self.money(n))
            }
            Value::Number(n) => n.as_u64().map_or_else(|| n.to_string(), grouped),
            Value::String(text) => visible(text).into_owned(),
            other => visible(&other.to_string()).into_owned(),
        }
    }

    fn changes(&self) -> Section {
        let lang = self.lang;
        let columns = vec![
            column(lang.pick("Figure", "项目"), Cells::Words),
            column(lang.pick("Before", "上一版"), Cells::Numbers),
            column(lang.pick("Now", "本版"), Cells::Numbers),
        ];
        let rows = self
            .s
            .changes
            .iter()
            .map(|c| {
                let field = visible(&words::field(&c.field, lang)).into_owned();
                row([field, self.figure(&c.field, &c.before), self.figure(&c.field, &c.after)])
            })
            .collect();
        let columns_why = vec![
            column(lang.pick("Because", "原因"), Cells::Words),
            column(lang.pick("Detail", "说明"), Cells::Digest),
        ];
        let rows_why = self.s.because.iter().map(|cause| self.cause(cause)).collect();
        let title = match &self.s.supersedes {
            Some(p) => lang
                .pick(format!("Changes since revision {}", p.revision), format!("与第 {} 版的差异及原因", p.revision)),
            None => self.t("Changes", "差异及原因"),
        };
        let blocks = vec![Block::Table { columns, rows }, Block::Table { columns: columns_why, rows: rows_why }];
        Section { id: "changes", title, blocks }
    }

    fn cause(&self, cause: &Cause) -> Row {
        let lang = self.lang;
        let document = |kind: &str, id: &str| format!("{} {}", visible(words::kind(kind, lang)), visible(id));
        let sha = |sha256: &str| format!("sha256 {}", visible(sha256));
        match cause {
            Cause::DocumentAdded { kind, id, sha256 } => {
                row([format!("{} {}", document(kind, id), lang.pick("added", "新增")), sha(sha256)])
            }
            Cause::DocumentChanged { kind, id, before, after } => row([
                format!("{} {}", document(kind, id), lang.pick("changed", "变更")),
                format!("{} → {}", sha(before), sha(after)),
            ]),
            Cause::DocumentRemoved { kind, id, sha256 } => {
                row([format!("{} {}", document(kind, id), lang.pick("removed", "移除")), sha(sha256)])
            }
            Cause::Facts { detail, offsets } => {
                let what = match &**detail {
                    "facts: late calls" => self.t("facts: late calls", "数据：迟到的调用"),
                    "facts: further calls" => self.t("facts: further calls", "数据：新增核算的调用"),
                    other => visible(other).into_owned(),
                };
                let offset = |o: Option<i64>| o.map_or_else(|| "–".to_owned(), |o| o.to_string());
                let moved: Vec<_> = offsets
                    .iter()
                    .map(|m| format!("{}: {} → {}", m.partition, offset(m.before), offset(m.after)))
                    .collect();
                let partitions = lang.pick(if moved.len() == 1 { "partition" } else { "partitions" }, "分区");
                row([what, format!("{partitions} {}", moved.join(lang.comma()))])
            }
            Cause::Gaps { before, after } => {
                let list = |gaps: &[Gap]| {
                    if gaps.is_empty() {
                        return self.t("none", "无");
                    }
                    gaps.iter().map(|gap| self.gap(gap)).collect::<Vec<_>>().join(lang.comma())
                };
                row([self.t("gaps in the source", "数据缺口变化"), format!("{} → {}", list(before), list(after))])
            }
            Cause::Other => row([
                self.t("other", "其他"),
                self.t(
                    "calls and documents are the same: passing of time, or another version of the program or its terms",
                    "数据与文件均未变化：时间推移，或程序、条款版本不同",
                ),
            ]),
        }
    }

    fn documents(&self) -> Section {
        let lang = self.lang;
        let columns = vec![
            column(lang.pick("Kind", "类别"), Cells::Words),
            column(lang.pick("Id", "编号"), Cells::Words),
            column("SHA-256", Cells::Digest),
        ];
        let rows: Vec<_> = self
            .s
            .documents
            .iter()
            .map(|d| {
                let kind = visible(words::kind(&d.kind, lang)).into_owned();
                row([kind, visible(&d.id).into_owned(), visible(&d.sha256).into_owned()])
            })
            .collect();
        let block = if rows.is_empty() {
            Block::Note(self.t("None besides the contract.", "除协议外无其他文件。"))
        } else {
            Block::Table { columns, rows }
        };
        Section { id: "documents", title: self.t("Documents it rests on", "依据文件"), blocks: vec![block] }
    }

    fn facts(&self) -> Section {
        let (facts, evidence, lang) = (&self.s.facts, &self.s.evidence, self.lang);
        let failing = grouped(evidence.failing_calls);
        let counted = reasons::counted(facts.offsets.keys().copied(), &self.f.incomplete_reasons, lang);
        let pairs = vec![
            self.pair("Source topic", "数据来源", visible(&facts.topic)),
            self.pair("Counted", "核算范围", visible(&counted)),
            self.pair(
                "Evidence",
                "证据明细",
                lang.pick(
                    format!("{failing} failing calls, one by one in the CSV"),
                    format!("{failing} 次失败调用，逐条列于 CSV 文件"),
                ),
            ),
            self.pair("Evidence SHA-256", "证据明细 SHA-256", visible(&evidence.sha256)),
        ];
        let mut blocks = vec![Block::Pairs(pairs), self.offsets()];
        if !facts.gaps.is_empty() {
            let list: Vec<_> = facts.gaps.iter().map(|gap| self.gap(gap)).collect();
            let list = list.join(lang.comma());
            blocks.push(Block::Note(lang.pick(
                format!("Gaps (partition: offsets from – to, kind): {list}."),
                format!("数据缺口（分区：起始位点 – 截止位点，类型）：{list}。"),
            )));
        }
        Section { id: "facts", title: self.t("Evidence and facts", "证据与数据范围"), blocks }
    }

    /// How far each partition was counted, several of them side by side.
    fn offsets(&self) -> Block {
        let (offsets, lang) = (&self.s.facts.offsets, self.lang);
        let abreast = offsets.len().clamp(1, ABREAST);
        let pair = [
            column(lang.pick("Partition", "分区"), Cells::Numbers),
            column(lang.pick("Next offset", "下一位点"), Cells::Numbers),
        ];
        let columns = (0..abreast).flat_map(|_| pair.clone()).collect();
        let cells: Vec<_> =
            offsets.iter().flat_map(|(partition, next)| [partition.to_string(), next.to_string()]).collect();
        let rows = cells.chunks(2 * abreast).map(|cells| {
            let empty = iter::repeat_n(String::new(), 2 * abreast - cells.len());
            Row { cells: cells.iter().cloned().chain(empty).collect(), strong: false }
        });
        let rows = rows.collect();
        let summary = self.t("Offsets by partition", "各分区位点");
        Block::Folded { summary, columns, rows }
    }

    fn gap(&self, gap: &Gap) -> String {
        let kind = visible(words::gap(&gap.kind, self.lang));
        format!("{}: {} – {}{}{kind}", gap.partition, gap.from, gap.to, self.lang.pick(", ", "，"))
    }
}
