//! The rules by which a group of ranks on one node lives: a pure machine.
//!
//! A rank that fails takes the others with it, politely first; a group that failed is started again while the
//! budget lasts; a rank that leaves early with 0 is done; a signal to the launcher goes on to all ranks and
//! ends the job. The runner carries the [`Effect`]s out and tells what came of them as [`Input`]s.

use std::time::Duration;

use crate::domain::exit::Exit;

const SIGTERM: i32 = 15;

/// What a group is told once.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Number of ranks.
    pub ranks: u32,
    /// Starts after the first that failures may cost.
    pub max_restarts: u32,
    /// How long ranks may take to end when asked, before SIGKILL.
    pub grace: Duration,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A rank's process exists.
    Spawned {
        /// Which rank.
        rank: u32,
        /// Its process id.
        pid: i32,
    },
    /// A rank's process could not be made. No more of this start will be tried.
    NotSpawned {
        /// Which rank.
        rank: u32,
    },
    /// Ranks that ended, all that one look found, the first cause first as far as it can be told.
    Exited(Vec<(u32, Exit)>),
    /// Somebody sent the launcher a signal that ends it.
    Signal(i32),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Make all ranks, with this restart count.
    Start {
        /// Restarts spent so far.
        restart: u32,
    },
    /// A rank failed and is not one of those that were asked to end.
    Failed {
        /// Which rank.
        rank: u32,
        /// Its process id.
        pid: i32,
        /// How it ended.
        exit: Exit,
    },
    /// Send a rank's process group this signal, and SIGCONT so that a stopped one can act on it.
    Close {
        /// Process id of the rank, which leads the group.
        pid: i32,
        /// The signal.
        signal: i32,
    },
    /// The grace is over: send a rank's process group SIGKILL.
    Kill {
        /// Process id of the rank, which leads the group.
        pid: i32,
        /// The signal that it did not end on.
        after: i32,
    },
    /// All ranks are gone and will be started again.
    Restarting {
        /// Restarts left before this one.
        left: u32,
    },
    /// All ranks are gone and the job is over.
    Finish(Outcome),
}

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All ranks ended with 0.
    Succeeded,
    /// A rank failed, and no restart was left or possible.
    Failed,
    /// A signal to the launcher.
    Signalled(i32),
}

/// One rank as the group knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rank {
    /// Not made yet.
    Absent,
    /// Running, as far as is known.
    Alive {
        /// Process id.
        pid: i32,
    },
    /// Ended.
    Ended {
        /// Process id.
        pid: i32,
        /// How.
        exit: Exit,
        /// Position in the order of ends, from 0.
        order: u32,
    },
}

impl Rank {
    fn alive(self) -> Option<i32> {
        match self {
            Rank::Alive { pid } => Some(pid),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    /// Ranks were asked to end; `until` is `None` once they were killed.
    Closing {
        signal: i32,
        until: Option<Duration>,
        then: Then,
    },
    Over,
}

/// What follows when the last rank is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Restart,
    Finish(Outcome),
}

/// The machine. Times are durations since any fixed moment.
#[derive(Debug)]
pub struct Group {
    config: Config,
    restart: u32,
    ranks: Vec<Rank>,
    ended: u32,
    phase: Phase,
}

impl Group {
    /// A group that starts now.
    pub fn new(config: Config, out: &mut Vec<Effect>) -> Group {
        let mut group = Group { config, restart: 0, ranks: Vec::new(), ended: 0, phase: Phase::Over };
        group.start(out);
        group
    }

    /// The ranks of the newest start, by local rank.
    pub fn ranks(&self) -> &[Rank] {
        &self.ranks
    }

    /// Restarts spent so far: `TORCHELASTIC_RESTART_COUNT` of the newest start.
    pub fn restart(&self) -> u32 {
        self.restart
    }

    /// When [`Group::on_deadline`] wants to be called.
    pub fn deadline(&self) -> Option<Duration> {
        match self.phase {
            Phase::Closing { until, .. } => until,
            _ => None,
        }
    }

