//! How domain facts look on screen: glyph, letter, word and role. One place, so that views agree; the sentences are
//! the domain's.

use std::{borrow::Cow, time::Duration};

use super::{
    keys::{Action, View},
    text::Glyphs,
    theme::Role,
};
pub(crate) use crate::domain::telling::{command, launcher, rank_tag, signal_word, spent};
use crate::domain::{
    alert::AlertKind,
    cluster::Offset,
    command::Outcome,
    event::{Event, Fact, Reason},
    exit::Exit,
    rank::{JobState, RankState},
    state::{Rank, State},
    telling,
    time::Stamp,
};

/// A state: glyph, letter, word and colour, so that none of them is needed alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    /// One cell.
    pub(crate) glyph: &'static str,
    /// One letter.
    pub(crate) letter: char,
    /// One word, or how it ended.
    pub(crate) word: Cow<'static, str>,
    /// Its colour.
    pub(crate) role: Role,
}

fn look(
    glyphs: Glyphs,
    pair: [&'static str; 2],
    letter: char,
    word: impl Into<Cow<'static, str>>,
    role: Role,
) -> Look {
    Look { glyph: pair[usize::from(glyphs.ascii)], letter, word: word.into(), role }
}

/// How a job's state looks.
pub(crate) fn job_state(state: JobState, glyphs: Glyphs) -> Look {
    let (pair, letter, word, role) = match state {
        JobState::Starting => (["◐", "~"], 'S', "starting", Role::Info),
        JobState::Running => (["●", "*"], 'R', "running", Role::Ok),
        JobState::Restarting => (["↻", "r"], 'r', "restarting", Role::Warn),
        JobState::MembershipChange => (["⇄", "%"], 'm', "membership change", Role::Info),
        JobState::TearingDown => (["◌", "."], 't', "tearing down", Role::Warn),
        JobState::ZombieDeadlock => (["Z", "Z"], 'Z', "zombie deadlock", Role::Crit),
        JobState::Orphaned => (["O", "O"], 'O', "orphaned", Role::Crit),
        JobState::Done => (["✔", "+"], 'D', "done", Role::Ok),
        JobState::Failed => (["✖", "x"], 'F', "failed", Role::Crit),
        JobState::Stopped => (["■", "#"], 's', "stopped", Role::Info),
        JobState::Unknown => (["?", "?"], '?', "unknown", Role::Warn),
    };
    look(glyphs, pair, letter, word, role)
}

/// How a rank's state looks; of one that is gone, how it ended.
pub(crate) fn rank_state(rank: &Rank, glyphs: Glyphs) -> Look {
    let (pair, letter, word, role) = match rank.state {
        RankState::Starting => (["◐", "~"], 'S', "start", Role::Info),
        RankState::Init => (["◐", "~"], 'I', "init", Role::Info),
        RankState::Running => (["●", "*"], 'R', "run", Role::Ok),
        RankState::Waiting => (["◌", "."], 'W', "wait", Role::Dim),
        RankState::Lagging => (["▲", "!"], 'L', "lag", Role::Warn),
        RankState::Stopped => (["■", "#"], 'T', "stopped", Role::Warn),
        RankState::Blocked => (["■", "#"], 'D', "blocked", Role::Warn),
        RankState::GilStuck => (["▲", "!"], 'G', "gil", Role::Warn),
        RankState::Zombie => (["Z", "Z"], 'Z', "zombie", Role::Crit),
        RankState::Orphan => (["O", "O"], 'O', "orphan", Role::Crit),
        RankState::Exited => return exited(rank.exit, glyphs),
        RankState::Unknown => (["?", "?"], '?', "unknown", Role::Warn),
    };
    look(glyphs, pair, letter, word, role)
}

fn exited(exit: Option<Exit>, glyphs: Glyphs) -> Look {
    match exit {
        None => look(glyphs, ["?", "?"], 'X', "gone", Role::Warn),
        Some(exit) if exit.is_success() => look(glyphs, ["✔", "+"], 'D', "exit 0", Role::Dim),
        Some(Exit::Code(code)) => look(glyphs, ["✖", "x"], 'X', format!("exit {code}"), Role::Crit),
        // So the agent ends the peers of a rank that failed: what matters is elsewhere.
        Some(Exit::Signal(15)) => look(glyphs, ["■", "#"], 'X', "SIGTERM", Role::Dim),
        Some(Exit::Signal(signal)) => look(glyphs, ["✖", "x"], 'X', signal_word(signal), Role::Crit),
    }
}

/// Why an attempt was started, with its glyph.
pub(crate) fn reason(reason: Reason, glyphs: Glyphs) -> (&'static str, &'static str, Role) {
    match reason {
        Reason::First => (glyphs.start, "first", Role::Dim),
        Reason::Failure => (glyphs.again, "failure", Role::Warn),
        Reason::Membership => (glyphs.members, "membership", Role::Info),
        Reason::Manual => (glyphs.hand, "manual", Role::Accent),
        Reason::Stall => (glyphs.again, "stall", Role::Warn),
        Reason::Unknown => ("?", "unknown", Role::Dim),
    }
}

/// What to do about an alert: actions, and what they do here.
pub(crate) fn remedy(kind: AlertKind) -> &'static [(Action, &'static str)] {
    match kind {
        AlertKind::Stopped => {
            &[(Action::Hang, "why"), (Action::Signal, "send CONT"), (Action::Enter, "the rank")]
        }
        AlertKind::BlockedIo => {
            &[(Action::Hang, "why"), (Action::RankLog, "its log"), (Action::Enter, "the rank")]
        }
        AlertKind::Orphan => &[(Action::Stop, "end the ranks")],
        AlertKind::ZombieDeadlock => &[(Action::KeepZombies, "keep them"), (Action::Stop, "stop the job")],
        AlertKind::StaleStore => &[(Action::Stop, "stop the job")],
        AlertKind::CrashLoop => &[
            (Action::MergedLog, "logs"),
            (Action::FirstError, "first error"),
            (Action::Stop, "stop the job"),
        ],
        AlertKind::Oom => &[(Action::RankLog, "its log"), (Action::View(View::Timeline), "timeline")],
        AlertKind::SlowTeardown => &[(Action::Stop, "end it now")],
        AlertKind::AgentStuck => &[(Action::MergedLog, "logs"), (Action::Stop, "stop the job")],
        AlertKind::Hang | AlertKind::CollectiveMismatch | AlertKind::GilStuck | AlertKind::StepDrift => {
            &[(Action::Hang, "why"), (Action::Enter, "the rank"), (Action::Restart, "restart the group")]
        }
        AlertKind::Straggler | AlertKind::Thermal | AlertKind::IdleGpu => {
            &[(Action::Enter, "the rank"), (Action::RankLog, "its log")]
        }
        AlertKind::SlowStart => &[(Action::MergedLog, "all logs"), (Action::Stacks, "stacks")],
        AlertKind::NcclTimeout | AlertKind::NanLoss | AlertKind::MemoryLeak | AlertKind::Xid => {
            &[(Action::RankLog, "its log"), (Action::View(View::Timeline), "timeline")]
        }
        AlertKind::GpuLeftover => &[(Action::Leftovers, "list and end them")],
        AlertKind::Storage => &[(Action::View(View::Events), "events")],
        AlertKind::Unknown => &[(Action::MergedLog, "logs")],
    }
}

