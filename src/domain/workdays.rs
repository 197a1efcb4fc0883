//! Working days, claim windows and claim states (clause 3.2).
//!
//! China's holidays and the weekend days worked for them are announced year by year, so a year that has not been
//! entered is *unknown*: it is never treated as a year without holidays. The list is CSV, [`Workdays::from_csv`]; a
//! year is added to it from the JSON of the holiday-cn project, [`HolidayYear::from_holiday_cn`] and [`merge_into`].

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, LazyLock};

use chrono::{Datelike, NaiveDate};
use chrono_tz::Tz;
use serde::Deserialize;

use super::calendar::{LocalClock, LocalDay, Month};
use super::documents::{ClaimEvent, ClaimEventKind};
use super::policy::{ClaimOpens, ClaimRule};
use super::term::Period;

/// The working days of a country, as far as they are known. In the default every day is unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Workdays {
    /// Days that are known, as first and last ones.
    covered: Vec<(LocalDay, LocalDay)>,
    /// Known days on which the weekday does not decide: is it a working day?
    exceptions: BTreeMap<LocalDay, bool>,
}

/// When a claim can be filed, both days included (clause 3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClaimWindow {
    /// First day; `None` = provisional: it needs working days that are not known.
    pub opens: Option<LocalDay>,
    /// Last day.
    pub last_day: LocalDay,
}

/// The state of a service month's claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClaimState {
    /// The service month is not over.
    Running,
    /// It is over; the window is not open yet, or its opening is unknown.
    Ended,
    /// The window is open.
    Claimable,
    /// The window is over.
    Expired,
    /// A claim was filed.
    Filed,
    /// The compensation was paid.
    Paid,
    /// The claim was refused.
    Rejected,
}

/// One year's notice of holidays and of weekend days worked for them. Its days may reach into adjacent years.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HolidayYear {
    /// The year of the notice.
    pub year: i32,
    /// Where the notice is published.
    pub papers: Vec<String>,
    /// The days by date, without duplicates.
    pub days: BTreeMap<LocalDay, Holiday>,
}

/// A day that a notice names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holiday {
    /// The holiday it belongs to: `春节`.
    pub name: String,
    /// Is it a day off? Otherwise it is worked.
    pub off: bool,
}

const CHINA: &str = include_str!("../../config/calendars/cn.csv");
const FORMAT: &str = "write `kind,from,to,year,name` with coverage, off or work first, and dates as 2026-10-01";
/// The columns of a calendar, which has no header: name, format, meaning. The last may be absent.
pub const COLUMNS: [[&str; 3]; 5] = [
    [
        "kind",
        "coverage, off or work",
        "coverage: these days are known. off: they are not worked. work: weekend days that are worked. Of known days \
         that no other row names, Monday to Friday are worked.",
    ],
    ["from", "date", "The first day."],
    ["to", "date", "The last day, at most a year after `from`."],
    ["year", "year", "The year of the notice that says so."],
    ["name", "text", "The holiday, or where the notice is published."],
];
/// Maximum number of days in a line: more is taken for a typo.
const LONGEST_RUN: i32 = 366;

impl Workdays {
    /// From lines of `kind,from,to,year,name`: `coverage` says which days are known, `off` which do not work, `work`
    /// which weekend days do. Dates are inclusive. Of days not listed, Monday to Friday work. `#` begins a comment.
    ///
    /// # Errors
    /// A line of another kind, or a day that is both off and worked; with the line's number.
    pub fn from_csv(text: &str) -> Result<Self, String> {
        let mut workdays = Self::default();
        for row in rows(text) {
            let Row { line, kind, first, last, .. } = row?;
            let works = match kind {
                Kind::Coverage => {
                    workdays.covered.push((first, last));
                    continue;
                }
                Kind::Off => false,
                Kind::Work => true,
            };
            for day in (first.0..=last.0).map(LocalDay) {
                if workdays.exceptions.insert(day, works).is_some_and(|before| before != works) {
                    return Err(format!("line {line}: {day} is both off and worked; keep one of them"));
                }
            }
        }
        workdays.covered.sort_unstable();
        Ok(workdays)
    }

