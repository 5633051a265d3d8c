//! Jobs with W&B, for tests.

use std::{collections::BTreeMap, time::Duration};

use super::fixture::{self, Story};
use crate::domain::{
    event::Fact,
    forward::{Mode, RankRows, RunProgress, RunState, Settings, Sources, Writer},
    resolve::{Base, Facts, Given, RankScope, RunMode, Topology},
};

fn settings(writer: Writer, mode: RunMode, scope: RankScope, nodes: u32, ranks: u32) -> Settings {
    let typed = |flag: &str, value: &str| Some(Given::new(flag, value));
    Settings {
        mode: Mode::Online,
        why_not_online: None,
        writer,
        sources: Sources::default(),
        stop_button: true,
        facts: Facts {
            run_mode: mode,
            rank_scope: scope,
            topology: Topology::equal(nodes, ranks).expect("ranks"),
            base: Base::Names { run: typed("--run-name", "llama-7b-x3k9"), action: None },
            parent_run: None,
            run_id: None,
            group: None,
            name: None,
            tags: Vec::new(),
            notes: None,
            job_type: None,
            sweep: None,
            project: typed("--wandb-project", "llm"),
            entity: typed("--wandb-entity", "team"),
            base_url: None,
            app_url: None,
        },
    }
}

fn planned(settings: Settings, pending: Option<(RunMode, RankScope)>) -> Fact {
    Fact::WandbPlanned { settings: Box::new(settings), pending }
}

fn sending(story: &Story, rows: u64, acked: u64) -> RunProgress {
    RunProgress {
        state: RunState::Sending,
        rows_logged: rows,
        rows_acked: acked,
        last_ack_at: Some(story.now()),
        ..RunProgress::default()
    }
}

/// A run for each rank of two nodes; those of this node are in all states.
pub(crate) fn each_rank() -> Story {
    let mut story = fixture::healthy(4);
    story.fact(planned(settings(Writer::Elastictop, RunMode::New, RankScope::Worker, 2, 4), None));
    let now = story.now();
    let id = |rank: u32| format!("llama-7b-x3k9-a0-worker-0-rank-{rank}");
    let runs = BTreeMap::from([
        (
            id(0),
            RunProgress {
                file: Some(
                    "wandb/offline-run-20261120_094016-llama-7b-x3k9-a0-worker-0-rank-0/run.wandb".into(),
                ),
                not_forwarded: vec!["2 media files".into()],
                ..sending(&story, 1204, 1201)
            },
        ),
        (
            id(1),
            RunProgress {
                state: RunState::Retrying,
                last_error: Some("the server answered 429: rate limit; 412 rows are kept here".into()),
                retry_at: Some(now + Duration::from_secs(8)),
                last_ack_at: None,
                ..sending(&story, 1203, 791)
            },
        ),
        (id(2), RunProgress { state: RunState::Waiting, ..RunProgress::default() }),
        (
            id(3),
            RunProgress {
                state: RunState::Refused,
                rows_lost: 2,
                last_error: Some(
                    "403: team may not be written to with this key; give another --wandb-entity".into(),
                ),
                ..sending(&story, 1200, 0)
            },
        ),
        ("llama-7b-x3k9-a0".into(), RunProgress { state: RunState::Finished, ..sending(&story, 88, 88) }),
    ]);
    story.fact(Fact::WandbSample { runs, ranks: Vec::new() }).wait(3.0);
    story
}

/// One run for all, kept here.
pub(crate) fn offline() -> Story {
    let mut story = fixture::healthy(4);
    let mut settings = settings(Writer::Elastictop, RunMode::Auto, RankScope::Global, 1, 4);
    settings.mode = Mode::Offline;
    settings.why_not_online = Some("no API key was found: set WANDB_API_KEY or use wandb login".into());
    settings.facts.entity = None;
    story.fact(planned(settings, None));
    let progress = RunProgress { state: RunState::Local, ..sending(&story, 310, 0) };
    let rows = |rank: u32| RankRows {
        rank,
        rows: 310,
        last: format!("{{\"_step\":309,\"loss\":2.{rank}1}}"),
        is_sent: rank == 0,
    };
    story.fact(Fact::WandbSample {
        runs: BTreeMap::from([("llama-7b-x3k9-a0".into(), progress)]),
        ranks: (0..4).map(rows).collect(),
    });
    story
}

/// The script writes, and somebody wanted another combination.
pub(crate) fn script() -> Story {
    let mut story = fixture::healthy(4);
    let settings = settings(Writer::Script, RunMode::Shared, RankScope::Global, 1, 4);
    story.fact(planned(settings, Some((RunMode::New, RankScope::Global))));
    story
}

/// 512 ranks write to one run.
pub(crate) fn many() -> Story {
    let mut story = fixture::healthy(8);
    let settings = settings(Writer::Elastictop, RunMode::Shared, RankScope::Global, 64, 8);
    story.fact(planned(settings, None));
    let runs = BTreeMap::from([("llama-7b-x3k9-a0".to_owned(), sending(&story, 61_000, 60_990))]);
    story.fact(Fact::WandbSample { runs, ranks: Vec::new() });
    story
}
