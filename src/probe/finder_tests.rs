use super::{
    super::{
        fake::{Fake, FakeProc},
        scan::{job_near, scan},
    },
    *,
};

fn spawned(pid: i32, agent: i32) -> Fake {
    Fake::new(pid, agent, "python", "python -c from_multiprocessing.spawn --multiprocessing-fork")
        .in_session(1)
}

fn tracker(pid: i32, agent: i32) -> Fake {
    let mut fake = Fake::new(pid, agent, "python", "");
    fake.cmdline = b"python\0-c\0from multiprocessing.resource_tracker import main;main(5)\0".to_vec();
    fake
}

fn init() -> Fake {
    Fake::new(1, 0, "systemd", "/sbin/init")
}

/// `pid:slot`, with a `+` when fresh.
fn shown(look: &TreeLook) -> Vec<String> {
    look.ranks
        .iter()
        .map(|rank| {
            let slot = rank.sighting.place.slot().map_or("?".into(), |slot| slot.to_string());
            format!("{}:{slot}{}", rank.sighting.proc.pid, if rank.fresh { "+" } else { "" })
        })
        .collect()
}

#[test]
fn a_groups_life_is_followed() {
    let agent = Fake::agent(100);
    let [r0, r1] = [Fake::rank(200, 100, 0), Fake::rank(201, 100, 1)];
    let tree = FakeProc::new(&[init(), agent.clone()]);
    let mut finder = Finder::new(tree.root(), agent.proc());
    let look = finder.look();
    assert!(look.agent.is_some() && look.ranks.is_empty() && !look.undecided);
    assert_eq!(look.agent_wchan, None, "nobody is dead");

    let mut forked = agent.clone();
    (forked.pid, forked.start, forked.ppid) = (200, r0.start, 100);
    tree.put(&forked);
    assert!(finder.look().undecided, "between fork and exec");
    tree.put(&r0);
    tree.put(&r1);
    let look = finder.look();
    assert_eq!((shown(&look), look.undecided), (vec!["200:0+".into(), "201:1+".into()], false));
    assert_eq!(finder.facts(r1.proc()).unwrap().env.as_ref().unwrap().place.rank, Some(1));

    tree.put(&Fake::rank(300, 200, 0).in_session(200));
    tree.put(&Fake::new(301, 200, "wandb-core", "wandb-core").leading().with_place(0));
    tree.put(&Fake::new(302, 200, "git", "").in_session(200).zombie(0));
    tree.put(&Fake::new(303, 100, "nvidia-smi", "nvidia-smi").in_session(1));
    assert_eq!(shown(&finder.look()), ["200:0", "201:1"], "what ranks started is no rank");

    tree.put(&r0.clone().zombie(9));
    let look = finder.look();
    assert_eq!((look.ranks[0].look.kernel, look.ranks.len()), (Kernel::Dead, 2));
    assert_eq!(look.agent_wchan.as_deref(), Some("futex_do_wait"));
    tree.reap(&r0);
    tree.reap(&r1);
    tree.put(&Fake::rank(400, 100, 0));
    let look = finder.look();
    assert_eq!((shown(&look), look.gone), (vec!["400:0+".into()], vec![r0.proc(), r1.proc()]));
}

#[test]
fn a_pid_that_was_given_to_the_next_rank_is_a_new_rank() {
    let agent = Fake::agent(100);
    let mut rank = Fake::rank(200, 100, 0);
    let tree = FakeProc::new(&[agent.clone(), rank.clone()]);
    let mut finder = Finder::new(tree.root(), agent.proc());
    finder.look();
    let before = rank.proc();
    rank.start += 50;
    tree.reap(&Fake::rank(200, 100, 0));
    tree.put(&rank);
    let look = finder.look();
    assert_eq!((shown(&look), look.gone), (vec!["200:0+".into()], vec![before]));
}

