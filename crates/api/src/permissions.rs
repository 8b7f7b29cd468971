//! What controller and agent ask of the API server: the source of their roles.
//!
//! Each entry is something that the code does, with the reason. `cargo xtask rbac` writes the roles from it. What is asked
//! for without an entry here is refused, and an entry that nothing asks for is noticed by the tests that compare both.

use crate::names::GROUP;

/// One of the two programs, and the service account that it runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program {
    /// Name of its service account, its roles and their bindings
    pub account: &'static str,
    /// Everything that it may do
    pub permissions: &'static [Permission],
}

/// Verbs on resources that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permission {
    /// API group; empty for the core group
    pub group: &'static str,
    /// Plurals, `PLURAL/SUBRESOURCE` for a part of them
    pub resources: &'static [&'static str],
    /// What is done with them
    pub verbs: &'static [&'static str],
    /// Where
    pub place: Place,
    /// What for
    pub why: &'static str,
}

/// Where a permission holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In every namespace, and on what is in none
    Cluster,
    /// In the namespace that the program runs in
    OwnNamespace,
    /// On what is in no namespace, and has one of these names
    NamedInCluster(&'static [&'static str]),
    /// In the namespace that the program runs in, on what has one of these names
    NamedInOwnNamespace(&'static [&'static str]),
}

impl Place {
    /// Whether it is beyond the program's own namespace.
    #[must_use]
    pub fn is_cluster(self) -> bool {
        matches!(self, Self::Cluster | Self::NamedInCluster(_))
    }

    /// Names of the objects, where not all of the kind are meant.
    #[must_use]
    pub fn names(self) -> &'static [&'static str] {
        match self {
            Self::Cluster | Self::OwnNamespace => &[],
            Self::NamedInCluster(names) | Self::NamedInOwnNamespace(names) => names,
        }
    }
}

/// Both programs.
pub const PROGRAMS: [Program; 2] = [CONTROLLER, AGENT];

/// The controller.
pub const CONTROLLER: Program = Program {
    account: "egressgateway-controller",
    permissions: &[
        Permission {
            group: "",
            resources: &["namespaces", "nodes", "pods", "services"],
            verbs: &["list", "watch"],
            place: Place::Cluster,
            why: "Which nodes are gateways, which pods a policy selects, and which addresses belong to the cluster.",
        },
        Permission {
            group: "networking.k8s.io",
            resources: &["servicecidrs"],
            verbs: &["list", "watch"],
            place: Place::Cluster,
            why: "The addresses of Services, where the cluster tells them.",
        },
        Permission {
            group: "crd.projectcalico.org",
            resources: &["ippools"],
            verbs: &["list", "watch"],
            place: Place::Cluster,
            why: "The addresses of pods, where Calico gives them.",
        },
        Permission {
            group: "cilium.io",
            resources: &["ciliumnodes", "ciliumpodippools"],
            verbs: &["list", "watch"],
            place: Place::Cluster,
            why: "The addresses of pods, where Cilium gives them.",
        },
        Permission {
            group: "spiderpool.spidernet.io",
            resources: &["spidercoordinators", "spiderippools"],
            verbs: &["list", "watch"],
            place: Place::Cluster,
            why: "The addresses of pods, where Spiderpool gives them.",
        },
        Permission {
            group: GROUP,
            resources: &[
                "egressclusterendpointslices",
                "egressclusterinfos",
                "egressclusterpolicies",
                "egressendpointslices",
                "egressgateways",
                "egresspolicies",
                "egressportleases",
                "egresstunnels",
            ],
            verbs: &["list", "watch"],
            place: Place::Cluster,
            why: "Everything is planned from these.",
        },
        Permission {
            group: GROUP,
            resources: &["egressclusterpolicies", "egressgateways", "egresspolicies"],
            verbs: &["patch"],
            place: Place::Cluster,
            why: "Defaults that admission has not filled in, the finalizer of a gateway, and answers to wishes for moves.",
        },
        Permission {
            group: GROUP,
            resources: &[
                "egressclusterendpointslices",
                "egressendpointslices",
                "egressportleases",
                "egresstunnels",
            ],
            verbs: &["create", "delete", "patch"],
            place: Place::Cluster,
            why: "Objects that only the controller makes.",
        },
        Permission {
            group: GROUP,
            resources: &[
                "egressclusterinfos/status",
                "egressclusterpolicies/status",
                "egressgateways/status",
                "egresspolicies/status",
                "egresstunnels/status",
            ],
            verbs: &["patch"],
            place: Place::Cluster,
            why: "What the plan says of each.",
        },
        Permission {
            group: GROUP,
            resources: &["egressclusterpolicies/finalizers", "egresspolicies/finalizers"],
            verbs: &["update"],
            place: Place::Cluster,
            why: "Slices block the deletion of the policy that owns them: asked for where the admission plug-in \
                  OwnerReferencesPermissionEnforcement is on.",
        },
        Permission {
            group: "",
            resources: &["events"],
            verbs: &["create"],
            place: Place::Cluster,
            why: "What users must know, told at the objects that it is about.",
        },
        Permission {
            group: "coordination.k8s.io",
            resources: &["leases"],
            verbs: &["create", "get", "update"],
            place: Place::OwnNamespace,
            why: "One replica leads.",
        },
        Permission {
            group: "coordination.k8s.io",
            resources: &["leases"],
            verbs: &["list", "watch"],
            place: Place::OwnNamespace,
            why: "Agents show that they live by renewing theirs.",
        },
        Permission {
            group: "",
            resources: &["secrets"],
            verbs: &["create"],
            place: Place::OwnNamespace,
            why: "The webhooks' certificate. What is not there yet has no name that could be permitted.",
        },
        Permission {
            group: "",
            resources: &["secrets"],
            verbs: &["list", "update", "watch"],
            place: Place::NamedInOwnNamespace(&["egressgateway-controller-server-certs"]),
            why: "The webhooks' certificate, on which all replicas agree, and its renewal.",
        },
        Permission {
            group: "admissionregistration.k8s.io",
            resources: &["mutatingwebhookconfigurations", "validatingwebhookconfigurations"],
            verbs: &["list", "patch", "watch"],
            place: Place::NamedInCluster(&["egressgateway-controller"]),
            why: "Which certificate the API server trusts at our own webhooks.",
        },
    ],
};

