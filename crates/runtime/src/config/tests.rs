//! What operators write, and what they are told.

use proptest::prelude::*;

use super::*;

fn parse(env: &[(&str, &str)], file: &str) -> Result<(Config, Vec<String>), ConfigError> {
    let env: std::collections::BTreeMap<&str, &str> = env.iter().copied().collect();
    Config::parse(|name| env.get(name).map(|value| (*value).to_owned()), Some(file))
}

#[track_caller]
fn problems(env: &[(&str, &str)], file: &str) -> Vec<String> {
    match parse(env, file) {
        Err(ConfigError::Wrong(wrong)) => wrong,
        other => panic!("accepted: {other:?}"),
    }
}

#[test]
fn nothing_given_means_the_charts_defaults() {
    let (config, warnings) = parse(&[], "").unwrap();
    assert_eq!(config.feature, Feature::default());
    assert_eq!(config.health_bind, Some("[::]:8788".parse().unwrap()));
    assert_eq!(config.metrics_bind, None);
    assert_eq!((config.webhook_port, config.tls_cert_dir), (Some(8881), "/etc/tls".into()));
    assert_eq!(config.webhook_name, "egressgateway-controller");
    assert!(config.leader_election);
    assert_eq!(warnings, Vec::<String>::new());
}

#[test]
fn the_charts_own_file_is_read() {
    let (config, warnings) = parse(
        &[
            ("NODE_NAME", "a"),
            ("METRICS_BIND_ADDRESS", ":5821"),
            ("LOG_ENCODER", "console"),
            ("POD_NAME", ""),
        ],
        r#"
enableIPv4: true
enableIPv6: false
datapathMode: iptables
tunnelIpv4Subnet: 192.200.0.1/16
tunnelIpv6Subnet: fd11::/112
tunnelDetectMethod: interface=eth1
tunnelDetectCustomInterface:
- nodeSelector: {zone: a}
  interfaceName: eth2
enableGatewayReplyRoute: false
gatewayReplyRouteTable: 600
gatewayReplyRouteMark: 39
iptables:
  backendMode: auto
vxlan:
  name: egress.vxlan
  id: 100
  port: 7789
  disableChecksumOffload: false
clusterCIDR:
  autoDetect: {podCidrMode: auto, clusterIP: true, nodeIP: true}
  extraCidr: []
maxNumberEndpointPerSlice: 50
mark: "0x27000000"
announcedInterfacesToExclude: ["^cali.*"]
gatewayFailover: {enable: false, tunnelMonitorPeriod: 5}
"#,
    )
    .unwrap();
    assert_eq!(
        warnings,
        [
            "conf.yml: announcedInterfacesToExclude: has no effect, for EIPs are announced on one interface of a node only: \
             that of the default route, or the one that tunnelDetectMethod names; leave it out",
            "conf.yml: mark: has no effect, for it is seen in the status of EgressTunnels only: in the kernel all marks begin \
             with 0x26; leave it out",
        ]
    );
    assert_eq!(config.node_name, "a");
    assert_eq!(config.log.encoder, Some(LogEncoder::Console));
    let feature = config.feature;
    assert_eq!(feature.tunnel_subnet_v4, "192.200.0.0/16".parse().unwrap());
    assert_eq!(feature.tunnel_interface.as_deref(), Some("eth1"));
    assert_eq!(feature.tunnel_custom_interfaces[0].interface, "eth2");
    assert_eq!((feature.max_endpoints_per_slice, feature.mark_base), (50, 0x2700_0000));
}

#[test]
fn a_mark_without_quotes_is_the_same_mark() {
    let (config, _) = parse(&[], "mark: 0x27000000").unwrap();
    assert_eq!(config.feature.mark_base, 0x2700_0000);
}

#[test]
fn keys_that_do_nothing_are_named_where_they_ask_for_something() {
    for (file, key) in [
        ("datapathMode: ebpf", "datapathMode"),
        ("enableGatewayReplyRoute: true", "enableGatewayReplyRoute"),
        ("iptables: {backendMode: legacy}", "iptables.backendMode"),
        ("iptables: {refreshIntervalSecond: 10}", "iptables.refreshIntervalSecond"),
        ("vxlan: {disableChecksumOffload: true}", "vxlan.disableChecksumOffload"),
        ("announcedInterfacesToExclude: [eth1]", "announcedInterfacesToExclude"),
        ("cachesyncsyncperiodsecond: 60", "cachesyncsyncperiodsecond"),
    ] {
        let (_, warnings) = parse(&[], file).unwrap();
        let [warning] = warnings.as_slice() else { panic!("{file}: {warnings:?}") };
        assert!(warning.starts_with(&format!("conf.yml: {key}: has no effect, for ")), "{warning}");
    }
}

