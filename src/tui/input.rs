//! Keys, mouse and size of the terminal, as a stream that ends when the terminal goes away.
//!
//! crossterm's own reader does not notice that: it reads an error for ever, on the thread that polls it, and a key
//! that arrives together with a change of size can stay unread. So bytes are read here, on a thread of their own.

use std::{
    fs::File,
    io::{self, IsTerminal, PipeReader, PipeWriter},
    os::fd::{AsFd, OwnedFd},
    pin::Pin,
    task::{Context, Poll},
    thread,
};

use futures_util::Stream;
use ratatui::crossterm::{
    event::{Event, KeyCode, KeyEvent, KeyModifiers, MouseButton, MouseEvent, MouseEventKind},
    terminal::window_size,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};

/// How long the rest of an escape sequence may take; after that it was the key Esc. Networks split sequences.
const ESCAPE_WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
/// Longest escape sequence; what is longer is none.
const LONGEST: usize = 64;
/// What a terminal puts around text that was pasted, so that it is not taken for keys.
const PASTE: &[u8] = b"\x1b[200~";
const PASTE_ENDS: &[u8] = b"\x1b[201~";
/// Most bytes of pasted text that are kept.
const MOST_PASTED: usize = 4096;

/// Events that may wait for the loop; more are not read from the terminal.
const QUEUE: usize = 256;

/// The terminal's input.
pub(crate) struct Keyboard {
    events: mpsc::Receiver<io::Result<Event>>,
    resized: Signal,
    /// Closed to end the thread, so that it takes no key from who reads next.
    _stop: PipeWriter,
}

impl Keyboard {
    /// Starts to read.
    pub(crate) fn open() -> io::Result<Keyboard> {
        let terminal = terminal()?;
        let (stopped, stop) = io::pipe()?;
        let (sender, events) = mpsc::channel(QUEUE);
        let resized = signal(SignalKind::window_change())?;
        thread::Builder::new().name("keys".into()).spawn(move || read(&terminal, &stopped, &sender))?;
        Ok(Keyboard { events, resized, _stop: stop })
    }
}

impl Stream for Keyboard {
    type Item = io::Result<Event>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Event>>> {
        if self.resized.poll_recv(cx).is_ready()
            && let Ok(size) = size()
        {
            // The signal is asked again on the next poll; until then its waker is not registered.
            cx.waker().wake_by_ref();
            return Poll::Ready(Some(Ok(Event::Resize(size.0, size.1))));
        }
        self.events.poll_recv(cx)
    }
}

/// Columns and rows of the terminal.
pub(crate) fn size() -> io::Result<(u16, u16)> {
    window_size().map(|size| (size.columns, size.rows))
}

/// Where crossterm reads from.
fn terminal() -> io::Result<OwnedFd> {
    let stdin = io::stdin();
    if stdin.is_terminal() { stdin.as_fd().try_clone_to_owned() } else { Ok(File::open("/dev/tty")?.into()) }
}

const GONE: PollFlags = PollFlags::HUP.union(PollFlags::ERR).union(PollFlags::NVAL);

fn read(terminal: &OwnedFd, stopped: &PipeReader, events: &mpsc::Sender<io::Result<Event>>) {
    let mut pending: Vec<u8> = Vec::new();
    let mut pasted = None;
    loop {
        let mut fds = [PollFd::new(terminal, PollFlags::IN), PollFd::new(stopped, PollFlags::empty())];
        let wait = if pending.is_empty() { None } else { Some(&ESCAPE_WAIT) };
        let ready = match poll(&mut fds, wait) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return,
            Ok(ready) => ready,
        };
        if !fds[1].revents().is_empty() || fds[0].revents().intersects(GONE) {
            return;
        }
        if ready > 0 {
            let mut bytes = [0; 1024];
            match rustix::io::read(terminal, &mut bytes) {
                Ok(0) => return,
                Ok(n) => pending.extend(&bytes[..n]),
                Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
                Err(_) => return,
            }
        }
        let more_may_come = ready > 0;
        while let Some((taken, event)) = next(&pending, &mut pasted, more_may_come) {
            pending.drain(..taken);
            if event.is_some_and(|event| events.blocking_send(Ok(event)).is_err()) {
                return;
            }
        }
    }
}

/// As [`parse`]; in the middle of a paste there is text in `pasted`.
fn next(bytes: &[u8], pasted: &mut Option<Vec<u8>>, more_may_come: bool) -> Option<(usize, Option<Event>)> {
    let Some(text) = pasted else {
        if bytes.starts_with(PASTE) {
            *pasted = Some(Vec::new());
            return Some((PASTE.len(), None));
        }
        return parse(bytes, more_may_come);
    };
    let end = bytes.windows(PASTE_ENDS.len()).position(|window| window == PASTE_ENDS);
    // What may be the beginning of its end waits for the rest.
    let whole = end.unwrap_or(bytes.len().saturating_sub(PASTE_ENDS.len() - 1));
    text.extend(&bytes[..whole]);
    text.truncate(MOST_PASTED);
    if end.is_none() {
        return (whole > 0).then_some((whole, None));
    }
    let text = String::from_utf8_lossy(text).into_owned();
    *pasted = None;
    Some((whole + PASTE_ENDS.len(), Some(Event::Paste(text))))
}

