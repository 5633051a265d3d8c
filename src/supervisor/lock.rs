//! The lock of a job: who holds it is its supervisor, or does a supervisor's work once the job is over.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::AsFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

use super::{
    folder::Manifest,
    place::{Roots, make_folder},
};
use crate::{
    domain::id::{JobId, ProcId},
    error::{Error, Result},
    probe::{
        proc::{self, ROOT},
        scan,
    },
};

/// A lock that is held. Its file goes with it; one that stays does no harm, as only a held lock counts.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    file: File,
}

impl Lock {
    /// Takes the lock of a job.
    ///
    /// # Errors
    /// Somebody holds it, or its file cannot be made.
    pub fn take(roots: &Roots, id: &JobId) -> Result<Lock> {
        let path = roots.lock(id);
        let file = open(&path).map_err(|error| Error::io("cannot open", &path, &error))?;
        hold(&file).map_err(|_| Error::job(format!("job {id} has a supervisor already")))?;
        Ok(Lock { path, file })
    }

    /// Puts its file back where somebody removed it, and the folder that it lies in.
    ///
    /// # Errors
    /// It cannot be made, or somebody else holds what lies there now.
    pub fn put_back(&mut self) -> io::Result<()> {
        let own = self.file.metadata()?.ino();
        if fs::metadata(&self.path).is_ok_and(|there| there.ino() == own) {
            return Ok(());
        }
        if let Some(folder) = self.path.parent() {
            make_folder(folder)?;
        }
        let file = open(&self.path)?;
        hold(&file)?;
        self.file = file;
        Ok(())
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn open(path: &Path) -> io::Result<File> {
    File::options().create(true).truncate(false).write(true).mode(0o600).open(path)
}

fn hold(file: &File) -> io::Result<()> {
    Ok(flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive)?)
}

/// Whether a job has a supervisor: somebody holds its lock, or the process that was its supervisor lives. Either may be
/// missing: cleaners of `/tmp` remove locks, and a process of another pid namespace cannot be seen.
pub fn is_supervised(roots: &Roots, job: &Manifest) -> bool {
    is_held(roots, &job.id) || other_supervisor(job).is_some()
}

/// Whether somebody holds the lock of a job.
pub fn is_held(roots: &Roots, id: &JobId) -> bool {
    let file = File::options().write(true).open(roots.lock(id));
    file.is_ok_and(|file| hold(&file).is_err())
}

/// The supervisor of a job, when it is another process of this node and lives.
pub fn other_supervisor(job: &Manifest) -> Option<ProcId> {
    let lives = job.node == scan::node_name() && proc::lives(Path::new(ROOT), job.supervisor);
    (lives && job.supervisor != myself()).then_some(job.supervisor)
}

/// This process.
pub fn myself() -> ProcId {
    let pid = std::process::id() as i32;
    proc::identify(Path::new(ROOT), pid).unwrap_or(ProcId { pid, start: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_put_back_with_its_folder_and_stays_with_who_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let (roots, id) = (Roots::below(dir.path()), JobId("a".into()));
        fs::create_dir(&roots.run).unwrap();
        let mut lock = Lock::take(&roots, &id).unwrap();
        assert!(Lock::take(&roots, &id).is_err());
        fs::remove_dir_all(&roots.run).unwrap();
        lock.put_back().unwrap();
        assert!(Lock::take(&roots, &id).is_err(), "it is held again");
        assert_eq!(fs::metadata(&roots.run).unwrap().mode() & 0o777, 0o700);

        fs::remove_file(roots.lock(&id)).unwrap();
        let other = Lock::take(&roots, &id).unwrap();
        assert!(lock.put_back().is_err(), "somebody else was faster");
        drop(other);
        lock.put_back().unwrap();
        drop(lock);
        assert!(Lock::take(&roots, &id).is_ok());
    }
}