#[test]
fn a_child_that_never_calls_exec_does_not_ask_for_quick_looks_for_ever() {
    let agent = Fake::agent(100);
    let tree = FakeProc::new(std::slice::from_ref(&agent));
    let mut copy = agent.clone();
    (copy.pid, copy.ppid) = (200, 100);
    tree.put(&copy);
    let mut finder = Finder::new(tree.root(), agent.proc());
    let quick = (0..50).filter(|_| finder.look().undecided).count() as u32;
    assert_eq!(quick, QUICK_LOOKS - 1);
    tree.put(&Fake { start: copy.start, ..Fake::rank(200, 100, 0) });
    assert_eq!(shown(&finder.look()), ["200:0+"], "it is not forgotten");
}

#[test]
fn function_ranks_keep_their_numbers() {
    let agent = Fake::agent(100);
    let tree = FakeProc::new(&[agent.clone(), tracker(150, 100), spawned(200, 100), spawned(201, 100)]);
    let mut finder = Finder::new(tree.root(), agent.proc());
    assert_eq!(shown(&finder.look()), ["200:0+", "201:1+"]);
    assert_eq!(finder.mode(), Some(Mode::Function));
    tree.reap(&spawned(200, 100));
    tree.put(&spawned(202, 100));
    assert_eq!(shown(&finder.look()), ["201:1", "202:2+"]);
    // The deadlock: all ranks are zombies, and only ranks count.
    tree.put(&spawned(201, 100).zombie(6));
    tree.put(&spawned(202, 100).zombie(6));
    let look = finder.look();
    assert_eq!(shown(&look), ["201:1", "202:2"]);
    assert!(look.ranks.iter().all(|rank| rank.look.kernel == Kernel::Dead));
    tree.reap(&spawned(201, 100));
    tree.reap(&spawned(202, 100));
    tree.put(&spawned(300, 100));
    assert_eq!(shown(&finder.look()), ["300:0+"], "a new group counts from 0");
}

#[test]
fn ranks_are_read_in_portions_for_those_who_ask() {
    let agent = Fake::agent(100);
    let ranks: Vec<Fake> = (0..10).map(|n| Fake::rank(200 + n, 100, n as u32)).collect();
    let tree = FakeProc::new(&[std::slice::from_ref(&agent), ranks.as_slice()].concat());
    let met = job_near(tree.root(), 100, 4).unwrap();
    assert_eq!((met.ranks.len(), met.facts.len(), met.has_more), (4, 4, true));
    let mut finder = Finder::new(tree.root(), agent.proc());
    finder.know(met.facts);
    finder.in_portions(4);
    let mut look = || {
        let look = finder.look();
        (look.ranks.len(), look.ranks.iter().filter(|rank| rank.fresh).count(), look.unread)
    };
    assert_eq!(
        [look(), look(), look(), look()],
        [(4, 4, true), (8, 4, true), (10, 2, false), (10, 0, false)]
    );
    assert!(!job_near(tree.root(), 100, 10).unwrap().has_more);
}

#[test]
fn ranks_stay_followed_after_the_agents_death() {
    let agent = Fake::agent(100);
    let [r0, r1] = [Fake::rank(200, 100, 0), Fake::rank(201, 100, 1)];
    let daemon = Fake::new(300, 200, "board", "board").leading().with_place(0);
    let tree = FakeProc::new(&[init(), agent.clone(), r0.clone(), daemon.clone()]);
    let mut finder = Finder::new(tree.root(), agent.proc());
    finder.look();
    tree.reap(&agent);
    let adopt = |fake: &Fake| tree.put(&Fake { ppid: 1, ..fake.clone() });
    adopt(&r0);
    adopt(&r1);
    let look = finder.look();
    assert_eq!((look.agent, look.agent_wchan.clone()), (None, None));
    assert_eq!(shown(&look), ["200:0", "201:1+"], "one that started just before was never seen");
    assert_eq!(look.ranks[1].sighting.agent_pid, 100);
    tree.reap(&Fake { ppid: 1, ..r0.clone() });
    adopt(&daemon);
    let look = finder.look();
    assert_eq!((shown(&look), look.gone), (vec!["201:1".into()], vec![r0.proc()]));
}

