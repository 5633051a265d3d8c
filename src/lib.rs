//! Watching and steering elastic PyTorch training from a terminal.
pub mod cli;
pub mod domain;
pub mod error;
pub mod probe;
pub mod supervisor;
pub mod tui;
pub mod wandb;
pub mod wire;
