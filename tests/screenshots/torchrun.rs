//! Real torchrun, with torch on gloo.

use crate::{ALL, LARGE, Stage, USUAL, WIDE, demo::steps, stage::PYTHON};

/// One rank raises, the other fails because of it: the cause is the first.
pub fn failure() {
    let Some(stage) = Stage::with_torch() else { return };
    let run = format!("./elastictop run --python={PYTHON} --nproc-per-node=2 --max-restarts=0");
    let mut screen = stage.open(&format!("{run} raise_then_peer.py --record"), LARGE);
    screen.until("the end", |text| text.contains("✖ failed") && text.contains("bad batch"));
    screen.take("failed", &[USUAL, WIDE]);
    screen.go("4/ended\r", "/ended: ");
    screen.take("events-found", &[USUAL]);
    screen.close();
}

/// DistributedDataParallel.
pub fn healthy() {
    let Some(stage) = Stage::with_torch() else { return };
    let run = format!("./elastictop run --python={PYTHON} --nproc-per-node=4");
    let mut screen = stage.open(&format!("{run} train_ddp.py --steps=100000 --step-ms=50"), LARGE);
    screen.until("four ranks at step 40", |text| steps(text).iter().filter(|step| **step >= 40).count() == 4);
    screen.take("torchrun", &[USUAL, WIDE]);
    screen.press("\r");
    screen.until("the page of a rank", |text| text.contains("a second") && text.contains("\"loss\""));
    screen.press("tts");
    screen.until("its stack", |text| text.contains("MainThread") || text.contains("(train_ddp.py:"));
    screen.take("rank-stack", &[WIDE]);
    screen.go("tt", "enqueued");
    screen.take("rank-collectives", &[WIDE]);
    screen.press("\x1b");
    stage.run("kill -STOP $(pgrep -f '[_]_supervise')");
    screen.go("", "has not answered for");
    screen.take("silent", &[USUAL, WIDE]);
    stage.run("kill -CONT $(pgrep -f '[_]_supervise')");
    screen.close();
}

/// A rank that sleeps while the others wait for it.
pub fn hang() {
    let Some(stage) = Stage::with_torch() else { return };
    let run = format!("./elastictop run --python={PYTHON} --nproc-per-node=4 --hang-after=5");
    let mut screen = stage.open(&format!("{run} hang.py --rank=2 --step=60 --step-ms=100"), LARGE);
    screen.go("", "why it hangs");
    screen.take("hang-alert", &[USUAL, WIDE]);
    screen.go("L", "×4");
    screen.take("logs-folded", &[USUAL]);
    screen.go("1H", "why the job does not move on");
    screen.go("s", "×");
    screen.take("hang", &ALL);
    screen.leave("\x1b", "why the job does not move on");
    screen.go("s", "×");
    screen.take("stacks", &[USUAL, WIDE]);
    screen.close();
    let mut screen = stage.open("./elastictop attach --theme=default-light", LARGE);
    screen.go("", "why it hangs");
    screen.go("H", "why the job does not move on");
    screen.go("s", "×");
    screen.take("light-hang", &[WIDE]);
    screen.close();
}

/// An elastic job of three nodes, each with a torchrun and a supervisor of its own. They are one machine with three
/// names and three folders here.
pub fn nodes() {
    let Some(stage) = Stage::with_torch() else { return };
    let agent = format!(
        "--python={PYTHON} --name=train --detach --nnodes=1:3 --nproc-per-node=2 --rdzv-backend=c10d \
         --rdzv-endpoint=localhost:29400 --rdzv-id=llama --local-addr=localhost \
         --rdzv-conf=last_call_timeout=1,keep_alive_interval=1"
    );
    for node in ["n01", "n02", "n03"] {
        let is_host = u8::from(node == "n01");
        stage.run(&format!(
            "ELASTICTOP_DIR=/home/ada/{node} unshare -u sh -c 'hostname {node}; exec ./elastictop run \
             {agent},is_host={is_host} train_gloo.py --steps=100000 --step-ms=100'"
        ));
    }
    let via = "env ELASTICTOP_DIR=/home/ada/{host} ./elastictop proxy {job}";
    let attach = format!("hostname login; ./elastictop attach llama --nodes='n[01-03]' --via='{via}'");
    let mut screen = stage.open(&format!("unshare -u sh -c {}", shell_words::quote(&attach)), LARGE);
    screen.until("six ranks at step 40", |text| {
        let steps = steps(text);
        steps.len() == 6 && steps.iter().all(|step| *step >= 40)
    });
    screen.take("nodes", &ALL);
    screen.go("\r", "clock");
    screen.take("nodes-node", &[WIDE]);
    screen.leave("\x1b", "clock");
    // A node leaves; the others go on without it.
    stage.run("ELASTICTOP_DIR=/home/ada/n03 ./elastictop stop");
    screen.press("3");
    screen.until("some steps after that", |text| text.contains("recomputed") && text.contains("up 5"));
    screen.take("nodes-timeline", &[WIDE]);
    screen.go("1", "RANK");
    // Silent as if its machine were cut off.
    stage.run(
        "for pid in $(pgrep -f '^./elastictop proxy'); do grep -qz DIR=/home/ada/n02 /proc/$pid/environ && \
         kill -STOP $pid; done; true",
    );
    screen.go("", " silent ");
    screen.take("nodes-silent", &[USUAL]);
    screen.close();
}

/// The list of jobs: running ones, one that is over, and one that somebody else started; and that one, read-only.
pub fn jobs() {
    let Some(stage) = Stage::with_torch() else { return };
    stage.run("./elastictop demo --detach --steps=100000 --crash-step=0");
    stage.run("./elastictop run --launcher=local --name=broken --max-restarts=0 --detach --no-python false");
    stage.run(
        "./elastictop run --launcher=local --name=sweep --nproc-per-node=2 --detach --no-python sleep 1000",
    );
    let foreign = format!(
        "{PYTHON} -m torch.distributed.run --nproc-per-node=2 --log-dir=logs --redirects=3 train_ddp.py \
         --steps=100000 --step-ms=100"
    );
    stage.run(&format!("setsid {foreign} >/dev/null 2>&1 </dev/null & echo $! >pid"));
    let mut list = stage.open("./elastictop", LARGE);
    list.until("the list", |text| {
        let row = |name: &str| text.lines().find(|line| line.contains(name)).unwrap_or_default();
        let foreign = row("pid-").split_whitespace().any(|word| word == "2");
        row("sweep-").contains("running") && row("broken-").contains("failed") && foreign
    });
    list.take("jobs", &ALL);
    list.go("?", "nothing happens to any job");
    list.take("jobs-help", &[USUAL]);
    list.close();
    let mut list = stage.open("./elastictop --theme=default-light", LARGE);
    list.go("", "broken-");
    list.take("light-jobs", &[USUAL]);
    list.close();
    let mut screen = stage.open("./elastictop attach --pid=$(cat pid)", LARGE);
    screen.until("steps", |text| {
        text.contains("read-only") && steps(text).iter().filter(|step| **step >= 20).count() == 2
    });
    screen.take("read-only", &[USUAL, WIDE]);
    screen.close();
}
