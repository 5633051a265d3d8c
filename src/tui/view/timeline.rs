//! The restart timeline: one lane per attempt, scaled in time.

use ratatui::layout::Rect;

use super::{Pen, first_shown, pen::Piece};
use crate::{
    domain::{
        event::Reason,
        goodput::{self, Goodput, Loss},
        rank::JobState,
        state::Attempt,
        telling::count,
        time::Stamp,
    },
    tui::{app::App, text, theme::Role, words},
};

/// The view: lanes, and all about the selected one.
pub(super) fn draw(app: &App, pen: &mut Pen, area: Rect) {
    if area.is_empty() {
        return;
    }
    let about = (area.height / 2).min(12);
    let about = if area.height < 8 { 0 } else { about };
    let (_, sum) = goodput::of(&app.state, app.now);
    let sum = sum.filter(|_| area.height >= 6);
    let sum_height = u16::from(sum.is_some());
    let lanes_want = app.state.attempts.len() as u16 + 1;
    let lanes_height = lanes_want.min(area.height - about - sum_height);
    lanes(app, pen, Rect { height: lanes_height, ..area }, true);
    if let Some(sum) = sum {
        let line = goodput_line("goodput", &sum);
        pen.pieces(area.x + 1, area.y + lanes_height, area.width.saturating_sub(1), &line);
    }
    let used = lanes_height + sum_height;
    let below = Rect { y: area.y + used, height: area.height - used, ..area };
    if about > 0
        && let Some(lane) = selected(app)
    {
        describe(app, pen, below, lane);
    }
}

/// `goodput 91.3 %  lost: restart 2m 31s, stalled 10m 00s`.
fn goodput_line(label: &str, goodput: &Goodput) -> Vec<Piece> {
    let mut line = vec![
        (format!("{label} "), Role::Dim),
        (
            format!("{:.1} %", goodput.percent()),
            if goodput.percent() >= 90.0 { Role::Ok } else { Role::Warn },
        ),
    ];
    let losses = goodput.losses();
    for (n, (loss, lost)) in losses.iter().enumerate() {
        let before = if n == 0 { "  lost: " } else { ", " };
        line.push((format!("{before}{} ", loss.name()), Role::Dim));
        line.push((text::span(*lost), if *loss == Loss::Stall { Role::Warn } else { Role::Text }));
    }
    line
}

/// The pane of the overview.
pub(super) fn pane(app: &App, pen: &mut Pen, area: Rect) {
    lanes(app, pen, area, false);
}

fn selected(app: &App) -> Option<&Attempt> {
    let lanes = &app.state.attempts;
    app.lane.and_then(|n| lanes.iter().find(|lane| lane.n == n)).or(lanes.back())
}

fn lanes(app: &App, pen: &mut Pen, area: Rect, with_cursor: bool) {
    if area.is_empty() {
        return;
    }
    pen.rule(area, "timeline");
    let all = &app.state.attempts;
    let room = usize::from(area.height - 1);
    if all.is_empty() {
        pen.text(area.x + 2, area.y + 1, area.width.saturating_sub(2), "no attempt yet", Role::Dim);
        return;
    }
    let last = all.len() - 1;
    let cursor =
        if with_cursor { selected(app).map_or(last, |lane| (lane.n - all[0].n) as usize) } else { last };
    let first = first_shown(cursor.min(last), all.len(), room);
    let shown = || all.iter().skip(first).take(room);
    let begin = shown().next().map_or(Stamp(0), |lane| lane.started_at);
    let end = shown().filter_map(|lane| lane.ended_at).max();
    let goes_on = shown().any(|lane| lane.ended_at.is_none());
    let end = if goes_on { app.now } else { end.unwrap_or(app.now) };
    for (lane, y) in shown().zip(area.y + 1..) {
        draw_lane(app, pen, lane, Rect { y, height: 1, ..area }, (begin, end));
        if with_cursor && selected(app).is_some_and(|chosen| chosen.n == lane.n) {
            pen.over(Rect { y, height: 1, ..area }, Role::Selection);
            pen.text(area.x, y, 1, pen.glyphs.cursor, Role::Accent);
        }
    }
}

