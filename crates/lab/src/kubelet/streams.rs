//! `exec`, `attach`, `portforward` and `logs` for the API server.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;

use apiserver::streams::{
    AttachRequest, ExecRequest, ExecStreams, LogRequest, LogStream, PodConnection, PodStreams, PortRequest,
    StreamError, TerminalSize,
};
use futures::StreamExt as _;
use futures::future::BoxFuture;
use kernel::Netns;
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};

use crate::container::exit_code;
use crate::container::process::enter;
use crate::container::spec::{EnterSpec, Program};
use crate::kubelet::registry::{Registry, RunningContainer, RunningPod};
use crate::world::Key;

/// What a command gets to know of its terminal when the client says nothing.
const TERMINAL: &str = "xterm";
/// Loopback answers at once, unless what listens there is stuck.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Looks pods up in the registry and starts commands beside their containers.
#[derive(Clone, Debug)]
pub(crate) struct LabStreams {
    registry: Registry,
    /// Nodes whose cable is out: their kubelets can't be reached.
    cut: watch::Receiver<std::collections::BTreeSet<String>>,
}

impl LabStreams {
    /// Streams of all pods in a registry, but for those on cut nodes.
    pub(crate) fn new(registry: Registry, cut: watch::Receiver<std::collections::BTreeSet<String>>) -> Self {
        Self { registry, cut }
    }

    fn container(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
    ) -> Result<RunningContainer, StreamError> {
        let waiting = || waiting(pod, container);
        let found = self.pod(namespace, pod)?.ok_or_else(waiting)?;
        found.containers.into_iter().find(|running| running.name == container).ok_or_else(waiting)
    }

    fn pod(&self, namespace: &str, pod: &str) -> Result<Option<RunningPod>, StreamError> {
        let key = Key { namespace: namespace.to_string(), name: pod.to_string() };
        let Some(found) = self.registry.get(&key) else { return Ok(None) };
        if self.cut.borrow().contains(&found.node) {
            let message =
                format!("error dialing backend: dial tcp {}:10250: connect: no route to host", found.node);
            return Err(StreamError::Internal(message));
        }
        Ok(Some(found))
    }
}

impl PodStreams for LabStreams {
    fn exec(
        &self,
        request: ExecRequest,
        streams: ExecStreams,
    ) -> BoxFuture<'static, Result<i32, StreamError>> {
        let container = self.container(&request.namespace, &request.pod, &request.container);
        Box::pin(async move {
            let container = container?;
            let pid = container.pid.ok_or_else(|| {
                StreamError::Internal(format!("container not found ({:?})", request.container))
            })?;
            let mut environment = container.environment;
            if request.tty {
                environment.push(("TERM".to_string(), TERMINAL.to_string()));
            }
            let program = Program {
                argv: request.command,
                environment,
                working_directory: container.working_directory,
            };
            let spec = EnterSpec { program, new_session: true, ..EnterSpec::default() };
            let outcome = if request.tty {
                on_terminal(pid, spec, streams).await
            } else {
                on_pipes(pid, spec, streams).await
            };
            outcome.map(i32::from).map_err(|error| StreamError::Internal(error.to_string()))
        })
    }

    /// Programs in the lab read nothing and write to their logs, so that is what a client sees.
    fn attach(
        &self,
        request: AttachRequest,
        streams: ExecStreams,
    ) -> BoxFuture<'static, Result<i32, StreamError>> {
        let container = self.container(&request.namespace, &request.pod, &request.container);
        Box::pin(async move {
            let from_now_on = LogRequest {
                container: request.container.clone(),
                pod: request.pod.clone(),
                follow: true,
                tail_lines: Some(0),
                ..LogRequest::default()
            };
            let log = container?.log.read(&from_now_on);
            let mut log = log.ok_or_else(|| waiting(&request.pod, &request.container))?;
            let mut stdout = streams.stdout;
            while let Some(piece) = log.next().await {
                let piece = piece.map_err(|error| StreamError::Internal(error.to_string()))?;
                if let Some(out) = &mut stdout {
                    out.write_all(&piece).await.map_err(|error| StreamError::Internal(error.to_string()))?;
                }
            }
            Ok(0)
        })
    }

    fn connect(
        &self,
        request: PortRequest,
    ) -> BoxFuture<'static, Result<Box<dyn PodConnection>, StreamError>> {
        let found = self.pod(&request.namespace, &request.pod);
        Box::pin(async move {
            let containers = found?.map(|pod| pod.containers).unwrap_or_default();
            let process = containers.iter().find_map(|container| container.pid);
            let process =
                process.ok_or_else(|| StreamError::Internal(format!("pod {} does not run", request.pod)))?;
            let connecting = tokio::task::spawn_blocking(move || connect_inside(process, request.port));
            let connected = connecting.await.map_err(std::io::Error::other).and_then(|connected| connected);
            let connected = connected.and_then(TcpStream::from_std);
            match connected {
                Ok(stream) => Ok(Box::new(stream) as Box<dyn PodConnection>),
                Err(error) => Err(StreamError::Internal(error.to_string())),
            }
        })
    }

    fn logs(&self, request: LogRequest) -> BoxFuture<'static, Result<LogStream, StreamError>> {
        let container = self.container(&request.namespace, &request.pod, &request.container);
        Box::pin(async move {
            let missing = || {
                let (container, pod) = (&request.container, &request.pod);
                if !request.previous {
                    return waiting(pod, container);
                }
                let text = format!("previous terminated container {container:?} in pod {pod:?} not found");
                StreamError::BadRequest(text)
            };
            container?.log.read(&request).ok_or_else(missing)
        })
    }
}

