//! `devmap maps`: the areas of programs with devices, by the devices' names.

use std::{fs, process::Command};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::{DEVMAP, Finished, Mode, Run, in_each_mode, start};

in_each_mode!(
    areas_are_those_of_the_devices,
    children_have_areas_too,
    what_is_left_behind_is_told_too,
    a_file_has_its_own_name,
);

/// Maps both areas of `demo` and 64 pages of `pattern`, and says where; then waits.
const MAPS: &str = "
demo, pattern = (os.open(path, os.O_RDWR) for path in ('/dev/mmap', '/dev/pattern'))
areas = [map_raw(demo, 16), map_raw(demo, 16, 16 * PAGE), map_raw(pattern, 64, 3 * PAGE)]
for area in areas: area[5 * PAGE] = b'x'
say(os.getpid(), *(hex(ctypes.addressof(area)) for area in areas))
hear()
";

/// `devmap maps` with these arguments.
fn maps(arguments: &[&str]) -> Finished {
    let mut command = Command::new(DEVMAP);
    command.arg("maps").args(arguments);
    start(command).finish()
}

fn started(mode: Mode, script: &str) -> (crate::harness::Running, Vec<String>) {
    let run = Run::new(mode, &["/dev/mmap=demo", "/dev/pattern=pattern:size=1M"]);
    let mut running = run.python(script, &[]);
    let said = running.hear().split(' ').map(str::to_owned).collect();
    (running, said)
}

fn areas_are_those_of_the_devices(mode: Mode) {
    let (running, said) = started(mode, MAPS);
    let pid = &said[0];
    let found = maps(&[pid, "--json"]).well().stdout;
    let areas: Vec<Value> = serde_json::from_str(&found).expect("JSON");
    assert_eq!(areas.len(), 3, "{found}");
    let kernel = fs::read_to_string(format!("/proc/{pid}/maps")).expect("its maps");
    let expected = [
        ("/dev/mmap", "remap", 0, 16),
        ("/dev/mmap", "remap", 16, 16),
        ("/dev/pattern", "fault", 3, 64),
    ];
    for ((name, method, offset, pages), address) in expected.into_iter().zip(&said[1..]) {
        let number = |area: &Value, key: &str| area[key].as_u64().expect("a number");
        let at = u64::from_str_radix(&address[2..], 16).expect("an address");
        let area = areas.iter().find(|area| number(area, "start") == at).expect("its area");
        let page = number(area, "page");
        assert_eq!((area["name"].as_str(), area["method"].as_str()), (Some(name), Some(method)));
        assert_eq!(number(area, "offset"), offset * page, "{area}");
        assert_eq!(
            (number(area, "major"), number(area, "end")),
            (240, at + pages * page),
            "{area}"
        );
        let (resident, dirty) = (number(area, "resident"), number(area, "dirty"));
        assert!((1..=pages).contains(&resident) && dirty <= resident, "{area}");
        // What faulted the kernel may have written back by now.
        assert!(dirty > 0 || method == "fault", "{area}");
        // The kernel's own line has the same range and permissions.
        let start = format!(
            "{at:x}-{:x} {} ",
            at + pages * page,
            area["permissions"].as_str().expect("text")
        );
        assert!(kernel.contains(&start), "{start:?} is not in:\n{kernel}");
    }
    let text = maps(&[pid]).well().stdout;
    assert_eq!(text.lines().count(), 3, "{text}");
    let line = text.lines().find(|line| line.starts_with(&said[2][2..])).expect("its line");
    assert!(line.contains(" rw-s 00010000 f0:00 "), "{line}");
    assert!(line.contains("  /dev/mmap  remap resident="), "{line}");
    let all = maps(&[pid, "--all"]).well().stdout;
    assert!(all.contains("[stack]") && all.contains("/dev/pattern  fault"), "{all}");
    let picture = maps(&[pid, "--heatmap"]).well().stdout;
    assert!(picture.contains("/dev/pattern rw-s +0x3000 "), "{picture}");
    assert!(!picture.contains('\x1b'), "no colours where there is no terminal");
    // The fifth page of the pattern is there; pages past what the kernel maps around are not.
    let row = picture.lines().skip_while(|line| !line.starts_with("/dev/pattern")).nth(1);
    let row: Vec<char> = row.expect("its row").trim().chars().collect();
    assert_eq!((row.len(), row[5]), (64, '█'), "{picture}");
    running.finish().well();
    maps(&[pid]).exited(125).complains(&["no process", pid]);
}

fn children_have_areas_too(mode: Mode) {
    let script = MAPS
        .replace("say(", "child = os.fork()\nif not child: say(")
        .replace("hear()", "if not child: hear()\nelse: os.waitpid(child, 0)");
    let (running, said) = started(mode, &script);
    let text = maps(&[&said[0]]).well().stdout;
    assert_eq!(text.matches("/dev/mmap  remap").count(), 2, "{text}");
    assert_eq!(text.matches("/dev/pattern  fault").count(), 1, "{text}");
    running.finish().well();
}

/// The supervisor then waits for the end of others than the program.
fn what_is_left_behind_is_told_too(mode: Mode) {
    // Killed whatever becomes of the test.
    struct Left(Pid);
    impl Drop for Left {
        fn drop(&mut self) {
            let _ = kill_process(self.0, Signal::KILL);
        }
    }
    let script = MAPS.replace("say(os.getpid(), ", "say(").replace(
        "hear()",
        "
child = os.fork()
if child:
    say(child)
    os._exit(0)
for fd in 0, 1, 2, OUT: os.close(fd)
os.setsid()
signal.pause()
",
    );
    let (mut running, _) = started(mode, &script);
    let pid = running.hear();
    running.finish().well();
    let _left = Left(Pid::from_raw(pid.parse().expect("a number")).expect("a process"));
    for _ in 0..2 {
        let text = maps(&[&pid]).well().stdout;
        assert_eq!(text.matches("/dev/mmap  remap").count(), 2, "{text}");
    }
}

fn a_file_has_its_own_name(mode: Mode) {
    let content = tempfile::NamedTempFile::new().expect("a file");
    fs::write(content.path(), [b'-'; 3 * 4096]).expect("the file");
    let device = format!("/dev/content=file:{}", content.path().display());
    let script = "
area = mmap.mmap(os.open('/dev/content', os.O_RDONLY), 0, prot=1)
area[PAGE]
say(os.getpid())
hear()
";
    let mut running = Run::new(mode, &[&device]).python(script, &[]);
    let text = maps(&[&running.hear()]).well().stdout;
    assert_eq!(text.matches("r--s 00000000 00:00 ").count(), 1, "{text}");
    assert!(text.contains("/dev/content  fault resident="), "{text}");
    running.finish().well();
}

#[test]
fn a_process_that_is_not_of_a_run_is_refused() {
    let own = std::process::id().to_string();
    maps(&[&own]).exited(125).complains(&["no supervisor is among its ancestors", &own]);
}
