//! Which nodes a command is about: flags that name hosts, and where else they can be known from.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};

use super::forensic;
use crate::{
    domain::hosts,
    error::{Error, Result},
    probe::ras::Answer,
};

/// Largest file of hosts, in bytes: 65,536 names of 60.
const MAX_FILE: u64 = 4 << 20;
/// Slurm's variables with the nodes of a job, the newer name first.
const SLURM: [&str; 2] = ["SLURM_JOB_NODELIST", "SLURM_NODELIST"];

// Flags that name the nodes of a job. None of them: this machine alone.
#[derive(Clone, Debug, Default, Args)]
#[group(multiple = false)]
pub(crate) struct HostArgs {
    /// Nodes of the job: n01,n02 or n[01-16]; user@ may stand before each
    #[arg(long, value_name = "LIST")]
    nodes: Option<String>,
    /// File with one node in a line, as for mpirun or deepspeed
    #[arg(long, value_name = "FILE")]
    hostfile: Option<PathBuf>,
    /// Take the nodes from Slurm's variables, or from what NCCL's RAS says of a job of this machine
    #[arg(long, value_name = "SOURCE")]
    nodes_from: Option<Source>,
}

/// Where the nodes of a job are known from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Source {
    /// SLURM_JOB_NODELIST
    Slurm,
    /// NCCL's health service, asked through a rank of this machine
    Ras,
}

impl HostArgs {
    /// The hosts that are named, each once; `None` when no flag names any. `job` is whose RAS is asked, `env` gives
    /// variables. Blocks when RAS is asked, for up to 15 s.
    ///
    /// # Errors
    /// A list, file or answer that cannot be read or names none.
    pub fn hosts(
        &self,
        job: Option<&str>,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Vec<String>>> {
        let found = if let Some(list) = &self.nodes {
            hosts::expand(list).map_err(|why| wrong(&format!("--nodes {list}"), &why))
        } else if let Some(path) = &self.hostfile {
            let text = read(path)?;
            hosts::hostfile(&text).map_err(|why| wrong(&format!("--hostfile {}", path.display()), &why))
        } else {
            match self.nodes_from {
                None => return Ok(None),
                Some(Source::Slurm) => of_slurm(env),
                Some(Source::Ras) => of_ras(job),
            }
        };
        found.map(Some)
    }
}

fn wrong(what: &str, why: &str) -> Error {
    Error::usage(format!("cannot read {what}: {why}"))
}

fn read(path: &Path) -> Result<String> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE + 1).read_to_string(&mut text))
        .map_err(|error| Error::io("cannot read the hostfile", path, &error))?;
    if text.len() as u64 > MAX_FILE {
        return Err(Error::usage(format!("{} is too large for a hostfile", path.display())));
    }
    Ok(text)
}

fn of_slurm(env: impl Fn(&str) -> Option<String>) -> Result<Vec<String>> {
    let set = |name: &'static str| Some((name, env(name).filter(|list| !list.trim().is_empty())?));
    let (name, list) = SLURM.into_iter().find_map(set).ok_or_else(|| {
        Error::usage(format!("--nodes-from slurm: neither {} nor {} is set", SLURM[0], SLURM[1]))
            .hint("run it inside of the job's allocation")
            .hint("or outside: --nodes \"$(squeue --noheader --jobs JOBID --format %N)\"")
    })?;
    hosts::expand(&list).map_err(|why| wrong(&format!("{name}={list}"), &why))
}

fn of_ras(job: Option<&str>) -> Result<Vec<String>> {
    let addr = forensic::ras_addr(job)?.ok_or_else(|| {
        Error::job("--nodes-from ras: no living rank of the job on this machine tells an NCCL RAS address")
            .hint("run it on a node of the job, or name them: --nodes n01,n02")
    })?;
    of_answer(&forensic::ask_ras(&addr)?, &addr)
}

