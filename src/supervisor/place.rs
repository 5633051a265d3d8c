//! Where things lie: job folders, sockets, locks; and which job a word means.

use std::{
    env, fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Component, Path, PathBuf},
};

use super::folder::{JobDir, Manifest};
use crate::{
    domain::id::JobId,
    error::{Error, Kind, Result},
    probe::scan,
};

/// The two folders below which elastictop keeps everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roots {
    /// Job folders; may be on NFS.
    pub jobs: PathBuf,
    /// Sockets and locks; must be on a local file system.
    pub run: PathBuf,
}

impl Roots {
    /// From `ELASTICTOP_DIR`, or else `$XDG_STATE_HOME/elastictop` and `$XDG_RUNTIME_DIR` or `/tmp`.
    ///
    /// # Errors
    /// When no home folder is known, or a folder cannot be made, or the socket folder is somebody else's.
    pub fn find() -> Result<Roots> {
        let roots = match env::var_os("ELASTICTOP_DIR").filter(|dir| !dir.is_empty()) {
            Some(dir) => Roots::below(
                &std::path::absolute(&dir)
                    .map_err(|error| Error::io("cannot resolve ELASTICTOP_DIR", Path::new(&dir), &error))?,
            ),
            None => {
                let strategy = etcetera::choose_base_strategy().map_err(|error| {
                    Error::environment(format!("cannot find the home folder: {error}"))
                        .hint("set ELASTICTOP_DIR to a folder for jobs and sockets")
                })?;
                let state = etcetera::BaseStrategy::state_dir(&strategy)
                    .unwrap_or_else(|| etcetera::BaseStrategy::data_dir(&strategy));
                Roots { jobs: state.join("elastictop/jobs"), run: runtime_dir() }
            }
        };
        let asked_for = env::var_os("ELASTICTOP_DIR").is_some_and(|dir| !dir.is_empty());
        roots.prepare().map_err(|error| {
            // The user named the folder: that is a wrong request, not a world that changed.
            if asked_for { Error { kind: Kind::Usage, ..error } } else { error }
        })?;
        Ok(roots)
    }

