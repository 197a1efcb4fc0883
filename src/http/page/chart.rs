//! Charts as SVG. Shapes have classes and no colours of their own, so that the style sheet's themes apply. A chart is a
//! picture beside its figures: whoever draws one also gives them as a table.

use std::fmt::Write;

use maud::{Markup, PreEscaped, html};

/// Units of a drawing, the width of a month's chart.
const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 54.0;
const RIGHT: f64 = 8.0;
const TOP: f64 = 22.0;
const BOTTOM: f64 = 24.0;
/// Horizontal lines that a scale has about.
const TICKS: f64 = 4.0;

/// A value on an axis, between its least and its greatest.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    from: f64,
    to: f64,
}

impl Scale {
    /// From `from` to a round number from `to` on.
    pub fn up_to(from: f64, to: f64) -> Self {
        let to = if to > from { to } else { from + 1.0 };
        let step = step((to - from) / TICKS);
        Self { from, to: from + ((to - from) / step).ceil() * step }
    }

    /// From a round number below `from` to `to`.
    pub fn down_to(from: f64, to: f64) -> Self {
        let from = if from < to { from } else { to - 1.0 };
        let step = step((to - from) / TICKS);
        Self { from: to - ((to - from) / step).ceil() * step, to }
    }

    fn ticks(self) -> Vec<f64> {
        let step = step((self.to - self.from) / TICKS);
        let count = ((self.to - self.from) / step).round() as u32;
        (0..=count).map(|place| self.from + f64::from(place) * step).collect()
    }

    /// Digits behind the point that tell its ticks apart.
    fn places(self) -> usize {
        let step = step((self.to - self.from) / TICKS);
        (0..6)
            .find(|places| {
                let scaled = step * 10f64.powi(*places);
                (scaled - scaled.round()).abs() < 1e-6
            })
            .unwrap_or(6) as usize
    }

    fn y(self, value: f64) -> f64 {
        let part = (value.clamp(self.from, self.to) - self.from) / (self.to - self.from);
        HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM)
    }
}

/// The round number (1, 2 or 5 times a power of ten) nearest to a size, from above.
fn step(size: f64) -> f64 {
    let power = 10f64.powf(size.max(1e-9).log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|digit| digit * power).find(|step| *step >= size * 0.999).unwrap_or(power)
}

/// The days of a month along the horizontal axis.
#[derive(Debug, Clone, Copy)]
pub(super) struct Days {
    /// How many.
    pub count: usize,
}

impl Days {
    fn width(self) -> f64 {
        (WIDTH - LEFT - RIGHT) / self.count.max(1) as f64
    }

    /// Where a day begins; parts of a day are fractions.
    fn x(self, day: f64) -> f64 {
        LEFT + day * self.width()
    }
}

/// A chart of a month under construction.
pub(super) struct Chart {
    days: Days,
    scale: Scale,
    shapes: Vec<Markup>,
}

