//! Settings from the environment and from one YAML file, read once.
//!
//! Everything that is wrong is said at once, with the name of the variable or the path of the key. Keys that nobody reads
//! are named in a warning: they are a typing error, or a setting of another version.

mod reader;

use std::collections::BTreeSet;
use std::path::PathBuf;

use ipnet::{Ipv4Net, Ipv6Net};
use model::flow::{ExistingFlows, NoGatewayAction};

use crate::admin::{Bind, parse_bind};
use crate::telemetry::{LogEncoder, LogLevel, LogSettings};
use reader::Reader;

/// Settings of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `NODE_NAME`: the node that this runs on
    pub node_name: String,
    /// `POD_NAME`: the pod that this runs in
    pub pod_name: String,
    /// `POD_NAMESPACE`: its namespace
    pub pod_namespace: String,
    /// `LEADER_ELECTION`: whether only one of several replicas works at a time
    pub leader_election: bool,
    /// `LEADER_ELECTION_NAMESPACE`: where the Lease is; empty: the pod's own namespace
    pub leader_election_namespace: String,
    /// `LEADER_ELECTION_ID`: the Lease's name
    pub leader_election_id: String,
    /// `HEALTH_PROBE_BIND_ADDRESS`: where `/healthz` and `/readyz` are
    pub health_bind: Bind,
    /// `METRICS_BIND_ADDRESS`: where `/metrics` is
    pub metrics_bind: Bind,
    /// `WEBHOOK_PORT`: where admission webhooks are served; 0: nowhere
    pub webhook_port: Option<u16>,
    /// `TLS_CERT_DIR`: `tls.crt` and `tls.key` of the webhooks, if others issue them
    pub tls_cert_dir: PathBuf,
    /// `WEBHOOK_NAME`: name of the webhooks' Service and of both webhook configurations
    pub webhook_name: String,
    /// `LOG_LEVEL` and `LOG_ENCODER`
    pub log: LogSettings,
    /// The file that `CONFIGMAP_PATH` names
    pub feature: Feature,
}

/// What the file `conf.yml` says, with the chart's defaults for what it leaves out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    /// `enableIPv4`
    pub ipv4: bool,
    /// `enableIPv6`
    pub ipv6: bool,
    /// `tunnelIpv4Subnet`
    pub tunnel_subnet_v4: Ipv4Net,
    /// `tunnelIpv6Subnet`
    pub tunnel_subnet_v6: Ipv6Net,
    /// `tunnelDetectMethod`: the interface that carries the tunnel; `None`: that of the default route
    pub tunnel_interface: Option<String>,
    /// `tunnelDetectCustomInterface`: other interfaces on some nodes; the first entry that matches counts
    pub tunnel_custom_interfaces: Vec<CustomInterface>,
    /// `vxlan`
    pub vxlan: Vxlan,
    /// `maxNumberEndpointPerSlice`
    pub max_endpoints_per_slice: usize,
    /// `mark`: base of all marks
    pub mark_base: u32,
    /// `noGatewayAction`: what becomes of selected traffic while no gateway lives
    pub no_gateway_action: NoGatewayAction,
    /// `existingFlows`: what becomes of connections that are older than the policy
    pub existing_flows: ExistingFlows,
    /// `startGuard`: whether new connections of pods that the agent does not know yet are held while any policy exists
    pub start_guard: bool,
    /// `shortUDP.ports`: destination ports of UDP flows that are a question and its answer
    pub short_udp_ports: BTreeSet<u16>,
    /// `shortUDP.unrepliedSecond`: how long such a flow is kept without an answer
    pub short_udp_unreplied_s: u32,
    /// `shortUDP.repliedSecond`: how long it is kept after its last packet, once there was an answer
    pub short_udp_replied_s: u32,
    /// `gatewayFailover`; `None`: only what Kubernetes says of a node counts
    pub failover: Option<Failover>,
    /// `portLease.maxPortsPerNode`: the most ports of an EIP that a node's new connections get
    pub max_ports_per_node: u32,
    /// `portLease.restSecond`: how long ports of a node that is gone rest
    pub port_rest_s: u32,
    /// `portLease.drainSecond`: how long ports of an EIP that nobody uses are left to the connections that exist
    pub port_drain_s: u32,
}

