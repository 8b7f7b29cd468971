//! Frames, read from bytes and written to bytes (draft-mbelshe-httpbis-spdy-00, sections 2.2 and 2.6).

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

/// Of either kind of frame: stream or kind, flags, length.
const HEAD_BYTES: usize = 8;
/// Largest frame that is taken; clients copy in pieces of 32 KiB.
const FRAME_BYTES_MAX: usize = 1024 * 1024;
/// The version in control frames: 3.1 has that of 3.
const VERSION: u16 = 3;
const CONTROL: u32 = 1 << 31;
const STREAM_MASK: u32 = CONTROL - 1;
/// The sender of the frame sends nothing more in that stream.
const FLAG_LAST: u8 = 1;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;

/// Says in a RST_STREAM why: the server does not want the stream.
pub(super) const REFUSED_STREAM: u32 = 3;

/// What a client sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame {
    /// It opens a stream.
    Open { stream: u32, headers: Bytes, last: bool },
    /// It sends in a stream.
    Data { stream: u32, data: Bytes, last: bool },
    /// It ends a stream in both directions.
    Reset { stream: u32 },
    /// It wants this number back.
    Ping { number: u32 },
    /// Something that means nothing here.
    Other,
}

/// What comes is no SPDY/3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("a frame of {0} bytes; {FRAME_BYTES_MAX} are allowed")]
    TooLong(usize),
    #[error("a frame of version {0}, not {VERSION}")]
    Version(u16),
    #[error("a frame that is too short for its kind")]
    TooShort,
    #[error("headers that can't be read")]
    Headers,
}

/// Takes the first frame, once all of it is there.
pub(super) fn take(buffer: &mut BytesMut) -> Result<Option<Frame>, Malformed> {
    let Some((mut head, _)) = buffer.split_at_checked(HEAD_BYTES) else { return Ok(None) };
    let word = head.get_u32();
    let flags_and_length = head.get_u32();
    let [flags, ..] = flags_and_length.to_be_bytes();
    let length = usize::try_from(flags_and_length & 0x00ff_ffff).unwrap_or(usize::MAX);
    if length > FRAME_BYTES_MAX {
        return Err(Malformed::TooLong(length));
    }
    if buffer.len() < HEAD_BYTES + length {
        return Ok(None);
    }
    buffer.advance(HEAD_BYTES);
    let body = buffer.split_to(length).freeze();
    let last = flags & FLAG_LAST != 0;
    if word & CONTROL == 0 {
        return Ok(Some(Frame::Data { stream: word, data: body, last }));
    }
    let [version, kind] =
        [word >> 16 & 0x7fff, word & 0xffff].map(|half| u16::try_from(half).unwrap_or_default());
    if version != VERSION {
        return Err(Malformed::Version(version));
    }
    control(kind, body, last).map(Some)
}

fn control(kind: u16, mut body: Bytes, last: bool) -> Result<Frame, Malformed> {
    let mut number = || body.try_get_u32().map_err(|_| Malformed::TooShort);
    Ok(match kind {
        SYN_STREAM => {
            let stream = number()? & STREAM_MASK;
            // The stream that it belongs to, its priority and its slot.
            number()?;
            body.try_get_u16().map_err(|_| Malformed::TooShort)?;
            Frame::Open { stream, headers: body, last }
        }
        RST_STREAM => Frame::Reset { stream: number()? & STREAM_MASK },
        PING => Frame::Ping { number: number()? },
        _ => Frame::Other,
    })
}

/// Data in a stream; with `last` nothing more comes in it.
pub(super) fn data(stream: u32, data: &[u8], last: bool) -> Vec<u8> {
    frame(stream & STREAM_MASK, last, data)
}

/// The answer to a stream that was opened.
pub(super) fn reply(stream: u32, headers: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(headers.len() + 4);
    body.put_u32(stream);
    body.put_slice(headers);
    frame(kind(SYN_REPLY), false, &body)
}

/// Ends a stream in both directions.
pub(super) fn reset(stream: u32, status: u32) -> Vec<u8> {
    frame(kind(RST_STREAM), false, &[stream.to_be_bytes(), status.to_be_bytes()].concat())
}

/// The answer to a ping.
pub(super) fn ping(number: u32) -> Vec<u8> {
    frame(kind(PING), false, &number.to_be_bytes())
}

fn kind(kind: u16) -> u32 {
    CONTROL | u32::from(VERSION) << 16 | u32::from(kind)
}

fn frame(word: u32, last: bool, body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEAD_BYTES + body.len());
    frame.put_u32(word);
    frame.put_u8(if last { FLAG_LAST } else { 0 });
    frame.put_uint(u64::try_from(body.len()).unwrap_or_default(), 3);
    frame.put_slice(body);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_frame_is_taken_once_all_of_it_is_there() {
        let whole = data(5, b"hello", true);
        for cut in 0..whole.len() {
            assert_eq!(take(&mut BytesMut::from(&whole[..cut])), Ok(None));
        }
        let mut buffer = BytesMut::from([whole, ping(7)].concat().as_slice());
        let first = Frame::Data { stream: 5, data: Bytes::from_static(b"hello"), last: true };
        assert_eq!(take(&mut buffer), Ok(Some(first)));
        assert_eq!(take(&mut buffer), Ok(Some(Frame::Ping { number: 7 })));
        assert!(buffer.is_empty());
    }

    #[test]
    fn what_is_no_spdy_is_refused() {
        assert_eq!(take(&mut BytesMut::from(&[0x80, 2, 0, 1, 0, 0, 0, 0][..])), Err(Malformed::Version(2)));
        assert_eq!(take(&mut BytesMut::from(&[0x80, 3, 0, 1, 0, 0, 0, 0][..])), Err(Malformed::TooShort));
        let long = BytesMut::from(&[0, 0, 0, 1, 0, 0xff, 0xff, 0xff][..]);
        assert_eq!(take(&mut long.clone()), Err(Malformed::TooLong(0x00ff_ffff)));
    }

    mod fuzz {
        use super::*;

        fn corpus() -> Vec<Vec<u8>> {
            let frames = [data(5, b"hello", true), reply(1, b"compressed"), reset(3, 5), ping(7)];
            let settings = vec![0x80, 3, 0, 4, 0, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0, 100];
            let open = vec![0x80, 3, 0, 1, 1, 0, 0, 14, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0x78, 0xbb, 1, 2];
            let all = frames.concat();
            frames.into_iter().chain([settings, open, all]).collect()
        }

        proptest! {
            #![proptest_config(fuzzing::config())]
            #[test]
            fn any_bytes_are_frames_or_refused(bytes in fuzzing::mutated(corpus())) {
                let mut buffer = BytesMut::from(bytes.as_slice());
                let mut left = buffer.len();
                while let Ok(Some(_)) = take(&mut buffer) {
                    prop_assert!(buffer.len() < left, "a frame is made of bytes");
                    left = buffer.len();
                }
            }
        }
    }
}
