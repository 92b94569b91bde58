//! What a route does to a request or response on its way. Pure.

use http::{
    HeaderMap, HeaderValue, Request, Response, Uri,
    header::{HOST, LOCATION},
    uri::{Authority, PathAndQuery},
};
use remora_model::{Filter, HeaderEdit, PathRewrite, Redirect};

/// The answer of a filter that redirects.
pub(super) fn redirect<B>(filter: &Filter, prefix: &str, request: &Request<B>) -> Option<Response<()>> {
    let Filter::Redirect(redirect) = filter else { return None };
    let mut response = Response::new(());
    *response.status_mut() = redirect.status;
    if let Ok(location) = HeaderValue::try_from(location(redirect, prefix, request)) {
        response.headers_mut().insert(LOCATION, location);
    }
    Some(response)
}

fn location<B>(redirect: &Redirect, prefix: &str, request: &Request<B>) -> String {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let authority = request.uri().authority().map(Authority::as_str).or(host).unwrap_or_default();
    let (old_host, old_port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse::<u16>().ok()),
        _ => (authority, None),
    };
    let scheme = redirect.scheme.as_deref().unwrap_or("http");
    // HTTPRequestRedirectFilter.port: a scheme named without a port means that scheme's own port.
    let port = redirect.port.or(if redirect.scheme.is_some() { None } else { old_port });
    let well_known = matches!((scheme, port), ("http", Some(80)) | ("https", Some(443)));
    let host = redirect.hostname.as_deref().unwrap_or(old_host);
    let path = rewritten(redirect.path.as_ref(), prefix, request.uri());
    match port.filter(|_| !well_known) {
        Some(port) => format!("{scheme}://{host}:{port}{path}"),
        None => format!("{scheme}://{host}{path}"),
    }
}

/// Path and query after a rewrite.
fn rewritten(rewrite: Option<&PathRewrite>, prefix: &str, uri: &Uri) -> String {
    let path = match rewrite {
        None => uri.path().to_owned(),
        Some(PathRewrite::Full(full)) => full.to_string(),
        Some(PathRewrite::Prefix(new)) => {
            let rest = uri.path().strip_prefix(prefix).unwrap_or(uri.path());
            let joined = format!("{}{rest}", new.trim_end_matches('/'));
            if joined.is_empty() { "/".to_owned() } else { joined }
        }
    };
    match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    }
}

/// Applies what a filter does to a request.
pub(super) fn request<B>(filter: &Filter, prefix: &str, request: &mut Request<B>) {
    match filter {
        Filter::RequestHeaders(edit) => apply(edit, request.headers_mut()),
        Filter::Rewrite { hostname, path } => {
            if path.is_some() {
                rewrite_path(path.as_ref(), prefix, request);
            }
            if let Some(hostname) = hostname {
                rewrite_host(hostname, request);
            }
        }
        // Cross-origin requests are read before and answered by `cors`.
        Filter::ResponseHeaders(_) | Filter::Redirect(_) | Filter::Mirror { .. } | Filter::Cors(_) => {}
    }
}

/// Applies what a filter does to a response.
pub(super) fn response(filter: &Filter, headers: &mut HeaderMap) {
    if let Filter::ResponseHeaders(edit) = filter {
        apply(edit, headers);
    }
}

fn apply(edit: &HeaderEdit, headers: &mut HeaderMap) {
    for (name, value) in &edit.set {
        headers.insert(name, value.clone());
    }
    for (name, value) in &edit.add {
        headers.append(name, value.clone());
    }
    for name in &edit.remove {
        headers.remove(name);
    }
}

fn rewrite_path<B>(rewrite: Option<&PathRewrite>, prefix: &str, request: &mut Request<B>) {
    let Ok(path) = PathAndQuery::try_from(rewritten(rewrite, prefix, request.uri())) else { return };
    let mut parts = request.uri().clone().into_parts();
    parts.path_and_query = Some(path);
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
}

fn rewrite_host<B>(hostname: &str, request: &mut Request<B>) {
    let Ok(authority) = Authority::try_from(hostname) else { return };
    if request.uri().authority().is_some() {
        let mut parts = request.uri().clone().into_parts();
        parts.authority = Some(authority.clone());
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
    if let Ok(host) = HeaderValue::from_str(authority.as_str()) {
        request.headers_mut().insert(HOST, host);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::StatusCode;

    fn asked(uri: &str, host: &str) -> Request<()> {
        Request::builder().uri(uri).header(HOST, host).body(()).expect("a request")
    }

    #[test]
    fn a_prefix_is_replaced_as_the_gateway_api_tells() {
        // Request, match (as it is held, without a trailing slash), replacement, result: HTTPPathModifier's own table.
        for (path, prefix, new, expected) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/foo?a=b", "/foo", "/", "/?a=b"),
            ("/any", "", "/new", "/new/any"),
        ] {
            let mut rewritten = asked(path, "api");
            let path_rewrite = Some(PathRewrite::Prefix(new.into()));
            request(&Filter::Rewrite { hostname: None, path: path_rewrite }, prefix, &mut rewritten);
            assert_eq!(rewritten.uri(), expected, "{path} with {prefix} by {new}");
        }
    }

    #[test]
    fn a_full_path_keeps_the_query_and_a_host_is_rewritten_wherever_it_stands() {
        let mut both = asked("http://api:80/full/one?a=b", "api:80");
        let path = Some(PathRewrite::Full("/one".into()));
        request(&Filter::Rewrite { hostname: Some("other".into()), path }, "/full", &mut both);
        assert_eq!(
            (both.uri().to_string().as_str(), &both.headers()[HOST]),
            ("http://other/one?a=b", &"other".parse().expect("a value"))
        );
    }

    #[test]
    fn a_redirect_names_what_it_changes_and_keeps_the_rest() {
        let plain = Redirect { scheme: None, hostname: None, port: None, path: None, status: StatusCode::FOUND };
        let location = |redirect: &Redirect, host: &str| {
            let request = asked("/old/lemon?a=b", host);
            let answer = super::redirect(&Filter::Redirect(redirect.clone()), "/old", &request).expect("a redirect");
            answer.headers()[LOCATION].to_str().expect("text").to_owned()
        };
        let https = Redirect { scheme: Some("https".into()), ..plain.clone() };
        let port = Redirect { port: Some(8083), ..plain.clone() };
        let host = Redirect { hostname: Some("example.org".into()), ..plain.clone() };
        let prefix = Redirect { path: Some(PathRewrite::Prefix("/new".into())), ..plain.clone() };
        let full = Redirect { path: Some(PathRewrite::Full("/full".into())), ..host.clone() };
        for (redirect, asked, expected) in [
            (&plain, "echo", "http://echo/old/lemon?a=b"),
            (&plain, "echo:8080", "http://echo:8080/old/lemon?a=b"),
            (&plain, "[fd00::1]", "http://[fd00::1]/old/lemon?a=b"),
            (&https, "echo:8080", "https://echo/old/lemon?a=b"),
            (&port, "echo", "http://echo:8083/old/lemon?a=b"),
            (&host, "echo:80", "http://example.org/old/lemon?a=b"),
            (&prefix, "echo", "http://echo/new/lemon?a=b"),
            (&full, "echo", "http://example.org/full?a=b"),
        ] {
            assert_eq!(location(redirect, asked), expected, "{asked}");
        }
    }
}
