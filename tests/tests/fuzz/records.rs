//! Record batches: the gate of the produce path, and every codec.

use bytes::Bytes;
use klamm_records::{
    BATCH_HEADER_LEN, BATCH_LENGTH_OVERHEAD, BatchBuilder, BatchHeader, Codec, CompressionType,
    NewRecord, RecordSet, TimestampType, ValidationRules, batch_crc_ok, compress, decompress,
    split_batches, validate,
};

use crate::Input;

/// Decompressed bytes that are allowed.
const BUDGET: usize = 256 << 10;

fn rules(choice: u8) -> ValidationRules {
    ValidationRules {
        max_message_bytes: 64 << 10,
        segment_bytes: 1 << 20,
        compacted: choice & 1 == 1,
        timestamp_type: if choice & 2 == 0 {
            TimestampType::CreateTime
        } else {
            TimestampType::LogAppendTime
        },
        before_max_ms: i64::MAX,
        after_max_ms: i64::MAX,
        target: if choice & 4 == 0 {
            CompressionType::Producer
        } else {
            let codec = Codec::ALL[usize::from(choice >> 3) % Codec::ALL.len()];
            CompressionType::Codec { codec, level: None }
        },
        decompress_budget: BUDGET,
        produce_version: 13,
        allow_control: false,
        allow_transactional: false,
    }
}

fn seed(codec: Codec) -> Vec<u8> {
    let mut builder = BatchBuilder::new()
        .compression(codec, None)
        .producer(7, 0, 3);
    for number in 0..5_u8 {
        let record = NewRecord {
            timestamp: 1_700_000_000_000 + i64::from(number),
            key: Some(&[number]),
            value: Some(b"the same again and again"),
            ..NewRecord::default()
        };
        builder.push(&record).expect("small");
    }
    builder.build().expect("not empty").to_vec()
}

/// Length and CRC made right again, so that what was changed is what is found.
fn reseal(batch: &mut [u8]) {
    if batch.len() < BATCH_HEADER_LEN {
        return;
    }
    let length = i32::try_from(batch.len() - BATCH_LENGTH_OVERHEAD).expect("small");
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
}

/// A Produce field: the bytes themselves, or changes to a good batch, before or after compression.
pub(crate) fn batches(input: &[u8]) {
    let mut input = Input(input);
    let (kind, choice) = (input.byte(), input.byte());
    let codec = Codec::ALL[usize::from(kind >> 2) % Codec::ALL.len()];
    let mut batch = match kind % 4 {
        0 => input.rest().to_vec(),
        1 => {
            let mut batch = seed(codec);
            input.damage(&mut batch);
            batch
        }
        // Changed records inside an intact stream of the codec.
        2 => {
            let plain = seed(Codec::None);
            let mut records = plain[BATCH_HEADER_LEN..].to_vec();
            input.damage(&mut records);
            let packed = compress(codec, None, &records).expect("compresses");
            let mut batch = [&seed(codec)[..BATCH_HEADER_LEN], &packed].concat();
            reseal(&mut batch);
            batch
        }
        _ => {
            let mut batch = seed(codec);
            let mut records = batch.split_off(BATCH_HEADER_LEN);
            input.damage(&mut records);
            batch.extend_from_slice(&records);
            reseal(&mut batch);
            batch
        }
    };
    if kind & 0x80 != 0 {
        reseal(&mut batch);
    }
    let batch = Bytes::from(batch);
    for found in split_batches(&batch) {
        let Ok((header, bytes)) = found else { break };
        batch_crc_ok(&bytes);
        if let Ok(set) = RecordSet::open(&bytes, &header, BUDGET) {
            assert!(set.bytes().len() <= BUDGET.max(bytes.len()));
            for record in &set {
                let Ok(record) = record else { break };
                record.headers.count();
            }
        }
    }
    if let Ok(valid) = validate(batch, &rules(choice), 1_700_000_000_000) {
        // What may be stored can be read, whole, by everybody.
        assert_eq!(
            BatchHeader::parse(&valid.bytes).as_ref(),
            Some(&valid.header)
        );
        assert!(batch_crc_ok(&valid.bytes));
        let set = RecordSet::open(&valid.bytes, &valid.header, BUDGET).expect("opens");
        // As in Kafka, times before 1970 count as none.
        let mut largest = -1;
        let mut count = 0;
        for record in &set {
            let record = record.expect("every record reads");
            largest = largest.max(record.timestamp(&valid.header));
            count += 1;
        }
        assert_eq!(count, valid.header.record_count);
        assert_eq!(largest, valid.header.max_timestamp);
    }
}

