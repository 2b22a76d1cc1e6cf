//! Limits of imports: the bytes that they hold, and how long they last.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::{sleep, timeout},
};

use super::{event, token};
use crate::{
    access::issuer::app_with,
    support::{eventually, sse_client::post},
};

/// Starts an import with these lines.
async fn import(address: SocketAddr, proof: &str, lines: &str) -> TcpStream {
    let head = format!(
        "POST /events HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: {proof}\r\n\
         Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    let mut import = TcpStream::connect(address).await.unwrap();
    import.write_all(head.as_bytes()).await.unwrap();
    if !lines.is_empty() {
        let chunk = format!("{:x}\r\n{lines}\r\n", lines.len());
        // It may be rejected before all of it was sent.
        let _ = import.write_all(chunk.as_bytes()).await;
    }
    import
}

/// An import ends with its credentials, and when no event arrives in time, however many lines arrive.
#[tokio::test]
async fn an_import_of_blank_lines_ends() {
    let (_database, app, signer) = app_with(|_| {}).await;
    let ends = async |expires_in: u64, status: &str| {
        let proof = token(&signer, "toto", expires_in);
        let answer = answer_to_blank_lines(import(app.address, &proof, "").await).await;
        assert!(answer.contains(&format!("\"status\":{status}")), "{answer}");
    };
    tokio::join!(ends(2, "401"), ends(3600, "408"));
}

/// The response while blank lines are sent, up to the error that ends it.
async fn answer_to_blank_lines(import: TcpStream) -> String {
    let (reading, mut writing) = import.into_split();
    let blanks = tokio::spawn(async move {
        while writing.write_all(b"1\r\n\n\r\n").await.is_ok() {
            sleep(Duration::from_millis(50)).await;
        }
    });
    let (mut answer, mut lines) = (String::new(), BufReader::new(reading).lines());
    let ended = async {
        while let Ok(Some(line)) = lines.next_line().await {
            answer.push_str(&line);
            if line.contains("\"error\"") {
                return;
            }
        }
    };
    timeout(Duration::from_mins(2), ended).await.expect("it ends in time");
    blanks.abort();
    answer
}

/// A line without an end counts like a body.
#[tokio::test]
async fn imports_of_one_principal_leave_room_for_others() {
    let (_database, app, signer) = app_with(|settings| {
        let writer = settings.gateway.writer.as_mut().unwrap();
        (writer.bytes, writer.bytes_each) = (4 << 20, 1 << 20);
    })
    .await;
    let (bad, good) = (token(&signer, "bad", 3600), token(&signer, "good", 3600));
    let begun = " ".repeat(300_000);
    let mut open = Vec::new();
    for _ in 0..10 {
        open.push(import(app.address, &bad, &begun).await);
    }
    let refused = "refused_total{reason=\"write-buffer-of-a-principal\"}";
    eventually("imports beyond its share are rejected", async || {
        (app.metric(refused).await == 7).then_some(())
    })
    .await;
    assert!((900_000..=1 << 20).contains(&app.metric("write_buffer_bytes").await));
    let large = event("toto", &format!("\"{}\"", "x".repeat(900_000)));
    let written = post(app.address, "/events", &[("Authorization", &good)], &large).await;
    assert_eq!(written.status, 201, "{}", written.body);
    drop(open);
    eventually("closed connections hold no bytes", async || {
        (app.metric("write_buffer_bytes").await == 0).then_some(())
    })
    .await;
}
