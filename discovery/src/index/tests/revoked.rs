//! Who is trusted no more, and what is said of those who say so.

use super::*;
use remora_model::revocation::REVOCATIONS_MAX;

fn object(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "apiVersion: remora.dev/v1alpha1\nkind: RevokedIdentity\nmetadata: {{ name: {name}, namespace: {namespace} }}\nspec: {{ {spec} }}\n---\n"
    )
}

const WEB: &str = "identity: spiffe://cluster.local/ns/shop/sa/web";

/// The types of a status' conditions with their status, reason and message.
fn conditions(status: &status::ObjectStatus) -> Vec<String> {
    let all = status.ours()["conditions"].as_array().unwrap().iter();
    let text = |one: &serde_json::Value, field: &str| one[field].as_str().unwrap_or_default().to_owned();
    let line = |one| ["type", "status", "reason", "message"].map(|field| text(one, field)).join(" ");
    all.map(|one| line(one).trim_end().to_owned()).collect()
}

#[test]
fn those_of_the_control_planes_namespace_hold_and_others_are_told_that_they_do_not() {
    let world = snapshot(&(object("stolen", "remora", WEB) + &object("mine", "shop", "serial: '4f:0a'")));
    let held = world.revocations();
    assert_eq!(held.iter().map(|one| one.name.to_string()).collect::<Vec<_>>(), ["stolen"]);
    let told: Vec<_> = world.statuses.iter().map(|status| (status.name.clone(), conditions(status))).collect();
    let refused = "Accepted False NotAllowed metadata.namespace: only those of remora, the control plane's namespace, count; nothing is revoked";
    assert_eq!(
        told,
        [
            ("stolen".to_owned(), vec!["Accepted True Accepted".to_owned(), "Programmed True Programmed".to_owned()]),
            ("mine".to_owned(), vec![refused.to_owned()]),
        ]
    );
    assert!(world.reports.iter().any(|line| line.contains("RevokedIdentity shop/mine: metadata.namespace")));
}

#[test]
fn what_cannot_be_read_of_one_is_told_and_the_rest_of_it_holds() {
    let until = format!("{WEB}, until: tomorrow, serial: xyz");
    let world = snapshot(
        &(object("partly", "remora", &until)
            + &object("wholly", "remora", "serial: xyz")
            + &object("nobody", "remora", "reason: r")),
    );
    assert_eq!(world.revocations().len(), 1);
    let told: Vec<_> = world.statuses.iter().map(|status| conditions(status).join("\n")).collect();
    assert!(
        told[1].contains("PartiallyInvalid True Invalid spec.serial") && told[1].contains("does not end"),
        "{told:?}"
    );
    assert!(told[0].starts_with("Accepted False Invalid spec: names none of identity, serial and pod"), "{told:?}");
    assert!(told[2].starts_with("Accepted False Invalid spec.serial"), "{told:?}");
}

#[test]
fn of_too_many_the_first_hold_and_the_others_are_told() {
    let all: String = (0..=REVOCATIONS_MAX)
        .map(|i| object(&format!("r{i:04}"), "remora", &format!("serial: '{:x}'", i + 1)))
        .collect();
    let world = snapshot(&all);
    assert_eq!(world.revocations().len(), REVOCATIONS_MAX);
    let last = world.statuses.iter().find(|status| status.name == "r0512").unwrap();
    assert!(conditions(last)[0].starts_with("Accepted False TooMany"), "{:?}", conditions(last));
    assert!(conditions(&world.statuses[0])[0].starts_with("Accepted True"));
}

#[test]
fn pods_whose_proxies_are_too_old_are_named_as_long_as_they_are_there() {
    let mut world = snapshot(&object("stolen", "remora", WEB)).world;
    let mut told = |pods: &[&str], there: bool| {
        pods.iter().for_each(|pod| world.unable(pod, there));
        world.settle();
        conditions(world.statuses().next().unwrap())[1].clone()
    };
    let one = told(&["shop/web-1"], true);
    assert!(one.starts_with("Programmed True PartiallyProgrammed the proxies of shop/web-1 are too old"), "{one}");
    let many = told(&["a/1", "a/2", "a/3", "a/4", "a/5", "shop/web-1"], true);
    assert!(many.contains("a/1, a/2, a/3, a/4, a/5 and 1 more are too old"), "{many}");
    assert!(told(&["shop/web-1"], false).contains("and 1 more"), "another stream of that pod is there");
    assert_eq!(told(&["shop/web-1", "a/1", "a/2", "a/3", "a/4", "a/5"], false), "Programmed True Programmed");
}

#[test]
fn a_change_of_one_tells_all_who_asked_and_a_change_of_nothing_tells_nobody() {
    let mut world = World::new(mesh());
    let asked = Arc::new(Asked::Revocations);
    assert_eq!(world.ask(&asked), Answer::Revocations(Arc::default()));
    let put = |text: &str| parse(text, "test.yaml").whole().unwrap().into_iter().map(Change::Put).collect::<Vec<_>>();
    let mut told = Vec::new();
    let stolen = object("stolen", "remora", WEB);
    world.apply(put(&stolen), &mut |_, answer| told.push(answer));
    let Some(Answer::Revocations(held)) = told.pop() else { panic!("nobody was told") };
    assert_eq!((held.len(), told.len()), (1, 0));
    world.apply(put(&object("other", "shop", WEB)), &mut |_, answer| told.push(answer));
    world.apply(put(&stolen), &mut |_, answer| told.push(answer));
    assert!(told.is_empty(), "{told:?}");
    let gone = put(&stolen).into_iter().map(|change| match change {
        Change::Put(object) | Change::Gone(object) => Change::Gone(object),
    });
    world.apply(gone, &mut |_, answer| told.push(answer));
    assert_eq!(told, [Answer::Revocations(Arc::default())]);
}
