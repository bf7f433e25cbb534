//! Which key was probably meant.

/// The name of `known` that resembles `key` most, if any does: within half
/// of the key's length in edits, or one contained in the other.
#[must_use]
pub fn nearest<'a>(key: &str, known: &[&'a str]) -> Option<&'a str> {
    let lower = key.to_ascii_lowercase();
    // a hostile key of a megabyte has no neighbour
    if lower.len() > 64 {
        return None;
    }
    let (rank, _, name) = known
        .iter()
        .map(|name| {
            let other = name.to_ascii_lowercase();
            let contained = lower.len().min(other.len()) > 2
                && (lower.contains(&other) || other.contains(&lower));
            let edits = distance(&lower, &other);
            (if contained { edits.min(1) } else { edits }, edits, *name)
        })
        .min_by_key(|(rank, edits, _)| (*rank, *edits))?;
    (rank <= lower.chars().count() / 2).then_some(name)
}

/// Edits (insert, delete, replace, swap two neighbours) from `a` to `b`.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    let mut last_char = None;
    for (i, x) in a.chars().enumerate() {
        let mut row = vec![i + 1];
        for (j, &y) in b.iter().enumerate() {
            let at = |row: &[usize], j: usize| {
                row.get(j).copied().unwrap_or(usize::MAX / 2)
            };
            let mut best = (at(&last, j) + usize::from(x != y))
                .min(at(&last, j + 1) + 1)
                .min(at(&row, j) + 1);
            let previous = j.checked_sub(1).and_then(|j| b.get(j)).copied();
            if j > 0 && last_char == Some(y) && previous == Some(x) {
                best = best.min(at(&before, j - 1) + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
        last_char = Some(x);
    }
    last.last().copied().unwrap_or_default()
}