#[test]
fn unknown_keys_are_named() {
    let (_, warnings) =
        parse(&[], "enableIpv4: true\nvxlan: {id: 7, colour: red}\nnoGatewayAction: drop").unwrap();
    assert_eq!(
        warnings,
        [
            "conf.yml: enableIpv4: unknown key, ignored; is `enableIPv4` meant?",
            "conf.yml: vxlan.colour: unknown key, ignored"
        ]
    );
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let found = problems(
        &[("LOG_LEVEL", "loud"), ("HEALTH_PROBE_BIND_ADDRESS", "localhost"), ("LEADER_ELECTION", "maybe")],
        "enableIPv4: false
tunnelIpv4Subnet: 172.31.0.0
vxlan: {id: 0, port: 70000, name: a-name-that-is-too-long}
mark: 0x26000001
noGatewayAction: hope
maxNumberEndpointPerSlice: 0
tunnelDetectCustomInterface: [{nodeSelector: {a: b}}]",
    );
    for part in [
        "LOG_LEVEL: `loud`",
        "HEALTH_PROBE_BIND_ADDRESS: `localhost`",
        "LEADER_ELECTION: `maybe`",
        "enableIPv4: both families are off",
        "tunnelIpv4Subnet: `172.31.0.0` is not an IPv4 CIDR",
        "vxlan.id: `0` is not a number from 1 to 16777215",
        "vxlan.port: `70000`",
        "vxlan.name: is not the name",
        "mark: is not a base",
        "noGatewayAction: `hope` is not one of reject, drop, direct",
        "maxNumberEndpointPerSlice: `0`",
        "tunnelDetectCustomInterface[0]",
    ] {
        assert!(found.iter().any(|problem| problem.contains(part)), "{part} is missing in {found:#?}");
    }
    assert_eq!(found.len(), 12);
}

#[test]
fn text_that_is_no_yaml_is_refused() {
    assert!(problems(&[], "a: [").iter().any(|problem| problem.contains("not YAML")));
    assert!(problems(&[], "- a").iter().any(|problem| problem.contains("not a list of settings")));
}

#[test]
fn a_key_with_a_wrong_letter_is_told_the_right_one() {
    for (written, meant) in [
        ("tunnelIpv4Subnets: 1", "tunnelIpv4Subnet"),
        ("vxlan: {prt: 1}", "vxlan.port"),
        ("gatewayFailover: {enabled: true}", "gatewayFailover.enable"),
        ("noGatewayActino: drop", ""),
    ] {
        let (_, warnings) = parse(&[], written).unwrap();
        let [warning] = warnings.as_slice() else { panic!("{warnings:?}") };
        assert_eq!(warning.contains("is `"), !meant.is_empty(), "{warning}");
        assert!(warning.contains(meant), "{warning}");
    }
}

/// An eviction timeout that healthy nodes can't meet.
#[test]
fn x_t6_a_timeout_shorter_than_both_periods_is_refused() {
    let failover = |text: &str| format!("gatewayFailover: {{enable: {text}}}");
    let found = problems(
        &[],
        &failover("true, tunnelMonitorPeriod: 5, tunnelUpdatePeriod: 5, eipEvictionTimeout: 9"),
    );
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("conf.yml: gatewayFailover.eipEvictionTimeout: is shorter"), "{found:?}");
    assert!(found[0].ends_with("write 10 or more"), "{found:?}");
    for text in [
        "true, tunnelMonitorPeriod: 5, tunnelUpdatePeriod: 5, eipEvictionTimeout: 10",
        "false, tunnelMonitorPeriod: 5, tunnelUpdatePeriod: 5, eipEvictionTimeout: 9",
    ] {
        let (config, warnings) = parse(&[], &failover(text)).unwrap();
        assert_eq!(config.feature.failover.is_some(), text.starts_with("true"));
        assert_eq!(warnings, Vec::<String>::new());
    }
}

