//! Shell tools, Python and Rust on devices.

use crate::harness::{Client, DEVMAP, Mode, PRELUDE, Run, in_each_mode, python};

in_each_mode!(
    shell_tools_read,
    shell_tools_show_a_character_device,
    sysfs_names_the_device,
    other_devices_stay,
    other_nodes_are_what_they_were,
    many_devices_in_a_directory_of_their_own,
    a_rust_program_maps,
    python_maps_a_length,
    copies_of_a_descriptor_map_too,
    descriptors_pass_through_exec,
    the_kernel_reads_and_writes_mapped_memory,
    a_reopened_descriptor_is_an_open_of_its_own,
    reads_reach_the_driver_in_pieces,
    an_ordinary_user_sees_one_user,
    setuid_programs,
    after_chroot_a_device_has_no_path,
    a_recorder_sees_each_call,
    a_second_listener_is_refused,
);

const HELLO: &str = "Hello from a device in safe Rust.\n";

fn shell(mode: Mode, devices: &[&str], script: &str) -> String {
    Run::new(mode, devices).prints(&["sh", "-ec", script])
}

fn shell_tools_read(mode: Mode) {
    for script in [
        "cat /dev/hello",
        "cat < /dev/hello",
        "dd if=/dev/hello status=none",
        "dd if=/dev/hello bs=1 status=none",
        "head -c 100 /dev/hello",
        "exec 5< /dev/hello; cat <&5",
        "xxd -p /dev/hello | xxd -r -p",
        "xxd -p < /dev/hello | xxd -r -p",
        "cat /dev/fd/3 3< /dev/hello",
        "cp /dev/hello /dev/stdout",
        "bash -c 'echo \"$(< /dev/hello)\"'",
    ] {
        assert_eq!(shell(mode, &["/dev/hello=hello"], script), HELLO, "{script}");
    }
    let written = shell(
        mode,
        &["/dev/m=mem:size=64K"],
        "printf words | dd of=/dev/m bs=1 seek=4096 status=none
        dd if=/dev/m bs=1 skip=4096 count=5 status=none; echo
        printf more > /dev/m; xxd -l 4 -p /dev/m; xxd -s 4096 -l 5 -p /dev/m
        wc -c < /dev/m; tail -c +4097 /dev/m | head -c 5",
    );
    assert_eq!(written, "words\n6d6f7265\n776f726473\n65536\nwords\n");
}

fn shell_tools_show_a_character_device(mode: Mode) {
    let text = shell(
        mode,
        &["/dev/shown=demo"],
        "test -c /dev/shown; test -r /dev/shown; test -w /dev/shown; test ! -x /dev/shown
        stat -c '%F %a %s' /dev/shown; stat -c '%F' - < /dev/shown; stat -L -c '%F' /dev/shown
        ls -l /dev/shown | cut -c1-10
        stat -c '%t:%T' /dev/shown > ${TMPDIR:-/tmp}/devmap-$$; \
        stat -c '%t:%T' - < /dev/shown | cmp - ${TMPDIR:-/tmp}/devmap-$$
        rm ${TMPDIR:-/tmp}/devmap-$$",
    );
    let file = "character special file";
    assert_eq!(text, format!("{file} 666 0\n{file}\n{file}\ncrw-rw-rw-\n"));
    let listed = shell(
        mode,
        &["/dev/shown=demo"],
        "ls /dev | grep -cx shown || true; ls -l /dev | grep -c ' shown$' || true
        find /dev -maxdepth 1 -type c -name shown; file=$(echo /dev/sho*); echo $file",
    );
    // In trapped mode a directory does not list it.
    let expected =
        if mode.is_trapped() { "0\n0\n/dev/sho*\n" } else { "1\n1\n/dev/shown\n/dev/shown\n" };
    assert_eq!(listed, expected);
}

