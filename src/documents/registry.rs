//! `tenants.csv` and `fees.csv`: who is served, from when to when, and what was paid. All recorded versions are kept;
//! the domain says which one holds.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::money;
use super::table::{self, Column, Found, Row};
use super::values::{DAY, INSTANT, Kind, LINE, NAME, accuse, line, name};
use crate::domain::calendar::LocalDay;
use crate::domain::money::{Currency, FeeItem};
use crate::domain::party::{Bilingual, Party};
use crate::domain::policy::Policies;
use crate::domain::term::{Order, OrderEnd};
use crate::yaml::read::{shown_text, similar};
use crate::yaml::{FileErrors, Key};

/// The columns of `tenants.csv`; those from [`ORDER_OPTIONAL`] on may be missing.
pub const ORDER_COLUMNS: [&str; 12] = table::names(&ORDERS);

/// The first of [`ORDER_COLUMNS`] that need not be there.
pub const ORDER_OPTIONAL: usize = 8;

/// The columns of `fees.csv`.
pub const FEE_COLUMNS: [&str; 9] = table::names(&FEES);

const RECORDED_AT: &str = "When the row was written down. Reports \"as of\" an earlier instant do not see it.";

const ORDERS: [Column; 12] = [
    Column { name: "tenant", doc: "Who is served." },
    Column {
        name: "order_id",
        doc: "The order; a row with the same tenant and order and a later `recorded_at` replaces it.",
    },
    Column { name: "start", doc: "The first day of service." },
    Column {
        name: "months",
        doc: "Whole months from `start`. With neither this nor `last_day` the order is open-ended.",
    },
    Column { name: "last_day", doc: "The last day of service, instead of `months`." },
    Column { name: "terminated_on", doc: "The last day served, if service ended early." },
    Column { name: "policy", doc: "The id of its policy. Empty: `contract.default_policy`." },
    Column { name: "recorded_at", doc: RECORDED_AT },
    Column {
        name: "legal_name",
        doc: "The customer's name on statements. This column and those after it may be absent.",
    },
    Column {
        name: "legal_name_zh",
        doc: "The same on Chinese statements. Each of the two is the default of the other.",
    },
    Column { name: "address", doc: "The customer's address on statements; needs a legal name." },
    Column { name: "address_zh", doc: "The same on Chinese statements." },
];

const FEES: [Column; 9] = [
    Column { name: "bill_id", doc: "The bill; a row with the same id and a later `recorded_at` replaces it." },
    Column { name: "tenant", doc: "Who paid. A bill keeps its tenant." },
    Column { name: "period_start", doc: "The first day that the bill covers." },
    Column { name: "period_end", doc: "The last day that it covers." },
    Column { name: "currency", doc: "The currency; a tenant has one." },
    Column { name: "gross", doc: "The price. Negative: a refund." },
    Column {
        name: "voucher",
        doc: "The part of the price that vouchers, coupons and waivers covered; it has the price's sign.",
    },
    Column { name: "charged_on", doc: "The day of the charge." },
    Column { name: "recorded_at", doc: RECORDED_AT },
];

/// The columns of `tenants.csv`, for the reference.
pub(super) fn order_keys() -> Vec<Key> {
    table::columns(&ORDERS, |row| order(row, &mut Names::default(), None))
}

/// The columns of `fees.csv`, for the reference.
pub(super) fn fee_keys() -> Vec<Key> {
    table::columns(&FEES, |row| fee(row, &mut Names::default()))
}

/// A century of service is a slip of the keyboard.
const MOST_MONTHS: u32 = 1_200;

/// One allocation for all occurrences of a name.
#[derive(Default)]
struct Names(HashSet<Arc<str>>);

impl Names {
    fn get(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.0.get(name) {
            return known.clone();
        }
        let new: Arc<str> = name.into();
        self.0.insert(new.clone());
        new
    }
}

