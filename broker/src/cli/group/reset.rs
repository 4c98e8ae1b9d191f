//! `klamm group reset`: other offsets for a group that has no members. Without `--execute` it only
//! shows what it would do.

mod plan;

use std::collections::BTreeMap;

use clap::Args;
use klamm_client::{
    Client, CommittedOffset, Error, GroupMember, OffsetSpec, OffsetToCommit, TopicPartition,
};
use klamm_protocol::ErrorCode;

use super::members_in_words;
use crate::cli::error::{Failures, UserError};
use crate::cli::output::{self, Cluster, Format};
use crate::cli::time;
use plan::{Move, Place, Plan, Target, Wanted};

/// Arguments of `group reset`.
#[derive(Args, Clone, Debug)]
#[command(group(clap::ArgGroup::new("where").required(true)))]
#[command(group(clap::ArgGroup::new("what").required(true)))]
pub(in crate::cli) struct ResetArgs {
    /// Group whose offsets are set; one that does not exist is made
    #[arg(value_name = "NAME")]
    name: String,
    /// Partitions to set, such as orders or orders:0,3; may be repeated
    #[arg(short, long, value_name = "TOPIC[:N,N]", group = "what")]
    topic: Vec<Wanted>,
    /// Set all partitions that the group has offsets of
    #[arg(long, group = "what")]
    all_topics: bool,
    /// To the oldest record kept
    #[arg(long, group = "where")]
    to_earliest: bool,
    /// To the end: only records to come
    #[arg(long, group = "where")]
    to_latest: bool,
    /// To where it is, brought within what is kept; to the end where nothing is committed
    #[arg(long, group = "where")]
    to_current: bool,
    /// To an offset
    #[arg(long, value_name = "N", group = "where", value_parser = clap::value_parser!(i64).range(0..))]
    to_offset: Option<i64>,
    /// To the first record at or after a time: 2026-11-20T10:00:00Z, ms since 1970, or -2h
    #[arg(long, value_name = "TIME", group = "where", allow_hyphen_values = true, value_parser = moment)]
    to_time: Option<i64>,
    /// By so many records, back if negative
    #[arg(long, value_name = "N", group = "where", allow_hyphen_values = true)]
    shift_by: Option<i64>,
    /// Do it
    #[arg(long)]
    execute: bool,
    /// How to print old and new offsets
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    cluster: Cluster,
}

fn moment(text: &str) -> Result<i64, String> {
    time::parse_moment(text, time::now_ms()).ok_or_else(|| {
        "expected 2026-11-20T10:00:00Z, ms since 1970, or -2h (s, m, h, d)".to_owned()
    })
}

impl ResetArgs {
    fn target(&self) -> Target {
        let numbered = [
            self.to_offset.map(Target::Offset),
            self.to_time.map(Target::Time),
            self.shift_by.map(Target::ShiftBy),
        ];
        let flags = [
            (self.to_earliest, Target::Earliest),
            (self.to_latest, Target::Latest),
        ];
        let flagged = flags
            .into_iter()
            .find_map(|(set, target)| set.then_some(target));
        let chosen = numbered.into_iter().flatten().next().or(flagged);
        chosen.unwrap_or(Target::Current)
    }
}

/// Shows, and with `--execute` sets, the offsets of a group.
///
/// # Errors
/// What failed: the group has members, a partition does not exist, brokers refuse.
pub(super) async fn run(args: ResetArgs) -> Result<(), UserError> {
    let name = args.name.as_str();
    let what = format!("offsets of group {name} were not changed");
    let client = args.cluster.connect(&what).await?;
    let failed = |error: Error| UserError::from_client(&what, Some(name), &error);
    let committed = client.committed_offsets(name, None).await.map_err(failed)?;
    let members = members(&client, name).await.map_err(failed)?;
    let hindrance = members
        .as_deref()
        .and_then(|members| members_in_words(name, members));
    if let (true, Some(members)) = (args.execute, &hindrance) {
        let cause = format!("{members}; what they commit next would undo it");
        let again = "stop them, then the same again";
        return Err(UserError::failed(what, cause, again));
    }
    let places = places(&client, &args, &committed, &what).await?;
    let moves = plan::plan(args.target(), &places)
        .map_err(|cause| UserError::failed(&what, cause, "--to-offset N for these"))?;
    let mut failures = Failures::default();
    let mut plan = Plan {
        group: name.to_owned(),
        executed: args.execute,
        partitions: moves,
    };
    if args.execute {
        plan.partitions = commit(&client, name, plan.partitions, &mut failures).await?;
    }
    match args.output {
        Format::Json => output::print_json(&plan)?,
        Format::Table => output::print(&plan.table())?,
    }
    if args.execute {
        eprintln!("set {} offsets of group {name}", plan.partitions.len());
    } else {
        eprintln!("note: nothing was changed; --execute does it");
        if let Some(members) = hindrance {
            eprintln!("note: {members}; stop them first");
        } else if members.is_none() {
            eprintln!("note: group {name} does not exist; --execute makes it");
        }
    }
    failures.end()
}

