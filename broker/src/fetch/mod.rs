//! State that fetching keeps between requests.

mod session;

pub use session::{
    FetchSessions, Outcome, PartitionKey, Placed, SessionRequest, Told, TopicKey, Wanted,
};
