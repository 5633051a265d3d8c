//! The desk: answers what viewers ask about, for a running job, a foreign one and one that is over.

use super::{
    hub::{Hub, Said, ViewerId},
    logbook::Logbook,
};
use crate::{
    domain::{
        command::{Command, Outcome},
        state::State,
        time::{Stamp, human},
    },
    wire::message::{PROTOCOL, ToSupervisor, ToViewer},
};

/// What a viewer wants that only the owner of the job can do.
pub type Wanted = (u64, Command);

/// Answers a message, or hands a command back to be carried out.
pub fn answer(
    hub: &mut Hub,
    from: ViewerId,
    message: ToSupervisor,
    (state, logbook): (&State, &Logbook),
    now: Stamp,
    read_only: Option<&str>,
) -> Option<Wanted> {
    match message {
        ToSupervisor::Hello { protocol, viewer, watch, .. } if protocol == PROTOCOL => {
            hub.greet(from, viewer, watch);
            let version = env!("CARGO_PKG_VERSION").to_owned();
            let read_only = read_only.map(str::to_owned);
            hub.send(from, &ToViewer::Welcome { protocol: PROTOCOL, version, now, read_only });
            hub.send(from, &ToViewer::Snapshot { state: Box::new(state.clone()), lost: 0 });
        }
        ToSupervisor::Hello { protocol, version, .. } => {
            let text = format!(
                "the viewer is elastictop {version} with protocol {protocol}, the supervisor is {} with protocol \
                 {PROTOCOL}; use the same version",
                env!("CARGO_PKG_VERSION")
            );
            hub.send(from, &ToViewer::Bye { text });
        }
        ToSupervisor::Logs { id, query } if hub.keeps_up(from) => {
            hub.send(from, &ToViewer::Logs { id, page: logbook.answer(&query) });
        }
        ToSupervisor::Clock { id } => hub.send(from, &ToViewer::Clock { id, now }),
        ToSupervisor::Do { id, command, until } => {
            let late = until.filter(|until| *until < now).map(|until| {
                format!("it came {} too late to be wanted still; ask again", human(now.since(until)))
            });
            let Some(text) = read_only.map(str::to_owned).or(late) else { return Some((id, command)) };
            hub.send(from, &ToViewer::Reply { id, outcome: Outcome::Refused(text) });
        }
        // A page for a viewer that does not read would only be thrown away.
        ToSupervisor::Logs { .. }
        | ToSupervisor::LookAt { .. }
        | ToSupervisor::To { .. }
        | ToSupervisor::DoOn { .. }
        | ToSupervisor::Replay { .. }
        | ToSupervisor::Traffic
        | ToSupervisor::Unknown => {}
    }
    None
}

/// The same for a viewer of a job to which nothing can be done: `why` says why.
pub fn hear_reader(
    hub: &mut Hub,
    from: ViewerId,
    said: Said,
    known: (&State, &Logbook),
    now: Stamp,
    why: &str,
) {
    match said {
        Said::Gone => hub.remove(from),
        Said::Message(message) => {
            answer(hub, from, message, known, now, Some(why));
        }
    }
}
