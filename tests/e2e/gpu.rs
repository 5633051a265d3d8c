//! GPUs, with a driver's library of our own (`stub.c`) that the real loader finds.
//!
//! What only the stub proves: no machine with a GPU runs these tests. One test at the end wants a real one.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, LazyLock},
};

use elastictop::{
    domain::gpu::{GpuSource, Reading, Remapped, Status, XidSeen},
    probe::gpu::GpuProbe,
};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    harness::{Job, Lab, PATIENCE, kill, living, wait_until},
    viewers::Raw,
};

/// The folder with the library, built once by the C compiler that linked this test.
static LIBRARY: LazyLock<TempDir> = LazyLock::new(|| {
    let dir = tempfile::tempdir().expect("a folder");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/stub.c");
    let made = Command::new("cc")
        .args(["-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"])
        .arg(dir.path().join("libnvidia-ml.so.1"))
        .arg(source)
        .output()
        .expect("a C compiler: cc");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    dir
});

/// A driver whose figures a test sets.
pub struct Stub {
    dir: PathBuf,
    _kept: Option<TempDir>,
}

impl Stub {
    /// With these figures.
    pub fn new(lines: &str) -> Stub {
        let dir = tempfile::tempdir().expect("a folder");
        let stub = Stub { dir: dir.path().to_owned(), _kept: Some(dir) };
        stub.set(lines);
        stub
    }

    /// That of the test which started this process; `None` for whoever runs a part by hand.
    fn of_this_process() -> Option<Stub> {
        let script = PathBuf::from(std::env::var_os("STUB_NVML")?);
        Some(Stub { dir: script.parent().expect("a folder").to_owned(), _kept: None })
    }

    /// What holds from now on.
    pub fn set(&self, lines: &str) {
        let new = self.dir.join("new");
        fs::write(&new, lines).expect("a file");
        fs::rename(new, self.script()).expect("a file");
    }

    fn script(&self) -> PathBuf {
        self.dir.join("script")
    }

    /// What a process needs to see this driver.
    pub fn variables(&self) -> [(&'static str, PathBuf); 2] {
        [("LD_LIBRARY_PATH", LIBRARY.path().to_owned()), ("STUB_NVML", self.script())]
    }

    /// Calls so far by name and GPU.
    fn calls(&self) -> BTreeMap<(String, i32), usize> {
        let text = fs::read_to_string(self.dir.join("script.calls")).unwrap_or_default();
        let mut calls = BTreeMap::new();
        let parsed = text.lines().filter_map(|line| {
            let (name, gpu) = line.split_once(' ')?;
            Some((name.to_owned(), gpu.parse().ok()?))
        });
        parsed.for_each(|call| *calls.entry(call).or_default() += 1);
        calls
    }

    /// Calls so far that concern a GPU.
    fn calls_of(&self, gpu: i32) -> usize {
        self.calls().into_iter().filter(|((_, of), _)| *of == gpu).map(|(_, count)| count).sum()
    }

    /// Runs a part of this file in a process of its own: the loader reads its path when a process starts.
    fn run(&self, part: &str) {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", &format!("gpu::{part}"), "--ignored", "--nocapture"])
            .envs(self.variables())
            .stdin(Stdio::null())
            .spawn()
            .expect("this test again");
        let status = child.wait().expect("a status");
        assert!(status.success(), "{part}: {status}; see its output above");
    }

    /// Starts a job that sees this driver.
    pub fn start<'a>(&self, lab: &'a Lab, args: &[&str]) -> Job<'a> {
        let variables = self.variables().map(|(name, path)| (name, path.display().to_string()));
        let env: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
        lab.start_with("gpu", &[&["--launcher", "local", "--no-python"], args].concat(), &env)
    }
}

/// Waits for an answer that `is_there` likes.
fn wait_for(probe: &GpuProbe, what: &str, is_there: impl Fn(&Reading) -> bool) -> Arc<Reading> {
    wait_until(what, PATIENCE, || Some(probe.latest()).filter(|reading| is_there(reading)))
}

const EIGHT: &str = "gpus 8\nmem 3 70000 143771\ntemp 3 61\nthrottle 3 0x44\nproc 3 4711 512\nproc 3 4712 1024\n\
                     field 3 3 7\nfield 3 4 1\nfield 3 142 2\nfield 3 143 0\nfield 3 144 1\nfield 3 230 2\n";

