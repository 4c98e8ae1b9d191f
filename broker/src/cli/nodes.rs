//! `klamm dev --nodes N`: a cluster of processes of this program on this machine.
//!
//! This process runs no node. It writes the configuration of each beside its data, starts them, shows what they
//! say, and stops them one after the other, so that each hands over to the rest. A node also stops when
//! this process is gone: it holds their standard input open.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use super::cluster::{NewNode, new_secret, properties, write_private};
use super::dev::{DevArgs, first_steps};
use super::error::UserError;
use super::node::stop_signal;
use super::output;

/// Ports of the nodes for each other, counted from the Kafka ports.
const CONTROLLER_PORTS: u16 = 10_000;
const NODE_ID: &str = "node.id";
const AGAIN: &str = "klamm dev --nodes 3 --listen 127.0.0.1:9092 --http 127.0.0.1:9644";

struct Running {
    id: i32,
    child: Child,
}

/// What a node said.
enum Said {
    /// A line of its first screen.
    Line(i32, String),
    /// It said all it will.
    Ended(i32),
}

/// Runs the cluster until told to stop.
pub(super) fn run(args: &DevArgs, data_dir: &Path) -> Result<(), UserError> {
    let nodes = plan(args, data_dir)?;
    let files = write(args, &nodes)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|cause| failed(&cause))?;
    let _in_runtime = runtime.enter();
    // From here on Ctrl-C ends the nodes, not this process.
    let stop = stop_signal(false)?;
    let (say, said) = mpsc::channel();
    let mut running = Vec::new();
    for (node, file) in nodes.iter().zip(&files) {
        running.push(start(args, node, file, &say).map_err(|cause| failed(&cause))?);
    }
    drop(say);
    let (ready, is_ready) = tokio::sync::oneshot::channel();
    let (count, data) = (nodes.len(), data(args, data_dir));
    std::thread::spawn(move || ready.send(first_screen(&said, count, &data)));
    let result = runtime.block_on(async {
        tokio::pin!(stop);
        tokio::select! {
            ready = is_ready => {
                match ready {
                    Ok(Ok(screen)) => output::print(&screen)?,
                    Ok(Err(error)) => return Err(error),
                    Err(_) => return Err(UserError::failed("the cluster did not start", "its nodes fell silent", AGAIN)),
                }
                stop.await;
            }
            () = &mut stop => {}
        }
        eprintln!("stopping");
        Ok(())
    });
    for node in &mut running {
        drop(node.child.stdin.take());
        match node.child.wait() {
            Ok(status) if status.success() => {}
            Ok(status) => eprintln!("warning: node {} ended with {status}", node.id),
            Err(cause) => eprintln!("warning: node {}: {cause}", node.id),
        }
    }
    result
}

/// The line about data on the first screen.
fn data(args: &DevArgs, data_dir: &Path) -> String {
    let kept = match args.ephemeral {
        true => "NOT KEPT: temporary, deleted when the nodes stop",
        false => "durable: on a majority's disks before every answer",
    };
    format!("  Data   {} ({kept})", data_dir.display())
}

fn failed(cause: &std::io::Error) -> UserError {
    UserError::failed("the cluster did not start", cause.to_string(), AGAIN)
}

/// Where a node's controller listens: so many ports above the clients', or below at the upper end.
fn controller_port(kafka: u16) -> u16 {
    match kafka.checked_add(CONTROLLER_PORTS) {
        Some(above) => above,
        None => kafka - CONTROLLER_PORTS,
    }
}

/// The id of the first node, from which the others count up: what `--set node.id` says, else 1.
fn first_id(settings: &[(String, String)]) -> Result<i32, UserError> {
    let Some((_, value)) = settings.iter().rfind(|(key, _)| key == NODE_ID) else {
        return Ok(1);
    };
    let ids = 0..=i32::MAX - i32::from(u8::MAX);
    value
        .parse()
        .ok()
        .filter(|id| ids.contains(id))
        .ok_or_else(|| {
            UserError::usage(
                "the cluster did not start",
                format!("--set node.id={value} is no id of a first node"),
                AGAIN,
            )
        })
}

fn plan(args: &DevArgs, data_dir: &Path) -> Result<Vec<NewNode>, UserError> {
    let malformed = || {
        UserError::usage(
            "the cluster did not start",
            format!(
                "--listen {} is no HOST:PORT with room for the ports of all nodes",
                args.listen
            ),
            AGAIN,
        )
    };
    let (host, port) = args.listen.rsplit_once(':').ok_or_else(malformed)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let first: u16 = port.parse().map_err(|_| malformed())?;
    let free = || -> Result<u16, UserError> {
        let bound = TcpListener::bind((host, 0)).map_err(|cause| failed(&cause))?;
        Ok(bound.local_addr().map_err(|cause| failed(&cause))?.port())
    };
    let first_id = first_id(&args.settings)?;
    let mut nodes = Vec::new();
    for at in 0..args.nodes {
        let (kafka, controller) = if first == 0 {
            (free()?, free()?)
        } else {
            let kafka = first.checked_add(at).ok_or_else(malformed)?;
            (kafka, controller_port(kafka))
        };
        let http = match args.http.port() {
            0 => 0,
            port => port.checked_add(at).ok_or_else(malformed)?,
        };
        let id = first_id + i32::from(at);
        nodes.push(NewNode {
            id,
            host: host.to_owned(),
            kafka,
            controller,
            http: std::net::SocketAddr::new(args.http.ip(), http).to_string(),
            data: data_dir.join(format!("node-{id}")),
        });
    }
    Ok(nodes)
}

