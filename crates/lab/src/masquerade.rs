//! What a CNI does to packets that pods send out of the cluster: they leave with their node's address.
//!
//! ```text
//! table ip lab_cni {                                      and the same as table ip6
//!     chain postrouting {
//!         type nat hook postrouting priority srcnat;
//!         ip daddr 10.244.0.0/16 return                   pods
//!         ip daddr 10.96.0.0/12 return                    Services
//!         ip daddr 10.6.0.11 return                       each node
//!         ip saddr 10.244.N.0/24 masquerade
//!     }
//! }
//! ```

use std::net::IpAddr;

use anyhow::Context;
use datapath::nft::{
    BaseChain, ChainKind, Compare, Hook, Load, Operand, Rule, Statement, TableFamily, Verdict,
};
use datapath::transaction::{NftCommand, TableId};
use ipnet::IpNet;
use kernel::NftSocket;

use crate::addresses::{NodeNumber, SERVICE_CIDRS, cluster_pod_cidrs, host};
use crate::netns::NetNs;

const TABLE: &str = "lab_cni";
const CHAIN: &str = "postrouting";
const PRIORITY_SRCNAT: i32 = 100;

/// Installs the tables on a node; `nodes` are all nodes of the cluster.
pub(crate) fn install(namespace: &NetNs, node: NodeNumber, nodes: &[NodeNumber]) -> anyhow::Result<()> {
    let commands = commands(node, nodes);
    NftSocket::open_in(namespace.inner())?.apply(&commands).context("write the nf_tables rules")
}

fn commands(node: NodeNumber, nodes: &[NodeNumber]) -> Vec<NftCommand> {
    let services = SERVICE_CIDRS.iter().filter_map(|cidr| cidr.parse::<IpNet>().ok());
    let addresses = nodes.iter().flat_map(|node| [IpAddr::V4(node.v4()), IpAddr::V6(node.v6())]).map(host);
    let inside: Vec<IpNet> = cluster_pod_cidrs().into_iter().chain(services).chain(addresses).collect();
    let own_pods = [IpNet::V4(node.pod_cidr_v4()), IpNet::V6(node.pod_cidr_v6())];

    let mut commands = Vec::new();
    for (family, is_v4) in [(TableFamily::Ip, true), (TableFamily::Ip6, false)] {
        let table = TableId { family, name: TABLE.to_string() };
        let hook = BaseChain { kind: ChainKind::Nat, hook: Hook::Postrouting, priority: PRIORITY_SRCNAT };
        commands.push(NftCommand::AddTable(table.clone()));
        commands.push(NftCommand::AddChain {
            table: table.clone(),
            name: CHAIN.to_string(),
            hook: Some(hook),
        });
        let mut rule = |statements: Vec<Statement>, comment| {
            let rule = Rule { statements, comment };
            commands.push(NftCommand::AddRule { table: table.clone(), chain: CHAIN.to_string(), rule });
        };
        for net in inside.iter().filter(|net| net.addr().is_ipv4() == is_v4) {
            rule(vec![is_to(*net), Statement::Verdict(Verdict::Return)], "stays in the cluster");
        }
        for net in own_pods.iter().filter(|net| net.addr().is_ipv4() == is_v4) {
            rule(vec![is_from(*net), Statement::Masquerade], "leaves with the node's address");
        }
    }
    commands
}

fn is_from(net: IpNet) -> Statement {
    is_in(if net.addr().is_ipv4() { Load::Source4 } else { Load::Source6 }, net)
}

fn is_to(net: IpNet) -> Statement {
    is_in(if net.addr().is_ipv4() { Load::Destination4 } else { Load::Destination6 }, net)
}

fn is_in(load: Load, net: IpNet) -> Statement {
    let bytes = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let operand = Operand { load, mask: Some(bytes(net.netmask())) };
    Statement::Match { operand, compare: Compare::Equal, value: bytes(net.network()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pods_of_the_node_itself_are_translated() {
        let nodes: Vec<NodeNumber> = (0..3).filter_map(NodeNumber::new).collect();
        let commands = commands(nodes[1], &nodes);
        let translated: Vec<&Rule> = commands
            .iter()
            .filter_map(|command| match command {
                NftCommand::AddRule { rule, .. } if rule.statements.contains(&Statement::Masquerade) => {
                    Some(rule)
                }
                _ => None,
            })
            .collect();
        assert_eq!(translated.len(), 2, "one rule per address family");
        let own = is_from(IpNet::V4(nodes[1].pod_cidr_v4()));
        assert!(translated.iter().any(|rule| rule.statements.first() == Some(&own)));
    }
}