/// Connects to a port at the loopback device that a process sees.
fn connect_inside(process: i32, port: u16) -> std::io::Result<std::net::TcpStream> {
    let namespace = Netns::open(format!("/proc/{process}/ns/net")).map_err(std::io::Error::other)?;
    let connect = move || {
        let connect = |address: IpAddr| {
            std::net::TcpStream::connect_timeout(&SocketAddr::new(address, port), CONNECT_TIMEOUT)
        };
        let v4 = connect(Ipv4Addr::LOCALHOST.into());
        v4.or_else(|error| connect(Ipv6Addr::LOCALHOST.into()).map_err(|_| error))
    };
    let stream = namespace.run(connect).map_err(std::io::Error::other)??;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// What Kubernetes says of a container that has not run yet.
fn waiting(pod: &str, container: &str) -> StreamError {
    let state = "is waiting to start: ContainerCreating";
    StreamError::BadRequest(format!("container {container:?} in pod {pod:?} {state}"))
}

async fn on_pipes(pid: i32, spec: EnterSpec, streams: ExecStreams) -> std::io::Result<u8> {
    let stdio = |wanted: bool| if wanted { Stdio::piped() } else { Stdio::null() };
    let kinds =
        [stdio(streams.stdin.is_some()), stdio(streams.stdout.is_some()), stdio(streams.stderr.is_some())];
    let mut child = enter(pid, spec, kinds)?;
    let stdin = forward(streams.stdin, child.stdin.take());
    let stdout = forward(child.stdout.take(), streams.stdout);
    let stderr = forward(child.stderr.take(), streams.stderr);
    // Input may go on for ever; output ends with the command.
    let work = async {
        let (status, (), ()) = tokio::join!(child.wait(), stdout, stderr);
        status
    };
    tokio::pin!(work, stdin);
    let status = tokio::select! {
        status = &mut work => status?,
        () = &mut stdin => work.await?,
    };
    Ok(exit_code(status))
}

async fn on_terminal(pid: i32, mut spec: EnterSpec, streams: ExecStreams) -> std::io::Result<u8> {
    let ends = nix::pty::openpty(None, None)?;
    spec.terminal = Some(nix::unistd::ttyname(&ends.slave)?);
    let mut child = enter(pid, spec, [Stdio::null(), Stdio::null(), Stdio::null()])?;
    // Held open until the command has opened it for itself, which it has when it ends at the latest.
    let slave = ends.slave;
    let master = std::fs::File::from(ends.master);
    let (reader, writer) = (File::from_std(master.try_clone()?), File::from_std(master.try_clone()?));
    let sizes = follow_size(master, streams.resize);
    let stdin = forward(streams.stdin, Some(writer));
    // Reads of the master end with an error once the last slave is closed.
    let output = forward(Some(reader), streams.stdout);
    tokio::pin!(sizes, stdin, output);
    let mut slave = Some(slave);
    let mut status = None;
    let (mut input_open, mut sizes_open) = (true, true);
    loop {
        tokio::select! {
            ended = child.wait(), if status.is_none() => {
                status = Some(ended?);
                slave = None;
            }
            () = &mut output => break,
            () = &mut stdin, if input_open => input_open = false,
            () = &mut sizes, if sizes_open => sizes_open = false,
        }
    }
    drop(slave);
    let status = match status {
        Some(status) => status,
        None => child.wait().await?,
    };
    Ok(exit_code(status))
}

async fn follow_size(terminal: std::fs::File, mut sizes: mpsc::Receiver<TerminalSize>) {
    while let Some(size) = sizes.recv().await {
        let size = Winsize { ws_row: size.height, ws_col: size.width, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&terminal, size).ok();
    }
}

/// Copies until the source ends, then closes the target.
async fn forward<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(source: Option<R>, target: Option<W>) {
    if let (Some(mut source), Some(mut target)) = (source, target) {
        copy(&mut source, &mut target).await.ok();
        target.shutdown().await.ok();
    }
}
