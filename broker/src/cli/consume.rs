//! `klamm consume`: the records of a topic on stdout, without a consumer group.

mod start;

use std::collections::BTreeMap;
use std::io::{self, Write};

use clap::{Args, ValueEnum};
use klamm_client::{
    Client, Error, Fetched, Message, OffsetSpec, Reader, ReaderOptions, TopicPartition,
    is_offset_out_of_range,
};

use super::error::UserError;
use super::output::{Cluster, accept_closed_pipe, json_record};
use super::time;

use start::{Bounds, Start};

/// Arguments of `consume`.
#[derive(Args, Clone, Debug)]
pub(super) struct ConsumeArgs {
    /// Topic to read
    topic: String,
    /// Where to begin: beginning, end, an offset, -N for the last N of each partition, or a time
    /// as -2h, @2026-11-20T10:00:00Z or @MILLISECONDS [default: end; with --exit: beginning]
    #[arg(long, value_name = "WHERE", allow_hyphen_values = true)]
    from: Option<Start>,
    /// Stop at the end that the topic has now, instead of waiting for more
    #[arg(short, long)]
    exit: bool,
    /// Stop after so many records
    #[arg(short = 'n', long, value_name = "N")]
    count: Option<u64>,
    /// Read only this partition; may be repeated
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    partition: Vec<i32>,
    /// How to print records
    #[arg(short, long, value_enum, default_value_t)]
    output: Form,
    #[command(flatten)]
    cluster: Cluster,
}

/// How a record is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Form {
    /// The value, byte for byte, and a newline; null values as "null"
    #[default]
    Value,
    /// Partition, offset, time, key and value, separated by tabs, one line each
    Text,
    /// One JSON object per line, which `klamm produce --input json` reads back without loss
    Json,
}

/// Prints records until told to stop: by `--exit`, `--count`, Ctrl-C, or whoever reads stdout.
///
/// # Errors
/// That no broker answers, the topic does not exist, or a record cannot be had.
pub(super) async fn run(args: ConsumeArgs) -> Result<(), UserError> {
    let what = format!("topic {} was not read", args.topic);
    let client = args.cluster.connect(&what).await?;
    let failed = |error: &Error| UserError::from_client(&what, Some(&args.topic), error);
    let partitions = partitions(&client, &args).await?;
    let bounds = bounds(&client, partitions)
        .await
        .map_err(|error| failed(&error))?;
    let start = args.from.unwrap_or(if args.exit {
        Start::Beginning
    } else {
        Start::End
    });
    let positions = start
        .resolve(&client, &bounds)
        .await
        .map_err(|error| failed(&error))?;
    for (at, position) in &positions {
        check_position(at, *position, bounds.get(at).copied(), &what)?;
    }
    let mut reader = Reader::new(client.clone(), ReaderOptions::default());
    let mut left = BTreeMap::new();
    for (at, position) in positions {
        let end = bounds.get(&at).map_or(position, |bounds| bounds.end);
        if args.exit {
            if position >= end {
                continue;
            }
            left.insert(at.clone(), end);
        }
        reader.assign(at, position);
    }
    let session = Session {
        client,
        reader,
        left,
        exit: args.exit,
        remaining: args.count.unwrap_or(u64::MAX),
        form: args.output,
    };
    tokio::select! {
        biased;
        _ = tokio::signal::ctrl_c() => Ok(()),
        done = session.run() => match done {
            Ok(()) => Ok(()),
            Err(Stop::Client(error)) => Err(failed(&error)),
            Err(Stop::Output(error)) => Err(error),
        },
    }
}

/// The partitions to read.
async fn partitions(client: &Client, args: &ConsumeArgs) -> Result<Vec<TopicPartition>, UserError> {
    let what = format!("topic {} was not read", args.topic);
    let topic = client.topic(&args.topic).await;
    let topic = topic.map_err(|error| UserError::from_client(&what, Some(&args.topic), &error))?;
    let missing = args
        .partition
        .iter()
        .find(|&&index| topic.partition(index).is_none());
    if let Some(missing) = missing {
        let cause = format!(
            "it has no partition {missing}, only {}",
            topic.partitions.len()
        );
        return Err(UserError::failed(
            what,
            cause,
            format!("klamm topic describe {}", args.topic),
        ));
    }
    let indices = topic.partitions.iter().map(|partition| partition.index);
    let wanted =
        indices.filter(|index| args.partition.is_empty() || args.partition.contains(index));
    Ok(wanted
        .map(|partition| TopicPartition {
            topic: args.topic.clone(),
            partition,
        })
        .collect())
}

async fn bounds(
    client: &Client,
    partitions: Vec<TopicPartition>,
) -> Result<BTreeMap<TopicPartition, Bounds>, Error> {
    let list = async |spec: OffsetSpec| {
        let wanted: Vec<_> = partitions.iter().map(|at| (at.clone(), spec)).collect();
        client.list_offsets(&wanted).await
    };
    let starts = list(OffsetSpec::Earliest).await?;
    let ends = list(OffsetSpec::Latest).await?;
    let bounds = starts.iter().zip(&ends).map(|(start, end)| {
        let end = end.offset.unwrap_or_default();
        Bounds {
            start: start.offset.unwrap_or(end),
            end,
        }
    });
    Ok(partitions.iter().cloned().zip(bounds).collect())
}

