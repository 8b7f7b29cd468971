//! Values under /proc/sys/net, in the calling thread's network namespace.

use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::error::{Error, Result};

/// Reads a value, for example `ipv4/ip_forward`, without the line's end.
///
/// # Errors
/// When there is no such value.
pub fn read(path: &str) -> Result<String> {
    fs::read_to_string(locate(path)?)
        .map(|text| text.trim_end().to_owned())
        .map_err(|source| Error::system(format!("reading net/{path}"), source))
}

/// Writes a value, unless it is so already.
///
/// # Errors
/// When there is no such value, when it may not be written, or when the kernel refuses the value.
pub fn write(path: &str, value: &str) -> Result<()> {
    let file = locate(path)?;
    // Where /proc/sys is mounted read-only, what is set already must not be an error.
    if fs::read_to_string(&file).is_ok_and(|text| text.trim_end() == value) {
        return Ok(());
    }
    fs::write(file, value).map_err(|source| Error::system(format!("writing `{value}` to net/{path}"), source))
}

fn locate(path: &str) -> Result<PathBuf> {
    let relative = Path::new(path);
    if relative.components().all(|part| matches!(part, Component::Normal(_))) {
        Ok(Path::new("/proc/sys/net").join(relative))
    } else {
        Err(Error::Unsupported { what: format!("net/{path}"), why: "the path leaves /proc/sys/net" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_leads_elsewhere_is_refused() {
        assert!(matches!(read("../kernel/hostname"), Err(Error::Unsupported { .. })));
        assert!(matches!(read("/etc/passwd"), Err(Error::Unsupported { .. })));
    }

    #[test]
    fn a_value_is_read_without_the_end_of_its_line() {
        assert!(read("core/somaxconn").unwrap().parse::<u32>().is_ok());
    }
}
