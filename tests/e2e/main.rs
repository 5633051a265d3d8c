//! elastictop from end to end: the real binary, real torchrun, real processes.
//!
//! Each test has a [`harness::Lab`] of its own: a folder that holds its jobs and dies with them.

mod harness;
#[path = "../wandb_server/mod.rs"]
mod wandb_server;

mod adopt;
mod causes;
mod gpu;
mod input;
mod orphans;
mod ranks;
mod restarts;
mod storage;
mod terminal;
mod viewers;
mod wandb;
mod watchdog;
