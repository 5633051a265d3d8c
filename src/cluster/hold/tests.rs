//! Real links to nodes that are made up: each is the far end of a link in this process.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use super::*;
use crate::{
    cluster::Connect,
    domain::{
        cluster::NodeStatus,
        command::{Command, Outcome},
        event::{Event, Fact, JobInfo, Launcher},
        id::{JobId, ProcId},
        log::LogPage,
        rank::JobState,
        sample::Place,
        state::State,
        time::Stamp,
    },
    error::Error,
    supervisor::clock::wall,
    wire::{
        link::FarEnd,
        message::{PROTOCOL, ToSupervisor},
    },
};

const PATIENCE: Duration = Duration::from_secs(20);

/// Where the far ends of links arrive that a cluster makes.
type Ends = mpsc::UnboundedReceiver<FarEnd>;

fn host(name: &str) -> (Host, Ends, Arc<Mutex<Option<String>>>) {
    let (made, ends) = mpsc::unbounded_channel();
    let refusal: Arc<Mutex<Option<String>>> = Arc::default();
    let refuses = refusal.clone();
    let connect: Connect = Box::new(move || {
        let (made, refusal) = (made.clone(), refuses.lock().unwrap().clone());
        Box::pin(async move {
            if let Some(why) = refusal {
                return Err(Error::environment(why));
            }
            let (link, far) = Link::pair();
            made.send(far).map_err(|_| Error::environment("the test is over"))?;
            Ok(link)
        })
    });
    (Host { name: name.into(), connect }, ends, refusal)
}

fn state(node: u32) -> State {
    let mut state = State::default();
    let job = JobInfo {
        id: JobId(format!("train-{node}")),
        name: "train".into(),
        launcher: Launcher::Torchrun,
        node: format!("host{node}"),
        command: Vec::new(),
        cwd: "/".into(),
        max_restarts: Some(3),
        local_world_size: Some(1),
        nodes: (2, 2),
        rdzv_id: None,
        uid: 0,
    };
    let place = Place { rank: Some(node), world_size: Some(2), ..Place::default() };
    let proc = ProcId { pid: 7, start: 1 };
    for fact in [
        Fact::JobStarted { job },
        Fact::GroupStarted { attempt: 0, world_size: Some(2) },
        Fact::RankStarted { proc, agent_pid: 1, local_rank: 0, attempt: 0, place },
    ] {
        state.apply(&Event { seq: 1, at: Stamp(1_000), fact });
    }
    state
}

/// A supervisor: greets as one does.
async fn greeted(ends: &mut Ends, node: u32) -> FarEnd {
    let mut far = ends.recv().await.unwrap();
    assert!(matches!(far.incoming.recv().await, Some(ToSupervisor::Hello { watch: true, .. })));
    let welcome = ToViewer::Welcome { protocol: PROTOCOL, version: "0".into(), now: wall(), read_only: None };
    far.outgoing.send(welcome).await.unwrap();
    far.outgoing.send(ToViewer::Snapshot { state: Box::new(state(node)), lost: 0 }).await.unwrap();
    far
}

/// The next order to a supervisor; what asks for the clock is left out.
async fn ordered(far: &mut FarEnd) -> (u64, Command) {
    let (id, command, _) = ordered_until(far).await;
    (id, command)
}

