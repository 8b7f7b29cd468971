//! Does what [`rotation`] says, and tells the API server whom to trust.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use api::webhooks::{MutatingWebhooks, ValidatingWebhooks, Webhooks};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::core::DeserializeGuard;
use kube::runtime::watcher;
use kube::{Api, Client, Resource, ResourceExt};
use runtime::watch::{Absent, Change, watch};
use runtime::writer::Backoff;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::rotation::{self, Held, Step};
use super::{files, issue, secret};
use crate::clock::Clock;
use crate::webhook::{Serving, WebhookOptions};

/// Changes that wait to be taken in.
const QUEUE: usize = 16;
/// What is due is looked for at least that often, whatever the machine's clock does.
const LONGEST_WAIT: Duration = Duration::from_secs(600);
/// One request to the API server.
const DEADLINE: Duration = Duration::from_secs(10);
/// cert-manager writes the bundle of a configuration that has this.
const INJECTED: &str = "cert-manager.io/inject-ca-from";

enum Seen {
    Secret(Change<Secret>),
    Validating(Change<ValidatingWebhooks>),
    Mutating(Change<MutatingWebhooks>),
}

/// Keeps a certificate served and published until the shutdown; tells `published` once both is so.
pub(crate) async fn keep(
    client: Client,
    options: WebhookOptions,
    serving: Arc<Serving>,
    published: oneshot::Sender<()>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    if files::are_there(&options.certificate_directory) {
        // Who issues it publishes it as well. Nobody need want to know.
        let first = || {
            published.send(()).ok();
        };
        return files::follow(options.certificate_directory, &serving, first, shutdown).await;
    }
    let (sender, seen) = mpsc::channel(QUEUE);
    let secret_name = format!("{}-server-certs", options.name);
    let of_name = |name: &str| watcher::Config::default().fields(&format!("metadata.name={name}"));
    let keeper = Keeper {
        secrets: Api::namespaced(client.clone(), &options.namespace),
        validating: Api::all(client.clone()),
        mutating: Api::all(client.clone()),
        secret: Known::NotListed,
        of_validating: Known::NotListed,
        of_mutating: Known::NotListed,
        serving,
        served: None,
        published: Some(published),
        backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(30)),
        options,
        secret_name: secret_name.clone(),
    };
    let secrets: Api<DeserializeGuard<Secret>> = Api::namespaced(client.clone(), &keeper.options.namespace);
    let configurations = of_name(&keeper.options.name);
    tokio::try_join!(
        watch(secrets, of_name(&secret_name), Absent::Wait, Seen::Secret, sender.clone(), shutdown.clone()),
        watch(
            Api::all(client.clone()),
            configurations.clone(),
            Absent::Wait,
            Seen::Validating,
            sender.clone(),
            shutdown.clone(),
        ),
        watch(Api::all(client), configurations, Absent::Wait, Seen::Mutating, sender, shutdown.clone()),
        keeper.run(seen, shutdown),
    )?;
    Ok(())
}

/// Who wrote the Secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    ByUs,
    ByOthers,
}

/// One object that is watched.
enum Known<K> {
    NotListed,
    Absent,
    There(Box<K>),
}

impl<K: Resource> Known<K> {
    fn absorb(&mut self, change: Change<K>) {
        *self = match change {
            Change::Applied(object) => Self::There(Box::new(object)),
            Change::Deleted(_) => Self::Absent,
            Change::Replaced(objects) => {
                objects.into_iter().next().map_or(Self::Absent, |object| Self::There(Box::new(object)))
            }
        };
    }

    fn is_listed(&self) -> bool {
        !matches!(self, Self::NotListed)
    }

    fn get(&self) -> Option<&K> {
        if let Self::There(object) = self { Some(object) } else { None }
    }
}

struct Keeper {
    secrets: Api<Secret>,
    validating: Api<ValidatingWebhooks>,
    mutating: Api<MutatingWebhooks>,
    secret: Known<Secret>,
    of_validating: Known<ValidatingWebhooks>,
    of_mutating: Known<MutatingWebhooks>,
    serving: Arc<Serving>,
    /// What is served now.
    served: Option<String>,
    /// Until the first time that all is well.
    published: Option<oneshot::Sender<()>>,
    backoff: Backoff,
    options: WebhookOptions,
    secret_name: String,
}

