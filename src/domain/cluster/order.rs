//! A command to several nodes: who did it, who refused, who was not reached.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::domain::command::Outcome;

/// What one node made of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It did it.
    Done(String),
    /// It did not.
    Refused(String),
    /// It could not be asked, or did not answer.
    Unreached(String),
    /// A kind that a newer elastictop sent.
    #[serde(other)]
    Unknown,
}

/// Hosts that are named before the rest is counted.
const NAMED: usize = 8;

/// What became of one command on all nodes that it went to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Order {
    waiting: BTreeSet<usize>,
    done: Vec<(usize, String)>,
    refused: Vec<(usize, String)>,
    unreached: Vec<(usize, String)>,
}

impl Order {
    /// One that goes to nobody yet.
    pub fn new() -> Order {
        Order::default()
    }

    /// It was sent to a node.
    pub fn sent(&mut self, node: usize) {
        self.waiting.insert(node);
    }

    /// It could not be sent, or the link went away before the answer came: why.
    pub fn lost(&mut self, node: usize, why: impl Into<String>) {
        self.waiting.remove(&node);
        self.unreached.push((node, why.into()));
    }

    /// A node answered. False when it was not asked, or had answered before.
    pub fn answered(&mut self, node: usize, outcome: &Outcome) -> bool {
        if !self.waiting.remove(&node) {
            return false;
        }
        match outcome {
            Outcome::Done(text) => self.done.push((node, text.clone())),
            Outcome::Refused(text) => self.refused.push((node, text.clone())),
        }
        true
    }

    /// What somebody else says of a node that they asked for us.
    pub fn told(&mut self, node: usize, answer: &Answer) {
        match answer {
            Answer::Done(text) => drop(self.answered(node, &Outcome::Done(text.clone()))),
            Answer::Refused(text) => drop(self.answered(node, &Outcome::Refused(text.clone()))),
            Answer::Unreached(why) if self.waits_for(node) => self.lost(node, why),
            Answer::Unknown if self.waits_for(node) => self.lost(node, "its answer is not understood"),
            Answer::Unreached(_) | Answer::Unknown => {}
        }
    }

    /// What each node made of it, in the order of the nodes; `None` while answers are awaited.
    pub fn answers(&self) -> Option<Vec<(usize, Answer)>> {
        let as_answer =
            |kind: fn(String) -> Answer| move |(node, text): &(usize, String)| (*node, kind(text.clone()));
        let mut all: Vec<_> = self.done.iter().map(as_answer(Answer::Done)).collect();
        all.extend(self.refused.iter().map(as_answer(Answer::Refused)));
        all.extend(self.unreached.iter().map(as_answer(Answer::Unreached)));
        all.sort_by_key(|(node, _)| *node);
        self.waiting.is_empty().then_some(all)
    }

    /// Whether a node has not answered yet.
    pub fn waits_for(&self, node: usize) -> bool {
        self.waiting.contains(&node)
    }

    /// The nodes that have not answered yet.
    pub fn waiting(&self) -> impl Iterator<Item = usize> {
        self.waiting.iter().copied()
    }

    /// How it ended; `None` while answers are awaited. Done only when every node did it: what is said otherwise names
    /// those that did not, as the job is then in two states at once.
    pub fn outcome(&self, hosts: &[String]) -> Option<Outcome> {
        if !self.waiting.is_empty() {
            return None;
        }
        let all = self.done.len() + self.refused.len() + self.unreached.len();
        if self.done.len() == all {
            return Some(match self.done.as_slice() {
                [] => Outcome::Refused("there is no node to do it on".into()),
                [(_, only)] => Outcome::Done(only.clone()),
                [(_, first), ..] if self.done.iter().all(|(_, text)| text == first) => {
                    Outcome::Done(format!("{first}, on all {all} nodes"))
                }
                several => Outcome::Done(format!("done on all {all} nodes: {}", each(several, hosts))),
            });
        }
        let mut parts = Vec::new();
        if !self.refused.is_empty() {
            parts.push(each(&self.refused, hosts));
        }
        if !self.unreached.is_empty() {
            parts.push(format!("not reached: {}", each(&self.unreached, hosts)));
        }
        let done = self.done.len();
        Some(Outcome::Refused(match (done, all) {
            (0, 1) => parts.join("; "),
            (0, _) => format!("done on no node; {}", parts.join("; ")),
            _ => format!("done on {done} of {all} nodes only; {}", parts.join("; ")),
        }))
    }
}