#[test]
fn a_dead_ranks_daemon_is_not_taken_for_an_orphan() {
    let agent = Fake::agent(100);
    let [r0, r1] = [Fake::rank(200, 100, 0), Fake::rank(201, 100, 1)];
    let tree = FakeProc::new(&[init(), agent.clone(), r0.clone(), r1.clone()]);
    let mut finder = Finder::new(tree.root(), agent.proc());
    finder.look();
    tree.reap(&r0);
    tree.put(&Fake::new(300, 1, "board", "board").leading().with_place(0));
    tree.reap(&agent);
    tree.put(&Fake { ppid: 1, ..r1 });
    assert_eq!(shown(&finder.look()), ["201:1"]);
}

#[test]
fn ranks_known_from_a_journal_are_followed_without_an_agent() {
    let rank = Fake::rank(200, 1, 0);
    let tree = FakeProc::new(&[init(), rank.clone()]);
    let mut finder = Finder::new(tree.root(), ProcId { pid: 100, start: 1 });
    let sighting = |proc| Sighting { proc, agent_pid: 100, place: crate::domain::sample::Place::default() };
    finder.follow(sighting(rank.proc()));
    finder.follow(sighting(rank.proc()));
    finder.follow(sighting(ProcId { pid: 200, start: 1 }));
    assert_eq!(shown(&finder.look()), ["200:?+"]);
    assert_eq!(shown(&finder.look()), ["200:?"]);
}

#[test]
fn a_rank_that_is_met_in_the_middle_of_an_exec_is_read_again() {
    let mut rank = Fake::rank(200, 1, 0);
    let environ = std::mem::take(&mut rank.environ);
    let tree = FakeProc::new(&[init(), rank.clone()]);
    let mut finder = Finder::new(tree.root(), ProcId { pid: 100, start: 1 });
    let place = crate::domain::sample::Place::default();
    finder.follow(Sighting { proc: rank.proc(), agent_pid: 100, place });
    finder.look();
    let place_of = |finder: &Finder| Some(finder.facts(rank.proc())?.env.as_ref()?.place.rank);
    assert_eq!(place_of(&finder), Some(None));
    tree.put(&Fake { environ, ..rank.clone() });
    finder.look();
    assert_eq!(place_of(&finder), Some(Some(0)));
}

#[test]
fn the_scan_finds_each_job_once() {
    let mut orphan = Fake::rank(500, 1, 0);
    orphan.environ = b"LOCAL_RANK=0\0RANK=8\0TORCHELASTIC_RUN_ID=lost\0".to_vec();
    let mut kernel = Fake::new(2, 0, "kthreadd", "");
    kernel.cmdline.clear();
    let all = [
        init(),
        kernel,
        Fake::agent(100),
        Fake::rank(200, 100, 0),
        Fake::rank(201, 100, 1),
        Fake::new(301, 200, "wandb-core", "wandb-core").leading().with_place(0),
        Fake::new(110, 1, "pt_elastic", "python launch.py --rdzv_id 77").leading(),
        tracker(160, 110),
        spawned(210, 110),
        Fake::new(120, 1, "elastictop", "/opt/elastictop __agent").leading(),
        Fake {
            environ: b"LOCAL_RANK=0\0RANK=0\0TORCHELASTIC_RUN_ID=demo\0".to_vec(),
            ..Fake::rank(220, 120, 0)
        },
        orphan,
        Fake::new(600, 1, "vim", "vim torchrun"),
    ];
    let tree = FakeProc::new(&all);
    std::os::unix::fs::symlink("/some/where", tree.dir(100).join("cwd")).unwrap();
    let jobs = scan(tree.root());
    let brief: Vec<_> = jobs
        .iter()
        .map(|job| {
            (
                job.agent.map(|agent| agent.pid),
                job.mode,
                job.run_id.as_deref().unwrap_or("?"),
                job.ranks.len(),
            )
        })
        .collect();
    assert_eq!(
        brief,
        [
            (Some(100), Some(Mode::Script), "run", 2),
            (Some(110), Some(Mode::Function), "77", 1),
            (Some(120), Some(Mode::Script), "demo", 1),
            (None, Some(Mode::Script), "lost", 1),
        ]
    );
    assert_eq!(jobs[0].command[3..5], ["--token", crate::domain::redact::HIDDEN]);
    assert_eq!((jobs[0].max_restarts, jobs[0].use_agent_store), (Some(3), Some(false)));
    assert_eq!(jobs[0].cwd.as_deref(), Some(Path::new("/some/where")));
    assert_eq!((jobs[0].orphaned, jobs[3].orphaned), (false, true));
    assert_eq!(jobs[0].uid, rustix::process::geteuid().as_raw());
    assert_eq!(jobs[3].ranks[0].place.rank, Some(8));
}

