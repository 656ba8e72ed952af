//! Regular files as devices: `file`, at any path, to unmodified programs. The oracle is a
//! plain file.

use std::{
    cell::OnceCell, collections::BTreeSet, fs, io::Write, os::unix::fs::PermissionsExt, path::Path,
    process::Command,
};

use rustix::process::geteuid;
use tempfile::TempDir;

use crate::harness::{
    Client, DEVMAP, Linking, Mode, Run, in_each_mode, kill, open_to_all, start, wait_for,
};

macro_rules! everywhere {
    ($($test:ident)+) => {
        in_each_mode!(
            $($test,)+
            a_store_that_fails_is_told_of_once,
            a_limit_of_file_sizes_ends_no_device,
        );
        in_each_mode!(@ docker "docker" [$($test)+]);
        in_each_mode!(@ nobody "nobody" [$($test)+]);
    };
}
everywhere!(
    the_same_lines_as_on_a_plain_file
    shell_tools_read_and_write
    python_maps_and_a_database_lives_in_it
    what_msync_promised_survives_a_kill
    a_killed_program_loses_no_store
    what_was_written_is_there_for_those_who_look
    dirty_pages_come_back_before_fsync
    a_file_cut_from_outside_ends_where_it_ends
    the_directory_stays_what_it_is
    read_only_is_read_only
    devices_stand_beside_files
    what_the_device_does_not_do
    many_open_files_and_copies
    programs_that_open_store_and_die_at_once_lose_nothing
    a_killed_supervisor_leaves_a_place_to_the_next
);
in_each_mode!(@ only_trapped "trapped" [
    a_file_that_grows_from_outside_has_what_came
    content_is_held_up_to_a_limit
    a_driver_that_blocks_in_its_store_keeps_nobody_from_other_files
    a_failure_that_nobody_has_heard_of
    a_refused_length_is_not_shown
    what_the_kernel_does_not_tell_of
    descriptors_outlive_a_killed_supervisor
]);

/// The mode of `devmap run` for one of these tests: within Docker's sandbox, and there as the
/// user 65534 if root runs the tests, it is chosen by devmap.
fn mode_of(mode: Mode) -> Mode {
    if is_in_docker(mode) { Mode("auto") } else { mode }
}

fn is_in_docker(mode: Mode) -> bool {
    ["docker", "nobody"].contains(&mode.0)
}

/// A directory with a file in it, which a device shows at `shown/x`.
struct Place(TempDir, OnceCell<Client>);

impl Place {
    fn new(content: &[u8]) -> Place {
        let place = Place(tempfile::tempdir().expect("a directory"), OnceCell::new());
        fs::write(place.file(), content).expect("the file");
        fs::create_dir(place.path("shown")).expect("a directory");
        for directory in ["", "shown"] {
            open_to_all(&place.0.path().join(directory));
        }
        fs::set_permissions(place.file(), fs::Permissions::from_mode(0o666)).expect("chmod");
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
        self.run_with(mode, &[&format!("{}=file:path={},access=rw", self.shown(), self.file())])
    }

