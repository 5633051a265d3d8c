//! GPUs: what there is, who has which, who holds memory and belongs to no rank.

use std::{collections::HashSet, sync::Arc};

use super::{Asker, Core, Effect, GpuLook, KEEP_EVERY, Out, crew::Member};
use crate::domain::{
    cause::Clue,
    command::{Command, Outcome},
    event::Fact,
    gpu::{
        GpuInfo, GpuSource, Holder, Reading, Status, XidSeen,
        join::{self, RankFacts, RankGpus},
        leftover::{self, Leftover},
        watch::{GpuWatch, Output, RankLook},
    },
    id::ProcId,
    rank::{JobState, RankState},
    telling::{self, signal_word},
    time::Stamp,
};

const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;
/// That the driver names no process of this pid namespace has to be seen so often: one that is just ending is no
/// process here any more either.
const FOREIGN_LOOKS: u32 = 3;
/// Most processes remembered that were asked to end.
const MAX_ASKED: usize = 256;

/// What the core knows of GPUs beside the state.
#[derive(Debug, Default)]
pub struct GpuDesk {
    watch: GpuWatch,
    told: Option<Told>,
    /// What was known when GPUs and leftovers were last given to their owners.
    owners: Option<Owners>,
    /// [`Reading::seq`] of the last answer.
    seen: (u64, bool),
    foreign_looks: u32,
    kept_at: Stamp,
    /// Processes that got SIGTERM because somebody wanted their memory.
    asked: Vec<ProcId>,
}

/// The description that was told last.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    source: GpuSource,
    driver: Option<String>,
    trouble: Option<String>,
    gpus: Vec<GpuInfo>,
}

#[derive(Debug)]
struct Owners {
    agent: Option<ProcId>,
    ranks: Arc<[RankFacts]>,
    not_gone: usize,
    holders: Option<Arc<[Holder]>>,
    /// Which process is on which GPU.
    on: Vec<(u32, i32)>,
}

impl GpuDesk {
    /// A new group of ranks starts.
    pub fn restarted(&mut self) {
        self.watch.restarted();
    }
}

impl Core {
    pub(super) fn gpus_looked(&mut self, now: Stamp, look: GpuLook, out: &mut Out) {
        let reading = &look.reading;
        self.describe_gpus(now, reading, out);
        // An answer that was seen before shows nothing new: its age is in the state.
        if reading.seq() > self.gpus.seen && look.sample {
            self.gpus.seen = reading.seq();
            self.keep_gpu_figures(now, reading, out);
            if !self.gpus.owners.as_ref().is_some_and(|known| self.are_owners(known, &look)) {
                self.join_gpus(now, &look, out);
                self.list_leftovers(now, reading, out);
                // Another look may be needed to believe that the driver names strangers only.
                let may_change = (1..FOREIGN_LOOKS).contains(&self.gpus.foreign_looks);
                self.gpus.owners = (!may_change).then(|| self.owners(&look));
            }
            self.watch_gpus(now, out);
        }
        for seen in look.xids {
            self.xid(now, seen, out);
        }
    }

    fn describe_gpus(&mut self, now: Stamp, reading: &Reading, out: &mut Out) {
        let trouble = match &reading.status {
            Status::Absent(why) => Some(why.clone()),
            Status::Answers => None,
            Status::Starting => Some("the NVIDIA driver is starting".into()),
            Status::Unknown => return,
        };
        let (source, driver, mut gpus) = (reading.source, reading.driver.clone(), reading.gpus.clone());
        if gpus.is_empty()
            && let Some(told) = &self.gpus.told
        {
            // Nobody answers any more: what was there is still there.
            gpus.clone_from(&told.gpus);
        }
        let told = Told { source, driver, trouble, gpus };
        if self.gpus.told.as_ref() == Some(&told) {
            return;
        }
        let Told { source, driver, trouble, gpus } = &told;
        let fact = Fact::Gpus {
            source: *source,
            driver: driver.clone(),
            trouble: trouble.clone(),
            gpus: gpus.clone(),
        };
        self.emit(now, fact, out);
        self.gpus.told = Some(told);
    }

    fn keep_gpu_figures(&mut self, now: Stamp, reading: &Reading, out: &mut Out) {
        let gpus = reading.samples.clone();
        if now.since(self.gpus.kept_at) >= KEEP_EVERY {
            self.gpus.kept_at = now;
            self.emit(now, Fact::GpuProgress { gpus }, out);
        } else {
            self.emit(now, Fact::GpuSample { gpus }, out);
        }
    }

