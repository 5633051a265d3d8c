//! The `elastictop` binary: everything lives in the library.

fn main() -> std::process::ExitCode {
    elastictop::cli::main()
}
