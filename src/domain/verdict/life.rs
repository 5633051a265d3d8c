//! Trouble around the ranks: a start that takes long, an agent that does nothing, an end that takes long.

use std::{collections::BTreeMap, time::Duration};

use super::{
    member::Member,
    policy::Policy,
    standing::{Role, Standing, names},
};
use crate::domain::{
    alert::{Alert, AlertKind},
    sample::Kernel,
    time::Stamp,
};

/// A start is slow after this many times the time of a hang.
const START: u32 = 4;
/// An agent that is stopped this long is a problem; a debugger's touch is not.
const AGENT_STOPPED: Duration = Duration::from_secs(3);
/// Agents look after their ranks every 100 ms as a rule.
const UNCOLLECTED: Duration = Duration::from_secs(10);
/// So many ranks are told of one by one.
const FEW: usize = 4;
/// Ranks that take longer than this to end are told.
const TEARDOWN: Duration = Duration::from_secs(5);

fn alert(
    kind: AlertKind,
    local_rank: Option<u32>,
    since: Stamp,
    text: String,
    evidence: Vec<String>,
) -> Alert {
    Alert { kind, local_rank, since, text, evidence, acts_at: None }
}

/// The start takes long: who has come how far.
pub(super) fn slow_start(
    members: &BTreeMap<u32, Member>,
    standings: &BTreeMap<u32, Standing>,
    policy: &Policy,
    (began, now): (Stamp, Stamp),
) -> Option<Alert> {
    let alive: Vec<_> = members.iter().filter(|(_, member)| member.is_alive()).collect();
    // Without beats nothing is known; steps mean that the start is over.
    let known = alive.iter().any(|(_, member)| member.beats > 0);
    let stepped = alive.iter().any(|(_, member)| member.step.is_some());
    if now.since(began) < policy.hang_after() * START || !known || stepped {
        return None;
    }
    if let Some(alert) = stragglers(&alive, (began, now)) {
        return Some(alert);
    }
    let list = |wanted: &dyn Fn(&Member) -> bool| {
        let found = alive.iter().filter(|(_, m)| wanted(m)).map(|(local, m)| m.number(**local));
        found.collect::<Vec<_>>()
    };
    let outside = list(&|member| member.groups.is_empty());
    let inside = list(&|member| !member.groups.is_empty());
    let late: Vec<_> = standings
        .iter()
        .filter(|(_, standing)| standing.role == Role::Lagging)
        .map(|(local, standing)| (members.get(local).map_or(*local, |m| m.number(*local)), standing))
        .collect();
    let text = if let Some((rank, standing)) = late.first() {
        let member = alive.iter().find(|(local, m)| m.number(**local) == *rank).map(|(_, m)| m);
        let does = member.and_then(|m| m.activity()).map(|does| format!(" {}", does.verb()));
        let at = member.and_then(|m| m.stays_at(now)).map(|spot| format!(" at {}", spot.short()));
        let doing = does.map(|does| format!("{does}{} and", at.unwrap_or_default())).unwrap_or_default();
        let what = standing.collective();
        format!("the start takes long: {}{doing} has not joined {what}", names([*rank]))
    } else if outside.is_empty() {
        return None;
    } else if inside.is_empty() {
        "the start takes long: no rank has made a process group yet".into()
    } else {
        format!(
            "the start takes long: {} in no process group yet, {} {}",
            is(&outside),
            is(&inside),
            "in one"
        )
    };
    let evidence =
        vec!["ranks import, compile, load data and meet each other before their first step".into()];
    Some(alert(AlertKind::SlowStart, None, began, text, evidence))
}

