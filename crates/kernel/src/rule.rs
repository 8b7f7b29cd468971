//! Policy routing rules that send packets of a mark to a table.

use datapath::state::{ROUTE_PROTOCOL, RoutingRule};

use crate::error::{Result, allow_exists, allow_not_found};
use crate::rtnetlink::RouteSocket;
use crate::uapi::{AF_INET, AF_INET6, RTM_DELRULE, RTM_GETRULE, RTM_NEWRULE};
use crate::wire::{self, CREATE, EXCLUSIVE, Message, Writer};

const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FRA_PROTOCOL: u16 = 21;
const ACTION_TO_TABLE: u8 = 1;
const HEADER: usize = 12;

impl RouteSocket {
    /// Rules that carry our protocol number.
    ///
    /// # Errors
    /// When the kernel refuses or its reply makes no sense.
    pub fn rules(&mut self) -> Result<Vec<RoutingRule>> {
        let mut rules = Vec::new();
        for family in [AF_INET, AF_INET6] {
            rules.extend(self.socket.dump(
                "listing routing rules",
                RTM_GETRULE,
                |w| w.raw(&[family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
                |message| parse_rule(&message),
            )?);
        }
        Ok(rules)
    }

    /// Adds a rule, unless it is there.
    ///
    /// # Errors
    /// EPERM without the privilege; EAFNOSUPPORT when the kernel has no IPv6.
    pub fn add_rule(&mut self, rule: &RoutingRule) -> Result<()> {
        let what = format!("adding the routing rule of priority {}", rule.priority);
        allow_exists(self.socket.request(&what, RTM_NEWRULE, CREATE | EXCLUSIVE, |w| put_rule(w, rule)))
    }

    /// Removes a rule of ours, if it is there.
    ///
    /// # Errors
    /// EPERM without the privilege.
    pub fn delete_rule(&mut self, rule: &RoutingRule) -> Result<()> {
        let what = format!("removing the routing rule of priority {}", rule.priority);
        allow_not_found(self.socket.request(&what, RTM_DELRULE, 0, |w| put_rule(w, rule)))
    }
}

/// `struct fib_rule_hdr` and attributes.
fn put_rule(w: &mut Writer, rule: &RoutingRule) {
    let family = if rule.ipv6 { AF_INET6 } else { AF_INET };
    w.raw(&[family, 0, 0, 0, u8::try_from(rule.table).unwrap_or(0), 0, 0, ACTION_TO_TABLE, 0, 0, 0, 0]);
    w.u32(FRA_PRIORITY, rule.priority);
    w.u32(FRA_FWMARK, rule.mark);
    w.u32(FRA_FWMASK, rule.mask);
    w.u32(FRA_TABLE, rule.table);
    w.u8(FRA_PROTOCOL, ROUTE_PROTOCOL);
}

fn parse_rule(message: &Message<'_>) -> Option<RoutingRule> {
    let family = wire::u8_at(message.payload, 0)?;
    let mut rule = RoutingRule {
        ipv6: family == AF_INET6,
        priority: 0,
        mark: 0,
        mask: 0,
        table: u32::from(wire::u8_at(message.payload, 4)?),
    };
    let mut ours = false;
    for attribute in wire::attributes_behind(message.payload, HEADER) {
        match attribute.kind {
            FRA_PRIORITY => rule.priority = attribute.u32()?,
            FRA_FWMARK => rule.mark = attribute.u32()?,
            FRA_FWMASK => rule.mask = attribute.u32()?,
            FRA_TABLE => rule.table = attribute.u32()?,
            FRA_PROTOCOL => ours = attribute.u8()? == ROUTE_PROTOCOL,
            _ => {}
        }
    }
    ours.then_some(rule)
}