    /// Takes one input.
    pub fn handle(&mut self, now: Duration, input: Input, out: &mut Vec<Effect>) {
        match input {
            Input::Spawned { rank, pid } => {
                self.ranks[rank as usize] = Rank::Alive { pid };
            }
            Input::NotSpawned { .. } => {
                if self.phase == Phase::Running {
                    self.close(now, SIGTERM, Then::Finish(Outcome::Failed), out);
                }
            }
            Input::Exited(ends) => {
                let mut failed = false;
                for (rank, exit) in ends {
                    let Some(pid) = self.ranks[rank as usize].alive() else { continue };
                    self.ranks[rank as usize] = Rank::Ended { pid, exit, order: self.ended };
                    self.ended += 1;
                    if self.phase == Phase::Running && !exit.is_success() {
                        failed = true;
                        out.push(Effect::Failed { rank, pid, exit });
                    }
                }
                if failed {
                    let left = self.restart < self.config.max_restarts;
                    let then = if left { Then::Restart } else { Then::Finish(Outcome::Failed) };
                    self.close(now, SIGTERM, then, out);
                }
            }
            Input::Signal(signal) => {
                if self.phase != Phase::Over {
                    self.close(now, signal, Then::Finish(Outcome::Signalled(signal)), out);
                }
            }
        }
        self.settle(out);
    }

    /// The deadline has come: what is still alive is killed.
    pub fn on_deadline(&mut self, now: Duration, out: &mut Vec<Effect>) {
        if let Phase::Closing { until, signal, .. } = &mut self.phase
            && until.is_some_and(|until| until <= now)
        {
            *until = None;
            let after = *signal;
            out.extend(
                self.ranks.iter().filter_map(|rank| rank.alive()).map(|pid| Effect::Kill { pid, after }),
            );
        }
    }

    fn start(&mut self, out: &mut Vec<Effect>) {
        self.ranks = vec![Rank::Absent; self.config.ranks as usize];
        self.ended = 0;
        self.phase = Phase::Running;
        out.push(Effect::Start { restart: self.restart });
    }

    /// Asks all that are alive to end. A second signal is passed on and gets no more time than the first.
    fn close(&mut self, now: Duration, signal: i32, then: Then, out: &mut Vec<Effect>) {
        let until = match self.phase {
            Phase::Closing { until, then: Then::Finish(Outcome::Signalled(_)), .. } => until,
            // Already killed: there is nothing more to wait for.
            Phase::Closing { until: None, .. } => None,
            _ => Some(now + self.config.grace),
        };
        self.phase = Phase::Closing { signal, until, then };
        out.extend(
            self.ranks.iter().filter_map(|rank| rank.alive()).map(|pid| Effect::Close { pid, signal }),
        );
    }

