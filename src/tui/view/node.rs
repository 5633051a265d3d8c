//! One node: what is known of it, its ranks, and what happened there.

use ratatui::layout::Rect;

use super::{Pen, overview, pen::Piece};
use crate::{
    domain::{suspicion::SUSPECT, time::human},
    tui::{app::App, text, theme::Role, words},
};

pub(super) fn draw(app: &App, pen: &mut Pen, area: Rect) {
    let Some((node, state)) = app.overview.fleet.nodes.get(app.node as usize).zip(app.state_of(app.node))
    else {
        return;
    };
    if area.height < 4 {
        return overview::draw(app, pen, area);
    }
    let used = pen.rule(area, &format!("node {}", node.name));
    let x = area.x + used;
    let (chip, role) = match node.silent {
        Some(age) => (format!("? silent for {}", human(age)), Role::Stale),
        None => {
            let look = words::job_state(node.state, app.glyphs);
            (format!("{} {}", look.glyph, look.word), look.role)
        }
    };
    pen.badge(x, area.y, area.right().saturating_sub(x), &chip, role);
    pen.pieces(area.x + 1, area.y + 1, area.width.saturating_sub(1), &facts(app, state));
    overview::draw(app, pen, below(area));
}

/// Where the ranks are drawn.
pub(super) fn below(area: Rect) -> Rect {
    if area.height < 4 {
        return area;
    }
    Rect { y: area.y + 3, height: area.height - 3, ..area }
}

fn facts(app: &App, state: &crate::domain::state::State) -> Vec<Piece> {
    let rows = &app.overview.fleet.ranks[app.overview.fleet.nodes[app.node as usize].ranks()];
    let mut pieces = Vec::new();
    let mut add = |label: &str, value: Option<String>| {
        pieces.push((format!("{label} "), Role::Dim));
        pieces.push(value.map_or(("n/a  ".into(), Role::Dim), |value| (format!("{value}  "), Role::Text)));
    };
    let numbers = || rows.iter().filter_map(|row| row.rank);
    let span = numbers().min().zip(numbers().max()).map(|(first, last)| format!("{first}-{last}"));
    add("ranks", span.or_else(|| Some(rows.len().to_string())));
    add("agent", state.agent.as_ref().map(|agent| format!("pid {}", agent.proc.pid)));
    let memory: u64 = rows.iter().filter_map(|row| row.rss_bytes).sum();
    add("memory", (memory > 0).then(|| text::bytes(memory)));
    let cpu: Vec<f32> = rows.iter().filter_map(|row| row.figures.cpu_pct).collect();
    add("CPU", (!cpu.is_empty()).then(|| format!("{:.1} cores", cpu.iter().sum::<f32>() / 100.0)));
    if let Some(node) = app.nodes.get(app.node as usize) {
        add("clock", node.status.clock.map(words::clock_offset));
        if let Some(why) = node.status.link.untold() {
            pieces.push((why, Role::Warn));
        }
        if let Some(why) = &node.status.read_only {
            pieces.push((format!("read-only: {why}  "), Role::Info));
        }
    }
    pieces.extend([("attempt ".into(), Role::Dim), (format!("{}  ", state.attempt()), Role::Text)]);
    let odd = rows.iter().filter(|row| row.level >= SUSPECT).count();
    if odd > 0 {
        pieces.push((format!("{odd} suspicious"), Role::Warn));
    }
    pieces
}
