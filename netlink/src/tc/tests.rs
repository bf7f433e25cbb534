use super::*;
use crate::wire::HEADER;

fn bucket(rate: u64, burst: u32) -> Bucket {
    Bucket { rate, burst, limit: 7 }
}

/// The attributes of the options of a `tbf`.
fn written(bucket: &Bucket) -> Vec<(u16, Vec<u8>)> {
    let mut m = Message::new(0, 0, &[]);
    bucket.write(&mut m);
    let bytes = m.finish().split_off(HEADER);
    let attrs = Attrs::new(&bytes).map(|a| a.expect("attribute"));
    attrs.map(|(kind, value)| (kind, value.to_vec())).collect()
}

/// BW-7: 8 Mbit/s with 16 Mbit.
#[test]
fn a_burst_that_fits_is_told_in_ticks() {
    let attrs = written(&bucket(1_000_000, 2_000_000));
    assert_eq!(attrs.len(), 1);
    let (kind, qopt) = &attrs[0];
    assert_eq!((*kind, qopt.len()), (1, 36));
    // two seconds
    assert_eq!(u32_at(qopt, 28), Some(31_250_000));
    assert_eq!(u32_at(qopt, 8), Some(1_000_000));
    assert_eq!(u32_at(qopt, 24), Some(7));
}

/// CW-15: what containerd sends, at 1 Mbit/s.
#[test]
fn a_long_burst_is_told_in_bytes() {
    let attrs = written(&bucket(125_000, 536_870_911));
    assert_eq!(attrs[1], (6, 536_870_911_u32.to_ne_bytes().to_vec()));
}

#[test]
fn a_high_rate_has_64_bits() {
    let rate = 5_000_000_000_u64;
    let attrs = written(&bucket(rate, 1));
    assert_eq!(attrs[1], (4, rate.to_ne_bytes().to_vec()));
    let bytes = [&written(&bucket(rate, 1))[0].1[..]].concat();
    assert_eq!(u32_at(&bytes, 8), Some(u32::MAX));
}

#[test]
fn no_options_make_it_panic() {
    assert!(BucketInfo::read(&[]).is_err());
    assert!(BucketInfo::read(&[8, 0, 1, 0, 1, 2, 3, 4]).is_err());
}
