//! The words events are made of: tenants, API actions, error codes. What a code means is read here from the same
//! table the policy uses, by code of its own, so that the expected result shares nothing with the counter.

use std::collections::HashMap;

const ACTIONS_CSV: &str = include_str!("api_actions.csv");
const CODES_CSV: &str = include_str!("../../config/policies/error_codes.csv");

/// Failing calls use only the first actions, this many. Together with the few codes an action can fail with this keeps
/// a tenant's month below the counter's default of 20,000 rows, however many calls it gets.
pub(super) const FAILING_ACTIONS: usize = 24;
/// Caller faults an action can fail with.
pub(super) const FAULTS_PER_ACTION: usize = 4;

/// Tenants by rank; beyond: `tenant-0033`.
const NAMES: [&str; 32] = [
    "globex",
    "acme",
    "initech",
    "umbrella",
    "hooli",
    "stark-industries",
    "wayne-enterprises",
    "wonka",
    "cyberdyne",
    "soylent",
    "tyrell",
    "massive-dynamic",
    "oscorp",
    "pied-piper",
    "vandelay",
    "dunder-mifflin",
    "gringotts",
    "duff",
    "monsters-inc",
    "北辰客服",
    "sirius-cybernetics",
    "weyland-yutani",
    "aperture",
    "black-mesa",
    "virtucon",
    "nakatomi",
    "bluth",
    "prestige-worldwide",
    "los-pollos",
    "sterling-cooper",
    "paper-street",
    "central-perk",
];

/// The name of the tenant at a rank (0 = the busiest).
pub fn tenant_name(rank: u32) -> String {
    NAMES.get(rank as usize).map_or_else(|| format!("tenant-{:04}", rank + 1), |name| (*name).to_owned())
}

/// How an error code is written in the event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Code {
    /// As facts hold it: text, also for numbers; `""` if missing.
    pub(super) name: String,
    /// Written as a JSON number.
    pub(super) number: bool,
    /// Fails the call if the event has no flag.
    pub(super) system_error: bool,
    /// A fault of the caller, which is counted but not itemised.
    pub(super) caller_fault: bool,
}

/// Index of a code in [`Catalog::codes`].
pub(super) type CodeIndex = u16;
/// No code: the call succeeded.
pub(super) const OK: CodeIndex = 0;

/// All names, and the role of each code.
#[derive(Debug, Clone)]
pub(super) struct Catalog {
    /// Descending weight; the last is `""` (no action).
    pub(super) actions: Vec<String>,
    pub(super) weights: Vec<f64>,
    pub(super) codes: Vec<Code>,
    /// Class system_error, the commonest first.
    pub(super) system: Vec<CodeIndex>,
    pub(super) faults: Vec<CodeIndex>,
    pub(super) ambiguous: Vec<CodeIndex>,
    pub(super) unknown: Vec<CodeIndex>,
    pub(super) no_response: CodeIndex,
}

impl Catalog {
    pub(super) fn new() -> Self {
        let mut actions = Vec::new();
        let mut weights = Vec::new();
        for row in rows(ACTIONS_CSV) {
            actions.push(row[0].clone());
            weights.push(row[1].parse().unwrap_or(1.0));
        }
        actions.push(String::new());
        weights.push(1.0);

        let classes: HashMap<String, String> = rows(CODES_CSV).map(|row| (row[0].clone(), row[2].clone())).collect();
        let mut catalog = Self {
            actions,
            weights,
            codes: Vec::new(),
            system: Vec::new(),
            faults: Vec::new(),
            ambiguous: Vec::new(),
            unknown: Vec::new(),
            no_response: OK,
        };
        catalog.add("", &classes);
        // The last is in no table: its prefix decides.
        for name in ["InternalError", "ServiceUnavailable", "InternalError.DBError", "InternalError.RpcTimeout"] {
            let code = catalog.add(name, &classes);
            catalog.system.push(code);
        }
        for name in ["FailedOperation.CallOutFailed", "ResourceUnavailable"] {
            let code = catalog.add(name, &classes);
            catalog.ambiguous.push(code);
        }
        for name in ["VendorTimeout", "10013"] {
            let code = catalog.add(name, &classes);
            catalog.unknown.push(code);
        }
        catalog.no_response = catalog.add("NoResponse", &classes);
        for row in rows(CODES_CSV).filter(|row| matches!(row[2].as_str(), "caller_fault" | "throttled")) {
            let code = catalog.add(&row[0], &classes);
            catalog.faults.push(code);
        }
        catalog
    }

    /// The `which`-th fault that calls of this action fail with.
    pub(super) fn fault(&self, action: u16, which: usize) -> CodeIndex {
        self.faults[(usize::from(action) * 7 + which % FAULTS_PER_ACTION * 13) % self.faults.len()]
    }

    fn add(&mut self, name: &str, classes: &HashMap<String, String>) -> CodeIndex {
        let class = class_of(name, classes);
        self.codes.push(Code {
            name: name.to_owned(),
            number: !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit()),
            system_error: class == Some("system_error"),
            caller_fault: class == Some("caller_fault") || class == Some("throttled"),
        });
        (self.codes.len() - 1) as CodeIndex
    }
}

/// The class of a code: the exact code, then its dot-separated prefixes, the longest first.
pub(super) fn class_of<'a>(code: &str, classes: &'a HashMap<String, String>) -> Option<&'a str> {
    let mut part = code;
    loop {
        if let Some(class) = classes.get(part) {
            return Some(class);
        }
        part = &part[..part.rfind('.')?];
    }
}

/// Rows of an embedded table, without its heading.
fn rows(table: &'static str) -> impl Iterator<Item = Vec<String>> {
    csv::Reader::from_reader(table.as_bytes())
        .into_records()
        .flatten()
        .map(|row| row.iter().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_whole() {
        let catalog = Catalog::new();
        assert_eq!(catalog.actions.len(), ACTIONS_CSV.lines().count());
        assert_eq!(catalog.weights.len(), catalog.actions.len());
        assert_eq!(rows(CODES_CSV).count(), CODES_CSV.lines().count() - 1);
        assert!(catalog.faults.len() > 60);
        assert!(catalog.system.iter().all(|&code| catalog.codes[usize::from(code)].system_error));
        for list in [&catalog.ambiguous, &catalog.unknown, &vec![catalog.no_response, OK]] {
            assert!(list.iter().all(|&code| !catalog.codes[usize::from(code)].system_error
                && !catalog.codes[usize::from(code)].caller_fault));
        }
    }

    #[test]
    fn a_month_stays_below_the_row_limit() {
        let catalog = Catalog::new();
        // Per failing action: system codes with the flag true or absent and one cleared, a flag alone, ambiguous ones with and without.
        let failures = catalog.system.len() * 2
            + 1
            + 1
            + catalog.ambiguous.len() * 2
            + catalog.unknown.len()
            + 1
            + FAULTS_PER_ACTION;
        let rows = 31 * (catalog.actions.len() + FAILING_ACTIONS * failures);
        assert!(rows < 20_000, "{rows}");
    }

    #[test]
    fn names_go_on() {
        assert_eq!(tenant_name(1), "acme");
        assert_eq!(tenant_name(32), "tenant-0033");
        assert_eq!(tenant_name(99_999), "tenant-100000");
    }
}
