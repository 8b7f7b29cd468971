//! Moves that people ask for: an EIP is to be carried by another node of its gateway.
//!
//! ```text
//!   request -> refused                                  unknown EIP or node, node not Ready: nothing changes
//!           -> unneeded                                 it is there already
//!           -> placed there -> done                     the node has claimed it, or nobody claims anything
//!                           -> failed                   the node has not in time: it stays where it is
//! ```
//!
//! The gateways themselves carry the move out: they see the new placement, and the new node claims the EIP before the old one
//! gives way. The request stays until that is seen, and is then taken off the object, with the result beside it.

use std::collections::{BTreeMap, BTreeSet};

use model::gateway::MoveRequest;
use model::policy::PolicyKey;
use model::{EipPair, Reason};

use crate::eips::Allocation;
use crate::gateways::{Examined, Gateways};
use crate::outcome::TunnelPlan;
use crate::placement::{Claims, able, current, settle};
use crate::snapshot::ClusterSnapshot;

/// How long a node may take to claim an EIP that is moved to it.
pub const TIMEOUT_S: i64 = 30;

/// What became of the requests of a gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moves {
    /// Requests that stay, as they were written
    pub waiting: Vec<String>,
    /// Requests that have ended, as they were written, with the result
    pub ended: Vec<(String, Reason)>,
}

/// Looks at every request of one gateway. Where EIPs are to be placed because of it is in the first part of the result.
pub(crate) fn examine<'a>(
    snapshot: &ClusterSnapshot,
    name: &str,
    examined: &Examined<'a>,
    tunnels: &BTreeMap<String, TunnelPlan>,
    allocation: &Allocation<'_>,
    claims: &Claims<'_>,
) -> (BTreeMap<EipPair, &'a str>, Moves) {
    let (mut targets, mut moves) = (BTreeMap::new(), Moves::default());
    for request in &examined.record.moves {
        let (eip, policies, node) = match target(name, request, examined, tunnels, allocation) {
            Ok(target) => target,
            Err(problem) => {
                moves.ended.push((request.text.clone(), refused(request, problem)));
                continue;
            }
        };
        // One move of an EIP after the other.
        if targets.contains_key(&eip) {
            moves.waiting.push(request.text.clone());
            continue;
        }
        let begun = snapshot.moving.get(&(name.to_owned(), request.text.clone()));
        let able = able(examined, tunnels);
        let placed = current(snapshot, examined, eip, policies) == Some(node);
        let carried = placed && settle(Some(node), claims.get(&eip), &able) == Some(node);
        let from = begun.and_then(|begun| begun.from.as_deref());
        let since_s = begun.map_or(snapshot.now_s, |begun| begun.since_s);
        if carried {
            let reason = match from.filter(|from| *from != node) {
                Some(from) => Reason::Moved { eip, from: from.to_owned(), node: node.to_owned() },
                None => Reason::MoveUnneeded { eip, node: node.to_owned() },
            };
            targets.insert(eip, node);
            moves.ended.push((request.text.clone(), reason));
        } else if placed && snapshot.now_s.saturating_sub(since_s) >= TIMEOUT_S {
            let problem = format!("node {node} did not take it over in {TIMEOUT_S} s; see its agent's log");
            moves.ended.push((request.text.clone(), refused(request, problem)));
        } else {
            targets.insert(eip, node);
            moves.waiting.push(request.text.clone());
        }
    }
    (targets, moves)
}

/// When a move that is under way will have failed.
pub(crate) fn wake_at_s(snapshot: &ClusterSnapshot, gateways: &Gateways<'_>) -> Option<i64> {
    let requested = |name: &str| gateways.by_name.get(name).map(|examined| &examined.record.moves);
    let under_way = snapshot.moving.iter().filter(|((name, text), _)| {
        requested(name).is_some_and(|moves| moves.iter().any(|request| request.text == *text))
    });
    let ends = under_way.map(|(_, begun)| begun.since_s.saturating_add(TIMEOUT_S));
    ends.filter(|at_s| *at_s > snapshot.now_s).min()
}

fn refused(request: &MoveRequest, problem: String) -> Reason {
    Reason::MoveRefused { request: request.text.clone(), problem }
}

/// The EIP and the node that a request is about, or why it can't be had.
fn target<'a, 'p>(
    name: &str,
    request: &MoveRequest,
    examined: &Examined<'a>,
    tunnels: &BTreeMap<String, TunnelPlan>,
    allocation: &'p Allocation<'_>,
) -> Result<(EipPair, &'p BTreeSet<&'p PolicyKey>, &'a str), String> {
    let (address, node) = request.wanted.as_ref().map_err(Clone::clone)?;
    let mut own = allocation.eips.iter().filter(|(_, (gateway, _))| *gateway == name);
    let Some((eip, (_, policies))) = own.find(|(eip, _)| eip.contains(*address)) else {
        return Err(format!("{address} is no EIP in use of this gateway; see status.nodeList"));
    };
    let Some(node) = examined.nodes.get(node.as_str()).copied() else {
        return Err(format!("node `{node}` is not one of this gateway's; see status.nodeList"));
    };
    if !able(examined, tunnels).contains(node) {
        let phase = tunnels.get(node).map(|tunnel| tunnel.phase).unwrap_or_default();
        return Err(format!("node {node} is {phase}, and only a Ready one can carry it"));
    }
    Ok((*eip, policies, node))
}
