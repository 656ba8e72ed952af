//! The client of `devmap demo`: an ordinary program that knows only the paths of two
//! devices and what they document. It would do the same with devices of the kernel's.
//! Nothing here knows of devmap.

use std::{
    env,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::{
        fd::AsFd,
        unix::fs::{FileTypeExt, MetadataExt},
    },
    process::{self, Command, ExitCode},
};

use devmap_sys::mapping::{Mapping, Protection, Sharing};
use rustix::io::Errno;

use crate::style::{BAD, GOOD, HEADING, NAME, QUIET};

/// The path of the device with the two areas.
pub const TWO_AREAS: &str = "/dev/mmap";
/// The path of the memory device.
pub const MEMORY: &str = "/dev/mem0";

/// The length of an area of the demo device, and of the memory device, in pages.
const PAGES: u64 = 16;
/// Where in the memory device the two processes leave their words.
const QUESTION_AT: usize = 0x1000;
const ANSWER_AT: usize = 0x2000;
/// How long the words are.
const TEXT: usize = 32;

/// Does what the demonstration shows; status 1 when anything is not as documented.
///
/// # Errors
/// That of the first call that failed.
pub fn run(second: bool) -> io::Result<ExitCode> {
    if second { be_second() } else { be_first() }
}

fn be_first() -> io::Result<ExitCode> {
    let pid = process::id();
    let page = rustix::param::page_size() as u64;
    let length = PAGES * page;
    let mut out = anstream::stdout().lock();
    let mut right = true;

    writeln!(out, "{HEADING}What process {pid} opened{HEADING:#}")?;
    let two_areas = open(TWO_AREAS)?;
    show(TWO_AREAS, &two_areas, &mut out)?;
    let memory = open(MEMORY)?;
    show(MEMORY, &memory, &mut out)?;

    let scattered = map(&two_areas, 0, length)?;
    let contiguous = map(&two_areas, length, length)?;
    let shared = map(&memory, 0, length)?;

    writeln!(out, "\n{HEADING}Its areas{HEADING:#} {QUIET}(/proc/{pid}/maps){QUIET:#}")?;
    let maps = fs::read_to_string("/proc/self/maps")?;
    for (mapping, what) in [
        (&scattered, "/dev/mmap, offset 0: the scattered area"),
        (&contiguous, "/dev/mmap, offset 16 pages: the contiguous area"),
        (&shared, "/dev/mem0, offset 0"),
    ] {
        let line = line_of(&maps, mapping.address()).unwrap_or("(no line)");
        right &= line.contains(" rw-s ");
        // The kernel pads the name to a column of its own.
        let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
        writeln!(out, "  {line}\n    {QUIET}{what}{QUIET:#}")?;
    }

    writeln!(out, "\n{HEADING}The patterns{HEADING:#}")?;
    right &= check_pattern(&mut out, "scattered", &scattered, 0xaffe)?;
    right &= check_pattern(&mut out, "contiguous", &contiguous, 0xdead)?;

    writeln!(out, "\n{HEADING}Sharing{HEADING:#}")?;
    let question = format!("Is anyone there? ({pid})");
    put(&shared, QUESTION_AT, &question)?;
    writeln!(out, "  process {pid} stored {NAME}{question}{NAME:#}")?;
    out.flush()?;
    let child = Command::new(env::current_exe()?).args(["demo-client", "--second"]).status()?;
    let answer = get(&shared, ANSWER_AT)?;
    right &= child.success() && answer.starts_with("Yes");
    writeln!(out, "  process {pid} loaded {NAME}{answer}{NAME:#}")?;

    writeln!(out, "\n{HEADING}What the devices refuse, as documented{HEADING:#}")?;
    for (path, file, offset, length, documented) in [
        (TWO_AREAS, &two_areas, 3 * page, page, (Errno::IO, "EIO")),
        (TWO_AREAS, &two_areas, 0, length + page, (Errno::IO, "EIO")),
        (MEMORY, &memory, length, page, (Errno::INVAL, "EINVAL")),
    ] {
        let (errno, name) = documented;
        let answer = map(file, offset, length).err().and_then(|error| error.raw_os_error());
        let (pages, at) = (length / page, offset / page);
        write!(out, "  {path}: length {pages:>2}, offset {at:>2} (pages)  ")?;
        match answer {
            Some(answer) if answer == errno.raw_os_error() => {
                writeln!(out, "{GOOD}{name}{GOOD:#}")?
            }
            other => {
                right = false;
                writeln!(out, "{BAD}{other:?} instead of {name}{BAD:#}")?;
            }
        }
    }
    Ok(if right { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn be_second() -> io::Result<ExitCode> {
    let pid = process::id();
    let mut out = anstream::stdout().lock();
    let memory = open(MEMORY)?;
    let shared = map(&memory, 0, PAGES * rustix::param::page_size() as u64)?;
    let question = get(&shared, QUESTION_AT)?;
    let answer = format!("Yes, I am. ({pid})");
    put(&shared, ANSWER_AT, &answer)?;
    writeln!(
        out,
        "  process {pid} opened {MEMORY} itself, loaded {NAME}{question}{NAME:#}, \
         stored {NAME}{answer}{NAME:#}"
    )?;
    Ok(ExitCode::SUCCESS)
}

fn open(path: &str) -> io::Result<File> {
    let opened = OpenOptions::new().read(true).write(true).open(path);
    opened.map_err(|error| io::Error::new(error.kind(), format!("cannot open {path}: {error}")))
}

/// Shows what `stat` says of an open device.
fn show(path: &str, file: &File, out: &mut impl Write) -> io::Result<()> {
    let stat = file.metadata()?;
    let number = stat.rdev();
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let kind =
        if stat.file_type().is_char_device() { "character device" } else { "no character device" };
    writeln!(out, "  {NAME}{path}{NAME:#}  {kind} {major}:{minor}")
}

fn map(file: &File, offset: u64, length: u64) -> io::Result<Mapping> {
    Mapping::new(file.as_fd(), offset, length as usize, Protection::ReadWrite, Sharing::Shared)
}

/// The line of `/proc/PID/maps` of the area that holds `address`.
fn line_of(maps: &str, address: usize) -> Option<&str> {
    maps.lines().find(|line| {
        let range = line.split_once(' ').and_then(|(range, _)| range.split_once('-'));
        let Some((start, end)) = range else { return false };
        let parse = |text| usize::from_str_radix(text, 16).unwrap_or(0);
        (parse(start)..parse(end)).contains(&address)
    })
}

/// Compares every 32-bit word with what the device documents: `(tag << 16) + i` and
/// `(0xbeef << 16) + i` for every even `i`.
fn check_pattern(
    out: &mut impl Write,
    name: &str,
    mapping: &Mapping,
    tag: u32,
) -> io::Result<bool> {
    let words = mapping.len() / 4;
    let mut right = 0;
    for word in 0..words {
        let even = word as u32 & !1;
        let documented = if word % 2 == 0 { (tag << 16) + even } else { (0xbeef << 16) + even };
        right += usize::from(load(mapping, word)? == documented);
    }
    write!(out, "  {name:<11}")?;
    for word in 0..4 {
        write!(out, "{NAME}{:08x}{NAME:#} ", load(mapping, word)?)?;
    }
    let style = if right == words { GOOD } else { BAD };
    writeln!(out, "...  {style}{right} of {words} words right{style:#}")?;
    Ok(right == words)
}

fn load(mapping: &Mapping, word: usize) -> io::Result<u32> {
    let mut bytes = [0; 4];
    mapping.read(word * 4, &mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

fn put(mapping: &Mapping, at: usize, text: &str) -> io::Result<()> {
    let mut bytes = [0; TEXT];
    let length = text.len().min(TEXT);
    bytes[..length].copy_from_slice(&text.as_bytes()[..length]);
    mapping.write(at, &bytes)
}

fn get(mapping: &Mapping, at: usize) -> io::Result<String> {
    let mut bytes = [0; TEXT];
    mapping.read(at, &mut bytes)?;
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(TEXT);
    Ok(String::from_utf8_lossy(&bytes[..end]).into_owned())
}