#[test]
fn eight_gpus_cost_nine_calls_each_and_round() {
    let stub = Stub::new(EIGHT);
    stub.run("part_eight_gpus");
}

#[test]
#[ignore = "a part of another test"]
fn part_eight_gpus() {
    let Some(stub) = Stub::of_this_process() else { return };
    let probe = GpuProbe::start();
    let reading = wait_for(&probe, "a look", |reading| reading.round == 1);
    assert_eq!((&reading.status, reading.source, reading.gpus.len()), (&Status::Answers, GpuSource::Nvml, 8));
    let (gpu, sample) = (&reading.gpus[3], &reading.samples[3]);
    assert_eq!(
        (gpu.uuid.as_deref(), gpu.pci_bus_id.as_deref()),
        (Some("GPU-0003"), Some("00000000:1B:00.0"))
    );
    assert_eq!((sample.util_pct, sample.temp_c, sample.power_mw), (Some(90), Some(61), Some(640_000)));
    assert_eq!((sample.mem_used_bytes, sample.mem_total_bytes), (Some(70_000 << 20), Some(143_771 << 20)));
    assert_eq!(
        (sample.sm_clock_mhz, sample.mem_clock_mhz, sample.throttle),
        (Some(1755), Some(2600), Some(0x44))
    );
    assert_eq!((sample.ecc_corrected, sample.ecc_uncorrected, sample.recovery), (Some(7), Some(1), Some(2)));
    let rows = Remapped { correctable: 2, uncorrectable: 0, pending: true, failed: false };
    assert_eq!((sample.remapped, reading.samples[2].remapped), (Some(rows), None));
    let held: Vec<_> = sample.procs.iter().flatten().map(|proc| (proc.pid, proc.used_bytes)).collect();
    assert_eq!(held, [(4711, Some(512 << 20)), (4712, Some(1024 << 20))]);
    assert_eq!(sample.power_limit_mw, Some(700_000));
    assert_eq!(sample.traffic, None, "nobody looks at it");

    // From here on a round is at least begun when its number shows, and the next one may be under way.
    let (before, from) = (stub.calls_of(3), probe.latest().round);
    probe.count_traffic(PATIENCE);
    let reading = wait_for(&probe, "three more looks", |reading| reading.round >= from + 3);
    let rounds = (reading.round - from + 1) as usize;
    let calls = stub.calls_of(3) - before;
    assert!(calls <= 9 * rounds, "{calls} calls in {rounds} rounds");
    let once = ["nvmlDeviceGetName", "nvmlDeviceGetUUID", "nvmlDeviceGetPciInfo_v3", "nvmlDeviceGetMigMode"];
    for name in once {
        assert_eq!(stub.calls()[&(name.to_owned(), 3)], 1, "{name}");
    }
}

#[test]
fn a_hung_driver_delays_nobody() {
    Stub::new("gpus 2\n").run("part_hung_driver");
}

#[test]
#[ignore = "a part of another test"]
fn part_hung_driver() {
    let Some(stub) = Stub::of_this_process() else { return };
    let probe = GpuProbe::start();
    wait_for(&probe, "a look", |reading| reading.round >= 1);
    stub.set("gpus 2\nhang 1\n");
    let hangs = ("hangs".to_owned(), -1);
    wait_until("a call that hangs", PATIENCE, || stub.calls().contains_key(&hangs).then_some(()));
    // It hangs until a later line of this very thread: whoever waited for it would wait for ever.
    let hung = probe.latest().round;
    assert_eq!(probe.latest().samples.len(), 2);
    assert_eq!(probe.take_xids(), []);
    stub.set("gpus 2\nutil 1 33\n");
    let reading = wait_for(&probe, "answers again", |reading| reading.round > hung + 1);
    assert_eq!(reading.samples[1].util_pct, Some(33));
}

#[test]
fn a_lost_gpu_is_marked_and_the_others_go_on() {
    Stub::new("gpus 3\nlost 1\n").run("part_lost_gpu");
}

