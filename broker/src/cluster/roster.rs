//! Keeps the addresses of the other nodes, and what this node knows of its cluster, as the image has it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use klamm_metadata::Image;
use klamm_raft::NodeId;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tracing::{error, info};

use super::Others;
use super::messages::{Question, encode};
use super::shape::join;
use crate::node::{Shared, stopped};

/// Nodes of which only an address is known are asked who they are so often.
const PROBE: Duration = Duration::from_secs(1);

/// Where nodes listen to each other, as it was found by the settings or by asking.
pub(super) struct Addresses {
    met: Mutex<BTreeMap<NodeId, String>>,
    changed: Notify,
}

impl Addresses {
    pub(super) fn new(known: BTreeMap<NodeId, String>) -> Addresses {
        Addresses {
            met: Mutex::new(known),
            changed: Notify::new(),
        }
    }

    pub(super) fn all(&self) -> BTreeMap<NodeId, String> {
        self.met.lock().clone()
    }

    /// Notes nodes that said so themselves. What was known of the same brokers with other disks is forgotten.
    pub(super) fn extend(&self, found: impl IntoIterator<Item = (NodeId, String)>) {
        let mut met = self.met.lock();
        for (node, address) in found {
            met.retain(|other, _| other.broker() != node.broker());
            met.insert(node, address);
        }
    }

    /// Notes a node, and has it dialled.
    pub(super) fn note(&self, node: NodeId, address: String) {
        if self.met.lock().get(&node) != Some(&address) {
            self.extend([(node, address)]);
            self.changed.notify_one();
        }
    }
}

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
        others.peers.set_peers(&others.addresses(&image));
        shared
            .cluster
            .board
            .retain(|group| image.partition_of_group(group).is_some());
        let own = image.broker(shared.node_id);
        let is_known = own.is_some_and(|own| own.incarnation == shared.identity().directory_id);
        tokio::select! {
            () = stopped(&mut stopping) => return,
            changed = changed.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = others.probe() => {}
            () = others.met.changed.notified() => {}
            () = others.ask_admission(is_known) => {}
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
    fn addresses(&self, image: &Image) -> BTreeMap<NodeId, String> {
        let mut addresses = self.met.all();
        // Those of disks that were given up are not called any more.
        addresses.retain(|node, _| node.incarnation() >= image.replica_number(node.broker()));
        for broker in image.brokers() {
            if let Some(endpoint) = broker.endpoints.get(&self.shape.listener.name) {
                let address = join(&endpoint.host, endpoint.port);
                let node = NodeId::new(broker.id, broker.replica);
                addresses.insert(node, address);
            }
        }
        addresses
    }

    /// Asks all seeds to let this node in, until it is registered: whoever leads the metadata group does, and
    /// remembers where it listens. Never ends.
    async fn ask_admission(&self, is_known: bool) {
        let Some(own) = self.own.get().filter(|_| !is_known) else {
            return std::future::pending().await;
        };
        let question = encode(&Question::Admit {
            node: self.peers.identity().node.0,
            address: own.clone(),
        });
        loop {
            for seed in &self.shape.seeds {
                // Who does not answer, or does not lead, is asked again.
                let _ = self.peers.ask_at(&seed.address, question.clone()).await;
            }
            tokio::time::sleep(PROBE).await;
        }
    }

    /// Asks the nodes of which only the address is known who they are; ends when one more is known.
    /// Waits for ever when all are.
    async fn probe(&self) {
        loop {
            let known: Vec<String> = self.met.all().into_values().collect();
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
                    self.met.extend([(identity.node, address.to_owned())]);
                    return;
                }
            }
            tokio::time::sleep(PROBE).await;
        }
    }
}
