//! Rules in CEL: what a pattern can't say, and an API server judges without our webhooks.
//!
//! They are those of `plan::admission` that need no other object. Only what every supported Kubernetes has is used: no
//! library of addresses. None of them iterates, so that each costs next to nothing by the API server's estimate as well.

use serde_json::{Value, json};

/// A rule at one place of a schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The expression.
    pub rule: &'static str,
    /// What is wrong where it is false, and what helps.
    pub message: &'static str,
    /// The field that it is about, from where the rule is; empty: the place itself.
    pub field: &'static str,
}

const fn rule(rule: &'static str, message: &'static str) -> Rule {
    Rule { rule, message, field: "" }
}

/// The rules as a schema has them.
pub(crate) fn written(rules: &[Rule]) -> Value {
    let rules = rules.iter().map(|Rule { rule, message, field }| {
        if field.is_empty() {
            json!({"rule": rule, "message": message})
        } else {
            json!({"rule": rule, "message": message, "fieldPath": field})
        }
    });
    rules.collect()
}

/// Of the spec of either policy.
pub(crate) fn policy_spec() -> Value {
    written(&[Rule {
        rule: "!has(oldSelf.egressGatewayName) || oldSelf.egressGatewayName == '' || \
               (has(self.egressGatewayName) && self.egressGatewayName == oldSelf.egressGatewayName)",
        message: "is immutable; delete the policy and make it anew",
        field: ".egressGatewayName",
    }])
}

/// Of `spec.egressIP`.
pub(crate) fn egress_ip() -> Value {
    const IMMUTABLE: &str = "is immutable; delete the policy and make it anew";
    written(&[
        rule(
            "!has(self.useNodeIP) || !self.useNodeIP || \
             ((!has(self.ipv4) || self.ipv4 == '') && (!has(self.ipv6) || self.ipv6 == ''))",
            "useNodeIP excludes ipv4 and ipv6; remove the addresses or set useNodeIP to false",
        ),
        Rule {
            rule: "(has(self.ipv4) ? self.ipv4 : '') == (has(oldSelf.ipv4) ? oldSelf.ipv4 : '')",
            message: IMMUTABLE,
            field: ".ipv4",
        },
        Rule {
            rule: "(has(self.ipv6) ? self.ipv6 : '') == (has(oldSelf.ipv6) ? oldSelf.ipv6 : '')",
            message: IMMUTABLE,
            field: ".ipv6",
        },
        Rule {
            rule: "(has(self.useNodeIP) && self.useNodeIP) == (has(oldSelf.useNodeIP) && oldSelf.useNodeIP)",
            message: IMMUTABLE,
            field: ".useNodeIP",
        },
        Rule {
            rule: "(has(self.allocatorPolicy) && self.allocatorPolicy == 'rr') == \
                   (has(oldSelf.allocatorPolicy) && oldSelf.allocatorPolicy == 'rr')",
            message: IMMUTABLE,
            field: ".allocatorPolicy",
        },
    ])
}

/// Of the spec of an EgressPortLease.
pub(crate) fn port_lease_spec() -> Value {
    written(&[Rule {
        rule: "!has(oldSelf.nodeName) || oldSelf.nodeName == '' || \
               (has(self.nodeName) && self.nodeName == oldSelf.nodeName && \
               (has(self.part) ? self.part : 0) == (has(oldSelf.part) ? oldSelf.part : 0))",
        message: "what a node holds is no other's; the controller makes an object for each",
        field: ".nodeName",
    }])
}

/// Of `spec.appliedTo`.
pub(crate) fn applied_to() -> Value {
    written(&[
        rule(
            "!(has(self.podSubnet) && size(self.podSubnet) > 0) || !has(self.podSelector) || \
             !((has(self.podSelector.matchLabels) && size(self.podSelector.matchLabels) > 0) || \
             (has(self.podSelector.matchExpressions) && size(self.podSelector.matchExpressions) > 0))",
            "podSelector and podSubnet can't be combined; remove one",
        ),
        rule(
            "(has(self.podSubnet) && size(self.podSubnet) > 0) || (has(self.podSelector) && \
             ((has(self.podSelector.matchLabels) && size(self.podSelector.matchLabels) > 0) || \
             (has(self.podSelector.matchExpressions) && size(self.podSelector.matchExpressions) > 0)))",
            "give a podSelector with matchLabels or matchExpressions, or a podSubnet",
        ),
    ])
}

/// Of a gateway's `spec.nodeSelector.selector`.
pub(crate) fn selector() -> Value {
    written(&[rule(
        "(has(self.matchLabels) && size(self.matchLabels) > 0) || \
         (has(self.matchExpressions) && size(self.matchExpressions) > 0)",
        "selects no node; give matchLabels or matchExpressions",
    )])
}

/// Of a gateway's `spec.ippools`.
pub(crate) fn ip_pools() -> Value {
    written(&[
        Rule {
            rule: "!has(self.ipv4DefaultEIP) || self.ipv4DefaultEIP == '' || (has(self.ipv4) && size(self.ipv4) > 0)",
            message: "is not in spec.ippools.ipv4, which is empty; add it there or empty this field",
            field: ".ipv4DefaultEIP",
        },
        Rule {
            rule: "!has(self.ipv6DefaultEIP) || self.ipv6DefaultEIP == '' || (has(self.ipv6) && size(self.ipv6) > 0)",
            message: "is not in spec.ippools.ipv6, which is empty; add it there or empty this field",
            field: ".ipv6DefaultEIP",
        },
    ])
}

/// Of an EgressClusterInfo.
pub(crate) const CLUSTER_INFO: &[Rule] =
    &[rule("self.metadata.name == 'default'", "nobody reads it; name it `default`")];
