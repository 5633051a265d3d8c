//! Looking closely at ranks that do not move on, writing down what they do, and faults that were asked for.

use std::{fs, io::Write, os::unix::fs::OpenOptionsExt, path::Path};

use serde::Serialize;
use tokio::sync::oneshot;

use super::Supervisor;
use crate::{
    domain::{
        command::Command,
        drill::{ORDER, Order, REFUSED, TAKEN},
        id::ProcId,
        ras::Ras,
        report::Status,
        verdict::Doing,
    },
    probe::{
        proc, ras,
        suspect::{self, Thread},
    },
    supervisor::{
        core::{Asker, Input},
        forensic,
    },
};

/// What is written about a job that does not move on.
#[derive(Debug, Serialize)]
struct Dump<'a> {
    verdict: &'a str,
    status: Status,
    ranks: Vec<RankDump>,
}

#[derive(Debug, Serialize)]
struct RankDump {
    rank: u32,
    pid: i32,
    main: Option<Doing>,
    threads: Vec<Thread>,
}

/// An answer of NCCL's health service that is to come.
#[derive(Debug, Default)]
pub(super) struct RasAnswer(Option<oneshot::Receiver<Option<Box<Ras>>>>);

impl RasAnswer {
    /// The answer. Never comes when nobody asked.
    pub(super) async fn next(&mut self) -> Option<Box<Ras>> {
        let Some(answer) = &mut self.0 else { return std::future::pending().await };
        let told = answer.await;
        self.0 = None;
        told.ok().flatten()
    }
}

impl Supervisor {
    /// Asks on a thread, which the end of the job does not wait for: processes that hang let the question take up to a
    /// minute.
    pub(super) fn ask_ras(&mut self, ranks: Vec<ProcId>) {
        let (tell, told) = oneshot::channel();
        let ask = move || {
            let answer = forensic::ras_addr_of(ranks).and_then(|addr| ras::ask(&addr).ok()?.ras);
            // The job may be over.
            let _ = tell.send(answer.map(Box::new));
        };
        // A thread that does not start drops the sender: that is no answer.
        let _ = std::thread::Builder::new().name("elastictop-ras".into()).spawn(ask);
        self.ras = RasAnswer(Some(told));
    }

    pub(super) fn examine(&mut self, procs: &[ProcId], whole: bool) {
        for proc in procs {
            if let Some(doing) = suspect::look(Path::new(proc::ROOT), *proc, whole) {
                self.handle(Input::examined(*proc, doing));
            }
        }
    }

    /// Writes what the living ranks do into the job's folder.
    pub(super) fn dump(&mut self, text: &str) {
        let (now, root) = (self.clock.now(), Path::new(proc::ROOT));
        let state = self.core.state();
        let living = state.ranks.iter().filter(|rank| rank.state.is_alive());
        let dump = Dump {
            verdict: text,
            status: Status::new(state, now),
            ranks: living
                .map(|rank| RankDump {
                    rank: rank.number(),
                    pid: rank.proc.pid,
                    main: suspect::look(root, rank.proc, true),
                    threads: suspect::threads(root, rank.proc),
                })
                .collect(),
        };
        let path = self.dir.root.join(format!("stall-{}.json", now.0));
        let written = serde_json::to_vec_pretty(&dump)
            .map_err(std::io::Error::other)
            .and_then(|bytes| write_private(&path, &bytes));
        let text = match written {
            Ok(()) => format!("what the ranks do was written to {}", path.display()),
            Err(error) => format!("what the ranks do cannot be written to {}: {error}", path.display()),
        };
        self.take_dump(text);
    }

    /// Leaves an order in a rank's folder, which only the job's user can enter.
    pub(super) fn drill(&mut self, rank: ProcId, order: &Order, asker: Asker, command: Command) {
        let folder = self.dir.rank(rank);
        for old in [ORDER, TAKEN, REFUSED] {
            let _ = fs::remove_file(folder.join(old));
        }
        let new = folder.join("drill.new");
        let written = serde_json::to_vec(order)
            .map_err(std::io::Error::other)
            .and_then(|bytes| write_private(&new, &bytes))
            .and_then(|()| fs::rename(&new, folder.join(ORDER)));
        let error = written.err().map(|error| format!("cannot write into {}: {error}", folder.display()));
        self.handle(Input::Drilled { asker, command, error });
    }
}

fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)
}
