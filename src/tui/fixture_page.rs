//! What a supervisor of a made-up job answers about one rank, and a job that hangs.

use std::time::Duration;

use super::fixture::{Story, healthy, out_of_memory};
use crate::domain::{
    alert::AlertKind,
    beat::GroupStatus,
    closeup::{
        CloseUp, LastWords, Process, Question,
        environment::{Environment, Raw},
        history::History,
    },
    event::{Fact, Launcher},
    rank::RankState,
    sample::RankSample,
    stack::{Frame, RankStack, Source, Stacks, Thread, fold},
    state::State,
    time::Stamp,
    verdict::{Guard, GuardedBy, Role, Standing},
};

/// The answer to a question about a rank.
pub(crate) fn close_up(state: &State, now: Stamp, local_rank: u32, question: Question) -> CloseUp {
    let mut answer = CloseUp { local_rank, ..CloseUp::default() };
    let Some(rank) = state.rank(local_rank) else {
        answer.why_not = Some("there is no such rank on this node".into());
        return answer;
    };
    answer.proc = Some(rank.proc);
    match question {
        Question::History => answer.history = Some(Box::new(history(state, now, local_rank))),
        Question::Process if rank.state.is_alive() => {
            answer.process = Some(Process {
                parent: state.agent.as_ref().map(|agent| agent.proc.pid),
                command: ["python", "-u", "train.py", "--lr", "3e-4"].map(str::to_owned).into(),
                cwd: Some("/home/ada/llama".into()),
                cgroup: Some("/slurm/uid_1000/job_4242/step_0".into()),
                group_bytes: Some(402 << 30),
                group_limit_bytes: Some(480 << 30),
                oom_kills: Some(0),
            });
        }
        Question::Environment if rank.state.is_alive() => answer.environment = Some(environment(local_rank)),
        Question::LastWords => answer.last_words = Some(last_words(rank.exit.is_some())),
        _ => answer.why_not = Some("its process is gone".into()),
    }
    answer
}

fn history(state: &State, now: Stamp, local_rank: u32) -> History {
    let mut history = History::default();
    let Some(mut rank) = state.rank(local_rank).cloned() else { return history };
    rank.state = RankState::Running;
    for back in (0..1200_u64).rev() {
        let at = Stamp(now.0.saturating_sub(back * 1000));
        let wave = (back * 7 + u64::from(local_rank)) % 11;
        rank.cpu_pct = Some(96.0 + wave as f32);
        rank.rss_bytes = Some((4000 + (1200 - back) + wave) << 20);
        // A step takes about a second and a half; for a while it took twice as long.
        let slow = (300..420).contains(&back);
        if back % if slow { 3 } else { 1 } == 0 {
            rank.step = Some(20_000 - back + u64::from(slow));
            rank.step_at = Some(at);
        }
        history.look(at, &rank);
    }
    history
}

