//! Cluster addresses and node ports of Services.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde_json::{Value, json};

use crate::meta;
use crate::resource::{GroupResource, ResourceInfo};
use crate::status_error::{FieldError, StatusError};

const NODE_PORTS: std::ops::RangeInclusive<u64> = 30_000..=32_767;
/// The first addresses are left for Services that ask for a fixed one, such as DNS.
const RESERVED_ADDRESSES: u32 = 16;

/// Which cluster addresses and node ports are taken.
#[derive(Clone, Debug)]
pub struct ServiceAddresses {
    cidr: Ipv4Net,
    addresses: BTreeSet<Ipv4Addr>,
    node_ports: BTreeSet<u64>,
}

impl ServiceAddresses {
    /// Nothing is taken yet.
    pub fn new(cidr: Ipv4Net) -> Self {
        Self { cidr, addresses: BTreeSet::new(), node_ports: BTreeSet::new() }
    }

    /// The address of the `kubernetes` Service.
    pub fn first(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.cidr.network()).saturating_add(1))
    }

    /// Gives a Service that is being written the addresses and ports that it lacks.
    pub fn allocate(
        &mut self,
        info: &ResourceInfo,
        service: &mut Value,
        old: Option<&Value>,
        dry_run: bool,
    ) -> Result<(), StatusError> {
        if !is_service(&info.group_resource()) {
            return Ok(());
        }
        let mut next = self.clone();
        if let Some(old) = old {
            next.forget(old);
        }
        next.allocate_address(info, service)?;
        next.allocate_node_ports(info, service)?;
        if !dry_run {
            *self = next;
        }
        Ok(())
    }

    /// Frees what a removed Service held.
    pub fn release(&mut self, resource: &GroupResource, service: &Value) {
        if is_service(resource) {
            self.forget(service);
        }
    }

    fn forget(&mut self, service: &Value) {
        if let Some(address) = cluster_ip(service).and_then(|text| text.parse().ok()) {
            self.addresses.remove(&address);
        }
        for port in ports(service) {
            if let Some(port) = port.get("nodePort").and_then(Value::as_u64) {
                self.node_ports.remove(&port);
            }
        }
    }

    fn allocate_address(&mut self, info: &ResourceInfo, service: &mut Value) -> Result<(), StatusError> {
        if service.pointer("/spec/type").and_then(Value::as_str) == Some("ExternalName") {
            return Ok(());
        }
        let invalid = |text: &str, why: &str, service: &Value| {
            let error = FieldError::invalid("spec.clusterIPs", &json!([text]), why);
            StatusError::invalid(info, meta::name(service), &[error])
        };
        let address = match cluster_ip(service) {
            Some("None") => return Ok(()),
            Some(text) => {
                // An address of the other family or outside of the range is taken as it is only if it parses.
                let text = text.to_owned();
                match text.parse::<Ipv4Addr>() {
                    Ok(address) if !self.cidr.contains(&address) => {
                        let why = format!(
                            "failed to allocate IP {text}: the provided IP ({text}) is not in the valid range. \
                             The range of valid IPs is {}",
                            self.cidr
                        );
                        return Err(invalid(&text, &why, service));
                    }
                    Ok(address) if self.addresses.contains(&address) => {
                        let why = format!("failed to allocate IP {text}: provided IP is already allocated");
                        return Err(invalid(&text, &why, service));
                    }
                    Ok(address) => address,
                    Err(_) => return Ok(()),
                }
            }
            None => self
                .free_address()
                .ok_or_else(|| StatusError::internal("failed to allocate a serviceIP: range is full"))?,
        };
        self.addresses.insert(address);
        let spec = meta::map_mut(meta::map_of(service), "spec");
        spec.insert("clusterIP".to_owned(), Value::from(address.to_string()));
        spec.insert("clusterIPs".to_owned(), json!([address.to_string()]));
        Ok(())
    }

    fn free_address(&self) -> Option<Ipv4Addr> {
        let network = u32::from(self.cidr.network());
        let last = u32::from(self.cidr.broadcast());
        let first = network.saturating_add(RESERVED_ADDRESSES);
        (first..last).map(Ipv4Addr::from).find(|address| !self.addresses.contains(address))
    }

    fn allocate_node_ports(&mut self, info: &ResourceInfo, service: &mut Value) -> Result<(), StatusError> {
        let kind = service.pointer("/spec/type").and_then(Value::as_str).unwrap_or_default();
        if kind != "NodePort" && kind != "LoadBalancer" {
            return Ok(());
        }
        let name = meta::name(service).to_owned();
        let Some(ports) = service.pointer_mut("/spec/ports").and_then(Value::as_array_mut) else {
            return Ok(());
        };
        for (index, port) in ports.iter_mut().enumerate() {
            let wanted = port.get("nodePort").and_then(Value::as_u64).filter(|port| *port != 0);
            let given = match wanted {
                Some(port) => port,
                None => NODE_PORTS
                    .into_iter()
                    .find(|port| !self.node_ports.contains(port))
                    .ok_or_else(|| StatusError::internal("failed to allocate a nodePort: range is full"))?,
            };
            let field = format!("spec.ports[{index}].nodePort");
            let problem = if !NODE_PORTS.contains(&given) {
                Some("provided port is not in the valid range. The range of valid ports is 30000-32767")
            } else if self.node_ports.contains(&given) {
                Some("provided port is already allocated")
            } else {
                None
            };
            if let Some(problem) = problem {
                let error = FieldError::invalid(field, &Value::from(given), problem);
                return Err(StatusError::invalid(info, &name, &[error]));
            }
            self.node_ports.insert(given);
            meta::map_of(port).insert("nodePort".to_owned(), Value::from(given));
        }
        Ok(())
    }
}

fn is_service(resource: &GroupResource) -> bool {
    resource.group.is_empty() && resource.resource == "services"
}

fn cluster_ip(service: &Value) -> Option<&str> {
    let spec = service.get("spec")?;
    let first = spec.get("clusterIPs").and_then(|list| list.get(0)).and_then(Value::as_str);
    spec.get("clusterIP").and_then(Value::as_str).filter(|text| !text.is_empty()).or(first)
}

fn ports(service: &Value) -> &[Value] {
    service.pointer("/spec/ports").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
