//! `klamm group list`.

use clap::Args;
use klamm_client::GroupListing;
use serde::Serialize;

use super::watch::{Printing, Report};
use crate::cli::error::{Failures, UserError};
use crate::cli::output::{Cluster, Table};

/// Arguments of `group list`.
#[derive(Args, Clone, Debug)]
pub(in crate::cli) struct ListArgs {
    #[command(flatten)]
    printing: Printing,
    #[command(flatten)]
    cluster: Cluster,
}

#[derive(Serialize)]
struct ListedJson {
    group: String,
    /// `classic`, `consumer`, `share` or another; null when the broker is too old to say.
    #[serde(rename = "type")]
    kind: Option<String>,
    protocol_type: String,
    state: Option<String>,
    coordinator: i32,
}

#[derive(Serialize)]
#[serde(transparent)]
struct List(Vec<ListedJson>);

/// Lists groups.
///
/// # Errors
/// That a broker does not answer.
pub(super) async fn run(args: ListArgs) -> Result<(), UserError> {
    let what = "groups were not listed";
    let client = args.cluster.connect(what).await?;
    let round = async || {
        let listed = client.list_groups().await;
        let listed = listed.map_err(|error| UserError::from_client(what, None, &error))?;
        Ok((List::new(listed), Failures::default()))
    };
    args.printing.run(round).await
}

impl List {
    fn new(groups: Vec<GroupListing>) -> List {
        let listed = groups.into_iter().map(|group| ListedJson {
            group: group.id,
            kind: group.kind,
            protocol_type: group.protocol_type,
            state: group.state,
            coordinator: group.coordinator,
        });
        List(listed.collect())
    }
}

impl Report for List {
    fn table(&self) -> String {
        let mut table = Table::new(&["GROUP", "TYPE", "PROTOCOL", "STATE", "COORDINATOR"]);
        let or_dash = |text: &str| if text.is_empty() { "-" } else { text }.to_owned();
        for group in &self.0 {
            table.row(vec![
                group.group.clone(),
                or_dash(group.kind.as_deref().unwrap_or_default()),
                or_dash(&group.protocol_type),
                or_dash(group.state.as_deref().unwrap_or_default()),
                group.coordinator.to_string(),
            ]);
        }
        table.render()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_old_broker_does_not_say_is_a_dash_or_null() {
        let list = List::new(vec![GroupListing {
            id: "g".to_owned(),
            kind: None,
            protocol_type: String::new(),
            state: Some("Empty".to_owned()),
            coordinator: 3,
        }]);
        assert_eq!(
            list.table(),
            "GROUP  TYPE  PROTOCOL  STATE  COORDINATOR\n\
             g         -         -  Empty            3\n"
        );
        let json = serde_json::to_string(&list).unwrap_or_default();
        assert_eq!(
            json,
            "[{\"group\":\"g\",\"type\":null,\"protocol_type\":\"\",\"state\":\"Empty\",\"coordinator\":3}]"
        );
    }
}
