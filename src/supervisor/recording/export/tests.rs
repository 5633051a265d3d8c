use super::*;
use crate::{
    domain::{
        event::{JobInfo, Launcher},
        id::{JobId, ProcId},
        log::Stream,
        rank::JobState,
        sample::{Place, RankSample},
        verdict,
    },
    supervisor::{
        core::Rules,
        logbook::Origin,
        recording::{BOX, BlackBox, Tape},
    },
};

const T: u64 = 1_795_167_600_000;

fn at(second: u64) -> Stamp {
    Stamp(T + second * 1000)
}

/// A job of a minute in a folder: journal, samples and two ranks' logs.
fn job(dir: &Path) -> (Roots, Manifest) {
    let roots = Roots::below(dir);
    let id = JobId("train-x3k9".into());
    let job = JobInfo {
        id: id.clone(),
        name: "train".into(),
        launcher: Launcher::Local,
        node: "gpu-node-03".into(),
        command: vec!["train.py".into(), "--data".into(), "/data/secret-project".into()],
        cwd: "/home/ada".into(),
        max_restarts: Some(3),
        local_world_size: Some(2),
        nodes: (1, 1),
        rdzv_id: Some("secret-meeting".into()),
        uid: 4242,
    };
    let rules = Rules { policy: verdict::Policy::default(), ..Rules::default() };
    let manifest = Manifest {
        v: 1,
        id: id.clone(),
        name: "train".into(),
        node: "gpu-node-03".into(),
        created_at: at(0),
        supervisor: ProcId { pid: 1, start: 1 },
        agent: None,
        socket: Path::new("s").into(),
        ended: true,
        state: JobState::Done,
        world_size: Some(2),
        rules,
        job: job.clone(),
        seen_at: at(60),
        wandb: None,
        serve: None,
    };
    fs::create_dir_all(&roots.jobs).unwrap();
    let folder = roots.job(&id);
    folder.create().unwrap();
    folder.write_manifest(&manifest).unwrap();
    let mut text = Vec::new();
    let mut seq = 0;
    let mut fact = |second: u64, fact: Fact| {
        seq += 1;
        text.extend(journal::line(&Event { seq, at: at(second), fact }));
        text.push(b'\n');
    };
    fact(0, Fact::JobStarted { job });
    let started = |local_rank: u32| Fact::RankStarted {
        proc: ProcId { pid: 900_000 + local_rank as i32, start: 1 },
        agent_pid: 1,
        local_rank,
        attempt: 0,
        place: Place { rank: Some(local_rank), ..Place::default() },
    };
    fact(1, started(0));
    fact(1, started(1));
    fact(30, Fact::Note { text: "key 0123456789abcdef0123456789abcdef01234567 was used".into() });
    fact(60, Fact::JobEnded { state: JobState::Done, exit_code: Some(0), cause: None });
    fs::write(folder.journal(), text).unwrap();
    folder.write_secret_marks(&Secrets::default()).unwrap();
    let mut boxed = BlackBox::open(&folder.root, crate::domain::replay::Keep::default()).unwrap();
    for second in 2..60 {
        let one = |local_rank| RankSample { local_rank, step: Some(second), ..RankSample::default() };
        let fact = Fact::Sample { ranks: vec![one(0), one(1)] };
        boxed.keep(&[Event { seq: 0, at: at(second), fact }]);
    }
    boxed.close();
    assert!(folder.root.join(BOX).exists());
    let log = folder.root.join("out.log");
    let origin = Origin {
        rank: Some(1),
        local_rank: Some(1),
        attempt: 0,
        pid: 900_001,
        stream: Stream::Out,
        path: log.clone(),
    };
    let mut book = Logbook::open(&folder.log_index(), true).unwrap();
    book.add(origin);
    let mut written = String::new();
    for second in 10..50 {
        written += &format!("line {second}, password=hunter2hunter2\n");
        fs::write(&log, &written).unwrap();
        book.look(at(second), |_| {});
    }
    book.close();
    (roots, manifest)
}

fn lines_of(tape: &Tape, until: Stamp) -> Vec<String> {
    let query = LogQuery::Page { filter: LogFilter::default(), anchor: Anchor::From(0), max: 1000 };
    tape.lines.answer(&query, until).lines.into_iter().map(|line| line.text).collect()
}

fn unpacked(path: &Path) -> String {
    let mut text = String::new();
    let file = fs::File::open(path).unwrap();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(file), &mut text).unwrap();
    text
}

#[test]
fn an_export_shows_what_the_job_itself_shows() {
    let dir = tempfile::tempdir().unwrap();
    let (roots, manifest) = job(dir.path());
    let path = dir.path().join("all.etrec");
    let exported = export(&roots, &manifest, Window::default(), &path).unwrap();
    assert_eq!((exported.events, exported.lines, exported.missing), (5 + 58, 40, Vec::new()));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let (own, theirs) = (Tape::of_job(&roots.job(&manifest.id)).unwrap(), Tape::read(&path).unwrap());
    for second in [0, 1, 2, 29, 60] {
        let (own, theirs) = (own.state_at(at(second)), theirs.state_at(at(second)));
        assert_eq!(own.ranks, theirs.ranks, "at {second}");
        assert_eq!(own.state, theirs.state, "at {second}");
    }
    assert_eq!(theirs.state_at(at(29)).rank(1).unwrap().step, Some(29));
    assert_eq!(lines_of(&theirs, at(29)).len(), 20);
    assert_eq!(own.course().times, theirs.course().times);
    let text = unpacked(&path);
    assert!(!text.contains("hunter2") && !text.contains("0123456789abcdef"), "secrets never go in");
    assert!(text.contains("/data/secret-project"), "what was asked for does");
}

#[test]
fn a_part_begins_with_a_snapshot_and_holds_the_lines_of_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let (roots, manifest) = job(dir.path());
    let path = dir.path().join("part.etrec");
    let window = Window { from: Some(at(20)), to: Some(at(40)), redact: false };
    let exported = export(&roots, &manifest, window, &path).unwrap();
    assert_eq!((exported.span, exported.lines), (Some((at(20), at(40))), 21));
    let tape = Tape::read(&path).unwrap();
    assert_eq!((tape.course().begin(), tape.course().end()), (at(20), at(40)));
    let state = tape.state_at(at(20));
    assert_eq!(state.job.as_ref().map(|job| job.id.0.as_str()), Some("train-x3k9"));
    assert_eq!((state.rank(0).unwrap().step, state.ranks.len()), (Some(20), 2));
    assert_eq!(lines_of(&tape, at(40))[0], "line 20, password=[hidden]");
    let none = Window { from: Some(at(100)), ..window };
    let error = export(&roots, &manifest, none, &dir.path().join("none")).unwrap_err();
    assert!(error.text.starts_with("nothing was recorded from"), "{error}");
    assert!(!dir.path().join("none").exists());
}

#[test]
fn a_redacted_export_has_no_name_path_or_line() {
    let dir = tempfile::tempdir().unwrap();
    let (roots, manifest) = job(dir.path());
    let path = dir.path().join("redacted.etrec");
    for from in [None, Some(at(20))] {
        export(&roots, &manifest, Window { from, to: None, redact: true }, &path).unwrap();
        let text = unpacked(&path);
        for word in ["train", "gpu-node", "/home", "/data", "line 2", "key", "4242", "ada"] {
            assert!(!text.contains(word), "{word} is in {text}");
        }
        let tape = Tape::read(&path).unwrap();
        assert!(tape.redacted);
        let state = tape.state_at(at(60));
        assert_eq!((state.state, state.rank(1).unwrap().step), (JobState::Done, Some(59)));
    }
}
