//! A link between one viewer and one supervisor, whatever lies between them.

use std::{io, path::Path};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, BufWriter},
    sync::mpsc,
};

use super::{
    frame,
    message::{ToSupervisor, ToViewer},
};

/// Messages that may wait on either side of a link.
pub const QUEUE: usize = 64;

/// The viewer's end. When `incoming` ends, the link is gone.
#[derive(Debug)]
pub struct Link {
    /// To the supervisor.
    pub outgoing: mpsc::Sender<ToSupervisor>,
    /// From the supervisor.
    pub incoming: mpsc::Receiver<ToViewer>,
}

/// The supervisor's end of a link inside of one process.
#[derive(Debug)]
pub struct FarEnd {
    /// From the viewer.
    pub incoming: mpsc::Receiver<ToSupervisor>,
    /// To the viewer.
    pub outgoing: mpsc::Sender<ToViewer>,
}

impl Link {
    /// Two ends inside of one process.
    pub fn pair() -> (Link, FarEnd) {
        let (to_supervisor, from_viewer) = mpsc::channel(QUEUE);
        let (to_viewer, from_supervisor) = mpsc::channel(QUEUE);
        (
            Link { outgoing: to_supervisor, incoming: from_supervisor },
            FarEnd { incoming: from_viewer, outgoing: to_viewer },
        )
    }

    /// A link over the socket of a supervisor on this machine.
    ///
    /// # Errors
    /// Those of `connect`: nobody listens, no such file, no permission.
    pub async fn unix(path: &Path) -> io::Result<Link> {
        let (read, write) = super::socket::connect(path).await?.into_split();
        Ok(Link::over(read, write))
    }

    /// A link over any pair of streams, such as the standard streams of a child process.
    pub fn over<R, W>(read: R, write: W) -> Link
    where
        R: AsyncRead + Unpin + Send + 'static,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        let (link, FarEnd { mut incoming, outgoing }) = Link::pair();
        tokio::spawn(async move {
            let mut write = BufWriter::new(write);
            while let Some(message) = incoming.recv().await {
                if frame::write(&mut write, &message).await.is_err() {
                    return;
                }
            }
            // Tells the supervisor that this viewer left; it may be gone itself.
            let _ = write.shutdown().await;
        });
        tokio::spawn(async move {
            let mut read = BufReader::with_capacity(64 << 10, read);
            while let Ok(Some(message)) = frame::read(&mut read).await {
                if outgoing.send(message).await.is_err() {
                    break;
                }
            }
        });
        link
    }
}
