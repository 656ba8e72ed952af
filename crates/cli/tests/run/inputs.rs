//! Bad input, and the options that tell what a run did.

use std::{fs, process::Command};

use crate::harness::{DEVMAP, Finished, Mode, Run, in_each_mode, start};

in_each_mode!(
    bad_input_is_refused_before_anything_runs,
    a_program_that_cannot_run_is_told,
    runs_do_not_nest,
    statistics_count_what_was_served,
    a_full_disk_stops_the_trace_and_nothing_else,
    a_trace_that_cannot_be_made_is_refused,
    a_trace_goes_to_standard_error_too,
    the_trace_says_what_happened,
    both_forms_of_the_trace_say_the_same,
);

/// `devmap run` with these arguments, which must fail by itself.
fn refused(mode: Mode, arguments: &[&str]) -> Finished {
    let mut command = Command::new(DEVMAP);
    command.args(["run", "--mode", mode.0]).args(arguments).args(["--", "echo", "it ran"]);
    let finished = start(command).finish().exited(125);
    assert_eq!(finished.stdout, "", "{arguments:?}");
    finished
}

fn bad_input_is_refused_before_anything_runs(mode: Mode) {
    for (device, words) in [
        ("/dev/m=nothing", &["/dev/m", "nothing", "mem"][..]),
        ("/dev/m=men", &["/dev/m", "did you mean \"mem\"?"]),
        ("/dev/m", &["/dev/m", "PATH=NAME"]),
        ("/dev/m=mem:length=4K", &["/dev/m", "\"length\"", "it has size"]),
        ("/dev/m=mem:size=0", &["/dev/m", "\"0\""]),
        ("/dev/m=mem:size=-1", &["/dev/m", "\"-1\""]),
        ("/dev/m=mem:size=99999999999999999999", &["/dev/m", "99999999999999999999"]),
        ("/dev/m=mem:size=8000000T", &["/dev/m"]),
        ("/dev/m=hello:size=1", &["/dev/m", "it has none"]),
        ("m=mem", &["\"m\"", "not absolute"]),
        ("dev/m=mem", &["not absolute", "/dev/dev/m"]),
        ("/dev/missing/m=mem", &["/dev/missing", "does not exist"]),
        ("/dev/shm=mem", &["/dev/shm", "is a directory"]),
        ("/dev/m/=mem", &["/dev/m/"]),
        ("=mem", &["\"\""]),
    ] {
        refused(mode, &["--device", device]).complains(words);
    }
    refused(mode, &["-d", "/dev/m=mem", "-d", "/dev/m=demo"]).complains(&["/dev/m", "twice"]);
    refused(mode, &["--trace-format", "xml"]).complains(&["xml", "json"]);
    refused(mode, &["--no-such-option"]).complains(&["--no-such-option"]);
}

fn a_program_that_cannot_run_is_told(mode: Mode) {
    let devices = &["/dev/m=mem"];
    // A directory in PATH that this user may not enter would be an answer of its own.
    let run = |program: &str| {
        Run::new(mode, devices).environment("PATH", "/usr/bin:/bin").output(&[program])
    };
    run("no-such-program").exited(127).complains(&["no-such-program", "not found"]);
    run("/etc/passwd/x").exited(127).complains(&["/etc/passwd/x"]);
    run("").exited(127);
    run("/etc").exited(126).complains(&["/etc"]);
    let directory = tempfile::tempdir().expect("a directory");
    let script = directory.path().join("script");
    fs::write(&script, "#!/no/such/interpreter\n").expect("write");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&script, mode).expect("chmod");
    let script = script.to_str().expect("UTF-8");
    run(script).exited(127).complains(&[script, "/no/such/interpreter"]);
}

fn runs_do_not_nest(mode: Mode) {
    let within = |program: &[&str], status| {
        let finished = Run::new(mode, &["/dev/h=hello"]).output(program).exited(status);
        finished.complains(&["answers this program's system calls", "do not nest", "outer one"])
    };
    let run = [DEVMAP, "run", "--device", "/dev/g=hello", "--", "echo", "it ran"];
    assert_eq!(within(&run, 125).stdout, "");
    within(&[DEVMAP, "demo"], 1);
}

fn statistics_count_what_was_served(mode: Mode) {
    let finished = Run::new(mode, &["/dev/m=mem", "/dev/hello=hello"])
        .options(&["--stats"])
        .python(
            "
fd = os.open('/dev/m', os.O_RDWR)
for i in range(3): mmap.mmap(fd, PAGE)
error_of(lambda: mmap.mmap(fd, 1 << 30))
os.read(os.open('/dev/hello', os.O_RDONLY), 100)
",
            &[],
        )
        .finish()
        .well();
    let row = |device: &str, call: &str| {
        let rows = finished.stderr.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let row = rows.into_iter().find(|row| row.starts_with(&[device, call]));
        row.map(|row| (row[2].to_owned(), row[3].to_owned()))
    };
    let counts = |calls: &str, errors: &str| Some((calls.to_owned(), errors.to_owned()));
    assert_eq!(row("/dev/m", "mmap"), counts("4", "1"), "{finished:?}");
    assert_eq!(row("/dev/m", "open"), counts("1", "0"));
    assert_eq!(row("/dev/hello", "read"), counts("1", "0"));
    assert_eq!(row("/dev/hello", "mmap"), None);
}

