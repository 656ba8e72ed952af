//! Regular files as devices: `file`, at any path, to unmodified programs. The oracle is a
//! plain file.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use tempfile::TempDir;

use crate::harness::{Client, Linking, Mode, Run, in_each_mode, start};

// Trapped mode refuses regular files.
in_each_mode!(@ namespace "namespace" [
    the_same_lines_as_on_a_plain_file
    shell_tools_read_and_write
    python_maps_and_a_database_lives_in_it
    what_msync_promised_survives_a_kill
    a_killed_program_loses_no_store
    dirty_pages_come_back_before_fsync
    a_store_that_fails_is_told_of_once
    a_file_cut_from_outside_ends_where_it_ends
    the_directory_stays_what_it_is
    read_only_is_read_only
    devices_stand_beside_files
    what_the_device_does_not_do
    a_killed_supervisor_leaves_a_place_to_the_next
]);

/// A directory with a file in it, which a device shows at `shown/x`.
struct Place(TempDir);

impl Place {
    fn new(content: &[u8]) -> Place {
        let place = Place(tempfile::tempdir().expect("a directory"));
        fs::write(place.file(), content).expect("the file");
        fs::create_dir(place.path("shown")).expect("a directory");
        place
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().expect("UTF-8").to_owned()
    }

    fn file(&self) -> String {
        self.path("content")
    }

    fn shown(&self) -> String {
        self.path("shown/x")
    }

    fn content(&self) -> Vec<u8> {
        fs::read(self.file()).expect("the file")
    }

    fn run(&self, mode: Mode) -> Run {
        Run::new(mode, &[&format!("{}=file:path={},access=rw", self.shown(), self.file())])
    }

    /// Runs a script in this directory; what it prints.
    fn shell(&self, mode: Mode, script: &str) -> String {
        let script = format!("cd {}; {script}", self.0.path().display());
        self.run(mode).prints(&["sh", "-ec", &script])
    }
}

fn numbers() -> Vec<u8> {
    (0..5000).flat_map(|number| format!("{number}\n").into_bytes()).collect()
}

fn the_same_lines_as_on_a_plain_file(mode: Mode) {
    for linking in [Linking::Dynamic, Linking::Static] {
        let client = Client::compile("file", linking);
        let plain = Place::new(b"");
        let mut command = Command::new(client.path());
        command.arg(plain.file());
        let natively = start(command).finish().well().stdout;
        assert!(natively.ends_with("ok all\n"), "{natively}");
        let place = Place::new(b"");
        let here = place.run(mode).prints(&[&client.path(), &place.shown()]);
        assert_eq!(here, natively, "{linking:?}");
        assert_eq!(place.content(), plain.content(), "{linking:?}");
    }
}

fn shell_tools_read_and_write(mode: Mode) {
    let place = Place::new(&numbers());
    let text = place.shell(
        mode,
        "stat -c '%F %s' shown/x; wc -l < shown/x; grep -c 99 shown/x; tail -n 1 shown/x
        cp shown/x copy; cmp copy content; cmp shown/x content
        sed -n 4000p < shown/x; sort -n shown/x | tail -n 1; od -An -c -N 2 shown/x
        cat shown/x shown/x | wc -c; dd if=shown/x bs=1000 skip=3 count=1 status=none | md5sum
        echo more >> shown/x; tail -n 1 content; printf 'X' | dd of=shown/x conv=notrunc status=none
        head -n 1 content; truncate -s 10 shown/x; stat -c %s content; echo new > shown/x; cat content",
    );
    let expected = "regular file 23890
5000
95
4999
3999
4999
   0  \\n
47780
19dcefec76234b6bff2c3cb4870f71c8  -
more
X
10
new
";
    assert_eq!(text, expected);
}

