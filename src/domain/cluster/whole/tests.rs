use proptest::prelude::*;

use super::*;
use crate::domain::{
    alert::AlertKind,
    cause::CauseKind,
    event::{Event, Fact, JobInfo, Launcher, Reason},
    id::{JobId, ProcId},
    sample::Place,
};

const T: u64 = 1_000_000;

fn node(first_rank: u32, facts: Vec<(u64, Fact)>) -> State {
    let mut state = State::default();
    for (seq, (at, fact)) in (1..).zip(begin(first_rank, 2).into_iter().chain(facts)) {
        state.apply(&Event { seq, at: Stamp(at), fact });
    }
    state
}

/// A node's part of a job begins.
fn begin(first_rank: u32, world_size: u32) -> Vec<(u64, Fact)> {
    let job = JobInfo {
        id: JobId(format!("train-{first_rank}")),
        name: "train".into(),
        launcher: Launcher::Torchrun,
        node: format!("host{first_rank}"),
        command: Vec::new(),
        cwd: "/".into(),
        max_restarts: Some(3),
        local_world_size: Some(1),
        nodes: (1, 3),
        rdzv_id: Some("r1".into()),
        uid: 0,
    };
    let place = Place { rank: Some(first_rank), world_size: Some(world_size), ..Place::default() };
    let proc = ProcId { pid: 7, start: 1 };
    vec![
        (T, Fact::JobStarted { job }),
        (T, Fact::GroupStarted { attempt: 0, world_size: Some(world_size) }),
        (T, Fact::RankStarted { proc, agent_pid: 1, local_rank: 0, attempt: 0, place }),
        (T, Fact::JobState { state: JobState::Running, deadline: None }),
    ]
}

fn join(states: &[(&State, i64)]) -> State {
    let hosts = ["n01", "n02", "n03"];
    let members: Vec<_> = states
        .iter()
        .zip(hosts)
        .map(|((state, ahead_ms), host)| Member { host, state, ahead_ms: *ahead_ms })
        .collect();
    whole(&members)
}

fn failed(at: u64, kind: CauseKind, text: &str) -> Vec<(u64, Fact)> {
    let cause = Cause { rank: Some(0), kind, text: text.into(), evidence: Vec::new(), hint: None };
    vec![
        (at, Fact::JobState { state: JobState::Restarting, deadline: None }),
        (at, Fact::CauseFound { attempt: 0, cause }),
    ]
}

fn alert(local_rank: Option<u32>, text: &str) -> Fact {
    let alert = Alert {
        kind: AlertKind::Hang,
        local_rank,
        since: Stamp(T + 500),
        text: text.into(),
        evidence: Vec::new(),
        acts_at: None,
    };
    Fact::AlertRaised { alert }
}

#[test]
fn nobody_has_told_anything() {
    assert_eq!(whole(&[]), State::default());
    assert_eq!(join(&[(&State::default(), 0)]), State::default());
}

#[test]
fn the_gravest_state_is_the_jobs_and_times_are_the_readers() {
    let (one, two) = (node(0, vec![]), node(1, failed(T + 9_000, CauseKind::Exception, "rank 1 raised")));
    // The clock of the second node is 5 s ahead.
    let job = join(&[(&one, 0), (&two, 5_000)]);
    assert_eq!(
        (job.state, job.state_since, job.world_size),
        (JobState::Restarting, Stamp(T + 4_000), Some(2))
    );
    assert_eq!(job.cause.unwrap().text, "n02: rank 1 raised");
    assert_eq!((job.started_at, job.at), (Some(Stamp(T - 5_000)), Stamp(T + 4_000)));
    assert_eq!(job.attempts.len(), 1);
    assert_eq!(job.job.unwrap().node, "host0");
}

