//! What happened, oldest first.

use ratatui::layout::Rect;

use super::{Pen, first_shown};
use crate::tui::{app::App, text, theme::Role, words, words::EventLine};

/// The view: all that is remembered, and the whole of the selected event where a row cannot hold it.
pub(super) fn draw(app: &App, pen: &mut Pen, area: Rect) {
    if area.is_empty() {
        return;
    }
    let used = pen.rule(area, "events");
    let (chip, role) = if app.event.is_none() { ("FOLLOW", Role::Ok) } else { ("PAUSED", Role::Warn) };
    let x = area.x + used + 1;
    let x = x + pen.chip(x, area.y, area.right().saturating_sub(x), chip, role) + 1;
    if !app.event_find.is_empty() {
        let sought =
            format!(" /{}: {} of {} ", app.event_find, app.found_events().0.len(), app.event_lines().len());
        pen.text(x, area.y, area.right().saturating_sub(x), &sought, Role::Key);
    }
    let (lines, cursor) = app.found_events();
    let whole = lines.get(cursor).map(|line| whole(line, area.width)).unwrap_or_default();
    let below = if whole.is_empty() { 0 } else { (whole.len() as u16 + 1).min(area.height / 2) };
    let room = usize::from(area.height - 1 - below.min(area.height - 1));
    let first = first_shown(cursor, lines.len(), room);
    for ((n, line), y) in lines.iter().enumerate().skip(first).take(room).zip(area.y + 1..) {
        let place = Rect { y, height: 1, ..area };
        row(app, pen, line, place);
        if n == cursor {
            pen.over(place, Role::Selection);
            pen.text(area.x, y, 1, pen.glyphs.cursor, Role::Accent);
        }
    }
    for (line, y) in whole.iter().zip((area.bottom() + 1).saturating_sub(below)..area.bottom()) {
        pen.text(area.x + 2, y, area.width.saturating_sub(2), line, Role::Text);
    }
}

/// The pane of the overview: the newest.
pub(super) fn pane(app: &App, pen: &mut Pen, area: Rect) {
    if area.is_empty() {
        return;
    }
    pen.rule(area, "events");
    let room = usize::from(area.height - 1);
    let lines = app.event_lines();
    for (line, y) in lines.iter().skip(lines.len().saturating_sub(room)).zip(area.y + 1..) {
        row(app, pen, line, Rect { y, height: 1, ..area });
    }
}

fn row(app: &App, pen: &mut Pen, line: &EventLine, area: Rect) {
    let clock = words::clock(line.at, app.now, app.offset_s);
    // Narrow screens show hours and minutes; a date shows at all widths.
    let clock = if area.width < 60 { &clock[..clock.len() - 3] } else { &clock };
    let x = area.x + 1;
    let room = |x: u16| area.right().saturating_sub(x);
    let x = x + pen.text(x, area.y, room(x), clock, Role::Dim) + 1;
    let x = x + pen.text(x, area.y, room(x), line.glyph, line.role) + 1;
    pen.text(x, area.y, room(x), &line.text, line.role);
}

/// The text of an event over several lines; none when its row holds it.
fn whole(line: &EventLine, width: u16) -> Vec<String> {
    if text::width(&line.text) + 13 <= usize::from(width) {
        return Vec::new();
    }
    text::wrap_words(&line.text, usize::from(width.saturating_sub(3)).max(1))
}
