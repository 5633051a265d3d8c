//! A link over the standard streams of a child process: `ssh HOST elastictop proxy JOB` and the like.

use std::{
    io,
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader, BufWriter},
    process::{Child, Command},
    time::timeout,
};

use super::{
    frame,
    link::{FarEnd, Link},
    message::ToViewer,
};

/// How long a child may take to end once nobody listens to it any more, or it has closed its output.
const ENDS_WITHIN: Duration = Duration::from_secs(2);
/// Bytes of the child's standard error that are kept: the last ones, which say why it failed.
const KEPT: usize = 2 << 10;

/// Starts `argv` and talks to it. When it ends, its last words come as a [`ToViewer::Bye`]; when the link is dropped, it
/// sees the end of its input, and is killed if it does not heed that.
///
/// # Errors
/// Those of starting a process.
pub fn connect(argv: &[String]) -> io::Result<Link> {
    let (program, args) = argv.split_first().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Ctrl-C at the terminal is the viewer's; ssh must not ask there for a password either.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let streams = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(stdin), Some(stdout), Some(stderr)) = streams else {
        return Err(io::Error::other("the process has no standard streams"));
    };
    let (link, FarEnd { mut incoming, outgoing }) = Link::pair();
    tokio::spawn(async move {
        let mut write = BufWriter::new(stdin);
        while let Some(message) = incoming.recv().await {
            if frame::write(&mut write, &message).await.is_err() {
                return;
            }
        }
        // The other side may have ended by itself.
        let _ = write.shutdown().await;
    });
    let words = LastWords::default();
    let listens = tokio::spawn(words.clone().listen(stderr));
    let mut child = Group(child);
    tokio::spawn(async move {
        let mut read = BufReader::with_capacity(64 << 10, stdout);
        let mut said_bye = false;
        let failed = loop {
            let message = tokio::select! {
                message = frame::read(&mut read) => message,
                () = outgoing.closed() => break None,
            };
            match message {
                Ok(Some(message)) => {
                    said_bye |= matches!(message, ToViewer::Bye { .. });
                    if outgoing.send(message).await.is_err() {
                        break None;
                    }
                }
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        let how = end(&mut child.0).await;
        let _ = timeout(ENDS_WITHIN, listens).await;
        if !said_bye {
            // Nobody may be there any more to hear it.
            let _ = outgoing.send(ToViewer::Bye { text: words.reason(&how, failed.as_ref()) }).await;
        }
    });
    Ok(link)
}

/// A child with all that it started: a shell, say, and the ssh in it. They end when nobody waits for them any more.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        kill_group(&self.0, Signal::TERM);
    }
}

/// Signals the group of a child that was not collected yet: until then nobody else has its number.
fn kill_group(child: &Child, signal: Signal) {
    if let Some(group) = child.id().and_then(|pid| Pid::from_raw(pid as i32)) {
        // It may be gone already.
        let _ = kill_process_group(group, signal);
    }
}

/// Waits for the end of a child that has nothing more to say, and makes it end.
async fn end(child: &mut Child) -> String {
    let status = match timeout(ENDS_WITHIN, child.wait()).await {
        Ok(status) => status,
        Err(_) => {
            kill_group(child, Signal::KILL);
            child.wait().await
        }
    };
    status.map_or_else(|error| error.to_string(), |status| status.to_string())
}

/// The end of what a child wrote to its standard error.
#[derive(Clone, Debug, Default)]
struct LastWords(Arc<Mutex<Vec<u8>>>);

impl LastWords {
    async fn listen<R: AsyncRead + Unpin>(self, mut stderr: R) {
        let mut bytes = vec![0; KEPT];
        while let Ok(read @ 1..) = stderr.read(&mut bytes).await {
            let Ok(mut kept) = self.0.lock() else { return };
            kept.extend_from_slice(&bytes[..read]);
            let over = kept.len().saturating_sub(KEPT);
            kept.drain(..over);
        }
    }

