//! The one thing that is looked at inside of `consumer` metadata: the topics.
//!
//! Versions 0 to 3 of Kafka's ConsumerProtocolSubscription begin alike, and later ones may only add to the
//! end: version, then the topics. The rest is left alone.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

/// All topics of all subscriptions; none when one of them does not parse.
pub(super) fn topics(subscriptions: impl Iterator<Item = Bytes>) -> Option<BTreeSet<Arc<str>>> {
    let mut topics: BTreeSet<Arc<str>> = BTreeSet::new();
    // Members of a group mostly say the same: what was said last need not be looked up again.
    let mut last = Bytes::new();
    for subscription in subscriptions {
        let names = split(&subscription)?;
        let section = subscription.get(..names.end)?;
        if last == section {
            continue;
        }
        for name in names.names {
            if !topics.contains(name) {
                topics.insert(name.into());
            }
        }
        last = subscription.slice(..names.end);
    }
    Some(topics)
}

struct Names<'a> {
    names: Vec<&'a str>,
    /// Where they end.
    end: usize,
}

fn split(subscription: &[u8]) -> Option<Names<'_>> {
    let (version, rest) = subscription.split_first_chunk::<2>()?;
    if i16::from_be_bytes(*version) < 0 {
        return None;
    }
    let (count, mut rest) = rest.split_first_chunk::<4>()?;
    let count = usize::try_from(i32::from_be_bytes(*count)).ok()?;
    // A count that the bytes cannot hold is found out by reading; nothing is set aside for it.
    let mut names = Vec::new();
    for _ in 0..count {
        let (length, tail) = rest.split_first_chunk::<2>()?;
        let length = usize::try_from(i16::from_be_bytes(*length)).ok()?;
        let (name, tail) = tail.split_at_checked(length)?;
        names.push(std::str::from_utf8(name).ok()?);
        rest = tail;
    }
    Some(Names {
        names,
        end: subscription.len() - rest.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(version: i16, topics: &[&str], tail: &[u8]) -> Bytes {
        let mut bytes = version.to_be_bytes().to_vec();
        bytes.extend((topics.len() as i32).to_be_bytes());
        for topic in topics {
            bytes.extend((topic.len() as i16).to_be_bytes());
            bytes.extend(topic.as_bytes());
        }
        bytes.extend(tail);
        bytes.into()
    }

    fn names(subscriptions: &[Bytes]) -> Option<Vec<String>> {
        let topics = topics(subscriptions.iter().cloned())?;
        Some(topics.iter().map(|name| name.to_string()).collect())
    }

    #[test]
    fn topics_are_found_in_every_version() {
        for version in [0, 1, 2, 3, 9] {
            let ab = encode(version, &["b", "a"], &[0, 0, 0, 0]);
            let c = encode(0, &["c"], &[]);
            assert_eq!(
                names(&[ab.clone(), ab, c]),
                Some(vec!["a".to_owned(), "b".to_owned(), "c".to_owned()])
            );
        }
        assert_eq!(names(&[]), Some(Vec::new()));
    }

    #[test]
    fn what_does_not_parse_is_unknown() {
        let good = encode(0, &["a"], &[]);
        let bad = [
            Bytes::new(),
            Bytes::from_static(b"\0"),
            Bytes::from_static(b"\0\0\0"),
            encode(-1, &["a"], &[]),
            good.slice(..good.len() - 1),
            Bytes::from_static(b"\0\0\x7f\xff\xff\xff"),
            Bytes::from_static(b"\0\0\xff\xff\xff\xff"),
            Bytes::from_static(b"\0\0\0\0\0\x01\xff\xff"),
            Bytes::from_static(b"\0\0\0\0\0\x01\0\x01\xff"),
        ];
        for bytes in bad {
            assert_eq!(names(&[good.clone(), bytes.clone()]), None, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = names(&[bytes.into()]);
        }
    }
}
