//! Many groups on one node.

use std::time::{Duration, Instant};

use crate::fixture::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_groups_serve_within_seconds() {
    const GROUPS: u64 = 1_000;
    let store = Computer::new().open();
    let logs: Vec<_> = (1..=GROUPS)
        .map(|group| create_log(&store, group))
        .collect();
    // Founding: the first entry of every group has to become durable.
    let (first, fatal) = groups();
    let founding = open_all(&first, &logs).await;
    first.shutdown().await;
    assert!(fatal.lock().is_empty());

    let (second, fatal) = groups();
    let opening = open_all(&second, &logs).await;
    second.shutdown().await;
    assert!(fatal.lock().is_empty());
    println!("{GROUPS} groups founded in {founding:?}, opened again in {opening:?}");
    assert!(opening < Duration::from_secs(2), "opened in {opening:?}");
}

/// Opens a group over each log; the time until all of them serve.
async fn open_all(groups: &klamm_raft::Groups, logs: &[klamm_storage::GroupLog]) -> Duration {
    let start = Instant::now();
    let opening = logs.iter().map(|log| async {
        let machine = Recorder::new(false);
        groups
            .open(log.clone(), alone(), machine.clone())
            .await
            .unwrap();
        machine.serving().await;
    });
    futures::future::join_all(opening).await;
    start.elapsed()
}
