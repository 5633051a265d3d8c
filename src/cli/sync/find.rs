//! What `elastictop sync` is to send: files on disk, as one client after the other.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use crate::{
    domain::{forward::Settings, id::JobId},
    error::{Error, Result},
    supervisor::{
        folder::{JobDir, Manifest},
        forward,
        lock::{self, Lock},
        place::Roots,
    },
    wandb::upload::{Job, rows_in},
};

/// How long a supervisor may take to leave a job that is over.
pub(in crate::cli) const LEAVES_WITHIN: Duration = Duration::from_secs(3);
/// Pause between two looks.
pub(in crate::cli) const AGAIN: Duration = Duration::from_millis(20);

/// What was found.
#[derive(Debug)]
pub(super) struct Found {
    /// Job or folder, for the user.
    pub(super) name: String,
    /// In the order in which they were written.
    pub(super) parts: Vec<Part>,
    /// The job's folder, where it is a job.
    pub(super) dir: Option<JobDir>,
    /// The server that a job is bound to.
    pub(super) base_url: Option<String>,
    /// Keeps others from sending the same job.
    _lock: Option<Lock>,
}

/// What one client sends of one run.
#[derive(Debug)]
pub(super) struct Part {
    /// The run's id.
    pub(super) run: String,
    /// All files but the newest.
    pub(super) job: Job,
    /// The newest.
    pub(super) newest: PathBuf,
    /// Bytes of it that count.
    pub(super) committed: u64,
}

impl Part {
    /// Rows in all files.
    pub(super) fn rows(&self) -> u64 {
        let earlier: u64 = self.job.segments.iter().map(|file| rows_in(file, u64::MAX)).sum();
        earlier + rows_in(&self.newest, self.committed)
    }
}

/// Finds what `what` names.
///
/// # Errors
/// There is no such job or file, or a supervisor is at it.
pub(super) fn find(what: Option<&str>) -> Result<Found> {
    let path = what.map(Path::new).filter(|path| path.exists());
    let Some(path) = path else {
        let roots = Roots::find()?;
        let manifest = roots.find_job(what)?;
        return of_job(&roots, &manifest);
    };
    let path = std::path::absolute(path).map_err(|error| Error::io("cannot resolve", path, &error))?;
    if let Some(folder) = path.ancestors().find(|folder| folder.join("job.json").is_file()) {
        let dir = JobDir { root: folder.to_owned() };
        let manifest =
            dir.manifest().map_err(|error| Error::io("cannot read", &dir.manifest_path(), &error))?;
        return of_folder(&dir, &manifest, Roots::find().ok().as_ref());
    }
    let parts = if path.is_file() { of_file(&path)? } else { of_runs(&path) };
    if parts.is_empty() {
        let text = format!("{} holds no run: no run-ID.wandb", path.display());
        return Err(
            Error::usage(text).hint("give a job, or a folder such as wandb/offline-run-20261121_090000-ID")
        );
    }
    Ok(Found { name: path.display().to_string(), parts, dir: None, base_url: None, _lock: None })
}

fn of_job(roots: &Roots, manifest: &Manifest) -> Result<Found> {
    of_folder(&roots.job(&manifest.id), manifest, Some(roots))
}

fn of_folder(dir: &JobDir, manifest: &Manifest, roots: Option<&Roots>) -> Result<Found> {
    let JobId(id) = &manifest.id;
    // A folder that was copied from elsewhere has no supervisor here.
    let roots = roots.filter(|roots| roots.job(&manifest.id).root == dir.root);
    // Who has just seen the job end may be faster than its supervisor, which tidies up.
    let until = Instant::now() + LEAVES_WITHIN;
    while roots.is_some_and(|roots| lock::is_supervised(roots, manifest)) && Instant::now() < until {
        thread::sleep(AGAIN);
    }
    let manifest = &dir.manifest().map_err(|error| Error::io("cannot read", &dir.manifest_path(), &error))?;
    let lock = match roots {
        Some(roots) if lock::is_supervised(roots, manifest) => {
            return Err(Error::job(format!("the supervisor of {id} still has its runs in hand"))
                .hint(format!("elastictop status {id} says what it does with them; what it leaves can be sent when it is gone")));
        }
        Some(_) if !manifest.ended => {
            return Err(Error::job(format!("{id} is not over, and its supervisor is gone"))
                .hint(format!("elastictop attach {id} gives it a new one, which sends by itself")));
        }
        Some(roots) => Some(Lock::take(roots, &manifest.id)?),
        None => None,
    };
    let settings = settings(dir)?.ok_or_else(|| {
        Error::job(format!("{id} kept nothing for W&B"))
            .hint("elastictop run --wandb-mode offline keeps what is logged")
    })?;
    let parts = parts(dir, &settings)?;
    let base_url = settings.facts.base_url.map(|given| given.value);
    Ok(Found { name: id.clone(), parts, dir: Some(dir.clone()), base_url, _lock: lock })
}

