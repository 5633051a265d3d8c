//! Interpreters and scripts in folders made for the test. `python3` must be on PATH.

use insta::assert_snapshot;
use tempfile::TempDir;

use super::*;

fn folder(files: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in files {
        let path = folder.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "").unwrap();
        let mode = if file.contains("bin/") { 0o755 } else { 0o644 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    folder
}

fn env(pairs: &[(&str, &Path)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, path)| ((*name).to_owned(), path.display().to_string())).collect()
}

/// An error with the folder's name taken out.
fn say(folder: &TempDir, error: &Error) -> String {
    assert_eq!(error.exit_code(), 2);
    error.to_string().replace(&folder.path().display().to_string(), "DIR").replace("\n\n", "\n")
}

fn real_python() -> PathBuf {
    let env = std::env::vars().collect();
    on_path("python3", &env, Path::new("/")).expect("python3 is on PATH")
}

#[test]
fn the_interpreter_is_the_named_one_then_the_environments_then_the_paths() {
    let dir = folder(&[
        "venv/bin/python",
        "conda/bin/python",
        "bin/python3",
        "other/bin/python",
        "other/bin/python3.12",
    ]);
    let at = |path: &str| dir.path().join(path);
    let all = env(&[("VIRTUAL_ENV", &at("venv")), ("CONDA_PREFIX", &at("conda")), ("PATH", &at("bin"))]);
    let find =
        |asked: Option<&str>, env: &BTreeMap<String, String>| find_python(asked, env, dir.path()).unwrap();

    assert_eq!(find(Some("other/bin/python"), &all), at("other/bin/python"));
    assert_eq!(find(None, &all), at("venv/bin/python"));
    assert_eq!(
        find(None, &env(&[("CONDA_PREFIX", &at("conda")), ("PATH", &at("bin"))])),
        at("conda/bin/python")
    );
    assert_eq!(find(None, &env(&[("VIRTUAL_ENV", &at("gone")), ("PATH", &at("bin"))])), at("bin/python3"));
    assert_eq!(find(None, &env(&[("PATH", &at("other/bin"))])), at("other/bin/python"));
    assert_eq!(find(Some("python3.12"), &env(&[("PATH", &at("other/bin"))])), at("other/bin/python3.12"));
}

