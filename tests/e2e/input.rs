//! Bad input: one clear error, exit code 2 (3 for jobs that are not there), and nothing is started. Secrets stay
//! where they are.

use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
};

use rustix::process::geteuid;

use crate::harness::{Lab, PATIENCE, finish, living, wait_until};

/// Runs elastictop, which must refuse with this exit code and these words, and leave nothing behind.
fn refused(lab: &Lab, command: &mut Command, code: i32, words: &str) {
    let before = jobs(lab);
    let (got, out, err) = finish(command);
    assert_eq!(got, code, "{command:?}: {out}{err}");
    assert!(err.contains(words), "{command:?} says {err:?} instead of {words:?}");
    assert_eq!(err.matches("error:").count(), 1, "{command:?} says more than one thing: {err}");
    assert!(!err.contains("panicked"), "{err}");
    assert_eq!(jobs(lab), before, "{command:?} left a job behind");
}

fn jobs(lab: &Lab) -> Vec<String> {
    let entries = fs::read_dir(lab.elastictop_dir().join("jobs")).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn program(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    fs::write(&path, text).expect("a program");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("an executable");
    path.display().to_string()
}

#[test]
fn bad_requests_are_refused_and_nothing_is_started() {
    let lab = Lab::new();
    fs::write(lab.path("train.py"), "").expect("a script");
    let local = ["run", "--launcher", "local", "--no-python"];
    for (args, words) in [
        (&["run", "--bogus", "train.py"][..], "--bogus"),
        (&["run"], "required"),
        (&["frobnicate"], "frobnicate"),
        (&["run", "missing.py"], "missing.py: there is no such file"),
        (&["run", "."], "is a directory"),
        (&["run", "--nnodes", "4:2", "train.py"], "--nnodes 4:2"),
        (&["run", "--nproc-per-node", "0", "train.py"], "at least one rank"),
        (&["run", "--nproc-per-node", "many", "train.py"], "--nproc-per-node many"),
        (&["run", "--max-restarts", "-1", "train.py"], "--max-restarts"),
        (&["run", "--stop-grace", "soon", "train.py"], "soon"),
        (&["run", "--python", "/nowhere/python", "train.py"], "/nowhere/python"),
        (&["run", "--name", "a b", "train.py"], "--name a b"),
        (&["run", "--name", "../up", "train.py"], "--name ../up"),
        (&["run", "--dry-run", "--detach", "train.py"], "--detach"),
        (&["run", "--theme", "none", "train.py"], "theme"),
        (&["demo", "--ranks", "0"], "--ranks"),
        (&["signal", "NOPE"], "NOPE"),
        (&["attach", "x", "--pid", "1"], "--pid"),
    ] {
        refused(&lab, lab.elastictop().args(args), 2, words);
    }
    refused(&lab, lab.elastictop().args(local).arg("no-such-program"), 2, "no-such-program");
}

#[test]
fn a_python_that_cannot_do_it_is_named_with_what_helps() {
    let lab = Lab::new();
    fs::write(lab.path("train.py"), "").expect("a script");
    let mut none = lab.elastictop();
    refused(&lab, none.env("PATH", "/nowhere").args(["run", "train.py"]), 2, "no Python was found");
    // One that runs, and has no torch.
    let bare = program(lab.dir(), "python-bare", "#!/bin/sh\nexec python3 -S -I \"$@\"\n");
    let mut command = lab.elastictop();
    command.args(["run", "--python", &bare, "train.py"]);
    refused(&lab, &mut command, 2, "has no torch");
    let (_, _, err) = finish(&mut command);
    assert!(err.contains("pip install torch") && err.contains("--launcher local"), "{err}");
    // One that is none.
    let broken = program(lab.dir(), "python-broken", "#!/bin/sh\nexit 9\n");
    refused(&lab, lab.elastictop().args(["run", "--python", &broken, "train.py"]), 2, "python-broken");
}

#[test]
fn jobs_that_are_not_there_are_exit_code_3() {
    let lab = Lab::new();
    for command in ["status", "events", "logs", "stop", "restart", "attach", "rm"] {
        refused(&lab, lab.elastictop().args([command, "nobody"]), 3, "there is no job \"nobody\"");
    }
    refused(&lab, lab.elastictop().args(["signal", "TERM", "nobody"]), 3, "there is no job \"nobody\"");
    refused(&lab, lab.elastictop().arg("status"), 3, "there is no job yet");
    refused(&lab, lab.elastictop().args(["status", "--pid", "2147483647"]), 3, "process 2147483647");
}

#[test]
fn a_name_that_runs_already_is_refused() {
    let lab = Lab::new();
    let words = ["--launcher", "local", "--no-python", "sleep", "1000"];
    let job = lab.start("twice", &words);
    let mut again = lab.elastictop();
    again.args(["run", "--detach", "--name", "twice"]).args(words);
    refused(&lab, &mut again, 2, "a job named \"twice\" is running");
    job.stop();
    // Now it is free.
    lab.start("twice", &words).stop();
}

#[test]
fn folders_that_cannot_be_used_are_refused() {
    let lab = Lab::new();
    let words = ["run", "--launcher", "local", "--no-python", "sleep", "1"];
    let file = lab.path("file");
    fs::write(&file, "").expect("a file");
    for dir in ["/proc/nowhere", &file] {
        refused(&lab, lab.elastictop().env("ELASTICTOP_DIR", dir).args(words), 2, dir);
    }
    let gone = lab.path("gone");
    fs::create_dir(&gone).expect("a folder");
    let line =
        format!("cd {gone} && rmdir {gone} && exec {} {}", env!("CARGO_BIN_EXE_elastictop"), words.join(" "));
    refused(&lab, lab.command("sh").args(["-c", &line]), 2, "the current directory");
    if !geteuid().is_root() {
        let closed = lab.path("closed");
        fs::create_dir(&closed).expect("a folder");
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o500)).expect("a closed folder");
        refused(&lab, lab.elastictop().env("ELASTICTOP_DIR", &closed).args(words), 2, &closed);
    }
}

