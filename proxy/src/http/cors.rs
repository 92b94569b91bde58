//! Cross-origin requests of browsers (Gateway API: HTTPCORSFilter; Fetch §3.3). Pure.
//!
//! A browser asks before a script sends what a form could not (a preflight): this proxy answers, the application is not asked. An
//! answer that a script may read is marked. Without the mark the browser keeps it from the script: a request of an origin that is
//! not allowed is no attack on the server, and goes through.

use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
        ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
        ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
    },
};
use remora_model::{Cors, Origins, cors::Allowed};

/// A route's filter with its fields written once.
#[derive(Debug)]
pub(super) struct Rules {
    origins: Origins,
    credentials: bool,
    methods: Field,
    headers: Field,
    expose: Field,
    max_age: HeaderValue,
}

/// The value of a field that lists what is allowed.
#[derive(Debug)]
enum Field {
    Absent,
    /// `*` means all, but for requests with credentials, where it is a name like others (Fetch §3.3.5).
    Any,
    These(HeaderValue),
}

impl Field {
    fn of<T: ToString>(allowed: &Allowed<T>) -> Self {
        match allowed {
            Allowed::Any => Self::Any,
            Allowed::These(all) => {
                let text = all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                // Names are tokens, and tokens are values.
                HeaderValue::try_from(text).ok().filter(|value| !value.is_empty()).map_or(Self::Absent, Self::These)
            }
        }
    }

    /// The field for a request that asks for `asked`; with credentials a star is what was asked for.
    fn value(&self, credentials: bool, asked: Option<&HeaderValue>) -> Option<HeaderValue> {
        match self {
            Self::Absent => None,
            Self::Any if credentials => asked.cloned(),
            Self::Any => Some(HeaderValue::from_static("*")),
            Self::These(value) => Some(value.clone()),
        }
    }
}

/// What the answer to a request is marked with.
#[derive(Debug)]
pub(super) struct Mark {
    /// `None`: its script may not read it.
    origin: Option<HeaderValue>,
    /// Whether another origin would be answered otherwise.
    varies: bool,
    credentials: bool,
    expose: Option<HeaderValue>,
}

impl Rules {
    pub(super) fn of(cors: &Cors) -> Self {
        Self {
            origins: cors.origins.clone(),
            credentials: cors.credentials,
            methods: Field::of(&cors.methods),
            headers: Field::of(&cors.headers),
            expose: Field::of(&cors.expose),
            max_age: cors.max_age.into(),
        }
    }

    /// The answer to a browser's question, if `request` is one: 204 with what is allowed, or 403 without.
    pub(super) fn preflight<B>(&self, request: &Request<B>) -> Option<Response<()>> {
        let asked = request.headers();
        let method = asked.get(ACCESS_CONTROL_REQUEST_METHOD);
        if *request.method() != Method::OPTIONS || method.is_none() || !asked.contains_key(ORIGIN) {
            return None;
        }
        let mark = self.mark(request);
        let mut answer = Response::new(());
        *answer.status_mut() = if mark.origin.is_some() { StatusCode::NO_CONTENT } else { StatusCode::FORBIDDEN };
        if mark.origin.is_some() {
            let headers = asked.get(ACCESS_CONTROL_REQUEST_HEADERS);
            let fields = [
                (ACCESS_CONTROL_ALLOW_METHODS, self.methods.value(self.credentials, method)),
                (ACCESS_CONTROL_ALLOW_HEADERS, self.headers.value(self.credentials, headers)),
                (ACCESS_CONTROL_MAX_AGE, Some(self.max_age.clone())),
            ];
            for (name, value) in fields {
                value.map(|value| answer.headers_mut().insert(name, value));
            }
        }
        mark.set(answer.headers_mut());
        Some(answer)
    }

    /// What the answer to `request` gets.
    pub(super) fn mark<B>(&self, request: &Request<B>) -> Mark {
        let origin = request.headers().get(ORIGIN);
        let allowed = origin.filter(|origin| origin.to_str().is_ok_and(|origin| self.origins.contain(origin)));
        let varies = self.credentials || matches!(self.origins, Origins::These(_));
        let star = || HeaderValue::from_static("*");
        Mark {
            origin: allowed.map(|origin| if varies { origin.clone() } else { star() }),
            varies,
            credentials: self.credentials,
            expose: self.expose.value(self.credentials, None),
        }
    }
}