#[test]
#[ignore = "a part of another test"]
fn part_lost_gpu() {
    let Some(stub) = Stub::of_this_process() else { return };
    let probe = GpuProbe::start();
    let lost = |reading: &Reading| reading.samples.iter().map(|sample| sample.lost).collect::<Vec<_>>();
    let reading = wait_for(&probe, "a look", |reading| reading.round >= 1);
    assert_eq!(lost(&reading), [false, true, false], "from the first moment");
    stub.set("gpus 3\nlost 1\nlost 2\nutil 0 12\n");
    let reading = wait_for(&probe, "another is lost", |reading| reading.samples[2].lost);
    assert_eq!((reading.samples[2].util_pct, &reading.gpus[2].name), (None, &Some("Stub GPU".into())));
    let reading = wait_for(&probe, "figures of the first", |reading| reading.samples[0].util_pct == Some(12));
    assert_eq!(lost(&reading), [false, true, true]);
}

#[test]
fn what_a_gpu_does_not_have_is_none_and_asked_once() {
    let names =
        ["PowerUsage", "Temperature", "UtilizationRates", "CurrentClocksThrottleReasons", "MemoryInfo_v2"];
    let lines: Vec<_> = names.iter().map(|name| format!("unsupported 0 nvmlDeviceGet{name}\n")).collect();
    Stub::new(&format!("gpus 1\nmem 0 10 20\n{}", lines.concat())).run("part_unsupported");
}

#[test]
#[ignore = "a part of another test"]
fn part_unsupported() {
    let Some(stub) = Stub::of_this_process() else { return };
    let probe = GpuProbe::start();
    let reading = wait_for(&probe, "some looks", |reading| reading.round >= 3);
    let sample = &reading.samples[0];
    assert_eq!((sample.util_pct, sample.power_mw, sample.temp_c, sample.throttle), (None, None, None, None));
    // An older driver counts memory in another way.
    assert_eq!((sample.mem_used_bytes, sample.sm_clock_mhz), (Some(10 << 20), Some(1755)));
    assert_eq!((sample.remapped, sample.recovery, sample.ecc_corrected), (None, None, None));
    for name in ["nvmlDeviceGetPowerUsage", "nvmlDeviceGetUtilizationRates", "nvmlDeviceGetMemoryInfo_v2"] {
        assert_eq!(stub.calls()[&(name.to_owned(), 0)], 1, "{name}");
    }
}

#[test]
fn a_gpu_that_is_split_shows_its_parts() {
    Stub::new("gpus 1\nmig 0 2\nmem 0 800 8000\nproc 0 77 5 8\n").run("part_mig");
}

#[test]
#[ignore = "a part of another test"]
fn part_mig() {
    let Some(stub) = Stub::of_this_process() else { return };
    let probe = GpuProbe::start();
    let reading = wait_for(&probe, "both parts", |reading| reading.round >= 2);
    let (parts, sample) = (&reading.gpus[0].mig, &reading.samples[0]);
    let names: Vec<_> = parts.iter().map(|part| (part.gpu_instance_id, part.uuid.as_deref())).collect();
    assert_eq!(names, [(Some(7), Some("MIG-0000-0")), (Some(8), Some("MIG-0000-1"))]);
    assert_eq!((sample.util_pct, sample.mem_used_bytes), (None, Some(800 << 20)));
    let used: Vec<_> = sample.mig.iter().map(|part| part.mem_used_bytes).collect();
    assert_eq!(used, [Some(100 << 20), Some(100 << 20)]);
    let held = sample.procs.as_ref().expect("a list");
    assert_eq!((held.len(), held[0].pid, held[0].gpu_instance_id), (1, 77, Some(8)));
    let (before, from) = (stub.calls_of(0), probe.latest().round);
    let reading = wait_for(&probe, "two more looks", |reading| reading.round >= from + 2);
    let rounds = (reading.round - from + 1) as usize;
    assert!(stub.calls_of(0) - before <= 9 * rounds);
}

#[test]
fn xids_are_heard_as_they_come() {
    Stub::new("gpus 2\n").run("part_xids");
}

#[test]
#[ignore = "a part of another test"]
fn part_xids() {
    let Some(stub) = Stub::of_this_process() else { return };
    let probe = GpuProbe::start();
    wait_for(&probe, "a look", |reading| reading.round >= 1);
    // A GPU that hangs keeps nobody from hearing of its end.
    stub.set("gpus 2\nhang 1\nxid 1 1 79\nxid 2 0 31\n");
    let mut heard = Vec::new();
    wait_until("two Xids", PATIENCE, || {
        heard.extend(probe.take_xids());
        (heard.len() >= 2).then_some(())
    });
    assert_eq!(heard, [XidSeen { gpu: Some(1), xid: 79 }, XidSeen { gpu: Some(0), xid: 31 }]);
}

