//! Vocabulary and decisions, pure: no IO, clock, thread, environment or randomness.
//!
//! Time and facts come in as arguments; `tests/tidy.rs` keeps it so. The state machines
//! share one shape: `handle(now, input, &mut out)`, `deadline()`, `on_deadline(now, &mut out)` and queries.

pub mod agent_line;
pub mod alert;
pub mod beat;
pub mod cause;
pub mod closeup;
pub mod cluster;
pub mod command;
pub mod drill;
pub mod ending;
pub mod event;
pub mod evidence;
pub mod exit;
pub mod exposition;
pub mod filter;
pub mod fleet;
pub mod flight;
pub mod forward;
pub mod goodput;
pub mod gpu;
pub mod health;
pub mod hosts;
pub mod id;
pub mod launch;
pub mod log;
pub mod near;
pub mod rank;
pub mod ras;
pub mod redact;
pub mod replay;
pub mod report;
pub mod resolve;
pub mod sample;
pub mod series;
pub mod stack;
pub mod state;
pub mod suspicion;
pub mod telling;
pub mod time;
pub mod tree;
pub mod verdict;
pub mod watchdog;