fn python_maps_and_a_database_lives_in_it(mode: Mode) {
    let place = Place::new(&numbers());
    let script = "
path = sys.argv[1]
with open(path, 'r+b') as file, mmap.mmap(file.fileno(), 0) as area:
    say(len(area), area[:4], area.find(b'4999'))
    area[0:1] = b'#'
    area.flush()
    file.seek(0)
    say(file.read(3))
    area.resize(len(area) + PAGE)
    say(len(area), os.stat(path).st_size)
    area[-1:] = b'.'
os.truncate(path, 0)
import sqlite3
for journal in 'delete', 'wal':
    base = sqlite3.connect(path)
    say(base.execute('pragma journal_mode=' + journal).fetchone()[0])
    base.execute('pragma mmap_size=1048576')
    with base:
        base.execute('create table if not exists t(n integer primary key, s text)')
        base.executemany('insert or replace into t values (?, ?)', [(n, str(n) * 9) for n in range(3000)])
    say(base.execute('select count(*), sum(n) from t').fetchone(), *base.execute('pragma integrity_check').fetchone())
    base.close()
";
    let finished = place.run(mode).python(script, &[&place.shown()]).finish().well();
    let expected = "23890 b'0\\n1\\n' 23885\nb'#\\n1'\n27986 27986\ndelete\n(3000, 4498500) ok\nwal\n(3000, 4498500) ok\n";
    assert_eq!(finished.stdout, expected, "{finished:?}");
    // What the program left is a database to anybody.
    assert!(place.content().starts_with(b"SQLite format 3\0"));
}

/// A map of two pages to store in; then the end by SIGKILL.
const STORE: &str = "
fd = os.open(sys.argv[1], os.O_RDWR)
area = mmap.mmap(fd, 0)
area[0:8] = b'promised'
";

fn what_msync_promised_survives_a_kill(mode: Mode) {
    let place = Place::new(&[b'-'; 10_000]);
    let script = STORE.to_owned() + "area.flush()\nsay('synced')\nhear()";
    let mut running = place.run(mode).python(&script, &[&place.shown()]);
    assert_eq!(running.hear(), "synced");
    // It is there though the program lives on and nothing is closed.
    assert_eq!(&place.content()[..9], b"promised-");
    crate::harness::kill(running.program());
    running.finish().killed(9);
    assert_eq!(&place.content()[..9], b"promised-");
}

fn a_killed_program_loses_no_store(mode: Mode) {
    let place = Place::new(&[b'-'; 10_000]);
    let script = STORE.to_owned() + "area[9990:10000] = b'unpromised'\nos.kill(os.getpid(), 9)";
    place.run(mode).python(&script, &[&place.shown()]).finish().killed(9);
    let content = place.content();
    assert_eq!((&content[..9], &content[9989..]), (&b"promised-"[..], &b"-unpromised"[..]));
}

fn dirty_pages_come_back_before_fsync(mode: Mode) {
    let place = Place::new(&[0; 64 * 4096]);
    let script = "
fd = os.open(sys.argv[1], os.O_RDWR)
area = mmap.mmap(fd, 0)
for page in 40, 3, 63, 7, 21, 0: area[page * PAGE] = page
area.flush()
area[5 * PAGE] = 1
";
    let run = place.run(mode).traced();
    let finished = run.python(script, &[&place.shown()]).finish().well();
    // In which order and how often the kernel's flusher comes in between is its own affair.
    let synced = finished.calls().iter().position(|call| *call == "fsync").expect("fsync");
    let pages = |events: &[serde_json::Value]| -> BTreeSet<u64> {
        let events = events.iter().filter(|event| event["call"] == "write_back");
        events.map(|event| event["offset"].as_u64().expect("bytes") / 4096).collect()
    };
    let (before, after) = finished.trace.split_at(synced);
    assert_eq!(pages(before), BTreeSet::from([0, 3, 7, 21, 40, 63]), "{finished:?}");
    assert_eq!(pages(after), BTreeSet::from([5]), "{finished:?}");
    assert_eq!(finished.count("fsync"), 1, "{finished:?}");
}

