//! The keys that probes are signed and checked with.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use liveness::wire::{Signer, Verifier};
use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};

use crate::files::write_private;

const KEY_FILE: &str = "probe.key";
const EPOCH_FILE: &str = "probe.epoch";

/// This node's own key pair.
pub struct NodeKey {
    pair: Ed25519KeyPair,
    epoch: u64,
}

impl NodeKey {
    /// The key of this node's last run, from the directory, or a new one. The private key leaves the process only to that
    /// directory. `now_ms` is the wall clock: the epoch is that, or more if an earlier run had more.
    pub fn load(state_dir: Option<&Path>, now_ms: u64) -> anyhow::Result<Self> {
        let Some(dir) = state_dir else {
            return Ok(Self { pair: parse(&generate()?)?, epoch: now_ms });
        };
        std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        let key_path = dir.join(KEY_FILE);
        let stored = std::fs::read(&key_path).ok().and_then(|pkcs8| parse(&pkcs8).ok());
        let pair = match stored {
            Some(pair) => pair,
            None => {
                let pkcs8 = generate()?;
                write_private(&key_path, &pkcs8)?;
                parse(&pkcs8)?
            }
        };
        let epoch_path = dir.join(EPOCH_FILE);
        let last = std::fs::read_to_string(&epoch_path).ok();
        let last: u64 = last.and_then(|text| text.trim().parse().ok()).unwrap_or_default();
        let epoch = now_ms.max(last.saturating_add(1));
        write_private(&epoch_path, epoch.to_string().as_bytes())?;
        Ok(Self { pair, epoch })
    }

    /// Higher than in every earlier run with this key.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The public key in base64, for others.
    #[must_use]
    pub fn public(&self) -> String {
        BASE64.encode(self.pair.public_key())
    }
}

impl Signer for NodeKey {
    fn sign(&self, bytes: &[u8]) -> [u8; 64] {
        let signature = self.pair.sign(bytes);
        signature.as_ref().try_into().expect("an Ed25519 signature has 64 bytes")
    }
}

fn generate() -> anyhow::Result<Vec<u8>> {
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new());
    let pkcs8 = pkcs8.map_err(|_| anyhow::anyhow!("the system gives no random bytes for a probe key"))?;
    Ok(pkcs8.as_ref().to_vec())
}

fn parse(pkcs8: &[u8]) -> anyhow::Result<Ed25519KeyPair> {
    Ed25519KeyPair::from_pkcs8(pkcs8).map_err(|error| anyhow::anyhow!("unusable probe key: {error}"))
}

/// Public keys of the other nodes.
#[derive(Clone, Debug, Default)]
pub struct Keyring {
    keys: BTreeMap<String, [u8; 32]>,
}

impl Keyring {
    /// Of these nodes.
    #[must_use]
    pub fn new(keys: BTreeMap<String, [u8; 32]>) -> Self {
        Self { keys }
    }
}

impl Verifier for Keyring {
    fn verify(&self, node: &str, bytes: &[u8], signature: &[u8; 64]) -> bool {
        let key = self.keys.get(node);
        key.is_some_and(|key| UnparsedPublicKey::new(&ED25519, key).verify(bytes, signature).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring_of(node: &str, key: &NodeKey) -> Keyring {
        let public = BASE64.decode(key.public()).unwrap().try_into().unwrap();
        Keyring::new(BTreeMap::from([(node.to_owned(), public)]))
    }

    #[test]
    fn a_signature_counts_only_for_its_node_and_its_bytes() {
        let (own, other) = (NodeKey::load(None, 1).unwrap(), NodeKey::load(None, 1).unwrap());
        let keyring = ring_of("a", &own);
        let signature = own.sign(b"probe");
        assert!(keyring.verify("a", b"probe", &signature));
        assert!(!keyring.verify("b", b"probe", &signature));
        assert!(!keyring.verify("a", b"Probe", &signature));
        assert!(!keyring.verify("a", b"probe", &other.sign(b"probe")));
    }

    #[test]
    fn key_and_epoch_outlive_the_process_and_a_clock_that_goes_back() {
        let dir = tempfile::tempdir().unwrap();
        let first = NodeKey::load(Some(dir.path()), 1000).unwrap();
        let second = NodeKey::load(Some(dir.path()), 500).unwrap();
        assert_eq!(first.public(), second.public());
        assert_eq!((first.epoch(), second.epoch()), (1000, 1001));
        assert_eq!(NodeKey::load(Some(dir.path()), 9000).unwrap().epoch(), 9000);
    }

    #[test]
    fn an_unreadable_key_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(KEY_FILE), b"x").unwrap();
        let fresh = NodeKey::load(Some(dir.path()), 1).unwrap();
        assert_eq!(fresh.public(), NodeKey::load(Some(dir.path()), 2).unwrap().public());
    }
}
