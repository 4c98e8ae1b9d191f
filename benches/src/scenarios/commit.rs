//! Synchronous commits: every consumer has a connection of its own and one commit outstanding.

use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};
use klamm_protocol::messages::OffsetCommitRequest;
use klamm_protocol::{decode_response, encode_request};

use crate::exchange::{self, Asker, Exchange};
use crate::measure::{Latencies, Measured, Unit};
use crate::member::{Group, Member, join_all};
use crate::peer::{Home, Kind, Peer};
use crate::setup::{self, OFFSET_COMMIT};

/// Who commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum As {
    /// Consumers without membership (generation -1), each to a group of its own.
    Simple,
    /// The members of one group, each for the partition assigned to it.
    Members,
}

/// Arguments of `commit`.
#[derive(Args, Clone, Debug)]
pub struct Commit {
    /// Consumers, each on a connection of its own
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    consumers: u16,
    /// Seconds that are measured
    #[arg(long, default_value_t = 15)]
    seconds: u64,
    /// Seconds of the same load before that
    #[arg(long, default_value_t = 5)]
    warm_up: u64,
    /// Who commits
    #[arg(long = "as", value_enum, default_value = "simple")]
    committers: As,
}

/// One consumer and what it commits, but for the offset.
struct Committer {
    connection: Exchange,
    request: OffsetCommitRequest,
}

impl Commit {
    pub(super) fn summary(&self) -> String {
        let who = match self.committers {
            As::Simple => "simple consumers, each with a group of its own,",
            As::Members => "members of one group",
        };
        format!(
            "{} {who} commit synchronously for {} s after {} s of warm-up",
            self.consumers, self.seconds, self.warm_up
        )
    }

    /// The null broker takes commits of everybody, and has no groups to join.
    pub(super) fn suits(&self, kind: Kind) -> bool {
        kind != Kind::Null || self.committers == As::Simple
    }

    pub(super) async fn run(&self, home: &Home) -> Result<Vec<Measured>> {
        let peer = home.start().await?;
        let consumers = usize::from(self.consumers);
        setup::create_topic(&peer.address(), i32::from(self.consumers)).await?;
        let requests = match self.committers {
            As::Simple => simple(&peer.address(), consumers).await?,
            As::Members => members(&peer.address(), consumers).await?,
        };
        let (mut latencies, usage) = exchange::on_one_thread(self.load(&peer, requests))?;
        let rate = latencies.count() as f64 / self.seconds as f64;
        let mut measured = vec![
            Measured::new("commits_per_second", Unit::PerSecond, rate),
            Measured::milliseconds("commit_p50", latencies.percentile(0.5)),
            Measured::milliseconds("commit_p99", latencies.percentile(0.99)),
            Measured::milliseconds("commit_max", latencies.percentile(1.0)),
        ];
        measured.extend(usage);
        peer.stop().await?;
        Ok(measured)
    }

    async fn load(
        &self,
        peer: &Peer<'_>,
        requests: Vec<OffsetCommitRequest>,
    ) -> Result<(Latencies, Vec<Measured>)> {
        let mut committers = Vec::with_capacity(requests.len());
        for request in requests {
            committers.push(Committer {
                connection: Exchange::connect(&peer.address()).await?,
                request,
            });
        }
        exchange::measure(committers, self.warm_up, self.seconds, peer).await
    }
}

async fn simple(address: &str, consumers: usize) -> Result<Vec<OffsetCommitRequest>> {
    let groups: Vec<_> = (0..consumers).map(setup::group_id).collect();
    if let Some(one) = setup::connect(address, 1).await?.first() {
        setup::coordinator_serves(one, &groups).await?;
    }
    let pairs = groups.iter().zip(0..);
    let requests =
        pairs.map(|(group, partition)| setup::commit_request(group, std::iter::once(partition), 0));
    Ok(requests.collect())
}

/// They stay members when the connections on which they joined are closed.
async fn members(address: &str, consumers: usize) -> Result<Vec<OffsetCommitRequest>> {
    let connections = setup::connect(address, consumers).await?;
    let group = Group {
        id: setup::group_id(0),
        topic: setup::TOPIC,
        partitions: i32::try_from(consumers)?,
        session_timeout: Duration::from_secs(45),
    };
    if let Some(first) = connections.first() {
        setup::coordinator_serves(first, std::slice::from_ref(&group.id)).await?;
    }
    let members = connections
        .into_iter()
        .map(|connection| Member::new(connection, group.clone()));
    let members = join_all(members.collect()).await?;
    let requests = members.iter().map(|member| {
        let assigned = member.partitions.iter().copied();
        setup::commit_request(&member.group.id, assigned, 0)
            .with_generation_id_or_member_epoch(member.generation)
            .with_member_id(member.id.clone())
    });
    Ok(requests.collect())
}

impl Asker for Committer {
    /// Commits offsets one higher than before.
    async fn ask(&mut self, number: i32) -> Result<()> {
        let partitions = self.request.topics.iter_mut();
        for partition in partitions.flat_map(|topic| &mut topic.partitions) {
            partition.committed_offset += 1;
        }
        let frame = encode_request(OFFSET_COMMIT, number, Some("klamm-bench"), &self.request)?;
        let answer = self.connection.ask(&frame).await?;
        setup::committed(&decode_response::<OffsetCommitRequest>(
            answer,
            OFFSET_COMMIT,
        )?)
    }
}
