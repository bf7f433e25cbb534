//! Random faults, then quiet: everything is as if nothing had happened.
//! `CHAOS_SEED` repeats another run than the usual one.

use anyhow::{Context, Result, ensure};
use integration::chaos::{one_by_one, run};

#[test]
fn after_random_faults_everything_is_as_before() -> Result<()> {
    let seed = match std::env::var("CHAOS_SEED") {
        Ok(text) => text.parse().with_context(|| format!("seed {text:?}"))?,
        Err(_) => 1,
    };
    let outcome = run(seed, 40)?;
    println!("seed {seed}: {outcome}");
    ensure!(outcome.faults.1 > 5, "hardly anything happened: {outcome:?}");
    Ok(())
}

#[test]
fn whatever_others_do_is_seen_and_mended_with_nftables() -> Result<()> {
    one_by_one(true).map(drop)
}

#[test]
fn whatever_others_do_is_seen_and_mended_with_iptables() -> Result<()> {
    one_by_one(false).map(drop)
}