#[test]
fn a_consequence_gives_way_to_its_cause_however_early_it_was_seen() {
    let gone = failed(T + 1_000, CauseKind::Unknown, "lost the connection to a peer");
    let (one, two) = (node(0, gone), node(1, failed(T + 2_000, CauseKind::Signal, "SIGKILL")));
    assert_eq!(join(&[(&one, 0), (&two, 0)]).cause.unwrap().text, "n02: SIGKILL");
    // Of two that are as telling the earlier counts, by the reader's clock.
    let (one, two) = (
        node(0, failed(T + 2_000, CauseKind::Signal, "first")),
        node(1, failed(T + 1_000, CauseKind::Signal, "second")),
    );
    assert_eq!(join(&[(&one, 0), (&two, 0)]).cause.unwrap().text, "n02: second");
    assert_eq!(join(&[(&one, 3_000), (&two, 0)]).cause.unwrap().text, "n01: first");
}

#[test]
fn a_node_that_left_does_not_end_the_job() {
    let end = |at, state| vec![(at, Fact::JobEnded { state, exit_code: Some(0), cause: None })];
    let (one, two) = (node(0, vec![]), node(1, end(T + 1_000, JobState::Stopped)));
    let job = join(&[(&one, 0), (&two, 0)]);
    assert_eq!((job.state, job.ended_at, job.exit_code), (JobState::Running, None, None));
    // Once all are over, those count that ended last.
    let one = node(0, end(T + 500_000, JobState::Done));
    let job = join(&[(&one, 0), (&two, 0)]);
    assert_eq!((job.state, job.ended_at), (JobState::Done, Some(Stamp(T + 500_000))));
    // Who left before the last group began is not of it, however soon that ended.
    let restart =
        Fact::Restart { attempt: 1, restarts: 1, reason: Reason::Failure, cause: None, world_size: Some(1) };
    let one = node(0, [vec![(T + 4_000, restart)], end(T + 15_000, JobState::Done)].concat());
    assert_eq!(join(&[(&one, 0), (&two, 0)]).state, JobState::Done);
}

#[test]
fn who_names_the_rank_speaks_for_those_that_only_wait() {
    let one = node(0, vec![(T + 900, alert(None, "all ranks of this node wait for a rank of another node"))]);
    let two = node(1, vec![(T + 900, alert(Some(0), "rank 1 sleeps"))]);
    let texts = |job: State| job.alerts.into_iter().map(|alert| alert.text).collect::<Vec<_>>();
    assert_eq!(texts(join(&[(&one, 0), (&two, 0)])), ["n02: rank 1 sleeps"]);
    assert_eq!(
        texts(join(&[(&one, 0), (&node(1, vec![]), 0)])),
        ["n01: all ranks of this node wait for a rank of another node"]
    );
}

#[test]
fn what_one_node_alone_has_told_is_an_attempt_of_the_job() {
    let restart = Fact::MembershipChanged { attempt: 1, from: Some(1), world_size: Some(2) };
    let (late, early) = (node(1, vec![]), node(0, vec![(T + 100, restart)]));
    let job = join(&[(&late, 0), (&early, 0)]);
    assert_eq!(
        job.attempts.iter().map(|attempt| attempt.reason).collect::<Vec<_>>(),
        [Reason::First, Reason::Membership]
    );
}

#[test]
fn a_run_of_several_nodes_is_told_once() {
    let mut known = RunProgress {
        state: RunState::Sending,
        rows_logged: 10,
        rows_acked: 8,
        last_ack_at: Some(Stamp(5)),
        ..RunProgress::default()
    };
    let more = RunProgress {
        state: RunState::Retrying,
        rows_logged: 5,
        rows_acked: 0,
        retry_at: Some(Stamp(9)),
        last_error: Some("n02: 503".into()),
        ..RunProgress::default()
    };
    super::join(&mut known, more);
    assert_eq!((known.state, known.rows_logged, known.backlog()), (RunState::Retrying, 15, 7));
    assert_eq!((known.last_ack_at, known.retry_at), (Some(Stamp(5)), Some(Stamp(9))));
    assert_eq!(known.last_error.as_deref(), Some("n02: 503"));
}

