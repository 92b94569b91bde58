//! Fuzz targets: one function per parser of the proxy, which runs it and asserts what its module promises. In: any bytes. Out:
//! nothing, or a panic. Built for tests, which replay `fuzz/corpus` and changes of it, and for `cargo fuzz` (which sets
//! `cfg(fuzzing)`); no other build has this module, so that no parser is public in what is shipped.
//!
//! What a target asserts beyond "no panic" is why it is there: that a cut changes nothing, that what was written is read
//! back, that what passes here is read alike by whoever reads behind it.

pub(crate) mod drive;

pub use crate::{
    detect::fuzzing::{client_hello, first_bytes},
    http::{
        context::fuzzing::trace_contexts,
        fuzzing::{grpc_fields, http1_answers, request_fields},
        guard::fuzzing::http1_requests,
    },
    init::fuzzing::{init_settings, netlink_answers},
    probe::fuzzing::probe_settings,
    telemetry::fuzzing::{filters, path_templates},
};

use crate::{
    connect::{name_destination, proxy_header},
    limits,
};
use drive::finish;

#[cfg(test)]
remora_replay::replays! {
    what_passes_the_gate_is_read_alike_by_hyper: http1_requests, 20_000;
    an_answer_that_passes_ends_where_hyper_ends_it: http1_answers, 20_000;
    more_bytes_never_change_what_was_detected: first_bytes, 20_000;
    a_client_hello_is_read_as_rustls_reads_it: client_hello, 20_000;
    a_destination_is_read_as_it_was_written: proxy_headers, 20_000;
    a_deadline_is_passed_on_and_never_lengthened: grpc_fields, 20_000;
    what_is_taken_off_a_request_is_gone: request_fields, 20_000;
    templates_are_bounded_and_harmless: path_templates, 20_000;
    a_filter_is_read_or_refused_at_its_place: filters, 20_000;
    an_answer_of_the_kernel_is_read_to_its_end: netlink_answers, 20_000;
    rules_are_written_as_the_kernel_reads_them: init_settings, 2_000;
    a_probe_that_is_taken_can_be_asked: probe_settings, 20_000;
    the_next_hop_reads_the_span_that_was_written_for_it: trace_contexts, 20_000;
}

/// The destination that a peer names (PROXY protocol v2): more bytes never change what was read, a header is as long as it
/// says and within bounds, and what we write of the same destination is read as the same.
pub fn proxy_headers(data: &[u8]) {
    use proxy_header::{Parsed, parse};
    let mut decided = None;
    for end in 0..=data.len().min(limits::PROXY_HEADER_BYTES_MAX + 1) {
        let now = parse(&data[..end]);
        if let Some(decided) = &decided {
            assert_eq!(&now, decided, "at {end}");
        }
        if let Parsed::Destination { length, .. } = now {
            assert!(length <= end && length <= limits::PROXY_HEADER_BYTES_MAX, "{length} of {end}");
        }
        decided = Some(now).filter(|now| *now != Parsed::Incomplete);
    }
    let Some(Parsed::Destination { to, .. }) = decided else { return };
    let endpoint = remora_model::Endpoint {
        address: to,
        identity: None,
        proxy: None,
        weight: 1,
        zone: "".into(),
        pod: "".into(),
        node: None,
    };
    let mut written = Vec::new();
    finish(name_destination(&mut written, &endpoint)).expect("a Vec takes all");
    assert_eq!(parse(&written), Parsed::Destination { to, length: written.len() });
}
