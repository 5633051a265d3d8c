//! Whatever comes in, in whatever order: some things always hold.

use std::collections::HashSet;

use proptest::prelude::*;

use super::{script::*, *};
use crate::{
    domain::{
        agent_line,
        sample::{Place, Sighting},
    },
    supervisor::hub::ViewerId,
};

#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Spawned(bool),
    Seen { slot: u32, restart: u32, world: u32, placed: bool },
    Died(u32, Option<i32>),
    Look(Vec<char>, char),
    Gone(u32),
    AgentGone(Option<i32>),
    AgentLine(u8, u32),
    Mark(u32, bool),
    Wrote(u32, u64),
    Beat(u32),
    Asked(u8, Option<u32>),
    Storage(bool, u64),
    Drained,
    Adopt,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let exit = || prop::option::of(prop::sample::select(vec![0, 1, -9, -15, 137]));
    let nth = || 0..8_u32;
    let step = prop_oneof![
        4 => (0..4000_u64).prop_map(Step::Wait),
        2 => prop::bool::weighted(0.9).prop_map(Step::Spawned),
        6 => (0..3_u32, 0..3_u32, 2..4_u32, prop::bool::weighted(0.8)).prop_map(
            |(slot, restart, world, placed)| Step::Seen { slot, restart, world, placed }
        ),
        4 => (nth(), exit()).prop_map(|(n, exit)| Step::Died(n, exit)),
        3 => (
            prop::collection::vec(prop::sample::select(vec!['R', 'Z', 'T', 'D']), 1..4),
            prop::sample::select(vec!['R', 'T', 'Z', '-'])
        )
            .prop_map(|(ranks, agent)| Step::Look(ranks, agent)),
        2 => nth().prop_map(Step::Gone),
        2 => exit().prop_map(Step::AgentGone),
        3 => (0..6_u8, nth()).prop_map(|(kind, n)| Step::AgentLine(kind, n)),
        1 => (nth(), any::<bool>()).prop_map(|(n, secondary)| Step::Mark(n, secondary)),
        1 => (nth(), 0..100_u64).prop_map(|(n, step)| Step::Wrote(n, step)),
        2 => nth().prop_map(Step::Beat),
        2 => (0..7_u8, prop::option::of(0..3_u32)).prop_map(|(kind, rank)| Step::Asked(kind, rank)),
        1 => (any::<bool>(), 0..5_u64).prop_map(|(bad, lost)| Step::Storage(bad, lost)),
        1 => Just(Step::Drained),
        1 => Just(Step::Adopt),
    ];
    prop::collection::vec(step, 1..80)
}

struct Run {
    core: Core,
    now: Stamp,
    folded: State,
    seq: u64,
    pids: Vec<Sighting>,
    agent: i32,
    spawning: bool,
    asked: HashSet<u64>,
    requests: u64,
    over: bool,
    adopted: bool,
}

impl Run {
    fn new(end_orphans: bool) -> Run {
        let mut out = Out::default();
        let rules = Rules {
            monitor_interval_ms: 100,
            stop_grace_ms: 2000,
            end_orphans,
            expects_beats: true,
            ..Rules::default()
        };
        let core = Core::new(T0, job_info(Launcher::Torchrun, 2, 2), rules, None, &mut out);
        let mut run = Run {
            core,
            now: T0,
            folded: State::default(),
            seq: 0,
            pids: Vec::new(),
            agent: 100,
            spawning: false,
            asked: HashSet::new(),
            requests: 0,
            over: false,
            adopted: false,
        };
        run.check(out);
        run
    }

    fn give(&mut self, input: Input) {
        if matches!(input, Input::Spawned(_)) {
            self.spawning = false;
        }
        let mut out = Out::default();
        self.core.handle(self.now, input, &mut out);
        self.check(out);
    }

    fn check(&mut self, out: Out) {
        assert!(!self.over || out.events.is_empty(), "an event after the end: {:?}", out.events);
        for event in &out.events {
            if event.fact.is_lasting() {
                self.seq += 1;
                assert_eq!(event.seq, self.seq, "{event:?}");
            }
            self.folded.apply(event);
            self.over |= matches!(event.fact, Fact::JobEnded { .. });
        }
        assert_eq!(&self.folded, self.core.state());
        for effect in out.effects {
            match effect {
                Effect::SpawnAgent => {
                    assert!(!std::mem::replace(&mut self.spawning, true), "two agents at once");
                }
                Effect::Reply { to: (_, id), .. } => assert!(self.asked.remove(&id), "answered twice: {id}"),
                Effect::SignalRanks { ranks, asker, command, .. } => {
                    let sent = ranks.iter().map(|(local, _)| *local).collect();
                    self.give(Input::Signalled { asker, command, sent, error: None });
                }
                Effect::Dump { .. } => self.give(Input::Dumped("dumped".into())),
                Effect::TakeStacks { asker, command, .. } => {
                    self.give(Input::StacksTaken { asker, command, summary: "stacks".into() });
                }
                _ => {}
            }
        }
        if self.over {
            assert!(self.asked.is_empty(), "never answered: {:?}", self.asked);
            assert_eq!(self.core.deadline(), None);
        }
    }

    fn sighting(&self, n: u32) -> Option<Sighting> {
        self.pids.get(self.pids.len().checked_sub(1 + n as usize)?).cloned()
    }

