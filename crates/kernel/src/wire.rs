//! Netlink's wire form: messages, and attributes that may nest. Pure; reading never fails, it ends early.

/// Bytes of a message header.
pub(crate) const HEADER_LEN: usize = 16;
const ATTRIBUTE_HEADER_LEN: usize = 4;
/// An attribute's length field has 16 bits.
const ATTRIBUTE_MAX: usize = u16::MAX as usize;
const NESTED: u16 = 1 << 15;
const KIND_MASK: u16 = 0x3fff;

/// Flag: this is a request.
pub(crate) const REQUEST: u16 = 0x01;
/// Flag: answer with an acknowledgement.
pub(crate) const ACK: u16 = 0x04;
/// Flag: replace what is there.
pub(crate) const REPLACE: u16 = 0x100;
/// Flag: fail if it is there.
pub(crate) const EXCLUSIVE: u16 = 0x200;
/// Flag: make it if it isn't there.
pub(crate) const CREATE: u16 = 0x400;
/// Flag: append.
pub(crate) const APPEND: u16 = 0x800;
/// Flag: give everything.
pub(crate) const DUMP: u16 = 0x300;
/// Flag in a reply: the state changed during the dump.
pub(crate) const DUMP_INTERRUPTED: u16 = 0x10;

/// Writes messages one behind the other.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
    oversize: bool,
}

impl Writer {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Writes one message; its flags and sequence number are set as given.
    pub(crate) fn message(&mut self, kind: u16, flags: u16, sequence: u32, body: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        body(self);
        let len = u32::try_from(self.bytes.len() - start).unwrap_or_else(|_| {
            self.oversize = true;
            0
        });
        if let Some(field) = self.bytes.get_mut(start..start + 4) {
            field.copy_from_slice(&len.to_ne_bytes());
        }
        self.align();
    }

    /// Adds flags to the message that starts at this length.
    pub(crate) fn add_flags(&mut self, start: usize, flags: u16) {
        if let Some([low, high]) = self.bytes.get_mut(start + 6..start + 8) {
            let sum = u16::from_ne_bytes([*low, *high]) | flags;
            [*low, *high] = sum.to_ne_bytes();
        }
    }

    /// Writes bytes that are no attribute: the fixed part of a message.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.align();
    }

    pub(crate) fn bytes(&mut self, kind: u16, value: &[u8]) {
        self.open(kind, |writer| writer.bytes.extend_from_slice(value));
    }

    pub(crate) fn u8(&mut self, kind: u16, value: u8) {
        self.bytes(kind, &[value]);
    }

    pub(crate) fn u16(&mut self, kind: u16, value: u16) {
        self.bytes(kind, &value.to_ne_bytes());
    }

    pub(crate) fn u16_be(&mut self, kind: u16, value: u16) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub(crate) fn u32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_ne_bytes());
    }

    pub(crate) fn u32_be(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub(crate) fn u64_be(&mut self, kind: u16, value: u64) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// Text with a closing zero byte.
    pub(crate) fn text(&mut self, kind: u16, value: &str) {
        self.open(kind, |writer| {
            writer.bytes.extend_from_slice(value.as_bytes());
            writer.bytes.push(0);
        });
    }

    /// An attribute that holds attributes.
    pub(crate) fn nest(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        self.open(kind | NESTED, body);
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Everything that was written, or `None` if an attribute or message was too long for its length field.
    pub(crate) fn finish(self) -> Option<Vec<u8>> {
        (!self.oversize).then_some(self.bytes)
    }

    fn open(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&0u16.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        body(self);
        let len = self.bytes.len() - start;
        self.oversize |= len > ATTRIBUTE_MAX;
        let len = u16::try_from(len).unwrap_or(u16::MAX);
        if let Some(field) = self.bytes.get_mut(start..start + 2) {
            field.copy_from_slice(&len.to_ne_bytes());
        }
        self.align();
    }

    fn align(&mut self) {
        let len = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(len, 0);
    }
}

/// One received message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    /// Netlink port of whoever asked for this.
    pub(crate) port: u32,
    pub(crate) payload: &'a [u8],
}

/// The messages of a datagram.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let len = u32_at(bytes, 0)? as usize;
        let payload = bytes.get(HEADER_LEN..len)?;
        let message = Message {
            kind: u16_at(bytes, 4)?,
            flags: u16_at(bytes, 6)?,
            sequence: u32_at(bytes, 8)?,
            port: u32_at(bytes, 12)?,
            payload,
        };
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// One received attribute.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attribute<'a> {
    pub(crate) kind: u16,
    pub(crate) payload: &'a [u8],
}

/// The attributes behind a message's fixed part, or of a nest.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = Attribute<'_>> {
    std::iter::from_fn(move || {
        let len = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & KIND_MASK;
        let payload = bytes.get(ATTRIBUTE_HEADER_LEN..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(Attribute { kind, payload })
    })
}

/// The attributes behind `fixed` bytes of a payload.
pub(crate) fn attributes_behind(payload: &[u8], fixed: usize) -> impl Iterator<Item = Attribute<'_>> {
    attributes(payload.get(fixed..).unwrap_or_default())
}

impl<'a> Attribute<'a> {
    pub(crate) fn u8(self) -> Option<u8> {
        self.payload.first().copied()
    }

    pub(crate) fn u16(self) -> Option<u16> {
        u16_at(self.payload, 0)
    }

