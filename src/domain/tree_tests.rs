use super::*;

fn facts(pid: i32, ppid: i32, sid: i32, comm: &str, cmdline: &[&str]) -> ProcFacts {
    ProcFacts {
        proc: ProcId { pid, start: 1000 + pid as u64 },
        ppid,
        pgid: sid,
        sid,
        comm: comm.into(),
        cmdline: cmdline.iter().map(|&word| word.to_owned()).collect(),
        kernel: Kernel::Alive,
        env: Some(EnvFacts { bytes: 20, ..EnvFacts::default() }),
    }
}

fn with_place(mut facts: ProcFacts, local_rank: u32, run_id: &str) -> ProcFacts {
    let place = Place {
        rank: Some(local_rank),
        local_rank: Some(local_rank),
        group_rank: Some(0),
        run_id: Some(run_id.into()),
        ..Place::default()
    };
    facts.env = Some(EnvFacts { place, has_local_rank: true, bytes: 500, ..EnvFacts::default() });
    facts
}

fn torchrun(pid: i32) -> ProcFacts {
    facts(pid, 50, 50, "pt_elastic", &["/v/bin/python", "/v/bin/torchrun", "--max_restarts=3", "t.py"])
}

fn rank(pid: i32, agent: i32, local_rank: u32) -> ProcFacts {
    with_place(facts(pid, agent, pid, "python", &["python", "-u", "t.py"]), local_rank, "run")
}

fn spawned(pid: i32, agent: i32) -> ProcFacts {
    facts(
        pid,
        agent,
        50,
        "python",
        &["python", "-c", "from multiprocessing.spawn import x", "--multiprocessing-fork"],
    )
}

fn tracker(pid: i32, agent: i32) -> ProcFacts {
    facts(
        pid,
        agent,
        50,
        "python",
        &["python", "-c", "from multiprocessing.resource_tracker import main;main(4)"],
    )
}

fn dead(mut facts: ProcFacts) -> ProcFacts {
    facts.kernel = Kernel::Dead;
    facts.cmdline.clear();
    facts.env = Some(EnvFacts::default());
    facts
}

fn pids(ranks: &[Sighting]) -> Vec<i32> {
    ranks.iter().map(|rank| rank.proc.pid).collect()
}

fn locals(ranks: &[Sighting]) -> Vec<Option<u32>> {
    ranks.iter().map(|rank| rank.place.slot()).collect()
}

#[test]
fn agents_are_told_by_name_then_by_what_python_runs() {
    let sign = |comm: &str, line: &str| {
        is_agent(&facts(9, 1, 9, comm, &line.split_whitespace().collect::<Vec<_>>()))
    };
    assert_eq!(sign("pt_elastic", "anything"), Some(AgentSign::Comm));
    for line in [
        "/usr/bin/torchrun t.py",
        "python3.11 /v/bin/torchrun --standalone t.py",
        "python -m torch.distributed.run t.py",
        "/v/bin/python -u -Wignore -X dev -m torch.distributed.launch t.py",
        "python -um torch.distributed.run",
        "python -mtorch.distributed.run",
        "python --check-hash-based-pycs=never -m torch.distributed.run",
    ] {
        assert_eq!(sign("python", line), Some(AgentSign::Cmdline), "{line}");
    }
    for line in [
        "bash -c torchrun",
        "vim torchrun",
        "timeout 5 torchrun t.py",
        "python t.py torchrun -m torch.distributed.run",
        "python -c import_torchrun torchrun",
        "python -m pdb torchrun",
        "python -m",
        "",
        "elastictop ps",
    ] {
        assert_eq!(sign("x", line), None, "{line}");
    }
    assert_eq!(sign("elastictop", "/opt/elastictop __agent --nproc 4"), Some(AgentSign::Embedded));
    assert_eq!(is_agent(&dead(torchrun(9))), None);
}

