//! Groups, runs and ranks in W&B: how far each run has come, why, and what another combination would give.

use ratatui::layout::Rect;

use super::{Pen, first_shown, pen::Piece};
use crate::{
    domain::{
        event::Launcher,
        forward::{Fate, Mode, RunRow, RunState, Wandb, Writer, fate, other_plan},
        resolve::{Plan, Run, alternatives},
        time::{ago, until},
    },
    tui::{
        app::{App, Combination, Key, Line, Tree},
        said,
        text::{self, Glyphs},
        theme::Role,
    },
};

/// From this width on two trees stand side by side.
const SIDE_BY_SIDE: u16 = 100;

/// The view.
pub(super) fn draw(app: &App, pen: &mut Pen, area: Rect) {
    if area.is_empty() {
        return;
    }
    let used = pen.rule(area, "W&B");
    let (chip, role) = chip(app);
    pen.chip(area.x + used + 1, area.y, area.width.saturating_sub(used + 1), chip, role);
    let body = lower(area, 1);
    let Some((wandb, tree)) = app.wandb().zip(app.run_tree()) else {
        return paragraph(pen, body, &off(app), Role::Dim);
    };
    let taken = heading(pen, body, wandb);
    let body = lower(body, taken);
    match app.runs.preview.and_then(|wanted| Some((wanted, other_plan(&wandb.settings, wanted).ok()?))) {
        Some((wanted, then)) => preview(pen, body, wandb, &tree.plan, (wanted, &then)),
        None => {
            let below = details(app, pen, body, wandb, &tree);
            lines(app, pen, Rect { height: body.height - below, ..body }, &tree);
        }
    }
}

/// `area` without its first rows.
fn lower(area: Rect, rows: u16) -> Rect {
    let rows = rows.min(area.height);
    Rect { y: area.y + rows, height: area.height - rows, ..area }
}

fn chip(app: &App) -> (&'static str, Role) {
    match app.state.wandb.as_ref().map(|wandb| wandb.settings.mode) {
        Some(Mode::Online) => ("ONLINE", Role::Ok),
        Some(Mode::Offline) => ("OFFLINE", Role::Warn),
        Some(Mode::Disabled) => ("DISABLED", Role::Info),
        None => ("OFF", Role::Info),
    }
}

/// Why there is nothing to show.
fn off(app: &App) -> String {
    let foreign = app.state.job.as_ref().is_some_and(|job| job.launcher == Launcher::Foreign);
    match &app.state.wandb {
        Some(wandb) if wandb.settings.mode == Mode::Disabled => {
            format!("W&B is {}.", wandb.settings.sentence())
        }
        Some(wandb) => wandb.settings.plan().map_or_else(|error| error.text, |_| String::new()),
        None if foreign => {
            "This job was not started by elastictop: its metrics go where its script sends them.".into()
        }
        None => "W&B is off, as nothing asks for it. What the script sends by itself is its own affair. \
                 Start a job with --wandb-project PROJECT to forward its metrics."
            .into(),
    }
}

fn paragraph(pen: &mut Pen, area: Rect, what: &str, role: Role) {
    let lines = text::wrap_words(what, usize::from(area.width.saturating_sub(3)).max(1));
    for (line, y) in lines.iter().zip(area.y..area.bottom()) {
        pen.text(area.x + 2, y, area.width.saturating_sub(2), line, role);
    }
}

