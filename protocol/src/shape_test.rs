//! The layouts against kafka-protocol: random messages are made from the layouts, so that every
//! field of every version takes part, and hostile ones from those.

use std::fmt::Debug;
use std::mem::size_of;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages;
use proptest::prelude::*;

use super::*;
use crate::api::{Api, ApiMessage, ApiRequest, for_each_api};
use crate::decode::{DecodeError, codec_version, decode};

/// A tag that no schema uses.
const UNKNOWN_TAG: u32 = 9_999;

/// A small generator of numbers (xorshift), so that a message is a function of its seed.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Dice {
        Dice(seed | 1)
    }

    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }
}

/// Writes a random message in the only form that an encoder gives it.
struct Author {
    version: i16,
    is_flexible: bool,
    dice: Dice,
    out: BytesMut,
}

impl Author {
    fn message(shape: &Shape, version: i16, seed: u64) -> Bytes {
        let is_flexible = version >= shape.first_flexible;
        let mut author = Author {
            version,
            is_flexible,
            dice: Dice::new(seed),
            out: BytesMut::new(),
        };
        author.structure(shape.fields, false);
        author.out.freeze()
    }

    fn varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.out.put_u8((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.out.put_u8(value as u8);
    }

    fn structure(&mut self, fields: &[Field], is_tagged: bool) {
        let version = self.version;
        let present = || fields.iter().filter(|field| field.is_in(version));
        for field in present().filter(|field| field.tag.is_none()) {
            self.value(field, is_tagged);
        }
        if !self.is_flexible {
            return;
        }
        let mut tagged: Vec<(u32, Option<&Field>)> = present()
            .filter_map(|field| field.tag.map(|tag| (tag, Some(field))))
            .filter(|_| self.dice.roll(2) == 0)
            .collect();
        tagged.sort_by_key(|(tag, _)| *tag);
        if self.dice.roll(8) == 0 {
            tagged.push((UNKNOWN_TAG, None));
        }
        self.varint(tagged.len() as u32);
        for (tag, field) in tagged {
            let before = std::mem::take(&mut self.out);
            match field {
                Some(field) => self.value(field, true),
                None => self.out.put_slice(b"?"),
            }
            let value = std::mem::replace(&mut self.out, before);
            self.varint(tag);
            self.varint(value.len() as u32);
            self.out.put_slice(&value);
        }
    }

    /// A tagged value must differ from its default, since an encoder leaves out what does not.
    fn value(&mut self, field: &Field, is_tagged: bool) {
        let is_nullable = self.version >= field.nullable_since;
        let is_null = is_nullable && !is_tagged && self.dice.roll(4) == 0;
        if !field.is_array {
            return self.element(field.kind, is_tagged, is_nullable, is_null);
        }
        let len = (!is_null).then(|| self.dice.roll(3) as u32 + u32::from(is_tagged));
        if self.is_flexible {
            self.varint(len.map_or(0, |len| len + 1));
        } else {
            self.out.put_i32(len.map_or(-1, |len| len as i32));
        }
        for _ in 0..len.unwrap_or(0) {
            self.element(field.kind, is_tagged, false, false);
        }
    }

    fn element(&mut self, kind: Kind, is_tagged: bool, is_nullable: bool, is_null: bool) {
        match kind {
            // A boolean is 0 or 1, and every number may be.
            Kind::Fixed(1) if is_tagged => self.out.put_u8(1),
            Kind::Fixed(1) => self.out.put_u8(self.dice.roll(2) as u8),
            Kind::Fixed(width) => {
                self.out.put_bytes(0x3f, 1);
                (1..width).for_each(|_| self.out.put_u8(self.dice.roll(255) as u8));
            }
            Kind::Struct(_) if is_null => self.out.put_u8(0xff),
            Kind::Struct(fields) => {
                if is_nullable {
                    self.out.put_u8(1);
                }
                self.structure(fields, is_tagged);
            }
            Kind::String | Kind::Bytes => {
                let text = "naïve-topic.0";
                let ends: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
                let end = ends[1 + self.dice.roll(ends.len() as u64 - 1) as usize];
                let text = if !is_tagged && self.dice.roll(5) == 0 {
                    ""
                } else {
                    &text[..end]
                };
                let len = if is_null { -1 } else { text.len() as i32 };
                match kind {
                    _ if self.is_flexible => self.varint((len + 1) as u32),
                    Kind::String => self.out.put_i16(len as i16),
                    _ => self.out.put_i32(len),
                }
                if !is_null {
                    self.out.put_slice(text.as_bytes());
                }
            }
        }
    }
}

fn agrees_with_the_codec<T: ApiMessage>(version: i16, seed: u64) {
    let context = || {
        format!(
            "{} {} {version} seed {seed}",
            T::API,
            std::any::type_name::<T>()
        )
    };
    let bytes = Author::message(T::SHAPE, version, seed);
    let message: T = decode(bytes.clone(), version)
        .unwrap_or_else(|error| panic!("{}: {error}\n{bytes:?}", context()));
    let mut again = BytesMut::new();
    message
        .write(&mut again, codec_version::<T>(version))
        .expect("it was decoded");
    assert_eq!(again.freeze(), bytes, "{}", context());
    assert_eq!(
        message.body_len(codec_version::<T>(version)).ok(),
        Some(bytes.len())
    );
}

/// A cut message is refused; a changed one is refused or another message, and never a panic.
fn survives_damage<T: ApiMessage>(version: i16, seed: u64) {
    let bytes = Author::message(T::SHAPE, version, seed);
    let mut dice = Dice::new(seed.rotate_left(32));
    for len in 0..bytes.len() {
        let cut = decode::<T>(bytes.slice(..len), version).err();
        let is_malformed = matches!(cut, Some(DecodeError::Malformed { .. }));
        assert!(
            is_malformed,
            "{} {version} seed {seed} cut at {len}: {cut:?}",
            T::API
        );
    }
    for _ in 0..bytes.len().min(64) {
        let mut damaged = BytesMut::from(&bytes[..]);
        for _ in 0..=dice.roll(4) {
            let at = dice.roll(damaged.len() as u64) as usize;
            let byte = [0, 1, 0x7f, 0x80, 0xff, dice.roll(256) as u8][dice.roll(6) as usize];
            let run = (at + [1, 2, 4, 5][dice.roll(4) as usize]).min(damaged.len());
            damaged[at..run].fill(byte);
        }
        drop(decode::<T>(damaged.freeze(), version));
    }
    let noise: Vec<u8> = (0..dice.roll(300)).map(|_| dice.roll(256) as u8).collect();
    drop(decode::<T>(noise.into(), version));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_message_in_every_version_agrees_with_the_codec(seed: u64) {
        fn check<R: ApiRequest>(seed: u64) {
            for version in R::API.versions() {
                agrees_with_the_codec::<R>(version, seed);
                agrees_with_the_codec::<R::Response>(version, seed);
            }
        }
        for_each_api!(check(seed));
    }

    #[test]
    fn damage_to_any_message_neither_panics_nor_passes_for_a_cut_one(seed: u64) {
        fn check<R: ApiRequest>(seed: u64) {
            for version in R::API.versions() {
                survives_damage::<R>(version, seed);
                survives_damage::<R::Response>(version, seed);
            }
        }
        for_each_api!(check(seed));
    }
}

/// Memory that the process has mapped at its most, in bytes: counts what is reserved and never
/// touched, too.
fn peak_mapped() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmPeak:"))
        .expect("Linux");
    let kib: u64 = line
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .expect("a number");
    kib << 10
}

