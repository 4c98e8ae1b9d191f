//! From the start of the process, over an empty folder, to the first acknowledged record of a new
//! topic; then what the broker costs while it does nothing.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use tokio::time::sleep;

use super::{Bar, Held, held, sync};
use crate::measure::{Measured, Unit};
use crate::peer::{Home, Kind};
use crate::setup;
use crate::wire::Wire;

/// Pause between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(1);
/// A broker that takes longer does not start.
const PATIENCE: Duration = Duration::from_secs(120);

/// Arguments of `start`.
#[derive(Args, Clone, Debug)]
pub struct Start {
    /// Seconds of rest before idleness is measured
    #[arg(long, default_value_t = 5)]
    settle: u64,
    /// Seconds of idleness that are measured
    #[arg(long, default_value_t = 10)]
    idle: u64,
}

impl Start {
    pub(super) fn summary(&self) -> String {
        format!(
            "from the start of the process to the first acknowledged record; then idle for {} s",
            self.idle
        )
    }

    pub(super) fn bars(&self) -> Vec<Held> {
        let at_most = |name, bar| held(name, Kind::Kafka, Bar::AtMost(bar));
        vec![
            at_most("start_seconds", 0.05),
            at_most("idle_cpu", 0.05),
            at_most("broker_rss", 1.0 / 8.0),
        ]
    }

    pub(super) async fn run(&self, home: &Home) -> Result<Vec<Measured>> {
        let peer = home.spawn()?;
        while setup::create_topic(&peer.address(), 1).await.is_err() {
            // The process is looked at too: one that has ended will not answer.
            peer.usage()?;
            ensure!(peer.age() < PATIENCE, "no topic can be made");
            sleep(PAUSE).await;
        }
        let mut wire = Wire::connect(&peer.address())?;
        let batch = setup::batch_of(&[b"first"])?;
        wire.send(&setup::produce_frame(0, [(0, batch)])?)?;
        sync::acknowledged(wire.receive()?.context("the broker closed a connection")?)?;
        let started = peer.age();
        sleep(Duration::from_secs(self.settle)).await;
        let idle = super::partitions::idle_cpu(&peer, self.idle).await?;
        let usage = peer.usage()?;
        peer.stop().await?;
        Ok(vec![
            Measured::seconds("start_seconds", started),
            Measured::new("idle_cpu", Unit::Percent, idle),
            Measured::new("broker_rss", Unit::Bytes, usage.rss_bytes),
            Measured::new("broker_peak_rss", Unit::Bytes, usage.peak_rss_bytes),
            Measured::new("start_cpu_seconds", Unit::Seconds, usage.cpu_seconds),
        ])
    }
}
