//! The camera under unmodified programs: ffmpeg, GStreamer, v4l2-ctl, v4l2-compliance,
//! shell tools, and a client in Python for what these do not show.
//!
//! Nothing here depends on how fast anything is: where frames are counted, the camera
//! makes one for each buffer that is queued (`pace=client`).

#[path = "camera/formats.rs"]
mod formats;
#[path = "camera/options.rs"]
mod options;
#[path = "camera/pace.rs"]
mod pace;
#[path = "camera/reading.rs"]
mod reading;
#[path = "camera/sources.rs"]
mod sources;
#[path = "camera/surroundings.rs"]
mod surroundings;

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

/// Runs a program with these cameras, in the mode that the machine allows.
fn run(devices: &[&str], program: &[&str]) -> Output {
    run_in("auto", devices, program)
}

fn run_in(mode: &str, devices: &[&str], program: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_devmap"));
    command.args(["run", "--mode", mode]);
    for device in devices {
        command.args(["--device", device]);
    }
    command.arg("--").args(program).stdin(Stdio::null()).output().expect("it starts")
}

/// What a program prints, as bytes; it must end well.
#[track_caller]
fn bytes(device: &str, program: &[&str]) -> Vec<u8> {
    bytes_in("auto", device, program)
}

#[track_caller]
fn bytes_in(mode: &str, device: &str, program: &[&str]) -> Vec<u8> {
    let output = run_in(mode, &[device], program);
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{mode} {device} {program:?}: {}\n{message}", output.status);
    output.stdout
}

/// What a program prints, as text.
#[track_caller]
fn text(device: &str, program: &[&str]) -> String {
    String::from_utf8(bytes(device, program)).expect("text")
}

/// `frames` frames as ffmpeg takes them from the camera, untouched.
#[track_caller]
fn raw_frames(device: &str, input_format: &str, size: &str, frames: &str) -> Vec<u8> {
    let input = ["-f", "v4l2", "-input_format", input_format, "-video_size", size];
    let output = ["-i", "/dev/video0", "-frames:v", frames, "-c:v", "copy", "-f", "rawvideo", "-"];
    let quiet = ["ffmpeg", "-hide_banner", "-loglevel", "error"];
    bytes(device, &[&quiet[..], &input, &output].concat())
}

const WIDTH: usize = 320;
const HEIGHT: usize = 240;

/// What `pattern=gradient` paints.
fn gradient(x: usize, y: usize) -> [f64; 3] {
    let red = (255 * x / (WIDTH - 1)) as f64;
    let green = (255 * y / (HEIGHT - 1)) as f64;
    [red, green, 128.0]
}

/// BT.601 as its text has it, limited range: luma and both chromas.
fn yuv([red, green, blue]: [f64; 3]) -> [f64; 3] {
    let luma = 0.299 * red + 0.587 * green + 0.114 * blue;
    [
        16.0 + luma * 219.0 / 255.0,
        128.0 + (blue - luma) / 1.772 * 224.0 / 255.0,
        128.0 + (red - luma) / 1.402 * 224.0 / 255.0,
    ]
}

fn mean<const N: usize>(values: [[f64; 3]; N]) -> [f64; 3] {
    std::array::from_fn(|at| values.iter().map(|value| value[at]).sum::<f64>() / N as f64)
}

/// Whether a byte is what it should be, but for rounding.
#[track_caller]
fn near(byte: u8, wanted: f64, what: impl std::fmt::Debug) {
    assert!((f64::from(byte) - wanted).abs() <= 1.2, "{what:?}: {byte}, not {wanted}");
}

