//! How stories are written.
//!
//! `job [restarts=3] [nproc=2] [grace=10] [end_orphans] [beats] [wandb=WRITER]` starts a job at time 0, `observe [agent=P]` looks at
//! a foreign one. Then one input a line, with its time in seconds:
//!
//! * `T spawned P`, `T not-spawned TEXT`, `T agent-gone EXIT`, `T adopt`
//! * `T seen RANK PID [restart=N] [world=N] [local=N] [lr=N] [group=N] [agent=P]
//!   [start=TICKS]`, RANK as `r0`, or `?` where nobody
//!   tells; `T died PID EXIT`, `T gone PID`; EXIT is a code, a signal as `-9`, or `?`
//! * `T look AGENT PID=S…` with S as the kernel's letter and `-` for an agent that is gone; `T sample …` the same
//! * `T agent TEXT` a log line of the agent, `T start-line PID RANK restart=N`, `T end-line PID EXIT`
//! * `T mark PID TEXT`, `T wrote PID LINES [STEP] [TEXT]`, `T error-file PID TEXT`, `T oom N`
//! * `T beat PID [r0] [step=N] [source=S] [groups=N]`
//! * `T ask VIEWER set RUN_MODE|- RANK_SCOPE|-`
//! * `T ask VIEWER stop|stop-now|restart|keep|unknown`, `T ask VIEWER signal RANK|all N`, `T ask VIEWER stacks RANK|all`, `T signal-error TEXT`
//! * `T routed RUN_MODE RANK_SCOPE`, `T run ID STATE [rows=N]`, `T stop-button RUN`, `T forwarded`: the forwarder's
//! * `T storage LOST [TEXT]`, `T drained`, `T tick`
//!
//! What is due before a line happens before it. Signals to ranks are carried out at once.

use std::collections::BTreeMap;

use super::*;
use crate::{
    domain::{
        agent_line::{self, AgentLine, EndState, Ended, Started},
        beat::GroupStatus,
        event::Reason,
        evidence::Tracebacks,
        forward::{Mode, RunProgress, Sources},
        gpu::join::RankGpus,
        id::JobId,
        resolve::{Base, Facts, Given, RankScope, RunMode, Topology},
        sample::{Place, RankSample, Sighting},
    },
    probe::{finder::RankLook, proc::Look},
    supervisor::{forward::Told, hub::ViewerId},
};

/// When stories begin.
pub const T0: Stamp = Stamp(1_795_167_000_000);

pub fn job_info(launcher: Launcher, max_restarts: u32, nproc: u32) -> JobInfo {
    JobInfo {
        id: JobId("train-x3k9".into()),
        name: "train".into(),
        launcher,
        node: "node-1".into(),
        command: vec!["train.py".into()],
        cwd: "/home/ada".into(),
        max_restarts: Some(max_restarts),
        local_world_size: Some(nproc),
        nodes: (1, 1),
        rdzv_id: None,
        uid: 1000,
    }
}

pub fn proc(pid: i32) -> ProcId {
    ProcId { pid, start: 1 }
}

pub fn look(kernel: Kernel) -> Look {
    Look { kernel, cpu_ns: Some(0), rss_bytes: Some(1 << 20), threads: Some(4), ppid: 100 }
}

/// What becomes of metrics: one node, `writer` writes.
fn wandb_settings(writer: &str, ranks: u32) -> Settings {
    Settings {
        mode: Mode::Offline,
        why_not_online: None,
        writer: writer.parse().expect("a writer"),
        sources: Sources::default(),
        stop_button: true,
        facts: Facts {
            run_mode: RunMode::Auto,
            rank_scope: RankScope::Global,
            topology: Topology::equal(1, ranks).expect("ranks"),
            base: Base::Whole(Given::new("--wandb-base", "exp")),
            parent_run: None,
            run_id: None,
            group: None,
            name: None,
            tags: Vec::new(),
            notes: None,
            job_type: None,
            sweep: None,
            project: None,
            entity: None,
            base_url: None,
            app_url: None,
        },
    }
}

#[derive(Default)]
pub struct Story {
    core: Option<Core>,
    folded: State,
    sightings: BTreeMap<i32, Sighting>,
    now: Stamp,
    agent: i32,
    signal_error: Option<String>,
}

