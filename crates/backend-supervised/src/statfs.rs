//! `fstatfs` of devices, and of what stands for them below `/sys`: what the machine's own `/dev` and
//! `/sys` say. Programs that look for devices ask whether it is sysfs that they read.

use std::{fs, path::Path};

use devmap_sys::{
    arch::nr,
    process,
    seccomp::{Notification, Reply},
    stat,
};

use crate::{Core, client, notify::Call, trapped};

/// Serves `fstatfs`, and in trapped mode `statfs`.
pub(crate) fn serve(core: &Core, call: &Call<'_>) {
    let Notification { tid, nr, args, .. } = *call.notification;
    let fd = args[0] as u32;
    let system = match &core.trapped {
        Some(trapped) if nr == nr::STATFS => {
            trapped::read_path(tid, args[0]).ok().and_then(|path| trapped.system_at(tid, &path))
        }
        Some(trapped) => trapped.system_of(tid, fd),
        None => in_namespace(core, tid, fd),
    };
    // A machine without it has nothing better to say than the kernel.
    let status = system.and_then(|system| stat::statfs_bytes(Path::new(system)).ok());
    call.answer(match status.map(|status| process::write_memory(tid, args[1], &status)) {
        None => Reply::Continue,
        Some(Ok(())) => Reply::Value(0),
        Some(Err(_)) => Reply::Error(libc::EFAULT),
    });
}

fn in_namespace(core: &Core, tid: u32, fd: u32) -> Option<&'static str> {
    let (device, _) = client::identity(tid, fd)?;
    if core.mount_device.get() != Some(&device) {
        return None;
    }
    system_with(&fs::read_link(format!("/proc/{tid}/fd/{fd}")).ok()?)
}

/// The file system that has a path on any machine, if it has devices, or tells of them.
pub(crate) fn system_with(path: &Path) -> Option<&'static str> {
    ["/dev", "/sys"].into_iter().find(|system| path.starts_with(system))
}
