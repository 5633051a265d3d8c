//! The figures of a rank over time: charts on one time axis with one cursor, or a line each on low screens.

use std::time::Duration;

use ratatui::layout::Rect;

use crate::{
    domain::{
        closeup::history::History,
        gpu::fold::Gpu,
        series::{Resolution, Series},
        state::{Rank, State},
        time::{Stamp, human},
    },
    tui::{
        app::App,
        text,
        theme::Role,
        view::{Pen, chart},
        words,
    },
};

/// Rows of a chart with its title, at least and at most.
const ROWS: (u16, u16) = (3, 6);
/// Lines for a figure each, from fewer rows on.
const LABEL: u16 = 26;

/// The time that all charts of a page have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Axis {
    pub(crate) resolution: Resolution,
    /// The newest time on it.
    pub(crate) end: Stamp,
}

impl Axis {
    /// The oldest time that can be on it.
    pub(crate) fn oldest(&self) -> Stamp {
        let cells = self.resolution.cells() as u64 - 1;
        Stamp(self.end.0.saturating_sub(cells * self.resolution.cell_ms()))
    }

    /// How many cells before the newest a time lies; `None` when it is not on the axis.
    fn back(&self, at: Stamp) -> Option<usize> {
        let cell = self.resolution.cell_ms();
        let back = (self.end.0 / cell).checked_sub(at.0 / cell)? as usize;
        (back < self.resolution.cells()).then_some(back)
    }
}

/// The axis of the page that is shown.
pub(crate) fn page_axis(app: &App) -> Axis {
    let state = app.state_of(app.node).unwrap_or(&app.state);
    let end = state.ended_at.unwrap_or(app.now_of(app.node));
    let span = state.started_at.map_or(0, |began| end.since(began).as_millis() as u64);
    // Rather the last two thirds well than all of it in a corner.
    let resolution = app.page.span.unwrap_or_else(|| Resolution::for_span(span * 2 / 3));
    Axis { resolution, end }
}

/// What a figure's numbers mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Percent,
    Mebibytes,
    Watts,
    Microseconds,
}

impl Unit {
    fn words(self, value: u32) -> String {
        match self {
            Unit::Percent => format!("{value} %"),
            Unit::Mebibytes => text::bytes(u64::from(value) << 20),
            Unit::Watts => format!("{value} W"),
            Unit::Microseconds => span_words(value),
        }
    }
}

/// `1.42 s`, `52 ms`, `310 µs`.
fn span_words(microseconds: u32) -> String {
    let us = f64::from(microseconds);
    match microseconds {
        0..1000 => format!("{microseconds} us"),
        1000..10_000 => format!("{:.1} ms", us / 1e3),
        10_000..1_000_000 => format!("{:.0} ms", us / 1e3),
        1_000_000..100_000_000 => format!("{:.2} s", us / 1e6),
        _ => human(Duration::from_micros(u64::from(microseconds))),
    }
}

/// One figure of a rank.
/// A name, what it tells, and how a value is written.
type Beside<'a> = (&'static str, &'a Series, fn(u32) -> String);

struct Figure<'a> {
    name: &'static str,
    series: &'a Series,
    unit: Unit,
    /// The upper edge; `None` is the largest value that is shown.
    max: Option<u32>,
    /// Another figure that is told beside it.
    also: Option<Beside<'a>>,
    /// 100 where a value wants a look.
    marks: Option<&'a Series>,
}

/// The figures that exist, the most telling first.
fn figures<'a>(app: &'a App, rank: &Rank) -> Vec<Figure<'a>> {
    let mut figures = Vec::new();
    let mut add = |name, series: &'a Series, unit, max| {
        if !series.is_empty() {
            figures.push(Figure { name, series, unit, max, also: None, marks: None });
        }
    };
    let history: Option<&History> = app.page.history.as_ref();
    if let Some(history) = history {
        add("step", &history.step_us, Unit::Microseconds, None);
    }
    let gpu = gpu_of(app, rank);
    if let Some(gpu) = gpu {
        let total = gpu.sample.mem_total_bytes.map(|bytes| (bytes >> 20) as u32);
        add("GPU", &gpu.history.util_pct, Unit::Percent, Some(100));
        add("GPU memory", &gpu.history.mem_mib, Unit::Mebibytes, total);
        add("power", &gpu.history.power_w, Unit::Watts, gpu.sample.power_limit_mw.map(|limit| limit / 1000));
    }
    if let Some(history) = history {
        add("CPU", &history.cpu_pct, Unit::Percent, None);
        add("memory", &history.rss_mib, Unit::Mebibytes, None);
    }
    if let Some((figure, gpu)) = figures.iter_mut().find(|figure| figure.name == "power").zip(gpu) {
        figure.also = Some(("SM", &gpu.history.sm_clock_mhz, |mhz| format!("{mhz} MHz")));
        figure.marks = Some(&gpu.history.throttled_pct);
    }
    figures
}

