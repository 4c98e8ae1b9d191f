//! `klamm node drain`, `undrain` and `remove`: a node gives its replicas to others before it is taken away or repaired, and
//! gets new ones again afterwards, or is forgotten.
//!
//! Kafka's protocol only: a dynamic setting of the broker says that it is to be drained, the cluster does the rest, and
//! Metadata shows how far that is.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use klamm_client::{Client, ConfigChange, ConfigResource, Error};
use klamm_metadata::DRAINING;
use klamm_protocol::ErrorCode;
use klamm_protocol::messages::{BrokerId, UnregisterBrokerRequest, UnregisterBrokerResponse};
use serde::Serialize;

use super::error::UserError;
use super::output::{self, Cluster, Format};

const LOOK: Duration = Duration::from_millis(300);
/// Nothing is being moved for so long: what is left stays.
const PATIENCE: Duration = Duration::from_secs(6);
/// Something is, and does not arrive: it is left to itself.
const LONG_PATIENCE: Duration = Duration::from_secs(300);

/// What to do with a node of the cluster.
#[derive(Subcommand)]
pub(super) enum NodeCommand {
    /// Move all replicas off a node, and keep new ones away from it.
    Drain(DrainArgs),
    /// Let a node have new replicas again. What has moved does not move back by itself.
    Undrain(UndrainArgs),
    /// Move all replicas off a node, and forget it. A node that is lost is forgotten with what it had: the other
    /// replicas have it, and a node that comes under the same id with an empty disk gets it from them.
    Remove(RemoveArgs),
}

/// Arguments of `klamm node drain`.
#[derive(Args, Clone, Debug)]
pub(super) struct DrainArgs {
    /// Id of the node, as `klamm cluster status` shows it
    node: i32,
    /// Begin, and do not wait until the node is empty
    #[arg(long)]
    no_wait: bool,
    /// How to print the result
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    cluster: Cluster,
}

/// Arguments of `klamm node undrain`.
#[derive(Args, Clone, Debug)]
pub(super) struct UndrainArgs {
    /// Id of the node, as `klamm cluster status` shows it
    node: i32,
    #[command(flatten)]
    cluster: Cluster,
}

/// Arguments of `klamm node remove`.
#[derive(Args, Clone, Debug)]
pub(super) struct RemoveArgs {
    /// Id of the node, as `klamm cluster status` shows it
    node: i32,
    /// Its disk is lost, or never comes back: leave its replicas to the other ones
    #[arg(long)]
    lost: bool,
    /// How to print the result
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    cluster: Cluster,
}

/// How far a node is drained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct DrainJson {
    node: i32,
    /// Replicas it had at the beginning.
    replicas: usize,
    /// Replicas it still has.
    left: usize,
}

/// Runs `klamm node`.
///
/// # Errors
/// That the cluster does not know the node, no broker answers, or not all replicas can move.
pub(super) async fn run(command: NodeCommand) -> Result<(), UserError> {
    match command {
        NodeCommand::Drain(args) => drain(args).await,
        NodeCommand::Undrain(args) => undrain(args).await,
        NodeCommand::Remove(args) => remove(args).await,
    }
}

async fn drain(args: DrainArgs) -> Result<(), UserError> {
    let what = format!("node {} was not drained", args.node);
    let failed = |error: Error| UserError::from_client(&*what, None, &error);
    let client = args.cluster.connect(&what).await?;
    check_known(&client, args.node, &what).await?;
    let begun = begin(&client, args.node).await.map_err(failed)?;
    let drained = match args.no_wait {
        true => begun,
        false => until_empty(&client, begun, &what).await?,
    };
    print(&drained, args.output)
}

async fn begin(client: &Client, node: i32) -> Result<DrainJson, Error> {
    let replicas = replicas(client, node).await?;
    set_draining(client, node, true).await?;
    Ok(DrainJson {
        node,
        replicas,
        left: replicas,
    })
}

async fn remove(args: RemoveArgs) -> Result<(), UserError> {
    let RemoveArgs {
        node, lost, output, ..
    } = args;
    let what = format!("node {node} was not removed");
    let failed = |error: Error| UserError::from_client(&*what, None, &error);
    let client = args.cluster.connect(&what).await?;
    check_known(&client, node, &what).await?;
    let mut left = 0;
    if lost {
        left = replicas(&client, node).await.map_err(failed)?;
    } else {
        let begun = begin(&client, node).await.map_err(failed)?;
        until_empty(&client, begun, &what).await?;
    }
    let request = UnregisterBrokerRequest::default().with_broker_id(BrokerId(node));
    let connection = client.any().await.map_err(failed)?;
    let answer: UnregisterBrokerResponse = connection.send(&request).await.map_err(failed)?;
    let code = ErrorCode(answer.error_code);
    if code != ErrorCode::NONE {
        let cause = answer.error_message.map(|text| text.to_string());
        let cause = cause.unwrap_or_else(|| code.name().to_owned());
        return Err(UserError::failed(what, cause, "klamm cluster status"));
    }
    let removed = RemovedJson {
        node,
        replicas_left: left,
    };
    match output {
        Format::Json => output::print_json(&removed),
        Format::Table if left == 0 => output::print(&format!("node {node} is removed\n")),
        Format::Table => output::print(&format!(
            "node {node} is removed; it had {left} replicas: start node {node} with an empty directory to have them again, or move them with kafka-reassign-partitions\n"
        )),
    }
}

