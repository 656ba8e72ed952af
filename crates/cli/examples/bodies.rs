//! The tests of `devmap-bodies` as a program, to be run under `devmap run`:
//! `bodies FILE CONTENT NAME` runs one of them on the file, whose content is also seen in
//! another.

use std::{env, path::Path, process::ExitCode};

use devmap_bodies::{BODIES, NativeHome};

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [file, content, name] = &arguments[..] else {
        eprintln!("usage: bodies FILE CONTENT NAME");
        return ExitCode::from(2);
    };
    let Some((_, body)) = BODIES.iter().find(|(known, _)| known == name) else {
        eprintln!("bodies: no test {name}");
        return ExitCode::from(2);
    };
    body(&NativeHome::new(Path::new(file), Path::new(content)));
    println!("ok {name}");
    ExitCode::SUCCESS
}