fn a_full_disk_stops_the_trace_and_nothing_else(mode: Mode) {
    let finished = Run::new(mode, &["/dev/hello=hello"])
        .options(&["--trace", "/dev/full"])
        .output(&["cat", "/dev/hello"])
        .well()
        .complains(&["/dev/full", "No space left"]);
    assert_eq!(finished.stdout, "Hello from a device in safe Rust.\n");
    assert_eq!(finished.stderr.matches("/dev/full").count(), 1, "{finished:?}");
}

fn a_trace_that_cannot_be_made_is_refused(mode: Mode) {
    for path in ["/no/such/directory/trace", "/", "/etc/passwd/trace", "/proc/1/trace"] {
        refused(mode, &["--trace", path]).complains(&["trace", path]);
    }
}

/// Even where that is a file that others write to: nothing is lost.
fn a_trace_goes_to_standard_error_too(mode: Mode) {
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join("log");
    fs::write(&log, "before\n").expect("write");
    let appending = fs::File::options().append(true).open(&log).expect("open");
    let mut command = Command::new(DEVMAP);
    command.args(["run", "--mode", mode.0, "--device", "/dev/hello=hello"]);
    command.args(["--trace", "/dev/stderr", "--", "sh", "-c", "cat /dev/hello; echo after >&2"]);
    let output = command.stderr(appending).output().expect("it starts");
    let log = fs::read_to_string(&log).expect("the log");
    assert!(output.status.success(), "{log}");
    assert!(log.starts_with("before\n") && log.contains("after\n"), "{log}");
    for call in ["open", "read", "release"] {
        assert!(log.contains(&format!("/dev/hello {call}(")), "{call}: {log}");
    }
}

fn the_trace_says_what_happened(mode: Mode) {
    let finished = Run::new(mode, &["/dev/m=mem:size=64K", "/dev/e=events"])
        .traced()
        .python(
            "
fd = os.open('/dev/m', os.O_RDONLY)
mmap.mmap(fd, 3 * PAGE - 1, prot=mmap.PROT_READ, offset=2 * PAGE)
error_of(lambda: mmap.mmap(fd, PAGE))
os.pread(fd, 10, 20)
fd = os.open('/dev/e', os.O_RDWR | os.O_NONBLOCK)
fcntl.ioctl(fd, 0x4507)
error_of(lambda: fcntl.ioctl(fd, 0x4577))
select.select([fd], [], [], 0)
say(os.getpid())
",
            &[],
        )
        .finish()
        .well();
    let pid: u64 = finished.stdout.trim().parse().expect("a number");
    let find = |call: &str, device: &str| {
        let events = finished.trace.iter();
        let event = events.filter(|event| event["call"] == call && event["device"] == device);
        event.collect::<Vec<_>>()
    };
    let maps = find("mmap", "/dev/m");
    assert_eq!(maps.len(), 2, "{finished:?}");
    assert_eq!(maps[0]["pages"], 3);
    assert_eq!(maps[0]["offset_pages"], 2);
    assert_eq!(maps[0]["mode"], "r--s");
    assert!(
        maps[0]["plan"].as_str().is_some_and(|plan| plan.starts_with("remap 0..3 from page 2"))
    );
    assert!(maps[0]["result"].as_u64().is_some_and(|address| address.is_multiple_of(4096)));
    assert_eq!(maps[0]["pid"], pid);
    assert_eq!(maps[1]["errno"], "EACCES");
    let reads = find("read", "/dev/m");
    assert_eq!((&reads[0]["offset"], &reads[0]["result"]), (&20.into(), &10.into()));
    let ioctls = find("ioctl", "/dev/e");
    assert_eq!(ioctls[0]["command"], "0x4507");
    assert_eq!(ioctls[0]["result"], 0);
    assert_eq!(ioctls[1]["errno"], "ENOTTY");
    assert_eq!(find("poll", "/dev/e")[0]["events"], "OUT|WRNORM");
    assert_eq!(find("write", "/dev/e").len(), 0);
    assert_eq!(finished.count("release"), 2);
    let times: Vec<f64> = finished.trace.iter().filter_map(|e| e["time"].as_f64()).collect();
    assert_eq!(times.len(), finished.trace.len());
    assert!(times.is_sorted());
}

fn both_forms_of_the_trace_say_the_same(mode: Mode) {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("trace");
    let path = file.to_str().expect("UTF-8");
    let devices = &["/dev/hello=hello"];
    Run::new(mode, devices).options(&["--trace", path]).output(&["cat", "/dev/hello"]).well();
    let text = fs::read_to_string(&file).expect("the trace");
    let calls: Vec<&str> = text
        .lines()
        .map(|line| line.split_once("/dev/hello ").expect("the device").1)
        .map(|line| line.split_once('(').expect("arguments").0)
        .collect();
    let json = Run::new(mode, devices).traced().output(&["cat", "/dev/hello"]).well();
    assert_eq!(calls, json.calls());
    assert!(text.contains("= 34\n") && text.contains("= 0\n"), "{text}");
}
