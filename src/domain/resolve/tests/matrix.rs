//! The whole matrix as text: every rank of every combination on five topologies.

use std::fmt::Write;

use insta::assert_snapshot;

use super::*;

#[test]
fn every_rank_of_every_combination() {
    let mut text = String::new();
    for (mode, scope) in combinations() {
        for ranks_per_node in [&[1][..], &[4], &[1, 1], &[4, 4], &[2, 1, 3]] {
            let plan = plan(&facts(mode, scope, ranks_per_node));
            let nodes = ranks_per_node.iter().map(u32::to_string).collect::<Vec<_>>().join("+");
            let _ = writeln!(text, "{mode}/{scope} on {nodes}: {}\n{}\n", plan.counts(), lines(&plan));
        }
    }
    assert_snapshot!(text);
}

#[test]
fn every_reason_of_every_combination() {
    let mut text = String::new();
    for (mode, scope) in combinations() {
        for ranks_per_node in [&[1][..], &[2], &[2, 2]] {
            let plan = plan(&facts(mode, scope, ranks_per_node));
            let nodes = ranks_per_node.iter().map(u32::to_string).collect::<Vec<_>>().join("+");
            let _ = writeln!(text, "{mode}/{scope} on {nodes}\n{}\n", reasons(&plan));
        }
    }
    assert_snapshot!(text);
}
