//! One job on many nodes: what is known of each link, what its clock says, and all of them as one job.
//!
//! Every node has a supervisor of its own, which knows its own ranks. Nothing here decides for a node: [`whole`] only
//! reads what the nodes told, and [`Order`] only counts who did what everybody was asked for.

mod clock;
mod order;
mod whole;

use serde::{Deserialize, Serialize};

pub use self::{
    clock::{Offset, Reading, shift},
    order::{Answer, Order},
    whole::{Member, whole},
};
use super::time::Stamp;

/// A node that says nothing for this long is shown with its age, in milliseconds: supervisors tell of each second.
pub const SILENT_MS: u64 = 5_000;

/// What is known of the link to one node. Nodes count from 0, in the order in which they were named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The host as it was named.
    pub host: String,
    /// How the link is.
    pub link: NodeLink,
    /// How far the node's clock is ahead of the clock of whoever holds the links; `None` before it was measured.
    pub clock: Option<Offset>,
    /// Why commands will be refused there; `None` when they are allowed.
    #[serde(default)]
    pub read_only: Option<String>,
}

impl NodeStatus {
    /// Of a host that was not reached yet.
    pub fn new(host: String) -> NodeStatus {
        NodeStatus { host, link: NodeLink::Connecting, clock: None, read_only: None }
    }

    /// How far the node's clock is ahead, in milliseconds; 0 while that is not known.
    pub fn ahead_ms(&self) -> i64 {
        self.clock.map_or(0, |clock| clock.ahead_ms)
    }
}

/// How the link to a node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeLink {
    /// Being made for the first time.
    Connecting,
    /// Works.
    Live,
    /// Stands, but nothing came over it lately.
    Silent {
        /// When something came last.
        since: Stamp,
    },
    /// Gone, or never made; made anew in the background.
    Lost {
        /// When it was lost, or tried first.
        since: Stamp,
        /// Attempts since then.
        tries: u32,
        /// Why the last one failed.
        why: String,
    },
    /// The node's part of the job is over: looked for now and then, as it may be started anew.
    Gone {
        /// Why.
        why: String,
    },
    /// A kind that a newer elastictop sent.
    #[serde(other)]
    Unknown,
}

impl NodeLink {
    /// Whether what it told is of the present.
    pub fn is_live(&self) -> bool {
        *self == NodeLink::Live
    }

    /// Since when nothing new is known; `None` while it answers, and once nothing new will come.
    pub fn silent_since(&self) -> Option<Stamp> {
        match self {
            NodeLink::Silent { since } | NodeLink::Lost { since, .. } => Some(*since),
            NodeLink::Connecting | NodeLink::Live | NodeLink::Gone { .. } | NodeLink::Unknown => None,
        }
    }

    /// Why what it told is not of the present; `None` when it is.
    pub fn untold(&self) -> Option<String> {
        match self {
            NodeLink::Silent { .. } => {
                Some("it does not answer: its supervisor is stopped, or the line to it hangs".into())
            }
            link => link.unreachable(),
        }
    }

    /// Why a command cannot reach the node; `None` when it can.
    pub fn unreachable(&self) -> Option<String> {
        match self {
            NodeLink::Live | NodeLink::Silent { .. } => None,
            NodeLink::Connecting | NodeLink::Unknown => Some("there is no link yet".into()),
            NodeLink::Lost { why, .. } | NodeLink::Gone { why } => Some(why.clone()),
        }
    }
}
