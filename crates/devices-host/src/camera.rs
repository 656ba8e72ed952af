//! The device `camera`: a [`Capture`] on one of the built-in sources, by options.

use std::{
    fmt,
    fs::File,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    time::Duration,
};

use devmap_driver::{
    Class, Device, Errno, Ioctl, Metadata, NewArea, Open, OptionError, OptionSpec, Plan, Platform,
    PollEvents, PollTable, Transfer,
};

use crate::{
    capture::{self, Capture, Description},
    controls,
    format::{Offer, PixelFormat, Size},
    source::{End, Feed, Origin, Painted, Pattern, Patterns, Pictures, Source},
    stream::Pace,
    trouble::Trouble,
};

/// What `--device PATH=NAME` calls it.
pub const NAME: &str = "camera";
/// One line of help.
pub const ABOUT: &str =
    "a V4L2 camera that shows test patterns, pictures or another program's frames";

const fn option(
    name: &'static str,
    value: &'static str,
    default: &'static str,
    help: &'static str,
) -> OptionSpec {
    OptionSpec { name, value, default, help }
}

/// What it takes.
pub const OPTIONS: &[OptionSpec] = &[
    option("size", "WxH", "640x480", "size of the pictures, 160x120 to 1920x1080, both even"),
    option("fps", "N", "30", "frames a second, 1 to 60"),
    option("format", "FORMAT", "yuyv", "first format: yuyv, nv12, rgb24, grey or mjpeg"),
    option("pattern", "PATTERN", "bars", "bars, gradient, noise, solid or box"),
    option("color", "RRGGBB", "808080", "the colour of pattern=solid, in hexadecimal"),
    option("text", "WHEN", "auto", "frame number and clock burnt in: on, off, auto (with bars)"),
    option("picture", "PATH", "", "show this picture, or those of a directory in turn"),
    option("video", "PATH", "", "show this video, which ffmpeg decodes"),
    option("source", "PATH", "", "frames of this format and size from a pipe or a file: raw, Y4M"),
    option("command", "COMMAND", "", "the same from the output of a command of the shell"),
    option(
        "end",
        "WHAT",
        "auto",
        "when frames end: repeat, stop (EIO), hang; auto: as it is usual",
    ),
    option(
        "pace",
        "PACE",
        "timer",
        "client: a frame as soon as a buffer is queued, stamped 1/fps after the last; or timer",
    ),
    option(
        "minor",
        "N",
        "auto",
        "the minor number; auto: that of /dev/videoN, else one that is free",
    ),
    option("unplug", "N", "never", "after N frames the camera is gone: ENODEV"),
    option("stall", "N", "never", "after N frames no frame comes any more"),
    option("corrupt", "N", "never", "each Nth frame is garbled and flagged"),
    option("eio", "N", "never", "the Nth ioctl answers EIO"),
    option("late", "MS", "0", "with pace=timer, frames come up to so many milliseconds late"),
    option("seed", "N", "0", "what noise, lateness and garbling are drawn from"),
];

/// Frame sizes that a camera has, besides the one it is given.
const SIZES: [Size; 6] = [
    Size::new(160, 120),
    Size::new(320, 240),
    Size::new(640, 480),
    Size::new(800, 600),
    Size::new(1280, 720),
    Size::new(1920, 1080),
];

/// Frame rates that a camera has, besides the one it is given.
const RATES: [u32; 9] = [60, 50, 30, 25, 20, 15, 10, 5, 1];

/// The options of [`Camera`].
#[derive(Clone, Debug)]
pub struct Options {
    size: Size,
    rate: u32,
    pixels: PixelFormat,
    /// `None`: bars, unless others' frames or pictures are shown.
    pattern: Option<Pattern>,
    /// Of [`Pattern::Solid`]. `None`: grey.
    colour: Option<[u8; 3]>,
    /// `None`: as the pattern has it.
    has_clock: Option<bool>,
    picture: Option<PathBuf>,
    video: Option<PathBuf>,
    source: Option<PathBuf>,
    command: Option<String>,
    /// `None`: as it is usual for where frames come from.
    end: Option<End>,
    pace: Pace,
    minor: Option<u32>,
    trouble: Trouble,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            size: Size::new(640, 480),
            rate: 30,
            pixels: PixelFormat::Yuyv,
            pattern: None,
            colour: None,
            has_clock: None,
            picture: None,
            video: None,
            source: None,
            command: None,
            end: None,
            pace: Pace::Timer,
            minor: None,
            trouble: Trouble::default(),
        }
    }
}