/// Compares each byte of a frame with the picture `colour`.
fn compare(frame: &[u8], input_format: &str, colour: impl Fn(usize, usize) -> [f64; 3]) {
    for y in 0..HEIGHT {
        for x in 0..WIDTH {
            let at = y * WIDTH + x;
            let pair = x / 2 * 2;
            match input_format {
                "rgb24" => {
                    for (component, wanted) in colour(x, y).iter().enumerate() {
                        assert_eq!(f64::from(frame[at * 3 + component]), *wanted, "{x} {y}");
                    }
                }
                "gray" => {
                    let [red, green, blue] = colour(x, y);
                    near(frame[at], 0.299 * red + 0.587 * green + 0.114 * blue, (x, y));
                }
                "yuyv422" => {
                    near(frame[at * 2], yuv(colour(x, y))[0], ("Y", x, y));
                    let [_, u, v] = yuv(mean([colour(pair, y), colour(pair + 1, y)]));
                    near(frame[at / 2 * 4 + 1], u, ("U", x, y));
                    near(frame[at / 2 * 4 + 3], v, ("V", x, y));
                }
                "nv12" => {
                    near(frame[at], yuv(colour(x, y))[0], ("Y", x, y));
                    let line = y / 2 * 2;
                    let four =
                        [(pair, line), (pair + 1, line), (pair, line + 1), (pair + 1, line + 1)];
                    let [_, u, v] = yuv(mean(four.map(|(x, y)| colour(x, y))));
                    let chroma = WIDTH * HEIGHT + y / 2 * WIDTH + pair;
                    near(frame[chroma], u, ("U", x, y));
                    near(frame[chroma + 1], v, ("V", x, y));
                }
                _ => panic!("{input_format}"),
            }
        }
    }
}

#[test]
fn ffmpeg_gets_each_pixel_in_each_format() {
    for (input_format, frame_size) in [
        ("rgb24", WIDTH * HEIGHT * 3),
        ("gray", WIDTH * HEIGHT),
        ("yuyv422", WIDTH * HEIGHT * 2),
        ("nv12", WIDTH * HEIGHT * 3 / 2),
    ] {
        let device = "/dev/video0=camera:pattern=gradient,pace=client";
        let frames = raw_frames(device, input_format, "320x240", "3");
        assert_eq!(frames.len(), frame_size * 3, "{input_format}");
        frames.chunks(frame_size).for_each(|frame| compare(frame, input_format, gradient));
        let device = "/dev/video0=camera:pattern=solid,color=e08020,pace=client";
        let frames = raw_frames(device, input_format, "320x240", "1");
        compare(&frames, input_format, |_, _| [224.0, 128.0, 32.0]);
    }
}

/// As ffmpeg shows a frame: RGB of `320x240`, from any format.
#[track_caller]
fn shown(device: &str, input_format: &str) -> Vec<u8> {
    let program = [
        "ffmpeg",
        "-hide_banner",
        "-loglevel",
        "error",
        "-f",
        "v4l2",
        "-input_format",
        input_format,
        "-video_size",
        "320x240",
        "-i",
        "/dev/video0",
        "-frames:v",
        "1",
        "-pix_fmt",
        "rgb24",
        "-f",
        "rawvideo",
        "-",
    ];
    let frame = bytes(device, &program);
    assert_eq!(frame.len(), WIDTH * HEIGHT * 3);
    frame
}

/// How far two pictures are apart: the mean over all components.
fn distance(a: &[u8], b: impl Fn(usize) -> f64) -> f64 {
    let sum: f64 = a.iter().enumerate().map(|(at, byte)| (f64::from(*byte) - b(at)).abs()).sum();
    sum / a.len() as f64
}

fn gradient_byte(at: usize) -> f64 {
    gradient(at / 3 % WIDTH, at / 3 / WIDTH)[at % 3]
}

#[test]
fn ffmpeg_decodes_mjpeg() {
    let device = "/dev/video0=camera:pattern=gradient,pace=client";
    let frame = shown(device, "mjpeg");
    let apart = distance(&frame, gradient_byte);
    assert!(apart < 2.0, "{apart}");
    // As webcams send it: some programs show 4:4:4 green.
    let said = text(
        device,
        &[
            "ffprobe",
            "-loglevel",
            "error",
            "-f",
            "v4l2",
            "-input_format",
            "mjpeg",
            "-show_entries",
            "stream=pix_fmt",
            "-of",
            "csv=p=0",
            "/dev/video0",
        ],
    );
    assert_eq!(said, "yuvj422p\n");
}