/// How agents show that they live, and when one is taken for dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failover {
    /// `gatewayFailover.tunnelMonitorPeriod`: how often the controller looks
    pub monitor_s: u32,
    /// `gatewayFailover.tunnelUpdatePeriod`: how often an agent shows that it lives
    pub update_s: u32,
    /// `gatewayFailover.eipEvictionTimeout`: an agent that has not done so for that long is taken for dead
    pub timeout_s: u32,
}

impl Default for Failover {
    fn default() -> Self {
        Self { monitor_s: 5, update_s: 5, timeout_s: 15 }
    }
}

/// An interface that carries the tunnel on nodes with these labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustomInterface {
    /// Labels that a node must have, all of them
    pub node_labels: Vec<(String, String)>,
    /// Name of the interface
    pub interface: String,
}

/// The tunnel's device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vxlan {
    /// `vxlan.name`
    pub name: String,
    /// `vxlan.id`
    pub id: u32,
    /// `vxlan.port`
    pub port: u16,
    /// `vxlan.mtu`; 0: what the interface below leaves
    pub mtu: u32,
}

impl Default for Feature {
    fn default() -> Self {
        Self {
            ipv4: true,
            ipv6: false,
            tunnel_subnet_v4: Ipv4Net::new_assert([172, 31, 0, 0].into(), 16),
            tunnel_subnet_v6: Ipv6Net::new_assert([0xfd11, 0, 0, 0, 0, 0, 0, 0].into(), 112),
            tunnel_interface: None,
            tunnel_custom_interfaces: Vec::new(),
            vxlan: Vxlan { name: "egress.vxlan".to_owned(), id: 100, port: 7789, mtu: 0 },
            max_endpoints_per_slice: 100,
            mark_base: 0x2600_0000,
            no_gateway_action: NoGatewayAction::default(),
            existing_flows: ExistingFlows::default(),
            start_guard: true,
            short_udp_ports: BTreeSet::from([53, 123]),
            short_udp_unreplied_s: 5,
            short_udp_replied_s: 3,
            failover: Some(Failover::default()),
            max_ports_per_node: 16_384,
            port_rest_s: 120,
            port_drain_s: 3600,
        }
    }
}

/// The settings can't be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there or can't be read.
    #[error("CONFIGMAP_PATH: can't read {path}: {problem}")]
    Unreadable {
        /// The file
        path: PathBuf,
        /// What went wrong
        problem: String,
    },
    /// Some values can't be used; all of them are named.
    #[error("{}", .0.join("; "))]
    Wrong(Vec<String>),
}

impl Config {
    /// Reads the process's environment and the file that it names. Beside the settings: warnings to log.
    pub fn load() -> Result<(Self, Vec<String>), ConfigError> {
        let env = |name: &str| std::env::var(name).ok();
        let path = env("CONFIGMAP_PATH").filter(|path| !path.is_empty()).map(PathBuf::from);
        let file = match path {
            None => None,
            Some(path) => match std::fs::read_to_string(&path) {
                Ok(text) => Some(text),
                Err(error) => return Err(ConfigError::Unreadable { path, problem: error.to_string() }),
            },
        };
        Self::parse(env, file.as_deref())
    }

