//! Leadership goes back to preferred leaders by itself.
//!
//! After a failover or a restart a broker leads what it was left with. Now and then each leader gives the
//! partitions whose preferred leader is another broker back to it, once that keeps up again.

use std::sync::Arc;
use std::time::Duration;

use klamm_metadata::Image;
use klamm_raft::NodeId;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::node::{Shared, stopped};
use crate::partition::{Partition, replica_of};

/// Settings are looked at so often.
const LOOK: Duration = Duration::from_secs(1);
/// Hand-overs are spread, so that clients do not all look for new leaders at once.
const APART: Duration = Duration::from_millis(20);

/// Balances until the node stops.
pub(super) async fn run(shared: Arc<Shared>, mut stopping: watch::Receiver<bool>) {
    let mut last = Instant::now();
    loop {
        tokio::select! {
            () = stopped(&mut stopping) => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        let settings = shared.settings();
        let interval = settings.long("leader.imbalance.check.interval.seconds");
        let interval = Duration::from_secs(u64::try_from(interval).unwrap_or(u64::MAX));
        if !settings.boolean("auto.leader.rebalance.enable") || last.elapsed() < interval {
            continue;
        }
        last = Instant::now();
        give_back(&shared).await;
    }
}

async fn give_back(shared: &Shared) {
    let image = shared.controller.image();
    let mut given = 0;
    for partition in shared.partitions.all() {
        if shared.is_draining() {
            return;
        }
        let Some(to) = better_leader(shared.node_id, &image, &partition) else {
            continue;
        };
        // A replica that has just come has no vote yet.
        let (voters, _) = partition.group().members();
        if !shared.cluster.hears(to) || !voters.contains(&to) {
            continue;
        }
        // One that is full or damaged would only hand it on again.
        let (there, group) = (shared.node_of(to.broker()), partition.group().id());
        if !shared.cluster.has_room(to) || !shared.cluster.is_whole(there, group).await {
            continue;
        }
        match partition.group().transfer_leader(to).await {
            Ok(()) => given += 1,
            Err(cause) => {
                warn!(topic = &**partition.topic(), index = partition.index(), %cause, "not given back")
            }
        }
        tokio::time::sleep(APART).await;
    }
    if given > 0 {
        info!(given, "leadership given back to preferred leaders");
    }
}

/// The preferred leader of a partition that this node leads in its place, if that keeps up.
fn better_leader(me: i32, image: &Image, partition: &Partition) -> Option<NodeId> {
    let topic = image.topic_by_id(partition.topic_id())?;
    let assigned = topic.partition(partition.index())?;
    let preferred = *assigned.replicas.first()?;
    let may_lead = image.is_live(preferred) && partition.in_sync().contains(&preferred);
    (preferred != me && may_lead).then(|| replica_of(assigned, preferred))
}
