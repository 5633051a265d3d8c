//! The terminal: taken and given back whatever happens, and written to without ever waiting for it.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::AsFd,
    sync::{
        Arc, Mutex, Once, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, Thread},
    time::{Duration, Instant},
};

use ratatui::{
    buffer::{Buffer, Cell},
    crossterm::{
        clipboard::CopyToClipboard,
        cursor::{Hide, Show},
        event::{DisableBracketedPaste, DisableMouseCapture, EnableBracketedPaste, EnableMouseCapture},
        queue,
        style::ResetColor,
        terminal::{
            BeginSynchronizedUpdate, EndSynchronizedUpdate, EnterAlternateScreen, LeaveAlternateScreen,
            disable_raw_mode, enable_raw_mode,
        },
    },
    layout::Rect,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{
    canvas::Canvas,
    encode::{encode_up_to, erase},
    links::{Link, encode_links},
    picture::Picture,
};

/// Takes the bytes of frames.
pub(crate) trait Sink: Send {
    /// Whether the last bytes are out. While they are not, nothing may be sent.
    fn is_idle(&self) -> bool;
    /// Whether the terminal is gone.
    fn is_broken(&self) -> bool;
    /// Writes, at some time.
    fn send(&mut self, bytes: Vec<u8>);
}

/// A thread that writes to the terminal, one frame at a time. A terminal that stops reading holds up this thread and
/// nothing else; frames are not queued, the next one that is drawn has all that is new.
pub(crate) struct Writer {
    desk: Arc<Desk>,
    thread: Thread,
}

/// What the program and the writing thread share.
#[derive(Default)]
struct Desk {
    frame: Mutex<Option<Vec<u8>>>,
    busy: AtomicBool,
    broken: AtomicBool,
    over: AtomicBool,
}

impl Desk {
    fn take(&self) -> Option<Vec<u8>> {
        self.frame.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Writes what is put down here, until it is over.
    fn work(&self, out: &File) {
        while !self.over.load(Ordering::Acquire) {
            let Some(bytes) = self.take() else {
                // One that was put down in between wakes at once.
                thread::park();
                continue;
            };
            if write_all(out, &bytes).is_err() {
                self.broken.store(true, Ordering::Release);
            }
            self.busy.store(false, Ordering::Release);
        }
    }
}

impl Writer {
    /// A writer to standard output.
    pub(crate) fn new() -> io::Result<Writer> {
        let out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        let desk = Arc::new(Desk::default());
        let theirs = Arc::clone(&desk);
        let writing = thread::Builder::new().name("screen".into()).spawn(move || theirs.work(&out))?;
        Ok(Writer { desk, thread: writing.thread().clone() })
    }
}

impl Sink for Writer {
    fn is_idle(&self) -> bool {
        !self.desk.busy.load(Ordering::Acquire)
    }

    fn is_broken(&self) -> bool {
        self.desk.broken.load(Ordering::Acquire)
    }

    fn send(&mut self, bytes: Vec<u8>) {
        self.desk.busy.store(true, Ordering::Release);
        *self.desk.frame.lock().unwrap_or_else(PoisonError::into_inner) = Some(bytes);
        // After the lock is free, so that the thread that wakes does not wait for it.
        self.thread.unpark();
    }
}

impl Drop for Writer {
    /// Gives the last frame a moment, so that it does not come after the terminal was given back.
    fn drop(&mut self) {
        let patience = Instant::now() + Duration::from_millis(200);
        while !self.is_idle() && Instant::now() < patience {
            thread::sleep(Duration::from_millis(5));
        }
        self.desk.over.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

/// Writes all bytes, also where standard output shares a non-blocking standard input.
fn write_all(mut out: &File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match out.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => bytes = &bytes[n..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                poll(&mut [PollFd::new(&out, PollFlags::OUT)], None)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

static TAKEN: AtomicBool = AtomicBool::new(false);

/// The terminal while it is ours: raw, on the alternate screen. Given back on drop and on panic.
pub(crate) struct Guard(());

impl Guard {
    pub(crate) fn take(mouse: bool) -> io::Result<Guard> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                give_back();
                before(info);
            }));
        });
        enable_raw_mode()?;
        TAKEN.store(true, Ordering::Release);
        let guard = Guard(());
        let mut bytes = Vec::new();
        queue!(bytes, EnterAlternateScreen, EnableBracketedPaste, Hide)?;
        if mouse {
            queue!(bytes, EnableMouseCapture)?;
        }
        let mut out = io::stdout();
        out.write_all(&bytes)?;
        out.flush()?;
        Ok(guard)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        give_back();
    }
}

