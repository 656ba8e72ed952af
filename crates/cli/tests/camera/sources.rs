//! Where frames come from besides patterns and pictures: videos, files and pipes of frames,
//! and commands.

use super::*;

/// Makes a video of one colour, 30 frames of 320x240, with ffmpeg.
#[track_caller]
fn video(directory: &Path, name: &str, colour: &str, options: &[&str]) -> String {
    let path = directory.join(name).to_str().expect("text").to_owned();
    let input = format!("color=c={colour}:size=320x240:rate=30");
    let status = Command::new("ffmpeg")
        .args(["-loglevel", "error", "-f", "lavfi", "-i", &input, "-frames:v", "30"])
        .args(options)
        .args(["-y", &path])
        .stdin(Stdio::null())
        .status();
    assert!(status.expect("ffmpeg").success());
    path
}

#[test]
fn a_video_is_shown_in_each_format_and_begins_anew() {
    let directory = tempfile::tempdir().unwrap();
    let path = video(directory.path(), "red.mp4", "red", &["-pix_fmt", "yuv420p"]);
    let device = format!("/dev/video0=camera:video={path},pace=client");
    for input_format in ["yuyv422", "nv12", "rgb24", "mjpeg"] {
        let picture = shown(&device, input_format);
        let red = |at: usize| if at.is_multiple_of(3) { 255.0 } else { 0.0 };
        assert!(distance(&picture, red) < 6.0, "{input_format}");
    }
    // It has 30 frames.
    let frames = raw_frames(&device, "gray", "320x240", "70");
    assert_eq!(frames.len(), 70 * 320 * 240);
    assert!(frames.iter().all(|luma| luma.abs_diff(76) < 4));
}

/// To ffmpeg what stands before a colon is a protocol, unless it is told that it is a file.
#[test]
fn a_video_may_have_any_name() {
    let directory = tempfile::tempdir().unwrap();
    video(directory.path(), "red.mp4", "red", &["-pix_fmt", "yuv420p"]);
    fs::rename(directory.path().join("red.mp4"), directory.path().join("12:30.mp4")).unwrap();
    let streamed = Command::new(env!("CARGO_BIN_EXE_devmap"))
        .args(["run", "--device", "/dev/video0=camera:video=12:30.mp4,pace=client", "--"])
        .args(["v4l2-ctl", "-d", "/dev/video0", "--stream-mmap", "--stream-count=3"])
        .current_dir(&directory)
        .stdin(Stdio::null())
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&streamed.stderr);
    assert!(streamed.status.success() && said.matches('<').count() == 3, "{said}");
}

#[test]
fn frames_of_others_are_converted_to_any_format() {
    let directory = tempfile::tempdir().unwrap();
    let blue = |at: usize| if at % 3 == 2 { 255.0 } else { 0.0 };
    for (name, options, format) in [
        ("blue.y4m", &["-pix_fmt", "yuv420p"][..], "yuyv"),
        ("blue422.y4m", &["-pix_fmt", "yuv422p"][..], "yuyv"),
        ("blue.mjpeg", &["-f", "mjpeg", "-q:v", "2"][..], "mjpeg"),
        ("blue.nv12", &["-f", "rawvideo", "-pix_fmt", "nv12"][..], "nv12"),
    ] {
        let path = video(directory.path(), name, "blue", options);
        let device =
            format!("/dev/video0=camera:source={path},format={format},size=320x240,pace=client");
        for input_format in ["yuyv422", "rgb24", "mjpeg"] {
            assert!(distance(&shown(&device, input_format), blue) < 6.0, "{name} {input_format}");
        }
    }
}

#[test]
fn a_source_ends_as_it_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = video(directory.path(), "grey.y4m", "gray", &["-pix_fmt", "yuv420p"]);
    let stream = ["v4l2-ctl", "-d", "/dev/video0", "--stream-mmap", "--stream-count=40"];
    let device = format!("/dev/video0=camera:source={path},size=320x240,pace=client,end=");
    let stopped = run(&[&format!("{device}stop")], &stream);
    let said = String::from_utf8_lossy(&stopped.stderr);
    assert!(said.contains("it has ended (end=stop)"), "{said}");
    assert!(said.contains("VIDIOC_DQBUF: failed: Input/output error"), "{said}");
    // One sign for each frame: those before the end are not lost.
    assert_eq!(said.matches('<').count(), 30, "{said}");
    let repeated = run(&[&format!("{device}repeat")], &stream);
    let said = String::from_utf8_lossy(&repeated.stderr);
    assert_eq!(said.matches('<').count(), 40, "{said}");
}

#[test]
fn a_command_runs_while_the_camera_streams() {
    let directory = tempfile::tempdir().unwrap();
    let pid = directory.path().join("pid");
    let device = format!(
        "/dev/video0=camera:command=echo $$ > {}; cat /dev/zero,size=320x240,pace=client",
        pid.display()
    );
    text(&device, &["v4l2-ctl", "-d", "/dev/video0", "--all"]);
    assert!(!pid.exists(), "it runs without a stream");
    let frames = raw_frames(&device, "yuyv422", "320x240", "3");
    assert!(frames.len() == 3 * 320 * 240 * 2 && frames.iter().all(|byte| *byte == 0));
    let pid = fs::read_to_string(&pid).expect("it ran");
    let process = Path::new("/proc").join(pid.trim());
    assert!(!process.exists(), "{process:?} lives on");

    let missing = run(
        &["/dev/video0=camera:command=exit 3,size=320x240"],
        &["v4l2-ctl", "-d", "/dev/video0", "--stream-mmap", "--stream-count=1"],
    );
    let said = String::from_utf8_lossy(&missing.stderr);
    assert!(said.contains("exit 3: exit status: 3, and no whole frame has come"), "{said}");
}