/// `None` when there is no such group.
async fn members(client: &Client, group: &str) -> Result<Option<Vec<GroupMember>>, Error> {
    match client.describe_group(group).await {
        Ok(group) => Ok(Some(group.members)),
        Err(error) => match error.server_error() {
            Some(refused) if refused.code == ErrorCode::GROUP_ID_NOT_FOUND => Ok(None),
            _ => Err(error),
        },
    }
}

/// What there is to know of every partition that shall be set.
async fn places(
    client: &Client,
    args: &ResetArgs,
    committed: &BTreeMap<TopicPartition, CommittedOffset>,
    what: &str,
) -> Result<Vec<Place>, UserError> {
    let partitions = match args.all_topics {
        true => existing(client, committed).await,
        false => named(client, &args.topic, what).await?,
    };
    if partitions.is_empty() {
        let cause = format!("group {} has no offsets", args.name);
        return Err(UserError::failed(
            what,
            cause,
            "--topic TOPIC instead of --all-topics",
        ));
    }
    let failed = |error: Error| UserError::from_client(what, None, &error);
    let list = async |spec: OffsetSpec| {
        let wanted: Vec<_> = partitions.iter().map(|at| (at.clone(), spec)).collect();
        client.list_offsets(&wanted).await.map_err(failed)
    };
    let starts = list(OffsetSpec::Earliest).await?;
    let ends = list(OffsetSpec::Latest).await?;
    let at_time = match args.target() {
        Target::Time(time) => list(OffsetSpec::AtOrAfter(time)).await?,
        _ => Vec::new(),
    };
    let bounds = starts.iter().zip(&ends).enumerate();
    let places = partitions
        .iter()
        .zip(bounds)
        .map(|(at, (index, (start, end)))| {
            let end = end.offset.unwrap_or_default();
            Place {
                at: at.clone(),
                committed: committed.get(at).map(|committed| committed.offset),
                start: start.offset.unwrap_or(end),
                end,
                at_time: at_time.get(index).and_then(|found| found.offset),
            }
        });
    Ok(places.collect())
}

/// Partitions with offsets, but for those that are gone, which are told.
async fn existing(
    client: &Client,
    committed: &BTreeMap<TopicPartition, CommittedOffset>,
) -> Vec<TopicPartition> {
    let all: Vec<&TopicPartition> = committed.keys().collect();
    let mut existing = Vec::new();
    for of_topic in all.chunk_by(|one, next| one.topic == next.topic) {
        let Some(name) = of_topic.first().map(|at| &at.topic) else {
            continue;
        };
        match client.refresh_topic(name).await {
            Ok(topic) => {
                let there = of_topic
                    .iter()
                    .filter(|at| topic.partition(at.partition).is_some());
                existing.extend(there.map(|&at| at.clone()));
            }
            Err(error) => eprintln!("note: topic {name} is left out: {error}"),
        }
    }
    existing
}

/// The partitions asked for by name.
async fn named(
    client: &Client,
    wanted: &[Wanted],
    what: &str,
) -> Result<Vec<TopicPartition>, UserError> {
    let mut partitions = Vec::new();
    for one in wanted {
        let topic = client.refresh_topic(&one.topic).await;
        let topic =
            topic.map_err(|error| UserError::from_client(what, Some(&one.topic), &error))?;
        let numbers = topic.partitions.iter().map(|partition| partition.index);
        let chosen = one.choose(&numbers.collect::<Vec<_>>());
        partitions.extend(chosen.map_err(|cause| {
            UserError::failed(what, cause, format!("klamm topic describe {}", one.topic))
        })?);
    }
    partitions.sort();
    partitions.dedup();
    Ok(partitions)
}

/// Commits, and returns what was set.
async fn commit(
    client: &Client,
    group: &str,
    moves: Vec<Move>,
    failures: &mut Failures,
) -> Result<Vec<Move>, UserError> {
    let what = format!("offsets of group {group} were not changed");
    let offsets: Vec<OffsetToCommit> = moves.iter().map(Move::to_commit).collect();
    let results = client.commit_offsets(group, &offsets).await;
    let results = results.map_err(|error| UserError::from_client(&what, Some(group), &error))?;
    let mut done = Vec::with_capacity(moves.len());
    for (one, result) in moves.into_iter().zip(results) {
        match result {
            Ok(()) => done.push(one),
            Err(error) => failures.add(UserError::refused(
                format!("offset of {} was not changed", one.name()),
                Some(group),
                &error,
            )),
        }
    }
    Ok(done)
}
