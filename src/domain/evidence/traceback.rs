//! Python's tracebacks, line by line: which exception ends one, where in the script it was raised, and what belongs to
//! its message.

use std::collections::BTreeMap;

use super::{MAX_TEXT, Mark, cut, read_line};

/// Lines of a message after its first that are taken.
const MORE_LINES: u32 = 8;
/// Writers that are remembered: each that printed a traceback is one.
const MOST: usize = 4096;
/// The end of its first line: `Original` stands before it where a data loader passes one on.
const BEGIN: &str = "Traceback (most recent call last):";
/// Lines between two exceptions, and how the second came of the first.
const CHAINED: [(&str, &str); 2] = [
    ("The above exception was the direct cause of the following exception:", "from"),
    ("During handling of the above exception, another exception occurred:", "while handling"),
];
/// What Python says of one that ends nothing: raised by a destructor or the like.
const IGNORED: &str = "Exception ignored ";
/// Paths of what is not the script's own.
const LIBRARIES: [&str; 4] = ["/site-packages/", "/dist-packages/", "/lib/python3", "/importlib/"];

/// A line that proves something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// What. One whose message goes on in further lines is told again with each of them, longer.
    pub mark: Mark,
    /// The innermost line of the script's own in the traceback before it: `train.py:40`.
    pub at: Option<String>,
}

impl Proof {
    /// `raised ValueError at train.py:40: bad batch (from KeyError: 'x')`; `None` for what is no exception.
    pub fn raised(&self) -> Option<String> {
        let Mark::Exception { class, message, from } = &self.mark else { return None };
        let at = self.at.as_ref().map(|at| format!(" at {at}")).unwrap_or_default();
        let from = from.as_ref().map(|from| format!(" ({from})")).unwrap_or_default();
        let colon = if message.is_empty() { "" } else { ": " };
        Some(format!("raised {class}{at}{colon}{message}{from}"))
    }
}

/// Follows what several writers print, each told by a key.
#[derive(Debug)]
pub struct Tracebacks<K> {
    writers: BTreeMap<K, Traceback>,
}

#[derive(Debug, Default)]
struct Traceback {
    /// Between its first line and the exception.
    is_open: bool,
    frames: u32,
    at: Option<String>,
    /// The exception that was told last.
    last: Option<Mark>,
    /// How many lines of its message may follow.
    more: u32,
    /// How the next exception came of the last.
    chained: Option<&'static str>,
    /// The traceback that follows is of one that ends nothing.
    is_ignored: bool,
}

impl<K> Default for Tracebacks<K> {
    fn default() -> Self {
        Tracebacks { writers: BTreeMap::new() }
    }
}

impl<K: Ord> Tracebacks<K> {
    /// Takes the next line of a writer; `None` for nearly all lines.
    pub fn line(&mut self, writer: K, line: &str) -> Option<Proof> {
        let text = without_bars(without_prefix(line));
        let is_ignored = text.starts_with(IGNORED);
        if is_ignored || text.trim_end().ends_with(BEGIN) {
            if self.writers.len() >= MOST {
                self.writers.clear();
            }
            let traceback = self.writers.entry(writer).or_default();
            if is_ignored {
                traceback.is_ignored = true;
            } else {
                traceback.begin();
            }
            return None;
        }
        let Some(open) = (!self.writers.is_empty()).then(|| self.writers.get_mut(&writer)).flatten() else {
            return read_line(line).map(|mark| Proof { mark, at: None });
        };
        open.line(line, text)
    }
}

impl Traceback {
    fn begin(&mut self) {
        let (last, chained, is_ignored) = (self.last.take(), self.chained, self.is_ignored);
        *self = Traceback { is_open: true, last, chained, is_ignored, ..Traceback::default() };
    }

    fn line(&mut self, line: &str, text: &str) -> Option<Proof> {
        let is_indented = text.starts_with([' ', '\t']);
        if self.is_open && is_indented {
            self.frame(text.trim_start());
            return None;
        }
        if let Some((_, how)) = CHAINED.iter().find(|(between, _)| text.trim_end() == *between) {
            self.chained = Some(how);
            return None;
        }
        if std::mem::take(&mut self.is_ignored) {
            self.is_open = false;
            return None;
        }
        let mark = read_line(line);
        if self.is_open {
            self.is_open = false;
            let mark = mark.or_else(|| exception(text).filter(|_| self.frames > 0))?;
            return Some(self.end(mark));
        }
        if mark.is_none() && self.more > 0 && !text.trim().is_empty() {
            return self.extend(text, is_indented);
        }
        self.more = 0;
        mark.map(|mark| Proof { mark, at: None })
    }

    fn frame(&mut self, text: &str) {
        let Some((path, rest)) = text.strip_prefix("File \"").and_then(|rest| rest.split_once("\", line "))
        else {
            return;
        };
        self.frames += 1;
        let is_own = !path.starts_with('<') && !LIBRARIES.iter().any(|part| path.contains(part));
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if is_own && digits > 0 {
            let name = path.rsplit('/').next().unwrap_or(path);
            self.at = Some(format!("{}:{}", cut(name, MAX_TEXT), &rest[..digits]));
        }
    }