#[test]
fn a_node_that_went_away_is_the_cause_of_those_that_lost_it() {
    let lost = || failed(T + 5_000, CauseKind::Unknown, "rank 0 lost the connection to a peer");
    let ended = |at: u64, state: JobState| (at, Fact::JobEnded { state, exit_code: None, cause: None });
    let victim = node(0, lost());
    // Its clock is 20 s behind: it began with the others, and ended 3 s after they had failed.
    let mut stopped = State::default();
    for (at, fact) in begin(1, 2).into_iter().chain([ended(T + 8_000, JobState::Stopped)]) {
        stopped.apply(&Event { seq: 0, at: Stamp(at - 20_000), fact });
    }
    let cause = join(&[(&victim, 0), (&stopped, -20_000)]).cause.unwrap();
    assert_eq!(
        (cause.kind, cause.text.as_str()),
        (
            CauseKind::Stopped,
            "n02: the node left: the job was stopped there, and others lost the connection to it"
        )
    );
    assert_eq!(cause.evidence, ["n01: rank 0 lost the connection to a peer"]);

    // What it said itself is better than that.
    let mut facts = failed(T + 4_000, CauseKind::OomHost, "rank 1 was ended by the kernel");
    let own = facts.iter().find_map(|(_, fact)| match fact {
        Fact::CauseFound { cause, .. } => Some(cause.clone()),
        _ => None,
    });
    facts.push((T + 9_000, Fact::JobEnded { state: JobState::Failed, exit_code: None, cause: own }));
    let cause = join(&[(&victim, 0), (&node(1, facts), 0)]).cause.unwrap();
    assert_eq!(
        (cause.kind, cause.text.as_str()),
        (CauseKind::OomHost, "n02: rank 1 was ended by the kernel")
    );

    // One that failed as the others did says nothing, and one that left long before neither.
    let mut facts = lost();
    let own = match &facts[1].1 {
        Fact::CauseFound { cause, .. } => Some(cause.clone()),
        _ => None,
    };
    facts.push((T + 9_000, Fact::JobEnded { state: JobState::Failed, exit_code: None, cause: own }));
    let old = node(2, vec![ended(T - 600_000, JobState::Stopped)]);
    let cause = join(&[(&victim, 0), (&node(1, facts), 0), (&old, 0)]).cause.unwrap();
    assert_eq!(cause.text, "n01: rank 0 lost the connection to a peer");
}

/// Node 2 of three leaves; whether each of the others counts a failure of its own, as it lost the connection, or follows.
fn one_leaves(counts: [bool; 2]) -> Vec<Vec<(u64, Fact)>> {
    let restarts = |counts: bool, world_size| {
        let lost = Cause {
            rank: None,
            kind: CauseKind::Unknown,
            text: "lost a peer".into(),
            evidence: vec![],
            hint: None,
        };
        if counts {
            vec![
                (T + 5_100, Fact::JobState { state: JobState::Restarting, deadline: None }),
                (T + 5_200, Fact::CauseFound { attempt: 0, cause: lost }),
                (
                    T + 6_000,
                    Fact::Restart {
                        attempt: 1,
                        restarts: 1,
                        reason: Reason::Failure,
                        cause: None,
                        world_size,
                    },
                ),
            ]
        } else {
            vec![
                (T + 5_300, Fact::JobState { state: JobState::MembershipChange, deadline: None }),
                (T + 6_100, Fact::MembershipChanged { attempt: 1, from: Some(3), world_size }),
            ]
        }
    };
    let goes_on = |rank, counts: bool| {
        let mut facts = begin(rank, 3);
        facts.extend(restarts(counts, Some(2)));
        facts.push((T + 6_500, Fact::JobState { state: JobState::Running, deadline: None }));
        facts
    };
    let mut leaves = begin(2, 3);
    leaves.push((T + 5_000, Fact::JobState { state: JobState::TearingDown, deadline: None }));
    leaves.push((T + 7_000, Fact::JobEnded { state: JobState::Stopped, exit_code: None, cause: None }));
    vec![goes_on(0, counts[0]), goes_on(1, counts[1]), leaves]
}

