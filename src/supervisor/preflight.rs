//! Looks at the world before anything is started: the interpreter, its torch, the script.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Read},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use serde::Deserialize;

use crate::{
    domain::{
        launch::{Facts, PlanError, Python, Request},
        near::distance,
    },
    error::{Error, Result},
};

/// How long the interpreter may take to say what it is.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the caller knows of the world.
#[derive(Clone, Debug)]
pub struct World {
    /// GPUs as NVML counts them; 0 where there is no NVML.
    pub gpus: u32,
    /// Id of the job.
    pub run_id: String,
    /// Folder of the job; it need not exist yet.
    pub job_dir: PathBuf,
    /// The elastictop binary.
    pub elastictop: PathBuf,
    /// Path of the datagram socket that ranks beat to.
    pub beat_socket: PathBuf,
    /// A TCP port for NCCL's RAS: [`free_port`].
    pub ras_port: u16,
}

impl From<PlanError> for Error {
    fn from(error: PlanError) -> Error {
        error.hints.into_iter().fold(Error::usage(error.text), Error::hint)
    }
}

/// Finds and asks the interpreter, looks at the script, and gives what [`crate::domain::launch::plan`] needs.
///
/// # Errors
/// Whatever would keep the job from starting: a usage error, exit code 2.
pub fn look(request: &Request, python: Option<&str>, world: World) -> Result<Facts> {
    request.check()?;
    let cwd = std::env::current_dir().map_err(|error| {
        Error::usage(format!("cannot use the current directory: {error}")).hint("cd to another one")
    })?;
    check_script(request, &cwd)?;
    let python = if request.needs_python() {
        Some(ask_python(&find_python(python, &request.env, &cwd)?, &cwd, PATIENCE)?)
    } else {
        None
    };
    Ok(Facts {
        python,
        gpus: world.gpus,
        cpus: cpus(),
        run_id: world.run_id,
        job_dir: job_folder(&world.job_dir)?,
        elastictop: text(&world.elastictop)?,
        beat_socket: text(&world.beat_socket)?,
        ras_port: world.ras_port,
        cwd: text(&cwd)?,
    })
}

/// CPUs that this process may run on, counted as torchrun counts them: quotas of cgroups do not matter.
fn cpus() -> u32 {
    let all = || thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32);
    rustix::thread::sched_getaffinity(None).map_or_else(|_| all(), |set| set.count())
}

/// A TCP port on localhost that is free now.
///
/// # Errors
/// The kernel gives none.
pub fn free_port() -> io::Result<u16> {
    Ok(std::net::TcpListener::bind(("localhost", 0))?.local_addr()?.port())
}

fn text(path: &Path) -> Result<String> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| Error::usage(format!("{}: the path is not UTF-8", path.display())))
}

fn job_folder(path: &Path) -> Result<String> {
    let text = text(path)?;
    if text.contains(':') {
        let why =
            "a job's folder cannot have a ':' in its path: Python takes what follows for another folder";
        return Err(Error::usage(format!("{text}: {why}")).hint("ELASTICTOP_DIR=DIR names another place"));
    }
    Ok(text)
}

/// The interpreter to use: what the user named, else the active environment's, else the search path's.
///
/// # Errors
/// There is none, or the named one cannot be run.
pub fn find_python(asked: Option<&str>, env: &BTreeMap<String, String>, cwd: &Path) -> Result<PathBuf> {
    if let Some(asked) = asked {
        let found = if asked.contains('/') { Some(cwd.join(asked)) } else { on_path(asked, env, cwd) };
        return match found {
            Some(path) if is_program(&path) => Ok(path),
            Some(path) if path.is_dir() => Err(Error::usage(format!("--python {asked}: is a directory"))
                .hint(format!("--python {}", Path::new(asked).join("bin/python").display()))),
            Some(path) if path.exists() => Err(Error::usage(format!("--python {asked}: is not executable"))),
            _ => Err(Error::usage(format!("--python {asked}: there is no such program"))),
        };
    }
    let environments = ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(|name| env.get(name));
    let of_environment = environments
        .filter(|folder| !folder.is_empty())
        .map(|folder| Path::new(folder).join("bin/python"))
        .find(|python| is_program(python));
    of_environment
        .or_else(|| ["python3", "python"].into_iter().find_map(|name| on_path(name, env, cwd)))
        .ok_or_else(|| {
            Error::usage("no Python was found: no virtual environment is active, and python3 is not on PATH")
                .hint("--python PATH names one")
                .hint("--launcher local with --no-python runs programs that are not Python's")
        })
}

