//! Both ends of the traffic: plain sockets of this process, made in the namespaces of pods and of the outside host.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kernel::Netns;

/// How long a connection may take, or an answer on a way that works.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long a connection may be silent before it is lost: longer than any failover.
const LOST_AFTER: Duration = Duration::from_secs(30);
/// Time between two datagrams or bytes of a stream.
const PERIOD: Duration = Duration::from_millis(5);
/// Longest wait for a socket before it is looked whether to stop.
const BLINK: Duration = Duration::from_millis(50);
const DATAGRAM_MAX: usize = 65_535;

/// What one sequence of datagrams looked like from outside.
#[derive(Clone, Debug, Default)]
pub(crate) struct Arrived {
    /// Sequence numbers that arrived.
    pub(crate) numbers: BTreeSet<u64>,
    /// Where they came from.
    pub(crate) sources: BTreeSet<SocketAddr>,
}

/// A server on one TCP and the same UDP port. TCP callers say what they want in a line: `who`, `echo`, `push`, `get N`,
/// `put N`. UDP datagrams come back, `size N` with so many bytes.
pub(crate) struct Server {
    port: u16,
    arrived: Arc<Mutex<BTreeMap<Vec<u8>, Arrived>>>,
    stop: Arc<AtomicBool>,
}

impl Server {
    /// Starts it in a namespace.
    pub(crate) fn start(netns: &Netns) -> Result<Self> {
        let (listener, datagrams) = netns.run(|| -> io::Result<_> {
            loop {
                let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?;
                // The port may be taken for UDP; then another one.
                if let Ok(datagrams) = UdpSocket::bind(listener.local_addr()?) {
                    return Ok((listener, datagrams));
                }
            }
        })??;
        let port = listener.local_addr()?.port();
        let server = Self { port, arrived: Arc::default(), stop: Arc::default() };
        let arrived = Arc::clone(&server.arrived);
        let stop = Arc::clone(&server.stop);
        datagrams.set_read_timeout(Some(BLINK))?;
        std::thread::spawn(move || answer_datagrams(&datagrams, &arrived, &stop));
        // It goes on until the process ends: nothing but a caller wakes it.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || answer_stream(stream));
            }
        });
        Ok(server)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Where clients find it.
    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::new(crate::world::OUTSIDE.into(), self.port)
    }

    /// What arrived of a sequence.
    pub(crate) fn arrived(&self, name: &str) -> Arrived {
        lock(&self.arrived).get(name.as_bytes()).cloned().unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn answer_datagrams(socket: &UdpSocket, arrived: &Mutex<BTreeMap<Vec<u8>, Arrived>>, stop: &AtomicBool) {
    let mut buffer = vec![0; DATAGRAM_MAX];
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        let datagram = buffer.get(..length).unwrap_or_default();
        if let Some(size) = String::from_utf8_lossy(datagram).trim_end_matches('.').strip_prefix("size ") {
            socket.send_to(&vec![b'.'; size.trim().parse().unwrap_or(0)], from).ok();
            continue;
        }
        if let Some((name, number)) = parse_numbered(datagram) {
            let mut arrived = lock(arrived);
            let sequence = arrived.entry(name).or_default();
            sequence.numbers.insert(number);
            sequence.sources.insert(from);
        }
        socket.send_to(datagram, from).ok();
    }
}

/// `NAME NUMBER`.
fn parse_numbered(datagram: &[u8]) -> Option<(Vec<u8>, u64)> {
    let (name, number) = std::str::from_utf8(datagram).ok()?.split_once(' ')?;
    Some((name.as_bytes().to_vec(), number.parse().ok()?))
}

/// Serves one caller; when it fails, the caller notices.
fn answer_stream(stream: TcpStream) {
    let serve = || -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut writer = &stream;
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let (verb, count) = line.trim().split_once(' ').unwrap_or((line.trim(), "0"));
        let count: u64 = count.parse().unwrap_or(0);
        match verb {
            "echo" => drop(io::copy(&mut reader, &mut writer)?),
            "push" => loop {
                writer.write_all(b".")?;
                std::thread::sleep(PERIOD);
            },
            "get" => drop(io::copy(&mut io::repeat(b'.').take(count), &mut writer)?),
            "put" => {
                let got = io::copy(&mut reader.take(count), &mut io::sink())?;
                writer.write_all(got.to_string().as_bytes())?;
            }
            _ => writer.write_all(format!("{}\n", stream.peer_addr()?.ip()).as_bytes())?,
        }
        Ok(())
    };
    serve().ok();
}

