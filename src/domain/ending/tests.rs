//! A script of looks and requests, one a line with its time in seconds, and the signals that follow.

use super::*;

/// `T look AGENT RANKS`, where AGENT and each rank is `R` running, `T` stopped, `Z` dead, `-` gone; `T stop GRACE`,
/// `T now`, `T sweep GRACE`, `T teardown`, `T tick`.
fn run(script: &str) -> Vec<String> {
    let (mut ending, mut out, mut transcript) = (Ending::default(), Vec::new(), Vec::new());
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<_> = line.split(' ').collect();
        let now = Stamp((words[0].parse::<f64>().expect(line) * 1000.0) as u64);
        let state = |letter: char| (letter != '-').then(|| Kernel::from_letter(letter));
        let grace = || Duration::from_secs(words[2].parse().expect(line));
        let input = match words[1] {
            "look" => {
                let ranks = words.get(3).map_or("", |ranks| ranks).chars().enumerate();
                let ranks = ranks.filter_map(|(n, letter)| {
                    let proc = ProcId { pid: n as i32, start: 1 };
                    Some(RankLook { local_rank: n as u32, proc, state: state(letter)? })
                });
                Some(Input::Look(Look {
                    agent: words[2].chars().next().and_then(state),
                    ranks: ranks.collect(),
                }))
            }
            "stop" => Some(Input::Stop { grace: grace() }),
            "sweep" => Some(Input::Sweep { grace: grace() }),
            "now" => Some(Input::StopNow),
            "teardown" => Some(Input::AgentTeardown),
            _ => None,
        };
        match input {
            Some(input) => ending.handle(now, input, &mut out),
            None => ending.on_deadline(now, &mut out),
        }
        if words[1] == "due" {
            transcript.push(format!(
                "due {:?} {:?}",
                ending.phase(),
                ending.deadline().map(|due| due.0 / 1000)
            ));
        }
        for output in out.drain(..) {
            transcript.push(match output {
                Output::Done => "done".into(),
                Output::Signal { target, signal } => match target {
                    Target::Agent => format!("agent {signal}"),
                    Target::Rank(proc) => format!("rank {proc} {signal}"),
                    Target::RankGroup(proc) => format!("group {proc} {signal}"),
                },
            });
        }
    }
    transcript
}

#[test]
fn a_stop_asks_the_agent_wakes_stopped_ranks_and_ends_when_all_are_gone() {
    let script = "
        0 look R RT
        1 stop 10
        1 due
        1.2 look R -R
        1.4 look Z -Z
        1.5 look - --";
    assert_eq!(run(script), ["agent 15", "group 1 18", "due Asked Some(11)", "done"]);
}

#[test]
fn after_the_grace_time_comes_force_until_nobody_is_left() {
    let script = "
        0 look R RR
        1 stop 10
        10 look R RR
        10.9 tick
        11 tick
        11.2 look - RR
        12 tick
        12.1 look - ZZ";
    assert_eq!(
        run(script),
        ["agent 15", "group 0 9", "group 1 9", "agent 9", "group 0 9", "group 1 9", "done"]
    );
}

#[test]
fn orphans_are_asked_themselves_and_once() {
    let script = "
        0 look - RT
        1 stop 5
        2 look - RR
        3 look - -R
        6 tick
        6.1 look - --";
    assert_eq!(run(script), ["group 0 15", "group 1 15", "group 1 18", "group 1 9", "done"]);
    let dies = "0 look R RR\n1 stop 5\n2 look Z RR\n3 look - RR\n4 look - --";
    assert_eq!(run(dies), ["agent 15", "group 0 15", "group 1 15", "done"], "the agent dies in between");
}

#[test]
fn a_second_stop_can_only_be_sooner_and_now_is_now() {
    assert_eq!(
        run("0 look R R\n1 stop 60\n2 stop 5\n2 due\n3 stop 60\n3 due\n4 now\n4 now\n5 look - -"),
        ["agent 15", "due Asked Some(7)", "due Asked Some(7)", "group 0 9", "agent 9", "done"]
    );
}

#[test]
fn a_sweep_takes_what_the_agent_left_and_never_a_job_that_lives() {
    assert_eq!(
        run("0 look Z RR\n1 sweep 2\n3 tick\n4 look - --"),
        ["group 0 15", "group 1 15", "group 0 9", "group 1 9", "done"]
    );
    assert_eq!(run("0 look - --\n1 sweep 2"), ["done"]);
    assert_eq!(run("0 look R RR\n1 sweep 2\n5 tick"), [""; 0]);
}

#[test]
fn while_the_agent_ends_its_ranks_stopped_ones_are_woken_and_its_patience_is_shown() {
    let script = "
        0 look R ZT
        1 teardown
        1 due
        2 look R -T
        3 look R -R
        3.1 look R --
        3.1 due
        4 look R TT
        5 due";
    assert_eq!(
        run(script),
        ["group 1 18", "due Teardown Some(31)", "group 1 18", "due Idle None", "due Idle None"]
    );
    assert_eq!(run("0 look R RR\n1 teardown\n32 tick\n32 due\n33 stop 5"), ["due Teardown None", "agent 15"]);
}

#[test]
fn the_same_look_given_again_wakes_nobody_twice() {
    assert_eq!(
        run("0 look R T\n1 stop 9\n1.1 look R T\n1.9 look R T\n2.1 look R T\n2.2 look R R\n2.3 look R T"),
        ["agent 15", "group 0 18", "group 0 18", "group 0 18"]
    );
}

#[test]
fn stopped_agents_are_woken_too() {
    assert_eq!(run("0 look T R\n1 stop 5"), ["agent 15", "agent 18"]);
}
