//! The first process: see the program's text.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};

/// How long a test may take on a processor that is emulated, beside others.
const LIMIT: Duration = Duration::from_secs(180);

/// Runs the tests of these names and switches the machine off.
pub(crate) fn main(tests: &[String]) -> ! {
    println!("guest: begin");
    for (kind, at) in [("proc", "/proc"), ("sysfs", "/sys")] {
        std::fs::create_dir_all(at).expect(at);
        mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&str>)
            .expect(at);
    }
    for folder in ["/run", "/var/lib", "/tmp"] {
        std::fs::create_dir_all(folder).expect(folder);
    }
    load(Path::new("/modules"));
    for name in tests {
        match run(name) {
            Ok(status) if status.success() => println!("guest: ok {name}"),
            Ok(status) => println!("guest: FAILED {name}: {status}"),
            Err(e) => println!("guest: FAILED {name}: {e}"),
        }
    }
    println!("guest: end");
    // only now, as the machine may stop at once
    reboot(RebootMode::RB_POWER_OFF).map(|never| match never {}).ok();
    panic!("the machine does not switch off")
}

/// Loads all modules in the order of their files' names.
fn load(folder: &Path) {
    let files = std::fs::read_dir(folder).expect("modules");
    let mut files: Vec<_> = files.map(|f| f.unwrap().path()).collect();
    files.sort();
    for path in files {
        let file = File::open(&path).unwrap();
        finit_module(&file, c"", ModuleInitFlags::empty())
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
}

fn run(name: &str) -> std::io::Result<ExitStatus> {
    let mut child = Command::new("/proc/self/exe").arg(name).spawn()?;
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if began.elapsed() >= LIMIT {
            child.kill()?;
            child.wait()?;
            println!("{name} has not ended after {LIMIT:?}");
            return Ok(ExitStatus::from_raw(9));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
