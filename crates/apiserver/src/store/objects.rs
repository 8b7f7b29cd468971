//! The objects themselves, and the one place where they change.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use serde_json::Value;

use crate::admission::index::AdmissionIndex;
use crate::auth::roles::RoleIndex;
use crate::builtin;
use crate::collect::Collector;
use crate::limits::Limits;
use crate::meta;
use crate::resource::{GroupResource, Registry, ResourceInfo};
use crate::status_error::StatusError;
use crate::store::history::{Change, History, at_version};
use crate::store::{Context, Target};

/// Namespace (empty on cluster-scoped kinds) and name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Key {
    pub(crate) fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    pub(crate) fn of(object: &Value) -> Self {
        Self::new(meta::namespace(object), meta::name(object))
    }
}

/// Resource, namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ObjectKey {
    pub(crate) resource: GroupResource,
    pub(crate) key: Arc<Key>,
}

impl ObjectKey {
    pub(crate) fn new(resource: GroupResource, namespace: &str, name: &str) -> Self {
        Self { resource, key: Arc::new(Key::new(namespace, name)) }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) object: Arc<Value>,
    pub(crate) version: u64,
    bytes: usize,
}

impl Entry {
    /// An entry for an object that isn't in a table any more.
    pub(crate) fn of(object: &Arc<Value>) -> Self {
        let version = meta::resource_version(object).parse().unwrap_or(0);
        Self { object: Arc::clone(object), version, bytes: 0 }
    }
}

/// All objects of one resource, with their history.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) objects: BTreeMap<Arc<Key>, Entry>,
    pub(crate) history: History,
}

impl Table {
    /// Entries in the order of their keys, of one namespace or of all.
    pub(crate) fn range<'a>(
        &'a self,
        namespace: Option<&'a str>,
    ) -> impl Iterator<Item = (&'a Arc<Key>, &'a Entry)> {
        let start = Key::new(namespace.unwrap_or_default(), "");
        self.objects
            .range::<Key, _>((Bound::Included(&start), Bound::Unbounded))
            .take_while(move |(key, _)| namespace.is_none_or(|namespace| key.namespace == namespace))
    }
}

/// All objects of all resources, and the rules of reading and writing them.
#[derive(Clone, Debug)]
pub struct Store {
    pub(crate) limits: Limits,
    pub(crate) registry: Registry,
    pub(crate) tables: BTreeMap<GroupResource, Table>,
    pub(crate) collector: Collector,
    roles: RoleIndex,
    pub(super) admission: AdmissionIndex,
    pub(crate) service_addresses: builtin::ServiceAddresses,
    pub(crate) options: StoreOptions,
    version: u64,
    /// Nothing is known of changes up to this version, unless a resource's history says so.
    pub(crate) first_version: u64,
    /// When Events are to be looked through for old ones, in seconds.
    pub(crate) next_event_expiry: i64,
    objects: usize,
    bytes: usize,
}

/// What a store needs to know of the cluster around it.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Limits on everything.
    pub limits: Limits,
    /// Range of the Services' cluster addresses.
    pub service_cidr: ipnet::Ipv4Net,
    /// Content of `ca.crt` in each namespace's `kube-root-ca.crt`.
    pub root_ca_pem: String,
    /// Address and port behind the `kubernetes` Service, if it is reachable.
    pub endpoint: Option<std::net::SocketAddr>,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            service_cidr: ipnet::Ipv4Net::new_assert(std::net::Ipv4Addr::new(10, 96, 0, 0), 16),
            root_ca_pem: String::new(),
            endpoint: None,
        }
    }
}

impl Store {
    /// A store with the built-in kinds, the default namespaces and what belongs into them.
    ///
    /// The first version follows the clock, so that a restarted server starts above its old versions.
    pub fn new(options: StoreOptions, ctx: &mut Context<'_>) -> Self {
        let first_version =
            u64::try_from(ctx.now.as_millisecond().max(0)).unwrap_or(0).saturating_mul(10).max(1);
        let mut store = Self {
            limits: options.limits.clone(),
            registry: Registry::new(builtin::resources()),
            tables: BTreeMap::new(),
            collector: Collector::default(),
            roles: RoleIndex::default(),
            admission: AdmissionIndex::default(),
            service_addresses: builtin::ServiceAddresses::new(options.service_cidr),
            options,
            version: first_version,
            first_version,
            next_event_expiry: 0,
            objects: 0,
            bytes: 0,
        };
        store.bootstrap(ctx);
        store
    }

    /// What is served; changes with CRDs.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Who may do what.
    pub fn roles(&self) -> &RoleIndex {
        &self.roles
    }

    /// The limits that the store was made with.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The version of the latest write of any kind.
    pub fn resource_version(&self) -> u64 {
        self.version
    }

    /// How many objects there are.
    pub fn object_count(&self) -> usize {
        self.objects
    }

    pub(crate) fn table(&self, info: &ResourceInfo) -> Option<&Table> {
        self.tables.get(&info.group_resource())
    }

    /// The oldest version from which changes of a resource are known.
    pub(crate) fn oldest_version(&self, info: &ResourceInfo) -> u64 {
        self.table(info).map_or(self.first_version, |table| table.history.oldest())
    }

