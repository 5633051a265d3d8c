//! What the screen shows: `draw` is a function of the app state and the size, and of nothing else.

mod chart;
mod dialog;
mod events;
pub(crate) mod gpu;
mod header;
mod help;
mod logs;
mod pen;
mod rank;
mod ranks;
mod runs;
mod strip;
mod timeline;

use ratatui::{Frame, buffer::Buffer, layout::Rect};

pub(crate) use header::key_line;
pub(crate) use pen::Pen;

use super::{app::App, keys::View, theme::Role};

/// Draws the job screen.
pub fn draw(app: &App, frame: &mut Frame) {
    let area = frame.area();
    paint(app, area, frame.buffer_mut());
}

/// Draws the job screen into a buffer.
pub(crate) fn paint(app: &App, area: Rect, buffer: &mut Buffer) {
    let mut pen = Pen::new(buffer, &app.theme, app.glyphs);
    pen.fill(area);
    let plan = Plan::of(app, area);
    header::draw(app, &mut pen, &plan);
    strip::draw(app, &mut pen, plan.strip);
    match app.view {
        View::Overview if app.detail => rank::draw(app, &mut pen, plan.body),
        View::Overview => overview(app, &mut pen, plan.body),
        View::Logs => logs::draw(app, &mut pen, plan.body),
        View::Timeline => timeline::draw(app, &mut pen, plan.body),
        View::Events => events::draw(app, &mut pen, plan.body),
        View::Runs => runs::draw(app, &mut pen, plan.body),
    }
    if app.is_stale() {
        pen.over(plan.body, Role::Stale);
    }
    if let Some(first) = app.help {
        help::draw(app, &mut pen, area, first);
    }
    if let Some(dialog) = &app.dialog {
        dialog::draw(app, dialog, &mut pen, area);
    }
    header::footer(app, &mut pen, plan.footer);
}

/// The largest first line that the help can be scrolled to.
pub(crate) fn help_end(app: &App, size: (u16, u16)) -> usize {
    help::end(app, Rect::new(0, 0, size.0, size.1))
}

/// Where the regions lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    header: Rect,
    /// Empty on low screens.
    tabs: Rect,
    strip: Rect,
    body: Rect,
    footer: Rect,
}

impl Plan {
    fn of(app: &App, area: Rect) -> Plan {
        let tall = area.height >= 16;
        let header = row(area, 0, 1);
        let tabs = row(area, 1, u16::from(tall));
        let top = header.height + tabs.height;
        let footer_height = u16::from(area.height > 2);
        let room = area.height.saturating_sub(top + footer_height);
        let budget = match area.height {
            0..6 => 0,
            6..16 => 1,
            16..32 => room / 3,
            _ => (room / 3).min(14),
        };
        let strip_height = strip::height(app, area.width, budget);
        let strip = row(area, top, strip_height);
        let body = row(area, top + strip.height, room.saturating_sub(strip.height));
        let footer = row(area, area.height.saturating_sub(footer_height), footer_height);
        Plan { header, tabs, strip, body, footer }
    }
}

/// `height` rows of `area` from row `y` on, as far as there are any.
fn row(area: Rect, y: u16, height: u16) -> Rect {
    Rect { x: area.x, y: area.y + y.min(area.height), width: area.width, height }.intersection(area)
}

/// Where the panes of the overview lie: ranks, timeline, events. The ranks come first; panes without room are empty.
fn overview_panes(app: &App, body: Rect) -> [Rect; 3] {
    let none = row(body, body.height, 0);
    let ranks_want = app.state.ranks.len().max(1) as u16 + 1 + gpu::lines(app);
    let lanes_want = app.state.attempts.len().max(1) as u16 + 1;
    // One row of air, a heading and three events, or nothing.
    let least_below = if body.height >= 10 { 5.max(body.height / 4) } else { 5 };
    if body.height < 8 || (body.height < 10 && ranks_want + least_below > body.height) {
        return [body, none, none];
    }
    let ranks = row(body, 0, ranks_want.min(body.height - least_below));
    let top = ranks.height + 1;
    let below = row(body, top, body.height - top);
    if body.width >= 150 {
        let left = below.width / 2 - 1;
        let timeline = Rect { width: left, ..below };
        let events = Rect { x: below.x + left + 2, width: below.width - left - 2, ..below };
        return [ranks, timeline, events];
    }
    if below.height < 8 {
        return [ranks, none, below];
    }
    let timeline = row(below, 0, lanes_want.min((below.height / 2).max(3)));
    let events_top = timeline.height + 1;
    [ranks, timeline, row(below, events_top, below.height - events_top)]
}

fn overview(app: &App, pen: &mut Pen, body: Rect) {
    let [ranks, timeline, events] = overview_panes(app, body);
    ranks::draw(app, pen, ranks);
    timeline::pane(app, pen, timeline);
    events::pane(app, pen, events);
}

/// What lies under the mouse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hit {
    /// The rank at this position on the node.
    Rank(u32),
    /// The name of a view.
    View(View),
}

/// What lies at a cell of the screen.
pub(crate) fn hit(app: &App, size: (u16, u16), column: u16, line: u16) -> Option<Hit> {
    let area = Rect::new(0, 0, size.0, size.1);
    let plan = Plan::of(app, area);
    let at = ratatui::layout::Position::new(column, line);
    if plan.tabs.contains(at) {
        return header::tab_at(column - plan.tabs.x).map(Hit::View);
    }
    if app.view == View::Overview && !app.detail {
        let [ranks, ..] = overview_panes(app, plan.body);
        if ranks.contains(at) && line > ranks.y {
            return ranks::at(app, ranks, line).map(Hit::Rank);
        }
    }
    None
}

/// The first of `count` rows to show in `room`, so that row `cursor` is in the middle where it can be.
pub(crate) fn first_shown(cursor: usize, count: usize, room: usize) -> usize {
    cursor.saturating_sub(room / 2).min(count.saturating_sub(room))
}
