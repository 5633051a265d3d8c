//! The end of a job: what ranks left behind, the last lines, the last viewers.

use std::{fs, time::Duration};

use tokio::time::{Instant, sleep_until, timeout};

use super::Supervisor;
use crate::probe::{rank, signal as kill};
use crate::supervisor::{core::Input, serve};

/// How long what ranks left behind has to end after SIGTERM.
const SWEEP: Duration = Duration::from_secs(2);
/// How long a job that is over is still served to viewers that stay.
const AFTERWARDS: Duration = Duration::from_secs(3600);
/// How long viewers that connected while the job ended are waited for.
const LATE: Duration = Duration::from_millis(50);

const SIGKILL: i32 = 9;

impl Supervisor {
    /// Sends a signal to what is left in the ranks' sessions: data loaders and the like. Daemons with a session of
    /// their own, such as an uploader, are let be. Returns whether anything was left.
    pub(super) fn end_leftovers(&mut self, signal: i32) -> bool {
        self.sweep.get_or_insert_with(|| Instant::now() + SWEEP);
        let left = kill::left_in_sessions(self.leaders.make_contiguous());
        for proc in &left {
            // Who ended meanwhile needs no signal.
            let _ = kill::signal(*proc, signal);
        }
        !left.is_empty()
    }

    pub(super) fn sweep(&mut self) {
        let Some(until) = self.sweep else { return };
        let left = if Instant::now() >= until {
            self.end_leftovers(SIGKILL)
        } else {
            !kill::left_in_sessions(self.leaders.make_contiguous()).is_empty()
        };
        // What even SIGKILL does not end, a process in uninterruptible sleep, does not keep the job from ending.
        let is_hopeless = Instant::now() >= until + SWEEP;
        if (!left || is_hopeless) && !self.finished {
            self.drain();
        }
    }

    pub(super) fn drain(&mut self) {
        for rank in self.core.state().ranks.iter().map(|rank| rank.proc.pid).collect::<Vec<_>>() {
            self.logbook.close_rank(rank);
        }
        while self.read_logs() {}
        // Ranks that lived for less than a second were not looked at yet.
        self.look_for_runs();
        if let Some(line) = std::mem::take(&mut self.readers.agent).end() {
            self.handle(Input::AgentLine(line));
        }
        self.handle(Input::Drained);
        if !self.finished {
            // A rank turned up that lives: the core will ask again.
            self.sweep = None;
        }
    }

    pub(super) fn finish(&mut self) {
        self.finished = true;
        self.manifest.ended = true;
        self.write_manifest();
        self.journal.close();
        self.blackbox.close();
        self.logbook.close();
        rank::clean_up(self.beat.path());
        serve::clean_up(self.manifest.serve.as_ref());
    }

    /// Whoever looks at a job that just ended wants to read its logs.
    pub(super) async fn serve_the_past(mut self) {
        let until = Instant::now() + AFTERWARDS;
        // New viewers read the files themselves; those that came before the socket went are not sent away.
        let _ = fs::remove_file(&self.manifest.socket);
        while let Ok(Ok((stream, _))) = timeout(LATE, self.listener.accept()).await {
            self.hub.accept(stream);
        }
        while !self.hub.is_empty() {
            tokio::select! {
                Some((from, said)) = self.said.recv() => self.viewer_said(from, said),
                (to, answer) = self.close_ups.next() => self.hub.send(to, &answer),
                () = sleep_until(until) => break,
            }
        }
        self.hub.close("the job is over");
    }
}
