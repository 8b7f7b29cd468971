//! Logs.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

/// How much to log, and in which form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogSettings {
    /// How much
    pub level: LogLevel,
    /// In which form; `None`: text on a terminal, else JSON
    pub encoder: Option<LogEncoder>,
}

/// How much to log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// Everything
    Trace,
    /// What helps to find a fault
    Debug,
    /// What changes
    #[default]
    Info,
    /// What is degraded
    Warn,
    /// What a person should look at
    Error,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogEncoder {
    /// One object per line
    Json,
    /// For people
    Console,
}

impl LogLevel {
    /// Reads `LOG_LEVEL`: a word, or how much more than usual.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text.to_ascii_lowercase().as_str() {
            "" | "info" => Self::Info,
            "trace" => Self::Trace,
            "debug" => Self::Debug,
            "warn" | "warning" => Self::Warn,
            "error" | "dpanic" | "panic" | "fatal" => Self::Error,
            number => match number.parse::<i8>().ok()? {
                ..=0 => Self::Info,
                1 => Self::Debug,
                2.. => Self::Trace,
            },
        })
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// Sends logs to stderr. Libraries are heard from `warn` on, unless everything is asked for; what the client logs, its caller logs too.
pub fn init(settings: LogSettings) -> Result<(), TryInitError> {
    let level = settings.level.as_str();
    let filter = match settings.level {
        LogLevel::Trace => level.to_owned(),
        _ => format!(
            "{level},hyper=warn,hyper_util=warn,tower=warn,rustls=warn,kube=warn,kube_client=off,kube_runtime=warn,h2=warn"
        ),
    };
    let on_terminal = std::io::stderr().is_terminal();
    let encoder =
        settings.encoder.unwrap_or(if on_terminal { LogEncoder::Console } else { LogEncoder::Json });
    let registry = tracing_subscriber::registry().with(EnvFilter::new(filter));
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match encoder {
        LogEncoder::Json => registry.with(layer.json().flatten_event(true)).try_init(),
        LogEncoder::Console => registry.with(layer.with_ansi(on_terminal)).try_init(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_words_or_numbers() {
        for (text, level) in [
            ("", LogLevel::Info),
            ("DEBUG", LogLevel::Debug),
            ("panic", LogLevel::Error),
            ("0", LogLevel::Info),
            ("1", LogLevel::Debug),
            ("5", LogLevel::Trace),
        ] {
            assert_eq!(LogLevel::parse(text), Some(level), "{text}");
        }
        assert_eq!(LogLevel::parse("loud"), None);
    }
}
