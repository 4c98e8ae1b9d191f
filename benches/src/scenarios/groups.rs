//! Many idle groups: members join, then only send heartbeats, multiplexed over a few connections.
//!
//! A heartbeat's time counts from when it was due, not from when it could be sent: a broker that
//! holds up the load does not hide it. A member whose heartbeat is refused has lost its session.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use klamm_client::{Connection, Reply};
use klamm_protocol::messages::HeartbeatRequest;
use klamm_protocol::{ErrorCode, StrBytes};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::measure::{Latencies, Measured, Unit};
use crate::member::{Group, Member, join_all};
use crate::peer::Home;
use crate::setup;

/// Arguments of `groups`.
#[derive(Args, Clone, Debug)]
pub struct Groups {
    /// Groups
    #[arg(long, default_value_t = 5_000)]
    groups: usize,
    /// Members of each
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    members: u16,
    /// Connections that carry the heartbeats
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    connections: u16,
    /// Groups that join at the same time, each with a connection per member
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    joining: u16,
    /// Seconds between two heartbeats of a member
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    interval: u64,
    /// Seconds after which a silent member is out
    #[arg(long, default_value_t = 45)]
    session: u64,
    /// Seconds that are measured, once all groups are there
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

/// What the heartbeats are for now.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Groups still join.
    Forming,
    /// All are there.
    Measured,
    /// No more heartbeats.
    Over,
}

/// A heartbeat sent.
struct Sent {
    member: StrBytes,
    due: Instant,
    reply: Reply<HeartbeatRequest>,
}

/// What came back over one connection.
#[derive(Default)]
struct Beats {
    latencies: Latencies,
    refused: HashSet<StrBytes>,
}

impl Groups {
    pub(super) fn summary(&self) -> String {
        format!(
            "{} groups x {} members, heartbeats every {} s over {} connections for {} s",
            self.groups, self.members, self.interval, self.connections, self.seconds
        )
    }

    pub(super) async fn run(&self, home: &Home) -> Result<Vec<Measured>> {
        let peer = home.start().await?;
        let address = peer.address();
        setup::create_topic(&address, i32::from(self.members)).await?;
        let connections = setup::connect(&address, usize::from(self.connections)).await?;
        let first = connections.first().context("one connection")?;
        // Enough ids to find every partition of the offsets topic.
        let some: Vec<_> = (0..self.groups.min(500)).map(setup::group_id).collect();
        setup::coordinator_serves(first, &some).await?;

        let (phase, phases) = watch::channel(Phase::Forming);
        let mut beating = JoinSet::new();
        let mut members = Vec::new();
        for connection in connections {
            let (hand_over, joined) = mpsc::unbounded_channel();
            members.push(hand_over);
            let interval = Duration::from_secs(self.interval);
            beating.spawn(beat(connection, joined, interval, phases.clone()));
        }
        let began = Instant::now();
        self.form(&address, &members).await?;
        let formed = began.elapsed();
        // Until the first heartbeats of the last groups have settled in.
        sleep(Duration::from_secs(self.interval)).await;

        let before = peer.usage()?;
        phase.send_replace(Phase::Measured);
        sleep(Duration::from_secs(self.seconds)).await;
        let after = peer.usage()?;
        phase.send_replace(Phase::Over);
        let mut all = Beats::default();
        while let Some(one) = beating.join_next().await {
            let one = one??;
            all.latencies.merge(one.latencies);
            all.refused.extend(one.refused);
        }
        let rate = all.latencies.count() as f64 / self.seconds.max(1) as f64;
        let mut measured = vec![
            Measured::new("missed_sessions", Unit::Count, all.refused.len() as f64),
            Measured::seconds("all_joined_seconds", formed),
            Measured::new("heartbeats_per_second", Unit::PerSecond, rate),
            Measured::milliseconds("heartbeat_p50", all.latencies.percentile(0.5)),
            Measured::milliseconds("heartbeat_p99", all.latencies.percentile(0.99)),
            Measured::milliseconds("heartbeat_max", all.latencies.percentile(1.0)),
        ];
        measured.extend(after.since(&before));
        peer.stop().await?;
        Ok(measured)
    }

    /// Joins all groups, and hands each member over to one of `members` for its heartbeats.
    async fn form(&self, address: &str, members: &[mpsc::UnboundedSender<Member>]) -> Result<()> {
        let next = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        for _ in 0..self.joining {
            let connections = setup::connect(address, usize::from(self.members)).await?;
            let (plan, next, members) = (self.clone(), Arc::clone(&next), members.to_vec());
            tasks.spawn(async move {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= plan.groups {
                        return anyhow::Ok(());
                    }
                    let joined = join_all(plan.members_of(index, &connections)).await?;
                    for (member, number) in joined.into_iter().zip(index..) {
                        if let Some(beats) = members.get(number % members.len()) {
                            beats.send(member).ok().context("heartbeats have ended")?;
                        }
                    }
                }
            });
        }
        while let Some(one) = tasks.join_next().await {
            one??;
        }
        Ok(())
    }

    fn members_of(&self, index: usize, connections: &[Connection]) -> Vec<Member> {
        let group = Group {
            id: setup::group_id(index),
            topic: setup::TOPIC,
            partitions: i32::from(self.members),
            session_timeout: Duration::from_secs(self.session),
        };
        let members = connections
            .iter()
            .map(|connection| Member::new(connection.clone(), group.clone()));
        members.collect()
    }
}

/// Sends the heartbeats of one connection's members. As all have the same interval, the queue is
/// in order of time when each goes to its end after its heartbeat.
async fn beat(
    connection: Connection,
    mut joined: mpsc::UnboundedReceiver<Member>,
    interval: Duration,
    mut phases: watch::Receiver<Phase>,
) -> Result<Beats> {
    let version = connection.version_of::<HeartbeatRequest>()?;
    let (sent, answers) = mpsc::unbounded_channel();
    let receiving = tokio::spawn(receive(answers, phases.clone()));
    let mut queue: VecDeque<(Instant, Member)> = VecDeque::new();
    let mut forming = true;
    while *phases.borrow_and_update() != Phase::Over {
        let due = queue.front().map(|(due, _)| *due);
        tokio::select! {
            _ = phases.changed() => continue,
            member = joined.recv(), if forming => {
                match member {
                    Some(member) => queue.push_back((Instant::now() + interval, member)),
                    None => forming = false,
                }
                continue;
            }
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
        }
        let Some((due, member)) = queue.pop_front() else {
            continue;
        };
        let reply = connection.start(version, &member.heartbeat()).await?;
        let waiting = Sent {
            member: member.id.clone(),
            due,
            reply,
        };
        if sent.send(waiting).is_err() {
            break;
        }
        queue.push_back((due + interval, member));
    }
    drop(sent);
    receiving.await?
}

async fn receive(
    mut answers: mpsc::UnboundedReceiver<Sent>,
    phases: watch::Receiver<Phase>,
) -> Result<Beats> {
    let mut beats = Beats::default();
    while let Some(sent) = answers.recv().await {
        let answer = sent.reply.wait().await?;
        if ErrorCode(answer.error_code) != ErrorCode::NONE {
            beats.refused.insert(sent.member);
        } else if *phases.borrow() == Phase::Measured {
            beats.latencies.record(sent.due.elapsed());
        }
    }
    Ok(beats)
}
