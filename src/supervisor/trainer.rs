//! The trainer of the demo, `elastictop __trainer`: small, and real.
//!
//! Every rank fits the weights of one linear model to samples of its own, averages the gradients with the other
//! ranks over TCP (through rank 0, at `MASTER_ADDR:MASTER_PORT`), and takes the same step. Rank 0 keeps
//! `$ELASTICTOP_JOB_DIR/demo-checkpoint.json`, from which a restarted group goes on. Only the pace is made up:
//! a step that is done early waits for `--step-ms`. The crash that `--crash-rank` asks for says that it is one.
//!
//! Each step writes a line of JSON to stdout, for people there are few lines on stderr, and once a second a
//! datagram goes to `$ELASTICTOP_BEAT`, as from a Python rank. Signals are left alone: SIGTERM ends it at once.

use std::{
    ffi::OsString,
    fmt, fs,
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use clap::Parser;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::shim::{Beat, write_atomically};

mod drill;

/// Trains a small model, to have something to watch.
#[derive(Clone, Debug, Parser)]
#[command(name = "elastictop __trainer", disable_version_flag = true)]
pub struct Args {
    /// Steps to take in all, those before a restart included.
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub steps: u64,
    /// Shortest time that a step takes, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 100)]
    pub step_ms: u64,
    /// Rank that fails once, in the first start of the group.
    #[arg(long, value_name = "R", requires = "crash_step")]
    pub crash_rank: Option<u32>,
    /// Step at which it fails.
    #[arg(long, value_name = "K", requires = "crash_rank")]
    pub crash_step: Option<u64>,
    /// Report more numbers than step, loss and speed.
    #[arg(long)]
    pub metrics: bool,
}

/// Weights of the model, its constant term included.
const WEIGHTS: usize = 9;
/// Samples that a rank looks at in a step.
const BATCH: u32 = 64;
const LEARNING_RATE: f64 = 0.05;
/// Steps between two checkpoints.
const CHECKPOINT_EVERY: u64 = 5;

/// What ends a rank, worded as Python words what it raises, so that one rule reads both.
#[derive(Debug)]
struct Raised(String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RuntimeError: {}", self.0)
    }
}

/// Runs the trainer with the arguments after `__trainer`: 0 when all steps are done, 1 when something failed.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let args = match Args::try_parse_from(std::iter::once("elastictop __trainer".into()).chain(args)) {
        Ok(args) => args,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let me = Me::from_environment();
    let progress = Arc::new(Mutex::new(Progress::default()));
    let heart = Heart::start(me, Arc::clone(&progress));
    // Held until the error is on disk: the others must not hear of it before.
    let mut peers = Peers::Alone;
    let result = train(&args, me, &mut peers, &progress);
    if let Err(raised) = &result {
        lock(&progress).error = Some(raised.to_string());
        tell(me, &raised.to_string());
        leave_error_file(raised);
    }
    if let Some(heart) = heart {
        heart.stop();
    }
    if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The place of this rank; a process that nobody launched is a world of its own.
#[derive(Clone, Copy, Debug)]
struct Me {
    rank: u32,
    local_rank: u32,
    world_size: u32,
    restart_count: u32,
}

impl Me {
    fn from_environment() -> Me {
        let number =
            |name, missing| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(missing);
        Me {
            rank: number("RANK", 0),
            local_rank: number("LOCAL_RANK", 0),
            world_size: if std::env::var_os("RANK").is_some() { number("WORLD_SIZE", 1) } else { 1 },
            restart_count: number("TORCHELASTIC_RESTART_COUNT", 0),
        }
    }
}

