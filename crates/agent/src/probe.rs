//! The probe thread: sockets and a clock around [`liveness::Engine`].
//!
//! It shares nothing with anything that can block: commands come in by a channel that it drains, reports go out by a callback
//! that must not block. Everything it does between two polls takes microseconds.

mod echo;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use liveness::detector::TICK_MS;
use liveness::engine::Event;
use liveness::wire::{self, MAX_DATAGRAM, PORT};
use liveness::{Claim, Engine, Outgoing, Topology, Uplink, Verdict};
use model::EipPair;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, Socket, Type};

use crate::keys::{Keyring, NodeKey};
use echo::Echo;

/// Datagrams that are read before time is looked at again.
const BURST: usize = 256;
/// DSCP CS6, network control: the last to be dropped in a queue.
const TOS: u32 = 0xc0;
/// How long to wait before a socket that could not be opened is tried again.
const REOPEN_MS: u64 = 500;

/// Where everybody is, and who they are.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// What liveness has to know
    pub topology: Topology,
    /// Own tunnel address
    pub own: Option<IpAddr>,
    /// Tunnel addresses of the other nodes
    pub addresses: BTreeMap<String, IpAddr>,
    /// Their keys
    pub keyring: Keyring,
}

/// What an earlier run left in the kernel.
#[derive(Clone, Debug, Default)]
pub struct Inheritance {
    /// EIPs that this node answered for
    pub claims: BTreeMap<EipPair, Claim>,
    /// Who carried this node's EIPs
    pub carriers: BTreeMap<EipPair, String>,
}

enum Command {
    Inherit(Inheritance),
    Setup(Box<Setup>),
    Ready(BTreeMap<String, u64>),
    Uplink(Uplink),
    Stop,
}

/// What the probe thread has found out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Who carries each EIP that concerns this node
    pub carriers: BTreeMap<EipPair, Option<String>>,
    /// What this node claims
    pub claims: BTreeMap<EipPair, Claim>,
    /// EIPs whose carrier is known, not guessed
    pub claimed: BTreeSet<EipPair>,
    /// Generation of this node's leases that each gateway has said to hold
    pub confirmed: BTreeMap<String, u64>,
    /// Nodes that are watched and don't answer
    pub dead: BTreeSet<String>,
    /// This node's own connection is to be looked at now
    pub in_doubt: bool,
}

impl Report {
    /// What an engine knows.
    #[must_use]
    pub fn of(engine: &Engine) -> Self {
        let dead = engine.verdicts().filter(|(_, verdict)| *verdict == Verdict::Dead);
        Self {
            carriers: engine.carriers(),
            claims: engine.claims().clone(),
            claimed: engine.claimed(),
            confirmed: engine.confirmed(),
            dead: dead.map(|(node, _)| node.to_owned()).collect(),
            in_doubt: engine.in_doubt(),
        }
    }

    /// The claims as the node's tunnel says them.
    #[must_use]
    pub fn claims_to_tell(&self) -> Vec<model::tunnel::Claim> {
        let claims = self.claims.iter().map(|(eip, claim)| model::tunnel::Claim {
            eip: *eip,
            epoch: i64::try_from(claim.epoch).unwrap_or(i64::MAX),
        });
        claims.collect()
    }
}

/// Numbers of the probe thread, for metrics.
#[derive(Debug, Default)]
pub struct ProbeCounters {
    /// Datagrams sent
    pub sent: AtomicU64,
    /// Datagrams that were taken
    pub received: AtomicU64,
    /// Datagrams that were malformed or not signed by their node
    pub refused: AtomicU64,
    /// Times that this process was late
    pub stalls: AtomicU64,
    /// EIPs that were taken over
    pub taken: AtomicU64,
}

/// The running thread.
pub struct Probe {
    commands: Sender<Command>,
    wake: UnixStream,
    thread: Option<JoinHandle<()>>,
    counters: Arc<ProbeCounters>,
}

impl Probe {
    /// Starts it. `report` is called in that thread whenever something has changed.
    pub fn start(
        node: &str,
        key: Arc<NodeKey>,
        report: impl FnMut(Report) + Send + 'static,
    ) -> anyhow::Result<Self> {
        Self::start_on(node, key, PORT, Echo::default(), report)
    }