#[test]
fn another_users_folder_is_refused() {
    if !geteuid().is_root() {
        // Only root can be somebody else for a moment.
        return;
    }
    let lab = Lab::new();
    fs::create_dir_all(lab.elastictop_dir().join("jobs")).expect("folders");
    for dir in [lab.dir().to_owned(), lab.elastictop_dir(), lab.elastictop_dir().join("jobs")] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).expect("an open folder");
    }
    let program = lab.path("elastictop");
    fs::copy(env!("CARGO_BIN_EXE_elastictop"), &program).expect("a copy that anybody can run");
    let mut command = lab.command("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", &program, "ps"]);
    refused(&lab, &mut command, 2, "belongs to user 0, not to you (65534)");
}

/// Files below a folder whose bytes have `needle` in them.
fn files_with(dir: &Path, needle: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files_with(&path, needle));
        } else if path.file_name().is_some_and(|name| name != "elastictop") {
            let bytes = fs::read(&path).unwrap_or_default();
            if bytes.windows(needle.len()).any(|window| window == needle.as_bytes()) {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

#[test]
fn secrets_are_passed_on_and_shown_nowhere() {
    let lab = Lab::new();
    let names = ["WANDB_API_KEY", "HF_TOKEN", "DB_PASSWORD", "AWS_SECRET_ACCESS_KEY"];
    let mut env: Vec<_> = names.iter().map(|name| (*name, "hidden0123456789")).collect();
    env.push(("PLAIN", "shown"));
    // The ranks get them; the launcher's command line is the kernel's to show, not elastictop's.
    let line = "[ \"$WANDB_API_KEY$DB_PASSWORD\" = hidden0123456789hidden0123456789 ] && [ $2 = hidden0123456789 ] \
                && echo got-them; exec sleep 1000";
    let words = [
        "--launcher",
        "local",
        "--no-python",
        "sh",
        "-c",
        line.trim(),
        "sh",
        "--api-key",
        "hidden0123456789",
        "--password=hidden0123456789",
        "HF_TOKEN=hidden0123456789",
        "--lr=3",
    ];
    // The script itself must not have the word in it: it is shown.
    let words =
        words.map(|word| word.replace("= hidden0123456789hidden0123456789", "= \"$HF_TOKEN$HF_TOKEN\""));
    let words = words.map(|word| word.replace("$2 = hidden0123456789", "$2 = $HF_TOKEN"));
    let words: Vec<_> = words.iter().map(String::as_str).collect();

    let job = lab.start_with("job", &words, &env);
    job.wait_for_ranks(1);
    wait_until("the rank got them", PATIENCE, || job.logs(&[]).contains("got-them").then_some(()));
    let record = "torchelastic.worker.status.START";
    assert!(!job.logs(&[]).contains(record) && job.logs(&["--records"]).contains(record));
    let follow = lab.elastictop().args(["attach", &job.id, "--plain"]).stdout(Stdio::piped()).spawn();
    let follow = follow.expect("a viewer");
    lab.must(&["restart", &job.id]);
    assert_eq!(living(&job.wait_for_ranks(1)).len(), 1);
    let mut shown = lab.must(&["status", &job.id]) + &lab.must(&["status", &job.id, "--json"]);
    for args in
        [&["events", &job.id][..], &["events", &job.id, "--json"], &["ps", "--json"], &["logs", &job.id]]
    {
        shown += &lab.must(args);
    }
    job.stop();
    let output = follow.wait_with_output().expect("what the viewer printed");
    shown += &String::from_utf8_lossy(&output.stdout);
    for args in [&["run", "--dry-run"][..], &["run", "--dry-run", "--json"]] {
        let (code, out, err) = finish(lab.elastictop().args(args).args(&words).envs(env.iter().copied()));
        assert_eq!(code, 0, "{err}");
        assert!(out.contains("[hidden]") && out.contains("--lr=3"), "{out}");
        shown += &out;
    }
    assert!(shown.contains("--lr=3"));
    assert!(!shown.contains("hidden0123456789"), "{shown}");
    assert_eq!(files_with(&lab.elastictop_dir(), "hidden0123456789"), Vec::<String>::new());
    // The test can find what it looks for.
    let _ = fs::File::create(lab.elastictop_dir().join("probe"))
        .and_then(|mut file| file.write_all(b"xhidden0123456789"));
    assert_eq!(files_with(&lab.elastictop_dir(), "hidden0123456789").len(), 1);
}

#[test]
fn what_cannot_be_written_is_an_error_and_what_nobody_reads_is_none() {
    let lab = Lab::new();
    let job = lab.start("out", &["--launcher", "local", "--no-python", "sh", "-c", "echo hello; sleep 1000"]);
    job.wait_for_lines(&[], "hello", 1);
    for args in [&["ps"][..], &["status"], &["events"], &["logs"], &["ps", "--json"]] {
        let full = fs::File::options().write(true).open("/dev/full").expect("a full device");
        let mut command = lab.elastictop();
        command.args(args).stdout(full).stderr(Stdio::piped());
        let done = command.output().expect("elastictop");
        let said = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(1), "{args:?}: {said}");
        assert!(said.contains("cannot write to standard output"), "{args:?}: {said}");

        let (reader, writer) = rustix::pipe::pipe().expect("a pipe");
        drop(reader);
        let mut command = lab.elastictop();
        command.args(args).stdout(writer).stderr(Stdio::piped());
        let done = command.output().expect("elastictop");
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success() && said.is_empty(), "{args:?}: {said}");
    }
    // A reader that has seen enough, while nothing more happens.
    for args in [&["attach", "--plain"][..], &["events", "--follow"], &["logs", "--follow"]] {
        let mut follow = lab.elastictop().args(args).stdout(Stdio::piped()).spawn().expect("elastictop");
        drop(follow.stdout.take());
        let done = wait_until("it ends", PATIENCE, || follow.try_wait().expect("a child"));
        assert!(done.success(), "{args:?}: {done}");
    }
    job.stop();
}