#[test]
fn ffmpeg_writes_a_picture_that_shows_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let picture = directory.path().join("out.png");
    let path = picture.to_str().expect("UTF-8");
    let device = "/dev/video0=camera:size=320x240,pattern=gradient";
    let input = ["-f", "v4l2", "-input_format", "rgb24", "-i", "/dev/video0"];
    let quiet = ["ffmpeg", "-hide_banner", "-loglevel", "error"];
    bytes(device, &[&quiet[..], &input, &["-frames:v", "1", "-update", "1", path]].concat());
    // The picture is exact, so a camera that shows it shows the gradient.
    let device = format!("/dev/video0=camera:picture={path},pace=client");
    let frame = shown(&device, "rgb24");
    assert_eq!(distance(&frame, gradient_byte), 0.0);
}

#[test]
fn a_directory_of_pictures_is_shown_in_turn() {
    let directory = tempfile::tempdir().expect("a directory");
    for (name, colour) in [("1.ppm", [255, 0, 0]), ("2.ppm", [0, 255, 0]), ("3.ppm", [0, 0, 255])] {
        let picture = [&b"P6 1 1 255\n"[..], &colour].concat();
        fs::write(directory.path().join(name), picture).expect("written");
    }
    // What is no picture is left out.
    fs::write(directory.path().join("0.txt"), "red, green, blue").expect("written");
    fs::create_dir(directory.path().join("4.ppm")).expect("made");
    let path = directory.path().display();
    let device = format!("/dev/video0=camera:picture={path},pace=client");
    let frames = raw_frames(&device, "rgb24", "160x120", "7");
    let firsts: Vec<_> = frames.chunks(160 * 120 * 3).map(|frame| &frame[..3]).collect();
    let (red, green, blue) = ([255, 0, 0], [0, 255, 0], [0, 0, 255]);
    assert_eq!(firsts, [red, green, blue, red, green, blue, red]);
}

