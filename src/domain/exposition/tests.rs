//! Pages are read back by a strict reader of both texts.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::domain::{
    alert::Alert,
    beat::GroupStatus,
    event::{Event, Fact, JobInfo, Launcher},
    exit::Exit,
    forward::{Mode, Settings, Sources, Writer},
    gpu::{
        GpuInfo, GpuProc, GpuSample, GpuSource, Remapped,
        join::{JoinSource, RankGpus},
    },
    id::{JobId, ProcId},
    resolve::{Base, Facts, RankScope, RunMode, Topology},
    sample::{Place, RankSample},
    verdict::Standing,
};

/// A figure that was read: its labels and its value.
type Read = BTreeMap<String, Vec<(BTreeMap<String, String>, f64)>>;

/// Reads a page as strictly as the two formats are written down.
fn read(text: &str, format: Format) -> Result<Read, String> {
    let (mut found, mut kinds, mut series) = (Read::new(), BTreeMap::new(), BTreeSet::new());
    let mut family = String::new();
    let body = match format {
        Format::Text => text,
        Format::OpenMetrics => text.strip_suffix("# EOF\n").ok_or("no end")?,
    };
    if !body.is_empty() && !body.ends_with('\n') {
        return Err("the last line has no end".into());
    }
    for line in body.split_terminator('\n') {
        let wrong = |why: &str| Err(format!("{why}: {line}"));
        if let Some(comment) = line.strip_prefix("# ") {
            let (what, rest) = comment.split_once(' ').ok_or("a comment without a word")?;
            let (name, rest) = rest.split_once(' ').ok_or("a comment without a text")?;
            match what {
                "HELP" if kinds.contains_key(name) => return wrong("a family comes twice"),
                "HELP" => family = name.to_owned(),
                "TYPE" if name == family && ["gauge", "counter"].contains(&rest) => {
                    kinds.insert(name.to_owned(), rest.to_owned());
                }
                "UNIT" if format == Format::OpenMetrics && name.ends_with(&format!("_{rest}")) => {}
                _ => return wrong("a comment that is not allowed"),
            }
            continue;
        }
        let (name, rest) = line.split_once('{').ok_or("no labels")?;
        let good = |c: char, first: bool| c == '_' || c.is_ascii_alphabetic() || !first && c.is_ascii_digit();
        if !name.char_indices().all(|(at, c)| good(c, at == 0)) {
            return wrong("a bad name");
        }
        let kind = kinds.get(&family).ok_or("a figure before its family")?;
        let expected = match (format, kind.as_str()) {
            (Format::OpenMetrics, "counter") => format!("{family}_total"),
            _ => family.clone(),
        };
        if name != expected || (kind == "counter") != name.ends_with("_total") {
            return wrong("a figure of another family");
        }
        let (labels, value) = read_labels(rest).ok_or_else(|| format!("bad labels: {line}"))?;
        if !series.insert((name.to_owned(), labels.clone())) {
            return wrong("a series comes twice");
        }
        let value: f64 = value.parse().map_err(|error| format!("{error}: {line}"))?;
        found.entry(name.to_owned()).or_default().push((labels, value));
    }
    Ok(found)
}

/// The labels after the brace, and the value after them.
fn read_labels(mut rest: &str) -> Option<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        if let Some(value) = rest.strip_prefix("} ") {
            return Some((labels, value));
        }
        let (name, after) = rest.split_once("=\"")?;
        if name.is_empty() || !name.chars().all(|c| c == '_' || c.is_ascii_lowercase()) {
            return None;
        }
        let (mut value, mut chars) = (String::new(), after.chars());
        loop {
            match chars.next()? {
                '"' => break,
                '\\' => value.push(match chars.next()? {
                    'n' => '\n',
                    c @ ('"' | '\\') => c,
                    _ => return None,
                }),
                c => value.push(c),
            }
        }
        if labels.insert(name.to_owned(), value).is_some() {
            return None;
        }
        rest = chars.as_str();
        match rest.strip_prefix(',') {
            Some(more) if !more.starts_with('}') => rest = more,
            None if rest.starts_with('}') => {}
            _ => return None,
        }
    }
}

const AT: Stamp = Stamp(1_000_000);

