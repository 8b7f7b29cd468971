//! What controllers want done, as data; [`perform`] does it.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::{ClusterResourceScope, NamespaceResourceScope};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::world::{Key, Objects, World};

/// A kind that controllers write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Pod.
    Pod,
    /// Node.
    Node,
    /// ReplicaSet.
    ReplicaSet,
    /// Deployment.
    Deployment,
    /// DaemonSet.
    DaemonSet,
    /// StatefulSet.
    StatefulSet,
    /// Job.
    Job,
    /// Event.
    Event,
    /// EndpointSlice.
    EndpointSlice,
}

/// One write.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// Create an object.
    Create {
        /// Its kind.
        kind: Kind,
        /// The object, with its namespace.
        object: Value,
    },
    /// Merge into an object.
    Patch {
        /// Its kind.
        kind: Kind,
        /// Where it is.
        key: Key,
        /// Whether its status is meant.
        status: bool,
        /// The JSON merge patch.
        patch: Value,
    },
    /// Delete an object, if it is still the one that was looked at.
    Delete {
        /// Its kind.
        kind: Kind,
        /// Where it is.
        key: Key,
        /// Which one.
        uid: Option<String>,
    },
    /// Bind a pod to a node.
    Bind {
        /// The pod.
        key: Key,
        /// Which one.
        uid: Option<String>,
        /// The node.
        node: String,
    },
}

/// Does one thing, and lets the world know what came of it before the watch does.
pub(crate) async fn perform(client: &Client, world: &mut World, action: Action) -> Result<(), kube::Error> {
    let kind = match &action {
        Action::Create { kind, .. } | Action::Patch { kind, .. } | Action::Delete { kind, .. } => *kind,
        Action::Bind { key, uid, node } => return bind(client, world, key, uid.as_deref(), node).await,
    };
    let namespace = match &action {
        Action::Create { object, .. } => {
            object.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or_default().to_string()
        }
        Action::Patch { key, .. } | Action::Delete { key, .. } | Action::Bind { key, .. } => {
            key.namespace.clone()
        }
    };
    match kind {
        Kind::Pod => {
            let done = write::<Pod>(&namespaced(client, &namespace), action).await?;
            match done {
                Done::Object(pod) => world.set_pod(*pod),
                Done::Gone(key) => world.remove_pod(&key),
            }
        }
        Kind::ReplicaSet => {
            let done = write::<ReplicaSet>(&namespaced(client, &namespace), action).await?;
            match done {
                Done::Object(set) => drop(world.replica_sets.set(*set)),
                Done::Gone(key) => forget(&mut world.replica_sets, &key),
            }
        }
        Kind::Deployment => {
            let done = write::<Deployment>(&namespaced(client, &namespace), action).await?;
            if let Done::Object(deployment) = done {
                world.deployments.set(*deployment);
            }
        }
        Kind::DaemonSet => {
            let done = write::<DaemonSet>(&namespaced(client, &namespace), action).await?;
            if let Done::Object(set) = done {
                world.daemon_sets.set(*set);
            }
        }
        Kind::StatefulSet => {
            let done = write::<StatefulSet>(&namespaced(client, &namespace), action).await?;
            if let Done::Object(set) = done {
                world.stateful_sets.set(*set);
            }
        }
        Kind::Job => {
            let done = write::<Job>(&namespaced(client, &namespace), action).await?;
            match done {
                Done::Object(job) => drop(world.jobs.set(*job)),
                Done::Gone(key) => forget(&mut world.jobs, &key),
            }
        }
        Kind::Node => {
            let done = write::<Node>(&cluster(client), action).await?;
            if let Done::Object(node) = done {
                world.nodes.set(*node);
            }
        }
        Kind::EndpointSlice => {
            let done = write::<EndpointSlice>(&namespaced(client, &namespace), action).await?;
            if let Done::Object(slice) = done {
                world.endpoint_slices.set(*slice);
            }
        }
        Kind::Event => drop(write::<Event>(&namespaced(client, &namespace), action).await?),
    }
    Ok(())
}

/// What came of a write.
enum Done<K> {
    Object(Box<K>),
    Gone(Key),
}

fn forget<K: Resource + Clone + PartialEq>(objects: &mut Objects<K>, key: &Key) {
    if let Some(object) = objects.get(&key.namespace, &key.name).cloned() {
        objects.remove(&object);
    }
}

fn namespaced<K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>>(
    client: &Client,
    namespace: &str,
) -> Api<K> {
    Api::namespaced(client.clone(), namespace)
}

fn cluster<K: Resource<Scope = ClusterResourceScope, DynamicType = ()>>(client: &Client) -> Api<K> {
    Api::all(client.clone())
}

async fn write<K>(api: &Api<K>, action: Action) -> Result<Done<K>, kube::Error>
where
    K: Resource + Clone + DeserializeOwned + serde::Serialize + std::fmt::Debug,
{
    let object = match action {
        Action::Create { object, .. } => {
            let object: K = serde_json::from_value(object).map_err(kube::Error::SerdeError)?;
            api.create(&PostParams::default(), &object).await?
        }
        Action::Patch { key, status: true, patch, .. } => {
            api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await?
        }
        Action::Patch { key, patch, .. } => {
            api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await?
        }
        Action::Delete { key, uid, .. } => {
            let preconditions = Some(Preconditions { uid, resource_version: None });
            let params = DeleteParams { preconditions, ..DeleteParams::background() };
            let gone = Done::Gone(key.clone());
            match api.delete(&key.name, &params).await {
                Err(kube::Error::Api(status)) if status.code == 404 => return Ok(gone),
                Err(error) => return Err(error),
                Ok(answer) => match answer.left() {
                    // Answered with the object: either it waits for its end, or this is how it was last.
                    Some(object) if object.meta().deletion_timestamp.is_some() => object,
                    _ => return Ok(gone),
                },
            }
        }
        Action::Bind { key, .. } => return Ok(Done::Gone(key)),
    };
    Ok(Done::Object(Box::new(object)))
}

async fn bind(
    client: &Client,
    world: &mut World,
    key: &Key,
    uid: Option<&str>,
    node: &str,
) -> Result<(), kube::Error> {
    let api: Api<Pod> = namespaced(client, &key.namespace);
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding",
        "metadata": {"name": key.name, "namespace": key.namespace, "uid": uid},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    });
    let _: Value = api.create_subresource("binding", &key.name, &PostParams::default(), &binding).await?;
    // The answer is a mere Status; until the watch tells, the copy is made by hand.
    if let Some(pod) = world.pods.get(&key.namespace, &key.name) {
        let mut bound = Pod::clone(pod);
        bound.spec.get_or_insert_default().node_name = Some(node.to_string());
        world.assume_pod(bound);
    }
    Ok(())
}
