//! One rank: who it is, where it runs, how it is, and its log.

use ratatui::layout::Rect;

use super::{Pen, gpu, logs, pen::Piece, verdict};
use crate::{
    domain::{event::Fact, state::Rank, time::human},
    tui::{
        app::{App, Tab},
        text,
        theme::Role,
        words,
    },
};

pub(super) fn draw(app: &App, pen: &mut Pen, area: Rect) {
    let Some(rank) = app.rank() else { return };
    if area.is_empty() {
        return;
    }
    let tag = words::rank_tag(rank.place.rank, rank.local_rank);
    let look = words::rank_state(rank, app.glyphs);
    let used = pen.rule(area, &format!("rank {}", tag.trim_start_matches('r')));
    let x = area.x + used + 1;
    pen.chip(x, area.y, area.right().saturating_sub(x), &format!("{} {}", look.glyph, look.word), look.role);
    let (mut left, mut right) = (identity(app, rank), condition(app, rank));
    // In two columns the shorter one has the room.
    if area.width >= 76 { &mut left } else { &mut right }.extend(gpu::facts(app, rank));
    let two = area.width >= 76;
    let want = if two { left.len().max(right.len()) } else { left.len() + right.len() } as u16;
    // The log has at least a third, where there is room for anything.
    let facts_height = want.min((area.height - 1).saturating_sub(area.height / 3));
    let facts = Rect { y: area.y + 1, height: facts_height, ..area };
    if two {
        let half = (area.width / 2).min(60);
        column(pen, Rect { width: half, ..facts }, &left);
        column(pen, Rect { x: area.x + half, width: area.width - half, ..facts }, &right);
    } else {
        // Low screens cut off the end: how it is comes first.
        let both: Vec<_> = right.into_iter().chain(left).collect();
        column(pen, facts, &both);
    }
    let below = facts.bottom() + u16::from(area.height > 14);
    let below = Rect { y: below, height: area.bottom().saturating_sub(below), ..area };
    let below = if app.tab == Tab::Gpu { below } else { gpu::beside(app, rank, pen, below) };
    page(app, pen, rank, below);
}

/// The tab that is open, with the names of the others at the right.
fn page(app: &App, pen: &mut Pen, rank: &Rank, area: Rect) {
    if area.is_empty() {
        return;
    }
    match app.tab {
        Tab::Log => logs::pane(app, pen, area),
        Tab::Events => happened(app, pen, rank, area),
        Tab::Peers => peers(app, pen, area),
        Tab::Gpu => gpu::page(app, rank, pen, area),
    }
    let names: Vec<Piece> = Tab::ALL
        .iter()
        .map(|tab| (format!(" {} ", tab.name()), if *tab == app.tab { Role::Accent } else { Role::Dim }))
        .collect();
    let cells: u16 = names.iter().map(|(name, _)| name.len() as u16).sum();
    if area.width > cells + 30 {
        pen.pieces(area.right() - cells - 1, area.y, cells, &names);
    }
}

/// What happened to the rank, as far as the recent events tell; the newest at the end.
fn happened(app: &App, pen: &mut Pen, rank: &Rank, area: Rect) {
    pen.rule(area, "events");
    let Some(state) = app.state_of(app.node) else { return };
    let is_its = |fact: &Fact| match fact {
        Fact::RankStarted { local_rank, .. }
        | Fact::RankExited { local_rank, .. }
        | Fact::RankExitKnown { local_rank, .. } => *local_rank == rank.local_rank,
        Fact::AlertRaised { alert } => alert.local_rank == Some(rank.local_rank),
        Fact::AlertCleared { local_rank, .. } => *local_rank == Some(rank.local_rank),
        Fact::CauseFound { cause, .. } => cause.rank.is_some() && cause.rank == rank.place.rank,
        _ => false,
    };
    let room = usize::from(area.height.saturating_sub(1));
    let lines: Vec<_> = state
        .recent
        .iter()
        .filter(|event| is_its(&event.fact))
        .filter_map(|event| Some((event.at, words::event(state, event, app.glyphs)?)))
        .collect();
    for ((at, (glyph, text, role)), y) in
        lines.iter().skip(lines.len().saturating_sub(room)).zip(area.y + 1..area.bottom())
    {
        let clock = (format!("{} ", words::clock(*at, app.now_of(app.node), app.offset_s)), Role::Dim);
        let line = [clock, (format!("{glyph} "), *role), (text.clone(), *role)];
        pen.pieces(area.x + 1, y, area.width.saturating_sub(1), &line);
    }
}