#[test]
fn frames_of_another_program_pass_unchanged() {
    let directory = tempfile::tempdir().expect("a directory");
    let pipe = directory.path().join("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status().expect("mkfifo");
    assert!(made.success());
    let frames: Vec<u8> = (0..160 * 120 * 5).map(|at| (at % 251) as u8).collect();
    let writer = {
        let (pipe, frames) = (pipe.clone(), frames.clone());
        std::thread::spawn(move || fs::write(pipe, frames))
    };
    let options = "size=160x120,format=grey,pace=client";
    let device = format!("/dev/video0=camera:source={},{options}", pipe.display());
    assert!(raw_frames(&device, "gray", "160x120", "5") == frames);
    writer.join().expect("the writer").expect("written");
    // A file is shown again and again.
    let file = directory.path().join("file");
    fs::write(&file, &frames[..160 * 120 * 2]).expect("written");
    let device = format!("/dev/video0=camera:source={},{options}", file.display());
    let twice = raw_frames(&device, "gray", "160x120", "4");
    assert!(twice[..160 * 120 * 2] == twice[160 * 120 * 2..]);
    assert!(twice[..160 * 120 * 2] == frames[..160 * 120 * 2]);
}

#[test]
fn v4l2_ctl_shows_and_sets() {
    let device = "/dev/video0=camera:size=1280x720,fps=25";
    let all = text(device, &["v4l2-ctl", "-d", "/dev/video0", "--all"]);
    for shown in [
        "Driver name      : devmap",
        "Width/Height      : 1280/720",
        "Pixel Format      : 'YUYV'",
        "Size Image        : 1843200",
        "Frames per second: 25.000",
        "brightness 0x00980900 (int)    : min=-128 max=127 step=1 default=0 value=0",
        "1: Manual Mode",
    ] {
        assert!(all.contains(shown), "{shown} is not in:\n{all}");
    }
    let formats = text(device, &["v4l2-ctl", "-d", "/dev/video0", "--list-formats-ext"]);
    for shown in ["'YUYV'", "'NV12'", "'RGB3'", "'GREY'", "'MJPG'", "1920x1080", "60.000 fps"] {
        assert!(formats.contains(shown), "{shown} is not in:\n{formats}");
    }
    let listed = text(device, &["v4l2-ctl", "--list-devices"]);
    assert!(listed.contains("/dev/video0"), "{listed}");
    // In one run, for a camera begins anew in each.
    let script = "v4l2-ctl -d /dev/video0 --set-ctrl brightness=17,auto_exposure=1
        v4l2-ctl -d /dev/video0 --get-ctrl brightness,auto_exposure
        v4l2-ctl -d /dev/video0 -L | grep -c 'exposure_time_absolute.*inactive' || true
        v4l2-ctl -d /dev/video0 --set-fmt-video width=640,height=480,pixelformat=MJPG
        v4l2-ctl -d /dev/video0 --set-parm 10 > /dev/null
        v4l2-ctl -d /dev/video0 --get-fmt-video --get-parm";
    let set = text(device, &["sh", "-ec", script]);
    for shown in [
        "brightness: 17\nauto_exposure: 1 (Manual Mode)\n0\n",
        "640/480",
        "'MJPG'",
        "10.000 (10/1)",
    ] {
        assert!(set.contains(shown), "{shown} is not in:\n{set}");
    }
}

#[test]
fn v4l2_ctl_streams_in_each_way() {
    for (way, poll) in [
        ("--stream-mmap", None),
        ("--stream-user", None),
        ("--stream-mmap", Some("--stream-poll")),
        ("--stream-user", Some("--stream-poll")),
    ] {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("frames");
        let to = format!("--stream-to={}", file.display());
        let fixed = ["v4l2-ctl", "-d", "/dev/video0", way, "--stream-count=100", &to];
        let program: Vec<_> = fixed.iter().copied().chain(poll).collect();
        let device = "/dev/video0=camera:size=160x120,pattern=solid,color=ffffff,pace=client";
        bytes(device, &program);
        let frames = fs::read(&file).expect("frames");
        assert_eq!(frames.len(), 100 * 160 * 120 * 2, "{program:?}");
        assert!(frames.as_chunks().0.iter().all(|two| *two == [235, 128]), "{program:?}");
    }
}

#[test]
fn gstreamer_records() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("frames");
    let location = format!("location={}", file.display());
    let source = ["gst-launch-1.0", "-q", "v4l2src", "device=/dev/video0", "num-buffers=3", "!"];
    let sink = ["video/x-raw,format=GRAY8,width=320,height=240", "!", "filesink", &location];
    let device = "/dev/video0=camera:pattern=gradient";
    bytes(device, &[&source[..], &sink].concat());
    let frames = fs::read(&file).expect("frames");
    assert_eq!(frames.len(), 3 * WIDTH * HEIGHT);
    frames.chunks(WIDTH * HEIGHT).for_each(|frame| compare(frame, "gray", gradient));
}

#[test]
fn frames_can_be_read() {
    let device = "/dev/video0=camera:size=160x120,format=grey,pattern=solid,color=404040";
    // In pieces that do not fit into frames.
    let program = ["dd", "if=/dev/video0", "bs=7001", "count=10", "iflag=fullblock", "status=none"];
    let read = bytes(device, &program);
    assert_eq!(read.len(), 70010);
    assert!(read.iter().all(|byte| *byte == 0x40));
}

#[test]
fn controls_change_the_picture() {
    let device = "/dev/video0=camera:size=320x240,pattern=gradient,pace=client";
    let script = "v4l2-ctl -d /dev/video0 --set-ctrl horizontal_flip=1,brightness=20 &&
        ffmpeg -hide_banner -loglevel error -f v4l2 -input_format rgb24 \
        -i /dev/video0 -frames:v 1 -f rawvideo -";
    let frame = bytes(device, &["sh", "-c", script]);
    let wanted = |at: usize| {
        let (x, y) = (at / 3 % WIDTH, at / 3 / WIDTH);
        (gradient(WIDTH - 1 - x, y)[at % 3] + 20.0).min(255.0)
    };
    assert_eq!(distance(&frame, wanted), 0.0);
}

