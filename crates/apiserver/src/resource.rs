//! What the server serves: one [`ResourceInfo`] per group, version and plural, and the [`Registry`] of them all.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde_json::Value;

/// Group, version and kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gvk {
    /// API group, empty for the core group.
    pub group: String,
    /// Version, such as `v1`.
    pub version: String,
    /// Kind, such as `Pod`.
    pub kind: String,
}

impl Gvk {
    /// A kind of a group version.
    pub fn new(group: &str, version: &str, kind: &str) -> Self {
        Self { group: group.to_owned(), version: version.to_owned(), kind: kind.to_owned() }
    }

    /// `group/version`, or only the version in the core group.
    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }
}

/// `group/version`, or only the version in the core group.
pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// Splits an `apiVersion` into group and version.
pub fn split_api_version(text: &str) -> (&str, &str) {
    text.split_once('/').unwrap_or(("", text))
}

/// Group, version and plural: the key of the registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gvr {
    /// API group, empty for the core group.
    pub group: String,
    /// Version, such as `v1`.
    pub version: String,
    /// Plural, such as `pods`.
    pub resource: String,
}

impl Gvr {
    /// A resource of a group version.
    pub fn new(group: &str, version: &str, resource: &str) -> Self {
        Self { group: group.to_owned(), version: version.to_owned(), resource: resource.to_owned() }
    }
}

/// Group and plural: the key under which objects are stored, whatever the version they are asked in.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupResource {
    /// API group, empty for the core group.
    pub group: String,
    /// Plural, such as `pods`.
    pub resource: String,
}

impl GroupResource {
    /// A resource of a group.
    pub fn new(group: &str, resource: &str) -> Self {
        Self { group: group.to_owned(), resource: resource.to_owned() }
    }
}

impl fmt::Display for GroupResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.resource)?;
        if self.group.is_empty() { Ok(()) } else { write!(f, ".{}", self.group) }
    }
}

/// Where a kind keeps what `autoscaling/v1 Scale` shows; simple JSON paths such as `.spec.replicas`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScalePaths {
    /// Path of the wanted replica count.
    pub spec_replicas: String,
    /// Path of the observed replica count.
    pub status_replicas: String,
    /// Path of the label selector: a text, or a LabelSelector object on built-in kinds.
    pub selector: Option<String>,
}

/// One subresource in discovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubresourceInfo {
    /// Name, such as `status`, `scale`, `log`.
    pub name: String,
    /// What it answers; the parent's kind for `status`.
    pub gvk: Gvk,
    /// Verbs that are served.
    pub verbs: Vec<String>,
}

/// A column of a custom kind's table, from `additionalPrinterColumns`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrinterColumn {
    /// Heading.
    pub name: String,
    /// `integer`, `number`, `string`, `boolean` or `date`.
    pub kind: String,
    /// Path of the value, with the leading dot.
    pub json_path: String,
    /// Shown always if 0, else with `-o wide`.
    pub priority: i64,
    /// Text for people.
    pub description: String,
    /// Format hint, may be empty.
    pub format: String,
}