    /// The line that ends a traceback.
    fn end(&mut self, mut mark: Mark) -> Proof {
        let (before, how) = (self.last.take(), self.chained.take());
        if let (Mark::Exception { from, .. }, Some(Mark::Exception { class, message, .. }), Some(how)) =
            (&mut mark, before, how)
        {
            let message = if message.is_empty() { String::new() } else { format!(": {message}") };
            *from = Some(format!("{how} {class}{message}"));
        }
        self.last = Some(mark.clone());
        self.more = MORE_LINES;
        Proof { mark, at: self.at.clone() }
    }

    /// A line after the exception: of its message if it is indented, or announced by a colon.
    fn extend(&mut self, text: &str, is_indented: bool) -> Option<Proof> {
        let is_first = self.more == MORE_LINES;
        self.more -= 1;
        let Some(Mark::Exception { message, .. }) = &mut self.last else {
            self.more = 0;
            return None;
        };
        let goes_on = is_indented || is_first && (message.ends_with(':') || message.is_empty());
        let is_ruler = text.trim_start().starts_with("+-");
        if !goes_on || is_ruler || message.len() >= MAX_TEXT {
            self.more = 0;
            return None;
        }
        let space = if message.is_empty() { "" } else { " " };
        let whole = format!("{message}{space}{}", text.trim());
        cut(&whole, MAX_TEXT).clone_into(message);
        Some(Proof { mark: self.last.clone()?, at: self.at.clone() })
    }
}

/// Any class may be raised, whatever its name: `Diverged: the loss is nan`.
fn exception(text: &str) -> Option<Mark> {
    let text = text.trim_end();
    let (class, message) = text.split_once(':').unwrap_or((text, ""));
    let is_name = |part: &str| {
        part.starts_with(|c: char| c.is_alphabetic() || c == '_')
            && part.chars().all(|c| c.is_alphanumeric() || c == '_')
    };
    let has_gap = message.is_empty() || message.starts_with(' ');
    // Generators and functions that were defined within others have `<locals>` in their names.
    let is_class = class.split('.').all(|part| is_name(part) || part == "<locals>");
    (has_gap && is_class && class.len() < MAX_TEXT).then(|| Mark::Exception {
        class: class.to_owned(),
        message: cut(message.trim(), MAX_TEXT).to_owned(),
        from: None,
    })
}

/// The line as the rank wrote it: torch writes `[rank1]: ` before each.
fn without_prefix(line: &str) -> &str {
    let stripped = line.strip_prefix("[rank").and_then(|rest| rest.split_once("]:"));
    match stripped {
        Some((digits, rest)) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            rest.strip_prefix(' ').unwrap_or(rest)
        }
        _ => line,
    }
}

