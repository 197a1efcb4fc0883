//! Whose fault an outcome is (clauses 1.4, 1.5): classes of calls, and the table of codes.

use std::collections::HashMap;

use super::call::Flag;

/// Whose fault an outcome is (clauses 1.4, 1.5). Only `SystemError` is a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Class {
    /// The call succeeded.
    Success,
    /// The provider failed (clause 1.5).
    SystemError,
    /// The caller's own fault.
    CallerFault,
    /// Refused for its rate.
    Throttled,
    /// The code does not show whose fault it is.
    Ambiguous,
    /// A code without a classification.
    Unknown,
    /// No answer came.
    NoResponse,
}

impl Class {
    /// Every class, in the order of [`Class::index`].
    pub const ALL: [Self; 7] = [
        Self::Success,
        Self::SystemError,
        Self::CallerFault,
        Self::Throttled,
        Self::Ambiguous,
        Self::Unknown,
        Self::NoResponse,
    ];

    /// Position in [`Class::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The class's name in outputs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::SystemError => "system_error",
            Self::CallerFault => "caller_fault",
            Self::Throttled => "throttled",
            Self::Ambiguous => "ambiguous",
            Self::Unknown => "unknown",
            Self::NoResponse => "no_response",
        }
    }

    /// Would a call of this class be a failure in the worst case (semantics 1.5)?
    pub const fn fails_in_worst_case(self) -> bool {
        matches!(self, Self::SystemError | Self::Ambiguous | Self::Unknown | Self::NoResponse)
    }
}

/// Codes to classes: the exact code first, then its dot-separated prefixes, longest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CodeMap {
    classes: HashMap<Box<str>, Class>,
}

const ERROR_CODES: &str = include_str!("../../config/policies/error_codes.csv");

/// The code that means no response.
pub const NO_RESPONSE: &str = "NoResponse";

impl CodeMap {
    /// The cloud call center's published error codes.
    ///
    /// # Panics
    /// Never on data: the table is part of the program, and a test reads it.
    #[expect(clippy::expect_used, reason = "the table is compiled in")]
    pub fn tencent_ccc() -> Self {
        let mut reader = csv::Reader::from_reader(ERROR_CODES.as_bytes());
        let header = reader.headers().expect("a header").clone();
        let column = |name: &str| header.iter().position(|column| column == name).expect("the columns code and class");
        let (code, class) = (column("code"), column("class"));
        let rows = reader.records().map(|row| {
            let row = row.expect("a row");
            let class = Class::ALL.into_iter().find(|known| known.as_str() == &row[class]).expect("a class");
            (row[code].into(), class)
        });
        Self { classes: rows.collect() }
    }

    /// Overrides the table's codes with these (exact, or a dot-separated prefix).
    pub fn override_with(&mut self, classes: impl IntoIterator<Item = (String, Class)>) {
        self.classes.extend(classes.into_iter().map(|(code, class)| (code.into(), class)));
    }

    /// The class of a code; `Unknown` when neither it nor a prefix is listed.
    pub fn class(&self, code: &str) -> Class {
        if let Some(class) = longest_prefix(code, |c| self.classes.get(c).copied()) {
            return class;
        }
        if code == NO_RESPONSE { Class::NoResponse } else { Class::Unknown }
    }

    /// The class of an outcome: its code's (no code = success), unless the flag says otherwise.
    pub fn classify(&self, code: Option<&str>, flag: Flag) -> Class {
        Self::with_flag(code.map_or(Class::Success, |c| self.class(c)), flag)
    }

    /// The class of an outcome whose code is of this class: `true` makes it a system error, `false` turns a system error
    /// into a caller's fault.
    pub fn with_flag(class: Class, flag: Flag) -> Class {
        match (flag, class) {
            (Flag::True, _) => Class::SystemError,
            (Flag::False, Class::SystemError) => Class::CallerFault,
            _ => class,
        }
    }
}

/// The first answer for a code or one of its dot-separated prefixes, the longest first.
pub fn longest_prefix<T>(code: &str, mut look_up: impl FnMut(&str) -> Option<T>) -> Option<T> {
    let mut rest = code;
    loop {
        if let Some(found) = look_up(rest) {
            return Some(found);
        }
        rest = &rest[..rest.rfind('.')?];
    }
}

/// Codes that are the caller's own fault by the compiled-in table, as the shortest list of codes and prefixes: the
/// default of `counting.not_itemised`.
pub fn default_not_itemised() -> Vec<String> {
    let map = CodeMap::tencent_ccc();
    let not_itemised = |class: &Class| matches!(class, Class::CallerFault | Class::Throttled);
    let mut codes: Vec<_> =
        map.classes.iter().filter(|(_, class)| not_itemised(class)).map(|(code, _)| code.to_string()).collect();
    codes.sort();
    let all = codes.clone();
    codes.retain(|code| {
        let covered = code.rfind('.').and_then(|dot| longest_prefix(&code[..dot], |c| map.classes.get(c).copied()));
        !covered.is_some_and(|class| not_itemised(&class)) || !all.iter().any(|c| code.starts_with(&format!("{c}.")))
    });
    codes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_takes_the_class_of_its_longest_listed_prefix() {
        let codes = CodeMap::tencent_ccc();
        for (code, class) in [
            ("InternalError", Class::SystemError),
            ("InternalError.Whatever.Deep", Class::SystemError),
            ("FailedOperation.CallOutFailed", Class::Ambiguous),
            ("FailedOperation.SeatStatusBusy", Class::CallerFault),
            ("NoResponse", Class::NoResponse),
            ("Brand.New", Class::Unknown),
            ("InternalErrors", Class::Unknown),
        ] {
            assert_eq!(codes.class(code), class, "{code}");
        }
    }

    #[test]
    fn the_default_list_covers_all_caller_faults_and_no_failure() {
        let list = default_not_itemised();
        let codes = CodeMap::tencent_ccc();
        for (code, class) in &codes.classes {
            let listed = longest_prefix(code, |c| list.iter().any(|l| l == c).then_some(())).is_some();
            assert_eq!(listed, matches!(class, Class::CallerFault | Class::Throttled), "{code}");
        }
    }
}