fn gpu_of<'a>(app: &'a App, rank: &Rank) -> Option<&'a Gpu> {
    let state: &State = app.state_of(app.node)?;
    state.gpus.as_ref()?.of_rank(rank.local_rank).map(|(gpu, ..)| gpu)
}

/// How many figures there are.
pub(super) fn count(app: &App, rank: &Rank) -> usize {
    figures(app, rank).len()
}

/// Rows for so many charts and their axis, of at most `most`.
pub(super) fn height(figures: usize, most: u16) -> u16 {
    let figures = figures as u16;
    let each = (most.saturating_sub(1) / figures.max(1)).clamp(ROWS.0, ROWS.1);
    (figures * each + 1).min(most)
}

pub(super) fn draw(app: &App, rank: &Rank, pen: &mut Pen, area: Rect) {
    let figures = figures(app, rank);
    if area.height < 2 || figures.is_empty() {
        return;
    }
    let inner = Rect { x: area.x + 2, width: area.width.saturating_sub(3), ..area };
    let axis = page_axis(app);
    let rows = inner.height - 1;
    if rows < ROWS.0 || rows < ROWS.0 * figures.len().min(2) as u16 || area.width < super::WIDE.0 / 2 + 10 {
        lines(app, pen, inner, &axis, &figures);
    } else {
        charts(app, pen, inner, &axis, &figures);
    }
}

/// Values of the `cells` newest cells of an axis. Looks come once a second or a little later: a cell or two without a
/// look between others that have one are no gap.
fn window(axis: &Axis, series: &Series, cells: usize) -> Vec<Option<u32>> {
    let mut values = series.window(axis.resolution, axis.end, cells);
    for at in 1..values.len().saturating_sub(1) {
        let goes_on = || values[at + 1..].iter().take(2).any(Option::is_some);
        if values[at].is_none() && goes_on() {
            values[at] = values[at - 1];
        }
    }
    values
}

/// The value at the upper edge of a figure: what it can be at most, or a fourth more than what is shown.
fn edge(figure: &Figure, values: &[Option<u32>]) -> u32 {
    let largest = values.iter().flatten().copied().max().unwrap_or(1);
    let roomy = largest.saturating_add(largest / 4);
    match (figure.max, figure.unit) {
        (Some(max), _) => max.max(1),
        (None, Unit::Percent) => roomy.div_ceil(100).max(1) * 100,
        (None, _) => roomy.max(1),
    }
}

/// The value at the cursor, or the newest of the last cells.
fn value_at(app: &App, axis: &Axis, values: &[Option<u32>]) -> Option<u32> {
    match app.page.cursor {
        Some(at) => values[values.len().checked_sub(1 + axis.back(at)?)?],
        // The cell that is being filled may have nothing yet.
        None => values.iter().rev().take(3).find_map(|value| *value),
    }
}

fn title(app: &App, axis: &Axis, figure: &Figure, values: &[Option<u32>]) -> String {
    let told = |value: Option<u32>, words: &dyn Fn(u32) -> String| value.map_or("n/a".into(), words);
    let value = value_at(app, axis, values);
    let mut title = format!("{} {}", figure.name, told(value, &|value| figure.unit.words(value)));
    if figure.unit == Unit::Microseconds
        && let Some(us) = value.filter(|us| *us > 0)
    {
        title += &format!(", {:.2} a second", 1e6 / f64::from(us));
    }
    if let Some((name, series, words)) = figure.also {
        let other = window(axis, series, values.len());
        title += &format!(", {name} {}", told(value_at(app, axis, &other), &words));
    }
    title
}

/// Charts over each other, and the axis below.
fn charts(app: &App, pen: &mut Pen, area: Rect, axis: &Axis, figures: &[Figure]) {
    let fitting = (((area.height - 1) / ROWS.0) as usize).min(figures.len());
    let each = ((area.height - 1) / fitting.max(1) as u16).min(ROWS.1);
    // Two dots for each column; where there are more dots than values, some values have several.
    let dots = usize::from(area.width) * 2;
    let cells = axis.resolution.cells().min(dots);
    let place = |back: usize| cells.checked_sub(1 + back).map(|cell| (cell * dots).div_ceil(cells));
    let state = app.state_of(app.node).unwrap_or(&app.state);
    let restarts = state.attempts.iter().skip(1).filter_map(|attempt| axis.back(attempt.started_at));
    let rules: Vec<usize> = restarts.filter_map(place).collect();
    let wide = |values: &[Option<u32>]| -> Vec<Option<u32>> {
        (0..dots).map(|dot| values[dot * cells / dots]).collect()
    };
    for (n, figure) in figures.iter().take(fitting).enumerate() {
        let values = window(axis, figure.series, cells);
        let max = edge(figure, &values);
        let marks: Vec<bool> = figure.marks.map_or(Vec::new(), |marks| {
            wide(&window(axis, marks, cells)).iter().map(|mark| mark.is_some_and(|mark| mark > 0)).collect()
        });
        let (title, scale) = (title(app, axis, figure, &values), figure.unit.words(max));
        let shown = chart::Chart {
            title: &title,
            values: &wide(&values),
            max,
            scale: &scale,
            rules: &rules,
            marks: &marks,
        };
        chart::draw(pen, Rect { y: area.y + n as u16 * each, height: each, ..area }, &shown);
    }
    let foot = area.y + fitting as u16 * each;
    let cursor = app.page.cursor.and_then(|at| axis.back(at)).and_then(place).map(|dot| (dot / 2) as u16);
    if let Some(x) = cursor {
        for n in 0..fitting as u16 {
            let y = area.y + n * each + 1;
            pen.invert(Rect { x: area.x + x, y, width: 1, height: each - 1 });
        }
    }
    let foot = Rect { y: foot, height: 1, ..area };
    axis_line(app, pen, foot, (axis, cells), cursor, !rules.is_empty());
}

