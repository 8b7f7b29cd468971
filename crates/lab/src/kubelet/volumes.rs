//! A pod's volumes: directories of the lab that are filled before the containers start.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{
    ConfigMap, ConfigMapVolumeSource, Container, KeyToPath, Pod, ProjectedVolumeSource, Secret,
    SecretVolumeSource, ServiceAccount, Volume,
};
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::container::spec::VolumeMount;
use crate::kubelet::environment::{Place, References, field_value};

/// Tokens are not renewed: a lab lives shorter than that.
const TOKEN_LIFE_SECONDS: i64 = 365 * 24 * 3600;
/// Where every pod finds its identity.
const IDENTITY: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Host paths below these are the node's own; others are the machine's.
const OWN_HOST_PATHS: [&str; 4] = ["/run", "/var", "/tmp", "/opt"];

/// What volumes are made of.
pub(crate) struct VolumeMaker<'a> {
    /// Reads ConfigMaps and Secrets, asks for tokens.
    pub(crate) client: &'a Client,
    /// The certificate that pods must trust, as PEM.
    pub(crate) ca_pem: &'a str,
    /// The pod's directory.
    pub(crate) directory: PathBuf,
    /// The node's directory, for host paths.
    pub(crate) node_directory: PathBuf,
    /// What the pod can learn of itself.
    pub(crate) place: &'a Place,
}

/// A pod's volumes by name, ready to be mounted.
pub(crate) type Volumes = BTreeMap<String, PathBuf>;

