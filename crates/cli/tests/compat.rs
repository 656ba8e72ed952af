//! COMPAT.md is whole and true to its form: every system call that takes a descriptor or
//! a path has a row, rows name calls that exist, and what differs names a test that does.
//!
//! The system calls are those of the machine's headers. Which of them take neither
//! descriptor nor path is said here, so that a call which Linux adds is asked about.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Calls that take neither a descriptor nor a path.
const NEITHER: &str = "
    adjtimex alarm arch_prctl brk cachestat capget capset clock_adjtime clock_getres clock_gettime
    clock_nanosleep clock_settime clone clone3 epoll_create epoll_create1 eventfd eventfd2 exit
    exit_group fork futex futex_requeue futex_wait futex_waitv futex_wake get_mempolicy
    get_robust_list get_thread_area getcpu getegid geteuid getgid getgroups getitimer getpgid getpgrp
    getpid getppid getpriority getrandom getresgid getresuid getrlimit getrusage getsid gettid
    gettimeofday getuid init_module inotify_init inotify_init1 io_cancel io_destroy io_getevents
    io_pgetevents ioperm iopl ioprio_get ioprio_set kexec_load keyctl kill landlock_create_ruleset
    listmount lsm_get_self_attr lsm_list_modules lsm_set_self_attr map_shadow_stack membarrier
    memfd_create memfd_secret migrate_pages mlockall modify_ldt mq_open mq_unlink mseal msgctl msgget
    msgrcv msgsnd munlockall nanosleep pause personality pidfd_open pipe pipe2 pkey_alloc pkey_free
    prctl prlimit64 process_vm_readv process_vm_writev ptrace reboot request_key restart_syscall rseq
    rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
    rt_sigtimedwait rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min
    sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval
    sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp semctl
    semget semop semtimedop set_mempolicy set_mempolicy_home_node set_robust_list set_thread_area
    set_tid_address setdomainname setfsgid setfsuid setgid setgroups sethostname setitimer setpgid
    setpriority setregid setresgid setresuid setreuid setrlimit setsid settimeofday setuid shmat
    shmctl shmdt shmget sigaltstack socket socketpair statmount sync sysfs sysinfo syslog tgkill time
    add_key fanotify_init timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create times tkill
    umask uname unshare uretprobe userfaultfd ustat vfork vhangup wait4 waitid delete_module
";

/// Calls that have a number and no code: every kernel answers `ENOSYS`.
const WITHOUT_CODE: &str = "
    _sysctl afs_syscall create_module epoll_ctl_old epoll_wait_old get_kernel_syms getpmsg
    lookup_dcookie nfsservctl putpmsg query_module security tuxcall vserver
";

/// The sections whose rows are of other things than calls.
const NO_CALLS: [&str; 5] = [
    "Beside system calls",
    "Devices of a daemon",
    "Regular files in trapped mode",
    "The simulated home",
    "The local home",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The names of this machine's system calls, from its headers.
fn system_calls() -> BTreeSet<String> {
    let output = Command::new("cc")
        .args(["-E", "-dM", "-include", "asm/unistd.h", "-x", "c", "/dev/null"])
        .output()
        .expect("cc");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    let names = text.lines().filter_map(|line| line.strip_prefix("#define __NR_"));
    names.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

struct Row {
    section: String,
    state: String,
    what: String,
    test: String,
}

/// The rows of the tables whose rows name tests, by their first cell.
fn rows() -> BTreeMap<String, Row> {
    let text = fs::read_to_string(root().join("COMPAT.md")).expect("COMPAT.md");
    let mut rows = BTreeMap::new();
    let mut section = String::new();
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            section = heading.to_owned();
        }
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let ["", call, state, what, test, ""] = cells[..] else { continue };
        if call == "call" || call == "what" || call.starts_with("---") {
            continue;
        }
        let unquoted = |text: &str| text.trim_matches('`').to_owned();
        let row = Row {
            section: section.clone(),
            state: state.to_owned(),
            what: what.to_owned(),
            test: unquoted(test),
        };
        let twice = rows.insert(unquoted(call), row).is_some();
        assert!(!twice, "COMPAT.md has two rows for {call}");
    }
    rows
}

#[test]
fn every_system_call_is_accounted_for() {
    let rows = rows();
    let said: BTreeSet<&str> =
        NEITHER.split_whitespace().chain(WITHOUT_CODE.split_whitespace()).collect();
    let calls = system_calls();
    assert!(calls.len() > 250, "{calls:?}");
    let missing: Vec<&String> = calls
        .iter()
        .filter(|call| !rows.contains_key(*call) && !said.contains(call.as_str()))
        .collect();
    assert!(missing.is_empty(), "COMPAT.md has no row for {missing:?}");
    let both: Vec<&&str> = said.iter().filter(|call| rows.contains_key(**call)).collect();
    assert!(both.is_empty(), "has a row, and takes neither descriptor nor path: {both:?}");
}

#[test]
fn every_row_is_of_a_call_that_exists() {
    let calls = system_calls();
    // What newer kernels have and these headers may not.
    let newer = ["fchmodat2", "process_mrelease", "quotactl_fd", "mount_setattr", "epoll_pwait2"];
    for (call, row) in rows() {
        let is_call = !NO_CALLS.contains(&row.section.as_str());
        let known = calls.contains(&call) || newer.contains(&call.as_str());
        assert!(!is_call || known || !cfg!(target_arch = "x86_64"), "there is no call {call}");
    }
}

#[test]
fn every_state_is_of_the_legend_and_explained() {
    for (call, row) in rows() {
        let states = ["same", "served", "differs", "refused"];
        assert!(states.contains(&row.state.as_str()), "{call}: {:?} is no state", row.state);
        let explains = ["differs", "refused"].contains(&row.state.as_str());
        assert!(!explains || !row.what.is_empty(), "{call} differs, and nothing says how");
        assert!(!explains || !row.test.is_empty(), "{call} differs, and no test is named");
    }
}

#[test]
fn every_test_that_is_named_exists() {
    let files = tests();
    let programs = ["tests/conformance", "tests/hostile"].map(|name| root().join(name));
    for (call, row) in rows() {
        for name in row.test.split(", ").filter(|name| !name.is_empty()) {
            let name = name.trim_matches('`');
            // FILE.c LINE, or the name of a test in Rust.
            let exists = match name.split_once(' ') {
                Some((file, line)) => programs.iter().any(|programs| {
                    fs::read_to_string(programs.join(file))
                        .is_ok_and(|text| text.contains(&format!("\"{line}\"")))
                }),
                None => files.contains(&format!("fn {name}(")),
            };
            assert!(exists, "{call}: there is no test {name}");
        }
    }
}

/// The text of all tests of this package and of the homes.
fn tests() -> String {
    let directories = [
        "crates/cli/tests",
        "crates/cli/tests/run",
        "crates/backend-local/tests/local",
        "crates/backend-sim/tests/kernel",
        "crates/backend-supervised/tests",
        "crates/backend-supervised/src",
        "crates/backend-supervised/src/service",
        "crates/backend-supervised/src/service/tests",
    ];
    let files = directories.iter().flat_map(|name| fs::read_dir(root().join(name)).expect("tests"));
    let sources = files.map(|entry| entry.expect("an entry").path());
    let sources = sources.filter(|path| path.extension().is_some_and(|kind| kind == "rs"));
    sources.map(|path| fs::read_to_string(path).expect("a source")).collect()
}
