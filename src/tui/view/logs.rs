//! Log lines of one rank or of all, in the order of their arrival.

use ratatui::layout::Rect;

use super::Pen;
use crate::{
    domain::{
        event::Launcher,
        fleet::RankId,
        log::{LogLine, Stream, is_error},
    },
    tui::{
        app::{App, Shown},
        text,
        theme::Role,
        words,
    },
};

/// The view.
pub(super) fn draw(app: &App, pen: &mut Pen, area: Rect) {
    if area.is_empty() {
        return;
    }
    let name = match app.logs.local_rank {
        Some(local) => format!("log of {}", tag(app, local)),
        None => "merged log".to_owned(),
    };
    let name = match app.nodes.get(app.log_node as usize) {
        Some(node) => {
            let (at, all) = (app.log_node + 1, app.nodes.len());
            format!("{name}, node {} ({at} of {all})", node.status.host)
        }
        None => name,
    };
    let used = title(app, pen, area, &name);
    search_line(app, pen, area, used);
    lines(app, pen, Rect { y: area.y + 1, height: area.height - 1, ..area });
}

/// The last lines under a rank's detail.
pub(super) fn pane(app: &App, pen: &mut Pen, area: Rect) {
    if area.is_empty() {
        return;
    }
    title(app, pen, area, "log");
    lines(app, pen, Rect { y: area.y + 1, height: area.height - 1, ..area });
}

fn tag(app: &App, local_rank: u32) -> String {
    let rank = app.rank_at(RankId { node: app.log_node, local: local_rank });
    words::rank_tag(rank.and_then(|rank| rank.place.rank), local_rank)
}

/// The rule with the name, and whether the end is followed; where it ends.
fn title(app: &App, pen: &mut Pen, area: Rect, name: &str) -> u16 {
    let mut used = pen.rule(area, name);
    let room = |used: u16| area.width.saturating_sub(used + 1);
    let (chip, role) = match (app.logs.follow, app.logs.arrived) {
        (true, _) => ("FOLLOW".into(), Role::Ok),
        (false, 0) => ("PAUSED".into(), Role::Warn),
        (false, more) => (format!("PAUSED +{more}"), Role::Warn),
    };
    used += 1 + pen.chip(area.x + used + 1, area.y, room(used), &chip, role);
    if app.logs.wrap {
        used += 1 + pen.chip(area.x + used + 1, area.y, room(used), "WRAP", Role::Info);
    } else if app.logs.shift > 0 {
        let chip = format!("+{} columns", app.logs.shift);
        used += 1 + pen.chip(area.x + used + 1, area.y, room(used), &chip, Role::Info);
    }
    if app.logs.local_rank.is_none() && !app.logs.fold {
        used += 1 + pen.chip(area.x + used + 1, area.y, room(used), "UNFOLDED", Role::Info);
    }
    used
}

fn search_line(app: &App, pen: &mut Pen, area: Rect, used: u16) {
    let x = area.x + used + 1;
    let room = area.right().saturating_sub(x);
    if let Some(input) = &app.logs.input {
        // The terminal's own cursor stays hidden: a block marks the place.
        let (typed, cells) = (input.value(), usize::from(room.saturating_sub(3)));
        let skipped = text::width(typed).saturating_sub(cells);
        let at = pen.text(x, area.y, room, &format!("/{}", text::slice(typed, skipped, cells)), Role::Key);
        pen.chip(x + at, area.y, 1.min(room.saturating_sub(at)), " ", Role::Key);
        return;
    }
    let search = app.logs.search.as_deref().map(|search| format!("/{search} ")).unwrap_or_default();
    let used = pen.text(x, area.y, room, &search, Role::Key);
    if let Some(n) = app.logs.searched_to {
        pen.text(x + used, area.y, room - used, &format!("searching, line {n} "), Role::Info);
    }
}

/// Cells of the gutter, with its line.
fn gutter(app: &App) -> u16 {
    let ranks = app.state_of(app.log_node).into_iter().flat_map(|state| &state.ranks);
    let widest = ranks.map(|rank| tag(app, rank.local_rank).len()).max().unwrap_or(2);
    widest.max(5) as u16 + 1
}

