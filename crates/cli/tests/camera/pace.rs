//! The numbers and the stamps of frames, by which programs know how time goes.

use super::*;

/// ffmpeg repeats and leaves out frames where stamps do not go on at the rate: with
/// `pace=client` it records each one once, however fast or slow the machine is.
#[test]
fn ffmpeg_records_each_frame_once() {
    const FRAMES: u8 = 60;
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("frames");
    let frames: Vec<u8> = (0..FRAMES).flat_map(|number| [number; 160 * 120]).collect();
    fs::write(&file, &frames).expect("written");
    let device = format!(
        "/dev/video0=camera:source={},size=160x120,fps=25,format=grey,pace=client",
        file.display()
    );
    // Not copied: then it would pass what comes.
    let program = "ffmpeg -hide_banner -loglevel error -f v4l2 -input_format gray
        -i /dev/video0 -frames:v 60 -c:v rawvideo -pix_fmt gray -f rawvideo -";
    let program: Vec<_> = program.split_whitespace().collect();
    for mode in ["namespace", "trapped"] {
        let recorded = bytes_in(mode, &device, &program);
        let numbers: Vec<_> = recorded.chunks(160 * 120).map(|frame| frame[0]).collect();
        assert_eq!(numbers, (0..FRAMES).collect::<Vec<_>>(), "{mode}");
        assert!(recorded == frames, "{mode}");
    }
}

#[test]
fn frames_are_shared_numbered_and_timed() {
    let said = python(
        "pattern=solid,color=ffffff,format=grey,pace=client",
        "
camera = Camera()
began = time.monotonic_ns() // 1000
camera.start()
started = time.monotonic_ns() // 1000
maps = [camera.map(index) for index in range(3)]
first = None
for number in range(20):
    index, used, flags, sequence = camera.frame()
    assert (used, sequence) == (19200, number), (used, sequence)
    assert maps[index][:used] == bytes([255]) * used
    # What the program writes stays until the driver fills the buffer again.
    maps[index][0] = 0
    data = camera.call(QUERYBUF, buffer(index))
    seconds, microseconds = struct.unpack_from('qq', data, 24)
    stamp = seconds * 1000000 + microseconds
    first = first or stamp
    assert began <= first <= started
    assert stamp - first == number * 1000000 // 30, (number, first, stamp)
    camera.call(QBUF, buffer(index))
camera.stop()
print('well')
",
    );
    assert_eq!(said, "well\n");
}

#[test]
fn frames_by_the_clock_have_its_time() {
    let said = python(
        "fps=60",
        "
camera = Camera()
camera.start()
last = time.monotonic_ns() // 1000
for _ in range(5):
    data = camera.call(DQBUF, buffer())
    seconds, microseconds = struct.unpack_from('qq', data, 24)
    stamp = seconds * 1000000 + microseconds
    assert last <= stamp <= time.monotonic_ns() // 1000, (last, stamp)
    last = stamp
    camera.call(QBUF, buffer(struct.unpack_from('I', data)[0]))
print('well')
",
    );
    assert_eq!(said, "well\n");
}