    /// Settings from an environment and the text of a file. Beside them: warnings to log.
    pub fn parse(
        env: impl Fn(&str) -> Option<String>,
        file: Option<&str>,
    ) -> Result<(Self, Vec<String>), ConfigError> {
        let mut wrong = Vec::new();
        let env = |name: &str| env(name).filter(|value| !value.is_empty());
        let mut bind = |name: &str, default: &str| {
            let text = env(name).unwrap_or_else(|| default.to_owned());
            parse_bind(&text).unwrap_or_else(|| {
                wrong.push(format!(
                    "{name}: `{text}` is no address to listen on; write `:5820` or `127.0.0.1:5820`, or 0"
                ));
                None
            })
        };
        let health_bind = bind("HEALTH_PROBE_BIND_ADDRESS", ":8788");
        let metrics_bind = bind("METRICS_BIND_ADDRESS", "0");
        let level = env("LOG_LEVEL").unwrap_or_default();
        let level = LogLevel::parse(&level).unwrap_or_else(|| {
            wrong.push(format!("LOG_LEVEL: `{level}` is unknown; write debug, info, warn or error"));
            LogLevel::default()
        });
        let encoder = env("LOG_ENCODER").map(|text| {
            if text.eq_ignore_ascii_case("console") { LogEncoder::Console } else { LogEncoder::Json }
        });
        let leader_election = env("LEADER_ELECTION").unwrap_or_else(|| "true".to_owned());
        let leader_election = parse_bool(&leader_election).unwrap_or_else(|| {
            wrong.push(format!("LEADER_ELECTION: `{leader_election}` is neither true nor false"));
            true
        });
        let webhook_port = env("WEBHOOK_PORT").unwrap_or_else(|| "8881".to_owned());
        let webhook_port = webhook_port.parse().unwrap_or_else(|_| {
            wrong.push(format!("WEBHOOK_PORT: `{webhook_port}` is no port; write one like 5822, or 0"));
            0
        });
        for name in FLAGS {
            if let Some(value) = env(name).filter(|value| parse_bool(value).is_none()) {
                wrong.push(format!("{name}: `{value}` is neither true nor false"));
            }
        }
        for name in NUMBERS {
            if let Some(value) = env(name).filter(|value| value.parse::<i32>().is_err()) {
                wrong.push(format!("{name}: `{value}` is not a number; write one, or leave it out"));
            }
        }
        let idle = VARIABLES_WITHOUT_EFFECT
            .iter()
            .filter(|(name, off)| env(name).is_some_and(|value| !off.contains(&value.as_str())));
        let idle: Vec<String> =
            idle.map(|(name, _)| format!("{name}: has no effect in this version; leave it out")).collect();
        let text = |name: &str| env(name).unwrap_or_default();
        let mut reader = Reader::of(file.unwrap_or_default());
        let feature = Feature::read(&mut reader);
        let (problems, mut warnings) = reader.finish();
        warnings.splice(0..0, idle);
        wrong.extend(problems);
        if !wrong.is_empty() {
            return Err(ConfigError::Wrong(wrong));
        }
        let config = Self {
            node_name: text("NODE_NAME"),
            pod_name: text("POD_NAME"),
            pod_namespace: text("POD_NAMESPACE"),
            leader_election,
            leader_election_namespace: text("LEADER_ELECTION_NAMESPACE"),
            leader_election_id: env("LEADER_ELECTION_ID").unwrap_or_else(|| "egressgateway".to_owned()),
            health_bind,
            metrics_bind,
            webhook_port: Some(webhook_port).filter(|port| *port != 0),
            tls_cert_dir: env("TLS_CERT_DIR").unwrap_or_else(|| "/etc/tls".to_owned()).into(),
            webhook_name: env("WEBHOOK_NAME").unwrap_or_else(|| "egressgateway-controller".to_owned()),
            log: LogSettings { level, encoder },
            feature,
        };
        Ok((config, warnings))
    }
}

/// Variables of the reference implementation that are true or false. That a lost lease is competed for again
/// (`LEADER_ELECTION_LOST_RESTART`) is always so here.
const FLAGS: [&str; 3] = ["LEADER_ELECTION_LOST_RESTART", "LOG_WITH_CALLER", "LOG_USE_DEV_MODE"];
/// Variables of the reference implementation that are numbers.
const NUMBERS: [&str; 2] = ["GOPS_PORT", "GOLANG_MAX_PROCS"];
/// Variables that are accepted and do nothing, and their values that ask for nothing.
const VARIABLES_WITHOUT_EFFECT: [(&str, &[&str]); 5] = [
    ("GOPS_PORT", &["0"]),
    ("GOLANG_MAX_PROCS", &["-1"]),
    ("PYROSCOPE_SERVER_ADDR", &[]),
    ("LOG_WITH_CALLER", &["false"]),
    ("LOG_USE_DEV_MODE", &["false"]),
];

