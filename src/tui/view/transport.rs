//! The line of a replay: whether and how fast it plays, where it is, and what is worth going to.

use ratatui::layout::Rect;

use super::Pen;
use crate::{
    domain::{
        replay::MarkKind,
        time::{Stamp, human},
    },
    tui::{
        app::{App, Replay},
        text::{self, Glyphs},
        theme::Role,
        words,
    },
};

/// What stands on both sides of the bar.
struct Parts {
    left: String,
    right: String,
}

fn parts(app: &App, replay: &Replay) -> Parts {
    let glyph = match (replay.playing, app.glyphs.ascii) {
        (true, false) => "▶",
        (false, false) => "‖",
        (true, true) => ">",
        (false, true) => "=",
    };
    // With the date, where the recording is of more than one day.
    let clock = words::clock(replay.at, other_day(replay), app.offset_s);
    let left = format!("{glyph} {}{}  {clock} ", replay.speed, app.glyphs.times);
    let into = human(replay.at.since(replay.begin));
    Parts { left, right: format!(" {into} of {}", human(replay.end.since(replay.begin))) }
}

fn other_day(replay: &Replay) -> Stamp {
    if replay.at.0 / 86_400_000 == replay.begin.0 / 86_400_000 { replay.end } else { replay.begin }
}

/// Where the bar lies.
fn bar(app: &App, replay: &Replay, area: Rect) -> Rect {
    let Parts { left, right } = parts(app, replay);
    let (left, right) = (text::width(&left) as u16, text::width(&right) as u16);
    let (left, right) = if area.width < left + right + 12 { (left, 0) } else { (left, right) };
    let width = area.width.saturating_sub(left + right + 2);
    Rect { x: area.x + 1 + left, width, ..area }.intersection(area)
}

pub(super) fn draw(app: &App, pen: &mut Pen, area: Rect) {
    let Some(replay) = app.replay.as_ref().filter(|_| !area.is_empty()) else { return };
    pen.fill(area);
    let Parts { left, right } = parts(app, replay);
    let role = if replay.playing { Role::Ok } else { Role::Accent };
    pen.text(area.x + 1, area.y, area.width.saturating_sub(1), &left, role);
    let bar = bar(app, replay, area);
    if bar.right() < area.right().saturating_sub(2) {
        pen.text(bar.right(), area.y, area.right() - bar.right(), &right, Role::Dim);
    }
    if bar.is_empty() {
        return;
    }
    let cell = |at: Stamp| bar.x + cell_of(replay.permille(at), bar.width);
    let here = cell(replay.at);
    for x in bar.left()..bar.right() {
        let (glyph, role) =
            if x < here { (full(app.glyphs), Role::Text) } else { (app.glyphs.line, Role::Border) };
        pen.glyph(x, bar.y, glyph, role);
    }
    // The worst of a cell is drawn last.
    let mut marks: Vec<_> = replay.marks.iter().collect();
    marks.sort_by_key(|mark| mark.kind);
    for mark in marks {
        let (glyph, role) = match mark.kind {
            MarkKind::Failure => (app.glyphs.bad, Role::Crit),
            MarkKind::Alert => (app.glyphs.warn, Role::Warn),
            MarkKind::Restart => (app.glyphs.again, Role::Info),
            MarkKind::Unknown => continue,
        };
        pen.glyph(cell(mark.at), bar.y, glyph, role);
    }
    pen.invert(Rect { x: here, width: 1, ..bar });
}

fn full(glyphs: Glyphs) -> &'static str {
    if glyphs.ascii { "=" } else { "━" }
}

/// The cell of a place on a bar of this width.
fn cell_of(permille: u16, width: u16) -> u16 {
    (u32::from(permille) * u32::from(width.saturating_sub(1)) / 1000) as u16
}

/// The place on the bar at this column, in tenths of a percent.
pub(super) fn place_at(app: &App, area: Rect, column: u16) -> Option<u16> {
    let bar = bar(app, app.replay.as_ref()?, area);
    let last = bar.width.checked_sub(1).filter(|last| *last > 0)?;
    let cell = column.checked_sub(bar.x).filter(|cell| *cell < bar.width)?;
    // Rounded up: the cell that was pressed is the one that is shown then.
    Some((u32::from(cell) * 1000).div_ceil(u32::from(last)) as u16)
}
