#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| remora_identity::fuzzing::signing_requests(data));
