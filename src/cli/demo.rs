//! `elastictop demo`: the main job, with nothing installed but this binary.

use std::{collections::BTreeMap, time::Duration};

use clap::Args;

use super::{
    reach::Target,
    run::{Watch, start, start_quietly},
    screen::{self, ScreenArgs},
};
use crate::{
    domain::launch::Request,
    error::{Error, Result},
};

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Print one line per event instead of opening the screen
    #[arg(long)]
    plain: bool,
    /// Leave the job to itself
    #[arg(long, conflicts_with = "plain")]
    detach: bool,
    /// Number of ranks
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    ranks: u32,
    /// Steps to train
    #[arg(long, default_value_t = 200)]
    steps: u64,
    /// Shortest time of a step in milliseconds
    #[arg(long, default_value_t = 100)]
    step_ms: u64,
    /// Step at which one rank fails, once; 0 means never
    #[arg(long, default_value_t = 60)]
    crash_step: u64,
}

fn request(ranks: u32, words: Vec<String>) -> Result<Request> {
    let program = std::env::current_exe()
        .map_err(|error| Error::environment(format!("cannot find the elastictop binary: {error}")))?;
    Ok(Request {
        local: true,
        flags: BTreeMap::from([
            ("nproc-per-node".to_owned(), ranks.to_string()),
            ("no-python".to_owned(), String::new()),
        ]),
        script: program.to_string_lossy().into_owned(),
        args: words,
        env: std::env::vars().collect(),
        ..Request::default()
    })
}

/// A demo that trains until it is ended, for a drill. With `zombie` its agent does not see that ranks die.
pub fn start_for_drill(zombie: bool, hang_after_s: u64) -> Result<Target> {
    let words = ["__trainer", "--steps=100000000", "--step-ms=100"].map(str::to_owned);
    let mut request = request(4, words.to_vec())?;
    request.hang_after = Some(Duration::from_secs(hang_after_s));
    request.env.remove("ELASTICTOP_DRILL");
    if zombie {
        request.env.insert("ELASTICTOP_DRILL".into(), "zombie".into());
    }
    start_quietly(&request, "drill")
}

/// `elastictop demo`.
pub fn demo(args: &DemoArgs, screen: &ScreenArgs) -> Result<u8> {
    let mut words = vec![
        "__trainer".to_owned(),
        format!("--steps={}", args.steps),
        format!("--step-ms={}", args.step_ms),
        "--metrics".to_owned(),
    ];
    if args.crash_step > 0 {
        words.push(format!("--crash-rank={}", args.ranks / 2));
        words.push(format!("--crash-step={}", args.crash_step));
    }
    let request = request(args.ranks, words)?;
    let watch = if args.detach {
        Watch::Detach
    } else if args.plain || !screen::is_possible() {
        Watch::Plain
    } else {
        Watch::Screen
    };
    start(&request, None, Some("demo"), watch, screen, None)
}
