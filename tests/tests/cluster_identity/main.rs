//! Identity in a real cluster: who is refused and why, who gets the trust anchors, who leads, how anchors rotate.

mod anchors;
mod caller;
mod outage;
mod refusals;
mod replicas;

use remora_tests::cluster;
use std::process::ExitCode;

fn main() -> ExitCode {
    cluster::run(&[
        ("each_token_that_proves_nothing_is_refused_by_name", refusals::tokens),
        ("a_request_for_somebody_elses_identity_is_refused", refusals::request),
        ("identity_takes_no_plaintext", refusals::plaintext),
        ("discovery_serves_nobody_in_anothers_name", refusals::subscription),
        ("a_pod_cannot_use_anothers_admin_port", refusals::admin_port),
        ("the_trust_anchors_are_kept_wherever_they_are_needed", anchors::kept),
        ("a_lost_issuer_secret_comes_back_as_it_was", anchors::restored),
        ("what_cert_manager_writes_rotates_roots_while_a_pod_of_an_old_template_starts", anchors::rotate),
        ("certificates_of_a_minute_survive_identity_killed_and_the_api_server_away", outage::outage),
        ("of_three_replicas_that_race_one_makes_the_issuer", replicas::race),
        ("leadership_is_handed_over_at_once_and_taken_over_when_it_lapses", replicas::lead),
    ])
}