/// Writes each node's configuration into its data directory; the cluster's secret stays what it is.
fn write(args: &DevArgs, nodes: &[NewNode]) -> Result<Vec<PathBuf>, UserError> {
    let written = || -> std::io::Result<Vec<PathBuf>> {
        let mut secret = None;
        for node in nodes {
            std::fs::create_dir_all(&node.data)?;
        }
        let path = |node: &NewNode| node.data.with_extension("properties");
        for node in nodes {
            if let Ok(before) = std::fs::read_to_string(path(node)) {
                let line = before
                    .lines()
                    .find_map(|line| line.strip_prefix("klamm.cluster.secret="));
                secret = secret.or(line.map(str::to_owned));
            }
        }
        let secret = secret.unwrap_or_else(new_secret);
        let mut files = Vec::new();
        for node in nodes {
            let path = path(node);
            let mut text = properties(node, nodes, &secret);
            for (key, value) in args.settings.iter().filter(|(key, _)| key != NODE_ID) {
                let value = value.replace("{id}", &node.id.to_string());
                text.push_str(&format!("{key}={value}\n"));
            }
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => write_private(&path, &text)?,
            }
            files.push(path);
        }
        Ok(files)
    };
    written().map_err(|cause| {
        UserError::failed(
            "the cluster did not start",
            cause.to_string(),
            "--data DIR, with a directory that may be written to",
        )
    })
}

fn start(
    args: &DevArgs,
    node: &NewNode,
    file: &Path,
    say: &mpsc::Sender<Said>,
) -> std::io::Result<Running> {
    let mut child = Command::new(std::env::current_exe()?)
        .args([
            "start",
            "--until-stdin-ends",
            "--log",
            &args.log,
            "--config",
        ])
        .arg(file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Ctrl-C is for this process, which stops them in order.
        .process_group(0)
        .spawn()?;
    let id = node.id;
    if let Some(stderr) = child.stderr.take() {
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                eprintln!("node {id}: {line}");
            }
        });
    }
    if let Some(stdout) = child.stdout.take() {
        let say = say.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = say.send(Said::Line(id, line));
            }
            let _ = say.send(Said::Ended(id));
        });
    }
    Ok(Running { id, child })
}

/// Gathers what the nodes say until all are ready.
fn first_screen(
    said: &mpsc::Receiver<Said>,
    count: usize,
    data: &str,
) -> Result<String, UserError> {
    let mut lines = Vec::new();
    let mut bootstrap: Vec<(i32, String)> = Vec::new();
    let mut ready = 0;
    while ready < count {
        match said.recv() {
            Ok(Said::Line(id, line)) => {
                let mut words = line.split_whitespace();
                let (name, address) = (words.next(), words.next().unwrap_or_default());
                match name {
                    Some("Kafka") => {
                        bootstrap.push((id, address.to_owned()));
                        lines.push((id, 0, line));
                    }
                    Some("HTTP") => lines.push((id, 1, line)),
                    Some("ready") => ready += 1,
                    _ => {}
                }
            }
            Ok(Said::Ended(id)) => {
                return Err(UserError::failed(
                    "the cluster did not start",
                    format!("node {id} ended; what it said is above"),
                    AGAIN,
                ));
            }
            Err(_) => {
                return Err(UserError::failed(
                    "the cluster did not start",
                    "its nodes ended",
                    AGAIN,
                ));
            }
        }
    }
    lines.sort();
    bootstrap.sort();
    let mut screen = vec![
        String::new(),
        format!("klamm {}  {count} nodes", env!("CARGO_PKG_VERSION")),
        String::new(),
        data.to_owned(),
    ];
    screen.extend(lines.into_iter().map(|(_, _, line)| line));
    let all: Vec<&str> = bootstrap.iter().map(|(_, address)| &**address).collect();
    screen.push(format!("  All    bootstrap.servers={}", all.join(",")));
    screen.extend(first_steps(all.first().copied().unwrap_or_default()));
    screen.push("Ctrl-C stops all of them.".to_owned());
    screen.push("ready\n".to_owned());
    Ok(screen.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::{controller_port, first_id};

    #[test]
    fn ids_count_from_the_one_that_is_set() {
        let set = |values: &[&str]| {
            let settings: Vec<_> = values
                .iter()
                .map(|value| ("node.id".to_owned(), (*value).to_owned()))
                .collect();
            first_id(&settings).ok()
        };
        assert_eq!(set(&[]), Some(1));
        assert_eq!(set(&["0"]), Some(0));
        // As with other settings, the last one counts.
        assert_eq!(set(&["7", "20"]), Some(20));
        assert_eq!(set(&["-1"]), None);
        assert_eq!(set(&["one"]), None);
    }

    #[test]
    fn a_controller_has_a_port_wherever_its_node_listens() {
        for (kafka, expect) in [
            (1, 10_001),
            (9092, 19_092),
            (55_535, 65_535),
            (55_536, 45_536),
        ] {
            assert_eq!(controller_port(kafka), expect);
        }
    }
}
