//! Command lines and environments in, plans and errors out.

use std::{collections::BTreeSet, fmt::Write};

use clap::{CommandFactory, Parser};
use insta::assert_snapshot;
use proptest::prelude::*;

use super::*;
use crate::domain::launch::{Facts, LaunchPlan, PlanError, Python, plan, render_json, render_text};

mod errors;

#[derive(Parser)]
#[command(name = "run")]
struct Cli {
    #[command(flatten)]
    run: RunArgs,
}

fn parse(line: &[&str]) -> Result<RunArgs, clap::Error> {
    Cli::try_parse_from(std::iter::once(&"run").chain(line)).map(|cli| cli.run)
}

fn request(line: &[&str], env: &[(&str, &str)]) -> Request {
    let args = parse(line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
    args.request(env.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))))
}

fn facts() -> Facts {
    let known = FLAGS.iter().map(|flag| flag.name.to_owned()).collect();
    Facts {
        python: Some(Python {
            path: "/venv/bin/python".into(),
            executable: "/venv/bin/python3".into(),
            version: (3, 11),
            torch: Some("2.15.0+cu132".into()),
            flags: Some(known),
        }),
        gpus: 4,
        cpus: 16,
        run_id: "train-x3k9".into(),
        job_dir: "/job".into(),
        elastictop: "/bin/elastictop".into(),
        beat_socket: "/run/beat".into(),
        ras_port: 31000,
        cwd: "/home/me".into(),
    }
}

