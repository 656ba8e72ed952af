//! The programs of tests/conformance, each in every mode and linked both ways, and what
//! they note against COMPAT.md.

use crate::harness::{Client, Linking, Mode, Run, in_each_mode, python, root};

/// Runs NAME.c on a device of this name at `/dev/dut`. What does not hold natively
/// either it prints as a note; a FAIL is one.
fn passes(mode: Mode, name: &str, device: &str) {
    let known = if mode.is_trapped() { known_in_trapped_mode(name) } else { Vec::new() };
    passes_in(name, &known, &|| Run::new(mode, &[&format!("/dev/dut={device}")]));
}

/// The same, of any run with a device at `/dev/dut`, but for the lines that are `known`
/// to fail there, which must.
pub fn passes_in(name: &str, known: &[String], run: &dyn Fn() -> Run) {
    for linking in [Linking::Dynamic, Linking::Static] {
        let client = Client::compile(name, linking);
        let finished = run().output(&[&client.path(), "/dev/dut"]);
        let failed = finished.stdout.lines().filter_map(|line| line.strip_prefix("FAIL "));
        let names: Vec<&str> = failed.filter_map(|line| line.split(':').next()).collect();
        assert_eq!(names, known, "{name}, {linking:?}: {finished:?}");
        if known.is_empty() {
            assert!(finished.stdout.ends_with("ok all\n"), "{name}, {linking:?}: {finished:?}");
        }
        finished.exited(i32::from(!known.is_empty()));
    }
}

/// The lines of a program that COMPAT.md says fail in trapped mode.
pub fn known_in_trapped_mode(program: &str) -> Vec<String> {
    const HEADING: &str = "These lines of the programs in tests/conformance fail in trapped mode";
    let compat = std::fs::read_to_string(root().join("COMPAT.md")).expect("COMPAT.md");
    let table = compat.split_once(HEADING).expect("the table").1;
    let table = table.split("\n## ").next().expect("a section");
    let row = table.lines().find_map(|line| line.strip_prefix(&format!("| {program} |")));
    let names = row.unwrap_or_default().split('`').skip(1).step_by(2);
    names.map(str::to_owned).collect()
}

macro_rules! programs {
    ($($test:ident: $name:literal on $device:literal,)+) => {
        $(fn $test(mode: Mode) {
            passes(mode, $name, $device);
        })+
        in_each_mode!($($test,)+ python_maps_by_itself);
        const PROGRAMS: &[&str] = &[$($name),+];
    };
}

programs! {
    calls: "calls" on "mem",
    demo: "demo" on "demo",
    events: "events" on "events",
    hello: "hello" on "hello",
    mem: "mem" on "mem",
    pattern: "pattern" on "pattern",
    pointers: "pointers" on "events",
    wild: "wild" on "mem",
    zero: "zero" on "zero",
}

fn python_maps_by_itself(mode: Mode) {
    let script = root().join("tests/conformance/client.py");
    let script = script.to_str().expect("UTF-8");
    let run = Run::new(mode, &["/dev/a=demo", "/dev/b=mem"]);
    let text = run.prints(&[python(), script, "/dev/a", "/dev/b"]);
    assert!(text.ends_with("ok all\n"), "{text}");
}

#[test]
fn no_program_is_left_out() {
    let entries = std::fs::read_dir(root().join("tests/conformance")).expect("the programs");
    let names = entries.filter_map(|entry| {
        let path = entry.expect("an entry").path();
        // What is for a native kernel alone says so in its name; the camera's client is
        // run by the tests of the camera.
        let is_program = path.extension().is_some_and(|extension| extension == "c")
            && !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("native"))
            // In `files`.
            && path.file_stem().is_some_and(|name| name != "file" && name != "camera");
        is_program.then(|| path.file_stem().expect("a name").to_string_lossy().into_owned())
    });
    let mut names: Vec<String> = names.collect();
    names.sort();
    assert_eq!(names, PROGRAMS);
}
