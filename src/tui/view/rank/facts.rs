//! Who a rank is, where it runs, and how it is.

use ratatui::layout::Rect;

use super::{Facts, TWO_COLUMNS, WIDE};
use crate::{
    domain::{
        event::Fact,
        exit::Exit,
        id::ProcId,
        state::Rank,
        time::{Stamp, human},
    },
    tui::{
        app::{App, Tab},
        text,
        theme::Role,
        view::{Pen, gpu, pen::Piece, verdict},
        words,
    },
};

/// Lines that all facts take.
pub(super) fn wanted(app: &App, rank: &Rank, two_columns: bool) -> u16 {
    let (left, right) = (identity(app, rank).len(), condition(app, rank).len());
    (if two_columns { left.max(right) } else { left + right }) as u16
}

pub(super) fn draw(app: &App, rank: &Rank, pen: &mut Pen, area: Rect) {
    if area.height == 1 {
        return in_one_line(app, rank, pen, area);
    }
    let (left, right) = (identity(app, rank), condition(app, rank));
    let in_full = area.height >= WIDE.1 - 1;
    if area.width >= TWO_COLUMNS && !in_full {
        let half = area.width / 2;
        column(pen, Rect { width: half, ..area }, &left);
        return column(pen, Rect { x: area.x + half, width: area.width - half, ..area }, &right);
    }
    // Low screens cut off the end: how it is comes first.
    let mut all = right;
    if in_full {
        all.push(("", (String::new(), Role::Text)));
        // Its tab has all of it.
        if app.tab != Tab::Gpu {
            all.extend(gpu::facts(app, rank).into_iter().map(brief));
            all.push(("", (String::new(), Role::Text)));
        }
    }
    all.extend(left);
    column(pen, area, &all);
}