fn on_path(name: &str, env: &BTreeMap<String, String>, cwd: &Path) -> Option<PathBuf> {
    let path = env.get("PATH")?;
    std::env::split_paths(path).map(|folder| cwd.join(folder).join(name)).find(|program| is_program(program))
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Imports nothing big: torch's version and flags are read from its files. The working directory counts when torch
/// is looked for, as it does for `python -m`, but its `json.py` or `re.py` is not run.
const QUESTION: &str = r#"
import sys
here = sys.path[:1] == [""] and not sys.path.pop(0)
import json, os, re
try:
    from importlib.util import find_spec
except ImportError:
    find_spec = None
if here:
    sys.path.insert(0, "")
answer = {"executable": sys.executable or "", "version": list(sys.version_info[:2]), "torch": None, "flags": None}
try:
    spec = find_spec("torch")
    folders = list(spec.submodule_search_locations or ()) if spec else []
except Exception:
    folders = []
def read(*names):
    try:
        with open(os.path.join(folders[0], *names), encoding="utf-8") as file:
            return file.read()
    except (OSError, IndexError):
        return ""
found = re.search(r"""^__version__ *=.*?['"]([^'"]+)""", read("version.py"), re.M)
if found:
    answer["torch"] = found.group(1)
elif folders:
    try:
        from importlib.metadata import version
        answer["torch"] = version("torch")
    except Exception:
        pass
flags = set(re.findall(r"""["']--([a-z][a-z-]*)["']""", read("distributed", "run.py")))
if "nnodes" in flags:
    answer["flags"] = sorted(flags)
sys.stdout.write("\nelastictop:" + json.dumps(answer) + "\n")
"#;

#[derive(Deserialize)]
struct Answer {
    executable: String,
    version: (u32, u32),
    torch: Option<String>,
    flags: Option<BTreeSet<String>>,
}

/// Asks an interpreter what it is, with one short process that imports no torch and runs in `cwd`.
///
/// # Errors
/// It cannot be run, fails, is no Python 3, or does not answer within `patience`.
pub fn ask_python(python: &Path, cwd: &Path, patience: Duration) -> Result<Python> {
    let path = text(python)?;
    let fail = |why: &str| Error::usage(format!("{path} {why}")).hint("--python PATH names another Python");
    let mut child = Command::new(python)
        .args(["-c", QUESTION])
        .current_dir(cwd)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|error| fail(&format!("cannot be run: {error}")))?;
    let (send, receive) = mpsc::channel();
    let mut pipes = child.stdout.take().zip(child.stderr.take());
    thread::spawn(move || {
        let (mut said, mut complaint) = (Vec::new(), Vec::new());
        if let Some((out, err)) = &mut pipes {
            thread::scope(|scope| {
                scope.spawn(|| err.take(1 << 16).read_to_end(&mut complaint));
                let _ = out.take(1 << 20).read_to_end(&mut said);
            });
        }
        let _ = send.send((said, complaint));
    });
    let Ok((said, complaint)) = receive.recv_timeout(patience) else {
        if let Some(group) = rustix::process::Pid::from_raw(child.id() as i32) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = child.wait();
        return Err(fail(&format!("did not say its version within {} s", patience.as_secs_f64()))
            .hint("it may start from a slow network folder; try it by hand: python -c 'import sys'"));
    };
    let status = child.wait().map_err(|error| fail(&format!("cannot be waited for: {error}")))?;
    let said = String::from_utf8_lossy(&said);
    let answer = said.lines().find_map(|line| line.strip_prefix("elastictop:"));
    let Some(answer) = answer.and_then(|json| serde_json::from_str::<Answer>(json).ok()) else {
        let complaint = String::from_utf8_lossy(&complaint);
        let last = complaint.lines().rev().find(|line| !line.trim().is_empty());
        let why = last.map_or_else(|| status.to_string(), |line| line.trim().to_owned());
        return Err(fail(&format!("is no Python that can be used: {why}")));
    };
    let executable = if answer.executable.is_empty() { path.clone() } else { answer.executable };
    Ok(Python { path, executable, version: answer.version, torch: answer.torch, flags: answer.flags })
}

