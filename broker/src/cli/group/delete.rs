//! `klamm group delete`.

use clap::Args;
use klamm_client::{Client, Error};
use klamm_protocol::ErrorCode;

use super::members_in_words;
use crate::cli::error::{Failures, UserError};
use crate::cli::output::{Cluster, confirm_deletion};

/// Arguments of `group delete`.
#[derive(Args, Clone, Debug)]
pub(in crate::cli) struct DeleteArgs {
    /// Groups to delete
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    cluster: Cluster,
}

/// Deletes groups, each with a result of its own.
///
/// # Errors
/// What failed.
pub(super) async fn run(args: DeleteArgs) -> Result<(), UserError> {
    let client = args.cluster.connect("groups were not deleted").await?;
    if !args.yes {
        confirm(&client, &args.names).await?;
    }
    let mut failures = Failures::default();
    for name in &args.names {
        match client.delete_group(name).await {
            Ok(()) => eprintln!("deleted {name}"),
            Err(error) => failures.add(explain(&client, name, &error).await),
        }
    }
    failures.end()
}

/// Names what would be lost and asks.
async fn confirm(client: &Client, names: &[String]) -> Result<(), UserError> {
    for name in names {
        let committed = client.committed_offsets(name, None).await;
        let committed = committed.map_err(|error| {
            UserError::from_client("groups were not deleted", Some(name), &error)
        })?;
        eprintln!("{name}: offsets of {} partitions", committed.len());
    }
    confirm_deletion()
}

/// A group that is in use is told with its members.
async fn explain(client: &Client, name: &str, error: &Error) -> UserError {
    let what = format!("group {name} was not deleted");
    let mut told = UserError::from_client(what, Some(name), error);
    let code = error.server_error().map(|error| error.code);
    if code == Some(ErrorCode::NON_EMPTY_GROUP)
        && let Ok(group) = client.describe_group(name).await
        && let Some(members) = members_in_words(name, &group.members)
    {
        told.cause = members;
    }
    told
}
