//! The forwarder on folders of jobs that never ran.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::*;
use crate::{
    domain::{
        event::Launcher,
        forward::{Mode, RunState, Sources, Writer},
        id::JobId,
        resolve::{Base, Facts, Given, RankScope, RunMode, Topology},
    },
    wandb::log::{Entry, Reader, record::Kind},
};

/// How long anything may take before a test is given up.
const PATIENCE: Duration = Duration::from_secs(60);

struct Lab {
    dir: tempfile::TempDir,
    settings: Settings,
    secrets: Secrets,
}

/// What a `.wandb` file holds, in words.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    rows: Vec<String>,
    console: Vec<String>,
    exits: Vec<i32>,
    summary: BTreeMap<String, String>,
    stats: Vec<String>,
    resumed: bool,
}

impl Lab {
    fn new(run_mode: RunMode, rank_scope: RankScope) -> Lab {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("ranks")).unwrap();
        let settings = Settings {
            mode: Mode::Offline,
            why_not_online: None,
            writer: Writer::Elastictop,
            sources: Sources::default(),
            stop_button: true,
            facts: Facts {
                run_mode,
                rank_scope,
                topology: Topology { ranks_per_node: vec![2], range: None },
                base: Base::Whole(Given::new("--wandb-base", "b")),
                parent_run: None,
                run_id: None,
                group: None,
                name: None,
                tags: vec![Given::new("--wandb-tags", "t")],
                notes: None,
                job_type: None,
                sweep: None,
                project: Some(Given::new("--wandb-project", "p")),
                entity: Some(Given::new("--wandb-entity", "e")),
                base_url: None,
                app_url: None,
            },
        };
        Lab { dir, settings, secrets: Secrets::default() }
    }

    fn start(&self) -> (Forward, UnboundedReceiver<Told>) {
        let job = JobInfo {
            id: JobId("j".into()),
            name: "j".into(),
            launcher: Launcher::Local,
            node: "host".into(),
            command: vec!["train.py".into(), "--lr".into(), "1".into()],
            cwd: "/x".into(),
            max_restarts: None,
            local_world_size: None,
            nodes: (1, 1),
            rdzv_id: None,
            uid: 0,
        };
        let (settings, secrets) = (self.settings.clone(), self.secrets.clone());
        let root = self.dir.path().to_owned();
        Forward::start(Task { root, job, settings, secrets, environment: Vec::new() }).unwrap()
    }

    fn folder(&self, proc: ProcId) -> PathBuf {
        self.dir.path().join("ranks").join(format!("{}-{}", proc.pid, proc.start))
    }

    /// A rank appears, as the loop tells of it.
    fn rank(&self, forward: &Forward, rank: u32, start: u64) -> ProcId {
        // Beyond what the kernel gives out.
        self.rank_of(forward, rank, ProcId { pid: 5_000_000 + rank as i32, start })
    }

    fn rank_of(&self, forward: &Forward, rank: u32, proc: ProcId) -> ProcId {
        let folder = self.folder(proc);
        fs::create_dir_all(&folder).unwrap();
        let outputs = [Some(folder.join("stdout.log")), Some(folder.join("stderr.log"))];
        let place = Place {
            rank: Some(rank),
            local_rank: Some(rank),
            group_rank: Some(0),
            world_size: Some(2),
            local_world_size: Some(2),
            ..Place::default()
        };
        forward.tell(Order::Rank { proc, local_rank: rank, place, outputs });
        proc
    }

    fn write(&self, proc: ProcId, name: &str, text: &str) {
        let path = self.folder(proc).join(name);
        let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    /// The `.wandb` files below a folder, by run and in the order of their making.
    fn files(&self, below: &str) -> BTreeMap<String, Vec<PathBuf>> {
        let mut files: BTreeMap<String, Vec<(u64, PathBuf)>> = BTreeMap::new();
        for entry in fs::read_dir(self.dir.path().join(below)).into_iter().flatten().flatten() {
            let is_run = entry.file_name().to_string_lossy().starts_with("offline-run-");
            for file in fs::read_dir(entry.path()).into_iter().flatten().flatten().filter(|_| is_run) {
                let name = file.file_name().to_string_lossy().into_owned();
                if let Some(run) = name.strip_prefix("run-").and_then(|name| name.strip_suffix(".wandb")) {
                    use std::os::unix::fs::MetadataExt;
                    files.entry(run.into()).or_default().push((file.metadata().unwrap().ino(), file.path()));
                }
            }
        }
        files
            .into_iter()
            .map(|(run, mut files)| {
                files.sort_by_key(|(_, path)| path.parent().unwrap().to_owned());
                (run, files.into_iter().map(|(_, path)| path).collect())
            })
            .collect()
    }

    fn seen(&self) -> BTreeMap<String, Vec<Seen>> {
        let files = self.files("wandb").into_iter();
        files.map(|(run, files)| (run, files.iter().map(|file| read(file)).collect())).collect()
    }
}