impl Keeper {
    async fn run(
        mut self,
        mut seen: mpsc::Receiver<Seen>,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        let mut wait = LONGEST_WAIT;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                seen = seen.recv() => match seen {
                    Some(seen) => self.absorb(seen),
                    None => return Ok(()),
                },
                () = tokio::time::sleep(wait) => {}
            }
            while let Ok(more) = seen.try_recv() {
                self.absorb(more);
            }
            let is_listed =
                self.secret.is_listed() && self.of_validating.is_listed() && self.of_mutating.is_listed();
            if !is_listed {
                continue;
            }
            wait = tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                settled = self.settle() => match settled {
                    Ok(wait) => {
                        self.backoff.reset();
                        wait
                    }
                    Err(error) => {
                        let pause = self.backoff.pause();
                        warn!(error = format!("{error:#}"), retry_in = ?pause, "the webhooks' certificate is not in order");
                        pause
                    }
                }
            };
        }
    }

    fn absorb(&mut self, seen: Seen) {
        match seen {
            Seen::Secret(change) => self.secret.absorb(change),
            Seen::Validating(change) => self.of_validating.absorb(change),
            Seen::Mutating(change) => self.of_mutating.absorb(change),
        }
    }

    /// Does what is due; for how long there is nothing more.
    async fn settle(&mut self) -> anyhow::Result<Duration> {
        let now_s = Clock::wall().0.as_second();
        let held = self.secret.get().and_then(secret::read);
        let is_published = held.as_ref().is_some_and(|held| self.is_published(&held.bundle()));
        let step = rotation::step(held.as_ref(), now_s, is_published);
        if let Step::Wait { until_s } = step {
            if let Some(held) = held {
                self.serve(&held)?;
                self.publish(&held.bundle()).await?;
                if let Some(published) = self.published.take() {
                    // Nobody need want to know.
                    published.send(()).ok();
                }
            }
            let wait = u64::try_from(until_s - now_s).map_or(Duration::ZERO, Duration::from_secs);
            return Ok(wait.clamp(Duration::from_secs(1), LONGEST_WAIT));
        }
        let issued = match step {
            Step::Issue | Step::Prepare => {
                Some(issue::issue(&self.options.name, &self.options.namespace, now_s)?)
            }
            _ => None,
        };
        match rotation::apply(held.as_ref(), step, now_s, issued) {
            Some(changed) if self.store(&changed, step).await? == Written::ByOthers => Ok(LONGEST_WAIT),
            _ => Ok(Duration::ZERO),
        }
    }

    fn serve(&mut self, held: &Held) -> anyhow::Result<()> {
        if self.served.as_ref() != Some(&held.current.certificate) {
            self.serving.set(held.current.certificate.as_bytes(), held.current.key.as_bytes())?;
            self.served = Some(held.current.certificate.clone());
        }
        Ok(())
    }

    /// Writes the Secret, if it is still as we know it; else another replica was faster, and its certificates are as good.
    async fn store(&mut self, held: &Held, step: Step) -> anyhow::Result<Written> {
        let known = self.secret.get().cloned();
        let is_new = known.is_none();
        let mut object = known.unwrap_or_else(|| Secret {
            metadata: ObjectMeta { name: Some(self.secret_name.clone()), ..ObjectMeta::default() },
            type_: Some("kubernetes.io/tls".to_owned()),
            ..Secret::default()
        });
        secret::write(&mut object, held);
        let parameters = PostParams::default();
        let written = if is_new {
            within(self.secrets.create(&parameters, &object)).await
        } else {
            within(self.secrets.replace(&self.secret_name, &parameters, &object)).await
        };
        match written {
            Ok(stored) => {
                info!(secret = self.secret_name, ?step, "certificate of the webhooks");
                self.secret.absorb(Change::Applied(stored));
            }
            // The watch tells what it is now.
            Err(error) if is_conflict(&error) => return Ok(Written::ByOthers),
            Err(error) => return Err(error),
        }
        Ok(Written::ByUs)
    }

    fn is_published(&self, bundle: &str) -> bool {
        let validating = self.of_validating.get().is_none_or(|object| bundle_patch(object, bundle).is_none());
        validating && self.of_mutating.get().is_none_or(|object| bundle_patch(object, bundle).is_none())
    }

    /// Writes the bundle into the configurations that have another.
    async fn publish(&mut self, bundle: &str) -> anyhow::Result<()> {
        publish_in(&self.validating, &mut self.of_validating, bundle).await?;
        publish_in(&self.mutating, &mut self.of_mutating, bundle).await
    }
}

async fn publish_in<K>(api: &Api<K>, known: &mut Known<K>, bundle: &str) -> anyhow::Result<()>
where
    K: Webhooks + Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let Some(object) = known.get() else { return Ok(()) };
    let Some(patch) = bundle_patch(object, bundle) else { return Ok(()) };
    let name = object.name_any();
    match within(api.patch(&name, &PatchParams::default(), &Patch::Merge(patch))).await {
        Ok(written) => {
            info!(kind = %K::kind(&()), name, "the API server trusts our certificate");
            known.absorb(Change::Applied(written));
            Ok(())
        }
        // Another replica was faster; the watch tells.
        Err(error) if is_conflict(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The merge patch that makes the bundle that of every webhook, if it is not.
pub(super) fn bundle_patch<K: Webhooks + Resource>(object: &K, bundle: &str) -> Option<Value> {
    if object.annotations().contains_key(INJECTED) {
        return None;
    }
    let encoded = Value::from(STANDARD.encode(bundle));
    let mut webhooks = object.webhooks().to_vec();
    for hook in &mut webhooks {
        if let Some(client) = hook.get_mut("clientConfig").and_then(Value::as_object_mut) {
            client.insert("caBundle".to_owned(), encoded.clone());
        }
    }
    let version = object.resource_version();
    (webhooks != object.webhooks())
        .then(|| json!({"metadata": {"resourceVersion": version}, "webhooks": webhooks}))
}

async fn within<T>(call: impl Future<Output = kube::Result<T>>) -> anyhow::Result<T> {
    let answered = tokio::time::timeout(DEADLINE, call).await;
    Ok(answered.map_err(|_| anyhow::anyhow!("no answer"))??)
}

/// Something else was written meanwhile.
fn is_conflict(error: &anyhow::Error) -> bool {
    let status = error.downcast_ref::<kube::Error>();
    matches!(status, Some(kube::Error::Api(status)) if status.code == 409)
}