    /// China's, compiled in.
    ///
    /// # Panics
    /// Never on data: the list is part of the program, and a test reads it.
    pub fn china() -> Arc<Self> {
        static PARSED: LazyLock<Arc<Workdays>> = LazyLock::new(|| {
            #[expect(clippy::expect_used, reason = "the list is compiled in")]
            Arc::new(Workdays::from_csv(CHINA).expect("the compiled-in calendar is valid"))
        });
        PARSED.clone()
    }

    /// Is it a working day? `None` if unknown.
    pub fn is_working_day(&self, day: LocalDay) -> Option<bool> {
        let covered = self.covered.iter().any(|(first, last)| (*first..=*last).contains(&day));
        covered.then(|| self.exceptions.get(&day).copied().unwrap_or_else(|| is_weekday(day)))
    }

    /// The `n`-th working day of a month, from 1; `None` when a day up to it is unknown, or the month has fewer.
    pub fn nth_working_day(&self, month: Month, n: u32) -> Option<LocalDay> {
        let mut left = n.checked_sub(1)?;
        for day in (month.first_day().0..=month.last_day().0).map(LocalDay) {
            match (self.is_working_day(day)?, left) {
                (false, _) => {}
                (true, 0) => return Some(day),
                (true, _) => left -= 1,
            }
        }
        None
    }

    /// The first working day after this one; `None` when a day up to it is unknown.
    fn next_working_day(&self, day: LocalDay) -> Option<LocalDay> {
        let mut next = LocalDay(day.0.checked_add(1)?);
        while !self.is_working_day(next)? {
            next.0 += 1;
        }
        Some(next)
    }
}

impl ClaimWindow {
    /// The window of a service month that ends with `period_last`.
    pub fn of(period_last: LocalDay, rule: &ClaimRule, workdays: &Workdays) -> Self {
        let nth = workdays.nth_working_day(period_last.month().next(), rule.working_day);
        let opens = nth.and_then(|nth| match rule.opens {
            ClaimOpens::DayAfter => Some(LocalDay(nth.0 + 1)),
            ClaimOpens::OnNth => Some(nth),
            ClaimOpens::NextWorkday => workdays.next_working_day(nth),
        });
        Self { opens, last_day: LocalDay(period_last.0.saturating_add_unsigned(rule.last_day_after)) }
    }

    /// The calendar year that is missing to determine when this window opens; `None` if the opening is known.
    pub fn missing_year(period_last: LocalDay, rule: &ClaimRule, workdays: &Workdays) -> Option<i32> {
        if Self::of(period_last, rule, workdays).opens.is_some() {
            return None;
        }
        // The claim's month, and the next one, for a working day that follows a holiday at its end.
        let month = period_last.month().next();
        let mut days = (month.first_day().0..=month.next().last_day().0).map(LocalDay);
        days.find(|day| workdays.is_working_day(*day).is_none()).map(|day| day.date().year())
    }
}

impl ClaimState {
    /// Every state, in the order in which a claim passes through them.
    pub const ALL: [Self; 7] =
        [Self::Running, Self::Ended, Self::Claimable, Self::Expired, Self::Filed, Self::Paid, Self::Rejected];

    /// The state's name in outputs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Ended => "ended",
            Self::Claimable => "claimable",
            Self::Expired => "expired",
            Self::Filed => "filed",
            Self::Paid => "paid",
            Self::Rejected => "rejected",
        }
    }
}

/// The state of the claim for `period` at `now_ms`. `events` are those of its tenant and service month, in the order in
/// which they were recorded. The last one that had happened by then decides, if it is about the claim: `filed`, `paid`,
/// `rejected`; after `withdrawn` the dates decide again. Without a known opening, the state is `Ended` until the last
/// day.
pub fn claim_state(period: Period, window: ClaimWindow, zone: Tz, now_ms: i64, events: &[&ClaimEvent]) -> ClaimState {
    let happened = events.iter().filter(|event| event.at_ms <= now_ms).rev();
    let told = happened.map(|event| event.event).find(|event| *event != ClaimEventKind::OtherDamages);
    match told {
        Some(ClaimEventKind::Filed) => return ClaimState::Filed,
        Some(ClaimEventKind::Paid) => return ClaimState::Paid,
        Some(ClaimEventKind::Rejected) => return ClaimState::Rejected,
        Some(ClaimEventKind::Withdrawn | ClaimEventKind::OtherDamages) | None => {}
    }
    let today = LocalClock::new(zone).day(now_ms);
    match window.opens {
        _ if today <= period.last => ClaimState::Running,
        _ if today > window.last_day => ClaimState::Expired,
        Some(opens) if today >= opens => ClaimState::Claimable,
        _ => ClaimState::Ended,
    }
}

