//! Starting and stopping: quick, clean, and nothing lost.

use std::time::Duration;

use anyhow::{Result, ensure};
use klamm_tests::broker::{Broker, free_port};
use klamm_tests::load::{self, Load};

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_under_load_stops_within_two_seconds_and_loses_nothing() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("data");
    let port = free_port()?;
    let broker = Broker::start(&data, port, &[])?;
    let address = broker.address.clone();
    load::create_topic(&address).await?;
    let mut load = Load::start(&address, 4);
    load.more(1000, Duration::from_secs(60)).await?;
    let (took, clean) = broker.stop()?;
    ensure!(clean, "the stop was not clean");
    ensure!(took < Duration::from_secs(2), "the stop took {took:?}");
    let broker = Broker::start(&data, port, &[])?;
    let history = load.finish().await?;
    load::check(&address, &history).await?;
    broker.stop()?;
    Ok(())
}

#[test]
fn an_empty_directory_is_ready_at_once() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let broker = Broker::start(&dir.path().join("data"), 0, &[])?;
    ensure!(
        broker.started_in < Duration::from_secs(3),
        "ready after {:?}",
        broker.started_in
    );
    ensure!(broker.get("/ready")?.0 == 200);
    ensure!(broker.get("/live")?.0 == 200);
    let (_, clean) = broker.stop()?;
    ensure!(clean, "the stop was not clean");
    Ok(())
}
