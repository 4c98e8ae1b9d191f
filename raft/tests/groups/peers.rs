//! A transport inside the process that can be cut.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Weak};

use futures::future::{BoxFuture, FutureExt};
use klamm_raft::{Groups, NodeId, PeerRequest, PeerResponse, PeerTransport};
use klamm_records::GroupId;
use parking_lot::Mutex;

/// All nodes of a cluster in this process.
#[derive(Default)]
pub(crate) struct Wires {
    nodes: Mutex<BTreeMap<NodeId, Groups>>,
    cut_off: Mutex<BTreeSet<NodeId>>,
}

impl Wires {
    pub(crate) fn attach(&self, node: NodeId, groups: Groups) {
        self.nodes.lock().insert(node, groups);
    }

    pub(crate) fn cut_off(&self, node: NodeId) {
        self.cut_off.lock().insert(node);
    }

    pub(crate) fn heal(&self) {
        self.cut_off.lock().clear();
    }

    pub(crate) fn clear(&self) {
        self.nodes.lock().clear();
    }

    fn way(&self, from: NodeId, to: NodeId, group: GroupId) -> io::Result<klamm_raft::Group> {
        let cut_off = self.cut_off.lock();
        if cut_off.contains(&from) || cut_off.contains(&to) {
            return Err(io::Error::from(io::ErrorKind::TimedOut));
        }
        let groups = self.nodes.lock().get(&to).cloned();
        groups
            .and_then(|groups| groups.get(group))
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }
}

/// One node's end.
pub(crate) struct Wire {
    pub(crate) from: NodeId,
    pub(crate) wires: Weak<Wires>,
}

impl PeerTransport for Wire {
    fn call(
        &self,
        node: NodeId,
        group: GroupId,
        request: PeerRequest,
    ) -> BoxFuture<'static, io::Result<PeerResponse>> {
        let wires: Option<Arc<Wires>> = self.wires.upgrade();
        let way = wires.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
        let from = self.from;
        async move {
            let wires = way?;
            let answer = wires
                .way(from, node, group)?
                .answer(from.broker(), request)
                .await
                .map_err(io::Error::other);
            // An answer needs the way back.
            wires.way(node, from, group)?;
            answer
        }
        .boxed()
    }
}
