//! `remora identity list`.

use super::{ListArgs, api, held, now, what};
use crate::{
    Look, Outcome,
    cluster::{
        Cluster, list,
        policies::{Holds, holds},
    },
    inspect::{pretty, span},
    output::Output,
    table::{Align, Table},
    text::{self, Line, Span, Style},
};
use kube::{
    Api, ResourceExt as _,
    api::{DynamicObject, ListParams},
};
use remora_kube::{
    client::CallError,
    revoked::{Spec, seconds},
};
use serde_json::{Value, json};

/// All objects, by name.
pub(super) async fn objects(api: &Api<DynamicObject>) -> Result<Vec<(String, Spec)>, CallError> {
    Ok(read(api).await?.into_iter().map(|(name, spec, _)| (name, spec)).collect())
}

async fn read(api: &Api<DynamicObject>) -> Result<Vec<(String, Spec, Value)>, CallError> {
    let found = match list::all(api, ListParams::default()).await {
        // A cluster without the CRD has none.
        Err(error) if error.is_not_found() => Vec::new(),
        found => found?,
    };
    let one = |object: DynamicObject| {
        let spec = serde_json::from_value(object.data["spec"].clone()).unwrap_or_default();
        (object.name_any(), spec, object.data["status"].clone())
    };
    let mut all: Vec<_> = found.into_iter().map(one).collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(all)
}

pub(super) async fn list(args: &ListArgs, look: Look) -> Outcome {
    let cluster = Cluster::connect(&args.cluster).await?;
    let all = read(&api(&cluster, &args.control_plane)).await?;
    let proxies = held::proxies(&cluster, &args.control_plane.namespace).await;
    let good = all.iter().all(|(_, _, status)| !matches!(holds(status), Holds::No(_)));
    if args.output == Output::Json {
        let one = |(name, spec, status): &(String, Spec, Value)| json!({ "name": name, "spec": spec, "conditions": status["conditions"], "ended": ended(spec, now()) });
        let proxies = match proxies {
            Ok(proxies) => serde_json::to_value(proxies)?,
            Err(error) => json!({ "error": crate::chain(&*error) }),
        };
        return pretty(&json!({ "revoked": all.iter().map(one).collect::<Vec<_>>(), "proxies": proxies }), good);
    }
    let mut lines = rows(&all, now());
    lines.push(match proxies {
        Ok(held::Proxies { able, held, unable }) => {
            let style = if held == able && unable.count == 0 { Style::Good } else { Style::Bad };
            let old = if unable.count == 0 {
                String::new()
            } else {
                format!("; {} are too old for it ({})", unable.count, unable.first.join(", "))
            };
            Line::of(style, format!("in use by {held} of {able} proxies{old}"))
        }
        Err(error) => {
            Line::of(Style::Faint, format!("it is not known which proxies have it: {}", crate::chain(&*error)))
        }
    });
    Ok((text::render(&lines, look.coloured), good))
}

fn ended(spec: &Spec, now: u64) -> bool {
    spec.until.as_deref().and_then(seconds).is_some_and(|until| until <= now)
}

fn rows(all: &[(String, Spec, Value)], now: u64) -> Vec<Line> {
    use Align::Left;
    if all.is_empty() {
        return vec![Line::of(Style::Faint, "nobody is revoked")];
    }
    let mut table = Table::new(&[("NAME", Left), ("REVOKED", Left), ("UNTIL", Left), ("HOLDS", Left), ("WHY", Left)]);
    for (name, spec, status) in all {
        let until = match (&spec.until, spec.until.as_deref().and_then(seconds)) {
            (None, _) => "for ever".to_owned(),
            (Some(text), Some(end)) if end > now => format!("{text} ({} left)", span(end - now)),
            (Some(text), _) => text.clone(),
        };
        let holds = match holds(status) {
            _ if ended(spec, now) => Span::new(Style::Faint, "ended"),
            Holds::Yes => Span::new(Style::Good, "yes"),
            Holds::No(why) => Span::new(Style::Bad, format!("no: {why}")),
            Holds::Unsaid => Span::new(Style::Warn, "not said yet"),
        };
        let why = spec.reason.as_deref().unwrap_or("-");
        table.row([name.as_str().into(), what::words(spec).into(), until.into(), holds, why.into()]);
    }
    table.lines(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_says_whom_until_when_and_whether_it_holds() {
        let spec = |until: Option<&str>| Spec {
            identity: Some("spiffe://cluster.local/ns/shop/sa/web".into()),
            until: until.map(str::to_owned),
            reason: Some("stolen".into()),
            ..Spec::default()
        };
        let status = |kind: &str, status: &str| json!({ "conditions": [{ "type": kind, "status": status, "reason": "Invalid", "message": "m" }] });
        let all = [
            ("a".to_owned(), spec(None), status("Accepted", "True")),
            ("b".to_owned(), spec(Some("1970-01-01T01:00:00Z")), status("Accepted", "True")),
            ("c".to_owned(), spec(Some("1970-01-01T03:00:00Z")), status("Accepted", "False")),
            ("d".to_owned(), spec(None), json!({})),
        ];
        let shown = text::render(&rows(&all, 7200), false);
        let lines: Vec<&str> = shown.lines().collect();
        assert!(lines[1].contains("for ever") && lines[1].contains("yes") && lines[1].ends_with("stolen"), "{shown}");
        assert!(lines[2].contains("ended"), "{shown}");
        assert!(lines[3].contains("(1 h 0 min left)") && lines[3].contains("no: Invalid: m"), "{shown}");
        assert!(lines[4].contains("not said yet"), "{shown}");
        assert!(text::render(&rows(&[], 0), false).contains("nobody is revoked"));
    }
}