    fn step(&mut self, step: Step) {
        let known = |run: &Run, n: u32| run.sighting(n).map_or(7, |sighting| sighting.proc.pid);
        let exit = |code: Option<i32>| code.map(Exit::from_python);
        let input = match step {
            Step::Wait(ms) => {
                self.now = self.now + Duration::from_millis(ms);
                self.give(Input::Tick);
                let due = self.core.deadline();
                assert!(due.is_none_or(|due| due > self.now), "stuck in the past after a tick");
                return;
            }
            Step::Spawned(well) => {
                self.agent += 1;
                Input::Spawned(if well { Ok(proc(self.agent)) } else { Err("no".into()) })
            }
            Step::Seen { slot, restart, world, placed } => {
                let place = Place {
                    rank: Some(slot),
                    local_rank: Some(slot),
                    world_size: Some(world),
                    restart_count: Some(restart),
                    ..Place::default()
                };
                let place = if placed { place } else { Place::default() };
                let pid = 1000 + self.pids.len() as i32;
                let sighting = Sighting { proc: proc(pid), agent_pid: self.agent, place };
                self.pids.push(sighting.clone());
                Input::Seen(sighting)
            }
            Step::Died(n, code) => Input::Died { proc: proc(known(self, n)), exit: exit(code) },
            Step::Gone(n) => {
                let look = TreeLook { gone: vec![proc(known(self, n))], ..TreeLook::default() };
                Input::Looked { look, sample: true }
            }
            Step::Look(letters, agent) => {
                let ranks = letters.iter().enumerate().filter_map(|(n, letter)| {
                    let sighting = self.sighting(n as u32)?;
                    let look = look(Kernel::from_letter(*letter));
                    Some(crate::probe::finder::RankLook { sighting: sighting.into(), look, fresh: false })
                });
                let agent = (agent != '-').then(|| look(Kernel::from_letter(agent)));
                let look = TreeLook { ranks: ranks.collect(), agent, ..TreeLook::default() };
                Input::Looked { look, sample: true }
            }
            Step::AgentGone(code) => Input::AgentGone { proc: proc(self.agent), exit: exit(code) },
            Step::AgentLine(kind, n) => {
                let pid = known(self, n);
                let text = match kind {
                    0 => format!("Sending process {pid} closing signal SIGTERM"),
                    1 => format!("failed (exitcode: 1) local_rank: 0 (pid: {pid}) of binary: python"),
                    2 => "Received 15 death signal, shutting down workers".into(),
                    3 => "Detected 1 new nodes from group_rank=0; will restart worker group".into(),
                    4 => format!("Unable to shutdown process {pid} via SIGTERM"),
                    _ => "Worker group FAILED. 1/2 attempts left; will restart worker group".into(),
                };
                let line = format!("W1120 09:31:09.123000 100 torch/x.py:1] {text}");
                Input::AgentLine(agent_line::parse(&line).expect("a line of the agent"))
            }
            Step::Mark(n, secondary) => {
                let line = if secondary {
                    "RuntimeError: Connection closed by peer [127.0.0.1]:1"
                } else {
                    "ValueError: bad"
                };
                let proof = crate::domain::evidence::Tracebacks::default().line((), line).expect("a mark");
                Input::Mark { pid: Some(known(self, n)), proof, line: line.into() }
            }
            Step::Wrote(n, step) => {
                Input::Wrote { pid: known(self, n), lines: 1, last_line: None, step: Some((step, self.now)) }
            }
            Step::Beat(n) => {
                Input::Beat(Beat { pid: known(self, n), rank: Some(n), step: Some(1), ..Beat::default() })
            }
            Step::Asked(kind, rank) => {
                let command = match kind {
                    0 => Command::Stop { now: false },
                    1 => Command::Stop { now: true },
                    2 => Command::Restart { attempt: None },
                    3 => Command::KeepZombies,
                    4 => Command::Signal { rank, signal: 15 },
                    5 => Command::Stacks { rank, by: None },
                    _ => Command::Unknown,
                };
                self.requests += 1;
                self.asked.insert(self.requests);
                let reply = Some((ViewerId(1), self.requests));
                Input::Asked(Asker { reply, by: "ada".into() }, command)
            }
            Step::Storage(bad, lost) => Input::Storage { error: bad.then(|| "disk full".into()), lost },
            Step::Drained => Input::Drained,
            Step::Adopt => {
                if self.over || self.spawning {
                    return;
                }
                // The viewers of a supervisor that died know that they got no answer.
                self.asked.clear();
                self.adopted = true;
                let mut out = Out::default();
                let told = Fact::Adopted { supervisor_pid: 1, last_seen: None, text: String::new() };
                self.core = Core::adopt(self.now, self.folded.clone(), self.core.rules, told, &mut out);
                return self.check(out);
            }
        };
        self.give(input);
    }

    /// Ends everything as the kernel would. However the story went: the job is over then.
    fn end(&mut self) {
        for _ in 0..4 {
            if self.spawning {
                self.agent += 1;
                self.give(Input::Spawned(Ok(proc(self.agent))));
            }
            for n in 0..self.pids.len() {
                let proc = self.pids[n].proc;
                self.give(Input::Died { proc, exit: Some(Exit::Signal(15)) });
            }
            let agent = self.folded.agent.as_ref().map_or(self.agent, |agent| agent.proc.pid);
            self.give(Input::AgentGone { proc: proc(agent), exit: Some(Exit::Code(1)) });
            self.give(Input::Drained);
        }
        assert!(self.over, "the job is {:?} for ever: {:?}", self.folded.state, self.core);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_story_is_told_in_order_and_comes_to_an_end(steps in steps(), end_orphans in any::<bool>()) {
        let mut run = Run::new(end_orphans);
        for step in steps {
            run.step(step);
        }
        run.end();
    }
}
