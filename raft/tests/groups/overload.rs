//! A node that has much to do is there all the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use klamm_raft::PeerTransport;

use crate::nodes::{Cluster, id};

/// What stands in line before a task gets its turn, in tasks of [`TURN`] on two threads: over a second, more than a
/// silence.
const TASKS: usize = 3_000;
const TURN: Duration = Duration::from_millis(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_with_much_to_do_do_not_take_each_other_for_gone() {
    let cluster = Cluster::start(3, 1).await;
    cluster.append(1, None, 1).await;
    cluster.agree(1).await;
    // Since when each has heard each other without a break, and the terms.
    let state = || {
        let running = cluster.running();
        let state = running.map(|(_, node)| {
            let hearings = (1..=3).map(|other| node.peers.hears(id(other)));
            let since: Vec<_> = hearings
                .map(|hearing| hearing.and_then(|h| h.since))
                .collect();
            (since, node.group(1).leadership().term)
        });
        state.collect::<Vec<_>>()
    };
    let before = state();
    let stop = Arc::new(AtomicBool::new(false));
    for _ in 0..TASKS {
        let stop = stop.clone();
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let began = Instant::now();
                while began.elapsed() < TURN {
                    std::hint::spin_loop();
                }
                tokio::task::yield_now().await;
            }
        });
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    stop.store(true, Ordering::Relaxed);
    assert_eq!(state(), before, "somebody was taken for gone");
    cluster.append(1, None, 1).await;
    cluster.agree(1).await;
}
