//! The tabs of a rank's page that are lines of text.

use super::{Line, death};
use crate::{
    domain::{
        beat::GroupStatus,
        closeup::environment::{Environment, Standing, Variable},
        event::Fact,
        rank::list,
        stack::{Frame, Stacks},
        state::Rank,
        time::human,
        verdict::standing::group_name,
    },
    tui::{
        app::{App, Tab},
        keys::Action,
        text,
        theme::Role,
        view::pen::Piece,
        words,
    },
};

/// The lines of the open tab at this width.
pub(super) fn lines(app: &App, rank: &Rank, width: u16) -> Vec<Line> {
    let width = usize::from(width.saturating_sub(2)).max(8);
    match app.tab {
        Tab::Env => environment(app, width),
        Tab::Stack => stack(app, rank, width),
        Tab::Error => death::lines(app, rank, width),
        Tab::Collectives => collectives(app, rank, width),
        Tab::Events => happened(app, rank),
        Tab::Peers => peers(app),
        Tab::Log | Tab::Gpu => Vec::new(),
    }
}

fn one(text: impl Into<String>, role: Role) -> Line {
    vec![(text.into(), role)]
}

/// What stands in the place of an answer that is not there.
pub(super) fn waiting<T>(app: &App, told: Option<&Result<T, String>>) -> Option<Line> {
    match told {
        Some(Ok(_)) => None,
        Some(Err(why)) => Some(one(format!("n/a: {why}"), Role::Dim)),
        None if app.is_stale() => Some(one("n/a: no link to the supervisor", Role::Dim)),
        None => Some(one("asking", Role::Dim)),
    }
}

/// What is odd about the environment, then the rest.
fn environment(app: &App, width: usize) -> Vec<Line> {
    let told = &app.page.environment;
    let Some(Ok(environment)) = told else { return waiting(app, told.as_ref()).into_iter().collect() };
    let mut lines = vec![about(app, environment)];
    let find = app.page.find.to_lowercase();
    let fits = |one: &&Variable| {
        let value = one.value.as_deref().unwrap_or_default();
        find.is_empty()
            || one.name.to_lowercase().contains(&find)
            || value.to_lowercase().contains(&find)
            || one.standing.word().contains(&find)
    };
    let fitting: Vec<&Variable> = environment.variables.iter().filter(fits).collect();
    if fitting.is_empty() {
        lines.push(one("no variable fits", Role::Dim));
    }
    fitting.into_iter().for_each(|one| lines.extend(variable(one, width)));
    lines
}

fn about(app: &App, environment: &Environment) -> Line {
    let count = |standing| environment.variables.iter().filter(|one| one.standing == standing).count();
    let (odd, differs, own) = (count(Standing::Odd), count(Standing::Differs), count(Standing::Own));
    let with = match environment.compared.as_slice() {
        [] => "no other rank of this node to compare with".into(),
        others => format!("compared with {}", list(others)),
    };
    let mut line = vec![(format!("{with}: "), Role::Dim)];
    if environment.compared.is_empty() {
        line[0].0 = format!("{with}  ");
    } else {
        let role = if odd > 0 { Role::Warn } else { Role::Text };
        line.push((format!("{odd} odd"), role));
        line.push((format!(", {differs} differ elsewhere, {own} its own  "), Role::Dim));
    }
    if !environment.unread.is_empty() {
        line.push((format!("not read: {}  ", list(&environment.unread)), Role::Warn));
    }
    let find = &app.page.find;
    line.push(if find.is_empty() { ("/ search".into(), Role::Key) } else { (format!("/{find}"), Role::Key) });
    line
}

impl Standing {
    /// The word before a variable: it is told without colour.
    fn word(self) -> &'static str {
        match self {
            Standing::Odd => "odd",
            Standing::Differs => "differs",
            Standing::Own => "own",
            Standing::Alike => "",
        }
    }

    fn role(self) -> Role {
        match self {
            Standing::Odd => Role::Warn,
            Standing::Differs => Role::Info,
            Standing::Own | Standing::Alike => Role::Dim,
        }
    }
}