#[test]
fn a_driver_that_does_not_start_says_why() {
    Stub::new("gpus 2\ninit_error 18\n").run("part_no_driver");
}

#[test]
#[ignore = "a part of another test"]
fn part_no_driver() {
    if Stub::of_this_process().is_some() {
        let probe = GpuProbe::start();
        let reading = wait_for(&probe, "a reason", |reading| matches!(reading.status, Status::Absent(_)));
        let Status::Absent(why) = &reading.status else { unreachable!() };
        assert!(why.contains("different versions"), "{why}");
    }
}

/// Two ranks on the GPUs 1 and 0, told by the driver.
fn two_ranks(stub: &Stub, job: &Job, more: &str) -> Vec<i32> {
    let pids = living(&job.wait_for_ranks(2));
    stub.set(&format!("gpus 2\nproc 1 {} 2048\nproc 0 {} 4096\nutil 1 77\n{more}", pids[0], pids[1]));
    pids
}

fn gpu_of(status: &Value, rank: usize) -> &Value {
    &status["ranks"][rank]["gpu"]
}

#[test]
fn ranks_have_gpus_and_a_hung_driver_stops_nothing_else() {
    let (lab, stub) = (Lab::new(), Stub::new("gpus 2\n"));
    let job = stub.start(&lab, &["--nproc-per-node", "2", "sleep", "1000"]);
    let pids = two_ranks(&stub, &job, "throttle 1 0x4\n");
    let status = job.wait_for("both ranks have a GPU", |status| {
        (0..2).all(|rank| gpu_of(status, rank)["source"] == "nvml_pids")
            && gpu_of(status, 0)["util_pct"] == 77
    });
    let (gpu, gib) = (gpu_of(&status, 0), |n: u64| json!(n << 30));
    assert_eq!((&gpu["index"], &gpu["proc_mem_bytes"]), (&json!(1), &gib(2)));
    assert_eq!((&gpu["uuid"], &gpu["throttle"]), (&json!("GPU-0001"), &json!(["power cap"])));
    assert_eq!((&gpu["mem_total_bytes"], &gpu["power_w"]), (&gib(80), &json!(640.0)));
    assert_eq!(gpu_of(&status, 1)["index"], 0);
    assert_eq!(status["gpus"]["leftovers"], json!([]));
    assert_eq!(job.events_of("gpu_ranks").last().expect("an event")["ranks"][0]["pid"], pids[0]);

    // The driver hangs until the end of this test: samples, questions and commands go on.
    stub.set("gpus 2\nhang 0\nhang 1\n");
    job.wait_for("old figures", |status| status["gpus"]["age_s"].as_f64().is_some_and(|age| age > 3.0));
    let status = job.status();
    assert_eq!(gpu_of(&status, 0)["util_pct"], 77, "the last that was told, with its age");
    lab.must(&["restart", &job.id]);
    let after = living(&job.wait_for_ranks(2));
    assert!(after.iter().all(|pid| !pids.contains(pid)));
    let sampled = job.wait_for("figures of the new ranks", |status| status["ranks"][1]["rss_bytes"].is_u64());
    assert!(sampled["gpus"]["age_s"].as_f64() > Some(3.0));
    job.stop();
    assert_eq!(job.wait_for_end()["job"]["state"], "stopped");
}

#[test]
fn a_driver_that_starts_for_ever_keeps_nobody_waiting() {
    let (lab, stub) = (Lab::new(), Stub::new("gpus 2\ninit_ms 600000\n"));
    // The supervisor is ready and answers, long before the driver is.
    let job = stub.start(&lab, &["--nproc-per-node", "1", "sleep", "1000"]);
    let trouble =
        |status: &Value| status["gpus"]["trouble"].as_str().is_some_and(|text| text.contains("starting"));
    let status = job.wait_for("the driver starts", trouble);
    assert_eq!(status["gpus"]["source"], "none");
    // The job does not wait for more than some seconds either.
    assert!(trouble(&job.wait_for_ranks(1)));
    job.stop();
}

