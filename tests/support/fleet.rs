//! Jobs of many nodes, made by folding events as real ones are: for tests, benches and pictures. Deterministic.

// Each user takes what it needs.
#![allow(dead_code)]

use std::{collections::BTreeMap, time::Duration};

use elastictop::{
    domain::{
        cluster::{NodeLink, NodeStatus},
        event::{Event, Fact, JobInfo, Launcher},
        exit::Exit,
        gpu::{
            GpuInfo, GpuProc, GpuSample, GpuSource,
            join::{JoinSource, RankGpus},
        },
        id::{JobId, ProcId},
        rank::{JobState, RankState},
        sample::{Place, RankSample},
        state::State,
        time::Stamp,
    },
    tui::{App, ColorDepth, KeyOverrides, Layout, Msg, Options, Theme, Themes},
    wire::message::{PROTOCOL, ToViewer},
};

/// 2026-11-20T09:40:16Z.
pub const BEGIN: Stamp = Stamp(1_795_167_616_000);
/// Seconds between two samples.
const PERIOD_S: u64 = 1;
/// What happened before the first look, in seconds.
const AGE_S: u64 = 11_520;

/// A job on some nodes.
pub struct Fleet {
    pub nodes: u32,
    pub per_node: u32,
    pub states: Vec<State>,
    /// Looks taken so far.
    looks: u64,
    seq: u64,
    /// Number of the first of these nodes, and how many there are in all.
    first: u32,
    of: u32,
    healthy: bool,
    /// Steps behind of ranks that somebody slowed down.
    pub slow: BTreeMap<u32, u64>,
}

/// A number that depends on its inputs alone.
fn noise(a: u64, b: u64) -> u64 {
    let mut x = a.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ b.wrapping_mul(0xC2B2_AE3D_27D4_EB4F);
    x ^= x >> 29;
    x = x.wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x ^ (x >> 32)
}

/// A screen in the dark theme that nobody has changed anything of.
pub fn options() -> Options {
    Options {
        offset_s: 0,
        theme: Theme::load("default-dark").unwrap(),
        ascii: false,
        color: ColorDepth::True,
        viewer: "ada on pts/3".into(),
        mouse: false,
        themes: Themes::default(),
        keys: KeyOverrides::default(),
        from_list: false,
        links: false,
        budget: None,
        layout: Layout::default(),
        layout_file: None,
    }
}

impl Fleet {
    /// All ranks work; none stands out.
    pub fn healthy(nodes: u32, per_node: u32) -> Fleet {
        Fleet::new(nodes, per_node, true, (0, nodes))
    }

    /// Some ranks are dead, some lag, one node is behind.
    pub fn troubled(nodes: u32, per_node: u32) -> Fleet {
        Fleet::new(nodes, per_node, false, (0, nodes))
    }

    /// One node of a healthy job.
    pub fn node(number: u32, of: u32, per_node: u32) -> Fleet {
        Fleet::new(1, per_node, true, (number, of))
    }

    fn new(nodes: u32, per_node: u32, healthy: bool, (first, of): (u32, u32)) -> Fleet {
        let states = vec![State::default(); nodes as usize];
        let mut fleet =
            Fleet { nodes, per_node, states, looks: 0, seq: 0, first, of, healthy, slow: BTreeMap::new() };
        for node in 0..nodes {
            for (after_ms, fact) in fleet.start(node) {
                fleet.apply(node, BEGIN + Duration::from_millis(after_ms), fact);
            }
        }
        for _ in 0..2 {
            for (node, event) in fleet.second() {
                fleet.states[node as usize].apply(&event);
            }
        }
        if !healthy {
            fleet.trouble();
        }
        fleet
    }

    fn apply(&mut self, node: u32, at: Stamp, fact: Fact) {
        self.seq += 1;
        let event = Event { seq: self.seq, at, fact };
        self.states[node as usize].apply(&event);
    }

    fn world(&self) -> u32 {
        self.of * self.per_node
    }

    /// Now, by all clocks.
    pub fn now(&self) -> Stamp {
        BEGIN + Duration::from_secs(AGE_S + self.looks * PERIOD_S)
    }