fn variable(of: &Variable, width: usize) -> Vec<Line> {
    const MARK: usize = 8;
    let (word, role) = (of.standing.word(), of.standing.role());
    let name_role = if of.standing == Standing::Odd { Role::Warn } else { Role::Accent };
    let mark = |word: &str| (format!("{word:<MARK$}"), role);
    let mut lines: Vec<Line> = Vec::new();
    match &of.value {
        None => lines.push(vec![mark(word), (of.name.clone(), name_role), (" is not set".into(), Role::Dim)]),
        Some(value) => {
            let room = width.saturating_sub(MARK + of.name.len() + 1);
            // Long lists of paths go on below.
            let parts = if room < 12 {
                text::wrap(value, width.saturating_sub(MARK).max(8))
            } else {
                text::wrap(value, room)
            };
            for (n, part) in parts.iter().enumerate() {
                let head = if n == 0 {
                    vec![mark(word), (of.name.clone(), name_role), ("=".into(), Role::Dim)]
                } else {
                    vec![(" ".repeat(MARK + of.name.len() + 1), Role::Text)]
                };
                lines.push(head.into_iter().chain([((*part).to_owned(), Role::Text)]).collect());
            }
        }
    }
    if of.standing != Standing::Own {
        for (ranks, value) in &of.others {
            let has = match (value, ranks.len()) {
                (Some(value), 1) => format!("has {value}"),
                (Some(value), _) => format!("have {value}"),
                (None, 1) => "does not have it".into(),
                (None, _) => "do not have it".into(),
            };
            lines.push(one(format!("{:MARK$}{} {has}", "", list(ranks)), Role::Dim));
        }
    }
    lines
}

/// All threads of the rank when it was asked alone; its main thread when all were.
fn stack(app: &App, rank: &Rank, width: usize) -> Vec<Line> {
    if let Some((at, stacks)) = &app.page.stacks {
        let mut lines = vec![taken(app, *at, stacks)];
        lines.extend(not_read(stacks, width));
        let (main, others): (Vec<_>, Vec<_>) = stacks.threads.iter().partition(|thread| thread.is_main);
        for thread in main.into_iter().chain(others) {
            let unnamed = if thread.is_main { "MainThread" } else { "thread" };
            let gil = if thread.holds_gil == Some(true) { ", holds Python's lock" } else { "" };
            let name = format!("{}{gil}", thread.name.as_deref().unwrap_or(unnamed));
            lines.push(one(name, Role::Title));
            lines.extend(thread.frames.iter().map(frame));
        }
        return lines;
    }
    let number = rank.number();
    let of_all = app.stacks.stacks.as_ref();
    let group = of_all.and_then(|stacks| stacks.groups.iter().find(|group| group.ranks.contains(&number)));
    if let (Some(stacks), Some(group)) = (of_all, group) {
        let mut lines = vec![taken(app, app.stacks.at, stacks)];
        lines.push(one(format!("main thread, as {}", list(&group.ranks)), Role::Title));
        lines.extend(group.frames.iter().map(frame));
        return lines;
    }
    let text = if app.can_do(Action::Stacks) { "not taken yet: press s" } else { "not taken" };
    vec![one(text, Role::Dim)]
}

fn taken(app: &App, at: crate::domain::time::Stamp, stacks: &Stacks) -> Line {
    let by = stacks.groups.first().map_or("", |group| group.source.name());
    let by = if by.is_empty() { String::new() } else { format!(" by {by}") };
    vec![
        (
            format!("taken {} ago{by}, innermost first  ", text::age(app.now_of(app.node).since(at))),
            Role::Dim,
        ),
        ("s again".into(), Role::Key),
    ]
}

fn not_read(stacks: &Stacks, width: usize) -> Vec<Line> {
    let told =
        |failed: &crate::domain::stack::Failed| text::wrap_words(&format!("no stack: {}", failed.why), width);
    stacks.failed.iter().flat_map(told).map(|line| one(line, Role::Warn)).collect()
}

fn frame(frame: &Frame) -> Line {
    vec![(format!("  {} ", frame.name), Role::Text), (format!("({}:{})", frame.file, frame.line), Role::Dim)]
}

/// Its process groups against the furthest rank of each.
fn collectives(app: &App, rank: &Rank, width: usize) -> Vec<Line> {
    let mut lines = Vec::new();
    if rank.groups.is_empty() {
        let why = if rank.beat_at.is_some() {
            "n/a: it has told of no process group"
        } else {
            "n/a: only ranks with heartbeats tell of their groups"
        };
        lines.push(one(why, Role::Dim));
    }
    for group in &rank.groups {
        lines.extend(group_lines(app, rank, group, width));
    }
    if let Some(guard) = &rank.guard {
        lines.push(Vec::new());
        lines.push(vec![
            ("guard   ".into(), Role::Dim),
            (format!("{} ({})", guard.text(), guard.backends.join(", ")), Role::Text),
        ]);
        for (name, value) in &guard.settings {
            lines.push(vec![(format!("        {name}"), Role::Dim), (format!("={value}"), Role::Text)]);
        }
    }
    lines
}

