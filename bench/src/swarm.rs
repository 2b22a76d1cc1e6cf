//! Thousands of clients of event streams in one thread: bare sockets, one epoll, and no parsing
//! except for a marker.
//!
//! Every message contains a marker, `@@` and its number in ten digits. The clients search only for
//! markers. A client therefore costs little more than the kernel's part, and works with the framing of
//! any server. Numbers increase: a number that does not was delivered twice or out of order, and a number
//! that never arrives was lost.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use memchr::memmem::Finder;
use nix::{
    errno::Errno,
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        resource::{UsageWho, getrusage},
        time::TimeValLike,
    },
};
use socket2::{Domain, SockAddr, Socket, Type};

/// The number of source addresses, so that no pair of addresses runs out of ports.
const SOURCE_ADDRESSES: u8 = 32;
const OPEN_TIMEOUT: Duration = Duration::from_mins(1);
const BUFFER_BYTES: usize = 256 << 10;
const MARK: &[u8] = b"@@";
const DIGITS: usize = 10;
/// The bytes to keep after a read, because a marker may be split between two reads.
const TAIL_BYTES: usize = MARK.len() + DIGITS - 1;

/// The marker of a message.
pub(crate) fn mark(number: u32) -> String {
    format!("@@{number:010}")
}

/// Nanoseconds since the start of this process; the same clock for writers and readers.
pub(crate) fn now() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed().as_nanos().try_into().unwrap_or(u64::MAX)
}

/// How clients connect and subscribe.
pub(crate) struct Target<'a> {
    pub(crate) port: u16,
    /// Returns the request of a client.
    pub(crate) request: &'a dyn Fn(usize) -> String,
    /// The bytes that the server sends once a client is subscribed.
    pub(crate) ready: &'a [u8],
    /// The maximum number of clients that connect concurrently.
    pub(crate) at_once: usize,
}

struct Client {
    socket: TcpStream,
    tail: Vec<u8>,
    /// The number after the last one that arrived.
    next: u32,
    open: bool,
    /// The request to send once the socket is connected; empty if it was already sent.
    request: String,
}

/// One message at one client.
#[derive(Clone, Copy)]
pub(crate) struct Arrival {
    pub(crate) number: u32,
    pub(crate) at: u64,
}

/// A set of clients.
pub(crate) struct Swarm {
    epoll: Epoll,
    clients: Vec<Client>,
    buffer: Vec<u8>,
    mark: Finder<'static>,
    arrivals: Vec<Arrival>,
    /// Whether arrivals are stored, or only counted.
    keep: bool,
    received: Arc<AtomicU64>,
    first: Option<u64>,
    last: u64,
    disordered: u64,
    closed: u64,
}

/// What a swarm has received.
#[derive(Default)]
pub(crate) struct Harvest {
    pub(crate) arrivals: Vec<Arrival>,
    pub(crate) received: u64,
    pub(crate) disordered: u64,
    pub(crate) closed: u64,
    /// The times of the first and the last arrival, in nanoseconds.
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// CPU time of the swarm's thread.
    pub(crate) cpu: Duration,
}

