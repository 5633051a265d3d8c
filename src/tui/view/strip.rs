//! Under the header, only when there is something to say: alerts, and why the last attempt failed.

use std::time::Duration;

use ratatui::layout::Rect;

use super::{Pen, pen::Piece, verdict};
use crate::{
    domain::{alert::Alert, event::Reason, rank::JobState, state::Attempt, time::human},
    tui::{
        app::App,
        keys::{Action, View},
        text,
        theme::Role,
        words,
    },
};

/// A failure that was got over this long ago is no news any more.
const OLD_NEWS: Duration = Duration::from_secs(15 * 60);
/// Nor is one that the next attempt has made steps after for this long.
const GOT_OVER: Duration = Duration::from_secs(60);

pub(super) fn draw(pen: &mut Pen, area: Rect, lines: &[Line]) {
    for (line, y) in lines.iter().zip(area.top()..area.bottom()) {
        pen.pieces(area.x + 1, y, area.width.saturating_sub(1), line);
    }
}

pub(super) type Line = Vec<Piece>;

/// The lines of the strip, `budget` at most.
pub(super) fn lines(app: &App, width: u16, budget: u16) -> Vec<Line> {
    // The hang view says all of it.
    let is_told = |alert: &&Alert| app.view != View::Hang || !alert.kind.is_about_waiting();
    let mut alerts: Vec<&Alert> = app.state.alerts.iter().filter(is_told).collect();
    alerts.sort_by_key(|alert| (alert.acts_at.is_none(), words::gravity(alert.kind), alert.since));
    let budget = usize::from(budget);
    let width = usize::from(width.saturating_sub(2));
    let cause_matters = cause_is_news(app);
    // The more there is to say, the less of it about each: all with evidence, then without, then one line each.
    for form in [Form::Full, Form::Brief, Form::Line] {
        let mut lines = silence_lines(app, width, form);
        lines.extend(alerts.iter().flat_map(|alert| alert_lines(app, alert, width, form)));
        let cause_form = if cause_matters { form } else { Form::Line };
        lines.extend(cause_lines(app, width, cause_form));
        if lines.len() <= budget {
            if !lines.is_empty() && budget > lines.len() + 2 {
                lines.push(Vec::new());
            }
            return lines;
        }
        if form == Form::Line && budget > 0 {
            let more = lines.len() - budget;
            lines.truncate(budget);
            if let Some(line) = lines.last_mut() {
                line.insert(0, (format!("(+{more}) "), Role::Warn));
            }
            return lines;
        }
    }
    Vec::new()
}

/// How much is said about one thing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Full,
    Brief,
    Line,
}

/// What is shown is old, and looks as if it were not.
fn silence_lines(app: &App, width: usize, form: Form) -> Vec<Line> {
    let Some(age) = app.silence() else { return Vec::new() };
    let text = format!("{} the supervisor has not answered for {}", app.glyphs.warn, human(age));
    if form == Form::Line {
        return vec![vec![(text, Role::Crit)]];
    }
    let mut lines = indented(&format!("{text}: all below is from before"), width, Role::Crit, "", "  ");
    if form == Form::Full {
        const HINT: &str = "it is stopped, or the line to it hangs; the job does not need it. On its node pgrep -af \
                            __supervise finds it, kill -CONT PID wakes it";
        lines.extend(indented(HINT, width, Role::Info, "  ", "  "));
    }
    lines
}

fn alert_lines(app: &App, alert: &Alert, width: usize, form: Form) -> Vec<Line> {
    let role = words::alert_role(alert.kind);
    let since = human(app.now.since(alert.since));
    let acts = alert.acts_at.map(|at| {
        format!(
            "{}acts {}",
            if form == Form::Line { "" } else { "elastictop " },
            words::countdown(app.now, at)
        )
    });
    let mut head = vec![(format!("{} {}", app.glyphs.warn, alert.text), role)];
    head.push((format!("  for {since}"), Role::Dim));
    head.extend(acts.map(|acts| (format!("  {acts}"), Role::Warn)));
    let mut keys: Line = Vec::new();
    for (action, does) in words::remedy(alert.kind) {
        // Where nothing can be changed, what would change the job is no offer.
        let has_rank = *action != Action::Stacks || app.rank().is_some();
        let Some(key) = app.keymap.shown(*action).filter(|_| has_rank && app.can_do(*action)) else {
            continue;
        };
        keys.push((format!("  {key} "), Role::Key));
        keys.push(((*does).to_owned(), Role::Text));
    }
    if form == Form::Line {
        // Two keys at most, and no age where there is no room for it.
        keys.truncate(4);
        if width < 70 {
            keys.truncate(2);
            head.remove(1);
        }
        // What to press and when it acts must not be cut off: the sentence gives way.
        let tail: usize = head[1..].iter().chain(&keys).map(|(piece, _)| text::width(piece)).sum();
        let room = width.saturating_sub(tail).max(width / 4);
        let sentence = text::cut(&head[0].0, room, app.glyphs).into_owned();
        head[0].0 = sentence;
        head.extend(keys);
        return vec![head];
    }
    let mut lines = wrapped_head(head, width);
    if form != Form::Line && alert.kind.is_about_waiting() {
        lines.extend(verdict::gatherings(app, width));
    }
    if form == Form::Full {
        lines.extend(evidence(app, &alert.evidence, width));
    }
    if !keys.is_empty() {
        keys.insert(0, ("  press".into(), Role::Dim));
        lines.push(keys);
    }
    lines
}