fn draw_lane(app: &App, pen: &mut Pen, lane: &Attempt, area: Rect, (begin, end): (Stamp, Stamp)) {
    let glyphs = app.glyphs;
    let (x, y) = (area.x + 1, area.y);
    pen.right(x, y, 3, &lane.n.to_string(), Role::Text);
    let (glyph, word, role) = words::reason(lane.reason, glyphs);
    let wordy = area.width >= 58;
    let reason = if wordy { format!("{glyph} {word}") } else { glyph.to_owned() };
    pen.text(x + 4, y, if wordy { 12 } else { 1 }, &reason, role);
    let bar_x = x + if wordy { 17 } else { 6 };
    let text_cells = match area.width {
        0..44 => 10,
        44..58 => 20,
        58..90 => area.width * 2 / 5,
        _ => area.width / 2,
    };
    let bar_cells = area.right().saturating_sub(bar_x + text_cells);
    let (from, to) = span(lane, bar_cells, begin, end);
    let dead = lane.cause.is_some();
    let bar_role = match (lane.over_at(), dead) {
        (Some(_), _) => Role::Dim,
        (None, true) => Role::Warn,
        (None, false) => Role::Ok,
    };
    let bar = bar(app, to - from, lane.over_at().is_some());
    pen.text(bar_x + from, y, to - from, &bar, bar_role);
    if let Some((mark, role)) = end_mark(app, lane).filter(|_| to > from) {
        pen.text(bar_x + to - 1, y, 1, mark, role);
    }
    let mut at = bar_x + bar_cells + 1;
    let stop = area.right();
    let lasted = text::span(lane.over_at().unwrap_or(app.now).since(lane.started_at));
    pen.right(at, y, 7.min(stop.saturating_sub(at)), &lasted, Role::Text);
    at += 9;
    if area.width >= 44 {
        let step = lane.last_step.map(|step| format!("step {step}"));
        let cells = stop.saturating_sub(at).min(11);
        at += pen.text(at, y, cells, &step.unwrap_or_else(|| "step -".into()), Role::Dim).max(9) + 2;
    }
    if area.width >= 58 {
        let spent = format!(
            "restarts {}",
            words::spent(lane.restarts, app.state.job.as_ref().and_then(|j| j.max_restarts))
        );
        if area.width >= 140 {
            at += pen.text(at, y, stop.saturating_sub(at), &spent, Role::Dim).max(9) + 2;
        }
        if dead && at + 12 < stop {
            let cause = lane.cause.as_ref().map_or("", |cause| &cause.text);
            pen.text(at, y, stop - at, cause, Role::Text);
        } else if let Some(hang) = lane.ended_in().filter(|_| at + 12 < stop) {
            pen.text(at, y, stop - at, &format!("hung: {}", hang.text), Role::Text);
        } else if lane.reason == Reason::Membership && at < stop {
            let ranks = lane.world_size.map(|ranks| count(ranks as usize, "rank")).unwrap_or_default();
            pen.text(at, y, stop - at, &ranks, Role::Dim);
        }
    }
}

/// How the attempt ended.
fn end_mark(app: &App, lane: &Attempt) -> Option<(&'static str, Role)> {
    let is_last = app.state.attempts.back().is_some_and(|last| last.n == lane.n);
    match (lane.over_at(), &lane.cause) {
        (Some(_), Some(_)) => Some((app.glyphs.bad, Role::Crit)),
        (Some(_), None) if is_last && app.state.state == JobState::Done => Some((app.glyphs.good, Role::Ok)),
        _ => None,
    }
}

/// First and last cell of a lane's bar; at least one cell.
fn span(lane: &Attempt, cells: u16, begin: Stamp, end: Stamp) -> (u16, u16) {
    let whole = end.since(begin).as_millis().max(1);
    let cell =
        |at: Stamp| (at.since(begin).as_millis() * u128::from(cells) / whole).min(u128::from(cells)) as u16;
    let from = cell(lane.started_at).min(cells.saturating_sub(1));
    let to = cell(lane.over_at().unwrap_or(end)).max(from + 1).min(cells);
    (from.min(to), to)
}

fn bar(app: &App, cells: u16, ended: bool) -> String {
    let glyphs = app.glyphs;
    let [begin, finish, open] = glyphs.lane;
    let last = if ended { finish } else { open };
    match cells {
        0 => String::new(),
        1 => (if ended { glyphs.bar } else { open }).into(),
        _ => format!("{begin}{}{last}", glyphs.line.repeat(usize::from(cells - 2))),
    }
}

/// Everything about one attempt.
fn describe(app: &App, pen: &mut Pen, area: Rect, lane: &Attempt) {
    if area.height < 2 {
        return;
    }
    let area = Rect { y: area.y + 1, height: area.height - 1, ..area };
    pen.rule(area, &format!("attempt {}", lane.n));
    let (_, word, role) = words::reason(lane.reason, app.glyphs);
    let at = |stamp| words::clock(stamp, app.now, app.offset_s);
    let unknown = || "n/a".to_owned();
    let max_restarts = app.state.job.as_ref().and_then(|job| job.max_restarts);
    let ended = lane.over_at().map_or("goes on".into(), at);
    let mut lines: Vec<(&str, String, Role)> = vec![
        ("why", word.into(), role),
        ("began", at(lane.started_at), Role::Text),
        ("ended", ended, Role::Text),
        ("ranks", lane.world_size.map_or_else(unknown, |ranks| ranks.to_string()), Role::Text),
        ("restarts", words::spent(lane.restarts, max_restarts), Role::Text),
        ("last step", lane.last_step.map_or_else(unknown, |step| step.to_string()), Role::Text),
    ];
    let at = app.state.attempts.iter().position(|attempt| attempt.n == lane.n);
    let (each, _) = goodput::of(&app.state, app.now);
    if let Some(goodput) = at.and_then(|at| each.get(at)) {
        let pieces = goodput_line("", goodput).into_iter().skip(1);
        lines.push(("goodput", pieces.map(|(piece, _)| piece).collect(), Role::Text));
    }
    if let Some(cause) = &lane.cause {
        lines.push(("cause", cause.text.clone(), Role::Crit));
        lines.extend(cause.evidence.iter().map(|fact| ("", fact.clone(), Role::Dim)));
        lines.extend(cause.hint.iter().map(|hint| ("try", hint.clone(), Role::Info)));
    } else if let Some(hang) = lane.ended_in() {
        lines.push(("hung", hang.text.clone(), Role::Warn));
        lines.extend(hang.evidence.iter().map(|fact| ("", fact.clone(), Role::Dim)));
    }
    let cells = area.width.saturating_sub(14);
    let mut y = area.y + 1;
    for (label, text, role) in lines {
        pen.text(area.x + 2, y, 10, label, Role::Dim);
        for row in text::wrap_words(&text, usize::from(cells).max(1)) {
            if y >= area.bottom() {
                return;
            }
            pen.text(area.x + 13, y, cells, &row, role);
            y += 1;
        }
    }
}
