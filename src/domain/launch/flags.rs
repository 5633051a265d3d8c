//! The flags of torchrun 2.15, as data: what the command line accepts, reads from `PET_*` and passes on.

/// One flag of torchrun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flag {
    /// Long name with hyphens, without the leading two.
    pub name: &'static str,
    /// One-letter name.
    pub short: Option<char>,
    /// What stands for its value in the help; `None` for a switch.
    pub value: Option<&'static str>,
    /// Whether torchrun also reads it from `PET_<NAME>`.
    pub pet: bool,
    /// Whether the built-in launcher has it too.
    pub local: bool,
    /// One line of help.
    pub help: &'static str,
}

impl Flag {
    const fn valued(name: &'static str, value: &'static str, help: &'static str) -> Flag {
        Flag { name, short: None, value: Some(value), pet: true, local: false, help }
    }

    const fn switch(name: &'static str, help: &'static str) -> Flag {
        Flag { name, short: None, value: None, pet: true, local: false, help }
    }

    const fn short(mut self, short: char) -> Flag {
        self.short = Some(short);
        self
    }

    const fn local(mut self) -> Flag {
        self.local = true;
        self
    }

    const fn no_pet(mut self) -> Flag {
        self.pet = false;
        self
    }

    /// The name with underscores, which torchrun accepts too.
    pub fn underscored(&self) -> String {
        self.name.replace('-', "_")
    }

    /// The environment variable that torchrun reads where the flag is absent.
    pub fn variable(&self) -> Option<String> {
        self.pet.then(|| format!("PET_{}", self.underscored().to_ascii_uppercase()))
    }
}

/// Every flag of torchrun 2.15 but `--help`.
pub const FLAGS: &[Flag] = &[
    Flag::valued("nnodes", "N|MIN:MAX", "Number of nodes, or the smallest and largest number [default: 1]")
        .local(),
    Flag::valued("nproc-per-node", "N|auto|gpu|cpu|xpu", "Ranks on this node [default: 1]").local(),
    Flag::switch("standalone", "One node; the ranks meet on a free port").local(),
    Flag::valued("rdzv-backend", "NAME", "How nodes meet: static, c10d, etcd, etcd-v2"),
    Flag::valued("rdzv-endpoint", "HOST[:PORT]", "Where nodes meet"),
    Flag::valued("rdzv-id", "ID", "Name of the meeting, the same on all nodes").local(),
    Flag::valued("rdzv-conf", "KEY=VALUE,...", "More settings of the meeting"),
    Flag::valued(
        "max-restarts",
        "N",
        "Failures after which the ranks are started anew [default: 3; torchrun: 0]",
    )
    .local(),
    Flag::valued("monitor-interval", "SEC", "How often the agent looks at its ranks [default: 0.1]").local(),
    Flag::valued("start-method", "METHOD", "spawn, fork or forkserver; with --run-path only"),
    Flag::valued("event-log-handler", "NAME", "Where torchrun writes its events [default: console]"),
    Flag::valued("role", "NAME", "Role of the ranks").local(),
    Flag::switch("module", "SCRIPT is a module, as with `python -m`").short('m').local(),
    Flag::switch("no-python", "SCRIPT is a program, not a Python file").local(),
    Flag::switch("run-path", "Run SCRIPT inside the launcher's own Python processes"),
    Flag::valued("log-dir", "DIR", "Where the ranks' output goes [default: the job's folder]").local(),
    Flag::valued("redirects", "STD", "Streams that go to files: 0-3 or LOCAL_RANK:STD,... [default: 3]")
        .short('r')
        .local(),
    Flag::valued("tee", "STD", "Streams that go to files and to the launcher's output").short('t').local(),
    Flag::valued("log-line-prefix-template", "TEXT", "Prefix of the lines that --tee copies"),
    Flag::valued("local-ranks-filter", "RANK,...", "Ranks whose lines --tee copies"),
    Flag::valued("duplicate-stdout-filters", "TEXT,...", "Lines of stdout to collect in one more file"),
    Flag::valued("duplicate-stderr-filters", "TEXT,...", "Lines of stderr to collect in one more file"),
    Flag::valued("node-rank", "N", "Number of this node, with static rendezvous"),
    Flag::valued("master-addr", "HOST", "Address of node 0, with static rendezvous"),
    Flag::valued("master-port", "PORT", "Port on node 0, with static rendezvous"),
    Flag::valued("local-addr", "ADDR", "Address of this node"),
    Flag::valued("logs-specs", "NAME", "Plug-in that decides where output goes").no_pet(),
    Flag::valued("numa-binding", "MODE", "Bind ranks to the CPUs near their GPU").no_pet(),
    Flag::valued("signals-to-handle", "SIG,...", "Signals that the agent passes on to the ranks"),
    Flag::valued("shutdown-timeout", "SEC", "Time between SIGTERM and SIGKILL when the agent ends").local(),
    Flag::switch("virtual-local-rank", "LOCAL_RANK is 0 everywhere, each rank sees one GPU").local(),
    Flag::valued("print-completion", "SHELL", "torchrun's own completion script (not available here)")
        .no_pet(),
];

/// The flag with this long name.
pub fn flag(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.name == name)
}
