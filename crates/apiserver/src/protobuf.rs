//! Request bodies in protobuf, which typed clients send and which they expect to be understood.
//!
//! ```text
//!   "k8s\0"  Unknown { 1: TypeMeta { 1: apiVersion, 2: kind }, 2: raw, .. }
//!                                                              +-- the kind's message, without TypeMeta
//! ```
//!
//! Bodies become the JSON that a client would have sent instead; from there on there is one way for all. Answers are never
//! in protobuf, as every client accepts JSON too. What the messages consist of is in tables, out of the API's
//! published field numbers.

mod message;
mod table;
mod wire;

use serde_json::{Map, Value};

use crate::limits::{NESTING_MAX, depth};
use crate::status_error::StatusError;
use message::Decoder;
use table::Table;
use wire::{Fields, Wire, WireError};

/// The media type of such bodies.
pub(crate) const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

const MAGIC: &[u8; 4] = b"k8s\0";

/// Why a body isn't what it says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DecodeError {
    #[error("the body does not begin with the bytes of the format")]
    Magic,
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("no kind {kind:?} of {api_version:?} is known in this format")]
    Kind { api_version: String, kind: String },
    #[error("{0}")]
    Value(String),
}

/// The object in a body, as JSON.
pub(crate) fn decode(body: &[u8]) -> Result<Value, StatusError> {
    object(body).map_err(|error| StatusError::bad_request(format!("error decoding request body: {error}")))
}

fn object(body: &[u8]) -> Result<Value, DecodeError> {
    let envelope = body.strip_prefix(MAGIC).ok_or(DecodeError::Magic)?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for field in Fields::of(envelope) {
        match field? {
            (1, Wire::Bytes(type_meta)) => {
                for field in Fields::of(type_meta) {
                    match field? {
                        (1, Wire::Bytes(text)) => api_version = wire::text(text)?.to_owned(),
                        (2, Wire::Bytes(text)) => kind = wire::text(text)?.to_owned(),
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(message)) => raw = message,
            _ => {}
        }
    }
    let table = Table::get();
    let Some(message) = table.message_of(&api_version, &kind) else {
        return Err(DecodeError::Kind { api_version, kind });
    };
    let mut object = Map::new();
    Decoder::new(table).fields(message, raw, &mut object)?;
    object.insert("apiVersion".to_owned(), api_version.into());
    object.insert("kind".to_owned(), kind.into());
    let object = Value::Object(object);
    if depth(&object) > NESTING_MAX {
        return Err(DecodeError::Value("nested too deeply".to_owned()));
    }
    Ok(object)
}

#[cfg(test)]
mod tests;
