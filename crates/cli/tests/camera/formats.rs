//! Each format in several sizes, taken one after the other from one camera.

use devmap_devices_host::{
    Canvas,
    format::{Format, PixelFormat, Size},
    source::{Look, Painted, Pattern, Patterns, Source, Tick},
};

use super::*;

const FRAMES: u32 = 3;

/// What `pattern=box` draws.
fn drawn(format: Format) -> Vec<u8> {
    let mut source = Painted::new(Patterns::new(Pattern::Box, [0; 3], false, 0));
    source.start(format).expect("it starts");
    let canvas = Canvas::new(format.size_image() as usize);
    let mut frames = Vec::new();
    for sequence in 0..FRAMES {
        let time = std::time::Duration::ZERO;
        let tick = Tick { sequence, time, patience: time, look: Look::PLAIN };
        let len = {
            let mut frame = canvas.frame();
            source.draw(&tick, &mut frame).expect("it is drawn");
            frame.len()
        };
        frames.extend_from_slice(&canvas.bytes()[..len]);
    }
    frames
}

#[test]
fn v4l2_ctl_gets_what_was_drawn_in_each_format_and_size() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut script = String::from("set -e\n");
    let mut wanted = Vec::new();
    for (pixels, name) in [
        (PixelFormat::Yuyv, "YUYV"),
        (PixelFormat::Nv12, "NV12"),
        (PixelFormat::Rgb24, "RGB3"),
        (PixelFormat::Grey, "GREY"),
        (PixelFormat::Mjpeg, "MJPG"),
    ] {
        for (width, height) in [(160, 120), (640, 480), (1920, 1080)] {
            let file = directory.path().join(format!("{name}-{width}"));
            script += &format!(
                "v4l2-ctl -d /dev/video0 -v width={width},height={height},pixelformat={name} \
                 --stream-mmap --stream-count={FRAMES} --stream-to={} > {} 2>&1\n",
                file.display(),
                directory.path().join("log").display(),
            );
            wanted.push((file, Format { pixels, size: Size::new(width, height) }));
        }
    }
    bytes("/dev/video0=camera:pattern=box,text=off,pace=client", &["sh", "-c", &script]);
    for (file, format) in wanted {
        let frames = fs::read(&file).expect("frames");
        assert!(frames == drawn(format), "{format:?}: {} bytes", frames.len());
    }
}
