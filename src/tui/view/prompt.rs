//! The line that is typed at the foot of the screen, and what it can become.

use ratatui::layout::Rect;

use super::{Pen, first_shown};
use crate::{
    domain::filter::NUMBERS,
    tui::{
        app::{App, Candidate, Prompt, PromptKind},
        text,
        theme::Role,
    },
};

/// Most candidates on screen.
const MOST: u16 = 12;

pub(super) fn draw(app: &App, prompt: &Prompt, pen: &mut Pen, area: Rect) {
    if area.height < 4 || area.width < 16 || prompt.kind == PromptKind::Find {
        let foot = Rect { y: area.bottom().saturating_sub(1), height: area.height.min(1), ..area };
        pen.fill(foot);
        return line(prompt, pen, foot);
    }
    let candidates = match prompt.kind {
        PromptKind::Palette => app.candidates(),
        PromptKind::Filter | PromptKind::Find => Vec::new(),
    };
    let rows = match prompt.kind {
        PromptKind::Palette => (candidates.len() as u16).clamp(1, MOST),
        PromptKind::Filter | PromptKind::Find => 2,
    };
    let height = (rows + 3).min(area.height - 1);
    let place = Rect { y: area.bottom() - 1 - height, height, ..area };
    let title = match prompt.kind {
        PromptKind::Palette => "command",
        PromptKind::Filter | PromptKind::Find => "filter",
    };
    let inner = pen.boxed(place, title, Role::BorderFocus);
    let foot = Rect { y: inner.bottom().saturating_sub(1), height: inner.height.min(1), ..inner };
    line(prompt, pen, foot);
    let list = Rect { height: inner.height.saturating_sub(1), ..inner };
    match prompt.kind {
        PromptKind::Palette => list_candidates(app, prompt, &candidates, pen, list),
        PromptKind::Filter | PromptKind::Find => explain(prompt, pen, list),
    }
}

/// What was typed, and the place of the cursor.
fn line(prompt: &Prompt, pen: &mut Pen, area: Rect) {
    if area.is_empty() {
        return;
    }
    let sign = match prompt.kind {
        PromptKind::Palette => ":",
        PromptKind::Filter | PromptKind::Find => "/",
    };
    let mut x = area.x + pen.text(area.x, area.y, area.width, sign, Role::Key);
    let cells = usize::from(area.right().saturating_sub(x + 1));
    let typed = prompt.input.value();
    let before: String = typed.chars().take(prompt.input.cursor()).collect();
    let skipped = text::width(&before).saturating_sub(cells);
    pen.text(x, area.y, cells as u16, text::slice(typed, skipped, cells), Role::Text);
    x += (text::width(&before) - skipped) as u16;
    pen.invert(Rect { x, y: area.y, width: 1, height: 1 }.intersection(area));
}

fn list_candidates(app: &App, prompt: &Prompt, candidates: &[Candidate], pen: &mut Pen, area: Rect) {
    if candidates.is_empty() {
        pen.text(area.x + 1, area.y, area.width.saturating_sub(1), "no such command", Role::Warn);
        return;
    }
    let room = usize::from(area.height);
    let first = first_shown(prompt.at, candidates.len(), room);
    let widest = candidates.iter().map(|one| text::width(&one.command)).max().unwrap_or(0).min(24) as u16;
    for ((n, one), y) in candidates.iter().enumerate().skip(first).take(room).zip(area.y..) {
        let off = one.changes && app.cannot_change().is_some();
        let (name_role, help_role) = if off { (Role::Border, Role::Border) } else { (Role::Text, Role::Dim) };
        pen.text(area.x + 1, y, widest.min(area.width), &one.command, name_role);
        let x = area.x + widest + 3;
        let keys = one.key.as_deref().unwrap_or_default();
        let room = area.right().saturating_sub(x);
        pen.text(x, y, room, &one.help, help_role);
        let cells = text::width(keys) as u16 + 1;
        if area.width >= 60 && cells > 1 {
            pen.text(area.right().saturating_sub(cells + 1), y, cells, &format!(" {keys}"), Role::Key);
        }
        if n == prompt.at {
            pen.over(Rect { y, height: 1, ..area }, Role::Selection);
        }
    }
}

/// What is wrong, under its column; else what can be typed.
fn explain(prompt: &Prompt, pen: &mut Pen, area: Rect) {
    if let Some(mistake) = &prompt.mistake {
        // The typed line is below: the mark points down at its place.
        let typed: String = prompt.input.value().chars().take(mistake.column).collect();
        let at = (text::width(&typed) as u16 + 1).min(area.width.saturating_sub(1));
        pen.text(area.x + 1, area.y, area.width.saturating_sub(1), &mistake.text, Role::Warn);
        let mark = if pen.glyphs.ascii { "v" } else { "▼" };
        pen.text(area.x + at, area.bottom().saturating_sub(1), 1, mark, Role::Warn);
        return;
    }
    let fields = NUMBERS.map(|(name, _)| name).join(" ");
    let help =
        ["rank:3-7,12  local:0  node:n03  state:wait  ~text  !term", &format!("{fields}  with < <= = >= >")];
    for (text, y) in help.iter().zip(area.top()..area.bottom()) {
        pen.text(area.x + 1, y, area.width.saturating_sub(1), text, Role::Dim);
    }
}
