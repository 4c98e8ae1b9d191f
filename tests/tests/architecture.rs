//! The arrows between crates and modules, checked by reading manifests and sources.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests folder lies in the workspace")
        .to_owned()
}

/// Folders of the workspace's crates.
fn members() -> Result<Vec<String>> {
    let workspace = std::fs::read_to_string(root().join("Cargo.toml"))?;
    let (_, members) = workspace.split_once("members = [").context("no members")?;
    let (members, _) = members.split_once(']').context("no end of members")?;
    let folders = members
        .split(',')
        .map(|member| member.trim().trim_matches('"').to_owned());
    Ok(folders.filter(|folder| !folder.is_empty()).collect())
}

/// Names below `[dependencies]` of a crate.
fn dependencies(folder: &str) -> Result<BTreeSet<String>> {
    let path = root().join(folder).join("Cargo.toml");
    let manifest = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let (_, section) = manifest
        .split_once("[dependencies]")
        .context("no [dependencies]")?;
    Ok(section
        .lines()
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split(['.', '=', ' ']).next())
        .filter(|name| !name.is_empty() && !name.starts_with('#'))
        .map(str::to_owned)
        .collect())
}

/// Rust sources of a folder, without folders named in `except`.
fn sources(folder: &str, except: &[&str]) -> Result<Vec<(PathBuf, String)>> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            let relative = path.strip_prefix(root())?.to_string_lossy().into_owned();
            if except.contains(&relative.as_str()) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path)?;
                found.push((path, text));
            }
        }
    }
    ensure!(!found.is_empty(), "no sources in {folder}");
    Ok(found)
}

/// Tests beside the code, in files and folders named so, may do what the code may not.
fn is_test(path: &Path) -> bool {
    let relative = path.strip_prefix(root()).unwrap_or(path).with_extension("");
    relative.components().any(|part| {
        let name = part.as_os_str().to_string_lossy();
        name.ends_with("_test") || name == "tests"
    })
}

/// No source of `folder` has a line of code that contains one of `words`.
fn never(folder: &str, except: &[&str], words: &[&str]) -> Result<()> {
    for (path, text) in sources(folder, except)? {
        if is_test(&path) {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for word in words {
                ensure!(
                    !code.contains(word),
                    "{}:{}: {word} is not for {folder}",
                    path.display(),
                    number + 1
                );
            }
        }
    }
    Ok(())
}

/// Our crates that a crate may depend on, and no others.
#[test]
fn crates_depend_only_downwards() -> Result<()> {
    let allowed: [(&str, &[&str]); 9] = [
        ("protocol/records", &[]),
        ("protocol", &["klamm-records"]),
        ("protocol/client", &["klamm-records", "klamm-protocol"]),
        ("storage/writeback", &[]),
        ("storage", &["klamm-records", "klamm-writeback"]),
        ("raft", &["klamm-records", "klamm-storage"]),
        ("broker/metadata", &["klamm-records"]),
        (
            "broker/coordinator",
            &["klamm-records", "klamm-protocol", "klamm-metadata"],
        ),
        (
            "broker",
            &[
                "klamm-records",
                "klamm-protocol",
                "klamm-client",
                "klamm-storage",
                "klamm-raft",
                "klamm-metadata",
                "klamm-coordinator",
            ],
        ),
    ];
    for (folder, allowed) in allowed {
        for name in dependencies(folder)?
            .iter()
            .filter(|name| name.starts_with("klamm"))
        {
            ensure!(
                allowed.contains(&name.as_str()),
                "{folder} depends on {name}"
            );
        }
    }
    Ok(())
}

/// One call of the system, and the simulation's stand-ins for the C library; everywhere else the compiler forbids it.
#[test]
fn unsafe_code_has_its_two_places() -> Result<()> {
    for folder in members()? {
        let path = root().join(&folder).join("Cargo.toml");
        let manifest = std::fs::read_to_string(path)?;
        let forbidden = manifest.contains("[lints]\nworkspace = true");
        let excepted = ["storage/writeback", "tests/sim"].contains(&folder.as_str());
        ensure!(
            forbidden != excepted,
            "{folder} has lints of its own, or none"
        );
    }
    Ok(())
}

