//! Two flannels on one host, their firewalls in memory: foreign hands,
//! refusals and lost answers, changes of mode and network. Once that stops,
//! a few passes lead to the rules each of them wants; another pass changes
//! nothing; and no pass ever touches what is not its daemon's.

#[cfg(test)]
mod hands;
#[cfg(test)]
mod iptables;
#[cfg(test)]
mod nft;
#[cfg(test)]
mod run;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::run::{Run, ops};

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 512,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn two_flannels_converge_and_leave_the_rest_alone(ops in ops()) {
            let mut run = Run::default();
            for op in &ops {
                run.step(op);
            }
            run.settle();
        }
    }
}
