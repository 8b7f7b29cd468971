//! EndpointSlices: which pods are behind a Service. One slice per Service, of IPv4, which is what webhooks are called by.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::action::{Action, Kind};
use super::owner_reference;
use crate::pods::{is_finished, is_ready, is_terminating, node_name};
use crate::world::{Key, World};

/// Label by which slices are found.
const SERVICE: &str = "kubernetes.io/service-name";

/// What all Services with a selector need.
pub(crate) fn reconcile(world: &World) -> Vec<Action> {
    world.services.iter().filter_map(|service| reconcile_one(world, service)).collect()
}

fn reconcile_one(world: &World, service: &Service) -> Option<Action> {
    let spec = service.spec.as_ref()?;
    let selector = spec.selector.as_ref().filter(|selector| !selector.is_empty())?;
    let key = Key::of(service);
    let is_selected = |pod: &&Pod| {
        pod.namespace().unwrap_or_default() == key.namespace
            && !is_finished(pod)
            && selector.iter().all(|(label, value)| pod.labels().get(label) == Some(value))
    };
    let pods: Vec<&Pod> = world.pods.iter().map(AsRef::as_ref).filter(is_selected).collect();
    let endpoints: Vec<Value> = pods.iter().filter_map(|pod| endpoint(pod)).collect();
    let ports = spec.ports.iter().flatten().filter_map(|port| slice_port(port, pods.first().copied()));
    let ports: Vec<Value> = ports.collect();
    let name = format!("{}-ipv4", key.name);
    let Some(known) = world.endpoint_slices.get(&key.namespace, &name) else {
        let owner = owner_reference("v1", "Service", service);
        let object = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": name, "namespace": key.namespace, "ownerReferences": [owner],
                "labels": {SERVICE: key.name, "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"},
            },
            "addressType": "IPv4", "endpoints": endpoints, "ports": ports,
        });
        return Some(Action::Create { kind: Kind::EndpointSlice, object });
    };
    let patch = json!({"endpoints": endpoints, "ports": ports});
    let wanted: EndpointSlice = serde_json::from_value(patch.clone()).ok()?;
    let same = wanted.endpoints == known.endpoints
        && wanted.ports.unwrap_or_default() == known.ports.clone().unwrap_or_default();
    let key = Key { namespace: key.namespace, name };
    (!same).then_some(Action::Patch { kind: Kind::EndpointSlice, key, status: false, patch })
}

fn endpoint(pod: &Pod) -> Option<Value> {
    let status = pod.status.as_ref()?;
    let addresses = status.pod_ips.iter().flatten().map(|address| address.ip.as_str());
    let is_v4 = |text: &&str| text.parse::<IpAddr>().is_ok_and(|address| address.is_ipv4());
    let address = addresses.chain(status.pod_ip.as_deref()).find(is_v4)?;
    let (ready, terminating) = (is_ready(pod), is_terminating(pod));
    Some(json!({
        "addresses": [address],
        "conditions": {"ready": ready && !terminating, "serving": ready, "terminating": terminating},
        "nodeName": node_name(pod),
        "targetRef": {"kind": "Pod", "name": pod.name_any(), "namespace": pod.namespace(), "uid": pod.uid()},
    }))
}

fn slice_port(port: &ServicePort, pod: Option<&Pod>) -> Option<Value> {
    let number = match &port.target_port {
        None => port.port,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(name)) => {
            let containers = pod?.spec.as_ref()?.containers.iter();
            let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
            ports.find(|port| port.name.as_ref() == Some(name))?.container_port
        }
    };
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    Some(json!({"name": port.name.clone().unwrap_or_default(), "port": number, "protocol": protocol}))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::WorldEvent;
    use jiff::Timestamp;
    use kube::runtime::watcher::Event;

    fn world() -> World {
        let mut world = World::default();
        let service = json!({
            "metadata": {"name": "s", "namespace": "n", "uid": "1"},
            "spec": {"selector": {"app": "x"}, "ports": [{"name": "web", "port": 443, "targetPort": "https"}]},
        });
        world.absorb(
            WorldEvent::Service(Event::Apply(serde_json::from_value(service).unwrap())),
            Timestamp::now(),
        );
        for (name, app, ready) in [("a", "x", "True"), ("b", "x", "False"), ("c", "y", "True")] {
            let pod = json!({
                "metadata": {"name": name, "namespace": "n", "labels": {"app": app}},
                "spec": {"nodeName": "m", "containers": [
                    {"name": "c", "ports": [{"name": "https", "containerPort": 8443}]}]},
                "status": {"podIPs": [{"ip": "fd00::7"}, {"ip": "10.0.0.7"}],
                           "conditions": [{"type": "Ready", "status": ready}]},
            });
            world.absorb(
                WorldEvent::Pod(Event::Apply(serde_json::from_value(pod).unwrap())),
                Timestamp::now(),
            );
        }
        world
    }

    #[test]
    fn a_services_pods_are_listed_and_only_ready_ones_are_ready() {
        let mut world = world();
        let actions = reconcile(&world);
        let [Action::Create { object, .. }] = actions.as_slice() else { panic!("{actions:?}") };
        assert_eq!(object["metadata"]["labels"][SERVICE], "s");
        assert_eq!(object["ports"], json!([{"name": "web", "port": 8443, "protocol": "TCP"}]));
        let ready = |index: usize| &object["endpoints"][index]["conditions"]["ready"];
        assert_eq!(
            (ready(0), ready(1), object["endpoints"].as_array().unwrap().len()),
            (&json!(true), &json!(false), 2)
        );
        assert_eq!(object["endpoints"][0]["addresses"], json!(["10.0.0.7"]));
        // What is as it should be is left alone.
        let slice = serde_json::from_value(object.clone()).unwrap();
        world.absorb(WorldEvent::EndpointSlice(Event::Apply(slice)), Timestamp::now());
        assert_eq!(reconcile(&world), []);
    }
}