/// How it stands; how many rows that took.
fn heading(pen: &mut Pen, area: Rect, wandb: &Wandb) -> u16 {
    let settings = &wandb.settings;
    let dot = pen.glyphs.dot;
    let mut text = settings.sentence();
    let given = [&settings.facts.entity, &settings.facts.project].into_iter().flatten();
    let place: Vec<&str> = given.map(|given| given.value.as_str()).collect();
    if !place.is_empty() {
        text += &format!("{dot}in {}", place.join("/"));
    }
    let room = area.width.saturating_sub(2);
    let mut rows: Vec<Piece> = vec![(text, Role::Text)];
    if let Some((mode, scope)) = wandb.pending {
        rows.push((format!("from the next restart on: {mode}/{scope}"), Role::Accent));
    }
    if let (Mode::Offline, Some(why)) = (settings.mode, &settings.why_not_online) {
        // Who asked for it needs no warning.
        let is_wanted = why.to_lowercase().contains("mode");
        let (mark, role) = if is_wanted { ("", Role::Dim) } else { (pen.glyphs.warn, Role::Warn) };
        rows.push((format!("{mark} offline: {why}").trim_start().to_owned(), role));
    }
    rows.truncate(usize::from(area.height / 4).max(1));
    let mut y = area.y;
    for (text, role) in rows {
        if y < area.bottom() {
            pen.text(area.x + 2, y, room, &text, role);
            y += 1;
        }
    }
    y - area.y
}

fn lines(app: &App, pen: &mut Pen, area: Rect, tree: &Tree) {
    let cursor = app.run_cursor(tree);
    let room = usize::from(area.height);
    let first = first_shown(cursor, tree.lines.len(), room);
    for ((n, line), y) in tree.lines.iter().enumerate().skip(first).take(room).zip(area.y..) {
        let place = Rect { y, height: 1, ..area };
        row(app, pen, tree, line, place);
        if n == cursor {
            pen.over(place, Role::Selection);
            pen.text(area.x, y, 1, pen.glyphs.cursor, Role::Accent);
        }
    }
}

fn row(app: &App, pen: &mut Pen, tree: &Tree, line: &Line, area: Rect) {
    let x = area.x + 2 + line.depth * 2;
    let (left, right) = match &line.key {
        Key::Group(name) => {
            let runs = tree.rows.iter().filter(|row| row.group.as_ref() == Some(name));
            (vec![(format!("group {name}"), Role::Title)], vec![(count(runs.count(), "run"), Role::Dim)])
        }
        Key::Run(id) => {
            let row = tree.row(id);
            let (glyph, role) = look(row.and_then(|row| row.progress.as_ref()).map(|p| p.state), pen.glyphs);
            let left = vec![(format!("{glyph} "), role), (id.clone(), Role::Text)];
            (left, row.map(|row| figures(app, row, area.width)).unwrap_or_default())
        }
        Key::Ranks(first) => ranks(app, tree, line, *first),
    };
    let width: usize = right.iter().map(|(text, _)| text::width(text)).sum();
    let width = (width as u16).min(area.width / 3 * 2);
    let end = area.right().saturating_sub(1);
    let left = with_its_end(left, end.saturating_sub(x + width + 1), pen.glyphs);
    pen.pieces(x, area.y, end.saturating_sub(x + width + 1), &left);
    pen.pieces(end.saturating_sub(width), area.y, width, &right);
}

/// The pieces, of which the last loses its beginning where there is no room: ids differ in their ends.
fn with_its_end(mut pieces: Vec<Piece>, room: u16, glyphs: Glyphs) -> Vec<Piece> {
    let Some((last, role)) = pieces.pop() else { return pieces };
    let taken: usize = pieces.iter().map(|(text, _)| text::width(text)).sum();
    pieces.push((end_of(&last, usize::from(room).saturating_sub(taken), glyphs), role));
    pieces
}

/// A text, or as much of its end as there is room for.
fn end_of(what: &str, room: usize, glyphs: Glyphs) -> String {
    let width = text::width(what);
    if width <= room {
        return what.to_owned();
    }
    let mut over = width + text::width(glyphs.cut) - room;
    let end = what.trim_start_matches(|c: char| {
        let cells = text::width(c.encode_utf8(&mut [0; 4]));
        let goes = over > 0;
        over = over.saturating_sub(cells);
        goes
    });
    format!("{}{end}", glyphs.cut)
}