/// The attempts of the job after each event, in an order of arrival that `turns` picks: which node is heard next.
fn as_heard(nodes: &[Vec<(u64, Fact)>], turns: &[usize], order: &[usize]) -> Vec<State> {
    let mut states = vec![State::default(); nodes.len()];
    let mut heard = vec![0; nodes.len()];
    let mut told = Vec::new();
    let rest = (0..nodes.len()).flat_map(|node| std::iter::repeat_n(node, nodes[node].len()));
    for node in turns.iter().copied().chain(rest) {
        let Some((at, fact)) = nodes[node].get(heard[node]) else { continue };
        heard[node] += 1;
        states[node].apply(&Event { seq: heard[node] as u64, at: Stamp(*at), fact: fact.clone() });
        let hosts = ["n01", "n02", "n03"];
        let member = |node: &usize| Member { host: hosts[*node], state: &states[*node], ahead_ms: 0 };
        told.push(whole(&order.iter().map(member).collect::<Vec<_>>()));
    }
    told
}

fn lanes(job: &State) -> Vec<(u32, Reason, u32, Option<u32>)> {
    job.attempts.iter().map(|lane| (lane.n, lane.reason, lane.restarts, lane.world_size)).collect()
}

#[test]
fn a_node_that_leaves_changes_the_membership_whatever_others_make_of_it() {
    for counts in [[true, false], [false, true], [true, true], [false, false]] {
        let told = as_heard(&one_leaves(counts), &[], &[0, 1, 2]);
        let job = told.last().unwrap();
        let spent = u32::from(counts.contains(&true));
        assert_eq!(
            lanes(job),
            [(0, Reason::First, 0, Some(3)), (1, Reason::Membership, spent, Some(2))],
            "{counts:?}"
        );
        assert_eq!(job.restarts, spent, "{counts:?}");
        let cause = job.attempts[0].cause.as_ref().unwrap();
        assert!(cause.text.starts_with("n03: the node left: the job was stopped there"), "{cause:?}");
        assert_eq!(job.attempts[0].ended_at, Some(job.attempts[1].started_at));
    }
}

#[test]
fn a_node_that_joins_makes_no_failure_of_those_that_heard_of_it_late() {
    let state = |at, state| (at, Fact::JobState { state, deadline: None });
    let changed = |at, attempt, from, to| {
        (at, Fact::MembershipChanged { attempt, from: Some(from), world_size: Some(to) })
    };
    // Its agent ends its rank for the newcomer.
    let mut early = begin(0, 2);
    early.extend([state(T + 5_000, JobState::MembershipChange), changed(T + 7_000, 1, 2, 3)]);
    // Its rank loses the first one before its agent hears of the newcomer.
    let mut late = begin(1, 2);
    late.extend(failed(T + 5_030, CauseKind::Unknown, "rank 0 lost the connection to a peer"));
    let restart =
        Fact::Restart { attempt: 1, restarts: 1, reason: Reason::Failure, cause: None, world_size: Some(3) };
    late.push((T + 7_010, restart));
    let newcomer: Vec<_> = begin(2, 3).into_iter().map(|(at, fact)| (at + 7_000, fact)).collect();
    let told = as_heard(&[early.clone(), late.clone(), newcomer.clone()], &[], &[0, 1, 2]);
    let job = told.last().unwrap();
    let two = [(0, Reason::First, 0, Some(2)), (1, Reason::Membership, 1, Some(3))];
    assert_eq!((lanes(job).as_slice(), &job.attempts[0].cause), (two.as_slice(), &None));

    // That the late one leaves some seconds later explains the end of the next group, not of that one.
    early.extend([state(T + 12_000, JobState::MembershipChange), changed(T + 14_000, 2, 3, 2)]);
    late.push(state(T + 11_900, JobState::TearingDown));
    late.push((T + 12_500, Fact::JobEnded { state: JobState::Stopped, exit_code: None, cause: None }));
    let told = as_heard(&[early, late, newcomer], &[], &[0, 1, 2]);
    let job = told.last().unwrap();
    assert_eq!(lanes(job)[2], (2, Reason::Membership, 0, Some(2)));
    let causes = |at: usize| job.attempts[at].cause.as_ref().map(|cause| cause.text.as_str());
    assert_eq!([causes(0), causes(1)], [None, Some("n02: the node left: the job was stopped there")]);
}

