//! Whatever happens to leases, configuration and kernel: once it stops, one
//! pass leads to what is desired, one more changes nothing, and a peer that
//! is wanted before and after is reached all the time (design §3.6).

#[cfg(test)]
mod hands;
#[cfg(test)]
mod inputs;
#[cfg(test)]
mod run;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::inputs::inputs;
    use crate::run::{Run, op};

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 512,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn everything_converges_and_nothing_needed_is_removed(
            inputs in inputs(),
            ops in proptest::collection::vec(op(), 1..60),
        ) {
            let mut run = Run::new(inputs);
            for op in &ops {
                run.step(op);
            }
            run.sim.faults.clear();
            run.sim.interrupted = 0;
            run.sim.kernel.deaf = false;
            // one pass is enough when nothing goes wrong in it
            prop_assert!(run.pass(false));
            prop_assert_eq!(run.changes(), []);
            run.assert_converged();
        }
    }
}
