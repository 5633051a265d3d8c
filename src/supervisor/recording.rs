//! Recordings on disk: the black box that a supervisor keeps, reading, exporting, and playing one to a viewer.
//!
//! A recording is JSON lines, plain or gzipped. The first is a [`Header`](crate::domain::replay::Header); then come
//! events as the journal has them, and log lines as `{"log":{…}}`. A recording that begins in the middle of a job
//! begins with a `snapshot`. A journal is a recording without a header. Lines of kinds that are not known are skipped.

mod blackbox;
mod deck;
mod export;
mod job;
mod lines;
mod read;
mod segments;
mod tape;

pub use self::{
    blackbox::BlackBox,
    deck::{REPLAY, serve},
    export::{Exported, Window, export},
    job::JobReader,
    lines::Lines,
    read::{Entry, Reader},
    segments::BOX,
    tape::Tape,
};
