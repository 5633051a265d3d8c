//! Facts for other programs: the loop starts the server and has nothing more to do with it.

use super::Supervisor;
use crate::{
    error::Error,
    supervisor::{
        archive::Archive,
        core::Input,
        place::Roots,
        serve::{self, About, Connector, Door},
    },
    wire::link::Link,
};

impl Supervisor {
    /// Serves the job's facts, or says why not: the job does not depend on it.
    pub fn serve(&mut self, roots: &Roots, door: Result<Door, Error>) {
        let started = door.and_then(|door| {
            let address = door.address.clone();
            let about = About {
                connect: connector(roots.clone(), self),
                keeps_link: false,
                journal: Some(self.dir.journal()),
                own: vec![("supervisor", self.manifest.supervisor)],
            };
            serve::start(door, about)
                .map(|()| address)
                .map_err(|error| Error::environment(format!("cannot start a thread to serve facts: {error}")))
        });
        let text = match started {
            Ok(address) => format!("facts are served on {address}"),
            Err(error) => format!("facts are not served: {}", error.text),
        };
        self.handle(Input::Noted(text));
        self.journal.flush();
    }
}

/// The supervisor as a viewer reaches it; its files once it listens no more.
fn connector(roots: Roots, supervisor: &Supervisor) -> Connector {
    let (id, socket) = (supervisor.manifest.id.clone(), supervisor.manifest.socket.clone());
    Box::new(move || {
        let (roots, id, socket) = (roots.clone(), id.clone(), socket.clone());
        Box::pin(async move {
            match Link::unix(&socket).await {
                Ok(link) => Ok(link),
                Err(_) if roots.job(&id).manifest().is_ok_and(|manifest| manifest.ended) => {
                    Ok(Archive::open(&roots, &id, "the job is over")?.serve())
                }
                Err(error) => Err(Error::io("cannot reach the supervisor at", &socket, &error)),
            }
        })
    })
}
