//! Lists: selection, pages, and the state at an older version.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use crate::resource::ResourceInfo;
use crate::selector::{FieldSelector, LabelSelector};
use crate::status_error::{FieldError, StatusError};
use crate::store::objects::{Entry, Key, Store, Table};
use crate::store::{ListRequest, ListResult, Subresource, Target};

/// Which version a list shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Snapshot {
    Newest,
    Exact(u64),
}

/// Where the next page starts: after this key, in the state of this version.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Continue {
    version: u64,
    after: Key,
    /// Goes on in the newest state, after the first page's version was forgotten.
    inconsistent: bool,
}

impl Continue {
    fn encode(&self) -> String {
        let Key { namespace, name } = &self.after;
        let kind = if self.inconsistent { "n" } else { "v" };
        URL_SAFE_NO_PAD.encode(format!("{kind}1/{}/{namespace}/{name}", self.version))
    }

    fn decode(token: &str) -> Option<Self> {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
        let mut parts = text.splitn(4, '/');
        let inconsistent = match parts.next()? {
            "v1" => false,
            "n1" => true,
            _ => return None,
        };
        let version = parts.next()?.parse().ok()?;
        let after = Key::new(parts.next()?, parts.next()?);
        (!after.name.is_empty()).then_some(Self { version, after, inconsistent })
    }
}

/// Reads a `resourceVersion` parameter; `None` if it is absent or empty. The error is what it says about the text.
pub(super) fn parse_version(text: Option<&str>) -> Result<Option<u64>, String> {
    match text.filter(|text| !text.is_empty()) {
        None => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| {
            let why = format!("strconv.ParseUint: parsing {text:?}: invalid syntax");
            FieldError::invalid("resourceVersion", &Value::from(text), why).to_string()
        }),
    }
}

pub(super) fn options_error(error: FieldError) -> StatusError {
    StatusError::invalid_kind("meta.k8s.io", "ListOptions", "", &[error])
}

fn check_match(request: &ListRequest, version: Option<u64>) -> Result<(), StatusError> {
    const MATCH: &str = "resourceVersionMatch";
    if request.send_initial_events.is_some() {
        let why = "sendInitialEvents is forbidden for list";
        return Err(options_error(FieldError::forbidden("sendInitialEvents", why)));
    }
    let Some(wanted) = request.resource_version_match.as_deref().filter(|text| !text.is_empty()) else {
        return Ok(());
    };
    let supplied = request.resource_version.as_deref().is_some_and(|text| !text.is_empty());
    let continued = request.continue_token.as_deref().is_some_and(|token| !token.is_empty());
    if continued {
        let why = "resourceVersionMatch is forbidden when continue is provided";
        return Err(options_error(FieldError::forbidden(MATCH, why)));
    }
    if !supplied {
        let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
        return Err(options_error(FieldError::forbidden(MATCH, why)));
    }
    match wanted {
        "NotOlderThan" => Ok(()),
        "Exact" if version == Some(0) => {
            let why = "resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"";
            Err(options_error(FieldError::forbidden(MATCH, why)))
        }
        "Exact" => Ok(()),
        other => {
            let supported = ["Exact", "NotOlderThan", ""];
            Err(options_error(FieldError::not_supported(MATCH, &Value::from(other), supported)))
        }
    }
}

impl Store {
    /// One object, or the `Scale` of it.
    pub fn get(&self, target: &Target, subresource: Subresource) -> Result<Arc<Value>, StatusError> {
        let object = Self::present(&target.resource, self.find(target)?);
        if subresource == Subresource::Scale {
            self.scale_of(target, &object).map(Arc::new)
        } else {
            Ok(object)
        }
    }

    /// A page of the objects that the request selects.
    ///
    /// A version in the future is [`StatusError::version_in_future`]; the caller may wait for writes and ask again.
    pub fn list(&self, info: &Arc<ResourceInfo>, request: &ListRequest) -> Result<ListResult, StatusError> {
        request.fields.validate(info)?;
        let version = parse_version(request.resource_version.as_deref())
            .map_err(|why| StatusError::bad_request(format!("invalid resource version: {why}")))?;
        check_match(request, version)?;
        let token = request.continue_token.as_deref().filter(|token| !token.is_empty());
        if let Some(token) = token {
            if version.is_some_and(|version| version > 0) {
                let why = "specifying resource version is not allowed when using continue";
                return Err(StatusError::bad_request(why));
            }
            let token = Continue::decode(token).ok_or_else(|| {
                StatusError::bad_request(
                    "invalid continue token: continue key is not valid: encoding is wrong",
                )
            })?;
            return self.next_page(info, request, &token);
        }
        if let Some(version) = version.filter(|version| *version > self.resource_version()) {
            return Err(StatusError::version_in_future(version, self.resource_version()));
        }
        let exact = request.resource_version_match.as_deref() == Some("Exact")
            || request.resource_version_match.as_deref().is_none_or(str::is_empty) && request.limit > 0;
        let snapshot = match version {
            Some(version) if version > 0 && exact => Snapshot::Exact(version),
            _ => Snapshot::Newest,
        };
        let limit = if version == Some(0) { 0 } else { request.limit };
        self.page(info, request, snapshot, None, limit)
    }

