//! The overview: ranks by the number there are, suspects beside them, timeline and events where there is room.

use ratatui::layout::Rect;

use super::{
    Pen, events, gpu,
    grid::{self, Grid, Scale},
    ranks, row, spread, suspects, timeline,
};
use crate::{
    domain::fleet::RankId,
    tui::{app::App, app::Zoom},
};

/// Narrower screens have the suspects below the cells.
const BESIDE: u16 = 92;

/// Where the panes lie; those without room are empty.
struct Panes {
    ranks: Rect,
    spread: Rect,
    suspects: Rect,
    legend: Rect,
    gpus: Rect,
    timeline: Rect,
    events: Rect,
}

/// The scale of what is shown now: a node's ranks are rows.
fn scale(app: &App) -> Scale {
    if app.zoom == Zoom::Fleet { Scale::of(app) } else { Scale::Rows }
}

pub(super) fn draw(app: &App, pen: &mut Pen, body: Rect) {
    let panes = panes(app, body);
    match scale(app) {
        Scale::Rows => {
            ranks::draw(app, pen, panes.ranks);
            gpu::list(app, pen, panes.gpus);
        }
        scale => {
            Grid::of(app, scale, panes.ranks).draw(app, pen);
            if !panes.legend.is_empty() {
                grid::legend(app, scale, pen, panes.legend);
            }
            spread::draw(app, pen, panes.spread);
            suspects::draw(app, pen, panes.suspects);
            gpu::list(app, pen, panes.gpus);
        }
    }
    timeline::pane(app, pen, panes.timeline);
    events::pane(app, pen, panes.events);
}

/// The rank at a cell of the screen.
pub(super) fn at(app: &App, body: Rect, x: u16, y: u16) -> Option<RankId> {
    let panes = panes(app, body);
    let inside = panes.ranks.contains(ratatui::layout::Position::new(x, y));
    match scale(app) {
        _ if !inside => None,
        Scale::Rows if y > panes.ranks.y => ranks::at(app, panes.ranks, y),
        Scale::Rows => None,
        scale => Grid::of(app, scale, panes.ranks).at(app, x, y),
    }
}

/// The rank so many lines or cells from the selected one, where ranks are cells.
pub(super) fn neighbour(app: &App, body: Rect, by: i64, sideways: bool) -> Option<RankId> {
    match scale(app) {
        Scale::Rows => None,
        scale => Grid::of(app, scale, panes(app, body).ranks).neighbour(app, by, sideways),
    }
}

fn panes(app: &App, body: Rect) -> Panes {
    let none = row(body, body.height, 0);
    let empty = Panes {
        ranks: none,
        spread: none,
        suspects: none,
        legend: none,
        gpus: none,
        timeline: none,
        events: none,
    };
    match scale(app) {
        Scale::Rows => {
            let [ranks, gpus, timeline, events] = row_panes(app, body);
            Panes { ranks, gpus, timeline, events, ..empty }
        }
        scale => grid_panes(app, scale, body, empty),
    }
}

/// Rows come first.
fn row_panes(app: &App, body: Rect) -> [Rect; 4] {
    let none = row(body, body.height, 0);
    let ranks_want = app.overview.rows.len().max(1) as u16 + 1 + gpu::lines(app);
    // One row of air, a heading and three events, or nothing.
    let least_below = if body.height >= 10 { 5.max(body.height / 4) } else { 5 };
    if body.height < 8 || (body.height < 14 && ranks_want + least_below > body.height) {
        return [body, none, none, none];
    }
    let ranks = row(body, 0, ranks_want.min(body.height - least_below));
    let mut top = ranks.height + 1;
    // GPUs that the rows do not tell have lines of their own where there is room.
    let gpus_want = if gpu::has_columns(app) { 0 } else { gpu::list_lines(app) };
    let gpus = row(body, top, if top + gpus_want + 1 + least_below <= body.height { gpus_want } else { 0 });
    top += if gpus.height > 0 { gpus.height + 1 } else { 0 };
    let [timeline, events] = history(app, row(body, top, body.height - top));
    [ranks, gpus, timeline, events]
}

