use std::{fs, path::Path};

use super::*;
use crate::domain::flight::{Tensors, read, tell};

/// The dumps of one story below `tests/flight`, as real torch wrote them.
fn story(name: &str, ending: &str) -> Vec<Dump> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/flight").join(name);
    let dump = |rank: u32| {
        let bytes = fs::read(folder.join(format!("rank_{rank}{ending}"))).ok()?;
        Some(read::read(&bytes, Some(rank)).unwrap())
    };
    (0..3).filter_map(dump).collect()
}

fn found(name: &str) -> Analysis {
    analyse(&story(name, ""))
}

fn first(name: &str) -> (FindingKind, Vec<u32>, String) {
    let first = found(name).findings.remove(0);
    (first.kind, first.ranks, first.text)
}

#[test]
fn real_dumps_of_gloo_name_the_rank() {
    let names = |kind, ranks: &[u32], text: &str| (kind, ranks.to_vec(), text.to_owned());
    assert_eq!(
        first("missing"),
        names(
            FindingKind::MissingRanks,
            &[1],
            "rank 1 has not called all_reduce #4 of the default group; ranks 0, 2 wait in it"
        )
    );
    assert_eq!(
        first("skip"),
        names(
            FindingKind::MissingRanks,
            &[1],
            "rank 1 has not called all_reduce #6 of the default group; ranks 0, 2 wait in it"
        )
    );
    assert_eq!(
        first("wrapped"),
        names(
            FindingKind::MissingRanks,
            &[1],
            "rank 1 has not called all_reduce #21 of the default group; ranks 0, 2 wait in it"
        )
    );
    assert_eq!(
        first("op"),
        names(
            FindingKind::OpMismatch,
            &[1],
            "rank 1 calls broadcast as #2 of the default group, where ranks 0, 2 call all_reduce"
        )
    );
}

#[test]
fn without_a_majority_both_sides_are_named() {
    assert_eq!(
        first("size"),
        (
            FindingKind::SizeMismatch,
            vec![],
            "rank 0 brings 4 elements; rank 2 brings 8 elements, to all_reduce #3 of the default group"
                .into()
        )
    );
    assert_eq!(
        first("dtype"),
        (
            FindingKind::DtypeMismatch,
            vec![],
            "rank 0 brings Double; rank 1 brings Float, to all_reduce #2 of the default group".into()
        )
    );
}

#[test]
fn of_a_chain_of_groups_the_end_is_to_blame() {
    let analysis = found("chain");
    let told: Vec<_> =
        analysis.findings.iter().map(|finding| (finding.ranks.as_slice(), finding.follows)).collect();
    assert_eq!(told, [(&[2][..], false), (&[1][..], true)]);
    assert!(analysis.findings[0].text.starts_with("rank 2 has not called all_reduce #2 of group 2;"));
    let evidence = &analysis.findings[1].evidence;
    assert!(
        evidence.iter().any(|line| line == "rank 1 itself waits in all_reduce #2 of group 2"),
        "{evidence:?}"
    );
}

#[test]
fn nothing_is_found_where_nothing_is_wrong() {
    let analysis = found("healthy");
    assert_eq!(analysis.findings, []);
    let compared: Vec<_> = analysis.groups.iter().map(|group| (group.ranks.len(), group.compared)).collect();
    assert_eq!(compared, [(3, 9), (2, 1)]);
    // Gloo's recorder knows no sends and receives.
    let analysis = found("p2p");
    assert_eq!((analysis.findings.len(), analysis.groups.len()), (0, 0));
    assert!(tell::text(&analysis, &[], &[]).starts_with("the dumps hold no collective"));
}

#[test]
fn json_and_pickle_say_the_same() {
    assert_eq!(analyse(&story("missing", ".json")).findings, found("missing").findings);
}

#[test]
fn any_part_of_the_dumps_gives_an_answer() {
    for name in ["missing", "size", "dtype", "op", "skip", "wrapped", "chain", "healthy"] {
        let all = story(name, "");
        for left_out in 0..all.len() {
            let mut some = all.clone();
            some.remove(left_out);
            let analysis = analyse(&some);
            assert_eq!(analysis.dumped.len(), all.len() - 1, "{name}");
            tell::text(&analysis, &[], &[]);
        }
    }
}

#[test]
fn who_left_no_dump_is_named_where_the_job_is_known() {
    let mut dumps = story("missing", "");
    dumps.remove(1);
    assert_eq!(analyse(&dumps).findings[0].kind, FindingKind::Stuck, "nobody told that there is a rank 1");
    dumps.iter_mut().for_each(|dump| dump.world_size = Some(3));
    // What gloo writes itself as members is left out, as it is of any group.
    let finding = analyse(&dumps).findings.remove(0);
    assert_eq!((finding.kind, finding.ranks), (FindingKind::NoDump, vec![1]));
    assert_eq!(
        finding.text,
        "ranks 0, 2 wait in all_reduce #4 of the default group; rank 1 left no dump and may be the cause"
    );
}

