//! All hosted unsafe code of devmap: seccomp, ptrace, memory, processes.

