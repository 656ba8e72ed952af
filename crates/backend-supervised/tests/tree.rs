//! The process tree of `devmap run`, without devices: how it starts, stops,
//! passes on signals and ends, under pipes and under a terminal with job control,
//! and what is left when one of its processes is killed.
//!
//! Needs bash, coreutils and setsid(1) from util-linux; no privileges. The tree is
//! this program once more (`tree/bare.rs`): it must have one thread, so a test
//! harness cannot be in it.

#![forbid(unsafe_code)]

#[path = "tree/bare.rs"]
mod bare;
#[path = "tree/world.rs"]
mod world;

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Trial};
use rustix::process::Signal;

use world::{
    Running, Terminal, Tree, children, is_asleep, is_gone, is_reaped, is_stopped, name, parent,
    send, this_program, wait_for, wait_until,
};

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    if let Some(mode) = args.next().filter(|mode| bare::MODES.iter().any(|known| mode == known)) {
        std::process::exit(bare::main(mode.to_str().expect("a mode"), args));
    }
    // Whoever runs the tests may ignore or block signals, and the tested
    // programs would inherit it.
    let ignored = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGTSTP];
    devmap_sys::process::set_default(&ignored).expect("sigaction");
    nix::sys::signal::SigSet::empty().thread_set_mask().expect("sigprocmask");
    let tests: &[(&str, fn())] = &[
        ("exit_statuses", exit_statuses),
        ("failures_before_the_program", failures_before_the_program),
        ("programs_that_cannot_be_executed", programs_that_cannot_be_executed),
        ("death_by_a_signal", death_by_a_signal),
        ("the_program_inherits_what_it_would_alone", the_program_inherits_what_it_would_alone),
        ("signals_are_handed_on_once", signals_are_handed_on_once),
        ("an_inherited_alarm_reaches_the_program", an_inherited_alarm_reaches_the_program),
        ("a_signal_while_preparing", a_signal_while_preparing),
        ("nothing_is_left", nothing_is_left),
        ("orphans_go_on", orphans_go_on),
        ("a_failing_supervisor", a_failing_supervisor),
        ("the_supervisor_is_killed", the_supervisor_is_killed),
        ("the_launcher_is_killed", the_launcher_is_killed),
        ("the_front_is_killed", the_front_is_killed),
        ("the_front_is_killed_before_orphans_end", the_front_is_killed_before_orphans_end),
        ("stop_and_continue_from_outside", stop_and_continue_from_outside),
        ("killed_while_stopped", killed_while_stopped),
        ("terminal_interrupt", terminal_interrupt),
        ("terminal_interrupt_is_seen_once", terminal_interrupt_is_seen_once),
        ("terminal_interrupt_when_the_program_left", terminal_interrupt_when_the_program_left),
        ("terminal_stop_and_fg", terminal_stop_and_fg),
        ("terminal_stop_and_bg", terminal_stop_and_bg),
        ("terminal_shell_in_the_tree", terminal_shell_in_the_tree),
        ("terminal_hangup", terminal_hangup),
    ];
    let trial = |&(name, test): &(&'static str, fn())| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    };
    libtest_mimic::run(&Arguments::from_args(), tests.iter().map(trial).collect()).exit_code()
}

/// Runs `script` in the tree: exit status or signal, and standard error.
fn sh(mode: &str, script: &str) -> (Result<i32, i32>, String) {
    run(mode, &["sh", "-c", script])
}

fn run(mode: &str, program: &[&str]) -> (Result<i32, i32>, String) {
    let (status, errors) = Running::start(mode, program).end();
    (status.code().ok_or_else(|| status.signal().expect("signal")), errors)
}

fn exit_statuses() {
    for status in [0, 3, 125, 255] {
        assert_eq!(sh(bare::PLAIN, &format!("exit {status}")), (Ok(status), String::new()));
    }
}

fn failures_before_the_program() {
    let said = |message: &str| (Ok(125), format!("devmap: {message}\n"));
    assert_eq!(run(bare::FAIL_PREPARE, &["true"]), said("prepare failed"));
    assert_eq!(run(bare::FAIL_ENTER, &["true"]), said("enter failed"));
    let (status, errors) = run(bare::PANIC_ENTER, &["true"]);
    assert_eq!(status, Ok(125));
    assert!(errors.contains("enter panicked"), "{errors}");
    // One copy of the role is dropped, whatever happens in the others.
    for mode in [bare::PLAIN, bare::FAIL_PREPARE, bare::FAIL_ENTER, bare::PANIC_ENTER] {
        let mut command = Command::new(this_program());
        command.args([mode, "true"]).env("SAY_DROPPED", "1");
        let (_, errors) = Running::spawn(&mut command).end();
        assert_eq!(errors.matches("dropped").count(), 1, "{mode}: {errors}");
    }
}

