//! The places in a write where admission has its say.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde_json::Value;

use crate::admission::index::AdmissionIndex;
use crate::admission::policy::{self, Binding};
use crate::admission::{Attributes, Operation, Pending, Requester, Stage};
use crate::meta;
use crate::resource::{Gvk, ResourceInfo};
use crate::selector::LabelSelector;
use crate::status_error::StatusError;
use crate::store::create::default;
use crate::store::objects::Store;
use crate::store::{Subresource, Target, WriteOptions};

/// A write that is about to happen.
pub(super) struct Change<'a> {
    pub(super) info: &'a Arc<ResourceInfo>,
    pub(super) subresource: Subresource,
    pub(super) new: Option<&'a Value>,
    pub(super) old: Option<&'a Value>,
    pub(super) dry_run: bool,
}

impl<'a> Change<'a> {
    /// A create, or an update of `old`.
    pub(super) fn to(
        new: &'a Value,
        old: Option<&'a Value>,
        info: &'a Arc<ResourceInfo>,
        subresource: Subresource,
        options: &WriteOptions,
    ) -> Self {
        Self { info, subresource, new: Some(new), old, dry_run: options.dry_run }
    }
}

impl Store {
    /// Policies and webhooks.
    pub fn admission(&self) -> &AdmissionIndex {
        &self.admission
    }

    /// The object as mutating webhooks want it; `None` if there are none for it.
    pub(super) fn mutated(
        &self,
        change: &Change<'_>,
        requester: Option<&Arc<Requester>>,
    ) -> Result<Option<Value>, StatusError> {
        let Some(requester) = requester.filter(|_| self.admission.has_webhooks()) else { return Ok(None) };
        let Some(mut object) = self.ask(Stage::Mutating, change, requester)? else { return Ok(None) };
        let Some(new) = change.new.filter(|_| object != *change.new.unwrap_or(&Value::Null)) else {
            return Ok(None);
        };
        if let Some(schema) = &change.info.compiled {
            schema.prune(&mut object);
        }
        default(change.info, &mut object);
        let same = |key: &str| meta::text(&object, key) == meta::text(new, key);
        if !same("name") || !same("namespace") {
            return Err(StatusError::bad_request(
                "a webhook may change neither name nor namespace of an object",
            ));
        }
        Ok(Some(object))
    }

    /// Refuses what policies or validating webhooks refuse.
    pub(super) fn admit(
        &self,
        change: &Change<'_>,
        requester: Option<&Arc<Requester>>,
    ) -> Result<(), StatusError> {
        let Some(requester) = requester.filter(|_| !self.admission.is_empty()) else { return Ok(()) };
        self.judge(change, requester)?;
        if self.admission.has_webhooks() {
            self.ask(Stage::Validating, change, requester)?;
        }
        Ok(())
    }

    fn judge(&self, change: &Change<'_>, requester: &Arc<Requester>) -> Result<(), StatusError> {
        let mut attributes = None;
        for (policy, binding) in self.admission.policies() {
            let attributes = attributes.get_or_insert_with(|| self.attributes(change, requester));
            if !policy::is_about(policy, binding, attributes) {
                continue;
            }
            let params = policy.param_kind.as_ref().map(|kind| self.params(kind, binding, attributes));
            if matches!(&params, Some(Ok(found)) if found.is_empty()) {
                continue;
            }
            policy::judge(policy, binding, attributes, params, &|warning| requester.warn(warning))?;
        }
        Ok(())
    }

    /// The parameters of a policy; none means that the request goes through.
    fn params(&self, kind: &Gvk, binding: &Binding, attributes: &Attributes) -> Result<Vec<Value>, String> {
        let Some(wanted) = &binding.params else { return Ok(vec![Value::Null]) };
        let info = self.registry().by_kind(kind);
        let info = info.ok_or_else(|| {
            format!(
                "failed to find resource referenced by paramKind: '{}, Kind={}'",
                kind.api_version(),
                kind.kind
            )
        })?;
        let namespace = match &wanted.namespace {
            _ if !info.namespaced => None,
            Some(namespace) => Some(namespace.clone()),
            None => Some(attributes.namespace.clone()),
        };
        let found: Vec<Value> = match &wanted.name {
            Some(name) => {
                let target = Target { resource: Arc::clone(info), namespace, name: name.clone() };
                self.get(&target, Subresource::Main)
                    .ok()
                    .map(|object| (*object).clone())
                    .into_iter()
                    .collect()
            }
            None => {
                let everything = LabelSelector::default();
                let selector = wanted.selector.as_ref().unwrap_or(&everything);
                let entries =
                    self.table(info).into_iter().flat_map(|table| table.range(namespace.as_deref()));
                let shown = entries.map(|(_, entry)| Self::present(info, entry));
                shown.filter(|object| selector.matches(object)).map(|object| (*object).clone()).collect()
            }
        };
        if found.is_empty() && !wanted.allows_without {
            let why = "no params found for policy binding with `Deny` parameterNotFoundAction";
            return Err(format!("failed to configure binding: {why}"));
        }
        Ok(found)
    }