impl Story {
    pub fn line(&mut self, line: &str) -> Vec<String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let mut told = Vec::new();
        let mut out = Out::default();
        let has = |name: &str| words.contains(&name);
        match words[0] {
            "job" => {
                let rules = Rules {
                    monitor_interval_ms: 100,
                    stop_grace_ms: u64::from(number(&words, "grace").unwrap_or(10)) * 1000,
                    end_orphans: has("end_orphans"),
                    expects_beats: has("beats"),
                    ..Rules::default()
                };
                let (restarts, nproc) = (number(&words, "restarts"), number(&words, "nproc"));
                let info = job_info(Launcher::Torchrun, restarts.unwrap_or(3), nproc.unwrap_or(2));
                self.now = T0;
                let writer = words.iter().find_map(|word| word.strip_prefix("wandb="));
                let wandb = writer.map(|writer| wandb_settings(writer, nproc.unwrap_or(2)));
                self.core = Some(Core::new(T0, info, rules, wandb, &mut out));
                self.take(out, &mut told);
                return told;
            }
            "observe" => {
                self.now = T0;
                self.agent = number(&words, "agent").map_or(0, |pid| pid as i32);
                let agent = (self.agent > 0).then(|| proc(self.agent));
                let info = job_info(Launcher::Foreign, 3, 2);
                self.core =
                    Some(Core::observe((None, T0), info, (agent, None), has("stale_store"), &mut out));
                self.take(out, &mut told);
                return told;
            }
            _ => {}
        }
        let at = T0 + Duration::from_millis((words[0].parse::<f64>().expect(line) * 1000.0).round() as u64);
        while let Some(due) = self.core().deadline().filter(|due| *due < at) {
            let due = due.max(self.now);
            self.give(due, Input::Tick, &mut told);
            assert!(
                self.core().deadline().is_none_or(|next| next > due),
                "a deadline stays in the past: {line}"
            );
        }
        self.now = at;
        if words[1] == "adopt" {
            let fact = Fact::Adopted { supervisor_pid: 9, last_seen: None, text: "taken over".into() };
            let rules = self.core().rules;
            self.core = Some(Core::adopt(at, self.folded.clone(), rules, fact, &mut out));
            self.take(out, &mut told);
        } else if words[1] == "signal-error" {
            self.signal_error = Some(words[2..].join(" "));
        } else {
            let input = self.input(line, &words);
            self.give(at, input, &mut told);
        }
        told
    }

    fn core(&self) -> &Core {
        self.core.as_ref().expect("a job")
    }

    fn give(&mut self, at: Stamp, input: Input, told: &mut Vec<String>) {
        let mut out = Out::default();
        self.core.as_mut().expect("a job").handle(at, input, &mut out);
        self.now = at;
        self.take(out, told);
    }

    fn take(&mut self, out: Out, told: &mut Vec<String>) {
        for event in &out.events {
            self.folded.apply(event);
            told.extend(fact(&self.folded, &event.fact));
        }
        assert_eq!(&self.folded, self.core().state(), "the state is a fold of its events");
        for effect in out.effects {
            match effect {
                Effect::SignalRanks { ranks, signal, asker, command } => {
                    let pids: Vec<_> = ranks.iter().map(|(_, proc)| format!("p{proc}")).collect();
                    told.push(format!("-> signal {signal} to {}", pids.join(" ")));
                    let error = self.signal_error.take();
                    let sent = ranks.iter().map(|(local, _)| *local).skip(usize::from(error.is_some()));
                    let sent = sent.collect();
                    self.give(self.now, Input::Signalled { asker, command, sent, error }, told);
                }
                Effect::Dump { .. } => {
                    told.push("-> dump".into());
                    self.give(self.now, Input::Dumped("it was dumped".into()), told);
                }
                Effect::TakeStacks { ranks, asker, command, .. } => {
                    let pids: Vec<_> = ranks.iter().map(|(rank, proc)| format!("r{rank} p{proc}")).collect();
                    told.push(format!("-> take stacks of {}", pids.join(" ")));
                    let summary = format!("stacks of {} ranks", ranks.len());
                    self.give(self.now, Input::StacksTaken { asker, command, summary }, told);
                }
                effect => told.extend(doing(&effect)),
            }
        }
    }

    fn input(&mut self, line: &str, words: &[&str]) -> Input {
        let word = |n: usize| *words.get(n).unwrap_or_else(|| panic!("a word is missing: {line}"));
        let pid = |n: usize| word(n).parse::<i32>().expect(line);
        let exit = |n: usize| exit_of(word(n), line);
        let rest = |n: usize| words[n.min(words.len())..].join(" ");
        match word(1) {
            "spawned" => {
                self.agent = pid(2);
                Input::Spawned(Ok(proc(pid(2))))
            }
            "not-spawned" => Input::Spawned(Err(rest(2))),
            "agent-gone" => Input::AgentGone { proc: proc(self.agent), exit: exit(2) },
            "agent-gone-late" => Input::AgentGone { proc: proc(pid(2)), exit: None },
            "seen" => {
                let field = |name| number(words, name);
                let place = Place {
                    rank: word(2).strip_prefix('r').map(|rank| rank.parse().expect(line)),
                    local_rank: field("lr"),
                    group_rank: field("group"),
                    world_size: field("world"),
                    local_world_size: field("local"),
                    restart_count: field("restart"),
                    ..Place::default()
                };
                let place = match place.rank {
                    Some(rank) if place.local_rank.is_none() => Place { local_rank: Some(rank), ..place },
                    _ => place,
                };
                let agent_pid = field("agent").map_or(self.agent, |pid| pid as i32);
                let start = number(words, "start").map_or(1, u64::from);
                let sighting = Sighting { proc: ProcId { pid: pid(3), start }, agent_pid, place };
                self.sightings.insert(pid(3), sighting.clone());
                Input::Seen(sighting)
            }
            "died" => Input::Died { proc: proc(pid(2)), exit: exit(3) },
            "gone" => Input::Looked {
                look: TreeLook {
                    agent: self.core().agent_alive.then(|| look(Kernel::Alive)),
                    gone: vec![proc(pid(2))],
                    ..TreeLook::default()
                },
                sample: false,
            },
            "look" | "sample" => {
                let kernel = |text: &str| text.chars().next().map(Kernel::from_letter).expect(line);
                let ranks = words[3..].iter().map(|word| {
                    let (pid, letter) = word.split_once('=').expect(line);
                    let sighting = self.sightings[&pid.parse::<i32>().expect(line)].clone();
                    RankLook { sighting: sighting.into(), look: look(kernel(letter)), fresh: false }
                });
                let look = TreeLook {
                    agent: (word(2) != "-").then(|| look(kernel(word(2)))),
                    ranks: ranks.collect(),
                    ..TreeLook::default()
                };
                Input::Looked { look, sample: word(1) == "sample" }
            }
            "agent" => {
                let line = format!("W1120 09:31:09.123000 100 torch/x.py:1] {}", rest(2));
                Input::AgentLine(agent_line::parse(&line).expect("a line of the agent"))
            }
            "start-line" => Input::AgentLine(AgentLine::Started(Started {
                pid: pid(2),
                global_rank: word(3)[1..].parse().ok(),
                restart_count: number(words, "restart"),
                ..Started::default()
            })),
            "end-line" => Input::AgentLine(AgentLine::Ended(Ended {
                state: EndState::Failed,
                pid: Some(pid(2)),
                global_rank: None,
                local_rank: None,
                exit: exit(3),
                raw_error: None,
            })),
            "mark" => Input::Mark {
                pid: Some(pid(2)),
                proof: Tracebacks::default().line((), &rest(3)).expect("a line that proves something"),
                line: rest(3),
            },
            "wrote" => Input::Wrote {
                pid: pid(2),
                lines: word(3).parse().expect(line),
                step: words.get(4).and_then(|step| Some((step.parse().ok()?, self.now))),
                last_line: (words.len() > 5).then(|| rest(5)),
            },
            "error-file" => Input::ErrorFile { pid: pid(2), message: rest(3), written: self.now },
            "oom" => Input::OomKills(word(2).parse().expect(line)),
            "beat" => Input::Beat(Beat {
                pid: pid(2),
                rank: words.iter().find_map(|word| word.strip_prefix('r')?.parse().ok()),
                step: number(words, "step").map(u64::from),
                step_source: words.iter().find_map(|word| Some(word.strip_prefix("source=")?.to_owned())),
                groups: vec![GroupStatus::default(); number(words, "groups").unwrap_or(0) as usize],
                ..Beat::default()
            }),
            "ask" => {
                let command = match word(3) {
                    "stop" => Command::Stop { now: false },
                    "stop-now" => Command::Stop { now: true },
                    "restart" => Command::Restart { attempt: None },
                    "keep" => Command::KeepZombies,
                    "stacks" => Command::Stacks { rank: word(4).parse().ok(), by: None },
                    "set" => {
                        let told = |at: usize| words.get(at).copied().filter(|word| *word != "-");
                        Command::SetWandb {
                            run_mode: told(4).map(|word| word.parse().expect(line)),
                            rank_scope: told(5).map(|word| word.parse().expect(line)),
                        }
                    }
                    "signal" => {
                        Command::Signal { rank: word(4).parse().ok(), signal: word(5).parse().expect(line) }
                    }
                    _ => Command::Unknown,
                };
                let viewer: u64 = word(2)[1..].parse().expect(line);
                let reply = Some((ViewerId(viewer), self.now.0 - T0.0));
                Input::Asked(Asker { reply, by: word(2).to_owned() }, command)
            }
            "storage" => Input::Storage {
                lost: word(2).parse().expect(line),
                error: (words.len() > 3).then(|| rest(3)),
            },
            "routed" => {
                let wandb = self.folded.wandb.as_ref().expect("a job with W&B");
                let held = wandb.settings.with((word(2).parse().expect(line), word(3).parse().expect(line)));
                Input::Forward(Told::Planned(Box::new(held)))
            }
            "run" => {
                let state = serde_json::from_str(&format!("\"{}\"", word(3))).expect(line);
                let rows_logged = number(words, "rows").map_or(0, u64::from);
                let run = RunProgress { state, rows_logged, ..RunProgress::default() };
                let runs = BTreeMap::from([(word(2).to_owned(), run)]);
                Input::Forward(Told::Progress { runs, ranks: Vec::new() })
            }
            "stop-button" => Input::Forward(Told::StopAsked(word(2).to_owned())),
            "forwarded" => Input::Forward(Told::Finished),
            "drained" => Input::Drained,
            "tick" => Input::Tick,
            other => panic!("unknown word {other}: {line}"),
        }
    }
}