#[test]
fn this_machine_can_be_scanned() {
    scan(Path::new(crate::probe::proc::ROOT));
}

/// `cargo test --lib what_a_look_costs -- --ignored --nocapture`
#[test]
#[ignore = "prints a measurement"]
fn what_a_look_costs() {
    use std::{
        io::{BufRead, BufReader},
        process::{Command, Stdio},
        time::Instant,
    };
    const RANKS: u32 = 64;
    const LOOKS: u32 = 200;
    let root = Path::new(proc::ROOT);
    let mut ranks: Vec<_> = (0..RANKS)
        .map(|n| {
            let mut command = Command::new("setsid");
            command
                .args(["sh", "-c", "echo; read x"])
                .env("LOCAL_RANK", n.to_string())
                .env("RANK", n.to_string());
            let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            BufReader::new(child.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
            child
        })
        .collect();
    let mut finder = Finder::new(root, proc::identify(root, std::process::id() as i32).unwrap());
    let begin = Instant::now();
    assert_eq!(finder.look().ranks.len() as u32, RANKS);
    let first = begin.elapsed();
    let begin = Instant::now();
    (0..LOOKS).for_each(|_| assert_eq!(finder.look().ranks.len() as u32, RANKS));
    let look = begin.elapsed() / LOOKS;
    let begin = Instant::now();
    let jobs = scan(root);
    let (scan, processes) = (begin.elapsed(), proc::pids(root).len());
    println!("first look at {RANKS} ranks {first:?}, later ones {look:?}, {:?} per rank", look / RANKS);
    println!("scan of {processes} processes {scan:?}, {} jobs", jobs.len());
    for rank in &mut ranks {
        drop(rank.stdin.take());
        rank.wait().unwrap();
    }
}

/// What Python's `subprocess` does with ranks, fast and often; with a `preexec_fn` it forks for real.
const FORKING_AGENT: &str = r#"
import os, subprocess, sys
sys.stdin.readline()
for attempt in range(40):
    ranks = []
    for n in "01":
        env = dict(os.environ, LOCAL_RANK=n, RANK=n, TORCHELASTIC_RUN_ID="r", TORCHELASTIC_RESTART_COUNT=str(attempt))
        hook = (lambda: None) if attempt % 2 else None
        ranks.append(subprocess.Popen(["sleep", "0.1"], env=env, start_new_session=True, preexec_fn=hook))
    for rank in ranks: rank.wait()
    print(*[rank.pid for rank in ranks], flush=True)
"#;

/// `cargo test --lib no_rank_is_missed -- --ignored`
#[test]
#[ignore = "needs python3 and takes some seconds"]
fn no_rank_is_missed_while_it_comes_to_be() {
    use std::{
        io::{Read, Write},
        process::{Command, Stdio},
    };
    let mut child = Command::new("python3")
        .args(["-c", FORKING_AGENT])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let root = Path::new(proc::ROOT);
    let agent = proc::identify(root, child.id() as i32).unwrap();
    let mut finder = Finder::new(root, agent);
    child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    let mut seen = HashMap::new();
    loop {
        let look = finder.look();
        for RankLook { sighting, .. } in look.ranks {
            seen.insert(sighting.proc.pid, (sighting.place.slot(), sighting.place.restart_count));
        }
        if look.agent.is_none_or(|agent| agent.kernel == Kernel::Dead) {
            break;
        }
    }
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    child.wait().unwrap();
    let mut started = HashMap::new();
    for (attempt, line) in (0..).zip(text.lines()) {
        for (slot, pid) in (0..).zip(line.split(' ')) {
            started.insert(pid.parse().unwrap(), (Some(slot), Some(attempt)));
        }
    }
    assert_eq!(seen, started);
}
