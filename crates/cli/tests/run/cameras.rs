//! The camera in each place that a program may find it in: both modes, a container,
//! through `devmap serve`; under programs that people use, whose pictures are compared
//! pixel by pixel with what the camera draws; and under a program that means ill. As an
//! ordinary user too, for so are all tests of this binary run.
//!
//! What does not live here: all that the camera does, once (`tests/camera.rs`).

use std::{
    env, fs,
    io::ErrorKind,
    path::PathBuf,
    process::Command,
    sync::LazyLock,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::harness::{Client, Daemon, Mode, Run, in_each_mode, python, root, wait_for};

const NAMESPACE: Mode = Mode("namespace");
const TRAPPED: Mode = Mode("trapped");

/// What it shows: each pixel differs from its neighbours. Nothing depends on time, since a
/// frame comes for each buffer.
const CAMERA: &str = "/dev/video0=camera:size=320x240,pattern=gradient,pace=client";

/// The gradient of 320x240, as RGB.
fn gradient() -> Vec<u8> {
    let pixels = (0..240).flat_map(|y| (0..320).map(move |x| (x, y)));
    let colour = |(x, y): (u32, u32)| [(255 * x / 319) as u8, (255 * y / 239) as u8, 128];
    pixels.flat_map(colour).collect()
}

/// Where `cargo xtask packages` puts the packages of ci/requirements.txt.
fn python_packages() -> PathBuf {
    let test = env::current_exe().expect("this program's path");
    // target/PROFILE/deps/TEST
    let packages = test.ancestors().nth(3).expect("target").join("python");
    assert!(
        packages.join("cv2").exists(),
        "{} has no OpenCV: `cargo xtask packages` installs it",
        packages.display()
    );
    packages
}

/// Each program that takes frames of RGB from the camera, as a shell command that leaves
/// them in a file of its name.
const PROGRAMS: [(&str, &str); 5] = [
    (
        "ffmpeg",
        "ffmpeg -hide_banner -loglevel error -f v4l2 -input_format rgb24 -video_size 320x240 \
         -i /dev/video0 -frames:v 3 -c:v copy -f rawvideo ffmpeg",
    ),
    (
        "mmap",
        "v4l2-ctl -d /dev/video0 --set-fmt-video=width=320,height=240,pixelformat=RGB3 \
         --stream-mmap --stream-count=3 --stream-to=mmap > log",
    ),
    (
        "user",
        "v4l2-ctl -d /dev/video0 --set-fmt-video=width=320,height=240,pixelformat=RGB3 \
         --stream-user --stream-poll --stream-count=3 --stream-to=user > log",
    ),
    (
        "gstreamer",
        "gst-launch-1.0 -q v4l2src device=/dev/video0 num-buffers=3 \
         ! video/x-raw,format=RGB,width=320,height=240 ! filesink location=gstreamer",
    ),
    (
        "opencv",
        "PYTHONPATH=$PACKAGES $PYTHON -c '
import cv2
camera = cv2.VideoCapture(\"/dev/video0\", cv2.CAP_V4L2)
assert camera.isOpened()
assert camera.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter_fourcc(*\"RGB3\"))
assert camera.set(cv2.CAP_PROP_FRAME_WIDTH, 320) and camera.set(cv2.CAP_PROP_FRAME_HEIGHT, 240)
with open(\"opencv\", \"wb\") as out:
    for _ in range(3):
        good, frame = camera.read()
        assert good
        out.write(frame[:, :, ::-1].tobytes())
'",
    ),
];

/// Runs all programs in one run, and compares each pixel of each frame.
fn all_programs(run: Run) {
    let directory = tempfile::tempdir().expect("a directory");
    let script = PROGRAMS.map(|(name, command)| format!("{command} || exit={name}\n")).concat();
    let script =
        format!("cd \"$1\"\nexit=\n{script}\ntest -z \"$exit\" || {{ echo $exit; exit 1; }}");
    let path = directory.path().to_str().expect("UTF-8");
    let run = run
        .environment("PACKAGES", python_packages().to_str().expect("UTF-8"))
        .environment("PYTHON", python())
        // GStreamer would write it to a home that is not there. It puts a new file in the
        // place of the old one: never name a device here.
        .environment("GST_REGISTRY", &format!("{path}/registry"))
        .environment("GST_REGISTRY_FORK", "no");
    run.output(&["sh", "-c", &script, "sh", path]).well();
    let wanted = gradient().repeat(3);
    for (name, _) in PROGRAMS {
        let frames = fs::read(directory.path().join(name)).expect(name);
        assert_eq!(frames.len(), wanted.len(), "{name}");
        let wrong = frames.iter().zip(&wanted).position(|(got, wanted)| got != wanted);
        assert_eq!(wrong, None, "{name}: the first byte that is wrong");
    }
}

#[test]
fn all_programs_in_a_namespace() {
    all_programs(Run::new(NAMESPACE, &[CAMERA]));
}

#[test]
fn all_programs_trapped() {
    all_programs(Run::new(TRAPPED, &[CAMERA]));
}

#[test]
fn all_programs_in_a_container() {
    let container = Client::docker();
    all_programs(Run::new(Mode("auto"), &[CAMERA]).within(&container));
}

#[test]
fn all_programs_that_join() {
    let daemon = Daemon::start(&[CAMERA], &[]);
    for mode in [NAMESPACE, TRAPPED] {
        all_programs(Run::joining(mode, &daemon));
    }
    daemon.stop().well();
}

/// A client in C.
struct Built(TempDir);

impl Built {
    fn new(source: &str) -> Built {
        let directory = tempfile::tempdir().expect("a directory");
        let all = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(directory.path(), all).expect("chmod");
        let mut cc = Command::new("cc");
        cc.args(["-static", "-O2", "-I"]).arg(root().join("tests/conformance"));
        cc.arg("-o").arg(directory.path().join("camera")).arg(root().join(source));
        assert!(cc.status().expect("cc starts").success());
        Built(directory)
    }

    fn path(&self) -> String {
        self.0.path().join("camera").to_str().expect("UTF-8").to_owned()
    }
}

static CONFORMANCE: LazyLock<Built> = LazyLock::new(|| Built::new("tests/conformance/camera.c"));
static FUZZER: LazyLock<Built> = LazyLock::new(|| Built::new("tests/fuzz/camera.c"));

/// What the conformance client prints, which `cargo xtask kernel` holds against vivid's.
fn conformance(mode: Mode) -> Vec<String> {
    let run = Run::new(mode, &["/dev/video0=camera:pace=client"]);
    let text = run.prints(&[&CONFORMANCE.path(), "/dev/video0"]);
    assert!(text.ends_with("ok all\n"), "{text}");
    text.lines().map(str::to_owned).collect()
}

/// The client polls the camera alone, so not even that shows the mode.
#[test]
fn the_modes_do_not_differ() {
    let (namespace, trapped) = (conformance(NAMESPACE), conformance(TRAPPED));
    assert_eq!(namespace.len(), trapped.len());
    let differ: Vec<_> =
        namespace.iter().zip(&trapped).filter(|(one, other)| one != other).collect();
    assert!(differ.is_empty(), "{differ:?}");
}

/// What a process has that a client could make it lose: descriptors, threads, and maps of
/// buffers. Those of a supervisor in trapped mode, which nobody may look into, are for root
/// alone to see: as another user the test sees its threads.
fn holdings(pid: i32) -> (usize, usize, usize) {
    let is_root = rustix::process::geteuid().is_root();
    let descriptors = match fs::read_dir(format!("/proc/{pid}/fd")) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied && !is_root => 0,
        entries => entries.expect("descriptors").count(),
    };
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("threads").count();
    let maps = match fs::read_to_string(format!("/proc/{pid}/maps")) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied && !is_root => String::new(),
        maps => maps.expect("maps"),
    };
    let buffers = maps.lines().filter(|line| line.contains("memfd:")).count();
    (descriptors, threads, buffers)
}

/// Kibibytes.
fn memory(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
}

in_each_mode!(
    a_client_that_means_ill,
    buffers_pass_from_file_to_file,
    clients_that_die_while_they_stream,
    what_was_closed_is_closed,
);

/// Set to the seconds that clients shall mean ill, and to the seed of the first of them.
const SECONDS: &str = "DEVMAP_FUZZ_SECONDS";
const SEED: &str = "DEVMAP_FUZZ_SEED";

/// How many calls each client makes, and how many clients there are at least, however slow
/// the machine is.
const CALLS: u32 = 25_000;
const CLIENTS: u64 = 6;

/// Clients one after the other, for half a minute, each of which makes calls of all kinds, as
/// its seed has them, and dies as it stands. Afterwards devmap has what it had before, and the
/// next client streams. `cargo xtask fuzz` for as long as wanted, and with other seeds.
fn a_client_that_means_ill(mode: Mode) {
    let number = |name, usual| env::var(name).map_or(usual, |text| text.parse().expect(name));
    let (first, time) = (number(SEED, 1), Duration::from_secs(number(SECONDS, 30)));
    let script = "while read seed; do $0 /dev/video0 $seed $1 >&2; echo $?; done
        exec $2 /dev/video0";
    let program = [&FUZZER.path(), &CALLS.to_string(), &CONFORMANCE.path()];
    let device = "/dev/video0=camera:pace=client";
    let mut running = Run::new(mode, &[device])
        .start(&[&["sh", "-c", script], &program.map(|s| &**s)[..]].concat());
    let mut fuzz = |seed: u64| {
        println!("{}: {SEED}={seed}", mode.0);
        running.say(&seed.to_string());
        // By its own signal.
        assert_eq!(running.hear(), (128 + libc::SIGKILL).to_string());
        running.supervisor()
    };
    // The first is there for what devmap keeps once it has been needed, such as threads.
    let supervisor = fuzz(first);
    let before = wait_for("the buffers of the last client to go", || {
        let now = holdings(supervisor);
        (now.2 == 0).then_some(now)
    });
    let memory_before = memory(supervisor);
    let started = Instant::now();
    let mut seeds = first + 1..;
    while started.elapsed() < time || seeds.start < first + CLIENTS {
        fuzz(seeds.next().expect("without end"));
    }
    println!("{}: {} clients, {CALLS} calls each", mode.0, seeds.start - first);
    wait_for("all that the clients had to be given back", || {
        let now = holdings(supervisor);
        // A few come and go with what devmap has to do. The clients opened the camera, and
        // started streams, some thousand times.
        (now.0 <= before.0 + 8 && now.1 <= before.1 + 8 && now.2 == 0).then_some(())
    });
    // A leak of one buffer for each that was asked for would be gigabytes; what the
    // allocator keeps for its threads is not told from a leak, and is far less.
    let grown = memory(supervisor).saturating_sub(memory_before);
    assert!(grown < 256 << 10, "{grown} KiB");
    let finished = running.finish().well();
    assert!(finished.stdout.ends_with("ok all\n"), "{finished:?}");
    assert!(!finished.stderr.contains("panicked"), "{finished:?}");
}

/// What scripts below begin with.
const BUFFERS: &str = "
REQBUFS, QUERYBUF, QBUF, DQBUF, STREAMON = 0xc0145608, 0xc0585609, 0xc058560f, 0xc0585611, 0x40045612
def camera(): return os.open('/dev/video0', os.O_RDWR)
def request(fd): fcntl.ioctl(fd, REQBUFS, struct.pack('IIIII', 2, 1, 1, 0, 0))
def buffer(fd, command, index=0):
    data = bytearray(88)
    struct.pack_into('II', data, 0, index, 1)
    struct.pack_into('I', data, 60, 1)
    fcntl.ioctl(fd, command, data)
    return data
def map_buffer(fd, index):
    data = buffer(fd, QUERYBUF, index)
    offset, length = struct.unpack_from('Q', data, 64)[0], struct.unpack_from('I', data, 72)[0]
    return mmap.mmap(fd, length, offset=offset)
";

/// Killed in the middle of a stream; the next one streams.
fn clients_that_die_while_they_stream(mode: Mode) {
    let script = "
for n in 1 2 3 4 5 6; do
    v4l2-ctl -d /dev/video0 --stream-mmap --stream-to=/dev/null > \"$1/log\" 2>&1 &
    client=$!
    # It prints a character for each frame.
    until grep -q '<<<' \"$1/log\"; do kill -0 $client || { cat \"$1/log\"; exit 1; }; done
    kill -9 $client
    wait $client || true
    : > \"$1/log\"
done
v4l2-ctl -d /dev/video0 --stream-mmap --stream-count=2 --stream-to=\"$1/frames\" > /dev/null 2>&1
wc -c < \"$1/frames\"";
    let directory = tempfile::tempdir().expect("a directory");
    let device = "/dev/video0=camera:size=160x120,format=grey,pace=client";
    let path = directory.path().to_str().expect("UTF-8");
    let said = Run::new(mode, &[device]).prints(&["sh", "-ec", script, "sh", path]);
    assert_eq!(said, "38400\n");
    // What it had mapped is free too. Whoever looks at a process just then, even by
    // /proc/PID/stat, holds its memory for a moment.
    let script = "
def client(tell):
    fd = camera()
    while error_of(lambda: request(fd)) == 'EBUSY': pass
    maps = [map_buffer(fd, index) for index in range(2)]
    for index in range(2): buffer(fd, QBUF, index)
    fcntl.ioctl(fd, STREAMON, struct.pack('I', 1))
    while True:
        buffer(fd, QBUF, struct.unpack_from('I', buffer(fd, DQBUF))[0])
        os.write(tell, b'streams')
for _ in range(50):
    hear_from, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        outcome = error_of(lambda: client(tell))
        os.write(tell, outcome.encode())
        os._exit(1)
    os.close(tell)
    if not os.read(hear_from, 9).startswith(b'streams'): say('it does not stream')
    os.close(hear_from)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
say('done')
";
    let running = Run::new(mode, &[device]).python(&format!("{BUFFERS}{script}"), &[]);
    assert_eq!(running.finish().well().stdout, "done\n");
}

/// A call finds closed what was closed before it, and unmapped what was unmapped.
fn what_was_closed_is_closed(mode: Mode) {
    let script = "
own = camera()
for turn in range(100):
    other = camera()
    request(other)
    if turn % 2:
        area = map_buffer(other, 1)
        os.close(other)
        # The map holds the open file.
        if error_of(lambda: request(own)) != 'EBUSY': say('released', turn)
        area.close()
    else:
        os.close(other)
    outcome = error_of(lambda: request(own))
    if outcome != '0': say(turn, outcome)
    fcntl.ioctl(own, REQBUFS, struct.pack('IIIII', 0, 1, 1, 0, 0))
say('done')
";
    let device = "/dev/video0=camera:size=160x120,format=grey,pace=client";
    let running = Run::new(mode, &[device]).python(&format!("{BUFFERS}{script}"), &[]);
    assert_eq!(running.finish().well().stdout, "done\n");
}

/// The buffers belong to one open file. Processes in turn open the camera, ask for buffers and
/// close: each finds that the one before has given them up.
fn buffers_pass_from_file_to_file(mode: Mode) {
    let script = "
def turn():
    fd = camera()
    request(fd)
    os.close(fd)
def work(hears, tells):
    while os.read(hears, 1):
        outcome = error_of(turn)
        if outcome != '0': say(outcome)
        os.write(tells, b'x')
pairs = []
for _ in range(3):
    (hears, tell), (hear_back, tells) = os.pipe(), os.pipe()
    if os.fork() == 0:
        os.close(tell)
        for other, _ in pairs: os.close(other)
        work(hears, tells)
        os._exit(0)
    pairs.append((tell, hear_back))
for i in range(200):
    tell, hear_back = pairs[i % 3]
    os.write(tell, b'x')
    os.read(hear_back, 1)
    outcome = error_of(turn)
    if outcome != '0': say('here', outcome)
say('done')
";
    let run = Run::new(mode, &["/dev/video0=camera:pace=client"]);
    let running = run.python(&format!("{BUFFERS}{script}"), &[]);
    assert_eq!(running.finish().well().stdout, "done\n");
}