fn programs_that_cannot_be_executed() {
    let dir = tempfile::tempdir().expect("tempdir");
    let write = |name: &str, text: &str, mode: u32| {
        use std::os::unix::fs::PermissionsExt;
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("write");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("chmod");
        path.to_str().expect("UTF-8").to_owned()
    };
    let plain = write("plain", "", 0o644);
    let script = write("script", "#! /no/such/interpreter -x\n", 0o755);
    let below = format!("{plain}/program");
    let absent = format!("{plain}.absent");
    for (program, status, reason) in [
        (&*plain, 126, "Permission denied"),
        ("/", 126, "Permission denied"),
        (&script, 127, "its interpreter /no/such/interpreter does not exist"),
        (&below, 127, "Not a directory"),
        (&absent, 127, "not found"),
        ("no-such-program-anywhere", 127, "not found"),
        ("", 127, "not found"),
    ] {
        let said = format!("devmap: cannot execute {program}: {reason}\n");
        // Directories that may not be searched would give another reason.
        let mut command = Command::new(this_program());
        command.args([bare::PLAIN, program]).env("PATH", "/usr/bin:/bin");
        let (ended, errors) = Running::spawn(&mut command).end();
        assert_eq!((ended.code(), errors), (Some(status), said));
    }
}

fn death_by_a_signal() {
    for signal in [libc::SIGTERM, libc::SIGSEGV, libc::SIGKILL, libc::SIGINT, libc::SIGPIPE, 40] {
        let killed = run(bare::PLAIN, &["bash", "-c", &format!("kill -{signal} $$")]);
        assert_eq!(killed, (Err(signal), String::new()));
    }
}

fn the_program_inherits_what_it_would_alone() {
    let look = "grep -E '^(Sig|Shd)(Blk|Ign|Pnd)' /proc/self/status
        for fd in /proc/$$/fd/*; do echo ${fd##*/} $(readlink $fd); done
        ulimit -c; umask; echo $(ps -o pgid=,sid=,tty= $$)";
    let dir = tempfile::tempdir().expect("tempdir");
    let script = dir.path().join("look");
    std::fs::write(&script, look).expect("write");
    let script = script.to_str().expect("UTF-8");
    // As the shell would start it, with ignored signals and open descriptors.
    for before in ["", "trap '' INT HUP PIPE CHLD;", "exec 7</dev/null 8>/dev/full;"] {
        let outputs = [String::new(), format!("{} {}", this_program().display(), bare::PLAIN)]
            .map(|tree| {
                let command = format!("{before} exec {tree} bash --norc {script} 2>&1");
                let output = Command::new("bash").args(["-c", &command]).output().expect("bash");
                String::from_utf8(output.stdout).expect("UTF-8")
            })
            // Pipes differ in number only.
            .map(|output| {
                let words = output.split_inclusive(char::is_whitespace);
                words
                    .map(|w| if w.starts_with("pipe:[") { "pipe\n" } else { w })
                    .collect::<String>()
            });
        assert!(outputs[0].contains("SigIgn"), "{outputs:?}");
        assert_eq!(outputs[0], outputs[1], "{before}");
    }
}

