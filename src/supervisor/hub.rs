//! The hub: viewers, each with a bounded queue. Who is too slow gets a fresh snapshot later, and the number of
//! events that it missed; the supervisor neither waits nor grows.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader},
    net::UnixStream,
    sync::mpsc,
};

use crate::{
    domain::{event::Event, state::State},
    wire::{
        frame,
        link::QUEUE,
        message::{ToSupervisor, ToViewer},
    },
};

/// Bytes that may wait for one viewer. A page of the longest log lines has 8 MiB: without this, a full queue of them
/// would be half a gigabyte.
const MAX_WAITING: usize = 16 << 20;
/// Frames up to this size always find room in the queue: answers to commands.
const SMALL: usize = 4 << 10;

/// Tells viewers apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ViewerId(pub(super) u64);

/// What a viewer did.
#[derive(Debug)]
pub enum Said {
    /// It sent a message.
    Message(ToSupervisor),
    /// It left.
    Gone,
}

#[derive(Debug)]
struct Viewer {
    id: ViewerId,
    name: String,
    watches: bool,
    queue: mpsc::Sender<Arc<[u8]>>,
    /// Bytes in the queue, and in the frame that is being written.
    waiting: Arc<AtomicUsize>,
    /// Events that it missed since its queue was full.
    missed: u64,
}

impl Viewer {
    /// Hands a frame over, or not: then the viewer is too far behind.
    fn offer(&self, bytes: Arc<[u8]>) -> bool {
        let length = bytes.len();
        let waiting = self.waiting.load(Ordering::Relaxed);
        if waiting > 0 && waiting + length > MAX_WAITING && length > SMALL {
            return false;
        }
        let taken = self.queue.try_send(bytes).is_ok();
        if taken {
            self.waiting.fetch_add(length, Ordering::Relaxed);
        }
        taken
    }
}

/// All viewers of one supervisor.
#[derive(Debug)]
pub struct Hub {
    viewers: Vec<Viewer>,
    next: u64,
    said: mpsc::Sender<(ViewerId, Said)>,
}

impl Hub {
    /// A hub, and where it tells what viewers say.
    pub fn new() -> (Hub, mpsc::Receiver<(ViewerId, Said)>) {
        let (said, hears) = mpsc::channel(QUEUE);
        (Hub { viewers: Vec::new(), next: 0, said }, hears)
    }

    /// Takes a connection over the socket, if its owner may look: the same user, or root.
    pub fn accept(&mut self, stream: UnixStream) {
        let mine = rustix::process::getuid().as_raw();
        match stream.peer_cred() {
            Ok(peer) if peer.uid() == mine || peer.uid() == 0 => {
                let (read, write) = stream.into_split();
                self.add(read, write);
            }
            Ok(peer) => {
                refuse(stream, format!("this job belongs to user {mine}; you are user {}", peer.uid()));
            }
            Err(error) => tracing::warn!(%error, "cannot tell who connected"),
        }
    }

    /// Adds a viewer over any pair of streams.
    pub fn add<R, W>(&mut self, read: R, write: W)
    where
        R: AsyncRead + Unpin + Send + 'static,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        let id = ViewerId(self.next);
        self.next += 1;
        let (queue, frames) = mpsc::channel(QUEUE);
        let waiting = Arc::new(AtomicUsize::new(0));
        let writer = tokio::spawn(write_frames(write, frames, waiting.clone()));
        self.viewers.push(Viewer { id, name: String::new(), watches: false, queue, waiting, missed: 0 });
        let said = self.said.clone();
        tokio::spawn(async move {
            let mut read = BufReader::new(read);
            while let Ok(Some(message)) = frame::read(&mut read).await {
                if said.send((id, Said::Message(message))).await.is_err() {
                    return;
                }
            }
            writer.abort();
            // Nobody listens any more when the supervisor is ending.
            let _ = said.send((id, Said::Gone)).await;
        });
    }

    /// The viewer left.
    pub fn remove(&mut self, id: ViewerId) {
        self.viewers.retain(|viewer| viewer.id != id);
    }

    /// The viewer said who it is and whether it wants events.
    pub fn greet(&mut self, id: ViewerId, name: String, watches: bool) {
        if let Some(viewer) = self.viewers.iter_mut().find(|viewer| viewer.id == id) {
            (viewer.name, viewer.watches) = (name, watches);
        }
    }

    /// Who that is, for the timeline.
    pub fn name(&self, id: ViewerId) -> String {
        let viewer = self.viewers.iter().find(|viewer| viewer.id == id);
        viewer
            .map(|viewer| viewer.name.clone())
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| "a viewer".into())
    }

    /// Sends a message to one viewer. A viewer with a full queue does not get it.
    pub fn send(&mut self, id: ViewerId, message: &ToViewer) {
        let Some(viewer) = self.viewers.iter().find(|viewer| viewer.id == id) else { return };
        match frame::encode(message) {
            // A viewer that is this far behind asks again or leaves.
            Ok(bytes) => drop(viewer.offer(bytes.into())),
            Err(error) => tracing::warn!(%error, "cannot send to a viewer"),
        }
    }

    /// Sends what happened to all that watch. A viewer that was behind and has room again gets a snapshot instead.
    pub fn broadcast(&mut self, events: &[Event], state: &State) {
        if events.is_empty() || !self.is_watched() {
            return;
        }
        let message = ToViewer::Events { events: events.to_vec() };
        self.spread(&message, events.len() as u64, |lost| ToViewer::Snapshot {
            state: Box::new(state.clone()),
            lost,
        });
    }

    /// Whether anybody wants events.
    pub fn is_watched(&self) -> bool {
        self.viewers.iter().any(|viewer| viewer.watches)
    }

    /// Sends a message that stands for `events` events to all that watch. A viewer that was behind and has room again
    /// gets what `snapshot` makes of the number of events that it missed.
    pub fn spread(&mut self, message: &ToViewer, events: u64, snapshot: impl Fn(u64) -> ToViewer) {
        let Ok(bytes) = frame::encode(message).map(Arc::<[u8]>::from) else { return };
        for viewer in self.viewers.iter_mut().filter(|viewer| viewer.watches) {
            if viewer.missed > 0 {
                viewer.missed += events;
                if viewer.queue.capacity() < QUEUE / 2 {
                    continue;
                }
                if let Ok(bytes) = frame::encode(&snapshot(viewer.missed))
                    && viewer.offer(bytes.into())
                {
                    viewer.missed = 0;
                }
            } else if !viewer.offer(bytes.clone()) {
                viewer.missed = events.max(1);
            }
        }
    }

    /// Says goodbye to all and lets what they still have to get go out.
    pub fn close(&mut self, text: &str) {
        for id in self.viewers.iter().map(|viewer| viewer.id).collect::<Vec<_>>() {
            self.send(id, &ToViewer::Bye { text: text.into() });
        }
        self.viewers.clear();
    }

    /// Whether a viewer reads what it asks for. One that does not gets no more pages made for it.
    pub fn keeps_up(&self, id: ViewerId) -> bool {
        let viewer = self.viewers.iter().find(|viewer| viewer.id == id);
        viewer.is_some_and(|viewer| viewer.waiting.load(Ordering::Relaxed) < MAX_WAITING / 2)
    }

    /// How many are connected.
    pub fn len(&self) -> usize {
        self.viewers.len()
    }

    /// Whether nobody is connected.
    pub fn is_empty(&self) -> bool {
        self.viewers.is_empty()
    }
}

