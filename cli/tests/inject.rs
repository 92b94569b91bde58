//! `remora inject` as a pipe sees it: the program, its two outputs, its exit code.

use std::{
    io::Write as _,
    process::{Command, Output, Stdio},
};

const GOOD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: good}\nspec: {containers: [{name: a, image: b}]}\n";

fn inject(args: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_remora"))
        .arg("inject")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("it reads everything");
    child.wait_with_output().expect("it ends")
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn nothing_is_printed_where_anything_is_refused() {
    let refused = [
        GOOD.replace("name: good", "name: bad").replace("{name: a,", "{name: a, securityContext: {runAsUser: 2102},"),
        GOOD.replace("name: good", "name: bad, annotations: {remora.dev/inject: 'false'}"),
        GOOD.replace("name: good", "name: bad, annotations: {remora.dev/skip-outbound-ports: 3306}"),
        "kind: Deployment".to_owned(),
        "word".to_owned(),
        "a: [".to_owned(),
    ];
    for args in [&[][..], &["--manual"]] {
        for bad in &refused {
            for input in [format!("{GOOD}---\n{bad}"), format!("{bad}\n---\n{GOOD}")] {
                let output = inject(args, &input);
                assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{input}: {}", told(&output));
                assert!(told(&output).contains("standard input, line "), "{}", told(&output));
                assert!(!told(&output).contains("Pod good"), "what is not printed was not done: {}", told(&output));
            }
        }
    }
}

#[test]
fn mistakes_of_all_files_are_told_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("a.yaml"), "x: 1\nx: 2\n").expect("written");
    std::fs::write(path("b.yaml"), format!("{GOOD}---\nword\n")).expect("written");
    let output = inject(&[&path("a.yaml"), &path("none.yaml"), &path("b.yaml")], "");
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    for part in ["a.yaml, line 2: ", "none.yaml: cannot be read", "b.yaml, line 6: ", "3 errors"] {
        assert!(told(&output).contains(part), "{part} is not in {}", told(&output));
    }
}

#[test]
fn what_is_good_is_printed_and_the_exit_code_is_0() {
    let output = inject(&[], GOOD);
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0));
    assert!(
        printed.contains("remora.dev/inject: enabled") && told(&output).contains("Pod good: opted in"),
        "{printed}"
    );
    let output = inject(&["--manual", "--cluster-domain", "k8s.example", "--cluster-networks", "10.0.0.0/8"], GOOD);
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    for part in ["remora-identity.remora.svc.k8s.example.:4180", "10.0.0.0/8", "remora-init"] {
        assert!(printed.contains(part), "{part} is not in {printed}");
    }
    assert_eq!(inject(&["--manual", "--cluster-networks", "10.0.0.1"], GOOD).status.code(), Some(2));
}
