//! Where connections come in: at an address, or at a Unix socket.

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

/// As many may wait to be accepted as the system allows (`net.core.somaxconn`). Where they are
/// more than that, the kernel drops their handshakes, and they hang for up to half a minute: a
/// storm of clients that come back must find room.
const BACKLOG: u32 = 1 << 16;

/// Who may open the socket: its owner and its group, which the proxy in front is of.
const SOCKET_MODE: u32 = 0o660;

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// At this address.
    Tcp(SocketAddr),
    /// At a Unix socket of this path.
    Unix(PathBuf),
}

impl ListenAddress {
    /// Only this machine can reach it.
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

/// What listens there.
#[derive(Debug)]
pub enum Listener {
    /// At an address.
    Tcp(TcpListener),
    /// At a Unix socket, whose file goes with it.
    Unix(UnixListener, SocketFile),
}

/// A connection that came in.
#[derive(Debug)]
pub(super) enum Accepted {
    /// From this address.
    Tcp(TcpStream, Peer),
    /// By the Unix socket.
    Unix(UnixStream),
}

/// The file of a socket.
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

    /// Where it listens: with the port that the system chose, where it was asked to.
    pub fn address(&self) -> io::Result<ListenAddress> {
        Ok(match self {
            Self::Tcp(listener) => ListenAddress::Tcp(listener.local_addr()?),
            Self::Unix(_, SocketFile(path)) => ListenAddress::Unix(path.clone()),
        })
    }
}

/// A socket that listens there.
pub fn listen(place: &ListenAddress) -> io::Result<Listener> {
    match place {
        ListenAddress::Tcp(address) => tcp(*address).map(Listener::Tcp),
        ListenAddress::Unix(path) => unix(path),
    }
}

/// A socket that listens at this address.
pub fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A gateway that starts again finds its port in use by connections that it closed.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// A gateway that was killed leaves its socket's file behind.
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
    async fn a_socket_that_was_left_behind_is_replaced_and_one_in_use_is_not() {
        let path = std::env::temp_dir().join(format!("ep-socket-{:016x}", fastrand::u64(..)));
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let place = ListenAddress::Unix(path.clone());
        let first = listen(&place).unwrap();
        assert_eq!(listen(&place).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, SOCKET_MODE);
        drop(first);
        assert!(!path.exists());
        fs::write(&path, "precious").unwrap();
        assert!(listen(&place).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        fs::remove_file(&path).unwrap();
    }
}
