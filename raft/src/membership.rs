//! Stored form of a group's membership.
//!
//! ```text
//! u8 version = 1 | u8 voter sets (1, or 2 while joint) | per set: u16 count, u64 node ids | u16 count, u64 learners
//! ```
//! Big endian. Storage keeps it as opaque bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Voters and learners of a group; two voter sets while a change is under way.
pub(crate) type GroupMembership = openraft::Membership<u64, ()>;

const VERSION: u8 = 1;
/// A change of voters goes through one joint configuration of the old and the new set.
const MAX_VOTER_SETS: u8 = 2;

/// Encodes a membership.
pub(crate) fn encode(membership: &GroupMembership) -> Bytes {
    let mut out = BytesMut::new();
    let sets = membership.get_joint_config();
    out.put_u8(VERSION);
    out.put_u8(u8::try_from(sets.len()).expect("openraft never holds more than two voter sets"));
    for set in sets {
        put_ids(&mut out, set);
    }
    put_ids(&mut out, &membership.learner_ids().collect());
    out.freeze()
}

fn put_ids(out: &mut BytesMut, ids: &BTreeSet<u64>) {
    out.put_u16(u16::try_from(ids.len()).expect("replicas of a group fit 16 bits"));
    for &id in ids {
        out.put_u64(id);
    }
}

/// Decodes what [`encode`] wrote.
///
/// # Errors
/// `InvalidData` for an unknown version, a truncated or overlong value, or a set without voters.
pub(crate) fn decode(mut bytes: &[u8]) -> io::Result<GroupMembership> {
    let input = &mut bytes;
    let version = input.try_get_u8().map_err(invalid)?;
    if version != VERSION {
        return Err(invalid(format!(
            "membership of version {version}, this program knows {VERSION}"
        )));
    }
    let count = input.try_get_u8().map_err(invalid)?;
    if count > MAX_VOTER_SETS {
        return Err(invalid(format!("membership with {count} voter sets")));
    }
    let sets = (0..count)
        .map(|_| get_ids(input))
        .collect::<io::Result<Vec<_>>>()?;
    let mut nodes: BTreeMap<u64, ()> = get_ids(input)?.into_iter().map(|id| (id, ())).collect();
    if input.has_remaining() {
        return Err(invalid("membership followed by more bytes"));
    }
    nodes.extend(sets.iter().flatten().map(|&id| (id, ())));
    GroupMembership::new(sets, nodes).map_err(invalid)
}

fn get_ids(input: &mut &[u8]) -> io::Result<BTreeSet<u64>> {
    let count = input.try_get_u16().map_err(invalid)?;
    (0..count)
        .map(|_| input.try_get_u64().map_err(invalid))
        .collect()
}

fn invalid(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, cause)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    fn memberships() -> impl Strategy<Value = GroupMembership> {
        let ids = || proptest::collection::btree_set(0..9u64, 1..5);
        (
            proptest::collection::vec(ids(), 1..3),
            proptest::collection::btree_set(0..12u64, 0..4),
        )
            .prop_map(|(sets, others)| {
                let nodes: BTreeMap<u64, ()> = sets
                    .iter()
                    .flatten()
                    .chain(&others)
                    .map(|&id| (id, ()))
                    .collect();
                GroupMembership::new(sets, nodes).unwrap()
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn decodes_what_it_encodes(membership in memberships()) {
            prop_assert_eq!(decode(&encode(&membership)).unwrap(), membership);
        }

        #[test]
        fn refuses_every_truncation(membership in memberships()) {
            let bytes = encode(&membership);
            for end in 0..bytes.len() {
                prop_assert!(decode(&bytes[..end]).is_err());
            }
        }

        #[test]
        fn never_panics_on_foreign_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn refuses_another_version_and_trailing_bytes() {
        let good = encode(
            &GroupMembership::new(vec![BTreeSet::from([1])], BTreeMap::from([(1, ())])).unwrap(),
        );
        let mut newer = good.to_vec();
        newer[0] = 2;
        assert!(
            decode(&newer)
                .unwrap_err()
                .to_string()
                .contains("version 2")
        );
        let mut longer = good.to_vec();
        longer.push(0);
        assert!(decode(&longer).is_err());
    }
}
