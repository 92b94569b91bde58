//! What pipes hand to `remora inject`, replayed like a fuzz target. The command is a program, which libFuzzer cannot link: what
//! it reads with and decides by have targets of their own in `remora-kube` and `remora-injector`.

use super::*;
use serde_json::Value;

remora_replay::replays! {
    of_a_manifest_nothing_is_lost: injected_manifests, 2_000;
}

/// What is printed is what was read, object by object; where anything is refused, nothing is printed; and what is in the mesh is
/// left as it is.
fn injected_manifests(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for manual in [false, true] {
        let (printed, told) = tests::printed(&text, manual);
        let read = || yaml::read(&text).into_iter().flatten().map(yaml::Node::into_json);
        if !told.mistakes.is_empty() {
            continue;
        }
        let objects: Vec<Value> =
            yaml::read(&printed).into_iter().map(|one| one.expect("what we print").into_json()).collect();
        assert_eq!(objects.len(), read().count());
        for (before, after) in read().zip(&objects) {
            assert_eq!((&before["kind"], &before["apiVersion"]), (&after["kind"], &after["apiVersion"]));
            assert_eq!(before["metadata"]["name"], after["metadata"]["name"]);
        }
        let (again, told) = tests::printed(&printed, manual);
        assert!(told.mistakes.is_empty(), "{:?} in {printed:?}", told.mistakes);
        assert_eq!(again, printed, "what is in the mesh is left alone");
    }
}
