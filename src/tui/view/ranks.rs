//! Ranks, one row each. Columns go as the width does.

use ratatui::layout::Rect;

use super::{
    Pen, first_shown,
    gpu::{self, Figure},
    verdict,
};
use crate::{
    domain::{
        fleet::{RankId, RankRow},
        rank::RankState,
        state::Rank,
        suspicion::SUSPECT,
        time::human,
    },
    tui::{
        app::{App, Zoom},
        said, text,
        theme::Role,
        words,
    },
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    Rank,
    Local,
    Node,
    Pid,
    State,
    Cpu,
    Rss,
    Threads,
    Step,
    Beat,
    Gpu(Figure),
    Last,
}

/// Column, heading, cells, least width of the pane that shows it, whether its text ends at the right.
const COLUMNS: [(Column, &str, u16, u16, bool); 16] = [
    (Column::Rank, "RANK", 4, 0, true),
    (Column::Local, "L", 3, 60, true),
    (Column::Node, "NODE", 14, NODES_FROM, false),
    (Column::State, "STATE", 9, 0, false),
    (Column::Pid, "PID", 7, 56, true),
    (Column::Cpu, "CPU%", 5, 0, true),
    (Column::Rss, "RSS", 5, 48, true),
    (Column::Threads, "THR", 4, 72, true),
    (Column::Step, "STEP", 8, 0, true),
    (Column::Beat, "BEAT", 6, 0, true),
    (Column::Gpu(Figure::Util), "GPU%", 4, 48, true),
    (Column::Gpu(Figure::History), "2 MIN", 12, 140, false),
    (Column::Gpu(Figure::Memory), "GPU MEM", 9, 68, true),
    (Column::Gpu(Figure::Temperature), "°C", 3, 60, true),
    (Column::Gpu(Figure::Power), "W", 4, 100, true),
    (Column::Last, "LAST LINE", 12, 76, false),
];

/// Width of the pane from which the ranks of several nodes have the names of their nodes.
const NODES_FROM: u16 = 72;

/// What is left out where GPUs want its room, up to this width of the pane.
const FOR_GPUS: [(Column, u16); 3] = [(Column::Local, 110), (Column::Pid, 110), (Column::Threads, 120)];

pub(super) fn draw(app: &App, pen: &mut Pen, area: Rect) {
    if area.is_empty() {
        return;
    }
    let (area, below) = gpu::split(app, area);
    gpu::draw_line(app, pen, below);
    let several = app.nodes.len() > 1 && app.zoom == Zoom::Fleet;
    let widest = app.overview.fleet.nodes.iter().map(|node| text::width(&node.name)).max().unwrap_or(0);
    let columns = columns(area, gpu::has_columns(app), several.then_some(widest));
    let room = usize::from(area.height - 1);
    let (first, count) = (first(app, room), app.overview.rows.len());
    let shown = if count > room && room > 0 {
        format!(" {}-{} of {count}", first + 1, (first + room).min(count))
    } else {
        String::new()
    };
    let headings_end = area.right().saturating_sub(text::width(&shown) as u16);
    for (column, x, cells, right) in &columns {
        let heading = COLUMNS.iter().find(|known| known.0 == *column).map_or("", |known| known.1);
        // A heading that would be cut by the count is left out.
        let end = if *right { *x + *cells } else { *x + heading.len() as u16 };
        if end <= headings_end {
            put(pen, *x, area.y, *cells, *right, heading, Role::Title);
        }
    }
    pen.text(headings_end, area.y, area.width, &shown, Role::Dim);
    if app.overview.rows.is_empty() {
        let text = match (&app.state.job, app.overview.fleet.ranks.is_empty()) {
            (_, false) => "no rank fits the filter; Esc takes it away",
            (Some(_), true) => "no rank has started yet",
            (None, true) => "waiting for the job's state",
        };
        pen.text(area.x + 2, area.y + 1, area.width.saturating_sub(2), text, Role::Dim);
        return;
    }
    for (shown, y) in app.overview.shown().skip(first).take(room).zip(area.y + 1..) {
        if let Some(rank) = app.rank_at(shown.id) {
            row(app, pen, (shown, rank), Rect { y, height: 1, ..area }, &columns);
        }
    }
}