/// As Go's programs read a bool.
fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Keys that other versions read and that do nothing here: path, values that ask for nothing (those of charts and of programs
/// of the reference implementation), and why.
const WITHOUT_EFFECT: &[(&str, &[&str], &str)] = &[
    ("datapathMode", &[r#""""#, r#""iptables""#], "there is one datapath, of nf_tables"),
    ("enableGatewayReplyRoute", &["false"], "answers find their way without routes of their own"),
    ("gatewayReplyRouteTable", &["0", "600"], "answers find their way without routes of their own"),
    ("gatewayReplyRouteMark", &["0", "39"], "answers find their way without routes of their own"),
    ("iptables.backendMode", &[r#""""#, r#""auto""#], "nothing is written by iptables"),
    ("iptables.refreshIntervalSecond", &["90"], "changes of others are heard of at once"),
    ("iptables.postWriteIntervalSecond", &["1"], "nothing is written by iptables"),
    ("iptables.initialPostWriteIntervalSecond", &["0"], "nothing is written by iptables"),
    ("iptables.lockTimeoutSecond", &["0"], "nothing is written by iptables"),
    ("iptables.lockProbeIntervalMillis", &["50"], "nothing is written by iptables"),
    ("iptables.lockFilePath", &[r#""/run/xtables.lock""#], "nothing is written by iptables"),
    ("iptables.restoreSupportsLock", &["true", "false"], "nothing is written by iptables"),
    (
        "announcedInterfacesToExclude",
        &["[]", r#"["^cali.*","br-*"]"#, r#"["^cali.*","^br-.*"]"#],
        "EIPs are announced on one interface of a node only: that of the default route, or the one that tunnelDetectMethod names",
    ),
    ("vxlan.disableChecksumOffload", &["false"], "the kernel's offloads are left as they are"),
    (
        "mark",
        &[r#""0x26000000""#, "637534208", r#""""#],
        "it is seen in the status of EgressTunnels only: in the kernel all marks begin with 0x26",
    ),
    ("cachesyncsyncperiodsecond", &["1800"], "watches need no lists between"),
];
/// Keys that only the chart reads.
const OF_THE_CHART: [&str; 2] = ["iptables", "clusterCIDR"];

impl Feature {
    fn read(reader: &mut Reader) -> Self {
        let defaults = Self::default();
        let feature = Self {
            ipv4: reader.bool("enableIPv4", defaults.ipv4),
            ipv6: reader.bool("enableIPv6", defaults.ipv6),
            tunnel_subnet_v4: reader
                .parsed("tunnelIpv4Subnet", defaults.tunnel_subnet_v4, "an IPv4 CIDR like 172.31.0.0/16")
                .trunc(),
            tunnel_subnet_v6: reader
                .parsed("tunnelIpv6Subnet", defaults.tunnel_subnet_v6, "an IPv6 CIDR like fd11::/112")
                .trunc(),
            tunnel_interface: reader
                .text("tunnelDetectMethod", "")
                .strip_prefix("interface=")
                .map(str::to_owned),
            tunnel_custom_interfaces: reader.list("tunnelDetectCustomInterface", custom_interface),
            vxlan: Vxlan {
                name: reader.text("vxlan.name", &defaults.vxlan.name),
                id: reader.number("vxlan.id", defaults.vxlan.id.into(), 1..=0x00ff_ffff),
                port: reader.number("vxlan.port", defaults.vxlan.port.into(), 1..=65535),
                mtu: reader.number("vxlan.mtu", 0, 0..=65535),
            },
            max_endpoints_per_slice: reader.number("maxNumberEndpointPerSlice", 100, 1..=10_000),
            mark_base: mark_base(reader, defaults.mark_base),
            no_gateway_action: reader.choice(
                "noGatewayAction",
                &[
                    ("reject", NoGatewayAction::Reject),
                    ("drop", NoGatewayAction::Drop),
                    ("direct", NoGatewayAction::Direct),
                ],
            ),
            existing_flows: reader
                .choice("existingFlows", &[("keep", ExistingFlows::Keep), ("cut", ExistingFlows::Cut)]),
            start_guard: reader.bool("startGuard", defaults.start_guard),
            short_udp_ports: reader.ports("shortUDP.ports", &defaults.short_udp_ports),
            short_udp_unreplied_s: reader.number(
                "shortUDP.unrepliedSecond",
                defaults.short_udp_unreplied_s.into(),
                1..=600,
            ),
            short_udp_replied_s: reader.number(
                "shortUDP.repliedSecond",
                defaults.short_udp_replied_s.into(),
                1..=600,
            ),
            failover: failover(reader),
            max_ports_per_node: reader.number(
                "portLease.maxPortsPerNode",
                defaults.max_ports_per_node.into(),
                64..=32_768,
            ),
            port_rest_s: reader.number("portLease.restSecond", defaults.port_rest_s.into(), 0..=86_400),
            port_drain_s: reader.number(
                "portLease.drainSecond",
                defaults.port_drain_s.into(),
                0..=31_536_000,
            ),
        };
        for (key, ask_for_nothing, why) in WITHOUT_EFFECT {
            reader.idle(key, ask_for_nothing, why);
        }
        for key in OF_THE_CHART {
            reader.accept(key);
        }
        if !feature.ipv4 && !feature.ipv6 {
            reader.wrong("enableIPv4", "both families are off; set enableIPv4 or enableIPv6 to true");
        }
        if feature.vxlan.name.is_empty() || feature.vxlan.name.len() > 15 {
            reader.wrong("vxlan.name", "is not the name of an interface; write 1 to 15 characters");
        }
        // The first and the last address are not used.
        if feature.tunnel_subnet_v4.prefix_len() > 30 {
            reader
                .wrong("tunnelIpv4Subnet", "has no room for two nodes; write a prefix length of 30 or less");
        }
        if feature.tunnel_subnet_v6.prefix_len() > 126 {
            reader
                .wrong("tunnelIpv6Subnet", "has no room for two nodes; write a prefix length of 126 or less");
        }
        feature
    }
}

fn failover(reader: &mut Reader) -> Option<Failover> {
    let defaults = Failover::default();
    let enabled = reader.bool("gatewayFailover.enable", true);
    let mut seconds = |key: &str, default: u32| reader.number(key, default.into(), 1..=86_400);
    let failover = Failover {
        monitor_s: seconds("gatewayFailover.tunnelMonitorPeriod", defaults.monitor_s),
        update_s: seconds("gatewayFailover.tunnelUpdatePeriod", defaults.update_s),
        timeout_s: seconds("gatewayFailover.eipEvictionTimeout", defaults.timeout_s),
    };
    let least = failover.monitor_s.saturating_add(failover.update_s);
    if enabled && failover.timeout_s < least {
        reader.wrong(
            "gatewayFailover.eipEvictionTimeout",
            &format!(
                "is shorter than tunnelMonitorPeriod and tunnelUpdatePeriod together, which would take healthy nodes for \
                 dead; write {least} or more"
            ),
        );
    }
    enabled.then_some(failover)
}

fn mark_base(reader: &mut Reader, default: u32) -> u32 {
    let text = reader.text("mark", &format!("{default:#010x}"));
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(&text);
    match u32::from_str_radix(digits, 16) {
        // The first byte is the base, the other three are numbers.
        Ok(base) if base & 0x00ff_ffff == 0 && base != 0 => base,
        _ => {
            reader.wrong("mark", "is not a base of marks; write a first byte and six zeros like 0x26000000");
            default
        }
    }
}

fn custom_interface(value: &serde_json::Value) -> Option<CustomInterface> {
    let labels = value.get("nodeSelector").and_then(serde_json::Value::as_object);
    let labels = labels.into_iter().flatten();
    let node_labels = labels.map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
    Some(CustomInterface {
        node_labels: node_labels.collect::<Option<_>>()?,
        interface: value.get("interfaceName")?.as_str()?.to_owned(),
    })
}

#[cfg(test)]
mod tests;
