//! What scripts see of a command that fails: its exit code and its outputs.

use std::process::{Command, Output};

const NOWHERE: &str = "
apiVersion: v1
kind: Config
current-context: here
contexts: [{ name: here, context: { cluster: c, user: u } }]
clusters: [{ name: c, cluster: { server: 'http://127.0.0.1:9' } }]
users: [{ name: u, user: {} }]
";

/// Runs it with a kubeconfig whose API server is not there.
fn remora(args: &[&str]) -> Output {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("config");
    std::fs::write(&file, NOWHERE).expect("a file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
    command
        .args(args)
        .env_clear()
        .env("KUBECONFIG", &file)
        .current_dir(dir.path())
        .output()
        .expect("the program starts")
}

#[test]
fn a_cluster_that_is_not_there_a_wrong_context_and_a_wrong_word_are_told_apart() {
    for (args, code) in [
        (&["stat", "-A"][..], 3),
        (&["endpoints", "deploy/web"], 3),
        (&["check"], 3),
        (&["bug-report", "-n", "shop", "--within", "10s"], 0),
        (&["version"], 0),
        (&["routes", "127.0.0.1:9"], 3),
        (&["stat", "--context", "nope"], 2),
        (&["stat", "web"], 2),
        (&["stat", "-A", "-n", "shop"], 2),
        (&["edges", "--kubeconfig", "/nowhere"], 3),
    ] {
        let output = remora(args);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {told}");
    }
}

#[test]
fn who_asks_for_json_gets_json_whatever_happens() {
    for args in [&["stat", "-A", "-o", "json"][..], &["identity", "pod/x", "-o", "json"], &["check", "-o", "json"]] {
        let output = remora(args);
        let value: serde_json::Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
        assert_eq!(value["ok"], false, "{args:?}: {value}");
        assert_eq!(output.status.code(), Some(3), "{args:?}");
    }
}
