//! Why a job failed: the rank that failed first, not the one that torchrun saw first.

use std::{fs, os::unix::process::CommandExt, path::PathBuf, process::Command};

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Lab, PATIENCE, finish, kernel_state, kill, living, script, tell, wait_until};

/// Runs a script on two ranks without restarts to its bad end; gives its last status.
fn fail(lab: &Lab, flags: &[&str], name: &str, args: &[&str]) -> Value {
    let script = script(name);
    let mut all = vec!["--nproc-per-node", "2", "--max-restarts", "0"];
    all.extend(flags);
    all.push(&script);
    all.extend(args);
    let job = lab.start("cause", &all);
    let status = job.wait_for_end();
    assert_eq!(status["job"]["state"], "failed", "{status:#}");
    assert_eq!(status["job"]["exit_code"], 1, "torchrun's code for every failure");
    job.wait_until_nothing_is_left();
    status
}

#[track_caller]
fn assert_cause(status: &Value, rank: u32, kind: &str, word: &str) {
    let cause = &status["job"]["cause"];
    assert_eq!((&cause["rank"], &cause["kind"]), (&rank.into(), &kind.into()), "{cause:#}");
    let text = cause["text"].as_str().unwrap_or_default();
    assert!(text.contains(word), "{word:?} is not in {text:?}");
}

#[test]
fn the_raiser_is_named_and_not_its_peer() {
    let Some(lab) = Lab::with_torch() else { return };
    let status = fail(&lab, &[], "raise_then_peer.py", &[]);
    assert_cause(&status, 1, "exception", "bad batch");
}

#[test]
fn the_raiser_is_named_with_error_files_too() {
    let Some(lab) = Lab::with_torch() else { return };
    let status = fail(&lab, &[], "raise_then_peer.py", &["--record"]);
    assert_cause(&status, 1, "exception", "bad batch");
}

#[test]
fn a_rank_that_left_early_is_named() {
    let Some(lab) = Lab::with_torch() else { return };
    let status = fail(&lab, &[], "leave_early.py", &[]);
    assert_cause(&status, 1, "left_early", "left");
}

#[test]
fn a_segmentation_fault_is_told() {
    let Some(lab) = Lab::with_torch() else { return };
    let status = fail(&lab, &[], "segv.py", &["1"]);
    assert_cause(&status, 1, "signal", "SIGSEGV");
    assert_eq!(status["ranks"][1]["exit"], -11);
}

#[test]
fn a_full_gpu_is_told() {
    let Some(lab) = Lab::with_torch() else { return };
    let status = fail(&lab, &[], "cuda_oom.py", &["1"]);
    assert_cause(&status, 1, "oom_gpu", "memory");
    assert!(status["job"]["cause"]["hint"].is_string(), "what to do about it");
}

#[test]
fn a_kill_behind_a_shell_is_told() {
    let Some(lab) = Lab::with_torch() else { return };
    let status = fail(&lab, &["--no-python"], "shell_137.sh", &["1"]);
    assert_cause(&status, 1, "signal", "SIGKILL");
    assert_eq!(status["ranks"][1]["exit"], 137);
}

#[test]
fn a_kill_from_outside_is_told() {
    let Some(lab) = Lab::with_torch() else { return };
    let (script, file) = (script("idle.py"), lab.path("never"));
    let job = lab.start("cause", &["--nproc-per-node", "2", "--max-restarts", "0", &script, &file]);
    let status = job.wait_for_ranks(2);
    kill(living(&status)[1], Signal::KILL);
    let status = job.wait_for_end();
    assert_cause(&status, 1, "signal", "SIGKILL");
    assert_eq!(status["ranks"][1]["exit"], -9);
}

/// A control group with little memory, of v2 or else v1; removed when it is dropped.
struct Cramped {
    dir: PathBuf,
}

impl Cramped {
    const LIMIT: &str = "700M";

    fn new(name: &str) -> Result<Cramped, String> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(|error| error.to_string())?;
        let groups = fs::read_to_string("/proc/self/cgroup").map_err(|error| error.to_string())?;
        let mut why = "no control group of this machine counts memory".to_owned();
        for (kind, marker, limit, swap) in [
            ("cgroup2", "0::", "memory.max", "memory.swap.max"),
            ("cgroup", ":memory:", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
        ] {
            let top = mounts.lines().find_map(|line| {
                let (place, what) = line.split_once(" - ")?;
                let mut what = what.split(' ');
                let fits = what.next()? == kind && (kind == "cgroup2" || what.nth(1)?.contains("memory"));
                fits.then(|| place.split(' ').nth(4))?
            });
            let own = groups.lines().find_map(|line| line.split_once(marker));
            let (Some(top), Some((_, own))) = (top, own) else { continue };
            let parent = PathBuf::from(top).join(own.trim_start_matches('/'));
            let parent = if parent.is_dir() { parent } else { PathBuf::from(top) };
            let dir = parent.join(name);
            match fs::create_dir(&dir).and_then(|()| fs::write(dir.join(limit), Cramped::LIMIT)) {
                Ok(()) => {
                    let _ = fs::write(dir.join(swap), if kind == "cgroup2" { "0" } else { Cramped::LIMIT });
                    return Ok(Cramped { dir });
                }
                Err(error) => {
                    let _ = fs::remove_dir(&dir);
                    why = format!("{}: {error}", dir.display());
                }
            }
        }
        Err(why)
    }
}

impl Drop for Cramped {
    fn drop(&mut self) {
        for _ in 0..100 {
            // Busy until the last process is out.
            if fs::remove_dir(&self.dir).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
}

#[test]
fn a_kill_by_the_kernel_for_memory_is_told() {
    // Before the lab, so that it is removed after all in the lab has ended.
    let group = Cramped::new(&format!("elastictop-test-{}", std::process::id()));
    let Some(lab) = Lab::with_torch() else { return };
    let group = match group {
        Ok(group) => group,
        Err(why) => {
            tell(&format!("the kernel's out-of-memory killer is left out: {why}"));
            return;
        }
    };
    let enter = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", group.dir.display());
    let mut command: Command = lab.command("sh");
    command.args([
        "-c",
        &enter,
        "sh",
        env!("CARGO_BIN_EXE_elastictop"),
        "run",
        "--detach",
        "--name",
        "cause",
    ]);
    command.arg("--python").arg(lab.python());
    command.args(["--nproc-per-node", "2", "--max-restarts", "0", &script("eat_memory.py"), "1"]);
    let (code, out, err) = finish(command.process_group(0));
    assert_eq!(code, 0, "{err}");
    let id = out.strip_prefix("started ").and_then(|rest| rest.split(';').next()).expect("an id");
    let status = lab.job(id).wait_for_end();
    assert_cause(&status, 1, "oom_host", "memory");
    assert_eq!(status["ranks"][1]["exit"], -9);
    // The group can only be removed when all in it are gone, the supervisor too.
    let supervisor = lab.job(id).supervisor();
    wait_until("the supervisor ends", PATIENCE, || {
        kernel_state(supervisor).is_none_or(|state| state == 'Z').then_some(())
    });
}
