//! What the core makes of looks at GPUs.

use std::sync::Arc;

use super::script::{T0, job_info, proc};
use super::*;
use crate::{
    domain::{
        gpu::{
            GpuInfo, GpuProc, GpuSample, GpuSource, Holder, Reading, Status, XidSeen,
            join::{JoinSource, RankFacts},
        },
        sample::Place,
        tree::EnvFacts,
    },
    supervisor::hub::ViewerId,
};

/// A job with one rank, pid 200, and a driver that knows one GPU.
struct Node {
    core: Core,
    round: u64,
}

impl Node {
    fn new(launcher: Launcher) -> Node {
        let mut out = Out::default();
        let mut core = Core::new(T0, job_info(launcher, 3, 1), Rules::default(), None, &mut out);
        core.handle(T0, Input::Spawned(Ok(proc(100))), &mut out);
        let place =
            Place { rank: Some(0), local_rank: Some(0), local_world_size: Some(1), ..Place::default() };
        let sighting = Sighting { proc: proc(200), agent_pid: 100, place };
        core.handle(T0, Input::Seen(sighting), &mut out);
        Node { core, round: 0 }
    }

    /// A look, so many seconds after the start, at processes on the GPU: pid and user.
    fn look(&mut self, second: u64, held: &[(i32, u32)], xids: &[u64]) -> Vec<Fact> {
        let reading = self.reading(held);
        self.hear(second, reading, xids)
    }

    /// The driver's next answer.
    fn reading(&mut self, held: &[(i32, u32)]) -> Reading {
        self.round += 1;
        let procs = held.iter().map(|(pid, _)| GpuProc {
            pid: *pid,
            used_bytes: Some(1 << 30),
            gpu_instance_id: None,
        });
        let place = Place { run_id: Some("r".into()), ..Place::default() };
        let env = EnvFacts { place, has_local_rank: true, ..EnvFacts::default() };
        let holder = |(pid, uid): &(i32, u32)| Holder {
            pid: *pid,
            proc: Some(proc(*pid)),
            uid: Some(*uid),
            env: Some(env.clone()),
            ..Holder::default()
        };
        Reading {
            status: Status::Answers,
            source: GpuSource::Nvml,
            gpus: vec![GpuInfo::default()],
            samples: vec![GpuSample { procs: Some(procs.collect()), ..GpuSample::default() }],
            holders: Some(held.iter().map(holder).collect()),
            round: self.round,
            ..Reading::default()
        }
    }

    fn hear(&mut self, second: u64, reading: Reading, xids: &[u64]) -> Vec<Fact> {
        let look = GpuLook {
            reading: Arc::new(reading),
            ranks: [RankFacts { local_rank: 0, pid: 200, ..RankFacts::default() }].into(),
            xids: xids.iter().map(|xid| XidSeen { gpu: Some(0), xid: *xid }).collect(),
            sample: true,
        };
        let mut out = Out::default();
        self.core.handle(T0 + Duration::from_secs(second), Input::Gpus(look), &mut out);
        out.events.into_iter().map(|event| event.fact).collect()
    }

    fn ask(&mut self, pid: i32) -> Vec<Effect> {
        let asker = Asker { reply: Some((ViewerId(1), 7)), by: "ada".into() };
        let mut out = Out::default();
        let command = Command::EndLeftover { proc: proc(pid) };
        self.core.handle(T0, Input::Asked(asker, command), &mut out);
        for effect in out.effects.clone() {
            if let Effect::SignalLeftover { proc, signal, asker } = effect {
                let told = Input::LeftoverSignalled { asker, proc, signal, error: None };
                self.core.handle(T0, told, &mut out);
            }
        }
        out.effects
    }
}

fn refusal(effects: &[Effect]) -> Option<&str> {
    effects.iter().find_map(|effect| match effect {
        Effect::Reply { outcome: Outcome::Refused(text), .. } => Some(text.as_str()),
        _ => None,
    })
}

fn kinds(facts: Vec<Fact>) -> Vec<String> {
    let kind = |fact| serde_json::to_value(fact).unwrap()["kind"].as_str().unwrap().to_owned();
    facts.iter().map(kind).collect()
}

