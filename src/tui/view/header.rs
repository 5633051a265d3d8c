//! The first lines: which job, how it is, and whether what is seen is live. The last line: keys, or a toast.

use ratatui::layout::Rect;

use super::{Pen, Plan, pen::Piece, runs::look};
use crate::{
    domain::{fleet::Order, time::human},
    tui::{
        app::{App, Dialog, LinkState, PromptKind, Zoom},
        keys::{Action, View},
        text,
        theme::Role,
        words,
    },
};

/// A part of the header; the higher its rank, the sooner it is left out.
struct Part(u8, Vec<Piece>);

pub(super) fn draw(app: &App, pen: &mut Pen, plan: &Plan) {
    let Rect { x, y, width, height } = plan.header;
    if height == 0 || width == 0 {
        return;
    }
    let chips = chips(app);
    let chips_width: usize = chips.iter().map(|(text, _)| text::width(text) + 3).sum();
    let (chip_y, reserved) = if plan.tabs.is_empty() { (y, chips_width) } else { (plan.tabs.y, 0) };
    let room = usize::from(width).saturating_sub(1 + reserved);
    let mut parts = parts(app);
    while parts.len() > 1 && parts_width(&parts) > room {
        let last = (0..parts.len()).max_by_key(|at| parts[*at].0).unwrap_or(0);
        parts.remove(last);
    }
    let mut at = x + 1;
    let end = x + 1 + room as u16;
    for Part(_, pieces) in &parts {
        at += pen.pieces(at, y, end.saturating_sub(at), pieces) + 2;
    }
    tabs(app, pen, plan.tabs);
    let mut at = (x + width).saturating_sub(chips_width as u16).max(x);
    for (text, role) in &chips {
        at += pen.chip(at, chip_y, (x + width).saturating_sub(at), text, *role) + 1;
    }
}

fn parts_width(parts: &[Part]) -> usize {
    let pieces = |part: &Part| part.1.iter().map(|(text, _)| text::width(text)).sum::<usize>();
    parts.iter().map(pieces).sum::<usize>() + 2 * (parts.len() - 1)
}

fn parts(app: &App) -> Vec<Part> {
    let state = &app.state;
    let plain = |text: String| vec![(text, Role::Text)];
    let labelled = |label: &str, text: String| vec![(format!("{label} "), Role::Dim), (text, Role::Text)];
    let mut parts = Vec::new();
    match &state.job {
        // Each node has an id of its own for its part.
        Some(job) if !app.nodes.is_empty() => {
            let rdzv =
                job.rdzv_id.iter().filter(|id| **id != job.name).map(|id| (format!(" {id}"), Role::Dim));
            parts.push(Part(1, std::iter::once((job.name.clone(), Role::Title)).chain(rdzv).collect()));
        }
        Some(job) => {
            let id = match job.id.0.strip_prefix(&job.name) {
                Some(rest) => vec![(job.name.clone(), Role::Title), (rest.to_owned(), Role::Dim)],
                None => vec![(format!("{} ", job.name), Role::Title), (job.id.0.clone(), Role::Dim)],
            };
            parts.push(Part(1, id));
        }
        None => parts.push(Part(1, plain("elastictop".into()))),
    }
    let look = words::job_state(state.state, app.glyphs);
    if state.job.is_some() {
        let code =
            state.exit_code.filter(|_| state.state.is_over()).map(|code| format!(", exit code {code}"));
        let word = format!("{} {}{}", look.glyph, look.word, code.unwrap_or_default());
        parts.push(Part(0, vec![(word, look.role)]));
    }
    if let Some(deadline) = state.deadline {
        let text = format!("SIGKILL {}", words::countdown(app.now, deadline));
        parts.push(Part(2, vec![(text, Role::Warn)]));
    }
    if !state.attempts.is_empty() {
        parts.push(Part(6, labelled("attempt", state.attempt().to_string())));
    }
    if let Some(job) = &state.job {
        let spent = words::spent(state.restarts, job.max_restarts);
        parts.push(Part(3, labelled("restarts", spent)));
    }
    if let Some(world_size) = state.world_size {
        parts.push(Part(5, labelled("ranks", ranks(app, world_size))));
    }
    if let Some(started_at) = state.started_at {
        let label = if state.ended_at.is_some() { "ran" } else { "up" };
        let up = text::span(state.ended_at.unwrap_or(app.now).since(started_at));
        parts.push(Part(4, labelled(label, up)));
    }
    if !app.nodes.is_empty() {
        parts.push(Part(5, labelled("nodes", app.nodes.len().to_string())));
    }
    if let Some(job) = &state.job {
        if app.nodes.is_empty() {
            parts.push(Part(7, labelled("node", job.node.clone())));
        }
        parts.push(Part(8, vec![(words::launcher(job.launcher).into(), Role::Dim)]));
    }
    parts
}

