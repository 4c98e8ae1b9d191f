//! A network of its own for a test: each node has a network namespace and an address, all are on one bridge with the
//! test, and what one host sends another can be dropped, one way or both, without anybody being told.
//!
//! Needs no more than user namespaces, `unshare`, `ip` and `nft`. What a test makes goes away with its process.

use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Set in the process that has namespaces of its own.
const INSIDE: &str = "KLAMM_TEST_NETWORK";
/// First three bytes of all addresses.
const PREFIX: &str = "10.77.0";
const BRIDGE: &str = "klamm";

/// Hosts 1, 2, ...; the test itself is beside them and is never cut off.
pub struct Network {
    hosts: i32,
}

fn run(line: &str) -> Result<()> {
    let mut words = line.split_whitespace();
    let program = words.next().context("no program")?;
    let output = Command::new(program).args(words).output();
    let output = output.with_context(|| format!("cannot run {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{line}: {said}");
    Ok(())
}

/// Runs the test of this name (with its modules) once more, in namespaces of its own, unless that is where it
/// runs already: then answers true, and the test goes on.
pub fn inside(test: &str) -> Result<bool> {
    if std::env::var_os(INSIDE).is_some() {
        return Ok(true);
    }
    let status = Command::new("unshare")
        .args(["--map-root-user", "--net", "--mount"])
        .arg(std::env::current_exe()?)
        .args([test, "--exact", "--nocapture", "--include-ignored"])
        .env(INSIDE, "1")
        .status()
        .context("cannot run unshare")?;
    ensure!(status.success(), "{test} in its own network: {status}");
    Ok(false)
}

impl Network {
    /// Makes the network; call it where [`inside`] says true.
    pub fn new(hosts: i32) -> Result<Network> {
        // Where `ip` keeps names.
        run("mount -t tmpfs tmpfs /run")?;
        std::fs::create_dir("/run/netns")?;
        run("ip link set lo up")?;
        run(&format!("ip link add {BRIDGE} type bridge"))?;
        run(&format!("ip addr add {PREFIX}.254/24 dev {BRIDGE}"))?;
        run(&format!("ip link set {BRIDGE} up"))?;
        let network = Network { hosts };
        for id in 1..=hosts {
            let (name, address) = (network.namespace(id), network.address(id));
            run(&format!("ip netns add {name}"))?;
            run(&format!(
                "ip link add v{id} type veth peer name eth0 netns {name}"
            ))?;
            run(&format!("ip link set v{id} master {BRIDGE} up"))?;
            run(&format!("ip -n {name} addr add {address}/24 dev eth0"))?;
            run(&format!("ip -n {name} link set eth0 up"))?;
            run(&format!("ip -n {name} link set lo up"))?;
            network.rule(id, "add table inet klamm")?;
            network.rule(
                id,
                "add chain inet klamm in { type filter hook input priority 0 ; }",
            )?;
        }
        Ok(network)
    }

    /// How many hosts there are.
    pub fn hosts(&self) -> i32 {
        self.hosts
    }

    /// The address of a host.
    pub fn address(&self, id: i32) -> String {
        format!("{PREFIX}.{id}")
    }

    /// The network namespace of a host.
    pub fn namespace(&self, id: i32) -> String {
        format!("n{id}")
    }

    /// What `from` sends `to` is dropped from now on.
    pub fn cut(&self, from: i32, to: i32) -> Result<()> {
        let from = self.address(from);
        self.rule(to, &format!("add rule inet klamm in ip saddr {from} drop"))
    }

    /// Nothing is dropped any more.
    pub fn heal(&self) -> Result<()> {
        (1..=self.hosts).try_for_each(|id| self.rule(id, "flush chain inet klamm in"))
    }

    fn rule(&self, at: i32, rule: &str) -> Result<()> {
        run(&format!("ip netns exec {} nft {rule}", self.namespace(at)))
    }
}
