//! The help: the key table, as it is.

use ratatui::layout::Rect;

use super::Pen;
use crate::tui::{app::App, keys::Scope, theme::Role};

/// A heading, or keys with what they do.
enum Line {
    Gap,
    Heading(&'static str),
    Keys(String, &'static str, bool),
}

fn lines(app: &App, scopes: &[Scope]) -> Vec<Line> {
    let mut lines = Vec::new();
    for scope in scopes {
        if !lines.is_empty() {
            lines.push(Line::Gap);
        }
        lines.push(Line::Heading(scope.name()));
        let lines_of = app.keymap.lines().filter(|(binding, _)| binding.scope == *scope);
        let bound = lines_of.map(|(binding, keys)| (binding, keys.collect::<Vec<_>>().join(" ")));
        let bound = bound.filter(|(_, keys)| !keys.is_empty());
        lines.extend(bound.map(|(binding, keys)| Line::Keys(keys, binding.help, binding.changes)));
    }
    lines
}

/// The columns of the help at this width.
fn columns(app: &App, area: Rect) -> Vec<Vec<Line>> {
    let is_shown = |scope: &Scope| *scope != Scope::Replay || app.replay.is_some();
    let mut special: Vec<Scope> =
        Scope::ALL.into_iter().filter(|scope| *scope != Scope::Everywhere && is_shown(scope)).collect();
    if app.replay.is_some() {
        // What is new to who plays a recording comes first.
        special.rotate_right(1);
    }
    if area.width >= 110 {
        vec![lines(app, &[Scope::Everywhere]), lines(app, &special)]
    } else {
        vec![lines(app, &[&special[..], &[Scope::Everywhere]].concat())]
    }
}

/// Rows inside of the box.
fn room(area: Rect) -> usize {
    usize::from(area.height.saturating_sub(3))
}

/// The largest first line that the help can be scrolled to.
pub(super) fn end(app: &App, area: Rect) -> usize {
    let longest = columns(app, area).iter().map(Vec::len).max().unwrap_or(0);
    longest.saturating_sub(room(area))
}

pub(super) fn draw(app: &App, pen: &mut Pen, area: Rect, first: usize) {
    let area = Rect { height: area.height.saturating_sub(1), ..area };
    let inner = pen.boxed(area, "keys", Role::BorderFocus);
    if inner.is_empty() {
        return;
    }
    let columns = columns(app, area);
    let longest = columns.iter().map(Vec::len).max().unwrap_or(0);
    let left = longest.saturating_sub(first + usize::from(inner.height));
    if left > 0 && area.height > 2 {
        let more = format!(" {left} more: j ");
        let y = inner.bottom();
        pen.text(inner.x + 1, y, inner.width.saturating_sub(1), &more, Role::Key);
    }
    let cells = inner.width / columns.len() as u16;
    for (column, x) in columns.iter().zip((inner.x..).step_by(usize::from(cells.max(1)))) {
        for (line, y) in column.iter().skip(first).zip(inner.top()..inner.bottom()) {
            match line {
                Line::Gap => {}
                Line::Heading(name) => {
                    pen.text(x + 1, y, cells - 1, name, Role::Title);
                }
                Line::Keys(keys, help, changes) => {
                    let off = *changes && app.read_only.is_some();
                    let (key_role, role) =
                        if off { (Role::Border, Role::Border) } else { (Role::Key, Role::Text) };
                    let gap = if cells < 50 { 11 } else { 16 };
                    pen.text(x + 2, y, (gap - 3).min(cells.saturating_sub(2)), keys, key_role);
                    pen.text(x + gap, y, cells.saturating_sub(gap), help, role);
                }
            }
        }
    }
}
