use super::*;
use http::Request;

const TRACE: u128 = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;
const SPAN: u64 = 0x00f0_67aa_0ba9_02b7;
const SHORT: u128 = 0xa3ce_929d_0e0e_4736;

fn head(fields: &[(&str, &str)]) -> HeaderMap {
    let request = fields.iter().fold(Request::get("/"), |request, (name, value)| request.header(*name, *value));
    request.body(()).unwrap().into_parts().0.headers
}

fn read(fields: &[(&str, &str)]) -> (Option<(u128, u64)>, Option<bool>) {
    let Context { caller, sampled, .. } = Context::read(&head(fields));
    (caller, sampled)
}

/// What is written for a span of the trace that was read, or of trace 5.
fn written(fields: &[(&str, &str)]) -> Vec<String> {
    let mut headers = head(fields);
    let context = Context::read(&headers);
    context.write(&mut headers, context.caller.map_or(5, |(trace, _)| trace), 0xabc);
    let mut lines: Vec<_> =
        headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    lines.sort();
    lines
}

#[test]
fn a_traceparent_is_read_as_w3c_says() {
    let good = (Some((TRACE, SPAN)), Some(true));
    let none = (None, None);
    for (value, expected) in [
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", good),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00", (good.0, Some(false))),
        // Other flags are of no consequence.
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03", good),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-fe", (good.0, Some(false))),
        // A newer version may say more behind, after a dash.
        ("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", good),
        ("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-comes", good),
        ("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.what", none),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more", none),
        ("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", none),
        ("00-00000000000000000000000000000000-00f067aa0ba902b7-01", none),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", none),
        ("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", none),
        ("00-4bf92f3577b34da6a3ce929d0e0e473-000f067aa0ba902b7-01", none),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1", none),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0g", none),
        ("0x-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", none),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7-01", none),
        ("", none),
        ("00", none),
    ] {
        assert_eq!(read(&[("traceparent", value)]), expected, "{value}");
    }
    let twice = ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    assert_eq!(read(&[twice, twice]), none, "of several none counts");
}

#[test]
fn b3_in_one_field_is_read_as_its_specification_says() {
    let long = Some((TRACE, SPAN));
    for (value, expected) in [
        ("4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1-05e3ac9a4f6e3b90", (long, Some(true))),
        ("4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1", (long, Some(true))),
        ("4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-d", (long, Some(true))),
        ("4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0", (long, Some(false))),
        ("4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7", (long, None)),
        ("4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-05e3ac9a4f6e3b90", (long, None)),
        ("a3ce929d0e0e4736-00f067aa0ba902b7-1", (Some((SHORT, SPAN)), Some(true))),
        ("0", (None, Some(false))),
        ("1", (None, Some(true))),
        ("d", (None, Some(true))),
        ("", (None, None)),
        ("true", (None, None)),
        ("4bf92f3577b34da6a3ce929d0e0e4736", (None, None)),
        ("4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-2", (None, None)),
        ("4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1-", (None, None)),
        ("4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1-05e3ac9a4f6e3b90-", (None, None)),
        ("4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-1", (None, None)),
        ("0000000000000000-00f067aa0ba902b7-1", (None, None)),
        ("A3CE929D0E0E4736-00f067aa0ba902b7-1", (None, None)),
    ] {
        assert_eq!(read(&[("b3", value)]), expected, "{value}");
    }
}

