//! A job that does not move on: which rank keeps it from that, and what that rank does.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    doing::Activity,
    member::Member,
    pace::Pace,
    policy::Policy,
    standing::{self, Gathering, Role, Standing, collective, names},
};
use crate::domain::{
    alert::{Alert, AlertKind},
    beat::Whereabouts,
    sample::Kernel,
    time::{Stamp, human},
};

/// Where a rank shows signs of life, or all ranks compute, the patience is this many times as long.
const SOFT: u32 = 4;
/// So many ranks are told of one by one.
const FEW: usize = 4;
/// A stopped rank and one in uninterruptible sleep have alerts of their own, which say it all.
const BLOCKED_FOR: Duration = Duration::from_secs(5);

/// Why nothing moves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    /// `None` where another alert says it already.
    pub(super) alert: Option<Alert>,
    /// It may be work after all: more patience is due.
    pub(super) soft: bool,
}

/// What the judgement looks at.
pub(super) struct Case<'a> {
    pub(super) members: &'a BTreeMap<u32, Member>,
    pub(super) standings: &'a BTreeMap<u32, Standing>,
    pub(super) pace: &'a Pace,
    pub(super) policy: &'a Policy,
    pub(super) now: Stamp,
}

impl Case<'_> {
    /// The stall that holds now: since when, and why. `None` while there is none.
    pub(super) fn stall(&self) -> Option<(Stamp, Finding)> {
        let since = self.pace.moved_at()?;
        let still = self.now.since(since);
        let patience =
            if self.pace.has_begun() { self.pace.patience(self.policy) } else { self.early_patience()? };
        if still < patience || self.alive().next().is_none() {
            return None;
        }
        let finding = self.diagnose(since);
        // Ranks that are done save, upload and say goodbye, each in its own time.
        let ends = self.members.values().any(|member| member.ended == Some(true));
        let patience = if finding.soft || ends { patience * SOFT } else { patience };
        (still >= patience).then_some((since, finding))
    }

    /// How long it may take from the first steps on: compiling and warming up are slow, so only one that others wait for in a
    /// collective is told.
    fn early_patience(&self) -> Option<Duration> {
        let has_stepped = self.members.values().any(|member| member.step.is_some());
        let is_waited_for = self.standings.values().any(|standing| standing.role == Role::Lagging);
        (has_stepped && is_waited_for).then(|| self.policy.hang_after() * SOFT)
    }

    /// Who seems to keep the others waiting, long before that is sure: it is worth knowing when the wait ends badly.
    pub(super) fn suspicion(&self) -> Option<Alert> {
        self.standings.values().any(|standing| standing.role == Role::Lagging).then_some(())?;
        self.diagnose(self.pace.moved_at()?).alert.filter(|alert| alert.local_rank.is_some())
    }

    fn alive(&self) -> impl Iterator<Item = (u32, &Member)> {
        self.members.iter().filter(|(_, member)| member.is_alive()).map(|(local, member)| (*local, member))
    }

    fn name(&self, local: u32) -> String {
        names([self.number(local)])
    }

    fn number(&self, local: u32) -> u32 {
        self.members.get(&local).map_or(local, |member| member.number(local))
    }

    fn list(&self, locals: impl IntoIterator<Item = u32>) -> String {
        names(locals.into_iter().map(|local| self.number(local)))
    }

    fn diagnose(&self, since: Stamp) -> Finding {
        let told = self.alive().any(|(_, member)| match member.kernel {
            Some(Kernel::Stopped) => true,
            Some(Kernel::Blocked) => self.now.since(member.kernel_since) >= BLOCKED_FOR,
            _ => false,
        });
        if told {
            return Finding { alert: None, soft: false };
        }
        let silent: Vec<_> = self.alive().filter(|(_, m)| m.silence(self.now).is_some()).collect();
        let others_beat = self.alive().any(|(_, m)| m.beats > 0 && m.silence(self.now).is_none());
        if let Some((local, member)) = silent.first().filter(|_| others_beat || silent.len() == 1) {
            return self.finding(self.held(since, *local, member), false);
        }
        if let Some(alert) = self.mismatch(since) {
            return self.finding(alert, false);
        }
        let lagging: Vec<_> =
            self.standings.iter().filter(|(_, s)| s.role == Role::Lagging).map(|(local, _)| *local).collect();
        if let Some(first) = self.worst(&lagging) {
            let soft = self.shows_life(first);
            return self.finding(self.lags(since, first, &lagging), soft);
        }
        self.nobody_lags(since)
    }

    fn finding(&self, mut alert: Alert, soft: bool) -> Finding {
        alert.evidence.push(self.pace_evidence());
        Finding { alert: Some(alert), soft }
    }

    fn alert(&self, kind: AlertKind, local_rank: Option<u32>, since: Stamp, text: String) -> Alert {
        let evidence = local_rank.map(|local| self.rank_evidence(local)).unwrap_or_default();
        Alert { kind, local_rank, since, text, evidence, acts_at: None }
    }

    /// Python's lock is held: the thread that beats gets no turn.
    fn held(&self, since: Stamp, local: u32, member: &Member) -> Alert {
        let how = match member.activity() {
            Some(Activity::Busy) => "computes in C code".to_owned(),
            Some(Activity::Asleep) => "sleeps in C code".to_owned(),
            Some(activity) if activity != Activity::Other(None) => format!("{} in C code", activity.verb()),
            _ => "is in C code".to_owned(),
        };
        let text = format!("{} {how} and holds Python's lock{}", self.name(local), self.they_wait(local));
        self.alert(AlertKind::GilStuck, Some(local), since, text)
    }

    /// Of those that lag, the one to look at: the furthest behind, then the one that does not wait for others.
    fn worst(&self, lagging: &[u32]) -> Option<u32> {
        let behind = |local: &u32| self.standings.get(local).map_or(0, |standing| standing.behind);
        lagging.iter().copied().max_by_key(|local| (behind(local), std::cmp::Reverse(*local)))
    }

    fn lags(&self, since: Stamp, local: u32, lagging: &[u32]) -> Alert {
        let activity = self.members.get(&local).and_then(Member::activity);
        let does = activity.as_ref().map_or("has stopped".into(), Activity::verb);
        // One whose main thread is over lives on while another of its threads does.
        let raised = self.members.get(&local).and_then(Member::raised);
        let does = match raised {
            Some(raised) => format!("{raised}; it lives on"),
            None => format!("{does}{}", self.at(local)),
        };
        let joined = self.standings.get(&local).map(Standing::collective);
        let joined = joined.map(|what| format!(" and has not joined {what}")).unwrap_or_default();
        let others: Vec<_> = lagging.iter().copied().filter(|other| *other != local).collect();
        let too = if others.is_empty() {
            String::new()
        } else {
            format!(" (nor {} {})", if others.len() == 1 { "has" } else { "have" }, self.list(others))
        };
        let text = format!("{} {does}{joined}{too}{}", self.name(local), self.they_wait(local));
        let kind = if activity.is_some_and(|a| a.is_io()) { AlertKind::BlockedIo } else { AlertKind::Hang };
        self.alert(kind, Some(local), since, text)
    }

    /// ` at train.py:40`, where that is known.
    fn at(&self, local: u32) -> String {
        let spot = self.members.get(&local).and_then(|member| member.stays_at(self.now));
        spot.map(|spot| format!(" at {}", spot.short())).unwrap_or_default()
    }

    /// `; ranks 0, 2-3 wait for it`.
    fn they_wait(&self, local: u32) -> String {
        let waiting = |(other, standing): (&u32, &Standing)| {
            (*other != local && standing.role == Role::Waiting).then_some(*other)
        };
        let waiting: Vec<_> = self.standings.iter().filter_map(waiting).collect();
        match waiting.len() {
            0 => String::new(),
            1 => format!("; {} waits for it", self.list(waiting)),
            _ => format!("; {} wait for it", self.list(waiting)),
        }
    }

    /// All ranks are in a collective of the same number, and it is not the same one.
    fn mismatch(&self, since: Stamp) -> Option<Alert> {
        let groups = standing::gather(self.members);
        groups.iter().filter(|group| group.ranks.len() > 1 && group.all_wait()).find_map(|group| {
            let ops = self.different_ops(since, group);
            ops.or_else(|| self.different_calls(since, group)).or_else(|| self.steps_apart(since, group))
        })
    }

    /// Some wait for what no others do, as a message in a collective's place.
    fn different_calls(&self, since: Stamp, group: &Gathering) -> Option<Alert> {
        let mut calls: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
        for (local, ..) in &group.ranks {
            let spot = self.members.get(local)?.spot(self.now)?;
            calls.entry(spot.distributed.as_deref()?).or_default().push(*local);
        }
        if calls.len() < 2 {
            return None;
        }
        let odd = calls.values().filter(|ranks| ranks.len() == 1).flatten().next().copied();
        let part = |(name, ranks): (&&str, &Vec<u32>)| {
            format!("{} in {name}{}", self.list(ranks.iter().copied()), self.at(ranks[0]))
        };
        let parts: Vec<_> = calls.iter().map(part).collect();
        let text = format!(
            "ranks of group {} wait in calls that do not belong together: {}",
            group.name,
            parts.join(", ")
        );
        Some(self.alert(AlertKind::CollectiveMismatch, odd.filter(|_| group.ranks.len() > 2), since, text))
    }

    fn different_ops(&self, since: Stamp, group: &Gathering) -> Option<Alert> {
        let told: Vec<_> =
            group.ranks.iter().filter_map(|(local, status, _)| Some((*local, status.op.as_ref()?))).collect();
        let (_, first) = told.first()?;
        let mut by_kind: BTreeMap<(&str, Option<&str>), Vec<u32>> = BTreeMap::new();
        // Sizes may differ where each rank sends or gets its own part.
        let even = ["all_reduce", "broadcast", "reduce", "barrier"];
        let sizes_count = told.iter().all(|(_, op)| op.name == first.name) && even.contains(&&*first.name);
        for (local, op) in &told {
            let shape = op.shape.as_deref().filter(|_| sizes_count);
            by_kind.entry((op.name.as_str(), shape)).or_default().push(*local);
        }
        if by_kind.len() < 2 {
            return None;
        }
        // The odd one out is the one to look at; with two ranks nobody is odd.
        let odd = by_kind.values().filter(|ranks| ranks.len() == 1).flatten().next().copied();
        let odd = odd.filter(|_| told.len() > 2);
        let parts: Vec<_> = by_kind
            .iter()
            .map(|((name, shape), ranks)| {
                let of = shape.map(|shape| format!(" of {shape}")).unwrap_or_default();
                let at = ranks.first().map(|local| self.at(*local)).unwrap_or_default();
                format!("{} in {name}{of}{at}", self.list(ranks.iter().copied()))
            })
            .collect();
        let seq = first.seq.unwrap_or_else(|| group.first());
        let text = format!(
            "ranks called different collectives as #{seq} of group {}: {}",
            group.name,
            parts.join(", ")
        );
        Some(self.alert(AlertKind::CollectiveMismatch, odd, since, text))
    }

    fn steps_apart(&self, since: Stamp, group: &Gathering) -> Option<Alert> {
        let steps: Vec<_> = group
            .ranks
            .iter()
            .filter_map(|(local, ..)| {
                let member = self.members.get(local)?;
                Some((*local, member.step?.0, &member.step_source))
            })
            .collect();
        let (_, _, source) = steps.first()?;
        if steps.len() != group.ranks.len() || steps.iter().any(|(.., other)| other != source) {
            return None;
        }
        let least = steps.iter().map(|(_, step, _)| *step).min()?;
        let (ahead, most, _) = steps.iter().max_by_key(|(_, step, _)| *step)?;
        if most == &least {
            return None;
        }
        let text = format!(
            "{} is at step {most} and others at step {least}, and all wait in {}: it left a collective out",
            self.name(*ahead),
            collective(None, group.first(), &group.name)
        );
        Some(self.alert(AlertKind::CollectiveMismatch, Some(*ahead), since, text))
    }

    fn nobody_lags(&self, since: Stamp) -> Finding {
        let groups = standing::gather(self.members);
        if let Some(group) = groups.iter().find(|group| group.all_wait() && !group.ranks.is_empty()) {
            let op = group.ranks.iter().find_map(|(_, status, _)| status.op.as_ref());
            let what = collective(op.map(|op| op.name.as_str()), group.first(), &group.name);
            let text = if group.is_wider() {
                format!("all ranks of this node wait in {what} for a rank of another node")
            } else {
                format!("all ranks are in {what} and it does not end: the network or a GPU holds it up")
            };
            return self.finding(self.alert(AlertKind::Hang, None, since, text), false);
        }
        if let Some(alert) = self.crossed(since).or_else(|| self.absent(since)) {
            return self.finding(alert, false);
        }
        if let Some(local) = self.behind_in_steps().or_else(|| self.odd_one()) {
            let soft = self.shows_life(local);
            return self.finding(self.lags(since, local, &[local]), soft);
        }
        let alive: Vec<_> = self.alive().collect();
        let activities: Vec<_> = alive.iter().filter_map(|(_, member)| member.activity()).collect();
        let all_busy = !activities.is_empty() && activities.iter().all(|a| *a == Activity::Busy);
        let same = activities.windows(2).all(|pair| pair[0] == pair[1]);
        let does = activities.first().filter(|_| same).map(Activity::verb);
        let does = does.map(|verb| format!(": each {verb}")).unwrap_or_default();
        let places = self.where_all_are();
        let text = format!("no rank moves on, and none waits for another in a collective{does}{places}");
        let lives = alive.iter().any(|(local, _)| self.shows_life(*local));
        self.finding(self.alert(AlertKind::Hang, None, since, text), all_busy || lives)
    }

    /// Each waits in a group that another one has not come to, as that one waits in another group.
    fn crossed(&self, since: Stamp) -> Option<Alert> {
        let standing =
            |(local, _)| Some((local, self.standings.get(&local).filter(|s| s.role == Role::Waiting)?));
        let waits: Vec<(u32, &Standing)> = self.alive().map(standing).collect::<Option<_>>()?;
        let groups: BTreeSet<&str> = waits.iter().map(|(_, standing)| standing.group.as_str()).collect();
        if groups.len() < 2 {
            return None;
        }
        let part = |(local, standing): &(u32, &Standing)| {
            format!("{} in {}{}", self.name(*local), standing.collective(), self.at(*local))
        };
        let parts: Vec<_> = waits.iter().take(FEW).map(part).collect();
        let text = format!(
            "ranks call the collectives of their groups in another order and wait for each other: {}",
            parts.join("; ")
        );
        Some(self.alert(AlertKind::CollectiveMismatch, None, since, text))
    }

    /// Some wait in a call of torch.distributed that counts nothing, as `new_group`, and others are in none.
    fn absent(&self, since: Stamp) -> Option<Alert> {
        let call = |member: &Member| member.spot(self.now).map(|spot| spot.distributed.clone());
        let known: Vec<_> = self.alive().map(|(local, member)| (local, call(member))).collect();
        let name = known.iter().find_map(|(_, call)| call.clone().flatten())?;
        let here = known.iter().filter(|(_, call)| *call == Some(Some(name.clone())));
        let here: Vec<u32> = here.map(|(local, _)| *local).collect();
        let others: Vec<u32> =
            known.iter().filter(|(_, call)| *call == Some(None)).map(|(local, _)| *local).collect();
        let first = *others.first()?;
        if here.len() + others.len() < known.len() {
            return None;
        }
        let does =
            self.members.get(&first).and_then(Member::activity).map_or("is".into(), |does| does.verb());
        let wait = if here.len() == 1 { "waits" } else { "wait" };
        let text = format!(
            "{} {does}{} and has not called {name}; {} {wait} there{}",
            self.name(first),
            self.at(first),
            self.list(here.iter().copied()),
            self.at(here[0])
        );
        Some(self.alert(AlertKind::Hang, Some(first), since, text))
    }

    /// `; rank 0 in all_reduce at train.py:40`, as far as known and not too much.
    fn where_all_are(&self) -> String {
        let spots = self.alive().filter_map(|(local, member)| Some((local, member.stays_at(self.now)?)));
        let part = |(local, spot): (u32, &Whereabouts)| {
            let call = spot.distributed.as_ref().map(|call| format!(" in {call}")).unwrap_or_default();
            format!("; {}{call} at {}", self.name(local), spot.short())
        };
        spots.take(FEW).map(part).collect()
    }

    /// The one rank that told fewer steps than all others.
    fn behind_in_steps(&self) -> Option<u32> {
        let known = self.alive().map(|(local, m)| Some((m.step?.0, local, &m.step_source)));
        let mut steps = known.collect::<Option<Vec<_>>>()?;
        if steps.windows(2).any(|pair| pair[0].2 != pair[1].2) {
            return None;
        }
        steps.sort_unstable();
        match steps.as_slice() {
            [(least, local, _), (next, ..), ..] if least < next => Some(*local),
            _ => None,
        }
    }

    /// The one rank that does something else than all others.
    fn odd_one(&self) -> Option<u32> {
        let known = self.alive().map(|(local, member)| Some((local, member.activity()?)));
        let all = known.collect::<Option<Vec<_>>>()?;
        if all.len() == 1 {
            return all.first().map(|(local, _)| *local);
        }
        let alone = |local: u32, activity: &Activity| {
            all.iter().all(|(other, its)| (*other == local) == (its == activity))
        };
        let mut odd = all.iter().filter(|(local, activity)| alone(*local, activity));
        let first = odd.next().filter(|_| all.len() > 2 || all.iter().any(|(_, a)| *a == Activity::Lock))?;
        // Of two, the one that does not wait for a lock or peer is the odd one.
        let waits = |a: &Activity| matches!(a, Activity::Lock | Activity::Network | Activity::Polling);
        if all.len() == 2 {
            let mut others = all.iter().filter(|(_, activity)| !waits(activity));
            return others.next().filter(|_| others.next().is_none()).map(|(local, _)| *local);
        }
        Some(first.0)
    }

    /// Whether it wrote lines or moved bytes lately.
    fn shows_life(&self, local: u32) -> bool {
        let recently = (self.policy.hang_after() / 2).max(Duration::from_secs(3));
        let sign = self.members.get(&local).and_then(Member::sign_at);
        sign.is_some_and(|at| self.now.since(at) < recently)
    }

    fn rank_evidence(&self, local: u32) -> Vec<String> {
        let Some(member) = self.members.get(&local) else { return Vec::new() };
        let mut evidence = Vec::new();
        evidence
            .extend(member.spot(self.now).map(|spot| format!("its main thread is at {}", spot.sentence())));
        for seen in &member.groups {
            let first = self.members.values().flat_map(|other| &other.groups);
            let first = first.filter(|other| standing::key(&other.status) == standing::key(&seen.status));
            let first = first.filter_map(|other| other.status.enqueued).max();
            if let (Some(own), Some(first)) =
                (seen.status.enqueued, first.filter(|f| Some(*f) > seen.status.enqueued))
            {
                let name = standing::group_name(&seen.status);
                evidence.push(format!("it has joined {own} collectives of group {name}, others {first}"));
            }
        }
        let mut kernel = Vec::new();
        if let Some(doing) = &member.doing {
            kernel.extend(doing.call.as_ref().map(|call| format!("in the call {call}")));
            kernel.extend(doing.wchan.as_ref().map(|wchan| format!("asleep in {wchan}")));
            kernel.extend(doing.file.as_ref().map(|file| format!("on {file}")));
        }
        kernel.extend(member.share().map(|share| format!("{} % of a core", share / 10)));
        if !kernel.is_empty() {
            evidence.push(format!("its main thread: {}", kernel.join(", ")));
        }
        match (member.silence(self.now), member.beat_at) {
            (Some(_), Some(at)) => evidence.push(format!("no heartbeat since {}", clock(at))),
            (None, Some(_)) => evidence.push("its heartbeat goes on: Python runs".into()),
            _ => {}
        }
        evidence
    }

    fn pace_evidence(&self) -> String {
        let step = self.members.values().filter_map(|member| member.step).max_by_key(|(step, _)| *step);
        let last = step.map(|(step, at)| format!("last step {step} at {}", clock(at)));
        let usual =
            (self.pace.step() > Duration::ZERO).then(|| format!("a step takes {}", human(self.pace.step())));
        let pause = self.pace.longest_pause().map(|pause| format!("the longest pause was {}", human(pause)));
        let all: Vec<_> = last.into_iter().chain(usual).chain(pause).collect();
        if all.is_empty() { "no collective has moved on since then".into() } else { all.join("; ") }
    }
}

/// Time of day in UTC.
pub(super) fn clock(at: Stamp) -> String {
    let text = at.to_string();
    format!("{} UTC", text.get(11..19).unwrap_or(&text))
}
