//! `klamm produce`: records from stdin, one per line, as lines or as JSON.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, IsTerminal};
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, ValueEnum};
use klamm_client::{
    Acknowledged, Acks, Codec, Delivery, Error, Header, NewMessage, Producer, ProducerOptions,
};
use tokio::sync::mpsc;

use super::error::UserError;
use super::output::{Cluster, json_record};
use super::topic::key_value;

/// Runs of lines read ahead of what is being sent.
const READ_AHEAD: usize = 16;
/// Bytes read from stdin at once.
const READ_LEN: usize = 64 * 1024;
/// Failed records reported one by one; the rest is counted.
const MAX_REPORTED: u64 = 20;

/// Arguments of `produce`.
#[derive(Args, Clone, Debug)]
pub(super) struct ProduceArgs {
    /// Topic to write to
    topic: String,
    /// How stdin is read
    #[arg(long, value_enum, default_value_t)]
    input: Input,
    /// Key and value of a line are separated by this; a line without it has no key
    #[arg(long, value_name = "TEXT", conflicts_with = "key")]
    key_separator: Option<String>,
    /// Key of every record that brings none
    #[arg(short, long)]
    key: Option<String>,
    /// Header added to every record; may be repeated
    #[arg(short = 'H', long = "header", value_name = "KEY=VALUE", value_parser = key_value)]
    headers: Vec<(String, String)>,
    /// Partition to write to [default: by key, or in turn]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    partition: Option<i32>,
    /// Compression
    #[arg(short = 'z', long, value_enum, default_value_t)]
    compression: Compression,
    /// Who has to have a record before it counts as written
    #[arg(long, value_enum, default_value_t)]
    acks: AcksArg,
    #[command(flatten)]
    cluster: Cluster,
}

/// How stdin is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Input {
    /// Every line is a value, byte for byte
    #[default]
    Lines,
    /// Every line is a record as `klamm consume -o json` writes it; only "value" is needed
    Json,
}

/// Compression by its Kafka name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Compression {
    /// As it is
    #[default]
    None,
    /// Small and slow
    Gzip,
    /// Fast
    Snappy,
    /// Fast
    Lz4,
    /// Small and fast
    Zstd,
}

/// Acknowledgements by their Kafka name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum AcksArg {
    /// Nobody
    #[value(name = "0")]
    None,
    /// The leader
    #[value(name = "1")]
    Leader,
    /// All replicas in sync
    #[default]
    #[value(name = "all", alias = "-1")]
    All,
}

impl ProduceArgs {
    fn options(&self) -> ProducerOptions {
        let acks = match self.acks {
            AcksArg::None => Acks::None,
            AcksArg::Leader => Acks::Leader,
            AcksArg::All => Acks::All,
        };
        let codec = match self.compression {
            Compression::None => Codec::None,
            Compression::Gzip => Codec::Gzip,
            Compression::Snappy => Codec::Snappy,
            Compression::Lz4 => Codec::Lz4,
            Compression::Zstd => Codec::Zstd,
        };
        ProducerOptions {
            acks,
            idempotent: acks == Acks::All,
            codec,
            ..ProducerOptions::default()
        }
    }

    /// The record of a line, and the partition it goes to if that is said.
    fn record(&self, line: Bytes) -> Result<(Option<i32>, NewMessage), String> {
        let (partition, mut message) = match self.input {
            Input::Json => json_record::read_line(&line)?,
            Input::Lines => {
                let (key, value) = self.split_key(line);
                (
                    None,
                    NewMessage {
                        key,
                        value: Some(value),
                        ..NewMessage::default()
                    },
                )
            }
        };
        if message.key.is_none() {
            message.key = self.key.clone().map(Bytes::from);
        }
        message
            .headers
            .extend(self.headers.iter().map(|(key, value)| Header {
                key: Bytes::from(key.clone()),
                value: Some(Bytes::from(value.clone())),
            }));
        Ok((self.partition.or(partition), message))
    }

