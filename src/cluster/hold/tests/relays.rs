//! Relays, and nodes by the hundred.

use super::*;

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