/// Some ranks wait where all have to meet, and others do something else: what those do, and where.
fn stragglers(alive: &[(&u32, &Member)], (began, now): (Stamp, Stamp)) -> Option<Alert> {
    fn meets(member: &Member, now: Stamp) -> Option<&str> {
        member.spot(now).filter(|_| member.groups.is_empty())?.distributed.as_deref()
    }
    let call = alive.iter().find_map(|(_, member)| meets(member, now))?;
    let here: Vec<u32> = alive
        .iter()
        .filter(|(_, m)| meets(m, now) == Some(call))
        .map(|(local, m)| m.number(**local))
        .collect();
    let absent: Vec<_> =
        alive.iter().filter(|(_, m)| meets(m, now).is_none() && m.groups.is_empty()).collect();
    let (local, first) = absent.first()?;
    let does = first.activity().map_or("is elsewhere".into(), |activity| activity.verb());
    let at = first.stays_at(now).map(|spot| format!(" at {}", spot.short())).unwrap_or_default();
    let others: Vec<u32> = absent.iter().skip(1).map(|(local, m)| m.number(**local)).collect();
    let too = match others.len() {
        0 => String::new(),
        1 => format!(" (nor has {})", names(others)),
        _ => format!(" (nor have {})", names(others)),
    };
    let wait = if here.len() == 1 { "waits" } else { "wait" };
    let text = format!(
        "the start takes long: {} {does}{at} and has not called {call}{too}; {} {wait} there",
        names([first.number(**local)]),
        names(here)
    );
    let evidence = absent.iter().take(FEW).filter_map(|(local, member)| {
        Some(format!("{} is at {}", names([member.number(**local)]), member.spot(now)?.sentence()))
    });
    Some(alert(AlertKind::SlowStart, Some(**local), began, text, evidence.collect()))
}

/// The agent lives since then and has no rank that does.
pub(super) fn no_group(since: Option<Stamp>, policy: &Policy, now: Stamp) -> Option<Alert> {
    let since = since.filter(|since| now.since(*since) >= policy.hang_after() * START)?;
    let text = "no rank has started yet: the agent waits for its group";
    let evidence = vec!["the agent lives, and has no rank that does".into()];
    Some(alert(AlertKind::SlowStart, None, since, text.into(), evidence))
}

fn is(ranks: &[u32]) -> String {
    format!("{} {}", names(ranks.iter().copied()), if ranks.len() == 1 { "is" } else { "are" })
}

/// The agent is stopped, or does not collect ranks that are dead.
pub(super) fn agent_stuck(
    agent: Option<(Kernel, Stamp)>,
    members: &BTreeMap<u32, Member>,
    now: Stamp,
) -> Option<Alert> {
    let (kernel, since) = agent?;
    if kernel == Kernel::Stopped && now.since(since) >= AGENT_STOPPED {
        let text = "the agent is stopped by a signal or a debugger: it would not restart a rank that fails";
        let evidence = vec!["the kernel says T (stopped); SIGCONT lets it go on".into()];
        return Some(alert(AlertKind::AgentStuck, None, since, text.into(), evidence));
    }
    let dead = |member: &Member| {
        member.kernel == Some(Kernel::Dead) && now.since(member.kernel_since) >= UNCOLLECTED
    };
    let left: Vec<_> = members.iter().filter(|(_, member)| dead(member)).collect();
    // All of them: that is the zombie deadlock, which has a watchdog of its own.
    if kernel != Kernel::Alive || left.is_empty() || left.len() == members.len() {
        return None;
    }
    let first = left.iter().map(|(_, member)| member.kernel_since).min()?;
    let who = names(left.iter().map(|(local, member)| member.number(**local)));
    let text = format!("the agent does not collect {who}, long dead: it is stuck");
    let evidence = vec!["a healthy agent looks every 100 ms".into()];
    Some(alert(AlertKind::AgentStuck, None, first, text, evidence))
}

/// Ranks that do not end though they were told to.
pub(super) fn slow_teardown(
    members: &BTreeMap<u32, Member>,
    (since, force_at): (Stamp, Stamp),
    now: Stamp,
) -> Option<Alert> {
    let alive = |member: &Member| member.is_alive() && member.kernel != Some(Kernel::Dead);
    let left: Vec<_> = members.iter().filter(|(_, member)| alive(member)).collect();
    if now.since(since) < TEARDOWN || left.is_empty() {
        return None;
    }
    let who = names(left.iter().map(|(local, member)| member.number(**local)));
    let verb = if left.len() == 1 { "does" } else { "do" };
    let mut told = alert(
        AlertKind::SlowTeardown,
        None,
        since,
        format!("{who} {verb} not end after SIGTERM; SIGKILL follows"),
        left.iter()
            .filter(|(_, member)| member.kernel == Some(Kernel::Stopped))
            .map(|(local, member)| {
                format!("{} is stopped and cannot take it", names([member.number(**local)]))
            })
            .collect(),
    );
    told.acts_at = Some(force_at);
    Some(told)
}
