//! Where events come from: arguments, or lines on standard input.

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

/// So much is read at once.
const CHUNK_BYTES: usize = 64 << 10;
/// So many chunks are read ahead.
const CHUNKS_AHEAD: usize = 4;
/// A longer line is not an event: no gateway takes one that is larger by default than 1 MiB.
const LONGEST_LINE_BYTES: usize = 256 << 20;

/// What some editors put before a text. The gateway ignores it before each event, too.
const BYTE_ORDER_MARK: &str = "\u{feff}";

/// A line that is not empty.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Counted from 1.
    pub(super) number: u64,
    pub(super) text: String,
}

/// See the module.
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

    /// How many bytes there are in all, where that is known.
    pub(super) fn length(&self) -> Option<u64> {
        self.length
    }

    /// How many bytes were read.
    pub(super) fn read(&self) -> u64 {
        self.read
    }

    /// Whether these are lines, and not arguments.
    pub(super) fn are_input(&self) -> bool {
        matches!(self.from, From::Input(_))
    }

    /// Reads nothing more from standard input. What was read comes still, and then the end.
    pub(super) fn stop(&mut self) {
        if let From::Input(input) = &mut self.from {
            input.stop = None;
        }
    }

    /// Whether the end of the input was seen.
    pub(super) fn at_end(&self) -> bool {
        match &self.from {
            From::Arguments(rest) => rest.len() == 0,
            From::Input(input) => input.state == State::AtEnd,
        }
    }

    /// The number of a line whose end was not read any more.
    pub(super) fn unfinished(&self) -> Option<u64> {
        let From::Input(input) = &self.from else { return None };
        (input.state == State::Stopped && !input.unread.is_empty()).then_some(self.number + 1)
    }

    /// The next line, or none behind the last.
    ///
    /// # Cancel safety
    /// Nothing of the input is lost.
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

/// Standard input, read by a thread that can be stopped without losing what it has read: one that
/// waits in a `read` could not be, and would hold up the end of the program.
struct Input {
    /// An empty one is the end.
    chunks: mpsc::Receiver<io::Result<Vec<u8>>>,
    /// The thread reads as long as this is open.
    stop: Option<PipeWriter>,
    unread: Vec<u8>,
    /// Of `unread`, so much has no end of a line.
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

    /// The next line without its end.
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

/// Reads until the end, or until the other end of `stopped` is closed.
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

/// Waits until there is something to read, or until it is stopped: then `false`.
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

/// The length of a file on standard input; of a pipe it is not known.
fn length_of_input() -> Option<u64> {
    let file = File::open("/dev/stdin").ok()?.metadata().ok()?;
    file.is_file().then_some(file.len())
}
