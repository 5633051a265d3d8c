//! Why the job does not move on: verdict, the odd rank, who waits where, evidence, stacks, time left, what to do.

use std::collections::BTreeMap;

use ratatui::layout::Rect;

use super::{Pen, pen::Piece, verdict};
use crate::{
    domain::{
        alert::Alert,
        beat::GroupStatus,
        rank::{RankState, list},
        state::Rank,
        telling::count,
        time::human,
        verdict::{GuardedBy, standing::group_name},
    },
    tui::{app::App, keys::Action, text, theme::Role, words},
};

type Line = Vec<Piece>;

/// Cells of a bar at most.
const BAR: usize = 30;
/// Most ranks that are told of a bar.
const MOST_GROUPS: usize = 6;
/// Most groups of stacks.
const MOST_STACKS: usize = 8;

pub(super) fn draw(app: &App, pen: &mut Pen, area: Rect) {
    if area.is_empty() {
        return;
    }
    pen.rule(area, "why the job does not move on");
    // What to press stays in sight, however long the rest is.
    let keys = actions(app);
    let foot = u16::from(area.height > 4);
    let room = usize::from(area.height - 1 - foot);
    let lines = lines(app, usize::from(area.width.saturating_sub(2)).max(8));
    let first = app.hang_first.min(lines.len().saturating_sub(room));
    for (line, y) in lines.iter().skip(first).take(room).zip(area.y + 1..) {
        pen.pieces(area.x + 1, y, area.width.saturating_sub(1), line);
    }
    let below = lines.len().saturating_sub(first + room);
    if below > 0 && room > 1 {
        let more = format!(" {} {below} more: j ", app.glyphs.cut);
        pen.right(area.x, area.bottom() - 1 - foot, area.width, &more, Role::Key);
    }
    if foot > 0 {
        pen.pieces(area.x + 1, area.bottom() - 1, area.width.saturating_sub(1), &keys);
    }
}

pub(super) fn length(app: &App, width: u16) -> usize {
    lines(app, usize::from(width.saturating_sub(2)).max(8)).len()
}

/// All of it, for the clipboard.
pub(super) fn text(app: &App) -> String {
    let plain = |line: Line| line.into_iter().map(|(piece, _)| piece).collect::<String>();
    let all: Vec<String> = lines(app, 160).into_iter().map(plain).collect();
    all.iter().map(|line| line.trim_end()).collect::<Vec<_>>().join("\n")
}

fn lines(app: &App, width: usize) -> Vec<Line> {
    let (alerts, past) = (app.hang_alerts(), app.past_hangs());
    let mut lines: Vec<Line> = Vec::new();
    if alerts.is_empty() && !past.is_empty() {
        lines.push(vec![("the job is over; its last group ended in this hang:".into(), Role::Dim)]);
        for (_, hang) in &past {
            let text = format!("{} {}", app.glyphs.bad, hang.text);
            lines.extend(
                text::wrap_words(&text, width.saturating_sub(2))
                    .into_iter()
                    .map(|row| vec![(row, Role::Crit)]),
            );
        }
        lines.extend(odd(app, width));
        lines.extend(evidence(app, &past, width));
        lines.extend(heading("what to do"));
        lines.push(vec![("  elastictop replay --at alert plays the moment".into(), Role::Text)]);
        return lines;
    }
    if alerts.is_empty() && app.state.state.is_over() {
        lines.push(vec![("the job is over, and its last group did not end in a hang".into(), Role::Dim)]);
    } else if alerts.is_empty() {
        let moving = app.all_ranks().filter(|rank| rank.state == RankState::Running).count();
        lines.push(vec![(format!("{} no verdict", app.glyphs.good), Role::Ok)]);
        let all = count(app.all_ranks().count(), "rank");
        let text = if app.all_ranks().next().is_none() {
            "no rank runs: there is nothing to judge yet".to_owned()
        } else {
            format!("{moving} of {all} run; nothing says that the job hangs")
        };
        lines.push(vec![(format!("  {text}"), Role::Dim)]);
    }
    for (node, alert) in &alerts {
        lines.extend(sentence(app, (*node, alert), width));
    }
    lines.extend(odd(app, width));
    lines.extend(gatherings(app, width));
    lines.extend(evidence(app, &alerts, width));
    lines.extend(stacks(app, width));
    lines.extend(time_left(app));
    lines
}

fn heading(text: &str) -> [Line; 2] {
    [Vec::new(), vec![(text.to_owned(), Role::Title)]]
}

