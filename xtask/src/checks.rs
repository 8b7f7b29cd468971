//! Small checks of the tree itself.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::steps::Outcome;

/// Every relative link of every document leads to a file.
pub(crate) fn links(root: &Path) -> Result<Outcome> {
    let mut documents = Vec::new();
    markdown(root, &mut documents)?;
    let mut dead = Vec::new();
    let mut count = 0;
    for document in &documents {
        let text = fs::read_to_string(document).with_context(|| document.display().to_string())?;
        let folder = document.parent().unwrap_or(root);
        for target in targets(&text) {
            count += 1;
            if !folder.join(target).exists() {
                dead.push(format!(
                    "{} -> {target}",
                    document.strip_prefix(root).unwrap_or(document).display()
                ));
            }
        }
    }
    if !dead.is_empty() {
        bail!("links that lead nowhere: {}", dead.join("; "));
    }
    Ok(Outcome::Passed(format!("{count} links in {} documents", documents.len())))
}

/// The relative targets of Markdown links, without their fragments.
fn targets(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| {
        let target = rest.split(')').next()?.split('#').next()?;
        let relative = !target.is_empty() && !target.contains("://") && !target.contains(' ');
        relative.then_some(target)
    })
}

fn markdown(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            markdown(&path, found)?;
        } else if name.ends_with(".md") {
            found.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_relative_targets_count() {
        let text = "[a](docs/a.md#x) [b](https://b.example) [c](#c) ![d](d.svg) x](not a link)";
        assert_eq!(targets(text).collect::<Vec<_>>(), ["docs/a.md", "d.svg"]);
    }
}