/// Everything the server knows about one resource in one version.
#[derive(Clone, Debug)]
pub struct ResourceInfo {
    /// Group, version and kind.
    pub gvk: Gvk,
    /// Kind of a list of these.
    pub list_kind: String,
    /// Plural, as in paths.
    pub plural: String,
    /// Singular.
    pub singular: String,
    /// Short names for kubectl.
    pub short_names: Vec<String>,
    /// Categories such as `all`.
    pub categories: Vec<String>,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Verbs that are served.
    pub verbs: Vec<String>,
    /// Whether there is a `status` subresource.
    pub has_status: bool,
    /// Whether writes count `metadata.generation`.
    pub has_generation: bool,
    /// Whether a PUT without `resourceVersion` is let through.
    pub unconditional_update: bool,
    /// Whether a PUT of a missing object creates it.
    pub create_on_update: bool,
    /// The scale subresource's paths, if there is one.
    pub scale: Option<ScalePaths>,
    /// All subresources, `status` and `scale` included.
    pub subresources: Vec<SubresourceInfo>,
    /// Columns of a custom kind.
    pub printer_columns: Vec<PrinterColumn>,
    /// Structural schema; of built-in kinds without `$ref` it is taken from [`crate::builtin`]'s documents.
    pub schema: Option<Arc<Value>>,
    /// Compiled form of the schema, of custom kinds.
    pub compiled: Option<Arc<crate::schema::Schema>>,
    /// Whether this is a built-in kind and not one of a CRD.
    pub builtin: bool,
    /// The version in which objects are stored.
    pub storage_version: String,
    /// `storageVersionHash` of legacy discovery.
    pub storage_version_hash: String,
    /// Fields that field selectors may name besides `metadata.name` and `metadata.namespace`, without leading dot.
    pub selectable_fields: Vec<String>,
    /// Objects written before this resource version may lack defaults of today's schema.
    pub schema_since: u64,
    /// Whether the CRD is being deleted: creating is refused.
    pub terminating: bool,
    /// Deprecation warning to send with each answer.
    pub deprecation_warning: Option<String>,
}

impl ResourceInfo {
    /// `plural.group`, or only the plural in the core group; how messages name the resource.
    pub fn qualified(&self) -> String {
        if self.gvk.group.is_empty() {
            self.plural.clone()
        } else {
            format!("{}.{}", self.plural, self.gvk.group)
        }
    }

    /// The key of the registry.
    pub fn gvr(&self) -> Gvr {
        Gvr::new(&self.gvk.group, &self.gvk.version, &self.plural)
    }

    /// The key under which objects are stored.
    pub fn group_resource(&self) -> GroupResource {
        crate::builtin::events::stored_resource(self)
            .unwrap_or_else(|| GroupResource::new(&self.gvk.group, &self.plural))
    }

    /// `group/version` of this version.
    pub fn api_version(&self) -> String {
        self.gvk.api_version()
    }

    /// Whether the verb is served on the main path.
    pub fn serves(&self, verb: &str) -> bool {
        self.verbs.iter().any(|served| served == verb)
    }

    /// The subresource of that name.
    pub fn subresource(&self, name: &str) -> Option<&SubresourceInfo> {
        self.subresources.iter().find(|subresource| subresource.name == name)
    }

    /// Whether objects are stored in this version.
    pub fn is_storage_version(&self) -> bool {
        self.gvk.version == self.storage_version && !crate::builtin::events::is_converted(self)
    }
}

impl ResourceInfo {
    /// Whether the other one is served in the same way.
    pub(crate) fn same_as(&self, other: &Self) -> bool {
        let texts =
            |info: &Self| (info.short_names.clone(), info.categories.clone(), info.selectable_fields.clone());
        let names =
            |info: &Self| (info.list_kind.clone(), info.singular.clone(), info.storage_version.clone());
        self.gvk == other.gvk
            && texts(self) == texts(other)
            && names(self) == names(other)
            && self.has_status == other.has_status
            && self.scale == other.scale
            && self.printer_columns == other.printer_columns
            && self.schema == other.schema
            && self.terminating == other.terminating
            && self.deprecation_warning == other.deprecation_warning
    }
}

/// All served resources. Cheap to look up, changed only when CRDs change.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    resources: BTreeMap<Gvr, Arc<ResourceInfo>>,
    generation: u64,
}

impl Registry {
    /// A registry of these resources.
    pub fn new(resources: impl IntoIterator<Item = ResourceInfo>) -> Self {
        let mut registry = Self::default();
        for info in resources {
            registry.insert(info);
        }
        registry
    }

