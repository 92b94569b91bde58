//! Whole pods, as they go in and come out: `goldens/NAME.in.json` and `goldens/NAME.out.json`.

use super::*;

#[track_caller]
fn check(name: &str, input: &str, expected: &str) {
    let input: Value = serde_json::from_str(input).unwrap();
    let actual = injected(&input, &shop());
    if serde_json::from_str::<Value>(expected).ok() != Some(actual.clone()) {
        let at = std::env::temp_dir().join(format!("{name}.out.json"));
        std::fs::write(&at, serde_json::to_string_pretty(&actual).unwrap() + "\n").unwrap();
        panic!("{name} is different now; if it should be, take {} for the golden", at.display());
    }
}

macro_rules! golden {
    ($name:ident) => {
        #[test]
        fn $name() {
            let name = stringify!($name);
            let (input, expected) = (
                include_str!(concat!("goldens/", stringify!($name), ".in.json")),
                include_str!(concat!("goldens/", stringify!($name), ".out.json")),
            );
            check(name, input, expected);
        }
    };
}

golden!(a_deployments_pod_with_probes);
golden!(a_jobs_pod);
golden!(a_pod_with_its_own_init_containers_and_sidecars);
golden!(a_restricted_pod);
