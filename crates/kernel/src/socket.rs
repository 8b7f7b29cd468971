//! A netlink socket that asks one question at a time.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, NetlinkAddr, recvmsg, setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::error::{Error, Result};
use crate::wire::{self, ACK, DUMP, DUMP_INTERRUPTED, Message, REQUEST, Writer};

const NOOP: u16 = 1;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const FLAG_CAPPED: u16 = 0x100;
const FLAG_ACK_ATTRIBUTES: u16 = 0x200;
const ACK_ATTRIBUTE_MESSAGE: u16 = 1;

/// The kernel fills datagrams of a dump up to 32 KiB; single replies are smaller.
const RECEIVE_BUFFER: usize = 64 << 10;
/// The kernel answers inside the `send` call. This only ends the wait for a reply that it had no memory for.
const REPLY_TIMEOUT_SECONDS: i64 = 10;
/// How often a dump is begun anew when the state changes under it.
const DUMP_ATTEMPTS: usize = 8;

/// A netlink socket of the calling thread's network namespace, in which it stays.
#[derive(Debug)]
pub(crate) struct NetlinkSocket {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl NetlinkSocket {
    /// Opens a socket of a netlink protocol (`NETLINK_ROUTE`, `NETLINK_NETFILTER`).
    pub(crate) fn open(protocol: isize) -> Result<Self> {
        let fail = |source| Error::system("opening a netlink socket", source);
        let mut socket = Socket::new(protocol).map_err(fail)?;
        socket.bind_auto().map_err(fail)?;
        // Without these, errors have a number only and quote the whole request.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(REPLY_TIMEOUT_SECONDS))
            .map_err(|errno| fail(errno.into()))?;
        Ok(Self { socket, sequence: 0, buffer: vec![0; RECEIVE_BUFFER] })
    }

    /// Its address among netlink sockets.
    pub(crate) fn port(&self) -> Result<u32> {
        let mut address = SocketAddr::new(0, 0);
        self.socket
            .get_address(&mut address)
            .map(|()| address.port_number())
            .map_err(|source| Error::system("reading a socket's address", source))
    }

    /// The sequence number for a message to come.
    pub(crate) fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        self.sequence
    }

    /// Leaves out sequence numbers that messages of a batch have.
    pub(crate) fn skip_sequences(&mut self, count: u32) {
        self.sequence = self.sequence.wrapping_add(count).max(1);
    }

    /// Lets the kernel filter dumps by what the request says (4.20 and later; older ones give everything).
    pub(crate) fn check_strictly(&self) {
        let _ = self.socket.set_netlink_get_strict_chk(true);
    }

    /// Listens to a multicast group.
    pub(crate) fn join(&self, group: u32) -> Result<()> {
        self.socket.add_membership(group).map_err(|source| Error::system("joining a netlink group", source))
    }

    /// Asks for a larger receive buffer, beyond the system's limit where that is allowed.
    pub(crate) fn grow_receive_buffer(&self, bytes: usize) {
        if setsockopt(&self.socket, sockopt::RcvBufForce, &bytes).is_err() {
            let _ = setsockopt(&self.socket, sockopt::RcvBuf, &bytes);
        }
    }

    /// Makes room for one `send` of this size, beyond the system's limit where that is allowed.
    pub(crate) fn grow_send_buffer(&self, bytes: usize) {
        if setsockopt(&self.socket, sockopt::SndBufForce, &bytes).is_err() {
            let _ = setsockopt(&self.socket, sockopt::SndBuf, &bytes);
        }
    }

    /// Sends one request and waits for its acknowledgement.
    pub(crate) fn request(
        &mut self,
        what: &str,
        kind: u16,
        flags: u16,
        body: impl FnOnce(&mut Writer),
    ) -> Result<()> {
        self.converse(what, kind, flags | ACK, body, |_| ())
    }

