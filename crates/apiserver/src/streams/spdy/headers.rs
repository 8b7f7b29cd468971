//! Headers of streams: names and values, all of a connection compressed as one text
//! (draft-mbelshe-httpbis-spdy-00, section 2.6.10).

use std::collections::BTreeMap;

use bytes::Buf as _;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

use super::dictionary::dictionary;
use super::frame::Malformed;

/// Most that the headers of one stream may be, decompressed.
const HEADERS_BYTES_MAX: usize = 16 * 1024;

/// Reads the headers of one connection's streams, in their order.
pub(super) struct Reader {
    text: Decompress,
}

impl Reader {
    pub(super) fn new() -> Self {
        Self { text: Decompress::new(true) }
    }

    /// Headers by their names in lower case.
    pub(super) fn read(&mut self, compressed: &[u8]) -> Result<BTreeMap<String, String>, Malformed> {
        let text = self.decompress(compressed)?;
        parse(&text).ok_or(Malformed::Headers)
    }

    fn decompress(&mut self, compressed: &[u8]) -> Result<Vec<u8>, Malformed> {
        let mut text = Vec::with_capacity(HEADERS_BYTES_MAX);
        let mut rest = compressed;
        while !rest.is_empty() {
            let (before, length) = (self.text.total_in(), text.len());
            let outcome = self.text.decompress_vec(rest, &mut text, FlushDecompress::Sync);
            let taken = usize::try_from(self.text.total_in() - before).unwrap_or(usize::MAX);
            rest = rest.get(taken..).unwrap_or_default();
            match outcome {
                Err(error) if error.needs_dictionary().is_some() => {
                    self.text.set_dictionary(&dictionary()).map_err(|_| Malformed::Headers)?;
                }
                Err(_) => return Err(Malformed::Headers),
                // Full: there is more than is allowed.
                Ok(_) if taken == 0 && text.len() == length => return Err(Malformed::Headers),
                Ok(_) => {}
            }
        }
        Ok(text)
    }
}

fn parse(mut text: &[u8]) -> Option<BTreeMap<String, String>> {
    let count = text.try_get_u32().ok()?;
    (0..count).map(|_| Some((take(&mut text)?.to_ascii_lowercase(), take(&mut text)?))).collect()
}

fn take(text: &mut &[u8]) -> Option<String> {
    let length = usize::try_from(text.try_get_u32().ok()?).ok()?;
    let (value, rest) = text.split_at_checked(length)?;
    *text = rest;
    String::from_utf8(value.to_vec()).ok()
}

/// Writes headers without any, which is all that answers need.
pub(super) struct Writer {
    text: Compress,
}

impl Writer {
    pub(super) fn new() -> Self {
        Self { text: Compress::new(Compression::fast(), true) }
    }

    /// No headers.
    pub(super) fn none(&mut self) -> Vec<u8> {
        let mut compressed = Vec::with_capacity(64);
        // As much fits as these four bytes can become.
        let _ = self.text.compress_vec(&0_u32.to_be_bytes(), &mut compressed, FlushCompress::Sync);
        compressed
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Headers as a client writes them.
    pub(in super::super) struct ClientWriter(Compress);

    impl ClientWriter {
        pub(in super::super) fn new() -> Self {
            let mut text = Compress::new(Compression::best(), true);
            text.set_dictionary(&dictionary()).unwrap();
            Self(text)
        }

        pub(in super::super) fn write(&mut self, headers: &[(&str, &str)]) -> Vec<u8> {
            let sized = |text: &str| [&(text.len() as u32).to_be_bytes()[..], text.as_bytes()].concat();
            let mut plain = (headers.len() as u32).to_be_bytes().to_vec();
            headers.iter().for_each(|(name, value)| plain.extend([sized(name), sized(value)].concat()));
            let mut compressed = Vec::with_capacity(plain.len() + 128);
            self.0.compress_vec(&plain, &mut compressed, FlushCompress::Sync).unwrap();
            compressed
        }
    }

    #[test]
    fn the_headers_of_several_streams_are_one_compressed_text() {
        let (mut writer, mut reader) = (ClientWriter::new(), Reader::new());
        for port in ["80", "8080", "80"] {
            let headers = [("streamType", "data"), ("port", port)];
            let read = reader.read(&writer.write(&headers)).unwrap();
            assert_eq!((read["streamtype"].as_str(), read["port"].as_str()), ("data", port));
        }
    }

    #[test]
    fn too_many_headers_are_refused() {
        let value = "x".repeat(HEADERS_BYTES_MAX);
        assert_eq!(Reader::new().read(&ClientWriter::new().write(&[("a", &value)])), Err(Malformed::Headers));
    }

    #[test]
    fn an_answer_without_headers_can_be_read() {
        let (mut writer, mut reader) = (Writer::new(), Reader::new());
        for _ in 0..3 {
            assert_eq!(reader.read(&writer.none()), Ok(BTreeMap::new()));
        }
    }

    mod fuzz {
        use super::*;

        fn corpus() -> Vec<Vec<u8>> {
            let plain = [&[0, 0, 0, 1, 0, 0, 0, 4][..], b"port", &[0, 0, 0, 2], b"80"].concat();
            let compressed = ClientWriter::new().write(&[("streamType", "data"), ("port", "8080")]);
            vec![plain, compressed]
        }

        proptest! {
            #![proptest_config(fuzzing::config())]
            #[test]
            fn any_bytes_are_headers_or_refused(bytes in fuzzing::mutated(corpus())) {
                let _ = Reader::new().read(&bytes);
                let _ = parse(&bytes);
            }
        }
    }
}
