//! Vector files: every row is a case.

/// A row of a vector file, by column name.
pub struct Row {
    columns: Vec<String>,
    cells: Vec<String>,
}

impl Row {
    /// A cell.
    pub fn text(&self, column: &str) -> &str {
        let at = self.columns.iter().position(|c| c == column).unwrap_or_else(|| panic!("no column {column}"));
        &self.cells[at]
    }

    /// A cell that holds a number, a day, …
    pub fn number<T: std::str::FromStr>(&self, column: &str) -> T {
        self.text(column).parse().unwrap_or_else(|_| panic!("{column} is not a number: {}", self.text(column)))
    }
}

/// Runs every row of a file; all failing rows are reported, each with its id: the cell of that column.
/// A check returns (what, found, expected).
pub fn rows(file: &str, id: &str, check: impl Fn(&Row) -> Vec<(&'static str, String, String)>) {
    let path = format!("{}/tests/vectors/{file}", env!("CARGO_MANIFEST_DIR"));
    let mut reader = csv::Reader::from_path(&path).expect("the vectors are there");
    let columns: Vec<String> = reader.headers().expect("a header").iter().map(String::from).collect();
    let mut failures = Vec::new();
    let mut seen = 0;
    for (index, cells) in reader.records().enumerate() {
        let cells = cells.expect("a row").iter().map(String::from).collect();
        let row = Row { columns: columns.clone(), cells };
        seen += 1;
        let name =
            if id.is_empty() { format!("T={} U={}", row.text("total"), row.cells[1]) } else { row.text(id).to_owned() };
        for (what, found, expected) in check(&row) {
            if found != expected {
                failures.push(format!("{file} line {} {name}: {what} is {found}, expected {expected}", index + 2));
            }
        }
    }
    assert!(seen > 0, "{file} holds no rows");
    assert!(failures.is_empty(), "{} of {seen} rows\n{}", failures.len(), failures.join("\n"));
}

/// The text of a value; for `None`, that of an empty cell.
pub fn shown(value: Option<impl ToString>) -> String {
    value.map_or_else(String::new, |v| v.to_string())
}
