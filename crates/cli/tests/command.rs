//! The command line: what is printed where, and with which exit status. What a run
//! does for its program is tested with the home that does it.

use std::process::{Command, Output};

use serde_json::Value;

fn devmap(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_devmap")).args(arguments).output().expect("the command starts")
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("text")
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("text")
}

/// That devmap refuses this with status 125 and these words, and nothing runs.
fn refused(arguments: &[&str], words: &[&str]) {
    let output = devmap(&[arguments, &["--", "echo", "ran"]].concat());
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(125), "{arguments:?}: {message}");
    for word in words {
        assert!(message.contains(word), "{arguments:?}: {message}");
    }
    assert_eq!(stdout(&output), "");
}

#[test]
fn help_is_no_failure() {
    for arguments in [&["--help"][..], &["run", "--help"], &["--version"]] {
        let output = devmap(arguments);
        assert_eq!(output.status.code(), Some(0));
        assert!(stdout(&output).contains("devmap"));
    }
}

#[test]
fn wrong_use_is_devmaps_own_failure() {
    for arguments in [&["run"][..], &["run", "--no-such", "true"], &["no-such"], &[]] {
        assert_eq!(devmap(arguments).status.code(), Some(125), "{arguments:?}");
    }
}

#[test]
fn a_wrong_device_is_refused_before_anything_runs() {
    refused(&["run", "--device", "/dev/mmap=dmeo"], &["devmap: ", "dmeo", "did you mean \"demo\""]);
    refused(&["run", "-d", "/dev/m=mem:sise=1M"], &["no option \"sise\"", "\"size\""]);
    refused(&["run", "-d", "/dev/m=mem:size=much"], &["\"much\"", "a number of bytes"]);
    refused(&["run", "-d", "mmap=demo"], &["not absolute", "/dev/mmap"]);
    refused(&["run", "-d", "/no/such/mmap=demo"], &["\"/no/such\" does not exist"]);
    refused(&["run", "-d", "/dev/m=mem", "-d", "/dev/m=demo"], &["\"/dev/m\"", "twice"]);
}

#[test]
fn a_trace_that_nobody_meant_is_refused() {
    let serve = ["-s", "/no/such/socket", "-d", "/dev/m=mem"];
    for (command, rest) in [("run", &["true"][..]), ("serve", &serve)] {
        let with = |options: &[&str]| devmap(&[&[command], options, rest].concat());
        let format = with(&["--trace-format", "json"]);
        assert_eq!(format.status.code(), Some(125), "{command:?}");
        assert!(stderr(&format).contains("--trace <FILE>"), "{}", stderr(&format));
        let dash = with(&["--trace", "-"]);
        assert_eq!(dash.status.code(), Some(125), "{command:?}");
        for word in ["/dev/stderr", "./-"] {
            assert!(stderr(&dash).contains(word), "{}", stderr(&dash));
        }
    }
}

#[test]
fn devices_are_listed() {
    let text = devmap(&["devices"]);
    assert!(text.status.success());
    assert!(stdout(&text).contains(":size=BYTES"));
    let json: Value = serde_json::from_slice(&devmap(&["devices", "--json"]).stdout).expect("JSON");
    let devices = json.as_array().expect("a list");
    assert!(devices.iter().any(|device| device["name"] == "demo"));
    let mem = devices.iter().find(|device| device["name"] == "mem").expect("mem");
    assert_eq!(mem["options"][0]["name"], "size");
}

/// The verdict is that of the machine; it has to agree with itself.
#[test]
fn doctor_reports_what_it_found() {
    let text = devmap(&["doctor"]);
    let json = devmap(&["doctor", "--json"]);
    assert_eq!(text.status.code(), json.status.code());
    let report: Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(report["can_run"], json.status.code() == Some(0));
    let findings = report["findings"].as_array().expect("findings");
    for name in ["seccomp notifications", "ptrace of a descendant", "mount namespace"] {
        let finding = findings.iter().find(|finding| finding["name"] == name).expect(name);
        assert!(stdout(&text).contains(name));
        // What is refused comes with what that costs.
        if finding["permitted"] == false {
            assert!(stdout(&text).contains(finding["cost_of_lack"].as_str().expect("a cost")));
        }
    }
}

