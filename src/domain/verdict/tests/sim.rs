//! A job of data-parallel ranks, one collective a step, simulated a second at a time.

use super::super::*;
use crate::domain::beat::{GroupStatus, Op, Whereabouts};

/// What a rank does instead of working.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Work,
    Asleep,
    Busy,
    Reading,
    /// Reads and writes files, a megabyte and more each second.
    Writing,
    Gil,
    GilBusy,
    Stopped,
    /// In a collective that does not end.
    InCollective(&'static str),
    /// A zombie.
    Dead,
}

#[derive(Clone, Debug)]
pub struct SimRank {
    pub mode: Mode,
    /// Collectives that it left out.
    pub left_out: u64,
    /// The line of `train.py` that its main thread is at, and the function of torch.distributed that it is in.
    pub spot: Option<(u32, Option<&'static str>)>,
    /// Whether it is in no process group yet.
    pub is_outside: bool,
    cpu_ns: u64,
    io: u64,
    waited: u32,
}

/// Gives an answer of NCCL's health service.
type Answer = Box<dyn Fn(&Sim) -> Option<Ras>>;

pub struct Sim {
    pub verdict: Verdict,
    pub now: Stamp,
    pub ranks: Vec<SimRank>,
    pub runs: bool,
    pub agent: Kernel,
    /// The rank for which the others wait most of the time, though all go on.
    pub slow: Option<u32>,
    /// Steps a second.
    pub rate: f64,
    /// Collectives done, which is steps done where none was left out.
    pub done: f64,
    pub rss: Box<dyn Fn(u32, u64) -> u64>,
    /// What NCCL's health service answers.
    pub ras: Answer,
    /// When it was asked.
    pub asked: Vec<u64>,
    /// Evidence of the alert that was raised last.
    pub evidence: Vec<String>,
    pub transcript: Vec<String>,
    second: u64,
}

impl Sim {
    pub fn new(policy: Policy, ranks: u32) -> Sim {
        Sim::with_budget(policy, ranks, 3)
    }

    pub fn with_budget(policy: Policy, ranks: u32, budget: u32) -> Sim {
        let rank = SimRank {
            mode: Mode::Work,
            left_out: 0,
            spot: None,
            is_outside: false,
            cpu_ns: 0,
            io: 0,
            waited: 0,
        };
        let mut sim = Sim {
            verdict: Verdict::new(policy, budget),
            now: Stamp(0),
            ranks: vec![rank; ranks as usize],
            runs: true,
            agent: Kernel::Alive,
            slow: None,
            rate: 10.0,
            done: 0.0,
            rss: Box::new(|_, _| 1 << 30),
            ras: Box::new(|_| None),
            asked: Vec::new(),
            evidence: Vec::new(),
            transcript: Vec::new(),
            second: 0,
        };
        sim.restart();
        sim
    }

    /// A new group, from the first step on.
    pub fn restart(&mut self) {
        self.give(Input::Begin);
        self.done = 0.0;
        for local in 0..self.ranks.len() as u32 {
            let rank = &mut self.ranks[local as usize];
            (rank.mode, rank.left_out, rank.waited) = (Mode::Work, 0, 0);
            self.give(Input::Rank { local_rank: local, rank: Some(local) });
        }
    }

    pub fn run(&mut self, seconds: u64) {
        (0..seconds).for_each(|_| self.second());
    }

    fn second(&mut self) {
        self.now = self.now + Duration::from_secs(1);
        self.second += 1;
        let all_work = self.ranks.iter().all(|rank| rank.mode == Mode::Work);
        if all_work {
            self.done += self.rate;
        }
        for local in 0..self.ranks.len() as u32 {
            self.beat_and_look(local, all_work);
        }
        self.give(Input::Agent(Some(self.agent)));
        self.give(Input::Phase { runs: self.runs, ending: None });
        self.give(Input::Judge);
    }

