//! What the demo shows: commands, their output, remarks; on the terminal and in a file.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::DemoError;

/// After that long, people want to know what is going on.
const PATIENCE: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Where the demo plays.
pub(super) struct Stage {
    record: Option<File>,
    colour: bool,
    pause: bool,
    progress: bool,
}

#[derive(Clone, Copy)]
enum Style {
    Plain,
    Heading,
    Command,
    Remark,
    Good,
    Bad,
}

impl Style {
    fn codes(self) -> (&'static str, &'static str) {
        match self {
            Self::Plain => ("", ""),
            Self::Heading => ("\x1b[1m", "\x1b[0m"),
            Self::Command => ("\x1b[36m", "\x1b[0m"),
            Self::Remark => ("\x1b[2m", "\x1b[0m"),
            Self::Good => ("\x1b[32m", "\x1b[0m"),
            Self::Bad => ("\x1b[31m", "\x1b[0m"),
        }
    }
}

impl Stage {
    pub(super) fn new(record: Option<&Path>, pause: bool) -> io::Result<Self> {
        Ok(Self {
            record: record.map(File::create).transpose()?,
            colour: io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
            pause: pause && io::stdin().is_terminal(),
            progress: io::stderr().is_terminal(),
        })
    }

    /// Begins a step.
    pub(super) fn heading(&mut self, text: &str) {
        if self.pause {
            eprint!("[Enter] ");
            io::stdin().read_line(&mut String::new()).ok();
        }
        self.show(Style::Plain, "");
        self.show(Style::Heading, text);
    }

    /// Says what the next lines are about.
    pub(super) fn remark(&mut self, text: &str) {
        self.show(Style::Remark, &format!("# {text}"));
    }

    /// Shows a command that a user would type.
    pub(super) fn command(&mut self, text: &str) {
        self.show(Style::Command, &format!("$ {text}"));
    }

    /// Shows what a command printed.
    pub(super) fn output(&mut self, text: &str) {
        if !text.trim_end().is_empty() {
            self.show(Style::Plain, text.trim_end());
        }
    }

    /// States what was checked and holds.
    pub(super) fn holds(&mut self, text: &str) {
        self.show(Style::Good, &format!("✓ {text}"));
    }

    /// Says how it all ended.
    pub(super) fn fails(&mut self, text: &str) {
        self.show(Style::Bad, &format!("✗ {text}"));
    }

    /// Goes on if what was expected is so.
    pub(super) fn expect(&mut self, holds: bool, expected: &str, seen: &str) -> Result<(), DemoError> {
        if holds {
            self.holds(expected);
            return Ok(());
        }
        Err(DemoError::Unexpected { expected: expected.to_string(), seen: seen.trim().to_string() })
    }

    /// Says what is being done, without end of line or record.
    pub(super) fn progress(&self, text: &str) {
        if self.progress {
            eprint!("\r\x1b[K… {text}\r");
        }
    }

    /// Waits until `look` finds what it looks for. The error of the last look is what was seen instead.
    pub(super) async fn wait<T, L>(
        &mut self,
        what: &str,
        limit: Duration,
        mut look: L,
    ) -> Result<T, DemoError>
    where
        L: AsyncFnMut() -> anyhow::Result<T>,
    {
        let started = Instant::now();
        let mut told = PATIENCE;
        loop {
            let error = match look().await {
                Ok(found) => {
                    self.clear_progress();
                    return Ok(found);
                }
                Err(error) => error,
            };
            if started.elapsed() > limit {
                self.clear_progress();
                let expected = format!("{what} within {} s", limit.as_secs());
                return Err(DemoError::Unexpected { expected, seen: format!("{error:#}") });
            }
            if started.elapsed() >= told {
                self.progress(&format!("waiting: {what} ({} s)", told.as_secs()));
                told += PATIENCE;
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    pub(super) fn clear_progress(&self) {
        if self.progress {
            eprint!("\r\x1b[K");
        }
    }

    fn show(&mut self, style: Style, text: &str) {
        self.clear_progress();
        let (on, off) = if self.colour { style.codes() } else { ("", "") };
        let mut out = io::stdout().lock();
        // A reader that went away is no reason to leave the lab behind.
        writeln!(out, "{on}{text}{off}").and_then(|()| out.flush()).ok();
        if let Some(record) = &mut self.record {
            writeln!(record, "{text}").ok();
        }
    }
}