/// A TCP connection from a namespace.
pub(crate) fn connect(netns: &Netns, to: SocketAddr) -> Result<TcpStream> {
    let stream = netns.run(|| TcpStream::connect_timeout(&to, PATIENCE))??;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A UDP socket of a namespace.
pub(crate) fn udp(netns: &Netns) -> Result<UdpSocket> {
    let socket = netns.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// The address and port that a TCP server saw: it is asked over a connection of its own.
pub(crate) fn say(stream: &mut TcpStream, line: &str) -> Result<()> {
    stream.write_all(line.as_bytes())?;
    Ok(stream.write_all(b"\n")?)
}

/// Numbered datagrams, one after the other, until it is stopped.
pub(crate) struct Sequence {
    name: String,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    answered: Arc<Mutex<BTreeSet<u64>>>,
    threads: Vec<JoinHandle<()>>,
}

/// How a sequence ended.
pub(crate) struct Sent {
    /// How many datagrams were sent.
    pub(crate) count: u64,
    /// Those that were not seen outside.
    pub(crate) lost: BTreeSet<u64>,
    /// Those that were not answered.
    pub(crate) unanswered: BTreeSet<u64>,
    /// Addresses that the outside saw.
    pub(crate) sources: BTreeSet<SocketAddr>,
}

impl Sequence {
    /// Starts one from a namespace; `name` tells it from others.
    pub(crate) fn start(netns: &Netns, server: &Server, name: &str) -> Result<Self> {
        let socket = udp(netns)?;
        socket.connect(server.address())?;
        socket.set_read_timeout(Some(BLINK))?;
        let sequence = Self {
            name: name.to_owned(),
            stop: Arc::default(),
            sent: Arc::default(),
            answered: Arc::default(),
            threads: Vec::new(),
        };
        let sending = {
            let (socket, stop, sent) =
                (socket.try_clone()?, Arc::clone(&sequence.stop), Arc::clone(&sequence.sent));
            let name = name.to_owned();
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let number = sent.load(Ordering::Relaxed);
                    // An error is one of an earlier datagram, or means that this one is lost: the end will show it.
                    socket.send(format!("{name} {number}").as_bytes()).ok();
                    sent.store(number + 1, Ordering::Relaxed);
                    std::thread::sleep(PERIOD);
                }
            })
        };
        let hearing = {
            let (stop, answered) = (Arc::clone(&sequence.stop), Arc::clone(&sequence.answered));
            std::thread::spawn(move || {
                let mut buffer = [0; 256];
                let mut silent_since_stop = 0;
                // What is still on its way when sending stops gets some time.
                while silent_since_stop < 20 {
                    match socket.recv(&mut buffer) {
                        Ok(length) => {
                            let number = buffer.get(..length).and_then(parse_numbered);
                            lock(&answered).extend(number.map(|(_, number)| number));
                        }
                        Err(_) if stop.load(Ordering::Relaxed) => silent_since_stop += 1,
                        Err(_) => {}
                    }
                }
            })
        };
        Ok(Self { threads: vec![sending, hearing], ..sequence })
    }

    /// How many were answered so far.
    pub(crate) fn answered(&self) -> usize {
        lock(&self.answered).len()
    }

    /// Waits until so many more are answered.
    pub(crate) fn flow_on(&self, world: &crate::world::World, more: usize) -> Result<()> {
        let goal = self.answered() + more;
        world.until("datagrams are answered", || {
            let now = self.answered();
            ensure!(now >= goal, "{now} of {goal} are answered, {} sent", self.sent.load(Ordering::Relaxed));
            Ok(())
        })
    }

    /// Stops it and compares what was sent with what arrived.
    pub(crate) fn end(self, server: &Server) -> Result<Sent> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().ok().context("a thread of the sequence panicked")?;
        }
        let arrived = server.arrived(&self.name);
        let count = self.sent.load(Ordering::Relaxed);
        let answered = lock(&self.answered);
        Ok(Sent {
            count,
            lost: (0..count).filter(|number| !arrived.numbers.contains(number)).collect(),
            unanswered: (0..count).filter(|number| !answered.contains(number)).collect(),
            sources: arrived.sources,
        })
    }
}

impl Sent {
    /// The addresses that the outside saw.
    pub(crate) fn addresses(&self) -> BTreeSet<IpAddr> {
        self.sources.iter().map(SocketAddr::ip).collect()
    }
}

/// Connections that are asked all the time, and a stream that the server pushes.
pub(crate) struct Held {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    pushed: Arc<AtomicU64>,
    talks: Vec<JoinHandle<Result<()>>>,
}

impl Held {
    /// Opens so many connections and one stream.
    pub(crate) fn open(netns: &Netns, to: SocketAddr, connections: usize) -> Result<Self> {
        let held =
            Self { stop: Arc::default(), rounds: Arc::default(), pushed: Arc::default(), talks: Vec::new() };
        let mut talks = Vec::new();
        for number in 0..connections {
            let mut stream = connect(netns, to)?;
            stream.set_read_timeout(Some(LOST_AFTER))?;
            say(&mut stream, "echo")?;
            let (stop, rounds) = (Arc::clone(&held.stop), Arc::clone(&held.rounds));
            talks.push(std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let mut byte = *b"?";
                    stream.write_all(&byte).with_context(|| format!("connection {number}"))?;
                    stream.read_exact(&mut byte).with_context(|| format!("connection {number}"))?;
                    rounds.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(PERIOD);
                }
                Ok(())
            }));
        }
        let mut stream = connect(netns, to)?;
        stream.set_read_timeout(Some(LOST_AFTER))?;
        say(&mut stream, "push")?;
        let (stop, pushed) = (Arc::clone(&held.stop), Arc::clone(&held.pushed));
        talks.push(std::thread::spawn(move || {
            let mut bytes = [0; 256];
            while !stop.load(Ordering::Relaxed) {
                let length = stream.read(&mut bytes).context("the pushed stream")?;
                ensure!(length > 0, "the pushed stream ended");
                pushed.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        }));
        Ok(Self { talks, ..held })
    }

    /// Waits until every connection can have had an answer, and the stream has gone on.
    pub(crate) fn flow_on(&self, world: &crate::world::World) -> Result<()> {
        let goal = self.rounds.load(Ordering::Relaxed) + 4 * self.talks.len() as u64;
        let pushed = self.pushed.load(Ordering::Relaxed) + 4;
        world.until("connections and stream go on", || {
            let now = (self.rounds.load(Ordering::Relaxed), self.pushed.load(Ordering::Relaxed));
            ensure!(now.0 >= goal && now.1 >= pushed, "{now:?} of {goal} answers and {pushed} pushes");
            Ok(())
        })
    }

    /// Ends them; an error if one of them did not live until now.
    pub(crate) fn end(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for talk in self.talks {
            talk.join().ok().context("a connection's thread panicked")??;
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