fn read(path: &Path) -> Seen {
    let mut reader = Reader::open(path, 0).unwrap();
    let mut seen = Seen::default();
    while let Some(entry) = reader.next().transpose().unwrap() {
        let Entry::Record(found) = entry else { panic!("{path:?}: {entry:?}") };
        match found.record.kind.unwrap() {
            Kind::History(row) => {
                let items =
                    row.items.iter().filter(|item| !["_timestamp", "_runtime"].contains(&&*item.path()[0]));
                let items: Vec<_> =
                    items.map(|item| format!("{}={}", item.path().join("."), item.json())).collect();
                seen.rows.push(items.join(" "));
            }
            Kind::Summary(changes) => {
                let items = changes.update.iter().map(|item| (item.path().join("."), item.json().to_owned()));
                seen.summary.extend(items);
            }
            Kind::Output(output) => {
                seen.console.push(format!("{} {}", output.output_type, output.line.trim_end()));
            }
            Kind::Exit(exit) => seen.exits.push(exit.exit_code),
            Kind::Run(run) => seen.resumed = run.resumed,
            Kind::Stats(stats) => {
                seen.stats.extend(stats.items.iter().map(|item| format!("{}={}", item.key, item.json())));
            }
            _ => {}
        }
    }
    assert_eq!(reader.torn(), 0, "{path:?}");
    seen
}

