//! What agents have changed under /proc/sys/net, kept on disk over restarts, so that it can be given back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use datapath::transaction::{RouteChange, Transaction};
use kernel::sysctl;
use serde::{Deserialize, Serialize};

use crate::files::write_private;

const FILE: &str = "sysctls.json";

/// A value under /proc/sys/net that an agent has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Changed {
    /// What it was before the first agent
    before: String,
    /// What an agent has made it
    after: String,
}

/// What was changed under /proc/sys/net, kept on disk over restarts.
#[derive(Debug)]
pub struct SysctlRecord {
    path: PathBuf,
    changed: BTreeMap<String, Changed>,
}

impl SysctlRecord {
    /// What earlier runs have left in this directory.
    ///
    /// # Errors
    /// When the file is there and can't be read.
    pub fn load(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE);
        let changed = match std::fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).with_context(|| format!("parsing {}", path.display()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        Ok(Self { path, changed })
    }

    /// Remembers what values are before a transaction changes them. Those of a device that goes with us are left out by
    /// their absence: it is not there yet.
    pub fn remember(&mut self, transaction: &Transaction, read: impl Fn(&str) -> Option<String>) {
        let mut is_new = false;
        for change in transaction.before.iter().chain(&transaction.after) {
            let RouteChange::SetSysctl { path, value } = change else { continue };
            let Some(before) = read(path).filter(|before| before != value) else { continue };
            let known = self.changed.entry(path.clone());
            let known = known.or_insert_with(|| {
                is_new = true;
                Changed { before, after: value.clone() }
            });
            is_new |= known.after != *value;
            known.after.clone_from(value);
        }
        if is_new {
            let text = serde_json::to_vec(&self.changed).unwrap_or_default();
            if let Err(error) = write_private(&self.path, &text) {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "what was changed under /proc/sys/net is not kept"
                );
            }
        }
    }

    /// Gives back what values were, in the calling thread's network namespace, and forgets them. Says how many; those that
    /// somebody else has changed since, or that are gone, are left alone.
    ///
    /// # Errors
    /// When the record can't be removed.
    pub fn restore(self) -> Result<usize> {
        let is_ours = |path: &str, after: &str| sysctl::read(path).is_ok_and(|now| now == after);
        let ours = self.changed.iter().filter(|(path, changed)| is_ours(path, &changed.after));
        let restored = ours.filter(|(path, changed)| sysctl::write(path, &changed.before).is_ok()).count();
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing {}", self.path.display()))
            }
            _ => Ok(restored),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(path: &str, value: &str) -> Transaction {
        let change = RouteChange::SetSysctl { path: path.to_owned(), value: value.to_owned() };
        Transaction { before: vec![change], ..Transaction::default() }
    }

    #[test]
    fn the_first_value_is_remembered_over_restarts_and_what_need_not_change_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let mut record = SysctlRecord::load(dir.path()).unwrap();
        record.remember(&set("ipv4/ip_forward", "1"), |_| Some("0".to_owned()));
        record.remember(&set("ipv6/conf/all/forwarding", "1"), |_| Some("1".to_owned()));
        record.remember(&set("ipv4/conf/gone/rp_filter", "2"), |_| None);
        // Somebody sets it to something else, and a later run sets it again.
        let mut again = SysctlRecord::load(dir.path()).unwrap();
        again.remember(&set("ipv4/ip_forward", "1"), |_| Some("2".to_owned()));
        let kept = SysctlRecord::load(dir.path()).unwrap().changed;
        let expected = Changed { before: "0".to_owned(), after: "1".to_owned() };
        assert_eq!(kept, BTreeMap::from([("ipv4/ip_forward".to_owned(), expected)]));
    }
}
