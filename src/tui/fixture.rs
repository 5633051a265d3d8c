//! Jobs for tests, made as real ones are: by folding events.

use std::time::Duration;

use super::{
    ColorDepth, Options, Theme,
    app::{App, Msg},
};
use crate::{
    domain::{
        alert::{Alert, AlertKind},
        cause::{Cause, CauseKind},
        command::{Command, Outcome},
        event::{Event, Fact, JobInfo, Launcher, Reason},
        exit::Exit,
        gpu::{
            GpuInfo, GpuProc, GpuSample, GpuSource, Remapped, Traffic,
            join::{JoinSource, RankGpus},
            leftover::{Leftover, LeftoverKind},
        },
        id::{JobId, ProcId},
        log::{LogLine, Stream},
        rank::{JobState, RankState},
        sample::{Place, RankSample},
        state::State,
        time::Stamp,
    },
    wire::message::{PROTOCOL, ToViewer},
};

/// 2026-11-20T09:40:16Z.
pub(crate) const BEGIN: Stamp = Stamp(1_795_167_616_000);

/// Writes a job's history.
pub(crate) struct Story {
    pub(crate) state: State,
    pub(crate) events: Vec<Event>,
    at: Stamp,
    seq: u64,
    pid: i32,
    ranks: u32,
}

impl Story {
    /// A job with so many ranks on this node, whose agent has started.
    pub(crate) fn new(ranks: u32, launcher: Launcher) -> Story {
        let mut story =
            Story { state: State::default(), events: Vec::new(), at: BEGIN, seq: 0, pid: 48_210, ranks };
        let known = launcher != Launcher::Foreign;
        let job = JobInfo {
            id: JobId(if known { "llama-7b-x3k9".into() } else { "train-48210".into() }),
            name: if known { "llama-7b".into() } else { "train".into() },
            launcher,
            node: "gpu-node-03".into(),
            command: vec!["torchrun".into(), "train.py".into()],
            cwd: "/home/ada/llama".into(),
            max_restarts: known.then_some(3),
            local_world_size: known.then_some(ranks),
            nodes: (1, 1),
            rdzv_id: None,
            uid: 1000,
        };
        story.fact(Fact::JobStarted { job });
        let proc = story.proc();
        story.wait(0.4).fact(Fact::AgentStarted { proc });
        story
    }

    fn proc(&mut self) -> ProcId {
        self.pid += 1;
        ProcId { pid: self.pid, start: self.at.0 / 10 }
    }

    pub(crate) fn wait(&mut self, seconds: f64) -> &mut Story {
        self.at = self.at + Duration::from_secs_f64(seconds);
        self
    }

    pub(crate) fn now(&self) -> Stamp {
        self.at
    }

    pub(crate) fn fact(&mut self, fact: Fact) -> &mut Story {
        let seq = if fact.is_lasting() {
            self.seq += 1;
            self.seq
        } else {
            0
        };
        let event = Event { seq, at: self.at, fact };
        self.state.apply(&event);
        self.events.push(event);
        self
    }

    pub(crate) fn group(&mut self) -> &mut Story {
        let world_size = Some(self.ranks);
        self.wait(0.8).fact(Fact::GroupStarted { attempt: 0, world_size })
    }

    /// Starts a process for every rank. `numbered` says whether their environment tells global ranks.
    pub(crate) fn ranks(&mut self, numbered: bool) -> &mut Story {
        let attempt = self.state.attempt();
        for local_rank in 0..self.ranks {
            let place = Place {
                rank: numbered.then_some(local_rank),
                local_rank: Some(local_rank),
                group_rank: numbered.then_some(0),
                world_size: numbered.then_some(self.ranks),
                local_world_size: Some(self.ranks),
                restart_count: Some(self.state.restarts),
                max_restarts: Some(3),
                run_id: Some("none_4f2a".into()),
            };
            let proc = self.proc();
            self.fact(Fact::RankStarted { proc, agent_pid: 48_211, local_rank, attempt, place });
        }
        self.wait(0.1).fact(Fact::JobState { state: JobState::Running, deadline: None })
    }