#[test]
fn only_session_leaders_with_local_rank_are_ranks() {
    let all = vec![
        torchrun(100),
        rank(201, 100, 1),
        rank(200, 100, 0),
        with_place(facts(300, 200, 200, "pt_data_worker", &["python", "-u", "t.py"]), 0, "run"),
        with_place(facts(301, 200, 301, WANDB_CORE, &["wandb-core"]), 0, "run"),
        dead(facts(302, 200, 200, "git", &[])),
        facts(400, 100, 50, "cat", &["cat"]),
        facts(401, 100, 401, "daemon", &["daemon"]),
    ];
    let found = ranks_of(&all[0], &all);
    assert_eq!(
        (found.mode, pids(&found.ranks), locals(&found.ranks)),
        (Some(Mode::Script), vec![200, 201], vec![Some(0), Some(1)])
    );
    assert!(found.undecided.is_empty());
    let agents = find_agents(&all);
    assert_eq!(agents, [AgentFound { proc: all[0].proc, sign: AgentSign::Comm }]);
    assert_eq!(all[0].option("max-restarts"), Some("3"));
}

#[test]
fn a_rank_is_undecided_until_its_exec() {
    let agent = torchrun(100);
    let mut forked = agent.clone();
    (forked.proc.pid, forked.ppid) = (200, 100);
    assert_eq!(role(&agent, &forked), Role::Undecided);
    forked.sid = 200;
    assert_eq!(role(&agent, &forked), Role::Undecided, "after setsid");
    assert_eq!(find_agents(&[agent.clone(), forked.clone()]).len(), 1, "the copy is no agent");
    forked.env = rank(200, 100, 0).env;
    assert_eq!(
        role(&agent, &forked),
        Role::Undecided,
        "the environment was read after the exec, the rest before"
    );
    forked.cmdline.clear();
    assert_eq!(role(&agent, &forked), Role::Undecided, "in the middle of exec");
    let mut half = rank(200, 100, 0);
    half.env = Some(EnvFacts::default());
    assert_eq!(role(&agent, &half), Role::Undecided, "the environment comes last");
    let mut not_yet_leading = rank(200, 100, 0);
    not_yet_leading.sid = 50;
    assert_eq!(role(&agent, &not_yet_leading), Role::Undecided, "it may make itself a session leader");
    assert_eq!(role(&agent, &rank(200, 100, 0)), Role::Rank(Mode::Script));
    assert_eq!(ranks_of(&agent, &[agent.clone(), half]).undecided, [ProcId { pid: 200, start: 1200 }]);
}

#[test]
fn an_agent_inside_a_rank_does_not_lend_its_place_to_its_children() {
    let inner = with_place(torchrun(100), 3, "outer");
    let mut forked = inner.clone();
    (forked.proc.pid, forked.ppid, forked.sid) = (200, 100, 200);
    assert_eq!(role(&inner, &forked), Role::Undecided);
}

#[test]
fn function_mode_numbers_by_start_and_leaves_the_tracker_out() {
    let mut all = vec![torchrun(100), tracker(150, 100), spawned(202, 100), spawned(201, 100)];
    let found = ranks_of(&all[0], &all);
    assert_eq!(
        (found.mode, pids(&found.ranks), locals(&found.ranks)),
        (Some(Mode::Function), vec![201, 202], vec![Some(0), Some(1)])
    );
    // The deadlock: every rank dead, the tracker alive, and nobody saw the ranks before.
    all[2] = dead(all[2].clone());
    all[3] = dead(all[3].clone());
    let found = ranks_of(&all[0], &all);
    assert_eq!((found.mode, pids(&found.ranks)), (Some(Mode::Function), vec![201, 202]));
}

#[test]
fn dead_script_ranks_get_their_number_from_the_order_unless_it_contradicts() {
    let agent = torchrun(100);
    let all = [dead(rank(200, 100, 0)), rank(201, 100, 1), dead(rank(202, 100, 2))];
    assert_eq!(locals(&ranks_of(&agent, &all).ranks), [Some(0), Some(1), Some(2)]);
    let all = [dead(rank(200, 100, 0)), rank(201, 100, 5)];
    assert_eq!(locals(&ranks_of(&agent, &all).ranks), [None, Some(5)]);
}

