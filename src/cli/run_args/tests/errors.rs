//! Command lines, variables and worlds that must be refused, with the whole text of each error.

use insta::assert_snapshot;

use super::*;

/// The first error of a command line: of the parser, else of the plan.
fn wrong(line: &str, env: &[(&str, &str)]) -> String {
    wrong_with(line, env, &facts())
}

pub(super) fn wrong_with(line: &str, env: &[(&str, &str)], facts: &Facts) -> String {
    let args = match parse(&words(line)) {
        Ok(args) => args,
        Err(error) => {
            assert_eq!(error.exit_code(), 2, "{line}");
            return error.to_string();
        }
    };
    let env = env.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let PlanError { text, hints } = plan(&args.request(env), facts).expect_err(line);
    let hints = hints.into_iter().map(|hint| format!("hint: {hint}"));
    std::iter::once(text).chain(hints).collect::<Vec<_>>().join("\n")
}

#[test]
fn bad_command_lines_get_one_clear_error() {
    let lines = [
        "--nnodes 4:2 t.py",
        "--nnodes 0 t.py",
        "--nnodes 0:2 t.py",
        "--nnodes two t.py",
        "--nnodes 1:2:3 t.py",
        "--standalone --nnodes 2 t.py",
        "--nproc-per-node 0 t.py",
        "--nproc-per-node -1 t.py",
        "--nproc-per-node many t.py",
        "--max-restarts -1 t.py",
        "--max-restarts x t.py",
        "--monitor-interval 0 t.py",
        "--monitor-interval nan t.py",
        "--redirects 4 t.py",
        "-t 0:1,x t.py",
        "--start-method threads t.py",
        "--local-ranks-filter a t.py",
        "--nnodes 2 --node-rank 2 t.py",
        "--master-port 70000 t.py",
        "--nccl-collective-timeout 0 t.py",
        "--name a/b t.py",
        "-m --no-python t",
        "--print-completion bash",
        "--launcher local --nnodes 2 t.py",
        "--launcher local --run-path t.py",
        "--launcher local --rdzv-backend c10d t.py",
        "--launcher local --nproc-per-node xpu t.py",
    ];
    let errors: Vec<_> = lines.iter().map(|line| wrong(line, &[])).collect();
    assert_snapshot!(errors.join("\n"), @"
    --nnodes 4:2: the smallest number of nodes, 4, is above the largest, 2
    hint: did you mean --nnodes 2:4?
    --nnodes 0: at least one node is needed
    --nnodes 0:2: at least one node is needed
    --nnodes two: is neither a number nor MIN:MAX
    --nnodes 1:2:3: is neither a number nor MIN:MAX
    --nnodes 2: --standalone means one node
    hint: leave out --standalone and give every node the same --rdzv-endpoint HOST:PORT
    --nproc-per-node 0: at least one rank is needed
    --nproc-per-node -1: is neither a number from 1 nor one of auto, gpu, cpu and xpu
    --nproc-per-node many: is neither a number from 1 nor one of auto, gpu, cpu and xpu
    --max-restarts -1: is no number from 0
    --max-restarts x: is no number from 0
    --monitor-interval 0: is no number of seconds above 0
    --monitor-interval nan: is no number of seconds above 0
    --redirects 4: is none of 0 (none), 1 (stdout), 2 (stderr) and 3 (both), nor LOCAL_RANK:STD,... as in 0:3,1:1
    --tee 0:1,x: is none of 0 (none), 1 (stdout), 2 (stderr) and 3 (both), nor LOCAL_RANK:STD,... as in 0:3,1:1
    --start-method threads: is none of spawn, fork and forkserver
    --local-ranks-filter a: is no list of ranks such as 0,1
    --node-rank 2: the last of 2 nodes is number 1
    --master-port 70000: is no port number
    --nccl-collective-timeout 0: no collective could ever end in time
    --name a/b: has '/'; use letters, digits, '.', '_' and '-'
    --module and --no-python exclude each other
    --print-completion starts no job
    hint: torchrun --print-completion SHELL prints torchrun's own completion script
    --launcher local starts one node only
    hint: --launcher torchrun starts more, and needs torch
    --launcher local has no --run-path
    hint: leave it out, or use --launcher torchrun
    --launcher local has no --rdzv-backend
    hint: leave it out, or use --launcher torchrun
    --nproc-per-node xpu: --launcher local cannot count XPUs
    hint: give a number
    ");
}

#[test]
fn bad_variables_are_named_in_the_error() {
    let cases = [
        ("PET_NNODES", "4:2"),
        ("PET_NPROC_PER_NODE", "0"),
        ("PET_MAX_RESTARTS", ""),
        ("PET_STANDALONE", "yes"),
        ("ELASTICTOP_ORPHANS", "eat"),
    ];
    let errors: Vec<_> = cases.iter().map(|case| wrong("t.py", &[*case])).collect();
    assert_snapshot!(errors.join("\n"), @"
    PET_NNODES=4:2: the smallest number of nodes, 4, is above the largest, 2
    hint: did you mean --nnodes 2:4?
    PET_NPROC_PER_NODE=0: at least one rank is needed
    PET_MAX_RESTARTS=: is no number from 0
    PET_STANDALONE=yes: is neither 0 nor 1
    ELASTICTOP_ORPHANS=eat: is neither keep nor end
    ");
}

#[test]
fn the_parser_names_what_it_does_not_know() {
    let lines = [
        "--nproc-per-nodes 2 t.py",
        "--nccl-heartbeat-timeout 5x t.py",
        "--nccl-enable-monitoring maybe t.py",
        "",
        "--detach --wait t.py",
        "--json t.py",
    ];
    let errors: Vec<_> = lines.iter().map(|line| wrong(line, &[])).collect();
    assert_snapshot!(errors.join("---\n"), @"
    error: unexpected argument '--nproc-per-nodes' found

      tip: a similar argument exists: '--nproc-per-node'
      tip: to pass '--nproc-per-nodes' as a value, use '-- --nproc-per-nodes'

    Usage: elastictop run [OPTIONS] <SCRIPT> [ARGS]...

    For more information, try '--help'.
    ---
    error: invalid value '5x' for '--nccl-heartbeat-timeout <SEC>': is no time span: give seconds, or a unit as in 90s, 5m, 1h

    For more information, try '--help'.
    ---
    error: invalid value 'maybe' for '--nccl-enable-monitoring <BOOL>': value was not a boolean

    For more information, try '--help'.
    ---
    error: the following required arguments were not provided:
      <SCRIPT> [ARGS]...

    Usage: elastictop run [OPTIONS] <SCRIPT> [ARGS]...

    For more information, try '--help'.
    ---
    error: the argument '--detach' cannot be used with '--wait'

    Usage: elastictop run [OPTIONS] <SCRIPT> [ARGS]...

    For more information, try '--help'.
    ---
    error: the following required arguments were not provided:
      --dry-run

    Usage: elastictop run [OPTIONS] <SCRIPT> [ARGS]...

    For more information, try '--help'.
    ");
}

fn python(facts: &mut Facts) -> &mut Python {
    facts.python.as_mut().unwrap()
}

#[test]
fn a_world_that_does_not_fit_is_refused() {
    let with = |change: &dyn Fn(&mut Facts)| {
        let mut facts = facts();
        change(&mut facts);
        wrong_with("--nproc-per-node gpu t.py", &[], &facts)
    };
    let errors = [
        with(&|facts| facts.python = None),
        with(&|facts| python(facts).torch = None),
        with(&|facts| python(facts).torch = Some("1.13.1".into())),
        with(&|facts| python(facts).version = (3, 7)),
        with(&|facts| facts.gpus = 0),
    ];
    assert_snapshot!(errors.join("\n"), @"
    no Python was found
    hint: --python PATH names one
    /venv/bin/python has no torch
    hint: install it: /venv/bin/python -m pip install torch
    hint: --python PATH names another Python; an active virtual environment is found by itself
    hint: --launcher local starts the ranks without torch, on one node
    /venv/bin/python has torch 1.13.1; 2.0 or newer is needed
    hint: /venv/bin/python -m pip install --upgrade torch
    /venv/bin/python is Python 3.7; 3.9 or newer is needed
    hint: --python PATH names another one
    --nproc-per-node gpu: no GPU was found
    hint: --nproc-per-node auto takes the CPUs where there is no GPU; a number always works
    ");
}