    fn split_key(&self, line: Bytes) -> (Option<Bytes>, Bytes) {
        let separator = self.key_separator.as_deref().unwrap_or_default().as_bytes();
        if separator.is_empty() {
            return (None, line);
        }
        match line
            .windows(separator.len())
            .position(|window| window == separator)
        {
            Some(at) => (Some(line.slice(..at)), line.slice(at + separator.len()..)),
            None => (None, line),
        }
    }
}

/// Sends stdin to a topic. What was read is sent even when Ctrl-C ends the reading.
///
/// # Errors
/// That no broker answers, or that records were not written; every one of them is reported.
pub(super) async fn run(args: ProduceArgs) -> Result<(), UserError> {
    let what = format!("nothing was written to topic {}", args.topic);
    let client = args
        .cluster
        .connect_with(&what, |options| {
            // As every Kafka producer: whether the topic is made then is the brokers' decision.
            options.allow_auto_topic_creation = true;
            options.unknown_topic_timeout = Duration::from_secs(2);
        })
        .await?;
    // Asked for here, so that a wrong name is told before anything is typed.
    let known = client.topic(&args.topic).await;
    known.map_err(|error| UserError::from_client(&what, Some(&args.topic), &error))?;
    let producer = Producer::new(client, args.options());
    if std::io::stdin().is_terminal() {
        eprintln!("one record per line; Ctrl-D ends");
    }
    let mut lines = read_stdin();
    let mut session = Session {
        args: &args,
        producer: &producer,
        waiting: VecDeque::new(),
        report: Report::default(),
    };
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        // Deliveries are taken as they come, so that failures show at once and memory stays small.
        tokio::select! {
            biased;
            _ = &mut interrupted => break,
            () = session.settle_next(), if !session.waiting.is_empty() => {}
            run = lines.recv() => match run {
                Some(Ok(run)) => session.send(run).await,
                Some(Err(error)) => {
                    session.report.unreadable = Some(error.to_string());
                    break;
                }
                None => break,
            },
        }
    }
    session.finish().await
}

struct Session<'a> {
    args: &'a ProduceArgs,
    producer: &'a Producer,
    /// What was sent and not acknowledged, oldest first, with the line it came from.
    waiting: VecDeque<(u64, usize, Delivery)>,
    report: Report,
}

impl Session<'_> {
    async fn send(&mut self, run: Vec<Bytes>) {
        for line in run {
            self.report.lines += 1;
            let number = self.report.lines;
            if self.args.input == Input::Json && line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let (partition, message) = match self.args.record(line) {
                Ok(record) => record,
                Err(cause) => {
                    self.report.failed(number, &cause);
                    continue;
                }
            };
            let size = message.key.as_ref().map_or(0, Bytes::len)
                + message.value.as_ref().map_or(0, Bytes::len);
            match self
                .producer
                .send(&self.args.topic, partition, message)
                .await
            {
                Ok(delivery) => self.waiting.push_back((number, size, delivery)),
                Err(error) => self.report.lost(number, error),
            }
        }
    }

    /// Waits for the fate of the oldest record. Dropping the future loses nothing.
    async fn settle_next(&mut self) {
        let Some((number, size, delivery)) = self.waiting.front_mut() else {
            return;
        };
        let (number, size) = (*number, *size);
        let fate = delivery.await;
        self.waiting.pop_front();
        match fate {
            Ok(acknowledged) => self.report.written(size, acknowledged),
            Err(error) => self.report.lost(number, error),
        }
    }

    async fn finish(mut self) -> Result<(), UserError> {
        let rest = async {
            // An error means that the runtime ends, and then every delivery says so too.
            drop(self.producer.flush().await);
            while !self.waiting.is_empty() {
                self.settle_next().await;
            }
        };
        tokio::select! {
            biased;
            () = rest => self.report.end(&self.args.topic),
            // Whoever insists does not want to wait for brokers that are away.
            _ = tokio::signal::ctrl_c() => Err(UserError::failed(
                format!("the last records to topic {} may be lost", self.args.topic),
                "interrupted while waiting for acknowledgements",
                "waiting longer",
            )),
        }
    }
}

