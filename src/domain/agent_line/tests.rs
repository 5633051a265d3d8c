use proptest::prelude::*;

use super::*;

fn read(text: &str) -> Vec<AgentLine> {
    let mut reader = AgentReader::default();
    let mut all: Vec<_> = text.lines().flat_map(|line| reader.line(line)).collect();
    all.extend(reader.end());
    all
}

const START: &str = r#"{"name": "torchelastic.worker.status.START", "source": "WORKER", "timestamp": 0, "metadata": {"run_id": "x", "global_rank": 3, "group_rank": 1, "worker_id": "25783", "role": "default", "hostname": "n1", "state": "START", "total_run_time": 0, "rdzv_backend": "c10d", "raw_error": null, "metadata": "{\"group_world_size\": 2, \"entry_point\": \"python\", \"local_rank\": [1], \"role_rank\": [3], \"role_world_size\": [4]}", "agent_restarts": 2}}"#;

#[test]
fn a_start_event_tells_pid_and_place_even_amid_other_output() {
    let expected = AgentLine::Started(Started {
        pid: 25783,
        global_rank: Some(3),
        local_rank: Some(1),
        group_rank: Some(1),
        restart_count: Some(2),
        world_size: Some(4),
        group_world_size: Some(2),
    });
    assert_eq!(parse(START), Some(expected.clone()));
    assert_eq!(parse(&format!("step 3 {START}step 4")), Some(expected));
    assert_eq!(parse(&START[..START.len() - 9]), None, "cut off");
}

#[test]
fn ends_are_told_with_exit_and_error() {
    let failed = START.replace("START", "FAILED").replace(
        r#""raw_error": null"#,
        r#""exit_code": [-9], "worker_pid": [77], "raw_error": "{\"message\": 1}""#,
    );
    let Some(AgentLine::Ended(end)) = parse(&failed) else { panic!("{failed}") };
    assert_eq!((end.state, end.pid, end.exit), (EndState::Failed, Some(77), Some(Exit::Signal(9))));
    assert_eq!(end.raw_error.as_deref(), Some(r#"{"message": 1}"#));
    let agent = START.replace("START", "SUCCEEDED").replace("WORKER", "AGENT");
    assert_eq!(parse(&agent), Some(AgentLine::LoopEnded { state: "SUCCEEDED".into() }));
}

#[test]
fn log_lines_are_read_whatever_wrote_them() {
    let text = "\
W1120 09:31:09.123000 25780 torch/distributed/elastic/multiprocessing/api.py:900] Sending process 25783 closing signal SIGTERM
W1120 09:31:39.123000 25780 elastictop/src/launcher.rs:12] Unable to shutdown process 25783 via Signals.SIGTERM, forcefully exiting via Signals.SIGKILL
E1120 09:31:09.123000 25780 x.py:1] failed (exitcode: -11) local_rank: 1 (pid: 25784) of binary: /usr/bin/python3
W1120 09:31:09.123000 25780 x.py:1] Received 15 death signal, shutting down workers
W1120 09:31:09.123000 25780 x.py:1] Received Signals.SIGINT death signal, shutting down workers
I1120 09:31:09.123000 25780 x.py:1] [default] Detected 1 new nodes from group_rank=0; will restart worker group
I1120 09:31:09.123000 25780 x.py:1] [default] Worker group FAILED. 2/3 attempts left; will restart worker group
W1120 09:31:09.123000 25780 x.py:1] something else
Sending process 1 closing signal SIGTERM";
    assert_eq!(
        read(text),
        [
            AgentLine::ClosingSignal { pid: 25783, signal: 15 },
            AgentLine::CannotShutdown { pid: 25783 },
            AgentLine::Failed { exit: Exit::Signal(11), local_rank: 1, pid: 25784 },
            AgentLine::DeathSignal { signal: 15 },
            AgentLine::DeathSignal { signal: 2 },
            AgentLine::NewNodes { count: 1, group_rank: 0 },
            AgentLine::AttemptsLeft { left: 2, max: 3 },
        ]
    );
}

#[test]
fn the_numbers_of_a_rendezvous_are_read_with_and_without_a_prefix_on_each_line() {
    let plain = "\
I1120 09:31:09.123000 25780 x.py:1] [default] Rendezvous complete for workers. Result:
  restart_count=1
  master_addr=localhost
  master_port=4711
  group_rank=0
  group_world_size=2
  local_ranks=[0, 1]
  global_ranks=[2, 3]
  role_world_sizes=[4, 4]
  global_world_sizes=[4, 4]
  more=1";
    let world = AgentLine::World(World {
        restart_count: Some(1),
        group_rank: Some(0),
        group_world_size: Some(2),
        master_port: Some(4711),
        global_ranks: vec![2, 3],
        world_size: Some(4),
    });
    assert_eq!(read(plain), std::slice::from_ref(&world));
    assert_eq!(read(&plain.replace("\n  ", "\nI1120 09:31:09.123000 25780 x.py:1]   ")), [world]);
}

#[test]
fn the_failure_block_is_read_entry_by_entry() {
    let text = "\
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
train.py FAILED
------------------------------------------------------------
Failures:
[1]:
  time      : 2026-11-20_09:31:09
  host      : localhost
  rank      : 0 (local_rank: 0)
  exitcode  : -15 (pid: 25783)
  error_file: <N/A>
  traceback : Signal 15 (SIGTERM) received by PID 25783
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-11-20_09:31:08
  host      : localhost
  rank      : 1 (local_rank: 1)
  exitcode  : 1 (pid: 25784)
  error_file: /tmp/x/error.json
  traceback : Traceback (most recent call last):
    File \"train.py\", line 3, in main
      raise ValueError(\"rank : 7\")
  ValueError: rank : 7

============================================================";
    let read = read(text);
    let [AgentLine::Failure(first), AgentLine::Failure(root)] = read.as_slice() else { panic!("{read:?}") };
    assert_eq!((first.rank, first.pid, first.exit), (Some(0), Some(25783), Some(Exit::Signal(15))));
    assert_eq!((first.root_cause, first.error_file.as_deref()), (false, None));
    assert_eq!((root.root_cause, root.local_rank, root.exit), (true, Some(1), Some(Exit::Code(1))));
    assert_eq!(root.message.as_deref(), Some("ValueError: rank : 7"));
    assert_eq!(root.time.as_deref(), Some("2026-11-20_09:31:08"));
}

proptest! {
    #[test]
    fn no_text_panics(text in "(?s).{0,200}") {
        read(&text);
    }

    #[test]
    fn no_mangled_agent_line_panics(cut in 0usize..600, junk in "\\PC{0,8}") {
        for line in [START, "E1120 09:31:09.123000 25780 x.py:1] failed (exitcode: -11) local_rank: 1 (pid: 25784) of"] {
            let cut = cut.min(line.len());
            parse(&format!("{}{junk}{}", &line[..cut], &line[cut..]));
            parse(&format!("{}{junk}", &line[..cut]));
        }
    }

    #[test]
    fn numbers_survive(code in -64i32..256, local in 0u32..99, pid in 1i32..4_000_000) {
        let line = format!("E1120 09:31:09.1 1 a.py:1] failed (exitcode: {code}) local_rank: {local} (pid: {pid}) of fn: x");
        let exit = Exit::from_python(code);
        prop_assert_eq!(parse(&line), Some(AgentLine::Failed { exit, local_rank: local, pid }));
    }
}
