//! The program; all of it is in the library, where tests and fuzz targets
//! reach it too.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    cni_plugin::main()
}
