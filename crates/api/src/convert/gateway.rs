//! EgressGateway.

use model::gateway::Gateway;
use model::pool::Family;
use model::{IpPool, Reason};

use super::{invalid, optional_v4, optional_v6, selector};
use crate::v1beta1::EgressGateway;

/// What the gateway asks for, or why it can't be had.
pub fn gateway(object: &EgressGateway) -> Result<Gateway, Reason> {
    let spec = &object.spec;
    let nodes = spec.node_selector.as_ref().and_then(|nodes| nodes.selector.as_ref());
    let nodes = selector("spec.nodeSelector.selector", nodes)?;
    if nodes.is_empty() {
        return Err(invalid(
            "spec.nodeSelector.selector",
            "selects no node; give matchLabels or matchExpressions, for instance matchLabels: {egressgateway: \"true\"}",
        ));
    }
    let pools = &spec.ippools;
    Ok(Gateway {
        cluster_default: spec.cluster_default,
        nodes,
        pool_v4: pool("spec.ippools.ipv4", Family::V4, &pools.ipv4)?,
        pool_v6: pool("spec.ippools.ipv6", Family::V6, &pools.ipv6)?,
        default_v4: optional_v4("spec.ippools.ipv4DefaultEIP", &pools.ipv4_default_eip)?,
        default_v6: optional_v6("spec.ippools.ipv6DefaultEIP", &pools.ipv6_default_eip)?,
    })
}

fn pool(field: &str, family: Family, entries: &[String]) -> Result<IpPool, Reason> {
    let parsed = IpPool::parse(family, entries);
    parsed.map_err(|(index, error)| invalid(format!("{field}[{index}]"), error.to_string()))
}
