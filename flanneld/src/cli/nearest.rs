//! The known name that a mistyped one most likely means.

/// The nearest of `known` by edit distance, when it is near enough to be a
/// typing error: at most a third of the letters differ.
pub(super) fn nearest<'a>(
    name: &str,
    known: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    known
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(d, c)| d * 3 <= c.len().max(name.len()))
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (slot, cb) in row.iter_mut().skip(1).zip(b.chars()) {
            let up = *slot;
            left = (diagonal + usize::from(ca != cb)).min(up + 1).min(left + 1);
            diagonal = up;
            *slot = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edit_distance() {
        for (a, b, want) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("kitten", "sitting", 3),
            ("iface", "ifaces", 1),
            ("etcd-endpoint", "etcd-endpoints", 1),
        ] {
            assert_eq!(distance(a, b), want, "{a} {b}");
        }
    }

    #[test]
    fn only_a_near_name_is_offered() {
        let known = ["iface", "ip-masq", "healthz-port"];
        assert_eq!(nearest("ip-mask", known.into_iter()), Some("ip-masq"));
        assert_eq!(nearest("completely", known.into_iter()), None);
    }
}