#[test]
fn the_demonstration_shows_what_it_promises() {
    let output = devmap(&["demo"]);
    let text = stdout(&output);
    assert!(output.status.success(), "{text}\n{}", stderr(&output));
    for shown in [
        "character device",
        " rw-s ",
        "16384 of 16384 words right",
        "Yes, I am.",
        "offset 16 (pages)  EINVAL",
        "All as it should be.",
    ] {
        assert!(text.contains(shown), "{shown} is not in:\n{text}");
    }
    // The trace has the calls of both processes, and each open is released.
    let trace = text.split_once("What devmap saw").expect("the trace").1;
    let count = |word: &str| trace.matches(word).count();
    assert_eq!(count(" open("), 3, "{trace}");
    assert_eq!(count(" release("), 3, "{trace}");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let devmap = env!("CARGO_BIN_EXE_devmap");
    let script = format!("'{devmap}' completions bash; echo $? >&2");
    let output =
        Command::new("sh").args(["-c", &format!("({script}) | true")]).output().expect("sh");
    assert_eq!(stderr(&output).trim(), "0");
}

/// The text of a manual page, without what roff escapes.
fn page(arguments: &[&str]) -> String {
    let output = devmap(&[&["man"], arguments].concat());
    assert!(output.status.success(), "{arguments:?}");
    stdout(&output).replace('\\', "")
}

#[test]
fn help_and_manual_tell_statuses_and_use() {
    let usage = "devmap run [OPTIONS] -- PROGRAM [ARG]...";
    let help = devmap(&["run", "--help"]);
    let short = devmap(&["run", "-h"]);
    let manual = page(&["run"]);
    assert!(stdout(&help).contains(usage) && stdout(&short).contains(usage));
    for text in [stdout(&help), &manual, stdout(&devmap(&["--help"])), &page(&[])] {
        assert!(text.to_lowercase().contains("exit status"), "{text}");
        for status in ["125", "126", "127"] {
            assert!(text.contains(status), "{text}");
        }
    }
    let version = env!("CARGO_PKG_VERSION");
    let names =
        ["run", "serve", "maps", "devices", "doctor", "demo", "bench", "man", "completions"];
    for name in names {
        let text = page(&[name]);
        let upper = name.to_uppercase();
        let title = format!(".TH DEVMAP-{upper} 1 \" \" \"devmap {version}\" \"User Commands\"\n");
        assert!(text.contains(&title), "{text}");
        let help = devmap(&[name, "--help"]);
        let (_, usage) = stdout(&help).split_once("Usage: devmap ").expect("usage");
        let usage =
            usage.lines().next().and_then(|line| line.strip_prefix(name)).expect("the name");
        assert!(text.contains(&format!("fBdevmap {name}fR{usage}\n")), "{text}");
        assert!(!text.contains(".SH EXTRA"), "{text}");
        assert!(page(&[]).contains(&format!("devmap-{name}(1)")), "{name}");
    }
}

#[test]
fn manual_and_completions_come_from_the_same_definition() {
    let manual = devmap(&["man", "run"]);
    assert!(manual.status.success());
    assert!(stdout(&manual).contains("trace\\-format"));
    assert!(stdout(&devmap(&["man"])).contains("doctor"));
    assert_eq!(devmap(&["man", "no-such"]).status.code(), Some(125));
    for shell in ["bash", "zsh", "fish"] {
        let output = devmap(&["completions", shell]);
        assert!(output.status.success());
        assert!(stdout(&output).contains("trace-format"), "{shell}");
    }
}
