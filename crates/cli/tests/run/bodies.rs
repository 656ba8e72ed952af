//! The tests that run on every home: here by an unmodified program, on the device `file`
//! of the supervised one, and beside it on the plain file.

use std::{fs, path::Path, process::Command};

use devmap_bodies::{BODIES, content};

use crate::harness::{Mode, Run, example, in_each_mode, start};

in_each_mode!(maps_of_a_file_do_what_linux_does);

fn maps_of_a_file_do_what_linux_does(mode: Mode) {
    let program = example("bodies");
    let program = program.to_str().expect("UTF-8");
    for (name, _) in BODIES {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name).to_str().expect("UTF-8").to_owned();
        let (file, shown) = (path("content"), path("shown/x"));
        fs::create_dir(path("shown")).expect("a directory");
        let fresh = || fs::write(&file, content(rustix::param::page_size())).expect("the file");
        fresh();
        let device = format!("{shown}=file:path={file},access=rw");
        let run = Run::new(mode, &[&device]);
        assert_eq!(run.prints(&[program, &shown, &file, name]), format!("ok {name}\n"));
        let after = fs::read(&file).expect("the file");
        fresh();
        let mut plain = Command::new(Path::new(program));
        plain.args([&file, &file, *name]);
        assert_eq!(start(plain).finish().well().stdout, format!("ok {name}\n"));
        assert!(fs::read(&file).expect("the file") == after, "{name} leaves another file behind");
    }
}
