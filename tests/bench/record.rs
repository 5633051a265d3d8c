//! What a recording costs: the black box of a job on one node, and opening a recording and going to a moment of it.
//!
//! `cargo bench --bench record`. Asserts nothing.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use elastictop::{
    domain::{event::Event, replay::Keep, time::Stamp},
    supervisor::{
        journal,
        recording::{BOX, BlackBox, Tape},
    },
};
use procfs::process::Process;

#[path = "../support/fleet.rs"]
mod fleet;

use fleet::Fleet;

const RANKS: [u32; 3] = [8, 64, 512];
const SECONDS: u64 = 3600;
/// The box is handed its samples so many seconds at a time, and given time to pack them: it drops what comes faster.
const BATCH: usize = 5;
const PAUSE: Duration = Duration::from_millis(15);
const SEEKS: u64 = 200;

fn main() {
    println!("an hour of samples of one node, one in a second");
    println!(
        "ranks  box: CPU of an hour, MiB/h, lost   recording: MiB, opened in   seek median, p99, longest"
    );
    for ranks in RANKS {
        let dir = tempfile::tempdir().expect("a folder");
        let mut fleet = Fleet::node(0, 1, ranks);
        let mut events: Vec<Event> = Vec::new();
        for second in 0..SECONDS {
            events.extend(fleet.second().into_iter().map(|(_, event)| event));
            events.extend(fleet.gpu_second(second).into_iter().map(|(_, event)| event));
        }
        for (seq, event) in (1..).zip(&mut events) {
            event.seq = seq;
        }
        let (cpu, bytes, lost) = keep(&events, dir.path());
        let file = dir.path().join("recording.jsonl");
        let size = write(&events, &file);
        let began = Instant::now();
        let tape = Tape::read(&file).expect("a recording");
        let opened = began.elapsed();
        let [median, p99, longest] = seek(&tape, &events);
        println!(
            "{ranks:>5}  {cpu:>6.2} s (of a core {:.3} %), {:.1}, {lost}   {:.1}, {opened:.1?}   {median:.1?}, \
             {p99:.1?}, {longest:.1?}",
            cpu / SECONDS as f64 * 100.0,
            mib(bytes),
            mib(size),
        );
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// CPU seconds that it took, bytes on disk, and samples that were lost.
fn keep(events: &[Event], dir: &Path) -> (f64, u64, u64) {
    let before = cpu_seconds();
    let mut kept = BlackBox::open(dir, Keep::default()).expect("a black box");
    for batch in events.chunks(2 * BATCH) {
        kept.keep(batch);
        thread::sleep(PAUSE);
    }
    kept.close();
    let cpu = cpu_seconds() - before;
    let files = fs::read_dir(dir.join(BOX)).expect("the box").flatten();
    let bytes = files.filter_map(|file| Some(file.metadata().ok()?.len())).sum();
    (cpu, bytes, kept.health().lost)
}

/// Bytes of the recording.
fn write(events: &[Event], path: &Path) -> u64 {
    let mut file = BufWriter::new(File::create(path).expect("a file"));
    for event in events {
        file.write_all(&journal::line(event)).and_then(|()| file.write_all(b"\n")).expect("room");
    }
    file.flush().expect("room");
    fs::metadata(path).map_or(0, |meta| meta.len())
}

/// How long it takes to come to a moment: median, the longest of 99 in 100, and the longest.
fn seek(tape: &Tape, events: &[Event]) -> [Duration; 3] {
    let (first, last) = (events[0].at.0, events[events.len() - 1].at.0);
    let mut times: Vec<Duration> = (0..SEEKS)
        .map(|n| {
            let at = Stamp(first + n.wrapping_mul(0x9E37_79B9_7F4A_7C15) % (last - first));
            let began = Instant::now();
            std::hint::black_box(tape.state_at(at));
            began.elapsed()
        })
        .collect();
    times.sort_unstable();
    [times[times.len() / 2], times[times.len() * 99 / 100], times[times.len() - 1]]
}

/// CPU time of this process so far, of threads that ended too.
fn cpu_seconds() -> f64 {
    let stat = Process::myself().and_then(|me| me.stat()).expect("/proc/self/stat");
    (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64
}