/// One of the words, or what it should have been.
fn choose<T: Copy>(
    value: &str,
    words: &[(&str, T)],
    expected: &'static str,
) -> Result<T, OptionError> {
    let found = words.iter().find(|(word, _)| *word == value);
    found.map(|(_, meaning)| *meaning).ok_or(OptionError::BadValue(expected))
}

fn parse_frame_size(value: &str) -> Option<Size> {
    let (width, height) = value.split_once('x')?;
    let size = Size::new(width.parse().ok()?, height.parse().ok()?);
    let is_even = size.width.is_multiple_of(2) && size.height.is_multiple_of(2);
    let is_within = (160..=1920).contains(&size.width) && (120..=1080).contains(&size.height);
    (is_even && is_within).then_some(size)
}

fn parse_colour(value: &str) -> Option<[u8; 3]> {
    let is_hexadecimal = value.len() == 6 && value.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = is_hexadecimal.then(|| u32::from_str_radix(value, 16).ok()).flatten()?;
    let [_, red, green, blue] = number.to_be_bytes();
    Some([red, green, blue])
}

/// A count of at least 1, or `never`.
fn parse_count(value: &str) -> Result<Option<u64>, OptionError> {
    match value {
        "never" => Ok(None),
        _ => match value.parse() {
            Ok(0) | Err(_) => Err(OptionError::BadValue("a number of at least 1, or never")),
            Ok(count) => Ok(Some(count)),
        },
    }
}

fn parse_number<T: std::str::FromStr>(
    value: &str,
    expected: &'static str,
) -> Result<T, OptionError> {
    value.parse().map_err(|_| OptionError::BadValue(expected))
}

/// The minor number of the camera at this path, if the path says it: the N of `/dev/videoN`.
pub fn minor_at(path: &Path) -> Option<u32> {
    let text = path.to_str()?.strip_prefix("/dev/video")?;
    let minor: u8 = text.parse().ok()?;
    (minor.to_string() == text).then_some(minor.into())
}

