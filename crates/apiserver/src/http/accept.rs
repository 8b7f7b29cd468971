//! What form of an answer a client accepts.

use http::HeaderMap;

use crate::status_error::StatusError;

/// Media types that the server can write, as error messages list them.
pub(crate) const MEDIA_TYPES: &[&str] = &["application/json", "application/yaml"];
/// Entries of an Accept header beyond this are not looked at.
const ENTRIES_MAX: usize = 32;

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// The objects themselves.
    Plain(Encoding),
    /// A `Table` of `meta.k8s.io/v1`.
    Table,
    /// `PartialObjectMetadata`, or a list of these.
    Metadata,
    /// Aggregated discovery in this version of `apidiscovery.k8s.io`.
    Discovery(&'static str),
}

/// How the bytes are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Json,
    Yaml,
}

/// Which forms besides the plain one a path can answer in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offer {
    /// Objects: tables and metadata too.
    Objects,
    /// Discovery: the aggregated form too.
    Discovery,
    /// Nothing else.
    PlainOnly,
}

/// Picks the first form in the client's order of preference that can be answered.
pub(crate) fn negotiate(headers: &HeaderMap, offer: Offer) -> Result<Form, StatusError> {
    let mut entries = Vec::new();
    for header in headers.get_all(http::header::ACCEPT) {
        let text = header.to_str().unwrap_or_default();
        entries.extend(text.split(',').map(str::trim).filter(|entry| !entry.is_empty()).take(ENTRIES_MAX));
    }
    if entries.is_empty() {
        return Ok(Form::Plain(Encoding::Json));
    }
    let mut parsed: Vec<Entry<'_>> = entries.into_iter().map(Entry::parse).collect();
    // A stable sort: equal weights keep the client's order.
    parsed.sort_by(|a, b| b.weight.total_cmp(&a.weight));
    parsed
        .iter()
        .filter(|entry| entry.weight > 0.0)
        .find_map(|entry| entry.form(offer))
        .ok_or_else(|| StatusError::not_acceptable(MEDIA_TYPES))
}

/// One entry of an Accept header.
struct Entry<'a> {
    media_type: &'a str,
    represent_as: Option<&'a str>,
    group: Option<&'a str>,
    version: Option<&'a str>,
    weight: f32,
}

impl<'a> Entry<'a> {
    fn parse(text: &'a str) -> Self {
        let mut parts = text.split(';').map(str::trim);
        let mut entry = Self {
            media_type: parts.next().unwrap_or_default(),
            represent_as: None,
            group: None,
            version: None,
            weight: 1.0,
        };
        for (key, value) in parts.filter_map(|part| part.split_once('=')) {
            match key {
                "as" => entry.represent_as = Some(value),
                "g" => entry.group = Some(value),
                "v" => entry.version = Some(value),
                "q" => entry.weight = value.parse().ok().filter(|q| (0.0..=1.0).contains(q)).unwrap_or(0.0),
                _ => {}
            }
        }
        entry
    }

    fn form(&self, offer: Offer) -> Option<Form> {
        let encoding = match self.media_type {
            "application/json" | "application/*" | "*/*" => Encoding::Json,
            "application/yaml" => Encoding::Yaml,
            _ => return None,
        };
        let Some(represent_as) = self.represent_as else {
            return Some(Form::Plain(encoding));
        };
        match (offer, encoding, represent_as, self.group?, self.version?) {
            (Offer::Objects, Encoding::Json, "Table", "meta.k8s.io", "v1") => Some(Form::Table),
            (
                Offer::Objects,
                Encoding::Json,
                "PartialObjectMetadata" | "PartialObjectMetadataList",
                "meta.k8s.io",
                "v1",
            ) => Some(Form::Metadata),
            (Offer::Discovery, Encoding::Json, "APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2") => {
                Some(Form::Discovery("v2"))
            }
            (Offer::Discovery, Encoding::Json, "APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2beta1") => {
                Some(Form::Discovery("v2beta1"))
            }
            _ => None,
        }
    }
}
