//! Reads a page in text 0.0.4, as this process wrote it: lines of families, one after the other.

/// A family's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
    Summary,
    Unknown,
}

/// A family and its samples, in the order of the text.
#[derive(Debug, PartialEq)]
pub(super) struct Family<'a> {
    pub(super) name: &'a str,
    /// As the text escapes it: `\\` and `\n`.
    pub(super) help: &'a str,
    pub(super) kind: Kind,
    pub(super) samples: Vec<Sample<'a>>,
}

/// One line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sample<'a> {
    /// With its suffix: `_bucket`, `_sum`, `_count`.
    pub(super) name: &'a str,
    /// What stands between the braces.
    pub(super) labels: &'a str,
    pub(super) value: &'a str,
}

/// The families of a page. A line that is none of the format's is left out; a sample before any `TYPE` is a family of its own.
pub(super) fn families(text: &str) -> Vec<Family<'_>> {
    let mut all: Vec<Family<'_>> = Vec::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap_or((rest, ""));
            family(&mut all, name).help = help;
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or((rest, ""));
            family(&mut all, name).kind = match kind {
                "counter" => Kind::Counter,
                "gauge" => Kind::Gauge,
                "histogram" => Kind::Histogram,
                "summary" => Kind::Summary,
                _ => Kind::Unknown,
            };
        } else if let Some(sample) = sample(line) {
            match all.last_mut().filter(|last| belongs(sample.name, last)) {
                Some(last) => last.samples.push(sample),
                None => family(&mut all, sample.name).samples.push(sample),
            }
        }
    }
    all
}

/// The family of that name: the last, or a new one.
fn family<'a, 'b>(all: &'b mut Vec<Family<'a>>, name: &'a str) -> &'b mut Family<'a> {
    if all.last().is_none_or(|last| last.name != name) {
        all.push(Family { name, help: "", kind: Kind::Unknown, samples: Vec::new() });
    }
    // One was pushed if there was none.
    let last = all.len() - 1;
    &mut all[last]
}

fn belongs(sample: &str, family: &Family<'_>) -> bool {
    match sample.strip_prefix(family.name) {
        Some("") => true,
        Some("_bucket") => family.kind == Kind::Histogram,
        Some("_sum" | "_count") => matches!(family.kind, Kind::Histogram | Kind::Summary),
        _ => false,
    }
}

fn sample(line: &str) -> Option<Sample<'_>> {
    if line.starts_with('#') {
        return None;
    }
    let Some((name, rest)) = line.split_once('{') else {
        let (name, value) = line.split_once(' ')?;
        return Some(Sample { name, labels: "", value: value.trim() });
    };
    let end = end_of_labels(rest)?;
    Some(Sample { name, labels: &rest[..end], value: rest[end + 1..].trim() })
}

/// Where the brace is that ends the labels: not one within quotes.
fn end_of_labels(text: &str) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'}' if !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

/// The labels' names and values, these without their escapes.
pub(super) fn labels(text: &str) -> Vec<(&str, String)> {
    let (mut rest, mut all) = (text, Vec::new());
    while let Some((name, after)) = rest.split_once("=\"") {
        let (mut value, mut escaped, mut end) = (String::new(), false, after.len());
        for (at, character) in after.char_indices() {
            match character {
                'n' if escaped => value.push('\n'),
                _ if escaped => value.push(character),
                '\\' => {}
                '"' => {
                    end = at + 1;
                    break;
                }
                _ => value.push(character),
            }
            escaped = character == '\\' && !escaped;
        }
        all.push((name.trim_start_matches(','), value));
        rest = &after[end..];
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_have_their_samples_and_no_others() {
        let text = "# HELP a_total What a\\nis.\n# TYPE a_total counter\na_total{x=\"}\\\"{\",y=\"\\\\\"} 1\n\n\
                    # TYPE h histogram\nh_bucket{le=\"+Inf\"} 2\nh_sum 0.5\nh_count 2\nh_other 3\n# nothing\nnothing\nlate{ 4\n";
        let all = families(text);
        let shown: Vec<_> = all.iter().map(|family| (family.name, family.kind, family.samples.len())).collect();
        assert_eq!(shown, [("a_total", Kind::Counter, 1), ("h", Kind::Histogram, 3), ("h_other", Kind::Unknown, 1)]);
        assert_eq!(all[0].help, "What a\\nis.");
        assert_eq!(labels(all[0].samples[0].labels), [("x", "}\"{".to_owned()), ("y", "\\".to_owned())]);
        assert_eq!(all[1].samples[1], Sample { name: "h_sum", labels: "", value: "0.5" });
    }

    #[test]
    fn labels_that_end_too_early_are_read_as_far_as_they_go() {
        for text in ["a", "a=", "a=\"", "a=\"b", "a=\"\\", "a=\"b\",", "=\"\"=\""] {
            drop(labels(text));
        }
        assert_eq!(labels("a=\"b\\n\",c=\"\""), [("a", "b\n".to_owned()), ("c", String::new())]);
    }
}
