//! Against a broker played by the test: what it answers is up to a closure.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::atomic::AtomicUsize;

use bytes::Buf;
use klamm_protocol::messages::api_versions_response::ApiVersion;
use klamm_protocol::messages::{ApiVersionsResponse, MetadataRequest, MetadataResponse};
use klamm_protocol::{Api, encode_response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// One request as the played broker sees it.
struct Asked {
    api: i16,
    version: i16,
    correlation_id: i32,
}

/// Plays a broker for one connection. `answer` returns the bytes to send for a request.
async fn play(mut answer: impl FnMut(Asked) -> Vec<Bytes> + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        while let Ok(size) = socket.read_i32().await {
            let mut frame = vec![0; size as usize];
            socket.read_exact(&mut frame).await.unwrap();
            let mut head = &frame[..8];
            let asked = Asked {
                api: head.get_i16(),
                version: head.get_i16(),
                correlation_id: head.get_i32(),
            };
            for bytes in answer(asked) {
                socket.write_all(&bytes).await.unwrap();
            }
        }
    });
    address
}

fn api_versions(asked: &Asked, error: ErrorCode, ranges: &[(Api, i16, i16)]) -> Bytes {
    let range = |&(api, min, max): &(Api, i16, i16)| {
        ApiVersion::default()
            .with_api_key(api.key())
            .with_min_version(min)
            .with_max_version(max)
    };
    let response = ApiVersionsResponse::default()
        .with_error_code(error.code())
        .with_api_keys(ranges.iter().map(range).collect());
    let version = if error.is_none() { asked.version } else { 0 };
    encode_response(version, asked.correlation_id, &response).unwrap()
}

const RANGES: [(Api, i16, i16); 2] = [(Api::ApiVersions, 0, 4), (Api::Metadata, 0, 99)];

/// Answers the handshake, and everything else through `answer`.
async fn play_after_handshake(
    mut answer: impl FnMut(Asked) -> Vec<Bytes> + Send + 'static,
) -> String {
    play(move |asked| match asked.api == Api::ApiVersions.key() {
        true => vec![api_versions(&asked, ErrorCode::NONE, &RANGES)],
        false => answer(asked),
    })
    .await
}

fn metadata(asked: &Asked, throttle_time_ms: i32) -> Bytes {
    let response = MetadataResponse::default().with_throttle_time_ms(throttle_time_ms);
    encode_response(asked.version, asked.correlation_id, &response).unwrap()
}

fn options() -> ConnectionOptions {
    ConnectionOptions {
        request_timeout: Duration::from_millis(300),
        ..ConnectionOptions::default()
    }
}

#[tokio::test]
async fn an_older_broker_is_asked_again_in_its_newest_version() {
    let (seen, mut versions) = mpsc::unbounded_channel();
    let address = play(move |asked| {
        seen.send(asked.version).unwrap();
        let ranges = [(Api::ApiVersions, 0, 2), (Api::Metadata, 1, 5)];
        let error = if asked.version > 2 {
            ErrorCode::UNSUPPORTED_VERSION
        } else {
            ErrorCode::NONE
        };
        vec![api_versions(&asked, error, &ranges)]
    })
    .await;
    let connection = Connection::connect(&address, &options()).await.unwrap();
    assert_eq!(connection.version_of::<MetadataRequest>().unwrap(), 5);
    assert_eq!(
        (versions.recv().await, versions.recv().await),
        (Some(4), Some(2))
    );
    let missing = connection
        .version_of::<klamm_protocol::messages::FetchRequest>()
        .unwrap_err();
    assert!(
        missing.to_string().contains("does not serve Fetch"),
        "{missing}"
    );
}

#[tokio::test]
async fn pipelined_requests_get_their_own_answers() {
    let mut held: Vec<Bytes> = Vec::new();
    let address = play_after_handshake(move |asked| {
        // Answers nothing until ten requests are there: only pipelining gets that far.
        held.push(metadata(&asked, asked.correlation_id));
        if held.len() < 10 {
            Vec::new()
        } else {
            std::mem::take(&mut held)
        }
    })
    .await;
    let connection = Connection::connect(&address, &options()).await.unwrap();
    let mut replies = Vec::new();
    for _ in 0..10 {
        replies.push(
            connection
                .start(9, &MetadataRequest::default())
                .await
                .unwrap(),
        );
    }
    let mut answers = Vec::new();
    for reply in replies {
        answers.push(reply.wait().await.unwrap().throttle_time_ms);
    }
    // The handshake had correlation id 0.
    assert_eq!(answers, (1..=10).collect::<Vec<_>>());
}

