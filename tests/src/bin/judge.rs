//! Judges what a client of `compat-tests/run-faults` was told, by the rules that the simulation is judged by ([`checker`]).
//!
//! `judge FOLDER [--consumed]` reads the files of one client, a line a row (compat-tests/faults/checker.py says what is in each),
//! prints the anomalies and ends with status 1 if there are any, 2 if a file cannot be read. `--consumed`: its group has read all
//! there is.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use klamm_tests::checker::{Anomaly, Event, Logs, Place, Value, check};

/// Of what was found, so much is printed.
const PRINTED: usize = 20;
/// A client has one producer, one topic, and one group with one member.
const PRODUCER: u32 = 0;
const TOPIC: u16 = 0;
const GROUP: u32 = 0;
const MEMBER: u32 = 0;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let told = match arguments.as_slice() {
        [folder] => judge(Path::new(folder), false),
        [folder, consumed] if consumed == "--consumed" => judge(Path::new(folder), true),
        _ => Err(anyhow::anyhow!("usage: judge FOLDER [--consumed]")),
    };
    match told {
        Ok(found) if found.is_empty() => ExitCode::SUCCESS,
        Ok(found) => {
            for anomaly in found.iter().take(PRINTED) {
                println!("{anomaly}");
            }
            if found.len() > PRINTED {
                println!("{} more", found.len() - PRINTED);
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("judge: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn judge(folder: &Path, consumed: bool) -> Result<Vec<Anomaly>> {
    let logs = logs(folder)?;
    let mut timed = Vec::new();
    rows(folder, "acks", |[at, number, partition, offset]| {
        let event = Event::Acked {
            at: when(at)?,
            place: place(partition)?,
            value: value(number)?,
            offset,
        };
        timed.push((when(at)?, event));
        Ok(())
    })?;
    let reads = deliveries(folder, &logs, consumed, &mut timed)?;
    let mut delivered: BTreeMap<Place, i64> = BTreeMap::new();
    for event in &reads {
        if let Event::Read { place, records, .. } = event {
            let end = records.last().map_or(0, |(last, _)| last + 1);
            let most = delivered.entry(*place).or_default();
            *most = end.max(*most);
        }
    }
    let mut history = commits(folder, &delivered, &mut timed)?;
    timed.sort_by_key(|(at, _)| *at);
    history.extend(timed.into_iter().map(|(_, event)| event));
    history.extend(reads);
    Ok(check(&history, &logs))
}

/// What the log holds, as it was read in the end.
fn logs(folder: &Path) -> Result<Logs> {
    let mut logs = Logs::new();
    rows(folder, "records", |[partition, offset, number, crc]| {
        let log = logs.entry(place(partition)?).or_default();
        log.push((offset, sent(number, crc)));
        Ok(())
    })?;
    Ok(logs)
}

/// What the group's member was given, as reads that each go on where the one before ended; and, among what has a time, where it went
/// on from instead.
fn deliveries(
    folder: &Path,
    logs: &Logs,
    consumed: bool,
    timed: &mut Vec<(u64, Event)>,
) -> Result<Vec<Event>> {
    /// From where, and what came since.
    type Run = (i64, Vec<(i64, Option<Value>)>);
    let mut runs: BTreeMap<Place, Run> = BTreeMap::new();
    let mut reads = Vec::new();
    rows(
        folder,
        "deliveries",
        |[at, number, partition, offset, crc]| {
            let place = place(partition)?;
            let (from, records) = runs.entry(place).or_insert((0, Vec::new()));
            if records.last().is_some_and(|(last, _)| offset <= *last) {
                reads.push(read(place, *from, std::mem::take(records), 0));
                *from = offset;
                let at = when(at)?;
                let group = GROUP;
                let event = Event::Resumed {
                    at,
                    group,
                    place,
                    offset,
                };
                timed.push((at, event));
            }
            records.push((offset, sent(number, crc)));
            Ok(())
        },
    )?;
    if consumed {
        for (place, log) in logs {
            let (from, records) = runs.remove(place).unwrap_or_default();
            let end = log.last().map_or(0, |(last, _)| last + 1);
            reads.push(read(*place, from, records, end));
        }
    }
    let rest = runs.into_iter();
    reads.extend(rest.map(|(place, (from, records))| read(place, from, records, 0)));
    Ok(reads)
}

/// A read that went as far as its records do, and as far as `end`.
fn read(place: Place, from: i64, records: Vec<(i64, Option<Value>)>, end: i64) -> Event {
    let next = records.last().map_or(from, |(last, _)| last + 1);
    Event::Read {
        asked: 0,
        at: 0,
        reader: MEMBER,
        place,
        from,
        records,
        next: next.max(end),
        // The group's member is told none.
        high_watermark: i64::MAX,
    }
}

/// What was asked for, before all; among what has a time, what was acknowledged and what was told. `delivered` says of each place up
/// to where.
fn commits(
    folder: &Path,
    delivered: &BTreeMap<Place, i64>,
    timed: &mut Vec<(u64, Event)>,
) -> Result<Vec<Event>> {
    let mut asked = Vec::new();
    let mut told: BTreeSet<(Place, i64)> = BTreeSet::new();
    rows(
        folder,
        "commits",
        |[at, partition, offset, acknowledged]| {
            let (at, group, place) = (when(at)?, GROUP, place(partition)?);
            told.insert((place, offset));
            // Only when it was answered is known.
            asked.push(Event::Committing {
                at: 0,
                group,
                place,
                offset,
            });
            if acknowledged == 1 {
                let event = Event::Committed {
                    at,
                    group,
                    place,
                    offset,
                };
                timed.push((at, event));
            }
            Ok(())
        },
    )?;
    rows(folder, "fetched", |[at, partition, offset]| {
        let (at, group, place) = (when(at)?, GROUP, place(partition)?);
        // A client does not tell of each commit that it makes by itself, of which it hears nothing when its session ends. It commits
        // what was delivered.
        let own = (0..=delivered.get(&place).copied().unwrap_or(0)).contains(&offset);
        let event = match own && !told.contains(&(place, offset)) {
            true => Event::Resumed {
                at,
                group,
                place,
                offset,
            },
            false => Event::Fetched {
                asked: at,
                at,
                group,
                place,
                offset,
            },
        };
        timed.push((at, event));
        Ok(())
    })?;
    Ok(asked)
}

/// Hands over the rows of a file. A torn last line is left out: its client may have been killed.
fn rows<const N: usize>(
    folder: &Path,
    name: &str,
    mut row: impl FnMut([i64; N]) -> Result<()>,
) -> Result<()> {
    let path = folder.join(name);
    let file = match std::fs::File::open(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => bail!("there is no {name}"),
        file => file.with_context(|| path.display().to_string())?,
    };
    let mut lines = BufReader::new(file);
    let mut line = String::new();
    for number in 1.. {
        line.clear();
        lines.read_line(&mut line)?;
        if !line.ends_with('\n') {
            return Ok(());
        }
        let columns: Result<Vec<i64>, _> = line.split_whitespace().map(str::parse).collect();
        let columns = columns.ok().and_then(|columns| columns.try_into().ok());
        let columns = columns.with_context(|| format!("{name}, line {number}: {line}"))?;
        row(columns).with_context(|| format!("{name}, line {number}"))?;
    }
    Ok(())
}

fn when(at: i64) -> Result<u64> {
    u64::try_from(at).context("a time before 1970")
}

fn place(partition: i64) -> Result<Place> {
    Ok((TOPIC, i32::try_from(partition).context("no partition")?))
}

fn value(number: i64) -> Result<Value> {
    Ok((PRODUCER, u64::try_from(number).context("no number")?))
}

/// The value that was sent under this number, if key and value have the checksum of that.
fn sent(number: i64, crc: i64) -> Option<Value> {
    let value = value(number).ok()?;
    (i64::from(checksum(value.1)) == crc).then_some(value)
}

/// CRC-32 of key and value of the record with this number.
fn checksum(number: u64) -> u32 {
    let filling = format!("{:08x}", number.wrapping_mul(2_654_435_761) as u32);
    let mut crc = flate2::Crc::new();
    crc.update(format!("k{}{number} {}", number % 96, filling.repeat(11)).as_bytes());
    crc.sum()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// Rows of the files of a client: 40 records in turn in two partitions, all delivered, every tenth committed.
    struct Files(BTreeMap<&'static str, Vec<Vec<i64>>>);

    impl Files {
        fn good() -> Files {
            let mut files = BTreeMap::new();
            for name in ["acks", "deliveries", "commits", "fetched", "records"] {
                files.insert(name, Vec::new());
            }
            let mut files = Files(files);
            for number in 0..40_i64 {
                let (partition, offset, at) = (number % 2, number / 2, 1_000 + number);
                let crc = i64::from(checksum(number.unsigned_abs()));
                files.add("acks", &[at, number, partition, offset]);
                files.add("deliveries", &[at, number, partition, offset, crc]);
                files.add("records", &[partition, offset, number, crc]);
                if number % 10 == 9 {
                    files.add("commits", &[at, partition, offset + 1, 1]);
                    files.add("fetched", &[at + 1, partition, offset + 1]);
                }
            }
            files
        }

        fn add(&mut self, name: &'static str, row: &[i64]) {
            self.0.get_mut(name).unwrap().push(row.to_vec());
        }

        fn rows(&mut self, name: &str) -> &mut Vec<Vec<i64>> {
            self.0.get_mut(name).unwrap()
        }

        fn judged(&self) -> Vec<&'static str> {
            let folder = tempfile::tempdir().unwrap();
            for (name, rows) in &self.0 {
                let words = |row: &Vec<i64>| {
                    let words: Vec<String> = row.iter().map(i64::to_string).collect();
                    words.join(" ") + "\n"
                };
                let text: String = rows.iter().map(words).collect();
                std::fs::write(folder.path().join(name), text + "12 3").unwrap();
            }
            let found = judge(folder.path(), true).unwrap();
            found.iter().map(|anomaly| anomaly.name).collect()
        }
    }

    #[test]
    fn what_is_whole_has_no_anomaly() {
        assert_eq!(Files::good().judged(), [""; 0]);
    }

    #[test]
    fn what_was_acknowledged_and_is_gone_is_found() {
        let mut files = Files::good();
        files.rows("records").pop();
        files.rows("deliveries").pop();
        assert_eq!(files.judged(), ["lost-write"]);
    }

    #[test]
    fn what_is_there_twice_or_altered_is_found() {
        let mut files = Files::good();
        let mut again = files.rows("records")[0].clone();
        again[1] = 20;
        files.rows("records").push(again.clone());
        again.insert(0, 2_000);
        let [at, partition, offset, number, crc] = again[..] else {
            panic!("five columns")
        };
        files
            .rows("deliveries")
            .push(vec![at, number, partition, offset, crc]);
        assert!(files.judged().contains(&"duplicate"));
        let mut files = Files::good();
        files.rows("deliveries")[7][4] += 1;
        assert_eq!(files.judged(), ["altered"]);
    }

    #[test]
    fn what_the_group_never_got_is_found() {
        for missing in [0, 8, 39] {
            let mut files = Files::good();
            files.rows("deliveries").remove(missing);
            assert_eq!(files.judged(), ["poll-skip"], "{missing}");
        }
    }

    #[test]
    fn a_group_behind_its_commits_is_found() {
        for stale in [5, 7] {
            let mut files = Files::good();
            files.add("fetched", &[1_030, 1, stale]);
            assert_eq!(files.judged(), ["stale-commit"], "{stale}");
        }
        for (told, found) in [(18, vec![]), (21, vec!["invented-commit"])] {
            let mut files = Files::good();
            files.rows("commits").pop();
            files.rows("fetched").pop();
            files.add("fetched", &[1_050, 1, told]);
            assert_eq!(files.judged(), found, "{told}");
        }
        for (committed, found) in [(15, vec![]), (20, vec!["stale-commit"])] {
            let mut files = Files::good();
            files.rows("commits").retain(|row| row[2] <= committed);
            files.rows("fetched").retain(|row| row[2] <= committed);
            // The group goes on from 15 once more.
            for mut row in files.rows("deliveries").clone() {
                row[0] += 1_000;
                if row[2] == 1 && row[3] >= 15 {
                    files.add("deliveries", &row);
                }
            }
            assert_eq!(files.judged(), found);
        }
    }

    #[test]
    fn a_row_that_is_none_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(judge(folder.path(), true).is_err());
        for name in ["acks", "deliveries", "commits", "fetched", "records"] {
            std::fs::write(folder.path().join(name), "1 2 x\n").unwrap();
        }
        let error = judge(folder.path(), true).unwrap_err();
        assert!(format!("{error:#}").contains("records, line 1"));
    }
}
