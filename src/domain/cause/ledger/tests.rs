//! A script of clues, one a line with its time in seconds, and the verdict that follows.

use super::*;
use crate::domain::{
    agent_line::{self, AgentReader},
    cause::CauseKind,
    evidence,
};

const T0: u64 = 1_795_167_000_000;

/// Two ranks, pids 100 and 101, unless the script says `ranks N`. Lines:
/// `T exit R CODE`, `T unseen R`, `T R: stderr line`, `T file R message`, `T closing R SIGNAL`, `T agent: line`,
/// `T user R SIGNAL`, `T xid R NUMBER`, `T xid-pending R NUMBER`, `T oom N`, `T agent-exit CODE`, `T stop`, `T deadlock`, `T step R`, `T verdict`.
/// The transcript has one line per `verdict` and one at the end.
fn run(script: &str) -> (Vec<String>, Option<Cause>) {
    let mut ledger = Ledger::default();
    let mut tracebacks = evidence::Tracebacks::default();
    let start = |ledger: &mut Ledger, n: u32| {
        for i in 0..n {
            ledger.note(Stamp(T0), Clue::Started { local_rank: i, rank: Some(i), pid: 100 + i as i32 });
        }
    };
    let (mut transcript, mut now) = (Vec::new(), Stamp(T0));
    start(&mut ledger, 2);
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (first, rest) = line.split_once(' ').expect("time or word");
        if first == "ranks" {
            start(&mut ledger, rest.parse().expect("number"));
            continue;
        }
        now = Stamp(T0 + (first.parse::<f64>().expect(line) * 1000.0) as u64);
        let (word, about) = rest.split_once(' ').unwrap_or((rest, ""));
        let (target, last) = about.split_once(' ').unwrap_or((about, ""));
        let rank = || target.parse::<u32>().expect(line);
        let code = |text: &str| Some(Exit::from_python(text.parse().expect(line)));
        let clue = match word {
            "exit" => Clue::Exited { local_rank: rank(), pid: 100 + rank() as i32, exit: code(last) },
            "unseen" => Clue::Exited { local_rank: rank(), pid: 100 + rank() as i32, exit: None },
            "file" => Clue::ErrorFile { local_rank: rank(), message: last.into(), written: now },
            "closing" => Clue::Agent(AgentLine::ClosingSignal {
                pid: 100 + rank() as i32,
                signal: last.parse().expect(line),
            }),
            "agent:" => {
                let line = format!("E1120 09:31:09.1 7 x.py:1] {about}");
                Clue::Agent(agent_line::parse(&line).expect("a line of the agent"))
            }
            "agent-wrote" => Clue::Mark {
                local_rank: None,
                proof: evidence::Tracebacks::default().line((), about).expect("a mark"),
                line: about.into(),
            },
            "user" => {
                Clue::WeSignalled { local_rank: rank(), signal: last.parse().expect(line), by: "ada".into() }
            }
            "xid" | "xid-pending" => Clue::Xid {
                local_rank: rank(),
                gpu: rank() + 4,
                xid: last.parse().expect(line),
                recovery: Some(2),
                pending: word == "xid-pending",
            },
            "oom" => Clue::OomKills(about.parse().expect(line)),
            "agent-exit" => Clue::AgentExited { exit: code(about) },
            "stop" => Clue::StopRequested { by: "ada".into() },
            "deadlock" => Clue::ZombieDeadlock,
            "step" => Clue::Stepped { local_rank: rank() },
            "verdict" => {
                transcript.push(say(ledger.verdict(now).as_ref()));
                continue;
            }
            writer => {
                let local_rank: u32 = writer.trim_end_matches(':').parse().expect(line);
                let Some(proof) = tracebacks.line(local_rank, about) else {
                    let is_context = ["Traceback", " ", "The above", "During handling"]
                        .iter()
                        .any(|word| about.starts_with(word));
                    assert!(is_context, "{about:?} proves nothing");
                    continue;
                };
                Clue::Mark { local_rank: Some(local_rank), proof, line: about.into() }
            }
        };
        ledger.note(now, clue);
    }
    let last = ledger.verdict(now + Duration::from_secs(2));
    assert_eq!(last, ledger.best(), "settled");
    transcript.push(say(last.as_ref()));
    (transcript, last)
}