impl VolumeMaker<'_> {
    /// Fetches everything that the pod's specification refers to by name.
    pub(crate) async fn references(&self, pod: &Pod) -> anyhow::Result<References> {
        let namespace = pod.namespace().unwrap_or_default();
        let (config_maps, secrets) = referred(pod);
        let mut references = References { token: self.token(pod).await?, ..References::default() };
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &namespace);
        for (name, optional) in config_maps {
            match api.get_opt(&name).await? {
                Some(found) => drop(references.config_maps.insert(name, found)),
                None if optional => {}
                None => bail!("configmap {name:?} not found"),
            }
        }
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &namespace);
        for (name, optional) in secrets {
            match api.get_opt(&name).await? {
                Some(found) => drop(references.secrets.insert(name, found)),
                None if optional => {}
                None => bail!("secret {name:?} not found"),
            }
        }
        Ok(references)
    }

    /// Makes all volumes.
    pub(crate) fn make(&self, pod: &Pod, references: &References) -> anyhow::Result<Volumes> {
        let mut volumes = Volumes::new();
        for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            let path = self.make_one(pod, volume, references);
            volumes.insert(volume.name.clone(), path.with_context(|| format!("volume {:?}", volume.name))?);
        }
        let identity = self.directory.join("identity");
        self.write_identity(pod, &identity, references)?;
        volumes.insert(IDENTITY.to_string(), identity);
        Ok(volumes)
    }

    fn make_one(&self, pod: &Pod, volume: &Volume, references: &References) -> anyhow::Result<PathBuf> {
        let path = self.directory.join("volumes").join(&volume.name);
        if let Some(source) = &volume.host_path {
            return self.host_path(&source.path, source.type_.as_deref().unwrap_or_default());
        }
        fs::create_dir_all(&path).context("make its directory")?;
        if let Some(source) = &volume.config_map {
            write_config_map(&path, source, references)?;
        } else if let Some(source) = &volume.secret {
            write_secret(&path, source, references)?;
        } else if let Some(source) = &volume.projected {
            self.write_projected(pod, &path, source, references)?;
        } else if let Some(source) = &volume.downward_api {
            for item in source.items.iter().flatten() {
                let field =
                    item.field_ref.as_ref().map(|field| field.field_path.as_str()).unwrap_or_default();
                write_file(
                    &path,
                    &item.path,
                    field_value(field, pod, self.place).unwrap_or_default().as_bytes(),
                )?;
            }
        } else if volume.empty_dir.is_some() {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).context("set permissions")?;
        } else {
            bail!("this kind of volume does not exist in a lab");
        }
        Ok(path)
    }

    fn write_projected(
        &self,
        pod: &Pod,
        path: &Path,
        source: &ProjectedVolumeSource,
        references: &References,
    ) -> anyhow::Result<()> {
        for source in source.sources.iter().flatten() {
            if let Some(token) = &source.service_account_token {
                write_file(path, &token.path, references.token.as_bytes())?;
            }
            if let Some(map) = &source.config_map {
                let source = ConfigMapVolumeSource {
                    name: map.name.clone(),
                    items: map.items.clone(),
                    optional: map.optional,
                    default_mode: None,
                };
                write_config_map(path, &source, references)?;
            }
            if let Some(secret) = &source.secret {
                let source = SecretVolumeSource {
                    secret_name: Some(secret.name.clone()),
                    items: secret.items.clone(),
                    optional: secret.optional,
                    default_mode: None,
                };
                write_secret(path, &source, references)?;
            }
            for item in source.downward_api.iter().flat_map(|api| api.items.iter().flatten()) {
                let field =
                    item.field_ref.as_ref().map(|field| field.field_path.as_str()).unwrap_or_default();
                write_file(
                    path,
                    &item.path,
                    field_value(field, pod, self.place).unwrap_or_default().as_bytes(),
                )?;
            }
        }
        Ok(())
    }

    fn write_identity(&self, pod: &Pod, path: &Path, references: &References) -> anyhow::Result<()> {
        write_file(path, "token", references.token.as_bytes())?;
        write_file(path, "ca.crt", self.ca_pem.as_bytes())?;
        write_file(path, "namespace", pod.namespace().unwrap_or_default().as_bytes())
    }

    /// Asks for a token that ends with the pod.
    async fn token(&self, pod: &Pod) -> anyhow::Result<String> {
        let account =
            pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref()).unwrap_or("default");
        let namespace = pod.namespace().unwrap_or_default();
        let request = json!({"spec": {
            "expirationSeconds": TOKEN_LIFE_SECONDS,
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": pod.name_any(), "uid": pod.uid()},
        }});
        let request: TokenRequest = serde_json::from_value(request).context("ask for a token")?;
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &namespace);
        let answer = api.create_token_request(account, &PostParams::default(), &request).await;
        let answer = answer.with_context(|| format!("no token for service account {namespace}/{account}"))?;
        answer.status.map(|status| status.token).context("the answer has no token")
    }

    fn host_path(&self, path: &str, kind: &str) -> anyhow::Result<PathBuf> {
        let own = OWN_HOST_PATHS.iter().any(|own| Path::new(path).starts_with(own));
        if !own {
            return Ok(PathBuf::from(path)).and_then(|path| {
                anyhow::ensure!(path.exists(), "hostPath {} does not exist", path.display());
                Ok(path)
            });
        }
        let inside = self.node_directory.join(path.trim_start_matches('/'));
        if kind.starts_with("File") || kind == "Socket" {
            fs::create_dir_all(inside.parent().unwrap_or(&inside)).context("make its directory")?;
            fs::OpenOptions::new().create(true).append(true).open(&inside).context("make the file")?;
        } else {
            fs::create_dir_all(&inside).context("make the directory")?;
        }
        Ok(inside)
    }
}

/// What a container sees of the pod's volumes.
pub(crate) fn mounts(container: &Container, volumes: &Volumes) -> anyhow::Result<Vec<VolumeMount>> {
    let mut mounts = Vec::new();
    for mount in container.volume_mounts.iter().flatten() {
        let source =
            volumes.get(&mount.name).with_context(|| format!("there is no volume {:?}", mount.name))?;
        let sub_path = mount.sub_path.as_deref().unwrap_or_default();
        let source = if sub_path.is_empty() { source.clone() } else { source.join(sub_path) };
        mounts.push(VolumeMount {
            source,
            target: PathBuf::from(&mount.mount_path),
            read_only: mount.read_only == Some(true),
        });
    }
    let identity =
        volumes.get(IDENTITY).filter(|_| mounts.iter().all(|mount| mount.target != Path::new(IDENTITY)));
    mounts.extend(identity.map(|source| VolumeMount {
        source: source.clone(),
        target: PathBuf::from(IDENTITY),
        read_only: true,
    }));
    // Outer directories first: an inner mount would be hidden by them.
    mounts.sort_by_key(|mount| mount.target.components().count());
    Ok(mounts)
}

