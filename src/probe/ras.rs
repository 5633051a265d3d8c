//! A client of NCCL's health service (RAS): lines over TCP, without authentication, answered by any process of a job.
//!
//! Written to NCCL's documentation and sources (2.24 to 2.30), tested against a server of our own, and never run
//! against NCCL hardware. Blocks: run it on a thread.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::domain::{
    ras::{Lag, Ras},
    report::SCHEMA,
};

/// How long one process of the job may take to say hello. A stopped one may own the connection; the next may not.
const HELLO_WITHIN: Duration = Duration::from_secs(2);
/// How long the report may take: NCCL waits 5 s twice for peers that do not answer.
const REPORT_WITHIN: Duration = Duration::from_secs(15);
/// How often another process is tried.
const TRIES: usize = 3;
/// Longest report, in bytes: 4096 ranks in 8 communicators have about 10 MiB.
const MAX_REPORT: usize = 64 << 20;
/// Longest line of the greeting, in bytes.
const MAX_LINE: usize = 1 << 10;

/// What RAS answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// As it came, control characters but line ends taken out.
    pub raw: String,
    /// Read, where the version speaks JSON (2.28.7 and newer).
    pub ras: Option<Ras>,
}

/// `ras --json`.
#[derive(Debug, Serialize)]
pub struct Report<'a> {
    schema: u32,
    /// Null where the version has no JSON.
    ras: Option<&'a Ras>,
    lags: Vec<Lag>,
    /// The text of versions without JSON; null else.
    raw: Option<&'a str>,
}

impl Answer {
    /// For a person: what was read, or the text as it came.
    pub fn text(&self) -> String {
        self.ras.as_ref().map_or_else(|| self.raw.clone(), Ras::text)
    }

    /// For a machine.
    pub fn report(&self) -> Report<'_> {
        let ras = self.ras.as_ref();
        let lags = ras.map(Ras::lags).unwrap_or_default();
        Report { schema: SCHEMA, ras, lags, raw: ras.is_none().then_some(self.raw.as_str()) }
    }
}

/// Asks for the status of the job behind `addr`, `localhost:28028`.
///
/// # Errors
/// Nobody answers, or what answers is not RAS.
pub fn ask(addr: &str) -> io::Result<Answer> {
    ask_within(addr, HELLO_WITHIN, REPORT_WITHIN)
}

fn ask_within(addr: &str, hello: Duration, report: Duration) -> io::Result<Answer> {
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for addr in addr.to_socket_addrs()? {
        for _ in 0..TRIES {
            match ask_one(addr, hello, report) {
                Ok(answer) => return Ok(answer),
                // Only silence can be another process's luck.
                Err(error) if error.kind() == io::ErrorKind::TimedOut => failed = error,
                Err(error) => {
                    failed = error;
                    break;
                }
            }
        }
    }
    Err(failed)
}

fn ask_one(addr: SocketAddr, hello: Duration, report: Duration) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&addr, hello)?;
    stream.set_write_timeout(Some(hello))?;
    let until = Instant::now() + hello;
    stream.write_all(b"CLIENT PROTOCOL 2\n")?;
    let greeting = line(&mut stream, until)?;
    if !greeting.to_ascii_uppercase().starts_with("SERVER PROTOCOL") {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "what listens there is not NCCL RAS"));
    }
    stream.write_all(b"SET FORMAT json\n")?;
    // Versions without JSON refuse, and go on in text.
    line(&mut stream, until)?;
    stream.write_all(b"VERBOSE STATUS\n")?;
    let bytes = rest(&mut stream, Instant::now() + report)?;
    let raw: String =
        String::from_utf8_lossy(&bytes).chars().filter(|c| !c.is_control() || *c == '\n').collect();
    Ok(Answer { ras: Ras::parse(&bytes), raw })
}

fn wait(stream: &TcpStream, until: Instant) -> io::Result<()> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer"));
    }
    stream.set_read_timeout(Some(left))
}