fn job(name: &str) -> State {
    let mut state = State::default();
    let info = JobInfo {
        id: JobId(format!("{name}-x3k9")),
        name: name.into(),
        launcher: Launcher::Torchrun,
        node: "n01".into(),
        command: Vec::new(),
        cwd: "/".into(),
        max_restarts: Some(3),
        local_world_size: Some(2),
        nodes: (1, 1),
        rdzv_id: None,
        uid: 0,
    };
    apply(&mut state, Fact::JobStarted { job: info });
    state
}

fn apply(state: &mut State, fact: Fact) {
    let seq = state.seq + 1;
    state.apply(&Event { seq, at: AT, fact });
}

/// A job with all that can be known: one rank dead, one that lags, GPUs, an alert, a run.
fn full(name: &str, run: &str) -> State {
    let mut state = job(name);
    let proc = |pid| ProcId { pid, start: 9 };
    apply(&mut state, Fact::AgentStarted { proc: proc(7) });
    apply(&mut state, Fact::GroupStarted { attempt: 0, world_size: Some(2) });
    for local_rank in 0..2 {
        let place = Place { rank: Some(10 + local_rank), ..Place::default() };
        let proc = proc(100 + local_rank as i32);
        apply(&mut state, Fact::RankStarted { proc, agent_pid: 7, local_rank, attempt: 0, place });
    }
    apply(&mut state, Fact::JobState { state: JobState::Running, deadline: None });
    let standing = Standing {
        role: Role::Lagging,
        group: "default".into(),
        seq: 21,
        op: None,
        since: AT,
        behind: 3,
        timeout_ms: None,
    };
    let sample = RankSample {
        local_rank: 0,
        cpu_ns: Some(2_500_000_000),
        rss_bytes: Some(1 << 30),
        threads: Some(12),
        step: Some(40),
        beat_at: Some(AT),
        lines: 5,
        groups: vec![GroupStatus { name: "0".into(), ..GroupStatus::default() }],
        standing: Some(Box::new(standing)),
        ..RankSample::default()
    };
    apply(&mut state, Fact::Sample { ranks: vec![sample] });
    let exit = Some(Exit::Signal(9));
    apply(&mut state, Fact::RankExited { local_rank: 1, proc: proc(101), rank: Some(11), exit });
    let info = GpuInfo { index: 0, uuid: Some("GPU-1".into()), ..GpuInfo::default() };
    apply(&mut state, Fact::Gpus { source: GpuSource::Nvml, driver: None, trouble: None, gpus: vec![info] });
    let gpu = GpuSample {
        index: 0,
        util_pct: Some(87),
        mem_used_bytes: Some(5 << 30),
        mem_total_bytes: Some(80 << 30),
        temp_c: Some(61),
        power_mw: Some(412_500),
        power_limit_mw: Some(700_000),
        sm_clock_mhz: Some(1980),
        mem_clock_mhz: Some(2619),
        throttle: Some(0x44),
        ecc_corrected: Some(2),
        ecc_uncorrected: None,
        remapped: Some(Remapped { correctable: 1, uncorrectable: 0, pending: false, failed: false }),
        procs: Some(vec![GpuProc { pid: 100, used_bytes: Some(4 << 30), gpu_instance_id: None }]),
        ..GpuSample::default()
    };
    apply(&mut state, Fact::GpuSample { gpus: vec![gpu] });
    let joined = RankGpus { local_rank: 0, pid: 100, gpus: vec![0], source: JoinSource::NvmlPids };
    apply(&mut state, Fact::GpuRanks { ranks: vec![joined], foreign_pids: false });
    let alert = Alert {
        kind: AlertKind::Hang,
        local_rank: Some(0),
        since: AT,
        text: "rank 10 sleeps".into(),
        evidence: Vec::new(),
        acts_at: None,
    };
    apply(&mut state, Fact::AlertRaised { alert });
    let progress = RunProgress {
        state: RunState::Sending,
        rows_logged: 120,
        rows_acked: 117,
        rows_lost: 1,
        last_ack_at: Some(AT),
        ..RunProgress::default()
    };
    apply(&mut state, Fact::WandbPlanned { settings: Box::new(settings()), pending: None });
    apply(&mut state, Fact::WandbProgress { runs: [(run.to_owned(), progress)].into() });
    state
}

fn settings() -> Settings {
    Settings {
        mode: Mode::Online,
        why_not_online: None,
        writer: Writer::Elastictop,
        sources: Sources::default(),
        stop_button: true,
        facts: Facts {
            run_mode: RunMode::Auto,
            rank_scope: RankScope::Global,
            topology: Topology::equal(1, 2).unwrap(),
            base: Base::Names { run: None, action: None },
            parent_run: None,
            run_id: None,
            group: None,
            name: None,
            tags: Vec::new(),
            notes: None,
            job_type: None,
            sweep: None,
            project: None,
            entity: None,
            base_url: None,
            app_url: None,
        },
    }
}