#[derive(Default)]
struct Report {
    lines: u64,
    records: u64,
    bytes: usize,
    failures: u64,
    last_error: Option<Error>,
    unreadable: Option<String>,
    /// First and last offset by partition; -1 where the broker did not say.
    offsets: BTreeMap<i32, (i64, i64)>,
}

impl Report {
    fn written(&mut self, size: usize, acknowledged: Acknowledged) {
        self.records += 1;
        self.bytes += size;
        let Acknowledged {
            partition, offset, ..
        } = acknowledged;
        if offset >= 0 {
            let (first, last) = self.offsets.entry(partition).or_insert((offset, offset));
            *first = (*first).min(offset);
            *last = (*last).max(offset);
        }
    }

    fn failed(&mut self, line: u64, cause: &str) {
        self.failures += 1;
        if self.failures <= MAX_REPORTED {
            eprintln!("line {line} was not written: {cause}");
        }
    }

    fn lost(&mut self, line: u64, error: Error) {
        self.failed(line, &error.to_string());
        self.last_error = Some(error);
    }

    fn summary(&self) -> String {
        let plural = |count: u64| if count == 1 { "" } else { "s" };
        let (records, bytes) = (self.records, self.bytes as u64);
        let mut text = format!(
            "{records} record{}, {bytes} byte{}",
            plural(records),
            plural(bytes)
        );
        let ranges = self
            .offsets
            .iter()
            .map(|(partition, (first, last))| match first == last {
                true => format!("{partition}:{first}"),
                false => format!("{partition}:{first}-{last}"),
            });
        let ranges: Vec<String> = ranges.collect();
        if !ranges.is_empty() {
            text.push_str(&format!(", offsets {}", ranges.join(" ")));
        }
        text
    }

    fn end(self, topic: &str) -> Result<(), UserError> {
        eprintln!("{}", self.summary());
        if let Some(cause) = self.unreadable {
            return Err(UserError::failed(
                "stdin was not read to its end",
                cause,
                "another input",
            ));
        }
        if self.failures == 0 {
            return Ok(());
        }
        let what = format!(
            "{} of {} lines were not written to topic {topic}",
            self.failures, self.lines
        );
        Err(match &self.last_error {
            Some(error) => UserError::from_client(what, Some(topic), error),
            None => UserError::failed(
                what,
                "they are not records in the form that --input says",
                r#"--input lines, or lines such as {"key":"k","value":"v"}"#,
            ),
        })
    }
}

/// Reads stdin on a thread of its own, which nobody waits for: a read cannot be interrupted, and
/// the command must be able to end while one is pending.
fn read_stdin() -> mpsc::Receiver<std::io::Result<Vec<Bytes>>> {
    let (runs, receiver) = mpsc::channel(READ_AHEAD);
    std::thread::spawn(move || {
        let mut stdin = std::io::BufReader::with_capacity(READ_LEN, std::io::stdin());
        let mut rest = Vec::new();
        loop {
            let read = read_run(&mut stdin, &mut rest);
            let ends = !matches!(read, Ok(Some(_)));
            if let Some(run) = read.transpose()
                && runs.blocking_send(run).is_err()
            {
                return;
            }
            if ends {
                return;
            }
        }
    });
    receiver
}