    fn start(&self, node: u32) -> Vec<(u64, Fact)> {
        let job = JobInfo {
            id: JobId("llama-70b-x3k9".into()),
            name: "llama-70b".into(),
            launcher: Launcher::Torchrun,
            node: format!("gpu-n{:03}", self.first + node),
            command: vec!["torchrun".into(), "train.py".into()],
            cwd: "/home/ada/llama".into(),
            max_restarts: Some(3),
            local_world_size: Some(self.per_node),
            nodes: (1, self.of),
            rdzv_id: None,
            uid: 1000,
        };
        let world_size = Some(self.world());
        let proc = ProcId { pid: 48_210, start: 100 };
        let mut facts = vec![
            (0, Fact::JobStarted { job }),
            (400, Fact::AgentStarted { proc }),
            (1200, Fact::GroupStarted { attempt: 0, world_size }),
        ];
        for local_rank in 0..self.per_node {
            let place = Place {
                rank: Some((self.first + node) * self.per_node + local_rank),
                local_rank: Some(local_rank),
                group_rank: Some(self.first + node),
                world_size,
                local_world_size: Some(self.per_node),
                restart_count: Some(0),
                max_restarts: Some(3),
                run_id: Some("none_4f2a".into()),
            };
            let proc = ProcId { pid: 48_220 + local_rank as i32, start: 160 };
            facts.push((1300, Fact::RankStarted { proc, agent_pid: 48_210, local_rank, attempt: 0, place }));
        }
        facts.push((1400, Fact::JobState { state: JobState::Running, deadline: None }));
        for local_rank in 0..self.per_node {
            facts.push((9000, Fact::RankState { local_rank, state: RankState::Running, detail: None }));
        }
        facts
    }

    /// Steps that a rank is behind.
    fn lag(&self, rank: u32) -> u64 {
        let node = rank / self.per_node;
        if let Some(lag) = self.slow.get(&rank) {
            return *lag;
        }
        match (self.healthy, noise(u64::from(rank), 7) % 97) {
            (false, 3) => 4 + noise(u64::from(rank), 9) % 30,
            (false, _) if self.nodes > 4 && node == self.nodes * 2 / 3 => 12,
            _ => 0,
        }
    }

    /// One second of events: a sample from each node. They are not applied.
    pub fn second(&mut self) -> Vec<(u32, Event)> {
        self.looks += 1;
        let (now, looks) = (self.now(), self.looks);
        let step = 18_204 + looks;
        let events = (0..self.nodes).map(|node| {
            let sample = |local_rank: u32| {
                let rank = node * self.per_node + local_rank;
                let own = step - self.lag(rank);
                let jitter = noise(u64::from(rank), looks) % 60;
                RankSample {
                    local_rank,
                    cpu_ns: Some(1_000_000_000 * (looks + 10) * 97 / 100 + jitter * 1_000_000),
                    rss_bytes: Some((4 << 30) + ((noise(u64::from(rank), 1) % 600) << 20)),
                    threads: Some(61 + rank % 5),
                    step: Some(own),
                    step_at: Some(now),
                    beat_at: Some(now),
                    last_line: Some(format!(
                        "step {own} loss {:.4} lr 3.0e-04 grad_norm 0.81",
                        2.31 - own as f64 / 40_000.0
                    )),
                    lines: own,
                    ..RankSample::default()
                }
            };
            let alive = |local: &u32| {
                self.states[node as usize].rank(*local).is_none_or(|rank| rank.state.is_alive())
            };
            let ranks = (0..self.per_node).filter(alive).map(sample).collect();
            (node, Event { seq: 0, at: now, fact: Fact::Sample { ranks } })
        });
        events.collect()
    }

    fn trouble(&mut self) {
        let world = self.world();
        let at = self.now();
        let mut place = |rank: u32, since_s: u64, fact: &dyn Fn(u32) -> Fact| {
            let at = Stamp(at.0 - since_s * 1000);
            let (node, local) = (rank % world / self.per_node, rank % self.per_node);
            self.apply(node, at, fact(local));
        };
        let blocked = |local_rank| Fact::RankState {
            local_rank,
            state: RankState::Blocked,
            detail: Some("reading from NFS: nfs_wait_bit_killable".into()),
        };
        place(world / 3 + 1, 74, &blocked);
        place(world * 5 / 8 + 3, 12, &|local_rank| Fact::RankState {
            local_rank,
            state: RankState::Lagging,
            detail: None,
        });
        let dead = world / 4 + 2;
        place(dead, 41, &|local_rank| Fact::RankExited {
            local_rank,
            proc: ProcId { pid: 48_220 + local_rank as i32, start: 160 },
            rank: Some(dead % world),
            exit: Some(Exit::Signal(9)),
        });
    }

