//! The folder of one job: what lies where in it, and the files that are written whole.

use std::{
    env, fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, FileExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{core::Rules, serve::Address};
use crate::{
    domain::{
        event::JobInfo,
        forward::Settings,
        id::{JobId, ProcId},
        rank::JobState,
        redact::{Marks, Secrets},
        time::Stamp,
    },
    error::{Error, Result},
};

/// The folder of one job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobDir {
    /// The folder itself.
    pub root: PathBuf,
}

impl JobDir {
    /// Makes the folder and those in it.
    ///
    /// # Errors
    /// When it exists already or cannot be made.
    pub fn create(&self) -> io::Result<()> {
        let mut builder = fs::DirBuilder::new();
        builder.mode(0o700).create(&self.root)?;
        [self.logs(), self.ranks(), self.python(), self.flight(), self.root.join("bin")]
            .iter()
            .try_for_each(|dir| builder.create(dir))
    }

    /// What the job is and who watches it.
    pub fn manifest_path(&self) -> PathBuf {
        self.root.join("job.json")
    }

    /// The events.
    pub fn journal(&self) -> PathBuf {
        self.root.join("journal.jsonl")
    }

    /// The order in which log bytes arrived.
    pub fn log_index(&self) -> PathBuf {
        self.root.join("logs.jsonl")
    }

    /// torchrun's log folder.
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// One folder for each incarnation of a rank, made by the shim.
    pub fn ranks(&self) -> PathBuf {
        self.root.join("ranks")
    }

    /// The folder of one of them.
    pub fn rank(&self, proc: ProcId) -> PathBuf {
        self.ranks().join(format!("{}-{}", proc.pid, proc.start))
    }

    /// Where torch leaves dumps of its flight recorder: `rank_N`.
    pub fn flight(&self) -> PathBuf {
        self.root.join("fr")
    }

    /// What was taken of the ranks when the job hung: one folder for each time.
    pub fn dumps(&self) -> PathBuf {
        self.root.join("dumps")
    }

    /// The injected Python files.
    pub fn python(&self) -> PathBuf {
        self.root.join("python")
    }

    /// The elastictop that starts the ranks of this job, also after an upgrade of the installed one.
    pub fn program(&self) -> PathBuf {
        self.root.join("bin/elastictop")
    }

    /// Puts the running program there: a link where the file system allows it, else a copy.
    ///
    /// # Errors
    /// Those of copying.
    pub fn keep_program(&self) -> io::Result<()> {
        let (from, to) = (env::current_exe()?, self.program());
        fs::create_dir_all(self.root.join("bin"))?;
        // The file that was started may have been replaced or removed since; what runs is still there.
        fs::hard_link(&from, &to).or_else(|_| fs::copy("/proc/self/exe", &to).map(drop))
    }

    /// What the agent wrote to its standard output.
    pub fn agent_out(&self) -> PathBuf {
        self.root.join("agent.out")
    }

    /// What the agent wrote to its standard error.
    pub fn agent_err(&self) -> PathBuf {
        self.root.join("agent.err")
    }

    /// What has to do with W&B: settings, `.wandb` files, how far they are sent.
    pub fn wandb(&self) -> PathBuf {
        self.root.join("wandb")
    }

    /// What ranks that start now shall do about metrics: a [`Settings`]. Missing where W&B is off.
    pub fn wandb_settings(&self) -> PathBuf {
        self.wandb().join("settings.json")
    }

    /// Writes [`JobDir::wandb_settings`], so that a reader sees the old ones or the new ones.
    ///
    /// # Errors
    /// Those of writing.
    pub fn write_wandb_settings(&self, settings: &Settings) -> io::Result<()> {
        let folder = self.wandb();
        match fs::DirBuilder::new().mode(0o700).create(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        write_whole(&self.wandb_settings(), &serde_json::to_vec_pretty(settings)?)
    }

    /// What is kept of the job's secrets: hashes, never values.
    fn secret_marks(&self) -> PathBuf {
        self.root.join("secrets.json")
    }

    /// Keeps the marks of these secrets, so that they are taken out of the logs when their values are gone.
    ///
    /// # Errors
    /// Those of writing.
    pub fn write_secret_marks(&self, secrets: &Secrets) -> io::Result<()> {
        let marks = secrets.marks(uuid::Uuid::now_v7().to_string());
        write_whole(&self.secret_marks(), &serde_json::to_vec(&marks)?)
    }

    /// The secrets that left marks here.
    ///
    /// # Errors
    /// Those of reading: then nobody knows what is secret in what is kept. Each job has the file, even without secrets, but
    /// for those of builds that kept none.
    pub fn read_secret_marks(&self) -> Result<Marks> {
        let path = self.secret_marks();
        let told =
            |error: io::Error| Error::io("which values were secret is not known: cannot read", &path, &error);
        let bytes = fs::read(&path).map_err(told)?;
        serde_json::from_slice(&bytes).map_err(|error| told(error.into()))
    }

    /// The supervisor's own log.
    pub fn supervisor_log(&self) -> PathBuf {
        self.root.join("supervisor.log")
    }

    /// Reads the manifest.
    ///
    /// # Errors
    /// Those of reading, and text that is no manifest.
    pub fn manifest(&self) -> io::Result<Manifest> {
        Ok(serde_json::from_slice(&fs::read(self.manifest_path())?)?)
    }

    /// Writes the manifest so that a reader sees the old one or the new one.
    ///
    /// # Errors
    /// Those of writing.
    pub fn write_manifest(&self, manifest: &Manifest) -> io::Result<()> {
        let bytes = serde_json::to_vec_pretty(manifest)?;
        match write_whole(&self.manifest_path(), &bytes) {
            // The old one has its blocks already.
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                let file = fs::File::options().write(true).open(self.manifest_path())?;
                file.write_all_at(&bytes, 0)?;
                file.set_len(bytes.len() as u64)
            }
            written => written,
        }
    }
}

/// Writes so that a reader sees what was there before or all of this.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
    file.write_all(bytes)?;
    file.persist(path)?;
    Ok(())
}

/// What a job is and who watches it. Holds no secrets: command and environment are those of the live agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this file.
    pub v: u32,
    /// Id and folder name.
    pub id: JobId,
    /// Name.
    pub name: String,
    /// Host name of the node that it runs on.
    pub node: String,
    /// When it was started.
    pub created_at: Stamp,
    /// The supervisor that watches it, or did.
    pub supervisor: ProcId,
    /// The agent that runs it, or did.
    pub agent: Option<ProcId>,
    /// Where its supervisor listens.
    pub socket: PathBuf,
    /// Whether it is over.
    pub ended: bool,
    /// What it was doing when this was written.
    pub state: JobState,
    /// Ranks in the whole job, if known.
    pub world_size: Option<u32>,
    /// How it is to be treated.
    pub rules: Rules,
    /// What was asked for: the journal's first record, in case that is lost.
    pub job: JobInfo,
    /// When the supervisor wrote this last; not later than some seconds before it died.
    pub seen_at: Stamp,
    /// What was decided about metrics at the start: the journal's second record, in case that is lost.
    #[serde(default)]
    pub wandb: Option<Settings>,
    /// Where its facts are served, if somebody wanted that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serve: Option<Address>,
}
