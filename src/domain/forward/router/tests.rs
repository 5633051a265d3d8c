//! Scripts: ranks, rows, plans and deaths; and what became of the rows.

use proptest::prelude::*;

use super::*;
use crate::domain::resolve::{Base, Facts, Given, RankScope, RunMode, Topology, resolve};

fn plan(run_mode: RunMode, rank_scope: RankScope, ranks_per_node: &[u32]) -> Plan {
    let facts = Facts {
        run_mode,
        rank_scope,
        topology: Topology { ranks_per_node: ranks_per_node.to_vec(), range: None },
        base: Base::Whole(Given::new("--wandb-base", "b")),
        parent_run: None,
        run_id: None,
        group: None,
        name: None,
        tags: Vec::new(),
        notes: None,
        job_type: None,
        sweep: None,
        project: None,
        entity: None,
        base_url: None,
        app_url: None,
    };
    resolve(&facts).unwrap()
}

fn proc(n: u64) -> ProcId {
    ProcId { pid: n as i32, start: n }
}

/// The place of a rank where each node has two.
fn place(rank: u32, world: u32) -> Place {
    Place {
        rank: Some(rank),
        local_rank: Some(rank % 2),
        group_rank: Some(rank / 2),
        world_size: Some(world),
        local_world_size: Some(2.min(world)),
        ..Place::default()
    }
}

fn router(run_mode: RunMode, rank_scope: RankScope) -> Router {
    let mut router = Router::default();
    router.set_plan(plan(run_mode, rank_scope, &[2]));
    router.seat(proc(10), 0, &place(0, 2));
    router.seat(proc(11), 1, &place(1, 2));
    router
}

/// `run step[ from own]`, `silent` or `later`; the row's items must not hold what W&B sets.
fn send(router: &mut Router, proc: ProcId, line: &str) -> String {
    let mut row = Row::parse(line.as_bytes()).unwrap();
    let text = match router.route(proc, &mut row, line, Stamp(5000), false).1 {
        Route::Silent => "silent".into(),
        Route::Unplaced => "later".into(),
        Route::Held => "held".into(),
        Route::Run(stamped) => {
            let own = stamped.own_step.map(|own| format!(" from {own}")).unwrap_or_default();
            format!("{} {}{own}", router.seat_of(proc).unwrap().run.as_deref().unwrap(), stamped.step)
        }
    };
    assert!(text == "later" || text == "silent" || row.items.iter().all(|item| !item.key.starts_with('_')));
    text
}

