//! Rendered documents that change only with the registry: discovery and OpenAPI.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use serde_json::Value;

use super::respond::json_bytes;
use crate::resource::Registry;

/// How many rendered documents are kept; far more than there are group versions in any cluster.
const DOCUMENTS_MAX: usize = 512;

/// Rendered documents by a key of the caller's choice.
#[derive(Debug, Default)]
pub(crate) struct DocumentCache {
    rendered: Mutex<Rendered>,
}

#[derive(Debug, Default)]
struct Rendered {
    generation: u64,
    documents: HashMap<String, Document>,
}

/// A rendered document.
#[derive(Debug, Clone)]
pub(crate) struct Document {
    pub(crate) bytes: Bytes,
    /// A hash of the bytes, quoted as an `ETag` is.
    pub(crate) etag: String,
}

impl DocumentCache {
    /// The document under this key, made by `render` if the registry has changed since; `None` if `render` has none.
    pub(crate) fn get(
        &self,
        key: &str,
        registry: &Registry,
        render: impl FnOnce(&Registry) -> Option<Value>,
    ) -> Option<Document> {
        self.get_bytes(key, registry, |registry| Some(json_bytes(&render(registry)?)))
    }

    /// As [`DocumentCache::get`], of what isn't JSON.
    pub(crate) fn get_bytes(
        &self,
        key: &str,
        registry: &Registry,
        render: impl FnOnce(&Registry) -> Option<Bytes>,
    ) -> Option<Document> {
        let generation = registry.generation();
        if let Some(document) = self.kept(key, generation) {
            return Some(document);
        }
        // Rendered outside of the lock: two requests may render the same once, which is harmless.
        let bytes = render(registry)?;
        let digest = ring::digest::digest(&ring::digest::SHA256, &bytes);
        let etag = digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect::<String>();
        let document = Document { bytes, etag: format!("\"{etag}\"") };
        let mut rendered = self.rendered.lock().unwrap_or_else(PoisonError::into_inner);
        if rendered.generation != generation || rendered.documents.len() >= DOCUMENTS_MAX {
            *rendered = Rendered { generation, documents: HashMap::new() };
        }
        rendered.documents.insert(key.to_owned(), document.clone());
        Some(document)
    }

    fn kept(&self, key: &str, generation: u64) -> Option<Document> {
        let rendered = self.rendered.lock().unwrap_or_else(PoisonError::into_inner);
        if rendered.generation == generation { rendered.documents.get(key).cloned() } else { None }
    }
}
