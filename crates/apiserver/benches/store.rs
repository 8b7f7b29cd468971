//! How fast the store is without sockets: `cargo bench -p apiserver --bench store`.
//!
//! Prints writes per second with watches that follow, and what a list of everything takes.

use std::sync::Arc;
use std::time::Instant;

use apiserver::store::{
    Context, ListRequest, PatchType, Store, StoreOptions, Subresource, Target, WatchRequest, WriteOptions,
};
use serde_json::{Value, json};

const OBJECTS: usize = 10_000;
const WATCHES: usize = 100;
const WRITES: usize = 5_000;

fn pod(index: usize) -> Value {
    json!({
        "metadata": {"name": format!("pod-{index}"), "labels": {"app": format!("app-{}", index % 50), "tier": "web"}},
        "spec": {"nodeName": format!("node-{}", index % 10), "containers": [{"name": "main", "image": "shell:1",
            "env": [{"name": "A", "value": "1"}], "ports": [{"containerPort": 80}]}]},
    })
}

fn main() {
    let mut seed = 1_u64;
    let mut rng = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        seed ^ (seed >> 29)
    };
    let mut ctx = Context { now: jiff::Timestamp::now(), rng: &mut rng };
    let start = Instant::now();
    let mut store = Store::new(StoreOptions::default(), &mut ctx);
    println!("empty store                 {:>10.1} ms", start.elapsed().as_secs_f64() * 1e3);
    let info = store.registry().get("", "v1", "pods").expect("pods are built in").clone();
    let options = WriteOptions::default();

    let start = Instant::now();
    for index in 0..OBJECTS {
        store.create(&mut ctx, &info, Some("default"), pod(index), &options).expect("created");
    }
    println!("creates per second          {:>10.0}", OBJECTS as f64 / start.elapsed().as_secs_f64());

    let request = WatchRequest {
        resource_version: Some(store.resource_version().to_string()),
        ..WatchRequest::default()
    };
    let mut cursors: Vec<_> = (0..WATCHES)
        .map(|_| store.watch_start(&info, &request).expect("a watch").cursor.expect("it goes on"))
        .collect();
    let start = Instant::now();
    let (mut delivered, mut bytes) = (0, 0);
    for index in 0..WRITES {
        let target = Target {
            resource: Arc::clone(&info),
            namespace: Some("default".to_owned()),
            name: format!("pod-{}", index % OBJECTS),
        };
        let patch = json!({"status": {"phase": "Running", "message": format!("{index}")}});
        store
            .patch(&mut ctx, &target, Subresource::Status, PatchType::Merge, patch, &options)
            .expect("patched");
        store.tick(&mut ctx);
        for cursor in &mut cursors {
            for event in store.events_since(cursor, 512).expect("events").events {
                delivered += 1;
                bytes += event.json_line().len();
            }
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("writes per second           {:>10.0}   with {WATCHES} watches", WRITES as f64 / seconds);
    println!(
        "events per second           {:>10.0}   {:.0} MB/s",
        delivered as f64 / seconds,
        bytes as f64 / seconds / 1e6
    );

    let start = Instant::now();
    let list = store.list(&info, &ListRequest::default()).expect("a list");
    let listed = start.elapsed();
    let text: usize =
        list.items.iter().map(|item| serde_json::to_vec(&**item).expect("encodable").len()).sum();
    println!("list of {:>6} objects      {:>10.1} ms", list.items.len(), listed.as_secs_f64() * 1e3);
    println!(
        "its encoding                {:>10.1} ms   {:.1} MB",
        (start.elapsed() - listed).as_secs_f64() * 1e3,
        text as f64 / 1e6
    );
}