    /// All live ranks work and log; two samples, so that there is a CPU share.
    pub(crate) fn work(&mut self, first_step: u64, seconds: f64) -> &mut Story {
        for local_rank in 0..self.ranks {
            self.rank_state(local_rank, RankState::Running, None);
        }
        for (step, cpu) in [(first_step, 10.0), (first_step + (seconds / 1.42) as u64, 10.0 + seconds)] {
            let rank = |local: u32| self.state.rank(local).is_some_and(|rank| rank.state.is_alive());
            let samples = (0..self.ranks).filter(|local| rank(*local)).map(|local| RankSample {
                local_rank: local,
                cpu_ns: Some((cpu * 1e9 * (0.96 + f64::from(local) * 0.004)) as u64),
                rss_bytes: Some((4 << 30) + (u64::from(local) << 27)),
                threads: Some(61 + local),
                step: Some(step),
                step_at: Some(self.at),
                beat_at: Some(self.at),
                groups: Vec::new(),
                standing: None,
                last_line: Some(format!("step {step} loss {:.4} lr 3.0e-04", 2.31 - step as f64 / 40_000.0)),
                lines: step,
            });
            let ranks = samples.collect();
            self.fact(Fact::Sample { ranks });
            if step == first_step {
                self.wait(seconds);
            }
        }
        self.wait(0.5)
    }

    /// The ranks have a GPU each, looked at once a second.
    pub(crate) fn on_gpus(&mut self, seconds: u32) -> &mut Story {
        let ranks = self.state.ranks.iter().map(|rank| RankGpus {
            local_rank: rank.local_rank,
            pid: rank.proc.pid,
            gpus: vec![rank.local_rank],
            source: JoinSource::NvmlPids,
        });
        let ranks: Vec<_> = ranks.collect();
        let pids: Vec<_> = ranks.iter().map(|rank| rank.pid).collect();
        self.fact(Fact::GpuRanks { ranks, foreign_pids: false });
        for second in 0..seconds {
            let gpus = pids.iter().zip(0..).map(|(pid, index)| gpu_sample(index, *pid, second)).collect();
            self.wait(1.0).fact(Fact::GpuSample { gpus });
        }
        self
    }

    pub(crate) fn rank_state(
        &mut self,
        local_rank: u32,
        state: RankState,
        detail: Option<&str>,
    ) -> &mut Story {
        self.fact(Fact::RankState { local_rank, state, detail: detail.map(str::to_owned) })
    }

    pub(crate) fn exit(&mut self, local_rank: u32, exit: Option<Exit>) -> &mut Story {
        let Some(rank) = self.state.rank(local_rank) else { return self };
        let (proc, rank) = (rank.proc, rank.place.rank);
        self.fact(Fact::RankExited { local_rank, proc, rank, exit })
    }

    pub(crate) fn alert(
        &mut self,
        kind: AlertKind,
        local_rank: Option<u32>,
        text: &str,
        evidence: &[&str],
        acts_in: Option<u64>,
    ) -> &mut Story {
        let alert = Alert {
            kind,
            local_rank,
            since: self.at,
            text: text.into(),
            evidence: evidence.iter().map(|fact| (*fact).to_owned()).collect(),
            acts_at: acts_in.map(|seconds| self.at + Duration::from_secs(seconds)),
        };
        self.fact(Fact::AlertRaised { alert })
    }

    /// A rank fails; the group is started anew.
    pub(crate) fn crash(&mut self, local_rank: u32, cause: Cause) -> &mut Story {
        self.exit(local_rank, Some(Exit::Code(1)));
        let attempt = self.state.attempt();
        self.wait(0.2).fact(Fact::CauseFound { attempt, cause: cause.clone() });
        self.fact(Fact::JobState { state: JobState::Restarting, deadline: None });
        for other in 0..self.ranks {
            if other != local_rank {
                self.wait(0.05).exit(other, Some(Exit::Signal(15)));
            }
        }
        self
    }

    pub(crate) fn restart(&mut self, reason: Reason, cause: Option<Cause>) -> &mut Story {
        let attempt = self.state.attempt() + 1;
        let restarts = self.state.restarts + u32::from(reason == Reason::Failure);
        let world_size = Some(self.ranks);
        self.wait(1.2).fact(Fact::Restart { attempt, restarts, reason, cause, world_size })
    }
}

