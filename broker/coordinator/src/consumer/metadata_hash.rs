//! One number for everything about the subscribed topics that an assignment depends on (KIP-1101):
//! when it changes, the group needs another assignment.

use klamm_metadata::Image;
use twox_hash::XxHash3_64;

/// Changed when the bytes that are hashed change meaning.
const VERSION: u8 = 0;

/// The hash of topics, given ascending by name: ids, partition counts and the racks of replicas. 0
/// when none exists.
pub(super) fn metadata_hash<'a>(image: &Image, names: impl Iterator<Item = &'a str>) -> i64 {
    let mut bytes = Vec::new();
    for topic in names.filter_map(|name| image.topic(name)) {
        if bytes.is_empty() {
            bytes.push(VERSION);
        }
        bytes.extend_from_slice(topic.id.0.as_bytes());
        put_length(&mut bytes, topic.partitions.len());
        for partition in topic.partitions.iter() {
            let mut racks: Vec<&str> = racks(image, &partition.replicas).collect();
            racks.sort_unstable();
            put_length(&mut bytes, racks.len());
            for rack in racks {
                put_length(&mut bytes, rack.len());
                bytes.extend_from_slice(rack.as_bytes());
            }
        }
    }
    if bytes.is_empty() {
        return 0;
    }
    XxHash3_64::oneshot(&bytes).cast_signed()
}

/// The known racks of replicas, in their order.
pub(super) fn racks<'a>(image: &'a Image, replicas: &[i32]) -> impl Iterator<Item = &'a str> {
    let brokers = replicas.iter().filter_map(|id| image.broker(*id));
    brokers.filter_map(|broker| broker.rack.as_deref())
}

fn put_length(bytes: &mut Vec<u8>, length: usize) {
    bytes.extend_from_slice(&(length as u64).to_le_bytes());
}
