//! Brokers that are gone leave the list that clients get, and come back to it.
//!
//! The leader of the metadata group fences a broker that it has not heard for a while; a broker that finds
//! itself fenced, and is not stopping, asks to be let back in. Fencing moves no leadership: each partition's
//! group elects by itself, and much sooner.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use klamm_metadata::rules::fence_broker;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::node::{Shared, stopped};

const LOOK: Duration = Duration::from_millis(500);
/// A broker that is not heard for so long is fenced.
const SESSION: Duration = Duration::from_secs(6);

/// A node that was removed stays for so long, at most, for the vote by which the others let it go.
const LEAVING: Duration = Duration::from_secs(5);

/// Looks after sessions until the node stops.
pub(super) async fn run(shared: Arc<Shared>, mut stopping: watch::Receiver<bool>) {
    let mut silent: HashMap<i32, Instant> = HashMap::new();
    let (mut was_registered, mut removed_at) = (false, None);
    loop {
        tokio::select! {
            () = stopped(&mut stopping) => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        let image = shared.controller.image();
        let own = image.broker(shared.node_id);
        let is_registered =
            own.is_some_and(|own| own.incarnation == shared.identity().directory_id);
        if was_registered && !is_registered {
            let since = *removed_at.get_or_insert_with(Instant::now);
            let (voters, _) = shared.controller.group().members();
            let is_needed = voters.contains(&shared.controller.group().node());
            if !is_needed || since.elapsed() >= LEAVING {
                warn!("removed from the cluster");
                shared.removed();
                return;
            }
            continue;
        }
        was_registered |= is_registered;
        if own.is_some_and(|own| own.fenced) && !shared.is_draining() {
            fence(&shared, shared.node_id, false).await;
        }
        let group = shared.controller.group();
        if !group.leadership().serving || !group.hears_quorum() {
            silent.clear();
            continue;
        }
        for broker in image.live_brokers() {
            if shared.cluster.hears(shared.node_of(broker.id)) {
                silent.remove(&broker.id);
                continue;
            }
            let since = *silent.entry(broker.id).or_insert_with(Instant::now);
            if since.elapsed() >= SESSION {
                warn!(broker = broker.id, "not heard, fenced");
                fence(&shared, broker.id, true).await;
                silent.remove(&broker.id);
            }
        }
    }
}

/// Takes a broker out of the set of live ones, or puts it back.
pub async fn fence(shared: &Shared, id: i32, fenced: bool) {
    let changed = shared.change(move |context| match fence_broker(context, id, fenced) {
        Ok(command) => (command.into_iter().collect(), true),
        Err(_) => (Vec::new(), false),
    });
    // A change that did not come about is looked at again soon.
    if let Ok(true) = changed.await {
        info!(broker = id, fenced, "fencing changed");
    }
}