fn gpu_sample(index: u32, pid: i32, second: u32) -> GpuSample {
    let (idle, hot) = (index == 6, index == 3 && second % 200 > 100);
    let wave = (second * (index + 3)) % 7;
    GpuSample {
        index,
        util_pct: Some(if idle { 0 } else { 93 + wave }),
        mem_used_bytes: Some((60_000 + u64::from(second.min(600)) * 20) << 20),
        mem_total_bytes: Some(143_771 << 20),
        temp_c: Some(if hot { 88 } else { 58 + index + wave / 3 }),
        power_mw: Some(if idle { 120_000 } else { 630_000 + wave * 5000 }),
        power_limit_mw: Some(700_000),
        sm_clock_mhz: Some(if hot { 1_110 } else { 1_980 }),
        mem_clock_mhz: Some(3_201),
        throttle: Some(if hot { 0x40 } else { 0x4 }),
        ecc_corrected: Some(0),
        ecc_uncorrected: Some(u64::from(index == 5)),
        remapped: Some(Remapped { correctable: 1, ..Remapped::default() }),
        recovery: Some(0),
        traffic: (index == 3).then(|| Traffic {
            pcie_tx_bytes: Some(u64::from(second) << 30),
            pcie_rx_bytes: Some(u64::from(second) << 28),
            ..Traffic::default()
        }),
        procs: Some(vec![GpuProc { pid, used_bytes: Some(59_000 << 20), gpu_instance_id: None }]),
        ..GpuSample::default()
    }
}

pub(crate) fn out_of_memory() -> Cause {
    Cause {
        rank: Some(2),
        kind: CauseKind::OomGpu,
        text: "r2 ran out of CUDA memory: tried to allocate 2.00 GiB with 1.31 GiB free".into(),
        evidence: vec![
            "torch.OutOfMemoryError in error.json, 0.2 s before any other rank failed".into(),
            "exit code 1; the others were ended by the agent with SIGTERM".into(),
        ],
        hint: Some("smaller batch, or PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True".into()),
    }
}

/// All ranks work.
pub(crate) fn healthy(ranks: u32) -> Story {
    let mut story = Story::new(ranks, Launcher::Torchrun);
    story.group().ranks(true).work(100, 1400.0);
    story
}

/// Eight ranks on eight GPUs, restarted once; one GPU is hot, one rank idles, a former job left a process behind.
pub(crate) fn on_gpus() -> Story {
    let mut story = Story::new(8, Launcher::Torchrun);
    story.group().ranks(true);
    let info = |index| GpuInfo {
        index,
        name: Some("NVIDIA H200".into()),
        uuid: Some(format!("GPU-{index}")),
        ..GpuInfo::default()
    };
    let (driver, gpus) = (Some("580.95.05".into()), (0..8).map(info).collect());
    story.fact(Fact::Gpus { source: GpuSource::Nvml, driver, trouble: None, gpus });
    story.on_gpus(700).work(100, 3.0).crash(2, out_of_memory());
    story.restart(Reason::Failure, Some(out_of_memory())).ranks(true).on_gpus(500).work(3600, 2.0);
    let leftovers = vec![
        Leftover {
            proc: ProcId { pid: 31_337, start: 7 },
            uid: Some(1000),
            command: "python train.py --lr 1e-4".into(),
            reason: LeftoverKind::DeadJob,
            gpus: vec![5],
            used_bytes: Some(12 << 30),
        },
        Leftover {
            proc: ProcId { pid: 4_711, start: 3 },
            uid: Some(1001),
            command: "python -m ipykernel_launcher".into(),
            reason: LeftoverKind::Other,
            gpus: vec![0, 1],
            used_bytes: Some(600 << 20),
        },
    ];
    story.fact(Fact::GpuLeftovers { leftovers });
    story
}

/// The machine has no GPU.
pub(crate) fn without_gpus() -> Story {
    let mut story = healthy(4);
    let trouble = Some("no NVIDIA driver was found: there is no nvidia-smi".into());
    story.fact(Fact::Gpus { source: GpuSource::None, driver: None, trouble, gpus: Vec::new() });
    story
}

