//! What happened, oldest first.

use ratatui::layout::Rect;

use super::{Pen, first_shown};
use crate::{
    domain::event::Event,
    tui::{app::App, text, theme::Role, words},
};

/// The view: all that is remembered, and the whole of the selected event where a row cannot hold it.
pub(super) fn draw(app: &App, pen: &mut Pen, area: Rect) {
    if area.is_empty() {
        return;
    }
    let used = pen.rule(area, "events");
    let (chip, role) = if app.event.is_none() { ("FOLLOW", Role::Ok) } else { ("PAUSED", Role::Warn) };
    pen.chip(area.x + used + 1, area.y, area.width.saturating_sub(used + 1), chip, role);
    let events = &app.state.recent;
    let cursor = app.event_at().unwrap_or(events.len().saturating_sub(1));
    let whole = app.selected_event().map(|event| whole(app, event, area.width)).unwrap_or_default();
    let whole = if whole.len() > 1 { whole } else { Vec::new() };
    let below = (whole.len() as u16 + 1).min(area.height / 2) * u16::from(!whole.is_empty());
    let room = usize::from(area.height - 1 - below.min(area.height - 1));
    let first = first_shown(cursor, events.len(), room);
    for ((n, event), y) in events.iter().enumerate().skip(first).take(room).zip(area.y + 1..) {
        let line = Rect { y, height: 1, ..area };
        row(app, pen, event, line);
        if n == cursor {
            pen.over(line, Role::Selection);
            pen.text(area.x, y, 1, pen.glyphs.cursor, Role::Accent);
        }
    }
    for (line, y) in whole.iter().zip(area.bottom() - below + 1..area.bottom()) {
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
    let events = &app.state.recent;
    for (event, y) in events.iter().skip(events.len().saturating_sub(room)).zip(area.y + 1..) {
        row(app, pen, event, Rect { y, height: 1, ..area });
    }
}

fn row(app: &App, pen: &mut Pen, event: &Event, area: Rect) {
    let Some((glyph, text, role)) = words::event(&app.state, event, app.glyphs) else { return };
    let clock = words::clock(event.at, app.now, app.offset_s);
    // Narrow screens show hours and minutes; a date shows at all widths.
    let clock = if area.width < 60 { &clock[..clock.len() - 3] } else { &clock };
    let x = area.x + 1;
    let room = |x: u16| area.right().saturating_sub(x);
    let x = x + pen.text(x, area.y, room(x), clock, Role::Dim) + 1;
    let x = x + pen.text(x, area.y, room(x), glyph, role) + 1;
    pen.text(x, area.y, room(x), &text, role);
}

fn whole(app: &App, event: &Event, width: u16) -> Vec<String> {
    let text = words::event(&app.state, event, app.glyphs).map(|(_, text, _)| text).unwrap_or_default();
    if text::width(&text) + 13 <= usize::from(width) {
        return Vec::new();
    }
    text::wrap_words(&text, usize::from(width.saturating_sub(3)).max(1))
}
