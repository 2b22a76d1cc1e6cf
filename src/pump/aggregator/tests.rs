//! An aggregator on a socket of the test's own.

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

/// An aggregator that gives these answers on its one connection, and ends that then, or not.
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
async fn half_an_answer_says_nothing_of_what_it_has() {
    const HALF: &str = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"id\": 7";
    let mut aggregator = that_answers(&[HALF], true).await;
    let failure = aggregator.latest().await.unwrap_err();
    assert!(failure.to_string().contains("cannot be read to its end"), "{failure}");
}

#[tokio::test]
async fn the_status_confirms_a_post_whatever_is_missing_behind_it() {
    const EMPTY: &str = "HTTP/1.1 204 No Content\r\n\r\n";
    const ENDLESS: &str = "HTTP/1.1 201 Created\r\nContent-Length: 100\r\n\r\nhalf";
    let mut aggregator = that_answers(&[EMPTY, ENDLESS], false).await;
    assert!(matches!(aggregator.latest().await, Ok(Latest::Unsaid)));
    aggregator.deliver("1", Bytes::from_static(b"[]"), Form::Batch).await.unwrap();
}

#[tokio::test]
async fn an_address_of_ipv6_is_written_in_brackets_and_reached_without() {
    // Not every machine has one.
    let Ok(listener) = TcpListener::bind("[::1]:0").await else { return };
    let port = listener.local_addr().unwrap().port();
    target("[::1]", port).connect().await.unwrap();
}

#[test]
fn the_port_is_named_where_it_is_not_the_schemes_own() {
    assert_eq!(target("h", 80).authority(), "h");
    assert_eq!(target("h", 443).authority(), "h:443");
    assert_eq!(target("[::1]", 8080).authority(), "[::1]:8080");
}

#[test]
fn a_connection_is_kept_as_its_version_of_http_has_it() {
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
