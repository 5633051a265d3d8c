//! The disk is full: the job goes on, elastictop says what it no longer keeps.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use rustix::process::{Signal, geteuid};
use serde_json::Value;

use crate::harness::{Lab, PATIENCE, kernel_state, kill, living, wait_until};

/// A small disk of its own, unmounted with the test.
struct Disk(PathBuf);

impl Disk {
    fn mount(lab: &Lab) -> Option<Disk> {
        let at = lab.elastictop_dir();
        fs::create_dir_all(&at).expect("a folder");
        // Room for the binary, which is copied into the job's folder, and some more.
        let program = fs::metadata(env!("CARGO_BIN_EXE_elastictop")).expect("the binary").len();
        let options = format!("mode=700,size={}", program + (24 << 20));
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&at).output();
        mount.is_ok_and(|output| output.status.success()).then(|| Disk(at))
    }

    /// Takes all the room that is left.
    fn fill(&self) {
        let mut file = fs::File::create(self.0.join("filler")).expect("a file");
        let mut block = 1 << 20;
        while block > 0 {
            if std::io::Write::write_all(&mut file, &vec![b'x'; block]).is_err() {
                block /= 4;
            }
        }
    }

    fn empty(&self) {
        fs::remove_file(self.0.join("filler")).expect("the filler");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Processes may still have files open there: detached, it goes with the last of them.
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

fn storage_alert(status: &Value) -> Option<String> {
    let alerts = status["alerts"].as_array()?;
    alerts.iter().find(|alert| alert["kind"] == "storage").map(|alert| alert["text"].to_string())
}

#[test]
fn a_full_disk_ends_no_rank_and_is_told() {
    outlives_a_full_disk(&Lab::new(), &["--launcher", "local"]);
}

#[test]
fn a_full_disk_ends_no_rank_of_torchrun() {
    let Some(lab) = Lab::with_torch() else { return };
    outlives_a_full_disk(&lab, &[]);
}

fn outlives_a_full_disk(lab: &Lab, launcher: &[&str]) {
    let Some(disk) = Disk::mount(lab) else {
        assert!(!geteuid().is_root() || std::env::var_os("ELASTICTOP_TEST_TORCH").is_none(), "cannot mount");
        // Only root may mount; the unit tests of the storage thread remain.
        return;
    };
    // More lines than a page of a full disk holds, and a script that ends with the first that it cannot write.
    let line = "line=$(printf '%0500d' 0); i=0
        while [ ! -e end ]; do echo $i $line || exit 9; i=$((i+1)); [ -e slow ] && sleep 0.02 || sleep 0.002; done";
    let words = ["--nproc-per-node", "2", "--no-python", "sh", "-c", line];
    let job = lab.start("job", &[launcher, &words].concat());
    let ranks = living(&job.wait_for_ranks(2));
    assert_eq!(storage_alert(&job.status()), None);
    wait_until("the ranks have written something", PATIENCE, || {
        (job.logs(&["--no-agent"]).lines().count() > 200).then_some(())
    });

    disk.fill();
    let status = job.wait_for("the alert", |status| storage_alert(status).is_some());
    assert!(storage_alert(&status).is_some_and(|text| text.contains("the job goes on")), "{status:#}");
    // Each rank writes more than was reserved for it: old lines make room for new ones.
    let end = lines(&job.logs(&["--no-agent"]));
    wait_until("many more lines", PATIENCE, || {
        disk_is_full(&disk);
        let status = job.status();
        assert_eq!(living(&status), ranks, "no rank died of it: {status:#}");
        (lines(&job.logs(&["--no-agent"])) > end + 8000).then_some(())
    });
    let text = job.logs(&["--no-agent"]);
    assert!(text.contains("[these bytes are gone from the file]"), "old lines were given up");
    let newest = text.lines().rev().find(|line| line.starts_with("r0")).expect("a line of rank 0");
    assert!(newest.contains(" 000000"), "the newest lines are there: {newest}");

    disk.empty();
    job.wait_for("the alert is gone", |status| storage_alert(status).is_none());
    lab.touch("end");
    let status = job.wait_for_end();
    assert_eq!(status["job"]["state"], "done", "{status:#}");
    let raised = job.events_of("alert_raised").into_iter().any(|event| event["alert"]["kind"] == "storage");
    assert!(raised, "the journal was kept all the time");
    assert_eq!(job.events_of("job_ended").len(), 1);
}

#[test]
fn a_job_that_ends_on_a_full_disk_is_over_all_the_same() {
    let lab = Lab::new();
    let Some(disk) = Disk::mount(&lab) else { return };
    let line = "while [ ! -e end ]; do sleep 0.02; done; exit 3";
    let words = ["--max-restarts", "0", "--no-python", "sh", "-c", line];
    let job = lab.start("job", &[&["--launcher", "local"][..], &words].concat());
    job.wait_for_ranks(1);
    disk.fill();
    job.wait_for("the alert", |status| storage_alert(status).is_some());
    lab.touch("end");
    let status = job.wait_for_end();
    assert_eq!((&status["job"]["state"], &status["job"]["exit_code"]), (&"failed".into(), &1.into()));
    let (code, out, _) = lab.run(&["ps", "--all", "--json"]);
    assert!(code == 0 && out.contains("\"failed\""), "{out}");
    // Nothing new can be started there, and that leaves nothing behind.
    let mut again = lab.elastictop();
    again.args(["run", "--launcher", "local", "--no-python", "--detach", "sleep", "1"]);
    let (code, _, err) = crate::harness::finish(&mut again);
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("No space left"), "{err}");
    assert_eq!(fs::read_dir(lab.elastictop_dir().join("jobs")).expect("jobs").count(), 1);
}

