//! Frames: four bytes of length (big endian), then that many bytes of JSON.

use std::io;

use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Largest frame that is read or written, in bytes; a snapshot of 4096 ranks needs about 2 MiB.
pub const MAX_FRAME: usize = 32 << 20;

/// The bytes of one frame.
///
/// # Errors
/// When the message does not fit into [`MAX_FRAME`] bytes.
pub fn encode<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    with_length(bytes)
}

/// Fills in the length of a frame whose first four bytes were kept free for it.
///
/// # Errors
/// When it is longer than [`MAX_FRAME`] bytes.
pub(super) fn with_length(mut bytes: Vec<u8>) -> io::Result<Vec<u8>> {
    let length = bytes.len() - 4;
    if length > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a message of {length} bytes")));
    }
    bytes[..4].copy_from_slice(&(length as u32).to_be_bytes());
    Ok(bytes)
}

/// Writes one message and flushes.
///
/// # Errors
/// Those of the stream, and of [`encode`].
pub async fn write<W: AsyncWrite + Unpin, T: Serialize>(stream: &mut W, message: &T) -> io::Result<()> {
    stream.write_all(&encode(message)?).await?;
    stream.flush().await
}

/// Reads one message; `None` at the end of the stream between two frames.
///
/// # Errors
/// A frame that is cut off, longer than [`MAX_FRAME`], or no such message.
pub async fn read<R: AsyncRead + Unpin, T: DeserializeOwned>(stream: &mut R) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    match stream.read(&mut length).await? {
        0 => return Ok(None),
        n => stream.read_exact(&mut length[n..]).await?,
    };
    let length = u32::from_be_bytes(length) as usize;
    if length > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {length} bytes")));
    }
    let mut bytes = Vec::new();
    // Grows with what really arrives: a lying length costs no memory.
    stream.take(length as u64).read_to_end(&mut bytes).await?;
    if bytes.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(serde_json::from_slice(&bytes)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[test]
    fn messages_cross_a_stream_that_splits_them_anywhere() {
        let bytes = [encode(&"one").unwrap(), encode(&"two").unwrap()].concat();
        for cut in 0..=bytes.len() {
            let mut stream = bytes[..cut].chain(&bytes[cut..]);
            let (first, second, end) = run(async {
                (
                    read::<_, String>(&mut stream).await.unwrap(),
                    read::<_, String>(&mut stream).await.unwrap(),
                    read::<_, String>(&mut stream).await.unwrap(),
                )
            });
            assert_eq!(
                (first.as_deref(), second.as_deref(), end),
                (Some("one"), Some("two"), None),
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn a_torn_or_lying_frame_is_an_error() {
        let bytes = encode(&"one").unwrap();
        for cut in 1..bytes.len() {
            assert!(run(read::<_, String>(&mut &bytes[..cut])).is_err(), "cut at {cut}");
        }
        assert!(run(read::<_, String>(&mut &[0xff; 8][..])).is_err());
        assert!(run(read::<_, String>(&mut &[0, 0, 0, 1, b'x'][..])).is_err());
    }
}
