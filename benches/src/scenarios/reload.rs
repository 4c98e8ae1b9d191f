//! The coordinator reads its offsets back after kill -9.
//!
//! A run starts the broker three times over one folder: empty, to create topic and groups; again
//! after kill -9, to know what a restart costs with next to nothing committed; and after kill -9
//! with everything committed. Each restart is split at the moment the broker says `ready`. At the
//! end every offset is compared with what was committed last: a run that lost one fails.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use klamm_client::Connection;
use klamm_protocol::ErrorCode;
use klamm_protocol::messages::GroupId;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::measure::{Measured, Unit, Usage};
use crate::peer::{Home, Peer};
use crate::setup::{self, OFFSET_COMMIT, OFFSET_FETCH};

/// Connections that commit.
const CONNECTIONS: usize = 8;
/// Commits outstanding on each.
const IN_FLIGHT: usize = 16;

/// Arguments of `reload`.
#[derive(Args, Clone, Debug)]
pub struct Reload {
    /// Groups that commit
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..))]
    groups: u16,
    /// Partitions that each commits: groups times partitions is the number of keys
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    partitions: u16,
    /// Offsets committed in all (rounded up to the same number for every key)
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    commits: u64,
}

/// A restart until all groups answer.
struct Restart {
    /// Process start to `ready`.
    start: Duration,
    /// `ready` to the answer of the last group.
    load: Duration,
    usage: Usage,
}

impl Reload {
    fn keys(&self) -> u64 {
        u64::from(self.groups) * u64::from(self.partitions)
    }

    /// How often each key is committed; also the last offset.
    fn turns(&self) -> i64 {
        i64::try_from(self.commits.div_ceil(self.keys())).unwrap_or(i64::MAX)
    }

    pub(super) fn summary(&self) -> String {
        format!(
            "kill -9 after {} commits of {} keys ({} groups x {} partitions), then restart",
            self.commits.div_ceil(self.keys()) * self.keys(),
            self.keys(),
            self.groups,
            self.partitions
        )
    }

    pub(super) async fn run(&self, home: &Home) -> Result<Vec<Measured>> {
        let groups: Vec<_> = (0..usize::from(self.groups)).map(setup::group_id).collect();
        let peer = home.start().await?;
        setup::create_topic(&peer.address(), i32::from(self.partitions)).await?;
        let connections = setup::connect(&peer.address(), 1).await?;
        let connection = connections.first().context("one connection")?;
        setup::coordinator_serves(connection, &groups).await?;
        for group in &groups {
            let commit = setup::commit_request(group, 0..1, 0);
            setup::committed(&connection.send_version(OFFSET_COMMIT, &commit).await?)?;
        }
        peer.kill()?;

        let (peer, empty) = restart(home, &groups).await?;
        let began = Instant::now();
        self.commit_all(&peer.address(), &groups).await?;
        let committing = began.elapsed();
        peer.kill()?;

        let (peer, full) = restart(home, &groups).await?;
        self.verify(&peer.address(), &groups).await?;
        let rate = (self.keys() as f64 * self.turns() as f64) / committing.as_secs_f64();
        let restarted = (full.start + full.load).as_secs_f64();
        let over_empty = restarted - (empty.start + empty.load).as_secs_f64();
        let mut measured = vec![
            Measured::seconds("load_seconds", full.load),
            Measured::seconds("start_seconds", full.start),
            Measured::new("restart_seconds", Unit::Seconds, restarted),
            Measured::seconds("empty_load_seconds", empty.load),
            Measured::seconds("empty_start_seconds", empty.start),
            Measured::new("restart_over_empty_seconds", Unit::Seconds, over_empty),
            Measured::new("offsets_committed_per_second", Unit::PerSecond, rate),
        ];
        measured.extend(full.usage.since(&Usage::default()));
        peer.stop().await?;
        Ok(measured)
    }

    /// Every group commits all partitions, in every turn; a group's commits keep their order.
    async fn commit_all(&self, address: &str, groups: &[GroupId]) -> Result<()> {
        let mut tasks = JoinSet::new();
        let connections = setup::connect(address, CONNECTIONS).await?;
        for (index, connection) in connections.into_iter().enumerate() {
            let own = groups.iter().skip(index).step_by(CONNECTIONS);
            let own: Vec<GroupId> = own.cloned().collect();
            tasks.spawn(commit_turns(connection, own, self.partitions, self.turns()));
        }
        while let Some(one) = tasks.join_next().await {
            one??;
        }
        Ok(())
    }

    /// That the last commit of every key is there.
    async fn verify(&self, address: &str, groups: &[GroupId]) -> Result<()> {
        let connections = setup::connect(address, 1).await?;
        let connection = connections.first().context("one connection")?;
        for group in groups {
            let partitions = 0..i32::from(self.partitions);
            let fetch = setup::fetch_request(group, partitions.collect());
            let answer = connection.send_version(OFFSET_FETCH, &fetch).await?;
            let answer = answer.groups.first().context("no group in the answer")?;
            let found = answer.topics.iter().flat_map(|topic| &topic.partitions);
            let kept = found
                .filter(|one| ErrorCode(one.error_code) == ErrorCode::NONE)
                .filter(|one| one.committed_offset == self.turns());
            ensure!(
                kept.count() == usize::from(self.partitions),
                "commits of {} are lost: {answer:?}",
                group.as_str()
            );
        }
        Ok(())
    }
}

async fn commit_turns(
    connection: Connection,
    groups: Vec<GroupId>,
    partitions: u16,
    turns: i64,
) -> Result<()> {
    let mut outstanding = VecDeque::with_capacity(IN_FLIGHT);
    for offset in 1..=turns {
        for group in &groups {
            if outstanding.len() == IN_FLIGHT
                && let Some(oldest) = outstanding.pop_front()
            {
                settle(oldest).await?;
            }
            let commit = setup::commit_request(group, 0..i32::from(partitions), offset);
            outstanding.push_back(connection.start(OFFSET_COMMIT, &commit).await?);
        }
    }
    for reply in outstanding {
        settle(reply).await?;
    }
    Ok(())
}

async fn settle(
    reply: klamm_client::Reply<klamm_protocol::messages::OffsetCommitRequest>,
) -> Result<()> {
    setup::committed(&reply.wait().await?)
}

async fn restart<'home>(home: &'home Home, groups: &[GroupId]) -> Result<(Peer<'home>, Restart)> {
    let peer = home.start().await?;
    let ready = Instant::now();
    let connections = setup::connect(&peer.address(), 1).await?;
    let connection = connections.first().context("one connection")?;
    setup::offsets_served(connection, groups).await?;
    let restart = Restart {
        start: peer.ready_in,
        load: ready.elapsed(),
        usage: peer.usage()?,
    };
    Ok((peer, restart))
}
