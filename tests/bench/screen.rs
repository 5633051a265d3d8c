//! What a viewer costs: taking in one second of events, drawing, and from a key to the bytes for the terminal.
//!
//! `cargo bench --bench screen`. Prints bytes per frame and the size of the process, too; asserts nothing.

use std::{fs, hint::black_box, time::Duration};

use criterion::{BatchSize, Criterion};
use elastictop::domain::time::Stamp;
use elastictop::tui::{App, Msg, Picture, draw, encode};
use ratatui::{
    Terminal,
    backend::TestBackend,
    buffer::Buffer,
    crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
};

#[path = "../support/fleet.rs"]
mod fleet;

use fleet::{Fleet, options};

const SIZE: (u16, u16) = (200, 50);
/// Nodes of eight ranks.
const NODES: [u32; 4] = [1, 8, 64, 512];

fn take(app: &mut App, now: Stamp, messages: Vec<Msg>) {
    // As the screen's loop does: the clock is set, and ranks are looked at once, with all that came.
    app.update(Msg::Clock(now));
    for msg in messages {
        app.update(msg);
    }
    app.settle();
}

fn key(app: &mut App, code: KeyCode) {
    app.update(Msg::Key(KeyEvent::new(code, KeyModifiers::NONE)));
}

struct Glass(Terminal<TestBackend>);

impl Glass {
    fn new() -> Glass {
        Glass(Terminal::new(TestBackend::new(SIZE.0, SIZE.1)).expect("a terminal without errors"))
    }

    fn draw(&mut self, app: &App) -> Buffer {
        self.0.draw(|frame| draw(app, frame)).expect("a terminal without errors").buffer.clone()
    }
}

fn times(criterion: &mut Criterion) {
    for nodes in NODES {
        let mut fleet = Fleet::troubled(nodes, 8);
        let ranks = nodes * 8;
        let mut app = fleet.app(&options(), SIZE);
        let mut glass = Glass::new();
        criterion.bench_function(&format!("apply one second of {ranks} ranks"), |bench| {
            bench.iter_batched(
                || {
                    let events = fleet.second();
                    (fleet.now(), Fleet::messages(events))
                },
                |(now, messages)| take(&mut app, now, messages),
                BatchSize::LargeInput,
            );
        });
        criterion.bench_function(&format!("draw {ranks} ranks at 200x50"), |bench| {
            bench.iter(|| black_box(glass.draw(&app)));
        });
        let mut shown = Picture::from(&glass.draw(&app));
        let mut down = false;
        criterion.bench_function(&format!("key to bytes with {ranks} ranks"), |bench| {
            bench.iter(|| {
                down = !down;
                key(&mut app, if down { KeyCode::Right } else { KeyCode::Left });
                let next = glass.draw(&app);
                black_box(encode(&mut shown, &next))
            });
        });
    }
}

fn bytes() {
    println!("\nbytes per frame at 200x50, true colour");
    for nodes in NODES {
        let mut fleet = Fleet::healthy(nodes, 8);
        let mut app = fleet.app(&options(), SIZE);
        let mut glass = Glass::new();
        let empty = Buffer::empty(ratatui::layout::Rect::new(0, 0, SIZE.0, SIZE.1));
        let first = glass.draw(&app);
        let messages = Fleet::messages(fleet.second());
        take(&mut app, fleet.now(), messages);
        let second = glass.draw(&app);
        let ranks = nodes * 8;
        fleet.slow = (0..ranks.div_ceil(100)).map(|n| (n * 97 % ranks, u64::from(n % 4))).collect();
        let messages = Fleet::messages(fleet.second());
        take(&mut app, fleet.now(), messages);
        let third = glass.draw(&app);
        let mut shown = Picture::from(&empty);
        let [whole, quiet, few, none] =
            [first, second, third.clone(), third].map(|next| encode(&mut shown, &next).bytes.len());
        println!(
            "{ranks:>5} ranks: whole {whole:>6}, a quiet second {quiet:>5}, one rank in a hundred changes {few:>5}, \
             nothing new {none}",
        );
    }
}

/// Resident memory of this process with one viewer of 4096 ranks in it, each with a GPU that was seen for four hours:
/// all rings are full then.
fn memory() {
    let resident = || {
        let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
        pages * 4 / 1024
    };
    let before = resident();
    let mut fleet = Fleet::troubled(512, 8);
    let made_up = resident();
    let mut app = fleet.app(&options(), SIZE);
    let mut glass = Glass::new();
    for _ in 0..10 {
        let messages = Fleet::messages(fleet.second());
        take(&mut app, fleet.now(), messages);
        black_box(glass.draw(&app));
    }
    let without = resident();
    take(&mut app, fleet.now(), Fleet::messages(fleet.gpus()));
    let minutes = (0..240).map(|minute| minute * 60);
    // The last 20 minutes by ten seconds, the last two by the second.
    let late = (13_200..14_280).step_by(10).chain(14_280..14_400);
    let mut seconds: Vec<u64> = minutes.chain(late).collect();
    seconds.sort_unstable();
    for second in seconds {
        let now = fleet.now() + Duration::from_secs(second);
        take(&mut app, now, Fleet::messages(fleet.gpu_second(second)));
    }
    black_box(glass.draw(&app));
    println!(
        "\nmemory with 4096 ranks: {} MiB, with a GPU each for four hours {} MiB; the made-up job itself {} MiB",
        without - made_up,
        resident() - made_up,
        made_up - before
    );
}

fn main() {
    memory();
    bytes();
    let criterion =
        Criterion::default().measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_secs(1));
    times(&mut criterion.configure_from_args());
}