/// The sentence over as many lines as it needs, with the rest behind it or below.
fn wrapped_head(head: Line, width: usize) -> Vec<Line> {
    let total: usize = head.iter().map(|(piece, _)| text::width(piece)).sum();
    let mut pieces = head.into_iter();
    let Some((sentence, role)) = pieces.next() else { return Vec::new() };
    if total <= width {
        return vec![std::iter::once((sentence, role)).chain(pieces).collect()];
    }
    let mut lines: Vec<Line> = indented(&sentence, width, role, "", "  ");
    let rest: Line = pieces.collect();
    let cells = |line: &Line| line.iter().map(|(piece, _)| text::width(piece)).sum::<usize>();
    match lines.last_mut() {
        Some(last) if cells(last) + cells(&rest) <= width => last.extend(rest),
        _ => lines.push(rest),
    }
    lines
}

fn indented(sentence: &str, width: usize, role: Role, first: &str, then: &str) -> Vec<Line> {
    let rows = text::wrap_words(sentence, width.saturating_sub(text::width(then)).max(1));
    rows.into_iter()
        .enumerate()
        .map(|(n, row)| vec![(format!("{}{row}", if n == 0 { first } else { then }), role)])
        .collect()
}

fn evidence(app: &App, facts: &[String], width: usize) -> Vec<Line> {
    let facts: Vec<&str> = facts.iter().map(|fact| fact.trim()).filter(|fact| !fact.is_empty()).collect();
    if facts.is_empty() {
        return Vec::new();
    }
    let facts = facts.join(app.glyphs.dot);
    indented(&facts, width, Role::Dim, "  ", "  ")
}

/// Whether the job suffers from its cause now. After a restart that went well one line is enough.
fn cause_is_news(app: &App) -> bool {
    matches!(
        app.state.state,
        JobState::Failed
            | JobState::Restarting
            | JobState::TearingDown
            | JobState::ZombieDeadlock
            | JobState::Orphaned
            | JobState::Stopped
    )
}

fn cause_lines(app: &App, width: usize, form: Form) -> Vec<Line> {
    let Some(cause) = app.state.cause.as_ref().filter(|_| app.state.state != JobState::Done) else {
        return Vec::new();
    };
    let news = cause_is_news(app);
    let failed = app.state.attempts.iter().rev().find(|attempt| attempt.cause.is_some());
    let which = failed.map_or("failure".into(), |attempt| format!("attempt {}", attempt.n));
    if !news {
        let ended = failed.and_then(Attempt::over_at);
        let next = app.state.attempts.back().filter(|next| failed.is_none_or(|failed| next.n > failed.n));
        let works_since = next.and_then(|next| next.first_step).map(|(_, at)| at);
        let is_over = works_since.is_some_and(|at| app.now.since(at) >= GOT_OVER);
        if is_over || ended.is_none_or(|at| app.now.since(at) >= OLD_NEWS) {
            // The timeline has it.
            return Vec::new();
        }
        let ago = ended.map(|at| human(app.now.since(at)));
        let ago = ago.map(|ago| format!("  {ago} ago")).unwrap_or_default();
        let room = width.saturating_sub(text::width(&ago));
        let is_change = next.is_some_and(|next| next.reason == Reason::Membership);
        let how = if is_change { "ended" } else { "failed" };
        let sentence = format!("{} {which} {how}: {}", app.glyphs.again, cause.text);
        return vec![vec![
            (text::cut(&sentence, room, app.glyphs).into_owned(), Role::Dim),
            (ago, Role::Dim),
        ]];
    }
    let role = if app.state.state == JobState::Stopped { Role::Info } else { Role::Crit };
    let sentence = format!("{} {which}: {}", app.glyphs.bad, cause.text);
    if form == Form::Line {
        return vec![vec![(sentence, role)]];
    }
    let mut lines = indented(&sentence, width, role, "", "  ");
    if form == Form::Full {
        lines.extend(evidence(app, &cause.evidence, width));
    }
    if let Some(hint) = &cause.hint {
        lines.extend(indented(&format!("try: {hint}"), width, Role::Info, "  ", "  "));
    }
    lines.push(vec![
        ("  press".into(), Role::Dim),
        ("  L e ".into(), Role::Key),
        ("first error".into(), Role::Text),
        ("  3 ".into(), Role::Key),
        ("timeline".into(), Role::Text),
    ]);
    lines
}
