//! Agents that say at once what a healthy agent says.

use api::names;
use runtime::writer::Part;
use serde_json::json;

use crate::objects::{Kind, Object};
use crate::people::node_address;
use crate::random::Random;
use crate::server::Server;

/// Every agent says what it has to say.
pub fn agents(server: &mut Server, random: &mut Random) {
    let mut patches = Vec::new();
    for ((_, node), object) in server.all(Kind::Tunnel) {
        let Object::Tunnel(tunnel) = &**object else { continue };
        let known = api::convert::tunnel(tunnel);
        if known.ipv4.is_some() && known.parent.is_none() {
            let parent = json!({"name": "eth0", "ipv4": node_address(node).to_string()});
            let condition = json!([{"type": names::CONDITION_READY, "status": "True", "reason": "Programmed",
                "message": "it is", "lastTransitionTime": "2024-01-01T00:00:00Z"}]);
            let status = json!({"tunnel": {"parent": parent}, "conditions": condition});
            patches.push((Kind::Tunnel, node.clone(), status));
        }
    }
    for ((_, node), object) in server.all(Kind::Lease) {
        let Object::Lease(lease) = &**object else { continue };
        let known = api::convert::port_lease(lease);
        let told = lease.status.clone().unwrap_or_default();
        if told.observed_generation != known.generation {
            let used = if random.permille(700) { 0 } else { random.between(1, 5000) };
            let eips: Vec<_> = known
                .leases
                .iter()
                .map(|lease| json!({"ipv4": lease.eip.v4().map(|eip| eip.to_string()), "portsInUse": used}))
                .collect();
            let status = json!({"observedGeneration": known.generation, "eips": eips});
            patches.push((Kind::Lease, node.clone(), status));
        }
    }
    for (kind, node, status) in patches {
        let written = server.patch(kind, None, &node, Part::Status, json!({ "status": status }));
        written.expect("an agent's status is written");
    }
}
