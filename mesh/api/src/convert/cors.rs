//! Cross-origin requests.

use super::{IntoInvalid, InvalidMessage, Problem, list, method};
use crate::v1;
use http::HeaderName;
use remora_model::{
    Cors, OriginPattern, Origins,
    cors::{Allowed, InvalidOrigin},
};

const ALL: &str = "*";

impl From<&Cors> for v1::Cors {
    fn from(cors: &Cors) -> Self {
        fn names<T: ToString>(allowed: &Allowed<T>) -> Vec<String> {
            match allowed {
                Allowed::Any => vec![ALL.to_owned()],
                Allowed::These(all) => all.iter().map(ToString::to_string).collect(),
            }
        }
        Self {
            origins: match &cors.origins {
                Origins::Any => vec![ALL.to_owned()],
                Origins::These(all) => all.iter().map(ToString::to_string).collect(),
            },
            credentials: cors.credentials,
            methods: names(&cors.methods),
            headers: names(&cors.headers),
            expose: names(&cors.expose),
            max_age_seconds: cors.max_age,
        }
    }
}

impl TryFrom<v1::Cors> for Cors {
    type Error = InvalidMessage;

    fn try_from(message: v1::Cors) -> Result<Self, InvalidMessage> {
        let header = |name: String| HeaderName::from_bytes(name.as_bytes()).map_err(|_| Problem::HeaderName);
        let origin = |text: String| OriginPattern::parse(&text).map_err(|error: InvalidOrigin| Problem::from(error));
        Ok(Self {
            origins: match allowed("origins", message.origins, origin)? {
                Allowed::Any => Origins::Any,
                Allowed::These(all) => Origins::These(all),
            },
            credentials: message.credentials,
            methods: allowed("methods", message.methods, |name| method(&name))?,
            headers: allowed("headers", message.headers, header)?,
            expose: allowed("expose", message.expose, header)?,
            max_age: message.max_age_seconds,
        })
    }
}

/// `*` alone, or names.
fn allowed<T, E: IntoInvalid>(
    field: &'static str,
    names: Vec<String>,
    read: impl Fn(String) -> Result<T, E>,
) -> Result<Allowed<T>, InvalidMessage> {
    match &names[..] {
        [only] if only == ALL => Ok(Allowed::Any),
        all if all.iter().any(|name| name == ALL) => Err(Problem::Star.at(field)),
        _ => list(field, names, read).map(Allowed::These),
    }
}
