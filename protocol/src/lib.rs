#![doc = include_str!("../README.md")]

mod api;
mod api_versions;
mod decode;
mod encode;
mod errors;
mod extensions;
mod fetch_response;
mod frame;
mod reader;
mod request;
mod shape;
mod shapes;
mod topic_id_requests;

pub use kafka_protocol::messages;
pub use kafka_protocol::protocol::StrBytes;

pub use api::{Api, ApiMessage, ApiRequest, ApiResponse};
pub use api_versions::{
    Feature, Features, api_versions_response, is_valid_software, unsupported_api_versions_response,
};
pub use decode::{DecodeError, decode, decode_response, response_correlation_id};
pub use encode::{EncodeError, encode_request, encode_response};
pub use errors::ErrorCode;
pub use extensions::DISK_TROUBLE_TAG;
pub use fetch_response::{
    AbortedTransaction, EpochEndOffset, FetchPartition, FetchResponse, FetchTopic,
    LeaderIdAndEpoch, NodeEndpoint,
};
pub use frame::{FRAME_PREFIX_LEN, FrameError, Sniffed, next_frame, sniff, whole_frame};
pub use reader::Malformed;
pub use request::{HeadError, RequestHead};