impl HolidayYear {
    /// From a year's file of the holiday-cn project: `{"year":2026,"papers":["https://…"],"days":[{"name":"元旦",
    /// "date":"2026-01-01","isOffDay":true},…]}`.
    ///
    /// # Errors
    /// Not that format; a year without days, that is, not announced yet; days beyond the adjacent years; a day that is
    /// both off and worked.
    pub fn from_holiday_cn(json: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct File {
            year: i32,
            #[serde(default)]
            papers: Vec<String>,
            days: Vec<Day>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Day {
            name: String,
            date: String,
            is_off_day: bool,
        }
        let File { year, papers, days } = serde_json::from_str(json).map_err(|e| {
            format!("this is not a holiday-cn file ({e}); take a year's file of NateScarlet/holiday-cn")
        })?;
        if !(1000..=9998).contains(&year) {
            return Err(format!("{year} is not a year of four digits; correct `year`"));
        }
        if days.is_empty() {
            return Err(format!("{year} has no days: its holidays are not announced yet; try again after November"));
        }
        if let Some(text) = papers.iter().chain(days.iter().map(|day| &day.name)).find(|s| s.contains(char::is_control))
        {
            return Err(format!("`{}` holds control characters; take them out", text.escape_debug()));
        }
        let mut known: BTreeMap<LocalDay, Holiday> = BTreeMap::new();
        for Day { name, date, is_off_day: off } in days {
            let day = parse_day(&date).filter(|day| (year - 1..=year + 1).contains(&day.date().year()));
            let day = day.ok_or_else(|| {
                format!("`{}` is not a date in or next to {year}; write it as {year}-10-01", date.escape_debug())
            })?;
            if known.get(&day).is_some_and(|before| before.off != off) {
                return Err(format!("{day} is both off and worked; keep one of them"));
            }
            known.entry(day).or_insert(Holiday { name, off });
        }
        Ok(Self { year, papers, days: known })
    }

    /// Lines as [`Workdays::from_csv`] reads them: the coverage of the whole year, then runs of days, holiday by
    /// holiday, days off before days worked.
    pub fn to_csv_rows(&self) -> String {
        self.coverage_row() + &self.exception_rows()
    }

    fn coverage_row(&self) -> String {
        let year = self.year;
        format!("coverage,{year}-01-01,{year}-12-31,{year},{}\n", self.papers.join(" "))
    }

    fn exception_rows(&self) -> String {
        // Runs of one holiday and kind, and for each holiday its place: that of its first day off.
        let mut runs: Vec<(LocalDay, LocalDay, &Holiday)> = Vec::new();
        let mut place: BTreeMap<&str, (bool, LocalDay)> = BTreeMap::new();
        for (&day, holiday) in &self.days {
            match runs.last_mut() {
                Some((_, last, before)) if last.0 + 1 == day.0 && *before == holiday => *last = day,
                _ => runs.push((day, day, holiday)),
            }
            let at = (!holiday.off, day);
            place.entry(&holiday.name).and_modify(|first| *first = at.min(*first)).or_insert(at);
        }
        runs.sort_by_key(|(first, _, holiday)| {
            let first_day_off = place.get(&*holiday.name).map_or(*first, |(_, day)| *day);
            (first_day_off, &holiday.name, !holiday.off, *first)
        });
        runs.iter().fold(String::new(), |mut text, (first, last, Holiday { name, off })| {
            let kind = if *off { "off" } else { "work" };
            // Writing to a string does not fail.
            let _ = writeln!(text, "{kind},{first},{last},{},{name}", self.year);
            text
        })
    }
}

/// A calendar's text with one more year; unchanged if it already has the same year.
///
/// # Errors
/// The text is not a calendar, says something else about the year, or contradicts it on a day.
pub fn merge_into(csv_text: &str, added: &HolidayYear) -> Result<String, String> {
    Workdays::from_csv(csv_text)?;
    let year = added.year;
    let rows: Vec<Row> = rows(csv_text).collect::<Result<_, _>>()?;
    let bounds = |month: u32, day: u32| NaiveDate::from_ymd_opt(year, month, day).unwrap_or_default().into();
    let (first_day, last_day): (LocalDay, LocalDay) = (bounds(1, 1), bounds(12, 31));
    let coverage = |row: &&Row| row.kind == Kind::Coverage && row.first <= last_day && first_day <= row.last;
    if let Some(row) = rows.iter().find(coverage) {
        let facts = rows.iter().filter(|row| row.kind != Kind::Coverage && row.year == year);
        let there: BTreeMap<LocalDay, bool> = facts
            .flat_map(|row| (row.first.0..=row.last.0).map(|day| (LocalDay(day), row.kind == Kind::Work)))
            .collect();
        let new: BTreeMap<LocalDay, bool> = added.days.iter().map(|(day, holiday)| (*day, !holiday.off)).collect();
        // A weekend day that is listed as off means the same as an unlisted one.
        let works = |facts: &BTreeMap<LocalDay, bool>, day| facts.get(&day).copied().unwrap_or_else(|| is_weekday(day));
        let differs = there.keys().chain(new.keys()).find(|day| works(&there, **day) != works(&new, **day));
        return match differs {
            Some(day) => Err(format!(
                "{year} is there already and says something else about {day}; compare it with the notice, and delete \
                 its lines to replace it"
            )),
            None if row.first <= first_day && last_day <= row.last => Ok(csv_text.to_owned()),
            None => {
                Err(format!("line {}: covers {year} only in part; delete the year's lines to replace it", row.line))
            }
        };
    }
    let mut lines: Vec<&str> = csv_text.lines().collect();
    let coverage_row = added.coverage_row();
    let last_coverage = rows.iter().filter(|row| row.kind == Kind::Coverage).map(|row| row.line).max();
    lines.insert(last_coverage.unwrap_or(lines.len()), coverage_row.trim_end());
    let merged = format!("{}\n{}", lines.join("\n"), added.exception_rows());
    Workdays::from_csv(&merged).map_err(|e| format!("with {year} added, {e}"))?;
    Ok(merged)
}

/// The meaning of a line of the calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Coverage,
    Off,
    Work,
}

