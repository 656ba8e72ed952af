//! Joiners of one daemon that hold pages, or look at the length, of what another one changes:
//! what each sees, and when. COMPAT.md says why.
//!
//! What does not live here: pages that are a driver's own, which all share (`supplied`).

use std::path::Path;

use crate::{
    harness::{Daemon, Mode, Run, Running, bad_driver, is_gone, is_stuck, kill, wait_for},
    supervisor::all_below,
};

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

/// A regular file: what is cached stays until the other one syncs the file, or this run opens it
/// anew; then all of the run have what is there. Its length is true at each `stat`, which drops
/// what lies beyond.
#[test]
fn a_file_is_renewed_by_fsync_and_open() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("file");
    std::fs::write(&file, [b'.'; 8192]).expect("written");
    let path = format!("{}/shown", directory.path().display());
    let device = format!("{path}=file:path={},access=rw", file.display());
    let daemon = Daemon::start(&[&device], &[]);
    let [mut one, mut two] = [(), ()].map(|()| joiner("namespace", &daemon, &path, "b'....'"));
    // Who holds the page has it as it was, mapped and read, until the file is opened once more.
    says(&mut one, "os.pwrite(fd, b'ping', PAGE)", "4");
    says(&mut one, "area[PAGE:PAGE + 4]", "b'ping'");
    assert_eq!(std::fs::read(&file).expect("the file")[4096..4100], *b"ping");
    says(&mut two, "area[PAGE:PAGE + 4]", "b'....'");
    says(&mut two, "os.pread(fd, 4, PAGE)", "b'....'");
    says(&mut two, "area.__setitem__(slice(0, 4), b'mine')", "None");
    says(&mut two, "read_anew()", "b'ping....'");
    says(&mut two, "area[PAGE:PAGE + 4]", "b'ping'");
    says(&mut two, "os.pread(fd, 4, PAGE)", "b'ping'");
    // What it had stored itself was given back before.
    says(&mut two, "area[0:4]", "b'mine'");
    assert_eq!(std::fs::read(&file).expect("the file")[..4], *b"mine");
    // At each open from then on.
    says(&mut one, "os.pwrite(fd, b'PING', PAGE)", "4");
    says(&mut two, "read_anew()", "b'PING....'");
    says(&mut two, "area[PAGE:PAGE + 4]", "b'PING'");
    // By a store that is given back, and by a write that is synced.
    for round in 0..20 {
        let word = format!("b'{round:04}'");
        let (from, to) = if round % 2 == 0 { (&mut one, &mut two) } else { (&mut two, &mut one) };
        says(from, &format!("area.__setitem__(slice(PAGE + 4, PAGE + 8), {word})"), "None");
        says(from, "area.flush()", "None");
        says(to, "area[PAGE + 4:PAGE + 8]", &word);
        says(to, "os.pread(fd, 4, PAGE + 4)", &word);
        says(to, &format!("os.pwrite(fd, {word}, PAGE)"), "4");
        says(to, "os.fsync(fd)", "None");
        says(from, "os.pread(fd, 4, PAGE)", &word);
        says(from, "area[PAGE:PAGE + 4]", &word);
    }
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

/// Filled pages: what one stores, and `msync` gives back, all others have when that returns,
/// also in pages that they had touched.
#[test]
fn filled_pages_are_renewed_by_msync() {
    let daemon = Daemon::start(&["/dev/p=pattern"], &[]);
    let begins = r"b'\x00\x10\x00\x00'";
    let [mut one, mut two, mut three] =
        [(), (), ()].map(|()| joiner("namespace", &daemon, "/dev/p", begins));
    // A device without fsync says EINVAL when the pages have gone back.
    let stores = |joiner: &mut Running, at: &str, word: &str| {
        says(joiner, &format!("area.__setitem__(slice({at}, {at} + 4), b'{word}')"), "None");
    };
    let gives_back = |joiner: &mut Running| says(joiner, "error_of(area.flush)", "EINVAL");
    // Stored by another and not given back, to another page: it stays.
    stores(&mut two, "0", "mine");
    stores(&mut one, "PAGE", "ping");
    says(&mut two, "area[PAGE:PAGE + 4]", begins);
    gives_back(&mut one);
    for joiner in [&mut one, &mut two, &mut three] {
        says(joiner, "area[PAGE:PAGE + 4]", "b'ping'");
    }
    says(&mut two, "area[0:4]", "b'mine'");
    // Also in a map that is older than its descriptor's end, and in a child.
    says(&mut three, "os.close(fd)", "None");
    for round in 0..20 {
        let word = format!("{round:04}");
        let expected = format!("b'{word}'");
        let (from, to) = if round % 2 == 0 { (&mut one, &mut two) } else { (&mut two, &mut one) };
        stores(from, "PAGE", &word);
        gives_back(from);
        says(to, "area[PAGE:PAGE + 4]", &expected);
        says(to, "child(lambda: os._exit(area[PAGE + 3]))", &format!("{}", word.as_bytes()[3]));
        says(&mut three, "area[PAGE:PAGE + 4]", &expected);
    }
    // One who has ended is not waited for; nor is one needed that has what it stored.
    three.finish().well();
    stores(&mut two, "PAGE", "last");
    gives_back(&mut two);
    says(&mut one, "area[PAGE:PAGE + 4]", "b'last'");
    for joiner in [one, two] {
        joiner.finish().well();
    }
    daemon.stop().well();
}

