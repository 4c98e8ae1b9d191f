//! Settings: the one table of keys, and how values are read, checked and layered.
//!
//! Everything that names a key asks this table: the command line and its help, the start-up check,
//! DescribeConfigs, the alter rules, and the code that acts on a value. A key is never merely
//! ignored: it is honoured, or named as doing nothing, or refused ([`Support`]).

mod key;
mod layers;
mod listeners;
mod properties;
mod quorum;
mod suggest;
mod table;
mod topic_settings;
mod value;

pub use key::{Accepts, Dynamic, Key, Kind, Scope, Support, Synonym, Unit};
pub use layers::{Notice, Resolved, SettingError, Settings, Source, SynonymValue};
pub use listeners::{Advertised, Listener, ListenerError, Listeners, Protocol};
pub use properties::{ParseError, parse_properties, parse_toml};
pub use quorum::{QuorumError, Voter, parse_bootstrap_servers, parse_voters};
pub use suggest::nearest;
pub use table::{find, keys, unknown_key};
pub use topic_settings::{CompressionTarget, ThrottledReplicas, TimestampType, TopicSettings};
pub use value::ValueError;
