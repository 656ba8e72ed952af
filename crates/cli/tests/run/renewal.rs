//! Joiners of one daemon that hold pages, or look at the length, of what another one changes:
//! what each sees, and when. COMPAT.md says why.
//!
//! What does not live here: pages that are a driver's own, which all share (`supplied`).

use crate::harness::{Daemon, Mode, Run, Running};

/// Does as it is told, by expressions, with the device that it has open and mapped.
const LOOKS: &str = "
path = sys.argv[1]
def begin():
    global fd, area
    fd = os.open(path, os.O_RDWR)
    area = mmap.mmap(fd, 2 * PAGE)
def end():
    area.close()
    os.close(fd)
def read_anew():
    with open(path, 'rb', 0) as file: return os.pread(file.fileno(), 8, PAGE)
def child(what):
    pid = os.fork()
    if pid == 0:
        what()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
begin()
say(area[PAGE:PAGE + 4])
while line := hear(): say(eval(line))
";

/// Has a joiner evaluate an expression.
#[track_caller]
fn says(joiner: &mut Running, expression: &str, expected: &str) {
    joiner.say(expression);
    assert_eq!(joiner.hear(), expected, "{expression}");
}

fn joiner(mode: &'static str, daemon: &Daemon, path: &str, begins: &str) -> Running {
    let mut joiner = Run::joining(Mode(mode), daemon).python(LOOKS, &[path]);
    assert_eq!(joiner.hear(), begins);
    joiner
}

/// A regular file: what is cached stays until nobody of the run has the file open; its length
/// is true at each `stat`, which drops what lies beyond.
#[test]
fn a_file_is_renewed_when_it_is_opened_anew() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("file");
    std::fs::write(&file, [b'.'; 8192]).expect("written");
    let path = format!("{}/shown", directory.path().display());
    let device = format!("{path}=file:path={},access=rw", file.display());
    let daemon = Daemon::start(&[&device], &[]);
    let [mut one, mut two] = [(), ()].map(|()| joiner("namespace", &daemon, &path, "b'....'"));
    // By a write, and by a store that is given back.
    says(&mut one, "os.pwrite(fd, b'ping', PAGE)", "4");
    says(&mut one, "area[PAGE:PAGE + 4]", "b'ping'");
    says(&mut one, "area.__setitem__(slice(PAGE + 4, PAGE + 8), b'pong')", "None");
    says(&mut one, "area.flush()", "None");
    assert_eq!(std::fs::read(&file).expect("the file")[4096..4104], *b"pingpong");
    // Who holds the page has it as it was: mapped, read, and opened once more.
    says(&mut two, "area[PAGE:PAGE + 8]", "b'........'");
    says(&mut two, "os.pread(fd, 8, PAGE)", "b'........'");
    says(&mut two, "read_anew()", "b'........'");
    // By its path, without an open file.
    says(&mut one, "os.truncate(path, PAGE)", "None");
    says(&mut two, "os.fstat(fd).st_size == PAGE", "True");
    says(&mut two, "os.pread(fd, 8, PAGE)", "b''");
    says(&mut two, "child(lambda: area[PAGE]) == -signal.SIGBUS", "True");
    says(&mut one, "os.pwrite(fd, b'longer', 2 * PAGE)", "6");
    says(&mut two, "os.fstat(fd).st_size == 2 * PAGE + 6", "True");
    says(&mut two, "area[PAGE:PAGE + 4]", r"b'\x00\x00\x00\x00'");
    says(&mut one, "os.pwrite(fd, b'again', PAGE)", "5");
    says(&mut two, "area[PAGE:PAGE + 4]", r"b'\x00\x00\x00\x00'");
    says(&mut two, "end(), begin()", "(None, None)");
    says(&mut two, "area[PAGE:PAGE + 5]", "b'again'");
    for joiner in [one, two] {
        joiner.finish().well();
    }
    daemon.stop().well();
}

/// Pages that are supplied when they are mapped are each joiner's own.
#[test]
fn pages_that_are_supplied_beforehand_are_each_joiners_own() {
    let daemon = Daemon::start(&["/dev/p=pattern"], &[]);
    let begins = r"b'\x00\x10\x00\x00'";
    let mut one = joiner("trapped", &daemon, "/dev/p", begins);
    says(&mut one, "area.__setitem__(slice(PAGE, PAGE + 4), b'ping')", "None");
    says(&mut one, "error_of(area.flush)", "0");
    let mut two = joiner("trapped", &daemon, "/dev/p", begins);
    says(&mut two, "area[PAGE:PAGE + 4]", begins);
    says(&mut one, "area[PAGE:PAGE + 4]", "b'ping'");
    for joiner in [one, two] {
        joiner.finish().well();
    }
    daemon.stop().well();
}
