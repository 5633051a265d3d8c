//! Links to the supervisors of many nodes, held in one place and served as one job to viewers.
//!
//! `node` keeps the link to one node alive; [`Cluster`] holds what all nodes told, routes what viewers say, and gives
//! viewers one stream in which each message names its node. It decides nothing about the job: each supervisor stays the
//! only one who writes for its node. The viewer of a few nodes holds a cluster inside of its own process; a relay holds
//! one for everybody, behind a socket.

mod hold;
mod node;
mod over;
pub mod relay;

use std::{future::Future, pin::Pin};

pub use self::hold::{Cluster, serve};
use crate::{error::Result, wire::link::Link};

/// How a node's supervisor is reached, for the first time and after a lost link.
pub type Connect = Box<dyn FnMut() -> Pin<Box<dyn Future<Output = Result<Link>> + Send>> + Send>;

/// One node to hold a link to.
pub struct Host {
    /// Its name, as the user gave it.
    pub name: String,
    /// How it is reached.
    pub connect: Connect,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("name", &self.name).finish_non_exhaustive()
    }
}