fn number(words: &[&str], name: &str) -> Option<u32> {
    words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
}

fn exit_of(word: &str, line: &str) -> Option<Exit> {
    (word != "?").then(|| Exit::from_python(word.parse().expect(line)))
}

fn exit(exit: Option<Exit>) -> String {
    exit.map_or_else(|| "?".into(), |exit| exit.to_python().to_string())
}

fn name(state: &State, local: u32) -> String {
    crate::domain::telling::tag_of(state, local)
}

fn cause(cause: Option<&Cause>) -> String {
    cause.map_or_else(String::new, |cause| {
        format!(
            " because {} {:?}: {}",
            cause.rank.map_or("-".into(), |rank| format!("r{rank}")),
            cause.kind,
            cause.text
        )
    })
}

fn due(at: Option<Stamp>) -> String {
    at.map_or_else(String::new, |at| format!(" by {:.1}", at.since(T0).as_secs_f64()))
}

fn word(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done(text) => format!("done: {text}"),
        Outcome::Refused(text) => format!("refused: {text}"),
    }
}

/// `new/worker on [2, 2]`
fn combination(settings: &Settings) -> String {
    let facts = &settings.facts;
    format!("{}/{} on {:?}", facts.run_mode, facts.rank_scope, facts.topology.ranks_per_node)
}