#[test]
fn a_zombie_child_without_siblings_that_tell_is_no_rank() {
    let agent = torchrun(100);
    let found = ranks_of(&agent, &[dead(facts(200, 100, 50, "git", &[]))]);
    assert_eq!(found, Ranks::default());
}

#[test]
fn another_users_ranks_have_no_known_place() {
    let agent = torchrun(100);
    let mut hidden = rank(200, 100, 0);
    hidden.env = None;
    let found = ranks_of(&agent, &[hidden]);
    assert_eq!(pids(&found.ranks), [200]);
    assert_eq!(found.ranks[0].place.rank, None);
}

#[test]
fn a_parent_of_a_rank_is_an_agent_unless_it_adopts_orphans() {
    let custom = facts(100, 50, 50, "my_launcher", &["python", "launch.py"]);
    let found = find_agents(&[custom.clone(), rank(200, 100, 0)]);
    assert_eq!(found, [AgentFound { proc: custom.proc, sign: AgentSign::ParentOfRank }]);
    for (pid, comm, program) in
        [(1, "bash", "bash"), (60, "systemd", "/lib/systemd/systemd"), (61, "tokio", "/x/elastictop")]
    {
        let reaper = facts(pid, 0, pid, comm, &[program]);
        let all = [reaper, rank(200, pid, 0), with_place(facts(300, 200, 300, WANDB_CORE, &["w"]), 0, "run")];
        assert_eq!(find_agents(&all), []);
        assert_eq!(pids(&orphans(&all, None, &[])), [200], "{comm}");
    }
}

#[test]
fn a_session_leader_started_by_a_rank_makes_it_no_agent() {
    let all =
        [torchrun(100), rank(200, 100, 0), with_place(facts(300, 200, 300, "board", &["board"]), 0, "run")];
    assert_eq!(find_agents(&all).len(), 1);
    assert_eq!(orphans(&all, None, &[]), []);
}

#[test]
fn a_session_leader_started_by_a_function_rank_makes_it_no_agent_and_is_no_orphan() {
    let board = |pid, ppid| with_place(facts(pid, ppid, pid, "board", &["board"]), 0, "run");
    let fork_mode_rank = facts(202, 100, 50, "python", &["python", "x"]);
    let all = [torchrun(100), spawned(200, 100), board(300, 200), fork_mode_rank, board(301, 202)];
    assert_eq!(find_agents(&all).len(), 1);
    assert_eq!(orphans(&all, None, &[]), []);
    let renamed = with_place(facts(302, 1, 302, "sleep", &["/x/wandb-core", "60"]), 0, "run");
    assert_eq!(orphans(&[renamed], None, &[]), []);
}

#[test]
fn orphans_are_ranks_and_not_what_ranks_left_behind() {
    let init = facts(1, 0, 1, "systemd", &["/sbin/init"]);
    let board = with_place(facts(300, 1, 300, "board", &["board"]), 0, "run");
    let other = with_place(rank(400, 1, 0), 0, "other");
    let all = vec![init, rank(200, 1, 0), rank(201, 1, 1), board.clone(), dead(rank(202, 1, 2)), other];
    assert_eq!(pids(&orphans(&all, Some("run"), &[])), [200, 201], "the oldest of two with one place");
    assert_eq!(pids(&orphans(&all, None, &[])), [200, 201, 400]);
    // Rank 0 died; its daemon alone carries its place. Who saw the ranks before is not fooled.
    let left = [all[0].clone(), all[2].clone(), board];
    assert_eq!(pids(&orphans(&left, Some("run"), &[all[1].proc, all[2].proc])), [201]);
}

#[test]
fn options_are_read_in_every_spelling() {
    let line = |words: &[&str]| facts(1, 1, 1, "x", words);
    assert_eq!(line(&["t", "--rdzv_id", "7"]).option("rdzv-id"), Some("7"));
    assert_eq!(line(&["t", "--rdzv-id=7", "--rdzv-id=8"]).option("rdzv-id"), Some("8"));
    assert_eq!(line(&["t", "--rdzv-id"]).option("rdzv-id"), None);
}
