//! Chains of others that drop what is forwarded.
//!
//! An accept in a table of ours can't undo the drop of another one: every base chain at the hook has its say. So where a
//! chain's policy is to drop (Docker, hardened hosts), two rules go into that very chain, and nothing else of it is touched. Chains of
//! the old iptables (legacy) are not seen here.

use std::collections::{BTreeMap, BTreeSet};

use datapath::nft::{ChainKind, Compare, Hook, Load, Operand, Rule, Statement, Verdict};
use datapath::transaction::{NftCommand, TableId};

use super::{BatchError, NftSocket};
use crate::error::Result;

/// A chain at the forward hook whose policy is to drop.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClosedChain {
    /// Its table
    pub table: TableId,
    /// Its name
    pub name: String,
}

/// `ip filter FORWARD`.
impl std::fmt::Display for ClosedChain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.table.family, self.table.name, self.name)
    }
}

/// What was found and done.
#[derive(Debug, Default)]
pub struct Admission {
    /// Chains that got their rules now
    pub opened: BTreeSet<ClosedChain>,
    /// Chains that don't take them, and why
    pub refused: BTreeMap<ClosedChain, String>,
}

impl NftSocket {
    /// Chains of other tables than `own` that drop what no rule of theirs accepts.
    ///
    /// # Errors
    /// When the kernel refuses or its reply makes no sense.
    pub fn closed_chains(&mut self, own: &BTreeSet<TableId>) -> Result<BTreeSet<ClosedChain>> {
        let mut closed = BTreeSet::new();
        for chain in self.list_all_chains()? {
            let (Some(hook), Some(family)) = (chain.hook, chain.family) else { continue };
            let table = TableId { family, name: chain.table };
            let drops = chain.policy_is_drop && hook.hook == Hook::Forward && hook.kind == ChainKind::Filter;
            if drops && !own.contains(&table) {
                closed.insert(ClosedChain { table, name: chain.name });
            }
        }
        Ok(closed)
    }

    /// Lets what comes from a device and what goes to it pass chains of others that drop, unless they do already.
    ///
    /// # Errors
    /// When the kernel can't be read. A chain that takes no rules is part of the answer.
    pub fn admit(&mut self, device: &str, own: &BTreeSet<TableId>) -> Result<Admission> {
        let mut admission = Admission::default();
        let closed = self.closed_chains(own)?;
        if closed.is_empty() {
            return Ok(admission);
        }
        let tables = self.list_tables()?;
        for chain in closed {
            let Some(table) = tables.iter().find(|table| table.id == chain.table) else { continue };
            if table.flags & super::OWNED != 0 {
                // To write to it could mean to take it from its owner.
                admission.refused.insert(chain, "the table belongs to a process".to_owned());
                continue;
            }
            let there = self.list_rules(&chain.table)?;
            let there: BTreeSet<u64> =
                there.into_iter().filter(|rule| rule.chain == chain.name).map(|rule| rule.hash).collect();
            let missing = rules(device).into_iter().filter(|rule| !there.contains(&rule.content_hash()));
            let insert =
                |rule| NftCommand::InsertRule { table: chain.table.clone(), chain: chain.name.clone(), rule };
            let commands: Vec<NftCommand> = missing.map(insert).collect();
            if commands.is_empty() {
                continue;
            }
            match self.apply(&commands) {
                Ok(()) => drop(admission.opened.insert(chain)),
                Err(BatchError::Refused { errno, .. }) => {
                    admission.refused.insert(chain, errno.desc().to_owned());
                }
                Err(other) => drop(admission.refused.insert(chain, other.to_string())),
            }
        }
        Ok(admission)
    }
}

fn rules(device: &str) -> [Rule; 2] {
    let mut name: Vec<u8> = device.bytes().take(15).collect();
    name.resize(16, 0);
    [Load::InputInterfaceName, Load::OutputInterfaceName].map(|load| Rule {
        statements: vec![
            Statement::Match {
                operand: Operand { load, mask: None },
                compare: Compare::Equal,
                value: name.clone(),
            },
            Statement::Verdict(Verdict::Accept),
        ],
        comment: "egressgateway",
    })
}