/// Reads `tenants.csv`. Without `policies` their ids are not checked.
pub(super) fn orders(
    file: &str,
    text: &str,
    policies: Option<&Policies>,
) -> Result<Vec<(Arc<str>, Order)>, FileErrors> {
    let mut found = Vec::new();
    let mut orders = Vec::new();
    let mut names = Names::default();
    let mut versions = HashSet::new();
    table::rows_with_optional(text, &ORDER_COLUMNS, ORDER_OPTIONAL, &mut found, |row| {
        if let Some((tenant, order)) = order(row, &mut names, policies) {
            if !versions.insert((tenant.clone(), order.order_id.clone(), order.recorded_at_ms)) {
                row.complain(7, "is the same as in an earlier row of this order", VERSION_HELP);
            }
            orders.push((tenant, order));
        }
    });
    finish(file, text, found, orders)
}

const VERSION_HELP: &str = "remove one of the rows, or give the later version a later `recorded_at`";

fn order(
    row: &mut Row<{ ORDER_COLUMNS.len() }>,
    names: &mut Names,
    policies: Option<&Policies>,
) -> Option<(Arc<str>, Order)> {
    // Every column is judged before one of them can end this.
    let tenant = row.required(0, NAME).map(|tenant| names.get(tenant));
    let order_id = row.required(1, NAME).map(Arc::<str>::from);
    let start = row.required(2, DAY);
    let months = row.optional(3, Kind { words: "integer, 1 to 1200", judge: months });
    let last_day = row.optional(4, DAY);
    let terminated_on = row.optional(5, DAY);
    let policy = row.optional(6, NAME.with(|id| policy(id, policies))).map(|id| id.map(|id| names.get(id)));
    let recorded_at = row.required(7, INSTANT);
    let customer = customer(row);
    if let (Some(Some(_)), Some(Some(_))) = (months, last_day) {
        row.complain(4, "and `months` are both given", "keep one of them; neither means open-ended");
        return None;
    }
    for (column, last) in [(4, last_day), (5, terminated_on)] {
        if let (Some(start), Some(Some(last))) = (start, last) {
            ends(row, column, "start", start, last)?;
        }
    }
    let end = match (months?, last_day?) {
        (Some(months), _) => OrderEnd::Months(months),
        (_, Some(day)) => OrderEnd::LastDay(day),
        _ => OrderEnd::Open,
    };
    let order = Order {
        order_id: order_id?,
        start: start?,
        end,
        terminated_on: terminated_on?,
        policy: policy?,
        customer: customer?,
        recorded_at_ms: recorded_at?,
    };
    Some((tenant?, order))
}

/// Legal name and address; the outer `None` is a mistake.
fn customer(row: &mut Row<{ ORDER_COLUMNS.len() }>) -> Option<Option<Arc<Party>>> {
    let lines = Kind { words: "lines with `|` between them, each 1 to 256 bytes", judge: lines };
    let [en, zh] = [8, 9].map(|column| row.optional(column, LINE));
    let [address_en, address_zh] = [10, 11].map(|column| row.optional(column, lines));
    let name = Bilingual::of(en?, zh?);
    let address = Bilingual::of(address_en?, address_zh?);
    if name.is_none() && address.is_some() {
        row.complain(8, "is missing beside an address", "write the legal name, or remove the address");
        return None;
    }
    Some(name.map(|name| Arc::new(Party { name, address })))
}

/// Lines with `|` between them.
fn lines(text: &str) -> super::values::Judged<Vec<String>> {
    text.split('|').map(|part| line(part.trim())).collect()
}

fn ends<const N: usize>(row: &mut Row<N>, column: usize, first: &str, start: LocalDay, last: LocalDay) -> Option<()> {
    if last >= start {
        return Some(());
    }
    row.complain(column, format!("{last} is before `{first}` {start}"), "both days are included: correct one of them");
    None
}

fn months(text: &str) -> super::values::Judged<u32> {
    match text.parse::<u32>() {
        Ok(months) if (1..=MOST_MONTHS).contains(&months) && text.bytes().all(|b| b.is_ascii_digit()) => Ok(months),
        _ => accuse(
            format!("must be a number of months, not {}", shown_text(text)),
            format!("write 1 to {MOST_MONTHS}, or leave it empty"),
        ),
    }
}

fn policy<'a>(id: &'a str, policies: Option<&Policies>) -> super::values::Judged<&'a str> {
    let id = name(id)?;
    match policies {
        Some(policies) if !policies.has(id) => {
            let known = || policies.versions().iter().map(|policy| policy.id.as_str());
            let help = match similar(id, known()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => {
                    let mut known: Vec<_> = known().collect();
                    known.dedup();
                    format!("add policies/{id}.yaml, or write one of {}; empty is the default", known.join(", "))
                }
            };
            accuse(format!("names no policy: {}", shown_text(id)), help)
        }
        _ => Ok(id),
    }
}

