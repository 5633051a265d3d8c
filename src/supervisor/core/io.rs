//! What the core learns, and what it wants done.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    domain::{
        agent_line::AgentLine,
        beat::Beat,
        command::{Command, Outcome},
        drill::Order,
        ending::Target,
        event::Event,
        evidence::Proof,
        exit::Exit,
        forward::Settings,
        gpu::{Reading, XidSeen, join::RankFacts},
        id::ProcId,
        ras::Ras,
        replay::Keep,
        sample::Sighting,
        stack::Source,
        time::Stamp,
        verdict::{Doing, Policy},
    },
    probe::finder::TreeLook,
    supervisor::{forward::Told, hub::ViewerId},
};

/// How a job is to be treated. Kept in the manifest for a supervisor that takes over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// Milliseconds between two looks of the agent at its ranks.
    pub monitor_interval_ms: u64,
    /// Milliseconds between SIGTERM and SIGKILL when the job is stopped.
    pub stop_grace_ms: u64,
    /// End ranks whose agent died, instead of letting them go on.
    pub end_orphans: bool,
    /// Whether heartbeats can be expected of the ranks.
    pub expects_beats: bool,
    /// When a job that does not move on is called hung, and what is done then.
    #[serde(default)]
    pub policy: Policy,
    /// Milliseconds that GPU memory of dead jobs is waited for before the agent is started.
    #[serde(default)]
    pub gpu_wait_ms: u64,
    /// How much of the figures is kept second by second.
    #[serde(default)]
    pub record: Keep,
}

/// Who asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asker {
    /// The viewer, and the id of its request; `None` when a signal asked.
    pub reply: Option<(ViewerId, u64)>,
    /// User and viewer, for the timeline.
    pub by: String,
}

/// What the core learns.
#[derive(Debug)]
pub enum Input {
    /// The agent was started, or could not be.
    Spawned(Result<ProcId, String>),
    /// A look at the processes. `sample` asks for a sample event.
    Looked {
        /// What was seen.
        look: TreeLook,
        /// Whether those who watch shall get the figures.
        sample: bool,
    },
    /// A rank exists.
    Seen(Sighting),
    /// A process that was watched has died; it may not be reaped yet.
    Died {
        /// Which.
        proc: ProcId,
        /// How, if that could be seen.
        exit: Option<Exit>,
    },
    /// The agent is gone.
    AgentGone {
        /// Its process: a former agent's end is told late now and then.
        proc: ProcId,
        /// How it ended, if anybody saw it.
        exit: Option<Exit>,
    },
    /// The agent wrote a line that means something.
    AgentLine(AgentLine),
    /// A rank wrote a line that proves something.
    Mark {
        /// Its process id; `None` for the agent's own output.
        pid: Option<i32>,
        /// What it proves.
        proof: Proof,
        /// The line.
        line: String,
    },
    /// A rank wrote lines.
    Wrote {
        /// Its process id.
        pid: i32,
        /// How many.
        lines: u64,
        /// The last of them, or an unfinished one.
        last_line: Option<String>,
        /// The step in the last JSON line among them, and when that was written.
        step: Option<(u64, Stamp)>,
    },
    /// The newest JSON line of a rank that has a loss.
    Loss {
        /// Its process id.
        pid: i32,
        /// Name of the loss.
        name: String,
        /// For how many lines in a row it has been no number; 0 for a number.
        rows: u32,
    },
    /// A closer look at a rank, which [`Effect::Examine`] asked for.
    Examined {
        /// Its process id.
        pid: i32,
        /// What was seen.
        doing: Doing,
    },
    /// What NCCL's health service answered, which [`Effect::AskRas`] asked for; `None` when it did not.
    Ras(Option<Box<Ras>>),
    /// A rank left a file with its last words.
    ErrorFile {
        /// Its process id.
        pid: i32,
        /// What it says.
        message: String,
        /// When it was written.
        written: Stamp,
    },
    /// The out-of-memory counter of the job's cgroup.
    OomKills(u64),
    /// A rank beat.
    Beat(Beat),
    /// Somebody wants something.
    Asked(Asker, Command),
    /// A signal that somebody wanted was sent to these ranks, or not.
    Signalled {
        /// Who asked.
        asker: Asker,
        /// What for.
        command: Command,
        /// Those that got it, by their position.
        sent: Vec<u32>,
        /// Why others did not.
        error: Option<String>,
    },
    /// What [`Effect::Dump`] asked for was written, or not: in a sentence.
    Dumped(String),
    /// The stacks that somebody wanted were read and sent.
    StacksTaken {
        /// Who asked.
        asker: Asker,
        /// What for.
        command: Command,
        /// What they show, in one sentence.
        summary: String,
    },
    /// A rank was told to make a fault, or could not be told.
    Drilled {
        /// Who asked.
        asker: Asker,
        /// What for.
        command: Command,
        /// Why not.
        error: Option<String>,
    },
    /// A look at the GPUs.
    Gpus(GpuLook),
    /// A process that somebody wanted ended was signalled, or not.
    LeftoverSignalled {
        /// Who asked.
        asker: Asker,
        /// The process.
        proc: ProcId,
        /// Signal number.
        signal: i32,
        /// Why it was not sent.
        error: Option<String>,
    },
    /// Something worth a line in the timeline, in a sentence.
    Noted(String),
    /// elastictop can or cannot keep something on disk.
    Storage {
        /// Why not.
        error: Option<String>,
        /// Records lost so far.
        lost: u64,
    },
    /// The forwarder said something.
    Forward(Told),
    /// All that the job left behind has been read.
    Drained,
    /// Time passed.
    Tick,
}