/// What of this job is not at the server yet, whoever may be sending it.
///
/// # Errors
/// Files that cannot be read.
pub(super) fn unsent(dir: &JobDir) -> Result<Vec<Part>> {
    settings(dir)?.map_or(Ok(Vec::new()), |settings| parts(dir, &settings))
}

/// `None` for a job that was not to forward anything.
fn settings(dir: &JobDir) -> Result<Option<Settings>> {
    let path = dir.wandb_settings();
    match fs::read(&path) {
        Ok(bytes) => {
            serde_json::from_slice(&bytes).map_err(|error| Error::io("cannot read", &path, &error.into()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("cannot read", &path, &error)),
    }
}

fn parts(dir: &JobDir, settings: &Settings) -> Result<Vec<Part>> {
    let left = forward::left(&dir.root, settings)
        .map_err(|error| Error::io("cannot read what is kept in", &dir.wandb(), &error))?;
    let part = |left: forward::Left| Part {
        run: left.run,
        job: left.job,
        newest: left.newest,
        committed: left.committed,
    };
    let mut parts: Vec<Part> = left.into_iter().map(part).collect();
    if dir.manifest().is_ok_and(|manifest| manifest.ended) {
        add_unrecorded(dir, &mut parts);
    }
    Ok(parts)
}

/// Adds what lies in files of which the job's own record says less, or nothing: it was damaged or removed. Of a job that
/// is over all that was written counts.
fn add_unrecorded(dir: &JobDir, parts: &mut Vec<Part>) {
    parts.iter_mut().for_each(|part| part.committed = u64::MAX);
    let is_known =
        |file: &PathBuf| parts.iter().any(|part| part.newest == *file || part.job.segments.contains(file));
    let unknown: Vec<PathBuf> =
        files_in(&dir.wandb(), None).into_iter().filter(|file| !is_known(file)).collect();
    let mut runs: Vec<String> = unknown.iter().filter_map(|file| id_of(file)).collect();
    runs.sort();
    runs.dedup();
    parts.extend(runs.into_iter().filter_map(|run| {
        let files = unknown.iter().filter(|file| id_of(file).as_deref() == Some(run.as_str())).cloned();
        part(run.clone(), files.collect())
    }));
}

/// A file, with the other files of its run beside it.
fn of_file(file: &Path) -> Result<Vec<Part>> {
    let id = id_of(file).ok_or_else(|| {
        Error::usage(format!("{} is no run-ID.wandb", file.display()))
            .hint("W&B and elastictop keep runs in files of that name")
    })?;
    let folder = file.parent().and_then(Path::parent);
    let beside = folder.map(|folder| files_in(folder, Some(&id))).unwrap_or_default();
    let files = if beside.iter().any(|other| other == file) { beside } else { vec![file.to_owned()] };
    Ok(part(id, files).into_iter().collect())
}

/// All runs in a folder: of a run, of runs, or with a folder `wandb` in it.
fn of_runs(folder: &Path) -> Vec<Part> {
    let direct: Vec<_> = entries(folder).into_iter().filter(|path| id_of(path).is_some()).collect();
    if let [file] = direct.as_slice() {
        return of_file(file).unwrap_or_default();
    }
    let places = [folder.to_owned(), folder.join("wandb"), folder.join(".wandb")];
    let files: Vec<_> = places.iter().flat_map(|place| files_in(place, None)).collect();
    let mut ids: Vec<_> = files.iter().filter_map(|file| id_of(file)).collect();
    ids.sort();
    ids.dedup();
    let of = |id: String| {
        let files = files.iter().filter(|file| id_of(file).as_ref() == Some(&id)).cloned().collect();
        part(id, files)
    };
    ids.into_iter().filter_map(of).collect()
}

/// Files of offline runs in a folder of runs, oldest first. Those of one run are found whatever their folder is called.
fn files_in(folder: &Path, run: Option<&str>) -> Vec<PathBuf> {
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut folders = entries(folder);
    folders.retain(|path| {
        let name = name(path);
        // A link to one of the others.
        name != "latest-run"
            && (name.starts_with("offline-run-") || run.is_some() && name.starts_with("run-"))
    });
    folders.sort_by_key(|path| name(path).trim_start_matches("offline-").to_owned());
    let files = folders.iter().flat_map(|folder| entries(folder));
    files.filter(|file| id_of(file).is_some_and(|id| run.is_none_or(|run| run == id))).collect()
}

fn part(run: String, mut files: Vec<PathBuf>) -> Option<Part> {
    let cursor = Job::cursor_of(files.first()?);
    let newest = files.pop()?;
    Some(Part { run, job: Job { cursor, ..Job::of(files) }, newest, committed: u64::MAX })
}

/// `ID` of `run-ID.wandb`.
fn id_of(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let id = name.strip_prefix("run-")?.strip_suffix(".wandb")?;
    (!id.is_empty()).then(|| id.to_owned())
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let read = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<_> = read.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}
