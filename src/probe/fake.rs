//! A `/proc` in a temporary folder, for tests.

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use crate::domain::id::ProcId;

/// A tree of processes.
pub(super) struct FakeProc {
    dir: tempfile::TempDir,
}

/// One process to put into the tree.
#[derive(Clone)]
pub(super) struct Fake {
    pub(super) pid: i32,
    pub(super) ppid: i32,
    pub(super) sid: i32,
    pub(super) comm: Vec<u8>,
    pub(super) letter: char,
    pub(super) start: u64,
    pub(super) cmdline: Vec<u8>,
    pub(super) environ: Vec<u8>,
    pub(super) wait_status: i32,
}

impl Fake {
    pub(super) fn new(pid: i32, ppid: i32, comm: &str, cmdline: &str) -> Fake {
        Fake {
            pid,
            ppid,
            sid: 1,
            comm: comm.into(),
            letter: 'S',
            start: 5000 + pid as u64,
            cmdline: cmdline.split(' ').flat_map(|word| [word.as_bytes(), b"\0"].concat()).collect(),
            environ: b"HOME=/root\0".to_vec(),
            wait_status: 0,
        }
    }

    pub(super) fn agent(pid: i32) -> Fake {
        Fake::new(pid, 1, "pt_elastic", "python /v/bin/torchrun --max-restarts=2 --token abc train.py")
    }

    pub(super) fn rank(pid: i32, agent: i32, local_rank: u32) -> Fake {
        Fake::new(pid, agent, "python", "python -u train.py").leading().with_place(local_rank)
    }

    pub(super) fn leading(mut self) -> Fake {
        self.sid = self.pid;
        self
    }

    pub(super) fn in_session(mut self, sid: i32) -> Fake {
        self.sid = sid;
        self
    }

    pub(super) fn with_place(mut self, local_rank: u32) -> Fake {
        let mut text = format!("RANK={local_rank}\0LOCAL_RANK={local_rank}\0GROUP_RANK=0\0");
        text += "WORLD_SIZE=40\0LOCAL_WORLD_SIZE=40\0TORCHELASTIC_RUN_ID=run\0TORCHELASTIC_RESTART_COUNT=0\0";
        text += "TORCHELASTIC_MAX_RESTARTS=3\0TORCHELASTIC_USE_AGENT_STORE=False\0";
        // An environment holds any bytes.
        self.environ.extend(b"BAD\xff\xfe=\xc3\x28\0NOEQUALS\0=\0");
        self.environ.extend(text.as_bytes());
        self
    }

    pub(super) fn zombie(mut self, wait_status: i32) -> Fake {
        (self.letter, self.wait_status) = ('Z', wait_status);
        self.cmdline.clear();
        self.environ.clear();
        self
    }

    pub(super) fn proc(&self) -> ProcId {
        ProcId { pid: self.pid, start: self.start }
    }

    pub(super) fn stat(&self) -> Vec<u8> {
        let Fake { pid, ppid, sid, letter, start, wait_status, .. } = self;
        let mut line = format!("{pid} (").into_bytes();
        line.extend(&self.comm);
        let mut rest =
            format!(") {letter} {ppid} {sid} {sid} 0 -1 4194304 1 2 3 4 150 50 7 8 20 0 12 0 {start}");
        for field in 23..52 {
            write!(rest, " {field}").unwrap();
        }
        line.extend(format!("{rest} {wait_status}\n").bytes());
        line
    }
}

impl FakeProc {
    pub(super) fn new(processes: &[Fake]) -> FakeProc {
        let tree = FakeProc { dir: tempfile::tempdir().unwrap() };
        for process in processes {
            tree.put(process);
        }
        tree
    }

    pub(super) fn root(&self) -> &Path {
        self.dir.path()
    }

    pub(super) fn dir(&self, pid: i32) -> PathBuf {
        self.dir.path().join(pid.to_string())
    }

    /// Puts a process in, or changes it in place: who has its files open sees the change.
    pub(super) fn put(&self, process: &Fake) {
        let dir = self.dir(process.pid);
        let task = dir.join("task").join(process.pid.to_string());
        fs::create_dir_all(&task).unwrap();
        fs::write(dir.join("stat"), process.stat()).unwrap();
        fs::write(dir.join("cmdline"), &process.cmdline).unwrap();
        fs::write(dir.join("environ"), &process.environ).unwrap();
        fs::write(dir.join("wchan"), "futex_do_wait").unwrap();
        if !task.join("children").exists() {
            fs::write(task.join("children"), "").unwrap();
        }
        self.link(process.ppid, process.pid, true);
    }

    /// Reaps a process: what is open shows nothing any more.
    pub(super) fn reap(&self, process: &Fake) {
        let dir = self.dir(process.pid);
        fs::write(dir.join("stat"), "").unwrap();
        fs::remove_dir_all(dir).unwrap();
        self.link(process.ppid, process.pid, false);
    }

    fn link(&self, parent: i32, child: i32, is_there: bool) {
        let path = self.dir(parent).join("task").join(parent.to_string()).join("children");
        let Ok(text) = fs::read_to_string(&path) else { return };
        let child = child.to_string();
        let mut pids: Vec<&str> = text.split_whitespace().filter(|&pid| pid != child).collect();
        if is_there {
            pids.push(&child);
        }
        fs::write(path, pids.join(" ") + " ").unwrap();
    }
}