/// What a look at the GPUs gives.
#[derive(Debug, Default)]
pub struct GpuLook {
    /// What the driver answered last.
    pub reading: Arc<Reading>,
    /// What the environment of each rank that lives says of its place and devices.
    pub ranks: Arc<[RankFacts]>,
    /// Errors that the driver told of since the last look.
    pub xids: Vec<XidSeen>,
    /// Whether those who watch shall get the figures.
    pub sample: bool,
}

/// What the core wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Start the agent (again).
    SpawnAgent,
    /// Keep what ranks that start from now on shall do about metrics.
    KeepWandb(Box<Settings>),
    /// Send a signal.
    Signal {
        /// To whom.
        target: Target,
        /// Signal number.
        signal: i32,
    },
    /// Send a signal to ranks because somebody asked, then tell by [`Input::Signalled`].
    SignalRanks {
        /// Position and process of each.
        ranks: Vec<(u32, ProcId)>,
        /// Signal number.
        signal: i32,
        /// Who asked.
        asker: Asker,
        /// What for.
        command: Command,
    },
    /// Read stacks because somebody asked, send them, then tell by [`Input::StacksTaken`].
    TakeStacks {
        /// Global rank, or the position where that is not known, and process of each.
        ranks: Vec<(u32, ProcId)>,
        /// Only this way.
        by: Option<Source>,
        /// Who asked.
        asker: Asker,
        /// What for.
        command: Command,
    },
    /// Send a signal to a process that belongs to no rank, then tell by [`Input::LeftoverSignalled`].
    SignalLeftover {
        /// The process.
        proc: ProcId,
        /// Signal number.
        signal: i32,
        /// Who asked.
        asker: Asker,
    },
    /// Answer a viewer.
    Reply {
        /// The viewer, and the id of its request.
        to: (ViewerId, u64),
        /// The answer.
        outcome: Outcome,
    },
    /// Watch this process for its death.
    Watch(ProcId),
    /// A rank belongs to this start of the group: keep its logs.
    KeepLogs {
        /// Which rank.
        sighting: Sighting,
        /// Its position.
        local_rank: u32,
        /// The start of the group.
        attempt: u32,
    },
    /// The global rank of a process became known.
    Placed {
        /// Process id.
        pid: i32,
        /// Global rank.
        rank: u32,
    },
    /// Look closely at these ranks, then tell by [`Input::Examined`].
    Examine {
        /// Which.
        procs: Vec<ProcId>,
        /// Threads and settings too.
        whole: bool,
    },
    /// Ask NCCL's health service, by the address that one of these ranks has, then tell by [`Input::Ras`].
    AskRas {
        /// The living ranks.
        ranks: Vec<ProcId>,
    },
    /// Write down what can be learned of the living ranks, because the job does not move on.
    Dump {
        /// The verdict.
        text: String,
    },
    /// Have a rank make a fault that somebody asked for, then tell by [`Input::Drilled`].
    Drill {
        /// The rank.
        rank: ProcId,
        /// What it is to do.
        order: Order,
        /// Who asked.
        asker: Asker,
        /// What for.
        command: Command,
    },
    /// A rank died: read what it left behind soon.
    ReadLastWords(ProcId),
    /// Read all that is left, then tell by [`Input::Drained`].
    Drain,
    /// The job is over.
    Finish,
}

/// What came out of one input.
#[derive(Debug, Default)]
pub struct Out {
    /// New events, already part of the state.
    pub events: Vec<Event>,
    /// What is to be done, in order.
    pub effects: Vec<Effect>,
}
