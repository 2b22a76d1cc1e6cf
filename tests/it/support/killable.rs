//! A gateway that can be killed.

use std::{net::SocketAddr, process::Stdio};

use tokio::{
    net::TcpStream,
    process::{Child, Command},
};

use super::{eventually, ports::free_address};

/// A gateway in a separate process, which can be killed without a shutdown.
pub(crate) struct Killable {
    pub(crate) address: SocketAddr,
    child: Child,
}

impl Killable {
    /// Starts a gateway on this database, at a free address or at the given one.
    pub(crate) async fn start(url: &str, address: Option<SocketAddr>) -> Self {
        let address = address.unwrap_or_else(free_address);
        let mut command = Command::new(env!("CARGO_BIN_EXE_event-piper"));
        command.args(["serve", "--database-url", url, "--listen", &address.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.kill_on_drop(true).spawn().unwrap();
        let there = async || TcpStream::connect(address).await.ok();
        eventually("the gateway listens", there).await;
        Self { address, child }
    }

    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }
}
