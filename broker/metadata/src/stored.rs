//! The envelope of everything this crate stores: `{"version":N,"value":{..}}` in JSON, and the
//! stored forms of the ids.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::command::DecodeError;

#[derive(Serialize)]
struct Written<'a, T> {
    version: u16,
    value: &'a T,
}

#[derive(Deserialize)]
struct Version {
    version: u16,
}

#[derive(Deserialize)]
struct Read<T> {
    value: T,
}

pub(crate) fn encode<T: Serialize>(version: u16, value: &T) -> Vec<u8> {
    serde_json::to_vec(&Written { version, value })
        .expect("maps have string keys and no value can fail to serialize")
}

/// The version, which this program knows.
pub(crate) fn version(what: &'static str, known: u16, bytes: &[u8]) -> Result<u16, DecodeError> {
    let found = serde_json::from_slice::<Version>(bytes)
        .map_err(|error| malformed(what, &error))?
        .version;
    if found > known {
        return Err(DecodeError::NewerVersion { what, found, known });
    }
    if found == 0 {
        return Err(DecodeError::Malformed {
            what,
            cause: "version 0 was never written".to_owned(),
        });
    }
    Ok(found)
}

fn malformed(what: &'static str, error: &serde_json::Error) -> DecodeError {
    DecodeError::Malformed {
        what,
        cause: error.to_string(),
    }
}

/// The version is judged before the body: the body of a newer version may have any form.
pub(crate) fn decode<T: DeserializeOwned>(
    what: &'static str,
    known: u16,
    bytes: &[u8],
) -> Result<T, DecodeError> {
    version(what, known, bytes)?;
    Ok(serde_json::from_slice::<Read<T>>(bytes)
        .map_err(|error| malformed(what, &error))?
        .value)
}

pub(crate) mod topic_id {
    use klamm_records::TopicId;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use uuid::Uuid;

    pub(crate) fn serialize<S: Serializer>(id: &TopicId, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(id)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<TopicId, D::Error> {
        let text = String::deserialize(deserializer)?;
        Uuid::parse_str(&text)
            .map(TopicId)
            .map_err(D::Error::custom)
    }
}

pub(crate) mod group_id {
    use klamm_records::GroupId;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(id: &GroupId, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(id.0)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<GroupId, D::Error> {
        u64::deserialize(deserializer).map(GroupId)
    }
}
