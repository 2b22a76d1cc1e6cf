//! Listening sockets: TCP and Unix.

use std::{
    fmt, fs, io,
    net::SocketAddr,
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        net::UnixStream as StdUnixStream,
    },
    path::{Path, PathBuf},
};

use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};

use crate::access::networks::Peer;

/// The number of connections that may wait to be accepted; the system lowers it to `net.core.somaxconn`. If
/// the queue is full, the kernel drops handshakes, and clients hang for up to half a minute. The queue must
/// hold all clients that reconnect at the same time.
const BACKLOG: u32 = 1 << 16;

/// The file mode of the socket: its owner and its group may connect. A proxy in front is in that group.
const SOCKET_MODE: u32 = 0o660;

/// The address of a listening socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// An IP address and a port.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl ListenAddress {
    /// Whether only this machine can connect.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A listening socket.
#[derive(Debug)]
pub enum Listener {
    /// A TCP socket.
    Tcp(TcpListener),
    /// A Unix socket, and its file, which is removed with it.
    Unix(UnixListener, SocketFile),
}

/// An accepted connection.
#[derive(Debug)]
pub(super) enum Accepted {
    /// A TCP connection, and the address of its other end.
    Tcp(TcpStream, Peer),
    /// A connection to the Unix socket.
    Unix(UnixStream),
}

/// The file of a Unix socket. Removed when it is dropped.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

impl Listener {
    pub(super) async fn accept(&self) -> io::Result<Accepted> {
        Ok(match self {
            Self::Tcp(listener) => {
                let (socket, peer) = listener.accept().await?;
                Accepted::Tcp(socket, Peer::Ip(peer.ip()))
            }
            Self::Unix(listener, _) => Accepted::Unix(listener.accept().await?.0),
        })
    }

    /// The address that it listens on, with the actual port if port 0 was requested.
    pub fn address(&self) -> io::Result<ListenAddress> {
        Ok(match self {
            Self::Tcp(listener) => ListenAddress::Tcp(listener.local_addr()?),
            Self::Unix(_, SocketFile(path)) => ListenAddress::Unix(path.clone()),
        })
    }
}

/// Opens a listening socket.
///
/// # Errors
/// If the address is in use or cannot be bound.
pub fn listen(address: &ListenAddress) -> io::Result<Listener> {
    match address {
        ListenAddress::Tcp(address) => tcp(*address).map(Listener::Tcp),
        ListenAddress::Unix(path) => unix(path),
    }
}

/// Opens a listening TCP socket.
///
/// # Errors
/// If the address is in use or cannot be bound.
pub fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // After a restart, connections that the previous process closed still occupy the port.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Opens a listening Unix socket. Replaces the file of a gateway that was killed.
fn unix(path: &Path) -> io::Result<Listener> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|it| it.file_type().is_socket());
    if is_socket && StdUnixStream::connect(path).is_err() {
        fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    let file = SocketFile(path.to_owned());
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
    Ok(Listener::Unix(listener, file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn replaces_a_stale_socket_but_not_one_in_use() {
        let path = std::env::temp_dir().join(format!("ep-socket-{:016x}", fastrand::u64(..)));
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let address = ListenAddress::Unix(path.clone());
        let first = listen(&address).unwrap();
        assert_eq!(listen(&address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, SOCKET_MODE);
        drop(first);
        assert!(!path.exists());
        fs::write(&path, "precious").unwrap();
        assert!(listen(&address).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        fs::remove_file(&path).unwrap();
    }
}
