//! Rules of the source text that no compiler checks, as tests. Each rule is a function
//! of text, and is itself tested with text that breaks it.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::run::{cargo, command, root};

/// The places where `unsafe` may stand.
const UNSAFE_ALLOWED: [&str; 2] = ["crates/sys/", "kernel/"];

/// The longest file, in lines.
const LONGEST: usize = 800;

/// Licences that this project's own permit in what it links.
const LICENCES: [&str; 11] = [
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    // Wants README.md to name the Independent JPEG Group.
    "IJG",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Zlib",
];

/// A file of the project: its path below the root, and its text.
struct Source {
    path: String,
    text: String,
}

/// The project's own text files of these kinds, whether committed yet or not.
fn sources(extensions: &[&str]) -> Vec<Source> {
    let output = command("git", &["ls-files", "-co", "--exclude-standard"])
        .output()
        .expect("git lists the project's files");
    assert!(output.status.success(), "git ls-files failed");
    let list = String::from_utf8(output.stdout).expect("paths are UTF-8");
    let paths: BTreeSet<&str> = list.lines().collect();
    let sources: Vec<Source> = paths
        .into_iter()
        .filter(|path| {
            let extension = Path::new(path).extension().and_then(|text| text.to_str());
            extension.is_some_and(|extension| extensions.contains(&extension))
        })
        // A file that was deleted, but not yet from the index, has no text.
        .filter_map(|path| {
            let text = fs::read_to_string(root().join(path)).ok()?;
            Some(Source { path: path.to_owned(), text })
        })
        .collect();
    assert!(!sources.is_empty(), "no files of the kinds {extensions:?}");
    sources
}

/// Fails with every place that breaks the rule.
fn holds(rule: fn(&Source) -> Vec<String>, extensions: &[&str]) {
    let broken: Vec<String> = sources(extensions)
        .iter()
        .flat_map(|source| rule(source).into_iter().map(|what| format!("{}: {what}", source.path)))
        .collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// What the rule says of a text.
fn says(rule: fn(&Source) -> Vec<String>, path: &str, text: &str) -> bool {
    !rule(&Source { path: path.to_owned(), text: text.to_owned() }).is_empty()
}

/// Whether `text` has `word` in it as a word of its own.
fn has_word(text: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        !text[..at].ends_with(is_part) && !text[at + word.len()..].starts_with(is_part)
    })
}

/// A line without its comment. Good enough for what is looked for here.
fn code(line: &str) -> &str {
    line.split_once("//").map_or(line, |(code, _)| code)
}

fn unsafe_outside(source: &Source) -> Vec<String> {
    if UNSAFE_ALLOWED.iter().any(|place| source.path.starts_with(place)) {
        return Vec::new();
    }
    // Not the word itself, which this file cannot do without.
    let keyword = concat!("un", "safe");
    let mut broken = Vec::new();
    for (number, line) in source.text.lines().enumerate() {
        if has_word(code(line), keyword) {
            broken.push(format!("line {}: {keyword} outside of {UNSAFE_ALLOWED:?}", number + 1));
        }
    }
    let is_root = ["src/lib.rs", "src/main.rs"].iter().any(|root| source.path.ends_with(root));
    let forbids = format!("#![forbid({keyword}_code)]");
    if is_root && !source.text.lines().any(|line| line == forbids) {
        broken.push(format!("has no {forbids}"));
    }
    broken
}

#[test]
fn unsafe_stands_in_one_crate() {
    assert!(says(unsafe_outside, "crates/a/src/b.rs", concat!("un", "safe { f() }")));
    assert!(says(unsafe_outside, "crates/a/src/lib.rs", "//! Nothing.\n"));
    assert!(!says(unsafe_outside, "crates/a/src/b.rs", "// It is not unsafe."));
    assert!(!says(unsafe_outside, "crates/sys/src/lib.rs", concat!("un", "safe { f() }")));
    holds(unsafe_outside, &["rs"]);
}

fn too_long(source: &Source) -> Vec<String> {
    let lines = source.text.lines().count();
    if lines > LONGEST { vec![format!("{lines} lines, more than {LONGEST}")] } else { Vec::new() }
}

