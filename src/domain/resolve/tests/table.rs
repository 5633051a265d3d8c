//! The rules as a table, read by an interpreter that knows nothing of the code under test.

use super::*;

/// Mode, scope, topology, who logs, id, group, label, primary.
const MANY_RANKS: &str = "
    auto   | global | any    | rank==0       | base                                 | -                 | -                              | -
    auto   | worker | single | rank==0       | base                                 | -                 | -                              | -
    auto   | worker | multi  | local_rank==0 | base-worker-{idx}                    | -                 | -                              | -
    shared | global | single | all           | base                                 | -                 | rank-{rank}                    | rank==0
    shared | worker | single | all           | base                                 | -                 | rank-{rank}                    | rank==0
    shared | global | multi  | all           | base                                 | -                 | worker-{idx}-rank-{local_rank} | rank==0
    shared | worker | multi  | all           | base-worker-{idx}                    | -                 | worker-{idx}-rank-{local_rank} | local_rank==0
    new    | any    | single | all           | base-rank-{rank}                     | base              | -                              | -
    new    | global | multi  | all           | base-rank-{rank}                     | base              | -                              | -
    new    | worker | multi  | all           | base-worker-{idx}-rank-{local_rank}  | base-worker-{idx} | -                              | -
";

/// Mode, parent, id, group, label, primary: what a single rank gets.
const ONE_RANK: &str = "
    auto   | no  | base   | - | -      | -
    auto   | yes | parent | - | base   | false
    shared | no  | base   | - | rank-0 | true
    shared | yes | parent | - | base   | false
    new    | no  | base   | - | -      | -
    new    | yes | base   | - | -      | -
";

fn rows(table: &str) -> Vec<Vec<&str>> {
    table.trim().lines().map(|line| line.split('|').map(str::trim).collect()).collect()
}

/// What the table says of one rank: run, group, label, primary.
type Said = (Option<String>, Option<String>, Option<String>, Option<bool>);

fn said(row: &[&str], rank: u32, idx: u32, local_rank: u32) -> Said {
    let is = |who: &str| match who {
        "all" => true,
        "rank==0" => rank == 0,
        "local_rank==0" => local_rank == 0,
        other => panic!("{other}"),
    };
    let [who, id, group, label, primary] = row[3..] else { panic!("{row:?}") };
    if !is(who) {
        return (None, None, None, None);
    }
    let fill = |text: &str| {
        let text = text.replace("{rank}", &rank.to_string()).replace("{idx}", &idx.to_string());
        (text != "-").then(|| text.replace("{local_rank}", &local_rank.to_string()))
    };
    (fill(id), fill(group), fill(label), (primary != "-").then(|| is(primary)))
}

fn planned(rank: &Rank) -> Said {
    assert_eq!(rank.logs, rank.run_id.is_some());
    assert_eq!(rank.shared, rank.primary.is_some());
    (rank.run_id.clone(), rank.group.clone(), rank.label.clone(), rank.primary)
}

#[test]
fn many_ranks_follow_the_table() {
    let rows = rows(MANY_RANKS);
    let mut jobs = 0;
    for (mode, scope) in combinations() {
        for (nodes, per_node) in (1..=4).flat_map(|nodes| (1..=4).map(move |per_node| (nodes, per_node))) {
            if nodes * per_node == 1 {
                continue;
            }
            let topology = if nodes > 1 { "multi" } else { "single" };
            let fits = |cell: &str, word: &str| cell == "any" || cell == word;
            let row: Vec<_> = rows
                .iter()
                .filter(|row| row[0] == mode.name() && fits(row[1], scope.name()) && fits(row[2], topology))
                .collect();
            assert_eq!(row.len(), 1, "{mode}/{scope} {topology}");
            let plan = plan(&facts(mode, scope, &vec![per_node; nodes as usize]));
            assert_eq!(plan.ranks.len() as u32, nodes * per_node);
            for (number, rank) in (0..).zip(&plan.ranks) {
                let (idx, local) = (number / per_node, number % per_node);
                assert_eq!((rank.rank, rank.worker_index, rank.local_rank), (number, idx, local));
                assert_eq!(
                    planned(rank),
                    said(row[0], number, idx, local),
                    "{mode}/{scope} {nodes}×{per_node}"
                );
            }
            jobs += 1;
        }
    }
    assert_eq!(jobs, 6 * 15);
}

#[test]
fn one_rank_follows_its_table() {
    for row in rows(ONE_RANK) {
        let [mode, parent, id, group, label, primary] = row[..] else { panic!("{row:?}") };
        for scope in RankScope::ALL {
            let mut facts = facts(mode.parse().unwrap(), scope, &[1]);
            facts.parent_run = (parent == "yes").then(|| given("--parent-run", "parent"));
            let plan = plan(&facts);
            let some = |text: &str| (text != "-").then(|| text.to_owned());
            let expected = (some(id), some(group), some(label), primary.parse().ok());
            assert!(!plan.distributed);
            assert_eq!(planned(&plan.ranks[0]), expected, "{row:?}");
        }
    }
}
