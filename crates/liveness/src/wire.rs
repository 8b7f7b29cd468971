//! The probe datagram.
//!
//! ```text
//! "EGP" version | kind flags | name length, name | epoch 8 | sequence 8 | ack epoch 8, ack sequence 8 | generation 8
//! claims version 4 | total 2 | offset 2 | count 1 | count * (families 1, IPv4 4?, IPv6 16?, claim epoch 8)
//! Ed25519 signature 64, over all before it
//! ```
//!
//! Numbers are big-endian. A datagram fits the smallest usual tunnel MTU; a gateway that claims more EIPs than fit sends
//! them in turns (`offset` of `total`).

use std::net::{Ipv4Addr, Ipv6Addr};

use model::EipPair;

use crate::ownership::Claim;

/// UDP port on the tunnel address.
pub const PORT: u16 = 7790;
/// Most claims in one datagram.
pub const MAX_CLAIMS: usize = 32;
/// Longest node name (a DNS subdomain).
pub const MAX_NAME: usize = 253;
/// No datagram is longer.
pub const MAX_DATAGRAM: usize = HEADER + MAX_NAME + MAX_CLAIMS * (1 + 4 + 16 + 8) + SIGNATURE;

const MAGIC: [u8; 4] = *b"EGP\x01";
const SIGNATURE: usize = 64;
const HEADER: usize = 4 + 2 + 1 + 5 * 8 + 4 + 2 + 2 + 1;

const FLAG_UPLINK: u8 = 1;
const FLAG_READY: u8 = 2;
const FAMILY_V4: u8 = 1;
const FAMILY_V6: u8 = 2;
const PREFERRED: u8 = 4;

/// What a datagram is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Asks for a [`Kind::Reply`].
    Probe,
    /// Answers a probe or a notice.
    Reply,
    /// Says what the sender has just claimed; is answered too.
    Notice,
}

/// Identity of a datagram: the sender's start and a number that grows with everything it sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp {
    /// Grows with each start of the sender's process.
    pub epoch: u64,
    /// Grows with each datagram.
    pub sequence: u64,
}

/// One datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// What it is for
    pub kind: Kind,
    /// Name of the node that sent it
    pub node: String,
    /// Tells old from new
    pub stamp: Stamp,
    /// For a reply: the stamp of what it answers
    pub ack: Stamp,
    /// The sender can reach the outside
    pub uplink: bool,
    /// The sender's kernel state is complete: it can carry an EIP
    pub ready: bool,
    /// Generation of the receiver's port leases that the sender's kernel holds; 0 says nothing
    pub generation: u64,
    /// Changes whenever the sender's set of claims does
    pub claims_version: u32,
    /// How many claims the sender holds
    pub claims_total: u16,
    /// Index of the first claim in here; a notice has claims from anywhere and 0
    pub claims_offset: u16,
    /// Some or all of the sender's claims
    pub claims: Vec<(EipPair, Claim)>,
}

/// A datagram that is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Ends too early, or has something behind its end.
    #[error("datagram of a wrong length")]
    Length,
    /// Not ours, or of a version that we don't speak.
    #[error("not a probe of a version that is known here")]
    Version,
    /// A field has a value that no sender writes.
    #[error("field `{0}` has an impossible value")]
    Field(&'static str),
    /// Signed by somebody else, or the node's key is not known (yet).
    #[error("signature does not belong to the node that is named")]
    Signature,
}

/// Signs in the name of this node.
pub trait Signer {
    /// Ed25519 signature of the bytes.
    fn sign(&self, bytes: &[u8]) -> [u8; 64];
}

/// Knows the public keys of the other nodes.
pub trait Verifier {
    /// Whether the signature is that node's. `false` too where its key is unknown.
    fn verify(&self, node: &str, bytes: &[u8], signature: &[u8; 64]) -> bool;
}

/// Encodes and signs.
///
/// Claims beyond [`MAX_CLAIMS`] and the part of a name beyond [`MAX_NAME`] are cut off.
#[must_use]
pub fn seal(message: &Message, signer: &impl Signer) -> Vec<u8> {
    let mut out = encode(message);
    let signature = signer.sign(&out);
    out.extend_from_slice(&signature);
    out
}

/// Decodes and checks the signature.
pub fn open(datagram: &[u8], verifier: &impl Verifier) -> Result<Message, WireError> {
    if datagram.len() > MAX_DATAGRAM {
        return Err(WireError::Length);
    }
    let (body, signature) = datagram.split_last_chunk::<SIGNATURE>().ok_or(WireError::Length)?;
    let message = decode(body)?;
    if verifier.verify(&message.node, body, signature) { Ok(message) } else { Err(WireError::Signature) }
}