#[test]
fn a_rank_that_failed_makes_it_a_failure_for_all() {
    let own = Cause {
        rank: Some(1),
        kind: CauseKind::Signal,
        text: "SIGKILL".into(),
        evidence: vec![],
        hint: None,
    };
    let failed = vec![
        (T + 5_000, Fact::CauseFound { attempt: 0, cause: own.clone() }),
        (
            T + 6_000,
            Fact::Restart {
                attempt: 1,
                restarts: 1,
                reason: Reason::Failure,
                cause: None,
                world_size: Some(2),
            },
        ),
    ];
    let follows =
        vec![(T + 6_050, Fact::MembershipChanged { attempt: 1, from: Some(2), world_size: Some(2) })];
    for (one, two) in [(failed.clone(), follows.clone()), (follows, failed.clone())] {
        let job = join(&[(&node(0, one), 0), (&node(1, two), 0)]);
        assert_eq!(lanes(&job)[1], (1, Reason::Failure, 1, Some(2)));
        assert!(job.attempts[0].cause.as_ref().unwrap().text.ends_with(": SIGKILL"));
    }
    // The node whose rank it was had no restart left: it left, but that is not what was first.
    let mut nodes = one_leaves([false, true]);
    nodes[2].pop();
    nodes[2].push((T + 7_000, Fact::JobEnded { state: JobState::Failed, exit_code: None, cause: Some(own) }));
    let told = as_heard(&nodes, &[], &[0, 1, 2]);
    assert_eq!(lanes(told.last().unwrap())[1], (1, Reason::Failure, 1, Some(2)));
}

#[test]
fn a_node_that_joins_late_is_of_the_group_that_it_joined() {
    let grows =
        |attempt| vec![(T + 60_000, Fact::MembershipChanged { attempt, from: Some(2), world_size: Some(3) })];
    let mut late = begin(2, 3);
    late.iter_mut().for_each(|(at, _)| *at = T + 59_900);
    let late = late.into_iter().collect();
    let nodes: Vec<Vec<(u64, Fact)>> = vec![
        begin(0, 2).into_iter().chain(grows(1)).collect(),
        begin(1, 2).into_iter().chain(grows(1)).collect(),
        late,
    ];
    let told = as_heard(&nodes, &[], &[0, 1, 2]);
    let job = told.last().unwrap();
    assert_eq!(lanes(job), [(0, Reason::First, 0, Some(2)), (1, Reason::Membership, 0, Some(3))]);
}

#[test]
fn what_somebody_asked_of_one_node_is_what_it_was_for_all() {
    let asked = |reason| {
        let restart = Fact::Restart { attempt: 1, restarts: 0, reason, cause: None, world_size: Some(2) };
        vec![(T + 6_000, restart)]
    };
    let job = join(&[(&node(0, asked(Reason::Failure)), 0), (&node(1, asked(Reason::Manual)), 0)]);
    assert_eq!(lanes(&job)[1].1, Reason::Manual);
}

