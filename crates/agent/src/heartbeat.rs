//! Shows the controller that this agent lives: it renews a Lease of its own, and writes nothing else for that.
//!
//! The loop must be alive for it: an agent that answers nothing and programs nothing shall not look healthy. That the API
//! server is away is no reason to end; what was missed is made up for as soon as it answers.

use std::time::Duration;

use api::names;
use api::slim::SlimNode;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference};
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client, Error};
use runtime::readiness::Heartbeat;
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// After a failed renewal.
const RETRY: Duration = Duration::from_secs(1);
/// A renewal that takes longer has failed.
const DEADLINE: Duration = Duration::from_secs(4);

/// Renews the Lease of a node's agent.
pub(crate) struct Renewer {
    node: String,
    name: String,
    period: Duration,
    leases: Api<Lease>,
    nodes: Api<SlimNode>,
    /// Beats of the loop that must be alive
    alive: Heartbeat,
}

impl Renewer {
    /// In this namespace, that often.
    pub(crate) fn new(
        client: Client,
        namespace: &str,
        node: &str,
        period: Duration,
        alive: Heartbeat,
    ) -> Self {
        Self {
            node: node.to_owned(),
            name: names::heartbeat_lease(node),
            period,
            leases: Api::namespaced(client.clone(), namespace),
            nodes: Api::all(client),
            alive,
        }
    }

    /// Runs until it is told to stop. The Lease stays: whoever restarts is not gone.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut is_well = true;
        loop {
            let pause = if self.alive.silent_for().is_some() {
                self.period
            } else {
                let renewed = tokio::select! {
                    () = stop.cancelled() => return,
                    renewed = tokio::time::timeout(DEADLINE, self.renew()) => renewed,
                };
                match renewed {
                    Ok(Ok(())) => {
                        is_well = true;
                        self.period
                    }
                    Ok(Err(error)) => {
                        self.complain(&mut is_well, &error.to_string());
                        RETRY
                    }
                    Err(_) => {
                        self.complain(&mut is_well, "no answer in time");
                        RETRY
                    }
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Once per trouble, not once per attempt.
    fn complain(&self, is_well: &mut bool, error: &str) {
        if std::mem::replace(is_well, false) {
            tracing::warn!(
                lease = self.name,
                error,
                "the Lease is not renewed; the node will be taken for dead"
            );
        }
    }

    async fn renew(&self) -> Result<(), Error> {
        let renewed =
            json!({"spec": {"holderIdentity": self.node, "renewTime": MicroTime(Timestamp::now())}});
        let parameters = PatchParams::default();
        match self.leases.patch(&self.name, &parameters, &Patch::Merge(renewed)).await {
            Err(Error::Api(status)) if status.code == 404 => self.create().await,
            other => other.map(drop),
        }
    }

    async fn create(&self) -> Result<(), Error> {
        let uid = self.nodes.get(&self.node).await?.metadata.uid;
        let owner = uid.map(|uid| OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: self.node.clone(),
            uid,
            ..OwnerReference::default()
        });
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                labels: Some([(names::LABEL_HEARTBEAT.to_owned(), "agent".to_owned())].into()),
                owner_references: owner.map(|owner| vec![owner]),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.node.clone()),
                lease_duration_seconds: i32::try_from(self.period.as_secs()).ok(),
                renew_time: Some(MicroTime(Timestamp::now())),
                ..LeaseSpec::default()
            }),
        };
        self.leases.create(&PostParams::default(), &lease).await.map(drop)
    }
}