fn say(cause: Option<&Cause>) -> String {
    cause.map_or_else(|| "-".into(), |cause| format!("{:?}: {}", cause.kind, cause.text))
}

fn verdict(script: &str) -> String {
    run(script).0.pop().expect("a last line")
}

mod gpus;

#[test]
fn ranks_that_went_with_a_killed_agent_are_not_to_blame() {
    let kind = |script: &str| run(script).1.map(|cause| (cause.kind, cause.rank));
    let with_it = "5.0 unseen 0\n5.0 unseen 1\n5.025 agent-exit -9";
    assert_eq!(kind(with_it), Some((CauseKind::Agent, None)));
    let before_it = "5.0 unseen 0\n7.0 agent-exit -9";
    assert_eq!(kind(before_it), Some((CauseKind::Unknown, Some(0))));
    // Both are met dead by a supervisor that takes over: the agent's exit code follows from the rank.
    let met_dead = "5.0 unseen 0\n5.0 agent-exit 1";
    assert_eq!(kind(met_dead), Some((CauseKind::Unknown, Some(0))));
}

#[test]
fn the_rank_that_raised_is_named_and_not_the_one_whose_peer_went() {
    let script = "
        9.9 1: [rank1]: ValueError: bad batch
        10.0 0: RuntimeError: Connection closed by peer [127.0.0.1]:4711
        10.1 exit 0 1
        10.1 verdict
        10.3 exit 1 1
        10.3 agent: failed (exitcode: 1) local_rank: 0 (pid: 100) of binary: python";
    let (transcript, cause) = run(script);
    assert_eq!(transcript, ["Exception: rank 1 raised ValueError: bad batch"; 2]);
    let cause = cause.expect("a cause");
    assert_eq!(cause.rank, Some(1));
    assert_eq!(
        cause.evidence,
        [
            "rank 1 wrote: [rank1]: ValueError: bad batch",
            "rank 1: exit code 1",
            "rank 0, 100 ms later: RuntimeError: Connection closed by peer [127.0.0.1]:4711",
            "torchrun names rank 0 instead",
        ]
    );
}

#[test]
fn a_verdict_from_a_broken_connection_alone_waits_for_better_evidence() {
    let script = "
        10.0 0: RuntimeError: Connection closed by peer [127.0.0.1]:4711
        10.1 exit 0 1
        10.2 verdict
        10.3 exit 1 1
        10.4 file 1 ValueError: bad batch
        10.5 verdict";
    // The file is younger than the broken connection and still tells more.
    assert_eq!(run(script).0[..2], ["-", "Exception: rank 1 raised ValueError: bad batch"]);
    assert_eq!(
        verdict("10.0 0: RuntimeError: Connection closed by peer [127.0.0.1]:4711\n10.1 exit 0 1"),
        "Unknown: rank 0 lost the connection to a peer, and no rank of this node failed before it"
    );
}

#[test]
fn the_earlier_of_two_failures_is_the_cause_however_late_it_is_told() {
    let script = "
        10.0 0: KeyError: 'x'
        10.1 exit 0 1
        10.2 verdict
        9.5 file 1 ValueError: bad
        10.4 exit 1 1";
    assert_eq!(
        run(script).0,
        ["Exception: rank 0 raised KeyError: 'x'", "Exception: rank 1 raised ValueError: bad"]
    );
}

#[test]
fn an_exception_that_was_only_passed_on_gives_way_to_what_it_passes_on() {
    let script = "
        10.00 0: ValueError: Caught ValueError in DataLoader worker process 0.
        10.01 0: ValueError: corrupt record 201 in shard 7
        10.1 exit 0 1";
    assert_eq!(run(script).0, ["Exception: rank 0 raised ValueError: corrupt record 201 in shard 7"]);
}