/// How the rank compares with all others: its figure, theirs, and the distance in robust standard deviations.
fn peers(app: &App, pen: &mut Pen, area: Rect) {
    pen.rule(area, "against its peers");
    let fleet = &app.overview.fleet;
    let Some(row) = fleet.rank(app.selected_id()) else { return };
    let head = format!("{:<18}{:>10}{:>10}{:>8}", "", "this rank", "median", "apart");
    let mut y = area.y + 1;
    if y < area.bottom() {
        pen.text(area.x + 1, y, area.width.saturating_sub(1), &head, Role::Title);
        y += 1;
    }
    for comparison in fleet.norms.compare(&row.figures) {
        if y >= area.bottom() {
            return;
        }
        let number = |value: Option<f32>| value.map_or("n/a".into(), |value| format!("{value:.0}"));
        let apart = comparison.apart.map_or("n/a".into(), |apart| format!("{apart:+.1}"));
        let text = format!(
            "{:<18}{:>10}{:>10}{apart:>8}",
            comparison.name,
            number(comparison.value),
            number(comparison.median),
        );
        let role = match comparison.apart {
            Some(apart) if apart >= 3.5 => Role::Warn,
            Some(_) => Role::Text,
            None => Role::Dim,
        };
        pen.text(area.x + 1, y, area.width.saturating_sub(1), &text, role);
        y += 1;
    }
    let reason = fleet.reason(app.now, row);
    if y < area.bottom() && !reason.is_empty() {
        pen.text(area.x + 1, y, area.width.saturating_sub(1), &reason, Role::Warn);
    }
}

fn column(pen: &mut Pen, area: Rect, facts: &[(&'static str, Piece)]) {
    for ((label, (text, role)), y) in facts.iter().zip(area.top()..area.bottom()) {
        pen.text(area.x + 2, y, 11.min(area.width.saturating_sub(2)), label, Role::Dim);
        pen.text(area.x + 14, y, area.width.saturating_sub(15), text, *role);
    }
}

fn known(value: Option<String>) -> Piece {
    value.map_or_else(|| ("n/a".into(), Role::Dim), |text| (text, Role::Text))
}

fn identity(app: &App, rank: &Rank) -> Vec<(&'static str, Piece)> {
    let place = &rank.place;
    let of = |n: Option<u32>, size: Option<u32>| match (n, size) {
        (Some(n), Some(size)) => Some(format!("{n}, of {size} ranks")),
        (n, _) => n.map(|n| n.to_string()),
    };
    let number = |n: Option<u32>| known(n.map(|n| n.to_string()));
    let lives = lives(app, rank.local_rank);
    let mut facts = vec![
        ("global", known(of(place.rank, place.world_size.or(app.state.world_size)))),
        ("local", known(of(Some(rank.local_rank), place.local_world_size))),
        ("node", known(app.overview.fleet.nodes.get(app.node as usize).map(|node| node.name.clone()))),
        ("node index", number(place.group_rank)),
        ("pid", known(Some(rank.proc.pid.to_string()))),
        ("attempt", known(Some(rank.attempt.to_string()))),
        ("rdzv id", known(place.run_id.clone())),
    ];
    facts.extend(lives.into_iter().map(|life| ("before", life)));
    facts
}

/// How former incarnations ended, newest first, as far as the recent events tell.
fn lives(app: &App, local: u32) -> Vec<Piece> {
    let ended = app.state.recent.iter().rev().filter_map(|event| match &event.fact {
        Fact::RankExited { local_rank, proc, exit, .. } if *local_rank == local => {
            Some((event.at, proc, exit))
        }
        _ => None,
    });
    let line = |(at, proc, exit): (_, &crate::domain::id::ProcId, &Option<crate::domain::exit::Exit>)| {
        let how = exit.map_or("nobody saw how".into(), |exit| exit.to_string());
        (format!("{how}, {}, pid {proc}", words::clock(at, app.now_of(app.node), app.offset_s)), Role::Text)
    };
    ended.take(3).map(line).collect()
}

fn condition(app: &App, rank: &Rank) -> Vec<(&'static str, Piece)> {
    let look = words::rank_state(rank, app.glyphs);
    let now = app.now_of(app.node);
    let ago = |at| text::age(now.since(at));
    let since = human(now.since(rank.state_since));
    let gone = !rank.state.is_alive();
    let mut facts = vec![("state", (format!("{} {}, for {since}", look.glyph, look.word), look.role))];
    if let Some(detail) = &rank.detail {
        facts.push(("doing", (detail.clone(), Role::Text)));
    }
    if let Some(exit) = rank.exit {
        facts.push(("exit", (exit.to_string(), look.role)));
    }
    let beat = match rank.beat_at {
        None => ("n/a".into(), Role::Dim),
        Some(at) if gone => (format!("{} ago", ago(at)), Role::Text),
        Some(at) => (format!("{} ago", ago(at)), verdict::beat_role(now.since(at), Role::Text)),
    };
    let step = rank.step.map(|step| match rank.step_at {
        Some(at) => format!("{step}, {} ago", ago(at)),
        None => step.to_string(),
    });
    facts.extend([
        ("step", known(step)),
        ("heartbeat", beat),
        ("CPU", known(rank.cpu_pct.filter(|_| !gone).map(|pct| format!("{pct:.0} % of one core")))),
        ("memory", known(rank.rss_bytes.filter(|_| !gone).map(text::bytes))),
        ("threads", known(rank.threads.filter(|_| !gone).map(|threads| threads.to_string()))),
        ("lines", known(Some(rank.lines.to_string()))),
        ("started", known(Some(words::clock(rank.started_at, now, app.offset_s)))),
    ]);
    facts.extend(verdict::facts(app, rank));
    facts
}
