use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::{Rendering, Settings, open};
use crate::auth::certificate::Authority;
use crate::http::Answer;
use crate::server::state::{self, State};
use crate::store::{StoreOptions, WatchRequest, WriteOptions};
use crate::streams::NoPodStreams;

/// Half a minute, as a number of its own: a test that reads the limit from the code would follow any mistake in it.
const STALL_SECONDS: u64 = 30;

fn server() -> Arc<State> {
    let settings = state::Settings {
        tokens: Vec::new(),
        streams: Arc::new(NoPodStreams),
        dialer: Arc::new(crate::admission::call::DirectDialer),
        store: StoreOptions::default(),
        connections_max: 1,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("TLS versions")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::server::ResolvesServerCertUsingSni::new()));
    Arc::new(State::new(settings, Authority::generate().expect("an authority"), tls).expect("a state"))
}

/// A watch of all config maps whose client is whoever holds the answer.
fn watch(state: &Arc<State>) -> Answer {
    let start = state.read(|store| {
        let info = store.registry().get("", "v1", "configmaps").expect("config maps");
        store.watch_start(info, &WatchRequest::default()).expect("a watch")
    });
    let slot = Arc::clone(&state.watches).try_acquire_owned().expect("a free slot");
    let settings = Settings { rendering: Rendering::Objects, bookmarks: false, timeout: None };
    open(Arc::clone(state), start, settings, slot)
}

fn write_kilobytes(state: &State, count: usize) {
    state.write(|store, context| {
        let info = store.registry().get("", "v1", "configmaps").expect("config maps").clone();
        for number in 0..count {
            let object = json!({
                "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": format!("cm-{number}") },
                "data": { "filler": "x".repeat(1000) },
            });
            store.create(context, &info, Some("default"), object, &WriteOptions::default()).expect("created");
        }
    });
}

// The clock stands still and jumps to the next timer when all tasks wait, so no test here takes real time.

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_cut_off() {
    let state = server();
    let slots = state.watches.available_permits();
    let unread = watch(&state);
    assert_eq!(state.watches.available_permits(), slots - 1);
    write_kilobytes(&state, 1000);
    tokio::time::sleep(Duration::from_secs(STALL_SECONDS - 1)).await;
    assert_eq!(state.watches.available_permits(), slots - 1, "it gets its time");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(state.watches.available_permits(), slots);
    drop(unread);
}

#[tokio::test(start_paused = true)]
async fn a_client_with_nothing_to_read_is_not_cut_off() {
    let state = server();
    let slots = state.watches.available_permits();
    let idle = watch(&state);
    tokio::time::sleep(Duration::from_secs(STALL_SECONDS * 10)).await;
    assert_eq!(state.watches.available_permits(), slots - 1);
    drop(idle);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(state.watches.available_permits(), slots, "a client that goes frees its place");
}