    pub(crate) fn u16_be(self) -> Option<u16> {
        self.u16().map(u16::from_be)
    }

    pub(crate) fn u32(self) -> Option<u32> {
        u32_at(self.payload, 0)
    }

    pub(crate) fn u32_be(self) -> Option<u32> {
        self.u32().map(u32::from_be)
    }

    pub(crate) fn u64_be(self) -> Option<u64> {
        self.payload.first_chunk().copied().map(u64::from_be_bytes)
    }

    /// Text up to the first zero byte.
    pub(crate) fn text(self) -> Option<String> {
        let text = self.payload.split(|byte| *byte == 0).next()?;
        String::from_utf8(text.to_vec()).ok()
    }

    pub(crate) fn nested(self) -> impl Iterator<Item = Attribute<'a>> {
        attributes(self.payload)
    }
}

pub(crate) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    bytes.get(offset..)?.first_chunk().copied().map(u16::from_ne_bytes)
}

pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..)?.first_chunk().copied().map(u32::from_ne_bytes)
}

pub(crate) fn u8_at(bytes: &[u8], offset: usize) -> Option<u8> {
    bytes.get(offset).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut writer = Writer::new();
        writer.message(7, REQUEST, 3, |w| {
            w.raw(&[1, 2, 3]);
            w.u32_be(1, 0xdead_beef);
            w.nest(2, |w| w.text(3, "abc"));
        });
        writer.message(8, ACK, 4, |_| {});
        let bytes = writer.finish().unwrap();
        let [first, second] = messages(&bytes).collect::<Vec<_>>().try_into().unwrap();
        assert_eq!((first.kind, first.flags, first.sequence), (7, REQUEST, 3));
        assert_eq!((second.kind, second.flags, second.payload.len()), (8, ACK, 0));
        let [number, nest] = attributes_behind(first.payload, 4).collect::<Vec<_>>().try_into().unwrap();
        assert_eq!(number.u32_be(), Some(0xdead_beef));
        assert_eq!((nest.kind, nest.nested().next().unwrap().text().unwrap().as_str()), (2, "abc"));
    }

    #[test]
    fn an_attribute_that_is_too_long_is_refused() {
        let mut writer = Writer::new();
        writer.bytes(1, &vec![0; 65_532]);
        assert!(writer.finish().is_none());
    }
}

#[cfg(test)]
pub(crate) mod fuzz {
    use super::*;
    use proptest::prelude::*;

    /// An attribute: its kind, and bytes of a usual length, or more attributes.
    #[derive(Clone, Debug)]
    enum Tree {
        Leaf(u16, Vec<u8>),
        Nest(u16, Vec<Tree>),
    }

    fn any_tree() -> impl Strategy<Value = Tree> {
        let length = proptest::sample::select(&[0usize, 1, 2, 4, 6, 8, 12, 16, 28][..]);
        let bytes = length.prop_flat_map(|length| proptest::collection::vec(any::<u8>(), length));
        let text = "[a-z.0-9]{0,15}".prop_map(|text| [text.as_bytes(), &[0]].concat());
        let leaf =
            (0u16..32, prop_oneof![4 => bytes, 1 => text]).prop_map(|(kind, bytes)| Tree::Leaf(kind, bytes));
        leaf.prop_recursive(4, 40, 6, |inner| {
            (0u16..32, proptest::collection::vec(inner, 0..6)).prop_map(|(kind, all)| Tree::Nest(kind, all))
        })
    }

    fn write(tree: &Tree, writer: &mut Writer) {
        match tree {
            Tree::Leaf(kind, bytes) => writer.bytes(*kind, bytes),
            Tree::Nest(kind, all) => {
                writer.nest(*kind, |writer| all.iter().for_each(|one| write(one, writer)))
            }
        }
    }

    /// Messages like the kernel's, whole or damaged: a fixed header of any family's length, and attributes.
    pub(crate) fn any_datagram() -> impl Strategy<Value = Vec<u8>> {
        let header = proptest::sample::select(&[4usize, 8, 12, 16, 20][..]);
        let header = header.prop_flat_map(|length| proptest::collection::vec(any::<u8>(), length));
        let message = (any::<u16>(), any::<u16>(), header, proptest::collection::vec(any_tree(), 0..8));
        let messages = proptest::collection::vec(message, 1..4).prop_map(|messages| {
            let mut writer = Writer::new();
            for (kind, flags, header, trees) in &messages {
                writer.message(*kind, *flags, 1, |writer| {
                    writer.raw(header);
                    trees.iter().for_each(|tree| write(tree, writer));
                });
            }
            writer.finish().unwrap_or_default()
        });
        fuzzing::mutated_from(messages)
    }

    proptest! {
        #![proptest_config(fuzzing::config())]
        #[test]
        fn any_datagram_is_read_without_panic(bytes in any_datagram()) {
            let mut read = 0;
            for message in messages(&bytes) {
                read += message.payload.len();
                for attribute in attributes(message.payload) {
                    let _ = (attribute.u8(), attribute.u16_be(), attribute.u64_be(), attribute.text());
                    let _ = attribute.nested().count();
                }
                let _ = crate::socket::acknowledgement(&message);
            }
            prop_assert!(read <= bytes.len(), "no byte is in two messages");
            let _ = attributes_behind(&bytes, 20).count();
        }
    }
}