    /// All that bears on whose GPUs and processes are whose.
    fn owners(&self, look: &GpuLook) -> Owners {
        Owners {
            agent: self.agent.filter(|_| self.agent_alive),
            ranks: Arc::clone(&look.ranks),
            not_gone: self.not_gone(),
            holders: look.reading.holders.clone(),
            on: on(&look.reading).collect(),
        }
    }

    /// Whether a look shows the owners that are known, as nearly all do.
    fn are_owners(&self, known: &Owners, look: &GpuLook) -> bool {
        known.agent == self.agent.filter(|_| self.agent_alive)
            && known.not_gone == self.not_gone()
            && same(Some(&known.ranks), Some(&look.ranks))
            && same(known.holders.as_ref(), look.reading.holders.as_ref())
            && on(&look.reading).eq(known.on.iter().copied())
    }

    fn not_gone(&self) -> usize {
        self.crew.values().filter(|member| !member.gone).count()
    }

    fn join_gpus(&mut self, now: Stamp, look: &GpuLook, out: &mut Out) {
        let looks = &mut self.gpus.foreign_looks;
        *looks = if join::names_strangers_only(&look.reading) { looks.saturating_add(1) } else { 0 };
        let foreign_pids = *looks >= FOREIGN_LOOKS;
        let known = self.state.gpus.as_ref();
        let before = known.map(|gpus| gpus.ranks.clone()).unwrap_or_default();
        let mut ranks = join::join(&look.ranks, &look.reading, foreign_pids, &before);
        // A rank that is gone keeps its GPU until another takes its place.
        let living: HashSet<u32> = look.ranks.iter().map(|alive| alive.local_rank).collect();
        let lives = |rank: &RankGpus| living.contains(&rank.local_rank);
        ranks.extend(before.iter().filter(|rank| !lives(rank)).cloned());
        ranks.sort_by_key(|rank| rank.local_rank);
        let was_foreign = known.is_some_and(|gpus| gpus.foreign_pids);
        if ranks != before || foreign_pids != was_foreign {
            self.emit(now, Fact::GpuRanks { ranks, foreign_pids }, out);
        }
    }

    fn list_leftovers(&mut self, now: Stamp, reading: &Reading, out: &mut Out) {
        if reading.holders.is_none() {
            return;
        }
        let agent = self.agent.filter(|_| self.agent_alive);
        let members = self.crew.values().filter(|member| !member.gone).map(|member| member.proc.pid);
        let ours: HashSet<i32> = members.chain(agent.map(|agent| agent.pid)).collect();
        let ours = |pid| ours.contains(&pid);
        let found = leftover::find(reading, ours);
        let known = self.state.gpus.as_ref().map(|gpus| gpus.leftovers.as_slice()).unwrap_or_default();
        let same =
            found.len() == known.len() && found.iter().zip(known).all(|(one, other)| one.is_same(other));
        if !same {
            self.emit(now, Fact::GpuLeftovers { leftovers: found }, out);
        }
    }

    fn watch_gpus(&mut self, now: Stamp, out: &mut Out) {
        let Some(gpus) = &self.state.gpus else { return };
        let running = self.state.state == JobState::Running;
        let living = self.state.ranks.iter().filter(|rank| rank.state.is_alive());
        let ranks: Vec<RankLook> = living
            .map(|rank| {
                let joined = gpus.joined(rank.local_rank).filter(|joined| joined.pid == rank.proc.pid);
                let all = joined.iter().flat_map(|joined| &joined.gpus);
                RankLook {
                    local_rank: rank.local_rank,
                    rank: rank.place.rank,
                    pid: rank.proc.pid,
                    is_running: running && rank.state == RankState::Running,
                    gpus: all.filter_map(|index| Some(&gpus.get(*index)?.sample)).collect(),
                }
            })
            .collect();
        let mut told = Vec::new();
        self.gpus.watch.look(now, &ranks, &gpus.leftovers, &mut told);
        self.take_gpu_outputs(now, told, out);
    }

