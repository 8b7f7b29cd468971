//! Files that are written from code or tests, and kept as these say.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Writes a file (its path from the root of the workspace), or with `check` changes nothing and fails when it differs.
/// `cargo xtask COMMAND` writes it.
pub(crate) fn keep(root: &Path, file: &str, wanted: &str, command: &str, check: bool) -> Result<()> {
    let path = root.join(file);
    if check {
        if fs::read_to_string(&path).unwrap_or_default() != wanted {
            bail!("{file} is out of date; run `cargo xtask {command}`");
        }
        return Ok(());
    }
    fs::write(&path, wanted).with_context(|| format!("write {}", path.display()))?;
    println!("{file}");
    Ok(())
}