type Referred = BTreeMap<String, bool>;

/// Names of ConfigMaps and Secrets, and whether each may be missing.
fn referred(pod: &Pod) -> (Referred, Referred) {
    let (mut maps, mut secrets) = (Referred::new(), Referred::new());
    // One place that needs it is enough to need it.
    let add = |into: &mut Referred, name: &str, optional: Option<bool>| {
        let optional = optional == Some(true) && into.get(name).copied().unwrap_or(true);
        into.insert(name.to_string(), optional);
    };
    let Some(spec) = &pod.spec else { return (maps, secrets) };
    for volume in spec.volumes.iter().flatten() {
        if let Some(source) = &volume.config_map {
            add(&mut maps, &source.name, source.optional);
        }
        if let Some(source) = &volume.secret {
            add(&mut secrets, source.secret_name.as_deref().unwrap_or_default(), source.optional);
        }
        for source in volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()) {
            if let Some(map) = &source.config_map {
                add(&mut maps, &map.name, map.optional);
            }
            if let Some(secret) = &source.secret {
                add(&mut secrets, &secret.name, secret.optional);
            }
        }
    }
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        for source in container.env_from.iter().flatten() {
            if let Some(reference) = &source.config_map_ref {
                add(&mut maps, &reference.name, reference.optional);
            }
            if let Some(reference) = &source.secret_ref {
                add(&mut secrets, &reference.name, reference.optional);
            }
        }
        for source in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
            if let Some(reference) = &source.config_map_key_ref {
                add(&mut maps, &reference.name, reference.optional);
            }
            if let Some(reference) = &source.secret_key_ref {
                add(&mut secrets, &reference.name, reference.optional);
            }
        }
    }
    (maps, secrets)
}

fn write_config_map(
    path: &Path,
    source: &ConfigMapVolumeSource,
    references: &References,
) -> anyhow::Result<()> {
    let Some(map) = references.config_maps.get(&source.name) else { return Ok(()) };
    let text = map.data.iter().flatten().map(|(key, value)| (key.clone(), value.clone().into_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone()));
    write_files(path, text.chain(binary).collect(), source.items.as_deref())
}

fn write_secret(path: &Path, source: &SecretVolumeSource, references: &References) -> anyhow::Result<()> {
    let name = source.secret_name.as_deref().unwrap_or_default();
    let Some(secret) = references.secrets.get(name) else { return Ok(()) };
    let files = secret.data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone()));
    write_files(path, files.collect(), source.items.as_deref())
}

fn write_files(
    path: &Path,
    files: BTreeMap<String, Vec<u8>>,
    items: Option<&[KeyToPath]>,
) -> anyhow::Result<()> {
    match items {
        None => files.iter().try_for_each(|(name, content)| write_file(path, name, content)),
        Some(items) => items.iter().try_for_each(|item| {
            let content = files.get(&item.key).with_context(|| format!("there is no key {:?}", item.key))?;
            write_file(path, &item.path, content)
        }),
    }
}

fn write_file(directory: &Path, name: &str, content: &[u8]) -> anyhow::Result<()> {
    let relative = Path::new(name);
    let inside = relative.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    anyhow::ensure!(inside && !name.is_empty(), "{name:?} leads out of the volume");
    let path = directory.join(relative);
    fs::create_dir_all(path.parent().unwrap_or(directory)).context("make a directory")?;
    fs::write(&path, content).with_context(|| format!("write {name}"))
}
