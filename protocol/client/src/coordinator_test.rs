//! Against a cluster of two brokers played by the test, which answer as a shared script says.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use klamm_protocol::messages::api_versions_response::ApiVersion;
use klamm_protocol::messages::delete_groups_response::DeletableGroupResult;
use klamm_protocol::messages::find_coordinator_response::Coordinator;
use klamm_protocol::messages::metadata_response::MetadataResponseBroker;
use klamm_protocol::messages::{
    ApiVersionsResponse, BrokerId, DeleteGroupsResponse, FindCoordinatorResponse, MetadataResponse,
};
use klamm_protocol::{Api, encode_response};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::client::ClientOptions;

/// What the brokers answer, and what they were asked.
#[derive(Default)]
struct Script {
    ports: Vec<i32>,
    /// Errors of the next answers to FindCoordinator; then `coordinator`.
    unavailable: usize,
    /// A broker that has lost sight of the others and never knows.
    blind: Option<i32>,
    coordinator: i32,
    /// What the coordinator says about deleting.
    verdict: i16,
    found: usize,
    deleted_at: Vec<i32>,
}

type Shared = Arc<Mutex<Script>>;

async fn play() -> (String, Shared) {
    let script = Shared::default();
    let mut address = String::new();
    for id in 1..=2 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let bound = listener.local_addr().unwrap();
        script.lock().ports.push(i32::from(bound.port()));
        address = bound.to_string();
        let script = script.clone();
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(id, socket, script.clone()));
            }
        });
    }
    script.lock().coordinator = 1;
    (address, script)
}

async fn serve(id: i32, mut socket: TcpStream, script: Shared) {
    while let Ok(size) = socket.read_i32().await {
        let mut frame = vec![0; size as usize];
        socket.read_exact(&mut frame).await.unwrap();
        let mut head = &frame[..8];
        let (api, version, correlation_id) = (head.get_i16(), head.get_i16(), head.get_i32());
        let bytes = answer(id, api, version, correlation_id, &mut script.lock());
        socket.write_all(&bytes).await.unwrap();
    }
}

fn answer(id: i32, api: i16, version: i16, correlation_id: i32, script: &mut Script) -> Bytes {
    match Api::from_key(api).unwrap() {
        Api::ApiVersions => {
            let served = [
                Api::ApiVersions,
                Api::Metadata,
                Api::FindCoordinator,
                Api::DeleteGroups,
            ];
            let ranges = served.iter().map(|api| {
                ApiVersion::default()
                    .with_api_key(api.key())
                    .with_min_version(*api.versions().start())
                    .with_max_version(*api.versions().end())
            });
            let response = ApiVersionsResponse::default().with_api_keys(ranges.collect());
            encode_response(version, correlation_id, &response).unwrap()
        }
        Api::Metadata => {
            let brokers = (1..).zip(&script.ports).map(|(id, port)| {
                MetadataResponseBroker::default()
                    .with_node_id(BrokerId(id))
                    .with_host(StrBytes::from_static_str("127.0.0.1"))
                    .with_port(*port)
            });
            let response = MetadataResponse::default().with_brokers(brokers.collect());
            encode_response(version, correlation_id, &response).unwrap()
        }
        Api::FindCoordinator => {
            script.found += 1;
            let mut found = Coordinator::default().with_node_id(BrokerId(script.coordinator));
            if script.unavailable > 0 || script.blind == Some(id) {
                script.unavailable = script.unavailable.saturating_sub(1);
                found.error_code = ErrorCode::COORDINATOR_NOT_AVAILABLE.code();
            }
            let response = FindCoordinatorResponse::default().with_coordinators(vec![found]);
            encode_response(version, correlation_id, &response).unwrap()
        }
        Api::DeleteGroups => {
            script.deleted_at.push(id);
            let code = match id == script.coordinator {
                true => script.verdict,
                false => ErrorCode::NOT_COORDINATOR.code(),
            };
            let result = DeletableGroupResult::default().with_error_code(code);
            let response = DeleteGroupsResponse::default().with_results(vec![result]);
            encode_response(version, correlation_id, &response).unwrap()
        }
        other => panic!("{other} is not played"),
    }
}

async fn client(address: &str) -> Client {
    let options = ClientOptions {
        retry_timeout: Duration::from_millis(500),
        retry_backoff: Duration::from_millis(5),
        ..ClientOptions::default()
    };
    Client::connect(address, options).await.unwrap()
}

#[tokio::test]
async fn a_coordinator_is_found_once_and_again_when_it_has_moved() {
    let (address, script) = play().await;
    let client = client(&address).await;
    client.delete_group("g").await.unwrap();
    client.delete_group("g").await.unwrap();
    assert_eq!(script.lock().found, 1);
    script.lock().coordinator = 2;
    client.delete_group("g").await.unwrap();
    assert_eq!(script.lock().deleted_at, [1, 1, 1, 2]);
    assert_eq!(script.lock().found, 2);
}

#[tokio::test]
async fn a_coordinator_that_is_not_there_yet_is_waited_for() {
    let (address, script) = play().await;
    let client = client(&address).await;
    script.lock().unavailable = 3;
    client.delete_group("g").await.unwrap();
    assert_eq!(script.lock().found, 4);
}

#[tokio::test]
async fn whoever_does_not_know_is_not_the_only_one_asked() {
    for blind in 1..=2 {
        let (address, script) = play().await;
        let client = client(&address).await;
        script.lock().blind = Some(blind);
        client.delete_group("g").await.unwrap();
        assert!(script.lock().found <= 2, "{}", script.lock().found);
    }
}

#[tokio::test]
async fn loading_is_waited_for_until_the_deadline() {
    let (address, script) = play().await;
    let client = client(&address).await;
    script.lock().verdict = ErrorCode::COORDINATOR_LOAD_IN_PROGRESS.code();
    let error = client.delete_group("g").await.unwrap_err();
    assert!(matches!(error, Error::Deadline { .. }), "{error}");
    let code = error.server_error().map(|error| error.code);
    assert_eq!(code, Some(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS));
    assert!(script.lock().deleted_at.len() > 2);
}

#[tokio::test]
async fn a_refusal_is_no_reason_to_look_elsewhere() {
    let (address, script) = play().await;
    let client = client(&address).await;
    script.lock().verdict = ErrorCode::NON_EMPTY_GROUP.code();
    for _ in 0..2 {
        let error = client.delete_group("g").await.unwrap_err();
        let code = error.server_error().map(|error| error.code);
        assert_eq!(code, Some(ErrorCode::NON_EMPTY_GROUP));
    }
    let script = script.lock();
    assert_eq!((script.found, script.deleted_at.len()), (1, 2));
}