impl Options {
    /// Sets one option from text.
    ///
    /// # Errors
    /// [`OptionError`]: no such key, or not such a value; for a path, also what is
    /// there now.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), OptionError> {
        match key {
            "size" => {
                self.size = parse_frame_size(value).ok_or(OptionError::BadValue(
                    "WIDTHxHEIGHT, from 160x120 to 1920x1080, both even, such as 640x480",
                ))?;
            }
            "fps" => {
                const EXPECTED: &str = "a number from 1 to 60";
                let rate = parse_number(value, EXPECTED)?;
                if !(1..=60).contains(&rate) {
                    return Err(OptionError::BadValue(EXPECTED));
                }
                self.rate = rate;
            }
            "format" => {
                let words = PixelFormat::ALL.map(|pixels| (pixels.name(), pixels));
                self.pixels = choose(value, &words, "yuyv, nv12, rgb24, grey or mjpeg")?;
            }
            "pattern" => {
                let words = [
                    ("bars", Pattern::Bars),
                    ("gradient", Pattern::Gradient),
                    ("noise", Pattern::Noise),
                    ("solid", Pattern::Solid),
                    ("box", Pattern::Box),
                ];
                self.pattern = Some(choose(value, &words, "bars, gradient, noise, solid or box")?);
            }
            "color" => {
                self.colour = Some(parse_colour(value).ok_or(OptionError::BadValue(
                    "six hexadecimal digits: red, green and blue, such as ff8000",
                ))?);
            }
            "text" => {
                let words = [("on", Some(true)), ("off", Some(false)), ("auto", None)];
                self.has_clock = choose(value, &words, "on, off or auto")?;
            }
            "picture" => {
                let expected = "a picture that can be read (PNG, JPEG, GIF, BMP, PNM or WebP), or a \
                                directory of such pictures";
                self.picture =
                    Some(look(value, |path| Pictures::new(path, false).map(drop), expected)?);
            }
            "source" => {
                let expected = "a named pipe (make it with mkfifo) or a file that can be read";
                self.source = Some(look(value, check_source, expected)?);
            }
            "video" => {
                let expected = "a video file that can be read; and ffmpeg has to be installed";
                self.video = Some(look(value, check_video, expected)?);
            }
            "command" => {
                if value.is_empty() {
                    return Err(OptionError::BadValue("a command of the shell"));
                }
                self.command = Some(value.to_owned());
            }
            "end" => {
                let words = [
                    ("auto", None),
                    ("repeat", Some(End::Repeat)),
                    ("stop", Some(End::Stop)),
                    ("hang", Some(End::Hang)),
                ];
                self.end = choose(value, &words, "repeat, stop, hang or auto")?;
            }
            "pace" => {
                let words = [("timer", Pace::Timer), ("client", Pace::Client)];
                self.pace = choose(value, &words, "timer or client")?;
            }
            "minor" => {
                const EXPECTED: &str = "a number from 0 to 255, or auto";
                self.minor = match value {
                    "auto" => None,
                    _ => Some(parse_number::<u8>(value, EXPECTED)?.into()),
                };
            }
            "unplug" => self.trouble.unplug = parse_count(value)?,
            "stall" => self.trouble.stall = parse_count(value)?,
            "corrupt" => self.trouble.corrupt = parse_count(value)?,
            "eio" => self.trouble.eio = parse_count(value)?,
            "late" => {
                const EXPECTED: &str = "a number of milliseconds, at most 60000";
                let late = parse_number(value, EXPECTED)?;
                if late > 60000 {
                    return Err(OptionError::BadValue(EXPECTED));
                }
                self.trouble.late = Duration::from_millis(late);
            }
            "seed" => self.trouble.seed = parse_number(value, "a number of at most 64 bits")?,
            _ => return Err(OptionError::Unknown),
        }
        Ok(())
    }

    /// Where others' frames come from, if they do.
    fn origin(&self) -> Option<Origin> {
        let path = |path: &PathBuf| Origin::Path(path.clone(), self.pixels);
        let command = |command: &String| Origin::Command(command.clone(), self.pixels);
        let video = |path: &PathBuf| Origin::Video(path.clone());
        let source = self.source.as_ref().map(path);
        source.or(self.command.as_ref().map(command)).or(self.video.as_ref().map(video))
    }

    fn offer(&self) -> Offer {
        let mut pixels = PixelFormat::ALL.to_vec();
        pixels.sort_by_key(|pixels| *pixels != self.pixels);
        let mut sizes = SIZES.to_vec();
        if !sizes.contains(&self.size) {
            sizes.push(self.size);
            sizes.sort_by_key(|size| size.width * size.height);
        }
        let mut rates = RATES.to_vec();
        if !rates.contains(&self.rate) {
            rates.push(self.rate);
            rates.sort_by_key(|rate| std::cmp::Reverse(*rate));
        }
        // Others' frames come at the rate, and but for videos in the size, that they have.
        let origin = self.origin();
        if origin.is_some() {
            rates = vec![self.rate];
        }
        if matches!(origin, Some(Origin::Path(..) | Origin::Command(..))) {
            sizes = vec![self.size];
        }
        Offer { pixels, sizes, rates, size: self.size, rate: self.rate }
    }

    /// What an option would have no effect beside, if there is one.
    fn contradiction(&self) -> Option<&'static str> {
        let others = [&self.source, &self.video].into_iter().flatten().count()
            + usize::from(self.command.is_some());
        let shown = others + usize::from(self.picture.is_some());
        let is_late = !self.trouble.late.is_zero();
        let rules = [
            (shown > 1, "one of source, command, video and picture, not several"),
            (
                shown > 0 && self.pattern.is_some(),
                "pattern is for a camera without source, command, video and picture",
            ),
            (
                self.colour.is_some() && self.pattern != Some(Pattern::Solid),
                "color is that of pattern=solid, and of nothing else",
            ),
            (
                others > 0 && self.has_clock == Some(true),
                "text is for patterns and pictures, not for source, command and video",
            ),
            (
                others == 0 && self.end.is_some(),
                "end is for source, command and video; patterns and pictures have none",
            ),
            (
                self.pace == Pace::Client && is_late,
                "late is for frames that come by the clock, not for pace=client",
            ),
        ];
        rules.iter().find(|(is_broken, _)| *is_broken).map(|(_, rule)| *rule)
    }

    fn source(&self) -> Result<Box<dyn Source>, Errno> {
        if let Some(rule) = self.contradiction() {
            tell(rule);
            return Err(Errno::EINVAL);
        }
        if let Some(origin) = self.origin() {
            let usual = match origin {
                Origin::Command(..) => End::Hang,
                Origin::Path(..) | Origin::Video(_) => End::Repeat,
            };
            return Ok(Box::new(Feed::new(origin, self.end.unwrap_or(usual), self.rate)));
        }
        if let Some(path) = &self.picture {
            let pictures = Pictures::new(path, self.has_clock == Some(true));
            return Ok(Box::new(Painted::new(pictures.map_err(|error| {
                tell(&error);
                Errno::EIO
            })?)));
        }
        let pattern = self.pattern.unwrap_or(Pattern::Bars);
        let colour = self.colour.unwrap_or([0x80; 3]);
        let has_clock = self.has_clock.unwrap_or(pattern == Pattern::Bars);
        let patterns = Patterns::new(pattern, colour, has_clock, self.trouble.seed);
        Ok(Box::new(Painted::new(patterns)))
    }
}

