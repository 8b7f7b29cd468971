//! EgressPortLease.

use model::port_lease::{BlockRole, BlockState, EipLease, LeaseName, LeasedBlock, PortLease};
use model::{EipPair, PortBlock};

use crate::v1beta1::{self, EgressPortLease, EgressPortLeaseSpec, EgressPortLeaseStatus, EipLeaseStatus};

/// Which part of which node's lease this is: what it says, unless it is named otherwise.
pub fn lease_name(object: &EgressPortLease) -> LeaseName {
    let (spec, name) = (&object.spec, object.metadata.name.as_deref().unwrap_or_default());
    let said = u16::try_from(spec.part).ok().map(|part| LeaseName::new(&spec.node_name, part));
    said.filter(|said| said.object() == name).unwrap_or_else(|| LeaseName::new(name, 0))
}

/// What a node holds; a lease or a block that can't be read counts as not there.
pub fn port_lease(object: &EgressPortLease) -> PortLease {
    let leases = object.spec.leases.iter().filter_map(|lease| {
        let mut blocks: Vec<LeasedBlock> = lease.blocks.iter().filter_map(block).collect();
        blocks.sort_unstable();
        Some(EipLease {
            gateway: lease.gateway.clone(),
            eip: EipPair::new(lease.ipv4.parse().ok(), lease.ipv6.parse().ok())?,
            blocks,
        })
    });
    let mut leases: Vec<EipLease> = leases.collect();
    leases.sort_by_key(|lease| lease.eip);
    leases.dedup_by(|next, lease| {
        let is_same = next.eip == lease.eip;
        if is_same {
            lease.blocks.append(&mut next.blocks);
            lease.blocks.sort_unstable();
        }
        is_same
    });
    PortLease { generation: object.spec.generation, leases }
}

/// What a node says of its blocks of each EIP; an entry whose address can't be read counts as not there.
pub fn eip_lease_statuses(
    status: &EgressPortLeaseStatus,
) -> impl Iterator<Item = (EipPair, &EipLeaseStatus)> {
    status
        .eips
        .iter()
        .filter_map(|eip| Some((EipPair::new(eip.ipv4.parse().ok(), eip.ipv6.parse().ok())?, eip)))
}

/// First ports of draining blocks that no connection uses any more; what is no port counts as not there.
pub fn idle_blocks(eip: &EipLeaseStatus) -> impl Iterator<Item = u16> {
    eip.idle.iter().filter_map(|first| u16::try_from(*first).ok())
}

fn block(wire: &v1beta1::LeasedBlock) -> Option<LeasedBlock> {
    Some(LeasedBlock {
        block: PortBlock::from_size(wire.first.try_into().ok()?, wire.size.try_into().ok()?)?,
        state: match wire.state.as_str() {
            "Active" | "" => BlockState::Active,
            "Draining" => BlockState::Draining,
            _ => return None,
        },
        role: match wire.role.as_str() {
            "Source" | "" => BlockRole::Source,
            "Overflow" => BlockRole::Overflow,
            _ => return None,
        },
    })
}

/// The spec that says this.
pub fn port_lease_spec(name: &LeaseName, lease: &PortLease) -> EgressPortLeaseSpec {
    let leases = lease.leases.iter().map(|lease| v1beta1::EipLease {
        gateway: lease.gateway.clone(),
        ipv4: lease.eip.v4().map(|address| address.to_string()).unwrap_or_default(),
        ipv6: lease.eip.v6().map(|address| address.to_string()).unwrap_or_default(),
        blocks: lease.blocks.iter().map(wire_block).collect(),
    });
    EgressPortLeaseSpec {
        node_name: name.node.clone(),
        part: name.part.into(),
        generation: lease.generation,
        block_count: i64::try_from(lease.block_count()).unwrap_or(i64::MAX),
        leases: leases.collect(),
    }
}

fn wire_block(leased: &LeasedBlock) -> v1beta1::LeasedBlock {
    v1beta1::LeasedBlock {
        first: leased.block.first().into(),
        size: leased.block.size().into(),
        state: match leased.state {
            BlockState::Active => "Active",
            BlockState::Draining => "Draining",
        }
        .to_owned(),
        role: match leased.role {
            BlockRole::Source => "Source",
            BlockRole::Overflow => "Overflow",
        }
        .to_owned(),
    }
}
