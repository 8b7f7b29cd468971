use proptest::prelude::*;
use serde_json::json;

use super::*;

#[track_caller]
fn check_labels(selector: &str, labels: Value, expected: bool) {
    let parsed = LabelSelector::parse(selector).expect("a valid selector");
    let object = json!({"metadata": {"labels": labels}});
    assert_eq!(parsed.matches(&object), expected, "{selector} on {object}");
    let again = LabelSelector::parse(&parsed.to_string()).expect("the printed form parses");
    assert_eq!(again, parsed);
}

#[test]
fn label_operators_select_as_documented() {
    for (selector, labels, expected) in [
        ("", json!({}), true),
        ("a=b", json!({"a": "b"}), true),
        ("a==b", json!({"a": "c"}), false),
        ("a = b , c!=d", json!({"a": "b"}), true),
        ("a!=b", json!({}), true),
        ("a!=b", json!({"a": "b"}), false),
        ("a in (x, y)", json!({"a": "y"}), true),
        ("a in (x,y)", json!({}), false),
        ("a notin (x,y)", json!({}), true),
        ("a notin (x,y)", json!({"a": "x"}), false),
        ("a", json!({"a": ""}), true),
        ("!a", json!({"a": ""}), false),
        ("! a", json!({}), true),
        ("a>3", json!({"a": "4"}), true),
        ("a<3", json!({"a": "4"}), false),
        ("a>3", json!({"a": "x"}), false),
        ("a=", json!({"a": ""}), true),
        ("example.com/in=1,in=2", json!({"example.com/in": "1", "in": "2"}), true),
    ] {
        check_labels(selector, labels, expected);
    }
}

#[test]
fn malformed_label_selectors_are_a_bad_request_that_says_where() {
    for (selector, message) in [
        ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
        ("a,", "found '', expected: identifier after ','"),
        ("a in x", "unable to parse requirement: found 'x' expected: '('"),
        ("=a", "found '=', expected: !, identifier, or 'end of string'"),
        ("a=b c", "found 'c', expected: ',' or 'end of string'"),
        ("!", "unable to parse requirement: found '', expected: identifier"),
    ] {
        let error = LabelSelector::parse(selector).expect_err(selector);
        assert_eq!((error.code, error.message.as_str()), (400, message));
    }
    assert!(LabelSelector::parse("a=-b").is_err());
    assert!(LabelSelector::parse("a in (b").is_err());
}

#[test]
fn field_selectors_compare_and_unescape() {
    let object = json!({"metadata": {"name": "a,b"}, "spec": {"nodeName": "n"}, "status": {"podIPs": [{"ip": "10.0.0.1"}]}});
    for (selector, expected) in [
        ("metadata.name=a\\,b", true),
        ("metadata.name!=a\\,b", false),
        ("spec.nodeName==n,status.phase=", true),
        ("spec.nodeName!=", true),
        ("status.podIPs=10.0.0.1", true),
        ("spec.unschedulable=false", true),
    ] {
        assert_eq!(FieldSelector::parse(selector).expect(selector).matches(&object), expected, "{selector}");
    }
    assert!(FieldSelector::parse("spec").is_err());
    assert!(FieldSelector::parse("a=b=c").is_err());
}

proptest! {
    #[test]
    fn parsing_never_panics(text in "\\PC{0,60}") {
        let _ = LabelSelector::parse(&text);
        let _ = FieldSelector::parse(&text);
    }

    #[test]
    fn parsing_of_selector_like_text_never_panics_and_prints_back(text in "[ab!=(),<> in1\\\\]{0,40}") {
        if let Ok(selector) = LabelSelector::parse(&text) {
            prop_assert_eq!(LabelSelector::parse(&selector.to_string()), Ok(selector));
        }
        if let Ok(selector) = FieldSelector::parse(&text) {
            prop_assert_eq!(FieldSelector::parse(&selector.to_string()), Ok(selector));
        }
    }
}