/// A path, at which `check` looks: what is wrong with what is there is told.
fn look(
    value: &str,
    check: impl FnOnce(&Path) -> Result<(), String>,
    expected: &'static str,
) -> Result<PathBuf, OptionError> {
    let refused = OptionError::BadValue(expected);
    if value.is_empty() {
        return Err(refused);
    }
    let path = PathBuf::from(value);
    check(&path).map_err(|error| {
        tell(&error);
        refused
    })?;
    Ok(path)
}

fn tell(error: &str) {
    eprintln!("devmap: camera: {error}");
}

/// Whether frames can be read from there. A pipe is not opened: that waits for a writer.
fn check_source(path: &Path) -> Result<(), String> {
    let metadata = path.metadata().map_err(|error| named(path, error))?;
    if metadata.file_type().is_fifo() { Ok(()) } else { check_file(path) }
}

/// Whether there is a video, and what decodes it.
fn check_video(path: &Path) -> Result<(), String> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&paths).any(|path| path.join("ffmpeg").is_file()) {
        return Err("there is no ffmpeg in the directories of PATH".to_owned());
    }
    check_file(path)
}

fn check_file(path: &Path) -> Result<(), String> {
    let metadata = path.metadata().map_err(|error| named(path, error))?;
    if !metadata.is_file() {
        return Err(named(path, "it is no regular file"));
    }
    File::open(path).map(drop).map_err(|error| named(path, error))
}

fn named(path: &Path, error: impl fmt::Display) -> String {
    format!("{}: {error}", path.display())
}

/// The device: a capture device on a built-in source.
pub struct Camera<P: Platform>(Capture<P>);

impl<P: Platform> Camera<P> {
    /// Makes a camera; the first, number 0, where the options say no other.
    ///
    /// # Errors
    /// `ENOMEM`; `EIO` for a picture that has gone since the options were read;
    /// `EINVAL` for options that exclude each other.
    pub fn new(platform: &P, options: &Options) -> Result<Camera<P>, Errno> {
        let minor = options.minor.unwrap_or(0);
        let about = Description {
            card: format!("devmap camera {minor}"),
            bus_info: format!("platform:devmap-{minor:03}"),
            minor,
            offer: options.offer(),
            controls: controls::WEBCAM,
            pace: options.pace,
            trouble: options.trouble,
        };
        Ok(Camera(Capture::new(platform, about, options.source()?)?))
    }
}

impl<P: Platform> Device<P> for Camera<P> {
    type File = capture::File<P>;

    fn open(&self, open: &Open) -> Result<capture::File<P>, Errno> {
        self.0.open(open)
    }

    fn metadata(&self) -> Metadata {
        self.0.metadata()
    }

