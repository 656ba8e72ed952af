//! What an open of a path is permitted to be, where devmap answers it in the kernel's place.

use std::{fs, os::unix::fs::PermissionsExt};

use rustix::process::geteuid;

use crate::harness::{Mode, Run, in_each_mode};

in_each_mode!(a_device_is_no_directory);

/// A camera has a class, so its directory is listed, and opens of directories are looked at.
fn a_device_is_no_directory(mode: Mode) {
    let script = "
link = os.path.realpath('/sys/class/video4linux/' + os.listdir('/sys/class/video4linux')[0])
for path in '/dev/video0', link + '/name':
    for flags in os.O_RDONLY, os.O_RDWR, os.O_PATH:
        say(error_of(lambda: os.open(path, flags | os.O_DIRECTORY)))
say(error_of(lambda: os.listdir('/dev/video0')))
";
    let finished = Run::new(mode, &["/dev/video0=camera"]).python(script, &[]).finish().well();
    assert_eq!(finished.stdout, "ENOTDIR\n".repeat(7), "{finished:?}");
}

/// The supervisor of root's run may read any directory; its programs may be others'. Trapped mode
/// alone has devices outside of `/dev`.
#[test]
fn what_may_not_be_read_is_not_listed() {
    let above = tempfile::tempdir().expect("a directory");
    let inner = above.path().join("inner");
    fs::create_dir(&inner).expect("mkdir");
    let [above, inner] = [above.path(), &inner];
    let permit = |path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
    };
    let user = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--"];
    let device = format!("{}/video0=camera", inner.display());
    for (modes, is_listed) in
        [([0o755, 0o755], true), ([0o755, 0o711], false), ([0o700, 0o755], false)]
    {
        permit(above, modes[0]);
        permit(inner, modes[1]);
        let list = ["ls", inner.to_str().expect("UTF-8")];
        let run = || Run::new(Mode("trapped"), &[&device]);
        let own = run().output(&list).well();
        assert_eq!(own.stdout, "video0\n", "{own:?}");
        // Root alone can become somebody else.
        if geteuid().is_root() {
            let others = run().output(&[&user[..], &list[..]].concat());
            let expected = if is_listed { "video0\n" } else { "" };
            assert_eq!(others.stdout, expected, "{modes:?}: {others:?}");
            assert_eq!(others.status.success(), is_listed, "{modes:?}: {others:?}");
        }
    }
}
