//! What a container has said: one file per run, a time before each line, and readers that may follow.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use apiserver::streams::{LogRequest, LogStream};
use bytes::Bytes;
use futures::stream;
use jiff::Timestamp;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt};
use tokio::sync::watch;

/// Longest line that stays in one piece.
const LINE_BYTES_MAX: u64 = 16 * 1024;
/// Beyond that, the older half of a run's log is forgotten.
const RUN_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// How much a reader takes at once.
const CHUNK_BYTES: u64 = 64 * 1024;

/// The log of one container over all its runs.
#[derive(Debug)]
pub(crate) struct ContainerLog {
    directory: PathBuf,
    state: Mutex<State>,
    /// Counts changes, for those who follow.
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    run: u64,
    file: Option<File>,
    bytes: u64,
    ended: bool,
    /// Whether the next run is waited for: then the one that ended is the previous one already.
    between_runs: bool,
}

impl ContainerLog {
    /// A log whose files are in a directory that exists.
    pub(crate) fn new(directory: PathBuf) -> Arc<Self> {
        Arc::new(Self { directory, state: Mutex::default(), changes: watch::Sender::new(0) })
    }

    /// Begins the log of a new run; that of the last but one is forgotten.
    pub(crate) fn begin_run(&self) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let run = state.run + 1;
        let file = OpenOptions::new().create(true).append(true).open(self.path(run))?;
        *state = State { run, file: Some(file), ..State::default() };
        drop(state);
        std::fs::remove_file(self.path(run.saturating_sub(2))).ok();
        self.tell();
        Ok(())
    }

    /// The run is over: followers come to an end.
    pub(crate) fn end_run(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.ended = true;
        state.file = None;
        drop(state);
        self.tell();
    }

    /// The container will run again, but not yet.
    pub(crate) fn wait_for_run(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).between_runs = true;
    }

    /// Writes down what a program says, until it closes its output.
    pub(crate) async fn record(self: Arc<Self>, output: impl AsyncRead + Unpin) {
        let mut output = tokio::io::BufReader::new(output);
        let mut line = Vec::new();
        loop {
            line.clear();
            match (&mut output).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await {
                Ok(0) | Err(_) => return,
                Ok(_) => self.write(&line),
            }
        }
    }

    fn write(&self, line: &[u8]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut entry = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%9fZ ").to_string().into_bytes();
        entry.extend(line);
        if !entry.ends_with(b"\n") {
            entry.push(b'\n');
        }
        let length = u64::try_from(entry.len()).unwrap_or(0);
        if state.bytes + length > RUN_BYTES_MAX {
            state.bytes = self.forget_older_half(state.run, &mut state.file).unwrap_or(0);
        }
        if let Some(file) = &mut state.file
            && file.write_all(&entry).is_ok()
        {
            state.bytes += length;
        }
        drop(state);
        self.tell();
    }

    fn forget_older_half(&self, run: u64, file: &mut Option<File>) -> io::Result<u64> {
        let path = self.path(run);
        let mut old = BufReader::new(File::open(&path)?);
        old.seek(SeekFrom::Start(RUN_BYTES_MAX / 2))?;
        old.skip_until(b'\n')?;
        let mut rest = Vec::new();
        old.read_to_end(&mut rest)?;
        std::fs::remove_file(&path)?;
        let mut new = OpenOptions::new().create(true).append(true).open(&path)?;
        new.write_all(&rest)?;
        *file = Some(new);
        Ok(u64::try_from(rest.len()).unwrap_or(0))
    }

    fn tell(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }

    fn path(&self, run: u64) -> PathBuf {
        self.directory.join(format!("{run}.log"))
    }

    /// Reads the log as a client wants it; `None` if there was no such run.
    pub(crate) fn read(self: &Arc<Self>, request: &LogRequest) -> Option<LogStream> {
        let run = {
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if request.previous && !state.between_runs { state.run.checked_sub(1)? } else { state.run }
        };
        let file = File::open(self.path(run)).ok()?;
        let mut reader = Reader {
            log: Arc::clone(self),
            run,
            file,
            position: 0,
            timestamps: request.timestamps,
            since: request.since,
            bytes_left: request.limit_bytes.unwrap_or(u64::MAX),
            changes: self.changes.subscribe(),
        };
        let first = reader.history(request.tail_lines).unwrap_or_default();
        let follow = request.follow && !request.previous;
        let rest = stream::unfold(reader, move |mut reader| async move {
            if !follow {
                return None;
            }
            let chunk = reader.next().await?;
            Some((Ok(chunk), reader))
        });
        let first = stream::iter((!first.is_empty()).then_some(Ok(first)));
        Some(Box::pin(futures::StreamExt::chain(first, rest)))
    }
}

struct Reader {
    log: Arc<ContainerLog>,
    run: u64,
    file: File,
    position: u64,
    timestamps: bool,
    since: Option<Timestamp>,
    bytes_left: u64,
    changes: watch::Receiver<u64>,
}

impl Reader {
    /// What is there already, or its last lines.
    fn history(&mut self, tail_lines: Option<u64>) -> io::Result<Bytes> {
        let limit = tail_lines.map(|lines| usize::try_from(lines).unwrap_or(usize::MAX));
        let mut lines: VecDeque<Vec<u8>> = VecDeque::new();
        let mut reader = BufReader::new(&self.file);
        loop {
            let mut line = Vec::new();
            let length = reader.read_until(b'\n', &mut line)?;
            if length == 0 {
                break;
            }
            self.position += u64::try_from(length).unwrap_or(0);
            if let Some(line) = shown(&line, self.timestamps, self.since) {
                lines.push_back(line.to_vec());
            }
            if limit.is_some_and(|limit| lines.len() > limit) {
                lines.pop_front();
            }
        }
        let text: Vec<u8> = lines.into_iter().flatten().collect();
        Ok(self.limited(text))
    }

