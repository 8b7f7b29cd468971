//! Startup, readiness and liveness probes: HTTP and TCP, from the node's network, as a kubelet's are.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::node::Node;

/// Until a container is ready for the first time it is asked that often: a lab should be up soon.
const EAGER: Duration = Duration::from_millis(50);
/// Most of an answer that is read.
const ANSWER_BYTES_MAX: u64 = 4096;

/// What a probe has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The container has started.
    Started,
    /// Whether it is ready.
    Ready(bool),
    /// It must be restarted.
    Dead(String),
}

/// Probes a container for as long as it runs.
pub(super) async fn run(
    container: &Container,
    node: &Arc<Node>,
    address: IpAddr,
    verdicts: mpsc::Sender<Verdict>,
) {
    if let Some(startup) = &container.startup_probe {
        let mut failures = 0;
        loop {
            match check(startup, container, node, address).await {
                Ok(()) => break,
                Err(error) => failures += i32::from(!error.is_empty()),
            }
            if failures >= startup.failure_threshold.unwrap_or(3) * 20 {
                verdicts.send(Verdict::Dead("Startup probe failed".to_string())).await.ok();
            }
            sleep(EAGER).await;
        }
        verdicts.send(Verdict::Started).await.ok();
    }
    let readiness = async {
        if let Some(readiness) = &container.readiness_probe {
            repeat(readiness, container, node, address, Purpose::Readiness, &verdicts).await;
        }
    };
    let liveness = async {
        if let Some(liveness) = &container.liveness_probe {
            repeat(liveness, container, node, address, Purpose::Liveness, &verdicts).await;
        }
    };
    tokio::join!(readiness, liveness);
    // The caller waits for verdicts, not for this to end.
    std::future::pending::<()>().await;
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Readiness,
    Liveness,
}

async fn repeat(
    probe: &Probe,
    container: &Container,
    node: &Arc<Node>,
    address: IpAddr,
    purpose: Purpose,
    verdicts: &mpsc::Sender<Verdict>,
) {
    let seconds = |seconds: Option<i32>, default: u64| {
        Duration::from_secs(seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(default))
    };
    let period = seconds(probe.period_seconds, 10).max(Duration::from_secs(1));
    let threshold = probe.failure_threshold.unwrap_or(3);
    if purpose == Purpose::Liveness {
        sleep(seconds(probe.initial_delay_seconds, 0).max(period)).await;
    }
    let mut was_ready = false;
    let mut failures = 0;
    loop {
        match check(probe, container, node, address).await {
            Ok(()) => {
                failures = 0;
                if purpose == Purpose::Readiness && !was_ready {
                    was_ready = true;
                    verdicts.send(Verdict::Ready(true)).await.ok();
                }
            }
            Err(error) => {
                failures += 1;
                if purpose == Purpose::Liveness && failures >= threshold {
                    let reason = format!("Liveness probe failed: {error}");
                    verdicts.send(Verdict::Dead(reason)).await.ok();
                    failures = 0;
                } else if purpose == Purpose::Readiness && was_ready && failures >= threshold {
                    was_ready = false;
                    verdicts.send(Verdict::Ready(false)).await.ok();
                }
            }
        }
        sleep(if purpose == Purpose::Readiness && !was_ready { EAGER } else { period }).await;
    }
}

/// One try; the error is what a user would want to read.
async fn check(
    probe: &Probe,
    container: &Container,
    node: &Arc<Node>,
    address: IpAddr,
) -> Result<(), String> {
    let timeout = probe.timeout_seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(1).max(1);
    let timeout = Duration::from_secs(timeout);
    let (port, request) = if let Some(http) = &probe.http_get {
        let path = http.path.clone().unwrap_or_else(|| "/".to_string());
        (&http.port, Some(path))
    } else if let Some(tcp) = &probe.tcp_socket {
        (&tcp.port, None)
    } else {
        // Commands and gRPC: taken as healthy while the process lives.
        return Ok(());
    };
    let port = port_number(port, container).ok_or_else(|| "the probe's port has no number".to_string())?;
    let target = SocketAddr::new(address, port);
    let node = Arc::clone(node);
    let attempt = move || node.namespace().run(|| ask(target, request.as_deref(), timeout));
    let outcome = tokio::task::spawn_blocking(attempt).await.map_err(|error| error.to_string())?;
    outcome.map_err(|error| error.to_string())
}

fn port_number(port: &IntOrString, container: &Container) -> Option<u16> {
    match port {
        IntOrString::Int(number) => u16::try_from(*number).ok(),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|port| port.name.as_ref() == Some(name));
            named.and_then(|port| u16::try_from(port.container_port).ok()).or_else(|| name.parse().ok())
        }
    }
}

fn ask(target: SocketAddr, path: Option<&str>, timeout: Duration) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&target, timeout)?;
    let Some(path) = path else { return Ok(()) };
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {target}\r\nUser-Agent: kube-probe\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    let code = status_code(&answer).ok_or_else(|| io::Error::other("the answer is not HTTP"))?;
    if (200..400).contains(&code) {
        return Ok(());
    }
    Err(io::Error::other(format!("HTTP probe failed with statuscode: {code}")))
}

/// The status code of an HTTP/1 answer.
fn status_code(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|byte| *byte == b'\r').next()?;
    let line = std::str::from_utf8(line).ok()?;
    let rest = line.strip_prefix("HTTP/1.1 ").or_else(|| line.strip_prefix("HTTP/1.0 "))?;
    rest.get(..3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_status_code_is_read_from_the_first_line() {
        assert_eq!(status_code(b"HTTP/1.1 200 OK\r\nx: y\r\n\r\nok"), Some(200));
        assert_eq!(status_code(b"SSH-2.0-x\r\n"), None);
    }

    proptest! {
        #[test]
        fn no_answer_makes_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = status_code(&bytes);
            let _ = status_code(&[b"HTTP/1.1 ", bytes.as_slice()].concat());
        }
    }
}
