//! The forms in which stacks come. All are untrusted: what is missing is left out, what is too long is cut.

use serde_json::Value;

use super::{Frame, MAX_FRAMES, MAX_THREADS, Thread};

/// Longest name or file, in bytes.
const MAX_TEXT: usize = 512;

/// What `py-spy dump --json` prints; `None` when it is no such thing. `pid` tells the main thread.
pub fn of_py_spy(bytes: &[u8], pid: i32) -> Option<Vec<Thread>> {
    let value: Value = serde_json::from_slice(bytes).ok()?;
    let thread = |value: &Value| {
        let name = value.get("thread_name").and_then(Value::as_str).map(clean);
        let os_thread = value.get("os_thread_id").and_then(Value::as_i64);
        let is_main =
            os_thread == Some(pid.into()) || (os_thread.is_none() && name.as_deref() == Some("MainThread"));
        let holds_gil = value.get("owns_gil").and_then(Value::as_bool);
        Some(Thread { name, is_main, holds_gil, frames: frames(value.get("frames")?)? })
    };
    value.as_array()?.iter().take(MAX_THREADS).map(thread).collect()
}

/// What the injected thread writes; `None` when it is no such thing.
pub fn of_thread(bytes: &[u8]) -> Option<Vec<Thread>> {
    let value: Value = serde_json::from_slice(bytes).ok()?;
    let thread = |value: &Value| {
        let is_main = value.get("is_main").and_then(Value::as_bool).unwrap_or(false);
        Some(Thread { name: None, is_main, holds_gil: None, frames: frames(value.get("frames")?)? })
    };
    value.get("threads")?.as_array()?.iter().take(MAX_THREADS).map(thread).collect()
}

fn frames(value: &Value) -> Option<Vec<Frame>> {
    let text = |frame: &Value, name| frame.get(name).and_then(Value::as_str).map(clean).unwrap_or_default();
    let frame = |frame: &Value| Frame {
        name: text(frame, "name"),
        file: text(frame, "filename"),
        line: frame
            .get("line")
            .and_then(Value::as_u64)
            .and_then(|line| u32::try_from(line).ok())
            .unwrap_or(0),
    };
    Some(value.as_array()?.iter().take(MAX_FRAMES).map(frame).collect())
}

/// What Python's `faulthandler` prints, as torch's worker server does: the main thread comes last. Threads without
/// Python code, such as the server's own, are left out.
pub fn of_traceback(text: &str) -> Vec<Thread> {
    let mut threads: Vec<Thread> = Vec::new();
    for line in text.lines() {
        let is_head = line.starts_with("Thread 0x") || line.starts_with("Current thread 0x");
        if is_head {
            if threads.len() == MAX_THREADS {
                // The last is the main one: what is dropped is one before it.
                threads.remove(0);
            }
            threads.push(Thread::default());
        } else if let (Some(thread), Some(frame)) = (threads.last_mut(), traceback_line(line))
            && thread.frames.len() < MAX_FRAMES
        {
            thread.frames.push(frame);
        }
    }
    threads.retain(|thread| !thread.frames.is_empty());
    if let Some(main) = threads.last_mut() {
        main.is_main = true;
    }
    threads
}

/// `  File "/x/train.py", line 28 in step`
fn traceback_line(line: &str) -> Option<Frame> {
    let (file, rest) = line.trim_start().strip_prefix("File \"")?.rsplit_once("\", line ")?;
    let (number, name) = rest.split_once(" in ")?;
    Some(Frame { name: clean(name), file: clean(file), line: number.parse().unwrap_or(0) })
}

/// Cut, and without control characters: it ends on a terminal.
fn clean(text: &str) -> String {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].chars().filter(|c| !c.is_control()).collect()
}
