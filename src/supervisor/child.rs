//! Starting the agent, and collecting what dies.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
};

use rustix::process::{WaitOptions, wait};
use serde::{Deserialize, Serialize};

use super::folder::JobDir;
use crate::{
    domain::{exit::Exit, id::ProcId, redact::Secrets},
    probe::{files, proc},
};

/// How the agent is started. Travels from `elastictop run` to the supervisor through a pipe, never through a file:
/// it may hold secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Working directory.
    pub cwd: String,
    /// Variables on top of the inherited environment.
    pub env: Vec<(String, String)>,
    /// Variables that are not inherited.
    pub env_remove: Vec<String>,
    /// Whether `env` is the whole environment.
    pub env_is_whole: bool,
}

impl Spec {
    /// How a running agent was started, as the kernel remembers it.
    ///
    /// # Errors
    /// When it is gone or somebody else's.
    pub fn of_running(agent: ProcId) -> io::Result<Spec> {
        let root = Path::new(proc::ROOT).join(agent.pid.to_string());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let read = |name| std::fs::read(root.join(name));
        let (cmdline, environ) = (read("cmdline")?, read("environ")?);
        let words = cmdline.strip_suffix(b"\0").unwrap_or(&cmdline).split(|byte| *byte == 0);
        let env = environ.split(|byte| *byte == 0).filter_map(|entry| {
            let at = entry.iter().position(|byte| *byte == b'=')?;
            Some((text(&entry[..at]), text(&entry[at + 1..])))
        });
        let spec = Spec {
            argv: words.map(text).collect(),
            cwd: std::fs::read_link(root.join("cwd"))?.to_string_lossy().into_owned(),
            env: env.collect(),
            env_remove: Vec::new(),
            env_is_whole: true,
        };
        if proc::identify(Path::new(proc::ROOT), agent.pid) == Some(agent) && !spec.argv.is_empty() {
            Ok(spec)
        } else {
            Err(io::ErrorKind::NotFound.into())
        }
    }

    /// The values that must not be shown: of the agent's environment and its command line.
    pub fn secrets(&self) -> Secrets {
        let inherited: Vec<_> = std::env::vars().filter(|_| !self.env_is_whole).collect();
        let pairs = inherited.iter().chain(&self.env).map(|(name, value)| (name.as_str(), value.as_str()));
        Secrets::new(pairs, &self.argv)
    }

    /// The same with so many restarts left: who was started anew by hand begins to count at 0. Of the agent's own flags,
    /// which stand before those of the script, the first of this name counts.
    pub fn with_restarts(&self, left: u32) -> Spec {
        let mut spec = self.clone();
        let is_it = |word: &str| word.replace('_', "-") == "--max-restarts";
        let place = spec.argv.iter().position(|word| is_it(word.split('=').next().unwrap_or_default()));
        match place.map(|at| (at, spec.argv[at].split_once('=').map(|(name, _)| name.to_owned()))) {
            Some((at, Some(name))) => spec.argv[at] = format!("{name}={left}"),
            Some((at, None)) => {
                spec.argv[at + 1..].iter_mut().take(1).for_each(|value| *value = left.to_string());
            }
            None => {}
        }
        spec
    }

    /// Whether the agent could be started now: to be asked before another one is ended for it.
    ///
    /// # Errors
    /// What could not be done, as the end of a sentence.
    pub fn check(&self, dir: &JobDir) -> Result<(), String> {
        if !dir.program().exists() {
            let program = dir.program();
            dir.keep_program().map_err(|error| format!("cannot put back {}: {error}", program.display()))?;
        }
        for path in [dir.agent_out(), dir.agent_err()] {
            open(&path)?;
        }
        let program = Path::new(self.argv.first().ok_or("the command is empty")?);
        if program.is_absolute() {
            rustix::fs::access(program, rustix::fs::Access::EXEC_OK)
                .map_err(|error| format!("cannot run {}: {error}", program.display()))?;
        }
        Ok(())
    }

    /// Starts the agent: files for its output, so that it outlives whoever started it.
    ///
    /// # Errors
    /// Says what could not be done, as the end of a sentence.
    pub fn spawn(&self, dir: &JobDir) -> Result<ProcId, String> {
        let (program, args) = self.argv.split_first().ok_or("the command is empty")?;
        let mut command = Command::new(program);
        if self.env_is_whole {
            command.env_clear();
        }
        command
            .args(args)
            .current_dir(&self.cwd)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(open(&dir.agent_out())?)
            .stderr(open(&dir.agent_err())?)
            // A group of its own: a signal to the supervisor's group is not for the agent.
            .process_group(0);
        for name in &self.env_remove {
            command.env_remove(name);
        }
        let child = command.spawn().map_err(|error| format!("cannot run {program}: {error}"))?;
        let pid = child.id() as i32;
        files::give_back(pid);
        // The handle is not kept: `reap` collects every child, known or adopted.
        drop(child);
        proc::identify(Path::new(proc::ROOT), pid).ok_or_else(|| format!("{program} ended at once"))
    }
}

fn open(path: &Path) -> Result<File, String> {
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.map_err(|error| format!("cannot open {}: {error}", path.display()))
}

/// Collects a child that died: the agent, or an orphan that was handed to this process.
pub fn reap() -> Option<(i32, Exit)> {
    match wait(WaitOptions::NOHANG) {
        Ok(Some((pid, status))) => {
            Some((pid.as_raw_nonzero().get(), Exit::from_wait_status(status.as_raw())))
        }
        // No child is dead, or there is no child.
        Ok(None) | Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_that_is_started_anew_gets_the_restarts_that_are_left() {
        let left = |words: &str| {
            let argv = words.split(' ').map(str::to_owned).collect();
            let env = (Vec::new(), Vec::new());
            let spec = Spec { argv, cwd: "/".into(), env: env.0, env_remove: env.1, env_is_whole: true };
            spec.with_restarts(1).argv.join(" ")
        };
        for (before, after) in [
            (
                "torchrun --max-restarts=3 t.py --max-restarts 9",
                "torchrun --max-restarts=1 t.py --max-restarts 9",
            ),
            ("torchrun --max_restarts 3 t.py", "torchrun --max_restarts 1 t.py"),
            ("torchrun --max-restarts", "torchrun --max-restarts"),
            ("torchrun t.py", "torchrun t.py"),
        ] {
            assert_eq!(left(before), after);
        }
    }
}