fn signals_are_handed_on_once() {
    let script = "trap 'echo HUP' HUP; trap 'echo INT' INT; trap 'echo QUIT' QUIT
        trap 'echo USR1' USR1; trap 'echo USR2' USR2; trap 'echo WINCH' WINCH
        trap 'kill $!; exit 7' TERM
        sleep 1000 & echo ready; while :; do wait; done";
    let mut running = Running::start(bare::PLAIN, &["bash", "-c", script]);
    assert_eq!(running.line(), "ready");
    let program = running.tree("bash").program;
    for (signal, text) in [
        (Signal::HUP, "HUP"),
        (Signal::INT, "INT"),
        (Signal::USR1, "USR1"),
        (Signal::QUIT, "QUIT"),
        (Signal::USR2, "USR2"),
        (Signal::WINCH, "WINCH"),
    ] {
        // Else the shell may wait first and run the trap much later.
        wait_until("it waits", || is_asleep(program));
        send(running.pid(), signal);
        assert_eq!(running.line(), text);
    }
    wait_until("it waits", || is_asleep(program));
    send(running.pid(), Signal::TERM);
    let (status, errors) = running.end();
    assert_eq!((status.code(), errors), (Some(7), String::new()));
    assert_eq!(running.line(), "", "each came once");
    // Without a handler it dies of it, and so does the front.
    let mut running = Running::start(bare::PLAIN, &["cat"]);
    running.tree("cat");
    send(running.pid(), Signal::TERM);
    assert_eq!(running.end().0.signal(), Some(libc::SIGTERM));
    // A program that signals its whole group gets one.
    let script = "trap 'echo USR1' USR1; kill -USR1 0; echo end; read x";
    let mut command = Command::new("setsid");
    command.arg(this_program()).args([bare::PLAIN, "bash", "-c", script]);
    let mut running = Running::spawn(&mut command);
    assert_eq!((running.line(), running.line()), ("USR1".into(), "end".into()));
    running.close_input();
    running.end();
    assert_eq!(running.line(), "");
}

fn an_inherited_alarm_reaches_the_program() {
    assert_eq!(run(bare::ALARM, &["sleep", "1000"]), (Err(libc::SIGALRM), String::new()));
}

fn a_signal_while_preparing() {
    let mut command = Command::new("bash");
    command.args(["-c", "exec 2>&1 \"$@\"", "bash"]).arg(this_program());
    let mut running = Running::spawn(command.args([bare::HANG_PREPARE, "true"]));
    assert_eq!(running.line(), "preparing");
    let supervisor = children(running.pid())[0];
    send(running.pid(), Signal::TERM);
    assert_eq!(running.end().0.signal(), Some(libc::SIGTERM));
    assert!(is_reaped(supervisor));
    assert_eq!(running.line(), "");
    // A mishap of the supervisor is none of the program's.
    let mut command = Command::new("bash");
    command.args(["-c", "exec 2>&1 \"$@\"", "bash"]).arg(this_program());
    let mut running = Running::spawn(command.args([bare::HANG_PREPARE, "true"]));
    assert_eq!(running.line(), "preparing");
    send(children(running.pid())[0], Signal::KILL);
    assert_eq!(running.end().0.code(), Some(125));
    assert_eq!(running.line(), "devmap: the supervisor died before it started true");
}

fn nothing_is_left() {
    let mut running = Running::start(bare::PLAIN, &["cat"]);
    let tree = running.tree("cat");
    assert_eq!(name(tree.supervisor), "devmap-serve");
    assert_eq!(name(tree.launcher), "devmap-launch");
    running.close_input();
    assert_eq!(running.end().0.code(), Some(0));
    assert!(is_reaped(tree.supervisor) && is_reaped(tree.launcher) && is_reaped(tree.program));
}

fn orphans_go_on() {
    // 5 is a copy of standard output which the supervisor must not keep.
    let script = "exec 5>&1; exec \"$0\" --bare sh -c '
        sleep 1000 </dev/null >/dev/null 2>&1 5>&- &
        echo $! $PPID; exit 4'";
    let mut command = Command::new("bash");
    let mut running = Running::spawn(command.args(["-c", script]).arg(this_program()));
    let line = running.line();
    let (orphan, launcher) = line.split_once(' ').expect("two pids");
    let (orphan, launcher) = (orphan.parse().expect("pid"), launcher.parse().expect("pid"));
    let supervisor = parent(launcher);
    // This reads to the end of its standard error.
    assert_eq!(running.end().0.code(), Some(4));
    assert_eq!(running.line(), "", "the end of its standard output");
    assert_eq!(parent(orphan), launcher, "the launcher is the subreaper");
    assert!(!is_gone(supervisor), "it serves the orphan");
    send(orphan, Signal::KILL);
    wait_until("the orphan is reaped", || is_reaped(orphan));
    wait_until("launcher and supervisor end", || is_gone(launcher) && is_gone(supervisor));
}

fn a_failing_supervisor() {
    let mut running = Running::start(bare::FAIL_SUPERVISE, &["sh", "-c", "read x; exit 3"]);
    running.close_input();
    let (status, errors) = running.end();
    // It said why, and nobody adds to it.
    assert_eq!((status.code(), &*errors), (Some(3), "devmap: supervise failed\n"));
}