/// One line, byte by byte: what follows it is not to be taken.
fn line(stream: &mut TcpStream, until: Instant) -> io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() < MAX_LINE {
        wait(stream, until)?;
        match stream.read(&mut byte) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) if byte[0] == b'\n' => break,
            Ok(_) => line.push(byte[0]),
            Err(error) if is_again(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

/// All until the server closes.
fn rest(stream: &mut TcpStream, until: Instant) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    let mut part = vec![0; 64 << 10];
    loop {
        wait(stream, until)?;
        match stream.read(&mut part) {
            Ok(0) => return Ok(all),
            Ok(n) => all.extend(&part[..n]),
            Err(error) if is_again(&error) => {}
            Err(error) => return Err(error),
        }
        if all.len() > MAX_REPORT {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the report is too long"));
        }
    }
}

fn is_again(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}

#[cfg(test)]
mod tests {
    use std::{io::BufRead, net::TcpListener, thread};

    use super::*;

    /// A RAS server: `json` says whether it knows that format; `silent` connections are accepted and not answered.
    fn serve(json: bool, silent: usize, report: &'static str) -> (String, thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let server = thread::spawn(move || {
            let kept: Vec<_> = (0..silent).map(|_| listener.accept().unwrap()).collect();
            let (stream, _) = listener.accept().unwrap();
            drop(kept);
            let mut out = stream.try_clone().unwrap();
            let mut asked = Vec::new();
            for line in io::BufReader::new(stream).lines() {
                let line = line.unwrap();
                asked.push(line.clone());
                match line.as_str() {
                    "CLIENT PROTOCOL 2" => out.write_all(b"SERVER PROTOCOL 2\n").unwrap(),
                    "SET FORMAT json" if json => out.write_all(b"OK\n").unwrap(),
                    "SET FORMAT json" => out.write_all(b"ERROR: Unknown command\n").unwrap(),
                    _ => {
                        out.write_all(report.as_bytes()).unwrap();
                        break;
                    }
                }
            }
            asked
        });
        (addr, server)
    }

    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn json_is_asked_for_and_read() {
        let report =
            r#"{"nccl_version": "2.30.7", "communicators": [{"hash": "0x1", "size": 2, "ranks": []}]}"#;
        let (addr, server) = serve(true, 0, report);
        let answer = ask_within(&addr, PATIENCE, PATIENCE).unwrap();
        assert_eq!(answer.text(), "NCCL 2.30.7, 1 communicators\n0x1: 0 of 2 ranks answer");
        assert_eq!(server.join().unwrap(), ["CLIENT PROTOCOL 2", "SET FORMAT json", "VERBOSE STATUS"]);
    }

    #[test]
    fn text_of_an_old_version_is_shown_as_it_is() {
        let (addr, server) = serve(false, 0, "Job summary\n\x1b[31m===\n");
        let answer = ask_within(&addr, PATIENCE, PATIENCE).unwrap();
        assert_eq!((answer.text().as_str(), answer.ras.is_none()), ("Job summary\n[31m===\n", true));
        assert_eq!(answer.report().raw, Some(answer.raw.as_str()));
        server.join().unwrap();
    }

    #[test]
    fn a_stopped_process_is_passed_over() {
        let (addr, server) = serve(true, 1, "{}");
        assert!(ask_within(&addr, Duration::from_millis(300), PATIENCE).is_ok());
        server.join().unwrap();
    }

    #[test]
    fn nobody_and_somebody_else_are_errors() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        assert_eq!(
            ask_within(&free, PATIENCE, PATIENCE).unwrap_err().kind(),
            io::ErrorKind::ConnectionRefused
        );
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
            // Until the other side has read it.
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let error = ask_within(&addr, PATIENCE, PATIENCE).unwrap_err();
        assert!(error.to_string().contains("not NCCL RAS"), "{error}");
        server.join().unwrap();
    }
}
