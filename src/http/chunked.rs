//! The chunked transfer coding of HTTP/1.1 (RFC 9112, section 7.1).
//!
//! An event stream has no length, so each write is one chunk. Clients deliver a chunk when it is
//! complete. The last chunk tells them that the stream ended and was not cut.

use std::io::{self, ErrorKind, Write};

use bytes::{Buf, Bytes};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::send_progress::StallLimit;

/// The chunk that ends a body.
pub(super) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

const CRLF: &[u8] = b"\r\n";

/// The hexadecimal digits of the largest `usize`, and a line end.
const HEAD_BYTES: usize = size_of::<usize>() * 2 + CRLF.len();

/// Chunks up to this size are copied into one buffer, which costs less than a vectored write.
const SMALL_BYTES: usize = 1 << 10;

/// Writes the data as one chunk. Empty data would end the body, so it is skipped.
///
/// # Cancel safety
/// Not cancel safe: part of the chunk may have been written.
pub(super) async fn write(
    socket: &mut TcpStream,
    data: Bytes,
    stall_limit: &StallLimit,
) -> io::Result<()> {
    if data.is_empty() {
        return Ok(());
    }
    let written = if data.len() <= SMALL_BYTES { try_small(socket, &data)? } else { 0 };
    let head = Head::of(data.len());
    if written == head.len() + data.len() + CRLF.len() {
        return Ok(());
    }
    let mut rest = head.chain(data).chain(CRLF);
    rest.advance(written);
    stall_limit.socket(socket).write_all_buf(&mut rest).await
}

/// Writes as much of a small chunk as the socket takes without waiting. This is not part of the
/// asynchronous function, because its future would hold the buffer for as long as the stream is open.
fn try_small(socket: &TcpStream, data: &[u8]) -> io::Result<usize> {
    let mut chunk = [0; HEAD_BYTES + SMALL_BYTES + CRLF.len()];
    let mut rest = &mut chunk[..];
    for part in [Head::of(data.len()).chunk(), data, CRLF] {
        rest.write_all(part)?;
    }
    let left = rest.len();
    let length = chunk.len() - left;
    match socket.try_write(&chunk[..length]) {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
            Ok(0)
        }
        written => written,
    }
}

/// The line before the data: the length of the data in hexadecimal digits.
struct Head {
    line: [u8; HEAD_BYTES],
    at: usize,
}

impl Head {
    fn of(mut length: usize) -> Self {
        let mut line = [0; HEAD_BYTES];
        let mut at = HEAD_BYTES - CRLF.len();
        line[at..].copy_from_slice(CRLF);
        while length > 0 {
            at -= 1;
            line[at] = b"0123456789abcdef"[length & 0xf];
            length >>= 4;
        }
        Self { line, at }
    }

    fn len(&self) -> usize {
        self.remaining()
    }
}

impl Buf for Head {
    fn remaining(&self) -> usize {
        HEAD_BYTES - self.at
    }

    fn chunk(&self) -> &[u8] {
        &self.line[self.at..]
    }

    fn advance(&mut self, count: usize) {
        self.at += count;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prometheus_client::metrics::counter::Counter;
    use tokio::{io::AsyncReadExt, net::TcpListener};

    use super::*;

    #[test]
    fn chunk_head_is_the_length_in_hex() {
        for (length, line) in [(1, "1\r\n"), (16, "10\r\n"), (0xabc_def0, "abcdef0\r\n")] {
            assert_eq!(Head::of(length).chunk(), line.as_bytes());
        }
        assert_eq!(Head::of(usize::MAX).len(), HEAD_BYTES);
    }

    #[tokio::test]
    async fn writes_chunks_of_any_size_to_a_slow_client() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let sizes = [1, 15, 16, SMALL_BYTES, SMALL_BYTES + 1, 5 << 20, 0, 300, 300];
        let expected: Vec<u8> = sizes
            .iter()
            .filter(|size| **size > 0)
            .flat_map(|size| {
                [format!("{size:x}\r\n").into_bytes(), vec![b'x'; *size], b"\r\n".to_vec()].concat()
            })
            .collect();
        let stall_limit = StallLimit { within: Duration::from_mins(1), cut: Counter::default() };
        let writing = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            for size in sizes {
                write(&mut socket, vec![b'x'; size].into(), &stall_limit).await.unwrap();
            }
        };
        let reading = async {
            let mut socket = TcpStream::connect(address).await.unwrap();
            let mut all = Vec::new();
            socket.read_to_end(&mut all).await.unwrap();
            all
        };
        let ((), all) = tokio::join!(writing, reading);
        assert!(all == expected, "received {} bytes, expected {}", all.len(), expected.len());
    }
}