    /// A screen that shows this job over links that work.
    pub fn app(&self, options: &Options, size: (u16, u16)) -> App {
        let now = self.now();
        let mut app = App::new(options, size, now, 0);
        app.update(Msg::Tick(now));
        app.update(Msg::Linked);
        let welcome = ToViewer::Welcome { protocol: PROTOCOL, version: "0.1.0".into(), now, read_only: None };
        app.update(Msg::Heard(Box::new(welcome)));
        let status = |state: &State| NodeStatus {
            link: NodeLink::Live,
            ..NodeStatus::new(state.job.as_ref().map_or("?", |job| job.node.as_str()).to_owned())
        };
        let nodes = self.states.iter().map(status).collect();
        let mut messages = vec![ToViewer::Nodes { nodes }];
        for (node, state) in (0..).zip(&self.states) {
            let message = ToViewer::Snapshot { state: Box::new(state.clone()), lost: 0 };
            messages.push(ToViewer::From { node, message: Box::new(message) });
        }
        app.update(Msg::Heard(Box::new(ToViewer::Together { messages })));
        app.settle();
        app
    }

    /// A GPU for each rank, and which is whose. Not applied.
    pub fn gpus(&self) -> Vec<(u32, Event)> {
        let info = |index| GpuInfo {
            index,
            uuid: Some(format!("GPU-{index}6f1c2a4-0b1d-4b7e-9d55-0d3c8a7be11f")),
            name: Some("NVIDIA H100 80GB HBM3".into()),
            ..GpuInfo::default()
        };
        let gpus: Vec<GpuInfo> = (0..self.per_node).map(info).collect();
        let joined = |local_rank: u32| RankGpus {
            local_rank,
            pid: 48_220 + local_rank as i32,
            gpus: vec![local_rank],
            source: JoinSource::NvmlPids,
        };
        let ranks: Vec<RankGpus> = (0..self.per_node).map(joined).collect();
        let of_node = |node| {
            let (source, driver, trouble) = (GpuSource::Nvml, Some("570.86".to_owned()), None);
            [
                (node, Fact::Gpus { source, driver, trouble, gpus: gpus.clone() }),
                (node, Fact::GpuRanks { ranks: ranks.clone(), foreign_pids: false }),
            ]
        };
        let facts = (0..self.nodes).flat_map(of_node);
        facts.map(|(node, fact)| (node, Event { seq: 1, at: self.now(), fact })).collect()
    }

    /// A look at all GPUs so many seconds from now. Not applied.
    pub fn gpu_second(&self, second: u64) -> Vec<(u32, Event)> {
        let at = self.now() + Duration::from_secs(second);
        let look = |node: u32| {
            let sample = |index: u32| GpuSample {
                index,
                util_pct: Some(90 + (noise(u64::from(index), second) % 10) as u32),
                mem_used_bytes: Some(60 << 30),
                mem_total_bytes: Some(80 << 30),
                temp_c: Some(61),
                power_mw: Some(512_000),
                sm_clock_mhz: Some(1980),
                throttle: Some(0),
                procs: Some(vec![GpuProc { pid: 48_220 + index as i32, ..GpuProc::default() }]),
                ..GpuSample::default()
            };
            let gpus = (0..self.per_node).map(sample).collect();
            (node, Event { seq: 0, at, fact: Fact::GpuSample { gpus } })
        };
        (0..self.nodes).map(look).collect()
    }

    /// Events as the links of a viewer deliver them.
    pub fn messages(events: Vec<(u32, Event)>) -> Vec<Msg> {
        let message = |(node, event): (u32, Event)| {
            let message = Box::new(ToViewer::Events { events: vec![event] });
            Msg::Heard(Box::new(ToViewer::From { node, message }))
        };
        events.into_iter().map(message).collect()
    }
}