fn sysfs_names_the_device(mode: Mode) {
    let script = "
seen = set()
for name in 'one', 'two':
    number = os.stat('/dev/' + name).st_rdev
    text = open('/sys/dev/char/%d:%d/uevent' % (os.major(number), os.minor(number))).read()
    say('DEVNAME=' + name in text.splitlines(), number not in seen)
    seen.add(number)
    say(os.path.basename('%d:%d' % (os.major(number), os.minor(number)))
        in os.listdir('/sys/dev/char'))
say(os.path.exists('/sys/dev/char/1:3/uevent'))
";
    let finished = Run::new(mode, &["/dev/one=demo", "/dev/two=mem"]).python(script, &[]).finish();
    // In trapped mode a directory does not list it.
    let listed = if mode.is_trapped() { "False" } else { "True" };
    assert_eq!(finished.well().stdout, format!("True True\n{listed}\n").repeat(2) + "True\n");
}

/// What `/dev` held before is there, and works.
fn other_devices_stay(mode: Mode) {
    let text = shell(
        mode,
        &["/dev/new=hello"],
        "head -c 3 /dev/zero | xxd -p; echo lost > /dev/null; test -c /dev/null
        test -L /dev/fd; test -d /dev/shm; head -c 1 /dev/urandom > /dev/null
        if echo x > /dev/full; then exit 1; fi 2> /dev/null; test -c /dev/full; echo done",
    );
    assert_eq!(text, "000000\ndone\n");
}

/// Nodes of the machine's: the same to `stat`, and to whoever opens them.
fn other_nodes_are_what_they_were(mode: Mode) {
    let script = "
for name in 'console', 'full', 'kmsg', 'loop-control', 'mem', 'null', 'port', 'tty', 'tty1', 'vda':
    path = '/dev/' + name
    if os.path.exists(path):
        node = os.lstat(path)
        # To an ordinary user, others are 65534 in a namespace: see COMPAT.md.
        owner = (node.st_uid, node.st_gid) if os.getuid() == 0 else ''
        say(name, oct(node.st_mode), os.major(node.st_rdev), os.minor(node.st_rdev), owner)
for name in 'kmsg', 'full':
    try:
        os.close(os.open('/dev/' + name, os.O_RDONLY | os.O_NONBLOCK))
        say(name, 'opens')
    except OSError as error:
        say(name, errno.errorcode[error.errno])
";
    let alone = std::process::Command::new(python())
        .args(["-c", &format!("{PRELUDE}{script}")])
        .output()
        .expect("run Python");
    let finished = Run::new(mode, &["/dev/new=hello"]).python(script, &[]).finish().well();
    assert_eq!(finished.stdout, String::from_utf8_lossy(&alone.stdout));
}

fn many_devices_in_a_directory_of_their_own(mode: Mode) {
    let paths: Vec<String> = (0..24).map(|i| format!("/dev/shm/../device{i}")).collect();
    // A path has to be plain; the same ones without the detour are served.
    let refused = Run::new(mode, &[&format!("{}=mem", paths[0])]).output(&["true"]);
    refused.exited(125).complains(&["/dev/shm/../device0"]);
    let devices: Vec<String> = (0..24).map(|i| format!("/dev/device{i}=mem:size=4K")).collect();
    let devices: Vec<&str> = devices.iter().map(String::as_str).collect();
    let script = "
areas = []
for i in range(24):
    fd = os.open('/dev/device%d' % i, os.O_RDWR)
    areas.append(mmap.mmap(fd, PAGE))
    areas[i][0] = i + 1
    os.close(fd)
say([area[0] for area in areas] == list(range(1, 25)))
say(len({os.stat('/dev/device%d' % i).st_rdev for i in range(24)}))
say(len({os.stat('/dev/device%d' % i).st_ino for i in range(24)}))
";
    let finished = Run::new(mode, &devices).python(script, &[]).finish();
    assert_eq!(finished.well().stdout, "True\n24\n24\n");
}

fn a_rust_program_maps(mode: Mode) {
    let run = Run::new(mode, &["/dev/mmap=demo", "/dev/mem0=mem:size=64K"]);
    let text = run.prints(&[DEVMAP, "demo-client"]);
    assert!(text.contains("16384 of 16384 words right"), "{text}");
}

