//! What Kubernetes takes for names, for sources that no API server stands before.

/// The longest name of an object, in bytes.
const SUBDOMAIN_BYTES_MAX: usize = 253;
/// The longest name of a namespace, in bytes.
const LABEL_BYTES_MAX: usize = 63;

/// Whether `text` can be the name of a namespace or Service (RFC 1123 label).
pub fn is_label(text: &str) -> bool {
    text.len() <= LABEL_BYTES_MAX && is_part(text)
}

/// Whether `text` can be the name of any object (RFC 1123 subdomain).
pub fn is_subdomain(text: &str) -> bool {
    text.len() <= SUBDOMAIN_BYTES_MAX && text.split('.').all(is_part)
}

fn is_part(text: &str) -> bool {
    let alphanumeric = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = text.as_bytes();
    let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
    alphanumeric(bytes.first()) && alphanumeric(bytes.last()) && bytes.iter().all(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_kubernetes_takes_for_names() {
        for name in ["a", "api", "a-1", "0"] {
            assert!(is_label(name) && is_subdomain(name), "{name}");
        }
        for name in ["", "-a", "a-", "A", "a_b", "a b", "a/b", "ä"] {
            assert!(!is_label(name) && !is_subdomain(name), "{name}");
        }
        assert!(!is_label("a.b") && is_subdomain("a.b") && !is_subdomain("a..b") && !is_subdomain(".a"));
        assert!(is_label(&"a".repeat(63)) && !is_label(&"a".repeat(64)));
        assert!(is_subdomain(&"a".repeat(253)) && !is_subdomain(&"a".repeat(254)));
    }
}