/// How grave an alert is; the lowest comes first.
pub(crate) fn gravity(kind: AlertKind) -> u8 {
    match kind {
        AlertKind::ZombieDeadlock => 0,
        AlertKind::Hang => 1,
        AlertKind::CollectiveMismatch => 2,
        AlertKind::GilStuck => 3,
        AlertKind::Orphan => 4,
        AlertKind::AgentStuck => 5,
        AlertKind::Oom => 6,
        AlertKind::Xid => 7,
        AlertKind::NcclTimeout => 8,
        AlertKind::CrashLoop => 9,
        AlertKind::SlowTeardown => 10,
        AlertKind::Stopped => 11,
        AlertKind::BlockedIo => 12,
        AlertKind::NanLoss => 13,
        AlertKind::StepDrift => 14,
        AlertKind::Straggler => 15,
        AlertKind::Thermal => 16,
        AlertKind::MemoryLeak => 17,
        AlertKind::GpuLeftover => 18,
        AlertKind::IdleGpu => 19,
        AlertKind::StaleStore => 20,
        AlertKind::Storage => 21,
        AlertKind::SlowStart => 22,
        AlertKind::Unknown => 23,
    }
}

/// The role of an alert.
pub(crate) fn alert_role(kind: AlertKind) -> Role {
    if gravity(kind) <= gravity(AlertKind::Xid) { Role::Crit } else { Role::Warn }
}

/// One event as a line: glyph, sentence, role. `None` for what is no line of its own.
pub(crate) fn event(state: &State, event: &Event, glyphs: Glyphs) -> Option<(&'static str, String, Role)> {
    let text = telling::event(state, event)?;
    let (glyph, role) = event_look(&event.fact, glyphs);
    Some((glyph, text, role))
}