/// The rank in a row of the screen.
pub(super) fn at(app: &App, area: Rect, y: u16) -> Option<RankId> {
    let (area, below) = gpu::split(app, area);
    if y >= below.y {
        return None;
    }
    let first = first(app, usize::from(area.height - 1));
    app.overview.shown().nth(first + usize::from(y - area.y - 1)).map(|row| row.id)
}

fn first(app: &App, room: usize) -> usize {
    let cursor = app.overview.shown().position(|row| row.id == app.selected_id()).unwrap_or(0);
    first_shown(cursor, app.overview.rows.len(), room)
}

/// The columns that are shown, each with its place. The last one takes what is left.
///
/// A position on a node says nothing without the node: of several, their names come first.
fn columns(area: Rect, with_gpus: bool, names: Option<usize>) -> Vec<(Column, u16, u16, bool)> {
    let mut x = area.x + 1;
    let several = names.is_some();
    let gives_way = |column: Column| FOR_GPUS.iter().any(|(one, to)| *one == column && area.width < *to);
    let shown = COLUMNS.iter().filter(|(column, _, _, least, _)| match column {
        Column::Gpu(_) => with_gpus && area.width >= *least,
        Column::Node => several && area.width >= NODES_FROM,
        Column::Local if several => area.width >= 110,
        column => area.width >= *least && !(with_gpus && gives_way(*column)),
    });
    shown
        .map(|(column, _, cells, _, right)| {
            // What is read has air before it.
            x += u16::from(*column == Column::Last && with_gpus);
            let left = area.right().saturating_sub(x);
            let cells = match column {
                Column::Last => left,
                // As wide as the names are.
                Column::Node => names.unwrap_or(0).clamp(4, usize::from(*cells)) as u16 + 1,
                _ => (*cells).min(left),
            };
            let place = (*column, x, cells, *right);
            // State has air on both sides, as its text begins where a number ends.
            x += cells + if matches!(column, Column::Beat | Column::Local | Column::Rank) { 2 } else { 1 };
            place
        })
        .collect()
}

fn put(pen: &mut Pen, x: u16, y: u16, cells: u16, right: bool, what: &str, role: Role) {
    if right {
        pen.right(x, y, cells, what, role);
    } else {
        pen.text(x, y, cells, what, role);
    }
}

fn row(
    app: &App,
    pen: &mut Pen,
    (shown, rank): (&RankRow, &Rank),
    area: Rect,
    columns: &[(Column, u16, u16, bool)],
) {
    let narrow = area.width < 44;
    for (column, x, cells, right) in columns {
        let (text, role) = cell(app, shown, rank, *column, narrow);
        if *column == Column::State && role == Role::Ok {
            // Healthy is quiet: a little green is enough.
            pen.text(*x, area.y, *cells, &text, Role::Dim);
            pen.text(*x, area.y, 1.min(*cells), words::rank_state(rank, app.glyphs).glyph, role);
            continue;
        }
        put(pen, *x, area.y, *cells, *right, &text, role);
    }
    let node = app.overview.fleet.nodes.get(shown.id.node as usize);
    if node.is_some_and(|node| node.silent.is_some()) {
        // What it told last is not what is.
        pen.over(area, Role::Stale);
    }
    if shown.id == app.selected_id() {
        pen.over(area, Role::Selection);
        pen.text(area.x, area.y, 1, pen.glyphs.cursor, Role::Accent);
    }
}