#[test]
fn no_file_is_too_long() {
    assert!(says(too_long, "a.rs", &"\n".repeat(LONGEST + 1)));
    assert!(!says(too_long, "a.rs", &"\n".repeat(LONGEST)));
    holds(too_long, &["rs", "c", "h", "sh", "py"]);
}

fn unfinished(source: &Source) -> Vec<String> {
    let marks = [
        concat!("to", "do!"),
        concat!("unimple", "mented!"),
        concat!("FIX", "ME"),
        concat!("#[ig", "nore"),
    ];
    marks
        .iter()
        .filter(|mark| source.text.contains(**mark))
        .map(|mark| format!("{mark} is left"))
        .collect()
}

#[test]
fn nothing_is_left_unfinished() {
    assert!(says(unfinished, "a.rs", concat!("#[ig", "nore = \"slow\"]")));
    assert!(!says(unfinished, "a.rs", "fn ignore() {}"));
    holds(unfinished, &["rs", "c", "h", "sh", "py"]);
}

fn without_introduction(source: &Source) -> Vec<String> {
    if source.text.starts_with("//!") { Vec::new() } else { vec!["does not open with //!".into()] }
}

#[test]
fn every_module_says_what_lives_in_it() {
    assert!(says(without_introduction, "a.rs", "use std::fs;\n"));
    holds(without_introduction, &["rs"]);
}

/// What `cargo metadata` says.
fn metadata() -> Value {
    let output = cargo(&["metadata", "--format-version", "1", "--locked"])
        .output()
        .expect("cargo tells its metadata");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo's metadata are JSON")
}

fn packages(metadata: &Value) -> &[Value] {
    metadata["packages"].as_array().expect("packages")
}

fn name(value: &Value) -> &str {
    value["name"].as_str().expect("a name")
}

/// The packages of the workspace: those that come from no registry.
fn members(metadata: &Value) -> impl Iterator<Item = &Value> {
    packages(metadata).iter().filter(|package| package["source"].is_null())
}

fn is_allowed(licence: &str) -> bool {
    let mode = spdx::ParseMode::LAX;
    spdx::Expression::parse_mode(licence, mode).is_ok_and(|expression| {
        expression.evaluate(|requirement| {
            let id = requirement.license.id();
            requirement.addition.is_none() && id.is_some_and(|id| LICENCES.contains(&id.name))
        })
    })
}

#[test]
fn licences_are_allowed() {
    assert!(is_allowed("MIT/Apache-2.0"));
    assert!(is_allowed("GPL-3.0-only OR MIT"));
    assert!(!is_allowed("GPL-3.0-only"));
    assert!(!is_allowed("MIT AND GPL-3.0-only"));
    assert!(!is_allowed(""));
    for package in packages(&metadata()) {
        let licence = package["license"].as_str().unwrap_or_default();
        assert!(is_allowed(licence), "{} has the licence {licence:?}", name(package));
    }
}

#[test]
fn dependencies_point_the_right_way() {
    for package in members(&metadata()) {
        let package_name = name(package);
        let needs: Vec<&str> =
            package["dependencies"].as_array().expect("dependencies").iter().map(name).collect();
        match package_name {
            "devmap-driver" => assert!(needs.is_empty(), "the driver API depends on {needs:?}"),
            "devmap-devices" | "devmap-mm" => assert_eq!(needs, ["devmap-driver"]),
            "devmap-cli" => {}
            _ => assert!(!needs.contains(&"devmap-cli"), "{package_name} depends on the command"),
        }
    }
}

#[test]
fn architecture_gives_a_reason_for_each_dependency() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let metadata = metadata();
    let named: BTreeSet<&str> = members(&metadata)
        .flat_map(|package| package["dependencies"].as_array().expect("dependencies"))
        .filter(|dependency| dependency["path"].is_null())
        .map(name)
        .collect();
    let missing: Vec<_> =
        named.into_iter().filter(|name| !text.contains(&format!("| `{name}` |"))).collect();
    assert!(missing.is_empty(), "no row in ARCHITECTURE.md for {missing:?}");
}

#[test]
fn the_readme_shows_the_hello_example() {
    let path: PathBuf = root().join("crates/devmap/examples/hello.rs");
    let example = fs::read_to_string(path).expect("the hello example");
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md");
    assert!(example.lines().count() < 30, "the smallest device takes 30 lines or more");
    assert!(readme.contains(&example), "the device in README.md is not examples/hello.rs");
}