#[test]
fn each_library_has_its_one_place() -> Result<()> {
    let folders = [
        "protocol/records",
        "protocol",
        "protocol/client",
        "storage",
        "raft",
        "broker/metadata",
        "broker/coordinator",
        "broker",
    ];
    let only: [(&str, &[&str]); 6] = [
        ("openraft", &["raft"]),
        ("rocksdb", &["storage"]),
        ("socket2", &["broker"]),
        ("prometheus", &["broker"]),
        ("axum", &["broker"]),
        ("tokio", &["protocol/client", "raft", "broker"]),
    ];
    for (library, places) in only {
        for folder in folders {
            let named = dependencies(folder)?.contains(library);
            ensure!(
                !named || places.contains(&folder),
                "{folder} depends on {library}"
            );
        }
    }
    Ok(())
}

#[test]
fn inside_the_broker_each_library_has_its_module() -> Result<()> {
    never("broker/src", &["broker/src/server"], &["socket2::"])?;
    never("broker/src", &["broker/src/telemetry"], &["prometheus::"])?;
    never("broker/src", &["broker/src/http"], &["axum::"])?;
    Ok(())
}

#[test]
fn pure_crates_touch_no_clock_randomness_or_files() -> Result<()> {
    let impure = [
        "SystemTime::now",
        "Instant::now",
        "std::fs",
        "std::net",
        "rand::",
        "Uuid::new_v4",
    ];
    // Of std::net only the address types, which do nothing.
    let impure: Vec<&str> = impure
        .into_iter()
        .flat_map(|word| match word {
            "std::net" => vec!["std::net::Tcp", "std::net::Udp", "ToSocketAddrs"],
            word => vec![word],
        })
        .collect();
    never("broker/metadata/src", &[], &impure)?;
    never("broker/coordinator/src", &[], &impure)?;
    never("protocol/records/src", &[], &impure)?;
    never("protocol/src", &[], &impure)?;
    Ok(())
}

#[test]
fn handlers_and_http_do_not_reach_past_partitions_and_controller() -> Result<()> {
    never(
        "broker/src/handlers",
        &[],
        &[
            "klamm_storage::Store",
            "klamm_storage::GroupLog",
            ".propose(",
        ],
    )?;
    never("broker/src/http", &[], &["klamm_storage::", "klamm_raft::"])?;
    Ok(())
}

#[test]
fn files_stay_readable() -> Result<()> {
    const LIMIT: usize = 600;
    for folder in [
        "protocol",
        "storage/src",
        "storage/writeback",
        "raft/src",
        "broker",
    ] {
        for (path, text) in sources(folder, &[])? {
            let code = text
                .split("#[cfg(test)]")
                .next()
                .unwrap_or_default()
                .lines()
                .count();
            ensure!(
                code <= LIMIT,
                "{} has {code} lines: is it one thing?",
                path.display()
            );
        }
    }
    Ok(())
}

/// Bugs that the simulation plants are in nothing that is built without being asked for them.
#[test]
fn bugs_are_planted_on_demand_only() -> Result<()> {
    let mut lines = vec![std::fs::read_to_string(root().join("Cargo.toml"))?];
    for folder in members()? {
        let path = root().join(folder).join("Cargo.toml");
        lines.push(std::fs::read_to_string(path)?);
    }
    let lines = lines.iter().flat_map(|manifest| manifest.lines());
    let named: Vec<&str> = lines
        .filter(|line| line.contains("plant") && !line.starts_with('#'))
        .collect();
    // Their own features, which are nobody's default.
    let expected = ["plant = []", "plant = [\"klamm-records/plant\"]"];
    ensure!(named == expected, "{named:?}");
    Ok(())
}
