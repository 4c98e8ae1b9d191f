//! Who a data directory belongs to (R10): the node, and the directory's own identity.
//!
//! Invariant: `node.json` is written when the directory is empty, before anything else refers to it;
//! later only the cluster's id enters it, once. A directory of another node is refused: started under a new id it would
//! vote twice.

use std::io;
use std::path::{Path, PathBuf};

use klamm_raft::NodeId;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

const FILE: &str = "node.json";
const VERSION: u32 = 1;

/// Contents of `node.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    version: u32,
    /// `node.id` the directory was made for.
    pub node_id: i32,
    /// Random; told to tools as the directory id.
    pub directory_id: Uuid,
    /// Counts replacements of the directory under the same node id.
    pub incarnation: u32,
    /// The cluster the node belongs to, once it has entered one. A node that meets others proves
    /// with it that they are of the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
}

/// Why a directory cannot be used by this node.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Made for another node.
    #[error("the data directory {dir} belongs to node {found}, this is node {wanted}")]
    OtherNode {
        /// The directory.
        dir: PathBuf,
        /// Whose it is.
        found: i32,
        /// Who asks.
        wanted: i32,
    },
    /// Written by a newer program.
    #[error("{path} has version {found}, this program knows up to {VERSION}")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// Not readable.
    #[error("{path}: {cause}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
}

impl Identity {
    /// Reads the directory's identity; `None` for a directory that has none yet. Changes nothing, so
    /// that a directory that is refused is left as it was.
    pub fn load(dir: &Path, node_id: i32) -> Result<Option<Identity>, IdentityError> {
        let path = dir.join(FILE);
        let unreadable = |cause: String| IdentityError::Unreadable {
            path: path.clone(),
            cause,
        };
        let identity = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice::<Identity>(&bytes)
                .map_err(|error| unreadable(error.to_string()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unreadable(error.to_string())),
        };
        if identity.version > VERSION {
            return Err(IdentityError::Newer {
                path,
                found: identity.version,
            });
        }
        if identity.node_id != node_id {
            return Err(IdentityError::OtherNode {
                dir: dir.to_owned(),
                found: identity.node_id,
                wanted: node_id,
            });
        }
        Ok(Some(identity))
    }

    /// Gives a directory that has no identity one.
    pub fn create(dir: &Path, node_id: i32) -> Result<Identity, IdentityError> {
        let path = dir.join(FILE);
        let identity = Identity {
            version: VERSION,
            node_id,
            directory_id: Uuid::new_v4(),
            incarnation: 0,
            cluster_id: None,
        };
        identity
            .write(dir, &path)
            .map_err(|error| IdentityError::Unreadable {
                path,
                cause: error.to_string(),
            })?;
        Ok(identity)
    }

    /// Notes the cluster that the node has entered.
    pub fn belongs_to(mut self, dir: &Path, cluster_id: &str) -> io::Result<()> {
        self.cluster_id = Some(cluster_id.to_owned());
        self.write(dir, &dir.join(FILE))
    }

    /// Makes the directory, which holds nothing yet, the `incarnation`-th of its node id.
    pub fn numbered(mut self, dir: &Path, incarnation: u32) -> io::Result<Identity> {
        self.incarnation = incarnation;
        self.write(dir, &dir.join(FILE))?;
        Ok(self)
    }

    /// Written aside, synced, renamed, directory synced (R6).
    fn write(&self, dir: &Path, path: &Path) -> io::Result<()> {
        let temporary = dir.join(format!("{FILE}.new"));
        let file = std::fs::File::create(&temporary)?;
        serde_json::to_writer_pretty(&file, self)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        std::fs::File::open(dir)?.sync_all()
    }

    /// This node in Raft groups.
    pub fn replica_id(&self) -> NodeId {
        NodeId::new(self.node_id, self.incarnation)
    }
}

/// A random cluster id in Kafka's form: 22 characters of URL-safe base64, not starting with a dash.
pub fn new_cluster_id() -> String {
    loop {
        let id = base64_url(Uuid::new_v4().as_bytes());
        if !id.starts_with('-') {
            return id;
        }
    }
}

/// URL-safe base64 without padding (RFC 4648 section 5).
fn base64_url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk
            .iter()
            .fold(0_u32, |word, &byte| word << 8 | u32::from(byte))
            << (8 * (3 - chunk.len()));
        for at in 0..=chunk.len() {
            let index = word >> (18 - 6 * at) & 63;
            out.push(char::from(ALPHABET[index as usize]));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{Identity, IdentityError, base64_url, new_cluster_id};

    #[test]
    fn base64_as_in_rfc_4648() {
        for (bytes, expect) in [
            ("f", "Zg"),
            ("fo", "Zm8"),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg"),
            ("\u{3ff}", "z78"),
        ] {
            assert_eq!(base64_url(bytes.as_bytes()), expect);
        }
        assert_eq!(base64_url(&[0xfb, 0xff]), "-_8");
        assert_eq!(new_cluster_id().len(), 22);
    }

    #[test]
    fn a_directory_keeps_its_identity_and_its_node() {
        let dir = tempfile::tempdir().expect("temporary directory");
        assert_eq!(Identity::load(dir.path(), 1).expect("empty"), None);
        let made = Identity::create(dir.path(), 1).expect("made");
        assert_eq!(
            Identity::load(dir.path(), 1).expect("read"),
            Some(made.clone())
        );
        made.clone().belongs_to(dir.path(), "c").expect("noted");
        let member = Identity::load(dir.path(), 1).expect("read").expect("there");
        assert_eq!(member.cluster_id.as_deref(), Some("c"));
        assert_eq!(member.directory_id, made.directory_id);
        let refused = Identity::load(dir.path(), 2).expect_err("another node");
        assert!(
            matches!(
                refused,
                IdentityError::OtherNode {
                    found: 1,
                    wanted: 2,
                    ..
                }
            ),
            "{refused}"
        );
    }

    #[test]
    fn a_newer_file_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let newer = r#"{"version":2,"node_id":1,"directory_id":"00000000-0000-0000-0000-000000000000","incarnation":0}"#;
        let path = dir.path().join("node.json");
        std::fs::write(&path, newer).expect("written");
        assert!(matches!(
            Identity::load(dir.path(), 1),
            Err(IdentityError::Newer { found: 2, .. })
        ));
        assert_eq!(std::fs::read_to_string(&path).expect("there"), newer);
    }
}