fn event_look(fact: &Fact, glyphs: Glyphs) -> (&'static str, Role) {
    match fact {
        Fact::RankExited { exit: None, .. } | Fact::AgentExited { exit: None } => (glyphs.warn, Role::Warn),
        Fact::RankExited { exit: Some(exit), .. } | Fact::AgentExited { exit: Some(exit) } => {
            (if exit.is_success() { glyphs.good } else { glyphs.bad }, exit_role(*exit))
        }
        Fact::Restart { reason: why, .. } => {
            let (glyph, _, role) = reason(*why, glyphs);
            (glyph, role)
        }
        Fact::MembershipChanged { .. } => (glyphs.members, Role::Info),
        Fact::CauseFound { .. } => (glyphs.bad, Role::Crit),
        Fact::JobState { state, .. } => {
            let Look { glyph, role, .. } = job_state(*state, glyphs);
            (glyph, if role == Role::Ok { Role::Dim } else { role })
        }
        Fact::JobEnded { state, .. } => {
            let Look { glyph, role, .. } = job_state(*state, glyphs);
            (glyph, role)
        }
        Fact::AlertRaised { alert } => (glyphs.warn, alert_role(alert.kind)),
        Fact::AlertCleared { .. } => (glyphs.good, Role::Dim),
        Fact::Adopted { .. } => (glyphs.again, Role::Info),
        Fact::Command { outcome: Outcome::Done(_), .. } => (glyphs.hand, Role::Accent),
        Fact::Command { outcome: Outcome::Refused(_), .. } => (glyphs.hand, Role::Warn),
        _ => (glyphs.start, Role::Dim),
    }
}

fn exit_role(exit: Exit) -> Role {
    match exit {
        Exit::Code(0) | Exit::Signal(15) => Role::Dim,
        _ => Role::Crit,
    }
}

/// A line of the events view: one event, or several alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EventLine {
    /// Number of the last event in it.
    pub(crate) seq: u64,
    pub(crate) at: Stamp,
    pub(crate) glyph: &'static str,
    pub(crate) text: String,
    pub(crate) role: Role,
    /// How many ranks it is about, and what became of each of them: the same words whoever they are.
    pub(crate) ranks: Option<(u32, String)>,
}

/// What happened lately, oldest first. Ranks that start together, or end the same way together, share a line.
pub(crate) fn event_lines(state: &State, glyphs: Glyphs) -> Vec<EventLine> {
    let mut lines: Vec<EventLine> = Vec::new();
    let mut alike: Vec<(Option<u32>, u32)> = Vec::new();
    let mut before: Option<&Fact> = None;
    // What ranks have in common is put in words once all of them are known.
    let join = |lines: &mut Vec<EventLine>, fact: Option<&Fact>, alike: &[(Option<u32>, u32)]| {
        let (Some(line), Some(became)) = (lines.last_mut(), fact.and_then(became)) else { return };
        if alike.len() > 1 {
            line.text = format!("{} {became}", tags(alike));
        }
        line.ranks = Some((alike.len() as u32, became));
    };
    for happened in &state.recent {
        if let (Some(fact), Some(line)) = (before, lines.last_mut())
            && is_alike(fact, &happened.fact)
        {
            line.seq = happened.seq;
            alike.extend(who(&happened.fact));
            continue;
        }
        let Some((glyph, text, role)) = event(state, happened, glyphs) else { continue };
        join(&mut lines, before, &alike);
        alike = who(&happened.fact).into_iter().collect();
        lines.push(EventLine { seq: happened.seq, at: happened.at, glyph, text, role, ranks: None });
        before = Some(&happened.fact);
    }
    join(&mut lines, before, &alike);
    lines
}

/// What became of a rank.
fn became(fact: &Fact) -> Option<String> {
    match fact {
        Fact::RankStarted { attempt, .. } => Some(format!("started, attempt {attempt}")),
        Fact::RankExited { exit, .. } => {
            Some(format!("ended: {}", exit.map_or("nobody saw how".into(), |exit| exit.to_string())))
        }
        _ => None,
    }
}

fn who(fact: &Fact) -> Option<(Option<u32>, u32)> {
    match fact {
        Fact::RankStarted { place, local_rank, .. } => Some((place.rank, *local_rank)),
        Fact::RankExited { rank, local_rank, .. } => Some((*rank, *local_rank)),
        _ => None,
    }
}