fn planned(line: &[&str], env: &[(&str, &str)]) -> LaunchPlan {
    plan(&request(line, env), &facts()).unwrap_or_else(|error| panic!("{line:?}: {error:?}"))
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

fn argv(line: &str) -> String {
    planned(&words(line), &[]).argv.join(" ")
}

/// The command line, what is set and removed, and what was kept, without the reasons.
fn show(line: &str, env: &[(&str, &str)]) -> String {
    let plan = planned(&words(line), env);
    let mut text = plan.argv.join(" ");
    let mut put = |what: &str, name: &str, value: &str| write!(text, "\n{what} {name}={value}").unwrap();
    plan.env.iter().for_each(|added| put("+", &added.name, &added.value));
    plan.env_remove.iter().for_each(|removed| put("-", &removed.name, ""));
    plan.kept.iter().for_each(|kept| put("=", &kept.name, &format!("{} ({})", kept.value, kept.instead_of)));
    plan.notes.iter().for_each(|note| put("!", "note", note));
    text
}

#[test]
fn the_command_is_well_formed() {
    Cli::command().debug_assert();
}

#[test]
fn a_plain_script_is_started_through_the_shim_with_all_defaults() {
    assert_snapshot!(show("--nproc-per-node 2 train.py --lr 1e-3", &[]), @"
    /venv/bin/python -m torch.distributed.run --nproc-per-node=2 --max-restarts=3 --monitor-interval=0.1 --log-dir=/job/logs --redirects=3 --event-log-handler=console --no-python /bin/elastictop __rank -- /venv/bin/python3 -u train.py --lr 1e-3
    + PYTHONUNBUFFERED=1
    + TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
    + OMP_NUM_THREADS=1
    + TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC=300
    + TORCH_NCCL_ENABLE_MONITORING=1
    + NCCL_RAS_ADDR=localhost:31000
    + TORCH_FR_DUMP_TEMP_FILE=/job/fr/rank_
    + PYTHONPATH=/job/python
    + ELASTICTOP_JOB_DIR=/job
    + ELASTICTOP_BEAT=/run/beat
    + ELASTICTOP_AGENT=1
    + ELASTICTOP_ORPHANS=keep
    ");
}

#[test]
fn what_runs_in_a_rank() {
    let rank = |line: &str, env: &[(&str, &str)]| {
        let argv = planned(&words(line), env).argv;
        let at = argv.iter().position(|word| word == "__rank" || word == "train.py").unwrap();
        argv[at..].join(" ")
    };
    let cases: &[(&str, &[(&str, &str)])] = &[
        ("train.py", &[]),
        ("-- -odd.py --x", &[]),
        ("-m pkg.train --x -- -y", &[]),
        ("--no-python ./run.sh --help", &[]),
        ("--no_python env A=1 python t.py", &[]),
        ("train.py", &[("PYTHON_EXEC", "/opt/py -X")]),
        ("train.py", &[("PET_MODULE", "1")]),
        ("train.py", &[("PET_NO_PYTHON", "1")]),
        ("train.py", &[("PET_NO_PYTHON", "0")]),
        ("--run-path train.py --x", &[]),
        ("train.py", &[("PET_RUN_PATH", "1"), ("PET_MODULE", "1")]),
    ];
    let ranks: Vec<_> = cases.iter().map(|(line, env)| rank(line, env)).collect();
    assert_snapshot!(ranks.join("\n"), @"
    __rank -- /venv/bin/python3 -u train.py
    __rank -- /venv/bin/python3 -u -odd.py --x
    __rank -- /venv/bin/python3 -u -m pkg.train --x -- -y
    __rank -- ./run.sh --help
    __rank -- env A=1 python t.py
    __rank -- /opt/py -X -u train.py
    __rank -- /venv/bin/python3 -u -m train.py
    __rank -- train.py
    __rank -- /venv/bin/python3 -u train.py
    train.py --x
    train.py
    ");
}

#[test]
fn function_mode_has_no_shim_and_says_so() {
    assert_snapshot!(show("--run-path /abs/train.py --x", &[("PYTHON_EXEC", "/p")]), @"
    /venv/bin/python -m torch.distributed.run --run-path --max-restarts=3 --monitor-interval=0.1 --log-dir=/job/logs --redirects=3 --event-log-handler=console -- /abs/train.py --x
    + PYTHONUNBUFFERED=1
    + TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
    + TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC=300
    + TORCH_NCCL_ENABLE_MONITORING=1
    + NCCL_RAS_ADDR=localhost:31000
    + TORCH_FR_DUMP_TEMP_FILE=/job/fr/rank_
    + PYTHONPATH=/job/python
    + ELASTICTOP_JOB_DIR=/job
    + ELASTICTOP_BEAT=/run/beat
    + ELASTICTOP_AGENT=1
    + ELASTICTOP_ORPHANS=keep
    ! note=with --run-path ranks start without elastictop's shim: their output after a membership change is lost
    ");
    assert!(planned(&["--run-path", "/t.py"], &[]).function_mode);
}

#[test]
fn several_nodes() {
    let lines = [
        "--nnodes 2 --rdzv-endpoint head:29400 t.py",
        "--nnodes 1:3 t.py",
        "--nnodes 2 --node-rank 1 --master-addr head t.py",
        "--nnodes 2 --rdzv-backend c10d --rdzv-endpoint h --rdzv-conf last_call_timeout=1 t.py",
        "--standalone t.py",
    ];
    let shown: Vec<_> = lines
        .map(|line| argv(line).replace("--max-restarts=3", "…"))
        .map(|argv| argv.split('…').next().unwrap().to_owned())
        .to_vec();
    assert_snapshot!(shown.join("\n"), @"
    /venv/bin/python -m torch.distributed.run --nnodes=2 --rdzv-endpoint=head:29400 --rdzv-backend=c10d --rdzv-conf=join_timeout=900 
    /venv/bin/python -m torch.distributed.run --nnodes=1:3 --rdzv-backend=c10d --rdzv-conf=join_timeout=900 
    /venv/bin/python -m torch.distributed.run --nnodes=2 --node-rank=1 --master-addr=head --rdzv-conf=timeout=900 
    /venv/bin/python -m torch.distributed.run --nnodes=2 --rdzv-backend=c10d --rdzv-endpoint=h --rdzv-conf=last_call_timeout=1 
    /venv/bin/python -m torch.distributed.run --standalone
    ");
    assert_eq!(planned(&words("--nnodes 1:3 t.py"), &[]).nodes, (1, 3));
}

#[test]
fn the_built_in_launcher() {
    assert_snapshot!(show("--launcher local --nproc-per-node gpu train.py --x", &[]), @"
    /bin/elastictop __agent --nproc-per-node 4 --max-restarts 3 --monitor-interval 0.1 --run-id train-x3k9 --log-dir /job/logs --grace 30 --redirects 3 --shim /bin/elastictop -- /venv/bin/python3 -u train.py --x
    + PYTHONUNBUFFERED=1
    + OMP_NUM_THREADS=1
    + TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC=300
    + TORCH_NCCL_ENABLE_MONITORING=1
    + NCCL_RAS_ADDR=localhost:31000
    + TORCH_FR_DUMP_TEMP_FILE=/job/fr/rank_
    + PYTHONPATH=/job/python
    + ELASTICTOP_JOB_DIR=/job
    + ELASTICTOP_BEAT=/run/beat
    + ELASTICTOP_AGENT=1
    + ELASTICTOP_ORPHANS=keep
    ");
    let line = "--launcher local --nproc-per-node 3 --max-restarts 0 --monitor-interval 0.5 --rdzv-id me --log-dir out \
                --stop-grace 1m -t 3 --role trainer --virtual-local-rank --standalone --no-python ./run.sh -v";
    assert_snapshot!(argv(line), @"/bin/elastictop __agent --nproc-per-node 3 --max-restarts 0 --monitor-interval 0.5 --run-id me --log-dir out --grace 60 --tee 3 --role trainer --virtual-local-rank --shim /bin/elastictop -- ./run.sh -v");
    assert_eq!(planned(&words(line), &[]).agent_log_dir, "/home/me/out");
}

#[test]
fn the_built_in_launcher_runs_programs_without_python() {
    let facts = Facts { python: None, ..facts() };
    let plan = plan(&request(&words("--launcher local --no-python ./run.sh"), &[]), &facts).unwrap();
    assert_eq!(plan.argv.last().unwrap(), "./run.sh");
}

#[test]
fn every_flag_of_torchrun_in_every_spelling_reaches_torchrun() {
    for flag in FLAGS.iter().filter(|flag| flag.name != "print-completion") {
        let value = match flag.name {
            "nnodes" => "1:2",
            "start-method" => "fork",
            "local-ranks-filter" => "0,1",
            name if name.ends_with("-binding") => "node",
            name if name.ends_with("-filters") => "a,b",
            "redirects" | "tee" => "0:1,1:2",
            "node-rank" => "0",
            _ => "2",
        };
        let names = [
            Some(format!("--{}", flag.name)),
            Some(format!("--{}", flag.underscored())),
            flag.short.map(|c| format!("-{c}")),
        ];
        for name in names.into_iter().flatten() {
            let lines = match flag.value {
                None => vec![vec![name.clone()]],
                Some(_) if name.starts_with("--") => {
                    vec![vec![name.clone(), value.into()], vec![format!("{name}={value}")]]
                }
                Some(_) => vec![vec![name.clone(), value.into()], vec![format!("{name}{value}")]],
            };
            for mut line in lines {
                line.push("train.py".into());
                let line: Vec<_> = line.iter().map(String::as_str).collect();
                let argv = planned(&line, &[]).argv;
                let expected = match flag.name {
                    "module" => "-m".to_owned(),
                    "no-python" => "--no-python".to_owned(),
                    name if flag.value.is_none() => format!("--{name}"),
                    name => format!("--{name}={value}"),
                };
                assert_eq!(
                    argv.iter().skip(3).filter(|word| **word == expected).count(),
                    1,
                    "{line:?} gives {argv:?}"
                );
            }
        }
    }
}

#[test]
fn the_last_of_two_equal_flags_counts() {
    assert!(
        argv("--nproc-per-node 2 --nproc_per_node=3 --stop-grace 1 --stop-grace 2 t.py a a")
            .contains("--nproc-per-node=3 ")
    );
}

#[test]
fn what_follows_the_script_is_the_scripts() {
    let args = parse(&words("t.py --help --nproc-per-node 9 --dry-run -h -- --name x --unknown=1")).unwrap();
    assert_eq!(args.command[1..].join(" "), "--help --nproc-per-node 9 --dry-run -h -- --name x --unknown=1");
    assert!(args.torchrun.0.is_empty() && !args.dry_run && args.name.is_none());
}

#[test]
fn a_flag_beats_its_variable_and_the_variable_beats_the_default() {
    let env = [
        ("PET_NNODES", "2:4"),
        ("PET_NPROC_PER_NODE", "8"),
        ("PET_MAX_RESTARTS", "7"),
        ("PET_MONITOR_INTERVAL", "2"),
    ];
    let from_env = planned(&["t.py"], &env);
    assert_eq!((from_env.nodes, from_env.local_world_size, from_env.max_restarts), ((2, 4), Some(8), 7));
    assert_eq!(from_env.monitor_interval, Duration::from_secs(2));
    assert!(
        !from_env.argv.iter().any(|word| word.starts_with("--max-restarts") || word.starts_with("--nproc"))
    );
    let typed =
        planned(&words("--nnodes 1 --nproc-per-node 2 --max-restarts 1 --monitor-interval 1 t.py"), &env);
    assert_eq!((typed.nodes, typed.local_world_size, typed.max_restarts), ((1, 1), Some(2), 1));
    assert_eq!(typed.monitor_interval, Duration::from_secs(1));
    let none = planned(&["t.py"], &[]);
    assert_eq!((none.nodes, none.local_world_size, none.max_restarts), ((1, 1), Some(1), 3));
    assert_eq!(
        (none.monitor_interval, none.stop_grace),
        (Duration::from_millis(100), Duration::from_secs(30))
    );
}

#[test]
fn the_built_in_launcher_honours_the_variables_of_torchrun() {
    let env = [
        ("PET_NPROC_PER_NODE", "8"),
        ("PET_MAX_RESTARTS", "7"),
        ("PET_REDIRECTS", "1"),
        ("PET_LOG_DIR", "/l"),
    ];
    let argv = planned(&words("--launcher local t.py"), &env).argv.join(" ");
    for expected in ["--nproc-per-node 8", "--max-restarts 7", "--redirects 1", "--log-dir /l"] {
        assert!(argv.contains(expected), "{argv}");
    }
}

#[test]
fn what_the_user_set_wins_for_every_variable() {
    let own =
        ["PYTHONPATH", "ELASTICTOP_JOB_DIR", "ELASTICTOP_BEAT", "ELASTICTOP_AGENT", "ELASTICTOP_ORPHANS"];
    let all = planned(&words("--nproc-per-node 2 t.py"), &[]).env;
    let theirs: Vec<_> = all.iter().filter(|added| !own.contains(&added.name.as_str())).collect();
    assert_eq!(theirs.len(), 7);
    for added in theirs {
        for value in ["theirs", ""] {
            let plan = planned(&words("--nproc-per-node 2 t.py"), &[(&added.name, value)]);
            assert!(!plan.env.iter().any(|other| other.name == added.name), "{} is set", added.name);
            let kept = plan.kept.iter().find(|kept| kept.name == added.name).expect(&added.name);
            assert_eq!(
                (kept.value.as_str(), &kept.instead_of),
                (value, &format!("{}={}", added.name, added.value))
            );
        }
    }
}

#[test]
fn what_the_user_set_wins_for_every_flag() {
    let plan = planned(
        &words(
            "--log-dir logs --redirects 1 --max-restarts 0 --event-log-handler null --monitor-interval 5 t.py",
        ),
        &[],
    );
    assert_eq!(plan.flags.iter().map(|added| added.name.as_str()).collect::<Vec<_>>(), ["--no-python"]);
    assert_eq!(plan.kept.len(), 5);
    assert_eq!(plan.agent_log_dir, "/home/me/logs");
    let plan = planned(
        &["t.py"],
        &[("PET_LOG_DIR", "/l"), ("PET_TEE", "3"), ("PET_EVENT_LOG_HANDLER", "x"), ("PET_MAX_RESTARTS", "1")],
    );
    let names: Vec<_> = plan.flags.iter().map(|added| added.name.as_str()).collect();
    assert_eq!(names, ["--monitor-interval", "--no-python"]);
    assert_eq!((plan.agent_log_dir.as_str(), plan.kept.len()), ("/l", 4));
}

#[test]
fn own_flags_become_variables() {
    let line = "--nccl-heartbeat-timeout 5m --nccl-collective-timeout=90s --nccl-async-error-handling false \
                --nccl-enable-monitoring=false --orphans end --stop-grace 1h t.py";
    let env = [("TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC", "1"), ("ELASTICTOP_ORPHANS", "keep")];
    let plan = planned(&words(line), &env);
    let get = |name: &str| plan.env.iter().find(|added| added.name == name).map(|added| added.value.as_str());
    assert_eq!(get("TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC"), Some("300"));
    assert_eq!(get("ELASTICTOP_COLLECTIVE_TIMEOUT_SEC"), Some("90"));
    assert_eq!(get("TORCH_NCCL_ASYNC_ERROR_HANDLING"), Some("0"));
    assert_eq!(get("TORCH_NCCL_ENABLE_MONITORING"), Some("0"));
    assert_eq!(get("ELASTICTOP_ORPHANS"), Some("end"));
    assert!(plan.argv.contains(&"--shutdown-timeout=3600".to_owned()));
    assert_eq!(plan.stop_grace, Duration::from_secs(3600));
    assert!(
        plan.env
            .iter()
            .any(|added| added.reason == "asked by --nccl-heartbeat-timeout, over \"1\" in the environment")
    );
    assert_eq!(planned(&words("--shutdown-timeout 7 t.py"), &[]).stop_grace, Duration::from_secs(7));
}

#[test]
fn special_variables() {
    let get = |env: &[(&str, &str)], name: &str| {
        planned(&["t.py"], env).env.into_iter().find(|added| added.name == name).map(|added| added.value)
    };
    assert_eq!(get(&[("PYTHONPATH", "/a:/b")], "PYTHONPATH").unwrap(), "/job/python:/a:/b");
    assert_eq!(get(&[("PYTHONPATH", "")], "PYTHONPATH").unwrap(), "/job/python");
    assert_eq!(get(&[("NCCL_RAS_ENABLE", "0")], "NCCL_RAS_ADDR"), None);
    assert_eq!(get(&[("TORCH_NCCL_DEBUG_INFO_TEMP_FILE", "/d")], "TORCH_FR_DUMP_TEMP_FILE"), None);
    assert_eq!(get(&[], "OMP_NUM_THREADS"), None);
    assert_eq!(get(&[("ELASTICTOP_BEAT", "/outer")], "ELASTICTOP_BEAT").unwrap(), "/run/beat");
    assert_eq!(planned(&["t.py"], &[("NCCL_RAS_ADDR", "localhost:5")]).ras_addr.unwrap(), "localhost:5");
    assert_eq!(planned(&["t.py"], &[("NCCL_RAS_ENABLE", "0")]).ras_addr, None);
    let outer =
        planned(&words("-m t"), &[("LOCAL_RANK", "0"), ("TORCHELASTIC_RUN_ID", "x"), ("PET_MODULE", "1")]);
    let removed: Vec<_> = outer.env_remove.iter().map(|removed| removed.name.as_str()).collect();
    assert_eq!(removed, ["LOCAL_RANK", "TORCHELASTIC_RUN_ID", "PET_MODULE"]);
}

#[test]
fn ranks_are_counted_as_torchrun_counts_them() {
    let count = |nproc: &str, gpus, env: &[(&str, &str)], torch: &str| {
        let mut facts = Facts { gpus, ..facts() };
        facts.python.as_mut().unwrap().torch = Some(torch.into());
        plan(&request(&["--nproc-per-node", nproc, "t.py"], env), &facts).map(|plan| plan.local_world_size)
    };
    assert_eq!(count("auto", 4, &[], "2.15.0"), Ok(Some(4)));
    assert_eq!(count("auto", 0, &[], "2.15.0"), Ok(Some(16)));
    assert_eq!(count("gpu", 4, &[("CUDA_VISIBLE_DEVICES", "1,3")], "2.15.0"), Ok(Some(2)));
    assert_eq!(count("auto", 4, &[("CUDA_VISIBLE_DEVICES", "")], "2.15.0"), Ok(Some(16)));
    assert_eq!(count("cpu", 4, &[], "2.15.0"), Ok(Some(16)));
    assert_eq!(count("xpu", 4, &[], "2.15.0"), Ok(None));
    assert_eq!(count("gpu", 0, &[], "2.15.0+rocm6.4"), Ok(None));
    assert_eq!(count("auto", 4, &[], "2.15.0+cpu"), Ok(Some(16)));
    let refused = |gpus, env: &[(&str, &str)], torch| count("gpu", gpus, env, torch).unwrap_err().text;
    assert_eq!(refused(0, &[], "2.15.0"), "--nproc-per-node gpu: no GPU was found");
    assert_eq!(refused(4, &[], "2.15.0+cpu"), "--nproc-per-node gpu: torch 2.15.0+cpu is built without CUDA");
    let hidden = [("CUDA_VISIBLE_DEVICES", "-1")];
    assert_eq!(refused(4, &hidden, "2.15.0"), "--nproc-per-node gpu: CUDA_VISIBLE_DEVICES hides every GPU");
}

#[test]
fn an_older_torchrun_gets_only_what_it_knows() {
    let mut facts = facts();
    let python = facts.python.as_mut().unwrap();
    python.torch = Some("2.7.1".into());
    python.flags = Some(BTreeSet::from(["max-restarts".to_owned()]));
    let argv = plan(&request(&words("--stop-grace 5 t.py"), &[]), &facts).unwrap().argv.join(" ");
    assert!(!argv.contains("--event-log-handler") && !argv.contains("--shutdown-timeout"), "{argv}");
    assert_snapshot!(errors::wrong_with("--shutdown-timeout 3 t.py", &[], &facts), @"
    --shutdown-timeout is not known to torchrun of torch 2.7.1 (/venv/bin/python)
    hint: leave it out, or use a newer torch
    ");
}

#[test]
fn the_dry_run_reads_well() {
    let line = [
        "--nproc-per-node",
        "2",
        "--log-dir",
        "my logs",
        "train.py",
        "--tag",
        "it's",
        "--api-key",
        "hunter2",
    ];
    let env = [("OMP_NUM_THREADS", "8"), ("LOCAL_RANK", "0"), ("PYTHONPATH", "/my lib")];
    assert_snapshot!(render_text(&planned(&line, &env)), @r"
    env \
        -u LOCAL_RANK \
        PYTHONUNBUFFERED=1 \
        TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 \
        TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC=300 \
        TORCH_NCCL_ENABLE_MONITORING=1 \
        NCCL_RAS_ADDR=localhost:31000 \
        TORCH_FR_DUMP_TEMP_FILE=/job/fr/rank_ \
        'PYTHONPATH=/job/python:/my lib' \
        ELASTICTOP_JOB_DIR=/job \
        ELASTICTOP_BEAT=/run/beat \
        ELASTICTOP_AGENT=1 \
        ELASTICTOP_ORPHANS=keep \
    /venv/bin/python -m torch.distributed.run --nproc-per-node=2 '--log-dir=my logs' --max-restarts=3 --monitor-interval=0.1 --redirects=3 --event-log-handler=console --no-python /bin/elastictop __rank -- /venv/bin/python3 -u train.py --tag 'it'\''s' --api-key '[hidden]'

    Added flags:
      --max-restarts=3
          a failure costs a restart, not the job (torchrun: 0)
      --monitor-interval=0.1
          a dead rank is noticed at once; seconds between looks would be seconds lost
      --redirects=3
          each rank writes files of its own: nothing mixes, and nothing waits for a reader
      --event-log-handler=console
          torchrun writes one JSON line for each rank that starts or ends
      --no-python
          each rank starts through elastictop, which becomes the program: same pid, same tree

    Added variables:
      PYTHONUNBUFFERED=1
          lines are seen when they are written
      TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
          a restarted group gets a store of its own; the shared one holds addresses of dead ranks
      TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC=300
          a rank whose NCCL watchdog is stuck ends after 5 minutes (torch: 8)
      TORCH_NCCL_ENABLE_MONITORING=1
          a stuck NCCL watchdog ends its rank instead of only logging
      NCCL_RAS_ADDR=localhost:31000
          jobs on one machine do not answer for each other
      TORCH_FR_DUMP_TEMP_FILE=/job/fr/rank_
          the flight recorder's dumps stay with the job
      PYTHONPATH=/job/python:/my lib
          ranks find elastictop's Python files, then yours
      ELASTICTOP_JOB_DIR=/job
          where ranks leave what they know
      ELASTICTOP_BEAT=/run/beat
          where ranks send their heartbeats
      ELASTICTOP_AGENT=1
          marks what elastictop started
      ELASTICTOP_ORPHANS=keep
          ranks go on when their agent dies (--orphans end ends them)

    Removed variables:
      LOCAL_RANK
          left from a job around this one

    Left as you set it:
      --log-dir=my logs
          you typed it; else --log-dir=/job/logs
      OMP_NUM_THREADS=8
          from the environment; else OMP_NUM_THREADS=1
    ");
}

#[test]
fn the_dry_run_as_json() {
    let json =
        render_json(&planned(&words("--max-restarts 1 --nproc-per-node xpu t.py --token hunter2"), &[]));
    assert_eq!(
        (&json["schema"], &json["max_restarts"], &json["local_world_size"]),
        (&1.into(), &1.into(), &serde_json::Value::Null)
    );
    let keys: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
    assert_snapshot!(keys.join(" "), @"added_env added_flags command cwd function_mode gpu_wait_s kept launcher local_world_size log_dir max_nodes max_restarts min_nodes monitor_interval_s name nccl_ras_addr notes orphans removed_env schema stop_grace_s");
    assert_snapshot!(json["kept"], @r#"[{"instead_of":"--max-restarts=3","name":"--max-restarts","value":"1","who":"flag"}]"#);
    assert!(!json.to_string().contains("hunter2"));
}

#[test]
fn job_names_come_from_the_flag_or_the_script() {
    let name = |line: &str| planned(&words(line), &[]).name;
    assert_eq!(name("--name llama-7b t.py"), "llama-7b");
    assert_eq!(name("a/b/train.py"), "train");
    assert_eq!(name("-m pkg.train"), "pkg.train");
    assert_eq!(name("--no-python ./run.sh"), "run");
}

proptest! {
    #[test]
    fn any_arguments_of_the_script_arrive_unchanged(args in prop::collection::vec("(--?[a-z-]{0,8}=?)?\\PC{0,6}", 0..8)) {
        for start in [&["--nproc-per-node=2", "t.py"][..], &["-m", "t.py"], &["--run-path", "t.py"], &["--launcher", "local", "t.py"]] {
            let line: Vec<_> = start.iter().copied().chain(args.iter().map(String::as_str)).collect();
            let argv = planned(&line, &[]).argv;
            let at = argv.len() - args.len();
            prop_assert_eq!(&argv[at - 1], "t.py");
            prop_assert_eq!(&argv[at..], &args[..]);
        }
    }

    #[test]
    fn the_dry_run_shows_no_secret(secret in "[a-z0-9]{6}Q[a-z0-9]{6}", which in 0..5_usize, local in any::<bool>()) {
        let (words, env): (Vec<String>, Vec<(&str, &str)>) = match which {
            0 => (vec!["--hf-token".into(), secret.clone()], vec![]),
            1 => (vec![format!("--wandb_api_key={secret}")], vec![]),
            2 => (vec![format!("DB_PASSWORD={secret}")], vec![]),
            3 => (vec![], vec![("WANDB_API_KEY", &secret)]),
            _ => (vec![format!("--client-secret={secret}"), "--password".into(), secret.clone()], vec![]),
        };
        let start: &[&str] = if local { &["--launcher", "local", "t.py"] } else { &["t.py"] };
        let line: Vec<_> = start.iter().copied().chain(words.iter().map(String::as_str)).collect();
        let plan = planned(&line, &env);
        let shown = format!("{}{}{:?}{:?}", render_text(&plan), render_json(&plan), plan.display, plan.asked);
        prop_assert!(!shown.contains(&secret));
    }
}