    fn class(&self) -> Option<Class> {
        self.0.class()
    }

    fn show(&self, attribute: &str, text: &mut dyn fmt::Write) -> fmt::Result {
        self.0.show(attribute, text)
    }

    fn mmap(&self, file: &capture::File<P>, area: &NewArea) -> Result<Plan<P::Memory>, Errno> {
        self.0.mmap(file, area)
    }

    fn read(&self, file: &capture::File<P>, transfer: &Transfer<'_>) -> Result<usize, Errno> {
        self.0.read(file, transfer)
    }

    fn ioctl(&self, file: &capture::File<P>, call: &Ioctl<'_>) -> Result<u32, Errno> {
        self.0.ioctl(file, call)
    }

    fn poll(&self, file: &capture::File<P>, table: &mut dyn PollTable<P::WaitQueue>) -> PollEvents {
        self.0.poll(file, table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_are_wrong_are_told_what_would_be_right() {
        let mut options = Options::default();
        for (key, value) in [
            ("size", "640"),
            ("size", "641x480"),
            ("size", "159x120"),
            ("size", "4000x3000"),
            ("fps", "0"),
            ("fps", "61"),
            ("color", "red"),
            ("color", "+12345"),
            ("picture", "/no/such/picture.png"),
            ("picture", "/dev/null"),
            ("source", "/no/such/pipe"),
            ("picture", ""),
            ("video", ""),
            ("source", ""),
            ("command", ""),
            ("unplug", "0"),
            ("late", "-1"),
        ] {
            let refused = options.set(key, value);
            assert!(matches!(refused, Err(OptionError::BadValue(_))), "{key}={value}");
        }
        assert_eq!(options.set("colour", "ffffff"), Err(OptionError::Unknown));
    }

    #[test]
    fn options_that_would_do_nothing_beside_others_are_refused() {
        let picture = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/camera.png");
        let contradiction = |given: &[(&str, &str)]| {
            let mut options = Options::default();
            for (key, value) in given {
                options.set(key, value).unwrap();
            }
            options.contradiction()
        };
        let picture = ("picture", picture);
        for (given, word) in [
            (&[picture, ("command", "cat")][..], "not several"),
            (&[picture, ("pattern", "box")], "pattern"),
            (&[("command", "cat"), ("pattern", "bars")], "pattern"),
            (&[("color", "ff0000")], "color"),
            (&[("color", "ff0000"), ("pattern", "box")], "color"),
            (&[picture, ("color", "ff0000")], "color"),
            (&[("command", "cat"), ("text", "on")], "text"),
            (&[("end", "stop")], "end"),
            (&[picture, ("end", "hang")], "end"),
            (&[("late", "1"), ("pace", "client")], "late"),
        ] {
            assert!(contradiction(given).is_some_and(|said| said.contains(word)), "{given:?}");
        }
        for given in [
            &[picture, ("text", "on"), ("end", "auto"), ("late", "0"), ("pace", "client")][..],
            &[("command", "cat"), ("text", "off"), ("end", "stop"), ("size", "320x240")],
            &[("pattern", "solid"), ("color", "ff0000"), ("text", "on"), ("late", "1")],
        ] {
            assert_eq!(contradiction(given), None, "{given:?}");
        }
    }

    #[test]
    fn a_path_says_the_number() {
        assert_eq!(minor_at(Path::new("/dev/video0")), Some(0));
        assert_eq!(minor_at(Path::new("/dev/video255")), Some(255));
        for other in ["/dev/video", "/dev/video256", "/dev/video01", "/dev/video+1", "/tmp/video1"]
        {
            assert_eq!(minor_at(Path::new(other)), None, "{other}");
        }
    }

    #[test]
    fn what_is_given_is_among_what_is_offered() {
        let mut options = Options::default();
        options.set("size", "1024x768").unwrap();
        options.set("fps", "24").unwrap();
        options.set("format", "grey").unwrap();
        let offer = options.offer();
        assert!(offer.sizes.contains(&Size::new(1024, 768)));
        assert!(offer.rates.contains(&24));
        assert_eq!(offer.first().pixels, PixelFormat::Grey);
        assert_eq!(offer.pixels.len(), 5);
    }
}