#[test]
fn two_cameras_side_by_side() {
    let devices = [
        "/dev/video0=camera:size=160x120,format=grey,pattern=solid,color=101010",
        "/dev/video1=camera:size=160x120,format=grey,pattern=solid,color=202020",
    ];
    let script = "stat -c %t:%T /dev/video0 /dev/video1
        for n in 0 1; do head -c 19200 /dev/video$n | od -An -v -tx1 | tr -s ' ' '\\n' | sort -u; done";
    let output = run(&devices, &["sh", "-ec", script]);
    let shown =
        String::from_utf8_lossy(&output.stdout).split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(shown, "51:0 51:1 10 20");
}

/// The whole suite of the V4L2 project's own tool, streaming tests included, also three
/// frames in each format and size at each rate. What failed, and the line with the sums.
fn v4l2_compliance(mode: &str) -> (Vec<String>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_devmap"))
        .args(["run", "--mode", mode, "--device", "/dev/video0=camera:pace=client", "--"])
        .args(["v4l2-compliance", "-d", "/dev/video0", "-s", "-f3"])
        .stdin(Stdio::null())
        .output()
        .expect("it starts");
    let report = String::from_utf8_lossy(&output.stdout);
    let failures = report.lines().filter(|line| line.to_lowercase().contains("fail:"));
    let failures = failures.chain(report.lines().filter(|line| line.ends_with(": FAIL")));
    let last = report.lines().last().unwrap_or_default().to_owned();
    assert_eq!(output.status.success(), failures.clone().count() == 0, "{report}");
    (failures.map(|line| line.trim().to_owned()).collect(), last)
}

#[test]
fn v4l2_compliance_finds_nothing() {
    for mode in ["namespace", "trapped"] {
        let (failures, last) = v4l2_compliance(mode);
        assert_eq!(failures, Vec::<String>::new(), "{mode}");
        assert!(last.ends_with("324, Succeeded: 324, Failed: 0, Warnings: 0"), "{mode}: {last}");
    }
}

/// What every script begins with: a V4L2 client by its structures.
const CLIENT: &str = "
import errno, fcntl, mmap, os, select, signal, struct, sys, threading, time
def ioc(way, number, size): return way << 30 | size << 16 | ord('V') << 8 | number
REQBUFS, QUERYBUF = ioc(3, 8, 20), ioc(3, 9, 88)
QBUF, DQBUF = ioc(3, 15, 88), ioc(3, 17, 88)
STREAMON, STREAMOFF = ioc(1, 18, 4), ioc(1, 19, 4)
S_CTRL, DQEVENT, SUBSCRIBE = ioc(3, 28, 8), ioc(2, 89, 136), ioc(1, 90, 32)
S_PRIORITY, EXPBUF = ioc(1, 68, 4), ioc(3, 16, 64)
def error_of(call):
    try: call()
    except OSError as error: return errno.errorcode[error.errno]
    return '0'
def buffer(index=0, memory=1):
    data = bytearray(88)
    struct.pack_into('II', data, 0, index, 1)
    struct.pack_into('I', data, 60, memory)
    return data
class Camera:
    def __init__(self, flags=0, path='/dev/video0'):
        self.fd = os.open(path, os.O_RDWR | flags)
    def call(self, command, data):
        fcntl.ioctl(self.fd, command, data, True)
        return data
    def request(self, count, memory=1):
        return self.call(REQBUFS, bytearray(struct.pack('IIIIBxxx', count, 1, memory, 0, 0)))
    def start(self, count=3):
        self.request(count)
        for index in range(count): self.call(QBUF, buffer(index))
        self.call(STREAMON, bytearray(struct.pack('I', 1)))
    def map(self, index):
        data = self.call(QUERYBUF, buffer(index))
        offset, length = struct.unpack_from('Q', data, 64)[0], struct.unpack_from('I', data, 72)[0]
        return mmap.mmap(self.fd, length, mmap.MAP_SHARED, 3, offset=offset)
    def stop(self): self.call(STREAMOFF, bytearray(struct.pack('I', 1)))
    def frame(self):
        data = self.call(DQBUF, buffer())
        index, kind, used, flags = struct.unpack_from('IIII', data)
        return index, used, flags, struct.unpack_from('I', data, 56)[0]
    def poll(self, timeout=60000):
        poll = select.poll()
        poll.register(self.fd, select.POLLIN | select.POLLPRI)
        events = poll.poll(timeout)
        return events[0][1] if events else 0
