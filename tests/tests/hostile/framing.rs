//! Group A: framing, before anything is known of the client.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::rig::{READ_DEADLINE, Raw, Target, WRITE_DEADLINE, after, eventually, framed, head};
use crate::{Case, Expect, Found, case};

const MIB: i32 = 1 << 20;

/// A deadline passes, and a second more.
const READ_LIMIT: Duration = Duration::from_millis(3 * READ_DEADLINE.as_millis() as u64);

fn length(number: u16, what: &'static str, length: i32) -> Case {
    case(number, what, Expect::Closed, move || async move {
        let mut raw = Raw::connect().await?;
        raw.write(&length.to_be_bytes()).await?;
        raw.closed().await
    })
    .within(Duration::from_secs(1))
}

/// Says something and no more.
fn silence(number: u16, what: &'static str, begin: &'static [u8]) -> Case {
    case(number, what, Expect::Closed, move || async move {
        let mut raw = Raw::connect().await?;
        raw.write(begin).await?;
        raw.closed().await
    })
    .within(READ_LIMIT)
}

async fn file_descriptors(target: &Target) -> Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{}/fd", target.broker.pid()))?.count())
}

/// Goes away in the middle of a frame, by the end of the stream or by a reset.
fn gone(number: u16, what: &'static str, target: &'static Target, reset: bool) -> Case {
    case(number, what, Expect::Served, move || async move {
        let before = file_descriptors(target).await?;
        for _ in 0..50 {
            let mut raw = Raw::connect().await?;
            raw.write(&framed(&[7; 100])[..50]).await?;
            if reset {
                raw.reset()?;
            }
        }
        eventually("descriptors are closed", || async move {
            Ok((file_descriptors(target).await? <= before + 4).then_some(()))
        })
        .await?;
        Ok(Found::Served)
    })
}

async fn trickle() -> Result<Found> {
    let mut raw = Raw::connect().await?;
    raw.write(&(100 * MIB).to_be_bytes()).await?;
    // Longer than the broker may wait.
    for _ in 0..20 {
        if !raw.write(&[0]).await? {
            return Ok(Found::Closed);
        }
        tokio::time::sleep(READ_DEADLINE / 5).await;
    }
    raw.closed().await
}

async fn pipeline() -> Result<Found> {
    let mut raw = Raw::connect().await?;
    let request = framed(&head(18, 0, false));
    // Far more than the sockets' buffers hold, and nobody reads what comes.
    let flood = async {
        for _ in 0..200 {
            if !raw.write(&request.repeat(10_000)).await? {
                return Ok::<_, anyhow::Error>(true);
            }
        }
        Ok(false)
    };
    let cut = tokio::time::timeout(3 * WRITE_DEADLINE, flood).await;
    ensure!(
        matches!(cut, Ok(Ok(true))),
        "who does not read is not cut: {cut:?}"
    );
    Ok(Found::Closed)
}

pub(crate) async fn cases(target: &'static Target) -> Result<Vec<Case>> {
    let http = || async move {
        let mut raw = Raw::connect().await?;
        raw.write(b"GET /kanarienvogel-6f1d HTTP/1.1\r\n\r\n")
            .await?;
        let answer = raw.rest().await?;
        ensure!(answer.starts_with(b"HTTP/1.1 400 "));
        Ok(Found::Closed)
    };
    let by_byte = || async {
        let mut raw = Raw::connect().await?;
        for byte in framed(&head(18, 0, false)) {
            raw.write(&[byte]).await?;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        ensure!(raw.frame().await?.is_some());
        Ok(Found::Served)
    };
    let two = || async {
        let mut raw = Raw::connect().await?;
        let mut second = head(18, 0, false);
        second[7] = 2;
        let both = [framed(&head(18, 0, false)), framed(&second)].concat();
        raw.write(&both).await?;
        for id in [1, 2] {
            let frame = raw.frame().await?;
            ensure!(frame.is_some_and(|frame| frame[..4] == [0, 0, 0, id]));
        }
        Ok(Found::Served)
    };
    let sockets = || async {
        let mut all = Vec::new();
        for _ in 0..200 {
            let mut raw = Raw::connect().await?;
            raw.write(&(MIB.to_be_bytes())).await?;
            all.push(raw);
        }
        for raw in all {
            raw.closed().await?;
        }
        Ok(Found::Closed)
    };
    Ok(vec![
        length(1, "a length of -1", -1),
        length(2, "a length of 0", 0),
        length(3, "a length of 2 GiB", i32::MAX),
        length(4, "a length above the limit", 100 * MIB + 1),
        case(
            6,
            "100 MiB promised, a byte now and then",
            Expect::Closed,
            trickle,
        )
        .within(READ_LIMIT),
        silence(7, "two bytes of a length", &[0, 0]),
        silence(8, "silence", &[]),
        case(
            8,
            "200 connections that stop after the length",
            Expect::Closed,
            sockets,
        )
        .within(READ_LIMIT),
        case(9, "TLS on the plain port", Expect::Closed, || {
            after([&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[7; 32]].concat())
        })
        .within(Duration::from_secs(1)),
        case(11, "HTTP on the Kafka port", Expect::Closed, http).within(Duration::from_secs(1)),
        gone(12, "the end of the stream inside a frame", target, false),
        gone(13, "a reset inside a frame", target, true),
        case(
            14,
            "2,000,000 requests, no answer is read",
            Expect::Closed,
            pipeline,
        )
        .within(4 * WRITE_DEADLINE),
        case(15, "one byte per segment", Expect::Served, by_byte),
        case(16, "two requests in a segment", Expect::Served, two),
    ])
}
