//! Looks after this gateway's EIPs on the link: finds out who else has one, answers who is about to take one, and defends.
//!
//! A thread of its own around [`judge`], with a packet socket. It is told what the node answers for, and tells which EIPs
//! somebody else has: those are not used until that is over.

pub mod judge;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use kernel::RouteSocket;
use kernel::address_watch::AddressWatch;
use kernel::announce::Announcer;
use model::tunnel_mac::MacAddress;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use judge::{Action, Judge};

/// Frames that are read before time is looked at again.
const BURST: usize = 256;
/// A device that can't be listened to is tried again after that long.
const REOPEN_MS: u64 = 500;
/// Turns are at least so far apart, for there may be many probes.
const TURN_MS: u64 = 10;

/// EIPs that somebody else has, by address, and who.
pub type Conflicts = BTreeMap<IpAddr, MacAddress>;

/// What is to be looked after.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Charge {
    /// Name of the uplink
    pub device: String,
    /// Addresses of all nodes
    pub nodes: BTreeSet<IpAddr>,
    /// Addresses of this gateway's EIPs, and whether it is to answer for them
    pub eips: BTreeMap<IpAddr, bool>,
}

/// The running thread. It ends when this is dropped.
pub struct Defence {
    charges: Sender<Charge>,
    wake: UnixStream,
}

impl Defence {
    /// Starts it, in the calling thread's network namespace. `report` is called whenever something has changed.
    pub fn start(report: impl FnMut(Conflicts) + Send + 'static) -> anyhow::Result<Self> {
        let (charges, inbox) = channel();
        let (wake, woken) = UnixStream::pair().context("making the waker of the thread that defends EIPs")?;
        wake.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        let worker = Worker {
            start: Instant::now(),
            inbox,
            woken,
            charge: Charge::default(),
            judge: Judge::default(),
            announcer: Announcer::open().context("opening the socket for probes")?,
            links: RouteSocket::open()?,
            open: None,
            reopen_ms: 0,
            told: Conflicts::new(),
            report: Box::new(report),
        };
        let thread = std::thread::Builder::new().name("defence".to_owned());
        thread.spawn(move || worker.run()).context("starting the thread that defends EIPs")?;
        Ok(Self { charges, wake })
    }

    /// Takes over what is to be looked after.
    pub fn charge(&self, charge: Charge) {
        // Fails only when the thread has ended with the process.
        let _ = self.charges.send(charge);
        // A full pipe wakes as well.
        let _ = (&self.wake).write(&[0]);
    }
}

/// The uplink as it is listened to.
struct Open {
    index: u32,
    mac: MacAddress,
    watch: AddressWatch,
}

struct Worker {
    start: Instant,
    inbox: Receiver<Charge>,
    woken: UnixStream,
    charge: Charge,
    judge: Judge,
    announcer: Announcer,
    links: RouteSocket,
    open: Option<Open>,
    reopen_ms: u64,
    told: Conflicts,
    report: Box<dyn FnMut(Conflicts) + Send>,
}

