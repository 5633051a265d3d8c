//! Whether what a link leads to is over.

use crate::{
    domain::{cluster::NodeLink, event::Fact},
    wire::message::ToViewer,
};

/// Of which nodes behind a link the part of the job is over. Of a supervisor it is one; of a relay as many as it tells
/// of.
#[derive(Clone, Debug, Default)]
pub(super) struct Over {
    /// Host and whether; a supervisor's own host does not matter.
    nodes: Vec<(String, bool)>,
    /// What a supervisor's job is called on all nodes.
    job: Option<String>,
    is_relay: bool,
}

impl Over {
    pub(super) fn hear(&mut self, message: &ToViewer) {
        self.hear_of(0, message);
    }

    fn hear_of(&mut self, node: usize, message: &ToViewer) {
        match message {
            ToViewer::Together { messages } => {
                messages.iter().for_each(|message| self.hear_of(node, message));
            }
            ToViewer::Nodes { nodes } => {
                self.is_relay = true;
                self.nodes.resize_with(nodes.len(), Default::default);
                for ((host, over), status) in self.nodes.iter_mut().zip(nodes) {
                    *over &= *host == status.host;
                    *over |= matches!(status.link, NodeLink::Gone { .. });
                    host.clone_from(&status.host);
                }
            }
            ToViewer::From { node, message } => self.hear_of(*node as usize, message),
            ToViewer::Snapshot { state, .. } => {
                self.job = state.job.as_ref().map(|job| job.rdzv_id.as_ref().unwrap_or(&job.name).clone());
                self.note(node, state.state.is_over());
            }
            ToViewer::Events { events }
                if events.iter().any(|event| matches!(event.fact, Fact::JobEnded { .. })) =>
            {
                self.note(node, true);
            }
            _ => {}
        }
    }

    fn note(&mut self, node: usize, is_over: bool) {
        if !self.is_relay {
            self.nodes.resize_with(1, Default::default);
        }
        // What a relay tells of a node that it does not have is nothing.
        if let Some((_, over)) = self.nodes.get_mut(node) {
            *over = is_over;
        }
    }

    /// Whether anything was told of the job.
    pub(super) fn is_known(&self) -> bool {
        !self.nodes.is_empty()
    }

    /// Whether this is what was over `before`, started anew. Who asked for no job by name may be given another one.
    pub(super) fn is_return_of(&self, before: &Over) -> bool {
        self.is_known() && self.why().is_none() && (self.is_relay || self.job == before.job)
    }

    /// Why nothing new will come over the link; `None` while something may.
    pub(super) fn why(&self) -> Option<&'static str> {
        let is_over = !self.nodes.is_empty() && self.nodes.iter().all(|(_, over)| *over);
        is_over.then_some(if self.is_relay {
            "the job is over on all its nodes"
        } else {
            "its part of the job is over; it is shown again when it is started anew"
        })
    }
}