fn of_answer(answer: &Answer, addr: &str) -> Result<Vec<String>> {
    let ras = answer.ras.as_ref().ok_or_else(|| {
        Error::environment(format!("NCCL's RAS at {addr} answers in text, which is not read"))
            .hint("NCCL 2.28.7 and newer answer in JSON; or name the nodes: --nodes n01,n02")
    })?;
    hosts::of_ras(ras).map_err(|why| {
        Error::environment(format!("cannot take nodes from NCCL's RAS at {addr}: {why}"))
            .hint("name them: --nodes n01,n02")
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::domain::ras::Ras;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        hosts: HostArgs,
    }

    fn read(words: &[&str], env: &[(&str, &str)]) -> Result<Option<Vec<String>>> {
        let line = Line::try_parse_from([&["x"], words].concat()).expect("flags");
        let of =
            |name: &str| env.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        line.hosts.hosts(None, of)
    }

    fn told(words: &[&str], env: &[(&str, &str)]) -> String {
        read(words, env).unwrap_err().to_string()
    }

    #[test]
    fn nodes_come_from_one_place_and_only_when_asked() {
        let slurm = [("SLURM_JOB_NODELIST", "n[07-08]"), ("SLURM_NODELIST", "old")];
        let hosts = |words: &[&str]| read(words, &slurm).unwrap().map(|hosts| hosts.join(" "));
        assert_eq!(hosts(&[]), None);
        assert_eq!(hosts(&["--nodes", "n[01-02],n09"]).as_deref(), Some("n01 n02 n09"));
        assert_eq!(hosts(&["--nodes-from", "slurm"]).as_deref(), Some("n07 n08"));
        let old = read(&["--nodes-from", "slurm"], &[("SLURM_JOB_NODELIST", ""), slurm[1]]).unwrap();
        assert_eq!(old.unwrap(), ["old"]);
        assert!(Line::try_parse_from(["x", "--nodes", "n1", "--nodes-from", "slurm"]).is_err());
    }

    #[test]
    fn files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hosts").display().to_string();
        let missing = told(&["--hostfile", &path], &[]);
        assert!(
            missing.starts_with(&format!("error: cannot read the hostfile {path}: No such file")),
            "{missing}"
        );
        std::fs::write(&path, "n01 slots=8\nn02:4\n").unwrap();
        assert_eq!(read(&["--hostfile", &path], &[]).unwrap().unwrap(), ["n01", "n02"]);
        std::fs::write(&path, "n01\n-x\n").unwrap();
        let wrong = told(&["--hostfile", &path], &[]);
        assert!(
            wrong.contains(&format!("cannot read --hostfile {path}: line 2: column 1: \"-x\"")),
            "{wrong}"
        );
        std::fs::write(&path, "#".repeat(5 << 20)).unwrap();
        assert!(told(&["--hostfile", &path], &[]).contains("too large"));
    }

    #[test]
    fn mistakes_say_where_the_list_came_from() {
        let list = told(&["--nodes", "n[1-"], &[]);
        assert_eq!(list, "error: cannot read --nodes n[1-: column 2: [ is not closed");
        let slurm = told(&["--nodes-from", "slurm"], &[("SLURM_NODELIST", "n[2-1]")]);
        assert!(slurm.contains("cannot read SLURM_NODELIST=n[2-1]: column 3: 2-1 runs backwards"), "{slurm}");
        let unset = told(&["--nodes-from", "slurm"], &[]);
        assert!(unset.contains("neither SLURM_JOB_NODELIST nor SLURM_NODELIST is set"), "{unset}");
    }

    #[test]
    fn what_ras_says_is_checked() {
        let answer = |text: &str| Answer { raw: text.to_owned(), ras: Ras::parse(text.as_bytes()) };
        let json = r#"{"communicators": [{"hash": "0x1", "size": 2, "ranks": [{"rank": 1, "host": "b"}, {"rank": 0, "host": "a"}]}]}"#;
        assert_eq!(of_answer(&answer(json), "localhost:1").unwrap(), ["a", "b"]);
        let old = of_answer(&answer("NCCL version 2.24.3"), "localhost:1").unwrap_err();
        assert!(old.text.contains("answers in text"), "{old}");
        let bad = of_answer(&answer(&json.replace("\"a\"", "\"-o x\"")), "localhost:1").unwrap_err();
        assert!(bad.text.contains("the host of rank 0 of 0x1: \"-o x\" is no host"), "{bad}");
    }
}