    /// What webhooks say: the object as they want it, or `None` if nobody has to be asked.
    fn ask(
        &self,
        stage: Stage,
        change: &Change<'_>,
        requester: &Arc<Requester>,
    ) -> Result<Option<Value>, StatusError> {
        let attributes = self.attributes(change, requester);
        let hooks = self.admission.webhooks(stage, &attributes);
        if hooks.is_empty() {
            return Ok(None);
        }
        match requester.answered(stage, &attributes) {
            Some(object) => Ok(Some(object)),
            None => Err(requester.ask(Pending { stage, attributes, hooks })),
        }
    }

    fn attributes(&self, change: &Change<'_>, requester: &Arc<Requester>) -> Attributes {
        let Change { info, subresource, new, old, dry_run } = change;
        let shown = new.or(*old).unwrap_or(&Value::Null);
        let namespace = if info.builtin && info.gvk.group.is_empty() && info.plural == "namespaces" {
            meta::name(shown)
        } else {
            meta::namespace(shown)
        };
        let namespace_object = match namespace {
            "" => Value::Null,
            name => self.object("", "namespaces", "", name).map_or(Value::Null, |object| (**object).clone()),
        };
        let of_scale = *subresource == Subresource::Scale;
        let shape = |object: Option<&Value>| match object {
            Some(object) if of_scale => {
                let target = Target {
                    resource: Arc::clone(info),
                    namespace: None,
                    name: meta::name(object).to_owned(),
                };
                self.scale_of(&target, object).unwrap_or(Value::Null)
            }
            Some(object) => object.clone(),
            None => Value::Null,
        };
        Attributes {
            kind: if of_scale { Gvk::new("autoscaling", "v1", "Scale") } else { info.gvk.clone() },
            subresource: match subresource {
                Subresource::Main => "",
                Subresource::Status => "status",
                Subresource::Scale => "scale",
                Subresource::Finalize => "finalize",
            },
            operation: operation(change),
            namespace: namespace.to_owned(),
            name: meta::name(shown).to_owned(),
            object: shape(*new),
            old: shape(*old),
            namespace_object,
            user: Arc::clone(&requester.user),
            dry_run: *dry_run,
            options: options_of(operation(change), &requester.options),
            resource: Arc::clone(info),
        }
    }

    /// The versions in which a resource is served.
    pub(crate) fn served_versions(&self, info: &ResourceInfo) -> Vec<String> {
        self.registry().versions_of(&info.group_resource()).map(|info| info.gvk.version.clone()).collect()
    }

    /// Where a port of a Service leads to; the error says why nowhere.
    pub(crate) fn ready_endpoints(
        &self,
        namespace: &str,
        name: &str,
        port: u16,
    ) -> Result<Vec<SocketAddr>, String> {
        let service = self
            .object("", "services", namespace, name)
            .ok_or_else(|| format!("service {name:?} not found"))?;
        let ports = service.pointer("/spec/ports").and_then(Value::as_array);
        let own = ports
            .into_iter()
            .flatten()
            .find(|own| own.get("port").and_then(Value::as_u64) == Some(port.into()));
        let own = own.ok_or_else(|| format!("no service port {port} found for service {name:?}"))?;
        let port_name = own.get("name").and_then(Value::as_str).unwrap_or_default();
        let Some(info) = self.registry().get("discovery.k8s.io", "v1", "endpointslices") else {
            return Ok(Vec::new());
        };
        let slices = self.table(info).into_iter().flat_map(|table| table.range(Some(namespace)));
        let slices = slices
            .filter(|(_, slice)| meta::label(&slice.object, "kubernetes.io/service-name") == Some(name));
        let mut addresses = Vec::new();
        for (_, slice) in slices {
            addresses.extend(addresses_in(&slice.object, port_name));
        }
        if addresses.is_empty() {
            return Err(format!("no endpoints available for service {name:?}"));
        }
        Ok(addresses)
    }
}

/// The options as those of the operation: a patch is an update, or a create, as far as anybody else is concerned.
fn options_of(operation: Operation, options: &Value) -> Value {
    let kind = match operation {
        Operation::Create => "CreateOptions",
        Operation::Update => "UpdateOptions",
        Operation::Delete => "DeleteOptions",
    };
    let mut options = options.clone();
    meta::map_of(&mut options).insert("kind".to_owned(), kind.into());
    options
}

fn operation(change: &Change<'_>) -> Operation {
    match (change.new, change.old) {
        (Some(_), Some(_)) => Operation::Update,
        (None, Some(_)) => Operation::Delete,
        _ => Operation::Create,
    }
}

/// The ready endpoints of a slice with its port of that name.
fn addresses_in(slice: &Value, port_name: &str) -> Vec<SocketAddr> {
    let list = |key: &str| slice.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let port = list("ports")
        .iter()
        .find(|port| port.get("name").and_then(Value::as_str).unwrap_or_default() == port_name)
        .and_then(|port| port.get("port")?.as_u64());
    let Some(port) = port.and_then(|port| u16::try_from(port).ok()) else { return Vec::new() };
    let ready = list("endpoints")
        .iter()
        .filter(|endpoint| endpoint.pointer("/conditions/ready").and_then(Value::as_bool).unwrap_or(true));
    let texts = ready.filter_map(|endpoint| endpoint.pointer("/addresses/0")?.as_str());
    texts
        .filter_map(|text| text.parse::<IpAddr>().ok())
        .map(|address| SocketAddr::new(address, port))
        .collect()
}