/// Why nothing is known, without the words of the system.
fn brief((label, (text, role)): (&'static str, Piece)) -> (&'static str, Piece) {
    let first = text.strip_prefix("n/a: ").and_then(|why| why.split(':').next());
    (label, (first.map_or_else(|| text.clone(), |why| format!("n/a: {why}")), role))
}

/// What matters most, where there is one line.
fn in_one_line(app: &App, rank: &Rank, pen: &mut Pen, area: Rect) {
    let mut line: Vec<Piece> = Vec::new();
    for (label, (what, role)) in condition(app, rank).into_iter().chain(identity(app, rank)) {
        if ["state", "end", "step", "heartbeat", "node", "pid"].contains(&label) {
            let gap = if line.is_empty() { "" } else { "  " };
            line.push((format!("{gap}{label} "), Role::Dim));
            line.push((what, role));
        }
    }
    pen.pieces(area.x + 2, area.y, area.width.saturating_sub(2), &line);
}

/// Labels and what holds, below each other.
pub(super) fn column(pen: &mut Pen, area: Rect, facts: &Facts) {
    let room = area.width.saturating_sub(15);
    // What is too long goes on below, as long as all of the others have their line.
    let mut spare = area.height.saturating_sub(facts.len() as u16);
    let mut y = area.top();
    for (label, (text, role)) in facts {
        if y >= area.bottom() {
            return;
        }
        pen.text(area.x + 2, y, 11.min(area.width.saturating_sub(2)), label, Role::Dim);
        if spare > 0 && room > 8 && text::width(text) > usize::from(room) {
            let rows = text::wrap_words(text, usize::from(room));
            let more = (rows.len() as u16 - 1).min(spare).min(2);
            for row in &rows[..usize::from(more)] {
                pen.text(area.x + 14, y, room, row, *role);
                y += 1;
            }
            pen.text(area.x + 14, y, room, &rows[usize::from(more)..].join(" "), *role);
            spare -= more;
        } else {
            pen.text(area.x + 14, y, room, text, *role);
        }
        y += 1;
    }
}

fn known(value: Option<String>) -> Piece {
    value.map_or_else(|| ("n/a".into(), Role::Dim), |text| (text, Role::Text))
}

fn identity(app: &App, rank: &Rank) -> Facts {
    let place = &rank.place;
    let of = |n: Option<u32>, size: Option<u32>| match (n, size) {
        (Some(n), Some(size)) => Some(format!("{n}, of {size} ranks")),
        (n, _) => n.map(|n| n.to_string()),
    };
    let process = app.page.process.as_ref().and_then(|told| told.as_ref().ok());
    let parent = process.and_then(|process| process.parent);
    let agent = app.state_of(app.node).and_then(|state| state.agent.as_ref()).map(|agent| agent.proc.pid);
    let whose = match parent {
        Some(parent) if Some(parent) == agent => format!(", child of agent {parent}"),
        Some(parent) => format!(", child of {parent}, which is not the agent"),
        None => String::new(),
    };
    let node = app.overview.fleet.nodes.get(app.node as usize).map(|node| match place.group_rank {
        Some(index) => format!("{}, index {index}", node.name),
        None => node.name.clone(),
    });
    let own = app.state_of(app.node).unwrap_or(&app.state);
    let spent = own.attempts.iter().rev().find(|attempt| attempt.n == rank.attempt);
    let attempt = match spent {
        Some(attempt) if attempt.restarts == 1 => format!("{}, 1 restart spent", rank.attempt),
        Some(attempt) => format!("{}, {} restarts spent", rank.attempt, attempt.restarts),
        None => rank.attempt.to_string(),
    };
    let mut facts: Facts = vec![
        ("node", known(node)),
        ("pid", known(Some(format!("{}{whose}", rank.proc.pid)))),
        ("global", known(of(place.rank, place.world_size.or(app.state.world_size)))),
        ("local", known(of(Some(rank.local_rank), place.local_world_size))),
        ("attempt", known(Some(attempt))),
        ("rdzv id", known(place.run_id.clone())),
    ];
    facts.extend(run(app, rank));
    if let Some(cgroup) = process.and_then(|process| process.cgroup.clone()) {
        facts.push(("cgroup", (cgroup, Role::Text)));
    }
    if let Some(cwd) = process.and_then(|process| process.cwd.clone()) {
        facts.push(("cwd", (cwd, Role::Text)));
    }
    facts.extend(lives(app, rank).into_iter().map(|life| ("before", life)));
    facts
}

/// The run that its metrics go to, or why to none.
fn run(app: &App, rank: &Rank) -> Option<(&'static str, Piece)> {
    let number = rank.place.rank?;
    let plan = app.wandb()?.settings.plan().ok()?;
    let planned = plan.ranks.get(number as usize)?;
    let piece = match &planned.run_id {
        Some(id) => (id.clone(), Role::Text),
        None => (format!("silent: {}", planned.reason), Role::Dim),
    };
    Some(("W&B run", piece))
}

/// How former incarnations ended, newest first, as far as the recent events tell.
fn lives(app: &App, rank: &Rank) -> Vec<Piece> {
    let Some(state) = app.state_of(app.node) else { return Vec::new() };
    let ended = state.recent.iter().rev().filter_map(|event| match &event.fact {
        Fact::RankExited { local_rank, proc, exit, .. }
            if *local_rank == rank.local_rank && *proc != rank.proc =>
        {
            Some((event.at, proc, exit))
        }
        _ => None,
    });
    let later = |pid: i32| {
        state.recent.iter().rev().find_map(|event| match &event.fact {
            Fact::RankExitKnown { pid: known, exit, .. } if *known == pid => Some(*exit),
            _ => None,
        })
    };
    let line = |(at, proc, exit): (Stamp, &ProcId, &Option<Exit>)| {
        let how = exit.or_else(|| later(proc.pid)).map_or("nobody saw how".into(), |exit| exit.to_string());
        (format!("{how}, {}, pid {proc}", words::clock(at, app.now_of(app.node), app.offset_s)), Role::Text)
    };
    ended.take(3).map(line).collect()
}

fn condition(app: &App, rank: &Rank) -> Facts {
    let look = words::rank_state(rank, app.glyphs);
    let ago = |at| text::age(app.now_of(app.node).since(at));
    let since = human(app.now_of(app.node).since(rank.state_since));
    let gone = !rank.state.is_alive();
    let mut facts: Facts = vec![("state", (format!("{} {}, for {since}", look.glyph, look.word), look.role))];
    if let Some(detail) = &rank.detail {
        facts.push(("doing", (detail.clone(), Role::Text)));
    }
    if let Some(exit) = rank.exit {
        facts.push(("end", (exit.to_string(), look.role)));
    }
    if let Some(doing) = verdict::doing(app, rank) {
        facts.push(("collective", (doing, Role::Warn)));
    }
    let beat = match rank.beat_at {
        None => ("n/a".into(), Role::Dim),
        Some(at) if gone => (format!("{} ago", ago(at)), Role::Text),
        Some(at) => {
            (format!("{} ago", ago(at)), verdict::beat_role(app.now_of(app.node).since(at), Role::Text))
        }
    };
    let step = rank.step.map(|step| match rank.step_at {
        Some(at) => format!("{step}, {} ago", ago(at)),
        None => step.to_string(),
    });
    let process = app.page.process.as_ref().and_then(|told| told.as_ref().ok());
    let limit = process.and_then(|process| process.group_limit_bytes);
    let limit = limit.map(|limit| format!(", limit {}", text::bytes(limit))).unwrap_or_default();
    let memory = rank.rss_bytes.filter(|_| !gone).map(|bytes| format!("{}{limit}", text::bytes(bytes)));
    let cpu = rank.cpu_pct.filter(|_| !gone).map(|pct| {
        let threads = rank.threads.map(|threads| format!(", {threads} threads")).unwrap_or_default();
        format!("{pct:.0} % of a core{threads}")
    });
    facts.extend([
        ("step", known(step)),
        ("heartbeat", beat),
        ("CPU", known(cpu)),
        ("memory", known(memory)),
        ("lines", known(Some(rank.lines.to_string()))),
        ("started", known(Some(words::clock(rank.started_at, app.now_of(app.node), app.offset_s)))),
    ]);
    if let Some(guard) = &rank.guard {
        facts.push(("guard", (format!("{}: {}", guard.backends.join(", "), guard.text()), Role::Text)));
    }
    facts
}