/// A rank, or several of a node.
fn ranks(app: &App, tree: &Tree, line: &Line, first: u32) -> (Vec<Piece>, Vec<Piece>) {
    let rank = tree.plan.ranks.get(first as usize);
    let place = rank.map(|rank| match line.ranks.as_slice() {
        [_] => format!("node {}, local {}", rank.worker_index, rank.local_rank),
        _ => format!("node {}", rank.worker_index),
    });
    let label = rank.and_then(|rank| rank.label.as_ref()).map(|label| match line.ranks.len() {
        1 => format!(" as {label}"),
        _ => format!(" as {label} and on"),
    });
    let silent = rank.is_some_and(|rank| !rank.logs);
    let role = if silent { Role::Dim } else { Role::Rank(first) };
    let mut what = if silent { "silent" } else { "" }.to_owned();
    let known = app.wandb().map(|wandb| wandb.ranks.as_slice()).unwrap_or_default();
    let mine = known.iter().filter(|told| line.ranks.contains(&told.rank));
    let rows = mine.map(|told| told.rows).reduce(|a, b| a + b);
    if let Some(rows) = rows {
        let gap = if what.is_empty() { "" } else { "  " };
        what += &format!("{gap}{}", count(rows as usize, "row"));
    }
    let left = vec![(span(&line.ranks), role), (label.unwrap_or_default(), Role::Dim)];
    let right = vec![(what, Role::Dim), (format!("  {}", place.unwrap_or_default()), Role::Dim)];
    (left, right)
}