fn raw(local_rank: u32) -> Raw {
    let odd = local_rank == 2;
    let hca = if odd { "mlx5_7" } else { "mlx5_0,mlx5_1,mlx5_2,mlx5_3" };
    let mut raw: Vec<(&str, String)> = vec![
        ("CUDA_VISIBLE_DEVICES", local_rank.to_string()),
        ("HF_TOKEN", "hf_abcdefghijklmnopqrstuvwx".into()),
        ("HOME", "/home/ada".into()),
        ("HTTPS_PROXY", "http://ada:hunter2hunter2@proxy:3128".into()),
        (
            "LD_LIBRARY_PATH",
            "/opt/nccl/lib:/opt/ucx/lib:/opt/aws-ofi-nccl/lib:/usr/local/cuda-12.8/lib64".into(),
        ),
        ("LOCAL_RANK", local_rank.to_string()),
        ("MASTER_ADDR", "gpu-node-03".into()),
        ("NCCL_DEBUG", if local_rank == 5 { "INFO" } else { "WARN" }.into()),
        ("NCCL_IB_HCA", hca.into()),
        ("OMP_NUM_THREADS", "8".into()),
        ("PATH", "/home/ada/llama/.venv/bin:/usr/local/bin:/usr/bin:/bin".into()),
        ("PYTHONUNBUFFERED", "1".into()),
        ("RANK", local_rank.to_string()),
        ("TORCHELASTIC_RUN_ID", "none_4f2a".into()),
        ("WORLD_SIZE", "8".into()),
    ];
    if odd {
        raw.push(("NCCL_P2P_DISABLE", "1".into()));
    }
    raw.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn environment(local_rank: u32) -> Environment {
    let others: Vec<(u32, Raw)> =
        (0..8).filter(|rank| *rank != local_rank).map(|rank| (rank, raw(rank))).collect();
    Environment::compare(&raw(local_rank), &others, Vec::new())
}

fn last_words(is_dead: bool) -> LastWords {
    let text = "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB\nTraceback (most recent call last):\n  \
                File \"/home/ada/llama/train.py\", line 212, in main\n    loss.backward()\ntorch.OutOfMemoryError: CUDA \
                out of memory. Tried to allocate 2.00 GiB";
    LastWords {
        file: Some(
            "/home/ada/.local/state/elastictop/jobs/llama-7b-x3k9/logs/none_4f2a/attempt_0/2/error.json"
                .into(),
        ),
        text: is_dead.then(|| text.to_owned()),
        stderr: ["UserWarning: the dataloader is slow", "NCCL WARN Call to ibv_modify_qp failed"]
            .map(str::to_owned)
            .into(),
    }
}

/// Rank 3 sleeps before a collective that the seven others wait in.
pub(crate) fn hung() -> Story {
    let mut story = healthy(8);
    story.wait(20.0);
    let since = story.now();
    let group = |enqueued, completed| GroupStatus {
        name: "0".into(),
        desc: Some("default_pg".into()),
        backend: Some("nccl".into()),
        size: Some(8),
        enqueued: Some(enqueued),
        started: Some(enqueued),
        completed: Some(completed),
        ..GroupStatus::default()
    };
    let standing = |role, behind| Standing {
        role,
        group: "default".into(),
        seq: 6650,
        op: Some("all_reduce".into()),
        since,
        behind,
        timeout_ms: Some(600_000),
    };
    for local_rank in 0..8 {
        let (state, detail) = match local_rank {
            3 => (RankState::Lagging, "sleeps in futex_do_wait, no CPU time since"),
            _ => (RankState::Waiting, "in all_reduce #6650 of group default"),
        };
        story.rank_state(local_rank, state, Some(detail));
        let guard = Guard {
            backends: vec!["nccl".into()],
            by: GuardedBy::NcclMonitor,
            timeout_s: Some(480),
            settings: vec![("TORCH_NCCL_ASYNC_ERROR_HANDLING".into(), "1".into())],
        };
        story.fact(Fact::RankGuarded { local_rank, guard });
    }
    let sample = |local_rank| {
        let lags = local_rank == 3;
        RankSample {
            local_rank,
            cpu_ns: Some(if lags { 1_410_000_000_000 } else { 1_431_000_000_000 }),
            rss_bytes: Some(4 << 30),
            threads: Some(61),
            step: Some(1086),
            step_at: Some(since),
            beat_at: Some(since + Duration::from_secs(134)),
            groups: vec![if lags { group(6649, 6649) } else { group(6650, 6649) }],
            standing: Some(Box::new(if lags {
                standing(Role::Lagging, 1)
            } else {
                standing(Role::Waiting, 0)
            })),
            lines: 1086,
            ..RankSample::default()
        }
    };
    let ranks = (0..8).map(sample).collect();
    story.wait(60.0).fact(Fact::Sample { ranks });
    story.alert(
        AlertKind::Hang,
        Some(3),
        "rank 3 sleeps and has not joined all_reduce #6650 of group default; ranks 0-2, 4-7 wait for it",
        &[
            "no step for 80 s, where the longest pause so far was 2 s",
            "7 of 8 ranks have enqueued #6650 of group default, rank 3 has not",
            "rank 3 is in futex_do_wait and used no CPU time on 6 looks",
        ],
        None,
    );
    story.wait(74.0);
    story
}

/// Where the ranks of [`hung`] are in their code.
pub(crate) fn hung_stacks() -> Stacks {
    let frame = |name: &str, file: &str, line| Frame { name: name.into(), file: file.into(), line };
    let stack = |rank| {
        let frames = if rank == 3 {
            vec![
                frame("_read_shard", "/home/ada/llama/data.py", 71),
                frame("__next__", "/home/ada/llama/data.py", 40),
                frame("train_step", "/home/ada/llama/train.py", 118),
                frame("<module>", "/home/ada/llama/train.py", 240),
            ]
        } else {
            vec![
                frame("all_reduce", "/v/torch/distributed/distributed_c10d.py", 3009),
                frame("backward", "/home/ada/llama/train.py", 97),
                frame("train_step", "/home/ada/llama/train.py", 130),
                frame("<module>", "/home/ada/llama/train.py", 240),
            ]
        };
        let main = Thread { name: Some("MainThread".into()), is_main: true, frames, ..Thread::default() };
        RankStack { rank, pid: 1, read: Ok((Source::PySpy, vec![main])) }
    };
    fold(&(0..8).map(stack).collect::<Vec<_>>())
}

/// The same of one rank, with all its threads.
pub(crate) fn stack_of(rank: u32) -> Stacks {
    let group = hung_stacks().groups.into_iter().find(|group| group.ranks.contains(&rank));
    let frames = group.map(|group| group.frames).unwrap_or_default();
    let main = Thread { name: Some("MainThread".into()), is_main: true, holds_gil: Some(true), frames };
    let loader = Thread {
        name: Some("QueueFeederThread".into()),
        frames: vec![Frame {
            name: "wait".into(),
            file: "/usr/lib/python3.12/threading.py".into(),
            line: 355,
        }],
        ..Thread::default()
    };
    fold(&[RankStack { rank, pid: 1, read: Ok((Source::PySpy, vec![main, loader])) }])
}

/// Rank 2 has died, and the group is not started anew yet.
pub(crate) fn died() -> Story {
    let mut story = Story::new(4, Launcher::Torchrun);
    story.group().ranks(true).work(100, 60.0).crash(2, out_of_memory()).wait(2.0);
    story
}
