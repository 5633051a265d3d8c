use super::*;
use crate::domain::resolve::{Base, Given};

fn settings(ranks_per_node: &[u32], range: Option<(u32, u32)>) -> Settings {
    let run = Some(Given::new("--run-name", "exp"));
    Settings {
        mode: Mode::Online,
        why_not_online: None,
        writer: Writer::Elastictop,
        sources: Sources::default(),
        stop_button: true,
        facts: Facts {
            run_mode: RunMode::New,
            rank_scope: RankScope::Worker,
            topology: Topology { ranks_per_node: ranks_per_node.to_vec(), range },
            base: Base::Names { run, action: None },
            parent_run: None,
            run_id: None,
            group: None,
            name: None,
            tags: Vec::new(),
            project: None,
            entity: None,
            base_url: None,
            app_url: None,
        },
    }
}

fn place(rank: u32, local: u32, node: u32, world: u32, on_node: u32) -> Place {
    Place {
        rank: Some(rank),
        local_rank: Some(local),
        group_rank: Some(node),
        world_size: Some(world),
        local_world_size: Some(on_node),
        ..Place::default()
    }
}

#[test]
fn the_topology_is_that_of_the_group_that_runs() {
    let of = |settings: &Settings, place: &Place, nodes| {
        let now = settings.at(place, nodes);
        let id = now.plan().unwrap().seat(place).and_then(|seat| seat.run_id.clone());
        (now.facts.topology.ranks_per_node, id.unwrap())
    };
    let planned = settings(&[2, 2, 2], Some((1, 3)));
    let id = |text: &str| text.to_owned();
    assert_eq!(of(&planned, &place(5, 1, 2, 6, 2), None), (vec![2, 2, 2], id("exp-a0-worker-2-rank-1")));
    assert_eq!(of(&planned, &place(3, 1, 1, 4, 2), None), (vec![2, 2], id("exp-a0-worker-1-rank-1")));
    assert_eq!(of(&planned, &place(1, 1, 0, 2, 2), None), (vec![2], id("exp-a0-rank-1")));
    assert_eq!(planned.at(&place(3, 1, 1, 4, 2), None).facts.topology.range, Some((1, 3)));

    // Known to be unequal: kept.
    let unequal = settings(&[4, 4, 2], None);
    assert_eq!(of(&unequal, &place(9, 1, 2, 10, 2), Some(3)), (vec![4, 4, 2], id("exp-a0-worker-2-rank-1")));
    // Not known: this rank's own node is right.
    let (nodes, own) = of(&settings(&[1], None), &place(9, 1, 2, 10, 2), Some(3));
    assert_eq!((nodes.iter().sum::<u32>(), nodes[2], own), (10, 2, id("exp-a0-worker-2-rank-1")));
}

#[test]
fn a_rank_that_tells_nothing_leaves_the_plan_as_it_is() {
    let planned = settings(&[2, 2], None);
    for told in [Place::default(), Place { world_size: Some(0), ..Place::default() }] {
        assert_eq!(planned.at(&told, None), planned);
    }
    // More ranks than anybody can have: no memory is spent on them.
    let absurd = Place { world_size: Some(u32::MAX), local_world_size: Some(1), ..Place::default() };
    assert_eq!(planned.at(&absurd, Some(u32::MAX)), planned);
}

#[test]
fn sources_are_words() {
    assert_eq!("all".parse::<Sources>().unwrap(), Sources::default());
    assert_eq!("lines, sdk".parse::<Sources>().unwrap().to_string(), "lines,sdk");
    assert!(!"none".parse::<Sources>().unwrap().has(Source::Log));
    let error = "lines,files".parse::<Sources>().unwrap_err();
    assert!(error.contains("\"files\"") && error.contains("lines, log, sdk, system and job"), "{error}");
    assert!(",".parse::<Sources>().is_err());
}