fn the_supervisor_is_killed() {
    let mut running = Running::start(bare::PLAIN, &["bash", "-c", "read x; exit 9"]);
    let tree = running.tree("bash");
    send(tree.supervisor, Signal::KILL);
    wait_until("the front reaps it", || is_reaped(tree.supervisor));
    // The rest works as before.
    send(tree.program, Signal::STOP);
    wait_until("the front stops", || is_stopped(tree.front));
    send(tree.front, Signal::CONT);
    wait_until("the program continues", || !is_stopped(tree.program));
    running.close_input();
    let (status, errors) = running.end();
    let said = "devmap: the supervisor died; bash goes on without its devices\n";
    assert_eq!((status.code(), &*errors), (Some(9), said));
    wait_until("the launcher ends", || is_gone(tree.launcher));
}

fn the_launcher_is_killed() {
    let mut running = Running::start(bare::PLAIN, &["cat"]);
    let tree = running.tree("cat");
    send(tree.launcher, Signal::KILL);
    let (status, errors) = running.end();
    let said = "devmap: the launcher died; cat has been killed\n";
    assert_eq!((status.code(), &*errors), (Some(125), said));
    wait_until("all end", || is_gone(tree.program) && is_gone(tree.supervisor));
}

fn the_front_is_killed() {
    let mut running = Running::start(bare::PLAIN, &["cat"]);
    let tree = running.tree("cat");
    send(tree.front, Signal::KILL);
    assert_eq!(running.end().0.signal(), Some(libc::SIGKILL));
    assert_eq!(running.line(), "", "nobody holds its output");
    wait_until("all end", || {
        [tree.program, tree.launcher, tree.supervisor].into_iter().all(is_gone)
    });
    // Also when it is stopped.
    let mut running = Running::start(bare::PLAIN, &["cat"]);
    let tree = running.tree("cat");
    send(tree.program, Signal::STOP);
    wait_until("the front stops", || is_stopped(tree.front));
    send(tree.front, Signal::KILL);
    running.end();
    wait_until("all end", || is_gone(tree.program) && is_gone(tree.supervisor));
}

fn the_front_is_killed_before_orphans_end() {
    let script = "sleep 1000 </dev/null >/dev/null 2>&1 & echo $!; read x";
    let mut running = Running::start(bare::PLAIN, &["sh", "-c", script]);
    let orphan = running.line().parse().expect("pid");
    let launcher = parent(parent(orphan));
    let supervisor = parent(launcher);
    send(running.pid(), Signal::KILL);
    running.end();
    wait_until("the orphan is adopted", || parent(orphan) == launcher);
    assert!(!is_gone(supervisor));
    send(orphan, Signal::KILL);
    wait_until("all end", || is_gone(launcher) && is_gone(supervisor));
}

fn stop_and_continue_from_outside() {
    // In a group of its own, whose leader's parent, this process, is in another
    // group of the same session. The tests' own group may be orphaned (of setsid,
    // of a container, of a background job whose shell has ended), and a process
    // of an orphaned group does not stop by SIGTSTP.
    let mut command = Command::new(this_program());
    let mut running = Running::spawn(command.args([bare::PLAIN, "cat"]).process_group(0));
    let tree = running.tree("cat");
    for round in 0..20 {
        // By the program or by the front, in both directions.
        let (stop, resume) = match round % 4 {
            0 => ((tree.program, Signal::STOP), tree.program),
            1 => ((tree.program, Signal::STOP), tree.front),
            2 => ((tree.front, Signal::TSTP), tree.program),
            _ => ((tree.front, Signal::TSTP), tree.front),
        };
        send(stop.0, stop.1);
        wait_until("both stop", || is_stopped(tree.program) && is_stopped(tree.front));
        assert!(!is_stopped(tree.supervisor) && !is_stopped(tree.launcher));
        send(resume, Signal::CONT);
        wait_until("both continue", || !is_stopped(tree.program) && !is_stopped(tree.front));
    }
    running.close_input();
    assert_eq!(running.end().0.code(), Some(0));
}

fn killed_while_stopped() {
    let mut running = Running::start(bare::PLAIN, &["cat"]);
    let tree = running.tree("cat");
    send(tree.program, Signal::STOP);
    wait_until("the front stops", || is_stopped(tree.front));
    send(tree.program, Signal::KILL);
    assert_eq!(running.end().0.signal(), Some(libc::SIGKILL));
}

/// The tree that the shell of this terminal has just started.
#[track_caller]
fn job(terminal: &Terminal, executed: &str) -> Tree {
    let only = wait_for("the job", || match children(terminal.shell())[..] {
        [one] => Some(one),
        _ => None,
    });
    Tree::of(only, executed)
}