fn a_store_that_fails_is_told_of_once(mode: Mode) {
    let script = "
first, second = (os.open('/dev/bad', os.O_RDWR) for _ in range(2))
area = mmap.mmap(first, PAGE)
area[0] = 1
say(*(error_of(call) for call in 2 * [area.flush]))
say(*(error_of(call) for call in 2 * [lambda: os.fsync(second)]))
say(*(error_of(call) for call in 2 * [lambda: os.fsync(first)]))
";
    for errno in ["EIO", "ENOSPC"] {
        let run = Run::bad_driver(mode, &format!("store:{errno}"));
        let finished = run.python(script, &[]).finish().well();
        assert_eq!(finished.stdout, format!("{errno} 0\n{errno} 0\n0 0\n"), "{finished:?}");
    }
}

fn a_file_cut_from_outside_ends_where_it_ends(mode: Mode) {
    let place = Place::new(&[b'-'; 3 * 4096]);
    let script = "
fd = os.open(sys.argv[1], os.O_RDWR)
area = mmap.mmap(fd, 0)
area[0] = 43
say('mapped')
hear()
say(os.fstat(fd).st_size)
child = os.fork()
if not child: area[2 * PAGE]
say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGBUS)
area.flush()
";
    let mut running = place.run(mode).python(script, &[&place.shown()]);
    assert_eq!(running.hear(), "mapped");
    let file = fs::File::options().write(true).open(place.file()).expect("the file");
    file.set_len(100).expect("ftruncate");
    running.say("cut");
    assert_eq!((running.hear(), running.hear()), ("100".to_owned(), "True".to_owned()));
    running.finish().well();
    let content = place.content();
    assert_eq!((content.len(), content[0]), (100, b'+'), "stores make no file longer");
}

