//! Looks at the nodes from within, while they run and in the end: what no client sees, and what would
//! show later.

use std::collections::BTreeMap;

use klamm::partition::Partition;
use klamm_records::GroupId;

use crate::coverage::Coverage;
use crate::kernel::{self, HostId};
use crate::world::World;

/// Bytes read at a time.
const PIECE: usize = 1 << 20;

/// What a replica was like when it was looked at last.
#[derive(Clone, Copy, Debug, Default)]
struct Replica {
    high_watermark: i64,
    end: i64,
    /// Of its last record.
    epoch: i32,
    /// Which process it was.
    start: u64,
    /// The replica: its folder has its number.
    folder: u32,
}

/// What was seen.
#[derive(Default)]
pub struct Watch {
    leaders: BTreeMap<(GroupId, i32), HostId>,
    replicas: BTreeMap<(HostId, GroupId), Replica>,
    truncations: u64,
    fills: u64,
    torn: u64,
}

impl Watch {
    /// Looks at all nodes that run.
    pub fn look(&mut self, world: &mut World) {
        for host in 0..world.machines.len() {
            let machine = &world.machines[host];
            if let Some(recovered) = machine.recovered() {
                self.torn += u64::from(recovered.torn > 0);
                if recovered.corrupt > 0 && !machine.is_rotten() {
                    let what = format!(
                        "corrupt: host {host} found {} places at its start",
                        recovered.corrupt
                    );
                    world.violations.push(what);
                }
            }
            let broken = world.machines[host].broken();
            world.violations.extend(broken);
            let machine = &world.machines[host];
            let Some(shared) = machine.shared() else {
                continue;
            };
            kernel::with(|kernel| kernel.enter_quietly(host));
            self.fills += shared.groups.fills().len() as u64;
            if shared.store.corruptions() > 0 && !machine.is_rotten() {
                let what = format!(
                    "corrupt: host {host} has found {} places",
                    shared.store.corruptions()
                );
                world.violations.push(what);
            }
            let controller = shared.controller.group();
            let metadata = controller.leadership();
            if metadata.serving {
                let term = i32::try_from(metadata.term).unwrap_or(i32::MAX);
                let led = (controller.id(), term);
                let leader = *self.leaders.entry(led).or_insert(host);
                if leader != host {
                    world.violations.push(format!(
                        "two-leaders: metadata in term {term}, hosts {leader} and {host}"
                    ));
                }
            }
            let start = world.machines[host].starts();
            for partition in shared.partitions.all() {
                self.replica(host, start, &partition, &mut world.violations);
            }
        }
    }

    fn replica(
        &mut self,
        host: HostId,
        start: u64,
        partition: &Partition,
        found: &mut Vec<String>,
    ) {
        let group = partition.log().group();
        let (end, high_watermark) = (partition.log().end_offset(), partition.high_watermark());
        let folder = partition.log().dir();
        let epochs = partition.log().epochs();
        let now = Replica {
            high_watermark,
            end,
            epoch: epochs.last().map_or(-1, |(epoch, _)| *epoch),
            start,
            folder: crc32c::crc32c(folder.as_os_str().as_encoded_bytes()),
        };
        let before = self.replicas.insert((host, group), now);
        let name = format!("{}-{} on host {host}", partition.topic(), partition.index());
        if high_watermark > end {
            found.push(format!("hwm-beyond-end: {name}: {high_watermark} of {end}"));
        }
        if let Some(before) =
            before.filter(|before| (before.start, before.folder) == (now.start, now.folder))
        {
            if high_watermark < before.high_watermark {
                let was = before.high_watermark;
                found.push(format!(
                    "hwm-regression: {name}: {was}, then {high_watermark}"
                ));
            }
            // What stood there in an epoch is gone, or another epoch has its place.
            let next = epochs.iter().find(|(epoch, _)| *epoch > before.epoch);
            if end < before.end || next.is_some_and(|(_, start)| *start < before.end) {
                self.truncations += 1;
            }
        }
        if let Some(epoch) = partition.serving_epoch() {
            let leader = *self.leaders.entry((group, epoch)).or_insert(host);
            if leader != host {
                found.push(format!(
                    "two-leaders: {name} in epoch {epoch}, as host {leader}"
                ));
            }
        }
    }