#[test]
fn what_is_not_there_is_said() {
    let lab = Lab::new();
    fs::write(lab.path("c.toml"), "[ui]\ntheme = \"norf\"\n[keys]\ndetahc = \"Z\"\n").expect("a file");
    let (code, out, err) = lab.run(&["config", "validate", &lab.path("c.toml")]);
    assert_eq!(code, 2, "{out}{err}");
    assert!(
        format!("{out}{err}").contains("norf") && format!("{out}{err}").contains("c.toml:4:1: keys.detahc"),
        "{out}{err}"
    );
    let pipe = lab.path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
    refused(&lab, lab.elastictop().args(["replay", &pipe]), 2, "is no regular file");
    let colon = lab.path("a:b");
    let words = ["run", "--launcher", "local", "--no-python", "sleep", "1"];
    refused(&lab, lab.elastictop().env("ELASTICTOP_DIR", colon).args(words), 2, "cannot have a ':'");

    let job = lab.start("here", &["--launcher", "local", "--no-python", "sleep", "1000"]);
    job.wait_for_ranks(1);
    let (code, out, err) = lab.run(&["logs", "--rank", "99"]);
    assert!(code == 0 && out.is_empty() && err.contains("99"), "{code}: {out}{err}");
    // Whoever looks with another folder is told where this job's is.
    let mut elsewhere = lab.elastictop();
    elsewhere.env("ELASTICTOP_DIR", lab.path("other")).arg("ps");
    let (_, out, _) = finish(&mut elsewhere);
    let folder = format!("its folder is elsewhere: ELASTICTOP_DIR={}", lab.elastictop_dir().display());
    assert!(out.contains(&folder), "{out}");
    job.stop();
}