    /// Goes on when the last rank is gone.
    fn settle(&mut self, out: &mut Vec<Effect>) {
        if self.ranks.iter().any(|rank| rank.alive().is_some()) {
            return;
        }
        match self.phase {
            Phase::Running if self.ranks.iter().all(|rank| matches!(rank, Rank::Ended { .. })) => {
                self.phase = Phase::Over;
                out.push(Effect::Finish(Outcome::Succeeded));
            }
            Phase::Closing { then: Then::Restart, .. } => {
                out.push(Effect::Restarting { left: self.config.max_restarts - self.restart });
                self.restart += 1;
                self.start(out);
            }
            Phase::Closing { then: Then::Finish(outcome), .. } => {
                self.phase = Phase::Over;
                out.push(Effect::Finish(outcome));
            }
            Phase::Running | Phase::Over => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: Exit = Exit::Code(0);
    const TERMED: Exit = Exit::Signal(SIGTERM);

    /// Runs a script, line by line, and writes down what the machine wants.
    struct Script {
        group: Group,
        out: Vec<Effect>,
        now: Duration,
        log: Vec<String>,
        next_pid: i32,
    }

    impl Script {
        fn new(ranks: u32, max_restarts: u32) -> Script {
            let mut out = Vec::new();
            let group = Group::new(Config { ranks, max_restarts, grace: Duration::from_secs(30) }, &mut out);
            let mut script = Script { group, out, now: Duration::ZERO, log: Vec::new(), next_pid: 10 };
            script.drain();
            script
        }

        fn drain(&mut self) {
            for effect in std::mem::take(&mut self.out) {
                self.log.push(match effect {
                    Effect::Start { restart } => format!("start {restart}"),
                    Effect::Failed { rank, pid, exit } => format!("failed {rank} {pid} {}", exit.to_python()),
                    Effect::Close { pid, signal } => format!("close {pid} {signal}"),
                    Effect::Kill { pid, after } => format!("kill {pid} {after}"),
                    Effect::Restarting { left } => format!("restarting {left}"),
                    Effect::Finish(outcome) => format!("finish {outcome:?}"),
                });
            }
        }

        fn at(&mut self, seconds: u64) -> &mut Script {
            self.now = Duration::from_secs(seconds);
            self.group.on_deadline(self.now, &mut self.out);
            self.drain();
            self
        }

        fn put(&mut self, input: Input) -> &mut Script {
            self.group.handle(self.now, input, &mut self.out);
            self.drain();
            self
        }

        /// All ranks, with pids that go on counting from 10.
        fn spawn(&mut self) -> &mut Script {
            for rank in 0..self.group.config.ranks {
                let pid = self.next_pid;
                self.next_pid += 1;
                self.put(Input::Spawned { rank, pid });
            }
            self
        }

        fn exit(&mut self, rank: u32, exit: Exit) -> &mut Script {
            self.put(Input::Exited(vec![(rank, exit)]))
        }

        fn says(&mut self, expected: &str) -> &mut Script {
            assert_eq!(std::mem::take(&mut self.log).join("; "), expected);
            self
        }
    }

    #[test]
    fn all_ranks_end_well() {
        let mut script = Script::new(2, 3);
        script.spawn().says("start 0").exit(1, OK).says("").exit(0, OK).says("finish Succeeded");
        assert_eq!(script.group.deadline(), None);
    }

    #[test]
    fn a_failure_ends_the_others_and_costs_a_restart() {
        let mut script = Script::new(3, 1);
        script.spawn().exit(1, Exit::Signal(9)).says("start 0; failed 1 11 -9; close 10 15; close 12 15");
        script.exit(0, TERMED).exit(2, OK).says("restarting 1; start 1");
        script.spawn().exit(0, Exit::Code(3)).says("failed 0 13 3; close 14 15; close 15 15");
        script.exit(1, TERMED).exit(2, TERMED).says("finish Failed");
        let orders = script.group.ranks().iter().map(|rank| match rank {
            Rank::Ended { order, .. } => *order,
            _ => panic!("still there"),
        });
        assert_eq!(orders.collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn one_look_can_find_several_failures() {
        let mut script = Script::new(3, 0);
        script.spawn().says("start 0").put(Input::Exited(vec![
            (2, Exit::Code(1)),
            (0, OK),
            (1, Exit::Code(1)),
        ]));
        script.says("failed 2 12 1; failed 1 11 1; finish Failed");
    }

    #[test]
    fn a_rank_that_leaves_early_is_done() {
        let mut script = Script::new(2, 0);
        script.spawn().exit(0, OK).says("start 0").at(9999).says("").exit(1, Exit::Code(1));
        script.says("failed 1 11 1; finish Failed");
    }

    #[test]
    fn what_does_not_end_is_killed_when_the_grace_is_over() {
        let mut script = Script::new(2, 1);
        script.at(5).spawn().exit(0, Exit::Code(1)).says("start 0; failed 0 10 1; close 11 15");
        assert_eq!(script.group.deadline(), Some(Duration::from_secs(35)));
        script.at(34).says("").at(35).says("kill 11 15").at(99).says("");
        assert_eq!(script.group.deadline(), None);
        script.exit(1, Exit::Signal(9)).says("restarting 1; start 1");
    }

    #[test]
    fn a_signal_goes_on_to_all_and_ends_the_job() {
        let mut script = Script::new(2, 5);
        script.spawn().put(Input::Signal(2)).says("start 0; close 10 2; close 11 2");
        script.exit(0, Exit::Signal(2)).at(30).says("kill 11 2").exit(1, Exit::Signal(9));
        script.says("finish Signalled(2)");
        script.put(Input::Signal(15)).says("");
    }

    #[test]
    fn a_second_signal_is_passed_on_without_more_time() {
        let mut script = Script::new(1, 5);
        script
            .spawn()
            .put(Input::Signal(2))
            .at(20)
            .put(Input::Signal(15))
            .says("start 0; close 10 2; close 10 15");
        script.at(30).says("kill 10 15").put(Input::Signal(15)).says("close 10 15").exit(0, Exit::Signal(9));
        script.says("finish Signalled(15)");
    }

    #[test]
    fn a_signal_while_a_failed_group_closes_calls_the_restart_off() {
        let mut script = Script::new(2, 5);
        script.spawn().exit(0, Exit::Code(1)).says("start 0; failed 0 10 1; close 11 15");
        script.at(10).put(Input::Signal(15)).says("close 11 15");
        assert_eq!(script.group.deadline(), Some(Duration::from_secs(40)), "the grace of the signal");
        script.exit(1, TERMED).says("finish Signalled(15)");
    }

    #[test]
    fn a_rank_that_cannot_be_made_ends_the_job() {
        let mut script = Script::new(3, 5);
        script.put(Input::Spawned { rank: 0, pid: 10 }).put(Input::NotSpawned { rank: 1 });
        script.says("start 0; close 10 15").exit(0, TERMED).says("finish Failed");
        Script::new(1, 5).put(Input::NotSpawned { rank: 0 }).says("start 0; finish Failed");
    }

    proptest::proptest! {
        /// Whatever happens, ranks are only signalled while they live, the budget holds, and there is one end.
        #[test]
        fn every_story_has_one_end(
            ranks in 1u32..5,
            max_restarts in 0u32..4,
            story in proptest::collection::vec((0u8..8, 0u32..5, 0u64..40), 0..80),
        ) {
            let mut out = Vec::new();
            let config = Config { ranks, max_restarts, grace: Duration::from_secs(30) };
            let mut group = Group::new(config, &mut out);
            let (mut now, mut pid, mut starts, mut ends) = (Duration::ZERO, 0, 0, 0);
            // After the story, each rank that is left ends by itself.
            let rest = (0..ranks * (max_restarts + 1)).map(|nth| (0, nth % ranks, 0));
            for (what, rank, seconds) in story.into_iter().chain(rest) {
                while !out.is_empty() {
                    for effect in std::mem::take(&mut out) {
                        assert_eq!(ends, 0, "{effect:?} after the end");
                        match effect {
                            Effect::Start { restart } => {
                                assert_eq!(restart, starts);
                                starts += 1;
                                for rank in 0..ranks {
                                    pid += 1;
                                    group.handle(now, Input::Spawned { rank, pid }, &mut out);
                                }
                            }
                            Effect::Close { pid, .. } | Effect::Kill { pid, .. } => {
                                assert!(group.ranks().contains(&Rank::Alive { pid }), "{pid} is gone");
                            }
                            Effect::Finish(_) => ends += 1,
                            Effect::Failed { .. } | Effect::Restarting { .. } => {}
                        }
                    }
                }
                now += Duration::from_secs(seconds);
                let exit = [Exit::Code(0), Exit::Code(1), Exit::Signal(9)][usize::from(what % 3)];
                match what {
                    0..=5 if rank < ranks => group.handle(now, Input::Exited(vec![(rank, exit)]), &mut out),
                    6 => group.handle(now, Input::Signal(15), &mut out),
                    _ => group.on_deadline(now, &mut out),
                }
            }
            assert!(starts <= max_restarts + 1);
            ends += out.iter().filter(|effect| matches!(effect, Effect::Finish(_))).count();
            assert_eq!(ends, 1);
        }
    }
}
