//! What the screen shows: `draw` is a function of the app state and the size, and of nothing else.

mod chart;
mod dialog;
mod events;
pub(crate) mod gpu;
mod grid;
mod hang;
mod header;
mod help;
mod links;
mod logs;
mod node;
mod overview;
mod pen;
mod prompt;
mod rank;
mod ranks;
mod runs;
mod spread;
mod stacks;
mod strip;
mod suspects;
mod timeline;
mod transport;
mod verdict;

use ratatui::{Frame, layout::Rect};

pub(crate) use header::key_line;
pub(crate) use pen::Pen;
pub(crate) use rank::{page_axis, tab_length, tab_text};

use super::{
    app::{App, Zoom},
    canvas::Canvas,
    keys::View,
    links::Link,
    theme::Role,
};
use crate::domain::fleet::RankId;

/// How many lines the stacks have at this size.
pub(crate) fn stacks_length(app: &App, size: (u16, u16)) -> usize {
    stacks::length(app, size.0)
}

/// How many lines the hang view has at this size.
pub(crate) fn hang_length(app: &App, size: (u16, u16)) -> usize {
    hang::length(app, size.0)
}

/// The hang view as text.
pub(crate) fn hang_text(app: &App) -> String {
    hang::text(app)
}

/// Draws the job screen.
pub fn draw(app: &App, frame: &mut Frame) {
    let area = frame.area();
    let mut canvas = Canvas::new(std::mem::take(frame.buffer_mut()));
    // Where links lie is the terminal's affair.
    let _links = paint(app, area, &mut canvas);
    *frame.buffer_mut() = canvas.into_buffer();
}

/// Draws the job screen; where links lie.
pub(crate) fn paint(app: &App, area: Rect, canvas: &mut Canvas) -> Vec<Link> {
    let mut pen = Pen::new(canvas, &app.theme, app.glyphs);
    pen.clear();
    let plan = Plan::of(app, area);
    header::draw(app, &mut pen, &plan);
    strip::draw(&mut pen, plan.strip, &plan.said);
    match app.view {
        View::Overview => match app.zoom {
            Zoom::Rank => rank::draw(app, &mut pen, plan.body),
            Zoom::Node => node::draw(app, &mut pen, plan.body),
            Zoom::Fleet => overview::draw(app, &mut pen, plan.body),
        },
        View::Logs => logs::draw(app, &mut pen, plan.body),
        View::Timeline => timeline::draw(app, &mut pen, plan.body),
        View::Events => events::draw(app, &mut pen, plan.body),
        View::Stacks => stacks::draw(app, &mut pen, plan.body),
        View::Hang => hang::draw(app, &mut pen, plan.body),
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
    transport::draw(app, &mut pen, plan.transport);
    header::footer(app, &mut pen, plan.footer);
    if let Some(prompt) = &app.prompt {
        prompt::draw(app, prompt, &mut pen, area);
    }
    links::find(app, canvas.buffer())
}

/// The largest first line that the help can be scrolled to.
pub(crate) fn help_end(app: &App, size: (u16, u16)) -> usize {
    help::end(app, Rect::new(0, 0, size.0, size.1))
}

/// Where the regions lie.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    header: Rect,
    /// Empty on low screens.
    tabs: Rect,
    strip: Rect,
    /// What the strip says.
    said: Vec<strip::Line>,
    body: Rect,
    /// Empty but in a replay.
    transport: Rect,
    footer: Rect,
}

impl Plan {
    fn of(app: &App, area: Rect) -> Plan {
        let tall = area.height >= 16;
        let header = row(area, 0, 1);
        let tabs = row(area, 1, u16::from(tall));
        let top = header.height + tabs.height;
        let footer_height = u16::from(area.height > 2);
        let transport_height = u16::from(app.replay.is_some() && area.height > 4);
        let low = footer_height + transport_height;
        let room = area.height.saturating_sub(top + low);
        let budget = match area.height {
            0..6 => 0,
            6..16 => 1,
            16..32 => room / 3,
            _ => (room / 3).min(14),
        };
        let said = strip::lines(app, area.width, budget);
        let strip = row(area, top, said.len() as u16);
        let body = row(area, top + strip.height, room.saturating_sub(strip.height));
        let transport = row(area, area.height.saturating_sub(low), transport_height);
        let footer = row(area, area.height.saturating_sub(footer_height), footer_height);
        Plan { header, tabs, strip, said, body, transport, footer }
    }
}

/// `height` rows of `area` from row `y` on, as far as there are any.
fn row(area: Rect, y: u16, height: u16) -> Rect {
    Rect { x: area.x, y: area.y + y.min(area.height), width: area.width, height }.intersection(area)
}

/// What lies under the mouse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hit {
    /// A rank.
    Rank(RankId),
    /// The name of a view.
    View(View),
    /// A place in the recording, in tenths of a percent.
    Place(u16),
}

/// What lies at a cell of the screen.
pub(crate) fn hit(app: &App, size: (u16, u16), column: u16, line: u16) -> Option<Hit> {
    let area = Rect::new(0, 0, size.0, size.1);
    let plan = Plan::of(app, area);
    let at = ratatui::layout::Position::new(column, line);
    if plan.tabs.contains(at) {
        return header::tab_at(column - plan.tabs.x).map(Hit::View);
    }
    if plan.transport.contains(at) {
        return transport::place_at(app, plan.transport, column).map(Hit::Place);
    }
    if app.view != View::Overview {
        return None;
    }
    overview_body(app, plan.body).and_then(|body| overview::at(app, body, column, line)).map(Hit::Rank)
}

/// Where ranks are shown; `None` on the page of one of them.
fn overview_body(app: &App, body: Rect) -> Option<Rect> {
    match app.zoom {
        Zoom::Fleet => Some(body),
        Zoom::Node => Some(node::below(body)),
        Zoom::Rank => None,
    }
}

/// The rank so many lines or cells from the selected one, where ranks are cells of a grid.
pub(crate) fn neighbour(app: &App, size: (u16, u16), by: i64, sideways: bool) -> Option<RankId> {
    let area = Rect::new(0, 0, size.0, size.1);
    overview_body(app, Plan::of(app, area).body).and_then(|body| overview::neighbour(app, body, by, sideways))
}

/// The first of `count` rows to show in `room`, so that row `cursor` is in the middle where it can be.
pub(crate) fn first_shown(cursor: usize, count: usize, room: usize) -> usize {
    cursor.saturating_sub(room / 2).min(count.saturating_sub(room))
}