/// How far back the axis goes, where its cursor stands, and what the rules mean.
fn axis_line(
    app: &App,
    pen: &mut Pen,
    area: Rect,
    (axis, cells): (&Axis, usize),
    cursor: Option<u16>,
    has_rules: bool,
) {
    let back = human(Duration::from_millis(axis.resolution.cell_ms() * cells as u64));
    let over = app.state_of(app.node).is_some_and(|state| state.ended_at.is_some());
    pen.text(area.x, area.y, area.width, &format!("{back} ago"), Role::Dim);
    pen.right(area.x, area.y, area.width, if over { "end" } else { "now" }, Role::Dim);
    if let (Some(x), Some(at)) = (cursor, app.page.cursor) {
        let ago = human(axis.end.since(at));
        let clock = words::clock(at, app.now_of(app.node), app.offset_s);
        let label = format!(" {clock}, {ago} ago ");
        let cells = text::width(&label) as u16;
        let x = x.saturating_sub(cells / 2).min(area.width.saturating_sub(cells));
        pen.chip(area.x + x, area.y, cells + 2, label.trim(), Role::Accent);
    } else if has_rules {
        let label = format!("{} restart", app.glyphs.bar);
        pen.text(area.x + area.width / 2 - 5, area.y, area.width / 2, &label, Role::Dim);
    }
}

/// A line for each figure: what there is room for on a low screen.
fn lines(app: &App, pen: &mut Pen, area: Rect, axis: &Axis, figures: &[Figure]) {
    let label = LABEL.min(area.width / 2);
    let cells = usize::from(area.width.saturating_sub(label)).min(axis.resolution.cells());
    let rows = usize::from(area.height - 1);
    for (figure, y) in figures.iter().take(rows).zip(area.top()..) {
        let values = window(axis, figure.series, cells);
        let max = edge(figure, &values);
        let marked = figure
            .marks
            .is_some_and(|marks| window(axis, marks, cells).iter().flatten().any(|mark| *mark > 0));
        let name =
            if marked { format!("{} {}", app.glyphs.warn, figure.name) } else { figure.name.to_owned() };
        let value = value_at(app, axis, &values).map_or("n/a".into(), |value| figure.unit.words(value));
        let role = if marked { Role::Warn } else { Role::Dim };
        let used = pen.text(area.x, y, label.saturating_sub(1), &format!("{name} "), role);
        pen.right(area.x + used, y, label.saturating_sub(used + 2), &value, Role::Text);
        pen.text(area.x + label, y, cells as u16, &chart::spark(&values, max, app.glyphs), Role::Accent);
    }
    let shown = rows.min(figures.len()) as u16;
    let place = |back: usize| cells.checked_sub(1 + back).map(|cell| cell as u16);
    let state = app.state_of(app.node).unwrap_or(&app.state);
    let restarts: Vec<u16> =
        state.attempts.iter().skip(1).filter_map(|attempt| place(axis.back(attempt.started_at)?)).collect();
    for (x, y) in restarts.iter().flat_map(|x| (0..shown).map(move |row| (*x, area.y + row))) {
        pen.text(area.x + label + x, y, 1, app.glyphs.bar, Role::Border);
    }
    let cursor = app.page.cursor.and_then(|at| place(axis.back(at)?));
    if let Some(x) = cursor {
        pen.invert(Rect { x: area.x + label + x, y: area.y, width: 1, height: shown });
    }
    let foot = Rect { x: area.x + label, y: area.y + shown, width: cells as u16, height: 1 };
    axis_line(app, pen, foot, (axis, cells), cursor, false);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_steps_have_three_digits() {
        let words = [310, 5_230, 52_300, 1_420_000, 250_000_000].map(span_words);
        assert_eq!(words, ["310 us", "5.2 ms", "52 ms", "1.42 s", "4m 10s"]);
    }

    #[test]
    fn a_time_is_on_the_axis_or_not() {
        let axis = Axis { resolution: Resolution::Second, end: Stamp(1_000_000) };
        assert_eq!(axis.back(Stamp(1_000_000)), Some(0));
        assert_eq!(axis.back(axis.oldest()), Some(119));
        assert_eq!((axis.back(Stamp(880_000)), axis.back(Stamp(1_001_000))), (None, None));
    }
}