/// The lines that can be had with one read, without their newlines; `rest` keeps the beginning of
/// the line that is not complete yet. `None` at the end.
fn read_run(input: &mut impl BufRead, rest: &mut Vec<u8>) -> std::io::Result<Option<Vec<Bytes>>> {
    let chunk = match input.fill_buf() {
        Ok(chunk) => chunk,
        Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {
            return Ok(Some(Vec::new()));
        }
        Err(error) => return Err(error),
    };
    let len = chunk.len();
    if len == 0 {
        // A last line need not end in a newline.
        let last = std::mem::take(rest);
        return Ok((!last.is_empty()).then(|| vec![Bytes::from(last)]));
    }
    let Some(end) = chunk.iter().rposition(|&byte| byte == b'\n') else {
        rest.extend_from_slice(chunk);
        input.consume(len);
        return Ok(Some(Vec::new()));
    };
    let (complete, begun) = chunk.split_at(end);
    rest.extend_from_slice(complete);
    let complete = Bytes::from(std::mem::take(rest));
    rest.extend_from_slice(begun.get(1..).unwrap_or_default());
    input.consume(len);
    Ok(Some(
        complete
            .split(|&byte| byte == b'\n')
            .map(|line| complete.slice_ref(line))
            .collect(),
    ))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: ProduceArgs,
    }

    fn parse(args: &[&str]) -> ProduceArgs {
        Cli::try_parse_from([&["produce", "t"], args].concat())
            .map(|cli| cli.args)
            .unwrap()
    }

    fn lines(input: &[u8], capacity: usize) -> Vec<Bytes> {
        let mut input = std::io::BufReader::with_capacity(capacity, input);
        let mut rest = Vec::new();
        let mut lines = Vec::new();
        while let Some(run) = read_run(&mut input, &mut rest).unwrap() {
            lines.extend(run);
        }
        lines
    }

    #[test]
    fn lines_do_not_depend_on_how_they_are_read() {
        let input = b"one\n\ntwo\r\n\xff\xfe\nlast";
        let expected: [&[u8]; 5] = [b"one", b"", b"two\r", b"\xff\xfe", b"last"];
        for capacity in 1..=input.len() + 1 {
            assert_eq!(lines(input, capacity), expected, "capacity {capacity}");
        }
        assert_eq!(lines(b"one\n", 64), [&b"one"[..]]);
        assert!(lines(b"", 64).is_empty());
    }

    #[test]
    fn splits_the_key_off_at_the_first_separator() {
        let args = parse(&["--key-separator", "::"]);
        let (_, message) = args.record(Bytes::from_static(b"k::v::w")).unwrap();
        assert_eq!(
            (message.key, message.value),
            (Some("k".into()), Some("v::w".into()))
        );
        let (_, message) = args.record(Bytes::from_static(b"v")).unwrap();
        assert_eq!((message.key, message.value), (None, Some("v".into())));
    }

    #[test]
    fn the_command_line_fills_in_what_a_record_lacks() {
        let args = parse(&["--input", "json", "-k", "k", "-H", "a=1", "-p", "2"]);
        let (partition, message) = args
            .record(Bytes::from_static(
                br#"{"value":null,"partition":7,"headers":[{"key":"h","value":""}]}"#,
            ))
            .unwrap();
        assert_eq!(
            (partition, message.key, message.value),
            (Some(2), Some("k".into()), None)
        );
        let keys: Vec<&Bytes> = message.headers.iter().map(|header| &header.key).collect();
        assert_eq!(keys, ["h", "a"]);
    }

    #[test]
    fn sums_up() {
        let mut report = Report::default();
        for offset in [5, 6, 7] {
            report.written(
                10,
                Acknowledged {
                    partition: 0,
                    offset,
                    timestamp: 0,
                },
            );
        }
        report.written(
            1,
            Acknowledged {
                partition: 3,
                offset: 1,
                timestamp: 0,
            },
        );
        assert_eq!(report.summary(), "4 records, 31 bytes, offsets 0:5-7 3:1");
    }

    #[test]
    fn fewer_acks_turn_idempotence_off() {
        assert!(parse(&[]).options().idempotent);
        assert!(!parse(&["--acks", "1"]).options().idempotent);
    }
}
