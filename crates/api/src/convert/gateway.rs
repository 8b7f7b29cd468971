//! EgressGateway.

use model::gateway::Gateway;
use model::pool::Family;
use model::{IpPool, Reason};

use super::{Problems, first, optional_v4, optional_v6, selector};
use crate::v1beta1::EgressGateway;

/// What the gateway asks for, or why it can't be had.
pub fn gateway(object: &EgressGateway) -> Result<Gateway, Reason> {
    first(read_gateway(object))
}

/// What the gateway asks for, or all that is wrong with it.
pub fn read_gateway(object: &EgressGateway) -> Result<Gateway, Vec<Reason>> {
    let spec = &object.spec;
    let mut problems = Problems::default();
    let nodes = spec.node_selector.as_ref().and_then(|nodes| nodes.selector.as_ref());
    let nodes = problems.sort(selector("spec.nodeSelector.selector", nodes).and_then(|nodes| {
        if nodes.is_empty() {
            return Err(Reason::invalid_field(
                "spec.nodeSelector.selector",
                "selects no node; give matchLabels or matchExpressions, for instance matchLabels: {egressgateway: \"true\"}",
            ));
        }
        Ok(nodes)
    }));
    let pools = &spec.ippools;
    let pool_v4 = pool("spec.ippools.ipv4", Family::V4, &pools.ipv4, &mut problems);
    let pool_v6 = pool("spec.ippools.ipv6", Family::V6, &pools.ipv6, &mut problems);
    let default_v4 =
        problems.sort(optional_v4("spec.ippools.ipv4DefaultEIP", &pools.ipv4_default_eip)).flatten();
    let default_v6 =
        problems.sort(optional_v6("spec.ippools.ipv6DefaultEIP", &pools.ipv6_default_eip)).flatten();
    let cluster_default = spec.cluster_default;
    problems.unless(nodes.map(|nodes| Gateway {
        cluster_default,
        nodes,
        pool_v4,
        pool_v6,
        default_v4,
        default_v6,
    }))
}

fn pool(field: &str, family: Family, entries: &[String], problems: &mut Problems) -> IpPool {
    if let Ok(pool) = IpPool::parse(family, entries) {
        return pool;
    }
    let parsed = entries.iter().enumerate().map(|(index, entry)| {
        IpPool::parse(family, &[entry])
            .map_err(|(_, error)| Reason::invalid_value(format!("{field}[{index}]"), entry, error.problem()))
    });
    let readable: Vec<IpPool> = parsed.filter_map(|read| problems.sort(read)).collect();
    IpPool::union(family, &readable)
}