    fn start_on(
        node: &str,
        key: Arc<NodeKey>,
        port: u16,
        echo: Echo,
        report: impl FnMut(Report) + Send + 'static,
    ) -> anyhow::Result<Self> {
        let (commands, inbox) = channel();
        let (wake, woken) = UnixStream::pair().context("making the probe thread's waker")?;
        wake.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        let counters = Arc::new(ProbeCounters::default());
        let worker = Worker {
            engine: Engine::new(node, key.epoch(), 0),
            key,
            port,
            start: Instant::now(),
            inbox,
            woken,
            setup: Setup::default(),
            nodes: BTreeMap::new(),
            socket: None,
            reopen_ms: 0,
            echo,
            report: Box::new(report),
            last: None,
            told: None,
            counters: counters.clone(),
        };
        let thread = std::thread::Builder::new().name("probe".to_owned());
        let thread = thread.spawn(move || worker.run()).context("starting the probe thread")?;
        Ok(Self { commands, wake, thread: Some(thread), counters })
    }

    /// Goes on where an earlier run stopped. Before [`Self::setup`].
    pub fn inherit(&self, inheritance: Inheritance) {
        self.send(Command::Inherit(inheritance));
    }

    /// Takes over what the objects say; only with complete lists.
    pub fn setup(&self, setup: Setup) {
        self.send(Command::Setup(Box::new(setup)));
    }

    /// The kernel holds everything that this node needs to carry EIPs, and leases of other nodes at these generations.
    pub fn ready(&self, loaded: BTreeMap<String, u64>) {
        self.send(Command::Ready(loaded));
    }

    /// What is known of the way outside.
    pub fn uplink(&self, uplink: Uplink) {
        self.send(Command::Uplink(uplink));
    }

    /// Its numbers.
    #[must_use]
    pub fn counters(&self) -> Arc<ProbeCounters> {
        self.counters.clone()
    }

    fn send(&self, command: Command) {
        // Fails only when the thread has ended, which `is_running` tells.
        let _ = self.commands.send(command);
        // A full pipe wakes as well.
        let _ = (&self.wake).write(&[0]);
    }