fn encode(message: &Message) -> Vec<u8> {
    let mut out = Vec::with_capacity(MAX_DATAGRAM);
    out.extend_from_slice(&MAGIC);
    out.push(match message.kind {
        Kind::Probe => 1,
        Kind::Reply => 2,
        Kind::Notice => 3,
    });
    out.push(if message.uplink { FLAG_UPLINK } else { 0 } | if message.ready { FLAG_READY } else { 0 });
    let name = message.node.as_bytes();
    let name = name.get(..MAX_NAME).unwrap_or(name);
    out.push(name.len() as u8);
    out.extend_from_slice(name);
    for number in [
        message.stamp.epoch,
        message.stamp.sequence,
        message.ack.epoch,
        message.ack.sequence,
        message.generation,
    ] {
        out.extend_from_slice(&number.to_be_bytes());
    }
    out.extend_from_slice(&message.claims_version.to_be_bytes());
    out.extend_from_slice(&message.claims_total.to_be_bytes());
    out.extend_from_slice(&message.claims_offset.to_be_bytes());
    let claims = message.claims.get(..MAX_CLAIMS).unwrap_or(&message.claims);
    out.push(claims.len() as u8);
    for (eip, claim) in claims {
        let families =
            if eip.v4().is_some() { FAMILY_V4 } else { 0 } | if eip.v6().is_some() { FAMILY_V6 } else { 0 };
        out.push(families | if claim.preferred { PREFERRED } else { 0 });
        out.extend(eip.v4().iter().flat_map(Ipv4Addr::octets));
        out.extend(eip.v6().iter().flat_map(Ipv6Addr::octets));
        out.extend_from_slice(&claim.epoch.to_be_bytes());
    }
    out
}

fn decode(body: &[u8]) -> Result<Message, WireError> {
    let mut rest = body;
    if take::<4>(&mut rest)? != MAGIC {
        return Err(WireError::Version);
    }
    let [kind, flags, name_length] = take::<3>(&mut rest)?;
    let kind = match kind {
        1 => Kind::Probe,
        2 => Kind::Reply,
        3 => Kind::Notice,
        _ => return Err(WireError::Field("kind")),
    };
    let (name, mut rest) = rest.split_at_checked(usize::from(name_length)).ok_or(WireError::Length)?;
    let name = std::str::from_utf8(name).map_err(|_| WireError::Field("name"))?;
    let named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(named) {
        return Err(WireError::Field("name"));
    }
    let rest = &mut rest;
    let stamp = take_stamp(rest)?;
    let ack = take_stamp(rest)?;
    let generation = u64::from_be_bytes(take(rest)?);
    let claims_version = u32::from_be_bytes(take(rest)?);
    let claims_total = u16::from_be_bytes(take(rest)?);
    let claims_offset = u16::from_be_bytes(take(rest)?);
    let [count] = take::<1>(rest)?;
    let count = usize::from(count);
    let end = usize::from(claims_offset) + count;
    if count > MAX_CLAIMS || end > usize::from(claims_total) {
        return Err(WireError::Field("claims"));
    }
    let claims = (0..count).map(|_| take_claim(rest)).collect::<Result<_, _>>()?;
    if !rest.is_empty() {
        return Err(WireError::Length);
    }
    Ok(Message {
        kind,
        node: name.to_owned(),
        stamp,
        ack,
        uplink: flags & FLAG_UPLINK != 0,
        ready: flags & FLAG_READY != 0,
        generation,
        claims_version,
        claims_total,
        claims_offset,
        claims,
    })
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], WireError> {
    let (head, tail) = rest.split_first_chunk::<N>().ok_or(WireError::Length)?;
    *rest = tail;
    Ok(*head)
}

fn take_stamp(rest: &mut &[u8]) -> Result<Stamp, WireError> {
    Ok(Stamp { epoch: u64::from_be_bytes(take(rest)?), sequence: u64::from_be_bytes(take(rest)?) })
}

fn take_claim(rest: &mut &[u8]) -> Result<(EipPair, Claim), WireError> {
    let [bits] = take::<1>(rest)?;
    if bits & !(FAMILY_V4 | FAMILY_V6 | PREFERRED) != 0 {
        return Err(WireError::Field("families"));
    }
    let v4 = (bits & FAMILY_V4 != 0).then(|| take::<4>(rest)).transpose()?;
    let v6 = (bits & FAMILY_V6 != 0).then(|| take::<16>(rest)).transpose()?;
    let eip =
        EipPair::new(v4.map(Ipv4Addr::from), v6.map(Ipv6Addr::from)).ok_or(WireError::Field("families"))?;
    let claim = Claim { epoch: u64::from_be_bytes(take(rest)?), preferred: bits & PREFERRED != 0 };
    Ok((eip, claim))
}

#[cfg(test)]
mod tests;