/// One event in one line; samples and what repeats an input are left out.
fn fact(state: &State, fact: &Fact) -> Option<String> {
    Some(match fact {
        Fact::Sample { ranks } | Fact::Progress { ranks } if ranks.len() > 1 => {
            let step = |rank: &RankSample| {
                let step = rank.step.map_or_else(|| "?".into(), |step| step.to_string());
                format!("{}={step}", name(state, rank.local_rank))
            };
            format!("steps {}", ranks.iter().map(step).collect::<Vec<_>>().join(" "))
        }
        Fact::JobStarted { .. } | Fact::Sample { .. } | Fact::Progress { .. } | Fact::WandbSample { .. } => {
            return None;
        }
        Fact::WandbProgress { runs } => {
            let of = |(id, run): (&String, &RunProgress)| format!("{id} {:?} {}", run.state, run.rows_logged);
            format!("kept {}", runs.iter().map(of).collect::<Vec<_>>().join(", "))
        }
        Fact::AgentStarted { proc } => format!("agent_started {proc}"),
        Fact::RankStarted { proc, local_rank, attempt, .. } => {
            format!("rank_started {} at {local_rank} {proc} attempt {attempt}", name(state, *local_rank))
        }
        Fact::RankPlaced { local_rank, place } => format!("rank_placed {local_rank} {:?}", place.rank),
        Fact::RankState { local_rank, state: is, .. } => {
            format!("rank_state {} {is:?}", name(state, *local_rank))
        }
        Fact::RankExited { local_rank, exit: how, .. } => {
            format!("rank_exited {} {}", name(state, *local_rank), exit(*how))
        }
        Fact::RankExitKnown { local_rank, exit: how, .. } => {
            format!("rank_exit_known {} {}", name(state, *local_rank), exit(Some(*how)))
        }
        Fact::GroupStarted { attempt, world_size } => format!("group_started {attempt} world {world_size:?}"),
        Fact::Restart { attempt, restarts, reason, cause: why, world_size: _ } => {
            let why = cause(why.as_ref());
            let manual = if *reason == Reason::Manual { " by hand" } else { "" };
            format!("restart{manual} attempt {attempt} restarts {restarts}{why}")
        }
        Fact::MembershipChanged { attempt, from, world_size } => {
            format!("membership_changed attempt {attempt} from {from:?} to {world_size:?}")
        }
        Fact::CauseFound { attempt, cause: why } => format!("cause_found {attempt}{}", cause(Some(why))),
        Fact::JobState { state, deadline } => format!("job {state:?}{}", due(*deadline)),
        Fact::Deadline { deadline } => format!("deadline{}", due(*deadline)),
        Fact::AlertRaised { alert } => {
            let whose = alert.local_rank.map_or(String::new(), |local| format!(" {}", name(state, local)));
            format!("alert {:?}{whose}{}", alert.kind, due(alert.acts_at))
        }
        Fact::AlertCleared { alert_kind, local_rank } => {
            let whose = local_rank.map_or(String::new(), |local| format!(" {}", name(state, local)));
            format!("cleared {alert_kind:?}{whose}")
        }
        Fact::Adopted { .. } => "adopted".into(),
        Fact::Command { command, by, outcome } => {
            format!("command {} by {by} {}", crate::domain::telling::command(command), word(outcome))
        }
        Fact::Note { text } => format!("note {text}"),
        Fact::RankGuarded { local_rank, guard } => {
            format!("guarded {} by {:?}", name(state, *local_rank), guard.by)
        }
        Fact::Gpus { gpus, trouble, .. } => format!("gpus {} {trouble:?}", gpus.len()),
        Fact::GpuRanks { ranks, foreign_pids } => {
            let of = |rank: &RankGpus| format!(" {}={:?}", name(state, rank.local_rank), rank.gpus);
            format!("gpu ranks{} foreign {foreign_pids}", ranks.iter().map(of).collect::<String>())
        }
        Fact::GpuLeftovers { leftovers } => format!("gpu leftovers {}", leftovers.len()),
        Fact::GpuXid { seen } => format!("xid {} gpu {:?}", seen.xid, seen.gpu),
        // Of an order its answer says all.
        Fact::GpuProgress { .. } | Fact::GpuSample { .. } | Fact::Ordered { .. } => return None,
        Fact::WandbPlanned { settings, pending } => {
            let later = pending.map_or(String::new(), |(mode, scope)| format!(", then {mode}/{scope}"));
            format!("wandb {}{later}", combination(settings))
        }
        Fact::AgentExited { exit: how } => format!("agent_exited {}", exit(*how)),
        Fact::JobEnded { state, exit_code, cause: why } => {
            format!("job_ended {state:?} code {exit_code:?}{}", cause(why.as_ref()))
        }
        Fact::Snapshot { .. } => "snapshot".into(),
        Fact::Unknown => "unknown".into(),
    })
}