#[test]
fn an_exception_is_told_with_its_line_its_whole_message_and_what_it_was_raised_from() {
    let script = r#"
        10.00 0: Traceback (most recent call last):
        10.00 0:   File "/x/config.py", line 4, in read
        10.00 0: KeyError: 'lr'
        10.00 0: The above exception was the direct cause of the following exception:
        10.00 0: Traceback (most recent call last):
        10.00 0:   File "/x/train.py", line 9, in main
        10.00 0: BadConfig: these keys are missing:
        10.00 0:   lr
        10.10 exit 0 1"#;
    let (told, cause) = run(script);
    assert_eq!(
        told,
        [
            "Exception: rank 0 raised BadConfig at train.py:9: these keys are missing: lr (from KeyError: 'lr')"
        ]
    );
    let evidence = cause.expect("a cause").evidence;
    assert_eq!(evidence, ["rank 0 wrote: BadConfig: these keys are missing:", "rank 0: exit code 1"]);
    let handling = script.replace(
        "The above exception was the direct cause of the following exception:",
        "During handling of the above exception, another exception occurred:",
    );
    assert_eq!(
        verdict(&handling),
        "Exception: rank 0 raised BadConfig at train.py:9: these keys are missing: lr (while handling KeyError: 'lr')"
    );
    let recorded = format!("{script}\n10.20 file 0 BadConfig: these keys are missing:");
    assert!(
        verdict(&recorded).contains("at train.py:9"),
        "its error file has no line: {}",
        verdict(&recorded)
    );
}

#[test]
fn a_rank_that_was_told_to_end_from_outside_comes_before_those_that_lost_it() {
    let script = "
        10.0 exit 1 -15
        10.1 0: RuntimeError: Connection closed by peer [127.0.0.1]:4711
        10.2 exit 0 1";
    assert!(
        verdict(script).starts_with("Signal: rank 1 was ended by SIGTERM from outside"),
        "{}",
        verdict(script)
    );
    let other = "
        10.0 0: RuntimeError: Connection closed by peer [127.0.0.1]:4711
        10.1 exit 0 1
        10.2 exit 1 -15";
    assert!(verdict(other).starts_with("Unknown: rank 0 lost the connection"), "{}", verdict(other));
}

#[test]
fn ranks_that_the_agent_ended_are_never_the_cause() {
    let script = "
        10.0 exit 1 3
        10.1 closing 0 15
        10.2 exit 0 -15";
    let (transcript, cause) = run(script);
    assert_eq!(transcript, ["ExitCode: rank 1 ended with exit code 3 and did not say why"]);
    assert_eq!(
        cause.expect("a cause").evidence,
        ["rank 1: exit code 3", "the agent ended rank 0 afterwards"]
    );
    assert_eq!(
        verdict("10.1 closing 0 15\n10.1 closing 1 15\n10.2 exit 0 -15\n10.2 exit 1 -9"),
        "-",
        "membership"
    );
    assert_eq!(
        verdict("10.1 closing 0 15\n10.3 1: X: Connection closed by peer\n10.4 exit 1 1\n10.4 exit 0 -15"),
        "-",
        "a membership change breaks connections too"
    );
}

#[test]
fn one_that_leaves_early_with_zero_is_the_cause_of_what_follows() {
    for follows in [
        "RuntimeError: Connection closed by peer [::1]:4711",
        "x Timed out waiting 10000ms for recv operation",
    ] {
        let script = format!("10.0 exit 1 0\n15.0 0: {follows}\n15.2 exit 0 1");
        assert_eq!(verdict(&script), "LeftEarly: rank 1 left early with exit code 0 while 1 other went on");
    }
    let own = "10.0 exit 1 0\n10.2 0: ValueError: bad\n10.4 exit 0 1";
    assert_eq!(verdict(own), "Exception: rank 0 raised ValueError: bad");
    assert_eq!(verdict("10.0 exit 1 0\n10.2 exit 0 0\n10.3 agent-exit 0"), "-", "success");
}

#[test]
fn sigkill_is_told_apart_by_who_sent_it() {
    let outside = "CauseKind; rank 1 was killed by SIGKILL from outside: not by the agent, not by elastictop, and the \
                   cgroup's oom_kill counter did not move";
    let outside = outside.replace("CauseKind;", "Signal:");
    let table = [
        ("0 oom 2\n10.0 exit 1 -9\n10.1 oom 2", outside.as_str()),
        (
            "0 oom 2\n10.0 exit 1 -9\n10.1 oom 3",
            "OomHost: rank 1 was killed by the kernel's out-of-memory killer",
        ),
        (
            "0 oom 2\n10.0 exit 1 137\n10.9 oom 3",
            "OomHost: rank 1 was killed by the kernel's out-of-memory killer (exit code 137 (SIGKILL behind a shell))",
        ),
        ("0 oom 0\n1 oom 2\n50.0 exit 1 -9\n50.1 oom 2", outside.as_str()),
        ("9.9 user 1 9\n10.0 exit 1 -9", "Signal: rank 1 was ended by SIGKILL, sent by ada from elastictop"),
        (
            "10.0 exit 1 -9",
            "Signal: rank 1 was killed by SIGKILL from outside: not by the agent, not by elastictop, and the cgroup's \
             oom_kill counter cannot be read",
        ),
        // A caught exception just before it did not kill it.
        ("0 oom 2\n9.0 1: ValueError: retry\n10.0 exit 1 -9\n10.1 oom 2", outside.as_str()),
    ];
    for (script, expected) in table {
        assert_eq!(verdict(script), expected, "{script}");
    }
}

