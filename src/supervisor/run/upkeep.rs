//! What a job that runs for weeks needs now and then: its lock and sockets put back, its manifest written.

use super::Supervisor;
use crate::supervisor::{door, folder::JobDir};

impl Supervisor {
    /// Log cleaners remove what looks old: the socket of a job that runs for weeks is put back.
    pub(super) fn look_after_files(&mut self) {
        if let Some(lock) = &mut self.lock
            && let Err(error) = lock.put_back()
        {
            tracing::warn!(%error, "cannot put the lock back");
        }
        let path = self.manifest.socket.clone();
        if !path.exists()
            && let Ok(listener) = door::listen(&path)
        {
            self.listener = listener;
        }
        if !self.beat.path().exists()
            && let Err(error) = self.beat.rebind()
        {
            tracing::warn!(%error, "cannot put the heartbeat socket back");
        }
        self.journal.keep_short(self.core.state());
        self.write_manifest();
    }

    pub(super) fn write_manifest(&mut self) {
        self.manifest.seen_at = self.clock.now();
        let state = self.core.state();
        (self.manifest.state, self.manifest.world_size) = (state.state, state.world_size);
        if let Err(error) = self.dir.write_manifest(&self.manifest) {
            tracing::warn!(%error, "cannot write the manifest");
        }
    }
}

/// What it means that the job's folder is gone.
pub(super) fn removed(dir: &JobDir) -> String {
    format!(
        "the folder of this job was removed: {}; nothing of it is kept any more, and a screen that leaves does not find \
         it again",
        dir.root.display()
    )
}
