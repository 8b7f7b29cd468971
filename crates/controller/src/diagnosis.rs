//! Why a controller does not start: what it waits for, asked for once more and told where people look.
//!
//! A kind that is not installed, or that the controller's role does not let it see, is said by `/readyz`, by an event of the
//! controller's own pod, and by the message that `kubectl describe pod` shows of a container that was stopped.

use std::io::Write as _;
use std::time::Duration;

use api::names;
use api::slim::{SlimLease, SlimNamespace, SlimNode, SlimPod};
use api::v1beta1::{
    EgressClusterEndpointSlice, EgressClusterInfo, EgressClusterPolicy, EgressEndpointSlice, EgressGateway,
    EgressPolicy, EgressPortLease, EgressTunnel,
};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::ListParams;
use kube::{Api, Client, Resource};
use runtime::readiness::{Guard, Readiness};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::events::{self, Said};
use crate::watches::Kind;

/// What is listed within this time needs no diagnosis.
const PATIENCE: Duration = Duration::from_secs(4);
/// One question.
const DEADLINE: Duration = Duration::from_secs(5);
/// Where a container leaves its last words; the kubelet makes the file.
const LAST_WORDS: &str = "/dev/termination-log";
const REASON: &str = "NotStarted";

/// Looks for the reason as long as something is waited for.
pub(crate) struct Diagnosis {
    pub(crate) client: Client,
    /// Where the controller and the agents are
    pub(crate) namespace: String,
    /// The controller's own pod
    pub(crate) pod: String,
    pub(crate) readiness: Readiness,
}

impl Diagnosis {
    /// Runs until nothing is waited for any more, and then until the shutdown.
    pub(crate) async fn run(
        self,
        mut waiting: watch::Receiver<Option<Vec<Kind>>>,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        let mut told: Vec<(String, Guard)> = Vec::new();
        loop {
            let kinds = waiting.borrow_and_update().clone();
            if kinds.as_ref().is_some_and(Vec::is_empty) {
                break;
            }
            let mut problems = Vec::new();
            for kind in kinds.into_iter().flatten() {
                problems.extend(self.problem(kind).await);
            }
            told.retain(|(problem, _)| problems.contains(problem));
            for problem in problems {
                if told.iter().all(|(known, _)| *known != problem) {
                    warn!(problem, "the controller can't start");
                    self.tell(&problem).await;
                    let guard = self.readiness.guard(&problem);
                    told.push((problem, guard));
                }
            }
            leave_words(&told);
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = tokio::time::sleep(PATIENCE) => {}
            }
        }
        told.clear();
        leave_words(&told);
        shutdown.cancelled().await;
        Ok(())
    }

    /// Why a kind can't be listed, if that is for the operator to mend.
    async fn problem(&self, kind: Kind) -> Option<String> {
        let all = || self.client.clone();
        match kind {
            Kind::Node => ask::<SlimNode>(Api::all(all())).await,
            Kind::Namespace => ask::<SlimNamespace>(Api::all(all())).await,
            Kind::Pod => ask::<SlimPod>(Api::all(all())).await,
            Kind::Heartbeat => ask::<SlimLease>(Api::namespaced(all(), &self.namespace)).await,
            Kind::Gateway => ask::<EgressGateway>(Api::all(all())).await,
            Kind::Policy => ask::<EgressPolicy>(Api::all(all())).await,
            Kind::ClusterPolicy => ask::<EgressClusterPolicy>(Api::all(all())).await,
            Kind::Tunnel => ask::<EgressTunnel>(Api::all(all())).await,
            Kind::Lease => ask::<EgressPortLease>(Api::all(all())).await,
            Kind::ClusterInfo => ask::<EgressClusterInfo>(Api::all(all())).await,
            Kind::Slice => ask::<EgressEndpointSlice>(Api::all(all())).await,
            Kind::ClusterSlice => ask::<EgressClusterEndpointSlice>(Api::all(all())).await,
            // Of these there may be none.
            Kind::Service
            | Kind::ServiceCidr
            | Kind::ControlPlane
            | Kind::CalicoPool
            | Kind::CiliumNode
            | Kind::CiliumPool
            | Kind::SpiderPool
            | Kind::SpiderCoordinator => None,
        }
    }

    /// An event of the own pod. Where events can't be written either, the log and the last words are left.
    async fn tell(&self, problem: &str) {
        let pods: Api<SlimPod> = Api::all(self.client.clone());
        let own = format!("metadata.name={},metadata.namespace={}", self.pod, self.namespace);
        let found = tokio::time::timeout(DEADLINE, pods.list(&ListParams::default().fields(&own))).await;
        let own = found.ok().and_then(Result::ok).and_then(|pods| pods.items.into_iter().next());
        let pod = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(self.pod.clone()),
            namespace: Some(self.namespace.clone()),
            uid: own.and_then(|pod| pod.metadata.uid),
            ..ObjectReference::default()
        };
        let said = Said { warning: true, reason: REASON, message: problem };
        let now = Time(jiff::Timestamp::now());
        events::write(&self.client, events::about(pod, &said, &self.pod, 0, &now)).await;
    }
}

async fn ask<K>(api: Api<K>) -> Option<String>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let asked = tokio::time::timeout(DEADLINE, api.list(&ListParams::default().limit(1))).await;
    match asked.ok()? {
        Err(kube::Error::Api(status)) => {
            explain(&K::kind(&()), &K::plural(&()), &K::group(&()), status.code, &status.message)
        }
        _ => None,
    }
}

/// What a refusal means for an operator.
fn explain(kind: &str, plural: &str, group: &str, code: u16, message: &str) -> Option<String> {
    match code {
        404 if group == names::GROUP => Some(format!(
            "{kind} is not installed: CustomResourceDefinition `{plural}.{group}` is missing; apply the chart's directory \
             `crds`"
        )),
        401 | 403 => Some(format!(
            "{kind} can't be listed: {message}; apply the chart's roles and their bindings to the controller's service account"
        )),
        _ => None,
    }
}

fn leave_words(told: &[(String, Guard)]) {
    let text = told.iter().map(|(problem, _)| format!("{problem}\n")).collect::<String>();
    // Outside of a container there is no such file, and none is to be made.
    let opened = std::fs::OpenOptions::new().write(true).truncate(true).open(LAST_WORDS);
    if let Err(error) = opened.and_then(|mut file| file.write_all(text.as_bytes())) {
        debug!(error = %error, "no last words");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_kind_and_a_missing_permission_are_told_with_what_helps() {
        let missing =
            explain("EgressTunnel", "egresstunnels", names::GROUP, 404, "404 page not found").unwrap();
        assert!(
            missing.contains("`egresstunnels.egressgateway.spidernet.io` is missing; apply"),
            "{missing}"
        );
        let forbidden =
            explain("Node", "nodes", "", 403, "nodes is forbidden: User \"x\" cannot list").unwrap();
        assert!(forbidden.contains("cannot list; apply the chart's roles"), "{forbidden}");
        assert_eq!(explain("Node", "nodes", "", 404, "?"), None);
        assert_eq!(explain("Node", "nodes", "", 503, "busy"), None);
    }
}
