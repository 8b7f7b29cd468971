//! Frames of the remote command protocols: the first byte of a binary message is the channel.

use serde_json::{Value, json};

use super::TerminalSize;

/// Newest protocol: as v4, and a channel can be closed.
pub(super) const V5: &str = "v5.channel.k8s.io";
/// The oldest protocol that tells how the command ended.
pub(super) const V4: &str = "v4.channel.k8s.io";

/// What the server writes, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    Stdout,
    Stderr,
}

impl Output {
    pub(super) fn channel(self) -> u8 {
        match self {
            Self::Stdout => 1,
            Self::Stderr => 2,
        }
    }
}

/// The channel of the final `Status`.
const ERROR_CHANNEL: u8 = 3;

/// What a client sends.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame<'a> {
    Stdin(&'a [u8]),
    Resize(TerminalSize),
    /// No more input will come.
    CloseStdin,
    /// Something that means nothing here; it is passed over, as Kubernetes does.
    Unknown,
}

/// Reads a message of the client.
pub(super) fn parse(message: &[u8]) -> Frame<'_> {
    match message.split_first() {
        Some((0, data)) => Frame::Stdin(data),
        Some((4, size)) => serde_json::from_slice(size).map_or(Frame::Unknown, Frame::Resize),
        Some((255, [0])) => Frame::CloseStdin,
        _ => Frame::Unknown,
    }
}

/// A message that carries output.
pub(super) fn output(output: Output, data: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(data.len() + 1);
    message.push(output.channel());
    message.extend_from_slice(data);
    message
}

/// The message that says how the command ended.
pub(super) fn ending(status: &Value) -> Vec<u8> {
    let mut message = vec![ERROR_CHANNEL];
    message.extend_from_slice(status.to_string().as_bytes());
    message
}

/// The `Status` of a command that ended with this code.
pub(super) fn exit_status(code: i32) -> Value {
    if code == 0 {
        return json!({ "metadata": {}, "status": "Success" });
    }
    json!({
        "metadata": {},
        "status": "Failure",
        "message": format!("command terminated with non-zero exit code: exit status {code}"),
        "reason": "NonZeroExitCode",
        "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_stdin_is_told_from_input() {
        assert_eq!(parse(&[255, 0]), Frame::CloseStdin);
        assert_eq!(parse(&[0]), Frame::Stdin(&[]));
        assert_eq!(parse(b"\0ls\n"), Frame::Stdin(b"ls\n"));
    }

    #[test]
    fn a_resize_carries_width_and_height() {
        let size = TerminalSize { width: 80, height: 24 };
        assert_eq!(parse(b"\x04{\"Width\":80,\"Height\":24}"), Frame::Resize(size));
        assert_eq!(parse(b"\x04{\"Width\":-1}"), Frame::Unknown);
    }

    #[test]
    fn an_exit_code_is_a_cause_of_the_status() {
        assert_eq!(exit_status(0)["status"], "Success");
        assert_eq!(exit_status(3)["details"]["causes"][0]["message"], "3");
    }
}

#[cfg(test)]
mod fuzz {
    use super::*;
    use proptest::prelude::*;

    fn corpus() -> Vec<Vec<u8>> {
        vec![b"\0ls\n".to_vec(), vec![255, 0], b"\x04{\"Width\":80,\"Height\":24}".to_vec()]
    }

    proptest! {
        #![proptest_config(fuzzing::config())]
        #[test]
        fn any_message_is_a_frame_or_unknown(message in fuzzing::mutated(corpus())) {
            let _ = parse(&message);
        }
    }
}
