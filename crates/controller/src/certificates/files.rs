//! Certificates that others issue and put into a directory, as a mounted Secret is.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::webhook::Serving;

/// How often it is looked whether they are others now.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// The two files.
#[derive(Debug, PartialEq, Eq)]
struct Pair {
    certificates: Vec<u8>,
    key: Vec<u8>,
}

/// Whether others issue the certificate.
pub(super) fn are_there(directory: &Path) -> bool {
    !directory.as_os_str().is_empty() && directory.join("tls.crt").is_file()
}

/// Serves what is in the directory, and what comes there later. What can't be used leaves what is served as it is.
pub(super) async fn follow(
    directory: PathBuf,
    serving: &Serving,
    first: impl FnOnce(),
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let mut first = Some(first);
    let mut looked_at: Option<Pair> = None;
    let mut complained = false;
    loop {
        match read(&directory).await {
            Ok(pair) if looked_at.as_ref() == Some(&pair) => {}
            Ok(pair) => {
                match serving.set(&pair.certificates, &pair.key) {
                    Ok(()) => {
                        info!(directory = %directory.display(), "serving the certificate of this directory");
                        first.take().into_iter().for_each(|first| first());
                    }
                    Err(error) => {
                        warn!(directory = %directory.display(), error = format!("{error:#}"), "certificate not used");
                    }
                }
                looked_at = Some(pair);
                complained = false;
            }
            Err(error) if !complained => {
                warn!(error = format!("{error:#}"), "certificate not read");
                complained = true;
            }
            Err(_) => {}
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
    }
}

async fn read(directory: &Path) -> anyhow::Result<Pair> {
    let file = async |name: &str| {
        let path = directory.join(name);
        tokio::fs::read(&path).await.with_context(|| format!("read {}", path.display()))
    };
    Ok(Pair { certificates: file("tls.crt").await?, key: file("tls.key").await? })
}
