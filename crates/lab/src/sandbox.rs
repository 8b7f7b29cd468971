//! The lab's own corner of the machine: a user namespace where there is no root, a process and a mount
//! namespace always, and the host's network namespace for nothing but the API server's loopback listener.
//!
//! ```text
//! egressgateway lab up        the user's process: starts, waits, ends
//!   launch                    unshares, starts init as process 1 of the new process namespace, ends
//!     init                    mounts, starts the supervisor, collects orphans; dies with the supervisor
//!       supervisor            the lab; see `supervisor`
//!       pods' processes
//! ```
//!
//! When init dies, for whatever reason, the kernel kills everything in its process namespace, and with the
//! processes go the mounts and the network namespaces: there is nothing to clean but a directory.

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::Context;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Uid, getegid, geteuid, setsid};

use crate::error::LabError;
use crate::state_dir::StateDir;

/// The first argument that makes the program one of the lab's inner processes.
pub(crate) const INNER: &str = "__lab";

/// Capabilities without which root is not root enough: net_admin, net_raw, sys_chroot, sys_ptrace, sys_admin.
const NEEDED_CAPABILITIES: [u32; 5] = [12, 13, 18, 19, 21];

/// A command that runs this program again as one of the lab's inner processes.
///
/// Through `/proc/self/exe`, so that it is the same program even after the file was replaced by a new build.
pub(crate) fn inner_command(role: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg(INNER).arg(role);
    command
}

/// `launch`: leaves the user's session and namespaces and starts init.
pub(crate) fn launch(state_dir: &str, supervisor_options: &str) -> anyhow::Result<()> {
    let state = StateDir::at(state_dir);
    // May fail when the process leads its group already; then there is no terminal to leave.
    setsid().ok();
    enter_new_namespaces()?;
    let init = inner_command("init")
        .arg(state_dir)
        .arg(supervisor_options)
        .spawn()
        .context("start the lab's first process")?;
    state.record_init(init.id()).context("write down the lab's first process")?;
    Ok(())
}

fn enter_new_namespaces() -> Result<(), LabError> {
    let (user, group) = (geteuid(), getegid());
    let mut flags = CloneFlags::CLONE_NEWPID;
    let privileged = user.is_root() && has_capabilities();
    if !privileged {
        flags |= CloneFlags::CLONE_NEWUSER;
    }
    unshare(flags).map_err(|errno| no_privileges(user, errno.into()))?;
    if !privileged {
        // Only one's own ids can be mapped without help; that is enough: everything in the lab is root.
        let mapped = fs::write("/proc/self/setgroups", "deny")
            .and_then(|()| fs::write("/proc/self/uid_map", format!("0 {user} 1")))
            .and_then(|()| fs::write("/proc/self/gid_map", format!("0 {group} 1")));
        mapped.map_err(|source| no_privileges(user, source))?;
    }
    Ok(())
}

/// Nothing that is mounted from here on is seen outside.
pub(crate) fn make_mounts_private() -> nix::Result<()> {
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
}

fn has_capabilities() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    NEEDED_CAPABILITIES.iter().all(|bit| effective & (1 << bit) != 0)
}

/// `user` as the host knows it: in a half-made namespace it would be nobody.
fn no_privileges(user: Uid, source: io::Error) -> LabError {
    let setting =
        |path: &str| fs::read_to_string(path).map(|text| text.trim().to_string()).unwrap_or_default();
    let hint = if setting("/proc/sys/user/max_user_namespaces") == "0" {
        "sysctl user.max_user_namespaces is 0"
    } else if setting("/proc/sys/kernel/unprivileged_userns_clone") == "0" {
        "sysctl kernel.unprivileged_userns_clone is 0"
    } else if setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1" {
        "sysctl kernel.apparmor_restrict_unprivileged_userns is 1"
    } else {
        "in a container, start it privileged"
    };
    let who = if user.is_root() { "a root without capabilities".to_string() } else { format!("user {user}") };
    LabError::NoPrivileges { who, hint: hint.to_string(), source }
}

/// `init`: process 1 of the lab's process namespace.
pub(crate) fn init(state_dir: &str, supervisor_options: &str) -> anyhow::Result<ExitCode> {
    // Here and not in `launch`, which still needs to see the host's processes.
    unshare(CloneFlags::CLONE_NEWNS).map_err(|errno| no_privileges(geteuid(), errno.into()))?;
    make_mounts_private().context("make mounts private")?;
    mount_inside(&StateDir::at(state_dir).file("private"))?;
    let mut supervisor = inner_command("supervisor");
    supervisor.arg(state_dir).arg(supervisor_options);
    let supervisor = supervisor.spawn().context("start the lab's supervisor")?;
    let supervisor = i32::try_from(supervisor.id()).context("process id")?;
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, code)) if pid.as_raw() == supervisor => {
                return Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)));
            }
            Ok(WaitStatus::Signaled(pid, ..)) if pid.as_raw() == supervisor => return Ok(ExitCode::from(1)),
            // Orphans of the pods: collected, that is all.
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).context("wait for the lab's supervisor"),
        }
    }
}

fn mount_inside(private: &Path) -> Result<(), LabError> {
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("proc"), "/proc", Some("proc"), plain | MsFlags::MS_NOEXEC, None::<&str>).map_err(|errno| {
        LabError::MissingKernelFeature {
            feature: "mountable /proc for the lab's processes",
            hint: "in a container, start it with an unmasked /proc (Docker: --security-opt systempaths=unconfined) or privileged",
            source: errno.into(),
        }
    })?;
    let options = Some("mode=0755,size=256m");
    mount(Some("lab"), private, Some("tmpfs"), plain, options)
        .map_err(|errno| LabError::StateDir { path: private.to_path_buf(), source: errno.into() })
}
