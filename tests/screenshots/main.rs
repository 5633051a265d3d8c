//! Writes `screenshots/`: the real program in a real pseudo-terminal, in every size from 40×12 to 200×50.
//!
//! ```text
//! cargo test --test screenshots -- --ignored --nocapture --test-threads=1
//! ```
//!
//! What runs is real, on a machine of its own in namespaces ([`stage`]); only jobs of more ranks than one machine can
//! run are made up ([`fleets`]). torchrun is photographed where there is a Python environment in `.venv`
//! (`python3 tests/env/make_env.py`). Nothing here waits by the clock: a picture is taken when the screen shows what it
//! is of.

mod demo;
#[path = "../support/fleet.rs"]
mod fleet;
mod fleets;
mod gpus;
mod picture;
#[path = "../support/pty.rs"]
mod pty;
mod runs;
mod stage;
mod torchrun;

use stage::{Size, Stage};

const SMALL: Size = (40, 12);
const USUAL: Size = (80, 24);
const WIDE: Size = (120, 40);
const LARGE: Size = (200, 50);
/// For views whose layout changes with the size.
const ALL: [Size; 4] = [SMALL, USUAL, WIDE, LARGE];
const ESC: &str = "\x1b";

/// From the start over a crash to the end, in several themes, and again as a replay.
#[test]
#[ignore = "writes screenshots/"]
fn the_demo() {
    demo::pictures();
}

/// Runs in W&B.
#[test]
#[ignore = "writes screenshots/"]
fn runs_in_wandb() {
    runs::pictures();
}

/// The driver's library of the tests, as no machine that builds this has a GPU.
#[test]
#[ignore = "writes screenshots/"]
fn gpus_of_ranks() {
    gpus::pictures();
}

/// One rank raises, the other fails because of it: the cause is the first.
#[test]
#[ignore = "writes screenshots/"]
fn a_failure() {
    torchrun::failure();
}

/// DistributedDataParallel on gloo.
#[test]
#[ignore = "writes screenshots/"]
fn a_healthy_job() {
    torchrun::healthy();
}

/// A rank that sleeps while the others wait for it.
#[test]
#[ignore = "writes screenshots/"]
fn a_hang() {
    torchrun::hang();
}

/// An elastic job of three nodes.
#[test]
#[ignore = "writes screenshots/"]
fn several_nodes() {
    torchrun::nodes();
}

/// The jobs of a machine, and one that somebody else started.
#[test]
#[ignore = "writes screenshots/"]
fn all_jobs() {
    torchrun::jobs();
}

/// Jobs of many nodes, in all themes.
#[test]
#[ignore = "writes screenshots/"]
fn made_up_fleets() {
    fleets::pictures();
}
