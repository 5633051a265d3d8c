//! Who wants a look, with the reason, and all that one line can say of the selected rank.

use ratatui::layout::Rect;

use super::{Pen, grid, pen::Piece};
use crate::{
    domain::{
        fleet::{Metric, RankRow},
        time::human,
    },
    tui::{app::App, said, text, theme::Role, words},
};

/// With more ranks than this the list is short.
const MANY: usize = 1024;
const SHORT_LIST: usize = 6;
/// Lines that are told of the selected rank, its heading included.
const ABOUT: u16 = 6;
/// Lines of the pane with a short list.
pub(super) const MOST: u16 = 1 + SHORT_LIST as u16 + 1 + ABOUT;

/// The list: suspects, or the ranks that the filter lets through.
pub(super) fn draw(app: &App, pen: &mut Pen, area: Rect) {
    if area.is_empty() {
        return;
    }
    let fleet = &app.overview.fleet;
    let filtered = !app.overview.filter.is_empty();
    let rows = if filtered { app.overview.rows.clone() } else { fleet.suspects() };
    let total = fleet.ranks.len();
    let title = if filtered {
        format!("{} of {total} fit the filter", rows.len())
    } else {
        format!("suspects {} of {total}", rows.len())
    };
    pen.rule(area, &title);
    let about = if area.height >= 10 { ABOUT } else { 0 };
    let room = usize::from(area.height - 1 - about);
    if rows.is_empty() && room > 0 {
        let text = if filtered { "none; Esc takes the filter away" } else { "none: all ranks are alike" };
        pen.text(area.x + 1, area.y + 1, area.width.saturating_sub(1), text, Role::Dim);
    }
    let lines = joined(app, &rows);
    // Of thousands the worst are enough: a long list would change with every look, and cost a thin line much.
    let room = if fleet.ranks.len() > MANY { room.min(SHORT_LIST) } else { room };
    // The last row tells of those that have no room.
    let shown = if lines.len() > room { room.saturating_sub(1) } else { lines.len() };
    for (ranks, y) in lines.iter().take(shown).zip(area.y + 1..) {
        let selected = ranks.iter().any(|row| fleet.ranks[*row as usize].id == app.selected_id());
        let place = Rect { y, height: 1, ..area };
        line(app, pen, &fleet.ranks[ranks[0] as usize], ranks.len(), place);
        if selected {
            pen.over(place, Role::Selection);
        }
    }
    if lines.len() > shown && room > 0 {
        let left: usize = lines[shown..].iter().map(Vec::len).sum();
        let more = format!("and {left} more");
        pen.text(area.x + 1, area.y + 1 + shown as u16, area.width.saturating_sub(1), &more, Role::Dim);
    }
    if about > 0 {
        let below = Rect { y: area.bottom() - about, height: about, ..area };
        selection(app, pen, below);
    }
}

/// Ranks of one node that follow each other and stand out for the same reason share a line.
fn joined(app: &App, rows: &[u32]) -> Vec<Vec<u32>> {
    let fleet = &app.overview.fleet;
    let mut lines: Vec<Vec<u32>> = Vec::new();
    // Only what can be seen is worth the comparison.
    for row in rows {
        let rank = &fleet.ranks[*row as usize];
        let joins = lines.last().is_some_and(|line: &Vec<u32>| {
            let first = &fleet.ranks[line[0] as usize];
            first.id.node == rank.id.node
                && (first.state, first.level, first.figures.step_lag)
                    == (rank.state, rank.level, rank.figures.step_lag)
                && rank.figures.throttled != Some(true)
                && lines.len() < 200
        });
        match lines.last_mut() {
            Some(line) if joins => line.push(*row),
            _ => lines.push(vec![*row]),
        }
    }
    lines
}

/// `✖ r138 n17:2  gone for 41 s`, or `█ r336 n042 ×8  12 steps behind`.
fn line(app: &App, pen: &mut Pen, row: &RankRow, count: usize, area: Rect) {
    let Some(rank) = app.rank_at(row.id) else { return };
    let look = words::rank_state(rank, app.glyphs);
    let (glyph, role) = if row.state.is_alive() && look.role != Role::Warn && look.role != Role::Crit {
        (app.glyphs.ramp[usize::from(row.level.min(4))], grid::heat_role(Metric::Suspicion, row.level))
    } else {
        (look.glyph, look.role)
    };
    let mut x = area.x + 1;
    let room = |x: u16| area.right().saturating_sub(x);
    x += pen.text(x, area.y, room(x), glyph, role) + 1;
    let tag = words::rank_tag(row.rank, row.id.local);
    let widest = words::rank_tag(Some(app.overview.fleet.ranks.len() as u32), 0).len() as u16;
    pen.text(x, area.y, room(x).min(widest), &tag, Role::Text);
    x += widest + 1;
    if app.overview.fleet.nodes.len() > 1 {
        let name = app.overview.labels.of(row.id.node);
        let place = match count {
            1 => format!("{name}:{}", row.id.local),
            count => format!("{name} {}{count}", app.glyphs.times),
        };
        let cells = app.overview.labels.widest + 3;
        pen.text(x, area.y, room(x), &place, Role::Dim);
        x += cells + 1;
    }
    let reason = app.overview.fleet.reason(app.now, row);
    let reason = match (&rank.detail, reason.is_empty()) {
        (Some(detail), true) => detail.clone(),
        (_, true) if row.state.is_alive() => rank.last_line.clone().unwrap_or_default(),
        (_, true) => look.word.into_owned(),
        _ => reason,
    };
    pen.text(x, area.y, room(x), &reason, Role::Text);
}

/// The selected rank in some lines.
fn selection(app: &App, pen: &mut Pen, area: Rect) {
    let Some((row, rank)) = app.overview.fleet.rank(app.selected_id()).zip(app.rank()) else { return };
    let name = app.overview.labels.of(row.id.node);
    pen.rule(area, &format!("{} {name}:{}", words::rank_tag(row.rank, row.id.local), row.id.local));
    let look = words::rank_state(rank, app.glyphs);
    let known = |value: Option<String>| value.unwrap_or_else(|| "n/a".into());
    let dim = |text: &str| (text.to_owned(), Role::Dim);
    let text = |text: String| (text, Role::Text);
    let since = human(app.now.since(rank.state_since));
    let behind = row.figures.step_lag.filter(|lag| *lag >= 0.5).map(|lag| format!(", {lag:.0} behind"));
    let reason = app.overview.fleet.reason(app.now, row);
    let said = rank.last_line.as_deref().unwrap_or_default();
    let lines: [Vec<Piece>; 5] = [
        vec![(format!("{} {}", look.glyph, look.word), look.role), dim(&format!(" for {since}"))],
        vec![
            dim("step "),
            text(known(row.step.map(|step| format!("{step}{}", behind.unwrap_or_default())))),
            dim("  beat "),
            text(known(row.beat_age.map(text::age))),
        ],
        vec![
            dim("CPU "),
            text(known(row.figures.cpu_pct.map(|share| format!("{share:.0} %")))),
            dim("  RSS "),
            text(known(row.rss_bytes.map(text::bytes))),
            dim("  pid "),
            text(rank.proc.pid.to_string()),
        ],
        vec![if reason.is_empty() { dim("like its peers") } else { (reason, Role::Warn) }],
        vec![dim(&said::figures(said).unwrap_or_else(|| said.to_owned()))],
    ];
    for (line, y) in lines.iter().zip(area.y + 1..area.bottom()) {
        pen.pieces(area.x + 1, y, area.width.saturating_sub(1), line);
    }
}
