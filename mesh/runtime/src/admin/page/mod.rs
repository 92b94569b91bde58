//! Pages for people: one self-contained text each, which loads nothing from elsewhere.
//!
//! In: a page's own HTML. Out: it with the script that all pages share, and the answer that has it.

use axum::{
    http::header,
    response::{Html, IntoResponse as _, Response},
};

/// Words, figures, nodes and tables.
const SHARED: &str = include_str!("shared.js");
/// The line of a page that it stands in for.
const PLACE: &str = "// shared.js\n";
/// It loads nothing from elsewhere and is shown in no frame.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                      connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// The whole of a page: to be made once.
#[must_use]
pub fn whole(own: &str) -> String {
    own.replacen(PLACE, SHARED, 1)
}

/// Answers with a whole page.
#[must_use]
pub fn response(whole: &'static str) -> Response {
    ([(header::CONTENT_SECURITY_POLICY, POLICY)], Html(whole)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shared_stands_where_a_page_says_and_asks_nobody_else() {
        assert_eq!(whole("<script>\n// shared.js\nlast();"), format!("<script>\n{SHARED}last();"));
        for outside in ["://", "innerHTML", "insertAdjacent", "import", "fetch", "eval("] {
            assert!(!SHARED.replace("http://www.w3.org/2000/svg", "").contains(outside), "{outside}");
        }
    }
}
