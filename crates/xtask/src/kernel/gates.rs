//! Gates on the Rust half's object: what it must not hold to be run in a kernel. Each
//! is tried with an object that breaks it.
//!
//! What does not live here: objtool, which Kbuild runs on the same object.

use std::{path::Path, process::Command};

use crate::Result;

/// What the Rust half may call that is not its own: the shim's functions (by their
/// prefix), the kernel's own mitigations, and what the compiler itself emits.
const ALLOWED_SYMBOLS: [&str; 6] =
    ["memcpy", "memmove", "memset", "memcmp", "strlen", "__x86_return_thunk"];
const ALLOWED_PREFIXES: [&str; 2] = ["devmap_", "__x86_indirect_thunk_"];

/// The relocations that a module's loader knows (`apply_relocate_add` of
/// arch/x86/kernel/module.c). GOTPCREL, of which it knows nothing, is the one that a
/// wrong relocation model gives.
const ALLOWED_RELOCATIONS: [&str; 6] = [
    "R_X86_64_64",
    "R_X86_64_PC64",
    "R_X86_64_32",
    "R_X86_64_32S",
    "R_X86_64_PC32",
    "R_X86_64_PLT32",
];

/// Checks an object.
///
/// # Errors
/// Every place that breaks a gate.
pub fn check(object: &Path) -> Result {
    let mut broken = Vec::new();
    let listing = output("objdump", &["-d", "--no-show-raw-insn"], object)?;
    if !listing.lines().any(|line| instruction(line).is_some()) {
        broken.push("holds no instruction".to_owned());
    }
    broken.extend(instructions(&listing));
    broken.extend(symbols(&output("nm", &["-u", "-P"], object)?));
    broken.extend(relocations(&output("objdump", &["-r"], object)?));
    if broken.is_empty() {
        return Ok(());
    }
    broken.dedup();
    Err(format!("{} cannot run in a kernel:\n  {}", object.display(), broken.join("\n  ")).into())
}

fn output(program: &str, arguments: &[&str], object: &Path) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .arg(object)
        .output()
        .map_err(|error| format!("{program}: {error}; package binutils has it"))?;
    if !output.status.success() {
        return Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// The instruction of a line such as `  1f:\tmov    %rax,%rbx`.
fn instruction(line: &str) -> Option<&str> {
    let (address, instruction) = line.trim_start().split_once(":\t")?;
    u64::from_str_radix(address, 16).is_ok().then_some(instruction)
}

/// Instructions that use registers which the kernel does not save, or memory below
/// the stack pointer, where an interrupt writes.
fn instructions(listing: &str) -> Vec<String> {
    let mut broken = Vec::new();
    let mut function = "";
    for line in listing.lines() {
        if let Some(name) = line.strip_suffix(">:") {
            function = name.split_once('<').map_or(name, |(_, name)| name);
        }
        let Some(instruction) = instruction(line) else { continue };
        // The text after # or < names addresses.
        let text = instruction.split(['#', '<']).next().unwrap_or_default();
        if uses_vectors(text) {
            broken.push(format!("SSE or x87 in {function}: {}", text.trim()));
        }
        if reaches_below_stack(text) {
            broken.push(format!("red zone in {function}: {}", text.trim()));
        }
    }
    broken
}

fn uses_vectors(text: &str) -> bool {
    // %mm, %xmm, %ymm, %zmm, and %st of the x87.
    ["%mm", "%xmm", "%ymm", "%zmm", "%st"].iter().any(|register| text.contains(register))
}

fn reaches_below_stack(text: &str) -> bool {
    // `lea` only computes an address: it moves the stack pointer.
    !text.starts_with("lea")
        && text.match_indices("(%rsp").any(|(at, _)| {
            let displacement =
                text[..at].rsplit(|c: char| !c.is_ascii_hexdigit() && c != 'x' && c != '-').next();
            displacement.is_some_and(|displacement| displacement.starts_with('-'))
        })
}

fn symbols(listing: &str) -> Vec<String> {
    listing
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| {
            !ALLOWED_SYMBOLS.contains(name)
                && !ALLOWED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        })
        .map(|name| format!("undefined symbol {name}"))
        .collect()
}

fn relocations(listing: &str) -> Vec<String> {
    listing
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1))
        .filter(|kind| kind.starts_with("R_") && !ALLOWED_RELOCATIONS.contains(kind))
        .map(|kind| format!("relocation {kind}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::{env, fs};

    use super::check;

    /// What the gates say of an object assembled from this text.
    fn verdict(name: &str, assembly: &str) -> String {
        let place = env::temp_dir().join(format!("xtask-gate-{name}-{}", std::process::id()));
        fs::create_dir_all(&place).unwrap();
        let (source, object) = (place.join("a.s"), place.join("a.o"));
        fs::write(&source, assembly).unwrap();
        let status = std::process::Command::new("cc")
            .arg("-c")
            .arg(&source)
            .arg("-o")
            .arg(&object)
            .status()
            .unwrap();
        assert!(status.success());
        let verdict = check(&object).map_or_else(|error| error.to_string(), |()| "ok".to_owned());
        fs::remove_dir_all(&place).unwrap();
        verdict
    }

    #[test]
    fn a_sound_object_passes() {
        let sound = "f: lea -8(%rsp), %rsp\n mov 8(%rsp), %rax\n mov -8(%rbp), %rax\n \
                     call memcpy@PLT\n call devmap_log\n jmp __x86_return_thunk\n";
        assert_eq!(verdict("sound", sound), "ok");
    }

    #[test]
    fn sse_is_refused() {
        assert!(verdict("sse", "f: movups %xmm0, (%rdi)\n").contains("SSE or x87 in f"));
        assert!(verdict("x87", "f: fadd %st(1), %st\n").contains("SSE or x87 in f"));
        assert!(verdict("mmx", "f: movq %mm0, (%rdi)\n").contains("SSE or x87 in f"));
    }

    #[test]
    fn the_red_zone_is_refused() {
        assert!(verdict("zone", "f: mov %rax, -8(%rsp)\n").contains("red zone in f"));
        let indexed = "f: mov -0x80(%rsp,%rcx,8), %rax\n";
        assert!(verdict("zone-indexed", indexed).contains("red zone in f"));
    }

    #[test]
    fn unknown_symbols_are_refused() {
        let says = verdict("symbol", "f: call printf\n");
        assert!(says.contains("undefined symbol printf"), "{says}");
    }

    #[test]
    fn got_relocations_are_refused() {
        let says = verdict("got", "f: mov devmap_log@GOTPCREL(%rip), %rax\n");
        assert!(says.contains("GOTPCREL"), "{says}");
    }

    #[test]
    fn an_empty_object_is_refused() {
        assert!(verdict("empty", "").contains("holds no instruction"));
    }
}