impl Worker {
    fn run(mut self) {
        while self.obey() {
            let now_ms = self.now_ms();
            self.reopen(now_ms);
            if let Err(error) = self.hear(now_ms) {
                tracing::debug!(%error, device = self.charge.device, "the link can't be heard");
                self.open = None;
                self.reopen_ms = now_ms + REOPEN_MS;
            }
            if self.open.is_some() {
                for action in self.judge.tick(now_ms) {
                    self.act(action);
                }
            }
            self.tell();
            self.wait();
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Takes in what there is to look after; `false` when that is over.
    fn obey(&mut self) -> bool {
        while (&self.woken).read(&mut [0; 64]).is_ok_and(|length| length > 0) {}
        let mut latest = None;
        loop {
            match self.inbox.try_recv() {
                Ok(charge) => latest = Some(charge),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
        if let Some(charge) = latest {
            if charge.device != self.charge.device {
                self.open = None;
                self.reopen_ms = 0;
            }
            self.charge = charge;
            self.configure();
        }
        true
    }

    fn configure(&mut self) {
        let own = self.open.as_ref().map(|open| open.mac);
        let Charge { nodes, eips, .. } = &self.charge;
        let now_ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.judge.configure(now_ms, own, nodes, eips);
        self.find_nodes();
    }

    /// Where the other nodes are, as far as the kernel knows.
    fn find_nodes(&mut self) {
        let Some(open) = &self.open else { return };
        match self.links.neighbours() {
            Ok(neighbours) => {
                for neighbour in neighbours.iter().filter(|neighbour| neighbour.index == open.index) {
                    if let Some(mac) = neighbour.mac {
                        self.judge.found(neighbour.address, mac);
                    }
                }
            }
            Err(error) => tracing::debug!(%error, "where other nodes are is not known"),
        }
    }

    /// Listens to the uplink, once there is something to look after.
    fn reopen(&mut self, now_ms: u64) {
        if self.open.is_some() || self.charge.eips.is_empty() || now_ms < self.reopen_ms {
            return;
        }
        self.reopen_ms = now_ms + REOPEN_MS;
        // A point-to-point device has no neighbours who could have the same address.
        let found = self.links.link(&self.charge.device).ok().flatten();
        let Some((index, mac)) = found.and_then(|link| Some((link.index, link.mac?))) else { return };
        match AddressWatch::open(index) {
            Ok(watch) => {
                self.open = Some(Open { index, mac, watch });
                self.configure();
            }
            Err(error) => {
                tracing::warn!(%error, device = self.charge.device, "EIPs are not defended against other holders");
            }
        }
    }

    fn hear(&mut self, now_ms: u64) -> kernel::Result<()> {
        let Some(open) = &mut self.open else { return Ok(()) };
        for heard in open.watch.heard(BURST)? {
            // A stranger may be a node that was not heard of yet.
            if self.judge.concerns(&heard) {
                self.find_nodes();
            }
            if let Some(action) = self.judge.hear(now_ms, &heard) {
                self.act(action);
            }
        }
        Ok(())
    }

    fn act(&self, action: Action) {
        let Some(Open { index, mac, .. }) = &self.open else { return };
        let done = match action {
            Action::Probe(address) => self.announcer.probe(*index, *mac, address),
            Action::Answer(address, to) => {
                tracing::info!(%address, %to, "somebody is about to take an EIP, and is told that it is here");
                self.announcer.answer_probe(*index, *mac, address, to)
            }
            Action::Defend(address) => {
                tracing::warn!(%address, "somebody else claims an EIP; it is defended");
                self.announcer.announce(*index, *mac, address)
            }
        };
        if let Err(error) = done {
            tracing::debug!(%error, ?action, "not said on the link");
        }
    }

    fn tell(&mut self) {
        let conflicts = self.judge.conflicts();
        if conflicts == self.told {
            return;
        }
        for (address, mac) in conflicts.iter().filter(|(address, _)| !self.told.contains_key(*address)) {
            tracing::error!(%address, %mac, "somebody else has an EIP; it is not used until that is over");
        }
        for address in self.told.keys().filter(|address| !conflicts.contains_key(*address)) {
            tracing::info!(%address, "nobody else has the EIP any more");
        }
        self.told.clone_from(&conflicts);
        (self.report)(conflicts);
    }

    fn wait(&self) {
        let now_ms = self.now_ms();
        let is_closed = self.open.is_none() && !self.charge.eips.is_empty();
        let reopen_ms = is_closed.then_some(self.reopen_ms);
        let due_ms = self.judge.next_ms().filter(|_| self.open.is_some()).into_iter().chain(reopen_ms).min();
        let timeout = due_ms.map_or(PollTimeout::NONE, |due_ms| {
            let wait = Duration::from_millis(due_ms.saturating_sub(now_ms).max(TURN_MS));
            PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX)
        });
        let heard = self.open.as_ref().map(|open| open.watch.as_fd());
        let fds = [Some(self.woken.as_fd()), heard];
        let mut fds: Vec<PollFd<'_>> =
            fds.into_iter().flatten().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        // An interrupted or failed wait is a short one.
        let _ = poll(&mut fds, timeout);
    }
}