impl Swarm {
    /// Opens `count` streams. Returns when all of them are subscribed.
    pub(crate) fn open(target: &Target<'_>, count: usize) -> anyhow::Result<Self> {
        let mut swarm = Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            clients: Vec::with_capacity(count),
            buffer: vec![0; BUFFER_BYTES],
            mark: Finder::new(MARK),
            arrivals: Vec::new(),
            keep: true,
            received: Arc::default(),
            first: None,
            last: 0,
            disordered: 0,
            closed: 0,
        };
        let ready = Finder::new(target.ready);
        while swarm.clients.len() < count {
            let upto = count.min(swarm.clients.len() + target.at_once);
            while swarm.clients.len() < upto {
                swarm.connect(target)?;
            }
            swarm.await_open(&ready)?;
        }
        Ok(swarm)
    }

    /// Opens `count` streams at once, without waiting until they are connected or subscribed.
    pub(crate) fn storm(target: &Target<'_>, count: usize) -> anyhow::Result<Self> {
        let mut swarm = Self::open(target, 0)?;
        for at in 0..count {
            let socket = bound(at)?;
            socket.set_nonblocking(true)?;
            match socket.connect(&server(target.port)) {
                Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => {
                    return Err(error).context("connecting");
                }
                _ => {}
            }
            swarm.add(socket.into(), (target.request)(at), EpollFlags::EPOLLOUT)?;
        }
        Ok(swarm)
    }

    fn connect(&mut self, target: &Target<'_>) -> anyhow::Result<()> {
        let at = self.clients.len();
        let socket = bound(at)?;
        socket.connect(&server(target.port)).with_context(|| format!("opening stream {at}"))?;
        let mut socket = TcpStream::from(socket);
        socket.write_all((target.request)(at).as_bytes())?;
        socket.set_nonblocking(true)?;
        self.add(socket, String::new(), EpollFlags::EPOLLIN)
    }

    fn add(
        &mut self,
        socket: TcpStream,
        request: String,
        events: EpollFlags,
    ) -> anyhow::Result<()> {
        self.epoll.add(&socket, EpollEvent::new(events, self.clients.len() as u64))?;
        self.clients.push(Client { socket, tail: Vec::new(), next: 0, open: false, request });
        Ok(())
    }

    fn await_open(&mut self, ready: &Finder<'_>) -> anyhow::Result<()> {
        let start = Instant::now();
        while let Some(at) = self.clients.iter().rposition(|client| !client.open) {
            if start.elapsed() > OPEN_TIMEOUT {
                let said = String::from_utf8_lossy(&self.clients[at].tail);
                bail!("stream {at} is not subscribed; it received {said:?}");
            }
            for at in self.wait(Duration::from_millis(100))? {
                let client = &mut self.clients[at];
                match client.socket.read(&mut self.buffer) {
                    Ok(0) => bail!("stream {at} was closed before it was subscribed"),
                    Ok(read) => client.tail.extend_from_slice(&self.buffer[..read]),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error.into()),
                }
                if !client.open && ready.find(&client.tail).is_some() {
                    let said = String::from_utf8_lossy(&client.tail);
                    ensure!(said.starts_with("HTTP/1.1 200"), "stream {at} was refused: {said}");
                    client.open = true;
                    client.tail = Vec::new();
                }
            }
        }
        Ok(())
    }

    fn wait(&self, timeout: Duration) -> anyhow::Result<Vec<usize>> {
        let mut events = [EpollEvent::empty(); 512];
        let timeout = EpollTimeout::try_from(timeout)?;
        let count = match self.epoll.wait(&mut events, timeout) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(error) => return Err(error.into()),
        };
        let tokens = events[..count].iter().map(|event| usize::try_from(event.data()));
        Ok(tokens.collect::<Result<_, _>>()?)
    }

    /// Expects messages to be numbered from 0 again.
    pub(crate) fn restart_numbers(&mut self) {
        self.clients.iter_mut().for_each(|client| client.next = 0);
    }

    /// Only counts messages, instead of storing their arrivals. For millions of messages.
    pub(crate) fn count_only(&mut self) {
        self.keep = false;
    }

    /// Reads in a separate thread until [`Reading::stop`] is called.
    pub(crate) fn read(mut self) -> Reading {
        let stop = Arc::new(AtomicBool::new(false));
        let received = Arc::clone(&self.received);
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let before = own_cpu();
            while !stopped.load(Ordering::Relaxed) {
                for at in self.wait(Duration::from_millis(20))? {
                    self.take(at);
                }
            }
            let harvest = self.harvest(own_cpu().saturating_sub(before));
            Ok((self, harvest))
        });
        Reading { stop, received, thread }
    }

    fn take(&mut self, at: usize) {
        let client = &mut self.clients[at];
        if !client.request.is_empty() {
            return self.send(at);
        }
        let kept = client.tail.len();
        self.buffer[..kept].copy_from_slice(&client.tail);
        match client.socket.read(&mut self.buffer[kept..]) {
            Ok(0) => self.close(at),
            Ok(read) => self.scan(at, kept + read),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => self.close(at),
        }
    }

    /// Sends the request of a client whose connection was established or refused.
    fn send(&mut self, at: usize) {
        let client = &mut self.clients[at];
        let request = std::mem::take(&mut client.request);
        let reading = &mut EpollEvent::new(EpollFlags::EPOLLIN, at as u64);
        let sent = client.socket.write_all(request.as_bytes());
        if sent.is_err() || self.epoll.modify(&client.socket, reading).is_err() {
            self.close(at);
        }
    }

    fn close(&mut self, at: usize) {
        self.closed += 1;
        let _ = self.epoll.delete(&self.clients[at].socket);
    }

    fn scan(&mut self, at: usize, length: usize) {
        let time = now();
        let client = &mut self.clients[at];
        let text = &self.buffer[..length];
        let mut from = 0;
        let mut count = 0;
        while let Some(found) = self.mark.find(&text[from..]) {
            let digits = from + found + MARK.len();
            let Some(digits) = text.get(digits..digits + DIGITS) else { break };
            let number = digits.iter().fold(0, |sum: u32, digit| {
                sum.wrapping_mul(10).wrapping_add(u32::from(digit.wrapping_sub(b'0')))
            });
            self.disordered += u64::from(number < client.next);
            client.next = number.saturating_add(1);
            if self.keep {
                self.arrivals.push(Arrival { number, at: time });
            }
            count += 1;
            from += found + MARK.len() + DIGITS;
        }
        client.tail.clear();
        client.tail.extend_from_slice(&text[from.max(length.saturating_sub(TAIL_BYTES))..]);
        if count > 0 {
            self.first.get_or_insert(time);
            self.last = time;
            self.received.fetch_add(count, Ordering::Relaxed);
        }
    }

    fn harvest(&mut self, cpu: Duration) -> Harvest {
        Harvest {
            arrivals: std::mem::take(&mut self.arrivals),
            received: self.received.swap(0, Ordering::Relaxed),
            disordered: std::mem::take(&mut self.disordered),
            closed: std::mem::take(&mut self.closed),
            first: self.first.take().unwrap_or(0),
            last: self.last,
            cpu,
        }
    }
}