fn lines(app: &App, pen: &mut Pen, area: Rect) {
    let logs = &app.logs;
    if area.is_empty() {
        return;
    }
    if logs.lines.is_empty() {
        let node = app.nodes.get(app.log_node as usize);
        let text = match node.and_then(|node| node.status.link.unreachable()) {
            Some(why) if !logs.loaded => format!("cannot be asked for lines: {why}"),
            _ => nothing(app).to_owned(),
        };
        pen.text(area.x + 2, area.y, area.width.saturating_sub(2), &text, Role::Dim);
        return;
    }
    let gutter = gutter(app);
    let cells = usize::from(area.width.saturating_sub(gutter + 1)).max(1);
    let (rows, cursor) = logs.rows();
    let room = usize::from(area.height);
    let most = most_rows(app, room);
    let height = |at: usize| -> usize {
        let text = text::clean(&logs.lines[rows[at].first].text, pen.glyphs);
        let own = if logs.wrap { text::wrap(&text, cells).len().min(most(at == cursor)) } else { 1 };
        own + usize::from(divides(app, &rows, at))
    };
    if rows.is_empty() {
        pen.text(
            area.x + 2,
            area.y,
            area.width.saturating_sub(2),
            "nothing but records; a shows them",
            Role::Dim,
        );
        return;
    }
    // Around the cursor: what fits below it up to half of the rows, then above, then below again.
    let (mut first, mut last) = (cursor, cursor);
    let mut used = height(first);
    while last + 1 < rows.len() && used + height(last + 1) <= room.div_ceil(2) {
        last += 1;
        used += height(last);
    }
    while first > 0 && used + height(first - 1) <= room {
        first -= 1;
        used += height(first);
    }
    while last + 1 < rows.len() && used < room {
        last += 1;
        used += height(last);
    }
    let mut y = area.y;
    for at in first..=last {
        let shown = rows[at];
        if divides(app, &rows, at) && y < area.bottom() {
            let line = &logs.lines[shown.first];
            let inner = Rect { x: area.x + gutter, y, width: area.width.saturating_sub(gutter), height: 1 };
            pen.rule(inner, &format!("attempt {}", line.attempt));
            y += 1;
        }
        let place = Rect { y, height: area.bottom().saturating_sub(y), ..area };
        let is_cursor = at == cursor;
        y = line(app, pen, shown, place, (gutter, most(is_cursor), is_cursor));
    }
}

fn nothing(app: &App) -> &'static str {
    let is_foreign = app.state.job.as_ref().is_some_and(|job| job.launcher == Launcher::Foreign);
    if !app.logs.loaded {
        "asking for lines"
    } else if is_foreign {
        "no lines: this job's output goes to a terminal or a pipe, or its files are empty"
    } else if app.state.state.is_over() {
        "no lines were written"
    } else {
        "no lines yet"
    }
}

/// The most screen rows of a wrapped line: one line must not push all others out. The selected one has all it needs
/// once the log is paused.
fn most_rows(app: &App, room: usize) -> impl Fn(bool) -> usize + use<> {
    let paused = !app.logs.follow;
    move |is_cursor| if is_cursor && paused { room.max(1) } else { (room / 3).max(2) }
}

/// Whether a row begins another attempt than the one before it.
fn divides(app: &App, rows: &[Shown], at: usize) -> bool {
    let attempt = |row: &Shown| app.logs.lines[row.first].attempt;
    at > 0 && attempt(&rows[at - 1]) < attempt(&rows[at])
}

/// Draws one line, or several that are alike; the first row after it.
fn line(
    app: &App,
    pen: &mut Pen,
    shown: Shown,
    area: Rect,
    (gutter, most, is_cursor): (u16, usize, bool),
) -> u16 {
    if area.is_empty() {
        return area.y;
    }
    let logs = &app.logs;
    let line = &logs.lines[shown.first];
    let (name, role) = match (line.stream, line.local_rank) {
        (Stream::Agent, _) | (_, None) => ("agent".into(), Role::Accent),
        _ if shown.count > 1 => (format!("{}{}", pen.glyphs.times, shown.count), Role::Key),
        (_, Some(local)) => (words::rank_tag(line.rank, local), Role::Rank(line.rank.unwrap_or(local))),
    };
    pen.right(area.x, area.y, gutter - 1, &name, role);
    let text = text::clean(&line.text, pen.glyphs).into_owned();
    let x = area.x + gutter + 1;
    let cells = area.right().saturating_sub(x);
    let mut rows = if logs.wrap {
        text::wrap(&text, usize::from(cells).max(1))
    } else {
        vec![text::slice(&text, logs.shift, usize::MAX / 2)]
    };
    let left_out = rows.len().saturating_sub(most);
    rows.truncate(most);
    let role = line_role(line);
    let mut y = area.y;
    for row in rows {
        if y >= area.bottom() {
            break;
        }
        let bar_role = if line.stream == Stream::Err { Role::LogWarn } else { Role::Border };
        pen.text(area.x + gutter - 1, y, 1, pen.glyphs.bar, bar_role);
        pen.text(x, y, cells, row, role);
        if is_cursor && !(logs.follow && app.detail()) {
            pen.over(Rect { y, height: 1, ..area }, Role::Selection);
        }
        mark_matches(app, pen, row, Rect { x, y, width: cells, height: 1 });
        y += 1;
    }
    if left_out > 0 && y > area.y {
        let more = format!(" {} {left_out} more rows ", pen.glyphs.cut);
        pen.right(x, y - 1, cells, &more, Role::Key);
    }
    y
}

fn line_role(line: &LogLine) -> Role {
    if is_error(&line.text) {
        Role::LogErr
    } else if ["WARN", "Warning", "warning"].iter().any(|word| line.text.contains(word)) {
        Role::LogWarn
    } else {
        Role::Text
    }
}

fn mark_matches(app: &App, pen: &mut Pen, row: &str, area: Rect) {
    let Some(search) = app.logs.search.as_ref().filter(|search| !search.is_empty()) else { return };
    // Upper and lower case of ASCII only, so that places in the text stay what they are.
    let (low, needle) = (row.to_ascii_lowercase(), search.to_ascii_lowercase());
    for (place, found) in low.match_indices(&needle) {
        let from = text::width(&row[..place]) as u16;
        let cells = text::width(&row[place..place + found.len()]) as u16;
        let part = Rect { x: area.x.saturating_add(from), width: cells, ..area }.intersection(area);
        pen.over(part, Role::Match);
    }
}
