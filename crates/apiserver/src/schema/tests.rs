use proptest::prelude::*;
use serde_json::json;

use super::*;

fn widget_schema() -> Value {
    json!({"type": "object", "required": ["spec"], "properties": {"spec": {
        "type": "object",
        "required": ["a"],
        "properties": {
            "a": {"type": "string"},
            "n": {"type": "integer", "minimum": 1, "maximum": 9, "default": 3},
            "x": {"type": "number", "minimum": 0, "exclusiveMinimum": true},
            "c": {"type": "string", "enum": ["a", "b"]},
            "p": {"type": "string", "pattern": "^a$"},
            "s": {"type": "string", "maxLength": 5, "minLength": 1},
            "ip": {"type": "string", "format": "ipv4"},
            "l": {"type": "array", "maxItems": 2, "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "m": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "required": ["name"],
                    "properties": {"name": {"type": "string"}, "v": {"type": "integer", "default": 7}}}},
            "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                "properties": {"known": {"type": "object", "properties": {}}}},
            "map": {"type": "object", "additionalProperties": {"type": "integer"}},
            "port": {"x-kubernetes-int-or-string": true},
            "tpl": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true},
            "void": {"type": "string", "nullable": true, "default": "d"},
            "one": {"type": "object", "properties": {"l": {"type": "string"}, "r": {"type": "string"}},
                "oneOf": [{"required": ["l"]}, {"required": ["r"]}]},
        }
    }}})
}

#[track_caller]
fn compiled() -> Schema {
    let schema = widget_schema();
    assert_eq!(structural_errors(&schema, "schema"), []);
    Schema::compile(&schema).expect("a structural schema")
}

#[track_caller]
fn check(spec: Value, expected: &[&str]) {
    let errors = compiled().validate(&json!({"spec": spec}), None);
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(texts, expected);
}

#[test]
fn violations_are_told_in_the_words_of_kubernetes() {
    check(json!({"a": "x", "n": 4}), &[]);
    check(
        json!({"a": "x", "n": "s"}),
        &["spec.n: Invalid value: \"string\": spec.n in body must be of type integer: \"string\""],
    );
    check(
        json!({"a": "x", "n": 0}),
        &["spec.n: Invalid value: 0: spec.n in body should be greater than or equal to 1"],
    );
    check(
        json!({"a": "x", "n": 10}),
        &["spec.n: Invalid value: 10: spec.n in body should be less than or equal to 9"],
    );
    check(json!({"a": "x", "x": 0}), &["spec.x: Invalid value: 0: spec.x in body should be greater than 0"]);
    check(json!({"a": "x", "p": "b"}), &["spec.p: Invalid value: \"b\": spec.p in body should match '^a$'"]);
    check(json!({}), &["spec.a: Required value"]);
    check(json!({"a": "x", "c": "x"}), &["spec.c: Unsupported value: \"x\": supported values: \"a\", \"b\""]);
    check(json!({"a": "x", "s": "123456"}), &["spec.s: Too long: may not be more than 5 bytes"]);
    check(
        json!({"a": "x", "s": ""}),
        &["spec.s: Invalid value: \"\": spec.s in body should be at least 1 chars long"],
    );
    check(json!({"a": "x", "l": ["1", "2", "3"]}), &["spec.l: Too many: 3: must have at most 2 items"]);
    check(json!({"a": "x", "l": ["1", "1"]}), &["spec.l[1]: Duplicate value: \"1\""]);
    check(
        json!({"a": "x", "m": [{"name": "a"}, {"name": "a"}]}),
        &["spec.m[1]: Duplicate value: {\"name\":\"a\"}"],
    );
    check(
        json!({"a": "x", "ip": "10.0.0.256"}),
        &["spec.ip: Invalid value: \"10.0.0.256\": spec.ip in body must be of type ipv4: \"10.0.0.256\""],
    );
    check(json!({"a": "x", "port": "http", "map": {"k": 1}}), &[]);
    check(
        json!({"a": "x", "port": true}),
        &[
            "spec.port: Invalid value: \"boolean\": spec.port in body must be of type integer,string: \"boolean\"",
        ],
    );
    check(
        json!({"a": "x", "one": {}}),
        &[
            "<nil>: Invalid value: \"\": \"spec.one\" must validate one and only one schema (oneOf). Found none valid",
        ],
    );
    check(json!({"a": "x", "one": {"l": "1"}}), &[]);
    check(
        json!({"a": "x", "tpl": {"kind": "K"}}),
        &["spec.tpl.apiVersion: Required value: must not be empty"],
    );
}

#[test]
fn unchanged_values_are_not_judged_again() {
    let old = json!({"spec": {"a": "x", "n": 0, "m": [{"name": "k", "v": "bad"}, {"name": "j"}]}});
    let new = json!({"spec": {"a": "y", "n": 0, "m": [{"name": "j"}, {"name": "k", "v": "bad"}]}});
    assert_eq!(compiled().validate(&new, Some(&old)), []);
}

