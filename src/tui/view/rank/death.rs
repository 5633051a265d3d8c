//! What is known of a rank's death: how it ended, why, its last words, and what its memory tells.

use super::{Line, tabs::waiting};
use crate::{
    domain::{
        cause::Cause,
        closeup::{LastWords, Process},
        state::Rank,
    },
    tui::{app::App, text, theme::Role, words},
};

pub(super) fn lines(app: &App, rank: &Rank, width: usize) -> Vec<Line> {
    let mut lines = vec![end(app, rank)];
    lines.extend(cause(app, rank, width));
    lines.extend(alerts(app, rank, width));
    lines.push(memory(app, rank));
    match &app.page.last_words {
        Some(Ok(words)) => lines.extend(last_words(words, width)),
        told => lines.extend(waiting(app, told.as_ref())),
    }
    lines
}

fn labelled(label: &str, text: impl Into<String>, role: Role) -> Line {
    vec![(format!("{label:<12}"), Role::Dim), (text.into(), role)]
}

/// A sentence over several lines under one label.
fn wrapped(label: &str, sentence: &str, width: usize, role: Role) -> Vec<Line> {
    let rows = text::wrap_words(sentence, width.saturating_sub(12).max(8));
    let row = |(n, row): (usize, String)| labelled(if n == 0 { label } else { "" }, row, role);
    rows.into_iter().enumerate().map(row).collect()
}

fn end(app: &App, rank: &Rank) -> Line {
    let look = words::rank_state(rank, app.glyphs);
    let when = words::clock(rank.state_since, app.now_of(app.node), app.offset_s);
    match (rank.state.is_alive(), rank.exit) {
        (true, _) => labelled("end", "it lives", Role::Dim),
        (false, Some(exit)) => labelled("end", format!("{exit}, at {when}"), look.role),
        (false, None) => labelled("end", format!("{}: nobody saw how, at {when}", look.word), look.role),
    }
}

/// The first cause of the attempt, when it is this rank's; else whose it was.
fn cause(app: &App, rank: &Rank, width: usize) -> Vec<Line> {
    let Some(state) = app.state_of(app.node) else { return Vec::new() };
    let attempt = state.attempts.iter().rev().find(|attempt| attempt.n == rank.attempt);
    let of_before = || {
        let before = state.attempts.iter().rev().find(|attempt| attempt.cause.is_some())?;
        Some((before.n, before.cause.as_ref()?))
    };
    let of_this = attempt.and_then(|attempt| Some((attempt.n, attempt.cause.as_ref()?)));
    let Some((n, cause)) = of_this.or_else(of_before) else {
        return vec![labelled("first cause", "no attempt has failed", Role::Dim)];
    };
    let is_its = cause.rank.is_some() && cause.rank == rank.place.rank;
    let role = if is_its && n == rank.attempt { Role::Crit } else { Role::Text };
    let whose = match (is_its, n == rank.attempt) {
        (true, true) => "",
        (true, false) => "of a life before: ",
        (false, _) => "not this rank's: ",
    };
    let text = format!("{whose}attempt {n}: {}", cause.text);
    let mut lines = wrapped("first cause", &text, width, role);
    if is_its {
        lines.extend(proof(cause, width));
    }
    lines
}

fn proof(cause: &Cause, width: usize) -> Vec<Line> {
    let mut lines = Vec::new();
    for (n, fact) in cause.evidence.iter().enumerate() {
        lines.extend(wrapped(if n == 0 { "evidence" } else { "" }, fact, width, Role::Text));
    }
    if let Some(hint) = &cause.hint {
        lines.extend(wrapped("try", hint, width, Role::Info));
    }
    lines
}

fn alerts(app: &App, rank: &Rank, width: usize) -> Vec<Line> {
    let Some(state) = app.state_of(app.node) else { return Vec::new() };
    let its = state.alerts.iter().filter(|alert| alert.local_rank == Some(rank.local_rank));
    its.flat_map(|alert| wrapped("alert", &alert.text, width, words::alert_role(alert.kind))).collect()
}

/// What its memory tells: the last figure, the limit of its group, and the kernel's count of kills there.
fn memory(app: &App, rank: &Rank) -> Line {
    let told = app.page.process.as_ref().and_then(|told| told.as_ref().ok());
    let own = rank.rss_bytes.map(|bytes| format!("{} resident", text::bytes(bytes)));
    let of = |process: &Process| {
        let used = process.group_bytes.map_or("n/a".into(), text::bytes);
        let limit = process
            .group_limit_bytes
            .map_or("no limit".into(), |limit| format!("limit {}", text::bytes(limit)));
        let kills = match process.oom_kills {
            Some(0) => ", no kill by the kernel".into(),
            Some(kills) => format!(", {kills} killed by the kernel for memory"),
            None => String::new(),
        };
        format!("its group uses {used}, {limit}{kills}")
    };
    let parts: Vec<String> = own.into_iter().chain(told.map(of)).collect();
    let is_short = told.is_some_and(|process| process.oom_kills.is_some_and(|kills| kills > 0));
    let role = if is_short { Role::Warn } else { Role::Text };
    if parts.is_empty() {
        labelled("memory", "n/a", Role::Dim)
    } else {
        labelled("memory", parts.join("; "), role)
    }
}

fn last_words(words: &LastWords, width: usize) -> Vec<Line> {
    let mut lines = Vec::new();
    let file = words.file.clone().unwrap_or_else(|| "n/a: the agent gave it none".into());
    lines.extend(wrapped("error.json", &file, width, Role::Dim));
    match &words.text {
        Some(text) => {
            let rows = text.lines().flat_map(|line| text::wrap(line, width.saturating_sub(2).max(8)));
            lines.extend(rows.map(|row| vec![(format!("  {row}"), Role::LogErr)]));
        }
        None if words.file.is_some() => lines.push(vec![("  not written".into(), Role::Dim)]),
        None => {}
    }
    if let Some(last) = words.stderr.iter().rev().find(|line| !line.trim().is_empty()) {
        lines.extend(wrapped("last said", last.trim(), width, Role::LogErr));
    }
    lines.push(vec![("standard error, last lines".into(), Role::Title)]);
    if words.stderr.is_empty() {
        lines.push(vec![("  none".into(), Role::Dim)]);
    }
    let rows = words.stderr.iter().flat_map(|line| text::wrap(line, width.saturating_sub(2).max(8)));
    lines.extend(rows.map(|row| vec![(format!("  {row}"), Role::Text)]));
    lines
}
