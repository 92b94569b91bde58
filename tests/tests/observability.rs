//! Rules, alerts and dashboards of `observability/` speak only of metrics and labels that exist: `docs/metrics.md` is made from the code.

use std::{collections::BTreeSet, fs, path::PathBuf};

fn top() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn read(file: &str) -> String {
    fs::read_to_string(top().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// Names of metrics, with what Prometheus makes of a histogram.
fn known() -> BTreeSet<String> {
    let page = read("docs/metrics.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let names = rows.filter_map(|row| row.split_once('`').map(|(name, rest)| (name, rest.contains("| histogram |"))));
    names
        .filter(|(name, _)| name.starts_with("remora_") || name.starts_with("process_"))
        .flat_map(|(name, histogram)| {
            let parts: &[&str] = if histogram { &["", "_bucket", "_sum", "_count"] } else { &[""] };
            parts.iter().map(move |part| format!("{name}{part}"))
        })
        .collect()
}

/// Words of an expression that are names of metrics of ours or recorded ones.
fn names(expression: &str) -> Vec<String> {
    let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | ':')));
    let ours = |word: &&str| ["remora_", "remora:", "process_"].iter().any(|prefix| word.starts_with(prefix));
    words.filter(ours).map(str::to_owned).collect()
}

/// The expressions of rules, by line; each stands in one.
fn expressions(rules: &str) -> Vec<&str> {
    rules.lines().filter_map(|line| line.trim().strip_prefix("expr: ")).collect()
}

#[test]
fn rules_and_alerts_speak_of_metrics_that_exist() {
    let rules = read("observability/prometheus/rules.yaml");
    let recorded = rules.lines().filter_map(|line| line.trim().strip_prefix("- record: "));
    let known: BTreeSet<String> = known().into_iter().chain(recorded.map(str::to_owned)).collect();
    let used: Vec<String> = expressions(&rules).into_iter().flat_map(names).collect();
    assert!(used.len() > 15, "{used:?}");
    for name in used {
        assert!(known.contains(&name), "rules.yaml speaks of {name}, which is not in docs/metrics.md");
    }
}

#[test]
fn dashboards_are_json_and_speak_of_metrics_that_exist() {
    let known = known();
    for file in ["observability/grafana/remora-services.json", "observability/grafana/remora-proxies.json"] {
        let board: serde_json::Value =
            serde_json::from_str(&read(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        let panels = board["panels"].as_array().unwrap();
        let mut ids = BTreeSet::new();
        for panel in panels {
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{file}: two panels have the id {}", panel["id"]);
            for target in panel["targets"].as_array().unwrap() {
                let expression = target["expr"].as_str().unwrap();
                let used = names(expression);
                assert!(!used.is_empty(), "{file}: {} asks for nothing of ours: {expression}", panel["title"]);
                for name in used {
                    assert!(
                        known.contains(&name),
                        "{file}: {} speaks of {name}, which is not in docs/metrics.md",
                        panel["title"]
                    );
                }
            }
        }
        assert!(panels.len() >= 10, "{file}");
        let variables = board["templating"]["list"].as_array().unwrap();
        for variable in variables.iter().filter_map(|it| it["definition"].as_str()) {
            assert!(names(variable).iter().all(|name| known.contains(name)), "{file}: {variable}");
        }
    }
}

#[test]
fn every_alert_has_a_test_in_which_it_fires_and_one_in_which_it_does_not() {
    let (rules, tests) =
        (read("observability/prometheus/rules.yaml"), read("observability/prometheus/rules_test.yaml"));
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() >= 8);
    for alert in alerts {
        assert!(tests.contains(&format!("alertname: {alert}\n")), "no test in which {alert} fires");
        assert!(
            tests.contains(&format!("alertname: {alert}, exp_alerts: []")),
            "no test in which {alert} does not fire"
        );
    }
}
