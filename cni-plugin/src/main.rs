//! The program; all of it is in the library, where tests and fuzz targets
//! reach it too.
#![forbid(unsafe_code)]

/// musl's allocator gives each small group of pages back to the kernel as soon
/// as it is free, and gets it anew for the next: a third of all system calls
/// and page faults of a call that lives for two milliseconds.
#[global_allocator]
static MEMORY: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

/// As much as most calls need, in bytes: the allocator asks the kernel once,
/// for 256 KiB, and notes what is left in the same page as the end of it.
const ENOUGH: usize = 255 * 1024;

fn main() -> std::process::ExitCode {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(ENOUGH)));
    cni_plugin::main()
}