#[test]
fn signals_are_named_behind_a_shell_too() {
    for (code, text) in [
        ("-11", "Signal: rank 1 crashed with a segmentation fault (SIGSEGV)"),
        (
            "139",
            "Signal: rank 1 crashed with a segmentation fault (SIGSEGV) (exit code 139 (SIGSEGV behind a shell))",
        ),
        ("134", "Signal: rank 1 aborted (SIGABRT) (exit code 134 (SIGABRT behind a shell))"),
        ("-7", "Signal: rank 1 crashed with a bus error (SIGBUS)"),
        ("-10", "Signal: rank 1 was ended by SIGUSR1 from outside"),
        ("-15", "Signal: rank 1 was ended by SIGTERM from outside: neither the agent nor elastictop sent it"),
        ("143", "Signal: rank 1 was ended by SIGTERM from outside: neither the agent nor elastictop sent it"),
    ] {
        assert_eq!(verdict(&format!("10.0 exit 1 {code}")), text);
    }
}

#[test]
fn memory_of_the_gpu_and_cuda_errors_are_told_with_what_was_asked_for() {
    assert_eq!(
        verdict(
            "9 1: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0\n10 exit 1 1"
        ),
        "OomGpu: rank 1 ran out of GPU memory: it tried to allocate 2.00 GiB"
    );
    assert_eq!(
        verdict(
            "9 1: CUDA error: an illegal memory access was encountered\n9.1 1: terminate called after throwing an instance of 'c10::Error'\n10 exit 1 -6"
        ),
        "CudaError: rank 1 failed with a CUDA error: an illegal memory access was encountered"
    );
}

#[test]
fn collective_timeouts_stay_the_verdict_through_the_long_dump() {
    let script = "
        600.0 0: Watchdog caught collective operation timeout: WorkNCCL(SeqNum=21, OpType=ALLREDUCE, NumelIn=1, NumelOut=1, Timeout(ms)=600000) ran for
        660.0 0: terminate called after throwing an instance of 'c10::DistBackendError'
        660.2 exit 0 -6
        660.4 closing 1 15
        660.6 exit 1 -15";
    assert_eq!(
        verdict(script),
        "CollectiveTimeout: rank 0 waited in ALLREDUCE number 21 longer than NCCL's time limit of 10m 00s"
    );
    assert_eq!(
        verdict(
            "10 0: RuntimeError: Timed out waiting 10000ms for recv operation to complete\n10.3 exit 0 1"
        ),
        "CollectiveTimeout: rank 0 waited in a gloo collective longer than its time limit of 10 s"
    );
}

#[test]
fn an_exception_that_left_its_rank_hanging_explains_the_timeout_and_a_caught_one_does_not() {
    let script = "
        10.0 1: ValueError: bad batch
        600.0 0: Timed out waiting 590000ms for recv operation to complete
        600.3 exit 0 1
        600.4 closing 1 15
        630.4 exit 1 -9";
    assert_eq!(verdict(script), "Exception: rank 1 raised ValueError: bad batch, and went on living");
    let recovered = script.replace("600.0 0:", "20.0 step 1\n600.0 0:");
    assert!(verdict(&recovered).starts_with("CollectiveTimeout: rank 0"));
}