/// `r0-3,6`
fn span(ranks: &[u32]) -> String {
    let parts = ranks.chunk_by(|a, b| a + 1 == *b).map(|part| match part {
        [first, .., last] => format!("{first}-{last}"),
        [only] => only.to_string(),
        [] => String::new(),
    });
    format!("r{}", parts.collect::<Vec<_>>().join(","))
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// The glyph of a run's state.
pub(super) fn look(state: Option<RunState>, glyphs: Glyphs) -> (&'static str, Role) {
    let (pair, role) = match state {
        None => (["·", "-"], Role::Dim),
        Some(RunState::Waiting) => (["◐", "~"], Role::Info),
        Some(RunState::Local) => (["■", "#"], Role::Info),
        Some(RunState::Sending) => (["●", "*"], Role::Ok),
        Some(RunState::Retrying) => (["▲", "!"], Role::Warn),
        Some(RunState::Finishing) => (["◌", "."], Role::Info),
        Some(RunState::Finished) => (["✔", "+"], Role::Dim),
        Some(RunState::Refused) => (["✖", "x"], Role::Crit),
        Some(RunState::Unknown) => (["?", "?"], Role::Warn),
    };
    (pair[usize::from(glyphs.ascii)], role)
}

/// State, rows and acknowledgement, as much as the width allows.
fn figures(app: &App, row: &RunRow, width: u16) -> Vec<Piece> {
    let whose = if row.has_left() { "left the plan".into() } else { span(&row.ranks) };
    let mut pieces = vec![(format!("{whose}  "), Role::Dim)];
    let Some(progress) = &row.progress else {
        let script = app.wandb().is_some_and(|wandb| wandb.settings.writer == Writer::Script);
        pieces.push((if script { "by the script" } else { "on another node" }.into(), Role::Dim));
        return pieces;
    };
    let (_, role) = look(Some(progress.state), app.glyphs);
    let retry = progress.retry_at.filter(|_| progress.state == RunState::Retrying);
    pieces.push((
        match retry {
            Some(at) => format!("retry {}", until(at.since(app.now))),
            None => progress.state.word().to_owned(),
        },
        role,
    ));
    if width >= 60 {
        pieces.push((format!("  {}", count(progress.rows_logged as usize, "row")), Role::Text));
    }
    let waits = progress.backlog();
    if waits > 0 || width >= 90 {
        pieces.push((format!("  {waits} wait"), if waits > 0 { Role::Info } else { Role::Dim }));
    }
    if progress.rows_lost > 0 || width >= 90 {
        let role = if progress.rows_lost > 0 { Role::Crit } else { Role::Dim };
        pieces.push((format!("  {} lost", progress.rows_lost), role));
    }
    if let Some(at) = progress.last_ack_at.filter(|_| width >= 90) {
        pieces.push((format!("  ack {}", ago(app.now.since(at))), Role::Dim));
    }
    pieces
}

/// What there is to know of the selected line, and the other combinations; how many rows that took.
fn details(app: &App, pen: &mut Pen, area: Rect, wandb: &Wandb, tree: &Tree) -> u16 {
    let room = usize::from(area.width.saturating_sub(3)).max(1);
    let wrap = |text: &str, most: usize| {
        let mut lines = text::wrap_words(text, room);
        lines.truncate(most);
        lines
    };
    // Of paths the end tells.
    let wrap_about = |text: &str| match text.split_once(' ') {
        Some(("file", path)) => vec![format!("file {}", end_of(path, room.saturating_sub(5), pen.glyphs))],
        _ => wrap(text, 3),
    };
    let mut rows: Vec<Piece> = Vec::new();
    if let Some(line) = tree.lines.get(app.run_cursor(tree)) {
        rows.extend(about(wandb, tree, line).into_iter().flat_map(|(text, role)| {
            wrap_about(&text).into_iter().map(move |line| (line, role)).collect::<Vec<_>>()
        }));
    }
    let dot = pen.glyphs.dot;
    let others: Vec<_> = alternatives(&wandb.settings.facts)
        .into_iter()
        .map(|other| {
            let outcome = other.outcome.unwrap_or_else(|error| error.text);
            format!("{}/{}: {outcome}", other.run_mode, other.rank_scope)
        })
        .collect();
    let what_if = wrap(&format!("instead: {}", others.join(dot)), 3);
    let most = usize::from(area.height / 2);
    if most < 3 {
        return 0;
    }
    rows.truncate((most - 1).saturating_sub(if most > 4 { what_if.len() } else { 0 }).max(1));
    rows.extend(what_if.into_iter().map(|line| (line, Role::Dim)));
    rows.truncate(most - 1);
    let taken = rows.len() as u16 + 1;
    let below = Rect { y: area.bottom() - taken, height: taken, ..area };
    pen.rule(below, "why");
    for ((text, role), y) in rows.iter().zip(below.y + 1..) {
        pen.text(area.x + 2, y, area.width.saturating_sub(2), text, *role);
    }
    taken
}

/// Reason, trouble, page and file of a line.
fn about(wandb: &Wandb, tree: &Tree, line: &Line) -> Vec<Piece> {
    let mut rows = Vec::new();
    if let Some(reason) = tree.reason(line) {
        rows.push((reason.to_owned(), Role::Text));
    }
    if let Some(last) =
        wandb.ranks.iter().find(|told| line.ranks.contains(&told.rank) && !told.last.is_empty())
    {
        let fate = if last.is_sent { "last row" } else { "last row, shown and not sent" };
        let row = said::figures(&last.last).unwrap_or_else(|| last.last.clone());
        rows.push((format!("{fate}: {row}"), Role::Dim));
    }
    let progress = tree.run_of(line).and_then(|row| row.progress.as_ref());
    if let Some(error) = progress.and_then(|progress| progress.last_error.as_ref()) {
        rows.push((error.clone(), Role::Warn));
    }
    match (tree.link(line), &tree.plan.no_links) {
        (Some(link), _) => rows.push((format!("page {link}"), Role::Accent)),
        (None, Some(why)) => rows.push((format!("page unknown: {why}"), Role::Dim)),
        (None, None) => {}
    }
    if let Some(progress) = progress {
        rows.extend(progress.file.iter().map(|file| (format!("file {file}"), Role::Dim)));
        if !progress.not_forwarded.is_empty() {
            let what = progress.not_forwarded.join(", ");
            rows.push((format!("not forwarded: {what}"), Role::Warn));
        }
    }
    if wandb.settings.writer == Writer::Script && rows.len() < 2 {
        rows.push(("the script writes: figures are on W&B's page".into(), Role::Dim));
    }
    rows
}

/// The tree that is and the tree that would be.
fn preview(pen: &mut Pen, area: Rect, wandb: &Wandb, now: &Plan, (wanted, then): (Combination, &Plan)) {
    let script = wandb.settings.writer == Writer::Script;
    let apply = if script {
        "Enter: from the next restart on, as the script writes; Esc: leave it"
    } else {
        "Enter: from now on, no row is lost; Esc: leave it"
    };
    let ends = now.runs.iter().filter(|run| fate(&run.id, then, false) == Fate::Ends).count();
    let begins = then.runs.iter().filter(|run| fate(&run.id, now, true) == Fate::Begins).count();
    let verb = |n: usize, one: &'static str, more: &'static str| if n == 1 { one } else { more };
    let sum = format!(
        "{} {}, {} {}",
        count(ends, "run"),
        verb(ends, "ends", "end"),
        count(begins, "run"),
        verb(begins, "begins", "begin")
    );
    let footer = 2.min(area.height);
    for (text, y) in [apply.to_owned(), sum].iter().zip(area.bottom() - footer..area.bottom()) {
        pen.text(area.x + 2, y, area.width.saturating_sub(2), text, Role::Accent);
    }
    let area = Rect { height: area.height - footer, ..area };
    let name = |mode, scope, plan: &Plan| format!("{mode}/{scope}: {}", plan.counts());
    let (was, will) = (name(now.run_mode, now.rank_scope, now), name(wanted.0, wanted.1, then));
    if area.width >= SIDE_BY_SIDE {
        let half = area.width / 2;
        let left = Rect { width: half.saturating_sub(1), ..area };
        let right = Rect { x: area.x + half, width: area.width - half, ..area };
        column(pen, left, &format!("now {was}"), now, |id| fate(id, then, false));
        column(pen, right, &format!("then {will}"), then, |id| fate(id, now, true));
    } else {
        let half = area.height / 2;
        column(pen, Rect { height: half, ..area }, &format!("now {was}"), now, |id| fate(id, then, false));
        let title = format!("then {will}");
        column(pen, lower(area, half), &title, then, |id| fate(id, now, true));
    }
}

fn column(pen: &mut Pen, area: Rect, title: &str, plan: &Plan, fate_of: impl Fn(&str) -> Fate) {
    if area.is_empty() {
        return;
    }
    pen.rule(area, title);
    let room = usize::from(area.height - 1);
    // What changes matters more than what stays.
    let mut runs: Vec<(&Run, Fate)> = plan.runs.iter().map(|run| (run, fate_of(&run.id))).collect();
    runs.sort_by_key(|(_, fate)| *fate == Fate::Stays);
    let shown = if runs.len() > room { room.saturating_sub(1) } else { room };
    for ((run, fate), y) in runs.iter().take(shown).zip(area.y + 1..) {
        let (glyph, role) = match fate {
            Fate::Stays => ("=", Role::Dim),
            Fate::Ends => ("-", Role::Warn),
            Fate::Begins => ("+", Role::Ok),
        };
        let group = run.group.as_ref().map(|group| format!("  in {group}")).unwrap_or_default();
        let ranks = span(&run.ranks);
        let room = usize::from(area.width.saturating_sub(13)).saturating_sub(text::width(&ranks));
        let pieces = [
            (format!("{glyph} {:<6} ", fate.word()), role),
            (format!("{}  ", end_of(&run.id, room, pen.glyphs)), Role::Text),
            (ranks, Role::Dim),
            (group, Role::Dim),
        ];
        pen.pieces(area.x + 2, y, area.width.saturating_sub(2), &pieces);
    }
    if runs.len() > shown && room > 0 {
        let y = area.y + 1 + shown as u16;
        pen.text(
            area.x + 2,
            y,
            area.width.saturating_sub(2),
            &format!("{} more", runs.len() - shown),
            Role::Dim,
        );
    }
}