/// One order from named fields that hold what the columns of `tenants.csv` do; a field that is not there is empty.
pub(super) fn order_of<'t>(
    field: impl Fn(&str) -> &'t str,
    policies: Option<&Policies>,
) -> Result<(Arc<str>, Order), Vec<Found>> {
    table::single(&ORDER_COLUMNS, field, |row| order(row, &mut Names::default(), policies))
}

/// One bill from named fields that hold what the columns of `fees.csv` do; a field that is not there is empty.
pub(super) fn fee_of<'t>(field: impl Fn(&str) -> &'t str) -> Result<(Arc<str>, FeeItem), Vec<Found>> {
    table::single(&FEE_COLUMNS, field, |row| fee(row, &mut Names::default()))
}

/// Reads `fees.csv`.
pub(super) fn fees(file: &str, text: &str) -> Result<Vec<(Arc<str>, FeeItem)>, FileErrors> {
    let mut found = Vec::new();
    let mut fees = Vec::new();
    let mut names = Names::default();
    let mut versions = HashSet::new();
    let mut tenants: HashMap<Arc<str>, Arc<str>> = HashMap::new();
    let mut currencies: HashMap<Arc<str>, Currency> = HashMap::new();
    table::rows(text, &FEE_COLUMNS, &mut found, |row| {
        let Some((tenant, fee)) = fee(row, &mut names) else { return };
        let first = tenants.entry(fee.bill_id.clone()).or_insert_with(|| tenant.clone());
        if *first != tenant {
            let message = format!("changes: this bill was {}'s", shown_text(first));
            row.complain(1, message, "a bill keeps its tenant: correct it, or give the other bill an id of its own");
        }
        let currency = *currencies.entry(tenant.clone()).or_insert(fee.currency);
        if currency != fee.currency {
            let message = format!("is {}, an earlier bill of {} is in {currency}", fee.currency, shown_text(&tenant));
            row.complain(4, message, "a tenant has one currency: convert the amounts");
        }
        if !versions.insert((fee.bill_id.clone(), fee.recorded_at_ms)) {
            row.complain(8, "is the same as in an earlier row of this bill", VERSION_HELP);
        }
        fees.push((tenant, fee));
    });
    finish(file, text, found, fees)
}

fn fee(row: &mut Row<{ FEE_COLUMNS.len() }>, names: &mut Names) -> Option<(Arc<str>, FeeItem)> {
    let bill_id = row.required(0, NAME).map(Arc::<str>::from);
    let tenant = row.required(1, NAME).map(|tenant| names.get(tenant));
    let period_start = row.required(2, DAY);
    let period_end = row.required(3, DAY);
    let currency = row.required(4, money::CURRENCY);
    // An amount cannot be judged without its currency.
    let amount =
        || money::AMOUNT.with(move |text: &str| currency.map_or(Ok(0), |currency| money::minor(text, currency)));
    let gross = row.required(5, amount());
    let voucher = row.required(6, amount());
    let charged_on = row.required(7, DAY);
    let recorded_at = row.required(8, INSTANT);
    if let (Some(start), Some(end)) = (period_start, period_end) {
        ends(row, 3, "period_start", start, end)?;
    }
    if let (Some(gross), Some(voucher)) = (gross, voucher)
        && gross.signum() * voucher.signum() < 0
    {
        let help = "a voucher has its bill's sign: positive in a bill, negative in a refund";
        row.complain(6, format!("{} has not the sign of `gross`", shown_text(row.text(6))), help);
        return None;
    }
    let fee = FeeItem {
        bill_id: bill_id?,
        period_start: period_start?,
        period_end: period_end?,
        currency: currency?,
        gross_minor: gross?,
        voucher_minor: voucher?,
        charged_on: charged_on?,
        recorded_at_ms: recorded_at?,
    };
    Some((tenant?, fee))
}

fn finish<T>(file: &str, text: &str, found: Vec<Found>, rows: Vec<T>) -> Result<Vec<T>, FileErrors> {
    if found.is_empty() { Ok(rows) } else { Err(FileErrors::new(file, text, found, &[])) }
}
