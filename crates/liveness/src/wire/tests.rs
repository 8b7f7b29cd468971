use super::*;
use proptest::prelude::*;

/// A checksum in the place of a signature: enough to see what is covered by it.
struct Checksum;

impl Signer for Checksum {
    fn sign(&self, bytes: &[u8]) -> [u8; 64] {
        let sum = bytes.iter().fold(7_u64, |sum, byte| sum.wrapping_mul(0x0100_0000_01b3) ^ u64::from(*byte));
        let mut signature = [0; 64];
        signature[..8].copy_from_slice(&sum.to_be_bytes());
        signature
    }
}

impl Verifier for Checksum {
    fn verify(&self, node: &str, bytes: &[u8], signature: &[u8; 64]) -> bool {
        node != "unknown" && self.sign(bytes) == *signature
    }
}

fn any_claim() -> impl Strategy<Value = (EipPair, Claim)> {
    let pair = (any::<Option<u32>>(), any::<Option<u128>>()).prop_filter_map("one family", |(v4, v6)| {
        EipPair::new(v4.map(Ipv4Addr::from), v6.map(Ipv6Addr::from))
    });
    (pair, any::<u64>(), any::<bool>()).prop_map(|(eip, epoch, preferred)| (eip, Claim { epoch, preferred }))
}

fn any_message() -> impl Strategy<Value = Message> {
    let kind = prop_oneof![Just(Kind::Probe), Just(Kind::Reply), Just(Kind::Notice)];
    let claims = proptest::collection::vec(any_claim(), 0..=MAX_CLAIMS);
    let numbers = (any::<[u64; 5]>(), any::<u32>(), 0_u16..1000);
    (kind, "[a-z0-9.-]{1,253}", any::<[bool; 2]>(), numbers, claims).prop_map(
        |(kind, node, [uplink, ready], ([a, b, c, d, generation], claims_version, claims_offset), claims)| {
            Message {
                kind,
                node,
                stamp: Stamp { epoch: a, sequence: b },
                ack: Stamp { epoch: c, sequence: d },
                uplink,
                ready,
                generation,
                claims_version,
                claims_total: claims_offset + claims.len() as u16,
                claims_offset,
                claims,
            }
        },
    )
}

proptest! {
    #[test]
    fn what_is_sealed_opens_as_it_was(message in any_message()) {
        let datagram = seal(&message, &Checksum);
        prop_assert!(datagram.len() <= MAX_DATAGRAM);
        prop_assert_eq!(open(&datagram, &Checksum), Ok(message));
    }

    #[test]
    fn a_changed_byte_or_a_changed_length_is_noticed(
        message in any_message(),
        at in any::<proptest::sample::Index>(),
        flip in 1_u8..,
        cut in any::<proptest::sample::Index>(),
    ) {
        let datagram = seal(&message, &Checksum);
        let mut changed = datagram.clone();
        changed[at.index(datagram.len())] ^= flip;
        prop_assert!(open(&changed, &Checksum).is_err());
        prop_assert!(open(&datagram[..cut.index(datagram.len())], &Checksum).is_err());
        let mut longer = datagram;
        longer.push(0);
        prop_assert!(open(&longer, &Checksum).is_err());
    }
}

mod fuzz {
    use super::*;

    /// What any node signs is believed to be signed.
    struct Believer;

    impl Verifier for Believer {
        fn verify(&self, _: &str, _: &[u8], _: &[u8; 64]) -> bool {
            true
        }
    }

    proptest! {
        #![proptest_config(fuzzing::config())]

        #[test]
        fn any_datagram_is_refused_or_read_without_panic(
            datagram in fuzzing::mutated_from(any_message().prop_map(|message| seal(&message, &Checksum))),
        ) {
            // A node that has its key may send anything.
            if let Ok(message) = open(&datagram, &Believer) {
                prop_assert!(message.claims.len() <= MAX_CLAIMS && message.node.len() <= MAX_NAME);
            }
            let _ = decode(&datagram);
        }
    }
}

#[test]
fn a_full_datagram_fits_the_smallest_usual_tunnel() {
    let plain_name = 40;
    assert!(MAX_DATAGRAM - MAX_NAME + plain_name + 28 <= 1280);
}