/// A node that the cluster has forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct RemovedJson {
    node: i32,
    /// Replicas that have to come from elsewhere.
    replicas_left: usize,
}

/// Waits until a node that is drained has no replicas, and shows how far that is.
async fn until_empty(
    client: &Client,
    begun: DrainJson,
    what: &str,
) -> Result<DrainJson, UserError> {
    let failed = |error: Error| UserError::from_client(what, None, &error);
    let mut drained = begun;
    let mut progress = Progress::new(begun.node);
    let (mut moved_at, mut moving_at) = (Instant::now(), Instant::now());
    while drained.left > 0 {
        progress.show(&drained);
        tokio::time::sleep(LOOK).await;
        let left = replicas(client, begun.node).await.map_err(failed)?;
        if left != drained.left {
            moved_at = Instant::now();
        }
        if left != drained.left || !client.reassignments().await.map_err(failed)?.is_empty() {
            moving_at = Instant::now();
        }
        drained.left = left;
        if moving_at.elapsed() >= PATIENCE || moved_at.elapsed() >= LONG_PATIENCE {
            progress.end();
            return Err(stays(
                what.to_owned(),
                &drained,
                moving_at.elapsed() >= PATIENCE,
            ));
        }
    }
    progress.end();
    Ok(drained)
}

/// Why not all replicas have moved.
fn stays(what: String, drained: &DrainJson, nothing_moves: bool) -> UserError {
    let DrainJson {
        node,
        replicas,
        left,
    } = drained;
    match nothing_moves {
        true => UserError::failed(
            what,
            format!(
                "{left} of {replicas} replicas stay: every other node that is up has a replica of their partitions already"
            ),
            format!("add a node; or klamm node undrain {node}, to let it have new replicas again"),
        ),
        false => UserError::failed(
            what,
            format!(
                "{left} of {replicas} replicas have not arrived elsewhere for {} minutes; a partition moves only while a majority of its replicas is up",
                LONG_PATIENCE.as_secs() / 60
            ),
            "klamm cluster status, for partitions without a leader; the moves go on meanwhile",
        ),
    }
}

async fn undrain(args: UndrainArgs) -> Result<(), UserError> {
    let what = format!("node {} may not have been given back", args.node);
    let client = args.cluster.connect(&what).await?;
    check_known(&client, args.node, &what).await?;
    set_draining(&client, args.node, false)
        .await
        .map_err(|error| UserError::from_client(what, None, &error))?;
    eprintln!("node {} gets new replicas again", args.node);
    Ok(())
}

async fn check_known(client: &Client, node: i32, what: &str) -> Result<(), UserError> {
    let cluster = client.describe_cluster().await;
    let cluster = cluster.map_err(|error| UserError::from_client(what, None, &error))?;
    let all = cluster.nodes.iter().chain(&cluster.fenced);
    let ids: Vec<String> = all.clone().map(|known| known.id.to_string()).collect();
    if all.clone().any(|known| known.id == node) {
        return Ok(());
    }
    Err(UserError::failed(
        what,
        format!("the cluster has nodes {}", ids.join(", ")),
        "klamm cluster status",
    ))
}

async fn set_draining(client: &Client, node: i32, draining: bool) -> Result<(), Error> {
    let change = match draining {
        true => ConfigChange::Set(DRAINING.to_owned(), "true".to_owned()),
        false => ConfigChange::Unset(DRAINING.to_owned()),
    };
    let broker = ConfigResource::Broker(Some(node));
    client.alter_configs(&broker, &[change]).await
}

/// Partitions of which the node has a replica.
async fn replicas(client: &Client, node: i32) -> Result<usize, Error> {
    let known = client.refresh_all_topics().await?;
    let partitions = known.topics.values().flat_map(|topic| &topic.partitions);
    let here = partitions.filter(|partition| partition.replicas.contains(&node));
    Ok(here.count())
}

fn print(drained: &DrainJson, format: Format) -> Result<(), UserError> {
    match format {
        Format::Json => output::print_json(drained),
        Format::Table => output::print(&format!(
            "node {}: {} of {} replicas left\n",
            drained.node, drained.left, drained.replicas
        )),
    }
}

/// Talk about how far it is: a line that is written over on a terminal, else a line for each change.
struct Progress {
    node: i32,
    terminal: bool,
    told: Option<usize>,
}

impl Progress {
    fn new(node: i32) -> Progress {
        Progress {
            node,
            terminal: std::io::stderr().is_terminal(),
            told: None,
        }
    }

    fn show(&mut self, drained: &DrainJson) {
        if self.told.replace(drained.left) == Some(drained.left) {
            return;
        }
        let DrainJson { replicas, left, .. } = *drained;
        let line = format!("node {}: {left} of {replicas} replicas left", self.node);
        if !self.terminal {
            eprintln!("{line}");
            return;
        }
        const WIDTH: usize = 30;
        let done = (replicas - left.min(replicas)) * WIDTH / replicas.max(1);
        let bar = format!("{}{}", "#".repeat(done), ".".repeat(WIDTH - done));
        eprint!("\r\x1b[K[{bar}] {line}");
        // Talk that nobody can be told is not worth ending for.
        let _ = std::io::stderr().flush();
    }

    fn end(&self) {
        if self.terminal && self.told.is_some() {
            eprintln!();
        }
    }
}
