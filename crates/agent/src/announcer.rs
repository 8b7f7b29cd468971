//! Tells the network where EIPs are now: paced, repeated, on a thread of its own.

use std::net::IpAddr;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use datapath::view::Uplink;

/// When an announcement is repeated, counted from the first: switches and hosts that were busy hear a later one.
const REPEAT_AFTER_MS: [u64; 6] = [0, 50, 200, 600, 1500, 4000];
/// Announcements that wait to be taken in. More are dropped: the kernel answers whoever asks.
const QUEUE: usize = 64;

/// The running thread. It ends when this is dropped.
pub struct Announcer {
    requests: SyncSender<(Uplink, Vec<IpAddr>)>,
}

struct Pending {
    uplink: Uplink,
    addresses: Vec<IpAddr>,
    start: Instant,
    done: usize,
}

impl Pending {
    fn due(&self) -> Option<Instant> {
        let after = REPEAT_AFTER_MS.get(self.done)?;
        Some(self.start + Duration::from_millis(*after))
    }
}

impl Announcer {
    /// Starts it; `send` sends one announcement of an address.
    pub fn start(mut send: impl FnMut(&Uplink, IpAddr) + Send + 'static) -> anyhow::Result<Self> {
        let (requests, inbox) = sync_channel::<(Uplink, Vec<IpAddr>)>(QUEUE);
        let work = move || {
            let mut pending: Vec<Pending> = Vec::new();
            loop {
                let next = pending.iter().filter_map(Pending::due).min();
                let wait =
                    next.map_or(Duration::from_secs(3600), |at| at.saturating_duration_since(Instant::now()));
                match inbox.recv_timeout(wait) {
                    Ok((uplink, addresses)) => {
                        pending.push(Pending { uplink, addresses, start: Instant::now(), done: 0 })
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
                let now = Instant::now();
                for one in pending.iter_mut().filter(|one| one.due().is_some_and(|due| due <= now)) {
                    one.done += 1;
                    for address in &one.addresses {
                        send(&one.uplink, *address);
                    }
                }
                pending.retain(|one| one.due().is_some());
            }
        };
        let thread = std::thread::Builder::new().name("announce".to_owned());
        thread.spawn(work).context("starting the thread that announces EIPs")?;
        Ok(Self { requests })
    }

    /// Announces these addresses, now and some times more.
    pub fn announce(&self, uplink: Uplink, addresses: Vec<IpAddr>) {
        if self.requests.try_send((uplink, addresses)).is_err() {
            tracing::warn!("too many announcements at once; one is dropped");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn an_address_is_announced_at_once_and_again() {
        let (sent, inbox) = channel();
        let announcer = Announcer::start(move |_, address| {
            let _ = sent.send(address);
        });
        let announcer = announcer.unwrap();
        let uplink = Uplink {
            device: "eth0".to_owned(),
            index: 2,
            mtu: 1500,
            ipv4: None,
            ipv6: None,
            next_hop_ipv4: None,
            next_hop_ipv6: None,
        };
        let address: IpAddr = "10.6.168.201".parse().unwrap();
        announcer.announce(uplink, vec![address]);
        let seen: Vec<_> = inbox.iter().take(3).collect();
        assert_eq!(seen, [address; 3]);
    }
}
