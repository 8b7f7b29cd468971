//! Bodies written by hand, and random ones.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::table::{Count, Table, Type, kinds};
use super::{DecodeError, object};

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(value & 0x7f).expect("seven bits");
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

fn number(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

fn bytes(field: u64, content: &[u8]) -> Vec<u8> {
    [varint(field << 3 | 2), varint(content.len() as u64), content.to_vec()].concat()
}

fn text(field: u64, content: &str) -> Vec<u8> {
    bytes(field, content.as_bytes())
}

fn message(field: u64, fields: &[Vec<u8>]) -> Vec<u8> {
    bytes(field, &fields.concat())
}

fn body(api_version: &str, kind: &str, fields: &[Vec<u8>]) -> Vec<u8> {
    let type_meta = message(1, &[text(1, api_version), text(2, kind)]);
    [b"k8s\0".to_vec(), type_meta, message(2, fields), text(3, ""), text(4, "")].concat()
}

#[track_caller]
fn check(api_version: &str, kind: &str, fields: &[Vec<u8>], expected: Value) {
    let mut expected = expected;
    expected["apiVersion"] = json!(api_version);
    expected["kind"] = json!(kind);
    assert_eq!(object(&body(api_version, kind, fields)), Ok(expected));
}

#[test]
fn every_type_in_the_tables_is_there() {
    let table = Table::get();
    for (name, message) in table.messages() {
        for field in message.values() {
            if let Type::Message(inner) = field.value {
                assert!(table.message(inner).is_some(), "{name}.{} is of unknown type {inner}", field.name);
            } else {
                assert_ne!(field.count, Count::Inline, "{name}.{}", field.name);
            }
        }
    }
    for (api_version, kind, _) in kinds() {
        assert!(table.message_of(api_version, kind).is_some(), "{api_version} {kind}");
    }
    assert!(table.message_of("apps/v1", "DeleteOptions").is_some(), "options come in any version");
    assert!(table.message_of("lab.example.com/v1", "Widget").is_none());
}

#[test]
fn metadata_maps_and_bytes_become_json() {
    let metadata = message(
        1,
        &[
            text(1, "s"),
            text(2, ""),
            number(7, 0),
            bytes(8, &[]),
            message(11, &[text(1, "a"), text(2, "b")]),
            message(11, &[text(1, "c")]),
            message(
                17,
                &[
                    text(1, "m"),
                    message(4, &[number(1, 1_700_000_000)]),
                    message(7, &[text(1, "{\"f:a\":{}}")]),
                ],
            ),
        ],
    );
    check(
        "v1",
        "Secret",
        &[metadata, message(2, &[text(1, "k"), bytes(2, b"\x00\xff")]), text(3, "Opaque"), number(5, 0)],
        json!({
            "metadata": {"name": "s", "labels": {"a": "b", "c": ""}, "managedFields": [
                {"manager": "m", "time": "2023-11-14T22:13:20Z", "fieldsV1": {"f:a": {}}}]},
            "data": {"k": "AP8="}, "type": "Opaque", "immutable": false,
        }),
    );
}

#[test]
fn inlined_messages_and_special_types_become_json() {
    let port = message(
        1,
        &[
            text(1, "http"),
            text(2, ""),
            number(3, 80),
            message(4, &[number(1, 1), number(2, 0), text(3, "web")]),
            number(5, 0),
        ],
    );
    let other = message(1, &[number(3, 81), message(4, &[number(1, 0), number(2, 8081), text(3, "")])]);
    check(
        "v1",
        "Service",
        &[message(2, &[port, other])],
        json!({"spec": {"ports": [
            {"name": "http", "port": 80, "targetPort": "web"}, {"port": 81, "targetPort": 8081}]}}),
    );
    let volume =
        message(1, &[text(1, "v"), message(2, &[message(2, &[text(1, ""), message(2, &[text(1, "1Gi")])])])]);
    let probe = message(
        10,
        &[
            message(1, &[message(2, &[text(1, "/"), message(2, &[number(1, 0), number(2, 80)])])]),
            number(3, 0),
        ],
    );
    let env = message(
        7,
        &[
            text(1, "A"),
            text(2, ""),
            message(3, &[message(3, &[message(1, &[text(1, "cm")]), text(2, "k")])]),
        ],
    );
    let resources = message(8, &[message(1, &[text(1, "cpu"), message(2, &[text(1, "1")])])]);
    let container = message(2, &[text(1, "c"), env, resources, probe]);
    check(
        "v1",
        "Pod",
        &[message(2, &[volume, container, number(4, 0)])],
        json!({"spec": {
            "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Gi"}}],
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "resources": {"limits": {"cpu": "1"}},
                "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k"}}}],
                "livenessProbe": {"httpGet": {"path": "/", "port": 80}}}],
        }}),
    );
}

#[test]
fn what_is_no_body_of_the_format_is_refused() {
    assert_eq!(object(b"{}"), Err(DecodeError::Magic));
    assert!(matches!(object(b"k8s\0"), Err(DecodeError::Kind { .. })));
    assert!(matches!(object(&body("lab.example.com/v1", "Widget", &[])), Err(DecodeError::Kind { .. })));
    for broken in [
        vec![0x0a, 0x7f],
        vec![0x0b],
        vec![0x00, 0x00],
        vec![0xff; 11],
        number(1, 5),
        bytes(1, &[0x0a, 1, 0xff]),
    ] {
        assert!(object(&body("v1", "ConfigMap", std::slice::from_ref(&broken))).is_err(), "{broken:?}");
    }
    // A schema in a schema, and so on: the only message that nests without end is refused at a depth.
    let mut nested = Vec::new();
    for _ in 0..200 {
        nested = bytes(7, &nested);
    }
    assert!(object(&body("v1", "ConfigMap", &[nested])).is_ok(), "unknown fields are not looked into");
}

mod fuzz {
    use super::*;

    type Fields = Vec<(u64, Vec<(u64, Vec<u8>)>)>;

    /// Bodies of any kind, whose fields may be what the kind has.
    fn any_body() -> impl Strategy<Value = Vec<u8>> {
        let inner = prop::collection::vec((1_u64..12, prop::collection::vec(any::<u8>(), 0..9)), 0..6);
        let fields = prop::collection::vec((1_u64..20, inner), 0..6);
        (fields, 0..kinds().len()).prop_map(|(fields, kind): (Fields, usize)| {
            let (api_version, kind, _) = kinds()[kind];
            let fields: Vec<Vec<u8>> = fields
                .iter()
                .map(|(field, inner)| {
                    let inner: Vec<Vec<u8>> =
                        inner.iter().map(|(field, content)| bytes(*field, content)).collect();
                    message(*field, &inner)
                })
                .collect();
            body(api_version, kind, &fields)
        })
    }

    proptest! {
        #![proptest_config(fuzzing::config())]

        #[test]
        fn any_body_is_read_or_refused(content in fuzzing::mutated_from(any_body())) {
            let _ = object(&content);
            let _ = object(&[b"k8s\0", content.as_slice()].concat());
        }
    }
}
