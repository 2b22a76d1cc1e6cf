//! A socket whose other end has to take something now and then.
//!
//! A client may be as slow as it likes: each byte that it takes counts. One that takes nothing for
//! long keeps memory, a place and an open file for nothing, and is cut off. It comes back with its
//! cursor and has lost nothing.

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

/// See the module.
pub(super) struct WriteTimeout<S> {
    socket: S,
    within: Duration,
    cut: Counter,
    /// Since a write took nothing: when it is to be given up.
    stuck: Option<Pin<Box<Sleep>>>,
}

impl<S> WriteTimeout<S> {
    /// Writes that take nothing for so long fail, and are counted.
    pub(super) fn new(socket: S, within: Duration, cut: Counter) -> Self {
        Self { socket, within, cut, stuck: None }
    }

    fn judged(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stuck = None;
            return written;
        }
        let within = self.within;
        let stuck = self.stuck.get_or_insert_with(|| Box::pin(sleep(within)));
        if stuck.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.cut.inc();
        let why = "the client took nothing for too long (--write-timeout)";
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
        self.judged(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, pieces);
        self.judged(cx, written)
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
    async fn who_takes_nothing_is_cut_off_and_who_takes_a_byte_now_and_then_is_not() {
        let (socket, mut client) = duplex(16);
        let cut = Counter::default();
        let within = Duration::from_millis(50);
        let mut steady = WriteTimeout::new(socket, within, cut.clone());
        let reading = async {
            let mut read = Vec::new();
            while read.len() < 64 {
                // Together longer than the deadline, each by itself shorter.
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
