use std::{io::Write, os::unix::fs::symlink, process};

use proptest::prelude::*;

use super::{
    super::fake::{Fake, FakeProc},
    *,
};
use crate::domain::tree::{Mode, Role, ranks_of, role};

#[test]
fn odd_names_are_read_to_the_last_parenthesis() {
    for comm in [&b"a) b ("[..], b"", b"((((", b")", b"x) R 1 2 3", b"\xff\xfe", b"new\nline"] {
        let mut fake = Fake::new(42, 7, "", "x");
        fake.comm = comm.to_vec();
        let line = fake.stat();
        let stat = Stat::parse(&line).unwrap();
        assert_eq!((stat.proc, stat.comm, stat.ppid), (fake.proc(), comm, 7));
        assert_eq!((stat.cpu_ticks, stat.threads, stat.wait_status), (200, 12, Some(0)));
    }
}

#[test]
fn this_process_reads_like_the_kernel_wrote_it() {
    let me = process::id() as i32;
    let facts = read_facts(Path::new(ROOT), me).unwrap();
    assert_eq!(facts.proc.pid, me);
    assert_eq!(facts.cmdline, std::env::args().collect::<Vec<_>>());
    assert_eq!(facts.kernel, Kernel::Alive);
    let mut watch = Watch::open(Path::new(ROOT), facts.proc).unwrap();
    let look = watch.sample().unwrap();
    assert_eq!(look.ppid, facts.ppid);
    assert!(look.rss_bytes.unwrap() > 1 << 20 && look.threads.unwrap() >= 1);
    let before = look.cpu_ns.unwrap();
    while watch.sample().unwrap().cpu_ns.unwrap() == before {}
    assert_eq!(facts_with_other_start(facts.proc), io::ErrorKind::NotFound);
}

fn facts_with_other_start(proc: ProcId) -> io::ErrorKind {
    let later = ProcId { start: proc.start + 1, ..proc };
    Watch::open(Path::new(ROOT), later).unwrap_err().kind()
}

#[test]
fn a_watch_tells_zombies_ends_and_reused_pids() {
    let mut rank = Fake::rank(200, 100, 0);
    let tree = FakeProc::new(&[Fake::agent(100), rank.clone()]);
    let mut watch = Watch::open(tree.root(), rank.proc()).unwrap();
    let look = watch.sample().unwrap();
    let page = rustix::param::page_size() as u64;
    assert_eq!((look.rss_bytes, look.threads, look.ppid), (Some(24 * page), Some(12), 100));
    assert_eq!(look.cpu_ns, Some(200 * 1_000_000_000 / rustix::param::clock_ticks_per_second()));

    tree.put(&rank.clone().zombie(9));
    let look = watch.sample().unwrap();
    assert_eq!((look.kernel, look.rss_bytes, look.threads), (Kernel::Dead, None, None));

    rank.start += 1;
    tree.put(&rank);
    assert!(is_gone(&watch.sample().unwrap_err()), "another process with the same pid");
    tree.reap(&rank);
    assert!(is_gone(&watch.sample().unwrap_err()));
    assert!(is_gone(&Watch::open(tree.root(), rank.proc()).unwrap_err()));
}

#[test]
fn the_kernel_tells_how_a_zombie_ended() {
    let mut child = process::Command::new("sh")
        .args(["-c", "read x; kill -TERM $$"])
        .stdin(process::Stdio::piped())
        .spawn()
        .unwrap();
    let root = Path::new(ROOT);
    let proc = identify(root, child.id() as i32).unwrap();
    assert_eq!(exit_of_zombie(root, proc), None, "it lives");
    let mut watch = Watch::open(root, proc).unwrap();
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    wait_unreaped(proc.pid);
    assert_eq!(exit_of_zombie(root, proc), Some(Exit::Signal(15)));
    assert_eq!(watch.sample().unwrap().kernel, Kernel::Dead);
    child.wait().unwrap();
    assert_eq!(exit_of_zombie(root, proc), None);
    assert!(is_gone(&watch.sample().unwrap_err()), "a kept file of a process that was reaped");

    let mut child = process::Command::new("sh").args(["-c", "exit 3"]).spawn().unwrap();
    wait_unreaped(child.id() as i32);
    let proc = identify(root, child.id() as i32).unwrap();
    assert_eq!(exit_of_zombie(root, proc), Some(Exit::Code(3)));
    child.wait().unwrap();
}