/// The first event of `bytes`, and how many of them it took; `None` while it is not complete.
fn parse(bytes: &[u8], more_may_come: bool) -> Option<(usize, Option<Event>)> {
    let key = |taken, code| Some((taken, Some(Event::Key(KeyEvent::new(code, KeyModifiers::NONE)))));
    // What will not get complete is dropped, but for an escape character alone.
    let incomplete = |taken| (!more_may_come || bytes.len() > LONGEST).then_some((taken, None));
    match *bytes.first()? {
        0x1b => match bytes.get(1) {
            None if more_may_come => None,
            None | Some(0x1b) => key(1, KeyCode::Esc),
            Some(b'[') => match (bytes.get(2), bytes.get(3)) {
                // The Linux console's F1 to F5.
                (Some(b'['), Some(letter @ b'A'..=b'E')) => key(4, KeyCode::F(letter - b'A' + 1)),
                (Some(b'['), None) => incomplete(3),
                _ => match bytes[2..].iter().take(LONGEST).position(|byte| (0x40..0x7f).contains(byte)) {
                    Some(end) => Some((end + 3, sequence(&bytes[2..end + 2], bytes[end + 2]))),
                    None => incomplete(bytes.len()),
                },
            },
            Some(b'O') => match bytes.get(2) {
                Some(letter) => Some((3, sequence(b"", *letter))),
                None => incomplete(2),
            },
            Some(_) => {
                let (taken, event) = parse(&bytes[1..], more_may_come)?;
                let event = event.map(|event| match event {
                    Event::Key(key) => Event::Key(KeyEvent::new(key.code, key.modifiers | KeyModifiers::ALT)),
                    other => other,
                });
                Some((taken + 1, event))
            }
        },
        b'\r' | b'\n' => key(1, KeyCode::Enter),
        b'\t' => key(1, KeyCode::Tab),
        0x7f | 0x08 => key(1, KeyCode::Backspace),
        control @ 0x01..=0x1a => {
            let code = KeyCode::Char(char::from(control - 1 + b'a'));
            Some((1, Some(Event::Key(KeyEvent::new(code, KeyModifiers::CONTROL)))))
        }
        0x00..=0x1f => Some((1, None)),
        first => {
            let length = match first {
                0x00..0x80 => 1,
                0xc0..0xe0 => 2,
                0xe0..0xf0 => 3,
                0xf0..0xf8 => 4,
                _ => return Some((1, None)),
            };
            let Some(whole) = bytes.get(..length) else { return incomplete(bytes.len()) };
            match std::str::from_utf8(whole).ok().and_then(|text| text.chars().next()) {
                Some(c) => key(length, KeyCode::Char(c)),
                None => Some((1, None)),
            }
        }
    }
}

/// What `ESC [ parameters letter` means; `ESC O letter` has no parameters.
fn sequence(parameters: &[u8], letter: u8) -> Option<Event> {
    let text = std::str::from_utf8(parameters).ok()?;
    if let Some(mouse) = text.strip_prefix('<') {
        return mouse_event(mouse, letter);
    }
    let mut numbers = text.split(';').map(|number| number.parse::<u8>().unwrap_or(0));
    let (first, second) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let code = match letter {
        b'A' => KeyCode::Up,
        b'B' => KeyCode::Down,
        b'C' => KeyCode::Right,
        b'D' => KeyCode::Left,
        b'H' => KeyCode::Home,
        b'F' => KeyCode::End,
        b'M' => KeyCode::Enter,
        b'P'..=b'S' => KeyCode::F(letter - b'P' + 1),
        b'Z' => KeyCode::BackTab,
        b'~' => match first {
            1 | 7 => KeyCode::Home,
            2 => KeyCode::Insert,
            3 => KeyCode::Delete,
            4 | 8 => KeyCode::End,
            5 => KeyCode::PageUp,
            6 => KeyCode::PageDown,
            11..=15 => KeyCode::F(first - 10),
            17..=21 => KeyCode::F(first - 11),
            23 | 24 => KeyCode::F(first - 12),
            _ => return None,
        },
        _ => return None,
    };
    // 1 and a sum of Shift 1, Alt 2, Control 4.
    let held = second.saturating_sub(1);
    let mut modifiers = KeyModifiers::NONE;
    for (bit, modifier) in [(1, KeyModifiers::SHIFT), (2, KeyModifiers::ALT), (4, KeyModifiers::CONTROL)] {
        if held & bit != 0 {
            modifiers |= modifier;
        }
    }
    Some(Event::Key(KeyEvent::new(code, modifiers)))
}

