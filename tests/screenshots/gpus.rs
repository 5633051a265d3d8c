//! GPUs, told by the driver's library of the tests.

use std::{
    fs,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use crate::{
    ALL, LARGE, Stage, USUAL, WIDE,
    demo::steps,
    stage::{Screen, root},
};

pub fn pictures() {
    let Some(stage) = Stage::new() else { return };
    let made = Command::new("cc")
        .args(["-O1", "-shared", "-fPIC", "-o"])
        .arg(stage.folder().join("libnvidia-ml.so.1"))
        .arg(root().join("tests/e2e/stub.c"))
        .status();
    if !made.is_ok_and(|status| status.success()) {
        return println!("no C compiler: GPUs were not photographed");
    }
    let stop = AtomicBool::new(false);
    figures(&stage, 0, &[]);
    let env = [("LD_LIBRARY_PATH", "/home/ada"), ("STUB_NVML", "/home/ada/script")];
    let job = "./elastictop demo --steps=100000 --step-ms=50 --crash-step=0";
    let mut screen = stage.open_with(job, LARGE, &env);
    screen.until("all ranks", |text| steps(text).len() == 4);
    let pids = pids(&stage);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let begin = Instant::now();
            while !stop.load(Ordering::Relaxed) {
                figures(&stage, begin.elapsed().as_secs(), &pids);
                std::thread::sleep(Duration::from_millis(500));
            }
        });
        // A picture that fails must end the thread too.
        let taken = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| take(screen)));
        stop.store(true, Ordering::Relaxed);
        taken.unwrap_or_else(|why| std::panic::resume_unwind(why));
    });
}

/// The ranks, as the driver would name them.
fn pids(stage: &Stage) -> Vec<u64> {
    stage.run("./elastictop status --json >status.json");
    let status = fs::read(stage.folder().join("status.json")).unwrap();
    let status: serde_json::Value = serde_json::from_slice(&status).unwrap();
    status["ranks"].as_array().unwrap().iter().map(|rank| rank["pid"].as_u64().unwrap()).collect()
}

fn take(mut screen: Screen) {
    screen.until("the heat", |text| text.contains("88") && text.contains("up 5"));
    screen.until("half of its history", |text| text.contains("up 1m 2"));
    screen.until("the heat again", |text| text.contains("88") && text.contains("up 1m 4"));
    screen.take("gpus", &ALL);
    screen.press(":goto 2\r\r");
    screen.until("the page of a rank", |text| text.contains("rank 2") && text.contains("a second"));
    screen.take("rank-gpu", &[USUAL, WIDE, LARGE]);
    screen.press("T");
    screen.until("the GPU", |text| text.contains("hardware slowdown, software thermal"));
    screen.take("gpu", &[WIDE]);
    screen.close();
}

/// Writes what the driver says in this second: four GPUs at work, of which one gets hot.
fn figures(stage: &Stage, second: u64, pids: &[u64]) {
    let one = |gpu: u64| {
        let (wave, hot) = ((second * (gpu + 3) + gpu) % 7, gpu == 2 && second % 40 > 15);
        format!(
            "util {gpu} {}\nmem {gpu} {} 143771\ntemp {gpu} {}\npower {gpu} {}\nclocks {gpu} {} 3201\nthrottle {gpu} {}\n",
            92 + wave,
            61_000 + second * 40 + wave * 300,
            if hot { 88 } else { 58 + gpu },
            if hot { 455 } else { 630 + wave * 5 },
            if hot { 1110 } else { 1980 },
            if hot { "40" } else { "4" },
        )
    };
    let mut all: String = (0..4).map(one).collect();
    for (gpu, pid) in pids.iter().enumerate() {
        all += &format!("proc {gpu} {pid} {}\n", 60_000 + second * 40);
    }
    let script = stage.folder().join("script");
    let new = script.with_extension("new");
    fs::write(&new, format!("gpus 4\n{all}")).and_then(|()| fs::rename(&new, &script)).unwrap();
}
