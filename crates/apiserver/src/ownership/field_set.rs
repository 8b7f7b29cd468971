//! Sets of fields in the very form that `fieldsV1` has, so that reading and writing them costs nothing.
//!
//! A node is a map from steps to nodes. A step is `f:NAME` for a field, `k:{..}` for the item of a list with these keys,
//! `v:VALUE` for an element of a set. A node without steps is a member of the set; one with steps is only if it has
//! the step `.` too.

use serde_json::{Map, Value};

/// The step that makes a node with other steps a member.
const SELF: &str = ".";

/// Fields of the metadata that belong to nobody.
const SYSTEM_METADATA: [&str; 8] = [
    "f:name",
    "f:namespace",
    "f:uid",
    "f:creationTimestamp",
    "f:generation",
    "f:resourceVersion",
    "f:managedFields",
    "f:selfLink",
];

/// A node of the tree.
pub(super) type Node = Map<String, Value>;

/// A set of fields of one object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FieldSet(Node);

/// Whether the node itself is in the set.
pub(super) fn is_member(node: &Node) -> bool {
    node.is_empty() || node.contains_key(SELF)
}

/// Makes a node that may have steps a member.
pub(super) fn make_member(node: &mut Node) {
    if !node.is_empty() {
        node.insert(SELF.to_owned(), Value::Object(Map::new()));
    }
}

/// The step of a field.
pub(super) fn field_step(name: &str) -> String {
    format!("f:{name}")
}

fn steps(node: &Node) -> impl Iterator<Item = (&String, &Node)> {
    node.iter().filter(|(step, _)| *step != SELF).filter_map(|(step, node)| Some((step, node.as_object()?)))
}

fn child_mut<'a>(node: &'a mut Node, step: &str) -> Option<&'a mut Node> {
    node.get_mut(step).and_then(Value::as_object_mut)
}

impl FieldSet {
    /// The set with these nodes below the root.
    pub(super) fn new(root: Node) -> Self {
        Self(root)
    }

    /// Takes a `fieldsV1`; `None` if it is none.
    pub(super) fn decode(fields: Value) -> Option<Self> {
        let Value::Object(root) = fields else { return None };
        is_well_formed(&root).then_some(Self(root))
    }

    /// The `fieldsV1`.
    pub(super) fn encode(self) -> Value {
        Value::Object(self.0)
    }

    pub(super) fn root(&self) -> &Node {
        &self.0
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds all of another set.
    pub(super) fn add(&mut self, other: &Self) {
        add_steps(&mut self.0, &other.0);
    }

    /// Removes all of another set.
    pub(super) fn remove(&mut self, other: &Self) {
        remove_steps(&mut self.0, &other.0);
    }

    /// What is in both sets.
    pub(super) fn common(&self, other: &Self) -> Self {
        Self(common_steps(&self.0, &other.0))
    }

    /// Removes a field at the root with all that is in it.
    pub(super) fn remove_field(&mut self, name: &str) {
        self.0.remove(&field_step(name));
    }

    /// Removes what is never listed.
    pub(super) fn remove_system_fields(&mut self) {
        self.remove_field("apiVersion");
        self.remove_field("kind");
        let Some(metadata) = child_mut(&mut self.0, "f:metadata") else { return };
        metadata.retain(|step, _| step != SELF && !SYSTEM_METADATA.contains(&step.as_str()));
        if metadata.is_empty() {
            self.remove_field("metadata");
        }
    }

    /// The members' paths as messages show them, such as `.spec.containers[name="c"].image`.
    pub(super) fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        visit(&self.0, "", &mut paths);
        paths
    }
}

/// Whether all steps are of a known form.
fn is_well_formed(node: &Node) -> bool {
    node.iter().all(|(step, child)| {
        let known = step == SELF || ["f:", "k:", "v:", "i:"].iter().any(|prefix| step.starts_with(prefix));
        known && child.as_object().is_some_and(is_well_formed)
    })
}

fn add_steps(node: &mut Node, other: &Node) {
    for (step, theirs) in steps(other) {
        match child_mut(node, step) {
            Some(ours) => {
                let member = is_member(ours) || is_member(theirs);
                add_steps(ours, theirs);
                if member {
                    make_member(ours);
                }
            }
            None => {
                node.insert(step.clone(), Value::Object(theirs.clone()));
            }
        }
    }
}

fn remove_steps(node: &mut Node, other: &Node) {
    for (step, theirs) in steps(other) {
        if let Some(ours) = child_mut(node, step)
            && !remove_node(ours, theirs)
        {
            node.remove(step);
        }
    }
}

/// Whether anything of the node is left.
fn remove_node(node: &mut Node, other: &Node) -> bool {
    let member = is_member(node) && !is_member(other);
    node.remove(SELF);
    remove_steps(node, other);
    let inner = !node.is_empty();
    if member {
        make_member(node);
    }
    inner || member
}

fn common_steps(node: &Node, other: &Node) -> Node {
    let shared = steps(node).filter_map(|(step, ours)| {
        let theirs = other.get(step)?.as_object()?;
        let mut inner = common_steps(ours, theirs);
        if is_member(ours) && is_member(theirs) {
            make_member(&mut inner);
        } else if inner.is_empty() {
            return None;
        }
        Some((step.clone(), Value::Object(inner)))
    });
    shared.collect()
}

fn visit(node: &Node, path: &str, paths: &mut Vec<String>) {
    for (step, child) in steps(node) {
        let path = format!("{path}{}", step_text(step));
        if is_member(child) {
            paths.push(path.clone());
        }
        visit(child, &path, paths);
    }
}

/// A step as messages show it.
pub(super) fn step_text(step: &str) -> String {
    let (prefix, rest) = step.split_at_checked(2).unwrap_or((step, ""));
    match prefix {
        "f:" => format!(".{rest}"),
        "v:" => format!("[={rest}]"),
        "k:" => {
            let keys: Map<String, Value> = serde_json::from_str(rest).unwrap_or_default();
            let keys: Vec<String> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
            format!("[{}]", keys.join(","))
        }
        _ => format!("[{rest}]"),
    }
}