/// A failure, a membership change and a manual restart lie behind it.
pub(crate) fn veteran() -> Story {
    let mut story = Story::new(8, Launcher::Torchrun);
    story.group().ranks(true).work(100, 3720.0).crash(2, out_of_memory());
    story.restart(Reason::Failure, Some(out_of_memory())).ranks(true).work(2400, 1800.0);
    let attempt = story.state.attempt() + 1;
    story
        .fact(Fact::MembershipChanged { attempt, from: Some(8), world_size: Some(8) })
        .ranks(true)
        .work(3600, 700.0);
    story.fact(Fact::Command {
        command: Command::Restart { attempt: None },
        by: "ada on pts/3".into(),
        outcome: Outcome::Done("the group was restarted".into()),
    });
    story.restart(Reason::Manual, None).ranks(true).work(4100, 5400.0);
    story
}

/// Between two attempts: some ranks are gone, one does not end.
pub(crate) fn restarting() -> Story {
    let mut story = healthy(4);
    story.crash(2, out_of_memory());
    let deadline = Some(story.now() + Duration::from_secs(27));
    story.fact(Fact::JobState { state: JobState::Restarting, deadline }).wait(0.7);
    story
}

/// Failed for good, with cause and hint.
pub(crate) fn failed() -> Story {
    let mut story = healthy(4);
    for _ in 0..3 {
        story
            .crash(2, out_of_memory())
            .restart(Reason::Failure, Some(out_of_memory()))
            .ranks(true)
            .work(900, 240.0);
    }
    story.crash(2, out_of_memory()).wait(0.4);
    story.fact(Fact::AgentExited { exit: Some(Exit::Code(1)) });
    story.fact(Fact::JobEnded { state: JobState::Failed, exit_code: Some(1), cause: Some(out_of_memory()) });
    story
}

/// The agent was killed; its ranks live on.
pub(crate) fn orphaned() -> Story {
    let mut story = healthy(4);
    story.fact(Fact::AgentExited { exit: Some(Exit::Signal(9)) });
    story.fact(Fact::JobState { state: JobState::Orphaned, deadline: None });
    for local_rank in 0..4 {
        story.rank_state(local_rank, RankState::Orphan, None);
    }
    story.alert(
        AlertKind::Orphan,
        None,
        "4 ranks live on after their agent died: nobody restarts or ends them",
        &["agent pid 48211 ended by SIGKILL", "4 ranks still run, now children of elastictop"],
        None,
    );
    story.wait(42.0);
    story
}

/// All ranks are zombies; the watchdog counts down.
pub(crate) fn zombies() -> Story {
    let mut story = healthy(4);
    for local_rank in 0..4 {
        story.rank_state(local_rank, RankState::Zombie, None);
    }
    story.fact(Fact::JobState { state: JobState::ZombieDeadlock, deadline: None });
    story.alert(
        AlertKind::ZombieDeadlock,
        None,
        "all 4 ranks are dead and the agent does not notice",
        &["4 of 4 rank children in state Z on 3 samples", "agent asleep in futex_wait, no CPU time since"],
        Some(15),
    );
    story.wait(6.0);
    story
}

/// One stopped, one blocked, one that lags and three that wait for it.
pub(crate) fn troubled() -> Story {
    let mut story = healthy(8);
    story.wait(8.0);
    story.rank_state(1, RankState::Stopped, None);
    story.rank_state(3, RankState::Lagging, Some("others wait in ALLREDUCE of default_pg"));
    for local_rank in [0, 2, 4] {
        story.rank_state(local_rank, RankState::Waiting, Some("ALLREDUCE of default_pg"));
    }
    story.rank_state(5, RankState::Blocked, None);
    story.exit(6, None).rank_state(7, RankState::GilStuck, None);
    story.alert(
        AlertKind::Stopped,
        Some(1),
        "r1 is stopped by a signal: the whole job waits for it",
        &["state T on 2 samples", "no heartbeat since"],
        None,
    );
    story.alert(
        AlertKind::BlockedIo,
        Some(5),
        "r5 hangs in uninterruptible sleep: a file system does not answer",
        &["state D on 4 samples", "wchan nfs_wait_bit_killable"],
        None,
    );
    story.wait(134.0);
    story
}

