//! The command line. stdout is data, stderr is talk; every error says what failed, why, and what to try.

mod cluster;
mod config;
mod consume;
mod dev;
mod drain;
mod error;
mod group;
mod node;
mod nodes;
mod output;
mod produce;
mod start;
mod time;
mod topic;

use std::future::Future;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use error::UserError;

/// A broker that speaks Apache Kafka's wire protocol: existing clients use it unchanged.
#[derive(Parser)]
#[command(
    name = "klamm",
    version,
    arg_required_else_help = true,
    disable_help_subcommand = false,
    after_help = "Start with:  klamm dev\nThen, in another terminal:  klamm topic create hello; echo hi | klamm produce hello; klamm consume hello --from beginning --exit\n\nExit codes: 0 done, 1 the operation failed, 2 the command line makes no sense, 69 no broker could be reached."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run one durable node on this machine.
    Dev(dev::DevArgs),
    /// Run one node as its configuration file says, alone or in a cluster.
    Start(start::StartArgs),
    /// Set up a cluster; show how it stands.
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// Empty a node of a cluster, let it have replicas again, or remove it.
    #[command(subcommand)]
    Node(drain::NodeCommand),
    /// Create, list, describe, alter and delete topics.
    #[command(subcommand)]
    Topic(topic::TopicCommand),
    /// List and describe consumer groups, show their lag, reset and delete their offsets.
    #[command(subcommand)]
    Group(group::GroupCommand),
    /// Send records from stdin to a topic.
    Produce(produce::ProduceArgs),
    /// Print records of a topic.
    Consume(consume::ConsumeArgs),
    /// Show the settings there are.
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Print the version.
    Version,
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Dev(args) => dev::run(args),
        Command::Start(args) => start::run(args),
        Command::Cluster(command) => cluster::run(command),
        Command::Node(command) => client_command(drain::run(command)),
        Command::Topic(command) => client_command(topic::run(command)),
        Command::Group(command) => client_command(group::run(command)),
        Command::Produce(args) => client_command(produce::run(args)),
        Command::Consume(args) => client_command(consume::run(args)),
        Command::Config(command) => config::run(&command),
        Command::Version => output::print(&format!("klamm {}\n", env!("CARGO_PKG_VERSION"))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            error.exit_code()
        }
    }
}

/// Runs a command that talks to a broker: one thread is enough.
fn client_command(command: impl Future<Output = Result<(), UserError>>) -> Result<(), UserError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|cause| {
            UserError::failed(
                "the command could not be started",
                cause.to_string(),
                "again with fewer programs running",
            )
        })?;
    runtime.block_on(command)
}
