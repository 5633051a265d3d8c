//! Adapters out to W&B: the transaction log, the client, credentials.

pub mod log;
