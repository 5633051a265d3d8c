//! What supervisor and viewer say to each other, and over what.

pub mod child;
pub mod frame;
pub mod link;
pub mod message;
pub mod socket;
