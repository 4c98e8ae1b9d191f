//! The status of a cluster for people.

use super::{DiskJson, MetadataJson, MoveJson, NodeJson, PartitionJson, ReplicaJson, StatusJson};
use crate::cli::output::Table;

/// Rows of partitions in the table; JSON has all of them.
const MOST_ROWS: usize = 20;

impl MetadataJson {
    /// What a node is to the metadata group, in words.
    fn role(&self, node: i32) -> String {
        let behind = |replica: &ReplicaJson| match replica.lag {
            Some(0) => String::new(),
            Some(lag) => format!(", {lag} behind"),
            None => ", lag unknown".to_owned(),
        };
        let of = |replicas: &[ReplicaJson], word: &str| {
            let replica = replicas.iter().find(|replica| replica.node == node)?;
            Some(format!("{word}{}", behind(replica)))
        };
        if self.leader == Some(node) {
            return "leader".to_owned();
        }
        of(&self.voters, "voter")
            .or_else(|| of(&self.observers, "observer"))
            .unwrap_or_else(|| "-".to_owned())
    }
}

impl StatusJson {
    pub(super) fn table(&self) -> String {
        let metadata = match (self.metadata.leader, self.metadata.epoch) {
            (Some(leader), Some(epoch)) => format!("led by node {leader} in epoch {epoch}"),
            _ => "without a leader: nothing can be changed".to_owned(),
        };
        let mut text = format!(
            "cluster     {}\nmetadata    {metadata}\npartitions  {} of {} topics: {} without a leader, {} under-replicated, {} moving\n\n",
            self.cluster,
            self.partitions,
            self.topics,
            self.without_leader,
            self.under_replicated,
            self.moving.len()
        );
        let mut nodes = Table::new(&[
            "NODE",
            "ADDRESS",
            "RACK",
            "STATE",
            "METADATA",
            "LEADS",
            "REPLICAS",
            "OUT-OF-SYNC",
            "LAG",
            "DISK",
        ]);
        for node in &self.nodes {
            nodes.row(vec![
                node.node.to_string(),
                node.address.clone(),
                node.rack.clone().unwrap_or_else(|| "-".to_owned()),
                if node.up { "up" } else { "gone" }.to_owned(),
                self.metadata.role(node.node),
                node.leads.to_string(),
                node.replicas.to_string(),
                node.out_of_sync.to_string(),
                number(node.lag),
                disk(node.disk.as_ref()),
            ]);
        }
        text.push_str(&nodes.render());
        self.tell_disks(&mut text);
        self.tell_troubled(&mut text);
        self.tell_moving(&mut text);
        text
    }

    fn tell_disks(&self, text: &mut String) {
        let trouble = |node: &NodeJson| {
            let trouble = node.disk.as_ref()?.trouble.as_ref()?;
            Some(format!("The disk of node {} is {trouble}.\n", node.node))
        };
        let troubles: String = self.nodes.iter().filter_map(trouble).collect();
        if !troubles.is_empty() {
            text.push('\n');
            text.push_str(&troubles);
        }
    }

    fn tell_troubled(&self, text: &mut String) {
        let header = [
            "TOPIC",
            "PARTITION",
            "LEADER",
            "REPLICAS",
            "IN-SYNC",
            "BEHIND",
        ];
        let row = |partition: &PartitionJson| {
            vec![
                partition.topic.clone(),
                partition.partition.to_string(),
                number(partition.leader.map(i64::from)),
                ids(&partition.replicas),
                ids(&partition.in_sync),
                lags_of(&partition.behind),
            ]
        };
        tell(text, &header, &self.troubled, row);
    }

    fn tell_moving(&self, text: &mut String) {
        let header = ["MOVING", "PARTITION", "ADDING", "REMOVING"];
        let row = |moved: &MoveJson| {
            vec![
                moved.topic.clone(),
                moved.partition.to_string(),
                lags_of(&moved.adding),
                ids(&moved.removing),
            ]
        };
        tell(text, &header, &self.moving, row);
    }
}

/// Adds a table of partitions, if there are any.
fn tell<T>(text: &mut String, header: &[&'static str], all: &[T], row: impl Fn(&T) -> Vec<String>) {
    if all.is_empty() {
        return;
    }
    let mut rows = Table::new(header);
    for partition in all.iter().take(MOST_ROWS) {
        rows.row(row(partition));
    }
    text.push('\n');
    text.push_str(&rows.render());
    let more = all.len().saturating_sub(MOST_ROWS);
    if more > 0 {
        text.push_str(&format!("and {more} more: -o json has all of them\n"));
    }
}

fn lags_of(replicas: &[ReplicaJson]) -> String {
    let lag = |replica: &ReplicaJson| format!("{} by {}", replica.node, number(replica.lag));
    list(replicas.iter().map(lag), ", ")
}

fn number(known: Option<i64>) -> String {
    known.map_or_else(|| "-".to_owned(), |number| number.to_string())
}

fn ids(ids: &[i32]) -> String {
    list(ids.iter().map(ToString::to_string), ",")
}

fn list(items: impl Iterator<Item = String>, between: &str) -> String {
    let items: Vec<String> = items.collect();
    match items.is_empty() {
        true => "-".to_owned(),
        false => items.join(between),
    }
}

/// What is left of a disk, or that something is wrong with it.
fn disk(disk: Option<&DiskJson>) -> String {
    let Some(disk) = disk else {
        return "-".to_owned();
    };
    match (&disk.trouble, disk.free_bytes, disk.total_bytes) {
        (Some(_), ..) => "in trouble".to_owned(),
        (None, Some(free), Some(total)) if total > 0 => {
            let percent = u128::from(free) * 100 / u128::from(total);
            format!("{percent}% free")
        }
        _ => "-".to_owned(),
    }
}
