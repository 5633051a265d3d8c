//! One rank: who it is, how it is, its figures over time, and a tab with more of one kind.

mod charts;
mod death;
mod facts;
mod tabs;

use ratatui::layout::Rect;

pub(crate) use self::charts::page_axis;
use super::{Pen, gpu, logs, pen::Piece};
use crate::{
    domain::state::Rank,
    tui::{
        app::{App, Tab},
        text,
        theme::Role,
        words,
    },
};

/// A line of a tab.
type Line = Vec<Piece>;
/// Facts with a label each.
type Facts = Vec<(&'static str, Piece)>;

/// From this size on facts stand at the left of charts and tab.
const WIDE: (u16, u16) = (110, 20);
/// From this width on facts stand in two columns.
const TWO_COLUMNS: u16 = 76;

/// Where the parts of the page lie.
#[derive(Clone, Copy, Debug, Default)]
struct Places {
    facts: Rect,
    charts: Rect,
    tab: Rect,
}

impl Places {
    /// Facts and charts have what they want, as long as the tab has its share.
    fn of(app: &App, rank: &Rank, body: Rect) -> Places {
        let area = Rect { y: body.y + 1, height: body.height.saturating_sub(1), ..body };
        let figures = charts::count(app, rank);
        if body.width >= WIDE.0 && body.height >= WIDE.1 {
            let left = (body.width / 3).clamp(44, 64);
            let right = Rect { x: area.x + left, width: area.width - left, ..area };
            let charts = if figures == 0 { 0 } else { charts::height(figures, right.height / 2 + 1) };
            let top = Rect { height: charts, ..right };
            let tab = Rect { y: top.bottom(), height: right.height - charts, ..right };
            return Places { facts: Rect { width: left - 1, ..area }, charts: top, tab };
        }
        // A tab that is read has the page; beside the last lines there is room for the rest.
        let beside_log = app.tab == Tab::Log;
        let two = area.width >= TWO_COLUMNS;
        let most = match (beside_log, area.height) {
            (true, height @ 6..) => height * 2 / 5,
            _ => 1,
        };
        let wanted = facts::wanted(app, rank, two);
        let facts = Rect { height: wanted.min(most).min(area.height), ..area };
        let left = area.height - facts.height;
        let lines = if beside_log && left >= 6 { (figures as u16 + 1).min(left / 2) } else { 0 };
        let lines = if lines < 2 { 0 } else { lines };
        let charts = Rect { y: facts.bottom(), height: lines, ..area };
        let tab = Rect { y: charts.bottom(), height: left - lines, ..area };
        Places { facts, charts, tab }
    }
}

pub(super) fn draw(app: &App, pen: &mut Pen, area: Rect) {
    let Some(rank) = app.rank() else { return };
    if area.is_empty() {
        return;
    }
    let tag = words::rank_tag(rank.place.rank, rank.local_rank);
    let look = words::rank_state(rank, app.glyphs);
    let used = pen.rule(area, &format!("rank {}", tag.trim_start_matches('r')));
    let x = area.x + used;
    pen.badge(x, area.y, area.right().saturating_sub(x), &format!("{} {}", look.glyph, look.word), look.role);
    let places = Places::of(app, rank, area);
    facts::draw(app, rank, pen, places.facts);
    charts::draw(app, rank, pen, places.charts);
    tab(app, pen, rank, places.tab);
}

/// The tab that is open, under the names of all.
fn tab(app: &App, pen: &mut Pen, rank: &Rank, area: Rect) {
    if area.is_empty() {
        return;
    }
    match app.tab {
        Tab::Log => logs::pane(app, pen, area),
        Tab::Gpu => gpu_tab(app, pen, rank, area),
        _ => scrolled(app, pen, rank, area),
    }
    names(app, pen, area);
}

/// Its GPU: facts, and figures over time beside them or below.
fn gpu_tab(app: &App, pen: &mut Pen, rank: &Rank, area: Rect) {
    pen.rule(area, "gpu");
    let inner =
        Rect { x: area.x + 1, y: area.y + 1, width: area.width.saturating_sub(2), height: area.height - 1 };
    let facts = gpu::facts(app, rank);
    if area.width < TWO_COLUMNS {
        // Figures over time take a line each there.
        let over_time = if inner.height > 6 { 4 } else { 0 };
        let above = Rect { height: (inner.height - over_time).min(facts.len() as u16), ..inner };
        facts::column(pen, above, &facts);
        let below = Rect { y: above.bottom(), height: over_time, ..inner };
        return gpu::page(
            app,
            rank,
            pen,
            Rect { x: below.x + 1, width: below.width.saturating_sub(1), ..below },
        );
    }
    let left = (inner.width / 2).min(52);
    facts::column(pen, Rect { width: left, ..inner }, &facts);
    let right = Rect { x: inner.x + left + 1, width: inner.width - left - 1, ..inner };
    gpu::page(app, rank, pen, right);
}

/// Lines from the first that is shown on, and how many there are below.
fn scrolled(app: &App, pen: &mut Pen, rank: &Rank, area: Rect) {
    pen.rule(area, app.tab.name());
    let lines = tabs::lines(app, rank, area.width);
    let room = usize::from(area.height.saturating_sub(1));
    let first = app.page.first.min(lines.len().saturating_sub(room));
    for (line, y) in lines.iter().skip(first).zip(area.y + 1..area.bottom()) {
        pen.pieces(area.x + 1, y, area.width.saturating_sub(1), line);
    }
    let below = lines.len().saturating_sub(first + room);
    if below > 0 && room > 1 {
        let more = format!(" {} {below} more: PgDn ", app.glyphs.cut);
        pen.right(area.x, area.bottom() - 1, area.width, &more, Role::Key);
    }
}

/// The names of the tabs at the right of the rule; where there is no room, the open one and how many there are.
fn names(app: &App, pen: &mut Pen, area: Rect) {
    let all: Vec<Piece> = Tab::ALL
        .iter()
        .map(|tab| {
            if *tab == app.tab {
                // Brackets, so that it is seen without colour.
                (format!("[{}]", tab.name()), Role::Accent)
            } else {
                (format!(" {} ", tab.name()), Role::Dim)
            }
        })
        .collect();
    let at = Tab::ALL.iter().position(|tab| *tab == app.tab).unwrap_or(0);
    let short = vec![(format!(" {} of {}: t ", at + 1, Tab::ALL.len()), Role::Dim)];
    let cells = |names: &[Piece]| names.iter().map(|(name, _)| text::width(name)).sum::<usize>() as u16;
    let title = if app.tab == Tab::Log { 17 } else { app.tab.name().len() as u16 + 3 };
    for names in [all, short] {
        let wide = cells(&names);
        if area.width > wide + title {
            pen.pieces(area.right() - wide - 1, area.y, wide, &names);
            return;
        }
    }
}

/// How many lines the tab has that is open.
pub(crate) fn tab_length(app: &App, size: (u16, u16)) -> usize {
    app.rank().map_or(0, |rank| tabs::lines(app, rank, size.0).len())
}

/// The tab that is open, as text.
pub(crate) fn tab_text(app: &App) -> Vec<String> {
    let Some(rank) = app.rank() else { return Vec::new() };
    let plain = |line: Line| line.into_iter().map(|(piece, _)| piece).collect::<String>();
    let lines: Vec<String> = tabs::lines(app, rank, u16::MAX).into_iter().map(plain).collect();
    lines.into_iter().map(|line| line.trim_end().to_owned()).collect()
}