/// An entry as NCCL writes it.
fn nccl(seq: u64, op: &str, progress: Progress) -> Entry {
    let data = Tensors { sizes: vec![vec![4]], dtypes: vec!["Float".into()] };
    Entry {
        group: GroupName { name: "0".into(), desc: "default_pg".into() },
        seq,
        is_p2p: false,
        op: op.into(),
        backend: "nccl".into(),
        input: data.clone(),
        output: data,
        progress,
        created_ns: Some(seq * 1_000),
        timeout_ms: Some(600_000),
        frames: Vec::new(),
    }
}

fn dump(rank: u32, entries: Vec<Entry>) -> Dump {
    Dump { rank, entries, ..Dump::default() }
}

use Progress::{Finished, Scheduled, Started};

#[test]
fn an_older_dump_of_a_healthy_job_blames_nobody() {
    // Rank 1 wrote its dump before it came to #2, which rank 0 could not have finished without it.
    let dumps = [
        dump(0, vec![nccl(1, "all_reduce", Finished), nccl(2, "all_reduce", Finished)]),
        dump(1, vec![nccl(1, "all_reduce", Finished)]),
        dump(2, vec![nccl(1, "all_reduce", Finished), nccl(2, "all_reduce", Started)]),
    ];
    assert_eq!(analyse(&dumps).findings, []);
    // What has only just been called is on its way.
    let just_now = |rank, entries| Dump { taken_ns: Some(3_000_000_000), ..dump(rank, entries) };
    let dumps = [just_now(0, vec![nccl(1, "all_reduce", Scheduled)]), just_now(1, vec![])];
    assert_eq!(analyse(&dumps).findings, []);
    let later = dumps.map(|dump| Dump { taken_ns: Some(6_000_000_000), ..dump });
    assert_eq!(analyse(&later).findings[0].ranks, [1]);
}

#[test]
fn a_root_that_went_on_does_not_hide_who_is_missing() {
    let dumps = [
        dump(0, vec![nccl(1, "broadcast", Finished), nccl(2, "all_reduce", Started)]),
        dump(1, vec![nccl(1, "broadcast", Started)]),
        dump(2, vec![]),
    ];
    let finding = analyse(&dumps).findings.remove(0);
    assert_eq!((finding.kind, finding.ranks, finding.seq), (FindingKind::MissingRanks, vec![2], 1));
}

#[test]
fn a_device_that_does_not_finish_is_a_state_mismatch() {
    let dumps = [
        dump(0, vec![nccl(7, "all_reduce", Finished), nccl(8, "all_reduce", Scheduled)]),
        dump(1, vec![nccl(7, "all_reduce", Started), nccl(8, "all_reduce", Scheduled)]),
    ];
    let finding = analyse(&dumps).findings.remove(0);
    assert_eq!((finding.kind, finding.ranks, finding.seq), (FindingKind::StateMismatch, vec![1], 7));
}

#[test]
fn all_in_the_same_call_points_below_the_script() {
    let dumps = [0, 1].map(|rank| dump(rank, vec![nccl(3, "all_reduce", Started)]));
    let finding = analyse(&dumps).findings.remove(0);
    assert_eq!((finding.kind, finding.waiting), (FindingKind::Stuck, vec![0, 1]));
}

#[test]
fn a_group_made_anew_begins_at_one() {
    let again = |entries: Vec<Entry>| {
        let first = (1..=9).map(|seq| nccl(seq, "all_reduce", Finished));
        first.chain(entries).collect::<Vec<_>>()
    };
    let dumps = [
        dump(0, again(vec![nccl(1, "all_reduce", Finished), nccl(2, "barrier", Started)])),
        dump(1, again(vec![nccl(1, "all_reduce", Finished)])),
    ];
    let finding = analyse(&dumps).findings.remove(0);
    assert_eq!((finding.ranks, finding.seq, finding.op.as_str()), (vec![1], 2, "barrier"));
}

#[test]
fn groups_that_wait_for_each_other_are_said_to() {
    let of = |name: &str, entry: Entry| Entry {
        group: GroupName { name: name.into(), desc: String::new() },
        ..entry
    };
    let both = |rank, mine: &str, other: &str| {
        let before = of(other, nccl(1, "all_reduce", Finished));
        dump(
            rank,
            vec![before, of(mine, nccl(1, "all_reduce", Finished)), of(mine, nccl(2, "all_reduce", Started))],
        )
    };
    let findings = analyse(&[both(0, "a", "b"), both(1, "b", "a")]).findings;
    assert_eq!(findings.len(), 2);
    assert!(findings.iter().all(|finding| !finding.follows));
    assert!(findings[0].evidence.last().unwrap().contains("wait for each other"));
}

#[test]
fn four_thousand_ranks_are_one_sentence() {
    let dumps: Vec<_> = (0..4096)
        .map(|rank| {
            let last = if rank == 77 { 20 } else { 21 };
            let state = |seq| if seq == 21 { Started } else { Finished };
            dump(rank, (15..=last).map(|seq| nccl(seq, "all_reduce", state(seq))).collect())
        })
        .collect();
    let finding = analyse(&dumps).findings.remove(0);
    assert_eq!(
        finding.text,
        "rank 77 has not called all_reduce #21 of the default group; ranks 0-76, 78-4095 wait in it"
    );
    assert_eq!(finding.evidence.len(), 2);
}