/// Timeline and events, side by side on wide screens.
fn history(app: &App, area: Rect) -> [Rect; 2] {
    if area.width >= 150 {
        let left = area.width / 2 - 1;
        let timeline = Rect { width: left, ..area };
        return [timeline, Rect { x: area.x + left + 2, width: area.width - left - 2, ..area }];
    }
    if area.height < 8 {
        return [row(area, area.height, 0), area];
    }
    let lanes_want = app.state.attempts.len().max(1) as u16 + 1;
    let timeline = row(area, 0, lanes_want.min((area.height / 2).max(3)));
    let top = timeline.height + 1;
    [timeline, row(area, top, area.height - top)]
}

fn grid_panes(app: &App, scale: Scale, body: Rect, empty: Panes) -> Panes {
    if body.height < 5 || body.width < 24 {
        return Panes { ranks: body, ..empty };
    }
    let beside = body.width >= BESIDE;
    let whole = body;
    let body = Rect { x: body.x + 1, width: body.width - 1, ..body };
    let left = if beside { Rect { width: body.width * 3 / 5, ..body } } else { body };
    let spread_height = match scale {
        Scale::Nodes if body.height >= 22 => spread::HEIGHT + 1,
        _ => 0,
    };
    let legend_height = u16::from(body.height >= 8);
    let room = left.height - spread_height - legend_height;
    let wanted = Grid::of(app, scale, Rect { height: room, ..left });
    // Below the cells: suspects on narrow screens, the history on tall ones.
    let below = if beside { 8 } else { 4 };
    let most = if room > below + 4 { room - below } else { room };
    let height = (wanted.height() as u16).min(most).max(1);
    // What has a heading begins a cell before the names of nodes.
    let spread =
        Rect { x: whole.x, width: left.width + 1, y: left.y, height: spread_height.saturating_sub(1) };
    let ranks = row(left, spread_height, height);
    let legend = row(left, spread_height + height, legend_height);
    let top = spread_height + height + legend_height + 1;
    let rest = left.height.saturating_sub(top);
    if !beside {
        let (suspects, events) = if rest >= 12 { (rest * 2 / 3, rest - rest * 2 / 3 - 1) } else { (rest, 0) };
        let events_at = top + suspects + 1;
        return Panes {
            ranks,
            spread,
            legend,
            suspects: row(whole, top, suspects),
            events: row(whole, events_at, events),
            ..empty
        };
    }
    let x = body.x + wanted.width().clamp(64.min(left.width), left.width) + 3;
    let legend = Rect { width: x - 2 - legend.x, ..legend };
    let spread = Rect { width: x - 2 - spread.x, ..spread };
    let right = Rect { x, width: body.right().saturating_sub(x), ..body };
    let (above, below) = if rest >= 5 { (top - 1, rest) } else { (body.height, 0) };
    // The suspects have all of the height that the history does not need.
    let half = match scale {
        Scale::Nodes => suspects::MOST.min(body.height / 2),
        _ => body.height / 2,
    };
    let suspects = row(right, 0, above.max(half).min(body.height));
    let history_area = row(whole, suspects.height.max(top - 1) + 1, below);
    let history_area = Rect { height: body.bottom().saturating_sub(history_area.y), ..history_area };
    let [timeline, events] =
        if history_area.height >= 4 { history(app, history_area) } else { [empty.timeline; 2] };
    // The GPUs of the only node fill what is free beside the suspects.
    let room = (suspects.height + body.y).saturating_sub(left.y + top);
    let gpus_height = gpu::list_lines(app);
    let gpus = row(Rect { x: whole.x, ..left }, top, if gpus_height <= room { gpus_height } else { 0 });
    let gpus = Rect { width: x - 2 - gpus.x, ..gpus };
    Panes { ranks, spread, suspects, legend, gpus, timeline, events }
}
