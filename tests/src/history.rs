//! What producers were told and what a reader finds, and whether the two agree.
//!
//! Anomalies (the names are those of the robustness rules): *inconsistent-offsets* an
//! acknowledged record is not at its offset, *lost-write* it is nowhere, *duplicate* one value at
//! two offsets, *nonmonotonic-send* a producer's records out of order, *altered* wrong bytes.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};

/// A value that names itself: producer, number, and filling that depends on both.
pub fn value(producer: u32, number: u64, size: usize) -> Vec<u8> {
    let mut value = format!("{producer}:{number}:{size}:").into_bytes();
    let mut state = (u64::from(producer) << 40 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while value.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        value.push(state as u8);
    }
    value
}

/// Producer and number of a value, if it is byte for byte what [`value`] made.
pub fn parse(bytes: &[u8]) -> Option<(u32, u64)> {
    let mut parts = bytes.splitn(4, |&byte| byte == b':');
    let mut number = || std::str::from_utf8(parts.next()?).ok()?.parse::<u64>().ok();
    let (producer, count, size) = (number()?, number()?, number()?);
    let producer = u32::try_from(producer).ok()?;
    (value(producer, count, usize::try_from(size).ok()?) == bytes).then_some((producer, count))
}

/// Acknowledgements, by partition.
#[derive(Default)]
pub struct History {
    acknowledged: HashMap<i32, HashMap<i64, (u32, u64)>>,
    count: u64,
}

impl History {
    /// A producer was told that its record is at that offset.
    pub fn acknowledged(
        &mut self,
        partition: i32,
        offset: i64,
        producer: u32,
        number: u64,
    ) -> Result<()> {
        self.count += 1;
        let before = self
            .acknowledged
            .entry(partition)
            .or_default()
            .insert(offset, (producer, number));
        ensure!(
            before.is_none(),
            "inconsistent-offsets: offset {offset} of partition {partition} was given to {before:?} and to {:?}",
            (producer, number)
        );
        Ok(())
    }

    /// Acknowledgements so far.
    pub fn len(&self) -> u64 {
        self.count
    }

    /// Whether nothing was acknowledged.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Judges all records of a partition, in the order they were read.
    pub fn check(&self, partition: i32, records: &[(i64, Vec<u8>)]) -> Result<()> {
        let mut found: HashMap<(u32, u64), i64> = HashMap::new();
        let mut last: HashMap<u32, u64> = HashMap::new();
        for (offset, bytes) in records {
            let at = format!("partition {partition} offset {offset}");
            let (producer, number) = parse(bytes).with_context(|| format!("altered: {at}"))?;
            if let Some(before) = found.insert((producer, number), *offset) {
                anyhow::bail!("duplicate: {at}: {producer}:{number} is at {before} as well");
            }
            if let Some(before) = last.insert(producer, number) {
                ensure!(
                    before < number,
                    "nonmonotonic-send: {at}: {producer}:{number} after {before}"
                );
            }
        }
        for (offset, (producer, number)) in self.acknowledged.get(&partition).into_iter().flatten()
        {
            match found.get(&(*producer, *number)) {
                None => anyhow::bail!(
                    "lost-write: partition {partition} offset {offset}: {producer}:{number}; there is {}",
                    at_offset(records, *offset)
                ),
                Some(at) => ensure!(
                    at == offset,
                    "inconsistent-offsets: partition {partition}: {producer}:{number} acknowledged at {offset}, found at {at}"
                ),
            }
        }
        Ok(())
    }
}

/// What a reader found at an offset, and how much in all.
fn at_offset(records: &[(i64, Vec<u8>)], offset: i64) -> String {
    let near = records.iter().filter(|(at, _)| (at - offset).abs() < 4);
    let near: Vec<String> = near
        .map(|(at, bytes)| match parse(bytes) {
            Some((producer, number)) => format!("{at}={producer}:{number}"),
            None => format!("{at}=?"),
        })
        .collect();
    format!("[{}] of {} records", near.join(" "), records.len())
}

#[cfg(test)]
mod tests {
    use super::{History, parse, value};

    fn check(acknowledged: &[(i64, u64)], records: &[(i64, Vec<u8>)]) -> String {
        let mut history = History::default();
        for &(offset, number) in acknowledged {
            history
                .acknowledged(0, offset, 1, number)
                .expect("distinct");
        }
        history
            .check(0, records)
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    }

    #[test]
    fn values_name_themselves() {
        for size in [0, 10, 100, 5000] {
            assert_eq!(parse(&value(3, 17, size)), Some((3, 17)));
        }
        let mut flipped = value(3, 17, 100);
        flipped[60] ^= 1;
        assert_eq!(parse(&flipped), None);
    }

    #[test]
    fn each_planted_anomaly_is_found_and_none_invented() {
        let at = |offset, number| (offset, value(1, number, 40));
        assert_eq!(
            check(&[(0, 0), (1, 1)], &[at(0, 0), at(1, 1), at(2, 2)]),
            ""
        );
        assert!(check(&[(0, 0), (1, 1)], &[at(0, 0)]).starts_with("lost-write"));
        assert!(check(&[], &[at(0, 0), at(1, 0)]).starts_with("duplicate"));
        assert!(check(&[], &[at(0, 1), at(1, 0)]).starts_with("nonmonotonic-send"));
        assert!(check(&[(5, 0)], &[at(0, 0)]).starts_with("inconsistent-offsets"));
        assert!(check(&[], &[(0, b"1:0:40:oops".to_vec())]).starts_with("altered"));
    }
}