/// A line of the calendar.
#[derive(Debug)]
struct Row {
    line: usize,
    kind: Kind,
    first: LocalDay,
    last: LocalDay,
    /// Of the notice; its days may be in adjacent years.
    year: i32,
}

/// The lines that are not comments.
fn rows(text: &str) -> impl Iterator<Item = Result<Row, String>> + '_ {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
    lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')).map(|(line, text)| row(line, text))
}

fn row(line: usize, text: &str) -> Result<Row, String> {
    // The name is the rest, commas and all.
    let cells: Vec<_> = text.splitn(5, ',').map(str::trim).collect();
    let [kind, first, last, year, ..] = cells[..] else {
        return Err(format!("line {line}: `{}` has too few columns; {FORMAT}", text.escape_debug()));
    };
    let kind = match kind {
        "coverage" => Kind::Coverage,
        "off" => Kind::Off,
        "work" => Kind::Work,
        _ => return Err(format!("line {line}: `{}` is not a kind of day; {FORMAT}", kind.escape_debug())),
    };
    let day = |text: &str| {
        parse_day(text).ok_or_else(|| format!("line {line}: `{}` is not a date; {FORMAT}", text.escape_debug()))
    };
    let (first, last) = (day(first)?, day(last)?);
    if last < first {
        return Err(format!("line {line}: {last} is before {first}; put the earlier day first"));
    }
    if last.0 - first.0 >= LONGEST_RUN {
        return Err(format!("line {line}: {first} to {last} is more than a year; write one line for each year"));
    }
    let valid = |year: &i32| (first.date().year() - 1..=last.date().year() + 1).contains(year);
    let year = year.parse().ok().filter(valid).ok_or_else(|| {
        format!("line {line}: `{}` is not the year of the notice for {first}; {FORMAT}", year.escape_debug())
    })?;
    Ok(Row { line, kind, first, last, year })
}

/// A date of exactly the form 2026-10-01.
fn parse_day(text: &str) -> Option<LocalDay> {
    text.parse().ok().filter(|day: &LocalDay| day.to_string() == text)
}

