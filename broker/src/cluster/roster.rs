//! Keeps the addresses of the other nodes, and what this node knows of its cluster, as the image has it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use klamm_metadata::Image;
use klamm_raft::NodeId;
use tokio::sync::watch;
use tracing::{error, info};

use super::Others;
use super::shape::join;
use crate::node::{Shared, stopped};

/// Nodes of which only an address is known are asked who they are so often.
const PROBE: Duration = Duration::from_secs(1);

/// Follows the image until the node stops.
pub(super) async fn run(shared: Arc<Shared>, mut stopping: watch::Receiver<bool>) {
    let Some(others) = &shared.cluster.others else {
        return;
    };
    let mut changed = shared.controller.watch();
    loop {
        changed.borrow_and_update();
        let image = shared.controller.image();
        belong(&shared, others, &image);
        others.peers.set_peers(&others.addresses(&shared, &image));
        shared
            .cluster
            .board
            .retain(|group| image.partition_of_group(group).is_some());
        tokio::select! {
            () = stopped(&mut stopping) => return,
            changed = changed.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = others.probe() => {}
        }
    }
}

/// Remembers the cluster's id: from now on this node meets no other.
fn belong(shared: &Shared, others: &Others, image: &Image) {
    let Some(cluster_id) = image.cluster_id() else {
        return;
    };
    if others.desk.cluster_id().as_deref() == Some(cluster_id) {
        return;
    }
    match shared
        .identity()
        .clone()
        .belongs_to(&shared.data_dir, cluster_id)
    {
        Ok(()) => info!(cluster_id, "in the cluster"),
        // The metadata log has it, too; only a lost log would be noticed later.
        Err(cause) => error!(%cause, "failed to note the cluster's id in the data directory"),
    }
    others.desk.in_cluster(cluster_id);
    others.peers.set_cluster_id(cluster_id);
}

impl Others {
    /// What was found by the settings, overridden by what the nodes registered.
    fn addresses(&self, shared: &Shared, image: &Image) -> BTreeMap<NodeId, String> {
        let mut addresses = self.met.lock().clone();
        for broker in image.brokers() {
            if let Some(endpoint) = broker.endpoints.get(&self.shape.listener.name) {
                let address = join(&endpoint.host, endpoint.port);
                addresses.insert(shared.replica_id(broker.id), address);
            }
        }
        addresses
    }

    /// Asks the nodes of which only the address is known who they are; ends when one more is known.
    /// Waits for ever when all are.
    async fn probe(&self) {
        loop {
            let known: Vec<String> = self.met.lock().values().cloned().collect();
            let unknown: Vec<&str> = self
                .shape
                .seeds
                .iter()
                .filter(|seed| seed.id.is_none() && !known.contains(&seed.address))
                .map(|seed| seed.address.as_str())
                .collect();
            if unknown.is_empty() {
                return std::future::pending().await;
            }
            for address in unknown {
                if let Ok(identity) = self.peers.probe(address).await {
                    self.met.lock().insert(identity.node, address.to_owned());
                    return;
                }
            }
            tokio::time::sleep(PROBE).await;
        }
    }
}