    /// Jobs that are there can be read where nothing can be written; who starts one fails at its folder.
    fn prepare(&self) -> Result<()> {
        for dir in [&self.jobs, &self.run] {
            match make_folder(dir) {
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
                    ) && self.jobs.is_dir() => {}
                made => {
                    made.map_err(|error| {
                        Error::io("cannot make the folder", dir, &error)
                            .hint("set ELASTICTOP_DIR to a folder that you can write to")
                    })?;
                    keep_private(dir)?;
                }
            }
        }
        Ok(())
    }

    /// Everything below one folder.
    pub fn below(dir: &Path) -> Roots {
        Roots { jobs: dir.join("jobs"), run: dir.join("run") }
    }

    /// The folder of a job.
    pub fn job(&self, id: &JobId) -> JobDir {
        JobDir { root: self.jobs.join(&id.0) }
    }

    /// The socket that the supervisor of a job listens on.
    pub fn socket(&self, id: &JobId) -> PathBuf {
        self.run.join(format!("{id}.sock"))
    }

    /// The socket that the ranks of a job beat to.
    pub fn beat(&self, id: &JobId) -> PathBuf {
        self.run.join(format!("{id}.beat"))
    }

    /// The socket of the relay for a job, by what the user calls the job.
    pub fn relay(&self, job: Option<&str>) -> PathBuf {
        let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
        let name: String = job.unwrap_or("newest").chars().map(plain).take(64).collect();
        self.run.join(format!("{name}.relay"))
    }

    /// The sockets of all relays that serve here, or did.
    pub fn relays(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.run).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut found: Vec<_> =
            entries.filter(|path| path.extension().is_some_and(|end| end == "relay")).collect();
        found.sort();
        found
    }

    /// The lock that the supervisor of a job holds.
    pub fn lock(&self, id: &JobId) -> PathBuf {
        self.run.join(format!("{id}.lock"))
    }

    /// All jobs with a readable manifest, oldest first. What cannot be read is left out.
    pub fn all(&self) -> Vec<Manifest> {
        let entries = fs::read_dir(&self.jobs).into_iter().flatten().flatten();
        let mut jobs: Vec<_> =
            entries.filter_map(|entry| JobDir { root: entry.path() }.manifest().ok()).collect();
        jobs.sort_by_key(|job: &Manifest| job.created_at);
        jobs
    }

    /// Folders of jobs whose manifest cannot be read: name, and why.
    pub fn damaged(&self) -> Vec<(JobId, String)> {
        let entries = fs::read_dir(&self.jobs).into_iter().flatten().flatten();
        let mut found: Vec<_> =
            entries.filter_map(|entry| self.damage(&JobId(entry.file_name().into_string().ok()?))).collect();
        found.sort();
        found
    }

    /// Why the manifest of a job cannot be read whose folder is there; `None` when it can, or there is none.
    pub fn damage(&self, id: &JobId) -> Option<(JobId, String)> {
        let dir = self.job(id);
        // A name and no way elsewhere: what is damaged can be removed.
        let mut parts = Path::new(&id.0).components();
        let is_name = matches!((parts.next(), parts.next()), (Some(Component::Normal(name)), None) if name == id.0.as_str());
        let is_one = is_name && (dir.journal().exists() || dir.logs().is_dir());
        let error = dir.manifest().err().filter(|_| is_one)?;
        Some((id.clone(), format!("cannot read {}: {error}", dir.manifest_path().display())))
    }

    /// The job that `wanted` means: an id, a name or a rendezvous id (its newest job, running ones first), or the start
    /// of an id. `None` means the newest running job, or the newest at all. Job folders may be shared by nodes: those of
    /// this node come before those of others.
    ///
    /// # Errors
    /// There is none, or the start of an id fits several.
    pub fn find_job(&self, wanted: Option<&str>) -> Result<Manifest> {
        let mut jobs = self.all();
        let here = scan::node_name();
        jobs.sort_by_key(|job| (job.ended, job.node != here, std::cmp::Reverse(job.created_at)));
        let Some(wanted) = wanted else {
            return jobs.into_iter().next().ok_or_else(|| {
                Error::job("there is no job yet")
                    .hint("start one: elastictop run train.py, or elastictop demo")
            });
        };
        let is_it = |job: &&Manifest| {
            job.id.0 == wanted || job.name == wanted || job.job.rdzv_id.as_deref() == Some(wanted)
        };
        if let Some(found) = jobs.iter().find(is_it) {
            return Ok(found.clone());
        }
        let fitting: Vec<_> = jobs.iter().filter(|job| job.id.0.starts_with(wanted)).collect();
        match fitting.as_slice() {
            [only] => Ok((*only).clone()),
            [] => match self.damage(&JobId(wanted.into())) {
                Some((id, why)) => Err(Error::job(format!("the folder of job {id} is damaged: {why}"))
                    .hint(format!(
                        "elastictop replay {} plays what happened",
                        self.job(&id).journal().display()
                    ))
                    .hint(format!("elastictop rm {id} removes what is left"))),
                None => Err(Error::job(format!("there is no job {wanted:?}"))
                    .hint("elastictop ps --all lists all jobs")),
            },
            several => {
                // Who gives the start of an id while one of them runs means that one.
                if let [only] = several.iter().filter(|job| !job.ended).collect::<Vec<_>>()[..] {
                    return Ok((*only).clone());
                }
                let ids: Vec<_> = several.iter().map(|job| job.id.0.as_str()).collect();
                Err(Error::job(format!("{wanted:?} fits several jobs: {}", ids.join(", "))))
            }
        }
    }
}

/// `$XDG_RUNTIME_DIR` only when it outlives the login: systemd removes it at the last logout of a user who does
/// not linger, and a job must be found again after that.
fn runtime_dir() -> PathBuf {
    let uid = rustix::process::getuid().as_raw();
    let lingers = Path::new("/var/lib/systemd/linger").join(env::var("USER").unwrap_or_default()).is_file();
    match env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from) {
        Some(dir) if lingers && dir.is_dir() => dir.join("elastictop"),
        _ => PathBuf::from(format!("/tmp/elastictop-{uid}")),
    }
}