    /// Why the child is gone: its last line, or how it ended.
    fn reason(&self, how: &str, failed: Option<&io::Error>) -> String {
        let kept = self.0.lock().map(|kept| String::from_utf8_lossy(&kept).into_owned()).unwrap_or_default();
        let said: Vec<&str> = kept.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        // What elastictop or ssh says last may be a hint; the line before it says what happened.
        match said.iter().rev().find(|line| !line.starts_with("hint:")) {
            Some(line) => match advice(line) {
                Some(advice) => format!("{}; {advice}", line.trim_end_matches('.')),
                None => (*line).to_owned(),
            },
            None => match failed {
                // A login script that prints to standard output is the usual reason.
                Some(error) if error.kind() == io::ErrorKind::InvalidData => {
                    format!("what it answered is not elastictop's: {error}")
                }
                _ => format!("it ended without a word ({how})"),
            },
        }
    }
}

/// What to do about what ssh, or the shell at its other end, said last.
fn advice(line: &str) -> Option<&'static str> {
    const ADVICE: [(&str, &str); 6] = [
        ("Host key verification failed", "log in by hand once and look at its key: ssh HOST"),
        (
            "Permission denied",
            "no key lets you in, and a screen cannot ask for a password: ssh-copy-id HOST, or ssh-add",
        ),
        ("command not found", "say where it is there: --via 'ssh {host} /path/to/elastictop proxy {job}'"),
        (": not found", "say where it is there: --via 'ssh {host} /path/to/elastictop proxy {job}'"),
        ("Could not resolve hostname", "is the name right? ~/.ssh/config can give it an address"),
        ("Connection refused", "no ssh server listens there; another port goes into ~/.ssh/config"),
    ];
    ADVICE.iter().find(|(said, _)| line.contains(said)).map(|(_, advice)| *advice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::message::ToSupervisor;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    fn shell(script: &str) -> Vec<String> {
        ["sh", "-c", script].map(str::to_owned).to_vec()
    }

    async fn last(mut link: Link) -> Option<String> {
        let mut text = None;
        while let Some(message) = link.incoming.recv().await {
            if let ToViewer::Bye { text: said } = message {
                text = Some(said);
            }
        }
        text
    }

    #[test]
    fn messages_go_through_a_child_and_come_back() {
        run(async {
            let mut link = connect(&shell("exec cat")).unwrap();
            // What `cat` gives back is no message to a viewer, but a frame all the same.
            link.outgoing.send(ToSupervisor::Traffic).await.unwrap();
            assert_eq!(link.incoming.recv().await, Some(ToViewer::Unknown));
            // The end of its input ends it.
            drop(link.outgoing);
            assert_eq!(link.incoming.recv().await.map(|bye| matches!(bye, ToViewer::Bye { .. })), Some(true));
        });
    }

    #[test]
    fn last_words_say_why_it_is_gone() {
        run(async {
            let denied = shell("echo 'hop: Permission denied (publickey).' >&2; exit 255");
            let told = last(connect(&denied).unwrap()).await.unwrap();
            assert!(told.starts_with("hop: Permission denied (publickey); no key lets you in"), "{told}");
            let missing = shell("no-such-program-of-ours proxy");
            let told = last(connect(&missing).unwrap()).await.unwrap();
            assert!(told.contains("not found; say where it is there: --via"), "{told}");
            let hinted = shell("printf 'there is no job\\n\\nhint: elastictop ps\\n' >&2; exit 3");
            assert_eq!(last(connect(&hinted).unwrap()).await.unwrap(), "there is no job");
            assert_eq!(
                last(connect(&shell("exit 7")).unwrap()).await.unwrap(),
                "it ended without a word (exit status: 7)"
            );
            let chatty = last(connect(&shell("echo Welcome to this machine")).unwrap()).await.unwrap();
            assert!(chatty.starts_with("what it answered is not elastictop's"), "{chatty}");
            assert!(connect(&["/no/such/program".to_owned()]).is_err());
        });
    }

    #[test]
    fn a_child_that_does_not_listen_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        run(async {
            let script = format!("echo $$ > {}; trap '' TERM; exec 1>&-; exec sleep 1000", pid.display());
            assert!(last(connect(&shell(&script)).unwrap()).await.unwrap().contains("signal: 9"));
        });
        let pid = std::fs::read_to_string(pid).unwrap();
        assert!(!std::path::Path::new("/proc").join(pid.trim()).exists());
    }
}