    fn next_page(
        &self,
        info: &Arc<ResourceInfo>,
        request: &ListRequest,
        token: &Continue,
    ) -> Result<ListResult, StatusError> {
        let snapshot = if token.inconsistent { Snapshot::Newest } else { Snapshot::Exact(token.version) };
        self.page(info, request, snapshot, Some(&token.after), request.limit).map_err(|error| {
            if error.code != 410 {
                return error;
            }
            let fallback = Continue { inconsistent: true, ..token.clone() };
            let message = "The provided continue parameter is too old to display a consistent list result. You can \
                           start a new list without the continue parameter, or use the continue token in this response \
                           to retrieve the remainder of the results. Continuing with the provided token results in an \
                           inconsistent list - objects that were created, modified, or deleted between the time the \
                           first chunk was returned and now may show up in the list.";
            StatusError::expired(message).with_continue(fallback.encode())
        })
    }

    fn page(
        &self,
        info: &Arc<ResourceInfo>,
        request: &ListRequest,
        snapshot: Snapshot,
        after: Option<&Key>,
        limit: u64,
    ) -> Result<ListResult, StatusError> {
        let oldest = self.oldest_version(info);
        let version = match snapshot {
            Snapshot::Newest => self.resource_version(),
            Snapshot::Exact(version) if version > self.resource_version() => {
                return Err(StatusError::version_in_future(version, self.resource_version()));
            }
            Snapshot::Exact(version) if version < oldest => {
                return Err(StatusError::too_old(version, oldest));
            }
            Snapshot::Exact(version) => version,
        };
        let mut page = ListResult {
            items: Vec::new(),
            resource_version: version,
            continue_token: None,
            remaining: None,
        };
        let Some(table) = self.table(info) else {
            return Ok(page);
        };
        let selected = self
            .entries_at(table, request, snapshot)
            .filter(|(key, _)| after.is_none_or(|after| *key > after))
            .map(|(key, entry)| (key, Self::present(info, &entry)))
            .filter(|(_, object)| selects(&request.labels, &request.fields, object));
        let limit = usize::try_from(limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
        let mut last = None;
        let mut rest = 0;
        let countable = request.labels.is_empty() && request.fields.is_empty();
        for (key, object) in selected {
            if page.items.len() < limit {
                page.items.push(object);
                last = Some(key);
            } else {
                rest += 1;
                if !countable {
                    break;
                }
            }
        }
        if let (Some(after), true) = (last, rest > 0) {
            page.continue_token =
                Some(Continue { version, after: after.clone(), inconsistent: false }.encode());
            page.remaining = countable.then_some(rest);
        }
        Ok(page)
    }

    /// Entries of the request's namespace (and name, if the selector demands one) as they were at the snapshot.
    fn entries_at<'a>(
        &self,
        table: &'a Table,
        request: &'a ListRequest,
        snapshot: Snapshot,
    ) -> Box<dyn Iterator<Item = (&'a Key, Entry)> + 'a> {
        let then = match snapshot {
            Snapshot::Newest => BTreeMap::new(),
            Snapshot::Exact(version) => table.history.undo_until(version).unwrap_or_default(),
        };
        let namespace = request.namespace.as_deref();
        if then.is_empty() {
            if let (Some(name), Some(namespace)) = (request.fields.exact_name(), namespace) {
                let found = table.objects.get_key_value(&Key::new(namespace, name));
                return Box::new(found.into_iter().map(|(key, entry)| (&**key, entry.clone())));
            }
            return Box::new(table.range(namespace).map(|(key, entry)| (&**key, entry.clone())));
        }
        let mut state: BTreeMap<&Key, Entry> =
            table.range(namespace).map(|(key, entry)| (&**key, entry.clone())).collect();
        for (key, object) in then {
            match object {
                Some(object) if namespace.is_none_or(|namespace| key.namespace == namespace) => {
                    state.insert(key, Entry::of(object));
                }
                _ => {
                    state.remove(key);
                }
            }
        }
        Box::new(state.into_iter())
    }
}

pub(super) fn selects(labels: &LabelSelector, fields: &FieldSelector, object: &Value) -> bool {
    labels.matches(object) && fields.matches(object)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn continue_tokens_come_back_as_they_were(version: u64, namespace in "[a-z]{0,5}", name in "[a-z:.]{1,5}", inconsistent: bool) {
            let token = Continue { version, after: Key { namespace, name }, inconsistent };
            prop_assert_eq!(Continue::decode(&token.encode()), Some(token));
        }

        #[test]
        fn decoding_a_token_never_panics(text in "\\PC{0,40}") {
            let _ = Continue::decode(&text);
            let _ = Continue::decode(&URL_SAFE_NO_PAD.encode(text));
        }
    }
}