/// A process with a rank's variables that no agent started.
fn orphan(lab: &Lab) -> Child {
    let mut command = lab.command("sleep");
    lab.spawn("orphan", command.arg("1000").envs([("TORCHELASTIC_RUN_ID", "old"), ("LOCAL_RANK", "0")]))
}

fn end(mut orphan: Child) {
    orphan.kill().expect("a child to be killed");
    orphan.wait().expect("a child to end");
}

#[test]
fn memory_of_a_dead_job_is_waited_for_and_its_holder_can_be_ended() {
    let lab = Lab::new();
    let mut orphan = orphan(&lab);
    let stub = Stub::new(&format!("gpus 1\nproc 0 {} 3072\n", orphan.id()));
    let job = stub.start(&lab, &["--gpu-wait", "1h", "--nproc-per-node", "1", "sleep", "1000"]);
    let status = job.wait_for("a leftover", |status| status["gpus"]["leftovers"][0]["pid"] == orphan.id());
    let left = &status["gpus"]["leftovers"][0];
    assert_eq!((&left["reason"], &left["command"]), (&json!("dead_job"), &json!("sleep 1000")));
    let note = job.wait_for_event("note", 1);
    let text = note["text"].as_str().expect("a text");
    assert!(text.starts_with("waiting up to 1h 00m for GPU memory: process"), "{text}");
    assert!(text.ends_with("of a job that is over holds 3.0 GiB of GPU 0"), "{text}");
    assert_eq!((&job.status()["job"]["state"], &job.status()["ranks"]), (&json!("starting"), &json!([])));

    let leftovers = job.events_of("gpu_leftovers");
    let start = &leftovers.last().expect("an event")["leftovers"][0]["start"];
    let mut raw = Raw::hello(&job);
    let mut end = |id: u64, start: &Value| {
        let command = json!({"do": "end_leftover", "pid": orphan.id(), "start": start});
        raw.say(&json!({"m": "do", "id": id, "command": command})).expect("a supervisor that listens");
        loop {
            let message = raw.hear().expect("an answer");
            if message["m"] == "reply" && message["id"] == id {
                return message["outcome"].clone();
            }
        }
    };
    let refused = end(1, &json!(start.as_u64().expect("a start") + 1));
    assert!(refused["refused"].is_string(), "another process with that pid: {refused}");
    let done = end(2, start);
    assert!(done["done"].as_str().is_some_and(|text| text.starts_with("SIGTERM sent")), "{done}");
    assert!(!orphan.wait().expect("a status").success());
    job.wait_for_ranks(1);
    assert!(
        job.events_of("note")[1]["text"].as_str().is_some_and(|text| text.starts_with("GPU memory is free"))
    );
    job.wait_for("no leftovers", |status| status["gpus"]["leftovers"] == json!([]));
    job.stop();
}

#[test]
fn the_wait_for_memory_ends() {
    let lab = Lab::new();
    let orphan = orphan(&lab);
    let stub = Stub::new(&format!("gpus 1\nproc 0 {} 3072\n", orphan.id()));
    let job = stub.start(&lab, &["--gpu-wait", "1", "--nproc-per-node", "1", "sleep", "1000"]);
    job.wait_for_ranks(1);
    let notes = job.events_of("note");
    let text = notes.last().and_then(|note| note["text"].as_str()).expect("a text");
    assert!(text.starts_with("started although process"), "{text}");
    job.wait_for("an alert", |status| {
        status["alerts"].as_array().is_some_and(|all| all.iter().any(|alert| alert["kind"] == "gpu_leftover"))
    });
    job.stop();
    end(orphan);
}

#[test]
fn the_embedded_launcher_waits_before_a_restart() {
    let lab = Lab::new();
    let stub = Stub::new("gpus 1\n");
    let words = ["--gpu-wait", "1h", "--max-restarts", "1", "--nproc-per-node", "1", "sleep", "1000"];
    let job = stub.start(&lab, &words);
    let pid = living(&job.wait_for_ranks(1))[0];
    let orphan = orphan(&lab);
    stub.set(&format!("gpus 1\nproc 0 {} 1024\n", orphan.id()));
    kill(pid, Signal::KILL);
    let log = job.dir().join("agent.err");
    let says = |text: &'static str| {
        let log = log.clone();
        wait_until(text, PATIENCE, move || fs::read_to_string(&log).ok()?.contains(text).then_some(()));
    };
    says("waiting up to 1h 00m for GPU memory: process");
    assert_eq!(job.events_of("restart").len(), 0);
    kill(orphan.id() as i32, Signal::KILL);
    stub.set("gpus 1\n");
    says("GPU memory is free after");
    job.wait_for_event("restart", 1);
    job.wait_for_ranks(1);
    job.stop();
    end(orphan);
}

