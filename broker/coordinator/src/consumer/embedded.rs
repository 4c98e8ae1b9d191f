//! The consumer protocol inside the classic one: what members of the classic protocol put into
//! their metadata and assignment (ConsumerProtocolSubscription 0-3, ConsumerProtocolAssignment 0-3).
//!
//! Read from bytes that a client made: nothing is trusted, and nothing is allocated for a count
//! before there are bytes for it. Fields after the known ones are left alone, as Kafka does.

use bytes::{BufMut, Bytes, BytesMut};

/// What a classic member subscribes to and says it owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Subscription {
    /// Its version, as the member wrote it.
    pub(super) version: i16,
    pub(super) topics: Vec<String>,
    /// By topic name; empty before version 1.
    pub(super) owned: Vec<(String, Vec<i32>)>,
    pub(super) rack: Option<String>,
}

/// The latest version of both that is known. Later ones are read as this one.
const LATEST: i16 = 3;

/// Reads a subscription; `None` if the bytes are not one.
pub(super) fn read_subscription(bytes: &[u8]) -> Option<Subscription> {
    let mut reader = Reader(bytes);
    let version = reader.i16().filter(|version| *version >= 0)?;
    let topics = reader.list(Reader::string)?;
    reader.nullable_bytes()?;
    let owned = if version >= 1 {
        reader.list(Reader::topic)?
    } else {
        Vec::new()
    };
    if version >= 2 {
        reader.i32()?;
    }
    let rack = if version >= LATEST {
        reader.nullable_string()?
    } else {
        None
    };
    Some(Subscription {
        version,
        topics,
        owned,
        rack,
    })
}

/// Reads an assignment; `None` if the bytes are not one. No bytes at all are an empty one: so it is
/// with members that never got any.
pub(super) fn read_assignment(bytes: &[u8]) -> Option<Vec<(String, Vec<i32>)>> {
    if bytes.is_empty() {
        return Some(Vec::new());
    }
    let mut reader = Reader(bytes);
    reader.i16().filter(|version| *version >= 0)?;
    let topics = reader.list(Reader::topic)?;
    reader.nullable_bytes()?;
    Some(topics)
}

/// Writes an assignment in the version of the member's subscription.
pub(super) fn write_assignment(version: i16, topics: &[(&str, &[i32])]) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_i16(version.clamp(0, LATEST));
    put_length(&mut bytes, topics.len());
    for (topic, partitions) in topics {
        let length = i16::try_from(topic.len()).expect("topic names are at most 249 bytes");
        bytes.put_i16(length);
        bytes.put_slice(topic.as_bytes());
        put_length(&mut bytes, partitions.len());
        for partition in *partitions {
            bytes.put_i32(*partition);
        }
    }
    bytes.put_i32(-1);
    bytes.freeze()
}

fn put_length(bytes: &mut BytesMut, length: usize) {
    bytes.put_i32(i32::try_from(length).expect("partitions are numbered by an i32"));
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn i16(&mut self) -> Option<i16> {
        Some(i16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn i32(&mut self) -> Option<i32> {
        Some(i32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    fn string(&mut self) -> Option<String> {
        self.nullable_string()?
    }

    /// The outer `None` is an error, the inner one null.
    #[expect(clippy::option_option, reason = "malformed and null are not the same")]
    fn nullable_string(&mut self) -> Option<Option<String>> {
        let length = self.i16()?;
        if length == -1 {
            return Some(None);
        }
        let bytes = self.take(usize::try_from(length).ok()?)?;
        let text = std::str::from_utf8(bytes).ok()?;
        Some(Some(text.to_owned()))
    }

    fn nullable_bytes(&mut self) -> Option<()> {
        let length = self.i32()?;
        if length != -1 {
            self.take(usize::try_from(length).ok()?)?;
        }
        Some(())
    }

    fn topic(&mut self) -> Option<(String, Vec<i32>)> {
        Some((self.string()?, self.list(Reader::i32)?))
    }

    fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let count = self.i32().filter(|count| *count >= 0)?;
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(item(self)?);
        }
        Some(items)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As Kafka's client writes it: version 3, one topic, no user data, one owned partition,
    /// generation 7, a rack.
    const SUBSCRIPTION: &[u8] = b"\0\x03\0\0\0\x01\0\x01t\xff\xff\xff\xff\0\0\0\x01\0\x01t\0\0\0\x01\0\0\0\x02\0\0\0\x07\0\x01r";

    #[test]
    fn reads_every_version_of_a_subscription() {
        let latest = read_subscription(SUBSCRIPTION).expect("well formed");
        assert_eq!(latest.topics, ["t"]);
        assert_eq!(latest.owned, [("t".to_owned(), vec![2])]);
        assert_eq!(latest.rack.as_deref(), Some("r"));
        let first = read_subscription(b"\0\0\0\0\0\x01\0\x01t\0\0\0\x02ab").expect("well formed");
        assert_eq!((first.topics, first.owned.len()), (vec!["t".to_owned()], 0));
    }

    #[test]
    fn cut_bytes_are_no_subscription() {
        for end in 0..SUBSCRIPTION.len() {
            assert_eq!(read_subscription(&SUBSCRIPTION[..end]), None, "{end}");
        }
        assert_eq!(read_subscription(b"\0\0\x7f\xff\xff\xff"), None);
    }

    proptest! {
        #[test]
        fn assignments_round_trip(
            version in 0_i16..9,
            topics in prop::collection::vec(("[a-z]{1,9}", prop::collection::vec(any::<i32>(), 0..5)), 0..5),
        ) {
            let borrowed: Vec<_> = topics.iter().map(|(name, it)| (name.as_str(), it.as_slice())).collect();
            let bytes = write_assignment(version, &borrowed);
            prop_assert_eq!(read_assignment(&bytes), Some(topics));
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = read_assignment(&bytes);
            let _ = read_subscription(&bytes);
        }
    }
}
