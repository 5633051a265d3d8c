//! The disk is full: the job goes on, elastictop says what it no longer keeps.

use std::{fs, path::PathBuf, process::Command};

use rustix::process::geteuid;
use serde_json::Value;

use crate::harness::{Lab, PATIENCE, living, wait_until};

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
