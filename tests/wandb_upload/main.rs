//! Runs are sent from their files to a W&B server that fails in every way it can.

#[path = "../wandb_server/mod.rs"]
mod wandb_server;

mod faults;
mod harness;
mod whole;
