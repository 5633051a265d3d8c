//! elastictop from end to end: the real binary, real torchrun, real processes.
//!
//! Each test has a [`harness::Lab`] of its own: a folder that holds its jobs and dies with them.

mod harness;
#[path = "../wandb_server/mod.rs"]
mod wandb_server;

mod adopt;
mod causes;
mod damage;
mod forensic;
mod gpu;
mod hosts;
mod input;
mod orphans;
mod pages;
mod ranks;
mod replay;
mod restarts;
mod serve;
mod storage;
mod terminal;
mod verdicts;
mod viewers;
mod wandb;
mod wandb_script;
mod watchdog;