/// The world size, with the share of it that is on this node where that is not all.
fn ranks(app: &App, world_size: u32) -> String {
    let here = app.overview.fleet.ranks.len() as u32;
    // Ranks of nodes that left are still shown.
    if here == 0 || here >= world_size { world_size.to_string() } else { format!("{here} of {world_size}") }
}

fn chips(app: &App) -> Vec<Piece> {
    let mut chips = Vec::new();
    let heard = app.now.since(app.state.at);
    match &app.link {
        LinkState::Live => {}
        LinkState::Silent { .. } => {
            let age = text::age(app.silence().unwrap_or_default());
            chips.push((format!("no answer for {age}"), Role::Crit));
        }
        LinkState::Connecting => chips.push(("connecting".into(), Role::Info)),
        LinkState::Lost { .. } | LinkState::Gone(_) if app.state.state.is_over() => {}
        LinkState::Lost { tries, .. } => {
            let age = if app.state.job.is_some() {
                format!(", seen {} ago", text::age(heard))
            } else {
                String::new()
            };
            chips.push((format!("reconnecting{} try {}{age}", app.glyphs.cut, tries + 1), Role::Warn));
        }
        LinkState::Gone(_) => chips.push(("link lost".into(), Role::Crit)),
    }
    let silent: Vec<_> = app
        .nodes
        .iter()
        .filter_map(|node| Some((node.status.host.as_str(), node.status.link.silent_since()?)))
        .collect();
    if let Some((host, oldest)) = silent.iter().min_by_key(|(_, since)| *since) {
        let who = match silent.len() {
            1 => format!("{host} silent"),
            several => format!("{several} of {} nodes silent", app.nodes.len()),
        };
        chips.push((format!("{who} {}", human(app.now.since(*oldest))), Role::Stale));
    }
    if let Some(replay) = &app.replay {
        let word = if replay.redacted { "replay, redacted" } else { "replay" };
        chips.push((word.into(), Role::Info));
    } else if app.read_only.is_some() {
        chips.push(("read-only".into(), Role::Info));
    } else if let Some((all, why)) = app.read_only_nodes() {
        let who = why.split(':').next().unwrap_or_default();
        chips.push((if all { "read-only".into() } else { who.to_owned() }, Role::Info));
    }
    chips
}

fn tabs(app: &App, pen: &mut Pen, area: Rect) {
    if area.is_empty() {
        return;
    }
    let mut x = area.x;
    for (n, view) in View::ALL.iter().enumerate() {
        let mut label = format!("{} {}", n + 1, view.name());
        let trouble = (*view == View::Runs).then(|| app.wandb_trouble()).flatten();
        let trouble = trouble.map(|state| look(Some(state), app.glyphs));
        if let Some((glyph, _)) = trouble {
            label = format!("{label} {glyph}");
        }
        if *view == app.view {
            x += pen.chip(x, area.y, area.right().saturating_sub(x), &label, Role::Accent);
        } else {
            let role = trouble.map_or(Role::Dim, |(_, role)| role);
            pen.text(x + 1, area.y, area.right().saturating_sub(x + 1), &label, role);
            x += text::width(&label) as u16 + 2;
        }
    }
    let way = way(app);
    let cells: u16 = way.iter().map(|(piece, _)| text::width(piece) as u16).sum();
    if x + 1 + cells < area.right() {
        pen.pieces(x + 1, area.y, cells, &way);
    }
}

/// Where one is in the overview: `› n03 › r27`, and what holds there.
fn way(app: &App) -> Vec<Piece> {
    let mut way = Vec::new();
    if app.view != View::Overview {
        return way;
    }
    let deeper =
        |name: String| [(format!("{} ", app.glyphs.deeper), Role::Dim), (format!("{name} "), Role::Accent)];
    let several = app.overview.fleet.nodes.len() > 1;
    if app.zoom != Zoom::Fleet
        && several
        && let Some(node) = app.overview.fleet.nodes.get(app.node as usize)
    {
        way.extend(deeper(node.name.clone()));
    }
    if app.zoom == Zoom::Rank
        && let Some(rank) = app.rank()
    {
        way.extend(deeper(words::rank_tag(rank.place.rank, rank.local_rank)));
    }
    if app.zoom != Zoom::Rank && !app.overview.filter.is_empty() {
        way.push((format!(" /{} ", app.overview.filter.text()), Role::Key));
    }
    if app.zoom != Zoom::Rank && app.overview.order != Order::default() {
        way.push((format!(" by {} ", app.overview.order.name()), Role::Dim));
    }
    way
}