/// `n01, n02: text; n03: other`, in the order of the nodes.
fn each(told: &[(usize, String)], hosts: &[String]) -> String {
    let mut told: Vec<_> = told.iter().collect();
    told.sort_by_key(|(node, _)| *node);
    let mut by_text: Vec<(&str, Vec<&str>)> = Vec::new();
    for (node, text) in told {
        let host = hosts.get(*node).map_or("?", String::as_str);
        match by_text.iter_mut().find(|(known, _)| known == text) {
            Some((_, hosts)) => hosts.push(host),
            None => by_text.push((text, vec![host])),
        }
    }
    let whose = |hosts: &[&str]| match hosts.split_at_checked(NAMED) {
        Some((named, rest)) if !rest.is_empty() => format!("{} and {} more", named.join(", "), rest.len()),
        _ => hosts.join(", "),
    };
    by_text.iter().map(|(text, hosts)| format!("{}: {text}", whose(hosts))).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts() -> Vec<String> {
        ["n01", "n02", "n03"].map(str::to_owned).to_vec()
    }

    fn done(text: &str) -> Outcome {
        Outcome::Done(text.into())
    }

    #[test]
    fn all_nodes_did_it() {
        let mut order = Order::new();
        (0..3).for_each(|node| order.sent(node));
        assert_eq!(order.outcome(&hosts()), None);
        assert!(order.answered(1, &done("restarted")));
        assert!(!order.answered(1, &done("restarted")), "an answer counts once");
        assert!(order.answered(0, &done("restarted")) && order.answered(2, &done("restarted")));
        assert_eq!(order.outcome(&hosts()), Some(done("restarted, on all 3 nodes")));
    }

    #[test]
    fn who_did_not_is_named() {
        let mut order = Order::new();
        order.sent(0);
        order.sent(1);
        order.lost(2, "no answer for 40 s");
        order.answered(0, &done("restarted"));
        order.answered(1, &Outcome::Refused("the job is being stopped".into()));
        let text =
            "done on 1 of 3 nodes only; n02: the job is being stopped; not reached: n03: no answer for 40 s";
        assert_eq!(order.outcome(&hosts()), Some(Outcome::Refused(text.into())));
    }

    #[test]
    fn a_link_that_goes_away_is_an_answer_too() {
        let mut order = Order::new();
        order.sent(0);
        order.sent(1);
        order.lost(0, "the link went away");
        assert_eq!(order.outcome(&hosts()), None);
        assert!(!order.answered(0, &done("late")));
        order.lost(1, "the link went away");
        let text = "done on no node; not reached: n01, n02: the link went away";
        assert_eq!(order.outcome(&hosts()), Some(Outcome::Refused(text.into())));
    }

    #[test]
    fn what_another_says_of_its_nodes_counts_as_if_they_had() {
        let mut theirs = Order::new();
        (0..3).for_each(|node| theirs.sent(node));
        assert_eq!(theirs.answers(), None);
        theirs.answered(2, &done("restarted"));
        theirs.answered(0, &Outcome::Refused("busy".into()));
        theirs.lost(1, "no route");
        let answers = theirs.answers().unwrap();
        let mut ours = Order::new();
        (0..3).for_each(|node| ours.sent(node));
        answers.iter().for_each(|(node, answer)| ours.told(*node, answer));
        assert_eq!(ours.outcome(&hosts()), theirs.outcome(&hosts()));
        assert_eq!(answers[0], (0, Answer::Refused("busy".into())));
    }

    #[test]
    fn many_hosts_are_counted() {
        let hosts: Vec<String> = (0..512).map(|n| format!("n{n}")).collect();
        let mut order = Order::new();
        (0..512).for_each(|node| order.lost(node, "no route"));
        let text = "done on no node; not reached: n0, n1, n2, n3, n4, n5, n6, n7 and 504 more: no route";
        assert_eq!(order.outcome(&hosts), Some(Outcome::Refused(text.into())));
    }

    #[test]
    fn one_node_speaks_for_itself_and_none_is_no_success() {
        let mut order = Order::new();
        order.sent(2);
        order.answered(2, &done("sent SIGUSR1 to rank 21"));
        assert_eq!(order.outcome(&hosts()), Some(done("sent SIGUSR1 to rank 21")));
        assert!(matches!(Order::new().outcome(&hosts()), Some(Outcome::Refused(_))));
    }
}
