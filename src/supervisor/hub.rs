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
        link::{FarEnd, Link, QUEUE},
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
    queue: Queue,
    /// Events that it missed since its queue was full.
    missed: u64,
}

/// Where messages for a viewer wait.
#[derive(Debug)]
enum Queue {
    /// Frames for a stream.
    Frames {
        frames: mpsc::Sender<Arc<[u8]>>,
        /// Bytes in the queue, and in the frame that is being written.
        waiting: Arc<AtomicUsize>,
    },
    /// Messages for a viewer inside of this process, which need no bytes.
    Messages(mpsc::Sender<ToViewer>),
}

impl Queue {
    /// Hands a message over, or not: then the viewer is too far behind, or nobody can read the message. `bytes` keeps
    /// its frames for the next viewer.
    fn offer(&self, message: &ToViewer, bytes: &mut Option<Vec<Arc<[u8]>>>) -> bool {
        match self {
            Queue::Messages(messages) => messages.try_send(message.clone()).is_ok(),
            Queue::Frames { frames, waiting } => {
                if bytes.is_none() {
                    match message.frames() {
                        Ok(all) => *bytes = Some(all.into_iter().map(Arc::from).collect()),
                        Err(error) => tracing::warn!(%error, "cannot send to a viewer"),
                    }
                }
                bytes.as_ref().is_some_and(|bytes| offer_frames(frames, waiting, bytes))
            }
        }
    }

    /// Room for messages.
    fn room(&self) -> usize {
        match self {
            Queue::Frames { frames, .. } => frames.capacity(),
            Queue::Messages(messages) => messages.capacity(),
        }
    }

    /// Whether what waits has been taken for the most part.
    fn keeps_up(&self) -> bool {
        match self {
            Queue::Frames { waiting, .. } => waiting.load(Ordering::Relaxed) < MAX_WAITING / 2,
            Queue::Messages(messages) => messages.capacity() > QUEUE * 7 / 8,
        }
    }
}

/// Takes all frames of one message, or none.
fn offer_frames(frames: &mpsc::Sender<Arc<[u8]>>, waiting: &AtomicUsize, bytes: &[Arc<[u8]>]) -> bool {
    let length: usize = bytes.iter().map(|frame| frame.len()).sum();
    let before = waiting.load(Ordering::Relaxed);
    if before > 0 && before + length > MAX_WAITING && length > SMALL {
        return false;
    }
    // The other side is gone, or has too much to read.
    let Ok(places) = frames.try_reserve_many(bytes.len()) else { return false };
    waiting.fetch_add(length, Ordering::Relaxed);
    places.zip(bytes).for_each(|(place, frame)| place.send(Arc::clone(frame)));
    true
}

/// All viewers of one supervisor.
#[derive(Debug)]
pub struct Hub {
    viewers: Vec<Viewer>,
    next: u64,
    said: mpsc::Sender<(ViewerId, Said)>,
    /// Events that viewers get with the next [`Hub::flush`].
    untold: Vec<Event>,
}

impl Hub {
    /// A hub, and where it tells what viewers say.
    pub fn new() -> (Hub, mpsc::Receiver<(ViewerId, Said)>) {
        let (said, hears) = mpsc::channel(QUEUE);
        (Hub { viewers: Vec::new(), next: 0, said, untold: Vec::new() }, hears)
    }

