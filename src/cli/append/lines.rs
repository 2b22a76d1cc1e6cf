//! The source of events: arguments, or lines on standard input.

use std::{
    fs::File,
    io::{self, ErrorKind, PipeReader, PipeWriter, Read, pipe, stdin},
    os::fd::AsFd,
    thread,
};

use anyhow::{Context, bail};
use memchr::memchr;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::mpsc;

/// The size of one read.
const CHUNK_BYTES: usize = 64 << 10;
/// The number of chunks that are read ahead.
const CHUNKS_AHEAD: usize = 4;
/// The largest accepted line. A longer one is not an event: by default, gateways accept 1 MiB.
const LONGEST_LINE_BYTES: usize = 256 << 20;

/// Some editors put it before a text. It is ignored, as by the gateway.
const BYTE_ORDER_MARK: &str = "\u{feff}";

/// A line with text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// The number of the line, from 1.
    pub(super) number: u64,
    pub(super) text: String,
}

/// Reads lines from arguments or standard input.
pub(super) struct Lines {
    from: From,
    number: u64,
    read: u64,
    length: Option<u64>,
}

enum From {
    Arguments(std::vec::IntoIter<String>),
    Input(Input),
}

impl Lines {
    pub(super) fn open(arguments: Vec<String>) -> anyhow::Result<Self> {
        let (from, length) = if arguments.is_empty() {
            (From::Input(Input::open()?), length_of_input())
        } else {
            (From::Arguments(arguments.into_iter()), None)
        };
        Ok(Self { from, number: 0, read: 0, length })
    }

    /// The length of the input in bytes. `None` if it is not known.
    pub(super) fn length(&self) -> Option<u64> {
        self.length
    }

    /// The number of bytes that were read.
    pub(super) fn read(&self) -> u64 {
        self.read
    }

    /// Whether the lines come from standard input rather than from arguments.
    pub(super) fn are_input(&self) -> bool {
        matches!(self.from, From::Input(_))
    }

    /// Stops reading standard input. Lines that were read are still returned.
    pub(super) fn stop(&mut self) {
        if let From::Input(input) = &mut self.from {
            input.stop = None;
        }
    }

    /// Whether the end of the input was reached.
    pub(super) fn at_end(&self) -> bool {
        match &self.from {
            From::Arguments(rest) => rest.len() == 0,
            From::Input(input) => input.state == State::AtEnd,
        }
    }

    /// The number of the line that was read in part when reading was stopped.
    pub(super) fn unfinished(&self) -> Option<u64> {
        let From::Input(input) = &self.from else { return None };
        (input.state == State::Stopped && !input.unread.is_empty()).then_some(self.number + 1)
    }

    /// The next line with text. `None` at the end.
    ///
    /// # Cancel safety
    /// No input is lost.
    pub(super) async fn next(&mut self) -> anyhow::Result<Option<Line>> {
        loop {
            let text = match &mut self.from {
                From::Arguments(rest) => rest.next().map(String::into_bytes),
                From::Input(input) => input.next().await?,
            };
            let Some(text) = text else { return Ok(None) };
            self.number += 1;
            self.read += text.len() as u64 + 1;
            let text = String::from_utf8(text);
            let text =
                text.ok().with_context(|| format!("line {}: not valid UTF-8", self.number))?;
            let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&text).trim_ascii();
            if !text.is_empty() {
                return Ok(Some(Line { number: self.number, text: text.to_owned() }));
            }
        }
    }
}

/// Standard input, read by a thread. The thread waits in `poll`, so that it can be stopped without losing
/// input; a thread in `read` could not be stopped, and would delay the end of the program.
struct Input {
    /// An empty chunk means the end of the input.
    chunks: mpsc::Receiver<io::Result<Vec<u8>>>,
    /// The thread reads while this end of the pipe is open.
    stop: Option<PipeWriter>,
    unread: Vec<u8>,
    /// The number of bytes at the start of `unread` that contain no line break.
    searched: usize,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Reading,
    Stopped,
    AtEnd,
}

impl Input {
    fn open() -> anyhow::Result<Self> {
        let input = stdin().as_fd().try_clone_to_owned().context("opening standard input")?;
        let (stopped, stop) = pipe().context("preparing to read standard input")?;
        let (sender, chunks) = mpsc::channel(CHUNKS_AHEAD);
        thread::spawn(move || read(input.into(), &stopped, &sender));
        let (unread, stop) = (Vec::new(), Some(stop));
        Ok(Self { chunks, stop, unread, searched: 0, state: State::Reading })
    }

    /// The next line without its line break.
    async fn next(&mut self) -> anyhow::Result<Option<Vec<u8>>> {
        loop {
            if let Some(at) = memchr(b'\n', &self.unread[self.searched..]) {
                let rest = self.unread.split_off(self.searched + at + 1);
                let mut line = std::mem::replace(&mut self.unread, rest);
                self.searched = 0;
                line.pop();
                return Ok(Some(line));
            }
            self.searched = self.unread.len();
            if self.searched > LONGEST_LINE_BYTES {
                bail!("a line is longer than {LONGEST_LINE_BYTES} bytes");
            }
            match self.state {
                State::Reading => self.more().await?,
                State::Stopped => return Ok(None),
                State::AtEnd if self.unread.is_empty() => return Ok(None),
                State::AtEnd => {
                    self.searched = 0;
                    return Ok(Some(std::mem::take(&mut self.unread)));
                }
            }
        }
    }

    async fn more(&mut self) -> anyhow::Result<()> {
        match self.chunks.recv().await {
            None => self.state = State::Stopped,
            Some(chunk) => {
                let chunk = chunk.context("reading standard input")?;
                if chunk.is_empty() {
                    self.state = State::AtEnd;
                }
                self.unread.extend_from_slice(&chunk);
            }
        }
        Ok(())
    }
}

/// Reads until the end of the input, or until the other end of `stopped` is closed.
fn read(mut input: File, stopped: &PipeReader, chunks: &mpsc::Sender<io::Result<Vec<u8>>>) {
    loop {
        match wait(&input, stopped) {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => return drop(chunks.blocking_send(Err(error))),
        }
        let mut chunk = vec![0; CHUNK_BYTES];
        let read = match input.read(&mut chunk) {
            Err(error)
                if [ErrorKind::Interrupted, ErrorKind::WouldBlock].contains(&error.kind()) =>
            {
                continue;
            }
            Err(error) => return drop(chunks.blocking_send(Err(error))),
            Ok(read) => read,
        };
        chunk.truncate(read);
        if chunks.blocking_send(Ok(chunk)).is_err() || read == 0 {
            return;
        }
    }
}

/// Waits until there is input. Returns `false` if reading was stopped.
fn wait(input: &File, stopped: &PipeReader) -> io::Result<bool> {
    let mut both = [
        PollFd::new(input.as_fd(), PollFlags::POLLIN),
        PollFd::new(stopped.as_fd(), PollFlags::POLLIN),
    ];
    match poll(&mut both, PollTimeout::NONE) {
        Err(nix::Error::EINTR) => wait(input, stopped),
        Err(error) => Err(error.into()),
        Ok(_) => Ok(both[1].revents().is_none_or(|events| events.is_empty())),
    }
}

/// The length of standard input, if it is a file.
fn length_of_input() -> Option<u64> {
    let file = File::open("/dev/stdin").ok()?.metadata().ok()?;
    file.is_file().then_some(file.len())
}