    /// A run with other devices.
    fn run_with(&self, mode: Mode, devices: &[&str]) -> Run {
        let copy = self.path("devmap");
        if mode.0 == "nobody" && !Path::new(&copy).exists() {
            // The user may not reach where it was built.
            fs::hard_link(DEVMAP, &copy)
                .or_else(|_| fs::copy(DEVMAP, &copy).map(drop))
                .expect("a copy of devmap");
        }
        let devmap = if mode.0 == "nobody" { &copy } else { DEVMAP };
        let options = devices.iter().flat_map(|device| ["--device", device]);
        let options: Vec<_> = options.collect();
        let run = Run::of(Path::new(devmap), mode_of(mode)).options(&options);
        if !is_in_docker(mode) {
            return run;
        }
        let run = run.within(self.1.get_or_init(Client::docker));
        if mode.0 == "nobody" && geteuid().is_root() {
            let user = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--"];
            return run.by(&user);
        }
        run
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
    kill(running.program());
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

/// At once, with nothing synced or closed.
fn what_was_written_is_there_for_those_who_look(mode: Mode) {
    let place = Place::new(&[b'-'; 10_000]);
    let script = "
shown, file = sys.argv[1:]
fd = os.open(shown, os.O_RDWR)
copy = os.dup2(fd, 7)
content = bytearray(open(file, 'rb').read())
for number in range(300):
    at = number * 7919 % 30000
    if number % 10 == 9:
        os.ftruncate(copy, at)
        content[at:] = bytes(max(0, at - len(content)))
    else:
        word = b'%d' % number
        os.pwrite(copy if number % 3 == 0 else fd, word, at)
        content[len(content):] = bytes(max(0, at + len(word) - len(content)))
        content[at:at + len(word)] = word
    if open(file, 'rb').read() != content or os.stat(file).st_size != len(content): say(number)
say('end')
";
    let finished = place.run(mode).python(script, &[&place.shown(), &place.file()]).finish().well();
    assert_eq!(finished.stdout, "end\n", "{finished:?}");
}

fn dirty_pages_come_back_before_fsync(mode: Mode) {
    let place = Place::new(&[0; 64 * 4096]);
    let script = "
fd = os.open(sys.argv[1], os.O_RDWR)
area = mmap.mmap(fd, 0)
for page in 40, 3, 63, 7, 21, 0: area[page * PAGE] = page + 1
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

/// Whoever wrote has closed the file before the driver failed to store that.
fn a_failure_that_nobody_has_heard_of(mode: Mode) {
    let script = "
fd = os.open('/dev/bad', os.O_RDWR)
say(os.pwrite(fd, b'x', 0))
os.close(fd)
fd = os.open('/dev/bad', os.O_RDONLY)
say(*(error_of(call) for call in 2 * [lambda: os.fsync(fd)]))
";
    let finished = Run::bad_driver(mode, "store:ENOSPC").python(script, &[]).finish().well();
    assert_eq!(finished.stdout, "1\nENOSPC 0\n", "{finished:?}");
}

/// The limit of the program, and the harder one of all that `devmap run` starts.
fn a_limit_of_file_sizes_ends_no_device(mode: Mode) {
    let place = Place::new(&numbers());
    let script = "
import resource
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = sys.argv[1]
def result(call):
    try: return call()
    except OSError as error: return errno.errorcode[error.errno]
say(result(lambda: len(open(path).read())))
fd = os.open(path, os.O_RDWR)
say(result(lambda: os.pwrite(fd, b'x', 8000)), result(lambda: os.pwrite(fd, b'y', 100)))
say(result(lambda: os.ftruncate(fd, 30000)), os.fsync(fd), os.stat(path).st_size)
";
    let limit = |limit: &str| {
        let limit = format!("ulimit {limit}; exec \"$0\" \"$@\"");
        place.run(mode).by(&["sh", "-c", &limit]).python(script, &[&place.shown()]).finish()
    };
    assert_eq!(limit("-S -f 8").well().stdout, "23890\nEFBIG 1\nEFBIG None 23890\n");
    if mode.0 == "namespace" {
        assert_eq!(limit("-f 8").well().stdout, "23890\nEFBIG 1\nEFBIG None 23890\n");
    } else {
        // The content has to be in a memory file, which is a file too.
        let finished = limit("-f 8").exited(1);
        assert_eq!((&*finished.stdout, finished.stderr.contains("EFBIG")), ("EFBIG\n", false));
    }
    let content = place.content();
    assert_eq!((content.len(), content[100], content[8000]), (23890, b'y', numbers()[8000]));
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

fn a_file_that_grows_from_outside_has_what_came(mode: Mode) {
    let place = Place::new(b"first ");
    let script = "
path = sys.argv[1]
fd = os.open(path, os.O_RDWR)
area = mmap.mmap(fd, 6)
area[0:1] = b'F'
say('mapped')
hear()
say(os.fstat(fd).st_size, os.pread(fd, 100, 0), os.stat(path).st_size, len(open(path).read()))
";
    let mut running = place.run(mode).python(script, &[&place.shown()]);
    assert_eq!(running.hear(), "mapped");
    let mut file = fs::File::options().append(true).open(place.file()).expect("the file");
    file.write_all(b"second").expect("written");
    running.say("grown");
    assert_eq!(running.hear(), "12 b'First second' 12 12");
    running.finish().well();
    assert_eq!(place.content(), b"First second");
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
        let run = place.run_with(mode, &[&device]);
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
    let run = place.run_with(mode, &[&device]);
    let finished = run.python(script, &[&place.shown()]).finish().well();
    let expected = "EACCES EACCES\nEACCES 0o100444\nb'Content' b'content'\n";
    assert_eq!(finished.stdout, expected, "{finished:?}");
    assert_eq!(place.content(), b"content");
}

fn devices_stand_beside_files(mode: Mode) {
    let place = Place::new(b"content\n");
    let file = format!("/dev/content=file:{}", place.file());
    let run = place.run_with(mode, &["/dev/hello=hello", &file]);
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
    // What is not FUSE's to answer, the kernel's own memory file does.
    let fallocate = if mode.0 == "namespace" { "ENOTSUP" } else { "0" };
    let expected = "posix_fallocate 0
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
    let expected = format!("fallocate {fallocate}\n{expected}");
    assert_eq!(finished.stdout, expected, "{finished:?}");
    assert_eq!(place.content().len(), 100);
}

/// More than have a number below those of devices, and copies at any; in a child, by another
/// program, and to another process.
fn many_open_files_and_copies(mode: Mode) {
    let place = Place::new(&numbers());
    let script = "
import array, socket
path = sys.argv[1]
files = [os.open(path, os.O_RDWR) for _ in range(150)]
for number, fd in enumerate(files): os.pwrite(fd, b'%03d' % number, 1000 + 3 * number)
say(all(os.pread(fd, 3, 1000 + 3 * number) == b'%03d' % number for number, fd in enumerate(files)))
say({os.fstat(fd).st_ino for fd in files} == {os.stat(path).st_ino})
say(len({os.lseek(fd, number, 0) for number, fd in enumerate(files)}))
sent, received = socket.socketpair(socket.AF_UNIX)
socket.send_fds(sent, [b'.'], [files[3]])
other = socket.recv_fds(received, 1, 1)[1][0]
say(os.lseek(other, 0, 1), os.pread(other, 3, 1006), os.fstat(other).st_size)
low, high = os.dup(files[7]), fcntl.fcntl(files[7], fcntl.F_DUPFD, 970)
say(os.lseek(low, 0, 1), os.lseek(high, 5, 1), os.lseek(low, 0, 1), os.fstat(high).st_size)
os.set_inheritable(files[9], True)
script = f'exec 5<&{files[9]}; cat <&5 | tail -c 4; cat < {path} | wc -c; wc -c /proc/self/fd/5'
say(subprocess.run(['bash', '-c', script], close_fds=False, capture_output=True).stdout.split())
say(os.readlink(f'/proc/self/fd/{files[3]}') == path, os.stat(f'/proc/self/fd/{files[3]}').st_size)
again = os.open(f'/proc/self/fd/{files[3]}', os.O_RDONLY)
say(os.pread(again, 3, 1006), error_of(lambda: os.write(again, b'.')))
only = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
say(os.write(only, b'end'), fcntl.fcntl(only, fcntl.F_GETFL) & (os.O_ACCMODE | os.O_APPEND) == os.O_WRONLY | os.O_APPEND, error_of(lambda: os.read(only, 1)))
for fd in files: os.close(fd)
say(os.pread(low, 10, 23890))
def openat2(path, resolve):
    how = (ctypes.c_uint64 * 3)(os.O_RDONLY, 0, resolve)
    fd = libc.syscall(437, -100, path.encode(), how, 24)
    return errno.errorcode[ctypes.get_errno()] if fd < 0 else len(os.pread(fd, 10, 0))
os.chdir(os.path.dirname(path))
say(openat2(path, 0), openat2('x', 8), openat2(path, 4) in (10, 'ENOENT'))
os.close(0)
say(os.open(path, os.O_RDONLY), os.read(0, 3), os.fstat(0).st_nlink)
";
    let finished = place.run(mode).python(script, &[&place.shown()]).finish().well();
    let expected = "True
True
150
3 b'002' 23890
7 12 12 23890
[b'999', b'23890', b'23890', b'/proc/self/fd/5']
True 23890
b'002' EBADF
3 True EBADF
b'end'
10 10 True
0 b'0\\n1' 1
";
    assert_eq!(finished.stdout, expected, "{finished:?}");
    assert!(place.content().ends_with(b"4999\nend"));
}

/// Each thread of each stores in pages of its own, so that the last close, and the next open
/// after it, come at any moment.
fn programs_that_open_store_and_die_at_once_lose_nothing(mode: Mode) {
    const PAGES: usize = 16;
    let place = Place::new(&[0; PAGES * 4096]);
    let script = "
import random, threading
shown, file = sys.argv[1:]
PAGES = 16
expected = mmap.mmap(-1, PAGES * PAGE)
def store(random, first, count):
    for _ in range(count):
        fd = os.open(shown, os.O_RDWR)
        at = first * PAGE + random.randrange(2 * PAGE - 8)
        word = random.randbytes(8)
        if random.randrange(2):
            area = mmap.mmap(fd, 0)
            os.close(fd)
            area[at:at + 8] = word
            if random.randrange(2): area.flush()
            area.close()
        else:
            os.pwrite(fd, word, at)
            os.close(fd)
        expected[at:at + 8] = word
        if random.randrange(3): os.close(os.open(shown, os.O_RDONLY))
for round in range(12):
    children = []
    for child in range(4):
        pid = os.fork()
        if pid == 0:
            make = lambda thread: random.Random(round * 100 + child * 10 + thread)
            threads = [threading.Thread(target=store, args=(make(thread), child * 4 + thread * 2, 6)) for thread in range(2)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
            # With a store that nothing is said of, and all of it open.
            fd = os.open(shown, os.O_RDWR)
            area = mmap.mmap(fd, 0)
            expected[child * 4 * PAGE] = area[child * 4 * PAGE] = round + 1
            os.kill(os.getpid(), 9)
        children.append(pid)
    for pid in children: os.waitpid(pid, 0)
    if open(file, 'rb').read() != expected[:] or open(shown, 'rb').read() != expected[:]: say('lost in', round)
say('end')
";
    let arguments = [&*place.shown(), &*place.file()];
    let finished = place.run(mode).python(script, &arguments).finish().well();
    assert_eq!(finished.stdout, "end\n", "{finished:?}");
    assert_eq!(place.content().len(), PAGES * 4096);
}

fn content_is_held_up_to_a_limit(mode: Mode) {
    let place = Place::new(b"");
    let file = fs::File::options().write(true).open(place.file()).expect("the file");
    file.set_len((256 << 20) + 1).expect("ftruncate");
    let script = "
path, file = sys.argv[1:]
for _ in range(2): say(error_of(lambda: os.open(path, os.O_RDONLY)), os.stat(path).st_size)
os.truncate(file, 256 << 20)
fd = os.open(path, os.O_RDWR)
say(os.pwrite(fd, b'past', 300 << 20), os.fstat(fd).st_size, os.fsync(fd))
";
    let finished = place.run(mode).python(script, &[&place.shown(), &place.file()]).finish().well();
    let expected = "ENOMEM 268435457\nENOMEM 268435457\n4 314572804 None\n";
    assert_eq!(finished.stdout, expected, "{finished:?}");
    let lines: Vec<_> = finished.stderr.lines().collect();
    assert_eq!(lines.len(), 1, "{finished:?}");
    for word in [&place.shown(), "ENOMEM", "268435456"] {
        assert!(lines[0].contains(word), "{finished:?}");
    }
    assert_eq!(fs::metadata(place.file()).expect("the file").len(), (300 << 20) + 4);
}

fn a_driver_that_blocks_in_its_store_keeps_nobody_from_other_files(mode: Mode) {
    let place = Place::new(b"content");
    let device = format!("{}=file:path={},access=rw", place.shown(), place.file());
    let script = "
fd = os.open('/dev/bad', os.O_RDWR)
os.pwrite(fd, b'x', 0)
hear()
for _ in range(20): say(open('/etc/passwd').read() != '', open(sys.argv[1]).read())
say(os.pread(fd, 2, 0))
";
    let run = Run::bad_driver(mode, "store:block").options(&["--device", &device]);
    let mut running = run.python(script, &[&place.shown()]);
    running.hear_error("blocked in write_back");
    let supervisor = running.supervisor();
    running.say("go on");
    let finished = running.finish().well();
    assert_eq!(finished.stdout, "True content\n".repeat(20) + "b'x\\x00'\n", "{finished:?}");
    wait_for("the supervisor's end", || crate::harness::is_gone(supervisor).then_some(()));
}

fn what_the_kernel_does_not_tell_of(mode: Mode) {
    let place = Place::new(&[b'-'; 3 * 4096]);
    let script = "
shown, file = sys.argv[1:]
fd = os.open(shown, os.O_RDWR)
low = os.dup(fd)
def stored(at): return os.pread(os.open(file, os.O_RDONLY), 1, at)
area = map_raw(fd, 3)
at = ctypes.addressof(area)
area[0], area[PAGE] = b'+', b'-'
say(libc.munmap(at, PAGE), stored(0), libc.munmap(at + PAGE, 2 * PAGE), stored(0))
say(os.fsync(fd), stored(0))
say(os.fstat(low).st_nlink, os.fstat(fd).st_nlink, low)
say(error_of(lambda: fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)))
os.truncate(file, 100)
say(os.fstat(low).st_size, os.stat(shown).st_size, os.fstat(low).st_size)
";
    let run = place.run(mode).traced();
    let finished = run.python(script, &[&place.shown(), &place.file()]).finish().well();
    let expected = "0 b'-' 0 b'-'\nNone b'+'\n0 1 3\nEAGAIN\n12288 100 100\n";
    assert_eq!(finished.stdout, expected, "{finished:?}");
    assert_eq!(finished.count("write_back"), 1, "{finished:?}");
}

fn descriptors_outlive_a_killed_supervisor(mode: Mode) {
    let place = Place::new(b"content");
    let script = "
fd = os.open(sys.argv[1], os.O_RDWR)
area = mmap.mmap(fd, 0)
os.pwrite(fd, b'C', 0)
os.fsync(fd)
say('up')
hear()
say(area[:], os.pwrite(fd, b'lost', 0), os.pread(fd, 9, 0), area[:], error_of(lambda: os.fsync(fd)))
";
    let mut running = place.run(mode).python(script, &[&place.shown()]);
    assert_eq!(running.hear(), "up");
    kill(running.supervisor());
    running.say("go on");
    assert_eq!(running.hear(), "b'Content' 4 b'lostent' b'lostent' ENOSYS");
    drop(running.finish());
    assert_eq!(place.content(), b"Content");
}

/// A driver without `truncate`.
fn a_refused_length_is_not_shown(mode: Mode) {
    let script = "
fd = os.open('/dev/bad', os.O_RDWR)
for size in 4 * PAGE + 100, 100:
    say(error_of(lambda: (os.ftruncate(fd, size), os.fsync(fd))), os.fstat(fd).st_size // PAGE)
say(os.pread(fd, 2, 2 * PAGE), error_of(lambda: os.truncate('/dev/bad', 5)), os.stat('/dev/bad').st_size // PAGE)
";
    let finished = Run::bad_driver(mode, "store:none").python(script, &[]).finish().well();
    let expected = "EINVAL 4\nEINVAL 4\nb'\\x02\\x02' EINVAL 4\n";
    assert_eq!(finished.stdout, expected, "{finished:?}");
}

fn a_killed_supervisor_leaves_a_place_to_the_next(mode: Mode) {
    let place = Place::new(b"content");
    let mut running = place.run(mode).python("say('up'); hear()", &[]);
    assert_eq!(running.hear(), "up");
    kill(running.supervisor());
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

/// What was made to mount on goes, however far the start came.
#[test]
fn a_start_that_fails_leaves_no_place() {
    let place = Place::new(b"content");
    let few = ["sh", "-c", "ulimit -n 100; exec \"$@\"", "sh"];
    let run = place.run(Mode("trapped")).by(&few);
    run.output(&["true"]).exited(125).complains(&["limit of open files", "128"]);
    assert!(!Path::new(&place.shown()).exists());
}
