//! The programs of tests/conformance, each in every mode and linked both ways, and what
//! they note against COMPAT.md.

use crate::harness::{Client, Linking, Mode, Run, in_each_mode, python, root};

/// Runs NAME.c on a device of this name at `/dev/dut`. What does not hold natively
/// either it prints as a note; a FAIL is one.
fn passes(mode: Mode, name: &str, device: &str) {
    for linking in [Linking::Dynamic, Linking::Static] {
        let client = Client::compile(name, linking);
        let device = format!("/dev/dut={device}");
        let finished = Run::new(mode, &[&device]).output(&[&client.path(), "/dev/dut"]);
        let failed: Vec<&str> =
            finished.stdout.lines().filter(|line| line.starts_with("FAIL")).collect();
        assert!(failed.is_empty(), "{name}, {linking:?}: {failed:#?}\n{}", finished.stderr);
        assert!(finished.stdout.ends_with("ok all\n"), "{name}, {linking:?}: {finished:?}");
        finished.well();
    }
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
        // What is for a native kernel alone says so in its name.
        let is_program = path.extension().is_some_and(|extension| extension == "c")
            && !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("native"));
        is_program.then(|| path.file_stem().expect("a name").to_string_lossy().into_owned())
    });
    let mut names: Vec<String> = names.collect();
    names.sort();
    assert_eq!(names, PROGRAMS);
}