    pub(crate) fn entry(&self, resource: &GroupResource, namespace: &str, name: &str) -> Option<&Entry> {
        self.tables.get(resource)?.objects.get(&Key::new(namespace, name))
    }

    pub(crate) fn object(
        &self,
        group: &str,
        plural: &str,
        namespace: &str,
        name: &str,
    ) -> Option<&Arc<Value>> {
        self.entry(&GroupResource::new(group, plural), namespace, name).map(|entry| &entry.object)
    }

    pub(crate) fn find(&self, target: &Target) -> Result<&Entry, StatusError> {
        let namespace = target.namespace.as_deref().unwrap_or_default();
        self.entry(&target.resource.group_resource(), namespace, &target.name)
            .ok_or_else(|| StatusError::not_found(&target.resource, &target.name))
    }

    /// The object as this version of its resource shows it.
    pub(crate) fn present(info: &ResourceInfo, entry: &Entry) -> Arc<Value> {
        let lacks_defaults = entry.version < info.schema_since;
        if !lacks_defaults && info.is_storage_version() {
            return Arc::clone(&entry.object);
        }
        let mut object = (*entry.object).clone();
        if builtin::events::is_converted(info) {
            builtin::events::from_stored(&mut object);
        } else {
            meta::map_of(&mut object).insert("apiVersion".to_owned(), Value::from(info.api_version()));
            if let Some(schema) = &info.compiled {
                schema.default(&mut object);
            }
        }
        Arc::new(object)
    }

    /// Checks that one more object, or a larger one, still fits.
    pub(crate) fn check_room(&self, object: &Value, is_new: bool) -> Result<(), StatusError> {
        let bytes = encoded_length(object);
        if bytes > self.limits.object_bytes {
            return Err(StatusError::new(500, "", "etcdserver: request is too large"));
        }
        let full =
            is_new && self.objects >= self.limits.objects || self.bytes + bytes > self.limits.total_bytes;
        if full {
            return Err(StatusError::new(500, "", "etcdserver: mvcc: database space exceeded"));
        }
        Ok(())
    }

    /// Stores an object under a new version and appends the change to the log.
    pub(crate) fn put(
        &mut self,
        resource: &GroupResource,
        object: Value,
        now: jiff::Timestamp,
    ) -> Arc<Value> {
        self.version += 1;
        let version = self.version;
        let object = Arc::new({
            let mut object = object;
            let text = Value::from(version.to_string());
            meta::metadata_mut(&mut object).insert("resourceVersion".to_owned(), text);
            object
        });
        let key = Arc::new(Key::of(&object));
        let bytes = encoded_length(&object);
        let entry = Entry { object: Arc::clone(&object), version, bytes };
        self.bytes += bytes;
        let table = Self::table_mut(&mut self.tables, resource, self.first_version);
        let old = table.objects.insert(Arc::clone(&key), entry);
        self.bytes -= old.as_ref().map_or(0, |old| old.bytes);
        self.objects += usize::from(old.is_none());
        let old = old.map(|old| old.object);
        let change = Change::new(version, now.as_second(), Arc::clone(&key), bytes)
            .before(old.clone())
            .after(Arc::clone(&object));
        table.history.push(change, &self.limits);
        self.roles.observe(resource, old.as_deref(), Some(&object));
        self.admission.observe(resource, old.as_deref(), Some(&object));
        self.collector.observe(&ObjectKey { resource: resource.clone(), key }, old.as_deref(), Some(&object));
        object
    }

    /// Removes an object; the answer is its last content under the version of the removal.
    pub(crate) fn remove(
        &mut self,
        resource: &GroupResource,
        key: &Key,
        now: jiff::Timestamp,
    ) -> Option<Arc<Value>> {
        let table = self.tables.get_mut(resource)?;
        let (key, entry) = table.objects.remove_entry(key)?;
        self.version += 1;
        self.objects -= 1;
        self.bytes -= entry.bytes;
        let last = Arc::new(at_version(&entry.object, self.version));
        let change = Change::new(self.version, now.as_second(), Arc::clone(&key), entry.bytes)
            .before(Some(Arc::clone(&entry.object)))
            .then_gone(Arc::clone(&last));
        table.history.push(change, &self.limits);
        self.service_addresses.release(resource, &last);
        self.roles.observe(resource, Some(&last), None);
        self.admission.observe(resource, Some(&last), None);
        self.collector.observe(&ObjectKey { resource: resource.clone(), key }, Some(&last), None);
        Some(last)
    }

    fn table_mut<'a>(
        tables: &'a mut BTreeMap<GroupResource, Table>,
        resource: &GroupResource,
        complete_after: u64,
    ) -> &'a mut Table {
        tables
            .entry(resource.clone())
            .or_insert_with(|| Table { objects: BTreeMap::new(), history: History::new(complete_after) })
    }
}

/// Length of the JSON text.
pub(crate) fn encoded_length(value: &Value) -> usize {
    struct Counter(usize);
    impl std::io::Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut counter = Counter(0);
    serde_json::to_writer(&mut counter, value).expect("a JSON value is always encodable");
    counter.0
}