    /// Sends one request and gives each message of the reply to `each`.
    pub(crate) fn query(
        &mut self,
        what: &str,
        kind: u16,
        body: impl FnOnce(&mut Writer),
        each: impl FnMut(Message<'_>),
    ) -> Result<()> {
        self.converse(what, kind, ACK, body, each)
    }

    /// Reads a whole list. `parse` sees each message; what it returns is collected. Begins anew when the list changes
    /// meanwhile.
    pub(crate) fn dump<T>(
        &mut self,
        what: &str,
        kind: u16,
        body: impl Fn(&mut Writer),
        parse: impl Fn(Message<'_>) -> Option<T>,
    ) -> Result<Vec<T>> {
        for _ in 0..DUMP_ATTEMPTS {
            let mut found = Vec::new();
            let mut interrupted = false;
            let outcome = self.converse(what, kind, DUMP, &body, |message| {
                interrupted |= message.flags & DUMP_INTERRUPTED != 0;
                found.extend(parse(message));
            });
            match outcome {
                Err(error) if error.errno() == Some(Errno::EINTR) => continue,
                Err(error) => return Err(error),
                Ok(()) if interrupted => continue,
                Ok(()) => return Ok(found),
            }
        }
        Err(Error::Unstable { what: what.to_owned() })
    }

    fn converse(
        &mut self,
        what: &str,
        kind: u16,
        flags: u16,
        body: impl FnOnce(&mut Writer),
        mut each: impl FnMut(Message<'_>),
    ) -> Result<()> {
        let sequence = self.next_sequence();
        let mut writer = Writer::new();
        writer.message(kind, flags | REQUEST, sequence, body);
        self.send(what, writer)?;
        let interrupted = std::cell::Cell::new(false);
        loop {
            let Some(bytes) = self.receive(what, MsgFlags::empty())? else {
                return Err(Error::Lost { what: what.to_owned() });
            };
            for message in wire::messages(bytes).filter(|message| message.sequence == sequence) {
                match message.kind {
                    NOOP => {}
                    ERROR | DONE => {
                        // The flag of an interrupted dump may be on the last message only.
                        if message.flags & DUMP_INTERRUPTED != 0 || interrupted.get() {
                            each(Message { kind: 0, payload: &[], ..message });
                        }
                        return acknowledgement(&message).map_err(|(errno, message)| Error::Refused {
                            what: what.to_owned(),
                            errno,
                            message,
                        });
                    }
                    _ => {
                        interrupted.set(interrupted.get() || message.flags & DUMP_INTERRUPTED != 0);
                        each(message);
                    }
                }
            }
        }
    }

    /// Sends everything that was written, as one datagram.
    pub(crate) fn send(&mut self, what: &str, writer: Writer) -> Result<()> {
        let bytes = writer
            .finish()
            .ok_or_else(|| Error::Unsupported { what: what.to_owned(), why: "a value is too long" })?;
        self.socket
            .send_to(&bytes, &SocketAddr::new(0, 0), 0)
            .map(|_| ())
            .map_err(|source| Error::system(what, source))
    }

    /// Receives one datagram of the kernel. `None` when there is none (in the time that one waits, which is none at all
    /// with `MSG_DONTWAIT`).
    pub(crate) fn receive(&mut self, what: &str, flags: MsgFlags) -> Result<Option<&[u8]>> {
        let len = loop {
            let fd = self.socket.as_raw_fd();
            let received = {
                let mut parts = [IoSliceMut::new(&mut self.buffer)];
                recvmsg::<NetlinkAddr>(fd, &mut parts, None, flags).map(|message| {
                    let from_kernel = message.address.is_some_and(|sender| sender.pid() == 0);
                    (message.bytes, from_kernel, message.flags.contains(MsgFlags::MSG_TRUNC))
                })
            };
            match received {
                Ok((_, true, true)) => {
                    return Err(Error::Lost { what: what.to_owned() });
                }
                Ok((len, true, false)) => break len,
                // Another process may write to our socket; it is not heard.
                Ok((_, false, _)) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                Err(Errno::ENOBUFS) => {
                    return Err(Error::Lost { what: what.to_owned() });
                }
                Err(errno) => return Err(Error::system(what, errno)),
            }
        };
        Ok(Some(self.buffer.get(..len).unwrap_or_default()))
    }
}

impl AsFd for NetlinkSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What an `ERROR` or `DONE` message says: success, or error number and the kernel's own words.
pub(crate) fn acknowledgement(message: &Message<'_>) -> Result<(), (Errno, Option<String>)> {
    let code = wire::u32_at(message.payload, 0).map_or(0, u32::cast_signed);
    if code >= 0 {
        return Ok(());
    }
    // Behind the code: the request's header, then the rest of the request unless it was capped, then attributes.
    let quoted = match (message.kind, message.flags & FLAG_CAPPED != 0) {
        (DONE, _) => 0,
        (_, true) => wire::HEADER_LEN,
        (_, false) => wire::u32_at(message.payload, 4).map_or(0, |len| (len as usize).next_multiple_of(4)),
    };
    let words = (message.flags & FLAG_ACK_ATTRIBUTES != 0)
        .then(|| {
            wire::attributes_behind(message.payload, quoted.saturating_add(4))
                .find(|attribute| attribute.kind == ACK_ATTRIBUTE_MESSAGE)
                .and_then(wire::Attribute::text)
        })
        .flatten();
    Err((Errno::from_raw(code.wrapping_neg()), words))
}

/// Whether a message is an acknowledgement or an error.
pub(crate) fn is_acknowledgement(message: &Message<'_>) -> bool {
    message.kind == ERROR
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_process_is_not_heard() {
        let (mut ours, other) = (NetlinkSocket::open(0).unwrap(), NetlinkSocket::open(0).unwrap());
        let mut forged = Writer::new();
        forged.message(DONE, 0, 1, |w| w.raw(&[0; 4]));
        let address = SocketAddr::new(ours.port().unwrap(), 0);
        if let Err(error) = other.socket.send_to(&forged.finish().unwrap(), &address, 0) {
            println!("SKIP: this process may not write to other processes' netlink sockets: {error}");
            return;
        }
        assert!(ours.receive("listening", MsgFlags::MSG_DONTWAIT).unwrap().is_none());
    }

    #[test]
    fn errors_are_read_capped_and_uncapped() {
        let words = |w: &mut Writer| w.text(ACK_ATTRIBUTE_MESSAGE, "no");
        let read = |flags: u16, body: &dyn Fn(&mut Writer)| {
            let mut writer = Writer::new();
            writer.message(ERROR, flags, 1, body);
            let bytes = writer.finish().unwrap();
            let message = wire::messages(&bytes).next().unwrap();
            acknowledgement(&message)
        };
        let code = (-17i32).to_ne_bytes();
        let capped = read(FLAG_CAPPED | FLAG_ACK_ATTRIBUTES, &|w| {
            w.raw(&code);
            w.raw(&[0; 16]);
            words(w);
        });
        let whole = read(FLAG_ACK_ATTRIBUTES, &|w| {
            w.raw(&code);
            w.message(1, 0, 1, |w| w.u32(9, 9));
            words(w);
        });
        assert_eq!(capped, Err((Errno::EEXIST, Some("no".to_owned()))));
        assert_eq!(whole, capped);
        assert_eq!(read(0, &|w| w.raw(&code)), Err((Errno::EEXIST, None)));
        assert_eq!(read(0, &|w| w.raw(&[0; 20])), Ok(()));
        assert_eq!(read(0, &|_| {}), Ok(()));
    }
}
