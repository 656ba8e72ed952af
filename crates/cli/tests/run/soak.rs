//! Twenty clients that map, fault, write, fork and are killed: afterwards devmap has as many
//! descriptors, threads and maps as before, and about as much memory.
//!
//! Here for a minute; `cargo xtask soak` for as long as wanted.

use std::{
    collections::BTreeMap,
    env, fs,
    io::ErrorKind,
    time::{Duration, Instant},
};

use crate::harness::{Client, DEADLINE, Mode, Run, Running, in_each_mode, wait_for};

in_each_mode!(devmap_returns_to_where_it_began);

/// Set to the seconds that it shall take.
const SECONDS: &str = "DEVMAP_SOAK_SECONDS";

/// Kilobytes that may be left: of the allocator's, and of the kernel's counts.
const SLACK: usize = 16 << 10;

/// The threads of each sort that may be left when there is nothing to do, whatever there was:
/// those of a pool that receive, two that it keeps for the next time, and one that was asked
/// for at the same moment as another; of all others one.
const IDLE: [(&str, usize); 4] = [
    ("devmap-fuse", 1 + 3),
    ("devmap-notify", 2 + 3),
    ("devmap-wakes", 2 + 3),
    ("devmap-closes", 2 + 3),
];

/// What a process has.
#[derive(Clone, Debug)]
struct Holds {
    /// `None` where an ordinary user may not look: in trapped mode devmap hides them.
    descriptors: Option<usize>,
    /// By name.
    threads: BTreeMap<String, usize>,
    /// In kilobytes: its own memory, and that of devices.
    memory: usize,
}

impl Holds {
    fn of(pid: i32) -> Holds {
        let count = |what| match fs::read_dir(format!("/proc/{pid}/{what}")) {
            Ok(entries) => Some(entries.count()),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
                assert!(!rustix::process::geteuid().is_root(), "{error}");
                None
            }
        };
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
        let field = |name| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect(name);
            line.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0)
        };
        let memory: usize = field("RssAnon:") + field("RssShmem:");
        let mut threads = BTreeMap::new();
        for task in fs::read_dir(format!("/proc/{pid}/task")).expect("all may look") {
            // One may end meanwhile.
            if let Ok(name) = fs::read_to_string(task.expect("an entry").path().join("comm")) {
                *threads.entry(name.trim_end().to_owned()).or_default() += 1;
            }
        }
        Holds { descriptors: count("fd"), threads, memory }
    }

    fn is_within(&self, before: &Holds) -> bool {
        let may_be_left = |(name, count): (&String, &usize)| {
            let pool = IDLE.iter().find(|(pool, _)| pool == name);
            *count <= pool.map_or(1, |(_, most)| *most)
        };
        self.descriptors <= before.descriptors
            && self.threads.iter().all(may_be_left)
            && self.memory <= before.memory + SLACK
    }
}

fn devmap_returns_to_where_it_began(mode: Mode) {
    let seconds: u64 = env::var(SECONDS).map_or(60, |text| text.parse().expect("a number"));
    let client = Client::compile_in("tests/faults", "soak");
    let script = "
def soak(seconds, seed):
    return subprocess.call([sys.argv[1], '/dev/mem0', '/dev/pattern', seconds, seed])
say(soak('2', '1'))
hear()
say(soak(sys.argv[2], '1000'))
hear()
";
    let mut running = Run::new(mode, &["/dev/mem0=mem:size=4M", "/dev/pattern=pattern:size=64M"])
        .python(script, &[&client.path(), &seconds.to_string()]);
    let supervisor = running.supervisor();
    let hear = |running: &mut Running| {
        loop {
            let line = running.hear_after(Duration::from_secs(seconds));
            assert!(!line.starts_with("FAIL"), "{line}");
            if line == "0" {
                break;
            }
        }
    };
    // What the first use makes, such as threads, stays.
    hear(&mut running);
    let mut before = Holds::of(supervisor);
    wait_for("a time in which nothing changes", || {
        std::thread::sleep(Duration::from_millis(200));
        let now = Holds::of(supervisor);
        let same = now.is_within(&before) && before.is_within(&now);
        before = now;
        same.then_some(())
    });
    running.say("go");
    hear(&mut running);
    let mut now = Holds::of(supervisor);
    let started = Instant::now();
    while !now.is_within(&before) {
        assert!(started.elapsed() < DEADLINE, "before {before:?}, now {now:?}");
        std::thread::sleep(Duration::from_millis(20));
        now = Holds::of(supervisor);
    }
    running.say("end");
    running.finish().well();
}