/// `button;column;row` and `M` for pressed; places count from 1. Moves and releases mean nothing here.
fn mouse_event(text: &str, letter: u8) -> Option<Event> {
    let mut numbers = text.split(';').map(|number| number.parse::<u16>().ok());
    let (button, column, row) = (numbers.next()??, numbers.next()??, numbers.next()??);
    let kind = match button {
        0 if letter == b'M' => MouseEventKind::Down(MouseButton::Left),
        64 => MouseEventKind::ScrollUp,
        65 => MouseEventKind::ScrollDown,
        _ => return None,
    };
    let (column, row) = (column.saturating_sub(1), row.saturating_sub(1));
    Some(Event::Mouse(MouseEvent { kind, column, row, modifiers: KeyModifiers::NONE }))
}

/// Whether the terminal hung up.
pub(crate) fn hung_up() -> bool {
    let stdin = io::stdin();
    let mut fds = [PollFd::new(&stdin, PollFlags::empty())];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok() && fds[0].revents().intersects(GONE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tui::keys;

    /// Names of the keys in `bytes`, which come all at once and are all that comes.
    fn names(bytes: &[u8]) -> Vec<String> {
        let (mut rest, mut names) = (bytes, Vec::new());
        while let Some((taken, event)) = parse(rest, false) {
            rest = &rest[taken..];
            match event {
                Some(Event::Key(key)) => names.push(keys::name(&key)),
                Some(other) => names.push(format!("{other:?}")),
                None => {}
            }
        }
        names
    }

    #[test]
    fn keys_are_read_in_all_their_spellings() {
        assert_eq!(names(b"jQ\r\t\x7f \x03"), ["j", "Q", "Enter", "Tab", "Backspace", "Space", "Ctrl-C"]);
        assert_eq!(names(b"\x1b[A\x1bOB\x1b[1~\x1b[F\x1b[5~"), ["Up", "Down", "Home", "End", "PgUp"]);
        assert_eq!(names(b"\x1bOP\x1b[20~\x1b[21~\x1b[[A\x1b[13~"), ["F1", "F9", "F10", "F1", "F3"]);
        assert_eq!(names(b"\x1b[Z\x1b[1;5C\x1bx"), ["Shift-Tab", "Ctrl-Right", "Alt-x"]);
        assert_eq!(names("é漢".as_bytes()), ["é", "漢"]);
        assert_eq!(names(b"\x1b"), ["Esc"]);
        assert_eq!(names(b"\x1b\x1b[A"), ["Esc", "Up"]);
        assert_eq!(names(b"\xff\xc3j"), ["j"], "what is no text is left out");
    }

    #[test]
    fn a_sequence_that_the_network_split_is_one_key() {
        for whole in [&b"\x1b[5~"[..], b"\x1bOP", b"\x1b[<0;3;4M", "漢".as_bytes(), b"\x1b[[A"] {
            for cut in 1..whole.len() {
                assert_eq!(parse(&whole[..cut], true), None, "{whole:?} cut at {cut}");
            }
            assert_eq!(parse(whole, true).unwrap().0, whole.len());
        }
    }

    #[test]
    fn pasted_text_is_no_keys_however_the_network_splits_it() {
        let whole = "j\u{1b}[200~R\r\u{1b}[A é\u{1b}[201~k".as_bytes();
        for cut in 0..=whole.len() {
            let (mut pending, mut pasted, mut seen) = (Vec::new(), None, Vec::new());
            for part in [&whole[..cut], &whole[cut..]] {
                pending.extend(part);
                while let Some((taken, event)) = next(&pending, &mut pasted, true) {
                    pending.drain(..taken);
                    seen.extend(event);
                }
            }
            let key = |c| Event::Key(KeyEvent::new(KeyCode::Char(c), KeyModifiers::NONE));
            assert_eq!(seen, [key('j'), Event::Paste("R\r\u{1b}[A é".into()), key('k')], "cut at {cut}");
        }
    }

    #[test]
    fn the_mouse_counts_from_the_corner() {
        let (_, event) = parse(b"\x1b[<0;3;4M", true).unwrap();
        let Some(Event::Mouse(event)) = event else { panic!("{event:?}") };
        assert_eq!((event.column, event.row), (2, 3));
        assert_eq!(parse(b"\x1b[<0;3;4m", true).unwrap().1, None, "released");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_taken(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let mut rest = &bytes[..];
            while let Some((taken, _)) = parse(rest, false) {
                proptest::prop_assert!(taken > 0);
                rest = &rest[taken..];
            }
            proptest::prop_assert!(rest.is_empty());
        }
    }
}