fn the_directory_stays_what_it_is(mode: Mode) {
    let place = Place::new(b"content");
    fs::write(place.path("shown/beside"), "beside").expect("a file");
    let text = place.shell(
        mode,
        "ls shown; cat shown/beside; echo; echo made > shown/made; mv shown/made shown/moved
        cat shown/moved; cat shown/x; echo",
    );
    assert_eq!(text, "beside\nx\nbeside\nmade\ncontent\n");
    let left = || {
        let entries = fs::read_dir(place.path("shown")).expect("the directory");
        let mut names: Vec<_> = entries.map(|entry| entry.expect("an entry").file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(left(), ["beside", "moved"], "what was made to mount on is gone");
    // A file that is there is covered, and comes back; so is what a link leads to.
    for path in ["shown/beside", "link"] {
        let _ = std::os::unix::fs::symlink(place.path("shown/beside"), place.path("link"));
        let device = format!("{}=file:{}", place.path(path), place.file());
        let run = Run::new(mode, &[&device]);
        assert_eq!(run.prints(&["cat", &place.path("shown/beside")]), "content\n", "{path}");
        assert_eq!(fs::read(place.path("shown/beside")).expect("the file"), b"beside");
    }
    // Two at once: the one that ends does not take the place of the other away.
    let mut one = place.run(mode).python(
        "say(open(sys.argv[1]).read()); hear(); say(open(sys.argv[1]).read())",
        &[&place.shown()],
    );
    assert_eq!(one.hear(), "content");
    assert_eq!(place.run(mode).prints(&["cat", &place.shown()]), "content\n");
    one.say("go on");
    assert_eq!(one.hear(), "content");
    one.finish().well();
    assert_eq!(left(), ["beside", "moved"]);
}

fn read_only_is_read_only(mode: Mode) {
    let place = Place::new(b"content");
    let device = format!("{}=file:{}", place.shown(), place.file());
    let script = "
path = sys.argv[1]
say(error_of(lambda: os.open(path, os.O_RDWR)), error_of(lambda: os.truncate(path, 0)))
fd = os.open(path, os.O_RDONLY)
say(error_of(lambda: mmap.mmap(fd, 0)), oct(os.fstat(fd).st_mode))
area = mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE, prot=3)
area[0] = 67
say(area[:], os.pread(fd, 100, 0))
";
    let run = Run::new(mode, &[&device]);
    let finished = run.python(script, &[&place.shown()]).finish().well();
    let expected = "EACCES EACCES\nEACCES 0o100444\nb'Content' b'content'\n";
    assert_eq!(finished.stdout, expected, "{finished:?}");
    assert_eq!(place.content(), b"content");
}

fn devices_stand_beside_files(mode: Mode) {
    let place = Place::new(b"content\n");
    let file = format!("/dev/content=file:{}", place.file());
    let run = Run::new(mode, &["/dev/hello=hello", &file]);
    let text = run.prints(&["sh", "-ec", "cat /dev/hello /dev/content; stat -c %F /dev/content"]);
    assert_eq!(text, "Hello from a device in safe Rust.\ncontent\nregular file\n");
}

fn what_the_device_does_not_do(mode: Mode) {
    let place = Place::new(b"content");
    let script = "
path = sys.argv[1]
fd = os.open(path, os.O_RDWR)
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
say('fallocate', errno.errorcode[ctypes.get_errno()] if libc.fallocate(fd, 0, 0, 100) else 0)
other = os.open(path + '-other', os.O_RDWR | os.O_CREAT)
for name, call in dict(
    posix_fallocate=lambda: os.posix_fallocate(fd, 0, 100),
    chmod=lambda: os.chmod(path, 0o600),
    chown=lambda: os.chown(path, os.getuid(), os.getgid()),
    utime=lambda: os.utime(path),
    rename=lambda: os.rename(path, path + '-moved'),
    replace=lambda: os.rename(path + '-other', path),
    unlink=lambda: os.unlink(path),
    link=lambda: os.link(path, path + '-linked'),
    copy_file_range=lambda: os.copy_file_range(fd, other, 5),
    sendfile=lambda: os.sendfile(other, fd, 0, 5),
    setxattr=lambda: os.setxattr(path, 'user.name', b'value'),
).items(): say(name, error_of(call))
";
    let finished = place.run(mode).python(script, &[&place.shown()]).finish().well();
    let expected = "fallocate ENOTSUP
posix_fallocate 0
chmod EPERM
chown EPERM
utime EPERM
rename EBUSY
replace EBUSY
unlink EBUSY
link EXDEV
copy_file_range EXDEV
sendfile 0
setxattr ENOTSUP
";
    assert_eq!(finished.stdout, expected, "{finished:?}");
    assert_eq!(place.content().len(), 100);
}

fn a_killed_supervisor_leaves_a_place_to_the_next(mode: Mode) {
    let place = Place::new(b"content");
    let mut running = place.run(mode).python("say('up'); hear()", &[]);
    assert_eq!(running.hear(), "up");
    crate::harness::kill(running.supervisor());
    running.say("go on");
    drop(running.finish());
    assert_eq!(fs::read(place.shown()).expect("what was made to mount on"), b"");
    assert_eq!(place.run(mode).prints(&["cat", &place.shown()]), "content\n");
    assert!(!Path::new(&place.shown()).exists());
}

#[test]
fn what_is_no_file_is_refused_beforehand() {
    let place = Place::new(b"content");
    for (device, words) in [
        (format!("{}=file:/no/such/file", place.shown()), "a regular file that is there"),
        (format!("{}=file:/dev", place.shown()), "a regular file that is there"),
        (format!("{}=file", place.shown()), "needs \"path\""),
        (format!("{}/no/x=file:{}", place.path("shown"), place.file()), "does not exist"),
    ] {
        let run = Run::new(Mode("auto"), &[&device]);
        run.output(&["true"]).exited(125).complains(&[words]);
    }
    assert!(!Path::new(&place.shown()).exists());
}

#[test]
fn trapped_mode_refuses_a_regular_file() {
    let place = Place::new(b"content");
    let run = place.run(Mode("trapped"));
    run.output(&["true"]).exited(125).complains(&["a regular file needs namespace mode"]);
}