#[test]
fn every_key_and_variable_of_the_reference_implementation_is_accepted() {
    let environment = [
        ("NODE_NAME", "a"),
        ("POD_NAME", "b"),
        ("POD_NAMESPACE", "c"),
        ("LEADER_ELECTION", "true"),
        ("LEADER_ELECTION_NAMESPACE", "d"),
        ("LEADER_ELECTION_ID", "e"),
        ("LEADER_ELECTION_LOST_RESTART", "false"),
        ("METRICS_BIND_ADDRESS", ":5811"),
        ("HEALTH_PROBE_BIND_ADDRESS", ":5810"),
        ("GOPS_PORT", "0"),
        ("WEBHOOK_PORT", "5822"),
        ("TLS_CERT_DIR", "/etc/tls"),
        ("PYROSCOPE_SERVER_ADDR", ""),
        ("GOLANG_MAX_PROCS", "-1"),
        ("LOG_LEVEL", "2"),
        ("LOG_ENCODER", "json"),
        ("LOG_WITH_CALLER", "false"),
        ("LOG_USE_DEV_MODE", "false"),
    ];
    let file = "
enableIPv4: true
enableIPv6: true
datapathMode: iptables
tunnelIpv4Subnet: 172.31.0.0/16
tunnelIpv6Subnet: fd11::/112
tunnelDetectMethod: defaultRouteInterface
tunnelDetectCustomInterface: []
enableGatewayReplyRoute: false
gatewayReplyRouteTable: 600
gatewayReplyRouteMark: 39
iptables:
  {backendMode: auto, refreshIntervalSecond: 90, postWriteIntervalSecond: 1, initialPostWriteIntervalSecond: 0,
   lockTimeoutSecond: 0, lockProbeIntervalMillis: 50, lockFilePath: /run/xtables.lock, restoreSupportsLock: true}
vxlan: {name: egress.vxlan, id: 100, port: 7789, disableChecksumOffload: false}
maxNumberEndpointPerSlice: 100
mark: \"0x26000000\"
announcedInterfacesToExclude: [^cali.*, br-*]
gatewayFailover: {enable: false, tunnelMonitorPeriod: 5, tunnelUpdatePeriod: 5, eipEvictionTimeout: 15}
cachesyncsyncperiodsecond: 1800
clusterCIDR: {autoDetect: {podCidrMode: auto, clusterIP: true, nodeIP: true}, extraCidr: []}
";
    let (config, warnings) = parse(&environment, file).unwrap();
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!((config.log.level, config.feature.failover), (LogLevel::Trace, None));
    // What asks for something that is not done here is said, and what makes no sense is refused.
    let (_, warnings) =
        parse(&[("GOPS_PORT", "5812"), ("PYROSCOPE_SERVER_ADDR", "http://p:4040")], "").unwrap();
    assert_eq!(warnings.len(), 2);
    assert_eq!(warnings[0], "GOPS_PORT: has no effect in this version; leave it out");
    let found = problems(&[("GOPS_PORT", "many"), ("LOG_WITH_CALLER", "perhaps")], "");
    assert_eq!(found.len(), 2);
}

proptest! {
    #[test]
    fn any_value_of_a_known_key_is_read_or_refused(
        key in "(enableIPv4|tunnelIpv4Subnet|vxlan|mark|maxNumberEndpointPerSlice|announcedInterfacesToExclude|noGatewayAction)",
        value in "[-0-9a-z{}:. /\\[\\]]{0,30}",
    ) {
        let _ = Config::parse(|_| None, Some(&format!("{key}: {value}")));
    }
}

mod fuzz {
    use super::*;

    /// Files as the chart and people write them.
    fn corpus() -> Vec<Vec<u8>> {
        let files = [
            "enableIPv4: true\nenableIPv6: false\ntunnelIpv4Subnet: 172.31.0.0/16\ntunnelIpv6Subnet: fd11::/112\n",
            "vxlan:\n  name: egress.vxlan\n  id: 100\n  port: 7789\nmark: \"0x26000000\"\n",
            "gatewayFailover: {enable: true, tunnelMonitorPeriod: 5, tunnelUpdatePeriod: 5, eipEvictionTimeout: 15}\n",
            "maxNumberEndpointPerSlice: 100\nannouncedInterfacesToExclude: [\"^cali.*\", \"^br-.*\"]\n",
            "tunnelDetectCustomInterface:\n- nodeSelector: {matchLabels: {zone: a}}\n  interface: eth2\nnoGatewayAction: drop\n",
        ];
        files.map(|file| file.as_bytes().to_vec()).into()
    }

    proptest! {
        #![proptest_config(fuzzing::config())]

        #[test]
        fn any_file_and_any_environment_is_read_or_refused(file in fuzzing::mutated(corpus()), value in ".{0,30}") {
            let file = String::from_utf8_lossy(&file);
            let _ = Config::parse(|_| None, Some(&file));
            let _ = Config::parse(|_| Some(value.clone()), Some(&file));
        }
    }
}
