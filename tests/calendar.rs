//! `sla-ledger calendar import`: the year is added to the calendar, or the calendar is unchanged.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sla_ledger::domain::workdays::Workdays;

const NOTICE: &str = r#"{"year": 2027, "papers": ["https://example.com/2027"], "days": [
  {"name": "元旦", "date": "2027-01-01", "isOffDay": true},
  {"name": "元旦", "date": "2027-01-02", "isOffDay": true},
  {"name": "元旦", "date": "2027-01-03", "isOffDay": true},
  {"name": "春节", "date": "2027-02-05", "isOffDay": true},
  {"name": "春节", "date": "2027-02-20", "isOffDay": false}
]}"#;

/// A directory with a copy of the calendar that is compiled in.
struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let directory = tempfile::tempdir().unwrap();
        let calendar = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/calendars/cn.csv");
        fs::copy(calendar, directory.path().join("cn.csv")).unwrap();
        Place { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn calendar(&self) -> String {
        fs::read_to_string(self.path("cn.csv")).unwrap()
    }

    /// Imports this notice: exit code, stdout, stderr.
    fn import(&self, notice: &str, more: &[&str]) -> (i32, String, String) {
        let file = self.path("year.json");
        fs::write(&file, notice).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_sla-ledger"));
        command.args(["calendar", "import"]).arg(file).arg("--into").arg(self.path("cn.csv")).args(more);
        let output = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
    }

    /// A notice that is refused for this reason; the calendar stays unchanged, and no other file is left.
    #[track_caller]
    fn refuses(&self, notice: &str, reason: &str) {
        let before = self.calendar();
        let (code, out, err) = self.import(notice, &[]);
        assert_eq!((code, out.as_str()), (1, ""), "{err}");
        assert!(err.contains(reason), "`{reason}` is not in: {err}");
        assert_eq!(self.calendar(), before);
        assert_eq!(fs::read_dir(self.directory.path()).unwrap().count(), 2);
    }
}

#[test]
fn a_year_is_added_once() {
    let place = Place::new();
    let before = place.calendar();
    let (code, out, err) = place.import(NOTICE, &["--dry-run"]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("off,2027-01-01,2027-01-03,2027,元旦\n"), "{out}");
    assert!(out.contains("4 days off, 1 weekend days worked"), "{out}");
    assert_eq!(place.calendar(), before);

    let (code, out, err) = place.import(NOTICE, &[]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("added to"), "{out}");
    let calendar = Workdays::from_csv(&place.calendar()).unwrap();
    let works = |day: &str| calendar.is_working_day(day.parse().unwrap());
    assert_eq!((works("2027-02-05"), works("2027-02-20"), works("2027-02-22")), (Some(false), Some(true), Some(true)));
    assert_eq!(works("2026-10-01"), Some(false));
    assert_eq!(fs::read_dir(place.directory.path()).unwrap().count(), 2);

    let after = place.calendar();
    let (code, out, _) = place.import(NOTICE, &[]);
    assert_eq!((code, out.contains("says the same")), (0, true), "{out}");
    assert_eq!(place.calendar(), after);
    place.refuses(&NOTICE.replace("02-05", "02-08"), "says something else about 2027-02-05");
}

#[test]
fn what_is_no_year_is_refused() {
    let place = Place::new();
    place.refuses("", "this is not a holiday-cn file");
    place.refuses(r#"{"year": 2027, "papers": [], "days": []}"#, "2027 has no days");
    place.refuses(&NOTICE.replace("\"2027-02-20\"", "\"2027-02-05\""), "2027-02-05 is both off and worked");
    // A day that the calendar knows otherwise, by another year's notice.
    let other = NOTICE.replace(
        "{\"name\": \"元旦\", \"date\": \"2027-01-01\", \"isOffDay\": true}",
        "{\"name\": \"元旦\", \"date\": \"2026-10-01\", \"isOffDay\": false}",
    );
    place.refuses(&other, "2026-10-01 is both off and worked");
}

#[test]
fn files_that_are_not_there_are_named() {
    let place = Place::new();
    fs::remove_file(place.path("cn.csv")).unwrap();
    let (code, _, err) = place.import(NOTICE, &[]);
    assert_eq!(code, 1);
    assert!(err.contains("cn.csv cannot be read; name the calendar with `--into`"), "{err}");
    assert!(!place.path("cn.csv").exists());
}