impl Mark {
    /// Marks an answer. What the application said itself of this origin is replaced; where the origin is not allowed it stays.
    pub(super) fn set(self, headers: &mut HeaderMap) {
        if self.varies {
            headers.append(VARY, HeaderValue::from_name(ORIGIN));
        }
        let Some(origin) = self.origin else { return };
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        if self.credentials {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        } else {
            headers.remove(ACCESS_CONTROL_ALLOW_CREDENTIALS);
        }
        if let Some(expose) = self.expose {
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, expose);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderName;
    use remora_model::OriginPattern;

    fn lists() -> Cors {
        Cors {
            origins: Origins::These(vec![OriginPattern::parse("https://*.foo.com").expect("a pattern")]),
            credentials: false,
            methods: Allowed::These(vec![Method::GET, Method::PUT]),
            headers: Allowed::These(vec![HeaderName::from_static("x-a"), HeaderName::from_static("x-b")]),
            expose: Allowed::These(vec![HeaderName::from_static("x-total")]),
            max_age: 600,
        }
    }

    fn stars(credentials: bool) -> Cors {
        let (origins, methods) = (Origins::Any, Allowed::Any);
        Cors { origins, credentials, methods, headers: Allowed::Any, expose: Allowed::Any, max_age: 5 }
    }

    fn from(method: Method, fields: &[(&'static str, &'static str)]) -> Request<()> {
        let mut request = Request::builder().method(method).uri("/").body(()).expect("a request");
        for (name, value) in fields {
            request.headers_mut().append(*name, HeaderValue::from_static(value));
        }
        request
    }

    const ASKED: [(&str, &str); 2] =
        [("access-control-request-method", "PUT"), ("access-control-request-headers", "x-q")];

    fn preflight(cors: &Cors, origin: &'static str) -> Vec<String> {
        let request = from(Method::OPTIONS, &[("origin", origin), ASKED[0], ASKED[1]]);
        let answer = Rules::of(cors).preflight(&request).expect("a preflight");
        let mut said = told(answer.headers());
        said.insert(0, answer.status().as_str().to_owned());
        said
    }

    fn told(headers: &HeaderMap) -> Vec<String> {
        let short = |name: &HeaderName| name.as_str().trim_start_matches("access-control-").to_owned();
        let mut all: Vec<_> =
            headers.iter().map(|(name, value)| format!("{}: {}", short(name), value.to_str().expect("text"))).collect();
        all.sort();
        all
    }

    #[test]
    fn a_browsers_question_is_answered_with_what_is_allowed_or_with_403() {
        assert_eq!(
            preflight(&lists(), "https://a.foo.com"),
            [
                "204",
                "allow-headers: x-a, x-b",
                "allow-methods: GET, PUT",
                "allow-origin: https://a.foo.com",
                "expose-headers: x-total",
                "max-age: 600",
                "vary: origin",
            ]
        );
        for origin in ["https://foo.com", "http://a.foo.com", "null", ""] {
            assert_eq!(preflight(&lists(), origin), ["403", "vary: origin"], "{origin}");
        }
        let nothing = Cors { methods: Allowed::These(Vec::new()), headers: Allowed::These(Vec::new()), ..lists() };
        assert_eq!(preflight(&nothing, "https://a.foo.com").len(), 5, "nothing beyond what is always allowed");
    }

    #[test]
    fn a_star_is_written_as_one_unless_there_are_credentials() {
        assert_eq!(
            preflight(&stars(false), "null"),
            ["204", "allow-headers: *", "allow-methods: *", "allow-origin: *", "expose-headers: *", "max-age: 5",]
        );
        assert_eq!(
            preflight(&stars(true), "https://a"),
            [
                "204",
                "allow-credentials: true",
                "allow-headers: x-q",
                "allow-methods: PUT",
                "allow-origin: https://a",
                "max-age: 5",
                "vary: origin",
            ]
        );
    }

    #[test]
    fn what_is_no_question_of_a_browser_goes_on() {
        let rules = Rules::of(&lists());
        let origin = ("origin", "https://a.foo.com");
        for request in [
            from(Method::OPTIONS, &[origin]),
            from(Method::OPTIONS, &[ASKED[0]]),
            from(Method::GET, &[origin, ASKED[0]]),
            from(Method::GET, &[]),
        ] {
            assert!(rules.preflight(&request).is_none(), "{request:?}");
        }
    }

    #[test]
    fn an_answer_is_marked_for_its_origin_alone() {
        let marked = |cors: &Cors, fields: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("https://said-by-app"));
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            Rules::of(cors).mark(&from(Method::GET, fields)).set(&mut headers);
            told(&headers)
        };
        let app = ["allow-credentials: true", "allow-origin: https://said-by-app"];
        let foreign = [&app[..], &["vary: origin"]].concat();
        assert_eq!(marked(&lists(), &[("origin", "https://other.com")]), foreign);
        assert_eq!(marked(&lists(), &[]), foreign);
        let own = ["allow-origin: https://a.foo.com", "expose-headers: x-total", "vary: origin"];
        assert_eq!(marked(&lists(), &[("origin", "https://a.foo.com")]), own);
        assert_eq!(marked(&stars(false), &[("origin", "https://a")]), ["allow-origin: *", "expose-headers: *"]);
        assert_eq!(
            marked(&stars(true), &[("origin", "https://a")]),
            ["allow-credentials: true", "allow-origin: https://a", "vary: origin"]
        );
    }
}