/// Without `msync`: what comes back when one unmaps and closes, or ends, others have soon.
#[test]
fn filled_pages_are_renewed_by_close() {
    let daemon = Daemon::start(&["/dev/p=pattern"], &[]);
    let begins = r"b'\x00\x10\x00\x00'";
    let [mut one, mut two] = [(), ()].map(|()| joiner("namespace", &daemon, "/dev/p", begins));
    let stores = |joiner: &mut Running, word: &str| {
        says(joiner, &format!("area.__setitem__(slice(PAGE, PAGE + 4), b'{word}')"), "None");
    };
    let sees = |joiner: &mut Running, word: &str| {
        wait_for("what another one has stored", || {
            joiner.say("area[PAGE:PAGE + 4]");
            (joiner.hear() == format!("b'{word}'")).then_some(())
        });
    };
    stores(&mut one, "ping");
    says(&mut one, "end()", "None");
    sees(&mut two, "ping");
    says(&mut one, "begin()", "None");
    stores(&mut two, "pong");
    two.finish().well();
    sees(&mut one, "pong");
    one.finish().well();
    daemon.stop().well();
}

/// Stores and syncs its own page all the time, and looks at those of the others.
const BUSY: &str = "
path, me, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
fd = os.open(path, os.O_RDWR)
area = mmap.mmap(fd, count * PAGE)
def get(page): return int.from_bytes(area[page * PAGE:page * PAGE + 4], 'little')
def put(number):
    area[me * PAGE:me * PAGE + 4] = number.to_bytes(4, 'little')
    if number % 3 == 0: error_of(area.flush)
put(0)
say('begins')
hear()
seen = [0] * count
for number in range(1, 151):
    put(number)
    now = [get(page) for page in range(count)]
    assert now[me] == number and all(map(int.__le__, seen, now)), (me, number, seen, now)
    seen = now
say('done')
hear()
say([get(page) for page in range(count)])
";

/// Nobody loses what it has stored, sees an older page after a newer one, or waits for ever.
#[test]
fn all_store_and_sync_at_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("file");
    std::fs::write(&file, [0; 3 * 4096]).expect("written");
    let shown = format!("{}/shown", directory.path().display());
    let device = format!("{shown}=file:path={},access=rw", file.display());
    let daemon = Daemon::start(&["/dev/p=pattern", &device], &[]);
    for path in ["/dev/p", &shown] {
        let mut joiners = ["0", "1", "2"]
            .map(|me| Run::joining(Mode("namespace"), &daemon).python(BUSY, &[path, me, "3"]));
        for (answer, then) in [("begins", "go on"), ("done", "look")] {
            joiners.iter_mut().for_each(|joiner| assert_eq!(joiner.hear(), answer));
            joiners.iter_mut().for_each(|joiner| joiner.say(then));
        }
        for mut joiner in joiners {
            assert_eq!(joiner.hear(), "[150, 150, 150]");
            joiner.finish().well();
        }
    }
    daemon.stop().well();
}

/// A kernel that forgets pages waits for those that are being asked for. A joiner that is killed
/// then ends, with all its threads and processes, and nobody waits for it any more.
#[test]
fn a_joiner_that_is_killed_while_it_forgets_pages() {
    let mut daemon = Daemon::start_by(bad_driver("block:second-fault"), "--serve");
    // One page at a time.
    let script = LOOKS.replace("begin()\nsay(area[PAGE:PAGE + 4])", "begin()\nsay(one_by_one())");
    let script = format!(
        "def one_by_one():\n    area.madvise(mmap.MADV_RANDOM)\n    return area[0]\n{script}"
    );
    let [mut one, mut two] = [(), ()].map(|()| {
        let mut joiner = Run::joining(Mode("namespace"), &daemon).python(&script, &["/dev/bad"]);
        assert_eq!(joiner.hear(), "0");
        joiner
    });
    let supervisor = two.supervisor();
    let below = all_below(&two);
    two.say("area[PAGE]");
    daemon.hear_error("blocked in second-fault");
    says(&mut one, "area.__setitem__(0, 7)", "None");
    one.say("error_of(area.flush)");
    wait_for("the thread that forgets pages", || {
        thread(supervisor, "devmap-apart").filter(|tid| is_stuck(*tid))
    });
    kill(supervisor);
    for pid in [supervisor].into_iter().chain(below.iter().copied()) {
        wait_for("the end of all", || is_gone(pid).then_some(()));
    }
    assert_eq!(one.hear(), "0");
    two.finish();
    one.finish().well();
    daemon.kill();
}

/// A process's thread of this name.
fn thread(pid: i32, name: &str) -> Option<i32> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
    let is_it = |path: &Path| {
        std::fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name)
    };
    let found = threads.map(|entry| entry.path()).find(|path| is_it(path))?;
    found.file_name()?.to_str()?.parse().ok()
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