fn python_maps_a_length(mode: Mode) {
    let script = "
fd = os.open('/dev/m', os.O_RDWR)
area = mmap.mmap(fd, 3 * PAGE + 1)
say(len(area), area[0], area[3 * PAGE])
say(error_of(lambda: mmap.mmap(fd, 17 * PAGE)))
# 0 is the file's length, by fstat; a device has none.
try: mmap.mmap(fd, 0)
except OSError as error: say(errno.errorcode[error.errno])
";
    let finished = Run::new(mode, &["/dev/m=mem:size=64K"]).python(script, &[]).finish();
    assert_eq!(finished.well().stdout, "12289 0 0\nEINVAL\nEINVAL\n");
}

/// Copies at every kind of number: standard ones, low ones, high ones.
fn copies_of_a_descriptor_map_too(mode: Mode) {
    let script = "
fd = os.open('/dev/m', os.O_RDWR)
first = mmap.mmap(fd, PAGE)
first[0:4] = b'mine'
copies = [os.dup2(fd, 0), os.dup2(fd, 2), os.dup(fd), os.dup2(fd, 100), os.dup2(fd, 1000),
          fcntl.fcntl(fd, fcntl.F_DUPFD, 3), fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 959)]
os.close(fd)
for copy in copies:
    area = map_raw(copy, 1)
    # A copy at a number that it was told to have cannot be read in trapped mode.
    readable = copy != 100 or MODE != 'trapped'
    say(area[0:4], os.pread(copy, 4, 0) if readable else error_of(lambda: os.pread(copy, 4, 0)))
    os.close(copy)
    say(area[0:4])
say(first[0:4])
";
    let script = format!("MODE = '{}'\n{script}", mode.0);
    let finished = Run::new(mode, &["/dev/m=mem:size=64K"]).python(&script, &[]).finish();
    let mut expected = ["b'mine' b'mine'\nb'mine'\n"; 7];
    if mode.is_trapped() {
        expected[3] = "b'mine' ESPIPE\nb'mine'\n";
    }
    assert_eq!(finished.well().stdout, expected.concat() + "b'mine'\n");
}

fn descriptors_pass_through_exec(mode: Mode) {
    let script = "
kept = os.open('/dev/m', os.O_RDWR)
closed = os.open('/dev/m', os.O_RDWR | os.O_CLOEXEC)
os.set_inheritable(kept, True)
mmap.mmap(kept, PAGE)[0:4] = b'kept'
say(fcntl.fcntl(closed, fcntl.F_GETFD), fcntl.fcntl(kept, fcntl.F_GETFD))
if os.fork() == 0:
    os.execv(sys.executable, [sys.executable, '-c', '''
import errno, mmap, os, sys
kept, closed = int(sys.argv[1]), int(sys.argv[2])
print(mmap.mmap(kept, 4096)[0:4])
try: os.fstat(closed)
except OSError as error: print(errno.errorcode[error.errno], flush=True)
''', str(kept), str(closed)])
say(os.wait()[1])
";
    let finished = Run::new(mode, &["/dev/m=mem"]).traced().python(script, &[]).finish().well();
    assert_eq!(finished.stdout, "1 0\nb'kept'\nEBADF\n0\n");
    assert_eq!(finished.count("release"), 2, "{:?}", finished.trace);
}