/// Replaces every run of four bytes, and every byte by a five-byte varint, by lies about lengths.
fn tells_no_lie<T: ApiMessage>(version: i16) {
    let bytes = Author::message(T::SHAPE, version, 0x5eed);
    for at in 0..bytes.len() {
        let (before, after) = bytes.split_at(at);
        for lie in [0x7fff_fffe_u32, 0x1000_0000, 54_000_000] {
            let mut lying = BytesMut::from(before);
            lying.put_u32(lie);
            lying.put_slice(after.get(4..).unwrap_or_default());
            drop(decode::<T>(lying.freeze(), version));
            let mut lying = BytesMut::from(before);
            (0..4).for_each(|shift| lying.put_u8((lie >> (7 * shift)) as u8 | 0x80));
            lying.put_u8((lie >> 28) as u8);
            lying.put_slice(after.get(1..).unwrap_or_default());
            drop(decode::<T>(lying.freeze(), version));
        }
    }
}

/// Bad inputs 22 to 24, at every place of every message.
#[test]
fn lies_about_lengths_reserve_nothing() {
    fn check<R: ApiRequest>() {
        for version in R::API.versions() {
            tells_no_lie::<R>(version);
            tells_no_lie::<R::Response>(version);
        }
    }
    let before = peak_mapped();
    for_each_api!(check());
    let grown = peak_mapped() - before;
    assert!(grown < 256 << 20, "{grown} bytes were mapped");
}

fn refusal<T: ApiMessage + Debug>(version: i16, body: &[u8]) -> &'static str {
    match decode::<T>(Bytes::copy_from_slice(body), version) {
        Err(DecodeError::Malformed { cause, .. }) => cause.problem,
        Err(DecodeError::TooCostly { .. }) => "too costly",
        Err(DecodeError::Codec { .. }) => "codec",
        other => panic!("{other:?}"),
    }
}

