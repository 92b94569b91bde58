//! Fuzz targets of what signals read: the names of requests (paths, a line each), and filters. Out: nothing, or a panic.

use super::{
    filter::Filter,
    template::{OTHER, PathTemplates},
};
use crate::limits;
use http::Method;

/// Templates that live at once: few, so that room runs out.
const LIVE_MAX: usize = 8;
/// A method, and twelve segments of forty bytes.
const NAME_BYTES_MAX: usize = 8 + 12 * 41;

/// There are no more names than the bound, no name is long or has a byte that a log or a metric would have to escape, and a
/// path that was just met has the name that it had.
pub fn path_templates(data: &[u8]) {
    let mut templates = PathTemplates::new(LIVE_MAX);
    for (index, line) in data.split(|byte| *byte == b'\n').enumerate() {
        let (path, now) = (String::from_utf8_lossy(line), index as u32 * 60);
        let method = [Method::GET, Method::POST][index % 2].clone();
        let id = templates.learn(&method, &path, now);
        let name = templates.name(id);
        let again = templates.learn(&method, &path, now);
        assert_eq!(templates.name(again), name, "{path:?} a second time");
        assert!(templates.len() <= 5 * LIVE_MAX + 1, "{} names", templates.len());
        let harmless = |byte: u8| byte.is_ascii_graphic() && !b"\"\\`<>{}".contains(&byte);
        let rest = name.strip_prefix(&format!("{method} ")).unwrap_or(&name);
        assert!(rest.bytes().all(harmless) && name.len() <= NAME_BYTES_MAX, "{name:?}");
        assert!(&*name == OTHER || rest.starts_with('/'), "{name:?}");
    }
}

/// A filter is read or refused at a place within it, and one that is read is the same between parentheses, unless it is as deep or as long as
/// one may be.
pub fn filters(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match Filter::parse(&text) {
        Err(error) => assert!(error.at <= text.chars().count() && !error.what.is_empty(), "{text:?}: {error}"),
        Ok(filter) => {
            let within = Filter::parse(&format!("({text})"));
            let room = text.len() + 2 <= limits::FILTER_BYTES_MAX && !text.trim().is_empty();
            let deep = within.as_ref().is_err_and(|error| error.what.contains("levels"));
            assert!(!room || deep || within == Ok(filter), "{text:?}");
        }
    }
}
