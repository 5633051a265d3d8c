//! elastictop from end to end: the real binary, real torchrun, real processes.
//!
//! Each test has a [`harness::Lab`] of its own: a folder that holds its jobs and dies with them.

mod harness;

mod adopt;
mod causes;
mod forensic;
mod gpu;
mod input;
mod orphans;
mod ranks;
mod restarts;
mod storage;
mod terminal;
mod viewers;
mod watchdog;
