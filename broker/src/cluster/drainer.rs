//! Empties nodes that are to be drained: the leader of the metadata group begins moves off them, a few at a time, until
//! nothing is left that somebody else could take. Which moves is decided by klamm-metadata.

use std::sync::Arc;
use std::time::Duration;

use klamm_metadata::rules::drain_brokers;
use tokio::sync::watch;
use tracing::info;

use crate::node::{Shared, stopped};

const LOOK: Duration = Duration::from_millis(500);
/// Partitions that are moved at the same time, whoever asked for it: each new replica reads a whole log.
const AT_ONCE: usize = 16;

/// Looks after draining nodes until this one stops.
pub(super) async fn run(shared: Arc<Shared>, mut stopping: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            () = stopped(&mut stopping) => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        let group = shared.controller.group();
        if !group.leadership().serving || !group.hears_quorum() {
            continue;
        }
        let seed = rand::random();
        let begun = shared.controller.change(move |image| {
            let commands = drain_brokers(image, AT_ONCE, seed);
            let topics = commands.len();
            (commands, topics)
        });
        // What did not begin now does at the next look.
        if let Ok(topics @ 1..) = begun.await {
            info!(topics, "partitions move off nodes that are drained");
        }
    }
}