    fn beat_and_look(&mut self, local: u32, all_work: bool) {
        let done = self.done as u64;
        let (slow, second) = (self.slow, self.second);
        let rank = &mut self.ranks[local as usize];
        let waits = match rank.mode {
            Mode::Work => !all_work || slow.is_some_and(|slow| slow != local) && second % 8 != 0,
            Mode::InCollective(_) => true,
            _ => false,
        };
        rank.waited = if waits && !all_work { rank.waited + 1 } else { 0 };
        let busy = matches!(rank.mode, Mode::Busy | Mode::GilBusy) || all_work;
        rank.cpu_ns += if busy { 990_000_000 } else { 1_000_000 };
        let op = match rank.mode {
            Mode::InCollective(name) => name,
            _ => "all_reduce",
        };
        let group = GroupStatus {
            name: "0".into(),
            desc: Some("default_pg".into()),
            backend: Some("gloo".into()),
            size: Some(self.ranks.len() as u32),
            rank: Some(local),
            enqueued: Some(done + u64::from(waits)).filter(|count| *count > 0),
            started: None,
            completed: Some(done).filter(|count| *count > 0),
            op: None,
        };
        let rank = &mut self.ranks[local as usize];
        let op = (rank.waited >= 5).then(|| Op {
            name: op.into(),
            seq: Some(done + 1),
            shape: None,
            timeout_ms: Some(60_000),
        });
        let step = done + rank.left_out;
        let whereabouts = rank.spot.map(|(line, distributed)| Whereabouts {
            file: "/home/ada/train.py".into(),
            line,
            name: "main".into(),
            calls: None,
            distributed: distributed.map(str::to_owned),
        });
        let is_inside = !rank.is_outside;
        let beat = Beat {
            pid: 1,
            rank: Some(local),
            step: Some(step).filter(|step| *step > 0 && is_inside),
            step_seq: Some(done).filter(|count| *count > 0),
            step_source: Some("log".into()),
            groups: if is_inside { vec![GroupStatus { op, ..group }] } else { Vec::new() },
            whereabouts,
            ..Beat::default()
        };
        let (mode, cpu_ns) = (rank.mode, Some(rank.cpu_ns));
        if !matches!(mode, Mode::Gil | Mode::GilBusy | Mode::Stopped | Mode::Dead) {
            self.give(Input::Beat { local_rank: local, beat: &beat });
        }
        let kernel = match mode {
            Mode::Stopped => Kernel::Stopped,
            Mode::Dead => Kernel::Dead,
            _ => Kernel::Alive,
        };
        let rss_bytes = Some((self.rss)(local, self.second));
        self.give(Input::Look { local_rank: local, kernel, cpu_ns, rss_bytes });
    }

    pub fn loss(&mut self, local: u32, rows: u32) {
        self.give(Input::Wrote { local_rank: local, step: None, loss: Some(("loss", rows)) });
    }

    fn doing(&mut self, local: u32) -> Doing {
        let rank = &mut self.ranks[local as usize];
        let text = |text: &str| Some(text.to_owned());
        let (wchan, file) = match rank.mode {
            Mode::Asleep | Mode::Gil => (text("hrtimer_nanosleep"), None),
            Mode::Reading => (text("anon_pipe_read"), text("/data/pipe")),
            Mode::Writing => {
                rank.io += 50 << 20;
                (text("folio_wait_bit"), None)
            }
            Mode::Busy | Mode::GilBusy => (None, None),
            _ => (text("futex_do_wait"), None),
        };
        let main_cpu_ns = Some(rank.cpu_ns);
        Doing { wchan, file, main_cpu_ns, io_bytes: Some(rank.io), ..Doing::default() }
    }

    pub fn give(&mut self, input: Input) {
        let mut out = Vec::new();
        self.verdict.handle(self.now, input, &mut out);
        let at = self.now.0 / 1000;
        for output in out {
            let who = |local: Option<u32>| local.map(|local| format!(" r{local}")).unwrap_or_default();
            match output {
                Output::Raise(alert) => {
                    let line =
                        format!("{at} raise {:?}{}: {}", alert.kind, who(alert.local_rank), alert.text);
                    self.transcript.push(line);
                    self.evidence = alert.evidence;
                }
                Output::Clear(kind, local) => {
                    self.transcript.push(format!("{at} clear {kind:?}{}", who(local)));
                }
                Output::Standing { local_rank, standing: Some(standing) } => {
                    let does = if standing.role == Role::Waiting { "waits" } else { "lags" };
                    self.transcript.push(format!("{at} r{local_rank} {does}: {}", standing.detail()));
                }
                Output::Standing { .. } | Output::Guard { .. } => {}
                Output::Examine(locals) => {
                    for local in locals {
                        let doing = self.doing(local);
                        self.give(Input::Examined { local_rank: local, doing: &doing });
                    }
                }
                Output::AskRas => {
                    self.asked.push(at);
                    let answer = (self.ras)(self);
                    let ours =
                        (0..self.ranks.len() as u32).map(|local| (100 + i64::from(local), local)).collect();
                    self.give(Input::Ras { ras: answer.as_ref(), ours: &ours });
                }
                Output::Dump { .. } => self.transcript.push(format!("{at} act dump")),
                Output::Restart { .. } => self.transcript.push(format!("{at} act restart")),
                Output::GiveUp { .. } => self.transcript.push(format!("{at} act give up")),
            }
        }
    }
}