/// The view whose name lies at this column of the line of names.
pub(super) fn tab_at(column: u16) -> Option<View> {
    let mut end = 0;
    View::ALL.into_iter().find(|view| {
        end += view.name().len() as u16 + 4;
        column < end
    })
}

/// Actions that matter here, the most useful first, each with a word; the table in `keys` has them all.
fn hints(app: &App) -> &'static [(&'static [Action], &'static str)] {
    const SELECT: &[Action] = &[Action::Down, Action::Up];
    const LOGS: &[(&[Action], &str)] = &[
        (&[Action::NextNodeLog, Action::PreviousNodeLog], "node"),
        (&[Action::Follow], "follow"),
        (&[Action::Search], "search"),
        (&[Action::FirstError], "first error"),
        (&[Action::Wrap], "wrap"),
        (&[Action::Fold], "fold"),
        (&[Action::Help], "help"),
        (&[Action::Detach], "detach"),
    ];
    if app.help.is_some() {
        return &[(&[Action::Back], "back"), (SELECT, "scroll")];
    }
    match app.view {
        View::Overview if app.detail() => &[
            (&[Action::Back], "back"),
            (SELECT, "other ranks"),
            (&[Action::NextTab], "tab"),
            (&[Action::Left, Action::Right], "time"),
            (&[Action::Stacks], "stack"),
            (&[Action::RankLog], "log"),
            (&[Action::Signal], "signal"),
            (&[Action::Help], "help"),
            (&[Action::Detach], "detach"),
        ],
        View::Overview => &[
            (&[Action::Enter], "in"),
            (&[Action::RankLog], "log"),
            (&[Action::MergedLog], "all logs"),
            (&[Action::Filter], "filter"),
            (&[Action::Sort], "sort"),
            (&[Action::Signal], "signal"),
            (&[Action::Restart], "restart"),
            (&[Action::Palette], "commands"),
            (&[Action::Help], "help"),
            (&[Action::Detach], "detach"),
        ],
        // The first is of use where there are several nodes.
        View::Logs => &LOGS[usize::from(app.nodes.len() <= 1)..],
        View::Hang => &[
            (&[Action::Back], "back"),
            (SELECT, "scroll"),
            (&[Action::Help], "help"),
            (&[Action::Detach], "detach"),
        ],
        View::Stacks => &[
            (&[Action::Stacks], "again"),
            (SELECT, "scroll"),
            (&[Action::Back], "back"),
            (&[Action::Help], "help"),
            (&[Action::Detach], "detach"),
        ],
        View::Runs if app.runs.preview.is_some() => &[
            (&[Action::NextRunMode], "run mode"),
            (&[Action::NextRankScope], "rank scope"),
            (&[Action::Enter], "apply"),
            (&[Action::Back], "leave"),
            (&[Action::Help], "help"),
            (&[Action::Detach], "detach"),
        ],
        View::Runs if app.wandb().is_none() => &[
            (&[Action::Back], "back"),
            (&[Action::Palette], "commands"),
            (&[Action::Help], "help"),
            (&[Action::Detach], "detach"),
        ],
        View::Runs if app.state.state.is_over() => &[
            (SELECT, "select"),
            (&[Action::Yank], "copy link"),
            (&[Action::Back], "back"),
            (&[Action::Help], "help"),
            (&[Action::Detach], "detach"),
        ],
        View::Runs => &[
            (SELECT, "select"),
            (&[Action::NextRunMode], "run mode"),
            (&[Action::NextRankScope], "rank scope"),
            (&[Action::Yank], "copy link"),
            (&[Action::Help], "help"),
            (&[Action::Detach], "detach"),
        ],
        View::Events => &[
            (SELECT, "select"),
            (&[Action::Last], "newest"),
            (&[Action::Filter], "find"),
            (&[Action::Yank], "copy"),
            (&[Action::Palette], "commands"),
            (&[Action::Help], "help"),
            (&[Action::Detach], "detach"),
        ],
        View::Timeline => &[
            (SELECT, "select"),
            (&[Action::Last], "newest"),
            (&[Action::Yank], "copy"),
            (&[Action::Palette], "commands"),
            (&[Action::Help], "help"),
            (&[Action::Detach], "detach"),
        ],
    }
}

