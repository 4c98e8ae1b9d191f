//! Apache Kafka as a node: its configuration, its storage, its command.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::place::Place;

/// What Kafka's own start script passes to Java, with its default heap.
const JVM: [&str; 8] = [
    "-Xmx1G",
    "-Xms1G",
    "-server",
    "-XX:+UseG1GC",
    "-XX:MaxGCPauseMillis=20",
    "-XX:InitiatingHeapOccupancyPercent=35",
    "-XX:+ExplicitGCInvokesConcurrent",
    "-Djava.awt.headless=true",
];

/// Each node is broker and controller.
const COMBINED: &str = "process.roles=broker,controller
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
";

/// A single node cannot have three replicas.
const ALONE: &str = "offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
";

const LOG4J: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<Configuration>
  <Appenders>
    <Console name="out" target="SYSTEM_OUT"><PatternLayout pattern="[%d] %p %m (%c)%n"/></Console>
  </Appenders>
  <Loggers>
    <Root level="INFO"><AppenderRef ref="out"/></Root>
  </Loggers>
</Configuration>
"#;

/// Any 16 bytes in base64.
const CLUSTER_ID: &str = "S2xhbW0tYmVuY2gtcGVlcg";

/// Writes the configuration of the node at `place`, one of `all` and with its data in `data`, into its folder.
pub fn configure(
    folder: &Path,
    data: &Path,
    place: &Place,
    all: &[Place],
    settings: &[(String, String)],
) -> Result<()> {
    let mut properties = COMBINED.to_owned();
    if all.len() == 1 {
        properties += ALONE;
    }
    let voters: Vec<String> = all.iter().map(Place::voter).collect();
    properties += &format!(
        "node.id={}\n\
         listeners=PLAINTEXT://{1},CONTROLLER://{2}\n\
         advertised.listeners=PLAINTEXT://{1}\n\
         controller.quorum.voters={3}\n\
         log.dirs={4}\n",
        place.id,
        place.kafka,
        place.controller,
        voters.join(","),
        data.display()
    );
    for (key, value) in settings {
        properties += &format!("{key}={value}\n");
    }
    std::fs::write(folder.join("server.properties"), properties)?;
    std::fs::write(folder.join("log4j2.xml"), LOG4J)?;
    Ok(())
}

/// Formats the storage of nodes in these folders, all at once.
pub fn format(jars: &Path, folders: &[impl AsRef<Path>]) -> Result<()> {
    let tools = folders.iter().map(|folder| {
        java(jars, folder.as_ref())
            .args(["kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c"])
            .arg(folder.as_ref().join("server.properties"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("java cannot be run")
    });
    for tool in tools.collect::<Vec<_>>() {
        let output = tool?.wait_with_output()?;
        ensure!(
            output.status.success(),
            "Kafka's storage could not be formatted: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

/// What runs the node in a folder.
pub fn command(jars: &Path, folder: &Path) -> Command {
    let mut java = java(jars, folder);
    java.args(JVM)
        .arg("kafka.Kafka")
        .arg(folder.join("server.properties"));
    java
}

fn java(jars: &Path, folder: &Path) -> Command {
    let mut java = Command::new("java");
    java.arg(format!(
        "-Dlog4j2.configurationFile={}",
        folder.join("log4j2.xml").display()
    ))
    .arg("-cp")
    .arg(jars.join("*"));
    java
}