    /// A hub with one viewer inside of this process, and that viewer's end of the link.
    pub fn for_one() -> (Hub, mpsc::Receiver<(ViewerId, Said)>, Link) {
        let (mut hub, said) = Hub::new();
        let (link, far) = Link::pair();
        hub.add_near(far);
        (hub, said, link)
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
        let (queue, frames) = mpsc::channel(QUEUE);
        let waiting = Arc::new(AtomicUsize::new(0));
        let writer = tokio::spawn(write_frames(write, frames, waiting.clone()));
        let id = self.join(Queue::Frames { frames: queue, waiting });
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

    /// Adds a viewer inside of this process.
    pub fn add_near(&mut self, far: FarEnd) {
        let FarEnd { mut incoming, outgoing } = far;
        let id = self.join(Queue::Messages(outgoing));
        let said = self.said.clone();
        tokio::spawn(async move {
            while let Some(message) = incoming.recv().await {
                if said.send((id, Said::Message(message))).await.is_err() {
                    return;
                }
            }
            let _ = said.send((id, Said::Gone)).await;
        });
    }

    fn join(&mut self, queue: Queue) -> ViewerId {
        let id = ViewerId(self.next);
        self.next += 1;
        self.viewers.push(Viewer { id, name: String::new(), watches: false, queue, missed: 0 });
        id
    }

    /// The viewer left.
    pub fn remove(&mut self, id: ViewerId) {
        self.viewers.retain(|viewer| viewer.id != id);
    }

    /// The viewer said who it is and whether it wants events: those from now on.
    pub fn greet(&mut self, id: ViewerId, name: String, watches: bool) {
        self.tell_events(None);
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

    /// Sends a message to one viewer, after the events that come before it. A viewer with a full queue does not get it.
    pub fn send(&mut self, id: ViewerId, message: &ToViewer) {
        self.tell_events(None);
        if let Some(viewer) = self.viewers.iter().find(|viewer| viewer.id == id) {
            // A viewer that is this far behind asks again or leaves.
            viewer.queue.offer(message, &mut None);
        }
    }

    /// Keeps what happened for all that watch until the next [`Hub::flush`], or a message to one of them.
    pub fn tell(&mut self, events: &[Event]) {
        if self.is_watched() {
            self.untold.extend_from_slice(events);
        }
    }

    /// Sends what happened to all that watch: one message. A viewer that was behind and has room again gets a snapshot
    /// instead.
    pub fn flush(&mut self, state: &State) {
        self.tell_events(Some(state));
    }

    /// Without a state, viewers that are behind stay so.
    fn tell_events(&mut self, state: Option<&State>) {
        if self.untold.is_empty() {
            return;
        }
        let message = ToViewer::Events { events: std::mem::take(&mut self.untold) };
        let ToViewer::Events { events } = &message else { return };
        let mut bytes = None;
        for viewer in self.viewers.iter_mut().filter(|viewer| viewer.watches) {
            if viewer.missed > 0 {
                viewer.missed += events.len() as u64;
                let Some(state) = state.filter(|_| viewer.queue.room() >= QUEUE / 2) else { continue };
                let snapshot = ToViewer::Snapshot { state: Box::new(state.clone()), lost: viewer.missed };
                if viewer.queue.offer(&snapshot, &mut None) {
                    viewer.missed = 0;
                }
            } else if !viewer.queue.offer(&message, &mut bytes) {
                viewer.missed = events.len() as u64;
            }
        }
    }

    /// Whether anybody wants events.
    pub fn is_watched(&self) -> bool {
        self.viewers.iter().any(|viewer| viewer.watches)
    }

    /// Sends a message that stands for `events` events to all that watch. A viewer that was behind and has room again
    /// gets what `snapshot` makes of the number of events that it missed.
    pub fn spread(&mut self, message: &ToViewer, events: u64, snapshot: impl Fn(u64) -> ToViewer) {
        let mut bytes = None;
        for viewer in self.viewers.iter_mut().filter(|viewer| viewer.watches) {
            if viewer.missed > 0 {
                viewer.missed += events;
                if viewer.queue.room() >= QUEUE / 2 && viewer.queue.offer(&snapshot(viewer.missed), &mut None)
                {
                    viewer.missed = 0;
                }
            } else if !viewer.queue.offer(message, &mut bytes) {
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
        viewer.is_some_and(|viewer| viewer.queue.keeps_up())
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
    use crate::domain::{event::Fact, time::Stamp};

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
            let Queue::Frames { frames, waiting } = &hub.viewers[0].queue else { panic!("a stream") };
            let offered = |frame: Arc<[u8]>| offer_frames(frames, waiting, &[frame]);
            let taken = (0..10).filter(|_| offered(big.clone())).count();
            assert_eq!(taken, MAX_WAITING / big.len());
            assert!(offered(vec![0; 100].into()), "an answer to a command");
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
                hub.tell(&[note(seq)]);
                hub.flush(&state);
                tokio::task::yield_now().await;
            }
            assert!(hub.viewers[0].missed > 300, "{}", hub.viewers[0].missed);
            assert_eq!(hub.viewers[0].queue.room(), 0);

            let (read, write) = tokio::io::split(near);
            let mut link = Link::over(read, write);
            let mut seen = 0;
            while hub.viewers[0].queue.room() < QUEUE {
                assert!(matches!(link.incoming.recv().await, Some(ToViewer::Events { .. })));
                seen += 1;
            }
            state.apply(&note(501));
            hub.tell(&[note(501)]);
            hub.flush(&state);
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