/// A bar's part: its class, and how much.
pub(super) type Part = (&'static str, u64);

impl Chart {
    /// With the scale at the left, and the days below: their labels, each or each second or fifth one.
    pub fn new(scale: Scale, unit: &str, labels: &[String]) -> Self {
        let days = Days { count: labels.len() };
        let places = scale.places();
        let ticks = scale.ticks();
        let (right, below) = (WIDTH - RIGHT, HEIGHT - 8.0);
        let shapes = vec![html! {
            @for tick in &ticks {
                @let y = round(scale.y(*tick));
                line.grid x1=(LEFT) x2=(right) y1=(y) y2=(y) {}
                text.tick x=(LEFT - 6.0) y=(y + 4.0) text-anchor="end" { (format!("{tick:.places$}")) (unit) }
            }
            @for (place, label) in labels.iter().enumerate().filter(|(place, _)| place % 5 == 0) {
                text.tick x=(round(days.x(place as f64 + 0.5))) y=(below) text-anchor="middle" { (label) }
            }
        }];
        Self { days, scale, shapes }
    }

    /// A horizontal line over the whole month, named above its right end.
    pub fn level(mut self, value: f64, name: &str) -> Self {
        if value >= self.scale.from && value <= self.scale.to {
            let y = round(self.scale.y(value));
            self.shapes.push(html! {
                line.level x1=(LEFT) x2=(WIDTH - RIGHT) y1=(y) y2=(y) {}
                text.level-name x=(WIDTH - RIGHT) y=(round(y - 4.0)) text-anchor="end" { (name) }
            });
        }
        self
    }

    /// A vertical mark over some days, behind everything.
    pub fn mark(mut self, from: usize, to: usize, class: &str, name: &str) -> Self {
        let (x, width) =
            (round(self.days.x(from as f64)), round((to.saturating_sub(from) + 1) as f64 * self.days.width()));
        self.shapes.insert(0, html! {
            rect class={"mark " (class)} x=(x) y=(TOP) width=(width) height=(HEIGHT - TOP - BOTTOM) { title { (name) } }
        });
        self
    }

    /// A line through points: day (with its fraction) and value.
    pub fn line(mut self, class: &str, points: &[(f64, f64)]) -> Self {
        if points.is_empty() {
            return self;
        }
        let path = self.path(points);
        self.shapes.push(html! { path class={"line " (class)} d=(path) {} });
        if let [(day, value)] = points {
            let (x, y) = (round(self.days.x(*day)), round(self.scale.y(*value)));
            self.shapes.push(html! { circle class={"dot " (class)} cx=(x) cy=(y) r="3" {} });
        }
        self
    }

    /// What lies between a line and another one, whose points come in the other order of time.
    pub fn area(mut self, class: &str, points: &[(f64, f64)]) -> Self {
        if !points.is_empty() {
            let path = self.path(points) + "Z";
            self.shapes.push(html! { path class={"area " (class)} d=(path) {} });
        }
        self
    }

    fn path(&self, points: &[(f64, f64)]) -> String {
        let mut path = String::new();
        for (place, (day, value)) in points.iter().enumerate() {
            let (x, y) = (round(self.days.x(*day)), round(self.scale.y(*value)));
            _ = write!(path, "{}{x} {y}", if place == 0 { 'M' } else { 'L' });
        }
        path
    }

    /// A bar of parts on a day, from below; a link with its name if there is something in it.
    pub fn bar(mut self, day: usize, parts: &[Part], href: &str, name: &str) -> Self {
        if parts.iter().all(|(_, much)| *much == 0) {
            return self;
        }
        let (x, width) = (round(self.days.x(day as f64 + 0.12)), round(self.days.width() * 0.76));
        let mut below = 0;
        let rects: Vec<_> = parts
            .iter()
            .filter(|(_, much)| *much > 0)
            .map(|(class, much)| {
                let (bottom, top) = (self.scale.y(below as f64), self.scale.y((below + much) as f64));
                below += much;
                html! { rect class={"part " (class)} x=(x) width=(width) y=(round(top)) height=(round((bottom - top).max(1.0))) {} }
            })
            .collect();
        self.shapes.push(html! {
            a href=(href) aria-label=(name) { title { (name) } @for rect in &rects { (rect) } }
        });
        self
    }

    /// The drawing. `name` says what it shows, for whoever does not see it. `links`: it has links in it, so it is not an
    /// image to assistive technology.
    pub fn draw(self, name: &str, links: bool) -> Markup {
        let role = if links { "group" } else { "img" };
        html! {
            svg.chart viewBox={"0 0 " (WIDTH) " " (HEIGHT)} role=(role) aria-label=(name) {
                @for shape in &self.shapes { (shape) }
            }
        }
    }
}

/// Small bars beside one another, for a cell of a table. As high as the greatest of them.
pub(super) fn spark(values: &[u64], name: &str) -> Markup {
    const HIGH: f64 = 20.0;
    const APART: f64 = 4.0;
    let most = values.iter().copied().max().unwrap_or(0).max(1) as f64;
    let mut path = String::new();
    for (place, value) in values.iter().enumerate().filter(|(_, value)| **value > 0) {
        let high = (*value as f64 / most * HIGH).max(1.5);
        _ = write!(path, "M{} {HIGH}v-{}", place as f64 * APART + APART / 2.0, round(high));
    }
    html! {
        svg.spark viewBox={"0 0 " (values.len() as f64 * APART) " " (HIGH)} role="img" aria-label=(name) preserveAspectRatio="none" {
            path d=(PreEscaped(path)) {}
        }
    }
}

/// A horizontal bar of a share in percent, for a cell of a table; beyond the whole it is full.
pub(super) fn share(percent: f64, class: &str) -> Markup {
    html! {
        svg.share viewBox="0 0 100 8" aria-hidden="true" preserveAspectRatio="none" {
            rect.whole width="100" height="8" {}
            rect class={"used " (class)} width=(round(percent.clamp(0.0, 100.0))) height="8" {}
        }
    }
}

/// A bar of a histogram: its label, how much, and its class.
pub(super) struct Column {
    pub label: String,
    pub much: u64,
    pub class: &'static str,
}

/// Columns beside one another, each with its number above and its label below.
pub(super) fn histogram(columns: &[Column], name: &str) -> Markup {
    const HIGH: f64 = 88.0;
    const WIDE: f64 = 44.0;
    let most = columns.iter().map(|column| column.much).max().unwrap_or(0).max(1) as f64;
    html! {
        svg.histogram viewBox={"0 0 " (columns.len() as f64 * WIDE) " " (HIGH + 32.0)} role="img" aria-label=(name) {
            @for (place, column) in columns.iter().enumerate() {
                @let x = place as f64 * WIDE;
                @let high = if column.much == 0 { 0.0 } else { (column.much as f64 / most * HIGH).max(1.5) };
                @if column.much > 0 {
                    rect class={"part " (column.class)} x=(x + 3.0) width=(WIDE - 6.0) y=(round(HIGH - high + 14.0)) height=(round(high)) {}
                    text.tick x=(x + WIDE / 2.0) y=(round(HIGH - high + 10.0)) text-anchor="middle" { (column.much) }
                }
                text.tick x=(x + WIDE / 2.0) y=(HIGH + 28.0) text-anchor="middle" { (column.label) }
            }
            line.grid x1="0" x2=(columns.len() as f64 * WIDE) y1=(HIGH + 14.0) y2=(HIGH + 14.0) {}
        }
    }
}

/// A tenth of a unit is enough.
fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_end_at_round_numbers() {
        for (scale, ticks) in [
            (Scale::up_to(0.0, 100.0), vec![0.0, 50.0, 100.0]),
            (Scale::up_to(0.0, 7.0), vec![0.0, 2.0, 4.0, 6.0, 8.0]),
            (Scale::up_to(0.0, 0.0), vec![0.0, 0.5, 1.0]),
            (Scale::down_to(99.52, 100.0), vec![99.4, 99.6, 99.8, 100.0]),
        ] {
            let all = scale.ticks();
            assert_eq!(all.len(), ticks.len(), "{scale:?} {all:?}");
            assert!(all.iter().zip(&ticks).all(|(a, b)| (a - b).abs() < 1e-9), "{scale:?} {all:?}");
        }
    }

    #[test]
    fn a_bar_is_as_high_as_its_parts() {
        let chart = Chart::new(Scale::up_to(0.0, 100.0), "", &["1".into(), "2".into()]);
        let drawn = chart.bar(0, &[("counted", 50), ("excluded", 50)], "calls?day=1", "day 1").draw("failures", true);
        let drawn = drawn.into_string();
        // 174 units are 100 failures.
        assert!(drawn.contains(r#"class="part counted" x="79.1" width="158.8" y="109" height="87""#), "{drawn}");
        assert!(drawn.contains(r#"class="part excluded" x="79.1" width="158.8" y="22" height="87""#), "{drawn}");
    }
}
