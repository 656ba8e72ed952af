//! The examples, run as the README says.

use std::{env, path::PathBuf, process::Command};

/// An example that cargo built beside this test.
fn example(name: &str) -> PathBuf {
    let test = env::current_exe().expect("this program's path");
    let profile = test.ancestors().nth(2).expect("target/PROFILE/deps/TEST");
    profile.join("examples").join(name)
}

/// What a program prints when the example serves it.
fn output(name: &str, program: &[&str]) -> String {
    let output = Command::new(example(name)).args(program).output().expect("the example starts");
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} {program:?}: {}: {message}", output.status);
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn hello_says_hello() {
    assert_eq!(output("hello", &["cat", "/dev/hello"]), "Hello from user space.\n");
}

#[test]
fn an_authors_server_has_the_options_of_run() {
    let program = ["--device", "/dev/zero0=zero", "--stats", "--", "head", "-c4", "/dev/zero0"];
    assert_eq!(output("hello", &program), "\0\0\0\0");
    let twice = Command::new(example("hello"))
        .args(["--device", "/dev/hello=demo", "true"])
        .output()
        .expect("the example starts");
    assert_eq!(twice.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&twice.stderr).contains("twice"));
    let help = Command::new(example("hello")).arg("--help").output().expect("the example starts");
    let help = String::from_utf8_lossy(&help.stdout);
    for line in [
        "Runs a program that finds the device /dev/hello\n",
        "Usage: hello [OPTIONS] -- PROGRAM [ARG]...\n",
        "       hello [OPTIONS] --serve <SOCKET>\n",
        "Exit status: ",
    ] {
        assert!(help.contains(line), "{help}");
    }
}

#[test]
fn both_areas_of_the_demo_are_mapped_by_python() {
    let script = "
import mmap, struct
device = open('/dev/areas', 'r+b', buffering=0)
for offset, tag in (0, 0xaffe), (16 * mmap.PAGESIZE, 0xdead):
    area = mmap.mmap(device.fileno(), 16 * mmap.PAGESIZE, offset=offset)
    words = struct.unpack('<%dI' % (len(area) // 4), area)
    for i in range(0, len(words), 2):
        assert words[i:i + 2] == ((tag << 16) + i, (0xbeef << 16) + i), (hex(tag), i)
try:
    mmap.mmap(device.fileno(), 17 * mmap.PAGESIZE)
except OSError as error:
    print(error.errno)
";
    assert_eq!(output("demo_areas", &["python3", "-c", script]), "5\n");
}
