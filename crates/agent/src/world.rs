//! Objects as tests write them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use model::EipPair;
use runtime::watch::Change;
use serde_json::{Value, json};

use crate::objects::{Event, Objects};

/// Objects as a user and the controller write them.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) objects: Objects,
    /// All that made it so
    pub(crate) events: Vec<Event>,
}

pub(crate) fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

impl World {
    pub(crate) fn with(mut self, kind: &str, value: Value) -> Self {
        let event = match kind {
            "pod" => Event::Pod(Change::Applied(read(value))),
            "namespace" => Event::Namespace(Change::Applied(read(value))),
            "gateway" => Event::Gateway(Change::Applied(read(value))),
            "policy" => Event::Policy(Change::Applied(read(value))),
            "cluster policy" => Event::ClusterPolicy(Change::Applied(read(value))),
            "tunnel" => Event::Tunnel(Change::Applied(read(value))),
            "info" => Event::ClusterInfo(Change::Applied(read(value))),
            "lease" => Event::Lease(Change::Applied(read(value))),
            other => panic!("{other}"),
        };
        self.events.push(event.clone());
        let changed = self.objects.absorb(event);
        assert!(changed, "{kind} made no difference");
        self
    }

    pub(crate) fn pod(self, namespace: &str, name: &str, app: &str, ip: &str) -> Self {
        self.with(
            "pod",
            json!({
                "metadata": {"namespace": namespace, "name": name, "labels": {"app": app}},
                "spec": {"nodeName": "n1"}, "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}
            }),
        )
    }

    /// Gateway `default` with nodes `g1` and `g2`, EIP 10.6.168.201 on `g1`; tunnels of all nodes.
    pub(crate) fn cluster() -> Self {
        let world = Self::default().with(
            "gateway",
            json!({
                "metadata": {"name": "default"},
                "spec": {"ippools": {"ipv4": ["10.6.168.201-10.6.168.205"]},
                         "nodeSelector": {"selector": {"matchLabels": {"egressgateway": "true"}}}},
                "status": {"nodeList": [
                    {"name": "g1", "status": "Ready", "eips": [{"ipv4": "10.6.168.201", "policies": [{"name": "p"}]}]},
                    {"name": "g2", "status": "NodeNotReady"}
                ]}
            }),
        );
        ["n1", "g1", "g2"].into_iter().enumerate().fold(world, |world, (index, node)| {
            world.with(
                "tunnel",
                json!({"metadata": {"name": node}, "status": {
                    "tunnel": {"ipv4": format!("172.31.0.{}", index + 1), "mac": format!("66:00:00:00:00:{index:02x}"),
                               "parent": {"name": "eth0", "ipv4": format!("10.6.0.{}", index + 1)}},
                    "phase": "Ready", "mark": "0x26000001", "probeKey": BASE64.encode([index as u8; 32])
                }}),
            )
        })
    }

    pub(crate) fn policy(self, spec: Value) -> Self {
        let status = json!({"eip": {"ipv4": "10.6.168.201"}, "node": "g1"});
        self.with(
            "policy",
            json!({"metadata": {"namespace": "default", "name": "p"}, "spec": spec, "status": status}),
        )
    }

    pub(crate) fn lease(self, node: &str, blocks: Value) -> Self {
        let leases = json!([{"gateway": "default", "ipv4": "10.6.168.201", "blocks": blocks}]);
        self.with(
            "lease",
            json!({"metadata": {"name": node}, "spec": {"generation": 1, "blockCount": 1, "leases": leases}}),
        )
    }
}

pub(crate) fn eip() -> EipPair {
    "10.6.168.201".parse().unwrap()
}

pub(crate) fn by_app() -> Value {
    json!({"egressGatewayName": "default", "appliedTo": {"podSelector": {"matchLabels": {"app": "web"}}}})
}
