//! Adapters out to W&B: the transaction log, credentials, the client, and what sends a run's log to the server.

pub mod client;
pub mod credentials;
pub mod log;
pub mod sdk;
mod tree;
pub mod upload;