/// Makes a folder that is its owner's alone, and those above it.
pub(super) fn make_folder(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Takes from all others what they could do in a folder of this user.
fn keep_private(dir: &Path) -> Result<()> {
    let meta = fs::symlink_metadata(dir).map_err(|error| Error::io("cannot look at", dir, &error))?;
    let uid = rustix::process::getuid().as_raw();
    if !meta.is_dir() || meta.uid() != uid {
        return Err(Error::environment(format!(
            "{} belongs to user {}, not to you ({uid})",
            dir.display(),
            meta.uid()
        ))
        .hint("set ELASTICTOP_DIR to a folder of your own"));
    }
    if meta.mode() & 0o077 != 0 {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
            .map_err(|error| Error::io("cannot make private", dir, &error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{
            event::{JobInfo, Launcher},
            id::ProcId,
            rank::JobState,
            time::Stamp,
        },
        supervisor::core::Rules,
    };

    fn manifest(id: &str, name: &str, created: u64, ended: bool) -> Manifest {
        Manifest {
            v: 1,
            id: JobId(id.into()),
            name: name.into(),
            node: "n".into(),
            created_at: Stamp(created),
            supervisor: ProcId { pid: 1, start: 1 },
            agent: None,
            socket: PathBuf::new(),
            ended,
            state: JobState::Running,
            world_size: None,
            rules: Rules {
                monitor_interval_ms: 100,
                stop_grace_ms: 1,
                end_orphans: false,
                expects_beats: true,
                policy: crate::domain::verdict::Policy::default(),
                gpu_wait_ms: 0,
                record: crate::domain::replay::Keep::default(),
            },
            job: JobInfo {
                id: JobId(id.into()),
                name: name.into(),
                launcher: Launcher::Local,
                node: "n".into(),
                command: Vec::new(),
                cwd: String::new(),
                max_restarts: None,
                local_world_size: None,
                nodes: (1, 1),
                rdzv_id: None,
                uid: 0,
            },
            seen_at: Stamp(created),
            wandb: None,
            serve: None,
        }
    }

    #[test]
    fn jobs_are_found_by_id_name_and_prefix() {
        let dir = tempfile::tempdir().unwrap();
        let roots = Roots::below(dir.path());
        fs::create_dir_all(&roots.jobs).unwrap();
        for job in [
            manifest("train-aaaa", "train", 1, true),
            manifest("train-bbbb", "train", 2, false),
            manifest("train-cccc", "train", 3, true),
            manifest("other-bbbb", "other", 4, true),
            manifest("old-cccc", "old", 5, true),
        ] {
            let dir = roots.job(&job.id);
            dir.create().unwrap();
            dir.write_manifest(&job).unwrap();
        }
        fs::write(roots.jobs.join("stray"), "").unwrap();
        let found = |wanted| roots.find_job(wanted).map(|job| job.id.0).map_err(|error| error.text);
        assert_eq!(found(None).unwrap(), "train-bbbb", "the running one");
        assert_eq!(found(Some("train")).unwrap(), "train-bbbb");
        assert_eq!(found(Some("train-aaaa")).unwrap(), "train-aaaa");
        assert_eq!(found(Some("oth")).unwrap(), "other-bbbb");
        assert_eq!(found(Some("train-")).unwrap(), "train-bbbb", "the only one of them that runs");
        assert!(found(Some("o")).unwrap_err().contains("fits several"));
        assert!(found(Some("x")).unwrap_err().contains("no job"));
    }

    #[test]
    fn what_is_damaged_is_a_folder_of_this_name_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let roots = Roots::below(dir.path());
        for folder in ["jobs/harm-aaaa/logs", "jobs/logs", "logs"] {
            fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        let damaged = |id: &str| roots.damage(&JobId(id.into())).is_some();
        assert!(damaged("harm-aaaa"));
        for elsewhere in ["", ".", "..", "../jobs", "harm-aaaa/", "./harm-aaaa", "harm-aaaa/..", "/", "none"]
        {
            assert!(!damaged(elsewhere), "{elsewhere:?} would be removed");
        }
    }

    #[test]
    fn folders_are_private() {
        let dir = tempfile::tempdir().unwrap();
        let open = dir.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).unwrap();
        keep_private(&open).unwrap();
        assert_eq!(fs::metadata(&open).unwrap().mode() & 0o777, 0o700);
    }
}
