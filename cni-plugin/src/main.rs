//! The program; all of it is in the library, where tests and fuzz targets
//! reach it too.
#![forbid(unsafe_code)]

/// musl's allocator gives each small group of pages back to the kernel as soon
/// as it is free, and gets it anew for the next: a third of all system calls
/// and page faults of a call that lives for two milliseconds.
#[global_allocator]
static MEMORY: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> std::process::ExitCode {
    cni_plugin::main()
}