fn check_script(request: &Request, cwd: &Path) -> Result<()> {
    let script = &request.script;
    let path = cwd.join(script);
    if request.script_is_program() {
        return check_program(request, &path, cwd);
    }
    if !request.script_is_file() {
        return Ok(());
    }
    match fs::metadata(&path) {
        Ok(meta) if meta.is_dir() && !path.join("__main__.py").is_file() => {
            let inside = names(&path).into_iter().filter(|name| is_python_file(name)).take(3);
            let error = Error::usage(format!("{script}: is a directory, not a script"));
            Err(did_you_mean(error, Path::new(script), inside))
        }
        Ok(_) => fs::File::open(&path)
            .map(drop)
            .map_err(|error| Error::usage(format!("{script}: the script cannot be read: {error}"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(not_found(script, &path)),
        Err(error) => Err(Error::usage(format!("{script}: the script cannot be reached: {error}"))),
    }
}

fn check_program(request: &Request, path: &Path, cwd: &Path) -> Result<()> {
    let program = &request.script;
    if !program.contains('/') {
        return match on_path(program, &request.env, cwd) {
            Some(_) => Ok(()),
            None if path.is_file() => Err(Error::usage(format!("{program}: the program is not on PATH"))
                .hint(format!("a program of this directory needs its path: ./{program}"))),
            None => Err(Error::usage(format!("{program}: the program is not on PATH"))),
        };
    }
    match fs::metadata(path) {
        Ok(_) if is_program(path) => Ok(()),
        Ok(meta) if meta.is_dir() => Err(Error::usage(format!("{program}: is a directory, not a program"))),
        Ok(_) => {
            Err(Error::usage(format!("{program}: is not executable")).hint(format!("chmod +x {program}")))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(not_found(program, path)),
        Err(error) => Err(Error::usage(format!("{program}: the program cannot be reached: {error}"))),
    }
}

fn not_found(script: &str, path: &Path) -> Error {
    let error = Error::usage(format!("{script}: there is no such file"));
    let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return error;
    };
    if !folder.is_dir() {
        return error.hint(format!("there is no directory {} either", folder.display()));
    }
    let mut near: Vec<_> = names(folder)
        .into_iter()
        .map(|known| (distance(&known.to_lowercase(), &name.to_lowercase()), known))
        .filter(|(distance, known)| *distance <= 3 && *distance < known.chars().count().div_ceil(2))
        .collect();
    near.sort();
    let beside = Path::new(script).parent().unwrap_or(Path::new(""));
    did_you_mean(error, beside, near.into_iter().map(|(_, name)| name).take(3))
}

fn did_you_mean(error: Error, folder: &Path, names: impl Iterator<Item = String>) -> Error {
    let names: Vec<_> = names.map(|name| folder.join(name).display().to_string()).collect();
    if names.is_empty() { error } else { error.hint(format!("did you mean {}?", names.join(" or "))) }
}

fn is_python_file(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension == "py")
}

/// The files in a folder, sorted; none where it cannot be read.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries
        .filter(|entry| entry.path().is_file())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests;
