//! The only writer: the loop, children, hub, journal; the rank shim and the injected Python files.

pub mod hub;
pub mod journal;
pub mod logbook;
pub mod place;
pub mod preflight;
pub mod storage;
pub mod agent;
pub mod shim;
pub mod trainer;
