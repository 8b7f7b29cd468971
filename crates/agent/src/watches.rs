//! The watches of a node's agent.

use std::fmt::Debug;

use api::slim::{SlimNamespace, SlimPod};
use api::v1beta1::{
    EgressClusterInfo, EgressClusterPolicy, EgressGateway, EgressPolicy, EgressPortLease, EgressTunnel,
};
use kube::runtime::watcher::Config;
use kube::{Api, Client, Resource};
use runtime::supervisor::Supervisor;
use runtime::watch::{Absent, Change, watch};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::Sender;

use crate::objects::Event;

/// Starts all watches; what they say goes to the channel.
pub fn start(supervisor: &mut Supervisor, client: &Client, node: &str, events: &Sender<Event>) {
    let mut watches = Watches { supervisor, client, events };
    let own_pods = Config::default().fields(&format!("spec.nodeName={node}"));
    watches.start::<SlimPod>("watch pods", own_pods, Event::Pod);
    watches.start::<SlimNamespace>("watch namespaces", Config::default(), Event::Namespace);
    watches.start::<EgressGateway>("watch gateways", Config::default(), Event::Gateway);
    watches.start::<EgressPolicy>("watch policies", Config::default(), Event::Policy);
    watches.start::<EgressClusterPolicy>("watch cluster policies", Config::default(), Event::ClusterPolicy);
    watches.start::<EgressTunnel>("watch tunnels", Config::default(), Event::Tunnel);
    watches.start::<EgressClusterInfo>("watch cluster info", Config::default(), Event::ClusterInfo);
    watches.start::<EgressPortLease>("watch leases", Config::default(), Event::Lease);
}

struct Watches<'a> {
    supervisor: &'a mut Supervisor,
    client: &'a Client,
    events: &'a Sender<Event>,
}

impl Watches<'_> {
    fn start<K>(&mut self, name: &'static str, config: Config, wrap: fn(Change<K>) -> Event)
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let shutdown = self.supervisor.shutdown();
        let api = Api::all(self.client.clone());
        let watch = watch::<K, Event>(api, config, Absent::Wait, wrap, self.events.clone(), shutdown);
        self.supervisor.spawn(name, watch);
    }
}