#[test]
fn figures_come_before_names_and_end_no_leftover() {
    let mut node = Node::new(Launcher::Local);
    let named = node.reading(&[(200, 0), (300, 0)]);
    let unnamed = |round| Reading { holders: None, round, ..named.clone() };
    let told =
        [unnamed(1), named.clone(), unnamed(1), unnamed(2)].map(|reading| kinds(node.hear(1, reading, &[])));
    let first = ["gpus", "gpu_progress", "gpu_ranks"].map(str::to_owned).to_vec();
    let second = ["gpu_sample", "gpu_leftovers"].map(str::to_owned).to_vec();
    assert_eq!(told, [first, second, Vec::new(), vec!["gpu_sample".to_owned()]]);
}

#[test]
fn what_does_not_change_is_told_once() {
    let mut node = Node::new(Launcher::Local);
    assert_eq!(kinds(node.look(1, &[(200, 0)], &[])), ["gpus", "gpu_progress", "gpu_ranks"]);
    assert_eq!(kinds(node.look(2, &[(200, 0)], &[])), ["gpu_sample"]);
    // The rank keeps its GPU while the driver does not list it.
    assert_eq!(kinds(node.look(3, &[], &[])), ["gpu_sample"]);
    assert_eq!(node.core.state().gpus.as_ref().unwrap().ranks[0].source, JoinSource::NvmlPids);
    assert_eq!(kinds(node.look(61, &[], &[])), ["gpu_progress"]);
    // An answer that was seen already shows nothing new.
    node.round -= 1;
    assert_eq!(kinds(node.look(62, &[], &[])), Vec::<String>::new());
}

#[test]
fn only_ones_own_leftovers_can_be_ended_and_the_second_time_by_force() {
    let mut node = Node::new(Launcher::Local);
    let owner = node.core.state().job.as_ref().unwrap().uid;
    node.look(1, &[(200, owner), (300, owner), (301, owner + 1)], &[]);
    let listed: Vec<_> =
        node.core.state().gpus.as_ref().unwrap().leftovers.iter().map(|left| left.proc.pid).collect();
    assert_eq!(listed, [300, 301], "a rank is no leftover");
    assert!(refusal(&node.ask(200)).unwrap().contains("belongs to a rank"));
    assert!(refusal(&node.ask(301)).unwrap().contains("another user's"));
    let signals = |effects: Vec<Effect>| -> Vec<i32> {
        let signal = |effect: &Effect| match effect {
            Effect::SignalLeftover { signal, .. } => Some(*signal),
            _ => None,
        };
        effects.iter().filter_map(signal).collect()
    };
    assert_eq!(signals(node.ask(300)), [15]);
    assert_eq!(signals(node.ask(300)), [9]);
    node.look(2, &[(200, owner)], &[]);
    assert!(refusal(&node.ask(300)).unwrap().contains("any more"));
}

#[test]
fn an_xid_finds_its_rank_and_a_harmless_one_is_a_line() {
    let mut node = Node::new(Launcher::Local);
    node.look(1, &[(200, 0)], &[]);
    let facts = node.look(2, &[(200, 0)], &[45, 79]);
    let alerts: Vec<_> = facts
        .iter()
        .filter_map(|fact| match fact {
            Fact::AlertRaised { alert } => Some((alert.local_rank, alert.text.as_str())),
            _ => None,
        })
        .collect();
    assert_eq!(alerts, [(Some(0), "Xid 79 on GPU 0 of r0: the GPU has fallen off the bus")]);
    assert_eq!(facts.iter().filter(|fact| matches!(fact, Fact::GpuXid { .. })).count(), 2);
}

#[test]
fn a_driver_that_goes_away_leaves_what_was_known() {
    let mut node = Node::new(Launcher::Local);
    node.look(1, &[(200, 0)], &[]);
    let reading = Reading { status: Status::Absent("gone".into()), ..Reading::default() };
    let look = GpuLook { reading: Arc::new(reading), sample: true, ..GpuLook::default() };
    node.core.handle(T0 + Duration::from_secs(2), Input::Gpus(look), &mut Out::default());
    let gpus = node.core.state().gpus.as_ref().unwrap();
    assert_eq!((gpus.gpus.len(), gpus.trouble.as_deref()), (1, Some("gone")));
    assert_eq!(gpus.at, Some(T0 + Duration::from_secs(1)), "its age grows");
}