/// Each node knows its own ranks: only one can name the rank that all others waited for.
#[test]
fn a_hang_that_ends_at_the_time_limit_is_told_by_the_node_that_can_name_the_rank() {
    let hung = |first_rank, local_rank, text: &str, cause: Cause| {
        let end = |at, state| (at, Fact::JobEnded { state, exit_code: Some(1), cause: Some(cause.clone()) });
        let tearing = Fact::JobState { state: JobState::TearingDown, deadline: None };
        let facts = vec![
            (T + 500, alert(local_rank, text)),
            (T + 60_000, tearing),
            end(T + 61_000, JobState::Failed),
        ];
        node(first_rank, facts)
    };
    let cause =
        |rank, kind, text: &str| Cause { rank, kind, text: text.into(), evidence: vec![], hint: None };
    let timeout = cause(Some(0), CauseKind::CollectiveTimeout, "rank 0 waited longer than its time limit");
    let waited = hung(0, None, "all ranks of this node wait for a rank of another node", timeout);
    let lost = cause(Some(1), CauseKind::Unknown, "rank 1 lost the connection to a peer");
    let kept = hung(1, Some(0), "rank 1 sleeps", lost);
    for states in [[(&waited, 0), (&kept, 0)], [(&kept, 0), (&waited, 0)]] {
        let told = join(&states).cause.unwrap();
        assert_eq!((told.rank, told.kind), (Some(1), CauseKind::CollectiveTimeout));
        assert!(told.text.ends_with(": rank 1 sleeps, until the collective's time limit"), "{}", told.text);
        assert!(
            told.evidence[0].ends_with("rank 0 waited longer than its time limit"),
            "{:?}",
            told.evidence
        );
    }
}

/// The agent that was ended for it may have held the rendezvous.
#[test]
fn what_a_restart_of_one_node_does_to_the_others_is_no_failure() {
    let lost = |at, kind| {
        let mut facts = failed(at, kind, "the agent could not connect to its peers");
        let cause = Cause { rank: None, kind, text: "lost".into(), evidence: Vec::new(), hint: None };
        let fact = Fact::JobEnded { state: JobState::Failed, exit_code: Some(1), cause: Some(cause) };
        facts.push((at + 50, fact));
        facts
    };
    let ordered = |at| vec![(at, Fact::JobState { state: JobState::Restarting, deadline: None })];
    let anew = |at| {
        let (reason, world_size) = (Reason::Manual, Some(1));
        (at, Fact::Restart { attempt: 1, restarts: 0, reason, cause: None, world_size })
    };
    let other = node(0, lost(T + 5_200, CauseKind::Agent));
    // While the new group is awaited, and once it is there.
    let waits = node(1, ordered(T + 5_000));
    let goes_on = node(1, ordered(T + 5_000).into_iter().chain([anew(T + 35_000)]).collect());
    for asked in [&waits, &goes_on] {
        let job = join(&[(&other, 0), (asked, 0)]);
        assert_eq!((&job.cause, &job.attempts[0].cause), (&None, &None));
    }
    assert_eq!(lanes(&join(&[(&other, 0), (&goes_on, 0)]))[1].1, Reason::Manual);
    // Who restarts what had failed before did not make it fail; nor does a restart kill ranks elsewhere.
    let late = node(1, ordered(T + 9_000));
    assert!(join(&[(&other, 0), (&late, 0)]).cause.is_some());
    let killed = node(0, lost(T + 5_200, CauseKind::Signal));
    assert!(join(&[(&killed, 0), (&goes_on, 0)]).cause.is_some());
}

proptest! {
    #[test]
    fn the_order_of_arrival_changes_no_attempt(
        turns in prop::collection::vec(0_usize..3, 0..40),
        order in Just(vec![0_usize, 1, 2]).prop_shuffle(),
        counts in any::<[bool; 2]>(),
    ) {
        let nodes = one_leaves(counts);
        let told = as_heard(&nodes, &turns, &order);
        let usual = as_heard(&nodes, &[], &[0, 1, 2]);
        prop_assert_eq!(&told.last().unwrap().attempts, &usual.last().unwrap().attempts);
        for job in &told {
            // Nor does it say one thing first and another later.
            if let Some(lane) = job.attempts.get(1) {
                prop_assert_eq!((lane.n, lane.reason), (1, Reason::Membership));
            }
            prop_assert_eq!(job.attempts.back().map_or(0, |lane| lane.restarts), job.restarts);
        }
    }
}
