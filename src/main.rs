//! The `elastictop` binary: everything lives in the library.

use std::process::ExitCode;

use elastictop::supervisor::{agent, shim, trainer};

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    match args.next().as_deref().and_then(|arg| arg.to_str()) {
        Some("__rank") => shim::main(args),
        Some("__agent") => agent::main(args),
        Some("__trainer") => trainer::main(args),
        _ => ExitCode::SUCCESS,
    }
}
