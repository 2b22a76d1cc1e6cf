//! Imports: what they hold, and for how long.

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

/// An import whose first lines are these.
async fn import(address: SocketAddr, proof: &str, lines: &str) -> TcpStream {
    let head = format!(
        "POST /events HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: {proof}\r\n\
         Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    let mut import = TcpStream::connect(address).await.unwrap();
    import.write_all(head.as_bytes()).await.unwrap();
    if !lines.is_empty() {
        let chunk = format!("{:x}\r\n{lines}\r\n", lines.len());
        // It may be refused before all of it has come.
        let _ = import.write_all(chunk.as_bytes()).await;
    }
    import
}

/// An import ends with its proof, and without one when no event comes: how many lines come is no matter.
#[tokio::test]
async fn an_import_of_blank_lines_ends_with_the_proof_and_without_progress() {
    let (_database, app, signer) = app_with(|_| {}).await;
    let ends = async |expires_in: u64, status: &str| {
        let proof = token(&signer, "toto", expires_in);
        let answer = answer_to_blank_lines(import(app.address, &proof, "").await).await;
        assert!(answer.contains(&format!("\"status\":{status}")), "{answer}");
    };
    tokio::join!(ends(2, "401"), ends(3600, "408"));
}

/// All that comes while blank lines are sent, up to the error that ends it.
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

/// A line that has not ended takes room as a body does.
#[tokio::test]
async fn one_principals_imports_leave_room_for_anothers() {
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
    eventually("what is beyond its share is refused", async || {
        (app.metric(refused).await == 7).then_some(())
    })
    .await;
    assert!((900_000..=1 << 20).contains(&app.metric("write_buffer_bytes").await));
    let large = event("toto", &format!("\"{}\"", "x".repeat(900_000)));
    let written = post(app.address, "/events", &[("Authorization", &good)], &large).await;
    assert_eq!(written.status, 201, "{}", written.body);
    drop(open);
    eventually("what has left takes no room", async || {
        (app.metric("write_buffer_bytes").await == 0).then_some(())
    })
    .await;
}
