//! The baseline: a server that only writes bytes to sockets, with one thread, one epoll, and only the
//! HTTP that the clients need.

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

const HELLO: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                       Transfer-Encoding: chunked\r\n\r\n";
const DONE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const LISTENER: u64 = u64::MAX;

/// Serves until the process is killed.
pub(crate) fn serve(port: u16) -> anyhow::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    listener.set_nonblocking(true)?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
    let mut bare = Bare { epoll, listener, sockets: Vec::new(), channels: HashMap::new() };
    let mut events = [EpollEvent::empty(); 512];
    loop {
        let count = bare.epoll.wait(&mut events, EpollTimeout::NONE)?;
        for event in &events[..count] {
            match event.data() {
                LISTENER => bare.accept()?,
                at => bare.read(usize::try_from(at)?)?,
            }
        }
    }
}

struct Bare {
    epoll: Epoll,
    listener: TcpListener,
    sockets: Vec<Option<TcpStream>>,
    channels: HashMap<String, Vec<usize>>,
}

impl Bare {
    fn accept(&mut self) -> anyhow::Result<()> {
        while let Ok((socket, _)) = self.listener.accept() {
            socket.set_nonblocking(true)?;
            socket.set_nodelay(true)?;
            let at = self.sockets.len() as u64;
            self.epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, at))?;
            self.sockets.push(Some(socket));
        }
        Ok(())
    }

    /// Assumes that a request arrives in one read: only the benchmark's own clients connect.
    fn read(&mut self, at: usize) -> anyhow::Result<()> {
        let Some(socket) = &mut self.sockets[at] else { return Ok(()) };
        let mut request = [0; 4096];
        let read = socket.read(&mut request).unwrap_or(0);
        if read == 0 {
            self.epoll.delete(&*socket)?;
            self.sockets[at] = None;
            return Ok(());
        }
        let request = std::str::from_utf8(&request[..read])?;
        let channel = request.split(['=', ' ']).nth(2).unwrap_or_default();
        if request.starts_with("GET") {
            socket.write_all(HELLO)?;
            self.channels.entry(channel.to_owned()).or_default().push(at);
            return Ok(());
        }
        let body = request.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
        let frame = format!("id: 1\nevent: insert\ndata: {body}\n\n");
        let chunk = format!("{:x}\r\n{frame}\r\n", frame.len());
        socket.write_all(DONE)?;
        for at in self.channels.get(channel).into_iter().flatten() {
            if let Some(socket) = &mut self.sockets[*at] {
                let _ = socket.write(chunk.as_bytes());
            }
        }
        Ok(())
    }
}