/// Bad inputs 22 to 30 by number.
#[test]
fn listed_bad_inputs_are_refused_for_the_right_reason() {
    use messages::{DescribeTopicPartitionsRequest, MetadataRequest};
    let past = "length past the end";
    // 22: 54 million topics in five bytes.
    assert_eq!(
        refusal::<MetadataRequest>(0, &[0x03, 0x3c, 0x0c, 0x00, 0xb6]),
        past
    );
    // 23, 24: 2^31 and 2^32 topics.
    assert_eq!(
        refusal::<MetadataRequest>(1, &[0x7f, 0xff, 0xff, 0xfe]),
        past
    );
    assert_eq!(
        refusal::<MetadataRequest>(9, &[0xff, 0xff, 0xff, 0xff, 0x0f, 0]),
        past
    );
    // 25: a length below null, and 30: null before version 1.
    assert_eq!(
        refusal::<MetadataRequest>(1, &[0xff, 0xff, 0xff, 0xfe]),
        "negative length"
    );
    let null = "null where it is not allowed";
    assert_eq!(
        refusal::<MetadataRequest>(0, &[0xff, 0xff, 0xff, 0xff]),
        null
    );
    assert_eq!(
        refusal::<MetadataRequest>(0, &[0, 0, 0, 1, 0xff, 0xff]),
        null
    );
    // 26: a varint of six bytes.
    let varint = "varint does not fit 32 bits";
    assert_eq!(
        refusal::<MetadataRequest>(9, &[0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
        varint
    );
    // 27: tagged fields: too many, past the end, twice, descending.
    let tags = |tail: &[u8]| [&[0, 1, 0, 0][..], tail].concat();
    let many = tags(&[0xff, 0xff, 0xff, 0xff, 0x07]);
    assert_eq!(refusal::<MetadataRequest>(9, &many), "ends too early");
    assert_eq!(
        refusal::<MetadataRequest>(9, &tags(&[1, 77, 5, 0])),
        "ends too early"
    );
    let order = "tags do not ascend";
    assert_eq!(
        refusal::<MetadataRequest>(9, &tags(&[2, 77, 0, 77, 0])),
        order
    );
    assert_eq!(
        refusal::<MetadataRequest>(9, &tags(&[2, 77, 0, 76, 0])),
        order
    );
    // 28: an unknown tag of 1 MiB is skipped.
    let mut large = tags(&[1, 77, 0x80, 0x80, 0x40]);
    large.resize(large.len() + (1 << 20), 0);
    assert!(decode::<MetadataRequest>(large.into(), 9).is_ok());
    // 29: a string past the end.
    assert_eq!(
        refusal::<MetadataRequest>(0, &[0, 0, 0, 1, 0, 9, b'x']),
        past
    );
    // Text that is not UTF-8, and a structure that is neither there nor null.
    assert_eq!(
        refusal::<MetadataRequest>(0, &[0, 0, 0, 1, 0, 1, 0xff]),
        "codec"
    );
    let cursor = [1, 0, 0, 7, 211, 5];
    let neither = "neither a structure nor null";
    assert_eq!(
        refusal::<DescribeTopicPartitionsRequest>(0, &cursor),
        neither
    );
}

/// A known tagged field that is longer or shorter than it says (bad input 27).
#[test]
fn the_size_of_a_known_tagged_field_is_checked() {
    use messages::FetchRequest;
    let mut request = BytesMut::new();
    request.put_bytes(0, 12);
    request.put_bytes(0, 9);
    request.put_slice(&[1, 1, 1]);
    let fetch = |tags: &[u8]| [&request[..], tags].concat();
    assert!(decode::<FetchRequest>(fetch(&[1, 0, 3, 3, b'i', b'd']).into(), 15).is_ok());
    assert_eq!(
        refusal::<FetchRequest>(15, &fetch(&[1, 0, 4, 3, b'i', b'd', 0])),
        "tagged field is longer than its value"
    );
    assert_eq!(
        refusal::<FetchRequest>(15, &fetch(&[1, 0, 2, 3, b'i', b'd'])),
        "length past the end"
    );
}

/// Bad input 31.
#[test]
fn many_small_elements_exceed_the_budget() {
    let names = |count: u32, name: &[u8]| {
        let mut body = BytesMut::new();
        body.put_u32(count);
        for _ in 0..count {
            body.put_u16(name.len() as u16);
            body.put_slice(name);
        }
        body.freeze()
    };
    let empty = names(500_000, b"");
    assert_eq!(
        refusal::<messages::MetadataRequest>(0, &empty),
        "too costly"
    );
    // The shortest names that 50,000 topics can have.
    assert!(decode::<messages::MetadataRequest>(names(50_000, b"abc"), 0).is_ok());
    // One unknown tagged field per element costs a whole map node.
    let mut tagged = BytesMut::from(&[0x81, 0x80, 0x40][..]);
    (0..1 << 20).for_each(|_| tagged.put_slice(&[2, b'x', 1, 99, 0]));
    tagged.put_slice(&[0, 0, 0, 0]);
    assert_eq!(
        refusal::<messages::MetadataRequest>(9, &tagged),
        "too costly"
    );
}

/// Produce version 9 with one large batch and then partitions without records, each with an
/// unknown tagged field, which is the dearest thing there is per byte.
fn produce_with_records(records: usize, partitions: u32) -> Bytes {
    let mut author = Author {
        version: 9,
        is_flexible: true,
        dice: Dice(1),
        out: BytesMut::new(),
    };
    author.out.put_slice(&[0, 0, 1, 0, 0, 0, 0, 2, 2, b't']);
    author.varint(partitions + 2);
    author.out.put_i32(0);
    author.varint(records as u32 + 1);
    author.out.put_bytes(0, records);
    author.out.put_u8(0);
    (0..partitions).for_each(|_| author.out.put_slice(&[0, 0, 0, 1, 0, 1, 99, 0]));
    author.out.put_slice(&[0, 0]);
    author.out.freeze()
}

#[test]
fn records_are_slices_of_the_request() {
    let body = produce_with_records(1 << 20, 10);
    let request: messages::ProduceRequest = decode(body.clone(), 9).expect("in proportion");
    let records = request.topic_data[0].partition_data[0]
        .records
        .as_ref()
        .expect("not null");
    assert!(
        body.as_ptr_range().contains(&records.as_ptr()),
        "records were copied"
    );
    assert_eq!(records.len(), 1 << 20);
}

#[test]
fn records_grant_no_budget() {
    let body = produce_with_records(16 << 20, 10_000);
    assert_eq!(refusal::<messages::ProduceRequest>(9, &body), "too costly");
}

#[test]
fn decoded_sizes_are_near_the_real_ones() {
    use messages::{
        fetch_request as fetch, metadata_request as metadata, produce_request as produce,
    };
    let element = |shape: &Shape, path: &[&str]| {
        let mut kind = Kind::Struct(shape.fields);
        for name in path {
            let Kind::Struct(fields) = kind else {
                panic!("{name} has no parent")
            };
            kind = fields
                .iter()
                .find(|field| field.name == *name)
                .expect("in the layout")
                .kind;
        }
        kind.decoded_size() as f64
    };
    for (real, estimate) in [
        (
            size_of::<metadata::MetadataRequestTopic>(),
            element(messages::MetadataRequest::SHAPE, &["Topics"]),
        ),
        (
            size_of::<fetch::FetchPartition>(),
            element(messages::FetchRequest::SHAPE, &["Topics", "Partitions"]),
        ),
        (
            size_of::<produce::PartitionProduceData>(),
            element(
                messages::ProduceRequest::SHAPE,
                &["TopicData", "PartitionData"],
            ),
        ),
    ] {
        let ratio = estimate / real as f64;
        assert!((0.75..1.25).contains(&ratio), "{estimate} against {real}");
    }
}

/// The walk takes more elements than bytes for a lie: no element may be empty on the wire.
#[test]
fn no_array_element_is_empty_on_the_wire() {
    fn check_fields(fields: &[Field], version: i16, is_flexible: bool) {
        for field in fields.iter().filter(|field| field.is_in(version)) {
            let Kind::Struct(inner) = field.kind else {
                continue;
            };
            let has_field = inner
                .iter()
                .any(|inner| inner.tag.is_none() && inner.is_in(version));
            assert!(
                is_flexible || has_field,
                "{} in version {version}",
                field.name
            );
            check_fields(inner, version, is_flexible);
        }
    }
    fn check<R: ApiRequest>() {
        for version in R::API.versions() {
            for shape in [R::SHAPE, <R::Response as ApiMessage>::SHAPE] {
                check_fields(shape.fields, version, version >= shape.first_flexible);
            }
        }
    }
    for_each_api!(check());
}

#[test]
fn layouts_are_flexible_when_the_table_says_so() {
    fn check<R: ApiRequest>() {
        for version in R::API.versions() {
            for shape in [R::SHAPE, <R::Response as ApiMessage>::SHAPE] {
                assert_eq!(version >= shape.first_flexible, R::API.is_flexible(version));
            }
        }
        assert!(Api::ALL.contains(&R::API));
    }
    for_each_api!(check());
}