#[tokio::test]
async fn no_more_is_in_flight_than_allowed() {
    let received = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&received);
    let address = play_after_handshake(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        Vec::new()
    })
    .await;
    let options = ConnectionOptions {
        max_in_flight: 2,
        ..options()
    };
    let connection = Connection::connect(&address, &options).await.unwrap();
    let request = MetadataRequest::default();
    let _first = connection.start(9, &request).await.unwrap();
    let _second = connection.start(9, &request).await.unwrap();
    let third = timeout(Duration::from_millis(100), connection.start(9, &request)).await;
    assert!(third.is_err(), "it waits for a slot");
    assert_eq!(received.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_late_answer_ends_the_connection_for_all() {
    let address = play_after_handshake(|_| Vec::new()).await;
    let connection = Connection::connect(&address, &options()).await.unwrap();
    let first = connection
        .start(9, &MetadataRequest::default())
        .await
        .unwrap();
    let second = connection
        .start(9, &MetadataRequest::default())
        .await
        .unwrap();
    assert!(matches!(first.wait().await, Err(Error::Timeout { .. })));
    assert!(matches!(second.wait().await, Err(Error::Timeout { .. })));
    assert!(matches!(
        connection.send(&MetadataRequest::default()).await,
        Err(Error::Timeout { .. })
    ));
}

async fn failure_of(answer: impl FnMut(Asked) -> Vec<Bytes> + Send + 'static) -> String {
    let address = play_after_handshake(answer).await;
    let options = ConnectionOptions {
        max_response_bytes: 1000,
        ..options()
    };
    let connection = Connection::connect(&address, &options).await.unwrap();
    let error = connection
        .send_version(9, &MetadataRequest::default())
        .await
        .unwrap_err();
    assert!(
        connection.closed().is_some(),
        "the connection cannot be used any more"
    );
    error.to_string()
}

#[tokio::test]
async fn a_broker_that_loses_count_is_left() {
    let error = failure_of(|asked| {
        let wrong = Asked {
            correlation_id: asked.correlation_id + 1,
            ..asked
        };
        vec![metadata(&wrong, 0)]
    })
    .await;
    assert!(error.contains("response 2 where 1 was due"), "{error}");
    for claimed in [-1, 1001, i32::MAX] {
        let size = Bytes::copy_from_slice(&i32::to_be_bytes(claimed));
        let error = failure_of(move |_| vec![size.clone()]).await;
        assert!(
            error.contains(&format!("claims {claimed} bytes")),
            "{error}"
        );
    }
    let error = failure_of(|_| vec![Bytes::from_static(&[0, 0, 0, 2, 1, 1])]).await;
    assert!(error.contains("without correlation id"), "{error}");
}

#[tokio::test]
async fn the_wrong_port_is_named() {
    for (bytes, name) in [
        (&b"HTTP/1.1 400 Bad Request"[..], "HTTP"),
        (&b"\x15\x03\x03\x00\x02\x02\x46"[..], "TLS"),
    ] {
        let address = play(move |_| vec![Bytes::from_static(bytes)]).await;
        let error = Connection::connect(&address, &options())
            .await
            .map(|_| ())
            .unwrap_err();
        assert!(
            error.to_string().contains(&format!("it speaks {name}")),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_closed_connection_fails_what_is_outstanding() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move { drop(listener.accept().await) });
    let error = Connection::connect(&address, &options())
        .await
        .map(|_| ())
        .unwrap_err();
    assert!(matches!(error, Error::Closed { .. }), "{error}");
    assert!(error.is_retriable() && error.is_unreachable());
}

#[tokio::test]
async fn raw_frames_are_answered_by_their_own_id() {
    let address = play_after_handshake(|asked| vec![metadata(&asked, 7)]).await;
    let connection = Connection::connect(&address, &options()).await.unwrap();
    let frame = Bytes::from_static(&[0, 3, 0, 9, 0, 0, 0, 77]);
    let answer = connection.exchange(frame).await.unwrap();
    assert_eq!(answer.get(..4), Some(&[0, 0, 0, 77][..]));
    assert!(
        connection
            .exchange(Bytes::from_static(&[0; 7]))
            .await
            .is_err()
    );
}