/// What comes first in a replay.
const REPLAYED: &[(&[Action], &str)] = &[
    (&[Action::Play], "play"),
    (&[Action::PreviousAlert, Action::NextAlert], "alert"),
    (&[Action::StepBack, Action::StepForward], "step"),
    (&[Action::Slower, Action::Faster], "speed"),
    (&[Action::Behind, Action::Ahead], "minute"),
];

/// Keys of an open question, which no table has.
fn dialog_hints(dialog: &Dialog) -> &'static [(&'static str, &'static str)] {
    match dialog {
        Dialog::Signal { .. } => &[("j k", "select"), ("Enter", "send"), ("Esc", "leave")],
        Dialog::Leftovers { .. } => &[("j k", "select"), ("y", "end it"), ("Esc", "leave")],
        Dialog::Restart => &[("Enter", "restart"), ("Esc", "leave it running")],
        Dialog::Stop { .. } => &[("Esc", "leave it running")],
    }
}

/// Keys of a line that is typed.
fn prompt_hints(kind: PromptKind) -> Vec<(String, &'static str)> {
    let hints: &[(&str, &str)] = match kind {
        PromptKind::Palette => {
            &[("Enter", "do it"), ("Up Down", "select"), ("Tab", "complete"), ("Esc", "leave")]
        }
        PromptKind::Filter => &[("Enter", "filter"), ("Ctrl-U", "clear"), ("Esc", "leave")],
        PromptKind::Find => &[("Enter", "keep"), ("Ctrl-U", "clear"), ("Esc", "show all")],
    };
    hints.iter().map(|(key, word)| ((*key).to_owned(), *word)).collect()
}

/// The hints as they are shown: without what changes the job where it cannot be changed, with the user's own keys.
fn shown_hints(app: &App) -> Vec<(String, &'static str)> {
    if let Some(dialog) = &app.dialog {
        return dialog_hints(dialog).iter().map(|(key, word)| ((*key).to_owned(), *word)).collect();
    }
    if let Some(prompt) = &app.prompt {
        return prompt_hints(prompt.kind);
    }
    if app.view == View::Logs && app.logs.input.is_some() {
        return vec![("Enter".to_owned(), "search"), ("Esc".to_owned(), "leave")];
    }
    let hint = |(actions, word): &(&[Action], &'static str)| {
        let key: Vec<String> =
            actions.iter().filter_map(|action| app.keymap.shown_in(*action, app.scope())).collect();
        let off = actions.iter().any(|action| !app.can_do(*action));
        let off = off || *actions == [Action::Yank] && app.line_to_yank().is_none();
        let is_past = app.state.state.is_over() || app.replay.is_some();
        let leaves = actions.contains(&Action::Detach) && is_past;
        (!key.is_empty() && !off).then(|| (key.join(" "), if leaves { "leave" } else { *word }))
    };
    let played: &[_] = if app.replay.is_some() && app.help.is_none() { REPLAYED } else { &[] };
    let mut shown: Vec<_> = played.iter().chain(hints(app)).filter_map(hint).collect();
    let at_ranks = app.view == View::Overview && app.help.is_none();
    if at_ranks && !app.hang_alerts().is_empty() {
        let hang = hint(&(&[Action::Hang], "why it hangs"));
        hang.into_iter().for_each(|hang| shown.insert(1.min(shown.len()), hang));
    }
    shown
}

pub(super) fn footer(app: &App, pen: &mut Pen, area: Rect) {
    if area.is_empty() {
        return;
    }
    pen.fill(area);
    if let Some(toast) = app.toast.as_ref() {
        pen.text(area.x + 1, area.y, area.width.saturating_sub(1), &toast.text, toast.role);
        return;
    }
    key_line(pen, area, &shown_hints(app));
}

/// Keys and what they do. From the middle on, what has no room is left out: the last two, help and leaving, stay.
pub(crate) fn key_line(pen: &mut Pen, area: Rect, hints: &[(String, &str)]) {
    let cells = |(key, label): &(String, &str)| text::width(key) + label.len() + 3;
    let mut shown: Vec<_> = hints.iter().collect();
    while shown.len() > 2 && shown.iter().map(|hint| cells(hint)).sum::<usize>() > usize::from(area.width) {
        shown.remove(shown.len() - 3);
    }
    let mut x = area.x + 1;
    for (key, label) in shown {
        x += pen.text(x, area.y, area.right().saturating_sub(x), key, Role::Key) + 1;
        x += pen.text(x, area.y, area.right().saturating_sub(x), label, Role::Dim) + 2;
    }
}
