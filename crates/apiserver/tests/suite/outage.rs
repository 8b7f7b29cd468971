//! Outages that are played, more listeners, and the end.

use std::net::{Ipv4Addr, TcpListener};

use bytes::Bytes;
use http::Method;

use crate::harness::{CONFIG_MAPS, Cluster, config_map, request};

#[tokio::test]
async fn an_outage_cuts_everything_and_forgets_nothing() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    client.post(CONFIG_MAPS, &config_map("one", "1")).await.expect(201);
    let mut watch =
        client.watch(&format!("{CONFIG_MAPS}?watch=true&fieldSelector=metadata.name%3Done")).await;
    assert_eq!(watch.short().await, "ADDED one");
    cluster.server.pause();
    assert!(cluster.server.is_paused());
    assert_eq!(watch.next().await, None, "the watch is cut");
    let during = client.try_send(request(Method::GET, "/version", &[], Bytes::new())).await;
    assert!(during.is_err());
    cluster.server.resume();
    client.get(&format!("{CONFIG_MAPS}/one")).await.expect(200);
}

#[tokio::test]
async fn a_listener_can_be_added_later() {
    let mut cluster = Cluster::start().await;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    cluster.server.add_listener(listener).expect("a listener");
    cluster.address = address;
    cluster.client().get("/version").await.expect(200);
}

#[tokio::test]
async fn a_shut_down_server_ends_its_watches_and_takes_no_connections() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    let mut watch = client.watch("/api/v1/pods?watch=true").await;
    cluster.server.shutdown().await;
    assert_eq!(watch.next().await, None);
    assert!(client.try_send(request(Method::GET, "/version", &[], Bytes::new())).await.is_err());
}

#[tokio::test]
async fn a_component_inside_the_server_writes_like_any_client() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    let mut watch =
        client.watch(&format!("{CONFIG_MAPS}?watch=true&fieldSelector=metadata.name%3Dinside")).await;
    let info = cluster.server.read_store(|store| store.registry().get("", "v1", "configmaps").cloned());
    let info = info.expect("config maps");
    let written = cluster.server.write_store(|store, context| {
        store.create(context, &info, Some("default"), config_map("inside", "1"), &Default::default())
    });
    assert!(written.expect("written").created);
    assert_eq!(watch.short().await, "ADDED inside");
}
