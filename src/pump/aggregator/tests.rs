//! The client against servers that send fixed responses.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;

fn target(host: &str, port: u16) -> Target {
    Target {
        host: host.into(),
        port,
        base: "/".into(),
        batch_path: "events/batch".into(),
        tls: None,
        token: None,
        key: None,
        timeout: Duration::from_mins(1),
    }
}

/// An aggregator that sends these responses on its one connection, and then closes it if `ends`.
async fn that_answers(answers: &'static [&'static str], ends: bool) -> Aggregator {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        for answer in answers {
            let mut request = Vec::new();
            let whole = |request: &[u8]| {
                let end: &[u8] = if request.starts_with(b"GET") { b"\r\n\r\n" } else { b"[]" };
                request.ends_with(end)
            };
            while !whole(&request) {
                assert_ne!(socket.read_buf(&mut request).await.unwrap(), 0);
            }
            socket.write_all(answer.as_bytes()).await.unwrap();
        }
        if !ends {
            std::future::pending::<()>().await;
        }
    });
    Aggregator::new(target("127.0.0.1", port))
}

#[tokio::test]
async fn an_incomplete_response_is_an_error() {
    const HALF: &str = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"id\": 7";
    let mut aggregator = that_answers(&[HALF], true).await;
    let failure = aggregator.latest().await.unwrap_err();
    assert!(failure.to_string().contains("cannot read the response"), "{failure}");
}

#[tokio::test]
async fn the_status_alone_confirms_a_post() {
    const EMPTY: &str = "HTTP/1.1 204 No Content\r\n\r\n";
    const ENDLESS: &str = "HTTP/1.1 201 Created\r\nContent-Length: 100\r\n\r\nhalf";
    let mut aggregator = that_answers(&[EMPTY, ENDLESS], false).await;
    assert!(matches!(aggregator.latest().await, Ok(Latest::Unknown)));
    aggregator.deliver("1", Bytes::from_static(b"[]"), Form::Batch).await.unwrap();
}

#[tokio::test]
async fn connects_to_an_ipv6_address_in_brackets() {
    // Not every machine has IPv6.
    let Ok(listener) = TcpListener::bind("[::1]:0").await else { return };
    let port = listener.local_addr().unwrap().port();
    target("[::1]", port).connect().await.unwrap();
}

#[test]
fn the_default_port_is_left_out() {
    assert_eq!(target("h", 80).authority(), "h");
    assert_eq!(target("h", 443).authority(), "h:443");
    assert_eq!(target("[::1]", 8080).authority(), "[::1]:8080");
}

#[test]
fn keep_alive_depends_on_the_http_version() {
    for (version, says, kept) in [
        (Version::HTTP_11, "", true),
        (Version::HTTP_11, "Close", false),
        (Version::HTTP_10, "", false),
        (Version::HTTP_10, "Keep-Alive", true),
    ] {
        let response = Response::builder().version(version).header(CONNECTION, says);
        assert_eq!(is_kept(&response.body(()).unwrap()), kept, "{version:?} {says}");
    }
}