fn sentence(app: &App, (node, alert): (u32, &Alert), width: usize) -> Vec<Line> {
    let role = words::alert_role(alert.kind);
    let since = human(app.now_of(node).since(alert.since));
    let acts =
        alert.acts_at.map(|at| format!(", elastictop acts {}", words::countdown(app.now_of(node), at)));
    let text = format!("{} {}, for {since}{}", app.glyphs.warn, alert.text, acts.unwrap_or_default());
    text::wrap_words(&text, width.saturating_sub(2).max(8))
        .into_iter()
        .enumerate()
        .map(|(n, row)| vec![(if n == 0 { row } else { format!("  {row}") }, role)])
        .collect()
}

/// The rank to look at, and what it does.
fn odd(app: &App, width: usize) -> Vec<Line> {
    let Some((id, rank)) = app.odd_rank() else { return Vec::new() };
    let look = words::rank_state(rank, app.glyphs);
    let node = app.overview.fleet.nodes.get(id.node as usize).map_or("?", |node| node.name.as_str());
    let mut lines: Vec<Line> = heading("the rank to look at").into();
    let mut line = vec![
        (format!("  rank {}", rank.number()), Role::Warn),
        (format!("  {node}:{}  pid {}  ", rank.local_rank, rank.proc.pid), Role::Text),
        (format!("{} {}", look.glyph, look.word), look.role),
    ];
    let detail = rank.detail.as_ref().map(|detail| format!(", {detail}")).unwrap_or_default();
    let cpu = rank.cpu_pct.map(|pct| format!("  CPU {pct:.0} %")).unwrap_or_default();
    let step = rank
        .step
        .zip(rank.step_at)
        .map(|(step, at)| format!("  step {step}, {} ago", text::age(app.now_of(id.node).since(at))));
    let beat = rank.beat_at.map(|at| format!("  heartbeat {} ago", text::age(app.now_of(id.node).since(at))));
    line.push((format!("{cpu}{}{}", step.unwrap_or_default(), beat.unwrap_or_default()), Role::Text));
    lines.push(line);
    if let Some(doing) = verdict::doing(app, rank) {
        lines.push(vec![(format!("  {doing}"), Role::Warn)]);
    } else if !detail.is_empty() {
        lines.push(vec![(format!("  {}", &detail[2..]), Role::Text)]);
    }
    if let Some(said) = rank.last_line.as_ref().filter(|said| !said.trim().is_empty()) {
        let said = text::cut(said, width.saturating_sub(14), app.glyphs).into_owned();
        lines.push(vec![("  last line ".into(), Role::Dim), (said, Role::Text)]);
    }
    lines
}

/// For each process group in which somebody waits: how many ranks are at which collective.
fn gatherings(app: &App, width: usize) -> Vec<Line> {
    let mut groups: BTreeMap<&str, (&GroupStatus, BTreeMap<u64, Vec<&Rank>>)> = BTreeMap::new();
    for rank in app.all_ranks().filter(|rank| rank.state.is_alive()) {
        for group in &rank.groups {
            if let Some(at) = group.enqueued {
                groups
                    .entry(&group.name)
                    .or_insert_with(|| (group, BTreeMap::new()))
                    .1
                    .entry(at)
                    .or_default()
                    .push(rank);
            }
        }
    }
    // While all move, ranks tell of different numbers because they tell at different moments.
    let has_verdict = !app.hang_alerts().is_empty();
    let waits = |ranks: &BTreeMap<u64, Vec<&Rank>>, name: &str| {
        let stands = |rank: &&Rank| rank.standing.as_ref().is_some_and(|standing| standing.group == name);
        has_verdict && ranks.len() > 1 || ranks.values().flatten().any(stands)
    };
    let mut lines = Vec::new();
    for (group, at) in groups.into_values() {
        let name = group_name(group);
        if !waits(&at, &name) {
            continue;
        }
        let all: usize = at.values().map(Vec::len).sum();
        let op = at
            .values()
            .flatten()
            .find_map(|rank| rank.standing.as_ref().filter(|s| s.group == name)?.op.clone());
        let op = op.map(|op| format!("  {op}")).unwrap_or_default();
        let size = group.size.map_or("n/a".into(), |size| size.to_string());
        lines.extend(heading(&format!("group {name}: {size} ranks{op}")));
        let last = at.keys().next_back().copied();
        for (n, ranks) in at.iter().rev().take(MOST_GROUPS) {
            lines.push(bar(app, (*n, ranks, all), Some(*n) == last, width));
        }
    }
    lines
}

fn bar(app: &App, (at, ranks, all): (u64, &[&Rank], usize), is_first: bool, width: usize) -> Line {
    let cells = (ranks.len() * BAR.min(width / 3)).div_ceil(all.max(1));
    let role = if is_first { Role::Dim } else { Role::Warn };
    let numbers: Vec<u32> = ranks.iter().map(|rank| rank.number()).collect();
    let noun = if ranks.len() == 1 { "rank " } else { "ranks" };
    vec![
        (format!("  {:>5} {noun} at {at:<9} ", ranks.len()), role),
        (app.glyphs.full.repeat(cells), role),
        (format!(" {}", list(&numbers)), if is_first { Role::Dim } else { Role::Text }),
    ]
}