fn train(args: &Args, me: Me, peers: &mut Peers, progress: &Mutex<Progress>) -> Result<(), Raised> {
    let checkpoint =
        std::env::var_os("ELASTICTOP_JOB_DIR").map(|job| Path::new(&job).join("demo-checkpoint.json"));
    *peers = Peers::meet(me)?;
    lock(progress).met = true;

    // Rank 0 knows where to go on; the others hear it.
    let mut state = [0.0; WEIGHTS + 1];
    if me.rank == 0
        && let Some(path) = &checkpoint
        && let Some(found) = Checkpoint::read(path, me)
    {
        state[0] = found.step as f64;
        state[1..].copy_from_slice(&found.weights);
    }
    collective(progress, || peers.broadcast(&mut state))?;
    let done = state[0] as u64;
    let mut weights: [f64; WEIGHTS] = std::array::from_fn(|index| state[index + 1]);
    if done > 0 {
        tell(me, &format!("resumed at step {done}"));
        lock(progress).finish_step(done);
    } else {
        tell(me, &format!("training {} steps on {} ranks", args.steps, me.world_size));
    }

    let orders = drill::folder();
    for step in done + 1..=args.steps {
        let began = Instant::now();
        if let Some(folder) = &orders {
            drill::obey(folder, progress)?;
        }
        let crashes = args.crash_rank == Some(me.rank) && args.crash_step == Some(step);
        if crashes && me.restart_count == 0 {
            return Err(Raised(format!("injected failure at step {step} (demo)")));
        }

        // The gradient of the loss, and the loss itself, averaged over all ranks.
        let mut sums = batch_gradient(&weights, u64::from(me.rank), step);
        // Before the ranks meet, as if the work took that long: who came early would stay early else, and wait.
        thread::sleep(Duration::from_millis(args.step_ms).saturating_sub(began.elapsed()));
        collective(progress, || peers.all_reduce(&mut sums))?;
        for sum in &mut sums {
            *sum /= f64::from(me.world_size);
        }
        let (loss, gradient) = (sums[WEIGHTS], &sums[..WEIGHTS]);
        for (weight, slope) in weights.iter_mut().zip(gradient) {
            *weight -= LEARNING_RATE * slope;
        }

        lock(progress).finish_step(step);
        let speed = f64::from(BATCH) / began.elapsed().as_secs_f64().max(1e-9);
        let mut more = String::new();
        if args.metrics {
            let norm = gradient.iter().map(|slope| slope * slope).sum::<f64>().sqrt();
            more = format!(r#","grad_norm":{norm:.6},"lr":{LEARNING_RATE}"#);
        }
        let rank = me.rank;
        let line =
            format!(r#"{{"step":{step},"loss":{loss:.6},"samples_per_s":{speed:.1},"rank":{rank}{more}}}"#)
                + "\n";
        // Nobody reading is no reason to stop.
        let _ = io::stdout().write_all(line.as_bytes());

        if me.rank == 0
            && (step.is_multiple_of(CHECKPOINT_EVERY) || step == args.steps)
            && let Some(path) = &checkpoint
        {
            let saved = Checkpoint { v: 1, step, weights: weights.to_vec() };
            if let Err(error) = write_atomically(path, &serde_json::to_vec(&saved).unwrap_or_default()) {
                tell(me, &format!("cannot save a checkpoint to {}: {error}", path.display()));
            }
        }
    }
    tell(me, &format!("done after {} steps", args.steps));
    Ok(())
}

/// One line for people, on stderr.
fn tell(me: Me, text: &str) {
    let _ = io::stderr().write_all(format!("[rank{}]: {text}\n", me.rank).as_bytes());
}

/// Leaves `error.json` where the launcher wants it, in torchrun's shape.
fn leave_error_file(raised: &Raised) {
    let Some(path) = std::env::var_os("TORCHELASTIC_ERROR_FILE").filter(|path| !path.is_empty()) else {
        return;
    };
    let text = raised.to_string();
    let extra = json!({ "py_callstack": text, "timestamp": (epoch_seconds() as u64).to_string() });
    let whole = json!({ "message": { "message": text, "extraInfo": extra } });
    let _ = write_atomically(&PathBuf::from(path), whole.to_string().as_bytes());
}

/// Where training can go on.
#[derive(Debug, Serialize, Deserialize)]
struct Checkpoint {
    v: u32,
    step: u64,
    weights: Vec<f64>,
}

impl Checkpoint {
    /// The last checkpoint, if there is one that makes sense.
    fn read(path: &Path, me: Me) -> Option<Checkpoint> {
        let found = match fs::read(path) {
            Ok(bytes) => serde_json::from_slice::<Checkpoint>(&bytes).map_err(|error| error.to_string()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => Err(error.to_string()),
        };
        let found = found.and_then(|found| {
            let fits = found.v == 1 && found.weights.len() == WEIGHTS;
            if fits { Ok(found) } else { Err("it is of another model".into()) }
        });
        found
            .map_err(|error| tell(me, &format!("cannot use {}: {error}; starting over", path.display())))
            .ok()
    }
}

/// Random numbers: splitmix64. Good enough to make samples, and the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Between -1 and 1.
    fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }
}

/// The gradient of the mean squared error over this rank's samples of this step, and the error itself last.
///
/// The samples follow from rank and step, so that a resumed run sees what the first one would have seen.
fn batch_gradient(weights: &[f64; WEIGHTS], rank: u64, step: u64) -> [f64; WEIGHTS + 1] {
    let mut random = Random((rank << 40) ^ step);
    random.0 = random.next();
    let mut sums = [0.0; WEIGHTS + 1];
    for _ in 0..BATCH {
        let mut inputs: [f64; WEIGHTS] = std::array::from_fn(|_| random.uniform());
        inputs[WEIGHTS - 1] = 1.0;
        // What is to be found: the weights 1, -2, 3, … and a little noise.
        let target: f64 = (1..).zip(inputs).map(|(nth, x)| f64::from(nth) * sign(nth) * x).sum();
        let target = target + 0.1 * random.uniform();
        let error = weights.iter().zip(inputs).map(|(weight, x)| weight * x).sum::<f64>() - target;
        for (sum, x) in sums.iter_mut().zip(inputs) {
            *sum += 2.0 * error * x;
        }
        sums[WEIGHTS] += error * error;
    }
    sums.map(|sum| sum / f64::from(BATCH))
}

fn sign(nth: i32) -> f64 {
    if nth % 2 == 0 { -1.0 } else { 1.0 }
}

/// The way to the other ranks. Rank 0 adds up and hands out.
enum Peers {
    Alone,
    Hub(Vec<(u32, TcpStream)>),
    Spoke(TcpStream),
}

/// What a rank says first, before its number.
const HELLO: [u8; 4] = *b"etr1";

impl Peers {
    /// Waits until all ranks are there.
    fn meet(me: Me) -> Result<Peers, Raised> {
        if me.world_size <= 1 {
            return Ok(Peers::Alone);
        }
        let address = std::env::var("MASTER_ADDR").unwrap_or_else(|_| "localhost".into());
        let port: u16 = std::env::var("MASTER_PORT")
            .ok()
            .and_then(|port| port.parse().ok())
            .ok_or_else(|| Raised("MASTER_PORT is not set to a port".into()))?;
        if me.rank == 0 {
            let listener = TcpListener::bind((address.as_str(), port))
                .map_err(|error| Raised(format!("cannot listen on {address}:{port}: {error}")))?;
            Peers::gather(&listener, me.world_size)
        } else {
            Peers::join(&address, port, me.rank)
        }
    }

    fn gather(listener: &TcpListener, world_size: u32) -> Result<Peers, Raised> {
        let mut peers: Vec<(u32, TcpStream)> = Vec::new();
        while peers.len() + 1 < world_size as usize {
            let (mut stream, _) =
                listener.accept().map_err(|error| Raised(format!("cannot accept a rank: {error}")))?;
            // Strangers that say something else, or nothing, are sent away.
            let mut hello = [0; 8];
            let heard = stream
                .set_read_timeout(Some(Duration::from_secs(5)))
                .and_then(|()| stream.read_exact(&mut hello))
                .and_then(|()| stream.set_read_timeout(None))
                .and_then(|()| stream.set_nodelay(true));
            let [a, b, c, d, number @ ..] = hello;
            let rank = u32::from_le_bytes(number);
            let known = peers.iter().any(|(other, _)| *other == rank);
            if heard.is_ok() && [a, b, c, d] == HELLO && (1..world_size).contains(&rank) && !known {
                peers.push((rank, stream));
            }
        }
        // Sums of floating point numbers depend on the order.
        peers.sort_by_key(|(rank, _)| *rank);
        Ok(Peers::Hub(peers))
    }

    fn join(address: &str, port: u16, rank: u32) -> Result<Peers, Raised> {
        let began = Instant::now();
        loop {
            match TcpStream::connect((address, port)) {
                Ok(mut stream) => {
                    let mut hello = HELLO.to_vec();
                    hello.extend(rank.to_le_bytes());
                    stream
                        .set_nodelay(true)
                        .and_then(|()| stream.write_all(&hello))
                        .map_err(lost(0, None))?;
                    return Ok(Peers::Spoke(stream));
                }
                Err(error) if began.elapsed() > Duration::from_secs(30) => {
                    return Err(Raised(format!("cannot reach rank 0 at {address}:{port}: {error}")));
                }
                Err(_) => thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// Afterwards all ranks have what rank 0 had.
    fn broadcast(&mut self, values: &mut [f64]) -> Result<(), Raised> {
        match self {
            Peers::Alone => Ok(()),
            Peers::Hub(peers) => peers.iter_mut().try_for_each(|(rank, stream)| send(*rank, stream, values)),
            Peers::Spoke(stream) => receive(0, stream, values),
        }
    }

    /// Afterwards all ranks have the sums over all ranks.
    fn all_reduce(&mut self, values: &mut [f64]) -> Result<(), Raised> {
        match self {
            Peers::Alone => return Ok(()),
            Peers::Hub(peers) => {
                let mut theirs = vec![0.0; values.len()];
                for (rank, stream) in peers {
                    receive(*rank, stream, &mut theirs)?;
                    values.iter_mut().zip(&theirs).for_each(|(mine, other)| *mine += other);
                }
            }
            Peers::Spoke(stream) => send(0, stream, values)?,
        }
        self.broadcast(values)
    }
}

fn send(rank: u32, stream: &mut TcpStream, values: &[f64]) -> Result<(), Raised> {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let address = stream.peer_addr().ok();
    stream.write_all(&bytes).map_err(lost(rank, address))
}

fn receive(rank: u32, stream: &mut TcpStream, values: &mut [f64]) -> Result<(), Raised> {
    let mut bytes = vec![0; values.len() * 8];
    let address = stream.peer_addr().ok();
    stream.read_exact(&mut bytes).map_err(lost(rank, address))?;
    for (value, bytes) in values.iter_mut().zip(bytes.chunks_exact(8)) {
        *value = f64::from_le_bytes(std::array::from_fn(|index| bytes[index]));
    }
    Ok(())
}

/// A connection broke, in the form that marks a failure as a consequence of another one.
fn lost(rank: u32, address: Option<std::net::SocketAddr>) -> impl FnOnce(io::Error) -> Raised {
    move |error| {
        let address =
            address.map_or("[?]:0".into(), |address| format!("[{}]:{}", address.ip(), address.port()));
        let why = match error.kind() {
            io::ErrorKind::UnexpectedEof => "it left".into(),
            _ => error.to_string(),
        };
        Raised(format!("Connection closed by peer {address} (rank {rank}: {why})"))
    }
}

/// What the heart tells of.
#[derive(Debug, Default)]
struct Progress {
    /// Whether all ranks have met.
    met: bool,
    step: Option<u64>,
    step_at: Option<f64>,
    step_seq: Option<u64>,
    /// Collectives entered and left.
    entered: u64,
    left: u64,
    error: Option<String>,
}

impl Progress {
    fn finish_step(&mut self, step: u64) {
        self.step = Some(step);
        self.step_seq = Some(self.entered);
        self.step_at = Some(epoch_seconds());
    }
}

fn lock(progress: &Mutex<Progress>) -> MutexGuard<'_, Progress> {
    progress.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts a collective around the work.
fn collective(progress: &Mutex<Progress>, work: impl FnOnce() -> Result<(), Raised>) -> Result<(), Raised> {
    lock(progress).entered += 1;
    work()?;
    lock(progress).left += 1;
    Ok(())
}

/// The thread that beats once a second.
struct Heart {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Heart {
    const PERIOD: Duration = Duration::from_secs(1);
    /// Share of the period by which beats vary.
    const JITTER: f64 = 0.8;
    /// Its multiples fill an interval most evenly.
    const GOLDEN: f64 = 0.618_033_988_749_895;

    /// `None` when nobody listens.
    fn start(me: Me, progress: Arc<Mutex<Progress>>) -> Option<Heart> {
        let path = std::env::var_os("ELASTICTOP_BEAT").filter(|path| !path.is_empty())?;
        let beat = Beat::new(&path).ok()?;
        let (stop, stopped) = channel();
        let work = move || {
            let send = |kind, n, late: f64| {
                let datagram = datagram(me, &lock(&progress), kind, n, late);
                // Nobody there, or too busy: the next one may arrive.
                let _ = beat.send(datagram.to_string().as_bytes());
            };
            send("hello", 0, 0.0);
            // At odd moments: beats in step with the training would always see the same.
            let phase = |n: u64| (f64::from(std::process::id()) + n as f64) * Heart::GOLDEN % 1.0;
            for n in 1.. {
                let slept = Instant::now();
                let wait = Heart::PERIOD.mul_f64(1.0 + Heart::JITTER * (phase(n) - phase(n - 1)));
                if stopped.recv_timeout(wait) != Err(RecvTimeoutError::Timeout) {
                    send("bye", n, 0.0);
                    return;
                }
                send("beat", n, slept.elapsed().saturating_sub(wait).as_secs_f64());
            }
        };
        let thread = thread::Builder::new().name("heart".into()).spawn(work).ok()?;
        Some(Heart { stop, thread })
    }

    /// Says goodbye.
    fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.thread.join();
    }
}

fn datagram(me: Me, progress: &Progress, kind: &str, n: u64, late: f64) -> serde_json::Value {
    let group = json!({
        "name": "0",
        "desc": "default_pg",
        "backend": "tcp",
        "size": me.world_size,
        "rank": me.rank,
        "enqueued": progress.entered,
        "started": progress.entered,
        "completed": progress.left,
    });
    json!({
        "v": 1,
        "kind": kind,
        "pid": std::process::id(),
        "at": epoch_seconds(),
        "n": n,
        "rank": me.rank,
        "local_rank": me.local_rank,
        "world_size": me.world_size,
        "restart_count": me.restart_count,
        "step": progress.step,
        "step_at": progress.step_at,
        "step_seq": progress.step_seq,
        "step_source": progress.step.map(|_| "log"),
        "late": late,
        "groups": if progress.met { vec![group] } else { Vec::new() },
        "error": progress.error,
    })
}

fn epoch_seconds() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "sums of few small numbers are exact")]
mod tests {
    use super::*;

    #[test]
    fn the_loss_falls_towards_the_noise() {
        let mut weights = [0.0; WEIGHTS];
        let losses: Vec<f64> = (1..=300)
            .map(|step| {
                let sums = batch_gradient(&weights, 3, step);
                weights.iter_mut().zip(sums).for_each(|(weight, slope)| *weight -= LEARNING_RATE * slope);
                sums[WEIGHTS]
            })
            .collect();
        assert!(losses[0] > 50.0 && losses[299] < 0.5, "{} then {}", losses[0], losses[299]);
        assert_ne!(batch_gradient(&weights, 0, 1), batch_gradient(&weights, 1, 1), "each rank has its own");
    }

    #[test]
    fn ranks_sum_up_what_each_has() {
        let listener = TcpListener::bind(("localhost", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let spokes: Vec<_> = (1..4)
            .map(|rank| {
                thread::spawn(move || {
                    let mut values = [f64::from(rank), 1.0];
                    Peers::join("localhost", port, rank).unwrap().all_reduce(&mut values).unwrap();
                    values
                })
            })
            .collect();
        drop(TcpStream::connect(("localhost", port)).unwrap());
        let mut values = [0.5, 1.0];
        Peers::gather(&listener, 4).unwrap().all_reduce(&mut values).unwrap();
        assert_eq!(values, [6.5, 4.0]);
        assert!(spokes.into_iter().all(|spoke| spoke.join().unwrap() == values));
    }

    #[test]
    fn a_peer_that_is_gone_is_told_as_a_consequence() {
        let listener = TcpListener::bind(("localhost", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let spoke = thread::spawn(move || drop(Peers::join("localhost", port, 1).unwrap()));
        let error = Peers::gather(&listener, 2).unwrap().all_reduce(&mut [1.0]).unwrap_err().to_string();
        spoke.join().unwrap();
        assert!(error.starts_with("RuntimeError: Connection closed by peer ["), "{error}");
        assert!(error.contains("(rank 1:"), "{error}");
    }
}