    /// What comes next; `None` when the run is over and all of it was read.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            self.changes.mark_unchanged();
            let over = {
                let state = self.log.state.lock().unwrap_or_else(PoisonError::into_inner);
                state.ended || state.run != self.run
            };
            let new = self.read_more().ok()?;
            if !new.is_empty() {
                return Some(new);
            }
            if over || self.bytes_left == 0 {
                return None;
            }
            self.changes.changed().await.ok()?;
        }
    }

    fn read_more(&mut self) -> io::Result<Bytes> {
        // The older half may have been forgotten, and with it the file.
        let path = self.log.path(self.run);
        if std::fs::metadata(&path).is_ok_and(|metadata| metadata.len() < self.position) {
            self.file = File::open(&path)?;
            self.position = 0;
        }
        self.file.seek(SeekFrom::Start(self.position))?;
        let mut new = Vec::new();
        (&self.file).take(CHUNK_BYTES).read_to_end(&mut new)?;
        // Whole lines only; the rest comes with the next change.
        let whole = new.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        new.truncate(whole);
        self.position += u64::try_from(whole).unwrap_or(0);
        let lines = new.split_inclusive(|byte| *byte == b'\n');
        let text =
            lines.filter_map(|line| shown(line, self.timestamps, self.since)).flatten().copied().collect();
        Ok(self.limited(text))
    }

    fn limited(&mut self, mut text: Vec<u8>) -> Bytes {
        text.truncate(usize::try_from(self.bytes_left).unwrap_or(usize::MAX));
        self.bytes_left -= u64::try_from(text.len()).unwrap_or(0);
        Bytes::from(text)
    }
}

/// A stored line as a client sees it, if it is to see it.
fn shown(line: &[u8], timestamps: bool, since: Option<Timestamp>) -> Option<&[u8]> {
    let space = line.iter().position(|byte| *byte == b' ')?;
    let (time, text) = line.split_at(space);
    if let Some(since) = since {
        let time: Timestamp = std::str::from_utf8(time).ok()?.parse().ok()?;
        if time < since {
            return None;
        }
    }
    if timestamps { Some(line) } else { text.get(1..) }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::*;

    async fn all(mut stream: LogStream) -> String {
        let mut text = Vec::new();
        while let Some(chunk) = stream.next().await {
            text.extend(chunk.expect("readable"));
        }
        String::from_utf8(text).expect("text")
    }

    fn log() -> (tempfile::TempDir, Arc<ContainerLog>) {
        let directory = tempfile::tempdir().expect("a directory");
        let log = ContainerLog::new(directory.path().to_path_buf());
        log.begin_run().expect("a file");
        (directory, log)
    }

    #[tokio::test]
    async fn the_last_lines_are_shown_without_their_times() {
        let (_directory, log) = log();
        Arc::clone(&log).record(&b"one\ntwo\nthree"[..]).await;
        let read = |request: LogRequest| log.read(&request).expect("a run");
        assert_eq!(all(read(LogRequest::default())).await, "one\ntwo\nthree\n");
        assert_eq!(all(read(LogRequest { tail_lines: Some(1), ..LogRequest::default() })).await, "three\n");
        let timed = all(read(LogRequest { timestamps: true, ..LogRequest::default() })).await;
        assert!(timed.lines().all(|line| line.starts_with("20")), "{timed}");
    }

    #[tokio::test]
    async fn a_follower_hears_everything_until_the_run_ends() {
        let (_directory, log) = log();
        let stream = log.read(&LogRequest { follow: true, ..LogRequest::default() }).expect("a run");
        let writer = async {
            Arc::clone(&log).record(&b"late\n"[..]).await;
            log.end_run();
        };
        let (text, ()) = tokio::join!(all(stream), writer);
        assert_eq!(text, "late\n");
    }

    #[tokio::test]
    async fn the_previous_run_stays_readable() {
        let (_directory, log) = log();
        Arc::clone(&log).record(&b"first\n"[..]).await;
        log.end_run();
        log.begin_run().expect("a file");
        let previous = log.read(&LogRequest { previous: true, ..LogRequest::default() }).expect("a run");
        assert_eq!(all(previous).await, "first\n");
    }

    #[tokio::test]
    async fn while_a_restart_is_waited_for_the_run_that_ended_is_the_previous_one() {
        let (_directory, log) = log();
        Arc::clone(&log).record(&b"only\n"[..]).await;
        let previous = LogRequest { previous: true, ..LogRequest::default() };
        log.end_run();
        assert!(log.read(&previous).is_none(), "nothing ran before");
        log.wait_for_run();
        assert_eq!(all(log.read(&previous).expect("a run")).await, "only\n");
        assert_eq!(all(log.read(&LogRequest::default()).expect("a run")).await, "only\n");
        log.begin_run().expect("a file");
        assert_eq!(all(log.read(&previous).expect("a run")).await, "only\n");
        assert_eq!(all(log.read(&LogRequest::default()).expect("a run")).await, "");
    }
}