async fn ordered_until(far: &mut FarEnd) -> (u64, Command, Option<Stamp>) {
    loop {
        match far.incoming.recv().await.expect("an order") {
            ToSupervisor::Do { id, command, until } => return (id, command, until),
            ToSupervisor::Clock { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

struct Viewer(Link);

impl Viewer {
    async fn new(hosts: Vec<Host>) -> Viewer {
        let link = serve(hosts, "test");
        let hello =
            ToSupervisor::Hello { protocol: PROTOCOL, version: "0".into(), viewer: "v".into(), watch: true };
        link.outgoing.send(hello).await.unwrap();
        Viewer(link)
    }

    /// The first thing that `wanted` finds in what comes.
    async fn until<T>(&mut self, what: &str, mut wanted: impl FnMut(&ToViewer) -> Option<T>) -> T {
        let look = async {
            loop {
                let message = self.0.incoming.recv().await.expect("a link");
                let parts = match message {
                    ToViewer::Together { messages } => messages,
                    other => vec![other],
                };
                if let Some(found) = parts.iter().find_map(&mut wanted) {
                    return found;
                }
            }
        };
        tokio::time::timeout(PATIENCE, look).await.unwrap_or_else(|_| panic!("this did not come: {what}"))
    }

    async fn until_live(&mut self, nodes: usize) {
        self.until("all nodes", |message| match message {
            ToViewer::Nodes { nodes: told } => {
                (told.iter().filter(|node| node.link.is_live()).count() == nodes).then_some(())
            }
            _ => None,
        })
        .await;
    }

    async fn order(&mut self, id: u64, command: Command) {
        self.0.outgoing.send(ToSupervisor::Do { id, command, until: None }).await.unwrap();
    }

    async fn reply(&mut self, wanted: u64) -> Outcome {
        self.until("a reply", |message| match message {
            ToViewer::Reply { id, outcome } if *id == wanted => Some(outcome.clone()),
            _ => None,
        })
        .await
    }
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

#[test]
fn each_node_tells_under_its_number_and_what_is_asked_comes_back() {
    run(async {
        let ((one, mut ends1, _), (two, mut ends2, _)) = (host("n01"), host("n02"));
        let mut viewer = Viewer::new(vec![one, two]).await;
        let (_far1, mut far2) = (greeted(&mut ends1, 0).await, greeted(&mut ends2, 1).await);
        let mut seen = Vec::new();
        viewer
            .until("two snapshots", |message| {
                if let ToViewer::From { node, message } = message
                    && let ToViewer::Snapshot { state, .. } = &**message
                {
                    seen.push((*node, state.job.clone().unwrap().node));
                }
                (seen.len() == 2).then_some(())
            })
            .await;
        seen.sort();
        assert_eq!(seen, [(0, "host0".into()), (1, "host1".into())]);

        let query = crate::domain::log::LogQuery::Page {
            filter: crate::domain::log::LogFilter::default(),
            anchor: crate::domain::log::Anchor::Tail,
            max: 1,
        };
        let message = Box::new(ToSupervisor::Logs { id: 77, query });
        viewer.0.outgoing.send(ToSupervisor::To { node: 1, message }).await.unwrap();
        let asked = loop {
            match far2.incoming.recv().await.unwrap() {
                ToSupervisor::Logs { id, .. } => break id,
                ToSupervisor::Clock { .. } => {}
                other => panic!("{other:?}"),
            }
        };
        let page = LogPage { end: 5, ..LogPage::default() };
        far2.outgoing.send(ToViewer::Logs { id: asked, page }).await.unwrap();
        let end = viewer
            .until("log lines", |message| match message {
                ToViewer::From { node: 1, message } => match &**message {
                    ToViewer::Logs { id: 77, page } => Some(page.end),
                    _ => None,
                },
                _ => None,
            })
            .await;
        assert_eq!(end, 5);
    });
}

#[test]
fn a_restart_goes_to_all_and_names_the_attempt_that_was_seen() {
    run(async {
        let ((one, mut ends1, _), (two, mut ends2, _)) = (host("n01"), host("n02"));
        let mut viewer = Viewer::new(vec![one, two]).await;
        let (mut far1, mut far2) = (greeted(&mut ends1, 0).await, greeted(&mut ends2, 1).await);
        viewer.until_live(2).await;
        viewer.order(5, Command::Restart { attempt: None }).await;
        for far in [&mut far1, &mut far2] {
            let (id, command) = ordered(far).await;
            assert_eq!(command, Command::Restart { attempt: Some(0) });
            let outcome = Outcome::Done("the group was started anew".into());
            far.outgoing.send(ToViewer::Reply { id, outcome }).await.unwrap();
        }
        assert_eq!(viewer.reply(5).await, Outcome::Done("the group was started anew, on all 2 nodes".into()));
    });
}

#[test]
fn a_signal_goes_to_the_node_of_its_rank_alone() {
    run(async {
        let ((one, mut ends1, _), (two, mut ends2, _)) = (host("n01"), host("n02"));
        let mut viewer = Viewer::new(vec![one, two]).await;
        let (_far1, mut far2) = (greeted(&mut ends1, 0).await, greeted(&mut ends2, 1).await);
        viewer.until_live(2).await;
        viewer.order(6, Command::Signal { rank: Some(1), signal: 10 }).await;
        let (id, _) = ordered(&mut far2).await;
        far2.outgoing.send(ToViewer::Reply { id, outcome: Outcome::Done("sent".into()) }).await.unwrap();
        assert_eq!(viewer.reply(6).await, Outcome::Done("sent".into()));
        viewer.order(7, Command::Signal { rank: Some(9), signal: 10 }).await;
        assert!(matches!(viewer.reply(7).await, Outcome::Refused(_)), "nobody has rank 9");
    });
}

#[test]
fn a_node_that_is_lost_is_named_and_comes_back() {
    run(async {
        let ((one, mut ends1, _), (two, mut ends2, refuses)) = (host("n01"), host("n02"));
        let mut viewer = Viewer::new(vec![one, two]).await;
        let (mut far1, mut far2) = (greeted(&mut ends1, 0).await, greeted(&mut ends2, 1).await);
        viewer.until_live(2).await;
        viewer.order(8, Command::Stop { now: false }).await;
        let (id, _) = ordered(&mut far1).await;
        far1.outgoing
            .send(ToViewer::Reply { id, outcome: Outcome::Done("the job was stopped".into()) })
            .await
            .unwrap();
        ordered(&mut far2).await;
        *refuses.lock().unwrap() = Some("No route to host".into());
        far2.outgoing.send(ToViewer::Bye { text: "Connection reset".into() }).await.unwrap();
        drop(far2);
        let Outcome::Refused(text) = viewer.reply(8).await else { panic!("one node did not answer") };
        assert_eq!(
            text,
            "done on 1 of 2 nodes only; not reached: n02: the link went away before it answered"
        );
        let why = viewer
            .until("the second attempt", |message| match message {
                ToViewer::Nodes { nodes } => match &nodes[1].link {
                    NodeLink::Lost { tries: 2.., why, .. } => Some(why.clone()),
                    _ => None,
                },
                _ => None,
            })
            .await;
        assert_eq!(why, "No route to host");
        // An order while it is away is answered at once.
        viewer
            .0
            .outgoing
            .send(ToSupervisor::To {
                node: 1,
                message: Box::new(ToSupervisor::Do { id: 9, command: Command::KeepZombies, until: None }),
            })
            .await
            .unwrap();
        let Outcome::Refused(text) = viewer.reply(9).await else { panic!("nobody was there") };
        assert_eq!(text, "not reached: n02: No route to host");
        *refuses.lock().unwrap() = None;
        let _far2 = greeted(&mut ends2, 1).await;
        viewer.until_live(2).await;
    });
}

#[test]
fn stacks_of_all_nodes_are_folded_into_one() {
    use crate::domain::stack::{Frame, RankStack, Source, Thread, fold};
    let stack = |rank, name: &str| RankStack {
        rank,
        pid: 1,
        read: Ok((
            Source::Thread,
            vec![Thread {
                is_main: true,
                frames: vec![Frame { name: name.into(), file: "/x/train.py".into(), line: 3 }],
                ..Thread::default()
            }],
        )),
    };
    run(async {
        let ((one, mut ends1, _), (two, mut ends2, _)) = (host("n01"), host("n02"));
        let mut viewer = Viewer::new(vec![one, two]).await;
        let (mut far1, mut far2) = (greeted(&mut ends1, 0).await, greeted(&mut ends2, 1).await);
        viewer.until_live(2).await;
        viewer.order(3, Command::Stacks { rank: None, by: None }).await;
        for (far, stacks) in [
            (&mut far1, fold(&[stack(0, "step"), stack(1, "step")])),
            (&mut far2, fold(&[stack(2, "step"), stack(3, "load")])),
        ] {
            let (id, _) = ordered(far).await;
            far.outgoing.send(ToViewer::Stacks { id, stacks }).await.unwrap();
            far.outgoing.send(ToViewer::Reply { id, outcome: Outcome::Done("read".into()) }).await.unwrap();
        }
        let ranks = viewer
            .until("stacks", |message| match message {
                ToViewer::Stacks { id: 3, stacks } => {
                    Some(stacks.groups.iter().map(|group| group.ranks.clone()).collect::<Vec<_>>())
                }
                _ => None,
            })
            .await;
        assert_eq!(ranks, [vec![3], vec![0, 1, 2]]);
        assert!(matches!(viewer.reply(3).await, Outcome::Done(_)));
    });
}

/// A relay of some nodes, as a host of the next.
fn relay(name: &str, hosts: Vec<Host>) -> Host {
    let mut hosts = Some(hosts);
    let connect: Connect = Box::new(move || {
        let link = hosts.take().map(|hosts| serve(hosts, "relay"));
        Box::pin(async move { link.ok_or_else(|| Error::environment("the relay was ended")) })
    });
    Host { name: name.into(), connect }
}

fn names(nodes: &[NodeStatus]) -> Vec<&str> {
    nodes.iter().map(|node| node.host.as_str()).collect()
}

#[test]
fn relays_below_a_relay_show_their_nodes_and_answer_for_them() {
    run(async {
        let (mut hosts, mut ends, mut refusals) = (Vec::new(), Vec::new(), Vec::new());
        for name in ["n01", "n02", "n03", "n04"] {
            let (host, arrive, refusal) = self::host(name);
            hosts.push(host);
            ends.push(arrive);
            refusals.push(refusal);
        }
        let right = hosts.split_off(2);
        let mut viewer = Viewer::new(vec![relay("left", hosts), relay("right", right)]).await;
        let mut fars = Vec::new();
        for (n, ends) in ends.iter_mut().enumerate() {
            fars.push(greeted(ends, n as u32).await);
        }
        viewer.until_live(4).await;
        let clocks = viewer
            .until("the clocks", |message| match message {
                ToViewer::Nodes { nodes } if names(nodes) == ["n01", "n02", "n03", "n04"] => {
                    nodes.iter().map(|node| node.clock).collect::<Option<Vec<_>>>()
                }
                _ => None,
            })
            .await;
        assert!(clocks.iter().all(|clock| clock.ahead_ms.unsigned_abs() <= clock.within_ms), "{clocks:?}");

        let until = Some(Stamp(wall().0 + 60_000));
        let order = ToSupervisor::Do { id: 5, command: Command::Restart { attempt: None }, until };
        viewer.0.outgoing.send(order).await.unwrap();
        for (n, far) in fars.iter_mut().enumerate() {
            let (id, command, told) = ordered_until(far).await;
            assert_eq!(command, Command::Restart { attempt: Some(0) });
            // By its own clock, as far as that is known.
            let apart = told.zip(until).map(|(told, until)| told.0.abs_diff(until.0));
            assert!(apart.is_some_and(|apart| apart < 10_000), "{told:?} for {until:?}");
            let outcome = match n {
                2 => Outcome::Refused("the job is being stopped".into()),
                _ => Outcome::Done("the group was started anew".into()),
            };
            far.outgoing.send(ToViewer::Reply { id, outcome }).await.unwrap();
        }
        let told = Outcome::Refused("done on 3 of 4 nodes only; n03: the job is being stopped".into());
        assert_eq!(viewer.reply(5).await, told);

        // One rank of one node of one relay.
        viewer.order(6, Command::Signal { rank: Some(3), signal: 10 }).await;
        let (id, _) = ordered(&mut fars[3]).await;
        fars[3].outgoing.send(ToViewer::Reply { id, outcome: Outcome::Done("sent".into()) }).await.unwrap();
        assert_eq!(viewer.reply(6).await, Outcome::Done("sent".into()));

        let query = crate::domain::log::LogQuery::Page {
            filter: crate::domain::log::LogFilter::default(),
            anchor: crate::domain::log::Anchor::Tail,
            max: 1,
        };
        let message = Box::new(ToSupervisor::Logs { id: 77, query });
        viewer.0.outgoing.send(ToSupervisor::To { node: 2, message }).await.unwrap();
        let asked = loop {
            match fars[2].incoming.recv().await.unwrap() {
                ToSupervisor::Logs { id, .. } => break id,
                ToSupervisor::Clock { .. } => {}
                other => panic!("{other:?}"),
            }
        };
        let page = LogPage { end: 5, ..LogPage::default() };
        fars[2].outgoing.send(ToViewer::Logs { id: asked, page }).await.unwrap();
        viewer
            .until("its log", |message| match message {
                ToViewer::From { node: 2, message } => {
                    matches!(**message, ToViewer::Logs { id: 77, .. }).then_some(())
                }
                _ => None,
            })
            .await;

        // A node behind a relay goes away while it is asked.
        viewer.order(8, Command::Stop { now: false }).await;
        for far in &mut fars[..3] {
            let (id, _) = ordered(far).await;
            let outcome = Outcome::Done("the job was stopped".into());
            far.outgoing.send(ToViewer::Reply { id, outcome }).await.unwrap();
        }
        ordered(&mut fars[3]).await;
        *refusals[3].lock().unwrap() = Some("No route to host".into());
        fars.pop();
        let told = "done on 3 of 4 nodes only; not reached: n04: the link went away before it answered";
        assert_eq!(viewer.reply(8).await, Outcome::Refused(told.into()));
        viewer
            .until("n04 is lost, and it alone", |message| match message {
                ToViewer::Nodes { nodes } => {
                    let lost = nodes.iter().filter(|node| matches!(node.link, NodeLink::Lost { .. }));
                    lost.map(|node| node.host.as_str()).eq(["n04"]).then_some(())
                }
                _ => None,
            })
            .await;
    });
}

#[test]
fn nodes_of_one_host_name_are_told_apart_and_commands_find_theirs() {
    run(async {
        let ((one, mut ends1, _), (two, mut ends2, refuses)) = (host("n01"), host("n01"));
        let mut viewer = Viewer::new(vec![relay("left", vec![one]), relay("right", vec![two])]).await;
        let (mut far1, mut far2) = (greeted(&mut ends1, 0).await, greeted(&mut ends2, 1).await);
        let is_so = |message: &ToViewer| match message {
            ToViewer::Nodes { nodes } => (nodes.iter().all(|node| node.link.is_live())
                && names(nodes) == ["n01", "n01~2"])
            .then_some(()),
            _ => None,
        };
        viewer.until("two names", is_so).await;
        let to = |node, id, command| ToSupervisor::To {
            node,
            message: Box::new(ToSupervisor::Do { id, command, until: None }),
        };
        viewer.0.outgoing.send(to(1, 5, Command::KeepZombies)).await.unwrap();
        let (id, command) = ordered(&mut far2).await;
        assert_eq!(command, Command::KeepZombies);
        far2.outgoing.send(ToViewer::Reply { id, outcome: Outcome::Done("kept".into()) }).await.unwrap();
        assert_eq!(viewer.reply(5).await, Outcome::Done("kept".into()));

        // After the link to it was made anew it is who it was.
        *refuses.lock().unwrap() = Some("No route to host".into());
        drop(far2);
        viewer
            .until("the second is lost, and it alone", |message| match message {
                ToViewer::Nodes { nodes } => {
                    let lost = nodes.iter().filter(|node| matches!(node.link, NodeLink::Lost { .. }));
                    lost.map(|node| node.host.as_str()).eq(["n01~2"]).then_some(())
                }
                _ => None,
            })
            .await;
        *refuses.lock().unwrap() = None;
        let mut far2 = greeted(&mut ends2, 1).await;
        viewer.until("both again", is_so).await;
        viewer.order(6, Command::Stop { now: false }).await;
        for (far, outcome) in [
            (&mut far1, Outcome::Done("the job was stopped".into())),
            (&mut far2, Outcome::Refused("busy".into())),
        ] {
            let (id, _) = ordered(far).await;
            far.outgoing.send(ToViewer::Reply { id, outcome }).await.unwrap();
        }
        let told = "done on 1 of 2 nodes only; n01~2: busy";
        assert_eq!(viewer.reply(6).await, Outcome::Refused(told.into()));
    });
}

#[test]
fn a_relay_whose_job_is_over_everywhere_is_gone() {
    run(async {
        let (head, mut ends, _) = host("head");
        let mut viewer = Viewer::new(vec![head]).await;
        let told = |node: u32, is_over: bool| {
            let mut state = state(node);
            if is_over {
                let fact = Fact::JobEnded { state: JobState::Done, exit_code: Some(0), cause: None };
                state.apply(&Event { seq: 2, at: Stamp(9_000), fact });
            }
            let message = Box::new(ToViewer::Snapshot { state: Box::new(state), lost: 0 });
            ToViewer::From { node, message }
        };
        let status = |host: &str| NodeStatus { link: NodeLink::Live, ..NodeStatus::new(host.into()) };
        for (is_over, why) in [(false, None), (true, Some("the job is over on all its nodes"))] {
            let mut far = ends.recv().await.unwrap();
            assert!(matches!(far.incoming.recv().await, Some(ToSupervisor::Hello { .. })));
            let nodes = ToViewer::Nodes { nodes: vec![status("n01"), status("n02")] };
            let messages = vec![nodes, told(0, true), told(1, is_over)];
            far.outgoing.send(ToViewer::Together { messages }).await.unwrap();
            drop(far);
            let end = viewer
                .until("the end of the link", |message| match message {
                    ToViewer::Nodes { nodes } if names(nodes) == ["n01", "n02"] => match &nodes[1].link {
                        NodeLink::Lost { .. } => Some(None),
                        NodeLink::Gone { why } => Some(Some(why.clone())),
                        _ => None,
                    },
                    _ => None,
                })
                .await;
            assert_eq!(end.as_deref(), why);
        }
    });
}

#[test]
fn a_node_that_is_started_anew_is_shown_again() {
    // A supervisor whose job is over stays for those who look, or is gone.
    for stays in [true, false] {
        run(async {
            let ((one, mut ends1, _), (two, mut ends2, _)) = (host("n01"), host("n02"));
            let mut viewer = Viewer::new(vec![one, two]).await;
            let (far1, far2) = (greeted(&mut ends1, 0).await, greeted(&mut ends2, 1).await);
            viewer.until_live(2).await;
            let told = |seq, fact| ToViewer::Events { events: vec![Event { seq, at: Stamp(9_000), fact }] };
            let ended = || Fact::JobEnded { state: JobState::Done, exit_code: Some(0), cause: None };
            far2.outgoing.send(told(2, ended())).await.unwrap();
            let mut before = stays.then_some(far2);
            let is_over = |message: &ToViewer| match message {
                ToViewer::From { node: 1, message } => {
                    matches!(**message, ToViewer::Events { .. }).then_some(())
                }
                _ => None,
            };
            let is_gone = |message: &ToViewer| match message {
                ToViewer::Nodes { nodes } => matches!(nodes[1].link, NodeLink::Gone { .. }).then_some(()),
                _ => None,
            };
            if stays {
                viewer.until("the end of the second node", is_over).await;
            } else {
                viewer.until("the end of its link", is_gone).await;
            }

            let mut over = state(1);
            over.apply(&Event { seq: 2, at: Stamp(9_000), fact: ended() });
            let mut other = state(1);
            let job = JobInfo { name: "another job".into(), ..other.job.clone().unwrap() };
            other.apply(&Event { seq: 2, at: Stamp(9_000), fact: Fact::JobStarted { job } });
            // Each time that the others form a group it is looked for: it is over still, another job, and it.
            let mut attempt = 0;
            for met in [Some(over), Some(other), None] {
                attempt += 1;
                let formed = Fact::GroupStarted { attempt, world_size: Some(1) };
                far1.outgoing.send(told(u64::from(attempt) + 1, formed)).await.unwrap();
                let Some(met) = met else { break };
                let mut far2 = ends2.recv().await.unwrap();
                assert!(matches!(far2.incoming.recv().await, Some(ToSupervisor::Hello { .. })));
                far2.outgoing.send(ToViewer::Snapshot { state: Box::new(met), lost: 0 }).await.unwrap();
                while far2.incoming.recv().await.is_some() {}
            }
            let mut far2 = greeted(&mut ends2, 1).await;
            viewer
                .until("the state of what was started anew", |message| match message {
                    ToViewer::From { node: 1, message } => {
                        matches!(&**message, ToViewer::Snapshot { state, .. } if !state.state.is_over())
                            .then_some(())
                    }
                    _ => None,
                })
                .await;
            if let Some(before) = &mut before {
                while before.incoming.recv().await.is_some() {}
            }
            viewer.order(5, Command::KeepZombies).await;
            let (id, _) = ordered(&mut far2).await;
            far2.outgoing.send(ToViewer::Reply { id, outcome: Outcome::Done("kept".into()) }).await.unwrap();
        });
    }
}

/// As many as a cluster has, and how many links were in the making at once.
#[test]
fn of_many_nodes_few_are_reached_at_once_and_what_they_say_is_gathered() {
    use std::sync::atomic::{AtomicUsize, Ordering};

    const NODES: usize = 512;
    run(async {
        let (making, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let host = |node: usize| {
            let (making, most) = (making.clone(), most.clone());
            let connect: Connect = Box::new(move || {
                let (making, most) = (making.clone(), most.clone());
                Box::pin(async move {
                    most.fetch_max(making.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    let (link, mut far) = Link::pair();
                    tokio::spawn(async move {
                        // As slow as keys that are agreed on.
                        tokio::time::sleep(Duration::from_millis(5)).await;
                        making.fetch_sub(1, Ordering::SeqCst);
                        let welcome = ToViewer::Welcome {
                            protocol: PROTOCOL,
                            version: "0".into(),
                            now: wall(),
                            read_only: None,
                        };
                        let snapshot = ToViewer::Snapshot { state: Box::new(state(node as u32)), lost: 0 };
                        for message in [welcome, snapshot] {
                            if far.outgoing.send(message).await.is_err() {
                                return;
                            }
                        }
                        while let Some(message) = far.incoming.recv().await {
                            if let ToSupervisor::Do { id, .. } = message {
                                let outcome = Outcome::Done("restarted".into());
                                let _ = far.outgoing.send(ToViewer::Reply { id, outcome }).await;
                            }
                        }
                    });
                    Ok(link)
                })
            });
            Host { name: format!("n{node:03}"), connect }
        };
        // Half of them over a relay.
        let below = relay("relay", (NODES / 2..NODES).map(host).collect());
        let mut viewer = Viewer::new((0..NODES / 2).map(host).chain([below]).collect()).await;
        let mut heard = 0;
        viewer
            .until("all nodes", |message| {
                heard += 1;
                match message {
                    ToViewer::Nodes { nodes } => {
                        (nodes.iter().filter(|node| node.link.is_live()).count() == NODES).then_some(())
                    }
                    _ => None,
                }
            })
            .await;
        assert!(most.load(Ordering::SeqCst) <= 2 * node::AT_ONCE, "{most:?} at once");
        assert!(heard < 4 * NODES, "{heard} messages until all were there");
        viewer.order(1, Command::Restart { attempt: None }).await;
        assert_eq!(viewer.reply(1).await, Outcome::Done(format!("restarted, on all {NODES} nodes")));
    });
}