/// The kernel's own copies: `write(fd, mapped, n)` and `read(fd, mapped, n)`.
fn the_kernel_reads_and_writes_mapped_memory(mode: Mode) {
    let script = "
import tempfile
fd = os.open('/dev/m', os.O_RDWR)
area = mmap.mmap(fd, 16 * PAGE)
text = bytes(range(256)) * (PAGE // 32)
with tempfile.TemporaryFile(buffering=0) as file:
    file.write(text)
    file.seek(0)
    say(file.readinto(memoryview(area)[0:len(text)]) == len(text), area[0:len(text)] == text)
    file.seek(0)
    area[0:4] = b'back'
    say(os.write(file.fileno(), memoryview(area)[0:len(text)]) == len(text))
    say(os.pread(file.fileno(), 8, 0))
reader, writer = os.pipe()
say(os.write(writer, memoryview(area)[0:4]), os.readv(reader, [memoryview(area)[PAGE:PAGE + 4]]))
say(area[PAGE:PAGE + 4])
# The device itself, from and into its own memory.
say(os.pwrite(fd, memoryview(area)[0:4], 2 * PAGE), area[2 * PAGE:2 * PAGE + 4])
say(os.preadv(fd, [memoryview(area)[3 * PAGE:3 * PAGE + 4]], 0), area[3 * PAGE:3 * PAGE + 4])
private = mmap.mmap(fd, PAGE, flags=mmap.MAP_PRIVATE)
os.write(writer, b'own')
say(os.readv(reader, [memoryview(private)[0:3]]), private[0:4], area[0:4])
";
    let finished = Run::new(mode, &["/dev/m=mem"]).python(script, &[]).finish().well();
    assert_eq!(
        finished.stdout,
        "True True\nTrue\nb'back\\x04\\x05\\x06\\x07'\n4 4\nb'back'\n4 b'back'\n4 b'back'\n\
         3 b'ownk' b'back'\n"
    );
}

fn a_reopened_descriptor_is_an_open_of_its_own(mode: Mode) {
    let script = "
fd = os.open('/dev/m', os.O_RDWR)
again = os.open('/proc/self/fd/%d' % fd, os.O_RDONLY)
say(os.read(fd, 4), os.lseek(again, 0, os.SEEK_CUR), os.lseek(fd, 0, os.SEEK_CUR))
say(error_of(lambda: mmap.mmap(again, PAGE)), mmap.mmap(fd, PAGE)[0])
say(mmap.mmap(again, PAGE, prot=mmap.PROT_READ)[0])
";
    let finished = Run::new(mode, &["/dev/m=mem"]).traced().python(script, &[]).finish().well();
    assert_eq!(finished.stdout, "b'\\x00\\x00\\x00\\x00' 0 4\nEACCES 0\n0\n");
    assert_eq!((finished.count("open"), finished.count("release")), (2, 2));
}

/// The bytes are right, whatever the number of calls.
fn reads_reach_the_driver_in_pieces(mode: Mode) {
    let script = "
fd = os.open('/dev/m', os.O_RDWR)
text = bytes(range(256)) * (3 << 12)
say(os.pwrite(fd, text, 0) == len(text), os.pread(fd, len(text), 0) == text)
parts = [bytearray(100), bytearray(1000)]
say(os.preadv(fd, parts, 50), bytes(parts[0] + parts[1]) == text[50:1150])
";
    let run = Run::new(mode, &["/dev/m=mem:size=4M"]).traced();
    let finished = run.python(script, &[]).finish().well();
    assert_eq!(finished.stdout, "True True\n1100 True\n");
    let sizes = |call: &str| -> Vec<u64> {
        let events = finished.trace.iter().filter(|event| event["call"] == call);
        events.filter_map(|event| event["size"].as_u64()).collect()
    };
    let (reads, writes) = (sizes("read"), sizes("write"));
    if mode.is_trapped() {
        assert_eq!((reads.len(), writes.len()), (2, 1), "{reads:?} {writes:?}");
    } else {
        assert!(reads.len() > 2 && writes.len() > 1, "{reads:?} {writes:?}");
    }
    assert_eq!(writes.iter().sum::<u64>(), 3 << 20);
    assert_eq!(reads.last(), Some(&1100));
}

/// Unless it stands below the new root, in trapped mode.
fn after_chroot_a_device_has_no_path(mode: Mode) {
    let directory = tempfile::tempdir().expect("a directory");
    let jail = directory.path().to_str().expect("UTF-8");
    std::fs::create_dir(directory.path().join("dev")).expect("a directory");
    let script = "
jail, inner = sys.argv[1:]
os.symlink('../' * 10 + 'dev', jail + '/up')
os.symlink('/dev/inner', jail + '/link')
# Who is not root needs a user namespace for it.
if os.getuid(): libc.unshare(0x10000000)
os.chroot(jail)
os.chdir('/')
def results(*paths): return [error_of(lambda: os.close(os.open(path, os.O_RDONLY))) for path in paths]
say(*results('/dev/h', '/../dev/h', 'dev/h', '../dev/h', '/up/h'))
if inner: say(*results('/dev/inner', '/../dev/inner', 'dev/inner', '/up/inner', '/link'))
";
    let inner = format!("{jail}/dev/inner=hello");
    // To devmap of an ordinary user, who has another namespace is one not to be looked at.
    let has_inner = mode.is_trapped() && rustix::process::geteuid().is_root();
    let devices = ["/dev/h=hello", &inner];
    let run = Run::new(mode, if has_inner { &devices } else { &devices[..1] });
    let finished = run.python(script, &[jail, if has_inner { "yes" } else { "" }]).finish().well();
    let inner = if has_inner { "0 0 0 0 0\n" } else { "" };
    assert_eq!(finished.stdout, "ENOENT ENOENT ENOENT ENOENT ENOENT\n".to_owned() + inner);
}

/// See COMPAT.md: a user namespace that holds one user.
fn an_ordinary_user_sees_one_user(mode: Mode) {
    let script = "
status = open('/proc/self/status').read()
privileges = [line.split()[1] for line in status.splitlines() if line.startswith('NoNewPrivs')]
say(os.getuid(), os.stat('/etc/passwd').st_uid, *privileges)
";
    let finished = Run::new(mode, &["/dev/m=mem"]).python(script, &[]).finish().well();
    let uid = rustix::process::getuid();
    // Trapped mode makes no namespace.
    let owner = if mode.is_trapped() { 0 } else { 65534 };
    let seen = if uid.is_root() { "0 0 0\n".to_owned() } else { format!("{uid} {owner} 1\n") };
    assert_eq!(finished.stdout, seen);
}

/// A copy of `id` that belongs to root, and runs as root. An ordinary user gains nothing by it
/// under devmap; what root runs may use it, as ever.
fn setuid_programs(mode: Mode) {
    if !rustix::process::geteuid().is_root() {
        // Nobody else can make one; `an_ordinary_user_sees_one_user` looks at the cause.
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let place = |source: &str, name: &str, mode: u32| {
        let path = directory.path().join(name);
        std::fs::copy(source, &path).expect("a copy");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(&path, mode).expect("chmod");
        path
    };
    let all = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(directory.path(), all).expect("chmod");
    // Which the user may not reach where it was built.
    let devmap = place(DEVMAP, "devmap", 0o755);
    let id = place("/usr/bin/id", "id", 0o4755);
    let id = id.to_str().expect("UTF-8");
    let user = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--"];
    let run = |mode| Run::of(&devmap, mode).options(&["-d", "/dev/h=hello"]);
    let as_user = start_by(&user, id);
    assert_eq!(as_user, "0\n", "{} permits no setuid programs", directory.path().display());
    // Whatever mode the machine permits to the user.
    assert_eq!(run(Mode("auto")).by(&user).prints(&[id, "-u"]), "65534\n");
    assert_eq!(run(mode).prints(&[&user[..], &[id, "-u"]].concat()), "0\n");
}

/// What `id -u` by another command prints without devmap.
fn start_by(before: &[&str], id: &str) -> String {
    let mut command = std::process::Command::new(before[0]);
    command.args(&before[1..]).args([id, "-u"]);
    crate::harness::start(command).finish().well().stdout
}

/// A program that has each system call of its child stop twice, as recorders do.
fn a_recorder_sees_each_call(mode: Mode) {
    let client = Client::hostile("recorder");
    let text = Run::new(mode, &["/dev/m=mem"]).prints(&[&*client.path(), "/dev/m"]);
    assert!(text.ends_with("ok all\n") && !text.contains("FAIL"), "{text}");
}

fn a_second_listener_is_refused(mode: Mode) {
    let script = "
allow = struct.pack('HBBI', 0x06, 0, 0, 0x7fff0000)
program = ctypes.create_string_buffer(allow)
filter = struct.pack('HxxxxxxQ', 1, ctypes.addressof(program))
libc.prctl(38, 1, 0, 0, 0)
say(libc.syscall(int(sys.argv[1]), 1, 8, filter), errno.errorcode[ctypes.get_errno()])
say(libc.syscall(int(sys.argv[1]), 1, 0, filter))
say(mmap.mmap(os.open('/dev/m', os.O_RDWR), PAGE)[0])
";
    let number = libc::SYS_seccomp.to_string();
    let finished = Run::new(mode, &["/dev/m=mem"]).python(script, &[&number]).finish().well();
    assert_eq!(finished.stdout, "-1 EBUSY\n0\n0\n");
}
