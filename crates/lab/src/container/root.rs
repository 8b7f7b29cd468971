//! A container's root directory.
//!
//! A fresh tmpfs with the machine's top-level directories bound into it, so that the pod has the machine's
//! tools; `/tmp` and `/run` are its own and empty, `/sys` shows its own network devices. Mount points that a
//! volume needs are made in the parts that are the container's own, never on the machine.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chroot, pivot_root};

use crate::container::spec::{ContainerSpec, VolumeMount};
use crate::container::{PROGRAM_NAMES, PROGRAMS_DIR};
use crate::sandbox::make_mounts_private;

/// Top-level directories that a container has for itself.
const OWN: [&str; 2] = ["tmp", "run"];
const NO_DATA: Option<&str> = None;

/// Builds the root directory in a new mount namespace and makes it the root.
pub(crate) fn build_and_enter(spec: &ContainerSpec) -> anyhow::Result<()> {
    make_mounts_private().context("make mounts private")?;
    let root = &spec.root;
    tmpfs(root, "0755")?;
    bind_machine(root)?;
    for own in OWN {
        let mode = if own == "tmp" { 0o1777 } else { 0o755 };
        make_dir(&root.join(own), mode)?;
    }
    mount_sys(&root.join("sys"));
    bind_programs(root)?;
    bind_hosts(root, &spec.hosts)?;
    for volume in &spec.mounts {
        bind_volume(root, volume).with_context(|| format!("mount {}", volume.target.display()))?;
    }
    enter(root)
}

fn bind_machine(root: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir("/").context("list the machine's root directory")?.flatten() {
        let name = entry.file_name();
        let (from, to) = (entry.path(), root.join(&name));
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_symlink() {
            symlink(fs::read_link(&from)?, &to).ok();
        } else if kind.is_dir() && !OWN.iter().any(|own| name == *own) && name != "sys" {
            make_dir(&to, 0o755)?;
            // A directory that can't be bound (no permission, a dead network mount) is just not there.
            if let Err(error) = bind(&from, &to) {
                tracing::debug!(path = %from.display(), %error, "not bound into a container");
            }
        }
    }
    Ok(())
}

/// A sysfs of the pod's network namespace; where the kernel refuses one, the container has none: the
/// machine's own would show the wrong devices.
fn mount_sys(target: &Path) {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    if make_dir(target, 0o755).is_ok() {
        mount(Some("sysfs"), target, Some("sysfs"), flags, NO_DATA).ok();
    }
}

fn bind_programs(root: &Path) -> anyhow::Result<()> {
    let directory = root.join(PROGRAMS_DIR.trim_start_matches('/'));
    // /opt may be the machine's: cover it, the machine keeps nothing of ours.
    let opt = root.join("opt");
    if opt.is_dir() {
        umount2(&opt, MntFlags::MNT_DETACH).ok();
    }
    make_dirs(&directory)?;
    let program = directory.join("egressgateway");
    fs::File::create(&program).context("make the program's mount point")?;
    let bound = fs::canonicalize("/proc/self/exe").map(|file| bind(&file, &program));
    if !matches!(bound, Ok(Ok(()))) {
        // A new build has replaced the file, and one that is gone can't be bound. A link to what the lab's first process runs
        // leads to it still.
        fs::remove_file(&program).context("remove the program's mount point")?;
        symlink("/proc/1/exe", &program).context("link the program")?;
    }
    for name in PROGRAM_NAMES {
        symlink("egressgateway", directory.join(name)).context("name the program")?;
    }
    Ok(())
}

fn bind_hosts(root: &Path, text: &str) -> anyhow::Result<()> {
    let target = root.join("etc/hosts");
    let source = root.join(".hosts");
    fs::write(&source, text).context("write the hosts file")?;
    if target.is_file() {
        bind(&source, &target).context("bind the hosts file")?;
    }
    fs::remove_file(&source).ok();
    Ok(())
}

fn bind_volume(root: &Path, volume: &VolumeMount) -> anyhow::Result<()> {
    let target = resolve_inside(root, &volume.target)?;
    if volume.source.is_dir() {
        make_dirs(&target)?;
    } else if !target.exists() {
        make_dirs(target.parent().context("a file can't be mounted on /")?)?;
        fs::File::create(&target).context("make the mount point")?;
    }
    bind(&volume.source, &target).context("bind")?;
    if volume.read_only {
        let flags = MsFlags::MS_BIND
            | MsFlags::MS_REMOUNT
            | MsFlags::MS_RDONLY
            | MsFlags::MS_NOSUID
            | MsFlags::MS_NODEV;
        mount(NO_DATA, &target, NO_DATA, flags, NO_DATA).context("remount read-only")?;
    }
    Ok(())
}

/// The path below `root` that a process whose root it is would reach: links are followed inside.
fn resolve_inside(root: &Path, target: &Path) -> anyhow::Result<PathBuf> {
    let mut resolved = PathBuf::new();
    let mut rest: Vec<PathBuf> = vec![target.to_path_buf()];
    let mut links = 0;
    while let Some(next) = rest.pop() {
        let mut components = next.components();
        let Some(first) = components.next() else { continue };
        rest.push(components.as_path().to_path_buf());
        match first {
            Component::RootDir | Component::Prefix(_) => resolved = PathBuf::new(),
            Component::CurDir => {}
            Component::ParentDir => drop(resolved.pop()),
            Component::Normal(name) => match fs::read_link(root.join(&resolved).join(name)) {
                Ok(link) => {
                    links += 1;
                    if links > 40 {
                        bail!("too many links in {}", target.display());
                    }
                    rest.push(link);
                }
                Err(_) => resolved.push(name),
            },
        }
    }
    Ok(root.join(resolved))
}

fn enter(root: &Path) -> anyhow::Result<()> {
    std::env::set_current_dir(root).context("change to the new root directory")?;
    match pivot_root(".", ".") {
        // The old root is now mounted over the new one, at the same place.
        Ok(()) => umount2(".", MntFlags::MNT_DETACH).context("leave the machine's root directory")?,
        // The machine runs from its initial RAM file system, which can't be moved.
        Err(_) => chroot(".").context("change the root directory")?,
    }
    std::env::set_current_dir("/").context("change to the root directory")
}

fn bind(from: &Path, to: &Path) -> nix::Result<()> {
    mount(Some(from), to, NO_DATA, MsFlags::MS_BIND | MsFlags::MS_REC, NO_DATA)
}

fn tmpfs(target: &Path, mode: &str) -> anyhow::Result<()> {
    let options = format!("mode={mode},size=64m");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("container"), target, Some("tmpfs"), flags, Some(options.as_str())).context("mount a tmpfs")
}

fn make_dirs(path: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(path).with_context(|| format!("make directory {}", path.display()))
}

fn make_dir(path: &Path, mode: u32) -> anyhow::Result<()> {
    make_dirs(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).context("set permissions")
}