/// A line of an exception group: bars and rulers stand before it.
fn without_bars(text: &str) -> &str {
    let rest = text.trim_start_matches(' ');
    match rest.strip_prefix('|') {
        Some(inner) if rest.len() < text.len() => inner.strip_prefix(' ').unwrap_or(inner),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is told of a text, line by line: `class|message|from @place`.
    fn told(text: &str) -> Vec<String> {
        let mut tracebacks = Tracebacks::default();
        let proofs = text.lines().filter_map(|line| tracebacks.line(0, line));
        proofs
            .map(|proof| {
                let at = proof.at.map(|at| format!(" @{at}")).unwrap_or_default();
                match proof.mark {
                    Mark::Exception { class, message, from } => {
                        format!("{class}|{message}|{}{at}", from.unwrap_or_default())
                    }
                    other => format!("{other:?}{at}"),
                }
            })
            .collect()
    }

    #[test]
    fn a_message_of_several_lines_is_told_whole_with_its_place() {
        // As torch 2.15 prints it.
        let text = "[rank1]: Traceback (most recent call last):\n\
                    [rank1]:   File \"/home/ada/train.py\", line 7, in <module>\n\
                    [rank1]:     if r==1: model.load_state_dict(sd)\n\
                    [rank1]:              ^^^^^^^^^^^^^^^^^^^^^^^^^\n\
                    [rank1]:   File \"/venv/lib/python3.11/site-packages/torch/nn/modules/module.py\", line 2700, in load_state_dict\n\
                    [rank1]:     raise RuntimeError(\n\
                    [rank1]: RuntimeError: Error(s) in loading state_dict for Net:\n\
                    [rank1]: \tMissing key(s) in state_dict: \"0.bias\". \n\
                    [rank1]: \tUnexpected key(s) in state_dict: \"x\". \n\
                    [rank1]:[W1128 16:20:01.9 WorkerServer.cpp:128] [c10d] something else\n\
                    [rank1]: \tnot of it";
        let first = "RuntimeError|Error(s) in loading state_dict for Net:";
        assert_eq!(
            told(text),
            [
                format!("{first}| @train.py:7"),
                format!("{first} Missing key(s) in state_dict: \"0.bias\".| @train.py:7"),
                format!(
                    "{first} Missing key(s) in state_dict: \"0.bias\". Unexpected key(s) in state_dict: \"x\".| @train.py:7"
                ),
            ]
        );
    }

    #[test]
    fn what_came_of_another_exception_says_so() {
        let one = "Traceback (most recent call last):\n  File \"a.py\", line 3, in f\n    {}[\"lr\"]\nKeyError: 'lr'\n";
        let other = "Traceback (most recent call last):\n  File \"a.py\", line 5, in f\n    raise X\nBadConfig: no lr\n";
        let of = |between: &str| told(&format!("{one}\n{between}\n\n{other}"));
        let first = "KeyError|'lr'| @a.py:3";
        for (between, how) in CHAINED {
            assert_eq!(of(between), [first, &format!("BadConfig|no lr|{how} KeyError: 'lr' @a.py:5")]);
        }
        assert_eq!(of("step 4"), [first, "BadConfig|no lr| @a.py:5"]);
    }

    #[test]
    fn lines_outside_of_tracebacks_are_read_as_ever() {
        assert_eq!(told("Diverged: the loss is nan\nstep 3"), [] as [String; 0]);
        assert_eq!(told("ValueError: bad\n  and more"), ["ValueError|bad|"]);
        let oom = "Traceback (most recent call last):\n  File \"t.py\", line 9, in f\n    x\n\
                   torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB";
        assert_eq!(told(oom), ["OomGpu { size: Some(\"2.00 GiB\") } @t.py:9"]);
        // Cut off, as where a process is killed.
        assert_eq!(told("Traceback (most recent call last):\nstep 3 done"), [] as [String; 0]);
    }

    #[test]
    fn what_a_data_loader_passes_on_has_its_own_place() {
        let text = "Traceback (most recent call last):\n  File \"train.py\", line 9, in <module>\n    for x in loader:\n\
                    ValueError: Caught ValueError in DataLoader worker process 0.\n\
                    Original Traceback (most recent call last):\n  File \"data.py\", line 30, in __getitem__\n    raise\n\
                    ValueError: corrupt record 201";
        let passed_on = "ValueError|Caught ValueError in DataLoader worker process 0.| @train.py:9";
        assert_eq!(told(text), [passed_on, "ValueError|corrupt record 201| @data.py:30"]);
    }

    #[test]
    fn what_python_ignores_is_ignored_and_groups_are_read() {
        let of_del = "Exception ignored in: <function Q.__del__ at 0x7f>\nTraceback (most recent call last):\n  \
                      File \"a.py\", line 2, in __del__\nValueError: in del\n";
        let real = "Traceback (most recent call last):\n  File \"a.py\", line 9, in f\nRuntimeError: later";
        assert_eq!(told(&format!("{of_del}{real}")), ["RuntimeError|later| @a.py:9"]);
        assert_eq!(
            told(&format!("Exception ignored in: x\nOSError: gone\n{real}")),
            ["RuntimeError|later| @a.py:9"]
        );
        // As Python 3.11 prints it under torch.
        let group = "[rank1]:   + Exception Group Traceback (most recent call last):\n\
                     [rank1]:   |   File \"/x/exc.py\", line 37, in <module>\n\
                     [rank1]:   |     raise ExceptionGroup(\"several\", [ValueError(\"one\")])\n\
                     [rank1]:   | ExceptionGroup: several (1 sub-exception)\n\
                     [rank1]:   +-+---------------- 1 ----------------\n\
                     [rank1]:     | ValueError: one\n\
                     [rank1]:     +------------------------------------";
        assert_eq!(told(group), ["ExceptionGroup|several (1 sub-exception)| @exc.py:37"]);
    }

    #[test]
    fn writers_are_kept_apart() {
        let mut tracebacks = Tracebacks::default();
        assert_eq!(tracebacks.line(1, BEGIN), None);
        assert_eq!(tracebacks.line(1, "  File \"a.py\", line 3, in f"), None);
        let other = tracebacks.line(2, "ValueError: x").map(|proof| proof.at);
        assert_eq!(other, Some(None));
        let own = tracebacks.line(1, "ValueError: x").and_then(|proof| proof.at);
        assert_eq!(own.as_deref(), Some("a.py:3"));
    }

    proptest! {
        #[test]
        fn any_lines_are_survived_and_nothing_grows(lines in prop::collection::vec("(Traceback \\(most recent call last\\):|  File \"é.py\", line [0-9x]{0,9}|[A-Z][a-z]{0,9}Error: .{0,500}:?|\t.{0,300}|.{0,20})", 0..60)) {
            let mut tracebacks = Tracebacks::default();
            for line in &lines {
                if let Some(Proof { mark: Mark::Exception { message, .. }, .. }) = tracebacks.line((), line) {
                    prop_assert!(message.len() <= MAX_TEXT);
                }
            }
        }
    }
}