const CTRL_C: &[u8] = b"\x03";
const CTRL_D: &[u8] = b"\x04";
const CTRL_Z: &[u8] = b"\x1a";

fn terminal_interrupt() {
    let mut terminal = Terminal::open();
    terminal.line("$TREE cat");
    let tree = job(&terminal, "cat");
    terminal.keys(CTRL_C);
    // Not before: what is typed now may be read by cat, on its way out.
    terminal.expect("$ ");
    terminal.expect_status(128 + libc::SIGINT);
    assert!(is_reaped(tree.supervisor) && is_reaped(tree.launcher));
}

fn terminal_interrupt_is_seen_once() {
    let mut terminal = Terminal::open();
    terminal.line("$TREE bash -c 'trap \"echo caught\" INT; echo go; read x; echo x=$x; exit 5'");
    terminal.expect("go");
    let program = job(&terminal, "bash").program;
    // Else the shell may read first and run the trap much later.
    wait_until("it reads", || is_asleep(program));
    terminal.keys(CTRL_C);
    terminal.expect("caught");
    terminal.line("hello");
    let between = terminal.expect("x=hello");
    assert!(!between.contains("caught"), "{between:?}");
    terminal.expect_status(5);
}

fn terminal_interrupt_when_the_program_left() {
    let mut terminal = Terminal::open();
    terminal.line("$TREE setsid sleep 1000");
    job(&terminal, "sleep");
    terminal.keys(CTRL_C);
    terminal.expect("$ ");
    terminal.expect_status(128 + libc::SIGINT);
}

fn terminal_stop_and_fg() {
    let mut terminal = Terminal::open();
    terminal.line("$TREE cat");
    let tree = job(&terminal, "cat");
    for round in 0..5 {
        terminal.keys(CTRL_Z);
        terminal.expect("Stopped");
        assert!(is_stopped(tree.front) && is_stopped(tree.program));
        assert!(!is_stopped(tree.supervisor) && !is_stopped(tree.launcher));
        terminal.line("fg");
        wait_until("both continue", || !is_stopped(tree.program) && !is_stopped(tree.front));
        terminal.line(&format!("round {round}"));
        terminal.expect(&format!("round {round}"));
    }
    terminal.keys(CTRL_D);
    terminal.expect_status(0);
}

fn terminal_stop_and_bg() {
    let mut terminal = Terminal::open();
    terminal.line("$TREE bash -c 'echo go; read x; exit 6'");
    terminal.expect("go");
    let tree = job(&terminal, "bash");
    terminal.keys(CTRL_Z);
    terminal.expect("Stopped");
    // In the background it reads from the terminal, and stops again.
    terminal.line("bg");
    wait_until("the shell says that it stopped again", || {
        terminal.line("jobs; echo list''ed");
        terminal.expect("listed").contains("Stopped")
    });
    assert!(is_stopped(tree.front) && is_stopped(tree.program));
    terminal.line("fg");
    wait_until("both continue", || !is_stopped(tree.program) && !is_stopped(tree.front));
    terminal.line("x");
    terminal.expect_status(6);
}

fn terminal_shell_in_the_tree() {
    let mut terminal = Terminal::open();
    terminal.line("PS1='inner> ' $TREE bash --noediting --norc --noprofile -i");
    terminal.expect("inner> ");
    let tree = job(&terminal, "bash");
    terminal.line("cat");
    let inner = wait_for("cat", || match children(tree.program)[..] {
        [one] => (name(one) == "cat").then_some(one),
        _ => None,
    });
    terminal.keys(CTRL_Z);
    terminal.expect("Stopped");
    terminal.expect("inner> ");
    assert!(is_stopped(inner) && !is_stopped(tree.program) && !is_stopped(tree.front));
    terminal.line("fg");
    wait_until("it continues", || !is_stopped(inner));
    terminal.line("hello");
    // fg says "cat", cat says "hello".
    terminal.expect("hello");
    terminal.keys(CTRL_C);
    terminal.expect("inner> ");
    terminal.expect_status(128 + libc::SIGINT);
    terminal.line("exit 8");
    terminal.expect_status(8);
}

fn terminal_hangup() {
    let mut terminal = Terminal::open();
    terminal.line("$TREE cat");
    let tree = job(&terminal, "cat");
    drop(terminal);
    wait_until("all end", || {
        [tree.front, tree.program, tree.launcher, tree.supervisor].into_iter().all(is_gone)
    });
}