/// A stream of one codec: the bytes themselves, or changes to a good one.
pub(crate) fn codecs(input: &[u8]) {
    let mut input = Input(input);
    let kind = input.byte();
    let codec = Codec::ALL[usize::from(kind >> 1) % Codec::ALL.len()];
    let stream = if kind % 2 == 0 {
        input.rest().to_vec()
    } else {
        let size = input.word();
        let content: Vec<u8> = (0..size).map(|at| (at / 7) as u8).collect();
        let mut stream = compress(codec, None, &content).expect("compresses");
        if input.is_empty() {
            let whole = decompress(codec, &stream, BUDGET).expect("its own stream");
            assert_eq!(whole, content);
        }
        input.damage(&mut stream);
        stream
    };
    if let Ok(content) = decompress(codec, &stream, BUDGET) {
        assert!(content.len() <= BUDGET);
    }
}

pub(crate) fn batch_seeds() -> Vec<(String, Vec<u8>)> {
    let mut seeds = Vec::new();
    for (number, codec) in (0..).zip(Codec::ALL) {
        seeds.push((
            format!("whole-{codec}"),
            [&[0, 0][..], &seed(codec)].concat(),
        ));
        for kind in 1..4_u8 {
            let input = vec![kind | number << 2, 0, 4, 0, 5, 3];
            seeds.push((format!("changed-{codec}-{kind}"), input));
        }
    }
    // 2^31-1 records in 61 bytes: made kafka-protocol 0.18 abort.
    let mut bare = seed(Codec::None);
    bare.truncate(BATCH_HEADER_LEN);
    bare[23..27].copy_from_slice(&(i32::MAX - 1).to_be_bytes());
    bare[57..61].copy_from_slice(&i32::MAX.to_be_bytes());
    reseal(&mut bare);
    seeds.push((
        "two-billion-records".to_owned(),
        [&[0, 0][..], &bare].concat(),
    ));
    seeds
}

pub(crate) fn codec_seeds() -> Vec<(String, Vec<u8>)> {
    let mut seeds = Vec::new();
    for (number, codec) in (0..5_u8).zip(Codec::ALL) {
        let bomb = compress(codec, None, &vec![0; 4 << 20]).expect("compresses");
        if bomb.len() < 64 << 10 {
            seeds.push((
                format!("bomb-{codec}"),
                [&[number << 1][..], &bomb].concat(),
            ));
        }
        seeds.push((format!("good-{codec}"), vec![number << 1 | 1, 4, 0]));
        seeds.push((
            format!("cut-{codec}"),
            vec![number << 1 | 1, 4, 0, 2, 0, 20],
        ));
    }
    // Snappy that claims 4 GiB; a zstd window of 2 GiB; lz4 of 2^63 bytes.
    seeds.push((
        "snappy-4-gib".to_owned(),
        vec![4, 0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0],
    ));
    seeds.push((
        "zstd-window".to_owned(),
        vec![8, 0x28, 0xb5, 0x2f, 0xfd, 0, 21 << 3, 1, 0, 0],
    ));
    let lz4 = [
        &[6, 0x04, 0x22, 0x4d, 0x18, 0x68, 0x40][..],
        &(1_u64 << 63).to_le_bytes(),
        &[0; 5],
    ]
    .concat();
    seeds.push(("lz4-2-63".to_owned(), lz4));
    seeds
}
