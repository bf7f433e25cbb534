//! `make demo` in every family.

use anyhow::Result;
use integration::demo::{Stack, run};

fn demo(stack: Stack) -> Result<()> {
    let mut lines = Vec::new();
    run(stack, &mut |line| lines.push(line.to_owned()))?;
    assert!(lines.iter().any(|l| l.contains("each answer came")), "{lines:#?}");
    Ok(())
}

#[test]
fn the_demo_works_with_ipv4() -> Result<()> {
    demo(Stack::V4)
}

#[test]
fn the_demo_works_with_ipv6_only() -> Result<()> {
    demo(Stack::V6)
}

#[test]
fn the_demo_works_with_both_families() -> Result<()> {
    demo(Stack::Dual)
}
