//! The only place with unsafe code.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike, bind, sendto, socket,
};

/// A socket that sends whole Ethernet frames, and receives nothing unless it is told to.
pub(crate) fn frame_socket() -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?)
}

/// Sends an Ethernet frame out of a device.
pub(crate) fn send_frame(socket: &OwnedFd, index: u32, frame: &[u8]) -> io::Result<()> {
    let address = link_address(index, 0)?;
    sendto(socket.as_fd().as_raw_fd(), frame, &address, MsgFlags::empty())?;
    Ok(())
}

/// Lets a socket receive all frames of a device.
pub(crate) fn listen_on(socket: &impl AsFd, index: u32) -> io::Result<()> {
    let all = u16::try_from(libc::ETH_P_ALL).unwrap_or_default();
    bind(socket.as_fd().as_raw_fd(), &link_address(index, all.to_be())?)?;
    Ok(())
}

/// The address of a device, as packet sockets want it; the protocol is big-endian.
fn link_address(index: u32, protocol: u16) -> io::Result<LinkAddr> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET.cast_unsigned().try_into().unwrap_or_default(),
        sll_protocol: protocol,
        sll_ifindex: index.try_into().map_err(|_| io::ErrorKind::InvalidInput)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0; 8],
    };
    let len = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).ok();
    // SAFETY: the pointer is to a whole `sockaddr_ll` on our stack, whose family and length are as given; the function
    // copies from it and keeps no pointer.
    #[expect(unsafe_code, reason = "nix has no safe way to make a link-layer address")]
    let copied = unsafe { LinkAddr::from_raw((&raw const address).cast(), len) };
    copied.ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_address_keeps_its_device() {
        let address = link_address(7, 0).unwrap();
        assert_eq!((address.ifindex(), address.halen()), (7, 6));
    }
}