#[test]
fn pruning_drops_what_is_unknown_and_says_what() {
    let mut value = json!({
        "apiVersion": "g/v1", "kind": "K", "extra": 1,
        "metadata": {"name": "n", "wrong": 1, "labels": {"a": "b"}},
        "spec": {"a": "x", "b": 1, "m": [{"name": "k", "z": 1}], "any": {"free": {"more": 1}, "known": {"z": 1}},
            "map": {"k": 1}, "n": null, "void": null}
    });
    let unknown = compiled().prune(&mut value);
    assert_eq!(unknown, ["metadata.wrong", "extra", "spec.any.known.z", "spec.b", "spec.m[0].z"]);
    assert_eq!(
        value,
        json!({
            "apiVersion": "g/v1", "kind": "K", "metadata": {"name": "n", "labels": {"a": "b"}},
            "spec": {"a": "x", "m": [{"name": "k"}], "any": {"free": {"more": 1}, "known": {}}, "map": {"k": 1}, "void": null}
        })
    );
}

#[test]
fn defaults_fill_what_is_absent_and_leave_nullable_nulls() {
    let mut value = json!({"spec": {"a": "x", "void": null, "m": [{"name": "k"}]}});
    compiled().default(&mut value);
    assert_eq!(value, json!({"spec": {"a": "x", "n": 3, "void": null, "m": [{"name": "k", "v": 7}]}}));
}

#[test]
fn schemas_that_are_not_structural_are_refused_with_the_place() {
    let schema = json!({"type": "object", "properties": {
        "spec": {"properties": {"a": {"type": "array"}}},
        "bad": {"type": "object", "anyOf": [{"type": "string"}], "additionalProperties": false},
        "ref": {"type": "string", "$ref": "#/x", "pattern": "("},
    }});
    let fields: Vec<String> =
        structural_errors(&schema, "s").into_iter().map(|error| error.to_string()).collect();
    assert_eq!(
        fields,
        [
            "s.properties[bad].additionalProperties: Forbidden: additionalProperties cannot be set to false",
            "s.properties[bad].anyOf[0].type: Forbidden: must be empty to be structural",
            "s.properties[ref].$ref: Forbidden: $ref is not supported",
            "s.properties[spec].type: Required value: must not be empty for specified object fields",
            "s.properties[spec].properties[a].items: Required value: must be specified",
        ]
    );
    let pattern = json!({"type": "object", "properties": {"p": {"type": "string", "pattern": "("}}});
    let errors = structural_errors(&pattern, "s");
    assert_eq!(errors.first().map(|error| error.field.as_str()), Some("s.properties[p].pattern"));
}

#[test]
fn keys_that_occur_twice_are_found_with_their_path() {
    let body =
        decode::decode(br#"{"a":1,"b":[{"c":1,"c":2}],"a":3}"#, "application/json").expect("valid JSON");
    assert_eq!(body.duplicates, ["b[0].c", "a"]);
    assert_eq!(body.value, json!({"a": 3, "b": [{"c": 2}]}));
}

#[test]
fn yaml_bodies_are_decoded_by_their_content_type() {
    let body = decode::decode(b"a: 1\nb: [x, 'y']\n", "application/yaml; charset=utf-8").expect("valid YAML");
    assert_eq!(body.value, json!({"a": 1, "b": ["x", "y"]}));
    assert!(decode::decode(b"a: 1", "application/json").is_err());
}

#[test]
fn bodies_that_nest_too_deeply_are_refused() {
    for count in [101, 100_000] {
        let (json, flow) =
            ("[".repeat(count) + &"]".repeat(count), "{a: ".repeat(count) + &"}".repeat(count));
        assert!(decode::decode(json.as_bytes(), "application/json").is_err());
        assert!(decode::decode(json.as_bytes(), "application/yaml").is_err());
        assert!(decode::decode(flow.as_bytes(), "application/yaml").is_err());
    }
    let bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n".to_owned()
        + &(b'b'..b'k')
            .map(|c| {
                let (this, before) = (char::from(c), char::from(c - 1));
                format!("{this}: &{this} [{}]\n", vec![format!("*{before}"); 9].join(", "))
            })
            .collect::<String>();
    assert!(decode::decode(bomb.as_bytes(), "application/yaml").is_err());
}

/// Arbitrary JSON of small size.
pub(crate) fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(|number| json!(number)),
        "[a-z$/~]{0,4}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(any_key(), inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn any_key() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]{0,3}",
        prop::sample::select(vec![
            "type",
            "properties",
            "items",
            "required",
            "enum",
            "pattern",
            "additionalProperties",
            "default",
            "oneOf",
            "spec",
            "metadata",
            "$ref",
            "x-kubernetes-list-type",
            "minLength",
            "$patch",
            "$setElementOrder/m",
        ])
        .prop_map(str::to_owned),
    ]
}

proptest! {
    #[test]
    fn any_bytes_decode_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode::decode(&bytes, "application/json");
        let _ = decode::decode(&bytes, "application/yaml");
    }

    #[test]
    fn any_schema_compiles_or_is_refused_and_works_on_any_value(schema in any_json(), value in any_json()) {
        let _ = structural_errors(&schema, "s");
        if let Ok(schema) = Schema::compile(&schema) {
            let mut value = value;
            let _ = schema.prune(&mut value);
            schema.default(&mut value);
            let _ = schema.validate(&value, None);
            let _ = schema.wrong_type(&value);
        }
    }

    #[test]
    fn what_was_pruned_and_defaulted_once_stays_as_it_is(spec in any_json()) {
        let schema = compiled();
        let mut once = json!({"metadata": {}, "spec": spec});
        schema.prune(&mut once);
        schema.default(&mut once);
        let mut twice = once.clone();
        prop_assert_eq!(schema.prune(&mut twice), Vec::<String>::new());
        schema.default(&mut twice);
        prop_assert_eq!(once, twice);
    }
}