fn give_back() {
    if !TAKEN.swap(false, Ordering::AcqRel) {
        return;
    }
    // A terminal that does not read must not keep the program from ending.
    let out = io::stdout();
    let writable =
        poll(&mut [PollFd::new(&out, PollFlags::OUT)], Some(&Timespec { tv_sec: 0, tv_nsec: 200_000_000 }));
    if writable.is_ok_and(|ready| ready > 0) {
        let mut bytes = Vec::new();
        let queued = queue!(
            bytes,
            EndSynchronizedUpdate,
            DisableMouseCapture,
            DisableBracketedPaste,
            ResetColor,
            LeaveAlternateScreen,
            Show
        );
        if queued.is_ok() {
            let mut out = out.lock();
            let _ = out.write_all(&bytes).and_then(|()| out.flush());
        }
    }
    let _ = disable_raw_mode();
}

/// What the terminal shows, and the bytes that make it show something else.
pub(crate) struct Screen {
    sink: Box<dyn Sink>,
    shown: Picture,
    /// Where the terminal has links.
    links: Vec<Link>,
    /// What is drawn into; what it holds before does not matter.
    next: Canvas,
    sent: usize,
    /// Whether it is not known what the terminal shows.
    blank: bool,
    erases_in_colour: bool,
    /// Bytes that go out with the next frame.
    extra: Vec<u8>,
}

impl Screen {
    pub(crate) fn new(sink: Box<dyn Sink>, size: (u16, u16)) -> Screen {
        let next = Canvas::new(Buffer::empty(Rect::new(0, 0, size.0, size.1)));
        Screen {
            sink,
            shown: Picture::filled(next.area(), &Cell::EMPTY),
            links: Vec::new(),
            next,
            sent: 0,
            blank: true,
            erases_in_colour: true,
            extra: Vec::new(),
        }
    }

    /// For a terminal that erases to its own ground, whatever the colour of the moment.
    pub(crate) fn erasing_plainly(self, plainly: bool) -> Screen {
        Screen { erases_in_colour: !plainly, ..self }
    }

    pub(crate) fn resize(&mut self, size: (u16, u16)) {
        self.next = Canvas::new(Buffer::empty(Rect::new(0, 0, size.0, size.1)));
        self.shown = Picture::filled(self.next.area(), &Cell::EMPTY);
        self.blank = true;
    }

    /// Draws all of it the next time.
    pub(crate) fn forget(&mut self) {
        self.blank = true;
    }

    pub(crate) fn capture_mouse(&mut self, on: bool) -> io::Result<()> {
        if on { queue!(self.extra, EnableMouseCapture) } else { queue!(self.extra, DisableMouseCapture) }
    }

    /// Puts text on the terminal's clipboard, where it lets programs do that.
    pub(crate) fn yank(&mut self, text: &str) -> io::Result<()> {
        queue!(self.extra, CopyToClipboard::to_clipboard_from(text))
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.sink.is_broken()
    }

    /// Draws and sends what changed; false when the terminal has not taken the frame before yet.
    pub(crate) fn show(&mut self, draw: impl FnOnce(Rect, &mut Canvas) -> Vec<Link>) -> io::Result<bool> {
        self.sent = 0;
        if !self.sink.is_idle() {
            return Ok(false);
        }
        let before = self.next.extent().clone();
        let links = draw(self.next.area(), &mut self.next);
        debug_assert!(self.next.is_sound(), "something was drawn where the canvas does not know of it");
        let (next, mut ends) = (self.next.buffer(), before.with(self.next.extent()));
        let mut bytes = Vec::new();
        bytes.append(&mut self.extra);
        if self.blank {
            ends.fill(u16::MAX);
            let erased = erase(next, self.erases_in_colour);
            bytes.extend(erased.0);
            self.shown = erased.1;
            self.links.clear();
        }
        let turn = encode_up_to(&mut self.shown, next, &ends);
        bytes.extend(turn.bytes);
        bytes.extend(encode_links(&self.links, (next, &links), &turn.rows));
        self.links = links;
        if !bytes.is_empty() {
            let mut frame = Vec::with_capacity(bytes.len() + 16);
            queue!(frame, BeginSynchronizedUpdate)?;
            frame.extend(bytes);
            queue!(frame, EndSynchronizedUpdate)?;
            self.sent = frame.len();
            self.sink.send(frame);
        }
        self.blank = false;
        Ok(true)
    }

    /// Bytes of the last frame.
    pub(crate) fn sent(&self) -> usize {
        self.sent
    }
}