const OWN: [Own; 1] = [Own { process: "supervisor", cpu_ns: Some(1_500_000_000), rss_bytes: Some(9 << 20) }];

#[test]
fn all_that_is_known_is_told_in_both_texts() {
    let (state, now) = (full("train", "train-a0"), Stamp(AT.0 + 2500));
    let open = write(&state, &OWN, now, Format::OpenMetrics);
    insta::assert_snapshot!("full", open);
    let text = write(&state, &OWN, now, Format::Text);
    let (open, text) = (read(&open, Format::OpenMetrics).unwrap(), read(&text, Format::Text).unwrap());
    assert_eq!(open, text, "the same figures under the same names");
    for (name, figures) in &open {
        for (labels, _) in figures {
            assert_eq!((labels["job"].as_str(), labels["node"].as_str()), ("train-x3k9", "n01"), "{name}");
        }
    }
}

#[test]
fn what_is_not_known_is_left_out() {
    for state in [State::default(), job("train")] {
        let page = read(&write(&state, &[], AT, Format::Text), Format::Text).unwrap();
        let has = |name: &str| page.contains_key(name);
        assert!(has("elastictop_job_state") && has("elastictop_alerts"));
        assert!(
            !has("elastictop_job_exit_code") && !has("elastictop_rank_up") && !has("elastictop_gpu_lost")
        );
    }
}

#[test]
fn a_rank_that_is_gone_has_no_figures_of_the_living() {
    let page = write(&full("train", "r"), &[], AT, Format::Text);
    let page = read(&page, Format::Text).unwrap();
    let of_rank = |name: &str, rank: &str| {
        let figures = page[name].iter().filter(|(labels, _)| labels["rank"] == rank);
        figures.map(|(_, value)| *value).collect::<Vec<_>>()
    };
    assert_eq!(of_rank("elastictop_rank_up", "11"), [0.0]);
    assert_eq!(of_rank("elastictop_rank_exit_code", "11"), [-9.0]);
    assert_eq!(of_rank("elastictop_rank_heartbeat_age_seconds", "11"), [0.0; 0]);
    assert_eq!(of_rank("elastictop_rank_collective_lag", "10"), [3.0]);
}

#[test]
fn a_job_complains_of_what_somebody_has_to_look_at() {
    assert_eq!(complaints(&job("train")), [""; 0]);
    let mut state = full("train", "r");
    assert_eq!(complaints(&state), ["hang: rank 10 sleeps"]);
    state.alerts[0].kind = AlertKind::Straggler;
    assert_eq!(complaints(&state), [""; 0]);
    apply(&mut state, Fact::JobEnded { state: JobState::Failed, exit_code: Some(1), cause: None });
    assert_eq!(complaints(&state), ["the job failed"]);
    state.state = JobState::Stopped;
    assert_eq!(complaints(&state), [""; 0]);
}

#[test]
fn the_reader_of_these_tests_is_strict() {
    let bad = [
        "elastictop_x{} 1\n",
        "# HELP x y\n# TYPE x gauge\nx{} 1",
        "# HELP x y\n# TYPE x gauge\nx{} 1\nx{} 2\n",
        "# HELP x y\n# TYPE x counter\nx{} 1\n",
        "# HELP x y\n# TYPE x gauge\nx{a=\"1\",} 1\n",
        "# HELP x y\n# TYPE x gauge\nx{a=\"\\q\"} 1\n",
        "# HELP x y\n# TYPE x gauge\nx{} one\n",
    ];
    for text in bad {
        assert!(read(text, Format::Text).is_err(), "{text}");
    }
}

proptest! {
    #[test]
    fn any_name_survives_or_is_made_harmless(name: String, run: String) {
        let state = full(&name, &run);
        for format in [Format::Text, Format::OpenMetrics] {
            let page = read(&write(&state, &OWN, AT, format), format).unwrap();
            let told = &page["elastictop_wandb_rows_logged_total"][0].0["run"];
            let harmless: String = run.chars().map(|c| if c.is_control() && c != '\n' { '?' } else { c }).collect();
            prop_assert_eq!(told, &harmless);
        }
    }
}
