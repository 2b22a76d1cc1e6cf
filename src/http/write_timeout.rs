//! A socket whose writes fail if the client stops reading.
//!
//! A client may be slow: each byte that it reads restarts the timeout. A client that reads nothing occupies
//! memory and a file descriptor to no purpose, and is disconnected. It can reconnect with its cursor, and
//! loses nothing.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use prometheus_client::metrics::counter::Counter;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// A socket with a timeout for writes.
pub(super) struct WriteTimeout<S> {
    socket: S,
    within: Duration,
    cut: Counter,
    /// The timeout of the write in progress. `None` while writes make progress.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> WriteTimeout<S> {
    /// Writes without progress for `within` fail with `TimedOut`, and increment `cut`.
    pub(super) fn new(socket: S, within: Duration, cut: Counter) -> Self {
        Self { socket, within, cut, stalled: None }
    }

    fn check_progress(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let within = self.within;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(within)));
        if stalled.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.cut.inc();
        let why = "the client read nothing for too long (--write-timeout)";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WriteTimeout<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.check_progress(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, pieces);
        self.check_progress(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WriteTimeout<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, into)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn times_out_a_stalled_client_but_not_a_slow_one() {
        let (socket, mut client) = duplex(16);
        let cut = Counter::default();
        let within = Duration::from_millis(50);
        let mut steady = WriteTimeout::new(socket, within, cut.clone());
        let reading = async {
            let mut read = Vec::new();
            while read.len() < 64 {
                // All pauses together exceed the timeout; each one is shorter.
                sleep(within / 10).await;
                read.push(client.read_u8().await.unwrap());
            }
            client
        };
        let writing = async { steady.write_all(&[7; 64]).await };
        let (written, _client) = tokio::join!(writing, reading);
        written.unwrap();
        assert_eq!(cut.get(), 0);
        let stuck = steady.write_all(&[7; 64]).await.unwrap_err();
        assert_eq!((stuck.kind(), cut.get()), (io::ErrorKind::TimedOut, 1));
    }
}