";

/// What a script prints, in either mode the same.
#[track_caller]
fn python(options: &str, script: &str) -> String {
    let [one, other] = ["namespace", "trapped"].map(|mode| python_in(mode, options, script));
    assert_eq!(one, other, "in a namespace, and in trapped mode");
    one
}

#[track_caller]
fn python_in(mode: &str, options: &str, script: &str) -> String {
    let device = format!("/dev/video0=camera:size=160x120,{options}");
    let python =
        if Path::new("/usr/bin/python3").exists() { "/usr/bin/python3" } else { "python3" };
    let said = bytes_in(mode, &device, &[python, "-c", &format!("{CLIENT}{script}")]);
    String::from_utf8(said).expect("text")
}

#[test]
fn a_blocked_program_is_woken() {
    let said = python(
        "stall=3",
        "
camera = Camera()
camera.start()
for _ in range(3): camera.frame()
# Nothing comes any more: not blocking, it is told so at once.
os.set_blocking(camera.fd, False)
print(error_of(camera.frame), camera.poll(0))
os.set_blocking(camera.fd, True)
# A signal ends the wait.
class Woken(Exception): pass
def wake(*_): raise Woken
signal.signal(signal.SIGALRM, wake)
signal.setitimer(signal.ITIMER_REAL, 0.05)
try: camera.frame()
except Woken: print('signal')
# So does the end of the stream, from another thread.
waiting = threading.Thread(target=lambda: print(error_of(camera.frame)))
waiting.start()
syscall = '/proc/self/task/%d/syscall' % waiting.native_id
while open(syscall).read().split()[0] != '16': pass
camera.stop()
waiting.join()
",
    );
    assert_eq!(said, "EAGAIN 0\nsignal\nEINVAL\n");
}

#[test]
fn an_unplugged_camera_hangs_up() {
    let said = python(
        "unplug=2,pace=client",
        "
camera = Camera()
camera.start()
while not camera.poll() & select.POLLHUP: pass
# What came before can still be taken.
print(camera.poll(), camera.frame()[3], camera.poll(), camera.frame()[3], camera.poll())
print(error_of(camera.frame), error_of(camera.stop), error_of(Camera))
",
    );
    assert_eq!(said, "17 0 17 1 26\nENODEV ENODEV ENODEV\n");
}

/// The frames of a quick source are drawn by the calls that look for them.
#[test]
fn a_queued_buffer_is_as_good_as_a_frame() {
    let said = python(
        "pace=client,format=grey",
        "
camera = Camera(os.O_NONBLOCK)
camera.start()
# Not blocking, by poll, and by whoever looks at a buffer.
print(camera.frame()[0], camera.poll(), camera.call(QUERYBUF, buffer(2))[12] & 4)
# Each one that is queued is told of, also to those who wait for edges.
print(camera.frame()[0], camera.frame()[0], error_of(camera.frame), camera.poll(0))
edges = select.epoll()
edges.register(camera.fd, select.EPOLLIN | select.EPOLLET)
for index in 0, 1, 2, 0:
    camera.call(QBUF, buffer(index))
    print([event for _, event in edges.poll()], end=' ')
    if index == 0: print(camera.frame()[0], end=' ')
print()
while error_of(camera.frame) == '0': pass
# Who waits for a buffer to be queued gets it, or the end.
os.set_blocking(camera.fd, True)
def wait():
    waiting = threading.Thread(target=lambda: print(error_of(camera.frame)))
    waiting.start()
    syscall = '/proc/self/task/%d/syscall' % waiting.native_id
    while open(syscall).read().split()[0] != '16': pass
    return waiting
waiting = wait()
camera.call(QBUF, buffer(1))
waiting.join()
waiting = wait()
camera.stop()
waiting.join()
",
    );
    assert_eq!(said, "0 1 4\n1 2 EAGAIN 0\n[1] 0 [1] [1] [1] 1 \n0\nEINVAL\n");
}