    /// Whether the thread runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What came of looking for orders.
enum Obeyed {
    Nothing,
    Something,
    Stop,
}

struct Worker {
    engine: Engine,
    key: Arc<NodeKey>,
    port: u16,
    start: Instant,
    inbox: Receiver<Command>,
    /// Readable when there may be something in the inbox.
    woken: UnixStream,
    setup: Setup,
    /// Reverse of the addresses.
    nodes: BTreeMap<IpAddr, String>,
    socket: Option<(IpAddr, UdpSocket)>,
    reopen_ms: u64,
    echo: Echo,
    report: Box<dyn FnMut(Report) + Send>,
    last: Option<Report>,
    /// Revision of the engine, and its doubt, that the last report was made of.
    told: Option<(u64, bool)>,
    counters: Arc<ProbeCounters>,
}

impl Worker {
    fn run(mut self) {
        let mut next_tick_ms = 0;
        loop {
            let now_ms = self.now_ms();
            self.open(now_ms);
            self.wait(next_tick_ms.max(now_ms) - now_ms);
            match self.obey() {
                Obeyed::Stop => return,
                // What is new is decided on, and told to others, now.
                Obeyed::Something => {
                    next_tick_ms = 0;
                    self.open(self.now_ms());
                }
                Obeyed::Nothing => {}
            }
            self.receive();
            let now_ms = self.now_ms();
            if now_ms >= next_tick_ms {
                next_tick_ms = now_ms + TICK_MS;
                let out = self.engine.tick(now_ms);
                self.send(out);
                self.ask_kernels(now_ms);
            }
            self.tell();
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Does what was ordered.
    fn obey(&mut self) -> Obeyed {
        let mut obeyed = Obeyed::Nothing;
        while (&self.woken).read(&mut [0; 64]).is_ok_and(|length| length > 0) {}
        loop {
            match self.inbox.try_recv() {
                Ok(Command::Inherit(inheritance)) => {
                    for (eip, claim) in inheritance.claims {
                        self.engine.adopt(eip, claim);
                    }
                    for (eip, node) in inheritance.carriers {
                        self.engine.seed_carrier(eip, node);
                    }
                }
                Ok(Command::Setup(setup)) => {
                    let now_ms = self.now_ms();
                    self.engine.configure(now_ms, setup.topology.clone());
                    let addresses = setup.addresses.iter();
                    self.nodes = addresses.map(|(node, address)| (*address, node.clone())).collect();
                    self.setup = *setup;
                    obeyed = Obeyed::Something;
                }
                Ok(Command::Ready(loaded)) => {
                    self.engine.set_ready(true);
                    self.engine.set_loaded(loaded);
                    obeyed = Obeyed::Something;
                }
                Ok(Command::Uplink(uplink)) => self.engine.set_uplink(uplink),
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return Obeyed::Stop,
                Err(TryRecvError::Empty) => return obeyed,
            }
        }
    }

    /// Has a socket on the own tunnel address, as soon as there is one.
    fn open(&mut self, now_ms: u64) {
        let bound = self.socket.as_ref().map(|(address, _)| *address);
        if bound == self.setup.own || now_ms < self.reopen_ms {
            return;
        }
        self.socket = None;
        let Some(own) = self.setup.own else { return };
        match open(SocketAddr::new(own, self.port)) {
            Ok(socket) => self.socket = Some((own, socket)),
            Err(error) => {
                self.reopen_ms = now_ms + REOPEN_MS;
                tracing::warn!(address = %own, port = self.port, %error, "no socket for probes");
            }
        }
    }

    fn wait(&self, ms: u64) {
        let timeout = PollTimeout::try_from(Duration::from_millis(ms)).unwrap_or(PollTimeout::ZERO);
        let probes = self.socket.as_ref().map(|(_, socket)| socket.as_fd());
        let sockets = [Some(self.woken.as_fd()), probes, self.echo.fd()];
        let fds = sockets.into_iter().flatten();
        let mut fds: Vec<PollFd<'_>> = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        // An interrupted or failed wait is a short one.
        let _ = poll(&mut fds, timeout);
    }

    fn receive(&mut self) {
        let mut buffer = [0; MAX_DATAGRAM + 1];
        for _ in 0..BURST {
            let Some((_, socket)) = &self.socket else { break };
            let Ok((length, from)) = socket.recv_from(&mut buffer) else {
                break;
            };
            let opened = wire::open(buffer.get(..length).unwrap_or_default(), &self.setup.keyring);
            // Signed by the node, but from elsewhere: somebody plays it back.
            let genuine = |node: &str| self.setup.addresses.get(node) == Some(&from.ip());
            match opened {
                Ok(message) if genuine(&message.node) => {
                    self.counters.received.fetch_add(1, Ordering::Relaxed);
                    let now_ms = self.now_ms();
                    let out = self.engine.receive(now_ms, message);
                    self.send(out);
                }
                _ => {
                    self.counters.refused.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        for address in self.echo.receive(BURST) {
            if let Some(node) = self.nodes.get(&address) {
                let now_ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
                self.engine.kernel_answered(now_ms, node);
            }
        }
    }

    fn send(&self, out: Vec<Outgoing>) {
        let Some((_, socket)) = &self.socket else { return };
        for Outgoing { to, message } in out {
            let datagram = wire::seal(&message, &*self.key);
            for node in to {
                let Some(address) = self.setup.addresses.get(&node) else {
                    continue;
                };
                // What can't be sent now is like what gets lost: the next probe comes.
                if socket.send_to(&datagram, (*address, self.port)).is_ok() {
                    self.counters.sent.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    /// Asks the kernels of silent nodes whether only their agent is away.
    fn ask_kernels(&mut self, now_ms: u64) {
        let silent = self.engine.silent(now_ms).filter_map(|node| self.setup.addresses.get(node));
        let silent: Vec<IpAddr> = silent.copied().collect();
        self.echo.ask(now_ms, self.setup.own, &silent);
    }

    fn tell(&mut self) {
        for event in self.engine.take_events() {
            match event {
                Event::Verdict(change) => {
                    tracing::info!(node = change.node, from = ?change.from, to = ?change.to, "peer");
                }
                Event::Claim(eip, decision) => {
                    if matches!(decision, liveness::ownership::Decision::Take(_)) {
                        self.counters.taken.fetch_add(1, Ordering::Relaxed);
                    }
                    tracing::info!(%eip, ?decision, "claim");
                }
            }
        }
        self.counters.stalls.store(self.engine.stalls(), Ordering::Relaxed);
        // Before that, claims of an earlier run are known, but not yet who carries what.
        if !self.engine.is_configured() {
            return;
        }
        let state = (self.engine.revision(), self.engine.in_doubt());
        if self.told == Some(state) {
            return;
        }
        self.told = Some(state);
        let report = Report::of(&self.engine);
        if self.last.as_ref() != Some(&report) {
            self.last = Some(report.clone());
            (self.report)(report);
        }
    }
}

/// A socket on this address, which the device need not have yet.
fn open(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv4() {
        socket.set_freebind_v4(true)?;
        socket.set_tos_v4(TOS)?;
    } else {
        socket.set_freebind_v6(true)?;
        socket.set_tclass_v6(TOS)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}