fn group_lines(app: &App, rank: &Rank, group: &GroupStatus, width: usize) -> Vec<Line> {
    let peers = || {
        let groups = app.all_ranks().flat_map(|rank| &rank.groups);
        groups.filter(|other| other.name == group.name)
    };
    let size = group.size.map_or("n/a".into(), |size| size.to_string());
    let place = group.rank.map_or(String::new(), |place| format!(", rank {place} of it"));
    let name = group_name(group);
    let torch = if name == group.name { String::new() } else { format!(" ({})", group.name) };
    let mut lines = vec![vec![
        (format!("{name}{torch}"), Role::Title),
        (format!("  {}, {size} ranks{place}", group.backend.as_deref().unwrap_or("backend n/a")), Role::Dim),
    ]];
    let is_behind =
        rank.standing.as_ref().is_some_and(|standing| standing.group == name && standing.behind > 0);
    let counts: [(&str, Option<u64>, Option<u64>); 3] = [
        ("enqueued", group.enqueued, peers().filter_map(|other| other.enqueued).max()),
        ("started", group.started, peers().filter_map(|other| other.started).max()),
        ("completed", group.completed, peers().filter_map(|other| other.completed).max()),
    ];
    let mut line: Vec<Piece> = vec![("  ".into(), Role::Text)];
    for (label, own, most) in counts {
        line.push((format!("{label} "), Role::Dim));
        let behind = own.zip(most).map_or(0, |(own, most)| most.saturating_sub(own));
        let number = own.map_or("n/a".into(), |own| own.to_string());
        // Ranks tell at different moments: who is behind is known by its standing.
        if behind > 0 && is_behind {
            line.push((format!("{number}, {behind} behind   "), Role::Warn));
        } else {
            line.push((format!("{number}   "), Role::Text));
        }
    }
    lines.push(line);
    let stands = rank.standing.as_ref().filter(|standing| standing.group == name);
    if let Some(standing) = stands {
        let since = human(app.now_of(app.node).since(standing.since));
        let abort =
            standing.aborts_at().map(|at| format!(", aborts {}", words::countdown(app.now_of(app.node), at)));
        let text = format!("  {} for {since}{}", standing.detail(), abort.unwrap_or_default());
        lines.extend(
            text::wrap_words(&text, width).into_iter().map(|line| one(format!("  {line}"), Role::Warn)),
        );
    }
    if let Some(op) = &group.op {
        let shape = op.shape.as_ref().map(|shape| format!(", shape {shape:?}")).unwrap_or_default();
        let limit = op
            .timeout_ms
            .map(|limit| format!(", time limit {}", human(std::time::Duration::from_millis(limit))));
        let seq = op.seq.map(|seq| format!(" #{seq}")).unwrap_or_default();
        let name = op.name.as_str();
        lines.push(one(format!("  waits in {name}{seq}{shape}{}", limit.unwrap_or_default()), Role::Text));
    }
    lines
}

/// What happened to the rank, as far as the recent events tell; the newest first.
fn happened(app: &App, rank: &Rank) -> Vec<Line> {
    let Some(state) = app.state_of(app.node) else { return Vec::new() };
    let is_its = |fact: &Fact| match fact {
        Fact::RankStarted { local_rank, .. }
        | Fact::RankExited { local_rank, .. }
        | Fact::RankExitKnown { local_rank, .. } => *local_rank == rank.local_rank,
        Fact::AlertRaised { alert } => alert.local_rank == Some(rank.local_rank),
        Fact::AlertCleared { local_rank, .. } => *local_rank == Some(rank.local_rank),
        Fact::CauseFound { cause, .. } => cause.rank.is_some() && cause.rank == rank.place.rank,
        _ => false,
    };
    let lines: Vec<Line> = state
        .recent
        .iter()
        .rev()
        .filter(|event| is_its(&event.fact))
        .filter_map(|event| {
            let (glyph, text, role) = words::event(state, event, app.glyphs)?;
            let clock =
                (format!("{} ", words::clock(event.at, app.now_of(app.node), app.offset_s)), Role::Dim);
            Some(vec![clock, (format!("{glyph} "), role), (text, role)])
        })
        .collect();
    if lines.is_empty() { vec![one("nothing lately", Role::Dim)] } else { lines }
}

/// How the rank compares with all others: its figure, theirs, and the distance in robust standard deviations.
fn peers(app: &App) -> Vec<Line> {
    let fleet = &app.overview.fleet;
    let Some(row) = fleet.rank(app.selected_id()) else { return Vec::new() };
    let mut lines =
        vec![one(format!("{:<18}{:>10}{:>10}{:>8}", "", "this rank", "median", "apart"), Role::Title)];
    for comparison in fleet.norms.compare(&row.figures) {
        let number = |value: Option<f32>| value.map_or("n/a".into(), |value| format!("{value:.0}"));
        let apart = comparison.apart.map_or("n/a".into(), |apart| match apart {
            -0.05..0.05 => "0".into(),
            apart => format!("{apart:+.1}"),
        });
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
        lines.push(one(text, role));
    }
    let reason = fleet.reason(app.now, row);
    if !reason.is_empty() {
        lines.push(one(reason, Role::Warn));
    }
    lines.push(Vec::new());
    lines.push(one(
        "apart: how far on the bad side, in robust standard deviations; odd from 3.5 on",
        Role::Dim,
    ));
    lines
}