fn check_position(
    at: &TopicPartition,
    position: i64,
    bounds: Option<Bounds>,
    what: &str,
) -> Result<(), UserError> {
    match bounds {
        Some(Bounds { start, end }) if !(start..=end).contains(&position) => {
            let partition = at.partition;
            let cause = match start == end {
                true => format!("partition {partition} is empty, its next offset is {end}"),
                false => format!(
                    "partition {partition} has offsets {start} to {}, not {position}",
                    end - 1
                ),
            };
            Err(UserError::failed(
                what,
                cause,
                "--from beginning, or -p for a partition that has the offset",
            ))
        }
        _ => Ok(()),
    }
}

/// Why reading ends early.
enum Stop {
    Client(Error),
    Output(UserError),
}

struct Session {
    client: Client,
    reader: Reader,
    /// Where to stop in the partitions that are not done.
    left: BTreeMap<TopicPartition, i64>,
    exit: bool,
    remaining: u64,
    form: Form,
}

impl Session {
    async fn run(mut self) -> Result<(), Stop> {
        let mut out = Vec::new();
        while self.remaining > 0 && !(self.exit && self.left.is_empty()) {
            let fetched = match self.reader.poll().await {
                Ok(fetched) => fetched,
                Err(error) if is_offset_out_of_range(&error) => {
                    self.skip_deleted(error).await.map_err(Stop::Client)?;
                    continue;
                }
                Err(error) => return Err(Stop::Client(error)),
            };
            out.clear();
            for one in fetched {
                self.print(one, &mut out);
            }
            let mut stdout = io::stdout().lock();
            let written = stdout.write_all(&out).and_then(|()| stdout.flush());
            if !accept_closed_pipe(written).map_err(Stop::Output)? {
                return Ok(());
            }
        }
        Ok(())
    }

    fn print(&mut self, fetched: Fetched, out: &mut Vec<u8>) {
        let end = match self.left.get(&fetched.at) {
            Some(end) => *end,
            None if self.exit => return,
            None => i64::MAX,
        };
        for message in fetched
            .messages
            .iter()
            .filter(|message| message.offset < end)
        {
            if self.remaining == 0 {
                return;
            }
            self.remaining -= 1;
            write_message(self.form, &fetched.at, message, out);
        }
        if fetched.next_offset >= end {
            self.left.remove(&fetched.at);
            self.reader.unassign(&fetched.at);
        }
    }

    /// Goes on behind records that were deleted before they could be read, and says so. An offset
    /// that is out of range for any other reason stays an error.
    async fn skip_deleted(&mut self, error: Error) -> Result<(), Error> {
        let positions = self.reader.positions().clone();
        let bounds = bounds(&self.client, positions.keys().cloned().collect()).await?;
        let mut skipped = false;
        for (at, position) in positions {
            let start = bounds.get(&at).map_or(position, |bounds| bounds.start);
            if position < start {
                eprintln!(
                    "note: offsets {position} to {} of partition {} were deleted before they were read",
                    start - 1,
                    at.partition
                );
                self.reader.assign(at, start);
                skipped = true;
            }
        }
        if skipped { Ok(()) } else { Err(error) }
    }
}

fn write_message(form: Form, at: &TopicPartition, message: &Message, out: &mut Vec<u8>) {
    match form {
        Form::Value => {
            out.extend_from_slice(message.value.as_deref().unwrap_or(b"null"));
            out.push(b'\n');
        }
        Form::Json => json_record::write_line(out, &at.topic, at.partition, message),
        Form::Text => {
            let time = match message.timestamp {
                ..0 => "-".to_owned(),
                timestamp => time::rfc3339(timestamp),
            };
            let cell = |bytes: &Option<bytes::Bytes>| {
                bytes.as_deref().map_or("null".to_owned(), printable)
            };
            let (key, value) = (cell(&message.key), cell(&message.value));
            let line = format!(
                "{}\t{}\t{time}\t{key}\t{value}\n",
                at.partition, message.offset
            );
            out.extend_from_slice(line.as_bytes());
        }
    }
}

/// Bytes as text that stays within its line and column: what is not printable is escaped.
fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for letter in chunk.valid().chars() {
            match letter.is_control() || letter == '\\' {
                true => text.extend(letter.escape_default()),
                false => text.push(letter),
            }
        }
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    text
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn printed(form: Form) -> String {
        let at = TopicPartition {
            topic: "t".to_owned(),
            partition: 2,
        };
        let message = Message {
            offset: 7,
            timestamp: 0,
            key: Some(Bytes::from_static(b"a\tb\xff")),
            value: None,
            headers: Vec::new(),
        };
        let mut out = Vec::new();
        write_message(form, &at, &message, &mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn prints_one_line_per_record() {
        assert_eq!(printed(Form::Value), "null\n");
        assert_eq!(
            printed(Form::Text),
            "2\t7\t1970-01-01T00:00:00.000Z\ta\\tb\\xff\tnull\n"
        );
        assert_eq!(
            printed(Form::Json),
            "{\"topic\":\"t\",\"partition\":2,\"offset\":7,\"timestamp\":0,\"key\":{\"base64\":\"YQli/w==\"},\
             \"value\":null,\"headers\":[]}\n"
        );
    }

    #[test]
    fn an_offset_outside_the_partition_is_told_at_once() {
        let at = TopicPartition {
            topic: "t".to_owned(),
            partition: 0,
        };
        let bounds = Some(Bounds { start: 5, end: 10 });
        assert!(check_position(&at, 5, bounds, "w").is_ok());
        assert!(
            check_position(&at, 10, bounds, "w").is_ok(),
            "the end can be waited at"
        );
        for outside in [4, 11] {
            let error = check_position(&at, outside, bounds, "w").map_err(|error| error.cause);
            assert_eq!(
                error,
                Err(format!("partition 0 has offsets 5 to 9, not {outside}"))
            );
        }
    }
}
