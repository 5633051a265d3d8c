//! elastictop starts elastic PyTorch jobs, watches every rank, and steers them from a terminal.
//!
//! This page is the architecture. Each module says more about itself.
//!
//! # Code map
//!
//! | where | what lives there | may use |
//! |---|---|---|
//! | [`cli`] | the command line: one file for each family of commands | all |
//! | [`domain`] | vocabulary and decisions, pure: ids, events, the state, the machines, the launch plan, sentences | nothing of the crate |
//! | [`error`] | one error type with hints and exit code | domain |
//! | [`probe`] | adapters in: `/proc`, cgroups, process descriptors, heartbeats, GPUs, flight recorders, stacks, NCCL's RAS, jobs of others | domain, error |
//! | [`wandb`] | adapters out to W&B: `.wandb` files, what ranks' own SDK writes, credentials, the client, sending | domain, error |
//! | [`wire`] | frames, messages, sockets, links between viewer and supervisor | domain, error |
//! | [`supervisor`] | the loop and its core, children, hub, journal, logbook, the forwarder of metrics, facts over HTTP; the shim, the launcher and the trainer | domain, error, probe, wandb, wire |
//! | [`cluster`] | links to the supervisors of many nodes, served to viewers as one stream | domain, error, supervisor, wire |
//! | [`tui`] | app state and keys, theme, terminal, one file for each view | domain, error, wire |
//!
//! `tui` never reaches `supervisor`, `supervisor` never reaches `tui`: what they have in common is an event.
//! `tests/tidy.rs` checks the last column, and that `domain` touches neither clock nor file nor process.
//!
//! # Data flow
//!
//! ```text
//!  /proc, pidfds ──▶ probe ─┐
//!  log files ─▶ logbook ────┤            supervisor (the only writer)
//!  NVML ─▶ thread ─▶ slot ──┤
//!  heartbeats ──▶ probe ────┼──▶ Input ──▶ Core::handle ──▶ Event ──┬──▶ journal ──▶ events, replay, adoption
//!  viewers' commands ───────┤                  │                    └──▶ hub ──▶ link ──▶ State::apply ──▶ draw
//!  time ────────────────────┘                  └──▶ Effect: spawn, signal, reply, keep a log, finish
//!
//!  journal, black box ──▶ export ──▶ .etrec ──▶ tape, player ──▶ link ──▶ State::apply ──▶ draw
//! ```
//!
//! * [`supervisor::core`] holds the state and all machines, and touches nothing: inputs in, events and effects out.
//! * [`supervisor::run`] is the loop: it takes inputs one by one, hands them to the core and carries the effects out.
//! * [`domain::state::State::apply`] folds events into the state. Supervisor, viewer, adoption and tests use the same one.
//! * [`domain::report`] and [`domain::telling`] turn state and events into JSON and sentences.
//! * [`supervisor::serve`] is one more viewer, on a thread of its own: it asks for a snapshot when a page is asked for, and
//!   [`domain::exposition`] makes figures for Prometheus of it.
//! * A viewer gets a snapshot, then events. It asks for log pages, and for a close look at the one rank that it shows
//!   ([`domain::closeup`]: figures over time, process, environment, last words); it never reads the job's files.
//!
//! # How many nodes are watched
//!
//! ```text
//!  supervisor n01 ◀─ proxy n01 ◀─ ssh ─┐
//!  supervisor n02 ◀─ proxy n02 ◀─ ssh ─┼─ cluster ──▶ From { node, message } ──▶ App: a State for each node,
//!  supervisor n03 ◀───────────────────┘  (in the viewer, or a relay)             and cluster::whole of all
//! ```
//!
//! * Each supervisor stays the only writer for its node, and does not know of the others. [`cluster`] keeps one link to
//!   each, measures its clock, and sends commands to those that they are for; [`domain::cluster`] says what they are
//!   together.
//! * A proxy copies bytes between its standard streams and the supervisor's socket: what it does not know passes through.
//!
//! # How a recording is played
//!
//! * The journal keeps what happened; [`supervisor::recording::BlackBox`] keeps every sample on a thread of its own, and
//!   pins the minutes before a failure by the names of its files.
//! * [`supervisor::recording::Tape`] holds the events of a job or file in packed blocks, with states in between: any
//!   moment is the fold from the nearest of them.
//! * [`domain::replay::Player`] says where the viewer stands. A deck inside of the viewer's process serves it over a link
//!   as a supervisor would: a snapshot after a jump, events while it plays. The app takes its time from the deck.
//! * [`domain::replay::Redaction`] goes through every fact by name; states are folded from what it let through.
//!
//! # How metrics reach W&B
//!
//! ```text
//!  files of ranks ─▶ tail ─▶ Row ─▶ Router ─▶ .wandb file of the run ─▶ upload ─▶ W&B
//!                                      │        and cursor.jsonl
//!  Core ── plan, deaths, figures ──────┘                                      (supervisor::forward, a thread)
//! ```
//!
//! * [`domain::resolve`] says which rank logs to which run; [`domain::forward::router`] gives each row its run and step.
//! * Each row is read from a file that its rank wrote and lies in one `.wandb` file. A commit after each batch says how
//!   long that file is and up to where the sources were read: after a death at any moment both are taken up there.
//! * Sending reads committed bytes of `.wandb` files alone, with a cursor of its own. The job never waits for it.
//! * A switch of the plan first routes all that was logged before, then closes runs that are left and opens new ones; the
//!   viewer that asked is answered after that.
//!
//! # Processes of a job
//!
//! ```text
//!  elastictop run          viewer: may come, go and die
//!  elastictop __supervise  one for each job; session of its own, child subreaper, holds the job's lock
//!  └─ python -m torch.distributed.run … --no-python …/bin/elastictop __rank -- python -u train.py
//!     │                    the agent; or elastictop __agent, with --launcher local
//!     └─ python -u train.py    a rank: the shim (__rank) has become it by exec, same pid
//!        └─ data loaders, wandb-core, …   not ranks
//! ```
//!
//! * The supervisor is started by re-exec with `setsid`, before any thread exists, and says over a pipe that it is ready
//!   or why not: the user sees its error. The task travels in that pipe, as it may hold secrets.
//! * Agent and ranks write to files, never to pipes, so that no reader's death can stop them.
//! * The shim leaves `rank.json` and hard links of the rank's logs in `ranks/PID-START/`, tells the supervisor over
//!   the heartbeat socket, and becomes the program. It cannot keep a job from starting.
//! * The job runs the `elastictop` in `JOB/bin`, a link to the one that started it: an upgrade does not touch it.
//! * A rank is a child of the agent that leads a session and has rank variables; [`domain::tree`] has the traps. An
//!   incarnation is (node, agent pid, rank pid, start time). The agent's restart count is shown, never used as identity.
//! * The driver of GPUs is only called on threads of its own, which never end a wait: whoever wants figures takes the newest
//!   answer out of a slot. [`probe::gpu`] asks, [`domain::gpu`] says what the answers mean.
//! * Signals go through process descriptors, after the start time was compared: never to a recycled pid.
//!
//! # How a job is adopted
//!
//! The lock of a job is free once its supervisor is dead, however it died. `attach` (and any command that needs a
//! supervisor) then starts a new one, which reads the manifest, folds the journal up to its last whole record, opens the
//! log index and goes on reading each file where the index ends, finds the agent and ranks by pid and start time, and
//! writes an `adopted` event. A rank that came and went meanwhile is found by what its shim left. The agent is no child of
//! the new supervisor: its exit code is told by its own words and the ranks' ends, or stays unknown.
//! Jobs of others and jobs that are over have no supervisor: [`supervisor::aside`] and [`supervisor::archive`] serve them
//! from within the viewer's own process, over the same link.
//!
//! # Invariants
//!
//! * One direction: probe → supervisor → event → reader. Nothing flows back but a [`domain::command::Command`].
//! * Only the loop writes the state; no mutex guards it.
//! * The state is a fold of events: total, deterministic, without a clock. Unknown kinds are skipped.
//! * Machines never sleep, spawn or log: `handle(now, input, &mut out)`, `deadline()`, queries.
//! * A command is answered after its effect. Two viewers who press restart cause one restart.
//! * Every queue is bounded, every loss is counted and shown. No viewer and no disk slows the loop.
//! * Counters are kept raw; rates come from two samples. What is not known is `None`, shown as `n/a`, never 0.
//! * Readers may fail: a full disk becomes an alert, the job runs on.
//! * Nobody is signalled on a single sample, and no process whose start time differs.
//! * Secrets are taken out before anything is kept or shown; the manifest holds neither command nor environment.
//! * Files that only grow are valid after a cut at any byte but for their last record.
//! * Drawing is a function of app state and size; only `App::update` writes that state.
//! * All text from outside is cleaned of control characters before it reaches a cell.
//!
//! # Where to add things
//!
//! | a new | goes to |
//! |---|---|
//! | fact | [`domain::event::Fact`], its fold in [`domain::state`], its sentence in [`domain::telling`], the table in the README |
//! | sign of a failure in a log line | [`domain::evidence`]; how it weighs against others, Xids too: [`domain::cause`] |
//! | decision with a time in it | a machine in [`domain`], fed by [`supervisor::core`] |
//! | figure of a GPU | [`domain::gpu::GpuSample`], its question in `probe/gpu/nvml.rs` (nine calls for a GPU at most), `stub.c` |
//! | source of numbers | [`probe`], an `Input` of the core, a field in [`domain::sample`] |
//! | difference between ranks' flight recorders | [`domain::flight::analyse`]; what is taken of ranks: [`supervisor::forensic`] |
//! | figure for Prometheus | [`domain::exposition`], the list in the README |
//! | flag of torchrun | `FLAGS` in [`domain::launch`]; what elastictop adds to a job: the plan beside it |
//! | command | a [`domain::command::Command`], its answer in the core's `ask`, a file in [`cli`], a key in the table of [`tui`] |
//! | view | a file in `tui/view`, a line in the table of keys |
//! | question about one rank | [`domain::closeup::Question`], its answer in [`supervisor::closeup`], its tab in `tui/view/rank` |
//! | tab of a rank's page | `Tab` in `tui/app/page.rs`, its lines in `tui/view/rank/tabs.rs` |
//! | setting | a line of the table in `cli/config/registry.rs`, which makes flag, help, file key and check |
//! | key of a replay | the table of keys, scope `Replay`; a [`domain::replay::Control`] |
//! | picture | a story in `tests/screenshots`, a link in the README |
//! | theme | a file in `themes/` and a line in `tui/theme/store.rs` |
//! | figure that tells ranks apart | [`domain::suspicion`], its source in [`domain::fleet`] |
//! | way to name the nodes of a job | [`domain::hosts`] reads and checks names, a source in `cli/hosts.rs` |
//! | story about real torchrun | `tests/e2e`, with its script in `tests/scripts`; of several hosts: `tests/e2e/hosts` |
//!
//! # Choices that were open
//!
//! * The embedded launcher is a process of its own (`__agent`) and prints what torchrun prints: one way to watch both, and
//!   it outlives the supervisor as torchrun does.
//! * Ranks get no parent-death signal by default: when the agent dies they go on as orphans, and the user decides.
//!   `--orphans end` sets it.
//! * Logs stay in the ranks' own files. The index (`logs.jsonl`) only says which file grew when, by how much: the merged
//!   order survives the supervisor and no line is stored twice.
//! * NCCL's RAS is asked only while a stall is suspected, on a thread that nobody waits for, and is evidence of an alert that
//!   other facts raised: its counts are of launches and were seen to be wrong.
//! * Facts over HTTP are for this machine alone. Whoever wants them from elsewhere has a proxy that knows who may.
//! * Links are JSON in frames: slower than a binary form, but an old viewer can skip what it does not know. What comes
//!   each second is read straight into place ([`domain::event`]); a viewer in the same process gets the values.
//! * Ranks are looked at cheaply: CPU clock each second, `stat` in turn where there are many ([`probe::proc`]).
//!   Deaths do not wait for that: process descriptors tell of them ([`probe::deaths`]).
//! * Sockets lie in `/tmp/elastictop-UID` unless the user lingers: systemd removes `$XDG_RUNTIME_DIR` at logout, and a
//!   job must be found after that. Sockets below deep folders are reached through a descriptor of the folder.
//! * elastictop's own figures (`elastictop/restarts`, `…/heartbeat_age_s`, `…/step_lag` and others) are events of a W&B
//!   run, as system metrics are: they come by the clock while a rank hangs, and a row of history would take a step from
//!   the script. Only `elastictop/step`, the script's own step of a row that got another one, is in the history.
//! * A printed line that is a row is not repeated in W&B's console.
//! * A row whose step is not above the last one gets the next step, rather than being merged or dropped: after a restart
//!   from a checkpoint both lives of a step are there.
//! * Settings are looked up one by one through the layers (`cli::config`), so that no layer resets what it does not
//!   name. What else a job needs travels with its task; nothing but the command line reads files of settings.
//! * The plan for W&B is never stored: supervisor, shim, viewer and dry run each resolve it from the same facts. A rank
//!   takes the number of nodes from its own variables, so that a plan for four nodes holds when two came.

// What is shared with tests and benches outside of the crate names it from outside.
#[cfg(test)]
extern crate self as elastictop;

// They panic where nobody reads: `cli::out` does not.
#[warn(clippy::print_stdout, clippy::print_stderr)]
pub mod cli;
pub mod cluster;
pub mod domain;
pub mod error;
pub mod probe;
pub mod supervisor;
pub mod tui;
pub mod wandb;
pub mod wire;