/// Returns a socket that is bound to the source address of this client.
fn bound(at: usize) -> anyhow::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    let host = u8::try_from(at % usize::from(SOURCE_ADDRESSES))? + 2;
    socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 0, host), 0)).into())?;
    Ok(socket)
}

fn server(port: u16) -> SockAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into()
}

/// A swarm that reads in a separate thread.
pub(crate) struct Reading {
    stop: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
    thread: JoinHandle<anyhow::Result<(Swarm, Harvest)>>,
}

impl Reading {
    /// The counter of received messages, for writers that must not run too far ahead.
    pub(crate) fn counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.received)
    }

    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Waits until `count` messages have arrived, or none has arrived for `patience`.
    pub(crate) fn wait_for(&self, count: u64, patience: Duration) {
        let mut last = (self.received(), Instant::now());
        while self.received() < count && !self.thread.is_finished() {
            std::thread::sleep(Duration::from_micros(200));
            if self.received() != last.0 {
                last = (self.received(), Instant::now());
            } else if last.1.elapsed() > patience {
                return;
            }
        }
    }

    /// Stops reading, and returns the swarm and what it has received.
    pub(crate) fn stop(self) -> anyhow::Result<(Swarm, Harvest)> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("the swarm panicked"))?
    }
}

/// CPU time of this thread.
pub(crate) fn own_cpu() -> Duration {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_THREAD) else { return Duration::ZERO };
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Duration::from_micros(micros.unsigned_abs())
}