    fn xid(&mut self, now: Stamp, seen: XidSeen, out: &mut Out) {
        self.emit(now, Fact::GpuXid { seen }, out);
        let gpus = self.state.gpus.as_ref();
        let joined = gpus.zip(seen.gpu).and_then(|(gpus, index)| {
            let lives =
                |pid| self.crew.values().any(|member| member.proc.pid == pid && Member::is_alive(member));
            gpus.ranks.iter().find(|rank| rank.gpus.contains(&index) && lives(rank.pid))
        });
        // One that is gone keeps its GPU until another takes its place: the driver's word may come after its end.
        let whose = gpus.zip(seen.gpu).and_then(|(gpus, index)| {
            let is_ours = |pid| self.crew.values().any(|member| member.proc.pid == pid);
            let rank = gpus.ranks.iter().find(|rank| rank.gpus.contains(&index) && is_ours(rank.pid))?;
            let sample = gpus.get(index).map(|gpu| gpu.sample.clone()).unwrap_or_default();
            let pending = sample.remapped.is_some_and(|rows| rows.pending);
            let (local_rank, recovery) = (rank.local_rank, sample.recovery);
            Some(Clue::Xid { local_rank, gpu: index, xid: seen.xid, recovery, pending })
        });
        let rank = joined.map(|joined| (joined.local_rank, telling::tag_of(&self.state, joined.local_rank)));
        let recovery = gpus.zip(seen.gpu).and_then(|(gpus, index)| gpus.get(index)?.sample.recovery);
        let named = rank.as_ref().map(|(local, tag)| (*local, tag.as_str()));
        let told = self.gpus.watch.xid(now, seen, named, recovery);
        self.take_gpu_outputs(now, told.into_iter().collect(), out);
        if let Some(clue) = whose {
            self.ledger.note(now, clue);
        }
    }

    fn take_gpu_outputs(&mut self, now: Stamp, told: Vec<Output>, out: &mut Out) {
        for output in told {
            match output {
                Output::Raise(alert) => self.emit(now, Fact::AlertRaised { alert }, out),
                Output::Clear(alert_kind, local_rank) => {
                    let key = (alert_kind, local_rank);
                    if self.state.alerts.iter().any(|alert| alert.key() == key) {
                        self.emit(now, Fact::AlertCleared { alert_kind, local_rank }, out);
                    }
                }
            }
        }
    }

    fn leftover(&self, proc: ProcId) -> Option<&Leftover> {
        self.state.gpus.as_ref()?.leftovers.iter().find(|left| left.proc == proc)
    }

    pub(super) fn asked_to_end_leftover(&mut self, now: Stamp, asker: Asker, proc: ProcId, out: &mut Out) {
        let command = Command::EndLeftover { proc };
        let owner = self.state.job.as_ref().map(|job| job.uid);
        let no = match self.leftover(proc) {
            None => Some(format!("process {proc} does not hold GPU memory any more, or belongs to a rank")),
            Some(left) if left.uid != owner => Some(format!("process {proc} is another user's")),
            Some(_) => None,
        };
        if let Some(text) = no {
            return self.refuse(now, asker, command, text, out);
        }
        let signal = if self.gpus.asked.contains(&proc) { SIGKILL } else { SIGTERM };
        out.effects.push(Effect::SignalLeftover { proc, signal, asker });
    }

    pub(super) fn leftover_signalled(
        &mut self,
        now: Stamp,
        asker: Asker,
        proc: ProcId,
        signal: i32,
        error: Option<String>,
        out: &mut Out,
    ) {
        let (command, name) = (Command::EndLeftover { proc }, signal_word(signal));
        if let Some(error) = error {
            return self.refuse(now, asker, command, format!("{name} was not sent: {error}"), out);
        }
        if !self.gpus.asked.contains(&proc) {
            self.gpus.asked.push(proc);
            self.gpus.asked.drain(..self.gpus.asked.len().saturating_sub(MAX_ASKED));
        }
        let more = if signal == SIGTERM { "; ask again for SIGKILL" } else { "" };
        self.answer(now, asker, command, Outcome::Done(format!("{name} sent to process {proc}{more}")), out);
    }
}

/// Whether two lists are the same; most often they are one.
fn same<T: PartialEq>(one: Option<&Arc<[T]>>, other: Option<&Arc<[T]>>) -> bool {
    one.zip(other).is_some_and(|(one, other)| Arc::ptr_eq(one, other)) || one == other
}

/// Which process is on which GPU.
fn on(reading: &Reading) -> impl Iterator<Item = (u32, i32)> {
    let samples = reading.samples.iter();
    samples.flat_map(|sample| sample.procs.iter().flatten().map(|proc| (sample.index, proc.pid)))
}
