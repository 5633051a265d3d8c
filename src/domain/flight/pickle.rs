//! A reader for pickles that hold data and nothing else, as torch writes its flight recorder.
//!
//! A dump comes from a file that anybody may have written, and a pickle is a program. This one is run without its
//! dangerous half: what names classes or calls them is refused, and numbers, texts, lists and dicts are bounded in
//! depth and in total size, with every reference to an earlier value counted as often as it is used. So neither a
//! list inside of itself nor a list of lists of the same list costs more than the limits say.

use std::{collections::HashMap, fmt};

use serde_json::{Map, Number, Value};

/// Deepest nesting of lists and dicts; a dump needs 6.
const MAX_DEPTH: usize = 32;
/// Most bytes that the values may take when all references are written out, as [`Arena::cost`] counts them.
const MAX_COST: usize = 256 << 20;

/// Why a pickle cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PickleError {
    /// It ends in the middle.
    Torn,
    /// An instruction that plain data does not need; a pickle with it could run code in Python.
    Refused {
        /// Code of the instruction.
        opcode: u8,
        /// Where it is, in bytes from the start.
        at: usize,
    },
    /// The instructions make no sense.
    Broken {
        /// Where, in bytes from the start.
        at: usize,
    },
    /// Nested deeper, or larger when written out, than any dump is.
    TooLarge,
}

impl fmt::Display for PickleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PickleError::Torn => write!(f, "it is cut off"),
            PickleError::Refused { opcode, at } => {
                write!(
                    f,
                    "instruction {opcode:#04x} at byte {at} is not for plain data: this is no dump of torch's"
                )
            }
            PickleError::Broken { at } => write!(f, "the pickle is broken at byte {at}"),
            PickleError::TooLarge => write!(f, "it is nested too deep or too large when written out"),
        }
    }
}

impl std::error::Error for PickleError {}

/// Whether these bytes begin as pickles of protocol 2 and newer do.
pub fn is_pickle(bytes: &[u8]) -> bool {
    bytes.first() == Some(&0x80)
}

/// The value that a pickle holds. Tuples become lists, keys become text.
///
/// # Errors
/// Anything but plain data, within the limits.
pub fn read(bytes: &[u8]) -> Result<Value, PickleError> {
    let mut machine = Machine {
        bytes,
        at: 0,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        arena: Arena::default(),
    };
    let root = machine.run()?;
    let mut left = MAX_COST;
    machine.arena.write_out(root, MAX_DEPTH, &mut left)
}

/// Index of a node.
type Id = usize;

enum Node {
    Scalar(Value),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
}

/// All values, by number: lists and dicts are filled after they were stored and referred to.
#[derive(Default)]
struct Arena(Vec<Node>);

impl Arena {
    fn add(&mut self, node: Node) -> Id {
        self.0.push(node);
        self.0.len() - 1
    }

    /// What a value takes, its parts not counted.
    fn cost(node: &Node) -> usize {
        64 + if let Node::Scalar(Value::String(text)) = node { text.len() } else { 0 }
    }

    fn write_out(&self, id: Id, depth: usize, left: &mut usize) -> Result<Value, PickleError> {
        let node = &self.0[id];
        *left = left.checked_sub(Arena::cost(node)).ok_or(PickleError::TooLarge)?;
        let deeper = || depth.checked_sub(1).ok_or(PickleError::TooLarge);
        Ok(match node {
            Node::Scalar(value) => value.clone(),
            Node::List(items) => {
                let depth = deeper()?;
                Value::Array(
                    items.iter().map(|item| self.write_out(*item, depth, left)).collect::<Result<_, _>>()?,
                )
            }
            Node::Dict(pairs) => {
                let depth = deeper()?;
                let mut map = Map::new();
                for (key, value) in pairs {
                    let key = match self.write_out(*key, 0, left)? {
                        Value::String(key) => key,
                        other => other.to_string(),
                    };
                    map.insert(key, self.write_out(*value, depth, left)?);
                }
                Value::Object(map)
            }
        })
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Id>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
    arena: Arena,
}

impl Machine<'_> {
    fn run(&mut self) -> Result<Id, PickleError> {
        loop {
            let at = self.at;
            let opcode = self.take(1)?[0];
            if opcode == b'.' {
                return self.pop();
            }
            if !(self.scalar(opcode)? || self.container(opcode)? || self.memo(opcode)?) {
                return Err(PickleError::Refused { opcode, at });
            }
        }
    }