async fn write_frames<W: AsyncWrite + Unpin>(
    mut write: W,
    mut frames: mpsc::Receiver<Arc<[u8]>>,
    waiting: Arc<AtomicUsize>,
) {
    while let Some(bytes) = frames.recv().await {
        if write.write_all(&bytes).await.is_err() {
            return;
        }
        waiting.fetch_sub(bytes.len(), Ordering::Relaxed);
    }
    // The other side may be gone already; then there is nobody to tell.
    let _: io::Result<()> = write.shutdown().await;
}

fn refuse(mut stream: UnixStream, text: String) {
    tokio::spawn(async move {
        // Whoever is refused may be gone already.
        let _ = frame::write(&mut stream, &ToViewer::Bye { text }).await;
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{event::Fact, time::Stamp},
        wire::link::Link,
    };

    fn note(seq: u64) -> Event {
        Event { seq, at: Stamp(seq), fact: Fact::Note { text: "x".repeat(1000) } }
    }

    #[test]
    fn the_bytes_that_wait_for_a_viewer_are_bounded() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (mut hub, _said) = Hub::new();
            let (_near, far) = tokio::io::duplex(4096);
            let (read, write) = tokio::io::split(far);
            hub.add(read, write);
            let big: Arc<[u8]> = vec![0; 5 << 20].into();
            let taken = (0..10).filter(|_| hub.viewers[0].offer(big.clone())).count();
            assert_eq!(taken, MAX_WAITING / big.len());
            assert!(hub.viewers[0].offer(vec![0; 100].into()), "an answer to a command");
        });
    }

    #[test]
    fn a_viewer_that_stops_reading_gets_a_snapshot_later_and_costs_a_bounded_queue() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (mut hub, mut said) = Hub::new();
            // The pipe holds about four frames.
            let (near, far) = tokio::io::duplex(4096);
            let (read, write) = tokio::io::split(far);
            hub.add(read, write);
            let id = hub.viewers[0].id;
            hub.greet(id, "slow".into(), true);
            let mut state = State::default();
            for seq in 1..=500 {
                state.apply(&note(seq));
                hub.broadcast(&[note(seq)], &state);
                tokio::task::yield_now().await;
            }
            assert!(hub.viewers[0].missed > 300, "{}", hub.viewers[0].missed);
            assert_eq!(hub.viewers[0].queue.capacity(), 0);

            let (read, write) = tokio::io::split(near);
            let mut link = Link::over(read, write);
            let mut seen = 0;
            while hub.viewers[0].queue.capacity() < QUEUE {
                assert!(matches!(link.incoming.recv().await, Some(ToViewer::Events { .. })));
                seen += 1;
            }
            state.apply(&note(501));
            hub.broadcast(&[note(501)], &state);
            let lost = loop {
                match link.incoming.recv().await.unwrap() {
                    ToViewer::Snapshot { state, lost } => {
                        assert_eq!(state.seq, 501);
                        break lost;
                    }
                    _ => seen += 1,
                }
            };
            assert_eq!(seen + lost, 501, "every event was sent or counted");

            drop(link);
            assert!(matches!(said.recv().await, Some((gone, Said::Gone)) if gone == id));
        });
    }
}