#[test]
fn requests_and_the_agents_own_end_are_no_failure_of_a_rank() {
    let table = [
        (
            "10.0 stop\n10.1 exit 0 -15\n10.1 1: KeyboardInterrupt\n10.2 exit 1 1",
            "Stopped: stopped on request of ada",
        ),
        (
            "9.8 1: ValueError: x\n9.9 exit 1 1\n10.0 stop\n10.1 exit 0 -15",
            "Exception: rank 1 raised ValueError: x",
        ),
        (
            "10.0 agent-exit -9\n10.3 exit 0 -15\n10.3 exit 1 -15",
            "Agent: the elastic agent was ended by SIGKILL",
        ),
        (
            "10.0 agent: Received 15 death signal, shutting down workers\n10.1 closing 0 15\n10.1 closing 1 15\n10.2 exit 0 -15\n10.2 exit 1 -15\n10.4 agent-exit 1",
            "Agent: the elastic agent got SIGTERM from outside and ended all ranks",
        ),
        (
            "1 agent-wrote torch.distributed.DistStoreError: Timed out after 61 seconds waiting for clients.\n2 agent-exit 1",
            "Rendezvous: the elastic agent could not connect to its peers or their store",
        ),
        (
            "2 agent-exit 2",
            "Agent: the elastic agent ended with exit code 2, and no rank of this node had failed before",
        ),
        (
            "10 exit 0 -6\n10 exit 1 -6\n15 deadlock",
            "ZombieDeadlock: all ranks of this node were dead and the agent did not notice; rank 0 failed first",
        ),
    ];
    for (script, expected) in table {
        assert_eq!(verdict(script), expected, "{script}");
    }
}

#[test]
fn the_failure_block_alone_is_enough_when_nobody_saw_the_exits() {
    let mut ledger = Ledger::default();
    for i in 0..2 {
        ledger.note(Stamp(T0), Clue::Started { local_rank: i, rank: Some(i), pid: 100 + i as i32 });
        ledger.note(Stamp(T0 + 500), Clue::Exited { local_rank: i, pid: 100 + i as i32, exit: None });
    }
    assert_eq!(ledger.best(), None, "they may all have ended well");
    let text = "Failures:\n[1]:\n  rank      : 0 (local_rank: 0)\n  exitcode  : -15 (pid: 100)\n  traceback : x\n---------\n\
                Root Cause (first observed failure):\n[0]:\n  rank      : 1 (local_rank: 1)\n  exitcode  : -11 (pid: 101)\n  traceback : x\n=======";
    let mut reader = AgentReader::default();
    for line in text.lines().flat_map(|line| reader.line(line)) {
        ledger.note(Stamp(T0 + 900), Clue::Agent(line));
    }
    ledger.note(Stamp(T0 + 950), Clue::AgentExited { exit: Some(Exit::Code(1)) });
    assert_eq!(say(ledger.best().as_ref()), "Signal: rank 1 crashed with a segmentation fault (SIGSEGV)");
}

#[test]
fn facts_stay_few_when_thousands_of_ranks_fall() {
    let falls = |rank| {
        format!("10.2 {rank}: X: Connection closed by peer\n10.3 closing {rank} 15\n10.4 exit {rank} -15\n")
    };
    let others: Vec<_> = (0..4096).filter(|rank| *rank != 7).map(falls).collect();
    let script = format!("ranks 4096\n10.0 7: ValueError: bad\n10.1 exit 7 1\n{}", others.concat());
    let (transcript, cause) = run(&script);
    assert_eq!(transcript, ["Exception: rank 7 raised ValueError: bad"]);
    let evidence = cause.expect("a cause").evidence;
    assert!(
        evidence.len() <= 8 && evidence[2] == "the agent ended ranks 0-6, 8-4095 afterwards",
        "{evidence:?}"
    );
}

#[test]
fn the_same_error_everywhere_is_said_to_be_everywhere() {
    let script = "ranks 4\n10.0 0: ModuleNotFoundError: No module named 'x'\n10.0 1: ModuleNotFoundError: No module named 'x'\n\
                  10.0 2: ModuleNotFoundError: No module named 'x'\n10.1 exit 1 1\n10.1 exit 0 1\n10.1 exit 2 1";
    let (_, cause) = run(script);
    let cause = cause.expect("a cause");
    assert_eq!(cause.text, "rank 0 found no Python module x");
    assert!(cause.evidence.contains(&"ranks 1-2 reported the same".to_owned()), "{:?}", cause.evidence);
}

#[test]
fn oom_and_timeout_marks_kind_is_exact() {
    assert_eq!(run("10 1: MemoryError\n10.1 exit 1 1").1.expect("a cause").kind, CauseKind::OomHost);
}