    /// Numbers, texts and the words around them. Returns whether the instruction is one of these.
    fn scalar(&mut self, opcode: u8) -> Result<bool, PickleError> {
        let value = match opcode {
            // The protocol's number, and the length of a frame: both of no use here.
            0x80 => return self.take(1).map(|_| true),
            0x95 => return self.take(8).map(|_| true),
            b'N' => Value::Null,
            0x88 => Value::Bool(true),
            0x89 => Value::Bool(false),
            b'J' => i32::from_le_bytes(self.array()?).into(),
            b'K' => u8::from_le_bytes(self.array()?).into(),
            b'M' => u16::from_le_bytes(self.array()?).into(),
            0x8a => {
                let length = u8::from_le_bytes(self.array()?).into();
                self.long(length)?
            }
            b'G' => Number::from_f64(f64::from_be_bytes(self.array()?)).map_or(Value::Null, Value::Number),
            b'U' | b'C' | 0x8c => {
                let length = u8::from_le_bytes(self.array()?).into();
                self.text(length)?
            }
            b'T' | b'B' | b'X' => {
                let length = u32::from_le_bytes(self.array()?) as usize;
                self.text(length)?
            }
            _ => return Ok(false),
        };
        self.push(Node::Scalar(value));
        Ok(true)
    }