#[test]
fn b3_in_several_fields_is_read_as_its_specification_says() {
    let ids = [("x-b3-traceid", "a3ce929d0e0e4736"), ("x-b3-spanid", "00f067aa0ba902b7")];
    let caller = Some((SHORT, SPAN));
    for (more, expected) in [
        (&[][..], (caller, None)),
        (&[("x-b3-sampled", "1")], (caller, Some(true))),
        (&[("x-b3-sampled", "0")], (caller, Some(false))),
        (&[("x-b3-sampled", "true")], (caller, Some(true))),
        (&[("x-b3-sampled", "false")], (caller, Some(false))),
        (&[("x-b3-flags", "1")], (caller, Some(true))),
        (&[("x-b3-flags", "0"), ("x-b3-sampled", "0")], (caller, Some(false))),
        (&[("x-b3-sampled", "d")], (None, None)),
        (&[("x-b3-sampled", "yes")], (None, None)),
    ] {
        assert_eq!(read(&[&ids[..], more].concat()), expected, "{more:?}");
    }
    assert_eq!(read(&ids[..1]), (None, None), "a trace without a span is none");
    assert_eq!(read(&ids[1..]), (None, None));
    assert_eq!(read(&[("x-b3-sampled", "0")]), (None, Some(false)));
    assert_eq!(read(&[("x-b3-flags", "0")]), (None, None), "which says nothing");
}

#[test]
fn of_several_forms_w3cs_counts_then_b3_in_one_field() {
    let w3c = ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00");
    let (one, several) = (("b3", "a3ce929d0e0e4736-00f067aa0ba902b7-1"), ("x-b3-sampled", "0"));
    assert_eq!(read(&[several, one, w3c]), (Some((TRACE, SPAN)), Some(false)));
    assert_eq!(read(&[several, one]), (Some((SHORT, SPAN)), Some(true)));
    assert_eq!(read(&[("traceparent", "00-malformed"), one]), (Some((SHORT, SPAN)), Some(true)));
    assert_eq!(read(&[("b3", "malformed"), several]), (None, Some(false)));
}

#[test]
fn the_next_hop_is_told_in_the_forms_that_came() {
    for (fields, expected) in [
        // None came.
        (&[][..], &["traceparent: 00-00000000000000000000000000000005-0000000000000abc-01"][..]),
        (
            &[
                ("traceparent", "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more"),
                ("tracestate", "congo=t61rcWkgMzE"),
            ],
            &["traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000abc-01", "tracestate: congo=t61rcWkgMzE"],
        ),
        (
            &[("b3", "a3ce929d0e0e4736-00f067aa0ba902b7-1-05e3ac9a4f6e3b90")],
            &["b3: a3ce929d0e0e4736-0000000000000abc-1-00f067aa0ba902b7"],
        ),
        (
            &[("b3", "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-d")],
            &["b3: 4bf92f3577b34da6a3ce929d0e0e4736-0000000000000abc-d-00f067aa0ba902b7"],
        ),
        (&[("b3", "1")], &["b3: 00000000000000000000000000000005-0000000000000abc-1"]),
        (
            &[("x-b3-traceid", "a3ce929d0e0e4736"), ("x-b3-spanid", "00f067aa0ba902b7")],
            &[
                "x-b3-parentspanid: 00f067aa0ba902b7",
                "x-b3-sampled: 1",
                "x-b3-spanid: 0000000000000abc",
                "x-b3-traceid: a3ce929d0e0e4736",
            ],
        ),
        (
            &[("x-b3-flags", "1"), ("x-b3-parentspanid", "05e3ac9a4f6e3b90")],
            &["x-b3-flags: 1", "x-b3-spanid: 0000000000000abc", "x-b3-traceid: 00000000000000000000000000000005"],
        ),
        // One trace for whoever reads.
        (
            &[
                ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
                ("b3", "a3ce929d0e0e4736-05e3ac9a4f6e3b90-0"),
            ],
            &[
                "b3: 4bf92f3577b34da6a3ce929d0e0e4736-0000000000000abc-1-00f067aa0ba902b7",
                "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000abc-01",
            ],
        ),
    ] {
        assert_eq!(written(fields), expected, "{fields:?}");
    }
}

#[test]
fn a_new_trace_takes_the_place_of_one_that_cannot_be_read_with_its_states() {
    let fields = [
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more"),
        ("traceparent", "00-malformed"),
        ("tracestate", "congo=t61rcWkgMzE"),
        ("tracestate", "rojo=00f067aa0ba902b7"),
        ("accept", "*/*"),
    ];
    let expected = ["accept: */*", "traceparent: 00-00000000000000000000000000000005-0000000000000abc-01"];
    assert_eq!(written(&fields), expected);
}