fn cell(app: &App, shown: &RankRow, rank: &Rank, column: Column, narrow: bool) -> (String, Role) {
    let gone = !rank.state.is_alive();
    let number = |value: Option<String>| match value {
        Some(text) if gone => (text, Role::Dim),
        Some(text) => (text, Role::Text),
        None => ("-".into(), Role::Dim),
    };
    match column {
        Column::Rank => match rank.place.rank {
            Some(number) => (number.to_string(), Role::Rank(number)),
            None => ("-".into(), Role::Dim),
        },
        Column::Local => (rank.local_rank.to_string(), Role::Dim),
        Column::Node => (
            app.overview.fleet.nodes.get(shown.id.node as usize).map_or("-".into(), |n| n.name.clone()),
            Role::Dim,
        ),
        Column::Pid => (rank.proc.pid.to_string(), Role::Dim),
        Column::State => {
            let look = words::rank_state(rank, app.glyphs);
            let word = if narrow && look.word.len() > 7 { look.letter.to_string().into() } else { look.word };
            (format!("{} {word}", look.glyph), look.role)
        }
        Column::Cpu => number(rank.cpu_pct.filter(|_| !gone).map(|pct| format!("{pct:.0}"))),
        Column::Rss => number(rank.rss_bytes.filter(|_| !gone).map(text::bytes)),
        Column::Threads => number(rank.threads.filter(|_| !gone).map(|threads| threads.to_string())),
        Column::Step => number(rank.step.map(|step| step.to_string())),
        Column::Beat => match rank.beat_at.filter(|_| !gone) {
            None => ("-".into(), Role::Dim),
            Some(at) => {
                let age = app.now_of(shown.id.node).since(at);
                (short_age(age), verdict::beat_role(age, Role::Dim))
            }
        },
        Column::Gpu(figure) => match gpu::cell(app, shown.id.node, rank, figure) {
            (Some(text), _) if gone => (text, Role::Dim),
            (Some(text), role) => (text, role),
            (None, role) => ("-".into(), role),
        },
        Column::Last => last(app, shown, rank),
    }
}

/// An age in five cells: the larger unit is enough once it is minutes.
fn short_age(age: std::time::Duration) -> String {
    match age.as_secs() {
        0..60 => text::age(age),
        seconds @ 60..3600 => format!("{}m", seconds / 60),
        seconds @ 3600..86400 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86400),
    }
}

/// The last line of a rank that works; what it does and for how long, of one that does not.
fn last(app: &App, shown: &RankRow, rank: &Rank) -> (String, Role) {
    if rank.state == RankState::Exited && is_cause(app, shown.id, rank) {
        let line = rank.last_line.as_deref().filter(|line| !line.is_empty());
        return (line.map_or("failed first".into(), |line| format!("failed first: {line}")), Role::Crit);
    }
    let usual =
        matches!(rank.state, RankState::Running | RankState::Exited | RankState::Starting | RankState::Init);
    if usual && rank.detail.is_none() && rank.state.is_alive() && shown.level >= SUSPECT {
        let reason = app.overview.fleet.reason(app.now, shown);
        if !reason.is_empty() {
            return (reason, if shown.level > SUSPECT { Role::Warn } else { Role::Accent });
        }
    }
    if usual && rank.detail.is_none() {
        let line = rank.last_line.as_deref().unwrap_or_default();
        return (said::figures(line).unwrap_or_else(|| line.to_owned()), Role::Dim);
    }
    let since = human(app.now_of(shown.id.node).since(rank.state_since));
    let look = words::rank_state(rank, app.glyphs);
    if let Some(doing) = verdict::doing(app, rank) {
        return (doing, look.role);
    }
    match &rank.detail {
        Some(detail) => (format!("{detail}, {since}"), look.role),
        None => (format!("for {since}"), look.role),
    }
}

/// Whether the last failure began with this rank.
fn is_cause(app: &App, id: RankId, rank: &Rank) -> bool {
    let Some(state) = app.state_of(id.node) else { return false };
    let of_its_attempt = state.attempts.iter().find(|attempt| attempt.n == rank.attempt);
    let cause = of_its_attempt.and_then(|attempt| attempt.cause.as_ref());
    cause.is_some_and(|cause| cause.rank.is_some() && cause.rank == rank.place.rank)
}
