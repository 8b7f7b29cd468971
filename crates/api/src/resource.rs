//! What makes a type a custom resource: names, columns, and the CRD that follows from both.
//!
//! Written by hand and not derived, because two kinds carry their data at the top level, `spec` is optional
//! in some, and the manifests have to be the same to the byte whatever a derive macro makes of it next year.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceColumnDefinition, CustomResourceDefinition, CustomResourceDefinitionNames,
    CustomResourceDefinitionSpec, CustomResourceDefinitionVersion, CustomResourceSubresourceStatus,
    CustomResourceSubresources, CustomResourceValidation, JSONSchemaProps,
};
use kube_core::ObjectMeta;
use schemars::SchemaGenerator;
use serde_json::{Map, Value, json};

use crate::{names, schema};

/// A printer column of `kubectl get`.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Header, printed in capitals.
    pub name: &'static str,
    /// OpenAPI type of the value.
    pub kind: &'static str,
    /// Where the value is.
    pub json_path: &'static str,
    /// What it says.
    pub description: &'static str,
}

impl Column {
    /// A column whose description is its name, as most are.
    pub const fn new(name: &'static str, kind: &'static str, json_path: &'static str) -> Self {
        Self { name, kind, json_path, description: name }
    }

    /// The same column with a description of its own.
    pub const fn described(self, description: &'static str) -> Self {
        Self { description, ..self }
    }
}

/// Everything about a kind that is not its fields.
#[derive(Clone, Copy, Debug)]
pub struct KindInfo {
    /// `kind` of an object.
    pub kind: &'static str,
    /// What the kind is for, shown by `kubectl explain`.
    pub description: &'static str,
    /// Name in paths.
    pub plural: &'static str,
    /// Name of one.
    pub singular: &'static str,
    /// What to type in a hurry.
    pub short_name: &'static str,
    /// Whether its objects live in a namespace.
    pub namespaced: bool,
    /// Top-level fields that must be there besides `metadata`.
    pub required: &'static [&'static str],
    /// Columns besides NAME; a kind without any shows AGE.
    pub columns: &'static [Column],
    /// Rules for the object as a whole.
    pub rules: &'static [schema::Rule],
}

/// A kind of our group.
pub trait CustomResource {
    /// Names and columns of this kind.
    const INFO: KindInfo;

    /// Schemas of the top-level fields besides `apiVersion`, `kind` and `metadata`.
    fn field_schemas(generator: &mut SchemaGenerator) -> Map<String, Value>;

    /// The manifest that teaches an API server this kind.
    fn crd() -> CustomResourceDefinition {
        crd(&Self::INFO, schema::structural(Self::field_schemas))
    }
}

fn crd(info: &KindInfo, fields: Map<String, Value>) -> CustomResourceDefinition {
    CustomResourceDefinition {
        metadata: ObjectMeta {
            name: Some(format!("{}.{}", info.plural, names::GROUP)),
            ..ObjectMeta::default()
        },
        spec: CustomResourceDefinitionSpec {
            group: names::GROUP.to_owned(),
            names: CustomResourceDefinitionNames {
                categories: Some(vec![info.singular.to_owned()]),
                kind: info.kind.to_owned(),
                list_kind: Some(format!("{}List", info.kind)),
                plural: info.plural.to_owned(),
                short_names: Some(vec![info.short_name.to_owned()]),
                singular: Some(info.singular.to_owned()),
            },
            scope: if info.namespaced { "Namespaced" } else { "Cluster" }.to_owned(),
            versions: vec![CustomResourceDefinitionVersion {
                name: names::VERSION.to_owned(),
                served: true,
                storage: true,
                additional_printer_columns: columns(info),
                schema: Some(CustomResourceValidation {
                    open_api_v3_schema: Some(root_schema(info, fields)),
                }),
                subresources: Some(CustomResourceSubresources {
                    status: Some(CustomResourceSubresourceStatus(json!({}))),
                    ..CustomResourceSubresources::default()
                }),
                ..CustomResourceDefinitionVersion::default()
            }],
            ..CustomResourceDefinitionSpec::default()
        },
        status: None,
    }
}

fn columns(info: &KindInfo) -> Option<Vec<CustomResourceColumnDefinition>> {
    let columns = info.columns.iter().map(|column| CustomResourceColumnDefinition {
        name: column.name.to_owned(),
        type_: column.kind.to_owned(),
        json_path: column.json_path.to_owned(),
        description: Some(column.description.to_owned()),
        ..CustomResourceColumnDefinition::default()
    });
    (!info.columns.is_empty()).then(|| columns.collect())
}