#[test]
fn an_xid_is_an_alert_with_its_meaning() {
    let (lab, stub) = (Lab::new(), Stub::new("gpus 2\n"));
    let job = stub.start(&lab, &["--nproc-per-node", "2", "sleep", "1000"]);
    two_ranks(&stub, &job, "");
    job.wait_for("both ranks have a GPU", |status| (0..2).all(|rank| gpu_of(status, rank).is_object()));
    two_ranks(&stub, &job, "xid 1 1 45\nxid 2 1 79\n");
    let is_xid = |alert: &&Value| alert["kind"] == "xid";
    let status = job.wait_for("an alert", |status| {
        status["alerts"].as_array().is_some_and(|all| all.iter().any(|alert| is_xid(&alert)))
    });
    let alert = status["alerts"].as_array().and_then(|all| all.iter().find(is_xid)).expect("an alert");
    assert_eq!(
        (&alert["rank"], &alert["text"]),
        (&json!(0), &json!("Xid 79 on GPU 1 of r0: the GPU has fallen off the bus"))
    );
    let told: Vec<_> = job.events_of("gpu_xid").iter().map(|event| event["xid"].clone()).collect();
    assert_eq!(told, [json!(45), json!(79)]);
    job.stop();
}

#[test]
fn visible_devices_tell_where_the_driver_does_not() {
    let (lab, stub) = (Lab::new(), Stub::new("gpus 4\n"));
    let words = ["--nproc-per-node", "2", "--virtual-local-rank", "sleep", "1000"];
    let variables = stub.variables().map(|(name, path)| (name, path.display().to_string()));
    let mut env: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    env.push(("CUDA_VISIBLE_DEVICES", "3,2"));
    let job = lab.start_with("gpu", &[&["--launcher", "local", "--no-python"], &words[..]].concat(), &env);
    let status = job.wait_for("both ranks have a GPU", |status| {
        (0..2).all(|rank| gpu_of(status, rank)["source"] == "cuda_visible_devices")
    });
    assert_eq!(
        [gpu_of(&status, 0), gpu_of(&status, 1)].map(|gpu| gpu["index"].clone()),
        [json!(3), json!(2)]
    );
    assert_eq!(gpu_of(&status, 0)["proc_mem_bytes"], Value::Null);
    job.stop();
}

#[test]
fn a_machine_without_gpus_says_so_once() {
    let lab = Lab::new();
    let job = lab.start("none", &["--launcher", "local", "--no-python", "sleep", "1000"]);
    let status = job.wait_for("a reason", |status| status["gpus"]["trouble"].is_string());
    if status["gpus"]["gpus"] == json!([]) {
        assert_eq!((&status["ranks"][0]["gpu"], &status["gpus"]["source"]), (&Value::Null, &json!("none")));
        assert_eq!(job.events_of("gpus").len(), 1);
    }
    job.stop();
}

/// A machine whose driver's library cannot be loaded, and an `nvidia-smi` of our own.
fn without_library(lab: &Lab, smi: &str) -> [(&'static str, String); 2] {
    let (libraries, programs) = (lab.dir().join("lib"), lab.dir().join("bin"));
    fs::create_dir_all(&libraries).expect("a folder");
    fs::create_dir_all(&programs).expect("a folder");
    // What the loader finds first is no library, and it does not look further.
    fs::write(libraries.join("libnvidia-ml.so.1"), "no library").expect("a file");
    let program = programs.join("nvidia-smi");
    fs::write(&program, format!("#!/bin/sh\n{smi}\n")).expect("a file");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("an executable file");
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap_or_default());
    [("LD_LIBRARY_PATH", libraries.display().to_string()), ("PATH", path)]
}

const NO_LIBRARY: &[&str] = &["--launcher", "local", "--no-python", "--nproc-per-node", "1", "sleep", "1000"];

