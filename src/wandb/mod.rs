//! Adapters out to W&B: the transaction log, what ranks log with their own SDK, credentials, the client, and what sends
//! the log of a run to the server.

pub mod client;
pub mod credentials;
pub mod log;
pub mod sdk;
mod tree;
pub mod upload;
