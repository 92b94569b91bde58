//! The known name that is closest to a misspelt one.

/// The candidate with the fewest edits from `given`.
pub(super) fn nearest<'a>(given: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates.into_iter().min_by_key(|candidate| distance(given, candidate))
}

/// Insertions, removals and replacements of bytes (Levenshtein). What is longer than any name of ours is cut: its end
/// makes no difference to which name is nearest, and its length is the caller's to choose.
fn distance(left: &str, right: &str) -> usize {
    let left = &left.as_bytes()[..left.len().min(64)];
    let right = right.as_bytes();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_leads_to_the_name_that_was_meant() {
        let names = ["skip-inbound-ports", "skip-outbound-ports", "log-level", "inject"];
        for (given, meant) in [("skip-inbound-port", 0), ("skipoutbound-ports", 1), ("loglevel", 2), ("inyect", 3)] {
            assert_eq!(nearest(given, names), Some(names[meant]), "{given}");
        }
    }
}