fn root_schema(info: &KindInfo, fields: Map<String, Value>) -> JSONSchemaProps {
    let mut properties = Map::from_iter([
        (
            "apiVersion".to_owned(),
            json!({"type": "string", "description": "Version of the schema of this object; see https://kubernetes.io/docs/concepts/overview/kubernetes-api/"}),
        ),
        ("kind".to_owned(), json!({"type": "string", "description": "Kind of this object, in CamelCase."})),
        ("metadata".to_owned(), json!({"type": "object"})),
    ]);
    properties.extend(fields);
    let required: Vec<&str> = ["metadata"].into_iter().chain(info.required.iter().copied()).collect();
    let mut root = json!({
        "type": "object",
        "description": info.description,
        "properties": properties,
        "required": required,
    });
    let rules = info.rules;
    if let Some(root) = root.as_object_mut().filter(|_| !rules.is_empty()) {
        root.insert("x-kubernetes-validations".to_owned(), schema::written(rules));
    }
    serde_json::from_value(root).expect("a structural schema is JSONSchemaProps")
}

/// Implements [`CustomResource`], [`kube_core::Resource`] and `Serialize` for a struct with `metadata` and the
/// given top-level fields: `always` written, or `optional` (an `Option` or a `Vec`, left out when empty).
macro_rules! custom_resource {
    (
        $kind:ident, $scope:ident, $description:literal,
        plural: $plural:literal, singular: $singular:literal, short: $short:literal,
        required: $required:expr, columns: $columns:expr, $(rules: $rules:expr,)?
        always: { $($always:ident : $always_type:ty),* }, optional: { $($optional:ident : $optional_type:ty),* }
    ) => {
        impl $crate::resource::CustomResource for $kind {
            const INFO: $crate::resource::KindInfo = $crate::resource::KindInfo {
                kind: stringify!($kind),
                description: $description,
                plural: $plural,
                singular: $singular,
                short_name: $short,
                namespaced: custom_resource!(@namespaced $scope),
                required: $required,
                columns: $columns,
                rules: custom_resource!(@rules $($rules)?),
            };

            fn field_schemas(
                generator: &mut schemars::SchemaGenerator,
            ) -> serde_json::Map<String, serde_json::Value> {
                let mut fields = serde_json::Map::new();
                $(fields.insert(stringify!($always).to_owned(), generator.subschema_for::<$always_type>().to_value());)*
                $(fields.insert(stringify!($optional).to_owned(), generator.subschema_for::<$optional_type>().to_value());)*
                fields
            }
        }

        impl kube_core::Resource for $kind {
            type DynamicType = ();
            type Scope = k8s_openapi::$scope;

            fn kind(_: &()) -> std::borrow::Cow<'_, str> {
                stringify!($kind).into()
            }
            fn group(_: &()) -> std::borrow::Cow<'_, str> {
                $crate::names::GROUP.into()
            }
            fn version(_: &()) -> std::borrow::Cow<'_, str> {
                $crate::names::VERSION.into()
            }
            fn plural(_: &()) -> std::borrow::Cow<'_, str> {
                $plural.into()
            }
            fn meta(&self) -> &kube_core::ObjectMeta {
                &self.metadata
            }
            fn meta_mut(&mut self) -> &mut kube_core::ObjectMeta {
                &mut self.metadata
            }
        }

        impl $kind {
            /// An object of that name with nothing in it.
            pub fn named(name: &str) -> Self {
                let mut object = Self::default();
                object.metadata.name = Some(name.to_owned());
                object
            }
        }

        impl serde::Serialize for $kind {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                use serde::ser::SerializeStruct as _;
                let mut object = serializer.serialize_struct(stringify!($kind), 5)?;
                object.serialize_field("apiVersion", $crate::names::API_VERSION)?;
                object.serialize_field("kind", stringify!($kind))?;
                object.serialize_field("metadata", &self.metadata)?;
                $(object.serialize_field(stringify!($always), &self.$always)?;)*
                $(if self.$optional.iter().next().is_some() {
                    object.serialize_field(stringify!($optional), &self.$optional)?;
                })*
                object.end()
            }
        }
    };
    (@rules $rules:expr) => { $rules };
    (@rules) => { &[] };
    (@namespaced NamespaceResourceScope) => { true };
    (@namespaced ClusterResourceScope) => { false };
}
pub(crate) use custom_resource;