/// Somebody else's job in function mode: no global ranks, steps or heartbeats.
pub(crate) fn foreign() -> Story {
    let mut story = Story::new(4, Launcher::Foreign);
    story.wait(0.2).fact(Fact::GroupStarted { attempt: 0, world_size: None });
    story.ranks(false);
    for (cpu, seconds) in [(10.0, 2.0), (12.0, 0.3)] {
        let sample = |local_rank| RankSample {
            local_rank,
            cpu_ns: Some((cpu * 1e9) as u64),
            rss_bytes: Some(812 << 20),
            threads: Some(24),
            ..RankSample::default()
        };
        let ranks = (0..4).map(sample).collect();
        story.fact(Fact::Sample { ranks }).wait(seconds);
    }
    for local_rank in 0..4 {
        story.rank_state(local_rank, RankState::Running, None);
    }
    story
}

/// Text that terminals and layouts trip over.
pub(crate) fn odd_text() -> Story {
    let mut story = healthy(4);
    let lines = [
        format!("\x1b[31mred\x1b[0m\ttab\u{7}bell {}", "very long ".repeat(60)),
        "損失 2.31 エポック 漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字".into(),
        "e\u{301}e\u{301}e\u{301} combining, \u{202e}reversed\u{202c}, 👩\u{200d}🚀 and ❤\u{fe0f}".into(),
        String::new(),
    ];
    let sample = |(local_rank, line): (usize, String)| RankSample {
        local_rank: local_rank as u32,
        last_line: Some(line),
        step: Some(18_446_744_073_709),
        rss_bytes: Some(u64::MAX),
        lines: u64::MAX / 8,
        ..RankSample::default()
    };
    let ranks = lines.into_iter().enumerate().map(sample).collect();
    story.fact(Fact::Sample { ranks });
    story.alert(AlertKind::Unknown, Some(1), "漢字\x1b]0;title\x07 \u{202e}alert", &["\t\r\n"], None);
    story.fact(Fact::Note { text: "a note\nwith two lines and \x1b[2J an attack".into() });
    story
}

/// Lines as four ranks and the agent write them, with an error in the first attempt.
pub(crate) fn log_lines(count: u64) -> Vec<LogLine> {
    let line = |n: u64| {
        let local_rank = (n % 5 < 4).then_some((n % 5) as u32);
        let attempt = u32::from(n * 2 >= count);
        let (stream, text) = match (local_rank, n) {
            (None, _) => (Stream::Agent, format!("[I112 elastic] worker group healthy, {n} monitored")),
            (Some(2), n) if attempt == 0 && n % 50 == 7 => (
                Stream::Err,
                "[rank2]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB".into(),
            ),
            (Some(1), n) if n % 40 == 6 => (Stream::Err, "UserWarning: the dataloader is slow".into()),
            (Some(0), n) if n % 30 == 5 => (Stream::Out, format!("wide 漢字 and {}", "long ".repeat(60))),
            _ => (
                Stream::Out,
                format!("step {n} loss {:.4} lr 3.0e-04 grad_norm 0.81", 2.31 - n as f64 / 9000.0),
            ),
        };
        LogLine {
            n,
            at: BEGIN + Duration::from_millis(n * 20),
            rank: local_rank,
            local_rank,
            attempt,
            stream,
            text,
        }
    };
    (0..count).map(line).collect()
}

pub(crate) fn options() -> Options {
    Options {
        offset_s: 0,
        theme: Theme::load("default-dark").unwrap(),
        ascii: false,
        color: ColorDepth::True,
        viewer: "ada on pts/3".into(),
        mouse: false,
        themes: crate::tui::Themes::default(),
        keys: crate::tui::KeyOverrides::default(),
        from_list: false,
        links: false,
        budget: None,
        layout: crate::tui::Layout::default(),
        layout_file: None,
    }
}

/// A screen that shows this story over a link that works.
pub(crate) fn app(story: &Story, size: (u16, u16), read_only: Option<&str>) -> App {
    let now = story.now();
    let mut app = App::new(&options(), size, now, 0);
    app.update(Msg::Tick(now));
    app.update(Msg::Linked);
    let read_only = read_only.map(str::to_owned);
    let welcome = ToViewer::Welcome { protocol: PROTOCOL, version: "0.1.0".into(), now, read_only };
    app.update(Msg::Heard(Box::new(welcome)));
    app.update(Msg::Heard(Box::new(ToViewer::Snapshot { state: Box::new(story.state.clone()), lost: 0 })));
    app
}
