//! A script of looks and keys, one a line with its time in seconds, and what the watchdog wants.

use super::*;

/// `T Z` all dead · `T z` one of two dead · `T R` none dead · `T -` no ranks · `T N` all dead, other pids ·
/// `T Z+MS` all dead and the agent has used MS of CPU since the last line · `T Zf+MS` the same, in a futex ·
/// `T Z?` CPU not known · `T ZT` agent stopped · `T ZX` agent dead · `T keep` · `T tick` nothing but time.
fn run(mut zombies: Zombies, script: &str) -> Vec<String> {
    let (mut out, mut transcript, mut cpu) = (Vec::new(), Vec::new(), 0);
    for word in script.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        let (time, what) = word.split_once(' ').expect(word);
        let now = Stamp((time.parse::<f64>().expect(word) * 1000.0) as u64);
        zombies.on_deadline(now, &mut out);
        let (what, used) = what.split_once('+').unwrap_or((what, "0"));
        cpu += used.parse::<u64>().expect(word) * 1_000_000;
        let rank = |pid, state| (ProcId { pid, start: 1 }, state);
        let dead = vec![rank(1, Kernel::Dead), rank(2, Kernel::Dead)];
        let mut look =
            Look { ranks: dead, agent: Kernel::Alive, agent_cpu_ns: Some(cpu), agent_in_futex: false };
        match what {
            "z" => look.ranks[0].1 = Kernel::Alive,
            "R" => look.ranks.iter_mut().for_each(|rank| rank.1 = Kernel::Alive),
            "-" => look.ranks.clear(),
            "N" => look.ranks.iter_mut().for_each(|rank| rank.0.pid += 10),
            "Zf" => look.agent_in_futex = true,
            "Z?" => look.agent_cpu_ns = None,
            "ZT" => look.agent = Kernel::Stopped,
            "ZX" => look.agent = Kernel::Dead,
            "Z" | "keep" | "tick" => {}
            _ => panic!("{word}"),
        }
        match what {
            "keep" => zombies.handle(now, Input::Keep, &mut out),
            "tick" => {}
            _ => zombies.handle(now, Input::Look(look), &mut out),
        }
        transcript.extend(out.drain(..).map(|output| {
            let seconds = |stamp: Stamp| stamp.0 as f64 / 1000.0;
            match output {
                Output::Suspect { since, acts_at: Some(at) } => {
                    format!("{time} suspect since {} acts at {}", seconds(since), seconds(at))
                }
                Output::Suspect { since, acts_at: None } => format!("{time} kept since {}", seconds(since)),
                Output::Cleared => format!("{time} cleared"),
                Output::EndAgent { signal } => format!("{time} end {signal}"),
            }
        }));
    }
    transcript
}

fn default(script: &str) -> Vec<String> {
    run(Zombies::new(Duration::from_millis(100)), script)
}

const QUIET: [&str; 0] = [];

#[test]
fn the_deadlock_is_counted_down_and_ended_within_five_seconds() {
    assert_eq!(
        default("0 R, 1 Z, 2 Z, 3 Z, 4 Z, 5 Z, 5.9 tick, 6 tick, 7 Z, 9 Z, 11 tick, 12 Z, 20 Z"),
        ["3 suspect since 1 acts at 6", "6 end 15", "11 end 9"]
    );
    assert_eq!(
        default("1 Z, 2 Z, 3 Z, 6 tick, 6.4 ZX, 7 -"),
        ["3 suspect since 1 acts at 6", "6 end 15", "6.4 cleared"]
    );
}

#[test]
fn ordinary_zombies_raise_no_alarm() {
    assert_eq!(default("0 R, 1 Z, 1.2 N, 2.2 N, 3 R, 9 R"), QUIET, "a restart of all");
    assert_eq!(default("0 R, 1 z, 2 z, 3 z, 9 z"), QUIET, "one of two");
    assert_eq!(default("1 Z"), QUIET, "one look, and then nothing");
    assert_eq!(default("1 -, 2 -, 5 -"), QUIET, "no ranks at all");
    assert_eq!(default("1 Z, 4.5 Z, 8 Z, 11.5 Z"), QUIET, "looks too far apart");
}

#[test]
fn an_agent_that_works_is_left_alone() {
    assert_eq!(default("1 Z, 2 Z+200, 3 Z+200, 4 Z+200, 5 Z+200, 9 Z"), QUIET);
    assert_eq!(default("1 Z, 2 Z+15, 3 Z+15"), ["3 suspect since 1 acts at 6"], "helper threads");
    assert_eq!(
        default("1 Z, 2 Zf+300, 3 Zf+300"),
        ["3 suspect since 1 acts at 6"],
        "waits for a lock all the same"
    );
    assert_eq!(default("1 Z?, 2 Z?, 3 Z?, 4 Z?"), QUIET, "not known");
    assert_eq!(default("1 ZT, 2 ZT, 3 ZT, 4 ZT"), QUIET, "stopped");
    assert_eq!(
        default("1 Z, 2 Z, 3 Z, 4 Z+900, 6 tick"),
        ["3 suspect since 1 acts at 6", "4 cleared"],
        "it woke up during the countdown"
    );
}

#[test]
fn a_slow_agent_gets_twice_its_interval() {
    let zombies = Zombies::new(Duration::from_secs(5));
    let script = "0 Z, 2 Z, 4 Z, 6 Z, 8 Z, 10 Z, 12 Z, 13 tick";
    assert_eq!(run(zombies, script), ["10 suspect since 0 acts at 13", "13 end 15"]);
}

#[test]
fn a_user_can_keep_the_job_until_its_zombies_are_gone() {
    assert_eq!(
        default("1 Z, 2 Z, 3 Z, 4 keep, 5 Z, 6 Z, 60 Z, 61 R, 70 Z, 71 Z, 72 Z"),
        ["3 suspect since 1 acts at 6", "4 kept since 1", "61 cleared", "72 suspect since 70 acts at 75"]
    );
    assert_eq!(default("1 keep, 2 Z"), QUIET, "nothing to keep");
}

#[test]
fn time_in_which_nobody_looked_does_not_count() {
    assert_eq!(
        default("1 Z, 2 Z, 3 Z, 3600 tick, 3600 Z, 3601 Z, 3602 Z"),
        ["3 suspect since 1 acts at 6", "3600 cleared", "3602 suspect since 3600 acts at 3605"]
    );
}
