//! Where the ranks are in their Python code: folded, the odd ones on top, with the whole stack of the first.

use ratatui::layout::Rect;

use super::Pen;
use crate::{
    domain::{
        rank,
        stack::{Frame, Stacks},
    },
    tui::{app::App, text, theme::Role},
};

/// A line of the view.
type Line = (String, Role);

pub(super) fn draw(app: &App, pen: &mut Pen, area: Rect) {
    if area.is_empty() {
        return;
    }
    pen.rule(area, "stacks");
    let lines = shown(app, area.width);
    let room = usize::from(area.height - 1);
    let first = app.stacks.first.min(lines.len().saturating_sub(room));
    for ((line, role), y) in lines.iter().skip(first).zip(area.y + 1..area.bottom()) {
        let plain = app.glyphs.ascii.then(|| line.replace('×', "x").replace('←', "<-"));
        pen.text(area.x + 1, y, area.width.saturating_sub(1), plain.as_ref().unwrap_or(line), *role);
    }
}

/// How many lines there are at this width.
pub(super) fn length(app: &App, width: u16) -> usize {
    shown(app, width).len()
}

fn shown(app: &App, width: u16) -> Vec<Line> {
    match &app.stacks.stacks {
        Some(stacks) => lines(stacks, usize::from(width.saturating_sub(2)).max(1)),
        None => vec![("not asked for yet: press s".into(), Role::Dim)],
    }
}

fn lines(stacks: &Stacks, width: usize) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    let has_odd = !stacks.odd().is_empty();
    for (at, group) in stacks.groups.iter().enumerate() {
        let role = if at == 0 && has_odd { Role::Warn } else { Role::Text };
        let place = group.at.as_ref().map(|at| format!("  ({at})")).unwrap_or_default();
        lines.push((format!("{:>4} × {}{place}", group.ranks.len(), group.line), role));
        lines.push((format!("       {}", rank::list(&group.ranks)), Role::Dim));
    }
    for failed in &stacks.failed {
        let told = format!("no stack of {}: {}", rank::list(&failed.ranks), failed.why);
        lines.extend(text::wrap_words(&told, width).into_iter().map(|line| (line, Role::Warn)));
    }
    if let Some(group) = stacks.groups.first().filter(|_| stacks.threads.is_empty()) {
        let by = group.source.name();
        lines.push((String::new(), Role::Text));
        lines.push((format!("rank {}, innermost first, read by {by}", group.ranks[0]), Role::Title));
        lines.extend(group.frames.iter().map(frame));
    }
    for thread in &stacks.threads {
        let unnamed = if thread.is_main { "MainThread" } else { "thread" };
        let gil = if thread.holds_gil == Some(true) { ", holds Python's lock" } else { "" };
        lines.push((String::new(), Role::Text));
        lines.push((format!("{}{gil}", thread.name.as_deref().unwrap_or(unnamed)), Role::Title));
        lines.extend(thread.frames.iter().map(frame));
    }
    lines
}

fn frame(frame: &Frame) -> Line {
    (format!("  {} ({}:{})", frame.name, frame.file, frame.line), Role::Text)
}
