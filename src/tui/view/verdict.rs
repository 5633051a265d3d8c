//! Collectives for people: who waits in which, for whom, for how long, and what ends the wait.

use std::{collections::BTreeMap, time::Duration};

use super::pen::Piece;
use crate::{
    domain::{
        fleet::STALE_BEAT,
        state::Rank,
        time::human,
        verdict::{Role as Stands, Standing, standing::names},
    },
    tui::{app::App, text, theme::Role, words},
};

/// A heartbeat that is older than so many times a late one is a rank in trouble.
const LOST: u32 = 3;

/// The colour of a heartbeat's age, `usual` while it is young.
pub(super) fn beat_role(age: Duration, usual: Role) -> Role {
    if age < STALE_BEAT {
        usual
    } else if age < STALE_BEAT * LOST {
        Role::Stale
    } else {
        Role::Warn
    }
}

/// `in all_reduce #21 of group default for 14 s, abort in 46 s`; `None` for a rank that neither waits nor lags.
pub(super) fn doing(app: &App, rank: &Rank) -> Option<String> {
    let standing = rank.standing.as_ref()?;
    let age = human(app.now.since(standing.since));
    let behind = if standing.behind > 1 { format!(", {} behind", standing.behind) } else { String::new() };
    Some(format!("{} for {age}{behind}{}", standing.detail(), abort(app, standing)))
}

fn abort(app: &App, standing: &Standing) -> String {
    standing.aborts_at().map(|at| format!(", abort {}", words::countdown(app.now, at))).unwrap_or_default()
}

/// A line for each collective that somebody waits in: who waits, and who has not joined.
pub(super) fn gatherings(app: &App, width: usize) -> Vec<Vec<Piece>> {
    let mut found: BTreeMap<(&str, u64), Vec<(&Rank, &Standing)>> = BTreeMap::new();
    for rank in app.all_ranks().filter(|rank| rank.state.is_alive()) {
        if let Some(standing) = &rank.standing {
            found.entry((&standing.group, standing.seq)).or_default().push((rank, standing));
        }
    }
    let line = |ranks: Vec<(&Rank, &Standing)>| {
        let of = |role: Stands| {
            let of = ranks.iter().filter(|(_, standing)| standing.role == role);
            of.map(|(rank, _)| rank.number()).collect::<Vec<_>>()
        };
        let (waiting, lagging) = (of(Stands::Waiting), of(Stands::Lagging));
        let (_, first) = ranks.iter().find(|(_, s)| s.role == Stands::Waiting).or(ranks.first())?;
        let mut line = vec![(format!("  {}", first.collective()), Role::Text)];
        if !waiting.is_empty() {
            let verb = if waiting.len() == 1 { "waits" } else { "wait" };
            line.push((
                format!("{}{} {verb}{}", app.glyphs.dot, names(waiting), abort(app, first)),
                Role::Dim,
            ));
        }
        if !lagging.is_empty() {
            let verb = if lagging.len() == 1 { "has" } else { "have" };
            line.push((format!("{}{} {verb} not joined", app.glyphs.dot, names(lagging)), Role::Warn));
        }
        let total: usize = line.iter().map(|(piece, _)| text::width(piece)).sum();
        // The one to look at stays: what the others do gives way.
        if total > width && line.len() == 3 {
            line.remove(1);
        }
        Some(line)
    };
    found.into_values().filter_map(line).take(3).collect()
}