#[test]
fn an_interpreter_that_cannot_be_used_is_an_error() {
    let dir = folder(&["venv/bin/python", "plain"]);
    let find = |asked| say(&dir, &find_python(asked, &BTreeMap::new(), dir.path()).unwrap_err());
    let ask = |path: &Path, patience| say(&dir, &ask_python(path, dir.path(), patience).unwrap_err());
    let slow = ask(&real_python(), Duration::ZERO).replace(real_python().to_str().unwrap(), "python3");
    let errors = [find(None), find(Some("gone")), find(Some("./plain")), find(Some("./venv")), slow];
    assert_snapshot!(errors.join("\n"), @"
    error: no Python was found: no virtual environment is active, and python3 is not on PATH
    hint: --python PATH names one
    hint: --launcher local with --no-python runs programs that are not Python's
    error: --python gone: there is no such program
    error: --python ./plain: is not executable
    error: --python ./venv: is a directory
    hint: --python ./venv/bin/python
    error: python3 did not say its version within 0 s
    hint: --python PATH names another Python
    hint: it may start from a slow network folder; try it by hand: python -c 'import sys'
    ");
    assert!(
        ask(&dir.path().join("plain"), PATIENCE)
            .starts_with("error: DIR/plain cannot be run: Permission denied")
    );
    let shell = ask(Path::new("/bin/sh"), PATIENCE);
    assert!(shell.starts_with("error: /bin/sh is no Python that can be used: "), "{shell}");
}

#[test]
fn an_interpreter_tells_of_torch_without_importing_it() {
    let dir = folder(&["torch/__init__.py", "torch/distributed/run.py", "json.py"]);
    let bomb = "raise SystemExit('imported')";
    fs::write(dir.path().join("torch/__init__.py"), bomb).unwrap();
    fs::write(dir.path().join("json.py"), bomb).unwrap();
    fs::write(
        dir.path().join("torch/version.py"),
        "__all__ = []\n__version__ = '2.15.0+cu132'\ndebug = False\n",
    )
    .unwrap();
    let run =
        "p.add_argument(\n  \"--nnodes\")\np.add_argument('--event-log-handler', '--event_log_handler')\n";
    fs::write(dir.path().join("torch/distributed/run.py"), run).unwrap();
    let python = ask_python(&real_python(), dir.path(), PATIENCE).unwrap();
    assert_eq!(python.torch.as_deref(), Some("2.15.0+cu132"));
    assert_eq!(python.flags, Some(["nnodes", "event-log-handler"].map(String::from).into()));
    assert!(python.version >= (3, 0) && python.executable.starts_with('/'));

    fs::write(dir.path().join("torch/distributed/run.py"), "nothing known").unwrap();
    assert_eq!(ask_python(&real_python(), dir.path(), PATIENCE).unwrap().flags, None);
}

#[test]
fn scripts_that_cannot_be_run_are_errors_with_near_names() {
    let dir = folder(&[
        "train.py",
        "trainer.py",
        "evaluate.py",
        "src/main.py",
        "empty/readme",
        "bin/tool",
        "app/__main__.py",
    ]);
    let path = env(&[("PATH", &dir.path().join("bin"))]);
    let check = |flag: Option<&str>, script: &str| {
        let flags = flag.map(|flag| (flag.to_owned(), String::new())).into_iter().collect();
        let request = Request { script: script.into(), flags, env: path.clone(), ..Request::default() };
        check_script(&request, dir.path())
    };
    for (flag, script) in [
        (None, "train.py"),
        (None, "app"),
        (Some("module"), "any.thing"),
        (Some("no-python"), "tool"),
        (Some("no-python"), "bin/tool"),
    ] {
        check(flag, script).unwrap_or_else(|error| panic!("{script}: {error}"));
    }
    let cases = [
        (None, "tran.py"),
        (None, "Train"),
        (None, "src/mian.py"),
        (None, "zzz.py"),
        (None, "gone/train.py"),
        (None, "train.py/x"),
        (None, "src"),
        (None, "empty"),
        (Some("run-path"), "tran.py"),
        (Some("no-python"), "train.py"),
        (Some("no-python"), "./train.py"),
        (Some("no-python"), "nothing"),
        (Some("no-python"), "./src"),
        (Some("no-python"), "bin/tol"),
    ];
    let errors: Vec<_> =
        cases.iter().map(|(flag, script)| say(&dir, &check(*flag, script).unwrap_err())).collect();
    assert_snapshot!(errors.join("\n"), @"
    error: tran.py: there is no such file
    hint: did you mean train.py or trainer.py?
    error: Train: there is no such file
    hint: did you mean train.py?
    error: src/mian.py: there is no such file
    hint: did you mean src/main.py?
    error: zzz.py: there is no such file
    error: gone/train.py: there is no such file
    hint: there is no directory DIR/gone either
    error: train.py/x: the script cannot be reached: Not a directory (os error 20)
    error: src: is a directory, not a script
    hint: did you mean src/main.py?
    error: empty: is a directory, not a script
    error: tran.py: there is no such file
    hint: did you mean train.py or trainer.py?
    error: train.py: the program is not on PATH
    hint: a program of this directory needs its path: ./train.py
    error: ./train.py: is not executable
    hint: chmod +x ./train.py
    error: nothing: the program is not on PATH
    error: ./src: is a directory, not a program
    error: bin/tol: there is no such file
    hint: did you mean bin/tool?
    ");
}

#[test]
fn the_request_is_checked_before_the_world_and_both_make_a_plan() {
    let flags = BTreeMap::from([("nnodes".to_owned(), "4:2".to_owned())]);
    let request = Request { script: "/nowhere/t.py".into(), flags, ..Request::default() };
    let world = World {
        gpus: 0,
        run_id: "t-0000".into(),
        job_dir: "/job".into(),
        elastictop: "/bin/elastictop".into(),
        beat_socket: "/run/beat".into(),
        ras_port: free_port().unwrap(),
    };
    assert!(look(&request, None, world.clone()).unwrap_err().text.starts_with("--nnodes 4:2"));
    let request = Request { script: "/nowhere/t.py".into(), ..Request::default() };
    assert_eq!(look(&request, None, world.clone()).unwrap_err().text, "/nowhere/t.py: there is no such file");

    let dir = folder(&["t.py"]);
    let script = dir.path().join("t.py").display().to_string();
    let request = Request { script: script.clone(), local: true, env: std::env::vars().collect(), ..request };
    let facts = look(&request, real_python().to_str(), world).unwrap();
    assert!(facts.cpus > 0);
    let plan = crate::domain::launch::plan(&request, &facts).unwrap();
    assert_eq!(plan.argv.last(), Some(&script));
}

#[test]
fn distances_count_single_changes() {
    assert_eq!(
        [("a", "a"), ("", "ab"), ("train", "tran"), ("abc", "xbcd")].map(|(a, b)| distance(a, b)),
        [0, 2, 1, 2]
    );
}