#[test]
fn nvidia_smi_is_asked_where_the_library_cannot_be_loaded() {
    let lab = Lab::new();
    let row =
        "0, GPU-77, NVIDIA H200, 00000000:18:00.0, 143771, 71200, 97, 61, 642.13, 700.00, 1755, 3201, 0x4";
    let pid = lab.path("pid");
    let answers = format!(
        "case \"$1\" in *gpu=*) echo '{row}';; *apps=*) echo \"GPU-77, $(cat {pid}), 512\";; *) echo 'GPU 0: NVIDIA H200';; esac"
    );
    let variables = without_library(&lab, &answers);
    let env: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let job = lab.start_with("smi", NO_LIBRARY, &env);
    let rank = living(&job.wait_for_ranks(1))[0];
    fs::write(&pid, rank.to_string()).expect("a file");
    let status = job.wait_for("the rank has a GPU", |status| gpu_of(status, 0)["source"] == "nvml_pids");
    let gpu = gpu_of(&status, 0);
    assert_eq!((&gpu["uuid"], &gpu["util_pct"]), (&json!("GPU-77"), &json!(97)));
    assert_eq!((&gpu["proc_mem_bytes"], &gpu["throttle"]), (&json!(512 << 20), &json!(["power cap"])));
    assert_eq!(status["gpus"]["source"], "nvidia_smi");
    job.stop();
}

#[test]
fn an_nvidia_smi_that_hangs_is_ended() {
    let lab = Lab::new();
    // Asked for the number of GPUs it answers: only who watches meets the hang.
    let variables = without_library(&lab, "case \"$1\" in -L) exit 0;; esac; exec sleep 31337");
    let env: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let job = lab.start_with("smi", NO_LIBRARY, &env);
    job.wait_for_ranks(1);
    let trouble =
        |status: &Value| status["gpus"]["trouble"].as_str().is_some_and(|text| text.contains("was ended"));
    job.wait_for("a reason", trouble);
    wait_until("the hung one is gone", PATIENCE, || {
        lab.processes("").iter().all(|(_, command)| !command.contains("31337")).then_some(())
    });
    job.stop();
}

/// Prints what a real driver tells, for a machine with a GPU: `cargo test --test e2e -- --ignored real_driver`.
#[test]
#[ignore = "needs a GPU"]
fn real_driver() {
    let probe = GpuProbe::start();
    let reading = wait_for(&probe, "a look at a GPU", |reading| reading.round >= 2);
    assert!(!reading.gpus.is_empty());
    let sample = &reading.samples[0];
    assert!(sample.mem_total_bytes.is_some_and(|bytes| bytes > 1 << 30), "{sample:?}");
    assert!(sample.temp_c.is_some_and(|celsius| (10..120).contains(&celsius)), "{sample:?}");
    probe.count_traffic(PATIENCE);
    let reading = wait_for(&probe, "counters", |reading| reading.samples[0].traffic.is_some());
    println!("{reading:#?}");
}

#[test]
fn an_xid_before_a_ranks_death_is_the_cause_of_it() {
    let (lab, stub) = (Lab::new(), Stub::new("gpus 2\n"));
    let line = "while [ ! -e die$RANK ]; do sleep 0.05; done; exit 7";
    let job = stub.start(&lab, &["--nproc-per-node", "2", "--max-restarts", "0", "sh", "-c", line]);
    two_ranks(&stub, &job, "");
    job.wait_for("both ranks have a GPU", |status| (0..2).all(|rank| gpu_of(status, rank).is_object()));
    two_ranks(&stub, &job, "xid 1 1 79\n");
    job.wait_for_event("gpu_xid", 1);
    lab.touch("die0");
    let cause = job.wait_for_end()["job"]["cause"].clone();
    assert_eq!((&cause["rank"], &cause["kind"]), (&json!(0), &json!("gpu")), "{cause:#}");
    let text = "rank 0 failed with its GPU 1: the GPU has fallen off the bus (Xid 79)";
    assert_eq!(cause["text"], json!(text));
    assert!(cause["evidence"].to_string().contains("Xid 79 on GPU 1 of rank 0"), "{cause:#}");
    let hint = cause["hint"].as_str().unwrap_or_default();
    assert!(hint.starts_with("do not restart on this node"), "{hint}");
}
