//! `klamm cluster`: setting up a cluster, and how it stands.

mod status;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};

use super::error::UserError;
use super::output;
use crate::cluster::shape::join;

/// What to do with a cluster.
#[derive(Subcommand)]
pub(super) enum ClusterCommand {
    /// Print the configuration of each node of a new cluster, with a secret they share.
    Init(InitArgs),
    /// Show the nodes, what they lead, and partitions that are not as they should be.
    Status(status::StatusArgs),
}

/// Arguments of `klamm cluster init`.
#[derive(Args)]
pub(super) struct InitArgs {
    /// The machines, by the names or addresses at which they and the clients reach each other.
    #[arg(long, value_name = "HOST,..", value_delimiter = ',', required = true)]
    nodes: Vec<String>,
    /// Data directory on each machine.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/klamm")]
    data: PathBuf,
    /// Write the files into this directory instead of printing them.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// A node of a cluster that is set up.
pub(super) struct NewNode {
    pub(super) id: i32,
    pub(super) host: String,
    pub(super) kafka: u16,
    pub(super) controller: u16,
    /// `HOST:PORT`.
    pub(super) http: String,
    pub(super) data: PathBuf,
}

/// Runs `klamm cluster`.
pub(super) fn run(command: ClusterCommand) -> Result<(), UserError> {
    match command {
        ClusterCommand::Init(args) => init(&args),
        ClusterCommand::Status(args) => super::client_command(status::run(args)),
    }
}

fn init(args: &InitArgs) -> Result<(), UserError> {
    let hosts: Vec<&str> = args.nodes.iter().map(|host| host.trim()).collect();
    let distinct: BTreeSet<&str> = hosts.iter().copied().collect();
    if hosts.iter().any(|host| host.is_empty()) || distinct.len() != hosts.len() {
        return Err(UserError::usage(
            "no cluster was set up",
            "each node needs a host of its own",
            "klamm cluster init --nodes node1.example,node2.example,node3.example; for several nodes on this machine, klamm dev --nodes 3",
        ));
    }
    let nodes: Vec<NewNode> = (1..)
        .zip(&hosts)
        .map(|(id, host)| NewNode {
            id,
            host: (*host).to_owned(),
            kafka: 9092,
            controller: 9093,
            http: "127.0.0.1:9644".to_owned(),
            data: args.data.clone(),
        })
        .collect();
    let secret = new_secret();
    let files = nodes.iter().map(|node| {
        let name = format!("node-{}.properties", node.id);
        (node, name, properties(node, &nodes, &secret))
    });
    if let Some(out) = &args.out {
        for (_, name, text) in files {
            write_private(&out.join(&name), &text).map_err(|cause| {
                UserError::failed(
                    format!("{name} was not written to {}", out.display()),
                    cause.to_string(),
                    "--out DIR, with a directory that is there and does not hold these files yet",
                )
            })?;
        }
        eprintln!("Copy each file to its host, and on each run: klamm start --config FILE");
        return Ok(());
    }
    let mut text = String::new();
    for (node, name, properties) in files {
        text.push_str(&format!("##### {name}, for {}\n{properties}\n", node.host));
    }
    output::print(&text)
}

/// A secret for the nodes of a cluster.
pub(super) fn new_secret() -> String {
    STANDARD.encode(rand::random::<[u8; 32]>())
}

/// The configuration of `node` in a cluster of `nodes`.
pub(super) fn properties(node: &NewNode, nodes: &[NewNode], secret: &str) -> String {
    let voter = |node: &NewNode| format!("{}@{}", node.id, join(&node.host, node.controller));
    let voters: Vec<String> = nodes.iter().map(voter).collect();
    // A majority is two from three nodes on: with more than three, three replicas are enough.
    let replicas = nodes.len().min(3);
    let in_sync = if replicas == 3 { 2 } else { 1 };
    format!(
        "process.roles=broker,controller\n\
         node.id={id}\n\
         controller.quorum.voters={voters}\n\
         listeners=PLAINTEXT://{kafka},CONTROLLER://{controller}\n\
         controller.listener.names=CONTROLLER\n\
         log.dirs={data}\n\
         default.replication.factor={replicas}\n\
         offsets.topic.replication.factor={replicas}\n\
         min.insync.replicas={in_sync}\n\
         klamm.http.listener={http}\n\
         # All nodes prove to each other that they know it. Keep this file to yourself.\n\
         klamm.cluster.secret={secret}\n",
        id = node.id,
        voters = voters.join(","),
        kafka = join(&node.host, node.kafka),
        controller = join(&node.host, node.controller),
        data = node.data.display(),
        http = node.http,
    )
}

/// Writes a file that holds a secret: only its owner reads it, and none that is there is replaced.
pub(super) fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = std::fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use klamm_metadata::settings::{Settings, parse_properties};

    use super::{NewNode, properties};
    use crate::cluster::shape;

    #[test]
    fn what_is_printed_is_a_cluster() {
        let node = |id: i32| NewNode {
            id,
            host: format!("node{id}.example"),
            kafka: 9092,
            controller: 9093,
            http: "127.0.0.1:9644".to_owned(),
            data: "/data".into(),
        };
        let nodes = [node(1), node(2), node(3)];
        for node in &nodes {
            let text = properties(node, &nodes, "secret");
            let fixed = parse_properties(&text).expect("properties");
            let (settings, notices) = Settings::load(fixed).expect("settings");
            assert!(notices.is_empty(), "{notices:?}");
            let shape = shape::of(&settings).expect("a shape").expect("a cluster");
            assert_eq!(shape.voters, [1, 2, 3].into());
            assert!(shape.secret.is_some());
            assert_eq!(settings.int("min.insync.replicas"), 2);
        }
    }
}