fn is_alike(one: &Fact, other: &Fact) -> bool {
    match (one, other) {
        (Fact::RankStarted { attempt: one, .. }, Fact::RankStarted { attempt: other, .. }) => one == other,
        (Fact::RankExited { exit: one, .. }, Fact::RankExited { exit: other, .. }) => one == other,
        (Fact::JobState { state: one, .. }, Fact::JobState { state: other, .. }) => one == other,
        _ => false,
    }
}

/// Ranks with runs of numbers joined: `r0-r3 r5`.
fn tags(ranks: &[(Option<u32>, u32)]) -> String {
    let mut runs: Vec<(u32, u32, bool)> = Vec::new();
    let mut ranks = ranks.to_vec();
    ranks.sort_unstable();
    for (rank, local) in &ranks {
        let (number, global) = (rank.unwrap_or(*local), rank.is_some());
        match runs.last_mut() {
            Some((_, last, same)) if *last + 1 == number && *same == global => *last = number,
            _ => runs.push((number, number, global)),
        }
    }
    let tag = |number: u32, global: bool| rank_tag(global.then_some(number), number);
    let run = |(first, last, global): &(u32, u32, bool)| {
        if first == last {
            tag(*first, *global)
        } else {
            format!("{}-{}", tag(*first, *global), tag(*last, *global))
        }
    };
    runs.iter().map(run).collect::<Vec<_>>().join(" ")
}

/// Time left until `at`, rounded up to whole seconds: a countdown ends with 1 s, and says `now` after that.
pub(crate) fn countdown(now: Stamp, at: Stamp) -> String {
    match at.since(now).as_millis().div_ceil(1000) {
        0 => "now".into(),
        left => format!("in {}", crate::domain::time::human(Duration::from_secs(left as u64))),
    }
}

/// Time of day of `at` in a zone that is `offset_s` seconds east of UTC, with the date when that is another day
/// than `now`'s.
pub(crate) fn clock(at: Stamp, now: Stamp, offset_s: i32) -> String {
    let local = |stamp: Stamp| stamp.0 as i64 / 1000 + i64::from(offset_s);
    let (day, today) = (local(at).div_euclid(86400), local(now).div_euclid(86400));
    let second = local(at).rem_euclid(86400);
    let time = format!("{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60);
    if day == today { time } else { format!("{} {time}", date(day)) }
}

/// `11-20` of a day counted from 1970-01-01, by the usual arithmetic on a year that begins in March.
fn date(day: i64) -> String {
    let shifted = day + 719_468;
    let of_era = shifted.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    format!("{:02}-{day:02}", if month < 10 { month + 3 } else { month - 9 })
}

/// `+1.2 s ±5 ms`: how far a clock is ahead, and how sure that is.
pub(crate) fn clock_offset(clock: Offset) -> String {
    let ahead = match clock.ahead_ms.unsigned_abs() {
        0..1_000 => format!("{:+} ms", clock.ahead_ms),
        _ => format!("{:+.1} s", clock.ahead_ms as f64 / 1000.0),
    };
    format!("{ahead} ±{} ms", clock.within_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_day_know_zone_and_date() {
        // 2026-11-20T09:40:16Z
        let at = Stamp(1_795_167_616_837);
        assert_eq!(clock(at, at, 0), "09:40:16");
        assert_eq!(clock(at, at, -36_000), "23:40:16");
        assert_eq!(clock(at, at + Duration::from_hours(24), 3600), "11-20 10:40:16");
        assert_eq!(clock(Stamp(951_782_400_000), at, 0), "02-29 00:00:00");
    }

    #[test]
    fn ranks_that_do_the_same_share_a_line() {
        let story = crate::tui::fixture::restarting();
        let lines = event_lines(&story.state, crate::tui::text::GlyphSet::of(true));
        let texts: Vec<&str> = lines.iter().map(|line| line.text.as_str()).collect();
        assert!(texts.contains(&"r0-r3 started, attempt 0"), "{texts:?}");
        assert!(texts.contains(&"r0-r1 r3 ended: SIGTERM"), "{texts:?}");
        assert!(texts.contains(&"r2 ended: exit code 1, pid 48214"), "{texts:?}");
        assert!(lines.is_sorted_by_key(|line| line.seq));
    }

    #[test]
    fn countdowns_round_up() {
        let now = Stamp(10_000);
        assert_eq!(countdown(now, Stamp(12_100)), "in 3 s");
        assert_eq!(countdown(now, Stamp(9_000)), "now");
    }
}
