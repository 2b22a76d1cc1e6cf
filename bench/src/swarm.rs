//! Thousands of clients of event streams in one thread: bare sockets, one epoll, no parsing
//! but for one mark.
//!
//! Every message carries a mark, `@@` and its number in ten digits, which is all that is
//! looked for in what is read. So a client costs little more than the kernel's part, and works
//! on any server's framing. Numbers rise: one that does not was delivered twice or out of
//! order, one that never comes was lost.

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

/// Source addresses in use, so that no pair of addresses runs out of ports.
const SOURCES: u8 = 32;
const OPENED_WITHIN: Duration = Duration::from_mins(1);
const BUFFER: usize = 256 << 10;
const MARK: &[u8] = b"@@";
const DIGITS: usize = 10;
/// What may have to be kept of a mark, or of the sign of being ready, that was cut in two.
const TAIL: usize = MARK.len() + DIGITS - 1;

/// The mark of a message.
pub(crate) fn mark(number: u32) -> String {
    format!("@@{number:010}")
}

/// Nanoseconds since this process began; one clock for who writes and who reads.
pub(crate) fn now() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed().as_nanos().try_into().unwrap_or(u64::MAX)
}

/// What every client sends, and how it knows that it is subscribed.
pub(crate) struct Door<'a> {
    pub(crate) port: u16,
    /// The request of a client.
    pub(crate) request: &'a dyn Fn(usize) -> String,
    /// What comes once it is subscribed.
    pub(crate) ready: &'a [u8],
    /// As many are let in at once.
    pub(crate) at_once: usize,
}

struct Client {
    socket: TcpStream,
    tail: Vec<u8>,
    /// The number after the last one that came.
    next: u32,
    open: bool,
    /// What to send once it is connected, where nobody waited for that.
    request: String,
}

/// One message at one client.
#[derive(Clone, Copy)]
pub(crate) struct Arrival {
    pub(crate) number: u32,
    pub(crate) at: u64,
}

/// See the module.
pub(crate) struct Swarm {
    epoll: Epoll,
    clients: Vec<Client>,
    buffer: Vec<u8>,
    mark: Finder<'static>,
    arrivals: Vec<Arrival>,
    /// Whether each arrival is kept, or only counted.
    keep: bool,
    received: Arc<AtomicU64>,
    first: Option<u64>,
    last: u64,
    disordered: u64,
    closed: u64,
}

/// What a swarm got between two looks.
#[derive(Default)]
pub(crate) struct Harvest {
    pub(crate) arrivals: Vec<Arrival>,
    pub(crate) received: u64,
    pub(crate) disordered: u64,
    pub(crate) closed: u64,
    /// When the first message came, and the last.
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// CPU time of the swarm's thread.
    pub(crate) cpu: Duration,
}

impl Swarm {
    /// Opens so many streams; returns when all of them are subscribed.
    pub(crate) fn open(door: &Door<'_>, count: usize) -> anyhow::Result<Self> {
        let mut swarm = Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            clients: Vec::with_capacity(count),
            buffer: vec![0; BUFFER],
            mark: Finder::new(MARK),
            arrivals: Vec::new(),
            keep: true,
            received: Arc::default(),
            first: None,
            last: 0,
            disordered: 0,
            closed: 0,
        };
        let ready = Finder::new(door.ready);
        while swarm.clients.len() < count {
            let upto = count.min(swarm.clients.len() + door.at_once);
            while swarm.clients.len() < upto {
                swarm.connect(door)?;
            }
            swarm.await_open(&ready)?;
        }
        Ok(swarm)
    }

    /// The same, all at once, and without waiting for anything: what is connected and subscribed
    /// is found out by reading.
    pub(crate) fn storm(door: &Door<'_>, count: usize) -> anyhow::Result<Self> {
        let mut swarm = Self::open(door, 0)?;
        for at in 0..count {
            let socket = bound(at)?;
            socket.set_nonblocking(true)?;
            match socket.connect(&server(door.port)) {
                Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => {
                    return Err(error).context("connecting");
                }
                _ => {}
            }
            swarm.add(socket.into(), (door.request)(at), EpollFlags::EPOLLOUT)?;
        }
        Ok(swarm)
    }

    fn connect(&mut self, door: &Door<'_>) -> anyhow::Result<()> {
        let at = self.clients.len();
        let socket = bound(at)?;
        socket.connect(&server(door.port)).with_context(|| format!("opening stream {at}"))?;
        let mut socket = TcpStream::from(socket);
        socket.write_all((door.request)(at).as_bytes())?;
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
            if start.elapsed() > OPENED_WITHIN {
                let said = String::from_utf8_lossy(&self.clients[at].tail);
                bail!("stream {at} is not subscribed; it got {said:?}");
            }
            for at in self.wait(Duration::from_millis(100))? {
                let client = &mut self.clients[at];
                match client.socket.read(&mut self.buffer) {
                    Ok(0) => bail!("stream {at} was closed at once"),
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

    /// Messages are numbered from 0 again.
    pub(crate) fn begin_anew(&mut self) {
        self.clients.iter_mut().for_each(|client| client.next = 0);
    }

    /// Counts messages only, for those of which there are millions.
    pub(crate) fn count_only(&mut self) {
        self.keep = false;
    }

    /// Reads in a thread of its own until told to stop.
    pub(crate) fn read(mut self) -> Reading {
        let stop = Arc::new(AtomicBool::new(false));
        let received = Arc::clone(&self.received);
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let before = own_cpu();
            while !told.load(Ordering::Relaxed) {
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

    /// It is connected now, or refused.
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
        client.tail.extend_from_slice(&text[from.max(length.saturating_sub(TAIL))..]);
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

/// A socket with a source address of its own.
fn bound(at: usize) -> anyhow::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    let host = u8::try_from(at % usize::from(SOURCES))? + 2;
    socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 0, host), 0)).into())?;
    Ok(socket)
}

fn server(port: u16) -> SockAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into()
}

/// A swarm that reads.
pub(crate) struct Reading {
    stop: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
    thread: JoinHandle<anyhow::Result<(Swarm, Harvest)>>,
}

impl Reading {
    /// How many messages have come so far; for who must not run ahead.
    pub(crate) fn counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.received)
    }

    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Waits until so many messages have come, or nothing has come for a while.
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

    /// Stops, and hands back the swarm with what it got.
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
