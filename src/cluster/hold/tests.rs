//! Real links to nodes that are made up: each is the far end of a link in this process.

mod relays;

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
                let formed = Fact::MembershipChanged { attempt, from: Some(2), world_size: Some(1) };
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