#[test]
fn glances_see_a_stop_at_once_and_all_else_in_turn() {
    use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
    const NEVER: u32 = 1 << 31;
    let root = Path::new(ROOT);
    let mut child = process::Command::new("sleep").arg("1000").spawn().unwrap();
    let proc = identify(root, child.id() as i32).unwrap();
    let pid = Pid::from_raw(proc.pid).unwrap();
    let mut watch = Watch::open(root, proc).unwrap();
    // It has come to its sleep.
    while watch.glance(NEVER).unwrap().cpu_ns != watch.glance(NEVER).unwrap().cpu_ns {}
    kill_process(pid, Signal::STOP).unwrap();
    waitid(WaitId::Pid(pid), WaitIdOptions::STOPPED | WaitIdOptions::NOWAIT).unwrap();
    // To be stopped takes CPU time, and one that used some and uses none now is looked at whole.
    let mut sees_it = || watch.glance(NEVER).unwrap().kernel == Kernel::Stopped;
    // It may be told that it is stopped while it still leaves its CPU.
    assert!((0..1000).any(|_| {
        std::thread::yield_now();
        sees_it()
    }));

    let stopped = watch.last;
    let mut turns = Vec::new();
    for _ in 0..10 {
        // As if it had been seen alive, and idle.
        (watch.last, watch.ran) = (stopped.map(|look| Look { kernel: Kernel::Alive, ..look }), false);
        turns.push(watch.glance(5).unwrap().kernel == Kernel::Stopped);
    }
    assert_eq!(turns.iter().filter(|is_whole| **is_whole).count(), 2, "every fifth: {turns:?}");
    child.kill().unwrap();
    child.wait().unwrap();
}

fn wait_unreaped(pid: i32) {
    use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
    let id = WaitId::Pid(Pid::from_raw(pid).unwrap());
    waitid(id, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).unwrap();
}

#[test]
fn children_come_from_the_file_or_from_the_parents() {
    let mut child = process::Command::new("cat").stdin(process::Stdio::piped()).spawn().unwrap();
    assert!(children(Path::new(ROOT), process::id() as i32).contains(&(child.id() as i32)));
    drop(child.stdin.take());
    child.wait().unwrap();

    let tree = FakeProc::new(&[
        Fake::agent(100),
        Fake::rank(200, 100, 0),
        Fake::rank(201, 100, 1),
        Fake::rank(300, 200, 0),
    ]);
    let sorted = |mut pids: Vec<i32>| {
        pids.sort_unstable();
        pids
    };
    assert_eq!(sorted(children(tree.root(), 100)), [200, 201]);
    fs::remove_file(tree.dir(100).join("task/100/children")).unwrap();
    assert_eq!(sorted(children(tree.root(), 100)), [200, 201], "on a kernel without that file");
    assert_eq!(children(tree.root(), 999), [0; 0]);
}

#[test]
fn forty_ranks_with_odd_names_are_found() {
    let mut all = vec![Fake::agent(100)];
    for n in 0..40 {
        let mut rank = Fake::rank(200 + n as i32, 100, n);
        rank.comm = [&b"a) b ("[..], b"\xf0\x28", b") Z 1 1 1"][n as usize % 3].to_vec();
        all.push(rank);
    }
    let tree = FakeProc::new(&all);
    let facts: Vec<_> = all.iter().filter_map(|fake| read_facts(tree.root(), fake.pid)).collect();
    let found = ranks_of(&facts[0], &facts);
    let slots: Vec<_> = found.ranks.iter().map(|rank| rank.place.slot()).collect();
    assert_eq!((found.mode, slots), (Some(Mode::Script), (0..40).map(Some).collect()));
    let place = &found.ranks[39].place;
    assert_eq!((place.rank, place.world_size, place.max_restarts), (Some(39), Some(40), Some(3)));
    assert_eq!(place.run_id.as_deref(), Some("run"));
    assert_eq!(facts[40].env.as_ref().unwrap().use_agent_store, Some(false));
}

