//! Notices of the plan as events of the objects that they are about.

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client, Resource};
use plan::outcome::{Notice, Subject};
use tracing::{debug, info, warn};

use crate::state::State;

/// Events at a time, and in one go; more are only logged.
const CONCURRENCY: usize = 8;
const MOST: usize = 200;
/// Where events of objects without a namespace are, as Kubernetes has it.
const NAMESPACE_OF_CLUSTER_OBJECTS: &str = "default";
const COMPONENT: &str = "egressgateway-controller";

/// Logs what the plan has to say, and tells it to who looks at the objects. An event that can't be written is lost.
pub(crate) async fn publish(client: &Client, state: &State, notices: &[Notice], reporter: &str, now: &Time) {
    let mut events = Vec::new();
    for (number, notice) in notices.iter().enumerate() {
        let Notice { subject, warning, code, message } = notice;
        if *warning {
            warn!(%subject, reason = code, "{message}");
        } else {
            info!(%subject, reason = code, "{message}");
        }
        if number < MOST {
            events.extend(event(state, notice, reporter, number, now));
        }
    }
    let writes = stream::iter(events).map(|event| write(client, event));
    writes.buffer_unordered(CONCURRENCY).collect::<Vec<()>>().await;
}

/// Writes an event; one that can't be written is lost.
pub(crate) async fn write(client: &Client, event: Event) {
    let namespace = event.metadata.namespace.clone().unwrap_or_default();
    let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
    if let Err(error) = api.create(&PostParams::default(), &event).await {
        debug!(error = %error, "event lost");
    }
}

fn event(state: &State, notice: &Notice, reporter: &str, number: usize, now: &Time) -> Option<Event> {
    let involved = match &notice.subject {
        Subject::Gateway(name) => reference(state.gateways.get(name)?),
        Subject::Policy(key) => match state.policies.get(key) {
            Some(policy) => reference(policy),
            None => reference(state.cluster_policies.get(key)?),
        },
        Subject::Tunnel(name) => reference(state.tunnels.get(name)?),
    };
    let said = Said { warning: notice.warning, reason: &notice.code, message: &notice.message };
    Some(about(involved, &said, reporter, number, now))
}

/// What an event says.
pub(crate) struct Said<'a> {
    pub(crate) warning: bool,
    pub(crate) reason: &'a str,
    pub(crate) message: &'a str,
}

/// An event of an object; `number` tells those of one moment apart.
pub(crate) fn about(
    involved: ObjectReference,
    said: &Said<'_>,
    reporter: &str,
    number: usize,
    now: &Time,
) -> Event {
    let namespace = involved.namespace.clone().unwrap_or_else(|| NAMESPACE_OF_CLUSTER_OBJECTS.to_owned());
    let instant = MicroTime(jiff::Timestamp::now());
    let unique = format!("{:x}{number:x}", instant.0.as_nanosecond());
    let mut name = involved.name.clone().unwrap_or_default();
    name.truncate(200);
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{unique}")),
            namespace: Some(namespace),
            ..ObjectMeta::default()
        },
        involved_object: involved,
        type_: Some(if said.warning { "Warning" } else { "Normal" }.to_owned()),
        reason: Some(said.reason.to_owned()),
        message: Some(said.message.to_owned()),
        source: Some(EventSource { component: Some(COMPONENT.to_owned()), host: None }),
        reporting_component: Some(COMPONENT.to_owned()),
        reporting_instance: Some(reporter.to_owned()),
        first_timestamp: Some(now.clone()),
        last_timestamp: Some(now.clone()),
        count: Some(1),
        ..Event::default()
    }
}

fn reference<K: Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    ObjectReference { resource_version: object.meta().resource_version.clone(), ..object.object_ref(&()) }
}
