//! Reads the subject out of an X.509 certificate. The TLS library has verified it before, so this only walks it.

/// The parts of a subject that name a user.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Subject {
    pub(super) common_name: Option<String>,
    pub(super) organizations: Vec<String>,
}

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_IDENTIFIER: u8 = 0x06;
const EXPLICIT_VERSION: u8 = 0xa0;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const IA5_STRING: u8 = 0x16;
/// 2.5.4.3
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// 2.5.4.10
const ORGANIZATION: &[u8] = &[0x55, 0x04, 0x0a];

/// The certificate's subject; `None` if the bytes are not a certificate.
pub(super) fn subject(certificate: &[u8]) -> Option<Subject> {
    let mut outer = Reader(certificate);
    let mut certificate = Reader(outer.expect(SEQUENCE)?);
    let mut to_be_signed = Reader(certificate.expect(SEQUENCE)?);
    if to_be_signed.0.first() == Some(&EXPLICIT_VERSION) {
        to_be_signed.next()?;
    }
    // Serial number, signature algorithm, issuer, validity.
    for _ in 0..4 {
        to_be_signed.next()?;
    }
    let mut names = Reader(to_be_signed.expect(SEQUENCE)?);
    let mut subject = Subject::default();
    while !names.0.is_empty() {
        let mut set = Reader(names.expect(SET)?);
        while !set.0.is_empty() {
            let mut attribute = Reader(set.expect(SEQUENCE)?);
            let identifier = attribute.expect(OBJECT_IDENTIFIER)?;
            let (tag, value) = attribute.next()?;
            if !matches!(tag, UTF8_STRING | PRINTABLE_STRING | IA5_STRING) {
                continue;
            }
            let text = std::str::from_utf8(value).ok()?.to_owned();
            match identifier {
                COMMON_NAME => subject.common_name = Some(text),
                ORGANIZATION => subject.organizations.push(text),
                _ => {}
            }
        }
    }
    Some(subject)
}

/// What of a DER value hasn't been read yet.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// The next element's tag and content.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, mut rest) = rest.split_first()?;
        let mut length = usize::from(first);
        if first & 0x80 != 0 {
            let count = usize::from(first & 0x7f);
            // No certificate needs more than four bytes of length, and none has an indefinite one.
            if !(1..=4).contains(&count) {
                return None;
            }
            let (bytes, after) = rest.split_at_checked(count)?;
            length = bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
            rest = after;
        }
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    fn expect(&mut self, wanted: u8) -> Option<&'a [u8]> {
        let (tag, content) = self.next()?;
        (tag == wanted).then_some(content)
    }
}

#[cfg(test)]
mod tests {
    use super::subject;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = subject(&bytes);
        }

        #[test]
        fn a_certificate_with_changed_bytes_never_panics(at in 0usize..400, byte: u8) {
            static CERTIFICATE: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| {
                crate::auth::certificate::Authority::generate().expect("an authority").certificate().to_vec()
            });
            let mut certificate = CERTIFICATE.clone();
            if let Some(place) = certificate.get_mut(at) {
                *place = byte;
            }
            let _ = subject(&certificate);
        }
    }
}