#[test]
fn each_combination_sends_a_rank_s_rows_where_the_plan_says() {
    for (mode, first, second) in [
        (RunMode::Auto, "b 0", "silent"),
        (RunMode::Shared, "b 0", "b 0"),
        (RunMode::New, "b-rank-0 0", "b-rank-1 0"),
    ] {
        let mut router = router(mode, RankScope::Global);
        let found = [10, 11].map(|n| send(&mut router, proc(n), r#"{"loss":1}"#));
        assert_eq!(found, [first, second], "{mode}");
    }
}

#[test]
fn steps_only_rise_and_a_restart_keeps_the_script_s_own() {
    let mut router = router(RunMode::Auto, RankScope::Global);
    let mut sent = |line: &str| send(&mut router, proc(10), line);
    assert_eq!(sent(r#"{"_step":0,"a":1}"#), "b 0");
    assert_eq!(sent(r#"{"a":1}"#), "b 1");
    assert_eq!(sent(r#"{"step":10,"a":1}"#), "b 10");
    assert_eq!(sent(r#"{"global_step":12,"step":"x"}"#), "b 12");
    assert_eq!(sent(r#"{"_step":5,"a":1}"#), "b 13 from 5");
    assert_eq!(sent(r#"{"step":6,"a":1}"#), "b 14 from 6");
    assert_eq!(sent(r#"{"_step":1.5,"a":1}"#), "b 15 from 1.5");
    assert_eq!(sent(r#"{"_step":99999999999999999999,"a":1}"#), "b 16 from 99999999999999999999");
    router.gone(proc(10), Some(Exit::Code(1)));
    router.seat(proc(20), 0, &place(0, 2));
    assert_eq!(send(&mut router, proc(20), r#"{"_step":0}"#), "b 17 from 0");
    assert_eq!(router.book("b").unwrap().rows, 9);
}

/// A row as it is written: `step {key: value}[ from own]`.
fn whole(held: &Held) -> String {
    let (row, stamped) = held.row();
    let items: Vec<String> = row.items.iter().map(|item| format!("{}={}", item.key, item.value)).collect();
    let own = stamped.own_step.map(|own| format!(" from {own}")).unwrap_or_default();
    format!("{} {}{own}", stamped.step, items.join(" "))
}

/// What is written because of a row: that which is complete by it, and itself if it does not wait.
fn log(router: &mut Router, proc: ProcId, line: &str) -> Vec<String> {
    let mut row = Row::parse(line.as_bytes()).unwrap();
    let (before, route) = router.route(proc, &mut row, line, Stamp(5000), true);
    let mut written: Vec<String> = before.iter().map(whole).collect();
    if let Route::Run(stamped) = route {
        written.push(format!("{} at once", stamped.step));
    }
    written
}

#[test]
fn rows_of_one_step_are_one_row_and_the_newer_value_holds() {
    let mut router = router(RunMode::Auto, RankScope::Global);
    let none: [&str; 0] = [];
    let mut logged = |line: &str| log(&mut router, proc(10), line);
    assert_eq!(logged(r#"{"_step":5,"loss":1,"lr":2}"#), none);
    assert_eq!(logged(r#"{"_step":5,"val":3,"lr":4}"#), none);
    assert_eq!(logged(r#"{"step":6,"loss":1}"#), ["5 loss=1 lr=4 val=3"]);
    assert_eq!(logged(r#"{"step":6,"val":1}"#), none);
    // Without a step there is nothing to wait for.
    assert_eq!(logged(r#"{"loss":1}"#), ["6 step=6 loss=1 val=1", "7 at once"]);
    assert_eq!(logged(r#"{"_step":8,"_commit":true,"loss":1}"#), ["8 at once"]);
    // After it another row of that step is one of its own, and so are those of steps gone by.
    assert_eq!(logged(r#"{"_step":8,"loss":2}"#), none);
    assert_eq!(logged(r#"{"_step":3,"loss":3}"#), ["9 loss=2 from 8"]);
    assert_eq!(logged(r#"{"_step":3,"_commit":true,"val":3}"#), ["10 loss=3 val=3 from 3"]);
    assert_eq!(router.book("b").unwrap().rows, 6);
}

#[test]
fn objects_of_one_step_are_joined_key_by_key_and_steps_may_be_floats() {
    let mut router = router(RunMode::Auto, RankScope::Global);
    let none: [&str; 0] = [];
    let mut logged = |line: &str| log(&mut router, proc(10), line);
    assert_eq!(logged(r#"{"_step":1.0,"x":{"a":1,"b":{"c":2}},"y":{"z":1}}"#), none);
    assert_eq!(logged(r#"{"_step":1,"x":{"b":{"d":NaN},"e \"":4},"y":5}"#), none);
    assert_eq!(
        logged(r#"{"_step":2.0,"_commit":true,"loss":1}"#),
        [r#"1 x={"a":1,"b":{"c":2,"d":NaN},"e \"":4} y=5"#, "2 at once"]
    );
}

#[test]
fn only_the_primary_of_a_shared_run_says_what_it_is_about() {
    let mut shared = router(RunMode::Shared, RankScope::Global);
    assert_eq!([10, 11].map(|n| shared.is_secondary(proc(n))), [false, true]);
    shared.set_plan(plan(RunMode::New, RankScope::Global, &[2]));
    assert_eq!([10, 11].map(|n| shared.is_secondary(proc(n))), [false, false]);
}

#[test]
fn a_row_that_waits_is_complete_when_its_rank_is_gone_or_somebody_else_writes() {
    let mut router = router(RunMode::Auto, RankScope::Global);
    assert!(log(&mut router, proc(10), r#"{"_step":5,"loss":1}"#).is_empty());
    assert!(router.complete("b", |held| held.proc() == proc(11)).is_empty(), "it is another rank's");
    let written: Vec<String> =
        router.complete("b", |held| held.proc() == proc(10)).iter().map(whole).collect();
    assert_eq!((written, router.book("b").unwrap().rows), (vec!["5 loss=1".to_owned()], 1));
    // The next start's first row is not joined with the last one's, whatever its step.
    assert!(log(&mut router, proc(10), r#"{"_step":6,"loss":1}"#).is_empty());
    router.seat(proc(20), 0, &place(0, 2));
    assert_eq!(log(&mut router, proc(20), r#"{"_step":6,"loss":2}"#), ["6 loss=1"]);
    // What waits outlives the supervisor.
    let books: BTreeMap<String, Book> =
        serde_json::from_str(&serde_json::to_string(&router.books).unwrap()).unwrap();
    let mut router = Router::new(books);
    router.set_plan(plan(RunMode::Auto, RankScope::Global, &[2]));
    router.seat(proc(20), 0, &place(0, 2));
    assert!(log(&mut router, proc(20), r#"{"_step":6,"val":3}"#).is_empty());
    let due = |router: &mut Router, at: u64| -> Vec<String> {
        router.complete("b", |held| held.is_due(Stamp(at))).iter().map(whole).collect()
    };
    assert!(due(&mut router, 5000 + 299_999).is_empty());
    assert_eq!(due(&mut router, 5000 + 300_000), ["7 loss=2 val=3 from 6"], "a step that hangs");
}

#[test]
fn ranks_of_a_shared_run_count_their_own_steps() {
    let mut router = router(RunMode::Shared, RankScope::Global);
    let lines = [10, 11, 11, 10].map(|n| send(&mut router, proc(n), r#"{"a":1}"#));
    assert_eq!(lines, ["b 0", "b 0", "b 1", "b 1"]);
}

#[test]
fn times_count_from_the_run_s_first_start() {
    let mut router = router(RunMode::Auto, RankScope::Global);
    router.begin("b", Stamp(1000));
    let mut stamped = |line: &'static str| {
        let mut row = Row::parse(line.as_bytes()).unwrap();
        match router.route(proc(10), &mut row, line, Stamp(5000), false).1 {
            Route::Run(stamped) => (stamped.timestamp, stamped.runtime),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(stamped(r#"{"a":1}"#), (5.0, 4.0));
    assert_eq!(stamped(r#"{"a":1,"_timestamp":3.5,"_runtime":77}"#), (3.5, 2.5));
    assert_eq!(stamped(r#"{"a":1,"_timestamp":"soon"}"#), (5.0, 4.0));
    assert_eq!(stamped(r#"{"a":1,"_timestamp":0.5}"#), (0.5, 0.0));
}

#[test]
fn a_switch_sends_what_follows_to_other_runs_and_back() {
    let mut router = router(RunMode::New, RankScope::Global);
    assert_eq!(send(&mut router, proc(11), r#"{"a":1}"#), "b-rank-1 0");
    router.set_plan(plan(RunMode::Shared, RankScope::Global, &[2]));
    assert_eq!(send(&mut router, proc(11), r#"{"a":1}"#), "b 0");
    assert!(!router.keeps("b-rank-1") && router.keeps("b"));
    assert_eq!(router.open_runs(), BTreeSet::from(["b".to_owned()]));
    router.set_plan(plan(RunMode::New, RankScope::Global, &[2]));
    assert_eq!(send(&mut router, proc(11), r#"{"a":1}"#), "b-rank-1 1");
}

#[test]
fn between_two_starts_of_the_group_no_run_is_finished() {
    let mut router = router(RunMode::New, RankScope::Global);
    [10, 11].into_iter().for_each(|n| router.gone(proc(n), Some(Exit::Signal(15))));
    assert!(router.open_runs().is_empty() && router.keeps("b-rank-0") && router.keeps("b-rank-1"));
}

#[test]
fn a_smaller_group_leaves_runs_and_its_former_ranks_keep_theirs() {
    let mut router = router(RunMode::New, RankScope::Global);
    router.gone(proc(11), None);
    router.set_plan(plan(RunMode::New, RankScope::Global, &[1]));
    router.seat(proc(20), 0, &place(0, 1));
    assert!(!router.keeps("b-rank-1"));
    assert_eq!(send(&mut router, proc(11), r#"{"late":1}"#), "b-rank-1 0");
    assert_eq!(send(&mut router, proc(20), r#"{"a":1}"#), "b 0", "one rank is no distributed job");
}

#[test]
fn a_rank_without_a_number_waits_until_it_tells_it() {
    let mut router = Router::default();
    router.set_plan(plan(RunMode::Auto, RankScope::Global, &[2]));
    router.seat(proc(1), 0, &Place::default());
    assert_eq!(send(&mut router, proc(1), r#"{"a":1}"#), "later");
    router.seat(proc(1), 0, &place(0, 2));
    assert_eq!(send(&mut router, proc(1), r#"{"a":1}"#), "b 0");
    assert_eq!(send(&mut router, proc(9), r#"{"a":1}"#), "later", "nobody knows it");
}

#[test]
fn the_primary_s_node_completes_a_shared_run() {
    let mut second = Router::default();
    second.set_plan(plan(RunMode::Shared, RankScope::Global, &[2, 2]));
    second.seat(proc(1), 0, &place(2, 4));
    assert!(!second.has_primary("b") && second.is_on_other_nodes("b"));
    second.set_plan(plan(RunMode::Shared, RankScope::Worker, &[2, 2]));
    assert!(second.has_primary("b-worker-1") && !second.is_on_other_nodes("b-worker-1"));
    assert!(!second.has_primary("b-worker-0"), "of the other node");
    second.set_plan(plan(RunMode::New, RankScope::Global, &[2, 2]));
    assert!(second.has_primary("b-rank-2"));
}

#[test]
fn figures_of_silent_ranks_go_where_their_node_logs() {
    let mut first = router(RunMode::Auto, RankScope::Global);
    let label = |label: &str| Some(label.to_owned());
    assert_eq!(first.figures_of(proc(10)), Some(("b", label("rank-0"))));
    assert_eq!(first.figures_of(proc(11)), Some(("b", label("rank-1"))));
    first.gone(proc(10), None);
    assert_eq!(first.figures_of(proc(11)), Some(("b", label("rank-1"))), "between two lives");
    let new = router(RunMode::New, RankScope::Global);
    assert_eq!(new.figures_of(proc(11)), Some(("b-rank-1", None)));
    let mut second = Router::default();
    second.set_plan(plan(RunMode::Auto, RankScope::Global, &[2, 2]));
    second.seat(proc(1), 0, &place(2, 4));
    assert_eq!(second.figures_of(proc(1)), None, "no rank of this node logs");
}

#[test]
fn a_run_fails_with_the_code_of_its_own_rank() {
    let end = |mode, exits: [Exit; 2], state, job| {
        let mut router = router(mode, RankScope::Global);
        [10, 11].into_iter().zip(exits).for_each(|(n, exit)| router.gone(proc(n), Some(exit)));
        let runs = plan(mode, RankScope::Global, &[2]).runs;
        runs.iter().map(|run| router.exit_code(&run.id, state, job)).collect::<Vec<_>>()
    };
    let (ok, three, term) = (Exit::Code(0), Exit::Code(3), Exit::Signal(15));
    assert_eq!(end(RunMode::New, [ok, ok], JobState::Done, Some(0)), [0, 0]);
    assert_eq!(end(RunMode::New, [three, term], JobState::Failed, Some(1)), [3, 143]);
    assert_eq!(end(RunMode::Auto, [three, term], JobState::Failed, Some(1)), [3]);
    assert_eq!(
        end(RunMode::Auto, [term, three], JobState::Failed, Some(1)),
        [1],
        "rank 1 does not write to it"
    );
    assert_eq!(end(RunMode::Shared, [term, three], JobState::Failed, Some(1)), [3]);
    assert_eq!(end(RunMode::Shared, [term, term], JobState::Stopped, Some(143)), [143]);
    assert_eq!(end(RunMode::Auto, [ok, ok], JobState::Failed, None), [1]);
    assert_eq!(
        end(RunMode::Auto, [three, ok], JobState::Done, None),
        [0],
        "a rank of a start that was made good"
    );
}

proptest! {
    #[test]
    fn steps_of_any_writer_only_rise_whatever_is_logged_and_switched(
        script in prop::collection::vec((0_u64..2, prop::option::of(0_u64..20), any::<u8>()), 1..60)
    ) {
        let mut router = router(RunMode::Auto, RankScope::Global);
        let mut last: BTreeMap<(String, u64), u64> = BTreeMap::new();
        let mut rows = 0;
        for (rank, step, action) in script {
            let line = step.map_or("{\"a\":1}".to_owned(), |step| format!("{{\"_step\":{step}}}"));
            if action < 30 {
                let mode = RunMode::ALL[usize::from(action) % 3];
                router.set_plan(plan(mode, RankScope::Global, &[2]));
            }
            let mut row = Row::parse(line.as_bytes()).unwrap();
            let (before, route) = router.route(proc(10 + rank), &mut row, &line, Stamp(1), action % 2 == 0);
            let held = before.as_ref().map(|held| held.row().1.step);
            let at_once = if let Route::Run(stamped) = &route { Some(stamped.step) } else { None };
            for step in held.into_iter().chain(at_once) {
                let seat = router.seat_of(proc(10 + rank)).unwrap();
                let writer = (seat.run.clone().unwrap(), if seat.shared { rank } else { 0 });
                let before = last.insert(writer, step);
                prop_assert!(before.is_none_or(|before| before < step));
                rows += 1;
            }
        }
        let counted: u64 = router.books.values().map(|book| book.rows).sum();
        prop_assert_eq!(counted, rows);
    }
}
