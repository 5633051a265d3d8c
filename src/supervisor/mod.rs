//! The only writer: the loop, children, hub, journal; the rank shim and the injected Python files.

pub mod agent;
pub mod aside;
pub mod bundle;
pub mod child;
pub mod clock;
pub mod closeup;
pub mod core;
pub mod desk;
pub mod detach;
pub mod forensic;
pub mod forward;
pub mod gpus;
pub mod hub;
pub mod inject;
pub mod journal;
pub mod logbook;
pub mod place;
pub mod preflight;
pub mod reading;
pub mod reserve;
pub mod run;
pub mod session;
pub mod shim;
pub mod storage;
pub mod trainer;
