//! The traffic of the failover steps: the lab's traffic client, run in a pod.

use std::time::Duration;

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{AttachParams, AttachedProcess};
use kube::{Api, Client, ResourceExt};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::time::timeout;

use crate::traffic::{CONNECTED, Summary, parse_summary};

/// How long the connections may take to come up, and their summary.
const PATIENCE: Duration = Duration::from_secs(30);

/// The command as it is run in the pod.
pub(super) const COMMAND: [&str; 5] = ["egressgateway", "lab", "traffic", "--connections", "20"];

/// Traffic that goes on until it is ended.
pub(super) struct Traffic {
    process: AttachedProcess,
    output: Box<dyn tokio::io::AsyncBufRead + Send + Unpin>,
}

impl Traffic {
    /// Starts the client in a pod and waits until everything is connected.
    pub(super) async fn start(client: &Client, pod: &Pod) -> anyhow::Result<Self> {
        let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
        let params = AttachParams::default().stdin(true).stdout(true).stderr(true);
        let mut process = api.exec(&pod.name_any(), COMMAND, &params).await.context("start the traffic")?;
        let output = process.stdout().context("the traffic has no output")?;
        let mut output = Box::new(BufReader::new(output));
        let mut line = String::new();
        let heard =
            timeout(PATIENCE, output.read_line(&mut line)).await.context("the traffic never connected")?;
        heard.context("read the traffic's output")?;
        if line.trim() != CONNECTED {
            let mut error = String::new();
            if let Some(mut stderr) = process.stderr() {
                timeout(Duration::from_secs(1), stderr.read_to_string(&mut error)).await.ok();
            }
            bail!("the traffic did not connect: {} {}", line.trim(), error.trim());
        }
        Ok(Self { process, output })
    }

    /// Ends the traffic; what it saw.
    pub(super) async fn end(mut self) -> anyhow::Result<Summary> {
        let mut stdin = self.process.stdin().context("the traffic has no input")?;
        stdin.shutdown().await.context("end the traffic")?;
        drop(stdin);
        let mut rest = String::new();
        let read = timeout(PATIENCE, self.output.read_to_string(&mut rest)).await;
        read.context("the traffic did not end")?.context("read the traffic's output")?;
        parse_summary(&rest)
    }
}