fn evidence(app: &App, alerts: &[(u32, &Alert)], width: usize) -> Vec<Line> {
    let facts: Vec<&str> = alerts
        .iter()
        .flat_map(|(_, alert)| &alert.evidence)
        .map(|fact| fact.trim())
        .filter(|fact| !fact.is_empty())
        .collect();
    if facts.is_empty() {
        return Vec::new();
    }
    let mut lines: Vec<Line> = heading("confirmed by").into();
    for fact in facts {
        for (n, row) in text::wrap_words(fact, width.saturating_sub(4).max(8)).into_iter().enumerate() {
            let mark = if n == 0 { app.glyphs.good } else { " " };
            lines.push(vec![(format!("  {mark} "), Role::Ok), (row, Role::Text)]);
        }
    }
    lines
}

fn stacks(app: &App, width: usize) -> Vec<Line> {
    let Some(stacks) = &app.stacks.stacks else {
        let mut lines: Vec<Line> = heading("stacks").into();
        let can = app.can_do(Action::Stacks);
        lines.push(if can {
            vec![
                ("  not taken yet: ".into(), Role::Dim),
                ("s".into(), Role::Key),
                (" takes them".into(), Role::Dim),
            ]
        } else {
            vec![("  not taken".into(), Role::Dim)]
        });
        return lines;
    };
    let age = app.now.since(app.stacks.at);
    let age = if age.as_secs() < 2 { "just taken".into() } else { format!("{} old", human(age)) };
    let mut lines: Vec<Line> = heading(&format!("stacks, {age}")).into();
    let has_odd = !stacks.odd().is_empty();
    for (n, group) in stacks.groups.iter().take(MOST_STACKS).enumerate() {
        let role = if n == 0 && has_odd { Role::Warn } else { Role::Text };
        let place = group.at.as_ref().map(|at| format!("  ({at})")).unwrap_or_default();
        let told = format!("{:>5} {} {}{place}", group.ranks.len(), app.glyphs.times, group.line);
        let told = if app.glyphs.ascii { told.replace('←', "<-") } else { told };
        lines.push(vec![(told, role), (format!("  {}", list(&group.ranks)), Role::Dim)]);
    }
    for failed in &stacks.failed {
        let told = format!("no stack of {}: {}", list(&failed.ranks), failed.why);
        let rows = text::wrap_words(&told, width.saturating_sub(2).max(8));
        lines.extend(rows.into_iter().map(|row| vec![(format!("  {row}"), Role::Warn)]));
    }
    lines
}

/// What will end the wait, and when.
fn time_left(app: &App) -> Vec<Line> {
    let ranks = || app.all_ranks().filter(|rank| rank.state.is_alive());
    let abort = ranks()
        .filter_map(|rank| Some((rank.standing.as_ref()?.aborts_at()?, rank)))
        .min_by_key(|(at, _)| *at);
    let is_stuck = !app.hang_alerts().is_empty();
    let guard = ranks().find_map(|rank| rank.guard.as_ref()).filter(|_| is_stuck);
    if abort.is_none() && guard.is_none() {
        return Vec::new();
    }
    let mut lines: Vec<Line> = heading("what ends it").into();
    if let Some((at, rank)) = abort {
        let text = format!(
            "  the collective's own time limit, {} (rank {})",
            words::countdown(app.now, at),
            rank.number()
        );
        lines.push(vec![(text, Role::Warn)]);
    }
    if let Some(guard) = guard {
        let beside = if abort.is_some() && guard.by == GuardedBy::Nobody { "beside that " } else { "" };
        lines.push(vec![(format!("  {beside}{}", guard.text()), Role::Text)]);
    }
    lines
}

/// What to press, with the user's own keys.
fn actions(app: &App) -> Line {
    const ALL: [(Action, &str); 6] = [
        (Action::Enter, "the rank"),
        (Action::Stacks, "stacks"),
        (Action::RankLog, "its log"),
        (Action::Signal, "signal"),
        (Action::Restart, "restart"),
        (Action::Yank, "copy this"),
    ];
    let has_rank = app.odd_rank().is_some();
    let mut line = Vec::new();
    for (action, word) in ALL {
        let needs_rank = matches!(action, Action::Enter | Action::RankLog | Action::Signal);
        if !app.can_do(action) || needs_rank && !has_rank {
            continue;
        }
        if let Some(key) = app.keymap.shown(action) {
            line.push((format!(" {key} "), Role::Key));
            line.push((format!("{word}  "), Role::Text));
        }
    }
    line
}
