//! From objects in a review to what admission judges.

use api::convert;
use api::names;
use api::v1beta1::{EgressClusterPolicy, EgressGateway, EgressIp, EgressPolicy};
use kube::ResourceExt;
use plan::admission::{EgressFields, GatewayDraft, PolicyDraft};

use crate::record;

pub(super) fn gateway(object: &EgressGateway) -> GatewayDraft {
    GatewayDraft {
        spec: convert::read_gateway(object),
        kept: object.finalizers().iter().any(|finalizer| finalizer == names::FINALIZER_GATEWAY),
        status: record::gateway(object).status,
    }
}

pub(super) fn policy(object: &EgressPolicy) -> PolicyDraft {
    let fields = fields(&object.spec.egress_gateway_name, &object.spec.egress_ip);
    PolicyDraft { spec: convert::read_policy(object), fields }
}

pub(super) fn cluster_policy(object: &EgressClusterPolicy) -> PolicyDraft {
    let fields = fields(&object.spec.egress_gateway_name, &object.spec.egress_ip);
    PolicyDraft { spec: convert::read_cluster_policy(object), fields }
}

fn fields(gateway: &str, egress: &EgressIp) -> EgressFields {
    EgressFields {
        gateway: gateway.to_owned(),
        use_node_ip: egress.use_node_ip,
        ipv4: egress.ipv4.clone(),
        ipv6: egress.ipv6.clone(),
        allocator_policy: egress.allocator_policy.clone(),
    }
}