#[test]
fn the_last_frames_before_trouble_can_be_taken() {
    for (options, then) in [("unplug=3", "ENODEV"), ("stall=3", "EAGAIN")] {
        let said = python(
            &format!("pace=client,{options}"),
            "
camera = Camera(os.O_NONBLOCK)
camera.start()
for _ in range(3): print(camera.frame()[3], end=' ')
print(error_of(camera.frame), camera.poll(0))
",
        );
        let events = if then == "ENODEV" { 26 } else { 0 };
        assert_eq!(said, format!("0 1 2 {then} {events}\n"));
    }
}

/// As many as were asked for, however they are waited for, and then the end.
#[test]
fn an_unplugged_camera_gave_all_its_frames() {
    for (pace, options) in [("client", ""), ("timer", ",fps=60")] {
        for wait in ["0", "camera.poll()", "poll.poll()", "epoll.poll()", "all()", "all(quiet)"] {
            let said = python(
                &format!("pace={pace},unplug=9{options}"),
                &format!(
                    "
camera = Camera()
camera.start(4)
def all(*others): select.select([camera.fd, *others], [], [camera.fd])
quiet, _ = os.pipe()
poll, epoll = select.poll(), select.epoll()
for each in poll, epoll:
    each.register(quiet, select.POLLIN)
    each.register(camera.fd, select.POLLIN)
frames = 0
try:
    while True:
        {wait}
        index = camera.frame()[0]
        frames += 1
        error_of(lambda: camera.call(QBUF, buffer(index)))
except OSError as error: print(frames, errno.errorcode[error.errno], camera.poll())
print(poll.poll() == epoll.poll() == [(camera.fd, 24)])
"
                ),
            );
            assert_eq!(said, "9 ENODEV 26\nTrue\n", "{pace} {wait}");
        }
    }
}

/// The same seed draws the same frames; another one draws others.
#[test]
fn a_seed_repeats_what_is_drawn_by_lot() {
    let frames = |seed: u32| {
        python(
            &format!("pace=client,pattern=noise,corrupt=3,seed={seed}"),
            "
import hashlib
camera = Camera()
camera.start()
digest = hashlib.sha256()
maps = [camera.map(index) for index in range(3)]
for _ in range(8):
    index, used, flags, sequence = camera.frame()
    digest.update(maps[index][:used] + bytes([flags & 0x40, sequence]))
    camera.call(QBUF, buffer(index))
print(digest.hexdigest())
",
        )
    };
    let first = frames(5);
    assert_eq!(frames(5), first);
    assert_ne!(frames(6), first);
}

/// A frame that finds no buffer is lost, and the next one's number says so.
#[test]
fn frames_that_find_no_buffer_are_counted() {
    let said = python(
        "fps=60",
        "
camera = Camera()
camera.start(2)
numbers = [camera.frame()[3], camera.frame()[3]]
# Both buffers are the program's: what comes meanwhile is lost.
time.sleep(0.3)
for index in 0, 1: camera.call(QBUF, buffer(index))
numbers += [camera.frame()[3], camera.frame()[3]]
gap = numbers[2] - numbers[1]
print(numbers[1] - numbers[0], gap > 10, numbers[3] > numbers[2])
",
    );
    assert_eq!(said, "1 True True\n");
}