/// One effect in one line; what follows every sighting or death is left out.
fn doing(effect: &Effect) -> Option<String> {
    Some(match effect {
        Effect::SpawnAgent => "-> spawn the agent".into(),
        Effect::KeepWandb(settings) => format!("-> keep wandb {}", combination(settings)),
        Effect::Signal { target, signal } => {
            let whom = match target {
                Target::Agent => "agent".into(),
                Target::Rank(proc) => format!("p{proc}"),
                Target::RankGroup(proc) => format!("group {proc}"),
            };
            format!("-> signal {signal} to {whom}")
        }
        Effect::Reply { to: (viewer, id), outcome } => {
            format!("-> reply v{} #{id} {}", viewer.0, word(outcome))
        }
        Effect::SignalLeftover { proc, signal, .. } => format!("-> signal {signal} to leftover {proc}"),
        Effect::Placed { pid, rank } => format!("-> place {pid} r{rank}"),
        Effect::Drain => "-> drain".into(),
        Effect::Finish => "-> finish".into(),
        Effect::Examine { procs, .. } => format!("-> examine {}", procs.len()),
        Effect::Drill { rank, order, .. } => format!("-> drill {} p{rank}", order.fault),
        Effect::AskRas { ranks } => format!("-> ask RAS of {} ranks", ranks.len()),
        Effect::Watch(_)
        | Effect::KeepLogs { .. }
        | Effect::ReadLastWords(_)
        | Effect::SignalRanks { .. }
        | Effect::TakeStacks { .. }
        | Effect::Dump { .. } => return None,
    })
}
