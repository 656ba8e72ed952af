//! devmap within a container as Docker makes it: no user namespace, no `/dev/fuse`, no
//! `userfaultfd(2)`, no `pidfd_getfd(2)`. Remapped memory works whole there.

use std::ffi::OsStr;

use serde_json::Value;

use crate::{
    conformance::{known_in_trapped_mode, passes_in},
    harness::{Client, DEVMAP, Mode, Run, start},
};

/// The mode that devmap chooses by itself.
const CHOOSES: Mode = Mode("auto");

macro_rules! conforms {
    ($($test:ident)+) => {
        $(#[test]
        fn $test() {
            let container = Client::docker();
            let name = stringify!($test);
            let known = known_in_trapped_mode(name);
            let device = format!("/dev/dut={name}");
            passes_in(name, &known, &|| Run::new(CHOOSES, &[&device]).within(&container));
        })+
    };
}
conforms!(demo events hello mem pattern zero);

#[test]
fn the_doctor_says_what_is_lost() {
    let container = Client::docker();
    let mut command = container.around(OsStr::new(DEVMAP));
    command.args(["doctor", "--json"]);
    let report = start(command).finish().well().stdout;
    let report: Value = serde_json::from_str(&report).expect("JSON");
    assert_eq!(report["mode"], "trapped", "{report:#}");
    let findings = report["findings"].as_array().expect("findings");
    let refused = findings.iter().filter(|finding| finding["permitted"] == false);
    let refused: Vec<&str> = refused.filter_map(|finding| finding["name"].as_str()).collect();
    assert_eq!(
        refused,
        ["mount namespace", "FUSE in that namespace", "pidfd_getfd", "userfaultfd"],
        "{report:#}"
    );
}

/// 1 GiB of faulted pages, of which 256 MiB can be mapped at once.
#[test]
fn faulted_pages_are_filled_before_up_to_a_limit() {
    let script = "
fd = os.open('/dev/p', os.O_RDWR)
limit = 256 << 20
at = libc.mmap(None, limit, 1, mmap.MAP_SHARED, fd, PAGE)
say(at != (1 << 64) - 1)
for word in 0, limit // 2, limit - 8:
    say(ctypes.c_uint64.from_address(at + word).value == PAGE + word)
# A system call on them.
say(os.write(os.open('/dev/null', os.O_WRONLY), (ctypes.c_char * limit).from_address(at)) == limit)
say(libc.munmap(at, limit))
say(error_of(lambda: map_raw(fd, limit // PAGE + 1)))
say(error_of(lambda: map_raw(fd, 1)))
";
    let container = Client::docker();
    let run = Run::new(CHOOSES, &["/dev/p=pattern:size=1G"]).within(&container);
    let finished = run.python(script, &[]).finish().well();
    assert_eq!(finished.stdout, "True\nTrue\nTrue\nTrue\nTrue\n0\nENOMEM\n0\n", "{finished:?}");
    let complaints = finished.stderr.lines().filter(|line| line.contains("/dev/p"));
    let complaints: Vec<_> = complaints.collect();
    assert_eq!(complaints.len(), 1, "{finished:?}");
    for word in ["ENOMEM", "268435456 bytes", "devmap: "] {
        assert!(complaints[0].contains(word), "{complaints:?}");
    }
}
