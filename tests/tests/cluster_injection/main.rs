//! Which pods get their sidecar, what becomes of those that cannot, and what happens while the injector is away. Needs the
//! mesh; some of these tests stop the injector for a moment or change its settings.

mod account;
mod away;
mod cost;
mod dry;
mod pods;

use remora_tests::cluster;
use std::process::ExitCode;

fn main() -> ExitCode {
    cluster::run(&[
        ("a_pods_word_wins_over_its_namespaces", pods::pod_wins),
        ("a_label_opts_a_namespace_in", pods::by_label),
        ("a_pod_without_sidecar_is_said_to_have_none", pods::skipped),
        ("mistakes_are_refused_with_the_nearest_name", pods::mistakes),
        ("an_injected_pod_is_left_as_it_is", pods::twice),
        ("the_sidecar_has_no_token_for_the_api_server", pods::no_api_token),
        ("probes_and_hooks_work_in_strict_mode", pods::strict_probes),
        ("what_others_change_in_the_webhook_configuration_is_put_right", account::put_right),
        ("the_injectors_account_writes_what_the_injector_writes_and_nothing_else", account::account),
        ("a_running_pod_cannot_be_taken_out_of_the_mesh", account::membership),
        ("a_namespace_is_called_for_within_a_second_of_its_annotation", cost::soon),
        ("pod_creation_is_delayed_by_milliseconds", cost::latency),
        ("a_pod_is_ready_two_kubelet_steps_later_at_most", cost::ready_later),
        ("without_the_injector_opted_in_pods_are_refused_and_others_are_not", away::away),
        ("certificates_rotate_and_no_pod_is_missed", away::rotation),
    ])
}