/// The agent.
pub const AGENT: Program = Program {
    account: "egressgateway-agent",
    permissions: &[
        Permission {
            group: "",
            resources: &["namespaces", "pods"],
            verbs: &["list", "watch"],
            place: Place::Cluster,
            why: "Which pods of its node a policy selects.",
        },
        Permission {
            group: "",
            resources: &["nodes"],
            verbs: &["get"],
            place: Place::Cluster,
            why: "The node's labels, where tunnelDetectCustomInterface asks for them, and its uid: its Lease goes with it.",
        },
        Permission {
            group: GROUP,
            resources: &[
                "egressclusterinfos",
                "egressclusterpolicies",
                "egressgateways",
                "egresspolicies",
                "egressportleases",
                "egresstunnels",
            ],
            verbs: &["list", "watch"],
            place: Place::Cluster,
            why: "The node is programmed from these.",
        },
        Permission {
            group: GROUP,
            resources: &["egressportleases/status", "egresstunnels/status"],
            verbs: &["patch"],
            place: Place::Cluster,
            why: "What its node reports of itself; an admission policy refuses other nodes' objects.",
        },
        Permission {
            group: "coordination.k8s.io",
            resources: &["leases"],
            verbs: &["create", "patch"],
            place: Place::OwnNamespace,
            why: "It shows that it lives; the same admission policy refuses other Leases.",
        },
    ],
};

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn nothing_is_permitted_twice() {
        for program in PROGRAMS {
            let mut seen = BTreeSet::new();
            for permission in program.permissions {
                for (resource, verb) in permission
                    .resources
                    .iter()
                    .flat_map(|resource| permission.verbs.iter().map(move |verb| (resource, verb)))
                {
                    assert!(
                        seen.insert((permission.group, resource, verb)),
                        "{}: {verb} {resource}",
                        program.account
                    );
                }
            }
        }
    }

    #[test]
    fn nothing_is_permitted_wholesale() {
        for permission in PROGRAMS.iter().flat_map(|program| program.permissions) {
            let words = permission.resources.iter().chain(permission.verbs);
            assert!(words.chain([&permission.group]).all(|word| !word.contains('*')), "{permission:?}");
        }
    }

    #[test]
    fn an_agent_changes_nothing_but_what_its_node_reports() {
        let writes = AGENT.permissions.iter().filter(|permission| {
            permission.verbs.iter().any(|verb| !matches!(*verb, "get" | "list" | "watch"))
        });
        let written: Vec<_> = writes.flat_map(|permission| permission.resources).collect();
        assert_eq!(written, [&"egressportleases/status", &"egresstunnels/status", &"leases"]);
    }
}
