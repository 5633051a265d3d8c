//! The ranks of this node: the newest incarnation of each, and what is known of it.

use std::collections::BTreeMap;

use crate::{
    domain::{
        beat::Beat,
        exit::Exit,
        health::{self, Health},
        id::{PidMap, ProcId},
        sample::{Kernel, Place, RankSample, Sighting},
        time::Stamp,
    },
    probe::proc::Look,
};

/// How much a step number is worth: a user's own word beats a guess.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum StepSource {
    /// Nobody told one.
    #[default]
    None,
    /// Steps of the optimizer, counted.
    Optimizer,
    /// `step` in a JSON line on standard output.
    Line,
    /// `elastictop.log(…, step=…)`.
    Told,
}

/// The ranks of one group by their position, each found by its process id as well.
#[derive(Debug, Default)]
pub struct Crew {
    members: BTreeMap<u32, Member>,
    positions: PidMap<u32>,
}

impl Crew {
    /// Adds a rank; its position is free, or its holder leaves.
    pub fn insert(&mut self, local_rank: u32, member: Member) {
        self.positions.insert(member.proc.pid, local_rank);
        self.members.insert(local_rank, member);
    }

    /// The rank at a position.
    pub fn get(&self, local_rank: u32) -> Option<&Member> {
        self.members.get(&local_rank)
    }

    /// The rank at a position.
    pub fn get_mut(&mut self, local_rank: u32) -> Option<&mut Member> {
        self.members.get_mut(&local_rank)
    }

    /// The rank with this process, and its position.
    pub fn by_pid(&mut self, pid: i32) -> Option<(u32, &mut Member)> {
        let position = *self.positions.get(&pid)?;
        let member = self.members.get_mut(&position)?;
        (member.proc.pid == pid).then_some((position, member))
    }

    /// The position of this very process.
    pub fn position_of(&self, proc: ProcId) -> Option<u32> {
        let position = *self.positions.get(&proc.pid)?;
        self.members.get(&position).filter(|member| member.proc == proc).map(|_| position)
    }

    /// All ranks by position.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Member)> {
        self.members.iter().map(|(local_rank, member)| (*local_rank, member))
    }

    /// All ranks by position.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut Member)> {
        self.members.iter_mut().map(|(local_rank, member)| (*local_rank, member))
    }

    /// All ranks.
    pub fn values(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.members.clear();
        self.positions.clear();
    }
}

/// One rank.
#[derive(Debug)]
pub struct Member {
    /// Its process.
    pub proc: ProcId,
    /// What its environment or heartbeat says.
    pub place: Place,
    /// What it is doing.
    pub health: Health,
    /// When its process was found dead.
    pub died_at: Option<Stamp>,
    /// How it ended.
    pub exit: Option<Exit>,
    /// Whether its process is out of the process table.
    pub gone: bool,
    /// What the last look showed.
    pub look: Option<Look>,
    /// What the last one showed in which it lived.
    lived: Option<Look>,
    step: Option<(u64, Stamp, StepSource)>,
    beat_at: Option<Stamp>,
    last_line: Option<String>,
    line_is_new: bool,
    lines: u64,
}

impl Member {
    /// A rank that began at `now`, or was seen for the first time then.
    pub fn new(now: Stamp, local_rank: u32, sighting: &Sighting, expects_beats: bool) -> Member {
        Member {
            proc: sighting.proc,
            health: Health::new(now, local_rank, sighting.place.rank, expects_beats),
            place: sighting.place.clone(),
            died_at: None,
            exit: None,
            gone: false,
            look: None,
            lived: None,
            step: None,
            beat_at: None,
            last_line: None,
            line_is_new: false,
            lines: 0,
        }
    }

    /// Takes in a look at it.
    pub fn looked(&mut self, look: Look) {
        self.look = Some(look);
        if look.kernel != Kernel::Dead {
            self.lived = Some(look);
        }
    }

    /// Whether it can still run code.
    pub fn is_alive(&self) -> bool {
        self.died_at.is_none() && !self.gone
    }

    /// Whether it is known to have ended badly.
    pub fn failed(&self) -> bool {
        !self.is_alive() && self.exit.is_some_and(|exit| !exit.is_success())
    }

    /// What the kernel said of it last.
    pub fn kernel(&self) -> Kernel {
        match &self.look {
            _ if !self.is_alive() => Kernel::Dead,
            Some(look) => look.kernel,
            None => Kernel::Alive,
        }
    }

    /// A heartbeat arrived. Returns whether it told more of the rank's place than was known.
    pub fn beat(&mut self, now: Stamp, beat: &Beat, out: &mut Vec<health::Output>) -> bool {
        self.beat_at = Some(now);
        if let Some(step) = beat.step {
            let source = match beat.step_source.as_deref() {
                Some("optimizer") => StepSource::Optimizer,
                _ => StepSource::Told,
            };
            self.step(beat.stepped_at().unwrap_or(now).min(now), step, source);
        }
        let groups = u32::try_from(beat.groups.len()).ok();
        self.health.handle(now, health::Input::Beat { step: beat.step, groups }, out);
        self.place.learn(&Place {
            rank: beat.rank,
            local_rank: beat.local_rank,
            world_size: beat.world_size,
            restart_count: beat.restart_count,
            ..Place::default()
        })
    }

    /// A step was told. A worse source does not overrule a better one.
    pub fn step(&mut self, at: Stamp, step: u64, source: StepSource) {
        if self.step.is_none_or(|(known, _, by)| source > by || source == by && step != known) {
            self.step = Some((step, at, source));
        }
    }

    /// Lines arrived; the text is the last of them.
    pub fn wrote(&mut self, lines: u64, last_line: Option<&str>) {
        self.lines += lines;
        if let Some(line) = last_line.filter(|line| self.last_line.as_deref() != Some(line)) {
            self.last_line = Some(line.to_owned());
            self.line_is_new = true;
        }
    }

    /// The last line that it wrote.
    pub fn last_line(&self) -> Option<&str> {
        self.last_line.as_deref()
    }

    /// What a look shows, for those who watch. The last line is only in it when it changed.
    pub fn sample(&mut self, local_rank: u32, now: Stamp) -> RankSample {
        // A zombie has no memory and its counters are final: its last figures say more.
        let look = self.lived.as_ref().filter(|_| self.is_alive());
        RankSample {
            local_rank,
            cpu_ns: look.and_then(|look| look.cpu_ns),
            rss_bytes: look.and_then(|look| look.rss_bytes),
            threads: look.and_then(|look| look.threads),
            step: self.step.map(|(step, ..)| step),
            step_at: self.step.map(|(_, at, _)| at.min(now)),
            beat_at: self.beat_at,
            groups: Vec::new(),
            standing: None,
            last_line: self.last_line.clone().filter(|_| std::mem::take(&mut self.line_is_new)),
            lines: self.lines,
        }
    }
}
