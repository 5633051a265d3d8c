//! A program in a pseudo-terminal of its own.

// Each user takes what it needs.
#![allow(dead_code)]

use std::{
    io::{Read, Write},
    num::NonZero,
    sync::mpsc,
};

use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};

/// The program's terminal.
pub struct Pty {
    pub master: Box<dyn MasterPty + Send>,
    pub keys: Box<dyn Write + Send>,
    /// What it writes, as it comes.
    pub output: mpsc::Receiver<Vec<u8>>,
    pub child: Box<dyn Child + Send + Sync>,
}

impl Pty {
    /// Starts a program in a terminal of so many columns and rows.
    pub fn open(command: CommandBuilder, size: (u16, u16)) -> Pty {
        let pair = native_pty_system().openpty(cells(size)).unwrap();
        let child = pair.slave.spawn_command(command).unwrap();
        drop(pair.slave);
        let mut reader = pair.master.try_clone_reader().unwrap();
        let (bytes, output) = mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = reader.read(&mut buffer) {
                if bytes.send(buffer[..n].to_vec()).is_err() {
                    break;
                }
            }
        });
        Pty { keys: pair.master.take_writer().unwrap(), master: pair.master, output, child }
    }

    pub fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }

    pub fn resize(&self, size: (u16, u16)) {
        self.master.resize(cells(size)).unwrap();
    }
}

fn cells((cols, rows): (u16, u16)) -> PtySize {
    PtySize { rows, cols, ..PtySize::default() }
}

/// What reads its output.
pub fn parser((columns, rows): (u16, u16)) -> vt100::Parser {
    let cells = |count| NonZero::new(count).unwrap();
    vt100::Parser::new(cells(rows), cells(columns), 0)
}
