//! What replicas have promised each other: a vote that was given, and entries that a leader counts for committed
//! because of them. What a start finds on the disk must still have both.

use std::collections::BTreeMap;
use std::ffi::OsString;

use klamm_raft::{Group, NodeId};
use klamm_records::GroupId;
use klamm_storage::{GroupLog, Store};

use crate::kernel::HostId;

/// A replica, as the disk knows it: its folder has its number.
type Folder = (HostId, GroupId, OsString);

/// All promises of a run.
#[derive(Default)]
pub(crate) struct Promises {
    /// The term of its last vote.
    votes: BTreeMap<Folder, u64>,
    /// The last committed entry that a leader has been told is there.
    held: BTreeMap<(GroupId, NodeId), u64>,
    replicas: BTreeMap<Folder, NodeId>,
}

fn folder(host: HostId, log: &GroupLog) -> Folder {
    let dir = log.dir();
    let name = dir.file_name().unwrap_or_default();
    (host, log.group(), name.to_owned())
}

impl Promises {
    /// Notes what a replica has promised by now, and what it knows others to have.
    pub(crate) fn note(&mut self, host: HostId, group: &Group) {
        let folder = folder(host, group.log());
        let voted = self.votes.entry(folder.clone()).or_default();
        *voted = (*voted).max(group.leadership().term);
        self.replicas.insert(folder, group.node());
        let progress = group.progress();
        for (node, matched) in progress.matched {
            let held = self.held.entry((group.id(), node)).or_default();
            *held = (*held).max(matched.min(progress.committed_index));
        }
    }

    /// The disk is gone, and whoever comes with another one is another.
    pub(crate) fn forget(&mut self, host: HostId) {
        self.votes.retain(|(of, ..), _| *of != host);
        self.replicas.retain(|(of, ..), _| *of != host);
    }

    /// What a start has not found of what was promised. A log that knows that it lost something promises nothing.
    pub(crate) fn broken(&self, host: HostId, store: &Store) -> Vec<String> {
        let mut broken = Vec::new();
        let logs = store.groups().into_iter();
        for log in logs.filter_map(|group| store.group(group)) {
            if log.quarantine().is_some() {
                continue;
            }
            let folder = folder(host, &log);
            let (group, state) = (log.group(), log.raft_state());
            let term = state.vote.map_or(0, |vote| vote.term);
            let voted = self.votes.get(&folder).copied().unwrap_or(0);
            if term < voted {
                broken.push(format!(
                    "forgotten-vote: group {group} on host {host}: {voted} before the start, {term} after it"
                ));
            }
            let last = state.last.or(state.purged);
            if last.is_some_and(|last| last.term > term) {
                broken.push(format!(
                    "vote-behind-log: group {group} on host {host}: {term}, the log ends at {last:?}"
                ));
            }
            let replica = self.replicas.get(&folder);
            let held = replica.and_then(|replica| self.held.get(&(group, *replica)));
            let index = last.map_or(0, |last| last.index);
            if held.is_some_and(|held| index < *held) {
                broken.push(format!(
                    "forgotten-entries: group {group} on host {host}: committed up to {held:?}, the log ends at {last:?}"
                ));
            }
        }
        broken
    }
}