/// Monday to Friday?
fn is_weekday(day: LocalDay) -> bool {
    // 1970-01-01 was a Thursday.
    (i64::from(day.0) + 3).rem_euclid(7) < 5
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(text: &str) -> LocalDay {
        text.parse().unwrap_or_else(|e| panic!("`{text}`: {e}"))
    }

    /// The compiled-in calendar's year as a holiday-cn file.
    fn holiday_cn(year: i32) -> String {
        let mut papers = Vec::new();
        let mut days = Vec::new();
        for line in CHINA.lines().filter(|line| line.contains(&format!(",{year},"))) {
            let [kind, first, last, _, name] = line.splitn(5, ',').collect::<Vec<_>>()[..] else { panic!("{line}") };
            match kind {
                "coverage" => papers.push(serde_json::json!(name)),
                _ => days.extend((day(first).0..=day(last).0).map(
                    |d| serde_json::json!({"name": name, "date": LocalDay(d).to_string(), "isOffDay": kind == "off"}),
                )),
            }
        }
        serde_json::json!({"$schema": "…", "$id": "…", "year": year, "papers": papers, "days": days}).to_string()
    }

    /// The compiled-in calendar without a year's lines.
    fn without(year: i32) -> String {
        let other = |line: &&str| !line.contains(&format!(",{year},"));
        CHINA.lines().filter(other).map(|line| format!("{line}\n")).collect()
    }

    #[test]
    fn days_work_or_not_or_nobody_knows() {
        let china = Workdays::china();
        for (asked, expected) in [
            ("2021-12-31", None),
            ("2022-01-03", Some(false)),
            ("2022-01-04", Some(true)),
            ("2022-01-30", Some(true)),  // a Sunday, worked
            ("2026-10-07", Some(false)), // a Wednesday, off
            ("2026-10-10", Some(true)),  // a Saturday, worked
            ("2026-10-11", Some(false)),
            ("2026-10-12", Some(true)),
            ("2026-12-31", Some(true)),
            ("2027-01-01", None),
        ] {
            assert_eq!(china.is_working_day(day(asked)), expected, "{asked}");
        }
        assert_eq!(Workdays::default().is_working_day(day("2026-03-17")), None);
        let month = |text: &str| text.parse::<Month>().expect("a month");
        for (asked, n, expected) in [
            ("2026-10", 1, Some("2026-10-08")),
            ("2026-10", 5, Some("2026-10-13")),
            ("2026-10", 0, None),
            ("2026-02", 16, Some("2026-02-28")),
            ("2026-02", 17, None),
            ("2027-01", 1, None),
        ] {
            let found = china.nth_working_day(month(asked), n).map(|d| d.to_string());
            assert_eq!(found.as_deref(), expected, "{asked} {n}");
        }
    }

    #[test]
    fn a_bad_calendar_is_refused_with_its_line() {
        for (text, said) in [
            ("holiday,2026-01-01,2026-01-01,2026,x", "line 1: `holiday` is not a kind"),
            ("# c\n\noff,2026-01-01,2026-01-01", "line 3: `off,2026-01-01,2026-01-01` has too few columns"),
            ("off,2026-1-1,2026-01-01,2026,x", "line 1: `2026-1-1` is not a date"),
            ("off,2026-02-29,2026-03-01,2026,x", "line 1: `2026-02-29` is not a date"),
            ("off,2026-01-02,2026-01-01,2026,x", "line 1: 2026-01-01 is before 2026-01-02"),
            ("off,2026-01-01,2027-01-02,2026,x", "line 1: 2026-01-01 to 2027-01-02 is more than a year"),
            ("off,2026-01-01,2026-01-01,2206,x", "line 1: `2206` is not the year"),
            ("off,2026-01-01,2026-01-03,2026,x\nwork,2026-01-03,2026-01-04,2026,x", "line 2: 2026-01-03 is both"),
        ] {
            let error = Workdays::from_csv(text).expect_err(text);
            assert!(error.starts_with(said) && error.contains("; "), "{text}: {error}");
        }
        let sound = "\u{feff}coverage,2026-01-01,2026-12-31,2026\r\noff,2026-01-01,2026-01-01,2026,a, b\r\n";
        assert_eq!(Workdays::from_csv(sound).map(|w| w.is_working_day(day("2026-01-01"))), Ok(Some(false)));
    }

    #[test]
    fn an_unknown_year_makes_the_window_provisional() {
        let rule = |opens| ClaimRule { working_day: 5, opens, last_day_after: 60 };
        let china = Workdays::china();
        for opens in [ClaimOpens::DayAfter, ClaimOpens::OnNth, ClaimOpens::NextWorkday] {
            let window = ClaimWindow::of(day("2026-12-31"), &rule(opens), &china);
            assert_eq!(window, ClaimWindow { opens: None, last_day: day("2027-03-01") });
            assert_eq!(ClaimWindow::missing_year(day("2026-12-31"), &rule(opens), &china), Some(2027));
            assert_eq!(ClaimWindow::missing_year(day("2026-11-30"), &rule(opens), &china), None);
            assert_eq!(ClaimWindow::missing_year(day("2021-11-30"), &rule(opens), &china), Some(2021));
        }
        // The n-th working day is the last one known.
        let last = ClaimRule { working_day: 23, ..rule(ClaimOpens::NextWorkday) };
        assert_eq!(ClaimWindow::of(day("2026-11-30"), &last, &china).opens, None);
        assert_eq!(ClaimWindow::missing_year(day("2026-11-30"), &last, &china), Some(2027));
        let known = ClaimRule { opens: ClaimOpens::OnNth, ..last };
        assert_eq!(ClaimWindow::of(day("2026-11-30"), &known, &china).opens, Some(day("2026-12-31")));
    }

    #[test]
    fn events_decide_from_when_they_happen() {
        use ClaimEventKind::*;
        let period = Period { first: day("2026-03-17"), last: day("2026-03-31") };
        let window = ClaimWindow { opens: Some(day("2026-04-09")), last_day: day("2026-05-30") };
        let zone = chrono_tz::Asia::Shanghai;
        let noon = |text: &str| super::super::calendar::day_start_ms(zone, day(text)) + 43_200_000;
        let event = |(event, at): (ClaimEventKind, &str)| ClaimEvent {
            id: at.into(),
            tenant: "acme".into(),
            period_start: period.first,
            event,
            at_ms: noon(at),
            amount_minor: None,
            ticket: None,
            recorded_at_ms: 0,
        };
        for (events, now, expected) in [
            (&[][..], "2026-03-01", "running"),
            (&[], "2026-03-31", "running"),
            (&[], "2026-04-01", "ended"),
            (&[], "2026-04-09", "claimable"),
            (&[], "2026-05-30", "claimable"),
            (&[], "2026-05-31", "expired"),
            (&[(Filed, "2026-04-10")], "2026-04-09", "claimable"),
            (&[(Filed, "2026-04-10")], "2026-04-10", "filed"),
            (&[(Filed, "2026-04-10")], "2026-06-10", "filed"),
            (&[(Filed, "2026-04-10"), (Paid, "2026-04-20")], "2026-04-19", "filed"),
            (&[(Filed, "2026-04-10"), (Paid, "2026-04-20")], "2026-04-20", "paid"),
            (&[(Filed, "2026-04-10"), (Rejected, "2026-04-20")], "2026-04-20", "rejected"),
            (&[(Filed, "2026-04-10"), (OtherDamages, "2026-04-20")], "2026-04-20", "filed"),
            (&[(OtherDamages, "2026-04-20")], "2026-04-20", "claimable"),
            (&[(Filed, "2026-04-10"), (Withdrawn, "2026-04-20")], "2026-04-20", "claimable"),
            (&[(Filed, "2026-04-10"), (Withdrawn, "2026-04-20")], "2026-06-01", "expired"),
            (&[(Filed, "2026-04-10"), (Withdrawn, "2026-04-20"), (Filed, "2026-04-21")], "2026-04-21", "filed"),
        ] {
            let events: Vec<_> = events.iter().copied().map(event).collect();
            let state = claim_state(period, window, zone, noon(now), &events.iter().collect::<Vec<_>>());
            assert_eq!(state.as_str(), expected, "{now} {events:?}");
        }
        for (now, expected) in
            [("2026-03-31", "running"), ("2026-04-20", "ended"), ("2026-05-30", "ended"), ("2026-05-31", "expired")]
        {
            let window = ClaimWindow { opens: None, ..window };
            assert_eq!(claim_state(period, window, zone, noon(now), &[]).as_str(), expected, "{now}, provisional");
        }
    }

    #[test]
    fn a_year_of_holiday_cn_becomes_the_same_lines() {
        for year in 2022..=2026 {
            let parsed = HolidayYear::from_holiday_cn(&holiday_cn(year)).expect("a sound file");
            let own: String =
                CHINA.lines().filter(|l| l.contains(&format!(",{year},"))).map(|l| format!("{l}\n")).collect();
            assert_eq!(sorted(&parsed.to_csv_rows()), sorted(&own), "{year}");
            // Added to a calendar without it, the year is restored; added once more, nothing changes.
            let merged = merge_into(&without(year), &parsed).expect("a new year");
            assert_eq!(Workdays::from_csv(&merged).as_ref(), Ok(&*Workdays::china()), "{year}");
            assert_eq!(merge_into(&merged, &parsed).as_ref(), Ok(&merged));
            assert_eq!(merge_into(CHINA, &parsed).as_deref(), Ok(CHINA));
        }
        let last = HolidayYear::from_holiday_cn(&holiday_cn(2026)).expect("a sound file");
        assert_eq!(merge_into(&without(2026), &last).as_deref(), Ok(CHINA), "the last year is added where it belongs");
        assert_eq!(merge_into("", &last).map(|text| text.trim().to_owned()), Ok(last.to_csv_rows().trim().to_owned()));
    }

    fn sorted(text: &str) -> Vec<&str> {
        let mut lines: Vec<_> = text.lines().collect();
        lines.sort_unstable();
        lines
    }

    #[test]
    fn a_bad_year_is_refused() {
        let file = |days: &str| format!(r#"{{"year":2027,"papers":[],"days":[{days}]}}"#);
        let day = |date: &str, off: bool| format!(r#"{{"name":"元旦","date":"{date}","isOffDay":{off}}}"#);
        for (json, said) in [
            ("[]".into(), "this is not a holiday-cn file"),
            (r#"{"year":2027,"papers":[]}"#.into(), "this is not a holiday-cn file"),
            (file(""), "2027 has no days"),
            (file(&day("2025-12-31", true)), "`2025-12-31` is not a date in or next to 2027"),
            (file(&day("2029-01-01", true)), "`2029-01-01` is not a date"),
            (file(&day("2027-01-32", true)), "`2027-01-32` is not a date"),
            (file(&format!("{},{}", day("2027-01-01", true), day("2027-01-01", false))), "2027-01-01 is both"),
            (file(&day("2027-01-01", true)).replace("元旦", "a\\nb"), "`a\\nb` holds control characters"),
        ] {
            let error = HolidayYear::from_holiday_cn(&json).expect_err(&json);
            assert!(error.starts_with(said), "{json}: {error}");
        }
        let twice = file(&format!("{},{}", day("2026-12-31", true), day("2026-12-31", true)));
        let year = HolidayYear::from_holiday_cn(&twice).expect("the same twice");
        assert_eq!(year.to_csv_rows(), "coverage,2027-01-01,2027-12-31,2027,\noff,2026-12-31,2026-12-31,2027,元旦\n");
    }

    #[test]
    fn a_year_that_says_something_else_is_refused() {
        let mut year = HolidayYear::from_holiday_cn(&holiday_cn(2026)).expect("a sound file");
        // A Saturday in a holiday, listed or not, says the same.
        year.days.remove(&day("2026-10-03"));
        assert_eq!(merge_into(CHINA, &year).as_deref(), Ok(CHINA));
        year.days.remove(&day("2026-10-05"));
        let error = merge_into(CHINA, &year).expect_err("a Monday");
        assert!(error.contains("2026 is there already and says something else about 2026-10-05"), "{error}");
        // A contradiction between two notices, and half a year.
        let worked = HolidayYear {
            year: 2027,
            papers: Vec::new(),
            days: BTreeMap::from([(day("2026-10-03"), Holiday { name: "x".into(), off: false })]),
        };
        let error = merge_into(CHINA, &worked).expect_err("off and worked");
        assert!(error.contains("2026-10-03 is both off and worked"), "{error}");
        let empty = HolidayYear { days: BTreeMap::new(), ..worked };
        let error = merge_into("coverage,2027-01-01,2027-06-30,2027,x\n", &empty).expect_err("half a year");
        assert!(error.starts_with("line 1: covers 2027 only in part"), "{error}");
        assert!(merge_into("off", &empty).is_err());
    }
}