    /// Lists, tuples and dicts.
    fn container(&mut self, opcode: u8) -> Result<bool, PickleError> {
        match opcode {
            b'(' => self.marks.push(self.stack.len()),
            b']' | b')' => self.push(Node::List(Vec::new())),
            b'}' => self.push(Node::Dict(Vec::new())),
            b't' | b'l' => {
                let items = self.pop_to_mark()?;
                self.push(Node::List(items));
            }
            b'd' => {
                let pairs = self.pop_pairs()?;
                self.push(Node::Dict(pairs));
            }
            0x85..=0x87 => {
                let from =
                    self.height().checked_sub(usize::from(opcode - 0x84)).ok_or_else(|| self.broken())?;
                let items = self.stack.split_off(self.base() + from);
                self.push(Node::List(items));
            }
            b'a' => {
                let item = self.pop()?;
                self.list()?.push(item);
            }
            b'e' => {
                let items = self.pop_to_mark()?;
                self.list()?.extend(items);
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.dict()?.push((key, value));
            }
            b'u' => {
                let pairs = self.pop_pairs()?;
                self.dict()?.extend(pairs);
            }
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_to_mark()?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// What is stored and referred to.
    fn memo(&mut self, opcode: u8) -> Result<bool, PickleError> {
        match opcode {
            b'q' | b'r' | 0x94 => {
                let key = match opcode {
                    b'q' => u8::from_le_bytes(self.array()?).into(),
                    b'r' => u32::from_le_bytes(self.array()?),
                    _ => self.memo.len() as u32,
                };
                let top = *self.stack.last().ok_or_else(|| self.broken())?;
                self.memo.insert(key, top);
            }
            b'h' | b'j' => {
                let key = if opcode == b'h' {
                    u8::from_le_bytes(self.array()?).into()
                } else {
                    u32::from_le_bytes(self.array()?)
                };
                let id = *self.memo.get(&key).ok_or_else(|| self.broken())?;
                self.stack.push(id);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn take(&mut self, length: usize) -> Result<&[u8], PickleError> {
        let end = self.at.checked_add(length).ok_or(PickleError::Torn)?;
        let taken = self.bytes.get(self.at..end).ok_or(PickleError::Torn)?;
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], PickleError> {
        self.take(N)?.try_into().map_err(|_| PickleError::Torn)
    }

    /// A whole number of any length: those that do not fit into 64 bits are no numbers of a dump.
    fn long(&mut self, length: usize) -> Result<Value, PickleError> {
        let bytes = self.take(length)?;
        let negative = bytes.last().is_some_and(|last| last & 0x80 != 0);
        let mut wide = if negative { [0xff; 16] } else { [0; 16] };
        match wide.get_mut(..length) {
            Some(low) => low.copy_from_slice(bytes),
            None => return Ok(Value::Null),
        }
        let number = i128::from_le_bytes(wide);
        let small = i64::try_from(number).map(Value::from);
        Ok(small.or_else(|_| u64::try_from(number).map(Value::from)).unwrap_or(Value::Null))
    }

    fn text(&mut self, length: usize) -> Result<Value, PickleError> {
        Ok(String::from_utf8_lossy(self.take(length)?).into_owned().into())
    }

    fn push(&mut self, node: Node) {
        let id = self.arena.add(node);
        self.stack.push(id);
    }

    /// Where the part of the stack begins that the innermost mark leaves free.
    fn base(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn height(&self) -> usize {
        self.stack.len() - self.base()
    }

    fn pop(&mut self) -> Result<Id, PickleError> {
        if self.height() == 0 {
            return Err(self.broken());
        }
        self.stack.pop().ok_or_else(|| self.broken())
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>, PickleError> {
        let mark = self.marks.pop().ok_or_else(|| self.broken())?;
        Ok(self.stack.split_off(mark))
    }

    fn pop_pairs(&mut self) -> Result<Vec<(Id, Id)>, PickleError> {
        let items = self.pop_to_mark()?;
        if items.len() % 2 == 1 {
            return Err(self.broken());
        }
        Ok(items.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
    }

    fn list(&mut self) -> Result<&mut Vec<Id>, PickleError> {
        let broken = self.broken();
        match self.stack.last().and_then(|id| self.arena.0.get_mut(*id)) {
            Some(Node::List(items)) => Ok(items),
            _ => Err(broken),
        }
    }

    fn dict(&mut self) -> Result<&mut Vec<(Id, Id)>, PickleError> {
        let broken = self.broken();
        match self.stack.last().and_then(|id| self.arena.0.get_mut(*id)) {
            Some(Node::Dict(pairs)) => Ok(pairs),
            _ => Err(broken),
        }
    }

    fn broken(&self) -> PickleError {
        PickleError::Broken { at: self.at }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// What Python writes for a value, in protocol 2.
    fn write(value: &Value, into: &mut Vec<u8>) {
        match value {
            Value::Null => into.push(b'N'),
            Value::Bool(yes) => into.push(if *yes { 0x88 } else { 0x89 }),
            Value::Number(number) => {
                into.extend([0x8a, 8]);
                into.extend(number.as_i64().unwrap().to_le_bytes());
            }
            Value::String(text) => {
                into.push(b'X');
                into.extend((text.len() as u32).to_le_bytes());
                into.extend(text.as_bytes());
            }
            Value::Array(items) => {
                into.extend(b"](");
                items.iter().for_each(|item| write(item, into));
                into.push(b'e');
            }
            Value::Object(map) => {
                into.extend(b"}(");
                for (key, value) in map {
                    write(&Value::String(key.clone()), into);
                    write(value, into);
                }
                into.push(b'u');
            }
        }
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::hash_map("[a-z]{0,4}", inner, 0..5)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(value in any_value()) {
            let mut bytes = vec![0x80, 2];
            write(&value, &mut bytes);
            bytes.push(b'.');
            prop_assert_eq!(read(&bytes), Ok(value));
            for cut in 0..bytes.len() {
                prop_assert!(read(&bytes[..cut]).is_err());
            }
        }

        #[test]
        fn no_bytes_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
        }

        /// Random programs of the instructions that exist reach further than random bytes.
        #[test]
        fn no_program_does_harm(ops in prop::collection::vec(
            prop::sample::select(b"(])}tldaesu01N\x88\x85\x86\x87\x94.KqhU".to_vec()), 0..300), argument in 0u8..6) {
            let mut bytes = vec![0x80, 2];
            for op in ops {
                bytes.push(op);
                if b"KqhU".contains(&op) {
                    bytes.push(argument);
                }
            }
            bytes.push(b'.');
            let _ = read(&bytes);
        }
    }

    #[test]
    fn python_pickles_of_all_binary_protocols_are_read() {
        // pickle.dumps({"a": [1, -2, 70000, 2**40, 0.5, None, True], 3: ("x", b"y", ())}, protocol=P)
        let value = json!({"a": [1, -2, 70000, 1_099_511_627_776_i64, 0.5, null, true], "3": ["x", "y", []]});
        let p3 = b"\x80\x03}q\0(X\x01\0\0\0aq\x01]q\x02(K\x01J\xfe\xff\xff\xffJp\x11\x01\0\x8a\x06\0\0\0\0\0\x01G?\xe0\0\0\0\0\0\0N\x88eK\x03X\x01\0\0\0xq\x03C\x01yq\x04)\x87q\x05u.";
        let p4 = b"\x80\x04\x95:\0\0\0\0\0\0\0}\x94(\x8c\x01a\x94]\x94(K\x01J\xfe\xff\xff\xffJp\x11\x01\0\x8a\x06\0\0\0\0\0\x01G?\xe0\0\0\0\0\0\0N\x88eK\x03\x8c\x01x\x94C\x01y\x94)\x87\x94u.";
        assert_eq!(read(p3), Ok(value.clone()));
        assert_eq!(read(p4), Ok(value));
    }

    #[test]
    fn code_is_refused() {
        // pickle.dumps(os.system) and a call of it.
        for bytes in [&b"\x80\x02cos\nsystem\nq\0."[..], b"\x80\x02cos\nsystem\nX\x01\0\0\0x\x85R."] {
            assert_eq!(read(bytes), Err(PickleError::Refused { opcode: b'c', at: 2 }));
        }
    }

    #[test]
    fn a_list_in_itself_and_a_list_of_lists_of_lists_end() {
        assert_eq!(read(b"\x80\x02]q\0h\0a."), Err(PickleError::TooLarge));
        let mut laughs = b"\x80\x02]q\0".to_vec();
        for _ in 0..31 {
            laughs.extend(b"0](h\0h\0h\0h\0h\0h\0h\0h\0eq\0");
        }
        laughs.push(b'.');
        assert_eq!(read(&laughs), Err(PickleError::TooLarge));
        let deep = [&b"\x80\x02"[..], &vec![b']'; 100_000], &vec![b'a'; 99_999], b"."].concat();
        assert_eq!(read(&deep), Err(PickleError::TooLarge));
    }

    #[test]
    fn nothing_below_a_mark_is_taken() {
        for bytes in
            [&b"\x80\x02N(\x85."[..], b"\x80\x02N(0.", b"\x80\x02]N(a.", b"\x80\x02(.", b"\x80\x02h\0."]
        {
            assert!(matches!(read(bytes), Err(PickleError::Broken { .. })), "{bytes:?}");
        }
    }
}
