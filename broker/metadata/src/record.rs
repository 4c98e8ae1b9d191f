//! What a record of the metadata log is: a command, or a part of a snapshot.
//!
//! Commands are of the stored versions up to [`command::VERSION`], parts of a snapshot of version 3: a program that knows
//! no snapshots refuses the record by its version, as it has to.

use serde::{Deserialize, Serialize};

use crate::command::{self, Command, DecodeError};
use crate::image::Image;
use crate::stored;

/// Newest stored version of a record that this program writes and reads.
pub const VERSION: u16 = 3;
const WHAT: &str = "a metadata record";
/// Bytes of an image in one part. As text in JSON once more they may become twice as many.
const PART_BYTES: usize = 200 << 10;

/// The value of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// Changes the image.
    Command(Command),
    /// Says what the image is.
    Snapshot(SnapshotPart),
}

/// A piece of [`Image::encode`]. The parts of one snapshot lie one behind the other, with nothing in between; the image
/// is that of the offset before the first. Those of a snapshot that is not whole mean nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SnapshotPart {
    /// Its place, from 0.
    pub part: u32,
    /// How many there are.
    pub parts: u32,
    /// Its bytes.
    pub text: String,
}

/// What there is in version 3.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Third {
    Snapshot(SnapshotPart),
}

impl Record {
    /// The stored form, of the lowest version that has it.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Record::Command(command) => command.encode(),
            Record::Snapshot(part) => stored::encode(VERSION, &Third::Snapshot(part.clone())),
        }
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// [`DecodeError`] for a newer version or bytes that are no record. The caller must stop: a record that is
    /// skipped makes replicas differ.
    pub fn decode(bytes: &[u8]) -> Result<Record, DecodeError> {
        if stored::version(WHAT, VERSION, bytes)? <= command::VERSION {
            return Command::decode(bytes).map(Record::Command);
        }
        let Third::Snapshot(part) = stored::decode(WHAT, VERSION, bytes)?;
        if part.part >= part.parts {
            let cause = format!("part {} of {}", part.part, part.parts);
            return Err(DecodeError::Malformed { what: WHAT, cause });
        }
        Ok(Record::Snapshot(part))
    }
}

impl Image {
    /// The image as records for the metadata log, at least one.
    pub fn snapshot(&self) -> Vec<Record> {
        let encoded = String::from_utf8(self.encode()).expect("JSON is UTF-8");
        let texts = pieces(&encoded, PART_BYTES);
        let parts = u32::try_from(texts.len()).expect("an image is far smaller than 800 TB");
        let part = |(part, text): (u32, &str)| {
            let text = text.to_owned();
            Record::Snapshot(SnapshotPart { part, parts, text })
        };
        (0..).zip(texts).map(part).collect()
    }
}

/// The text in pieces of at most `most` bytes, four or more, none of which is empty.
fn pieces(mut text: &str, most: usize) -> Vec<&str> {
    let mut pieces = Vec::new();
    while text.len() > most {
        let whole = (0..=most).rev().find(|at| text.is_char_boundary(*at));
        let (piece, rest) = text.split_at(whole.unwrap_or(most));
        pieces.push(piece);
        text = rest;
    }
    pieces.push(text);
    pieces
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{Cluster, any_command};

    fn part(part: u32, parts: u32) -> Record {
        let text = r#"{"version":1,"#.to_owned();
        Record::Snapshot(SnapshotPart { part, parts, text })
    }

    #[test]
    fn the_stored_form_of_version_3_is_read() {
        let stored =
            br#"{"version":3,"value":{"snapshot":{"part":0,"parts":3,"text":"{\"version\":1,"}}}"#;
        assert_eq!(Record::decode(stored), Ok(part(0, 3)));
        assert_eq!(part(0, 3).encode(), stored);
    }

    #[test]
    fn what_is_not_known_is_an_error() {
        let newer = br#"{"version":4,"value":{"a thing of the future":true}}"#;
        let refused = Err(DecodeError::NewerVersion {
            what: "a metadata record",
            found: 4,
            known: 3,
        });
        assert_eq!(Record::decode(newer), refused);
        let known_to_all = DecodeError::NewerVersion {
            what: "a metadata command",
            found: 3,
            known: 2,
        };
        assert_eq!(Command::decode(&part(0, 1).encode()), Err(known_to_all));
        for malformed in [
            &b""[..],
            b"{}",
            br#"{"version":0,"value":{}}"#,
            br#"{"version":3,"value":{"delete-topic":{"id":"00000000-0000-0000-0000-000000000007"}}}"#,
            br#"{"version":1,"value":{"snapshot":{"part":0,"parts":1,"text":""}}}"#,
            &part(3, 3).encode(),
            &part(0, 0).encode(),
        ] {
            let read = Record::decode(malformed);
            assert!(
                matches!(read, Err(DecodeError::Malformed { .. })),
                "{read:?}"
            );
        }
    }

    #[test]
    fn a_large_image_has_parts_that_fit_a_batch() {
        let mut cluster = Cluster::single();
        for number in 0..40 {
            // Quotes are what grows most.
            let value = "\"".repeat(10_000);
            let name = format!("t{number}");
            cluster = cluster.with_topic(&name, 1, &[("retention.ms", &value)]);
        }
        let records = cluster.image.snapshot();
        assert!(records.len() > 3, "{}", records.len());
        let mut text = String::new();
        for (at, record) in records.iter().enumerate() {
            assert!(record.encode().len() <= 450 << 10);
            match record {
                Record::Snapshot(part) => {
                    assert_eq!(
                        (part.part as usize, part.parts as usize),
                        (at, records.len())
                    );
                    text.push_str(&part.text);
                }
                Record::Command(command) => panic!("{command:?}"),
            }
        }
        assert_eq!(Image::decode(text.as_bytes()), Ok(cluster.image));
    }

    proptest! {
        #[test]
        fn pieces_make_the_whole(text in ".{0,60}", most in 4..20_usize) {
            let pieces = pieces(&text, most);
            prop_assert_eq!(pieces.concat(), text.as_str());
            prop_assert!(pieces.iter().all(|piece| piece.len() <= most));
        }

        #[test]
        fn records_round_trip(command in any_command()) {
            let record = Record::Command(command.clone());
            prop_assert_eq!(record.encode(), command.encode());
            prop_assert_eq!(Record::decode(&record.encode()), Ok(record));
        }

        #[test]
        fn any_bytes_decode_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Record::decode(&bytes);
        }

        /// Byte by byte the same, in whatever way an image came to be what it is.
        #[test]
        fn equal_images_encode_to_the_same_bytes(commands in proptest::collection::vec(any_command(), 0..40)) {
            let mut image = Image::new();
            for (offset, command) in (0..).zip(&commands) {
                image = image.apply(offset, command).0;
            }
            let encoded = image.encode();
            prop_assert_eq!(Image::decode(&encoded).map(|read| read.encode()), Ok(encoded));
        }
    }
}
