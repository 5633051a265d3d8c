//! The screen from outside: keys in, pictures and messages out.

#[path = "../../tests/support/fleet.rs"]
mod fleet;
mod fleets;
mod hearing;
mod looks;
mod loops;
mod page;
#[path = "../../tests/support/pty.rs"]
mod pty;
mod replays;
mod runs;
mod scripts;
mod terminal;
mod typed;

pub(super) use scripts::press;