    /// The resource of that group, version and plural.
    pub fn get(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<ResourceInfo>> {
        self.resources.get(&Gvr::new(group, version, plural))
    }

    /// The resource whose kind is this.
    pub fn by_kind(&self, gvk: &Gvk) -> Option<&Arc<ResourceInfo>> {
        self.in_version(&gvk.group, &gvk.version).find(|info| info.gvk.kind == gvk.kind)
    }

    /// The resource of that group and plural in the version that is stored, else in any.
    pub fn stored(&self, key: &GroupResource) -> Option<&Arc<ResourceInfo>> {
        let mut found = None;
        for info in self.in_group(&key.group).filter(|info| info.plural == key.resource) {
            if info.is_storage_version() {
                return Some(info);
            }
            found = Some(info);
        }
        found
    }

    /// All versions of a resource.
    pub fn versions_of(&self, key: &GroupResource) -> impl Iterator<Item = &Arc<ResourceInfo>> {
        let plural = key.resource.clone();
        self.in_group(&key.group).filter(move |info| info.plural == plural)
    }

    /// All resources in the order of group, version and plural.
    pub fn all(&self) -> impl Iterator<Item = &Arc<ResourceInfo>> {
        self.resources.values()
    }

    /// The resources of one group version, by plural.
    pub fn in_version(&self, group: &str, version: &str) -> impl Iterator<Item = &Arc<ResourceInfo>> {
        let version = version.to_owned();
        self.in_group(group).filter(move |info| info.gvk.version == version)
    }

    fn in_group(&self, group: &str) -> impl Iterator<Item = &Arc<ResourceInfo>> {
        let group = group.to_owned();
        self.resources
            .range(Gvr::new(&group, "", "")..)
            .take_while(move |(key, _)| key.group == group)
            .map(|(_, info)| info)
    }

    /// Groups with their versions, both in the order of discovery: the core group first, then by name; within a
    /// group `v1` before `v1beta1` before `v1alpha1`, higher numbers first.
    pub fn groups(&self) -> Vec<(String, Vec<String>)> {
        let mut groups: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for key in self.resources.keys() {
            let versions = groups.entry(&key.group).or_default();
            if versions.last() != Some(&key.version) {
                versions.push(key.version.clone());
            }
        }
        groups
            .into_iter()
            .map(|(group, mut versions)| {
                versions.sort_by_cached_key(|version| VersionRank::of(version));
                (group.to_owned(), versions)
            })
            .collect()
    }

    /// Grows with every change; unequal means that discovery and OpenAPI are to be rendered anew.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Adds or replaces a resource.
    pub fn insert(&mut self, info: ResourceInfo) {
        self.resources.insert(info.gvr(), Arc::new(info));
        self.generation += 1;
    }

    /// Removes all versions of a resource; says whether there was one.
    pub fn remove(&mut self, key: &GroupResource) -> bool {
        let before = self.resources.len();
        self.resources.retain(|gvr, _| gvr.group != key.group || gvr.resource != key.resource);
        let changed = self.resources.len() != before;
        self.generation += u64::from(changed);
        changed
    }
}

/// The order of versions in discovery: stable first, then beta, then alpha, then all else by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VersionRank(u8, std::cmp::Reverse<u64>, std::cmp::Reverse<u64>, String);

impl VersionRank {
    /// The rank of one version; lower comes first.
    pub fn of(version: &str) -> Self {
        use std::cmp::Reverse;
        Self::parse(version).unwrap_or_else(|| Self(3, Reverse(0), Reverse(0), version.to_owned()))
    }

    fn parse(version: &str) -> Option<Self> {
        use std::cmp::Reverse;
        let rest = version.strip_prefix('v')?;
        let (stage, major, minor) = if let Some((major, minor)) = rest.split_once("beta") {
            (1, major, minor)
        } else if let Some((major, minor)) = rest.split_once("alpha") {
            (2, major, minor)
        } else {
            (0, rest, "0")
        };
        let number = |text: &str| {
            if text.starts_with('+') { None } else { text.parse::<u64>().ok() }
        };
        Some(Self(stage, Reverse(number(major)?), Reverse(number(minor)?), String::new()))
    }
}
