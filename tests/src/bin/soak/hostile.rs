//! Connections that mean no good, one after the other.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Result;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::Counts;

const TASKS: u8 = 12;
const STAYS: Duration = Duration::from_millis(1500);

/// Starts the connections.
pub(crate) fn start(address: &str, counts: &Arc<Counts>) -> Vec<JoinHandle<Result<()>>> {
    let task = |kind| tokio::spawn(run(address.to_owned(), kind, counts.clone()));
    (0..TASKS).map(task).collect()
}

/// What is sent, by turns.
fn bytes(kind: u8) -> Vec<u8> {
    let frame = |body: &[u8]| {
        let len = i32::try_from(body.len()).expect("short");
        [&len.to_be_bytes()[..], body].concat()
    };
    match kind % 6 {
        // 99 MiB of 100 are promised, one comes.
        0 => [&(100_i32 << 20).to_be_bytes()[..], &vec![0; 1 << 20]].concat(),
        // 54 million topics in five bytes.
        1 => frame(&[0, 3, 0, 0, 0, 0, 0, 1, 0, 0, 0x03, 0x3c, 0x0c, 0x00, 0xb6]),
        2 => vec![0xff; 4096],
        // ApiVersions a thousand times, and nobody reads.
        3 => frame(&[0, 18, 0, 0, 0, 0, 0, 1, 0, 0]).repeat(1000),
        4 => b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        _ => vec![0, 0],
    }
}

async fn run(address: String, first: u8, counts: Arc<Counts>) -> Result<()> {
    let mut kind = first;
    while counts.goes_on() {
        kind = kind.wrapping_add(1);
        let mut stream = TcpStream::connect(&address).await?;
        // It may be closed before all is written.
        let bytes = bytes(kind);
        let _ = tokio::time::timeout(STAYS, stream.write_all(&bytes)).await;
        tokio::time::sleep(STAYS).await;
        counts.hostile.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}