/// Frames come late, by lot, and none twice or out of order.
#[test]
fn late_frames_come() {
    let said = python(
        "fps=30,late=40,seed=3",
        "
camera = Camera()
camera.start(4)
times, last = [], -1
for _ in range(20):
    index, _, _, sequence = camera.frame()
    assert sequence > last, (sequence, last)
    last = sequence
    times.append(time.monotonic())
    camera.call(QBUF, buffer(index))
gaps = [after - before for before, after in zip(times, times[1:])]
# 33 ms each if they were on time.
print(max(gaps) > 0.040)
",
    );
    assert_eq!(said, "True\n");
}

#[test]
fn trouble_comes_where_it_was_asked_for() {
    let said = python(
        "corrupt=3,pace=client,eio=10",
        "
camera = Camera()
camera.start()
for _ in range(6):
    try: index, _, flags, sequence = camera.frame()
    except OSError as error:
        print(errno.errorcode[error.errno])
        index, _, flags, sequence = camera.frame()
    print(sequence, 'error' if flags & 0x40 else 'good')
    camera.call(QBUF, buffer(index))
",
    );
    assert_eq!(said, "0 good\n1 good\nEIO\n2 error\n3 good\n4 good\n5 error\n");
}

#[test]
fn events_tell_other_files_of_controls() {
    let said = python(
        "pace=client",
        "
BRIGHTNESS = 0x980900
one, two = Camera(), Camera(os.O_NONBLOCK)
for camera in one, two:
    camera.call(SUBSCRIBE, bytearray(struct.pack('III20x', 3, BRIGHTNESS, 0)))
print(two.poll(0) & select.POLLPRI)
one.call(S_CTRL, bytearray(struct.pack('Ii', BRIGHTNESS, 33)))
print(two.poll() & select.POLLPRI, one.poll(0) & select.POLLPRI)
event = two.call(DQEVENT, bytearray(136))
kind, changes = struct.unpack_from('I4xI', event)
print(kind, changes, struct.unpack_from('q', event, 16)[0])
print(error_of(lambda: two.call(DQEVENT, bytearray(136))))
quiet, _ = os.pipe()
for value, waits in enumerate([select.poll(), select.epoll()]):
    waits.register(quiet, select.POLLIN)
    waits.register(two.fd, select.POLLPRI)
    waiting = threading.Thread(target=lambda: print(waits.poll() == [(two.fd, select.POLLPRI)]))
    waiting.start()
    one.call(S_CTRL, bytearray(struct.pack('Ii', BRIGHTNESS, value)))
    waiting.join()
    two.call(DQEVENT, bytearray(136))
",
    );
    assert_eq!(said, "0\n2 0\n3 1 33\nENOENT\nTrue\nTrue\n");
}

#[test]
fn a_file_with_priority_or_buffers_keeps_others_out() {
    let said = python(
        "pace=client",
        "
one, two = Camera(), Camera()
one.start()
print(error_of(lambda: two.request(2)), error_of(lambda: two.frame()), error_of(two.stop))
print(error_of(lambda: os.read(two.fd, 10)), error_of(lambda: os.read(one.fd, 10)))
one.stop()
one.request(0)
print(error_of(lambda: two.request(2)))
two.request(0)
one.call(S_PRIORITY, bytearray(struct.pack('I', 3)))
print(error_of(lambda: two.request(2)), error_of(lambda: one.request(2)))
print(error_of(lambda: one.call(EXPBUF, bytearray(struct.pack('I60x', 1)))))
os.close(one.fd)
two.start()
print(two.frame()[3])
",
    );
    assert_eq!(said, "EBUSY EBUSY EBUSY\nEBUSY EBUSY\n0\nEBUSY 0\nENOTTY\n0\n");
}

#[test]
fn the_next_client_streams_after_one_was_killed() {
    let said = python(
        "pace=client",
        "
child = os.fork()
if child == 0:
    camera = Camera()
    camera.start()
    camera.frame()
    os.kill(os.getpid(), signal.SIGKILL)
os.waitpid(child, 0)
camera = Camera()
# Whoever looks at a process just then, even by /proc/PID/stat, holds its memory for a moment.
while error_of(lambda: camera.request(3)) == 'EBUSY': pass
camera.start()
print(camera.frame()[3])
",
    );
    assert_eq!(said, "0\n");
}