    /// What the replicas of a partition hold below the commit point is the same, byte by byte.
    pub fn compare(&mut self, world: &mut World) {
        type Replicas = Vec<(HostId, std::sync::Arc<Partition>)>;
        let mut replicas: BTreeMap<(String, i32), Replicas> = BTreeMap::new();
        for host in 0..world.machines.len() {
            let Some(shared) = world.machines[host].shared() else {
                let what = format!("stuck: host {host} does not serve in the end");
                world.violations.push(what);
                continue;
            };
            for partition in shared.partitions.all() {
                let key = (partition.topic().to_string(), partition.index());
                replicas.entry(key).or_default().push((host, partition));
            }
        }
        for ((topic, index), replicas) in replicas {
            let end = replicas
                .iter()
                .map(|(_, replica)| replica.high_watermark())
                .min()
                .unwrap_or(0);
            let ends: Vec<i64> = replicas
                .iter()
                .map(|(_, replica)| replica.high_watermark())
                .collect();
            if ends.iter().any(|other| *other != end) {
                let what = format!("behind: {topic}-{index}: high watermarks {ends:?} in the end");
                world.violations.push(what);
            }
            world
                .coverage
                .add("replicas compared", replicas.len() as u64);
            // Each replica compacts for itself; behind that they are the same again.
            let from = replicas
                .iter()
                .map(|(_, replica)| replica.log())
                .map(|log| log.start_offset().max(log.compacted_offset()))
                .max()
                .unwrap_or(0);
            let mut first: Option<(HostId, u64, u32)> = None;
            for (host, replica) in replicas {
                kernel::with(|kernel| kernel.enter_quietly(host));
                match contents(&replica, from, end) {
                    Err(_) if world.machines[host].is_rotten() => {
                        world.coverage.count("rot that nobody had read");
                    }
                    Err(error) => {
                        let what = format!("unreadable: {topic}-{index} on host {host}: {error}");
                        world.violations.push(what);
                    }
                    Ok((bytes, sum)) => {
                        let (other, their_bytes, their_sum) =
                            *first.get_or_insert((host, bytes, sum));
                        if (bytes, sum) != (their_bytes, their_sum) {
                            let what = format!(
                                "divergence: {topic}-{index} below {end}: host {other} has {their_bytes} bytes ({their_sum:x}), host {host} has {bytes} ({sum:x})"
                            );
                            world.violations.push(what);
                        }
                    }
                }
            }
        }
    }

    /// What the nodes think of their groups: said of a run that does not come to rest.
    pub fn tell(world: &World) {
        for (host, machine) in world.machines.iter().enumerate() {
            let Some(shared) = machine.shared() else {
                world.say(&format!("host {host} does not serve"));
                continue;
            };
            kernel::with(|kernel| kernel.enter_quietly(host));
            let partitions = shared.partitions.all();
            let replicas = partitions.iter().map(|partition| partition.group());
            for group in std::iter::once(shared.controller.group()).chain(replicas) {
                let (id, leadership) = (group.id(), group.leadership());
                let (progress, members) = (group.progress(), group.members());
                world.say(&format!(
                    "host {host} group {id}: {leadership:?}, {progress:?}, members {members:?}, offsets to {}",
                    group.log().end_offset(),
                ));
            }
            let applied = shared.controller.image().last_offset();
            world.say(&format!("host {host} has applied metadata to {applied}"));
        }
    }

    /// Counts what was seen.
    pub fn count(&self, coverage: &mut Coverage) {
        coverage.add("elections", self.leaders.len() as u64);
        coverage.add("truncations", self.truncations);
        coverage.add("fills seen", self.fills);
        coverage.add("torn journals", self.torn);
    }
}

/// Bytes and their checksum.
fn contents(
    replica: &Partition,
    from: i64,
    end: i64,
) -> Result<(u64, u32), klamm_storage::StorageError> {
    let log = replica.log();
    let (mut at, mut bytes, mut sum) = (from, 0, 0);
    while at < end {
        let piece = log.read(at, end, PIECE, true)?;
        let Some(next) = after(&piece) else { break };
        bytes += piece.len() as u64;
        sum = crc32c::crc32c_append(sum, &piece);
        at = next;
    }
    Ok((bytes, sum))
}

/// Offset after the last batch of several.
fn after(mut batches: &[u8]) -> Option<i64> {
    let mut next = None;
    while let (Some(base), Some(len), Some(delta)) =
        (batches.get(..8), batches.get(8..12), batches.get(23..27))
    {
        let base = i64::from_be_bytes(base.try_into().ok()?);
        let len = u32::from_be_bytes(len.try_into().ok()?);
        let delta = i32::from_be_bytes(delta.try_into().ok()?);
        next = Some(base + i64::from(delta) + 1);
        batches = batches.get(12 + len as usize..)?;
    }
    next
}
