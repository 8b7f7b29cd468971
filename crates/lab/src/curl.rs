//! A stand-in for `curl` on machines that have none: plain HTTP GET, and the flags that the docs use.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::Duration;

const USAGE: &str =
    "usage: curl [-s] [-S] [-i] [-m SECONDS] [--connect-timeout SECONDS] [http://]HOST[:PORT][/PATH]

This is not curl but a small stand-in, because the machine has none.";
/// Exit codes of the real one.
const BAD_USAGE: u8 = 2;
const BAD_URL: u8 = 3;
const NO_HOST: u8 = 6;
const NO_CONNECTION: u8 = 7;
const TIMED_OUT: u8 = 28;
const NO_ANSWER: u8 = 52;
/// Most of an answer that is read.
const ANSWER_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Runs with the arguments of the command line (without the program's name).
pub fn main(arguments: &[String]) -> ExitCode {
    let request = match Request::parse(arguments) {
        Ok(request) => request,
        Err((code, message)) => {
            eprintln!("curl: {message}");
            return ExitCode::from(code);
        }
    };
    match fetch(&request) {
        Ok(answer) => {
            let shown = if request.headers { answer.as_slice() } else { body(&answer) };
            std::io::stdout().write_all(shown).ok();
            ExitCode::SUCCESS
        }
        Err((code, message)) => {
            if !request.silent {
                eprintln!("curl: ({code}) {message}");
            }
            ExitCode::from(code)
        }
    }
}

type Failure = (u8, String);

#[derive(Debug, PartialEq, Eq)]
struct Request {
    host: String,
    port: u16,
    path: String,
    silent: bool,
    headers: bool,
    connect_timeout: Duration,
    timeout: Duration,
}

impl Request {
    fn parse(arguments: &[String]) -> Result<Self, Failure> {
        let (mut silent, mut shows_errors, mut headers) = (false, false, false);
        let (mut connect_timeout, mut timeout) = (None, Duration::from_secs(300));
        let mut url = None;
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let mut seconds = || {
                let text = rest.next().map(String::as_str).unwrap_or_default();
                let seconds = text.parse::<f64>().ok().filter(|seconds| (0.001..=86_400.0).contains(seconds));
                seconds
                    .map(Duration::from_secs_f64)
                    .ok_or((BAD_USAGE, format!("{argument} needs a number of seconds")))
            };
            match argument.as_str() {
                "-s" | "--silent" => silent = true,
                "-S" | "--show-error" => shows_errors = true,
                "-sS" | "-Ss" => (silent, shows_errors) = (true, true),
                "-i" | "--include" => headers = true,
                "-4" | "-6" | "-f" | "--fail" => {}
                "-m" | "--max-time" => timeout = seconds()?,
                "--connect-timeout" => connect_timeout = Some(seconds()?),
                flag if flag.starts_with('-') => {
                    return Err((BAD_USAGE, format!("{flag} is unknown here\n{USAGE}")));
                }
                given => url = Some(given.to_string()),
            }
        }
        let url = url.ok_or((BAD_USAGE, USAGE.to_string()))?;
        let (host, port, path) = parse_url(&url).ok_or((BAD_URL, format!("{url:?} is no http URL")))?;
        let connect_timeout = connect_timeout.unwrap_or(timeout);
        Ok(Self { host, port, path, silent: silent && !shows_errors, headers, connect_timeout, timeout })
    }
}

/// Host, port and path of a URL.
fn parse_url(url: &str) -> Option<(String, u16, String)> {
    let rest = url.strip_prefix("http://").unwrap_or(url);
    if rest.contains("://") {
        return None;
    }
    let (authority, path) = match rest.split_once('/') {
        Some((authority, path)) => (authority, format!("/{path}")),
        None => (rest, "/".to_string()),
    };
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            (host, rest.strip_prefix(':'))
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let clean = !host.is_empty() && !path.contains(|c: char| c.is_whitespace() || c.is_control());
    let port = port.map_or(Some(80), |port| port.parse().ok())?;
    clean.then(|| (host.to_string(), port, path))
}

fn fetch(request: &Request) -> Result<Vec<u8>, Failure> {
    let (host, port) = (request.host.as_str(), request.port);
    let unknown = |_| (NO_HOST, format!("Could not resolve host: {host}"));
    let address = (host, port).to_socket_addrs().map_err(unknown)?.next();
    let address = address.ok_or((NO_HOST, format!("Could not resolve host: {host}")))?;
    let mut stream = TcpStream::connect_timeout(&address, request.connect_timeout.min(request.timeout))
        .map_err(|error| {
            let code = if error.kind() == std::io::ErrorKind::TimedOut { TIMED_OUT } else { NO_CONNECTION };
            (code, format!("Failed to connect to {host} port {port}: {error}"))
        })?;
    let io = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => {
            (TIMED_OUT, "Operation timed out".to_string())
        }
        _ => (NO_ANSWER, format!("No answer from server: {error}")),
    };
    stream.set_read_timeout(Some(request.timeout)).map_err(io)?;
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_string() };
    let head = format!(
        "GET {} HTTP/1.0\r\nHost: {host}:{port}\r\nUser-Agent: egressgateway-curl\r\nAccept: */*\r\n\r\n",
        request.path
    );
    stream.write_all(head.as_bytes()).map_err(io)?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).map_err(io)?;
    if answer.is_empty() { Err((NO_ANSWER, "Empty reply from server".to_string())) } else { Ok(answer) }
}

/// What follows the headers.
fn body(answer: &[u8]) -> &[u8] {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n");
    end.and_then(|end| answer.get(end + 4..)).unwrap_or(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn urls_of_the_docs_are_understood() {
        let parts = |host: &str, port, path: &str| Some((host.to_string(), port, path.to_string()));
        assert_eq!(parse_url("10.6.168.63:8082"), parts("10.6.168.63", 8082, "/"));
        assert_eq!(parse_url("http://[fd06::63]:80/a/b"), parts("fd06::63", 80, "/a/b"));
        assert_eq!(parse_url("https://example.org"), None);
        assert_eq!(parse_url("host:99999"), None);
        assert_eq!(parse_url("host/a b"), None);
    }

    #[test]
    fn the_body_is_what_follows_the_empty_line() {
        assert_eq!(body(b"HTTP/1.0 200 OK\r\n\r\nRemote IP: x\n"), b"Remote IP: x\n");
    }

    proptest! {
        #[test]
        fn no_url_makes_the_parser_panic(url in ".*") {
            let _ = parse_url(&url);
        }
    }
}