#[test]
fn a_real_session_leader_with_a_place_is_a_rank() {
    let root = Path::new(ROOT);
    let agent = read_facts(root, process::id() as i32).unwrap();
    // `setsid` execs in place when it leads no group; so the pid stays and the session is its own.
    let mut child = process::Command::new("setsid")
        .args(["sh", "-c", "echo; read x"])
        .env("LOCAL_RANK", "2")
        .env("RANK", "2")
        .stdin(process::Stdio::piped())
        .stdout(process::Stdio::piped())
        .spawn()
        .unwrap();
    io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
    let facts = read_facts(root, child.id() as i32).unwrap();
    assert_eq!(role(&agent, &facts), Role::Rank(Mode::Script));
    assert_eq!(facts.env.unwrap().place.local_rank, Some(2));
    drop(child.stdin.take());
    child.wait().unwrap();
}

#[test]
fn what_may_not_be_read_is_unknown() {
    let tree = FakeProc::new(&[Fake::rank(200, 100, 0)]);
    fs::remove_file(tree.dir(200).join("environ")).unwrap();
    assert_eq!(read_facts(tree.root(), 200).unwrap().env, None);
    assert_eq!(read_facts(tree.root(), 201), None);
}

#[test]
fn huge_command_lines_are_cut_and_large_environments_are_not() {
    let mut fake = Fake::new(200, 1, "x", "x");
    fake.cmdline = vec![b'a'; 3 << 20];
    fake.environ = [b"A=", &vec![b'x'; 3 << 20][..], b"\0LOCAL_RANK=4\0"].concat();
    let tree = FakeProc::new(&[fake]);
    assert_eq!(read_cmdline(tree.root(), 200)[0].len(), MAX_CMDLINE);
    assert_eq!(read_env(tree.root(), 200).unwrap().place.local_rank, Some(4));
}

#[test]
fn log_files_are_what_the_streams_lead_to() {
    let tree = FakeProc::new(&[Fake::rank(200, 100, 0)]);
    let fd = tree.dir(200).join("fd");
    fs::create_dir(&fd).unwrap();
    let log = tree.root().join("stdout.log");
    fs::write(&log, "").unwrap();
    symlink(&log, fd.join("1")).unwrap();
    symlink("/dev/null", fd.join("2")).unwrap();
    assert_eq!(log_paths(tree.root(), 200), (Some(log), None));

    let deleted = tempfile::tempdir().unwrap();
    let path = deleted.path().join("stderr.log");
    let file = File::create(&path).unwrap();
    let mut child = process::Command::new("cat")
        .stdin(process::Stdio::piped())
        .stdout(process::Stdio::piped())
        .stderr(file)
        .spawn()
        .unwrap();
    fs::remove_file(&path).unwrap();
    assert_eq!(log_paths(Path::new(ROOT), child.id() as i32), (None, Some(path)));
    drop(child.stdin.take());
    child.wait().unwrap();
}

#[test]
fn error_files_start_at_the_agents_folder() {
    let env = |path: &str| parse_env(format!("TORCHELASTIC_ERROR_FILE={path}\0").as_bytes());
    assert_eq!(error_file(&env("logs/0/error.json"), Path::new("/w")), Some("/w/logs/0/error.json".into()));
    assert_eq!(error_file(&env("/t/error.json"), Path::new("/w")), Some("/t/error.json".into()));
    assert_eq!(error_file(&env(""), Path::new("/w")), None);
}

proptest! {
    #[test]
    fn any_stat_line_is_survived(bytes: Vec<u8>) {
        let _ = Stat::parse(&bytes);
    }

    #[test]
    fn a_stat_line_cut_anywhere_is_whole_or_nothing(at in 0usize..400, comm: Vec<u8>) {
        let mut fake = Fake::new(42, 7, "", "x");
        fake.comm = comm;
        let line = fake.stat();
        if let Some(stat) = Stat::parse(&line[..at.min(line.len())]) {
            prop_assert_eq!(stat.proc.pid, 42);
        }
    }

    #[test]
    fn any_environment_is_survived(bytes: Vec<u8>) {
        prop_assert_eq!(parse_env(&bytes).bytes, bytes.len());
    }
}