/// Waits for something that the forwarder tells; gives what it told until then.
fn wait(tells: &mut UnboundedReceiver<Told>, what: &str, mut is_it: impl FnMut(&Told) -> bool) -> Vec<Told> {
    let due = Instant::now() + PATIENCE;
    let mut all = Vec::new();
    loop {
        match tells.try_recv() {
            Ok(told) => {
                let found = is_it(&told);
                all.push(told);
                if found {
                    return all;
                }
            }
            Err(_) => {
                assert!(Instant::now() < due, "this did not happen: {what}; told {all:?}");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

fn end(forward: &Forward, tells: &mut UnboundedReceiver<Told>, state: JobState, exit_code: u8) {
    forward.tell(Order::End { state, exit_code: Some(exit_code) });
    wait(tells, "the end", |told| matches!(told, Told::Finished));
}

fn has_rows(told: &Told, run: &str, rows: u64) -> bool {
    matches!(told, Told::Progress { runs, .. } if runs.get(run).is_some_and(|run| run.rows_logged >= rows))
}

#[test]
fn rows_lines_and_figures_of_a_job_lie_in_its_run() {
    let mut lab = Lab::new(RunMode::Auto, RankScope::Global);
    lab.secrets = Secrets::new([("HF_TOKEN", "abcdefgh123")], &[]);
    let (forward, mut tells) = lab.start();
    let [first, second] = [0, 1].map(|rank| lab.rank(&forward, rank, 10));
    // The order in which they are looked at.
    lab.write(
        first,
        "metrics.jsonl",
        "{\"_step\": 7, \"_timestamp\": 1.5, \"acc\": 0.5, \"key\": \"abcdefgh123\"}\n",
    );
    lab.write(first, "stdout.log", "hello abcdefgh123\n{\"loss\": NaN, \"n\": 12345678901234567890}\nbye");
    lab.write(first, "stderr.log", "oops\n");
    lab.write(second, "stdout.log", "{\"loss\": 2}\ntext\n");
    forward
        .tell(Order::Figures(vec![(first, vec![("cpu".into(), 1.5)]), (second, vec![("cpu".into(), 2.5)])]));
    let last = wait(
        &mut tells,
        "three rows",
        |told| matches!(told, Told::Progress { ranks, .. } if ranks.iter().map(|rank| rank.rows).sum::<u64>() == 3),
    );
    let Some(Told::Progress { ranks, .. }) = last.last() else { panic!("{last:?}") };
    let silent = RankRows { rank: 1, rows: 1, last: "{\"loss\": 2}".into(), is_sent: false };
    assert_eq!(ranks[1], silent);
    end(&forward, &mut tells, JobState::Done, 0);
    let seen = lab.seen();
    assert_eq!(seen.keys().collect::<Vec<_>>(), ["b"]);
    let run = &seen["b"][0];
    assert_eq!(run.rows, ["acc=0.5 key=\"[hidden]\" _step=7", "loss=NaN n=12345678901234567890 _step=8",]);
    assert_eq!(run.console, ["1 hello [hidden]", "0 oops", "1 bye"]);
    assert_eq!(run.exits, [0]);
    for (key, value) in [("loss", "NaN"), ("acc", "0.5"), ("_step", "8")] {
        assert_eq!(run.summary[key], value, "{key}");
    }
    assert!(run.stats.contains(&"cpu/l:rank-0=1.5".into()), "{:?}", run.stats);
    assert!(run.stats.contains(&"cpu/l:rank-1=2.5".into()), "{:?}", run.stats);
    assert_eq!(run.stats.iter().filter(|stat| stat.starts_with("memory_percent")).count(), 1);
    let latest = fs::read_link(lab.dir.path().join("wandb/latest-run")).unwrap();
    assert!(lab.files("wandb")["b"][0].parent().unwrap().ends_with(latest));
}

#[test]
fn every_combination_writes_the_runs_of_its_plan() {
    for (mode, runs) in [
        (RunMode::Auto, vec!["b: a=0 _step=0"]),
        (RunMode::Shared, vec!["b: a=0 _step=0, a=1 _step=0"]),
        (RunMode::New, vec!["b-rank-0: a=0 _step=0", "b-rank-1: a=1 _step=0"]),
    ] {
        for scope in RankScope::ALL {
            let lab = Lab::new(mode, scope);
            let (forward, mut tells) = lab.start();
            for rank in 0..2 {
                let proc = lab.rank(&forward, rank, 10);
                lab.write(proc, "stdout.log", &format!("{{\"a\":{rank}}}\n"));
            }
            end(&forward, &mut tells, JobState::Done, 0);
            let seen = lab.seen();
            let seen: Vec<_> =
                seen.iter().map(|(run, files)| format!("{run}: {}", files[0].rows.join(", "))).collect();
            assert_eq!(seen, runs, "{mode}/{scope}");
        }
    }
}

#[test]
fn a_switch_loses_and_doubles_nothing_and_goes_back_into_a_second_file() {
    let lab = Lab::new(RunMode::New, RankScope::Global);
    let (forward, mut tells) = lab.start();
    let proc = lab.rank(&forward, 0, 10);
    for (n, mode) in [RunMode::Shared, RunMode::New].into_iter().enumerate() {
        lab.write(proc, "stdout.log", &format!("{{\"a\":{n}}}\n"));
        forward.tell(Order::Plan(Box::new(lab.settings.with((mode, RankScope::Global)))));
        wait(&mut tells, "the switch", |told| matches!(told, Told::Planned(_)));
    }
    lab.write(proc, "stdout.log", "{\"a\":2}\n");
    end(&forward, &mut tells, JobState::Failed, 3);
    let seen = lab.seen();
    let rows = |run: &str, file: usize| seen[run][file].rows.clone();
    assert_eq!(rows("b-rank-0", 0), ["a=0 _step=0"]);
    assert_eq!(rows("b", 0), ["a=1 _step=0"]);
    assert_eq!(rows("b-rank-0", 1), ["a=2 _step=1"]);
    assert_eq!((seen["b-rank-0"][0].exits[0], seen["b"][0].exits[0]), (0, 0), "left, not failed");
    assert_eq!((seen["b-rank-0"][1].exits[0], seen["b-rank-0"][1].resumed), (3, true));
}

#[test]
fn a_restart_goes_on_in_the_same_run() {
    let lab = Lab::new(RunMode::Auto, RankScope::Global);
    let (forward, mut tells) = lab.start();
    for start in [10, 20] {
        let proc = lab.rank(&forward, 0, start);
        for step in 0..3 {
            lab.write(
                proc,
                "metrics.jsonl",
                &format!("{{\"_step\":{step},\"_timestamp\":5,\"s\":{start}}}\n"),
            );
        }
        forward.tell(Order::Gone(proc, Some(Exit::Code(1))));
    }
    end(&forward, &mut tells, JobState::Failed, 1);
    assert_eq!(
        lab.seen()["b"][0].rows,
        [
            "s=10 _step=0",
            "s=10 _step=1",
            "s=10 _step=2",
            "s=20 elastictop/step=0 _step=3",
            "s=20 elastictop/step=1 _step=4",
            "s=20 elastictop/step=2 _step=5",
        ]
    );
}

#[test]
fn whatever_dies_when_every_row_is_there_once_and_in_order() {
    let lab = Lab::new(RunMode::Shared, RankScope::Global);
    let cursor = lab.dir.path().join("wandb/cursor.jsonl");
    let (mut forward, mut tells) = lab.start();
    let ranks = [0, 1].map(|rank| lab.rank(&forward, rank, 10));
    let mut written = 0;
    for life in 0..12 {
        for _ in 0..50 {
            for proc in ranks {
                lab.write(proc, "stdout.log", &format!("{{\"a\":{written}}}\n"));
            }
            written += 1;
        }
        wait(&mut tells, "rows", |told| has_rows(told, "b", 2 * written - 30));
        drop(forward);
        // What a death may leave: records that were not committed, or a commit that is torn.
        if life % 3 == 0 {
            let bytes = fs::read(&cursor).unwrap();
            let whole: Vec<_> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
            let kept = whole[..whole.len() - 1].concat();
            fs::write(&cursor, [kept.as_slice(), &whole[whole.len() - 1][..5]].concat()).unwrap();
        } else if life % 3 == 1 {
            let file = &lab.files("wandb")["b"][0];
            OpenOptions::new().append(true).open(file).unwrap().write_all(b"half a record").unwrap();
            fs::create_dir_all(lab.dir.path().join("wandb/offline-run-20200101_000000-b")).unwrap();
        }
        (forward, tells) = lab.start();
        for rank in 0..2 {
            lab.rank(&forward, rank, 10);
        }
    }
    end(&forward, &mut tells, JobState::Done, 0);
    let seen = lab.seen();
    assert_eq!((seen.len(), seen["b"].len()), (1, 1));
    let rows = &seen["b"][0].rows;
    let of_both = |n: u64| format!("a={n} _step={n}");
    let mut next = [0, 0];
    for row in rows {
        let rank =
            next.iter().position(|n| of_both(*n) == *row).unwrap_or_else(|| panic!("{row} after {next:?}"));
        next[rank] += 1;
    }
    assert_eq!(next, [written, written]);
    assert!(!lab.dir.path().join("wandb/offline-run-20200101_000000-b").exists());
}

#[test]
fn a_row_in_pieces_is_one_row_though_the_forwarder_dies_between_them() {
    let lab = Lab::new(RunMode::Auto, RankScope::Global);
    let (mut forward, mut tells) = lab.start();
    // A rank that lives, as this very process does.
    let here = std::process::id() as i32;
    let here = crate::probe::proc::identify(Path::new(crate::probe::proc::ROOT), here).unwrap();
    let proc = lab.rank_of(&forward, 0, here);
    for (n, piece) in ["\"loss\":1", "\"acc\":2", "\"val\":3"].into_iter().enumerate() {
        lab.write(proc, "metrics.jsonl", &format!("{{\"_step\":4,\"_timestamp\":{n},{piece}}}\n"));
        let is_read = |told: &Told| matches!(told, Told::Progress { ranks, .. } if ranks.iter().any(|rank| rank.last.contains(piece)));
        wait(&mut tells, "a piece", is_read);
        drop(forward);
        (forward, tells) = lab.start();
        lab.rank_of(&forward, 0, here);
    }
    end(&forward, &mut tells, JobState::Done, 0);
    assert_eq!(lab.seen()["b"][0].rows, ["loss=1 acc=2 val=3 _step=4"]);
}

#[test]
fn names_that_a_script_has_in_its_source_hold_where_nobody_gave_any() {
    use crate::{
        domain::time::Stamp,
        wandb::log::record::{HistoryItem, Run},
    };
    let mut lab = Lab::new(RunMode::Auto, RankScope::Global);
    (lab.settings.facts.project, lab.settings.facts.entity) = (None, None);
    let (forward, mut tells) = lab.start();
    let proc = lab.rank(&forward, 0, 10);
    let said = |project: &str| Run {
        run_id: "b".into(),
        project: project.into(),
        display_name: "mine".into(),
        tags: vec!["other".into()],
        notes: "why".into(),
        ..Run::default()
    };
    // What the SDK writes is read later than a line that was printed after it.
    lab.write(proc, "stdout.log", "{\"step\": 0, \"acc\": 1}\n{\"step\": 1, \"acc\": 1}\n");
    wait(&mut tells, "a row", |told| has_rows(told, "b", 1));
    let mut sdk = crate::wandb::log::Writer::create(&lab.folder(proc), "b", Stamp(1000)).unwrap();
    let row = crate::wandb::log::record::History {
        items: [("loss", "1"), ("_step", "0")].map(|(key, value)| HistoryItem::new([key], value)).to_vec(),
        step: None,
    };
    let mut batch = crate::wandb::log::Batch::new();
    for kind in [Kind::Run(Box::new(said("llm"))), Kind::History(row), Kind::Run(Box::new(said("too-late")))]
    {
        batch.push(&kind).unwrap();
    }
    sdk.append(&batch).unwrap();
    wait(
        &mut tells,
        "a note",
        |told| matches!(told, Told::Note(text) if text.contains("too-late") && text.contains("--wandb-project")),
    );
    end(&forward, &mut tells, JobState::Done, 0);
    let mut named = Vec::new();
    let mut reader = Reader::open(&lab.files("wandb")["b"][0], 0).unwrap();
    while let Some(Entry::Record(found)) = reader.next().transpose().unwrap() {
        if let Some(Kind::Run(run)) = found.record.kind {
            named.push(format!(
                "{} {} {} {} {:?}",
                run.run_id, run.project, run.display_name, run.notes, run.tags
            ));
        }
    }
    // The tags were given: they stay. `wandb sync` takes the project that it meets first.
    assert_eq!(named, [r#"b llm mine why ["t"]"#]);
}

#[test]
fn what_is_too_long_is_counted() {
    let lab = Lab::new(RunMode::Auto, RankScope::Global);
    let (forward, mut tells) = lab.start();
    let proc = lab.rank(&forward, 0, 10);
    lab.write(proc, "stdout.log", &format!("{{\"a\":\"{}\"}}\n{{\"a\":1}}\n", "x".repeat(11 << 20)));
    forward.tell(Order::Gone(proc, None));
    wait(&mut tells, "a lost row", |told| {
        matches!(told, Told::Progress { runs, .. }
            if runs.get("b").is_some_and(|run| run.rows_lost == 1 && run.rows_logged == 1))
    });
    end(&forward, &mut tells, JobState::Done, 0);
}

#[test]
fn figures_of_a_silent_node_stay_here() {
    let mut lab = Lab::new(RunMode::Auto, RankScope::Global);
    lab.settings.facts.topology.ranks_per_node = vec![2, 2];
    let (forward, mut tells) = lab.start();
    let place = Place {
        rank: Some(2),
        local_rank: Some(0),
        group_rank: Some(1),
        world_size: Some(4),
        local_world_size: Some(2),
        ..Place::default()
    };
    let silent = ProcId { pid: 5_000_002, start: 10 };
    forward.tell(Order::Rank { proc: silent, local_rank: 0, place, outputs: [None, None] });
    forward.tell(Order::Figures(vec![(silent, vec![("cpu".into(), 1.0)])]));
    wait(&mut tells, "a note", |told| matches!(told, Told::Note(text) if text.contains("wandb/local")));
    end(&forward, &mut tells, JobState::Done, 0);
    let local = lab.files("wandb/local/wandb");
    assert!(read(&local["b-node-1"][0]).stats.contains(&"cpu/l:rank-2=1".to_owned()));
    assert_eq!(lab.files("wandb").len(), 0);
}

#[test]
fn a_file_in_the_way_is_told_and_rows_wait_for_room() {
    let lab = Lab::new(RunMode::Auto, RankScope::Global);
    let (forward, mut tells) = lab.start();
    // Nothing can be made where a run wants its folder.
    let wandb = lab.dir.path().join("wandb");
    fs::rename(&wandb, lab.dir.path().join("aside")).unwrap();
    fs::write(&wandb, "").unwrap();
    let proc = lab.rank(&forward, 0, 10);
    lab.write(proc, "stdout.log", "{\"a\":1}\n");
    wait(
        &mut tells,
        "the error",
        |told| matches!(told, Told::Progress { runs, .. } if runs.get("b").is_some_and(|run| run.last_error.is_some())),
    );
    fs::remove_file(&wandb).unwrap();
    fs::rename(lab.dir.path().join("aside"), &wandb).unwrap();
    wait(&mut tells, "the row", |told| {
        has_rows(told, "b", 1)
            && matches!(told, Told::Progress { runs, .. } if runs["b"].last_error.is_none() && runs["b"].state == RunState::Local)
    });
    end(&forward, &mut tells, JobState::Done, 0);
    assert_eq!(lab.seen()["b"][0].rows, ["a=1 _step=0"]);
}