fn lines(text: &str) -> usize {
    text.lines().count()
}

/// What was freed by old lines is taken at once, as somebody else would.
fn disk_is_full(disk: &Disk) {
    let stat = rustix::fs::statvfs(&disk.0).expect("a disk");
    assert!(stat.f_bavail * stat.f_frsize < 4 << 20, "the disk is full: {} blocks left", stat.f_bavail);
}

#[test]
fn events_are_followed_into_the_file_that_takes_over() {
    let lab = Lab::new();
    let job = lab.start("grows", &["--launcher", "local", "--no-python", "sleep", "1000"]);
    job.wait_for_ranks(1);
    // Nobody else writes from here on: what a supervisor does at 64 MiB is done by hand.
    kill(job.supervisor(), Signal::KILL);
    wait_until("the supervisor is gone", PATIENCE, || {
        (kernel_state(job.supervisor()).is_none()).then_some(())
    });
    let path = job.dir().join("journal.jsonl");
    let before = fs::read_to_string(&path).expect("a journal");
    let last: Value = serde_json::from_str(before.lines().last().expect("an event")).expect("JSON");
    let seq = last["seq"].as_u64().expect("a number");
    let note = |more: u64, text: &str| {
        let mut event = last.clone();
        let fields = event.as_object_mut().expect("an event");
        fields.retain(|name, _| ["schema", "seq", "at"].contains(&name.as_str()));
        fields.insert("seq".into(), (seq + more).into());
        fields.insert("kind".into(), "note".into());
        fields.insert("text".into(), text.into());
        format!("{event}\n")
    };
    let add = |path: &Path, text: &str| {
        let mut file = fs::OpenOptions::new().append(true).create(true).open(path).expect("a file");
        std::io::Write::write_all(&mut file, text.as_bytes()).expect("a line");
    };
    let mut follow = lab.spawn("follow", lab.elastictop().args(["events", &job.id, "--json", "--follow"]));
    let printed = |text: &str| lab.read("follow.out").matches(text).count();
    let wait_for = |text: &str| wait_until(text, PATIENCE, || (printed(text) == 1).then_some(()));
    add(&path, &note(1, "before"));
    wait_for("before");
    add(&path, &note(2, "just before"));
    let aside = path.with_extension("0001.jsonl");
    fs::rename(&path, &aside).expect("moved aside");
    add(&path, &note(3, "after"));
    wait_for("just before");
    wait_for("after");
    add(&path, &note(4, "later"));
    wait_for("later");
    assert_eq!((printed("before"), printed("\"text\":\"before\"")), (2, 1), "each once");
    let _ = follow.kill();
    let _ = follow.wait();

    // All parts are read when somebody asks later, too.
    assert_eq!(job.events_of("note").len(), 4);
    assert_eq!(job.events_of("job_started").len(), 1);
}
