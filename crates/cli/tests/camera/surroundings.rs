//! What programs look for around a camera: its number, its class, the list of devices. The
//! same in both modes.

use super::*;

/// What a shell prints with two cameras.
#[track_caller]
fn shell(mode: &str, script: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_devmap"))
        .args(["run", "--mode", mode, "--device", "/dev/video0=camera"])
        .args(["--device", "/dev/video1=camera:pattern=box", "--", "sh", "-c", script])
        .stdin(Stdio::null())
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{mode} {script}: {}\n{said}", output.status);
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn cameras_are_found_by_class_and_by_number() {
    const SCRIPT: &str = "
        set -e
        ls -d /sys/class/net /sys/devices/virtual/mem
        ls /sys/class/video4linux/ /sys/class/video4linux/video1/
        readlink /sys/class/video4linux/video0 /sys/dev/char/81:1
        cat /sys/class/video4linux/video0/name /sys/dev/char/81:1/index
        cat /sys/devices/virtual/video4linux/video1/dev /sys/dev/char/81:0/uevent
        readlink -f /sys/class/video4linux/video1/subsystem
        cat /sys/dev/char/81:1/subsystem/video0/name
        find /sys/class/video4linux/ | sort
        cd /sys/class/net && cat lo/ifindex";
    let expected = "\
        /sys/class/net\n/sys/devices/virtual/mem\n\
        /sys/class/video4linux/:\nvideo0\nvideo1\n\n\
        /sys/class/video4linux/video1/:\ndev\nindex\nname\nsubsystem\nuevent\n\
        ../../devices/virtual/video4linux/video0\n../../devices/virtual/video4linux/video1\n\
        devmap camera 0\n0\n81:1\nMAJOR=81\nMINOR=0\nDEVNAME=video0\n\
        /sys/class/video4linux\ndevmap camera 0\n\
        /sys/class/video4linux/\n/sys/class/video4linux/video0\n/sys/class/video4linux/video1\n\
        1\n";
    for mode in ["auto", "trapped"] {
        assert_eq!(shell(mode, SCRIPT), expected, "{mode}");
    }
}

/// libudev asks whether it is sysfs that it reads.
#[test]
fn what_stands_below_sys_is_sysfs() {
    const SCRIPT: &str = "python3 -c '
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
for path in [\"/sys/class\", \"/sys/class/video4linux\", \"/sys/class/video4linux/video0\",
             \"/sys/dev/char\", \"/sys/dev/char/81:1/uevent\", \"/dev/video0\", \"/dev/null\"]:
    words = (ctypes.c_long * 64)()
    assert libc.fstatfs(os.open(path, os.O_RDONLY), words) == 0
    print(hex(words[0]), path)
assert libc.fstatfs(os.open(\"/dev/video0\", os.O_RDONLY), None) == -1
print(ctypes.get_errno())'";
    let expected = "\
        0x62656572 /sys/class\n0x62656572 /sys/class/video4linux\n\
        0x62656572 /sys/class/video4linux/video0\n0x62656572 /sys/dev/char\n\
        0x62656572 /sys/dev/char/81:1/uevent\n0x1021994 /dev/video0\n0x1021994 /dev/null\n14\n";
    for mode in ["auto", "trapped"] {
        assert_eq!(shell(mode, SCRIPT), expected, "{mode}");
    }
}

/// A camera's number is its path's, whatever the order.
#[test]
fn numbers_follow_the_paths() {
    const DEVICES: [&str; 4] = [
        "/dev/video1=camera",
        "/dev/front=camera",
        "/dev/video0=camera",
        "/dev/back=camera:minor=9",
    ];
    let numbers = "stat -c %t:%T /dev/video1 /dev/front /dev/video0 /dev/back";
    let output = run(&DEVICES, &["sh", "-c", numbers]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "51:1\n51:2\n51:0\n51:9\n", "{output:?}");
}

/// To the kernel a camera is `videoN`, whatever its node is called.
#[test]
fn a_camera_at_any_path_is_known_as_one() {
    // The minor number of one is in the name of the other.
    const DEVICES: [&str; 3] =
        ["/dev/cam=camera:minor=1", "/dev/video1=camera:minor=0", "/dev/front=camera"];
    const SCRIPT: &str = "
        set -e
        ls /sys/class/video4linux/
        for number in 0 1 2; do grep DEVNAME /sys/dev/char/81:$number/uevent; done
        cat /sys/class/video4linux/video2/dev /sys/class/video4linux/video2/name
        v4l2-ctl -d /dev/cam -D | grep 'Card type'
        v4l2-ctl -d /dev/front --get-parm | grep Frames
        v4l2-ctl --list-devices | grep /dev/";
    // v4l2-ctl lists nodes of /dev by their names.
    let expected = "video1\nvideo2\nvideo3\n\
        DEVNAME=video1\nDEVNAME=video2\nDEVNAME=video3\n81:1\ndevmap camera 1\n\
        \tCard type        : devmap camera 1\n\tFrames per second: 30.000 (30/1)\n\
        \t/dev/video1\n";
    for mode in ["auto", "trapped"] {
        let output = run_in(mode, &DEVICES, &["sh", "-c", SCRIPT]);
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{mode}: {output:?}");
    }
}

/// As all drivers of the kernel's have.
#[test]
fn the_drivers_version_is_the_kernels() {
    let said = text(
        "/dev/video0=camera",
        &["sh", "-c", "v4l2-ctl -D | sed -n 's/.*Driver version *: //p'; uname -r"],
    );
    let mut lines = said.lines().map(|line| {
        let numbers = line.split('-').next().unwrap_or_default().split('.');
        numbers.map(|number| number.parse().unwrap_or(0).min(255_u32)).collect::<Vec<_>>()
    });
    assert_eq!(lines.next(), lines.next(), "{said}");
}

#[test]
fn two_cameras_of_one_number_are_refused() {
    for devices in [
        ["/dev/video0=camera:minor=3", "/dev/video1=camera:minor=3"],
        ["/dev/video0=camera", "/dev/front=camera:minor=0"],
    ] {
        let output = run(&devices, &["true"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{said}");
        let paths = devices.map(|device| device.split_once('=').expect("PATH=NAME").0);
        for words in [paths[0], paths[1], "81:", "minor=N"] {
            assert!(said.contains(words), "{words}: {said}");
        }
    }
}

#[test]
fn v4l2_ctl_lists_the_devices() {
    for mode in ["auto", "trapped"] {
        let listed = shell(mode, "v4l2-ctl --list-devices");
        for number in 0..2 {
            let device = format!(
                "devmap camera {number} (platform:devmap-00{number}):\n\t/dev/video{number}\n"
            );
            assert!(listed.contains(&device), "{mode}: {listed}");
        }
        // What was there before is listed as well, once, and so are the cameras.
        let names = shell(mode, "ls -f /dev");
        for name in ["null", "zero", "video0", "video1"] {
            assert_eq!(names.lines().filter(|line| *line == name).count(), 1, "{mode}: {name}");
        }
        let numbers = shell(mode, "ls -U /sys/dev/char");
        for name in ["1:3", "81:0", "81:1"] {
            assert_eq!(numbers.lines().filter(|line| *line == name).count(), 1, "{mode}: {name}");
        }
    }
}
